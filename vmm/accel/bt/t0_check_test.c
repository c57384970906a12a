#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_decode.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t1.h"

/* Pages with code that are stored to all the time: their code is compared at each
 * entry, and whoever changes it is noticed all the same. */

#define RUN(t) g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)
#define RAX(t) ((t)->s.gpr[X86_RAX])

enum { PAGE = 0x20000, OFTEN = 20000 };

static struct t0_cpu *cpu_of(struct t0_test *t)
{
    return t->vcpu->accel;
}

static uint8_t code_bits(struct t0_test *t, uint64_t gpa)
{
    return atomic_load(&gmem_find(t->vm->gmem, 0)->code[gpa >> 12]);
}

/* RCX times: call PAGE (a RET), and store beside it. */
T0_TEST_ASM(heat_page, 64,
            "movb $0xc3, 0x20ff0\n 1: mov $0x20ff0, %eax\n call *%rax\n incl 0x20fe0\n"
            "dec %ecx\n jnz 1b\n hlt");

static void make_checked(struct t0_test *t)
{
    t0_test_asm(t, heat_page);
    memset(t->ram + PAGE + 0xfe0, 0, 4);
    t->s.gpr[X86_RCX] = OFTEN;
    RUN(t);
    g_assert_cmpuint(le32_get(t->ram + PAGE + 0xfe0), ==, OFTEN);
    g_assert_cmpuint(cpu_of(t)->core->nb_checked, ==, 1);
    g_assert_cmphex(code_bits(t, PAGE), ==, 0);
}

static struct t0_test *machine(unsigned tier)
{
    g_autofree char *options =
        g_strdup_printf("tier=%u,heat=1,cache-size=4M", tier && t1_supported());
    return t0_test_new_options(64, 1024, NULL, options);
}

static void put(struct t0_test *t, uint64_t at, const void *bytes, unsigned n)
{
    g_assert_cmpint(gmem_write(t->vm->gmem, at, bytes, n), ==, 0);
}

/* Call the function at RSI with AL = 0. */
T0_TEST_ASM(call_once, 64, "xor %eax, %eax\n call *%rsi\n hlt");

static uint64_t call_first(struct t0_test *t, uint64_t at)
{
    t0_test_asm(t, call_once);
    t->s.gpr[X86_RSI] = at;
    t->s.gpr[X86_RSP] = T0_TEST_STACK;
    RUN(t);
    return RAX(t);
}

/* Once more: what was just decoded is entered again. */
static uint64_t call(struct t0_test *t, uint64_t at)
{
    uint64_t v = call_first(t, at);
    g_assert_cmphex(call_first(t, at), ==, v);
    return v;
}

static void stores_beside_code_are_fast(gconstpointer tier)
{
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    make_checked(t);
    const struct t0_counters *n = &cpu_of(t)->core->n;
    uint64_t stores = n->smc_stores, killed = n->blocks_killed;
    g_assert_cmpuint(n->pages_checked, ==, 1);
    g_assert_cmpuint(n->checks_failed, ==, 0);
    make_checked(t);
    /* The code itself lies in another page and was written again as it was. */
    g_assert_cmpuint(n->smc_stores - stores, <, 16);
    g_assert_cmpuint(n->blocks_killed - killed, <, 16);
    t0_test_free(t);
}

/* Blocks of each length and every byte of them: nop ...; mov al, 0x11; jmp over one of
 * two ways out, which is the last byte. */
static void every_byte_counts(gconstpointer tier)
{
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    make_checked(t);
    for (unsigned nops = 0; nops < 18; nops++) {
        uint8_t f[32];
        memset(f, 0x90, sizeof(f));
        unsigned n = nops;
        f[n++] = 0xb0, f[n++] = 0x11;     /* mov al, 0x11 */
        f[n++] = 0xeb, f[n++] = 0;        /* jmp to the next */
        f[n] = 0xc3;                      /* ret */
        f[n + 1] = 0xfe, f[n + 2] = 0xc0; /* inc al */
        f[n + 3] = 0xc3;
        uint64_t at = PAGE + 0x100;
        put(t, at, f, sizeof(f));
        g_assert_cmphex(call(t, at), ==, 0x11);
        put(t, at + n - 1, "\x01", 1); /* the last byte of the block */
        g_assert_cmphex(call(t, at), ==, 0x12);
        put(t, at + n - 3, "\x21", 1); /* the immediate */
        g_assert_cmphex(call(t, at), ==, 0x22);
        for (unsigned i = 0; i < nops; i++) {
            put(t, at + i, "\xf9", 1); /* stc: nothing else sets CF */
            g_assert_cmphex(call(t, at), ==, 0x22);
            g_assert_true(t->s.rflags & X86_FL_CF);
            put(t, at + i, "\xf8", 1); /* clc */
            g_assert_cmphex(call(t, at), ==, 0x22);
            g_assert_false(t->s.rflags & X86_FL_CF);
        }
    }
    g_assert_cmpuint(cpu_of(t)->core->n.checks_failed, >, 18);
    g_assert_cmphex(code_bits(t, PAGE), ==, 0);
    t0_test_free(t);
}

/* At PAGE + 0x200: a store into the instruction after it, in each way. */
T0_TEST_ASM(ahead_mov, 64, "movb $0x33, 1f+1(%rip)\n 1: mov $1, %al\n ret");
T0_TEST_ASM(ahead_rmw, 64, "lock addb $0x10, 1f+1(%rip)\n 1: mov $1, %al\n ret");
T0_TEST_ASM(ahead_stos, 64,
            "lea 1f+1(%rip), %rdi\n mov $0x44, %al\n stosb\n 1: mov $1, %al\n ret");
