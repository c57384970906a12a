#include "vmm/board/board.h"

#include <errno.h>
#include <string.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/state.h"
#include "lib/loop/loop.h"
#include "vmm/arch/x86/arch.h"
#include "vmm/arch/x86/boot.h"
#include "vmm/dev/virtio/virtio_devices.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/* An accelerator that keeps registers and never runs. */

static bool no_init(struct vm *vm, const json_t *options, void **ret_state,
                    GError **error)
{
    return true;
}

static bool no_vcpu_new(struct vcpu *vcpu, GError **error)
{
    vcpu->accel = g_new0(struct x86_state, 1);
    return true;
}

static void no_vcpu_free(struct vcpu *vcpu)
{
    g_free(vcpu->accel);
}

static enum vcpu_exit no_run(struct vcpu *vcpu)
{
    return VCPU_EXIT_HLT;
}

static void no_get_state(struct vcpu *vcpu, void *ret_state)
{
    memcpy(ret_state, vcpu->accel, sizeof(struct x86_state));
}

static bool no_set_state(struct vcpu *vcpu, const void *state, GError **error)
{
    memcpy(vcpu->accel, state, sizeof(struct x86_state));
    return true;
}

static const struct accel_ops no_accel = {
    .name = "none",
    .init = no_init,
    .vcpu_new = no_vcpu_new,
    .vcpu_free = no_vcpu_free,
    .run = no_run,
    .get_state = no_get_state,
    .set_state = no_set_state,
};

/* A machine on a kernel of 4 KiB that needs 8 MiB from 16 MiB on. */

struct machine {
    char *kernel;
    struct loop *loop;
    struct board *board;
    struct vm *vm;
};

static char *write_kernel(void)
{
    uint8_t d[1024 + 4096] = {0};
    char *path = NULL;
    int fd = g_file_open_tmp("lodge-kernel-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_close(fd, NULL);
    d[0x1f1] = 1;
    le32_put(d + 0x1f4, 4096 / 16);
    le16_put(d + 0x1fe, 0xaa55);
    d[0x201] = 0x6a;
    memcpy(d + 0x202, "HdrS", 4);
    le16_put(d + 0x206, 0x20f);
    d[0x211] = 1;
    le32_put(d + 0x22c, 0x7fffffff);
    le32_put(d + 0x230, 0x200000);
    d[0x234] = 1;
    le32_put(d + 0x238, 2047);
    le64_put(d + 0x258, 16 * MIB);
    le32_put(d + 0x260, 8 * MIB);
    memset(d + 1024, 0x90, 4096);
    g_assert_true(g_file_set_contents(path, (const char *)d, sizeof(d), NULL));
    return path;
}

static struct machine machine_new(uint64_t memory, const char *options,
                                  const struct device_type *device)
{
    struct machine m = {.kernel = write_kernel(), .loop = loop_new(NULL, NULL)};
    struct board_config config = {
        .kernel = m.kernel, .cmdline = "quiet", .memory = memory, .nb_cpus = 1};
    struct chardev *serial[BOARD_SERIALS] = {NULL};
    json_t *o = json_loads(options, 0, NULL);
    g_autoptr(GError) error = NULL;

    m.board = board_new(board_types[0], o, &config, &error);
    g_assert_no_error(error);
    m.vm = vm_new(
        &(struct vm_config){
            .arch = &x86_arch, .accel = &no_accel, .loop = m.loop, .nb_vcpus = 1},
        &error);
    g_assert_no_error(error);
    board_build(m.board, m.vm, serial, &error);
    g_assert_no_error(error);
    if (device)
        g_assert_nonnull(device_new(m.vm, device, NULL, NULL, &error));
    board_finish(m.board, &error);
    g_assert_no_error(error);
    vm_reset(m.vm);
    json_decref(o);
    return m;
}

static void machine_free(struct machine *m)
{
    vm_free(m->vm);
    board_free(m->board);
    loop_free(m->loop);
    g_unlink(m->kernel);
    g_free(m->kernel);
}

static void peek(const struct machine *m, uint64_t gpa, void *buf, size_t len)
{
    g_assert_cmpint(gmem_read(m->vm->gmem, gpa, buf, len), ==, 0);
}

static void memory_above_3g_is_above_4g(void)
{
    static const struct {
        uint64_t base, len;
        unsigned type;
    } want[] = {
        {0, 0x9fc00, X86_E820_RAM},        {0x9fc00, 0x400, X86_E820_RESERVED},
        {0xe0000, 0x20000, X86_E820_ACPI}, {MIB, 3 * GIB - MIB, X86_E820_RAM},
        {4 * GIB, 2 * GIB, X86_E820_RAM},
    };
    struct machine m = machine_new(5 * GIB, "{}", NULL);
    uint8_t zp[4096], byte;

    peek(&m, X86_BOOT_ZEROPAGE, zp, sizeof(zp));
    g_assert_cmpuint(zp[0x1e8], ==, ARRAY_LEN(want));
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        const uint8_t *e = zp + 0x2d0 + 20 * i;

        g_assert_cmphex(le64_get(e), ==, want[i].base);
        g_assert_cmphex(le64_get(e + 8), ==, want[i].len);
        g_assert_cmphex(le32_get(e + 16), ==, want[i].type);
    }
    g_assert_cmpint(gmem_read(m.vm->gmem, 6 * GIB - 1, &byte, 1), ==, 0);
    g_assert_cmpint(gmem_read(m.vm->gmem, 6 * GIB, &byte, 1), <, 0);
    g_assert_cmpint(gmem_read(m.vm->gmem, 3 * GIB, &byte, 1), <, 0);
    machine_free(&m);
}

