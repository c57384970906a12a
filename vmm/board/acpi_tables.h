#ifndef VMM_BOARD_ACPI_TABLES_H
#define VMM_BOARD_ACPI_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/board/acpi.h"

struct aml;

/* What the ACPI tables of all boards have in common (ACPI 6.4, chapter 5). */

#define ACPI_OEM_ID      "LODGE "
#define ACPI_OEM_TABLE   "LODGEMVM"
#define ACPI_HEADER_SIZE 36

/* Append @value, little-endian, of @len bytes. */
void acpi_put(GByteArray *t, uint64_t value, unsigned len);

/* What makes the sum of all bytes 0. */
uint8_t acpi_checksum(const uint8_t *p, size_t len);

/* A table with the common header (5.2.6); its length and checksum are filled in by
 * acpi_add_table(). */
GByteArray *acpi_table_new(const char *signature, unsigned revision);

/* Finish @t (taken), append it, aligned, to @all, which begins at @base; returns its
 * address. */
uint64_t acpi_add_table(GByteArray *all, uint64_t base, GByteArray *t);

/* \_SB objects: processors, devices outside of PCI. */
void acpi_add_cpus(struct aml *a, unsigned n);
void acpi_add_devices(struct aml *a, const struct acpi_device *devices, unsigned n);

/* MADT (5.2.12). ISA IRQ 0 is input 2 of the IOAPIC. */
struct acpi_madt {
    unsigned nb_cpus;
    bool has_pic;
    uint32_t ioapic_base;
    uint16_t level_irqs; /* bit n: ISA IRQ n is level-triggered, active high */
};
GByteArray *acpi_madt_new(const struct acpi_madt *m);

#endif
