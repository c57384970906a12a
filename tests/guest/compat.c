/* 32-bit code under a 64-bit kernel: compatibility mode at level 0. What is cut to 32
 * bits, what wraps at 4 GiB, and code that changes. AMD64 APM vol. 1 chapter 2, vol. 2
 * chapters 1 and 4. */
#include "tests/guest/lib/guest.h"

/* --- Going there --------------------------------------------------------------------
 */

/* Registers before and after, in the order of their encoding. */
static struct {
    uint64_t gpr[8];
} frame;

static uint64_t saved_rsp __attribute__((used));
static const void *entry32 __attribute__((used));
static struct {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed)) to_32 __attribute__((used));

/* Load the registers, RSP included; call entry32 there; keep the registers. The stack
 * is used once before as 64-bit code does. */
__asm__(".pushsection .text\n"
        "go_32:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, saved_rsp\n"
        "lea frame, %r8\n"
        "mov (%r8), %rax; mov 8(%r8), %rcx; mov 16(%r8), %rdx; mov 24(%r8), %rbx\n"
        "mov 32(%r8), %rsp; mov 40(%r8), %rbp; mov 48(%r8), %rsi; mov 56(%r8), %rdi\n"
        "push %rax; pop %rax\n"
        "ljmp *to_32\n"
        ".globl in_32\n"
        ".code32\n"
        "in_32: call *entry32\n"
        "ljmp $0x08, $1f\n"
        ".code64\n"
        "1: mov %rsp, frame + 32\n"
        "mov saved_rsp, %rsp\n"
        "lea frame, %r8\n"
        "mov %rax, (%r8); mov %rcx, 8(%r8); mov %rdx, 16(%r8); mov %rbx, 24(%r8)\n"
        "mov %rbp, 40(%r8); mov %rsi, 48(%r8); mov %rdi, 56(%r8)\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n"
        ".popsection");
void go_32(void);
extern const uint8_t in_32[];

enum { EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI };

static uint8_t stack32[4096] __attribute__((aligned(4096)));

static void start(const void *code)
{
    for (unsigned i = 0; i < 8; i++) {
        frame.gpr[i] = 0;
    }
    frame.gpr[ESP] = (uint64_t)stack32 + sizeof(stack32);
    entry32 = code;
    to_32.offset = (uint32_t)(uint64_t)in_32;
    to_32.selector = SEL_CODE32;
}

static void call(void *arg)
{
    (void)arg;
    go_32();
}

#define CODE32(name, text)                                                        \
    __asm__(".pushsection .text.snippet, \"ax\"\n.code32\n" #name ":\n" text "\n" \
            "ret\n.code64\n.popsection");                                         \
    extern const uint8_t name[]

/* --- Addresses ----------------------------------------------------------------------
 */

/* In low memory, which nobody uses, and in the window with the same lower half. */
enum { LOW = 0x60000, LOW_PAGE = LOW / 4096 };
#define LOW32(off) (*(volatile uint32_t *)(uint64_t)(LOW + (off)))

CODE32(low_and_stack, "mov (%ebx), %eax; push %eax; pop %ecx; movl $0x77, 4(%ebx)\n"
                      "mov 8(%ebx,%esi,4), %edx");

GUEST_TEST(upper_halves_of_registers_do_not_reach_32_bit_code)
{
    volatile uint32_t *high = (volatile uint32_t *)(WINDOW + LOW);
    *guest_pte(LOW_PAGE) = (uint64_t)guest_page(3) | PTE_P | PTE_W;
    *guest_pte(LOW_PAGE + 1) = (uint64_t)guest_page(4) | PTE_P | PTE_W;
    for (unsigned i = 0; i < 6; i++) {
        LOW32(0x100) = 0x1111 + i;
        LOW32(0x104) = 0;
        LOW32(0x108) = 0x4444 + i;
        LOW32(0x1ff8) = 0;
        high[0x40] = 0x2222 + i; /* the last one looked at, in the TLB */
        high[0x41] = 0x3333;
        start(low_and_stack);
        frame.gpr[EBX] = WINDOW + LOW + 0x100;
        frame.gpr[ESI] = UINT64_C(0x4000000000000000);
        frame.gpr[ESP] = WINDOW + LOW + 0x2000;
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], 0x1111 + i);
        CHECK_EQ((uint32_t)frame.gpr[ECX], 0x1111 + i);
        CHECK_EQ((uint32_t)frame.gpr[EDX], 0x4444 + i);
        CHECK_EQ((uint32_t)frame.gpr[ESP], LOW + 0x2000);
        CHECK_EQ(LOW32(0x104), 0x77);
        CHECK_EQ(high[0x41], 0x3333);
        CHECK_EQ(LOW32(0x1ff8), 0x1111 + i); /* pushed behind the return address */
    }
}

