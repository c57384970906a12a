#include "block/format/vhdx/vhdx_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* What is read when an image is opened: all of it checked before anything is used. */

/* As they are in the file: the first three parts little-endian. */
#define GUID(a, b, c, d0, d1, d2, d3, d4, d5, d6, d7)                                 \
    {                                                                                 \
        (a) & 0xff, (a) >> 8 & 0xff, (a) >> 16 & 0xff, (a) >> 24, (b)&0xff, (b) >> 8, \
            (c)&0xff, (c) >> 8, d0, d1, d2, d3, d4, d5, d6, d7                        \
    }

const uint8_t vhdx_guid_bat[] =
    GUID(0x2dc27766u, 0xf623, 0x4200, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08);
const uint8_t vhdx_guid_metadata[] =
    GUID(0x8b7ca206u, 0x4790, 0x4b9a, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e);
const uint8_t vhdx_guid_params[] =
    GUID(0xcaa16737u, 0xfa36, 0x4d43, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b);
const uint8_t vhdx_guid_size[] =
    GUID(0x2fa54224u, 0xcd1b, 0x4876, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8);
const uint8_t vhdx_guid_page83[] =
    GUID(0xbeca12abu, 0xb2e6, 0x4523, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46);
const uint8_t vhdx_guid_logical[] =
    GUID(0x8141bf1du, 0xa96f, 0x4709, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f);
const uint8_t vhdx_guid_physical[] =
    GUID(0xcda348c7u, 0x445d, 0x4471, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56);
static const uint8_t guid_parent[] =
    GUID(0xa8d35f2du, 0xb30b, 0x454d, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c);

/* ---- checksums ----------------------------------------------------------------------
 */

void vhdx_crc_init(struct vhdx *v)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (unsigned bit = 0; bit < 8; bit++) {
            c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        }
        v->crc_table[i] = c;
    }
}

uint32_t vhdx_crc(const struct vhdx *v, uint32_t crc, const void *buf, size_t len)
{
    const uint8_t *p = buf;
    crc = ~crc;
    while (len--) {
        crc = v->crc_table[(crc ^ *p++) & 0xff] ^ crc >> 8;
    }
    return ~crc;
}

uint32_t vhdx_checksum(const struct vhdx *v, const uint8_t *p, size_t len)
{
    static const uint8_t zero[4];
    uint32_t crc = vhdx_crc(v, 0, p, 4);
    crc = vhdx_crc(v, crc, zero, 4);
    return vhdx_crc(v, crc, p + 8, len - 8);
}

void vhdx_random_guid(uint8_t *guid)
{
    for (unsigned i = 0; i < VHDX_GUID; i += 4) {
        le32_put(guid + i, g_random_int());
    }
    guid[7] = (uint8_t)((guid[7] & 0x0f) | 0x40);
    guid[8] = (uint8_t)((guid[8] & 0x3f) | 0x80);
}

bool vhdx_is_null(const uint8_t *guid)
{
    static const uint8_t null[VHDX_GUID];
    return memcmp(guid, null, VHDX_GUID) == 0;
}

/* @len bytes, with zeros behind the end of the file. */
static int read_padded(struct vhdx *v, uint64_t offset, uint8_t *buf, size_t len)
{
    uint64_t length = v->file->content_len;
    size_t has = offset < length ? (size_t)MIN((uint64_t)len, length - offset) : 0;
    memset(buf + has, 0, len - has);
    return has ? blk_pread(v->file, offset, buf, has) : 0;
}

/* ---- headers ------------------------------------------------------------------------
 */

static bool header_valid(const struct vhdx *v, const uint8_t *h)
{
    return memcmp(h, VHDX_SIG_HEADER, 4) == 0 && le16_get(h + H_VERSION) == 1 &&
           le32_get(h + H_CHECKSUM) == vhdx_checksum(v, h, VHDX_PAGE);
}

