#ifndef TESTS_GUEST_LIB_SMP_H
#define TESTS_GUEST_LIB_SMP_H

#include "tests/guest/lib/guest.h"

/*
 * More than one processor: start them, give them functions to run, meet at barriers,
 * send interrupts. The number of processors comes from the kernel command line
 * (cpus=N); APIC IDs are 0 .. N - 1. Processor 0 runs the tests; the others sleep
 * in HLT until smp_run() sends them something to do.
 */

unsigned smp_cpus(void);

/* Start all processors that do not run yet. Returns how many run, this one too. */
unsigned smp_start(void);

/* Have processor @cpu run fn(arg), with interrupts on; wait until it has ended. */
void smp_run(unsigned cpu, void (*fn)(void *), void *arg);
void smp_wait(unsigned cpu);

/* fn(arg) on processors 0 .. n - 1 at the same time; returns when all have ended. */
void smp_run_all(unsigned n, void (*fn)(void *), void *arg);

/* Wait until @n processors are here. Not for two groups at a time. */
void smp_barrier(unsigned n);

/* As CHECK, for code that several processors run: one of them reports at a time. */
void smp_fail(const char *file, int line, const char *what, uint64_t a, uint64_t b);
#define SMP_CHECK(cond)                                \
    do {                                               \
        if (!(cond)) {                                 \
            smp_fail(__FILE__, __LINE__, #cond, 0, 0); \
        }                                              \
    } while (0)
#define SMP_CHECK_EQ(got, want)                                           \
    do {                                                                  \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);        \
        if (got_ != want_) {                                              \
            smp_fail(__FILE__, __LINE__, #got " == " #want, got_, want_); \
        }                                                                 \
    } while (0)

/* --- Interrupts ------------------------------------------------------------- */

/* How often each vector arrived at each processor: vectors 32 and up, and NMI. */
extern volatile uint32_t smp_irqs[GUEST_CPUS][256];

/* Vectors with a function of their own, called before EOI. */
extern void (*volatile smp_handler[256])(uint64_t *frame);

enum { SMP_WAKE = 0xf0 }; /* the vector that ends a processor's sleep */

/* --- The local APIC --------------------------------------------------------- */

enum {
    APIC_ID = 0x02,
    APIC_TPR = 0x08,
    APIC_EOI = 0x0b,
    APIC_LDR = 0x0d,
    APIC_DFR = 0x0e,
    APIC_SVR = 0x0f,
    APIC_ISR = 0x10,
    APIC_IRR = 0x20,
    APIC_ESR = 0x28,
    APIC_ICR = 0x30,
    APIC_LVT_TIMER = 0x32,
    APIC_TIMER_INITIAL = 0x38,
    APIC_TIMER_CURRENT = 0x39,
    APIC_TIMER_DIVIDE = 0x3e,
    APIC_SELF_IPI = 0x3f
};

enum {
    ICR_FIXED = 0 << 8,
    ICR_LOWEST = 1 << 8,
    ICR_NMI = 4 << 8,
    ICR_INIT = 5 << 8,
    ICR_SIPI = 6 << 8,
    ICR_LOGICAL = 1 << 11,
    ICR_ASSERT = 1 << 14,
    ICR_SELF = 1 << 18,
    ICR_ALL = 2 << 18,
    ICR_OTHERS = 3 << 18
};

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0 };

/* Registers by number, in the mode that the APIC of this processor is in. */
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t v);
void apic_icr(uint32_t icr, uint32_t dest);

/* Enable this processor's APIC: spurious vector 0xff, flat logical ID 1 << cpu. */
void apic_enable(void);

static inline void cpu_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void sti(void)
{
    __asm__ volatile("sti" : : : "memory");
}

/* Sleep until an interrupt, which STI lets in only after HLT has begun. */
static inline void sti_hlt_cli(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* TSC ticks in a millisecond, measured against the APIC timer (1 GHz at divide 1). */
uint64_t smp_tsc_per_ms(void);

/* Wait until @cond; false after ten seconds. */
bool smp_timed_out(uint64_t since, unsigned ms);
#define WAIT_UNTIL(cond)                                           \
    ({                                                             \
        uint64_t since_ = rdtsc();                                 \
        bool ok_;                                                  \
        while (!(ok_ = (cond)) && !smp_timed_out(since_, 10000)) { \
            cpu_pause();                                           \
        }                                                          \
        ok_;                                                       \
    })

/* Where a processor begins: what it found in its registers, and how often. */
struct smp_boot {
    uint32_t edx, cr0, cs;
};
extern volatile struct smp_boot smp_boot[GUEST_CPUS];
extern volatile uint32_t smp_boots[GUEST_CPUS];

/* INIT, then STARTUP, to @cpu alone; waits until it sleeps in its loop again. */
void smp_restart(unsigned cpu);

#endif
