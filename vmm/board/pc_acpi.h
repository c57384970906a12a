#ifndef VMM_BOARD_PC_ACPI_H
#define VMM_BOARD_PC_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/board/acpi.h"

/*
 * ACPI tables of PCs with PCI, in the form that firmware installs: blocks of bytes in
 * files of the firmware configuration device, and a list of commands that say where
 * they go, which pointers in them are to be completed and which checksums to be
 * computed (QEMU, the "linker/loader" of hw/acpi/bios-linker-loader).
 *
 *   etc/acpi/rsdp     RSDP
 *   etc/acpi/tables   FACS, DSDT, FADT, MADT, HPET, MCFG, XSDT, RSDT
 *   etc/table-loader  the commands
 */

struct pc_acpi_machine {
    unsigned nb_cpus;
    bool is_q35; /* PCI Express, PIRQs on IOAPIC inputs 16..23 */
    bool has_hpet;
    uint16_t pm_base, gpe_base;        /* where the firmware has put them; 0: not yet */
    uint8_t gpe_len;                   /* bytes */
    uint8_t acpi_enable, acpi_disable; /* values for port 0xb2 */
    uint64_t low_memory;               /* RAM below 4 GiB in bytes */
    uint64_t high_memory;              /* RAM from 4 GiB on */
    unsigned phys_bits;                /* of the processor's addresses */
    uint64_t ecam_base;                /* with is_q35 */
    unsigned ecam_buses;
    const struct acpi_device *devices; /* outside of PCI */
    unsigned nb_devices;
};

struct pc_acpi {
    GByteArray *rsdp, *tables, *loader;
};

/* Lengths and the loader's commands do not depend on what the firmware has put where.
 * Free with pc_acpi_done(). */
void pc_acpi_build(const struct pc_acpi_machine *m, struct pc_acpi *ret);
void pc_acpi_done(struct pc_acpi *a);

#endif
