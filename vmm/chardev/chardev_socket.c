/*
 * Stream sockets: unix or TCP, one peer at a time.
 *
 * As a server the listening socket is watched only while there is no client, so that
 * a second one waits in the kernel's queue until the first has gone.
 */
#include "vmm/chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/base.h"

struct sock {
    int listener;
    struct loop_fd *watch;
    char *path; /* a unix server's, to be unlinked */
    char *name; /* for messages: unix:PATH or tcp:HOST:PORT */
    bool nodelay;
};

static bool socket_check(const json_t *options, GError **error)
{
    const char *path = chardev_opt_str(options, "path");
    bool fd = json_object_get(options, "fd");
    bool tcp = json_object_get(options, "host") || json_object_get(options, "port");
    struct sockaddr_un un;

    if (!!path + fd + tcp != 1)
        return error_msg(error, "a socket needs 'path', or 'host' and 'port', or 'fd'");
    if (tcp && !json_object_get(options, "port"))
        return error_msg(error, "a TCP socket needs option 'port'");
    if (path && strlen(path) >= sizeof(un.sun_path))
        return error_msg(error, "path '%s' is longer than the %zu bytes of a socket's",
                         path, sizeof(un.sun_path) - 1);
    if (json_object_get(options, "wait") && !chardev_opt_bool(options, "server", false))
        return error_msg(error, "option 'wait' is only for server=on");
    return true;
}

static int unix_socket(const char *path, struct sockaddr_un *ret_un, GError **error)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        error_errno(error, errno, "socket");
    memset(ret_un, 0, sizeof(*ret_un));
    ret_un->sun_family = AF_UNIX;
    g_strlcpy(ret_un->sun_path, path, sizeof(ret_un->sun_path));
    return fd;
}

/*
 * A socket file that a dead server left is removed; one that answers, or anything
 * that is no socket, is not ours to remove.
 */
static bool remove_stale(const char *path, GError **error)
{
    struct sockaddr_un un;
    struct stat st;
    int fd;
    bool answers;

    if (lstat(path, &st) < 0)
        return true;
    if (!S_ISSOCK(st.st_mode))
        return error_msg(error, "'%s' exists and is not a socket", path);
    fd = unix_socket(path, &un, error);
    if (fd < 0)
        return false;
    answers = connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0;
    close(fd);
    if (answers)
        return error_msg(error, "'%s' is in use by another server", path);
    unlink(path);
    return true;
}

static int unix_open(struct sock *s, const char *path, bool server, GError **error)
{
    struct sockaddr_un un;
    int fd;

    s->name = g_strdup_printf("unix:%s", path);
    if (server && !remove_stale(path, error))
        return -1;
    fd = unix_socket(path, &un, error);
    if (fd < 0)
        return -1;
    if (!server && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
        return fd;
    if (server && bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0) {
        s->path = g_strdup(path);
        if (listen(fd, 1) == 0)
            return fd;
    }
    error_errno(error, errno, "cannot %s '%s'", server ? "listen on" : "connect to",
                path);
    close(fd);
    return -1;
}

static int tcp_try(const struct addrinfo *a, bool server)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    int on = 1, err;

    if (fd < 0)
        return -1;
    if (server) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1) == 0)
            return fd;
    } else if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
        return fd;
    }
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

static int tcp_open(struct sock *s, const char *host, const char *port, bool server,
                    GError **error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = server ? AI_PASSIVE : 0};
    struct addrinfo *all;
    int r, fd = -1;

    s->name = g_strdup_printf("tcp:%s:%s", host ?: "", port);
    r = getaddrinfo(host, port, &hints, &all);
    if (r != 0) {
        error_msg(error, "address '%s' port '%s': %s", host ?: "", port,
                  gai_strerror(r));
        return -1;
    }
    for (struct addrinfo *a = all; a && fd < 0; a = a->ai_next)
        fd = tcp_try(a, server);
    if (fd < 0)
        error_errno(error, errno, "cannot %s %s", server ? "listen on" : "connect to",
                    s->name);
    freeaddrinfo(all);
    return fd;
}

static void use_peer(struct chardev *cd, int fd)
{
    struct sock *s = cd->priv;
    int on = 1;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (s->nodelay)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    chardev_connect(cd, fd, fd, CHARDEV_OWNS | CHARDEV_DIRECT);
}

