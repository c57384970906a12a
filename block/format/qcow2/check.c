#include "block/format/qcow2/qcow2_check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Checking: count all references again, from the header down, and compare with the
 * refcounts on disk; then see that the COPIED flags say what the refcounts say.
 *
 *     fewer on disk than counted  an error: the cluster could be given away twice
 *     more on disk than counted   a leak: lost space, no harm
 *
 * Counts are kept in pages that exist where something was counted, so that a file that
 * only pretends to be huge costs nothing. Repair sets single counts; when counts have
 * no block to be in, the whole structure is made anew behind everything in use and the
 * header switched over to it.
 */

static void tell(struct checker *k, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static void tell(struct checker *k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (k->c->report) {
        k->c->report(k->c->opaque, true, line);
    }
}

/* ---- counts
 * -------------------------------------------------------------------------- */

void *qcow2_count_page(struct checker *k, uint64_t cluster, bool make)
{
    uint64_t number = cluster >> QCOW2_PAGE_BITS;
    if (k->last_page && k->last_number == number) {
        return k->last_page;
    }
    void *page = g_hash_table_lookup(k->pages, &number);
    if (!page && make) {
        page = g_try_malloc0((k->wide ? 4u : 2u) << QCOW2_PAGE_BITS);
        if (page) {
            g_hash_table_insert(k->pages, g_memdup2(&number, sizeof(number)), page);
        }
    }
    k->last_number = number;
    k->last_page = page;
    return page;
}

uint64_t qcow2_counted(struct checker *k, uint64_t cluster)
{
    const void *page = qcow2_count_page(k, cluster, false);
    uint64_t i = cluster & ((1u << QCOW2_PAGE_BITS) - 1);
    return !page     ? 0
           : k->wide ? ((const uint32_t *)page)[i]
                     : ((const uint16_t *)page)[i];
}

static int count_up(struct checker *k, uint64_t cluster)
{
    void *page = qcow2_count_page(k, cluster, true);
    uint64_t i = cluster & ((1u << QCOW2_PAGE_BITS) - 1);
    if (!page) {
        k->c->result.check_errors++;
        return -ENOMEM;
    }
    uint64_t n = k->wide ? ((uint32_t *)page)[i] : ((uint16_t *)page)[i];
    if (n >= k->q->refcount_max || n >= (k->wide ? UINT32_MAX : UINT16_MAX)) {
        tell(k, "ERROR: overflow cluster offset=0x%" PRIx64,
             cluster << k->q->cluster_bits);
        k->c->result.corruptions++;
        return 0;
    }
    if (k->wide) {
        ((uint32_t *)page)[i]++;
    } else {
        ((uint16_t *)page)[i]++;
    }
    return 0;
}

/* One more reference for each cluster of the range. */
static int count_range(struct checker *k, uint64_t offset, uint64_t len)
{
    uint64_t end;
    if (!len) {
        return 0;
    }
    if (!ck_add(offset, len, &end) ||
        (end > k->file_len && end - k->file_len >= k->q->cluster_size)) {
        tell(k,
             "ERROR: counting reference for region exceeding the end of the file by "
             "one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64,
             offset, len);
        k->c->result.corruptions++;
        return 0;
    }
    int r = 0;
    for (uint64_t c = qcow2_cluster_of(k->q, offset);
         r == 0 && c <= qcow2_cluster_of(k->q, end - 1); c++) {
        r = count_up(k, c);
    }
    return r;
}

/* ---- walking
 * ---------------------------------------------------------------------------- */

static int walk_entry(struct checker *k, const struct qcow2_entry *e, bool active)
{
    struct qcow2 *q = k->q;
    uint64_t place = e->desc & QCOW2_OFFSET_MASK, len;
    struct blk_check_result *res = &k->c->result;
    if (e->desc & QCOW2_COMPRESSED) {
        qcow2_packed_place(q, e->desc, &place, &len);
        if (e->desc & QCOW2_COPIED) {
            tell(k,
                 "ERROR: coffset=0x%" PRIx64
                 ": copied flag must never be set for compressed clusters",
                 place);
            res->corruptions++;
        }
        if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
            tell(k,
                 "ERROR compressed cluster %" PRIx64
                 " is not allowed with an external data file",
                 place);
            res->corruptions++;
            return 0;
        }
        if (active) {
            res->compressed_clusters++;
            res->allocated_clusters++;
            res->fragmented_clusters++; /* packed, so never contiguous */
        }
        return count_range(k, place, len);
    }
    if (q->extended && (e->bitmap & (e->bitmap >> 32) & QCOW2_SUB_ALL_ALLOC)) {
        tell(k,
             "ERROR offset=%" PRIx64 ": Allocated cluster has corrupted subcluster "
             "allocation bitmap",
             place);
        res->corruptions++;
        return 0;
    }
    bool external = q->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    if (!place && !(external && (e->desc & QCOW2_COPIED))) {
        if (q->extended && (e->bitmap & QCOW2_SUB_ALL_ALLOC)) {
            tell(k,
                 "ERROR: Unallocated cluster has non-zero subcluster allocation map");
            res->corruptions++;
        }
        return 0;
    }
    if (active) {
        res->allocated_clusters++;
        if (k->next_contiguous && place != k->next_contiguous) {
            res->fragmented_clusters++;
        }
        k->next_contiguous = place + q->cluster_size;
    }
    if (!qcow2_aligned(q, place)) {
        tell(k,
             "ERROR offset=%" PRIx64
             ": Cluster is not properly aligned; L2 entry corrupted.",
             place);
        res->corruptions++;
        return external ? 0 : count_range(k, place, q->cluster_size);
    }
    return external ? 0 : count_range(k, place, q->cluster_size);
}

