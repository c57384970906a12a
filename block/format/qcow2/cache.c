#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * Tables in memory, in slices: pieces of an L2 table or a refcount block, at most 16
 * KiB, found by their place in the file. A slice lies within one cluster, so a table of
 * 2 MiB does not come in whole for one entry. The bytes of all slices together stay
 * below a limit; the one used longest ago goes first.
 *
 * Writing back keeps the image sound whatever write is the last before a power cut:
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

struct slice {
    uint64_t offset;
    enum qcow2_slice_kind kind;
    bool dirty;
    struct slice *newer, *older;
    uint8_t *data;
};

struct qcow2_cache {
    struct qcow2 *q;
    GHashTable *by_offset;
    struct slice *newest, *oldest;
    unsigned count, max;
    unsigned nb_dirty[2];
};

struct qcow2_cache *qcow2_cache_new(struct qcow2 *q, uint64_t max_bytes)
{
    struct qcow2_cache *c = g_new0(struct qcow2_cache, 1);
    c->q = q;
    c->by_offset = g_hash_table_new(g_int64_hash, g_int64_equal);
    /* A caller holds one slice while another comes in: never fewer than a few. */
    c->max = (unsigned)CLAMP(max_bytes >> q->slice_bits, 32, 1u << 24);
    return c;
}

static void unlink_slice(struct qcow2_cache *c, struct slice *s)
{
    *(s->newer ? &s->newer->older : &c->newest) = s->older;
    *(s->older ? &s->older->newer : &c->oldest) = s->newer;
}

static void push_newest(struct qcow2_cache *c, struct slice *s)
{
    s->newer = NULL;
    s->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = s;
    c->newest = s;
}

static void drop_slice(struct qcow2_cache *c, struct slice *s)
{
    c->nb_dirty[s->kind] -= s->dirty;
    unlink_slice(c, s);
    g_hash_table_remove(c->by_offset, &s->offset);
    c->count--;
    g_free(s->data);
    g_free(s);
}

void qcow2_cache_drop(struct qcow2_cache *c)
{
    while (c->newest) {
        drop_slice(c, c->newest);
    }
}

void qcow2_cache_free(struct qcow2_cache *c)
{
    if (c) {
        qcow2_cache_drop(c);
        g_hash_table_destroy(c->by_offset);
        g_free(c);
    }
}

static uint64_t slice_offset(const struct qcow2_cache *c, uint64_t offset)
{
    return ALIGN_DOWN(offset, UINT64_C(1) << c->q->slice_bits);
}

static struct slice *find(struct qcow2_cache *c, uint64_t offset)
{
    uint64_t at = slice_offset(c, offset);
    if (c->newest && c->newest->offset == at) {
        return c->newest;
    }
    struct slice *s = g_hash_table_lookup(c->by_offset, &at);
    if (s) {
        unlink_slice(c, s);
        push_newest(c, s);
    }
    return s;
}

uint8_t *qcow2_cache_peek(struct qcow2_cache *c, uint64_t offset)
{
    struct slice *s = find(c, offset);
    return s ? s->data : NULL;
}

void qcow2_cache_dirty(struct qcow2_cache *c, uint64_t offset)
{
    struct slice *s = find(c, offset);
    if (s && !s->dirty) {
        s->dirty = true;
        c->nb_dirty[s->kind]++;
    }
}

bool qcow2_cache_is_dirty(const struct qcow2_cache *c, enum qcow2_slice_kind kind)
{
    return c->nb_dirty[kind] > 0;
}

void qcow2_cache_forget(struct qcow2_cache *c, uint64_t offset, uint64_t len)
{
    uint64_t step = UINT64_C(1) << c->q->slice_bits;
    if (len / step > c->count) { /* fewer slices than places */
        for (struct slice *s = c->newest, *next; s; s = next) {
            next = s->older;
            if (s->offset - offset < len) {
                drop_slice(c, s);
            }
        }
        return;
    }
    for (uint64_t at = slice_offset(c, offset); at < offset + len; at += step) {
        struct slice *s = g_hash_table_lookup(c->by_offset, &at);
        if (s) {
            drop_slice(c, s);
        }
    }
}

