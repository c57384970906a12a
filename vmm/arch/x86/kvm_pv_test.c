#include "vmm/arch/x86/kvm_pv.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/test_arch.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"

static struct vm *vm;

static void setup(unsigned nb_vcpus)
{
    vm = test_vm_new(nb_vcpus);
    g_assert_true(gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL));
}

static void wrmsr(unsigned cpu, uint32_t msr, uint64_t value)
{
    bool gp = true;
    g_assert_true(kvm_pv_msr_write(vm->vcpus[cpu], msr, value, &gp));
    g_assert_false(gp);
}

/* The reader's side of the protocol, at guest TSC @tsc. */
static uint64_t read_clock(uint64_t gpa, uint64_t tsc)
{
    uint8_t p[32];
    g_assert_cmpint(gmem_read(vm->gmem, gpa, p, sizeof(p)), ==, 0);
    g_assert_cmpuint(le32_get(p) & 1, ==, 0);
    uint64_t delta = tsc - le64_get(p + 8);
    int8_t shift = (int8_t)p[28];
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return le64_get(p + 16) +
           (uint64_t)((unsigned __int128)delta * le32_get(p + 24) >> 32);
}

static void leaves_name_kvm(void)
{
    uint32_t r[4];
    setup(1);
    g_assert_true(kvm_pv_cpuid(vm->vcpus[0], 0x40000000, r));
    g_assert_cmphex(r[0], ==, 0x40000001);
    g_assert_cmpmem(r + 1, 12, "KVMKVMKVM\0\0\0", 12);
    g_assert_true(kvm_pv_cpuid(vm->vcpus[0], 0x40000001, r));
    g_assert_cmphex(r[0], ==, 1u << 1 | 1u << 3 | 1u << 6 | 1u << 24);
    g_assert_false(kvm_pv_cpuid(vm->vcpus[0], 0x40000002, r));
    test_vm_free(vm);
}

static void clock_follows_guest_time(void)
{
    setup(2);
    test_advance(vm, 123456789);
    wrmsr(0, MSR_KVM_SYSTEM_TIME, 0x1000 | 1);
    test_advance(vm, 3600 * UINT64_C(1000000000));
    wrmsr(1, MSR_KVM_SYSTEM_TIME, 0x1040 | 1);
    test_advance(vm, 1000);
    uint64_t ns = vm_clock_ns(vm->clock), tsc = ns * 2;
    g_assert_cmpuint(read_clock(0x1000, tsc), ==, ns);
    /* The same anchor on every vCPU, bit for bit. */
    uint8_t a[32], b[32];
    gmem_read(vm->gmem, 0x1000, a, 32);
    gmem_read(vm->gmem, 0x1040, b, 32);
    g_assert_cmpmem(a + 8, 22, b + 8, 22);
    g_assert_cmphex(a[29], ==, 1); /* TSC is stable */
    test_vm_free(vm);
}

static void clock_knows_the_tsc_offset(void)
{
    setup(1);
    test_advance(vm, 5000000);
    x86_vcpu_of(vm->vcpus[0])->tsc_offset = -7000;
    wrmsr(0, MSR_KVM_SYSTEM_TIME, 0x1000 | 1);
    test_advance(vm, 5000000);
    g_assert_cmpuint(read_clock(0x1000, 20000000 - 7000), ==, 10000000);
    uint8_t flags;
    gmem_read(vm->gmem, 0x1000 + 29, &flags, 1);
    g_assert_cmphex(flags, ==, 0); /* its page is not good for other vCPUs */
    uint32_t v1, v2;
    gmem_read(vm->gmem, 0x1000, &v1, 4);
    kvm_pv_refresh(vm->vcpus[0]);
    gmem_read(vm->gmem, 0x1000, &v2, 4);
    g_assert_cmpuint(v2, !=, v1);
    g_assert_cmpuint(v2 & 1, ==, 0);
    test_vm_free(vm);
}

static void wall_clock_is_the_boot_time(void)
{
    uint8_t p[12];
    setup(1);
    test_advance(vm, 1500000000);
    wrmsr(0, MSR_KVM_WALL_CLOCK, 0x3000);
    gmem_read(vm->gmem, 0x3000, p, 12);
    g_assert_cmpuint(le32_get(p) & 1, ==, 0);
    g_assert_cmpuint(le32_get(p + 4), ==, TEST_WALL_S);
    g_assert_cmpuint(le32_get(p + 8), ==, 0);
    test_vm_free(vm);
}

static void bad_addresses_do_no_harm(void)
{
    uint64_t v;
    bool gp;
    setup(1);
    wrmsr(0, MSR_KVM_SYSTEM_TIME, UINT64_MAX);
    wrmsr(0, MSR_KVM_WALL_CLOCK, UINT64_MAX - 3);
    wrmsr(0, MSR_KVM_SYSTEM_TIME, 0xfff1 | 1); /* leaves RAM in the middle */
    wrmsr(0, MSR_KVM_PV_EOI, 0xfffffffffffffffd);
    g_assert_true(kvm_pv_msr_write(vm->vcpus[0], MSR_KVM_PV_EOI, 2, &gp));
    g_assert_true(gp);
    g_assert_false(kvm_pv_msr_write(vm->vcpus[0], 0x4b564d02, 0, &gp));
    g_assert_false(kvm_pv_msr_read(vm->vcpus[0], 0x4b564d05, &v));
    g_assert_true(kvm_pv_msr_read(vm->vcpus[0], MSR_KVM_SYSTEM_TIME, &v));
    g_assert_cmphex(v, ==, 0xfff1);
    kvm_pv_reset(vm->vcpus[0]);
    g_assert_true(kvm_pv_msr_read(vm->vcpus[0], MSR_KVM_SYSTEM_TIME, &v));
    g_assert_cmphex(v, ==, 0);
    test_vm_free(vm);
}

static void state_survives_save_and_load(void)
{
    setup(1);
    GError *error = NULL;
    struct kvm_pv *pv = x86_vcpu_of(vm->vcpus[0])->pv;
    uint64_t v;
    wrmsr(0, MSR_KVM_PV_EOI, 0x2001);
    json_t *saved = state_save(&kvm_pv_state, pv);
    kvm_pv_reset(vm->vcpus[0]);
    g_assert_true(state_load(&kvm_pv_state, pv, saved, &error));
    json_decref(saved);
    g_assert_true(kvm_pv_msr_read(vm->vcpus[0], MSR_KVM_PV_EOI, &v));
    g_assert_cmphex(v, ==, 0x2001);
    test_vm_free(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kvm-pv/cpuid", leaves_name_kvm);
    g_test_add_func("/kvm-pv/clock", clock_follows_guest_time);
    g_test_add_func("/kvm-pv/offset", clock_knows_the_tsc_offset);
    g_test_add_func("/kvm-pv/wall", wall_clock_is_the_boot_time);
    g_test_add_func("/kvm-pv/bad", bad_addresses_do_no_harm);
    g_test_add_func("/kvm-pv/state", state_survives_save_and_load);
    return g_test_run();
}
