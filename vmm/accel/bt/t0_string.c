#include "vmm/accel/bt/t0_int.h"

/*
 * String operations: MOVS STOS LODS SCAS CMPS INS OUTS, alone and with REP, REPE,
 * REPNE.
 *
 * The operands are seg:[rSI] and ES:[rDI] with rSI, rDI and rCX of the address size.
 * In struct t0_op: base, seg and ea are the source's; src2 is the destination's kind
 * of address; src is the address size in bytes; aux the kind of repetition.
 *
 * A repeated operation is a loop of steps. A step does as many elements as lie in
 * one page of plain memory at either end, with the host's own repeated instruction:
 * its semantics for operands that overlap are the guest's. Where that cannot be, it
 * does one element. After each step the registers are as the processor leaves them
 * between two elements, so that a fault, or something that wants the vCPU's
 * attention, leaves an instruction that goes on when it is executed again.
 */

enum { REP_NONE, REP_E, REP_NE };
enum string_end { STRING_DONE, STRING_FAULT, STRING_AGAIN };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint64_t get_reg(const struct t0_cpu *c, const struct t0_op *op,
                               unsigned reg)
{
    uint64_t v = c->gpr[reg];
    return op->src == 8 ? v : op->src == 4 ? (uint32_t)v : (uint16_t)v;
}

ALWAYS_INLINE void set_reg(struct t0_cpu *c, const struct t0_op *op, unsigned reg,
                           uint64_t v)
{
    switch (op->src) {
    case 8: c->gpr[reg] = v; break;
    case 4: c->gpr[reg] = (uint32_t)v; break;
    default: T0_W16(c, reg * 8, v); break;
    }
}

ALWAYS_INLINE bool is_down(const struct t0_cpu *c)
{
    return c->s.rflags & X86_FL_DF;
}

ALWAYS_INLINE void advance(struct t0_cpu *c, const struct t0_op *op, unsigned reg,
                           uint64_t bytes)
{
    uint64_t v = c->gpr[reg];
    set_reg(c, op, reg, is_down(c) ? v - bytes : v + bytes);
}

/* --- Addresses ------------------------------------------------------------- */

__attribute__((noinline)) static struct t0_val slow_ea(struct t0_cpu *c, uint8_t seg,
                                                       uint8_t kind, uint64_t off,
                                                       unsigned size, bool write)
{
    struct t0_op at = {
        .disp = (int64_t)off,
        .base = T0_REG_ZERO,
        .index = T0_REG_ZERO,
        .seg = seg,
        .ea = kind,
    };
    return t0_ea_slow(c, &at, size, write);
}

ALWAYS_INLINE struct t0_val ea(struct t0_cpu *c, uint8_t seg, uint8_t kind,
                               uint64_t off, unsigned size, bool write)
{
    switch (kind) {
    case T0_EA_FLAT64:
    case T0_EA_FLAT32: return (struct t0_val){off, 0};
    case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[seg], 0};
    default: return slow_ea(c, seg, kind, off, size, write);
    }
}

ALWAYS_INLINE struct t0_val src_ea(struct t0_cpu *c, const struct t0_op *op,
                                   unsigned size)
{
    return ea(c, op->seg, op->ea, get_reg(c, op, X86_RSI), size, false);
}

ALWAYS_INLINE struct t0_val dst_ea(struct t0_cpu *c, const struct t0_op *op,
                                   unsigned size, bool write)
{
    return ea(c, X86_ES, op->src2, get_reg(c, op, X86_RDI), size, write);
}

ALWAYS_INLINE struct t0_val load_src(struct t0_cpu *c, const struct t0_op *op,
                                     unsigned size)
{
    struct t0_val a = src_ea(c, op, size);
    return unlikely(a.fault) ? a : t0_load(c, a.v, size, op->seg);
}

ALWAYS_INLINE struct t0_val load_dst(struct t0_cpu *c, const struct t0_op *op,
                                     unsigned size)
{
    struct t0_val a = dst_ea(c, op, size, false);
    return unlikely(a.fault) ? a : t0_load(c, a.v, size, X86_ES);
}

