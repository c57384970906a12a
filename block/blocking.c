#include "block/blk_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/event.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * The blocking data path: every request, in the calling thread. Pool threads come here
 * for what the asynchronous path does not do itself, formats for their metadata, tools
 * for everything. It is the complete and plain version; datapath.c is the fast one, and
 * the tests run both against each other.
 *
 * Memory: bounce buffers hold at most a few allocation units or a compressed chunk,
 * whose sizes formats bound when they open, and are taken with g_try_malloc.
 */

enum { WRITE_STEP = 2 * 1024 * 1024, ZERO_STEP = 1024 * 1024, CHUNK_MAX = 64 << 20 };

static int run_iov(struct blk *b, enum blk_op op, uint64_t offset, uint64_t len,
                   const struct iovec *iov, unsigned nb, unsigned flags)
{
    return blk_run(b, op, offset, iov, nb, len, flags);
}

/* @len bytes of @d to or from @child. */
static int run_data(struct blk *child, enum blk_op op, uint64_t offset, uint64_t len,
                    const struct blk_data *d, unsigned flags)
{
    if (!d->iov) {
        return run_iov(child, BLK_ZERO, offset, len, NULL, 0, flags);
    }
    g_autofree struct iovec *iov = g_new(struct iovec, d->nb);
    unsigned n = blk_data_slice(d, len, iov);
    return run_iov(child, op, offset, len, iov, n, flags);
}

/* Read @len bytes of @child, with zeros for what lies behind its end. */
static int read_padded(struct blk *child, uint64_t offset, uint8_t *buf, uint64_t len)
{
    uint64_t length = blk_length(child);
    uint64_t has = offset < length ? MIN(len, length - offset) : 0;
    memset(buf + has, 0, len - has);
    return has ? blk_pread(child, offset, buf, has) : 0;
}

/* ---- reading one extent -------------------------------------------------------------
 */

static int read_data(const struct blk_extent *e, const struct blk_data *d)
{
    if (!e->crypt && ck_range(e->offset, e->len, blk_length(e->child))) {
        return run_data(e->child, BLK_READ, e->offset, e->len, d, 0);
    }
    uint64_t before = e->crypt ? e->iv_offset % e->crypt->sector_bytes : 0;
    uint64_t len = before + e->len;
    if (e->crypt) {
        len = ALIGN_UP(len, (uint64_t)e->crypt->sector_bytes);
    }
    g_autofree uint8_t *buf = g_try_malloc(len);
    if (!buf) {
        return -ENOMEM;
    }
    int r = read_padded(e->child, e->offset - before, buf, len);
    if (r == 0 && e->crypt) {
        r = e->crypt->decrypt(e->crypt, e->iv_offset - before, buf, len);
    }
    if (r == 0) {
        blk_data_copy_in(d, buf + before, e->len);
    }
    return r;
}

/* The chunk of @e to @dst, guest_len bytes. */
static int decode_chunk(const struct blk_extent *e, uint8_t *dst)
{
    g_autofree uint8_t *stored = g_try_malloc(e->stored_len);
    if (!stored) {
        return -ENOMEM;
    }
    int r = read_padded(e->child, e->offset, stored, e->stored_len);
    if (r == 0 && e->crypt) {
        r = e->crypt->decrypt(e->crypt, e->iv_offset, stored, e->stored_len);
    }
    return r ? r : e->codec->decode(stored, e->stored_len, dst, e->guest_len);
}

/* A part of a chunk, by way of the cache. */
static int read_chunk_part(struct blk *b, uint64_t at, const struct blk_extent *e,
                           const struct blk_data *d)
{
    struct blk_chunks *cs = b->core->chunks;
    bool mine;
    int r = 0;
    /* Who decodes may wait for a request that only the loop's thread can complete. */
    struct blk_chunk *c = blk_chunks_get(cs, e, !loop_in_thread(b->loop), &mine);
    if (!c) {
        return -ENOMEM;
    }
    if (mine) {
        r = decode_chunk(e, c->data);
        blk_chunks_decoded(cs, c, r == 0);
    } else if (c->state == BLK_CHUNK_BAD) {
        r = -EIO;
    }
    if (r == 0) {
        blk_data_copy_in(d, c->data + at, e->len);
    }
    blk_chunks_unref(cs, c);
    return r;
}

