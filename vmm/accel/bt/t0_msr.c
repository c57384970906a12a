#include "vmm/accel/bt/t0_log.h"
#include "vmm/accel/bt/t0_priv.h"

#include "vmm/vm/clock.h"

/*
 * Model-specific registers and CPUID. An MSR is a row of a table, or belongs to the
 * LAPIC or to KVM's paravirtual interface; anything else raises #GP, which Linux
 * expects of registers it only tries. Spec: APM 2 appendix A, SDM 4.
 */

enum kind {
    MSR_FIELD, /* off: uint64_t in struct x86_state; mask: writable bits, else #GP */
    MSR_ADDR,  /* the same, canonical addresses only */
    MSR_CONST, /* mask: the value; writes of it are ignored, of others #GP */
    MSR_DROP,  /* reads 0, writes are ignored */
};

struct msr_row {
    uint32_t first, last;
    enum kind kind;
    uint32_t off; /* of @first; the others follow */
    uint64_t mask;
};

#define FIELD(msr, f, m)                                      \
    {                                                         \
        msr, msr, MSR_FIELD, offsetof(struct x86_state, f), m \
    }
#define ADDR(msr, f)                                         \
    {                                                        \
        msr, msr, MSR_ADDR, offsetof(struct x86_state, f), 0 \
    }

static const struct msr_row rows[] = {
    ADDR(0x175, msr.sysenter_esp),
    ADDR(0x176, msr.sysenter_eip),
    FIELD(0x174, msr.sysenter_cs, UINT32_MAX),
    FIELD(0x1a0, msr.misc_enable, UINT64_MAX),
    FIELD(0x1d9, msr.debugctl, 0x3f),
    FIELD(0x048, msr.spec_ctrl, 7),
    {0x049, 0x049, MSR_DROP, 0, 0}, /* PRED_CMD: a barrier */
    FIELD(0x2ff, msr.mtrr_def_type, 0xcff),
    {0x200, 0x20f, MSR_FIELD, offsetof(struct x86_state, msr.mtrr_var), UINT64_MAX},
    FIELD(0x250, msr.mtrr_fixed[0], UINT64_MAX),
    {0x258, 0x259, MSR_FIELD, offsetof(struct x86_state, msr.mtrr_fixed[1]),
     UINT64_MAX},
    {0x268, 0x26f, MSR_FIELD, offsetof(struct x86_state, msr.mtrr_fixed[3]),
     UINT64_MAX},
    {0x0fe, 0x0fe, MSR_CONST, 0, 0x508}, /* MTRRcap: 8 variable, fixed, WC */
    FIELD(0xc0000081, msr.star, UINT64_MAX),
    ADDR(0xc0000082, msr.lstar),
    ADDR(0xc0000083, msr.cstar),
    FIELD(0xc0000084, msr.sfmask, UINT32_MAX),
    ADDR(0xc0000102, msr.kernel_gs_base),
    FIELD(0xc0000103, msr.tsc_aux, UINT32_MAX),
    {0x017, 0x017, MSR_CONST, 0, 0},                         /* PLATFORM_ID */
    {0x08b, 0x08b, MSR_CONST, 0, UINT64_C(0x1000065) << 32}, /* microcode */
    {0x03a, 0x03a, MSR_CONST, 0, 1}, /* FEATURE_CONTROL: locked */
    {0x0ce, 0x0ce, MSR_CONST, 0, 0}, /* PLATFORM_INFO */
    {0x034, 0x034, MSR_CONST, 0, 0}, /* SMI count */
    {0x179, 0x179, MSR_CONST, 0, 0}, /* MCG_CAP: no banks */
    {0x17a, 0x17b, MSR_DROP, 0, 0},  /* MCG_STATUS, MCG_CTL */
    {0x0c1, 0x0c4, MSR_DROP, 0, 0},  /* counters of Intel's first model */
    {0x186, 0x189, MSR_DROP, 0, 0},
    {0xc0010000, 0xc0010007, MSR_DROP, 0, 0}, /* performance counters */
    {0xc0010200, 0xc001020b, MSR_DROP, 0, 0},
    {0xc0010010, 0xc0010010, MSR_DROP, 0, 0},     /* SYSCFG */
    {0xc0010015, 0xc0010015, MSR_DROP, 0, 0},     /* HWCR */
    {0xc001001f, 0xc001001f, MSR_DROP, 0, 0},     /* NB_CFG */
    {0xc0010055, 0xc0010055, MSR_DROP, 0, 0},     /* interrupt pending message */
    {0xc0010112, 0xc0010113, MSR_DROP, 0, 0},     /* SMM window */
    {0xc0010114, 0xc0010114, MSR_CONST, 0, 0x18}, /* VM_CR: SVM locked off */
    {0xc0010140, 0xc0010141, MSR_DROP, 0, 0},     /* OS-visible workarounds */
    {0xc0011020, 0xc0011023, MSR_DROP, 0, 0},     /* load-store, cache configuration */
    {0xc0011029, 0xc001102a, MSR_DROP, 0, 0},     /* decode configuration */
};

