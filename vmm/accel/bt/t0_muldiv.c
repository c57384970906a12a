#include "vmm/accel/bt/t0_int.h"

/*
 * MUL, IMUL, MULX, DIV, IDIV and the decimal adjustments.
 *
 * Division: whether the host's instruction would trap is decided first, and then the
 * guest gets #DE; the quotient itself comes from the host. Flags after a division,
 * and some of them after a multiplication, are undefined: loading the guest's before
 * gives what the host's processor leaves.
 */

/* --- One-operand MUL, IMUL: rDX:rAX = rAX * s ------------------------------ */

/* aux register parts: AL, AX, EAX, RAX for N. The byte form has its product in AX. */
#define WIDE_MUL(insn, N, s)                                                         \
    do {                                                                             \
        uint64_t fl_ = c->flags, lo_, hi_ = 0;                                       \
        __asm__(T0_LOAD_FLAGS "mov %[a], %%rax\n\t" insn T0_SFX_##N " %" T0_PART_##N \
                "[m]\n\tmov %%rax, %[lo]\n\t" T0_SAVE_FLAGS                          \
                : "+&a"(fl_), "+&d"(hi_), [lo] "=&r"(lo_)                            \
                : [a] "r"(c->gpr[X86_RAX]), [m] "q"((uint64_t)(s))                   \
                : "cc");                                                             \
        c->flags = (uint16_t)fl_;                                                    \
        STORE_WIDE_##N(lo_, hi_);                                                    \
    } while (0)

#define STORE_WIDE_1(lo, hi) T0_W16(c, X86_RAX * 8, lo), (void)(hi)
#define STORE_WIDE_2(lo, hi) T0_W16(c, X86_RAX * 8, lo), T0_W16(c, X86_RDX * 8, hi)
#define STORE_WIDE_4(lo, hi) T0_W32(c, X86_RAX * 8, lo), T0_W32(c, X86_RDX * 8, hi)
#define STORE_WIDE_8(lo, hi) T0_W64(c, X86_RAX * 8, lo), T0_W64(c, X86_RDX * 8, hi)

