#include "vmm/accel/bt/t1_priv.h"

#include "lib/base/base.h"

/*
 * What leads from one translation to the next: the sites of direct branches, and the
 * table of indirect ones. t1_branch.c makes the code that goes these ways.
 */

/* --- Links ------------------------------------------------------------------ */

void t1_site_page(struct t1_core *t1, const struct t1_site *s, int32_t minus)
{
    if (s->page) {
        int32_t add = (int32_t)s->one + (minus ? minus : 1);
        memcpy(t1->write + s->page, &add, 4);
    }
}

void t1_link_site(struct t0_cpu *c, uint32_t index, struct t0_block *to)
{
    struct t1_core *t1 = c->core->t1;
    struct t1_site *s = &t1->sites[index];
    struct t1_trans *tr = &t1->trans[to->t1];
    struct t1_emit e = {.base = t1->write};
    const struct t0_block *from = t1_block_at(c, s->from);
    bool same_page = !((from->gpa ^ to->gpa) >> GMEM_PAGE_SHIFT);
    if (s->to || from->mode != to->mode || (from->flags & T0_BLOCK_DEAD) ||
        (!s->page && !same_page)) {
        return;
    }
    t1_set_rel32(&e, s->jump, s->poll ? tr->entry_poll : tr->entry);
    t1_site_page(t1, s, -(int32_t)(to->gpa >> GMEM_PAGE_SHIFT));
    s->to = (t0_ref)((uint8_t *)to - c->core->arena);
    t1->linked++;
    s->prev_in = 0;
    s->next_in = tr->incoming;
    if (s->next_in) {
        t1->sites[s->next_in].prev_in = index;
    }
    tr->incoming = index;
}

void t1_forget_site(struct t0_cpu *c, uint32_t index)
{
    struct t1_core *t1 = c->core->t1;
    struct t1_site *s = &t1->sites[index];
    if (!s->to) {
        return;
    }
    uint32_t *before = s->prev_in ? &t1->sites[s->prev_in].next_in
                                  : &t1->trans[t1_block_at(c, s->to)->t1].incoming;
    *before = s->next_in;
    if (s->next_in) {
        t1->sites[s->next_in].prev_in = s->prev_in;
    }
    s->to = 0;
}

static void unlink_site(struct t1_core *t1, struct t1_site *s)
{
    struct t1_emit e = {.base = t1->write};
    t1_site_page(t1, s, 0);
    t1_set_rel32(&e, s->jump, s->stub);
    s->to = 0;
}

/* --- The table of indirect branches ------------------------------------------ */

static unsigned jump_index(uint64_t rip)
{
    uint64_t h = rip + (rip >> T1_JUMP_ROT | rip << (64 - T1_JUMP_ROT));
    return h & (T1_JUMP_SIZE - 1);
}

/* No address with this index hashes to it: see jump_index(). */
static uint64_t no_jump(unsigned i)
{
    return i ? 0 : UINT64_MAX;
}

static void clear_jumps(struct t0_cpu *c, unsigned user)
{
    struct t1_used *u = &c->core->t1->jumps_used[user];
    for (unsigned k = 0; k < u->nb; k++) {
        c->t1.jumps[user][u->index[k]].minus_rip = no_jump(u->index[k]);
    }
    u->nb = 0;
}

void t1_jumps_flush(struct t0_cpu *c, unsigned user)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    clear_jumps(c, user);
    if (!user) {
        t1->kernel_local = false;
    }
}

bool t1_kernel_jumps_local(const struct t0_cpu *c)
{
    return c->core->t1 && c->core->t1->kernel_local;
}

const struct t1_jump *t1_find_jump(const struct t0_cpu *c, uint64_t rip)
{
    unsigned i = jump_index(rip), user = t1_is_user(c->mode);
    const struct t1_jump *j = &c->t1.jumps[user][i];
    return j->minus_rip == -rip ? j : NULL;
}

