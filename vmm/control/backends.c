#include "vmm/control/backends.h"

#include <stdio.h>
#include <string.h>

#include "block/blk.h"
#include "block/options.h"
#include "lib/base/base.h"
#include "vmm/chardev/chardev.h"

/* An image: from -drive or -blockdev. */
struct image {
    const char *where; /* the config's */
    char *id;          /* drive id or node name */
    bool is_node;      /* from -blockdev: a child of others, or a drive */
    json_t *tree;      /* for blk_open() */
    struct blk *blk;
    bool used; /* given to a device */
};

struct serial_dev {
    const char *where;
    json_t *options; /* the config's */
    char *id;
    struct chardev *cd;
};

struct backends {
    const struct vmm_config *config;
    const struct secrets *secrets;
    GPtrArray *images;   /* struct image *, in the order they are opened */
    GPtrArray *chardevs; /* struct serial_dev * */
    char *serial_ids[BOARD_SERIALS];
    struct chardev *serials[BOARD_SERIALS];
};

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

static struct image *find_image(const struct backends *b, const char *id)
{
    for (guint i = 0; i < b->images->len; i++) {
        struct image *im = b->images->pdata[i];

        if (strcmp(im->id, id) == 0)
            return im;
    }
    return NULL;
}

static struct serial_dev *find_chardev(const struct backends *b, const char *id)
{
    for (guint i = 0; i < b->chardevs->len; i++) {
        struct serial_dev *s = b->chardevs->pdata[i];

        if (strcmp(s->id, id) == 0)
            return s;
    }
    return NULL;
}

static void image_free(gpointer p)
{
    struct image *im = p;

    blk_unref(im->blk);
    json_decref(im->tree);
    g_free(im->id);
    g_free(im);
}

static void serial_dev_free(gpointer p)
{
    struct serial_dev *s = p;

    chardev_free(s->cd);
    g_free(s->id);
    g_free(s);
}

/* ---- checking ---- */

static bool add_image(struct backends *b, struct image *im, GError **error)
{
    bool taken = find_image(b, im->id);

    g_ptr_array_add(b->images, im);
    return !taken || error_msg(error, "there is already a drive '%s'", im->id);
}

static bool check_drive_keys(const json_t *left, GError **error)
{
    static const char *const known[] = {"id",   "if",     "index",  "media",  "bus",
                                        "unit", "serial", "werror", "rerror", NULL};
    /* What belongs to the image and was already taken: for suggestions. */
    static const char *const names[] = {"id",
                                        "if",
                                        "index",
                                        "media",
                                        "bus",
                                        "unit",
                                        "serial",
                                        "werror",
                                        "file",
                                        "format",
                                        "cache",
                                        "discard",
                                        "detect-zeroes",
                                        "readonly",
                                        "aio",
                                        "locking",
                                        "snapshot",
                                        NULL};
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)left, name, value)
    {
        const char *near = nearest_name(name, names);

        if (g_strv_contains(known, name))
            continue;
        return error_msg(error, "unknown parameter '%s'%s%s%s", name,
                         near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    }
    if (g_strcmp0(get(left, "media") ?: "disk", "disk") != 0)
        return error_msg(error, "only media=disk is available");
    return true;
}

/* A drive without if=none gets the board's disk device. */
static bool add_drive_device(const struct board_type *board, struct vmm_config *c,
                             const char *where, const char *id, const json_t *left,
                             GError **error)
{
    const char *bus = get(left, "if") ?: "virtio", *serial = get(left, "serial");
    struct vmm_item *item;

    if (strcmp(bus, "none") == 0) {
        if (serial)
            return error_msg(error, "'serial' belongs to the -device of if=none");
        return true;
    }
    if (strcmp(bus, "virtio") != 0)
        return error_msg(error, "if=%s: machine '%s' has only virtio and none", bus,
                         board->name);
    item = g_new0(struct vmm_item, 1);
    item->where = g_strdup(where);
    item->options = json_pack("{s:s, s:s}", "driver", board->disk_device, "drive", id);
    if (serial)
        json_object_set_new(item->options, "serial", json_string(serial));
    g_ptr_array_add(c->devices, item);
    return true;
}

