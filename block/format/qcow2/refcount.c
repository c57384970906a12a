#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/event.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Which host clusters are in use (Spec, "Host cluster management").
 *
 * The refcount table is in memory, its blocks by slices in the cache. A block that
 * does not exist counts zeros: everything it would cover is free. A new block lies in
 * the first cluster of what it covers and counts itself; a table that has become too
 * short moves behind all that is covered, with blocks for its own place.
 *
 * Finding free clusters is a scan from free_hint, below which nothing is free.
 * Clusters that lose a reference wait in "pending" until no table on disk refers to
 * them (cache.c tells why), so what the scan finds may be filled at once.
 */

enum { PENDING_MAX = 1024 };

/* ---- entries
 * ------------------------------------------------------------------------- */

uint64_t qcow2_refs_get(unsigned order, const uint8_t *p, uint64_t index)
{
    switch (order) {
    case 0: return (p[index / 8] >> (index % 8)) & 1;
    case 1: return (p[index / 4] >> (2 * (index % 4))) & 3;
    case 2: return (p[index / 2] >> (4 * (index % 2))) & 15;
    case 3: return p[index];
    case 4: return be16_get(p + 2 * index);
    case 5: return be32_get(p + 4 * index);
    default: return be64_get(p + 8 * index);
    }
}

static void put_bits(uint8_t *p, unsigned shift, unsigned mask, uint64_t value)
{
    *p = (uint8_t)((*p & ~(mask << shift)) | (value & mask) << shift);
}

void qcow2_refs_put(unsigned order, uint8_t *p, uint64_t index, uint64_t value)
{
    switch (order) {
    case 0: put_bits(p + index / 8, index % 8, 1, value); break;
    case 1: put_bits(p + index / 4, 2 * (index % 4), 3, value); break;
    case 2: put_bits(p + index / 2, 4 * (index % 2), 15, value); break;
    case 3: p[index] = (uint8_t)value; break;
    case 4: be16_put(p + 2 * index, (uint16_t)value); break;
    case 5: be32_put(p + 4 * index, (uint32_t)value); break;
    default: be64_put(p + 8 * index, value); break;
    }
}

/* The part of a refcount block in one slice. */
struct refs {
    uint8_t *slice; /* NULL: no block, all zero */
    uint64_t at;    /* in the file              */
    uint64_t first; /* cluster of entry 0       */
    uint64_t count;
};

static int refs_of(struct qcow2 *q, uint64_t cluster, struct refs *ret)
{
    uint64_t per_slice = (UINT64_C(8) << q->slice_bits) >> q->refcount_order;
    uint64_t index = cluster >> q->refblock_bits;
    uint64_t block = index < q->rt_size ? q->rt[index] & ~QCOW2_RT_RESERVED : 0;
    *ret = (struct refs){.first = ALIGN_DOWN(cluster, UINT64_C(1) << q->refblock_bits),
                         .count = UINT64_C(1) << q->refblock_bits};
    if (!block) {
        return 0;
    }
    if (!qcow2_aligned(q, block)) {
        return qcow2_corrupt(
            q, "Refblock offset %#" PRIx64 " unaligned (reftable index: %#" PRIx64 ")",
            block, index);
    }
    uint64_t in = cluster - ret->first;
    ret->first += ALIGN_DOWN(in, per_slice);
    ret->count = per_slice;
    ret->at = block + (ALIGN_DOWN(in, per_slice) << q->refcount_order) / 8;
    return slices_get(q->cache, QCOW2_SLICE_REFS, ret->at, &ret->slice);
}

int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *ret)
{
    struct refs refs;
    int r = refs_of(q, cluster, &refs);
    if (r == 0) {
        *ret = refs.slice
                   ? qcow2_refs_get(q->refcount_order, refs.slice, cluster - refs.first)
                   : 0;
    }
    return r;
}

/* ---- blocks
 * ---------------------------------------------------------------------------- */

