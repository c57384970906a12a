#ifndef VMM_DEV_PC_ISA_DEBUG_H
#define VMM_DEV_PC_ISA_DEBUG_H

struct device_type;

/* A port whose written bytes go to a chardev; reading it gives `readback`.
 * Properties as QEMU's isa-debugcon: iobase (0xe9), readback (0xe9), chardev. */
extern const struct device_type isa_debugcon_type;

/* A port that ends the VM with exit status (value << 1) | 1. Properties as QEMU's
 * isa-debug-exit: iobase (0x501), iosize (2). */
extern const struct device_type isa_debug_exit_type;

#endif
