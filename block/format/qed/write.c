#include "block/format/qed/qed_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Changing what the guest sees. New clusters come from the end of the file, so nothing
 * that is in use is ever written over, and a power cut at any moment leaves clusters
 * that nobody refers to, no more, as long as each reference is written after what it
 * leads to:
 *
 *     1  data clusters, new L2 tables (zeros)
 *     2  entries of L2 tables     after a flush
 *     3  entries of the L1 table  after a flush
 *
 * That makes the need-check bit unnecessary: it is never set here, and cleared by the
 * repair on opening.
 */

/* blk_reservation.tag */
enum { TAG_HOST, TAG_CLUSTERS, TAG_TABLE, TAG_INDEX };

/* ---- writing back -------------------------------------------------------------------
 */

static int flush_file(struct qed *q)
{
    return blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static int write_kind(struct qed *q, unsigned kind)
{
    if (!slices_changed(q->tables, kind)) {
        return 0;
    }
    int r = flush_file(q);
    return r ? r : slices_write(q->tables, kind);
}

int qed_writeback(struct qed *q)
{
    int r = write_kind(q, QED_L2);
    return r ? r : write_kind(q, QED_L1);
}

int qed_make_room(void *opaque, unsigned kind)
{
    return kind == QED_L2 ? write_kind(opaque, QED_L2) : qed_writeback(opaque);
}

/* ---- beginning ----------------------------------------------------------------------
 */

static void protect(struct qed *q, uint64_t table)
{
    for (uint32_t i = 0; i < q->table_size; i++) {
        bitset_add(q->meta, (table >> q->cluster_bits) + i);
    }
}

static int protect_l2(struct qed *q, uint64_t index, uint64_t table, void *opaque)
{
    if (qed_table_ok(q, table)) {
        protect(q, table);
    }
    return 0;
}

static int qed_begin(struct blk *b)
{
    struct qed *q = b->priv;
    if (!q->meta) {
        q->meta = bitset_new();
        protect(q, q->l1_offset);
        int r = qed_each_table(q, protect_l2, NULL);
        if (r < 0) {
            g_clear_pointer(&q->meta, bitset_free);
            return r;
        }
    }
    if (!q->autoclear) {
        return 0;
    }
    q->autoclear = 0; /* Spec: features of others, which go away with a change */
    int r = qed_write_header(q);
    return r ? r : flush_file(q);
}

/* ---- room
 * ---------------------------------------------------------------------------- */

static int take_room(struct qed *q, uint64_t bytes, uint64_t *ret)
{
    if (q->end > INT64_MAX - bytes) {
        return -EFBIG;
    }
    *ret = q->end;
    q->end += bytes;
    return 0;
}

/* An empty L2 table for @l1_index, after what was taken before it. */
static int new_table(struct qed *q, uint64_t l1_index, uint64_t *ret)
{
    int r = take_room(q, q->table_bytes, ret);
    if (r < 0) {
        return r;
    }
    slices_forget(q->tables, *ret, q->table_bytes);
    r = blk_run(q->file, BLK_ZERO, *ret, NULL, 0, q->table_bytes, 0);
    r = r ? r : qed_set_entry(q, QED_L1, q->l1_offset, l1_index, *ret);
    if (r < 0) {
        q->end = *ret;
        return r;
    }
    protect(q, *ret);
    return 0;
}

/* The L2 table of guest cluster @cluster, 0 when there is none; one that lies over the
 * L1 table is not written. */
static int table_to_write(struct qed *q, uint64_t cluster, uint64_t *ret)
{
    int r = qed_entry(q, QED_L1, q->l1_offset, cluster / q->entries, ret);
    if (r < 0 || !*ret) {
        return r;
    }
    if (!qed_table_ok(q, *ret) || (*ret < q->l1_offset + q->table_bytes &&
                                   q->l1_offset < *ret + q->table_bytes)) {
        return qed_corrupt(
            q, "L1 entry %" PRIu64 " leads to %#" PRIx64 ", where no L2 table can be",
            cluster / q->entries, *ret);
    }
    return 0;
}

/* How many entries from @index on, at most @most, are no places. */
static int count_free(struct qed *q, uint64_t table, uint64_t index, uint64_t most,
                      uint64_t *ret)
{
    uint64_t n = 0, e = 0;
    most = MIN(most, q->entries - index);
    for (; table && n < most; n++) {
        int r = qed_entry(q, QED_L2, table, index + n, &e);
        if (r < 0) {
            return r;
        }
        if (e > QED_ZERO) {
            break;
        }
    }
    *ret = table ? n : most;
    return 0;
}

static int qed_reserve(struct blk *b, struct blk_reservation *r)
{
    struct qed *q = b->priv;
    uint64_t cluster = r->offset >> q->cluster_bits, index = cluster % q->entries;
    uint64_t first = cluster << q->cluster_bits, table, host, n;
    uint64_t want =
        (r->offset + r->len - first + q->cluster_size - 1) >> q->cluster_bits;
    int err = table_to_write(q, cluster, &table);
    err = err ? err : count_free(q, table, index, want, &n);
    if (err < 0) {
        return err;
    }
    if (n == 0) {
        return qed_corrupt(
            q, "the data cluster of guest offset %#" PRIx64 " lies over a table",
            r->offset);
    }
    uint64_t end = q->end;
    err = take_room(q, n << q->cluster_bits, &host);
    if (err == 0 && !table) {
        err = new_table(q, cluster / q->entries, &table);
    }
    if (err < 0) {
        q->end = end;
        return err;
    }
    r->guest_start = first;
    r->guest_len = n << q->cluster_bits;
    r->len = MIN(r->len, first + r->guest_len - r->offset);
    r->child = q->file;
    r->child_offset = host;
    /* The file keeps whole clusters: all of each is written, zeros too. */
    r->fill = BLK_FILL_OLD;
    r->tag[TAG_HOST] = host;
    r->tag[TAG_CLUSTERS] = n;
    r->tag[TAG_TABLE] = table;
    r->tag[TAG_INDEX] = index;
    return 0;
}

static int qed_publish(struct blk *b, const struct blk_reservation *r)
{
    struct qed *q = b->priv;
    int err = 0;
    for (uint64_t i = 0; err == 0 && i < r->tag[TAG_CLUSTERS]; i++) {
        err = qed_set_entry(q, QED_L2, r->tag[TAG_TABLE], r->tag[TAG_INDEX] + i,
                            r->tag[TAG_HOST] + (i << q->cluster_bits));
    }
    return err;
}

static void qed_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct qed *q = b->priv;
    if (q->end == r->tag[TAG_HOST] + (r->tag[TAG_CLUSTERS] << q->cluster_bits)) {
        q->end = r->tag[TAG_HOST];
    }
}

