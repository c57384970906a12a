/*
 * Several processors and the same memory: locked operations with exact totals, and the
 * orders of loads and stores that the memory model allows and forbids (SDM vol. 3,
 * "Memory Ordering"; APM vol. 2, 7.2). With 2 or 4 processors; rounds=N and batches=N
 * on the command line say how often, patience=N how long they wait for each other
 * without letting go of the host's processors, for `./dev test litmus`.
 */
#include "tests/guest/lib/smp.h"

enum { CPUS = 4 };

static unsigned cpus;   /* that take part: 2 or 4 */
static unsigned rounds; /* of a locked operation, by each */

static void flush(void *arg)
{
    (void)arg;
    guest_flush_tlb();
}

static bool begin(unsigned wanted)
{
    cpus = smp_start() < CPUS ? 2 : CPUS;
    rounds = guest_option("rounds", 20000);
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
    smp_barrier(cpus);
    for (unsigned i = 0; i < rounds; i++) {
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
    if (!begin(2)) {
        return;
    }
    clear_m();
    smp_run_all(cpus, count_locked, NULL);
    cli();
    uint64_t n = (uint64_t)cpus * rounds;
    CHECK_EQ(m.xadd, n);
    CHECK_EQ(m.tickets[0] + m.tickets[1] + m.tickets[2] + m.tickets[3],
             n * (n - 1) / 2);
    CHECK_EQ(m.add, 3 * n);
    CHECK_EQ(m.sub, (uint32_t)-n);
    CHECK_EQ(m.inc, n);
    for (unsigned i = 0; i < cpus; i++) {
        CHECK_EQ(m.bytes[i], rounds & 0xff);
    }
}

static void count_cmpxchg(void *arg)
{
    (void)arg;
    smp_barrier(cpus);
    for (unsigned i = 0; i < rounds; i++) {
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
    if (!begin(2)) {
        return;
    }
    clear_m();
    smp_run_all(cpus, count_cmpxchg, NULL);
    cli();
    CHECK_EQ(m.cmpxchg, (uint64_t)cpus * rounds);
    CHECK_EQ((uint32_t)m.cmpxchg8b, (uint32_t)(cpus * rounds));
    CHECK_EQ(m.pair[0], (uint64_t)cpus * rounds);
    CHECK_EQ(m.pair[1], 5 * (uint64_t)cpus * rounds);
}

/* BTS, BTR and BTC on bits of their own in a common word, and BTS and XCHG as locks
 * around a counter that is not atomic itself. */
static void toggle_bits(void *arg)
{
    (void)arg;
    uint64_t cpu = guest_cpu();
    smp_barrier(cpus);
    for (unsigned i = 0; i < rounds; i++) {
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
    if (!begin(2)) {
        return;
    }
    clear_m();
    smp_run_all(cpus, toggle_bits, NULL);
    cli();
    CHECK_EQ(m.bits, 0);
    CHECK_EQ(m.guarded, (uint64_t)cpus * rounds);
    CHECK_EQ(m.neg, (uint64_t)cpus * rounds);
}

/* Locks made of XADD (tickets) and of CMPXCHG around words that are not atomic. */
static struct {
    volatile uint32_t next, serving, taken;
    volatile uint64_t a[4], b[4];
} mutexes __attribute__((aligned(64)));

static void count_guarded(void *arg)
{
    (void)arg;
    smp_barrier(cpus);
    for (unsigned i = 0; i < rounds / 2; i++) {
        uint32_t ticket = 1;
        LOCKED("xaddl %0, %1", "+r"(ticket), "+m"(mutexes.next) :);
        while (mutexes.serving != ticket) {
            cpu_pause();
        }
        for (unsigned k = 0; k < 4; k++) {
            SMP_CHECK_EQ(mutexes.a[k], mutexes.a[0] - (k != 0));
            mutexes.a[k]++;
        }
        mutexes.serving = ticket + 1;
        uint32_t was;
        do {
            was = 0;
            LOCKED("cmpxchgl %2, %1", "+a"(was), "+m"(mutexes.taken) : "r"(1));
            if (was) {
                cpu_pause();
            }
        } while (was);
        for (unsigned k = 4; k-- > 0;) {
            mutexes.b[k] += k + 1;
        }
        mutexes.taken = 0;
    }
}

GUEST_TEST(mutexes_guard_what_is_not_atomic)
{
    if (!begin(2)) {
        return;
    }
    memset((void *)&mutexes, 0, sizeof(mutexes));
    smp_run_all(cpus, count_guarded, NULL);
    cli();
    for (unsigned k = 0; k < 4; k++) {
        CHECK_EQ(mutexes.a[k], (uint64_t)cpus * (rounds / 2));
        CHECK_EQ(mutexes.b[k], (uint64_t)cpus * (rounds / 2) * (k + 1));
    }
}

/* Operands over the end of a line, and of a page whose successor is elsewhere. */
static void count_split(void *arg)
{
    uint8_t *line = (uint8_t *)WINDOW + 61, *page = (uint8_t *)WINDOW + 4096 - 3;
    (void)arg;
    smp_barrier(cpus);
    for (unsigned i = 0; i < rounds / 4; i++) {
        LOCKED("addq $1, %0", "+m"(*(uint64_t *)line) :);
        LOCKED("incl %0", "+m"(*(uint32_t *)page) :);
        uint64_t one = 1;
        LOCKED("xaddq %0, %1", "+r"(one), "+m"(*(uint64_t *)(page + 4096)) :);
    }
}

GUEST_TEST(locked_operations_across_lines_and_pages_lose_nothing)
{
    if (!begin(2)) {
        return;
    }
    static const uint8_t order[] = {3, 9, 5};
    for (unsigned i = 0; i < 3; i++) {
        *guest_pte(i) = (uint64_t)guest_page(order[i]) | PTE_P | PTE_W;
    }
    smp_run_all(cpus, count_split, NULL);
    cli();
    uint64_t n = (uint64_t)cpus * (rounds / 4);
    CHECK_EQ(*(uint64_t *)(WINDOW + 61), n);
    CHECK_EQ(*(uint32_t *)(WINDOW + 4096 - 3), n);
    CHECK_EQ(*(uint64_t *)(WINDOW + 2 * 4096 - 3), n);
    CHECK_EQ(guest_page(3)[4095], (n >> 16) & 0xff);
    CHECK_EQ(guest_page(9)[0], n >> 24);
}

/* --- Order -------------------------------------------------------------------- */

enum { CELLS = 128 };

static unsigned batches;
static unsigned patience; /* turns of a loop to wait for others before PAUSE */

static struct cell {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
    volatile uint32_t gate __attribute__((aligned(64))); /* how many are here */
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

/* Begin with cell @c when the others do, unless they are not running just now. */
static void meet(struct cell *c, unsigned n)
{
    __atomic_fetch_add(&c->gate, 1, __ATOMIC_SEQ_CST);
    for (unsigned spins = 0; spins < 200 && c->gate < n; spins++) {
        __asm__ volatile("" : : : "memory");
    }
}

/*
 * As smp_barrier(), but processors that run leave it at the same moment: whoever waits
 * says so (PAUSE, for which the host may run something else) only after a while. After
 * a long one if @patient, so that the host comes to run them at the same time.
 */
static void start_together(unsigned n, bool patient)
{
    static uint32_t heres[CPUS + 1]; /* by n */
    uint32_t *here = &heres[n], mine = __atomic_fetch_add(here, 1, __ATOMIC_SEQ_CST);
    uint32_t full = (mine / n + 1) * n;
    /* More than two may be more than the host has processors. */
    unsigned turns = patient ? 100 * patience : n == 2 ? patience : patience / 20;
    for (unsigned spins = 0;
         (int32_t)(__atomic_load_n(here, __ATOMIC_SEQ_CST) - full) < 0; spins++) {
        if (spins > turns) {
            cpu_pause();
        }
    }
}

static void delay(unsigned turns)
{
    for (volatile unsigned d = 0; d < turns; d++) {
    }
}

/*
 * All processors have the batch's lines for reading: a store waits for the others to
 * give theirs up, long enough for the load behind it to be done first.
 */
static void share_lines(void)
{
    for (unsigned i = 0; i < CELLS; i++) {
        (void)cells[i].x;
        (void)cells[i].y;
    }
}

/* How the processors come to the cells of batch b: b % 4. */
enum { SHARED, SHARED_LATE, MEETING, OPPOSITE };

static void run_shape(void *arg)
{
    (void)arg;
    unsigned cpu = guest_cpu(), n = shape->cpus;
    for (unsigned b = 0; b < batches; b++) {
        unsigned way = b % 4;
        start_together(n, false);
        if (way == SHARED || way == SHARED_LATE) {
            share_lines();
        }
        start_together(n, b % (n == 2 ? 16 : 128) == 0);
        if (way != SHARED) {
            delay(b / 4 * (cpu + 1) % 32);
        }
        for (unsigned i = 0; i < CELLS; i++) {
            unsigned k = cpu & 1 && way == OPPOSITE ? CELLS - 1 - i : i;
            if (way == MEETING) {
                meet(&cells[k], n);
            }
            seen[cpu][k] = (uint8_t)shape->part(cpu, &cells[k]);
        }
        start_together(n, false);
        if (cpu == 0) {
            for (unsigned i = 0; i < CELLS; i++) {
                uint8_t s[CPUS] = {seen[0][i], seen[1][i], seen[2][i], seen[3][i]};
                odd_count += shape->odd(s, &cells[i]);
                cells[i].x = cells[i].y = 0;
                cells[i].gate = 0;
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
    batches = guest_option("batches", 1000);
    patience = guest_option("patience", 100);
    for (unsigned i = 0; i < CELLS; i++) {
        cells[i].x = cells[i].y = 0;
        cells[i].gate = 0;
    }
    smp_run_all(s->cpus, run_shape, NULL);
    cli();
    guest_printf("# %s: %lu of %lu, %s\n", s->name, odd_count,
                 (uint64_t)CELLS * batches, s->forbidden ? "forbidden" : "allowed");
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

/* The same location: once it was new it does not become old again. */
static unsigned corr(unsigned cpu, struct cell *c)
{
    if (cpu) {
        uint64_t first = c->x;
        return (unsigned)(first | c->x << 1);
    }
    c->x = 1;
    return 0;
}

static bool new_then_old(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[1] == 1;
}

GUEST_TEST(one_location_has_one_order)
{
    litmus(&(struct shape){"CoRR", 2, corr, new_then_old, true});
}

static unsigned s_shape(unsigned cpu, struct cell *c)
{
    if (cpu) {
        uint64_t r = c->y;
        c->x = 1;
        return (unsigned)r;
    }
    c->x = 2;
    c->y = 1;
    return 0;
}

static bool store_overtaken(const uint8_t *s, const struct cell *c)
{
    return s[1] == 1 && c->x == 2;
}

GUEST_TEST(stores_after_a_load_come_after_what_it_saw)
{
    litmus(&(struct shape){"S", 2, s_shape, store_overtaken, true});
}

static unsigned r_shape(unsigned cpu, struct cell *c)
{
    if (cpu) {
        c->y = 2;
        return (unsigned)c->x;
    }
    c->x = 1;
    c->y = 1;
    return 0;
}

static unsigned r_mfence(unsigned cpu, struct cell *c)
{
    if (cpu) {
        c->y = 2;
        __asm__ volatile("mfence" : : : "memory");
        return (unsigned)c->x;
    }
    return r_shape(cpu, c);
}

static unsigned r_locked(unsigned cpu, struct cell *c)
{
    if (cpu) {
        c->y = 2;
        __asm__ volatile("lock orl $0, (%%rsp)" : : : "cc", "memory");
        return (unsigned)c->x;
    }
    return r_shape(cpu, c);
}

static bool last_store_saw_nothing(const uint8_t *s, const struct cell *c)
{
    return s[1] == 0 && c->y == 2;
}

GUEST_TEST(loads_may_pass_earlier_stores)
{
    litmus(&(struct shape){"R", 2, r_shape, last_store_saw_nothing, false});
}

GUEST_TEST(loads_do_not_pass_mfence)
{
    litmus(&(struct shape){"R+mfence", 2, r_mfence, last_store_saw_nothing, true});
}

GUEST_TEST(loads_do_not_pass_locked_operations)
{
    litmus(&(struct shape){"R+lock", 2, r_locked, last_store_saw_nothing, true});
}

static unsigned wrc(unsigned cpu, struct cell *c)
{
    uint64_t first;
    switch (cpu) {
    case 0: c->x = 1; return 0;
    case 1:
        first = c->x;
        c->y = first;
        return (unsigned)first;
    case 2: first = c->y; return (unsigned)(first | c->x << 1);
    default: return 0;
    }
}

static bool cause_not_seen(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[1] == 1 && s[2] == 1;
}

GUEST_TEST(who_sees_an_effect_sees_its_cause)
{
    litmus(&(struct shape){"WRC", 4, wrc, cause_not_seen, true});
}

/* The parts of a word that is stored whole are new or old together. */
static unsigned halves(unsigned cpu, struct cell *c)
{
    if (cpu) {
        uint64_t v = c->x;
        uint32_t low = (uint32_t)v, high = (uint32_t)(v >> 32);
        return low != high;
    }
    c->x = UINT64_C(0x100000001);
    return 0;
}

static bool half_a_store(const uint8_t *s, const struct cell *c)
{
    (void)c;
    return s[1] == 1;
}

GUEST_TEST(aligned_words_are_stored_whole)
{
    litmus(&(struct shape){"halves", 2, halves, half_a_store, true});
}
