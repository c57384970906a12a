#ifndef VMM_ARCH_X86_ARCH_H
#define VMM_ARCH_X86_ARCH_H

#include "vmm/vm/arch.h"

struct vcpu;
struct x86_state;

/*
 * x86 for the vCPU loop: vcpu->arch is a struct x86_vcpu, vm->cpu_model a struct
 * x86_cpu_model (NULL: tests, a processor with everything), the canonical state a
 * struct x86_state.
 *
 * A model with the "hypervisor" feature gets KVM's paravirtual interface.
 */
extern const struct arch_ops x86_arch;

#endif
