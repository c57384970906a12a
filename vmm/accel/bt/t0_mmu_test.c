#include "vmm/accel/bt/t0_test.h"

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

/*
 * Paging: each bit of the tables against APM 2 chapter 5 (sections in the names of the
 * tables below). The page under test is at linear VA, through tables of its own:
 * PML4[0] -> PDPT[1] -> PD -> PT. The first 2 MiB are the kernel's, supervisor only;
 * the next 2 MiB the user's.
 */

#define VA     UINT64_C(0x40000000)
#define PDPT   (T0_TEST_PML4 + 0x1000)
#define PD     0x20000u
#define PT     0x21000u
#define FRAME  0x300000u
#define FRAME2 0x301000u

#define P    UINT64_C(1)
#define W    UINT64_C(2)
#define U    UINT64_C(4)
#define A    UINT64_C(0x20)
#define D    UINT64_C(0x40)
#define PS   UINT64_C(0x80)
#define G    UINT64_C(0x100)
#define NX   (UINT64_C(1) << 63)
#define HIGH (UINT64_C(1) << 51) /* above what any model here has */

static void put(struct t0_test *t, uint32_t at, uint64_t v)
{
    le64_put(t->ram + at, v);
}

static struct t0_test *machine(void)
{
    struct t0_test *t = t0_test_new(64, 8192, NULL);
    t0_test_catch_all(t);
    put(t, T0_TEST_PML4 + 0x2000, P | W | PS);
    put(t, PDPT + 8, PD | P | W | U);
    put(t, PD, PT | P | W | U);
    put(t, PT, FRAME | P | W | U);
    put(t, PT + 8, FRAME2 | P | W | U);
    return t;
}

T0_TEST_ASM(do_read, 64, "mov (%rsi), %eax\n int3");
T0_TEST_ASM(do_write, 64, "mov %eax, (%rsi)\n int3");
T0_TEST_ASM(do_exec, 64, "jmp *%rsi");

enum { READ, WRITE, EXEC };

/* Do one access to @va; returns the #PF's error code, or -1 when there is none. */
static int64_t try_at(struct t0_test *t, uint64_t va, int what, bool user)
{
    static const uint8_t *const code[] = {do_read, do_write, do_exec};
    static const uint8_t *const end[] = {do_read_end, do_write_end, do_exec_end};
    struct x86_state s = t->s;
    uint64_t at = user ? 0x200000 : T0_TEST_CODE;
    gmem_write(t->vm->gmem, at, code[what], (size_t)(end[what] - code[what]));
    if (what == EXEC) {
        gmem_write(t->vm->gmem, FRAME, "\xcc", 1);
    }
    t->s.rip = at;
    t->s.gpr[X86_RSI] = va;
    if (user) {
        t0_test_user(t);
    }
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    uint64_t vector = t->s.gpr[X86_RBX], cr2 = t->s.cr2;
    int64_t error = (int64_t)t0_test_top(t);
    t->s = s;
    if (vector == X86_EXC_BP) {
        return -1;
    }
    g_assert_cmpuint(vector, ==, X86_EXC_PF);
    t->s.cr2 = cr2;
    return error;
}

struct page_case {
    const char *name;
    uint64_t pml4, pdpt, pd, pt; /* bits to flip in the entries */
    uint64_t cr0_off, cr4_on, efer_off, flags;
    int what;
    bool user;
    int64_t error; /* -1: none */
};

enum { OK = -1 };

