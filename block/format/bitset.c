#include "block/format/bitset.h"

#include <glib.h>

#include "lib/base/base.h"

/* Pages of 4096 bits, found by the number of their first bit. */

enum { PAGE_BITS = 12, PAGE_WORDS = (1 << PAGE_BITS) / 64 };

struct page {
    uint64_t index;
    uint64_t words[PAGE_WORDS];
};

struct bitset {
    GHashTable *pages;
    struct page *last;
};

struct bitset *bitset_new(void)
{
    struct bitset *s = g_new0(struct bitset, 1);
    s->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    return s;
}

void bitset_free(struct bitset *s)
{
    if (s) {
        g_hash_table_destroy(s->pages);
        g_free(s);
    }
}

static struct page *find(const struct bitset *s, uint64_t n)
{
    uint64_t index = n >> PAGE_BITS;
    return s->last && s->last->index == index ? s->last
                                              : g_hash_table_lookup(s->pages, &index);
}

bool bitset_add(struct bitset *s, uint64_t n)
{
    struct page *p = find(s, n);
    if (!p) {
        p = g_new0(struct page, 1);
        p->index = n >> PAGE_BITS;
        g_hash_table_insert(s->pages, &p->index, p);
    }
    s->last = p;
    uint64_t *word = &p->words[n % (1 << PAGE_BITS) / 64], bit = UINT64_C(1) << n % 64;
    bool fresh = !(*word & bit);
    *word |= bit;
    return fresh;
}

bool bitset_has(const struct bitset *s, uint64_t n)
{
    const struct page *p = find(s, n);
    return p && (p->words[n % (1 << PAGE_BITS) / 64] >> n % 64 & 1);
}

uint64_t bitset_count(const struct bitset *s, uint64_t least)
{
    GHashTableIter iter;
    void *key, *value;
    uint64_t count = 0;
    g_hash_table_iter_init(&iter, s->pages);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        const struct page *p = value;
        for (unsigned i = 0; i < PAGE_WORDS; i++) {
            uint64_t first = (p->index << PAGE_BITS) + (uint64_t)i * 64;
            uint64_t word = p->words[i];
            if (first + 64 <= least) {
                continue;
            }
            if (first < least) {
                word &= ~UINT64_C(0) << (least - first);
            }
            count += (uint64_t)__builtin_popcountll(word);
        }
    }
    return count;
}
