#include <glib.h>

#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_priv.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t1.h"

/*
 * Slots are copies of TLB entries: nothing may be left in one that the TLB no longer
 * holds. Every block is translated at its first execution.
 */

#define MIB2 0x200000u
#define PD   (T0_TEST_PML4 + 0x2000u) /* of the first GiB, in pages of 2 MiB */

static struct t0_test *machine(void)
{
    struct t0_test *t = t0_test_new_options(64, 8192, NULL, "tier=1,heat=1");
    g_assert_cmphex(le64_get(t->ram + PD + 8) & ~UINT64_C(0xfff), ==, MIB2);
    return t;
}

static int run(struct t0_test *t, const void *code, size_t len)
{
    t->s.rip = T0_TEST_CODE;
    t0_test_code(t, code, len);
    return t0_test_run(t);
}

#define RUN(t, name) run(t, name, (size_t)(name##_end - name))

T0_TEST_ASM(load, 64, "mov (%rdi), %rax\n hlt");
T0_TEST_ASM(store, 64, "movb $1, 3(%rdi)\n hlt");
T0_TEST_ASM(load_vector, 64, "movups 16(%rdi), %xmm0\n hlt");
T0_TEST_ASM(pop_off_stack, 64, "mov %rdi, %rsp\n pop %rax\n hlt");
T0_TEST_ASM(store_to_stack, 64, "mov %rdi, %rsp\n mov %eax, 4(%rsp)\n hlt");

/* Without an IDT an exception is the end. */
static void no_address_fits_an_empty_slot(void)
{
    static const uint64_t base[] = {
        UINT64_C(0x5ad731c694e2b000), UINT64_C(0x8000000000000000),
        UINT64_C(0x7ffffffffffff000), UINT64_C(0xff7ffffffffff000),
        UINT64_C(0x0000800000000000), UINT64_C(0xa528ce396b1d4000),
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(base) * 2; i++) {
        struct t0_test *t = machine();
        t->s.gpr[X86_RDI] = base[i / 2] + i % 2 * 8;
        struct x86_state start = t->s;
        g_assert_cmpint(RUN(t, load), ==, VCPU_EXIT_SHUTDOWN);
        t->s = start;
        g_assert_cmpint(RUN(t, store), ==, VCPU_EXIT_SHUTDOWN);
        t->s = start;
        g_assert_cmpint(RUN(t, load_vector), ==, VCPU_EXIT_SHUTDOWN);
        t->s = start;
        g_assert_cmpint(RUN(t, pop_off_stack), ==, VCPU_EXIT_SHUTDOWN);
        t->s = start;
        g_assert_cmpint(RUN(t, store_to_stack), ==, VCPU_EXIT_SHUTDOWN);
        t0_test_free(t);
    }
}

/*
 * The page at 2 MiB becomes the one at 4 MiB and back, each time round. Three accesses
 * in between, at one place: the first fills the TLB, the second the slot.
 */
#define REMAP(what, flush)                                                   \
    "1: mov $3, %edx\n jmp 2f\n 2: " what "\n dec %edx\n jnz 2b\n"           \
    "mov (%rsi), %rcx\n xor $0x600000, %rcx\n mov %rcx, (%rsi)\n" flush "\n" \
    "dec %ebx\n jnz 1b\n hlt"
#define INVLPG   "invlpg (%rdi)"
#define LOAD_CR3 "mov %cr3, %rcx\n mov %rcx, %cr3"

T0_TEST_ASM(load_invlpg, 64, REMAP("add (%rdi), %rax", INVLPG));
T0_TEST_ASM(load_cr3, 64, REMAP("add (%rdi), %rax", LOAD_CR3));
/* More places than a list of slots has room for. */
T0_TEST_ASM(loads_cr3, 64, REMAP(".rept 70\n add (%rdi), %rax\n .endr", LOAD_CR3));
T0_TEST_ASM(store_invlpg, 64, REMAP("incq 8(%rdi)", INVLPG));
T0_TEST_ASM(vector_cr3, 64,
            REMAP("movups (%rdi), %xmm1\n movq %xmm1, %rcx\n add %rcx, %rax",
                  LOAD_CR3));
