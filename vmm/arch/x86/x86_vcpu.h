#ifndef VMM_ARCH_X86_X86_VCPU_H
#define VMM_ARCH_X86_X86_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/vm/irq.h"
#include "vmm/vm/vcpu.h"

struct vm;
struct x86_state;

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

    struct x86_smm {
        const struct x86_smm_ops *ops; /* NULL: SMIs are not taken */
        void *opaque;
        bool active; /* between an SMI and its RSM. Thread: the vCPU's */
    } smm;

    struct x86_ferr {
        struct irq_line line; /* where FERR# goes; fn NULL: to no board */
        _Atomic bool on;      /* FERR# is asserted */
        _Atomic bool ignne;   /* IGNNE# is: x87 instructions go on nevertheless */
    } ferr;
};

/*
 * The x87's exceptions as the PC/AT has them, while CR0.NE is clear (SDM 1 appendix D):
 * the instruction that would raise #MF asserts FERR#, an interrupt on a PC, and waits.
 * The handler writes port F0h, which takes the interrupt back and asserts IGNNE#, so
 * that x87 instructions may be executed until the exception is cleared.
 */

/* Where FERR# of all vCPUs goes. Boards that leave this out have #MF always. Thread:
 * main, before the start. */
void x86_connect_ferr(struct vm *vm, struct irq_line line);

/* FERR# of @vcpu; off ends IGNNE# too. Thread: the vCPU's. */
void x86_set_ferr(struct vcpu *vcpu, bool on);

/*
 * System management mode (APM 2 chapter 10, SDM 3 chapter 32), of which the processor's
 * side is an event between two instructions, above NMI in priority, and RSM. What is
 * saved where, where execution begins and what memory is seen meanwhile is the
 * chipset's: a board with SMRAM provides these. Both work on the canonical state in
 * place, on the vCPU's thread, with guest code not running.
 */
struct x86_smm_ops {
    /* An SMI is taken: save @state in SMRAM, show SMRAM to @vcpu, and make @state the
     * one that SMM begins with. */
    void (*enter)(void *opaque, struct vcpu *vcpu, struct x86_state *state);
    /* RSM: the reverse. False: what was saved is not valid, the processor shuts down.
     */
    bool (*resume)(void *opaque, struct vcpu *vcpu, struct x86_state *state);
};

/* Let vCPUs of @vm take SMIs. Without, messages that are SMIs find nobody, and RSM is
 * #UD, as it is outside of SMM. Thread: main, before the start. */
void x86_connect_smm(struct vm *vm, const struct x86_smm_ops *ops, void *opaque);

/* Port F0h was written. Any thread. */
void x86_assert_ignne(struct vm *vm);

static inline struct x86_vcpu *x86_vcpu_of(const struct vcpu *vcpu)
{
    return vcpu->arch;
}

#endif
