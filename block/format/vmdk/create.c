#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/image.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A new image. A sparse file:
 *
 *     sector 0      header
 *     1..20         descriptor (empty in a file of many)
 *     21            redundant grain directory, its grain tables
 *     ...           grain directory, its grain tables
 *     overhead      grains, at a multiple of the grain's size
 */

enum {
    GRAIN_SECTORS = 128,
    GT_ENTRIES = 512,
    GT_SECTORS = GT_ENTRIES * 4 / VMDK_SECTOR,
    TRACK = 63,
};

#define SPLIT (2 * GIB)

static const char *const subformats[] = {
    "monolithicSparse",   "monolithicFlat",  "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat", "streamOptimized", NULL,
};
static const char *const adapters[] = {"ide", "lsilogic", "buslogic", "legacyESX",
                                       NULL};

struct plan {
    struct blk *file;
    uint64_t size; /* bytes, whole sectors */
    const char *subformat, *adapter, *hwversion, *toolsversion, *backing;
    bool flat, split, compressed, zeroed;
    uint32_t parent_cid;
};

/* ---- one sparse file ----------------------------------------------------------------
 */

struct tables {
    uint64_t gts, gd_sectors, rgd, gd, overhead;
};

static struct tables tables_for(uint64_t size)
{
    uint64_t sectors = (size + VMDK_SECTOR - 1) / VMDK_SECTOR;
    uint64_t grains = (sectors + GRAIN_SECTORS - 1) / GRAIN_SECTORS;
    struct tables t = {.gts = (grains + GT_ENTRIES - 1) / GT_ENTRIES};
    t.gd_sectors = (t.gts * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
    t.rgd = 1 + VMDK_DESC_SECTORS;
    t.gd = t.rgd + t.gd_sectors + t.gts * GT_SECTORS;
    t.overhead =
        ALIGN_UP(t.gd + t.gd_sectors + t.gts * GT_SECTORS, (uint64_t)GRAIN_SECTORS);
    return t;
}

static void make_header(uint8_t *h, const struct plan *p, uint64_t size,
                        const struct tables *t)
{
    memset(h, 0, VMDK_HEADER_BYTES);
    be32_put(h, VMDK_MAGIC_KDMV);
    le32_put(h + 4, p->compressed ? 3 : p->zeroed ? 2 : 1);
    le32_put(h + 8, VMDK_FLAG_NL_DETECT | VMDK_FLAG_RGD |
                        (p->compressed ? VMDK_FLAG_COMPRESS | VMDK_FLAG_MARKER : 0) |
                        (p->zeroed ? VMDK_FLAG_ZERO : 0));
    le64_put(h + 12, size / VMDK_SECTOR);
    le64_put(h + 20, GRAIN_SECTORS);
    le64_put(h + 28, 1);
    le64_put(h + 36, VMDK_DESC_SECTORS);
    le32_put(h + 44, GT_ENTRIES);
    le64_put(h + 48, t->rgd);
    le64_put(h + 56, t->gd);
    le64_put(h + 64, t->overhead);
    memcpy(h + 73, "\n \r\n", 4);
    le16_put(h + 77, p->compressed ? 1 : 0);
}

/* Entry n: the table n, behind the directory. */
static int write_directory(struct blk *file, uint64_t at, const struct tables *t)
{
    enum { STEP = 16384 };
    g_autofree uint8_t *buf = g_malloc(STEP * 4);
    for (uint64_t i = 0; i < t->gts; i += STEP) {
        uint64_t n = MIN(t->gts - i, (uint64_t)STEP);
        memset(buf, 0, STEP * 4);
        for (uint64_t k = 0; k < n; k++) {
            le32_put(buf + k * 4,
                     (uint32_t)(at + t->gd_sectors + (i + k) * GT_SECTORS));
        }
        int r = blk_pwrite(file, at * VMDK_SECTOR + i * 4, buf,
                           ALIGN_UP(n * 4, (uint64_t)VMDK_SECTOR));
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static bool write_sparse(struct blk *file, const struct plan *p, uint64_t size,
                         GError **error)
{
    struct tables t = tables_for(size);
    uint8_t h[VMDK_HEADER_BYTES];
    if (t.overhead > UINT32_MAX) {
        return error_errno(error, EFBIG, "the grain tables would be too large");
    }
    make_header(h, p, size, &t);
    if (!blk_truncate(file, t.overhead * VMDK_SECTOR, BLK_PREALLOC_OFF, error)) {
        return false;
    }
    int r = write_directory(file, t.rgd, &t);
    r = r ? r : write_directory(file, t.gd, &t);
    r = r ? r : blk_pwrite(file, 0, h, sizeof(h));
    return r == 0 ||
           error_errno(error, -r, "Could not write '%s'", blk_get_filename(file));
}

/* ---- files beside the descriptor ----------------------------------------------------
 */

static bool make_extent(const struct plan *p, const char *path, uint64_t size,
                        GError **error)
{
    struct blk_perms all = {BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                            BLK_PERM_READ};
    struct blk_open_args args = {.loop = p->file->loop, .perms = &all};
    json_t *o = json_pack("{s:I}", "size", (json_int_t)(p->flat ? size : 0));
    bool ok = blk_create(&args, "raw", path, o, error);
    json_decref(o);
    if (!ok || p->flat) {
        return ok;
    }
    json_t *file = json_pack("{s:s}", "driver", "file");
    json_object_set_new(file, "filename", json_string_nocheck(path));
    struct blk *b = blk_open(&args, file, error);
    json_decref(file);
    ok = b && write_sparse(b, p, size, error);
    if (ok) {
        int r = blk_run(b, BLK_FLUSH, 0, NULL, 0, 0, 0);
        ok = r == 0 || error_errno(error, -r, "Could not write '%s'", path);
    }
    blk_unref(b);
    return ok;
}

/* "disk.vmdk" to "disk-flat.vmdk", "disk-f001.vmdk", "disk-s001.vmdk". */
static char *extent_name(const struct plan *p, const char *path, unsigned n)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    int stem = dot ? (int)(dot - path) : (int)strlen(path);
    const char *ext = dot ? dot : "";
    return p->split  ? g_strdup_printf("%.*s-%c%03u%s", stem, path, p->flat ? 'f' : 's',
                                       n, ext)
           : p->flat ? g_strdup_printf("%.*s-flat%s", stem, path, ext)
                     : g_strdup(path);
}

static bool make_extents(const struct plan *p, GString *lines, GError **error)
{
    const char *path = p->file->filename;
    uint64_t step = p->split ? SPLIT : p->size, left = p->size;
    for (unsigned n = 1; n == 1 || left; n++) {
        uint64_t size = MIN(left, step);
        g_autofree char *name = extent_name(p, path, n);
        g_autofree char *base = g_path_get_basename(name);
        if (p->split || p->flat) {
            if (!make_extent(p, name, size, error)) {
                return false;
            }
        } else if (!write_sparse(p->file, p, size, error)) {
            return false;
        }
        g_string_append_printf(lines, "RW %" PRIu64 " %s \"%s\"%s\n",
                               size / VMDK_SECTOR, p->flat ? "FLAT" : "SPARSE", base,
                               p->flat ? " 0" : "");
        left -= size;
    }
    return true;
}

/* ---- the descriptor -----------------------------------------------------------------
 */

static char *make_text(const struct plan *p, const char *lines)
{
    unsigned heads = g_str_equal(p->adapter, "ide") ? 16 : 255;
    g_autofree char *parent =
        p->backing ? g_strdup_printf("parentFileNameHint=\"%s\"\n", p->backing)
                   : g_strdup("\n");
    return g_strdup_printf("# Disk DescriptorFile\n"
                           "version=1\n"
                           "CID=%08" PRIx32 "\n"
                           "parentCID=%08" PRIx32 "\n"
                           "createType=\"%s\"\n"
                           "%s"
                           "# Extent description\n"
                           "%s"
                           "\n"
                           "# The Disk Data Base\n"
                           "#DDB\n"
                           "\n"
                           "ddb.virtualHWVersion = \"%s\"\n"
                           "ddb.geometry.cylinders = \"%" PRIu64 "\"\n"
                           "ddb.geometry.heads = \"%u\"\n"
                           "ddb.geometry.sectors = \"%d\"\n"
                           "ddb.adapterType = \"%s\"\n"
                           "ddb.toolsVersion = \"%s\"\n",
                           g_random_int(), p->parent_cid, p->subformat, parent, lines,
                           p->hwversion, p->size / VMDK_SECTOR / (TRACK * heads), heads,
                           TRACK, p->adapter, p->toolsversion);
}

static bool write_text(const struct plan *p, const char *lines, GError **error)
{
    g_autofree char *text = make_text(p, lines);
    size_t len = strlen(text);
    bool alone = p->flat || p->split;
    if (!alone && len > VMDK_DESC_SECTORS * VMDK_SECTOR) {
        return error_msg(error, "VMDK description file too big");
    }
    int r = blk_pwrite(p->file, alone ? 0 : VMDK_SECTOR, text, len);
    return r == 0 || error_errno(error, -r, "Could not write description");
}

/* ---- options ------------------------------------------------------------------------
 */

static bool take_backing(struct plan *p, GError **error)
{
    if (!p->backing) {
        return true;
    }
    if (strpbrk(p->backing, "\"\r\n")) {
        return error_msg(error, "a descriptor cannot hold the backing file's name '%s'",
                         p->backing);
    }
    struct blk_perms none = {0, BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = p->file->loop, .perms = &none, .flags = BLK_OPEN_NO_BACKING};
    g_autofree char *path = blk_backing_path(p->file->filename, p->backing);
    json_t *o = blk_options_from_name(path, NULL, error);
    if (o) {
        json_object_set_new(o, "read-only", json_true());
    }
    struct blk *b = o ? blk_open(&args, o, error) : NULL;
    json_decref(o);
    if (!b) {
        return false;
    }
    bool ok = b->format == &vmdk_format;
    if (ok) {
        p->parent_cid = ((const struct vmdk *)b->priv)->cid;
    } else {
        error_msg(error, "backing_file must be a vmdk image");
    }
    blk_unref(b);
    return ok;
}

static bool one_of(const char *const *values, const char *text, GError **error)
{
    return g_strv_contains(values, text) ||
           error_msg(error, "invalid parameter value: %s", text);
}

static bool judge(const struct plan *p, json_t *opts, GError **error)
{
    bool compat6 = blk_opt_bool(opts, "compat6", false);
    bool versioned =
        !g_str_equal(blk_opt_str(opts, "hwversion", "undefined"), "undefined");
    const char *fmt = blk_opt_str(opts, "backing_fmt", NULL);
    if (!one_of(adapters, p->adapter, error) ||
        !one_of(subformats, p->subformat, error)) {
        return false;
    }
    if (compat6 && versioned) {
        return error_msg(error, "compat6 cannot be enabled with hwversion set");
    }
    if (p->flat && p->backing) {
        return error_msg(error, "Flat image can't have backing file");
    }
    if (p->flat && p->zeroed) {
        return error_msg(error, "Flat image can't enable zeroed grain");
    }
    if (p->backing && fmt && !g_str_equal(fmt, "vmdk")) {
        return error_msg(error, "backing_file must be a vmdk image");
    }
    return true;
}

static bool vmdk_create(struct blk *file, json_t *opts, GError **error)
{
    const char *hw = blk_opt_str(opts, "hwversion", "undefined");
    const char *backing = blk_opt_str(opts, "backing_file", NULL);
    struct plan p = {
        .file = file,
        .size = ALIGN_UP(blk_opt_u64(opts, "size", 0), VMDK_SECTOR),
        .subformat = blk_opt_str(opts, "subformat", "monolithicSparse"),
        .adapter = blk_opt_str(opts, "adapter_type", "ide"),
        .hwversion = !g_str_equal(hw, "undefined")          ? hw
                     : blk_opt_bool(opts, "compat6", false) ? "6"
                                                            : "4",
        .toolsversion = blk_opt_str(opts, "toolsversion", "2147483647"),
        .backing = backing && *backing ? backing : NULL,
        .zeroed = blk_opt_bool(opts, "zeroed_grain", false),
        .parent_cid = VMDK_NO_PARENT,
    };
    p.flat = g_str_has_suffix(p.subformat, "Flat");
    p.split = g_str_has_prefix(p.subformat, "twoGb");
    p.compressed = g_str_equal(p.subformat, "streamOptimized");
    g_autoptr(GString) lines = g_string_new(NULL);
    return judge(&p, opts, error) && take_backing(&p, error) &&
           make_extents(&p, lines, error) && write_text(&p, lines->str, error);
}

static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"adapter_type", BLK_OPT_STR, NULL,
     "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or "
     "legacyESX"},
    {"backing_file", BLK_OPT_STR, NULL, "File name of a base image"},
    {"backing_fmt", BLK_OPT_STR, NULL, "Must be 'vmdk' if present"},
    {"compat6", BLK_OPT_BOOL, NULL, "VMDK version 6 image", "off"},
    {"hwversion", BLK_OPT_STR, NULL, "VMDK hardware version", "undefined"},
    {"toolsversion", BLK_OPT_STR, NULL, "VMware guest tools version"},
    {"subformat", BLK_OPT_STR, NULL,
     "VMDK flat extent format, can be one of {monolithicSparse (default) | "
     "monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} "},
    {"zeroed_grain", BLK_OPT_BOOL, NULL,
     "Enable efficient zero writes using the zeroed-grain GTE feature"},
    {0},
};

const struct blk_create_ops vmdk_create_ops = {
    .options = create_options,
    .terse = true,
    .create = vmdk_create,
};
