#include "block/proto/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "block/proto/libnbd.h"
#include "lib/base/base.h"
#include "lib/secret/secret.h"

/*
 * An export of an NBD server. libnbd speaks the protocol; here requests become its
 * commands, on one connection or, where the server says that this is safe, several.
 *
 * A thread of the node's own (`io`, a loop) reads the sockets, so that requests of any
 * thread complete whoever waits: a request is issued by the thread that makes it, which
 * usually sends it at once, and completes in a callback of libnbd on `io`. From there
 * asynchronous requests go to the node's loop, all that gathered at a time; blocking
 * ones wake their thread.
 *
 *     submit, run ── issue ──> link ── socket ──> server
 *                                │                   │
 *     done <── finished list <── callback <── io <───┘
 *
 * A connection that breaks fails what was in flight on it; the next request tries to
 * connect again, in the pool. Block status is asked for in large pieces, and the answer
 * kept until the next change.
 *
 * Locks: lock (links, finished list, status), a leaf; libnbd's own inside its calls.
 */

enum {
    LINKS_MAX = 16,
    LINKS_USUAL = 4,
    LEN_DEFAULT =
        32 * 1024 * 1024, /* of a read or write when the server says nothing */
    RANGE_MAX = 1 << 30,  /* of a trim, zero or block status                 */
    EXTENTS_KEPT = 1 << 16,
};

struct nbd_link {
    struct nbd_client *client;
    struct nbd_handle *h;
    struct loop_fd *watch; /* io's */
    struct loop_bh bh;     /* io: look again what to wait for */
    unsigned in_flight;    /* commands, and threads that are issuing; lock */
    bool dead;             /* lock */
};

struct nbd_client {
    struct blk *blk;
    const struct libnbd *n;
    struct loop *io;
    struct libnbd_server server; /* strings are the node's options' */
    json_t *opts, *creds;
    char *context; /* whose block status is asked for */
    bool fua, flush, trim, zero, fast_zero, has_context;
    uint64_t len_max;
    unsigned nb_wanted;
    struct loop_bh done_bh; /* the node's loop */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a blocking request is done, or a link is gone */
    GPtrArray *links;       /* of struct nbd_link */
    struct nbd_op *finished, **finished_last;

    /* The last answer about [status_from, status_to): pairs of length and flags. */
    GArray *status;
    uint64_t status_from, status_to;
    uint64_t generation; /* of the content */
};

/* A request on its way. */
struct nbd_op {
    struct nbd_client *client;
    struct blk_req *req; /* asynchronous: whose; NULL: a thread waits */
    struct nbd_op *next;
    unsigned pending; /* commands, and one for who issues; lock */
    int err;          /* the first */
};

_Static_assert(sizeof(struct nbd_op) + sizeof(struct loop_work) + 16 <=
                   BLK_REQ_DRIVER_BYTES,
               "blk_req.driver");

/* A command of it. */
struct nbd_part {
    struct nbd_op *op;
    struct nbd_link *link;
    const struct iovec *iov; /* READ: where the bounced bytes belong */
    unsigned nb_iov;
    uint64_t skip; /* bytes of iov before */
    size_t len;
    uint8_t *bounce;
    bool unsent; /* so there is nothing to copy */
};

/* ---- links, on io
 * ------------------------------------------------------------------------ */

static void link_free(struct nbd_link *l)
{
    loop_bh_cancel(&l->bh);
    loop_fd_remove(l->watch);
    l->client->n->close(l->h);
    g_free(l);
}

/* What the handle wants to know of its socket, or that it is over. */
static void link_update(void *opaque)
{
    struct nbd_link *l = opaque;
    struct nbd_client *c = l->client;
    bool over = c->n->aio_is_dead(l->h) == 1 || c->n->aio_is_closed(l->h) == 1;
    if (!over) {
        unsigned dir = c->n->aio_get_direction(l->h);
        loop_fd_set_events(l->watch,
                           (dir & LIBNBD_AIO_DIRECTION_READ ? LOOP_READ : 0) |
                               (dir & LIBNBD_AIO_DIRECTION_WRITE ? LOOP_WRITE : 0));
        return;
    }
    loop_fd_remove(g_steal_pointer(&l->watch));
    pthread_mutex_lock(&c->lock);
    l->dead = true;
    bool idle = l->in_flight == 0 && g_ptr_array_remove_fast(c->links, l);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (idle) {
        link_free(l);
    }
}