int blk_read_chunk(struct blk *b, uint64_t offset, const struct blk_extent *e,
                   const struct blk_data *d, bool now)
{
    uint64_t at = offset - e->guest_start;
    if (offset < e->guest_start || !ck_range(at, e->len, e->guest_len) ||
        e->guest_len > CHUNK_MAX || e->stored_len > CHUNK_MAX || e->stored_len == 0) {
        return -EIO;
    }
    struct blk_chunk *c = blk_chunks_peek(b->core->chunks, e);
    if (c) {
        blk_data_copy_in(d, c->data + at, e->len);
        blk_chunks_unref(b->core->chunks, c);
        return 0;
    }
    if (now) {
        return -EAGAIN;
    }
    /* All of it and into one piece: nobody needs it in between. */
    void *whole = e->len == e->guest_len ? blk_data_flat(d, e->len) : NULL;
    return whole ? decode_chunk(e, whole) : read_chunk_part(b, at, e, d);
}

void blk_forget_chunks(struct blk *b)
{
    blk_chunks_forget(b->core->chunks, 0, UINT64_MAX);
}

static int read_unallocated(struct blk *b, uint64_t offset, uint64_t len,
                            const struct blk_data *d)
{
    uint64_t has = blk_backing_has(b, offset, len);
    struct blk_data rest = blk_data_at(d, has);
    blk_data_zero(&rest, len - has);
    return has ? run_data(b->backing, BLK_READ, offset, has, d, 0) : 0;
}

/* Map, copying INLINE bytes to @d (if not NULL) while they are valid. */
static int map_locked(struct blk *b, uint64_t offset, uint64_t len,
                      struct blk_extent *e, const struct blk_data *d)
{
    blk_meta_lock(b);
    int r = b->format->map(b, offset, len, e);
    if (r == 0 && d && e->kind == BLK_EXT_INLINE) {
        blk_data_copy_in(d, e->bytes, e->len);
    }
    blk_meta_unlock(b);
    return r;
}

static void read_event(struct blk *b, uint64_t offset, const struct blk_extent *e)
{
    if (e->kind == BLK_EXT_DATA) {
        blk_event(b->file, BLK_EVENT_READ_AIO);
    } else if (e->kind == BLK_EXT_COMPRESSED) {
        blk_event(b->file, BLK_EVENT_READ_COMPRESSED);
    } else if (e->kind == BLK_EXT_UNALLOCATED && blk_backing_has(b, offset, e->len)) {
        blk_event(b->file, BLK_EVENT_READ_BACKING_AIO);
    }
}

static int format_read(struct blk *b, uint64_t offset, uint64_t len,
                       const struct blk_data *data)
{
    struct blk_data d = *data;
    while (len > 0) {
        struct blk_extent e;
        int r = map_locked(b, offset, len, &e, &d);
        if (r < 0) {
            return r;
        }
        read_event(b, offset, &e);
        switch (e.kind) {
        case BLK_EXT_DATA: r = read_data(&e, &d); break;
        case BLK_EXT_ZERO: blk_data_zero(&d, e.len); break;
        case BLK_EXT_UNALLOCATED: r = read_unallocated(b, offset, e.len, &d); break;
        case BLK_EXT_COMPRESSED: r = blk_read_chunk(b, offset, &e, &d, false); break;
        case BLK_EXT_INLINE: break;
        }
        if (r < 0) {
            return r;
        }
        offset += e.len;
        len -= e.len;
        d = blk_data_at(&d, e.len);
    }
    return 0;
}

/* What a guest would read now, for the edges of a copy on write. */
static int read_old(struct blk *b, uint64_t offset, uint8_t *buf, uint64_t len)
{
    uint64_t state = atomic_load(&b->core->vmstate_at);
    uint64_t length = state && offset >= state ? INT64_MAX : blk_length(b);
    uint64_t has = offset < length ? MIN(len, length - offset) : 0;
    memset(buf + has, 0, len - has);
    struct iovec iov = {buf, has};
    struct blk_data d = {&iov, 1, 0};
    return has ? format_read(b, offset, has, &d) : 0;
}

/* ---- writing one extent
 * ----------------------------------------------------------------- */

