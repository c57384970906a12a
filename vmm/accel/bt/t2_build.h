#ifndef VMM_ACCEL_BT_T2_BUILD_H
#define VMM_ACCEL_BT_T2_BUILD_H

#include "vmm/accel/bt/t1_group.h"
#include "vmm/accel/bt/t2_priv.h"

/* The translation of a region in the making: see t2_build.c. */

#define T2_NODE_WAYS 8u

/* A jump out of the region, or to T1's translation of a branch. */
struct t2_way_out {
    uint32_t from;
    int64_t target; /* offset */
    bool poll;
};

struct t2_build {
    struct t1_ctx t;
    struct t2_region *r;
    struct t1_decoded d;
    uint8_t order[T2_MAX_NODES]; /* nodes as they are laid out */
    unsigned place[T2_MAX_NODES];
    uint64_t before[T2_MAX_NODES]; /* nodes that lead to each */
    unsigned nb_pairs;
    struct {
        uint8_t host, home, guest; /* register; whose it is in T1, and here */
    } pair[X86_NB_GPR];
    uint8_t host[X86_NB_GPR];
    uint32_t put_home, put_back; /* functions that exchange them */
    uint8_t *hot, *cold;         /* where the other path goes on */
    struct {
        uint32_t at;
        uint8_t node;
    } jump[T2_MAX_NODES * 8];
    unsigned nb_jumps;
    /* Where indirect branches with many targets look: put_look_up(). */
    struct {
        uint64_t nodes; /* that are in it */
        uint64_t mask;  /* of bits of their offsets that are different for each */
        unsigned bits;  /* in the mask */
        uint32_t at;
    } table;
    /* Of the node being emitted. */
    struct t2_node *n;
    const struct t2_next *next;
    unsigned index;
    struct t2_way_out out[T2_NODE_WAYS];
    unsigned nb_outs;
    uint32_t general[2]; /* jumps to T1's translation of the branch */
    unsigned nb_general;
    uint32_t poll_from;
    int64_t push_target;     /* of a CALL whose push is left to T0 */
    struct t1_groups groups; /* of the chain of nodes that it is in */
    bool lockstep, grouped;
};

/* The node at offset @off, or -1. */
int t2_find_off(const struct t2_region *r, int64_t off);
/* Where jumps to the node lead. */
uint32_t t2_entry_of(const struct t2_node *n);

/* t2_shape.c: nodes in the order in which they are emitted; what the region uses, which
 * nodes are polled and which are in the table. False: the code is not there any more.
 */
void t2_lay_out(struct t2_build *u);
bool t2_look(struct t2_build *u);
/* Choose the table's mask; fill it when all nodes have their places. */
void t2_find_mask(struct t2_build *u);
void t2_put_table(struct t2_build *u);
/* Whether the node at @place is only come to from the one before it. */
bool t2_in_chain(const struct t2_build *u, unsigned place);

/* t2_branch.c: the branch at the current node's end; go on at offset @target. */
void t2_branch(struct t2_build *u);
void t2_go(struct t2_build *u, int64_t target);

/* t2_group.c: look at the chain that begins at @place; what follows a check that fails,
 * until the region has to be left. */
void t2_plan_groups(struct t2_build *u, unsigned place);
void t2_put_check_fill(struct t2_build *u, const struct t1_check *k);

#endif
