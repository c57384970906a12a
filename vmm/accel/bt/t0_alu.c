#include "vmm/accel/bt/t0_int.h"

/*
 * Addition, subtraction and logic: the operations with two operands of one size
 * (ADD OR ADC SBB AND SUB XOR CMP TEST), the ones with one (INC DEC NEG NOT), and
 * XADD, CMPXCHG, ADCX, ADOX; and the decimal adjustments.
 *
 * Each operation X has DO_X(N, v, s): "v = v X s and the flags", N being the size in
 * bytes. Names that end in _d are the same with nobody reading the flags: plain C.
 * Forms: rr, ri, rm (register with memory), mr, mi (read-modify-write).
 */

#define DO_add(N, v, s) T0_FLAGS2(c, "add" T0_SFX_##N, v, s)
#define DO_sub(N, v, s) T0_FLAGS2(c, "sub" T0_SFX_##N, v, s)
#define DO_and(N, v, s) T0_FLAGS2(c, "and" T0_SFX_##N, v, s)
#define DO_or(N, v, s)  T0_FLAGS2(c, "or" T0_SFX_##N, v, s)
#define DO_xor(N, v, s) T0_FLAGS2(c, "xor" T0_SFX_##N, v, s)
#define DO_adc(N, v, s) T0_FLAGS2_IN(c, "adc" T0_SFX_##N, v, s)
#define DO_sbb(N, v, s) T0_FLAGS2_IN(c, "sbb" T0_SFX_##N, v, s)

#define DO_add_d(N, v, s) (v += s)
#define DO_sub_d(N, v, s) (v -= s)
#define DO_and_d(N, v, s) (v &= s)
#define DO_or_d(N, v, s)  (v |= s)
#define DO_xor_d(N, v, s) (v ^= s)
#define DO_adc_d(N, v, s) (v += s + ((c->flags & T0_FLAG_CF) != 0))
#define DO_sbb_d(N, v, s) (v -= s + ((c->flags & T0_FLAG_CF) != 0))