/* ---- zeros
 * ----------------------------------------------------------------------------- */

static int qed_zero(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                    uint64_t *ret_len)
{
    struct qed *q = b->priv;
    uint64_t cluster = offset >> q->cluster_bits, index = cluster % q->entries;
    uint64_t table, n, whole = len >> q->cluster_bits;
    if (offset + len >= q->size) { /* the last cluster may be a part of one */
        whole = (len + q->cluster_size - 1) >> q->cluster_bits;
    }
    if (offset & (q->cluster_size - 1) || whole == 0) {
        return -ENOTSUP;
    }
    int r = table_to_write(q, cluster, &table);
    r = r ? r : count_free(q, table, index, whole, &n);
    if (r < 0) {
        return r;
    }
    if (n == 0) {
        return -ENOTSUP; /* data: overwritten where it is */
    }
    r = table ? 0 : new_table(q, cluster / q->entries, &table);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        r = qed_set_entry(q, QED_L2, table, index + i, QED_ZERO);
    }
    *ret_len = MIN(len, n << q->cluster_bits);
    return r;
}

static int qed_flush(struct blk *b)
{
    return qed_writeback(b->priv);
}

const struct blk_write_ops qed_write_ops = {
    .begin = qed_begin,
    .reserve = qed_reserve,
    .publish = qed_publish,
    .cancel = qed_cancel,
    .zero = qed_zero,
    .flush = qed_flush,
    .finish = qed_flush,
};

/* ---- size and backing file ----------------------------------------------------------
 */

static bool qed_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                         GError **error)
{
    struct qed *q = b->priv;
    uint64_t old = q->size;
    if (length % 512) {
        return error_msg(error, "Invalid image size specified");
    }
    if (prealloc != BLK_PREALLOC_OFF) {
        return error_msg(error, "Unsupported preallocation mode '%s'",
                         prealloc == BLK_PREALLOC_FULL     ? "full"
                         : prealloc == BLK_PREALLOC_FALLOC ? "falloc"
                                                           : "metadata");
    }
    if (length > qed_max_size(q->cluster_size, q->table_size)) {
        return error_msg(error, "Invalid image size specified");
    }
    if (length < old) {
        return error_msg(error, "Shrinking images is currently not supported");
    }
    q->size = length;
    int r = qed_write_header(q);
    if (r < 0) {
        q->size = old;
        return error_errno(error, -r, "Failed to update the image size");
    }
    b->content_len = length;
    return true;
}

static bool qed_set_backing(struct blk *b, const char *name, const char *format,
                            GError **error)
{
    struct qed *q = b->priv;
    size_t len = name ? strlen(name) : 0;
    uint64_t room = (uint64_t)q->header_size * q->cluster_size;
    if (name && q->compat) { /* whose data may be where the name goes */
        return error_errno(error, ENOTSUP, "unknown compatible features are in use");
    }
    if (len > QED_MAX_NAME || !ck_range(QED_HEADER_BYTES, len, room)) {
        return error_errno(error, ENOSPC, "the name does not fit in the header");
    }
    q->features &= ~(QED_F_BACKING | QED_F_NO_PROBE);
    if (name) {
        q->features |= QED_F_BACKING;
        q->features |= format && g_str_equal(format, "raw") ? QED_F_NO_PROBE : 0;
    }
    g_free(q->backing_name);
    q->backing_name = g_strdup(name);
    q->backing_offset = QED_HEADER_BYTES;
    q->backing_len = (uint32_t)len;
    int r = qed_write_header(q);
    r = r ? r : flush_file(q);
    return r == 0 || error_errno(error, -r, "Failed to update header");
}

const struct blk_resize_ops qed_resize_ops = {.truncate = qed_truncate};
const struct blk_amend_ops qed_amend_ops = {.set_backing = qed_set_backing};
