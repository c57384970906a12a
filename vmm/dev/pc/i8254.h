#ifndef VMM_DEV_PC_I8254_H
#define VMM_DEV_PC_I8254_H

struct device_type;

/*
 * The programmable interval timer at ports 0x40..0x43, with what stands around it on
 * a PC: channel 0 drives IRQ 0 of the board, channel 2 is gated and seen through
 * port 0x61, where bit 4 toggles with the memory refresh.
 * Spec: Intel 8254 data sheet (order 231164); port 0x61: any PIIX data sheet.
 */
extern const struct device_type i8254_type;

/* Counts per second of every channel. */
#define I8254_HZ 1193182

#endif
