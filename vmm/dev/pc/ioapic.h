#ifndef VMM_DEV_PC_IOAPIC_H
#define VMM_DEV_PC_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct device_type;
struct x86_ioapic_regs;

/*
 * The I/O APIC: 24 pins, each with a redirection entry that says what message goes
 * to which local APICs. Version 0x20, with the EOI register.
 * Spec: Intel 82093AA data sheet (order 290566), ICH data sheets for the EOI register.
 *
 * Properties: base, the address of its page (0xfec00000).
 */
extern const struct device_type ioapic_type;

#define IOAPIC_NB_PINS 24
#define IOAPIC_BASE    0xfec00000u

/* An irq_fn: inputs 0..23; @opaque is the device. */
void ioapic_set_input(void *opaque, unsigned input, bool level);

/* For struct lapic_board: a level-triggered @vector was ended; @opaque the device. */
void ioapic_eoi(void *opaque, uint8_t vector);

/* The registers, for an accelerator that has this controller itself. Thread: main;
 * vCPUs are stopped. */
void ioapic_get_regs(struct device *dev, struct x86_ioapic_regs *ret);

#endif
