#include "vmm/accel/bt/t0_priv.h"

/*
 * Near branches, and how one block leads to the next.
 *
 * A direct branch has a struct t0_chain after it for each way it can go (taken first,
 * then not taken). While its target is unknown the branch goes back to the run loop
 * and names the chain, which the loop fills with the block it then enters.
 *   inside the page   the target's physical page is the branch's own: the chain is
 *                     followed without a look
 *   over a page       (far below) the instruction TLB must still map the target's
 *                     page to the one that the chained block was decoded from
 * An indirect branch goes through the jump cache, t0_jump_to().
 *
 * Attention is looked at on taken branches and in the jump cache: every loop has one.
 *
 * Direct handlers are for flat code with the mode's own operand size; everything else
 * (16-bit code, an operand-size prefix, segments with a base or limit) computes RIP
 * and goes through the jump cache, in which only flat code has entries.
 *
 * aux2 of a branch, which is always the last op, is the number of instructions up to
 * and with it. imm of a direct one is its target as an offset from rip_base.
 */

/* Enter the block at RIP @rip if it is at hand. The retired count is up to date. */
static inline const struct t0_op *t0_jump_to(struct t0_cpu *c, uint64_t rip)
{
    struct t0_jump_entry *j = t0_jump_slot(c, rip);
    if (unlikely(j->key != (rip ^ c->mode_key) || c->stay_out ||
                 vcpu_wants_attention(c->vcpu))) {
        c->s.rip = rip;
        return NULL;
    }
    struct t0_block *b = j->block;
    c->rip_base = rip;
    c->block = b;
    return T0_GO(c, b->ops);
}

const struct t0_op *t0_jump(struct t0_cpu *c, const struct t0_op *op, uint64_t rip)
{
    c->insns += t0_nb_done(c, op);
    return t0_jump_to(c, rip);
}

/* --- Direct ---------------------------------------------------------------- */

__attribute__((noinline)) static const struct t0_op *go_slow(struct t0_cpu *c,
                                                             struct t0_chain *chain,
                                                             uint64_t rip)
{
    c->s.rip = rip;
    c->core->chain_wanted = chain;
    return NULL;
}

/* Follow @chain to rip_base + @delta. @far and @poll are constants. */
static inline const struct t0_op *go(struct t0_cpu *c, const struct t0_op *op,
                                     struct t0_chain *chain, int64_t delta, bool far,
                                     bool poll)
{
    uint64_t rip = c->rip_base + (uint64_t)delta;
    struct t0_block *to = chain->to;
    c->insns += op->aux2;
    if (far && !t0_is64(c)) {
        rip = (uint32_t)rip;
    }
    if (unlikely(!to || (poll && vcpu_wants_attention(c->vcpu)))) {
        return go_slow(c, chain, rip);
    }
    if (far) {
        struct t0_itlb_entry *e = t0_itlb_slot(c, rip);
        if (unlikely(e->tag != t0_itlb_tag(c, rip) || (e->gpa ^ to->gpa) >> 12)) {
            c->s.rip = rip;
            return NULL;
        }
    }
    c->rip_base = rip;
    c->block = to;
    return T0_GO(c, to->ops);
}

#define HANDLER(name) \
    static const struct t0_op *name(struct t0_cpu *c, const struct t0_op *op)

HANDLER(end_near)
{
    return go(c, op, t0_chain_of(op), op->imm, false, false);
}

HANDLER(end_far)
{
    return go(c, op, t0_chain_of(op), op->imm, true, false);
}

/* A block that ended for its length in code that is not flat, or was stepped over. */
HANDLER(end_slow)
{
    c->insns += op->aux2;
    return t0_jump_to(c, c->rip_base + (uint64_t)op->imm);
}

HANDLER(jmp_near)
{
    return go(c, op, t0_chain_of(op), op->imm, false, true);
}

HANDLER(jmp_far)
{
    return go(c, op, t0_chain_of(op), op->imm, true, true);
}