/* Into encrypted data in place: whole sectors of the cipher. */
static int write_crypt(const struct blk_extent *e, uint64_t len,
                       const struct blk_data *d)
{
    const struct blk_crypt *c = e->crypt;
    uint64_t before = e->iv_offset % c->sector_bytes;
    uint64_t all = ALIGN_UP(before + len, (uint64_t)c->sector_bytes);
    g_autofree uint8_t *buf = g_try_malloc(all);
    if (!buf) {
        return -ENOMEM;
    }
    int r = 0;
    if (before || all != len) {
        r = read_padded(e->child, e->offset - before, buf, all);
        if (r == 0) {
            r = c->decrypt(c, e->iv_offset - before, buf, all);
        }
    }
    if (r == 0) {
        blk_data_copy_out(d, buf + before, len);
        r = c->encrypt(c, e->iv_offset - before, buf, all);
    }
    return r == 0 ? blk_pwrite(e->child, e->offset - before, buf, all) : r;
}

/* The edges around new data: what fill asks for before and behind it. */
struct edges {
    uint8_t *head, *tail;
    uint64_t head_len, tail_len;
};

static int read_edges(struct blk *b, const struct blk_reservation *r,
                      struct edges *edges)
{
    uint64_t end = r->offset + r->len, guest_end = r->guest_start + r->guest_len;
    edges->head_len = r->offset - r->guest_start;
    edges->tail_len = guest_end - end;
    edges->head = g_try_malloc(edges->head_len + edges->tail_len + 1);
    if (!edges->head) {
        return -ENOMEM;
    }
    edges->tail = edges->head + edges->head_len;
    int err = read_old(b, r->guest_start, edges->head, edges->head_len);
    return err ? err : read_old(b, end, edges->tail, edges->tail_len);
}

static int write_reserved_plain(const struct blk_reservation *r, const struct edges *e,
                                const struct blk_data *d)
{
    g_autofree uint8_t *zeros = NULL;
    struct iovec zero_iov;
    struct blk_data data = *d;
    if (!d->iov) {
        zeros = g_try_malloc0(r->len);
        if (!zeros) {
            return -ENOMEM;
        }
        zero_iov = (struct iovec){zeros, r->len};
        data = (struct blk_data){&zero_iov, 1, 0};
    }
    g_autofree struct iovec *iov = g_new(struct iovec, data.nb + 2);
    unsigned n = 0;
    if (e->head_len) {
        iov[n++] = (struct iovec){e->head, e->head_len};
    }
    n += blk_data_slice(&data, r->len, iov + n);
    if (e->tail_len) {
        iov[n++] = (struct iovec){e->tail, e->tail_len};
    }
    uint64_t at = r->child_offset + (r->offset - e->head_len - r->guest_start);
    return run_iov(r->child, BLK_WRITE, at, e->head_len + r->len + e->tail_len, iov, n,
                   0);
}

static int write_reserved_crypt(const struct blk_reservation *r, const struct edges *e,
                                const struct blk_data *d)
{
    uint64_t all = e->head_len + r->len + e->tail_len;
    uint64_t skip = r->offset - e->head_len - r->guest_start;
    g_autofree uint8_t *buf = g_try_malloc(all);
    if (!buf) {
        return -ENOMEM;
    }
    memcpy(buf, e->head, e->head_len);
    blk_data_copy_out(d, buf + e->head_len, r->len);
    memcpy(buf + e->head_len + r->len, e->tail, e->tail_len);
    int err = r->crypt->encrypt(r->crypt, r->iv_offset + skip, buf, all);
    return err ? err : blk_pwrite(r->child, r->child_offset + skip, buf, all);
}

int blk_begin_locked(struct blk *b)
{
    const struct blk_write_ops *w = b->format->writable;
    int r = 0;
    if (!atomic_load(&b->core->begun)) {
        r = w->begin ? w->begin(b) : 0;
        if (r == 0) {
            atomic_store(&b->core->begun, true);
        }
    }
    return r;
}

int blk_reserve(struct blk *b, struct blk_reservation *r)
{
    blk_meta_lock(b);
    int err = b->format->writable->reserve(b, r);
    blk_meta_unlock(b);
    if (err == 0 && (r->guest_start > r->offset ||
                     r->guest_start + r->guest_len < r->offset + r->len)) {
        err = -EIO;
    }
    return err;
}