ALWAYS_INLINE uint64_t store_dst(struct t0_cpu *c, const struct t0_op *op, uint64_t v,
                                 unsigned size)
{
    struct t0_val a = dst_ea(c, op, size, true);
    return unlikely(a.fault) ? 1 : t0_store(c, a.v, v, size, X86_ES);
}

/* --- One element ----------------------------------------------------------- */

/* Each returns non-zero, with nothing changed and c->exc set, on a fault. */

ALWAYS_INLINE uint64_t movs_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    struct t0_val v = load_src(c, op, size);
    if (unlikely(v.fault) || unlikely(store_dst(c, op, v.v, size))) {
        return 1;
    }
    advance(c, op, X86_RSI, size);
    advance(c, op, X86_RDI, size);
    return 0;
}

ALWAYS_INLINE uint64_t stos_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    if (unlikely(store_dst(c, op, c->gpr[X86_RAX], size))) {
        return 1;
    }
    advance(c, op, X86_RDI, size);
    return 0;
}

ALWAYS_INLINE uint64_t lods_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    struct t0_val v = load_src(c, op, size);
    if (unlikely(v.fault)) {
        return 1;
    }
    switch (size) {
    case 1: T0_W8(c, 0, v.v); break;
    case 2: T0_W16(c, 0, v.v); break;
    case 4: T0_W32(c, 0, v.v); break;
    default: T0_W64(c, 0, v.v); break;
    }
    advance(c, op, X86_RSI, size);
    return 0;
}

/* The flags of CMP a, b. */
ALWAYS_INLINE void compare(struct t0_cpu *c, uint64_t a, uint64_t b, unsigned size)
{
    if (size == 1) {
        uint8_t v = (uint8_t)a;
        T0_FLAGS2(c, "cmpb", v, b);
    } else if (size == 2) {
        uint16_t v = (uint16_t)a;
        T0_FLAGS2(c, "cmpw", v, b);
    } else if (size == 4) {
        uint32_t v = (uint32_t)a;
        T0_FLAGS2(c, "cmpl", v, b);
    } else {
        T0_FLAGS2(c, "cmpq", a, b);
    }
}

ALWAYS_INLINE uint64_t scas_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    struct t0_val v = load_dst(c, op, size);
    if (unlikely(v.fault)) {
        return 1;
    }
    compare(c, c->gpr[X86_RAX], v.v, size);
    advance(c, op, X86_RDI, size);
    return 0;
}

ALWAYS_INLINE uint64_t cmps_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    struct t0_val s = load_src(c, op, size);
    if (unlikely(s.fault)) {
        return 1;
    }
    struct t0_val d = load_dst(c, op, size);
    if (unlikely(d.fault)) {
        return 1;
    }
    compare(c, s.v, d.v, size);
    advance(c, op, X86_RSI, size);
    advance(c, op, X86_RDI, size);
    return 0;
}

/* Permission of the port first, then the faults of memory, then the access. */
ALWAYS_INLINE uint64_t ins_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    uint16_t port = T0_R16(c, X86_RDX * 8);
    if (t0_pio_check(c, port, size)) {
        return 1;
    }
    struct t0_val a = dst_ea(c, op, size, true);
    if (a.fault || t0_probe_write(c, a.v, size, X86_ES)) {
        return 1;
    }
    struct t0_val v = t0_pio_in(c, port, size);
    if (v.fault || t0_store(c, a.v, v.v, size, X86_ES)) {
        return 1;
    }
    advance(c, op, X86_RDI, size);
    return 0;
}

ALWAYS_INLINE uint64_t outs_one(struct t0_cpu *c, const struct t0_op *op, unsigned size)
{
    uint16_t port = T0_R16(c, X86_RDX * 8);
    if (t0_pio_check(c, port, size)) {
        return 1;
    }
    struct t0_val v = load_src(c, op, size);
    if (v.fault || t0_pio_out(c, port, (uint32_t)v.v, size)) {
        return 1;
    }
    advance(c, op, X86_RSI, size);
    return 0;
}

/* --- Many elements --------------------------------------------------------- */

/* One operand of a step: the element that is first in the order of execution is at
 * @la, the lowest byte of all @n at @low. */
