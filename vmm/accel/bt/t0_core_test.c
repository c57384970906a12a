#include "vmm/accel/bt/t0_test.h"

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/* Blocks, chains and self-modifying code (APM 2 7.6.1: a store into the instruction
 * stream takes effect for what follows). */

#define RUN(t) g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)
#define RAX(t) ((t)->s.gpr[X86_RAX])

T0_TEST_ASM(mov_hlt, 64, "mov $1, %eax\n hlt");

static void mov_and_halt(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, mov_hlt);
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 1);
    g_assert_cmphex(t->s.rip, ==, T0_TEST_CODE + 6);
    g_assert_cmpuint(atomic_load(&t->vcpu->insns), ==, 2);
    t0_test_free(t);
}

T0_TEST_ASM(count, 64,
            "mov $1000, %ecx\n xor %eax, %eax\n 1: add %ecx, %eax\n"
            "dec %ecx\n jnz 1b\n hlt");

static void loop_counts(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, count);
    RUN(t);
    g_assert_cmpuint(RAX(t), ==, 500500);
    g_assert_cmpuint(atomic_load(&t->vcpu->insns), ==, 2 + 3000 + 1);
    t0_test_free(t);
}

T0_TEST_ASM(sled, 64, "xor %eax, %eax\n .rept 3000\n inc %eax\n .endr\n hlt");

/* Longer than a block, and over a page. */
static void long_straight_code(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, sled);
    RUN(t);
    g_assert_cmpuint(RAX(t), ==, 3000);
    g_assert_cmpuint(atomic_load(&t->vcpu->insns), ==, 3002);
    t0_test_free(t);
}

T0_TEST_ASM(patch_next, 64, "movb $5, 1f+1(%rip)\n 1: mov $1, %eax\n hlt");

static void store_into_next_instruction(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, patch_next);
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 5);
    t0_test_free(t);
}

T0_TEST_ASM(patch_rmw, 64, "lock addl $7, 1f+1(%rip)\n 1: mov $1, %eax\n hlt");
T0_TEST_ASM(patch_string, 64,
            "lea 1f+1(%rip), %rdi\n mov $9, %al\n mov $1, %ecx\n"
            "rep stosb\n 1: mov $1, %eax\n hlt");
T0_TEST_ASM(patch_push, 64,
            "lea 1f+9(%rip), %rsp\n mov $0xf4f4f4f404030201, %rbx\n"
            "push %rbx\n 1: mov $1, %eax\n hlt\n .skip 8");

/* The other ways to store. */
static void every_store_counts(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, patch_rmw);
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 8);
    t0_test_asm(t, patch_string);
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 9);
    t0_test_asm(t, patch_push);
    t0_test_run(t);
    g_assert_cmphex(RAX(t), ==, 0x04030201);
    t0_test_free(t);
}

T0_TEST_ASM(patch_called, 64,
            "xor %ebp, %ebp\n mov $10, %ecx\n 1: call 2f\n add %eax, %ebp\n"
            "incb 2f+1(%rip)\n dec %ecx\n jnz 1b\n mov %ebp, %eax\n hlt\n"
            ".skip 64\n 2: mov $1, %eax\n ret");

/* A function changed between calls: 1 + 2 + ... + 10. */
static void store_into_chained_block(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, patch_called);
    RUN(t);
    g_assert_cmpuint(RAX(t), ==, 55);
    t0_test_free(t);
}

T0_TEST_ASM(patch_far, 64,
            "xor %ebp, %ebp\n mov $10, %ecx\n 1: call 1b-7+0x1ffd\n add %eax, %ebp\n"
            "incb 1b-7+0x1ffe+3(%rip)\n dec %ecx\n jnz 1b\n mov %ebp, %eax\n hlt");

/* The same with an instruction over the end of a page, changed in its second half. */
static void store_into_straddling_instruction(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    const uint8_t f[] = {0xb8, 1, 0, 0, 0, 0xc3}; /* mov eax, 1; ret */
    t0_test_asm(t, patch_far);
    g_assert_cmpint(gmem_write(t->vm->gmem, T0_TEST_CODE + 0x1ffd, f, 6), ==, 0);
    RUN(t);
    /* The byte at +4 is the immediate's highest: 1 + 1 + 0x1000001 + ... */
    g_assert_cmphex(RAX(t), ==, 10 + 0x01000000u * 45);
    t0_test_free(t);
}

