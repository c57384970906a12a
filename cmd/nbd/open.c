#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/image.h"
#include "block/options.h"
#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/* The image as the command line wants it opened. */

static void warn(void *opaque, const char *message)
{
    const struct nbd_args *a = opaque;
    static const char probed[] = "Image format was not specified for '";
    const char *end = strstr(message, "' and probing");
    if (g_str_has_prefix(message, probed) && end) {
        const char *name = message + strlen(probed);
        fprintf(
            stderr,
            "WARNING: Image format was not specified for '%.*s' and probing guessed "
            "raw.\n"
            "         Automatically detecting the format is dangerous for raw "
            "images, write operations on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the "
            "restrictions.\n",
            (int)(end - name), name);
        return;
    }
    nbd_error(a, "%s", message);
}

static void set_default(json_t *o, const char *key, const char *value)
{
    if (value && !json_object_get(o, key)) {
        json_object_set_new(o, key, json_string(value));
    }
}

static void set_cache(json_t *o, const char *mode)
{
    if (!mode || json_object_get(o, "cache")) {
        return;
    }
    bool direct = g_str_equal(mode, "none") || g_str_equal(mode, "off") ||
                  g_str_equal(mode, "directsync");
    bool through = g_str_equal(mode, "writethrough") || g_str_equal(mode, "directsync");
    json_object_set_new(o, "cache",
                        json_pack("{s:b, s:b, s:b}", "direct", direct, "no-flush",
                                  g_str_equal(mode, "unsafe"), "writeback", !through));
}

static bool set_aio(const struct nbd_args *a, json_t *o, GError **error)
{
    json_t *file = json_object_get(o, "file");
    const char *driver = json_string_value(json_object_get(file, "driver"));
    if (!a->aio) {
        return true;
    }
    const char *aio = a->aio;
    if (g_str_equal(aio, "native")) {
        bool direct =
            json_is_true(json_object_get(json_object_get(o, "cache"), "direct"));
        if (!direct) {
            return error_msg(error, "aio=native was specified, but it requires "
                                    "cache.direct=on, which was not specified.");
        }
        aio = "auto"; /* io_uring does what Linux AIO did, and threads all of it */
    }
    if (driver && g_str_equal(driver, "file")) {
        set_default(file, "aio", aio);
    }
    return true;
}

