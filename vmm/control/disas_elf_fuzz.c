#include "vmm/control/disas_elf.h"

/*
 * An ELF file of any bytes: what is found lies in the file, and names are found for any
 * address.
 */

#define MUST(x)               \
    do {                      \
        if (!(x)) {           \
            __builtin_trap(); \
        }                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_section(const struct elf_code *e, const struct elf_section *s,
                          const uint8_t *start, size_t len)
{
    size_t at = elf_code_first_symbol(e, s);

    MUST(s->bytes >= start && s->len <= len &&
         (size_t)(s->bytes - start) <= len - s->len);
    for (size_t i = 0; i <= s->len && i < 64; i++) {
        const struct elf_symbol *here = elf_code_symbol(e, s->addr + i);
        const struct elf_symbol *next = elf_code_label(e, s, s->addr + i, &at);

        MUST(!here || here->addr <= s->addr + i);
        MUST(!next || (next->addr >= s->addr + i && next->section == s->index));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    /* A copy without a byte to spare, for the sanitizer to guard. */
    uint8_t *copy = g_memdup2(data, len);
    g_autoptr(GBytes) file = g_bytes_new_take(copy, len);
    g_autoptr(GError) error = NULL;

    if (!elf_code_is_elf(file))
        return 0;
    struct elf_code *e = elf_code_new(file, &error);
    MUST(!e == (error != NULL));
    for (guint i = 0; e && i < e->sections->len; i++)
        check_section(e, &g_array_index(e->sections, struct elf_section, i), copy, len);
    elf_code_free(e);
    return 0;
}
