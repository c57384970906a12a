#include "block/format/qed/qed.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "block/format/qed/qed_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Opening, closing, and where a guest offset is (Spec, "Tables"). */

#define CACHE_BYTES (32 * MIB)

int qed_corrupt(struct qed *q, const char *fmt, ...)
{
    if (!q->told) {
        q->told = true;
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        blk_warn(q->b, "Image is corrupt: %s", what);
    }
    return -EINVAL;
}

bool qed_cluster_ok(const struct qed *q, uint64_t offset)
{
    uint64_t head = (uint64_t)q->header_size * q->cluster_size;
    return offset >= head && offset < q->end && (offset & (q->cluster_size - 1)) == 0;
}

bool qed_table_ok(const struct qed *q, uint64_t offset)
{
    /* Its last cluster must be one too; the sum cannot wrap when the first is. */
    return qed_cluster_ok(q, offset) &&
           qed_cluster_ok(q, offset + q->table_bytes - q->cluster_size);
}

/* ---- entries ------------------------------------------------------------------------
 */

static unsigned slice_entries(const struct qed *q)
{
    return 1u << (MIN(q->cluster_bits, 14u) - 3);
}

int qed_entry(struct qed *q, unsigned kind, uint64_t table, uint64_t index,
              uint64_t *ret)
{
    uint8_t *slice;
    int r = slices_get(q->tables, kind, table + index * 8, &slice);
    if (r == 0) {
        *ret = le64_get(slice + index % slice_entries(q) * 8);
    }
    return r;
}

int qed_set_entry(struct qed *q, unsigned kind, uint64_t table, uint64_t index,
                  uint64_t value)
{
    uint8_t *slice;
    int r = slices_get(q->tables, kind, table + index * 8, &slice);
    if (r == 0) {
        le64_put(slice + index % slice_entries(q) * 8, value);
        slices_dirty(q->tables, table + index * 8);
    }
    return r;
}

static int l2_table(struct qed *q, uint64_t l1_index, bool cached, uint64_t *ret)
{
    uint64_t at = q->l1_offset + l1_index * 8;
    if (cached) {
        const uint8_t *slice = slices_peek(q->tables, at);
        if (!slice) {
            return -EAGAIN;
        }
        *ret = le64_get(slice + l1_index % slice_entries(q) * 8);
    } else {
        int r = qed_entry(q, QED_L1, q->l1_offset, l1_index, ret);
        if (r < 0) {
            return r;
        }
    }
    if (*ret && !qed_table_ok(q, *ret)) {
        return qed_corrupt(
            q, "L1 entry %" PRIu64 " leads to %#" PRIx64 ", where no L2 table can be",
            l1_index, *ret);
    }
    return 0;
}

int qed_l2_slice(struct qed *q, uint64_t offset, bool cached, uint8_t **ret_slice,
                 unsigned *ret_index, unsigned *ret_left)
{
    uint64_t cluster = offset >> q->cluster_bits, index = cluster % q->entries,
             table = 0;
    unsigned per_slice = slice_entries(q);
    *ret_slice = NULL;
    *ret_index = (unsigned)(index % per_slice);
    *ret_left = per_slice - *ret_index;
    int r = l2_table(q, cluster / q->entries, cached, &table);
    if (r < 0 || !table) {
        return r;
    }
    if (cached) {
        *ret_slice = slices_peek(q->tables, table + index * 8);
        return *ret_slice ? 0 : -EAGAIN;
    }
    return slices_get(q->tables, QED_L2, table + index * 8, ret_slice);
}

/* ---- map --------------------------------------------------------------------------
 */

/* Data clusters over the header or a table are not written in place. */
static bool writable_place(const struct qed *q, uint64_t place)
{
    return !q->meta || !bitset_has(q->meta, place >> q->cluster_bits);
}

static bool same_kind(const struct qed *q, uint64_t first, uint64_t nth, unsigned n)
{
    return first <= QED_ZERO ? nth == first
                             : nth == first + ((uint64_t)n << q->cluster_bits) &&
                                   qed_cluster_ok(q, nth) &&
                                   writable_place(q, nth) == writable_place(q, first);
}

