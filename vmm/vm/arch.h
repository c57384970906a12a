#ifndef VMM_VM_ARCH_H
#define VMM_VM_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

struct vm;
struct vcpu;

/*
 * What the vCPU loop needs to know of an architecture, without naming one.
 * vmm/arch/x86 provides one; tests/toy_arch a second that only links.
 */
struct arch_ops {
    const char *name;   /* "x86_64" */
    size_t state_size;  /* bytes of the canonical CPU state, lib/isa */
    unsigned phys_bits; /* most guest-physical address bits */
    unsigned port_bits; /* width of the port space, 0: the arch has no ports */
    unsigned max_vcpus;

    /* Allocate / free vcpu->arch (local interrupt controller, ...). */
    bool (*vcpu_new)(struct vcpu *vcpu, GError **error);
    void (*vcpu_free)(struct vcpu *vcpu);

    /* Bring @vcpu and its local controller to the state after power-on. Only the
     * first vCPU is powered. Thread: vCPU stopped. */
    void (*vcpu_reset)(struct vcpu *vcpu);

    /* Whether a halted @vcpu has a reason to run again. Thread: the vCPU's. */
    bool (*vcpu_has_work)(struct vcpu *vcpu);

    /* Guest time at which to ask vcpu_has_work() again even if nobody wakes the
     * halted @vcpu: its local timer's deadline. UINT64_MAX: never. NULL: the arch
     * wakes by vcpu_kick() alone. Thread: the vCPU's. */
    uint64_t (*vcpu_wake_ns)(struct vcpu *vcpu);

    /* VCPU_ATTN_RESET was set on @vcpu. Thread: the vCPU's. */
    void (*vcpu_attention_reset)(struct vcpu *vcpu);

    /* Write the registers of @state as text. */
    void (*dump)(const void *state, FILE *out);
};

#endif
