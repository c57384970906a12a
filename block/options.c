#include "block/options.h"

#include <string.h>

#include "block/blk_priv.h"
#include "block/proto/nbd.h"
#include "lib/base/base.h"

/*
 * Options. A text becomes a flat object of strings, dots in keys become nesting, and
 * blk_options_check() turns the strings into the types a driver's table asks for, so
 * that -drive, -blockdev and json: are one thing when a driver sees them.
 */

enum { DEPTH_MAX = 32 };

/* ---- k=v texts
 * -------------------------------------------------------------------------- */

/* Up to the next single comma, ",," standing for one; advances *@p past it. */
static char *take_value(const char **p)
{
    GString *value = g_string_new(NULL);
    while (**p) {
        if (**p == ',') {
            ++*p;
            if (**p != ',') {
                break;
            }
        }
        g_string_append_c(value, *(*p)++);
    }
    return g_string_free(value, FALSE);
}

json_t *blk_options_parse(const char *text, const char *implied, GError **error)
{
    json_t *flat = json_object();
    const char *p = text;
    for (bool first = true; *p; first = false) {
        size_t n = strcspn(p, "=,");
        g_autofree char *key = NULL;
        g_autofree char *value = NULL;
        if (p[n] == '=') {
            key = g_strndup(p, n);
            p += n + 1;
            value = take_value(&p);
        } else if (first && implied) {
            key = g_strdup(implied);
            value = take_value(&p);
        } else {
            key = take_value(&p);
            value = g_strdup("on");
        }
        if (*key == '\0') {
            error_msg(error, "an option without a name in '%s'", text);
            json_decref(flat);
            return NULL;
        }
        json_object_set_new_nocheck(flat, key, json_string_nocheck(value));
    }
    return flat;
}

/* ---- nesting
 * ----------------------------------------------------------------------------- */

static bool nest_into(json_t *tree, const char *key, json_t *value, unsigned depth,
                      GError **error);

static bool nest_all(json_t *tree, json_t *from, unsigned depth, GError **error)
{
    const char *key;
    json_t *value;
    json_object_foreach(from, key, value)
    {
        if (!nest_into(tree, key, value, depth, error)) {
            return false;
        }
    }
    return true;
}

static bool nest_leaf(json_t *tree, const char *key, json_t *value, unsigned depth,
                      GError **error)
{
    json_t *old = json_object_get(tree, key);
    if (!json_is_object(value)) {
        if (old) {
            return error_msg(error,
                             "option '%s' is given twice, or both as a value and "
                             "as a group",
                             key);
        }
        json_object_set_nocheck(tree, key, value);
        return true;
    }
    if (!old) {
        old = json_object();
        json_object_set_new_nocheck(tree, key, old);
    }
    if (!json_is_object(old)) {
        return error_msg(error, "option '%s' is given both as a value and as a group",
                         key);
    }
    return nest_all(old, value, depth + 1, error);
}

static bool nest_into(json_t *tree, const char *key, json_t *value, unsigned depth,
                      GError **error)
{
    const char *dot = strchr(key, '.');
    if (depth > DEPTH_MAX) {
        return error_msg(error, "options are nested deeper than %d levels", DEPTH_MAX);
    }
    if (!dot) {
        return nest_leaf(tree, key, value, depth, error);
    }
    g_autofree char *head = g_strndup(key, (size_t)(dot - key));
    if (*head == '\0' || dot[1] == '\0') {
        return error_msg(error, "option '%s' has an empty part", key);
    }
    json_t *sub = json_object_get(tree, head);
    if (!sub) {
        sub = json_object();
        json_object_set_new_nocheck(tree, head, sub);
    }
    if (!json_is_object(sub) && g_str_equal(key, "overlap-check.template")) {
        return error_msg(error,
                         "Conflicting values for qcow2 options 'overlap-check' ('%s') "
                         "and 'overlap-check.template' ('%s')",
                         json_string_value(sub), json_string_value(value));
    }
    if (!json_is_object(sub)) {
        return error_msg(error, "option '%s' is given both as a value and as a group",
                         head);
    }
    return nest_into(sub, dot + 1, value, depth + 1, error);
}

json_t *blk_options_nest(json_t *flat, GError **error)
{
    json_t *tree = json_object();
    if (!nest_all(tree, flat, 0, error)) {
        json_decref(tree);
        return NULL;
    }
    return tree;
}

/* ---- from the command line
 * -------------------------------------------------------------------- */