static json_t *image_options(const struct nbd_args *a, GError **error)
{
    json_t *o, *flat;
    if (a->image_opts) {
        flat = blk_options_parse(a->image, "file.filename", error);
        o = flat ? blk_options_nest(flat, error) : NULL;
        json_decref(flat);
    } else {
        o = blk_options_from_name(a->image, a->format, error);
    }
    if (!o) {
        return NULL;
    }
    if (!json_object_get(o, "read-only")) {
        json_object_set_new(o, "read-only", json_boolean(a->read_only || a->snapshot));
    }
    set_cache(o, a->cache);
    if (!set_aio(a, o, error)) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static struct blk *open_options(const struct nbd_args *a, struct loop *loop, json_t *o,
                                GError **error)
{
    bool read_only = json_is_true(json_object_get(o, "read-only"));
    struct blk_perms perms = {BLK_PERM_READ | (read_only ? 0 : BLK_PERM_WRITE) |
                                  (a->fuse && !read_only ? BLK_PERM_RESIZE : 0),
                              BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = loop,
        .perms = &perms,
        .warn = warn,
        .opaque = (void *)a,
        .secrets = a->secrets,
    };
    return blk_open(&args, o, error);
}

/* -s: a temporary image over the one given, which nobody but us can find. */
static struct blk *open_over(const struct nbd_args *a, struct loop *loop, json_t *below,
                             GError **error)
{
    struct blk *b = open_options(a, loop, below, error);
    if (!b) {
        return NULL;
    }
    uint64_t size = blk_length(b);
    blk_unref(b);

    const char *folder = getenv("TMPDIR");
    g_autofree char *path =
        g_build_filename(folder ? folder : "/var/tmp", "lodge-nbd.XXXXXX", NULL);
    int fd = mkstemp(path);
    if (fd < 0) {
        error_errno(error, errno, "Could not get temporary filename");
        return NULL;
    }
    close(fd);
    struct blk_create_tables tables;
    struct blk_open_args args = {.loop = loop, .warn = warn, .opaque = (void *)a};
    json_t *create = json_pack("{s:I}", "size", (json_int_t)size);
    b = NULL;
    if (blk_create_options("qcow2", path, &tables, error) &&
        blk_create_prepare(&tables, create, error) &&
        blk_create(&args, "qcow2", path, create, error)) {
        json_t *o = json_pack("{s:s, s:{s:s, s:s}, s:O}", "driver", "qcow2", "file",
                              "driver", "file", "filename", path, "backing", below);
        set_cache(o, "unsafe");
        set_default(o, "discard", "unmap");
        set_default(o, "detect-zeroes", a->detect_zeroes);
        b = open_options(a, loop, o, error);
        json_decref(o);
    }
    json_decref(create);
    unlink(path);
    return b;
}

static bool load_snapshot(const struct nbd_args *a, struct blk *b, GError **error)
{
    const char *text = a->load_snapshot, *id = text, *name = text;
    json_t *o = NULL;
    g_autoptr(GArray) list = blk_snapshots(b);
    int at;
    if (g_str_has_prefix(text, "snapshot.")) {
        o = blk_options_parse(text, NULL, NULL);
        id = json_string_value(json_object_get(o, "snapshot.id"));
        name = json_string_value(json_object_get(o, "snapshot.name"));
        at = blk_snapshot_match(list, id, name);
    } else {
        at = blk_snapshot_find(list, text);
    }
    json_decref(o);
    if (at < 0) {
        return error_msg(error, "Can't find snapshot");
    }
    return blk_snapshot_load(b, g_array_index(list, struct blk_snapshot, at).id, error);
}

struct blk *nbd_open_image(const struct nbd_args *a, struct loop *loop)
{
    GError *error = NULL;
    g_autofree char *front = g_strdup_printf("Failed to blk_new_open '%s': ", a->image);
    json_t *o = image_options(a, &error);
    struct blk *b = NULL;
    if (o && a->snapshot) {
        b = open_over(a, loop, o, &error);
    } else if (o) {
        set_default(o, "discard", a->discard);
        set_default(o, "detect-zeroes", a->detect_zeroes);
        b = open_options(a, loop, o, &error);
    }
    json_decref(o);
    if (!b) {
        nbd_report(a, front, error);
        return NULL;
    }
    if (a->offset_negative) {
        nbd_error(
            a, "Parameter 'offset' expects a non-negative number below 2^64\n"
               "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
               "peta-\nand exabytes, respectively.");
        blk_unref(b);
        return NULL;
    }
    if (a->load_snapshot && !load_snapshot(a, b, &error)) {
        nbd_report(a, "Failed to load snapshot: ", error);
        blk_unref(b);
        return NULL;
    }
    return b;
}

/* Formats that QEMU addresses by sectors, and what it took for raw by itself. */
uint32_t nbd_min_block(const struct nbd_args *a, struct blk *b)
{
    static const char *const by_sector[] = {
        "qcow", "qed", "vhdx", "parallels", "luks", "bochs", "cloop", "dmg", NULL};
    const char *driver = blk_get_driver_name(b);
    bool named = a->format || (a->image_opts && strstr(a->image, "driver="));
    json_t *info = blk_info(b, "", NULL);
    bool encrypted = json_is_true(json_object_get(info, "encrypted"));
    json_decref(info);
    return encrypted || g_strv_contains(by_sector, driver) ||
                   (!named && !a->snapshot && g_str_equal(driver, "raw"))
               ? 512
               : 1;
}