/* A device writes code that has run. */
static void dma_into_code(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, mov_hlt);
    RUN(t);
    t->s.rip = T0_TEST_CODE;
    g_assert_cmpint(gmem_write(t->vm->gmem, T0_TEST_CODE + 1, "\x22", 1), ==, 0);
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 0x22);
    t0_test_free(t);
}

T0_TEST_ASM(patch_alias, 64,
            "lea 1f+1(%rip), %rdi\n add %rbx, %rdi\n movb $6, (%rdi)\n"
            "1: mov $1, %eax\n hlt");

/* The same memory at another address: 2 MiB page 1 is mapped to page 0. */
static void store_through_alias(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    le64_put(t->ram + T0_TEST_PML4 + 0x2008, 0x87);
    t0_test_asm(t, patch_alias);
    t->s.gpr[X86_RBX] = 0x200000;
    RUN(t);
    g_assert_cmphex(RAX(t), ==, 6);
    t0_test_free(t);
}

T0_TEST_ASM(data_beside, 64,
            "mov $1000, %ecx\n 1: addl $3, 2f(%rip)\n dec %ecx\n jnz 1b\n"
            "mov 2f(%rip), %eax\n hlt\n 2: .long 0");

/* Data among code is slow but right. */
static void data_among_code(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, data_beside);
    RUN(t);
    g_assert_cmpuint(RAX(t), ==, 3000);
    t0_test_free(t);
}

T0_TEST_ASM(read_code, 64, "mov $1, %eax\n hlt");

/* When no block of a page is left its stores are fast again: the code byte is 0. */
static void page_stops_being_code(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    const struct gmem_region *r = gmem_find(t->vm->gmem, 0);
    t0_test_asm(t, read_code);
    RUN(t);
    g_assert_cmphex(atomic_load(&r->code[T0_TEST_CODE >> 12]), ==, 1);
    t0_test_asm(t, mov_hlt);
    t->s.rip = T0_TEST_CODE + 0x2000;
    g_assert_cmpint(gmem_write(t->vm->gmem, t->s.rip, "\xf4", 1), ==, 0);
    RUN(t);
    g_assert_cmphex(atomic_load(&r->code[T0_TEST_CODE >> 12]), ==, 0);
    t0_test_free(t);
}

/* More code than the cache holds: 128 KiB for what needs 2 MiB. */
static void cache_overflows(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    uint8_t *p = t->ram + 0x20000;
    for (unsigned i = 0; i < 0x18000; i += 2) {
        p[i] = 0xff, p[i + 1] = 0xc0; /* inc eax */
    }
    p[0x18000] = 0xf4;
    t->s.rip = 0x20000;
    for (int i = 1; i <= 5; i++) {
        t->s.rip = 0x20000;
        RUN(t);
        g_assert_cmpuint(RAX(t), ==, (unsigned)i * 0xc000);
    }
    t0_test_free(t);
}

/* Options that do not exist are refused by name. */
/* COMISD with F2 is none; its fourth byte makes a BSF of it. */
static void last_byte_of_no_instruction_counts(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    static const uint8_t none[] = {0xf2, 0x48, 0x0f, 0x2f, 0xd1, 0xf4};
    t0_test_catch_all(t);
    t0_test_code(t, none, sizeof(none));
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RBX], ==, X86_EXC_UD);
    uint8_t bsf = 0xbc;
    g_assert_cmpint(gmem_write(t->vm->gmem, T0_TEST_CODE + 3, &bsf, 1), ==, 0);
    t->s.rip = T0_TEST_CODE;
    t->s.gpr[X86_RCX] = 16;
    t->s.gpr[X86_RBX] = 0;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RBX], ==, 0);
    g_assert_cmphex(t->s.gpr[X86_RDX], ==, 4);
    t0_test_free(t);
}

static void bad_options(void)
{
    static const char *const text[] = {"{\"tire\":\"0\"}", "{\"tier\":\"9\"}",
                                       "{\"record\":\"maybe\"}",
                                       "{\"cache-size\":\"1\"}"};
    for (unsigned i = 0; i < ARRAY_LEN(text); i++) {
        json_t *options = json_loads(text[i], 0, NULL);
        GError *error = NULL;
        void *state;
        struct vm vm = {0};
        g_assert_false(bt_accel_ops.init(&vm, options, &state, &error));
        g_assert_nonnull(error);
        g_clear_error(&error);
        json_decref(options);
    }
}

/* --- System management mode, with a board that keeps the state aside ----------- */

