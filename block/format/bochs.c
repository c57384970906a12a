#include "block/format/bochs.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/format/pages.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * All numbers are little-endian:
 *
 *     0    "Bochs Virtual HD Image", "Redolog" at 32, "Growing" at 48
 *     64   version 0x10000 or 0x20000, length of the header
 *     72   entries of the catalog, bytes of a bitmap, bytes of an extent
 *     84   size of the disk (version 2: at 88)
 *     header       the catalog: the number of each extent, ~0 for nowhere
 *     then         extents: a bitmap of the sectors that were written, in whole
 *                  sectors, then the sectors
 */

enum {
    HEADER = 512,
    PAGE = 4096,
    VERSION_1 = 0x10000,
    VERSION_2 = 0x20000,
    MAX_CATALOG = 0x100000,
    MAX_EXTENT = 0x800000,
};

#define CACHE_BYTES (4 * MIB)
#define NOWHERE     UINT32_MAX

struct bochs {
    struct blk *file;
    uint64_t catalog, data; /* where they begin in the file */
    uint32_t entries;
    uint64_t extent;      /* bytes of guest */
    uint64_t bitmap;      /* bytes in the file, whole sectors */
    struct pages *tables; /* catalog and bitmaps */
};

static bool is_header(const uint8_t *h, size_t len)
{
    return len >= HEADER &&
           strncmp((const char *)h, "Bochs Virtual HD Image", 32) == 0 &&
           strncmp((const char *)h + 32, "Redolog", 16) == 0 &&
           strncmp((const char *)h + 48, "Growing", 16) == 0 &&
           (le32_get(h + 64) == VERSION_1 || le32_get(h + 64) == VERSION_2);
}

static int bochs_probe(const uint8_t *head, size_t len, const char *filename)
{
    return is_header(head, len) ? 100 : 0;
}

static bool take_fields(struct bochs *s, const uint8_t *h, uint64_t size,
                        GError **error)
{
    uint32_t extent = le32_get(h + 80), bitmap = le32_get(h + 76);
    s->entries = le32_get(h + 72);
    if (s->entries > MAX_CATALOG) {
        return error_msg(error, "Catalog size is too large");
    }
    if (extent < 512) {
        return error_msg(error, "Extent size must be at least 512");
    }
    if (extent & (extent - 1)) {
        return error_msg(error, "Extent size %" PRIu32 " is not a power of two",
                         extent);
    }
    if (extent > MAX_EXTENT) {
        return error_msg(error, "Extent size %" PRIu32 " is too large", extent);
    }
    s->extent = extent;
    s->bitmap = ALIGN_UP((uint64_t)MAX(bitmap, 1), 512);
    s->catalog = le32_get(h + 68);
    s->data = s->catalog + s->entries * UINT64_C(4);
    return size / extent + (size % extent != 0) <= s->entries ||
           error_msg(error, "Catalog size is too small for this disk size");
}

static bool bochs_open(struct blk *b, json_t *opts, GError **error)
{
    struct bochs *s = g_new0(struct bochs, 1);
    uint8_t h[HEADER] = {0};
    b->priv = s;
    s->file = b->file;
    uint64_t has = MIN(blk_length(b->file), sizeof(h));
    int r = has ? blk_pread(b->file, 0, h, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not read the header");
    }
    if (!is_header(h, sizeof(h))) {
        return error_msg(error, "Image not in Bochs format");
    }
    uint64_t size =
        ALIGN_DOWN(le64_get(h + (le32_get(h + 64) == VERSION_1 ? 84 : 88)), 512);
    if (!take_fields(s, h, size, error)) {
        return false;
    }
    s->tables = pages_new(s->file, PAGE, CACHE_BYTES);
    b->content_len = size;
    return true;
}

static void bochs_close(struct blk *b)
{
    struct bochs *s = b->priv;
    if (s) {
        pages_free(s->tables);
        g_free(s);
    }
}

/* Where the extent is that holds the disk's @offset; 0 for nowhere. */
static int find_extent(struct bochs *s, uint64_t offset, bool cached, uint64_t *ret)
{
    uint8_t e[4], *p = e;
    uint64_t at = s->catalog + offset / s->extent * 4, all = s->extent + s->bitmap;
    int r = at % 4 == 0 ? pages_get(s->tables, at, cached, &p)
            : cached    ? -EAGAIN
                        : pages_read(s->tables, at, e, sizeof(e));
    *ret = 0;
    if (r < 0 || le32_get(p) == NOWHERE) {
        return r;
    }
    return ck_mul(le32_get(p), all, ret) && ck_add(*ret, s->data, ret) &&
                   *ret <= INT64_MAX - all
               ? 0
               : -EIO;
}

static int written(struct bochs *s, uint64_t extent, uint64_t sector, bool cached,
                   bool *ret)
{
    uint8_t *p;
    int r = pages_get(s->tables, extent + sector / 8, cached, &p);
    if (r == 0) {
        *ret = *p >> sector % 8 & 1;
    }
    return r;
}

static int map_any(struct bochs *s, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    uint64_t in = offset & (s->extent - 1), extent, run = 512 - in % 512;
    bool data = false, next;
    int r = find_extent(s, offset, cached, &extent);
    if (r < 0) {
        return r;
    }
    len = MIN(len, s->extent - in);
    if (!extent) {
        *ret = (struct blk_extent){.kind = BLK_EXT_ZERO, .len = len};
        return 0;
    }
    r = written(s, extent, in / 512, cached, &data);
    if (r < 0) {
        return r;
    }
    while (run < len && written(s, extent, (in + run) / 512, cached, &next) == 0 &&
           next == data) {
        run += 512;
    }
    *ret = (struct blk_extent){.kind = data ? BLK_EXT_DATA : BLK_EXT_ZERO,
                               .len = MIN(run, len),
                               .child = data ? s->file : NULL,
                               .offset = data ? extent + s->bitmap + in : 0};
    return 0;
}

static int bochs_map(struct blk *b, uint64_t offset, uint64_t len,
                     struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

static int bochs_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                            struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}

static void bochs_info(struct blk *b, json_t *info)
{
    json_object_del(info, "dirty-flag"); /* as QEMU's users know it */
}

const struct blk_format bochs_format = {
    .name = "bochs",
    .help = "growing disk images of Bochs, read-only",
    .probe = bochs_probe,
    .open = bochs_open,
    .close = bochs_close,
    .map = bochs_map,
    .map_cached = bochs_map_cached,
    .info = bochs_info,
};
