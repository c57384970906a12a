#ifndef VMM_VM_FAKE_ACCEL_H
#define VMM_VM_FAKE_ACCEL_H

#include <string.h>

#include "vmm/vm/accel.h"
#include "vmm/vm/arch.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * For tests: an architecture with nothing in it, and an accelerator whose run() is
 * the function that the test gives as vm_config.cpu_model's first member.
 */
struct fake_model {
    enum vcpu_exit (*run)(struct vcpu *vcpu);
    bool (*has_work)(struct vcpu *vcpu); /* NULL: the IRQ bit never helps */
    void (*attention_reset)(struct vcpu *vcpu);
    void *opaque;
};

static inline const struct fake_model *fake_model(const struct vcpu *vcpu)
{
    return vcpu->vm->cpu_model;
}

static inline bool fake_init(struct vm *vm, const json_t *options, void **ret_state,
                             GError **error)
{
    return true;
}

static inline bool fake_vcpu_new(struct vcpu *vcpu, GError **error)
{
    return true;
}

static inline void fake_vcpu_free(struct vcpu *vcpu)
{
}

static inline enum vcpu_exit fake_run(struct vcpu *vcpu)
{
    return fake_model(vcpu)->run(vcpu);
}

static inline bool fake_has_work(struct vcpu *vcpu)
{
    return fake_model(vcpu)->has_work && fake_model(vcpu)->has_work(vcpu);
}

static inline void fake_reset(struct vcpu *vcpu)
{
}

static inline void fake_attention_reset(struct vcpu *vcpu)
{
    if (fake_model(vcpu)->attention_reset) {
        fake_model(vcpu)->attention_reset(vcpu);
    }
}

static const struct accel_ops fake_accel = {
    .name = "fake",
    .init = fake_init,
    .vcpu_new = fake_vcpu_new,
    .vcpu_free = fake_vcpu_free,
    .run = fake_run,
};

static const struct arch_ops fake_arch = {
    .name = "fake",
    .phys_bits = 48,
    .port_bits = 16,
    .max_vcpus = 8,
    .vcpu_new = fake_vcpu_new,
    .vcpu_free = fake_vcpu_free,
    .vcpu_reset = fake_reset,
    .vcpu_has_work = fake_has_work,
    .vcpu_attention_reset = fake_attention_reset,
};

/* A VM of @n vCPUs; @loop may be NULL when nothing needs timers. */
static inline struct vm *fake_vm_new(struct fake_model *model, unsigned n,
                                     struct loop *loop)
{
    struct vm_config config = {
        .arch = &fake_arch,
        .accel = &fake_accel,
        .loop = loop,
        .nb_vcpus = n,
        .cpu_model = model,
        .name = "test",
    };
    GError *error = NULL;
    struct vm *vm = vm_new(&config, &error);
    g_assert_no_error(error);
    return vm;
}

#endif
