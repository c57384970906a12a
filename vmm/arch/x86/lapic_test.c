#include "vmm/arch/x86/lapic.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/test_arch.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"

/* Register offsets in the page, as in SDM table 11-1. */
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR_LO = 0x300,
    ICR_HI = 0x310,
    LVT_TIMER = 0x320,
    LVT_LINT0 = 0x350,
    LVT_LINT1 = 0x360,
    LVT_ERROR = 0x370,
    TIMER_INITIAL = 0x380,
    TIMER_CURRENT = 0x390,
    TIMER_DIVIDE = 0x3e0,
};

static struct vm *vm;

static uint32_t get(unsigned cpu, unsigned reg)
{
    return vcpu_mmio_read(vm->vcpus[cpu], LAPIC_BASE + reg, 4);
}

static void put(unsigned cpu, unsigned reg, uint32_t value)
{
    vcpu_mmio_write(vm->vcpus[cpu], LAPIC_BASE + reg, value, 4);
}

static void setup(unsigned nb_vcpus)
{
    vm = test_vm_new(nb_vcpus);
    g_assert_true(lapic_map(vm, NULL));
    g_assert_true(gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL));
    for (unsigned i = 0; i < nb_vcpus; i++) {
        vcpu_set_powered(vm->vcpus[i], true);
        put(i, SVR, 0x1ff);
    }
}

static void teardown(void)
{
    test_vm_free(vm);
}

static int pending(unsigned cpu)
{
    return lapic_pending_vector(vm->vcpus[cpu]);
}

static unsigned take(unsigned cpu)
{
    int v = pending(cpu);
    g_assert_cmpint(v, >=, 0);
    return lapic_accept(vm->vcpus[cpu], v);
}

static bool irq_attention(unsigned cpu)
{
    return vcpu_take_attention(vm->vcpus[cpu], VCPU_ATTN_IRQ);
}

static uint64_t rdmsr(unsigned cpu, uint32_t msr)
{
    uint64_t v = 0;
    g_assert_true(lapic_msr_read(vm->vcpus[cpu], msr, &v));
    return v;
}

static void wrmsr(unsigned cpu, uint32_t msr, uint64_t v)
{
    g_assert_true(lapic_msr_write(vm->vcpus[cpu], msr, v));
}

static bool wrmsr_faults(unsigned cpu, uint32_t msr, uint64_t v)
{
    return !lapic_msr_write(vm->vcpus[cpu], msr, v);
}

static bool rdmsr_faults(unsigned cpu, uint32_t msr)
{
    uint64_t v;
    return !lapic_msr_read(vm->vcpus[cpu], msr, &v);
}

/* SDM "Local APIC State After Power-Up or Reset". */
static void reset_state_is_the_manuals(void)
{
    setup(2);
    put(1, LVT_ERROR, 0x33);
    put(1, TPR, 0x20);
    lapic_reset(vm->vcpus[0]);
    lapic_reset(vm->vcpus[1]);
    g_assert_cmphex(rdmsr(0, MSR_APIC_BASE), ==, 0xfee00900);
    g_assert_cmphex(rdmsr(1, MSR_APIC_BASE), ==, 0xfee00800);
    g_assert_cmphex(get(0, ID), ==, 0);
    g_assert_cmphex(get(1, ID), ==, 0x01000000);
    g_assert_cmphex(get(1, VERSION), ==, 0x01050014);
    g_assert_cmphex(get(1, SVR), ==, 0xff);
    g_assert_cmphex(get(1, DFR), ==, 0xffffffff);
    g_assert_cmphex(get(1, LDR), ==, 0);
    g_assert_cmphex(get(1, TPR), ==, 0);
    for (unsigned reg = LVT_TIMER; reg <= LVT_ERROR; reg += 0x10) {
        g_assert_cmphex(get(1, reg), ==, 0x10000);
    }
    for (unsigned reg = ISR; reg < ESR; reg += 0x10) {
        g_assert_cmphex(get(1, reg), ==, 0);
    }
    teardown();
}

