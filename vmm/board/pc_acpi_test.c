#include "vmm/board/pc_acpi.h"

#include <string.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The firmware's part is done here: the loader's commands are carried out on a piece of
 * memory, and tables are then looked for in it as a guest does.
 */

#define TABLES_AT 0x1000
#define RSDP_AT   0x400

static uint8_t memory[256 * KIB];

static GByteArray *block(struct pc_acpi *a, const char *name, uint32_t *ret_at)
{
    bool tables = strcmp(name, "etc/acpi/tables") == 0;

    g_assert_true(tables || strcmp(name, "etc/acpi/rsdp") == 0);
    *ret_at = tables ? TABLES_AT : RSDP_AT;
    return tables ? a->tables : a->rsdp;
}

static void run_command(struct pc_acpi *a, const uint8_t *c)
{
    uint32_t at, src, off = 0;
    GByteArray *b = block(a, (const char *)c + 4, &at);
    const uint8_t *rest = c + 60;
    uint8_t sum = 0;

    switch (le32_get(c)) {
    case 1:
        g_assert_cmpuint(at % le32_get(rest), ==, 0);
        g_assert_cmpuint(rest[4], ==, at == RSDP_AT ? 2 : 1);
        memcpy(memory + at, b->data, b->len);
        break;
    case 2:
        block(a, (const char *)rest, &src);
        off = le32_get(rest + 56);
        g_assert_cmpuint(off + rest[60], <=, b->len);
        le_put(memory + at + off, le_get(memory + at + off, rest[60]) + src, rest[60]);
        break;
    case 3:
        for (uint32_t i = 0; i < le32_get(rest + 8); i++)
            sum += memory[at + le32_get(rest + 4) + i];
        memory[at + le32_get(rest)] -= sum;
        break;
    default: g_assert_not_reached();
    }
}

static void install(bool is_q35, unsigned nb_cpus, uint16_t pm_base)
{
    static const struct acpi_device devices[] = {
        {ACPI_SERIAL, 0x3f8, 8, 4},
        {ACPI_RTC, 0x70, 2, 8},
        {ACPI_KEYBOARD, 0x60, 1, 1},
        {ACPI_MOUSE, 0, 0, 12},
    };
    struct pc_acpi_machine m = {
        .nb_cpus = nb_cpus,
        .is_q35 = is_q35,
        .has_hpet = true,
        .pm_base = pm_base,
        .gpe_base = is_q35 ? pm_base + 0x20 : 0xafe0,
        .gpe_len = is_q35 ? 16 : 4,
        .low_memory = 0x80000000,
        .high_memory = 5 * GIB,
        .phys_bits = 40,
        .ecam_base = 0xb0000000,
        .ecam_buses = 256,
        .devices = devices,
        .nb_devices = ARRAY_LEN(devices),
    };
    struct pc_acpi a;

    memset(memory, 0, sizeof(memory));
    pc_acpi_build(&m, &a);
    g_assert_cmpuint(a.tables->len + TABLES_AT, <=, sizeof(memory));
    g_assert_cmpuint(a.loader->len % 128, ==, 0);
    for (guint i = 0; i < a.loader->len; i += 128)
        run_command(&a, a.loader->data + i);
    pc_acpi_done(&a);
}

static uint8_t sum_of(uint32_t at, uint32_t len)
{
    uint8_t sum = 0;

    for (uint32_t i = 0; i < len; i++)
        sum += memory[at + i];
    return sum;
}

/* Offset in memory of @signature, through RSDT or XSDT; 0: there is none. */
static uint32_t table(const char *signature, bool by_xsdt)
{
    uint32_t root = by_xsdt ? (uint32_t)le64_get(memory + RSDP_AT + 24)
                            : le32_get(memory + RSDP_AT + 16);
    unsigned size = by_xsdt ? 8 : 4;
    unsigned n = (le32_get(memory + root + 4) - 36) / size;

    g_assert_cmpmem(memory + root, 4, by_xsdt ? "XSDT" : "RSDT", 4);
    g_assert_cmpuint(sum_of(root, le32_get(memory + root + 4)), ==, 0);
    for (unsigned i = 0; i < n; i++) {
        uint32_t t = (uint32_t)le_get(memory + root + 36 + i * size, size);

        if (memcmp(memory + t, signature, 4) == 0)
            return t;
        if (memcmp(memory + t, "FACP", 4) == 0 && strcmp(signature, "DSDT") == 0)
            return le32_get(memory + t + 40);
        if (memcmp(memory + t, "FACP", 4) == 0 && strcmp(signature, "FACS") == 0)
            return le32_get(memory + t + 36);
    }
    return 0;
}

