#include "cmd/io/io.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "block/options.h"
#include "lib/base/base.h"

/*
 * reopen: the same image with other options. What may change is judged first; then the
 * image is closed and opened anew, with the old options again if the new ones do not
 * work.
 */

struct reopen {
    bool read_only, read_write;
    struct io_open mode; /* of -c */
    json_t *options;     /* of -o, flat; or NULL */
};

/* ---- what may change --------------------------------------------------------------
 */

static const char *const common_keys[] = {"read-only", "auto-read-only", "discard",
                                          "detect-zeroes", NULL};
static const char *const cache_keys[] = {"direct", "no-flush", NULL};
static const char *const qcow2_keys[] = {"lazy-refcounts",
                                         "pass-discard-request",
                                         "pass-discard-snapshot",
                                         "pass-discard-other",
                                         "overlap-check",
                                         "cache-size",
                                         "l2-cache-size",
                                         "l2-cache-entry-size",
                                         "refcount-cache-size",
                                         "cache-clean-interval",
                                         "encrypt",
                                         NULL};

static const char *const raw_keys[] = {"offset", "size", NULL};

static bool refuse(const char *key, GError **error)
{
    return error_msg(error, "Cannot change the option '%s'", key);
}

static bool may_change(const struct blk *b, const char *key)
{
    return g_strv_contains(common_keys, key) ||
           (g_str_equal(blk_get_driver_name(b), "raw") &&
            g_strv_contains(raw_keys, key)) ||
           (g_str_equal(blk_get_driver_name(b), "qcow2") &&
            g_strv_contains(qcow2_keys, key));
}

static bool check_cache(json_t *cache, GError **error)
{
    const char *key;
    json_t *value;
    json_object_foreach(cache, key, value)
    {
        if (!g_strv_contains(cache_keys, key)) {
            g_autofree char *full = g_strdup_printf("cache.%s", key);
            return refuse(full, error);
        }
    }
    return true;
}

static bool same(json_t *old, json_t *value, const struct blk *b, const char *key)
{
    const char *text = json_string_value(value);
    if (text && g_str_equal(key, "driver")) {
        return g_str_equal(text, blk_get_driver_name(b));
    }
    return old && json_equal(old, value);
}

