#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/driver.h"
#include "block/options.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"

/* create: options of format and protocol are one object, checked by their tables. */

struct making {
    const char *format, *filename;
    const char *backing, *backing_format; /* -b and -F; NULL */
    bool unchecked;                       /* -u */
    bool sized;                           /* as an argument of its own */
    uint64_t size;
    const char *hint; /* format of a backing file that has none given */
    struct blk_create_tables tables;
};

/* " name=value" as the line about formatting has it: @said is the user's own text. */
static void print_option(const struct blk_option *o, json_t *v, json_t *said)
{
    if (json_is_integer(v) && json_integer_value(v) == INT64_MAX &&
        json_is_string(said) && *json_string_value(said) == '-') {
        printf(" %s=%s", o->name, json_string_value(said));
    } else if (json_is_integer(v)) {
        printf(" %s=%" JSON_INTEGER_FORMAT, o->name, json_integer_value(v));
    } else if (json_is_boolean(v)) {
        printf(" %s=%s", o->name,
               json_is_string(said) ? json_string_value(said)
               : json_is_true(v)    ? "on"
                                    : "off");
    } else {
        const char *s = json_string_value(v);
        g_auto(GStrv) parts = g_strsplit(s, ",", -1);
        g_autofree char *text = g_strjoinv(",,", parts);
        printf(" %s=%s", o->name, text);
    }
}

static void print_formatting(const struct img *im, const char *filename,
                             const char *format, const struct blk_create_tables *t,
                             json_t *opts, json_t *said)
{
    const struct blk_option *const tables[] = {t->format, t->protocol};
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    if (im->quiet) {
        return;
    }
    printf("Formatting '%s', fmt=%s", filename, format);
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        for (const struct blk_option *o = tables[i]; o && o->name; o++) {
            json_t *v = json_object_get(opts, o->name);
            if (v && g_hash_table_add(seen, (char *)o->name)) {
                print_option(o, v, json_object_get(said, o->name));
            }
        }
    }
    printf("\n");
}

/* The backing file must be there, and gives the size when nobody else does. */
static bool look_at_backing(struct img *im, const char *filename, json_t *opts,
                            bool unchecked, const char **ret_hint, GError **error)
{
    const char *backing = json_string_value(json_object_get(opts, "backing_file"));
    const char *format = json_string_value(json_object_get(opts, "backing_fmt"));
    bool sized = json_object_get(opts, "size") != NULL;
    if (!backing || unchecked) {
        return true;
    }
    g_autofree char *path = blk_backing_path(filename, backing);
    struct blk_perms none = {0, BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = im->loop, .perms = &none, .secrets = im->secrets};
    json_t *o = blk_options_from_name(path, format, error);
    if (o) {
        json_object_set_new(o, "read-only", json_true());
        json_object_set_new(o, "force-share", json_true()); /* only its length counts */
    }
    struct blk *b = o ? blk_open(&args, o, error) : NULL;
    json_decref(o);
    if (!b) {
        g_autofree char *why = g_strdup((*error)->message);
        g_clear_error(error);
        return error_msg(error, "%s\nCould not open backing image.", why);
    }
    if (!format) {
        *ret_hint = blk_get_driver_name(b);
        error_msg(error, "Backing file specified without backing format");
        blk_unref(b);
        return false;
    }
    if (!sized) {
        json_object_set_new(opts, "size", json_integer((json_int_t)blk_length(b)));
    }
    blk_unref(b);
    return true;
}

static bool has_option(const struct blk_option *o, const char *name)
{
    for (; o && o->name; o++) {
        if (g_str_equal(o->name, name)) {
            return true;
        }
    }
    return false;
}

/* -b and -F become options, where the format has them. */
static bool add_backing(struct making *m, json_t *opts, GError **error)
{
    static const char *const names[] = {"backing_file", "backing_fmt"};
    static const char *const words[] = {"Backing file", "Backing file format"};
    const char *const values[] = {m->backing, m->backing_format};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (values[i] && !has_option(m->tables.format, names[i])) {
            return error_msg(error, "%s not supported for file format '%s'", words[i],
                             m->format);
        }
        if (values[i]) {
            json_object_set_new(opts, names[i], json_string_nocheck(values[i]));
        }
    }
    return true;
}

