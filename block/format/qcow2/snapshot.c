#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Snapshots inside the image (Spec, "Snapshots"). A snapshot is a copy of the L1 table;
 * every L2 table and cluster it leads to counts one reference more, which takes the
 * COPIED flags away and so makes the next write copy.
 *
 * Every switch is one write of the header: the new snapshot table, or the new active
 * L1 table, is complete on disk before, and what the old one held is let go after. A
 * power cut leaves the state before or after, and leaks.
 */

enum { EXTRA_MAX = 1024, EXTRA_KNOWN = 24, ENTRY_HEAD = 40 };

void qcow2_free_snapshots(struct qcow2 *q)
{
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        g_free(g_array_index(q->snapshots, struct qcow2_snapshot, i).extra);
    }
    g_array_set_size(q->snapshots, 0);
}

/* ---- the table ---------------------------------------------------------------------
 */

static int read_exact(struct qcow2 *q, uint64_t offset, void *buf, uint64_t len)
{
    if (!ck_range(offset, len, blk_length(q->file))) {
        memset(buf, 0, len);
        uint64_t length = blk_length(q->file);
        return offset < length ? blk_pread(q->file, offset, buf, length - offset) : 0;
    }
    return blk_pread(q->file, offset, buf, len);
}

static void take_string(char *to, size_t room, const uint8_t *from, size_t len)
{
    size_t n = MIN(len, room - 1);
    memcpy(to, from, n);
    to[n] = '\0';
}

/* The variable part behind the head: extra data, id and name. */
static void take_tail(struct qcow2 *q, struct qcow2_snapshot *s, const uint8_t *tail,
                      uint32_t extra, uint16_t id_len, uint16_t name_len)
{
    if (extra >= 8) {
        s->info.vm_state_size = be64_get(tail);
    }
    s->info.disk_size = extra >= 16 ? be64_get(tail + 8) : q->size;
    s->has_icount = extra >= 24;
    s->info.icount = s->has_icount ? be64_get(tail + 16) : UINT64_MAX;
    if (extra > EXTRA_KNOWN) {
        s->extra_len = extra - EXTRA_KNOWN;
        s->extra = g_memdup2(tail + EXTRA_KNOWN, s->extra_len);
    }
    take_string(s->info.id, sizeof(s->info.id), tail + extra, id_len);
    take_string(s->info.name, sizeof(s->info.name), tail + extra + id_len, name_len);
}

bool qcow2_read_snapshots(struct qcow2 *q, GError **error)
{
    uint64_t at = q->snapshots_offset;
    if (!qcow2_table_fits(q, "Snapshot table", q->snapshots_offset, q->nb_snapshots,
                          ENTRY_HEAD, (uint64_t)QCOW2_MAX_SNAPSHOTS * ENTRY_HEAD,
                          error)) {
        return false;
    }
    for (uint32_t i = 0; i < q->nb_snapshots; i++) {
        uint8_t h[ENTRY_HEAD];
        at = ALIGN_UP(at, 8);
        int r = read_exact(q, at, h, sizeof(h));
        if (r < 0) {
            return error_errno(error, -r, "Failed to read snapshot table");
        }
        uint16_t id_len = be16_get(h + 12), name_len = be16_get(h + 14);
        uint32_t extra = be32_get(h + 36);
        if (extra > EXTRA_MAX) {
            return error_msg(
                error, "Too much extra metadata in snapshot table entry %" PRIu32, i);
        }
        uint64_t tail = (uint64_t)extra + id_len + name_len;
        g_autofree uint8_t *buf = g_malloc(tail + 1);
        r = read_exact(q, at + ENTRY_HEAD, buf, tail);
        if (r < 0) {
            return error_errno(error, -r, "Failed to read snapshot table");
        }
        at += ENTRY_HEAD + tail;
        if (at - q->snapshots_offset > QCOW2_MAX_SNAPTAB_BYTES) {
            return error_msg(error, "Snapshot table is too big");
        }
        struct qcow2_snapshot s = {
            .l1_offset = be64_get(h),
            .l1_size = be32_get(h + 8),
            .info = {.date_sec = be32_get(h + 16),
                     .date_nsec = be32_get(h + 20),
                     .vm_clock_nsec = be64_get(h + 24),
                     .vm_state_size = be32_get(h + 32)},
        };
        take_tail(q, &s, buf, extra, id_len, name_len);
        g_array_append_val(q->snapshots, s);
    }
    q->snapshots_bytes = at - q->snapshots_offset;
    return true;
}

