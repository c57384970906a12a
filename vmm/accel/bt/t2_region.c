#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t2_build.h"

#include "lib/base/base.h"

/* --- The end of a region
 * -------------------------------------------------------------- */

static void undo(struct t0_cpu *c, struct t2_region *r)
{
    struct t1_core *t1 = c->core->t1;
    t1->t2_drops++;
    t1->t2->nb_killed++;
    for (unsigned i = 0; i < r->nb; i++) {
        struct t0_block *b = r->node[i].b;
        if (!r->node[i].way_in || !b->t1) {
            continue;
        }
        struct t1_trans *tr = &t1->trans[b->t1];
        t1_unlink_block(c, b);
        tr->t2 = false;
        tr->entry = r->node[i].t1_entry[0];
        tr->entry_poll = r->node[i].t1_entry[1];
    }
}

void t2_block_kill(struct t0_cpu *c, struct t0_block *b)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1->t2 || !t1->trans[b->t1].in_t2) {
        return;
    }
    GPtrArray *all = t1->t2->regions;
    for (guint i = all->len; i-- > 0;) {
        struct t2_region *r = g_ptr_array_index(all, i);
        for (unsigned n = 0; n < r->nb; n++) {
            if (r->node[n].b == b) {
                undo(c, r);
                g_ptr_array_remove_index_fast(all, i);
                break;
            }
        }
    }
}

void t2_drop(struct t0_cpu *c, struct t2_region *r)
{
    undo(c, r);
    g_ptr_array_remove_fast(c->core->t1->t2->regions, r);
}

void t2_evict(struct t0_cpu *c, uint32_t from, uint32_t to)
{
    struct t2_core *t2 = c->core->t1->t2;
    for (guint i = t2 ? t2->regions->len : 0; i-- > 0;) {
        struct t2_region *r = g_ptr_array_index(t2->regions, i);
        if (r->node[0].pos >= from && r->node[0].pos < to) {
            undo(c, r);
            g_ptr_array_remove_index_fast(t2->regions, i);
        }
    }
}

/* --- For lockstep
 * ------------------------------------------------------------------------ */

struct t2_region *t2_region_at(const struct t0_cpu *c, const struct t0_block *b,
                               unsigned *ret_node)
{
    const struct t1_core *t1 = c->core->t1;
    for (guint i = 0; t1->t2 && t1->trans[b->t1].t2 && i < t1->t2->regions->len; i++) {
        struct t2_region *r = g_ptr_array_index(t1->t2->regions, i);
        for (unsigned n = 0; n < r->nb; n++) {
            if (r->node[n].b == b && r->node[n].way_in) {
                *ret_node = n;
                return r;
            }
        }
    }
    return NULL;
}

struct t0_block *t2_region_next(struct t0_cpu *c, const struct t2_region *r,
                                unsigned *node, uint64_t base)
{
    int to = t2_find_off(r, (int64_t)(c->s.rip - base));
    if (to < 0 || !(r->node[*node].edges >> to & 1) || r->node[to].polled) {
        return NULL;
    }
    *node = (unsigned)to;
    return r->node[to].b;
}

bool t2_region_ready(struct t0_cpu *c, const struct t2_region *r, uint64_t base)
{
    const struct x86_fpu *f = &c->s.fpu;
    for (unsigned i = 0; i < r->nb_pages; i++) {
        uint64_t la = base + (uint64_t)(int64_t)r->pages[i].page;
        const struct t0_itlb_entry *e = t0_itlb_slot(c, la);
        if (e->tag != t0_itlb_tag(c, la) ||
            (e->gpa & ~UINT64_C(0xfff)) != r->pages[i].gpa) {
            return false;
        }
    }
    return !r->x87 && (!r->vec || (f->mxcsr & T0_MXCSR_MASKS) == T0_MXCSR_MASKS);
}
