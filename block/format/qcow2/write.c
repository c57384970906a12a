#include "block/format/qcow2/bitmap.h"
#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/codec/codec.h"
#include "block/event.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * Changing what the guest sees. reserve finds room and changes nothing visible: it may
 * give the guest's range an L2 table of its own and count clusters. publish puts the
 * entries into the cached L2 table. Until the next writeback (cache.c) the disk has the
 * old entries and the old clusters, so a power cut leaves leaks at worst.
 *
 * What a write does to a cluster is one of three plans:
 *
 *     REUSE   it has a place of its own, not (all) in use: zero clusters with space,
 *             missing subclusters. The data goes there.
 *     FRESH   nothing to keep: a new cluster. With subclusters only the touched ones
 *             are filled, the others go on as they were.
 *     COPY    data shared with a snapshot, or compressed: a new cluster, filled from
 *             what the guest read before.
 */

enum plan { PLAN_NONE, PLAN_REUSE, PLAN_FRESH, PLAN_COPY, PLAN_PACKED };

/* blk_reservation.tag */
enum { TAG_PLAN, TAG_HOST, TAG_CLUSTERS, TAG_GUEST };

static uint64_t cluster_floor(const struct qcow2 *q, uint64_t offset)
{
    return ALIGN_DOWN(offset, q->cluster_size);
}

static bool external(const struct qcow2 *q)
{
    return q->data != q->file;
}

/* ---- L2 tables of our own
 * ------------------------------------------------------------ */

void qcow2_l1_set(struct qcow2 *q, uint32_t index, uint64_t value)
{
    q->l1[index] = value;
    if (q->l1_dirty_from == q->l1_dirty_to) {
        q->l1_dirty_from = index;
        q->l1_dirty_to = index + 1;
    } else {
        q->l1_dirty_from = MIN(q->l1_dirty_from, index);
        q->l1_dirty_to = MAX(q->l1_dirty_to, index + 1);
    }
}

/* The L2 table at @at as it is now, changes in the cache included, to @buf. */
static int copy_l2(struct qcow2 *q, uint64_t at, uint8_t *buf)
{
    blk_event(q->file, BLK_EVENT_L2_ALLOC_COW_READ);
    uint64_t step = UINT64_C(1) << q->slice_bits;
    for (uint64_t in = 0; in < q->cluster_size; in += step) {
        uint8_t *slice;
        int r = slices_get(q->cache, QCOW2_SLICE_TABLE, at + in, &slice);
        if (r < 0) {
            return r;
        }
        memcpy(buf + in, slice, step);
    }
    return 0;
}

/* A table that was just written will be looked at next. */
static void keep_l2(struct qcow2 *q, uint64_t at, const uint8_t *buf)
{
    enum { MOST = 16 };
    uint64_t step = UINT64_C(1) << q->slice_bits;
    for (uint64_t in = 0; in < q->cluster_size && q->cluster_size / step <= MOST;
         in += step) {
        if (slices_put(q->cache, QCOW2_SLICE_TABLE, at + in, buf + in) < 0) {
            return;
        }
    }
}

