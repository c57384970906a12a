#include "block/nbd/priv.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "block/image.h"
#include "lib/base/base.h"

/* What is offered, and who comes. */

struct nbd_listener {
    struct nbd_server *srv;
    int fd;
    struct loop_fd *watch;
};

/* ---- exports ------------------------------------------------------------------------
 */

static void export_free(gpointer p)
{
    struct nbd_export *e = p;
    for (unsigned i = 0; i < e->contexts->len; i++) {
        struct nbd_context *x = &g_array_index(e->contexts, struct nbd_context, i);
        g_free(x->name);
    }
    g_array_free(e->contexts, TRUE);
    blk_unref(e->blk);
    g_free(e->name);
    g_free(e->description);
    g_free(e);
}

struct nbd_export *nbd_export_find(const struct nbd_server *s, const char *name,
                                   size_t len)
{
    for (unsigned i = 0; i < s->exports->len; i++) {
        struct nbd_export *e = s->exports->pdata[i];
        if (strlen(e->name) == len && memcmp(e->name, name, len) == 0) {
            return e;
        }
    }
    return NULL;
}

static void add_context(struct nbd_export *e, enum nbd_context_kind kind, char *name,
                        struct blk *blk, const char *bitmap)
{
    struct nbd_context x = {name, kind, blk, bitmap};
    g_array_append_val(e->contexts, x);
}

/* The node with bitmap @name: the image, or one of its backing files. */
static struct blk *find_bitmap(struct blk *b, const char *name, struct blk_bitmap *ret)
{
    for (; b; b = blk_get_child(b, "backing")) {
        g_autoptr(GArray) list = blk_bitmaps(b);
        for (unsigned i = 0; i < list->len; i++) {
            *ret = g_array_index(list, struct blk_bitmap, i);
            if (g_str_equal(ret->name, name)) {
                return b;
            }
        }
    }
    return NULL;
}

static bool add_bitmap(struct nbd_export *e, const char *name, bool read_only,
                       GError **error)
{
    struct blk_bitmap bm;
    struct blk *b = find_bitmap(e->blk, name, &bm);
    if (!b) {
        return error_msg(error, "Bitmap '%s' is not found", name);
    }
    if (bm.inconsistent) {
        return error_msg(error, "Bitmap '%s' is inconsistent and cannot be used", name);
    }
    if (read_only && !blk_read_only(b) && bm.recording) {
        return error_msg(error, "Enabled bitmap '%s' incompatible with readonly export",
                         name);
    }
    char *text = g_strdup_printf("qemu:dirty-bitmap:%s", name);
    add_context(e, NBD_CTX_BITMAP, text, b, strchr(strchr(text, ':') + 1, ':') + 1);
    return true;
}

static bool export_range(struct nbd_export *e, const struct nbd_export_opts *o,
                         GError **error)
{
    uint64_t length = blk_length(o->blk);
    if (o->offset > length) {
        return error_msg(error,
                         "Offset (%" PRIu64 ") cannot be greater than size of the "
                         "containing file (%" PRIu64 ")",
                         o->offset, length);
    }
    e->offset = o->offset;
    e->size = ALIGN_DOWN(length - o->offset, (uint64_t)512);
    if (o->length == UINT64_MAX) {
        return true;
    }
    if (o->length > length - o->offset) {
        return error_msg(error, "export '%s' ends behind its image", o->name);
    }
    e->size = o->length;
    return true;
}

bool nbd_server_add_export(struct nbd_server *s, const struct nbd_export_opts *o,
                           GError **error)
{
    if (strlen(o->name) > NBD_MAX_STRING) {
        return error_msg(error, "export name '%s' too long", o->name);
    }
    if (o->description && strlen(o->description) > NBD_MAX_STRING) {
        return error_msg(error, "description '%s' too long", o->description);
    }
    if (nbd_export_find(s, o->name, strlen(o->name))) {
        return error_msg(error, "NBD server already has export named '%s'", o->name);
    }
    struct nbd_export *e = g_new0(struct nbd_export, 1);
    bool read_only = o->read_only || blk_read_only(o->blk);
    e->name = g_strdup(o->name);
    e->description = g_strdup(o->description);
    e->blk = blk_ref(o->blk);
    e->min_block = o->min_block ? o->min_block : 1;
    e->contexts = g_array_new(FALSE, TRUE, sizeof(struct nbd_context));
    e->flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
               NBD_FLAG_SEND_CACHE;
    e->flags |= read_only ? NBD_FLAG_READ_ONLY
                          : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                                NBD_FLAG_SEND_FAST_ZERO;
    if (s->opts.multi_conn) {
        e->flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    add_context(e, NBD_CTX_ALLOCATION, g_strdup("base:allocation"), NULL, NULL);
    if (o->allocation_depth) {
        add_context(e, NBD_CTX_DEPTH, g_strdup("qemu:allocation-depth"), NULL, NULL);
    }
    bool ok = export_range(e, o, error);
    for (const char *const *b = o->bitmaps; ok && b && *b; b++) {
        ok = add_bitmap(e, *b, read_only, error);
    }
    if (!ok) {
        export_free(e);
        return false;
    }
    g_ptr_array_add(s->exports, e);
    return true;
}

bool nbd_server_remove_export(struct nbd_server *s, const char *name)
{
    struct nbd_export *e = nbd_export_find(s, name, strlen(name));
    if (!e) {
        return false;
    }
    for (struct nbd_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->export == e || c->meta_export == e) {
            nbd_conn_close(c);
        }
    }
    blk_drain(e->blk);
    g_ptr_array_remove(s->exports, e);
    return true;
}

