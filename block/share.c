#include <errno.h>

#include "block/blk_priv.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * Data of one image as data of another without moving it: both files refer to the same
 * extents of a file system that can share them (XFS, btrfs). It is a write, with
 * everything that goes with one (ranges, reserve, publish); only that the bytes come by
 * blk_protocol.share instead of through memory.
 */

/* The protocol node at the bottom of @b, as far as there is one way down. */
static struct blk *bottom(struct blk *b)
{
    while (b && b->format) {
        b = b->file;
    }
    return b;
}

bool blk_may_share(struct blk *from, struct blk *to)
{
    struct blk *f = bottom(from), *t = bottom(to);
    return f && t && f->proto == t->proto && t->proto->may_share &&
           t->proto->may_share(t, f);
}

/* What is shared: bytes of a protocol node. */
struct origin {
    struct blk *file;
    uint64_t offset;
};

static int share_in(struct blk *b, uint64_t offset, uint64_t len,
                    const struct origin *from, uint64_t *ret_len);

static int share_proto(struct blk *b, uint64_t offset, uint64_t len,
                       const struct origin *from)
{
    return b->proto == from->file->proto && b->proto->share
               ? b->proto->share(b, offset, from->file, from->offset, len)
               : -ENOTSUP;
}

/* Into new room, which must be whole: what is around it cannot be filled in. */
static int share_reserved(struct blk *b, uint64_t offset, uint64_t len,
                          const struct origin *from, uint64_t *ret_len)
{
    const struct blk_write_ops *w = b->format->writable;
    uint64_t unit = MAX(b->limits.alloc_unit, 1);
    if (!w->reserve) {
        return -ENOTSUP;
    }
    if (offset % unit || len < unit) {
        *ret_len = MIN(len, unit - offset % unit);
        return -EAGAIN;
    }
    struct blk_reservation r = {.offset = offset, .len = len - len % unit};
    uint64_t done;
    int err = blk_reserve(b, &r);
    if (err) {
        return err;
    }
    *ret_len = r.len;
    if (r.crypt || r.guest_start != offset || r.guest_len != r.len) {
        err = -ENOTSUP;
    } else {
        err = share_in(r.child, r.child_offset, r.len, from, &done);
        err = err == 0 && done < r.len ? -ENOTSUP : err;
    }
    return blk_finish_reservation(b, &r, err);
}

/* The caller is in the range. */
static int share_format(struct blk *b, uint64_t offset, uint64_t len,
                        const struct origin *from, uint64_t *ret_len)
{
    struct blk_extent e;
    blk_meta_lock(b);
    int r = blk_begin_locked(b);
    r = r ? r : b->format->map(b, offset, len, &e);
    blk_meta_unlock(b);
    if (r < 0) {
        return r;
    }
    if (e.kind != BLK_EXT_DATA || !(e.flags & BLK_EXT_IN_PLACE)) {
        return share_reserved(b, offset, e.len, from, ret_len);
    }
    return e.crypt ? -ENOTSUP : share_in(e.child, e.offset, e.len, from, ret_len);
}

static int share_in(struct blk *b, uint64_t offset, uint64_t len,
                    const struct origin *from, uint64_t *ret_len)
{
    struct blk_range range = {.exclusive = b->format != NULL};
    if (b->core->ranged) {
        blk_range_of(b, offset, len, &range);
        blk_ranges_enter_wait(&b->core->ranges, &range, b->loop);
    }
    *ret_len = len;
    int r = b->format ? share_format(b, offset, len, from, ret_len)
                      : share_proto(b, offset, len, from);
    if (b->core->ranged) {
        blk_ranges_leave(&b->core->ranges, &range);
    }
    if (r == 0) {
        blk_note_written(b, BLK_WRITE, offset, *ret_len);
        blk_grew(b, offset + *ret_len);
    }
    return r;
}

int blk_share(struct blk *from, uint64_t from_offset, struct blk *to,
              uint64_t to_offset, uint64_t len, uint64_t *ret_len)
{
    struct blk_status s;
    if (to->read_only) {
        return -EROFS;
    }
    if (len == 0 || !ck_range(to_offset, len, blk_length(to))) {
        return -EINVAL;
    }
    int r = blk_map_at(from, from_offset, len, &s);
    if (r < 0) {
        return r;
    }
    *ret_len = s.len;
    if (!(s.flags & BLK_STATUS_OFFSET) || !(s.flags & BLK_STATUS_DATA) ||
        (s.flags & BLK_STATUS_COMPRESSED) || !s.file) {
        return -EAGAIN;
    }
    struct origin origin = {s.file, s.file_offset};
    return share_in(to, to_offset, s.len, &origin, ret_len);
}
