/* MONITOR and MWAIT: their checks, and what ends the wait. AMD64 APM vol. 3, MONITOR
 * and MWAIT; CPUID leaf 5. */
#include "tests/guest/lib/smp.h"

static volatile uint64_t line[16] __attribute__((aligned(64)));

static bool lacks_monitor(void)
{
    if (!has_cpuid(1, 2, 3)) {
        guest_skip("no MONITOR");
        return true;
    }
    return false;
}

static void monitor(volatile void *p)
{
    __asm__ volatile("monitor" : : "a"(p), "c"(0), "d"(0) : "memory");
}

static void mwait(uint32_t ext)
{
    __asm__ volatile("mwait" : : "a"(0), "c"(ext) : "memory");
}

GUEST_TEST(without_the_feature_they_are_ud)
{
    struct trap t;
    if (has_cpuid(1, 2, 3)) {
        guest_skip("there is MONITOR");
        return;
    }
    CHECK(TRAPS(&t, "lea (%%rsp), %%rax; xor %%ecx, %%ecx; monitor"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, "xor %%ecx, %%ecx; mwait"));
    CHECK_EQ(t.vector, 6);
}

GUEST_TEST(leaf_5_tells_the_line)
{
    uint32_t r[4];
    if (lacks_monitor()) {
        return;
    }
    cpuid(5, 0, r);
    CHECK_EQ(r[0] & 0xffff, 64);
    CHECK_EQ(r[1] & 0xffff, 64);
    CHECK_EQ(r[2] & 3, 3);
}

GUEST_TEST(extensions_and_privilege_are_checked)
{
    struct trap t;
    if (lacks_monitor()) {
        return;
    }
    CHECK(TRAPS(&t, "mov %%rsp, %%rax; mov $1, %%ecx; monitor"));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t, "mov %%rsp, %%rax; mov $2, %%ecx; mwait"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "mov %%rsp, %%rax; xor %%ecx, %%ecx; monitor"));
    CHECK_EQ(t.vector, 6);
    CHECK(USER_TRAPS(&t, "xor %%ecx, %%ecx; mwait"));
    CHECK_EQ(t.vector, 6);
    CHECK(!TRAPS(
        &t, "mov %%rsp, %%rax; xor %%ecx, %%ecx; monitor; sti; mov $1, %%ecx; cli"));
}

GUEST_TEST(monitor_faults_as_a_load_does)
{
    struct trap t;
    if (lacks_monitor()) {
        return;
    }
    CHECK(TRAPS(&t, "mov $0x8000000123, %%rax; xor %%ecx, %%ecx; monitor"));
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.cr2, WINDOW + 0x123);
    *guest_pte(0) = (uint64_t)guest_page(0) | PTE_P;
    CHECK(!TRAPS(&t, "mov $0x8000000123, %%rax; xor %%ecx, %%ecx; monitor"));
    CHECK_EQ(*guest_pte(0) & PTE_D, 0);
    CHECK(TRAPS(&t, "mov $0x8000000000000, %%rax; xor %%ecx, %%ecx; monitor"));
    CHECK_EQ(t.vector, 13);
}

GUEST_TEST(mwait_without_monitor_goes_on)
{
    if (!lacks_monitor()) {
        mwait(0);
    }
}

GUEST_TEST(store_before_mwait_is_not_missed)
{
    if (lacks_monitor()) {
        return;
    }
    for (unsigned i = 0; i < 1000; i++) {
        monitor(line);
        line[i % 8]++;
        mwait(0);
    }
    CHECK_EQ(line[0], 125);
}

GUEST_TEST(masked_interrupt_ends_the_wait_when_asked_for)
{
    if (lacks_monitor()) {
        return;
    }
    struct trap t;
    bool raised = TRAPS(&t, "mov $1, %%ecx; mwait");
    CHECK(!raised);
    if (raised) {
        return;
    }
    CHECK_EQ(smp_start(), smp_cpus());
    uint32_t before = smp_irqs[0][0x61];
    for (unsigned i = 0; i < 10; i++) {
        monitor(line);
        apic_icr(ICR_SELF | ICR_ASSERT | ICR_FIXED | 0x61, 0);
        mwait(1);
        CHECK_EQ(smp_irqs[0][0x61], before);
    }
    sti();
    CHECK(WAIT_UNTIL(smp_irqs[0][0x61] == before + 1));
    cli();
}

/* --- Two processors ----------------------------------------------------------- */

enum { ROUNDS = 300 };

static volatile uint32_t turn __attribute__((aligned(64)));

static void wait_for(uint32_t value)
{
    while (turn != value) {
        monitor(&turn);
        if (turn != value) {
            mwait(0);
        }
    }
}

static void play(void *arg)
{
    uint32_t me = guest_cpu();
    (void)arg;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        wait_for(2 * i + me);
        turn = 2 * i + me + 1;
    }
}

GUEST_TEST(two_processors_wake_each_other_by_stores)
{
    if (lacks_monitor()) {
        return;
    }
    CHECK_EQ(smp_start(), smp_cpus());
    turn = 0;
    smp_run_all(2, play, NULL);
    CHECK_EQ(turn, 2 * ROUNDS);
}
