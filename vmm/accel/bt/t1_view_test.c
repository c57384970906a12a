#include <glib.h>
#include <glib/gstdio.h>
#include <jansson.h>
#include <unistd.h>

#include "lib/base/bytes.h"
#include "vmm/accel/bt/bt_view.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t1_priv.h"

/* Counters, and the file for perf. */

#define RUN(t)  g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)
#define OPTIONS "tier=1,heat=1,cache-size=1M"

/* @path: keys with dots between them. */
static int64_t stat_of(struct t0_test *t, const char *path)
{
    json_t *all = bt_stats(t->vcpu);
    g_auto(GStrv) keys = g_strsplit(path, ".", -1);
    const json_t *o = all;
    for (char **key = keys; *key; key++) {
        o = json_object_get(o, *key);
    }
    int64_t v = json_is_integer(o) ? json_integer_value(o) : -1;
    json_decref(all);
    return v;
}

T0_TEST_ASM(ask, 64,
            "mov $100, %esi\n 1: xor %eax, %eax\n cpuid\n sgdt 0x7000\n dec %esi\n"
            "jnz 1b\n hlt");

/* The first time round T0 does it by itself: nothing is left to it. */
static void fallbacks_are_counted_by_mnemonic(void)
{
    struct t0_test *t = t0_test_new_options(64, 1024, NULL, OPTIONS);
    t0_test_asm(t, ask);
    RUN(t);
    g_assert_cmpint(stat_of(t, "fallbacks.sgdt"), ==, 100);
    g_assert_cmpint(stat_of(t, "fallbacks.hlt"), ==, 1);
    g_assert_cmpint(stat_of(t, "fallbacks.dec"), ==, -1);
    g_assert_cmpint(stat_of(t, "insns"), ==, 502);
    g_assert_cmpint(stat_of(t, "blocks.insns-decoded"), ==, 6 + 5 + 1);
    t0_test_free(t);
}

/* Three blocks: the start with the loop, the loop, the end. Three exits are linked. */
T0_TEST_ASM(loop, 64, "mov $1000, %ecx\n 1: dec %ecx\n jnz 1b\n hlt");

static void exits_are_chained_once(void)
{
    struct t0_test *t = t0_test_new_options(64, 1024, NULL, OPTIONS);
    t0_test_asm(t, loop);
    RUN(t);
    g_assert_cmpint(stat_of(t, "blocks.decoded"), ==, 3);
    g_assert_cmpint(stat_of(t, "translations.blocks"), ==, 3);
    g_assert_cmpint(stat_of(t, "translations.chained"), <=, 3);
    g_assert_cmpint(stat_of(t, "translations.chained"), >=, 1);
    g_assert_cmpint(stat_of(t, "translations.enters"), <=, 3);
    g_assert_cmpint(stat_of(t, "translations.evictions"), ==, 0);
    t0_test_free(t);
}

T0_TEST_ASM(touch, 64,
            "mov $0x40000, %edi\n mov $50, %ecx\n 1: mov %eax, (%rdi)\n"
            "add $4096, %edi\n dec %ecx\n jnz 1b\n hlt");

static void misses_are_counted_by_bank(void)
{
    for (unsigned user = 0; user < 2; user++) {
        struct t0_test *t = t0_test_new_options(64, 1024, NULL, OPTIONS);
        t0_test_asm(t, touch);
        if (user) {
            t0_test_catch_all(t);
            t0_test_user(t); /* HLT is #GP there, and ends in a handler */
        }
        RUN(t);
        int64_t u = stat_of(t, "tlb.misses.user"), k = stat_of(t, "tlb.misses.kernel");
        g_assert_cmpint(user ? u : k, >=, 50);
        g_assert_cmpint(user ? u : k, <=, 54);
        g_assert_cmpint(user ? k : u, <=, 8);
        g_assert_cmpint(stat_of(t, "tlb.misses.user-ac"), ==, 0);
        g_assert_cmpint(stat_of(t, "tlb.misses.kernel-smap"), ==, 0);
        g_assert_cmpint(stat_of(t, "tlb.misses.code"), >=, 1);
        g_assert_cmpint(stat_of(t, "tlb.walks"), >=, 51);
        t0_test_free(t);
    }
}

T0_TEST_ASM(patch, 64,
            "mov $20, %ecx\n 1: incl 2f+1(%rip)\n jmp 2f\n .skip 32\n"
            "2: mov $1, %eax\n dec %ecx\n jnz 1b\n hlt");

static void stores_to_code_are_counted(void)
{
    struct t0_test *t = t0_test_new_options(64, 1024, NULL, OPTIONS);
    t0_test_asm(t, patch);
    RUN(t);
    g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 21);
    /* Before the first there was no code. */
    g_assert_cmpint(stat_of(t, "code-stores"), ==, 20);
    g_assert_cmpint(stat_of(t, "blocks.killed"), >=, 19);
    t0_test_free(t);
}