static void on_listener(void *opaque, unsigned events)
{
    struct chardev *cd = opaque;
    struct sock *s = cd->priv;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    loop_fd_remove(s->watch);
    s->watch = NULL;
    use_peer(cd, fd);
}

static bool listen_on(struct chardev *cd, bool wait, GError **error)
{
    struct sock *s = cd->priv;
    int fd = -1;

    if (wait) {
        fprintf(stderr, "waiting for a connection on %s\n", s->name);
        do
            fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
        while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
        if (fd < 0)
            return error_errno(error, errno, "accept on %s", s->name);
    }
    fcntl(s->listener, F_SETFL, fcntl(s->listener, F_GETFL) | O_NONBLOCK);
    if (fd >= 0) {
        use_peer(cd, fd);
        return true;
    }
    s->watch = loop_fd_add(cd->loop, s->listener, LOOP_READ, on_listener, cd);
    return s->watch || error_errno(error, errno, "watching %s", s->name);
}

static bool is_listening(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

static int inherited(struct sock *s, const json_t *options, GError **error)
{
    int fd = chardev_opt_num(options, "fd", 0);
    struct stat st;

    s->name = g_strdup_printf("fd:%d", fd);
    if (fstat(fd, &st) < 0) {
        error_errno(error, errno, "descriptor %d", fd);
        return -1;
    }
    if (!S_ISSOCK(st.st_mode)) {
        error_msg(error, "descriptor %d is not a socket", fd);
        return -1;
    }
    return fd;
}

static bool socket_open(struct chardev *cd, const json_t *options, GError **error)
{
    struct sock *s = cd->priv = g_new0(struct sock, 1);
    bool server = chardev_opt_bool(options, "server", false);
    const char *path = chardev_opt_str(options, "path");
    int fd;

    s->listener = -1;
    s->nodelay = chardev_opt_bool(options, "nodelay", false);
    if (path) {
        fd = unix_open(s, path, server, error);
    } else if (json_object_get(options, "fd")) {
        fd = inherited(s, options, error);
        server = fd >= 0 && is_listening(fd);
    } else {
        fd = tcp_open(s, chardev_opt_str(options, "host"),
                      chardev_opt_str(options, "port"), server, error);
    }
    if (fd < 0)
        return false;
    if (!server) {
        use_peer(cd, fd);
        return true;
    }
    s->listener = fd;
    return listen_on(cd, chardev_opt_bool(options, "wait", true), error);
}

static void socket_lost(struct chardev *cd)
{
    struct sock *s = cd->priv;

    if (s->listener >= 0 && !s->watch)
        s->watch = loop_fd_add(cd->loop, s->listener, LOOP_READ, on_listener, cd);
}

static void socket_close(struct chardev *cd)
{
    struct sock *s = cd->priv;

    loop_fd_remove(s->watch);
    if (s->listener >= 0)
        close(s->listener);
    if (s->path)
        unlink(s->path);
    g_free(s->path);
    g_free(s->name);
    g_free(s);
}

static char *socket_describe(const struct chardev *cd)
{
    const struct sock *s = cd->priv;

    return g_strdup(s->name);
}

static const struct chardev_opt socket_opts[] = {
    {"path", CHARDEV_OPT_STRING, .help = "a unix socket"},
    {"host", CHARDEV_OPT_STRING, .help = "TCP: address or name"},
    {"port", CHARDEV_OPT_STRING, .help = "TCP: number or service name"},
    {"fd", CHARDEV_OPT_NUMBER, .max = 1 << 20, .help = "an open socket's descriptor"},
    {"server", CHARDEV_OPT_BOOL, .help = "listen instead of connecting (off)"},
    {"wait", CHARDEV_OPT_BOOL, .help = "as server: start when a client is there (on)"},
    {"nodelay", CHARDEV_OPT_BOOL, .help = "TCP: send small packets at once (off)"},
    {NULL},
};

const struct chardev_backend chardev_socket = {
    .name = "socket",
    .help = "a unix or TCP stream socket",
    .opts = socket_opts,
    .check = socket_check,
    .open = socket_open,
    .close = socket_close,
    .lost = socket_lost,
    .describe = socket_describe,
};