CODE32(sum_wraps, "mov 0x60110(%ebx), %eax; mov 0x60100(%esi,%edi,8), %ecx\n"
                  "lea 0x20(%ebx), %edx");
CODE32(crosses, "mov (%ebx), %eax");
CODE32(stack_wraps, "mov %esp, %edx; mov $0, %esp; push %eax; mov %esp, %ecx\n"
                    "pop %eax; mov %esp, %esi; mov %edx, %esp");

GUEST_TEST(sums_and_stacks_wrap_at_4_gib)
{
    for (unsigned i = 0; i < 4; i++) {
        LOW32(0x100) = 0xabcd + i;
        start(sum_wraps);
        frame.gpr[EBX] = 0xfffffff0;
        frame.gpr[ESI] = 0x80000000;
        frame.gpr[EDI] = 0x10000000;
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], 0xabcd + i);
        CHECK_EQ((uint32_t)frame.gpr[ECX], 0xabcd + i);
        CHECK_EQ((uint32_t)frame.gpr[EDX], 0x10);
        start(stack_wraps);
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[ECX], 0xfffffffc);
        CHECK_EQ((uint32_t)frame.gpr[ESI], 0);
    }
}

GUEST_TEST(access_beyond_4_gib_is_gp)
{
    struct trap t;
    for (unsigned i = 0; i < 3; i++) {
        start(crosses);
        frame.gpr[EBX] = 0xfffffffd;
        CHECK(guest_try(&t, call, NULL));
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.rip, (uint64_t)crosses);
        CHECK_EQ(t.cs, SEL_CODE32);
    }
}

CODE32(through_fs,
       "mov %fs:-0x1000, %eax; mov %fs:(%ebx), %ecx; movl $0x55, %fs:(%esi)\n"
       "mov %fs:(%edi), %edx");

static void load_fs(uint16_t sel)
{
    __asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)sel));
}

GUEST_TEST(fs_has_a_base_that_wraps_and_a_limit)
{
    struct trap t;
    for (unsigned i = 0; i < 4; i++) {
        /* No limit, base LOW + 0x1100. */
        guest_gdt[SEL_FREE / 8] = UINT64_C(0x00cf93061100ffff);
        load_fs(SEL_FREE);
        LOW32(0x100) = 0x1234 + i;
        LOW32(0x104) = 0;
        start(through_fs);
        frame.gpr[EBX] = 0xfffff000;
        frame.gpr[ESI] = 0xfffff004;
        frame.gpr[EDI] = 0xfffff000;
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], 0x1234 + i);
        CHECK_EQ((uint32_t)frame.gpr[ECX], 0x1234 + i);
        CHECK_EQ(LOW32(0x104), 0x55);
        start(through_fs);
        frame.gpr[EBX] = frame.gpr[ESI] = 0;
        frame.gpr[EDI] = 0xfffffffe; /* inside its page, outside the segment */
        CHECK(guest_try(&t, call, NULL));
        CHECK_EQ(t.vector, 13);
        /* The same code with a limit. */
        guest_gdt[SEL_FREE / 8] = UINT64_C(0x004093061100ffff);
        load_fs(SEL_FREE);
        start(through_fs);
        CHECK(guest_try(&t, call, NULL));
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.rip, (uint64_t)through_fs);
    }
    load_fs(0);
}

