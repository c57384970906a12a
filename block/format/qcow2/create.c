#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * A new image, in the order that programs expect to find:
 *
 *     cluster 0        header
 *     1 ...            refcount table
 *     ...              refcount blocks
 *     ...              L1 table
 *     ...              LUKS header
 *
 * It is written with one reference for each of them and nothing else; preallocation is
 * done afterwards through the driver itself.
 */

struct plan {
    uint64_t l1, rt, blocks, crypt; /* clusters */
};

static struct plan plan_layout(const struct qcow2 *q)
{
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    struct plan p = {qcow2_clusters_for(q, MAX(qcow2_l1_entries(q, q->size), 1) * 8), 1,
                     1, qcow2_clusters_for(q, q->crypt_len)};
    for (;;) {
        uint64_t blocks =
            (1 + p.rt + p.blocks + p.l1 + p.crypt + per_block - 1) / per_block;
        uint64_t rt = qcow2_clusters_for(q, blocks * 8);
        if (blocks <= p.blocks && rt <= p.rt) {
            return p;
        }
        p.blocks = MAX(blocks, p.blocks);
        p.rt = MAX(rt, p.rt);
    }
}

static int write_layout(struct qcow2 *q, const struct plan *p)
{
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    uint64_t used = 1 + p->rt + p->blocks + p->l1 + p->crypt,
             entries = p->rt << (q->cluster_bits - 3);
    g_autofree uint64_t *rt = g_try_malloc0(entries * 8);
    g_autofree uint8_t *buf = g_try_malloc(q->cluster_size);
    if (!rt || !buf) {
        return -ENOMEM;
    }
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < p->blocks; i++) {
        rt[i] = (1 + p->rt + i) << q->cluster_bits;
        memset(buf, 0, q->cluster_size);
        for (uint64_t n = 0; n < per_block && i * per_block + n < used; n++) {
            qcow2_refs_put(q->refcount_order, buf, n, 1);
        }
        r = blk_pwrite(q->file, rt[i], buf, q->cluster_size);
    }
    r = r ? r : qcow2_write_table(q, q->cluster_size, rt, (uint32_t)entries);
    return r ? r
             : blk_run(q->file, BLK_ZERO, q->l1_offset, NULL, 0,
                       p->l1 << q->cluster_bits, 0);
}

/* ---- options
 * ------------------------------------------------------------------------------ */

static bool is_yes(json_t *opts, const char *name)
{
    return blk_opt_bool(opts, name, false);
}

static bool take_compat(struct qcow2 *q, json_t *opts, GError **error)
{
    const char *compat = blk_opt_str(opts, "compat", "v3");
    if (g_str_equal(compat, "v2") || g_str_equal(compat, "0.10")) {
        q->version = 2;
    } else if (g_str_equal(compat, "v3") || g_str_equal(compat, "1.1")) {
        q->version = 3;
    } else {
        return error_msg(error, "Parameter 'version' does not accept value '%s'",
                         compat);
    }
    return true;
}

static bool take_cluster(struct qcow2 *q, json_t *opts, GError **error)
{
    uint64_t size = blk_opt_u64(opts, "cluster_size", 65536);
    if (size < 512 || size > 2 * MIB || (size & (size - 1))) {
        return error_msg(error, "Cluster size must be a power of two between 512 and "
                                "2048k");
    }
    q->cluster_bits = (unsigned)__builtin_ctzll(size);
    if (!is_yes(opts, "extended_l2")) {
        return true;
    }
    if (q->version < 3) {
        return error_msg(error, "Extended L2 entries are only supported with "
                                "compatibility level 1.1 and above (use "
                                "version=v3 or greater)");
    }
    if (size < 16384) {
        return error_msg(error, "Extended L2 entries are only supported with cluster "
                                "sizes of at least 16384 bytes");
    }
    q->incompatible |= QCOW2_INCOMPAT_EXTL2;
    return true;
}

static bool take_refcounts(struct qcow2 *q, json_t *opts, GError **error)
{
    uint64_t bits = blk_opt_u64(opts, "refcount_bits", 16);
    if (bits < 1 || bits > 64 || (bits & (bits - 1))) {
        return error_msg(error, "Refcount width must be a power of two and may not "
                                "exceed 64 bits");
    }
    if (q->version < 3 && bits != 16) {
        return error_msg(error, "Different refcount widths than 16 bits require "
                                "compatibility level 1.1 or above (use version=v3 or "
                                "greater)");
    }
    q->refcount_order = (unsigned)__builtin_ctzll(bits);
    if (is_yes(opts, "lazy_refcounts")) {
        if (q->version < 3) {
            return error_msg(error, "Lazy refcounts only supported with compatibility "
                                    "level 1.1 and above (use version=v3 or greater)");
        }
        q->compatible |= QCOW2_COMPAT_LAZY;
    }
    return true;
}

