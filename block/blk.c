#include "block/blk_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * What every request meets first, and what can be asked of a node. Opening and closing
 * are in open.c, moving data in datapath.c and blocking.c.
 */

enum { SECTOR = 512 };

uint64_t blk_length(const struct blk *b)
{
    uint64_t len = b->content_len;
    return len > UINT64_MAX - SECTOR ? ALIGN_DOWN(len, (uint64_t)SECTOR)
                                     : ALIGN_UP(len, (uint64_t)SECTOR);
}

bool blk_read_only(const struct blk *b)
{
    return b->read_only;
}

const struct blk_limits *blk_get_limits(const struct blk *b)
{
    return &b->limits;
}

const char *blk_get_driver_name(const struct blk *b)
{
    return b->format ? b->format->name : b->proto->name;
}

const char *blk_get_node_name(const struct blk *b)
{
    return b->node_name;
}

const char *blk_get_filename(const struct blk *b)
{
    return b->filename ? b->filename : "";
}

struct loop *blk_get_loop(const struct blk *b)
{
    return b->loop;
}

struct blk *blk_get_child(const struct blk *b, const char *role)
{
    for (unsigned i = 0; i < b->core->children->len; i++) {
        struct blk_child *c = &g_array_index(b->core->children, struct blk_child, i);
        if (g_str_equal(c->role, role)) {
            return c->blk;
        }
    }
    return NULL;
}

void blk_set_write_cache(struct blk *b, bool on)
{
    atomic_store(&b->core->write_cache, on);
}

bool blk_get_write_cache(const struct blk *b)
{
    return atomic_load(&b->core->write_cache);
}

struct blk_perms blk_perms_guest(bool read_only, bool share_rw)
{
    return (struct blk_perms){
        .used = BLK_PERM_READ | (read_only ? 0 : BLK_PERM_WRITE),
        .shared = BLK_PERM_ALL & ~(share_rw ? 0u : BLK_PERM_WRITE),
    };
}

const char *blk_op_name(enum blk_op op)
{
    static const char *const names[BLK_OP_COUNT] = {"read", "write", "flush", "discard",
                                                    "zero"};
    return names[op];
}

void blk_get_stats(const struct blk *b, struct blk_stats *ret)
{
    const struct blk_core *c = b->core;
    for (unsigned i = 0; i < BLK_OP_COUNT; i++) {
        ret->ops[i] = atomic_load_explicit(&c->ops[i], memory_order_relaxed);
        ret->failed[i] = atomic_load_explicit(&c->failed[i], memory_order_relaxed);
        ret->bytes[i] = atomic_load_explicit(&c->bytes[i], memory_order_relaxed);
        ret->time_ns[i] = atomic_load_explicit(&c->time_ns[i], memory_order_relaxed);
    }
    ret->in_flight = atomic_load_explicit(&c->stat_in_flight, memory_order_relaxed);
}

/* ---- helpers of both paths
 * ------------------------------------------------------------ */

void blk_meta_lock(struct blk *b)
{
    if (!loop_in_thread(b->loop)) {
        pthread_mutex_lock(&b->core->meta);
        return;
    }
    /* The holder may wait for a request that only we can complete. */
    while (pthread_mutex_trylock(&b->core->meta) != 0) {
        if (!loop_poll(b->loop, false)) {
            usleep(20);
        }
    }
}

void blk_meta_unlock(struct blk *b)
{
    pthread_mutex_unlock(&b->core->meta);
}

void blk_range_of(const struct blk *b, uint64_t offset, uint64_t len,
                  struct blk_range *r)
{
    uint64_t unit = MAX(b->limits.alloc_unit, b->proto ? b->limits.request_align : 1);
    uint64_t end = offset + len;
    unit = MAX(unit, 1);
    r->start = offset - offset % unit;
    r->end = end % unit ? end - end % unit + unit : end;
}

uint64_t blk_backing_has(const struct blk *b, uint64_t offset, uint64_t len)
{
    if (!b->backing) {
        return 0;
    }
    uint64_t length = blk_length(b->backing);
    return offset < length ? MIN(len, length - offset) : 0;
}

