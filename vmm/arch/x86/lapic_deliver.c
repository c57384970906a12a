/*
 * Delivery of interrupts to LAPICs: which vCPUs a message means, and what each of
 * its modes does there. SDM vol. 3, "Issuing Interprocessor Interrupts",
 * "Determining IPI Destination", "Handling interrupts", "Message Signalled
 * Interrupts".
 *
 * Runs on any thread. Nothing here takes a lock except vcpu_kick().
 */
#include "vmm/arch/x86/lapic_priv.h"

#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/vm.h"

#define SHORTHAND_NONE   0
#define SHORTHAND_SELF   1
#define SHORTHAND_ALL    2
#define SHORTHAND_OTHERS 3

#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT  (1u << 14)
#define ICR_LEVEL   (1u << 15)

void lapic_error(struct lapic *l, uint32_t bits)
{
    uint32_t old = atomic_fetch_or(&l->esr_incoming, bits);
    uint32_t lvt = lapic_lvt(l, LVT_ERROR);
    /* An illegal vector in the error entry itself must not raise an error again. */
    if (bits & ~old && !(lvt & LVT_MASKED) && (lvt & LVT_VECTOR) >= 16) {
        lapic_set_irr(l->vcpu, lvt & LVT_VECTOR, false);
    }
}

bool lapic_set_irr(struct vcpu *vcpu, unsigned vector, bool level)
{
    struct lapic *l = lapic_of(vcpu);
    if (!lapic_hw_enabled(l) ||
        !(atomic_load_explicit(&l->svr, memory_order_relaxed) & SVR_ENABLE)) {
        return false;
    }
    if (vector < 16) {
        lapic_error(l, ESR_RECV_VECTOR);
        return false;
    }
    unsigned word = vector >> 6 & 3;
    uint64_t bit = UINT64_C(1) << (vector & 63);
    if (level) {
        atomic_fetch_or(&l->tmr[word], bit);
    } else if (atomic_load_explicit(&l->tmr[word], memory_order_relaxed) & bit) {
        atomic_fetch_and(&l->tmr[word], ~bit);
    }
    bool is_new = !(atomic_fetch_or(&l->irr[word], bit) & bit);
    /* Sequentially consistent after the bit: pairs with lapic_update_ppr(). */
    if ((vector & 0xf0) > (atomic_load(&l->ppr) & 0xf0) ||
        atomic_load(&l->pv_eoi_pending)) {
        vcpu_kick(vcpu, VCPU_ATTN_IRQ);
    }
    return is_new;
}

/* Whether a message for @dest means the LAPIC @l. */
static bool lapic_matches(const struct lapic *l, uint32_t dest, bool logical,
                          bool x2apic)
{
    if (dest == (x2apic ? UINT32_MAX : 0xff)) {
        return true;
    }
    if (!logical) {
        return dest == l->id;
    }
    uint32_t ldr = atomic_load_explicit(&l->ldr, memory_order_relaxed);
    if (lapic_x2apic(l)) {
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    if (dest > 0xff) {
        return false;
    }
    ldr >>= 24;
    if (atomic_load_explicit(&l->dfr, memory_order_relaxed) >> 28 == 0xf) {
        return dest & ldr; /* flat */
    }
    return dest >> 4 == ldr >> 4 && (dest & ldr & 0xf); /* cluster */
}

/* What one LAPIC does with a message that means it. */
static bool lapic_receive(struct lapic *l, enum lapic_mode mode, uint8_t vector,
                          bool level)
{
    if (!lapic_hw_enabled(l)) {
        return false;
    }
    switch (mode) {
    case LAPIC_MODE_FIXED:
    case LAPIC_MODE_LOWEST:
        lapic_set_irr(l->vcpu, vector, level);
        return atomic_load_explicit(&l->svr, memory_order_relaxed) & SVR_ENABLE;
    case LAPIC_MODE_NMI:
        atomic_fetch_or(&l->events, EVENT_NMI);
        vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
        return true;
    case LAPIC_MODE_EXTINT:
        atomic_fetch_or(&l->events, EVENT_EXTINT);
        vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
        return true;
    case LAPIC_MODE_INIT:
        /* A STARTUP that came before belongs to a start that INIT has undone. */
        atomic_fetch_and(&l->events, ~(uint32_t)LAPIC_SIPI);
        atomic_fetch_or(&l->events, LAPIC_INIT);
        vcpu_kick(l->vcpu, VCPU_ATTN_RESET);
        return true;
    case LAPIC_MODE_SIPI:
        atomic_store(&l->sipi_vector, vector);
        atomic_fetch_or(&l->events, LAPIC_SIPI);
        vcpu_kick(l->vcpu, VCPU_ATTN_RESET);
        return true;
    case LAPIC_MODE_SMI:
        if (!x86_vcpu_of(l->vcpu)->smm.ops) {
            return false;
        }
        atomic_fetch_or(&l->events, EVENT_SMI);
        vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
        return true;
    }
    return false;
}

/*
 * The vCPU with the lowest processor priority among those that a message means. The
 * search starts after the vector's own number, so that ties spread.
 */
static struct lapic *lapic_lowest(struct vm *vm, const struct lapic_msg *msg)
{
    struct lapic *best = NULL;
    uint32_t best_ppr = UINT32_MAX;
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct lapic *l = lapic_of(vm->vcpus[(i + msg->vector) % vm->nb_vcpus]);
        if (!lapic_matches(l, msg->dest, msg->logical, msg->x2apic) ||
            !lapic_hw_enabled(l) || !(atomic_load(&l->svr) & SVR_ENABLE)) {
            continue;
        }
        uint32_t ppr = atomic_load_explicit(&l->ppr, memory_order_relaxed) & 0xf0;
        if (ppr < best_ppr) {
            best = l;
            best_ppr = ppr;
        }
    }
    return best;
}

