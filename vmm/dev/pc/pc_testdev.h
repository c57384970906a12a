#ifndef VMM_DEV_PC_PC_TESTDEV_H
#define VMM_DEV_PC_PC_TESTDEV_H

struct device_type;

/*
 * pc-testdev: registers for guests that test a processor and its emulator, with the
 * places and effects that QEMU's device of this name has:
 *
 *   0xe0..0xe3      four bytes that keep what is written, accesses of 1, 2 and 4 bytes
 *   0xe4..0xe7      a page address: throw away what is derived from that page
 *   0xe8..0xeb      the same four bytes as at 0xe0, wider accesses done byte by byte
 *   0x2000..0x2017  drive interrupt input 0..23: a byte, 0 is low
 *   0xff000000      64 KiB of memory behind device accesses
 *
 * A port that another device has already, such as a debug console at 0xe9, is left to
 * it.
 */
extern const struct device_type pc_testdev_type;

#endif
