#include "vmm/control/objects.h"

#include <string.h>

#include "lib/base/base.h"

static const struct {
    const char *name;
    const char *help;
    bool takes_filename;
} types[] = {
    {"rng-builtin", "random bytes of the host", false},
    {"rng-random", "the same; filename=/dev/urandom or /dev/random", true},
    {"secret", "a passphrase: data=TEXT or file=NAME, format=raw|base64", false},
};

void objects_help(FILE *out)
{
    fprintf(out, "Objects:\n");
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        fprintf(out, "  %-14s %s\n", types[i].name, types[i].help);
}

static bool check_keys(const json_t *options, bool takes_filename, GError **error)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)options, name, value)
    {
        const char *text = json_string_value(value);

        if (strcmp(name, "qom-type") == 0 || strcmp(name, "id") == 0)
            continue;
        if (!takes_filename || strcmp(name, "filename") != 0)
            return error_msg(error, "unknown property '%s'", name);
        if (g_strcmp0(text, "/dev/urandom") != 0 && g_strcmp0(text, "/dev/random") != 0)
            return error_msg(error, "'filename' is /dev/urandom or /dev/random");
    }
    return true;
}

static bool check_object(const json_t *options, struct secrets *secrets, GError **error)
{
    const char *type = json_string_value(json_object_get(options, "qom-type"));
    const char *names[ARRAY_LEN(types) + 1] = {0};
    const char *near;

    if (g_strcmp0(type, "secret") == 0)
        return secrets_add(secrets, options, error);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        names[i] = types[i].name;
        if (g_strcmp0(type, names[i]) == 0)
            return check_keys(options, types[i].takes_filename, error);
    }
    near = nearest_name(type ?: "", names);
    return error_msg(error, "there is no object type '%s'%s%s%s", type ?: "",
                     near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
}

/* rng=ID of a device: the object must be there; the device itself needs no telling. */
static bool take_references(const struct vmm_config *c, GHashTable *ids, GError **error)
{
    for (guint i = 0; i < c->devices->len; i++) {
        const struct vmm_item *item = c->devices->pdata[i];
        const char *driver =
            json_string_value(json_object_get(item->options, "driver"));
        const char *rng = json_string_value(json_object_get(item->options, "rng"));

        if (!rng || !driver || !g_str_has_prefix(driver, "virtio-rng"))
            continue;
        if (!g_hash_table_contains(ids, rng))
            return error_msg(error, "%s: there is no object '%s'", item->where, rng);
        json_object_del(item->options, "rng");
    }
    return true;
}

bool objects_check(const struct vmm_config *c, struct secrets *secrets, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < c->objects->len; i++) {
        const struct vmm_item *item = c->objects->pdata[i];
        const char *id = json_string_value(json_object_get(item->options, "id"));
        bool ok = check_object(item->options, secrets, error);

        if (ok && !id)
            ok = error_msg(error, "'id' is missing");
        else if (ok && !g_hash_table_add(ids, (gpointer)id))
            ok = error_msg(error, "there is already an object '%s'", id);
        if (!ok) {
            g_prefix_error(error, "%s: ", item->where);
            return false;
        }
    }
    return take_references(c, ids, error);
}
