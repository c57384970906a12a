#ifndef LIB_ISA_X86_TABLES_H
#define LIB_ISA_X86_TABLES_H

#include "lib/isa/x86/insn.h"
#include "lib/isa/x86/opspec.h"

/*
 * What gen_tables.py makes of the *.tab files: the rows, and an index from (map,
 * opcode) to the rows that may match, tried in order. A slot with X86_SLOT_GROUP is
 * split by ModRM.reg: first is then the index of eight slots in x86_subslots.
 */
enum {
    X86_SLOT_MODRM = 1,
    X86_SLOT_GROUP = 2,
    X86_SLOT_PLAIN = 4, /* one row that is right for every ModRM and prefix */
};

struct x86_slot {
    uint16_t first; /* in x86_row_list, or in x86_subslots */
    uint8_t count;
    uint8_t flags;
};

extern const struct x86_desc x86_rows[];
extern const unsigned x86_nb_rows;
extern const uint16_t x86_row_list[];
extern const struct x86_slot x86_slots[X86_NB_MAPS][256];
extern const struct x86_slot x86_subslots[][8];

#endif
