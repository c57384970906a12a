#ifndef VMM_ACCEL_KVM_KVM_H
#define VMM_ACCEL_KVM_KVM_H

#include "lib/isa/x86/cpu_model.h"
#include "vmm/vm/accel.h"

/*
 * -accel kvm: guest code runs on the processor's virtualization extensions, through
 * the kernel's /dev/kvm. Options, as in QEMU:
 *
 *   kernel-irqchip=on|split|off  who has the interrupt controllers: the kernel all of
 *                                them (default); the kernel the local APICs and the VMM
 *                                the rest; the VMM all. With off the guest has neither
 *                                x2APIC nor the APIC timer's TSC-deadline mode.
 *   dirty-ring-size=N            dirty pages come through a ring of N entries per vCPU
 *                                (a power of two), not through bitmaps; 0: bitmaps
 *   device=PATH                  the device, default /dev/kvm
 */
extern const struct accel_ops kvm_accel_ops;

/*
 * What guests can have under KVM here: the bound of CPU models. Where /dev/kvm cannot
 * be asked it is what the host has; making the VM then says why.
 */
void kvm_features(struct x86_featset *ret);

#endif
