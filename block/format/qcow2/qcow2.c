#include "block/format/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/event.h"
#include "block/format/qcow2/bitmap.h"
#include "block/format/qcow2/qcow2_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Opening and closing; what the others do is in their files (qcow2_priv.h lists them).
 */

#define DEFAULT_CACHE (32 * MIB)

static int qcow2_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= 8 && be32_get(head) == QCOW2_MAGIC && be32_get(head + 4) >= 2 ? 100
                                                                                : 0;
}

static bool open_data_file(struct qcow2 *q, json_t *opts, GError **error)
{
    struct blk *b = q->b;
    json_t *given = json_object_get(opts, "data-file");
    if (!(q->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        q->data = q->file;
        return !given || error_msg(error, "'data-file' can only be set for images with "
                                          "an external data file");
    }
    if (blk_open_flags(b) & BLK_OPEN_NO_IO) {
        return true;
    }
    json_t *o = given ? json_incref(given) : NULL;
    if (!o && q->data_file_name) {
        g_autofree char *path = blk_backing_path(b->filename, q->data_file_name);
        o = blk_options_from_name(path, NULL, error);
        json_t *file = o ? json_object_get(o, "file") : NULL;
        if (file) { /* the bytes themselves, not an image */
            json_incref(file);
            json_decref(o);
            o = file;
        }
        if (!o) {
            return false;
        }
    }
    if (!o) {
        return error_msg(error, "'data-file' is required for this image");
    }
    q->data = blk_open_child(b, "data-file", o, false, error);
    json_decref(o);
    if (!q->data) {
        g_prefix_error(error, "Could not open external data file: ");
    }
    return q->data != NULL;
}

static bool in_file(const struct qcow2 *q, const char *what, uint64_t offset,
                    uint64_t entries, GError **error)
{
    return entries == 0 || offset < blk_length(q->file) ||
           error_msg(error, "%s at 0x%" PRIx64 " is past the end of the file", what,
                     offset);
}

static bool read_tables(struct qcow2 *q, GError **error)
{
    int err;
    if (!in_file(q, "Active L1 table", q->l1_offset, q->l1_size, error) ||
        !in_file(q, "Reference count table", q->rt_offset, q->rt_size, error)) {
        return false;
    }
    q->l1 = qcow2_read_table(q, q->l1_offset, q->l1_size, &err);
    if (!q->l1) {
        return error_errno(error, -err, "Could not read L1 table at 0x%" PRIx64,
                           q->l1_offset);
    }
    blk_event(q->file, BLK_EVENT_REFTABLE_LOAD);
    q->rt = qcow2_read_table(q, q->rt_offset, q->rt_size, &err);
    if (!q->rt) {
        return error_errno(error, -err, "Could not read refcount table at 0x%" PRIx64,
                           q->rt_offset);
    }
    return true;
}

static uint64_t cache_bytes(const struct qcow2 *q, json_t *opts)
{
    uint64_t l2 = blk_opt_u64(opts, "l2-cache-size", 0);
    uint64_t refs = blk_opt_u64(opts, "refcount-cache-size", 0);
    uint64_t all = blk_opt_u64(opts, "cache-size", 0);
    return all ? all : l2 || refs ? l2 + refs : DEFAULT_CACHE;
}

/* Only their values are judged: every write is checked against all tables. */
static bool check_overlap_option(json_t *opts, GError **error)
{
    static const char *const values[] = {"none", "constant", "cached", "all", NULL};
    json_t *o = json_object_get(opts, "overlap-check");
    const char *text =
        json_is_object(o) ? blk_opt_str(o, "template", "cached") : json_string_value(o);
    return !text || g_strv_contains(values, text) ||
           error_msg(error,
                     "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed "
                     "are any of the following: none, constant, cached, all",
                     text);
}

static bool check_cache_options(const struct qcow2 *q, json_t *opts, GError **error)
{
    bool all = json_object_get(opts, "cache-size"),
         l2 = json_object_get(opts, "l2-cache-size"),
         refs = json_object_get(opts, "refcount-cache-size");
    uint64_t most = blk_opt_u64(opts, "cache-size", 0),
             entry = blk_opt_u64(opts, "l2-cache-entry-size", q->cluster_size);
    if (all && l2 && blk_opt_u64(opts, "l2-cache-size", 0) > most) {
        return error_msg(error, "l2-cache-size may not exceed cache-size");
    }
    if (all && refs && blk_opt_u64(opts, "refcount-cache-size", 0) > most) {
        return error_msg(error, "refcount-cache-size may not exceed cache-size");
    }
    if (all && l2 && refs) {
        return error_msg(error, "cache-size, l2-cache-size and refcount-cache-size may "
                                "not be set at the same time");
    }
    if (entry < 512 || entry > q->cluster_size || (entry & (entry - 1))) {
        return error_msg(error,
                         "L2 cache entry size must be a power of two between 512 and "
                         "the cluster size (%" PRIu64 ")",
                         q->cluster_size);
    }
    return check_overlap_option(opts, error);
}

static bool open_writable(struct qcow2 *q, json_t *opts, bool check, GError **error)
{
    if (q->b->read_only || check) {
        return true;
    }
    if (q->incompatible & QCOW2_INCOMPAT_CORRUPT) {
        return error_msg(error, "qcow2: Image is corrupt; cannot be opened read/write");
    }
    if (q->incompatible & QCOW2_INCOMPAT_DIRTY) {
        return qcow2_repair_dirty(q, error);
    }
    return true;
}

/*
 * Whether clusters were given out without being written, so that it is worth asking the
 * file for holes: when clearly more are counted than the file has space for. Looks at
 * the refcounts of a part of the file only.
 */
static bool looks_sparse(struct qcow2 *q)
{
    int64_t used = q->file->proto && q->file->proto->allocated
                       ? q->file->proto->allocated(q->file)
                       : -1;
    uint64_t end = qcow2_clusters_for(q, q->file->content_len), counted = 0, refs;
    if (used < 0 || q->data != q->file) {
        return false; /* what is in a data file was written by its owner */
    }
    uint64_t real = (uint64_t)used >> q->cluster_bits;
    uint64_t threshold = MAX(real * 10 / 9, real + 2);
    if (end < threshold) {
        return false;
    }
    for (uint64_t c = 0; c < MIN(end, UINT64_C(1) << 22) && counted < threshold; c++) {
        if (qcow2_refcount(q, c, &refs) == 0 && refs) {
            counted++;
        }
    }
    return counted >= threshold;
}

static bool qcow2_open(struct blk *b, json_t *opts, GError **error)
{
    struct qcow2 *q = g_new0(struct qcow2, 1);
    bool check = blk_open_flags(b) & BLK_OPEN_CHECK;
    b->priv = q;
    q->b = b;
    q->file = b->file;
    q->pending = g_array_new(FALSE, FALSE, sizeof(struct qcow2_pending));
    q->snapshots = g_array_new(FALSE, TRUE, sizeof(struct qcow2_snapshot));
    q->bitmaps = g_ptr_array_new_with_free_func(qcow2_bitmap_free);
    q->removed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_bitmap_table));
    pthread_mutex_init(&q->bitmaps_lock, NULL);
    if (!qcow2_read_header(q, check, error) || !read_tables(q, error) ||
        !check_cache_options(q, opts, error) || !open_data_file(q, opts, error) ||
        !qcow2_open_crypt(q, opts, error)) {
        return false;
    }
    q->cache =
        slices_new(q->file, q->slice_bits, cache_bytes(q, opts), qcow2_make_room, q);
    slices_events(q->cache, QCOW2_SLICE_TABLE, BLK_EVENT_L2_LOAD, BLK_EVENT_L2_UPDATE);
    slices_events(q->cache, QCOW2_SLICE_REFS, BLK_EVENT_REFBLOCK_LOAD,
                  BLK_EVENT_REFBLOCK_UPDATE_PART);
    q->free_hint = 1;
    q->pass_discards =
        blk_opt_bool(opts, "pass-discard-request", blk_wants_discards(b));
    q->window_4k = g_str_equal(blk_opt_str(opts, "compress-window", "32k"), "4k");
    q->lazy = q->version >= 3 &&
              blk_opt_bool(opts, "lazy-refcounts", q->compatible & QCOW2_COMPAT_LAZY);
    if (q->version < 3 && blk_opt_bool(opts, "lazy-refcounts", false)) {
        return error_msg(error, "Lazy refcounts require a qcow2 image with at least "
                                "compatibility level v3 (1.1)");
    }
    if (!qcow2_read_snapshots(q, error)) {
        if (!check) {
            return false;
        }
        g_clear_error(error);
        q->snapshots_lost = true;
    }
    if (!qcow2_read_bitmaps(q, error)) {
        if (!check) {
            return false;
        }
        g_clear_error(error);
        g_ptr_array_set_size(q->bitmaps, 0);
        q->bitmaps_lost = true;
    }
    b->content_len = q->size;
    b->limits.alloc_unit = (uint32_t)q->cluster_size;
    q->sparse = b->read_only && !check && !(blk_open_flags(b) & BLK_OPEN_NO_IO) &&
                looks_sparse(q);
    return open_writable(q, opts, check, error) &&
           blk_open_backing(b, opts, q->backing_name, q->backing_format, error);
}

