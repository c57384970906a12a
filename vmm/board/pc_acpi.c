/*
 * Pointers in the tables are offsets into the file they point to until the firmware
 * adds where it has put that file; checksums are 0 until it computes them.
 *
 * PCI interrupts. Link devices LNKA.. are the south bridge's PIRQ registers, through
 * which a system chooses among ISA interrupts; on Q35 there are GSIA.. beside them, the
 * IOAPIC's inputs 16 to 23, for systems that say through _PIC that they use it. Which
 * link a slot's pin has is what the south bridge does: vmm/dev/pc/piix.c, ich9.c.
 */
#include "vmm/board/pc_acpi.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/board/acpi_tables.h"
#include "vmm/board/aml.h"

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE   "etc/acpi/rsdp"
#define IOAPIC_BASE 0xfec00000u
#define HPET_BASE   0xfed00000u
#define HPET_ID     0x8086a201u
#define SCI_IRQ     9
#define SLOTS       32
#define PINS        4
#define LEVEL_IRQS  (1u << 5 | 1u << 9 | 1u << 10 | 1u << 11)
#define GB4         (4 * GIB)

/* ---- the loader's commands ---- */

enum {
    CMD_ALLOCATE = 1,
    CMD_ADD_POINTER = 2,
    CMD_ADD_CHECKSUM = 3,
    CMD_LEN = 128,
    NAME_LEN = 56,
    ZONE_HIGH = 1,
    ZONE_F_SEGMENT = 2,
};

static uint8_t *add_command(struct pc_acpi *p, uint32_t what, const char *file)
{
    guint at = p->loader->len;
    uint8_t *c;

    g_byte_array_set_size(p->loader, at + CMD_LEN);
    c = p->loader->data + at;
    memset(c, 0, CMD_LEN);
    le32_put(c, what);
    g_strlcpy((char *)c + 4, file, NAME_LEN);
    return c + 4 + NAME_LEN;
}

static void allocate(struct pc_acpi *p, const char *file, uint32_t align, uint8_t zone)
{
    uint8_t *c = add_command(p, CMD_ALLOCATE, file);

    le32_put(c, align);
    c[4] = zone;
}

/* What is at @off of @file points into the tables. */
static void add_pointer(struct pc_acpi *p, const char *file, uint32_t off, uint8_t size)
{
    uint8_t *c = add_command(p, CMD_ADD_POINTER, file);

    g_strlcpy((char *)c, TABLES_FILE, NAME_LEN);
    le32_put(c + NAME_LEN, off);
    c[NAME_LEN + 4] = size;
}

static void add_checksum(struct pc_acpi *p, const char *file, uint32_t at,
                         uint32_t start, uint32_t len)
{
    uint8_t *c = add_command(p, CMD_ADD_CHECKSUM, file);

    le32_put(c, at);
    le32_put(c + 4, start);
    le32_put(c + 8, len);
}

/* Append @t (taken) to the tables; returns its offset. */
static uint32_t add(struct pc_acpi *p, GByteArray *t)
{
    uint32_t len = t->len, at = acpi_add_table(p->tables, 0, t);

    p->tables->data[at + 9] = 0;
    add_checksum(p, TABLES_FILE, at + 9, at, len);
    return at;
}

/* ---- DSDT ---- */

/* The south bridge has the link devices' registers, in its configuration space; they
 * get their names beside the links. */
static void add_south_bridge(struct aml *a, const struct pc_acpi_machine *m)
{
    aml_device(a, "ISA");
    aml_name_int(a, "_ADR", m->is_q35 ? 0x1f0000 : 0x10000);
    aml_region(a, "PIRQ", AML_PCI_CONFIG, 0x60, m->is_q35 ? 0x0c : 4);
    aml_close(a);
}

static void add_link_registers(struct aml *a, const struct pc_acpi_machine *m)
{
    unsigned nb = m->is_q35 ? 8 : 4;

    aml_field(a, "PCI0.ISA.PIRQ");
    for (unsigned i = 0; i < nb; i++) {
        char name[8];

        if (i == 4)
            aml_field_unit(a, NULL, 32);
        snprintf(name, sizeof(name), "PRQ%X", i);
        aml_field_unit(a, name, 8);
    }
    aml_close(a);
}

