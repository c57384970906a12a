#include "vmm/display/vnc.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "vmm/display/console.h"
#include "vmm/display/rfb.h"
#include "vmm/display/ws.h"

/*
 * All on the display's thread. A viewer's bytes go
 *
 *   socket -> (ws_feed) -> rfb_feed        rfb_pending -> (ws_put_head) -> socket
 *
 * and what waits for it is bounded: by the protocol's own bounds, and since its frames'
 * answers stop it from being read. A viewer is freed by a bottom half, never in the
 * middle of one of its own callbacks.
 */

enum {
    MAX_VIEWERS = 64,
    MAX_LISTENERS = 8,
    READ_LEN = 16384,
    WS_CHUNK = 65536,
    MAX_WAITING = 256 * 1024, /* framed bytes, before reading stops */
    FREE_TRIES = 5,           /* wrong passwords before one has to wait */
    MAX_ADDRESSES = 256,
};

#define SECOND_NS    UINT64_C(1000000000)
#define HANDSHAKE_NS (30 * SECOND_NS)
#define LINGER_NS    (5 * SECOND_NS)
#define WAIT_NS      (10 * SECOND_NS) /* doubled with each further failure */
#define MAX_WAIT_NS  (600 * SECOND_NS)

struct listener {
    struct vnc *vnc;
    int fd;
    struct loop_fd *watch;
    bool websocket;
};

struct viewer {
    struct vnc *vnc;
    int fd;
    char *address;
    struct loop_fd *watch;
    struct loop_timer timer; /* end of the handshake, or of lingering */
    struct rfb *rfb;
    struct ws *ws;   /* NULL: none */
    GByteArray *out; /* WebSocket: framed bytes; they go first */
    size_t out_at;
    bool ending; /* nothing is read, what waits is sent */
    bool dead;
};

/* Of an address that gave wrong passwords. */
struct failures {
    unsigned n;
    uint64_t until_ns; /* no try before */
};

struct vnc {
    struct display *display;
    struct loop *loop;
    char *name, *password, *unix_path;
    enum vnc_share share;
    uint16_t port;
    struct listener listeners[MAX_LISTENERS];
    unsigned nb_listeners;
    GPtrArray *viewers;   /* struct viewer * */
    GHashTable *failures; /* address -> struct failures */
    struct loop_bh reap;
    struct console *empty; /* shown when there is no graphics card */
};

static void pump(struct viewer *w);

/* ---- viewers ---- */

static void viewer_free(struct viewer *w)
{
    loop_fd_remove(w->watch);
    loop_timer_done(&w->timer);
    rfb_free(w->rfb);
    ws_free(w->ws);
    g_byte_array_unref(w->out);
    close(w->fd);
    g_free(w->address);
    g_free(w);
}

static void viewer_die(struct viewer *w)
{
    if (w->dead)
        return;
    w->dead = true;
    loop_fd_set_events(w->watch, 0);
    loop_bh_schedule(&w->vnc->reap);
}

static void reap(void *opaque)
{
    struct vnc *v = opaque;

    for (guint i = v->viewers->len; i-- > 0;) {
        struct viewer *w = v->viewers->pdata[i];

        if (w->dead) {
            g_ptr_array_remove_index_fast(v->viewers, i);
            viewer_free(w);
        }
    }
}

/* Nothing is heard of it any more; it goes when what waits has been sent. */
static void viewer_end(struct viewer *w)
{
    if (w->ending)
        return;
    w->ending = true;
    loop_timer_set(&w->timer, loop_now_ns() + LINGER_NS);
}

static void on_viewer_timer(void *opaque)
{
    struct viewer *w = opaque;

    if (w->ending || !rfb_is_open(w->rfb))
        viewer_die(w);
}

/* ---- sending ---- */

