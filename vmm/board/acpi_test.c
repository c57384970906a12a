#include "vmm/board/acpi.h"

#include <string.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/board/aml.h"
#include "vmm/board/ged.h"

#define BASE 0xe0000

static GByteArray *build(unsigned nb_cpus)
{
    static const struct acpi_device devices[] = {
        {ACPI_SERIAL, 0x3f8, 8, 4},
        {ACPI_RTC, 0x70, 8, 8},
        {ACPI_VIRTIO, 0xfeb00000, 0x200, 16},
        {ACPI_VIRTIO, 0xfeb00200, 0x200, 17},
    };
    struct acpi_machine m = {
        .nb_cpus = nb_cpus,
        .has_pic = true,
        .has_rtc = true,
        .ioapic_base = 0xfec00000,
        .ged_base = 0xfea00000,
        .ged_gsi = 9,
        .devices = devices,
        .nb_devices = ARRAY_LEN(devices),
    };

    return acpi_build(&m, BASE);
}

/* The table @signature, reached as a guest does: RSDP, XSDT, FADT for the DSDT. */
static const uint8_t *table(const GByteArray *all, const char *signature)
{
    const uint8_t *xsdt = all->data + (le64_get(all->data + 24) - BASE);
    unsigned n = (le32_get(xsdt + 4) - 36) / 8;

    if (strcmp(signature, "XSDT") == 0)
        return xsdt;
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *t = all->data + (le64_get(xsdt + 36 + 8 * i) - BASE);

        if (memcmp(t, signature, 4) == 0)
            return t;
        if (memcmp(t, "FACP", 4) == 0 && strcmp(signature, "DSDT") == 0)
            return all->data + (le64_get(t + 140) - BASE);
    }
    g_assert_not_reached();
}

static void checksums_are_zero(void)
{
    static const char *const names[] = {"XSDT", "FACP", "APIC", "DSDT"};
    g_autoptr(GByteArray) all = build(2);
    uint8_t sum20 = 0, sum = 0;

    g_assert_cmpmem(all->data, 8, "RSD PTR ", 8);
    for (int i = 0; i < 36; i++) {
        sum += all->data[i];
        sum20 += i < 20 ? all->data[i] : 0;
    }
    g_assert_cmpuint(sum, ==, 0);
    g_assert_cmpuint(sum20, ==, 0);
    for (size_t n = 0; n < ARRAY_LEN(names); n++) {
        const uint8_t *t = table(all, names[n]);
        uint8_t s = 0;

        g_assert_cmpmem(t, 4, names[n], 4);
        g_assert_cmpuint(t + le32_get(t + 4) - all->data, <=, all->len);
        for (uint32_t i = 0; i < le32_get(t + 4); i++)
            s += t[i];
        g_assert_cmpuint(s, ==, 0);
    }
}

static char *run_iasl(const char *dir, const char *arg, const char *file)
{
    g_autoptr(GError) error = NULL;
    const char *argv[] = {"iasl", arg, file, NULL};
    char *out = NULL;
    int status = 0;

    g_assert_true(g_spawn_sync(dir, (char **)argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                               NULL, &out, NULL, &status, &error));
    if (!g_spawn_check_wait_status(status, NULL))
        g_error("iasl %s %s: %s", arg, file, out);
    return out;
}

/* Intel's compiler takes each table apart and, for the DSDT, puts it together again
 * without an error. */
static void iasl_accepts_the_tables(void)
{
    static const char *const names[] = {"FACP", "APIC", "DSDT"};
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *dir = NULL, *dsl = NULL, *text = NULL;
    g_autoptr(GByteArray) all = build(300);

    if (!iasl) {
        g_test_skip("iasl (acpica-tools) is not installed");
        return;
    }
    dir = g_dir_make_tmp("lodge-acpi-XXXXXX", NULL);
    for (size_t n = 0; n < ARRAY_LEN(names); n++) {
        const uint8_t *t = table(all, names[n]);
        g_autofree char *name = g_strconcat(names[n], ".aml", NULL);
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_autofree char *out = NULL;

        g_file_set_contents(path, (const char *)t, le32_get(t + 4), NULL);
        out = run_iasl(dir, "-d", name);
        g_assert_null(strstr(out, "Error"));
        g_unlink(path);
    }
    dsl = g_build_filename(dir, "DSDT.dsl", NULL);
    {
        g_autofree char *out = run_iasl(dir, "-oa", "DSDT.dsl");

        g_assert_nonnull(strstr(out, " 0 Errors"));
    }
    g_assert_true(g_file_get_contents(dsl, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, "Device (VR01)"));
    g_assert_nonnull(strstr(text, "\"LNRO0005\""));
    g_assert_nonnull(strstr(text, "0xFEB00200"));
    g_assert_nonnull(strstr(text, "EisaId (\"PNP0501\")"));
    g_assert_nonnull(strstr(text, "Notify (\\_SB.PWRB, 0x80)"));
    g_assert_nonnull(strstr(text, "Device (C12B)"));
    {
        const char *argv[] = {"rm", "-r", dir, NULL};

        g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                     NULL, NULL, NULL);
    }
}

static void package_lengths_have_each_size(void)
{
    /* Scope opcode, length bytes, root name: contents around the borders 63, 4095. */
    static const struct {
        unsigned fill;
        unsigned bytes;
    } cases[] = {{0, 1}, {57, 1}, {58, 2}, {4088, 2}, {4089, 3}, {70000, 3}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct aml *a = aml_new();
        const GByteArray *b;
        uint64_t len;

        aml_scope(a, "\\_SB");
        for (unsigned k = 0; k < cases[i].fill; k++)
            aml_int(a, 0);
        aml_close(a);
        b = aml_bytes(a);
        g_assert_cmpuint(b->data[1] >> 6, ==, cases[i].bytes - 1);
        len = cases[i].bytes == 1 ? b->data[1] : b->data[1] & 0xf;
        for (unsigned k = 1; k < cases[i].bytes; k++)
            len |= (uint64_t)b->data[1 + k] << (4 + 8 * (k - 1));
        g_assert_cmpuint(len, ==, b->len - 1);
        aml_free(a);
    }
}

static void fadt_is_hardware_reduced(void)
{
    g_autoptr(GByteArray) all = build(1);
    const uint8_t *f = table(all, "FACP");

    g_assert_cmphex(le32_get(f + 112) & (1u << 20), !=, 0);
    g_assert_cmphex(le64_get(f + 116 + 4), ==, 0xfea00000 + GED_RESET);
    g_assert_cmphex(f[128], ==, GED_RESET_VALUE);
    g_assert_cmphex(le64_get(f + 244 + 4), ==, 0xfea00000 + GED_SLEEP_CONTROL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/acpi/checksums_are_zero", checksums_are_zero);
    g_test_add_func("/acpi/iasl_accepts_the_tables", iasl_accepts_the_tables);
    g_test_add_func("/acpi/package_lengths_have_each_size",
                    package_lengths_have_each_size);
    g_test_add_func("/acpi/fadt_is_hardware_reduced", fadt_is_hardware_reduced);
    return g_test_run();
}