struct span {
    uint64_t la, low;
};

/*
 * Shrink *n so that as many elements from @reg's on lie in one page, do not wrap
 * around the address size and are inside the segment's limit. False: not even one
 * does, or it faults.
 */
static bool span_of(struct t0_cpu *c, const struct t0_op *op, unsigned reg,
                    unsigned size, bool write, uint64_t *n, struct span *ret)
{
    bool src = reg == X86_RSI, down = is_down(c);
    uint8_t seg = src ? op->seg : X86_ES, kind = src ? op->ea : op->src2;
    uint64_t off = get_reg(c, op, reg);
    struct t0_val a = ea(c, seg, kind, off, size, write);
    unsigned in_page = a.v & 0xfff;

    if (a.fault || in_page + size > 4096) {
        return false;
    }
    uint64_t room = down ? in_page / size + 1 : (4096 - in_page) / size;
    *n = MIN(*n, room);
    if (op->src < 8) {
        room = down ? off / size + 1 : ((UINT64_C(1) << 8 * op->src) - off) / size;
        *n = MIN(*n, room);
    }
    uint64_t below = down ? (*n - 1) * size : 0;
    if (*n == 0 || below > off) {
        return false;
    }
    if (kind >= T0_EA_GENERAL &&
        slow_ea(c, seg, kind, off - below, (unsigned)*n * size, write).fault) {
        return false;
    }
    *ret = (struct span){a.v, a.v - below};
    return true;
}

#define HOST_REP(insn, down, ...)                                   \
    do {                                                            \
        if (down) {                                                 \
            __asm__ volatile("std\n\t" insn "\n\tcld" __VA_ARGS__); \
        } else {                                                    \
            __asm__ volatile(insn __VA_ARGS__);                     \
        }                                                           \
    } while (0)

/* Instruction @x of the element's size. */
#define HOST_SIZED(prefix, x, size, down, ...)                         \
    do {                                                               \
        switch (size) {                                                \
        case 1: HOST_REP(prefix " " x "b", down, __VA_ARGS__); break;  \
        case 2: HOST_REP(prefix " " x "w", down, __VA_ARGS__); break;  \
        case 4: HOST_REP(prefix " " x "l", down, __VA_ARGS__); break;  \
        default: HOST_REP(prefix " " x "q", down, __VA_ARGS__); break; \
        }                                                              \
    } while (0)

/*
 * Each does up to @count elements and returns how many, 0 when it cannot. rSI and
 * rDI are advanced.
 */
static uint64_t movs_many(struct t0_cpu *c, const struct t0_op *op, uint64_t count)
{
    unsigned size = op->size;
    uint64_t n = count;
    struct span s, d;
    if (!span_of(c, op, X86_RSI, size, false, &n, &s) ||
        !span_of(c, op, X86_RDI, size, true, &n, &d)) {
        return 0;
    }
    /* The destination may have shrunk n: the lowest address of the source again. */
    bool down = is_down(c);
    unsigned bytes = (unsigned)n * size;
    uint64_t below = down ? bytes - size : 0;
    uint8_t *from = t0_host_read(c, s.la - below, bytes);
    uint8_t *to = t0_host_write(c, d.la - below, bytes);
    if (!from || !to) {
        return 0;
    }
    from += below;
    to += below;
    uint64_t left = n;
    HOST_SIZED("rep", "movs", size, down,
               : "+S"(from), "+D"(to), "+c"(left)
               :
               : "memory", "cc");
    advance(c, op, X86_RSI, bytes);
    advance(c, op, X86_RDI, bytes);
    return n;
}

static uint64_t stos_many(struct t0_cpu *c, const struct t0_op *op, uint64_t count)
{
    unsigned size = op->size;
    uint64_t n = count;
    struct span d;
    if (!span_of(c, op, X86_RDI, size, true, &n, &d)) {
        return 0;
    }
    bool down = is_down(c);
    unsigned bytes = (unsigned)n * size;
    uint8_t *to = t0_host_write(c, d.low, bytes);
    if (!to) {
        return 0;
    }
    to += d.la - d.low;
    uint64_t left = n;
    HOST_SIZED("rep", "stos", size, down,
               : "+D"(to), "+c"(left)
               : "a"(c->gpr[X86_RAX])
               : "memory", "cc");
    advance(c, op, X86_RDI, bytes);
    return n;
}