static const struct page_case cases[] = {
    /* 5.6.1, 8.2.15: not present, at each level; the error code's W and U bits */
    {"pt absent", .pt = P, .error = 0},
    {"pd absent", .pd = P, .error = 0},
    {"pdpt absent", .pdpt = P, .error = 0},
    {"absent write", .pt = P, .what = WRITE, .error = X86_PF_W},
    {"absent user", .pt = P, .user = true, .error = X86_PF_U},
    {"absent exec", .pt = P, .what = EXEC, .error = X86_PF_I},
    {"all set", .what = WRITE, .user = true, .error = OK},
    /* 5.6.2: R/W of all levels together, CR0.WP */
    {"ro user write", .pt = W, .what = WRITE, .user = true, .error = 7},
    {"ro pd user write", .pd = W, .what = WRITE, .user = true, .error = 7},
    {"ro pdpt user write", .pdpt = W, .what = WRITE, .user = true, .error = 7},
    {"ro kernel write", .pt = W, .what = WRITE, .error = 3},
    {"ro kernel write, no WP", .pt = W, .cr0_off = X86_CR0_WP, .what = WRITE,
     .error = OK},
    {"ro user write, no WP", .pt = W, .cr0_off = X86_CR0_WP, .what = WRITE,
     .user = true, .error = 7},
    {"ro read", .pt = W, .user = true, .error = OK},
    /* 5.6.3: U/S of all levels together */
    {"supervisor page", .pt = U, .user = true, .error = 5},
    {"supervisor pd", .pd = U, .user = true, .error = 5},
    {"supervisor pdpt", .pdpt = U, .user = true, .error = 5},
    {"supervisor page write", .pt = U, .what = WRITE, .user = true, .error = 7},
    {"supervisor page, kernel", .pt = U, .what = WRITE, .error = OK},
    /* 5.6.1: NX of any level */
    {"nx", .pt = NX, .what = EXEC, .error = X86_PF_P | X86_PF_I},
    {"nx pd", .pd = NX, .what = EXEC, .error = X86_PF_P | X86_PF_I},
    {"nx pdpt", .pdpt = NX, .what = EXEC, .error = X86_PF_P | X86_PF_I},
    {"nx user", .pt = NX, .what = EXEC, .user = true, .error = 0x15},
    {"nx read", .pt = NX, .user = true, .error = OK},
    {"nx is reserved without NXE", .pt = NX, .efer_off = X86_EFER_NXE,
     .error = X86_PF_P | X86_PF_RSV},
    {"exec", .what = EXEC, .user = true, .error = OK},
    /* 5.3.3, 5.4.1: reserved bits */
    {"high address bit", .pt = HIGH, .error = X86_PF_P | X86_PF_RSV},
    {"high address bit in pd", .pd = HIGH, .error = X86_PF_P | X86_PF_RSV},
    {"reserved user write", .pdpt = HIGH, .what = WRITE, .user = true, .error = 0xf},
    {"2M page with low bits", .pd = PS, .error = X86_PF_P | X86_PF_RSV},
    /* 5.6.4, 5.6.5 */
    {"smep", .cr4_on = X86_CR4_SMEP, .what = EXEC, .error = X86_PF_P | X86_PF_I},
    {"smep supervisor page", .pt = U, .cr4_on = X86_CR4_SMEP, .what = EXEC,
     .error = OK},
    {"smep, user", .cr4_on = X86_CR4_SMEP, .what = EXEC, .user = true, .error = OK},
    {"smap", .cr4_on = X86_CR4_SMAP, .error = X86_PF_P},
    {"smap write", .cr4_on = X86_CR4_SMAP, .what = WRITE, .error = X86_PF_P | X86_PF_W},
    {"smap with AC", .cr4_on = X86_CR4_SMAP, .flags = X86_FL_AC, .error = OK},
    {"smap supervisor page", .pt = U, .cr4_on = X86_CR4_SMAP, .what = WRITE,
     .error = OK},
    {"smap, user", .cr4_on = X86_CR4_SMAP, .what = WRITE, .user = true, .error = OK},
};

static void every_bit(void)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct page_case *k = &cases[i];
        struct t0_test *t = machine();
        g_test_message("%s", k->name);
        put(t, PDPT + 8, (PD | P | W | U) ^ k->pdpt);
        put(t, PD, (PT | P | W | U) ^ k->pd);
        put(t, PT, (FRAME | P | W | U) ^ k->pt);
        t->s.cr0 &= ~k->cr0_off;
        t->s.cr4 |= k->cr4_on;
        t->s.efer &= ~k->efer_off;
        t->s.rflags |= k->flags;
        g_assert_cmphex((uint64_t)try_at(t, VA, k->what, k->user), ==,
                        (uint64_t)k->error);
        if (k->error != OK) {
            g_assert_cmphex(t->s.cr2, ==, VA);
        }
        t0_test_free(t);
    }
}

