#include "vmm/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/kvm_pv.h"
#include "vmm/arch/x86/lapic.h"

/*
 * What of the interrupt hardware is in the kernel.
 *
 * off    nothing. kvm_run.c queues what lapic.c has pending.
 * split  the local APICs. The board's IOAPIC sends messages (KVM_SIGNAL_MSI); what its
 *        pins send is told as routes, because the kernel must know for which vectors
 *        the end of an interrupt is to come out as an exit, and for irqfds.
 * on     the 8259 pair and the IOAPIC, too. The board's devices only hold what the
 *        kernel's have after a reset; lines go there with KVM_IRQ_LINE.
 *
 * Spec: Linux, Documentation/virt/kvm/api.rst; MSI layout: SDM 3, "Message Address
 * Register Format".
 */

#define MSR_BASE     0x1bu
#define MSR_DEADLINE 0x6e0u

/* --- Local APICs ----------------------------------------------------------- */

static bool get_nmi(struct kvm_cpu *c)
{
    struct kvm_vcpu_events k = {0};
    return kvm_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &k) == 0 && k.nmi.pending;
}

static bool set_nmi(struct kvm_cpu *c, bool pending)
{
    struct kvm_vcpu_events k = {0};
    if (kvm_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &k) < 0) {
        return false;
    }
    k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    k.nmi.pending = pending;
    return kvm_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &k) == 0;
}

static void apic_get(struct vcpu *vcpu, struct x86_apic_regs *ret)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    struct kvm_lapic_state k = {0};
    memset(ret, 0, sizeof(*ret));
    kvm_get_msr(c, MSR_BASE, &ret->base);
    kvm_get_msr(c, MSR_DEADLINE, &ret->tsc_deadline);
    kvm_ioctl(c->fd, KVM_GET_LAPIC, &k);
    ret->nmi = get_nmi(c);
    for (unsigned i = 0; i < ARRAY_LEN(ret->word); i++) {
        ret->word[i] = le32_get((const uint8_t *)k.regs + 16 * i);
    }
}

static void apic_set(struct vcpu *vcpu, const struct x86_apic_regs *regs)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    struct kvm_lapic_state k = {0};
    for (unsigned i = 0; i < ARRAY_LEN(regs->word); i++) {
        le32_put((uint8_t *)k.regs + 16 * i, regs->word[i]);
    }
    if (!kvm_set_msr(c, MSR_BASE, regs->base) ||
        kvm_ioctl(c->fd, KVM_SET_LAPIC, &k) < 0 || !set_nmi(c, regs->nmi)) {
        GError *error = NULL;
        error_errno(&error, errno, "vCPU %u: KVM refuses the local APIC's registers",
                    vcpu->index);
        vm_request_error(vcpu->vm, error);
        return;
    }
    if (regs->tsc_deadline) {
        kvm_set_msr(c, MSR_DEADLINE, regs->tsc_deadline);
    }
}

static void msi_of(const struct lapic_msg *msg, uint64_t *ret_addr, uint32_t *ret_data)
{
    uint32_t dest = msg->dest & 0xff; /* IDs are below 255, everybody is all ones */
    bool lowest = msg->mode == LAPIC_MODE_LOWEST;
    *ret_addr =
        LAPIC_BASE | dest << 12 | (uint32_t)lowest << 3 | (uint32_t)msg->logical << 2;
    *ret_data =
        msg->vector | (uint32_t)msg->mode << 8 | 1u << 14 | (uint32_t)msg->level << 15;
}

static unsigned apic_deliver(struct vm *vm, const struct lapic_msg *msg)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_msi msi = {0};
    uint64_t addr;
    msi_of(msg, &addr, &msi.data);
    msi.address_lo = (uint32_t)addr;
    int n = kvm_ioctl(kv->fd, KVM_SIGNAL_MSI, &msi);
    return n > 0 ? (unsigned)n : 0;
}

static void apic_nmi(struct vcpu *vcpu)
{
    kvm_ioctl_n(kvm_cpu_of(vcpu)->fd, KVM_NMI, 0);
}

/* --- Routes ---------------------------------------------------------------- */

static struct kvm_irq_routing_entry *add_route(struct kvm_irq_routing *t, unsigned gsi,
                                               unsigned type)
{
    struct kvm_irq_routing_entry *e = &t->entries[t->nr++];
    memset(e, 0, sizeof(*e));
    e->gsi = gsi;
    e->type = type;
    return e;
}