static void higher_class_nests_lower_waits(void)
{
    setup(1);
    g_assert_true(lapic_set_irr(vm->vcpus[0], 0x41, false));
    g_assert_true(irq_attention(0));
    g_assert_false(lapic_set_irr(vm->vcpus[0], 0x41, false)); /* merged */
    irq_attention(0);
    g_assert_cmphex(get(0, IRR + 0x20), ==, 1u << 1); /* bits 64..95 */
    g_assert_cmphex(take(0), ==, 0x41);
    g_assert_cmphex(get(0, PPR), ==, 0x40);
    g_assert_cmphex(get(0, ISR + 0x20), ==, 1u << 1);

    lapic_set_irr(vm->vcpus[0], 0x4f, false); /* same class: waits */
    g_assert_false(irq_attention(0));
    g_assert_cmpint(pending(0), ==, -1);
    lapic_set_irr(vm->vcpus[0], 0x50, false); /* higher: nests */
    g_assert_true(irq_attention(0));
    g_assert_cmphex(take(0), ==, 0x50);
    g_assert_cmphex(get(0, PPR), ==, 0x50);

    put(0, EOI, 0);
    g_assert_cmphex(get(0, PPR), ==, 0x40);
    g_assert_cmpint(pending(0), ==, -1);
    g_assert_false(irq_attention(0));
    put(0, EOI, 0); /* opens the way for 0x4f and says so */
    g_assert_true(irq_attention(0));
    g_assert_cmphex(take(0), ==, 0x4f);
    put(0, EOI, 0);
    put(0, EOI, 0); /* nothing in service: nothing happens */
    g_assert_cmphex(get(0, PPR), ==, 0);
    teardown();
}

static void task_priority_holds_back(void)
{
    setup(1);
    put(0, TPR, 0x5f);
    g_assert_cmphex(get(0, PPR), ==, 0x5f);
    g_assert_cmpuint(lapic_get_cr8(vm->vcpus[0]), ==, 5);
    lapic_set_irr(vm->vcpus[0], 0x5f, false);
    g_assert_false(irq_attention(0));
    g_assert_cmpint(pending(0), ==, -1);
    lapic_set_cr8(vm->vcpus[0], 4);
    g_assert_cmphex(get(0, TPR), ==, 0x40);
    g_assert_true(irq_attention(0));
    g_assert_cmpint(pending(0), ==, 0x5f);
    teardown();
}

static void software_disable_masks_and_refuses(void)
{
    setup(1);
    put(0, LVT_ERROR, 0x33);
    lapic_set_irr(vm->vcpus[0], 0x60, false);
    put(0, SVR, 0xff);
    g_assert_cmphex(get(0, LVT_ERROR), ==, 0x10033);
    put(0, LVT_ERROR, 0x33); /* cannot be unmasked */
    g_assert_cmphex(get(0, LVT_ERROR), ==, 0x10033);
    g_assert_false(lapic_set_irr(vm->vcpus[0], 0x61, false));
    g_assert_cmpint(pending(0), ==, 0x60); /* what was held stays */
    teardown();
}

static void illegal_vectors_are_recorded(void)
{
    setup(2);
    put(1, LVT_ERROR, 0x33);
    put(0, LVT_ERROR, 0x34);
    lapic_set_irr(vm->vcpus[1], 0x0f, false);
    g_assert_cmphex(get(1, ESR), ==, 0);
    put(1, ESR, 0);
    g_assert_cmphex(get(1, ESR), ==, 1u << 6);
    g_assert_cmphex(take(1), ==, 0x33);
    put(0, ICR_HI, 1u << 24);
    put(0, ICR_LO, 0x0f); /* send an illegal vector */
    put(0, ESR, 0);
    g_assert_cmphex(get(0, ESR), ==, 1u << 5);
    g_assert_cmphex(take(0), ==, 0x34);
    put(0, EOI, 0);
    put(0, 0x3f0, 1); /* SELF IPI does not exist in the page */
    put(0, ESR, 0);
    g_assert_cmphex(get(0, ESR), ==, 1u << 7);
    teardown();
}

/* ---- IPIs ---- */