/* 5.4.2: Accessed at every level, Dirty at the last by a write only. */
static void accessed_and_dirty(void)
{
    struct t0_test *t = machine();
    g_assert_cmpint(try_at(t, VA, READ, true), ==, OK);
    g_assert_cmphex(le64_get(t->ram + PT) & (A | D), ==, A);
    g_assert_cmphex(le64_get(t->ram + PD) & (A | D), ==, A);
    g_assert_cmphex(le64_get(t->ram + PDPT + 8) & (A | D), ==, A);
    g_assert_cmphex(le64_get(t->ram + PT + 8) & (A | D), ==, 0);
    g_assert_cmpint(try_at(t, VA, WRITE, true), ==, OK);
    g_assert_cmphex(le64_get(t->ram + PT) & (A | D), ==, A | D);
    g_assert_cmphex(le64_get(t->ram + PD) & (A | D), ==, A);
    t0_test_free(t);
}

/* A faulting access leaves Dirty alone. */
static void fault_sets_no_dirty(void)
{
    struct t0_test *t = machine();
    put(t, PT, FRAME | P | U);
    g_assert_cmpint(try_at(t, VA, WRITE, true), ==, 7);
    g_assert_cmphex(le64_get(t->ram + PT) & D, ==, 0);
    t0_test_free(t);
}

/* 5.3.4: 2 MiB and 1 GiB pages. */
static void large_pages(void)
{
    struct t0_test *t = machine();
    t->ram[0x345678] = 0x5a;
    put(t, PD, 0x200000 | P | W | U | PS);
    t->s.gpr[X86_RAX] = 0x11223344;
    g_assert_cmpint(try_at(t, VA + 0x145678, WRITE, true), ==, OK);
    g_assert_cmphex(le32_get(t->ram + 0x345678), ==, 0x11223344);
    g_assert_cmphex(le64_get(t->ram + PD) & (A | D), ==, A | D);
    put(t, PDPT + 8, P | W | U | PS);
    t->s.gpr[X86_RAX] = 0x55667788;
    g_assert_cmpint(try_at(t, VA + 0x345678, WRITE, true), ==, OK);
    g_assert_cmphex(le32_get(t->ram + 0x345678), ==, 0x55667788);
    put(t, PDPT + 8, 0x2000 | P | W | U | PS);
    g_assert_cmpint(try_at(t, VA, READ, true), ==, X86_PF_P | X86_PF_RSV | X86_PF_U);
    t0_test_free(t);
}

/* An access over two pages is whole or not at all; CR2 is what was missing. */
static void crossing_is_whole(void)
{
    struct t0_test *t = machine();
    t->s.gpr[X86_RAX] = 0x44332211;
    put(t, PT + 8, 0);
    g_assert_cmpint(try_at(t, VA + 0xffe, WRITE, true), ==, X86_PF_W | X86_PF_U);
    g_assert_cmphex(t->s.cr2, ==, VA + 0x1000);
    g_assert_cmphex(le32_get(t->ram + FRAME + 0xffc), ==, 0);
    /* The two pages need not be neighbours in memory. */
    put(t, PT + 8, 0x310000 | P | W | U);
    g_assert_cmpint(try_at(t, VA + 0xffe, WRITE, true), ==, OK);
    g_assert_cmphex(le16_get(t->ram + FRAME + 0xffe), ==, 0x2211);
    g_assert_cmphex(le16_get(t->ram + 0x310000), ==, 0x4433);
    t0_test_free(t);
}

T0_TEST_ASM(
    remap_invlpg, 64,
    "mov (%rsi), %eax\n mov %rdi, (%rdx)\n invlpg (%rsi)\n mov (%rsi), %ecx\n hlt");
T0_TEST_ASM(remap_cr3, 64,
            "mov (%rsi), %eax\n mov %rdi, (%rdx)\n mov %cr3, %rbp\n mov %rbp, %cr3\n"
            "mov (%rsi), %ecx\n hlt");
T0_TEST_ASM(remap_pge, 64,
            "mov (%rsi), %eax\n mov %rdi, (%rdx)\n mov %cr4, %rbp\n btc $7, %rbp\n"
            "mov %rbp, %cr4\n mov (%rsi), %ecx\n hlt");

