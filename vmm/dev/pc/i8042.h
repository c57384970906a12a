#ifndef VMM_DEV_PC_I8042_H
#define VMM_DEV_PC_I8042_H

#include "vmm/vm/irq.h"

struct device;
struct device_type;

/*
 * The PC's keyboard controller at ports 0x60 and 0x64, with one port that nothing is
 * plugged into, and port 0x92. What remains useful of it without a keyboard: the
 * reset pulse, the A20 gate, and answers for those who probe.
 * Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller"; System Control Port A for 0x92.
 */
extern const struct device_type i8042_type;

/* Who masks address line 20; level true: the line works. It is driven with every
 * change and at reset. Thread: main. */
void i8042_set_a20_line(struct device *dev, struct irq_line a20);

#endif
