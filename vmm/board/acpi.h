#ifndef VMM_BOARD_ACPI_H
#define VMM_BOARD_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/*
 * ACPI tables of a board without PCI, in the hardware-reduced form (ACPI 6.4, 4.1):
 * RSDP, XSDT, FADT, MADT, DSDT. What the board has is told in struct acpi_machine.
 */

struct acpi_device {
    enum {
        ACPI_SERIAL,   /* PNP0501 at an ISA port and IRQ */
        ACPI_RTC,      /* PNP0B00 at an ISA port and IRQ */
        ACPI_KEYBOARD, /* PNP0303 at ports 0x60 and 0x64 */
        ACPI_MOUSE,    /* PNP0F13, an IRQ */
        ACPI_VIRTIO,   /* LNRO0005: memory and a global interrupt */
        ACPI_FW_CFG,   /* QEMU0002 at ports */
    } kind;
    uint64_t base;
    uint32_t len;
    unsigned irq; /* ISA IRQ or global system interrupt; fw_cfg has none */
};

struct acpi_machine {
    unsigned nb_cpus; /* APIC IDs 0 .. nb_cpus - 1 */
    bool has_pic;     /* an 8259 pair as well as the IOAPIC */
    bool has_rtc;
    uint32_t ioapic_base; /* its inputs are GSI 0 and up, ISA IRQ 0 at input 2 */
    uint32_t ged_base;    /* registers of the event device, vmm/board/ged.h */
    unsigned ged_gsi;
    const struct acpi_device *devices;
    unsigned nb_devices;
};

/*
 * All tables as one block of bytes to be put at guest-physical @base, 16-byte aligned;
 * the RSDP comes first. The caller owns it.
 */
GByteArray *acpi_build(const struct acpi_machine *m, uint64_t base);

#endif