#define JCC(cc)                                                        \
    HANDLER(jcc_near_##cc)                                             \
    {                                                                  \
        if (t0_cond(c, cc)) {                                          \
            return go(c, op, t0_chain_of(op), op->imm, false, true);   \
        }                                                              \
        return go(c, op, t0_chain_of(op) + 1, op->next, false, false); \
    }                                                                  \
    HANDLER(jcc_far_##cc)                                              \
    {                                                                  \
        if (t0_cond(c, cc)) {                                          \
            return go(c, op, t0_chain_of(op), op->imm, true, true);    \
        }                                                              \
        return go(c, op, t0_chain_of(op) + 1, op->next, true, false);  \
    }

#define ALL_CC(X) \
    X(0)          \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

ALL_CC(JCC)

#define NEAR_FN(cc) jcc_near_##cc,
#define FAR_FN(cc)  jcc_far_##cc,
static const t0_fn jcc_near[16] = {ALL_CC(NEAR_FN)};
static const t0_fn jcc_far[16] = {ALL_CC(FAR_FN)};

/* CALL in 64-bit code. */
static inline const struct t0_op *call64(struct t0_cpu *c, const struct t0_op *op,
                                         bool far)
{
    uint64_t sp = c->gpr[X86_RSP] - 8;
    if (unlikely(t0_store(c, sp, c->rip_base + op->next, 8, X86_SS))) {
        return T0_FAULT(c, op);
    }
    c->gpr[X86_RSP] = sp;
    return go(c, op, t0_chain_of(op), op->imm, far, true);
}

HANDLER(call64_near)
{
    return call64(c, op, false);
}

HANDLER(call64_far)
{
    return call64(c, op, true);
}

HANDLER(call32)
{
    if (unlikely(t0_push(c, (uint32_t)(c->rip_base + op->next), 4))) {
        return T0_FAULT(c, op);
    }
    return go(c, op, t0_chain_of(op), op->imm, true, true);
}

/* --- Indirect and general -------------------------------------------------- */

static uint64_t cut(uint64_t rip, unsigned size)
{
    return size == 8 ? rip : size == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* Whether RIP may become @rip: canonical, or inside the limit (APM 2 4.12). */
static bool reachable(const struct t0_cpu *c, uint64_t rip)
{
    return t0_is64(c) ? t0_canonical(c, rip) : rip <= c->s.seg[X86_CS].limit;
}

static const struct t0_op *jump_checked(struct t0_cpu *c, const struct t0_op *op,
                                        uint64_t rip)
{
    if (unlikely(!reachable(c, rip))) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    c->insns += op->aux2;
    return t0_jump_to(c, rip);
}

static uint64_t relative(const struct t0_cpu *c, const struct t0_op *op)
{
    return cut(c->rip_base + (uint64_t)op->imm, op->size);
}

HANDLER(jmp_slow)
{
    return jump_checked(c, op, relative(c, op));
}

/* aux: condition */
HANDLER(jcc_slow)
{
    if (t0_cond(c, op->aux)) {
        return jump_checked(c, op, relative(c, op));
    }
    return jump_checked(c, op, t0_next_rip(c, op));
}

static const struct t0_op *call_to(struct t0_cpu *c, const struct t0_op *op,
                                   uint64_t rip)
{
    if (unlikely(!reachable(c, rip))) {
        uint64_t sp = c->gpr[X86_RSP] - op->size; /* its fault comes first */
        if (t0_is64(c) && t0_probe_write(c, sp, op->size, X86_SS)) {
            return T0_FAULT(c, op);
        }
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    if (unlikely(t0_push(c, t0_next_rip(c, op), op->size))) {
        return T0_FAULT(c, op);
    }
    c->insns += op->aux2;
    return t0_jump_to(c, rip);
}

HANDLER(call_slow)
{
    return call_to(c, op, relative(c, op));
}

HANDLER(jmp_reg)
{
    return jump_checked(c, op, cut(T0_R64(c, op->src), op->size));
}

HANDLER(call_reg)
{
    return call_to(c, op, cut(T0_R64(c, op->src), op->size));
}

static struct t0_val load_operand(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_val a = t0_ea(c, op, op->size, false);
    return unlikely(a.fault) ? a : t0_load(c, a.v, op->size, op->seg);
}

HANDLER(jmp_mem)
{
    struct t0_val v = load_operand(c, op);
    return unlikely(v.fault) ? T0_FAULT(c, op) : jump_checked(c, op, v.v);
}

HANDLER(call_mem)
{
    struct t0_val v = load_operand(c, op);
    return unlikely(v.fault) ? T0_FAULT(c, op) : call_to(c, op, v.v);
}

HANDLER(ret64)
{
    struct t0_val v = t0_load(c, c->gpr[X86_RSP], 8, X86_SS);
    if (unlikely(v.fault)) {
        return T0_FAULT(c, op);
    }
    if (unlikely(!t0_canonical(c, v.v))) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    c->gpr[X86_RSP] += 8 + (uint64_t)op->imm;
    c->insns += op->aux2;
    return t0_jump_to(c, v.v);
}

HANDLER(ret_slow)
{
    struct t0_val v = t0_pop_peek(c, op->size);
    if (unlikely(v.fault)) {
        return T0_FAULT(c, op);
    }
    if (unlikely(!reachable(c, v.v))) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    t0_sp_add(c, op->size + op->imm);
    c->insns += op->aux2;
    return t0_jump_to(c, v.v);
}

/* LOOPcc and JCXZ; aux: enum, dst: log2 of the counter's size. */
enum { LOOP_CXZ, LOOP_PLAIN, LOOP_E, LOOP_NE };

HANDLER(loop)
{
    uint64_t rcx = c->gpr[X86_RCX] - (op->aux != LOOP_CXZ);
    bool zero = cut(rcx, op->dst) == 0;
    bool zf = c->flags & T0_FLAG_ZF;
    bool taken = op->aux == LOOP_CXZ     ? zero
                 : op->aux == LOOP_PLAIN ? !zero
                 : op->aux == LOOP_E     ? !zero && zf
                                         : !zero && !zf;
    uint64_t rip = taken ? relative(c, op) : t0_next_rip(c, op);
    if (unlikely(!reachable(c, rip))) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    if (op->aux == LOOP_CXZ) {
        /* only looks */
    } else if (op->dst == 8) {
        c->gpr[X86_RCX] = rcx;
    } else if (op->dst == 4) {
        T0_W32(c, X86_RCX * 8, rcx);
    } else {
        T0_W16(c, X86_RCX * 8, rcx);
    }
    c->insns += op->aux2;
    return t0_jump_to(c, rip);
}

/* --- Lowering -------------------------------------------------------------- */

static bool in_page(unsigned page_off, int64_t delta)
{
    return (uint64_t)((int64_t)page_off + delta) < GMEM_PAGE_SIZE;
}

void t0_lower_end(struct t0_cpu *c, const struct t0_block *b, struct t0_op *end)
{
    end->imm = end->start;
    end->fn = !(b->mode & T0_MODE_FLAT)             ? end_slow
              : in_page(b->gpa & 0xfff, end->start) ? end_near
                                                    : end_far;
}

static unsigned mode_size(unsigned mode)
{
    return 2u << (mode & T0_MODE_SIZE);
}

static void lower_direct(const struct x86_insn *insn, const struct t0_lower *ctx,
                         struct t0_op *op)
{
    /* Translations hold targets as offsets of 32 bits from the page, and leave others
     * to these handlers, which then must not go on to the next block by themselves. */
    int64_t off = (int64_t)ctx->page_off + op->imm;
    bool fast = (ctx->mode & T0_MODE_FLAT) && op->size == mode_size(ctx->mode) &&
                op->size >= 4 && off == (int32_t)off;
    bool near = in_page(ctx->page_off, op->imm) && in_page(ctx->page_off, op->next);
    op->aux = insn->cc;
    switch (insn->op) {
    case X86_OP_JMP: op->fn = !fast ? jmp_slow : near ? jmp_near : jmp_far; break;
    case X86_OP_JCC:
        op->fn = !fast ? jcc_slow : near ? jcc_near[insn->cc] : jcc_far[insn->cc];
        break;
    default:
        op->fn = !fast           ? call_slow
                 : op->size == 4 ? call32
                 : near          ? call64_near
                                 : call64_far;
    }
}

bool t0_lower_branch(const struct x86_insn *insn, const struct t0_lower *ctx,
                     struct t0_op *op)
{
    const struct x86_opnd *o = &insn->opnd[0];
    bool call = insn->op == X86_OP_CALL;
    switch (insn->op) {
    case X86_OP_JCC:
    case X86_OP_JMP:
    case X86_OP_CALL:
        if (o->kind == X86_OPND_REL) {
            op->imm = insn->imm + op->next;
            lower_direct(insn, ctx, op);
        } else if (o->kind == X86_OPND_REG) {
            op->src = t0_reg(o->reg);
            op->fn = call ? call_reg : jmp_reg;
        } else {
            op->fn = call ? call_mem : jmp_mem;
        }
        return true;
    case X86_OP_RET:
        op->imm = insn->nb_opnds ? insn->imm & 0xffff : 0;
        op->fn = op->size == 8 && mode_size(ctx->mode) == 8 ? ret64 : ret_slow;
        return true;
    case X86_OP_JCXZ:
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
        op->imm = insn->imm + op->next;
        op->dst = insn->addrsize;
        op->aux = insn->op == X86_OP_JCXZ    ? LOOP_CXZ
                  : insn->op == X86_OP_LOOP  ? LOOP_PLAIN
                  : insn->op == X86_OP_LOOPE ? LOOP_E
                                             : LOOP_NE;
        op->fn = loop;
        return true;
    default: return false;
    }
}