static const struct msr_row *find_row(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (msr >= rows[i].first && msr <= rows[i].last) {
            return &rows[i];
        }
    }
    return NULL;
}

static uint64_t *field(struct t0_cpu *c, const struct msr_row *r, uint32_t msr)
{
    return (uint64_t *)((uint8_t *)&c->s + r->off) + (msr - r->first);
}

static bool is_lapic_msr(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
           (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

enum {
    MSR_TSC = 0x10,
    MSR_TSC_ADJUST = 0x3b,
    MSR_PAT = 0x277,
    MSR_XSS = 0xda0,
    MSR_EFER = 0xc0000080,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
};

uint64_t t0_tsc(struct t0_cpu *c)
{
    return vm_clock_tsc(c->vcpu->vm->clock) +
           (uint64_t)x86_vcpu_of(c->vcpu)->tsc_offset;
}

void t0_tsc_changed(struct t0_cpu *c)
{
    c->t1.tsc_add = (uint64_t)x86_vcpu_of(c->vcpu)->tsc_offset -
                    vm_clock_tsc_start(c->vcpu->vm->clock);
}

static void set_tsc_offset(struct t0_cpu *c, int64_t offset)
{
    struct x86_vcpu *x = x86_vcpu_of(c->vcpu);
    x->tsc_offset = c->s.msr.tsc_offset = offset;
    t0_tsc_changed(c);
    if (x->pv) {
        kvm_pv_refresh(c->vcpu);
    }
}

bool t0_msr_read(struct t0_cpu *c, uint32_t msr, uint64_t *ret)
{
    const struct x86_cpu_model *m = c->core->model;
    switch (msr) {
    case MSR_TSC: *ret = t0_tsc(c); return true;
    case MSR_TSC_ADJUST:
        *ret = (uint64_t)x86_vcpu_of(c->vcpu)->tsc_offset;
        return x86_cpu_has(m, X86_FEAT_TSC_ADJUST);
    case MSR_PAT: *ret = c->s.msr.pat; return true;
    case MSR_XSS: *ret = c->s.xss; return x86_cpu_has(m, X86_FEAT_XSAVES);
    case MSR_EFER: *ret = c->s.efer; return true;
    case MSR_FS_BASE: *ret = c->s.seg[X86_FS].base; return true;
    case MSR_GS_BASE: *ret = c->s.seg[X86_GS].base; return true;
    default: break;
    }
    if (is_lapic_msr(msr)) {
        return lapic_msr_read(c->vcpu, msr, ret);
    }
    if (x86_vcpu_of(c->vcpu)->pv && kvm_pv_msr_read(c->vcpu, msr, ret)) {
        return true;
    }
    const struct msr_row *r = find_row(msr);
    if (!r) {
        t0_log_msr(c, msr, "read");
        return false;
    }
    *ret = r->kind == MSR_CONST ? r->mask : r->kind == MSR_DROP ? 0 : *field(c, r, msr);
    return true;
}

/* APM 2 3.1.7: LME cannot change while paging is on; LMA is the CPU's. */
static bool write_efer(struct t0_cpu *c, uint64_t v)
{
    uint64_t old = c->s.efer;
    uint64_t mask = x86_cpu_efer_mask(c->core->model) | X86_EFER_LMA;
    if ((v & ~mask) || (((old ^ v) & X86_EFER_LME) && (c->s.cr0 & X86_CR0_PG))) {
        return false;
    }
    c->s.efer = (v & ~X86_EFER_LMA) | (old & X86_EFER_LMA);
    if ((old ^ v) & X86_EFER_NXE) {
        t0_tlb_flush(c, true);
    }
    t0_update_mode(c);
    return true;
}

static bool write_pat(struct t0_cpu *c, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned type = v >> (i * 8) & 0xff;
        if (type > 7 || type == 2 || type == 3) {
            return false;
        }
    }
    c->s.msr.pat = v;
    return true;
}

static bool write_base(struct t0_cpu *c, unsigned seg, uint64_t v)
{
    if (!t0_canonical_base(c, v)) {
        return false;
    }
    c->s.seg[seg].base = v;
    t0_update_mode(c);
    return true;
}

static bool write_row(struct t0_cpu *c, uint32_t msr, uint64_t v)
{
    const struct msr_row *r = find_row(msr);
    if (!r) {
        t0_log_msr(c, msr, "write");
        return false;
    }
    switch (r->kind) {
    case MSR_DROP: return true;
    case MSR_CONST: return v == r->mask || msr == 0x8b;
    case MSR_ADDR:
        if (!t0_canonical_base(c, v)) {
            return false;
        }
        break;
    case MSR_FIELD:
        if (v & ~r->mask) {
            return false;
        }
        break;
    }
    *field(c, r, msr) = v;
    return true;
}

bool t0_msr_write(struct t0_cpu *c, uint32_t msr, uint64_t v)
{
    const struct x86_cpu_model *m = c->core->model;
    bool gp = false;
    switch (msr) {
    case MSR_TSC:
        set_tsc_offset(c, (int64_t)(v - vm_clock_tsc(c->vcpu->vm->clock)));
        return true;
    case MSR_TSC_ADJUST:
        if (!x86_cpu_has(m, X86_FEAT_TSC_ADJUST)) {
            return false;
        }
        set_tsc_offset(c, (int64_t)v);
        return true;
    case MSR_PAT: return write_pat(c, v);
    case MSR_XSS: return v == 0 && x86_cpu_has(m, X86_FEAT_XSAVES);
    case MSR_EFER: return write_efer(c, v);
    case MSR_FS_BASE: return write_base(c, X86_FS, v);
    case MSR_GS_BASE: return write_base(c, X86_GS, v);
    default: break;
    }
    if (is_lapic_msr(msr)) {
        return lapic_msr_write(c->vcpu, msr, v);
    }
    if (x86_vcpu_of(c->vcpu)->pv && kvm_pv_msr_write(c->vcpu, msr, v, &gp)) {
        return !gp;
    }
    return write_row(c, msr, v);
}

struct x86_cpuid t0_cpuid(struct t0_cpu *c, uint32_t leaf, uint32_t subleaf)
{
    uint64_t base = 0;
    struct x86_cpuid r;
    if (x86_vcpu_of(c->vcpu)->pv && kvm_pv_cpuid(c->vcpu, leaf, r.reg)) {
        return r;
    }
    lapic_msr_read(c->vcpu, MSR_APIC_BASE, &base);
    struct x86_cpuid_env env = {
        .apic_id = c->vcpu->index,
        .cr4 = c->s.cr4,
        .xcr0 = c->s.xcr0,
        .xss = c->s.xss,
        .apic_enabled = base >> 11 & 1,
        .tsc_khz = (uint32_t)vm_clock_tsc_khz(c->vcpu->vm->clock),
    };
    return x86_cpuid(c->core->model, &env, leaf, subleaf);
}
