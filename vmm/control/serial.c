#include "vmm/control/serial.h"

#include <stdbool.h>
#include <string.h>

#include "block/options.h"
#include "lib/base/base.h"

void serial_fix_negations(json_t *options)
{
    static const char *const flags[] = {"wait", "server"};

    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        g_autofree char *negated = g_strconcat("no", flags[i], NULL);
        const char *v = json_string_value(json_object_get(options, negated));

        if (g_strcmp0(v, "on") == 0) {
            json_object_del(options, negated);
            json_object_set_new(options, flags[i], json_string("off"));
        }
    }
}

static json_t *with_id(json_t *o, const char *backend, unsigned number)
{
    g_autofree char *id = g_strdup_printf("serial%u", number);

    json_object_set_new(o, "backend", json_string(backend));
    json_object_set_new(o, "id", json_string(id));
    return o;
}

/* "HOST:PORT[,more]": split at the last colon of the first item, since an IPv6
 * address has some. */
static json_t *parse_tcp(const char *text, GError **error)
{
    json_t *o = blk_options_parse(text, "host", error);
    const char *host = o ? json_string_value(json_object_get(o, "host")) : NULL;
    const char *colon = host ? strrchr(host, ':') : NULL;
    g_autofree char *name = NULL;

    if (!o)
        return NULL;
    if (!colon || !colon[1]) {
        error_msg(error, "tcp: needs HOST:PORT");
        json_decref(o);
        return NULL;
    }
    name = g_strndup(host, colon - host);
    json_object_set_new(o, "port", json_string(colon + 1));
    if (*name)
        json_object_set_new(o, "host", json_string(name));
    else
        json_object_del(o, "host");
    return o;
}

static const struct {
    const char *prefix;
    const char *backend;
    const char *key; /* the text after the prefix; NULL: there is none */
    bool options;    /* more options may follow it */
} forms[] = {
    {"null", "null", NULL, false},     {"stdio", "stdio", NULL, false},
    {"pty", "pty", NULL, false},       {"none", "none", NULL, false},
    {"file:", "file", "path", false},  {"pipe:", "pipe", "path", false},
    {"unix:", "socket", "path", true}, {"tcp:", "socket", "host", true},
    {"fd:", "fd", "fd", false},
};

json_t *serial_parse(const char *text, unsigned number, GError **error)
{
    const char *near;
    const char *names[ARRAY_LEN(forms) + 1] = {0};

    if (g_str_has_prefix(text, "chardev:"))
        return json_pack("{s:s}", "chardev", text + strlen("chardev:"));
    if (strcmp(text, "mon:stdio") == 0)
        return with_id(json_pack("{s:s, s:s}", "signal", "off", "leave", "ctrl-a"),
                       "stdio", number);
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        const char *rest = text + strlen(forms[i].prefix);
        json_t *o;

        names[i] = forms[i].prefix;
        if (!g_str_has_prefix(text, forms[i].prefix) || (!forms[i].key && *rest))
            continue;
        if (!forms[i].key)
            o = json_object();
        else if (strcmp(forms[i].key, "host") == 0)
            o = parse_tcp(rest, error);
        else if (forms[i].options)
            o = blk_options_parse(rest, forms[i].key, error);
        else
            o = json_pack("{s:s}", forms[i].key, rest);
        if (!o)
            return NULL;
        serial_fix_negations(o);
        return with_id(o, forms[i].backend, number);
    }
    near = nearest_name(text, names);
    error_msg(error, "'%s' is no character device%s%s%s", text,
              near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    return NULL;
}