/* The comparing ones end early and leave the flags of the last comparison. */
#define HOST_COMPARE(x, op, down, ...)                             \
    do {                                                           \
        if ((op)->aux == REP_E) {                                  \
            HOST_SIZED("repe", x, (op)->size, down, __VA_ARGS__);  \
        } else {                                                   \
            HOST_SIZED("repne", x, (op)->size, down, __VA_ARGS__); \
        }                                                          \
    } while (0)

static uint64_t scas_many(struct t0_cpu *c, const struct t0_op *op, uint64_t count)
{
    uint64_t n = count;
    struct span d;
    if (!span_of(c, op, X86_RDI, op->size, false, &n, &d)) {
        return 0;
    }
    const uint8_t *at = t0_host_read(c, d.low, (unsigned)n * op->size);
    if (!at) {
        return 0;
    }
    at += d.la - d.low;
    uint64_t left = n, ax = c->gpr[X86_RAX];
    HOST_COMPARE("scas", op, is_down(c), "\n\t" T0_SAVE_FLAGS
                 : "+D"(at), "+c"(left), "+a"(ax)
                 :
                 : "memory", "cc");
    c->flags = (uint16_t)ax;
    advance(c, op, X86_RDI, (n - left) * op->size);
    return n - left;
}

static uint64_t cmps_many(struct t0_cpu *c, const struct t0_op *op, uint64_t count)
{
    unsigned size = op->size;
    uint64_t n = count;
    struct span s, d;
    if (!span_of(c, op, X86_RSI, size, false, &n, &s) ||
        !span_of(c, op, X86_RDI, size, false, &n, &d)) {
        return 0;
    }
    bool down = is_down(c);
    unsigned bytes = (unsigned)n * size;
    uint64_t below = down ? bytes - size : 0;
    const uint8_t *a = t0_host_read(c, s.la - below, bytes);
    const uint8_t *b = t0_host_read(c, d.la - below, bytes);
    if (!a || !b) {
        return 0;
    }
    a += below;
    b += below;
    uint64_t left = n, ax;
    HOST_COMPARE("cmps", op, down, "\n\t" T0_SAVE_FLAGS
                 : "+S"(a), "+D"(b), "+c"(left), "=a"(ax)
                 :
                 : "memory", "cc");
    c->flags = (uint16_t)ax;
    advance(c, op, X86_RSI, (n - left) * size);
    advance(c, op, X86_RDI, (n - left) * size);
    return n - left;
}

static uint64_t none_many(struct t0_cpu *c, const struct t0_op *op, uint64_t count)
{
    return 0;
}

/* --- Repetition ------------------------------------------------------------ */

/* Elements done one at a time before attention is looked at. */
#define PATIENCE 64u

typedef uint64_t (*many_fn)(struct t0_cpu *c, const struct t0_op *op, uint64_t count);

/* Whether REPE or REPNE ends after the element just compared. */
ALWAYS_INLINE bool is_last(const struct t0_cpu *c, const struct t0_op *op)
{
    bool equal = c->flags & T0_FLAG_ZF;
    return op->aux == REP_E ? !equal : equal;
}

/* With the trap flag set the processor stops after each element; and so that
 * breakpoints can be found. */
ALWAYS_INLINE enum string_end repeat(struct t0_cpu *c, const struct t0_op *op,
                                     many_fn one, many_fn many, bool compares)
{
    bool single_step = (c->s.rflags & X86_FL_TF) || c->debug;
    unsigned singles = 0;

    for (uint64_t left = get_reg(c, op, X86_RCX); left > 0;) {
        uint64_t n = single_step ? 0 : many(c, op, left);
        if (n == 0) {
            if (unlikely(one(c, op, 0))) {
                return STRING_FAULT;
            }
            n = 1;
            singles++;
        }
        left -= n;
        set_reg(c, op, X86_RCX, left);
        if (left == 0 || (compares && is_last(c, op))) {
            break;
        }
        if (single_step ||
            ((n > 1 || singles % PATIENCE == 0) && vcpu_wants_attention(c->vcpu))) {
            return STRING_AGAIN;
        }
    }
    return STRING_DONE;
}