static void put_snapshot(GByteArray *out, const struct qcow2_snapshot *s)
{
    uint8_t h[ENTRY_HEAD + EXTRA_KNOWN] = {0};
    uint32_t known = s->has_icount || s->extra_len ? EXTRA_KNOWN : 16;
    size_t id_len = strlen(s->info.id), name_len = strlen(s->info.name);
    be64_put(h, s->l1_offset);
    be32_put(h + 8, s->l1_size);
    be16_put(h + 12, (uint16_t)id_len);
    be16_put(h + 14, (uint16_t)name_len);
    be32_put(h + 16, s->info.date_sec);
    be32_put(h + 20, s->info.date_nsec);
    be64_put(h + 24, s->info.vm_clock_nsec);
    be32_put(h + 32,
             s->info.vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->info.vm_state_size);
    be32_put(h + 36, known + s->extra_len);
    be64_put(h + 40, s->info.vm_state_size);
    be64_put(h + 48, s->info.disk_size);
    be64_put(h + 56, s->info.icount);
    g_byte_array_append(out, h, ENTRY_HEAD + known);
    if (s->extra_len) {
        g_byte_array_append(out, s->extra, s->extra_len);
    }
    g_byte_array_append(out, (const uint8_t *)s->info.id, (guint)id_len);
    g_byte_array_append(out, (const uint8_t *)s->info.name, (guint)name_len);
}

/* A new table, then the header that points to it, then the old one's clusters. */
int qcow2_write_snapshots(struct qcow2 *q)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    static const uint8_t zeros[8];
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        g_byte_array_append(out, zeros, (8 - out->len % 8) % 8);
        put_snapshot(out, &g_array_index(q->snapshots, struct qcow2_snapshot, i));
    }
    uint64_t at = 0;
    int r = 0;
    if (out->len) {
        uint64_t n = qcow2_clusters_for(q, out->len);
        r = qcow2_alloc(q, n, n, &at, NULL);
        r = r ? r : blk_pwrite(q->file, at, out->data, out->len);
    }
    r = r ? r : qcow2_writeback(q);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    uint8_t fields[12];
    be32_put(fields, q->snapshots->len);
    be64_put(fields + 4, at);
    r = r ? r : blk_pwrite(q->file, 60, fields, sizeof(fields));
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    if (q->snapshots_bytes) {
        qcow2_free_now(q, q->snapshots_offset, q->snapshots_bytes);
    }
    q->nb_snapshots = q->snapshots->len;
    q->snapshots_offset = at;
    q->snapshots_bytes = out->len;
    return 0;
}

/* ---- references
 * ---------------------------------------------------------------------- */

/* A run of clusters that all get the same change. */
struct run {
    uint64_t first, count;
};

static int run_end(struct qcow2 *q, struct run *run, int delta)
{
    int r = run->count ? qcow2_refcount_add(q, run->first, run->count, delta) : 0;
    run->count = 0;
    return r;
}

static int run_add(struct qcow2 *q, struct run *run, uint64_t first, uint64_t count,
                   int delta)
{
    if (run->count && run->first + run->count == first) {
        run->count += count;
        return 0;
    }
    int r = run_end(q, run, delta);
    *run = (struct run){first, count};
    return r;
}

static int count_entry(struct qcow2 *q, const struct qcow2_entry *e, int delta,
                       struct run *run)
{
    uint64_t place = e->desc & QCOW2_OFFSET_MASK, len;
    if (e->desc & QCOW2_COMPRESSED) {
        qcow2_packed_place(q, e->desc, &place, &len);
        uint64_t first = qcow2_cluster_of(q, place);
        int r = run_end(q, run, delta); /* neighbours share clusters */
        return r ? r
                 : qcow2_refcount_add(q, first,
                                      qcow2_cluster_of(q, place + len - 1) - first + 1,
                                      delta);
    }
    if (!place) {
        return 0;
    }
    if (!qcow2_aligned(q, place)) {
        return qcow2_corrupt(q, "Cluster offset %#" PRIx64 " unaligned in an L2 table",
                             place);
    }
    return run_add(q, run, qcow2_cluster_of(q, place), 1, delta);
}

