/* Which of CR0's EM, TS and MP, and of CR4's OSFXSR and OSXSAVE, stop which
 * instructions, and with what. AMD64 APM vol. 2 3.1.1 to 3.1.3 and 8.2.8, vol. 1 tables
 * 6-9 and 5-3; Intel SDM vol. 3 2.5 and 13.1. */
#include "tests/guest/lib/guest.h"

enum { NONE = NO_TRAP, UD = 6, NM = 7, MF = 16 };
enum { MP = 1 << 1, EM = 1 << 2, TS = 1 << 3, FLAGS = MP | EM | TS };
#define OSFXSR  (UINT64_C(1) << 9)
#define OSXSAVE (UINT64_C(1) << 18)

static uint8_t area[1024] __attribute__((aligned(64), used));

enum kind { X87, WAIT, MMX, SSE, AVX, FX, XS, OTHER };

static unsigned expected(enum kind kind, unsigned cr0, uint64_t cr4)
{
    bool em = cr0 & EM, ts = cr0 & TS;
    switch (kind) {
    case X87:
    case FX: return em || ts ? NM : NONE;
    case WAIT: return ts && (cr0 & MP) ? NM : NONE;
    case MMX: return em ? UD : ts ? NM : NONE;
    case SSE: return em || !(cr4 & OSFXSR) ? UD : ts ? NM : NONE;
    case AVX:
    case XS: return !(cr4 & OSXSAVE) ? UD : ts ? NM : NONE;
    default: return NONE;
    }
}

/* @text under all eight settings. */
#define MATRIX(kind, text)                                      \
    do {                                                        \
        struct trap t_;                                         \
        uint64_t cr4_ = read_cr4();                             \
        for (unsigned f_ = 0; f_ <= FLAGS; f_ += 2) {           \
            write_cr0((read_cr0() & ~(uint64_t)FLAGS) | f_);    \
            TRAPS(&t_, text);                                   \
            unsigned got_ = (unsigned)t_.vector;                \
            write_cr0((read_cr0() & ~(uint64_t)FLAGS) | MP);    \
            if (got_ != expected(kind, f_, cr4_)) {             \
                guest_fail(__FILE__, __LINE__, text, got_, f_); \
            }                                                   \
        }                                                       \
    } while (0)

GUEST_TEST(x87_wants_neither_em_nor_ts)
{
    MATRIX(X87, "fninit");
    MATRIX(X87, "fld1; fstp %%st(0)");
    MATRIX(X87, "fnstcw area(%%rip)");
    MATRIX(X87, "fnstsw %%ax");
    MATRIX(X87, "fnclex");
    MATRIX(X87, "fnsave area(%%rip)");
    MATRIX(WAIT, "fwait");
}

GUEST_TEST(mmx_is_ud_with_em_and_nm_with_ts)
{
    MATRIX(MMX, "paddw %%mm0, %%mm1");
    MATRIX(MMX, "movq area(%%rip), %%mm0");
    MATRIX(MMX, "emms");
}

static void sse(void)
{
    MATRIX(SSE, "addps %%xmm0, %%xmm1");
    MATRIX(SSE, "movdqa area(%%rip), %%xmm0");
    MATRIX(SSE, "movaps %%xmm0, area(%%rip)");
    MATRIX(SSE, "cvtsi2sd %%eax, %%xmm0");
    MATRIX(SSE, "ldmxcsr start_mxcsr(%%rip)");
    MATRIX(SSE, "stmxcsr area(%%rip)");
}
__asm__(".data\nstart_mxcsr: .long 0x1f80\n.text");

GUEST_TEST(sse_is_ud_with_em_or_without_osfxsr_and_nm_with_ts)
{
    sse();
    write_cr4(read_cr4() & ~OSFXSR);
    sse();
    write_cr4(read_cr4() | OSFXSR);
}

GUEST_TEST(fxsave_follows_the_x87)
{
    MATRIX(FX, "fxsave area(%%rip)");
    __asm__ volatile("fxsave area(%rip)");
    MATRIX(FX, "fxrstor area(%%rip)");
}

GUEST_TEST(avx_and_xsave_ignore_em)
{
    if (!has_cpuid(1, 2, 28)) {
        guest_skip("no AVX");
        return;
    }
    MATRIX(AVX, "vaddps %%xmm0, %%xmm1, %%xmm2");
    MATRIX(XS, "mov $1, %%eax; xor %%edx, %%edx; xsave area(%%rip)");
    write_cr4(read_cr4() | OSXSAVE);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    MATRIX(AVX, "vaddps %%xmm0, %%xmm1, %%xmm2");
    MATRIX(AVX, "vzeroupper");
    MATRIX(AVX, "vmovups area(%%rip), %%ymm3");
    MATRIX(XS, "mov $1, %%eax; xor %%edx, %%edx; xsave area(%%rip)");
    /* SSE's state switched on is enough for VEX only together with AVX's. */
    struct trap t;
    __asm__ volatile("xsetbv" : : "a"(3), "d"(0), "c"(0));
    CHECK(TRAPS(&t, "vaddps %%xmm0, %%xmm1, %%xmm2"));
    CHECK_EQ(t.vector, UD);
    CHECK(!TRAPS(&t, "addps %%xmm0, %%xmm1"));
    write_cr4(read_cr4() & ~OSXSAVE);
}

