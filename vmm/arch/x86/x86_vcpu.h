#ifndef VMM_ARCH_X86_X86_VCPU_H
#define VMM_ARCH_X86_X86_VCPU_H

#include <stdint.h>

#include "vmm/vm/vcpu.h"

struct lapic;
struct kvm_pv;

/*
 * What vcpu->arch points at on x86: the parts of a processor package that are not
 * its registers. Made by arch_ops.vcpu_new, after the accelerator's vcpu_new.
 */
struct x86_vcpu {
    struct lapic *lapic; /* lapic_new() */
    struct kvm_pv *pv;   /* kvm_pv_new(); NULL: the guest sees no hypervisor leaves */

    /* Guest TSC = vm_clock_tsc() + tsc_offset: the accelerator keeps it equal to
     * x86_state.msr.tsc_offset for the APIC timer and kvmclock, and calls
     * kvm_pv_refresh() when it changes. Thread: the vCPU's. */
    int64_t tsc_offset;
};

static inline struct x86_vcpu *x86_vcpu_of(const struct vcpu *vcpu)
{
    return vcpu->arch;
}

#endif