/* Send from @bytes; returns how many went, or -1. */
static ssize_t send_some(struct viewer *w, const uint8_t *bytes, size_t len)
{
    ssize_t n;

    do {
        n = send(w->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    return n;
}

/* Take some of what the protocol has to say into a frame. */
static void frame_some(struct viewer *w)
{
    const uint8_t *bytes;
    size_t n = rfb_pending(w->rfb, &bytes);

    if (n == 0 || !ws_is_open(w->ws))
        return;
    n = MIN(n, WS_CHUNK);
    ws_put_head(w->out, n);
    g_byte_array_append(w->out, bytes, (guint)n);
    rfb_sent(w->rfb, n);
}

/* What is to be sent next. */
static size_t next_bytes(struct viewer *w, const uint8_t **ret)
{
    if (w->ws && w->out->len == w->out_at) {
        g_byte_array_set_size(w->out, 0);
        w->out_at = 0;
        frame_some(w);
    }
    if (!w->ws)
        return rfb_pending(w->rfb, ret);
    *ret = w->out->data + w->out_at;
    return w->out->len - w->out_at;
}

/* Send what the socket takes, and watch it as is needed from now on. */
static void pump(struct viewer *w)
{
    const uint8_t *bytes;
    size_t len;
    /* Pictures may be made as fast as they are sent: others have their turn, too. */
    size_t turn = 4 << 20;

    if (w->dead)
        return;
    while (turn > 0 && (len = next_bytes(w, &bytes)) > 0) {
        ssize_t n = send_some(w, bytes, MIN(len, turn));

        if (n < 0) {
            viewer_die(w);
            return;
        }
        if (n == 0)
            break;
        turn -= (size_t)n;
        if (w->ws)
            w->out_at += (size_t)n;
        else
            rfb_sent(w->rfb, (size_t)n);
    }
    len = next_bytes(w, &bytes);
    if (len == 0 && w->ending) {
        shutdown(w->fd, SHUT_WR);
        viewer_die(w);
        return;
    }
    loop_fd_set_events(w->watch,
                       (len ? LOOP_WRITE : 0) |
                           (w->ending || w->out->len > MAX_WAITING ? 0 : LOOP_READ));
}

/* ---- receiving ---- */

static bool feed(struct viewer *w, const uint8_t *bytes, size_t len)
{
    g_autoptr(GByteArray) data = NULL;
    bool ok;

    if (!w->ws)
        return rfb_feed(w->rfb, bytes, len);
    data = g_byte_array_new();
    ok = ws_feed(w->ws, bytes, len, data, w->out);
    return (data->len == 0 || rfb_feed(w->rfb, data->data, data->len)) && ok;
}

static void on_viewer(void *opaque, unsigned events)
{
    struct viewer *w = opaque;
    uint8_t bytes[READ_LEN];
    ssize_t n;

    if (w->dead)
        return;
    if (events & LOOP_HUP && !(events & LOOP_READ)) {
        viewer_die(w);
        return;
    }
    if (events & LOOP_READ && !w->ending) {
        n = recv(w->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            viewer_die(w);
            return;
        }
        if (n > 0 && !feed(w, bytes, (size_t)n))
            viewer_end(w);
    }
    pump(w);
}

static void on_ready(void *opaque)
{
    pump(opaque);
}

/* ---- passwords ---- */

static struct failures *failures_of(struct vnc *v, const char *address)
{
    return g_hash_table_lookup(v->failures, address);
}

static const char *why_refused(void *opaque)
{
    const struct viewer *w = opaque;
    const struct failures *f = failures_of(w->vnc, w->address);

    return f && f->until_ns > loop_now_ns() ? "Too many authentication failures" : NULL;
}

static gboolean is_over(gpointer key, gpointer value, gpointer opaque)
{
    const struct failures *f = value;

    return f->until_ns + MAX_WAIT_NS < *(uint64_t *)opaque;
}

static void on_authenticated(void *opaque, bool ok)
{
    struct viewer *w = opaque;
    struct vnc *v = w->vnc;
    struct failures *f = failures_of(v, w->address);
    uint64_t now = loop_now_ns();

    if (ok) {
        g_hash_table_remove(v->failures, w->address);
        return;
    }
    if (!f) {
        if (g_hash_table_size(v->failures) >= MAX_ADDRESSES)
            g_hash_table_foreach_remove(v->failures, is_over, &now);
        if (g_hash_table_size(v->failures) >= MAX_ADDRESSES)
            return;
        f = g_new0(struct failures, 1);
        g_hash_table_insert(v->failures, g_strdup(w->address), f);
    }
    f->n++;
    f->until_ns = now;
    if (f->n >= FREE_TRIES)
        f->until_ns += MIN(WAIT_NS << MIN(f->n - FREE_TRIES, 10), MAX_WAIT_NS);
}

/* ---- connecting ---- */

static void on_exclusive(void *opaque)
{
    struct viewer *w = opaque;
    struct vnc *v = w->vnc;
    bool others = false;

    if (v->share == VNC_SHARE_IGNORE)
        return;
    for (guint i = 0; i < v->viewers->len; i++) {
        struct viewer *o = v->viewers->pdata[i];

        if (o == w || o->dead || !rfb_is_open(o->rfb))
            continue;
        others = true;
        if (v->share == VNC_SHARE_ALLOW_EXCLUSIVE)
            viewer_die(o);
    }
    if (others && v->share == VNC_SHARE_FORCE_SHARED)
        viewer_die(w);
}

static char *peer_name(const struct sockaddr_storage *ss, socklen_t len)
{
    char host[NI_MAXHOST];

    if (ss->ss_family == AF_UNIX ||
        getnameinfo((const struct sockaddr *)ss, len, host, sizeof(host), NULL, 0,
                    NI_NUMERICHOST) != 0)
        return g_strdup("unix");
    return g_strdup(host);
}

static const struct console_ops no_ops = {0};

static void add_viewer(struct vnc *v, int fd, char *address, bool websocket)
{
    struct viewer *w = g_new0(struct viewer, 1);
    struct rfb_host host = {
        .display = v->display,
        .name = v->name,
        .password = v->password,
        .refuse = why_refused,
        .ready = on_ready,
        .authenticated = on_authenticated,
        .exclusive = on_exclusive,
        .opaque = w,
    };

    if (!display_console(v->display))
        v->empty = console_new(v->display, "none", &no_ops, NULL);
    w->vnc = v;
    w->fd = fd;
    w->address = address;
    w->out = g_byte_array_new();
    w->rfb = rfb_new(&host);
    w->ws = websocket ? ws_new() : NULL;
    loop_timer_init(&w->timer, v->loop, on_viewer_timer, w);
    w->watch = loop_fd_add(v->loop, fd, LOOP_READ, on_viewer, w);
    if (!w->watch) {
        viewer_free(w);
        return;
    }
    loop_timer_set(&w->timer, loop_now_ns() + HANDSHAKE_NS);
    g_ptr_array_add(v->viewers, w);
    pump(w);
}

static void on_connection(void *opaque, unsigned events)
{
    struct listener *l = opaque;
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int one = 1;
    int fd = accept4(l->fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (l->vnc->viewers->len >= MAX_VIEWERS) {
        close(fd);
        return;
    }
    if (ss.ss_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    }
    add_viewer(l->vnc, fd, peer_name(&ss, len), l->websocket);
}

/* ---- listening ---- */

static bool add_listener(struct vnc *v, int fd, bool websocket, GError **error)
{
    struct listener *l = &v->listeners[v->nb_listeners];

    *l = (struct listener){.vnc = v, .fd = fd, .websocket = websocket};
    l->watch = loop_fd_add(v->loop, fd, LOOP_READ, on_connection, l);
    if (!l->watch) {
        close(fd);
        return error_errno(error, errno, "watching a socket");
    }
    v->nb_listeners++;
    return true;
}

static int listen_at(const struct addrinfo *a)
{
    int one = 1, saved;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 16) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* On all addresses of @host. False with *ret_errno, or with @error. */
static bool listen_tcp(struct vnc *v, const char *host, uint16_t port, bool websocket,
                       int *ret_errno, GError **error)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *all;
    g_autofree char *service = g_strdup_printf("%u", port);
    unsigned before = v->nb_listeners;
    int rc = getaddrinfo(host && *host ? host : NULL, service, &hints, &all);
    bool ok = true;

    *ret_errno = 0;
    if (rc != 0)
        return error_msg(error, "%s: %s", host ?: "", gai_strerror(rc));
    for (const struct addrinfo *a = all; a && ok; a = a->ai_next) {
        int fd = v->nb_listeners < MAX_LISTENERS ? listen_at(a) : -1;

        if (fd >= 0)
            ok = add_listener(v, fd, websocket, error);
        else if (errno == EADDRINUSE || !*ret_errno)
            *ret_errno = errno;
    }
    freeaddrinfo(all);
    /* An address family that the host lacks does not matter, a taken port does. */
    if (ok && v->nb_listeners > before && *ret_errno != EADDRINUSE)
        return true;
    while (v->nb_listeners > before) {
        struct listener *l = &v->listeners[--v->nb_listeners];

        loop_fd_remove(l->watch);
        close(l->fd);
    }
    return false;
}

static bool listen_ports(struct vnc *v, const struct vnc_config *c, GError **error)
{
    int err = 0;

    for (unsigned port = c->port; port <= MAX(c->port, c->port_last); port++) {
        GError *e = NULL;

        if (listen_tcp(v, c->host, (uint16_t)port, false, &err, &e)) {
            v->port = (uint16_t)port;
            return true;
        }
        if (e) {
            g_propagate_error(error, e);
            return false;
        }
    }
    return error_errno(error, err, "%s:%u", c->host ?: "", c->port);
}

static bool listen_unix(struct vnc *v, const char *path, GError **error)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(sun.sun_path))
        return error_errno(error, ENAMETOOLONG, "%s", path);
    memcpy(sun.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(error, errno, "%s", path);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 || listen(fd, 16) < 0) {
        error_errno(error, errno, "%s", path);
        close(fd);
        return false;
    }
    v->unix_path = g_strdup(path);
    return add_listener(v, fd, false, error);
}

