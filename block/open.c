#include "block/blk_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "block/format/raw.h"
#include "block/options.h"
#include "lib/base/base.h"
#include "lib/secret/secret.h"

/*
 * Nodes come and go here: options are split into the common ones and the driver's,
 * children opened before their parent, the format probed if nobody named it, and
 * permissions handed down to the files that lock them.
 */

static const char *const discard_values[] = {"ignore", "off", "unmap", "on", NULL};
static const char *const detect_values[] = {"off", "on", "unmap", NULL};

static const struct blk_option common_options[] = {
    {"driver", BLK_OPT_STR, NULL, "format or protocol"},
    {"node-name", BLK_OPT_STR, NULL, "name of this node"},
    {"read-only", BLK_OPT_BOOL, NULL, "never write (default off)"},
    {"discard", BLK_OPT_ENUM, discard_values,
     "what to do with discards (default ignore)"},
    {"detect-zeroes", BLK_OPT_ENUM, detect_values,
     "look for zeros written (default off)"},
    {"force-share", BLK_OPT_BOOL, NULL, "read without locks (default off)"},
    {"cache", BLK_OPT_NODE, NULL, "direct, no-flush and writeback"},
    {0},
};

static const struct blk_option file_child_options[] = {
    {"file", BLK_OPT_NODE, NULL, "what the image is in"},
    {0},
};

static const struct blk_option cache_options[] = {
    {"direct", BLK_OPT_BOOL, NULL, "go past the host's page cache (O_DIRECT)"},
    {"no-flush", BLK_OPT_BOOL, NULL, "never flush: fast, and lost with the host"},
    {"writeback", BLK_OPT_BOOL, NULL, "writes may stay in a cache until a flush"},
    {0},
};

/* What goes down through the tree while it is opened. */
struct opening {
    const struct blk_open_args *args;
    const struct blk *parent;
    const char *role;
    bool child_read_only; /* without being asked: a backing file */
    struct blk_perms perms;
};

static struct blk *open_node(const struct opening *o, json_t *options, GError **error);

/* ---- drivers and their options
 * ------------------------------------------------------------ */

static const struct blk_format *find_format(const char *name)
{
    for (size_t i = 0; blk_formats[i]; i++) {
        if (g_str_equal(blk_formats[i]->name, name)) {
            return blk_formats[i];
        }
    }
    return NULL;
}

static const struct blk_protocol *find_protocol(const char *name)
{
    for (size_t i = 0; blk_protocols[i]; i++) {
        if (g_str_equal(blk_protocols[i]->name, name)) {
            return blk_protocols[i];
        }
    }
    return NULL;
}

