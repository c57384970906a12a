/*
 * Local APICs that are the accelerator's: the struct lapic is only the form in which
 * they are reset, saved and loaded. lapic_pull() fetches it, lapic_push() writes it;
 * without such an accelerator both do nothing. Registers are numbered as in the page.
 */
#include "vmm/arch/x86/lapic_priv.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/clock.h"

static uint32_t map_word(const uint64_t map[4], unsigned i)
{
    return (uint32_t)(map[i >> 1] >> (i & 1 ? 32 : 0));
}

static uint64_t map_of(const uint32_t *word, unsigned i)
{
    return word[2 * i] | (uint64_t)word[2 * i + 1] << 32;
}

void lapic_push(struct lapic *l)
{
    const struct x86_apic_ops *ops = x86_accel_apic(l->vcpu->vm);
    struct x86_apic_regs r = {.base = atomic_load(&l->base),
                              .tsc_deadline = l->timer.tsc,
                              .nmi = atomic_load(&l->events) & EVENT_NMI};
    if (!ops) {
        return;
    }
    r.word[REG_ID] = lapic_x2apic(l) ? l->id : l->id << 24;
    r.word[REG_VERSION] = LAPIC_VERSION;
    r.word[REG_TPR] = l->tpr;
    r.word[REG_PPR] = atomic_load(&l->ppr);
    r.word[REG_LDR] = atomic_load(&l->ldr);
    r.word[REG_DFR] = atomic_load(&l->dfr);
    r.word[REG_SVR] = atomic_load(&l->svr);
    r.word[REG_ESR] = l->esr;
    r.word[REG_ICR] = l->icr;
    r.word[REG_ICR2] = l->icr2;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t tmr = atomic_load(&l->tmr[i >> 1]), irr = atomic_load(&l->irr[i >> 1]);
        r.word[REG_ISR + i] = map_word(l->isr, i);
        r.word[REG_TMR + i] = (uint32_t)(tmr >> (i & 1 ? 32 : 0));
        r.word[REG_IRR + i] = (uint32_t)(irr >> (i & 1 ? 32 : 0));
    }
    for (unsigned i = 0; i < NB_LVT; i++) {
        r.word[REG_LVT_TIMER + i] = lapic_lvt(l, i);
    }
    r.word[REG_TIMER_INITIAL] = l->timer.initial;
    r.word[REG_TIMER_CURRENT] = lapic_timer_current(l);
    r.word[REG_TIMER_DIVIDE] = l->timer.divide;
    ops->set(l->vcpu, &r);
}

void lapic_pull(struct lapic *l)
{
    const struct x86_apic_ops *ops = x86_accel_apic(l->vcpu->vm);
    struct x86_apic_regs r;
    if (!ops) {
        return;
    }
    ops->get(l->vcpu, &r);
    atomic_store(&l->base, r.base);
    atomic_store(&l->events, r.nmi ? EVENT_NMI : 0);
    l->tpr = r.word[REG_TPR] & 0xff;
    atomic_store(&l->ldr, r.word[REG_LDR]);
    atomic_store(&l->dfr, r.word[REG_DFR]);
    atomic_store(&l->svr, r.word[REG_SVR]);
    l->esr = r.word[REG_ESR];
    l->icr = r.word[REG_ICR];
    l->icr2 = r.word[REG_ICR2];
    for (unsigned i = 0; i < 4; i++) {
        l->isr[i] = map_of(&r.word[REG_ISR], i);
        atomic_store(&l->tmr[i], map_of(&r.word[REG_TMR], i));
        atomic_store(&l->irr[i], map_of(&r.word[REG_IRR], i));
    }
    for (unsigned i = 0; i < NB_LVT; i++) {
        atomic_store(&l->lvt[i], r.word[REG_LVT_TIMER + i]);
    }
    lapic_timer_pulled(l, r.word[REG_TIMER_INITIAL], r.word[REG_TIMER_CURRENT],
                       r.word[REG_TIMER_DIVIDE], r.tsc_deadline);
    lapic_update_ppr(l);
}

void lapic_route(struct vm *vm, unsigned pin, const struct lapic_msg *msg)
{
    const struct x86_apic_ops *ops = x86_accel_apic(vm);
    if (ops) {
        ops->route(vm, pin, msg);
    }
}

void lapic_broadcast_eoi(struct vcpu *vcpu, uint8_t vector)
{
    const struct lapic_board *board = &lapic_of(vcpu)->board;
    if (board->eoi) {
        board->eoi(board->eoi_opaque, vector);
    }
}

bool lapic_intr_asserted(const struct vcpu *vcpu)
{
    return atomic_load(&lapic_of(vcpu)->lint[0]);
}