/* A PIRQ register as a device whose interrupt can be chosen (6.2). */
static void add_link(struct aml *a, unsigned i)
{
    static const uint32_t irqs[] = {5, 10, 11}, none[] = {0};
    char name[8], reg[8];

    snprintf(name, sizeof(name), "LNK%c", 'A' + i);
    snprintf(reg, sizeof(reg), "PRQ%X", i);
    aml_device(a, name);
    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", i);
    aml_crs_begin(a);
    aml_res_interrupts(a, irqs, ARRAY_LEN(irqs));
    aml_res_end(a, "_PRS");

    aml_method(a, "_STA", 0);
    aml_if(a);
    aml_op(a, AML_AND);
    aml_int(a, 0x80);
    aml_ref(a, reg);
    aml_op(a, AML_NOWHERE);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x09);
    aml_close(a);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_close(a);

    aml_method(a, "_DIS", 0);
    aml_op(a, AML_OR);
    aml_ref(a, reg);
    aml_int(a, 0x80);
    aml_ref(a, reg);
    aml_close(a);

    aml_method(a, "_CRS", 0);
    aml_crs_begin(a);
    aml_res_interrupts(a, none, 1);
    aml_res_end(a, "PRR0");
    aml_op(a, AML_CREATE_DWORD);
    aml_ref(a, "PRR0");
    aml_int(a, 5); /* of the number within the descriptor */
    aml_ref(a, "PRRI");
    aml_op(a, AML_AND);
    aml_ref(a, reg);
    aml_int(a, 0x0f);
    aml_ref(a, "PRRI");
    aml_op(a, AML_RETURN);
    aml_ref(a, "PRR0");
    aml_close(a);

    aml_method(a, "_SRS", 1);
    aml_op(a, AML_CREATE_DWORD);
    aml_op(a, AML_ARG0);
    aml_int(a, 5);
    aml_ref(a, "PRRI");
    aml_op(a, AML_STORE);
    aml_ref(a, "PRRI");
    aml_ref(a, reg);
    aml_close(a);
    aml_close(a);
}

static void add_gsi_link(struct aml *a, unsigned i)
{
    uint32_t gsi = 16 + i;
    char name[8];

    snprintf(name, sizeof(name), "GSI%c", 'A' + i);
    aml_device(a, name);
    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", 16 + i);
    aml_crs_begin(a);
    aml_res_interrupts(a, &gsi, 1);
    aml_res_end(a, "_PRS");
    aml_crs_begin(a);
    aml_res_interrupts(a, &gsi, 1);
    aml_res_end(a, "_CRS");
    aml_method(a, "_SRS", 1);
    aml_close(a);
    aml_close(a);
}

static unsigned link_of(const struct pc_acpi_machine *m, unsigned slot, unsigned pin)
{
    if (!m->is_q35)
        return (slot + pin - 1) % 4;
    return slot >= 25 ? pin : 4 + (slot + pin) % 4;
}

/* The routing of all slots' pins to links @prefix. */
static void add_routes(struct aml *a, const struct pc_acpi_machine *m, const char *name,
                       const char *prefix)
{
    aml_name(a, name);
    aml_package(a, SLOTS * PINS);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        for (unsigned pin = 0; pin < PINS; pin++) {
            char link[8];

            snprintf(link, sizeof(link), "%s%c", prefix, 'A' + link_of(m, slot, pin));
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_ref(a, link);
            aml_int(a, 0);
            aml_close(a);
        }
    }
    aml_close(a);
}

static void add_routing(struct aml *a, const struct pc_acpi_machine *m)
{
    add_routes(a, m, "PRTP", "LNK");
    if (m->is_q35)
        add_routes(a, m, "PRTA", "GSI");
    aml_method(a, "_PRT", 0);
    if (m->is_q35) {
        aml_if(a);
        aml_op(a, AML_LEQUAL);
        aml_ref(a, "\\PICF");
        aml_int(a, 1);
        aml_op(a, AML_RETURN);
        aml_ref(a, "PRTA");
        aml_close(a);
    }
    aml_op(a, AML_RETURN);
    aml_ref(a, "PRTP");
    aml_close(a);
}

/* The first address behind all RAM, rounded up as firmware does for large BARs. */
static uint64_t high_window(const struct pc_acpi_machine *m)
{
    return ALIGN_UP(GB4 + m->high_memory, GIB);
}

