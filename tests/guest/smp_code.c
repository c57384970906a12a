/*
 * Code that one processor changes and another one runs, and memory that is both, beyond
 * what smp_memory.c does with one page: with and without interrupts between them, with
 * processors that sleep, through other addresses of the same memory, by a device. SDM
 * vol. 3, "Handling Self- and Cross-Modifying Code"; APM vol. 2, 7.6.1: who has changed
 * code tells the others in whatever way, and they execute a serialising instruction
 * before they run it.
 */
#include "tests/guest/lib/smp.h"

enum { CPUS = 4, PAGE = 4096 };

static uint8_t area[8 * PAGE] __attribute__((aligned(4096)));

static void flush(void *arg)
{
    (void)arg;
    guest_flush_tlb();
}

static bool begin(unsigned wanted)
{
    if (smp_start() < wanted) {
        guest_skip("needs more processors (cpus= on the command line)");
        return false;
    }
    smp_run_all(wanted, flush, NULL);
    cli();
    return true;
}

static void serialise(void)
{
    uint32_t r[4];
    cpuid(0, 0, r);
}

static uint32_t call(const void *code)
{
    uint32_t (*fn)(void);
    __asm__("" : "=r"(fn) : "0"(code));
    return fn();
}

/* mov eax, imm32; ret: the eight bytes of @at, which is aligned to them, at once. */
static void put_constant(void *at, uint32_t v)
{
    *(volatile uint64_t *)at = 0xb8 | (uint64_t)v << 8 | UINT64_C(0x9090c3) << 40;
}

/* --- Handed over without an interrupt ------------------------------------------- */

enum { TURNS = 200 };

static volatile uint32_t turn, answers[GUEST_CPUS];
static uint8_t *volatile fresh;

/* Wait for turn 1, 2, ...; run what is new then. */
static void follow(void *arg)
{
    unsigned cpu = guest_cpu();
    (void)arg;
    for (uint32_t n = 1; n <= TURNS; n++) {
        while (turn < n) {
            cpu_pause();
        }
        serialise();
        uint32_t got = call(fresh);
        if (got != n * 3) {
            smp_fail(__FILE__, __LINE__, "old code after the turn", got, n * 3);
        }
        answers[cpu] = n;
    }
}

static bool all_answered(uint32_t n)
{
    for (unsigned i = 1; i < CPUS; i++) {
        if (answers[i] < n) {
            return false;
        }
    }
    return true;
}

/* @place: where the code of turn n is. */
static void hand_over(uint8_t *(*place)(uint32_t n))
{
    turn = 0;
    for (unsigned i = 1; i < CPUS; i++) {
        answers[i] = 0;
        smp_run(i, follow, NULL);
    }
    for (uint32_t n = 1; n <= TURNS; n++) {
        uint8_t *at = place(n);
        put_constant(at, n * 3);
        fresh = at;
        __atomic_store_n(&turn, n, __ATOMIC_SEQ_CST);
        if (!WAIT_UNTIL(all_answered(n))) {
            CHECK(!"all run the new code");
            break;
        }
    }
    __atomic_store_n(&turn, TURNS, __ATOMIC_SEQ_CST); /* whoever waits goes on */
    for (unsigned i = 1; i < CPUS; i++) {
        smp_wait(i);
    }
}

static uint8_t *one_place(uint32_t n)
{
    (void)n;
    return area + 64;
}

static uint8_t *other_pages(uint32_t n)
{
    return area + n % 8 * PAGE + 64;
}

static uint8_t *through_the_area(uint32_t n)
{
    return area + n * 8 % sizeof(area);
}

GUEST_TEST(code_in_one_place_is_handed_over)
{
    if (begin(CPUS)) {
        hand_over(one_place);
    }
}

GUEST_TEST(code_in_changing_pages_is_handed_over)
{
    if (begin(CPUS)) {
        hand_over(other_pages);
    }
}

GUEST_TEST(fresh_code_is_handed_over)
{
    if (begin(CPUS)) {
        hand_over(through_the_area);
    }
}

/* --- Data beside code that others run ------------------------------------------- */

enum { ROUNDS = 20000 };

static volatile uint32_t stop, wrong;

static void run_first(void *arg)
{
    (void)arg;
    uint32_t last = 0;
    while (!stop) {
        serialise();
        uint32_t got = call(area);
        wrong += got < last || got > 50;
        last = got;
        answers[guest_cpu()]++;
    }
}

