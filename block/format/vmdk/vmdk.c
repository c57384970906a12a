#include "block/format/vmdk/vmdk.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/format/vmdk/vmdk_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Opening: the descriptor, its extents, the parent. */

static int vmdk_probe(const uint8_t *head, size_t len, const char *filename)
{
    if (len >= 4 &&
        (be32_get(head) == VMDK_MAGIC_KDMV || be32_get(head) == VMDK_MAGIC_COWD)) {
        return 100;
    }
    return vmdk_is_text(head, len) ? 100 : 0;
}

static struct vmdk_extent *add_extent(struct vmdk *v)
{
    if (v->nb_extents % 16 == 0) {
        v->extents = g_renew(struct vmdk_extent, v->extents, v->nb_extents + 16);
    }
    struct vmdk_extent *e = &v->extents[v->nb_extents++];
    *e = (struct vmdk_extent){0};
    return e;
}

/* ---- the files of a descriptor ------------------------------------------------------
 */

/* What the user gave for extents.N, or the file that the line names. */
static struct blk *open_file(struct blk *b, json_t *opts, unsigned n,
                             const struct vmdk_line *line, GError **error)
{
    const struct vmdk *v = b->priv;
    g_autofree char *role = g_strdup_printf("extents.%u", n);
    json_t *given = json_object_get(json_object_get(opts, "extents"), role + 8);
    if (given) {
        return blk_open_child(b, role, given, false, error);
    }
    g_autofree char *path = vmdk_extent_path(b, line->name, v->anywhere, error);
    json_t *o = path ? blk_options_from_name(path, NULL, error) : NULL;
    json_t *file = o ? json_incref(json_object_get(o, "file")) : NULL;
    json_decref(o);
    struct blk *child = file ? blk_open_child(b, role, file, false, error) : NULL;
    json_decref(file);
    return child;
}

static bool open_extent(struct blk *b, json_t *opts, const struct vmdk_line *line,
                        GError **error)
{
    struct vmdk *v = b->priv;
    unsigned n = v->nb_extents;
    uint64_t text_at, text_bytes;
    if (n == VMDK_EXTENTS_MAX) {
        return error_msg(error, "more than %d extents", VMDK_EXTENTS_MAX);
    }
    struct blk *file = line->name ? open_file(b, opts, n, line, error) : NULL;
    if (line->name && !file) {
        return false;
    }
    struct vmdk_extent *e = add_extent(v);
    memcpy(e->type, line->type, sizeof(e->type));
    e->file = file;
    e->read_only = line->read_only;
    if (!file) {
        e->kind = VMDK_ZERO;
        e->len = line->sectors * VMDK_SECTOR;
        return true;
    }
    if (g_str_equal(line->type, "FLAT") || g_str_equal(line->type, "VMFS")) {
        e->kind = VMDK_FLAT;
        e->len = line->sectors * VMDK_SECTOR;
        e->flat_offset = line->flat_sector * VMDK_SECTOR;
        return true;
    }
    if (!vmdk_open_sparse(b, e, &text_at, &text_bytes, error)) {
        g_prefix_error(error, "extent '%s': ", line->name);
        return false;
    }
    return e->pages ||
           error_msg(error, "extent '%s': has no grains of its own", line->name);
}

