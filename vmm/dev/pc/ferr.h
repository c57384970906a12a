#ifndef VMM_DEV_PC_FERR_H
#define VMM_DEV_PC_FERR_H

/*
 * The coprocessor's interrupt of a PC/AT: FERR# is global input 13, and a write to port
 * F0h asserts IGNNE#. See vmm/arch/x86/x86_vcpu.h.
 */
extern const struct device_type ferr_type;

#endif