/* Room for one more: the oldest goes, written back first if need be. */
static int make_room(struct qcow2_cache *c)
{
    if (c->count < c->max) {
        return 0;
    }
    if (c->oldest->dirty) {
        int r = c->oldest->kind == QCOW2_SLICE_REFS
                    ? qcow2_cache_write(c, QCOW2_SLICE_REFS)
                    : qcow2_write_tables(c->q);
        if (r < 0) {
            return r;
        }
    }
    drop_slice(c, c->oldest);
    return 0;
}

int qcow2_cache_get(struct qcow2_cache *c, enum qcow2_slice_kind kind, uint64_t offset,
                    uint8_t **ret)
{
    struct slice *s = find(c, offset);
    if (s) {
        *ret = s->data;
        return 0;
    }
    int r = make_room(c);
    if (r < 0) {
        return r;
    }
    uint64_t bytes = UINT64_C(1) << c->q->slice_bits, at = slice_offset(c, offset);
    uint64_t length = blk_length(c->q->file);
    uint64_t has = at < length ? MIN(bytes, length - at) : 0;
    g_autofree uint8_t *data = g_try_malloc0(bytes);
    if (!data) {
        return -ENOMEM;
    }
    r = has ? blk_pread(c->q->file, at, data, has) : 0;
    if (r < 0) {
        return r;
    }
    s = g_new0(struct slice, 1);
    s->offset = at;
    s->kind = kind;
    s->data = g_steal_pointer(&data);
    g_hash_table_insert(c->by_offset, &s->offset, s);
    push_newest(c, s);
    c->count++;
    *ret = s->data;
    return 0;
}

/* ---- writing back ------------------------------------------------------------------
 */

static int by_place(const void *a, const void *b)
{
    const struct slice *x = *(struct slice *const *)a, *y = *(struct slice *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int qcow2_cache_write(struct qcow2_cache *c, enum qcow2_slice_kind kind)
{
    enum { BATCH = 64 };
    if (!c->nb_dirty[kind]) {
        return 0;
    }
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    for (struct slice *s = c->newest; s; s = s->older) {
        if (s->dirty && s->kind == kind) {
            g_ptr_array_add(list, s);
        }
    }
    qsort(list->pdata, list->len, sizeof(list->pdata[0]), by_place);
    uint64_t bytes = UINT64_C(1) << c->q->slice_bits;
    for (unsigned i = 0; i < list->len;) {
        struct iovec iov[BATCH];
        struct slice *first = list->pdata[i];
        unsigned n = 0;
        while (n < BATCH && i + n < list->len) {
            struct slice *s = list->pdata[i + n];
            if (s->offset != first->offset + n * bytes) {
                break;
            }
            iov[n++] = (struct iovec){s->data, bytes};
        }
        int r = blk_run(c->q->file, BLK_WRITE, first->offset, iov, n, n * bytes, 0);
        if (r < 0) {
            return r;
        }
        for (unsigned k = 0; k < n; k++) {
            ((struct slice *)list->pdata[i + k])->dirty = false;
        }
        c->nb_dirty[kind] -= n;
        i += n;
    }
    return 0;
}

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
    int r = qcow2_cache_write(q->cache, QCOW2_SLICE_REFS);
    if (r == 0 && q->rt_dirty_from < q->rt_dirty_to) {
        r = flush_file(q);
        r = r ? r
              : write_entries(q, q->rt_offset, q->rt, &q->rt_dirty_from,
                              &q->rt_dirty_to);
    }
    return r;
}

int qcow2_write_tables(struct qcow2 *q)
{
    bool tables = qcow2_cache_is_dirty(q->cache, QCOW2_SLICE_TABLE);
    bool l1 = q->l1_dirty_from < q->l1_dirty_to;
    /* Lazy refcounts: the dirty bit says that they are to be counted again. */
    int r = q->lazy ? 0 : write_refs(q);
    if (r == 0 && tables) {
        r = flush_file(q);
        r = r ? r : qcow2_cache_write(q->cache, QCOW2_SLICE_TABLE);
    }
    if (r == 0 && l1) {
        r = flush_file(q);
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