static void qcow2_close(struct blk *b)
{
    struct qcow2 *q = b->priv;
    if (!q) {
        return;
    }
    if (q->cache && !b->read_only && blk_has_events(q->file) && !q->finished) {
        qcow2_flush_at_end(q); /* as QEMU does, which tests with blkdebug see */
    }
    slices_free(q->cache);
    qcow2_close_crypt(q);
    qcow2_free_bitmaps(q);
    g_array_free(q->removed, TRUE);
    qcow2_free_snapshots(q);
    g_array_free(q->snapshots, TRUE);
    g_array_free(q->pending, TRUE);
    qcow2_done_header(q);
    g_free(q->l1);
    g_free(q->rt);
    g_free(q);
}

/* ---- reports
 * -------------------------------------------------------------------------- */

static void qcow2_info(struct blk *b, json_t *info)
{
    const struct qcow2 *q = b->priv;
    json_t *data = json_object();
    json_object_set_new(data, "compat", json_string(q->version >= 3 ? "1.1" : "0.10"));
    json_object_set_new(data, "compression-type",
                        json_string(q->compression ? "zstd" : "zlib"));
    json_object_set_new(data, "refcount-bits", json_integer(1 << q->refcount_order));
    if (q->version >= 3) {
        json_object_set_new(data, "lazy-refcounts",
                            json_boolean(q->compatible & QCOW2_COMPAT_LAZY));
        json_object_set_new(data, "corrupt",
                            json_boolean(q->incompatible & QCOW2_INCOMPAT_CORRUPT));
        json_object_set_new(data, "extended-l2", json_boolean(q->extended));
        if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
            if (q->data_file_name) {
                json_object_set_new(data, "data-file",
                                    json_string_nocheck(q->data_file_name));
            }
            json_object_set_new(data, "data-file-raw", json_boolean(q->data_raw));
        }
    }
    qcow2_crypt_info(q, data);
    qcow2_bitmap_info(q, data);
    json_t *specific = json_object();
    json_object_set_new(specific, "type", json_string("qcow2"));
    json_object_set_new(specific, "data", data);
    json_object_set_new(info, "format-specific", specific);
    json_object_set_new(info, "cluster-size",
                        json_integer((json_int_t)q->cluster_size));
    if (q->crypt_method) {
        json_object_set_new(info, "encrypted", json_true());
    }
    json_object_set_new(info, "dirty-flag",
                        json_boolean(q->incompatible & QCOW2_INCOMPAT_DIRTY));
    if (q->backing_name) {
        json_object_set_new(info, "backing-filename",
                            json_string_nocheck(q->backing_name));
    }
    if (q->backing_format) {
        json_object_set_new(info, "backing-filename-format",
                            json_string_nocheck(q->backing_format));
    }
}