static void interpreter_has_no_translations(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, loop);
    RUN(t);
    g_assert_cmpint(stat_of(t, "insns"), ==, 2002);
    g_assert_cmpint(stat_of(t, "translations.blocks"), ==, -1);
    t0_test_free(t);
}

T0_TEST_ASM(straight, 64, "xor %eax, %eax\n .rept 30\n inc %eax\n .endr\n hlt");

static void one_instruction_per_block(void)
{
    for (unsigned tier = 0; tier < 2; tier++) {
        g_autofree char *options =
            g_strdup_printf("tier=%u,heat=1,cache-size=1M,one-insn-per-block=on", tier);
        struct t0_test *t = t0_test_new_options(64, 1024, NULL, options);
        t0_test_asm(t, straight);
        RUN(t);
        g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 30);
        g_assert_cmpint(stat_of(t, "blocks.decoded"), ==, 32);
        g_assert_cmpint(stat_of(t, "blocks.insns-decoded"), ==, 32);
        t0_test_free(t);
    }
}

/* --- jitdump ------------------------------------------------------------------- */

/* linux, tools/perf/Documentation/jitdump-specification.txt */
static unsigned check_records(const uint8_t *p, size_t len)
{
    unsigned nb = 0;
    uint64_t last = 0;
    g_assert_cmpuint(len, >, 40);
    g_assert_cmphex(le32_get(p), ==, 0x4a695444);
    g_assert_cmpuint(le32_get(p + 4), ==, 1);
    g_assert_cmpuint(le32_get(p + 8), ==, 40);
    g_assert_cmpuint(le32_get(p + 12), ==, 62);
    g_assert_cmpuint(le32_get(p + 20), ==, (uint32_t)getpid());
    for (size_t at = 40; at < len; nb++) {
        const uint8_t *r = p + at;
        g_assert_cmpuint(len - at, >=, 56);
        uint32_t size = le32_get(r + 4);
        uint64_t time = le64_get(r + 8), code = le64_get(r + 40);
        const char *name = (const char *)r + 56;
        g_assert_cmpuint(le32_get(r), ==, 0); /* JIT_CODE_LOAD */
        g_assert_cmpuint(size, <=, len - at);
        g_assert_cmpuint(time, >=, last);
        last = time;
        g_assert_cmpuint(le32_get(r + 16), ==, (uint32_t)getpid());
        g_assert_cmphex(le64_get(r + 24), ==, le64_get(r + 32));
        g_assert_cmpuint(le64_get(r + 48), ==, nb);
        g_assert_true(g_str_has_prefix(name, "guest 1000"));
        g_assert_cmpuint(56 + strlen(name) + 1 + code, ==, size);
        at += size;
    }
    return nb;
}

static void jitdump_is_what_perf_expects(void)
{
    g_autofree char *folder = g_dir_make_tmp("lodge-jitdump-XXXXXX", NULL);
    g_autofree char *options = g_strdup_printf(OPTIONS ",jitdump=%s", folder);
    g_autofree char *path = g_strdup_printf("%s/jit-%d.dump", folder, (int)getpid());
    g_autofree char *maps = NULL, *dump = NULL;
    size_t len;
    struct t0_test *t = t0_test_new_options(64, 1024, NULL, options);
    t0_test_asm(t, loop);
    RUN(t);
    int64_t translated = stat_of(t, "translations.blocks");
    /* perf learns of the file from an executable mapping of it. */
    g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    const char *line = strstr(maps, path);
    g_assert_nonnull(line);
    while (line > maps && line[-1] != '\n') {
        line--;
    }
    g_assert_cmpint(strchr(line, ' ')[3], ==, 'x');
    t0_test_free(t); /* which closes it */
    g_assert_true(g_file_get_contents(path, &dump, &len, NULL));
    unsigned records = check_records((const uint8_t *)dump, len);
    /* Of each translation the straight path and what is out of line. */
    g_assert_cmpuint(records, ==, 2 * (unsigned)translated);
    g_unlink(path);
    g_rmdir(folder);
}

static void jitdump_needs_its_folder(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(t0_test_options_ok("jitdump=/nonexistent/folder", &error));
    g_assert_nonnull(strstr(error->message, "/nonexistent/folder/jit-"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!t1_supported()) {
        g_test_skip("no BMI2");
        return g_test_run();
    }
    g_test_add_func("/t1/view/fallbacks", fallbacks_are_counted_by_mnemonic);
    g_test_add_func("/t1/view/chained", exits_are_chained_once);
    g_test_add_func("/t1/view/misses", misses_are_counted_by_bank);
    g_test_add_func("/t1/view/code_stores", stores_to_code_are_counted);
    g_test_add_func("/t1/view/interpreter", interpreter_has_no_translations);
    g_test_add_func("/t1/view/one_insn_per_block", one_instruction_per_block);
    g_test_add_func("/t1/view/jitdump", jitdump_is_what_perf_expects);
    g_test_add_func("/t1/view/jitdump_folder", jitdump_needs_its_folder);
    return g_test_run();
}
