#ifndef VMM_DISPLAY_KEYMAP_H
#define VMM_DISPLAY_KEYMAP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The key of a US keyboard that makes the X11 keysym @keysym: its code as
 * display_key() takes it, 0 when there is none. *ret_shift: 1 when it does so with
 * shift, 0 without, -1 when shift does not matter. *ret_letter: caps lock turns it
 * over.
 */
uint8_t keymap_find(uint32_t keysym, int *ret_shift, bool *ret_letter);

#endif
