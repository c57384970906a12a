#include "vmm/accel/bt/t0_seg.h"

#include "lib/base/bytes.h"

/*
 * Virtual-8086 mode: the instructions that depend on IOPL there, and the virtual
 * interrupt flag of CR4.VME and CR4.PVI. APM 2 8.10 and 12.2.4; Intel SDM 3 chapter 21.
 *
 * With IOPL 3 the instructions act as in real mode, and INT n goes through the IDT.
 * With a lower one they raise #GP(0), unless CR4.VME is set: then the ones with 16-bit
 * operands work on VIF instead of IF, and what would make an interrupt that is
 * pending (VIP) deliverable raises #GP(0). CR4.VME also gives INT n the redirection
 * bitmap: 32 bytes below the I/O permission bitmap, in which a clear bit sends the
 * vector to the 8086 program's own handler, at linear address 0.
 */

bool t0_virtual_irq_due(const struct t0_cpu *c)
{
    uint64_t f = c->s.rflags, both = X86_FL_VIF | X86_FL_VIP;
    uint64_t on = (f & X86_FL_VM) ? X86_CR4_VME : X86_CR4_PVI;
    return (f & both) == both && (c->s.cr4 & on) && c->s.cpl == 3 && t0_iopl(c) < 3 &&
           !t0_long_mode(c);
}

void t0_vm86_segs(struct t0_cpu *c, const uint16_t sel[X86_NB_SEG])
{
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        c->s.seg[i] = (struct x86_segment){
            .sel = sel[i],
            .base = (uint64_t)sel[i] << 4,
            .limit = 0xffff,
            .attr = X86_SEG_P | 3 << X86_SEG_DPL_SHIFT | X86_SEG_S | X86_SEG_RW |
                    X86_SEG_ACCESSED,
        };
    }
    c->s.cpl = 3;
}

static bool vme(const struct t0_cpu *c)
{
    return c->s.cr4 & X86_CR4_VME;
}

/* VIF becomes what the program thinks IF is. */
static void set_vif(struct t0_cpu *c, bool on)
{
    c->s.rflags &= ~(uint64_t)X86_FL_VIF;
    c->s.rflags |= on ? X86_FL_VIF : 0;
}

/* STI on the virtual flag: not while an interrupt is pending. */
static bool virtual_sti(struct t0_cpu *c)
{
    if (c->s.rflags & X86_FL_VIP) {
        return t0_fail(c, X86_EXC_GP, 0);
    }
    set_vif(c, true);
    return true;
}

const struct t0_op *t0_pvi(struct t0_cpu *c, const struct t0_op *op, bool set)
{
    if (!(c->s.cr4 & X86_CR4_PVI) || c->s.cpl != 3) {
        return gp0(c, op);
    }
    if (set) {
        return virtual_sti(c) ? T0_NEXT(c, op) : T0_FAULT(c, op);
    }
    set_vif(c, false);
    return T0_NEXT(c, op);
}

/* --- CLI, STI --------------------------------------------------------------- */

HANDLER(vm86_cli)
{
    if (t0_iopl(c) == 3) {
        c->s.rflags &= ~(uint64_t)X86_FL_IF;
    } else if (vme(c)) {
        set_vif(c, false);
    } else {
        return gp0(c, op);
    }
    return T0_NEXT(c, op);
}

HANDLER(vm86_sti)
{
    if (t0_iopl(c) < 3) {
        if (!vme(c)) {
            return gp0(c, op);
        }
        return virtual_sti(c) ? T0_NEXT(c, op) : T0_FAULT(c, op);
    }
    if (!(c->s.rflags & X86_FL_IF)) {
        c->s.rflags |= X86_FL_IF;
        c->s.int_shadow = true;
    }
    return t0_end_block(c, op);
}

/* --- PUSHF, POPF, IRET ------------------------------------------------------ */

/* Flags as the program sees them below IOPL 3. */
static uint64_t seen_flags(const struct t0_cpu *c)
{
    uint64_t f = (t0_get_rflags(c) | X86_FL_IOPL) & ~(uint64_t)X86_FL_IF;
    return f | ((f & X86_FL_VIF) ? X86_FL_IF : 0);
}

HANDLER(vm86_pushf)
{
    uint64_t f = t0_get_rflags(c);
    if (t0_iopl(c) < 3) {
        if (!vme(c) || op->size != 2) {
            return gp0(c, op);
        }
        f = seen_flags(c);
    }
    f &= ~(uint64_t)(X86_FL_VM | X86_FL_RF);
    return t0_push(c, f, op->size) ? T0_FAULT(c, op) : T0_NEXT(c, op);
}

/* Whether POPF and IRET of op's size work at all. */
static bool may_pop(const struct t0_cpu *c, const struct t0_op *op)
{
    return t0_iopl(c) == 3 || (vme(c) && op->size == 2);
}

/* Take the flags that POPF and IRET (@rf) popped; false: #GP(0). */
static bool take_flags(struct t0_cpu *c, uint64_t v, unsigned size, bool rf)
{
    bool virtual = t0_iopl(c) < 3;
    uint64_t m = X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT;
    if (virtual) {
        if ((v & X86_FL_TF) || ((v & X86_FL_IF) && (c->s.rflags & X86_FL_VIP))) {
            return t0_fail(c, X86_EXC_GP, 0);
        }
        set_vif(c, v & X86_FL_IF);
    } else {
        m |= X86_FL_IF;
    }
    if (size > 2) {
        m |= X86_FL_AC | X86_FL_ID;
    }
    if (size > 2 && rf && (c->debug & T0_DEBUG_CODE)) {
        m |= X86_FL_RF;
    }
    t0_set_rflags(c, (t0_get_rflags(c) & ~m & ~(uint64_t)X86_FL_RF) | (v & m));
    t0_update_bank(c);
    return true;
}

