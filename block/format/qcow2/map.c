#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/codec/codec.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Where a guest offset is (Spec, "Cluster mapping", "Extended L2 Entries"):
 *
 *     offset = | L1 index | L2 index | in cluster |
 *
 * The L1 table is in memory as a whole, L2 tables by slices in the cache. What an entry
 * says is decided in one place, qcow2_kind(), for one subcluster; an extent is the
 * longest run of subclusters of one kind whose places follow each other.
 */

uint64_t *qcow2_read_table(struct qcow2 *q, uint64_t offset, uint32_t entries,
                           int *ret_err)
{
    uint64_t bytes = entries * 8ull, length = blk_length(q->file);
    uint64_t has = offset < length ? MIN(bytes, length - offset) : 0;
    uint64_t *t = g_try_malloc0(MAX(bytes, 8));
    *ret_err = t ? 0 : -ENOMEM;
    if (t && has) {
        *ret_err = blk_pread(q->file, offset, t, has);
    }
    if (*ret_err) {
        g_free(t);
        return NULL;
    }
    for (uint32_t i = 0; i < entries; i++) {
        t[i] = be64_get(&t[i]);
    }
    return t;
}

int qcow2_write_table(struct qcow2 *q, uint64_t offset, const uint64_t *table,
                      uint32_t entries)
{
    g_autofree uint64_t *t = g_try_malloc(MAX(entries * 8ull, 8));
    if (!t) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < entries; i++) {
        be64_put(&t[i], table[i]);
    }
    return blk_pwrite(q->file, offset, t, entries * 8ull);
}

unsigned qcow2_slice_entries(const struct qcow2 *q)
{
    return (1u << q->slice_bits) / q->entry_bytes;
}

struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const uint8_t *slice,
                                   unsigned index)
{
    const uint8_t *p = slice + (size_t)index * q->entry_bytes;
    return (struct qcow2_entry){be64_get(p), q->extended ? be64_get(p + 8) : 0};
}

void qcow2_entry_put(const struct qcow2 *q, uint8_t *slice, unsigned index,
                     const struct qcow2_entry *e)
{
    uint8_t *p = slice + (size_t)index * q->entry_bytes;
    be64_put(p, e->desc);
    if (q->extended) {
        be64_put(p + 8, e->bitmap);
    }
}

static bool has_place(const struct qcow2 *q, uint64_t desc)
{
    return (desc & QCOW2_OFFSET_MASK) != 0 ||
           (q->data != q->file && (desc & QCOW2_COPIED));
}

enum qcow2_cluster qcow2_kind(const struct qcow2 *q, const struct qcow2_entry *e,
                              unsigned sub)
{
    bool place = has_place(q, e->desc);
    if (e->desc & QCOW2_COMPRESSED) {
        return QCOW2_PACKED;
    }
    if (!q->extended) {
        if (e->desc & QCOW2_ZERO) {
            return place ? QCOW2_ZERO_SPACE : QCOW2_ZERO_PLAIN;
        }
        return place ? QCOW2_DATA : QCOW2_UNALLOCATED;
    }
    bool alloc = e->bitmap & QCOW2_SUB_ALLOC(sub);
    bool zero = e->bitmap & QCOW2_SUB_ZERO(sub);
    if (alloc) {
        return zero || !place ? QCOW2_BAD : QCOW2_DATA;
    }
    if (zero) {
        return place ? QCOW2_ZERO_SPACE : QCOW2_ZERO_PLAIN;
    }
    return place ? QCOW2_UNALLOCATED_SPACE : QCOW2_UNALLOCATED;
}

void qcow2_packed_place(const struct qcow2 *q, uint64_t desc, uint64_t *ret_offset,
                        uint64_t *ret_len)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t offset = desc & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((desc & (QCOW2_COMPRESSED - 1)) >> x) + 1;
    *ret_offset = offset;
    *ret_len = sectors * 512 - (offset & 511);
}