/* The entry with its flag as the count says; whether it changed. */
static int flag_entry(struct qcow2 *q, struct qcow2_entry *e, int delta, bool *ret)
{
    uint64_t place = e->desc & QCOW2_OFFSET_MASK, refs = 2, old = e->desc;
    *ret = false;
    if ((e->desc & QCOW2_COMPRESSED) || !place) {
        return 0;
    }
    int r = delta > 0 ? 0 : qcow2_refcount(q, qcow2_cluster_of(q, place), &refs);
    e->desc = refs == 1 ? old | QCOW2_COPIED : old & ~QCOW2_COPIED;
    *ret = e->desc != old;
    return r;
}

static int refs_of_slice(struct qcow2 *q, uint64_t at, int delta, bool active)
{
    g_autofree uint8_t *copy = g_try_malloc(UINT64_C(1) << q->slice_bits);
    struct run run = {0};
    uint8_t *slice;
    int r = copy ? slices_get(q->cache, QCOW2_SLICE_TABLE, at, &slice) : -ENOMEM;
    if (r < 0) {
        return r;
    }
    memcpy(copy, slice, UINT64_C(1) << q->slice_bits);
    for (unsigned i = 0; r == 0 && delta && i < qcow2_slice_entries(q); i++) {
        struct qcow2_entry e = qcow2_entry_get(q, copy, i);
        r = count_entry(q, &e, delta, &run);
    }
    r = r ? r : delta ? run_end(q, &run, delta) : 0;
    bool any = false;
    for (unsigned i = 0; r == 0 && active && i < qcow2_slice_entries(q); i++) {
        struct qcow2_entry e = qcow2_entry_get(q, copy, i);
        bool changed;
        r = flag_entry(q, &e, delta, &changed);
        if (r == 0 && changed) {
            qcow2_entry_put(q, copy, i, &e);
            any = true;
        }
    }
    if (r == 0 && any) {
        r = slices_get(q->cache, QCOW2_SLICE_TABLE, at, &slice);
        if (r == 0) {
            memcpy(slice, copy, UINT64_C(1) << q->slice_bits);
            slices_dirty(q->cache, at);
        }
    }
    return r;
}

int qcow2_refs_of_l1(struct qcow2 *q, uint64_t *l1, uint32_t l1_size, int delta,
                     bool active)
{
    for (uint32_t i = 0; i < l1_size; i++) {
        uint64_t at = l1[i] & QCOW2_OFFSET_MASK, refs;
        int r = 0;
        if (!at) {
            continue;
        }
        if (!qcow2_aligned(q, at)) {
            return qcow2_corrupt(
                q, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx32 ")",
                at, i);
        }
        for (uint64_t in = 0; r == 0 && in < q->cluster_size;
             in += UINT64_C(1) << q->slice_bits) {
            r = refs_of_slice(q, at + in, delta, active);
        }
        if (r == 0 && delta) {
            r = qcow2_refcount_add(q, qcow2_cluster_of(q, at), 1, delta);
        }
        r = r ? r : qcow2_refcount(q, qcow2_cluster_of(q, at), &refs);
        if (r < 0) {
            return r;
        }
        if (refs == 0) {
            slices_forget(q->cache, at, q->cluster_size);
        }
        if (active) {
            l1[i] = refs == 1 ? at | QCOW2_COPIED : at;
        }
    }
    if (active) {
        q->l1_dirty_from = 0;
        q->l1_dirty_to = q->l1_size;
    }
    return 0;
}

/* ---- operations
 * ------------------------------------------------------------------------ */

static int index_of(const struct qcow2 *q, const char *id)
{
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        if (g_str_equal(g_array_index(q->snapshots, struct qcow2_snapshot, i).info.id,
                        id)) {
            return (int)i;
        }
    }
    return -1;
}

static GArray *list_snapshots(struct blk *b)
{
    const struct qcow2 *q = b->priv;
    GArray *list = g_array_new(FALSE, FALSE, sizeof(struct blk_snapshot));
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        g_array_append_val(list,
                           g_array_index(q->snapshots, struct qcow2_snapshot, i).info);
    }
    return list;
}