/* Map VA to FRAME, read, map it to FRAME2, flush as @code does, read: what came. */
static uint32_t remap(const uint8_t *code, size_t len, uint64_t bits)
{
    struct t0_test *t = machine();
    t->s.cr4 |= X86_CR4_PGE;
    le32_put(t->ram + FRAME, 1);
    le32_put(t->ram + FRAME2, 2);
    put(t, PT, FRAME | P | W | bits);
    t0_test_code(t, code, len);
    t->s.gpr[X86_RSI] = VA;
    t->s.gpr[X86_RDX] = PT;
    t->s.gpr[X86_RDI] = FRAME2 | P | W | bits;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 1);
    uint32_t got = (uint32_t)t->s.gpr[X86_RCX];
    t0_test_free(t);
    return got;
}

#define REMAP(name, bits) remap(name, (size_t)(name##_end - name), bits)

/* 5.5.2, 5.5.3: INVLPG and changes of CR4.PGE drop global pages, too. */
static void flushes(void)
{
    g_assert_cmpuint(REMAP(remap_invlpg, 0), ==, 2);
    g_assert_cmpuint(REMAP(remap_invlpg, G), ==, 2);
    g_assert_cmpuint(REMAP(remap_cr3, 0), ==, 2);
    g_assert_cmpuint(REMAP(remap_pge, G), ==, 2);
}

T0_TEST_ASM(large_invlpg, 64,
            "mov (%rsi), %eax\n mov %rdi, (%rdx)\n invlpg 0x7000(%rsi)\n"
            "mov (%rsi), %ecx\n hlt");

/* INVLPG anywhere in a large page drops all of it. */
static void invlpg_in_large_page(void)
{
    struct t0_test *t = machine();
    le32_put(t->ram + 0x200000 + 0x1000, 1);
    le32_put(t->ram + 0x400000 + 0x1000, 2);
    put(t, PD, 0x200000 | P | W | PS);
    t0_test_asm(t, large_invlpg);
    t->s.gpr[X86_RSI] = VA + 0x1000;
    t->s.gpr[X86_RDX] = PD;
    t->s.gpr[X86_RDI] = 0x400000 | P | W | PS;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 1);
    g_assert_cmphex(t->s.gpr[X86_RCX], ==, 2);
    t0_test_free(t);
}

/* 5.3.1: addresses that are not canonical are #GP, and #SS through the stack. */
static void canonical(void)
{
    struct t0_test *t = machine();
    t0_test_asm(t, do_read);
    t->s.gpr[X86_RSI] = UINT64_C(0x0000800000000000);
    t0_test_run(t);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, X86_EXC_GP);
    t0_test_free(t);
}

T0_TEST_ASM(read32, 32, "mov (%esi), %eax\n hlt");
T0_TEST_ASM(write32, 32, "mov %eax, (%esi)\n hlt");

/* 5.2.2: two levels, with 4 MiB pages when CR4.PSE. */
static void two_levels(void)
{
    struct t0_test *t = t0_test_new(32, 8192, NULL);
    t0_test_catch_all(t);
    le32_put(t->ram + 0x30000, 0x31000 | 7);                 /* 0 .. 4 MiB */
    le32_put(t->ram + 0x30004, 0x400000 | 7 | (uint32_t)PS); /* 4 .. 8 MiB */
    for (uint32_t i = 0; i < 1024; i++) {
        le32_put(t->ram + 0x31000 + i * 4, i << 12 | 3);
    }
    le32_put(t->ram + 0x31000 + 0x300 * 4, FRAME2 | 1);
    le32_put(t->ram + FRAME2, 0xabcd);
    le32_put(t->ram + 0x412344, 0x1234);
    t->s.cr3 = 0x30000;
    t->s.cr0 |= X86_CR0_PG | X86_CR0_WP;
    t->s.cr4 |= X86_CR4_PSE;
    struct x86_state s = t->s;
    t0_test_asm(t, read32);
    t->s.gpr[X86_RSI] = 0x300000;
    t0_test_run(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0xabcd);
    g_assert_cmphex(le32_get(t->ram + 0x31000 + 0x300 * 4) & 0x60, ==, A);
    t->s = s;
    t0_test_asm(t, read32);
    t->s.gpr[X86_RSI] = 0x412344;
    t0_test_run(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0x1234);
    t->s = s;
    t0_test_asm(t, write32);
    t->s.gpr[X86_RSI] = 0x300000;
    t0_test_run(t);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, X86_EXC_PF);
    g_assert_cmphex(t0_test_top(t), ==, X86_PF_P | X86_PF_W);
    t0_test_free(t);
}

