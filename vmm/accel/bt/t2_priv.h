#ifndef VMM_ACCEL_BT_T2_PRIV_H
#define VMM_ACCEL_BT_T2_PRIV_H

#include "vmm/accel/bt/t1_priv.h"
#include "vmm/accel/bt/t2.h"

/* What the files of hot regions share. See t2.h. */

#define T2_MAX_NODES 64u
#define T2_MAX_INSNS 640u
#define T2_MAX_PAGES 8u
#define T2_MAX_NEXT  24u
#define T2_GUARDS                                                      \
    2u /* targets that an indirect branch is compared with; of more, a \
          table is made */
#define T2_SAMPLES   2u
#define T2_MAX_FAILS 4096u

/* A block of a region. */
struct t2_node {
    struct t0_block *b;
    int32_t page; /* linear address of its page - that of the head's page */
    uint32_t count;
    bool polled; /* a branch leads back to it */
    bool way_in;
    uint64_t edges;       /* nodes that its translation goes on to */
    uint32_t pos_poll;    /* of the translation, when polled */
    uint32_t pos;         /* the same, after the poll */
    uint32_t t1_entry[2]; /* with way_in: T1's entry and entry_poll */
};

/* Offset of the node's code from page_base. */
static inline int32_t t2_node_off(const struct t2_node *n)
{
    return n->page + (int32_t)(n->b->gpa & 0xfff);
}

/* Which nodes were executed after one, and how often. */
struct t2_next {
    struct {
        uint32_t count;
        uint16_t node;
    } to[T2_MAX_NEXT];
    unsigned nb;
};

/* Blocks; while recording, and translated. */
struct t2_region {
    bool dead;
    uint16_t mode;
    unsigned nb, nb_insns, nb_pages;
    struct {
        int32_t page;
        uint64_t gpa;
    } pages[T2_MAX_PAGES];
    bool vec, x87;  /* these registers are in the host's throughout */
    uint64_t fails; /* checks of several accesses that left it: t2_group.c */
    struct t2_node node[];
};

static inline size_t t2_region_bytes(unsigned nb)
{
    return sizeof(struct t2_region) + nb * sizeof(struct t2_node);
}

struct t2_core {
    GPtrArray *regions; /* struct t2_region */
    bool sampled;       /* this turn of the run loop is a sample */
    bool recording;
    uint64_t base;   /* of the recorded region: linear address of the head's page */
    uint64_t expect; /* RIP after the last block */
    unsigned last;   /* its node */
    unsigned steps, laps;
    struct t2_region *rec;
    struct t2_next next[T2_MAX_NODES];
    uint64_t nb_recorded, nb_built, nb_killed;
};

/* Which host register each guest register has in @r, into @host. */
void t2_regs(struct t0_cpu *c, const struct t2_region *r, uint8_t host[X86_NB_GPR]);

/* Translate @r, and lead T1's links to it. False: not possible. */
bool t2_build(struct t0_cpu *c, const struct t2_region *r);

/* Undo @r, which is freed. */
void t2_drop(struct t0_cpu *c, struct t2_region *r);

/* For t1_lockstep.c: the region that @b's translation enters, or NULL; *ret_node is
 * where. */
struct t2_region *t2_region_at(const struct t0_cpu *c, const struct t0_block *b,
                               unsigned *ret_node);
/* The block that the region goes on with at RIP, after *node, which is updated; NULL
 * when it is left here. @head_off is the first block's offset, entered at @rip. */
struct t0_block *t2_region_next(struct t0_cpu *c, const struct t2_region *r,
                                unsigned *node, uint64_t base);
/* Whether the way in will be passed. */
bool t2_region_ready(struct t0_cpu *c, const struct t2_region *r, uint64_t base);

#endif
