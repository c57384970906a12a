#include "block/nbd/priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Commands. A request is 28 bytes, of a write followed by its data:
 *
 *     u32 magic, u16 flags, u16 type, u64 cookie, u64 offset, u32 length
 *
 * and lives from its header being read until its reply is sent. Replies leave in the
 * order in which the work ends. A read with structured replies leaves out what is zero:
 * whole when all of it is, else runs that are worth a chunk of their own.
 */

enum {
    REQUEST_BYTES = 28,
    CHUNK_HEAD = 20,
    KEEP_REQS = 64, /* for reuse, each with a buffer of at most */
    KEEP_BYTES = 64 * 1024,
    REQ_COST = 1024,           /* of a request without data, for the limits */
    STATUS_COST = 1024 * 1024, /* of what one context may answer            */
    HOLE_MIN = 32 * 1024,      /* zeros inside of a read that become a chunk */
    HOLE_STEP = 4096,
};

/* ---- memory
 * -------------------------------------------------------------------------- */

static void req_out_done(struct nbd_out *out);

static struct nbd_req *req_new(struct nbd_conn *c)
{
    struct nbd_req *r = c->reqs_free;
    if (r) {
        c->reqs_free = r->next_free;
        c->nb_reqs_free--;
    } else {
        r = g_new0(struct nbd_req, 1);
    }
    r->conn = c;
    r->charged = 0;
    r->iovs = NULL;
    r->heads = NULL;
    r->nb_contexts = 0;
    r->out.done = req_out_done;
    c->nb_reqs++;
    nbd_conn_ref(c);
    return r;
}

static void req_charge(struct nbd_req *r, uint64_t bytes)
{
    r->charged += bytes;
    r->conn->bytes += bytes;
    r->conn->srv->bytes += bytes;
}

static void req_free(struct nbd_req *r)
{
    free(r->buf);
    g_free(r);
}

/* The end of every request. */
static void req_out_done(struct nbd_out *out)
{
    struct nbd_req *r = container_of(out, struct nbd_req, out);
    struct nbd_conn *c = r->conn;
    c->bytes -= r->charged;
    c->srv->bytes -= r->charged;
    c->nb_reqs--;
    nbd_status_free(r);
    g_clear_pointer(&r->iovs, g_free);
    g_clear_pointer(&r->heads, g_free);
    g_clear_pointer(&r->why, g_free);
    if (r->buf_room > KEEP_BYTES || c->nb_reqs_free == KEEP_REQS) {
        req_free(r);
    } else {
        r->next_free = c->reqs_free;
        c->reqs_free = r;
        c->nb_reqs_free++;
    }
    nbd_conn_relax(c);
    nbd_conn_unref(c);
}

void nbd_conn_free_requests(struct nbd_conn *c)
{
    while (c->reqs_free) {
        struct nbd_req *r = c->reqs_free;
        c->reqs_free = r->next_free;
        req_free(r);
    }
}

/* Room for r->len bytes. False when there is no memory. */
static bool req_buffer(struct nbd_req *r)
{
    req_charge(r, r->len);
    if (r->len <= r->buf_room) {
        return true;
    }
    size_t room = MAX(ALIGN_UP((size_t)r->len, 4096), (size_t)4096);
    void *mem = NULL;
    free(r->buf);
    r->buf = NULL;
    r->buf_room = 0;
    if (posix_memalign(&mem, 4096, room) != 0) {
        return false;
    }
    r->buf = mem;
    r->buf_room = room;
    return true;
}

/* ---- replies
 * -------------------------------------------------------------------------- */

static uint32_t wire_error(int err)
{
    switch (-err) {
    case 0: return 0;
    case EPERM:
    case EROFS: return NBD_EPERM;
    case EIO: return NBD_EIO;
    case ENOMEM: return NBD_ENOMEM;
    case EFBIG:
    case EDQUOT:
    case ENOSPC: return NBD_ENOSPC;
    case EOVERFLOW: return NBD_EOVERFLOW;
    case ENOTSUP: return NBD_ENOTSUP;
    case ESHUTDOWN: return NBD_ESHUTDOWN;
    default: return NBD_EINVAL;
    }
}