#define WIDE_FORMS(N, x)                        \
    T0_HANDLER(x##_r_##N)                       \
    {                                           \
        WIDE_MUL(#x, N, T0_RD_##N(c, op->dst)); \
        return T0_NEXT(c, op);                  \
    }                                           \
    T0_LOAD_PAIR(x##_m_##N, T0_U_##N, WIDE_MUL(#x, N, m))
T0_SIZES_1248(WIDE_FORMS, mul)
T0_SIZES_1248(WIDE_FORMS, imul)

#define ONE_TABLE(x)                                                      \
    {                                                                     \
        {                                                                 \
            [T0_F_R] = T0_FN_1248(x##_r), T0_FN_PAIR(T0_F_M, 1248, x##_m) \
        }                                                                 \
    }
static const struct t0_forms mul_fn = ONE_TABLE(mul);

/* --- IMUL with two and three operands -------------------------------------- */

#define DO_imul(N, v, s)   T0_FLAGS2_IN(c, "imul" T0_SFX_##N, v, s)
#define DO_imul_d(N, v, s) (v = (T0_U_##N)(v * (uint64_t)(s)))

#define IMUL_FORMS(N, x)                                                   \
    T0_HANDLER(x##_rr_##N)                                                 \
    {                                                                      \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src);     \
        DO_##x(N, v, s);                                                   \
        T0_WR_##N(c, op->dst, v);                                          \
        return T0_NEXT(c, op);                                             \
    }                                                                      \
    T0_LOAD_PAIR(x##_rm_##N, T0_U_##N, T0_U_##N v = T0_RD_##N(c, op->dst); \
                 DO_##x(N, v, m); T0_WR_##N(c, op->dst, v))                \
    T0_HANDLER(x##3_rr_##N)                                                \
    {                                                                      \
        T0_U_##N v = T0_RD_##N(c, op->src), s = (T0_U_##N)op->imm;         \
        DO_##x(N, v, s);                                                   \
        T0_WR_##N(c, op->dst, v);                                          \
        return T0_NEXT(c, op);                                             \
    }                                                                      \
    T0_LOAD_PAIR(x##3_rm_##N, T0_U_##N, T0_U_##N s = (T0_U_##N)op->imm;    \
                 DO_##x(N, m, s); T0_WR_##N(c, op->dst, m))
T0_SIZES_248(IMUL_FORMS, imul)
T0_SIZES_248(IMUL_FORMS, imul_d)

#define IMUL_TABLE(x)                                                       \
    {                                                                       \
        {                                                                   \
            [T0_F_RR] = T0_FN_248(x##_rr), T0_FN_PAIR(T0_F_RM, 248, x##_rm) \
        }                                                                   \
    }
static const struct t0_forms imul1_fn = ONE_TABLE(imul);
static const struct t0_forms imul2_fn[2] = {IMUL_TABLE(imul), IMUL_TABLE(imul_d)};
static const struct t0_forms imul3_fn[2] = {IMUL_TABLE(imul3), IMUL_TABLE(imul_d3)};

/* --- MULX: dst:src2 = rDX * operand, no flags ------------------------------ */

/* When both destinations are the same register it gets the high half. */
#define DO_MULX_4(m)                                          \
    do {                                                      \
        uint64_t r_ = (uint64_t)T0_R32(c, X86_RDX * 8) * (m); \
        T0_W32(c, op->src, r_);                               \
        T0_W32(c, op->dst, r_ >> 32);                         \
    } while (0)
#define DO_MULX_8(m)                                                     \
    do {                                                                 \
        unsigned __int128 r_ = (unsigned __int128)c->gpr[X86_RDX] * (m); \
        T0_W64(c, op->src, r_);                                          \
        T0_W64(c, op->dst, r_ >> 64);                                    \
    } while (0)

#define MULX_FORMS(N, x)                     \
    T0_HANDLER(mulx_r_##N)                   \
    {                                        \
        T0_U_##N m = T0_RD_##N(c, op->src2); \
        DO_MULX_##N(m);                      \
        return T0_NEXT(c, op);               \
    }                                        \
    T0_LOAD_PAIR(mulx_m_##N, T0_U_##N, DO_MULX_##N(m))
T0_SIZES_48(MULX_FORMS, )

static bool lower_mulx(const struct x86_insn *insn, struct t0_op *op)
{
    static const t0_fn fn[3][4] = {T0_FN_48(mulx_r),
                                   {NULL, NULL, mulx_m_4_f, mulx_m_8_f},
                                   {NULL, NULL, mulx_m_4_g, mulx_m_8_g}};
    bool mem = insn->opnd[2].kind == X86_OPND_MEM;

    op->dst = t0_reg(insn->opnd[0].reg);
    op->src = t0_reg(insn->opnd[1].reg);
    op->src2 = mem ? 0 : t0_reg(insn->opnd[2].reg);
    op->fn = fn[mem ? 1 + !t0_ea_is_sum(op) : 0][__builtin_ctz(insn->opsize)];
    return op->fn != NULL;
}

/* --- DIV, IDIV ------------------------------------------------------------- */

/* The dividend of N bytes is rDX:rAX, for bytes AX. */
#define HIGH_1 T0_R8(c, 1)
#define HIGH_2 T0_R16(c, X86_RDX * 8)
#define HIGH_4 T0_R32(c, X86_RDX * 8)
#define HIGH_8 T0_R64(c, X86_RDX * 8)

/* The quotient fits when the dividend's high half is below the divisor. */
#define DIV_TRAPS(N, s) (HIGH_##N >= (s))

/* Whether hi:lo / s does not fit in @bits signed ones. */
static bool idiv_traps(unsigned __int128 dividend, uint64_t s, unsigned bits)
{
    uint64_t most = (UINT64_C(1) << (bits - 1)) - 1; /* largest quotient */
    bool dividend_neg = dividend >> 127, s_neg = s >> 63;
    unsigned __int128 n = dividend_neg ? -dividend : dividend;
    uint64_t d = s_neg ? -s : s;

    if (d == 0 || (uint64_t)(n >> 64) >= d) {
        return true;
    }
    uint64_t quotient, rest;
    __asm__("divq %[d]"
            : "=a"(quotient), "=d"(rest)
            : "a"((uint64_t)n), "d"((uint64_t)(n >> 64)), [d] "r"(d)
            : "cc");
    return quotient > most + (dividend_neg != s_neg);
}

#define IDIVIDEND_1 ((__int128)(int16_t)T0_R16(c, 0))
#define IDIVIDEND_2 ((__int128)(int32_t)((uint32_t)HIGH_2 << 16 | T0_R16(c, 0)))
#define IDIVIDEND_4 ((__int128)(int64_t)((uint64_t)HIGH_4 << 32 | T0_R32(c, 0)))
#define IDIVIDEND_8 ((unsigned __int128)HIGH_8 << 64 | T0_R64(c, 0))

#define IDIV_TRAPS(N, s)                                                           \
    idiv_traps((unsigned __int128)IDIVIDEND_##N, (uint64_t)(int64_t)(T0_S_##N)(s), \
               8 * N)

/* The host's division, which does not trap. */
#define DIVIDE(insn, N, s)                                                           \
    do {                                                                             \
        uint64_t fl_ = c->flags, lo_, hi_ = c->gpr[X86_RDX];                         \
        __asm__(T0_LOAD_FLAGS "mov %[a], %%rax\n\t" insn T0_SFX_##N " %" T0_PART_##N \
                "[m]\n\tmov %%rax, %[lo]\n\t" T0_SAVE_FLAGS                          \
                : "+&a"(fl_), "+&d"(hi_), [lo] "=&r"(lo_)                            \
                : [a] "r"(c->gpr[X86_RAX]), [m] "q"((uint64_t)(s))                   \
                : "cc");                                                             \
        c->flags = (uint16_t)fl_;                                                    \
        STORE_WIDE_##N(lo_, hi_);                                                    \
    } while (0)

#define DIV_FORMS(N, x, TRAPS)                            \
    T0_HANDLER(x##_r_##N)                                 \
    {                                                     \
        T0_U_##N s = T0_RD_##N(c, op->dst);               \
        if (unlikely(TRAPS(N, s))) {                      \
            return t0_raise(c, op, X86_EXC_DE);           \
        }                                                 \
        DIVIDE(#x, N, s);                                 \
        return T0_NEXT(c, op);                            \
    }                                                     \
    T0_LOAD_PAIR(                                         \
        x##_m_##N, T0_U_##N, if (unlikely(TRAPS(N, m))) { \
            return t0_raise(c, op, X86_EXC_DE);           \
        } DIVIDE(#x, N, m))
T0_SIZES_1248(DIV_FORMS, div, DIV_TRAPS)
T0_SIZES_1248(DIV_FORMS, idiv, IDIV_TRAPS)

static const struct t0_forms div_fn = ONE_TABLE(div);
static const struct t0_forms idiv_fn = ONE_TABLE(idiv);

/* --- Decimal adjustments --------------------------------------------------- */

/* CF and AF as these instructions define them, the rest as the addition left it:
 * also the undefined ones are then those of AMD's processors. */
static void set_cf_af(struct t0_cpu *c, bool cf, bool af)
{
    c->flags = (uint16_t)((c->flags & ~(T0_FLAG_CF | T0_FLAG_AF)) |
                          (cf ? T0_FLAG_CF : 0) | (af ? T0_FLAG_AF : 0));
}

/* DAA and DAS; APM 3. */
static void decimal(struct t0_cpu *c, bool subtract)
{
    uint8_t al = T0_R8(c, 0), adjust = 0;
    bool cf = c->flags & T0_FLAG_CF, af = c->flags & T0_FLAG_AF;
    bool high = al > 0x99 || cf;

    af = (al & 0xf) > 9 || af;
    if (af) {
        adjust = 6;
        cf = cf || (subtract ? al < 6 : al > 0xf9);
    }
    if (high) {
        adjust += 0x60;
        cf = true;
    }
    if (subtract) {
        T0_FLAGS2(c, "subb", al, adjust);
    } else {
        T0_FLAGS2(c, "addb", al, adjust);
    }
    set_cf_af(c, cf, af);
    T0_W8(c, 0, al);
}

/* AAA and AAS; APM 3. */
static void ascii(struct t0_cpu *c, bool subtract)
{
    uint16_t ax = T0_R16(c, 0);
    bool wrong = (ax & 0xf) > 9 || (c->flags & T0_FLAG_AF);
    uint16_t adjust = wrong ? 0x106 : 0;

    if (subtract) {
        T0_FLAGS2(c, "subw", ax, adjust);
    } else {
        T0_FLAGS2(c, "addw", ax, adjust);
    }
    set_cf_af(c, wrong, wrong);
    T0_W16(c, 0, ax & 0xff0f);
}

#define ADJUST(name, call)     \
    T0_HANDLER(name)           \
    {                          \
        call;                  \
        return T0_NEXT(c, op); \
    }
ADJUST(daa, decimal(c, false))
ADJUST(das, decimal(c, true))
ADJUST(aaa, ascii(c, false))
ADJUST(aas, ascii(c, true))

T0_HANDLER(aam)
{
    uint8_t al = T0_R8(c, 0), base = (uint8_t)op->imm;
    if (base == 0) {
        return t0_raise(c, op, X86_EXC_DE);
    }
    uint8_t rest = al % base;
    T0_W8(c, 1, al / base);
    T0_W8(c, 0, rest);
    T0_FLAGS2(c, "testb", rest, rest);
    return T0_NEXT(c, op);
}

T0_HANDLER(aad)
{
    uint8_t al = T0_R8(c, 0);
    T0_FLAGS2(c, "addb", al, (uint8_t)(T0_R8(c, 1) * (uint8_t)op->imm));
    T0_W16(c, 0, al);
    return T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

bool t0_lower_muldiv(const struct x86_insn *insn, const struct t0_lower *ctx,
                     struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_MUL: return t0_pick(&mul_fn, insn, op, insn->opsize);
    case X86_OP_IMUL:
        return t0_pick(insn->nb_opnds == 1   ? &imul1_fn
                       : insn->nb_opnds == 2 ? &imul2_fn[ctx->flags_dead]
                                             : &imul3_fn[ctx->flags_dead],
                       insn, op, insn->opsize);
    case X86_OP_MULX: return lower_mulx(insn, op);
    case X86_OP_DIV: return t0_pick(&div_fn, insn, op, insn->opsize);
    case X86_OP_IDIV: return t0_pick(&idiv_fn, insn, op, insn->opsize);
    case X86_OP_DAA: op->fn = daa; return true;
    case X86_OP_DAS: op->fn = das; return true;
    case X86_OP_AAA: op->fn = aaa; return true;
    case X86_OP_AAS: op->fn = aas; return true;
    case X86_OP_AAM: op->fn = aam; return true;
    case X86_OP_AAD: op->fn = aad; return true;
    default: return false;
    }
}
