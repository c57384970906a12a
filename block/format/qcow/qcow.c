#include "block/format/qcow/qcow.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "block/codec/codec.h"
#include "block/crypto/cipher.h"
#include "block/format/qcow/qcow_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

#define CACHE_BYTES (16 * MIB)

int qcow_corrupt(struct qcow *q, const char *fmt, ...)
{
    if (!q->told) {
        q->told = true;
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        blk_warn(q->b, "Image is corrupt: %s", what);
    }
    return -EIO;
}

bool qcow_over_l1(const struct qcow *q, uint64_t offset, uint64_t len)
{
    return offset < QCOW_HEADER_BYTES ||
           (offset < q->l1_offset + q->l1_size * 8 && q->l1_offset < offset + len);
}

bool qcow_is_meta(const struct qcow *q, uint64_t offset, uint64_t len)
{
    if (qcow_over_l1(q, offset, len)) {
        return true;
    }
    for (uint64_t s = offset / 512; q->meta && s <= (offset + len - 1) / 512; s++) {
        if (bitset_has(q->meta, s)) {
            return true;
        }
    }
    return false;
}

/* ---- map --------------------------------------------------------------------------
 */

int qcow_l2_table(struct qcow *q, uint64_t index, bool cached, uint64_t *ret)
{
    uint8_t entry[8], *p = entry;
    uint64_t at = q->l1_offset + index * 8;
    if (index >= q->l1_size) {
        return -EIO;
    }
    /* A table at an odd place has entries across pages, which are put together. */
    int r = at % 8 == 0 ? pages_get(q->l1, at, cached, &p)
            : cached    ? -EAGAIN
                        : pages_read(q->l1, at, entry, sizeof(entry));
    if (r < 0) {
        return r;
    }
    *ret = be64_get(p);
    if (*ret > INT64_MAX - qcow_table_bytes(q)) {
        return qcow_corrupt(
            q, "L1 entry %" PRIu64 " leads to %#" PRIx64 ", where no L2 table can be",
            index, *ret);
    }
    return 0;
}

/* The entry of guest cluster @cluster; 0 when there is no table. */
static int l2_entry(struct qcow *q, uint64_t table, uint64_t cluster, bool cached,
                    uint64_t *ret)
{
    uint8_t entry[8], *p = entry;
    uint64_t at = table + (cluster & ((UINT64_C(1) << q->l2_bits) - 1)) * 8;
    int r = at % 8 == 0 ? pages_get(q->l2, at, cached, &p)
            : cached    ? -EAGAIN
                        : pages_read(q->l2, at, entry, sizeof(entry));
    if (r == 0) {
        *ret = be64_get(p);
    }
    return r;
}

static void map_packed(struct qcow *q, uint64_t cluster, uint64_t entry,
                       struct blk_extent *ret)
{
    unsigned shift = 63 - q->cluster_bits;
    ret->kind = BLK_EXT_COMPRESSED;
    ret->child = q->file;
    ret->offset = entry & ((UINT64_C(1) << shift) - 1);
    ret->stored_len = (entry >> shift) & (q->cluster_size - 1);
    ret->guest_start = cluster << q->cluster_bits;
    ret->guest_len = q->cluster_size;
    ret->codec = &blk_codec_deflate;
}

static bool in_place(const struct qcow *q, uint64_t place)
{
    return place < q->end && !qcow_is_meta(q, place, q->cluster_size);
}

/* What @entry is, as far as it alone says. */
static int map_entry(struct qcow *q, uint64_t offset, uint64_t entry,
                     struct blk_extent *ret)
{
    uint64_t in = offset & (q->cluster_size - 1);
    *ret =
        (struct blk_extent){.kind = BLK_EXT_UNALLOCATED, .len = q->cluster_size - in};
    if (entry & QCOW_COMPRESSED) {
        map_packed(q, offset >> q->cluster_bits, entry, ret);
    } else if (entry > INT64_MAX - q->cluster_size) {
        return qcow_corrupt(
            q, "the L2 entry of guest offset %#" PRIx64 " leads to %#" PRIx64, offset,
            entry);
    } else if (entry) {
        ret->kind = BLK_EXT_DATA;
        ret->flags = in_place(q, entry) ? BLK_EXT_IN_PLACE : 0;
        ret->child = q->file;
        ret->offset = entry + in;
        ret->crypt = q->crypt;
        ret->iv_offset = offset;
    }
    return 0;
}

/* Whether @entry goes on where @e ends. */
static bool goes_on(const struct qcow *q, const struct blk_extent *e, uint64_t entry)
{
    if (e->kind == BLK_EXT_UNALLOCATED || entry == 0) {
        return e->kind == BLK_EXT_UNALLOCATED && entry == 0;
    }
    return e->kind == BLK_EXT_DATA && entry == e->offset + e->len &&
           entry <= INT64_MAX - q->cluster_size &&
           in_place(q, entry) == !!(e->flags & BLK_EXT_IN_PLACE);
}