static unsigned who_has(unsigned vector)
{
    unsigned who = 0;
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        if (pending(i) == (int)vector) {
            who |= 1u << i;
            lapic_accept(vm->vcpus[i], vector);
            lapic_eoi(vm->vcpus[i]);
        }
    }
    return who;
}

static unsigned ipi(unsigned from, uint32_t hi, uint32_t lo)
{
    put(from, ICR_HI, hi);
    put(from, ICR_LO, lo);
    return who_has(lo & 0xff);
}

static void ipi_destinations_and_shorthands(void)
{
    setup(4);
    g_assert_cmphex(ipi(0, 0x02000000, 0x0040), ==, 0x4); /* physical 2 */
    g_assert_cmphex(ipi(0, 0xff000000, 0x0040), ==, 0xf); /* physical, all */
    g_assert_cmphex(ipi(0, 0x07000000, 0x0040), ==, 0x0); /* nobody */
    g_assert_cmphex(ipi(1, 0, 0x40040), ==, 0x2);         /* self */
    g_assert_cmphex(ipi(1, 0, 0x80040), ==, 0xf);         /* all */
    g_assert_cmphex(ipi(1, 0, 0xc0040), ==, 0xd);         /* all but self */
    g_assert_cmphex(get(1, ICR_LO), ==, 0xc0040);         /* and never busy */

    for (unsigned i = 0; i < 4; i++) {
        put(i, LDR, 0x01000000u << i);
    }
    g_assert_cmphex(ipi(0, 0x0a000000, 0x0840), ==, 0xa); /* flat logical */
    for (unsigned i = 0; i < 4; i++) {
        put(i, DFR, 0x0fffffff);
        put(i, LDR, (i / 2 << 28) | (1u << i % 2) << 24); /* clusters 0 and 1 */
    }
    g_assert_cmphex(ipi(0, 0x13000000, 0x0840), ==, 0xc);
    g_assert_cmphex(ipi(0, 0x02000000, 0x0840), ==, 0x2);
    teardown();
}

static void lowest_priority_takes_one(void)
{
    setup(3);
    for (unsigned i = 0; i < 3; i++) {
        put(i, LDR, 0x01000000u << i);
        put(i, TPR, i == 1 ? 0x10 : 0x30);
    }
    g_assert_cmphex(ipi(0, 0x07000000, 0x0940), ==, 0x2);
    put(1, SVR, 0xff); /* software-disabled: not asked */
    g_assert_cmpint(__builtin_popcount(ipi(0, 0x07000000, 0x0940)), ==, 1);
    teardown();
}

static void nmi_init_sipi(void)
{
    uint8_t vector = 0;
    setup(2);
    put(0, ICR_HI, 0x01000000);
    put(0, ICR_LO, 0x0400); /* NMI */
    g_assert_true(lapic_nmi_pending(vm->vcpus[1]));
    g_assert_true(lapic_has_work(vm->vcpus[1], false));
    g_assert_true(lapic_take_nmi(vm->vcpus[1]));
    g_assert_false(lapic_take_nmi(vm->vcpus[1]));

    put(0, ICR_LO, 0xc500); /* INIT, level assert */
    g_assert_true(vcpu_take_attention(vm->vcpus[1], VCPU_ATTN_RESET));
    g_assert_cmpuint(lapic_take_start(vm->vcpus[1], &vector), ==, LAPIC_INIT);
    put(0, ICR_LO, 0x8500); /* INIT de-assert: nothing */
    g_assert_cmpuint(lapic_take_start(vm->vcpus[1], &vector), ==, 0);
    put(0, ICR_LO, 0x0699); /* STARTUP at 0x99000 */
    g_assert_true(vcpu_take_attention(vm->vcpus[1], VCPU_ATTN_RESET));
    g_assert_cmpuint(lapic_take_start(vm->vcpus[1], &vector), ==, LAPIC_SIPI);
    g_assert_cmphex(vector, ==, 0x99);
    /* A SIPI before INIT is undone by it. */
    put(0, ICR_LO, 0x0699);
    put(0, ICR_LO, 0xc500);
    g_assert_cmpuint(lapic_take_start(vm->vcpus[1], &vector), ==, LAPIC_INIT);
    teardown();
}

