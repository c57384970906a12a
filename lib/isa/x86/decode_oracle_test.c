#include "lib/isa/x86/decode_oracle.h"

#include <dlfcn.h>
#include <elf.h>
#include <gnu/libc-version.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/decode_random.h"

/*
 * Compare our decoder with Zydis:
 *
 *     decode_oracle_test                       a short random run, as a unit test
 *     decode_oracle_test --random N [--seed S] N random byte strings in each mode
 *     decode_oracle_test --elf FILE...         the executable sections, one
 *                                              instruction after the other
 */

static void run_random(struct oracle *o, uint64_t count, uint64_t seed)
{
    struct rng rng = {seed * UINT64_C(0x9e3779b97f4a7c15) | 1};
    static const unsigned modes[] = {16, 32, 64};

    for (uint64_t k = 0; k < count; k++) {
        uint8_t bytes[16];

        random_insn(&rng, bytes);
        for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
            oracle_compare(o, bytes, modes[m]);
        }
    }
}

/* Linear sweep; where the two disagree or there is no instruction, one byte on. */
static void sweep(struct oracle *o, const uint8_t *code, size_t len, unsigned mode)
{
    size_t at = 0;

    while (at + 15 <= len) {
        int n = oracle_compare(o, code + at, mode);

        at += n > 0 ? n : 1;
    }
}

static bool run_elf(struct oracle *o, const char *path, GError **error)
{
    g_autofree gchar *file = NULL;
    gsize size = 0;

    if (!g_file_get_contents(path, &file, &size, error)) {
        return false;
    }
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)file;

    if (size < sizeof(*eh) || memcmp(file, ELFMAG, SELFMAG) != 0 ||
        eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64 ||
        eh->e_shentsize != sizeof(Elf64_Shdr) || eh->e_shoff > size ||
        eh->e_shnum > (size - eh->e_shoff) / sizeof(Elf64_Shdr)) {
        return error_msg(error, "%s: not an x86-64 ELF file with sections", path);
    }
    const Elf64_Shdr *sh = (const Elf64_Shdr *)(file + eh->e_shoff);

    for (unsigned i = 0; i < eh->e_shnum; i++) {
        if (sh[i].sh_type == SHT_PROGBITS && sh[i].sh_flags & SHF_EXECINSTR &&
            sh[i].sh_offset <= size && sh[i].sh_size <= size - sh[i].sh_offset) {
            sweep(o, (const uint8_t *)file + sh[i].sh_offset, sh[i].sh_size, 64);
        }
    }
    return true;
}

static int finish(struct oracle *o, bool ok)
{
    bool wrong = oracle_get_counts(o)->wrong != 0;

    oracle_report(o);
    oracle_free(o);
    return ok && !wrong ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void random_bytes_decode_as_zydis_says(void)
{
    struct oracle *o = oracle_new();

    run_random(o, 500000, 1);
    g_assert_cmpuint(oracle_get_counts(o)->valid, >, 800000);
    g_assert_cmpint(finish(o, true), ==, EXIT_SUCCESS);
}

/* The C library this test runs with. */
static void libc_decodes_as_zydis_says(void)
{
    struct oracle *o = oracle_new();
    g_autoptr(GError) error = NULL;
    Dl_info info;

    g_assert_cmpint(dladdr((void *)(uintptr_t)&gnu_get_libc_version, &info), !=, 0);
    g_assert_true(run_elf(o, info.dli_fname, &error));
    g_assert_cmpuint(oracle_get_counts(o)->valid, >, 100000);
    g_assert_cmpint(finish(o, true), ==, EXIT_SUCCESS);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--elf") == 0) {
        struct oracle *o = oracle_new();
        bool ok = true;

        for (int i = 2; i < argc; i++) {
            g_autoptr(GError) error = NULL;

            if (!run_elf(o, argv[i], &error)) {
                fprintf(stderr, "%s\n", error->message);
                ok = false;
            }
        }
        return finish(o, ok);
    }
    if (argc > 2 && strcmp(argv[1], "--random") == 0) {
        struct oracle *o = oracle_new();
        uint64_t seed = argc > 4 && strcmp(argv[3], "--seed") == 0
                            ? g_ascii_strtoull(argv[4], NULL, 0)
                            : 1;

        run_random(o, g_ascii_strtoull(argv[2], NULL, 0), seed);
        return finish(o, true);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/oracle/random", random_bytes_decode_as_zydis_says);
    g_test_add_func("/decode/oracle/libc", libc_decodes_as_zydis_says);
    return g_test_run();
}
