#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Headers of extents. Every number is bounded here once; the map does arithmetic only.
 */

enum {
    K_VERSION = 4,
    K_FLAGS = 8,
    K_CAPACITY = 12,
    K_GRAIN = 20,
    K_DESC_OFFSET = 28,
    K_DESC_SIZE = 36,
    K_GT_ENTRIES = 44,
    K_RGD = 48,
    K_GD = 56,
    K_OVERHEAD = 64,
    K_COMPRESSION = 77,

    GRAIN_SECTORS_MAX = 0x200000,
    MARKER_FOOTER = 3,
    PAGE = 16384,
    CACHE = 16 << 20,
};

#define GD_ENTRIES_MAX (UINT64_C(32) << 20)
#define SECTORS_MAX    ((uint64_t)INT64_MAX / VMDK_SECTOR)

#define SE_MAGIC          UINT64_C(0x00000000cafebabe)
#define SE_VOLATILE_MAGIC UINT64_C(0x00000000cafecafe)
#define SE_VERSION        UINT64_C(0x0000000200000001)

/* @len bytes at @offset with zeros behind the end of the file. */
static bool read_padded(struct blk *file, uint64_t offset, uint8_t *buf, size_t len,
                        const char *what, GError **error)
{
    uint64_t length = file->content_len;
    size_t has = offset < length ? (size_t)MIN((uint64_t)len, length - offset) : 0;
    memset(buf + has, 0, len - has);
    int r = has ? blk_pread(file, offset, buf, has) : 0;
    return r == 0 || error_errno(error, -r, "Could not read %s from file '%s'", what,
                                 blk_get_filename(file));
}

/* Sizes that all kinds share. */
static bool judge_tables(struct vmdk_extent *e, uint64_t grain_sectors, GError **error)
{
    if (grain_sectors == 0 || e->gt_entries == 0) {
        return error_msg(error, "L1 entry size is invalid");
    }
    if (grain_sectors > GRAIN_SECTORS_MAX) {
        return error_msg(error, "Invalid granularity, image may be corrupt");
    }
    if (e->gd_entries > GD_ENTRIES_MAX) {
        return error_msg(error, "L1 size too big");
    }
    e->grain = grain_sectors * VMDK_SECTOR;
    if (e->compressed && e->grain > 64 * MIB) {
        return error_msg(error, "Unsupported grain size: %" PRIu64, grain_sectors);
    }
    e->pages = pages_new(e->file, PAGE, CACHE);
    return true;
}

static bool sector_fits(uint64_t sector)
{
    return sector <= SECTORS_MAX / 2;
}

/* ---- KDMV ---------------------------------------------------------------------------
 */

/* A stream's header is at its end, between two markers. */
static bool read_stream_footer(struct vmdk_extent *e, uint8_t *h, GError **error)
{
    uint8_t f[3 * VMDK_SECTOR];
    uint64_t length = ALIGN_DOWN((uint64_t)e->file->content_len, VMDK_SECTOR);
    if (length < sizeof(f)) {
        return error_msg(error, "Failed to read footer");
    }
    if (!read_padded(e->file, length - sizeof(f), f, sizeof(f), "footer", error)) {
        return false;
    }
    const uint8_t *head = f + VMDK_SECTOR, *eos = f + 2 * VMDK_SECTOR;
    if (be32_get(head) != VMDK_MAGIC_KDMV || le32_get(f + 8) != 0 ||
        le32_get(f + 12) != MARKER_FOOTER || le64_get(eos) != 0 ||
        le32_get(eos + 8) != 0 || le32_get(eos + 12) != 0) {
        return error_msg(error, "Invalid footer");
    }
    memcpy(h, head, VMDK_HEADER_BYTES);
    e->at_end = true;
    return true;
}

