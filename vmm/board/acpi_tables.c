#include "vmm/board/acpi_tables.h"

#include <assert.h>
#include <stdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/board/aml.h"

#define CREATOR     "LODG"
#define TABLE_ALIGN 16u

/* MADT (5.2.12) */
enum {
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LAPIC_NMI = 4,
    MADT_X2APIC = 9,
    MADT_X2APIC_NMI = 10
};

#define MADT_PCAT_COMPAT 1
#define LAPIC_ADDRESS    0xfee00000u
#define XAPIC_IDS        255 /* more need x2APIC entries */
#define ISO_EDGE_HIGH    0x5
#define ISO_LEVEL_HIGH   0xd

void acpi_put(GByteArray *t, uint64_t value, unsigned len)
{
    uint8_t b[8];

    le64_put(b, value);
    g_byte_array_append(t, b, len);
}

uint8_t acpi_checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += p[i];
    return -sum;
}

/* The common header (5.2.6); length and checksum are filled in by acpi_add_table(). */
GByteArray *acpi_table_new(const char *signature, unsigned revision)
{
    GByteArray *t = g_byte_array_new();

    g_byte_array_append(t, (const uint8_t *)signature, 4);
    acpi_put(t, 0, 4);
    acpi_put(t, revision, 1);
    acpi_put(t, 0, 1);
    g_byte_array_append(t, (const uint8_t *)ACPI_OEM_ID, 6);
    g_byte_array_append(t, (const uint8_t *)ACPI_OEM_TABLE, 8);
    acpi_put(t, 1, 4);
    g_byte_array_append(t, (const uint8_t *)CREATOR, 4);
    acpi_put(t, 1, 4);
    assert(t->len == ACPI_HEADER_SIZE);
    return t;
}

/* Finish @t (taken), append it to @all; returns its address. */
uint64_t acpi_add_table(GByteArray *all, uint64_t base, GByteArray *t)
{
    guint at = ALIGN_UP(all->len, TABLE_ALIGN);

    le32_put(t->data + 4, t->len);
    t->data[9] = acpi_checksum(t->data, t->len);
    while (all->len < at)
        acpi_put(all, 0, 1);
    g_byte_array_append(all, t->data, t->len);
    g_byte_array_unref(t);
    return base + at;
}

void acpi_add_cpus(struct aml *a, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char name[8];

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_close(a);
    }
}

static void add_device(struct aml *a, const struct acpi_device *d, unsigned number)
{
    char name[8];

    switch (d->kind) {
    case ACPI_SERIAL: snprintf(name, sizeof(name), "COM%X", (number + 1) & 0xf); break;
    case ACPI_RTC: snprintf(name, sizeof(name), "RTC%X", number & 0xf); break;
    case ACPI_KEYBOARD: snprintf(name, sizeof(name), "KBD"); break;
    case ACPI_MOUSE: snprintf(name, sizeof(name), "MOU"); break;
    case ACPI_VIRTIO: snprintf(name, sizeof(name), "VR%02X", number & 0xff); break;
    case ACPI_FW_CFG: snprintf(name, sizeof(name), "FWCF"); break;
    }
    aml_device(a, name);
    switch (d->kind) {
    case ACPI_SERIAL: aml_name_eisaid(a, "_HID", "PNP0501"); break;
    case ACPI_RTC: aml_name_eisaid(a, "_HID", "PNP0B00"); break;
    case ACPI_KEYBOARD: aml_name_eisaid(a, "_HID", "PNP0303"); break;
    case ACPI_MOUSE: aml_name_eisaid(a, "_HID", "PNP0F13"); break;
    case ACPI_VIRTIO: aml_name_string(a, "_HID", "LNRO0005"); break;
    case ACPI_FW_CFG:
        aml_name_string(a, "_HID", "QEMU0002");
        aml_name_int(a, "_STA", 0x0b); /* there, enabled, working; not shown */
        break;
    }
    aml_name_int(a, "_UID", d->kind == ACPI_SERIAL ? number + 1 : number);
    aml_crs_begin(a);
    if (d->kind == ACPI_VIRTIO) {
        aml_res_memory(a, d->base, d->len);
        aml_res_interrupt(a, d->irq);
    } else {
        if (d->kind != ACPI_MOUSE)
            aml_res_io(a, d->base, d->len);
        if (d->kind == ACPI_KEYBOARD)
            aml_res_io(a, d->base + 4, d->len);
        if (d->kind != ACPI_FW_CFG)
            aml_res_irq(a, d->irq);
    }
    aml_crs_end(a);
    aml_close(a);
}

void acpi_add_devices(struct aml *a, const struct acpi_device *devices, unsigned n)
{
    unsigned number[ACPI_FW_CFG + 1] = {0};

    for (unsigned i = 0; i < n; i++)
        add_device(a, &devices[i], number[devices[i].kind]++);
}

static void add_lapic(GByteArray *t, unsigned id)
{
    if (id < XAPIC_IDS) {
        acpi_put(t, MADT_LAPIC, 1);
        acpi_put(t, 8, 1);
        acpi_put(t, id, 1); /* processor UID, then APIC ID */
        acpi_put(t, id, 1);
        acpi_put(t, 1, 4); /* enabled */
    } else {
        acpi_put(t, MADT_X2APIC, 1);
        acpi_put(t, 16, 1);
        acpi_put(t, 0, 2);
        acpi_put(t, id, 4);
        acpi_put(t, 1, 4);
        acpi_put(t, id, 4);
    }
}

static void add_override(GByteArray *t, unsigned irq, unsigned input, unsigned flags)
{
    acpi_put(t, MADT_OVERRIDE, 1);
    acpi_put(t, 10, 1);
    acpi_put(t, 0, 1); /* ISA */
    acpi_put(t, irq, 1);
    acpi_put(t, input, 4);
    acpi_put(t, flags, 2);
}

GByteArray *acpi_madt_new(const struct acpi_madt *m)
{
    GByteArray *t = acpi_table_new("APIC", 5);

    acpi_put(t, LAPIC_ADDRESS, 4);
    acpi_put(t, m->has_pic ? MADT_PCAT_COMPAT : 0, 4);
    for (unsigned i = 0; i < m->nb_cpus; i++)
        add_lapic(t, i);

    acpi_put(t, MADT_IOAPIC, 1);
    acpi_put(t, 12, 1);
    acpi_put(t, 0, 1); /* ID */
    acpi_put(t, 0, 1);
    acpi_put(t, m->ioapic_base, 4);
    acpi_put(t, 0, 4); /* first GSI */

    add_override(t, 0, 2, ISO_EDGE_HIGH); /* the timer */
    for (unsigned irq = 0; irq < 16; irq++) {
        if (m->level_irqs & 1u << irq)
            add_override(t, irq, irq, ISO_LEVEL_HIGH);
    }

    acpi_put(t, MADT_LAPIC_NMI, 1);
    acpi_put(t, 6, 1);
    acpi_put(t, 0xff, 1); /* all processors */
    acpi_put(t, 0, 2);
    acpi_put(t, 1, 1); /* LINT1 */
    if (m->nb_cpus > XAPIC_IDS) {
        acpi_put(t, MADT_X2APIC_NMI, 1);
        acpi_put(t, 12, 1);
        acpi_put(t, 0, 2);
        acpi_put(t, UINT32_MAX, 4);
        acpi_put(t, 1, 1);
        acpi_put(t, 0, 3);
    }
    return t;
}