static void init_keeps_id_and_base(void)
{
    setup(2);
    put(1, TPR, 0x30);
    lapic_set_irr(vm->vcpus[1], 0x80, false);
    wrmsr(1, MSR_APIC_BASE, 0xfee00c00);
    lapic_init_reset(vm->vcpus[1]);
    g_assert_cmphex(rdmsr(1, MSR_APIC_BASE), ==, 0xfee00c00);
    g_assert_cmphex(rdmsr(1, 0x802), ==, 1);
    g_assert_cmphex(rdmsr(1, 0x80d), ==, 0x2);
    g_assert_cmphex(rdmsr(1, 0x808), ==, 0);
    g_assert_cmphex(rdmsr(1, 0x80f), ==, 0xff);
    g_assert_cmpint(pending(1), ==, -1);
    teardown();
}

/* ---- x2APIC ---- */

static void x2apic_transitions(void)
{
    setup(1);
    g_assert_true(rdmsr_faults(0, 0x802));                     /* xAPIC mode: no MSRs */
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, 0xfee00500)); /* EXTD without EN */
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, 0xfee00901)); /* reserved bit */
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, UINT64_C(1) << 40 | 0xfee00900));
    wrmsr(0, MSR_APIC_BASE, 0xfee00d00);
    g_assert_cmphex(get(0, VERSION), ==, 0xffffffff);          /* the page is gone */
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, 0xfee00900)); /* back to xAPIC */
    wrmsr(0, MSR_APIC_BASE, 0xfee00100);                       /* off */
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, 0xfee00d00)); /* off to x2APIC */
    g_assert_false(lapic_set_irr(vm->vcpus[0], 0x50, false));
    wrmsr(0, MSR_APIC_BASE, 0xfee00900);
    g_assert_cmphex(get(0, SVR), ==, 0xff); /* registers were reset */
    lapic_set_features(vm->vcpus[0], false, false);
    g_assert_true(wrmsr_faults(0, MSR_APIC_BASE, 0xfee00d00));
    g_assert_true(wrmsr_faults(0, MSR_TSC_DEADLINE, 5));
    g_assert_true(rdmsr_faults(0, MSR_TSC_DEADLINE));
    teardown();
}

static void x2apic_registers(void)
{
    setup(20);
    for (unsigned i = 0; i < 20; i++) {
        wrmsr(i, MSR_APIC_BASE, 0xfee00c00 | (i ? 0 : 0x100));
    }
    g_assert_cmphex(rdmsr(19, 0x802), ==, 19);
    g_assert_cmphex(rdmsr(19, 0x80d), ==, 0x00010008); /* cluster 1, bit 3 */
    g_assert_true(wrmsr_faults(0, 0x80d, 1));          /* LDR is read-only */
    g_assert_true(rdmsr_faults(0, 0x80e));             /* no DFR */
    g_assert_true(rdmsr_faults(0, 0x831));
    g_assert_true(rdmsr_faults(0, 0x80b)); /* EOI is write-only */
    g_assert_true(wrmsr_faults(0, 0x80b, 1));
    g_assert_true(wrmsr_faults(0, 0x828, 1));
    g_assert_true(wrmsr_faults(0, 0x808, 0x100));
    g_assert_true(wrmsr_faults(0, 0x832, 0x80000));
    g_assert_true(wrmsr_faults(0, 0x830, 0x2000));
    g_assert_true(wrmsr_faults(0, 0x840, 0));

    wrmsr(0, 0x830, UINT64_C(19) << 32 | 0x4055); /* physical 19 */
    g_assert_cmphex(rdmsr(0, 0x830), ==, UINT64_C(19) << 32 | 0x4055);
    g_assert_cmphex(who_has(0x55), ==, 1u << 19);
    wrmsr(0, 0x830, UINT64_C(0x00010009) << 32 | 0x0855); /* cluster 1: 16 and 19 */
    g_assert_cmphex(who_has(0x55), ==, 0x90000);
    wrmsr(0, 0x830, UINT64_C(0xffffffff) << 32 | 0x0055);
    g_assert_cmphex(who_has(0x55), ==, 0xfffff);
    wrmsr(7, 0x83f, 0x56); /* self IPI */
    g_assert_cmphex(who_has(0x56), ==, 0x80);
    teardown();
}

