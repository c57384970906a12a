#ifndef VMM_DEV_PC_ISA_SERIAL_H
#define VMM_DEV_PC_ISA_SERIAL_H

struct device_type;

/*
 * A 16550A UART on the ISA bus: COM1..COM4.
 * Spec: National PC16550D data sheet. Properties as QEMU's isa-serial: index, iobase,
 * irq, chardev.
 */
extern const struct device_type isa_serial_type;

#endif