/* One counts in the page whose code the others run, and sometimes changes that. */
GUEST_TEST(data_beside_code_of_others_counts)
{
    if (!begin(CPUS)) {
        return;
    }
    volatile uint64_t *data = (volatile uint64_t *)(area + 128);
    put_constant(area, 0);
    *data = 0;
    stop = wrong = 0;
    for (unsigned i = 1; i < CPUS; i++) {
        answers[i] = 0;
        smp_run(i, run_first, NULL);
    }
    for (uint32_t n = 1; n <= 50; n++) {
        for (unsigned k = 0; k < ROUNDS / 50; k++) {
            *data += 1;
        }
        put_constant(area, n);
        serialise();
        CHECK_EQ(call(area), n);
        uint32_t seen[CPUS] = {0, answers[1], answers[2], answers[3]};
        if (n % 10 == 0) {
            for (unsigned i = 1; i < CPUS; i++) {
                CHECK(WAIT_UNTIL(answers[i] >= seen[i] + 2));
            }
        }
    }
    stop = 1;
    for (unsigned i = 1; i < CPUS; i++) {
        smp_wait(i);
    }
    CHECK_EQ(*data, ROUNDS / 50 * 50);
    CHECK_EQ(wrong, 0);
}

/* All count beside code that all run: each in a line of its own. */
static void count_and_run(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu();
    volatile uint32_t *mine = (volatile uint32_t *)(area + 64 + 64 * cpu);
    smp_barrier(CPUS);
    for (uint32_t n = 1; n <= ROUNDS; n++) {
        *mine += call(area);
    }
}

GUEST_TEST(all_count_beside_code_that_all_run)
{
    if (!begin(CPUS)) {
        return;
    }
    put_constant(area, 1);
    for (unsigned i = 0; i < CPUS; i++) {
        *(volatile uint32_t *)(area + 64 + 64 * i) = 0;
    }
    smp_run_all(CPUS, count_and_run, NULL);
    cli();
    for (unsigned i = 0; i < CPUS; i++) {
        CHECK_EQ(*(volatile uint32_t *)(area + 64 + 64 * i), ROUNDS);
    }
}

/* --- Processors that sleep ------------------------------------------------------- */

static void run_area(void *arg)
{
    for (unsigned i = 0; i < 60; i++) {
        *(uint32_t *)arg = call(area);
    }
}

static void sleep_for_good(void *arg)
{
    call(area);
    *(volatile bool *)arg = true;
    cli();
    for (;;) {
        __asm__ volatile("hlt");
    }
}

/* Those that have run the code sleep: with interrupts on, and for good. Nobody waits
 * for them, and what they run when they wake is new. */
GUEST_TEST(changing_code_waits_for_nobody_who_sleeps)
{
    if (!begin(CPUS)) {
        return;
    }
    static volatile bool asleep;
    uint32_t got[CPUS];
    put_constant(area, 0);
    for (unsigned i = 1; i < CPUS; i++) {
        smp_run(i, run_area, &got[i]);
        smp_wait(i);
    }
    asleep = false;
    smp_run(CPUS - 1, sleep_for_good, (void *)&asleep);
    CHECK(WAIT_UNTIL(asleep));
    uint64_t began = rdtsc();
    for (uint32_t n = 1; n <= 800; n++) {
        put_constant(area, n);
        CHECK_EQ(call(area), n);
        /* Another page becomes code, for which everybody forgets stores to it. */
        uint8_t *other = area + (1 + n % 7) * PAGE + n % 500 * 8;
        put_constant(other, n);
        CHECK_EQ(call(other), n);
    }
    CHECK(!smp_timed_out(began, 8000));
    for (unsigned i = 1; i < CPUS - 1; i++) {
        smp_run(i, run_area, &got[i]);
        smp_wait(i);
        CHECK_EQ(got[i], 800);
    }
    smp_restart(CPUS - 1);
    smp_run(CPUS - 1, run_area, &got[CPUS - 1]);
    smp_wait(CPUS - 1);
    CHECK_EQ(got[CPUS - 1], 800);
}

/* A LOCKed operand over a page's border stops the others: not those that sleep. */
GUEST_TEST(locks_over_pages_wait_for_nobody_who_sleeps)
{
    if (!begin(CPUS)) {
        return;
    }
    static volatile bool asleep;
    put_constant(area, 0);
    asleep = false;
    smp_run(CPUS - 1, sleep_for_good, (void *)&asleep);
    CHECK(WAIT_UNTIL(asleep));
    volatile uint32_t *split = (volatile uint32_t *)(area + 3 * PAGE - 2);
    *split = 0;
    uint64_t began = rdtsc();
    for (uint32_t n = 0; n < 3000; n++) {
        __asm__ volatile("lock incl %0" : "+m"(*split) : : "cc");
    }
    CHECK(!smp_timed_out(began, 8000));
    CHECK_EQ(*split, 3000);
    smp_restart(CPUS - 1);
}

