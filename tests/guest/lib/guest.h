#ifndef TESTS_GUEST_LIB_GUEST_H
#define TESTS_GUEST_LIB_GUEST_H

/*
 * The little system that bare-metal test guests run on: 64-bit long mode, the first
 * 4 GiB mapped one to one, every exception caught, results as lib/tap.h reports them.
 *
 *     GUEST_TEST(divide_by_zero_is_vector_0)
 *     {
 *         struct trap t;
 *         CHECK(TRAPS(&t, "xor %%edx, %%edx; div %%edx"));
 *         CHECK_EQ(t.vector, 0);
 *     }
 */

#include "tests/guest/lib/tap.h"

/* --- Traps ------------------------------------------------------------------ */

/* What an exception found. gpr in the order of their encoding. */
struct trap {
    uint64_t gpr[16];
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
    uint64_t cr2;
};

#define NO_TRAP 0xff /* vector when nothing was raised */

/*
 * Call fn(arg) at CPL 0 / at CPL 3 and catch the first exception in it. Returns
 * whether there was one, and then *t describes it; otherwise t->vector is NO_TRAP.
 * fn's own effects stay. For user mode, fn must be USER code and touch USER data.
 */
bool guest_try(struct trap *t, void (*fn)(void *arg), void *arg);
bool guest_try_user(struct trap *t, void (*fn)(void *arg), void *arg);

/* Code and data that user mode may touch. */
#define USER_CODE __attribute__((section(".user.text"), noinline))
#define USER_DATA __attribute__((section(".user.data")))

/*
 * Run instructions (a string literal; any register may change, the stack pointer is
 * as before at the end) at CPL 0 / CPL 3 and catch. A % is written %%.
 */
#define TRAPS(t, text)      TRAPS_IN_(t, text, guest_try, ".text.snippet")
#define USER_TRAPS(t, text) TRAPS_IN_(t, text, guest_try_user, ".user.text")
#define TRAPS_IN_(t, text, how, section)                      \
    ({                                                        \
        void (*snippet_)(void *);                             \
        __asm__ volatile(".pushsection " section ", \"ax\"\n" \
                         "9999:\n" text "\nret\n"             \
                         ".popsection\n"                      \
                         "lea 9999b(%%rip), %0"               \
                         : "=r"(snippet_));                   \
        how((t), snippet_, NULL);                             \
    })

/* Interrupts (vectors 32 and up) that arrived, by vector. */
extern volatile uint32_t guest_irqs[256];

/* Processors the framework has room for; only the first runs unless a test starts
 * the others (lib/smp.h). */
#define GUEST_CPUS 16

/*
 * When set: called for every exception and interrupt first, on the processor that
 * takes it, with interrupts off. True: dealt with, go back. @frame is gpr[16],
 * vector, error, rip, cs, rflags, rsp, ss; what it holds is what returns.
 */
extern bool (*guest_trap_hook)(unsigned vector, uint64_t *frame);

/* The number in NAME=NUMBER on the kernel command line. */
unsigned guest_option(const char *name, unsigned otherwise);

/* --- Paging ----------------------------------------------------------------- */

enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8,
};
#define PTE_NX (UINT64_C(1) << 63)

/* A 4 KiB-mapped window of 512 pages at this address, all absent at the start of each
 * test; guest_pte() is the entry of page @i. The upper levels allow everything. */
#define WINDOW       UINT64_C(0x8000000000)
#define WINDOW_PAGES 512
volatile uint64_t *guest_pte(unsigned i);
volatile uint64_t *guest_pde(void);   /* the window's page directory, 512 entries */
volatile uint64_t *guest_pdpte(void); /* the window's page-directory pointers */
/* A page of memory for tests (2 MiB aligned block of 16 pages at the start). */
uint8_t *guest_page(unsigned i);
void guest_flush_tlb(void);

/* --- The CPU ---------------------------------------------------------------- */

static inline uint64_t read_cr0(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline uint64_t read_cr2(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr2, %0" : "=r"(v));
    return v;
}
static inline uint64_t read_cr3(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}
static inline uint64_t read_cr4(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v));
    return v;
}
static inline void write_cr0(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}
static inline void write_cr3(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}
static inline void write_cr4(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static inline void invlpg(uint64_t a)
{
    __asm__ volatile("invlpg (%0)" : : "r"(a) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return lo | (uint64_t)hi << 32;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
                     : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(sub));
}

/* One bit of CPUID; reg 0..3 is EAX, EBX, ECX, EDX. */
static inline bool has_cpuid(uint32_t leaf, unsigned reg, unsigned bit)
{
    uint32_t r[4];
    cpuid(leaf & 0x80000000, 0, r);
    if (r[0] < leaf) {
        return false;
    }
    cpuid(leaf, 0, r);
    return r[reg] >> bit & 1;
}

/* The processor that runs this: its APIC ID. */
static inline unsigned guest_cpu(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    return (r[1] >> 24) & (GUEST_CPUS - 1);
}

enum {
    MSR_EFER = 0xc0000080u,
    MSR_STAR = 0xc0000081u,
    MSR_LSTAR = 0xc0000082u,
    MSR_CSTAR = 0xc0000083u,
    MSR_SFMASK = 0xc0000084u,
    MSR_FS_BASE = 0xc0000100u,
    MSR_GS_BASE = 0xc0000101u,
    MSR_KERNEL_GS_BASE = 0xc0000102u,
    MSR_TSC_AUX = 0xc0000103u
};

/* Selectors of the GDT, in the order that SYSRET wants. */
enum {
    SEL_CODE64 = 0x08,
    SEL_DATA = 0x10,
    SEL_USER32 = 0x18 | 3,
    SEL_USER_DATA = 0x20 | 3,
    SEL_USER64 = 0x28 | 3,
    SEL_CODE32 = 0x30,
    SEL_TSS = 0x40,
    SEL_FREE = 0x50
};

extern uint64_t guest_gdt[16];  /* SEL_FREE and the entries after it are the tests' */
extern uint64_t guest_idt[512]; /* two words each */
extern uint8_t guest_tss[104];

/* The interrupt or trap gate of @vector: handler address, type (14 or 15), DPL, IST. */
void guest_gate(unsigned vector, uint64_t handler, unsigned type, unsigned dpl,
                unsigned ist);
/* The framework's own stub of @vector, to put back. */
uint64_t guest_stub(unsigned vector);

#endif
