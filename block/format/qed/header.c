#include "block/format/qed/qed_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * The header (Spec, "Header"):
 *
 *     0   magic, cluster_size, table_size, header_size (clusters)
 *     16  features, compat_features, autoclear_features
 *     40  l1_table_offset, image_size
 *     56  backing_filename_offset, backing_filename_size
 *     64  we put the name here
 */

uint64_t qed_max_size(uint32_t cluster_size, uint32_t table_size)
{
    /* At most 2^27 entries twice and 2^26 bytes: 2^80. */
    uint64_t entries = (uint64_t)cluster_size * table_size / 8, all;
    if (!ck_mul(entries * entries, cluster_size, &all)) {
        return INT64_MAX;
    }
    return MIN(all, (uint64_t)INT64_MAX);
}

static bool power_of_two(uint32_t v)
{
    return v && !(v & (v - 1));
}

void qed_derive(struct qed *q)
{
    q->cluster_bits = (unsigned)__builtin_ctz(q->cluster_size);
    q->table_bytes = (uint64_t)q->cluster_size * q->table_size;
    q->entries = q->table_bytes / 8;
}

/* ---- reading ----------------------------------------------------------------------
 */

static void get_fields(struct qed *q, const uint8_t *h)
{
    q->cluster_size = le32_get(h + 4);
    q->table_size = le32_get(h + 8);
    q->header_size = le32_get(h + 12);
    q->features = le64_get(h + 16);
    q->compat = le64_get(h + 24);
    q->autoclear = le64_get(h + 32);
    q->l1_offset = le64_get(h + 40);
    q->size = le64_get(h + 48);
    q->backing_offset = le32_get(h + 56);
    q->backing_len = le32_get(h + 60);
}

static bool read_backing_name(struct qed *q, GError **error)
{
    uint64_t room = (uint64_t)q->header_size * q->cluster_size;
    if (!(q->features & QED_F_BACKING)) {
        return true;
    }
    if (!ck_range(q->backing_offset, q->backing_len, room)) {
        return error_msg(error, "QED backing filename offset is invalid");
    }
    char name[QED_MAX_NAME + 1];
    if (q->backing_len > QED_MAX_NAME ||
        !ck_range(q->backing_offset, q->backing_len, blk_length(q->file))) {
        return error_msg(error, "Failed to read backing filename");
    }
    int r = blk_pread(q->file, q->backing_offset, name, q->backing_len);
    if (r < 0) {
        return error_errno(error, -r, "Failed to read backing filename");
    }
    q->backing_name = g_strndup(name, q->backing_len);
    return true;
}

static bool judge(struct qed *q, GError **error)
{
    if (q->features & ~QED_F_KNOWN) {
        return error_msg(error, "Unsupported QED features: %" PRIx64,
                         q->features & ~QED_F_KNOWN);
    }
    if (!power_of_two(q->cluster_size) || q->cluster_size < QED_MIN_CLUSTER ||
        q->cluster_size > QED_MAX_CLUSTER) {
        return error_msg(error, "QED cluster size is invalid");
    }
    q->end = ALIGN_DOWN(blk_length(q->file), (uint64_t)q->cluster_size);
    if (!power_of_two(q->table_size) || q->table_size > QED_MAX_TABLE) {
        return error_msg(error, "QED table size is invalid");
    }
    if (q->size % 512 || q->size > qed_max_size(q->cluster_size, q->table_size)) {
        return error_msg(error, "QED image size is invalid");
    }
    qed_derive(q);
    return qed_table_ok(q, q->l1_offset) ||
           error_msg(error, "QED table offset is invalid");
}

bool qed_read_header(struct qed *q, GError **error)
{
    uint8_t h[QED_HEADER_BYTES] = {0};
    uint64_t has = MIN(blk_length(q->file), sizeof(h));
    int r = has ? blk_pread(q->file, 0, h, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Failed to read QED header");
    }
    if (le32_get(h) != QED_MAGIC) {
        return error_msg(error, "Image not in QED format");
    }
    get_fields(q, h);
    return judge(q, error) && read_backing_name(q, error);
}

/* ---- writing ----------------------------------------------------------------------
 */

