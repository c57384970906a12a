#include "vmm/accel/bt/t0_task.h"

#include "lib/base/bytes.h"

/*
 * Far transfers: JMP, CALL and RETF to another code segment, through call gates and to
 * other tasks. APM 2 4.11 and 4.8.3; the instructions' own pages in APM 3.
 */

static bool protected_mode(const struct t0_cpu *c)
{
    return c->mode & T0_MODE_PE;
}

/* --- Far transfers --------------------------------------------------------- */

static uint64_t check_target(struct t0_cpu *c, const struct x86_segment *cs,
                             uint64_t rip)
{
    bool to64 = t0_long_mode(c) && (cs->attr & X86_SEG_L);
    if (to64 ? !t0_canonical(c, rip) : rip > cs->limit) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    return 0;
}

static uint64_t far_real(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                         uint64_t off, bool call)
{
    if (off > c->s.seg[X86_CS].limit) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    if (call) {
        uint64_t sp = c->gpr[X86_RSP];
        if (t0_push(c, c->s.seg[X86_CS].sel, op->size)) {
            return 1;
        }
        if (t0_push(c, t0_next_rip(c, op), op->size)) {
            c->gpr[X86_RSP] = sp;
            return 1;
        }
    }
    c->s.seg[X86_CS].sel = sel;
    c->s.seg[X86_CS].base = (uint64_t)sel << 4;
    c->s.rip = off;
    return 0;
}

static uint64_t far_code(struct t0_cpu *c, const struct t0_op *op, struct t0_desc *d,
                         struct x86_segment *cs, uint64_t off, bool call)
{
    unsigned dpl = dpl_of(cs), rpl = cs->sel & 3;
    bool conforming = cs->attr & X86_SEG_DOWN;
    uint16_t both = X86_SEG_L | X86_SEG_DB;
    if ((conforming ? dpl > c->s.cpl : rpl > c->s.cpl || dpl != c->s.cpl) ||
        (t0_long_mode(c) && (cs->attr & both) == both)) {
        return raise_sel(c, X86_EXC_GP, cs->sel);
    }
    if (!(cs->attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, cs->sel);
    }
    if (check_target(c, cs, off) || t0_desc_accessed(c, d)) {
        return 1;
    }
    if (call) {
        uint64_t sp = c->gpr[X86_RSP];
        if (t0_push(c, c->s.seg[X86_CS].sel, op->size)) {
            return 1;
        }
        if (t0_push(c, t0_next_rip(c, op), op->size)) {
            c->gpr[X86_RSP] = sp;
            return 1;
        }
    }
    cs->attr |= X86_SEG_ACCESSED;
    cs->sel = (uint16_t)((cs->sel & 0xfffc) | c->s.cpl);
    c->s.seg[X86_CS] = *cs;
    c->s.rip = off;
    return 0;
}

/* What a call gate says. */
struct call_gate {
    uint16_t sel;
    uint64_t off;
    unsigned params, size; /* words, bytes per word */
};

/* CALL through a gate to an inner level: new stack, parameters, return address. */
static uint64_t gate_inner(struct t0_cpu *c, const struct t0_op *op,
                           const struct call_gate *g, unsigned cpl)
{
    bool lm = t0_long_mode(c);
    uint8_t frame[32 * 4 + 32];
    uint16_t sel;
    uint64_t sp, old_sp = c->gpr[X86_RSP];
    struct x86_segment ss = {.sel = (uint16_t)cpl,
                             .attr = (uint16_t)(cpl << X86_SEG_DPL_SHIFT)};
    uint64_t words[4] = {t0_next_rip(c, op), c->s.seg[X86_CS].sel, old_sp,
                         c->s.seg[X86_SS].sel};
    unsigned n = 0, size = g->size;
    if (!t0_inner_stack(c, cpl, 0, &sel, &sp) ||
        (!lm && !t0_inner_ss(c, sel, cpl, 0, &ss))) {
        return 1;
    }
    for (unsigned i = 0; i < 2; i++, n += size) {
        memcpy(frame + n, &words[i], size);
    }
    for (unsigned i = 0; !lm && i < g->params; i++, n += size) {
        c->gpr[X86_RSP] = old_sp + i * size;
        struct t0_val v = t0_pop_peek(c, size);
        c->gpr[X86_RSP] = old_sp;
        if (v.fault) {
            return 1;
        }
        memcpy(frame + n, &v.v, size);
    }
    for (unsigned i = 2; i < 4; i++, n += size) {
        memcpy(frame + n, &words[i], size);
    }
    if (lm) {
        sp -= n;
        if (!t0_canonical(c, sp) || !t0_canonical(c, sp + n - 1)) {
            t0_set_exc_error(c, X86_EXC_SS, 0);
            return 1;
        }
        if (t0_sys_write(c, sp, frame, n)) {
            return 1;
        }
    } else if (!t0_push_frame(c, &ss, &sp, cpl, sel & 0xfffcu, frame, n, size)) {
        return 1;
    }
    c->s.seg[X86_SS] = ss;
    c->gpr[X86_RSP] = sp;
    return 0;
}

