#include "vmm/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/clock.h"

/*
 * Between struct x86_state and KVM's registers. Most of it is another spelling of the
 * same; what is not:
 *
 * FPU         KVM gives the XSAVE area in its standard form. A component whose bit in
 *             XSTATE_BV is clear is in its initial state, whatever its bytes say.
 * Activity    with local APICs in the kernel it is KVM's MP state, else ours.
 * CR8         without them it passes through kvm_run at every entry and belongs to
 *             lapic.c.
 * TSC         the kernel's offset to the host's counter, where it lets us set that (it
 *             is exact); else IA32_TSC, written. A KVM that offsets nothing is not
 *             told; the value is only kept.
 * Events      an exception, NMI or interrupt whose delivery a fault interrupted. An
 *             NMI that only waits goes back to lapic.c.
 * PDPTRs      are loaded from memory again, as a write to CR3 does.
 *
 * Each of the MSRs that KVM does not have here must keep the value of power-on.
 */

#define MSR_TSC 0x10u
#define MSR_XSS 0xda0u

struct msr_row {
    uint32_t msr;
    uint16_t off; /* in struct x86_state */
    const char *name;
};

#define ROW(msr, field)                                \
    {                                                  \
        msr, offsetof(struct x86_state, field), #field \
    }

static const struct msr_row rows[] = {
    ROW(0xc0000081, msr.star),           ROW(0xc0000082, msr.lstar),
    ROW(0xc0000083, msr.cstar),          ROW(0xc0000084, msr.sfmask),
    ROW(0xc0000102, msr.kernel_gs_base), ROW(0xc0000103, msr.tsc_aux),
    ROW(0x174, msr.sysenter_cs),         ROW(0x175, msr.sysenter_esp),
    ROW(0x176, msr.sysenter_eip),        ROW(0x277, msr.pat),
    ROW(0x1a0, msr.misc_enable),         ROW(0x1d9, msr.debugctl),
    ROW(0x048, msr.spec_ctrl),           ROW(MSR_XSS, xss),
    ROW(0x2ff, msr.mtrr_def_type),       ROW(0x250, msr.mtrr_fixed[0]),
    ROW(0x258, msr.mtrr_fixed[1]),       ROW(0x259, msr.mtrr_fixed[2]),
    ROW(0x268, msr.mtrr_fixed[3]),       ROW(0x269, msr.mtrr_fixed[4]),
    ROW(0x26a, msr.mtrr_fixed[5]),       ROW(0x26b, msr.mtrr_fixed[6]),
    ROW(0x26c, msr.mtrr_fixed[7]),       ROW(0x26d, msr.mtrr_fixed[8]),
    ROW(0x26e, msr.mtrr_fixed[9]),       ROW(0x26f, msr.mtrr_fixed[10]),
    ROW(0x200, msr.mtrr_var[0][0]),      ROW(0x201, msr.mtrr_var[0][1]),
    ROW(0x202, msr.mtrr_var[1][0]),      ROW(0x203, msr.mtrr_var[1][1]),
    ROW(0x204, msr.mtrr_var[2][0]),      ROW(0x205, msr.mtrr_var[2][1]),
    ROW(0x206, msr.mtrr_var[3][0]),      ROW(0x207, msr.mtrr_var[3][1]),
    ROW(0x208, msr.mtrr_var[4][0]),      ROW(0x209, msr.mtrr_var[4][1]),
    ROW(0x20a, msr.mtrr_var[5][0]),      ROW(0x20b, msr.mtrr_var[5][1]),
    ROW(0x20c, msr.mtrr_var[6][0]),      ROW(0x20d, msr.mtrr_var[6][1]),
    ROW(0x20e, msr.mtrr_var[7][0]),      ROW(0x20f, msr.mtrr_var[7][1]),
};
_Static_assert(ARRAY_LEN(rows) <= 64, "kvm_vm.msrs has a bit for each");

struct msr_list {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[ARRAY_LEN(rows)];
};

static uint64_t *row_field(const struct msr_row *r, struct x86_state *s)
{
    return (uint64_t *)((uint8_t *)s + r->off);
}

static bool has_row(const struct kvm_vm *kv, unsigned i)
{
    return kv->msrs >> i & 1;
}

