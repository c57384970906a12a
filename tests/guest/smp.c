/*
 * Several processors: how they start, the interrupts they send each other, sleep and
 * wake, the timer of each, and whether all of them get on when there are more of them
 * than the host has. SDM vol. 3, "Multiple-Processor Management" and "APIC"; what they
 * do to the same memory is in smp_memory.c.
 */
#include "tests/guest/lib/smp.h"

#define V_A 0x41
#define V_B 0x52
#define V_C 0x63

static unsigned nb; /* processors */

static bool begin(unsigned wanted)
{
    nb = smp_start();
    if (nb < wanted) {
        guest_skip("needs more processors (cpus= on the command line)");
        return false;
    }
    for (unsigned i = 0; i < GUEST_CPUS; i++) {
        for (unsigned v = 0; v < 256; v++) {
            smp_irqs[i][v] = 0;
        }
    }
    return true;
}

static void nothing(void *arg)
{
    (void)arg;
}

/* Let every processor come to rest, so that counts are final. */
static void settle(void)
{
    sti();
    for (unsigned i = 1; i < nb; i++) {
        smp_run(i, nothing, NULL);
        smp_wait(i);
    }
    cli();
}

/* --- Start ------------------------------------------------------------------- */

GUEST_TEST(startup_begins_at_its_page_with_reset_registers)
{
    if (!begin(2)) {
        return;
    }
    uint32_t r[4];
    cpuid(1, 0, r);
    for (unsigned i = 1; i < nb; i++) {
        CHECK_EQ(smp_boots[i], 1);
        CHECK_EQ(smp_boot[i].cs, 0x8000);
        CHECK_EQ(smp_boot[i].edx, r[0]);
        CHECK_EQ(smp_boot[i].cr0 & 0x9fffffff, 0x10);
    }
}

static volatile uint32_t spun;

static void spin_without_interrupts(void *arg)
{
    (void)arg;
    cli();
    for (;;) {
        spun++;
    }
}

static void sleep_for_good(void *arg)
{
    (void)arg;
    cli();
    spun++;
    for (;;) {
        __asm__ volatile("hlt");
    }
}

GUEST_TEST(init_ends_whatever_a_processor_does)
{
    if (!begin(2)) {
        return;
    }
    for (unsigned round = 0; round < 100; round++) {
        uint32_t boots = smp_boots[1], before = spun;
        smp_run(1, round & 1 ? sleep_for_good : spin_without_interrupts, NULL);
        CHECK(WAIT_UNTIL(spun != before));
        smp_restart(1);
        CHECK_EQ(smp_boots[1], boots + 1);
    }
    smp_run(1, nothing, NULL);
    smp_wait(1);
}

GUEST_TEST(startup_to_a_running_processor_is_ignored)
{
    if (!begin(2)) {
        return;
    }
    uint32_t boots = smp_boots[1];
    for (unsigned i = 0; i < 10; i++) {
        apic_icr(ICR_SIPI | ICR_ASSERT | 0x80, 1);
    }
    smp_run(1, nothing, NULL);
    smp_wait(1);
    CHECK_EQ(smp_boots[1], boots);
}

/* --- Interrupts between processors ------------------------------------------- */

static uint32_t sum(unsigned vector)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < nb; i++) {
        n += smp_irqs[i][vector];
    }
    return n;
}

GUEST_TEST(fixed_ipi_reaches_the_one_it_names)
{
    if (!begin(2)) {
        return;
    }
    sti();
    for (unsigned i = 0; i < nb; i++) {
        apic_icr(ICR_FIXED | ICR_ASSERT | V_A, i);
        CHECK(WAIT_UNTIL(smp_irqs[i][V_A] == 1));
        CHECK_EQ(sum(V_A), i + 1);
    }
    cli();
}

GUEST_TEST(shorthands_reach_self_all_and_others)
{
    if (!begin(2)) {
        return;
    }
    sti();
    apic_icr(ICR_SELF | ICR_ASSERT | V_A, 0);
    CHECK(WAIT_UNTIL(smp_irqs[0][V_A] == 1));
    apic_icr(ICR_OTHERS | ICR_ASSERT | V_B, 0);
    CHECK(WAIT_UNTIL(sum(V_B) == nb - 1));
    apic_icr(ICR_ALL | ICR_ASSERT | V_C, 0);
    CHECK(WAIT_UNTIL(sum(V_C) == nb));
    settle();
    CHECK_EQ(sum(V_A), 1);
    for (unsigned i = 0; i < nb; i++) {
        CHECK_EQ(smp_irqs[i][V_B], i != 0);
        CHECK_EQ(smp_irqs[i][V_C], 1);
    }
}