void nbd_put_chunk(uint8_t *p, unsigned flags, unsigned type, uint64_t cookie,
                   uint32_t len)
{
    be32_put(p, NBD_STRUCTURED_REPLY_MAGIC);
    be16_put(p + 4, (uint16_t)flags);
    be16_put(p + 6, (uint16_t)type);
    be64_put(p + 8, cookie);
    be32_put(p + 16, len);
}

static void req_send(struct nbd_req *r, const struct iovec *iov, unsigned nb)
{
    r->out.iov = iov;
    r->out.nb_iov = nb;
    nbd_conn_queue(r->conn, &r->out);
}

static void reply_simple(struct nbd_req *r, int err)
{
    bool data = err == 0 && r->type == NBD_CMD_READ;
    be32_put(r->head, NBD_SIMPLE_REPLY_MAGIC);
    be32_put(r->head + 4, wire_error(err));
    be64_put(r->head + 8, r->cookie);
    r->iov[0] = (struct iovec){r->head, 16};
    r->iov[1] = (struct iovec){r->buf, r->len};
    req_send(r, r->iov, data && r->len ? 2 : 1);
}

static void reply_error(struct nbd_req *r, int err, const char *what)
{
    if (!r->conn->structured) {
        reply_simple(r, err);
        return;
    }
    size_t len = strlen(what);
    r->heads = g_malloc(CHUNK_HEAD + 6 + len);
    nbd_put_chunk(r->heads, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, r->cookie,
                  (uint32_t)(6 + len));
    be32_put(r->heads + CHUNK_HEAD, wire_error(err));
    be16_put(r->heads + CHUNK_HEAD + 4, (uint16_t)len);
    memcpy(r->heads + CHUNK_HEAD + 6, what, len);
    r->iov[0] = (struct iovec){r->heads, CHUNK_HEAD + 6 + len};
    req_send(r, r->iov, 1);
}

static bool all_zero(const uint8_t *p, size_t len)
{
    static const uint8_t zeros[16];
    size_t head = MIN(len, sizeof(zeros));
    return memcmp(p, zeros, head) == 0 &&
           (len <= head || memcmp(p, p + head, len - head) == 0);
}

/* A chunk's header at @p for [at, at + len) of the read, with its iovecs at @iov. */
static unsigned put_read_chunk(struct nbd_req *r, uint8_t *p, struct iovec *iov,
                               uint32_t at, uint32_t len, bool zero, bool last)
{
    nbd_put_chunk(p, last ? NBD_REPLY_FLAG_DONE : 0,
                  zero ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_OFFSET_DATA,
                  r->cookie, zero ? 12 : 8 + len);
    be64_put(p + CHUNK_HEAD, r->offset + at);
    iov[0] = (struct iovec){p, CHUNK_HEAD + 8};
    if (zero) {
        be32_put(p + CHUNK_HEAD + 8, len);
        iov[0].iov_len += 4;
        return 1;
    }
    iov[1] = (struct iovec){r->buf + at, len};
    return 2;
}

/* How long the data from @at, which is not zero, or the zeros go on. */
static uint32_t run_from(const struct nbd_req *r, uint32_t at, bool *ret_zero)
{
    uint32_t end = at;
    while (end < r->len && all_zero(r->buf + end, MIN(HOLE_STEP, r->len - end))) {
        end += MIN(HOLE_STEP, r->len - end);
    }
    if (end - at >= HOLE_MIN) {
        *ret_zero = true;
        return end - at;
    }
    *ret_zero = false;
    uint32_t zeros = 0;
    for (; end < r->len && zeros < HOLE_MIN;) {
        uint32_t step = MIN(HOLE_STEP, r->len - end);
        zeros = all_zero(r->buf + end, step) ? zeros + step : 0;
        end += step;
    }
    return (zeros >= HOLE_MIN ? end - zeros : end) - at;
}

