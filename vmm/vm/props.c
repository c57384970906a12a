#include "vmm/vm/props.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * Properties: a table describes fields of a struct; values come as JSON from the
 * command line (strings) or from QMP (with their own types) and go through the same
 * checks.
 */

struct number_type {
    const char *name;
    size_t size;
    uint64_t max;
};

/* The unsigned number behind a type; .size 0 for those that are none. */
static struct number_type number_type(enum prop_type type)
{
    switch (type) {
    case PROP_U8: return (struct number_type){"uint8", 1, UINT8_MAX};
    case PROP_U16: return (struct number_type){"uint16", 2, UINT16_MAX};
    case PROP_U32: return (struct number_type){"uint32", 4, UINT32_MAX};
    case PROP_U64: return (struct number_type){"uint64", 8, UINT64_MAX};
    case PROP_SIZE: return (struct number_type){"size", 8, UINT64_MAX};
    case PROP_BOOL:
    case PROP_STRING:
    case PROP_ENUM:
    case PROP_CHARDEV:
    case PROP_DRIVE: break;
    }
    return (struct number_type){0};
}

static const char *type_name(const struct prop *p)
{
    switch (p->type) {
    case PROP_BOOL: return "bool";
    case PROP_STRING: return "str";
    case PROP_ENUM: return "enum";
    case PROP_CHARDEV: return "chardev";
    case PROP_DRIVE: return "drive";
    case PROP_U8:
    case PROP_U16:
    case PROP_U32:
    case PROP_U64:
    case PROP_SIZE: break;
    }
    return number_type(p->type).name;
}

static void *field_of(const struct prop *p, void *object)
{
    return (char *)object + p->offset;
}

static void store_number(const struct prop *p, void *object, uint64_t v)
{
    memcpy(field_of(p, object), &v, number_type(p->type).size);
}

static uint64_t highest(const struct prop *p)
{
    return p->max ? p->max : number_type(p->type).max;
}

void props_set_defaults(const struct prop *props, void *object)
{
    for (const struct prop *p = props; p && p->name; p++) {
        switch (p->type) {
        case PROP_BOOL: *(bool *)field_of(p, object) = p->def != 0; break;
        case PROP_U8:
        case PROP_U16:
        case PROP_U32:
        case PROP_U64:
        case PROP_SIZE: store_number(p, object, p->def); break;
        case PROP_STRING:
            *(char **)field_of(p, object) = g_strdup(p->def_string);
            break;
        case PROP_ENUM: *(unsigned *)field_of(p, object) = (unsigned)p->def; break;
        case PROP_CHARDEV:
        case PROP_DRIVE: *(void **)field_of(p, object) = NULL; break;
        }
    }
}

static bool parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"on", "yes", "true", "y"};
    static const char *const no[] = {"off", "no", "false", "n"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *ret = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static bool set_bool(const struct prop *p, void *object, const json_t *value,
                     GError **error)
{
    bool v;
    if (json_is_boolean(value)) {
        v = json_is_true(value);
    } else if (!json_is_string(value) || !parse_bool(json_string_value(value), &v)) {
        return error_msg(error, "property '%s' expects on or off", p->name);
    }
    *(bool *)field_of(p, object) = v;
    return true;
}

/* Decimal or 0x; no sign, no space, nothing behind. */
static bool parse_number(const char *text, uint64_t *ret)
{
    char *end;
    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    errno = 0;
    *ret = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    return errno == 0 && *end == '\0' && end != text;
}

static bool set_number(const struct prop *p, void *object, const json_t *value,
                       GError **error)
{
    uint64_t v;
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        v = (uint64_t)json_integer_value(value);
    } else if (json_is_string(value) && p->type == PROP_SIZE) {
        if (!parse_size(json_string_value(value), 1, &v, error)) {
            g_prefix_error(error, "property '%s': ", p->name);
            return false;
        }
    } else if (!json_is_string(value) || !parse_number(json_string_value(value), &v)) {
        return error_msg(error, "property '%s' expects a number of type %s", p->name,
                         type_name(p));
    }
    if (v < p->min || v > highest(p)) {
        return error_msg(error,
                         "property '%s': %" PRIu64 " is out of range (%" PRIu64
                         " to %" PRIu64 ")",
                         p->name, v, p->min, highest(p));
    }
    store_number(p, object, v);
    return true;
}

