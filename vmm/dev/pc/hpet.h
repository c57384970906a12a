#ifndef VMM_DEV_PC_HPET_H
#define VMM_DEV_PC_HPET_H

struct device;
struct device_type;
struct pc_irqs;

/*
 * The high precision event timer: a 64-bit counter at 100 MHz with three comparators,
 * at 0xfed00000. Comparators 0 and 1 can take the place of the 8254 and the clock; each
 * can be led to an input of the I/O APIC, or send messages.
 * Spec: IA-PC HPET Specification 1.0a.
 */
extern const struct device_type hpet_type;

#define HPET_BASE     0xfed00000u
#define HPET_BLOCK_ID 0x8086a201u /* of the ACPI table: the capabilities' low half */

/* Where its interrupts go. Thread: main, before the start. */
void hpet_connect(struct device *dev, struct pc_irqs *irqs);

#endif
