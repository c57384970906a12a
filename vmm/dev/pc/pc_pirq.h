#ifndef VMM_DEV_PC_PC_PIRQ_H
#define VMM_DEV_PC_PC_PIRQ_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct vm;

/*
 * How a south bridge leads PIRQA..PIRQH, and its own ACPI interrupt, to the board's
 * inputs: a register for each PIRQ names one of the 16 ISA interrupts, or none; with an
 * I/O APIC behind them PIRQs have inputs 16 to 23 as well (ICH9 data sheet 316972,
 * 5.9). Sources that end in one input are wired together.
 */

enum { PC_PIRQS = 8, PC_PIRQ_SCI = PC_PIRQS, PC_PIRQ_SOURCES };
enum { PC_PIRQ_OFF = 0x80 }; /* of a route: to no ISA interrupt */

struct pc_pirq {
    struct vm *vm;
    bool to_ioapic; /* PIRQs have inputs 16.. too */

    GMutex lock; /* guards what follows; taken while interrupts are raised */
    uint8_t route[PC_PIRQ_SOURCES]; /* bits 3:0, and PC_PIRQ_OFF */
    bool level[PC_PIRQ_SOURCES];
    bool input[16]; /* levels of the ISA interrupts as last driven */
};

/* The caller's storage. All routes are off. */
void pc_pirq_init(struct pc_pirq *p, struct vm *vm, bool to_ioapic);
void pc_pirq_done(struct pc_pirq *p);

void pc_pirq_set_route(struct pc_pirq *p, unsigned source, uint8_t route);

/* An irq_fn, of a source; @opaque is the struct. */
void pc_pirq_set(void *opaque, unsigned source, bool level);

/* After loading: drive everything again. */
void pc_pirq_refresh(struct pc_pirq *p);

#endif
