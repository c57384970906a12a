#include "block/format/qcow/qcow_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/codec/codec.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Changing what the guest sees (the order is in qcow_priv.h). A cluster that has a
 * place is written there; all others, compressed ones among them, get a new place, and
 * what was there before is lost to the file.
 */

/* blk_reservation.tag */
enum { TAG_PLACE, TAG_COUNT, TAG_TABLE };

/* ---- writing back -------------------------------------------------------------------
 */

static int write_back(struct qcow *q)
{
    int r = pages_write(q->l2); /* each begins with a flush of what came before */
    return r ? r : pages_write(q->l1);
}

static int l1_is_full(void *opaque)
{
    return write_back(opaque);
}

static int qcow_flush(struct blk *b)
{
    return write_back(b->priv);
}

/* ---- beginning ----------------------------------------------------------------------
 */

static void protect(struct qcow *q, uint64_t table)
{
    for (uint64_t at = 0; at < qcow_table_bytes(q); at += 512) {
        bitset_add(q->meta, (table + at) / 512);
    }
    if (table % 512) {
        bitset_add(q->meta, (table + qcow_table_bytes(q)) / 512);
    }
}

/* How much of L1 from entry @index is a hole of the file: entries, 0 for none. */
static uint64_t hole_at(struct qcow *q, uint64_t index)
{
    uint64_t at = q->l1_offset + index * 8, length = blk_length(q->file);
    struct blk_status s;
    if (at >= length) {
        return q->l1_size - index;
    }
    int r = blk_map_at(q->file, at, MIN(length - at, (q->l1_size - index) * 8), &s);
    return r == 0 && (s.flags & BLK_STATUS_ZERO) ? s.len / 8 : 0;
}

/* No guest data may be written over a table, so all of them must be known. */
static int qcow_begin(struct blk *b)
{
    enum { PIECE = 4096 };
    struct qcow *q = b->priv;
    uint8_t entry[8];
    if (q->meta) {
        return 0;
    }
    q->meta = bitset_new();
    pages_on_full(q->l1, l1_is_full, q);
    for (uint64_t i = 0; i < q->l1_size; i++) {
        uint64_t hole = i % PIECE == 0 ? hole_at(q, i) : 0;
        if (hole >= PIECE) {
            i += ALIGN_DOWN(hole, (uint64_t)PIECE) - 1;
            continue;
        }
        int r = pages_read(q->l1, q->l1_offset + i * 8, entry, sizeof(entry));
        if (r < 0) {
            g_clear_pointer(&q->meta, bitset_free);
            return r;
        }
        uint64_t table = be64_get(entry);
        if (table && table <= INT64_MAX - qcow_table_bytes(q)) {
            protect(q, table);
        }
    }
    return 0;
}

/* ---- room
 * ----------------------------------------------------------------------------- */

static int take_room(struct qcow *q, uint64_t bytes, uint64_t align, uint64_t *ret)
{
    if (q->end > INT64_MAX - bytes - align) {
        return -EFBIG;
    }
    *ret = ALIGN_UP(q->end, align);
    q->end = *ret + bytes;
    return 0;
}

/* The L2 table of L1 entry @index, a new one of zeros if need be. */
static int table_to_write(struct qcow *q, uint64_t index, uint64_t *ret)
{
    static const uint8_t zeros[8 << 13];
    uint64_t end = q->end;
    uint8_t entry[8];
    int r = qcow_l2_table(q, index, false, ret);
    if (r < 0) {
        return r;
    }
    if (*ret) {
        bool ok = ck_range(*ret, qcow_table_bytes(q), q->end) &&
                  !qcow_over_l1(q, *ret, qcow_table_bytes(q));
        return ok ? 0
                  : qcow_corrupt(q,
                                 "the L2 table of L1 entry %" PRIu64 " is at %#" PRIx64
                                 ", over the L1 table or behind the end of the file",
                                 index, *ret);
    }
    r = take_room(q, qcow_table_bytes(q), q->cluster_size, ret);
    r = r ? r : pages_store(q->l2, *ret, zeros, qcow_table_bytes(q));
    if (r == 0) {
        be64_put(entry, *ret);
        r = pages_store(q->l1, q->l1_offset + index * 8, entry, sizeof(entry));
    }
    if (r < 0) {
        q->end = end;
        return r;
    }
    protect(q, *ret);
    return 0;
}

static int get_entry(struct qcow *q, uint64_t table, uint64_t cluster, uint64_t *ret)
{
    uint8_t entry[8];
    uint64_t index = cluster & ((UINT64_C(1) << q->l2_bits) - 1);
    int r = pages_read(q->l2, table + index * 8, entry, sizeof(entry));
    *ret = be64_get(entry);
    return r;
}

