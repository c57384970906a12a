/*
 * Several processors and the same memory: locked operations with exact totals, the
 * orders of loads and stores that the memory model allows and forbids (SDM vol. 3,
 * "Memory Ordering"; APM vol. 2, 7.2), translations taken back with interrupts, code
 * that one processor changes while others run it, and code changed by a device.
 */
#include "tests/guest/lib/smp.h"

enum { CPUS = 4 };

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
    /* The framework has emptied the window: for the other processors, too. */
    smp_run_all(wanted, flush, NULL);
    cli();
    return true;
}

/* --- Locked operations -------------------------------------------------------- */

enum { ROUNDS = 20000 };

static struct {
    uint64_t xadd, add, sub, inc, neg, cmpxchg, cmpxchg8b, bits, guarded, spin;
    uint64_t pair[2] __attribute__((aligned(16)));
    uint8_t bytes[8];
    uint64_t tickets[CPUS];
} m __attribute__((aligned(64)));

static void clear_m(void)
{
    for (unsigned i = 0; i < sizeof(m); i++) {
        ((volatile uint8_t *)&m)[i] = 0;
    }
}

#define LOCKED(text, ...) __asm__ volatile("lock " text:__VA_ARGS__ : "cc", "memory")

static void count_locked(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu();
    smp_barrier(CPUS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t one = 1;
        LOCKED("xaddq %0, %1", "+r"(one), "+m"(m.xadd) :);
        m.tickets[cpu] += one;
        LOCKED("addq $3, %0", "+m"(m.add) :);
        LOCKED("subl $1, %0", "+m"(*(uint32_t *)&m.sub) :);
        LOCKED("incq %0", "+m"(m.inc) :);
        LOCKED("incb %0", "+m"(m.bytes[cpu]) :);
    }
}

GUEST_TEST(locked_adds_lose_nothing)
{
    if (!begin(CPUS)) {
        return;
    }
    clear_m();
    smp_run_all(CPUS, count_locked, NULL);
    cli();
    uint64_t n = CPUS * ROUNDS;
    CHECK_EQ(m.xadd, n);
    CHECK_EQ(m.tickets[0] + m.tickets[1] + m.tickets[2] + m.tickets[3],
             n * (n - 1) / 2);
    CHECK_EQ(m.add, 3 * n);
    CHECK_EQ(m.sub, (uint32_t)-n);
    CHECK_EQ(m.inc, n);
    for (unsigned i = 0; i < CPUS; i++) {
        CHECK_EQ(m.bytes[i], ROUNDS & 0xff);
    }
}

static void count_cmpxchg(void *arg)
{
    (void)arg;
    smp_barrier(CPUS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t old = *(volatile uint64_t *)&m.cmpxchg, was;
        while (true) {
            was = old;
            LOCKED("cmpxchgq %2, %1", "+a"(old), "+m"(m.cmpxchg) : "r"(was + 1));
            if (old == was) {
                break;
            }
        }
        /* The two halves of the pairs go in step, or someone saw half a store. */
        uint32_t lo = 0, hi = 0;
        bool done;
        do {
            SMP_CHECK_EQ(lo * 7, hi);
            __asm__ volatile("lock cmpxchg8b %1; setz %0"
                             : "=q"(done), "+m"(m.cmpxchg8b), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 7)
                             : "cc", "memory");
        } while (!done);
        uint64_t l = 0, h = 0;
        do {
            SMP_CHECK_EQ(l * 5, h);
            __asm__ volatile("lock cmpxchg16b %1; setz %0"
                             : "=q"(done), "+m"(*(__uint128_t *)m.pair), "+a"(l),
                               "+d"(h)
                             : "b"(l + 1), "c"(h + 5)
                             : "cc", "memory");
        } while (!done);
    }
}

GUEST_TEST(compare_and_exchange_loses_nothing)
{
    if (!begin(CPUS)) {
        return;
    }
    clear_m();
    smp_run_all(CPUS, count_cmpxchg, NULL);
    cli();
    CHECK_EQ(m.cmpxchg, CPUS * ROUNDS);
    CHECK_EQ((uint32_t)m.cmpxchg8b, CPUS * ROUNDS);
    CHECK_EQ(m.pair[0], CPUS * ROUNDS);
    CHECK_EQ(m.pair[1], 5 * CPUS * ROUNDS);
}