bool kvm_get_msr(struct kvm_cpu *c, uint32_t msr, uint64_t *ret)
{
    struct msr_list l = {.head.nmsrs = 1, .entries[0].index = msr};
    if (kvm_ioctl(c->fd, KVM_GET_MSRS, &l) != 1) {
        return false;
    }
    *ret = l.entries[0].data;
    return true;
}

bool kvm_set_msr(struct kvm_cpu *c, uint32_t msr, uint64_t value)
{
    struct msr_list l = {.head.nmsrs = 1, .entries[0] = {.index = msr, .data = value}};
    return kvm_ioctl(c->fd, KVM_SET_MSRS, &l) == 1;
}

void kvm_probe_msrs(struct kvm_cpu *c)
{
    uint64_t value;
    c->kv->msrs = 0;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (kvm_get_msr(c, rows[i].msr, &value) && kvm_set_msr(c, rows[i].msr, value)) {
            c->kv->msrs |= UINT64_C(1) << i;
        }
    }
}

static void get_msrs(struct kvm_cpu *c, struct x86_state *s)
{
    struct msr_list l = {0};
    unsigned where[ARRAY_LEN(rows)];
    unsigned n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (has_row(c->kv, i)) {
            where[n] = i;
            l.entries[n++].index = rows[i].msr;
        }
    }
    l.head.nmsrs = n;
    int got = kvm_ioctl(c->fd, KVM_GET_MSRS, &l);
    for (int i = 0; i < got; i++) {
        *row_field(&rows[where[i]], s) = l.entries[i].data;
    }
}

static bool set_msrs(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    struct msr_list l = {0};
    struct x86_state fresh;
    unsigned where[ARRAY_LEN(rows)];
    unsigned n = 0;
    x86_state_reset(&fresh, 0, false);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t value = *row_field(&rows[i], (struct x86_state *)s);
        if (has_row(c->kv, i)) {
            where[n] = i;
            l.entries[n++] =
                (struct kvm_msr_entry){.index = rows[i].msr, .data = value};
        } else if (value != *row_field(&rows[i], &fresh)) {
            return error_msg(error, "%s: KVM has no such register here, for 0x%" PRIx64,
                             rows[i].name, value);
        }
    }
    l.head.nmsrs = n;
    int done = kvm_ioctl(c->fd, KVM_SET_MSRS, &l);
    if (done < 0) {
        return error_errno(error, errno, "KVM_SET_MSRS");
    }
    return done == (int)n ||
           error_msg(error, "%s: KVM refuses 0x%" PRIx64, rows[where[done]].name,
                     (uint64_t)l.entries[done].data);
}

/* --- TSC ------------------------------------------------------------------- */

static uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

static struct kvm_device_attr tsc_attr(uint64_t *value)
{
    return (struct kvm_device_attr){.group = KVM_VCPU_TSC_CTRL,
                                    .attr = KVM_VCPU_TSC_OFFSET,
                                    .addr = (uintptr_t)value};
}

static bool get_kernel_offset(struct kvm_cpu *c, uint64_t *ret)
{
    struct kvm_device_attr a = tsc_attr(ret);
    return kvm_ioctl(c->fd, KVM_GET_DEVICE_ATTR, &a) == 0;
}

static bool set_kernel_offset(struct kvm_cpu *c, uint64_t value)
{
    struct kvm_device_attr a = tsc_attr(&value);
    return kvm_ioctl(c->fd, KVM_SET_DEVICE_ATTR, &a) == 0;
}

void kvm_probe_tsc(struct kvm_cpu *c)
{
    const uint64_t probe = UINT64_C(0x123456789000);
    const uint64_t second = vm_clock_tsc_khz(c->vcpu->vm->clock) * 1000;
    uint64_t was, value = 0, later = 0;
    c->kv->tsc_way = KVM_TSC_KEPT;
    if (get_kernel_offset(c, &was) && set_kernel_offset(c, probe) &&
        get_kernel_offset(c, &value) && value == probe && set_kernel_offset(c, was)) {
        c->kv->tsc_way = KVM_TSC_OFFSET;
        return;
    }
    /* Else as a counter: it goes on from what is written, also when that jumps. */
    if (kvm_set_msr(c, MSR_TSC, probe) && kvm_get_msr(c, MSR_TSC, &value) &&
        kvm_set_msr(c, MSR_TSC, 3 * probe) && kvm_get_msr(c, MSR_TSC, &later) &&
        value - probe - 1 < second && later - 3 * probe - 1 < second) {
        c->kv->tsc_way = KVM_TSC_MSR;
    }
}

