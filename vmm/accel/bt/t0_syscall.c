#include "vmm/accel/bt/t0_seg.h"

/*
 * The system calls that load flat segments: SYSCALL, SYSENTER and the returns; and the
 * bases of FS and GS. APM 2 6.1; the instructions' own pages in APM 3.
 */

/* CS, SS and the level are those of the new place. */
static const struct t0_op *switched(struct t0_cpu *c, const struct t0_op *op,
                                    uint64_t rip)
{
    c->core->no_trap = true;
    if (likely(t0_is64(c) && (c->s.seg[X86_CS].attr & X86_SEG_L))) {
        t0_update_level(c);
    } else {
        t0_update_mode(c);
    }
    /* SYSRET may have set IF. */
    bool irq = (c->s.rflags & X86_FL_IF) && t0_irq_wanted(c);
    return unlikely(irq) ? t0_leave(c, op, rip) : t0_jump(c, op, rip);
}

/* APM 2 6.1.1. */
/* SYSCALL and SYSRET are stepped over when TF is set after them, not before: a system
 * call whose flag mask has TF is one step (APM 3 SYSCALL). */
static void trap_by_new_flags(struct t0_cpu *c)
{
    c->core->no_trap = true;
    if (unlikely(c->s.rflags & X86_FL_TF)) {
        t0_debug_trap(c, T0_DR6_BS);
    }
}

HANDLER(op_syscall)
{
    uint64_t star = c->s.msr.star, next = t0_next_rip(c, op);
    bool lm = t0_long_mode(c), m64 = t0_is64(c);
    if (!(c->s.efer & X86_EFER_SCE) || (!m64 && !is_amd(c))) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint64_t rip;
    c->gpr[X86_RCX] = m64 ? next : (uint32_t)next;
    if (lm) {
        rip = m64 ? c->s.msr.lstar : c->s.msr.cstar;
        t0_syscall_state(c);
    } else {
        uint16_t sel = (uint16_t)(star >> 32 & 0xfffc);
        rip = (uint32_t)star;
        c->s.rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_VM | X86_FL_RF);
        c->s.cpl = 0;
        c->s.seg[X86_CS] = t0_flat_code(sel, 0, lm);
        c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 0);
    }
    trap_by_new_flags(c);
    return switched(c, op, rip);
}

HANDLER(op_sysret)
{
    if (!(c->s.efer & X86_EFER_SCE) || (!t0_is64(c) && !is_amd(c))) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (c->s.cpl) {
        return gp0(c, op);
    }
    bool to64 = op->size == 8;
    uint64_t rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
    if (to64 && !t0_canonical(c, rip) && !is_amd(c)) {
        return gp0(c, op);
    }
    t0_sysret_state(c, to64);
    trap_by_new_flags(c);
    return switched(c, op, rip);
}

/* APM 2 6.1.2: AMD has SYSENTER in legacy mode only, Intel everywhere. */
HANDLER(op_sysenter)
{
    bool lm = t0_long_mode(c);
    if (lm && is_amd(c)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint16_t sel = (uint16_t)(c->s.msr.sysenter_cs & 0xfffc);
    if (!sel) {
        return gp0(c, op);
    }
    c->s.rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    c->s.cpl = 0;
    c->s.seg[X86_CS] = t0_flat_code(sel, 0, lm);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 0);
    c->gpr[X86_RSP] = lm ? c->s.msr.sysenter_esp : (uint32_t)c->s.msr.sysenter_esp;
    return switched(c, op,
                    lm ? c->s.msr.sysenter_eip : (uint32_t)c->s.msr.sysenter_eip);
}

HANDLER(op_sysexit)
{
    bool lm = t0_long_mode(c), to64 = op->size == 8;
    if (lm && is_amd(c)) { /* the privilege is checked first */
        return c->s.cpl ? gp0(c, op) : t0_raise(c, op, X86_EXC_UD);
    }
    uint16_t sel = (uint16_t)(c->s.msr.sysenter_cs & 0xfffc);
    if (!sel || c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t rip = c->gpr[X86_RDX], rsp = c->gpr[X86_RCX];
    if (to64 && (!t0_canonical(c, rip) || !t0_canonical(c, rsp))) {
        return gp0(c, op);
    }
    sel = (uint16_t)((sel + (to64 ? 32 : 16)) | 3);
    c->s.cpl = 3;
    c->s.seg[X86_CS] = t0_flat_code(sel, 3, to64);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 3);
    c->gpr[X86_RSP] = to64 ? rsp : (uint32_t)rsp;
    return switched(c, op, to64 ? rip : (uint32_t)rip);
}

HANDLER(op_swapgs)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t base = c->s.msr.kernel_gs_base;
    c->s.msr.kernel_gs_base = c->s.seg[X86_GS].base;
    c->s.seg[X86_GS].base = c->seg_base[X86_GS] = base;
    return T0_NEXT(c, op);
}

/* aux: segment */
HANDLER(read_base)
{
    if (!(c->s.cr4 & X86_CR4_FSGSBASE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    put_reg(c, op, c->s.seg[op->aux].base);
    return T0_NEXT(c, op);
}

HANDLER(write_base)
{
    if (!(c->s.cr4 & X86_CR4_FSGSBASE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint64_t v = op->size == 8 ? T0_R64(c, op->dst) : T0_R32(c, op->dst);
    if (!t0_canonical_base(c, v)) {
        return gp0(c, op);
    }
    c->s.seg[op->aux].base = c->seg_base[op->aux] = v;
    return t0_end_block(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

bool t0_lower_syscall(const struct x86_insn *insn, const struct t0_lower *ctx,
                      struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_SYSCALL: op->fn = op_syscall; return true;
    case X86_OP_SYSRET: op->fn = op_sysret; return true;
    case X86_OP_SYSENTER: op->fn = op_sysenter; return true;
    case X86_OP_SYSEXIT: op->fn = op_sysexit; return true;
    case X86_OP_SWAPGS: op->fn = op_swapgs; return true;
    case X86_OP_RDFSBASE:
    case X86_OP_RDGSBASE:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE: {
        bool gs = insn->op == X86_OP_RDGSBASE || insn->op == X86_OP_WRGSBASE;
        bool rd = insn->op == X86_OP_RDFSBASE || insn->op == X86_OP_RDGSBASE;
        op->aux = gs ? X86_GS : X86_FS;
        op->dst = t0_reg(insn->opnd[0].reg);
        op->fn = rd ? read_base : write_base;
        return true;
    }
    default: return false;
    }
}