int qcow2_own_l2(struct qcow2 *q, uint32_t l1_index)
{
    uint64_t old = q->l1[l1_index], at = old & QCOW2_OFFSET_MASK, fresh;
    if (at && (old & QCOW2_COPIED)) {
        return 0;
    }
    if (!qcow2_aligned(q, at)) {
        return qcow2_corrupt(
            q, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx32 ")", at,
            l1_index);
    }
    g_autofree uint8_t *buf = g_try_malloc0(q->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    int r = at ? copy_l2(q, at, buf) : 0;
    r = r ? r : qcow2_alloc(q, 1, 1, &fresh, NULL);
    if (r < 0) {
        return r;
    }
    slices_forget(q->cache, fresh, q->cluster_size);
    blk_event(q->file, BLK_EVENT_L2_ALLOC_WRITE);
    r = blk_pwrite(q->file, fresh, buf, q->cluster_size);
    if (r < 0) {
        qcow2_free_now(q, fresh, q->cluster_size);
        return r;
    }
    keep_l2(q, fresh, buf);
    qcow2_l1_set(q, l1_index, fresh | QCOW2_COPIED);
    return at ? qcow2_free_later(q, at, q->cluster_size) : 0;
}

/* The slice with the entry of @offset, in a table of our own. */
static int own_slice(struct qcow2 *q, uint64_t offset, uint8_t **ret_slice,
                     unsigned *ret_index, uint64_t *ret_at)
{
    uint64_t l1 = offset >> (q->cluster_bits + q->l2_bits);
    if (l1 >= q->l1_size) {
        return -EIO;
    }
    int r = qcow2_own_l2(q, (uint32_t)l1);
    return r ? r : qcow2_l2_slice(q, offset, false, ret_slice, ret_index, ret_at);
}

/* ---- reserving
 * ------------------------------------------------------------------------- */

static enum plan plan_for(const struct qcow2 *q, const struct qcow2_entry *e,
                          unsigned sub)
{
    uint64_t place = e->desc & QCOW2_OFFSET_MASK;
    switch (qcow2_kind(q, e, sub)) {
    case QCOW2_PACKED: return PLAN_COPY;
    case QCOW2_BAD: return PLAN_NONE;
    case QCOW2_DATA:
        /* In place would have been written there, had it been allowed. */
        return e->desc & QCOW2_COPIED ? PLAN_NONE : PLAN_COPY;
    case QCOW2_ZERO_SPACE:
    case QCOW2_UNALLOCATED_SPACE:
        if (e->desc & QCOW2_COPIED) {
            bool ok = qcow2_aligned(q, place) &&
                      (external(q) || !qcow2_overlap(q, place, q->cluster_size, false));
            return ok ? PLAN_REUSE : PLAN_NONE;
        }
        return e->bitmap & QCOW2_SUB_ALL_ALLOC ? PLAN_COPY : PLAN_FRESH;
    default: return PLAN_FRESH;
    }
}

static int bad_place(struct qcow2 *q, uint64_t offset, const struct qcow2_entry *e)
{
    uint64_t place = e->desc & QCOW2_OFFSET_MASK;
    const char *over = qcow2_overlap(q, place, q->cluster_size, true);
    return qcow2_corrupt(q,
                         "Preventing invalid write on metadata (overlaps with %s, "
                         "guest offset %#" PRIx64 ", host offset %#" PRIx64 ")",
                         over ? over : "nothing known", offset, place);
}

/* Round [offset, offset + len) out to what @plan fills, within @n clusters. */
static void round_out(const struct qcow2 *q, struct blk_reservation *r, enum plan plan)
{
    uint64_t unit = plan == PLAN_COPY ? q->cluster_size : UINT64_C(1) << q->sub_bits;
    uint64_t end = ALIGN_UP(r->offset + r->len, unit);
    r->guest_start = ALIGN_DOWN(r->offset, unit);
    r->guest_len = end - r->guest_start;
}

/* Whether new space at @host needs no filling: it is behind the end of the file, where
 * nothing was ever written, and what the guest has there is zeros. */
static bool zero_already(const struct qcow2 *q, const struct blk_reservation *r,
                         const struct qcow2_entry *e, unsigned sub, uint64_t host)
{
    const struct blk *b = q->b;
    enum qcow2_cluster kind = qcow2_kind(q, e, sub);
    if (external(q) || q->crypt_method || !q->file->growable || q->tail_unsure ||
        host < q->file->content_len) {
        return false;
    }
    return kind == QCOW2_ZERO_PLAIN || kind == QCOW2_ZERO_SPACE ||
           (kind == QCOW2_UNALLOCATED &&
            (!b->backing || r->guest_start >= blk_length(b->backing)));
}

static int find_room(struct qcow2 *q, uint64_t guest, uint64_t count,
                     uint64_t *ret_host, uint64_t *ret_got)
{
    if (external(q)) { /* Spec, incompatible bit 2: host and guest offset agree */
        *ret_host = guest;
        *ret_got = count;
        return q->data ? 0 : -ENOMEDIUM;
    }
    return qcow2_alloc(q, count, 1, ret_host, ret_got);
}

static int encrypted(const struct qcow2 *q, struct blk_reservation *r)
{
    r->crypt = q->crypt;
    r->iv_offset = qcow2_iv(q, r->child_offset, r->guest_start);
    return q->crypt_method && !q->crypt ? -EACCES : 0;
}

int qcow2_reserve_range(struct qcow2 *q, struct blk_reservation *r)
{
    uint8_t *slice;
    unsigned index;
    uint64_t at, guest = cluster_floor(q, r->offset), host, got;
    int err = own_slice(q, r->offset, &slice, &index, &at);
    if (err < 0) {
        return err;
    }
    unsigned sub = (unsigned)((r->offset - guest) >> q->sub_bits);
    struct qcow2_entry e = qcow2_entry_get(q, slice, index);
    enum plan plan = plan_for(q, &e, sub);
    if (plan == PLAN_NONE) {
        return bad_place(q, r->offset, &e);
    }
    r->child = q->data;
    r->fill = BLK_FILL_OLD;
    r->tag[TAG_PLAN] = plan;
    r->tag[TAG_GUEST] = guest;
    r->tag[TAG_CLUSTERS] = 1;
    if (plan == PLAN_REUSE) {
        r->len = MIN(r->len, guest + q->cluster_size - r->offset);
        round_out(q, r, plan);
        host = e.desc & QCOW2_OFFSET_MASK;
        r->tag[TAG_HOST] = host;
        r->child_offset = host + (r->guest_start - guest);
        return q->data ? encrypted(q, r) : -ENOMEDIUM;
    }
    /* As many clusters in a row as have the same plan and are in this slice. */
    uint64_t want = 1, most = qcow2_clusters_for(q, r->offset + r->len - guest);
    bool same = true;
    for (; want < most && index + want < qcow2_slice_entries(q); want++) {
        struct qcow2_entry next = qcow2_entry_get(q, slice, index + (unsigned)want);
        if (plan_for(q, &next, 0) != plan) {
            break;
        }
        same &= qcow2_kind(q, &next, 0) == qcow2_kind(q, &e, sub);
    }
    err = find_room(q, guest, want, &host, &got);
    if (err < 0) {
        return err;
    }
    r->len = MIN(r->len, guest + (got << q->cluster_bits) - r->offset);
    round_out(q, r, plan);
    r->child_offset = host + (r->guest_start - guest);
    r->tag[TAG_HOST] = host;
    r->tag[TAG_CLUSTERS] = got;
    if (same && plan == PLAN_FRESH && zero_already(q, r, &e, sub, host)) {
        r->fill = BLK_FILL_NO;
    }
    return encrypted(q, r);
}

static int reserve_packed(struct qcow2 *q, struct blk_reservation *r)
{
    uint8_t *slice;
    unsigned index;
    uint64_t at, host, x = 62 - (q->cluster_bits - 8);
    if (external(q) || q->crypt_method) {
        return -ENOTSUP;
    }
    int err = own_slice(q, r->offset, &slice, &index, &at);
    err = err ? err : qcow2_alloc_bytes(q, r->stored_len, &host);
    if (err < 0) {
        return err;
    }
    if (host >> MIN(x, 56)) {
        qcow2_free_now(q, host, r->stored_len);
        return -EFBIG;
    }
    r->guest_start = r->offset;
    r->guest_len = q->cluster_size;
    r->child = q->file;
    r->child_offset = host;
    r->tag[TAG_PLAN] = PLAN_PACKED;
    r->tag[TAG_HOST] = host;
    r->tag[TAG_CLUSTERS] = 1;
    r->tag[TAG_GUEST] = r->offset;
    return 0;
}

static int qcow2_reserve(struct blk *b, struct blk_reservation *r)
{
    return r->stored_len ? reserve_packed(b->priv, r) : qcow2_reserve_range(b->priv, r);
}

/* ---- publishing
 * ------------------------------------------------------------------------- */

static struct qcow2_entry new_entry(const struct qcow2 *q,
                                    const struct blk_reservation *r, uint64_t i,
                                    const struct qcow2_entry *old)
{
    enum plan plan = (enum plan)r->tag[TAG_PLAN];
    uint64_t host = r->tag[TAG_HOST] + (i << q->cluster_bits);
    if (plan == PLAN_PACKED) {
        unsigned x = 62 - (q->cluster_bits - 8);
        uint64_t sectors = ((host + r->stored_len - 1) >> 9) - (host >> 9);
        return (struct qcow2_entry){QCOW2_COMPRESSED | sectors << x | host, 0};
    }
    struct qcow2_entry e = {host | QCOW2_COPIED, 0};
    if (!q->extended) {
        return e;
    }
    if (plan == PLAN_COPY) {
        e.bitmap = QCOW2_SUB_ALL_ALLOC;
        return e;
    }
    uint64_t guest = r->tag[TAG_GUEST] + (i << q->cluster_bits);
    e.bitmap = old->bitmap;
    for (unsigned s = 0; s < QCOW2_SUBCLUSTERS; s++) {
        uint64_t at = guest + ((uint64_t)s << q->sub_bits);
        if (at >= r->guest_start && at < r->guest_start + r->guest_len) {
            e.bitmap |= QCOW2_SUB_ALLOC(s);
            e.bitmap &= ~QCOW2_SUB_ZERO(s);
        }
    }
    return e;
}

int qcow2_publish(struct blk *b, const struct blk_reservation *r)
{
    struct qcow2 *q = b->priv;
    for (uint64_t i = 0; i < r->tag[TAG_CLUSTERS]; i++) {
        uint8_t *slice;
        unsigned index;
        uint64_t at, guest = r->tag[TAG_GUEST] + (i << q->cluster_bits);
        int err = own_slice(q, guest, &slice, &index, &at);
        if (err < 0) {
            return err;
        }
        struct qcow2_entry old = qcow2_entry_get(q, slice, index);
        struct qcow2_entry e = new_entry(q, r, i, &old);
        if (r->tag[TAG_PLAN] == PLAN_PACKED) {
            blk_event(q->file, BLK_EVENT_L2_UPDATE_COMPRESSED);
        }
        qcow2_entry_put(q, slice, index, &e);
        slices_dirty(q->cache, at);
        if (r->tag[TAG_PLAN] != PLAN_REUSE) {
            err = qcow2_free_entry(q, &old);
            if (err < 0) {
                return err;
            }
        }
    }
    return 0;
}

static void qcow2_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct qcow2 *q = b->priv;
    q->tail_unsure = true;
    if (r->tag[TAG_PLAN] == PLAN_PACKED) {
        qcow2_free_now(q, r->tag[TAG_HOST], r->stored_len);
    } else if (r->tag[TAG_PLAN] != PLAN_REUSE && !external(q)) {
        qcow2_free_now(q, r->tag[TAG_HOST], r->tag[TAG_CLUSTERS] << q->cluster_bits);
    }
}