int qcow2_l2_slice(struct qcow2 *q, uint64_t offset, bool cached, uint8_t **ret_slice,
                   unsigned *ret_index, uint64_t *ret_at)
{
    uint64_t cluster = qcow2_cluster_of(q, offset), l1 = cluster >> q->l2_bits;
    unsigned index = (unsigned)(cluster & ((UINT64_C(1) << q->l2_bits) - 1));
    *ret_slice = NULL;
    *ret_index = index & (qcow2_slice_entries(q) - 1);
    *ret_at = 0;
    uint64_t table = l1 < q->l1_size ? q->l1[l1] & QCOW2_OFFSET_MASK : 0;
    if (!table) {
        return 0;
    }
    if (!qcow2_aligned(q, table)) {
        return qcow2_corrupt(
            q, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx64 ")", table,
            l1);
    }
    *ret_at = table + ALIGN_DOWN((uint64_t)index * q->entry_bytes,
                                 UINT64_C(1) << q->slice_bits);
    if (cached) {
        *ret_slice = slices_peek(q->cache, *ret_at);
        return *ret_slice ? 0 : -EAGAIN;
    }
    return slices_get(q->cache, QCOW2_SLICE_TABLE, *ret_at, ret_slice);
}

/* ---- extents ------------------------------------------------------------------------
 */

static int map_packed(struct qcow2 *q, uint64_t offset, uint64_t len, uint64_t desc,
                      struct blk_extent *ret)
{
    uint64_t start = ALIGN_DOWN(offset, q->cluster_size);
    if (q->data != q->file) {
        return qcow2_corrupt(q,
                             "compressed cluster entry found in image with external "
                             "data file (guest offset: %#" PRIx64 ")",
                             offset);
    }
    *ret = (struct blk_extent){
        .kind = BLK_EXT_COMPRESSED,
        .len = MIN(len, start + q->cluster_size - offset),
        .child = q->file,
        .guest_start = start,
        .guest_len = q->cluster_size,
        .codec = q->compression ? &blk_codec_zstd : &blk_codec_deflate,
    };
    qcow2_packed_place(q, desc, &ret->offset, &ret->stored_len);
    return 0;
}

/* Kind and place of the subcluster at @offset; -EIO for what cannot be. */
static int judge(struct qcow2 *q, uint64_t offset, const struct qcow2_entry *e,
                 enum qcow2_cluster kind)
{
    uint64_t place = e->desc & QCOW2_OFFSET_MASK;
    if (kind == QCOW2_BAD) {
        return qcow2_corrupt(q,
                             "Invalid subcluster bitmap of the L2 entry for guest "
                             "offset %#" PRIx64,
                             offset);
    }
    if (place & (q->cluster_size - 1)) {
        return qcow2_corrupt(
            q, "%s cluster offset %#" PRIx64 " unaligned (guest offset: %#" PRIx64 ")",
            kind == QCOW2_ZERO_SPACE ? "Preallocated zero" : "Cluster", place, offset);
    }
    if (!q->extended && q->version < 3 && (e->desc & QCOW2_ZERO)) {
        return qcow2_corrupt(q,
                             "Zero cluster entry found in pre-v3 image (guest offset: "
                             "%#" PRIx64 ")",
                             offset);
    }
    uint64_t guest = ALIGN_DOWN(offset, q->cluster_size);
    if (q->data != q->file && has_place(q, e->desc) && place != guest) {
        return qcow2_corrupt(q,
                             "External data file host cluster offset %#" PRIx64
                             " does not match guest cluster offset: %#" PRIx64,
                             place, guest);
    }
    return 0;
}

static const enum blk_extent_kind extent_kinds[] = {
    [QCOW2_UNALLOCATED] = BLK_EXT_UNALLOCATED,
    [QCOW2_UNALLOCATED_SPACE] = BLK_EXT_UNALLOCATED,
    [QCOW2_ZERO_PLAIN] = BLK_EXT_ZERO,
    [QCOW2_ZERO_SPACE] = BLK_EXT_ZERO,
    [QCOW2_DATA] = BLK_EXT_DATA,
};

/* Data may be written where it is: it is ours alone, and not over a table. */
static bool in_place(const struct qcow2 *q, uint64_t desc)
{
    return (desc & QCOW2_COPIED) && !q->loaded_snapshot &&
           (q->data != q->file ||
            !qcow2_overlap(q, desc & QCOW2_OFFSET_MASK, q->cluster_size, false));
}

