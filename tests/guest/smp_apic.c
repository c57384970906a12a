/* The local APIC's page, modes and timer; interrupts at the very next instruction;
 * LOCKed operands over cache-line and page boundaries. AMD64 APM vol. 2 chapter 16 and
 * 7.3; Intel SDM vol. 3 chapters 9 and 11. */
#include "tests/guest/lib/smp.h"

#define PAGE       UINT64_C(0xfee00000)
#define MOVED      UINT64_C(0xfed40000)
#define EN         (UINT64_C(1) << 11)
#define EXTD       (UINT64_C(1) << 10)
#define LVT_MASK   (1u << 16)
#define PERIODIC   (1u << 17)
#define DIVIDE_1   0xbu
#define DIVIDE_128 0xau

static volatile uint32_t *reg_at(uint64_t page, unsigned reg)
{
    return (volatile uint32_t *)(page + 16 * reg);
}

static void xapic(void)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    wrmsr(MSR_APIC_BASE, base & ~(EN | EXTD) & 0xfff);
    wrmsr(MSR_APIC_BASE, PAGE | (base & 0x100) | EN);
    apic_enable();
}

static void write_base(void *arg)
{
    wrmsr(MSR_APIC_BASE, *(uint64_t *)arg);
}

static bool base_faults(uint64_t value)
{
    struct trap t;
    return guest_try(&t, write_base, &value) && t.vector == 13;
}

GUEST_TEST(x2apic_transitions_follow_the_diagram)
{
    if (!has_cpuid(1, 2, 21)) {
        guest_skip("no x2APIC");
        return;
    }
    xapic();
    uint64_t base = rdmsr(MSR_APIC_BASE) & ~(EN | EXTD);
    CHECK(base_faults(base | EXTD));
    wrmsr(MSR_APIC_BASE, base | EN | EXTD);
    CHECK(base_faults(base | EN));
    CHECK(base_faults(base | EXTD));
    wrmsr(MSR_APIC_BASE, base);
    CHECK(base_faults(base | EN | EXTD));
    CHECK(base_faults(base | EXTD));
    wrmsr(MSR_APIC_BASE, base | EN);
    xapic();
}

GUEST_TEST(apic_base_reserved_bits_are_gp)
{
    xapic();
    uint32_t r[4];
    cpuid(0x80000008, 0, r);
    uint64_t base = rdmsr(MSR_APIC_BASE);
    CHECK(base_faults(base | 1));
    CHECK(base_faults(base | UINT64_C(1) << (r[0] & 0xff)));
    CHECK_EQ(rdmsr(MSR_APIC_BASE), base);
}

GUEST_TEST(page_moves_with_apic_base)
{
    xapic();
    uint64_t base = rdmsr(MSR_APIC_BASE);
    uint32_t version = *reg_at(PAGE, 3);
    wrmsr(MSR_APIC_BASE, (base & 0xfff) | MOVED);
    CHECK_EQ(*reg_at(MOVED, 3), version);
    CHECK_EQ(*reg_at(PAGE, 3), UINT32_MAX);
    *reg_at(MOVED, APIC_TPR) = 0x50;
    CHECK_EQ(*reg_at(MOVED, APIC_TPR), 0x50);
    wrmsr(MSR_APIC_BASE, base);
    CHECK_EQ(*reg_at(PAGE, APIC_TPR), 0x50);
    CHECK_EQ(*reg_at(MOVED, 3), UINT32_MAX);
    *reg_at(PAGE, APIC_TPR) = 0;
}

GUEST_TEST(self_ipi_arrives_before_the_next_instruction_but_one)
{
    CHECK_EQ(smp_start(), smp_cpus());
    xapic();
    for (unsigned i = 0; i < 20; i++) {
        uint32_t before = smp_irqs[0][0x62];
        __asm__ volatile("sti; nop; movl %0, (%1); nop; cli"
                         :
                         : "r"(ICR_SELF | ICR_ASSERT | 0x62u),
                           "r"(reg_at(PAGE, APIC_ICR))
                         : "memory");
        CHECK_EQ(smp_irqs[0][0x62], before + 1);
    }
}

GUEST_TEST(task_priority_holds_interrupts_back)
{
    CHECK_EQ(smp_start(), smp_cpus());
    xapic();
    uint32_t before = smp_irqs[0][0x63];
    apic_write(APIC_TPR, 0x60);
    apic_icr(ICR_SELF | ICR_ASSERT | 0x63, 0);
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(smp_irqs[0][0x63], before);
    apic_write(APIC_TPR, 0x50);
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(smp_irqs[0][0x63], before + 1);
    apic_write(APIC_TPR, 0);
}

/* --- The timer ----------------------------------------------------------------- */

GUEST_TEST(timer_mode_changes_keep_the_count)
{
    xapic();
    apic_write(APIC_LVT_TIMER, LVT_MASK | 0x64);
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_128);
    apic_write(APIC_TIMER_INITIAL, 0xf0000000);
    uint32_t one_shot = apic_read(APIC_TIMER_CURRENT);
    apic_write(APIC_LVT_TIMER, LVT_MASK | PERIODIC | 0x64);
    uint32_t periodic = apic_read(APIC_TIMER_CURRENT);
    apic_write(APIC_LVT_TIMER, LVT_MASK | 0x64);
    uint32_t again = apic_read(APIC_TIMER_CURRENT);
    CHECK(one_shot <= 0xf0000000 && one_shot > 0);
    CHECK(periodic <= one_shot && periodic > 0);
    CHECK(again <= periodic && again > 0);
    CHECK_EQ(apic_read(APIC_TIMER_INITIAL), 0xf0000000);
    apic_write(APIC_TIMER_INITIAL, 0);
    CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
}