static const struct blk_codec *qcow2_codec(const struct blk *b, uint64_t *ret_chunk)
{
    const struct qcow2 *q = b->priv;
    *ret_chunk = external(q) ? 0 : q->cluster_size;
    return q->compression ? &blk_codec_zstd
           : q->window_4k ? &blk_codec_deflate_4k
                          : &blk_codec_deflate;
}

/* ---- dropping and zeroing
 * ------------------------------------------------------------------ */

/* What a cluster's entry becomes; false: it stays. */
typedef bool (*change_fn)(const struct qcow2 *q, const struct qcow2_entry *old,
                          unsigned how, struct qcow2_entry *ret);

enum { HOW_FULL = 1, HOW_UNMAP = 2 };

static bool drop_entry(const struct qcow2 *q, const struct qcow2_entry *old,
                       unsigned how, struct qcow2_entry *ret)
{
    *ret = (struct qcow2_entry){0};
    bool used =
        (old->desc & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED | QCOW2_COPIED)) != 0;
    if (!(how & HOW_FULL) && (q->b->backing || used)) {
        /* A discarded cluster reads as zero where the format can say so. */
        if (q->extended) {
            ret->bitmap = QCOW2_SUB_ALL_ZERO;
        } else {
            ret->desc = q->version >= 3 ? QCOW2_ZERO : 0;
        }
    } else if (!(how & HOW_FULL)) {
        return false;
    }
    return ret->desc != old->desc || ret->bitmap != old->bitmap;
}