/* ---- clients
 * -------------------------------------------------------------------------
 */

static bool may_accept(const struct nbd_server *s)
{
    return s->opts.max_clients == 0 || s->nb_conns < s->opts.max_clients;
}

static void update_listeners(struct nbd_server *s)
{
    for (unsigned i = 0; i < s->listeners->len; i++) {
        struct nbd_listener *l = s->listeners->pdata[i];
        loop_fd_set_events(l->watch, may_accept(s) ? LOOP_READ : 0);
    }
}

void nbd_server_closed(struct nbd_server *s, bool negotiated)
{
    update_listeners(s);
    if (s->opts.closed) {
        s->opts.closed(s->opts.opaque, negotiated);
    }
}

void nbd_server_add_client(struct nbd_server *s, int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    struct nbd_conn *c = nbd_conn_new(s, fd);
    if (c) {
        nbd_handshake_greet(c);
    }
    update_listeners(s);
}

bool nbd_server_add_raw_client(struct nbd_server *s, int fd, const char *name,
                               uint64_t *ret_size, uint16_t *ret_flags)
{
    struct nbd_export *e = nbd_export_find(s, name, strlen(name));
    struct nbd_conn *c = e ? nbd_conn_new(s, fd) : NULL;
    if (!c) {
        return false;
    }
    loop_timer_clear(&c->timer);
    c->export = e;
    c->phase = NBD_TRANSMISSION;
    c->negotiated = true;
    *ret_size = e->size;
    *ret_flags = e->flags;
    return true;
}

static void listener_event(void *opaque, unsigned events)
{
    struct nbd_listener *l = opaque;
    struct nbd_server *s = l->srv;
    while (may_accept(s)) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            break; /* none, or the process has no descriptors left: later */
        }
        nbd_server_add_client(s, fd);
    }
}

static void listener_free(gpointer p)
{
    struct nbd_listener *l = p;
    loop_fd_remove(l->watch);
    close(l->fd);
    g_free(l);
}

bool nbd_server_listen(struct nbd_server *s, int fd, GError **error)
{
    struct nbd_listener *l = g_new0(struct nbd_listener, 1);
    l->srv = s;
    l->fd = fd;
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    l->watch = loop_fd_add(s->opts.loop, fd, LOOP_READ, listener_event, l);
    if (!l->watch) {
        error_errno(error, errno, "cannot watch the listening socket");
        close(fd);
        g_free(l);
        return false;
    }
    g_ptr_array_add(s->listeners, l);
    update_listeners(s);
    return true;
}

void nbd_server_stop_listening(struct nbd_server *s)
{
    g_ptr_array_set_size(s->listeners, 0);
}

unsigned nbd_server_clients(const struct nbd_server *s)
{
    return s->nb_conns;
}

void nbd_server_disconnect(struct nbd_server *s)
{
    while (s->conns) {
        nbd_conn_close(s->conns);
    }
}

/* ---- life
 * ------------------------------------------------------------------------------
 */

struct nbd_server *nbd_server_new(const struct nbd_server_opts *opts)
{
    struct nbd_server *s = g_new0(struct nbd_server, 1);
    s->opts = *opts;
    s->exports = g_ptr_array_new_with_free_func(export_free);
    s->listeners = g_ptr_array_new_with_free_func(listener_free);
    return s;
}

void nbd_server_free(struct nbd_server *s)
{
    if (!s) {
        return;
    }
    s->opts.closed = NULL;
    nbd_server_stop_listening(s);
    nbd_server_disconnect(s);
    while (s->nb_alive > 0) {
        loop_poll(s->opts.loop, true);
    }
    g_ptr_array_free(s->exports, TRUE);
    g_ptr_array_free(s->listeners, TRUE);
    g_free(s);
}