/* ---- level, EOI, MSI, LINT ---- */

static unsigned last_eoi;

static void note_eoi(void *opaque, uint8_t vector)
{
    last_eoi = vector;
}

static int fixed_extint(void *opaque)
{
    return 0x68;
}

static void level_interrupts_broadcast_eoi(void)
{
    setup(1);
    lapic_connect(vm, &(struct lapic_board){.eoi = note_eoi});
    lapic_set_irr(vm->vcpus[0], 0x70, false);
    take(0);
    last_eoi = 0;
    put(0, EOI, 0);
    g_assert_cmphex(last_eoi, ==, 0); /* edge: nobody needs to know */
    lapic_set_irr(vm->vcpus[0], 0x70, true);
    g_assert_cmphex(get(0, TMR + 0x30), ==, 1u << 16);
    take(0);
    put(0, EOI, 0);
    g_assert_cmphex(last_eoi, ==, 0x70);
    put(0, SVR, 0x11ff); /* suppress EOI broadcasts */
    lapic_set_irr(vm->vcpus[0], 0x70, true);
    take(0);
    last_eoi = 0;
    put(0, EOI, 0);
    g_assert_cmphex(last_eoi, ==, 0);
    teardown();
}

static void msi_reaches_its_destination(void)
{
    setup(3);
    g_assert_cmpuint(lapic_msi(vm, 0xfee02000, 0x0041), ==, 1); /* to APIC ID 2 */
    g_assert_cmphex(who_has(0x41), ==, 0x4);
    for (unsigned i = 0; i < 3; i++) {
        put(i, LDR, 0x01000000u << i);
    }
    g_assert_cmpuint(lapic_msi(vm, 0xfee06004, 0x0042), ==, 2); /* logical 1 and 2 */
    g_assert_cmphex(who_has(0x42), ==, 0x6);
    g_assert_cmpuint(lapic_msi(vm, 0xfee0600c, 0x0042), ==, 1); /* one of them */
    g_assert_cmpint(__builtin_popcount(who_has(0x42)), ==, 1);
    g_assert_cmpuint(lapic_msi(vm, 0xfee09000, 0x0042), ==, 0);
    aspace_write(vm->mmio, NULL, 0xfee01000, 0x43, 4); /* by a device's write */
    g_assert_cmphex(who_has(0x43), ==, 0x2);
    teardown();
}

static void extint_and_nmi_pins(void)
{
    setup(1);
    lapic_connect(vm, &(struct lapic_board){.extint_ack = fixed_extint});
    struct irq_line intr = lapic_lint(vm->vcpus[0], 0),
                    nmi = lapic_lint(vm->vcpus[0], 1);
    irq_set(&intr, true);
    g_assert_cmpint(pending(0), ==, -1); /* LINT0 is masked */
    put(0, LVT_LINT0, 0x700);
    g_assert_true(irq_attention(0));
    g_assert_cmpint(pending(0), ==, LAPIC_EXTINT);
    g_assert_cmphex(take(0), ==, 0x68);
    irq_set(&intr, false);
    g_assert_cmpint(pending(0), ==, -1);
    irq_pulse(&nmi);
    g_assert_false(lapic_take_nmi(vm->vcpus[0]));
    put(0, LVT_LINT1, 0x400);
    irq_pulse(&nmi);
    g_assert_true(lapic_take_nmi(vm->vcpus[0]));
    put(0, LVT_LINT0, 0x45); /* fixed */
    irq_set(&intr, true);
    g_assert_cmphex(take(0), ==, 0x45);

    /* Hardware-disabled, the pins are the processor's own. */
    irq_set(&intr, false);
    wrmsr(0, MSR_APIC_BASE, 0xfee00100);
    irq_set(&intr, true);
    g_assert_cmpint(pending(0), ==, LAPIC_EXTINT);
    irq_pulse(&nmi);
    g_assert_true(lapic_take_nmi(vm->vcpus[0]));
    irq_set(&intr, false);
    lapic_reset(vm->vcpus[0]);
    lapic_set_virtual_wire(vm->vcpus[0]);
    irq_set(&intr, true);
    g_assert_cmpint(pending(0), ==, LAPIC_EXTINT);
    teardown();
}

