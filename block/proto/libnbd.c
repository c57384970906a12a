#include "block/proto/libnbd.h"

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/base.h"

/* ---- loading
 * -------------------------------------------------------------------------- */

struct loaded {
    struct libnbd calls;
    char *why; /* not NULL: it cannot be used */
};

static gpointer load_once(gpointer unused)
{
    struct loaded *l = g_new0(struct loaded, 1);
    void *lib = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        l->why = g_strdup(dlerror());
        return l;
    }
#define LIBNBD_RESOLVE(name)                             \
    *(void **)&l->calls.name = dlsym(lib, "nbd_" #name); \
    if (!l->calls.name && !l->why) {                     \
        l->why = g_strdup("it has no nbd_" #name "()");  \
    }
    LIBNBD_CALLS(LIBNBD_RESOLVE)
    *(void **)&l->calls.set_tls_hostname = dlsym(lib, "nbd_set_tls_hostname");
    return l;
}

const struct libnbd *libnbd_load(GError **error)
{
    static GOnce once = G_ONCE_INIT;
    const struct loaded *l = g_once(&once, load_once, NULL);
    if (l->why) {
        error_msg(error, "NBD needs libnbd (Debian: libnbd0), which cannot be used: %s",
                  l->why);
        return NULL;
    }
    return &l->calls;
}

/* ---- connecting
 * ------------------------------------------------------------------------ */

static int connect_unix(const char *path, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        error_msg(error, "UNIX socket path '%s' is too long", path);
        return -1;
    }
    memcpy(addr.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        error_errno(error, errno, "Failed to connect to '%s'", path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static int connect_tcp(const char *host, const char *port, GError **error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int r = getaddrinfo(host, port, &hints, &list);
    if (r) {
        error_msg(error, "address resolution failed for %s:%s: %s", host, port,
                  gai_strerror(r));
        return -1;
    }
    int fd = -1, err = ENOTCONN, on = 1;
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
        if (fd < 0 || connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
            err = errno;
            if (fd >= 0) {
                close(fd);
            }
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        error_errno(error, err, "Failed to connect to '%s:%s'", host, port);
    } else {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    return fd;
}

static bool nbd_failed(const struct libnbd *n, GError **error)
{
    const char *text = n->get_error();
    const char *colon = text ? strstr(text, ": ") : NULL;
    return error_msg(error, "%s", colon ? colon + 2 : text ? text : "NBD failed");
}

static bool switch_on(const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);
    return text ? !(g_str_equal(text, "off") || g_str_equal(text, "no") ||
                    g_str_equal(text, "false"))
                : (v ? json_is_true(v) : def);
}

static bool set_tls(const struct libnbd *n, struct nbd_handle *h,
                    const struct libnbd_server *s, GError **error)
{
    const json_t *creds = s->tls_creds;
    if (!s->tls && !creds) {
        return true;
    }
    const char *type = json_string_value(json_object_get(creds, "qom-type")),
               *dir = json_string_value(json_object_get(creds, "dir")),
               *endpoint = json_string_value(json_object_get(creds, "endpoint")),
               *user = json_string_value(json_object_get(creds, "username"));
    if (creds && (!endpoint || !g_str_equal(endpoint, "client"))) {
        return error_msg(error, "Expecting TLS credentials with a client endpoint");
    }
    const char *name = s->tls_hostname;
    if (name && s->host && g_str_equal(name, s->host)) {
        name = NULL;
    }
    if (name && !n->set_tls_hostname) {
        return error_msg(error, "tls-hostname needs a newer libnbd");
    }
    bool ok = n->set_tls(h, LIBNBD_TLS_REQUIRE) == 0;
    if (ok && creds && g_str_equal(type, "tls-creds-psk")) {
        g_autofree char *keys = g_build_filename(dir ? dir : ".", "keys.psk", NULL);
        ok = n->set_tls_psk_file(h, keys) == 0 &&
             n->set_tls_username(h, user ? user : "qemu") == 0;
    } else if (ok && creds) {
        ok = (!dir || n->set_tls_certificates(h, dir) == 0) &&
             n->set_tls_verify_peer(h, switch_on(creds, "verify-peer", true)) == 0;
    }
    if (ok && name) {
        ok = n->set_tls_hostname(h, name) == 0;
    }
    return ok || nbd_failed(n, error);
}

static bool connect_failed(const struct libnbd *n, const struct libnbd_server *s,
                           GError **error)
{
    if (n->get_errno() != ENOENT) {
        return nbd_failed(n, error);
    }
    return error_msg(error,
                     "Requested export not available\nserver reported: export '%s' not "
                     "present",
                     s->export ? s->export : "");
}

bool libnbd_connect(const struct libnbd *n, struct nbd_handle *h,
                    const struct libnbd_server *s, GError **error)
{
    if (n->set_export_name(h, s->export ? s->export : "") < 0) {
        return nbd_failed(n, error);
    }
    if (!set_tls(n, h, s, error)) {
        return false;
    }
    /* It remembers the host, whose certificate it then expects. */
    bool by_host = !s->path && (s->tls || s->tls_creds);
    if (by_host) {
        return n->connect_tcp(h, s->host, s->port) == 0 || connect_failed(n, s, error);
    }
    int fd =
        s->path ? connect_unix(s->path, error) : connect_tcp(s->host, s->port, error);
    if (fd < 0) {
        return false;
    }
    if (n->connect_socket(h, fd) == 0) { /* which owns it in either case */
        return true;
    }
    return connect_failed(n, s, error);
}
