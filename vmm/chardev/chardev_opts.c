/*
 * The backends and their options: one array, from which come the checks and the help.
 */
#include "vmm/chardev/chardev_priv.h"

#include <string.h>

#include "lib/base/base.h"

static const struct chardev_backend *const backends[] = {
    &chardev_null, &chardev_stdio,  &chardev_file, &chardev_pipe,
    &chardev_fd,   &chardev_socket, &chardev_pty,  &chardev_ringbuf,
};

static const char *const bool_words[2][3] = {
    {"off", "no", "false"},
    {"on", "yes", "true"},
};

static bool parse_bool(const char *text, bool *ret)
{
    for (int v = 0; v < 2; v++) {
        for (size_t i = 0; i < ARRAY_LEN(bool_words[v]); i++) {
            if (strcmp(text, bool_words[v][i]) == 0) {
                *ret = v;
                return true;
            }
        }
    }
    return false;
}

const char *chardev_opt_str(const json_t *options, const char *name)
{
    return json_string_value(json_object_get(options, name));
}

bool chardev_opt_bool(const json_t *options, const char *name, bool def)
{
    const json_t *v = json_object_get(options, name);

    if (json_is_boolean(v))
        return json_is_true(v);
    if (json_is_string(v))
        parse_bool(json_string_value(v), &def);
    return def;
}

uint64_t chardev_opt_num(const json_t *options, const char *name, uint64_t def)
{
    const json_t *v = json_object_get(options, name);

    if (json_is_integer(v))
        return json_integer_value(v);
    if (json_is_string(v))
        parse_size(json_string_value(v), 1, &def, NULL);
    return def;
}

static bool check_value(const struct chardev_opt *opt, const json_t *value,
                        GError **error)
{
    const char *text = json_string_value(value);
    uint64_t n = 0;
    bool b;

    switch (opt->type) {
    case CHARDEV_OPT_STRING:
        if (!text || !*text)
            return error_msg(error, "option '%s' needs a text", opt->name);
        return true;
    case CHARDEV_OPT_BOOL:
        if (!json_is_boolean(value) && !(text && parse_bool(text, &b)))
            return error_msg(error, "option '%s' is 'on' or 'off', not '%s'", opt->name,
                             text ?: "something else");
        return true;
    case CHARDEV_OPT_NUMBER:
        if (text && !parse_size(text, 1, &n, NULL))
            return error_msg(error, "option '%s' needs a number, not '%s'", opt->name,
                             text);
        if (json_is_integer(value) && json_integer_value(value) >= 0)
            n = json_integer_value(value);
        else if (!text)
            return error_msg(error, "option '%s' needs a number", opt->name);
        if (n < opt->min || n > opt->max)
            return error_msg(error,
                             "option '%s' takes %" G_GUINT64_FORMAT
                             "..%" G_GUINT64_FORMAT ", not %" G_GUINT64_FORMAT,
                             opt->name, opt->min, opt->max, n);
        return true;
    }
    return true;
}

static const struct chardev_opt *find_opt(const struct chardev_backend *b,
                                          const char *name)
{
    for (const struct chardev_opt *o = b->opts; o && o->name; o++) {
        if (strcmp(o->name, name) == 0)
            return o;
    }
    return NULL;
}

static bool unknown_opt(const struct chardev_backend *b, const char *name,
                        GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (const struct chardev_opt *o = b->opts; o && o->name; o++)
        g_ptr_array_add(names, (gpointer)o->name);
    g_ptr_array_add(names, NULL);
    near = nearest_name(name, (const char *const *)names->pdata);
    if (near)
        return error_msg(error, "backend '%s' has no option '%s', did you mean '%s'?",
                         b->name, name, near);
    return error_msg(error, "backend '%s' has no option '%s'", b->name, name);
}

static const struct chardev_backend *find_backend(const json_t *options, GError **error)
{
    const char *name = chardev_opt_str(options, "backend");
    const char *names[ARRAY_LEN(backends) + 1] = {0};
    const char *near;

    if (!name) {
        error_msg(error, "a backend is missing; -chardev help lists them");
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(backends); i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
        names[i] = backends[i]->name;
    }
    near = nearest_name(name, names);
    if (near)
        error_msg(error, "there is no backend '%s', did you mean '%s'?", name, near);
    else
        error_msg(error, "there is no backend '%s'; -chardev help lists them", name);
    return NULL;
}

static const struct chardev_backend *check(const json_t *options, GError **error)
{
    const struct chardev_backend *b = find_backend(options, error);
    const char *name;
    json_t *value;

    if (!b)
        return NULL;
    json_object_foreach((json_t *)options, name, value)
    {
        const struct chardev_opt *o = find_opt(b, name);

        if (strcmp(name, "backend") == 0 || strcmp(name, "id") == 0)
            continue;
        if (!o) {
            unknown_opt(b, name, error);
            return NULL;
        }
        if (!check_value(o, value, error))
            return NULL;
    }
    for (const struct chardev_opt *o = b->opts; o && o->name; o++) {
        if (o->required && !json_object_get(options, o->name)) {
            error_msg(error, "backend '%s' needs option '%s'", b->name, o->name);
            return NULL;
        }
    }
    if (b->check && !b->check(options, error))
        return NULL;
    return b;
}

static void prefix(const json_t *options, GError **error)
{
    const char *id = chardev_opt_str(options, "id");

    if (id)
        g_prefix_error(error, "chardev '%s': ", id);
    else
        g_prefix_error(error, "chardev: ");
}

bool chardev_check(const json_t *options, GError **error)
{
    if (check(options, error))
        return true;
    prefix(options, error);
    return false;
}

struct chardev *chardev_new(struct loop *loop, const json_t *options, GError **error)
{
    const struct chardev_backend *b = check(options, error);

    if (!b) {
        prefix(options, error);
        return NULL;
    }
    return chardev_make(loop, b, options, error);
}

void chardev_help(FILE *out)
{
    static const char *const kinds[] = {"text", "on|off", "number"};

    fprintf(out, "Character device backends:\n");
    for (size_t i = 0; i < ARRAY_LEN(backends); i++) {
        fprintf(out, "  %-10s %s\n", backends[i]->name, backends[i]->help);
        for (const struct chardev_opt *o = backends[i]->opts; o && o->name; o++)
            fprintf(out, "      %s=<%s>  %s%s\n", o->name, kinds[o->type], o->help,
                    o->required ? " (required)" : "");
    }
}