static bool judge_log(struct vhdx *v, GError **error)
{
    v->log_length = le32_get(v->header + H_LOG_LENGTH);
    v->log_offset = le64_get(v->header + H_LOG_OFFSET);
    if (le16_get(v->header + H_LOG_VERSION) != 0) {
        return error_msg(error, "Unsupported VHDX log version %u",
                         le16_get(v->header + H_LOG_VERSION));
    }
    if (v->log_offset < VHDX_START || v->log_offset % MIB || v->log_length % MIB ||
        v->log_length == 0 || v->log_offset > INT64_MAX - UINT32_MAX) {
        return error_msg(error,
                         "VHDX header: the log at 0x%" PRIx64 " of %" PRIu32
                         " bytes is not in whole MiB behind the headers",
                         v->log_offset, v->log_length);
    }
    return ck_range(v->log_offset, v->log_length, blk_length(v->file)) ||
           error_msg(error, "VHDX log at 0x%" PRIx64 " is past the end of the file",
                     v->log_offset);
}

static void add_region(struct vhdx *v, uint64_t start, uint64_t len)
{
    v->regions[v->nb_regions++] = (struct vhdx_region){start, start + len};
}

bool vhdx_read_headers(struct vhdx *v, GError **error)
{
    uint8_t h[2][VHDX_PAGE], sig[8];
    int r = read_padded(v, 0, sig, sizeof(sig));
    r = r ? r : read_padded(v, VHDX_HEADER_1, h[0], VHDX_PAGE);
    r = r ? r : read_padded(v, VHDX_HEADER_2, h[1], VHDX_PAGE);
    if (r < 0) {
        return error_errno(error, -r, "Could not read the VHDX headers");
    }
    if (v->file->content_len < sizeof(sig)) {
        return error_errno(error, EINVAL, "Could not open '%s'",
                           blk_get_filename(v->file));
    }
    if (memcmp(sig, VHDX_SIG_FILE, 8) != 0) {
        return error_msg(error, "Image not in VHDX format (bad signature)");
    }
    bool ok[2] = {header_valid(v, h[0]), header_valid(v, h[1])};
    if (!ok[0] && !ok[1]) {
        return error_msg(error, "No valid VHDX header found");
    }
    uint64_t seq[2] = {le64_get(h[0] + H_SEQUENCE), le64_get(h[1] + H_SEQUENCE)};
    if (ok[0] && ok[1] && seq[0] == seq[1] && memcmp(h[0], h[1], VHDX_PAGE) != 0) {
        return error_msg(error, "No valid VHDX header found: both have number %" PRIu64,
                         seq[0]);
    }
    v->current = ok[0] && (!ok[1] || seq[0] >= seq[1]) ? 0 : 1;
    memcpy(v->header, h[v->current], VHDX_PAGE);
    if (!judge_log(v, error)) {
        return false;
    }
    add_region(v, 0, VHDX_START);
    add_region(v, v->log_offset, v->log_length);
    return true;
}

