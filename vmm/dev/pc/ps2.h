#ifndef VMM_DEV_PC_PS2_H
#define VMM_DEV_PC_PS2_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/vm/state.h"

/*
 * What is plugged into the keyboard controller: a keyboard of 102 keys and a mouse with
 * three buttons and a wheel. Each has a queue of bytes for the controller. No locks:
 * the controller's guards them.
 *
 * Spec: IBM PS/2 Hardware Interface Technical Reference, "101- and 102-Key Keyboard",
 * "Mouse"; Microsoft's wheel: three sampling rates, 200, 100, 80, make its ID 3.
 */

enum { PS2_QUEUE = 256 };

struct ps2_queue {
    uint8_t bytes[PS2_QUEUE];
    uint16_t first, n;
};

struct ps2_keyboard {
    struct ps2_queue queue;
    uint8_t command; /* which waits for its data; 0: none */
    uint8_t set;     /* scan code set 1, 2 or 3 */
    uint8_t leds;    /* bit 0 scroll, 1 num, 2 caps lock */
    bool scanning;
};

struct ps2_mouse {
    struct ps2_queue queue;
    uint8_t command;
    bool reporting, remote, wrap, wheel;
    uint8_t resolution, rate, scaling;
    uint8_t rates[3]; /* the last three that were set */
    uint8_t buttons;
    uint8_t sent_buttons;
    int32_t dx, dy, dz; /* since the last report; dy upwards */
};

extern const struct state_table ps2_keyboard_state, ps2_mouse_state;

void ps2_keyboard_reset(struct ps2_keyboard *k);
/* A byte from the controller. */
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t value);
/* A key by its code, see display_key(). Lost when the queue is full. */
void ps2_keyboard_key(struct ps2_keyboard *k, uint8_t code, bool down);

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t value);
/* Moved by so much, dy downwards; buttons: left, middle, right in bits 0..2. */
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons);
/* Reports wait for their turn until the queue is empty. */
void ps2_mouse_report(struct ps2_mouse *m);

static inline bool ps2_has(const struct ps2_queue *q)
{
    return q->n > 0;
}
/* The first byte, which is there. */
uint8_t ps2_take(struct ps2_queue *q);

/* Set 2 to set 1, as the controller translates: *ret is the byte for the computer;
 * false: none yet. @prefix is 0 at first and belongs to the caller. */
bool ps2_translate(uint8_t *prefix, uint8_t byte, uint8_t *ret);

#endif