static bool judge_backing(const struct making *m, json_t *opts, GError **error)
{
    const char *backing = json_string_value(json_object_get(opts, "backing_file"));
    const char *format = json_string_value(json_object_get(opts, "backing_fmt"));
    if (backing && g_str_equal(backing, m->filename)) {
        return error_msg(error, "Error: Trying to create an image with the same "
                                "filename as the backing file");
    }
    if (backing && !*backing) {
        return error_msg(error, "Expected backing file name, got empty string");
    }
    if (backing && !format && m->unchecked && json_object_get(opts, "size")) {
        return error_msg(error, "Backing file specified without backing format");
    }
    return true;
}

/* All checks, then the line, then the image. */
static bool create_image(struct img *im, struct making *m, json_t *opts, GError **error)
{
    if (!blk_create_options(m->format, m->filename, &m->tables, error)) {
        return false;
    }
    /* Types first, so that a bad option is named before anything is opened. */
    json_t *said = json_deep_copy(opts), *typed = json_deep_copy(opts);
    bool ok = blk_create_prepare(&m->tables, typed, error);
    json_decref(typed);
    if (ok && m->sized && json_object_get(opts, "size")) {
        ok = error_msg(error, "The image size must be specified only once");
    }
    if (ok && m->sized) {
        json_object_set_new(opts, "size", json_integer((json_int_t)m->size));
    }
    ok = ok && add_backing(m, opts, error) && judge_backing(m, opts, error) &&
         look_at_backing(im, m->filename, opts, m->unchecked, &m->hint, error) &&
         blk_create_prepare(&m->tables, opts, error);
    if (ok && !json_object_get(opts, "size")) {
        ok = error_msg(error, "Image creation needs a size parameter");
    }
    if (ok) {
        print_formatting(im, m->filename, m->format, &m->tables, opts, said);
        struct blk_open_args args = {.loop = im->loop, .secrets = im->secrets};
        ok = blk_create(&args, m->format, m->filename, opts, error);
        if (!ok && g_error_matches(*error, LODGE_ERROR, EFBIG)) {
            bool clusters = has_option(m->tables.format, "cluster_size");
            g_clear_error(error);
            error_msg(error, "The image size is too large for file format '%s'%s",
                      m->format, clusters ? " (try using a larger cluster size)" : "");
        }
    }
    json_decref(said);
    return ok;
}

int img_create(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"format", required_argument, 0, 'f'},
        {"backing", required_argument, 0, 'b'},
        {"backing-file", required_argument, 0, 'b'},
        {"backing-format", required_argument, 0, 'F'},
        {"backing-unsafe", no_argument, 0, 'u'},
        {"options", required_argument, 0, 'o'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    struct making m = {.format = "raw"};
    g_autoptr(GSList) texts = NULL;
    bool help = false;
    for (int c; (c = img_getopt(im, argc, argv, "F:b:f:ho:qu", longs)) != -1;) {
        switch (c) {
        case '?': return 1;
        case 'h': return 0;
        case 'F': m.backing_format = optarg; break;
        case 'b': m.backing = optarg; break;
        case 'f': m.format = optarg; break;
        case 'o': texts = g_slist_append(texts, optarg); break;
        case 'q': im->quiet = true; break;
        case 'u': m.unchecked = true; break;
        default: break;
        }
    }
    json_t *opts = json_object();
    GError *error = NULL;
    m.filename = optind < argc ? argv[optind++] : NULL;
    int code = 1;
    if (!img_parse_options(im, texts, opts, &help)) {
        goto out;
    }
    if (!m.filename && !help) {
        code = img_usage(im, "Expecting image file name");
        goto out;
    }
    if (optind < argc) {
        m.sized = true;
        if (!img_parse_size(im, "image size", argv[optind++], &m.size)) {
            goto out;
        }
    }
    if (optind != argc) {
        code = img_usage(im, "Unexpected argument: %s", argv[optind]);
    } else if (help) {
        code = img_create_help(im, m.format, m.filename);
    } else if (create_image(im, &m, opts, &error)) {
        code = 0;
    } else {
        img_report(im, error, "%s: ", m.filename);
        if (m.hint) {
            fprintf(stderr, "Detected format of %s.",
                    m.hint); /* QEMU ends no line here */
        }
    }
out:
    json_decref(opts);
    return code;
}