/* BTS, BTR and BTC on bits of their own in a common word, and BTS and XCHG as locks
 * around a counter that is not atomic itself. */
static void toggle_bits(void *arg)
{
    (void)arg;
    uint64_t cpu = guest_cpu();
    smp_barrier(CPUS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        bool was;
        __asm__ volatile("lock btsq %2, %1; setc %0"
                         : "=q"(was), "+m"(m.bits)
                         : "r"(8 * cpu + i % 8)
                         : "cc", "memory");
        SMP_CHECK(!was);
        __asm__ volatile("lock btrq %2, %1; setc %0"
                         : "=q"(was), "+m"(m.bits)
                         : "r"(8 * cpu + i % 8)
                         : "cc", "memory");
        SMP_CHECK(was);
        LOCKED("btcq %1, %0", "+m"(m.bits) : "r"(32 + cpu));
        do {
            __asm__ volatile("lock btsl $0, %1; setc %0"
                             : "=q"(was), "+m"(*(uint32_t *)&m.spin)
                             :
                             : "cc", "memory");
            if (was) {
                cpu_pause();
            }
        } while (was);
        (*(volatile uint64_t *)&m.guarded)++;
        *(volatile uint32_t *)&m.spin = 0;
        uint32_t *other = (uint32_t *)&m.spin + 1, taken;
        do {
            taken = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(*other) : : "memory");
            if (taken) {
                cpu_pause();
            }
        } while (taken);
        (*(volatile uint64_t *)&m.neg)++;
        *(volatile uint32_t *)other = 0;
    }
}

GUEST_TEST(locked_bits_and_exchanges_exclude)
{
    if (!begin(CPUS)) {
        return;
    }
    clear_m();
    smp_run_all(CPUS, toggle_bits, NULL);
    cli();
    CHECK_EQ(m.bits, 0);
    CHECK_EQ(m.guarded, CPUS * ROUNDS);
    CHECK_EQ(m.neg, CPUS * ROUNDS);
}

/* Operands over the end of a line, and of a page whose successor is elsewhere. */
static void count_split(void *arg)
{
    uint8_t *line = (uint8_t *)WINDOW + 61, *page = (uint8_t *)WINDOW + 4096 - 3;
    (void)arg;
    smp_barrier(CPUS);
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        LOCKED("addq $1, %0", "+m"(*(uint64_t *)line) :);
        LOCKED("incl %0", "+m"(*(uint32_t *)page) :);
        uint64_t one = 1;
        LOCKED("xaddq %0, %1", "+r"(one), "+m"(*(uint64_t *)(page + 4096)) :);
    }
}

GUEST_TEST(locked_operations_across_lines_and_pages_lose_nothing)
{
    if (!begin(CPUS)) {
        return;
    }
    static const uint8_t order[] = {3, 9, 5};
    for (unsigned i = 0; i < 3; i++) {
        *guest_pte(i) = (uint64_t)guest_page(order[i]) | PTE_P | PTE_W;
    }
    smp_run_all(CPUS, count_split, NULL);
    cli();
    uint64_t n = CPUS * (ROUNDS / 4);
    CHECK_EQ(*(uint64_t *)(WINDOW + 61), n);
    CHECK_EQ(*(uint32_t *)(WINDOW + 4096 - 3), n);
    CHECK_EQ(*(uint64_t *)(WINDOW + 2 * 4096 - 3), n);
    CHECK_EQ(guest_page(3)[4095], (n >> 16) & 0xff);
    CHECK_EQ(guest_page(9)[0], n >> 24);
}

/* --- Order -------------------------------------------------------------------- */

enum { CELLS = 128, BATCHES = 1500 };

static struct cell {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
} cells[CELLS];
static uint8_t seen[CPUS][CELLS];

/* A shape: what each processor does with a cell, and which end is forbidden. seen is
 * what its loads gave, two bits each. */
