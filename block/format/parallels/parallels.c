#include "block/format/parallels/parallels.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "block/format/parallels/parallels_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

#define CACHE_BYTES (16 * MIB)

enum { PAGE = 4096, MAGIC = 16, VERSION = 2 };

static const char magic_sectors[] = "WithoutFreeSpace";
static const char magic_clusters[] = "WithouFreSpacExt";

int parallels_corrupt(struct parallels *p, const char *fmt, ...)
{
    if (!p->told) {
        p->told = true;
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        blk_warn(p->b, "Image is corrupt: %s", what);
    }
    return -EIO;
}

/* ---- the BAT ------------------------------------------------------------------------
 */

static uint64_t bat_end(const struct parallels *p)
{
    return PARALLELS_HEADER + p->bat_entries * UINT64_C(4);
}

int parallels_place(struct parallels *p, uint64_t index, bool cached, uint64_t *ret)
{
    uint32_t e = 0;
    int r = pages_get_le32(p->bat, PARALLELS_HEADER + index * 4, cached, &e);
    *ret = e * p->unit; /* at most 2^32 * 2^31 */
    return r;
}

int parallels_set_place(struct parallels *p, uint64_t index, uint64_t place)
{
    return pages_put_le32(p->bat, PARALLELS_HEADER + index * 4,
                          (uint32_t)(place / p->unit));
}

/* How many entries from @index on are in a hole of the file, or behind its end. */
static uint64_t hole_at(struct parallels *p, uint64_t index)
{
    uint64_t at = PARALLELS_HEADER + index * 4, length = blk_length(p->file);
    struct blk_status s;
    if (at >= length) {
        return p->bat_entries - index;
    }
    int r = blk_map_at(p->file, at, MIN(length, bat_end(p)) - at, &s);
    return r == 0 && (s.flags & BLK_STATUS_ZERO) ? s.len / 4 : 0;
}

int parallels_next(struct parallels *p, uint64_t *index, uint64_t *ret_place)
{
    enum { PIECE = 4096 };
    for (; *index < p->bat_entries; ++*index) {
        uint64_t hole = *index % PIECE == 0 ? hole_at(p, *index) : 0;
        if (hole >= PIECE) {
            *index += ALIGN_DOWN(hole, (uint64_t)PIECE) - 1;
            continue;
        }
        int r = parallels_place(p, *index, false, ret_place);
        if (r < 0 || *ret_place) {
            return r;
        }
    }
    *index = p->bat_entries;
    return 0;
}

/* ---- map ----------------------------------------------------------------------------
 */

static bool in_place(const struct parallels *p, uint64_t place)
{
    return place >= bat_end(p) && place < p->limit;
}

static int map_any(struct parallels *p, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    uint64_t index = offset / p->cluster, in = offset % p->cluster, place, next;
    uint64_t run = p->cluster - in;
    if (index >= p->bat_entries) {
        *ret = (struct blk_extent){.kind = BLK_EXT_UNALLOCATED, .len = len};
        return 0;
    }
    int r = parallels_place(p, index, cached, &place);
    if (r < 0) {
        return r;
    }
    while (run < len && ++index < p->bat_entries &&
           parallels_place(p, index, cached, &next) == 0 &&
           next == (place ? place + in + run : 0) &&
           in_place(p, next) == in_place(p, place)) {
        run += p->cluster;
    }
    *ret = (struct blk_extent){.kind = BLK_EXT_UNALLOCATED, .len = MIN(run, len)};
    if (place) {
        ret->kind = BLK_EXT_DATA;
        ret->flags = in_place(p, place) ? BLK_EXT_IN_PLACE : 0;
        ret->child = p->file;
        ret->offset = place + in;
    }
    return 0;
}

static int parallels_map(struct blk *b, uint64_t offset, uint64_t len,
                         struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

static int parallels_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                                struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}

/* ---- the header
 * ---------------------------------------------------------------------- */

static bool is_header(const uint8_t *h, size_t len)
{
    return len >= PARALLELS_HEADER &&
           (memcmp(h, magic_sectors, MAGIC) == 0 ||
            memcmp(h, magic_clusters, MAGIC) == 0) &&
           le32_get(h + 16) == VERSION;
}

static bool take_size(struct parallels *p, const uint8_t *h, bool clusters,
                      GError **error)
{
    uint64_t sectors = le64_get(h + 36);
    if (!clusters) {
        sectors &= UINT32_MAX; /* Spec: the rest has no meaning */
    }
    if (sectors > INT64_MAX / 512) {
        return error_errno(error, EFBIG, "Could not refresh total sector count");
    }
    p->b->content_len = sectors * 512;
    return true;
}

static bool take_fields(struct parallels *p, const uint8_t *h, GError **error)
{
    bool clusters = memcmp(h, magic_clusters, MAGIC) == 0;
    uint32_t tracks = le32_get(h + 28);
    if (tracks == 0) {
        return error_msg(error, "Invalid image: Zero sectors per track");
    }
    if (tracks > PARALLELS_MAX_TRACKS) {
        return error_msg(error, "Invalid image: Too big cluster");
    }
    p->cluster = tracks * UINT64_C(512);
    p->unit = clusters ? p->cluster : 512;
    p->bat_entries = le32_get(h + 32);
    if (p->bat_entries > PARALLELS_MAX_BAT) {
        return error_msg(error, "Catalog too large");
    }
    p->data_start = MAX(le32_get(h + 48) * UINT64_C(512), ALIGN_UP(bat_end(p), 512));
    p->unclean = le32_get(h + PARALLELS_IN_USE_AT) == PARALLELS_IN_USE;
    uint64_t ext = le64_get(h + 56);
    if (ext > INT64_MAX / 512) {
        return error_msg(
            error, "Format Extension at sector %" PRIu64 " is past the end of the file",
            ext);
    }
    p->ext_offset = ext * 512;
    return take_size(p, h, clusters, error);
}