static bool zero_entry(const struct qcow2 *q, const struct qcow2_entry *old,
                       unsigned how, struct qcow2_entry *ret)
{
    bool drop = (old->desc & QCOW2_COMPRESSED) || (how & HOW_UNMAP);
    *ret = (struct qcow2_entry){drop ? 0 : old->desc, 0};
    if (q->extended) {
        ret->bitmap = QCOW2_SUB_ALL_ZERO;
    } else {
        ret->desc |= QCOW2_ZERO;
    }
    return ret->desc != old->desc || ret->bitmap != old->bitmap;
}

/* Change the entries of whole clusters, as far as the slice goes. */
static int change_clusters(struct qcow2 *q, uint64_t offset, uint64_t len, change_fn fn,
                           unsigned how, uint64_t *ret_len)
{
    uint64_t done = 0;
    unsigned index = 0;
    do {
        uint8_t *slice;
        uint64_t at;
        int r = own_slice(q, offset + done, &slice, &index, &at);
        if (r < 0) {
            return r;
        }
        struct qcow2_entry old = qcow2_entry_get(q, slice, index), e;
        if (fn(q, &old, how, &e)) {
            bool left = (old.desc & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED)) &&
                        !(e.desc & QCOW2_OFFSET_MASK);
            qcow2_entry_put(q, slice, index, &e);
            slices_dirty(q->cache, at);
            r = left ? qcow2_free_entry(q, &old) : 0;
            if (r < 0) {
                return r;
            }
        }
        done += q->cluster_size;
    } while (done < len && index + 1 < qcow2_slice_entries(q));
    *ret_len = MIN(done, len);
    return 0;
}

