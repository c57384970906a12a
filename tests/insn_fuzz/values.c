#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* Numbers at the edges of every format an instruction may take its operand for. */

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

void fz_seed(struct fz_rng *r, uint64_t seed, uint64_t number)
{
    r->s = mix(mix(seed) + number * UINT64_C(0x9e3779b97f4a7c15)) | 1;
}

uint64_t fz_value(struct fz_rng *r)
{
    uint64_t one = UINT64_C(1) << fz_below(r, 64);
    switch (fz_below(r, 6)) {
    case 0: return fz_below(r, 4) - UINT64_C(2);
    case 1: return one - fz_below(r, 3) + 1;
    case 2: return -one + fz_below(r, 3) - 1;
    case 3: return fz_below(r, 256);
    default: return fz_rnd(r);
    }
}

static uint32_t rnd_float(struct fz_rng *r)
{
    static const uint32_t pool[] = {
        0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x3fc00000, 0x7f7fffff,
        0xff7fffff, 0x00800000, 0x80800000, 0x00000001, 0x807fffff, 0x7f800000,
        0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffa00000, 0x4f000000,
        0xcf000000, 0xcf000001, 0x4effffff, 0x5f000000, 0xdf000000, 0x3f000000,
        0x3effffff, 0x4b000001, 0x33800000, 0x477fff00, 0x47000000, 0x00400000,
    };
    switch (fz_below(r, 4)) {
    case 0: return pool[fz_below(r, ARRAY_LEN(pool))];
    case 1: return 0x3f800000 + (uint32_t)(fz_rnd(r) & 0x83ffffff);
    case 2: return (uint32_t)(fz_rnd(r) & 0x80ffffff); /* around the smallest */
    default: return 0x3d000000 + (uint32_t)(fz_rnd(r) & 0x87ffffff);
    }
}

static uint64_t rnd_double(struct fz_rng *r)
{
    static const uint64_t pool[] = {
        0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
        0x3ff8000000000000, 0x7fefffffffffffff, 0xffefffffffffffff, 0x0010000000000000,
        0x0000000000000001, 0x800fffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
        0x7ff8000000000000, 0xfff8000000000001, 0x7ff0000000000001, 0xfff4000000000000,
        0x41dfffffffc00000, 0x41e0000000000000, 0xc1e0000000000000, 0xc1e0000000200000,
        0x43e0000000000000, 0xc3e0000000000000, 0x3fe0000000000000, 0x47efffffe0000000,
        0x47f0000000000000, 0x36a0000000000000, 0x3810000000000000, 0x0008000000000000,
        0x40e0000000000000, 0x40dfffe000000000,
    };
    switch (fz_below(r, 4)) {
    case 0: return pool[fz_below(r, ARRAY_LEN(pool))];
    case 1: return UINT64_C(0x3ff0000000000000) + (fz_rnd(r) & 0x801fffffffffffff);
    case 2: return fz_rnd(r) & UINT64_C(0x801fffffffffffff);
    default: return UINT64_C(0x3f00000000000000) + (fz_rnd(r) & 0x81ffffffffffffff);
    }
}

/* An 80-bit value: mostly numbers, and each of the odd encodings. */
static void rnd_extended(struct fz_rng *r, uint8_t *p)
{
    uint64_t m = fz_rnd(r) | UINT64_C(1) << 63;
    unsigned sign = (unsigned)fz_rnd(r) & 0x8000, e = 0x3fff;
    switch (fz_below(r, 14)) {
    case 0: m = e = 0; break;
    case 1: e = 0x7fff, m = UINT64_C(1) << 63; break;         /* infinity */
    case 2: e = 0x7fff; break;                                /* NaN */
    case 3: e = 0x7fff, m &= ~(UINT64_C(1) << 62); break;     /* SNaN */
    case 4: e = 0, m >>= 1 + fz_below(r, 60); break;          /* denormal */
    case 5: e = 0; break;                                     /* pseudo-denormal */
    case 6: e = (unsigned)fz_rnd(r) & 0x7fff, m >>= 1; break; /* unnormal */
    case 7: e = 0x3fff + fz_below(r, 70), m &= ~0ull << fz_below(r, 64); break;
    case 8: e = 1 + fz_below(r, 40); break;      /* tiny */
    case 9: e = 0x7ffe - fz_below(r, 40); break; /* huge */
    case 10: e = (unsigned)fz_rnd(r) & 0x7fff; break;
    case 11: m = UINT64_C(1) << 63; break; /* one */
    default: e = 0x3fff - 20 + fz_below(r, 60); break;
    }
    le64_put(p, m);
    le16_put(p + 8, (uint16_t)(sign | e));
}

static void rnd_bcd(struct fz_rng *r, uint8_t *p)
{
    for (unsigned i = 0; i < 9; i++) {
        p[i] = (uint8_t)(fz_below(r, 10) | fz_below(r, 10) << 4);
    }
    p[9] = fz_chance(r, 50) ? 0x80 : 0;
}

enum { KIND_FLOAT, KIND_DOUBLE, KIND_INT, KIND_BYTES, KIND_MASK, KIND_X87, NB_KINDS };

