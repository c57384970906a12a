#include "vmm/accel/bt/t0_int.h"

/*
 * Bits: BT BTS BTR BTC, BSF BSR LZCNT TZCNT POPCNT, CRC32, and BMI1 and BMI2 but for
 * their shifts and multiplication.
 *
 * The host must have the instructions (SSE4.2, POPCNT, LZCNT, BMI1, BMI2) only when
 * the guest's CPU model offers them: the decoder's feature check comes before.
 */

/* --- BT family ------------------------------------------------------------- */

/* A memory operand with the bit number in a register reaches anywhere: the address
 * moves by whole operands, rounded down (APM 3, BT). */
#define BIT_EA(N, write)                                                              \
    t0_ea_at(c, op, ((int64_t)(T0_S_##N)T0_RD_##N(c, op->src) >> BIT_LOG_##N) * N, N, \
             write)
#define BIT_LOG_2        4
#define BIT_LOG_4        5
#define BIT_LOG_8        6
#define BIT_NUMBER(N, n) ((T0_U_##N)((n) & (8 * N - 1)))

#define DO_BIT(insn, N, v, n) T0_FLAGS2_IN(c, insn T0_SFX_##N, v, BIT_NUMBER(N, n))
#define DO_LOCKED_BIT(insn, N, n)                               \
    do {                                                        \
        uint64_t fl_ = c->flags;                                \
        __asm__ volatile(T0_LOAD_FLAGS "lock; " insn T0_SFX_##N \
                         " %2, %1\n\t" T0_SAVE_FLAGS            \
                         : "+&a"(fl_), "+m"(*p)                 \
                         : "q"(BIT_NUMBER(N, n))                \
                         : "cc", "memory");                     \
        c->flags = (uint16_t)fl_;                               \
    } while (0)

#define BT_FORMS(N, x)                                             \
    T0_HANDLER(bt_rr_##N)                                          \
    {                                                              \
        T0_U_##N v = T0_RD_##N(c, op->dst);                        \
        DO_BIT("bt", N, v, T0_RD_##N(c, op->src));                 \
        return T0_NEXT(c, op);                                     \
    }                                                              \
    T0_HANDLER(bt_ri_##N)                                          \
    {                                                              \
        T0_U_##N v = T0_RD_##N(c, op->dst);                        \
        DO_BIT("bt", N, v, op->imm);                               \
        return T0_NEXT(c, op);                                     \
    }                                                              \
    T0_LOAD_PAIR(bt_mi_##N, T0_U_##N, DO_BIT("bt", N, m, op->imm)) \
    __attribute__((noinline)) T0_HANDLER(bt_mr_##N)                \
    {                                                              \
        struct t0_val a = BIT_EA(N, false);                        \
        if (unlikely(a.fault)) {                                   \
            return T0_FAULT(c, op);                                \
        }                                                          \
        struct t0_val l = t0_load(c, a.v, N, op->seg);             \
        if (unlikely(l.fault)) {                                   \
            return T0_FAULT(c, op);                                \
        }                                                          \
        T0_U_##N v = (T0_U_##N)l.v;                                \
        DO_BIT("bt", N, v, T0_RD_##N(c, op->src));                 \
        return T0_NEXT(c, op);                                     \
    }

#define BTX_FORMS(N, x)                                                   \
    T0_HANDLER(x##_rr_##N)                                                \
    {                                                                     \
        T0_U_##N v = T0_RD_##N(c, op->dst);                               \
        DO_BIT(#x, N, v, T0_RD_##N(c, op->src));                          \
        T0_WR_##N(c, op->dst, v);                                         \
        return T0_NEXT(c, op);                                            \
    }                                                                     \
    T0_HANDLER(x##_ri_##N)                                                \
    {                                                                     \
        T0_U_##N v = T0_RD_##N(c, op->dst);                               \
        DO_BIT(#x, N, v, op->imm);                                        \
        T0_WR_##N(c, op->dst, v);                                         \
        return T0_NEXT(c, op);                                            \
    }                                                                     \
    T0_RMW_PAIR(x##_mi_##N, T0_U_##N, DO_BIT(#x, N, m, op->imm))          \
    T0_INPLACE_PAIR(x##_lmi_##N, T0_U_##N, DO_LOCKED_BIT(#x, N, op->imm)) \
    T0_INPLACE_AT(x##_mr_##N, T0_U_##N, BIT_EA(N, true), T0_U_##N m = *p; \
                  DO_BIT(#x, N, m, T0_RD_##N(c, op->src)); *p = m)        \
    T0_INPLACE_AT(x##_lmr_##N, T0_U_##N, BIT_EA(N, true),                 \
                  DO_LOCKED_BIT(#x, N, T0_RD_##N(c, op->src)))

T0_SIZES_248(BT_FORMS, )
T0_SIZES_248(BTX_FORMS, bts)
T0_SIZES_248(BTX_FORMS, btr)
T0_SIZES_248(BTX_FORMS, btc)

static const struct t0_forms bt_fn = {{
    [T0_F_RR] = T0_FN_248(bt_rr),
    [T0_F_RI] = T0_FN_248(bt_ri),
    T0_FN_SAME(T0_F_MR, 248, bt_mr),
    T0_FN_PAIR(T0_F_MI, 248, bt_mi),
}};

#define BTX_TABLE(x)                                                              \
    {                                                                             \
        {                                                                         \
            [T0_F_RR] = T0_FN_248(x##_rr), [T0_F_RI] = T0_FN_248(x##_ri),         \
            T0_FN_SAME(T0_F_MR, 248, x##_mr), T0_FN_SAME(T0_F_LMR, 248, x##_lmr), \
            T0_FN_PAIR(T0_F_MI, 248, x##_mi), T0_FN_PAIR(T0_F_LMI, 248, x##_lmi), \
        }                                                                         \
    }
static const struct t0_forms bts_fn = BTX_TABLE(bts);
static const struct t0_forms btr_fn = BTX_TABLE(btr);
static const struct t0_forms btc_fn = BTX_TABLE(btc);

/* --- Scans and counts ------------------------------------------------------ */

/* BSF and BSR of 0 leave the destination alone, wholly also with 32 bits. */
#define SCAN_FORMS(N, x)                                                \
    T0_HANDLER(x##_rr_##N)                                              \
    {                                                                   \
        uint64_t d = T0_R64(c, op->dst), s = T0_R64(c, op->src);        \
        T0_HOST2(c, #x T0_SFX_##N T0_SD(N), d, s);                      \
        T0_W64(c, op->dst, d);                                          \
        return T0_NEXT(c, op);                                          \
    }                                                                   \
    T0_LOAD_PAIR(x##_rm_##N, T0_U_##N, uint64_t d = T0_R64(c, op->dst); \
                 T0_HOST2(c, #x T0_SFX_##N T0_SD(N), d, m); T0_W64(c, op->dst, d))

#define RM_TABLE(x)                                                         \
    {                                                                       \
        {                                                                   \
            [T0_F_RR] = T0_FN_248(x##_rr), T0_FN_PAIR(T0_F_RM, 248, x##_rm) \
        }                                                                   \
    }
#define SCAN_ALL(x)             \
    T0_SIZES_248(SCAN_FORMS, x) \
    static const struct t0_forms x##_fn = RM_TABLE(x);
SCAN_ALL(bsf)
SCAN_ALL(bsr)
SCAN_ALL(lzcnt)
SCAN_ALL(tzcnt)
SCAN_ALL(popcnt)

/* --- CRC32 ----------------------------------------------------------------- */

/* By the source's size; the destination is 32 bits, or 64 zero-extended, alike. */
#define DO_CRC_1(crc, s) __asm__("crc32b %1, %k0" : "+r"(crc) : "q"((uint8_t)(s)))
#define DO_CRC_2(crc, s) __asm__("crc32w %1, %k0" : "+r"(crc) : "r"((uint16_t)(s)))
#define DO_CRC_4(crc, s) __asm__("crc32l %1, %k0" : "+r"(crc) : "r"((uint32_t)(s)))
#define DO_CRC_8(crc, s) __asm__("crc32q %1, %0" : "+r"(crc) : "r"((uint64_t)(s)))
#define CRC_FORMS(N, x)                                                   \
    T0_HANDLER(crc32_rr_##N)                                              \
    {                                                                     \
        uint64_t d = T0_R64(c, op->dst);                                  \
        DO_CRC_##N(d, T0_RD_##N(c, op->src));                             \
        T0_W64(c, op->dst, d);                                            \
        return T0_NEXT(c, op);                                            \
    }                                                                     \
    T0_LOAD_PAIR(crc32_rm_##N, T0_U_##N, uint64_t d = T0_R64(c, op->dst); \
                 DO_CRC_##N(d, m); T0_W64(c, op->dst, d))
T0_SIZES_1248(CRC_FORMS, )
static const struct t0_forms crc32_fn = {
    {[T0_F_RR] = T0_FN_1248(crc32_rr), T0_FN_PAIR(T0_F_RM, 1248, crc32_rm)}};

/* --- BMI1, BMI2 ------------------------------------------------------------ */

/*
 * Three operands, the last one register or memory (VRM: ANDN, PDEP, PEXT) or the
 * middle one (RMV: BEXTR, BZHI). Both are brought to dst, src2 = the V operand,
 * src = the register of RM. %[s] is RM, %[v] is V.
 */
#define BMI3(text, N, d, v64, s64)                       \
    do {                                                 \
        uint64_t fl_ = c->flags;                         \
        __asm__(T0_LOAD_FLAGS text "\n\t" T0_SAVE_FLAGS  \
                : "+&a"(fl_), [d] "=&r"(d)               \
                : [v] "r"(v64), [s] "r"((uint64_t)(s64)) \
                : "cc");                                 \
        c->flags = (uint16_t)fl_;                        \
    } while (0)
#define P_D(N) " %" T0_PART_##N "[d]"
#define P_V(N) " %" T0_PART_##N "[v]"
#define P_S(N) " %" T0_PART_##N "[s]"

#define BMI_FORMS(N, x, text)                                      \
    T0_HANDLER(x##_rr_##N)                                         \
    {                                                              \
        uint64_t d;                                                \
        BMI3(text, N, d, T0_R64(c, op->src2), T0_R64(c, op->src)); \
        T0_W64(c, op->dst, d);                                     \
        return T0_NEXT(c, op);                                     \
    }                                                              \
    T0_LOAD_PAIR(x##_rm_##N, T0_U_##N, uint64_t d;                 \
                 BMI3(text, N, d, T0_R64(c, op->src2), m); T0_W64(c, op->dst, d))

#define BMI_VRM(N, x) BMI_FORMS(N, x, #x P_S(N) "," P_V(N) "," P_D(N))
#define BMI_RMV(N, x) BMI_FORMS(N, x, #x P_V(N) "," P_S(N) "," P_D(N))
#define BMI_RM(N, x)  BMI_FORMS(N, x, #x P_S(N) "," P_D(N))
#define BMI_ALL(x, kind)                    \
    T0_SIZES_48(kind, x)                    \
    static const struct t0_forms x##_fn = { \
        {[T0_F_RR] = T0_FN_48(x##_rr), T0_FN_PAIR(T0_F_RM, 48, x##_rm)}};
BMI_ALL(andn, BMI_VRM)
BMI_ALL(pdep, BMI_VRM)
BMI_ALL(pext, BMI_VRM)
BMI_ALL(bextr, BMI_RMV)
BMI_ALL(bzhi, BMI_RMV)
BMI_ALL(blsi, BMI_RM)
BMI_ALL(blsr, BMI_RM)
BMI_ALL(blsmsk, BMI_RM)

/* The operand that ModRM names may be opnd[1] or opnd[2]. */
static bool lower_bmi(const struct t0_forms *t, const struct x86_insn *insn,
                      struct t0_op *op, unsigned rm, unsigned v)
{
    bool mem = insn->opnd[rm].kind == X86_OPND_MEM;
    enum t0_form form = mem ? T0_F_RM + t0_ea_form(op) : T0_F_RR;

    op->dst = t0_reg(insn->opnd[0].reg);
    op->src = mem ? 0 : t0_reg(insn->opnd[rm].reg);
    op->src2 = v ? t0_reg(insn->opnd[v].reg) : 0;
    op->fn = t->fn[form][__builtin_ctz(insn->opsize)];
    return op->fn != NULL;
}

/* --- Lowering -------------------------------------------------------------- */

bool t0_lower_bit(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    unsigned size = insn->opsize;

    switch (insn->op) {
    case X86_OP_BT: return t0_pick(&bt_fn, insn, op, size);
    case X86_OP_BTS: return t0_pick(&bts_fn, insn, op, size);
    case X86_OP_BTR: return t0_pick(&btr_fn, insn, op, size);
    case X86_OP_BTC: return t0_pick(&btc_fn, insn, op, size);
    case X86_OP_BSF: return t0_pick(&bsf_fn, insn, op, size);
    case X86_OP_BSR: return t0_pick(&bsr_fn, insn, op, size);
    case X86_OP_LZCNT: return t0_pick(&lzcnt_fn, insn, op, size);
    case X86_OP_TZCNT: return t0_pick(&tzcnt_fn, insn, op, size);
    case X86_OP_POPCNT: return t0_pick(&popcnt_fn, insn, op, size);
    case X86_OP_CRC32: return t0_pick(&crc32_fn, insn, op, insn->opnd[1].size);
    case X86_OP_ANDN: return lower_bmi(&andn_fn, insn, op, 2, 1);
    case X86_OP_PDEP: return lower_bmi(&pdep_fn, insn, op, 2, 1);
    case X86_OP_PEXT: return lower_bmi(&pext_fn, insn, op, 2, 1);
    case X86_OP_BEXTR: return lower_bmi(&bextr_fn, insn, op, 1, 2);
    case X86_OP_BZHI: return lower_bmi(&bzhi_fn, insn, op, 1, 2);
    case X86_OP_BLSI: return lower_bmi(&blsi_fn, insn, op, 1, 0);
    case X86_OP_BLSR: return lower_bmi(&blsr_fn, insn, op, 1, 0);
    case X86_OP_BLSMSK: return lower_bmi(&blsmsk_fn, insn, op, 1, 0);
    default: return false;
    }
}
