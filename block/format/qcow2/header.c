#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * The header cluster (Spec, "Header", "Header extensions"):
 *
 *     0      magic, version, backing name, cluster_bits, size, L1, refcount table,
 *            snapshots                                      72 bytes: version 2 ends
 *     72     features, refcount_order, header_length        104 bytes: version 3
 *     104    compression_type, padding                      when header_length says so
 *     then   extensions: type, length, data padded to 8; a zero type ends them
 *     then   the name of the backing file, up to the end of the cluster
 *
 * Every field is judged before it is used for arithmetic or for memory.
 */

enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = (int)0xe2792aca,
    EXT_FEATURES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_CRYPTO = 0x0537be77,
    EXT_DATA_FILE = 0x44415441,
    FEATURE_ENTRY = 48,
};

/* Spec, "Feature name table": what older programs say when they cannot open ours. */
static const struct {
    uint8_t type, bit;
    const char *name;
} features[] = {
    {0, 0, "dirty bit"},
    {0, 1, "corrupt bit"},
    {0, 2, "external data file"},
    {0, 3, "compression type"},
    {0, 4, "extended L2 entries"},
    {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},
    {2, 1, "raw external data"},
};

int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...)
{
    if (q->corrupt_told) {
        return -EIO;
    }
    q->corrupt_told = true;
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (q->b->read_only || q->version < 3) {
        blk_warn(q->b,
                 "Image is corrupt: %s; further non-fatal corruption events will "
                 "be suppressed",
                 what);
        return -EIO;
    }
    blk_warn(q->b,
             "Marking image as corrupt: %s; further corruption events will be "
             "suppressed",
             what);
    q->incompatible |= QCOW2_INCOMPAT_CORRUPT;
    qcow2_write_features(q);
    return -EIO;
}

bool qcow2_table_fits(const struct qcow2 *q, const char *what, uint64_t offset,
                      uint64_t entries, uint64_t entry_bytes, uint64_t max_bytes,
                      GError **error)
{
    if (entries > max_bytes / entry_bytes) {
        return error_msg(error, "%s too large", what);
    }
    if (!qcow2_aligned(q, offset) || offset > INT64_MAX - entries * entry_bytes) {
        return error_msg(error, "%s offset invalid", what);
    }
    return true;
}

void qcow2_derive(struct qcow2 *q)
{
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->extended = q->incompatible & QCOW2_INCOMPAT_EXTL2;
    q->entry_bytes = q->extended ? 16 : 8;
    q->sub_bits = q->extended ? q->cluster_bits - 5 : q->cluster_bits;
    q->l2_bits = q->cluster_bits - (q->extended ? 4 : 3);
    q->slice_bits = MIN(q->cluster_bits, 14u);
    q->refblock_bits = q->cluster_bits + 3 - q->refcount_order;
    unsigned width = 1u << q->refcount_order;
    q->refcount_max = width == 64 ? UINT64_MAX : (UINT64_C(1) << width) - 1;
    q->data_raw = q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW;
}

/* ---- reading ----------------------------------------------------------------------
 */

static char *take_text(const uint8_t *p, size_t len)
{
    return g_strndup((const char *)p, len);
}

/* The names of the bits in @unknown, as the image's own table gives them. */
static void name_features(struct qcow2 *q, const uint8_t *table, uint32_t len)
{
    uint64_t unknown = q->incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
    GString *text = g_string_new(NULL);
    for (uint32_t at = 0; at + FEATURE_ENTRY <= len; at += FEATURE_ENTRY) {
        const uint8_t *e = table + at;
        if (e[0] != 0 || e[1] > 63 || !(unknown & (UINT64_C(1) << e[1]))) {
            continue;
        }
        g_autofree char *name = take_text(e + 2, FEATURE_ENTRY - 2);
        g_string_append_printf(text, "%s%s", text->len ? ", " : "", name);
        unknown &= ~(UINT64_C(1) << e[1]);
    }
    if (unknown) {
        g_string_append_printf(text, "%sUnknown incompatible feature: %" PRIx64,
                               text->len ? ", " : "", unknown);
    }
    g_free(q->feature_text);
    q->feature_text = g_string_free(text, FALSE);
}

static bool read_bitmaps_extension(struct qcow2 *q, const uint8_t *p, uint32_t len,
                                   GError **error)
{
    if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return true; /* not consistent: as if it were not there */
    }
    if (len != 24) {
        return error_msg(error, "bitmaps_ext: Invalid extension length");
    }
    q->bitmaps_at[0] = be32_get(p);
    q->bitmaps_at[1] = be64_get(p + 8);
    q->bitmaps_at[2] = be64_get(p + 16);
    return true;
}