static void add_windows(struct aml *a, const struct pc_acpi_machine *m)
{
    uint64_t top = UINT64_C(1) << MIN(m->phys_bits, 52), first = high_window(m);
    uint64_t low = MAX(m->low_memory, 256 * MIB);

    aml_crs_begin(a);
    aml_res_buses(a, 0, 0xff);
    aml_res_io(a, 0xcf8, 8);
    aml_res_ports(a, 0x0000, 0x0cf7);
    aml_res_ports(a, 0x0d00, 0xffff);
    aml_res_window(a, 0xa0000, 0xbffff, false);
    if (m->is_q35) {
        uint64_t ecam_end = m->ecam_base + (uint64_t)m->ecam_buses * MIB;

        if (low < m->ecam_base)
            aml_res_window(a, low, m->ecam_base - 1, false);
        low = MAX(low, ecam_end);
    }
    if (low < IOAPIC_BASE)
        aml_res_window(a, low, IOAPIC_BASE - 1, false);
    if (first < top)
        aml_res_window(a, first, MIN(top, first + 512 * GIB) - 1, true);
    aml_crs_end(a);
}

/* PCI Express (PCI Firmware 3.0, 4.5): the system may have hot-plug, power events and
 * AER to itself; it is told so by handing back what it asked for, without the rest. */
static void add_osc(struct aml *a)
{
    static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                     0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};

    aml_method(a, "_OSC", 4);
    aml_op(a, AML_CREATE_DWORD);
    aml_op(a, AML_ARG3);
    aml_int(a, 0);
    aml_ref(a, "CDW1");
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG0);
    aml_buffer(a, uuid, sizeof(uuid));
    aml_op(a, AML_CREATE_DWORD);
    aml_op(a, AML_ARG3);
    aml_int(a, 8);
    aml_ref(a, "CDW3");
    aml_op(a, AML_AND);
    aml_ref(a, "CDW3");
    aml_int(a, 0x1d); /* native hot-plug, PME, AER, capability structure */
    aml_ref(a, "CDW3");
    aml_close(a);
    aml_else(a);
    aml_op(a, AML_OR);
    aml_ref(a, "CDW1");
    aml_int(a, 4); /* unrecognized UUID */
    aml_ref(a, "CDW1");
    aml_close(a);
    aml_op(a, AML_RETURN);
    aml_op(a, AML_ARG3);
    aml_close(a);
}

static void add_root(struct aml *a, const struct pc_acpi_machine *m)
{
    aml_device(a, "PCI0");
    aml_name_eisaid(a, "_HID", m->is_q35 ? "PNP0A08" : "PNP0A03");
    if (m->is_q35)
        aml_name_eisaid(a, "_CID", "PNP0A03");
    aml_name_int(a, "_BBN", 0);
    aml_name_int(a, "_UID", 0);
    add_windows(a, m);
    if (m->is_q35)
        add_osc(a);
    add_routing(a, m);
    add_south_bridge(a, m);
    aml_close(a);
    add_link_registers(a, m);
}

/* Memory that is neither RAM nor PCI's: where ECAM is (PCI Firmware 3.0, 4.1.2). */
static void add_board_memory(struct aml *a, const struct pc_acpi_machine *m)
{
    aml_device(a, "MRES");
    aml_name_eisaid(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 1);
    aml_crs_begin(a);
    aml_res_memory(a, (uint32_t)m->ecam_base, m->ecam_buses * (uint32_t)MIB);
    aml_crs_end(a);
    aml_close(a);
}

static void add_hpet(struct aml *a)
{
    aml_device(a, "HPET");
    aml_name_eisaid(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    aml_crs_begin(a);
    aml_res_memory(a, HPET_BASE, 0x400);
    aml_crs_end(a);
    aml_close(a);
}

static GByteArray *dsdt_new(const struct pc_acpi_machine *m)
{
    GByteArray *t = acpi_table_new("DSDT", 2);
    struct aml *a = aml_new();

    aml_name_int(a, "\\PICF", 0);
    aml_method(a, "\\_PIC", 1);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG0);
    aml_ref(a, "\\PICF");
    aml_close(a);

    aml_scope(a, "\\_SB");
    acpi_add_cpus(a, m->nb_cpus);
    acpi_add_devices(a, m->devices, m->nb_devices);
    if (m->has_hpet)
        add_hpet(a);
    if (m->is_q35)
        add_board_memory(a, m);
    add_root(a, m);
    for (unsigned i = 0; i < (m->is_q35 ? 8 : 4); i++)
        add_link(a, i);
    for (unsigned i = 0; m->is_q35 && i < 8; i++)
        add_gsi_link(a, i);
    aml_close(a);

    /* SLP_TYPa and SLP_TYPb of power-off: vmm/dev/pc/acpi_pm.c. */
    aml_name(a, "\\_S5");
    aml_package(a, 4);
    for (int i = 0; i < 4; i++)
        aml_int(a, 0);
    aml_close(a);
    g_byte_array_append(t, aml_bytes(a)->data, aml_bytes(a)->len);
    aml_free(a);
    return t;
}

