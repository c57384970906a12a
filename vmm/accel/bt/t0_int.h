#ifndef VMM_ACCEL_BT_T0_INT_H
#define VMM_ACCEL_BT_T0_INT_H

#include "vmm/accel/bt/t0.h"

/*
 * What the files of integer handlers share: macros that expand one line per
 * operation over sizes and operand forms, and the choice of the form.
 *
 * A handler with a memory operand comes as a pair, or a triple:
 *   NAME_f  fast: a flat 64-bit address that hits the software TLB. It calls
 *           nothing but the next op, so it needs no stack frame. On a miss it
 *           becomes NAME_g with a tail call.
 *   NAME_g  general: any address kind, and the slow paths.
 *   NAME_b  as _f, for an address without an index: a fifth faster, so the
 *           frequent operations have it.
 * The body is written once. Inside it
 *   m       is the operand's value (LOAD; in RMW also the new value), or
 *   p       points to it (INPLACE: for LOCK, and for what is best done in memory).
 * All that can fault has been done before the body runs.
 */

#define T0_HANDLER(name) \
    static const struct t0_op *name(struct t0_cpu *c, const struct t0_op *op)

/* The two halves of t0_host_read(), for tests without a NULL in between. */
static inline const struct t0_tlb_entry *t0_tlb_entry(const struct t0_cpu *c,
                                                      uint64_t la)
{
    return &c->tlb[(la >> 12) & (T0_TLB_SIZE - 1)];
}

/* Base and displacement only, which is what most addresses are. */
static inline uint64_t t0_base_offset(const struct t0_cpu *c, const struct t0_op *op)
{
    return c->gpr[op->base] + (uint64_t)op->disp;
}

