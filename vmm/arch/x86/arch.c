#include "vmm/arch/x86/arch.h"

#include <inttypes.h>

#include "lib/base/base.h"
#include "lib/isa/x86/cpu_model.h"
#include "lib/isa/x86/state.h"
#include "vmm/arch/x86/kvm_pv.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_vcpu.h"
#include "vmm/vm/vm.h"

#define MAX_VCPUS 255 /* xAPIC IDs 0..254; 255 is everybody */
#define PHYS_BITS 52

static bool arch_vcpu_new(struct vcpu *vcpu, GError **error)
{
    const struct x86_cpu_model *model = vcpu->vm->cpu_model;
    struct x86_vcpu *x = g_new0(struct x86_vcpu, 1);

    vcpu->arch = x;
    x->lapic = lapic_new(vcpu);
    if (model)
        lapic_set_features(vcpu, x86_cpu_has(model, X86_FEAT_X2APIC),
                           x86_cpu_has(model, X86_FEAT_TSC_DEADLINE));
    if (model && model->phys_bits)
        lapic_set_phys_bits(vcpu, model->phys_bits);
    if (!model || (x86_cpu_has(model, X86_FEAT_HYPERVISOR) && !model->no_kvm))
        x->pv = kvm_pv_new(vcpu);
    return true;
}

void x86_connect_smm(struct vm *vm, const struct x86_smm_ops *ops, void *opaque)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct x86_vcpu *x = x86_vcpu_of(vm->vcpus[i]);

        x->smm.ops = ops;
        x->smm.opaque = opaque;
    }
}

void x86_connect_ferr(struct vm *vm, struct irq_line line)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++)
        x86_vcpu_of(vm->vcpus[i])->ferr.line = line;
}

void x86_set_ferr(struct vcpu *vcpu, bool on)
{
    struct x86_ferr *f = &x86_vcpu_of(vcpu)->ferr;

    if (atomic_exchange(&f->on, on) == on)
        return;
    if (!on)
        atomic_store(&f->ignne, false);
    irq_set(&f->line, on);
}

void x86_assert_ignne(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct x86_ferr *f = &x86_vcpu_of(vm->vcpus[i])->ferr;

        if (atomic_load(&f->on)) {
            atomic_store(&f->ignne, true);
            irq_set(&f->line, false);
        }
    }
}

static void arch_vcpu_free(struct vcpu *vcpu)
{
    struct x86_vcpu *x = x86_vcpu_of(vcpu);

    if (!x)
        return;
    if (x->pv)
        kvm_pv_free(x->pv);
    lapic_free(x->lapic);
    g_free(x);
    vcpu->arch = NULL;
}

/* Change the accelerator's idea of the registers. A state it refuses ends the VM. */
static void set_state(struct vcpu *vcpu, const struct x86_state *s)
{
    GError *error = NULL;

    if (!vcpu->vm->accel->set_state(vcpu, s, &error)) {
        g_prefix_error(&error, "vCPU %u: ", vcpu->index);
        vm_request_error(vcpu->vm, error);
    }
}

static uint32_t signature(const struct vcpu *vcpu)
{
    return vcpu->vm->cpu_model ? x86_cpu_signature(vcpu->vm->cpu_model) : 0;
}

static void arch_vcpu_reset(struct vcpu *vcpu)
{
    struct x86_vcpu *x = x86_vcpu_of(vcpu);
    struct x86_state s;

    x86_state_reset(&s, signature(vcpu), false);
    if (vcpu->index != 0)
        s.activity = X86_WAIT_SIPI;
    x->tsc_offset = 0;
    x->smm.active = false;
    atomic_store(&x->ferr.on, false);
    atomic_store(&x->ferr.ignne, false);
    set_state(vcpu, &s);
    lapic_reset(vcpu);
    if (x->pv)
        kvm_pv_reset(vcpu);
}

static bool arch_vcpu_has_work(struct vcpu *vcpu)
{
    struct x86_state s;

    lapic_timer_poll(vcpu);

    if (lapic_has_work(vcpu, false))
        return true;
    if (!lapic_has_work(vcpu, true))
        return false;
    if (vcpu->vm->accel->irqs_open)
        return vcpu->vm->accel->irqs_open(vcpu);
    vcpu->vm->accel->get_state(vcpu, &s);
    return s.rflags & X86_FL_IF;
}

/* INIT and SIPI: APM 2 16.5 and 14.1.3; SDM 3 "Multiple-Processor Initialization". */
static void arch_attention_reset(struct vcpu *vcpu)
{
    uint8_t vector = 0;
    unsigned what = lapic_take_start(vcpu, &vector);
    struct x86_state s;

    if (!what)
        return;
    vcpu->vm->accel->get_state(vcpu, &s);
    /* A processor that runs or is halted takes no STARTUP. */
    if (!(what & LAPIC_INIT) && s.activity != X86_WAIT_SIPI)
        return;
    if (what & LAPIC_INIT) {
        vcpu_log_reset(vcpu);
        x86_state_reset(&s, signature(vcpu), true);
        lapic_init_reset(vcpu);
        if (x86_vcpu_of(vcpu)->pv)
            kvm_pv_reset(vcpu);
        if (vcpu->index != 0)
            s.activity = X86_WAIT_SIPI;
    }
    if (what & LAPIC_SIPI && s.activity == X86_WAIT_SIPI) {
        s.activity = X86_ACTIVE;
        s.seg[X86_CS].sel = (uint16_t)(vector << 8);
        s.seg[X86_CS].base = (uint64_t)vector << 12;
        s.rip = 0;
    }
    set_state(vcpu, &s);
    vcpu_set_powered(vcpu, s.activity == X86_ACTIVE);
}

static void arch_dump(const void *state, FILE *out)
{
    x86_state_dump(state, X86_DUMP_FPU, out);
}

const struct arch_ops x86_arch = {
    .name = "x86_64",
    .state_size = sizeof(struct x86_state),
    .phys_bits = PHYS_BITS,
    .port_bits = 16,
    .max_vcpus = MAX_VCPUS,
    .vcpu_new = arch_vcpu_new,
    .vcpu_free = arch_vcpu_free,
    .vcpu_reset = arch_vcpu_reset,
    .vcpu_has_work = arch_vcpu_has_work,
    .vcpu_wake_ns = lapic_timer_deadline_ns,
    .vcpu_attention_reset = arch_attention_reset,
    .dump = arch_dump,
};