static int map_any(struct qcow *q, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t table, entry, cluster = offset >> q->cluster_bits;
    uint64_t left = ((offset >> shift) + 1) << shift;
    int r = qcow_l2_table(q, offset >> shift, cached, &table);
    if (r < 0) {
        return r;
    }
    left -= offset;
    if (!table) {
        *ret = (struct blk_extent){.kind = BLK_EXT_UNALLOCATED, .len = MIN(len, left)};
        return 0;
    }
    r = l2_entry(q, table, cluster, cached, &entry);
    r = r ? r : map_entry(q, offset, entry, ret);
    if (r < 0) {
        return r;
    }
    len = MIN(len, left);
    while (ret->kind != BLK_EXT_COMPRESSED && ret->len < len &&
           l2_entry(q, table, ++cluster, cached, &entry) == 0 &&
           goes_on(q, ret, entry)) {
        ret->len += q->cluster_size;
    }
    ret->len = MIN(ret->len, len);
    return 0;
}

static int qcow_map(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

static int qcow_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                           struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}

/* ---- the header ---------------------------------------------------------------------
 */

/* L1 entries for the disk; more than QCOW_MAX_L1 when it is too large. */
static uint64_t l1_entries(const struct qcow *q)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    return (q->size >> shift) + ((q->size & ((UINT64_C(1) << shift) - 1)) != 0);
}

static bool too_large(GError **error)
{
    return error_msg(error, "Image too large");
}

static bool judge(struct qcow *q, GError **error)
{
    if (q->size <= 1) {
        return error_msg(error, "Image size is too small (must be at least 2 bytes)");
    }
    if (q->cluster_bits < 9 || q->cluster_bits > 16) {
        return error_msg(error, "Cluster size must be between 512 and 64k");
    }
    if (q->l2_bits < 9 - 3 || q->l2_bits > 16 - 3) {
        return error_msg(error, "L2 table size must be between 512 and 64k");
    }
    if (q->crypt_method > 1) {
        return error_msg(error, "invalid encryption method in qcow header");
    }
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->l1_size = l1_entries(q);
    if (q->l1_size > QCOW_MAX_L1) {
        return too_large(error);
    }
    return ck_range(q->l1_offset, q->l1_size * 8, blk_length(q->file)) ||
           error_msg(error, "L1 table at %#" PRIx64 " is past the end of the file",
                     q->l1_offset);
}

static bool read_backing_name(struct qcow *q, uint64_t offset, uint32_t len,
                              GError **error)
{
    uint64_t length = blk_length(q->file);
    if (!offset) {
        return true;
    }
    if (len > QCOW_MAX_NAME) {
        return error_msg(error, "Backing file name too long");
    }
    if (offset > INT64_MAX) {
        return error_errno(error, EIO, "Could not open '%s'", q->b->filename);
    }
    char name[QCOW_MAX_NAME + 1] = {0};
    uint64_t has = offset < length ? MIN(len, length - offset) : 0;
    int r = has ? blk_pread(q->file, offset, name, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not open '%s'", q->b->filename);
    }
    q->backing_name = name[0] ? g_strdup(name) : NULL;
    return true;
}

static bool read_header(struct qcow *q, GError **error)
{
    uint8_t h[QCOW_HEADER_BYTES] = {0};
    uint64_t has = MIN(blk_length(q->file), sizeof(h));
    int r = has ? blk_pread(q->file, 0, h, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not read qcow header");
    }
    if (be32_get(h) != QCOW_MAGIC) {
        return error_msg(error, "Image not in qcow format");
    }
    uint32_t version = be32_get(h + 4);
    if (version != 1) {
        return error_msg(
            error, "qcow (v1) does not support qcow version %" PRIu32 "%s", version,
            version == 2 || version == 3 ? "\nTry the 'qcow2' driver instead." : "");
    }
    q->size = be64_get(h + 24);
    q->cluster_bits = h[32];
    q->l2_bits = h[33];
    q->crypt_method = be32_get(h + 36);
    q->l1_offset = be64_get(h + 40);
    return judge(q, error) &&
           read_backing_name(q, be64_get(h + 8), be32_get(h + 16), error);
}

/* ---- opening ------------------------------------------------------------------------
 */

static int qcow_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= QCOW_HEADER_BYTES && be32_get(head) == QCOW_MAGIC &&
                   be32_get(head + 4) == 1
               ? 100
               : 0;
}

void qcow_new_pages(struct qcow *q)
{
    pages_free(q->l1);
    pages_free(q->l2);
    q->l1 = pages_new(q->file, QCOW_PAGE, CACHE_BYTES);
    q->l2 = pages_new(q->file, QCOW_PAGE, CACHE_BYTES);
}

static bool qcow_open(struct blk *b, json_t *opts, GError **error)
{
    struct qcow *q = g_new0(struct qcow, 1);
    b->priv = q;
    q->b = b;
    q->file = b->file;
    if (!read_header(q, error)) {
        return false;
    }
    if (!qcow_open_crypt(q, opts, error)) {
        return false;
    }
    qcow_new_pages(q);
    q->end = q->file->content_len;
    b->content_len = ALIGN_DOWN(q->size, 512);
    b->limits.alloc_unit = (uint32_t)q->cluster_size;
    return blk_open_backing(b, opts, q->backing_name, NULL, error);
}