/* The data was written, or not with @err: publish or cancel. */
int blk_finish_reservation(struct blk *b, const struct blk_reservation *r, int err)
{
    const struct blk_write_ops *w = b->format->writable;
    blk_meta_lock(b);
    if (err == 0) {
        err = w->publish(b, r);
    } else if (w->cancel) {
        w->cancel(b, r);
    }
    blk_meta_unlock(b);
    blk_chunks_forget(b->core->chunks, r->guest_start, r->guest_len);
    return err;
}

/* Reserve room, fill it, publish it; how far in *ret_len. */
static int write_reserving(struct blk *b, uint64_t offset, uint64_t len,
                           const struct blk_data *d, uint64_t *ret_len)
{
    const struct blk_write_ops *w = b->format->writable;
    if (!w->reserve) {
        return -ENOTSUP;
    }
    struct blk_reservation r = {.offset = offset, .len = len};
    int err = blk_reserve(b, &r);
    if (err) {
        return err;
    }
    struct edges edges = {0};
    if (r.fill == BLK_FILL_OLD) {
        if (r.guest_len != r.len) {
            blk_event(b->file, BLK_EVENT_COW_READ);
        }
        err = read_edges(b, &r, &edges);
    }
    if (err == 0) {
        blk_event(b->file, BLK_EVENT_WRITE_AIO);
        if (r.fill == BLK_FILL_OLD && r.guest_len != r.len) {
            blk_event(b->file, BLK_EVENT_COW_WRITE);
        }
        err = r.crypt ? write_reserved_crypt(&r, &edges, d)
                      : write_reserved_plain(&r, &edges, d);
    }
    g_free(edges.head);
    *ret_len = r.len;
    return blk_finish_reservation(b, &r, err);
}

static int format_write(struct blk *b, uint64_t offset, uint64_t len,
                        const struct blk_data *data, unsigned flags)
{
    struct blk_data d = *data;
    while (len > 0) {
        struct blk_extent e;
        uint64_t done = MIN(len, WRITE_STEP);
        int r = map_locked(b, offset, len, &e, NULL);
        if (r < 0) {
            return r;
        }
        if (e.kind != BLK_EXT_DATA || !(e.flags & BLK_EXT_IN_PLACE)) {
            r = write_reserving(b, offset, MIN(e.len, done), &d, &done);
        } else if (e.crypt) {
            done = MIN(e.len, done);
            blk_event(b->file, BLK_EVENT_WRITE_AIO);
            r = write_crypt(&e, done, &d);
        } else {
            done = e.len;
            blk_event(b->file, BLK_EVENT_WRITE_AIO);
            r = run_data(e.child, BLK_WRITE, e.offset, done, &d, flags);
        }
        if (r < 0) {
            return r;
        }
        offset += done;
        len -= done;
        d = blk_data_at(&d, done);
    }
    return 0;
}

/* One chunk: encoded, stored, published; -ENOSPC when that is no shorter. */
static int write_chunk(struct blk *b, const struct blk_codec *codec, uint64_t chunk,
                       struct blk_reservation *r, const struct blk_data *d)
{
    g_autofree uint8_t *plain = g_try_malloc(chunk);
    uint64_t room = b->chunks_only ? BLK_CHUNK_ROOM(chunk) : chunk - 1;
    g_autofree uint8_t *stored = g_try_malloc(room);
    if (!plain || !stored) {
        return -ENOMEM;
    }
    blk_data_copy_out(d, plain, r->len);
    memset(plain + r->len, 0, chunk - r->len); /* the last one of the disk */
    int64_t n = codec->encode(plain, chunk, stored, room);
    if (n <= 0) {
        return n < 0 ? (int)n : -EIO;
    }
    r->stored_len = (uint64_t)n;
    int err = blk_reserve(b, r);
    if (err) {
        return err;
    }
    blk_event(b->file, BLK_EVENT_WRITE_COMPRESSED);
    err = r->crypt ? -ENOTSUP
                   : blk_pwrite(r->child, r->child_offset, stored, (uint64_t)n);
    return blk_finish_reservation(b, r, err);
}

