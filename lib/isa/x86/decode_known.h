#ifndef LIB_ISA_X86_DECODE_KNOWN_H
#define LIB_ISA_X86_DECODE_KNOWN_H

#include <stddef.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#include "lib/isa/x86/insn.h"

/*
 * Where our decoder and Zydis differ on purpose: the table of these differences,
 * each with its reason, and the differences of spelling. For decode_oracle.c.
 */

enum diff {
    DIFF_NONE,
    DIFF_WE_UD,
    DIFF_THEY_UD,
    DIFF_LENGTH,
    DIFF_OPERANDS,
    DIFF_FLAGS,
    DIFF_GPRS,
    DIFF_TEXT,
};

/* What a difference is seen in; NULL where that side has no instruction. */
struct known_case {
    const struct x86_insn *insn;
    const ZydisDecodedInstruction *zi;
    const ZydisDecodedOperand *zo;
    const uint8_t *bytes;
    unsigned mode;
};

struct known_difference {
    const char *what;
    unsigned diffs; /* 1 << enum diff */
    bool (*applies)(const struct known_case *c);
    const char *reason;
};

#define KNOWN_MAX 64

/* Ends with .what NULL. */
extern const struct known_difference known_differences[];

/* Index in known_differences of the one that explains @diff, or -1. */
int known_find(enum diff diff, const struct x86_insn *insn,
               const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
               const uint8_t *bytes, unsigned mode);

/* Rewrite both texts, of size @n, to the spelling in which they should be equal. */
void known_spelling(const struct x86_insn *insn, char *ours, char *theirs, size_t n);

#endif