/* Whether [offset, offset + len) are whole @unit pieces, the disk's end being one. */
static bool whole(const struct qcow2 *q, uint64_t offset, uint64_t len, uint64_t unit)
{
    return offset % unit == 0 && (len % unit == 0 || offset + len >= q->size) &&
           len > 0;
}

int qcow2_drop_clusters(struct qcow2 *q, uint64_t offset, uint64_t len, bool full,
                        uint64_t *ret_len)
{
    uint64_t shift = q->cluster_bits + q->l2_bits, l1 = offset >> shift;
    bool empty = l1 >= q->l1_size || !(q->l1[l1] & QCOW2_OFFSET_MASK);
    if (empty && (full || !q->b->backing)) {
        *ret_len = MIN(len, ((l1 + 1) << shift) - offset);
        return 0;
    }
    return change_clusters(q, offset, len, drop_entry, full ? HOW_FULL : 0, ret_len);
}

static int qcow2_unmap(struct blk *b, uint64_t offset, uint64_t len, uint64_t *ret_len)
{
    struct qcow2 *q = b->priv;
    *ret_len = len;
    if (q->data_raw) { /* the file must read as the disk does */
        return blk_run(q->data, BLK_ZERO, offset, NULL, 0, len, BLK_MAY_UNMAP);
    }
    if (!whole(q, offset, len, q->cluster_size)) {
        return 0;
    }
    return qcow2_drop_clusters(q, offset, len, false, ret_len);
}