static bool read_header(struct parallels *p, GError **error)
{
    uint8_t h[PARALLELS_HEADER] = {0};
    uint64_t has = MIN(blk_length(p->file), sizeof(h));
    int r = has ? blk_pread(p->file, 0, h, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not read the header");
    }
    if (!is_header(h, sizeof(h))) {
        return error_msg(error, "Image not in Parallels format");
    }
    return take_fields(p, h, error);
}

int parallels_set_in_use(struct parallels *p, uint32_t value)
{
    uint8_t v[4];
    le32_put(v, value);
    int r = blk_pwrite(p->file, PARALLELS_IN_USE_AT, v, sizeof(v));
    return r ? r : blk_run(p->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

int parallels_find_end(struct parallels *p, uint64_t *ret)
{
    uint64_t end = p->data_start;
    for (uint64_t i = 0;; i++) {
        uint64_t place;
        int r = parallels_next(p, &i, &place);
        if (r < 0) {
            return r;
        }
        if (i >= p->bat_entries) {
            break;
        }
        if (in_place(p, place)) {
            end = MAX(end, place + p->cluster);
        }
    }
    if (p->ext_offset) {
        end = MAX(end, parallels_extension_end(p));
    }
    *ret = end % p->unit ? end - end % p->unit + p->unit : end;
    return 0;
}

/* ---- opening
 * ------------------------------------------------------------------------- */

static int parallels_probe(const uint8_t *head, size_t len, const char *filename)
{
    return is_header(head, len) ? 100 : 0;
}

static bool parallels_open(struct blk *b, json_t *opts, GError **error)
{
    struct parallels *p = g_new0(struct parallels, 1);
    b->priv = p;
    p->b = b;
    p->file = b->file;
    if (!read_header(p, error)) {
        return false;
    }
    p->bat = pages_new(p->file, PAGE, CACHE_BYTES);
    p->limit = blk_length(p->file);
    b->limits.alloc_unit = (uint32_t)p->cluster;
    if (b->read_only) {
        return !p->ext_offset || parallels_check_extension(p, error);
    }
    if (p->unclean && !(blk_open_flags(b) & BLK_OPEN_CHECK)) {
        return error_msg(error, "parallels: Image was not closed correctly; cannot be "
                                "opened read/write");
    }
    if (p->ext_offset) {
        blk_warn(b, "Format Extension ignored in RW mode");
    }
    return true;
}

static void parallels_close(struct blk *b)
{
    struct parallels *p = b->priv;
    if (p) {
        pages_free(p->bat);
        g_free(p);
    }
}

static void parallels_info(struct blk *b, json_t *info)
{
    json_object_del(info, "dirty-flag"); /* as QEMU's users know it */
}

/* ---- new images
 * ---------------------------------------------------------------------- */

static bool write_image(struct blk *file, uint64_t size, uint64_t cluster,
                        GError **error)
{
    uint8_t h[PARALLELS_HEADER] = {0};
    uint64_t entries = size / cluster + (size % cluster != 0);
    uint64_t head = PARALLELS_HEADER + entries * 4;
    head = (head / cluster + (head % cluster != 0)) * cluster;
    memcpy(h, magic_clusters, MAGIC);
    le32_put(h + 16, VERSION);
    le32_put(h + 20, 16);
    le32_put(h + 24, (uint32_t)(size / 512 / 16 / 32));
    le32_put(h + 28, (uint32_t)(cluster / 512));
    le32_put(h + 32, (uint32_t)entries);
    le64_put(h + 36, size / 512);
    le32_put(h + 48, (uint32_t)(head / 512));
    int r = blk_run(file, BLK_ZERO, 0, NULL, 0, head, 0);
    r = r ? r : blk_run(file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    r = r ? r : blk_pwrite(file, 0, h, sizeof(h));
    return r == 0 || error_errno(error, -r, "Failed to create Parallels image");
}

static bool parallels_create(struct blk *file, json_t *opts, GError **error)
{
    uint64_t size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    uint64_t cluster = blk_opt_u64(opts, "cluster_size", MIB);
    if (cluster > INT32_MAX - 511) {
        return error_msg(error, "Cluster size is too large");
    }
    cluster = MAX(ALIGN_UP(cluster, 512), 512);
    if (size / cluster >= UINT32_MAX) {
        return error_msg(error, "Image size is too large for this cluster size");
    }
    if (size / cluster >= PARALLELS_MAX_BAT) { /* could not be opened */
        return error_msg(error, "Catalog too large");
    }
    return write_image(file, size, cluster, error);
}

static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"cluster_size", BLK_OPT_SIZE, NULL, "Parallels image cluster size", "1048576"},
    {0},
};

static const struct blk_create_ops parallels_create_ops = {
    .options = create_options,
    .create = parallels_create,
};

static const struct blk_option parallels_options[] = {
    {"prealloc-size", BLK_OPT_SIZE, NULL, "kept for QEMU's command lines"},
    {"prealloc-mode", BLK_OPT_STR, NULL, "kept for QEMU's command lines"},
    {0},
};

const struct blk_format parallels_format = {
    .name = "parallels",
    .help = "Parallels Desktop and Virtuozzo: sparse",
    .options = parallels_options,
    .probe = parallels_probe,
    .open = parallels_open,
    .close = parallels_close,
    .map = parallels_map,
    .map_cached = parallels_map_cached,
    .info = parallels_info,
    .writable = &parallels_write_ops,
    .creatable = &parallels_create_ops,
    .checkable = &parallels_check_ops,
};
