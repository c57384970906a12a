#include <glib.h>

#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * The memory for translations when a program does not fit: FUNCTIONS blocks of 32
 * bytes, each of which adds its number to EAX and goes to the next. What is checked is
 * the sum, which every block that runs twice, not at all or in an old version spoils.
 */

#define RUN(t) g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)

enum { FUNCTIONS = 9000, CHAIN = 0x100000, STEP = 32, TABLE = 0x80000 };

static uint64_t place(unsigned i)
{
    return CHAIN + (uint64_t)i * STEP;
}

/* add eax, IMM; then @end: jmp rel32 to the next one, or ret. */
static void put_function(struct t0_test *t, unsigned i, uint32_t imm, bool jump)
{
    uint8_t *p = t->ram + place(i);
    *p++ = 0x05;
    le32_put(p, imm);
    p += 4;
    if (jump) {
        *p++ = 0xe9;
        le32_put(p, (uint32_t)(place(i + 1) - (place(i) + 10)));
    } else {
        *p = 0xc3;
    }
}

static struct t1_core *core_of(struct t0_test *t)
{
    return ((struct t0_cpu *)t->vcpu->accel)->core->t1;
}

static struct t0_test *machine(unsigned mib, const char *more)
{
    g_autofree char *options =
        g_strdup_printf("tier=1,heat=1,cache-size=32M,cache-mib=%u%s", mib, more);
    return t0_test_new_options(64, 2048, NULL, options);
}

/* RCX times through all of them. */
T0_TEST_ASM(walk_chain, 64,
            "1: call 1b - 0x10000 + 0x100000\n dec %ecx\n jnz 1b\n hlt");

static uint32_t sum(void)
{
    return (uint32_t)FUNCTIONS * (FUNCTIONS - 1) / 2;
}

static struct t0_test *chain(unsigned mib)
{
    struct t0_test *t = machine(mib, "");
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        put_function(t, i, i, i + 1 < FUNCTIONS);
    }
    t0_test_asm(t, walk_chain);
    return t;
}

static void run_chain(struct t0_test *t, unsigned times, uint32_t each)
{
    t->s.rip = T0_TEST_CODE;
    t->s.gpr[X86_RAX] = 0;
    t->s.gpr[X86_RCX] = times;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, (uint32_t)(times * each));
}

static void program_larger_than_the_cache_is_right(void)
{
    struct t0_test *t = chain(1);
    const struct t1_core *t1 = core_of(t);
    g_assert_cmpuint(t1->nb_regions, ==, 2);
    run_chain(t, 6, sum());
    g_assert_cmpuint(t1->evictions, >, 4);
    g_assert_cmpuint(t1->evicted, >, FUNCTIONS);
    g_assert_cmpuint(t1->translated, >, t1->evicted);
    g_assert_cmpuint(t1_code_bytes(t1), <=, t1->size);
    /* T0 keeps its blocks. */
    const struct t0_core *core = ((struct t0_cpu *)t->vcpu->accel)->core;
    g_assert_cmpuint(core->n.cache_flushes, ==, 1); /* RAM was added */
    g_assert_cmpuint(core->n.blocks_built, <, FUNCTIONS + 16);
    t0_test_free(t);
}

static void program_that_fits_stays(void)
{
    struct t0_test *t = chain(24);
    run_chain(t, 6, sum());
    g_assert_cmpuint(core_of(t)->nb_regions, ==, T1_MAX_REGIONS);
    g_assert_cmpuint(core_of(t)->evictions, ==, 0);
    g_assert_cmpuint(core_of(t)->translated, >=, FUNCTIONS);
    t0_test_free(t);
}

/* What was linked to, and from, code that is gone. */
static void blocks_change_between_evictions(void)
{
    struct t0_test *t = chain(1);
    uint32_t each = sum();
    for (unsigned i = 0; i < FUNCTIONS; i += 7) {
        if (i % 700 == 0) {
            run_chain(t, 2, each);
        }
        uint8_t imm[4];
        le32_put(imm, i + 5);
        g_assert_cmpint(gmem_write(t->vm->gmem, place(i) + 1, imm, 4), ==, 0);
        each += 5;
    }
    run_chain(t, 3, each);
    g_assert_cmpuint(core_of(t)->evictions, >, 20);
    t0_test_free(t);
}

/*
 * Callers of CALLS functions each, chosen at random and some more often than others, so
 * that every kind of link exists between what is evicted and what stays.
 */
enum { CALLERS = 700, CALLS = 15, CALLEES = 2500, CALLER = 0x160000, CALLER_STEP = 80 };

struct web {
    struct t0_test *t;
    uint32_t value[CALLEES];
    uint16_t callee[CALLERS][CALLS];
    uint32_t random;
};

static unsigned pick(struct web *w, unsigned n)
{
    w->random = w->random * 1664525 + 1013904223;
    unsigned r = w->random >> 8, few = n / 20;
    return r & 0x8000 ? (r >> 4 & 0x7ff) % few : (r ^ r >> 12) % n;
}

static struct web *new_web(void)
{
    struct web *w = g_new0(struct web, 1);
    w->t = machine(1, "");
    for (unsigned i = 0; i < CALLEES; i++) {
        w->value[i] = i;
        put_function(w->t, i, i, false);
    }
    for (unsigned k = 0; k < CALLERS; k++) {
        uint64_t at = CALLER + k * CALLER_STEP;
        for (unsigned n = 0; n < CALLS; n++, at += 5) {
            w->callee[k][n] = (uint16_t)pick(w, CALLEES);
            w->t->ram[at] = 0xe8;
            le32_put(w->t->ram + at + 1, (uint32_t)(place(w->callee[k][n]) - (at + 5)));
        }
        w->t->ram[at] = 0xc3;
    }
    return w;
}

