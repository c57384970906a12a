#include "vmm/control/vnc_server.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "vmm/display/vnc.h"

/* The places are QEMU's: the number of a display is that of a port from 5900 on, for
 * browsers from 5700 on. */
enum { VNC_PORT_0 = 5900, WEBSOCKET_PORT_0 = 5700 };

struct vnc_server {
    const char *where; /* the config's */
    struct vnc_config config;
    char *host, *path, *websocket_host, *password;
    struct vnc *vnc;
};

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

/* "HOST:NUMBER", where HOST may be empty or an IPv6 address in brackets. */
static bool split_place(const char *text, char **ret_host, uint64_t max,
                        uint64_t *ret_number, GError **error)
{
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;

    if (!colon || !g_ascii_string_to_unsigned(colon + 1, 10, 0, max, ret_number, NULL))
        return error_msg(error,
                         "'%s' is not HOST:N, with N from 0 to %" G_GUINT64_FORMAT,
                         text, max);
    if (len >= 2 && text[0] == '[' && colon[-1] == ']')
        *ret_host = g_strndup(text + 1, len - 2);
    else
        *ret_host = g_strndup(text, len);
    return true;
}

static bool take_place(struct vnc_server *v, const char *text, GError **error)
{
    uint64_t n;

    if (!text)
        return error_msg(error, "where is missing: HOST:N or unix:PATH");
    if (g_str_has_prefix(text, "unix:")) {
        v->path = g_strdup(text + strlen("unix:"));
        v->config.unix_path = v->path;
        return *v->path || error_msg(error, "unix: needs a path");
    }
    if (!split_place(text, &v->host, UINT16_MAX - VNC_PORT_0, &n, error))
        return false;
    v->config.host = *v->host ? v->host : NULL;
    v->config.port = (uint16_t)(VNC_PORT_0 + n);
    return true;
}

/* "on": 5700 and the display's number; a port; or HOST:PORT. */
static bool take_websocket(struct vnc_server *v, const char *text, GError **error)
{
    uint64_t port;

    if (!text || strcmp(text, "off") == 0)
        return true;
    if (v->path)
        return error_msg(error, "websocket: not with a path");
    v->config.websocket_host = v->config.host;
    if (strcmp(text, "on") == 0) {
        v->config.websocket =
            (uint16_t)(v->config.port - VNC_PORT_0 + WEBSOCKET_PORT_0);
        return true;
    }
    if (strchr(text, ':')) {
        if (!split_place(text, &v->websocket_host, UINT16_MAX, &port, error))
            return false;
        v->config.websocket_host = *v->websocket_host ? v->websocket_host : NULL;
    } else if (!g_ascii_string_to_unsigned(text, 10, 1, UINT16_MAX, &port, NULL)) {
        return error_msg(error, "websocket=%s is not a port", text);
    }
    v->config.websocket = (uint16_t)port;
    return true;
}

static bool take_password(struct vnc_server *v, const json_t *o,
                          const struct secrets *secrets, GError **error)
{
    const char *id = get(o, "password-secret"), *password = get(o, "password"), *text;
    GBytes *bytes;
    gsize len;

    if (!id && g_strcmp0(password ?: "off", "off") != 0)
        return error_msg(error, "password: say which with password-secret=ID");
    if (!id)
        return true;
    bytes = secrets_get(secrets, id, error);
    if (!bytes)
        return false;
    text = g_bytes_get_data(bytes, &len);
    if (len == 0 || memchr(text, 0, len))
        return error_msg(error, "password-secret=%s: not a password", id);
    v->password = g_strndup(text, len);
    v->config.password = v->password;
    return true;
}

static bool take_share(struct vnc_server *v, const char *text, GError **error)
{
    static const char *const names[] = {"allow-exclusive", "force-shared", "ignore"};

    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            v->config.share = i;
            return true;
        }
    }
    return error_msg(error, "share is 'allow-exclusive', 'force-shared' or 'ignore'");
}

static bool take_to(struct vnc_server *v, const char *text, GError **error)
{
    uint64_t to;

    if (!text)
        return true;
    if (v->path ||
        !g_ascii_string_to_unsigned(text, 10, 0, UINT16_MAX - VNC_PORT_0, &to, NULL))
        return error_msg(error, "to=%s is not the number of a display", text);
    v->config.port_last = (uint16_t)(VNC_PORT_0 + to);
    return true;
}

struct vnc_server *vnc_server_new(const struct vmm_item *item,
                                  const struct secrets *secrets, GError **error)
{
    const json_t *o = item->options;
    struct vnc_server *v = g_new0(struct vnc_server, 1);

    v->where = item->where;
    if (take_place(v, get(o, "vnc"), error) &&
        take_websocket(v, get(o, "websocket"), error) &&
        take_to(v, get(o, "to"), error) && take_password(v, o, secrets, error) &&
        take_share(v, get(o, "share") ?: "allow-exclusive", error))
        return v;
    g_prefix_error(error, "%s: ", v->where);
    vnc_server_free(v);
    return NULL;
}

void vnc_server_free(struct vnc_server *v)
{
    if (!v)
        return;
    vnc_free(v->vnc);
    if (v->password)
        memset(v->password, 0, strlen(v->password));
    g_free(v->password);
    g_free(v->host);
    g_free(v->path);
    g_free(v->websocket_host);
    g_free(v);
}

bool vnc_server_open(struct vnc_server *v, struct display *d, const char *name,
                     GError **error)
{
    v->config.name = name;
    v->vnc = vnc_new(d, &v->config, error);
    if (!v->vnc)
        g_prefix_error(error, "%s: ", v->where);
    return v->vnc;
}
