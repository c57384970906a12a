#ifndef TESTS_GUEST_LIB_LEGACY_H
#define TESTS_GUEST_LIB_LEGACY_H

/*
 * The little system for tests of real, virtual-8086 and 16/32-bit protected mode:
 * 32-bit protected mode at level 0 with flat segments and without paging. A test
 * describes where to go, runs there until the first exception or interrupt, and looks
 * at what the handler found:
 *
 *     CODE32(divide, "xor %ecx, %ecx; div %ecx");
 *     GUEST_TEST(divide_by_zero_is_vector_0)
 *     {
 *         struct context c = user_context(divide);
 *         struct trap t = run(&c);
 *         CHECK_EQ(t.vector, 0);
 *         CHECK_EQ(t.c.eip, (uint32_t)divide + 2);
 *     }
 *
 * Before each test the descriptor tables are made anew, and after each run the
 * processor is brought back to what is said above.
 */

#include "tests/guest/lib/tap.h"

enum { EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI };
enum { ES, CS, SS, DS, FS, GS };

enum {
    FL_CF = 1 << 0,
    FL_R1 = 1 << 1,
    FL_ZF = 1 << 6,
    FL_TF = 1 << 8,
    FL_IF = 1 << 9,
    FL_DF = 1 << 10,
    FL_IOPL = 3 << 12,
    FL_NT = 1 << 14,
    FL_RF = 1 << 16,
    FL_VM = 1 << 17,
    FL_AC = 1 << 18,
    FL_VIF = 1 << 19,
    FL_VIP = 1 << 20,
};

/* Where a program is, or is to go on. */
struct context {
    uint32_t gpr[8]; /* ESP included */
    uint32_t eip, eflags;
    uint16_t seg[6];
};

/* What a handler found. */
struct trap {
    uint32_t vector;
    uint32_t error; /* when the exception has one */
    uint32_t cr2;
    /* The interrupted program by its frame; SS and ESP (and in virtual-8086 mode the
     * data segments) from there only when it has them, else the handler's own. */
    struct context c;
    /* The handler's own state at its first instruction. */
    uint16_t cs, ss, ds, es, fs, gs;
    uint32_t eflags, esp;
    /* Its stack, from the instruction pointer on; a frame of 16-bit words too. */
    union {
        uint32_t frame[10];
        uint16_t frame16[20];
    };
    uint16_t tr; /* the task it ran in */
    uint32_t cr0, cr3;
};

/* Vectors of struct trap that are no interrupts. */
enum {
    VEC_TASK = 0x100, /* task_end was reached: see there */
};

struct trap run(const struct context *c);

/* Access bytes of the GDT when the run ended. */
extern uint8_t found_access[64];

/* The same in real mode. With @c->gpr[ESP] above 0xffff the whole ESP is loaded. */
struct trap run_real(const struct context *c);

/* Real mode's data segments have limits of 4 GiB at the next run_real(). */
extern bool real_big;
/* The IVT's limit at the next run_real(); 0x3ff after each. */
extern uint16_t real_idt_limit;