static int format_write_compressed(struct blk *b, uint64_t offset, uint64_t len,
                                   const struct blk_data *data, unsigned flags)
{
    uint64_t chunk;
    const struct blk_codec *codec = b->format->writable->codec(b, &chunk);
    struct blk_data d = *data;
    if (!codec) {
        return format_write(b, offset, len, data, flags);
    }
    if (chunk == 0 || chunk > CHUNK_MAX || offset % chunk ||
        (len % chunk && offset + len != blk_length(b))) {
        return -EINVAL;
    }
    while (len > 0) {
        struct blk_reservation r = {.offset = offset, .len = MIN(len, chunk)};
        uint64_t part = r.len;
        int err = write_chunk(b, codec, chunk, &r, &d);
        if (err == -ENOSPC && r.stored_len == 0) {
            err = format_write(b, offset, part, &d, flags);
        }
        if (err) {
            return err;
        }
        offset += part;
        len -= part;
        d = blk_data_at(&d, part);
    }
    return 0;
}

/* ---- zeroes and discards
 * ------------------------------------------------------------------- */

static bool reads_zero(struct blk *b, const struct blk_extent *e, uint64_t offset)
{
    return e->kind == BLK_EXT_ZERO ||
           (e->kind == BLK_EXT_UNALLOCATED && blk_backing_has(b, offset, e->len) == 0);
}

/* Zero what one extent covers without the format's own zero; how far in *ret_len. */
static int zero_extent(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                       uint64_t *ret_len)
{
    static const struct blk_data zeros = {0};
    struct blk_extent e;
    int r = map_locked(b, offset, len, &e, NULL);
    if (r < 0) {
        return r;
    }
    *ret_len = e.len;
    if (reads_zero(b, &e, offset)) {
        return 0;
    }
    if (e.kind == BLK_EXT_DATA && (e.flags & BLK_EXT_IN_PLACE) && !e.crypt) {
        return blk_run(e.child, BLK_ZERO, e.offset, NULL, 0, e.len, flags);
    }
    if (flags & BLK_NO_FALLBACK) {
        return -ENOTSUP;
    }
    *ret_len = MIN(e.len, WRITE_STEP);
    return format_write(b, offset, *ret_len, &zeros, flags & ~(unsigned)BLK_MAY_UNMAP);
}

/* As far as the format's own zero or unmap can be asked at once: a part of an
 * allocation unit, or a run of whole ones. */
static uint64_t unit_step(const struct blk *b, uint64_t offset, uint64_t len)
{
    uint64_t unit = b->limits.alloc_unit;
    if (unit < 2) {
        return len;
    }
    uint64_t in = offset % unit;
    if (in || len < unit) {
        return MIN(len, unit - in);
    }
    return len - len % unit;
}

static int format_zero(struct blk *b, uint64_t offset, uint64_t len, unsigned flags)
{
    const struct blk_write_ops *w = b->format->writable;
    if ((flags & BLK_NO_FALLBACK) && !w->zero_always && !b->format->passes_perms) {
        return -ENOTSUP;
    }
    while (len > 0) {
        uint64_t done = 0, step = unit_step(b, offset, len);
        int r = -ENOTSUP;
        if (w->zero) {
            blk_meta_lock(b);
            r = w->zero(b, offset, step, flags, &done);
            blk_meta_unlock(b);
            blk_chunks_forget(b->core->chunks, offset, step);
        }
        if (r == -ENOTSUP && (!(flags & BLK_NO_FALLBACK) || !w->zero)) {
            r = zero_extent(b, offset, step, flags, &done);
        }
        if (r < 0) {
            return r;
        }
        offset += done;
        len -= done;
    }
    return 0;
}

static int format_discard(struct blk *b, uint64_t offset, uint64_t len)
{
    const struct blk_write_ops *w = b->format->writable;
    while (len > 0) {
        uint64_t done = 0;
        int r;
        if (w->unmap) {
            blk_meta_lock(b);
            uint64_t step = unit_step(b, offset, len);
            r = w->unmap(b, offset, step, &done);
            blk_meta_unlock(b);
            blk_chunks_forget(b->core->chunks, offset, step);
        } else {
            struct blk_extent e;
            r = map_locked(b, offset, len, &e, NULL);
            done = e.len;
            if (r == 0 && e.kind == BLK_EXT_DATA && (e.flags & BLK_EXT_IN_PLACE)) {
                r = blk_run(e.child, BLK_DISCARD, e.offset, NULL, 0, e.len, 0);
            }
        }
        if (r < 0) {
            return r;
        }
        offset += done;
        len -= done;
    }
    return 0;
}