static void reply_read(struct nbd_req *r)
{
    bool whole = (r->flags & NBD_CMD_FLAG_DF) || r->len < 2 * HOLE_MIN;
    bool zero =
        !(r->flags & NBD_CMD_FLAG_DF) && r->len >= 64 && all_zero(r->buf, r->len);
    if (r->len == 0) {
        nbd_put_chunk(r->head, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, r->cookie, 0);
        r->iov[0] = (struct iovec){r->head, CHUNK_HEAD};
        req_send(r, r->iov, 1);
        return;
    }
    if (whole || zero) {
        unsigned nb = put_read_chunk(r, r->head, r->iov, 0, r->len, zero, true);
        req_send(r, r->iov, nb);
        return;
    }
    unsigned room = r->len / HOLE_MIN + 2, nb = 0;
    r->iovs = g_new(struct iovec, room * 2);
    r->heads = g_malloc((size_t)room * 32);
    uint8_t *head = r->heads;
    for (uint32_t at = 0; at < r->len; head += 32) {
        uint32_t len = run_from(r, at, &zero);
        nb += put_read_chunk(r, head, r->iovs + nb, at, len, zero, at + len == r->len);
        at += len;
    }
    req_send(r, r->iovs, nb);
}

static const char *failed(uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ: return "reading from file failed";
    case NBD_CMD_WRITE: return "writing to file failed";
    case NBD_CMD_FLUSH: return "flush failed";
    case NBD_CMD_TRIM: return "discard failed";
    case NBD_CMD_CACHE: return "caching data failed";
    case NBD_CMD_WRITE_ZEROES: return "writing to file failed";
    default: return "can't get block status";
    }
}

static void req_complete(struct nbd_req *r, int ret)
{
    r->conn->nb_working--;
    if (ret < 0) {
        reply_error(r, ret, failed(r->type));
    } else if (r->type == NBD_CMD_READ && r->conn->structured) {
        reply_read(r);
    } else if (r->type == NBD_CMD_BLOCK_STATUS) {
        unsigned nb = nbd_status_reply(r);
        req_send(r, r->iovs, nb);
    } else {
        reply_simple(r, 0);
    }
}

/* ---- doing
 * ------------------------------------------------------------------------------
 */

static void req_blk_done(struct blk_req *b, int ret)
{
    struct nbd_req *r = container_of(b, struct nbd_req, blk);
    bool trim = r->type == NBD_CMD_TRIM && (r->flags & NBD_CMD_FLAG_FUA) &&
                b->op == BLK_DISCARD;
    if (ret == 0 && trim) {
        blk_flush(r->conn->export->blk, &r->blk);
        return;
    }
    req_complete(r, ret);
}

static void req_status_run(struct loop_work *w)
{
    struct nbd_req *r = container_of(w, struct nbd_req, work);
    r->ret = nbd_status_query(r);
}

static void req_status_done(struct loop_work *w)
{
    struct nbd_req *r = container_of(w, struct nbd_req, work);
    req_complete(r, r->ret);
}

static void req_status(struct nbd_req *r)
{
    struct nbd_conn *c = r->conn;
    r->nb_contexts = c->contexts->len;
    r->contexts = g_memdup2(c->contexts->data, sizeof(unsigned) * r->nb_contexts);
    req_charge(r, (uint64_t)STATUS_COST * r->nb_contexts);
    r->work.run = req_status_run;
    r->work.done = req_status_done;
    loop_work_submit(c->srv->opts.loop, &r->work);
}

static void req_go(struct nbd_req *r)
{
    struct nbd_conn *c = r->conn;
    struct blk *b = c->export->blk;
    uint64_t at = c->export->offset + r->offset;
    unsigned flags = r->flags & NBD_CMD_FLAG_FUA ? BLK_FUA : 0;
    c->nb_working++;
    r->blk.done = req_blk_done;
    r->data = (struct iovec){r->buf, r->len};
    switch (r->type) {
    case NBD_CMD_READ:
    case NBD_CMD_CACHE: blk_preadv(b, &r->blk, at, &r->data, 1); return;
    case NBD_CMD_WRITE: blk_pwritev(b, &r->blk, at, &r->data, 1, flags); return;
    case NBD_CMD_FLUSH: blk_flush(b, &r->blk); return;
    case NBD_CMD_TRIM: blk_discard(b, &r->blk, at, r->len); return;
    case NBD_CMD_BLOCK_STATUS: req_status(r); return;
    default:
        flags |= r->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : BLK_MAY_UNMAP;
        flags |= r->flags & NBD_CMD_FLAG_FAST_ZERO ? BLK_NO_FALLBACK : 0;
        blk_write_zeroes(b, &r->blk, at, r->len, flags);
    }
}

/* ---- judging
 * ---------------------------------------------------------------------------- */