static int64_t get_tsc_offset(struct kvm_cpu *c)
{
    uint64_t value = 0;
    if (c->kv->tsc_way == KVM_TSC_OFFSET && get_kernel_offset(c, &value)) {
        return (int64_t)(value - c->kv->tsc_base);
    }
    if (c->kv->tsc_way == KVM_TSC_MSR && kvm_get_msr(c, MSR_TSC, &value)) {
        return (int64_t)(value - host_tsc() - c->kv->tsc_base);
    }
    return x86_vcpu_of(c->vcpu)->tsc_offset;
}

static bool set_tsc_offset(struct kvm_cpu *c, int64_t offset)
{
    uint64_t value = c->kv->tsc_base + (uint64_t)offset;
    switch (c->kv->tsc_way) {
    case KVM_TSC_OFFSET: return set_kernel_offset(c, value);
    case KVM_TSC_MSR: return kvm_set_msr(c, MSR_TSC, host_tsc() + value);
    case KVM_TSC_KEPT: break;
    }
    return true;
}

/* --- Segments and control registers ---------------------------------------- */

static struct x86_segment get_segment(const struct kvm_segment *k)
{
    unsigned attr = k->type | (unsigned)k->s << 4 | (unsigned)k->dpl << 5 |
                    (unsigned)k->present << 7 | (unsigned)k->avl << 12 |
                    (unsigned)k->l << 13 | (unsigned)k->db << 14 | (unsigned)k->g << 15;
    if (k->unusable) {
        attr &= ~(unsigned)X86_SEG_P;
    }
    return (struct x86_segment){
        .sel = k->selector, .attr = (uint16_t)attr, .limit = k->limit, .base = k->base};
}

static struct kvm_segment set_segment(const struct x86_segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & X86_SEG_TYPE,
        .s = s->attr >> 4 & 1,
        .dpl = s->attr >> 5 & 3,
        .present = s->attr >> 7 & 1,
        .avl = s->attr >> 12 & 1,
        .l = s->attr >> 13 & 1,
        .db = s->attr >> 14 & 1,
        .g = s->attr >> 15 & 1,
        .unusable = !(s->attr & X86_SEG_P),
    };
}

static void get_sregs(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_sregs k = {0};
    kvm_ioctl(c->fd, KVM_GET_SREGS, &k);
    const struct kvm_segment *in[X86_NB_SEG] = {
        [X86_ES] = &k.es, [X86_CS] = &k.cs, [X86_SS] = &k.ss,
        [X86_DS] = &k.ds, [X86_FS] = &k.fs, [X86_GS] = &k.gs,
    };
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        s->seg[i] = get_segment(in[i]);
    }
    s->ldtr = get_segment(&k.ldt);
    s->tr = get_segment(&k.tr);
    s->gdtr = (struct x86_dtable){.base = k.gdt.base, .limit = k.gdt.limit};
    s->idtr = (struct x86_dtable){.base = k.idt.base, .limit = k.idt.limit};
    s->cpl = k.ss.dpl;
    s->cr0 = k.cr0;
    s->cr2 = k.cr2;
    s->cr3 = k.cr3;
    s->cr4 = k.cr4;
    s->cr8 = k.cr8;
    s->efer = k.efer;
}

static bool set_sregs(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    struct kvm_sregs k = {0};
    struct kvm_segment *out[X86_NB_SEG] = {
        [X86_ES] = &k.es, [X86_CS] = &k.cs, [X86_SS] = &k.ss,
        [X86_DS] = &k.ds, [X86_FS] = &k.fs, [X86_GS] = &k.gs,
    };
    uint64_t base = 0;
    if (kvm_has_apic(c->kv)) {
        struct kvm_sregs now;
        if (kvm_ioctl(c->fd, KVM_GET_SREGS, &now) < 0) {
            return error_errno(error, errno, "KVM_GET_SREGS");
        }
        base = now.apic_base;
    } else {
        lapic_msr_read(c->vcpu, MSR_APIC_BASE, &base);
    }
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        *out[i] = set_segment(&s->seg[i]);
    }
    k.ss.dpl = s->cpl & 3; /* where KVM has the privilege level */
    k.ldt = set_segment(&s->ldtr);
    k.tr = set_segment(&s->tr);
    k.gdt = (struct kvm_dtable){.base = s->gdtr.base, .limit = s->gdtr.limit};
    k.idt = (struct kvm_dtable){.base = s->idtr.base, .limit = s->idtr.limit};
    k.cr0 = s->cr0;
    k.cr2 = s->cr2;
    k.cr3 = s->cr3;
    k.cr4 = s->cr4;
    k.cr8 = s->cr8;
    k.efer = s->efer;
    k.apic_base = c->apic_base = base;
    return kvm_ioctl(c->fd, KVM_SET_SREGS, &k) == 0 ||
           error_errno(error, errno,
                       "KVM refuses cr0 0x%" PRIx64 ", cr3 0x%" PRIx64
                       ", cr4 0x%" PRIx64 ", efer 0x%" PRIx64,
                       s->cr0, s->cr3, s->cr4, s->efer);
}