T0_TEST_ASM(stack_invlpg, 64,
            REMAP("lea 8(%rdi), %rsp\n popq %rcx\n pushq %rcx\n incq (%rsp)", INVLPG));

static void remap(const void *code, size_t len, uint64_t sum, uint64_t count)
{
    struct t0_test *t = machine();
    le64_put(t->ram + MIB2, 1);
    le64_put(t->ram + 2 * MIB2, 1000);
    t->s.gpr[X86_RDI] = MIB2;
    t->s.gpr[X86_RSI] = PD + 8;
    t->s.gpr[X86_RAX] = 0;
    t->s.gpr[X86_RBX] = 100;
    t->s.cr4 |= X86_CR4_OSFXSR;
    g_assert_cmpint(run(t, code, len), ==, VCPU_EXIT_HLT);
    g_assert_cmpuint(t->s.gpr[X86_RAX], ==, sum);
    g_assert_cmpuint(le64_get(t->ram + MIB2 + 8), ==, count);
    g_assert_cmpuint(le64_get(t->ram + 2 * MIB2 + 8), ==, count);
    t0_test_free(t);
}

#define REMAPPED(name, sum, count) remap(name, (size_t)(name##_end - name), sum, count)

static void page_that_is_remapped_is_the_new_one(void)
{
    REMAPPED(load_invlpg, 150 * 1001, 0);
    REMAPPED(load_cr3, 150 * 1001, 0);
    REMAPPED(loads_cr3, 70 * 150 * 1001, 0);
    REMAPPED(store_invlpg, 0, 150);
    REMAPPED(vector_cr3, 150 * 1001, 0);
    REMAPPED(stack_invlpg, 0, 150);
}

/* The first calls are allowed to reach a user's page; the last is not. */
T0_TEST_ASM(
    stac_then_clac, 64,
    "stac\n call 1f\n call 1f\n call 1f\n mov %rax, %rbx\n clac\n call 1f\n hlt\n"
    "1: mov (%rdi), %rax\n ret");

static void slot_filled_with_ac_set_is_not_used_without(void)
{
    struct t0_test *t = machine();
    le64_put(t->ram + PD, le64_get(t->ram + PD) & ~UINT64_C(4)); /* not the user's */
    le64_put(t->ram + MIB2, 42);
    t->s.cr4 |= X86_CR4_SMAP;
    t->s.gpr[X86_RDI] = MIB2;
    t->s.gpr[X86_RSP] = T0_TEST_STACK;
    g_assert_cmpint(RUN(t, stac_then_clac), ==, VCPU_EXIT_SHUTDOWN);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, 42);
    t0_test_free(t);
}

/* A page that is stored to becomes one with code, and the store changes that. */
T0_TEST_ASM(
    store_to_what_becomes_code, 64,
    "mov $0x200000, %edi\n movl $0x000000b8, (%rdi)\n movw $0xc300, 4(%rdi)\n"
    "xor %ebx, %ebx\n mov $1, %ecx\n"
    "1: mov $3, %edx\n jmp 2f\n 2: mov %cl, 1(%rdi)\n dec %edx\n jnz 2b\n call *%rdi\n "
    "add %eax, %ebx\n inc %ecx\n"
    "cmp $100, %ecx\n jbe 1b\n hlt");

static void store_slot_ends_where_code_begins(void)
{
    struct t0_test *t = machine();
    g_assert_cmpint(RUN(t, store_to_what_becomes_code), ==, VCPU_EXIT_HLT);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, 5050);
    t0_test_free(t);
}

/* Two pages in turn, from one place: more refills than are made. */
T0_TEST_ASM(pages_in_turn, 64,
            "xor %eax, %eax\n mov $1000, %ecx\n mov $0x200000, %edi\n"
            "1: add (%rdi), %rax\n add 0xfff(%rdi), %rdx\n xor $0x3000, %rdi\n"
            "dec %ecx\n jnz 1b\n hlt");

