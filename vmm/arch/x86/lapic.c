/*
 * The local APIC's registers and the vCPU's side of interrupt delivery. The rules
 * are in SDM vol. 3, chapter "Advanced Programmable Interrupt Controller"; section
 * names are given where something is not obvious. Who runs where: lapic.h.
 *
 * Priorities ("Task and Processor Priorities"):
 *   PPR = TPR if TPR[7:4] >= ISRV[7:4], else ISRV & 0xf0, with ISRV the highest
 *   vector in service; a vector may be taken when its class (bits 7:4) is above
 *   PPR's.
 *
 * Paravirtual EOI: at accept, when nothing else waits, a bit in guest memory says
 * "you need not write EOI"; the guest clears it instead, and the LAPIC learns of it
 * when it next has a reason to look. While the bit is out, senders always kick.
 */
#include "vmm/arch/x86/lapic_priv.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

/* Bits of each LVT entry that software may set. */
static const uint32_t lvt_writable[NB_LVT] = {
    [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
    [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

/* ---- taking interrupts ---- */

void lapic_update_ppr(struct lapic *l)
{
    int in_service = lapic_highest(l->isr);
    uint32_t isrv = in_service < 0 ? 0 : in_service & 0xf0;
    uint32_t ppr = (l->tpr & 0xf0) >= isrv ? l->tpr : isrv;
    uint32_t old = atomic_load_explicit(&l->ppr, memory_order_relaxed);
    if (ppr == old) {
        return;
    }
    /* Sequentially consistent before IRR is read: pairs with lapic_set_irr(). */
    atomic_store(&l->ppr, ppr);
    if (ppr < old) {
        int v = lapic_highest_irr(l);
        if (v >= 0 && (v & 0xf0) > (int)(ppr & 0xf0)) {
            atomic_fetch_or_explicit(&l->vcpu->attention, VCPU_ATTN_IRQ,
                                     memory_order_release);
        }
    }
}

static void lapic_end(struct lapic *l)
{
    int v = lapic_highest(l->isr);
    if (v < 0) {
        return;
    }
    l->isr[v >> 6] &= ~(UINT64_C(1) << (v & 63));
    lapic_update_ppr(l);
    bool level = atomic_load(&l->tmr[v >> 6]) >> (v & 63) & 1;
    if (level && !(atomic_load(&l->svr) & SVR_NO_BROADCAST) && l->board.eoi) {
        l->board.eoi(l->board.eoi_opaque, v);
    }
}

/*
 * Learn what the guest did with the paravirtual EOI bit; with @withdraw take back a
 * bit that still stands, so that the guest writes EOI itself.
 */
static void pv_eoi_sync(struct lapic *l, bool withdraw)
{
    struct gmem *m = l->vcpu->vm->gmem;
    uint8_t byte = 0;
    if (!atomic_load_explicit(&l->pv_eoi_pending, memory_order_relaxed)) {
        return;
    }
    gmem_read(m, l->pv_eoi_gpa, &byte, 1);
    if (!(byte & 1)) {
        atomic_store(&l->pv_eoi_pending, false);
        lapic_end(l);
    } else if (withdraw) {
        byte &= ~1;
        gmem_write(m, l->pv_eoi_gpa, &byte, 1);
        atomic_store(&l->pv_eoi_pending, false);
    }
}

/* Lend the bit to the guest for @vector, which is in service. */
static void pv_eoi_offer(struct lapic *l, unsigned vector)
{
    struct gmem *m = l->vcpu->vm->gmem;
    uint8_t byte;
    if (!l->pv_eoi_gpa || atomic_load(&l->tmr[vector >> 6]) >> (vector & 63) & 1 ||
        gmem_read(m, l->pv_eoi_gpa, &byte, 1)) {
        return;
    }
    /* The flag before the look at IRR: a sender sees it, or is seen. */
    atomic_store(&l->pv_eoi_pending, true);
    if (lapic_highest_irr(l) >= 0) {
        atomic_store(&l->pv_eoi_pending, false);
        return;
    }
    byte |= 1;
    if (gmem_write(m, l->pv_eoi_gpa, &byte, 1)) {
        atomic_store(&l->pv_eoi_pending, false);
    }
}

void lapic_set_pv_eoi(struct vcpu *vcpu, uint64_t gpa)
{
    struct lapic *l = lapic_of(vcpu);
    pv_eoi_sync(l, true);
    l->pv_eoi_gpa = gpa;
}

static bool extint_wanted(const struct lapic *l)
{
    if (atomic_load(&l->events) & EVENT_EXTINT) {
        return true;
    }
    if (!atomic_load(&l->lint[0])) {
        return false;
    }
    uint32_t lvt = lapic_lvt(l, LVT_LINT0);
    return !lapic_hw_enabled(l) ||
           (!(lvt & LVT_MASKED) && (lvt >> LVT_MODE_SHIFT & 7) == LAPIC_MODE_EXTINT);
}

int lapic_pending_vector(struct vcpu *vcpu)
{
    struct lapic *l = lapic_of(vcpu);
    int v = lapic_highest_irr(l);
    if (unlikely(atomic_load_explicit(&l->pv_eoi_pending, memory_order_relaxed))) {
        pv_eoi_sync(l, v >= 0);
    }
    if (unlikely(extint_wanted(l))) {
        return LAPIC_EXTINT;
    }
    return v >= 0 && (v & 0xf0) > (int)(atomic_load(&l->ppr) & 0xf0) ? v : -1;
}

unsigned lapic_accept(struct vcpu *vcpu, int vector)
{
    struct lapic *l = lapic_of(vcpu);
    if (vector == LAPIC_EXTINT) {
        atomic_fetch_and(&l->events, ~EVENT_EXTINT);
        return l->board.extint_ack ? l->board.extint_ack(l->board.extint_opaque) & 0xff
                                   : 0;
    }
    unsigned v = vector & 0xff;
    uint64_t bit = UINT64_C(1) << (v & 63);
    atomic_fetch_and(&l->irr[v >> 6], ~bit);
    l->isr[v >> 6] |= bit;
    lapic_update_ppr(l);
    pv_eoi_offer(l, v);
    return v;
}

void lapic_eoi(struct vcpu *vcpu)
{
    struct lapic *l = lapic_of(vcpu);
    pv_eoi_sync(l, true);
    lapic_end(l);
}

bool lapic_smi_pending(const struct vcpu *vcpu)
{
    return atomic_load(&lapic_of(vcpu)->events) & EVENT_SMI;
}

bool lapic_take_smi(struct vcpu *vcpu)
{
    return atomic_fetch_and(&lapic_of(vcpu)->events, ~EVENT_SMI) & EVENT_SMI;
}

bool lapic_nmi_pending(const struct vcpu *vcpu)
{
    return atomic_load(&lapic_of(vcpu)->events) & EVENT_NMI;
}

bool lapic_take_nmi(struct vcpu *vcpu)
{
    return atomic_fetch_and(&lapic_of(vcpu)->events, ~EVENT_NMI) & EVENT_NMI;
}

unsigned lapic_take_start(struct vcpu *vcpu, uint8_t *ret_vector)
{
    struct lapic *l = lapic_of(vcpu);
    const uint32_t mask = LAPIC_INIT | LAPIC_SIPI;
    uint32_t got = atomic_fetch_and(&l->events, ~mask) & mask;
    if (got & LAPIC_SIPI) {
        *ret_vector = atomic_load(&l->sipi_vector);
    }
    return got;
}

bool lapic_has_work(struct vcpu *vcpu, bool irq_enabled)
{
    const uint32_t mask = EVENT_SMI | EVENT_NMI | LAPIC_INIT | LAPIC_SIPI;
    return (atomic_load(&lapic_of(vcpu)->events) & mask) ||
           (irq_enabled && lapic_pending_vector(vcpu) >= 0);
}

static void lapic_set_tpr(struct lapic *l, uint32_t tpr)
{
    pv_eoi_sync(l, false);
    l->tpr = tpr & 0xff;
    lapic_update_ppr(l);
}

unsigned lapic_get_cr8(struct vcpu *vcpu)
{
    return lapic_of(vcpu)->tpr >> 4;
}

void lapic_set_cr8(struct vcpu *vcpu, unsigned cr8)
{
    lapic_set_tpr(lapic_of(vcpu), (cr8 & 0xf) << 4);
}

/* ---- registers ---- */

static uint32_t lapic_map_word(const _Atomic uint64_t map[4], unsigned i)
{
    return atomic_load(&map[i >> 1]) >> (i & 1 ? 32 : 0);
}

/* False: there is no such register. In x2APIC mode the caller has sorted ICR out. */
static bool lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *ret)
{
    bool x2 = lapic_x2apic(l);
    *ret = 0;
    switch (reg) {
    case REG_ID: *ret = x2 ? l->id : l->id << 24; return true;
    case REG_VERSION: *ret = LAPIC_VERSION; return true;
    case REG_TPR: *ret = l->tpr; return true;
    case REG_PPR:
        pv_eoi_sync(l, false);
        *ret = atomic_load(&l->ppr);
        return true;
    case REG_APR:
    case REG_RRD:
    case REG_EOI: return !x2; /* read as 0 */
    case REG_LDR: *ret = atomic_load(&l->ldr); return true;
    case REG_DFR: *ret = atomic_load(&l->dfr); return !x2;
    case REG_SVR: *ret = atomic_load(&l->svr); return true;
    case REG_ISR ... REG_ISR + 7: {
        unsigned i = reg - REG_ISR;
        pv_eoi_sync(l, false);
        *ret = l->isr[i >> 1] >> (i & 1 ? 32 : 0);
        return true;
    }
    case REG_TMR ... REG_TMR + 7:
        *ret = lapic_map_word(l->tmr, reg - REG_TMR);
        return true;
    case REG_IRR ... REG_IRR + 7:
        *ret = lapic_map_word(l->irr, reg - REG_IRR);
        return true;
    case REG_ESR: *ret = l->esr; return true;
    case REG_ICR: *ret = l->icr; return true;
    case REG_ICR2: *ret = l->icr2; return !x2;
    case REG_LVT_TIMER ... REG_LVT_ERROR:
        *ret = lapic_lvt(l, reg - REG_LVT_TIMER);
        return true;
    case REG_TIMER_INITIAL: *ret = l->timer.initial; return true;
    case REG_TIMER_CURRENT: *ret = lapic_timer_current(l); return true;
    case REG_TIMER_DIVIDE: *ret = l->timer.divide; return true;
    }
    return false;
}

static void lapic_write_lvt(struct lapic *l, unsigned i, uint32_t value)
{
    value &= lvt_writable[i];
    if (!(atomic_load(&l->svr) & SVR_ENABLE)) {
        value |= LVT_MASKED;
    }
    if (i == LVT_TIMER) {
        lapic_timer_set_lvt(l, value);
        return;
    }
    atomic_store(&l->lvt[i], value);
    if (i == LVT_LINT0 && extint_wanted(l)) {
        atomic_fetch_or(&l->vcpu->attention, VCPU_ATTN_IRQ);
    }
}

static void lapic_write_svr(struct lapic *l, uint32_t value)
{
    atomic_store(&l->svr, value & (0xff | SVR_ENABLE | SVR_NO_BROADCAST));
    if (!(value & SVR_ENABLE)) {
        /* "Local APIC State After It Has Been Software Disabled" */
        for (unsigned i = 0; i < NB_LVT; i++) {
            atomic_fetch_or(&l->lvt[i], LVT_MASKED);
        }
    }
}

/* Writing anything to ESR makes what was recorded since readable. */
static void lapic_write_esr(struct lapic *l)
{
    l->esr = atomic_exchange(&l->esr_incoming, 0);
}

/* Registers that both faces have. False: none to write there. */
static bool lapic_reg_write(struct lapic *l, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_TPR: lapic_set_tpr(l, value); return true;
    case REG_EOI: lapic_eoi(l->vcpu); return true;
    case REG_SVR: lapic_write_svr(l, value); return true;
    case REG_ESR: lapic_write_esr(l); return true;
    case REG_LVT_TIMER ... REG_LVT_ERROR:
        lapic_write_lvt(l, reg - REG_LVT_TIMER, value);
        return true;
    case REG_TIMER_INITIAL: lapic_timer_set_initial(l, value); return true;
    case REG_TIMER_DIVIDE: lapic_timer_set_divide(l, value); return true;
    }
    return false;
}

static bool lapic_xapic_write(struct lapic *l, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_ID: /* fixed, as on processors since Nehalem */
    case REG_VERSION:
    case REG_APR:
    case REG_PPR:
    case REG_RRD:
    case REG_ISR ... REG_ISR + 7:
    case REG_TMR ... REG_TMR + 7:
    case REG_IRR ... REG_IRR + 7:
    case REG_TIMER_CURRENT: return true; /* read-only */
    case REG_LDR: atomic_store(&l->ldr, value & 0xff000000); return true;
    case REG_DFR: atomic_store(&l->dfr, value | 0x0fffffff); return true;
    case REG_ICR:
        l->icr = value & 0xccfff;
        lapic_send_ipi(l, l->icr, l->icr2 >> 24);
        return true;
    case REG_ICR2: l->icr2 = value & 0xff000000; return true;
    }
    return lapic_reg_write(l, reg, value);
}

