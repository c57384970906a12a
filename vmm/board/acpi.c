/*
 * The tables are appended to one block; a table that points to another is made after
 * it, and the RSDP, which must be found first, has its place reserved in front.
 *
 *     0x00 RSDP   0x40 DSDT   FADT -> DSDT   MADT   XSDT -> FADT, MADT
 *
 * Offsets of fields: ACPI 6.4, 5.2. Interrupts of ISA devices are described relative
 * to the IOAPIC, since hardware-reduced systems have no 8259 in the eyes of the guest.
 */
#include "vmm/board/acpi.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/board/aml.h"
#include "vmm/board/ged.h"

#define OEM_ID    "LODGE "
#define OEM_TABLE "LODGEMVM"
#define CREATOR   "LODG"

#define HEADER_SIZE 36
#define RSDP_SIZE   36
#define TABLE_ALIGN 16u

/* FADT (5.2.9) */
enum {
    FADT_SIZE = 276,
    FADT_REVISION = 6,
    FADT_MINOR = 4,
    FADT_BOOT_FLAGS = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR_VERSION = 131,
    FADT_X_DSDT = 140,
    FADT_SLEEP_CONTROL = 244,
    FADT_SLEEP_STATUS = 256,
};

#define BOOT_VGA_ABSENT (1u << 2)
#define BOOT_RTC_ABSENT (1u << 5)
#define FLAG_WBINVD     (1u << 0)
#define FLAG_PWR_BUTTON (1u << 4) /* as a control method */
#define FLAG_SLP_BUTTON (1u << 5)
#define FLAG_RESET_REG  (1u << 10)
#define FLAG_HW_REDUCED (1u << 20)

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

static void put(GByteArray *t, uint64_t value, unsigned len)
{
    uint8_t b[8];

    le64_put(b, value);
    g_byte_array_append(t, b, len);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += p[i];
    return -sum;
}

/* The common header (5.2.6); length and checksum are filled in by add_table(). */
static GByteArray *table_new(const char *signature, unsigned revision)
{
    GByteArray *t = g_byte_array_new();

    g_byte_array_append(t, (const uint8_t *)signature, 4);
    put(t, 0, 4);
    put(t, revision, 1);
    put(t, 0, 1);
    g_byte_array_append(t, (const uint8_t *)OEM_ID, 6);
    g_byte_array_append(t, (const uint8_t *)OEM_TABLE, 8);
    put(t, 1, 4);
    g_byte_array_append(t, (const uint8_t *)CREATOR, 4);
    put(t, 1, 4);
    assert(t->len == HEADER_SIZE);
    return t;
}

/* Finish @t (taken), append it to @all; returns its address. */
static uint64_t add_table(GByteArray *all, uint64_t base, GByteArray *t)
{
    guint at = ALIGN_UP(all->len, TABLE_ALIGN);

    le32_put(t->data + 4, t->len);
    t->data[9] = checksum(t->data, t->len);
    while (all->len < at)
        put(all, 0, 1);
    g_byte_array_append(all, t->data, t->len);
    g_byte_array_unref(t);
    return base + at;
}

static void add_cpus(struct aml *a, unsigned n)
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
    case ACPI_VIRTIO: snprintf(name, sizeof(name), "VR%02X", number & 0xff); break;
    case ACPI_FW_CFG: snprintf(name, sizeof(name), "FWCF"); break;
    }
    aml_device(a, name);
    switch (d->kind) {
    case ACPI_SERIAL: aml_name_eisaid(a, "_HID", "PNP0501"); break;
    case ACPI_RTC: aml_name_eisaid(a, "_HID", "PNP0B00"); break;
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
        aml_res_io(a, d->base, d->len);
        if (d->kind != ACPI_FW_CFG)
            aml_res_irq(a, d->irq);
    }
    aml_crs_end(a);
    aml_close(a);
}

static void add_devices(struct aml *a, const struct acpi_machine *m)
{
    unsigned number[ACPI_FW_CFG + 1] = {0};

    for (unsigned i = 0; i < m->nb_devices; i++)
        add_device(a, &m->devices[i], number[m->devices[i].kind]++);
}

/*
 * The generic event device (5.6.9): its interrupt makes the guest run _EVT, which
 * reads what happened (reading clears) and notifies the power button.
 */
static void add_ged(struct aml *a, const struct acpi_machine *m)
{
    aml_device(a, "PWRB");
    aml_name_eisaid(a, "_HID", "PNP0C0C");
    aml_name_int(a, "_UID", 0);
    aml_close(a);

    aml_device(a, "GED0");
    aml_name_string(a, "_HID", "ACPI0013");
    aml_name_int(a, "_UID", 0);
    aml_crs_begin(a);
    aml_res_interrupt(a, m->ged_gsi);
    aml_crs_end(a);
    aml_register32(a, "EREG", "ESEL", m->ged_base + GED_EVENTS);
    aml_method(a, "_EVT", 1);
    aml_load_local0(a, "ESEL");
    aml_notify_if_local0(a, GED_EVENT_POWER_BUTTON, "\\_SB.PWRB", 0x80);
    aml_close(a);
    aml_close(a);
}