static bool may_change(struct qcow2 *q, GError **error)
{
    if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
        return error_errno(error, ENOTSUP,
                           "an image with an external data file has no "
                           "internal snapshots");
    }
    int r = qcow2_writeback(q);
    return r == 0 || error_errno(error, -r, "cannot write the tables back");
}

/* L1 table @l1 to new clusters; its place, or -errno. */
static int store_l1(struct qcow2 *q, const uint64_t *l1, uint32_t size, uint64_t *ret)
{
    uint64_t n = qcow2_clusters_for(q, MAX(size, 1) * 8ull);
    int r = qcow2_alloc(q, n, n, ret, NULL);
    return r ? r : qcow2_write_table(q, *ret, l1, size);
}

static void choose_id(const struct qcow2 *q, struct blk_snapshot *sn)
{
    unsigned long most = 0;
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        const char *id = g_array_index(q->snapshots, struct qcow2_snapshot, i).info.id;
        most = MAX(most, strtoul(id, NULL, 10));
    }
    g_snprintf(sn->id, sizeof(sn->id), "%lu", most + 1);
}

static bool create_snapshot(struct blk *b, struct blk_snapshot *sn, GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_snapshot s = {.l1_size = q->l1_size, .has_icount = true};
    if (q->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        return error_errno(error, EFBIG, "there are %d snapshots already",
                           QCOW2_MAX_SNAPSHOTS);
    }
    if (!may_change(q, error)) {
        return false;
    }
    if (!*sn->id) {
        choose_id(q, sn);
    }
    if (index_of(q, sn->id) >= 0) {
        return error_errno(error, EEXIST, "snapshot id '%s'", sn->id);
    }
    int r = store_l1(q, q->l1, q->l1_size, &s.l1_offset);
    if (r == 0) {
        r = qcow2_refs_of_l1(q, q->l1, q->l1_size, 1, true);
    }
    if (r < 0) {
        return error_errno(error, -r, "Failed to count the references of the snapshot");
    }
    sn->disk_size = q->size;
    s.info = *sn;
    g_array_append_val(q->snapshots, s);
    r = qcow2_write_snapshots(q);
    if (r < 0) {
        g_array_set_size(q->snapshots, q->snapshots->len - 1);
        qcow2_refs_of_l1(q, q->l1, q->l1_size, -1, true);
        qcow2_free_now(q, s.l1_offset, MAX(q->l1_size, 1) * 8ull);
        return error_errno(error, -r, "Failed to write the snapshot table");
    }
    r = qcow2_writeback(q);
    return r == 0 || error_errno(error, -r, "cannot write the tables back");
}

static uint64_t *snapshot_l1(struct qcow2 *q, const struct qcow2_snapshot *s,
                             uint64_t least, GError **error)
{
    int err = 0;
    if (!qcow2_table_fits(q, "Snapshot L1 table", s->l1_offset, s->l1_size, 8,
                          QCOW2_MAX_L1_BYTES, error)) {
        return NULL;
    }
    uint64_t *l1 = qcow2_read_table(q, s->l1_offset, s->l1_size, &err);
    if (l1 && least > s->l1_size) {
        l1 = g_realloc(l1, least * 8);
        memset(l1 + s->l1_size, 0, (least - s->l1_size) * 8);
    }
    if (!l1) {
        error_errno(error, -err, "Could not read the L1 table of snapshot '%s'",
                    s->info.id);
    }
    return l1;
}