static void get_regs(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_regs k = {0};
    kvm_ioctl(c->fd, KVM_GET_REGS, &k);
    const uint64_t gpr[X86_NB_GPR] = {k.rax, k.rcx, k.rdx, k.rbx, k.rsp, k.rbp,
                                      k.rsi, k.rdi, k.r8,  k.r9,  k.r10, k.r11,
                                      k.r12, k.r13, k.r14, k.r15};
    memcpy(s->gpr, gpr, sizeof(gpr));
    s->rip = k.rip;
    s->rflags = k.rflags;
}

static bool set_regs(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    const uint64_t *g = s->gpr;
    struct kvm_regs k = {
        .rax = g[X86_RAX],
        .rcx = g[X86_RCX],
        .rdx = g[X86_RDX],
        .rbx = g[X86_RBX],
        .rsp = g[X86_RSP],
        .rbp = g[X86_RBP],
        .rsi = g[X86_RSI],
        .rdi = g[X86_RDI],
        .r8 = g[X86_R8],
        .r9 = g[X86_R9],
        .r10 = g[X86_R10],
        .r11 = g[X86_R11],
        .r12 = g[X86_R12],
        .r13 = g[X86_R13],
        .r14 = g[X86_R14],
        .r15 = g[X86_R15],
        .rip = s->rip,
        .rflags = s->rflags | X86_FL_R1,
    };
    return kvm_ioctl(c->fd, KVM_SET_REGS, &k) == 0 ||
           error_errno(error, errno, "KVM_SET_REGS");
}

static void get_debugregs(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_debugregs k = {0};
    kvm_ioctl(c->fd, KVM_GET_DEBUGREGS, &k);
    for (unsigned i = 0; i < 4; i++) {
        s->dr[i] = k.db[i];
    }
    s->dr[6] = k.dr6;
    s->dr[7] = k.dr7;
}

static bool set_debugregs(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    struct kvm_debugregs k = {.db = {s->dr[0], s->dr[1], s->dr[2], s->dr[3]},
                              .dr6 = s->dr[6],
                              .dr7 = s->dr[7]};
    return kvm_ioctl(c->fd, KVM_SET_DEBUGREGS, &k) == 0 ||
           error_errno(error, errno, "KVM refuses dr6 0x%" PRIx64 ", dr7 0x%" PRIx64,
                       s->dr[6], s->dr[7]);
}

/* --- FPU ------------------------------------------------------------------- */

/* Offsets in the XSAVE area's standard form (APM 2 11.5.2). */
enum {
    XS_FCW = 0,
    XS_FSW = 2,
    XS_FTW = 4,
    XS_FOP = 6,
    XS_FIP = 8,
    XS_FDP = 16,
    XS_MXCSR = 24,
    XS_ST = 32,
    XS_XMM = 160,
    XS_BV = 512,
    XS_AVX = 576, /* what every processor with AVX has */
};