static void add_chip_route(struct kvm_irq_routing *t, unsigned gsi, unsigned chip,
                           unsigned pin)
{
    struct kvm_irq_routing_entry *e = add_route(t, gsi, KVM_IRQ_ROUTING_IRQCHIP);
    e->u.irqchip.irqchip = chip;
    e->u.irqchip.pin = pin;
}

static bool set_routes_locked(struct kvm_vm *kv)
{
    struct kvm_irq_routing *t = kv->routing;
    t->nr = 0;
    for (unsigned i = 0; i < KVM_NB_PINS && kv->irqchip == KVM_IRQCHIP_ON; i++) {
        /* As in vmm/dev/pc/pc_irqs.h: the timer is pin 2, input 2 the cascade. */
        if (i != 2 && i < 16) {
            add_chip_route(t, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                           i & 7);
        }
        if (i != 2) {
            add_chip_route(t, i, KVM_IRQCHIP_IOAPIC, i ? i : 2);
        }
    }
    for (unsigned i = 0; i < KVM_NB_PINS && kv->irqchip == KVM_IRQCHIP_SPLIT; i++) {
        if (kv->routes[i].set) {
            struct kvm_irq_routing_entry *e = add_route(t, i, KVM_IRQ_ROUTING_MSI);
            e->u.msi.address_lo = (uint32_t)kv->routes[i].addr;
            e->u.msi.data = kv->routes[i].data;
        }
    }
    return kvm_ioctl(kv->fd, KVM_SET_GSI_ROUTING, t) == 0;
}

static void apic_route(struct vm *vm, unsigned pin, const struct lapic_msg *msg)
{
    struct kvm_vm *kv = vm->accel_state;
    struct x86_route r = {.set = msg != NULL};
    if (pin >= KVM_NB_PINS || kv->irqchip != KVM_IRQCHIP_SPLIT) {
        return;
    }
    if (msg) {
        msi_of(msg, &r.addr, &r.data);
    }
    g_mutex_lock(&kv->lock);
    struct x86_route *old = &kv->routes[pin];
    if (r.set != old->set || r.addr != old->addr || r.data != old->data) {
        *old = r;
        set_routes_locked(kv);
    }
    g_mutex_unlock(&kv->lock);
}

static const struct x86_apic_ops apic_ops = {
    .get = apic_get,
    .set = apic_set,
    .deliver = apic_deliver,
    .nmi = apic_nmi,
    .route = apic_route,
};

/* --- The 8259 pair and the IOAPIC ------------------------------------------ */

static void pc_set_gsi(struct vm *vm, unsigned gsi, bool level)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_irq_level l = {.irq = gsi, .level = level};
    kvm_ioctl(kv->fd, KVM_IRQ_LINE, &l);
}

static struct kvm_pic_state pic_state(const struct x86_pic_regs *r, bool master)
{
    return (struct kvm_pic_state){
        .last_irr = r->last_irr,
        .irr = r->irr,
        .imr = r->imr,
        .isr = r->isr,
        .priority_add = r->priority_add,
        .irq_base = r->vector_base,
        .read_reg_select = r->read_isr,
        .poll = r->poll,
        .special_mask = r->special_mask,
        .init_state = r->init_state,
        .auto_eoi = r->auto_eoi,
        .rotate_on_auto_eoi = r->rotate_on_auto_eoi,
        .special_fully_nested_mode = r->special_nested,
        .init4 = r->init4,
        .elcr = r->elcr,
        .elcr_mask = master ? 0xf8 : 0xde,
    };
}

static void pc_set(struct vm *vm, const struct x86_pic_regs pic[2],
                   const struct x86_ioapic_regs *ioapic)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_irqchip chips[3] = {
        {.chip_id = KVM_IRQCHIP_PIC_MASTER, .chip.pic = pic_state(&pic[0], true)},
        {.chip_id = KVM_IRQCHIP_PIC_SLAVE, .chip.pic = pic_state(&pic[1], false)},
        {.chip_id = KVM_IRQCHIP_IOAPIC,
         .chip.ioapic = {.base_address = ioapic->base,
                         .ioregsel = ioapic->select,
                         .id = ioapic->id,
                         .irr = ioapic->irr}},
    };
    for (unsigned i = 0; i < KVM_NB_PINS; i++) {
        chips[2].chip.ioapic.redirtbl[i].bits = ioapic->table[i];
    }
    for (unsigned i = 0; i < ARRAY_LEN(chips); i++) {
        if (kvm_ioctl(kv->fd, KVM_SET_IRQCHIP, &chips[i]) < 0) {
            GError *error = NULL;
            error_errno(&error, errno, "KVM refuses interrupt controller %u", i);
            vm_request_error(vm, error);
        }
    }
}