/* ---- FADT (5.2.9) ---- */

enum {
    FADT_REVISION = 3,
    FADT_SIZE = 244,
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_SCI = 46,
    FADT_SMI_CMD = 48,
    FADT_ACPI_ENABLE = 52,
    FADT_ACPI_DISABLE = 53,
    FADT_PM1_EVENT = 56,
    FADT_PM1_CONTROL = 64,
    FADT_PM_TIMER = 76,
    FADT_GPE0 = 80,
    FADT_PM1_EVENT_LEN = 88,
    FADT_PM1_CONTROL_LEN = 89,
    FADT_PM_TIMER_LEN = 91,
    FADT_GPE0_LEN = 92,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_CENTURY = 108,
    FADT_BOOT_FLAGS = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_X_DSDT = 140,
    FADT_X_PM1_EVENT = 148,
    FADT_X_PM1_CONTROL = 172,
    FADT_X_PM_TIMER = 208,
    FADT_X_GPE0 = 220,

    BOOT_LEGACY = 1 << 0,
    BOOT_8042 = 1 << 1,
    FLAG_WBINVD = 1 << 0,
    FLAG_C1 = 1 << 2,
    FLAG_NO_SLEEP_BUTTON = 1 << 5,
    FLAG_RESET_REG_SUPPORTED = 1 << 10,
    RESET_PORT = 0xcf9,
    RESET_VALUE = 0x0f,
    SMI_PORT = 0xb2,
    CENTURY_BYTE = 0x32,
};

/* Generic address structure (5.2.3.2): ports. */
static void put_gas(uint8_t *p, uint64_t port, unsigned bits)
{
    p[0] = 1;
    p[1] = bits;
    p[2] = 0;
    p[3] = 0;
    le64_put(p + 4, port);
}

static GByteArray *fadt_new(const struct pc_acpi_machine *m, uint32_t facs,
                            uint32_t dsdt)
{
    GByteArray *t = acpi_table_new("FACP", FADT_REVISION);
    guint old = t->len;
    uint8_t *f;

    g_byte_array_set_size(t, FADT_SIZE);
    f = t->data;
    memset(f + old, 0, FADT_SIZE - old);
    le32_put(f + FADT_FACS, facs);
    le32_put(f + FADT_DSDT, dsdt);
    le64_put(f + FADT_X_DSDT, dsdt);
    le16_put(f + FADT_SCI, SCI_IRQ);
    le32_put(f + FADT_SMI_CMD, SMI_PORT);
    f[FADT_ACPI_ENABLE] = m->acpi_enable;
    f[FADT_ACPI_DISABLE] = m->acpi_disable;
    le32_put(f + FADT_PM1_EVENT, m->pm_base);
    le32_put(f + FADT_PM1_CONTROL, m->pm_base + 4);
    le32_put(f + FADT_PM_TIMER, m->pm_base + 8);
    le32_put(f + FADT_GPE0, m->gpe_base);
    f[FADT_PM1_EVENT_LEN] = 4;
    f[FADT_PM1_CONTROL_LEN] = 2;
    f[FADT_PM_TIMER_LEN] = 4;
    f[FADT_GPE0_LEN] = m->gpe_len;
    le16_put(f + FADT_C2_LATENCY, 0xfff); /* there is no such state */
    le16_put(f + FADT_C3_LATENCY, 0xfff);
    f[FADT_CENTURY] = CENTURY_BYTE;
    le16_put(f + FADT_BOOT_FLAGS, BOOT_LEGACY | BOOT_8042);
    le32_put(f + FADT_FLAGS,
             FLAG_WBINVD | FLAG_C1 | FLAG_NO_SLEEP_BUTTON | FLAG_RESET_REG_SUPPORTED);
    put_gas(f + FADT_RESET_REG, RESET_PORT, 8);
    f[FADT_RESET_VALUE] = RESET_VALUE;
    put_gas(f + FADT_X_PM1_EVENT, m->pm_base, 32);
    put_gas(f + FADT_X_PM1_CONTROL, m->pm_base + 4, 16);
    put_gas(f + FADT_X_PM_TIMER, m->pm_base + 8, 32);
    put_gas(f + FADT_X_GPE0, m->gpe_base, m->gpe_len * 8);
    return t;
}

/* ---- the small ones ---- */

/* 5.2.10; it has no checksum. */
static uint32_t add_facs(struct pc_acpi *p)
{
    enum { LEN = 64 };
    uint8_t f[LEN] = "FACS";
    uint32_t at = p->tables->len;

    assert(at % 64 == 0);
    le32_put(f + 4, LEN);
    g_byte_array_append(p->tables, f, LEN);
    return at;
}

