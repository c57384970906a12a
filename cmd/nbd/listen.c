#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/nbd/proto.h"
#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/* Listening sockets. */

enum { ACTIVATED_FIRST = 3, BACKLOG_MOST = 128 };

static int backlog(const struct nbd_args *a)
{
    return a->shared == 0 ? BACKLOG_MOST : (int)MIN(a->shared + 1, BACKLOG_MOST);
}

static void close_all(GArray *fds)
{
    for (unsigned i = 0; i < fds->len; i++) {
        close(g_array_index(fds, int, i));
    }
    g_array_free(fds, TRUE);
}

static int listen_unix(const struct nbd_args *a, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;
    if (strlen(a->socket) >= sizeof(addr.sun_path)) {
        error_msg(error, "UNIX socket path '%s' is too long", a->socket);
        return -1;
    }
    g_strlcpy(addr.sun_path, a->socket, sizeof(addr.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        error_errno(error, errno, "Failed to create Unix socket");
        return -1;
    }
    /* What a server that is gone has left; nothing else is taken away. */
    if (lstat(a->socket, &st) == 0 && S_ISSOCK(st.st_mode)) {
        unlink(a->socket);
    }
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        error_errno(error, errno, "Failed to bind socket to %s", a->socket);
    } else if (listen(fd, backlog(a)) < 0) {
        error_errno(error, errno, "Failed to listen on socket");
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

/* 0, or the errno of what failed. */
static int listen_one(const struct nbd_args *a, const struct addrinfo *ai, int *ret_fd,
                      const char **ret_what)
{
    int on = 1;
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
    *ret_what = "create";
    if (fd < 0) {
        return errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    *ret_what = "bind";
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0) {
        *ret_what = "listen on";
        if (listen(fd, backlog(a)) == 0) {
            *ret_fd = fd;
            return 0;
        }
    }
    int err = errno;
    close(fd);
    return err;
}

static bool listen_tcp(const struct nbd_args *a, GArray *fds, GError **error)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    const char *host = a->bind ? a->bind : "0.0.0.0";
    g_autofree char *usual = g_strdup_printf("%d", NBD_DEFAULT_PORT);
    const char *port = a->port ? a->port : usual;
    int r = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    if (r) {
        return error_msg(error, "address resolution failed for %s:%s: %s", host, port,
                         gai_strerror(r));
    }
    int err = 0;
    const char *what = "bind";
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd;
        int e = listen_one(a, ai, &fd, &what);
        if (e == 0) {
            g_array_append_val(fds, fd);
        } else if (e != EAFNOSUPPORT && err == 0) {
            err = e;
        }
    }
    freeaddrinfo(list);
    return fds->len > 0 ||
           error_errno(error, err ? err : EAFNOSUPPORT, "Failed to %s socket", what);
}

GArray *nbd_listen(const struct nbd_args *a, GError **error)
{
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));
    if (a->socket) {
        int fd = listen_unix(a, error);
        if (fd >= 0) {
            g_array_append_val(fds, fd);
            return fds;
        }
    } else if (listen_tcp(a, fds, error)) {
        return fds;
    }
    close_all(fds);
    return NULL;
}

GArray *nbd_listen_activated(void)
{
    const char *pid = getenv("LISTEN_PID"), *nb = getenv("LISTEN_FDS");
    if (!pid || !nb || strtoul(pid, NULL, 10) != (unsigned long)getpid()) {
        return NULL;
    }
    unsigned long n = strtoul(nb, NULL, 10);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    if (n == 0 || n > 64) {
        return NULL;
    }
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));
    for (int fd = ACTIVATED_FIRST; fd < ACTIVATED_FIRST + (int)n; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        g_array_append_val(fds, fd);
    }
    return fds;
}