static void get_fpu(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_xsave area = {0};
    const uint8_t *x = (const uint8_t *)area.region;
    struct x86_fpu *f = &s->fpu;
    kvm_ioctl(c->fd, KVM_GET_XSAVE, &area);
    uint64_t bv = le64_get(x + XS_BV);
    memset(f, 0, sizeof(*f));
    f->fcw = 0x37f;
    f->mxcsr = le32_get(x + XS_MXCSR);
    if (bv & X86_XCR0_X87) {
        f->fcw = le16_get(x + XS_FCW);
        f->fsw = le16_get(x + XS_FSW);
        f->ftw = x[XS_FTW];
        f->fop = le16_get(x + XS_FOP) & 0x7ff;
        f->fip = le64_get(x + XS_FIP);
        f->fdp = le64_get(x + XS_FDP);
        for (unsigned i = 0; i < 8; i++) {
            memcpy(f->st[i], x + XS_ST + 16 * i, 10);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        if (bv & X86_XCR0_SSE) {
            memcpy(f->ymm[i], x + XS_XMM + 16 * i, 16);
        }
        if (bv & X86_XCR0_AVX) {
            memcpy(f->ymm[i] + 16, x + XS_AVX + 16 * i, 16);
        }
    }
}

static bool set_fpu(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    struct kvm_xsave area = {0};
    uint8_t *x = (uint8_t *)area.region;
    const struct x86_fpu *f = &s->fpu;
    uint64_t bv = X86_XCR0_X87 | X86_XCR0_SSE;
    le16_put(x + XS_FCW, f->fcw);
    le16_put(x + XS_FSW, f->fsw);
    x[XS_FTW] = f->ftw;
    le16_put(x + XS_FOP, f->fop);
    le64_put(x + XS_FIP, f->fip);
    le64_put(x + XS_FDP, f->fdp);
    le32_put(x + XS_MXCSR, f->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(x + XS_ST + 16 * i, f->st[i], 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        static const uint8_t zero[16];
        memcpy(x + XS_XMM + 16 * i, f->ymm[i], 16);
        memcpy(x + XS_AVX + 16 * i, f->ymm[i] + 16, 16);
        if (memcmp(f->ymm[i] + 16, zero, 16) != 0) {
            bv |= X86_XCR0_AVX;
        }
    }
    le64_put(x + XS_BV, bv);
    return kvm_ioctl(c->fd, KVM_SET_XSAVE, &area) == 0 ||
           error_errno(error, errno, "KVM refuses the FPU state, mxcsr 0x%x%s",
                       f->mxcsr,
                       bv & X86_XCR0_AVX ? ", upper halves of YMM not zero" : "");
}

static bool set_xcr0(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    struct kvm_xcrs k = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = s->xcr0}};
    if (!c->kv->has_xcrs) {
        return s->xcr0 == X86_XCR0_X87 ||
               error_msg(error, "xcr0: KVM has no such register here, for 0x%" PRIx64,
                         s->xcr0);
    }
    return kvm_ioctl(c->fd, KVM_SET_XCRS, &k) == 0 ||
           error_errno(error, errno, "KVM refuses xcr0 0x%" PRIx64, s->xcr0);
}

static void get_xcr0(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_xcrs k = {0};
    s->xcr0 = X86_XCR0_X87;
    if (!c->kv->has_xcrs || kvm_ioctl(c->fd, KVM_GET_XCRS, &k) < 0) {
        return;
    }
    for (unsigned i = 0; i < MIN(k.nr_xcrs, ARRAY_LEN(k.xcrs)); i++) {
        if (k.xcrs[i].xcr == 0) {
            s->xcr0 = k.xcrs[i].value;
        }
    }
}

/* --- Events ---------------------------------------------------------------- */

static void get_events(struct kvm_cpu *c, struct x86_state *s)
{
    struct kvm_vcpu_events k = {0};
    kvm_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &k);
    s->int_shadow = k.interrupt.shadow;
    s->nmi_blocked = k.nmi.masked;
    memset(&s->event, 0, sizeof(s->event));
    if (k.exception.injected || k.exception.pending) {
        s->event.pending = true;
        s->event.vector = k.exception.nr;
        s->event.has_error = k.exception.has_error_code;
        s->event.error = k.exception.error_code;
    } else if (k.nmi.injected) {
        s->event.pending = true;
        s->event.vector = X86_EXC_NMI;
    } else if (k.interrupt.injected) {
        s->event.pending = true;
        s->event.vector = k.interrupt.nr;
        s->event.is_soft = k.interrupt.soft;
    }
    if (k.nmi.pending && !kvm_has_apic(c->kv)) {
        struct lapic_msg msg = {.dest = c->vcpu->index, .mode = LAPIC_MODE_NMI};
        k.nmi.pending = 0;
        k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
        if (kvm_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &k) == 0) {
            lapic_deliver(c->vcpu->vm, &msg);
        }
    }
}

