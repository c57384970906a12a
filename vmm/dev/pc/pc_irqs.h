#ifndef VMM_DEV_PC_PC_IRQS_H
#define VMM_DEV_PC_PC_IRQS_H

#include <stdatomic.h>
#include <stdbool.h>

#include <glib.h>

struct device;
struct vm;

/*
 * How interrupts are wired on a PC with both kinds of controllers: global input n
 * below 16 goes to input n of the 8259 pair and pin n of the IOAPIC, except that the
 * timer, input 0, is pin 2; from 16 on to the IOAPIC alone. The 8259's output goes to
 * LINT0 of the first vCPU and to pin 0. This is the MADT's override 0 -> 2.
 */
struct pc_irqs {
    struct vm *vm;
    struct device *pic;    /* may be NULL */
    struct device *ioapic; /* may be NULL */
    /* The HPET drives inputs 0 and 8 in place of the 8254 and the clock. */
    _Atomic bool hpet_legacy;
};

/*
 * Connect the controllers with each other and with the local APICs, and become the
 * VM's gsi_fn. The caller created both devices and keeps @p as long as @vm. Devices
 * that ask for vm_gsi_line() are created afterwards. Thread: main.
 */
void pc_irqs_connect(struct pc_irqs *p, struct vm *vm, struct device *pic,
                     struct device *ioapic);

/* The HPET's own way to an input, whoever drives it otherwise. Any thread. */
void pc_irqs_set_by_hpet(struct pc_irqs *p, unsigned gsi, bool level);

/* Legacy replacement on or off: what the others drive is dropped meanwhile. */
void pc_irqs_set_hpet_legacy(struct pc_irqs *p, bool on);

/*
 * The devices of @p are as the guest is to find them: hand their registers to an
 * accelerator that has such controllers itself. Boards call it at the end of a reset.
 */
void pc_irqs_ready(struct pc_irqs *p);

#endif
