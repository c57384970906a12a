#ifndef VMM_CONTROL_DISAS_ELF_H
#define VMM_CONTROL_DISAS_ELF_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/*
 * The code of an ELF file for x86 (System V ABI, chapters 4 and 5) and the names in it.
 * All numbers of the file are checked against its size; what does not fit is an error
 * for sections, and is left out for symbols.
 */

struct elf_section {
    char name[64]; /* printable */
    unsigned index;
    uint64_t addr;
    const uint8_t *bytes; /* in the file */
    size_t len;
};

struct elf_symbol {
    uint64_t addr;
    const char *name;
    unsigned section;
    unsigned rank; /* of several names of an address the lowest is shown */
};

struct elf_code {
    GBytes *file;
    unsigned bits;      /* 32, 64 */
    bool relocatable;   /* symbols are offsets in their sections, which all are at 0 */
    GArray *sections;   /* struct elf_section: those with instructions */
    GArray *symbols;    /* struct elf_symbol, by section, address and rank */
    GStringChunk *text; /* their names */
};

bool elf_code_is_elf(GBytes *file);

/* NULL with @error. Takes a reference of @file. */
struct elf_code *elf_code_new(GBytes *file, GError **error);
void elf_code_free(struct elf_code *e);

/* The symbol at or before @addr in its section; NULL: none, or @addr is in none. */
const struct elf_symbol *elf_code_symbol(const struct elf_code *e, uint64_t addr);

/* Index of the first symbol of @s. */
size_t elf_code_first_symbol(const struct elf_code *e, const struct elf_section *s);

/* The first symbol of @s at or after @addr, from *@at on, which moves there. */
const struct elf_symbol *elf_code_label(const struct elf_code *e,
                                        const struct elf_section *s, uint64_t addr,
                                        size_t *at);

#endif