/* IA-PC HPET 1.0a, 3.2.4. */
static GByteArray *hpet_new(void)
{
    GByteArray *t = acpi_table_new("HPET", 1);

    acpi_put(t, HPET_ID, 4);
    acpi_put(t, 0, 4); /* in memory */
    acpi_put(t, HPET_BASE, 8);
    acpi_put(t, 0, 1); /* number */
    acpi_put(t, 0, 2); /* shortest period without loss: any */
    acpi_put(t, 0, 1);
    return t;
}

/* PCI Firmware 3.0, 4.1.2. */
static GByteArray *mcfg_new(const struct pc_acpi_machine *m)
{
    GByteArray *t = acpi_table_new("MCFG", 1);

    acpi_put(t, 0, 8);
    acpi_put(t, m->ecam_base, 8);
    acpi_put(t, 0, 2); /* segment */
    acpi_put(t, 0, 1); /* first and last bus */
    acpi_put(t, m->ecam_buses - 1, 1);
    acpi_put(t, 0, 4);
    return t;
}

static void add_rsdp(struct pc_acpi *p, uint32_t rsdt, uint32_t xsdt)
{
    enum { LEN = 36, V1_LEN = 20 };
    uint8_t r[LEN] = "RSD PTR ";

    memcpy(r + 9, ACPI_OEM_ID, 6);
    r[15] = 2;
    le32_put(r + 16, rsdt);
    le32_put(r + 20, LEN);
    le64_put(r + 24, xsdt);
    g_byte_array_append(p->rsdp, r, LEN);
    add_pointer(p, RSDP_FILE, 16, 4);
    add_pointer(p, RSDP_FILE, 24, 8);
    add_checksum(p, RSDP_FILE, 8, 0, V1_LEN);
    add_checksum(p, RSDP_FILE, 32, 0, LEN);
}

/* RSDT or XSDT: pointers of @size bytes to all tables. */
static uint32_t add_root_table(struct pc_acpi *p, const char *signature, unsigned size,
                               const uint32_t *tables, unsigned n)
{
    GByteArray *t = acpi_table_new(signature, 1);
    uint32_t at;

    for (unsigned i = 0; i < n; i++)
        acpi_put(t, tables[i], size);
    at = ALIGN_UP(p->tables->len, 16u);
    for (unsigned i = 0; i < n; i++)
        add_pointer(p, TABLES_FILE, at + ACPI_HEADER_SIZE + i * size, size);
    return add(p, t);
}

void pc_acpi_build(const struct pc_acpi_machine *m, struct pc_acpi *ret)
{
    struct acpi_madt cpus = {.nb_cpus = m->nb_cpus,
                             .has_pic = true,
                             .ioapic_base = IOAPIC_BASE,
                             .level_irqs = LEVEL_IRQS};
    uint32_t facs, dsdt, tables[8], rsdt, xsdt, fadt;
    unsigned n = 0;

    *ret = (struct pc_acpi){.rsdp = g_byte_array_new(),
                            .tables = g_byte_array_new(),
                            .loader = g_byte_array_new()};
    allocate(ret, RSDP_FILE, 16, ZONE_F_SEGMENT);
    allocate(ret, TABLES_FILE, 64, ZONE_HIGH);
    facs = add_facs(ret);
    dsdt = add(ret, dsdt_new(m));
    fadt = ALIGN_UP(ret->tables->len, 16u);
    add_pointer(ret, TABLES_FILE, fadt + FADT_FACS, 4);
    add_pointer(ret, TABLES_FILE, fadt + FADT_DSDT, 4);
    add_pointer(ret, TABLES_FILE, fadt + FADT_X_DSDT, 8);
    tables[n++] = add(ret, fadt_new(m, facs, dsdt));
    tables[n++] = add(ret, acpi_madt_new(&cpus));
    if (m->has_hpet)
        tables[n++] = add(ret, hpet_new());
    if (m->is_q35)
        tables[n++] = add(ret, mcfg_new(m));
    rsdt = add_root_table(ret, "RSDT", 4, tables, n);
    xsdt = add_root_table(ret, "XSDT", 8, tables, n);
    add_rsdp(ret, rsdt, xsdt);
}

void pc_acpi_done(struct pc_acpi *a)
{
    g_clear_pointer(&a->rsdp, g_byte_array_unref);
    g_clear_pointer(&a->tables, g_byte_array_unref);
    g_clear_pointer(&a->loader, g_byte_array_unref);
}