/* ---- the page and the message window ---- */

static uint64_t page_address(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & ~UINT64_C(0xfff);
}

static uint64_t page_read(struct lapic *l, unsigned off, unsigned len)
{
    const uint64_t all = UINT64_MAX >> (64 - 8 * len);
    uint32_t value = 0;
    if (!lapic_hw_enabled(l) || lapic_x2apic(l)) {
        return all;
    }
    if (off & 0xc) {
        return 0; /* registers are 32 bits at multiples of 16 */
    }
    if (!lapic_reg_read(l, off >> 4, &value)) {
        lapic_error(l, ESR_REGISTER);
    }
    return value >> 8 * (off & 3) & all;
}

static void page_write(struct lapic *l, unsigned off, uint32_t value)
{
    if (lapic_hw_enabled(l) && !lapic_x2apic(l) && !(off & 0xf) &&
        !lapic_xapic_write(l, off >> 4, value)) {
        lapic_error(l, ESR_REGISTER);
    }
}

bool lapic_moved_read(struct vcpu *vcpu, uint64_t gpa, unsigned len, uint64_t *ret)
{
    struct lapic *l = lapic_of(vcpu);
    uint64_t page = page_address(l);
    if (likely(page == LAPIC_BASE || (gpa ^ page) >> 12)) {
        return false;
    }
    *ret = page_read(l, gpa & 0xfff, len);
    return true;
}