static bool open_lines(struct blk *b, json_t *opts, const char *text, GError **error)
{
    for (const char *p = text; p; p = strchr(p, '\n')) {
        struct vmdk_line line;
        bool skip;
        p += *p == '\n';
        if (!vmdk_parse_line(p, &line, &skip, error)) {
            return false;
        }
        bool ok = skip || open_extent(b, opts, &line, error);
        g_free(line.name);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* A text alone: all extents are other files. */
static bool open_text(struct blk *b, json_t *opts, const char *text, GError **error)
{
    static const char *const types[] = {
        "monolithicFlat",     "vmfs", "vmfsSparse", "seSparse", "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat", NULL,
    };
    struct vmdk *v = b->priv;
    v->create_type = vmdk_text_value(text, "createType");
    if (!v->create_type) {
        return error_msg(error, "invalid VMDK image descriptor");
    }
    if (!g_strv_contains(types, v->create_type)) {
        return error_msg(error, "Unsupported image type '%s'", v->create_type);
    }
    if (!open_lines(b, opts, text, error)) {
        return false;
    }
    return v->nb_extents ||
           error_msg(error, "invalid VMDK image descriptor: it has no extents");
}

/* ---- the parent ---------------------------------------------------------------------
 */

static bool read_identity(struct blk *b, const char *text, GError **error)
{
    struct vmdk *v = b->priv;
    v->backing_name = vmdk_text_value(text, "parentFileNameHint");
    if (v->backing_name && strlen(v->backing_name) > 1023) {
        return error_msg(error, "the name of the backing file is too long");
    }
    if (v->backing_name && !*v->backing_name) {
        g_clear_pointer(&v->backing_name, g_free);
    }
    v->parent_cid = VMDK_NO_PARENT;
    vmdk_text_cid(text, "CID", &v->cid);
    vmdk_text_cid(text, "parentCID", &v->parent_cid);
    return true;
}

/* ---- opening ------------------------------------------------------------------------
 */

/* Extents follow each other; grains must not share what requests are kept apart by. */
static bool lay_out(struct blk *b, GError **error)
{
    struct vmdk *v = b->priv;
    uint64_t at = 0, unit = 0;
    for (unsigned i = 0; i < v->nb_extents; i++) {
        struct vmdk_extent *e = &v->extents[i];
        e->start = at;
        if (!ck_add(at, e->len, &at) || at > INT64_MAX) {
            return error_msg(error, "the extents are longer than %" PRId64 " bytes",
                             INT64_MAX);
        }
        unit = MAX(unit, e->grain);
    }
    for (unsigned i = 0; i < v->nb_extents && !b->read_only; i++) {
        const struct vmdk_extent *e = &v->extents[i];
        if (e->grain && (e->start % e->grain || unit % e->grain)) {
            return error_msg(error,
                             "extent %u begins within a grain of %" PRIu64
                             " bytes; such images can only be read",
                             i, e->grain);
        }
    }
    b->content_len = at;
    b->limits.alloc_unit = (uint32_t)unit;
    b->chunks_only = v->nb_extents == 1 && v->extents[0].compressed;
    return true;
}

static bool open_one_file(struct blk *b, json_t *opts, GError **error)
{
    struct vmdk *v = b->priv;
    struct vmdk_extent *e = add_extent(v);
    uint64_t bytes;
    e->file = b->file;
    if (!vmdk_open_sparse(b, e, &v->desc_offset, &bytes, error)) {
        return false;
    }
    if (!v->desc_offset) { /* not said: then it is where it always is */
        v->desc_offset = VMDK_HEADER_BYTES;
        bytes = VMDK_DESC_SECTORS * VMDK_SECTOR;
    }
    v->desc_embedded = true;
    v->desc_bytes = bytes;
    g_autofree char *text = vmdk_read_text(b->file, v->desc_offset, bytes, error);
    if (!text || !read_identity(b, text, error)) {
        return false;
    }
    if (e->pages) {
        g_autofree char *type = vmdk_text_value(text, "createType");
        v->create_type = type && g_str_equal(type, "streamOptimized")
                             ? g_steal_pointer(&type)
                             : g_strdup("monolithicSparse");
        return true;
    }
    v->nb_extents = 0;
    return open_text(b, opts, text, error);
}

static bool open_descriptor(struct blk *b, json_t *opts, GError **error)
{
    struct vmdk *v = b->priv;
    v->desc_bytes = VMDK_DESC_MAX;
    g_autofree char *text = vmdk_read_text(b->file, 0, VMDK_DESC_MAX, error);
    return text && open_text(b, opts, text, error) && read_identity(b, text, error);
}

static bool vmdk_open(struct blk *b, json_t *opts, GError **error)
{
    struct vmdk *v = g_new0(struct vmdk, 1);
    uint8_t magic[4];
    b->priv = v;
    v->anywhere = blk_opt_bool(opts, "extents-anywhere", false);
    if (b->file->content_len < sizeof(magic)) {
        return error_msg(error, "invalid VMDK image descriptor");
    }
    int r = blk_pread(b->file, 0, magic, sizeof(magic));
    if (r < 0) {
        return error_errno(error, -r, "Could not read from file");
    }
    bool one = be32_get(magic) == VMDK_MAGIC_KDMV || be32_get(magic) == VMDK_MAGIC_COWD;
    return (one ? open_one_file(b, opts, error) : open_descriptor(b, opts, error)) &&
           lay_out(b, error) &&
           blk_open_backing(b, opts, v->backing_name, "vmdk", error);
}

static void vmdk_close(struct blk *b)
{
    struct vmdk *v = b->priv;
    if (!v) {
        return;
    }
    for (unsigned i = 0; i < v->nb_extents; i++) {
        pages_free(v->extents[i].pages);
    }
    g_free(v->extents);
    g_free(v->create_type);
    g_free(v->backing_name);
    g_free(v);
}

/* ---- reports ------------------------------------------------------------------------
 */

static json_t *extent_info(const struct vmdk_extent *e)
{
    json_t *o = json_object();
    json_object_set_new(o, "filename",
                        json_string_nocheck(e->file ? blk_get_filename(e->file) : ""));
    json_object_set_new(o, "format", json_string(e->type));
    json_object_set_new(o, "virtual-size", json_integer((json_int_t)e->len));
    if (e->grain) {
        json_object_set_new(o, "cluster-size", json_integer((json_int_t)e->grain));
    }
    if (e->compressed) {
        json_object_set_new(o, "compressed", json_true());
    }
    return o;
}

static void vmdk_info(struct blk *b, json_t *info)
{
    const struct vmdk *v = b->priv;
    json_t *extents = json_array(), *data = json_object();
    bool alike = v->nb_extents > 0;
    for (unsigned i = 0; i < v->nb_extents; i++) {
        const struct vmdk_extent *e = &v->extents[i];
        json_array_append_new(extents, extent_info(e));
        alike &= e->grain == v->extents[0].grain &&
                 e->compressed == v->extents[0].compressed;
    }
    json_object_set_new(data, "cid", json_integer(v->cid));
    json_object_set_new(data, "parent-cid", json_integer(v->parent_cid));
    json_object_set_new(data, "create-type", json_string_nocheck(v->create_type));
    json_object_set_new(data, "extents", extents);
    json_object_set_new(info, "format-specific",
                        json_pack("{s:s, s:o}", "type", "vmdk", "data", data));
    if (alike && v->extents[0].grain) {
        json_object_set_new(info, "cluster-size",
                            json_integer((json_int_t)v->extents[0].grain));
    }
    if (v->backing_name) {
        json_object_set_new(info, "backing-filename",
                            json_string_nocheck(v->backing_name));
        json_object_set_new(info, "backing-filename-format", json_string("vmdk"));
    }
}

/* ---- the format ---------------------------------------------------------------------
 */

static const struct blk_option vmdk_options[] = {
    {"backing", BLK_OPT_NODE, NULL, "what unallocated parts are read from, or null"},
    {"extents", BLK_OPT_NODE, NULL, "the files of the extents: 0, 1..."},
    {"extents-anywhere", BLK_OPT_BOOL, NULL,
     "extents may be outside of the image's folder (default off)"},
    {0},
};

const struct blk_format vmdk_format = {
    .name = "vmdk",
    .help = "VMware's: sparse or flat, in one file or many, compressed streams",
    .options = vmdk_options,
    .probe = vmdk_probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .map = vmdk_map,
    .map_cached = vmdk_map_cached,
    .info = vmdk_info,
    .writable = &vmdk_write_ops,
    .creatable = &vmdk_create_ops,
    .checkable = &vmdk_check_ops,
};
