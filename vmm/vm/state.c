#include "vmm/vm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * The JSON of a state:
 *
 *   {"name": "serial", "version": 2,
 *    "fields": {"lcr": 3, "fifo": "00ff12", "regs": [1, 2, 3],
 *               "entry": [{"name": ...}, ...]},
 *    "subsections": [{"name": "serial/timeout", ...}]}
 *
 * JSON's integers end at 2^63 - 1; a U64 above that is the string "0x...".
 *
 * Loading trusts nothing: kinds, counts, ranges and lengths are checked, unknown
 * names are refused. Depth and size are the table's, not the document's.
 */

static unsigned since(const struct state_field *f)
{
    return f->since ? f->since : 1;
}

static size_t element_size(const struct state_field *f)
{
    switch (f->kind) {
    case STATE_BOOL: return sizeof(bool);
    case STATE_U8: return 1;
    case STATE_U16: return 2;
    case STATE_U32: return 4;
    case STATE_U64: return 8;
    case STATE_BYTES:
    case STATE_STRUCT: break;
    }
    return f->size;
}

static json_t *save_bytes(const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    g_autofree char *hex = g_malloc(2 * n + 1);
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[p[i] >> 4];
        hex[2 * i + 1] = digits[p[i] & 15];
    }
    hex[2 * n] = '\0';
    return json_string(hex);
}

static json_t *save_one(const struct state_field *f, void *p)
{
    uint64_t v = 0;
    switch (f->kind) {
    case STATE_BOOL: return json_boolean(*(bool *)p);
    case STATE_U8:
    case STATE_U16:
    case STATE_U32:
    case STATE_U64: memcpy(&v, p, element_size(f)); break;
    case STATE_BYTES: return save_bytes(p, f->size);
    case STATE_STRUCT: return state_save(f->table, p);
    }
    if (v > INT64_MAX) {
        char hex[24];
        g_snprintf(hex, sizeof(hex), "0x%" PRIx64, v);
        return json_string(hex);
    }
    return json_integer((json_int_t)v);
}

json_t *state_save(const struct state_table *table, void *object)
{
    if (table->pre_save) {
        table->pre_save(object);
    }
    json_t *fields = json_object(), *subsections = NULL;
    for (const struct state_field *f = table->fields; f && f->name; f++) {
        char *p = (char *)object + f->offset;
        json_t *value;
        if (f->count == 0) {
            value = save_one(f, p);
        } else {
            value = json_array();
            for (unsigned i = 0; i < f->count; i++) {
                json_array_append_new(value, save_one(f, p + i * element_size(f)));
            }
        }
        json_object_set_new(fields, f->name, value);
    }
    for (size_t i = 0; table->subsections && table->subsections[i]; i++) {
        const struct state_table *sub = table->subsections[i];
        if (!sub->needed || sub->needed(object)) {
            subsections = subsections ? subsections : json_array();
            json_array_append_new(subsections, state_save(sub, object));
        }
    }
    json_t *state = json_pack("{s:s, s:i, s:o}", "name", table->name, "version",
                              (int)table->version, "fields", fields);
    if (subsections) {
        json_object_set_new(state, "subsections", subsections);
    }
    return state;
}

static bool load_number(const struct state_field *f, void *p, const json_t *value,
                        GError **error)
{
    size_t size = element_size(f);
    uint64_t max = UINT64_MAX >> (64 - 8 * size), v;
    const char *text = json_string_value(value);
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        v = (uint64_t)json_integer_value(value);
    } else if (text && f->kind == STATE_U64 && g_str_has_prefix(text, "0x") &&
               g_ascii_isxdigit(text[2])) {
        char *end;
        errno = 0;
        v = g_ascii_strtoull(text + 2, &end, 16);
        if (errno || *end) {
            return error_msg(error, "is not a 64-bit number");
        }
    } else {
        return error_msg(error, "is not an unsigned number");
    }
    if (v > max) {
        return error_msg(error, "%" PRIu64 " is more than %" PRIu64, v, max);
    }
    memcpy(p, &v, size);
    return true;
}

static bool load_bytes(const struct state_field *f, uint8_t *p, const json_t *value,
                       GError **error)
{
    const char *hex = json_string_value(value);
    size_t len = hex ? json_string_length(value) : 0;
    if (!hex || len != 2 * f->size) {
        return error_msg(error, "is not a string of %zu hex digits", 2 * f->size);
    }
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isxdigit(hex[i])) {
            return error_msg(error, "is not a string of %zu hex digits", len);
        }
    }
    for (size_t i = 0; i < f->size; i++) {
        p[i] = (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 |
                         g_ascii_xdigit_value(hex[2 * i + 1]));
    }
    return true;
}

