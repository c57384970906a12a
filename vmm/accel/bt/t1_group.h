#ifndef VMM_ACCEL_BT_T1_GROUP_H
#define VMM_ACCEL_BT_T1_GROUP_H

#include "vmm/accel/bt/t1_priv.h"

/* One check for several accesses: see t1_group.c. */

/* What an access's address is made of: names of the values in registers. */
struct t1_key {
    uint32_t base, index; /* index 0: none */
    uint8_t scale;
};
enum { T1_KEY_NOTHING = 1, T1_KEY_RIP }; /* names of no register */

/* What a register holds: a value that has no name, and a constant. */
struct t1_value {
    uint32_t id;
    int64_t delta;
};

/* Accesses that are checked together. Offsets are from the key's address. */
struct t1_group {
    struct t1_key key;
    int32_t lo, hi; /* bytes: the first, and the one after the last */
    unsigned nb;
    uint32_t slot;
    uint8_t kind; /* enum t1_fill; T1_NB_FILLS: a look in the TLB */
    uint8_t end;  /* after the last instruction of the block */
    bool stack;   /* the key is the stack pointer's value */
    bool write, checked;
};

struct t1_access {
    uint8_t node, insn, group;
    bool implied; /* what PUSH and the like do, not an operand */
    bool write;
    uint8_t size;
    int32_t off;
};

struct t1_check {
    const struct t1_group *group;
    uint32_t from, hit;        /* the jump when it fails, and where to go on */
    struct t1_mem first, last; /* bytes */
    uint8_t insn;
    uint16_t needs; /* T1_NEED_* */
    struct t1_x87 x87;
};

/* Instructions of a block, in which groups are open. */
struct t1_stretch {
    uint8_t first, end;
    uint32_t back; /* where its copy goes on */
    bool vec_ready, x87_ready;
    struct t1_x87 x87;
};

struct t1_groups {
    struct t1_group group[32];
    struct t1_access access[160];
    struct t1_check check[16];
    unsigned nb_groups, nb_accesses, nb_checks;
    /* While looking: */
    struct t1_value reg[X86_NB_GPR];
    uint32_t next_id;
    unsigned first_open; /* group that may be joined */
    /* Of a block: */
    struct t1_stretch stretch[T0_BLOCK_MAX_INSNS];
    unsigned nb_stretches, stretch_now;
    bool open;                     /* the current instruction is in stretch_now */
    bool other_frame;              /* through the stack pointer, and in no group */
    bool one_frame;                /* all through the stack pointer is one group */
    uint8_t last_insn, last_group; /* of the last shared access */
    uint8_t r11_group;
    uint32_t r11_at; /* here r11 is still r11_group's addend */
};

/* Look at instructions one after the other: @insn is @index of @node, the next one is
 * at page_base + @next_off. Unless @may_push its push is not part of a group. lost:
 * what comes next may not be known. */
void t1_groups_begin(struct t1_groups *s);
void t1_groups_insn(struct t1_groups *s, const struct x86_insn *insn, unsigned node,
                    unsigned index, int64_t next_off, bool may_push);
void t1_groups_lost(struct t1_groups *s);

/* What follows a check that fails, until it has to go on with each by itself. */
void t1_put_check_fill(struct t1_ctx *t, const struct t1_check *k);

#endif
