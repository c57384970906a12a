#include "block/format/qcow2/qcow2_priv.h"

#include "block/event.h"
#include "lib/base/base.h"

/*
 * Writing tables back (block/format/slices.h holds them) so that the image stays sound
 * whatever write is the last before a power cut:
 *
 *     1  refcount blocks     a cluster counted but not yet used is a leak, no more
 *     2  refcount table      after a flush: its blocks are there
 *     3  L2 tables           after a flush: their clusters are counted and filled
 *     4  L1 table            after a flush: its L2 tables are there
 *     5  references that went away (refcount.c, "pending")
 *                            after a flush: no table refers to the clusters any more
 *
 * Refcount blocks may be written at any time, as counts only grow before step 5. A
 * cluster is free for reuse after step 5 only, so data never lands under an old table
 * entry that is still on disk.
 */

static int flush_file(struct qcow2 *q)
{
    int r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r == 0 && q->data && q->data != q->file) {
        r = blk_run(q->data, BLK_FLUSH, 0, NULL, 0, 0, 0);
    }
    return r;
}

static int write_entries(struct qcow2 *q, uint64_t at, const uint64_t *table,
                         uint32_t *from, uint32_t *to)
{
    if (*from >= *to) {
        return 0;
    }
    int r = qcow2_write_table(q, at + *from * 8ull, table + *from, *to - *from);
    if (r == 0) {
        *from = *to = 0;
    }
    return r;
}

/* Refcount blocks and their table. */
static int write_refs(struct qcow2 *q)
{
    int r = slices_write(q->cache, QCOW2_SLICE_REFS);
    if (r == 0 && q->rt_dirty_from < q->rt_dirty_to) {
        r = flush_file(q);
        blk_event(q->file, BLK_EVENT_REFBLOCK_ALLOC_HOOKUP);
        r = r ? r
              : write_entries(q, q->rt_offset, q->rt, &q->rt_dirty_from,
                              &q->rt_dirty_to);
    }
    return r;
}

int qcow2_write_tables(struct qcow2 *q)
{
    bool tables = slices_changed(q->cache, QCOW2_SLICE_TABLE);
    bool l1 = q->l1_dirty_from < q->l1_dirty_to;
    /* Lazy refcounts: the dirty bit says that they are to be counted again. */
    int r = q->lazy ? 0 : write_refs(q);
    if (r == 0 && tables) {
        r = flush_file(q);
        r = r ? r : slices_write(q->cache, QCOW2_SLICE_TABLE);
    }
    if (r == 0 && l1) {
        r = flush_file(q);
        blk_event(q->file, BLK_EVENT_L1_UPDATE);
        r = r ? r
              : write_entries(q, q->l1_offset, q->l1, &q->l1_dirty_from,
                              &q->l1_dirty_to);
    }
    return r;
}

int qcow2_writeback(struct qcow2 *q)
{
    int r = qcow2_write_tables(q);
    if (r == 0 && q->pending->len) {
        r = flush_file(q);
        r = r ? r : qcow2_apply_pending(q);
        if (r == 0 && !q->lazy) {
            r = write_refs(q);
        }
    }
    return r;
}

static int told(struct qcow2 *q, const char *what, int err)
{
    if (err < 0) {
        blk_warn(q->b, "Failed to flush the %s: %s", what, g_strerror(-err));
    }
    return err;
}

int qcow2_flush_at_end(struct qcow2 *q)
{
    bool watched = blk_has_events(q->file);
    int r = qcow2_writeback(q);
    if (r == 0 && watched) {
        r = flush_file(q);
    }
    told(q, "L2 table cache", r);
    int r2 = r || watched ? write_refs(q) : 0;
    if (r2 == 0 && watched) {
        r2 = flush_file(q);
    }
    told(q, "refcount block cache", r2);
    return r ? r : r2;
}

int qcow2_make_room(void *opaque, unsigned kind)
{
    struct qcow2 *q = opaque;
    return kind == QCOW2_SLICE_REFS ? slices_write(q->cache, QCOW2_SLICE_REFS)
                                    : qcow2_write_tables(q);
}
