#include "block/nbd/priv.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "lib/base/base.h"

/*
 * One connection's bytes.
 *
 * Reading is level-triggered: a readable socket fills the buffer once or a few times
 * and goes back to the loop, so that a client that never stops sending shares the
 * thread with the others. The data of a write goes to its request directly.
 *
 * Sending waits for company: a reply is sent at once when no other request of the
 * connection is being worked on (a client with one request in flight waits for
 * nothing), else when the last of them completes or, at the latest, in the bottom half.
 * So a batch of completions costs one system call.
 */

enum {
    READ_ROUNDS = 4,  /* before others have their turn   */
    SEND_IOVECS = 64, /* given to the kernel at once      */
    SEND_BATCH = 32,  /* replies that wait for company    */
    TLS_RECORD = 16384,
    HANDSHAKE_OUT = 256 * 1024, /* unsent answers to options */
};

/* ---- life -------------------------------------------------------------------------
 */

void nbd_conn_ref(struct nbd_conn *c)
{
    c->refs++;
}

void nbd_conn_unref(struct nbd_conn *c)
{
    if (--c->refs > 0) {
        return;
    }
    loop_bh_cancel(&c->bh);
    nbd_conn_free_requests(c);
    g_array_free(c->contexts, TRUE);
    c->srv->nb_alive--;
    g_free(c->peer);
    g_free(c);
}

static void conn_drop_out(struct nbd_conn *c)
{
    while (c->out_first) {
        struct nbd_out *out = c->out_first;
        c->out_first = out->next;
        out->done(out);
    }
    c->out_last = &c->out_first;
}

static void conn_unlink(struct nbd_conn *c)
{
    struct nbd_server *s = c->srv;
    if (c->prev) {
        c->prev->next = c->next;
    } else {
        s->conns = c->next;
    }
    if (c->next) {
        c->next->prev = c->prev;
    }
    s->nb_conns--;
}

static void conn_drop_incoming(struct nbd_conn *c);
static void conn_set_starved(struct nbd_conn *c, bool on);

void nbd_conn_close(struct nbd_conn *c)
{
    if (c->phase == NBD_CLOSED) {
        return;
    }
    c->phase = NBD_CLOSED;
    loop_timer_clear(&c->timer);
    loop_fd_remove(g_steal_pointer(&c->watch));
    if (c->ssl) {
        if (c->negotiated) {
            ERR_clear_error();
            SSL_shutdown(c->ssl); /* one alert, if the socket takes it */
        }
        nbd_tls_session_free(g_steal_pointer(&c->ssl));
    }
    close(c->fd);
    c->fd = -1;
    conn_set_starved(c, false);
    conn_drop_incoming(c);
    conn_drop_out(c);
    conn_unlink(c);
    nbd_server_closed(c->srv, c->negotiated);
    nbd_conn_unref(c);
}

static void conn_close_if_done(struct nbd_conn *c)
{
    if (c->ended && c->nb_reqs == 0 && !c->out_first) {
        nbd_conn_close(c);
    }
}

void nbd_conn_end(struct nbd_conn *c)
{
    if (c->phase == NBD_CLOSED || c->ended) {
        return;
    }
    c->ended = true;
    c->in_pos = c->in_len = 0;
    conn_drop_incoming(c);
    conn_close_if_done(c);
}

bool nbd_conn_fail(struct nbd_conn *c, const char *fmt, ...)
{
    if (c->srv->opts.trace) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *line = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        c->srv->opts.trace(c->srv->opts.opaque, line);
    }
    nbd_conn_end(c);
    return false;
}

/* ---- the socket --------------------------------------------------------------------
 */

/* As recv(): bytes, 0 at the end, -1 with errno. */
static ssize_t conn_recv(struct nbd_conn *c, void *buf, size_t len)
{
    if (!c->ssl) {
        return recv(c->fd, buf, len, MSG_DONTWAIT);
    }
    ERR_clear_error();
    int n = SSL_read(c->ssl, buf, (int)MIN(len, (size_t)INT32_MAX));
    if (n > 0) {
        return n;
    }
    switch (SSL_get_error(c->ssl, n)) {
    case SSL_ERROR_WANT_READ: errno = EAGAIN; return -1;
    case SSL_ERROR_WANT_WRITE:
        c->ssl_wants_write = true;
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default: errno = EIO; return -1;
    }
}

/* Up to @max buffers of what is queued. */
static unsigned out_gather(const struct nbd_conn *c, struct iovec *iov, unsigned max)
{
    unsigned n = 0;
    for (const struct nbd_out *o = c->out_first; o && n < max; o = o->next) {
        for (unsigned i = o->at; i < o->nb_iov && n < max; i++) {
            size_t skip = i == o->at ? o->at_sent : 0;
            iov[n++] = (struct iovec){(char *)o->iov[i].iov_base + skip,
                                      o->iov[i].iov_len - skip};
        }
    }
    return n;
}