static bool listen_all(struct vnc *v, const struct vnc_config *c, GError **error)
{
    GError *e = NULL;
    int err;

    if (c->unix_path ? !listen_unix(v, c->unix_path, error)
                     : !listen_ports(v, c, error))
        return false;
    if (!c->websocket || listen_tcp(v, c->websocket_host, c->websocket, true, &err, &e))
        return true;
    if (!e)
        error_errno(&e, err, "%s:%u", c->websocket_host ?: "", c->websocket);
    g_propagate_prefixed_error(error, e, "websocket: ");
    return false;
}

/* ---- life ---- */

struct vnc *vnc_new(struct display *d, const struct vnc_config *c, GError **error)
{
    struct vnc *v = g_new0(struct vnc, 1);

    v->display = d;
    v->loop = display_loop(d);
    v->name = g_strdup(c->name);
    v->password = g_strdup(c->password);
    v->share = c->share;
    v->viewers = g_ptr_array_new();
    v->failures = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    loop_bh_init(&v->reap, v->loop, reap, v);
    if (listen_all(v, c, error))
        return v;
    vnc_free(v);
    return NULL;
}

void vnc_free(struct vnc *v)
{
    if (!v)
        return;
    loop_bh_cancel(&v->reap);
    for (guint i = 0; i < v->viewers->len; i++)
        viewer_free(v->viewers->pdata[i]);
    for (unsigned i = 0; i < v->nb_listeners; i++) {
        loop_fd_remove(v->listeners[i].watch);
        close(v->listeners[i].fd);
    }
    console_free(v->empty);
    if (v->unix_path)
        unlink(v->unix_path);
    g_ptr_array_unref(v->viewers);
    g_hash_table_unref(v->failures);
    if (v->password)
        memset(v->password, 0, strlen(v->password));
    g_free(v->password);
    g_free(v->unix_path);
    g_free(v->name);
    g_free(v);
}

uint16_t vnc_port(const struct vnc *v)
{
    return v->port;
}
