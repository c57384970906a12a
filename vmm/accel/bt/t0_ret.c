#include "vmm/accel/bt/t0_task.h"

#include "lib/base/bytes.h"

/*
 * Returns: IRET and RETF, out of events, calls and nested levels. APM 2 4.11.4, 8.7.4,
 * 8.9.3; the instructions' own pages in APM 3.
 */

/* Values popped from the stack one after the other, without changing it. */
struct popper {
    struct t0_cpu *c;
    uint64_t sp;
    unsigned size;
    bool bad;
    unsigned at, nb; /* of words that have been read at once */
    uint64_t word[5];
};

static uint64_t pop_next(struct popper *p)
{
    struct t0_cpu *c = p->c;
    uint64_t saved = c->gpr[X86_RSP];
    if (p->bad) {
        return 0;
    }
    if (p->at < p->nb) {
        p->sp += 8;
        return p->word[p->at++];
    }
    c->gpr[X86_RSP] = p->sp;
    struct t0_val v = t0_pop_peek(c, p->size);
    t0_sp_add(c, p->size);
    p->sp = c->gpr[X86_RSP];
    c->gpr[X86_RSP] = saved;
    p->bad = v.fault;
    return v.v;
}

/* All that IRET pops in 64-bit code, when it is in one page. */
static void pop_frame(struct popper *p)
{
    const uint8_t *h = t0_host_read(p->c, p->sp, sizeof(p->word));
    if (likely(h != NULL)) {
        p->nb = ARRAY_LEN(p->word);
        for (unsigned i = 0; i < ARRAY_LEN(p->word); i++) {
            gmem_copy(&p->word[i], h + 8 * i, 8);
        }
    }
}

/* The code segment that a far return goes to; the new CPL is its RPL. */
static bool return_code(struct t0_cpu *c, uint16_t sel, struct x86_segment *cs)
{
    struct t0_desc d;
    unsigned rpl = sel & 3;
    if ((sel & 0xfffc) == 0) {
        return t0_fail(c, X86_EXC_GP, 0);
    }
    int r = t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    *cs = t0_desc_segment(sel, d.raw);
    unsigned dpl = cs->attr >> X86_SEG_DPL_SHIFT & 3;
    uint16_t sc = X86_SEG_S | X86_SEG_CODE;
    bool conforming = cs->attr & X86_SEG_DOWN;
    bool both = t0_long_mode(c) && (cs->attr & X86_SEG_L) && (cs->attr & X86_SEG_DB);
    if (r == T0_DESC_LIMIT || (cs->attr & sc) != sc || rpl < c->s.cpl ||
        (conforming ? dpl > rpl : dpl != rpl) || both) {
        return t0_fail(c, X86_EXC_GP, sel & 0xfffcu);
    }
    if (!(cs->attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_NP, sel & 0xfffcu);
    }
    cs->attr |= X86_SEG_ACCESSED;
    return !t0_desc_accessed(c, &d);
}

/* The stack segment that comes with it. */
static bool return_stack(struct t0_cpu *c, uint16_t sel, unsigned cpl, bool to64,
                         struct x86_segment *ss)
{
    struct t0_desc d;
    uint32_t error = sel & 0xfffcu;
    if (error == 0) {
        *ss = (struct x86_segment){.sel = sel,
                                   .attr = (uint16_t)(cpl << X86_SEG_DPL_SHIFT)};
        return (to64 && cpl != 3 && (sel & 3) == cpl) || t0_fail(c, X86_EXC_GP, 0);
    }
    int r = t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    *ss = t0_desc_segment(sel, d.raw);
    unsigned dpl = ss->attr >> X86_SEG_DPL_SHIFT & 3;
    if (r == T0_DESC_LIMIT || (sel & 3) != cpl || dpl != cpl ||
        !(ss->attr & X86_SEG_S) || (ss->attr & X86_SEG_CODE) ||
        !(ss->attr & X86_SEG_RW)) {
        return t0_fail(c, X86_EXC_GP, error);
    }
    if (!(ss->attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_SS, error);
    }
    ss->attr |= X86_SEG_ACCESSED;
    return !t0_desc_accessed(c, &d);
}

static void set_sp(struct t0_cpu *c, uint64_t sp)
{
    if (t0_is64(c)) {
        c->gpr[X86_RSP] = sp;
    } else if (c->s.seg[X86_SS].attr & X86_SEG_DB) {
        c->gpr[X86_RSP] = (uint32_t)sp;
    } else {
        T0_W16(c, X86_RSP * 8, sp);
    }
}

/* IRET to virtual-8086 mode; @p is at ESP. */
static bool return_vm86(struct popper *p, uint64_t rip, uint16_t cs, uint64_t flags)
{
    static const uint8_t order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    struct t0_cpu *c = p->c;
    uint16_t sel[X86_NB_SEG];
    uint64_t sp = pop_next(p);
    sel[X86_CS] = cs;
    for (unsigned i = 0; i < sizeof(order); i++) {
        sel[order[i]] = (uint16_t)pop_next(p);
    }
    if (p->bad) {
        return false;
    }
    if (rip > 0xffff) {
        return t0_fail(c, X86_EXC_GP, 0);
    }
    uint64_t m = t0_flags_mask(c, 4) | X86_FL_VM | X86_FL_VIF | X86_FL_VIP | X86_FL_RF;
    t0_set_rflags(c, flags & m);
    t0_vm86_segs(c, sel);
    c->gpr[X86_RSP] = sp;
    c->s.rip = rip;
    c->s.nmi_blocked = false;
    t0_update_mode(c);
    return true;
}