/* ---- timer: LAPIC_BUS_HZ is 1 GHz, so that a tick is 1 ns times the divider ---- */

static void timer_one_shot(void)
{
    setup(1);
    put(0, LVT_TIMER, 0x00ef);
    put(0, TIMER_DIVIDE, 0x3); /* by 16 */
    put(0, TIMER_INITIAL, 1000);
    g_assert_cmpuint(get(0, TIMER_CURRENT), ==, 1000);
    test_advance(vm, 8000);
    g_assert_cmpuint(get(0, TIMER_CURRENT), ==, 500);
    test_advance(vm, 7999);
    g_assert_cmpint(pending(0), ==, -1);
    test_advance(vm, 1);
    g_assert_cmphex(take(0), ==, 0xef);
    g_assert_cmpuint(get(0, TIMER_CURRENT), ==, 0);
    put(0, EOI, 0);
    test_advance(vm, 100000);
    g_assert_cmpint(pending(0), ==, -1);
    teardown();
}

static void timer_moved_later_fires_once(void)
{
    setup(1);
    put(0, LVT_TIMER, 0x00ef);
    put(0, TIMER_DIVIDE, 0xb); /* by 1 */
    put(0, TIMER_INITIAL, 1000);
    put(0, TIMER_INITIAL, 5000);
    test_advance(vm, 4999);
    g_assert_cmpint(pending(0), ==, -1);
    test_advance(vm, 1);
    g_assert_cmphex(take(0), ==, 0xef);
    put(0, EOI, 0);
    put(0, TIMER_INITIAL, 1000);
    put(0, TIMER_INITIAL, 0); /* stop */
    test_advance(vm, 10000);
    g_assert_cmpint(pending(0), ==, -1);
    teardown();
}

static void timer_periodic(void)
{
    setup(1);
    put(0, LVT_TIMER, 0x200ef);
    put(0, TIMER_DIVIDE, 0xb);
    put(0, TIMER_INITIAL, 1000000);
    for (unsigned i = 0; i < 5; i++) {
        test_advance(vm, 999999);
        g_assert_cmpint(pending(0), ==, -1);
        test_advance(vm, 1);
        g_assert_cmphex(take(0), ==, 0xef);
        put(0, EOI, 0);
    }
    test_advance(vm, 250000);
    g_assert_cmpuint(get(0, TIMER_CURRENT), ==, 750000);
    put(0, LVT_TIMER, 0x300ef); /* masked: counts on, says nothing */
    test_advance(vm, 2000000);
    g_assert_cmpint(pending(0), ==, -1);
    put(0, TIMER_INITIAL, 1); /* 1 ns: served at a rate the host survives */
    put(0, LVT_TIMER, 0x200ef);
    test_advance(vm, 1000000);
    g_assert_cmpint(pending(0), ==, 0xef);
    teardown();
}

static void timer_tsc_deadline(void)
{
    setup(1);
    wrmsr(0, MSR_TSC_DEADLINE, 4000);
    g_assert_cmpuint(rdmsr(0, MSR_TSC_DEADLINE), ==, 0); /* not in that mode */
    put(0, LVT_TIMER, 0x400ef);
    wrmsr(0, MSR_TSC_DEADLINE, 20000); /* TSC runs at 2 GHz: 10 us */
    g_assert_cmpuint(rdmsr(0, MSR_TSC_DEADLINE), ==, 20000);
    g_assert_cmpuint(get(0, TIMER_CURRENT), ==, 0);
    test_advance(vm, 9999);
    g_assert_cmpint(pending(0), ==, -1);
    test_advance(vm, 1);
    g_assert_cmphex(take(0), ==, 0xef);
    put(0, EOI, 0);
    g_assert_cmpuint(rdmsr(0, MSR_TSC_DEADLINE), ==, 0);
    wrmsr(0, MSR_TSC_DEADLINE, 1); /* in the past: at once */
    g_assert_cmphex(take(0), ==, 0xef);
    put(0, EOI, 0);
    x86_vcpu_of(vm->vcpus[0])->tsc_offset = 100000;
    wrmsr(0, MSR_TSC_DEADLINE, 140000); /* vm TSC 40000: at 20 us */
    test_advance(vm, 9999);
    g_assert_cmpint(pending(0), ==, -1);
    test_advance(vm, 1);
    g_assert_cmphex(take(0), ==, 0xef);
    put(0, EOI, 0);
    wrmsr(0, MSR_TSC_DEADLINE, 200000);
    put(0, LVT_TIMER, 0x000ef); /* leaving the mode disarms */
    test_advance(vm, 1000000);
    g_assert_cmpint(pending(0), ==, -1);
    teardown();
}

