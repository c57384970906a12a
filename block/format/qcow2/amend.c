#include "block/format/qcow2/bitmap.h"
#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/event.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Changes of an image as a whole: its length, its version and features, the name of its
 * backing file, all of its content. A longer L1 table is written to a new place and the
 * header switched over in one write.
 */

static int write_size_and_l1(struct qcow2 *q)
{
    uint8_t fields[24];
    be64_put(fields, q->size);
    be32_put(fields + 8, q->crypt_method);
    be32_put(fields + 12, q->l1_size);
    be64_put(fields + 16, q->l1_offset);
    int r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    r = r ? r : blk_pwrite(q->file, 24, fields, sizeof(fields));
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

bool qcow2_grow_l1(struct qcow2 *q, uint64_t entries, GError **error)
{
    if (entries <= q->l1_size) {
        return true;
    }
    if (entries > QCOW2_MAX_L1_BYTES / 8) {
        return error_errno(error, EFBIG, "Failed to grow the L1 table");
    }
    uint64_t n = qcow2_clusters_for(q, entries * 8), at;
    g_autofree uint64_t *l1 = g_try_malloc0(entries * 8);
    int r = l1 ? qcow2_writeback(q) : -ENOMEM;
    blk_event(q->file, BLK_EVENT_L1_GROW_ALLOC_TABLE);
    r = r ? r : qcow2_alloc(q, n, n, &at, NULL);
    if (r == 0) {
        memcpy(l1, q->l1, q->l1_size * 8ull);
        /* All of its clusters, so that nothing old shows up behind the end. */
        g_autofree uint64_t *all = g_try_malloc0(n << q->cluster_bits);
        r = all ? 0 : -ENOMEM;
        if (all) {
            memcpy(all, l1, entries * 8);
            blk_event(q->file, BLK_EVENT_L1_GROW_WRITE_TABLE);
            r = qcow2_write_table(q, at, all, (uint32_t)((n << q->cluster_bits) / 8));
        }
        r = r ? r : qcow2_writeback(q);
    }
    if (r < 0) {
        return error_errno(error, -r, "Failed to grow the L1 table");
    }
    uint64_t old = q->l1_offset, old_len = q->l1_size * 8ull;
    g_free(q->l1);
    q->l1 = g_steal_pointer(&l1);
    q->l1_size = (uint32_t)entries;
    q->l1_offset = at;
    blk_event(q->file, BLK_EVENT_L1_GROW_ACTIVATE_TABLE);
    r = write_size_and_l1(q);
    r = r ? r : old_len ? qcow2_free_now(q, old, old_len) : 0;
    return r == 0 || error_errno(error, -r, "Failed to switch to the new L1 table");
}

static bool drop_tail(struct qcow2 *q, uint64_t from, uint64_t to, GError **error)
{
    from = ALIGN_UP(from, q->cluster_size);
    while (from < to) {
        uint64_t done;
        int r = qcow2_drop_clusters(q, from, ALIGN_UP(to - from, q->cluster_size), true,
                                    &done);
        if (r < 0) {
            return error_errno(error, -r, "Failed to discard cropped clusters");
        }
        from += done;
    }
    int r = qcow2_writeback(q);
    return r == 0 || error_errno(error, -r, "Failed to discard cropped clusters");
}

/* L2 tables of which nothing is left in the disk. */
static int drop_l2_tables(struct qcow2 *q, uint32_t from)
{
    int r = 0;
    for (uint32_t i = from; r == 0 && i < q->l1_size; i++) {
        uint64_t at = q->l1[i] & QCOW2_OFFSET_MASK;
        if (!at) {
            continue;
        }
        if (q->l1[i] & QCOW2_COPIED) {
            slices_forget(q->cache, at, q->cluster_size);
        }
        qcow2_l1_set(q, i, 0);
        r = qcow2_free_later(q, at, q->cluster_size);
    }
    blk_event(q->file, BLK_EVENT_L1_SHRINK_WRITE_TABLE);
    return r ? r : qcow2_writeback(q);
}

/* Give free clusters at the end of the file back. */
static void cut_file(struct qcow2 *q)
{
    uint64_t end = qcow2_clusters_for(q, q->file->content_len), refs = 0, first = end;
    while (end > 1 && qcow2_refcount(q, end - 1, &refs) == 0 && refs == 0) {
        end--;
    }
    if (end < first && q->file->growable) {
        blk_truncate(q->file, end << q->cluster_bits, BLK_PREALLOC_OFF, NULL);
    }
}

static bool begin(struct blk *b, GError **error)
{
    int r = qcow2_begin(b);
    return r == 0 || error_errno(error, -r, "cannot write the header");
}

static bool resize_bitmaps(struct qcow2 *q, uint64_t length, GError **error)
{
    const struct qcow2_bitmap *bad = qcow2_inconsistent_bitmap(q);
    if (bad) {
        return error_msg(error,
                         "Bitmap '%s' is inconsistent and cannot be used\nTry "
                         "block-dirty-bitmap-remove to delete this bitmap from disk",
                         bad->name);
    }
    int r = qcow2_resize_bitmaps(q, length);
    return r == 0 || error_errno(error, -r, "Cannot resize the bitmaps");
}

static bool change_size(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                        GError **error)
{
    struct qcow2 *q = b->priv;
    uint64_t old = q->size, entries = qcow2_l1_entries(q, length);
    if (length < old) {
        if (!drop_tail(q, length, old, error)) {
            return false;
        }
        int r = drop_l2_tables(q, (uint32_t)entries);
        if (r < 0) {
            return error_errno(error, -r, "Failed to reduce the number of L2 tables");
        }
        cut_file(q);
    } else if (!qcow2_grow_l1(q, entries, error)) {
        return false;
    }
    if (q->data != q->file && q->data_raw &&
        !blk_truncate(q->data, length,
                      prealloc == BLK_PREALLOC_METADATA ? BLK_PREALLOC_OFF : prealloc,
                      error)) {
        return false;
    }
    q->size = length;
    int r = qcow2_writeback(q);
    r = r ? r : write_size_and_l1(q);
    if (r < 0) {
        q->size = old;
        return error_errno(error, -r, "Failed to update the image size");
    }
    b->content_len = length;
    return true;
}

static bool qcow2_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                           GError **error)
{
    struct qcow2 *q = b->priv;
    uint64_t old = q->size;
    if (length % 512) {
        return error_msg(error, "The new size must be a multiple of 512");
    }
    if (q->snapshots->len && q->version < 3) {
        return error_errno(error, ENOTSUP,
                           "Can't resize a v2 image which has "
                           "snapshots");
    }
    if (length < old && prealloc != BLK_PREALLOC_OFF) {
        return error_msg(error, "Preallocation can't be used for shrinking an image");
    }
    if (!begin(b, error)) {
        return false;
    }
    if (!resize_bitmaps(q, length, error)) {
        return false;
    }
    if (!change_size(b, length, prealloc, error)) {
        qcow2_resize_bitmaps(q, old); /* their tables go by the disk's size */
        return false;
    }
    return prealloc == BLK_PREALLOC_OFF || length <= old ||
           qcow2_preallocate(q, ALIGN_DOWN(old, 512), length, prealloc, error);
}