json_t *blk_options_from_blockdev(const char *text, GError **error)
{
    json_t *flat;
    if (*text == '{') {
        json_error_t e;
        flat = json_loads(text, JSON_REJECT_DUPLICATES, &e);
        if (!flat) {
            error_msg(error, "line %d, column %d: %s", e.line, e.column, e.text);
            return NULL;
        }
    } else {
        flat = blk_options_parse(text, NULL, error);
        if (!flat) {
            return NULL;
        }
    }
    json_t *tree = blk_options_nest(flat, error);
    json_decref(flat);
    return tree;
}

static const struct cache_mode {
    const char *name;
    bool writeback, direct, no_flush;
} cache_modes[] = {
    {"writeback", true, false, false},     {"none", true, true, false},
    {"writethrough", false, false, false}, {"directsync", false, true, false},
    {"unsafe", true, false, true},
};

static bool set_cache(json_t *tree, const char *mode, GError **error)
{
    const char *names[ARRAY_LEN(cache_modes) + 1] = {0};
    for (size_t i = 0; i < ARRAY_LEN(cache_modes); i++) {
        const struct cache_mode *m = &cache_modes[i];
        names[i] = m->name;
        /* "off" is an old name of "none" that people still type. */
        if (g_str_equal(mode, m->name) ||
            (g_str_equal(mode, "off") && g_str_equal(m->name, "none"))) {
            json_object_set_new(tree, "cache",
                                json_pack("{s:b,s:b,s:b}", "writeback", m->writeback,
                                          "direct", m->direct, "no-flush",
                                          m->no_flush));
            return true;
        }
    }
    const char *near = nearest_name(mode, names);
    return near ? error_msg(error, "invalid cache option '%s'; did you mean '%s'?",
                            mode, near)
                : error_msg(error, "invalid cache option '%s'", mode);
}

/* Move @key of @flat to @to of @tree. */
static void move_key(json_t *flat, const char *key, json_t *tree, const char *to)
{
    json_t *v = json_object_get(flat, key);
    if (v) {
        json_object_set_nocheck(tree, to, v);
        json_object_del(flat, key);
    }
}

static void move_dotted(json_t *flat, json_t *tree)
{
    const char *key;
    void *tmp;
    json_t *value;
    json_object_foreach_safe(flat, tmp, key, value)
    {
        if (strchr(key, '.')) {
            json_object_set_nocheck(tree, key, value);
            json_object_del(flat, key);
        }
    }
}

static bool drive_into(json_t *flat, json_t *tree, GError **error)
{
    static const struct {
        const char *key, *to;
    } moves[] = {
        {"format", "driver"},           {"discard", "discard"},
        {"readonly", "read-only"},      {"read-only", "read-only"},
        {"node-name", "node-name"},     {"detect-zeroes", "detect-zeroes"},
        {"force-share", "force-share"}, {"key-secret", "key-secret"},
        {"file", "file.filename"},      {"aio", "file.aio"},
        {"locking", "file.locking"},
    };
    const char *snapshot = blk_opt_str(flat, "snapshot", "off");
    if (!g_str_equal(snapshot, "off")) {
        return error_msg(error, "snapshot=%s is not supported", snapshot);
    }
    json_object_del(flat, "snapshot");
    const char *cache = blk_opt_str(flat, "cache", NULL);
    if (cache && !set_cache(tree, cache, error)) {
        return false;
    }
    json_object_del(flat, "cache");
    for (size_t i = 0; i < ARRAY_LEN(moves); i++) {
        move_key(flat, moves[i].key, tree, moves[i].to);
    }
    move_dotted(flat, tree);
    const char *name = json_string_value(json_object_get(tree, "file.filename"));
    /* A name that says its protocol itself is understood when the file is opened. */
    bool remote = name && nbd_is_name(name);
    if (!json_object_get(tree, "file.driver") && !remote &&
        (json_object_get(tree, "file.filename") || json_object_get(tree, "file.fd"))) {
        json_object_set_new(tree, "file.driver", json_string("file"));
    }
    return true;
}

json_t *blk_options_from_drive(json_t *flat, GError **error)
{
    json_t *dotted = json_object();
    json_t *tree = NULL;
    if (drive_into(flat, dotted, error)) {
        tree = blk_options_nest(dotted, error);
    }
    json_decref(dotted);
    return tree;
}

/* ---- checking
 * ------------------------------------------------------------------------------------
 */

static bool bad_value(const struct blk_option *o, const char *text, const char *wanted,
                      GError **error)
{
    return error_msg(error, "option '%s': '%s' is not %s", o->name, text, wanted);
}

