#include "block/format/vpc.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "block/format/pages.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * VHD ("Virtual Hard Disk Image Format Specification", Microsoft, 1.0). Big-endian.
 *
 *     fixed     the disk, then the footer (512 bytes)
 *
 *     dynamic   0            a copy of the footer
 *               data_offset  the dynamic header (1024 bytes), "cxsparse"
 *               table        one 32-bit entry per block: the sector where it begins,
 *                            0xffffffff: it has no space and reads as zero
 *               blocks       each a bitmap of its sectors, whole sectors, then the data
 *               footer       behind the last block
 *
 * A new block goes where the footer was, and the footer behind it; the copy at the
 * start keeps the image sound meanwhile. A sector's bit in the bitmap says that it was
 * written. Blocks made here have all bits set and are zeroed; in a block of somebody
 * else they are set before the first write to it (Appendix: a reader takes sectors
 * whose bit is clear for zeros).
 *
 * How long is the disk? Virtual PC goes by cylinders * heads * sectors of the footer,
 * others by its current size. The program that made the image tells which; and at the
 * largest geometry the size is what counts.
 */

enum {
    SECTOR = 512,
    FOOTER_BYTES = 512,
    DYN_BYTES = 1024,
    PAGE = 16384,
    CACHE = 16 << 20,

    F_FEATURES = 8,
    F_VERSION = 12,
    F_DATA_OFFSET = 16,
    F_TIMESTAMP = 24,
    F_CREATOR = 28,
    F_CREATOR_VERSION = 32,
    F_CREATOR_OS = 36,
    F_ORIGINAL_SIZE = 40,
    F_CURRENT_SIZE = 48,
    F_CYLINDERS = 56,
    F_HEADS = 58,
    F_SECTORS = 59,
    F_TYPE = 60,
    F_CHECKSUM = 64,
    F_UUID = 68,

    D_DATA_OFFSET = 8,
    D_TABLE_OFFSET = 16,
    D_VERSION = 24,
    D_ENTRIES = 28,
    D_BLOCK_SIZE = 32,
    D_CHECKSUM = 36,

    TYPE_FIXED = 2,
    TYPE_DYNAMIC = 3,
    TYPE_DIFFERENCING = 4,

    MAX_CYLINDERS = 65535,
    MAX_HEADS = 16,
    MAX_SECTORS = 255,
    NEW_BLOCK = 2 << 20,
};

#define NO_BLOCK     0xffffffffu
#define MAX_GEOMETRY ((uint64_t)MAX_CYLINDERS * MAX_HEADS * MAX_SECTORS)
#define MAX_SIZE     (2040 * GIB)
#define MAX_ENTRIES  (INT32_MAX / 4)
#define EPOCH_2000   INT64_C(946684800)

struct vpc {
    bool fixed;
    uint8_t footer[FOOTER_BYTES];
    uint64_t size;

    /* dynamic */
    struct pages *pages; /* of b->file */
    uint64_t dyn_offset, table_offset, table_end;
    uint32_t entries, block_size, bitmap_bytes;
    uint64_t end;        /* of the last block: where the next goes, and the footer is */
    uint8_t *whole;      /* one bit per entry: all sectors of the block are marked */
    uint8_t *all_marked; /* bitmap_bytes of 0xff */
};

static uint32_t checksum(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++) {
        sum += p[i];
    }
    return ~sum;
}

static bool is_footer(const uint8_t *p)
{
    return memcmp(p, "conectix", 8) == 0;
}

static int vpc_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= 8 && is_footer(head) ? 100 : 0;
}

/* ---- opening ------------------------------------------------------------------------
 */

