#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <string.h>

#include "block/codec/codec.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * New grains go behind the end of the extent's file, whose space reads as zero: what a
 * write does not fill needs no zeros, only what a parent has is copied. Grain tables
 * are there from the start in images made here; where a directory has none, one is
 * made.
 *
 * The marker of a compressed grain is written when the place is given out, before the
 * stream behind it; the entry comes last of all.
 */

#define SECTORS_LIMIT (UINT64_C(1) << 32)

/* Where the next grain can go. */
static uint64_t next_place(struct vmdk_extent *e)
{
    uint64_t unit = e->compressed ? VMDK_SECTOR : e->grain;
    if (e->next == 0) {
        uint64_t end = MAX(e->file->content_len, e->data_start);
        e->next = (end + unit - 1) / unit * unit;
    }
    return e->next;
}

static int set_one(struct vmdk_extent *e, uint64_t gd, uint64_t in, uint32_t value)
{
    uint64_t at;
    int r = vmdk_entry_at(e, gd, in, false, &at);
    return r || !at ? r : pages_put_le32(e->pages, at, value);
}

int vmdk_set_entry(struct vmdk_extent *e, uint64_t in, uint32_t value)
{
    int r = e->rgd ? set_one(e, e->rgd, in, value) : 0;
    return r ? r : set_one(e, e->gd, in, value);
}

/* An empty grain table for @in, where the directory has none. */
static int make_table(struct vmdk_extent *e, uint64_t gd, uint64_t in)
{
    uint64_t at, place = next_place(e), bytes = e->gt_entries * 4ull;
    int r = vmdk_entry_at(e, gd, in, false, &at);
    if (r || at) {
        return r;
    }
    uint64_t unit = e->compressed ? VMDK_SECTOR : e->grain;
    if (place / VMDK_SECTOR + bytes / VMDK_SECTOR >= SECTORS_LIMIT) {
        return -EFBIG;
    }
    r = pages_zero_space(e->file, place, bytes);
    if (r == 0) {
        e->next = place + (bytes + unit - 1) / unit * unit;
        r = pages_put_le32(e->pages, gd + in / e->grain / e->gt_entries * 4,
                           (uint32_t)(place / VMDK_SECTOR));
    }
    return r;
}

static int need_tables(struct vmdk_extent *e, uint64_t in)
{
    int r = make_table(e, e->gd, in);
    return r || !e->rgd ? r : make_table(e, e->rgd, in);
}

/* Grains from @in on that have no space: bytes, at most up to @end. */
static int free_run(struct vmdk_extent *e, uint64_t in, uint64_t end, uint64_t *ret)
{
    uint64_t table = e->grain * e->gt_entries, at = in;
    end = MIN(end, in - in % table + table);
    while (at < end) {
        enum vmdk_grain kind;
        uint64_t place;
        int r = vmdk_lookup(e, at, false, &kind, &place);
        if (r < 0) {
            return r;
        }
        if (kind == VMDK_GRAIN_DATA) {
            break;
        }
        at += e->grain;
    }
    *ret = at - in;
    return at == in ? -EIO : 0; /* there, but not to be written: damaged or packed */
}

static int take_space(struct vmdk_extent *e, uint64_t bytes, uint64_t *ret)
{
    uint64_t place = next_place(e), unit = e->compressed ? VMDK_SECTOR : e->grain;
    bytes = (bytes + unit - 1) / unit * unit;
    if ((place + bytes) / VMDK_SECTOR >= SECTORS_LIMIT) {
        return -EFBIG;
    }
    *ret = place;
    e->next = place + bytes;
    return 0;
}

static int reserve_packed(struct vmdk_extent *e, struct blk_reservation *r)
{
    uint64_t place, lba = r->offset / VMDK_SECTOR;
    uint8_t marker[VMDK_MARKER_BYTES];
    int err = take_space(e, sizeof(marker) + r->stored_len, &place);
    if (err) {
        return err;
    }
    le64_put(marker, lba);
    le32_put(marker + 8, (uint32_t)r->stored_len);
    r->child_offset = place + sizeof(marker);
    r->tag[0] = place / VMDK_SECTOR;
    return blk_pwrite(e->file, place, marker, sizeof(marker));
}

/* Space for whole grains; the caller's write fills them, or they read as zero, or are
 * filled from the parent. */
static int reserve_plain(struct blk *b, struct vmdk_extent *e,
                         struct blk_reservation *r, uint64_t bytes)
{
    uint64_t place, end = r->offset + r->len;
    int err = take_space(e, bytes, &place);
    if (err) {
        return err;
    }
    r->child_offset = place;
    r->tag[0] = place / VMDK_SECTOR;
    r->fill = b->backing ? BLK_FILL_OLD : BLK_FILL_NO;
    bool whole = r->offset == r->guest_start && end == r->guest_start + bytes;
    return whole ? 0 : pages_zero_space(e->file, place, bytes);
}

