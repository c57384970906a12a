#include "cmd/objects.h"

#include <string.h>

#include "block/options.h"
#include "lib/base/base.h"

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
    } else if (!g_str_equal(type, "secret")) {
        error_msg(error, "Parameter 'qom-type' does not accept value '%s'", type);
    } else {
        ok = secrets_add(s, o, error);
    }
    json_decref(o);
    return ok;
}
