/* Alignment: #AC in user code that asked for it, #GP of operands that must be aligned
 * always. AMD64 APM vol. 2 8.2.18, vol. 1 4.3.2; Intel SDM vol. 3 table 6-7. */
#include "tests/guest/lib/guest.h"

enum { NONE = NO_TRAP, GP = 13, AC = 17 };

static USER_DATA __attribute__((aligned(64), used)) uint8_t area[1024];

/* Run @text at CPL 3 with EFLAGS.AC; RDI is the address, RSI another, aligned. */
#define AT(addr, text)                                                      \
    ({                                                                      \
        struct trap t_;                                                     \
        void (*snippet_)(void *);                                           \
        __asm__ volatile(".pushsection .user.text, \"ax\"\n"                \
                         "9999: lea 512+area(%%rip), %%rsi\n"               \
                         "pushfq; orl $0x40000, (%%rsp); popfq\n" text "\n" \
                         "pushfq; andl $~0x40000, (%%rsp); popfq; ret\n"    \
                         ".popsection\n"                                    \
                         "lea 9999b(%%rip), %0"                             \
                         : "=r"(snippet_));                                 \
        guest_try_user(&t_, snippet_, (addr));                              \
        (unsigned)t_.vector;                                                \
    })

/* @text raises #AC wherever the address is no multiple of @align, and @otherwise (#GP
 * or nothing) where it is none of @must. */
#define CHECK_ALIGN_GP(text, align, must)                                     \
    do {                                                                      \
        for (unsigned off_ = 0; off_ < 32; off_++) {                          \
            unsigned want_ = off_ % (align) ? AC : off_ % (must) ? GP : NONE; \
            unsigned got_ = AT(area + off_, text);                            \
            if (got_ != want_) {                                              \
                guest_fail(__FILE__, __LINE__, text, got_, off_);             \
            }                                                                 \
        }                                                                     \
    } while (0)
#define CHECK_ALIGN(text, align) CHECK_ALIGN_GP(text, align, 1)
#define CHECK_GP(text, must)     CHECK_ALIGN_GP(text, 1, must)

static void on(void)
{
    write_cr0(read_cr0() | 1 << 18);
}

static void off(void)
{
    write_cr0(read_cr0() & ~(UINT64_C(1) << 18));
}

GUEST_TEST(integers_are_checked_by_their_size)
{
    on();
    CHECK_ALIGN("movb (%%rdi), %%al", 1);
    CHECK_ALIGN("movw (%%rdi), %%ax", 2);
    CHECK_ALIGN("movl (%%rdi), %%eax", 4);
    CHECK_ALIGN("movq (%%rdi), %%rax", 8);
    CHECK_ALIGN("movq %%rax, (%%rdi)", 8);
    CHECK_ALIGN("addl $1, (%%rdi)", 4);
    CHECK_ALIGN("lock addq $1, (%%rdi)", 8);
    CHECK_ALIGN("xchg %%eax, (%%rdi)", 4);
    CHECK_ALIGN("lock cmpxchg8b (%%rdi)", 8);
    CHECK_ALIGN("mov %%rsp, %%rbx; mov %%rdi, %%rsp; pop %%rax; mov %%rbx, %%rsp", 8);
    CHECK_ALIGN("movnti %%eax, (%%rdi)", 4);
    CHECK_ALIGN("lea (%%rdi), %%rax; prefetcht0 (%%rdi); clflush (%%rdi)", 1);
    off();
}

GUEST_TEST(string_elements_are_checked_one_by_one)
{
    on();
    CHECK_ALIGN("xchg %%rsi, %%rdi; movsq", 8);
    CHECK_ALIGN("movsw", 2);
    CHECK_ALIGN("stosl", 4);
    CHECK_ALIGN("mov $3, %%ecx; rep stosb", 1);
    CHECK_ALIGN("mov $3, %%ecx; rep stosw", 2);
    CHECK_ALIGN("scasq", 8);
    off();
}

GUEST_TEST(x87_operands_are_checked)
{
    on();
    CHECK_ALIGN("fninit; flds (%%rdi)", 4);
    CHECK_ALIGN("fninit; fldl (%%rdi)", 8);
    CHECK_ALIGN("fninit; fldt (%%rdi)", 8);
    CHECK_ALIGN("fninit; fldz; fstpt (%%rdi)", 8);
    CHECK_ALIGN("fninit; filds (%%rdi)", 2);
    CHECK_ALIGN("fninit; fildll (%%rdi)", 8);
    CHECK_ALIGN("fninit; fbld (%%rdi)", 8);
    CHECK_ALIGN("fnstcw (%%rdi)", 2);
    CHECK_ALIGN("fnstsw (%%rdi)", 2);
    CHECK_ALIGN("fnstenv (%%rdi)", 4);
    CHECK_ALIGN("data16 fnstenv (%%rdi)", 2);
    CHECK_ALIGN("fnsave (%%rdi)", 4);
    off();
}