static int vmdk_reserve(struct blk *b, struct blk_reservation *r)
{
    const struct vmdk *v = b->priv;
    struct vmdk_extent *e = vmdk_extent_at(v, r->offset);
    uint64_t bytes;
    if (!e || e->kind != VMDK_SPARSE || e->read_only || e->at_end) {
        return -EIO;
    }
    uint64_t in = r->offset - e->start, first = in - in % e->grain;
    int err = free_run(e, first, MIN(in + r->len, e->len), &bytes);
    if (err && e->compressed) {
        blk_warn(b, "Could not write to allocated cluster for streamOptimized");
    }
    if (err == 0 && e->compressed != (r->stored_len != 0)) {
        err = -EIO;
    }
    err = err ? err : need_tables(e, first);
    if (err) {
        return err;
    }
    bytes = r->stored_len ? e->grain : bytes;
    r->guest_start = e->start + first;
    r->guest_len = MIN(bytes, e->len - first);
    r->len = MIN(r->len, r->guest_start + r->guest_len - r->offset);
    r->child = e->file;
    return r->stored_len ? reserve_packed(e, r) : reserve_plain(b, e, r, bytes);
}

static int vmdk_publish(struct blk *b, const struct blk_reservation *r)
{
    const struct vmdk *v = b->priv;
    struct vmdk_extent *e = vmdk_extent_at(v, r->guest_start);
    uint64_t in = r->guest_start - e->start, sector = r->tag[0];
    for (uint64_t at = 0; at < r->guest_len; at += e->grain) {
        int err = vmdk_set_entry(e, in + at, (uint32_t)sector);
        if (err) {
            return err;
        }
        sector += e->grain / VMDK_SECTOR;
    }
    return 0;
}

/* Space at the end that was not used is given out again. */
static void vmdk_cancel(struct blk *b, const struct blk_reservation *r)
{
    const struct vmdk *v = b->priv;
    struct vmdk_extent *e = vmdk_extent_at(v, r->guest_start);
    uint64_t unit = e->compressed ? VMDK_SECTOR : e->grain;
    uint64_t bytes = r->stored_len ? VMDK_MARKER_BYTES + r->stored_len : r->guest_len;
    uint64_t place = r->tag[0] * VMDK_SECTOR;
    if (e->next == place + (bytes + unit - 1) / unit * unit) {
        e->next = place;
    }
}

static const struct blk_codec *vmdk_codec(const struct blk *b, uint64_t *ret_chunk)
{
    const struct vmdk *v = b->priv;
    *ret_chunk = b->chunks_only ? v->extents[0].grain : 0;
    return b->chunks_only ? &blk_codec_zlib : NULL;
}

/* A whole grain with the mark for zeros; the space it had, if any, is given back to the
 * file system. */
static int zero_grain(struct vmdk_extent *e, uint64_t in, unsigned flags)
{
    enum vmdk_grain kind;
    uint64_t place;
    int r = vmdk_lookup(e, in, false, &kind, &place);
    if (r == 0 && kind == VMDK_GRAIN_DATA && !e->compressed && place >= e->data_start &&
        (flags & BLK_MAY_UNMAP)) {
        blk_run(e->file, BLK_DISCARD, place, NULL, 0, e->grain, 0);
    }
    r = r ? r : need_tables(e, in);
    return r ? r : vmdk_set_entry(e, in, VMDK_GTE_ZEROED);
}

static int vmdk_zero(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                     uint64_t *ret_len)
{
    const struct vmdk *v = b->priv;
    struct vmdk_extent *e = vmdk_extent_at(v, offset);
    if (!e || e->kind != VMDK_SPARSE || e->read_only || !e->zero_grains || e->at_end) {
        return -ENOTSUP;
    }
    uint64_t in = offset - e->start, done = 0;
    len = MIN(len, e->len - in);
    if (in % e->grain) {
        return -ENOTSUP;
    }
    while (len - done >= e->grain || (done < len && in + len == e->len)) {
        int r = zero_grain(e, in + done, flags);
        if (r < 0) {
            return r;
        }
        done = MIN(len, done + e->grain);
    }
    *ret_len = done;
    return done ? 0 : -ENOTSUP;
}

/* Who has this image as a parent must see that it was changed. */
static int vmdk_begin(struct blk *b)
{
    const struct vmdk *v = b->priv;
    bool text = v->desc_embedded || v->extents[0].file != b->file;
    for (unsigned i = 0; i < v->nb_extents; i++) {
        if (v->extents[i].at_end) {
            return -ENOTSUP; /* a finished stream */
        }
    }
    return text ? vmdk_write_cid(b) : 0;
}

int vmdk_flush(struct blk *b)
{
    const struct vmdk *v = b->priv;
    int ret = 0;
    for (unsigned i = 0; i < v->nb_extents; i++) {
        struct vmdk_extent *e = &v->extents[i];
        int r = e->pages ? pages_write(e->pages) : 0;
        /* A stream of grains ends with a whole sector. */
        uint64_t rest = e->compressed ? e->file->content_len % VMDK_SECTOR : 0;
        if (r == 0 && rest) {
            r = pages_zero_space(e->file, e->file->content_len, VMDK_SECTOR - rest);
        }
        ret = ret ? ret : r;
    }
    return ret;
}

const struct blk_write_ops vmdk_write_ops = {
    .begin = vmdk_begin,
    .reserve = vmdk_reserve,
    .publish = vmdk_publish,
    .cancel = vmdk_cancel,
    .codec = vmdk_codec,
    .zero = vmdk_zero,
    .flush = vmdk_flush,
    .finish = vmdk_flush,
};