#define T0_LOAD_G(name, type, ...)                                  \
    __attribute__((noinline)) T0_HANDLER(name##_g)                  \
    {                                                               \
        struct t0_val a_ = t0_ea(c, op, sizeof(type), false);       \
        if (unlikely(a_.fault)) {                                   \
            return T0_FAULT(c, op);                                 \
        }                                                           \
        struct t0_val l_ = t0_load(c, a_.v, sizeof(type), op->seg); \
        if (unlikely(l_.fault)) {                                   \
            return T0_FAULT(c, op);                                 \
        }                                                           \
        type m = (type)l_.v;                                        \
        __VA_ARGS__;                                                \
        return T0_NEXT(c, op);                                      \
    }

#define T0_LOAD_FAST(name, kind, offset, type, ...)                     \
    T0_HANDLER(name##kind)                                              \
    {                                                                   \
        uint64_t la_ = offset(c, op);                                   \
        const struct t0_tlb_entry *e_ = t0_tlb_entry(c, la_);           \
        if (unlikely(!t0_tlb_hit(la_, sizeof(type), e_->read))) {       \
            return name##_g(c, op);                                     \
        }                                                               \
        type m = *(const volatile type *)(uintptr_t)(la_ + e_->addend); \
        __VA_ARGS__;                                                    \
        return T0_NEXT(c, op);                                          \
    }

#define T0_LOAD_PAIR(name, type, ...)  \
    T0_LOAD_G(name, type, __VA_ARGS__) \
    T0_LOAD_FAST(name, _f, t0_offset, type, __VA_ARGS__)

#define T0_LOAD_TRIPLE(name, type, ...)   \
    T0_LOAD_PAIR(name, type, __VA_ARGS__) \
    T0_LOAD_FAST(name, _b, t0_base_offset, type, __VA_ARGS__)

/* @value may use c and op. */
#define T0_STORE_G(name, type, value)                                            \
    __attribute__((noinline)) T0_HANDLER(name##_g)                               \
    {                                                                            \
        struct t0_val a_ = t0_ea(c, op, sizeof(type), true);                     \
        if (unlikely(a_.fault)) {                                                \
            return T0_FAULT(c, op);                                              \
        }                                                                        \
        if (unlikely(t0_store(c, a_.v, (type)(value), sizeof(type), op->seg))) { \
            return T0_FAULT(c, op);                                              \
        }                                                                        \
        return T0_NEXT(c, op);                                                   \
    }

#define T0_STORE_FAST(name, kind, offset, type, value)                   \
    T0_HANDLER(name##kind)                                               \
    {                                                                    \
        uint64_t la_ = offset(c, op);                                    \
        const struct t0_tlb_entry *e_ = t0_tlb_entry(c, la_);            \
        if (unlikely(!t0_tlb_hit(la_, sizeof(type), e_->write))) {       \
            return name##_g(c, op);                                      \
        }                                                                \
        *(volatile type *)(uintptr_t)(la_ + e_->addend) = (type)(value); \
        return T0_NEXT(c, op);                                           \
    }

#define T0_STORE_PAIR(name, type, value) \
    T0_STORE_G(name, type, value)        \
    T0_STORE_FAST(name, _f, t0_offset, type, value)

#define T0_STORE_TRIPLE(name, type, value) \
    T0_STORE_PAIR(name, type, value)       \
    T0_STORE_FAST(name, _b, t0_base_offset, type, value)

/* The general one alone, at the address that @ea (a struct t0_val) gives. */
#define T0_INPLACE_AT(name, type, ea, ...)                               \
    __attribute__((noinline)) T0_HANDLER(name)                           \
    {                                                                    \
        struct t0_val a_ = ea;                                           \
        if (unlikely(a_.fault)) {                                        \
            return T0_FAULT(c, op);                                      \
        }                                                                \
        struct t0_val b_ = t0_rmw_begin(c, a_.v, sizeof(type), op->seg); \
        if (unlikely(b_.fault)) {                                        \
            return T0_FAULT(c, op);                                      \
        }                                                                \
        volatile type *p = (volatile type *)(uintptr_t)b_.v;             \
        __VA_ARGS__;                                                     \
        t0_rmw_end(c, b_.v);                                             \
        return T0_NEXT(c, op);                                           \
    }

#define T0_INPLACE_FAST(name, kind, offset, type, ...)                     \
    T0_HANDLER(name##kind)                                                 \
    {                                                                      \
        uint64_t la_ = offset(c, op);                                      \
        const struct t0_tlb_entry *e_ = t0_tlb_entry(c, la_);              \
        if (unlikely(!t0_tlb_hit(la_, sizeof(type), e_->write))) {         \
            return name##_g(c, op);                                        \
        }                                                                  \
        volatile type *p = (volatile type *)(uintptr_t)(la_ + e_->addend); \
        __VA_ARGS__;                                                       \
        return T0_NEXT(c, op);                                             \
    }

#define T0_INPLACE_PAIR(name, type, ...)                                         \
    T0_INPLACE_AT(name##_g, type, t0_ea(c, op, sizeof(type), true), __VA_ARGS__) \
    T0_INPLACE_FAST(name, _f, t0_offset, type, __VA_ARGS__)

#define T0_RMW_PAIR(name, type, ...) \
    T0_INPLACE_PAIR(name, type, type m = *p; __VA_ARGS__; *p = m)

#define T0_RMW_TRIPLE(name, type, ...)   \
    T0_RMW_PAIR(name, type, __VA_ARGS__) \
    T0_INPLACE_FAST(name, _b, t0_base_offset, type, type m = *p; __VA_ARGS__; *p = m)

/* --- Implicit and displaced operands --------------------------------------- */

/* The kind of an address of @insn's address size in segment @seg. */
static inline uint8_t t0_ea_kind(const struct x86_insn *insn,
                                 const struct t0_lower *ctx, unsigned seg)
{
    if ((ctx->mode & T0_MODE_SIZE) == T0_MODE_64 && insn->addrsize == 8) {
        return seg >= X86_FS ? T0_EA_SEG64 : T0_EA_FLAT64;
    }
    if (insn->addrsize == 4) {
        return (ctx->mode & T0_MODE_FLAT) && seg < X86_FS && seg != X86_CS
                   ? T0_EA_FLAT32
                   : T0_EA_GENERAL32;
    }
    return T0_EA_GENERAL;
}

/* Make @seg:[@base], with @insn's address size, op's memory operand. */
static inline void t0_set_ea(const struct x86_insn *insn, const struct t0_lower *ctx,
                             struct t0_op *op, unsigned base, unsigned seg)
{
    op->base = (uint8_t)base;
    op->index = T0_REG_ZERO;
    op->shift = 0;
    op->disp = 0;
    op->seg = (uint8_t)seg;
    op->ea = t0_ea_kind(insn, ctx, seg);
}

/* As t0_ea(), @delta bytes further: it counts before the address is truncated. */
static __attribute__((noinline, unused)) struct t0_val t0_ea_at(
    struct t0_cpu *c, const struct t0_op *op, int64_t delta, unsigned size, bool write)
{
    struct t0_op moved = *op;
    moved.disp = (int64_t)((uint64_t)moved.disp + (uint64_t)delta);
    return t0_ea(c, &moved, size, write);
}

static __attribute__((noinline, unused)) struct t0_val t0_load_at(
    struct t0_cpu *c, const struct t0_op *op, int64_t delta, unsigned size)
{
    struct t0_val a = t0_ea_at(c, op, delta, size, false);
    return a.fault ? a : t0_load(c, a.v, size, op->seg);
}

/* --- Sizes ----------------------------------------------------------------- */

#define T0_U_1 uint8_t
#define T0_U_2 uint16_t
#define T0_U_4 uint32_t
#define T0_U_8 uint64_t
#define T0_S_1 int8_t
#define T0_S_2 int16_t
#define T0_S_4 int32_t
#define T0_S_8 int64_t

#define T0_RD_1(c, r) T0_R8(c, r)
#define T0_RD_2(c, r) T0_R16(c, r)
#define T0_RD_4(c, r) T0_R32(c, r)
#define T0_RD_8(c, r) T0_R64(c, r)

#define T0_WR_1(c, r, v) T0_W8(c, r, v)
#define T0_WR_2(c, r, v) T0_W16(c, r, v)
#define T0_WR_4(c, r, v) T0_W32(c, r, v)
#define T0_WR_8(c, r, v) T0_W64(c, r, v)

/* Suffix of an AT&T mnemonic, and the modifier that names a register's part. */
#define T0_SFX_1  "b"
#define T0_SFX_2  "w"
#define T0_SFX_4  "l"
#define T0_SFX_8  "q"
#define T0_PART_1 "b"
#define T0_PART_2 "w"
#define T0_PART_4 "k"
#define T0_PART_8 "q"

/* Count mask of shifts, and width in bits. */
#define T0_MASK_1 31u
#define T0_MASK_2 31u
#define T0_MASK_4 31u
#define T0_MASK_8 63u

/* clang-format off */
#define T0_SIZES_1248(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(4, __VA_ARGS__) X(8, __VA_ARGS__)
#define T0_SIZES_248(X, ...) X(2, __VA_ARGS__) X(4, __VA_ARGS__) X(8, __VA_ARGS__)
#define T0_SIZES_48(X, ...) X(4, __VA_ARGS__) X(8, __VA_ARGS__)
/* clang-format on */

/* --- Tables ---------------------------------------------------------------- */

/* Kinds of the first two operands. Each with memory is three: base and displacement
 * only, any flat 64-bit address (F), general (G). */
enum t0_form {
    T0_F_R,
    T0_F_RR,
    T0_F_RI,
    T0_F_RM,
    T0_F_RM_F,
    T0_F_RM_G,
    T0_F_M,
    T0_F_M_F,
    T0_F_M_G,
    T0_F_MR,
    T0_F_MR_F,
    T0_F_MR_G,
    T0_F_MI,
    T0_F_MI_F,
    T0_F_MI_G,
    T0_F_LM, /* locked */
    T0_F_LM_F,
    T0_F_LM_G,
    T0_F_LMR,
    T0_F_LMR_F,
    T0_F_LMR_G,
    T0_F_LMI,
    T0_F_LMI_F,
    T0_F_LMI_G,
    T0_NB_FORMS,
};

/* Handlers of one operation, by form and log2 of the size; NULL: no such form. */
struct t0_forms {
    t0_fn fn[T0_NB_FORMS][4];
};

#define T0_FN_1248(n)              \
    {                              \
        n##_1, n##_2, n##_4, n##_8 \
    }
#define T0_FN_248(n)              \
    {                             \
        NULL, n##_2, n##_4, n##_8 \
    }
#define T0_FN_48(n)              \
    {                            \
        NULL, NULL, n##_4, n##_8 \
    }
/* The three forms from @form on, from a triple and from a pair of handlers. */
#define T0_FN_1248_K(n, k)                     \
    {                                          \
        n##_1##k, n##_2##k, n##_4##k, n##_8##k \
    }
#define T0_FN_248_K(n, k)                  \
    {                                      \
        NULL, n##_2##k, n##_4##k, n##_8##k \
    }
#define T0_FN_48_K(n, k)               \
    {                                  \
        NULL, NULL, n##_4##k, n##_8##k \
    }
#define T0_FN_TRIPLE(form, sizes, n)                                          \
    [form] = T0_FN_##sizes##_K(n, _b), [form + 1] = T0_FN_##sizes##_K(n, _f), \
    [form + 2] = T0_FN_##sizes##_K(n, _g)
#define T0_FN_PAIR(form, sizes, n)                                            \
    [form] = T0_FN_##sizes##_K(n, _f), [form + 1] = T0_FN_##sizes##_K(n, _f), \
    [form + 2] = T0_FN_##sizes##_K(n, _g)

/* No handler of its own for any of the three. */
#define T0_FN_SAME(form, sizes, n)                            \
    [form] = T0_FN_##sizes(n), [form + 1] = T0_FN_##sizes(n), \
    [form + 2] = T0_FN_##sizes(n)

/* Whether the sum of @op's address parts is its linear address, or hits no TLB entry.
 */
static inline bool t0_ea_is_sum(const struct t0_op *op)
{
    return op->ea == T0_EA_FLAT64 || op->ea == T0_EA_LEGACY32;
}

/* Which of the three forms @op's memory operand is. */
static inline unsigned t0_ea_form(const struct t0_op *op)
{
    return !t0_ea_is_sum(op) ? 2 : op->index != T0_REG_ZERO ? 1 : 0;
}

/* Put general registers into dst (operand 0) and src (operand 1), whatever of them
 * are registers. Returns the form, or T0_NB_FORMS when an operand is of another
 * kind. */
static inline enum t0_form t0_form(const struct x86_insn *insn, struct t0_op *op)
{
    const struct x86_opnd *d = &insn->opnd[0], *s = &insn->opnd[1];
    unsigned ea = t0_ea_form(op);
    bool lock = insn->prefixes & X86_P_LOCK;
    unsigned nb = insn->nb_opnds;

    if (nb >= 2 && s->kind == X86_OPND_REG) {
        op->src = t0_reg(s->reg);
    }
    if (nb >= 1 && d->kind == X86_OPND_REG) {
        op->dst = t0_reg(d->reg);
        if (nb == 1) {
            return T0_F_R;
        }
        return s->kind == X86_OPND_REG   ? T0_F_RR
               : s->kind == X86_OPND_IMM ? T0_F_RI
               : s->kind == X86_OPND_MEM ? T0_F_RM + ea
                                         : T0_NB_FORMS;
    }
    if (nb >= 1 && d->kind == X86_OPND_MEM) {
        unsigned base = nb == 1                   ? T0_F_M
                        : s->kind == X86_OPND_REG ? T0_F_MR
                        : s->kind == X86_OPND_IMM ? T0_F_MI
                                                  : T0_NB_FORMS;
        if (base == T0_NB_FORMS) {
            return T0_NB_FORMS;
        }
        return base + ea + (lock ? T0_F_LM - T0_F_M : 0);
    }
    return T0_NB_FORMS;
}

/* Choose from @t by @insn's form and @size; false when it has none. */
static inline bool t0_pick(const struct t0_forms *t, const struct x86_insn *insn,
                           struct t0_op *op, unsigned size)
{
    enum t0_form form = t0_form(insn, op);
    if (form == T0_NB_FORMS || size == 0 || size > 8) {
        return false;
    }
    op->fn = t->fn[form][__builtin_ctz(size)];
    return op->fn != NULL;
}

/* --- Flags ----------------------------------------------------------------- */

/*
 * One host instruction with the guest's flags loaded before and kept after:
 * "insn, with %[d] in and out as a 64-bit variable and %[s] in". For instructions
 * that leave some flags alone or leave a destination's upper half alone; the
 * operands' modifiers choose the width, so that what the host does to the rest of
 * the register happens to the guest's.
 */
#define T0_HOST2(c, text, d64, s64)                     \
    do {                                                \
        uint64_t fl_ = (c)->flags;                      \
        __asm__(T0_LOAD_FLAGS text "\n\t" T0_SAVE_FLAGS \
                : "+&a"(fl_), [d] "+&q"(d64)            \
                : [s] "q"((uint64_t)(s64))              \
                : "cc");                                \
        (c)->flags = (uint16_t)fl_;                     \
    } while (0)

/* "%k[s], %k[d]" for size 4. */
#define T0_SD(N) " %" T0_PART_##N "[s], %" T0_PART_##N "[d]"

#endif
