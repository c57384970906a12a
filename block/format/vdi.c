#include "block/format/vdi.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/format/pages.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * VDI, version 1.1 (VirtualBox's VDICore.h). Little-endian:
 *
 *     0            header, 512 bytes (the field's places are in the enum below)
 *     offset_bmap  one 32-bit entry per block of the disk:
 *                      n           block n of the data: offset_data + n * block_size
 *                      0xffffffff  never written: zero
 *                      0xfffffffe  discarded: zero
 *     offset_data  blocks of 1 MiB
 *
 * There is no backing file. Static images have every entry set when they are made.
 *
 * A write to a block without space takes the first number that no entry has. QEMU takes
 * blocks_allocated of the header instead, so both must agree: blocks are never given
 * back, and that field is written with the table. After a power cut it may disagree
 * with the table; then a block number may be free below others, and is found by
 * looking at the whole table before the first allocation.
 */

enum {
    BLOCK = 1 << 20,
    HEADER_BYTES = 512,
    PAGE = 16384,
    CACHE = 16 << 20,

    F_SIGNATURE = 0x40,
    F_VERSION = 0x44,
    F_HEADER_SIZE = 0x48,
    F_IMAGE_TYPE = 0x4c,
    F_OFFSET_BMAP = 0x154,
    F_OFFSET_DATA = 0x158,
    F_SECTOR_SIZE = 0x168,
    F_DISK_SIZE = 0x170,
    F_BLOCK_SIZE = 0x178,
    F_BLOCKS = 0x180,
    F_ALLOCATED = 0x184,
    F_UUID_IMAGE = 0x188,
    F_UUID_SNAP = 0x198,
    F_UUID_LINK = 0x1a8,
    F_UUID_PARENT = 0x1b8,

    TYPE_DYNAMIC = 1,
    TYPE_STATIC = 2,
};

#define SIGNATURE   0xbeda107fu
#define VERSION_1_1 0x00010001u
#define UNALLOCATED 0xffffffffu
#define DISCARDED   0xfffffffeu
#define BLOCKS_MAX  0x1fffff80u
#define SIZE_MAX_   ((uint64_t)BLOCKS_MAX * BLOCK)

struct vdi {
    struct pages *pages; /* of b->file: header and table */
    uint64_t bmap_offset, data_offset;
    uint32_t blocks;    /* entries of the table */
    uint32_t allocated; /* as the header says   */
    bool fixed;
    uint8_t *used; /* one bit per block of data; NULL until the first allocation */
    uint32_t next; /* all below are used */
};

static int vdi_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= HEADER_BYTES && le32_get(head + F_SIGNATURE) == SIGNATURE ? 100 : 0;
}

static int get_entry(struct vdi *v, uint32_t index, bool cached, uint32_t *ret)
{
    return pages_get_le32(v->pages, v->bmap_offset + index * 4ull, cached, ret);
}

static bool has_block(uint32_t entry)
{
    return entry < DISCARDED;
}

/* ---- opening ------------------------------------------------------------------------
 */

static bool is_null(const uint8_t *uuid)
{
    static const uint8_t null[16];
    return memcmp(uuid, null, sizeof(null)) == 0;
}

static bool judge_numbers(const uint8_t *h, uint64_t size, GError **error)
{
    uint32_t bmap = le32_get(h + F_OFFSET_BMAP), data = le32_get(h + F_OFFSET_DATA);
    uint32_t blocks = le32_get(h + F_BLOCKS);
    if (bmap % 512) {
        return error_msg(
            error, "unsupported VDI image (unaligned block map offset 0x%" PRIx32 ")",
            bmap);
    }
    if (data % 512) {
        return error_msg(
            error, "unsupported VDI image (unaligned data offset 0x%" PRIx32 ")", data);
    }
    if (le32_get(h + F_SECTOR_SIZE) != 512) {
        return error_msg(error,
                         "unsupported VDI image (sector size %" PRIu32 " is not 512)",
                         le32_get(h + F_SECTOR_SIZE));
    }
    if (le32_get(h + F_BLOCK_SIZE) != BLOCK) {
        return error_msg(error,
                         "unsupported VDI image (block size %" PRIu32 " is not %u)",
                         le32_get(h + F_BLOCK_SIZE), (unsigned)BLOCK);
    }
    if (size > (uint64_t)blocks * BLOCK) {
        return error_msg(error,
                         "unsupported VDI image (disk size %" PRIu64 ", image bitmap "
                         "has room for %" PRIu64 ")",
                         size, (uint64_t)blocks * BLOCK);
    }
    if (!is_null(h + F_UUID_LINK)) {
        return error_msg(error, "unsupported VDI image (non-NULL link UUID)");
    }
    if (!is_null(h + F_UUID_PARENT)) {
        return error_msg(error, "unsupported VDI image (non-NULL parent UUID)");
    }
    if (blocks > BLOCKS_MAX) {
        return error_msg(
            error, "unsupported VDI image (too many blocks %" PRIu32 ", max is %u)",
            blocks, BLOCKS_MAX);
    }
    return true;
}

