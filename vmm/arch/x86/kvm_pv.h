#ifndef VMM_ARCH_X86_KVM_PV_H
#define VMM_ARCH_X86_KVM_PV_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/arch/x86/x86_vcpu.h"

struct state_table;

/*
 * KVM's paravirtual interface as a guest sees it: the CPUID leaves from 0x40000000,
 * kvmclock (system time and wall clock) and the paravirtual EOI. With it Linux takes
 * its time from the TSC instead of reading a timer device.
 * Facts: Linux, Documentation/virt/kvm/x86/{cpuid,msr}.rst.
 *
 * Everything here is for the vCPU's own thread (or any while it is stopped).
 */

#define KVM_PV_CPUID_FIRST 0x40000000u
#define KVM_PV_CPUID_LAST  0x40000001u

#define MSR_KVM_WALL_CLOCK  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME 0x4b564d01u
#define MSR_KVM_PV_EOI      0x4b564d04u

struct kvm_pv;

/* Make / free the paravirtual state of @vcpu; the caller stores it in vcpu->arch. */
struct kvm_pv *kvm_pv_new(struct vcpu *vcpu);
void kvm_pv_free(struct kvm_pv *pv);

/* Power-on and INIT: clocks and EOI are off. */
void kvm_pv_reset(struct vcpu *vcpu);

/*
 * Leaf @leaf as {eax, ebx, ecx, edx}. False when it is not one of ours (or the vCPU
 * has no paravirtual interface): the CPU's own rule applies then. CPUID.1:ECX bit 31
 * (hypervisor) is the CPU model's to set.
 */
bool kvm_pv_cpuid(const struct vcpu *vcpu, uint32_t leaf, uint32_t ret[4]);

/*
 * Whether the MSR is ours: false means not handled (try the next, at last #GP).
 * A write with reserved bits set is handled by returning true with *ret_gp set.
 */
bool kvm_pv_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *ret);
bool kvm_pv_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value, bool *ret_gp);

/*
 * The relation of guest TSC and guest time changed (the VM was stopped and resumed,
 * or the guest wrote its TSC): write the clock page again.
 */
void kvm_pv_refresh(struct vcpu *vcpu);

extern const struct state_table kvm_pv_state; /* its object is the struct kvm_pv */

#endif