HANDLER(vm86_popf)
{
    if (!may_pop(c, op)) {
        return gp0(c, op);
    }
    struct t0_val v = t0_pop_peek(c, op->size);
    if (v.fault || !take_flags(c, v.v, op->size, false)) {
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, op->size);
    return t0_end_block(c, op);
}

static struct t0_val pop_at(struct t0_cpu *c, unsigned off, unsigned size)
{
    uint64_t sp = c->gpr[X86_RSP];
    t0_sp_add(c, off);
    struct t0_val v = t0_pop_peek(c, size);
    c->gpr[X86_RSP] = sp;
    return v;
}

HANDLER(vm86_iret)
{
    unsigned size = op->size;
    if (!may_pop(c, op)) {
        return gp0(c, op);
    }
    struct t0_val rip = pop_at(c, 0, size);
    struct t0_val cs = rip.fault ? rip : pop_at(c, size, size);
    struct t0_val flags = cs.fault ? cs : pop_at(c, 2 * size, size);
    if (flags.fault) {
        return T0_FAULT(c, op);
    }
    if (rip.v > c->s.seg[X86_CS].limit) {
        return gp0(c, op);
    }
    if (!take_flags(c, flags.v, size, true)) {
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, 3 * size);
    t0_load_seg(c, X86_CS, (uint16_t)cs.v);
    c->s.nmi_blocked = false;
    t0_update_mode(c);
    return t0_leave(c, op, rip.v);
}

/* --- INT n ------------------------------------------------------------------ */

/* The vector's bit in the redirection bitmap: 1, 0, or -1 with c->exc set. */
static int redirection(struct t0_cpu *c, unsigned vector)
{
    const struct x86_segment *tr = &c->s.tr;
    uint8_t b[2];
    if ((tr->attr & X86_SEG_TYPE) != X86_SYS_TSS_BUSY || tr->limit < 0x67) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return -1;
    }
    if (t0_sys_read(c, tr->base + 0x66, b, 2)) {
        return -1;
    }
    uint32_t off = le16_get(b) + vector / 8 - 32u;
    if (off > tr->limit) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return -1;
    }
    if (t0_sys_read(c, tr->base + off, b, 1)) {
        return -1;
    }
    return b[0] >> (vector & 7) & 1;
}

/* To the program's own handler, as real mode would. */
static bool redirect(struct t0_cpu *c, unsigned vector, uint64_t next)
{
    uint8_t entry[4], frame[6];
    uint64_t sp = c->gpr[X86_RSP];
    bool virtual = t0_iopl(c) < 3;
    if (t0_sys_read(c, vector * 4u, entry, 4)) {
        return false;
    }
    le16_put(frame, (uint16_t)next);
    le16_put(frame + 2, c->s.seg[X86_CS].sel);
    le16_put(frame + 4, (uint16_t)(virtual ? seen_flags(c) : t0_get_rflags(c)));
    if (!t0_push_frame(c, &c->s.seg[X86_SS], &sp, 3, 0, frame, sizeof(frame), 2)) {
        return false;
    }
    c->gpr[X86_RSP] = sp;
    uint32_t clear = X86_FL_TF | X86_FL_RF | (virtual ? X86_FL_VIF : X86_FL_IF);
    c->s.rflags &= ~(uint64_t)clear;
    c->s.rip = le16_get(entry);
    t0_load_seg(c, X86_CS, le16_get(entry + 2));
    t0_update_mode(c);
    return true;
}

/* Whether @op went to the program's own handler: 1, 0, or -1 with c->exc set. */
__attribute__((noinline)) static int try_redirect(struct t0_cpu *c,
                                                  const struct t0_op *op)
{
    int monitor = vme(c) ? redirection(c, op->aux) : 1;
    if (monitor < 0) {
        return -1;
    }
    if (!monitor) {
        return redirect(c, op->aux, t0_next_rip(c, op)) ? 1 : -1;
    }
    if (t0_iopl(c) < 3) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return -1;
    }
    return 0;
}

/* aux: vector */
HANDLER(vm86_int)
{
    int r = try_redirect(c, op);
    if (r < 0) {
        return T0_FAULT(c, op);
    }
    if (r == 0) {
        return t0_int_op(c, op);
    }
    c->core->no_trap = true;
    c->insns += t0_nb_done(c, op);
    return NULL;
}

bool t0_lower_vm86(const struct x86_insn *insn, const struct t0_lower *ctx,
                   struct t0_op *op)
{
    if ((ctx->mode & (T0_MODE_PE | T0_MODE_CPL3)) != T0_MODE_CPL3) {
        return false;
    }
    switch (insn->op) {
    case X86_OP_CLI: op->fn = vm86_cli; return true;
    case X86_OP_STI: op->fn = vm86_sti; return true;
    case X86_OP_PUSHF: op->fn = vm86_pushf; return true;
    case X86_OP_POPF: op->fn = vm86_popf; return true;
    case X86_OP_IRET: op->fn = vm86_iret; return true;
    case X86_OP_INT:
        op->aux = (uint8_t)insn->imm;
        op->fn = vm86_int;
        return true;
    default: return false;
    }
}
