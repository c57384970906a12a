#ifndef BLOCK_FORMAT_BITSET_H
#define BLOCK_FORMAT_BITSET_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A set of numbers of any size, for finding clusters that are used twice: a check of an
 * image whose file pretends to be huge takes memory for what is in the set, not for
 * what could be. Not thread-safe.
 */
struct bitset;

struct bitset *bitset_new(void);
void bitset_free(struct bitset *s); /* NULL is fine */

/* Put @n in. False when it was there already. */
bool bitset_add(struct bitset *s, uint64_t n);
bool bitset_has(const struct bitset *s, uint64_t n);

/* How many numbers at or above @least are in it. */
uint64_t bitset_count(const struct bitset *s, uint64_t least);

#endif