bool t0_far_return(struct t0_cpu *c, unsigned size, unsigned release, bool iret)
{
    struct popper p = {.c = c, .sp = c->gpr[X86_RSP], .size = size};
    struct x86_segment cs, ss;
    bool from64 = t0_is64(c);
    if (iret && from64 && size == 8) {
        pop_frame(&p);
    }
    uint64_t rip = pop_next(&p);
    uint16_t sel = (uint16_t)pop_next(&p);
    uint64_t flags = iret ? pop_next(&p) : 0;
    if (p.bad) {
        return false;
    }
    if (iret && !t0_long_mode(c) && size == 4 && (flags & X86_FL_VM) && c->s.cpl == 0) {
        return return_vm86(&p, rip, sel, flags);
    }
    if (!return_code(c, sel, &cs)) {
        return false;
    }
    unsigned cpl = sel & 3, old_cpl = c->s.cpl;
    bool to64 = t0_long_mode(c) && (cs.attr & X86_SEG_L);
    bool stack = cpl > old_cpl || (iret && from64);
    uint64_t sp = p.sp + release;
    if (stack) {
        p.sp = sp;
        sp = pop_next(&p);
        uint16_t ss_sel = (uint16_t)pop_next(&p);
        if (p.bad || !return_stack(c, ss_sel, cpl, to64, &ss)) {
            return false;
        }
        sp += cpl > old_cpl ? release : 0;
    }
    if (to64 ? !t0_canonical(c, rip) : (uint32_t)rip > cs.limit) {
        return t0_fail(c, X86_EXC_GP, 0);
    }
    if (iret) {
        t0_set_flags_masked(c, flags, size);
        c->s.nmi_blocked = false;
    }
    c->s.seg[X86_CS] = cs;
    c->s.cpl = (uint8_t)cpl;
    if (stack) {
        c->s.seg[X86_SS] = ss;
    }
    c->s.rip = to64 ? rip : (uint32_t)rip;
    bool dropped = cpl > old_cpl && t0_drop_outer_segs(c);
    if (likely(from64 && to64 && !dropped)) {
        t0_update_level(c);
    } else {
        t0_update_mode(c);
    }
    set_sp(c, sp);
    return true;
}

/* --- Instructions ---------------------------------------------------------- */

HANDLER(op_iret_real)
{
    struct popper p = {.c = c, .sp = c->gpr[X86_RSP], .size = op->size};
    uint64_t rip = pop_next(&p);
    uint16_t sel = (uint16_t)pop_next(&p);
    uint64_t flags = pop_next(&p);
    if (p.bad) {
        return T0_FAULT(c, op);
    }
    if (rip > c->s.seg[X86_CS].limit) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    c->gpr[X86_RSP] = p.sp;
    c->s.seg[X86_CS].sel = sel;
    c->s.seg[X86_CS].base = (uint64_t)sel << 4;
    t0_set_flags_masked(c, flags, op->size);
    c->s.nmi_blocked = false;
    t0_update_mode(c);
    return t0_leave(c, op, rip);
}

const struct t0_op *t0_fault_after(struct t0_cpu *c, const struct t0_op *op)
{
    c->insns += t0_nb_done(c, op);
    c->core->exc_pending = true;
    return NULL;
}

/* IRET out of a nested task, to the one that its TSS links to. */
__attribute__((noinline)) static bool task_return(struct t0_cpu *c,
                                                  const struct t0_op *op)
{
    uint8_t link[2];
    struct t0_task_from from = {.how = T0_TASK_IRET,
                                .rip = (uint32_t)t0_next_rip(c, op),
                                .rflags = t0_get_rflags(c)};
    if (t0_sys_read(c, c->s.tr.base, link, 2) ||
        !t0_task_switch(c, le16_get(link), &from)) {
        return false;
    }
    c->s.nmi_blocked = false;
    return t0_task_trap(c);
}

HANDLER(op_iret)
{
    bool nested = c->s.rflags & X86_FL_NT;
    if (nested && t0_long_mode(c)) {
        return gp0(c, op);
    }
    c->core->new_task = false;
    if (!(nested ? task_return(c, op) : t0_far_return(c, op->size, 0, true))) {
        return c->core->new_task ? t0_fault_after(c, op) : T0_FAULT(c, op);
    }
    if (unlikely(t0_virtual_irq_due(c))) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return t0_fault_after(c, op);
    }
    c->insns += t0_nb_done(c, op);
    return NULL;
}

bool t0_lower_ret(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    op->fn = ctx->mode & T0_MODE_PE ? op_iret : op_iret_real;
    return true;
}