/* The footer at the start, or, of a fixed disk, at the end. */
static bool read_footer(struct blk *b, struct vpc *v, GError **error)
{
    uint64_t length = b->file->content_len;
    uint8_t *f = v->footer;
    if (length == 0) {
        return error_msg(error, "File too small for a VHD header");
    }
    int r = blk_pread(b->file, 0, f, MIN(length, FOOTER_BYTES));
    if (r < 0) {
        return error_errno(error, -r, "Unable to read VHD header");
    }
    if (!is_footer(f)) {
        r = length < FOOTER_BYTES
                ? 0
                : blk_pread(b->file, length - FOOTER_BYTES, f, FOOTER_BYTES);
        if (r < 0) {
            return error_errno(error, -r, "Error reading VHD footer");
        }
        if (length < FOOTER_BYTES || !is_footer(f) ||
            be32_get(f + F_TYPE) != TYPE_FIXED) {
            return error_msg(error, "invalid VPC image");
        }
    }
    uint32_t sum = be32_get(f + F_CHECKSUM);
    be32_put(f + F_CHECKSUM, 0);
    if (checksum(f, FOOTER_BYTES) != sum) {
        return error_msg(error, "Incorrect header checksum");
    }
    be32_put(f + F_CHECKSUM, sum);
    if (be32_get(f + F_TYPE) == TYPE_DIFFERENCING) {
        return error_msg(error, "differencing VHD images are not supported");
    }
    v->fixed = be32_get(f + F_TYPE) == TYPE_FIXED;
    return true;
}

/* Programs that are known to mean the size, not the geometry. */
static bool creator_means_size(const uint8_t *footer)
{
    static const char *const creators[] = {"win ", "qem2", "d2v ", "tap\0", "CTXS"};
    for (size_t i = 0; i < ARRAY_LEN(creators); i++) {
        if (memcmp(footer + F_CREATOR, creators[i], 4) == 0) {
            return true;
        }
    }
    return false;
}

static bool find_size(struct vpc *v, json_t *opts, GError **error)
{
    const uint8_t *f = v->footer;
    const char *calc = blk_opt_str(opts, "force_size_calc", NULL);
    bool by_size = creator_means_size(f);
    if (calc && !g_str_equal(calc, "chs") && !g_str_equal(calc, "current_size")) {
        return error_msg(error, "Invalid size calculation mode: '%s'", calc);
    }
    by_size = calc ? g_str_equal(calc, "current_size") : by_size;
    uint64_t sectors = (uint64_t)be16_get(f + F_CYLINDERS) * f[F_HEADS] * f[F_SECTORS];
    if (by_size || sectors == MAX_GEOMETRY) {
        sectors = be64_get(f + F_CURRENT_SIZE) / SECTOR;
    }
    v->size = sectors <= MAX_SIZE / SECTOR ? sectors * SECTOR : 0;
    return sectors <= MAX_SIZE / SECTOR ||
           error_errno(error, EFBIG, "the disk of %" PRIu64 " sectors is too large",
                       sectors);
}

static bool judge_dynamic(struct vpc *v, GError **error)
{
    if (v->block_size < SECTOR || (v->block_size & (v->block_size - 1))) {
        return error_msg(error, "Invalid block size %" PRIu32, v->block_size);
    }
    if (v->size / v->block_size > UINT32_MAX) {
        return error_msg(error, "Too many blocks");
    }
    if ((uint64_t)v->block_size * v->entries < v->size) {
        return error_msg(error, "Page table too small");
    }
    if (v->entries > MAX_ENTRIES) {
        return error_msg(error, "Max Table Entries too large (%" PRId32 ")",
                         (int32_t)v->entries);
    }
    if (v->table_offset > INT64_MAX - v->entries * 4ull) {
        return error_msg(error, "Error reading pagetable");
    }
    return true;
}

/* Where the last block ends, so that the next can go there. */
static bool find_end(struct blk *b, struct vpc *v, GError **error)
{
    uint64_t length = b->file->content_len;
    v->end = ALIGN_UP(v->table_end, SECTOR);
    for (uint32_t i = 0; i < v->entries && v->end <= length; i++) {
        uint32_t entry;
        int r = pages_get_be32(v->pages, v->table_offset + i * 4ull, false, &entry);
        if (r < 0) {
            return error_errno(error, -r, "Error reading pagetable");
        }
        if (entry != NO_BLOCK) {
            v->end =
                MAX(v->end, (uint64_t)entry * SECTOR + v->bitmap_bytes + v->block_size);
        }
    }
    return v->end <= length ||
           error_msg(error,
                     "block-vpc: free_data_block_offset points after the end of file. "
                     "The image has been truncated.");
}