/* --- Code that changes ------------------------------------------------------------ */

/* The next instruction, one behind a jump in the same page, one in another page. */
CODE32(own_block, "movb %cl, 1f + 1; 1: mov $0, %eax");
CODE32(same_page, "movb %cl, 1f + 1; jmp 1f; .balign 64; 1: mov $0, %eax");
CODE32(other_page, "mov %cl, 1(%ebx); call *%ebx; inc %ecx; mov %eax, %edx\n"
                   "mov %cl, 1(%ebx); call *%ebx; add %edx, %eax");

GUEST_TEST(self_modifying_32_bit_code_takes_effect)
{
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, 0; ret */
    __builtin_memcpy(guest_page(5), code, sizeof(code));
    for (unsigned i = 1; i < 60; i++) {
        start(own_block);
        frame.gpr[ECX] = i;
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], i);
        start(same_page);
        frame.gpr[ECX] = i + 1;
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], i + 1);
        start(other_page);
        frame.gpr[ECX] = i;
        frame.gpr[EBX] = (uint64_t)guest_page(5);
        go_32();
        CHECK_EQ((uint32_t)frame.gpr[EAX], 2 * i + 1);
    }
}

/* --- Branches -------------------------------------------------------------------- */

/* Page directory @gib of the four that map the first 4 GiB, in pages of 2 MiB. */
static volatile uint64_t *directory(unsigned gib)
{
    const uint64_t *pml4 = (const uint64_t *)read_cr3();
    const uint64_t *pdpt = (const uint64_t *)(pml4[0] & ~UINT64_C(0xfff));
    return (volatile uint64_t *)(pdpt[gib] & ~UINT64_C(0xfff));
}

enum { JUMP = 0x7000, TIMER = 0x40 }; /* in low memory; a vector */

static volatile uint32_t *apic(unsigned reg)
{
    return (volatile uint32_t *)(UINT64_C(0xfee00000) + reg);
}

CODE32(jump_out, "nop");
static volatile unsigned ticks;

static bool leave_loop(unsigned vector, uint64_t *f)
{
    if (vector != TIMER) {
        return false;
    }
    ticks++;
    f[18] = (uint64_t)jump_out;
    *apic(0xb0) = 0;
    return true;
}

CODE32(jump_in, "sti; jmp *%ebx");

/* Four jumps of about 1 GiB forwards, each to another page of the same low memory, are
 * a loop, and an interrupt gets out of it. */
GUEST_TEST(forward_jumps_over_4_gib_are_interrupted)
{
    uint8_t *low = (uint8_t *)(uint64_t)JUMP, kept[4][5];
    uint64_t old[4];
    for (unsigned i = 0; i < 4; i++, low += 4096) {
        uint32_t by = i < 3 ? 0x40001000 : 0x3fffd000;
        __builtin_memcpy(kept[i], low, 5);
        low[0] = 0xe9;
        *(volatile uint32_t *)(low + 1) = by - 5;
    }
    for (unsigned i = 1; i < 4; i++) {
        old[i] = directory(i)[0];
        directory(i)[0] = PTE_P | PTE_W | PTE_PS;
    }
    guest_flush_tlb();
    guest_trap_hook = leave_loop;
    *apic(0xf0) = 0x1ff;
    *apic(0x3e0) = 0xb;
    *apic(0x320) = TIMER;
    for (unsigned i = 1; i <= 3; i++) {
        *apic(0x380) = 200000;
        start(jump_in);
        frame.gpr[EBX] = JUMP;
        go_32();
        __asm__ volatile("cli");
        CHECK_EQ(ticks, i);
    }
    guest_trap_hook = NULL;
    *apic(0x320) = 0x10000;
    for (unsigned i = 1; i < 4; i++) {
        directory(i)[0] = old[i];
    }
    for (unsigned i = 4; i-- > 0;) {
        low -= 4096;
        __builtin_memcpy(low, kept[i], 5);
    }
    guest_flush_tlb();
}