/* ---- PV EOI ---- */

static uint8_t pv_byte(void)
{
    uint8_t b;
    g_assert_cmpint(gmem_read(vm->gmem, 0x2000, &b, 1), ==, 0);
    return b;
}

static void pv_put(uint8_t b)
{
    g_assert_cmpint(gmem_write(vm->gmem, 0x2000, &b, 1), ==, 0);
}

static void pv_eoi_replaces_the_write(void)
{
    setup(1);
    lapic_set_pv_eoi(vm->vcpus[0], 0x2000);
    lapic_set_irr(vm->vcpus[0], 0x50, false);
    g_assert_cmphex(take(0), ==, 0x50);
    g_assert_cmphex(pv_byte(), ==, 1);
    irq_attention(0);
    pv_put(0); /* the guest ends it */
    lapic_set_irr(vm->vcpus[0], 0x30, false);
    g_assert_true(irq_attention(0)); /* though PPR still says 0x50 */
    g_assert_cmphex(take(0), ==, 0x30);
    put(0, EOI, 0); /* a guest may still write */
    g_assert_cmphex(get(0, PPR), ==, 0);
    pv_put(0);

    lapic_set_irr(vm->vcpus[0], 0x50, false);
    take(0);
    lapic_set_irr(vm->vcpus[0], 0x51, false); /* waits for a real EOI */
    g_assert_cmpint(pending(0), ==, -1);
    g_assert_cmphex(pv_byte(), ==, 0); /* so the offer is withdrawn */
    put(0, EOI, 0);
    g_assert_cmphex(take(0), ==, 0x51);

    put(0, EOI, 0);
    pv_put(0);
    lapic_set_irr(vm->vcpus[0], 0x60, true); /* the IOAPIC must hear of it */
    take(0);
    g_assert_cmphex(pv_byte(), ==, 0);
    teardown();
}

/* ---- state, hostility, threads ---- */

static void state_survives_save_and_load(void)
{
    setup(1);
    GError *error = NULL;
    lapic_set_irr(vm->vcpus[0], 0x91, true);
    take(0);
    lapic_set_irr(vm->vcpus[0], 0x44, false);
    put(0, LVT_TIMER, 0x00ef);
    put(0, TIMER_DIVIDE, 0xb);
    put(0, TIMER_INITIAL, 5000);
    json_t *saved = state_save(&lapic_state, lapic_of(vm->vcpus[0]));
    lapic_reset(vm->vcpus[0]);
    g_assert_true(state_load(&lapic_state, lapic_of(vm->vcpus[0]), saved, &error));
    g_assert_no_error(error);
    json_decref(saved);
    g_assert_cmphex(get(0, PPR), ==, 0x90);
    put(0, EOI, 0);
    g_assert_cmphex(take(0), ==, 0x44);
    put(0, EOI, 0);
    test_advance(vm, 5000);
    g_assert_cmphex(take(0), ==, 0xef);
    teardown();
}

