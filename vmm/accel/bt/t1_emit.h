#ifndef VMM_ACCEL_BT_T1_EMIT_H
#define VMM_ACCEL_BT_T1_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "lib/isa/x86/regs.h"

/*
 * A small assembler for 64-bit code. Registers are numbers 0..15 as encoded (enum
 * x86_gpr). The caller sees to it that there is room. Encodings: APM 3 chapter 1.
 */

struct t1_emit {
    uint8_t *p;     /* where the next byte goes, in the writable mapping */
    uint8_t *base;  /* the writable mapping's start; positions are offsets from it */
    bool loop;      /* checks end in LOOP: t1_unless() */
    bool too_far;   /* one of them could not reach its island */
    uint32_t front; /* islands for the first checks: where, and how many */
    unsigned nb_front, nb_pending;
    struct {
        uint32_t at, *from; /* the LOOP's displacement; where its island is noted */
    } pending[24];
};

/* [base + index << shift + disp]; base or index may be T1_NO_REG. With T1_RIP as base,
 * of an instruction without immediate, disp is a position as t1_pos() gives them. */
#define T1_NO_REG 0xff
#define T1_RIP    0xf0
struct t1_mem {
    uint8_t base, index, shift;
    int32_t disp;
};

/* What stands around an opcode. */
struct t1_enc {
    uint8_t lock, p66, rep; /* prefixes: 0xf0 / 0x66 / 0xf2 or 0xf3, or 0 */
    bool w;
    bool rex;    /* a REX prefix even when it says nothing: SIL, DIL, BPL */
    uint8_t map; /* 0: one byte; 1: 0F; 2: 0F 38; 3: 0F 3A */
    uint8_t opcode;
};

static inline uint32_t t1_pos(const struct t1_emit *e)
{
    return (uint32_t)(e->p - e->base);
}

static inline void t1_u8(struct t1_emit *e, unsigned v)
{
    *e->p++ = (uint8_t)v;
}

static inline void t1_u32(struct t1_emit *e, uint32_t v)
{
    memcpy(e->p, &v, 4);
    e->p += 4;
}

static inline void t1_u64(struct t1_emit *e, uint64_t v)
{
    memcpy(e->p, &v, 8);
    e->p += 8;
}

static inline bool t1_fits8(int64_t v)
{
    return v == (int8_t)v;
}

static inline bool t1_fits32(int64_t v)
{
    return v == (int32_t)v;
}

/* ModRM, SIB and displacement. */
static inline void t1_modrm_mem(struct t1_emit *e, unsigned reg, struct t1_mem m)
{
    reg = (reg & 7) << 3;
    if (m.base == T1_NO_REG) {
        t1_u8(e, reg | 4);
        t1_u8(e, m.shift << 6 | (m.index == T1_NO_REG ? 4u : m.index & 7u) << 3 | 5);
        t1_u32(e, (uint32_t)m.disp);
        return;
    }
    if (m.base == T1_RIP) {
        t1_u8(e, reg | 5);
        t1_u32(e, (uint32_t)m.disp - (t1_pos(e) + 4));
        return;
    }
    unsigned mod = m.disp == 0 && (m.base & 7) != 5 ? 0
                   : t1_fits8(m.disp)               ? 0x40
                                                    : 0x80;
    if (m.index != T1_NO_REG || (m.base & 7) == 4) {
        t1_u8(e, mod | reg | 4);
        t1_u8(e, m.shift << 6 | (m.index == T1_NO_REG ? 4u : m.index & 7u) << 3 |
                     (m.base & 7));
    } else {
        t1_u8(e, mod | reg | (m.base & 7));
    }
    if (mod == 0x40) {
        t1_u8(e, (uint8_t)m.disp);
    } else if (mod == 0x80) {
        t1_u32(e, (uint32_t)m.disp);
    }
}

static inline void t1_opcode(struct t1_emit *e, const struct t1_enc *x, unsigned rex)
{
    if (x->lock) {
        t1_u8(e, x->lock);
    }
    if (x->p66) {
        t1_u8(e, x->p66);
    }
    if (x->rep) {
        t1_u8(e, x->rep);
    }
    rex |= x->w ? 8 : 0;
    if (rex || x->rex) {
        t1_u8(e, 0x40 | rex);
    }
    if (x->map) {
        t1_u8(e, 0x0f);
    }
    if (x->map >= 2) {
        t1_u8(e, x->map == 2 ? 0x38 : 0x3a);
    }
    t1_u8(e, x->opcode);
}

static inline unsigned t1_rex_mem(unsigned reg, struct t1_mem m)
{
    return (reg >> 3 & 1) << 2 | (m.index != T1_NO_REG ? (m.index >> 3 & 1u) << 1 : 0) |
           (m.base != T1_NO_REG ? m.base >> 3 & 1u : 0);
}