static void link_event(void *opaque, unsigned events)
{
    struct nbd_link *l = opaque;
    const struct libnbd *n = l->client->n;
    unsigned dir = n->aio_get_direction(l->h);
    if ((events & (LOOP_READ | LOOP_HUP)) && (dir & LIBNBD_AIO_DIRECTION_READ)) {
        n->aio_notify_read(l->h);
    } else if ((events & (LOOP_WRITE | LOOP_HUP)) &&
               (dir & LIBNBD_AIO_DIRECTION_WRITE)) {
        n->aio_notify_write(l->h);
    }
    link_update(l);
}

static struct nbd_link *link_new(struct nbd_client *c, GError **error)
{
    struct nbd_handle *h = c->n->create();
    if (!h) {
        error_msg(error, "%s", c->n->get_error());
        return NULL;
    }
    c->n->add_meta_context(h, c->context);
    if (!libnbd_connect(c->n, h, &c->server, error)) {
        c->n->close(h);
        return NULL;
    }
    struct nbd_link *l = g_new0(struct nbd_link, 1);
    l->client = c;
    l->h = h;
    loop_bh_init(&l->bh, c->io, link_update, l);
    return l;
}

/* On io, or before it runs. */
static void link_watch(void *opaque)
{
    struct nbd_link *l = opaque;
    l->watch = loop_fd_add(l->client->io, l->client->n->aio_get_fd(l->h), LOOP_READ,
                           link_event, l);
    link_update(l);
}

/* The least busy link that lives, with one more in flight; NULL: none lives. */
static struct nbd_link *link_take(struct nbd_client *c)
{
    struct nbd_link *best = NULL;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < c->links->len; i++) {
        struct nbd_link *l = c->links->pdata[i];
        if (!l->dead && (!best || l->in_flight < best->in_flight)) {
            best = l;
        }
    }
    if (best) {
        best->in_flight++;
    }
    pthread_mutex_unlock(&c->lock);
    return best;
}

static void link_put(struct nbd_link *l)
{
    pthread_mutex_lock(&l->client->lock);
    bool look = --l->in_flight == 0 && l->dead;
    if (look) {
        loop_bh_schedule(&l->bh);
    }
    pthread_mutex_unlock(&l->client->lock);
}

/* Blocks. */
static struct nbd_link *link_connect_again(struct nbd_client *c)
{
    struct nbd_link *l = link_new(c, NULL);
    if (!l) {
        return NULL;
    }
    if ((uint64_t)c->n->get_size(l->h) != c->blk->content_len) {
        c->n->close(l->h); /* another image */
        g_free(l);
        return NULL;
    }
    pthread_mutex_lock(&c->lock);
    l->in_flight = 1;
    g_ptr_array_add(c->links, l);
    pthread_mutex_unlock(&c->lock);
    loop_call(c->io, link_watch, l);
    return l;
}

/* ---- completion
 * -------------------------------------------------------------------------- */