void blk_grew(struct blk *b, uint64_t end)
{
    uint64_t len = b->content_len;
    while (b->growable && end > len &&
           !atomic_compare_exchange_weak(&b->content_len, &len, end)) {
    }
}

bool blk_req_aligned(const struct blk *b, const struct blk_req *req)
{
    uint64_t align = MAX(b->limits.request_align, 1) - 1;
    uintptr_t mem = MAX(b->limits.mem_align, 1) - 1;
    if ((align | mem) == 0) {
        return true;
    }
    if ((req->offset | req->len) & align) {
        return false;
    }
    if (req->op != BLK_READ && req->op != BLK_WRITE) {
        return true;
    }
    for (unsigned i = 0; i < req->nb_iov; i++) {
        if (((uintptr_t)req->iov[i].iov_base & mem) ||
            (req->iov[i].iov_len & (mem | align))) {
            return false;
        }
    }
    return true;
}

/* ---- checks
 * ------------------------------------------------------------------------------- */

/*
 * An image that was taken for raw because nothing was recognized may not become
 * something else under the guest's hand: whoever opens it next without a format would
 * follow the guest's header, to files of the guest's choosing. So a write that makes
 * the first bytes look like a format is refused.
 */
static bool guard_allows(struct blk *b, const struct blk_req *req)
{
    struct blk_core *c = b->core;
    uint8_t head[BLK_PROBE_BYTES];
    blk_meta_lock(b);
    memcpy(head, c->probed_head, BLK_PROBE_BYTES);
    size_t len = MIN(req->len, BLK_PROBE_BYTES - req->offset);
    struct blk_data d = {0};
    if (req->op == BLK_WRITE) {
        d = (struct blk_data){req->iov, req->nb_iov, 0};
    }
    blk_data_copy_out(&d, head + req->offset, len);
    bool ok = blk_probe(head, BLK_PROBE_BYTES, b->filename) == b->format &&
              !blk_foreign_format(head, BLK_PROBE_BYTES);
    if (ok) {
        memcpy(c->probed_head, head, BLK_PROBE_BYTES);
    }
    blk_meta_unlock(b);
    return ok;
}

static int check_bounds(const struct blk *b, const struct blk_req *req)
{
    if (ck_range(req->offset, req->len, blk_length(b))) {
        return 0;
    }
    uint64_t end;
    bool grows = b->growable && (req->op == BLK_WRITE || req->op == BLK_ZERO) &&
                 (b->core->perms.used & BLK_PERM_RESIZE);
    return grows && ck_add(req->offset, req->len, &end) && end <= INT64_MAX ? 0
                                                                            : -EINVAL;
}

static int check_iov(const struct blk_req *req)
{
    uint64_t len = 0;
    for (unsigned i = 0; i < req->nb_iov; i++) {
        if (!ck_add(len, req->iov[i].iov_len, &len)) {
            return -EINVAL;
        }
    }
    return len == req->len ? 0 : -EINVAL;
}

static int check_change(struct blk *b, struct blk_req *req)
{
    struct blk_core *c = b->core;
    if (b->read_only || (b->format && !b->format->writable)) {
        return -EROFS;
    }
    if (req->op == BLK_DISCARD) {
        return c->discard ? 0 : 1;
    }
    if (req->op == BLK_WRITE && c->detect != BLK_DETECT_OFF) {
        struct blk_data d = {req->iov, req->nb_iov, 0};
        if (blk_data_is_zero(&d, req->len)) {
            req->op = BLK_ZERO;
            req->flags |= c->detect == BLK_DETECT_UNMAP ? BLK_MAY_UNMAP : 0;
        }
    }
    if (req->op != BLK_WRITE) {
        req->flags &= ~(unsigned)BLK_COMPRESS;
    } else if (b->chunks_only) {
        req->flags |= BLK_COMPRESS;
    }
    if ((req->flags & BLK_COMPRESS) && !(b->format && b->format->writable->codec)) {
        return -ENOTSUP;
    }
    if (!c->discard) {
        req->flags &= ~(unsigned)BLK_MAY_UNMAP;
    }
    if (!atomic_load(&c->write_cache)) {
        req->flags |= BLK_FUA;
    }
    if (b->no_flush) {
        req->flags &= ~(unsigned)BLK_FUA;
    }
    if (c->probed_head && req->offset < BLK_PROBE_BYTES && !guard_allows(b, req)) {
        return -EPERM;
    }
    return 0;
}