static void reset_writes_the_boot_image_again(void)
{
    struct machine m = machine_new(64 * MIB, "{}", NULL);
    static const uint8_t junk[4096];
    struct x86_state s;
    uint8_t b[8];

    for (int round = 0; round < 2; round++) {
        peek(&m, MIB, b, 1);
        g_assert_cmphex(b[0], ==, 0x90);
        peek(&m, 0xe0000, b, 8);
        g_assert_cmpmem(b, 8, "RSD PTR ", 8);
        peek(&m, X86_BOOT_CMDLINE, b, 6);
        g_assert_cmpmem(b, 6, "quiet", 6);
        no_get_state(m.vm->vcpus[0], &s);
        g_assert_cmphex(s.rip, ==, MIB);
        g_assert_cmphex(s.gpr[X86_RSI], ==, X86_BOOT_ZEROPAGE);

        gmem_write(m.vm->gmem, MIB, junk, sizeof(junk));
        gmem_write(m.vm->gmem, 0xe0000, junk, sizeof(junk));
        gmem_write(m.vm->gmem, X86_BOOT_CMDLINE, junk, sizeof(junk));
        s.rip = 0;
        no_set_state(m.vm->vcpus[0], &s, NULL);
        vm_reset(m.vm);
    }
    machine_free(&m);
}

static void devices_are_told_by_acpi_or_command_line(void)
{
    static const struct {
        const char *options;
        const char *cmdline;
        bool acpi;
    } cases[] = {
        {"{}", "quiet", true},
        {"{\"acpi\": \"off\"}", "quiet virtio_mmio.device=512@0xfeb00000:5", false},
        {"{\"acpi\": \"off\", \"auto-kernel-cmdline\": \"off\"}", "quiet", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct machine m =
            machine_new(64 * MIB, cases[i].options, &virtio_rng_device_type);
        char text[256], tables[1024];

        peek(&m, X86_BOOT_CMDLINE, text, sizeof(text));
        text[sizeof(text) - 1] = '\0';
        g_assert_cmpstr(text, ==, cases[i].cmdline);
        peek(&m, 0xe0000, tables, sizeof(tables));
        g_assert_cmpint(memcmp(tables, "RSD PTR ", 8) == 0, ==, cases[i].acpi);
        g_assert_cmpint(memmem(tables, sizeof(tables), "LNRO0005", 8) != NULL, ==,
                        cases[i].acpi);
        machine_free(&m);
    }
}

/* Registers of vmm/board/ged.h, as the tables describe them. */
static void guest_switches_off_and_resets_through_acpi(void)
{
    struct machine m = machine_new(64 * MIB, "{}", NULL);

    vcpu_mmio_write(m.vm->vcpus[0], 0xfea00004, 3 << 2 | 1 << 5, 1); /* S3: no */
    g_assert_cmpint(m.vm->end, ==, VM_END_NONE);
    vcpu_mmio_write(m.vm->vcpus[0], 0xfea00006, 0, 1);
    g_assert_false(m.vm->reset_wanted);
    vcpu_mmio_write(m.vm->vcpus[0], 0xfea00006, 0x42, 1);
    g_assert_true(m.vm->reset_wanted);
    vcpu_mmio_write(m.vm->vcpus[0], 0xfea00004, 5 << 2 | 1 << 5, 1);
    g_assert_cmpint(m.vm->end, ==, VM_END_POWEROFF);
    machine_free(&m);
}

static void power_button_is_an_event(void)
{
    struct machine m = machine_new(64 * MIB, "{}", NULL);
    struct vcpu *vcpu = m.vm->vcpus[0];

    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xfea00000, 4), ==, 0);
    board_power_button(m.board);
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xfea00000, 4), ==, 1);
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xfea00000, 4), ==, 0);
    machine_free(&m);
}

