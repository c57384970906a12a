#include "vmm/accel/bt/t0_int.h"

/*
 * Shifts and rotates: ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD, and BMI2's SARX SHLX
 * SHRX RORX.
 *
 * The count is masked by the processor, 5 bits or 6 with 64-bit operands, and a
 * masked count of 0 leaves the flags alone. So the guest's flags are loaded before
 * the host's instruction runs with the guest's count. Forms: ri and mi have the count
 * in op->imm, rr and mr in CL.
 */

#define SHIFT(insn, v, count)                                    \
    do {                                                         \
        uint64_t fl_ = c->flags;                                 \
        __asm__(T0_LOAD_FLAGS insn " %%cl, %1\n\t" T0_SAVE_FLAGS \
                : "+&a"(fl_), "+&q"(v)                           \
                : "c"((uint8_t)(count))                          \
                : "cc");                                         \
        c->flags = (uint16_t)fl_;                                \
    } while (0)

#define DO_rol(N, v, n) SHIFT("rol" T0_SFX_##N, v, n)
#define DO_ror(N, v, n) SHIFT("ror" T0_SFX_##N, v, n)
#define DO_rcl(N, v, n) SHIFT("rcl" T0_SFX_##N, v, n)
#define DO_rcr(N, v, n) SHIFT("rcr" T0_SFX_##N, v, n)
#define DO_shl(N, v, n) SHIFT("shl" T0_SFX_##N, v, n)
#define DO_shr(N, v, n) SHIFT("shr" T0_SFX_##N, v, n)
#define DO_sar(N, v, n) SHIFT("sar" T0_SFX_##N, v, n)

/* Nobody reads the flags. Masked counts reach 31 also for 8 and 16 bits: 64 bits have
 * room for what they shift out. */
#define COUNT(N, n)   ((unsigned)(n)&T0_MASK_##N)
#define ROTATED(N, n) ((n) & (8 * N - 1))
#define ROTATE(N, v, left)                              \
    (v = (T0_U_##N)((uint64_t)(v) << ROTATED(N, left) | \
                    (uint64_t)(v) >> ROTATED(N, 0u - (left))))
#define DO_rol_d(N, v, n) ROTATE(N, v, COUNT(N, n))
#define DO_ror_d(N, v, n) ROTATE(N, v, 0u - COUNT(N, n))
#define DO_shl_d(N, v, n) (v = (T0_U_##N)((uint64_t)v << COUNT(N, n)))
#define DO_shr_d(N, v, n) (v = (T0_U_##N)(v >> COUNT(N, n)))
#define DO_sar_d(N, v, n) (v = (T0_U_##N)((T0_S_##N)v >> COUNT(N, n)))

