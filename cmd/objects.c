#include "cmd/objects.h"

#include <string.h>

#include "block/options.h"
#include "lib/base/base.h"

/* "rules.0.match=x": an array, which a k=v text cannot say. */
static json_t *with_rules(json_t *flat, GError **error)
{
    json_t *o = blk_options_nest(flat, error);
    json_t *rules = o ? json_object_get(o, "rules") : NULL;
    if (json_is_object(rules)) {
        json_t *list = json_array();
        for (size_t i = 0; i < json_object_size(rules); i++) {
            g_autofree char *key = g_strdup_printf("%zu", i);
            json_array_append(list, json_object_get(rules, key));
        }
        json_object_set_new(o, "rules", list);
    }
    json_decref(flat);
    return o;
}

bool objects_add(struct secrets *s, const char *text, GError **error)
{
    json_t *o = *text == '{' ? blk_options_from_blockdev(text, error)
                             : blk_options_parse(text, "qom-type", error);
    const char *type = json_string_value(json_object_get(o, "qom-type"));
    bool ok = false;
    if (!o) {
        return false;
    }
    if (!type) {
        error_msg(error, "Parameter 'qom-type' is missing");
    } else if (secrets_knows_object(type)) {
        o = with_rules(o, error);
        ok = o && secrets_add_object(s, o, error);
    } else if (!g_str_equal(type, "secret")) {
        error_msg(error, "Parameter 'qom-type' does not accept value '%s'", type);
    } else {
        ok = secrets_add(s, o, error);
    }
    json_decref(o);
    return ok;
}