GUEST_TEST(timer_that_ran_out_stays_at_zero)
{
    xapic();
    apic_write(APIC_LVT_TIMER, LVT_MASK | 0x64);
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_1);
    apic_write(APIC_TIMER_INITIAL, 10000);
    while (apic_read(APIC_TIMER_CURRENT)) {
        cpu_pause(); /* WAIT_UNTIL() measures time with this timer */
    }
    apic_write(APIC_LVT_TIMER, LVT_MASK | PERIODIC | 0x64);
    CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    CHECK_EQ(apic_read(APIC_TIMER_INITIAL), 10000);
    apic_write(APIC_TIMER_INITIAL, 0);
    apic_write(APIC_LVT_TIMER, LVT_MASK | 0x64);
}

GUEST_TEST(tsc_deadline_in_the_past_fires_at_once)
{
    if (!has_cpuid(1, 2, 24)) {
        guest_skip("no TSC deadline");
        return;
    }
    CHECK_EQ(smp_start(), smp_cpus());
    xapic();
    apic_write(APIC_LVT_TIMER, 2u << 17 | 0x65);
    uint32_t before = smp_irqs[0][0x65];
    sti();
    wrmsr(MSR_TSC_DEADLINE, rdtsc());
    __asm__ volatile("nop");
    cli();
    CHECK_EQ(smp_irqs[0][0x65], before + 1);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    apic_write(APIC_LVT_TIMER, LVT_MASK | 0x65);
}

/* --- LOCK ---------------------------------------------------------------------- */

enum { ROUNDS = 60000 };

struct contest {
    volatile uint64_t *operand; /* LOCKed 64-bit additions */
    volatile uint8_t *byte;     /* in it: plain stores that nobody may undo */
    volatile uint32_t done;
    uint32_t lost;
};

static void add_or_store(void *arg)
{
    struct contest *c = arg;
    smp_barrier(smp_cpus());
    if (guest_cpu()) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            __asm__ volatile("lock addq $1, %0" : "+m"(*c->operand) : : "cc");
        }
        __atomic_fetch_add(&c->done, 1, __ATOMIC_SEQ_CST);
        return;
    }
    for (uint8_t v = 0; c->done < smp_cpus() - 1; v++) {
        *c->byte = v;
        for (unsigned i = 0; i < 20; i++) {
            c->lost += *c->byte != v;
        }
    }
}

static void contest(volatile uint64_t *operand)
{
    CHECK_EQ(smp_start(), smp_cpus());
    *operand = 0;
    /* The additions do not reach the last byte. */
    struct contest c = {operand, (volatile uint8_t *)operand + 7, 0, 0};
    smp_run_all(smp_cpus(), add_or_store, &c);
    CHECK_EQ(c.lost, 0);
    CHECK_EQ(*operand & 0xffffffffffffff, ROUNDS * (smp_cpus() - 1));
}

GUEST_TEST(lock_in_a_cache_line_is_atomic)
{
    contest((volatile uint64_t *)guest_page(0));
}

GUEST_TEST(lock_over_two_cache_lines_is_atomic)
{
    contest((volatile uint64_t *)(guest_page(0) + 60));
}

GUEST_TEST(lock_over_two_pages_is_atomic)
{
    *guest_pte(0) = (uint64_t)guest_page(7) | PTE_P | PTE_W;
    *guest_pte(1) = (uint64_t)guest_page(2) | PTE_P | PTE_W;
    contest((volatile uint64_t *)(WINDOW + 4092));
}

GUEST_TEST(lock_beside_code_is_atomic)
{
    uint8_t *p = guest_page(9);
    p[0] = 0xc3;
    ((void (*)(void))(uintptr_t)p)();
    contest((volatile uint64_t *)(p + 8));
    ((void (*)(void))(uintptr_t)p)();
}

/* --- The end ------------------------------------------------------------------- */

GUEST_TEST(disabled_apic_has_no_page_and_no_cpuid_bit)
{
    xapic();
    uint64_t base = rdmsr(MSR_APIC_BASE), cr8;
    wrmsr(MSR_APIC_BASE, base & ~EN);
    CHECK(!has_cpuid(1, 3, 9));
    CHECK_EQ(*reg_at(PAGE, 3), UINT32_MAX);
    __asm__ volatile("mov %1, %%cr8; mov %%cr8, %0" : "=r"(cr8) : "r"(UINT64_C(7)));
    CHECK_EQ(cr8, 7);
    CHECK_EQ(*reg_at(PAGE, APIC_TPR), UINT32_MAX);
    __asm__ volatile("mov %0, %%cr8" : : "r"(UINT64_C(0)));
    wrmsr(MSR_APIC_BASE, base);
    CHECK(has_cpuid(1, 3, 9));
    CHECK_EQ(*reg_at(PAGE, 3) == UINT32_MAX, 0);
    xapic();
}