ALWAYS_INLINE const struct t0_op *finish(struct t0_cpu *c, const struct t0_op *op,
                                         enum string_end end)
{
    if (unlikely(end == STRING_FAULT)) {
        return T0_FAULT(c, op);
    }
    if (unlikely(end == STRING_AGAIN)) {
        return t0_jump(c, op, t0_op_rip(c, op));
    }
    return T0_NEXT(c, op);
}

#define STRING_ONE(N, x)                   \
    T0_HANDLER(x##_##N)                    \
    {                                      \
        if (unlikely(x##_one(c, op, N))) { \
            return T0_FAULT(c, op);        \
        }                                  \
        return T0_NEXT(c, op);             \
    }

#define STRING_REP(x, many, compares)                             \
    __attribute__((noinline)) static uint64_t x##_any(            \
        struct t0_cpu *c, const struct t0_op *op, uint64_t count) \
    {                                                             \
        return x##_one(c, op, op->size);                          \
    }                                                             \
    __attribute__((noinline)) static enum string_end x##_repeat(  \
        struct t0_cpu *c, const struct t0_op *op)                 \
    {                                                             \
        return repeat(c, op, x##_any, many, compares);            \
    }                                                             \
    T0_HANDLER(x##_rep)                                           \
    {                                                             \
        return finish(c, op, x##_repeat(c, op));                  \
    }

#define STRING_1248(x, many, compares) \
    T0_SIZES_1248(STRING_ONE, x)       \
    STRING_REP(x, many, compares)
STRING_1248(movs, movs_many, false)
STRING_1248(stos, stos_many, false)
STRING_1248(lods, none_many, false)
STRING_1248(scas, scas_many, true)
STRING_1248(cmps, cmps_many, true)
#define STRING_124(x) STRING_ONE(1, x) STRING_ONE(2, x) STRING_ONE(4, x)
STRING_124(ins)
STRING_124(outs)
STRING_REP(ins, none_many, false)
STRING_REP(outs, none_many, false)

/* The permission of the port is checked for no elements, too. */
T0_HANDLER(ins_rep_checked)
{
    return t0_pio_check(c, T0_R16(c, X86_RDX * 8), op->size) ? T0_FAULT(c, op)
                                                             : ins_rep(c, op);
}

T0_HANDLER(outs_rep_checked)
{
    return t0_pio_check(c, T0_R16(c, X86_RDX * 8), op->size) ? T0_FAULT(c, op)
                                                             : outs_rep(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

static const struct {
    uint16_t op;
    t0_fn one[4], rep;
} string_fn[] = {
    {X86_OP_MOVS, T0_FN_1248(movs), movs_rep},
    {X86_OP_STOS, T0_FN_1248(stos), stos_rep},
    {X86_OP_LODS, T0_FN_1248(lods), lods_rep},
    {X86_OP_SCAS, T0_FN_1248(scas), scas_rep},
    {X86_OP_CMPS, T0_FN_1248(cmps), cmps_rep},
    {X86_OP_INS, {ins_1, ins_2, ins_4}, ins_rep_checked},
    {X86_OP_OUTS, {outs_1, outs_2, outs_4}, outs_rep_checked},
};

bool t0_lower_string(const struct x86_insn *insn, const struct t0_lower *ctx,
                     struct t0_op *op)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(string_fn); i++) {
        if (string_fn[i].op == insn->op) {
            t0_set_ea(insn, ctx, op, X86_RSI, insn->seg);
            op->src = insn->addrsize;
            op->src2 = t0_ea_kind(insn, ctx, X86_ES);
            op->aux = insn->prefixes & X86_P_REP     ? REP_E
                      : insn->prefixes & X86_P_REPNE ? REP_NE
                                                     : REP_NONE;
            op->fn = op->aux ? string_fn[i].rep
                             : string_fn[i].one[__builtin_ctz(insn->opsize)];
            return op->fn != NULL;
        }
    }
    return false;
}