static bool check_drive(struct backends *b, struct vmm_config *c,
                        const struct board_type *board, unsigned number,
                        const struct vmm_item *item, GError **error)
{
    json_t *left = json_copy(item->options);
    json_t *tree = blk_options_from_drive(left, error);
    struct image *im;
    bool ok = false;

    if (!tree)
        goto out;
    im = g_new0(struct image, 1);
    im->where = item->where;
    im->tree = tree;
    im->id = get(left, "id") ? g_strdup(get(left, "id"))
                             : g_strdup_printf("drive%u", number);
    ok = add_image(b, im, error) && check_drive_keys(left, error) &&
         add_drive_device(board, c, item->where, im->id, left, error);
out:
    json_decref(left);
    return ok;
}

static bool check_blockdev(struct backends *b, const struct vmm_item *item,
                           GError **error)
{
    struct image *im = g_new0(struct image, 1);

    im->where = item->where;
    im->is_node = true;
    im->tree = json_incref(item->options);
    im->id = g_strdup(get(item->options, "node-name"));
    return add_image(b, im, error);
}

static bool check_chardev(struct backends *b, const struct vmm_item *item,
                          GError **error)
{
    struct serial_dev *s;
    const char *id = get(item->options, "id");

    if (!chardev_check(item->options, error))
        return false;
    if (find_chardev(b, id))
        return error_msg(error, "there is already a chardev '%s'", id);
    if (g_strcmp0(get(item->options, "backend"), "stdio") == 0) {
        for (guint i = 0; i < b->chardevs->len; i++) {
            const struct serial_dev *other = b->chardevs->pdata[i];

            if (strcmp(get(other->options, "backend"), "stdio") == 0)
                return error_msg(error, "stdio is already chardev '%s'", other->id);
        }
    }
    s = g_new0(struct serial_dev, 1);
    s->where = item->where;
    s->options = item->options;
    s->id = g_strdup(id);
    g_ptr_array_add(b->chardevs, s);
    return true;
}

static bool check_serial(struct backends *b, unsigned n, const struct vmm_item *item,
                         GError **error)
{
    const char *ref = get(item->options, "chardev");

    if (n >= BOARD_SERIALS)
        return error_msg(error, "there are only %d serial ports", BOARD_SERIALS);
    if (g_strcmp0(get(item->options, "backend"), "none") == 0)
        return true;
    if (ref && !find_chardev(b, ref))
        return error_msg(error, "there is no chardev '%s'", ref);
    if (!ref && !check_chardev(b, item, error))
        return false;
    b->serial_ids[n] = g_strdup(ref ?: get(item->options, "id"));
    return true;
}

static bool prefix(bool ok, const char *where, GError **error)
{
    if (!ok)
        g_prefix_error(error, "%s: ", where);
    return ok;
}

/* -nographic, and nothing said about serial ports: the first is this terminal. */
static void add_default_serial(struct vmm_config *c)
{
    struct vmm_item *item;

    if (c->serials->len > 0 || c->nodefaults || !c->nographic)
        return;
    item = g_new0(struct vmm_item, 1);
    item->where = g_strdup("-nographic");
    item->options = json_pack("{s:s, s:s, s:s, s:s}", "backend", "stdio", "id",
                              "serial0", "signal", "off", "leave", "ctrl-a");
    g_ptr_array_add(c->serials, item);
}

struct backends *backends_new(struct vmm_config *c, const struct board_type *board,
                              GError **error)
{
    struct backends *b = g_new0(struct backends, 1);
    bool ok = true;

    b->config = c;
    b->images = g_ptr_array_new_with_free_func(image_free);
    b->chardevs = g_ptr_array_new_with_free_func(serial_dev_free);
    add_default_serial(c);
    for (guint i = 0; ok && i < c->blockdevs->len; i++) {
        const struct vmm_item *item = c->blockdevs->pdata[i];

        ok = prefix(check_blockdev(b, item, error), item->where, error);
    }
    for (guint i = 0; ok && i < c->drives->len; i++) {
        const struct vmm_item *item = c->drives->pdata[i];

        ok = prefix(check_drive(b, c, board, i, item, error), item->where, error);
    }
    for (guint i = 0; ok && i < c->chardevs->len; i++) {
        const struct vmm_item *item = c->chardevs->pdata[i];

        ok = prefix(check_chardev(b, item, error), item->where, error);
    }
    for (guint i = 0; ok && i < c->serials->len; i++) {
        const struct vmm_item *item = c->serials->pdata[i];

        ok = prefix(check_serial(b, i, item, error), item->where, error);
    }
    if (ok)
        return b;
    backends_free(b);
    return NULL;
}