static bool take_compression(struct qcow2 *q, json_t *opts, GError **error)
{
    const char *type = blk_opt_str(opts, "compression_type", "zlib");
    if (g_str_equal(type, "zlib")) {
        return true;
    }
    if (!g_str_equal(type, "zstd")) {
        return error_msg(error, "Invalid parameter '%s'", type);
    }
    if (q->version < 3) {
        return error_msg(error, "Non-zlib compression type is only supported with "
                                "compatibility level 1.1 and above (use version=v3 or "
                                "greater)");
    }
    q->compression = 1;
    q->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    return true;
}

/* The largest disk of any format: requests are shorter than 1 GiB. */
#define MOST_BYTES ((uint64_t)INT64_MAX - ((UINT64_C(1) << 30) - 1))

static bool take_names(struct qcow2 *q, json_t *opts, GError **error)
{
    const char *backing = blk_opt_str(opts, "backing_file", NULL);
    const char *format = blk_opt_str(opts, "backing_fmt", NULL);
    const char *data = blk_opt_str(opts, "data_file", NULL);
    if (is_yes(opts, "data_file_raw") && !data) {
        return error_msg(error, "data-file-raw requires data-file");
    }
    if (is_yes(opts, "data_file_raw") && backing) {
        return error_msg(error, "Backing file and data-file-raw cannot be used at the "
                                "same time");
    }
    if (data && q->version < 3) {
        return error_msg(error, "External data files are only supported with "
                                "compatibility level 1.1 and above (use version=v3 or "
                                "greater)");
    }
    if (format && *format && !blk_is_driver(format)) {
        return error_msg(error, "Parameter 'backing-fmt' does not accept value '%s'",
                         format);
    }
    if (format && !backing) {
        return error_msg(error, "Backing format cannot be used without backing file");
    }
    if (backing && strlen(backing) > 1023) {
        return error_errno(error, EINVAL,
                           "Could not assign backing file '%s' with format '%s'",
                           backing, format ? format : "");
    }
    q->backing_name = g_strdup(backing);
    q->backing_format = g_strdup(format);
    q->data_file_name = g_strdup(data);
    if (data) {
        q->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
        q->autoclear |= is_yes(opts, "data_file_raw") ? QCOW2_AUTOCLEAR_DATA_RAW : 0;
    }
    return true;
}

static bool take_size(struct qcow2 *q, json_t *opts, GError **error)
{
    q->size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    uint64_t l1 = qcow2_l1_entries(q, q->size);
    if (blk_opt_u64(opts, "size", 0) > ALIGN_DOWN((uint64_t)INT64_MAX, 512)) {
        return error_msg(error, "Could not resize image: Image size cannot be "
                                "negative");
    }
    if (q->size > MOST_BYTES) {
        return error_msg(error,
                         "Could not resize image: offset(%" PRIu64
                         ") exceeds maximum(%" PRIu64 ")",
                         q->size, MOST_BYTES);
    }
    return l1 <= QCOW2_MAX_L1_BYTES / 8 ||
           error_errno(error, EFBIG, "Could not resize image");
}

/* ---- preallocation
 * ------------------------------------------------------------------------- */

static enum blk_prealloc prealloc_of(const char *mode)
{
    return g_str_equal(mode, "full")     ? BLK_PREALLOC_FULL
           : g_str_equal(mode, "falloc") ? BLK_PREALLOC_FALLOC
                                         : BLK_PREALLOC_OFF;
}

bool qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to,
                       enum blk_prealloc mode, GError **error)
{
    uint64_t end = 0;
    for (uint64_t at = from; at < to;) {
        struct blk_extent e;
        int r = qcow2_map(q->b, at, to - at, &e);
        if (r == 0 && e.kind == BLK_EXT_DATA) {
            at += e.len;
            continue;
        }
        struct blk_reservation res = {.offset = at, .len = MIN(e.len, 512 * MIB)};
        r = r ? r : qcow2_reserve_range(q, &res);
        r = r ? r : qcow2_publish(q->b, &res);
        if (r < 0) {
            return error_errno(error, -r, "Could not preallocate metadata");
        }
        end = MAX(end, res.child_offset + ALIGN_UP(res.guest_len, 512));
        at += res.len;
    }
    int r = qcow2_writeback(q);
    if (r < 0) {
        return error_errno(error, -r, "Could not preallocate metadata");
    }
    if (mode == BLK_PREALLOC_METADATA) {
        mode = BLK_PREALLOC_OFF; /* the file itself has none */
    }
    if (end > q->data->content_len && !blk_truncate(q->data, end, mode, error)) {
        g_prefix_error(error, "Could not preallocate data clusters: ");
        return false;
    }
    return true;
}