static bool judge_kdmv(struct blk *b, struct vmdk_extent *e, const uint8_t *h,
                       GError **error)
{
    uint64_t capacity = le64_get(h + K_CAPACITY), grain = le64_get(h + K_GRAIN);
    uint64_t gd = le64_get(h + K_GD), rgd = le64_get(h + K_RGD), per_table;
    uint64_t overhead = le64_get(h + K_OVERHEAD);
    uint32_t flags = le32_get(h + K_FLAGS);
    e->version = le32_get(h + K_VERSION);
    e->compressed = le16_get(h + K_COMPRESSION) == 1;
    e->markers = flags & VMDK_FLAG_MARKER;
    e->zero_grains = flags & VMDK_FLAG_ZERO;
    e->gt_entries = le32_get(h + K_GT_ENTRIES);
    if (e->version > 3) {
        return error_msg(error, "Unsupported VMDK version %" PRIu32, e->version);
    }
    if (e->version == 3 && !b->read_only && !(blk_open_flags(b) & BLK_OPEN_NO_IO) &&
        !e->compressed) {
        return error_msg(error, "VMDK version 3 must be read only");
    }
    if (e->gt_entries > 512) {
        return error_msg(error, "L2 table size too big");
    }
    if (grain == 0 || e->gt_entries == 0) {
        return error_msg(error, "L1 entry size is invalid");
    }
    if (!ck_mul(grain, e->gt_entries, &per_table) || !sector_fits(capacity) ||
        !sector_fits(gd) || !sector_fits(overhead)) {
        return error_msg(error, "Invalid granularity, image may be corrupt");
    }
    if (e->file->content_len < overhead * VMDK_SECTOR) {
        return error_msg(error, "File truncated, expecting at least %" PRIu64 " bytes",
                         overhead * VMDK_SECTOR);
    }
    e->gd_entries = capacity / per_table + (capacity % per_table != 0);
    e->gd = gd * VMDK_SECTOR;
    e->rgd = (flags & VMDK_FLAG_RGD) && sector_fits(rgd) ? rgd * VMDK_SECTOR : 0;
    e->data_start = overhead * VMDK_SECTOR;
    e->len = capacity * VMDK_SECTOR;
    return judge_tables(e, grain, error);
}

static bool open_kdmv(struct blk *b, struct vmdk_extent *e, uint8_t *h,
                      uint64_t *ret_text_at, uint64_t *ret_text_bytes, GError **error)
{
    uint64_t at = le64_get(h + K_DESC_OFFSET), size = le64_get(h + K_DESC_SIZE);
    *ret_text_at = sector_fits(at) ? at * VMDK_SECTOR : 0;
    *ret_text_bytes = MIN(size, (uint64_t)VMDK_DESC_MAX / VMDK_SECTOR) * VMDK_SECTOR;
    if (le64_get(h + K_CAPACITY) == 0 && at) {
        return true; /* nothing but a text */
    }
    if (le64_get(h + K_GD) == VMDK_GD_AT_END && !read_stream_footer(e, h, error)) {
        return false;
    }
    return judge_kdmv(b, e, h, error);
}

/* ---- COWD, of ESX -------------------------------------------------------------------
 */

static bool open_cowd(struct vmdk_extent *e, const uint8_t *h, GError **error)
{
    e->gt_entries = 4096;
    e->len = (uint64_t)le32_get(h + 12) * VMDK_SECTOR;
    e->gd = (uint64_t)le32_get(h + 20) * VMDK_SECTOR;
    e->gd_entries = le32_get(h + 24);
    e->version = le32_get(h + 4);
    e->data_start = e->gd + e->gd_entries * 4;
    return judge_tables(e, le32_get(h + 16), error);
}

/* ---- seSparse, of ESX ---------------------------------------------------------------
 */

enum {
    S_VERSION = 8,
    S_CAPACITY = 16,
    S_GRAIN = 24,
    S_GT_SIZE = 32,
    S_FLAGS = 40,
    S_RESERVED = 48,
    S_VOLATILE = 80,
    S_GD = 128,
    S_GD_SIZE = 136,
    S_TABLES = 144,
    S_GRAINS = 192,
    S_PAD = 208,
    V_REPLAY = 24,
    V_PAD = 32,
};

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