/* RDX callers of the table, backwards. */
T0_TEST_ASM(
    call_table, 64,
    "1: mov %rdx, %rbx\n 2: dec %rbx\n mov 0x80000(,%rbx,8), %rdi\n call *%rdi\n"
    "test %rbx, %rbx\n jnz 2b\n dec %ecx\n jnz 1b\n hlt");

/* Translations and blocks know each other; dead ones do not. */
static void check_translations(struct t0_test *t)
{
    struct t0_cpu *c = t->vcpu->accel;
    const struct t1_core *t1 = core_of(t);
    for (unsigned i = 0; i < t1->nb_regions; i++) {
        const struct t1_region *r = &t1->region[i];
        uint32_t last = i == t1->current ? t1->nb_trans : r->nb_trans;
        for (uint32_t k = r->first_trans + 1; k <= last; k++) {
            if (t1->trans[k].block) {
                const struct t0_block *b = t1_block_at(c, t1->trans[k].block);
                g_assert_cmpuint(b->t1, ==, k);
                g_assert_false(b->flags & T0_BLOCK_DEAD);
            }
        }
    }
}

static void run_web(struct web *w, unsigned nb)
{
    uint32_t want = 0;
    for (unsigned i = 0; i < nb; i++) {
        unsigned k = pick(w, CALLERS);
        le64_put(w->t->ram + TABLE + 8 * i, CALLER + k * CALLER_STEP);
        for (unsigned n = 0; n < CALLS; n++) {
            want += w->value[w->callee[k][n]];
        }
    }
    w->t->s.rip = T0_TEST_CODE;
    w->t->s.gpr[X86_RAX] = 0;
    w->t->s.gpr[X86_RCX] = 1;
    w->t->s.gpr[X86_RDX] = nb;
    RUN(w->t);
    g_assert_cmphex(w->t->s.gpr[X86_RAX], ==, want);
    check_translations(w->t);
}

static void links_between_what_goes_and_what_stays(void)
{
    struct web *w = new_web();
    t0_test_asm(w->t, call_table);
    for (unsigned round = 0; round < 200; round++) {
        run_web(w, 150);
        for (unsigned n = 0; n < 10; n++) {
            unsigned i = pick(w, CALLEES);
            uint8_t imm[4];
            w->value[i] += 3;
            le32_put(imm, w->value[i]);
            g_assert_cmpint(gmem_write(w->t->vm->gmem, place(i) + 1, imm, 4), ==, 0);
        }
        /* Nothing is translated before they are dead. */
        w->t->ram[TABLE - 8] = 0xf4;
        w->t->s.rip = TABLE - 8;
        RUN(w->t);
        check_translations(w->t);
    }
    g_assert_cmpuint(core_of(w->t)->evictions, >, 10);
    g_assert_cmpuint(core_of(w->t)->linked, >, 10000);
    t0_test_free(w->t);
    g_free(w);
}

static void table_of_indirect_branches_forgets_what_is_evicted(void)
{
    struct t0_test *t = machine(1, "");
    enum { NB = 8000 };
    for (unsigned i = 0; i < NB; i++) {
        put_function(t, i, i, false);
        le64_put(t->ram + TABLE + 8 * i, place(i));
    }
    t0_test_asm(t, call_table);
    t->s.gpr[X86_RCX] = 5;
    t->s.gpr[X86_RDX] = NB;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 5u * (NB * (NB - 1) / 2));
    g_assert_cmpuint(core_of(t)->evictions, >, 2);
    t0_test_free(t);
}

static void limits_of_cache_mib(void)
{
    static const struct {
        const char *value;
        bool ok;
    } all[] = {{"1", true}, {"512", true}, {"0", false},  {"513", false},
               {"", false}, {"x", false},  {"-1", false}, {"1 ", false}};
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *text = g_strdup_printf("cache-mib=%s", all[i].value);
        g_autoptr(GError) error = NULL;
        bool ok = t0_test_options_ok(text, &error);
        g_assert_cmpint(ok, ==, all[i].ok);
        if (!ok) {
            g_assert_nonnull(strstr(error->message, "cache-mib"));
        }
    }
}

/* Translations are written through one mapping and run from another. */
static void no_memory_is_writable_and_executable(void)
{
    struct t0_test *t = chain(1);
    run_chain(t, 2, sum());
    g_autofree char *maps = NULL;
    g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    unsigned of_code = 0;
    for (char **line = lines; **line; line++) {
        const char *how = strchr(*line, ' ') + 1;
        bool w = how[1] == 'w', x = how[2] == 'x';
        if (w && x) {
            g_test_message("%s", *line);
        }
        g_assert_false(w && x);
        of_code += strstr(*line, "t1-code") && (w || x);
    }
    g_assert_cmpuint(of_code, ==, 2);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!t1_supported()) {
        g_test_skip("no BMI2");
        return g_test_run();
    }
    g_test_add_func("/t1/cache/larger", program_larger_than_the_cache_is_right);
    g_test_add_func("/t1/cache/fits", program_that_fits_stays);
    g_test_add_func("/t1/cache/change", blocks_change_between_evictions);
    g_test_add_func("/t1/cache/indirect",
                    table_of_indirect_branches_forgets_what_is_evicted);
    g_test_add_func("/t1/cache/links", links_between_what_goes_and_what_stays);
    g_test_add_func("/t1/cache/limits", limits_of_cache_mib);
    g_test_add_func("/t1/cache/w_xor_x", no_memory_is_writable_and_executable);
    return g_test_run();
}