static bool changes(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM ||
           type == NBD_CMD_WRITE_ZEROES;
}

static unsigned known_flags(const struct nbd_conn *c, uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ: return NBD_CMD_FLAG_FUA | (c->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_BLOCK_STATUS: return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    default: return NBD_CMD_FLAG_FUA;
    }
}

/* 0, or the error to answer with and what to say. */
static int judge(const struct nbd_req *r, char *text, size_t room)
{
    const struct nbd_conn *c = r->conn;
    const struct nbd_export *e = c->export;
    bool sized =
        r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE || r->type == NBD_CMD_CACHE;
    if (r->type > NBD_CMD_BLOCK_STATUS || r->type == NBD_CMD_DISC) {
        g_snprintf(text, room, "invalid request type (%u) received", r->type);
        return -EINVAL;
    }
    if ((e->flags & NBD_FLAG_READ_ONLY) && changes(r->type)) {
        g_snprintf(text, room, "Export is read-only");
        return -EROFS;
    }
    if (sized && r->len > NBD_LEN_MAX) {
        g_snprintf(text, room, "len (%u) is larger than max len (%u)", r->len,
                   (unsigned)NBD_LEN_MAX);
        return -EINVAL;
    }
    if (r->type != NBD_CMD_FLUSH && !ck_range(r->offset, r->len, e->size)) {
        g_snprintf(text, room,
                   "operation past EOF; From: %" PRIu64 ", Len: %u, Size: %" PRIu64,
                   r->offset, r->len, e->size);
        return r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES ? -ENOSPC
                                                                           : -EINVAL;
    }
    if (r->flags & ~known_flags(c, r->type)) {
        g_snprintf(text, room, "unsupported flags for command %u (got 0x%x)", r->type,
                   r->flags);
        return -EINVAL;
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && r->len == 0) {
        g_snprintf(text, room, "need non-zero length");
        return -EINVAL;
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && c->contexts->len == 0) {
        g_snprintf(text, room, "CMD_BLOCK_STATUS not negotiated");
        return -EINVAL;
    }
    return 0;
}

/* ---- taking
 * ------------------------------------------------------------------------------
 */

void nbd_request_write(struct nbd_conn *c)
{
    req_go(g_steal_pointer(&c->incoming));
}

void nbd_request_refuse(struct nbd_conn *c)
{
    struct nbd_req *r = g_steal_pointer(&c->refused);
    reply_error(r, r->ret, r->why);
}

static void take(struct nbd_conn *c, const uint8_t *m)
{
    char text[128];
    struct nbd_req *r = req_new(c);
    r->flags = be16_get(m + 4);
    r->type = be16_get(m + 6);
    r->cookie = be64_get(m + 8);
    r->offset = be64_get(m + 16);
    r->len = be32_get(m + 24);
    req_charge(r, REQ_COST);
    int err = judge(r, text, sizeof(text));
    bool data =
        r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE || r->type == NBD_CMD_CACHE;
    if (err == 0 && data && !req_buffer(r)) {
        err = -ENOMEM;
        g_strlcpy(text, "No memory", sizeof(text));
    }
    if (err < 0) {
        if (c->srv->opts.trace) {
            c->srv->opts.trace(c->srv->opts.opaque, text);
        }
        if (r->type == NBD_CMD_WRITE && r->len) {
            /* Clients expect no answer before all of their data is sent. */
            c->skip = r->len;
            c->refused = r;
            r->ret = err;
            r->why = g_strdup(text);
        } else {
            reply_error(r, err, text);
        }
    } else if (r->type == NBD_CMD_WRITE && r->len) {
        c->incoming = r;
        c->incoming_got = 0;
    } else {
        req_go(r);
    }
}

bool nbd_request_step(struct nbd_conn *c)
{
    if (nbd_conn_have(c) < REQUEST_BYTES) {
        return false;
    }
    const uint8_t *m = c->in + c->in_pos;
    if (be32_get(m) != NBD_REQUEST_MAGIC) {
        return nbd_conn_fail(c, "invalid magic (got 0x%x)", be32_get(m));
    }
    c->in_pos += REQUEST_BYTES;
    if (be16_get(m + 6) == NBD_CMD_DISC) {
        nbd_conn_end(c);
        return false;
    }
    take(c, m);
    return true;
}