static void site_that_gives_up_reads_the_same(void)
{
    struct t0_test *t = machine();
    le64_put(t->ram + MIB2, 1);
    le64_put(t->ram + MIB2 + 0x3000, 2);
    for (unsigned i = 0; i < 3; i++) {
        t->s.gpr[X86_RDX] = 0;
        g_assert_cmpint(RUN(t, pages_in_turn), ==, VCPU_EXIT_HLT);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 1500);
        g_assert_cmpuint(t->s.gpr[X86_RDX], ==, 0);
    }
    t0_test_free(t);
}

/* Loads of 16 bytes behind each address that RSI leads to, up to 0. */
T0_TEST_ASM(load_from_list, 64,
            "1: mov (%rsi), %rdi\n test %rdi, %rdi\n jz 2f\n movups 16(%rdi), %xmm0\n"
            "add $8, %rsi\n jmp 1b\n 2: movhlps %xmm0, %xmm1\n movq %xmm0, %rax\n"
            "movq %xmm1, %rdx\n hlt");

/* Of an access over a page's end each part is from its own page, whichever of the two
 * the site was in before. */
static void access_over_a_page_is_in_both(void)
{
    static const uint64_t before[] = {MIB2 - 256, MIB2 + 256};
    for (unsigned i = 0; i < G_N_ELEMENTS(before); i++) {
        struct t0_test *t = machine();
        for (unsigned k = 0; k < 4; k++) {
            le64_put(t->ram + 0x20000 + k * 8, (k < 3 ? before[i] : MIB2 - 8) - 16);
        }
        le64_put(t->ram + PD + 8, (le64_get(t->ram + PD + 8) ^ 3 * MIB2));
        le64_put(t->ram + MIB2 - 8, 1);
        le64_put(t->ram + MIB2, 2);
        le64_put(t->ram + 2 * MIB2 - 8, 3);
        le64_put(t->ram + 2 * MIB2, 4);
        t->s.cr4 |= X86_CR4_OSFXSR;
        t->s.gpr[X86_RSI] = 0x20000;
        g_assert_cmpint(RUN(t, load_from_list), ==, VCPU_EXIT_HLT);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 1);
        g_assert_cmpuint(t->s.gpr[X86_RDX], ==, 4);
        t0_test_free(t);
    }
}

/* Of an access that may be misaligned the numbers of two pages are added, whose sum is
 * the number of another page. */
static void page_of_half_the_number_is_another_one(void)
{
    struct t0_test *t = machine();
    for (unsigned k = 0; k < 6; k++) {
        le64_put(t->ram + 0x20000 + k * 8, k < 4 ? 2 * MIB2 : MIB2);
    }
    le64_put(t->ram + PD + 16, le64_get(t->ram + PD + 16) ^ MIB2);
    le64_put(t->ram + 3 * MIB2 + 16, 1);
    le64_put(t->ram + MIB2 + 16, 2);
    le64_put(t->ram + MIB2 + 24, 3);
    t->s.cr4 |= X86_CR4_OSFXSR;
    t->s.gpr[X86_RSI] = 0x20000;
    g_assert_cmpint(RUN(t, load_from_list), ==, VCPU_EXIT_HLT);
    g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 2);
    g_assert_cmpuint(t->s.gpr[X86_RDX], ==, 3);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!t1_supported()) {
        g_test_message("no BMI2 here");
        return 77;
    }
    g_test_add_func("/t1/slot/empty", no_address_fits_an_empty_slot);
    g_test_add_func("/t1/slot/remap", page_that_is_remapped_is_the_new_one);
    g_test_add_func("/t1/slot/smap", slot_filled_with_ac_set_is_not_used_without);
    g_test_add_func("/t1/slot/code", store_slot_ends_where_code_begins);
    g_test_add_func("/t1/slot/crossing", access_over_a_page_is_in_both);
    g_test_add_func("/t1/slot/half", page_of_half_the_number_is_another_one);
    g_test_add_func("/t1/slot/turns", site_that_gives_up_reads_the_same);
    return g_test_run();
}