static void put_fields(const struct qed *q, uint8_t *h)
{
    le32_put(h, QED_MAGIC);
    le32_put(h + 4, q->cluster_size);
    le32_put(h + 8, q->table_size);
    le32_put(h + 12, q->header_size);
    le64_put(h + 16, q->features);
    le64_put(h + 24, q->compat);
    le64_put(h + 32, q->autoclear);
    le64_put(h + 40, q->l1_offset);
    le64_put(h + 48, q->size);
    le32_put(h + 56, q->backing_offset);
    le32_put(h + 60, q->backing_len);
}

int qed_write_header(const struct qed *q)
{
    /* Header and name at once: in one sector, mostly. */
    uint8_t h[QED_HEADER_BYTES + QED_MAX_NAME];
    size_t len = QED_HEADER_BYTES;
    put_fields(q, h);
    if (q->backing_len && q->backing_offset == QED_HEADER_BYTES) {
        memcpy(h + len, q->backing_name, q->backing_len);
        len += q->backing_len;
    }
    return blk_pwrite(q->file, 0, h, len);
}

/* ---- new images --------------------------------------------------------------------
 */

static bool take_backing(struct qed *q, json_t *opts, GError **error)
{
    const char *name = blk_opt_str(opts, "backing_file", NULL);
    const char *format = blk_opt_str(opts, "backing_fmt", NULL);
    if (format && *format && !blk_is_driver(format)) {
        return error_msg(error, "Parameter 'backing-fmt' does not accept value '%s'",
                         format);
    }
    if (!name || !*name) {
        return true;
    }
    if (strlen(name) > QED_MAX_NAME) {
        return error_msg(error, "Backing file name too long");
    }
    q->backing_name = g_strdup(name);
    q->backing_len = (uint32_t)strlen(name);
    q->backing_offset = QED_HEADER_BYTES;
    q->features = QED_F_BACKING;
    if (format && g_str_equal(format, "raw")) {
        q->features |= QED_F_NO_PROBE;
    }
    return true;
}

static bool take_sizes(struct qed *q, json_t *opts, GError **error)
{
    uint64_t cluster = blk_opt_u64(opts, "cluster_size", 65536);
    uint64_t table = blk_opt_u64(opts, "table_size", 4);
    if (cluster < QED_MIN_CLUSTER || cluster > QED_MAX_CLUSTER ||
        !power_of_two((uint32_t)cluster)) {
        return error_msg(
            error, "QED cluster size must be within range [%u, %u] and power of 2",
            (unsigned)QED_MIN_CLUSTER, (unsigned)QED_MAX_CLUSTER);
    }
    if (table < 1 || table > QED_MAX_TABLE || !power_of_two((uint32_t)table)) {
        return error_msg(error,
                         "QED table size must be within range [1, %u] and power of 2",
                         (unsigned)QED_MAX_TABLE);
    }
    q->cluster_size = (uint32_t)cluster;
    q->table_size = (uint32_t)table;
    q->header_size = 1;
    q->l1_offset = cluster;
    uint64_t max = qed_max_size(q->cluster_size, q->table_size);
    q->size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    return q->size <= max ||
           error_msg(error,
                     "QED image size must be a non-zero multiple of cluster size and "
                     "less than %" PRIu64 " bytes",
                     max);
}

static bool qed_create(struct blk *file, json_t *opts, GError **error)
{
    struct qed q = {.file = file};
    bool ok = take_sizes(&q, opts, error) && take_backing(&q, opts, error);
    if (ok) {
        qed_derive(&q);
        int r = blk_run(file, BLK_ZERO, 0, NULL, 0, q.l1_offset + q.table_bytes, 0);
        r = r ? r : blk_run(file, BLK_FLUSH, 0, NULL, 0, 0, 0);
        r = r ? r : qed_write_header(&q);
        ok = r == 0 || error_errno(error, -r, "Could not write QED header");
    }
    g_free(q.backing_name);
    return ok;
}

/* In the order that QEMU's reports have. */
static const struct blk_option create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"backing_file", BLK_OPT_STR, NULL, "File name of a base image"},
    {"backing_fmt", BLK_OPT_STR, NULL, "Image format of the base image"},
    {"cluster_size", BLK_OPT_SIZE, NULL, "Cluster size (in bytes)", "65536"},
    {"table_size", BLK_OPT_SIZE, NULL, "L1/L2 table size (in clusters)"},
    {0},
};

const struct blk_create_ops qed_create_ops = {
    .options = create_options,
    .create = qed_create,
};