static bool judge_header(const uint8_t *h, uint64_t *ret_size, GError **error)
{
    uint64_t size = le64_get(h + F_DISK_SIZE);
    uint32_t version = le32_get(h + F_VERSION);
    if (size > SIZE_MAX_) {
        return error_msg(error,
                         "Unsupported VDI image size (size is 0x%" PRIx64 ", max "
                         "supported is 0x%" PRIx64 ")",
                         size, SIZE_MAX_);
    }
    *ret_size = ALIGN_UP(size, 512); /* VirtualBox makes odd ones when converting */
    if (le32_get(h + F_SIGNATURE) != SIGNATURE) {
        return error_msg(error, "Image not in VDI format (bad signature %08" PRIx32 ")",
                         le32_get(h + F_SIGNATURE));
    }
    if (version != VERSION_1_1) {
        return error_msg(error,
                         "unsupported VDI image (version %" PRIu32 ".%" PRIu32 ")",
                         version >> 16, version & 0xffff);
    }
    return judge_numbers(h, *ret_size, error);
}

/* The table must be in the file as a whole. */
static bool table_in_file(const struct vdi *v, const struct blk *file, GError **error)
{
    uint64_t bytes = ALIGN_UP(v->blocks * 4ull, 512);
    return bytes == 0 || ck_range(v->bmap_offset, bytes, blk_length(file)) ||
           error_msg(error,
                     "block map at 0x%" PRIx64 " (%" PRIu64
                     " bytes) is past the end of the file",
                     v->bmap_offset, bytes);
}

static bool vdi_open(struct blk *b, json_t *opts, GError **error)
{
    struct vdi *v = g_new0(struct vdi, 1);
    uint8_t h[HEADER_BYTES] = {0};
    uint64_t size = 0;
    b->priv = v;
    int r = blk_pread(b->file, 0, h, MIN(sizeof(h), blk_length(b->file)));
    if (r < 0) {
        return error_errno(error, -r, "cannot read the VDI header");
    }
    if (!judge_header(h, &size, error)) {
        return false;
    }
    v->bmap_offset = le32_get(h + F_OFFSET_BMAP);
    v->data_offset = le32_get(h + F_OFFSET_DATA);
    v->blocks = le32_get(h + F_BLOCKS);
    v->allocated = le32_get(h + F_ALLOCATED);
    v->fixed = le32_get(h + F_IMAGE_TYPE) == TYPE_STATIC;
    if (!table_in_file(v, b->file, error)) {
        return false;
    }
    v->pages = pages_new(b->file, PAGE, CACHE);
    b->content_len = size;
    b->limits.alloc_unit = BLOCK;
    return true;
}

static void vdi_close(struct blk *b)
{
    struct vdi *v = b->priv;
    if (v) {
        pages_free(v->pages);
        g_free(v->used);
        g_free(v);
    }
}

/* ---- the map ------------------------------------------------------------------------
 */

static int data_extent(struct blk *b, uint32_t entry, uint64_t in,
                       struct blk_extent *ret)
{
    const struct vdi *v = b->priv;
    if (entry >= v->blocks) {
        return -EIO;
    }
    ret->kind = BLK_EXT_DATA;
    ret->flags = BLK_EXT_IN_PLACE | (v->fixed ? BLK_EXT_SPARSE : 0);
    ret->child = b->file;
    ret->offset = v->data_offset + (uint64_t)entry * BLOCK + in;
    return 0;
}

static int map(struct blk *b, uint64_t offset, uint64_t len, bool cached,
               struct blk_extent *ret)
{
    enum { MOST = 4096 }; /* blocks looked at for one answer */
    struct vdi *v = b->priv;
    uint32_t index = (uint32_t)(offset / BLOCK), first, entry;
    uint64_t in = offset % BLOCK;
    int r = get_entry(v, index, cached, &first);
    if (r < 0) {
        return r;
    }
    *ret = (struct blk_extent){.kind = BLK_EXT_ZERO, .len = MIN(len, BLOCK - in)};
    if (has_block(first) && (r = data_extent(b, first, in, ret)) < 0) {
        return r;
    }
    for (uint32_t n = 1; n < MOST && ret->len < len; n++) {
        if (get_entry(v, index + n, cached, &entry) < 0) {
            break;
        }
        bool follows = has_block(first) ? entry == first + n && entry < v->blocks
                                        : !has_block(entry);
        if (!follows) {
            break;
        }
        ret->len = MIN(len, ret->len + BLOCK);
    }
    return 0;
}