static int set_entry(struct qcow *q, uint64_t table, uint64_t cluster, uint64_t value)
{
    uint8_t entry[8];
    uint64_t index = cluster & ((UINT64_C(1) << q->l2_bits) - 1);
    be64_put(entry, value);
    return pages_store(q->l2, table + index * 8, entry, sizeof(entry));
}

static bool needs_place(uint64_t entry)
{
    return entry == 0 || (entry & QCOW_COMPRESSED);
}

/* How many clusters in a row, at most @most, get new places. */
static int count_new(struct qcow *q, uint64_t table, uint64_t cluster, uint64_t most,
                     uint64_t *ret)
{
    uint64_t per_table = UINT64_C(1) << q->l2_bits, n = 0, entry = 0;
    most = MIN(most, per_table - cluster % per_table);
    for (; n < most; n++) {
        int r = get_entry(q, table, cluster + n, &entry);
        if (r < 0) {
            return r;
        }
        if (!needs_place(entry)) {
            break;
        }
    }
    *ret = n;
    return 0;
}

static int qcow_reserve(struct blk *b, struct blk_reservation *r)
{
    struct qcow *q = b->priv;
    uint64_t cluster = r->offset >> q->cluster_bits, table, n = 1, place;
    uint64_t first = cluster << q->cluster_bits;
    uint64_t want =
        (r->offset + r->len - first + q->cluster_size - 1) >> q->cluster_bits;
    int err = table_to_write(q, cluster >> q->l2_bits, &table);
    if (err == 0 && !r->stored_len) {
        err = count_new(q, table, cluster, want, &n);
    }
    if (err < 0) {
        return err;
    }
    if (n == 0) {
        return qcow_corrupt(q,
                            "the cluster of guest offset %#" PRIx64
                            " lies over a table or behind the end of the file",
                            r->offset);
    }
    err = take_room(q, r->stored_len ? r->stored_len : n << q->cluster_bits,
                    r->stored_len ? 1 : q->cluster_size, &place);
    if (err < 0) {
        return err;
    }
    r->guest_start = first;
    r->guest_len = n << q->cluster_bits;
    r->len = MIN(r->len, first + r->guest_len - r->offset);
    r->child = q->file;
    r->child_offset = place;
    r->fill = BLK_FILL_OLD;
    r->crypt = q->crypt;
    r->iv_offset = first;
    r->tag[TAG_PLACE] = place;
    r->tag[TAG_COUNT] = n;
    r->tag[TAG_TABLE] = table;
    return 0;
}

static int qcow_publish(struct blk *b, const struct blk_reservation *r)
{
    struct qcow *q = b->priv;
    uint64_t cluster = r->guest_start >> q->cluster_bits, place = r->tag[TAG_PLACE];
    if (r->stored_len) {
        return set_entry(q, r->tag[TAG_TABLE], cluster,
                         QCOW_COMPRESSED | r->stored_len << (63 - q->cluster_bits) |
                             place);
    }
    int err = 0;
    for (uint64_t i = 0; err == 0 && i < r->tag[TAG_COUNT]; i++) {
        err = set_entry(q, r->tag[TAG_TABLE], cluster + i,
                        place + (i << q->cluster_bits));
    }
    return err;
}

static void qcow_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct qcow *q = b->priv;
    uint64_t bytes =
        r->stored_len ? r->stored_len : r->tag[TAG_COUNT] << q->cluster_bits;
    if (q->end == r->tag[TAG_PLACE] + bytes) {
        q->end = r->tag[TAG_PLACE];
    }
}

static const struct blk_codec *qcow_codec(const struct blk *b, uint64_t *ret_chunk)
{
    const struct qcow *q = b->priv;
    *ret_chunk = q->crypt_method ? 0 : q->cluster_size; /* it would be readable */
    return &blk_codec_deflate;
}

const struct blk_write_ops qcow_write_ops = {
    .begin = qcow_begin,
    .reserve = qcow_reserve,
    .publish = qcow_publish,
    .codec = qcow_codec,
    .cancel = qcow_cancel,
    .flush = qcow_flush,
    .finish = qcow_flush,
};

/* ---- throwing all away
 * ------------------------------------------------------------------ */

static bool qcow_make_empty(struct blk *b, GError **error)
{
    struct qcow *q = b->priv;
    uint64_t end = q->l1_offset + q->l1_size * 8;
    int r = blk_run(q->file, BLK_ZERO, q->l1_offset, NULL, 0, q->l1_size * 8, 0);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        return error_errno(error, -r, "cannot clear the L1 table");
    }
    qcow_new_pages(q);
    pages_on_full(q->l1, l1_is_full, q);
    bitset_free(q->meta);
    q->meta = bitset_new();
    q->end = end;
    /* Best effort: what is behind is free anyway. */
    blk_truncate(q->file, ALIGN_UP(end, 512), BLK_PREALLOC_OFF, NULL);
    return true;
}

const struct blk_amend_ops qcow_amend_ops = {.make_empty = qcow_make_empty};
