#ifndef VMM_DEV_PC_I8259_H
#define VMM_DEV_PC_I8259_H

#include <stdbool.h>

#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/irq.h"

struct device;
struct device_type;

/*
 * The PC's pair of 8259A interrupt controllers at ports 0x20 and 0xa0, cascaded at
 * input 2, with the edge/level registers at 0x4d0.
 * Spec: Intel 8259A data sheet (order 231468); ELCR: any PIIX data sheet.
 */
extern const struct device_type i8259_type;

/* Where INTR goes: LINT0 of the first vCPU's local APIC. Thread: main. */
void i8259_set_output(struct device *dev, struct irq_line output);

/* An irq_fn: inputs 0..15 (2 is the cascade, ignored); @opaque is the device. */
void i8259_set_input(void *opaque, unsigned input, bool level);

/*
 * The processor's INTA cycle: the vector of the highest interrupt, which goes in
 * service, or the spurious one (input 7) when it is gone. Any thread.
 */
int i8259_ack(void *opaque);

/* The registers, for an accelerator that has these controllers itself. Thread: main;
 * vCPUs are stopped. */
void i8259_get_regs(struct device *dev, struct x86_pic_regs ret[2]);

#endif