static bool load_one(const struct state_field *f, void *p, const json_t *value,
                     GError **error)
{
    switch (f->kind) {
    case STATE_BOOL:
        if (!json_is_boolean(value)) {
            return error_msg(error, "is not true or false");
        }
        *(bool *)p = json_is_true(value);
        return true;
    case STATE_BYTES: return load_bytes(f, p, value, error);
    case STATE_STRUCT: return state_load(f->table, p, value, error);
    case STATE_U8:
    case STATE_U16:
    case STATE_U32:
    case STATE_U64: break;
    }
    return load_number(f, p, value, error);
}

static bool load_field(const struct state_field *f, void *object, const json_t *value,
                       GError **error)
{
    char *p = (char *)object + f->offset;
    if (f->count == 0) {
        if (!load_one(f, p, value, error)) {
            g_prefix_error(error, "field '%s': ", f->name);
            return false;
        }
        return true;
    }
    if (!json_is_array(value) || json_array_size(value) != f->count) {
        return error_msg(error, "field '%s': is not an array of %u", f->name, f->count);
    }
    for (unsigned i = 0; i < f->count; i++) {
        if (!load_one(f, p + i * element_size(f), json_array_get(value, i), error)) {
            g_prefix_error(error, "field '%s[%u]': ", f->name, i);
            return false;
        }
    }
    return true;
}

static bool load_fields(const struct state_table *table, void *object,
                        const json_t *fields, unsigned version, GError **error)
{
    size_t used = 0;
    if (!json_is_object(fields)) {
        return error_msg(error, "it has no fields");
    }
    for (const struct state_field *f = table->fields; f && f->name; f++) {
        const json_t *value = json_object_get(fields, f->name);
        if (since(f) > version) {
            continue;
        }
        if (!value) {
            return error_msg(error, "field '%s': is missing", f->name);
        }
        if (!load_field(f, object, value, error)) {
            return false;
        }
        used++;
    }
    if (used == json_object_size(fields)) {
        return true;
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)fields, name, value)
    {
        const struct state_field *f = table->fields;
        while (f && f->name && (strcmp(f->name, name) != 0 || since(f) > version)) {
            f++;
        }
        if (!f || !f->name) {
            return error_msg(error, "field '%s': is not known in version %u", name,
                             version);
        }
    }
    return true;
}

static bool load_subsection(const struct state_table *table, void *object,
                            const json_t *state, GError **error)
{
    const char *name = json_string_value(json_object_get(state, "name"));
    for (size_t i = 0; name && table->subsections && table->subsections[i]; i++) {
        if (strcmp(table->subsections[i]->name, name) == 0) {
            return state_load(table->subsections[i], object, state, error);
        }
    }
    return error_msg(error, "subsection '%s' is not known", name ? name : "");
}

static bool load_body(const struct state_table *table, void *object,
                      const json_t *state, GError **error)
{
    const char *name = json_string_value(json_object_get(state, "name"));
    const json_t *version = json_object_get(state, "version");
    const json_t *subsections = json_object_get(state, "subsections");
    json_int_t v = json_integer_value(version);
    if (!name || strcmp(name, table->name) != 0) {
        return error_msg(error, "the state is of '%s'", name ? name : "");
    }
    if (!json_is_integer(version) || v < 1 || v > table->version) {
        return error_msg(error, "version %" PRId64 " is not in 1 to %u", (int64_t)v,
                         table->version);
    }
    if (!load_fields(table, object, json_object_get(state, "fields"), (unsigned)v,
                     error)) {
        return false;
    }
    if (subsections && !json_is_array(subsections)) {
        return error_msg(error, "subsections are not an array");
    }
    for (size_t i = 0; i < json_array_size(subsections); i++) {
        if (!load_subsection(table, object, json_array_get(subsections, i), error)) {
            return false;
        }
    }
    return !table->post_load || table->post_load(object, (unsigned)v, error);
}

bool state_load(const struct state_table *table, void *object, const json_t *state,
                GError **error)
{
    if (!load_body(table, object, state, error)) {
        g_prefix_error(error, "%s: ", table->name);
        return false;
    }
    return true;
}
