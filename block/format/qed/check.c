#include "block/format/qed/qed_priv.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * Consistency (Spec, "Consistency checking"): every cluster is referred to once, every
 * reference leads to where its kind can be. What nobody refers to is a leak. Repair
 * clears references that lead nowhere; leaks stay, as nothing records what is free.
 */

struct walk {
    struct blk_check *c;
    struct bitset *used;
};

/* Whether the slice at @at is a hole of the file, and how far that goes. */
static uint64_t hole_at(struct qed *q, uint64_t at, uint64_t len)
{
    struct blk_status s;
    if (slices_peek(q->tables, at) || blk_map_at(q->file, at, len, &s) < 0 ||
        !(s.flags & BLK_STATUS_ZERO)) {
        return 0;
    }
    return s.len;
}

/* The first entry at or after *index that is not zero; @q->entries: none. */
static int next_entry(struct qed *q, unsigned kind, uint64_t table, uint64_t *index,
                      uint64_t *ret)
{
    uint64_t per_slice = 1u << (MIN(q->cluster_bits, 14u) - 3);
    for (; *index < q->entries; ++*index) {
        if (*index % per_slice == 0) {
            uint64_t hole =
                hole_at(q, table + *index * 8, (q->entries - *index) * 8) / 8;
            if (hole >= per_slice) {
                *index += ALIGN_DOWN(hole, per_slice) - 1;
                continue;
            }
        }
        int r = qed_entry(q, kind, table, *index, ret);
        if (r < 0 || *ret) {
            return r;
        }
    }
    return 0;
}

int qed_each_table(struct qed *q,
                   int (*fn)(struct qed *q, uint64_t index, uint64_t table,
                             void *opaque),
                   void *opaque)
{
    for (uint64_t i = 0;; i++) {
        uint64_t table;
        int r = next_entry(q, QED_L1, q->l1_offset, &i, &table);
        if (r != 0 || i >= q->entries) {
            return r;
        }
        r = fn(q, i, table, opaque);
        if (r != 0) {
            return r;
        }
    }
}

static bool use(struct qed *q, struct walk *w, uint64_t offset, uint32_t clusters)
{
    uint64_t twice = 0;
    for (uint32_t i = 0; i < clusters; i++) {
        twice += !bitset_add(w->used, (offset >> q->cluster_bits) + i);
    }
    w->c->result.corruptions += twice;
    return twice == 0;
}

/* A reference that leads nowhere. */
static int bad_entry(struct qed *q, struct walk *w, unsigned kind, uint64_t table,
                     uint64_t index)
{
    if (!w->c->fix) {
        w->c->result.corruptions++;
        return 0;
    }
    w->c->result.corruptions_fixed++;
    return qed_set_entry(q, kind, table, index, QED_UNALLOCATED);
}

static int walk_l2(struct qed *q, struct walk *w, uint64_t table)
{
    struct blk_check_result *res = &w->c->result;
    uint64_t last = 0;
    for (uint64_t i = 0;; i++) {
        uint64_t e;
        int r = next_entry(q, QED_L2, table, &i, &e);
        if (r < 0 || i >= q->entries) {
            return r;
        }
        if (e == QED_ZERO) {
            continue;
        }
        res->allocated_clusters++;
        res->fragmented_clusters += last && last + q->cluster_size != e;
        last = e;
        if (qed_cluster_ok(q, e)) {
            use(q, w, e, 1);
        } else {
            r = bad_entry(q, w, QED_L2, table, i);
            if (r < 0) {
                return r;
            }
        }
    }
}

static int walk_table(struct qed *q, uint64_t index, uint64_t table, void *opaque)
{
    struct walk *w = opaque;
    if (!qed_table_ok(q, table)) {
        return bad_entry(q, w, QED_L1, q->l1_offset, index);
    }
    return use(q, w, table, q->table_size) ? walk_l2(q, w, table) : 0;
}

static int mark_clean(struct qed *q, const struct blk_check_result *res)
{
    int r = qed_writeback(q);
    if (r < 0 || res->corruptions || res->check_errors ||
        !(q->features & QED_F_NEED_CHECK)) {
        return r;
    }
    r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    q->features &= ~QED_F_NEED_CHECK;
    r = r ? r : qed_write_header(q);
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

int qed_check(struct qed *q, struct blk_check *c)
{
    struct blk_check_result *res = &c->result;
    struct walk w = {.c = c, .used = bitset_new()};
    res->total_clusters =
        (q->size >> q->cluster_bits) + ((q->size & (q->cluster_size - 1)) != 0);
    use(q, &w, q->l1_offset, q->table_size);
    int r = qed_each_table(q, walk_table, &w);
    if (r < 0) {
        res->check_errors++;
    } else {
        uint64_t clusters = q->end >> q->cluster_bits;
        res->leaks = clusters - q->header_size - bitset_count(w.used, q->header_size);
        r = c->fix ? mark_clean(q, res) : 0;
    }
    bitset_free(w.used);
    return r;
}

static int check(struct blk *b, struct blk_check *c)
{
    struct qed *q = b->priv;
    int r = b->read_only ? 0 : qed_writeback(q);
    return r ? r : qed_check(q, c);
}

const struct blk_check_ops qed_check_ops = {.check = check};