static struct blk *find_file(void *opaque, const char *name)
{
    return opaque;
}

/* The new image through its own driver. */
static struct blk *open_new(struct blk *file, json_t *create_opts, GError **error)
{
    struct blk_perms all = {BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                            BLK_PERM_ALL};
    struct blk_open_args args = {.loop = file->loop,
                                 .perms = &all,
                                 .find_node = find_file,
                                 .opaque = file,
                                 .secrets = blk_secrets(file),
                                 .flags = BLK_OPEN_NO_BACKING};
    json_t *opts = json_pack("{s:s, s:s}", "driver", "qcow2", "file", "new");
    json_t *encrypt = qcow2_crypt_options(create_opts);
    if (encrypt) {
        json_object_set_new(opts, "encrypt", encrypt);
    }
    struct blk *b = blk_open(&args, opts, error);
    json_decref(opts);
    return b;
}

static bool create_rest(struct blk *file, json_t *opts, uint64_t size, GError **error)
{
    const char *mode = blk_opt_str(opts, "preallocation", "off");
    bool external = json_object_get(opts, "data_file") != NULL;
    if (g_str_equal(mode, "off") && !external) {
        return true;
    }
    struct blk *b = open_new(file, opts, error);
    if (!b) {
        return false;
    }
    struct qcow2 *q = b->priv;
    /* A raw data file reads as the disk at once, so it has its length and its map. */
    bool map = !g_str_equal(mode, "off") || q->data_raw;
    bool ok = !external || blk_truncate(q->data, size, prealloc_of(mode), error);
    if (ok && map) {
        ok = qcow2_preallocate(q, 0, size, prealloc_of(mode), error);
    }
    blk_unref(b);
    return ok;
}

/* The external data file, empty. */
static bool make_data_file(const struct blk *file, const char *name, GError **error)
{
    g_autofree char *path = blk_backing_path(file->filename, name);
    struct blk_open_args args = {.loop = file->loop};
    json_t *o = json_pack("{s:i}", "size", 0);
    bool ok = blk_create(&args, "raw", path, o, error);
    json_decref(o);
    return ok;
}

static bool build(struct qcow2 *q, json_t *opts, GError **error)
{
    qcow2_derive(q);
    if (!take_size(q, opts, error)) {
        return false;
    }
    struct plan p = plan_layout(q);
    q->l1_size = (uint32_t)qcow2_l1_entries(q, q->size);
    q->rt_offset = q->cluster_size;
    q->rt_clusters = (uint32_t)p.rt;
    q->l1_offset = (1 + p.rt + p.blocks) << q->cluster_bits;
    q->crypt_at = q->crypt_len ? q->l1_offset + (p.l1 << q->cluster_bits) : 0;
    if (p.rt << q->cluster_bits > MAX(QCOW2_MAX_RT_BYTES, q->cluster_size)) {
        return error_errno(error, EFBIG, "the refcount table would be too large");
    }
    g_autofree uint8_t *head = qcow2_build_header(q, error);
    if (!head) {
        return false;
    }
    int r = write_layout(q, &p);
    if (r == 0 && !qcow2_write_crypt(q, q->file, opts, error)) {
        return false;
    }
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    r = r ? r : blk_pwrite(q->file, 0, head, q->cluster_size);
    return r == 0 || error_errno(error, -r, "Could not write qcow2 header");
}

static bool take_all(struct qcow2 *q, json_t *opts, GError **error)
{
    const char *mode = blk_opt_str(opts, "preallocation", "off");
    if (!take_compat(q, opts, error) || !take_cluster(q, opts, error) ||
        !take_refcounts(q, opts, error) || !take_compression(q, opts, error) ||
        !take_names(q, opts, error) || !qcow2_take_crypt(q, opts, error)) {
        return false;
    }
    if (q->backing_name && !g_str_equal(mode, "off") &&
        !(q->incompatible & QCOW2_INCOMPAT_EXTL2)) {
        return error_msg(error,
                         "Backing file and preallocation can only be used at the "
                         "same time if extended_l2 is on");
    }
    return true;
}

static bool qcow2_create(struct blk *file, json_t *opts, GError **error)
{
    struct qcow2 q = {.file = file, .data = file};
    bool ok = take_all(&q, opts, error) &&
              (!q.data_file_name || make_data_file(file, q.data_file_name, error)) &&
              build(&q, opts, error);
    uint64_t size = q.size;
    qcow2_done_header(&q);
    return ok && create_rest(file, opts, size, error);
}