static int write_header(struct vhdx *v)
{
    unsigned other = !v->current;
    le64_put(v->header + H_SEQUENCE, le64_get(v->header + H_SEQUENCE) + 1);
    le32_put(v->header + H_CHECKSUM, vhdx_checksum(v, v->header, VHDX_PAGE));
    int r = blk_pwrite(v->file, other ? VHDX_HEADER_2 : VHDX_HEADER_1, v->header,
                       VHDX_PAGE);
    r = r ? r : blk_run(v->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    v->current = r ? v->current : other;
    return r;
}

int vhdx_write_headers(struct vhdx *v)
{
    int r = write_header(v);
    return r ? r : write_header(v);
}

/* ---- regions ------------------------------------------------------------------------
 */

bool vhdx_overlaps(const struct vhdx *v, uint64_t start, uint64_t end, char **ret_text)
{
    for (unsigned i = 0; i < v->nb_regions; i++) {
        const struct vhdx_region *r = &v->regions[i];
        if (start < r->end && r->start < end) {
            *ret_text = g_strdup_printf("VHDX region %" PRIu64 "-%" PRIu64
                                        " overlaps with region %" PRIu64 "-%" PRIu64,
                                        start, end, r->start, r->end);
            return true;
        }
    }
    return false;
}

static bool take_region(struct vhdx *v, const uint8_t *p, GError **error)
{
    uint64_t offset = le64_get(p + 16), len = le32_get(p + 24);
    bool bat = memcmp(p, vhdx_guid_bat, VHDX_GUID) == 0;
    bool meta = memcmp(p, vhdx_guid_metadata, VHDX_GUID) == 0;
    g_autofree char *text = NULL;
    if (offset < VHDX_START || offset % MIB || len % MIB || len == 0 ||
        offset > INT64_MAX - len) {
        return error_msg(error,
                         "VHDX region table: a region at 0x%" PRIx64 " of %" PRIu64
                         " bytes is not in whole MiB behind the headers",
                         offset, len);
    }
    if (vhdx_overlaps(v, offset, offset + len, &text)) {
        return error_msg(error, "%s", text);
    }
    if (!bat && !meta && (le32_get(p + 28) & 1)) {
        return error_msg(error,
                         "VHDX region table: a required region at 0x%" PRIx64
                         " is of an unknown kind",
                         offset);
    }
    if ((bat && v->bat_bytes) || (meta && v->meta_bytes)) {
        return error_msg(
            error, "VHDX region table: the region at 0x%" PRIx64 " is there twice",
            offset);
    }
    add_region(v, offset, len);
    if (bat) {
        v->bat_offset = offset;
        v->bat_bytes = len;
    } else if (meta) {
        v->meta_offset = offset;
        v->meta_bytes = len;
    }
    return true;
}

bool vhdx_read_regions(struct vhdx *v, GError **error)
{
    static const uint64_t places[] = {VHDX_REGIONS_1, VHDX_REGIONS_2};
    g_autofree uint8_t *t = g_malloc(VHDX_REGIONS_BYTES);
    bool valid = false;
    for (unsigned i = 0; i < ARRAY_LEN(places) && !valid; i++) {
        int r = read_padded(v, places[i], t, VHDX_REGIONS_BYTES);
        if (r < 0) {
            return error_errno(error, -r, "Could not read the VHDX region table");
        }
        valid = memcmp(t, VHDX_SIG_REGIONS, 4) == 0 &&
                le32_get(t + 4) == vhdx_checksum(v, t, VHDX_REGIONS_BYTES);
    }
    if (!valid) {
        return error_msg(error, "No valid VHDX region table found");
    }
    uint32_t n = le32_get(t + 8);
    if (n > VHDX_REGIONS_KEPT - v->nb_regions) {
        return error_msg(error, "VHDX region table: %" PRIu32 " regions are too many",
                         n);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!take_region(v, t + 16 + i * 32, error)) {
            return false;
        }
    }
    return (v->bat_bytes && v->meta_bytes) ||
           error_msg(error, "VHDX region table: there is no %s region",
                     v->bat_bytes ? "metadata" : "BAT");
}

/* ---- metadata -----------------------------------------------------------------------
 */

enum {
    ITEM_PARAMS,
    ITEM_SIZE,
    ITEM_PAGE83,
    ITEM_LOGICAL,
    ITEM_PHYSICAL,
    ITEM_PARENT,
    ITEMS
};

static const struct {
    const uint8_t *guid;
    const char *name;
    uint32_t bytes; /* 0: any */
    bool needed;
} items[ITEMS] = {
    [ITEM_PARAMS] = {vhdx_guid_params, "file parameters", 8, true},
    [ITEM_SIZE] = {vhdx_guid_size, "virtual disk size", 8, true},
    [ITEM_PAGE83] = {vhdx_guid_page83, "page 83 data", 16, false},
    [ITEM_LOGICAL] = {vhdx_guid_logical, "logical sector size", 4, true},
    [ITEM_PHYSICAL] = {vhdx_guid_physical, "physical sector size", 4, false},
    [ITEM_PARENT] = {guid_parent, "parent locator", 0, false},
};

