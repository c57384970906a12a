#include "vmm/vm/device.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/vm/vm.h"

static bool id_taken(const struct vm *vm, const char *id)
{
    for (guint i = 0; i < vm->devices->len; i++) {
        if (strcmp(((struct device *)g_ptr_array_index(vm->devices, i))->id, id) == 0) {
            return true;
        }
    }
    return false;
}

/* "virtio-blk-device-0": the first number that is free. */
static char *make_id(const struct vm *vm, const struct device_type *type)
{
    for (unsigned n = 0;; n++) {
        char *id = g_strdup_printf("%s-%u", type->name, n);
        if (!id_taken(vm, id)) {
            return id;
        }
        g_free(id);
    }
}

static bool choose_id(struct device *dev, const json_t *options, GError **error)
{
    const json_t *id = json_object_get(options, "id");
    if (!id) {
        dev->id = make_id(dev->vm, dev->type);
        return true;
    }
    const char *text = json_string_value(id);
    if (!text || !*text) {
        return error_msg(error, "an id is a string that is not empty");
    }
    if (id_taken(dev->vm, text)) {
        return error_msg(error, "there is already a device with the id '%s'", text);
    }
    dev->id = g_strdup(text);
    return true;
}

static bool set_options(struct device *dev, const json_t *options,
                        const struct device_resolver *resolver, GError **error)
{
    const char *name;
    json_t *value;
    /* jansson's iteration takes no const though it changes nothing. */
    json_object_foreach((json_t *)options, name, value)
    {
        if (strcmp(name, "id") != 0 && strcmp(name, "driver") != 0 &&
            !props_set(dev->type->props, dev, name, value, resolver, error)) {
            return false;
        }
    }
    for (const struct prop *p = dev->type->props; p && p->name; p++) {
        if (p->required && !json_object_get(options, p->name)) {
            return error_msg(error, "property '%s' is missing", p->name);
        }
    }
    return true;
}

struct device *device_new(struct vm *vm, const struct device_type *type,
                          const json_t *options, const struct device_resolver *resolver,
                          GError **error)
{
    struct device *dev = g_malloc0(type->size);
    dev->type = type;
    dev->vm = vm;
    props_set_defaults(type->props, dev);
    if (!choose_id(dev, options, error) ||
        !set_options(dev, options, resolver, error)) {
        g_prefix_error(error, "%s: ", type->name);
        props_done(type->props, dev);
        g_free(dev->id);
        g_free(dev);
        return NULL;
    }
    if (type->init && !type->init(dev, error)) {
        g_prefix_error(error, "%s: ", type->name);
        device_free(dev);
        return NULL;
    }
    g_ptr_array_add(vm->devices, dev);
    return dev;
}

void device_free(struct device *dev)
{
    if (!dev) {
        return;
    }
    if (dev->type->done) {
        dev->type->done(dev);
    }
    g_ptr_array_remove(dev->vm->devices, dev);
    props_done(dev->type->props, dev);
    g_free(dev->id);
    g_free(dev);
}

void device_type_help(const struct device_type *type, FILE *out)
{
    fprintf(out, "%s", type->name);
    if (type->alias) {
        fprintf(out, " (alias %s)", type->alias);
    }
    if (type->bus) {
        fprintf(out, ", bus %s", type->bus);
    }
    fprintf(out, ": %s\n", type->desc ? type->desc : "");
    props_help(type->props, out);
}

const struct device_type *device_type_find(const struct device_type *const *types,
                                           const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (; *types; types++) {
        const struct device_type *t = *types;
        if (strcmp(t->name, name) == 0 || (t->alias && strcmp(t->alias, name) == 0)) {
            return t;
        }
        if (t->user) {
            g_ptr_array_add(names, (char *)t->name);
            if (t->alias) {
                g_ptr_array_add(names, (char *)t->alias);
            }
        }
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_name(name, (const char *const *)names->pdata);
    if (near) {
        error_msg(error, "no device '%s'; did you mean '%s'?", name, near);
    } else {
        error_msg(error, "no device '%s'", name);
    }
    return NULL;
}