int blk_request_check(struct blk *b, struct blk_req *req)
{
    int r;
    if (req->op == BLK_FLUSH) {
        return b->no_flush ? 1 : 0;
    }
    if (req->op > BLK_ZERO || (r = check_bounds(b, req)) < 0) {
        return -EINVAL;
    }
    if ((req->op == BLK_READ || req->op == BLK_WRITE) && (r = check_iov(req)) < 0) {
        return r;
    }
    if (req->op != BLK_READ && (r = check_change(b, req)) != 0) {
        return r;
    }
    return req->len == 0 ? 1 : 0;
}

void blk_note_written(struct blk *b, enum blk_op op, uint64_t offset, uint64_t len)
{
    const struct blk_write_ops *w = b->format ? b->format->writable : NULL;
    if (w && w->written && op != BLK_READ && op != BLK_FLUSH) {
        w->written(b, offset, len);
    }
}

/* ---- length
 * --------------------------------------------------------------------------------- */

static bool begin_change(struct blk *b, GError **error)
{
    int r = b->format ? blk_begin_locked(b) : 0;
    return r == 0 || error_errno(error, -r, "cannot begin to write");
}

/* What a format left behind the old end, and what a backing file has there. */
static bool zero_grown(struct blk *b, uint64_t old, uint64_t length, GError **error)
{
    uint64_t unit = MAX(b->limits.alloc_unit, 1), end = ALIGN_UP(old, unit);
    if (b->backing && blk_length(b->backing) > old) {
        end = MAX(end, blk_length(b->backing));
    }
    end = MIN(end, length);
    int r =
        b->format && end > old ? blk_run(b, BLK_ZERO, old, NULL, 0, end - old, 0) : 0;
    return r == 0 || error_errno(error, -r, "cannot zero what is new");
}

bool blk_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                  GError **error)
{
    const struct blk_resize_ops *ops = b->format ? b->format->resize : b->proto->resize;
    if (b->read_only) {
        return error_msg(error, "'%s' is read-only", blk_get_filename(b));
    }
    if (!ops) {
        return error_msg(error, "Image format driver does not support resize");
    }
    if (!(b->core->perms.used & BLK_PERM_RESIZE)) {
        return error_msg(error, "'%s' was not opened to be resized",
                         blk_get_filename(b));
    }
    uint64_t old = blk_length(b);
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_change(b, error) && ops->truncate(b, length, prealloc, error);
    blk_meta_unlock(b);
    return ok && (length <= old || zero_grown(b, old, length, error));
}

/* ---- where data is
 * ----------------------------------------------------------------------------- */

/* A protocol may also say of zeros that they have their space, and of a hole that it
 * does not know what it reads as. */
static unsigned proto_status_flags(const struct blk_extent *e)
{
    bool data = e->kind == BLK_EXT_DATA || (e->flags & BLK_EXT_HAS_SPACE);
    return e->kind == BLK_EXT_UNALLOCATED
               ? 0
               : BLK_STATUS_OFFSET | BLK_STATUS_ALLOCATED |
                     (e->kind == BLK_EXT_ZERO ? BLK_STATUS_ZERO : 0) |
                     (data ? BLK_STATUS_DATA : 0);
}