#define SMM_CODE 0x20000u
#define SMM_NOTE 0x21000u

struct fake_smram {
    struct x86_state saved;
    unsigned entries;
    bool broken;
};

static void fake_enter(void *opaque, struct vcpu *vcpu, struct x86_state *state)
{
    struct fake_smram *f = opaque;
    f->saved = *state;
    f->entries++;
    state->rip = SMM_CODE;
    state->rflags = X86_FL_R1;
    state->nmi_blocked = true;
}

static bool fake_resume(void *opaque, struct vcpu *vcpu, struct x86_state *state)
{
    struct fake_smram *f = opaque;
    *state = f->saved;
    return !f->broken;
}

static const struct x86_smm_ops fake_ops = {.enter = fake_enter, .resume = fake_resume};

T0_TEST_ASM(smm_handler, 64, "incl 0x21000\n xor %ebx, %ebx\n rsm\n ud2");
T0_TEST_ASM(smm_guest, 64, "inc %ebx\n inc %ebx\n hlt");

static struct t0_test *machine_with_smm(struct fake_smram *f)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_catch_all(t);
    x86_connect_smm(t->vm, &fake_ops, f);
    memcpy(t->ram + SMM_CODE, smm_handler, (size_t)(smm_handler_end - smm_handler));
    t0_test_asm(t, smm_guest);
    return t;
}

static const struct lapic_msg smi = {.mode = LAPIC_MODE_SMI};

static void smi_is_taken_between_instructions_and_rsm_ends_it(void)
{
    struct fake_smram f = {.entries = 0};
    struct t0_test *t = machine_with_smm(&f);
    g_assert_cmpuint(lapic_deliver(t->vm, &smi), ==, 1);
    RUN(t);
    g_assert_cmpuint(f.entries, ==, 1);
    g_assert_cmphex(f.saved.rip, ==, T0_TEST_CODE);
    g_assert_cmpuint(le32_get(t->ram + SMM_NOTE), ==, 1);
    g_assert_cmphex(t->s.gpr[X86_RBX], ==, 2); /* what the handler did is undone */
    g_assert_false(t->s.nmi_blocked);
    t0_test_free(t);
}

static void rsm_of_a_broken_state_shuts_down(void)
{
    struct fake_smram f = {.broken = true};
    struct t0_test *t = machine_with_smm(&f);
    lapic_deliver(t->vm, &smi);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_SHUTDOWN);
    t0_test_free(t);
}

T0_TEST_ASM(rsm_alone, 64, "rsm");

static void rsm_outside_of_smm_is_ud(void)
{
    struct fake_smram f = {.entries = 0};
    struct t0_test *t = machine_with_smm(&f);
    t0_test_asm(t, rsm_alone);
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RBX], ==, 6);
    t0_test_free(t);
}

static void smi_without_a_board_for_it_finds_nobody(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    g_assert_cmpuint(lapic_deliver(t->vm, &smi), ==, 0);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/mov_and_halt", mov_and_halt);
    g_test_add_func("/t0/loop_counts", loop_counts);
    g_test_add_func("/t0/long_straight_code", long_straight_code);
    g_test_add_func("/t0/smc/store_into_next_instruction", store_into_next_instruction);
    g_test_add_func("/t0/smc/every_store_counts", every_store_counts);
    g_test_add_func("/t0/smc/store_into_chained_block", store_into_chained_block);
    g_test_add_func("/t0/smc/store_into_straddling", store_into_straddling_instruction);
    g_test_add_func("/t0/smc/dma_into_code", dma_into_code);
    g_test_add_func("/t0/smc/store_through_alias", store_through_alias);
    g_test_add_func("/t0/smc/data_among_code", data_among_code);
    g_test_add_func("/t0/smc/page_stops_being_code", page_stops_being_code);
    g_test_add_func("/t0/smc/last_byte_of_none", last_byte_of_no_instruction_counts);
    g_test_add_func("/t0/cache_overflows", cache_overflows);
    g_test_add_func("/t0/bad_options", bad_options);
    g_test_add_func("/t0/smm/smi", smi_is_taken_between_instructions_and_rsm_ends_it);
    g_test_add_func("/t0/smm/broken", rsm_of_a_broken_state_shuts_down);
    g_test_add_func("/t0/smm/outside", rsm_outside_of_smm_is_ud);
    g_test_add_func("/t0/smm/none", smi_without_a_board_for_it_finds_nobody);
    return g_test_run();
}