bool lapic_moved_write(struct vcpu *vcpu, uint64_t gpa, uint64_t value)
{
    struct lapic *l = lapic_of(vcpu);
    uint64_t page = page_address(l);
    if (likely(page == LAPIC_BASE || (gpa ^ page) >> 12)) {
        return false;
    }
    page_write(l, gpa & 0xfff, (uint32_t)value);
    return true;
}

static uint64_t lapic_mmio_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                                unsigned len)
{
    if (!vcpu || off >= 0x1000 || page_address(lapic_of(vcpu)) != LAPIC_BASE) {
        return UINT64_MAX >> (64 - 8 * len);
    }
    return page_read(lapic_of(vcpu), (unsigned)off, len);
}

static void lapic_mmio_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                             uint64_t value, unsigned len)
{
    struct lapic *first = opaque;
    if (!vcpu || off >= 0x1000) {
        lapic_msi(first->vcpu->vm, LAPIC_BASE + off, value);
        return;
    }
    if (page_address(lapic_of(vcpu)) == LAPIC_BASE) {
        page_write(lapic_of(vcpu), (unsigned)off, (uint32_t)value);
    }
}

static const struct io_ops lapic_mmio_ops = {
    .read = lapic_mmio_read,
    .write = lapic_mmio_write,
    .max_len = 4,
};