static int proto_map_at(struct blk *b, uint64_t offset, uint64_t len,
                        struct blk_status *ret)
{
    struct blk_extent e = {.kind = BLK_EXT_DATA, .len = len};
    if (!b->proto->status && b->file) {
        return blk_map_at(b->file, offset, len, ret);
    }
    int r = b->proto->status ? b->proto->status(b, offset, len, &e) : 0;
    *ret = (struct blk_status){
        .flags = proto_status_flags(&e),
        .len = e.len,
        .file = b,
        .file_offset = offset,
    };
    return r;
}

static int data_map_at(struct blk *b, const struct blk_extent *e,
                       struct blk_status *ret)
{
    uint64_t length = blk_length(e->child);
    if (e->offset >= length) {
        ret->flags = BLK_STATUS_ZERO | BLK_STATUS_ALLOCATED;
        return 0;
    }
    struct blk_status below = {0};
    if (e->child->proto && !(e->flags & BLK_EXT_SPARSE) && !b->format->passes_perms) {
        ret->len = MIN(e->len, length - e->offset);
        ret->flags = BLK_STATUS_ALLOCATED | BLK_STATUS_DATA;
        if (!e->crypt) {
            ret->flags |= BLK_STATUS_OFFSET;
            ret->file = e->child;
            ret->file_offset = e->offset;
        }
        return 0;
    }
    int r = blk_map_at(e->child, e->offset, MIN(e->len, length - e->offset), &below);
    if (r < 0) {
        return r;
    }
    ret->len = below.len;
    ret->file = below.file;
    ret->file_offset = below.file_offset;
    ret->flags = BLK_STATUS_ALLOCATED | (below.flags & BLK_STATUS_OFFSET);
    if (e->crypt) {
        /* Zeros below are no zeros here, nor does the file show our bytes. */
        ret->flags = BLK_STATUS_ALLOCATED | BLK_STATUS_DATA;
    } else if (b->format->passes_perms) {
        ret->flags = below.flags & (BLK_STATUS_DATA | BLK_STATUS_ZERO |
                                    BLK_STATUS_ALLOCATED | BLK_STATUS_OFFSET);
    } else {
        ret->flags |= BLK_STATUS_DATA | (below.flags & BLK_STATUS_ZERO);
    }
    return 0;
}

int blk_map_at(struct blk *b, uint64_t offset, uint64_t len, struct blk_status *ret)
{
    struct blk_extent e;
    if (len == 0 || offset >= blk_length(b) || !ck_range(offset, len, blk_length(b))) {
        return -EINVAL;
    }
    if (b->proto) {
        return proto_map_at(b, offset, len, ret);
    }
    blk_meta_lock(b);
    int r = b->format->map(b, offset, len, &e);
    blk_meta_unlock(b);
    if (r < 0) {
        return r;
    }
    *ret = (struct blk_status){.len = e.len};
    uint64_t has;
    switch (e.kind) {
    case BLK_EXT_DATA: return data_map_at(b, &e, ret);
    case BLK_EXT_ZERO:
        ret->flags = BLK_STATUS_ZERO | BLK_STATUS_ALLOCATED;
        if ((e.flags & BLK_EXT_HAS_SPACE) && e.child->proto) {
            ret->flags |= BLK_STATUS_OFFSET;
            ret->file = e.child;
            ret->file_offset = e.offset;
        }
        return 0;
    case BLK_EXT_INLINE: ret->flags = BLK_STATUS_DATA | BLK_STATUS_ALLOCATED; return 0;
    case BLK_EXT_COMPRESSED:
        ret->flags = BLK_STATUS_DATA | BLK_STATUS_ALLOCATED | BLK_STATUS_COMPRESSED;
        return 0;
    case BLK_EXT_UNALLOCATED:
        has = blk_backing_has(b, offset, e.len);
        if (!has) {
            ret->flags = BLK_STATUS_ZERO;
            if ((e.flags & BLK_EXT_HAS_SPACE) && e.child->proto) {
                ret->flags |= BLK_STATUS_OFFSET;
                ret->file = e.child;
                ret->file_offset = e.offset;
            }
            return 0;
        }
        r = blk_map_at(b->backing, offset, has, ret);
        ret->depth++;
        return r;
    }
    return -EIO;
}