static bool set_enum(const struct prop *p, void *object, const json_t *value,
                     GError **error)
{
    const char *text = json_string_value(value);
    for (unsigned i = 0; text && p->values[i]; i++) {
        if (strcmp(text, p->values[i]) == 0) {
            *(unsigned *)field_of(p, object) = i;
            return true;
        }
    }
    g_autofree char *all = g_strjoinv(", ", (char **)p->values);
    return error_msg(error, "property '%s' expects one of: %s", p->name, all);
}

static bool set_backend(const struct prop *p, void *object, const json_t *value,
                        const struct device_resolver *resolver, GError **error)
{
    const char *id = json_string_value(value);
    void *(*find)(void *, const char *, GError **) = NULL;
    if (resolver) {
        find = p->type == PROP_DRIVE ? resolver->drive : resolver->chardev;
    }
    if (!id || !find) {
        return error_msg(error, "property '%s' expects the id of a %s", p->name,
                         type_name(p));
    }
    void *found = find(resolver->opaque, id, error);
    if (!found) {
        g_prefix_error(error, "property '%s': ", p->name);
        return false;
    }
    *(void **)field_of(p, object) = found;
    return true;
}

static const struct prop *find_prop(const struct prop *props, const char *name)
{
    for (const struct prop *p = props; p && p->name; p++) {
        if (strcmp(p->name, name) == 0) {
            return p;
        }
    }
    return NULL;
}

static bool no_such_prop(const struct prop *props, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const struct prop *p = props; p && p->name; p++) {
        g_ptr_array_add(names, (char *)p->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_name(name, (const char *const *)names->pdata);
    if (near) {
        return error_msg(error, "no property '%s'; did you mean '%s'?", name, near);
    }
    return error_msg(error, "no property '%s'", name);
}

bool props_set(const struct prop *props, void *object, const char *name,
               const json_t *value, const struct device_resolver *resolver,
               GError **error)
{
    const struct prop *p = find_prop(props, name);
    if (!p) {
        return no_such_prop(props, name, error);
    }
    switch (p->type) {
    case PROP_BOOL: return set_bool(p, object, value, error);
    case PROP_U8:
    case PROP_U16:
    case PROP_U32:
    case PROP_U64:
    case PROP_SIZE: return set_number(p, object, value, error);
    case PROP_ENUM: return set_enum(p, object, value, error);
    case PROP_CHARDEV:
    case PROP_DRIVE: return set_backend(p, object, value, resolver, error);
    case PROP_STRING: break;
    }
    if (!json_is_string(value)) {
        return error_msg(error, "property '%s' expects a string", name);
    }
    char **field = field_of(p, object);
    g_free(*field);
    *field = g_strdup(json_string_value(value));
    return true;
}

void props_done(const struct prop *props, void *object)
{
    for (const struct prop *p = props; p && p->name; p++) {
        if (p->type == PROP_STRING) {
            g_clear_pointer((char **)field_of(p, object), g_free);
        }
    }
}

static void help_default(const struct prop *p, FILE *out)
{
    switch (p->type) {
    case PROP_BOOL: fprintf(out, ", default %s", p->def ? "on" : "off"); break;
    case PROP_U8:
    case PROP_U16:
    case PROP_U32:
    case PROP_U64:
    case PROP_SIZE: fprintf(out, ", default %" PRIu64, p->def); break;
    case PROP_STRING:
        if (p->def_string) {
            fprintf(out, ", default \"%s\"", p->def_string);
        }
        break;
    case PROP_ENUM: fprintf(out, ", default %s", p->values[p->def]); break;
    case PROP_CHARDEV:
    case PROP_DRIVE: break;
    }
}

void props_help(const struct prop *props, FILE *out)
{
    for (const struct prop *p = props; p && p->name; p++) {
        fprintf(out, "  %s=<%s>", p->name, type_name(p));
        fprintf(out, "%*s - %s (",
                MAX(0, 28 - (int)(strlen(p->name) + strlen(type_name(p)))), "",
                p->help ? p->help : "");
        if (p->type == PROP_ENUM) {
            g_autofree char *all = g_strjoinv("|", (char **)p->values);
            fprintf(out, "%s", all);
        } else if (number_type(p->type).size && (p->min || p->max)) {
            fprintf(out, "%" PRIu64 " to %" PRIu64, p->min, highest(p));
        } else {
            fprintf(out, "%s", type_name(p));
        }
        if (p->required) {
            fprintf(out, ", required");
        } else {
            help_default(p, out);
        }
        fprintf(out, ")\n");
    }
}