static int read_cluster(struct qcow2 *q, uint64_t at, uint8_t *buf)
{
    uint64_t length = blk_length(q->file);
    uint64_t has = at < length ? MIN(q->cluster_size, length - at) : 0;
    memset(buf + has, 0, q->cluster_size - has);
    return has ? blk_pread(q->file, at, buf, has) : 0;
}

static int walk_l2(struct checker *k, uint64_t at, bool active)
{
    struct qcow2 *q = k->q;
    g_autofree uint8_t *buf = g_try_malloc(q->cluster_size);
    int r = buf ? read_cluster(q, at, buf) : -ENOMEM;
    if (r < 0) {
        tell(k, "ERROR: I/O error in check_refcounts_l2");
        k->c->result.check_errors++;
        return r;
    }
    k->next_contiguous = 0;
    for (unsigned i = 0; r == 0 && i < 1u << q->l2_bits; i++) {
        struct qcow2_entry e = qcow2_entry_get(q, buf, i);
        r = walk_entry(k, &e, active);
    }
    return r;
}

static int walk_l1(struct checker *k, uint64_t offset, const uint64_t *l1,
                   uint32_t size, bool active)
{
    int r = count_range(k, offset, size * 8ull);
    for (uint32_t i = 0; r == 0 && i < size; i++) {
        uint64_t at = l1[i] & QCOW2_OFFSET_MASK;
        if (!l1[i]) {
            continue;
        }
        if (l1[i] & QCOW2_L1_RESERVED) {
            tell(k, "ERROR found L1 entry with reserved bits set: %" PRIx64, l1[i]);
            k->c->result.corruptions++;
        }
        if (!at) {
            continue;
        }
        r = count_range(k, at, k->q->cluster_size);
        if (!qcow2_aligned(k->q, at)) {
            tell(k,
                 "ERROR l2_offset=%" PRIx64
                 ": Table is not cluster aligned; L1 entry corrupted",
                 at);
            k->c->result.corruptions++;
        }
        if (r == 0 && at < k->file_len) {
            r = walk_l2(k, at, active);
        }
    }
    return r;
}