const struct blk_resize_ops qcow2_resize_ops = {.truncate = qcow2_truncate};

/* ---- the header
 * -------------------------------------------------------------------------------- */

static bool write_header(struct qcow2 *q, GError **error)
{
    g_autofree uint8_t *head = qcow2_build_header(q, error);
    if (!head) {
        return false;
    }
    int r = qcow2_writeback(q);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    r = r ? r : blk_pwrite(q->file, 0, head, q->cluster_size);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    return r == 0 || error_errno(error, -r, "Failed to update the qcow2 header");
}

static bool set_backing(struct blk *b, const char *name, const char *format,
                        GError **error)
{
    struct qcow2 *q = b->priv;
    char *old_name = q->backing_name, *old_format = q->backing_format;
    if (name && q->data_raw) {
        return error_msg(error, "Cannot set a backing file: the data file must stay a "
                                "valid raw image");
    }
    q->backing_name = name && *name ? g_strdup(name) : NULL;
    q->backing_format = q->backing_name ? g_strdup(format) : NULL;
    bool ok = begin(b, error) && write_header(q, error);
    if (!ok) {
        char *t = q->backing_name;
        q->backing_name = old_name;
        old_name = t;
        t = q->backing_format;
        q->backing_format = old_format;
        old_format = t;
    }
    g_free(old_name);
    g_free(old_format);
    return ok;
}

/* ---- version
 * -------------------------------------------------------------------------------------
 */

/* Version 2 has no zero flag: such clusters must get real zeros, or nothing when
 * nothing is below. */
