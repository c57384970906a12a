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

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/board/acpi_tables.h"
#include "vmm/board/aml.h"
#include "vmm/board/ged.h"

#define RSDP_SIZE 36

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
    GByteArray *t = acpi_table_new("DSDT", 2);
    struct aml *a = aml_new();

    aml_scope(a, "\\_SB");
    acpi_add_cpus(a, m->nb_cpus);
    acpi_add_devices(a, m->devices, m->nb_devices);
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
    GByteArray *t = acpi_table_new("FACP", FADT_REVISION);
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

/* 5.2.5.3; two checksums, over the first 20 bytes and over all. */
static void put_rsdp(uint8_t *p, uint64_t xsdt)
{
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, ACPI_OEM_ID, 6);
    p[15] = 2;
    le32_put(p + 20, RSDP_SIZE);
    le64_put(p + 24, xsdt);
    p[8] = acpi_checksum(p, 20);
    p[32] = acpi_checksum(p, RSDP_SIZE);
}

GByteArray *acpi_build(const struct acpi_machine *m, uint64_t base)
{
    GByteArray *all = g_byte_array_new();
    GByteArray *xsdt;
    struct acpi_madt cpus = {
        .nb_cpus = m->nb_cpus, .has_pic = m->has_pic, .ioapic_base = m->ioapic_base};
    uint64_t dsdt, fadt, madt;

    for (unsigned i = 0; i < RSDP_SIZE; i++)
        acpi_put(all, 0, 1);
    dsdt = acpi_add_table(all, base, dsdt_new(m));
    fadt = acpi_add_table(all, base, fadt_new(m, dsdt));
    madt = acpi_add_table(all, base, acpi_madt_new(&cpus));
    xsdt = acpi_table_new("XSDT", 1);
    acpi_put(xsdt, fadt, 8);
    acpi_put(xsdt, madt, 8);
    put_rsdp(all->data, acpi_add_table(all, base, xsdt));
    return all;
}