static int walk_snapshots(struct checker *k)
{
    struct qcow2 *q = k->q;
    if (q->snapshots_lost) {
        tell(k, "ERROR snapshot table at 0x%" PRIx64 " cannot be read",
             q->snapshots_offset);
        k->c->result.corruptions++;
        return 0;
    }
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        const struct qcow2_snapshot *s =
            &g_array_index(q->snapshots, struct qcow2_snapshot, i);
        int r = 0;
        if (!qcow2_table_fits(q, "", s->l1_offset, s->l1_size, 8, QCOW2_MAX_L1_BYTES,
                              NULL)) {
            tell(k,
                 "ERROR snapshot %s (%s) l1_offset=%#" PRIx64 " l1_size=%#" PRIx32
                 ": L1 table is not cluster aligned or too large; snapshot table entry "
                 "corrupted",
                 s->info.id, s->info.name, s->l1_offset, s->l1_size);
            k->c->result.corruptions++;
            continue;
        }
        g_autofree uint64_t *l1 = qcow2_read_table(q, s->l1_offset, s->l1_size, &r);
        r = l1 ? walk_l1(k, s->l1_offset, l1, s->l1_size, false) : r;
        if (r < 0) {
            return r;
        }
    }
    return q->snapshots_bytes ? count_range(k, q->snapshots_offset, q->snapshots_bytes)
                              : 0;
}

static int walk_refcounts(struct checker *k)
{
    struct qcow2 *q = k->q;
    int r = count_range(k, q->rt_offset, (uint64_t)q->rt_clusters << q->cluster_bits);
    for (uint32_t i = 0; r == 0 && i < q->rt_size; i++) {
        uint64_t at = q->rt[i] & ~QCOW2_RT_RESERVED;
        if (!at) {
            continue;
        }
        if (!qcow2_aligned(q, at) || (q->rt[i] & QCOW2_RT_RESERVED)) {
            tell(k,
                 "ERROR refcount block %" PRIu32
                 " is not cluster aligned; refcount table entry corrupted",
                 i);
            k->c->result.corruptions++;
            k->rebuild = true;
            continue;
        }
        if (at >= k->file_len) {
            tell(k, "ERROR refcount block %" PRIu32 " is outside image", i);
            k->c->result.corruptions++;
            k->rebuild = true;
            continue;
        }
        r = count_range(k, at, q->cluster_size);
        if (r == 0 && qcow2_counted(k, qcow2_cluster_of(q, at)) != 1) {
            tell(k, "ERROR refcount block %" PRIu32 " refcount=%" PRIu64, i,
                 qcow2_counted(k, qcow2_cluster_of(q, at)));
            k->c->result.corruptions++;
            k->rebuild = true;
        }
    }
    return r;
}

/* The bitmaps extension names clusters that we do not look into but must not lose. */
static int walk_bitmaps(struct checker *k)
{
    struct qcow2 *q = k->q;
    uint64_t bytes = q->bitmaps_at[1], at = q->bitmaps_at[2];
    if (!q->bitmaps_at[0] || bytes > 65535 * 1024ull) {
        return 0;
    }
    int r = count_range(k, at, bytes);
    g_autofree uint8_t *dir = g_try_malloc0(bytes + 24);
    uint64_t length = blk_length(q->file);
    if (r || !dir || at >= length) {
        return r ? r : dir ? 0 : -ENOMEM;
    }
    r = blk_pread(q->file, at, dir, MIN(bytes, length - at));
    for (uint64_t in = 0; r == 0 && in + 24 <= bytes;) {
        const uint8_t *e = dir + in;
        uint64_t table = be64_get(e);
        uint32_t entries = be32_get(e + 8);
        if (entries > QCOW2_MAX_L1_BYTES / 8) {
            break;
        }
        g_autofree uint64_t *t = qcow2_read_table(q, table, entries, &r);
        r = r ? r : count_range(k, table, entries * 8ull);
        for (uint32_t i = 0; r == 0 && i < entries; i++) {
            if (t[i] & QCOW2_OFFSET_MASK) {
                r = count_range(k, t[i] & QCOW2_OFFSET_MASK, q->cluster_size);
            }
        }
        in += ALIGN_UP((uint64_t)24 + be16_get(e + 18) + be32_get(e + 20), 8);
    }
    return r;
}