/* @n bytes of the queue are sent. */
static void out_advance(struct nbd_conn *c, size_t n)
{
    while (c->out_first) {
        struct nbd_out *o = c->out_first;
        while (o->at < o->nb_iov) {
            size_t left = o->iov[o->at].iov_len - o->at_sent;
            if (n < left) {
                o->at_sent += n;
                return;
            }
            n -= left;
            o->at++;
            o->at_sent = 0;
        }
        c->out_first = o->next;
        if (!c->out_first) {
            c->out_last = &c->out_first;
        }
        o->done(o);
    }
}

/* A record's worth of small pieces, or the first when it is large: what is tried again
 * after a refusal begins with the same bytes and is not shorter. */
static ssize_t tls_send(struct nbd_conn *c, const struct iovec *iov, unsigned nb)
{
    uint8_t record[TLS_RECORD];
    const void *from = iov[0].iov_base;
    size_t len = iov[0].iov_len;
    if (len < TLS_RECORD / 4) {
        len = 0;
        for (unsigned i = 0; i < nb && len < sizeof(record); i++) {
            size_t part = MIN(iov[i].iov_len, sizeof(record) - len);
            memcpy(record + len, iov[i].iov_base, part);
            len += part;
        }
        from = record;
    }
    ERR_clear_error();
    int n = SSL_write(c->ssl, from, (int)MIN(len, (size_t)INT32_MAX));
    if (n > 0) {
        return n;
    }
    int why = SSL_get_error(c->ssl, n);
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
    return -1;
}

static void conn_update(struct nbd_conn *c)
{
    if (c->phase == NBD_CLOSED) {
        return;
    }
    bool write = c->out_first || c->ssl_wants_write;
    bool read = !c->paused && !c->ended;
    unsigned events = (read ? LOOP_READ : 0) | (write ? LOOP_WRITE : 0);
    if (events != c->events) {
        c->events = events;
        loop_fd_set_events(c->watch, events);
    }
}

void nbd_conn_flush(struct nbd_conn *c)
{
    struct iovec iov[SEND_IOVECS];
    c->unflushed = 0;
    nbd_conn_ref(c);
    while (c->out_first && c->phase != NBD_CLOSED) {
        unsigned nb = out_gather(c, iov, SEND_IOVECS);
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nb};
        ssize_t n = nb == 0 ? 0
                    : c->ssl && c->phase != NBD_IN_TLS
                        ? tls_send(c, iov, nb)
                        : sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EAGAIN) {
            nbd_conn_close(c);
        }
        if (n < 0) {
            break;
        }
        out_advance(c, (size_t)n);
    }
    conn_close_if_done(c);
    conn_update(c);
    nbd_conn_unref(c);
}

void nbd_conn_queue(struct nbd_conn *c, struct nbd_out *out)
{
    out->next = NULL;
    out->at = 0;
    out->at_sent = 0;
    if (c->phase == NBD_CLOSED) {
        out->done(out);
        return;
    }
    *c->out_last = out;
    c->out_last = &out->next;
    c->unflushed++;
    if (c->events & LOOP_WRITE) {
        return; /* the socket is full and will say when it is not */
    }
    if (c->nb_working == 0 || c->unflushed >= SEND_BATCH) {
        if (c->phase == NBD_TRANSMISSION) {
            nbd_conn_flush(c);
            return;
        }
    }
    if (c->unflushed == 1) {
        loop_bh_schedule(&c->bh);
    }
}

struct copy_out {
    struct nbd_out out;
    struct nbd_conn *conn;
    struct iovec iov;
    uint8_t bytes[];
};

static void conn_charge(struct nbd_conn *c, int64_t bytes)
{
    c->bytes += (uint64_t)bytes;
    c->srv->bytes += (uint64_t)bytes;
}

static void copy_out_done(struct nbd_out *out)
{
    struct copy_out *co = container_of(out, struct copy_out, out);
    struct nbd_conn *c = co->conn;
    conn_charge(c, -(int64_t)co->iov.iov_len);
    g_free(co);
    nbd_conn_relax(c);
    nbd_conn_unref(c);
}

void nbd_conn_send(struct nbd_conn *c, const void *bytes, size_t len)
{
    struct copy_out *co = g_malloc(sizeof(*co) + len);
    memcpy(co->bytes, bytes, len);
    co->conn = c;
    co->iov = (struct iovec){co->bytes, len};
    co->out = (struct nbd_out){.iov = &co->iov, .nb_iov = 1, .done = copy_out_done};
    conn_charge(c, (int64_t)len);
    nbd_conn_ref(c);
    nbd_conn_queue(c, &co->out);
}