GUEST_TEST(physical_broadcast_reaches_all)
{
    if (!begin(2)) {
        return;
    }
    sti();
    apic_icr(ICR_FIXED | ICR_ASSERT | V_A, 0xff);
    CHECK(WAIT_UNTIL(sum(V_A) == nb));
    settle();
    CHECK_EQ(sum(V_A), nb);
}

GUEST_TEST(flat_logical_ipi_reaches_the_set)
{
    if (!begin(4)) {
        return;
    }
    sti();
    apic_icr(ICR_LOGICAL | ICR_ASSERT | V_A, 0x0b); /* 0, 1, 3 */
    CHECK(WAIT_UNTIL(sum(V_A) == 3));
    settle();
    CHECK_EQ(smp_irqs[2][V_A], 0);
    CHECK_EQ(sum(V_A), 3);
}

static void to_cluster(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu();
    apic_write(APIC_DFR, 0x0fffffff);
    apic_write(APIC_LDR, (cpu / 2) << 28 | 1u << (24 + cpu % 2));
}

static void to_flat(void *arg)
{
    (void)arg;
    apic_enable();
}

GUEST_TEST(cluster_logical_ipi_reaches_the_set_in_its_cluster)
{
    if (!begin(4)) {
        return;
    }
    smp_run_all(nb, to_cluster, NULL);
    sti();
    apic_icr(ICR_LOGICAL | ICR_ASSERT | V_A, 0x12); /* cluster 1: number 3 */
    CHECK(WAIT_UNTIL(smp_irqs[3][V_A] == 1));
    apic_icr(ICR_LOGICAL | ICR_ASSERT | V_B, 0x03); /* cluster 0: 0 and 1 */
    CHECK(WAIT_UNTIL(smp_irqs[0][V_B] == 1 && smp_irqs[1][V_B] == 1));
    settle();
    CHECK_EQ(sum(V_A), 1);
    CHECK_EQ(smp_irqs[2][V_B] + smp_irqs[3][V_B], 0);
    smp_run_all(nb, to_flat, NULL);
}

static void set_tpr(void *arg)
{
    apic_write(APIC_TPR, (uint32_t)(uint64_t)arg);
}

GUEST_TEST(lowest_priority_goes_to_one_of_the_set)
{
    if (!begin(4)) {
        return;
    }
    sti();
    smp_run(1, set_tpr, (void *)0x20);
    smp_wait(1);
    for (unsigned i = 1; i <= 50; i++) {
        apic_icr(ICR_LOWEST | ICR_LOGICAL | ICR_ASSERT | V_A, 0x06);
        CHECK(WAIT_UNTIL(sum(V_A) == i));
    }
    settle();
    CHECK_EQ(sum(V_A), 50);
    CHECK_EQ(smp_irqs[1][V_A], 0); /* its priority is the higher one */
    CHECK_EQ(smp_irqs[2][V_A], 50);
    smp_run(1, set_tpr, NULL);
    smp_wait(1);
}

GUEST_TEST(task_priority_holds_interrupts_back)
{
    if (!begin(1)) {
        return;
    }
    apic_write(APIC_TPR, 0x50);
    sti();
    apic_icr(ICR_SELF | ICR_ASSERT | V_A, 0); /* class 4 */
    apic_icr(ICR_SELF | ICR_ASSERT | V_B, 0); /* class 5 */
    apic_icr(ICR_SELF | ICR_ASSERT | V_C, 0); /* class 6: above */
    CHECK(WAIT_UNTIL(smp_irqs[0][V_C] == 1));
    CHECK_EQ(smp_irqs[0][V_A] + smp_irqs[0][V_B], 0);
    CHECK(apic_read(APIC_IRR + V_A / 32) >> V_A % 32 & 1);
    uint64_t cr8 = 4;
    __asm__ volatile("mov %0, %%cr8" : : "r"(cr8) : "memory");
    CHECK_EQ(apic_read(APIC_TPR), 0x40);
    CHECK(WAIT_UNTIL(smp_irqs[0][V_B] == 1));
    CHECK_EQ(smp_irqs[0][V_A], 0);
    apic_write(APIC_TPR, 0);
    CHECK(WAIT_UNTIL(smp_irqs[0][V_A] == 1));
    cli();
}

