#include <glib.h>

#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t2_priv.h"

/*
 * Hot regions where something happens to them. That they compute what T0 does is the
 * instruction fuzzer's and the guests' to show.
 */

#define RUN(t) g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)

static struct t0_cpu *cpu_of(struct t0_test *t)
{
    return t->vcpu->accel;
}

static const struct t2_core *core_of(struct t0_test *t)
{
    return cpu_of(t)->core->t1->t2;
}

static struct t0_test *machine(const char *more)
{
    g_autofree char *options = g_strdup_printf("tier=2,heat=1%s", more);
    return t0_test_new_options(64, 2048, NULL, options);
}

/* Every register but RSP has its part in it, and a function. */
T0_TEST_ASM(loop_with_call, 64,
            "mov $100, %ecx\n xor %eax, %eax\n xor %r15d, %r15d\n mov $3, %r9d\n"
            "1: mov %ecx, %r10d\n add %r9, %r15\n call 2f\n lea (%rax, %r11), %rax\n"
            "dec %ecx\n jnz 1b\n hlt\n"
            "2: lea (%r10, %r10), %r11\n mov %r11, %r14\n ret");

static void loop_with_call_is_one_region(void)
{
    struct t0_test *t = machine(",t2-heat=1");
    for (unsigned i = 0; i < 3; i++) {
        t0_test_asm(t, loop_with_call);
        uint64_t insns = cpu_of(t)->insns;
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 100 * 101);
        g_assert_cmpuint(t->s.gpr[X86_R15], ==, 300);
        g_assert_cmpuint(t->s.gpr[X86_R14], ==, 2);
        g_assert_cmpuint(t->s.gpr[X86_R10], ==, 1);
        g_assert_cmpuint(t->s.gpr[X86_RSP], ==, T0_TEST_STACK);
        g_assert_cmpuint(cpu_of(t)->insns - insns, ==, 4 + 100 * 9 + 1);
    }
    g_assert_cmpuint(core_of(t)->nb_built, >, 0);
    t0_test_free(t);
}

/* From the 500th round on 3 is added instead of 1. The store is in the region too, in
 * another block, and in each round; most leave the code as it was. */
T0_TEST_ASM(loop_changes_itself, 64,
            "mov $1000, %ecx\n xor %eax, %eax\n lea 2f(%rip), %rdi\n mov $3, %esi\n"
            "1: mov $1, %edx\n cmp $500, %ecx\n cmovbe %esi, %edx\n"
            "mov %dl, 2(%rdi)\n jmp 2f\n"
            "2: add $1, %eax\n dec %ecx\n jnz 1b\n hlt");

static void region_is_left_when_its_code_changes(void)
{
    struct t0_test *t = machine(",t2-heat=1");
    for (unsigned i = 0; i < 3; i++) {
        t0_test_asm(t, loop_changes_itself);
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 500 + 3 * 500);
    }
    g_assert_cmpuint(core_of(t)->nb_killed, >, 0);
    t0_test_free(t);
}

/* The same by a call, whose push is what changes the code: the stack is in it. */
T0_TEST_ASM(push_changes_code, 64,
            "mov $200, %ecx\n xor %eax, %eax\n lea 3f(%rip), %r8\n mov %rsp, %rbx\n"
            "1: mov %rbx, %rsp\n cmp $100, %ecx\n cmove %r8, %rsp\n"
            "call 2f\n add $1, %eax\n dec %ecx\n jnz 1b\n mov %rbx, %rsp\n hlt\n"
            "2: pop %rdx\n add $10, %eax\n jmp *%rdx\n"
            ".byte 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90\n 3: nop");

static void region_is_left_when_a_push_changes_its_page(void)
{
    struct t0_test *t = machine(",t2-heat=1");
    for (unsigned i = 0; i < 3; i++) {
        t0_test_asm(t, push_changes_code);
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 200 * 11);
    }
    g_assert_cmpuint(core_of(t)->nb_built, >, 0);
    t0_test_free(t);
}

/* A fault in the middle, with lent registers: the handler sees them all. */
T0_TEST_ASM(loop_faults, 64,
            "mov $100, %ecx\n xor %r9d, %r9d\n xor %r15d, %r15d\n mov $0x20000, %edi\n"
            "1: inc %r9\n lea (%r9, %r9), %r15\n add $0x1000000, %rdi\n"
            "mov (%rdi), %rdx\n jmp 1b");

static void fault_in_a_region_is_precise(void)
{
    struct t0_test *t = machine(",t2-heat=1");
    t0_test_catch_all(t);
    for (unsigned i = 0; i < 3; i++) {
        t0_test_asm(t, loop_faults);
        t->s.gpr[X86_RSP] = T0_TEST_STACK;
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RBX], ==, X86_EXC_PF);
        g_assert_cmphex(t->s.cr2, ==, 0x40020000); /* the first GiB is mapped */
        g_assert_cmpuint(t->s.gpr[X86_R9], ==, 64);
        g_assert_cmpuint(t->s.gpr[X86_R15], ==, 128);
        g_assert_cmphex(t->s.gpr[X86_RDI], ==, 0x40020000);
    }
    t0_test_free(t);
}

/* The registers without one of the host are used so much more than the others that they
 * would get those of RAX to RDX, too; but these have halves. */