/* @wanted, nested, for node @b, which was opened with @old (may be NULL). */
static bool check_changes(const struct blk *b, json_t *old, json_t *wanted,
                          GError **error)
{
    const char *key;
    json_t *value;
    json_object_foreach(wanted, key, value)
    {
        json_t *was = json_object_get(old, key);
        struct blk *child = blk_get_child(b, key);
        bool ok = true;
        if (json_is_object(value) && g_str_equal(key, "cache")) {
            ok = check_cache(value, error);
        } else if (json_is_object(value) && child) {
            ok = check_changes(child, was, value, error);
        } else if (child || g_str_equal(key, "backing")) {
            const char *name = json_string_value(value);
            ok = error_msg(error, "Cannot find device='' nor node-name='%s'",
                           name ? name : "");
        } else if (!may_change(b, key) && !same(was, value, b, key)) {
            ok = refuse(key, error);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* ---- the command ------------------------------------------------------------------
 */

static bool parse_letters(struct io *io, struct reopen *r, int argc, char **argv)
{
    GError *error = NULL;
    for (int c; (c = getopt(argc, argv, "c:o:rw")) != -1;) {
        switch (c) {
        case 'c':
            if (!io_open_cache(io, &r->mode, optarg)) {
                return false;
            }
            break;
        case 'o':
            json_decref(r->options);
            r->options = blk_options_parse(optarg, NULL, &error);
            if (!r->options) {
                io_report(io, error);
                return false;
            }
            break;
        case 'r':
        case 'w':
            if (r->read_only || r->read_write) {
                io_error(io, "Only one -r/-w option may be given");
                return false;
            }
            *(c == 'r' ? &r->read_only : &r->read_write) = true;
            break;
        default: io_command_usage(argv[0]); return false;
        }
    }
    if (optind != argc) {
        io_command_usage(argv[0]);
        return false;
    }
    return true;
}

static bool letters_fit(const struct io *io, const struct reopen *r)
{
    if ((r->read_only || r->read_write) && json_object_get(r->options, "read-only")) {
        io_error(io, "Cannot set both -r/-w and 'read-only'");
        return false;
    }
    if (r->mode.have_cache && (json_object_get(r->options, "cache.direct") ||
                               json_object_get(r->options, "cache.no-flush"))) {
        io_error(io, "Cannot set both -c and the cache options");
        return false;
    }
    return true;
}

static void merge_letters(json_t *tree, const struct reopen *r)
{
    const struct io_open *m = &r->mode;
    if (r->read_only || r->read_write) {
        json_object_set_new(tree, "read-only", json_boolean(r->read_only));
    }
    if (m->have_cache) {
        json_object_set_new(tree, "cache",
                            json_pack("{s:b, s:b, s:b}", "direct", m->direct,
                                      "no-flush", m->no_flush, "writeback",
                                      !m->writethrough));
    }
}

/* With copy-on-read (-C) in front, the image is what stands behind it. */
static json_t *image_of(json_t *tree, struct blk **b)
{
    const char *driver = json_string_value(json_object_get(tree, "driver"));
    if (driver && g_str_equal(driver, "copy-on-read")) {
        *b = blk_get_child(*b, "file");
        return json_object_get(tree, "file");
    }
    return tree;
}

static bool stays_writable(const struct io *io, json_t *wanted, GError **error)
{
    const char *text = json_string_value(json_object_get(wanted, "read-only"));
    if (!text || blk_read_only(io->blk) ||
        !(g_str_equal(text, "on") || g_str_equal(text, "true") ||
          g_str_equal(text, "yes"))) {
        return true;
    }
    return error_msg(error, "Read-only block node '%s' cannot support read-write users",
                     "#block000");
}

static bool switch_options(struct io *io, json_t *tree, GError **error)
{
    json_t *old = json_incref(io->options);
    struct blk *b = g_steal_pointer(&io->blk);
    blk_drain(b);
    io->reopening = true;
    bool ok = blk_close(b, error) && io_open_options(io, tree, error);
    if (!ok && !io_open_options(io, old, NULL)) {
        g_prefix_error(error, "the image is closed now: ");
    }
    io->reopening = false;
    json_decref(old);
    return ok;
}

static bool can_reopen(const struct blk *b, GError **error)
{
    return !g_str_equal(blk_get_driver_name(b), "parallels") ||
           error_msg(error,
                     "Block format 'parallels' used by node '#block000' does not "
                     "support reopening files");
}

static bool do_reopen(struct io *io, const struct reopen *r, GError **error)
{
    struct blk *image = io->blk;
    json_t *tree = json_deep_copy(io->options);
    json_t *part = image_of(tree, &image);
    json_t *wanted = r->options ? blk_options_nest(r->options, error) : json_object();
    bool ok = wanted && can_reopen(image, error) &&
              check_changes(image, part, wanted, error) &&
              stays_writable(io, wanted, error);
    if (ok) {
        json_object_update_recursive(part, wanted);
        merge_letters(part, r);
        json_object_del(part, "auto-read-only");
        ok = !io->base ? switch_options(io, tree, error)
                       : json_equal(tree, io->options) ||
                             error_msg(error, "a temporary image cannot be reopened");
    }
    json_decref(wanted);
    json_decref(tree);
    return ok;
}

int io_reopen(struct io *io, int argc, char **argv)
{
    struct reopen r = {0};
    GError *error = NULL;
    int ret = -EINVAL;
    if (parse_letters(io, &r, argc, argv) && letters_fit(io, &r)) {
        ret = 0;
        if (!do_reopen(io, &r, &error)) {
            io_report(io, error);
            ret = -EINVAL;
        }
    }
    json_decref(r.options);
    return ret;
}