/* --- Other addresses of the same memory ----------------------------------------- */

GUEST_TEST(stores_through_another_address_change_code)
{
    if (!begin(1)) {
        return;
    }
    *guest_pte(3) = (uint64_t)area | PTE_P | PTE_W;
    invlpg(WINDOW + 3 * PAGE);
    for (uint32_t n = 0; n < 400; n++) {
        put_constant((void *)(WINDOW + 3 * PAGE + 64), n / 3);
        CHECK_EQ(call(area + 64), n / 3);
        CHECK_EQ(call((void *)(WINDOW + 3 * PAGE + 64)), n / 3);
    }
}

/* One address, and by turns two pages with other code behind it: alone, and as what
 * another page's branch leads to. */
GUEST_TEST(another_page_behind_an_address_is_other_code)
{
    if (!begin(1)) {
        return;
    }
    uint8_t *caller = (uint8_t *)WINDOW + 5 * PAGE + 0xff0;
    *guest_pte(5) = (uint64_t)(area + 2 * PAGE) | PTE_P | PTE_W;
    invlpg(WINDOW + 5 * PAGE);
    put_constant(area + 64, 100);
    put_constant(area + PAGE + 64, 200);
    uint64_t target = WINDOW + 6 * PAGE + 64;
    caller[0] = 0xe9; /* jmp rel32 into the next page */
    *(volatile uint32_t *)(caller + 1) = (uint32_t)(target - (uint64_t)(caller + 5));
    for (uint32_t n = 0; n < 400; n++) {
        unsigned which = n / 3 & 1;
        *guest_pte(6) = (uint64_t)(area + which * PAGE) | PTE_P | PTE_W;
        if (n & 1) {
            invlpg(target);
        } else {
            guest_flush_tlb();
        }
        CHECK_EQ(call((void *)target), which ? 200 : 100);
        CHECK_EQ(call(caller), which ? 200 : 100);
    }
}

/* --- By a device ------------------------------------------------------------------ */

/* fw_cfg's DMA (QEMU, docs/specs/fw_cfg): reads a file, here the signature "QEMU", into
 * memory that is code. Selector 0 is the signature. */
static struct {
    uint32_t control, length;
    uint64_t address;
} dma __attribute__((aligned(16)));

static bool device_writes(void *to, uint32_t len)
{
    dma.control = __builtin_bswap32(0 << 16 | 8 | 2); /* select 0, read */
    dma.length = __builtin_bswap32(len);
    dma.address = __builtin_bswap64((uint64_t)to);
    __asm__ volatile("" : : : "memory");
    uint64_t at = (uint64_t)&dma;
    __asm__ volatile("outl %0, %1"
                     :
                     : "a"(__builtin_bswap32((uint32_t)(at >> 32))),
                       "Nd"((uint16_t)0x514));
    __asm__ volatile("outl %0, %1"
                     :
                     : "a"(__builtin_bswap32((uint32_t)at)), "Nd"((uint16_t)0x518)
                     : "memory");
    return WAIT_UNTIL(*(volatile uint32_t *)&dma.control == 0);
}

static bool has_fw_cfg(void)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"((uint16_t)0x514));
    return v == 0x554d4551; /* "QEMU", of "QEMU CFG" in big endian */
}

/* Beside data (the page is compared) or not; changed by the device for all. */
static void device_changes(uint8_t *at, bool beside)
{
    uint32_t there = 0;
    const uint32_t signature = 0x554d4551;
    if (beside) {
        for (unsigned n = 0; n < 20000; n++) {
            *(volatile uint32_t *)(at + 64) += call(at);
        }
    }
    for (uint32_t n = 0; n < 100; n++) {
        put_constant(at, n);
        CHECK_EQ(call(at), n);
        smp_run(1, run_area, &there);
        smp_wait(1);
        CHECK_EQ(there, n);
        if (!device_writes(at + 1, 4)) {
            CHECK(!"the device answers");
            return;
        }
        serialise();
        CHECK_EQ(call(at), signature);
        smp_run(1, run_area, &there);
        smp_wait(1);
        CHECK_EQ(there, signature);
    }
}

GUEST_TEST(code_read_from_a_device_takes_effect)
{
    if (!begin(2)) {
        return;
    }
    if (!has_fw_cfg()) {
        guest_skip("no fw_cfg device with DMA");
        return;
    }
    put_constant(area, 1);
    device_changes(area, false);
    put_constant(area, 1);
    device_changes(area, true);
}
