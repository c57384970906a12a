#ifndef VMM_DEV_PC_I8042_H
#define VMM_DEV_PC_I8042_H

#include "vmm/vm/irq.h"

struct device;
struct device_type;

/*
 * The PC's keyboard controller at ports 0x60 and 0x64, and port 0x92. At first nothing
 * is plugged into it, and it has one port only. What remains useful without a keyboard:
 * the reset pulse, the A20 gate, and answers for those who probe.
 * Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller"; System Control Port A for 0x92.
 */
extern const struct device_type i8042_type;

/* Who masks address line 20; level true: the line works. It is driven with every
 * change and at reset. Thread: main. */
void i8042_set_a20_line(struct device *dev, struct irq_line a20);

/* Plug in a keyboard and, at interrupt 12, a mouse, which get what comes from the
 * machine's display. Once. Thread: main, before the display starts. */
void i8042_plug(struct device *dev);

#endif
