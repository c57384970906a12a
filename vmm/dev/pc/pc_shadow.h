#ifndef VMM_DEV_PC_PC_SHADOW_H
#define VMM_DEV_PC_PC_SHADOW_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct vm;
struct pc_shadow;

/*
 * The 256 KiB below 1 MiB of a PC with a PCI chipset: RAM, which the host bridge's
 * "programmable attribute map" shows or hides for reads and for writes, and where it is
 * hidden, in the last 128 KiB, the firmware's ROM. Spec: Intel 440FX data sheet (order
 * 290549), 3.2.14 PAM; Intel 3 Series data sheet (316966), 5.1.25 PAM0..6.
 *
 * Pieces: number 0 is 0xf0000..0xfffff, 1 to 12 are the 16 KiB ones from 0xc0000 on.
 */

enum {
    PC_SHADOW_PIECES = 13,
    PC_SHADOW_REGISTERS = 7, /* of 8 bits: PAM0's high half is piece 0, then two each */
    PC_SHADOW_READ = 1,
    PC_SHADOW_WRITE = 2,
};

/* NULL with @error when the host has no memory. Everything is hidden. Thread: main. */
struct pc_shadow *pc_shadow_new(struct vm *vm, GError **error);
void pc_shadow_free(struct pc_shadow *s);

/* Take the seven registers' values. Any thread; reads and writes through registers'
 * spaces follow at once, execution as vm_change() says. */
void pc_shadow_set(struct pc_shadow *s, const uint8_t pam[PC_SHADOW_REGISTERS]);

#endif