static void firmware_finds_every_table(void)
{
    static const char *const names[] = {"FACP", "APIC", "HPET", "DSDT", "MCFG"};

    for (unsigned q35 = 0; q35 < 2; q35++) {
        install(q35, 2, 0x600);
        g_assert_cmpuint(sum_of(RSDP_AT, 20), ==, 0);
        g_assert_cmpuint(sum_of(RSDP_AT, 36), ==, 0);
        for (size_t i = 0; i < ARRAY_LEN(names) - !q35; i++) {
            uint32_t t = table(names[i], false);

            g_assert_cmpuint(t, !=, 0);
            g_assert_cmpuint(t, ==, table(names[i], true));
            g_assert_cmpuint(sum_of(t, le32_get(memory + t + 4)), ==, 0);
        }
        g_assert_cmpuint(table("FACS", true) % 64, ==, 0);
        if (!q35)
            g_assert_cmpuint(table("MCFG", true), ==, 0);
    }
}

static void fadt_says_where_firmware_put_power_management(void)
{
    uint32_t f;

    install(true, 1, 0xb000);
    f = table("FACP", true);
    g_assert_cmphex(le32_get(memory + f + 56), ==, 0xb000);
    g_assert_cmphex(le32_get(memory + f + 64), ==, 0xb004);
    g_assert_cmphex(le32_get(memory + f + 76), ==, 0xb008);
    g_assert_cmphex(le64_get(memory + f + 148 + 4), ==, 0xb000);
    g_assert_cmphex(le64_get(memory + f + 116 + 4), ==, 0xcf9);
    g_assert_cmphex(le64_get(memory + f + 140), ==, table("DSDT", true));
}

/* Where firmware has put things does not change where they are in the files. */
static void lengths_do_not_depend_on_the_firmware(void)
{
    static uint8_t before[sizeof(memory)];
    uint32_t f;
    unsigned differ = 0;

    install(false, 4, 0);
    memcpy(before, memory, sizeof(memory));
    install(false, 4, 0x600);
    f = table("FACP", true);
    for (size_t i = 0; i < sizeof(memory); i++) {
        if (memory[i] != before[i]) {
            g_assert_true(i >= f && i < f + 244);
            differ++;
        }
    }
    g_assert_cmpuint(differ, >, 0);
}

static char *run_iasl(const char *dir, const char *arg, const char *file)
{
    const char *argv[] = {"iasl", arg, file, NULL};
    char *out = NULL;
    int status = 0;

    g_assert_true(g_spawn_sync(dir, (char **)argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                               NULL, &out, NULL, &status, NULL));
    if (!g_spawn_check_wait_status(status, NULL))
        g_error("iasl %s %s: %s", arg, file, out);
    return out;
}

static void check_with_iasl(const char *dir, bool is_q35)
{
    static const char *const names[] = {"FACP", "APIC", "HPET", "FACS", "DSDT", "MCFG"};
    static const char *const must_have[] = {
        "Device (PCI0)",   "Name (PRTP, Package (0x80)",
        "Method (_SRS, 1", "PNP0303",
        "Device (C001)",   "0x05,", /* of a link's choices */
        "Name (\\_S5",     "QWordMemory"};
    g_autofree char *dsl = g_build_filename(dir, "DSDT.dsl", NULL);
    g_autofree char *text = NULL, *out = NULL;

    install(is_q35, 2, 0x600);
    for (size_t i = 0; i < ARRAY_LEN(names) - !is_q35; i++) {
        uint32_t t = table(names[i], true);
        g_autofree char *name = g_strconcat(names[i], ".aml", NULL);
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_autofree char *report = NULL;

        g_assert_true(g_file_set_contents(path, (const char *)memory + t,
                                          le32_get(memory + t + 4), NULL));
        report = run_iasl(dir, "-d", name);
        g_assert_null(strstr(report, "Error"));
        g_unlink(path);
    }
    out = run_iasl(dir, "-oa", "DSDT.dsl");
    if (!strstr(out, " 0 Errors, 0 Warnings"))
        g_error("iasl: %s", out);
    g_assert_true(g_file_get_contents(dsl, &text, NULL, NULL));
    for (size_t i = 0; i < ARRAY_LEN(must_have); i++) {
        if (!strstr(text, must_have[i]))
            g_error("the DSDT has no '%s':\n%s", must_have[i], text);
    }
    g_assert_cmpint(strstr(text, "Device (GSIH)") != NULL, ==, is_q35);
    g_assert_cmpint(strstr(text, "_OSC") != NULL, ==, is_q35);
}

static void iasl_accepts_the_tables(void)
{
    g_autofree char *iasl = g_find_program_in_path("iasl"), *dir = NULL;

    if (!iasl) {
        g_test_skip("iasl (acpica-tools) is not installed");
        return;
    }
    dir = g_dir_make_tmp("lodge-acpi-XXXXXX", NULL);
    check_with_iasl(dir, false);
    check_with_iasl(dir, true);
    const char *argv[] = {"rm", "-r", dir, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                 NULL, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc_acpi/found", firmware_finds_every_table);
    g_test_add_func("/pc_acpi/fadt", fadt_says_where_firmware_put_power_management);
    g_test_add_func("/pc_acpi/lengths", lengths_do_not_depend_on_the_firmware);
    g_test_add_func("/pc_acpi/iasl", iasl_accepts_the_tables);
    return g_test_run();
}
