#include "block/chunks.h"

#include <pthread.h>

#include "lib/base/base.h"

/* A hash by where chunks begin and a list by use, newest first, under one lock. */

struct blk_chunks {
    pthread_mutex_t lock;
    pthread_cond_t decoded;
    GHashTable *by_start; /* &guest_start to chunk, the listed ones */
    struct blk_chunk *newest, *oldest;
    uint64_t bytes, max_bytes;
    uint64_t unit; /* all in the table are this long and begin at multiples; or 0 */
};

struct blk_chunks *blk_chunks_new(uint64_t max_bytes)
{
    struct blk_chunks *cs = g_new0(struct blk_chunks, 1);
    pthread_mutex_init(&cs->lock, NULL);
    pthread_cond_init(&cs->decoded, NULL);
    cs->by_start = g_hash_table_new(g_int64_hash, g_int64_equal);
    cs->max_bytes = max_bytes;
    return cs;
}

static void unlink_chunk(struct blk_chunks *cs, struct blk_chunk *c)
{
    *(c->newer ? &c->newer->older : &cs->newest) = c->older;
    *(c->older ? &c->older->newer : &cs->oldest) = c->newer;
}

static void push_newest(struct blk_chunks *cs, struct blk_chunk *c)
{
    c->newer = NULL;
    c->older = cs->newest;
    *(cs->newest ? &cs->newest->newer : &cs->oldest) = c;
    cs->newest = c;
}

static void unref_locked(struct blk_chunk *c)
{
    if (--c->refs == 0) {
        g_free(c->data);
        g_free(c);
    }
}

/* Out of the table; who holds it may go on reading it. */
static void unlist(struct blk_chunks *cs, struct blk_chunk *c)
{
    unlink_chunk(cs, c);
    g_hash_table_remove(cs->by_start, &c->guest_start);
    cs->bytes -= c->guest_len;
    c->listed = false;
    unref_locked(c);
}

void blk_chunks_free(struct blk_chunks *cs)
{
    if (cs) {
        while (cs->newest) {
            unlist(cs, cs->newest);
        }
        g_hash_table_destroy(cs->by_start);
        pthread_cond_destroy(&cs->decoded);
        pthread_mutex_destroy(&cs->lock);
        g_free(cs);
    }
}

static struct blk_chunk *find(struct blk_chunks *cs, const struct blk_extent *e)
{
    struct blk_chunk *c = g_hash_table_lookup(cs->by_start, &e->guest_start);
    bool same = c && c->child == e->child && c->offset == e->offset &&
                c->stored_len == e->stored_len && c->guest_len == e->guest_len;
    if (!same) {
        return NULL;
    }
    if (cs->newest != c) {
        unlink_chunk(cs, c);
        push_newest(cs, c);
    }
    return c;
}

struct blk_chunk *blk_chunks_peek(struct blk_chunks *cs, const struct blk_extent *e)
{
    pthread_mutex_lock(&cs->lock);
    struct blk_chunk *c = find(cs, e);
    c = c && c->state == BLK_CHUNK_GOOD ? c : NULL;
    if (c) {
        c->refs++;
    }
    pthread_mutex_unlock(&cs->lock);
    return c;
}

static void list_chunk(struct blk_chunks *cs, struct blk_chunk *c)
{
    struct blk_chunk *old = g_hash_table_lookup(cs->by_start, &c->guest_start);
    if (old) { /* another extent was there before */
        unlist(cs, old);
    }
    bool alike =
        (!cs->newest || cs->unit == c->guest_len) && c->guest_start % c->guest_len == 0;
    cs->unit = alike ? c->guest_len : 0;
    while (cs->oldest && cs->bytes + c->guest_len > cs->max_bytes) {
        unlist(cs, cs->oldest);
    }
    c->refs++;
    c->listed = true;
    cs->bytes += c->guest_len;
    g_hash_table_insert(cs->by_start, &c->guest_start, c);
    push_newest(cs, c);
}

static struct blk_chunk *chunk_new(const struct blk_extent *e)
{
    uint8_t *data = g_try_malloc(e->guest_len);
    if (!data) {
        return NULL;
    }
    struct blk_chunk *c = g_new0(struct blk_chunk, 1);
    c->data = data;
    c->guest_start = e->guest_start;
    c->guest_len = e->guest_len;
    c->child = e->child;
    c->offset = e->offset;
    c->stored_len = e->stored_len;
    c->refs = 1;
    return c;
}

struct blk_chunk *blk_chunks_get(struct blk_chunks *cs, const struct blk_extent *e,
                                 bool wait, bool *ret_mine)
{
    *ret_mine = false;
    pthread_mutex_lock(&cs->lock);
    struct blk_chunk *c = find(cs, e);
    bool busy = c && c->state == BLK_CHUNK_DECODING;
    if (c && (!busy || wait)) {
        c->refs++;
        while (c->state == BLK_CHUNK_DECODING) {
            pthread_cond_wait(&cs->decoded, &cs->lock);
        }
    } else {
        c = chunk_new(e);
        *ret_mine = c != NULL;
        if (c && !busy) {
            list_chunk(cs, c);
        }
    }
    pthread_mutex_unlock(&cs->lock);
    return c;
}

void blk_chunks_decoded(struct blk_chunks *cs, struct blk_chunk *c, bool good)
{
    pthread_mutex_lock(&cs->lock);
    c->state = good ? BLK_CHUNK_GOOD : BLK_CHUNK_BAD;
    if (!good && c->listed) {
        unlist(cs, c);
    }
    pthread_cond_broadcast(&cs->decoded);
    pthread_mutex_unlock(&cs->lock);
}

void blk_chunks_unref(struct blk_chunks *cs, struct blk_chunk *c)
{
    pthread_mutex_lock(&cs->lock);
    unref_locked(c);
    pthread_mutex_unlock(&cs->lock);
}

void blk_chunks_forget(struct blk_chunks *cs, uint64_t offset, uint64_t len)
{
    pthread_mutex_lock(&cs->lock);
    uint64_t unit = cs->unit;
    if (unit && len / unit + 2 < g_hash_table_size(cs->by_start)) {
        uint64_t at = offset - offset % unit;
        for (; at < offset + len; at += unit) {
            struct blk_chunk *c = g_hash_table_lookup(cs->by_start, &at);
            if (c) {
                unlist(cs, c);
            }
        }
    } else {
        for (struct blk_chunk *c = cs->newest, *next; c; c = next) {
            next = c->older;
            if (c->guest_start < offset || c->guest_start - offset < len) {
                if (c->guest_start + c->guest_len > offset) {
                    unlist(cs, c);
                }
            }
        }
    }
    pthread_mutex_unlock(&cs->lock);
}

uint64_t blk_chunks_bytes(struct blk_chunks *cs)
{
    pthread_mutex_lock(&cs->lock);
    uint64_t bytes = cs->bytes;
    pthread_mutex_unlock(&cs->lock);
    return bytes;
}