static void any_access_is_survived(void)
{
    setup(2);
    GRand *rand = g_rand_new_with_seed(1);
    for (unsigned i = 0; i < 200000; i++) {
        struct vcpu *cpu = vm->vcpus[g_rand_int_range(rand, 0, 2)];
        unsigned len = 1u << g_rand_int_range(rand, 0, 4);
        uint64_t addr =
            LAPIC_BASE + g_rand_int_range(rand, 0, i % 8 ? 0x400 : 0x100000);
        uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
        uint32_t msr = i % 16 ? MSR_X2APIC_FIRST + (value & 0xff) : MSR_APIC_BASE;
        switch (g_rand_int_range(rand, 0, 5)) {
        case 0: vcpu_mmio_read(cpu, addr, len); break;
        case 1: vcpu_mmio_write(cpu, addr, value, len); break;
        case 2: lapic_msr_read(cpu, msr, &value); break;
        case 3: lapic_msr_write(cpu, msr, value & 0xfee00fff); break;
        case 4: {
            int v = lapic_pending_vector(cpu);
            if (v >= 0) {
                lapic_accept(cpu, v);
            }
            test_advance(vm, value & 0xffff);
        }
        }
    }
    g_rand_free(rand);
    teardown();
}

struct sender {
    GThread *thread;
    unsigned sent;
};

static int nb_sending;

#define STORM 20000

static gpointer send_storm(gpointer opaque)
{
    struct sender *s = opaque;
    for (unsigned i = 0; i < STORM; i++) {
        s->sent += lapic_set_irr(vm->vcpus[0], 0x40 + (i & 0x7f), false);
    }
    g_atomic_int_add(&nb_sending, -1);
    return NULL;
}

/* Every bit that was new is taken exactly once, and no wake-up is lost. */
static void senders_and_receiver_agree(void)
{
    struct sender senders[3] = {0};
    unsigned taken = 0;
    setup(1);
    nb_sending = 3;
    for (unsigned i = 0; i < 3; i++) {
        senders[i].thread = g_thread_new("sender", send_storm, &senders[i]);
    }
    bool done = false;
    while (!done) {
        done = g_atomic_int_get(&nb_sending) == 0; /* before the last look */
        int v;
        while (irq_attention(0) && (v = pending(0)) >= 0) {
            lapic_accept(vm->vcpus[0], v);
            taken++;
            lapic_eoi(vm->vcpus[0]);
            vm->vcpus[0]->attention |= VCPU_ATTN_IRQ; /* look again, as IRET does */
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        g_thread_join(senders[i].thread);
    }
    g_assert_cmpint(pending(0), ==, -1);
    g_assert_cmpuint(taken, ==, senders[0].sent + senders[1].sent + senders[2].sent);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lapic/reset", reset_state_is_the_manuals);
    g_test_add_func("/lapic/priority", higher_class_nests_lower_waits);
    g_test_add_func("/lapic/tpr", task_priority_holds_back);
    g_test_add_func("/lapic/software-disable", software_disable_masks_and_refuses);
    g_test_add_func("/lapic/esr", illegal_vectors_are_recorded);
    g_test_add_func("/lapic/ipi", ipi_destinations_and_shorthands);
    g_test_add_func("/lapic/lowest", lowest_priority_takes_one);
    g_test_add_func("/lapic/init-sipi", nmi_init_sipi);
    g_test_add_func("/lapic/init-reset", init_keeps_id_and_base);
    g_test_add_func("/lapic/x2apic-mode", x2apic_transitions);
    g_test_add_func("/lapic/x2apic", x2apic_registers);
    g_test_add_func("/lapic/level", level_interrupts_broadcast_eoi);
    g_test_add_func("/lapic/msi", msi_reaches_its_destination);
    g_test_add_func("/lapic/lint", extint_and_nmi_pins);
    g_test_add_func("/lapic/timer-one-shot", timer_one_shot);
    g_test_add_func("/lapic/timer-later", timer_moved_later_fires_once);
    g_test_add_func("/lapic/timer-periodic", timer_periodic);
    g_test_add_func("/lapic/timer-tsc", timer_tsc_deadline);
    g_test_add_func("/lapic/pv-eoi", pv_eoi_replaces_the_write);
    g_test_add_func("/lapic/state", state_survives_save_and_load);
    g_test_add_func("/lapic/hostile", any_access_is_survived);
    g_test_add_func("/lapic/storm", senders_and_receiver_agree);
    return g_test_run();
}