#define WRITE_FORMS(N, x)                                                    \
    T0_HANDLER(x##_rr_##N)                                                   \
    {                                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src);       \
        DO_##x(N, v, s);                                                     \
        T0_WR_##N(c, op->dst, v);                                            \
        return T0_NEXT(c, op);                                               \
    }                                                                        \
    T0_HANDLER(x##_ri_##N)                                                   \
    {                                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = (T0_U_##N)op->imm;           \
        DO_##x(N, v, s);                                                     \
        T0_WR_##N(c, op->dst, v);                                            \
        return T0_NEXT(c, op);                                               \
    }                                                                        \
    T0_LOAD_TRIPLE(x##_rm_##N, T0_U_##N, T0_U_##N v = T0_RD_##N(c, op->dst); \
                   DO_##x(N, v, m); T0_WR_##N(c, op->dst, v))                \
    T0_RMW_TRIPLE(x##_mr_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src);  \
                  DO_##x(N, m, s))                                           \
    T0_RMW_TRIPLE(x##_mi_##N, T0_U_##N, T0_U_##N s = (T0_U_##N)op->imm; DO_##x(N, m, s))

T0_SIZES_1248(WRITE_FORMS, add)
T0_SIZES_1248(WRITE_FORMS, sub)
T0_SIZES_1248(WRITE_FORMS, and)
T0_SIZES_1248(WRITE_FORMS, or)
T0_SIZES_1248(WRITE_FORMS, xor)
T0_SIZES_1248(WRITE_FORMS, adc)
T0_SIZES_1248(WRITE_FORMS, sbb)
T0_SIZES_1248(WRITE_FORMS, add_d)
T0_SIZES_1248(WRITE_FORMS, sub_d)
T0_SIZES_1248(WRITE_FORMS, and_d)
T0_SIZES_1248(WRITE_FORMS, or_d)
T0_SIZES_1248(WRITE_FORMS, xor_d)
T0_SIZES_1248(WRITE_FORMS, adc_d)
T0_SIZES_1248(WRITE_FORMS, sbb_d)

/* --- LOCKed ---------------------------------------------------------------- */

#define LOCKED2(c, insn, p, s)                                                   \
    do {                                                                         \
        uint64_t fl_ = (c)->flags;                                               \
        __asm__ volatile(T0_LOAD_FLAGS "lock; " insn " %2, %1\n\t" T0_SAVE_FLAGS \
                         : "+&a"(fl_), "+m"(*(p))                                \
                         : "q"(s)                                                \
                         : "cc", "memory");                                      \
        (c)->flags = (uint16_t)fl_;                                              \
    } while (0)

#define LOCKED1(c, insn, p)                                                  \
    do {                                                                     \
        uint64_t fl_ = (c)->flags;                                           \
        __asm__ volatile(T0_LOAD_FLAGS "lock; " insn " %1\n\t" T0_SAVE_FLAGS \
                         : "+&a"(fl_), "+m"(*(p))                            \
                         :                                                   \
                         : "cc", "memory");                                  \
        (c)->flags = (uint16_t)fl_;                                          \
    } while (0)

#define LOCKED_FORMS(N, x)                                                     \
    T0_INPLACE_PAIR(x##_lmr_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src); \
                    LOCKED2(c, #x T0_SFX_##N, p, s))                           \
    T0_INPLACE_PAIR(x##_lmi_##N, T0_U_##N, T0_U_##N s = (T0_U_##N)op->imm;     \
                    LOCKED2(c, #x T0_SFX_##N, p, s))

T0_SIZES_1248(LOCKED_FORMS, add)
T0_SIZES_1248(LOCKED_FORMS, sub)
T0_SIZES_1248(LOCKED_FORMS, and)
T0_SIZES_1248(LOCKED_FORMS, or)
T0_SIZES_1248(LOCKED_FORMS, xor)
T0_SIZES_1248(LOCKED_FORMS, adc)
T0_SIZES_1248(LOCKED_FORMS, sbb)

#define WRITE_TABLE(x, lx)                                                             \
    {                                                                                  \
        {                                                                              \
            [T0_F_RR] = T0_FN_1248(x##_rr), [T0_F_RI] = T0_FN_1248(x##_ri),            \
            T0_FN_TRIPLE(T0_F_RM, 1248, x##_rm), T0_FN_TRIPLE(T0_F_MR, 1248, x##_mr),  \
            T0_FN_TRIPLE(T0_F_MI, 1248, x##_mi), T0_FN_PAIR(T0_F_LMR, 1248, lx##_lmr), \
            T0_FN_PAIR(T0_F_LMI, 1248, lx##_lmi),                                      \
        }                                                                              \
    }

static const struct t0_forms add_fn[2] = {WRITE_TABLE(add, add),
                                          WRITE_TABLE(add_d, add)};
static const struct t0_forms sub_fn[2] = {WRITE_TABLE(sub, sub),
                                          WRITE_TABLE(sub_d, sub)};
static const struct t0_forms and_fn[2] = {WRITE_TABLE(and, and),
                                          WRITE_TABLE(and_d, and)};
static const struct t0_forms or_fn[2] = {WRITE_TABLE(or, or), WRITE_TABLE(or_d, or)};
static const struct t0_forms xor_fn[2] = {WRITE_TABLE(xor, xor),
                                          WRITE_TABLE(xor_d, xor)};
static const struct t0_forms adc_fn[2] = {WRITE_TABLE(adc, adc),
                                          WRITE_TABLE(adc_d, adc)};
static const struct t0_forms sbb_fn[2] = {WRITE_TABLE(sbb, sbb),
                                          WRITE_TABLE(sbb_d, sbb)};

/* --- CMP, TEST ------------------------------------------------------------- */

#define DO_cmp(N, v, s)  T0_FLAGS2(c, "cmp" T0_SFX_##N, v, s)
#define DO_test(N, v, s) T0_FLAGS2(c, "test" T0_SFX_##N, v, s)

#define COMPARE_FORMS(N, x)                                                  \
    T0_HANDLER(x##_rr_##N)                                                   \
    {                                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src);       \
        DO_##x(N, v, s);                                                     \
        return T0_NEXT(c, op);                                               \
    }                                                                        \
    T0_HANDLER(x##_ri_##N)                                                   \
    {                                                                        \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = (T0_U_##N)op->imm;           \
        DO_##x(N, v, s);                                                     \
        return T0_NEXT(c, op);                                               \
    }                                                                        \
    T0_LOAD_TRIPLE(x##_rm_##N, T0_U_##N, T0_U_##N v = T0_RD_##N(c, op->dst); \
                   DO_##x(N, v, m))                                          \
    T0_LOAD_TRIPLE(x##_mr_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src); \
                   DO_##x(N, m, s))                                          \
    T0_LOAD_TRIPLE(x##_mi_##N, T0_U_##N, T0_U_##N s = (T0_U_##N)op->imm;     \
                   DO_##x(N, m, s))

T0_SIZES_1248(COMPARE_FORMS, cmp)
T0_SIZES_1248(COMPARE_FORMS, test)

#define COMPARE_TABLE(x)                                                              \
    {                                                                                 \
        {                                                                             \
            [T0_F_RR] = T0_FN_1248(x##_rr), [T0_F_RI] = T0_FN_1248(x##_ri),           \
            T0_FN_TRIPLE(T0_F_RM, 1248, x##_rm), T0_FN_TRIPLE(T0_F_MR, 1248, x##_mr), \
            T0_FN_TRIPLE(T0_F_MI, 1248, x##_mi),                                      \
        }                                                                             \
    }

static const struct t0_forms cmp_fn = COMPARE_TABLE(cmp);
static const struct t0_forms test_fn = COMPARE_TABLE(test);

/* --- One operand ----------------------------------------------------------- */

#define DO_inc(N, v)   T0_FLAGS1_IN(c, "inc" T0_SFX_##N, v)
#define DO_dec(N, v)   T0_FLAGS1_IN(c, "dec" T0_SFX_##N, v)
#define DO_neg(N, v)   T0_FLAGS1(c, "neg" T0_SFX_##N, v)
#define DO_inc_d(N, v) (v++)
#define DO_dec_d(N, v) (v--)
#define DO_neg_d(N, v) (v = -v)
#define DO_not(N, v)   (v = (T0_U_##N) ~v)

#define ONE_FORMS(N, x)                     \
    T0_HANDLER(x##_r_##N)                   \
    {                                       \
        T0_U_##N v = T0_RD_##N(c, op->dst); \
        DO_##x(N, v);                       \
        T0_WR_##N(c, op->dst, v);           \
        return T0_NEXT(c, op);              \
    }                                       \
    T0_RMW_TRIPLE(x##_m_##N, T0_U_##N, DO_##x(N, m))

#define LOCKED_ONE(N, x) \
    T0_INPLACE_PAIR(x##_lm_##N, T0_U_##N, LOCKED1(c, #x T0_SFX_##N, p))

T0_SIZES_1248(ONE_FORMS, inc)
T0_SIZES_1248(ONE_FORMS, dec)
T0_SIZES_1248(ONE_FORMS, neg)
T0_SIZES_1248(ONE_FORMS, inc_d)
T0_SIZES_1248(ONE_FORMS, dec_d)
T0_SIZES_1248(ONE_FORMS, neg_d)
T0_SIZES_1248(ONE_FORMS, not )
T0_SIZES_1248(LOCKED_ONE, inc)
T0_SIZES_1248(LOCKED_ONE, dec)
T0_SIZES_1248(LOCKED_ONE, neg)
T0_SIZES_1248(LOCKED_ONE, not )

#define ONE_TABLE(x, lx)                                                     \
    {                                                                        \
        {                                                                    \
            [T0_F_R] = T0_FN_1248(x##_r), T0_FN_TRIPLE(T0_F_M, 1248, x##_m), \
            T0_FN_PAIR(T0_F_LM, 1248, lx##_lm),                              \
        }                                                                    \
    }

static const struct t0_forms inc_fn[2] = {ONE_TABLE(inc, inc), ONE_TABLE(inc_d, inc)};
static const struct t0_forms dec_fn[2] = {ONE_TABLE(dec, dec), ONE_TABLE(dec_d, dec)};
static const struct t0_forms neg_fn[2] = {ONE_TABLE(neg, neg), ONE_TABLE(neg_d, neg)};
static const struct t0_forms not_fn = ONE_TABLE(not, not );

/* --- XADD ------------------------------------------------------------------ */

/* With both operands the same register the sum is what stays: src goes first. */
#define XADD_FORMS(N, x)                                                           \
    T0_HANDLER(xadd_rr_##N)                                                        \
    {                                                                              \
        T0_U_##N v = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src), old = v;    \
        DO_add(N, v, s);                                                           \
        T0_WR_##N(c, op->src, old);                                                \
        T0_WR_##N(c, op->dst, v);                                                  \
        return T0_NEXT(c, op);                                                     \
    }                                                                              \
    T0_RMW_PAIR(xadd_mr_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src);         \
                T0_U_##N old = m; DO_add(N, m, s); T0_WR_##N(c, op->src, old))     \
    T0_INPLACE_PAIR(xadd_lmr_##N, T0_U_##N, T0_U_##N s = T0_RD_##N(c, op->src);    \
                    uint64_t fl_; __asm__ volatile("lock; xadd" T0_SFX_##N         \
                                                   " %1, %2\n\t" T0_SAVE_FLAGS     \
                                                   : "=&a"(fl_), "+q"(s), "+m"(*p) \
                                                   :                               \
                                                   : "cc", "memory");              \
                    c->flags = (uint16_t)fl_; T0_WR_##N(c, op->src, s))

T0_SIZES_1248(XADD_FORMS, )

static const struct t0_forms xadd_fn = {{
    [T0_F_RR] = T0_FN_1248(xadd_rr),
    T0_FN_PAIR(T0_F_MR, 1248, xadd_mr),
    T0_FN_PAIR(T0_F_LMR, 1248, xadd_lmr),
}};

/* --- CMPXCHG --------------------------------------------------------------- */

/*
 * On whole registers, so that what the host does to upper halves (it differs
 * between "equal" and "not equal") happens to the guest's. When the destination is
 * the accumulator itself they are always equal: writing it last is right.
 */
#define CMPXCHG(lock, N, constraint, dest)                                     \
    do {                                                                       \
        uint64_t ax_ = c->gpr[X86_RAX], acc_, s_ = T0_RD_##N(c, op->src);      \
        __asm__ volatile(lock "cmpxchg" T0_SFX_##N " %" T0_PART_##N            \
                         "[s], %[d]\n\t"                                       \
                         "mov %%rax, %[acc]\n\t" T0_SAVE_FLAGS                 \
                         : "+&a"(ax_), [acc] "=&r"(acc_), [d] constraint(dest) \
                         : [s] "q"(s_)                                         \
                         : "cc", "memory");                                    \
        c->flags = (uint16_t)ax_;                                              \
        c->gpr[X86_RAX] = acc_;                                                \
    } while (0)

#define CMPXCHG_MEM(N, x)                                               \
    T0_INPLACE_PAIR(cmpxchg_mr_##N, T0_U_##N, CMPXCHG("", N, "+m", *p)) \
    T0_INPLACE_PAIR(cmpxchg_lmr_##N, T0_U_##N, CMPXCHG("lock; ", N, "+m", *p))
T0_SIZES_1248(CMPXCHG_MEM, )

T0_HANDLER(cmpxchg_rr_1)
{
    uint8_t d = T0_R8(c, op->dst), s = T0_R8(c, op->src);
    CMPXCHG("", 1, "+&q", d);
    if (c->flags & T0_FLAG_ZF) {
        d = s;
    }
    T0_W8(c, op->dst, d);
    return T0_NEXT(c, op);
}

#define CMPXCHG_REG(N, x)                                                           \
    T0_HANDLER(cmpxchg_rr_##N)                                                      \
    {                                                                               \
        uint64_t ax = c->gpr[X86_RAX], acc, d = T0_R64(c, op->dst);                 \
        uint64_t s = T0_R64(c, op->src);                                            \
        __asm__(                                                                    \
            "cmpxchg" T0_SFX_##N T0_SD(N) "\n\tmov %%rax, %[acc]\n\t" T0_SAVE_FLAGS \
            : "+&a"(ax), [acc] "=&r"(acc), [d] "+&r"(d)                             \
            : [s] "r"(s)                                                            \
            : "cc");                                                                \
        c->flags = (uint16_t)ax;                                                    \
        c->gpr[X86_RAX] = acc;                                                      \
        T0_W64(c, op->dst, d);                                                      \
        return T0_NEXT(c, op);                                                      \
    }
T0_SIZES_248(CMPXCHG_REG, )

static const struct t0_forms cmpxchg_fn = {{
    [T0_F_RR] = T0_FN_1248(cmpxchg_rr),
    T0_FN_PAIR(T0_F_MR, 1248, cmpxchg_mr),
    T0_FN_PAIR(T0_F_LMR, 1248, cmpxchg_lmr),
}};

/* Compare rDX:rAX; only ZF changes. The halves are of the type @half. */
#define CMPXCHG_PAIR(lock, insn, half, p)                                         \
    do {                                                                          \
        uint64_t fl_ = c->flags & ~(uint64_t)T0_FLAG_ZF;                          \
        half lo_ = (half)c->gpr[X86_RAX], hi_ = (half)c->gpr[X86_RDX];            \
        bool equal_;                                                              \
        __asm__ volatile(lock insn " %[m]"                                        \
                         : "+a"(lo_), "+d"(hi_), [m] "+m"(*(p)), "=@ccz"(equal_)  \
                         : "b"((half)c->gpr[X86_RBX]), "c"((half)c->gpr[X86_RCX]) \
                         : "memory");                                             \
        c->flags = (uint16_t)(fl_ | (equal_ ? T0_FLAG_ZF : 0));                   \
        if (!equal_) {                                                            \
            c->gpr[X86_RAX] = lo_;                                                \
            c->gpr[X86_RDX] = hi_;                                                \
        }                                                                         \
    } while (0)

T0_INPLACE_PAIR(cmpxchg8b, uint64_t, CMPXCHG_PAIR("", "cmpxchg8b", uint32_t, p))
T0_INPLACE_PAIR(cmpxchg8b_l, uint64_t, CMPXCHG_PAIR("lock; ", "cmpxchg8b", uint32_t, p))

/* Misaligned: #GP(0). */
static struct t0_val cmpxchg16b_ea(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_val a = t0_ea(c, op, 16, true);
    if (!a.fault && (a.v & 15)) {
        c->exc = (struct t0_exception){.vector = X86_EXC_GP, .has_error = true};
        a.fault = 1;
    }
    return a;
}

/* A host page is aligned, so in-page operands are where they are aligned too. */
T0_INPLACE_AT(cmpxchg16b, __int128, cmpxchg16b_ea(c, op),
              CMPXCHG_PAIR("", "cmpxchg16b", uint64_t, p))
T0_INPLACE_AT(cmpxchg16b_l, __int128, cmpxchg16b_ea(c, op),
              CMPXCHG_PAIR("lock; ", "cmpxchg16b", uint64_t, p))

/* --- ADCX, ADOX ------------------------------------------------------------ */

#define CARRY_FORMS(N, x)                                               \
    T0_HANDLER(x##_rr_##N)                                              \
    {                                                                   \
        uint64_t d = T0_R64(c, op->dst), s = T0_R64(c, op->src);        \
        T0_HOST2(c, #x T0_SFX_##N T0_SD(N), d, s);                      \
        T0_W64(c, op->dst, d);                                          \
        return T0_NEXT(c, op);                                          \
    }                                                                   \
    T0_LOAD_PAIR(x##_rm_##N, T0_U_##N, uint64_t d = T0_R64(c, op->dst); \
                 T0_HOST2(c, #x T0_SFX_##N T0_SD(N), d, m); T0_W64(c, op->dst, d))

T0_SIZES_48(CARRY_FORMS, adcx)
T0_SIZES_48(CARRY_FORMS, adox)

#define CARRY_TABLE(x)                                                    \
    {                                                                     \
        {                                                                 \
            [T0_F_RR] = T0_FN_48(x##_rr), T0_FN_PAIR(T0_F_RM, 48, x##_rm) \
        }                                                                 \
    }
static const struct t0_forms adcx_fn = CARRY_TABLE(adcx);
static const struct t0_forms adox_fn = CARRY_TABLE(adox);

/* --- Zeroing a register ---------------------------------------------------- */

/* XOR r, r and SUB r, r of 4 or 8 bytes. AF of XOR is undefined and 0 here. */
T0_HANDLER(zero_r)
{
    c->flags = T0_FLAG_ZF | T0_FLAG_PF | 0x0200;
    T0_W64(c, op->dst, 0);
    return T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

static bool is_zeroing(const struct x86_insn *insn)
{
    return (insn->op == X86_OP_XOR || insn->op == X86_OP_SUB) && insn->opsize >= 4 &&
           insn->opnd[0].kind == X86_OPND_REG && insn->opnd[1].kind == X86_OPND_REG &&
           insn->opnd[0].reg == insn->opnd[1].reg;
}

bool t0_lower_alu(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    bool dead = ctx->flags_dead;
    const struct t0_forms *t;
    bool general = !t0_ea_is_sum(op), lock = insn->prefixes & X86_P_LOCK;

    switch (insn->op) {
    case X86_OP_ADD: t = &add_fn[dead]; break;
    case X86_OP_SUB: t = &sub_fn[dead]; break;
    case X86_OP_AND: t = &and_fn[dead]; break;
    case X86_OP_OR: t = &or_fn[dead]; break;
    case X86_OP_XOR: t = &xor_fn[dead]; break;
    case X86_OP_ADC: t = &adc_fn[dead]; break;
    case X86_OP_SBB: t = &sbb_fn[dead]; break;
    case X86_OP_CMP: t = &cmp_fn; break;
    case X86_OP_TEST: t = &test_fn; break;
    case X86_OP_INC: t = &inc_fn[dead]; break;
    case X86_OP_DEC: t = &dec_fn[dead]; break;
    case X86_OP_NEG: t = &neg_fn[dead]; break;
    case X86_OP_NOT: t = &not_fn; break;
    case X86_OP_XADD: t = &xadd_fn; break;
    case X86_OP_CMPXCHG: t = &cmpxchg_fn; break;
    case X86_OP_ADCX: t = &adcx_fn; break;
    case X86_OP_ADOX: t = &adox_fn; break;
    case X86_OP_CMPXCHG8B:
        op->fn = lock ? (general ? cmpxchg8b_l_g : cmpxchg8b_l_f)
                      : (general ? cmpxchg8b_g : cmpxchg8b_f);
        return true;
    case X86_OP_CMPXCHG16B: op->fn = lock ? cmpxchg16b_l : cmpxchg16b; return true;
    default: return false;
    }
    if (!t0_pick(t, insn, op, insn->opsize)) {
        return false;
    }
    if (is_zeroing(insn)) {
        op->fn = zero_r;
    }
    return true;
}