struct shape {
    const char *name;
    unsigned cpus;
    unsigned (*part)(unsigned cpu, struct cell *c);
    bool (*odd)(const uint8_t *s, const struct cell *c);
    bool forbidden;
};

static const struct shape *shape;
static uint64_t odd_count;

static void run_shape(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu(), n = shape->cpus;
    for (unsigned b = 0; b < BATCHES; b++) {
        smp_barrier(n);
        for (volatile unsigned d = 0; d < (b * (cpu + 1)) % 32; d++) {
        }
        for (unsigned i = 0; i < CELLS; i++) {
            /* In every other batch they meet from opposite ends. */
            unsigned k = cpu & b & 1 ? CELLS - 1 - i : i;
            seen[cpu][k] = (uint8_t)shape->part(cpu, &cells[k]);
        }
        smp_barrier(n);
        if (cpu == 0) {
            for (unsigned i = 0; i < CELLS; i++) {
                uint8_t s[CPUS] = {seen[0][i], seen[1][i], seen[2][i], seen[3][i]};
                odd_count += shape->odd(s, &cells[i]);
                cells[i].x = cells[i].y = 0;
            }
        }
    }
}

static void litmus(const struct shape *s)
{
    if (!begin(s->cpus)) {
        return;
    }
    shape = s;
    odd_count = 0;
    for (unsigned i = 0; i < CELLS; i++) {
        cells[i].x = cells[i].y = 0;
    }
    smp_run_all(s->cpus, run_shape, NULL);
    cli();
    guest_printf("# %s: %lu of %d, %s\n", s->name, odd_count, CELLS * BATCHES,
                 s->forbidden ? "forbidden" : "allowed");
    if (s->forbidden) {
        CHECK_EQ(odd_count, 0);
    }
}

static unsigned sb(unsigned cpu, struct cell *c)
{
    if (cpu) {
        c->y = 1;
        return (unsigned)c->x;
    }
    c->x = 1;
    return (unsigned)c->y;
}

static unsigned sb_mfence(unsigned cpu, struct cell *c)
{
    volatile uint64_t *a = cpu ? &c->y : &c->x, *b = cpu ? &c->x : &c->y;
    *a = 1;
    __asm__ volatile("mfence" : : : "memory");
    return (unsigned)*b;
}

static unsigned sb_locked(unsigned cpu, struct cell *c)
{
    volatile uint64_t *a = cpu ? &c->y : &c->x, *b = cpu ? &c->x : &c->y;
    uint64_t v = 1;
    __asm__ volatile("xchgq %0, %1" : "+r"(v), "+m"(*a) : : "memory");
    return (unsigned)*b;
}

static bool both_zero(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[0] == 0 && s[1] == 0;
}

GUEST_TEST(store_buffering_is_allowed)
{
    litmus(&(struct shape){"SB", 2, sb, both_zero, false});
}

GUEST_TEST(store_buffering_ends_at_mfence)
{
    litmus(&(struct shape){"SB+mfence", 2, sb_mfence, both_zero, true});
}

GUEST_TEST(store_buffering_ends_at_a_locked_operation)
{
    litmus(&(struct shape){"SB+xchg", 2, sb_locked, both_zero, true});
}

static unsigned mp(unsigned cpu, struct cell *c)
{
    if (cpu) {
        uint64_t y = c->y;
        return (unsigned)(y | c->x << 1);
    }
    c->x = 1;
    c->y = 1;
    return 0;
}

static bool y_without_x(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[1] == 1;
}

GUEST_TEST(stores_are_seen_in_order)
{
    litmus(&(struct shape){"MP", 2, mp, y_without_x, true});
}

static unsigned lb(unsigned cpu, struct cell *c)
{
    uint64_t r;
    if (cpu) {
        r = c->y;
        c->x = 1;
    } else {
        r = c->x;
        c->y = 1;
    }
    return (unsigned)r;
}

static bool both_one(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[0] == 1 && s[1] == 1;
}

GUEST_TEST(loads_do_not_pass_later_stores)
{
    litmus(&(struct shape){"LB", 2, lb, both_one, true});
}