static bool open_dynamic(struct blk *b, struct vpc *v, GError **error)
{
    uint8_t d[DYN_BYTES] = {0};
    uint64_t length = b->file->content_len;
    v->dyn_offset = be64_get(v->footer + F_DATA_OFFSET);
    int r = v->dyn_offset < length ? blk_pread(b->file, v->dyn_offset, d,
                                               MIN(sizeof(d), length - v->dyn_offset))
                                   : 0;
    if (r < 0) {
        return error_errno(error, -r, "Error reading dynamic VHD header");
    }
    if (memcmp(d, "cxsparse", 8) != 0) {
        return error_msg(error, "Invalid header magic");
    }
    v->block_size = be32_get(d + D_BLOCK_SIZE);
    v->entries = be32_get(d + D_ENTRIES);
    v->table_offset = be64_get(d + D_TABLE_OFFSET);
    if (!judge_dynamic(v, error)) {
        return false;
    }
    v->bitmap_bytes = ALIGN_UP(v->block_size / (8 * SECTOR), SECTOR);
    v->bitmap_bytes = MAX(v->bitmap_bytes, (uint32_t)SECTOR);
    v->table_end = v->table_offset + v->entries * 4ull;
    v->pages = pages_new(b->file, PAGE, CACHE);
    if (!b->read_only) {
        v->whole = g_try_malloc0(v->entries / 8 + 1);
        v->all_marked = g_try_malloc(v->bitmap_bytes);
        if (!v->whole || !v->all_marked) {
            return error_errno(error, ENOMEM,
                               "Unable to allocate memory for page table");
        }
        memset(v->all_marked, 0xff, v->bitmap_bytes);
    }
    b->limits.alloc_unit = v->block_size;
    return find_end(b, v, error);
}

static bool vpc_open(struct blk *b, json_t *opts, GError **error)
{
    struct vpc *v = g_new0(struct vpc, 1);
    b->priv = v;
    if (!read_footer(b, v, error) || !find_size(v, opts, error)) {
        return false;
    }
    b->content_len = v->size;
    return v->fixed || open_dynamic(b, v, error);
}

static void vpc_close(struct blk *b)
{
    struct vpc *v = b->priv;
    if (v) {
        pages_free(v->pages);
        g_free(v->whole);
        g_free(v->all_marked);
        g_free(v);
    }
}

/* ---- the map ------------------------------------------------------------------------
 */

static bool bit(const uint8_t *bits, uint32_t n)
{
    return bits[n / 8] >> (n % 8) & 1;
}

static void set_bit(uint8_t *bits, uint32_t n)
{
    bits[n / 8] = (uint8_t)(bits[n / 8] | 1u << (n % 8));
}

/* Where a block is; -EIO when that is over the headers or the table. */
static int place_of(const struct vpc *v, uint32_t entry, uint64_t *ret)
{
    uint64_t at = (uint64_t)entry * SECTOR, end = at + v->bitmap_bytes + v->block_size;
    bool over_table = at < v->table_end && end > v->table_offset;
    bool over_header = v->dyn_offset < end && at < v->dyn_offset + DYN_BYTES;
    *ret = at;
    return at < FOOTER_BYTES || over_table || over_header ? -EIO : 0;
}

/* Whether all sectors of the block are marked as written; -EAGAIN when that is to be
 * read. */
static int is_whole(struct blk *b, uint32_t index, uint64_t place, bool cached)
{
    struct vpc *v = b->priv;
    if (b->read_only || bit(v->whole, index)) {
        return 1;
    }
    if (cached) {
        return -EAGAIN;
    }
    g_autofree uint8_t *marks = g_try_malloc(v->bitmap_bytes);
    int r = marks ? blk_pread(b->file, place, marks, v->bitmap_bytes) : -ENOMEM;
    if (r < 0) {
        return r;
    }
    uint32_t used = MAX(v->block_size / SECTOR / 8, 1);
    bool whole = v->block_size < 8 * SECTOR ? marks[0] == 0xff
                                            : memcmp(marks, v->all_marked, used) == 0;
    if (whole) {
        set_bit(v->whole, index);
    }
    return whole;
}

