#include "block/proto/nbd.h"

#include <string.h>

#include "lib/base/base.h"

static const char EXPORT[] = ":exportname=";

static const char *const schemes[] = {"nbd://",  "nbd+tcp://",  "nbd+unix://",
                                      "nbds://", "nbds+tcp://", "nbds+unix://"};

static bool is_uri(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        if (g_ascii_strncasecmp(name, schemes[i], strlen(schemes[i])) == 0) {
            return true;
        }
    }
    return false;
}

bool nbd_is_name(const char *name)
{
    return is_uri(name) || g_str_has_prefix(name, "nbd:");
}

static json_t *text(const char *s)
{
    return json_string_nocheck(s);
}

static json_t *unix_server(const char *path)
{
    return json_pack("{s:s, s:{s:s, s:o}}", "driver", "nbd", "server", "type", "unix",
                     "path", text(path));
}

static json_t *tcp_server(const char *host, const char *port)
{
    return json_pack("{s:s, s:{s:s, s:o, s:o}}", "driver", "nbd", "server", "type",
                     "inet", "host", text(host), "port", text(port));
}

/* nbd:unix:PATH, nbd:HOST:PORT, either with :exportname=EXPORT behind. */
static json_t *from_old(const char *name, GError **error)
{
    g_autofree char *rest = g_strdup(name + strlen("nbd:"));
    char *export = strstr(rest, EXPORT);
    json_t *o;
    if (export) {
        *export = '\0';
        export += strlen(EXPORT);
    }
    if (*rest == '\0') {
        error_msg(error, "NBD server address missing");
        return NULL;
    }
    if (g_str_has_prefix(rest, "unix:")) {
        o = unix_server(rest + strlen("unix:"));
    } else {
        char *colon = strrchr(rest, ':'), *host = rest;
        size_t len = colon ? (size_t)(colon - rest) : 0;
        if (!colon || colon[1] == '\0') {
            error_msg(error, "error parsing address '%s'", rest);
            return NULL;
        }
        if (len > 1 && host[0] == '[' && host[len - 1] == ']') {
            host++;
            len -= 2;
        }
        g_autofree char *bare = g_strndup(host, len);
        o = tcp_server(bare, colon + 1);
    }
    if (export && *export) {
        json_object_set_new(o, "export", text(export));
    }
    return o;
}

/* The one parameter "socket"; NULL when there are others or none. */
static char *socket_of(const char *query)
{
    g_autoptr(GHashTable) params =
        query ? g_uri_parse_params(query, -1, "&", G_URI_PARAMS_NONE, NULL) : NULL;
    if (!params || g_hash_table_size(params) != 1) {
        return NULL;
    }
    return g_strdup(g_hash_table_lookup(params, "socket"));
}

static json_t *from_uri(const char *name, GError **error)
{
    g_autofree char *scheme = NULL, *host = NULL, *path = NULL, *query = NULL,
                    *socket = NULL;
    int port = -1;
    json_t *o = NULL;
    if (!g_uri_split(name, G_URI_FLAGS_ENCODED_QUERY, &scheme, NULL, &host, &port,
                     &path, &query, NULL, NULL)) {
        error_msg(error, "No valid URL specified");
        return NULL;
    }
    bool local = g_str_has_suffix(scheme, "+unix");
    bool no_host = !host || !*host;
    if (local) {
        socket = socket_of(query);
        if (socket && no_host && port < 0) {
            o = unix_server(socket);
        }
    } else if (!no_host && (!query || !*query)) {
        g_autofree char *service = g_strdup_printf("%d", port > 0 ? port : 10809);
        o = tcp_server(host, service);
    }
    if (!o) {
        error_msg(error, "No valid URL specified");
        return NULL;
    }
    const char *export = path + strspn(path, "/");
    if (*export) {
        json_object_set_new(o, "export", text(export));
    }
    if (g_ascii_strncasecmp(scheme, "nbds", 4) == 0) {
        json_object_set_new(o, "tls", json_true());
    }
    return o;
}

json_t *nbd_options_from_name(const char *name, GError **error)
{
    return is_uri(name) ? from_uri(name, error) : from_old(name, error);
}