static void fill_kind(struct fz_rng *r, uint8_t *p, unsigned n, unsigned kind)
{
    for (unsigned i = 0; i + 8 <= n; i += 8) {
        uint64_t v;
        switch (kind) {
        case KIND_FLOAT: v = rnd_float(r) | (uint64_t)rnd_float(r) << 32; break;
        case KIND_DOUBLE: v = rnd_double(r); break;
        case KIND_INT: v = fz_value(r); break;
        case KIND_MASK: v = (fz_rnd(r) >> 7 & 0x0101010101010101) * 0xff; break;
        default: v = fz_rnd(r); break;
        }
        le64_put(p + i, v);
    }
    if (kind == KIND_X87) {
        for (unsigned i = 0; i + 16 <= n; i += 16) {
            if (fz_chance(r, 70)) {
                rnd_extended(r, p + i);
            } else {
                rnd_bcd(r, p + i);
            }
        }
    }
}

void fz_fill(struct fz_rng *r, uint8_t *p, unsigned n)
{
    fill_kind(r, p, n, fz_below(r, NB_KINDS));
}

uint16_t fz_control_word(struct fz_rng *r)
{
    static const uint16_t precision[] = {0x300, 0x300, 0x200, 0x000, 0x100};
    uint16_t masks = fz_chance(r, 80) ? 0x3f : (uint16_t)(fz_rnd(r) & 0x3f);
    return (uint16_t)(masks | 0x40 | precision[fz_below(r, 5)] | fz_below(r, 4) << 10);
}

/* Often with an exception pending. */
static uint16_t rnd_status(struct fz_rng *r, uint16_t fcw)
{
    uint16_t flags = fz_chance(r, 70) ? 0 : (uint16_t)(fz_rnd(r) & 0x3f);
    if (fz_chance(r, 90)) {
        flags &= fcw;
    }
    bool pending = flags & ~fcw & 0x3f;
    return (uint16_t)((fz_rnd(r) & 0x7f00) | flags | (pending ? 0x8080 : 0));
}

uint32_t fz_mxcsr(struct fz_rng *r)
{
    uint32_t masks = fz_chance(r, 80) ? 0x1f80 : (uint32_t)fz_rnd(r) & 0x1f80;
    uint32_t v = masks | fz_below(r, 4) << 13;
    v |= fz_chance(r, 30) ? (uint32_t)fz_rnd(r) & 0x3f : 0;
    v |= fz_chance(r, 20) ? 0x8000 : 0;  /* flush to zero */
    v |= fz_chance(r, 20) ? 0x40 : 0;    /* denormals are zeros */
    v |= fz_chance(r, 10) ? 0x20000 : 0; /* misaligned operands */
    return v;
}

void fz_fill_xsave(struct fz_rng *r, uint8_t *p)
{
    unsigned kind = fz_below(r, NB_KINDS);
    uint16_t fcw = fz_chance(r, 50) ? 0x37f : fz_control_word(r);

    memset(p, 0, FZ_XSAVE_SIZE);
    le16_put(p + FZ_FCW, fcw);
    le16_put(p + FZ_FSW, rnd_status(r, fcw));
    p[FZ_FTW] = fz_chance(r, 40) ? 0xff : fz_chance(r, 60) ? (uint8_t)fz_rnd(r) : 0;
    le32_put(p + FZ_MXCSR, fz_mxcsr(r));
    for (unsigned i = 0; i < 8; i++) {
        uint8_t v[16];
        fill_kind(r, v, 16, kind);
        if (kind == KIND_X87 || fz_chance(r, 40)) {
            rnd_extended(r, v);
        }
        memcpy(p + FZ_ST + 16 * i, v, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        unsigned k = fz_chance(r, 80) ? kind : fz_below(r, NB_KINDS);
        fill_kind(r, p + FZ_XMM + 16 * i, 16, k);
        fill_kind(r, p + FZ_YMM + 16 * i, 16, k);
    }
    le64_put(p + FZ_XSTATE_BV, 7);
}

void fz_fill_area(struct fz_rng *r, uint8_t *p, bool fxsave)
{
    fz_fill_xsave(r, p);
    fill_kind(r, p + FZ_FIP, 16, KIND_BYTES);
    if (fz_chance(r, 5)) {
        le32_put(p + FZ_MXCSR, fz_mxcsr(r) | 1u << (16 + fz_below(r, 16)));
    }
    if (fxsave) {
        return;
    }
    le64_put(p + FZ_XSTATE_BV, fz_below(r, 8));
    if (fz_chance(r, 30)) { /* compacted */
        uint64_t bv = fz_below(r, 8);
        le64_put(p + FZ_XSTATE_BV + 8, bv | UINT64_C(1) << 63);
        le64_put(p + FZ_XSTATE_BV, fz_chance(r, 90) ? bv & fz_rnd(r) : fz_below(r, 8));
    }
    if (fz_chance(r, 5)) {
        /* A reserved bit: of the low 16, the host has components that we do not. */
        unsigned at = 2 + fz_below(r, 60);
        at += at < 8 ? 0 : 2;
        p[FZ_XSTATE_BV + at] ^= (uint8_t)(1u << fz_below(r, 8));
    }
}

void fz_base_memory(uint64_t seed, uint64_t number, struct fz_mem *mem)
{
    struct fz_rng r;
    fz_seed(&r, ~seed, number >> 12);
    for (unsigned i = 0; i < sizeof(mem->data); i += 64) {
        fz_fill(&r, mem->data + i, 64);
    }
    for (unsigned i = 0; i < sizeof(mem->stack); i += 64) {
        fz_fill(&r, mem->stack + i, 64);
    }
    memset(mem->code, 0xcc, sizeof(mem->code)); /* INT3 */
}