/* Where the LUKS header is. */
static bool read_crypt_extension(struct qcow2 *q, const uint8_t *p, uint32_t len,
                                 GError **error)
{
    if (q->crypt_method != QCOW2_CRYPT_LUKS) {
        return error_msg(error, "CRYPTO header extension only expected with LUKS "
                                "encryption method");
    }
    if (len != 16) {
        return error_msg(
            error, "CRYPTO header extension size %" PRIu32 ", but expected size 16",
            len);
    }
    q->crypt_at = be64_get(p);
    q->crypt_len = be64_get(p + 8);
    if (!qcow2_aligned(q, q->crypt_at)) {
        return error_msg(error,
                         "Encryption header offset '%" PRIu64
                         "' is not a multiple of cluster size '%" PRIu64 "'",
                         q->crypt_at, q->cluster_size);
    }
    return ck_range(q->crypt_at, q->crypt_len, blk_length(q->file)) ||
           error_msg(error, "Encryption header reaches past the end of the file");
}

static bool read_extension(struct qcow2 *q, uint32_t type, const uint8_t *p,
                           uint32_t len, GError **error)
{
    switch ((int)type) {
    case EXT_BACKING_FORMAT:
        if (len >= 64) {
            return error_msg(
                error, "ERROR: ext_backing_format: len=%" PRIu32 " too large (>=%d)",
                len, 64);
        }
        g_free(q->backing_format);
        q->backing_format = take_text(p, len);
        return true;
    case EXT_FEATURES: name_features(q, p, len); return true;
    case EXT_DATA_FILE:
        g_free(q->data_file_name);
        q->data_file_name = take_text(p, len);
        return true;
    case EXT_BITMAPS: return read_bitmaps_extension(q, p, len, error);
    case EXT_CRYPTO: return read_crypt_extension(q, p, len, error);
    default: {
        struct qcow2_extension e = {type, len, g_memdup2(p, len)};
        g_array_append_val(q->extensions, e);
        return true;
    }
    }
}

static bool read_extensions(struct qcow2 *q, const uint8_t *head, uint64_t from,
                            uint64_t to, GError **error)
{
    while (from + 8 <= to) {
        uint32_t type = be32_get(head + from), len = be32_get(head + from + 4);
        from += 8;
        if (type == EXT_END) {
            return true;
        }
        if (len > to - from) {
            return error_msg(error,
                             "Header extension too large: type 0x%08" PRIx32
                             " at 0x%" PRIx64 " is %" PRIu32 " bytes long",
                             type, from - 8, len);
        }
        if (!read_extension(q, type, head + from, len, error)) {
            return false;
        }
        from += ALIGN_UP((uint64_t)len, 8);
    }
    return true;
}

static bool read_v3_fields(struct qcow2 *q, const uint8_t *h, GError **error)
{
    q->incompatible = be64_get(h + 72);
    q->compatible = be64_get(h + 80);
    q->autoclear = be64_get(h + 88);
    q->refcount_order = be32_get(h + 96);
    q->header_len = be32_get(h + 100);
    if (q->header_len < QCOW2_V3_HEADER) {
        return error_msg(error, "qcow2 header too short");
    }
    if (q->header_len > q->cluster_size) {
        return error_msg(error, "qcow2 header exceeds cluster size");
    }
    if (q->header_len > 104) {
        q->compression = h[104];
    }
    return true;
}

static bool judge_features(struct qcow2 *q, GError **error)
{
    if (q->incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN) {
        if (!q->feature_text) {
            name_features(q, NULL, 0);
        }
        return error_msg(error, "Unsupported qcow2 feature(s): %s", q->feature_text);
    }
    bool other = q->incompatible & QCOW2_INCOMPAT_COMPRESSION;
    if (other != (q->compression != 0)) {
        return error_msg(error, other ? "qcow2: Compression type incompatible feature "
                                        "bit must not be set when compression type is "
                                        "zlib"
                                      : "qcow2: Compression type incompatible feature "
                                        "bit must be set when the compression type is "
                                        "not zlib");
    }
    if (q->compression > 1) {
        return error_msg(error, "qcow2: unknown compression type: %u", q->compression);
    }
    if (q->refcount_order > 6) {
        return error_msg(error, "Reference count entry width too large; may not "
                                "exceed 64 bits");
    }
    if ((q->incompatible & QCOW2_INCOMPAT_EXTL2) && q->cluster_bits < 14) {
        return error_msg(error, "Extended L2 entries need clusters of at least 16384 "
                                "bytes");
    }
    if (q->crypt_method > 2) {
        return error_msg(error, "Unsupported encryption method %" PRIu32,
                         q->crypt_method);
    }
    return q->crypt_method != QCOW2_CRYPT_LUKS || q->crypt_len ||
           error_msg(error, "Header reported 'luks' encryption without a CRYPTO header "
                            "extension");
}