void backends_free(struct backends *b)
{
    if (!b)
        return;
    g_ptr_array_unref(b->chardevs);
    /* Formats before what they stand on. */
    while (b->images->len > 0)
        g_ptr_array_remove_index(b->images, b->images->len - 1);
    g_ptr_array_unref(b->images);
    for (unsigned i = 0; i < BOARD_SERIALS; i++)
        g_free(b->serial_ids[i]);
    g_free(b);
}

/* ---- for devices ---- */

static void *missing(const char *what, const char *id, GError **error)
{
    error_msg(error, "there is no %s '%s'", what, id);
    return NULL;
}

static void *check_chardev_id(void *opaque, const char *id, GError **error)
{
    return find_chardev(opaque, id) ?: missing("chardev", id, error);
}

static void *check_drive_id(void *opaque, const char *id, GError **error)
{
    return find_image(opaque, id) ?: missing("drive", id, error);
}

struct device_resolver backends_checker(struct backends *b)
{
    return (struct device_resolver){b, check_chardev_id, check_drive_id};
}

static void *resolve_chardev(void *opaque, const char *id, GError **error)
{
    struct serial_dev *s = find_chardev(opaque, id);

    return s ? s->cd : missing("chardev", id, error);
}

static void *resolve_drive(void *opaque, const char *id, GError **error)
{
    struct image *im = find_image(opaque, id);
    struct blk_perms perms;

    if (!im)
        return missing("drive", id, error);
    if (im->used) {
        error_msg(error, "drive '%s' is already used by another device", id);
        return NULL;
    }
    /* A -blockdev node was opened for nobody; now it has a user. */
    perms = blk_perms_guest(blk_read_only(im->blk), false);
    if (im->is_node && !blk_set_perms(im->blk, &perms, error))
        return NULL;
    im->used = true;
    return im->blk;
}

struct device_resolver backends_resolver(struct backends *b)
{
    return (struct device_resolver){b, resolve_chardev, resolve_drive};
}

/* ---- opening ---- */

static struct blk *find_node(void *opaque, const char *node_name)
{
    struct image *im = find_image(opaque, node_name);

    return im && im->is_node ? im->blk : NULL;
}

static void warn(void *opaque, const char *message)
{
    fprintf(stderr, "lodge-vmm: warning: %s\n", message);
}

static bool open_image(struct backends *b, struct image *im, struct loop *loop,
                       GError **error)
{
    static const struct blk_perms nobody = {.used = 0, .shared = BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = loop,
        .perms = im->is_node ? &nobody : NULL,
        .find_node = find_node,
        .warn = warn,
        .opaque = b,
        .secrets = b->secrets,
    };

    im->blk = blk_open(&args, im->tree, error);
    return im->blk;
}

static bool open_chardev(struct serial_dev *s, struct loop *loop, GError **error)
{
    g_autofree char *what = NULL;

    s->cd = chardev_new(loop, s->options, error);
    if (!s->cd)
        return false;
    what = chardev_describe(s->cd);
    if (g_str_has_prefix(what, "pty:"))
        fprintf(stderr, "char device redirected to %s (label %s)\n",
                what + strlen("pty:"), s->id);
    return true;
}

bool backends_open(struct backends *b, struct loop *loop, const struct secrets *secrets,
                   GError **error)
{
    b->secrets = secrets;
    for (guint i = 0; i < b->images->len; i++) {
        struct image *im = b->images->pdata[i];

        if (!prefix(open_image(b, im, loop, error), im->where, error))
            return false;
    }
    for (guint i = 0; i < b->chardevs->len; i++) {
        struct serial_dev *s = b->chardevs->pdata[i];

        if (!prefix(open_chardev(s, loop, error), s->where, error))
            return false;
    }
    for (unsigned i = 0; i < BOARD_SERIALS; i++) {
        if (b->serial_ids[i])
            b->serials[i] = find_chardev(b, b->serial_ids[i])->cd;
    }
    return true;
}

struct chardev *const *backends_serials(const struct backends *b)
{
    return b->serials;
}

void backends_set_leave(struct backends *b, void (*fn)(void *opaque), void *opaque)
{
    for (guint i = 0; i < b->chardevs->len; i++) {
        struct serial_dev *s = b->chardevs->pdata[i];

        chardev_set_leave(s->cd, fn, opaque);
    }
}
