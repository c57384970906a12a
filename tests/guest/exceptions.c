/* Exceptions: vectors, error codes, saved state, priorities. AMD64 APM vol. 2 ch. 8. */
#include "tests/guest/lib/guest.h"

GUEST_TEST(divide_by_zero_is_de_with_rip_of_the_divide)
{
    struct trap t;
    CHECK(TRAPS(&t, "xor %%edx, %%edx; mov $5, %%eax; xor %%ecx, %%ecx\n"
                    "lea 1f(%%rip), %%rbx\n1: div %%ecx"));
    CHECK_EQ(t.vector, 0);
    CHECK_EQ(t.rip, t.gpr[3]);
    CHECK_EQ(t.gpr[0], 5);
}

GUEST_TEST(divide_overflow_is_de)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $1, %%edx; xor %%eax, %%eax; mov $1, %%ecx; div %%ecx"));
    CHECK_EQ(t.vector, 0);
    CHECK(TRAPS(&t, "mov $0x80000000, %%eax; cltd; mov $-1, %%ecx; idiv %%ecx"));
    CHECK_EQ(t.vector, 0);
}

GUEST_TEST(int3_is_a_trap_after_the_instruction)
{
    struct trap t;
    CHECK(TRAPS(&t, "lea 1f(%%rip), %%rbx; int3\n1: nop"));
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.rip, t.gpr[3]);
}

GUEST_TEST(ud2_is_ud_at_the_instruction)
{
    struct trap t;
    CHECK(TRAPS(&t, "lea 1f(%%rip), %%rbx\n1: ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.rip, t.gpr[3]);
    CHECK(TRAPS(&t, ".byte 0xf0, 0x90")); /* LOCK NOP */
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, ".byte 0x06")); /* PUSH ES in 64-bit mode */
    CHECK_EQ(t.vector, 6);
}

GUEST_TEST(non_canonical_address_is_gp_and_ss_through_the_stack)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $0x800000000000, %%rax; mov (%%rax), %%ecx"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK(TRAPS(&t, "mov %%rbp, %%rbx; mov $0x800000000000, %%rbp\n"
                    "mov (%%rbp), %%ecx; mov %%rbx, %%rbp"));
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, 0);
}

GUEST_TEST(instruction_longer_than_15_bytes_is_gp)
{
    struct trap t;
    CHECK(TRAPS(&t, ".fill 15, 1, 0x66; nop"));
    CHECK_EQ(t.vector, 13);
    CHECK(!TRAPS(&t, ".fill 14, 1, 0x66; nop"));
}

GUEST_TEST(privileged_instructions_are_gp_in_user_mode)
{
    struct trap t;
    CHECK(USER_TRAPS(&t, "cli"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.cs, SEL_USER64);
    CHECK(USER_TRAPS(&t, "hlt"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "mov %%cr0, %%rax"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "rdmsr"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "in $0x80, %%al"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "invlpg (%%rax)"));
    CHECK_EQ(t.vector, 13);
    CHECK(!USER_TRAPS(&t, "nop"));
}

GUEST_TEST(int_n_in_user_mode_obeys_the_gates_dpl)
{
    struct trap t;
    CHECK(USER_TRAPS(&t, "int $0x30"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x30 * 8 + 2); /* IDT bit */
    CHECK(USER_TRAPS(&t, "int3"));
    CHECK_EQ(t.vector, 3);
}

GUEST_TEST(absent_gate_is_np)
{
    struct trap t;
    uint64_t old = guest_idt[2 * 0x31];
    guest_idt[2 * 0x31] &= ~(UINT64_C(0x80) << 40);
    CHECK(TRAPS(&t, "int $0x31"));
    CHECK_EQ(t.vector, 11);
    CHECK_EQ(t.error, 0x31 * 8 + 2);
    guest_idt[2 * 0x31] = old;
}

GUEST_TEST(selector_past_the_table_is_gp_with_the_selector)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $0xfff8, %%eax; mov %%eax, %%ds"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0xfff8);
}

GUEST_TEST(not_present_segment_is_np_and_ss_for_the_stack)
{
    struct trap t;
    guest_gdt[SEL_FREE / 8] = 0x00cf13000000ffff; /* data, not present */
    CHECK(TRAPS(&t, "mov $0x50, %%eax; mov %%eax, %%ds"));
    CHECK_EQ(t.vector, 11);
    CHECK_EQ(t.error, SEL_FREE);
    CHECK(TRAPS(&t, "mov $0x50, %%eax; mov %%eax, %%ss"));
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, SEL_FREE);
    guest_gdt[SEL_FREE / 8] = 0;
}

GUEST_TEST(loading_a_segment_sets_its_accessed_bit)
{
    struct trap t;
    guest_gdt[SEL_FREE / 8] = 0x00cf92000000ffff;
    CHECK(!TRAPS(
        &t, "mov $0x50, %%eax; mov %%eax, %%fs; xor %%eax, %%eax; mov %%eax, %%fs"));
    CHECK_EQ(guest_gdt[SEL_FREE / 8] >> 40 & 0xff, 0x93);
    guest_gdt[SEL_FREE / 8] = 0;
}