static bool find_driver(struct blk *b, const char *name, GError **error)
{
    b->format = find_format(name);
    b->proto = b->format ? NULL : find_protocol(name);
    if (b->format || b->proto) {
        return true;
    }
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (size_t i = 0; blk_formats[i]; i++) {
        g_ptr_array_add(names, (char *)blk_formats[i]->name);
    }
    for (size_t i = 0; blk_protocols[i]; i++) {
        g_ptr_array_add(names, (char *)blk_protocols[i]->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_name(name, (const char *const *)names->pdata);
    return near
               ? error_msg(error, "Unknown driver '%s'; did you mean '%s'?", name, near)
               : error_msg(error, "Unknown driver '%s'", name);
}

/* The option with the child that is opened first. */
static const char *file_key(const struct blk *b)
{
    return b->proto && b->proto->file_key ? b->proto->file_key : "file";
}

static bool has_file_child(const struct blk *b)
{
    return b->format || b->proto->filter;
}

static bool check_options(struct blk *b, json_t *opts, GError **error)
{
    const struct blk_option *own = b->format ? b->format->options : b->proto->options;
    const struct blk_option *tables[4] = {common_options};
    unsigned n = 1;
    if (own) {
        tables[n++] = own;
    }
    const struct blk_option own_file[] = {
        {file_key(b), BLK_OPT_NODE, NULL, "what the filter stands in front of"}, {0}};
    if (has_file_child(b)) {
        tables[n++] = b->format ? file_child_options : own_file;
    }
    g_autofree char *who =
        g_strdup_printf(b->format ? "Block format '%s' does not support the option"
                                  : "Block protocol '%s' doesn't support the option",
                        blk_get_driver_name(b));
    return blk_options_check(opts, tables, who, error);
}

static bool check_cache(json_t *opts, GError **error)
{
    json_t *cache = json_object_get(opts, "cache");
    const struct blk_option *const tables[] = {cache_options, NULL};
    if (cache && !json_is_object(cache)) {
        return error_msg(error,
                         "'cache' is an object with direct, no-flush and writeback");
    }
    return !cache ||
           blk_options_check(cache, tables, "'cache' does not have the option", error);
}

GBytes *blk_secret(struct blk *b, const char *id, GError **error)
{
    return secrets_get(b->core->secrets, id, error);
}

const struct secrets *blk_secrets(const struct blk *b)
{
    return b->core->secrets;
}

bool blk_opt_bool(json_t *opts, const char *name, bool def)
{
    json_t *v = json_object_get(opts, name);
    return v ? json_is_true(v) : def;
}

uint64_t blk_opt_u64(json_t *opts, const char *name, uint64_t def)
{
    json_t *v = json_object_get(opts, name);
    return v ? (uint64_t)json_integer_value(v) : def;
}

const char *blk_opt_str(json_t *opts, const char *name, const char *def)
{
    json_t *v = json_object_get(opts, name);
    return v ? json_string_value(v) : def;
}

/* Common options of @b, with the parent's where they are inherited. */
static bool apply_common(struct blk *b, const struct opening *o, json_t *opts,
                         GError **error)
{
    const struct blk *up = o->parent;
    struct blk_core *c = b->core;
    json_t *cache = json_object_get(opts, "cache");

    bool must_read_only = o->child_read_only || (up && up->read_only);
    b->read_only = must_read_only || blk_opt_bool(opts, "read-only", false);
    if (up && !o->child_read_only && b->read_only && !up->read_only) {
        return error_msg(error,
                         "'read-only' is on, but the node above is to be written");
    }
    b->direct = blk_opt_bool(cache, "direct", up && up->direct);
    b->no_flush = blk_opt_bool(cache, "no-flush", up && up->no_flush);
    atomic_store(&c->write_cache, blk_opt_bool(cache, "writeback", true));

    /* The top node decides; below it, what arrives is wanted. */
    const char *discard = blk_opt_str(opts, "discard", up ? "unmap" : "ignore");
    c->discard = g_str_equal(discard, "unmap") || g_str_equal(discard, "on");
    const char *detect = blk_opt_str(opts, "detect-zeroes", "off");
    c->detect = g_str_equal(detect, "off")  ? BLK_DETECT_OFF
                : g_str_equal(detect, "on") ? BLK_DETECT_ON
                                            : BLK_DETECT_UNMAP;
    if (c->detect == BLK_DETECT_UNMAP && !c->discard) {
        return error_msg(error, "detect-zeroes=unmap needs discard=unmap");
    }
    c->force_share = blk_opt_bool(opts, "force-share", up && up->core->force_share);
    if (c->force_share && !b->read_only) {
        return error_msg(error,
                         "force-share=on can only be used with read-only images");
    }
    const char *name = blk_opt_str(opts, "node-name", NULL);
    b->node_name = name ? g_strdup(name)
                   : up ? g_strdup_printf("%s.%s", up->node_name, o->role)
                        : NULL;
    return true;
}

/* ---- permissions
 * ---------------------------------------------------------------------------- */

/* What @b needs of its child @role when its own users have @perms. */
static struct blk_perms child_perms(const struct blk *b, const char *role,
                                    const struct blk_perms *perms)
{
    if (g_str_equal(role, "backing")) {
        return (struct blk_perms){BLK_PERM_READ,
                                  BLK_PERM_READ | BLK_PERM_WRITE_UNCHANGED};
    }
    if (b->proto || b->format->passes_perms) {
        return *perms;
    }
    /* Tables and refcounts: nobody else may change a byte, and we may grow the file. */
    return (struct blk_perms){
        .used = BLK_PERM_READ | (b->read_only ? 0 : BLK_PERM_WRITE | BLK_PERM_RESIZE),
        .shared = BLK_PERM_READ | BLK_PERM_WRITE_UNCHANGED,
    };
}

static bool set_perms_one(struct blk *b, const struct blk_perms *perms, GError **error)
{
    struct blk_perms want = *perms;
    if (b->core->force_share) {
        want = (struct blk_perms){0, BLK_PERM_ALL};
    }
    if ((want.used & BLK_PERM_WRITE) && !(want.used & BLK_PERM_RESIZE) && b->proto &&
        b->limits.request_align && blk_length(b) % b->limits.request_align) {
        return error_msg(error,
                         "the size of '%s' is not a multiple of %" PRIu32
                         ", which O_DIRECT needs to write it",
                         blk_get_filename(b), b->limits.request_align);
    }
    if (b->proto && b->proto->set_perms && !b->proto->set_perms(b, &want, error)) {
        return false;
    }
    b->core->perms = *perms;
    return true;
}

bool blk_set_perms(struct blk *b, const struct blk_perms *perms, GError **error)
{
    struct blk_perms old = b->core->perms;
    if ((perms->used & BLK_PERM_WRITE) && b->read_only) {
        return error_msg(error, "'%s' is read-only", blk_get_filename(b));
    }
    if (!set_perms_one(b, perms, error)) {
        return false;
    }
    for (unsigned i = 0; i < b->core->children->len; i++) {
        struct blk_child *c = &g_array_index(b->core->children, struct blk_child, i);
        struct blk_perms down = child_perms(b, c->role, perms);
        if (blk_set_perms(c->blk, &down, error)) {
            continue;
        }
        while (i-- > 0) {
            c = &g_array_index(b->core->children, struct blk_child, i);
            down = child_perms(b, c->role, &old);
            blk_set_perms(c->blk, &down, NULL);
        }
        set_perms_one(b, &old, NULL);
        return false;
    }
    return true;
}

/* ---- children
 * ---------------------------------------------------------------------------------- */

static void add_child(struct blk *b, const char *role, struct blk *child)
{
    struct blk_child c = {g_strdup(role), child};
    g_array_append_val(b->core->children, c);
    if (g_str_equal(role, "file")) {
        b->file = child;
    } else if (g_str_equal(role, "backing")) {
        b->backing = child;
    }
    if (!b->filename && g_str_equal(role, "file") && child->filename) {
        b->filename = g_strdup(child->filename);
    }
}

static struct blk *find_named(const struct blk_open_args *args, const char *name,
                              const struct blk *parent, bool read_only, GError **error)
{
    struct blk *b = args->find_node ? args->find_node(args->opaque, name) : NULL;
    if (!b) {
        error_msg(error, "Cannot find device='%s' nor node-name='%s'", name, name);
        return NULL;
    }
    if (b->loop != parent->loop) {
        error_msg(error, "Node '%s' belongs to another I/O thread", name);
        return NULL;
    }
    if (b->read_only && !parent->read_only && !read_only) {
        error_msg(error, "Node '%s' is read-only, but the node above is to be written",
                  name);
        return NULL;
    }
    return blk_ref(b);
}

/* What a format keeps its image in is never probed: without a driver the file name says
 * which protocol it is. A new object. */
static json_t *as_protocol(json_t *options, GError **error)
{
    json_t *o = blk_options_nest(options, error);
    const char *name = json_string_value(json_object_get(o, "filename"));
    json_t *named = o && name ? blk_options_from_name(name, NULL, error) : NULL;
    if (o && name && !named) {
        json_decref(o);
        return NULL;
    }
    json_t *file = json_object_get(named, "file");
    if (file) {
        if (!json_object_get(file, "filename")) {
            json_object_del(o, "filename"); /* it said what its protocol now has */
        }
        json_object_update(o, file);
    } else if (o && !json_object_get(o, "file")) {
        json_object_set_new(o, "driver", json_string("file"));
    }
    json_decref(named);
    return o;
}

static struct blk *open_child(struct blk *b, const struct opening *up, const char *role,
                              json_t *options, bool read_only, GError **error)
{
    struct blk_perms perms = child_perms(b, role, &up->perms);
    struct blk *child;
    if (json_is_string(options)) {
        child = find_named(up->args, json_string_value(options), b, read_only, error);
        if (child && !blk_set_perms(child, &perms, error)) {
            blk_unref(g_steal_pointer(&child));
        }
    } else {
        struct opening o = {up->args, b, role, read_only, perms};
        bool below = b->format ? !g_str_equal(role, "backing")
                     : g_str_equal(role, "file")
                         ? b->core->below_format || b->proto->file_key
                         : false;
        bool plain = below && json_is_object(options) &&
                     !json_object_get(options, "driver") &&
                     !json_object_get(options, "file");
        json_t *opts = plain ? as_protocol(options, error) : json_incref(options);
        child = opts ? open_node(&o, opts, error) : NULL;
        json_decref(opts);
    }
    if (child) {
        add_child(b, role, child);
    }
    return child;
}

struct blk *blk_open_child(struct blk *b, const char *role, json_t *options,
                           bool read_only, GError **error)
{
    struct opening o = {.args = b->core->args, .perms = b->core->perms};
    return open_child(b, &o, role, options, read_only, error);
}

bool blk_wants_discards(const struct blk *b)
{
    return b->core->discard;
}

unsigned blk_open_flags(const struct blk *b)
{
    return b->core->flags;
}

void blk_warn(struct blk *b, const char *fmt, ...)
{
    if (!b->core->warn) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_autofree char *text = g_strdup_printf("%s: %s", blk_get_driver_name(b), what);
    b->core->warn(b->core->warn_opaque, text);
}

/* ---- nodes
 * --------------------------------------------------------------------------------------
 */

static struct blk *node_new(struct loop *l)
{
    struct blk *b = g_new0(struct blk, 1);
    struct blk_core *c = g_new0(struct blk_core, 1);
    b->loop = l;
    b->core = c;
    b->limits.request_align = 1;
    b->limits.mem_align = 1;
    c->refs = 1;
    c->children = g_array_new(FALSE, TRUE, sizeof(struct blk_child));
    pthread_mutex_init(&c->meta, NULL);
    c->chunks = blk_chunks_new(BLK_CHUNKS_BYTES);
    blk_ranges_init(&c->ranges);
    c->done_last = &c->done_first;
    loop_bh_init(&c->done_bh, l, blk_done_bh, b);
    return b;
}

static void node_free(struct blk *b)
{
    struct blk_core *c = b->core;
    blk_drain(b);
    if (atomic_load(&c->begun) && b->format->writable->finish) {
        blk_meta_lock(b);
        b->format->writable->finish(b);
        blk_meta_unlock(b);
    }
    void (*close)(struct blk *) = b->format  ? b->format->close
                                  : b->proto ? b->proto->close
                                             : NULL;
    if (c->opened && close) {
        close(b);
    }
    loop_bh_cancel(&c->done_bh);
    for (unsigned i = 0; i < c->children->len; i++) {
        struct blk_child *child = &g_array_index(c->children, struct blk_child, i);
        g_free(child->role);
        blk_unref(child->blk);
    }
    g_array_free(c->children, TRUE);
    blk_core_free_jobs(b);
    blk_ranges_done(&c->ranges);
    pthread_mutex_destroy(&c->meta);
    blk_chunks_free(c->chunks);
    g_free(c->probed_head);
    g_free(c);
    g_free(b->node_name);
    g_free(b->filename);
    g_free(b);
}

struct blk *blk_ref(struct blk *b)
{
    b->core->refs++;
    return b;
}

void blk_unref(struct blk *b)
{
    if (b && --b->core->refs == 0) {
        node_free(b);
    }
}

/* The format nobody named, from the first bytes of b->file. */
static bool probe_format(struct blk *b, const struct blk_open_args *args,
                         GError **error)
{
    uint8_t head[BLK_PROBE_BYTES] = {0};
    size_t len = MIN((uint64_t)BLK_PROBE_BYTES, blk_length(b->file));
    int r = blk_pread(b->file, 0, head, len);
    if (r < 0) {
        return error_errno(error, -r, "cannot read '%s' to find its format",
                           b->filename);
    }
    b->format = blk_probe(head, len, b->filename);
    if (b->format != &raw_format) {
        return true;
    }
    const char *foreign = blk_foreign_format(head, len);
    if (foreign) {
        return error_msg(error,
                         "'%s' is a %s image, a format that is not supported; give "
                         "format=raw if the guest shall see the file as it is",
                         b->filename, foreign);
    }
    if (!b->read_only) {
        b->core->probed_head = g_memdup2(head, BLK_PROBE_BYTES);
        b->core->probed_len = len;
        if (args->warn) {
            g_autofree char *text = g_strdup_printf(
                "Image format was not specified for '%s' and probing guessed raw.\n"
                "         Automatically detecting the format is dangerous for raw "
                "images, write operations on block 0 will be restricted.\n"
                "         Specify the 'raw' format explicitly to remove the "
                "restrictions.",
                b->filename);
            args->warn(args->opaque, text);
        }
    }
    return true;
}

static bool needs_ranges(const struct blk *b)
{
    if (b->proto) {
        return b->limits.request_align > 1;
    }
    const struct blk_write_ops *w = b->format->writable;
    return b->limits.alloc_unit > 1 || (w && (w->reserve || w->unmap || w->zero));
}

static bool open_driver(struct blk *b, json_t *opts, GError **error)
{
    b->core->opened = true; /* close accepts what open leaves half done */
    bool ok =
        b->format ? b->format->open(b, opts, error) : b->proto->open(b, opts, error);
    if (!ok) {
        return false;
    }
    if (b->content_len > INT64_MAX) {
        return error_msg(error, "'%s' claims to be %" PRIu64 " bytes long", b->filename,
                         (uint64_t)b->content_len);
    }
    b->core->ranged = needs_ranges(b);
    if (b->format && !b->format->writable && !b->read_only) {
        return error_msg(error, "Image is read-only");
    }
    return true;
}

/* Keys of the file that were given to a node without a driver belong to its file. */
static void wrap_filename(json_t *opts)
{
    static const char *const keys[] = {"filename", "fd", "aio", "locking"};
    if (json_object_get(opts, "file") ||
        (!json_object_get(opts, "filename") && !json_object_get(opts, "fd"))) {
        return;
    }
    json_t *file = json_object();
    json_object_set_new(file, "driver", json_string("file"));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        json_t *v = json_object_get(opts, keys[i]);
        if (v) {
            json_object_set(file, keys[i], v);
            json_object_del(opts, keys[i]);
        }
    }
    json_object_set_new(opts, "file", file);
}

/* A filter may be named over the name of what it stands in front of. */
static void wrap_filter_name(const struct blk *b, json_t *opts)
{
    json_t *name = json_object_get(opts, "filename");
    const char *key = b->proto ? b->proto->name_key : NULL;
    if (key && name && !json_object_get(opts, key)) {
        json_object_set_new(opts, key, json_pack("{s:O}", "filename", name));
        json_object_del(opts, "filename");
    }
}

static bool build_node(struct blk *b, const struct opening *o, json_t *opts,
                       GError **error)
{
    const char *driver = NULL;
    json_t *name = json_object_get(opts, "driver");
    if (name && !(driver = json_string_value(name))) {
        return error_msg(error, "'driver' must be a string");
    }
    bool probing = !driver;
    if (probing) {
        wrap_filename(opts);
        driver = "raw"; /* for the options until we know */
    }
    /* Only the common options are judged until the format is known. */
    const struct blk_option *const common[] = {common_options, NULL};
    if (!find_driver(b, driver, error)) {
        return false;
    }
    wrap_filter_name(b, opts);
    if (!(probing ? blk_options_check(opts, common, NULL, error)
                  : check_options(b, opts, error)) ||
        !check_cache(opts, error) || !apply_common(b, o, opts, error)) {
        return false;
    }
    if (!b->node_name) {
        b->node_name = g_strdup(probing ? "disk" : driver);
    }
    b->core->args = o->args;
    b->core->opener = o->parent;
    b->core->below_format =
        o->parent && (o->parent->format ? !g_str_equal(o->role, "backing")
                                        : o->parent->core->below_format);
    b->core->flags = o->parent ? 0 : o->args->flags;
    b->core->warn = o->args->warn;
    b->core->warn_opaque = o->args->opaque;
    b->core->secrets = o->args->secrets;
    b->core->perms = o->perms;
    if (has_file_child(b)) {
        json_t *file = json_object_get(opts, file_key(b));
        if (!file) {
            return error_msg(error, "A block device must be specified for \"%s\"",
                             file_key(b));
        }
        if (!open_child(b, o, "file", file, false, error)) {
            return false;
        }
    }
    if (probing &&
        (!probe_format(b, o->args, error) || !check_options(b, opts, error))) {
        return false;
    }
    return open_driver(b, opts, error) && blk_set_perms(b, &o->perms, error);
}

static struct blk *open_node(const struct opening *o, json_t *options, GError **error)
{
    if (!json_is_object(options)) {
        error_msg(error, "'%s' must be an object or the name of a node",
                  o->role ? o->role : "options");
        return NULL;
    }
    struct blk *b = node_new(o->args->loop);
    json_t *opts = blk_options_nest(options, error);
    bool ok = opts && build_node(b, o, opts, error);
    json_decref(opts);
    b->core->args = NULL;
    b->core->opener = NULL;
    if (!ok) {
        blk_unref(b);
        return NULL;
    }
    return b;
}

struct blk *blk_open(const struct blk_open_args *args, json_t *options, GError **error)
{
    bool read_only = false;
    json_t *ro = json_is_object(options) ? json_object_get(options, "read-only") : NULL;
    if (ro) {
        const char *text = json_string_value(ro);
        read_only = json_is_true(ro) ||
                    (text && (g_str_equal(text, "on") || g_str_equal(text, "true") ||
                              g_str_equal(text, "yes")));
    }
    struct opening o = {
        .args = args,
        .perms = args->perms ? *args->perms : blk_perms_guest(read_only, false),
    };
    return open_node(&o, options, error);
}

static struct blk *open_simple(const struct blk_open_args *args, json_t *file,
                               const char *format, bool read_only, GError **error)
{
    json_t *opts = json_object();
    json_object_set_new(file, "driver", json_string("file"));
    json_object_set_new(opts, "file", file);
    json_object_set_new(opts, "read-only", json_boolean(read_only));
    if (format) {
        json_object_set_new(opts, "driver", json_string(format));
    }
    struct blk *b = blk_open(args, opts, error);
    json_decref(opts);
    return b;
}

struct blk *blk_open_path(const struct blk_open_args *args, const char *path,
                          const char *format, bool read_only, GError **error)
{
    json_t *file = json_object();
    /* Unchecked: a file name is bytes, not text. */
    json_object_set_new(file, "filename", json_string_nocheck(path));
    return open_simple(args, file, format, read_only, error);
}

struct blk *blk_open_fd(const struct blk_open_args *args, int fd, const char *format,
                        bool read_only, GError **error)
{
    json_t *file = json_object();
    json_object_set_new(file, "fd", json_integer(fd));
    return open_simple(args, file, format, read_only, error);
}