static volatile uint32_t order[8], nb_order;

static void note_order(uint64_t *frame)
{
    order[nb_order++ & 7] = (uint32_t)frame[16];
}

GUEST_TEST(pending_interrupts_come_highest_first)
{
    if (!begin(1)) {
        return;
    }
    smp_handler[V_A] = smp_handler[V_B] = smp_handler[V_C] = note_order;
    nb_order = 0;
    apic_icr(ICR_SELF | ICR_ASSERT | V_B, 0);
    apic_icr(ICR_SELF | ICR_ASSERT | V_A, 0);
    apic_icr(ICR_SELF | ICR_ASSERT | V_C, 0);
    apic_icr(ICR_SELF | ICR_ASSERT | V_C, 0); /* already pending: merges */
    sti();
    CHECK(WAIT_UNTIL(nb_order >= 3));
    cli();
    smp_handler[V_A] = smp_handler[V_B] = smp_handler[V_C] = NULL;
    CHECK_EQ(nb_order, 3);
    CHECK_EQ(order[0], V_C);
    CHECK_EQ(order[1], V_B);
    CHECK_EQ(order[2], V_A);
}

static void ignore(uint64_t *frame)
{
    (void)frame;
}

GUEST_TEST(illegal_vector_is_told_in_esr)
{
    if (!begin(1)) {
        return;
    }
    smp_handler[15] = ignore;
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    apic_icr(ICR_SELF | ICR_ASSERT | 15, 0);
    apic_write(APIC_ESR, 0);
    CHECK(apic_read(APIC_ESR) & 0x60);
    sti();
    settle();
    CHECK_EQ(smp_irqs[0][15], 0);
    smp_handler[15] = NULL;
}

/* --- NMI --------------------------------------------------------------------- */

static volatile bool stay;

static void spin_cli_while_stay(void *arg)
{
    cli();
    *(volatile uint32_t *)arg = 1;
    while (stay) {
        cpu_pause();
    }
    sti();
}

GUEST_TEST(nmi_reaches_a_processor_with_interrupts_off)
{
    if (!begin(2)) {
        return;
    }
    volatile uint32_t there = 0;
    stay = true;
    smp_run(1, spin_cli_while_stay, (void *)&there);
    CHECK(WAIT_UNTIL(there));
    apic_icr(ICR_FIXED | ICR_ASSERT | V_A, 1);
    for (unsigned i = 1; i <= 100; i++) {
        apic_icr(ICR_NMI | ICR_ASSERT, 1);
        CHECK(WAIT_UNTIL(smp_irqs[1][2] == i));
    }
    CHECK_EQ(smp_irqs[1][V_A], 0); /* that one waits for IF */
    stay = false;
    smp_wait(1);
    CHECK(WAIT_UNTIL(smp_irqs[1][V_A] == 1));
    /* Others than the sender, asleep ones too. */
    apic_icr(ICR_NMI | ICR_OTHERS | ICR_ASSERT, 0);
    CHECK(WAIT_UNTIL(sum(2) == 100 + nb - 1));
    CHECK_EQ(smp_irqs[0][2], 0);
}

static volatile uint32_t nmi_depth, nmi_deepest, nmi_inside;

static void nmi_that_waits(uint64_t *frame)
{
    (void)frame;
    nmi_deepest = ++nmi_depth > nmi_deepest ? nmi_depth : nmi_deepest;
    nmi_inside = 1;
    while (stay) {
        cpu_pause();
    }
    nmi_depth--;
}

GUEST_TEST(nmi_is_blocked_until_iret_and_one_waits)
{
    if (!begin(2)) {
        return;
    }
    nmi_depth = nmi_deepest = nmi_inside = 0;
    stay = true;
    smp_handler[2] = nmi_that_waits;
    apic_icr(ICR_NMI | ICR_ASSERT, 1);
    CHECK(WAIT_UNTIL(nmi_inside));
    apic_icr(ICR_NMI | ICR_ASSERT, 1);
    apic_icr(ICR_NMI | ICR_ASSERT, 1);
    stay = false;
    CHECK(WAIT_UNTIL(smp_irqs[1][2] == 2));
    smp_run(1, nothing, NULL);
    smp_wait(1);
    CHECK_EQ(smp_irqs[1][2], 2);
    CHECK_EQ(nmi_deepest, 1);
    smp_handler[2] = NULL;
}