/* ---- limits ------------------------------------------------------------------------
 */

static void conn_set_starved(struct nbd_conn *c, bool on)
{
    if (c->starved != on) {
        c->starved = on;
        c->srv->nb_starved += on ? 1u : -1u;
    }
}

bool nbd_conn_may_read(const struct nbd_conn *c)
{
    if (c->phase != NBD_TRANSMISSION) {
        return c->bytes < HANDSHAKE_OUT;
    }
    return c->nb_reqs < NBD_REQUESTS_MAX && c->bytes < NBD_CONN_BYTES &&
           (c->nb_reqs == 0 || c->srv->bytes < NBD_TOTAL_BYTES);
}

void nbd_conn_relax(struct nbd_conn *c)
{
    if (c->paused && c->phase != NBD_CLOSED && nbd_conn_may_read(c)) {
        loop_bh_schedule(&c->bh);
    }
    struct nbd_server *s = c->srv;
    if (s->nb_starved == 0 || s->bytes >= NBD_TOTAL_BYTES) {
        return;
    }
    for (struct nbd_conn *other = s->conns; other; other = other->next) {
        if (other->starved) {
            loop_bh_schedule(&other->bh);
        }
    }
}

/* ---- input
 * ---------------------------------------------------------------------------
 */

static void conn_drop_incoming(struct nbd_conn *c)
{
    if (c->incoming) {
        struct nbd_req *r = g_steal_pointer(&c->incoming);
        r->out.done(&r->out);
    }
    if (c->refused) {
        struct nbd_req *r = g_steal_pointer(&c->refused);
        r->out.done(&r->out);
    }
}

/* What the buffer has for the write that is being read. */
static bool conn_fill_incoming(struct nbd_conn *c)
{
    struct nbd_req *r = c->incoming;
    size_t part = MIN(nbd_conn_have(c), r->len - c->incoming_got);
    memcpy(r->buf + c->incoming_got, c->in + c->in_pos, part);
    c->in_pos += part;
    c->incoming_got += part;
    if (c->incoming_got < r->len) {
        return false;
    }
    nbd_request_write(c);
    return true;
}

static bool conn_skip(struct nbd_conn *c)
{
    size_t part = MIN((uint64_t)nbd_conn_have(c), c->skip);
    c->in_pos += part;
    c->skip -= part;
    if (c->skip == 0 && c->refused) {
        nbd_request_refuse(c);
    }
    return c->skip == 0;
}

static void conn_parse(struct nbd_conn *c)
{
    bool more = true;
    c->paused = false;
    while (more && !c->ended) {
        if (c->incoming) {
            more = conn_fill_incoming(c);
        } else if (c->skip) {
            more = conn_skip(c);
        } else if (!nbd_conn_may_read(c)) {
            c->paused = true;
            more = false;
        } else if (c->phase == NBD_TRANSMISSION) {
            more = nbd_request_step(c);
        } else if (c->phase == NBD_CLIENT_FLAGS || c->phase == NBD_IN_OPTIONS) {
            more = nbd_handshake_step(c);
        } else {
            more = false;
        }
    }
    conn_set_starved(c, c->paused && c->srv->bytes >= NBD_TOTAL_BYTES);
}

/* Where the next bytes go. */
static void *conn_room(struct nbd_conn *c, size_t *ret_len)
{
    if (c->incoming && nbd_conn_have(c) == 0) {
        *ret_len = c->incoming->len - c->incoming_got;
        return c->incoming->buf + c->incoming_got;
    }
    if (c->in_pos > 0) {
        memmove(c->in, c->in + c->in_pos, nbd_conn_have(c));
        c->in_len -= c->in_pos;
        c->in_pos = 0;
    }
    *ret_len = sizeof(c->in) - c->in_len;
    return c->in + c->in_len;
}

/* Read and parse once; false when there is nothing more for now. */
static bool conn_read_once(struct nbd_conn *c)
{
    size_t room;
    struct nbd_req *to = c->incoming;
    void *dst = conn_room(c, &room);
    bool direct = to && dst == to->buf + c->incoming_got;
    ssize_t n = conn_recv(c, dst, room);
    if (n == 0) {
        nbd_conn_end(c);
        return false;
    }
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            nbd_conn_close(c);
        }
        return false;
    }
    if (direct) {
        c->incoming_got += (size_t)n;
    } else {
        c->in_len += (size_t)n;
    }
    conn_parse(c);
    return c->ssl || (size_t)n == room;
}