static int map(struct blk *b, uint64_t offset, uint64_t len, bool cached,
               struct blk_extent *ret)
{
    enum { MOST = 4096 }; /* entries looked at for one answer */
    struct vpc *v = b->priv;
    uint32_t index = (uint32_t)(offset / v->block_size), entry;
    uint64_t in = offset % v->block_size, place;
    int r = pages_get_be32(v->pages, v->table_offset + index * 4ull, cached, &entry);
    if (r < 0) {
        return r;
    }
    *ret =
        (struct blk_extent){.kind = BLK_EXT_ZERO, .len = MIN(len, v->block_size - in)};
    if (entry == NO_BLOCK) {
        for (uint32_t n = 1; n < MOST && ret->len < len; n++) {
            if (pages_get_be32(v->pages, v->table_offset + (index + n) * 4ull, cached,
                               &entry) < 0 ||
                entry != NO_BLOCK) {
                break;
            }
            ret->len = MIN(len, ret->len + v->block_size);
        }
        return 0;
    }
    r = place_of(v, entry, &place);
    r = r ? r : is_whole(b, index, place, cached);
    if (r < 0) {
        return r;
    }
    ret->kind = BLK_EXT_DATA;
    ret->flags = r ? BLK_EXT_IN_PLACE : 0;
    ret->child = b->file;
    ret->offset = place + v->bitmap_bytes + in;
    return 0;
}

static void map_fixed(struct blk *b, uint64_t offset, uint64_t len,
                      struct blk_extent *ret)
{
    *ret = (struct blk_extent){.kind = BLK_EXT_DATA,
                               .flags = BLK_EXT_IN_PLACE | BLK_EXT_SPARSE,
                               .len = len,
                               .child = b->file,
                               .offset = offset};
}

static int vpc_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    const struct vpc *v = b->priv;
    if (v->fixed) {
        map_fixed(b, offset, len, ret);
        return 0;
    }
    return map(b, offset, len, false, ret);
}

static int vpc_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                          struct blk_extent *ret)
{
    const struct vpc *v = b->priv;
    if (v->fixed) {
        map_fixed(b, offset, len, ret);
        return 0;
    }
    return map(b, offset, len, true, ret);
}

/* ---- writing ------------------------------------------------------------------------
 */

/* A block that is there, but not marked as written in all its sectors. */
static int mark_all(struct blk *b, struct blk_reservation *r, uint64_t place)
{
    struct vpc *v = b->priv;
    int err = blk_pwrite(b->file, place, v->all_marked, v->bitmap_bytes);
    if (err == 0) {
        set_bit(v->whole, (uint32_t)(r->offset / v->block_size));
        r->child_offset = place + v->bitmap_bytes;
        r->tag[0] = NO_BLOCK; /* nothing to publish */
    }
    return err;
}

/* The footer first: it is where the new block shall be. */
static int new_block(struct blk *b, struct blk_reservation *r)
{
    struct vpc *v = b->priv;
    uint64_t place = v->end, end = place + v->bitmap_bytes + v->block_size;
    uint64_t have = b->file->content_len;
    if (place / SECTOR >= NO_BLOCK) {
        return -ENOSPC;
    }
    int err = blk_pwrite(b->file, end, v->footer, FOOTER_BYTES);
    if (err == 0 && place < have) {
        err = blk_run(b->file, BLK_ZERO, place, NULL, 0, MIN(have, end) - place,
                      BLK_MAY_UNMAP);
    }
    err = err ? err : blk_pwrite(b->file, place, v->all_marked, v->bitmap_bytes);
    if (err == 0) {
        v->end = end;
        r->child_offset = place + v->bitmap_bytes;
        r->tag[0] = place / SECTOR;
    }
    return err;
}

static int vpc_reserve(struct blk *b, struct blk_reservation *r)
{
    struct vpc *v = b->priv;
    uint64_t in = r->offset % v->block_size, place;
    uint32_t index = (uint32_t)(r->offset / v->block_size), entry;
    int err = pages_get_be32(v->pages, v->table_offset + index * 4ull, false, &entry);
    if (err) {
        return err;
    }
    r->len = MIN(r->len, v->block_size - in);
    r->guest_start = r->offset - in;
    r->guest_len = v->block_size;
    r->child = b->file;
    r->fill = BLK_FILL_NO;
    if (entry == NO_BLOCK) {
        return new_block(b, r);
    }
    err = place_of(v, entry, &place);
    return err ? err : mark_all(b, r, place);
}

