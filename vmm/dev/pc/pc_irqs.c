#include "vmm/dev/pc/pc_irqs.h"

#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/dev/pc/i8259.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/vm/vm.h"

static void drive(struct pc_irqs *p, unsigned gsi, bool level)
{
    if (x86_accel_pc_irqs(p->vm)) { /* the controllers are the accelerator's */
        x86_accel_pc_irqs(p->vm)->set_gsi(p->vm, gsi, level);
        return;
    }
    if (p->pic && gsi < 16) {
        i8259_set_input(p->pic, gsi, level);
    }
    if (p->ioapic && gsi != 2) { /* pin 2 is the timer's, input 2 the cascade */
        ioapic_set_input(p->ioapic, gsi == 0 ? 2 : gsi, level);
    }
}

static bool is_replaced(unsigned gsi)
{
    return gsi == 0 || gsi == 8;
}

static void pc_irqs_set(void *opaque, unsigned gsi, bool level)
{
    struct pc_irqs *p = opaque;
    if (!is_replaced(gsi) || !atomic_load(&p->hpet_legacy)) {
        drive(p, gsi, level);
    }
}

void pc_irqs_set_by_hpet(struct pc_irqs *p, unsigned gsi, bool level)
{
    drive(p, gsi, level);
}

void pc_irqs_set_hpet_legacy(struct pc_irqs *p, bool on)
{
    if (atomic_exchange(&p->hpet_legacy, on) != on) {
        drive(p, 0, false);
        drive(p, 8, false);
    }
}

void pc_irqs_ready(struct pc_irqs *p)
{
    const struct x86_pc_irq_ops *accel = x86_accel_pc_irqs(p->vm);
    struct x86_pic_regs pic[2] = {{.imr = 0xff}, {.imr = 0xff}};
    struct x86_ioapic_regs ioapic;
    if (!accel || !p->ioapic) {
        return;
    }
    if (p->pic) {
        i8259_get_regs(p->pic, pic);
    }
    ioapic_get_regs(p->ioapic, &ioapic);
    accel->set(p->vm, pic, &ioapic);
}

static void pc_irqs_intr(void *opaque, unsigned input, bool level)
{
    struct pc_irqs *p = opaque;
    struct irq_line lint0 = lapic_lint(p->vm->vcpus[0], 0);
    irq_set(&lint0, level);
    if (p->ioapic) {
        ioapic_set_input(p->ioapic, 0, level);
    }
}

static bool send_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct pc_irqs *p = opaque;
    if (addr < LAPIC_BASE || addr - LAPIC_BASE >= LAPIC_WINDOW) {
        return false;
    }
    lapic_msi(p->vm, addr, data);
    return true;
}

void pc_irqs_connect(struct pc_irqs *p, struct vm *vm, struct device *pic,
                     struct device *ioapic)
{
    *p = (struct pc_irqs){.vm = vm, .pic = pic, .ioapic = ioapic};
    vm->gsi_fn = pc_irqs_set;
    vm->gsi_opaque = p;
    vm->nb_gsi = ioapic ? IOAPIC_NB_PINS : 16;
    if (pic) {
        i8259_set_output(pic, (struct irq_line){.fn = pc_irqs_intr, .opaque = p});
    }
    vm->msi_fn = send_msi;
    vm->msi_opaque = p;
    lapic_connect(vm, &(struct lapic_board){
                          .eoi = ioapic ? ioapic_eoi : NULL,
                          .eoi_opaque = ioapic,
                          .extint_ack = pic ? i8259_ack : NULL,
                          .extint_opaque = pic,
                      });
}
