#include "block/format/qcow2/qcow2_check.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A refcount structure from counted references, for repair and for another width of the
 * entries: blocks and table go behind everything in use, count themselves, and one
 * write of the header switches over.
 */

static uint64_t highest_counted(struct checker *k)
{
    uint64_t clusters = qcow2_clusters_for(k->q, k->file_len) + 1;
    while (clusters > 0 && qcow2_counted(k, clusters - 1) == 0) {
        if (!qcow2_count_page(k, clusters - 1, false)) {
            clusters = ALIGN_DOWN(clusters - 1, (uint64_t)1 << QCOW2_PAGE_BITS);
        } else {
            clusters--;
        }
    }
    return clusters;
}

static int write_blocks(struct checker *k, uint64_t start, uint64_t blocks,
                        uint64_t own, uint64_t *rt)
{
    struct qcow2 *q = k->q;
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;
    g_autofree uint8_t *buf = g_try_malloc(q->cluster_size);
    int r = buf ? 0 : -ENOMEM;
    for (uint64_t i = 0; r == 0 && i < blocks; i++) {
        memset(buf, 0, q->cluster_size);
        for (uint64_t n = 0; n < per_block; n++) {
            uint64_t c = i * per_block + n;
            uint64_t refs = c >= start && c < start + own ? 1 : qcow2_counted(k, c);
            if (refs) {
                qcow2_refs_put(q->refcount_order, buf, n, refs);
            }
        }
        rt[i] = (start + i) << q->cluster_bits;
        r = blk_pwrite(q->file, rt[i], buf, q->cluster_size);
    }
    return r;
}

/* Table and width change together: one write of the header. */
static int switch_width(struct qcow2 *q, uint64_t at, uint32_t clusters)
{
    uint64_t old_at = q->rt_offset;
    uint32_t old_clusters = q->rt_clusters;
    q->rt_offset = at;
    q->rt_clusters = clusters;
    int r = qcow2_write_header(q);
    if (r < 0) {
        q->rt_offset = old_at;
        q->rt_clusters = old_clusters;
    }
    return r;
}

int qcow2_rebuild_refcounts(struct checker *k)
{
    struct qcow2 *q = k->q;
    uint64_t per_block = UINT64_C(1) << q->refblock_bits, blocks = 1, table = 1;
    uint64_t start = MAX(highest_counted(k), qcow2_clusters_for(q, k->file_len));
    for (;;) {
        uint64_t need = (start + blocks + table + per_block - 1) / per_block;
        uint64_t t = qcow2_clusters_for(q, need * 8);
        if (need <= blocks && t <= table) {
            break;
        }
        blocks = MAX(blocks, need);
        table = MAX(table, t);
    }
    uint64_t entries = table << (q->cluster_bits - 3);
    if (entries * 8 > MAX(QCOW2_MAX_RT_BYTES, q->cluster_size)) {
        return -EFBIG;
    }
    g_autofree uint64_t *rt = g_try_malloc0(entries * 8);
    uint64_t at = (start + blocks) << q->cluster_bits;
    slices_drop(q->cache);
    int r = rt ? write_blocks(k, start, blocks, blocks + table, rt) : -ENOMEM;
    r = r ? r : qcow2_write_table(q, at, rt, (uint32_t)entries);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r == 0 && k->widen) {
        r = switch_width(q, at, (uint32_t)table);
    } else if (r == 0) {
        uint8_t fields[12];
        be64_put(fields, at);
        be32_put(fields + 8, (uint32_t)table);
        r = blk_pwrite(q->file, 48, fields, sizeof(fields));
    }
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    g_free(q->rt);
    q->rt = g_steal_pointer(&rt);
    q->rt_size = (uint32_t)entries;
    q->rt_offset = at;
    q->rt_clusters = (uint32_t)table;
    q->rt_dirty_from = q->rt_dirty_to = 0;
    k->file_len = blk_length(q->file);
    return 0;
}

/* ---- another width --------------------------------------------------------------- */

static bool counts_fit(struct checker *k, uint64_t clusters, unsigned order,
                       GError **error)
{
    uint64_t most = order >= 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
    for (uint64_t c = 0; c < clusters; c++) {
        if (qcow2_counted(k, c) > most) {
            return error_msg(error,
                             "Cannot decrease refcount entry width to %u bits: Cluster "
                             "at offset %#" PRIx64 " has a refcount of %" PRIu64,
                             1u << order, c << k->q->cluster_bits, qcow2_counted(k, c));
        }
    }
    return true;
}

/* The old structure, which the new one counts, is let go. */
static int free_structure(struct qcow2 *q, const uint64_t *rt, uint32_t size,
                          uint64_t at, uint32_t clusters)
{
    int r = qcow2_free_now(q, at, (uint64_t)clusters << q->cluster_bits);
    for (uint32_t i = 0; r == 0 && i < size; i++) {
        if (rt[i] & ~QCOW2_RT_RESERVED) {
            r = qcow2_free_now(q, rt[i] & ~QCOW2_RT_RESERVED, q->cluster_size);
        }
    }
    return r ? r : qcow2_writeback(q);
}

bool qcow2_change_width(struct qcow2 *q, unsigned order, GError **error)
{
    struct blk_check c = {0};
    struct checker k = {
        .q = q,
        .c = &c,
        .wide = true,
        .widen = true,
        .pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free),
    };
    unsigned old_order = q->refcount_order;
    int r = qcow2_writeback(q);
    k.file_len = blk_length(q->file);
    r = r ? r : qcow2_count_all(&k);
    if (r == 0 && (c.result.corruptions || c.result.check_errors)) {
        r = -EUCLEAN;
    }
    bool ok = r == 0
                  ? counts_fit(&k, qcow2_clusters_for(q, k.file_len) + 1, order, error)
                  : error_errno(error, -r, "the references could not be counted");
    if (ok) {
        g_autofree uint64_t *rt = g_memdup2(q->rt, q->rt_size * 8ull);
        uint32_t size = q->rt_size, clusters = q->rt_clusters;
        uint64_t at = q->rt_offset;
        q->refcount_order = order;
        qcow2_derive(q);
        r = qcow2_rebuild_refcounts(&k);
        if (r < 0) {
            q->refcount_order = old_order;
            qcow2_derive(q);
        } else {
            r = free_structure(q, rt, size, at, clusters);
        }
        ok = r == 0 || error_errno(error, -r, "the new refcounts could not be written");
    }
    g_hash_table_destroy(k.pages);
    q->free_hint = 1;
    q->free_byte = 0;
    return ok;
}