static inline void t1_op_mem(struct t1_emit *e, const struct t1_enc *x, unsigned reg,
                             struct t1_mem m)
{
    t1_opcode(e, x, t1_rex_mem(reg, m));
    t1_modrm_mem(e, reg, m);
}

static inline void t1_op_reg(struct t1_emit *e, const struct t1_enc *x, unsigned reg,
                             unsigned rm)
{
    t1_opcode(e, x, (reg >> 3 & 1) << 2 | (rm >> 3 & 1));
    t1_u8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* The three-byte VEX prefix; @rex as in REX, @pp 0, 1 (66), 2 (F3), 3 (F2). */
static inline void t1_vex(struct t1_emit *e, unsigned map, bool w, unsigned pp, bool l,
                          unsigned rex, unsigned vvvv, unsigned opcode)
{
    t1_u8(e, 0xc4);
    t1_u8(e, ((rex & 4) ? 0 : 0x80) | ((rex & 2) ? 0 : 0x40) | ((rex & 1) ? 0 : 0x20) |
                 map);
    t1_u8(e, (w ? 0x80 : 0) | (~vvvv & 0xf) << 3 | (l ? 4 : 0) | pp);
    t1_u8(e, opcode);
}

/* --- Instructions; none of these changes flags ------------------------------ */

static inline void t1_mov_rr(struct t1_emit *e, unsigned dst, unsigned src)
{
    t1_op_reg(e, &(struct t1_enc){.w = true, .opcode = 0x8b}, dst, src);
}

static inline void t1_mov_rr32(struct t1_emit *e, unsigned dst, unsigned src)
{
    t1_op_reg(e, &(struct t1_enc){.opcode = 0x8b}, dst, src);
}

static inline void t1_load(struct t1_emit *e, unsigned dst, struct t1_mem m)
{
    t1_op_mem(e, &(struct t1_enc){.w = true, .opcode = 0x8b}, dst, m);
}

static inline void t1_load32(struct t1_emit *e, unsigned dst, struct t1_mem m)
{
    t1_op_mem(e, &(struct t1_enc){.opcode = 0x8b}, dst, m);
}

static inline void t1_store(struct t1_emit *e, struct t1_mem m, unsigned src)
{
    t1_op_mem(e, &(struct t1_enc){.w = true, .opcode = 0x89}, src, m);
}

static inline void t1_lea(struct t1_emit *e, unsigned dst, struct t1_mem m)
{
    t1_op_mem(e, &(struct t1_enc){.w = true, .opcode = 0x8d}, dst, m);
}

static inline void t1_lea32(struct t1_emit *e, unsigned dst, struct t1_mem m)
{
    t1_op_mem(e, &(struct t1_enc){.opcode = 0x8d}, dst, m);
}

static inline void t1_not(struct t1_emit *e, unsigned reg)
{
    t1_op_reg(e, &(struct t1_enc){.w = true, .opcode = 0xf7}, 2, reg);
}

static inline void t1_mov_ri(struct t1_emit *e, unsigned dst, int64_t v)
{
    if ((uint64_t)v <= UINT32_MAX) {
        t1_opcode(e, &(struct t1_enc){.opcode = (uint8_t)(0xb8 | (dst & 7))}, dst >> 3);
        t1_u32(e, (uint32_t)v);
    } else if (t1_fits32(v)) {
        t1_op_reg(e, &(struct t1_enc){.w = true, .opcode = 0xc7}, 0, dst);
        t1_u32(e, (uint32_t)v);
    } else {
        t1_opcode(e, &(struct t1_enc){.w = true, .opcode = (uint8_t)(0xb8 | (dst & 7))},
                  dst >> 3);
        t1_u64(e, (uint64_t)v);
    }
}

/* dst = src >> (count & 63) */
static inline void t1_shrx(struct t1_emit *e, unsigned dst, unsigned src,
                           unsigned count)
{
    t1_vex(e, 2, true, 3, false, (dst >> 3 & 1) << 2 | (src >> 3 & 1), count, 0xf7);
    t1_u8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

/* dst = low bits of src, spread over the ones in the mask @m */
static inline void t1_pdep(struct t1_emit *e, unsigned dst, unsigned src,
                           struct t1_mem m)
{
    t1_vex(e, 2, true, 3, false, t1_rex_mem(dst, m), src, 0xf5);
    t1_modrm_mem(e, dst, m);
}

/* dst = the bits of src under the mask @m, put together */
static inline void t1_pext(struct t1_emit *e, unsigned dst, unsigned src,
                           struct t1_mem m)
{
    t1_vex(e, 2, true, 2, false, t1_rex_mem(dst, m), src, 0xf5);
    t1_modrm_mem(e, dst, m);
}

static inline void t1_pext_rr(struct t1_emit *e, unsigned dst, unsigned src,
                              unsigned mask)
{
    t1_vex(e, 2, true, 2, false, (dst >> 3 & 1) << 2 | (mask >> 3 & 1), src, 0xf5);
    t1_u8(e, 0xc0 | (dst & 7) << 3 | (mask & 7));
}

static inline void t1_rorx(struct t1_emit *e, unsigned dst, unsigned src, unsigned n)
{
    t1_vex(e, 3, true, 3, false, (dst >> 3 & 1) << 2 | (src >> 3 & 1), 0, 0xf0);
    t1_u8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
    t1_u8(e, n);
}

/* Jumps return the position of their displacement. */
static inline uint32_t t1_jrcxz(struct t1_emit *e)
{
    t1_u8(e, 0xe3);
    t1_u8(e, 0);
    return t1_pos(e) - 1;
}

static inline void t1_here8(struct t1_emit *e, uint32_t at)
{
    e->base[at] = (uint8_t)(t1_pos(e) - at - 1);
}

static inline void t1_set_rel32(struct t1_emit *e, uint32_t at, uint32_t to)
{
    uint32_t rel = to - at - 4;
    memcpy(e->base + at, &rel, 4);
}

static inline uint32_t t1_jmp(struct t1_emit *e, uint32_t to)
{
    t1_u8(e, 0xe9);
    t1_u32(e, 0);
    t1_set_rel32(e, t1_pos(e) - 4, to);
    return t1_pos(e) - 4;
}

/*
 * Jump unless rcx is t1_one(), which is 0 or 1. The position of the jump's displacement
 * is put into *ret_from, when it is known: at the next t1_put_islands() at the latest.
 *
 * Checks pass nearly always, and there are so many of them that a processor has no room
 * to predict as many branches that are taken. So the branch is one that is not taken
 * when they pass: LOOP, the only one for "not zero" that does not look at flags. It has
 * one byte of displacement and leads to an island, a jump to where the check leads. On
 * processors where LOOP is slow it is JRCXZ, over a jump.
 */
static inline unsigned t1_one(const struct t1_emit *e)
{
    return e->loop;
}

/* The islands of all checks since the last ones. @over: the code goes on behind them.
 */
static inline void t1_put_islands(struct t1_emit *e, bool over)
{
    if (!e->nb_pending) {
        return;
    }
    if (over) {
        t1_u8(e, 0xeb);
        t1_u8(e, 5 * e->nb_pending);
    }
    for (unsigned i = 0; i < e->nb_pending; i++) {
        uint32_t at = e->pending[i].at, by = t1_pos(e) - at - 1;
        e->too_far |= by > INT8_MAX;
        e->base[at] = (uint8_t)by;
        *e->pending[i].from = t1_jmp(e, 0);
    }
    e->nb_pending = 0;
}

/* Put islands when the oldest check needs them soon. */
static inline void t1_look_for_islands(struct t1_emit *e)
{
    enum { SOON = 72 };
    if (e->nb_pending &&
        (t1_pos(e) - e->pending[0].at > SOON ||
         e->nb_pending == sizeof(e->pending) / sizeof(e->pending[0]))) {
        t1_put_islands(e, true);
    }
}

/* Room for islands of the next @n checks, which the code does not come through. */
static inline void t1_reserve_islands(struct t1_emit *e, unsigned n)
{
    if (e->loop) {
        e->front = t1_pos(e);
        e->nb_front = n;
        e->p += 5 * (size_t)n;
    }
}

static inline void t1_unless(struct t1_emit *e, uint32_t *ret_from)
{
    if (e->loop && e->nb_front && t1_pos(e) + 2 - e->front <= -INT8_MIN) {
        t1_u8(e, 0xe2);
        t1_u8(e, (uint8_t)(e->front - t1_pos(e) - 1));
        e->base[e->front] = 0xe9;
        *ret_from = e->front + 1;
        e->front += 5;
        e->nb_front--;
    } else if (e->loop) {
        t1_look_for_islands(e);
        t1_u8(e, 0xe2);
        t1_u8(e, 0);
        e->pending[e->nb_pending].at = t1_pos(e) - 1;
        e->pending[e->nb_pending++].from = ret_from;
    } else {
        uint32_t zero = t1_jrcxz(e);
        *ret_from = t1_jmp(e, 0);
        t1_here8(e, zero);
    }
}

static inline uint32_t t1_call(struct t1_emit *e, uint32_t to)
{
    t1_u8(e, 0xe8);
    t1_u32(e, 0);
    t1_set_rel32(e, t1_pos(e) - 4, to);
    return t1_pos(e) - 4;
}

static inline uint32_t t1_jcc(struct t1_emit *e, unsigned cc, uint32_t to)
{
    t1_u8(e, 0x0f);
    t1_u8(e, 0x80 | cc);
    t1_u32(e, 0);
    t1_set_rel32(e, t1_pos(e) - 4, to);
    return t1_pos(e) - 4;
}

#endif