GUEST_TEST(fxsave_must_be_aligned_by_16)
{
    CHECK_GP("fxsave (%%rdi)", 16);
    CHECK_GP("fxsave (%%rsi); fxsave (%%rdi); fxrstor (%%rdi)", 16);
    on();
    /* Which of #AC and #GP comes is the processor's own (SDM 2 FXSAVE). */
    for (unsigned i = 0; i < 32; i++) {
        unsigned got = AT(area + i, "fxsave (%%rdi)");
        CHECK(i % 16 ? got == AC || got == GP : got == NONE);
    }
    off();
}

GUEST_TEST(mmx_and_sse_operands_are_checked)
{
    on();
    CHECK_ALIGN("movd (%%rdi), %%mm0; emms", 4);
    CHECK_ALIGN("movq (%%rdi), %%mm0; emms", 8);
    CHECK_ALIGN("punpcklbw (%%rdi), %%mm0; emms", 4);
    CHECK_ALIGN("movss (%%rdi), %%xmm0", 4);
    CHECK_ALIGN("movsd %%xmm0, (%%rdi)", 8);
    CHECK_ALIGN("movhps (%%rdi), %%xmm0", 8);
    CHECK_ALIGN("pinsrw $1, (%%rdi), %%xmm0", 2);
    CHECK_ALIGN("cvtsi2sdq (%%rdi), %%xmm0", 8);
    CHECK_ALIGN("stmxcsr (%%rdi)", 4);
    CHECK_ALIGN("movups (%%rdi), %%xmm0", 16);
    CHECK_ALIGN("movdqu %%xmm0, (%%rdi)", 16);
    off();
    CHECK_ALIGN("movups (%%rdi), %%xmm0", 1);
}

GUEST_TEST(operands_of_16_bytes_must_be_aligned)
{
    for (unsigned i = 0; i < 2; i++) {
        CHECK_GP("movaps (%%rdi), %%xmm0", 16);
        CHECK_GP("movdqa %%xmm0, (%%rdi)", 16);
        CHECK_GP("movntps %%xmm0, (%%rdi)", 16);
        CHECK_GP("addps (%%rdi), %%xmm0", 16);
        CHECK_GP("paddd (%%rdi), %%xmm0", 16);
        CHECK_GP("pxor (%%rdi), %%xmm0", 16);
        on();
    }
    off();
}

GUEST_TEST(vex_operands_are_checked_by_16_at_most)
{
    if (!has_cpuid(1, 2, 28)) {
        guest_skip("no AVX");
        return;
    }
    write_cr4(read_cr4() | 1 << 18);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    CHECK_ALIGN("vaddps (%%rdi), %%xmm0, %%xmm0", 1);
    CHECK_GP("vmovaps (%%rdi), %%ymm0", 32);
    CHECK_GP("vmovaps %%xmm0, (%%rdi)", 16);
    on();
    CHECK_ALIGN("vaddps (%%rdi), %%xmm0, %%xmm0", 16);
    CHECK_ALIGN("vmovups (%%rdi), %%ymm0", 16);
    CHECK_ALIGN("vmovups %%ymm0, (%%rdi)", 16);
    CHECK_ALIGN("vbroadcastss (%%rdi), %%ymm0", 4);
    CHECK_ALIGN("vpcmpeqd %%ymm1, %%ymm1, %%ymm1; vmaskmovps (%%rdi), %%ymm1, %%ymm0",
                1);
    CHECK_GP("vmovaps (%%rdi), %%ymm0", 32);
    off();
    write_cr4(read_cr4() & ~(UINT64_C(1) << 18));
}

GUEST_TEST(cmpxchg16b_must_be_aligned)
{
    if (!has_cpuid(1, 2, 13)) {
        guest_skip("no CMPXCHG16B");
        return;
    }
    CHECK_GP("lock cmpxchg16b (%%rdi)", 16);
    CHECK_GP("cmpxchg16b (%%rdi)", 16);
}

GUEST_TEST(nothing_is_checked_without_all_three)
{
    CHECK_ALIGN("movq (%%rdi), %%rax", 1); /* AM is off */
    on();
    struct trap t;
    CHECK(!TRAPS(&t, "lea area(%%rip), %%rdi; pushfq; orl $0x40000, (%%rsp); popfq\n"
                     "movq 1(%%rdi), %%rax; pushfq; andl $~0x40000, (%%rsp); popfq"));
    CHECK(!USER_TRAPS(&t, "lea area(%%rip), %%rdi; movq 1(%%rdi), %%rax"));
    off();
}
