#include "vmm/accel/bt/t0_seg.h"
#include "vmm/accel/bt/t1.h"

/*
 * The CPU's mode: what blocks are decoded for, which bank of the TLB is in use, and how
 * flags and segments change with the level. Uses no vector registers: t1_switch.c.
 */

/* --- Mode and bank ------------------------------------------------------------ */

uint64_t t0_get_rflags(const struct t0_cpu *c)
{
    uint64_t arith = (c->flags >> 8 & 0xd5) | (uint64_t)(c->flags & 1) << 11;
    return (c->s.rflags & ~(uint64_t)X86_FL_ARITH) | arith | X86_FL_R1;
}

void t0_set_rflags(struct t0_cpu *c, uint64_t rflags)
{
    c->s.rflags = rflags | X86_FL_R1;
    c->flags = (uint16_t)((rflags & 0xd5) << 8 | 0x200 | (rflags >> 11 & 1));
}

void t0_update_bank(struct t0_cpu *c)
{
    unsigned bank = t0_bank_for(c, c->s.cpl);
    if (bank == T0_BANK_KERNEL_SMAP && (c->s.rflags & X86_FL_AC)) {
        bank = T0_BANK_KERNEL;
    }
    if (unlikely(bank == T0_BANK_USER && (c->s.cr0 & X86_CR0_AM) &&
                 (c->s.rflags & X86_FL_AC))) {
        bank = T0_BANK_USER_AC;
    }
    c->tlb = c->banks[bank];
    t1_bank_changed(c);
}

static bool is_flat(const struct x86_segment *s)
{
    uint16_t down = s->attr & (X86_SEG_CODE | X86_SEG_DOWN);
    return s->base == 0 && s->limit == UINT32_MAX && (s->attr & X86_SEG_P) &&
           down != X86_SEG_DOWN;
}

static bool is_flat_data(const struct x86_segment *s)
{
    return is_flat(s) && !(s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_RW);
}

/*
 * With 5-level paging only bits 57-63 of addresses are all equal, and of the mode of
 * 64-bit code only five bits differ. One more keeps them apart from the keys of
 * compatibility mode, whose bits 62 and 63 are equal.
 */
static uint64_t mode_key_la57(unsigned mode)
{
    static const uint16_t bits[] = {T0_MODE_CPL3, T0_MODE_TS, T0_MODE_NOSSE,
                                    T0_MODE_NOAVX, T0_MODE_EM};
    uint64_t key = UINT64_C(1) << 62;
    for (unsigned i = 0; i < ARRAY_LEN(bits); i++) {
        key |= mode & bits[i] ? UINT64_C(1) << (57 + i) : 0;
    }
    return key;
}

void t0_update_mode(struct t0_cpu *c)
{
    const struct x86_state *s = &c->s;
    bool pe = s->cr0 & X86_CR0_PE;
    bool m64 = (s->efer & X86_EFER_LMA) && (s->seg[X86_CS].attr & X86_SEG_L);
    unsigned mode = m64                                  ? T0_MODE_64
                    : (s->seg[X86_CS].attr & X86_SEG_DB) ? T0_MODE_32
                                                         : T0_MODE_16;
    if (m64 || (is_flat(&s->seg[X86_CS]) && is_flat_data(&s->seg[X86_DS]) &&
                is_flat_data(&s->seg[X86_ES]) && is_flat_data(&s->seg[X86_SS]))) {
        mode |= T0_MODE_FLAT;
    }
    if (!m64 && (s->seg[X86_SS].attr & X86_SEG_DB)) {
        mode |= T0_MODE_STACK32;
    }
    if (pe && s->cpl == 3) {
        mode |= T0_MODE_CPL3;
    }
    if (pe && !(s->rflags & X86_FL_VM)) {
        mode |= T0_MODE_PE;
    }
    if (s->cr0 & X86_CR0_TS) {
        mode |= T0_MODE_TS;
    }
    if (s->cr0 & X86_CR0_EM) {
        mode |= T0_MODE_EM | T0_MODE_NOSSE;
    }
    if (!(s->cr4 & X86_CR4_OSFXSR)) {
        mode |= T0_MODE_NOSSE;
    }
    if (s->efer & X86_EFER_LMA) {
        mode |= T0_MODE_LMA;
    }
    uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    if (!(s->cr4 & X86_CR4_OSXSAVE) || (s->xcr0 & avx) != avx || !pe) {
        mode |= T0_MODE_NOAVX;
    }
    c->mode = (uint16_t)mode;
    bool la57 = (s->efer & X86_EFER_LMA) && (s->cr4 & X86_CR4_LA57);
    c->canon_shift = la57 ? 7 : 16;
    c->mode_key = la57 && m64 ? mode_key_la57(mode) : (uint64_t)mode << 48;
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        c->seg_base[i] = m64 && i != X86_FS && i != X86_GS ? 0 : s->seg[i].base;
    }
    for (unsigned i = 0; i < ARRAY_LEN(c->t1.seg_mask); i++) {
        const struct x86_segment *seg = &s->seg[X86_FS + i];
        bool wide = seg->limit == UINT32_MAX && (seg->attr & X86_SEG_P) &&
                    (seg->attr & X86_SEG_RW) &&
                    !(seg->attr & (X86_SEG_CODE | X86_SEG_DOWN));
        c->t1.seg_mask[i] = wide ? UINT64_C(0xffffffff) << 32 : UINT64_MAX;
    }
    t0_update_bank(c);
}

