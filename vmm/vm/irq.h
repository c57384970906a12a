#ifndef VMM_VM_IRQ_H
#define VMM_VM_IRQ_H

#include <stdbool.h>

/*
 * An interrupt line: a wire from a device to an input of an interrupt controller.
 * The device owns the struct and drives it; the controller gave the function.
 */
typedef void (*irq_fn)(void *opaque, unsigned input, bool level);

struct irq_line {
    irq_fn fn; /* NULL: not connected */
    void *opaque;
    unsigned input;
};

/* Drive the line high or low. Idempotent. Any thread; fn takes its own lock. */
static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->fn) {
        line->fn(line->opaque, line->input, level);
    }
}

/* A rising edge and back: for edge-triggered inputs. */
static inline void irq_pulse(const struct irq_line *line)
{
    irq_set(line, true);
    irq_set(line, false);
}

#endif
