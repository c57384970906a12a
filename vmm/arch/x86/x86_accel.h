#ifndef VMM_ARCH_X86_X86_ACCEL_H
#define VMM_ARCH_X86_X86_ACCEL_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/vm/vm.h"

struct lapic_msg;
struct vcpu;

/*
 * What an accelerator may do of the PC platform itself: KVM has local APICs, interrupt
 * controllers and paravirtual clocks in the kernel. accel_ops.init puts one of these
 * into vm->accel_arch; a group that is NULL is left to this folder and to the board's
 * devices.
 *
 * The structs of lapic.c, kvm_pv.c and the devices stay the form in which everything is
 * reset, saved and loaded: it is written into the accelerator with set and fetched with
 * get. vCPUs are stopped for both.
 */

/* The registers of a local APIC: word i is the one at offset 16 * i of its page. */
struct x86_apic_regs {
    uint64_t base; /* IA32_APIC_BASE */
    uint64_t tsc_deadline;
    bool nmi; /* one waits to be taken */
    uint32_t word[64];
};

struct x86_apic_ops {
    void (*get)(struct vcpu *vcpu, struct x86_apic_regs *ret);
    void (*set)(struct vcpu *vcpu, const struct x86_apic_regs *regs);

    /* Send a message; returns how many took it. Any thread. */
    unsigned (*deliver)(struct vm *vm, const struct lapic_msg *msg);
    /* The NMI pin. Any thread. */
    void (*nmi)(struct vcpu *vcpu);
    /* What pin @pin of the board's IOAPIC sends, for who ends its interrupts; NULL: it
     * is masked. Any thread. */
    void (*route)(struct vm *vm, unsigned pin, const struct lapic_msg *msg);
};

/* One of the 8259 pair. */
struct x86_pic_regs {
    uint8_t irr, imr, isr;
    uint8_t last_irr; /* levels of the inputs, for edges */
    uint8_t priority_add, vector_base;
    uint8_t elcr;
    uint8_t init_state, init4; /* which ICW comes next; ICW4 is wanted */
    bool read_isr, poll, special_mask, auto_eoi, rotate_on_auto_eoi, special_nested;
};

struct x86_ioapic_regs {
    uint64_t base;
    uint32_t select, id;
    uint32_t irr; /* levels of the inputs */
    uint64_t table[24];
};

/* The 8259 pair and the IOAPIC; only together with the local APICs. */
struct x86_pc_irq_ops {
    /* Wired as vmm/dev/pc/pc_irqs.h says. Any thread. */
    void (*set_gsi)(struct vm *vm, unsigned gsi, bool level);
    void (*set)(struct vm *vm, const struct x86_pic_regs pic[2],
                const struct x86_ioapic_regs *ioapic);
};

/* The registers of KVM's paravirtual interface, see kvm_pv.h. */
struct x86_pv_regs {
    uint64_t wall_clock, system_time, pv_eoi;
};

struct x86_pv_ops {
    void (*get)(struct vcpu *vcpu, struct x86_pv_regs *ret);
    void (*set)(struct vcpu *vcpu, const struct x86_pv_regs *regs);
};

struct x86_accel_ops {
    const struct x86_apic_ops *apic;
    const struct x86_pc_irq_ops *pc_irqs;
    const struct x86_pv_ops *pv;

    /* Line 20 of the address bus: off, it is low for every access of the processors. A
     * vCPU that causes the change sees it at its next instruction, the others soon. It
     * is on at the start. Any thread. NULL: it is always on. */
    void (*set_a20)(struct vm *vm, bool on);
};

static inline const struct x86_apic_ops *x86_accel_apic(const struct vm *vm)
{
    const struct x86_accel_ops *ops = vm->accel_arch;
    return ops ? ops->apic : NULL;
}

static inline const struct x86_pc_irq_ops *x86_accel_pc_irqs(const struct vm *vm)
{
    const struct x86_accel_ops *ops = vm->accel_arch;
    return ops ? ops->pc_irqs : NULL;
}

static inline const struct x86_pv_ops *x86_accel_pv(const struct vm *vm)
{
    const struct x86_accel_ops *ops = vm->accel_arch;
    return ops ? ops->pv : NULL;
}

static inline void x86_accel_set_a20(struct vm *vm, bool on)
{
    const struct x86_accel_ops *ops = vm->accel_arch;
    if (ops && ops->set_a20) {
        ops->set_a20(vm, on);
    }
}

#endif