static void op_put(struct nbd_op *op, int err)
{
    struct nbd_client *c = op->client;
    pthread_mutex_lock(&c->lock);
    if (op->err == 0) {
        op->err = err;
    }
    if (--op->pending == 0) {
        if (op->req) {
            op->next = NULL;
            *c->finished_last = op;
            c->finished_last = &op->next;
            loop_bh_schedule(&c->done_bh);
        } else {
            pthread_cond_broadcast(&c->changed);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

/* On the node's loop: all that is finished. */
static void client_done(void *opaque)
{
    struct nbd_client *c = opaque;
    pthread_mutex_lock(&c->lock);
    struct nbd_op *op = c->finished;
    c->finished = NULL;
    c->finished_last = &c->finished;
    pthread_mutex_unlock(&c->lock);
    while (op) {
        struct nbd_op *next = op->next;
        blk_req_done(op->req, op->err);
        op = next;
    }
}

/* Bytes between a flat buffer and a part of an iov. */
static void copy_iov(const struct nbd_part *p, bool to_iov)
{
    uint64_t skip = p->skip;
    size_t at = 0;
    for (unsigned i = 0; i < p->nb_iov && at < p->len; i++) {
        const struct iovec *v = &p->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        size_t n = MIN(v->iov_len - skip, p->len - at);
        char *there = (char *)v->iov_base + skip;
        memcpy(to_iov ? there : (char *)p->bounce + at,
               to_iov ? (char *)p->bounce + at : there, n);
        at += n;
        skip = 0;
    }
}

static int part_done(void *opaque, int *error)
{
    struct nbd_part *p = opaque;
    struct nbd_link *l = p->link;
    struct nbd_op *op = p->op;
    int err = *error == ENOTCONN || *error == ESHUTDOWN ? EIO : *error;
    if (p->bounce && p->iov && err == 0 && !p->unsent) {
        copy_iov(p, true);
    }
    g_free(p->bounce);
    g_free(p);
    link_put(l);
    op_put(op, -err);
    return 1; /* libnbd forgets the command */
}

/* ---- issuing
 * ----------------------------------------------------------------------------- */

static int64_t issue_command(struct nbd_client *c, const struct blk_req *req,
                             struct nbd_part *p, void *buf, uint64_t offset)
{
    nbd_completion_callback cb = {.callback = part_done, .user_data = p};
    struct nbd_handle *h = p->link->h;
    uint32_t fua = (req->flags & BLK_FUA) && c->fua ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (req->op) {
    case BLK_READ: return c->n->aio_pread(h, buf, p->len, offset, cb, 0);
    case BLK_WRITE: return c->n->aio_pwrite(h, buf, p->len, offset, cb, fua);
    case BLK_FLUSH: return c->n->aio_flush(h, cb, 0);
    case BLK_DISCARD: return c->n->aio_trim(h, p->len, offset, cb, 0);
    default:
        fua |= req->flags & BLK_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
        fua |= req->flags & BLK_NO_FALLBACK ? LIBNBD_CMD_FLAG_FAST_ZERO : 0;
        return c->n->aio_zero(h, p->len, offset, cb, fua);
    }
}

/* The command that is being made has a hold of the link beside that of who makes it:
 * both may end inside of libnbd. */
static void part_counts(struct nbd_part *p)
{
    pthread_mutex_lock(&p->op->client->lock);
    p->op->pending++;
    p->link->in_flight++;
    pthread_mutex_unlock(&p->op->client->lock);
}

/* The connection broke, which io has not seen yet: nobody is to take it any more. */
static bool link_is_over(struct nbd_link *l)
{
    struct nbd_client *c = l->client;
    if (c->n->aio_is_dead(l->h) != 1 && c->n->aio_is_closed(l->h) != 1) {
        return false;
    }
    pthread_mutex_lock(&c->lock);
    l->dead = true;
    pthread_mutex_unlock(&c->lock);
    return true;
}

/* One command of @op for [at, at + len) of @req on @l; false when @l was dead already.
 */
static bool issue_part(struct nbd_op *op, const struct blk_req *req, struct nbd_link *l,
                       uint64_t at, size_t len)
{
    struct nbd_client *c = op->client;
    struct nbd_part *p = g_new0(struct nbd_part, 1);
    void *buf = NULL;
    p->op = op;
    p->link = l;
    p->len = len;
    if (req->op == BLK_READ || req->op == BLK_WRITE) {
        if (req->nb_iov == 1) {
            buf = (char *)req->iov->iov_base + at;
        } else {
            p->iov = req->op == BLK_READ ? req->iov : NULL;
            p->bounce = g_try_malloc(len);
            buf = p->bounce;
            struct nbd_part from = {.iov = req->iov,
                                    .nb_iov = req->nb_iov,
                                    .skip = at,
                                    .len = len,
                                    .bounce = p->bounce};
            p->nb_iov = req->nb_iov;
            p->skip = at;
            if (buf && req->op == BLK_WRITE) {
                copy_iov(&from, false);
            }
        }
    }
    part_counts(p);
    bool no_memory = !buf && len && (req->op == BLK_READ || req->op == BLK_WRITE);
    if (no_memory || issue_command(c, req, p, buf, req->offset + at) < 0) {
        int err = no_memory ? ENOMEM : c->n->get_errno();
        bool over = !no_memory && link_is_over(l);
        p->unsent = true;
        part_done(p, &(int){over ? 0 : err == 0 || err == ENOTCONN ? EIO : err});
        return !over;
    }
    /* It was not sent as a whole: io must wait for room in the socket. */
    if (c->n->aio_get_direction(l->h) & LIBNBD_AIO_DIRECTION_WRITE) {
        loop_bh_schedule(&l->bh);
    }
    return true;
}

/* All commands of @req; without a link, -EAGAIN, or with @connect one is made. */
static int issue(struct nbd_op *op, const struct blk_req *req, bool connect)
{
    struct nbd_client *c = op->client;
    uint64_t step =
        req->op == BLK_READ || req->op == BLK_WRITE ? c->len_max : RANGE_MAX;
    uint64_t at = 0;
    bool again;
    do {
        struct nbd_link *l = link_take(c);
        if (!l && connect) {
            l = link_connect_again(c);
        }
        if (!l) {
            return at || connect ? -EIO : -EAGAIN;
        }
        uint64_t len = MIN(step, req->len - at);
        bool issued = issue_part(op, req, l, at, (size_t)len);
        link_put(l);
        at += issued ? len : 0;
        again = !issued;
    } while (at < req->len || again);
    return 0;
}

/* 0 to go on, 1 when nothing is to be done, or -errno. */
static int client_judge(struct nbd_client *c, const struct blk_req *req)
{
    switch (req->op) {
    case BLK_FLUSH: return c->flush ? 0 : 1;
    case BLK_DISCARD: return c->trim ? 0 : -ENOTSUP;
    case BLK_ZERO:
        return !c->zero || ((req->flags & BLK_NO_FALLBACK) && !c->fast_zero) ? -ENOTSUP
                                                                             : 0;
    default: return 0;
    }
}

static void client_changed(struct nbd_client *c, const struct blk_req *req)
{
    if (req->op == BLK_READ || req->op == BLK_FLUSH) {
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->generation++;
    c->status_to = c->status_from;
    pthread_mutex_unlock(&c->lock);
}

static int run_once(struct nbd_client *c, const struct blk_req *req)
{
    struct nbd_op op = {.client = c, .pending = 1};
    int err = issue(&op, req, true);
    op_put(&op, err);
    pthread_mutex_lock(&c->lock);
    while (op.pending > 0) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return op.err;
}

static int nbd_run(struct blk *b, struct blk_req *req)
{
    struct nbd_client *c = b->priv;
    int r = client_judge(c, req);
    if (r) {
        return r < 0 ? r : 0;
    }
    client_changed(c, req);
    r = run_once(c, req);
    client_changed(c, req);
    bool flush = r == 0 && (req->flags & BLK_FUA) && !c->fua && c->flush &&
                 (req->op == BLK_WRITE || req->op == BLK_ZERO);
    return flush ? run_once(c, &(struct blk_req){.op = BLK_FLUSH}) : r;
}

/* Behind the op in req->driver. */
struct nbd_work {
    struct loop_work work;
    struct blk_req *req;
    int ret;
};

static struct nbd_work *work_of(struct blk_req *req)
{
    return (struct nbd_work *)(void *)(req->driver +
                                       ALIGN_UP(sizeof(struct nbd_op), 16));
}

static void work_run(struct loop_work *w)
{
    struct nbd_work *nw = container_of(w, struct nbd_work, work);
    nw->ret = nbd_run(nw->req->blk, nw->req);
}

static void work_done(struct loop_work *w)
{
    struct nbd_work *nw = container_of(w, struct nbd_work, work);
    blk_req_done(nw->req, nw->ret);
}

static void nbd_submit(struct blk *b, struct blk_req *req)
{
    struct nbd_client *c = b->priv;
    struct nbd_op *op = (struct nbd_op *)(void *)req->driver;
    int r = client_judge(c, req);
    if (r) {
        blk_req_done(req, r < 0 ? r : 0);
        return;
    }
    client_changed(c, req);
    *op = (struct nbd_op){.client = c, .req = req, .pending = 1};
    bool two_steps = (req->flags & BLK_FUA) && !c->fua;
    int err = two_steps ? -EAGAIN : issue(op, req, false);
    if (err == -EAGAIN) { /* blocks: to connect, or to flush behind the write */
        struct nbd_work *nw = work_of(req);
        *nw =
            (struct nbd_work){.work = {.run = work_run, .done = work_done}, .req = req};
        loop_work_submit(b->loop, &nw->work);
        return;
    }
    op_put(op, err);
}

/* ---- block status
 * --------------------------------------------------------------------------
 */

struct status_answer {
    struct nbd_op op;
    struct nbd_client *client;
    GArray *extents; /* of uint32_t: length, flags, length... */
};

static int status_extents(void *opaque, const char *context, uint64_t offset,
                          uint32_t *entries, size_t nb, int *error)
{
    struct status_answer *a = opaque;
    if (g_str_equal(context, a->client->context) && a->extents->len == 0) {
        g_array_append_vals(a->extents, entries,
                            (unsigned)MIN(nb, (size_t)EXTENTS_KEPT * 2));
    }
    return 0;
}

/* Ask the server. 0 with a->extents, or -errno. */
static int status_ask(struct nbd_client *c, struct status_answer *a, uint64_t offset,
                      uint64_t len)
{
    struct nbd_link *l = link_take(c);
    if (!l && !(l = link_connect_again(c))) {
        return -EIO;
    }
    struct nbd_part *p = g_new0(struct nbd_part, 1);
    p->op = &a->op;
    p->link = l;
    a->op = (struct nbd_op){.client = c};
    part_counts(p);
    nbd_extent_callback ext = {.callback = status_extents, .user_data = a};
    nbd_completion_callback cb = {.callback = part_done, .user_data = p};
    if (c->n->aio_block_status(l->h, len, offset, ext, cb, 0) < 0) {
        int err = c->n->get_errno();
        part_done(p, &(int){err ? err : EIO});
    } else if (c->n->aio_get_direction(l->h) & LIBNBD_AIO_DIRECTION_WRITE) {
        loop_bh_schedule(&l->bh);
    }
    link_put(l);
    pthread_mutex_lock(&c->lock);
    while (a->op.pending > 0) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return a->op.err;
}

/* From the kept answer; false when it says nothing about @offset. Caller holds lock. */
static bool status_known_locked(struct nbd_client *c, uint64_t offset, uint64_t len,
                                struct blk_extent *ret)
{
    if (offset < c->status_from || offset >= c->status_to) {
        return false;
    }
    uint64_t at = c->status_from;
    for (unsigned i = 0; i + 1 < c->status->len; i += 2) {
        uint64_t end = at + g_array_index(c->status, uint32_t, i);
        uint32_t flags = g_array_index(c->status, uint32_t, i + 1);
        if (offset < end) {
            bool hole = flags & LIBNBD_STATE_HOLE, zero = flags & LIBNBD_STATE_ZERO;
            ret->kind = zero ? BLK_EXT_ZERO : hole ? BLK_EXT_UNALLOCATED : BLK_EXT_DATA;
            ret->flags = zero && !hole ? BLK_EXT_HAS_SPACE : 0;
            ret->len = MIN(len, end - offset);
            return true;
        }
        at = end;
    }
    return false;
}

static void status_keep_locked(struct nbd_client *c, GArray *extents, uint64_t offset,
                               uint64_t len)
{
    uint64_t end = offset;
    for (unsigned i = 0; i + 1 < extents->len; i += 2) {
        end += g_array_index(extents, uint32_t, i);
    }
    g_array_set_size(c->status, 0);
    g_array_append_vals(c->status, extents->data, extents->len);
    c->status_from = offset;
    c->status_to = MIN(end, offset + len);
}

static int nbd_status(struct blk *b, uint64_t offset, uint64_t len,
                      struct blk_extent *ret)
{
    struct nbd_client *c = b->priv;
    *ret = (struct blk_extent){.kind = BLK_EXT_DATA, .len = len, .offset = offset};
    if (!c->has_context || offset >= b->content_len) {
        return 0;
    }
    pthread_mutex_lock(&c->lock);
    bool known = status_known_locked(c, offset, len, ret);
    uint64_t generation = c->generation;
    pthread_mutex_unlock(&c->lock);
    if (known) {
        return 0;
    }
    struct status_answer a = {.client = c,
                              .extents = g_array_new(FALSE, FALSE, sizeof(uint32_t))};
    uint64_t ask = MIN((uint64_t)b->content_len - offset, (uint64_t)RANGE_MAX);
    int err = status_ask(c, &a, offset, ask);
    pthread_mutex_lock(&c->lock);
    if (err == 0) {
        status_keep_locked(c, a.extents, offset, ask);
        if (!status_known_locked(c, offset, len, ret)) {
            err = -EIO; /* an answer without an extent */
        }
        if (c->generation != generation) {
            c->status_to = c->status_from;
        }
    }
    pthread_mutex_unlock(&c->lock);
    g_array_free(a.extents, TRUE);
    return err;
}

/* ---- opening
 * ------------------------------------------------------------------------------
 */

static bool server_options(struct nbd_client *c, json_t *opts, GError **error)
{
    struct libnbd_server *s = &c->server;
    json_t *server = json_object_get(opts, "server");
    const char *type = json_string_value(json_object_get(server, "type"));
    s->path = blk_opt_str(opts, "path", NULL);
    s->host = blk_opt_str(opts, "host", NULL);
    s->port = blk_opt_str(opts, "port", s->host ? "10809" : NULL);
    s->export = blk_opt_str(opts, "export", "");
    s->tls = blk_opt_bool(opts, "tls", false);
    s->tls_hostname = blk_opt_str(opts, "tls-hostname", NULL);
    if (!server) {
        if (s->path && s->host) {
            return error_msg(error, "path and host may not be used at the same time");
        }
        return s->path || s->host || error_msg(error, "NBD server address missing");
    }
    if (!json_is_object(server) || !type) {
        return error_msg(error, "Parameter 'type' is missing");
    }
    if (g_str_equal(type, "unix")) {
        s->path = json_string_value(json_object_get(server, "path"));
        return s->path || error_msg(error, "Parameter 'path' is missing");
    }
    if (!g_str_equal(type, "inet")) {
        return error_msg(error, "Parameter 'type' does not accept value '%s'", type);
    }
    s->host = json_string_value(json_object_get(server, "host"));
    s->port = json_string_value(json_object_get(server, "port"));
    return (s->host || error_msg(error, "Parameter 'host' is missing")) &&
           (s->port || error_msg(error, "Parameter 'port' is missing"));
}

/* As QEMU names such a node. */
static char *display_name(const struct libnbd_server *s)
{
    bool named = s->export && *s->export;
    return s->path
               ? (named
                      ? g_strdup_printf("nbd+unix:///%s?socket=%s", s->export, s->path)
                      : g_strdup_printf("nbd+unix://?socket=%s", s->path))
           : named ? g_strdup_printf("nbd://%s:%s/%s", s->host, s->port, s->export)
                   : g_strdup_printf("nbd://%s:%s", s->host, s->port);
}

static bool first_link(struct nbd_client *c, json_t *opts, GError **error)
{
    uint64_t end =
        loop_now_ns() + blk_opt_u64(opts, "open-timeout", 0) * UINT64_C(1000000000);
    struct nbd_link *l;
    while (!(l = link_new(c, error)) && loop_now_ns() < end) {
        g_clear_error(error);
        g_usleep(100000);
    }
    if (l) {
        g_ptr_array_add(c->links, l);
    }
    return l != NULL;
}

/* What the export is and can. */
static bool examine(struct blk *b, struct nbd_client *c, GError **error)
{
    struct nbd_handle *h = ((struct nbd_link *)c->links->pdata[0])->h;
    const struct libnbd *n = c->n;
    int64_t size = n->get_size(h);
    if (size < 0) {
        return error_msg(error, "%s", n->get_error());
    }
    if (!b->read_only && n->is_read_only(h) == 1) {
        return error_msg(error, "Could not open image: %s", g_strerror(EACCES));
    }
    b->content_len = (uint64_t)size;
    c->fua = n->can_fua(h) == 1;
    c->flush = n->can_flush(h) == 1;
    c->trim = n->can_trim(h) == 1;
    c->zero = n->can_zero(h) == 1;
    c->fast_zero = n->can_fast_zero(h) == 1;
    c->has_context = n->can_meta_context(h, c->context) == 1;
    if (!c->has_context && !g_str_equal(c->context, LIBNBD_CONTEXT_BASE_ALLOCATION)) {
        return error_msg(error, "Could not open image: %s", g_strerror(EINVAL));
    }
    int64_t least = n->get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t most = n->get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    if (least > 1 && least <= 65536 && (least & (least - 1)) == 0) {
        b->limits.request_align = (uint32_t)least;
    }
    c->len_max = most >= 65536 && most < LEN_DEFAULT ? (uint64_t)most : LEN_DEFAULT;
    c->len_max = ALIGN_DOWN(c->len_max, (uint64_t)b->limits.request_align);
    if (n->can_multi_conn(h) != 1) {
        c->nb_wanted = 1;
    }
    return true;
}

/* The other connections; one is enough when the server wants no more. */
static void more_links(struct nbd_client *c)
{
    while (c->links->len < c->nb_wanted) {
        struct nbd_link *l = link_new(c, NULL);
        if (!l) {
            return;
        }
        g_ptr_array_add(c->links, l);
    }
}

static bool find_creds(struct blk *b, struct nbd_client *c, json_t *opts,
                       GError **error)
{
    const char *id = blk_opt_str(opts, "tls-creds", NULL);
    if (!id) {
        return true;
    }
    const json_t *creds = secrets_get_object(blk_secrets(b), id);
    if (!creds) {
        return error_msg(error, "No TLS credentials with id '%s'", id);
    }
    c->creds = json_deep_copy(creds);
    c->server.tls_creds = c->creds;
    return true;
}

static bool nbd_open(struct blk *b, json_t *opts, GError **error)
{
    struct nbd_client *c = g_new0(struct nbd_client, 1);
    b->priv = c;
    c->blk = b;
    c->opts = json_deep_copy(opts);
    c->links = g_ptr_array_new();
    c->status = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    c->finished_last = &c->finished;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    loop_bh_init(&c->done_bh, b->loop, client_done, c);
    c->context =
        g_strdup(blk_opt_str(opts, "x-dirty-bitmap", LIBNBD_CONTEXT_BASE_ALLOCATION));
    c->nb_wanted = (unsigned)CLAMP(blk_opt_u64(opts, "connections", LINKS_USUAL), 1u,
                                   (uint64_t)LINKS_MAX);
    if (!server_options(c, c->opts, error)) {
        return false;
    }
    b->filename = display_name(&c->server);
    if (!find_creds(b, c, opts, error) || !(c->n = libnbd_load(error)) ||
        !(c->io = loop_new(NULL, error)) || !first_link(c, opts, error) ||
        !examine(b, c, error)) {
        return false;
    }
    more_links(c);
    for (unsigned i = 0; i < c->links->len; i++) {
        struct nbd_link *l = c->links->pdata[i];
        l->watch = loop_fd_add(c->io, c->n->aio_get_fd(l->h), LOOP_READ, link_event, l);
    }
    return loop_start(c->io, "lodge-nbd", error);
}

static void nbd_close_node(struct blk *b)
{
    struct nbd_client *c = b->priv;
    if (!c) {
        return;
    }
    if (c->io) {
        loop_stop(c->io);
    }
    for (unsigned i = 0; i < c->links->len; i++) {
        struct nbd_link *l = c->links->pdata[i];
        if (!l->dead) {
            c->n->aio_disconnect(l->h, 0); /* so that the server ends cleanly */
        }
        link_free(l);
    }
    loop_free(c->io);
    loop_bh_cancel(&c->done_bh);
    g_ptr_array_free(c->links, TRUE);
    g_array_free(c->status, TRUE);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    json_decref(c->opts);
    json_decref(c->creds);
    g_free(c->context);
    g_free(c);
}

/* ---- the driver
 * ------------------------------------------------------------------------------
 */

/* A server's export has its size: a smaller image is no more than that. */
static bool nbd_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                         GError **error)
{
    return length <= b->content_len || error_msg(error, "Cannot grow NBD nodes");
}

/*
 * Nothing is made: an export that is there, and large enough, will do. What its first
 * sector looked like is gone afterwards.
 */
static bool nbd_create_node(const char *filename, json_t *opts, GError **error)
{
    uint64_t size = blk_opt_u64(opts, "size", 0);
    json_t *o = nbd_options_from_name(filename, error);
    struct loop *loop = o ? loop_new(NULL, error) : NULL;
    struct blk_open_args args = {.loop = loop};
    struct blk *b = loop ? blk_open(&args, o, error) : NULL;
    bool ok = b != NULL;
    json_decref(o);
    if (!b) {
        g_prefix_error(error, "Protocol driver 'nbd' does not support image creation, "
                              "and opening the image failed: ");
    } else if (size > blk_length(b)) {
        ok = error_msg(error, "Cannot grow NBD nodes");
    } else {
        uint64_t len = MIN(blk_length(b), (uint64_t)512);
        int r = blk_run(b, BLK_ZERO, 0, NULL, 0, len, 0);
        ok = r == 0 || error_errno(error, -r,
                                   "Failed to clear the new image's first "
                                   "sector");
    }
    blk_unref(b);
    loop_free(loop);
    return ok;
}

static const struct blk_option nbd_create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {0},
};

static const struct blk_option nbd_options[] = {
    {"server", BLK_OPT_NODE, NULL,
     "where: type=unix with path, type=inet with host, port"},
    {"path", BLK_OPT_STR, NULL, "UNIX socket, instead of server"},
    {"host", BLK_OPT_STR, NULL, "TCP, instead of server"},
    {"port", BLK_OPT_STR, NULL, "of host (default 10809)"},
    {"export", BLK_OPT_STR, NULL, "name of the export (default: the empty one)"},
    {"tls-creds", BLK_OPT_STR, NULL, "id of an object with a client's credentials"},
    {"tls-hostname", BLK_OPT_STR, NULL, "whose certificate is expected"},
    {"tls", BLK_OPT_BOOL, NULL, "TLS with the certificates that the system trusts"},
    {"x-dirty-bitmap", BLK_OPT_STR, NULL, "context that block status shows"},
    {"reconnect-delay", BLK_OPT_INT, NULL,
     "accepted: a request connects again at once"},
    {"open-timeout", BLK_OPT_INT, NULL, "seconds to try to connect (default 0: once)"},
    {"connections", BLK_OPT_INT, NULL, "most connections (default 4)"},
    {0},
};

static const struct blk_resize_ops nbd_resize_ops = {.truncate = nbd_truncate};

const struct blk_protocol nbd_protocol = {
    .name = "nbd",
    .help = "exports of NBD servers",
    .options = nbd_options,
    .names_itself = true,
    .open = nbd_open,
    .close = nbd_close_node,
    .submit = nbd_submit,
    .run = nbd_run,
    .status = nbd_status,
    .resize = &nbd_resize_ops,
    .create_options = nbd_create_options,
    .create = nbd_create_node,
};