/* --- Sleep and wake ---------------------------------------------------------- */

static void reply(uint64_t *frame)
{
    (void)frame;
    apic_icr(ICR_FIXED | ICR_ASSERT | V_B, 0);
}

/* Every interrupt is sent to one that is in HLT, or about to be: none may be lost. */
GUEST_TEST(halted_processors_wake_each_other)
{
    enum { ROUNDS = 2000 };
    if (!begin(2)) {
        return;
    }
    smp_handler[V_A] = reply;
    uint64_t per_ms = smp_tsc_per_ms(), start = rdtsc();
    for (unsigned i = 1; i <= ROUNDS; i++) {
        apic_icr(ICR_FIXED | ICR_ASSERT | V_A, 1 + i % (nb - 1));
        while (smp_irqs[0][V_B] != i) {
            sti_hlt_cli();
        }
    }
    guest_printf("# round trip between halted processors: %lu ns\n",
                 (rdtsc() - start) * 1000000 / per_ms / ROUNDS);
    CHECK_EQ(sum(V_A), ROUNDS);
    CHECK_EQ(smp_irqs[0][V_B], ROUNDS);
    smp_handler[V_A] = NULL;
}

/* --- The timer --------------------------------------------------------------- */

static volatile uint64_t timer_tsc;

static void note_time(uint64_t *frame)
{
    (void)frame;
    timer_tsc = rdtsc();
}

GUEST_TEST(timer_one_shot_fires_once_and_not_early)
{
    if (!begin(1)) {
        return;
    }
    uint64_t per_ms = smp_tsc_per_ms();
    smp_handler[V_A] = note_time;
    apic_write(APIC_LVT_TIMER, V_A);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    sti();
    for (unsigned ms = 1; ms <= 16; ms *= 4) {
        uint32_t before = smp_irqs[0][V_A];
        uint64_t start = rdtsc();
        apic_write(APIC_TIMER_INITIAL, ms * 1000000);
        CHECK(apic_read(APIC_TIMER_CURRENT) <= ms * 1000000);
        CHECK(WAIT_UNTIL(smp_irqs[0][V_A] == before + 1));
        /* A part in a hundred for the calibration. */
        CHECK(timer_tsc - start >= ms * per_ms - ms * per_ms / 100);
        CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
        while (!smp_timed_out(start, 3 * ms)) {
        }
        CHECK_EQ(smp_irqs[0][V_A], before + 1);
    }
    cli();
    smp_handler[V_A] = NULL;
}

GUEST_TEST(timer_periodic_keeps_its_rate)
{
    if (!begin(1)) {
        return;
    }
    apic_write(APIC_LVT_TIMER, 1 << 17 | V_A);
    apic_write(APIC_TIMER_DIVIDE, 0x0); /* 2: a period of 2 ms */
    uint64_t per_ms = smp_tsc_per_ms();
    apic_write(APIC_LVT_TIMER, 1 << 17 | V_A);
    apic_write(APIC_TIMER_DIVIDE, 0x0);
    uint64_t start = rdtsc();
    apic_write(APIC_TIMER_INITIAL, 1000000);
    sti();
    while (smp_irqs[0][V_A] < 100) {
        sti_hlt_cli();
        sti();
    }
    cli();
    apic_write(APIC_TIMER_INITIAL, 0);
    uint64_t ms = (rdtsc() - start) / per_ms;
    CHECK(ms >= 198); /* never faster; slower only as interrupts merge */
    guest_printf("# 100 periods of 2 ms took %lu ms\n", ms);
    uint32_t seen = smp_irqs[0][V_A];
    sti();
    start = rdtsc();
    while (!smp_timed_out(start, 10)) {
    }
    cli();
    CHECK(smp_irqs[0][V_A] <= seen + 1); /* one may have been on its way */
}

static bool has_deadline(void)
{
    if (!has_cpuid(1, 2, 24)) {
        guest_skip("no TSC deadline");
        return false;
    }
    return true;
}