GUEST_TEST(integer_instructions_of_sse_are_never_stopped)
{
    MATRIX(OTHER, "movnti %%eax, area(%%rip)");
    MATRIX(OTHER, "sfence; lfence; mfence; pause");
    MATRIX(OTHER, "prefetcht0 area(%%rip); clflush area(%%rip)");
    if (has_cpuid(1, 2, 20)) {
        MATRIX(OTHER, "crc32l %%eax, %%ecx");
    }
    if (has_cpuid(1, 2, 23)) {
        MATRIX(OTHER, "popcnt %%eax, %%ecx");
    }
}

/* --- #MF ------------------------------------------------------------------------- */

/* Leaves an unmasked division by zero pending. */
#define PENDING "fninit; movw $0x37b, -8(%%rsp); fldcw -8(%%rsp); fldz; fld1; fdivp\n"

GUEST_TEST(pending_exception_is_raised_by_the_next_that_waits)
{
    struct trap t;
    CHECK(TRAPS(&t, PENDING "fld1"));
    CHECK_EQ(t.vector, MF);
    CHECK(TRAPS(&t, PENDING "fwait"));
    CHECK_EQ(t.vector, MF);
    CHECK(TRAPS(&t, PENDING "movq %%mm0, %%rax"));
    CHECK_EQ(t.vector, MF);
    CHECK(!TRAPS(&t, PENDING "fnstsw %%ax; fnstcw -8(%%rsp); fnclex; fwait"));
    CHECK(!TRAPS(&t, PENDING "fninit; fld1; fstp %%st(0)"));
    CHECK(!TRAPS(&t, PENDING "fnsave area(%%rip); fwait"));
    CHECK(!TRAPS(&t, PENDING "addps %%xmm0, %%xmm1; fnclex"));
    __asm__ volatile("fninit");
}

/* --- FERR# and IRQ 13 --------------------------------------------------------------
 */

static volatile unsigned nb_irq13, status_seen;
static volatile bool clears;

static bool on_irq13(unsigned vector, uint64_t *frame)
{
    (void)frame;
    if (vector != 0x2d) {
        return false;
    }
    uint16_t fsw;
    nb_irq13++;
    outb(0xf0, 0); /* IGNNE#: x87 instructions may follow */
    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    status_seen = fsw;
    __asm__ volatile("fldz; fstp %st(0)");
    if (clears) {
        __asm__ volatile("fnclex");
    }
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    return true;
}

static void start_irq13(void)
{
    static const uint8_t init[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1},
                                      {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1},
                                      {0x21, 0xfb}, {0xa1, 0xdf}};
    for (unsigned i = 0; i < sizeof(init) / sizeof(init[0]); i++) {
        outb(init[i][0], init[i][1]);
    }
    nb_irq13 = status_seen = 0;
    guest_trap_hook = on_irq13;
    write_cr0(read_cr0() & ~UINT64_C(0x20)); /* NE */
}

static void stop_irq13(void)
{
    __asm__ volatile("cli; fninit");
    write_cr0(read_cr0() | 0x20);
    guest_trap_hook = NULL;
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

static bool is_tcg(void)
{
    uint32_t r[4];
    cpuid(0x40000000, 0, r);
    if (r[1] == 0x54474354) { /* "TCGT" */
        guest_skip("QEMU's software CPU aborts");
        return true;
    }
    return false;
}

GUEST_TEST(without_ne_the_exception_is_irq_13)
{
    struct trap t;
    if (is_tcg()) {
        return;
    }
    start_irq13();
    clears = true;
    CHECK(!TRAPS(&t, "sti; " PENDING "fwait; fld1; fstp %%st(0); cli"));
    CHECK_EQ(t.vector, NO_TRAP);
    CHECK_EQ(nb_irq13, 1);
    CHECK_EQ(status_seen & 0x84, 0x84); /* ES, ZE */
    CHECK(!TRAPS(&t, "sti; " PENDING "fwait; fld1; fstp %%st(0); cli"));
    CHECK_EQ(nb_irq13, 2);
    stop_irq13();
}

GUEST_TEST(ignne_lets_instructions_go_on_until_the_exception_is_cleared)
{
    struct trap t;
    if (is_tcg()) {
        return;
    }
    start_irq13();
    clears = false;
    CHECK(!TRAPS(&t, "sti; " PENDING "fwait; fld1; fstp %%st(0); fwait; cli"));
    CHECK_EQ(nb_irq13, 1);
    CHECK(!TRAPS(&t, "fnclex; sti; " PENDING "fwait; cli"));
    CHECK_EQ(nb_irq13, 2);
    stop_irq13();
}
