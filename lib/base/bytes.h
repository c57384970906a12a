#ifndef LIB_BASE_BYTES_H
#define LIB_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

/*
 * Bytes from outside: layouts of disks, wires and guests are read and written
 * field by field with these, never by casting to a packed struct. None of them
 * needs alignment; the caller has checked the bounds.
 */

static inline uint16_t le16_get(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t le32_get(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t le64_get(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void le16_put(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void le32_put(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void le64_put(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline uint16_t be16_get(const void *p)
{
    return __builtin_bswap16(le16_get(p));
}

static inline uint32_t be32_get(const void *p)
{
    return __builtin_bswap32(le32_get(p));
}

static inline uint64_t be64_get(const void *p)
{
    return __builtin_bswap64(le64_get(p));
}

static inline void be16_put(void *p, uint16_t v)
{
    le16_put(p, __builtin_bswap16(v));
}

static inline void be32_put(void *p, uint32_t v)
{
    le32_put(p, __builtin_bswap32(v));
}

static inline void be64_put(void *p, uint64_t v)
{
    le64_put(p, __builtin_bswap64(v));
}

/* The low @len bytes (1, 2, 4 or 8) at @p, zero-extended. */
static inline uint64_t le_get(const void *p, unsigned len)
{
    uint64_t v = 0;
    memcpy(&v, p, len);
    return v;
}

/* The low @len bytes (1, 2, 4 or 8) of @v to @p. */
static inline void le_put(void *p, uint64_t v, unsigned len)
{
    memcpy(p, &v, len);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the host is little-endian; a big-endian host needs bytes.h first");

#endif