static bool set_events(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    /* An NMI that waits belongs to the local APIC: lapic.c's, or see kvm_irq.c. */
    struct kvm_vcpu_events k = {
        .flags = KVM_VCPUEVENT_VALID_SHADOW |
                 (kvm_has_apic(c->kv) ? 0 : KVM_VCPUEVENT_VALID_NMI_PENDING),
        .interrupt.shadow =
            s->int_shadow ? KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS : 0,
        .nmi.masked = s->nmi_blocked,
    };
    if (s->event.pending && s->event.vector == X86_EXC_NMI) {
        k.nmi.injected = 1;
    } else if (s->event.pending && (s->event.vector >= 32 || s->event.is_soft)) {
        k.interrupt.injected = 1;
        k.interrupt.nr = s->event.vector;
        k.interrupt.soft = s->event.is_soft;
    } else if (s->event.pending) {
        k.exception.injected = 1;
        k.exception.nr = s->event.vector;
        k.exception.has_error_code = s->event.has_error;
        k.exception.error_code = s->event.error;
    }
    return kvm_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &k) == 0 ||
           error_errno(error, errno, "KVM refuses the event in delivery, vector %u",
                       s->event.vector);
}

static enum x86_activity get_activity(struct kvm_cpu *c)
{
    struct kvm_mp_state mp = {0};
    if (!kvm_has_apic(c->kv)) {
        return c->activity;
    }
    kvm_ioctl(c->fd, KVM_GET_MP_STATE, &mp);
    switch (mp.mp_state) {
    case KVM_MP_STATE_HALTED: return X86_HALTED;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: return X86_WAIT_SIPI;
    default: return c->activity == X86_SHUTDOWN ? X86_SHUTDOWN : X86_ACTIVE;
    }
}

static bool set_activity(struct kvm_cpu *c, const struct x86_state *s, GError **error)
{
    static const uint32_t mp_states[] = {
        [X86_ACTIVE] = KVM_MP_STATE_RUNNABLE,
        [X86_HALTED] = KVM_MP_STATE_HALTED,
        [X86_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
        [X86_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,
    };
    c->activity = s->activity;
    if (!kvm_has_apic(c->kv)) {
        return true;
    }
    struct kvm_mp_state mp = {.mp_state = mp_states[s->activity]};
    if (kvm_ioctl(c->fd, KVM_SET_MP_STATE, &mp) < 0) {
        return error_errno(error, errno, "KVM refuses MP state %u", mp.mp_state);
    }
    /* The kernel waits for INIT and SIPI itself, inside run(). */
    vcpu_set_powered(c->vcpu, s->activity != X86_SHUTDOWN);
    return true;
}

/* --- The whole ------------------------------------------------------------- */

void kvm_get_state(struct vcpu *vcpu, void *ret_state)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    struct x86_state *s = ret_state;
    x86_state_reset(s, 0, false);
    get_regs(c, s);
    get_sregs(c, s);
    get_fpu(c, s);
    get_xcr0(c, s);
    get_msrs(c, s);
    if (c->kv->has_debugregs) {
        get_debugregs(c, s);
    }
    get_events(c, s);
    s->activity = get_activity(c);
    s->msr.tsc_offset = get_tsc_offset(c);
    if (!kvm_has_apic(c->kv)) {
        s->cr8 = lapic_get_cr8(vcpu);
    }
}

bool kvm_set_state(struct vcpu *vcpu, const void *state, GError **error)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    const struct x86_state *s = state;
    if (!set_sregs(c, s, error) || !set_regs(c, s, error) || !set_xcr0(c, s, error) ||
        !set_fpu(c, s, error) || !set_msrs(c, s, error) ||
        (c->kv->has_debugregs && !set_debugregs(c, s, error)) ||
        !set_events(c, s, error) || !set_activity(c, s, error)) {
        return false;
    }
    if (!set_tsc_offset(c, s->msr.tsc_offset)) {
        return error_errno(error, errno, "msr.tsc_offset: KVM refuses 0x%" PRIx64,
                           (uint64_t)s->msr.tsc_offset);
    }
    x86_vcpu_of(vcpu)->tsc_offset = s->msr.tsc_offset;
    if (!kvm_has_apic(c->kv)) {
        lapic_set_cr8(vcpu, (unsigned)s->cr8);
    }
    c->run->if_flag = s->rflags >> 9 & 1;
    c->run->ready_for_interrupt_injection = 0;
    c->io_pending = false;
    return true;
}
