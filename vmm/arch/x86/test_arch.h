#ifndef VMM_ARCH_X86_TEST_ARCH_H
#define VMM_ARCH_X86_TEST_ARCH_H

#include "lib/loop/loop.h"
#include "vmm/arch/x86/kvm_pv.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/fake_accel.h"

/*
 * For tests: a VM whose vCPUs have local APICs but no registers, driven by the
 * test's own thread. Its clock stands still until test_advance().
 *
 * Wall time and TSC follow guest time exactly when the test is linked with
 * test_clock_link_args: TSC at 2 GHz, wall time from TEST_WALL_S on.
 */
static inline bool test_vcpu_new(struct vcpu *vcpu, GError **error)
{
    struct x86_vcpu *x = g_new0(struct x86_vcpu, 1);
    vcpu->arch = x;
    x->lapic = lapic_new(vcpu);
    x->pv = kvm_pv_new(vcpu);
    return true;
}

static inline void test_vcpu_free(struct vcpu *vcpu)
{
    struct x86_vcpu *x = x86_vcpu_of(vcpu);
    kvm_pv_free(x->pv);
    lapic_free(x->lapic);
    g_free(x);
}

static inline void test_vcpu_reset(struct vcpu *vcpu)
{
    lapic_reset(vcpu);
    kvm_pv_reset(vcpu);
}

static const struct arch_ops test_arch = {
    .name = "test-x86",
    .phys_bits = 40,
    .port_bits = 16,
    .max_vcpus = 64,
    .vcpu_new = test_vcpu_new,
    .vcpu_free = test_vcpu_free,
    .vcpu_reset = test_vcpu_reset,
    .vcpu_has_work = fake_has_work,
    .vcpu_attention_reset = fake_attention_reset,
};

static inline struct vm *test_vm_new(unsigned nb_vcpus)
{
    static struct fake_model model;
    struct vm_config config = {
        .arch = &test_arch,
        .accel = &fake_accel,
        .loop = loop_new(NULL, NULL),
        .nb_vcpus = nb_vcpus,
        .cpu_model = &model,
        .name = "test",
    };
    GError *error = NULL;
    struct vm *vm = vm_new(&config, &error);
    g_assert_no_error(error);
    return vm;
}

static inline void test_vm_free(struct vm *vm)
{
    struct loop *loop = vm->loop;
    vm_free(vm);
    loop_free(loop);
}

static inline void test_advance(struct vm *vm, uint64_t ns)
{
    vm_clock_advance(vm->clock, ns);
}

/* ---- wall time and TSC ---- */

#define TEST_WALL_S UINT64_C(1700000000) /* Tue 2023-11-14 22:13:20 UTC */

uint64_t __wrap_vm_clock_wall_ns(struct vm_clock *c);
uint64_t __wrap_vm_clock_tsc(struct vm_clock *c);
uint64_t __wrap_vm_clock_tsc_khz(struct vm_clock *c);
uint64_t __wrap_vm_clock_tsc_to_ns(struct vm_clock *c, uint64_t tsc);

uint64_t __wrap_vm_clock_wall_ns(struct vm_clock *c)
{
    return TEST_WALL_S * 1000000000 + vm_clock_ns(c);
}

uint64_t __wrap_vm_clock_tsc(struct vm_clock *c)
{
    return vm_clock_ns(c) * 2;
}

uint64_t __wrap_vm_clock_tsc_khz(struct vm_clock *c)
{
    return 2000000;
}

uint64_t __wrap_vm_clock_tsc_to_ns(struct vm_clock *c, uint64_t tsc)
{
    return tsc / 2;
}

#endif
