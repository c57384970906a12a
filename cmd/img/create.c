#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/driver.h"
#include "block/options.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"

/* create: options of format and protocol are one object, checked by their tables. */

static bool plain_word(const char *s)
{
    return *s && !strpbrk(s, " \t\"'\\");
}

/* " name=value" as the line about formatting has it. */
static void print_option(const struct blk_option *o, json_t *v)
{
    if (json_is_string(v)) {
        const char *s = json_string_value(v);
        g_autofree char *quoted =
            plain_word(s) ? g_strdup(s) : g_strdup_printf("'%s'", s);
        printf(" %s=%s", o->name, quoted);
    } else if (json_is_integer(v)) {
        printf(" %s=%" JSON_INTEGER_FORMAT, o->name, json_integer_value(v));
    } else {
        printf(" %s=%s", o->name, json_is_true(v) ? "on" : "off");
    }
}

static void print_formatting(const struct img *im, const char *filename,
                             const char *format, const struct blk_create_tables *t,
                             json_t *opts)
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
                print_option(o, v);
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
    if (!backing || !*backing || (unchecked && sized)) {
        return true;
    }
    g_autofree char *path = blk_backing_path(filename, backing);
    struct blk_perms none = {0, BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = im->loop, .perms = &none, .secrets = im->secrets};
    json_t *o = blk_options_from_name(path, format, error);
    if (o) {
        json_object_set_new(o, "read-only", json_true());
    }
    struct blk *b = o ? blk_open(&args, o, error) : NULL;
    json_decref(o);
    if (!b) {
        g_autofree char *why = g_strdup((*error)->message);
        g_clear_error(error);
        if (g_str_has_prefix(why, "Could not open '")) {
            return error_msg(error, "%s\nCould not open backing image.", why);
        }
        return error_msg(
            error, "Could not open '%s': %s\nCould not open backing image.", path, why);
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

/* All checks, then the line, then the image. */
static bool create_image(struct img *im, const char *filename, const char *format,
                         json_t *opts, bool unchecked, const char **ret_hint,
                         GError **error)
{
    struct blk_create_tables t;
    const char *backing = json_string_value(json_object_get(opts, "backing_file"));
    if (!blk_create_options(format, filename, &t, error)) {
        return false;
    }
    if (backing) {
        bool takes = false;
        for (const struct blk_option *o = t.format; o->name; o++) {
            takes |= g_str_equal(o->name, "backing_file");
        }
        if (!takes) {
            return error_msg(error, "Backing file not supported for file format '%s'",
                             format);
        }
    }
    if (backing && g_str_equal(backing, filename)) {
        return error_msg(error, "Error: Trying to create an image with the same "
                                "filename as the backing file");
    }
    if (backing && !json_object_get(opts, "backing_fmt") && unchecked &&
        json_object_get(opts, "size")) {
        return error_msg(error, "Backing file specified without backing format");
    }
    /* Types first, so that a bad option is named before anything is opened. */
    json_t *typed = json_deep_copy(opts);
    bool ok = blk_create_prepare(&t, typed, error);
    json_decref(typed);
    ok = ok && look_at_backing(im, filename, opts, unchecked, ret_hint, error) &&
         blk_create_prepare(&t, opts, error);
    if (!ok) {
        return false;
    }
    if (!json_object_get(opts, "size")) {
        return error_msg(error, "Image creation needs a size parameter");
    }
    print_formatting(im, filename, format, &t, opts);
    struct blk_open_args args = {.loop = im->loop, .secrets = im->secrets};
    return blk_create(&args, format, filename, opts, error);
}

int img_create(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"format", required_argument, 0, 'f'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = "raw", *backing = NULL, *backing_format = NULL;
    g_autoptr(GSList) texts = NULL;
    bool unchecked = false, help = false;
    for (int c; (c = img_getopt(im, argc, argv, "F:b:f:ho:qu", longs)) != -1;) {
        switch (c) {
        case '?': return 1;
        case 'h': return 0;
        case 'F': backing_format = optarg; break;
        case 'b': backing = optarg; break;
        case 'f': format = optarg; break;
        case 'o': texts = g_slist_append(texts, optarg); break;
        case 'q': im->quiet = true; break;
        case 'u': unchecked = true; break;
        default: break;
        }
    }
    json_t *opts = json_object();
    GError *error = NULL;
    const char *hint = NULL;
    const char *filename = optind < argc ? argv[optind++] : NULL;
    int code = 1;
    if (!img_parse_options(im, texts, opts, &help)) {
        goto out;
    }
    if (help) {
        code = img_create_help(im, format, filename);
        goto out;
    }
    if (!filename) {
        code = img_usage(im, "Expecting image file name");
        goto out;
    }
    if (optind < argc) {
        uint64_t size;
        if (!img_parse_size(im, "image size", argv[optind++], &size)) {
            goto out;
        }
        json_object_set_new(opts, "size", json_integer((json_int_t)size));
    }
    if (optind != argc) {
        code = img_usage(im, "Unexpected argument: %s", argv[optind]);
        goto out;
    }
    if (backing) {
        json_object_set_new(opts, "backing_file", json_string_nocheck(backing));
    }
    if (backing_format) {
        json_object_set_new(opts, "backing_fmt", json_string_nocheck(backing_format));
    }
    if (create_image(im, filename, format, opts, unchecked, &hint, &error)) {
        code = 0;
    } else {
        img_report(im, error, "%s: ", filename);
        if (hint) {
            fprintf(stderr, "Detected format of %s.",
                    hint); /* QEMU ends no line here */
        }
    }
out:
    json_decref(opts);
    return code;
}
