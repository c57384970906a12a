#include "vmm/accel/bt/t1_priv.h"

/*
 * SYSCALL, SYSRET and IRET between 64-bit code, as kernels do them, without leaving the
 * translation: the glue calls these with the guest's registers where they are, and goes
 * to the code that they return. 0: nothing has changed, and T0's handler does it, which
 * knows everything else: other modes, mistakes, traps, and what is due afterwards.
 *
 * No vector registers are used here nor in what is called.
 */

/* Whether anything is to be looked at that is not here. */
static bool unusual(const struct t0_cpu *c)
{
    const struct t0_core *core = c->core;
    return c->debug || core->irq_maybe || core->tvm->nochain || core->exit_wanted ||
           !t0_long_mode(c) || c->canon_shift != 16;
}

/* User code that checks alignment is T0's. */
static bool checks_alignment(const struct t0_cpu *c, uint64_t rflags)
{
    return (rflags & X86_FL_AC) && (c->s.cr0 & X86_CR0_AM);
}

/* The level is another one: go on at @rip, which may have to be looked for. */
static uint64_t go_to(struct t0_cpu *c, uint64_t rip)
{
    struct t1_core *t1 = c->core->t1;
    t0_update_level(c);
    t1->switches++;
    c->s.rip = rip;
    const struct t1_jump *j = t1_find_jump(c, rip);
    if (!j && !t1_quick_jump(c, rip)) {
        j = t1_find_jump(c, rip);
    }
    if (!j) {
        return (uintptr_t)(t1->exec + t1->glue_go_on);
    }
    c->t1.page_base = j->page;
    return j->code;
}

uint64_t t1_quick_syscall(struct t0_cpu *c, uint64_t next, uint32_t flags)
{
    if (unusual(c) || !(c->s.efer & X86_EFER_SCE) || !t0_is64(c)) {
        return 0;
    }
    c->flags = (uint16_t)flags;
    c->gpr[X86_RCX] = next;
    t0_syscall_state(c);
    return go_to(c, c->s.msr.lstar);
}

uint64_t t1_quick_sysret(struct t0_cpu *c, uint64_t rip, uint32_t flags)
{
    uint64_t to = c->gpr[X86_R11];
    if (unusual(c) || !(c->s.efer & X86_EFER_SCE) || !t0_is64(c) || c->s.cpl ||
        !t0_canonical(c, rip) || (to & X86_FL_TF) || checks_alignment(c, to)) {
        return 0;
    }
    t0_sysret_state(c, true);
    return go_to(c, rip);
}

/* The descriptor of @sel in the GDT, if it is at hand. */
static bool descriptor(const struct t0_cpu *c, uint16_t sel, struct x86_segment *ret)
{
    const uint8_t *h = t0_sys_host(c, c->s.gdtr.base + (sel & 0xfff8u), 8);
    uint64_t raw;
    if ((sel & 4) || (sel | 7u) > c->s.gdtr.limit || !h) {
        return false;
    }
    gmem_copy(&raw, h, 8);
    *ret = t0_desc_segment(sel, raw);
    return true;
}

#define TYPE_BITS                                                             \
    (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_DOWN | X86_SEG_ACCESSED | \
     X86_SEG_L | X86_SEG_DB | 3 << X86_SEG_DPL_SHIFT)

/* An ordinary segment of 64-bit code, not conforming, of level @cpl. */
static bool code_ok(const struct x86_segment *cs, unsigned cpl)
{
    return (cs->attr & TYPE_BITS) ==
           (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_ACCESSED | X86_SEG_L |
            cpl << X86_SEG_DPL_SHIFT);
}

/* The stack's segment: none in the kernel, or one that may be written. */
static bool stack_segment(const struct t0_cpu *c, uint16_t sel, unsigned cpl,
                          struct x86_segment *ret)
{
    const uint16_t all = X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_RW |
                         X86_SEG_ACCESSED | 3 << X86_SEG_DPL_SHIFT;
    if (!(sel & 0xfffc)) {
        *ret = (struct x86_segment){.sel = sel};
        return sel == 0 && cpl == 0;
    }
    return (sel & 3) == cpl && descriptor(c, sel, ret) &&
           (ret->attr & all) == (X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED |
                                 cpl << X86_SEG_DPL_SHIFT);
}

/* Whether a data segment becomes null on the way to user code. */
static bool drops_segments(const struct t0_cpu *c)
{
    static const uint8_t which[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(which); i++) {
        const struct x86_segment *s = &c->s.seg[which[i]];
        if ((s->attr & X86_SEG_P) && (s->attr >> X86_SEG_DPL_SHIFT & 3) < 3) {
            return true;
        }
    }
    return false;
}

uint64_t t1_quick_iret(struct t0_cpu *c, uint64_t sp, uint32_t flags)
{
    enum { RIP, CS, FLAGS, SP, SS, NB };
    const uint64_t never = X86_FL_TF | X86_FL_VIF | X86_FL_VIP | X86_FL_VM | X86_FL_NT;
    struct x86_segment cs, ss;
    uint64_t w[NB];
    const uint8_t *h = t0_host_read(c, sp, sizeof(w));
    if (unusual(c) || !h || !t0_is64(c) || c->s.cpl ||
        ((c->s.rflags | X86_FL_VIF | X86_FL_VIP) & never) !=
            (X86_FL_VIF | X86_FL_VIP)) {
        return 0;
    }
    for (unsigned i = 0; i < NB; i++) {
        gmem_copy(&w[i], h + 8 * i, 8);
    }
    uint16_t cs_sel = (uint16_t)w[CS];
    unsigned cpl = cs_sel & 3;
    if ((w[FLAGS] & never) || !t0_canonical(c, w[RIP]) || (cpl && cpl != 3) ||
        !(cs_sel & 0xfffc) || !descriptor(c, cs_sel, &cs) || !code_ok(&cs, cpl) ||
        !stack_segment(c, (uint16_t)w[SS], cpl, &ss) ||
        (cpl && (drops_segments(c) || checks_alignment(c, w[FLAGS])))) {
        return 0;
    }
    c->flags = (uint16_t)flags;
    t0_set_flags_masked(c, w[FLAGS], 8);
    c->s.nmi_blocked = false;
    c->s.seg[X86_CS] = cs;
    c->s.seg[X86_SS] = ss;
    c->s.cpl = (uint8_t)cpl;
    c->gpr[X86_RSP] = w[SP];
    return go_to(c, w[RIP]);
}