int qcow2_count_all(struct checker *k)
{
    struct qcow2 *q = k->q;
    k->c->result.total_clusters = qcow2_clusters_for(q, q->size);
    int r = count_range(k, 0, q->cluster_size);
    r = r ? r : walk_l1(k, q->l1_offset, q->l1, q->l1_size, true);
    r = r ? r : walk_snapshots(k);
    r = r ? r : walk_bitmaps(k);
    r = r ? r : count_range(k, q->crypt_at, q->crypt_len);
    return r ? r : walk_refcounts(k);
}

/* ---- comparing
 * --------------------------------------------------------------------------- */

static int set_refcount(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
    uint64_t index = cluster >> q->refblock_bits, at;
    uint64_t in = cluster & ((UINT64_C(1) << q->refblock_bits) - 1);
    uint8_t *slice;
    if (index >= q->rt_size || !(q->rt[index] & ~QCOW2_RT_RESERVED)) {
        return -ENOENT;
    }
    uint64_t per_slice = (UINT64_C(8) << q->slice_bits) >> q->refcount_order;
    at = (q->rt[index] & ~QCOW2_RT_RESERVED) +
         (ALIGN_DOWN(in, per_slice) << q->refcount_order) / 8;
    int r = slices_get(q->cache, QCOW2_SLICE_REFS, at, &slice);
    if (r == 0) {
        qcow2_refs_put(q->refcount_order, slice, in & (per_slice - 1), value);
        slices_dirty(q->cache, at);
    }
    return r;
}

static int compare_one(struct checker *k, uint64_t cluster, uint64_t on_disk)
{
    struct blk_check_result *res = &k->c->result;
    uint64_t counted = qcow2_counted(k, cluster), *fixed = NULL;
    if (on_disk || counted) {
        k->highest = cluster;
    }
    if (on_disk == counted) {
        return 0;
    }
    if (on_disk == 0) {
        k->rebuild = true; /* what else is missing there? */
    } else if (on_disk > counted && (k->fix & BLK_FIX_LEAKS)) {
        fixed = &res->leaks_fixed;
    } else if (on_disk < counted && (k->fix & BLK_FIX_ERRORS)) {
        fixed = &res->corruptions_fixed;
    }
    tell(k, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
         fixed               ? "Repairing"
         : on_disk < counted ? "ERROR"
                             : "Leaked",
         cluster, on_disk, counted);
    if (fixed) {
        int r = set_refcount(k->q, cluster, counted);
        if (r == 0) {
            ++*fixed;
        }
        return r;
    }
    if (on_disk < counted) {
        res->corruptions++;
    } else {
        res->leaks++;
    }
    return 0;
}