/* A part of one cluster, in whole subclusters. */
static int zero_subclusters(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    uint8_t *slice;
    unsigned index;
    uint64_t at, in = offset & (q->cluster_size - 1);
    int r = own_slice(q, offset, &slice, &index, &at);
    if (r < 0) {
        return r;
    }
    struct qcow2_entry e = qcow2_entry_get(q, slice, index);
    if (e.desc & QCOW2_COMPRESSED) {
        return -ENOTSUP;
    }
    for (uint64_t s = in >> q->sub_bits; s < (in + len) >> q->sub_bits; s++) {
        e.bitmap |= QCOW2_SUB_ZERO(s);
        e.bitmap &= ~QCOW2_SUB_ALLOC(s);
    }
    qcow2_entry_put(q, slice, index, &e);
    slices_dirty(q->cache, at);
    return 0;
}

static int qcow2_zero(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                      uint64_t *ret_len)
{
    struct qcow2 *q = b->priv;
    *ret_len = len;
    if (q->version < 3 && !(flags & BLK_NO_FALLBACK) && !b->backing &&
        whole(q, offset, len, q->cluster_size)) {
        return qcow2_drop_clusters(q, offset, len, false, ret_len); /* zeros, too */
    }
    if (q->version < 3 || q->data_raw) {
        return -ENOTSUP;
    }
    if (whole(q, offset, len, q->cluster_size)) {
        return change_clusters(q, offset, len, zero_entry,
                               flags & BLK_MAY_UNMAP ? HOW_UNMAP : 0, ret_len);
    }
    uint64_t sub = UINT64_C(1) << q->sub_bits;
    if (q->extended && whole(q, offset, len, sub) &&
        cluster_floor(q, offset) == cluster_floor(q, offset + len - 1)) {
        return zero_subclusters(q, offset, ALIGN_UP(len, sub));
    }
    return -ENOTSUP;
}

/* ---- beginning and ending
 * ------------------------------------------------------------------- */

int qcow2_begin(struct blk *b)
{
    struct qcow2 *q = b->priv;
    uint64_t autoclear =
        q->autoclear &
        (QCOW2_AUTOCLEAR_DATA_RAW |
         (q->bitmaps->len || q->bitmaps_lost ? QCOW2_AUTOCLEAR_BITMAPS : 0));
    bool change = autoclear != q->autoclear;
    if (q->loaded_snapshot) {
        return -EROFS;
    }
    q->autoclear = autoclear;
    int err = qcow2_begin_bitmaps(q);
    if (err < 0) {
        return err;
    }
    if (q->lazy && !(q->incompatible & QCOW2_INCOMPAT_DIRTY)) {
        q->incompatible |= QCOW2_INCOMPAT_DIRTY;
        change = true;
    }
    if (!change) {
        return 0;
    }
    int r = qcow2_write_features(q);
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static int qcow2_flush(struct blk *b)
{
    return qcow2_writeback(b->priv);
}

static int qcow2_finish(struct blk *b)
{
    struct qcow2 *q = b->priv;
    q->lazy = false;
    q->finished = true;
    int r = qcow2_store_bitmaps(q);
    int r2 = qcow2_flush_at_end(q);
    r = r ? r : r2;
    if (r == 0 && (q->incompatible & QCOW2_INCOMPAT_DIRTY)) {
        r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
        if (r == 0) {
            q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
            r = qcow2_write_features(q);
        }
    }
    return r;
}

const struct blk_write_ops qcow2_write_ops = {
    .begin = qcow2_begin,
    .reserve = qcow2_reserve,
    .publish = qcow2_publish,
    .codec = qcow2_codec,
    .cancel = qcow2_cancel,
    .unmap = qcow2_unmap,
    .zero = qcow2_zero,
    .zero_always = true,
    .flush = qcow2_flush,
    .finish = qcow2_finish,
    .written = qcow2_written,
};