static uint64_t read_gate(struct t0_cpu *c, const struct t0_desc *d, unsigned type,
                          struct call_gate *g)
{
    g->sel = (uint16_t)(d->raw >> 16);
    g->off = (d->raw & 0xffff) | (d->raw >> 32 & 0xffff0000);
    g->params = d->raw >> 32 & 31;
    g->size = type == X86_SYS_CALL16 ? 2 : 4;
    if (g->size == 2) {
        g->off &= 0xffff;
    }
    if (t0_long_mode(c)) {
        uint64_t upper;
        if (t0_desc_upper(c, d, &upper)) {
            return 1;
        }
        g->off |= upper << 32;
        g->size = 8;
    }
    return 0;
}

/* APM 2 4.11.2, and 4.8.3 for long mode. */
static uint64_t far_gate(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                         const struct t0_desc *d, const struct x86_segment *s,
                         bool call)
{
    struct call_gate g;
    struct t0_desc cd;
    unsigned type = s->attr & X86_SEG_TYPE, rpl = sel & 3;
    bool known = type == X86_SYS_CALL || (!t0_long_mode(c) && type == X86_SYS_CALL16);
    if (!known || dpl_of(s) < c->s.cpl || dpl_of(s) < rpl) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    if (!(s->attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, sel);
    }
    if (read_gate(c, d, type, &g)) {
        return 1;
    }
    if (is_null(g.sel)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    int r = t0_desc_get(c, g.sel, &cd);
    if (r == T0_DESC_FAULT) {
        return 1;
    }
    struct x86_segment cs = t0_desc_segment(g.sel, cd.raw);
    uint16_t sc = X86_SEG_S | X86_SEG_CODE;
    bool conforming = cs.attr & X86_SEG_DOWN;
    bool bits_ok =
        !t0_long_mode(c) || (cs.attr & (X86_SEG_L | X86_SEG_DB)) == X86_SEG_L;
    unsigned dpl = dpl_of(&cs);
    if (r == T0_DESC_LIMIT || (cs.attr & sc) != sc || dpl > c->s.cpl || !bits_ok ||
        (!call && !conforming && dpl != c->s.cpl)) {
        return raise_sel(c, X86_EXC_GP, g.sel);
    }
    if (!(cs.attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, g.sel);
    }
    if (check_target(c, &cs, g.off) || t0_desc_accessed(c, &cd)) {
        return 1;
    }
    unsigned cpl = conforming ? c->s.cpl : dpl;
    uint64_t sp = c->gpr[X86_RSP];
    if (call && cpl < c->s.cpl) {
        if (gate_inner(c, op, &g, cpl)) {
            return 1;
        }
    } else if (call && (t0_push(c, c->s.seg[X86_CS].sel, g.size) ||
                        t0_push(c, t0_next_rip(c, op), g.size))) {
        c->gpr[X86_RSP] = sp;
        return 1;
    }
    cs.attr |= X86_SEG_ACCESSED;
    cs.sel = (uint16_t)((g.sel & 0xfffc) | cpl);
    c->s.seg[X86_CS] = cs;
    c->s.cpl = (uint8_t)cpl;
    c->s.rip = g.off;
    return 0;
}

static uint64_t far_task(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                         bool call)
{
    struct t0_task_from from = {.how = call ? T0_TASK_CALL : T0_TASK_JMP,
                                .rip = (uint32_t)t0_next_rip(c, op),
                                .rflags = t0_get_rflags(c)};
    return !t0_task_switch(c, sel, &from) || !t0_task_trap(c);
}

/* Where a system descriptor leads: a gate, or another task. */
static uint64_t far_system(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                           const struct t0_desc *d, const struct x86_segment *s,
                           bool call)
{
    unsigned rpl = sel & 3;
    if (t0_long_mode(c)) {
        return far_gate(c, op, sel, d, s, call);
    }
    switch (s->attr & X86_SEG_TYPE) {
    case X86_SYS_TSS:
    case X86_SYS_TSS16:
        if (dpl_of(s) < c->s.cpl || dpl_of(s) < rpl) {
            return raise_sel(c, X86_EXC_GP, sel);
        }
        return far_task(c, op, sel, call);
    case X86_SYS_TASK:
        if (dpl_of(s) < c->s.cpl || dpl_of(s) < rpl) {
            return raise_sel(c, X86_EXC_GP, sel);
        }
        if (!(s->attr & X86_SEG_P)) {
            return raise_sel(c, X86_EXC_NP, sel);
        }
        return far_task(c, op, t0_task_gate_sel(d->raw), call);
    default: return far_gate(c, op, sel, d, s, call);
    }
}

static const struct t0_op *far_to(struct t0_cpu *c, const struct t0_op *op,
                                  uint16_t sel, uint64_t off, bool call)
{
    struct t0_desc d;
    uint64_t bad;
    c->core->new_task = false;
    if (!protected_mode(c)) {
        bad = far_real(c, op, sel, off, call);
    } else if (is_null(sel)) {
        return gp0(c, op);
    } else {
        int r = t0_desc_get(c, sel, &d);
        if (r == T0_DESC_FAULT) {
            return T0_FAULT(c, op);
        }
        if (r == T0_DESC_LIMIT) {
            return t0_raise_error(c, op, X86_EXC_GP, sel & 0xfffcu);
        }
        struct x86_segment s = t0_desc_segment(sel, d.raw);
        if (!(s.attr & X86_SEG_S)) {
            bad = far_system(c, op, sel, &d, &s, call);
        } else if (s.attr & X86_SEG_CODE) {
            bad = far_code(c, op, &d, &s, off, call);
        } else {
            bad = raise_sel(c, X86_EXC_GP, sel);
        }
    }
    if (bad) {
        return c->core->new_task ? t0_fault_after(c, op) : T0_FAULT(c, op);
    }
    t0_update_mode(c);
    c->insns += t0_nb_done(c, op);
    return NULL;
}

/* aux: 1 for CALL; aux2: selector */
HANDLER(far_imm)
{
    return far_to(c, op, op->aux2, (uint64_t)op->imm, op->aux);
}

HANDLER(far_mem)
{
    unsigned size = far_size(c, op);
    struct t0_val off = load_at(c, op, 0, size);
    struct t0_val sel = off.fault ? off : load_at(c, op, size, 2);
    if (sel.fault) {
        return T0_FAULT(c, op);
    }
    return far_to(c, op, (uint16_t)sel.v, off.v, op->aux);
}

HANDLER(retf)
{
    if (!t0_far_return(c, op->size, (unsigned)op->imm, false)) {
        return T0_FAULT(c, op);
    }
    c->insns += t0_nb_done(c, op);
    return NULL;
}

HANDLER(retf_real)
{
    uint64_t sp = c->gpr[X86_RSP];
    struct t0_val off = t0_pop_peek(c, op->size);
    t0_sp_add(c, op->size);
    struct t0_val sel = off.fault ? off : t0_pop_peek(c, op->size);
    if (sel.fault || off.v > c->s.seg[X86_CS].limit) {
        c->gpr[X86_RSP] = sp;
        return sel.fault ? T0_FAULT(c, op) : gp0(c, op);
    }
    t0_sp_add(c, op->size + op->imm);
    c->s.seg[X86_CS].sel = (uint16_t)sel.v;
    c->s.seg[X86_CS].base = (sel.v & 0xffff) << 4;
    t0_update_mode(c);
    return t0_leave(c, op, off.v);
}

/* --- Lowering -------------------------------------------------------------- */
bool t0_lower_far(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_JMPF:
    case X86_OP_CALLF:
        op->aux = insn->op == X86_OP_CALLF;
        op->aux2 = insn->imm2;
        op->fn = insn->opnd[0].kind == X86_OPND_FAR ? far_imm : far_mem;
        return true;
    case X86_OP_RETF:
        op->imm = insn->nb_opnds ? insn->imm & 0xffff : 0;
        op->fn = ctx->mode & T0_MODE_PE ? retf : retf_real;
        return true;
    default: return false;
    }
}