static void conn_read(struct nbd_conn *c)
{
    unsigned round = 0;
    while (round < READ_ROUNDS && c->phase != NBD_CLOSED && c->phase != NBD_IN_TLS &&
           !c->ended && !c->paused && conn_read_once(c)) {
        round++;
    }
    if (c->phase == NBD_CLOSED) {
        return;
    }
    /* OpenSSL may hold bytes that the socket no longer shows. */
    if (c->ssl && c->phase != NBD_IN_TLS && !c->paused && SSL_has_pending(c->ssl)) {
        loop_bh_schedule(&c->bh);
    }
    if (c->unflushed > 0 && c->nb_working == 0 && !(c->events & LOOP_WRITE)) {
        nbd_conn_flush(c);
    } else {
        conn_update(c);
    }
}

/* ---- TLS
 * ------------------------------------------------------------------------------
 */

/* Our answer to STARTTLS has been sent; go on with the handshake. */
static void conn_tls_step(struct nbd_conn *c)
{
    if (c->out_first) {
        return;
    }
    if (!c->ssl) {
        c->ssl = nbd_tls_session(c->srv->opts.tls, c->fd);
        if (!c->ssl) {
            nbd_conn_fail(c, "TLS: no session");
            return;
        }
    }
    c->ssl_wants_write = false;
    ERR_clear_error();
    int r = SSL_accept(c->ssl);
    if (r == 1) {
        c->peer = nbd_tls_peer(c->srv->opts.tls, c->ssl);
        if (!nbd_tls_authorized(c->srv->opts.tls, c->peer)) {
            nbd_conn_fail(c, "TLS x509 authz check for %s is denied", c->peer);
            return;
        }
        c->phase = NBD_IN_OPTIONS;
        conn_read(c);
        return;
    }
    int why = SSL_get_error(c->ssl, r);
    if (why == SSL_ERROR_WANT_WRITE) {
        c->ssl_wants_write = true;
    } else if (why != SSL_ERROR_WANT_READ) {
        unsigned long code = ERR_peek_error();
        const char *reason = code ? ERR_reason_error_string(code) : NULL;
        nbd_conn_fail(c, "TLS handshake failed: %s",
                      reason ? reason : "the client is gone");
        return;
    }
    conn_update(c);
}

/* ---- events
 * ---------------------------------------------------------------------------
 */

static void conn_event(void *opaque, unsigned events)
{
    struct nbd_conn *c = opaque;
    nbd_conn_ref(c);
    if (events & LOOP_WRITE) {
        c->ssl_wants_write = false;
        nbd_conn_flush(c);
    }
    if (c->phase == NBD_IN_TLS) {
        conn_tls_step(c);
    } else if (events & (LOOP_READ | LOOP_WRITE)) {
        conn_read(c);
    }
    /* Gone for good, and nothing left to read that it said before. */
    if ((events & LOOP_HUP) && !(events & LOOP_READ)) {
        nbd_conn_close(c);
    }
    nbd_conn_unref(c);
}

static void conn_bh(void *opaque)
{
    struct nbd_conn *c = opaque;
    nbd_conn_ref(c);
    if (c->phase != NBD_CLOSED && c->unflushed > 0 && !(c->events & LOOP_WRITE)) {
        nbd_conn_flush(c);
    }
    if (c->phase == NBD_IN_TLS) {
        conn_tls_step(c);
    } else if (c->phase != NBD_CLOSED && !c->ended) {
        conn_parse(c);
        conn_read(c);
    }
    nbd_conn_unref(c);
}

static void conn_timeout(void *opaque)
{
    struct nbd_conn *c = opaque;
    nbd_conn_ref(c);
    nbd_conn_fail(c, "handshake is not finished in %u seconds",
                  c->srv->opts.handshake_secs);
    nbd_conn_close(c);
    nbd_conn_unref(c);
}

struct nbd_conn *nbd_conn_new(struct nbd_server *s, int fd)
{
    struct nbd_conn *c = g_new0(struct nbd_conn, 1);
    c->srv = s;
    c->fd = fd;
    c->refs = 1;
    c->out_last = &c->out_first;
    c->contexts = g_array_new(FALSE, FALSE, sizeof(unsigned));
    c->events = LOOP_READ;
    loop_bh_init(&c->bh, s->opts.loop, conn_bh, c);
    loop_timer_init(&c->timer, s->opts.loop, conn_timeout, c);
    c->watch = loop_fd_add(s->opts.loop, fd, LOOP_READ, conn_event, c);
    if (!c->watch) {
        close(fd);
        g_array_free(c->contexts, TRUE);
        g_free(c);
        return NULL;
    }
    if (s->opts.handshake_secs) {
        loop_timer_set(&c->timer,
                       loop_now_ns() + s->opts.handshake_secs * UINT64_C(1000000000));
    }
    c->next = s->conns;
    if (c->next) {
        c->next->prev = c;
    }
    s->conns = c;
    s->nb_conns++;
    s->nb_alive++;
    return c;
}