GUEST_TEST(single_step_traps_after_one_instruction)
{
    struct trap t;
    CHECK(TRAPS(&t, "pushfq; orl $0x100, (%%rsp); popfq\n"
                    "nop\n1: lea 1b(%%rip), %%rbx; nop"));
    CHECK_EQ(t.vector, 1);
    CHECK(TRAPS(
        &t, "lea 1f(%%rip), %%rbx; pushfq; orl $0x100, (%%rsp); popfq; nop\n1: nop"));
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.rip, t.gpr[3]);
    CHECK_EQ(t.rflags >> 8 & 1, 1);
}

GUEST_TEST(double_fault_when_the_page_fault_handler_is_absent)
{
    struct trap t;
    uint64_t old = guest_idt[2 * 14];
    guest_idt[2 * 14] &= ~(UINT64_C(0x80) << 40);
    CHECK(TRAPS(&t, "mov $0x8000000000, %%rax; mov (%%rax), %%ecx"));
    CHECK_EQ(t.vector, 8);
    CHECK_EQ(t.error, 0);
    guest_idt[2 * 14] = old;
}

GUEST_TEST(exception_pushes_an_aligned_frame_with_the_old_stack)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov %%rsp, %%rbx; sub $5, %%rsp; ud2"));
    CHECK_EQ(t.rsp, t.gpr[3] - 5);
    CHECK_EQ(t.ss, SEL_DATA);
    CHECK_EQ(t.cs, SEL_CODE64);
}

GUEST_TEST(interrupt_gate_clears_if_and_trap_gate_does_not)
{
    static volatile uint64_t seen;
    extern char flags_handler[];
    __asm__ volatile(
        "jmp 2f\nflags_handler: pushfq; pop %%rax; mov %%rax, %0; iretq\n2:"
        : "=m"(seen)
        :
        : "rax");
    guest_gate(0x40, (uint64_t)flags_handler, 14, 0, 0);
    struct trap t;
    CHECK(!TRAPS(&t, "pushfq; orl $0x4000, (%%rsp); popfq; int $0x40; pushfq; andl "
                     "$~0x4000, (%%rsp); popfq"));
    CHECK_EQ(seen & 0x4300, 0); /* NT, IF, TF */
    guest_gate(0x40, guest_stub(0x40), 14, 0, 0);
}

GUEST_TEST(alignment_of_sse_operands_is_gp)
{
    struct trap t;
    CHECK(TRAPS(&t, "lea -24(%%rsp), %%rax; and $-16, %%rax; movaps 1(%%rax), %%xmm0"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK(
        !TRAPS(&t, "lea -40(%%rsp), %%rax; and $-16, %%rax; movups 1(%%rax), %%xmm0"));
}

GUEST_TEST(alignment_check_in_user_mode)
{
    struct trap t;
    write_cr0(read_cr0() | 1 << 18);
    CHECK(
        USER_TRAPS(&t, "pushfq; orl $0x40000, (%%rsp); popfq; mov -15(%%rsp), %%eax"));
    CHECK_EQ(t.vector, 17);
    CHECK_EQ(t.error, 0);
    write_cr0(read_cr0() & ~(UINT64_C(1) << 18));
    CHECK(!USER_TRAPS(&t,
                      "pushfq; orl $0x40000, (%%rsp); popfq; mov -15(%%rsp), %%eax\n"
                      "pushfq; andl $~0x40000, (%%rsp); popfq"));
}

GUEST_TEST(device_not_available_with_ts)
{
    struct trap t;
    write_cr0(read_cr0() | 1 << 3);
    CHECK(TRAPS(&t, "fldz"));
    CHECK_EQ(t.vector, 7);
    CHECK(TRAPS(&t, "pxor %%xmm0, %%xmm0"));
    CHECK_EQ(t.vector, 7);
    __asm__ volatile("clts");
    CHECK(!TRAPS(&t, "fninit; fldz; fstp %%st(0); pxor %%xmm0, %%xmm0"));
}

GUEST_TEST(sse_without_osfxsr_is_ud)
{
    struct trap t;
    uint64_t cr4 = read_cr4();
    write_cr4(cr4 & ~UINT64_C(0x200));
    CHECK(TRAPS(&t, "pxor %%xmm0, %%xmm0"));
    CHECK_EQ(t.vector, 6);
    write_cr4(cr4);
}

GUEST_TEST(unmasked_sse_exception_is_xm)
{
    struct trap t;
    CHECK(TRAPS(&t, "push $0x1d80; ldmxcsr (%%rsp); pop %%rax\n" /* ZM clear */
                    "pxor %%xmm1, %%xmm1; mov $0x3f800000, %%eax; movd %%eax, %%xmm0\n"
                    "divss %%xmm1, %%xmm0"));
    CHECK_EQ(t.vector, 19);
    CHECK(!TRAPS(&t, "push $0x1f80; ldmxcsr (%%rsp); pop %%rax"));
}

GUEST_TEST(unmasked_x87_exception_is_mf_at_the_next_one)
{
    struct trap t;
    CHECK(TRAPS(&t,
                "fninit; push $0x37b; fldcw (%%rsp); pop %%rax\n" /* ZM clear */
                "fldz; fld1; fdiv %%st(1), %%st(0)\nlea 1f(%%rip), %%rbx\n1: fwait"));
    CHECK_EQ(t.vector, 16);
    CHECK_EQ(t.rip, t.gpr[3]);
    CHECK(!TRAPS(&t, "fninit"));
}