bool lapic_map(struct vm *vm, GError **error)
{
    struct lapic *first = lapic_of(vm->vcpus[0]);
    first->window = (struct io_region){
        .name = "lapic",
        .base = LAPIC_BASE,
        .len = LAPIC_WINDOW,
        .ops = &lapic_mmio_ops,
        .opaque = first,
    };
    return aspace_add(vm->mmio, &first->window, error);
}

/* ---- MSRs ---- */

static bool lapic_x2apic_read(struct lapic *l, unsigned reg, uint64_t *ret)
{
    uint32_t value;
    if (reg == REG_ICR) {
        *ret = l->icr | (uint64_t)l->icr2 << 32;
        return true;
    }
    if (!lapic_reg_read(l, reg, &value)) {
        return false;
    }
    *ret = value;
    return true;
}

static bool lapic_x2apic_write(struct lapic *l, unsigned reg, uint64_t value)
{
    if (reg == REG_ICR) {
        if (value & 0xfff32000) {
            return false;
        }
        l->icr = value & 0xccfff;
        l->icr2 = value >> 32;
        lapic_send_ipi(l, l->icr, l->icr2);
        return true;
    }
    uint64_t writable = UINT32_MAX;
    switch (reg) {
    case REG_EOI:
    case REG_ESR: writable = 0; break;
    case REG_TPR:
    case REG_SELF_IPI: writable = 0xff; break;
    case REG_SVR: writable = 0xff | SVR_ENABLE | SVR_NO_BROADCAST; break;
    case REG_TIMER_DIVIDE: writable = 0xb; break;
    case REG_LVT_TIMER ... REG_LVT_ERROR:
        /* Delivery status and remote IRR are read-only, not reserved. */
        writable = lvt_writable[reg - REG_LVT_TIMER] | 0x5000;
        break;
    }
    if (value & ~writable) {
        return false;
    }
    if (reg == REG_SELF_IPI) {
        lapic_send_ipi(l, value | 1u << 18, 0);
        return true;
    }
    return lapic_reg_write(l, reg, value);
}

