#include "vmm/accel/bt/t2_build.h"

#include "lib/base/base.h"

#define TABLE_BITS 9u /* at most: 8 KiB */

/*
 * The shape of a region: the order of its blocks, which of them branches lead back to,
 * and the table for its indirect branches. See t2.h.
 */

int t2_find_off(const struct t2_region *r, int64_t off)
{
    for (unsigned i = 0; i < r->nb; i++) {
        if (t2_node_off(&r->node[i]) == off) {
            return (int)i;
        }
    }
    return -1;
}

/* --- Shape --------------------------------------------------------------------------
 */

/* Blocks in the order in which they are emitted. */
void t2_lay_out(struct t2_build *u)
{
    const struct t2_region *r = u->r;
    bool done[T2_MAX_NODES] = {false};
    unsigned nb = 0, at = 0;
    while (nb < r->nb) {
        done[at] = true;
        u->place[at] = nb;
        u->order[nb++] = (uint8_t)at;
        const struct t2_next *n = &u->t.t1->t2->next[at];
        int best = -1;
        for (unsigned i = 0; i < n->nb; i++) {
            if (!done[n->to[i].node] &&
                (best < 0 || n->to[i].count > n->to[best].count)) {
                best = (int)i;
            }
        }
        if (best >= 0) {
            at = n->to[best].node;
            continue;
        }
        for (at = 0; nb < r->nb && done[at]; at++) {
        }
    }
}

/* --- The table
 * ------------------------------------------------------------------------ */

/* How many values the offsets of the nodes in the table have under @mask. */
static unsigned nb_values(const struct t2_build *u, uint64_t mask)
{
    uint64_t seen[T2_MAX_NODES];
    unsigned nb = 0;
    for (unsigned i = 0; i < u->r->nb; i++) {
        uint64_t v = (uint64_t)(int64_t)t2_node_off(&u->r->node[i]) & mask;
        unsigned k = 0;
        if (!(u->table.nodes >> i & 1)) {
            continue;
        }
        while (k < nb && seen[k] != v) {
            k++;
        }
        nb += k == nb;
        seen[k] = v;
    }
    return nb;
}

/* Take the bits that tell most nodes apart, one after the other. Nodes for which that
 * takes too many are not in the table. */
void t2_find_mask(struct t2_build *u)
{
    unsigned want = nb_values(u, UINT64_MAX);
    u->table.mask = u->table.bits = 0;
    while (nb_values(u, u->table.mask) < want) {
        uint64_t best = 0;
        if (u->table.bits == TABLE_BITS) {
            u->table.nodes &= u->table.nodes - 1;
            t2_find_mask(u);
            return;
        }
        for (unsigned bit = 0; bit < 32; bit++) {
            uint64_t m = u->table.mask | UINT64_C(1) << bit;
            if (!best || nb_values(u, m) > nb_values(u, best)) {
                best = m;
            }
        }
        u->table.mask = best;
        u->table.bits++;
    }
}

static uint64_t under_mask(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (unsigned i = 0; mask; mask &= mask - 1) {
        r |= (v >> __builtin_ctzll(mask) & 1) << i++;
    }
    return r;
}

uint32_t t2_entry_of(const struct t2_node *n)
{
    return n->polled ? n->pos_poll : n->pos;
}

/* Fill the table; its place is made. */
void t2_put_table(struct t2_build *u)
{
    struct t1_core *t1 = u->t.t1;
    uint64_t *table = (uint64_t *)(void *)(t1->write + u->table.at);
    unsigned size = 1u << u->table.bits;
    table[0] = u->table.mask;
    for (unsigned i = 0; i < size; i++) {
        table[1 + i] = UINT64_C(1) << 63; /* no two addresses are so far apart */
    }
    for (unsigned i = 0; i < u->r->nb; i++) {
        uint64_t off = (uint64_t)(int64_t)t2_node_off(&u->r->node[i]);
        if (u->table.nodes >> i & 1) {
            uint64_t at = 1 + under_mask(off, u->table.mask);
            table[at] = -off;
            table[at + size] = (uintptr_t)(t1->exec + t2_entry_of(&u->r->node[i]));
        }
    }
}

static void note_edge(struct t2_build *u, unsigned from, int to)
{
    if (to >= 0) {
        u->before[to] |= UINT64_C(1) << from;
    }
    if (to >= 0 && u->place[to] <= u->place[from]) {
        u->r->node[to].polled = true;
    }
}

/* Whether the region uses vectors and x87 often, and which blocks branches lead back
 * to. */
bool t2_look(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    struct t2_region *r = u->r;
    uint64_t most = 0, vec = 0, x87 = 0, at_table = 0;
    for (unsigned n = 0; n < r->nb; n++) {
        const struct t0_block *b = r->node[n].b;
        if (!t1_decode_block(t->c, b, &u->d)) {
            return false;
        }
        uint64_t count = r->node[n].count;
        most = MAX(most, count);
        for (unsigned i = 0; i < b->nb_insns; i++) {
            unsigned cls = x86_insn_desc(&u->d.insn[i])->cls;
            bool mode_ok = !(b->mode & (T0_MODE_TS | T0_MODE_EM | T0_MODE_NOSSE));
            vec = mode_ok && (cls == X86_CLASS_SSE || cls == X86_CLASS_AVX)
                      ? MAX(vec, count)
                      : vec;
            x87 = mode_ok && cls == X86_CLASS_X87 ? MAX(x87, count) : x87;
        }
        const struct x86_insn *last = &u->d.insn[b->nb_insns - 1];
        int64_t off = t2_node_off(&r->node[n]);
        if ((b->flags & T0_BLOCK_HAS_END) || last->op == X86_OP_JCC) {
            note_edge(u, n, t2_find_off(r, off + b->len));
        }
        if (last->nb_opnds && last->opnd[0].kind == X86_OPND_REL) {
            note_edge(u, n, t2_find_off(r, off + b->len + last->imm));
        }
        const struct t2_next *next = &t->t1->t2->next[n];
        for (unsigned i = 0; i < next->nb; i++) {
            note_edge(u, n, next->to[i].node);
            if (next->nb > T2_GUARDS) {
                u->table.nodes |= UINT64_C(1) << next->to[i].node;
                at_table |= UINT64_C(1) << n;
            }
        }
    }
    for (unsigned n = 0; n < r->nb; n++) {
        for (unsigned to = 0; to < r->nb && at_table >> n & 1; to++) {
            note_edge(u, n, u->table.nodes >> to & 1 ? (int)to : -1);
        }
    }
    r->vec = vec * 4 >= most && vec;
    r->x87 = x87 * 4 >= most && x87;
    return true;
}

bool t2_in_chain(const struct t2_build *u, unsigned place)
{
    unsigned node = u->order[place];
    return place && node && !u->r->node[node].polled && !(u->table.nodes >> node & 1) &&
           u->before[node] == UINT64_C(1) << u->order[place - 1];
}
