#ifndef LIB_ISA_X86_DECODE_RANDOM_H
#define LIB_ISA_X86_DECODE_RANDOM_H

#include <stdint.h>
#include <string.h>

#include "lib/base/base.h"

/* Random byte strings for the decoder's tests, the same ones for the same seed. */

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state * UINT64_C(0x2545f4914f6cdd1d);
}

/*
 * Random bytes reach the one-byte map only: most strings get prefixes and the first
 * bytes of the rarer maps in front.
 */
static inline void random_insn(struct rng *r, uint8_t bytes[16])
{
    static const uint8_t prefixes[] = {0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0,
                                       0x2e, 0x64, 0x48, 0x41, 0x4d, 0x44};
    uint64_t v = rng_next(r), choice = rng_next(r);
    unsigned n = 0;

    memcpy(bytes, &v, 8);
    v = rng_next(r);
    memcpy(bytes + 8, &v, 8);
    for (; choice % 3 == 0 && n < 4; choice /= 3) {
        bytes[n++] = prefixes[(choice >> 8) % ARRAY_LEN(prefixes)];
    }
    switch ((choice >> 20) % 8) {
    case 0:
    case 1: bytes[n] = 0x0f; break;
    case 2:
        bytes[n] = 0x0f;
        bytes[n + 1] = choice & 1 ? 0x38 : 0x3a;
        break;
    case 3: bytes[n] = 0xc5; break;
    case 4:
    case 5:
        bytes[n] = 0xc4;
        bytes[n + 1] = (bytes[n + 1] & 0xe0) | (1 + (choice >> 30) % 3);
        bytes[n + 2] |= choice & 64 ? 0x78 : 0; /* often no vvvv */
        break;
    default: break;
    }
}

#endif