/* ---- measuring
 * ----------------------------------------------------------------------------- */

static bool qcow2_measure(json_t *opts, const struct blk_measure_source *src,
                          struct blk_measure *ret, GError **error)
{
    struct qcow2 q = {0};
    bool ok = take_all(&q, opts, error);
    qcow2_derive(&q);
    if (ok && !take_size(&q, opts, NULL)) {
        ok = error_msg(error, "The image size is too large (try using a larger cluster "
                              "size)");
    }
    qcow2_done_header(&q);
    if (!ok) {
        return false;
    }
    /* Header, refcounts, L1, all L2 tables and every cluster of the disk. */
    uint64_t clusters = qcow2_clusters_for(&q, q.size);
    uint64_t l2 = qcow2_l1_entries(&q, q.size);
    uint64_t l1 = qcow2_clusters_for(&q, l2 * 8);
    uint64_t per_block = UINT64_C(1) << q.refblock_bits, blocks = 0, rt = 0, last;
    uint64_t crypt = qcow2_clusters_for(&q, q.crypt_len);
    do { /* the refcounts count themselves */
        last = blocks + rt;
        blocks = (1 + l1 + l2 + crypt + clusters + last + per_block - 1) / per_block;
        rt = qcow2_clusters_for(&q, blocks * 8);
    } while (blocks + rt != last);
    ret->full = (1 + l1 + l2 + crypt + clusters + blocks + rt) << q.cluster_bits;
    int64_t used = (int64_t)clusters;
    if (src && src->clusters) {
        used = src->clusters(src->opaque, q.cluster_size);
        if (used < 0) {
            return error_errno(error, (int)-used, "cannot tell where data is");
        }
    }
    const char *mode = blk_opt_str(opts, "preallocation", "off");
    bool all = g_str_equal(mode, "full") || g_str_equal(mode, "falloc");
    ret->required =
        all ? ret->full : ret->full - ((clusters - (uint64_t)used) << q.cluster_bits);
    return true;
}

static const char *const compression_values[] = {"zlib", "zstd", NULL};
static const char *const prealloc_values[] = {"off", "metadata", "falloc", "full",
                                              NULL};

/* In the order that QEMU's reports have. */
static const struct blk_option create_options[] = {
    {"encryption", BLK_OPT_BOOL, NULL,
     "Encrypt the image with format 'aes'. (Deprecated in favor of "
     "encrypt.format=aes)"},
    {"encrypt.format", BLK_OPT_STR, NULL,
     "Encrypt the image, format choices: 'aes', 'luks'"},
    {"encrypt.key-secret", BLK_OPT_STR, NULL,
     "ID of secret providing qcow AES key or LUKS passphrase"},
    {"encrypt.cipher-alg", BLK_OPT_STR, NULL, "Name of encryption cipher algorithm"},
    {"encrypt.cipher-mode", BLK_OPT_STR, NULL, "Name of encryption cipher mode"},
    {"encrypt.ivgen-alg", BLK_OPT_STR, NULL, "Name of IV generator algorithm"},
    {"encrypt.ivgen-hash-alg", BLK_OPT_STR, NULL,
     "Name of IV generator hash algorithm"},
    {"encrypt.hash-alg", BLK_OPT_STR, NULL, "Name of encryption hash algorithm"},
    {"encrypt.iter-time", BLK_OPT_INT, NULL, "Time to spend in PBKDF in milliseconds"},
    {"cluster_size", BLK_OPT_SIZE, NULL, "qcow2 cluster size", "65536"},
    {"extended_l2", BLK_OPT_BOOL, NULL, "Extended L2 tables", "off"},
    {"preallocation", BLK_OPT_ENUM, prealloc_values,
     "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"compression_type", BLK_OPT_ENUM, compression_values,
     "Compression method used for image cluster compression", "zlib"},
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"compat", BLK_OPT_STR, NULL, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", BLK_OPT_STR, NULL, "File name of a base image"},
    {"backing_fmt", BLK_OPT_STR, NULL, "Image format of the base image"},
    {"data_file", BLK_OPT_STR, NULL, "File name of an external data file"},
    {"data_file_raw", BLK_OPT_BOOL, NULL,
     "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", BLK_OPT_BOOL, NULL, "Postpone refcount updates", "off"},
    {"refcount_bits", BLK_OPT_INT, NULL, "Width of a reference count entry in bits",
     "16"},
    {0},
};

const struct blk_create_ops qcow2_create_ops = {
    .options = create_options,
    .create = qcow2_create,
    .measure = qcow2_measure,
};