static bool judge_tables(struct qcow2 *q, const uint8_t *h, bool check, GError **error)
{
    uint32_t l1 = be32_get(h + 36);
    q->l1_offset = be64_get(h + 40);
    q->rt_offset = be64_get(h + 48);
    q->rt_clusters = be32_get(h + 56);
    q->nb_snapshots = be32_get(h + 60);
    q->snapshots_offset = be64_get(h + 64);
    if (q->rt_clusters > QCOW2_MAX_RT_BYTES >> q->cluster_bits && q->rt_clusters > 1) {
        return error_msg(error, "Reference count table too large");
    }
    if (q->rt_clusters == 0 && !check) {
        return error_msg(error, "Image does not contain a reference count table");
    }
    uint64_t rt_size = (uint64_t)q->rt_clusters << (q->cluster_bits - 3);
    if (!qcow2_table_fits(q, "Reference count table", q->rt_offset, rt_size, 8,
                          MAX(QCOW2_MAX_RT_BYTES, q->cluster_size), error)) {
        return false;
    }
    q->rt_size = (uint32_t)rt_size;
    if (!check &&
        !qcow2_table_fits(q, "Snapshot table", q->snapshots_offset, q->nb_snapshots, 40,
                          (uint64_t)QCOW2_MAX_SNAPSHOTS * 40, error)) {
        return false;
    }
    if (!qcow2_table_fits(q, "Active L1 table", q->l1_offset, l1, 8, QCOW2_MAX_L1_BYTES,
                          error)) {
        return false;
    }
    q->l1_size = l1;
    uint64_t needed = qcow2_l1_entries(q, q->size);
    if (needed > INT32_MAX) {
        return error_msg(error, "Image is too big");
    }
    if (l1 < needed) {
        return error_msg(error, "L1 table is too small");
    }
    return true;
}

static bool read_backing_name(struct qcow2 *q, const uint8_t *h, uint64_t *ret_end,
                              GError **error)
{
    uint64_t at = be64_get(h + 8);
    uint32_t len = be32_get(h + 16);
    *ret_end = q->cluster_size;
    if (at == 0) {
        return true;
    }
    if (at > q->cluster_size) {
        return error_msg(error, "Invalid backing file offset");
    }
    *ret_end = at;
    if (len > MIN(1023u, q->cluster_size - at)) {
        return error_msg(error, "Backing file name too long");
    }
    q->backing_name = take_text(h + at, len);
    return true;
}

bool qcow2_read_header(struct qcow2 *q, bool check, GError **error)
{
    uint8_t first[QCOW2_OUR_HEADER] = {0};
    uint64_t length = blk_length(q->file);
    q->extensions = g_array_new(FALSE, FALSE, sizeof(struct qcow2_extension));
    int r = blk_pread(q->file, 0, first, MIN(length, (uint64_t)sizeof(first)));
    if (r < 0) {
        return error_errno(error, -r, "Could not read qcow2 header");
    }
    if (be32_get(first) != QCOW2_MAGIC) {
        return error_msg(error, "Image is not in qcow2 format");
    }
    q->version = be32_get(first + 4);
    if (q->version < 2 || q->version > 3) {
        return error_msg(error, "Unsupported qcow2 version %u", q->version);
    }
    q->cluster_bits = be32_get(first + 20);
    if (q->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        q->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_msg(error, "Unsupported cluster size: 2^%u", q->cluster_bits);
    }
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->size = be64_get(first + 24);
    q->crypt_method = be32_get(first + 32);
    q->refcount_order = 4;
    q->header_len = QCOW2_V2_HEADER;
    if (q->version >= 3 && !read_v3_fields(q, first, error)) {
        return false;
    }
    g_autofree uint8_t *head = g_malloc0(q->cluster_size);
    r = blk_pread(q->file, 0, head, MIN(length, q->cluster_size));
    if (r < 0) {
        return error_errno(error, -r, "Could not read qcow2 header");
    }
    uint64_t end;
    if (!read_backing_name(q, head, &end, error) ||
        !read_extensions(q, head, q->header_len, end, error) ||
        !judge_features(q, error)) {
        return false;
    }
    qcow2_derive(q);
    if (q->size > INT64_MAX) {
        return error_msg(error, "Image is too big: %" PRIu64 " bytes", q->size);
    }
    return judge_tables(q, head, check, error);
}

void qcow2_done_header(struct qcow2 *q)
{
    for (unsigned i = 0; q->extensions && i < q->extensions->len; i++) {
        g_free(g_array_index(q->extensions, struct qcow2_extension, i).data);
    }
    if (q->extensions) {
        g_array_free(q->extensions, TRUE);
    }
    g_free(q->backing_name);
    g_free(q->backing_format);
    g_free(q->data_file_name);
    g_free(q->feature_text);
}

/* ---- writing ------------------------------------------------------------------------
 */

struct builder {
    uint8_t *buf;
    uint64_t at, size;
    bool full;
};