unsigned lapic_deliver(struct vm *vm, const struct lapic_msg *msg)
{
    const struct x86_apic_ops *accel = x86_accel_apic(vm);
    if (accel) {
        return accel->deliver(vm, msg);
    }
    if (msg->mode == LAPIC_MODE_LOWEST) {
        struct lapic *l = lapic_lowest(vm, msg);
        return l && lapic_receive(l, msg->mode, msg->vector, msg->level);
    }
    if (!msg->logical && msg->dest < vm->nb_vcpus && msg->dest != 0xff) {
        /* APIC ID and index are the same number. */
        struct lapic *l = lapic_of(vm->vcpus[msg->dest]);
        return lapic_receive(l, msg->mode, msg->vector, msg->level);
    }
    unsigned accepted = 0;
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct lapic *l = lapic_of(vm->vcpus[i]);
        if (lapic_matches(l, msg->dest, msg->logical, msg->x2apic)) {
            accepted += lapic_receive(l, msg->mode, msg->vector, msg->level);
        }
    }
    return accepted;
}

unsigned lapic_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    enum lapic_mode mode = data >> 8 & 7;
    /* With the redirection hint a fixed message goes to one of the set. */
    bool hint = addr & (1u << 3), logical = addr & (1u << 2);
    struct lapic_msg msg = {
        .dest = addr >> 12 & 0xff,
        .logical = logical,
        .level = data & (1u << 15),
        .mode = hint && logical && mode == LAPIC_MODE_FIXED ? LAPIC_MODE_LOWEST : mode,
        .vector = data & 0xff,
    };
    return lapic_deliver(vm, &msg);
}

static void lapic_send_shorthand(struct lapic *l, unsigned shorthand,
                                 const struct lapic_msg *msg)
{
    struct vm *vm = l->vcpu->vm;
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct lapic *to = lapic_of(vm->vcpus[i]);
        if (shorthand == SHORTHAND_ALL || (to == l) == (shorthand == SHORTHAND_SELF)) {
            lapic_receive(to, msg->mode, msg->vector, msg->level);
        }
    }
}

void lapic_send_ipi(struct lapic *l, uint32_t icr, uint32_t dest)
{
    struct lapic_msg msg = {
        .dest = dest,
        .logical = icr & ICR_LOGICAL,
        .x2apic = lapic_x2apic(l),
        .mode = icr >> LVT_MODE_SHIFT & 7,
        .vector = icr & 0xff,
    };
    unsigned shorthand = icr >> 18 & 3;
    /* INIT level de-assert does nothing since the Pentium 4. */
    if (msg.mode == LAPIC_MODE_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT)) {
        return;
    }
    if (msg.mode == LAPIC_MODE_EXTINT) {
        return; /* reserved in ICR */
    }
    if (msg.mode <= LAPIC_MODE_LOWEST && msg.vector < 16) {
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand == SHORTHAND_NONE) {
        lapic_deliver(l->vcpu->vm, &msg);
    } else {
        lapic_send_shorthand(l, shorthand, &msg);
    }
}

/* A pin of the local vector table, LINT0 or LINT1, changed. */
static void lapic_lint_fn(void *opaque, unsigned input, bool level)
{
    struct lapic *l = opaque;
    bool rose = !atomic_exchange(&l->lint[input], level) && level;
    const struct x86_apic_ops *accel = x86_accel_apic(l->vcpu->vm);
    if (accel) {
        /* It knows what its LVT entry says. */
        if (input == 0 && rose) {
            vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
        } else if (rose) {
            accel->nmi(l->vcpu);
        }
        return;
    }
    uint32_t lvt = lapic_lvt(l, LVT_LINT0 + input);
    if (!lapic_hw_enabled(l)) {
        /* The pins are INTR and NMI of the processor itself then. */
        lvt = (input ? LAPIC_MODE_NMI : LAPIC_MODE_EXTINT) << LVT_MODE_SHIFT;
    }
    enum lapic_mode mode = lvt >> LVT_MODE_SHIFT & 7;
    if (lvt & LVT_MASKED) {
        return;
    }
    if (mode == LAPIC_MODE_EXTINT) {
        if (level) {
            vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
        }
    } else if (mode == LAPIC_MODE_NMI && rose) {
        atomic_fetch_or(&l->events, EVENT_NMI);
        vcpu_kick(l->vcpu, VCPU_ATTN_IRQ);
    } else if (rose) {
        lapic_receive(l, mode, lvt & LVT_VECTOR, lvt & LVT_LEVEL);
    }
}

struct irq_line lapic_lint(struct vcpu *vcpu, unsigned input)
{
    return (struct irq_line){
        .fn = lapic_lint_fn,
        .opaque = lapic_of(vcpu),
        .input = input & 1,
    };
}