void t0_update_level(struct t0_cpu *c)
{
    unsigned mode = c->mode & ~(unsigned)T0_MODE_CPL3;
    mode |= c->s.cpl == 3 ? T0_MODE_CPL3 : 0;
    c->mode = (uint16_t)mode;
    c->mode_key = c->canon_shift == 7 ? mode_key_la57(mode) : (uint64_t)mode << 48;
    t0_update_bank(c);
}

/* RFLAGS bits that IRET and POPF may change at this level (APM 3, IRET). */
uint64_t t0_flags_mask(const struct t0_cpu *c, unsigned size)
{
    uint64_t m = X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT;
    if (size > 2) {
        m |= X86_FL_AC | X86_FL_ID;
    }
    if (c->s.cpl <= t0_iopl(c)) {
        m |= X86_FL_IF;
    }
    if (c->s.cpl == 0) {
        m |= X86_FL_IOPL;
    }
    return m;
}

void t0_set_flags_masked(struct t0_cpu *c, uint64_t v, unsigned size)
{
    uint64_t m = t0_flags_mask(c, size);
    if (size > 2 && unlikely(c->debug & T0_DEBUG_CODE)) {
        m |= X86_FL_RF; /* nobody looks at it otherwise */
    }
    if ((c->mode & T0_MODE_PE) && c->s.cpl == 0 && size > 2) {
        m |= X86_FL_VIF | X86_FL_VIP;
    }
    t0_set_rflags(c, (t0_get_rflags(c) & ~m & ~(uint64_t)X86_FL_RF) | (v & m));
}

/* --- System calls: APM 2 6.1.1 ------------------------------------------------ */

struct x86_segment t0_flat_code(uint16_t sel, unsigned dpl, bool long_mode)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_RW |
                           X86_SEG_ACCESSED | X86_SEG_G | dpl << X86_SEG_DPL_SHIFT |
                           (long_mode ? X86_SEG_L : X86_SEG_DB)),
        .limit = UINT32_MAX,
    };
}

struct x86_segment t0_flat_stack(uint16_t sel, unsigned dpl)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED |
                           X86_SEG_G | X86_SEG_DB | dpl << X86_SEG_DPL_SHIFT),
        .limit = UINT32_MAX,
    };
}

void t0_syscall_state(struct t0_cpu *c)
{
    uint16_t sel = (uint16_t)(c->s.msr.star >> 32 & 0xfffc);
    uint64_t flags = t0_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    c->gpr[X86_R11] = flags;
    t0_set_rflags(c, flags & ~c->s.msr.sfmask);
    c->s.cpl = 0;
    c->s.seg[X86_CS] = t0_flat_code(sel, 0, true);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 0);
}

void t0_sysret_state(struct t0_cpu *c, bool to64)
{
    uint16_t sel = (uint16_t)(c->s.msr.star >> 48);
    if (t0_long_mode(c)) {
        uint64_t keep = X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL |
                        X86_FL_NT | X86_FL_AC | X86_FL_VIF | X86_FL_VIP | X86_FL_ID;
        t0_set_rflags(c, c->gpr[X86_R11] & keep);
    } else {
        c->s.rflags |= X86_FL_IF;
    }
    c->s.cpl = 3;
    c->s.seg[X86_CS] = t0_flat_code((uint16_t)((to64 ? sel + 16 : sel) | 3), 3, to64);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)((sel + 8) | 3), 3);
}