static int vdi_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    return map(b, offset, len, false, ret);
}

static int vdi_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                          struct blk_extent *ret)
{
    return map(b, offset, len, true, ret);
}

/* ---- writing ------------------------------------------------------------------------
 */

static bool bit(const uint8_t *bits, uint32_t n)
{
    return bits[n / 8] >> (n % 8) & 1;
}

static void set_bit(uint8_t *bits, uint32_t n, bool on)
{
    bits[n / 8] = (uint8_t)((bits[n / 8] & ~(1u << (n % 8))) | (unsigned)on << (n % 8));
}

/* Which blocks of data the table has. */
static int find_used(struct vdi *v)
{
    g_autofree uint8_t *used = g_try_malloc0(v->blocks / 8 + 1);
    if (!used) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < v->blocks; i++) {
        uint32_t entry;
        int r = get_entry(v, i, false, &entry);
        if (r < 0) {
            return r;
        }
        if (has_block(entry) && entry < v->blocks) {
            set_bit(used, entry, true);
        }
    }
    v->used = g_steal_pointer(&used);
    return 0;
}

static int vdi_reserve(struct blk *b, struct blk_reservation *r)
{
    struct vdi *v = b->priv;
    int err = v->used ? 0 : find_used(v);
    if (err) {
        return err;
    }
    while (v->next < v->blocks && bit(v->used, v->next)) {
        v->next++;
    }
    if (v->next == v->blocks) {
        return -EIO; /* more entries than blocks: some are used twice */
    }
    uint64_t in = r->offset % BLOCK, place = v->data_offset + (uint64_t)v->next * BLOCK;
    r->len = MIN(r->len, BLOCK - in);
    r->guest_start = r->offset - in;
    r->guest_len = BLOCK;
    r->child = b->file;
    r->child_offset = place;
    r->fill = BLK_FILL_NO;
    r->tag[0] = v->next;
    if (r->len < BLOCK && (err = pages_zero_space(b->file, place, BLOCK)) < 0) {
        return err;
    }
    set_bit(v->used, v->next, true);
    return 0;
}

static int put_allocated(struct vdi *v, uint32_t n)
{
    v->allocated = n;
    return pages_put_le32(v->pages, F_ALLOCATED, n);
}

static int vdi_publish(struct blk *b, const struct blk_reservation *r)
{
    struct vdi *v = b->priv;
    int err = put_allocated(v, v->allocated + 1);
    return err ? err
               : pages_put_le32(v->pages, v->bmap_offset + r->guest_start / BLOCK * 4,
                                (uint32_t)r->tag[0]);
}

static void vdi_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct vdi *v = b->priv;
    set_bit(v->used, (uint32_t)r->tag[0], false);
    v->next = MIN(v->next, (uint32_t)r->tag[0]);
}

static int vdi_flush(struct blk *b)
{
    const struct vdi *v = b->priv;
    return pages_write(v->pages);
}

/* ---- checking -----------------------------------------------------------------------
 */

static void tell(struct blk_check *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void tell(struct blk_check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (c->report) {
        c->report(c->opaque, true, line);
    }
}

/* Entries that point nowhere become "never written". */
static int fix_entry(struct vdi *v, struct blk_check *c, uint32_t index)
{
    if (!(c->fix & BLK_FIX_ERRORS)) {
        c->result.corruptions++;
        return 0;
    }
    c->result.corruptions_fixed++;
    return pages_put_le32(v->pages, v->bmap_offset + index * 4ull, UNALLOCATED);
}

static int check_table(struct vdi *v, struct blk_check *c, uint8_t *seen,
                       uint32_t *ret_allocated)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->blocks; i++) {
        uint32_t entry;
        int r = get_entry(v, i, false, &entry);
        if (r < 0) {
            return r;
        }
        if (!has_block(entry)) {
            continue;
        }
        if (entry >= v->blocks) {
            tell(c, "ERROR: block index %" PRIu32 " too large, is %" PRIu32, i, entry);
            if ((r = fix_entry(v, c, i)) < 0) {
                return r;
            }
            continue;
        }
        n++;
        if (bit(seen, entry)) {
            tell(c, "ERROR: block index %" PRIu32 " also used by %" PRIu32, entry,
                 entry);
            c->result.corruptions++;
        }
        set_bit(seen, entry, true);
    }
    *ret_allocated = n;
    return 0;
}