static int format_flush(struct blk *b)
{
    const struct blk_write_ops *w = b->format->writable;
    int r = 0;
    blk_event(b->file, BLK_EVENT_FLUSH_TO_OS);
    if (w && w->flush && atomic_load(&b->core->begun)) {
        blk_meta_lock(b);
        r = w->flush(b);
        blk_meta_unlock(b);
    }
    blk_event(b->file, BLK_EVENT_FLUSH_TO_DISK);
    for (unsigned i = 0; i < b->core->children->len; i++) {
        struct blk *child = g_array_index(b->core->children, struct blk_child, i).blk;
        if (child == b->backing) {
            continue;
        }
        int err = blk_run(child, BLK_FLUSH, 0, NULL, 0, 0, 0);
        if (r == 0) {
            r = err;
        }
    }
    return r;
}

int blk_format_run_held(struct blk *b, enum blk_op op, uint64_t offset, uint64_t len,
                        const struct blk_data *data, unsigned flags)
{
    int r = 0;
    if (op == BLK_READ) {
        return format_read(b, offset, len, data);
    }
    if (op == BLK_FLUSH) {
        return format_flush(b);
    }
    blk_meta_lock(b);
    r = blk_begin_locked(b);
    blk_meta_unlock(b);
    if (r < 0) {
        return r;
    }
    switch (op) {
    case BLK_WRITE:
        r = flags & BLK_COMPRESS
                ? format_write_compressed(b, offset, len, data,
                                          flags & ~(unsigned)BLK_COMPRESS)
                : format_write(b, offset, len, data, flags);
        break;
    case BLK_ZERO: r = format_zero(b, offset, len, flags); break;
    default: r = format_discard(b, offset, len); break;
    }
    if (r == 0 && (flags & BLK_FUA) && b->core->ranged) {
        r = format_flush(b); /* the metadata must be as safe as the data */
    }
    return r;
}

/* ---- protocols
 * ---------------------------------------------------------------------------- */

/* A changing request that fits, in the company of others like it. */
static int proto_run_aligned(struct blk *b, struct blk_req *req)
{
    struct blk_range range = {.exclusive = false};
    bool ranged = b->core->ranged && req->op != BLK_READ && req->op != BLK_FLUSH;
    if (ranged) {
        blk_range_of(b, req->offset, req->len, &range);
        blk_ranges_enter_wait(&b->core->ranges, &range, b->loop);
    }
    int r = b->proto->run(b, req);
    if (ranged) {
        blk_ranges_leave(&b->core->ranges, &range);
    }
    return r;
}

/* Whole aligned blocks around a READ or WRITE, in memory as the protocol wants it. */
static int proto_bounce(struct blk *b, const struct blk_req *req)
{
    uint64_t align = b->limits.request_align;
    uint64_t start = ALIGN_DOWN(req->offset, align);
    uint64_t end = ALIGN_UP(req->offset + req->len, align);
    size_t mem_align = MAX(b->limits.mem_align, (uint32_t)sizeof(void *));
    void *mem = NULL;
    if (posix_memalign(&mem, mem_align, end - start) != 0) {
        return -ENOMEM;
    }
    struct iovec iov = {mem, end - start};
    struct blk_data d = {req->iov, req->nb_iov, 0};
    struct blk_req io = {.op = BLK_READ,
                         .blk = b,
                         .offset = start,
                         .len = end - start,
                         .iov = &iov,
                         .nb_iov = 1};
    bool whole = start == req->offset && end == req->offset + req->len;
    int r = 0;
    if (req->op == BLK_READ) {
        r = b->proto->run(b, &io);
        if (r == 0) {
            blk_data_copy_in(&d, (uint8_t *)mem + (req->offset - start), req->len);
        }
    } else {
        struct blk_range range = {.exclusive = !whole};
        blk_range_of(b, req->offset, req->len, &range);
        blk_ranges_enter_wait(&b->core->ranges, &range, b->loop);
        if (start != req->offset) {
            blk_event(b, BLK_EVENT_PWRITEV_RMW_HEAD);
        } else if (!whole) {
            blk_event(b, BLK_EVENT_PWRITEV_RMW_TAIL);
        }
        r = whole ? 0 : b->proto->run(b, &io);
        if (!whole) {
            blk_event(b, start != req->offset ? BLK_EVENT_PWRITEV_RMW_AFTER_HEAD
                                              : BLK_EVENT_PWRITEV_RMW_AFTER_TAIL);
        }
        if (r == 0) {
            blk_data_copy_out(&d, (uint8_t *)mem + (req->offset - start), req->len);
            io.op = BLK_WRITE;
            io.flags = req->flags;
            r = b->proto->run(b, &io);
        }
        blk_ranges_leave(&b->core->ranges, &range);
    }
    free(mem);
    return r;
}