/* Code as bytes, in place (32-bit) or to be copied below 1 MiB (16-bit). */
#define CODE32(name, text) CODE_(name, "32", text)
#define CODE16(name, text) CODE_(name, "16", text)
#define CODE_(name, bits, text)                                                    \
    __asm__(".pushsection .text.snippet, \"ax\"\n.code" bits "\n" #name ":\n" text \
            "\n" #name "_end:\n.code32\n.popsection");                             \
    extern const uint8_t name[], name##_end[] __attribute__((unused))

/* Copy 16-bit code to linear address @to. */
#define PUT16(to, name) memcpy((void *)(to), name, (size_t)(name##_end - name))

/* The contexts that most tests start from, with stacks of their own. */
struct context kernel_context(const void *eip);
struct context user_context(const void *eip); /* level 3 */
struct context ring_context(unsigned level, const void *eip);
/* 16-bit programs: CS:0 is at VM_CODE, SS:VM_SP at VM_STACK, DS to GS at VM_DATA. */
#define VM_CODE  0x20000u
#define VM_STACK 0x30000u
#define VM_DATA  0x40000u
#define VM_SP    0x1000u
struct context vm86_context(unsigned iopl);
struct context real_context(void);

/* Linear addresses below 1 MiB that tests may use beside those. */
#define LOW_FREE 0x50000u

/* --- Descriptors ------------------------------------------------------------ */

/* Selectors of the GDT. */
enum {
    SEL_CODE = 0x08,
    SEL_DATA = 0x10,
    SEL_UCODE = 0x18 | 3,
    SEL_UDATA = 0x20 | 3,
    SEL_CODE1 = 0x28 | 1, /* levels 1 and 2 */
    SEL_DATA1 = 0x30 | 1,
    SEL_CODE2 = 0x38 | 2,
    SEL_DATA2 = 0x40 | 2,
    SEL_CONFORMING = 0x48, /* code, DPL 0 */
    SEL_CODE16 = 0x50,     /* base 0, limit 64 KiB: the way to real mode */
    SEL_DATA16 = 0x58,
    SEL_TSS = 0x60,  /* legacy_tss */
    SEL_LDT = 0x68,  /* legacy_ldt */
    SEL_FREE = 0x80, /* and up to 0x1f8: the tests' */
};

extern uint64_t legacy_gdt[64], legacy_idt[256], legacy_ldt[16];

/* Access bytes. */
enum {
    ACC_DATA = 0x93,
    ACC_RODATA = 0x91,
    ACC_DOWN = 0x97,
    ACC_CODE = 0x9b,
    ACC_XCODE = 0x99, /* execute-only */
    ACC_CONFORMING = 0x9f,
    ACC_LDT = 0x82,
    ACC_TSS16 = 0x81,
    ACC_TSS = 0x89,
    ACC_CALL16 = 0x84,
    ACC_TASK = 0x85,
    ACC_INT16 = 0x86,
    ACC_TRAP16 = 0x87,
    ACC_CALL = 0x8c,
    ACC_INT = 0x8e,
    ACC_TRAP = 0x8f,
    ACC_DPL3 = 0x60,
    ACC_P = 0x80,
};
enum { DESC_32 = 4, DESC_G = 8 };

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
/* @params: words that a call gate copies. */
uint64_t gate(uint16_t sel, uint32_t off, unsigned access, unsigned params);
void set_gdt(uint16_t sel, uint64_t raw);
void set_idt(unsigned vector, uint64_t raw);
void set_ldt(uint16_t sel, uint64_t raw);

/* The entry of the stub that catches @vector. */
uint32_t stub(unsigned vector);

/* --- Tasks ------------------------------------------------------------------ */

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], seg[6],
        ldt;
    uint16_t trap, io_base;
    uint8_t more[0x20 + 0x2000 + 1]; /* redirection and I/O permission bitmaps */
} __attribute__((packed));

struct tss16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, gpr[8], seg[4], ldt;
} __attribute__((packed));

/* The present task's. io_base leaves room for the redirection bitmap in `more`. */
extern struct tss32 legacy_tss;
#define REDIRECTION (legacy_tss.more)
#define IO_BITMAP   (legacy_tss.more + 0x20)

/* Fill a TSS with a context. */
void fill_tss32(struct tss32 *t, const struct context *c);
void fill_tss16(struct tss16 *t, const struct context *c);

/* Code that ends a run in a task at level 0: vector VEC_TASK, c is its state. */
extern const uint8_t task_end[];

/* --- The CPU ---------------------------------------------------------------- */

#define CR_ACCESS(n)                                               \
    static inline uint32_t read_cr##n(void)                        \
    {                                                              \
        uint32_t v;                                                \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));          \
        return v;                                                  \
    }                                                              \
    static inline void write_cr##n(uint32_t v)                     \
    {                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); \
    }
CR_ACCESS(0)
CR_ACCESS(3)
CR_ACCESS(4)

enum { CR4_VME = 1 << 0, CR4_PVI = 1 << 1 };

static inline bool has_cpuid_1(unsigned reg, unsigned bit)
{
    uint32_t r[4];
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(1));
    return r[reg] >> bit & 1;
}

#endif
