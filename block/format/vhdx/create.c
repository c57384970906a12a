#include "block/format/vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A new image, in the order of QEMU's: headers, log at 1 MiB, BAT, metadata, and blocks
 * 5 MiB behind the metadata's start.
 */

enum {
    DATA_AFTER_METADATA = 5 << 20,
    LEAVE_ALLOCATED = 1,
    ITEM_REQUIRED = 4,
    ITEM_OF_DISK = 2,
};

struct plan {
    struct vhdx v; /* the fields of the image, and for checksums */
    bool zero_state;
    uint64_t data_offset, end;
};

static uint32_t auto_block(uint64_t size)
{
    return size > 32768 * GIB ? 64 << 20
           : size > 100 * GIB ? 32 << 20
           : size > GIB       ? 16 << 20
                              : 8 << 20;
}

static bool take_sizes(struct plan *p, json_t *opts, GError **error)
{
    struct vhdx *v = &p->v;
    uint64_t log = blk_opt_u64(opts, "log_size", MIB);
    uint64_t block = blk_opt_u64(opts, "block_size", 0);
    v->size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    if (v->size > VHDX_SIZE_MAX) {
        return error_msg(error, "Image size too large; max of 64TB");
    }
    if (log >= UINT32_MAX) {
        return error_msg(error, "Log size must be smaller than 4 GB");
    }
    log = ALIGN_UP(log, MIB);
    if (log == 0 || log > UINT32_MAX) {
        return error_msg(error, "Log size must be a multiple of 1 MB");
    }
    block = block == 0 ? auto_block(v->size)
                       : MIN(ALIGN_UP(MIN(block, VHDX_BLOCK_MAX), MIB), VHDX_BLOCK_MAX);
    if (block & (block - 1)) {
        return error_msg(error, "Block size must be a power of two");
    }
    v->log_length = (uint32_t)log;
    v->block_size = (uint32_t)block;
    return true;
}

static void lay_out(struct plan *p)
{
    struct vhdx *v = &p->v;
    uint64_t payload = (v->size + v->block_size - 1) / v->block_size;
    v->logical_sector = 512;
    v->chunk_ratio = (UINT64_C(1) << 23) * 512 / v->block_size;
    v->bat_entries = payload ? payload + (payload - 1) / v->chunk_ratio : 0;
    v->log_offset = VHDX_START;
    v->bat_offset = v->log_offset + v->log_length;
    v->bat_bytes = MAX(ALIGN_UP(v->bat_entries * 8, MIB), MIB);
    v->meta_offset = v->bat_offset + v->bat_bytes;
    v->meta_bytes = MIB;
    p->data_offset = v->meta_offset + DATA_AFTER_METADATA;
    p->end = p->data_offset + (v->fixed ? v->size : 0);
}

static int write_identity(struct plan *p)
{
    static const char creator[] = "Lodge";
    uint8_t id[8 + 512] = VHDX_SIG_FILE;
    for (unsigned i = 0; creator[i]; i++) {
        le16_put(id + 8 + i * 2, (uint8_t)creator[i]);
    }
    return blk_pwrite(p->v.file, 0, id, sizeof(id));
}

static int write_first_headers(struct plan *p)
{
    struct vhdx *v = &p->v;
    memcpy(v->header, VHDX_SIG_HEADER, 4);
    le64_put(v->header + H_SEQUENCE, g_random_int());
    vhdx_random_guid(v->header + H_FILE_GUID);
    vhdx_random_guid(v->header + H_DATA_GUID);
    le16_put(v->header + H_VERSION, 1);
    le32_put(v->header + H_LOG_LENGTH, v->log_length);
    le64_put(v->header + H_LOG_OFFSET, v->log_offset);
    v->current = 1;
    return vhdx_write_headers(v);
}

static void put_region(uint8_t *t, unsigned i, const uint8_t *guid, uint64_t offset,
                       uint64_t len)
{
    uint8_t *e = t + 16 + i * 32;
    memcpy(e, guid, VHDX_GUID);
    le64_put(e + 16, offset);
    le32_put(e + 24, (uint32_t)len);
    le32_put(e + 28, 1);
}

static int write_regions(struct plan *p)
{
    struct vhdx *v = &p->v;
    g_autofree uint8_t *t = g_malloc0(VHDX_REGIONS_BYTES);
    memcpy(t, VHDX_SIG_REGIONS, 4);
    le32_put(t + 8, 2);
    put_region(t, 0, vhdx_guid_bat, v->bat_offset, v->bat_bytes);
    put_region(t, 1, vhdx_guid_metadata, v->meta_offset, v->meta_bytes);
    le32_put(t + 4, vhdx_checksum(v, t, VHDX_REGIONS_BYTES));
    int r = blk_pwrite(v->file, VHDX_REGIONS_1, t, VHDX_REGIONS_BYTES);
    return r ? r : blk_pwrite(v->file, VHDX_REGIONS_2, t, VHDX_REGIONS_BYTES);
}