int blk_proto_write_zeros(struct blk *b, uint64_t offset, uint64_t len, unsigned flags)
{
    uint64_t step = MIN(len, (uint64_t)ZERO_STEP);
    void *zeros = NULL;
    if (flags & BLK_NO_FALLBACK) {
        return -ENOTSUP;
    }
    if (posix_memalign(&zeros, 4096, step) != 0) {
        return -ENOMEM;
    }
    memset(zeros, 0, step);
    int r = 0;
    while (r == 0 && len > 0) {
        /* To a multiple of the step, so that only the edges are unaligned. */
        uint64_t part = MIN(len, step);
        if (part < len && (offset + part) % 4096) {
            part -= MIN(part - 1, (offset + part) % 4096);
        }
        struct iovec iov = {zeros, part};
        struct blk_req req = {.op = BLK_WRITE,
                              .blk = b,
                              .flags = flags & BLK_FUA,
                              .offset = offset,
                              .len = part,
                              .iov = &iov,
                              .nb_iov = 1};
        r = blk_proto_run(b, &req);
        offset += part;
        len -= part;
    }
    free(zeros);
    return r;
}

/* Discard and zero only reach whole blocks: zero writes the edges, discard leaves them.
 */
static int proto_unaligned_range(struct blk *b, struct blk_req *req)
{
    uint64_t align = b->limits.request_align;
    uint64_t start = ALIGN_UP(req->offset, align);
    uint64_t end = ALIGN_DOWN(req->offset + req->len, align);
    if (start >= end) {
        return req->op == BLK_DISCARD
                   ? 0
                   : blk_proto_write_zeros(b, req->offset, req->len, req->flags);
    }
    struct blk_req mid = {.op = req->op,
                          .blk = b,
                          .flags = req->flags,
                          .offset = start,
                          .len = end - start};
    int r = blk_proto_run(b, &mid);
    if (r == 0 && req->op == BLK_ZERO && start > req->offset) {
        r = blk_proto_write_zeros(b, req->offset, start - req->offset, req->flags);
    }
    if (r == 0 && req->op == BLK_ZERO && req->offset + req->len > end) {
        r = blk_proto_write_zeros(b, end, req->offset + req->len - end, req->flags);
    }
    return r;
}

int blk_proto_run(struct blk *b, struct blk_req *req)
{
    if (!blk_req_aligned(b, req)) {
        return req->op == BLK_READ || req->op == BLK_WRITE
                   ? proto_bounce(b, req)
                   : proto_unaligned_range(b, req);
    }
    int r = proto_run_aligned(b, req);
    if (r == -ENOTSUP && req->op == BLK_ZERO) {
        return blk_proto_write_zeros(b, req->offset, req->len, req->flags);
    }
    return r == -ENOTSUP && req->op == BLK_DISCARD ? 0 : r;
}

int blk_store_chunk(struct blk *b, uint64_t offset, uint64_t len, const void *stored,
                    uint64_t stored_len)
{
    struct blk_reservation r = {.offset = offset, .len = len, .stored_len = stored_len};
    struct blk_range range = {.exclusive = true};
    if (b->core->ranged) {
        blk_range_of(b, offset, len, &range);
        blk_ranges_enter_wait(&b->core->ranges, &range, b->loop);
    }
    blk_meta_lock(b);
    int err = blk_begin_locked(b);
    blk_meta_unlock(b);
    err = err ? err : blk_reserve(b, &r);
    if (err == 0) {
        err = r.crypt ? -ENOTSUP
                      : blk_pwrite(r.child, r.child_offset, stored, stored_len);
        err = blk_finish_reservation(b, &r, err);
    }
    if (b->core->ranged) {
        blk_ranges_leave(&b->core->ranges, &range);
    }
    return err;
}