static int compare_uncovered(struct checker *k, uint64_t first, uint64_t count)
{
    for (uint64_t p = first >> QCOW2_PAGE_BITS;
         p <= (first + count - 1) >> QCOW2_PAGE_BITS; p++) {
        if (!g_hash_table_lookup(k->pages, &p)) {
            continue;
        }
        uint64_t from = MAX(first, p << QCOW2_PAGE_BITS);
        uint64_t to = MIN(first + count, (p + 1) << QCOW2_PAGE_BITS);
        for (uint64_t c = from; c < to; c++) {
            int r = compare_one(k, c, 0);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

static int compare_block(struct checker *k, uint64_t at, uint64_t first, uint64_t end)
{
    struct qcow2 *q = k->q;
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    g_autofree uint8_t *buf = g_try_malloc(q->cluster_size);
    int r = buf ? read_cluster(q, at, buf) : -ENOMEM;
    for (uint64_t i = 0; r == 0 && i < per_block && first + i < end; i++) {
        r = compare_one(k, first + i, qcow2_refs_get(q->refcount_order, buf, i));
    }
    return r;
}

static int compare_all(struct checker *k)
{
    struct qcow2 *q = k->q;
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    /* What is behind the end of the file and not used is of no interest. */
    uint64_t clusters = qcow2_clusters_for(q, k->file_len);
    clusters += qcow2_counted(k, clusters) != 0;
    uint64_t blocks = (clusters + per_block - 1) / per_block;
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < blocks; i++) {
        uint64_t at = i < q->rt_size ? q->rt[i] & ~QCOW2_RT_RESERVED : 0;
        if (at && qcow2_aligned(q, at) && at < k->file_len) {
            r = compare_block(k, at, i * per_block, clusters);
        } else {
            uint64_t rest = clusters - i * per_block;
            r = compare_uncovered(k, i * per_block,
                                  i < q->rt_size ? MIN(per_block, rest) : rest);
            if (i >= q->rt_size) {
                break; /* that was all of the rest */
            }
        }
    }
    k->c->result.image_end_offset = (k->highest + 1) << q->cluster_bits;
    return r;
}

/* ---- flags
 * ------------------------------------------------------------------------------- */

/* What a flag should be; *ret_fix when it is wrong and to be put right. */
static void judge_flag(struct checker *k, uint64_t entry, uint64_t refs, bool *ret_fix,
                       const char *what)
{
    bool copied = entry & QCOW2_COPIED;
    if ((refs == 1) == copied) {
        return;
    }
    *ret_fix = k->c->fix & BLK_FIX_ERRORS;
    tell(k, "%s OFLAG_COPIED %s=%" PRIx64 " refcount=%" PRIu64,
         *ret_fix ? "Repairing" : "ERROR", what, entry, refs);
    if (*ret_fix) {
        k->c->result.corruptions_fixed++;
    } else {
        k->c->result.corruptions++;
    }
}

/* The count on disk; what was counted is the same when nothing differed, and is in
 * memory. */
static int refs_on_disk(struct checker *k, uint64_t cluster, uint64_t *ret)
{
    const struct blk_check_result *res = &k->c->result;
    if (res->corruptions || res->leaks || res->corruptions_fixed || res->leaks_fixed) {
        return qcow2_refcount(k->q, cluster, ret);
    }
    *ret = qcow2_counted(k, cluster);
    return 0;
}

static int flags_of_l2(struct checker *k, uint64_t at)
{
    struct qcow2 *q = k->q;
    g_autofree uint8_t *buf = g_try_malloc(q->cluster_size);
    int r = buf ? read_cluster(q, at, buf) : -ENOMEM;
    bool any = false;
    for (unsigned i = 0; r == 0 && i < 1u << q->l2_bits; i++) {
        struct qcow2_entry e = qcow2_entry_get(q, buf, i);
        uint64_t place = e.desc & QCOW2_OFFSET_MASK, refs;
        bool fix = false;
        if ((e.desc & QCOW2_COMPRESSED) || !place || !qcow2_aligned(q, place) ||
            (q->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
            continue;
        }
        r = refs_on_disk(k, qcow2_cluster_of(q, place), &refs);
        if (r == 0) {
            judge_flag(k, e.desc, refs, &fix, "data cluster: l2_entry");
        }
        if (fix) {
            e.desc ^= QCOW2_COPIED;
            qcow2_entry_put(q, buf, i, &e);
            any = true;
        }
    }
    if (r == 0 && any) {
        slices_forget(q->cache, at, q->cluster_size);
        r = blk_pwrite(q->file, at, buf, q->cluster_size);
    }
    return r;
}

static int check_flags(struct checker *k)
{
    struct qcow2 *q = k->q;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < q->l1_size; i++) {
        uint64_t at = q->l1[i] & QCOW2_OFFSET_MASK, refs;
        bool fix = false;
        if (!at || !qcow2_aligned(q, at) || at >= k->file_len) {
            continue;
        }
        r = refs_on_disk(k, qcow2_cluster_of(q, at), &refs);
        if (r == 0) {
            g_autofree char *what =
                g_strdup_printf("L2 cluster: l1_index=%" PRIu32 " l1_entry", i);
            judge_flag(k, q->l1[i], refs, &fix, what);
            if (fix) {
                q->l1[i] ^= QCOW2_COPIED;
                r = qcow2_write_table(q, q->l1_offset + i * 8ull, &q->l1[i], 1);
            }
        }
        r = r ? r : flags_of_l2(k, at);
    }
    return r;
}

static void checker_reset(struct checker *k)
{
    g_hash_table_remove_all(k->pages);
    k->last_page = NULL;
    k->highest = 0;
    k->next_contiguous = 0;
    k->rebuild = false;
}

/* ---- the check
 * ------------------------------------------------------------------------------- */

static int check_once(struct checker *k)
{
    checker_reset(k);
    int r = qcow2_count_all(k);
    k->walked = k->c->result;
    k->fix = 0;
    return r ? r : compare_all(k);
}

/* The comparison again, repairing single counts. */
static int repair_counts(struct checker *k)
{
    struct blk_check_result *res = &k->c->result;
    if (k->rebuild) {
        tell(k, "ERROR need to rebuild refcount structures");
        return -EIO;
    }
    if (!res->corruptions && !res->leaks) {
        return 0;
    }
    *res = k->walked;
    k->fix = k->c->fix;
    return compare_all(k);
}

/*
 * After a rebuild: the clusters of the old structure are given back, which is no news;
 * what else there is counts against what was found before.
 */
static int check_rebuilt(struct checker *k)
{
    struct blk_check_result *res = &k->c->result, before = *res;
    tell(k, "Rebuilding refcount structure");
    int r = qcow2_rebuild_refcounts(k);
    if (r < 0) {
        return r;
    }
    *res = (struct blk_check_result){0};
    checker_reset(k);
    r = qcow2_count_all(k);
    struct blk_check_result walked = *res;
    if (r == 0 && (k->c->fix & BLK_FIX_LEAKS)) {
        k->fix = BLK_FIX_LEAKS;
        r = compare_all(k);
        walked.image_end_offset = res->image_end_offset;
        *res = walked;
        if (k->rebuild) {
            tell(k, "ERROR rebuilt refcount structure is still broken");
        }
    }
    res->corruptions_fixed =
        before.corruptions_fixed + (before.corruptions > res->corruptions
                                        ? before.corruptions - res->corruptions
                                        : 0);
    res->leaks_fixed = before.leaks_fixed +
                       (before.leaks > res->leaks ? before.leaks - res->leaks : 0);
    return r;
}

static int mark_sound(struct qcow2 *q)
{
    uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    int r = qcow2_writeback(q);
    if (r == 0 && (q->incompatible & bits)) {
        r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
        q->incompatible &= ~bits;
        r = r ? r : qcow2_write_features(q);
    }
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static int run_check(struct qcow2 *q, struct blk_check *c)
{
    struct checker k = {
        .q = q,
        .c = c,
        .file_len = blk_length(q->file),
        .wide = q->refcount_order > 4,
        .pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free),
    };
    if (c->fix && q->incompatible & QCOW2_INCOMPAT_CORRUPT) {
        q->corrupt_told = true;
    }
    int r = check_once(&k);
    if (r == 0 && c->fix) {
        r = k.rebuild && (c->fix & BLK_FIX_ERRORS) ? check_rebuilt(&k)
                                                   : repair_counts(&k);
    }
    r = r ? r : qcow2_writeback(q);
    r = r ? r : check_flags(&k);
    if (r == 0 && c->fix && c->result.corruptions == 0 && c->result.check_errors == 0) {
        r = mark_sound(q);
    }
    g_hash_table_destroy(k.pages);
    q->free_hint = 1;
    q->free_byte = 0;
    return r;
}

static int qcow2_check(struct blk *b, struct blk_check *c)
{
    struct qcow2 *q = b->priv;
    int r = b->read_only ? 0 : qcow2_writeback(q);
    return r ? r : run_check(q, c);
}

static void tell_warn(void *opaque, bool error, const char *line)
{
    blk_warn(opaque, "%s", line);
}

bool qcow2_repair_dirty(struct qcow2 *q, GError **error)
{
    struct blk_check c = {
        .fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS, .report = tell_warn, .opaque = q->b};
    int r = run_check(q, &c);
    if (r < 0) {
        return error_errno(error, -r, "Could not repair dirty image");
    }
    return c.result.corruptions == 0 && c.result.check_errors == 0
               ? true
               : error_msg(error,
                           "Could not repair dirty image: %" PRIu64 " errors are left",
                           c.result.corruptions + c.result.check_errors);
}

const struct blk_check_ops qcow2_check_ops = {.check = qcow2_check};