static unsigned two_writes(unsigned cpu, struct cell *c)
{
    volatile uint64_t *a = cpu ? &c->y : &c->x, *b = cpu ? &c->x : &c->y;
    *a = 1;
    *b = 2;
    return 0;
}

static bool both_first(const uint8_t *s, const struct cell *c)
{
    (void)s;
    return c->x == 1 && c->y == 1;
}

GUEST_TEST(stores_to_two_places_have_one_order)
{
    litmus(&(struct shape){"2+2W", 2, two_writes, both_first, true});
}

static unsigned iriw(unsigned cpu, struct cell *c)
{
    uint64_t first;
    switch (cpu) {
    case 0: c->x = 1; return 0;
    case 1: c->y = 1; return 0;
    case 2: first = c->x; return (unsigned)(first | c->y << 1);
    default: first = c->y; return (unsigned)(first | c->x << 1);
    }
}

static bool readers_disagree(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[2] == 1 && s[3] == 1;
}

GUEST_TEST(all_see_independent_stores_in_the_same_order)
{
    litmus(&(struct shape){"IRIW", 4, iriw, readers_disagree, true});
}

/* --- TLB shootdown ------------------------------------------------------------ */

enum { V_SHOOT = 0x71, SHOOTS = 500 };

static volatile uint32_t acks, shoot_stop;
static volatile uint64_t reads, faults;

static void shoot(uint64_t *frame)
{
    (void)frame;
    invlpg(WINDOW);
    __atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
}

static void read_window(void *arg)
{
    *(uint64_t *)arg = *(volatile uint64_t *)WINDOW;
}

static void keep_reading(void *arg)
{
    (void)arg;
    while (!shoot_stop) {
        struct trap t;
        uint64_t v = 0;
        if (guest_try(&t, read_window, &v)) {
            SMP_CHECK_EQ(t.vector, 14);
            SMP_CHECK_EQ(t.cr2, WINDOW);
            __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
        } else {
            if (v >> 32 != 0x600d) {
                smp_fail(__FILE__, __LINE__, "a stale page is read", v, reads);
                break;
            }
            __atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED);
        }
    }
}

GUEST_TEST(unmapped_pages_fault_everywhere_after_the_shootdown)
{
    if (!begin(CPUS)) {
        return;
    }
    shoot_stop = 0;
    reads = faults = 0;
    volatile uint64_t *pages[2] = {(void *)guest_page(4), (void *)guest_page(6)};
    smp_handler[V_SHOOT] = shoot;
    *pages[0] = UINT64_C(0x600d) << 32;
    *guest_pte(0) = (uint64_t)pages[0] | PTE_P | PTE_W;
    for (unsigned i = 1; i < CPUS; i++) {
        smp_run(i, keep_reading, NULL);
    }
    for (unsigned i = 0; i < SHOOTS; i++) {
        acks = 0;
        *guest_pte(0) = 0;
        invlpg(WINDOW);
        apic_icr(ICR_LOGICAL | ICR_ASSERT | V_SHOOT, 0x0e);
        CHECK(WAIT_UNTIL(acks == CPUS - 1));
        *pages[i & 1] = 0xdead; /* someone else's now */
        uint64_t seen_faults = faults;
        if (i % 8 == 0) {
            CHECK(WAIT_UNTIL(faults >= seen_faults + CPUS));
        }
        *pages[~i & 1] = UINT64_C(0x600d) << 32 | i;
        *guest_pte(0) = (uint64_t)pages[~i & 1] | PTE_P | PTE_W;
        if (i % 8 == 0) {
            uint64_t seen_reads = reads;
            CHECK(WAIT_UNTIL(reads >= seen_reads + CPUS));
        }
    }
    shoot_stop = 1;
    for (unsigned i = 1; i < CPUS; i++) {
        smp_wait(i);
    }
    guest_printf("# %lu reads, %lu faults\n", reads, faults);
    smp_handler[V_SHOOT] = NULL;
}

/* --- Code that changes -------------------------------------------------------- */

enum { V_SYNC = 0x72, PATCHES = 200 };