static GByteArray *dsdt_new(const struct acpi_machine *m)
{
    GByteArray *t = table_new("DSDT", 2);
    struct aml *a = aml_new();

    aml_scope(a, "\\_SB");
    add_cpus(a, m->nb_cpus);
    add_devices(a, m);
    add_ged(a, m);
    aml_close(a);
    /* What is written to SLP_TYPx for power-off (7.4.2.6). */
    aml_name(a, "\\_S5");
    aml_package(a, 4);
    aml_int(a, GED_SLEEP_TYPE_S5);
    for (int i = 0; i < 3; i++)
        aml_int(a, 0);
    aml_close(a);
    g_byte_array_append(t, aml_bytes(a)->data, aml_bytes(a)->len);
    aml_free(a);
    return t;
}

/* Generic address structure (5.2.3.2): a byte register in memory. */
static void put_gas8(uint8_t *p, uint64_t address)
{
    p[0] = 0; /* system memory */
    p[1] = 8; /* bits */
    p[2] = 0;
    p[3] = 1; /* byte access */
    le64_put(p + 4, address);
}

static GByteArray *fadt_new(const struct acpi_machine *m, uint64_t dsdt)
{
    GByteArray *t = table_new("FACP", FADT_REVISION);
    guint old = t->len;
    uint8_t *f;

    g_byte_array_set_size(t, FADT_SIZE);
    f = t->data;
    memset(f + old, 0, FADT_SIZE - old);
    le16_put(f + FADT_BOOT_FLAGS, BOOT_VGA_ABSENT | (m->has_rtc ? 0 : BOOT_RTC_ABSENT));
    /* The sleep button bit says that there is none in fixed hardware. */
    le32_put(f + FADT_FLAGS, FLAG_WBINVD | FLAG_PWR_BUTTON | FLAG_SLP_BUTTON |
                                 FLAG_RESET_REG | FLAG_HW_REDUCED);
    put_gas8(f + FADT_RESET_REG, m->ged_base + GED_RESET);
    f[FADT_RESET_VALUE] = GED_RESET_VALUE;
    f[FADT_MINOR_VERSION] = FADT_MINOR;
    le64_put(f + FADT_X_DSDT, dsdt);
    put_gas8(f + FADT_SLEEP_CONTROL, m->ged_base + GED_SLEEP_CONTROL);
    put_gas8(f + FADT_SLEEP_STATUS, m->ged_base + GED_SLEEP_STATUS);
    return t;
}

static void add_lapic(GByteArray *t, unsigned id)
{
    if (id < XAPIC_IDS) {
        put(t, MADT_LAPIC, 1);
        put(t, 8, 1);
        put(t, id, 1); /* processor UID, then APIC ID */
        put(t, id, 1);
        put(t, 1, 4); /* enabled */
    } else {
        put(t, MADT_X2APIC, 1);
        put(t, 16, 1);
        put(t, 0, 2);
        put(t, id, 4);
        put(t, 1, 4);
        put(t, id, 4);
    }
}

static GByteArray *madt_new(const struct acpi_machine *m)
{
    GByteArray *t = table_new("APIC", 5);

    put(t, LAPIC_ADDRESS, 4);
    put(t, m->has_pic ? MADT_PCAT_COMPAT : 0, 4);
    for (unsigned i = 0; i < m->nb_cpus; i++)
        add_lapic(t, i);

    put(t, MADT_IOAPIC, 1);
    put(t, 12, 1);
    put(t, 0, 1); /* ID */
    put(t, 0, 1);
    put(t, m->ioapic_base, 4);
    put(t, 0, 4); /* first GSI */

    put(t, MADT_OVERRIDE, 1);
    put(t, 10, 1);
    put(t, 0, 1); /* ISA */
    put(t, 0, 1); /* IRQ 0, the timer... */
    put(t, 2, 4); /* ...is input 2 */
    put(t, ISO_EDGE_HIGH, 2);

    put(t, MADT_LAPIC_NMI, 1);
    put(t, 6, 1);
    put(t, 0xff, 1); /* all processors */
    put(t, 0, 2);
    put(t, 1, 1); /* LINT1 */
    if (m->nb_cpus > XAPIC_IDS) {
        put(t, MADT_X2APIC_NMI, 1);
        put(t, 12, 1);
        put(t, 0, 2);
        put(t, UINT32_MAX, 4);
        put(t, 1, 1);
        put(t, 0, 3);
    }
    return t;
}

/* 5.2.5.3; two checksums, over the first 20 bytes and over all. */
static void put_rsdp(uint8_t *p, uint64_t xsdt)
{
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, OEM_ID, 6);
    p[15] = 2;
    le32_put(p + 20, RSDP_SIZE);
    le64_put(p + 24, xsdt);
    p[8] = checksum(p, 20);
    p[32] = checksum(p, RSDP_SIZE);
}

GByteArray *acpi_build(const struct acpi_machine *m, uint64_t base)
{
    GByteArray *all = g_byte_array_new();
    GByteArray *xsdt;
    uint64_t dsdt, fadt, madt;

    for (unsigned i = 0; i < RSDP_SIZE; i++)
        put(all, 0, 1);
    dsdt = add_table(all, base, dsdt_new(m));
    fadt = add_table(all, base, fadt_new(m, dsdt));
    madt = add_table(all, base, madt_new(m));
    xsdt = table_new("XSDT", 1);
    put(xsdt, fadt, 8);
    put(xsdt, madt, 8);
    put_rsdp(all->data, add_table(all, base, xsdt));
    return all;
}
