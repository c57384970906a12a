#include "vmm/control/globals.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "vmm/dev/devices.h"
#include "vmm/vm/device.h"

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

static bool has_property(const struct device_type *type, const char *name,
                         GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (const struct prop *p = type->props; p && p->name; p++) {
        if (strcmp(p->name, name) == 0)
            return true;
        g_ptr_array_add(names, (gpointer)p->name);
    }
    g_ptr_array_add(names, NULL);
    near = nearest_name(name, (const char *const *)names->pdata);
    return error_msg(error, "%s has no property '%s'%s%s%s", type->name, name,
                     near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
}

static void apply(const struct vmm_config *c, const struct device_type *type,
                  const char *property, const char *value)
{
    for (guint i = 0; i < c->devices->len; i++) {
        json_t *options = ((struct vmm_item *)c->devices->pdata[i])->options;
        const char *driver = get(options, "driver");

        if (device_type_find(device_types, driver, NULL) == type &&
            !json_object_get(options, property))
            json_object_set_new(options, property, json_string(value));
    }
}

bool globals_apply(const struct vmm_config *c, GError **error)
{
    for (guint i = c->globals->len; i-- > 0;) {
        const struct vmm_item *item = c->globals->pdata[i];
        const char *driver = get(item->options, "driver");
        const char *property = get(item->options, "property");
        const struct device_type *type = device_type_find(device_types, driver, NULL);

        if (!type) {
            fprintf(stderr, "lodge-vmm: warning: %s: there is no device type '%s'\n",
                    item->where, driver);
            continue;
        }
        if (!has_property(type, property, error)) {
            g_prefix_error(error, "%s: ", item->where);
            return false;
        }
        apply(c, type, property, get(item->options, "value"));
    }
    return true;
}