/* Sleep to a deadline in HLT; returns how late it woke, in TSC ticks. */
static uint64_t sleep_until(uint64_t deadline)
{
    unsigned cpu = guest_cpu();
    uint32_t before = smp_irqs[cpu][V_A];
    cli();
    wrmsr(MSR_TSC_DEADLINE, deadline);
    while (smp_irqs[cpu][V_A] == before) {
        sti_hlt_cli();
    }
    return rdtsc() - deadline;
}

GUEST_TEST(timer_deadline_wakes_a_halted_processor_not_early)
{
    enum { SLEEPS = 1000 };
    if (!begin(1) || !has_deadline()) {
        return;
    }
    uint64_t per_ms = smp_tsc_per_ms(), total = 0, worst = 0;
    apic_write(APIC_LVT_TIMER, 2 << 17 | V_A);
    for (unsigned i = 0; i < SLEEPS; i++) {
        uint64_t late = sleep_until(rdtsc() + per_ms);
        CHECK((int64_t)late >= 0);
        CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
        total += late;
        worst = late > worst ? late : worst;
    }
    guest_printf("# %d sleeps of 1 ms: late by %lu ns, at worst %lu ns\n", SLEEPS,
                 total * 1000000 / per_ms / SLEEPS, worst * 1000000 / per_ms);
    sti();
    cli();
    CHECK_EQ(smp_irqs[0][V_A], SLEEPS);
}

GUEST_TEST(timer_deadline_passed_fires_at_once_and_zero_disarms)
{
    if (!begin(1) || !has_deadline()) {
        return;
    }
    uint64_t per_ms = smp_tsc_per_ms();
    apic_write(APIC_LVT_TIMER, 2 << 17 | V_A);
    sti();
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1);
    CHECK(WAIT_UNTIL(smp_irqs[0][V_A] == 1));
    uint64_t start, deadline, got;
    uint32_t before;
    do { /* the host may take this processor away until the deadline has passed */
        settle();
        sti();
        before = smp_irqs[0][V_A];
        start = rdtsc();
        deadline = start + 20 * per_ms;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        got = rdmsr(MSR_TSC_DEADLINE);
        wrmsr(MSR_TSC_DEADLINE, 0);
    } while (rdtsc() >= deadline);
    CHECK_EQ(got, deadline);
    while (!smp_timed_out(start, 40)) {
    }
    CHECK_EQ(smp_irqs[0][V_A], before);
    /* Masked: the deadline passes in silence. */
    apic_write(APIC_LVT_TIMER, 1 << 16 | 2 << 17 | V_A);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + per_ms);
    start = rdtsc();
    while (!smp_timed_out(start, 5)) {
    }
    CHECK_EQ(smp_irqs[0][V_A], before);
    cli();
}

static volatile uint64_t late_ns[GUEST_CPUS];

static void sleep_often(void *arg)
{
    uint64_t per_ms = (uint64_t)arg, total = 0;
    unsigned cpu = guest_cpu();
    cli();
    apic_write(APIC_LVT_TIMER, 2 << 17 | V_A);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t late = sleep_until(rdtsc() + per_ms + cpu * per_ms / 16);
        SMP_CHECK((int64_t)late >= 0);
        total += late;
    }
    late_ns[cpu] = total * 10000 / per_ms;
    sti();
}

GUEST_TEST(timers_of_all_processors_run_at_the_same_time)
{
    if (!begin(2) || !has_deadline()) {
        return;
    }
    smp_run_all(nb, sleep_often, (void *)smp_tsc_per_ms());
    cli();
    for (unsigned i = 0; i < nb; i++) {
        CHECK_EQ(smp_irqs[i][V_A], 100);
        guest_printf("# processor %d: late by %lu ns\n", i, late_ns[i]);
    }
}

/* --- More processors than the host has --------------------------------------- */

static struct {
    volatile uint64_t n;
} __attribute__((aligned(64))) progress[GUEST_CPUS];
static volatile uint64_t stop_tsc, give_up_tsc;

static void begin_work(void)
{
    for (unsigned i = 0; i < nb; i++) {
        progress[i].n = 0;
    }
    stop_tsc = rdtsc() + 1000 * smp_tsc_per_ms();
    give_up_tsc = stop_tsc + 60000 * smp_tsc_per_ms();
}

/* For a second, and until each has had a turn: a busy host may take longer. */
static bool has_work(void)
{
    uint64_t now = rdtsc();
    bool some_idle = false;
    for (unsigned i = 0; i < nb && now >= stop_tsc; i++) {
        some_idle |= !progress[i].n;
    }
    return now < stop_tsc || (some_idle && now < give_up_tsc);
}