/* The typed value of a string; NULL with @error. */
static json_t *from_text(const struct blk_option *o, const char *text, GError **error)
{
    uint64_t n;
    switch (o->type) {
    case BLK_OPT_BOOL:
        if (g_str_equal(text, "on") || g_str_equal(text, "true") ||
            g_str_equal(text, "yes")) {
            return json_true();
        }
        if (g_str_equal(text, "off") || g_str_equal(text, "false") ||
            g_str_equal(text, "no")) {
            return json_false();
        }
        error_msg(error, "Parameter '%s' expects 'on' or 'off'", o->name);
        return NULL;
    case BLK_OPT_SIZE:
        if (!parse_size(text, 1, &n, NULL)) {
            error_msg(error,
                      "Parameter '%s' expects a non-negative number below 2^64\n"
                      "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
                      "tera-, peta-\nand exabytes, respectively.",
                      o->name);
            return NULL;
        }
        if (n > INT64_MAX) {
            bad_value(o, text, "a size below 8 EiB", error);
            return NULL;
        }
        return json_integer((json_int_t)n);
    case BLK_OPT_INT:
        if (!g_ascii_string_to_unsigned(text, 10, 0, INT64_MAX, &n, NULL)) {
            error_msg(error, "Parameter '%s' expects a number", o->name);
            return NULL;
        }
        return json_integer((json_int_t)n);
    case BLK_OPT_ENUM:
        if (!g_strv_contains(o->values, text) && g_str_equal(o->name, "discard")) {
            error_msg(error, "Invalid discard option");
            return NULL;
        }
        if (!g_strv_contains(o->values, text)) {
            const char *near = nearest_name(text, o->values);
            g_autofree char *all = g_strjoinv(", ", (char **)o->values);
            g_autofree char *wanted =
                near ? g_strdup_printf("one of %s; did you mean '%s'?", all, near)
                     : g_strdup_printf("one of %s", all);
            bad_value(o, text, wanted, error);
            return NULL;
        }
        return json_string(text);
    default: return json_string_nocheck(text);
    }
}

static bool type_fits(const struct blk_option *o, const json_t *v)
{
    switch (o->type) {
    case BLK_OPT_BOOL: return json_is_boolean(v);
    case BLK_OPT_SIZE:
    case BLK_OPT_INT: return json_is_integer(v) && json_integer_value(v) >= 0;
    case BLK_OPT_NODE: return json_is_object(v) || json_is_null(v);
    case BLK_OPT_ANY: return true;
    default: return false; /* strings go through from_text() */
    }
}

static const char *type_name(enum blk_opt_type t)
{
    static const char *const names[] = {
        [BLK_OPT_STR] = "a string",  [BLK_OPT_BOOL] = "true or false",
        [BLK_OPT_SIZE] = "a size",   [BLK_OPT_INT] = "a number that is not negative",
        [BLK_OPT_ENUM] = "a string", [BLK_OPT_NODE] = "an object or the name of a node",
        [BLK_OPT_ANY] = "anything",
    };
    return names[t];
}

static const struct blk_option *find_option(const struct blk_option *const *tables,
                                            const char *name)
{
    for (size_t t = 0; tables[t]; t++) {
        for (const struct blk_option *o = tables[t]; o->name; o++) {
            if (g_str_equal(o->name, name)) {
                return o;
            }
        }
    }
    return NULL;
}

static bool unknown_option(const struct blk_option *const *tables, const char *name,
                           const char *who, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (size_t t = 0; tables[t]; t++) {
        for (const struct blk_option *o = tables[t]; o->name; o++) {
            g_ptr_array_add(names, (char *)o->name);
        }
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_name(name, (const char *const *)names->pdata);
    return near ? error_msg(error, "%s '%s'; did you mean '%s'?", who, name, near)
                : error_msg(error, "%s '%s'", who, name);
}

static bool check_one(json_t *opts, const struct blk_option *o, json_t *v,
                      GError **error)
{
    const char *text = json_string_value(v);
    if (text) {
        json_t *typed = from_text(o, text, error);
        if (typed) {
            json_object_set_new(opts, o->name, typed);
        }
        return typed != NULL;
    }
    return type_fits(o, v) ||
           error_msg(error, "option '%s' must be %s", o->name, type_name(o->type));
}

gboolean blk_options_check(json_t *opts, const struct blk_option *const *tables,
                           const char *who, GError **error)
{
    const char *key;
    void *tmp;
    json_t *value;
    json_object_foreach_safe(opts, tmp, key, value)
    {
        const struct blk_option *o = find_option(tables, key);
        if (o ? !check_one(opts, o, value, error)
              : who && !unknown_option(tables, key, who, error)) {
            return false;
        }
    }
    return true;
}
