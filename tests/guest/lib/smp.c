/* Starting processors and giving them work: see smp.h. */
#include "tests/guest/lib/smp.h"

#define TRAMPOLINE 0x80000 /* below 1 MiB, page aligned; no boot data there */
#define APIC_MMIO  UINT64_C(0xfee00000)

extern const uint8_t smp_trampoline[], smp_trampoline_end[];
void smp_ap_main(unsigned cpu, uint32_t edx, uint32_t cr0, uint32_t cs);

/* posted and done count the functions given and ended. */
static struct {
    void (*volatile fn)(void *);
    void *volatile arg;
    volatile uint32_t posted, done;
    volatile bool idle;
} __attribute__((aligned(64))) mail[GUEST_CPUS];

volatile uint32_t smp_irqs[GUEST_CPUS][256];
void (*volatile smp_handler[256])(uint64_t *frame);
volatile struct smp_boot smp_boot[GUEST_CPUS];
volatile uint32_t smp_boots[GUEST_CPUS];
static uint32_t printing;

/* --- The local APIC ---------------------------------------------------------- */

static bool in_x2apic(void)
{
    return rdmsr(MSR_APIC_BASE) & 1 << 10;
}

uint32_t apic_read(unsigned reg)
{
    return in_x2apic() ? (uint32_t)rdmsr(0x800 + reg)
                       : *(volatile uint32_t *)(APIC_MMIO + 16 * reg);
}

void apic_write(unsigned reg, uint32_t v)
{
    if (in_x2apic()) {
        wrmsr(0x800 + reg, v);
    } else {
        *(volatile uint32_t *)(APIC_MMIO + 16 * reg) = v;
    }
}

void apic_icr(uint32_t icr, uint32_t dest)
{
    if (in_x2apic()) {
        wrmsr(0x800 + APIC_ICR, icr | (uint64_t)dest << 32);
    } else {
        apic_write(APIC_ICR + 1, dest << 24);
        apic_write(APIC_ICR, icr);
    }
}

void apic_enable(void)
{
    if (!in_x2apic()) {
        apic_write(APIC_DFR, 0xffffffff);
        apic_write(APIC_LDR, 1u << (24 + guest_cpu()));
    }
    apic_write(APIC_TPR, 0);
    apic_write(APIC_SVR, 0x1ff);
}

static bool on_trap(unsigned vector, uint64_t *frame)
{
    void (*fn)(uint64_t *) = smp_handler[vector];
    if (vector < 32 && vector != 2 && !fn) {
        return false;
    }
    /* First: who waits for the count, or for what the handler does, finds this
     * processor's priority as it was. No other interrupt comes in before IRET. */
    if (vector >= 32 && vector != 0xff) {
        apic_write(APIC_EOI, 0);
    }
    smp_irqs[guest_cpu()][vector]++;
    if (fn) {
        fn(frame);
    }
    return true;
}

/* --- Processors -------------------------------------------------------------- */

unsigned smp_cpus(void)
{
    unsigned n = guest_option("cpus", 1);
    return n < GUEST_CPUS ? n : GUEST_CPUS;
}

void smp_ap_main(unsigned cpu, uint32_t edx, uint32_t cr0, uint32_t cs)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idt = {sizeof(guest_idt) - 1, (uint64_t)guest_idt};
    __asm__ volatile("lidt %0" : : "m"(idt));
    smp_boot[cpu].edx = edx;
    smp_boot[cpu].cr0 = cr0;
    smp_boot[cpu].cs = cs;
    apic_enable();
    mail[cpu].done = mail[cpu].posted; /* what it was doing before INIT is void */
    mail[cpu].idle = true;
    smp_boots[cpu]++;
    for (;;) {
        while (mail[cpu].done == mail[cpu].posted) {
            sti_hlt_cli();
        }
        sti();
        mail[cpu].fn(mail[cpu].arg);
        cli();
        mail[cpu].done++;
    }
}

void smp_restart(unsigned cpu)
{
    uint32_t before = smp_boots[cpu];
    __builtin_memcpy((void *)TRAMPOLINE, smp_trampoline,
                     (size_t)(smp_trampoline_end - smp_trampoline));
    apic_icr(ICR_INIT | ICR_ASSERT, cpu);
    apic_icr(ICR_SIPI | ICR_ASSERT | TRAMPOLINE >> 12, cpu);
    while (smp_boots[cpu] == before) {
        cpu_pause();
    }
}

unsigned smp_start(void)
{
    unsigned n = smp_cpus();
    guest_trap_hook = on_trap;
    apic_enable();
    for (unsigned i = 1; i < n; i++) {
        if (!smp_boots[i]) {
            smp_restart(i);
        }
    }
    return n;
}

void smp_run(unsigned cpu, void (*fn)(void *), void *arg)
{
    mail[cpu].fn = fn;
    mail[cpu].arg = arg;
    mail[cpu].posted++;
    apic_icr(ICR_FIXED | ICR_ASSERT | SMP_WAKE, cpu);
}

void smp_wait(unsigned cpu)
{
    while (mail[cpu].done != mail[cpu].posted) {
        cpu_pause();
    }
}

void smp_run_all(unsigned n, void (*fn)(void *), void *arg)
{
    for (unsigned i = 1; i < n; i++) {
        smp_run(i, fn, arg);
    }
    sti();
    fn(arg);
    cli();
    for (unsigned i = 1; i < n; i++) {
        smp_wait(i);
    }
}

void smp_barrier(unsigned n)
{
    static uint32_t heres[GUEST_CPUS + 1]; /* by size of the group */
    uint32_t *here = &heres[n], mine = __atomic_fetch_add(here, 1, __ATOMIC_SEQ_CST);
    uint32_t full = (mine / n + 1) * n;
    while ((int32_t)(__atomic_load_n(here, __ATOMIC_SEQ_CST) - full) < 0) {
        cpu_pause();
    }
}

bool smp_timed_out(uint64_t since, unsigned ms)
{
    return rdtsc() - since > ms * smp_tsc_per_ms();
}

void smp_fail(const char *file, int line, const char *what, uint64_t a, uint64_t b)
{
    while (__atomic_exchange_n(&printing, 1, __ATOMIC_ACQUIRE)) {
        cpu_pause();
    }
    guest_fail(file, line, what, a, b);
    __atomic_store_n(&printing, 0, __ATOMIC_RELEASE);
}

/* Both clocks at the same moment: the tightest of a few tries, as the host may take
 * the processor away in between. */
struct sample {
    uint64_t tsc;
    uint32_t left;
};

static struct sample sample_timer(void)
{
    struct sample s = {0, 0};
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < 20; i++) {
        uint64_t before = rdtsc();
        uint32_t left = apic_read(APIC_TIMER_CURRENT);
        uint64_t after = rdtsc();
        if (after - before < best) {
            best = after - before;
            s = (struct sample){before + best / 2, left};
        }
    }
    return s;
}

uint64_t smp_tsc_per_ms(void)
{
    static uint64_t per_ms;
    if (!per_ms) {
        apic_write(APIC_LVT_TIMER, 1 << 16);
        apic_write(APIC_TIMER_DIVIDE, 0xb);
        apic_write(APIC_TIMER_INITIAL, 0xffffffff);
        struct sample begin = sample_timer(), end;
        do {
            end = sample_timer();
        } while (begin.left - end.left < 20000000);
        per_ms = (end.tsc - begin.tsc) * 1000000 / (begin.left - end.left);
        apic_write(APIC_TIMER_INITIAL, 0);
    }
    return per_ms;
}