static void add_extension(struct builder *w, uint32_t type, const void *data,
                          uint64_t len)
{
    uint64_t all = 8 + ALIGN_UP(len, 8);
    if (w->full || all > w->size - w->at) {
        w->full = true;
        return;
    }
    be32_put(w->buf + w->at, type);
    be32_put(w->buf + w->at + 4, (uint32_t)len);
    if (len) {
        memcpy(w->buf + w->at + 8, data, len);
    }
    w->at += all;
}

static void add_features(struct builder *w)
{
    uint8_t table[ARRAY_LEN(features) * FEATURE_ENTRY] = {0};
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        uint8_t *e = table + i * FEATURE_ENTRY;
        e[0] = features[i].type;
        e[1] = features[i].bit;
        memcpy(e + 2, features[i].name, strlen(features[i].name));
    }
    add_extension(w, EXT_FEATURES, table, sizeof(table));
}

static void put_fields(const struct qcow2 *q, uint8_t *h)
{
    be32_put(h, QCOW2_MAGIC);
    be32_put(h + 4, q->version);
    be32_put(h + 20, q->cluster_bits);
    be64_put(h + 24, q->size);
    be32_put(h + 32, q->crypt_method);
    be32_put(h + 36, q->l1_size);
    be64_put(h + 40, q->l1_offset);
    be64_put(h + 48, q->rt_offset);
    be32_put(h + 56, q->rt_clusters);
    be32_put(h + 60, q->nb_snapshots);
    be64_put(h + 64, q->snapshots_offset);
    if (q->version >= 3) {
        be64_put(h + 72, q->incompatible);
        be64_put(h + 80, q->compatible);
        be64_put(h + 88, q->autoclear);
        be32_put(h + 96, q->refcount_order);
        be32_put(h + 100, QCOW2_OUR_HEADER);
        h[104] = q->compression;
    }
}

uint8_t *qcow2_build_header(const struct qcow2 *q, GError **error)
{
    uint32_t head = q->version >= 3 ? QCOW2_OUR_HEADER : QCOW2_V2_HEADER;
    struct builder w = {g_malloc0(q->cluster_size), head, q->cluster_size, false};
    put_fields(q, w.buf);
    if (q->backing_format) {
        add_extension(&w, (uint32_t)EXT_BACKING_FORMAT, q->backing_format,
                      strlen(q->backing_format));
    }
    if (q->crypt_len) {
        uint8_t ext[16];
        be64_put(ext, q->crypt_at);
        be64_put(ext + 8, q->crypt_len);
        add_extension(&w, EXT_CRYPTO, ext, sizeof(ext));
    }
    if (q->data_file_name && (q->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        add_extension(&w, EXT_DATA_FILE, q->data_file_name, strlen(q->data_file_name));
    }
    if (q->version >= 3 && q->cluster_size > 4096) {
        add_features(&w); /* explains only; small clusters need their room for names */
    }
    if (q->bitmaps_at[0]) {
        uint8_t ext[24] = {0};
        be32_put(ext, (uint32_t)q->bitmaps_at[0]);
        be64_put(ext + 8, q->bitmaps_at[1]);
        be64_put(ext + 16, q->bitmaps_at[2]);
        add_extension(&w, EXT_BITMAPS, ext, sizeof(ext));
    }
    for (unsigned i = 0; q->extensions && i < q->extensions->len; i++) {
        const struct qcow2_extension *e =
            &g_array_index(q->extensions, struct qcow2_extension, i);
        add_extension(&w, e->type, e->data, e->len);
    }
    add_extension(&w, EXT_END, NULL, 0);
    if (q->backing_name && !w.full) {
        uint64_t len = strlen(q->backing_name);
        if (len > MIN(w.size - w.at, 1023u)) {
            w.full = true;
        } else {
            memcpy(w.buf + w.at, q->backing_name, len);
            be64_put(w.buf + 8, w.at);
            be32_put(w.buf + 16, (uint32_t)len);
        }
    }
    if (w.full) {
        error_msg(error,
                  "the header with its names does not fit in a cluster of %" PRIu64
                  " bytes",
                  q->cluster_size);
        g_clear_pointer(&w.buf, g_free);
    }
    return w.buf;
}

int qcow2_write_header(struct qcow2 *q)
{
    g_autofree uint8_t *buf = qcow2_build_header(q, NULL);
    return buf ? blk_pwrite(q->file, 0, buf, q->cluster_size) : -ENOSPC;
}

int qcow2_write_features(struct qcow2 *q)
{
    uint8_t buf[24];
    if (q->version < 3) {
        return 0;
    }
    be64_put(buf, q->incompatible);
    be64_put(buf + 8, q->compatible);
    be64_put(buf + 16, q->autoclear);
    return blk_pwrite(q->file, 72, buf, sizeof(buf));
}