static bool lapic_write_base(struct lapic *l, uint64_t value)
{
    uint64_t old = atomic_load(&l->base);
    uint64_t phys = UINT64_MAX >> (64 - l->phys_bits);
    uint64_t known = (phys & ~UINT64_C(0xfff)) | BASE_BSP | BASE_ENABLE |
                     (l->has_x2apic ? BASE_X2APIC : 0);
    bool on = value & BASE_ENABLE, x2 = value & BASE_X2APIC;
    /* "x2APIC State Transitions": no EXTD without EN, from x2APIC only to
     * disabled, into it only from xAPIC. */
    if (value & ~known || (x2 && !on) || ((old & BASE_X2APIC) && on && !x2) ||
        (x2 && !(old & BASE_ENABLE))) {
        return false;
    }
    if ((old & BASE_ENABLE) && !on) {
        lapic_init_reset(l->vcpu);
    }
    atomic_store(&l->base, value);
    if (x2 && !(old & BASE_X2APIC)) {
        atomic_store(&l->ldr, (l->id >> 4) << 16 | 1u << (l->id & 15));
    } else if (!x2 && (old & BASE_X2APIC)) {
        atomic_store(&l->ldr, 0);
    }
    return true;
}

bool lapic_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *ret)
{
    struct lapic *l = lapic_of(vcpu);
    if (msr == MSR_APIC_BASE) {
        *ret = atomic_load(&l->base);
        return true;
    }
    if (msr == MSR_TSC_DEADLINE) {
        *ret = lapic_timer_get_tsc(l);
        return l->has_tsc_deadline;
    }
    return msr >= MSR_X2APIC_FIRST && msr < MSR_X2APIC_FIRST + 0x40 &&
           lapic_x2apic(l) && lapic_x2apic_read(l, msr - MSR_X2APIC_FIRST, ret);
}

bool lapic_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    struct lapic *l = lapic_of(vcpu);
    if (msr == MSR_APIC_BASE) {
        return lapic_write_base(l, value);
    }
    if (msr == MSR_TSC_DEADLINE) {
        if (l->has_tsc_deadline) {
            lapic_timer_set_tsc(l, value);
        }
        return l->has_tsc_deadline;
    }
    return msr >= MSR_X2APIC_FIRST && msr < MSR_X2APIC_FIRST + 0x40 &&
           lapic_x2apic(l) && lapic_x2apic_write(l, msr - MSR_X2APIC_FIRST, value);
}

/* ---- life ---- */

struct lapic *lapic_new(struct vcpu *vcpu)
{
    struct lapic *l = g_new0(struct lapic, 1);
    l->vcpu = vcpu;
    l->id = vcpu->index;
    l->has_x2apic = l->has_tsc_deadline = true;
    l->phys_bits = vcpu->vm->arch->phys_bits;
    lapic_timer_init(l);
    atomic_store(&l->base, LAPIC_BASE | BASE_ENABLE | (l->id == 0 ? BASE_BSP : 0));
    atomic_store(&l->dfr, UINT32_MAX);
    atomic_store(&l->svr, 0xff);
    for (unsigned i = 0; i < NB_LVT; i++) {
        atomic_store(&l->lvt[i], LVT_MASKED);
    }
    return l;
}

void lapic_free(struct lapic *l)
{
    if (!l) {
        return;
    }
    lapic_timer_done(l);
    if (l->window.ops && l->vcpu->vm->mmio) {
        aspace_remove(l->vcpu->vm->mmio, &l->window);
    }
    g_free(l);
}

void lapic_set_features(struct vcpu *vcpu, bool x2apic, bool tsc_deadline)
{
    struct lapic *l = lapic_of(vcpu);
    l->has_x2apic = x2apic;
    l->has_tsc_deadline = tsc_deadline;
}

void lapic_set_phys_bits(struct vcpu *vcpu, unsigned bits)
{
    lapic_of(vcpu)->phys_bits = bits;
}

void lapic_connect(struct vm *vm, const struct lapic_board *board)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        lapic_of(vm->vcpus[i])->board = *board;
    }
}

