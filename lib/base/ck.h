#ifndef LIB_BASE_CK_H
#define LIB_BASE_CK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Checked arithmetic for sizes and offsets that came from outside. Each returns
 * true and writes *ret when the result fits, false (and *ret untouched) when not.
 */

static inline bool ck_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *ret = r;
    return true;
}

static inline bool ck_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *ret = r;
    return true;
}

/* Whether [off, off + len) lies inside [0, size). An empty range at size does. */
static inline bool ck_range(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}

#endif