static bool judge_se(const uint8_t *h, GError **error)
{
    if (le64_get(h) != SE_MAGIC) {
        return error_msg(error, "Bad const header magic: 0x%016" PRIx64, le64_get(h));
    }
    if (le64_get(h + S_VERSION) != SE_VERSION) {
        return error_msg(error, "Unsupported version: 0x%016" PRIx64,
                         le64_get(h + S_VERSION));
    }
    if (le64_get(h + S_GRAIN) != 8) {
        return error_msg(error, "Unsupported grain size: %" PRIu64,
                         le64_get(h + S_GRAIN));
    }
    if (le64_get(h + S_GT_SIZE) != 64) {
        return error_msg(error, "Unsupported grain table size: %" PRIu64,
                         le64_get(h + S_GT_SIZE));
    }
    if (le64_get(h + S_FLAGS) != 0) {
        return error_msg(error, "Unsupported flags: 0x%016" PRIx64,
                         le64_get(h + S_FLAGS));
    }
    if (!all_zero(h + S_RESERVED, 32)) {
        return error_msg(error,
                         "Unsupported reserved bits: 0x%016" PRIx64 " 0x%016" PRIx64
                         " 0x%016" PRIx64 " 0x%016" PRIx64,
                         le64_get(h + S_RESERVED), le64_get(h + S_RESERVED + 8),
                         le64_get(h + S_RESERVED + 16), le64_get(h + S_RESERVED + 24));
    }
    return all_zero(h + S_PAD, VMDK_SECTOR - S_PAD) ||
           error_msg(error, "Unsupported non-zero const header padding");
}

static bool judge_volatile(struct vmdk_extent *e, uint64_t sector, GError **error)
{
    uint8_t h[VMDK_SECTOR];
    if (!sector_fits(sector)) {
        return error_msg(error, "Bad volatile header magic: 0x%016" PRIx64,
                         UINT64_C(0));
    }
    if (!read_padded(e->file, sector * VMDK_SECTOR, h, sizeof(h), "volatile header",
                     error)) {
        return false;
    }
    if (le64_get(h) != SE_VOLATILE_MAGIC) {
        return error_msg(error, "Bad volatile header magic: 0x%016" PRIx64,
                         le64_get(h));
    }
    if (h[V_REPLAY]) {
        return error_msg(error, "Image is dirty, Replaying journal not supported");
    }
    return all_zero(h + V_PAD, VMDK_SECTOR - V_PAD) ||
           error_msg(error, "Unsupported non-zero volatile header padding");
}

static bool open_se(struct blk *b, struct vmdk_extent *e, const uint8_t *h,
                    GError **error)
{
    uint64_t capacity = le64_get(h + S_CAPACITY), gd = le64_get(h + S_GD);
    uint64_t tables = le64_get(h + S_TABLES), grains = le64_get(h + S_GRAINS);
    uint64_t gd_sectors = le64_get(h + S_GD_SIZE);
    if (!judge_se(h, error) || !judge_volatile(e, le64_get(h + S_VOLATILE), error)) {
        return false;
    }
    if (!b->read_only) {
        return error_msg(error, "No write support for seSparse images available");
    }
    if (!sector_fits(capacity) || !sector_fits(gd) || !sector_fits(tables) ||
        !sector_fits(grains) || !sector_fits(gd_sectors)) {
        return error_msg(error, "L1 size too big");
    }
    e->kind = VMDK_SE;
    e->gt_entries = 64 * VMDK_SECTOR / 8;
    e->gd_entries = gd_sectors * (VMDK_SECTOR / 8);
    e->gd = gd * VMDK_SECTOR;
    e->se_tables = tables * VMDK_SECTOR;
    e->se_grains = grains * VMDK_SECTOR;
    e->len = capacity * VMDK_SECTOR;
    return judge_tables(e, 8, error);
}

bool vmdk_open_sparse(struct blk *b, struct vmdk_extent *e, uint64_t *ret_text_at,
                      uint64_t *ret_text_bytes, GError **error)
{
    uint8_t h[VMDK_HEADER_BYTES];
    *ret_text_at = *ret_text_bytes = 0;
    e->kind = VMDK_SPARSE;
    if (e->file->content_len < 4) {
        return error_msg(error, "File is too small, not a valid image");
    }
    if (!read_padded(e->file, 0, h, sizeof(h), "header", error)) {
        return false;
    }
    if (g_str_equal(e->type, "SESPARSE")) {
        return open_se(b, e, h, error);
    }
    switch (be32_get(h)) {
    case VMDK_MAGIC_KDMV: return open_kdmv(b, e, h, ret_text_at, ret_text_bytes, error);
    case VMDK_MAGIC_COWD: return open_cowd(e, h, error);
    default: return error_msg(error, "Image not in VMDK format");
    }
}
