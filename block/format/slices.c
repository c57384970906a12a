#include "block/format/slices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

struct slice {
    uint64_t offset;
    unsigned kind;
    bool dirty;
    struct slice *newer, *older;
    uint8_t *data;
};

struct slices {
    struct blk *file;
    unsigned bits;
    int (*write_back)(void *opaque, unsigned kind);
    void *opaque;
    GHashTable *by_offset;
    struct slice *newest, *oldest;
    unsigned count, max;
    unsigned nb_dirty[SLICES_KINDS];
    enum blk_event load[SLICES_KINDS], update[SLICES_KINDS];
};

struct slices *slices_new(struct blk *file, unsigned bits, uint64_t max_bytes,
                          int (*write_back)(void *opaque, unsigned kind), void *opaque)
{
    struct slices *c = g_new0(struct slices, 1);
    c->file = file;
    c->bits = bits;
    c->write_back = write_back;
    c->opaque = opaque;
    c->by_offset = g_hash_table_new(g_int64_hash, g_int64_equal);
    /* A caller holds one slice while another comes in: never fewer than a few. */
    c->max = (unsigned)CLAMP(max_bytes >> bits, 32, 1u << 24);
    for (unsigned i = 0; i < SLICES_KINDS; i++) {
        slices_events(c, i, BLK_EVENT_NONE, BLK_EVENT_NONE);
    }
    return c;
}

void slices_events(struct slices *c, unsigned kind, enum blk_event load,
                   enum blk_event update)
{
    c->load[kind] = load;
    c->update[kind] = update;
}

static void say(const struct slices *c, enum blk_event e)
{
    if (e != BLK_EVENT_NONE) {
        blk_event(c->file, e);
    }
}

static void unlink_slice(struct slices *c, struct slice *s)
{
    *(s->newer ? &s->newer->older : &c->newest) = s->older;
    *(s->older ? &s->older->newer : &c->oldest) = s->newer;
}

static void push_newest(struct slices *c, struct slice *s)
{
    s->newer = NULL;
    s->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = s;
    c->newest = s;
}

static void drop_slice(struct slices *c, struct slice *s)
{
    c->nb_dirty[s->kind] -= s->dirty;
    unlink_slice(c, s);
    g_hash_table_remove(c->by_offset, &s->offset);
    c->count--;
    g_free(s->data);
    g_free(s);
}

void slices_drop(struct slices *c)
{
    while (c->newest) {
        drop_slice(c, c->newest);
    }
}

void slices_free(struct slices *c)
{
    if (c) {
        slices_drop(c);
        g_hash_table_destroy(c->by_offset);
        g_free(c);
    }
}

static uint64_t slice_offset(const struct slices *c, uint64_t offset)
{
    return ALIGN_DOWN(offset, UINT64_C(1) << c->bits);
}

static struct slice *find(struct slices *c, uint64_t offset)
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

uint8_t *slices_peek(struct slices *c, uint64_t offset)
{
    struct slice *s = find(c, offset);
    return s ? s->data : NULL;
}

void slices_dirty(struct slices *c, uint64_t offset)
{
    struct slice *s = find(c, offset);
    if (s && !s->dirty) {
        s->dirty = true;
        c->nb_dirty[s->kind]++;
    }
}

bool slices_changed(const struct slices *c, unsigned kind)
{
    return c->nb_dirty[kind] > 0;
}

void slices_forget(struct slices *c, uint64_t offset, uint64_t len)
{
    uint64_t step = UINT64_C(1) << c->bits;
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
static int make_room(struct slices *c)
{
    if (c->count < c->max) {
        return 0;
    }
    if (c->oldest->dirty) {
        int r = c->write_back(c->opaque, c->oldest->kind);
        if (r < 0) {
            return r;
        }
    }
    drop_slice(c, c->oldest);
    return 0;
}

/* @data becomes the slice's. */
static struct slice *insert(struct slices *c, unsigned kind, uint64_t at, uint8_t *data)
{
    struct slice *s = g_new0(struct slice, 1);
    s->offset = at;
    s->kind = kind;
    s->data = data;
    g_hash_table_insert(c->by_offset, &s->offset, s);
    push_newest(c, s);
    c->count++;
    return s;
}

int slices_put(struct slices *c, unsigned kind, uint64_t offset, const uint8_t *data)
{
    uint64_t bytes = UINT64_C(1) << c->bits;
    slices_forget(c, offset, bytes);
    int r = make_room(c);
    uint8_t *copy = r == 0 ? g_try_malloc(bytes) : NULL;
    if (!copy) {
        return r ? r : -ENOMEM;
    }
    memcpy(copy, data, bytes);
    insert(c, kind, offset, copy);
    return 0;
}

int slices_get(struct slices *c, unsigned kind, uint64_t offset, uint8_t **ret)
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
    uint64_t bytes = UINT64_C(1) << c->bits, at = slice_offset(c, offset);
    uint64_t length = blk_length(c->file);
    uint64_t has = at < length ? MIN(bytes, length - at) : 0;
    g_autofree uint8_t *data = g_try_malloc0(bytes);
    if (!data) {
        return -ENOMEM;
    }
    say(c, c->load[kind]);
    r = has ? blk_pread(c->file, at, data, has) : 0;
    if (r < 0) {
        return r;
    }
    s = insert(c, kind, at, g_steal_pointer(&data));
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

int slices_write(struct slices *c, unsigned kind)
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
    uint64_t bytes = UINT64_C(1) << c->bits;
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
        say(c, c->update[kind]);
        int r = blk_run(c->file, BLK_WRITE, first->offset, iov, n, n * bytes, 0);
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
