/*
 * Several processors and the same memory: translations taken back with interrupts, code
 * that one processor changes while others run it, and code changed by a device. Locked
 * operations and the order of loads and stores are in smp_order.c, more of changed code
 * in smp_code.c.
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

/* The same code by 32-bit code in compatibility mode. */
static bool in_32;
__asm__(".pushsection .text\n.code32\n"
        "call_32: call *%edx\n"
        "lret\n"
        ".code64\n.popsection\n"
        ".pushsection .rodata\n"
        "far_32: .long call_32; .word 0x30\n"
        ".popsection");

static uint32_t call_patched(void)
{
    uint32_t (*fn)(void);
    uint32_t v;
    if (in_32) {
        __asm__ volatile("lcall *far_32" : "=a"(v) : "d"(patched) : "rcx", "memory");
        return v;
    }
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

static void store_into_running_code(uint32_t times)
{
    if (!begin(CPUS)) {
        return;
    }
    start_patching(run_patched, NULL);
    bool good = true;
    for (uint32_t g = 1; good && g <= times; g++) {
        *(volatile uint64_t *)patched = code_with(immediate(g));
        generation = g;
        good = patch_holds(g);
    }
    stop_patching();
}

GUEST_TEST(aligned_stores_into_running_code_are_seen_whole)
{
    store_into_running_code(PATCHES);
}

GUEST_TEST(aligned_stores_into_running_32_bit_code_are_seen_whole)
{
    in_32 = true;
    store_into_running_code(PATCHES / 8);
    in_32 = false;
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
    vq.avail.idx = vq.used.idx = 0;
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

static void write_code_by_device(void)
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

GUEST_TEST(code_written_by_a_device_takes_effect)
{
    write_code_by_device();
}

GUEST_TEST(code_of_32_bits_written_by_a_device_takes_effect)
{
    in_32 = true;
    write_code_by_device();
    in_32 = false;
}