/* ---- the format
 * ------------------------------------------------------------------------ */

static const char *const window_values[] = {"4k", "32k", NULL};

static const struct blk_option qcow2_options[] = {
    {"backing", BLK_OPT_NODE, NULL, "what unallocated parts are read from, or null"},
    {"data-file", BLK_OPT_NODE, NULL, "the external data file"},
    {"encrypt", BLK_OPT_NODE, NULL, "format (aes, luks) and key-secret"},
    {"lazy-refcounts", BLK_OPT_BOOL, NULL, "postpone refcount updates"},
    {"pass-discard-request", BLK_OPT_BOOL, NULL,
     "discards of the guest go to the file"},
    {"pass-discard-snapshot", BLK_OPT_BOOL, NULL,
     "so do clusters that a snapshot leaves"},
    {"pass-discard-other", BLK_OPT_BOOL, NULL, "and clusters left for other reasons"},
    {"overlap-check", BLK_OPT_NODE, NULL, "none, constant, cached, all: all are done"},
    {"compress-window", BLK_OPT_ENUM, window_values,
     "how far back new compressed clusters of type zlib copy from (default 32k)"},
    {"cache-size", BLK_OPT_SIZE, NULL, "most memory for tables (default 32M)"},
    {"l2-cache-size", BLK_OPT_SIZE, NULL, "the same, the part of the L2 tables"},
    {"l2-cache-entry-size", BLK_OPT_SIZE, NULL, "kept for QEMU's command lines"},
    {"refcount-cache-size", BLK_OPT_SIZE, NULL, "the same, the part of the refcounts"},
    {"cache-clean-interval", BLK_OPT_INT, NULL, "kept for QEMU's command lines"},
    {0},
};

const struct blk_format qcow2_format = {
    .name = "qcow2",
    .help = "QEMU's own: sparse, snapshots, backing files, compression",
    .options = qcow2_options,
    .probe = qcow2_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .map = qcow2_map,
    .map_cached = qcow2_map_cached,
    .info = qcow2_info,
    .vmstate = qcow2_vmstate,
    .writable = &qcow2_write_ops,
    .resize = &qcow2_resize_ops,
    .creatable = &qcow2_create_ops,
    .checkable = &qcow2_check_ops,
    .snapshots = &qcow2_snapshot_ops,
    .amendable = &qcow2_amend_ops,
    .bitmaps = &qcow2_bitmap_ops,
};
