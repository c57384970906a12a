#include "block/chunks.h"

#include <pthread.h>
#include <string.h>

#include "lib/base/base.h"

enum { UNIT = 4096 };

static struct blk_extent extent_at(uint64_t guest, uint64_t len, uint64_t place)
{
    return (struct blk_extent){.kind = BLK_EXT_COMPRESSED,
                               .len = len,
                               .guest_start = guest,
                               .guest_len = len,
                               .offset = place,
                               .stored_len = 100};
}

/* Get the chunk and have it decoded as bytes of @value, if that is ours to do. */
static bool fill(struct blk_chunks *cs, const struct blk_extent *e, int value)
{
    bool mine;
    struct blk_chunk *c = blk_chunks_get(cs, e, true, &mine);
    if (mine) {
        memset(c->data, value, c->guest_len);
        blk_chunks_decoded(cs, c, true);
    }
    g_assert_cmpint(c->data[0], ==, value);
    blk_chunks_unref(cs, c);
    return mine;
}

static bool has(struct blk_chunks *cs, const struct blk_extent *e)
{
    struct blk_chunk *c = blk_chunks_peek(cs, e);
    if (c) {
        blk_chunks_unref(cs, c);
    }
    return c != NULL;
}

static void chunk_is_decoded_once(void)
{
    struct blk_chunks *cs = blk_chunks_new(16 * UNIT);
    struct blk_extent e = extent_at(0, UNIT, 70), moved = extent_at(0, UNIT, 71);
    g_assert_false(has(cs, &e));
    g_assert_true(fill(cs, &e, 1));
    g_assert_false(fill(cs, &e, 1));
    g_assert_true(has(cs, &e));
    /* Somewhere else in the file: another chunk, which takes its place. */
    g_assert_false(has(cs, &moved));
    g_assert_true(fill(cs, &moved, 2));
    g_assert_false(has(cs, &e));
    g_assert_cmpuint(blk_chunks_bytes(cs), ==, UNIT);
    blk_chunks_free(cs);
}

static void oldest_goes_when_full(void)
{
    struct blk_chunks *cs = blk_chunks_new(4 * UNIT);
    struct blk_extent e[6], large = extent_at(100 * UNIT, 9 * UNIT, 1);
    for (unsigned i = 0; i < 6; i++) {
        e[i] = extent_at((uint64_t)i * UNIT, UNIT, i);
        g_assert_true(fill(cs, &e[i], (int)i));
        g_assert_true(has(cs, &e[0])); /* asked for all the time */
        g_assert_cmpuint(blk_chunks_bytes(cs), <=, 4 * UNIT);
    }
    g_assert_false(has(cs, &e[1]));
    g_assert_false(has(cs, &e[2]));
    g_assert_true(has(cs, &e[5]));
    /* One that is larger than all the room is kept alone. */
    g_assert_true(fill(cs, &large, 9));
    g_assert_true(has(cs, &large));
    g_assert_cmpuint(blk_chunks_bytes(cs), ==, 9 * UNIT);
    blk_chunks_free(cs);
}

/* Chunks of one length at its multiples are found by place, others by looking at all:
 * both must forget the same ones. */
static void forgets_what_a_range_touches(void)
{
    for (unsigned odd = 0; odd < 2; odd++) {
        struct blk_chunks *cs = blk_chunks_new(64 * UNIT);
        struct blk_extent e[16], other = extent_at(40 * UNIT + 512, 3 * UNIT, 1);
        for (unsigned i = 0; i < 16; i++) {
            e[i] = extent_at((uint64_t)i * UNIT, UNIT, i);
            fill(cs, &e[i], (int)i);
        }
        if (odd) {
            fill(cs, &other, 1);
        }
        blk_chunks_forget(cs, 3 * UNIT - 1, UNIT + 2);
        for (unsigned i = 0; i < 16; i++) {
            g_assert_cmpint(has(cs, &e[i]), ==, i < 2 || i > 4);
        }
        blk_chunks_forget(cs, 20 * UNIT, 20 * UNIT + 513);
        g_assert_false(has(cs, &other));
        g_assert_true(has(cs, &e[15]));
        blk_chunks_forget(cs, 0, UINT64_MAX);
        g_assert_cmpuint(blk_chunks_bytes(cs), ==, 0);
        blk_chunks_free(cs);
    }
}