static bool expand_zeros(struct blk *b, const struct blk_progress *progress,
                         GError **error)
{
    struct qcow2 *q = b->priv;
    /* The steps are entries of the active L1 table, and of those of snapshots. */
    uint64_t step = UINT64_C(1) << (q->cluster_bits + q->l2_bits), told = 0;
    uint64_t own = qcow2_l1_entries(q, q->size), all = own;
    for (unsigned i = 0; i < q->snapshots->len; i++) {
        all += g_array_index(q->snapshots, struct qcow2_snapshot, i).l1_size;
    }
    for (uint64_t at = 0; at < q->size;) {
        struct blk_extent e;
        int r = qcow2_map(b, at, q->size - at, &e);
        if (r == 0 && e.kind == BLK_EXT_ZERO) {
            bool bare = !b->backing || at >= blk_length(b->backing);
            uint64_t end = ALIGN_UP(at + e.len, q->cluster_size);
            for (uint64_t c = ALIGN_DOWN(at, q->cluster_size); r == 0 && c < end;) {
                uint64_t done = q->cluster_size;
                if (bare && !q->backing_name) {
                    r = qcow2_drop_clusters(q, c, q->cluster_size, true, &done);
                } else {
                    struct blk_reservation res = {.offset = c, .len = q->cluster_size};
                    r = qcow2_reserve_range(q, &res);
                    r = r ? r
                          : blk_run(res.child, BLK_ZERO, res.child_offset, NULL, 0,
                                    res.guest_len, 0);
                    r = r ? r : qcow2_publish(b, &res);
                }
                c += done;
            }
        }
        if (r < 0) {
            return error_errno(error, -r, "Failed to turn zero into data clusters");
        }
        at += e.len;
        for (; told < MIN(own, at / step + (at == q->size && at % step)); told++) {
            progress->at(progress->opaque, told + 1, all);
        }
    }
    for (; told < all; told++) {
        progress->at(progress->opaque, told + 1, all);
    }
    return true;
}

static bool downgrade(struct blk *b, const struct blk_progress *progress,
                      GError **error)
{
    struct qcow2 *q = b->priv;
    if (q->refcount_order != 4) {
        return error_msg(error, "compat=0.10 requires refcount_bits=16");
    }
    if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
        return error_msg(error, "Cannot downgrade an image with a data file");
    }
    if (q->incompatible & (QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_EXTL2)) {
        return error_msg(error, "Cannot downgrade an image with incompatible features "
                                "set");
    }
    if (q->snapshots->len) {
        for (unsigned i = 0; i < q->snapshots->len; i++) {
            if (g_array_index(q->snapshots, struct qcow2_snapshot, i).info.disk_size !=
                q->size) {
                return error_msg(error,
                                 "Internal snapshots prevent downgrade of image");
            }
        }
    }
    if (!expand_zeros(b, progress, error)) {
        return false;
    }
    q->lazy = false;
    q->version = 2;
    q->incompatible = q->compatible = q->autoclear = 0;
    return true;
}

static bool wants_v2(json_t *opts)
{
    const char *compat = blk_opt_str(opts, "compat", "");
    return g_str_equal(compat, "0.10") || g_str_equal(compat, "v2");
}

static bool judge_compat(const struct qcow2 *q, json_t *opts, GError **error)
{
    const char *compat = blk_opt_str(opts, "compat", NULL);
    bool v2 = wants_v2(opts);
    if (compat && !v2 && !g_str_equal(compat, "1.1") && !g_str_equal(compat, "v3")) {
        return error_msg(error, "Unknown compatibility level %s", compat);
    }
    if (v2 && q->version > 2 && blk_opt_bool(opts, "lazy_refcounts", false)) {
        return error_msg(error, "Lazy refcounts only supported with compatibility "
                                "level 1.1 and above (use compat=1.1 or greater)");
    }
    return true;
}

/* True: an upgrade never fails. */
static bool upgrade(struct qcow2 *q, json_t *opts)
{
    if (json_object_get(opts, "compat") && !wants_v2(opts)) {
        q->version = 3;
    }
    return true;
}

static bool amend_compat(struct blk *b, json_t *opts,
                         const struct blk_progress *progress, GError **error)
{
    const struct qcow2 *q = b->priv;
    return !wants_v2(opts) || q->version < 3 || downgrade(b, progress, error);
}

static bool amend_lazy(struct qcow2 *q, json_t *opts, GError **error)
{
    if (!json_object_get(opts, "lazy_refcounts")) {
        return true;
    }
    bool on = blk_opt_bool(opts, "lazy_refcounts", false);
    if (on && q->version < 3) {
        return error_msg(error,
                         "Lazy refcounts only supported with compatibility level "
                         "1.1 and above (use compat=1.1 or greater)");
    }
    if (on) {
        q->compatible |= QCOW2_COMPAT_LAZY;
    } else {
        q->compatible &= ~(uint64_t)QCOW2_COMPAT_LAZY;
        q->lazy = false;
        q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
    }
    return true;
}

