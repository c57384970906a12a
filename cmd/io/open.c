#include "cmd/io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/options.h"
#include "lib/base/base.h"

/* Opening and closing: names, option strings and the letters of `open` to one tree. */

bool io_open_cache(const struct io *io, struct io_open *o, const char *mode)
{
    static const struct {
        const char *name;
        bool direct, no_flush, writethrough;
    } modes[] = {
        {"none", true, false, false},         {"off", true, false, false},
        {"writeback", false, false, false},   {"unsafe", false, true, false},
        {"writethrough", false, false, true}, {"directsync", true, false, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (g_str_equal(modes[i].name, mode)) {
            o->have_cache = true;
            o->direct = modes[i].direct;
            o->no_flush = modes[i].no_flush;
            o->writethrough = modes[i].writethrough;
            return true;
        }
    }
    io_error(io, "Invalid cache option: %s", mode);
    return false;
}

bool io_open_discard(const struct io *io, struct io_open *o, const char *mode)
{
    bool on = g_str_equal(mode, "on") || g_str_equal(mode, "unmap");
    if (!on && !g_str_equal(mode, "off") && !g_str_equal(mode, "ignore")) {
        io_error(io, "Invalid discard option: %s", mode);
        return false;
    }
    o->discard = on;
    return true;
}

bool io_open_aio(const struct io *io, struct io_open *o, const char *mode)
{
    if (!g_str_equal(mode, "threads") && !g_str_equal(mode, "native") &&
        !g_str_equal(mode, "io_uring")) {
        io_error(io, "Invalid aio option: %s", mode);
        return false;
    }
    o->aio = mode;
    return true;
}

/* ---- one tree of options --------------------------------------------------------- */

/* The driver at the bottom that does the I/O, as far as the options say. */
static json_t *bottom(json_t *o)
{
    while (json_is_object(json_object_get(o, "file"))) {
        o = json_object_get(o, "file");
    }
    const char *driver = json_string_value(json_object_get(o, "driver"));
    return driver && g_str_equal(driver, "file") ? o : NULL;
}

static void set_missing(json_t *o, const char *key, json_t *value)
{
    if (!json_object_get(o, key)) {
        json_object_set(o, key, value);
    }
    json_decref(value);
}

static json_t *options_for(const struct io_open *o, const char *name, GError **error)
{
    json_t *given = o->options ? blk_options_nest(o->options, error) : json_object();
    if (!given) {
        return NULL;
    }
    if (name) {
        json_t *named = blk_options_from_name(name, o->format, error);
        if (!named) {
            json_decref(given);
            return NULL;
        }
        json_object_update_recursive(named, given);
        json_decref(given);
        given = named;
    }
    if (json_object_size(given) == 0) {
        error_msg(error, "Must specify either driver or file");
        json_decref(given);
        return NULL;
    }
    return given;
}

static void add_modes(json_t *tree, const struct io_open *o)
{
    set_missing(tree, "read-only", json_boolean(o->read_only || o->snapshot));
    set_missing(tree, "discard", json_string(o->discard ? "unmap" : "ignore"));
    if (o->force_share) {
        set_missing(tree, "force-share", json_true());
    }
    if (o->have_cache) {
        set_missing(tree, "cache",
                    json_pack("{s:b, s:b, s:b}", "direct", o->direct, "no-flush",
                              o->no_flush, "writeback", !o->writethrough));
    }
    json_t *file = o->aio ? bottom(tree) : NULL;
    if (file) {
        set_missing(file, "aio", json_string(o->aio));
    }
}

/* ---- opening --------------------------------------------------------------------- */

static void warn(void *opaque, const char *message)
{
    struct io *io = opaque;
    if (io->reopening && !strstr(message, "Failed to flush")) {
        return;
    }
    if (g_str_has_prefix(message, "Image format was not specified")) {
        fprintf(stderr, "WARNING: %s\n", message);
    } else if (g_str_has_prefix(message, "qcow2: Failed to flush")) {
        io->flush_told = true;
        io_error(io, "%s", message + strlen("qcow2: "));
    } else {
        io_error(io, "%s", message);
    }
}

static struct blk *find_base(void *opaque, const char *node_name)
{
    const struct io *io = opaque;
    return io->base && g_str_equal(blk_get_node_name(io->base), node_name) ? io->base
                                                                           : NULL;
}

static bool is_true(json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return json_is_true(json_object_get(o, key)) ||
           (text && (g_str_equal(text, "on") || g_str_equal(text, "true") ||
                     g_str_equal(text, "yes")));
}

static struct blk *open_tree(struct io *io, json_t *tree, GError **error)
{
    bool read_only = is_true(tree, "read-only");
    struct blk_perms perms = {BLK_PERM_READ |
                                  (read_only ? 0 : BLK_PERM_WRITE | BLK_PERM_RESIZE),
                              BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = io->loop,
        .perms = &perms,
        .find_node = find_base,
        .warn = warn,
        .opaque = io,
        .secrets = io->secrets,
    };
    return blk_open(&args, tree, error);
}

bool io_open_options(struct io *io, json_t *options, GError **error)
{
    io->blk = open_tree(io, options, error);
    if (io->blk) {
        json_decref(io->options);
        io->options = json_incref(options);
    }
    return io->blk != NULL;
}

/* A new image on top of io->base, for what is written while it is open. */
static json_t *temporary(struct io *io, const struct io_open *o, GError **error)
{
    const char *folder = g_getenv("TMPDIR");
    g_autofree char *path =
        g_strdup_printf("%s/vl.XXXXXX", folder ? folder : "/var/tmp");
    int fd = g_mkstemp(path);
    if (fd < 0) {
        error_errno(error, errno, "Could not get temporary filename");
        return NULL;
    }
    close(fd);
    struct blk_open_args args = {.loop = io->loop, .secrets = io->secrets};
    struct blk_create_tables t;
    json_t *opts = json_pack("{s:I}", "size", (json_int_t)blk_length(io->base));
    bool ok = blk_create_options("qcow2", NULL, &t, error) &&
              blk_create_prepare(&t, opts, error) &&
              blk_create(&args, "qcow2", path, opts, error);
    json_decref(opts);
    if (!ok) {
        unlink(path);
        return NULL;
    }
    json_t *tree =
        json_pack("{s:s, s:{s:s, s:s}, s:s, s:s}", "driver", "qcow2", "file", "driver",
                  "file", "filename", path, "backing", blk_get_node_name(io->base),
                  "discard", o->discard ? "unmap" : "ignore");
    return tree;
}

static bool open_temporary(struct io *io, const struct io_open *o, GError **error)
{
    io->base = io->blk;
    io->blk = NULL;
    json_t *tree = temporary(io, o, error);
    bool ok = tree && io_open_options(io, tree, error);
    if (tree) { /* it goes with the last one who has it open */
        unlink(json_string_value(
            json_object_get(json_object_get(tree, "file"), "filename")));
        json_decref(tree);
    }
    return ok;
}

static bool open_all(struct io *io, const struct io_open *o, json_t *tree,
                     GError **error)
{
    bool read_only = is_true(tree, "read-only");
    if (o->copy_on_read) {
        if (read_only) {
            return error_msg(error, "Can't use copy-on-read on read-only device");
        }
        json_t *top = json_pack("{s:s, s:O, s:O}", "driver", "copy-on-read", "file",
                                tree, "discard", json_object_get(tree, "discard"));
        bool ok = io_open_options(io, top, error);
        json_decref(top);
        return ok;
    }
    return io_open_options(io, tree, error) &&
           (!o->snapshot || open_temporary(io, o, error));
}

int io_open_image(struct io *io, const struct io_open *o, const char *name)
{
    GError *error = NULL;
    if (io->blk) {
        io_error(io, "file open already, try 'help close'");
        return -EBUSY;
    }
    json_t *tree = options_for(o, name, &error);
    if (tree) {
        add_modes(tree, o);
    }
    bool ok = tree && open_all(io, o, tree, &error);
    json_decref(tree);
    if (!ok) {
        blk_unref(g_steal_pointer(&io->base));
        io_error(io, "can't open%s%s: %s", name ? " device " : "", name ? name : "",
                 error->message);
        g_error_free(error);
        return -EINVAL;
    }
    return 0;
}

bool io_close_image(struct io *io, GError **error)
{
    struct blk *b = g_steal_pointer(&io->blk);
    bool ok = true;
    if (b) {
        blk_drain(b);
        ok = blk_close(b, error);
    }
    blk_unref(g_steal_pointer(&io->base));
    return ok;
}

/* Why the image could not be closed well, unless it said so itself. */
void io_report_close(struct io *io, GError *error)
{
    if (!io->flush_told) {
        io_error(io, "%s", error->message);
    }
    io->flush_told = false;
    g_error_free(error);
}

/* ---- the commands ---------------------------------------------------------------- */

static bool open_letter(struct io *io, struct io_open *o, int letter)
{
    GError *error = NULL;
    switch (letter) {
    case 's': o->snapshot = true; return true;
    case 'n': return io_open_cache(io, o, "none");
    case 'C': o->copy_on_read = true; return true;
    case 'r': o->read_only = true; return true;
    case 'k': o->aio = "native"; return true;
    case 't': return io_open_cache(io, o, optarg);
    case 'd': return io_open_discard(io, o, optarg);
    case 'i': return io_open_aio(io, o, optarg);
    case 'U': o->force_share = true; return true;
    default: /* 'o' */
        if (io->image_opts) {
            printf("--image-opts and 'open -o' are mutually exclusive\n");
            return false;
        }
        json_t *more = blk_options_parse(optarg, NULL, &error);
        if (!more) {
            io_report(io, error);
            return false;
        }
        if (o->options) {
            json_object_update(o->options, more);
            json_decref(more);
        } else {
            o->options = more;
        }
        return true;
    }
}

int io_open(struct io *io, int argc, char **argv)
{
    struct io_open o = IO_OPEN_INIT;
    int ret = -EINVAL;
    for (int c; (c = getopt(argc, argv, "snCro:ki:t:d:U")) != -1;) {
        if (c == '?') {
            ret = io_command_usage(argv[0]);
            goto out;
        }
        if (!open_letter(io, &o, c)) {
            goto out;
        }
    }
    const char *name = optind == argc - 1 ? argv[optind] : NULL;
    if (optind < argc - 1) {
        ret = io_command_usage(argv[0]);
    } else if (name && io->image_opts) {
        GError *error = NULL;
        o.options = blk_options_parse(name, NULL, &error);
        if (!o.options) {
            io_report(io, error);
            goto out;
        }
        ret = io_open_image(io, &o, NULL);
    } else {
        ret = io_open_image(io, &o, name);
    }
out:
    json_decref(o.options);
    return ret;
}

int io_close(struct io *io, int argc, char **argv)
{
    GError *error = NULL;
    if (!io_close_image(io, &error)) {
        io_report_close(io, error);
        return -EIO;
    }
    return 0;
}