/* mov eax, imm32; ret; nop; nop. In a page of its own, 8-byte aligned. */
static uint8_t *patched;
static volatile uint64_t patch_stop, generation, calls[GUEST_CPUS], traps;

static uint64_t code_with(uint32_t imm)
{
    return 0xb8 | (uint64_t)imm << 8 | UINT64_C(0x9090c3) << 40;
}

static uint32_t immediate(uint32_t g)
{
    return (g & 0xff) * 0x01010101u;
}

static uint32_t call_patched(void)
{
    uint32_t (*fn)(void);
    __asm__("" : "=r"(fn) : "0"(patched));
    return fn();
}

static void serialise(void)
{
    uint32_t r[4];
    cpuid(0, 0, r);
}

/* Old or new or, in the middle of the change, the breakpoint; never a mixture. After
 * a serialising instruction nothing older than what was seen before it. */
static void run_patched(void *arg)
{
    bool breakpoints = arg != NULL;
    unsigned cpu = guest_cpu();
    while (!patch_stop) {
        uint64_t before = generation;
        serialise();
        uint32_t got = call_patched();
        uint64_t after = generation;
        calls[cpu]++;
        bool fits = breakpoints && got == 0x12345678;
        for (uint64_t g = before; g <= after + 1; g++) {
            fits |= got == immediate((uint32_t)g);
        }
        if (!fits) {
            smp_fail(__FILE__, __LINE__, "patched code", got, before);
            break;
        }
    }
}

static void start_patching(void (*fn)(void *), void *arg)
{
    patched = guest_page(8);
    patch_stop = generation = traps = 0;
    *(volatile uint64_t *)patched = code_with(immediate(0));
    for (unsigned i = 1; i < CPUS; i++) {
        calls[i] = 0;
        smp_run(i, fn, arg);
    }
}

static void stop_patching(void)
{
    patch_stop = 1;
    for (unsigned i = 1; i < CPUS; i++) {
        smp_wait(i);
        CHECK(calls[i] > 0);
    }
    guest_printf("# %d changes, %lu %lu %lu calls, %lu breakpoints\n", PATCHES,
                 calls[1], calls[2], calls[3], traps);
}

/* So that the others run the code between changes, too. */
static bool they_call(void)
{
    uint64_t seen1 = calls[1], seen2 = calls[2], seen3 = calls[3];
    return WAIT_UNTIL(calls[1] != seen1 && calls[2] != seen2 && calls[3] != seen3);
}

/* Generation @g stands: it is what this processor finds, and the others go on. */
static bool patch_holds(uint32_t g)
{
    uint32_t got = call_patched();
    CHECK_EQ(got, immediate(g));
    bool alive = g % 16 || they_call();
    CHECK(alive);
    return alive && got == immediate(g);
}

GUEST_TEST(aligned_stores_into_running_code_are_seen_whole)
{
    if (!begin(CPUS)) {
        return;
    }
    start_patching(run_patched, NULL);
    bool good = true;
    for (uint32_t g = 1; good && g <= PATCHES; g++) {
        *(volatile uint64_t *)patched = code_with(immediate(g));
        generation = g;
        good = patch_holds(g);
    }
    stop_patching();
}

static void breakpoint(uint64_t *frame)
{
    if (frame[18] != (uint64_t)patched + 1) {
        guest_fail(__FILE__, __LINE__, "breakpoint elsewhere", frame[18], 0);
    }
    frame[0] = 0x12345678;
    frame[18] = (uint64_t)patched + 5; /* the ret */
    __atomic_fetch_add(&traps, 1, __ATOMIC_RELAXED);
}

static void sync(uint64_t *frame)
{
    (void)frame;
    serialise();
    __atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
}

static void sync_others(void)
{
    acks = 0;
    apic_icr(ICR_LOGICAL | ICR_ASSERT | V_SYNC, 0x0e);
    CHECK(WAIT_UNTIL(acks == CPUS - 1));
}

