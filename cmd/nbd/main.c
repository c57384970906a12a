#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "block/export/fuse.h"
#include "block/image.h"
#include "block/nbd/server.h"
#include "block/nbd/tls.h"
#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/* Serving. */

struct serve {
    struct nbd_args *args;
    struct loop *loop;
    struct nbd_tls *tls;
    GArray *listeners; /* until the server has them */
    struct nbd_device *device;
    struct blk *blk;
    struct nbd_server *server;
    struct fuse_export *fuse;
    struct loop_fd *signals;
    int signal_fd;
    bool stop;
};

void nbd_error(const struct nbd_args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", a->prog, text);
}

void nbd_report(const struct nbd_args *a, const char *front, GError *error)
{
    nbd_error(a, "%s%s", front, error ? error->message : "unknown error");
    g_clear_error(&error);
}

/* ---- starting
 * ------------------------------------------------------------------------ */

static bool get_tls(struct serve *s)
{
    const struct nbd_args *a = s->args;
    GError *error = NULL;
    if (!a->tls_creds) {
        return true;
    }
    const json_t *creds = secrets_get_object(a->secrets, a->tls_creds);
    const json_t *authz =
        a->tls_authz ? secrets_get_object(a->secrets, a->tls_authz) : NULL;
    const char *type = json_string_value(json_object_get(creds, "qom-type"));
    if (!creds) {
        nbd_error(a, "Failed to get TLS creds: No TLS credentials with id '%s'",
                  a->tls_creds);
        return false;
    }
    if (!g_str_has_prefix(type, "tls-creds-")) {
        nbd_error(a,
                  "Failed to get TLS creds: Object with id '%s' is not TLS credentials",
                  a->tls_creds);
        return false;
    }
    if (a->tls_authz && !authz) {
        nbd_error(a, "No authorization with id '%s'", a->tls_authz);
        return false;
    }
    s->tls = nbd_tls_new(creds, authz, a->secrets, &error);
    if (!s->tls) {
        nbd_report(a, "Failed to get TLS creds: ", error);
        return false;
    }
    return true;
}

/* Sockets from systemd leave nothing to be said about where to listen. */
static bool get_listeners(struct serve *s)
{
    const struct nbd_args *a = s->args;
    GError *error = NULL;
    if (a->connect || a->fuse) {
        return true;
    }
    s->listeners = nbd_listen_activated();
    if (s->listeners) {
        const char *wrong = a->socket ? "Unix socket can't be set when using socket "
                                        "activation"
                            : a->bind ? "The interface can't be set when using socket "
                                        "activation"
                            : a->port
                                ? "TCP port number can't be set when using socket "
                                  "activation"
                                : NULL;
        if (wrong) {
            nbd_error(a, "%s", wrong);
        }
        return !wrong;
    }
    s->listeners = nbd_listen(a, &error);
    if (!s->listeners) {
        nbd_report(a, "", error);
        return false;
    }
    return true;
}

static void on_signal(void *opaque, unsigned events)
{
    struct serve *s = opaque;
    struct signalfd_siginfo si;
    while (read(s->signal_fd, &si, sizeof(si)) == sizeof(si)) {
        s->stop = true;
    }
}

static bool watch_signals(struct serve *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->signals = s->signal_fd < 0
                     ? NULL
                     : loop_fd_add(s->loop, s->signal_fd, LOOP_READ, on_signal, s);
    if (!s->signals) {
        nbd_error(s->args, "cannot watch for signals: %s", g_strerror(errno));
    }
    return s->signals != NULL;
}

/* ---- serving
 * ------------------------------------------------------------------------- */

static void on_closed(void *opaque, bool negotiated)
{
    struct serve *s = opaque;
    if (negotiated && !s->args->persistent && nbd_server_clients(s->server) == 0) {
        s->stop = true;
    }
}

static void on_trace(void *opaque, const char *line)
{
    const struct serve *s = opaque;
    nbd_error(s->args, "%s", line);
}

static void device_stop(void *opaque)
{
    struct serve *s = opaque;
    s->stop = true;
}

static void device_ended(void *opaque)
{
    struct serve *s = opaque;
    loop_call(s->loop, device_stop, s);
}

static bool start_device(struct serve *s)
{
    int fds[2];
    uint64_t size;
    uint16_t flags;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        nbd_error(s->args, "cannot make a socket pair: %s", g_strerror(errno));
        return false;
    }
    g_unix_set_fd_nonblocking(fds[0], TRUE, NULL);
    if (!nbd_server_add_raw_client(s->server, fds[0],
                                   s->args->export_name ? s->args->export_name : "",
                                   &size, &flags)) {
        nbd_error(s->args, "cannot serve %s", s->args->connect);
        close(fds[0]);
        close(fds[1]);
        return false;
    }
    return nbd_device_start(s->device, fds[1], size, flags, device_ended, s);
}