/* One entry of the table: the first 16 bytes of a known item to @value. */
static bool take_item(struct vhdx *v, const uint8_t *p, uint8_t value[ITEMS][16],
                      bool seen[ITEMS], GError **error)
{
    uint32_t offset = le32_get(p + 16), len = le32_get(p + 20);
    unsigned i = 0;
    while (i < ITEMS && memcmp(p, items[i].guid, VHDX_GUID) != 0) {
        i++;
    }
    if (i == ITEMS) {
        return !(le32_get(p + 24) & 4) ||
               error_msg(error, "VHDX metadata: an item that is required is unknown");
    }
    if (seen[i]) {
        return error_msg(error, "VHDX metadata: %s is there twice", items[i].name);
    }
    if (offset < VHDX_REGIONS_BYTES || !ck_range(offset, len, v->meta_bytes) ||
        (items[i].bytes && len < items[i].bytes)) {
        return error_msg(error,
                         "VHDX metadata: %s at 0x%" PRIx32 " of %" PRIu32
                         " bytes is not in the metadata region",
                         items[i].name, offset, len);
    }
    seen[i] = true;
    int r = read_padded(v, v->meta_offset + offset, value[i], MIN(len, 16));
    return r == 0 ||
           error_errno(error, -r, "VHDX metadata: could not read %s", items[i].name);
}

static bool judge_values(struct vhdx *v, GError **error)
{
    uint64_t payload, entries;
    if (v->block_size < VHDX_BLOCK_MIN || v->block_size > VHDX_BLOCK_MAX ||
        (v->block_size & (v->block_size - 1))) {
        return error_msg(error, "VHDX metadata: invalid block size %" PRIu32,
                         v->block_size);
    }
    if (v->logical_sector != 512 && v->logical_sector != 4096) {
        return error_msg(error, "VHDX metadata: invalid logical sector size %" PRIu32,
                         v->logical_sector);
    }
    if (v->size > VHDX_SIZE_MAX || v->size % v->logical_sector) {
        return error_msg(error, "VHDX metadata: invalid virtual disk size %" PRIu64,
                         v->size);
    }
    v->chunk_ratio = (UINT64_C(1) << 23) * v->logical_sector / v->block_size;
    payload = (v->size + v->block_size - 1) / v->block_size;
    entries = payload ? payload + (payload - 1) / v->chunk_ratio : 0;
    v->bat_entries = entries;
    return entries * 8 <= v->bat_bytes ||
           error_msg(error,
                     "VHDX BAT: the region of %" PRIu64
                     " bytes is too small for %" PRIu64 " entries",
                     v->bat_bytes, entries);
}

bool vhdx_read_metadata(struct vhdx *v, GError **error)
{
    g_autofree uint8_t *t = g_malloc(VHDX_REGIONS_BYTES);
    uint8_t value[ITEMS][16] = {0};
    bool seen[ITEMS] = {false};
    int r = read_padded(v, v->meta_offset, t, VHDX_REGIONS_BYTES);
    if (r < 0) {
        return error_errno(error, -r, "Could not read the VHDX metadata");
    }
    unsigned n = le16_get(t + 10);
    if (memcmp(t, VHDX_SIG_METADATA, 8) != 0 || n > 2047) {
        return error_msg(error, "VHDX metadata: no valid table at 0x%" PRIx64,
                         v->meta_offset);
    }
    for (unsigned i = 0; i < n; i++) {
        if (!take_item(v, t + 32 + i * 32, value, seen, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < ITEMS; i++) {
        if (items[i].needed && !seen[i]) {
            return error_msg(error, "VHDX metadata: %s is missing", items[i].name);
        }
    }
    v->block_size = le32_get(value[ITEM_PARAMS]);
    v->fixed = le32_get(value[ITEM_PARAMS] + 4) & 1;
    v->has_parent = le32_get(value[ITEM_PARAMS] + 4) & 2;
    v->size = le64_get(value[ITEM_SIZE]);
    v->logical_sector = le32_get(value[ITEM_LOGICAL]);
    return judge_values(v, error);
}