static int map_run(struct qcow2 *q, uint64_t offset, uint64_t len, const uint8_t *slice,
                   unsigned index, struct blk_extent *ret)
{
    uint64_t sub_size = UINT64_C(1) << q->sub_bits;
    unsigned subs = q->extended ? QCOW2_SUBCLUSTERS : 1;
    uint64_t in = offset & (q->cluster_size - 1);
    unsigned sub = (unsigned)(in >> q->sub_bits), entries = qcow2_slice_entries(q);
    struct qcow2_entry e = qcow2_entry_get(q, slice, index);
    enum qcow2_cluster kind = qcow2_kind(q, &e, sub);
    if (kind == QCOW2_PACKED) {
        return map_packed(q, offset, len, e.desc, ret);
    }
    int r = judge(q, offset, &e, kind);
    if (r < 0) {
        return r;
    }
    bool space = kind == QCOW2_DATA || kind == QCOW2_ZERO_SPACE ||
                 kind == QCOW2_UNALLOCATED_SPACE;
    uint64_t place = e.desc & QCOW2_OFFSET_MASK, flags = e.desc & QCOW2_COPIED;
    uint64_t run = sub_size - (in & (sub_size - 1)), next = place + q->cluster_size;
    bool writable = kind == QCOW2_DATA && in_place(q, e.desc);
    for (sub++; run < len; sub++) {
        if (sub == subs) {
            sub = 0;
            if (++index == entries) {
                break;
            }
            e = qcow2_entry_get(q, slice, index);
            if (space && ((e.desc & QCOW2_OFFSET_MASK) != next ||
                          (e.desc & QCOW2_COPIED) != flags)) {
                break;
            }
            if (writable && !in_place(q, e.desc)) {
                break;
            }
            next += q->cluster_size;
        }
        if (qcow2_kind(q, &e, sub) != kind ||
            ((e.desc & QCOW2_ZERO) && q->version < 3) ||
            (e.desc & QCOW2_OFFSET_MASK & (q->cluster_size - 1))) {
            break;
        }
        run += sub_size;
    }
    *ret = (struct blk_extent){
        .kind = extent_kinds[kind],
        .flags = (writable ? BLK_EXT_IN_PLACE : 0) | (q->sparse ? BLK_EXT_SPARSE : 0) |
                 (space && kind != QCOW2_DATA ? BLK_EXT_HAS_SPACE : 0),
        .len = MIN(run, len),
        .child = space ? q->data : NULL,
        .offset = space ? place + in : 0,
    };
    if (kind == QCOW2_DATA && q->crypt_method) {
        ret->crypt = q->crypt;
        ret->iv_offset = qcow2_iv(q, ret->offset, offset);
        if (!q->crypt) {
            return -EACCES; /* opened without its key */
        }
    }
    if (kind == QCOW2_DATA && !q->data) {
        return -ENOMEDIUM; /* opened without its data file */
    }
    return 0;
}

/* No L2 table: how far that goes. */
static void map_nothing(const struct qcow2 *q, uint64_t offset, uint64_t len,
                        struct blk_extent *ret)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t l1 = offset >> shift;
    uint64_t run = ((l1 + 1) << shift) - offset;
    while (run < len && (++l1 >= q->l1_size || !(q->l1[l1] & QCOW2_OFFSET_MASK))) {
        run = l1 >= q->l1_size ? len : run + (UINT64_C(1) << shift);
    }
    *ret = (struct blk_extent){.kind = BLK_EXT_UNALLOCATED, .len = MIN(run, len)};
}

static int map_any(struct qcow2 *q, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    uint8_t *slice;
    unsigned index;
    uint64_t at;
    int r = qcow2_l2_slice(q, offset, cached, &slice, &index, &at);
    if (r < 0) {
        return r;
    }
    if (!slice) {
        map_nothing(q, offset, len, ret);
        return 0;
    }
    return map_run(q, offset, len, slice, index, ret);
}

int qcow2_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

int qcow2_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                     struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}