#define SHIFT_FORMS(N, x)                                    \
    T0_HANDLER(x##_ri_##N)                                   \
    {                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst);                  \
        DO_##x(N, v, op->imm);                               \
        T0_WR_##N(c, op->dst, v);                            \
        return T0_NEXT(c, op);                               \
    }                                                        \
    T0_HANDLER(x##_rr_##N)                                   \
    {                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst);                  \
        DO_##x(N, v, T0_R8(c, X86_RCX * 8));                 \
        T0_WR_##N(c, op->dst, v);                            \
        return T0_NEXT(c, op);                               \
    }                                                        \
    T0_RMW_PAIR(x##_mi_##N, T0_U_##N, DO_##x(N, m, op->imm)) \
    T0_RMW_PAIR(x##_mr_##N, T0_U_##N, DO_##x(N, m, T0_R8(c, X86_RCX * 8)))

#define SHIFT_TABLE(x)                                                            \
    {                                                                             \
        {                                                                         \
            [T0_F_RR] = T0_FN_1248(x##_rr), [T0_F_RI] = T0_FN_1248(x##_ri),       \
            T0_FN_PAIR(T0_F_MR, 1248, x##_mr), T0_FN_PAIR(T0_F_MI, 1248, x##_mi), \
        }                                                                         \
    }

#define SHIFT_ALL(x)              \
    T0_SIZES_1248(SHIFT_FORMS, x) \
    static const struct t0_forms x##_fn = SHIFT_TABLE(x);

SHIFT_ALL(rol)
SHIFT_ALL(ror)
SHIFT_ALL(rcl)
SHIFT_ALL(rcr)
SHIFT_ALL(shl)
SHIFT_ALL(shr)
SHIFT_ALL(sar)
SHIFT_ALL(rol_d)
SHIFT_ALL(ror_d)
SHIFT_ALL(shl_d)
SHIFT_ALL(shr_d)
SHIFT_ALL(sar_d)

/* --- SHLD, SHRD ------------------------------------------------------------ */

#define SHIFT_DOUBLE(insn, v, s, count)                              \
    do {                                                             \
        uint64_t fl_ = c->flags;                                     \
        __asm__(T0_LOAD_FLAGS insn " %%cl, %2, %1\n\t" T0_SAVE_FLAGS \
                : "+&a"(fl_), "+&q"(v)                               \
                : "q"(s), "c"((uint8_t)(count))                      \
                : "cc");                                             \
        c->flags = (uint16_t)fl_;                                    \
    } while (0)

/* The tables' columns: register or memory, count in op->imm (i) or CL (c). */
#define DOUBLE_FORM(N, x, i, count)                                           \
    T0_HANDLER(x##_r##i##_##N)                                                \
    {                                                                         \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src);        \
        SHIFT_DOUBLE(#x T0_SFX_##N, v, s, count);                             \
        T0_WR_##N(c, op->dst, v);                                             \
        return T0_NEXT(c, op);                                                \
    }                                                                         \
    T0_RMW_PAIR(x##_m##i##_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src); \
                SHIFT_DOUBLE(#x T0_SFX_##N, m, s, count))

T0_SIZES_248(DOUBLE_FORM, shld, i, op->imm)
T0_SIZES_248(DOUBLE_FORM, shld, c, T0_R8(c, X86_RCX * 8))
T0_SIZES_248(DOUBLE_FORM, shrd, i, op->imm)
T0_SIZES_248(DOUBLE_FORM, shrd, c, T0_R8(c, X86_RCX * 8))

#define DOUBLE_TABLE(x, i)                                                      \
    {                                                                           \
        {                                                                       \
            [T0_F_RR] = T0_FN_248(x##_r##i), T0_FN_PAIR(T0_F_MR, 248, x##_m##i) \
        }                                                                       \
    }
static const struct t0_forms shld_fn[2] = {DOUBLE_TABLE(shld, c),
                                           DOUBLE_TABLE(shld, i)};
static const struct t0_forms shrd_fn[2] = {DOUBLE_TABLE(shrd, c),
                                           DOUBLE_TABLE(shrd, i)};

/* --- BMI2 ------------------------------------------------------------------ */

/* x dst, src or memory, src2; no flags. RORX has its count in op->imm. */
#define BMI_SHIFT_FORMS(N, x, expr)         \
    T0_HANDLER(x##_rr_##N)                  \
    {                                       \
        T0_U_##N m = T0_RD_##N(c, op->src); \
        T0_WR_##N(c, op->dst, expr);        \
        return T0_NEXT(c, op);              \
    }                                       \
    T0_LOAD_PAIR(x##_rm_##N, T0_U_##N, T0_WR_##N(c, op->dst, expr))

#define BY_REG(N) COUNT(N, T0_R8(c, op->src2))
#define BMI_SIZES(N, x)                                            \
    BMI_SHIFT_FORMS(N, shlx, m << BY_REG(N))                       \
    BMI_SHIFT_FORMS(N, shrx, m >> BY_REG(N))                       \
    BMI_SHIFT_FORMS(N, sarx, (T0_U_##N)((T0_S_##N)m >> BY_REG(N))) \
    BMI_SHIFT_FORMS(N, rorx, ROTATE(N, m, 0u - COUNT(N, op->imm)))
T0_SIZES_48(BMI_SIZES, )

#define BMI_TABLE(x)                                                      \
    {                                                                     \
        {                                                                 \
            [T0_F_RR] = T0_FN_48(x##_rr), T0_FN_PAIR(T0_F_RM, 48, x##_rm) \
        }                                                                 \
    }
static const struct t0_forms shlx_fn = BMI_TABLE(shlx), shrx_fn = BMI_TABLE(shrx);
static const struct t0_forms sarx_fn = BMI_TABLE(sarx), rorx_fn = BMI_TABLE(rorx);

/* --- Lowering -------------------------------------------------------------- */

static bool lower_three(const struct x86_insn *insn, struct t0_op *op)
{
    const struct x86_opnd *third = &insn->opnd[2];
    bool imm = third->kind == X86_OPND_IMM;
    const struct t0_forms *t;

    op->src2 = third->kind == X86_OPND_REG ? t0_reg(third->reg) : 0;
    switch (insn->op) {
    case X86_OP_SHLD: t = &shld_fn[imm]; break;
    case X86_OP_SHRD: t = &shrd_fn[imm]; break;
    case X86_OP_SHLX: t = &shlx_fn; break;
    case X86_OP_SHRX: t = &shrx_fn; break;
    case X86_OP_SARX: t = &sarx_fn; break;
    default: t = &rorx_fn; break;
    }
    return t0_pick(t, insn, op, insn->opsize);
}

bool t0_lower_shift(const struct x86_insn *insn, const struct t0_lower *ctx,
                    struct t0_op *op)
{
    bool dead = ctx->flags_dead;
    const struct t0_forms *t;

    switch (insn->op) {
    case X86_OP_ROL: t = dead ? &rol_d_fn : &rol_fn; break;
    case X86_OP_ROR: t = dead ? &ror_d_fn : &ror_fn; break;
    case X86_OP_RCL: t = &rcl_fn; break;
    case X86_OP_RCR: t = &rcr_fn; break;
    case X86_OP_SHL: t = dead ? &shl_d_fn : &shl_fn; break;
    case X86_OP_SHR: t = dead ? &shr_d_fn : &shr_fn; break;
    case X86_OP_SAR: t = dead ? &sar_d_fn : &sar_fn; break;
    case X86_OP_SHLD:
    case X86_OP_SHRD:
    case X86_OP_SHLX:
    case X86_OP_SHRX:
    case X86_OP_SARX:
    case X86_OP_RORX: return lower_three(insn, op);
    default: return false;
    }
    return t0_pick(t, insn, op, insn->opsize);
}
