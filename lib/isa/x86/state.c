#include "lib/isa/x86/state.h"

#include <string.h>

/* Real-mode segment: base = selector << 4, 64 KiB, present writable data. */
static struct x86_segment real_segment(uint16_t sel, uint64_t base, uint16_t type)
{
    return (struct x86_segment){
        .sel = sel,
        .base = base,
        .limit = 0xffff,
        .attr = (uint16_t)(X86_SEG_P | type),
    };
}

/* What RESET sets and INIT leaves alone (APM 2 table 14-1). */
static void reset_beyond_init(struct x86_state *s)
{
    memset(s, 0, sizeof(*s));
    s->xcr0 = X86_XCR0_X87;
    s->fpu.fcw = 0x40;
    s->fpu.ftw = 0xff;
    s->fpu.mxcsr = 0x1f80;
    s->msr.pat = UINT64_C(0x0007040600070406);
    s->msr.misc_enable = 1; /* fast strings */
}

void x86_state_reset(struct x86_state *s, uint32_t signature, bool init)
{
    uint64_t kept_cr0 = X86_CR0_CD | X86_CR0_NW;
    if (init) {
        kept_cr0 &= s->cr0;
    } else {
        reset_beyond_init(s);
    }
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[X86_RDX] = signature;
    s->rip = 0xfff0;
    s->rflags = X86_FL_R1;
    for (int i = 0; i < X86_NB_SEG; i++) {
        s->seg[i] = real_segment(0, 0, X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED);
    }
    s->seg[X86_CS] = real_segment(
        0xf000, 0xffff0000, X86_SEG_S | X86_SEG_CODE | X86_SEG_RW | X86_SEG_ACCESSED);
    s->ldtr = real_segment(0, 0, X86_SYS_LDT);
    s->tr = real_segment(0, 0, X86_SYS_TSS_BUSY);
    s->gdtr = s->idtr = (struct x86_dtable){.base = 0, .limit = 0xffff};
    s->cpl = 0;
    s->cr0 = kept_cr0 | X86_CR0_ET;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
    s->efer = 0;
    memset(s->dr, 0, sizeof(s->dr));
    s->dr[6] = 0xffff0ff0;
    s->dr[7] = 0x400;
    s->activity = X86_ACTIVE;
    s->int_shadow = s->nmi_blocked = false;
    memset(&s->event, 0, sizeof(s->event));
}

unsigned x86_state_code_bits(const struct x86_state *s)
{
    uint16_t attr = s->seg[X86_CS].attr;
    if ((s->efer & X86_EFER_LMA) && (attr & X86_SEG_L)) {
        return 64;
    }
    return (attr & X86_SEG_DB) ? 32 : 16;
}