static void rt_set(struct qcow2 *q, uint64_t index, uint64_t value)
{
    q->rt[index] = value;
    if (q->rt_dirty_from == q->rt_dirty_to) {
        q->rt_dirty_from = (uint32_t)index;
        q->rt_dirty_to = (uint32_t)index + 1;
    } else {
        q->rt_dirty_from = MIN(q->rt_dirty_from, (uint32_t)index);
        q->rt_dirty_to = MAX(q->rt_dirty_to, (uint32_t)index + 1);
    }
}

/* A refcount block at cluster @at, the first that block @index covers, for which @own
 * clusters from there are in use. */
static int write_new_block(struct qcow2 *q, uint64_t at, uint64_t own)
{
    g_autofree uint8_t *buf = g_try_malloc0(q->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < own; i++) {
        qcow2_refs_put(q->refcount_order, buf, i, 1);
    }
    slices_forget(q->cache, at << q->cluster_bits, q->cluster_size);
    blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC_WRITE);
    return blk_pwrite(q->file, at << q->cluster_bits, buf, q->cluster_size);
}

/*
 * A longer refcount table, for block @index at least: blocks and table go behind
 * everything that the old one covers.
 */
static int grow_rt(struct qcow2 *q, uint64_t index)
{
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    uint64_t per_table_cluster = q->cluster_size / 8;
    uint64_t start = MAX((uint64_t)q->rt_size, index) << q->refblock_bits;
    uint64_t blocks = 1, table = 1, size;
    for (;;) { /* until blocks and table have room in what they cover */
        size = (start >> q->refblock_bits) + blocks;
        uint64_t want = MAX(size, (uint64_t)q->rt_size + q->rt_size / 2);
        table = (want + per_table_cluster - 1) / per_table_cluster;
        uint64_t need = (blocks + table + per_block - 1) / per_block;
        if (need <= blocks) {
            break;
        }
        blocks = need;
    }
    uint64_t entries = table * per_table_cluster;
    if (entries * 8 > MAX(QCOW2_MAX_RT_BYTES, q->cluster_size) ||
        (start + blocks + table) > ((uint64_t)INT64_MAX >> q->cluster_bits)) {
        return -EFBIG;
    }
    g_autofree uint64_t *rt = g_try_malloc0(entries * 8);
    if (!rt) {
        return -ENOMEM;
    }
    memcpy(rt, q->rt, q->rt_size * 8ull);
    blk_event(q->file, BLK_EVENT_REFTABLE_GROW);
    blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC_WRITE_BLOCKS);
    uint64_t used = blocks + table;
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < blocks; i++) {
        g_autofree uint8_t *buf = g_try_malloc0(q->cluster_size);
        uint64_t n = MIN(used - MIN(used, i * per_block), per_block);
        for (uint64_t k = 0; buf && k < n; k++) {
            qcow2_refs_put(q->refcount_order, buf, k, 1);
        }
        uint64_t at = (start + i) << q->cluster_bits;
        slices_forget(q->cache, at, q->cluster_size);
        r = buf ? blk_pwrite(q->file, at, buf, q->cluster_size) : -ENOMEM;
        rt[(start >> q->refblock_bits) + i] = at;
    }
    uint64_t offset = (start + blocks) << q->cluster_bits;
    r = r ? r : slices_write(q->cache, QCOW2_SLICE_REFS);
    blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC_WRITE_TABLE);
    r = r ? r : qcow2_write_table(q, offset, rt, (uint32_t)entries);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    uint8_t fields[12];
    be64_put(fields, offset);
    be32_put(fields + 8, (uint32_t)table);
    blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
    r = r ? r : blk_pwrite(q->file, 48, fields, sizeof(fields));
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    uint64_t old = q->rt_offset, old_len = (uint64_t)q->rt_clusters << q->cluster_bits;
    g_free(q->rt);
    q->rt = g_steal_pointer(&rt);
    q->rt_size = (uint32_t)entries;
    q->rt_offset = offset;
    q->rt_clusters = (uint32_t)table;
    q->rt_dirty_from = q->rt_dirty_to = 0;
    return old_len ? qcow2_free_now(q, old, old_len) : 0;
}