/* 192 KiB of firmware, each 64 KiB filled with a byte of its own. */
static void firmware_ends_at_4_gib_and_at_1_mib(void)
{
    struct machine m = {.loop = loop_new(NULL, NULL)};
    struct board_config config = {.memory = 64 * MIB, .nb_cpus = 1};
    struct chardev *serial[BOARD_SERIALS] = {NULL};
    g_autofree uint8_t *image = g_malloc(192 * KIB);
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("lodge-bios-XXXXXX", &path, NULL);
    struct x86_state s;
    uint8_t b[2];

    g_close(fd, NULL);
    for (unsigned i = 0; i < 3; i++)
        memset(image + i * 64 * KIB, 'a' + i, 64 * KIB);
    g_assert_true(g_file_set_contents(path, (const char *)image, 192 * KIB, NULL));
    config.bios = path;
    m.board = board_new(board_types[0], NULL, &config, NULL);
    g_assert_nonnull(m.board);
    m.vm = vm_new(
        &(struct vm_config){
            .arch = &x86_arch, .accel = &no_accel, .loop = m.loop, .nb_vcpus = 1},
        NULL);
    g_assert_true(board_build(m.board, m.vm, serial, NULL));
    g_assert_true(board_finish(m.board, NULL));
    for (int round = 0; round < 2; round++) {
        vm_reset(m.vm);
        peek(&m, 4 * GIB - 192 * KIB, b, 1);
        g_assert_cmphex(b[0], ==, 'a');
        peek(&m, 4 * GIB - 64 * KIB - 1, b, 2);
        g_assert_cmpmem(b, 2, "bc", 2);
        peek(&m, MIB - 128 * KIB - 1, b, 2);
        g_assert_cmpmem(b, 2, "\0b", 2);
        peek(&m, MIB - 1, b, 2);
        g_assert_cmpmem(b, 2, "c", 2);
        g_assert_cmpint(gmem_write(m.vm->gmem, MIB - 16, b, 1), ==, -EACCES);
        no_get_state(m.vm->vcpus[0], &s);
        g_assert_cmphex(s.seg[X86_CS].base, ==, 0xffff0000);
        g_assert_cmphex(s.rip, ==, 0xfff0);
        memset(&s, 0, sizeof(s));
        no_set_state(m.vm->vcpus[0], &s, NULL);
        gmem_load(m.vm->gmem, 4 * GIB - 64 * KIB - 1, "xx", 2);
    }
    vm_free(m.vm);
    board_free(m.board);
    loop_free(m.loop);
    g_unlink(path);
}

static void refused(const char *options, struct board_config config, const char *why)
{
    json_t *o = json_loads(options, 0, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(board_new(board_types[0], o, &config, &error));
    if (!strstr(error->message, why))
        g_error("'%s' does not say '%s'", error->message, why);
    json_decref(o);
}

static void mistakes_are_found_before_there_is_a_vm(void)
{
    g_autofree char *kernel = write_kernel();
    struct board_config c = {.kernel = kernel, .memory = 64 * MIB, .nb_cpus = 1};

    refused("{\"pitt\": \"on\"}", c, "did you mean 'pit'?");
    c.memory = 20 * MIB;
    refused("{}", c, "needs memory up to 24 MiB");
    c.memory = 64 * MIB;
    c.initrd = "/does/not/exist";
    refused("{}", c, "initrd '/does/not/exist': No such file");
    c.kernel = NULL;
    refused("{}", c, "-initrd needs -kernel");
    g_assert_null(board_type_find("microvn", NULL));
    g_unlink(kernel);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/board/memory_above_3g_is_above_4g", memory_above_3g_is_above_4g);
    g_test_add_func("/board/reset_writes_the_boot_image_again",
                    reset_writes_the_boot_image_again);
    g_test_add_func("/board/devices_are_told_by_acpi_or_command_line",
                    devices_are_told_by_acpi_or_command_line);
    g_test_add_func("/board/guest_switches_off_and_resets_through_acpi",
                    guest_switches_off_and_resets_through_acpi);
    g_test_add_func("/board/power_button_is_an_event", power_button_is_an_event);
    g_test_add_func("/board/firmware_ends_at_4_gib_and_at_1_mib",
                    firmware_ends_at_4_gib_and_at_1_mib);
    g_test_add_func("/board/mistakes_are_found_before_there_is_a_vm",
                    mistakes_are_found_before_there_is_a_vm);
    return g_test_run();
}