T0_TEST_ASM(loop_with_high_bytes, 64,
            "mov $100, %ecx\n xor %eax, %eax\n xor %ebx, %ebx\n xor %edx, %edx\n"
            "mov $1, %r9d\n xor %r10d, %r10d\n mov $2, %r11d\n xor %r14d, %r14d\n"
            "xor %r15d, %r15d\n"
            "1: .rept 8\n add %r9, %r10\n add %r11, %r14\n add %r10, %r15\n .endr\n"
            ".rept 3\n mov %rsi, %rdi\n mov %rbp, %r8\n mov %r12, %r13\n .endr\n"
            "add $1, %ah\n add %ah, %bh\n xor %bh, %dh\n dec %ecx\n jnz 1b\n hlt");

static void high_bytes_are_found_in_a_region(void)
{
    struct t0_test *t = machine(",t2-heat=1");
    uint8_t bh = 0, dh = 0;
    for (unsigned i = 1; i <= 100; i++) {
        bh += i;
        dh ^= bh;
    }
    for (unsigned i = 0; i < 3; i++) {
        t0_test_asm(t, loop_with_high_bytes);
        RUN(t);
        g_assert_cmphex(t->s.gpr[X86_RAX], ==, 100 << 8);
        g_assert_cmphex(t->s.gpr[X86_RBX], ==, bh << 8);
        g_assert_cmphex(t->s.gpr[X86_RDX], ==, dh << 8);
        g_assert_cmpuint(t->s.gpr[X86_R10], ==, 800);
        g_assert_cmpuint(t->s.gpr[X86_R14], ==, 1600);
        g_assert_cmpuint(t->s.gpr[X86_R15], ==, 800 * 801 / 2);
    }
    g_assert_cmpuint(core_of(t)->nb_built, >, 0);
    t0_test_free(t);
}

/* The sum of two words 16 bytes apart at each address in a list, up to 0. */
T0_TEST_ASM(sums_of_list, 64,
            "xor %eax, %eax\n xor %ebx, %ebx\n"
            "1: mov (%rsi), %rdi\n test %rdi, %rdi\n jz 2f\n"
            "add (%rdi), %rax\n add $16, %rdi\n add (%rdi), %rbx\n"
            "add $8, %rsi\n jmp 1b\n 2: hlt");

#define MIB2 0x200000u
#define LIST 0x20000u
#define PD   (T0_TEST_PML4 + 0x2000u) /* of the first GiB, in pages of 2 MiB */

static void accesses_that_a_page_parts_are_in_their_own(void)
{
    struct t0_test *t = t0_test_new_options(64, 8192, NULL, "tier=2,heat=1,t2-heat=1");
    le64_put(t->ram + PD + 8, le64_get(t->ram + PD + 8) ^ 3 * MIB2);
    le64_put(t->ram + MIB2 - 8, 1);
    le64_put(t->ram + MIB2 + 8, 100); /* not here: */
    le64_put(t->ram + 2 * MIB2 + 8, 2);
    le64_put(t->ram + 0x30000, 10);
    le64_put(t->ram + 0x30010, 20);
    for (unsigned k = 0; k < 100; k++) {
        le64_put(t->ram + LIST + k * 8, k < 80 ? 0x30000 : MIB2 - 8);
    }
    for (unsigned i = 0; i < 3; i++) {
        t->s.gpr[X86_RSI] = LIST;
        t0_test_asm(t, sums_of_list);
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 80 * 10 + 20 * 1);
        g_assert_cmpuint(t->s.gpr[X86_RBX], ==, 80 * 20 + 20 * 2);
    }
    g_assert_cmpuint(core_of(t)->nb_built, >, 0);
    t0_test_free(t);
}

/* Samples as the thread would take them: attention is asked for before each run. */
static void loop_that_is_sampled_twice_becomes_a_region(void)
{
    struct t0_test *t = machine(",t2-heat=0");
    t0_test_asm(t, loop_with_call);
    RUN(t);
    uint64_t head = T0_TEST_CODE + 16; /* label 1 */
    for (unsigned i = 0; i < 2 * T2_SAMPLES; i++) {
        t->s.rip = head;
        t->s.gpr[X86_RAX] = 0;
        t->s.gpr[X86_RCX] = 100;
        t2_sample(cpu_of(t));
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 100 * 101);
    }
    g_assert_cmpuint(core_of(t)->nb_recorded, ==, 1);
    g_assert_cmpuint(core_of(t)->nb_built, ==, 1);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!t1_supported()) {
        g_test_message("no BMI2 here");
        return 77;
    }
    g_test_add_func("/t2/call", loop_with_call_is_one_region);
    g_test_add_func("/t2/changes", region_is_left_when_its_code_changes);
    g_test_add_func("/t2/push", region_is_left_when_a_push_changes_its_page);
    g_test_add_func("/t2/fault", fault_in_a_region_is_precise);
    g_test_add_func("/t2/high", high_bytes_are_found_in_a_region);
    g_test_add_func("/t2/parts", accesses_that_a_page_parts_are_in_their_own);
    g_test_add_func("/t2/sample", loop_that_is_sampled_twice_becomes_a_region);
    return g_test_run();
}