static bool start_server(struct serve *s)
{
    const struct nbd_args *a = s->args;
    GError *error = NULL;
    struct nbd_server_opts opts = {
        .loop = s->loop,
        .max_clients = a->shared,
        .multi_conn = a->shared != 1,
        .handshake_secs = a->handshake_secs,
        .tls = s->tls,
        .closed = on_closed,
        .trace = a->verbose ? on_trace : NULL,
        .opaque = s,
    };
    struct nbd_export_opts e = {
        .name = a->export_name ? a->export_name : "",
        .description = a->description,
        .blk = s->blk,
        .offset = a->offset,
        .length = UINT64_MAX,
        .min_block = nbd_min_block(a, s->blk),
        .read_only = a->read_only,
        .allocation_depth = a->allocation_depth,
        .bitmaps = (const char *const *)a->bitmaps->pdata,
    };
    s->server = nbd_server_new(&opts);
    if (!nbd_server_add_export(s->server, &e, &error)) {
        nbd_report(a, "", error);
        return false;
    }
    while (s->listeners && s->listeners->len > 0) {
        int fd = g_array_index(s->listeners, int, s->listeners->len - 1);
        g_array_set_size(s->listeners, s->listeners->len - 1);
        if (!nbd_server_listen(s->server, fd, &error)) {
            nbd_report(a, "", error);
            return false;
        }
    }
    return !a->connect || start_device(s);
}

static void fuse_ended(void *opaque)
{
    struct serve *s = opaque;
    s->stop = true;
}

static bool start_fuse(struct serve *s)
{
    const struct nbd_args *a = s->args;
    GError *error = NULL;
    struct fuse_export_opts o = {
        .blk = s->blk,
        .mountpoint = a->fuse,
        .writable = !a->read_only,
        .growable = a->fuse_growable,
        .allow_other = a->fuse_allow_other,
        .ended = fuse_ended,
        .opaque = s,
    };
    s->fuse = fuse_export_new(&o, &error);
    if (!s->fuse) {
        nbd_report(a, "", error);
    }
    return s->fuse != NULL;
}

static bool finish(struct serve *s)
{
    GError *error = NULL;
    bool ok = true;
    nbd_device_close(s->device);
    nbd_server_free(s->server);
    fuse_export_free(s->fuse);
    if (s->blk) {
        /* Clients flush what they must have kept; the rest is written here. */
        if (!blk_read_only(s->blk)) {
            blk_run(s->blk, BLK_FLUSH, 0, NULL, 0, 0, 0);
        }
        ok = blk_close(s->blk, &error);
        if (!ok) {
            nbd_report(s->args, "", error);
        }
    }
    for (unsigned i = 0; s->listeners && i < s->listeners->len; i++) {
        close(g_array_index(s->listeners, int, i));
    }
    g_clear_pointer(&s->listeners, g_array_unref);
    loop_fd_remove(s->signals);
    loop_free(s->loop);
    nbd_tls_free(s->tls);
    return ok;
}

static int serve(struct nbd_args *a)
{
    struct serve s = {.args = a, .signal_fd = -1};
    GError *error = NULL;
    bool ok = get_tls(&s);
    if (ok && a->connect) {
        s.device = nbd_device_open(a);
        ok = s.device != NULL;
    }
    bool bound = ok && get_listeners(&s);
    if (bound && a->fork && !nbd_fork(a, &error)) {
        nbd_report(a, "", error);
        return 1;
    }
    ok = bound && (s.loop = loop_new(NULL, &error));
    if (error) {
        nbd_report(a, "", error);
    }
    ok = ok && watch_signals(&s) && (s.blk = nbd_open_image(a, s.loop)) &&
         (a->fuse ? start_fuse(&s) : start_server(&s));
    if (ok && !nbd_write_pid(a, &error)) {
        nbd_report(a, "", error);
        ok = false;
    }
    if (ok) {
        nbd_fork_ready(a);
    }
    while (ok && !s.stop) {
        loop_poll(s.loop, true);
    }
    ok = finish(&s) && ok;
    if (bound && a->socket) {
        unlink(a->socket);
    }
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    struct nbd_args a = {
        .prog = slash ? slash + 1 : argv[0],
        .secrets = secrets_new(),
        .shared = 1,
        .handshake_secs = 10,
        .bitmaps = g_ptr_array_new(),
    };
    g_ptr_array_add(a.bitmaps, NULL);
    int code;
    if (nbd_parse(&a, argc, argv, &code)) {
        code = a.list         ? nbd_list(&a)
               : a.disconnect ? nbd_disconnect_device(&a)
                              : serve(&a);
    }
    g_ptr_array_free(a.bitmaps, TRUE);
    secrets_free(a.secrets);
    return code;
}