/* An item, and its value behind those before. */
static void put_item(uint8_t *t, unsigned *i, uint32_t *at, const uint8_t *guid,
                     unsigned flags, const void *value, uint32_t len)
{
    uint8_t *e = t + 32 + *i * 32;
    memcpy(e, guid, VHDX_GUID);
    le32_put(e + 16, *at);
    le32_put(e + 20, len);
    le32_put(e + 24, flags);
    memcpy(t + *at, value, len);
    *at += len;
    ++*i;
    le16_put(t + 10, (uint16_t)*i);
}

static int write_metadata(struct plan *p)
{
    struct vhdx *v = &p->v;
    uint32_t at = VHDX_REGIONS_BYTES;
    unsigned n = 0, disk = ITEM_REQUIRED | ITEM_OF_DISK;
    uint8_t params[8], size[8], page83[VHDX_GUID], sector[4];
    g_autofree uint8_t *t = g_malloc0(VHDX_REGIONS_BYTES + VHDX_PAGE);
    memcpy(t, VHDX_SIG_METADATA, 8);
    le32_put(params, v->block_size);
    le32_put(params + 4, v->fixed ? LEAVE_ALLOCATED : 0);
    le64_put(size, v->size);
    vhdx_random_guid(page83);
    le32_put(sector, 512);
    put_item(t, &n, &at, vhdx_guid_params, ITEM_REQUIRED, params, sizeof(params));
    put_item(t, &n, &at, vhdx_guid_size, disk, size, sizeof(size));
    put_item(t, &n, &at, vhdx_guid_page83, disk, page83, sizeof(page83));
    put_item(t, &n, &at, vhdx_guid_logical, disk, sector, sizeof(sector));
    put_item(t, &n, &at, vhdx_guid_physical, disk, sector, sizeof(sector));
    return blk_pwrite(v->file, v->meta_offset, t, VHDX_REGIONS_BYTES + VHDX_PAGE);
}

static uint64_t first_entry(const struct plan *p, uint64_t block)
{
    return p->zero_state ? VHDX_ZERO
           : p->v.fixed  ? (p->data_offset + block * p->v.block_size) | VHDX_PRESENT
                         : VHDX_NOT_PRESENT;
}

static int write_bat(struct plan *p)
{
    enum { STEP = 16384 };
    struct vhdx *v = &p->v;
    g_autofree uint8_t *buf = g_malloc(STEP * 8);
    if (!p->zero_state && !v->fixed) {
        return 0; /* zeros, as the file is */
    }
    for (uint64_t i = 0; i < v->bat_entries; i += STEP) {
        uint64_t n = MIN(v->bat_entries - i, (uint64_t)STEP);
        for (uint64_t k = 0; k < n; k++) {
            uint64_t group = (i + k) / (v->chunk_ratio + 1);
            bool bitmap = (i + k) % (v->chunk_ratio + 1) == v->chunk_ratio;
            le64_put(buf + k * 8, bitmap ? 0 : first_entry(p, i + k - group));
        }
        int r = blk_pwrite(v->file, v->bat_offset + i * 8, buf, n * 8);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static bool vhdx_create(struct blk *file, json_t *opts, GError **error)
{
    const char *subformat = blk_opt_str(opts, "subformat", "dynamic");
    struct plan p = {.v = {.file = file, .fixed = g_str_equal(subformat, "fixed")}};
    if (!p.v.fixed && !g_str_equal(subformat, "dynamic")) {
        return error_msg(error, "Parameter 'subformat' does not accept value '%s'",
                         subformat);
    }
    p.zero_state = blk_opt_bool(opts, "block_state_zero", true);
    if (!take_sizes(&p, opts, error)) {
        return false;
    }
    vhdx_crc_init(&p.v);
    lay_out(&p);
    if (!blk_truncate(file, p.end, BLK_PREALLOC_OFF, error)) {
        return false;
    }
    int r = write_bat(&p);
    r = r ? r : write_metadata(&p);
    r = r ? r : write_regions(&p);
    r = r ? r : write_first_headers(&p);
    r = r ? r : write_identity(&p);
    return r == 0 || error_errno(error, -r, "Failed to write image headers");
}

static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size; max of 64TB."},
    {"log_size", BLK_OPT_SIZE, NULL, "Log size; min 1MB.", "1048576"},
    {"block_size", BLK_OPT_SIZE, NULL,
     "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
     "0"},
    {"subformat", BLK_OPT_STR, NULL,
     "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'."},
    {"block_state_zero", BLK_OPT_BOOL, NULL,
     "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not "
     "set to 'off' when using 'qemu-img convert' with subformat=dynamic."},
    {0},
};

const struct blk_create_ops vhdx_create_ops = {
    .options = create_options,
    .create = vhdx_create,
};
