#ifndef LIB_ISA_X86_DECODE_ORACLE_H
#define LIB_ISA_X86_DECODE_ORACLE_H

#include <stdint.h>

/*
 * Our decoder beside Zydis, for tests. Everything both can say about an instruction
 * is compared: whether it is one, length, operands, memory parts, immediates, flags,
 * general registers read and written, text.
 */

struct oracle;

/* What was compared and what came out, for reports. */
struct oracle_counts {
    uint64_t compared; /* byte strings                                    */
    uint64_t valid;    /* of them instructions for both                   */
    uint64_t known;    /* differing as the table of known differences says */
    uint64_t wrong;    /* differing otherwise; the first ones are printed  */
};

struct oracle *oracle_new(void);
void oracle_free(struct oracle *o);

/*
 * Compare the instruction at @bytes; at least 15 are there. @mode is 16, 32, 64.
 * Returns the length both agree on, or 0.
 */
int oracle_compare(struct oracle *o, const uint8_t *bytes, unsigned mode);

const struct oracle_counts *oracle_get_counts(const struct oracle *o);

/* Print each known difference with its reason and how often it was met. */
void oracle_report(const struct oracle *o);

#endif