static void work_until_stop(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu();
    smp_barrier(nb);
    while (has_work()) {
        for (unsigned i = 0; i < 1000; i++) {
            progress[cpu].n++;
        }
    }
}

static void show_progress(const char *what)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (unsigned i = 0; i < nb; i++) {
        least = progress[i].n < least ? progress[i].n : least;
        most = progress[i].n > most ? progress[i].n : most;
    }
    guest_printf("# %s: %d processors, least %lu, most %lu\n", what, nb, least, most);
    CHECK(least > 0); /* none starves; how even it is depends on the host's load */
}

GUEST_TEST(busy_processors_all_make_progress)
{
    if (!begin(2)) {
        return;
    }
    begin_work();
    smp_run_all(nb, work_until_stop, NULL);
    cli();
    show_progress("counting");
}

/* A ticket lock hands over in strict order: with more processors than the host has,
 * it goes on only as fast as those that wait let go of the host. */
static uint32_t ticket_next, ticket_now;
static volatile uint64_t ticket_count;

static void take_tickets(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu();
    smp_barrier(nb);
    while (has_work()) {
        uint32_t mine = __atomic_fetch_add(&ticket_next, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&ticket_now, __ATOMIC_ACQUIRE) != mine) {
            cpu_pause();
        }
        ticket_count++;
        progress[cpu].n++;
        __atomic_store_n(&ticket_now, mine + 1, __ATOMIC_RELEASE);
    }
}

GUEST_TEST(pause_lets_the_lock_holder_run)
{
    if (!begin(2)) {
        return;
    }
    ticket_count = 0;
    begin_work();
    smp_run_all(nb, take_tickets, NULL);
    cli();
    uint64_t all = 0;
    for (unsigned i = 0; i < nb; i++) {
        all += progress[i].n;
    }
    CHECK_EQ(ticket_count, all);
    show_progress("ticket lock");
}

/* --- x2APIC; last, all processors change to it and back ----------------------- */

static void to_x2apic(void *arg)
{
    (void)arg;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1 << 10);
    apic_enable();
}

static void to_xapic(void *arg)
{
    (void)arg;
    uint64_t base = rdmsr(MSR_APIC_BASE);
    cli();
    wrmsr(MSR_APIC_BASE, base & ~UINT64_C(0xc00));
    wrmsr(MSR_APIC_BASE, (base & ~UINT64_C(0x400)) | 0x800);
    apic_enable();
    sti();
}

GUEST_TEST(x2apic_sends_by_id_by_cluster_and_to_itself)
{
    if (!begin(2)) {
        return;
    }
    if (!has_cpuid(1, 2, 21)) {
        guest_skip("no x2APIC");
        return;
    }
    smp_run_all(nb, to_x2apic, NULL);
    sti();
    CHECK_EQ(rdmsr(0x802), 0);
    CHECK_EQ(rdmsr(0x80d), 1); /* logical ID: cluster 0, bit 0 */
    for (unsigned i = 0; i < nb; i++) {
        apic_icr(ICR_FIXED | V_A, i);
        CHECK(WAIT_UNTIL(smp_irqs[i][V_A] == 1));
    }
    apic_write(APIC_SELF_IPI, V_B);
    CHECK(WAIT_UNTIL(smp_irqs[0][V_B] == 1));
    apic_icr(ICR_LOGICAL | V_C, (1u << nb) - 2);
    CHECK(WAIT_UNTIL(sum(V_C) == nb - 1));
    apic_icr(ICR_FIXED | V_B, 0xffffffff);
    CHECK(WAIT_UNTIL(sum(V_B) == nb + 1));
    settle();
    CHECK_EQ(sum(V_A), nb);
    CHECK_EQ(smp_irqs[0][V_C], 0);
    struct trap t;
    CHECK(TRAPS(&t, "mov $0x80e, %%ecx; rdmsr")); /* DFR is none of x2APIC */
    CHECK_EQ(t.vector, 13);
    smp_run_all(nb, to_xapic, NULL);
    cli();
    CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0xc00, 0x800);
    apic_icr(ICR_OTHERS | ICR_ASSERT | V_A, 0);
    CHECK(WAIT_UNTIL(sum(V_A) == 2 * nb - 1));
}