static int map_slice(struct qed *q, uint64_t offset, uint64_t len, const uint8_t *slice,
                     unsigned index, unsigned left, struct blk_extent *ret)
{
    uint64_t in = offset & (q->cluster_size - 1);
    uint64_t first = le64_get(slice + index * 8), run = q->cluster_size - in;
    if (first > QED_ZERO && !qed_cluster_ok(q, first)) {
        return qed_corrupt(q,
                           "the L2 entry of guest offset %#" PRIx64
                           " leads to %#" PRIx64 ", where no cluster can be",
                           offset, first);
    }
    for (unsigned n = 1; n < left && run < len &&
                         same_kind(q, first, le64_get(slice + (index + n) * 8), n);
         n++) {
        run += q->cluster_size;
    }
    *ret = (struct blk_extent){
        .kind = first == QED_ZERO ? BLK_EXT_ZERO : BLK_EXT_UNALLOCATED,
        .len = MIN(run, len),
    };
    if (first > QED_ZERO) {
        ret->kind = BLK_EXT_DATA;
        ret->flags = writable_place(q, first) ? BLK_EXT_IN_PLACE : 0;
        ret->child = q->file;
        ret->offset = first + in;
    }
    return 0;
}

static int map_any(struct qed *q, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    uint8_t *slice;
    unsigned index, left;
    int r = qed_l2_slice(q, offset, cached, &slice, &index, &left);
    if (r < 0) {
        return r;
    }
    if (!slice) { /* no table: up to where the next one's guest range begins */
        uint64_t all = q->entries << q->cluster_bits;
        *ret = (struct blk_extent){
            .kind = BLK_EXT_UNALLOCATED,
            .len = MIN(len, all - offset % all),
        };
        return 0;
    }
    return map_slice(q, offset, len, slice, index, left, ret);
}

static int qed_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

static int qed_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                          struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}

/* ---- opening ------------------------------------------------------------------------
 */

static int qed_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= QED_HEADER_BYTES && le32_get(head) == QED_MAGIC ? 100 : 0;
}

/* An image that was not closed is repaired before it is used. */
static bool repair(struct qed *q, GError **error)
{
    struct blk_check c = {.fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS};
    unsigned flags = blk_open_flags(q->b);
    if (q->b->read_only || !(q->features & QED_F_NEED_CHECK) ||
        (flags & (BLK_OPEN_CHECK | BLK_OPEN_NO_IO))) {
        return true;
    }
    int r = qed_check(q, &c);
    return r == 0 || error_errno(error, -r, "Image corrupted");
}

static bool qed_open(struct blk *b, json_t *opts, GError **error)
{
    struct qed *q = g_new0(struct qed, 1);
    b->priv = q;
    q->b = b;
    q->file = b->file;
    if (!qed_read_header(q, error)) {
        return false;
    }
    q->tables =
        slices_new(q->file, MIN(q->cluster_bits, 14u), CACHE_BYTES, qed_make_room, q);
    slices_events(q->tables, QED_L2, BLK_EVENT_L2_LOAD, BLK_EVENT_L2_UPDATE);
    slices_events(q->tables, QED_L1, BLK_EVENT_NONE, BLK_EVENT_L1_UPDATE);
    b->content_len = q->size;
    b->limits.alloc_unit = q->cluster_size;
    const char *format = q->features & QED_F_NO_PROBE ? "raw" : NULL;
    return repair(q, error) &&
           blk_open_backing(b, opts, q->backing_name, format, error);
}

static void qed_close(struct blk *b)
{
    struct qed *q = b->priv;
    if (q) {
        slices_free(q->tables);
        bitset_free(q->meta);
        g_free(q->backing_name);
        g_free(q);
    }
}

static void qed_info(struct blk *b, json_t *info)
{
    const struct qed *q = b->priv;
    json_object_set_new(info, "cluster-size", json_integer(q->cluster_size));
    if (q->backing_name) {
        json_object_set_new(info, "backing-filename",
                            json_string_nocheck(q->backing_name));
        if (q->features & QED_F_NO_PROBE) {
            json_object_set_new(info, "backing-filename-format", json_string("raw"));
        }
    }
}

static const struct blk_option qed_options[] = {
    {"backing", BLK_OPT_NODE, NULL, "what unallocated parts are read from, or null"},
    {0},
};

const struct blk_format qed_format = {
    .name = "qed",
    .help = "QEMU enhanced disk: sparse, backing files",
    .options = qed_options,
    .probe = qed_probe,
    .open = qed_open,
    .close = qed_close,
    .map = qed_map,
    .map_cached = qed_map_cached,
    .info = qed_info,
    .writable = &qed_write_ops,
    .resize = &qed_resize_ops,
    .creatable = &qed_create_ops,
    .checkable = &qed_check_ops,
    .amendable = &qed_amend_ops,
};