static void qcow_close(struct blk *b)
{
    struct qcow *q = b->priv;
    if (q) {
        pages_free(q->l1);
        pages_free(q->l2);
        bitset_free(q->meta);
        cipher_free(q->crypt);
        g_free(q->backing_name);
        g_free(q);
    }
}

static void qcow_info(struct blk *b, json_t *info)
{
    const struct qcow *q = b->priv;
    json_object_set_new(info, "cluster-size",
                        json_integer((json_int_t)q->cluster_size));
    if (q->crypt_method) {
        json_object_set_new(info, "encrypted", json_true());
    }
    if (q->backing_name) {
        json_object_set_new(info, "backing-filename",
                            json_string_nocheck(q->backing_name));
    }
}

/* ---- new images
 * ---------------------------------------------------------------------- */

static bool take_all(struct qcow *q, json_t *opts, GError **error)
{
    const char *backing = blk_opt_str(opts, "backing_file", NULL);
    q->size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    if (q->size == 0) {
        return error_msg(error, "Image size is too small, cannot be zero length");
    }
    if (!qcow_take_crypt(q, q->file, opts, error)) {
        return false;
    }
    q->backing_name = backing && *backing ? g_strdup(backing) : NULL;
    const char *format = blk_opt_str(opts, "backing_fmt", NULL);
    if (format && *format && !blk_is_driver(format)) {
        return error_msg(error, "unrecognized backing format '%s'", format);
    }
    if (q->backing_name && strlen(backing) > QCOW_MAX_NAME) {
        return error_msg(error, "Backing file name too long");
    }
    /* Over a backing file clusters are sectors, so that nothing is ever copied. */
    q->cluster_bits = q->backing_name ? 9 : 12;
    q->l2_bits = q->backing_name ? 12 : 9;
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->l1_size = l1_entries(q);
    return q->l1_size <= QCOW_MAX_L1 || too_large(error);
}

static int write_image(struct qcow *q)
{
    uint8_t h[QCOW_HEADER_BYTES + QCOW_MAX_NAME] = {0};
    size_t name = q->backing_name ? strlen(q->backing_name) : 0;
    q->l1_offset = ALIGN_UP(QCOW_HEADER_BYTES + name, 8);
    be32_put(h, QCOW_MAGIC);
    be32_put(h + 4, 1);
    if (name) {
        be64_put(h + 8, QCOW_HEADER_BYTES);
        be32_put(h + 16, (uint32_t)name);
        memcpy(h + QCOW_HEADER_BYTES, q->backing_name, name);
    }
    be64_put(h + 24, q->size);
    be32_put(h + 36, q->crypt_method);
    h[32] = (uint8_t)q->cluster_bits;
    h[33] = (uint8_t)q->l2_bits;
    be64_put(h + 40, q->l1_offset);
    int r = pages_zero_space(q->file, 0, q->l1_offset + ALIGN_UP(q->l1_size * 8, 512));
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    return r ? r : blk_pwrite(q->file, 0, h, QCOW_HEADER_BYTES + name);
}

static bool qcow_create(struct blk *file, json_t *opts, GError **error)
{
    struct qcow q = {.file = file};
    bool ok = take_all(&q, opts, error);
    if (ok) {
        int r = write_image(&q);
        ok = r == 0 || error_errno(error, -r, "Could not write qcow header");
    }
    g_free(q.backing_name);
    return ok;
}

/* In the order that QEMU's reports have. */
static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"backing_file", BLK_OPT_STR, NULL, "File name of a base image"},
    {"backing_fmt", BLK_OPT_STR, NULL, "Format of the backing image"},
    {"encryption", BLK_OPT_BOOL, NULL,
     "Encrypt the image with format 'aes'. (Deprecated in favor of "
     "encrypt.format=aes)"},
    {"encrypt.format", BLK_OPT_STR, NULL, "Encrypt the image, format choices: 'aes'"},
    {"encrypt.key-secret", BLK_OPT_STR, NULL,
     "ID of the secret that provides the AES encryption key"},
    {0},
};

static const struct blk_create_ops qcow_create_ops = {
    .options = create_options,
    .create = qcow_create,
};

static const struct blk_option qcow_options[] = {
    {"backing", BLK_OPT_NODE, NULL, "what unallocated parts are read from, or null"},
    {"encrypt", BLK_OPT_NODE, NULL, "format (aes) and key-secret"},
    {0},
};

const struct blk_format qcow_format = {
    .name = "qcow",
    .help = "QEMU's first: sparse, backing files, compression",
    .options = qcow_options,
    .probe = qcow_probe,
    .open = qcow_open,
    .close = qcow_close,
    .map = qcow_map,
    .map_cached = qcow_map_cached,
    .info = qcow_info,
    .writable = &qcow_write_ops,
    .creatable = &qcow_create_ops,
    .amendable = &qcow_amend_ops,
};
