#include "vmm/accel/bt/t0_int.h"

/*
 * Moves: MOV and its extending, conditional, swapping and exchanging relatives, LEA,
 * the stack, the flag bits, and what does nothing (NOP, PREFETCH, fences).
 */

/* --- MOV ------------------------------------------------------------------- */

#define MOV_FORMS(N, x)                                            \
    T0_HANDLER(mov_rr_##N)                                         \
    {                                                              \
        T0_WR_##N(c, op->dst, T0_RD_##N(c, op->src));              \
        return T0_NEXT(c, op);                                     \
    }                                                              \
    T0_HANDLER(mov_ri_##N)                                         \
    {                                                              \
        T0_WR_##N(c, op->dst, op->imm);                            \
        return T0_NEXT(c, op);                                     \
    }                                                              \
    T0_LOAD_TRIPLE(mov_rm_##N, T0_U_##N, T0_WR_##N(c, op->dst, m)) \
    T0_STORE_TRIPLE(mov_mr_##N, T0_U_##N, T0_RD_##N(c, op->src))   \
    T0_STORE_TRIPLE(mov_mi_##N, T0_U_##N, op->imm)
T0_SIZES_1248(MOV_FORMS, )

static const struct t0_forms mov_fn = {{
    [T0_F_RR] = T0_FN_1248(mov_rr),
    [T0_F_RI] = T0_FN_1248(mov_ri),
    T0_FN_TRIPLE(T0_F_RM, 1248, mov_rm),
    T0_FN_TRIPLE(T0_F_MR, 1248, mov_mr),
    T0_FN_TRIPLE(T0_F_MI, 1248, mov_mi),
}};

/* --- MOVZX, MOVSX, MOVSXD -------------------------------------------------- */

/* From FROM bytes to N; the tables are indexed by the source's size. */
#define EXTEND_FORMS(N, x, kind, FROM)                                         \
    T0_HANDLER(x##_rr_##N)                                                     \
    {                                                                          \
        T0_WR_##N(c, op->dst, (T0_S_##N)(kind##FROM)T0_RD_##FROM(c, op->src)); \
        return T0_NEXT(c, op);                                                 \
    }                                                                          \
    T0_LOAD_TRIPLE(x##_rm_##N, T0_U_##FROM,                                    \
                   T0_WR_##N(c, op->dst, (T0_S_##N)(kind##FROM)m))

T0_SIZES_248(EXTEND_FORMS, movzx1, T0_U_, 1)
T0_SIZES_248(EXTEND_FORMS, movzx2, T0_U_, 2)
T0_SIZES_248(EXTEND_FORMS, movsx1, T0_S_, 1)
T0_SIZES_248(EXTEND_FORMS, movsx2, T0_S_, 2)
T0_SIZES_248(EXTEND_FORMS, movsx4, T0_S_, 4)

#define EXTEND_TABLE(sizes, x)                                                      \
    {                                                                               \
        {                                                                           \
            [T0_F_RR] = T0_FN_##sizes(x##_rr), T0_FN_TRIPLE(T0_F_RM, sizes, x##_rm) \
        }                                                                           \
    }
static const struct t0_forms movzx_fn[2] = {EXTEND_TABLE(248, movzx1),
                                            EXTEND_TABLE(248, movzx2)};
static const struct t0_forms movsx_fn[3] = {
    EXTEND_TABLE(248, movsx1), EXTEND_TABLE(248, movsx2), EXTEND_TABLE(248, movsx4)};

/* MOVSXD always reads 32 bits, as AMD's processors do, also to write 16 of them. */
static bool lower_extend(const struct x86_insn *insn, struct t0_op *op)
{
    const struct t0_forms *t = insn->op == X86_OP_MOVSXD ? &movsx_fn[2]
                               : insn->op == X86_OP_MOVZX
                                   ? &movzx_fn[insn->opnd[1].size == 2]
                                   : &movsx_fn[insn->opnd[1].size == 2];
    return t0_pick(t, insn, op, insn->opsize);
}

/* --- LEA ------------------------------------------------------------------- */

#define LEA_FORMS(N, x)                                               \
    /* Address at least as wide as the operand. */                    \
    T0_HANDLER(lea_##N)                                               \
    {                                                                 \
        T0_WR_##N(c, op->dst, t0_offset(c, op));                      \
        return T0_NEXT(c, op);                                        \
    }                                                                 \
    T0_HANDLER(lea_base_##N)                                          \
    {                                                                 \
        T0_WR_##N(c, op->dst, c->gpr[op->base] + (uint64_t)op->disp); \
        return T0_NEXT(c, op);                                        \
    }                                                                 \
    T0_HANDLER(lea16_##N)                                             \
    {                                                                 \
        T0_WR_##N(c, op->dst, (uint16_t)t0_offset(c, op));            \
        return T0_NEXT(c, op);                                        \
    }
T0_SIZES_248(LEA_FORMS, )

T0_HANDLER(lea32_8)
{
    T0_W64(c, op->dst, (uint32_t)t0_offset(c, op));
    return T0_NEXT(c, op);
}

static bool lower_lea(const struct x86_insn *insn, struct t0_op *op)
{
    static const t0_fn plain[4] = T0_FN_248(lea), base[4] = T0_FN_248(lea_base);
    static const t0_fn from16[4] = T0_FN_248(lea16);
    unsigned size = (unsigned)__builtin_ctz(insn->opsize);

    op->dst = t0_reg(insn->opnd[0].reg);
    op->fn = insn->addrsize == 2                        ? from16[size]
             : insn->addrsize == 4 && insn->opsize == 8 ? lea32_8
             : op->index == T0_REG_ZERO                 ? base[size]
                                                        : plain[size];
    return true;
}

/* --- XCHG, BSWAP, MOVBE ---------------------------------------------------- */

#define XCHG_FORMS(N, x)                                                            \
    T0_HANDLER(xchg_rr_##N)                                                         \
    {                                                                               \
        T0_U_##N d = T0_RD_##N(c, op->dst), s = T0_RD_##N(c, op->src);              \
        T0_WR_##N(c, op->dst, s);                                                   \
        T0_WR_##N(c, op->src, d);                                                   \
        return T0_NEXT(c, op);                                                      \
    }                                                                               \
    /* With memory it is locked, prefix or not. */                                  \
    T0_INPLACE_PAIR(                                                                \
        xchg_mr_##N, T0_U_##N,                                                      \
        T0_WR_##N(c, op->src,                                                       \
                  __atomic_exchange_n(p, T0_RD_##N(c, op->src), __ATOMIC_SEQ_CST))) \
    T0_INPLACE_PAIR(                                                                \
        xchg_rm_##N, T0_U_##N,                                                      \
        T0_WR_##N(c, op->dst,                                                       \
                  __atomic_exchange_n(p, T0_RD_##N(c, op->dst), __ATOMIC_SEQ_CST)))
T0_SIZES_1248(XCHG_FORMS, )

static const struct t0_forms xchg_fn = {{
    [T0_F_RR] = T0_FN_1248(xchg_rr),
    T0_FN_PAIR(T0_F_RM, 1248, xchg_rm),
    T0_FN_PAIR(T0_F_MR, 1248, xchg_mr),
    T0_FN_PAIR(T0_F_LMR, 1248, xchg_mr),
}};

/* BSWAP of 16 bits is undefined; AMD's and Intel's processors give 0. */
T0_HANDLER(bswap_2)
{
    T0_W16(c, op->dst, 0);
    return T0_NEXT(c, op);
}

T0_HANDLER(bswap_4)
{
    T0_W32(c, op->dst, __builtin_bswap32(T0_R32(c, op->dst)));
    return T0_NEXT(c, op);
}

T0_HANDLER(bswap_8)
{
    T0_W64(c, op->dst, __builtin_bswap64(T0_R64(c, op->dst)));
    return T0_NEXT(c, op);
}

static const struct t0_forms bswap_fn = {{[T0_F_R] = T0_FN_248(bswap)}};

#define SWAP_2(v) __builtin_bswap16(v)
#define SWAP_4(v) __builtin_bswap32(v)
#define SWAP_8(v) __builtin_bswap64(v)
#define MOVBE_FORMS(N, x)                                                    \
    T0_LOAD_PAIR(movbe_rm_##N, T0_U_##N, T0_WR_##N(c, op->dst, SWAP_##N(m))) \
    T0_STORE_PAIR(movbe_mr_##N, T0_U_##N, SWAP_##N(T0_RD_##N(c, op->src)))
T0_SIZES_248(MOVBE_FORMS, )

static const struct t0_forms movbe_fn = {{
    T0_FN_PAIR(T0_F_RM, 248, movbe_rm),
    T0_FN_PAIR(T0_F_MR, 248, movbe_mr),
}};

/* --- CMOVcc, SETcc --------------------------------------------------------- */

/*
 * A CMOV loads always, and a 32-bit one always zeroes the upper half. Guests use it
 * where a branch would be mispredicted, so the handler must not have one.
 */
#define SELECT(c, CC, yes, no) \
    (__builtin_expect_with_probability(t0_cond(c, CC), 1, 0.5) ? (yes) : (no))
#define CMOV_FORMS(N, CC)                                                          \
    T0_HANDLER(cmov_rr_##N##_##CC)                                                 \
    {                                                                              \
        T0_U_##N d = T0_RD_##N(c, op->dst);                                        \
        T0_U_##N s = T0_RD_##N(c, op->src);                                        \
        T0_WR_##N(c, op->dst, SELECT(c, CC, s, d));                                \
        return T0_NEXT(c, op);                                                     \
    }                                                                              \
    T0_LOAD_PAIR(cmov_rm_##N##_##CC, T0_U_##N, T0_U_##N d = T0_RD_##N(c, op->dst); \
                 T0_WR_##N(c, op->dst, SELECT(c, CC, m, d)))

#define CC_FORMS(CC)                       \
    T0_SIZES_248(CMOV_FORMS, CC)           \
    T0_HANDLER(set_r_##CC)                 \
    {                                      \
        T0_W8(c, op->dst, t0_cond(c, CC)); \
        return T0_NEXT(c, op);             \
    }                                      \
    T0_STORE_PAIR(set_m_##CC, uint8_t, t0_cond(c, CC))

/* clang-format off */
#define ALL_CC(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
/* clang-format on */
ALL_CC(CC_FORMS)

#define CMOV_ROW(CC)                                                        \
    [CC] = {                                                                \
        {NULL, cmov_rr_2_##CC, cmov_rr_4_##CC, cmov_rr_8_##CC},             \
        {NULL, cmov_rm_2_##CC##_f, cmov_rm_4_##CC##_f, cmov_rm_8_##CC##_f}, \
        {NULL, cmov_rm_2_##CC##_g, cmov_rm_4_##CC##_g, cmov_rm_8_##CC##_g}, \
    },
#define SET_ROW(CC) [CC] = {set_r_##CC, set_m_##CC##_f, set_m_##CC##_g},
static const t0_fn cmov_fn[16][3][4] = {ALL_CC(CMOV_ROW)};
static const t0_fn set_fn[16][3] = {ALL_CC(SET_ROW)};

static bool lower_cc(const struct x86_insn *insn, struct t0_op *op)
{
    static const uint8_t column[T0_NB_FORMS] = {
        [T0_F_R] = 1,   [T0_F_RR] = 1,   [T0_F_M] = 2,   [T0_F_RM] = 2,
        [T0_F_M_F] = 2, [T0_F_RM_F] = 2, [T0_F_M_G] = 3, [T0_F_RM_G] = 3,
    };
    enum t0_form form = t0_form(insn, op);
    unsigned cc = insn->cc & 15;

    if (form == T0_NB_FORMS || !column[form]) {
        return false;
    }
    op->fn = insn->op == X86_OP_SETCC
                 ? set_fn[cc][column[form] - 1]
                 : cmov_fn[cc][column[form] - 1][__builtin_ctz(insn->opsize)];
    return op->fn != NULL;
}

/* --- CBW, CWD families ----------------------------------------------------- */

#define WIDEN_FORMS(N, HALF)                                                  \
    T0_HANDLER(cbw_##N)                                                       \
    {                                                                         \
        T0_WR_##N(c, X86_RAX * 8, (T0_S_##N)(T0_S_##HALF)T0_RD_##HALF(c, 0)); \
        return T0_NEXT(c, op);                                                \
    }                                                                         \
    T0_HANDLER(cwd_##N)                                                       \
    {                                                                         \
        T0_WR_##N(c, X86_RDX * 8, (T0_S_##N)T0_RD_##N(c, 0) < 0 ? ~0ull : 0); \
        return T0_NEXT(c, op);                                                \
    }
WIDEN_FORMS(2, 1)
WIDEN_FORMS(4, 2)
WIDEN_FORMS(8, 4)

/* --- Flag bits ------------------------------------------------------------- */

#define FLAG_OP(name, stmt)    \
    T0_HANDLER(name)           \
    {                          \
        stmt;                  \
        return T0_NEXT(c, op); \
    }

FLAG_OP(lahf, T0_W8(c, 1, c->flags >> 8))
FLAG_OP(sahf, c->flags = (uint16_t)((c->flags & T0_FLAG_OF) | ((T0_R8(c, 1) & 0xd5) | 2)
                                                                  << 8))
FLAG_OP(clc, c->flags &= (uint16_t)~T0_FLAG_CF)
FLAG_OP(stc, c->flags |= T0_FLAG_CF)
FLAG_OP(cmc, c->flags ^= T0_FLAG_CF)
FLAG_OP(cld, c->s.rflags &= ~(uint64_t)X86_FL_DF)
FLAG_OP(std, c->s.rflags |= X86_FL_DF)
FLAG_OP(salc, T0_W8(c, 0, c->flags &T0_FLAG_CF ? 0xff : 0))
FLAG_OP(nop, (void)0)
/* Guest stores are host stores: only the full fence has something to order that
 * the interpreter's own instructions do not. */
FLAG_OP(mfence, __asm__ volatile("mfence" ::: "memory"))
FLAG_OP(lfence, __asm__ volatile("lfence" ::: "memory"))
FLAG_OP(sfence, __asm__ volatile("sfence" ::: "memory"))

/* --- Stack ----------------------------------------------------------------- */

/* 64-bit mode, 8 bytes, no page crossing: what nearly all pushes and pops are. */
#define PUSH_FORMS(name, value)                                                \
    __attribute__((noinline)) T0_HANDLER(name##_g)                             \
    {                                                                          \
        if (unlikely(t0_push(c, (uint64_t)(value), op->size))) {               \
            return T0_FAULT(c, op);                                            \
        }                                                                      \
        return T0_NEXT(c, op);                                                 \
    }                                                                          \
    T0_HANDLER(name##_f)                                                       \
    {                                                                          \
        uint64_t la = c->gpr[X86_RSP] - 8;                                     \
        const struct t0_tlb_entry *e = t0_tlb_entry(c, la);                    \
        if (unlikely(!t0_tlb_hit(la, 8, e->write))) {                          \
            return name##_g(c, op);                                            \
        }                                                                      \
        *(volatile uint64_t *)(uintptr_t)(la + e->addend) = (uint64_t)(value); \
        c->gpr[X86_RSP] = la;                                                  \
        return T0_NEXT(c, op);                                                 \
    }
PUSH_FORMS(push_r, T0_R64(c, op->dst))
PUSH_FORMS(push_i, op->imm)

static void write_sized(struct t0_cpu *c, unsigned reg, uint64_t v, unsigned size)
{
    switch (size) {
    case 2: T0_W16(c, reg, v); break;
    case 4: T0_W32(c, reg, v); break;
    default: T0_W64(c, reg, v); break;
    }
}

__attribute__((noinline)) T0_HANDLER(pop_r_g)
{
    struct t0_val v = t0_pop_peek(c, op->size);
    if (unlikely(v.fault)) {
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, op->size);
    write_sized(c, op->dst, v.v, op->size);
    return T0_NEXT(c, op);
}

T0_HANDLER(pop_r_f)
{
    uint64_t la = c->gpr[X86_RSP];
    const struct t0_tlb_entry *e = t0_tlb_entry(c, la);
    if (unlikely(!t0_tlb_hit(la, 8, e->read))) {
        return pop_r_g(c, op);
    }
    uint64_t v = *(const volatile uint64_t *)(uintptr_t)(la + e->addend);
    c->gpr[X86_RSP] = la + 8; /* before: POP RSP gives what was popped */
    T0_W64(c, op->dst, v);
    return T0_NEXT(c, op);
}

T0_HANDLER(push_m)
{
    struct t0_val a = t0_ea(c, op, op->size, false);
    if (unlikely(a.fault)) {
        return T0_FAULT(c, op);
    }
    struct t0_val v = t0_load(c, a.v, op->size, op->seg);
    if (unlikely(v.fault) || unlikely(t0_push(c, v.v, op->size))) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* The address of POP's operand is computed with rSP already incremented. */
T0_HANDLER(pop_m)
{
    uint64_t rsp = c->gpr[X86_RSP];
    struct t0_val v = t0_pop_peek(c, op->size);
    if (unlikely(v.fault)) {
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, op->size);
    struct t0_val a = t0_ea(c, op, op->size, true);
    if (unlikely(a.fault) || unlikely(t0_store(c, a.v, v.v, op->size, op->seg))) {
        c->gpr[X86_RSP] = rsp;
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* A fault in the middle leaves registers as they were; what was already pushed is
 * below the stack pointer and pushed again. */
T0_HANDLER(pusha)
{
    uint64_t rsp = c->gpr[X86_RSP];
    for (unsigned r = X86_RAX; r <= X86_RDI; r++) {
        if (unlikely(t0_push(c, r == X86_RSP ? rsp : c->gpr[r], op->size))) {
            c->gpr[X86_RSP] = rsp;
            return T0_FAULT(c, op);
        }
    }
    return T0_NEXT(c, op);
}

/* Pop all eight into @regs; RSP is as before afterwards. Non-zero: fault. */
static uint64_t popa_read(struct t0_cpu *c, unsigned size, uint64_t regs[8])
{
    uint64_t rsp = c->gpr[X86_RSP], fault = 0;
    for (int r = X86_RDI; r >= X86_RAX && !fault; r--) {
        struct t0_val v = t0_pop_peek(c, size);
        fault = v.fault;
        regs[r] = v.v;
        t0_sp_add(c, (int64_t)size);
    }
    c->gpr[X86_RSP] = rsp;
    return fault;
}

__attribute__((noinline)) static uint64_t popa_do(struct t0_cpu *c, unsigned size)
{
    uint64_t regs[8];
    if (popa_read(c, size, regs)) {
        return 1;
    }
    t0_sp_add(c, 8 * (int64_t)size);
    for (unsigned r = X86_RAX; r <= X86_RDI; r++) {
        if (r != X86_RSP) {
            write_sized(c, r * 8, regs[r], size);
        }
    }
    return 0;
}

T0_HANDLER(popa)
{
    if (unlikely(popa_do(c, op->size))) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* Write the stack pointer, @width (2, 4 or 8) being the stack's address size. */
static void set_sp(struct t0_cpu *c, uint64_t v, unsigned width)
{
    write_sized(c, X86_RSP * 8, v, width);
}

/* aux: the stack's address size. */
__attribute__((noinline)) T0_HANDLER(leave_g)
{
    uint64_t rsp = c->gpr[X86_RSP];
    set_sp(c, c->gpr[X86_RBP], op->aux);
    struct t0_val v = t0_pop_peek(c, op->size);
    if (unlikely(v.fault)) {
        c->gpr[X86_RSP] = rsp;
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, op->size);
    write_sized(c, X86_RBP * 8, v.v, op->size);
    return T0_NEXT(c, op);
}

T0_HANDLER(leave_f)
{
    uint64_t la = c->gpr[X86_RBP];
    const struct t0_tlb_entry *e = t0_tlb_entry(c, la);
    if (unlikely(!t0_tlb_hit(la, 8, e->read))) {
        return leave_g(c, op);
    }
    c->gpr[X86_RBP] = *(const volatile uint64_t *)(uintptr_t)(la + e->addend);
    c->gpr[X86_RSP] = la + 8;
    return T0_NEXT(c, op);
}

/* The frame pointer @i levels up the display that rBP points to. */
static struct t0_val enter_level(struct t0_cpu *c, const struct t0_op *op, unsigned i)
{
    uint64_t rsp = c->gpr[X86_RSP];
    set_sp(c, c->gpr[X86_RBP] - i * op->size, op->aux);
    struct t0_val v = t0_pop_peek(c, op->size);
    c->gpr[X86_RSP] = rsp;
    return v;
}

/* ENTER imm, aux2 (nesting level 0..31); APM 3, ENTER. */
static uint64_t enter_push(struct t0_cpu *c, const struct t0_op *op)
{
    if (t0_push(c, c->gpr[X86_RBP], op->size)) {
        return 1;
    }
    uint64_t frame = c->gpr[X86_RSP];
    for (unsigned i = 1; i < op->aux2; i++) {
        struct t0_val v = enter_level(c, op, i);
        if (v.fault || t0_push(c, v.v, op->size)) {
            return 1;
        }
    }
    return op->aux2 ? t0_push(c, frame, op->size) : 0;
}

/* The processor checks that the new top of the stack can be written. */
__attribute__((noinline)) static uint64_t enter_probe(struct t0_cpu *c,
                                                      const struct t0_op *op,
                                                      uint64_t top)
{
    struct t0_op at = {
        .disp = (int64_t)top,
        .base = T0_REG_ZERO,
        .index = T0_REG_ZERO,
        .seg = X86_SS,
        .ea = op->aux == 8   ? T0_EA_FLAT64
              : op->aux == 4 ? T0_EA_GENERAL32
                             : T0_EA_GENERAL,
    };
    struct t0_val a = t0_ea(c, &at, op->size, true);
    return a.fault || t0_probe_write(c, a.v, op->size, X86_SS);
}

T0_HANDLER(enter)
{
    uint64_t rsp = c->gpr[X86_RSP];
    uint64_t frame = rsp - op->size;
    if (op->aux == 2) {
        frame = (rsp & ~UINT64_C(0xffff)) | (uint16_t)frame;
    }
    bool fault = enter_push(c, op);
    uint64_t top = c->gpr[X86_RSP] - (uint16_t)op->imm;

    if (unlikely(fault || enter_probe(c, op, top))) {
        c->gpr[X86_RSP] = rsp;
        return T0_FAULT(c, op);
    }
    set_sp(c, top, op->aux);
    write_sized(c, X86_RBP * 8, frame, op->size);
    return T0_NEXT(c, op);
}

static bool lower_stack(const struct x86_insn *insn, const struct t0_lower *ctx,
                        struct t0_op *op)
{
    bool fast = (ctx->mode & T0_MODE_SIZE) == T0_MODE_64 && insn->opsize == 8;
    const struct x86_opnd *o = &insn->opnd[0];

    op->aux = (ctx->mode & T0_MODE_SIZE) == T0_MODE_64 ? 8
              : ctx->mode & T0_MODE_STACK32            ? 4
                                                       : 2;
    switch (insn->op) {
    case X86_OP_PUSHA: op->fn = pusha; return true;
    case X86_OP_POPA: op->fn = popa; return true;
    case X86_OP_LEAVE: op->fn = fast ? leave_f : leave_g; return true;
    case X86_OP_ENTER:
        op->fn = enter;
        op->aux2 = insn->imm2 & 31;
        return true;
    default: break;
    }
    bool push = insn->op == X86_OP_PUSH;
    switch (o->kind) {
    case X86_OPND_REG:
        op->dst = t0_reg(o->reg);
        op->fn = push ? (fast ? push_r_f : push_r_g) : (fast ? pop_r_f : pop_r_g);
        return true;
    case X86_OPND_IMM: op->fn = fast ? push_i_f : push_i_g; return push;
    case X86_OPND_MEM: op->fn = push ? push_m : pop_m; return true;
    default: return false; /* segment registers are t0_seg.c's */
    }
}

/* --- XLAT, BOUND, CLZERO, MOVDIR64B ---------------------------------------- */

T0_HANDLER(xlat)
{
    struct t0_val v = t0_load_at(c, op, T0_R8(c, 0), 1);
    if (unlikely(v.fault)) {
        return T0_FAULT(c, op);
    }
    T0_W8(c, 0, v.v);
    return T0_NEXT(c, op);
}

/* Signed lower and upper bound at the operand, both included. */
T0_HANDLER(bound)
{
    struct t0_val lo = t0_load_at(c, op, 0, op->size);
    if (unlikely(lo.fault)) {
        return T0_FAULT(c, op);
    }
    struct t0_val hi = t0_load_at(c, op, op->size, op->size);
    if (unlikely(hi.fault)) {
        return T0_FAULT(c, op);
    }
    bool out = op->size == 2 ? (int16_t)T0_R16(c, op->dst) < (int16_t)lo.v ||
                                   (int16_t)T0_R16(c, op->dst) > (int16_t)hi.v
                             : (int32_t)T0_R32(c, op->dst) < (int32_t)lo.v ||
                                   (int32_t)T0_R32(c, op->dst) > (int32_t)hi.v;
    if (out) {
        return t0_raise(c, op, X86_EXC_BR);
    }
    return T0_NEXT(c, op);
}

/* The line of 64 bytes that rAX points into. */
__attribute__((noinline)) static uint64_t clzero_do(struct t0_cpu *c,
                                                    const struct t0_op *op)
{
    static const uint8_t zero[64];
    struct t0_val a = t0_ea(c, op, 1, true);
    return a.fault || t0_write_bytes(c, a.v & ~UINT64_C(63), zero, 64, op->seg);
}

/* Destination: ES:[register], aligned to 64. */
__attribute__((noinline)) static uint64_t movdir64b_do(struct t0_cpu *c,
                                                       const struct t0_op *op)
{
    uint8_t buf[64];
    struct t0_op to = *op;
    struct t0_val from = t0_ea(c, op, 64, false), dest;

    to.base = op->dst / 8;
    to.index = T0_REG_ZERO;
    to.disp = 0;
    to.seg = X86_ES;
    to.ea = op->aux;
    if (from.fault || (dest = t0_ea(c, &to, 64, true)).fault) {
        return 1;
    }
    if (dest.v & 63) {
        c->exc = (struct t0_exception){.vector = X86_EXC_GP, .has_error = true};
        return 1;
    }
    return t0_read_bytes(c, from.v, buf, 64, op->seg) ||
           t0_write_bytes(c, dest.v, buf, 64, X86_ES);
}

#define DO_OR_FAULT(name)                 \
    T0_HANDLER(name)                      \
    {                                     \
        if (unlikely(name##_do(c, op))) { \
            return T0_FAULT(c, op);       \
        }                                 \
        return T0_NEXT(c, op);            \
    }
DO_OR_FAULT(clzero)
DO_OR_FAULT(movdir64b)

static bool lower_implicit(const struct x86_insn *insn, const struct t0_lower *ctx,
                           struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_XLAT:
        t0_set_ea(insn, ctx, op, X86_RBX, insn->seg);
        op->fn = xlat;
        return true;
    case X86_OP_CLZERO:
        t0_set_ea(insn, ctx, op, X86_RAX, insn->seg);
        op->fn = clzero;
        return true;
    case X86_OP_BOUND:
        op->dst = t0_reg(insn->opnd[0].reg);
        op->fn = bound;
        return true;
    default: /* MOVDIR64B */
        op->dst = t0_reg(insn->opnd[0].reg);
        op->aux = t0_ea_kind(insn, ctx, X86_ES);
        op->fn = movdir64b;
        return true;
    }
}

/* --- Lowering -------------------------------------------------------------- */

static const struct {
    uint16_t op;
    t0_fn fn[4]; /* by log2 of the size; one for all sizes: in fn[0] */
} simple_fn[] = {
    {X86_OP_CBW, {NULL, cbw_2, cbw_4, cbw_8}},
    {X86_OP_CWD, {NULL, cwd_2, cwd_4, cwd_8}},
    {X86_OP_LAHF, {lahf}},
    {X86_OP_SAHF, {sahf}},
    {X86_OP_CLC, {clc}},
    {X86_OP_STC, {stc}},
    {X86_OP_CMC, {cmc}},
    {X86_OP_CLD, {cld}},
    {X86_OP_STD, {std}},
    {X86_OP_SALC, {salc}},
    {X86_OP_NOP, {nop}},
    {X86_OP_PREFETCH, {nop}},
    {X86_OP_PREFETCHW, {nop}},
    {X86_OP_PREFETCHNTA, {nop}},
    {X86_OP_PREFETCHT0, {nop}},
    {X86_OP_PREFETCHT1, {nop}},
    {X86_OP_PREFETCHT2, {nop}},
    {X86_OP_LFENCE, {lfence}},
    {X86_OP_MFENCE, {mfence}},
    {X86_OP_SFENCE, {sfence}},
    {X86_OP_ENDBR32, {nop}},
    {X86_OP_ENDBR64, {nop}},
};

static bool lower_simple(const struct x86_insn *insn, struct t0_op *op)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(simple_fn); i++) {
        if (simple_fn[i].op == insn->op) {
            t0_fn any = simple_fn[i].fn[0];
            op->fn = any ? any : simple_fn[i].fn[__builtin_ctz(insn->opsize)];
            return op->fn != NULL;
        }
    }
    return false;
}

bool t0_lower_mov(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_MOV:
    case X86_OP_MOVNTI:
    case X86_OP_MOVDIRI: return t0_pick(&mov_fn, insn, op, insn->opsize);
    case X86_OP_MOVZX:
    case X86_OP_MOVSX:
    case X86_OP_MOVSXD: return lower_extend(insn, op);
    case X86_OP_LEA: return lower_lea(insn, op);
    case X86_OP_XCHG: return t0_pick(&xchg_fn, insn, op, insn->opsize);
    case X86_OP_BSWAP: return t0_pick(&bswap_fn, insn, op, insn->opsize);
    case X86_OP_MOVBE: return t0_pick(&movbe_fn, insn, op, insn->opsize);
    case X86_OP_CMOVCC:
    case X86_OP_SETCC: return lower_cc(insn, op);
    case X86_OP_PUSH:
    case X86_OP_POP:
    case X86_OP_PUSHA:
    case X86_OP_POPA:
    case X86_OP_ENTER:
    case X86_OP_LEAVE: return lower_stack(insn, ctx, op);
    case X86_OP_XLAT:
    case X86_OP_CLZERO:
    case X86_OP_BOUND:
    case X86_OP_MOVDIR64B: return lower_implicit(insn, ctx, op);
    default: return lower_simple(insn, op);
    }
}
