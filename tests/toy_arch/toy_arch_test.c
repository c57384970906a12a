#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "vmm/accel/script/script.h"
#include "vmm/dev/virtio/virtio_devices.h"
#include "vmm/dev/virtio/virtio_mmio.h"
#include "vmm/vm/arch.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * A second architecture, as small as can be: 40 address bits, no ports, one register.
 * That it links with vmm/vm, vmm/accel/script and vmm/dev/virtio and with nothing of
 * x86, and that a device works on it, keeps x86 out of those folders.
 */

struct toy_state {
    uint64_t pc;
};

static bool toy_vcpu_new(struct vcpu *vcpu, GError **error)
{
    return true;
}

static void toy_vcpu_free(struct vcpu *vcpu)
{
}

static void toy_vcpu_reset(struct vcpu *vcpu)
{
    struct toy_state state = {.pc = 0x100};
    vcpu->vm->accel->set_state(vcpu, &state, NULL);
}

static bool toy_has_work(struct vcpu *vcpu)
{
    return false;
}

static void toy_attention_reset(struct vcpu *vcpu)
{
    vcpu_set_powered(vcpu, true);
}

static void toy_dump(const void *state, FILE *out)
{
    fprintf(out, "pc=%#" PRIx64 "\n", ((const struct toy_state *)state)->pc);
}

static const struct arch_ops toy_arch = {
    .name = "toy",
    .state_size = sizeof(struct toy_state),
    .phys_bits = 40,
    .port_bits = 0,
    .max_vcpus = 2,
    .vcpu_new = toy_vcpu_new,
    .vcpu_free = toy_vcpu_free,
    .vcpu_reset = toy_vcpu_reset,
    .vcpu_has_work = toy_has_work,
    .vcpu_attention_reset = toy_attention_reset,
    .dump = toy_dump,
};

static void no_lines(void *opaque, unsigned input, bool level)
{
}

static const char script[] = "let dev 0x8000000000\n"
                             "read32 $dev = 0x74726976\n"
                             "read32 $dev+8 = 4\n"
                             "write32 $dev+0x70 3\n"
                             "write32 $dev+0x24 1\n"
                             "write32 $dev+0x20 1\n"
                             "write32 $dev+0x70 11\n"
                             "read32 $dev+0x70 = 11\n"
                             "write32 $dev+0x38 2\n"
                             "write32 $dev+0x80 0x1000\n"
                             "write32 $dev+0x90 0x2000\n"
                             "write32 $dev+0xa0 0x3000\n"
                             "write32 $dev+0x44 1\n"
                             "write32 $dev+0x70 15\n"
                             "write64 0x1000 0x4000\n"
                             "write32 0x1008 64\n"
                             "write16 0x100c 2\n"
                             "write16 0x2002 1\n"
                             "write32 $dev+0x50 0\n"
                             "wait-irq 1 60s\n"
                             "read32 0x3008 = 64\n"
                             "irq 1 = 1\n"
                             "write32 $dev+0x64 1\n"
                             "irq 1 = 0\n"
                             "read32 0x7fffffff00 = 0xffffffff\n";

static void a_device_works_on_another_architecture(void)
{
    GError *error = NULL;
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("toy-XXXXXX", &path, &error);
    g_assert_no_error(error);
    close(fd);
    g_assert_true(g_file_set_contents(path, script, -1, NULL));
    json_t *options = json_pack("{s:s}", "file", path);
    struct loop *loop = loop_new(NULL, NULL);
    loop_attach(loop, NULL);
    struct vm_config config = {
        .arch = &toy_arch,
        .accel = &script_accel,
        .accel_options = options,
        .loop = loop,
        .nb_vcpus = 2,
    };
    struct vm *vm = vm_new(&config, &error);
    g_assert_no_error(error);
    g_assert_null(vm->pio);
    vm->gsi_fn = no_lines;
    vm->nb_gsi = 4;
    g_assert_true(gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL));
    g_assert_true(virtio_mmio_add(vm, UINT64_C(1) << 39, 1, NULL));
    g_assert_nonnull(device_new(vm, &virtio_rng_device_type, NULL, NULL, &error));
    g_assert_true(vm_start(vm, &error));
    enum vm_end end = vm_run_main(vm);
    g_assert_no_error(vm->end_error);
    g_assert_cmpint(end, ==, VM_END_EXIT);

    g_autofree char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    vcpu_dump(vm->vcpus[0], out);
    fclose(out);
    g_assert_nonnull(strstr(text, "pc=0x100"));
    vm_free(vm);
    loop_free(loop);
    json_decref(options);
    unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/toy-arch/device", a_device_works_on_another_architecture);
    return g_test_run();
}