void t1_remember_jump(struct t0_cpu *c, const struct t0_block *b, uint64_t rip)
{
    struct t1_core *t1 = c->core->t1;
    struct t1_trans *tr = &t1->trans[b->t1];
    unsigned i = jump_index(rip), user = t1_is_user(b->mode);
    struct t1_used *u = &t1->jumps_used[user];
    struct t1_jump *j = &c->t1.jumps[user][i];
    const struct t0_itlb_entry *e = t0_itlb_slot(c, rip);
    t1->kernel_local |=
        !user && (e->tag != t0_itlb_tag(c, rip) || !(e->gpa & T0_SIDE_GLOBAL));
    if (u->mode != b->mode) {
        return;
    }
    t0_jumps_page(c, rip);
    if (j->minus_rip == no_jump(i)) {
        if (u->nb == T1_JUMP_SIZE) {
            clear_jumps(c, user);
        }
        u->index[u->nb++] = (uint16_t)i;
    }
    *j = (struct t1_jump){
        .minus_rip = -rip,
        .code = (uintptr_t)(t1->exec + tr->entry_poll),
        .page = rip & ~UINT64_C(0xfff),
    };
    tr->in_jumps = tr->in_jumps && tr->jump != i ? T1_JUMPS_MANY : T1_JUMPS_ONE;
    tr->jump = (uint16_t)i;
}

uint64_t t1_quick_jump(struct t0_cpu *c, uint64_t rip)
{
    const struct t0_core *core = c->core;
    const struct t0_itlb_entry *e = t0_itlb_slot(c, rip);
    uint64_t gpa = (e->gpa & ~UINT64_C(0xfff)) | (rip & 0xfff);
    /* In lockstep, and where every block is to be entered by the run loop, the table
     * stays empty. */
    if (e->tag != t0_itlb_tag(c, rip) || core->tvm->nochain || core->tvm->t2_heat ||
        (c->debug & T0_DEBUG_CODE)) {
        return 1;
    }
    for (t0_ref r = core->block_hash[t0_block_hash(gpa, c->mode)]; r;) {
        const struct t0_block *b = t1_block_at(c, r);
        r = b->next;
        if (b->gpa != gpa || b->mode != c->mode) {
            continue;
        }
        if (!b->t1 || (b->flags & (T0_BLOCK_STRADDLES | T0_BLOCK_DEAD))) {
            return 1;
        }
        t1_remember_jump(c, b, rip);
        return !t1_find_jump(c, rip);
    }
    return 1;
}

void t1_unlink_block(struct t0_cpu *c, struct t0_block *b)
{
    struct t1_core *t1 = c->core->t1;
    struct t1_trans *tr = &t1->trans[b->t1];
    for (uint32_t i = tr->incoming; i; i = t1->sites[i].next_in) {
        unlink_site(t1, &t1->sites[i]);
    }
    tr->incoming = 0;
    uint64_t code = (uintptr_t)(t1->exec + tr->entry_poll);
    struct t1_jump *table = c->t1.jumps[t1_is_user(b->mode)];
    if (tr->in_jumps == T1_JUMPS_ONE && table[tr->jump].code == code) {
        table[tr->jump].minus_rip = no_jump(tr->jump);
    }
    for (unsigned i = 0; tr->in_jumps == T1_JUMPS_MANY && i < T1_JUMP_SIZE; i++) {
        if (table[i].code == code) {
            table[i].minus_rip = no_jump(i);
        }
    }
}

void t1_links_mode(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    unsigned user = c->s.cpl == 3;
    if (t1->jumps_used[user].mode != c->mode) {
        clear_jumps(c, user);
        t1->jumps_used[user].mode = c->mode;
    }
}

void t1_links_init(struct t0_cpu *c)
{
    c->t1.jump_mask = (uint64_t)(T1_JUMP_SIZE - 1) * sizeof(struct t1_jump);
    for (unsigned i = 0; i < T1_JUMP_SIZE; i++) {
        c->t1.jumps[0][i].minus_rip = c->t1.jumps[1][i].minus_rip = no_jump(i);
    }
}

void t1_bank_changed(struct t0_cpu *c)
{
    t1_slots_bank(c);
    if (c->core->t1) {
        t1_links_mode(c);
    }
}