static int vpc_publish(struct blk *b, const struct blk_reservation *r)
{
    struct vpc *v = b->priv;
    uint32_t index = (uint32_t)(r->guest_start / v->block_size);
    if (r->tag[0] == NO_BLOCK) {
        return 0;
    }
    set_bit(v->whole, index);
    return pages_put_be32(v->pages, v->table_offset + index * 4ull,
                          (uint32_t)r->tag[0]);
}

static void vpc_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct vpc *v = b->priv;
    uint64_t place = r->tag[0] * SECTOR;
    if (r->tag[0] != NO_BLOCK && v->end == place + v->bitmap_bytes + v->block_size) {
        v->end = place;
    }
}

static int vpc_flush(struct blk *b)
{
    const struct vpc *v = b->priv;
    return v->fixed ? 0 : pages_write(v->pages);
}

/* ---- creating -----------------------------------------------------------------------
 */

struct geometry {
    uint32_t cylinders, heads, sectors;
};

/* Appendix "CHS Calculation": the geometry that holds at most @total sectors. */
static struct geometry geometry_of(uint64_t total)
{
    struct geometry g;
    uint64_t tracks;
    total = MIN(total, MAX_GEOMETRY);
    if (total >= (uint64_t)MAX_CYLINDERS * MAX_HEADS * 63) {
        g = (struct geometry){0, 16, 255};
        tracks = total / 255;
    } else {
        g.sectors = 17;
        tracks = total / 17;
        g.heads = (uint32_t)MAX((tracks + 1023) / 1024, 4);
        if (tracks >= g.heads * 1024 || g.heads > 16) {
            g = (struct geometry){0, 16, 31};
            tracks = total / 31;
        }
        if (tracks >= g.heads * 1024) {
            g = (struct geometry){0, 16, 63};
            tracks = total / 63;
        }
    }
    g.cylinders = (uint32_t)(tracks / g.heads);
    return g;
}

static uint64_t sectors_of(const struct geometry *g)
{
    return (uint64_t)g->cylinders * g->heads * g->sectors;
}

/* A geometry for at least @size bytes, and what it comes to. */
static struct geometry geometry_for(uint64_t size, bool force, uint64_t *ret_sectors)
{
    uint64_t wanted = (size + SECTOR - 1) / SECTOR;
    struct geometry g = {MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS};
    if (!force) {
        uint64_t try = MIN(wanted, MAX_GEOMETRY);
        g = (struct geometry){0, 0, 0};
        for (uint64_t i = 0; sectors_of(&g) < try; i++) {
            g = geometry_of(wanted + i);
        }
    }
    *ret_sectors = sectors_of(&g) == MAX_GEOMETRY ? wanted : sectors_of(&g);
    return g;
}

static void make_footer(uint8_t *f, const struct geometry *g, uint64_t size, bool fixed,
                        bool force)
{
    memset(f, 0, FOOTER_BYTES);
    memcpy(f, "conectix", 8);
    be32_put(f + F_FEATURES, 2);
    be32_put(f + F_VERSION, 0x00010000);
    be64_put(f + F_DATA_OFFSET, fixed ? UINT64_MAX : FOOTER_BYTES);
    be32_put(f + F_TIMESTAMP, (uint32_t)(time(NULL) - EPOCH_2000));
    memcpy(f + F_CREATOR, force ? "qem2" : "qemu", 4);
    be32_put(f + F_CREATOR_VERSION, 0x00050003);
    memcpy(f + F_CREATOR_OS, "Wi2k", 4);
    be64_put(f + F_ORIGINAL_SIZE, size);
    be64_put(f + F_CURRENT_SIZE, size);
    be16_put(f + F_CYLINDERS, (uint16_t)g->cylinders);
    f[F_HEADS] = (uint8_t)g->heads;
    f[F_SECTORS] = (uint8_t)g->sectors;
    be32_put(f + F_TYPE, fixed ? TYPE_FIXED : TYPE_DYNAMIC);
    for (unsigned i = 0; i < 16; i += 4) {
        be32_put(f + F_UUID + i, g_random_int());
    }
    be32_put(f + F_CHECKSUM, checksum(f, FOOTER_BYTES));
}