static void bad_chunk_is_not_kept(void)
{
    struct blk_chunks *cs = blk_chunks_new(16 * UNIT);
    struct blk_extent e = extent_at(0, UNIT, 7);
    bool mine, again;
    struct blk_chunk *c = blk_chunks_get(cs, &e, true, &mine);
    g_assert_true(mine);
    /* Who must not wait gets a place of his own. */
    struct blk_chunk *own = blk_chunks_get(cs, &e, false, &again);
    g_assert_true(again);
    g_assert_true(own != c);
    blk_chunks_decoded(cs, own, true);
    blk_chunks_unref(cs, own);
    blk_chunks_decoded(cs, c, false);
    blk_chunks_unref(cs, c);
    g_assert_cmpuint(blk_chunks_bytes(cs), ==, 0);
    g_assert_true(fill(cs, &e, 3));
    blk_chunks_free(cs);
}

/* ---- readers while the guest's ranges are mapped anew ------------------------------
 */

enum { SLOTS = 24, THREADS = 4, ROUNDS = 4000 };

struct world {
    struct blk_chunks *cs;
    pthread_rwlock_t range[SLOTS]; /* as the data path keeps requests apart */
    uint8_t version[SLOTS];        /* what the stored bytes decode to */
    unsigned decoded;              /* atomically */
};

static void read_slot(struct world *w, unsigned slot)
{
    struct blk_extent e = extent_at((uint64_t)slot * UNIT, UNIT, slot);
    bool mine;
    pthread_rwlock_rdlock(&w->range[slot]);
    struct blk_chunk *c = blk_chunks_get(w->cs, &e, true, &mine);
    if (mine) {
        memset(c->data, w->version[slot], UNIT);
        __atomic_fetch_add(&w->decoded, 1, __ATOMIC_RELAXED);
        blk_chunks_decoded(w->cs, c, true);
    }
    g_assert_cmpint(c->state, ==, BLK_CHUNK_GOOD);
    for (unsigned i = 0; i < UNIT; i += 511) {
        g_assert_cmpuint(c->data[i], ==, w->version[slot]);
    }
    blk_chunks_unref(w->cs, c);
    pthread_rwlock_unlock(&w->range[slot]);
}

/* Same place, same length, other bytes: only forgetting tells. */
static void write_slot(struct world *w, unsigned slot)
{
    pthread_rwlock_wrlock(&w->range[slot]);
    w->version[slot]++;
    blk_chunks_forget(w->cs, (uint64_t)slot * UNIT + 100, 200);
    pthread_rwlock_unlock(&w->range[slot]);
}

static void *worker(void *opaque)
{
    static unsigned seeds;
    g_autoptr(GRand) rand =
        g_rand_new_with_seed(__atomic_add_fetch(&seeds, 1, __ATOMIC_RELAXED));
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned slot = (unsigned)g_rand_int_range(rand, 0, SLOTS);
        if (g_rand_int_range(rand, 0, 8) == 0) {
            write_slot(opaque, slot);
        } else {
            read_slot(opaque, slot);
        }
    }
    return NULL;
}

static void readers_never_see_old_chunks(void)
{
    struct world w = {.cs = blk_chunks_new(16 * UNIT)};
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < SLOTS; i++) {
        pthread_rwlock_init(&w.range[i], NULL);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL, worker, &w), ==, 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    g_assert_cmpuint(blk_chunks_bytes(w.cs), <=, 16 * UNIT);
    g_assert_cmpuint(w.decoded, <, THREADS * ROUNDS); /* some were shared */
    for (unsigned i = 0; i < SLOTS; i++) {
        pthread_rwlock_destroy(&w.range[i]);
    }
    blk_chunks_free(w.cs);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/chunks/chunk_is_decoded_once", chunk_is_decoded_once);
    g_test_add_func("/chunks/oldest_goes_when_full", oldest_goes_when_full);
    g_test_add_func("/chunks/forgets_what_a_range_touches",
                    forgets_what_a_range_touches);
    g_test_add_func("/chunks/bad_chunk_is_not_kept", bad_chunk_is_not_kept);
    g_test_add_func("/chunks/readers_never_see_old_chunks",
                    readers_never_see_old_chunks);
    return g_test_run();
}