void lapic_init_reset(struct vcpu *vcpu)
{
    struct lapic *l = lapic_of(vcpu);
    atomic_store(&l->pv_eoi_pending, false);
    lapic_timer_reset(l);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&l->irr[i], 0);
        atomic_store(&l->tmr[i], 0);
        l->isr[i] = 0;
    }
    for (unsigned i = 0; i < NB_LVT; i++) {
        atomic_store(&l->lvt[i], LVT_MASKED);
    }
    l->tpr = l->esr = l->icr = l->icr2 = 0;
    atomic_store(&l->ppr, 0);
    atomic_store(&l->esr_incoming, 0);
    atomic_store(&l->svr, 0xff);
    atomic_store(&l->dfr, UINT32_MAX);
    if (!lapic_x2apic(l)) {
        atomic_store(&l->ldr, 0);
    }
    atomic_fetch_and(&l->events, ~(EVENT_NMI | EVENT_EXTINT));
}

void lapic_reset(struct vcpu *vcpu)
{
    struct lapic *l = lapic_of(vcpu);
    atomic_store(&l->base, LAPIC_BASE | BASE_ENABLE | (l->id == 0 ? BASE_BSP : 0));
    atomic_store(&l->events, 0);
    l->pv_eoi_gpa = 0;
    lapic_init_reset(vcpu);
    lapic_push(l);
}

void lapic_set_virtual_wire(struct vcpu *vcpu)
{
    struct lapic *l = lapic_of(vcpu);
    lapic_pull(l);
    lapic_write_svr(l, 0xff | SVR_ENABLE);
    if (vcpu->index == 0) {
        lapic_write_lvt(l, LVT_LINT0, LAPIC_MODE_EXTINT << LVT_MODE_SHIFT);
        lapic_write_lvt(l, LVT_LINT1, LAPIC_MODE_NMI << LVT_MODE_SHIFT);
    }
    lapic_push(l);
}

/* ---- save and load ---- */

static bool lapic_post_load(void *object, unsigned version, GError **error)
{
    struct lapic *l = object;
    uint64_t base = atomic_load(&l->base);
    if ((base & BASE_X2APIC) && !(base & BASE_ENABLE)) {
        return error_msg(error, "lapic %u: base: x2APIC without enable", l->id);
    }
    l->timer.divide &= 0xb;
    lapic_update_ppr(l);
    if (x86_accel_apic(l->vcpu->vm)) {
        lapic_push(l);
        return true;
    }
    lapic_timer_loaded(l);
    if (atomic_load(&l->events) || lapic_highest_irr(l) >= 0) {
        vcpu_kick(l->vcpu, VCPU_ATTN_IRQ | VCPU_ATTN_RESET);
    }
    return true;
}

static void lapic_pre_save(void *object)
{
    lapic_pull(object);
}

static const struct state_field lapic_fields[] = {
    STATE_FIELD(U64, struct lapic, base),
    STATE_ARRAY(U64, struct lapic, irr, 4),
    STATE_ARRAY(U64, struct lapic, isr, 4),
    STATE_ARRAY(U64, struct lapic, tmr, 4),
    STATE_FIELD(U32, struct lapic, events),
    STATE_FIELD(U32, struct lapic, sipi_vector),
    STATE_FIELD(U32, struct lapic, tpr),
    STATE_FIELD(U32, struct lapic, svr),
    STATE_FIELD(U32, struct lapic, ldr),
    STATE_FIELD(U32, struct lapic, dfr),
    STATE_ARRAY(U32, struct lapic, lvt, NB_LVT),
    STATE_ARRAY(U32, struct lapic, lint, 2),
    STATE_FIELD(U32, struct lapic, esr_incoming),
    STATE_FIELD(U32, struct lapic, esr),
    STATE_FIELD(U32, struct lapic, icr),
    STATE_FIELD(U32, struct lapic, icr2),
    STATE_FIELD(U64, struct lapic, pv_eoi_gpa),
    STATE_FIELD(BOOL, struct lapic, pv_eoi_pending),
    STATE_FIELD(U64, struct lapic, timer.deadline_ns),
    STATE_FIELD(U64, struct lapic, timer.start_ns),
    STATE_FIELD(U64, struct lapic, timer.tsc),
    STATE_FIELD(U32, struct lapic, timer.initial),
    STATE_FIELD(U32, struct lapic, timer.divide),
    {0},
};

const struct state_table lapic_state = {
    .name = "lapic",
    .version = 1,
    .fields = lapic_fields,
    .pre_save = lapic_pre_save,
    .post_load = lapic_post_load,
};