static const struct x86_pc_irq_ops pc_irq_ops = {.set_gsi = pc_set_gsi, .set = pc_set};

/* --- Making them ----------------------------------------------------------- */

static bool needs(const struct kvm_vm *kv, unsigned long cap, const char *name,
                  GError **error)
{
    return kvm_ioctl_n(kv->fd, KVM_CHECK_EXTENSION, cap) > 0 ||
           error_msg(error, "kernel-irqchip: KVM of this kernel lacks %s", name);
}

static bool make_split(struct kvm_vm *kv, GError **error)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = KVM_NB_PINS};
    return needs(kv, KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP", error) &&
           needs(kv, KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI", error) &&
           (kvm_ioctl(kv->fd, KVM_ENABLE_CAP, &cap) == 0 ||
            error_errno(error, errno, "kernel-irqchip=split"));
}

static bool make_full(struct kvm_vm *kv, GError **error)
{
    if (!needs(kv, KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", error) ||
        !needs(kv, KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI", error)) {
        return false;
    }
    return (kvm_ioctl_n(kv->fd, KVM_CREATE_IRQCHIP, 0) == 0 && set_routes_locked(kv)) ||
           error_errno(error, errno, "kernel-irqchip=on");
}

bool kvm_make_irqchip(struct kvm_vm *kv, GError **error)
{
    kv->routing = g_malloc0(sizeof(*kv->routing) +
                            2 * KVM_NB_PINS * sizeof(kv->routing->entries[0]));
    if (kv->irqchip == KVM_IRQCHIP_OFF) {
        return true;
    }
    kv->arch_ops.apic = &apic_ops;
    if (kv->irqchip == KVM_IRQCHIP_SPLIT) {
        return make_split(kv, error);
    }
    kv->arch_ops.pc_irqs = &pc_irq_ops;
    return make_full(kv, error);
}

/* --- Paravirtual registers ------------------------------------------------- */

static void pv_get(struct vcpu *vcpu, struct x86_pv_regs *ret)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    *ret = (struct x86_pv_regs){0};
    kvm_get_msr(c, MSR_KVM_WALL_CLOCK, &ret->wall_clock);
    kvm_get_msr(c, MSR_KVM_SYSTEM_TIME, &ret->system_time);
    if (kvm_has_apic(c->kv)) {
        kvm_get_msr(c, MSR_KVM_PV_EOI, &ret->pv_eoi);
    }
}

static void pv_set(struct vcpu *vcpu, const struct x86_pv_regs *regs)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    kvm_set_msr(c, MSR_KVM_SYSTEM_TIME, regs->system_time);
    if (kvm_has_apic(c->kv)) {
        kvm_set_msr(c, MSR_KVM_PV_EOI, regs->pv_eoi);
    }
    /* Setting this one makes KVM write the page. */
    if (regs->wall_clock) {
        kvm_set_msr(c, MSR_KVM_WALL_CLOCK, regs->wall_clock);
    }
}

const struct x86_pv_ops kvm_own_pv_ops = {.get = pv_get, .set = pv_set};

/* --- Eventfds -------------------------------------------------------------- */

static bool doorbell(struct vm *vm, const struct accel_doorbell *bell, bool on,
                     GError **error)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_ioeventfd k = {
        .datamatch = bell->value,
        .addr = bell->addr,
        .len = bell->len,
        .fd = bell->fd,
        .flags = (bell->is_port ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (bell->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_ioctl(kv->fd, KVM_IOEVENTFD, &k) == 0 ||
           error_errno(error, errno, "KVM_IOEVENTFD at 0x%" PRIx64 ", %u bytes",
                       bell->addr, bell->len);
}

static bool irqfd(struct vm *vm, unsigned gsi, int fd, int resample_fd, bool on,
                  GError **error)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_irqfd k = {.fd = (uint32_t)fd, .gsi = gsi};
    if (kv->irqchip == KVM_IRQCHIP_OFF) {
        return error_msg(error, "irqfds need kernel-irqchip=on or split");
    }
    if (!on) {
        k.flags = KVM_IRQFD_FLAG_DEASSIGN;
    } else if (resample_fd >= 0) {
        k.flags = KVM_IRQFD_FLAG_RESAMPLE;
        k.resamplefd = (uint32_t)resample_fd;
    }
    return kvm_ioctl(kv->fd, KVM_IRQFD, &k) == 0 ||
           error_errno(error, errno, "KVM_IRQFD of input %u", gsi);
}

const struct accel_event_ops kvm_event_ops = {.doorbell = doorbell, .irqfd = irqfd};