/* The fields of the active L1 table and the size, in the order of the header. */
static int switch_l1(struct qcow2 *q)
{
    uint8_t fields[24];
    be64_put(fields, q->size);
    be32_put(fields + 8, q->crypt_method);
    be32_put(fields + 12, q->l1_size);
    be64_put(fields + 16, q->l1_offset);
    int r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    r = r ? r : blk_pwrite(q->file, 24, fields, sizeof(fields));
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static bool apply_snapshot(struct blk *b, const char *id, GError **error)
{
    struct qcow2 *q = b->priv;
    int i = index_of(q, id);
    if (i < 0) {
        return error_errno(error, ENOENT, "snapshot '%s'", id);
    }
    const struct qcow2_snapshot *s =
        &g_array_index(q->snapshots, struct qcow2_snapshot, i);
    uint64_t need = qcow2_l1_entries(q, s->info.disk_size);
    if (s->info.disk_size > INT64_MAX || need > QCOW2_MAX_L1_BYTES / 8) {
        return error_errno(error, EFBIG, "snapshot '%s' is of a disk too large", id);
    }
    if (!may_change(q, error)) {
        return false;
    }
    uint32_t size = (uint32_t)MAX(MAX(need, s->l1_size), 1);
    g_autofree uint64_t *fresh = snapshot_l1(q, s, size, error);
    if (!fresh) {
        return false;
    }
    uint64_t at;
    int r = qcow2_refs_of_l1(q, fresh, size, 1, false);
    r = r ? r : store_l1(q, fresh, size, &at);
    r = r ? r : qcow2_writeback(q);
    if (r < 0) {
        return error_errno(error, -r, "Failed to count the references of the snapshot");
    }
    g_autofree uint64_t *old = q->l1;
    uint64_t old_at = q->l1_offset;
    uint32_t old_size = q->l1_size;
    q->l1 = g_steal_pointer(&fresh);
    q->l1_size = size;
    q->l1_offset = at;
    q->size = s->info.disk_size;
    r = switch_l1(q);
    if (r < 0) {
        return error_errno(error, -r,
                           "Failed to switch to the L1 table of the snapshot");
    }
    b->content_len = q->size;
    r = qcow2_refs_of_l1(q, old, old_size, -1, false);
    if (r == 0 && old_size) {
        r = qcow2_free_now(q, old_at, old_size * 8ull);
    }
    r = r ? r : qcow2_refs_of_l1(q, q->l1, q->l1_size, 0, true);
    r = r ? r : qcow2_writeback(q);
    return r == 0 || error_errno(error, -r, "Failed to let go of the old state");
}

static bool remove_snapshot(struct blk *b, const char *id, GError **error)
{
    struct qcow2 *q = b->priv;
    int i = index_of(q, id);
    if (i < 0) {
        return error_errno(error, ENOENT, "snapshot '%s'", id);
    }
    if (!may_change(q, error)) {
        return false;
    }
    struct qcow2_snapshot s = g_array_index(q->snapshots, struct qcow2_snapshot, i);
    g_autofree uint64_t *l1 = snapshot_l1(q, &s, 0, error);
    if (!l1) {
        return false;
    }
    g_array_remove_index(q->snapshots, (guint)i);
    int r = qcow2_write_snapshots(q);
    if (r < 0) {
        g_array_insert_val(q->snapshots, (guint)i, s);
        return error_errno(error, -r, "Failed to remove snapshot from snapshot list");
    }
    g_free(s.extra);
    r = qcow2_refs_of_l1(q, l1, s.l1_size, -1, false);
    if (r == 0 && s.l1_size) {
        r = qcow2_free_now(q, s.l1_offset, s.l1_size * 8ull);
    }
    r = r ? r : qcow2_refs_of_l1(q, q->l1, q->l1_size, 0, true);
    r = r ? r : qcow2_writeback(q);
    return r == 0 ||
           error_errno(error, -r, "Failed to free the clusters of the snapshot");
}

static bool load_snapshot(struct blk *b, const char *id, GError **error)
{
    struct qcow2 *q = b->priv;
    int i = index_of(q, id);
    if (i < 0) {
        return error_errno(error, ENOENT, "snapshot '%s'", id);
    }
    const struct qcow2_snapshot *s =
        &g_array_index(q->snapshots, struct qcow2_snapshot, i);
    uint64_t need = qcow2_l1_entries(q, s->info.disk_size);
    if (s->info.disk_size > INT64_MAX || need > QCOW2_MAX_L1_BYTES / 8) {
        return error_errno(error, EFBIG, "snapshot '%s' is of a disk too large", id);
    }
    uint32_t size = (uint32_t)MAX(need, s->l1_size);
    uint64_t *l1 = snapshot_l1(q, s, size, error);
    if (!l1) {
        return false;
    }
    g_free(q->l1);
    q->l1 = l1;
    q->l1_size = size;
    q->size = s->info.disk_size;
    q->loaded_snapshot = true;
    b->content_len = q->size;
    return true;
}

const struct blk_snapshot_ops qcow2_snapshot_ops = {
    .list = list_snapshots,
    .create = create_snapshot,
    .apply = apply_snapshot,
    .remove = remove_snapshot,
    .load = load_snapshot,
};