/* A breakpoint first, then the rest byte by byte, then the first byte. */
GUEST_TEST(code_patched_through_a_breakpoint_is_never_torn)
{
    if (!begin(CPUS)) {
        return;
    }
    smp_handler[3] = breakpoint;
    smp_handler[V_SYNC] = sync;
    start_patching(run_patched, (void *)1);
    bool good = true;
    for (uint32_t g = 1; good && g <= PATCHES; g++) {
        volatile uint8_t *p = patched;
        p[0] = 0xcc;
        sync_others();
        for (unsigned i = 1; i <= 4; i++) {
            p[i] = (uint8_t)g;
        }
        if (g % 16 == 0) {
            CHECK(they_call());
        }
        sync_others();
        p[0] = 0xb8;
        sync_others();
        generation = g;
        good = patch_holds(g);
    }
    stop_patching();
    CHECK(traps > 0);
    smp_handler[3] = smp_handler[V_SYNC] = NULL;
}

/* --- Code that a device changes ------------------------------------------------ */

/* virtio 1.2, 4.2.2 and 5.4; queue 0 with one descriptor, polled. */
static struct {
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } desc[4];
    struct {
        volatile uint16_t flags, idx, ring[4];
    } avail;
    struct {
        volatile uint16_t flags, idx;
        volatile struct {
            uint32_t id, len;
        } ring[4];
    } used __attribute__((aligned(8)));
} vq __attribute__((aligned(4096)));

static volatile uint32_t *find_rng(void)
{
    for (uint64_t base = 0xfeb00000; base < 0xfeb04000; base += 0x200) {
        volatile uint32_t *r = (volatile uint32_t *)base;
        if (r[0] == 0x74726976 && r[1] == 2 && r[2] == 4) {
            return r;
        }
    }
    return NULL;
}

static void set_up_rng(volatile uint32_t *r)
{
    r[0x70 / 4] = 0;
    r[0x70 / 4] = 3; /* ACKNOWLEDGE, DRIVER */
    r[0x24 / 4] = 1; /* features 32..63: VERSION_1 */
    r[0x20 / 4] = 1;
    r[0x24 / 4] = 0;
    r[0x20 / 4] = 0;
    r[0x70 / 4] = 11; /* FEATURES_OK */
    r[0x30 / 4] = 0;
    r[0x38 / 4] = 4;
    r[0x80 / 4] = (uint32_t)(uint64_t)vq.desc;
    r[0x84 / 4] = 0;
    r[0x90 / 4] = (uint32_t)(uint64_t)&vq.avail;
    r[0x94 / 4] = 0;
    r[0xa0 / 4] = (uint32_t)(uint64_t)&vq.used;
    r[0xa4 / 4] = 0;
    r[0x44 / 4] = 1;
    r[0x70 / 4] = 15;
}

static void call_into(void *arg)
{
    *(uint32_t *)arg = call_patched();
}

GUEST_TEST(code_written_by_a_device_takes_effect)
{
    if (!begin(2)) {
        return;
    }
    volatile uint32_t *rng = find_rng();
    if (!rng) {
        guest_skip("no virtio-mmio entropy device");
        return;
    }
    set_up_rng(rng);
    patched = guest_page(8);
    *(volatile uint64_t *)patched = code_with(0);
    vq.desc[0].addr = (uint64_t)patched + 1;
    vq.desc[0].len = 4;
    vq.desc[0].flags = 2; /* the device writes */
    uint32_t last = 0, changes = 0;
    for (unsigned i = 1; i <= 200; i++) {
        uint32_t here = call_patched(), there = 0;
        smp_run(1, call_into, &there);
        smp_wait(1);
        vq.avail.ring[(i - 1) & 3] = 0;
        vq.avail.idx = (uint16_t)i;
        rng[0x50 / 4] = 0;
        if (!WAIT_UNTIL(vq.used.idx == (uint16_t)i)) {
            CHECK(!"the device answers");
            break;
        }
        uint32_t want = *(volatile uint32_t *)(patched + 1);
        here = call_patched();
        smp_run(1, call_into, &there);
        smp_wait(1);
        CHECK_EQ(here, want);
        CHECK_EQ(there, want);
        changes += want != last;
        last = want;
    }
    CHECK(changes > 190); /* random words do not repeat */
    rng[0x70 / 4] = 0;
}