/* ---- the public face
 * ---------------------------------------------------------------------- */

static int format_run(struct blk *b, struct blk_req *req)
{
    struct blk_range range = {.exclusive = req->op != BLK_READ};
    struct blk_data d = {0};
    bool ranged = b->core->ranged && req->op != BLK_FLUSH;
    if (req->op == BLK_READ || req->op == BLK_WRITE) {
        d = (struct blk_data){req->iov, req->nb_iov, 0};
    }
    if (ranged) {
        blk_range_of(b, req->offset, req->len, &range);
        blk_ranges_enter_wait(&b->core->ranges, &range, b->loop);
    }
    int r = blk_format_run_held(b, req->op, req->offset, req->len, &d, req->flags);
    if (ranged) {
        blk_ranges_leave(&b->core->ranges, &range);
    }
    return r;
}

int blk_run(struct blk *b, enum blk_op op, uint64_t offset, const struct iovec *iov,
            unsigned nb_iov, uint64_t len, unsigned flags)
{
    struct blk_req req = {.op = op,
                          .flags = flags,
                          .offset = offset,
                          .len = len,
                          .iov = iov,
                          .nb_iov = nb_iov,
                          .blk = b};
    int r = blk_request_check(b, &req);
    if (r != 0) {
        return r < 0 ? r : 0;
    }
    r = b->proto ? blk_proto_run(b, &req) : format_run(b, &req);
    blk_note_written(b, op, offset, len);
    if (r == 0 && (op == BLK_WRITE || op == BLK_ZERO)) {
        blk_grew(b, offset + len);
    }
    return r;
}

int blk_pread(struct blk *b, uint64_t offset, void *buf, uint64_t len)
{
    struct iovec iov = {buf, len};
    return blk_run(b, BLK_READ, offset, &iov, 1, len, 0);
}

int blk_pwrite(struct blk *b, uint64_t offset, const void *buf, uint64_t len)
{
    struct iovec iov = {(void *)buf, len};
    return blk_run(b, BLK_WRITE, offset, &iov, 1, len, 0);
}

/* ---- VM state ----------------------------------------------------------------------
 */

static struct blk *vmstate_keeper(struct blk *b)
{
    while (b && !(b->format && b->format->vmstate)) {
        b = b->file;
    }
    return b;
}

/* Where it begins in the keeper, with room up to @end. */
static int vmstate_find(struct blk *b, uint64_t end, uint64_t *ret)
{
    blk_meta_lock(b);
    int r = end ? blk_begin_locked(b) : 0;
    r = r ? r : b->format->vmstate(b, end, ret);
    blk_meta_unlock(b);
    if (r == 0) {
        atomic_store(&b->core->vmstate_at, *ret);
    }
    return r;
}

uint64_t blk_vmstate_offset(struct blk *b)
{
    uint64_t at = 0;
    return b->format && b->format->vmstate && vmstate_find(b, 0, &at) == 0 ? at : 0;
}

int blk_vmstate(struct blk *b, enum blk_op op, uint64_t offset, void *buf, uint64_t len)
{
    struct iovec iov = {buf, len};
    struct blk_data d = {&iov, 1, 0};
    struct blk_range range = {.exclusive = true};
    struct blk *k = vmstate_keeper(b);
    uint64_t end, at = 0;
    if (!k) {
        return -ENOTSUP;
    }
    if (op != BLK_READ && k->read_only) {
        return -EROFS;
    }
    if (!ck_add(offset, len, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    int r = vmstate_find(k, op == BLK_READ ? 0 : end, &at);
    if (r < 0 || len == 0) {
        return r;
    }
    if (!ck_add(at, end, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    blk_event(k->file,
              op == BLK_READ ? BLK_EVENT_VMSTATE_LOAD : BLK_EVENT_VMSTATE_SAVE);
    blk_range_of(k, at + offset, len, &range);
    blk_ranges_enter_wait(&k->core->ranges, &range, k->loop);
    r = blk_format_run_held(k, op, at + offset, len, &d,
                            atomic_load(&k->core->write_cache) ? 0 : BLK_FUA);
    blk_ranges_leave(&k->core->ranges, &range);
    return r;
}