/* A refcount block for every cluster of the range; *ret_made when one was put into it
 * or near, so that who looked for free clusters looks again. */
static int ensure_blocks(struct qcow2 *q, uint64_t first, uint64_t count,
                         bool *ret_made)
{
    *ret_made = false;
    for (uint64_t i = first >> q->refblock_bits;
         i <= (first + count - 1) >> q->refblock_bits; i++) {
        blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC);
        if (i < q->rt_size && (q->rt[i] & ~QCOW2_RT_RESERVED)) {
            continue;
        }
        *ret_made = true;
        if (i >= q->rt_size) {
            int r = grow_rt(q, i);
            if (r < 0) {
                return r;
            }
            if (q->rt[i]) {
                continue;
            }
        }
        uint64_t at = i << q->refblock_bits;
        const char *over =
            qcow2_overlap(q, at << q->cluster_bits, q->cluster_size, true);
        if (over) {
            return qcow2_corrupt(q,
                                 "Preventing invalid allocation of refcount block at "
                                 "offset %#" PRIx64 " (overlaps with %s)",
                                 at << q->cluster_bits, over);
        }
        int r = write_new_block(q, at, 1);
        if (r < 0) {
            return r;
        }
        rt_set(q, i, at << q->cluster_bits);
    }
    return 0;
}

/* ---- counting
 * -------------------------------------------------------------------------- */

int qcow2_refcount_add(struct qcow2 *q, uint64_t first, uint64_t count, int delta)
{
    for (int pass = 0; pass < 2; pass++) { /* see that all can be done, then do it */
        for (uint64_t c = first; c < first + count;) {
            struct refs refs;
            int r = refs_of(q, c, &refs);
            if (r < 0) {
                return r;
            }
            uint64_t end = MIN(first + count, refs.first + refs.count);
            if (!refs.slice) {
                return -EIO; /* nobody counted these */
            }
            for (; c < end; c++) {
                uint64_t i = c - refs.first;
                uint64_t n = qcow2_refs_get(q->refcount_order, refs.slice, i);
                if (delta < 0 ? n < (uint64_t)-delta
                              : q->refcount_max - n < (uint64_t)delta) {
                    return delta < 0 ? -EIO : -ENOSPC;
                }
                if (pass) {
                    n += (uint64_t)(int64_t)delta;
                    qcow2_refs_put(q->refcount_order, refs.slice, i, n);
                    if (n == 0 && c < q->free_hint) {
                        q->free_hint = c;
                    }
                }
            }
            if (pass) {
                slices_dirty(q->cache, refs.at);
            }
        }
    }
    return 0;
}

int qcow2_free_now(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    uint64_t first = qcow2_cluster_of(q, offset);
    uint64_t last = qcow2_cluster_of(q, offset + len - 1);
    blk_event(q->file, BLK_EVENT_CLUSTER_FREE);
    if (q->free_byte && qcow2_cluster_of(q, q->free_byte) >= first &&
        qcow2_cluster_of(q, q->free_byte) <= last) {
        q->free_byte = 0;
    }
    return qcow2_refcount_add(q, first, last - first + 1, -1);
}

/* Clusters that nobody counts any more become holes of the file. Advice: what fails is
 * no error. */
static void discard_free(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t run = 0, refs;
    for (uint64_t i = 0; i <= count; i++) {
        bool unused =
            i < count && qcow2_refcount(q, first + i, &refs) == 0 && refs == 0;
        uint64_t at = (first + i - run) << q->cluster_bits;
        uint64_t len = run << q->cluster_bits, end = q->file->content_len;
        if (!unused && run && at < end) {
            blk_run(q->file, BLK_DISCARD, at, NULL, 0, MIN(len, end - at), 0);
        }
        run = unused ? run + 1 : 0;
    }
}