static bool amend_width(struct qcow2 *q, uint64_t bits, GError **error)
{
    if (bits == 1u << q->refcount_order) {
        return true;
    }
    if (q->version < 3) {
        return error_msg(error, "Refcount widths other than 16 bits require "
                                "compatibility level 1.1 or above (use compat=1.1 or "
                                "greater)");
    }
    return qcow2_change_width(q, (unsigned)__builtin_ctzll(bits), error);
}

static bool qcow2_amend(struct blk *b, json_t *opts, bool force,
                        const struct blk_progress *progress, GError **error)
{
    struct qcow2 *q = b->priv;
    uint64_t bits = blk_opt_u64(opts, "refcount_bits", 1u << q->refcount_order);
    if (bits < 1 || bits > 64 || (bits & (bits - 1))) {
        return error_msg(error, "Refcount width must be a power of two and may not "
                                "exceed 64 bits");
    }
    if (json_object_get(opts, "data_file") && !q->data_file_name) {
        return error_msg(error, "data-file can only be set for images that use an "
                                "external data file");
    }
    if (blk_opt_bool(opts, "data_file_raw", false) &&
        !(q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW)) {
        return error_msg(error, "data-file-raw cannot be set on existing images");
    }
    if ((json_object_get(opts, "backing_file") ||
         json_object_get(opts, "backing_fmt")) &&
        (g_strcmp0(blk_opt_str(opts, "backing_file", NULL), q->backing_name) ||
         g_strcmp0(blk_opt_str(opts, "backing_fmt", NULL), q->backing_format))) {
        return error_msg(error, "Cannot amend the backing file\nYou can use 'qemu-img "
                                "rebase' instead.");
    }
    if (!qcow2_amend_crypt(q, opts, force, error)) {
        return false;
    }
    /* The newer version before what needs it, the older one after what it forbids. */
    if (!begin(b, error) || !judge_compat(q, opts, error) ||
        !(q->version > 2 || upgrade(q, opts)) || !amend_width(q, bits, error) ||
        !amend_compat(b, opts, progress, error) || !amend_lazy(q, opts, error)) {
        return false;
    }
    const char *data = blk_opt_str(opts, "data_file", NULL);
    if (data) {
        g_free(q->data_file_name);
        q->data_file_name = *data ? g_strdup(data) : NULL;
    }
    if (!write_header(q, error)) {
        return false;
    }
    uint64_t size = blk_opt_u64(opts, "size", 0);
    size = size ? size : q->size;
    return size == q->size || qcow2_truncate(b, size, BLK_PREALLOC_OFF, error);
}

static bool make_empty(struct blk *b, GError **error)
{
    struct qcow2 *q = b->priv;
    blk_event(q->file, BLK_EVENT_EMPTY_IMAGE_PREPARE);
    if (!begin(b, error) || !drop_tail(q, 0, q->size, error)) {
        return false;
    }
    return true;
}

static const struct blk_option amend_options[] = {
    {"backing_file", BLK_OPT_STR, NULL, "File name of a base image"},
    {"backing_fmt", BLK_OPT_STR, NULL, "Image format of the base image"},
    {"compat", BLK_OPT_STR, NULL, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"data_file", BLK_OPT_STR, NULL, "File name of an external data file"},
    {"data_file_raw", BLK_OPT_BOOL, NULL,
     "The external data file must stay valid as a raw image"},
    {"encrypt.iter-time", BLK_OPT_INT, NULL, "Time to spend in PBKDF in milliseconds"},
    {"encrypt.keyslot", BLK_OPT_INT, NULL,
     "Select a single keyslot to modify explicitly"},
    {"encrypt.new-secret", BLK_OPT_STR, NULL,
     "New secret to set in the matching keyslots. Empty string to erase"},
    {"encrypt.old-secret", BLK_OPT_STR, NULL,
     "Select all keyslots that match this password"},
    {"encrypt.state", BLK_OPT_STR, NULL,
     "Select new state of affected keyslots (active/inactive)"},
    {"lazy_refcounts", BLK_OPT_BOOL, NULL, "Postpone refcount updates"},
    {"refcount_bits", BLK_OPT_INT, NULL, "Width of a reference count entry in bits"},
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {0},
};

const struct blk_amend_ops qcow2_amend_ops = {
    .options = amend_options,
    .amend = qcow2_amend,
    .set_backing = set_backing,
    .make_empty = make_empty,
};