/* 5.2.3: PAE with NX; the page-directory pointers have no Accessed bit. */
static void pae(void)
{
    struct t0_test *t = t0_test_new(32, 8192, NULL);
    t0_test_catch_all(t);
    put(t, 0x30000, 0x31000 | P);
    put(t, 0x30008, 0x33000 | P);
    put(t, 0x31000, P | W | PS);
    put(t, 0x33000, 0x34000 | P | W);
    put(t, 0x34000, FRAME | P | W);
    le32_put(t->ram + FRAME, 0x777);
    t->s.cr3 = 0x30000;
    t->s.cr4 |= X86_CR4_PAE;
    t->s.cr0 |= X86_CR0_PG | X86_CR0_WP;
    struct x86_state s = t->s;
    t0_test_asm(t, read32);
    t->s.gpr[X86_RSI] = VA;
    t0_test_run(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0x777);
    g_assert_cmphex(le64_get(t->ram + 0x30008), ==, 0x33000 | P);
    g_assert_cmphex(le64_get(t->ram + 0x34000) & A, ==, A);
    t->s = s;
    t0_test_asm(t, read32);
    t->s.gpr[X86_RSI] = 0x80000000;
    t0_test_run(t);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, X86_EXC_PF);
    t0_test_free(t);
}

/* Stores mark the page for migration; ROM keeps what it has; absent memory is ones. */
static void kinds_of_memory(void)
{
    struct t0_test *t = machine();
    GError *error = NULL;
    g_assert_true(gmem_add(t->vm->gmem, "rom", GMEM_ROM, 0x2000000, 4096, &error));
    const struct gmem_region *rom = gmem_find(t->vm->gmem, 0x2000000);
    const struct gmem_region *ram = gmem_find(t->vm->gmem, 0);
    atomic_store(&ram->dirty[FRAME >> 12], 0);
    g_assert_cmpint(try_at(t, VA, READ, true), ==, OK);
    g_assert_cmpint(atomic_load(&ram->dirty[FRAME >> 12]), ==, 0);
    g_assert_cmpint(try_at(t, VA, WRITE, true), ==, OK);
    g_assert_cmpint(atomic_load(&ram->dirty[FRAME >> 12]), ==, 1);
    rom->host[0] = 0x42;
    put(t, PT, 0x2000000 | P | W | U);
    g_assert_cmpint(try_at(t, VA, WRITE, true), ==, OK);
    g_assert_cmphex(rom->host[0], ==, 0x42);
    put(t, PT, 0x3000000 | P | W | U);
    t0_test_asm(t, do_read);
    t->s.gpr[X86_RSI] = VA;
    t0_test_run(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, UINT32_MAX);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/mmu/every_bit", every_bit);
    g_test_add_func("/t0/mmu/accessed_and_dirty", accessed_and_dirty);
    g_test_add_func("/t0/mmu/fault_sets_no_dirty", fault_sets_no_dirty);
    g_test_add_func("/t0/mmu/large_pages", large_pages);
    g_test_add_func("/t0/mmu/crossing_is_whole", crossing_is_whole);
    g_test_add_func("/t0/mmu/flushes", flushes);
    g_test_add_func("/t0/mmu/invlpg_in_large_page", invlpg_in_large_page);
    g_test_add_func("/t0/mmu/canonical", canonical);
    g_test_add_func("/t0/mmu/two_levels", two_levels);
    g_test_add_func("/t0/mmu/pae", pae);
    g_test_add_func("/t0/mmu/kinds_of_memory", kinds_of_memory);
    return g_test_run();
}
