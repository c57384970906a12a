#include "vmm/accel/bt/t2_build.h"

/*
 * Groups of accesses (t1_group.c) along a chain of nodes: each is only come to from the
 * one before it.
 */

void t2_plan_groups(struct t2_build *u, unsigned place)
{
    struct t1_groups *s = &u->groups;
    t1_groups_begin(s);
    do {
        const struct t2_node *n = &u->r->node[u->order[place]];
        const struct t0_block *b = n->b;
        for (unsigned i = 0; i < b->nb_insns; i++) {
            struct x86_insn insn;
            if (t1_decode_op(u->t.c, b, i, &insn)) {
                t1_groups_insn(s, &insn, u->order[place], i,
                               (int64_t)t2_node_off(n) + b->ops[i].next, true);
            } else {
                t1_groups_lost(s);
            }
        }
    } while (++place < u->r->nb && t2_in_chain(u, place));
}

/*
 * A region that leaves here more than T2_MAX_FAILS times is made anew without groups.
 */
void t2_put_check_fill(struct t2_build *u, const struct t1_check *k)
{
    struct t1_emit *e = &u->t.e;
    t1_put_check_fill(&u->t, k);
    t1_x87_note(e, &k->x87);
    t1_mov_ri(e, T1_S2, (int64_t)(uintptr_t)&u->r->fails);
    t1_load(e, T1_RCX, (struct t1_mem){T1_S2, T1_NO_REG, 0, 0});
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, 1});
    t1_store(e, (struct t1_mem){T1_S2, T1_NO_REG, 0, 0}, T1_RCX);
    t1_mov_ri(e, T1_RCX, T1_ADAPT_NOT);
    t1_store(e, T1_FIELD(t1.adapt), T1_RCX);
}