T0_TEST_ASM(ahead_movs, 64,
            "lea 1f+1(%rip), %rdi\n lea 2f(%rip), %rsi\n mov $1, %ecx\n rep movsb\n"
            "1: mov $1, %al\n ret\n 2: .byte 0x77");
T0_TEST_ASM(ahead_push, 64,
            "mov %rsp, %rbx\n lea 1f+8(%rip), %rsp\n mov $0xc3dc8948909055b0, %rdx\n"
            "push %rdx\n .byte 0x90\n 1: mov $1, %al\n nop\n nop\n mov %rbx, %rsp\n"
            "ret\n .skip 8");
T0_TEST_ASM(ahead_vector, 64,
            "mov $0xc366b0, %edx\n movq %rdx, %xmm0\n movups %xmm0, 1f(%rip)\n"
            "1: mov $1, %al\n ret\n .skip 16");

static void block_changes_itself_ahead(gconstpointer tier)
{
    static const struct {
        const uint8_t *code, *end;
        unsigned want[2]; /* at the first call, then at the second */
    } all[] = {
        {ahead_mov, ahead_mov_end, {0x33, 0x33}},
        {ahead_rmw, ahead_rmw_end, {0x11, 0x21}},
        {ahead_stos, ahead_stos_end, {0x44, 0x44}},
        {ahead_movs, ahead_movs_end, {0x77, 0x77}},
        {ahead_push, ahead_push_end, {0x55, 0x55}},
        {ahead_vector, ahead_vector_end, {0x66, 0x66}},
    };
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    make_checked(t);
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        for (unsigned round = 0; round < 8; round++) {
            put(t, PAGE + 0x200, all[i].code, (unsigned)(all[i].end - all[i].code));
            g_assert_cmphex(call_first(t, PAGE + 0x200) & 0xff, ==, all[i].want[0]);
            g_assert_cmphex(call_first(t, PAGE + 0x200) & 0xff, ==, all[i].want[1]);
        }
    }
    g_assert_cmpuint(cpu_of(t)->core->nb_checked, ==, 1);
    t0_test_free(t);
}

/* mov eax, imm32 over the end of the checked page, or into it. */
static void instruction_over_the_border(gconstpointer tier)
{
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    make_checked(t);
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned before = 1; before < 5; before++) {
            uint64_t at = PAGE + k * 0x1000 - before;
            const uint8_t f[] = {0xb8, 0, 0, 0, 0, 0xc3};
            put(t, at, f, sizeof(f));
            g_assert_cmphex(call(t, at), ==, 0);
            for (unsigned i = 1; i < 5; i++) {
                put(t, at + i, "\x7e", 1);
                g_assert_cmphex(call(t, at), ==, 0x7e7e7e7eu >> (32 - 8 * i));
            }
        }
    }
    t0_test_free(t);
}

/* After a while the page is protected again, and then checked again if that was wrong.
 */
static void page_is_protected_again(gconstpointer tier)
{
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    make_checked(t);
    struct t0_cpu *c = cpu_of(t);
    t0_code_review(c);
    g_assert_cmpuint(c->core->nb_checked, ==, 1);
    c->insns += t0_check_period(0);
    t0_code_review(c);
    g_assert_cmpuint(c->core->nb_checked, ==, 0);
    const uint8_t f[] = {0xb0, 0x77, 0xc3};
    put(t, PAGE + 0x300, f, sizeof(f));
    g_assert_cmphex(call(t, PAGE + 0x300), ==, 0x77);
    g_assert_cmphex(code_bits(t, PAGE), !=, 0);
    put(t, PAGE + 0x301, "\x78", 1);
    g_assert_cmphex(call(t, PAGE + 0x300), ==, 0x78);
    make_checked(t);
    /* For longer, now. */
    c->insns += t0_check_period(0);
    t0_code_review(c);
    g_assert_cmpuint(c->core->nb_checked, ==, 1);
    c->insns += t0_check_period(1);
    t0_code_review(c);
    g_assert_cmpuint(c->core->nb_checked, ==, 0);
    t0_test_free(t);
}

/* A function that is written again as it was, before each call. */
T0_TEST_ASM(write_again, 64,
            "mov $100, %ecx\n 1: movl $0x909011b0, 0x20400\n movw $0xc390, 0x20403\n"
            "movb $0x90, 0x20402\n mov $0x20400, %esi\n call *%rsi\n dec %ecx\n"
            "jnz 1b\n hlt");

static void same_bytes_kill_no_block(gconstpointer tier)
{
    struct t0_test *t = machine(GPOINTER_TO_UINT(tier));
    t0_test_asm(t, write_again);
    RUN(t);
    g_assert_cmphex(RAX(t) & 0xff, ==, 0x11);
    const struct t0_counters *n = &cpu_of(t)->core->n;
    g_assert_cmpuint(n->blocks_killed, <, 4);
    g_assert_cmpuint(n->pages_checked, ==, 0);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(gconstpointer);
    } all[] = {
        {"fast", stores_beside_code_are_fast},
        {"every_byte", every_byte_counts},
        {"ahead", block_changes_itself_ahead},
        {"border", instruction_over_the_border},
        {"protected", page_is_protected_again},
        {"same_bytes", same_bytes_kill_no_block},
    };
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        for (unsigned tier = 0; tier < 2; tier++) {
            g_autofree char *path =
                g_strdup_printf("/check/%s/tier%u", all[i].name, tier);
            g_test_add_data_func(path, GUINT_TO_POINTER(tier), all[i].fn);
        }
    }
    return g_test_run();
}