int qcow2_apply_pending(struct qcow2 *q)
{
    int ret = 0;
    for (unsigned i = 0; i < q->pending->len; i++) {
        struct qcow2_pending *p = &g_array_index(q->pending, struct qcow2_pending, i);
        int r =
            qcow2_free_now(q, p->first << q->cluster_bits, p->count << q->cluster_bits);
        ret = ret ? ret : r;
        if (r == 0 && q->pass_discards) {
            discard_free(q, p->first, p->count);
        }
    }
    g_array_set_size(q->pending, 0);
    /* What could not be uncounted is a leak: check tells, the guest need not. */
    return ret == -EIO ? 0 : ret;
}

int qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    uint64_t first = qcow2_cluster_of(q, offset);
    uint64_t count = qcow2_cluster_of(q, offset + len - 1) - first + 1;
    struct qcow2_pending *last =
        q->pending->len
            ? &g_array_index(q->pending, struct qcow2_pending, q->pending->len - 1)
            : NULL;
    if (last && last->first + last->count == first) {
        last->count += count;
        return 0;
    }
    if (q->pending->len >= PENDING_MAX) {
        int r = qcow2_writeback(q);
        if (r < 0) {
            return r;
        }
    }
    struct qcow2_pending p = {first, count};
    g_array_append_val(q->pending, p);
    return 0;
}

int qcow2_free_entry(struct qcow2 *q, const struct qcow2_entry *e)
{
    uint64_t offset = e->desc & QCOW2_OFFSET_MASK, len = q->cluster_size;
    if (e->desc & QCOW2_COMPRESSED) {
        qcow2_packed_place(q, e->desc, &offset, &len);
    } else if (!offset || q->data != q->file || !qcow2_aligned(q, offset)) {
        return 0;
    }
    return qcow2_free_later(q, offset, len);
}

/* ---- finding
 * ----------------------------------------------------------------------------- */

/* The first run of free clusters from @from, at least @least and at most @count long.
 */
static int find_free(struct qcow2 *q, uint64_t from, uint64_t count, uint64_t least,
                     uint64_t *ret_first, uint64_t *ret_got)
{
    uint64_t limit = INT64_MAX >> q->cluster_bits, run = 0;
    limit = MIN(limit, QCOW2_OFFSET_MASK >> q->cluster_bits);
    for (uint64_t c = from; c < limit;) {
        struct refs refs;
        int r = refs_of(q, c, &refs);
        if (r < 0) {
            return r;
        }
        uint64_t end = MIN(refs.first + refs.count, limit);
        for (; c < end; c++) {
            bool used = refs.slice && qcow2_refs_get(q->refcount_order, refs.slice,
                                                     c - refs.first) != 0;
            if (!used && ++run == count) {
                *ret_first = c + 1 - run;
                *ret_got = run;
                return 0;
            }
            if (used) {
                if (run >= least) {
                    *ret_first = c - run;
                    *ret_got = run;
                    return 0;
                }
                run = 0;
            }
        }
    }
    return -EFBIG;
}

static int claim(struct qcow2 *q, uint64_t count, uint64_t least, uint64_t *ret_first,
                 uint64_t *ret_got)
{
    bool made = true;
    uint64_t first = 0, got = 0;
    for (unsigned tries = 0; made; tries++) {
        int r = find_free(q, q->free_hint, count, least, &first, &got);
        if (r == 0) {
            r = ensure_blocks(q, first, got, &made);
        }
        if (r < 0) {
            return r;
        }
        if (tries > 64) {
            return -EIO;
        }
    }
    const char *over = first == 0 ? "header"
                                  : qcow2_overlap(q, first << q->cluster_bits,
                                                  got << q->cluster_bits, true);
    if (over) {
        return qcow2_corrupt(q,
                             "Preventing invalid allocation of cluster at offset "
                             "%#" PRIx64 " (overlaps with %s)",
                             first << q->cluster_bits, over);
    }
    *ret_first = first;
    *ret_got = got;
    return 0;
}