static int write_dynamic(struct blk *file, const uint8_t *footer, uint64_t size)
{
    enum { TABLE = 3 * SECTOR, STEP = 65536 };
    uint32_t entries = (uint32_t)((size + NEW_BLOCK - 1) / NEW_BLOCK);
    uint32_t table = ALIGN_UP(entries * 4, SECTOR);
    g_autofree uint8_t *none = g_malloc(STEP);
    uint8_t d[DYN_BYTES] = "cxsparse";
    memset(none, 0xff, STEP);
    be64_put(d + D_DATA_OFFSET, UINT64_MAX);
    be64_put(d + D_TABLE_OFFSET, TABLE);
    be32_put(d + D_VERSION, 0x00010000);
    be32_put(d + D_ENTRIES, entries);
    be32_put(d + D_BLOCK_SIZE, NEW_BLOCK);
    be32_put(d + D_CHECKSUM, checksum(d, sizeof(d)));
    int r = blk_pwrite(file, TABLE + table, footer, FOOTER_BYTES);
    for (uint32_t i = 0; r == 0 && i < table; i += STEP) {
        r = blk_pwrite(file, TABLE + i, none, MIN(table - i, STEP));
    }
    r = r ? r : blk_pwrite(file, FOOTER_BYTES, d, sizeof(d));
    return r ? r : blk_pwrite(file, 0, footer, FOOTER_BYTES);
}

static bool vpc_create(struct blk *file, json_t *opts, GError **error)
{
    uint64_t size = blk_opt_u64(opts, "size", 0), sectors;
    bool force = blk_opt_bool(opts, "force_size", false);
    const char *subformat = blk_opt_str(opts, "subformat", "dynamic");
    bool fixed = g_str_equal(subformat, "fixed");
    uint8_t footer[FOOTER_BYTES];
    if (!fixed && !g_str_equal(subformat, "dynamic")) {
        return error_msg(error, "Parameter 'subformat' does not accept value '%s'",
                         subformat);
    }
    if (size > MAX_SIZE) {
        return error_msg(error, "The image size is too large for file format 'vpc'");
    }
    struct geometry g = geometry_for(size, force, &sectors);
    make_footer(footer, &g, sectors * SECTOR, fixed, force);
    if (fixed &&
        !blk_truncate(file, sectors * SECTOR + FOOTER_BYTES, BLK_PREALLOC_OFF, error)) {
        return false;
    }
    int r = fixed ? blk_pwrite(file, sectors * SECTOR, footer, FOOTER_BYTES)
                  : write_dynamic(file, footer, sectors * SECTOR);
    return r == 0 || error_errno(error, -r, "Unable to create or write VHD header");
}

/* ---- the format ---------------------------------------------------------------------
 */

static void vpc_info(struct blk *b, json_t *info)
{
    const struct vpc *v = b->priv;
    if (!v->fixed) {
        json_object_set_new(info, "cluster-size", json_integer(v->block_size));
    }
}

static const struct blk_write_ops vpc_write_ops = {
    .reserve = vpc_reserve,
    .publish = vpc_publish,
    .cancel = vpc_cancel,
    .flush = vpc_flush,
    .finish = vpc_flush,
};

static const struct blk_option vpc_options[] = {
    {"force_size_calc", BLK_OPT_STR, NULL,
     "Force disk size calculation to use either CHS geometry, or use the disk "
     "current_size specified in the VHD footer. {chs, current_size}"},
    {0},
};

static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"subformat", BLK_OPT_STR, NULL,
     "Type of virtual hard disk format. Supported formats are {dynamic (default) | "
     "fixed} "},
    {"force_size", BLK_OPT_BOOL, NULL,
     "Force disk size calculation to use the actual size specified, rather than using "
     "the nearest CHS-based calculation"},
    {0},
};

static const struct blk_create_ops vpc_create_ops = {
    .options = create_options,
    .create = vpc_create,
};

const struct blk_format vpc_format = {
    .name = "vpc",
    .help = "Virtual PC's and Hyper-V's VHD: fixed or dynamic",
    .options = vpc_options,
    .probe = vpc_probe,
    .open = vpc_open,
    .close = vpc_close,
    .map = vpc_map,
    .map_cached = vpc_map_cached,
    .info = vpc_info,
    .writable = &vpc_write_ops,
    .creatable = &vpc_create_ops,
};