static int vdi_check(struct blk *b, struct blk_check *c)
{
    struct vdi *v = b->priv;
    g_autofree uint8_t *seen = g_try_malloc0(v->blocks / 8 + 1);
    uint32_t n;
    int r = seen ? check_table(v, c, seen, &n) : -ENOMEM;
    if (r < 0) {
        return r;
    }
    if (n != v->allocated) {
        tell(c, "ERROR: allocated blocks mismatch, is %" PRIu32 ", should be %" PRIu32,
             n, v->allocated);
        if (c->fix & BLK_FIX_ERRORS) {
            c->result.corruptions_fixed++;
            r = put_allocated(v, n);
        } else {
            c->result.corruptions++;
        }
    }
    return r ? r : c->fix ? pages_write(v->pages) : 0;
}

/* ---- creating -----------------------------------------------------------------------
 */

static void random_uuid(uint8_t *uuid)
{
    for (unsigned i = 0; i < 16; i += 4) {
        le32_put(uuid + i, g_random_int());
    }
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static int write_table(struct blk *file, uint32_t blocks, bool fixed)
{
    enum { STEP = 16384 };
    g_autofree uint8_t *buf = g_malloc(STEP * 4);
    for (uint32_t i = 0; i < blocks; i += STEP) {
        uint32_t n = MIN(blocks - i, STEP);
        uint32_t bytes = ALIGN_UP(n * 4, 512);
        memset(buf, 0, STEP * 4);
        for (uint32_t k = 0; k < n; k++) {
            le32_put(buf + k * 4, fixed ? i + k : UNALLOCATED);
        }
        int r = blk_pwrite(file, HEADER_BYTES + i * 4ull, buf, bytes);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static bool vdi_create(struct blk *file, json_t *opts, GError **error)
{
    uint64_t size = blk_opt_u64(opts, "size", 0);
    bool fixed = blk_opt_bool(opts, "static", false);
    if (size > SIZE_MAX_) {
        return error_msg(error,
                         "Unsupported VDI image size (size is 0x%" PRIx64 ", max "
                         "supported is 0x%" PRIx64 ")",
                         size, SIZE_MAX_);
    }
    uint32_t blocks = (uint32_t)((size + BLOCK - 1) / BLOCK);
    uint64_t table = ALIGN_UP(blocks * 4ull, 512);
    uint8_t h[HEADER_BYTES] = "<<< QEMU VM Virtual Disk Image >>>\n";
    le32_put(h + F_SIGNATURE, SIGNATURE);
    le32_put(h + F_VERSION, VERSION_1_1);
    le32_put(h + F_HEADER_SIZE, 0x180);
    le32_put(h + F_IMAGE_TYPE, fixed ? TYPE_STATIC : TYPE_DYNAMIC);
    le32_put(h + F_OFFSET_BMAP, HEADER_BYTES);
    le32_put(h + F_OFFSET_DATA, (uint32_t)(HEADER_BYTES + table));
    le32_put(h + F_SECTOR_SIZE, 512);
    le64_put(h + F_DISK_SIZE, ALIGN_UP(size, 512));
    le32_put(h + F_BLOCK_SIZE, BLOCK);
    le32_put(h + F_BLOCKS, blocks);
    le32_put(h + F_ALLOCATED, fixed ? blocks : 0);
    random_uuid(h + F_UUID_IMAGE);
    random_uuid(h + F_UUID_SNAP);
    int r = write_table(file, blocks, fixed);
    r = r ? r : blk_pwrite(file, 0, h, sizeof(h));
    if (r < 0) {
        return error_errno(error, -r, "Error writing header");
    }
    uint64_t end = HEADER_BYTES + table + (uint64_t)blocks * BLOCK;
    return !fixed || blk_truncate(file, end, BLK_PREALLOC_OFF, error);
}

/* ---- the format ---------------------------------------------------------------------
 */

static void vdi_info(struct blk *b, json_t *info)
{
    json_object_set_new(info, "cluster-size", json_integer(BLOCK));
}

static const struct blk_write_ops vdi_write_ops = {
    .reserve = vdi_reserve,
    .publish = vdi_publish,
    .cancel = vdi_cancel,
    .flush = vdi_flush,
    .finish = vdi_flush,
};

static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"static", BLK_OPT_BOOL, NULL, "VDI static (pre-allocated) image", "off"},
    {0},
};

static const struct blk_create_ops vdi_create_ops = {
    .options = create_options,
    .create = vdi_create,
};

static const struct blk_check_ops vdi_check_ops = {.check = vdi_check};

const struct blk_format vdi_format = {
    .name = "vdi",
    .help = "VirtualBox's: blocks of 1 MiB, dynamic or static",
    .probe = vdi_probe,
    .open = vdi_open,
    .close = vdi_close,
    .map = vdi_map,
    .map_cached = vdi_map_cached,
    .info = vdi_info,
    .writable = &vdi_write_ops,
    .creatable = &vdi_create_ops,
    .checkable = &vdi_check_ops,
};