static int alloc(struct qcow2 *q, uint64_t count, uint64_t least, uint64_t *ret_offset,
                 uint64_t *ret_got)
{
    uint64_t first = 0, got = 0, before = q->free_hint;
    int r = claim(q, count, least, &first, &got);
    r = r ? r : qcow2_refcount_add(q, first, got, 1);
    if (r < 0) {
        return r;
    }
    if (least == 1 || first == before) {
        q->free_hint = first + got; /* with least 1 nothing free was passed over */
    }
    *ret_offset = first << q->cluster_bits;
    if (ret_got) {
        *ret_got = got;
    }
    return 0;
}

int qcow2_alloc(struct qcow2 *q, uint64_t count, uint64_t least, uint64_t *ret_offset,
                uint64_t *ret_got)
{
    blk_event(q->file, BLK_EVENT_CLUSTER_ALLOC);
    return alloc(q, count, least, ret_offset, ret_got);
}

int qcow2_alloc_bytes(struct qcow2 *q, uint64_t len, uint64_t *ret_offset)
{
    uint64_t mask = q->cluster_size - 1, at = q->free_byte, fresh = 0, refs = 0;
    blk_event(q->file, BLK_EVENT_CLUSTER_ALLOC_BYTES);
    if (at) {
        int r = qcow2_refcount(q, qcow2_cluster_of(q, at), &refs);
        if (r < 0) {
            return r;
        }
        if (refs >= q->refcount_max) {
            at = 0;
        }
    }
    uint64_t room = at ? q->cluster_size - (at & mask) : 0;
    if (len > room) {
        int r = alloc(q, 1, 1, &fresh, NULL);
        if (r < 0) {
            return r;
        }
        if (room && fresh == at + room) { /* it follows: the bytes go over the border */
            r = qcow2_refcount_add(q, qcow2_cluster_of(q, at), 1, 1);
        } else {
            at = fresh;
        }
        if (r < 0) {
            qcow2_free_now(q, fresh, q->cluster_size);
            return r;
        }
    } else {
        int r = qcow2_refcount_add(q, qcow2_cluster_of(q, at), 1, 1);
        if (r < 0) {
            return r;
        }
    }
    *ret_offset = at;
    q->free_byte = (at + len) & mask ? at + len : 0;
    return 0;
}

/* ---- overlaps
 * ------------------------------------------------------------------------------ */

static bool meets(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && a < b + b_len && b < a + a_len;
}

const char *qcow2_overlap(const struct qcow2 *q, uint64_t offset, uint64_t len,
                          bool all)
{
    if (offset < q->cluster_size) {
        return "main header";
    }
    if (meets(offset, len, q->l1_offset, q->l1_size * 8ull)) {
        return "active L1 table";
    }
    if (meets(offset, len, q->rt_offset, q->rt_size * 8ull)) {
        return "refcount table";
    }
    if (meets(offset, len, q->snapshots_offset, q->snapshots_bytes)) {
        return "snapshot table";
    }
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        const struct qcow2_snapshot *s =
            &g_array_index(q->snapshots, struct qcow2_snapshot, i);
        if (meets(offset, len, s->l1_offset, s->l1_size * 8ull)) {
            return "inactive L1 table";
        }
    }
    for (uint32_t i = 0; all && i < q->l1_size; i++) {
        uint64_t at = q->l1[i] & QCOW2_OFFSET_MASK;
        if (at && meets(offset, len, at, q->cluster_size)) {
            return "active L2 table";
        }
    }
    for (uint32_t i = 0; all && i < q->rt_size; i++) {
        uint64_t at = q->rt[i] & ~QCOW2_RT_RESERVED;
        if (at && meets(offset, len, at, q->cluster_size)) {
            return "refcount block";
        }
    }
    return NULL;
}
