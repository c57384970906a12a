#include "vmm/accel/bt/t2_build.h"

#include <inttypes.h>
#include <stdio.h>

#include "lib/base/base.h"

/*
 * Translation of a region. See t2.h.
 *
 * Blocks are laid out along the way that was taken most. Each is emitted as in
 * t1_block.c, what is on the straight path and what is not at the same time: the
 * emitter's place is switched between the two after each block.
 *
 * Offsets of code are from page_base, as T1's are, but from that of the head's page:
 * a node's own page is t2_node.page further on. Where T0 or T1's code goes on,
 * page_base is set to that of the node's page, and after a step by T0 back again.
 */

#define NODE_ROOM (24u << 10) /* more than any block needs, on either path */

/* --- Where things are --------------------------------------------------------- */

static void find_pairs(struct t2_build *u)
{
    for (unsigned g = 0; g < X86_NB_GPR; g++) {
        if (u->host[g] == t1_home[g] || u->host[g] == T1_MEMORY) {
            continue;
        }
        for (unsigned h = 0; h < X86_NB_GPR; h++) {
            if (t1_home[h] == u->host[g]) {
                u->pair[u->nb_pairs].host = u->host[g];
                u->pair[u->nb_pairs].home = (uint8_t)h;
                u->pair[u->nb_pairs++].guest = (uint8_t)g;
            }
        }
    }
}

/* Registers to where T1 has them, or (@back) to where the region has them. */
static void exchange(struct t2_build *u, bool back, int32_t above)
{
    for (unsigned i = 0; i < u->nb_pairs; i++) {
        struct t1_mem from = T1_GPR(back ? u->pair[i].home : u->pair[i].guest);
        struct t1_mem to = T1_GPR(back ? u->pair[i].guest : u->pair[i].home);
        from.disp += above;
        to.disp += above;
        t1_store(&u->t.e, from, u->pair[i].host);
        t1_load(&u->t.e, u->pair[i].host, to);
    }
}

static void put_exchanges(struct t2_build *u)
{
    u->put_home = t1_pos(&u->t.e);
    exchange(u, false, 8);
    t1_u8(&u->t.e, 0xc3);
    u->put_back = t1_pos(&u->t.e);
    exchange(u, true, 8);
    t1_u8(&u->t.e, 0xc3);
}

/* page_base += @by; changes rcx. */
static void move_base(struct t2_build *u, int32_t by)
{
    struct t1_emit *e = &u->t.e;
    if (by) {
        t1_load(e, T1_RCX, T1_FIELD(t1.page_base));
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, by});
        t1_store(e, T1_FIELD(t1.page_base), T1_RCX);
    }
}

/* From here on all is as T1 has it, for the current node. */
static void as_t1(struct t2_build *u)
{
    memcpy(u->t.host, t1_home, sizeof(t1_home));
    u->t.page_off = (int32_t)(u->n->b->gpa & 0xfff);
}

static void as_t2(struct t2_build *u)
{
    memcpy(u->t.host, u->host, sizeof(u->host));
    u->t.page_off = t2_node_off(u->n);
}

/* --- Blocks --------------------------------------------------------------------- */

static void fall_back(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    t1_let_go(t);
    t1_x87_note(&t->e, &t->x87);
    t->x87.pending = false;
    t1_jump_slow(t);
    t->cur->op = t->insn->op;
}

static void put_insn(struct t2_build *u, unsigned i)
{
    struct t1_ctx *t = &u->t;
    const struct t0_block *b = t->b;
    t->insn = &u->d.insn[i];
    t->bytes = u->d.bytes + b->ops[i].start;
    t->index = i;
    t->cur = NULL;
    bool last = i + 1u == b->nb_insns && !(b->flags & T0_BLOCK_HAS_END);
    if (last) {
        t1_let_go(t);
        t1_x87_note(&t->e, &t->x87);
        t->x87.pending = t->vec_ready = t->x87_ready = false;
        t2_branch(u);
    } else if (!t1_insn(t)) {
        fall_back(u);
    }
    if (t->cur) {
        t->cur->resume = t1_pos(&t->e);
        t->cur->branch = last;
    }
}

/* A jump when attention is wanted, returned. */
static uint32_t poll(struct t2_build *u)
{
    struct t1_emit *e = &u->t.e;
    t1_load(e, T1_RCX, T1_FIELD(vcpu));
    t1_load32(e, T1_RCX,
              (struct t1_mem){T1_RCX, T1_NO_REG, 0, offsetof(struct vcpu, attention)});
    uint32_t none = t1_jrcxz(e);
    uint32_t wanted = t1_jmp(e, 0);
    t1_here8(e, none);
    return wanted;
}

static void put_hot(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    const struct t0_block *b = t->b;
    struct t2_node *n = u->n;
    if (n->polled) {
        n->pos_poll = t1_pos(&t->e);
        u->poll_from = u->lockstep ? t1_jmp(&t->e, 0) : poll(u);
    }
    n->pos = t1_pos(&t->e);
    for (unsigned i = 0; i < b->nb_insns; i++) {
        put_insn(u, i);
    }
    if (b->flags & T0_BLOCK_HAS_END) {
        t1_let_go(t);
        t1_x87_note(&t->e, &t->x87);
        t1_count(t);
        t2_go(u, (int64_t)t->page_off + b->len);
    }
}

/* --- Off the straight path ------------------------------------------------------- */

static void put_slow(struct t2_build *u, const struct t1_slow *s)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    for (unsigned i = 0; i < s->nb; i++) {
        t1_set_rel32(e, s->from[i], t1_pos(e));
    }
    t1_x87_note(e, &s->x87);
    if (u->nb_pairs) {
        t1_call(e, u->put_home);
    }
    move_base(u, u->n->page);
    t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
    t1_mov_ri(e, T1_S1, s->what | (s->branch ? 0 : T1_STRICT) | (int64_t)s->op << 16);
    if (s->branch) {
        t1_jmp(e, t->t1->glue_branch);
        return;
    }
    t1_call(e, t->t1->glue_step);
    if (s->what & T1_PUSH_RETURN) {
        struct t1_stub stub;
        t1_count(t);
        t1_go(t, u->push_target - u->n->page, false, &stub);
        t1_put_stub(t, &stub);
        return;
    }
    move_base(u, -u->n->page);
    if (u->nb_pairs) {
        t1_call(e, u->put_back);
    }
    t1_jmp(e, s->resume);
}

static void put_slows(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    for (unsigned i = 0; i < t->nb_refill; i++) {
        t1_put_refill(t, &t->refill[i]);
    }
    for (unsigned i = 0; i < t->nb_slow; i++) {
        put_slow(u, &t->slow[i]);
    }
    t->nb_refill = t->nb_slow = 0;
}

static void put_way_out(struct t2_build *u, const struct t2_way_out *o)
{
    struct t1_ctx *t = &u->t;
    struct t1_stub stub;
    t1_set_rel32(&t->e, o->from, t1_pos(&t->e));
    exchange(u, false, 0);
    move_base(u, u->n->page);
    t1_go(t, o->target - u->n->page, o->poll, &stub);
    t1_put_stub(t, &stub);
}

/* The branch as T1 translates it. */
static void put_general(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    for (unsigned i = 0; i < u->nb_general; i++) {
        t1_set_rel32(&t->e, u->general[i], t1_pos(&t->e));
    }
    exchange(u, false, 0);
    move_base(u, u->n->page);
    t->cur = NULL;
    t->nb_stubs = 0;
    t->vec_ready = t->x87_ready = t->region = false;
    t->groups = NULL;
    if (!t1_branch(t)) {
        t1_jump_slow(t);
        t->cur->op = t->insn->op;
    }
    if (t->cur) {
        t->cur->resume = t1_pos(&t->e);
        t->cur->branch = true;
    }
    t1_put_slows(t);
    t1_put_stubs(t);
    t->nb_refill = t->nb_slow = 0;
    t->region = u->grouped;
    t->groups = u->grouped ? &u->groups : NULL;
}

/* Attention is wanted: to the run loop, with RIP at the node. */
static void put_poll_out(struct t2_build *u)
{
    struct t1_emit *e = &u->t.e;
    t1_set_rel32(e, u->poll_from, t1_pos(e));
    exchange(u, false, 0);
    t1_load(e, T1_S1, T1_FIELD(t1.page_base));
    t1_lea(e, T1_S1, (struct t1_mem){T1_S1, T1_NO_REG, 0, t2_node_off(u->n)});
    t1_jmp(e, u->t.t1->glue_exit);
}

/* Leave before instruction @insn of the node: T1's translation goes on there. */
static void put_leave(struct t2_build *u, unsigned insn)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    const struct t1_trans *tr = &t->t1->trans[t->b->t1];
    struct t1_stub stub;
    if (u->lockstep) {
        t1_mov_ri(e, T1_S2, (int64_t)(uintptr_t)&t->t1->left_early);
        t1_op_mem(e, &(struct t1_enc){.opcode = 0xc6}, 0,
                  (struct t1_mem){T1_S2, T1_NO_REG, 0, 0});
        t1_u8(e, 1);
    }
    exchange(u, false, 0);
    move_base(u, u->n->page);
    if (!insn) {
        t1_jmp(e, tr->t2 ? tr->own_entry : tr->entry);
        return;
    }
    t1_lea(e, T1_COUNT, (struct t1_mem){T1_COUNT, T1_NO_REG, 0, (int32_t)insn});
    t1_go(t, (int64_t)(t->b->gpa & 0xfff) + t->b->ops[insn].start, false, &stub);
    t1_put_stub(t, &stub);
}

static void put_cold(struct t2_build *u)
{
    for (unsigned i = 0; i < u->groups.nb_checks; i++) {
        t2_put_check_fill(u, &u->groups.check[i]);
        as_t1(u);
        put_leave(u, u->groups.check[i].insn);
        as_t2(u);
    }
    put_slows(u);
    if (u->poll_from) {
        put_poll_out(u);
    }
    as_t1(u);
    for (unsigned i = 0; i < u->nb_outs; i++) {
        put_way_out(u, &u->out[i]);
    }
    if (u->nb_general) {
        put_general(u);
    }
    as_t2(u);
}

static bool put_node(struct t2_build *u, unsigned index)
{
    struct t1_ctx *t = &u->t;
    struct t1_core *t1 = t->t1;
    u->index = index;
    u->n = &u->r->node[index];
    u->next = &t1->t2->next[index];
    if (t1_pos(&t->e) + NODE_ROOM > t1->cold_start ||
        (uint32_t)(u->cold - t->e.base) + NODE_ROOM > t1->cold_end ||
        t1->nb_sites + T2_NODE_WAYS + ARRAY_LEN(u->groups.check) > t1->max_sites ||
        !t1_decode_block(t->c, u->n->b, &u->d)) {
        return false;
    }
    t->b = u->n->b;
    as_t2(u);
    t->nb_slow = t->nb_refill = 0;
    t->held[0].reg = t->held[1].reg = T1_NO_REG;
    t->x87.pending = false;
    t->vec_ready = u->r->vec;
    t->x87_ready = u->r->x87;
    u->nb_outs = u->nb_general = u->groups.nb_checks = u->poll_from = 0;
    t->node = index;
    if (u->grouped && !t2_in_chain(u, u->place[index])) {
        t2_plan_groups(u, u->place[index]);
    }
    put_hot(u);
    u->hot = t->e.p;
    t->e.p = u->cold;
    put_cold(u);
    u->cold = t->e.p;
    t->e.p = u->hot;
    return true;
}

/* --- Ways in ---------------------------------------------------------------------- */

/* The page at page_base + @page has to be the one with @gpa. Returns the jumps for when
 * it is not. */
static void check_page(struct t2_build *u, int32_t page, uint64_t gpa,
                       uint32_t ret_miss[2])
{
    struct t1_emit *e = &u->t.e;
    t1_code_page(&u->t, page, &ret_miss[0]);
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, T1_NO_REG, 0, -(int32_t)(gpa >> GMEM_PAGE_SHIFT)});
    uint32_t hit = t1_jrcxz(e);
    ret_miss[1] = t1_jmp(e, 0);
    t1_here8(e, hit);
}

/* rcx = 0 when the registers @need are in the host's. */
static void test_ready(struct t2_build *u, unsigned need)
{
    struct t1_emit *e = &u->t.e;
    if (need == T1_NEED_VEC) {
        t1_load(e, T1_RCX, T1_FIELD(t1.vec_away));
    } else {
        t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
                  T1_FIELD(fpu_loaded)); /* movzx */
        t1_not(e, T1_RCX);
        t1_pext(e, T1_RCX, T1_RCX, T1_FIELD(t1.x87_mask));
    }
}

/* Bring them there, with those in @had. Where that is not possible T1's translation is
 * entered. */
static void make_ready(struct t2_build *u, unsigned need, unsigned had)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    test_ready(u, need);
    uint32_t ready = t1_jrcxz(e);
    uint32_t away = t1_jmp(e, 0);
    t1_here8(e, ready);
    uint32_t over = t1_jmp(e, 0);
    t1_set_rel32(e, away, t1_pos(e));
    t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
    t1_mov_ri(e, T1_S1,
              (int64_t)(need | had | T1_ENSURE | T1_TRY) | (int64_t)X86_NB_OPS << 16);
    t1_call(e, t->t1->glue_step);
    test_ready(u, need);
    ready = t1_jrcxz(e);
    t1_jmp(e, u->n->t1_entry[0]);
    t1_here8(e, ready);
    t1_set_rel32(e, over, t1_pos(e));
}

/* T1's links to the block come here. Returns the new entries. */
static void put_way_in(struct t2_build *u, unsigned index, uint32_t ret_entry[2])
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    const struct t2_region *r = u->r;
    struct t2_node *n = u->n = &u->r->node[index];
    uint32_t miss[2 * T2_MAX_PAGES];
    unsigned nb = 0;
    t->b = n->b;
    t->index = 0;
    t->vec_ready = t->x87_ready = false;
    t->nb_slow = t->nb_refill = 0;
    as_t1(u);
    ret_entry[1] = t1_pos(e);
    t1_put_poll(t);
    ret_entry[0] = t1_pos(e);
    if (r->vec) {
        make_ready(u, T1_NEED_VEC, 0);
    }
    if (r->x87) {
        make_ready(u, T1_NEED_X87, r->vec ? T1_NEED_VEC : 0);
    }
    move_base(u, -n->page);
    for (unsigned i = 0; i < r->nb_pages; i++) {
        if (r->pages[i].page != n->page) {
            check_page(u, r->pages[i].page, r->pages[i].gpa, miss + nb);
            nb += 2;
        }
    }
    exchange(u, true, 0);
    t1_jmp(e, n->pos);
    for (unsigned i = 0; i < nb; i++) {
        t1_set_rel32(e, miss[i], t1_pos(e));
    }
    if (nb) {
        move_base(u, n->page);
        t1_jmp(e, n->t1_entry[0]);
    }
    t1_put_slows(t);
}

/* --- All of it ------------------------------------------------------------------ */

static void fix_jumps(struct t2_build *u)
{
    for (unsigned i = 0; i < u->nb_jumps; i++) {
        const struct t2_node *n = &u->r->node[u->jump[i].node];
        t1_set_rel32(&u->t.e, u->jump[i].at, t2_entry_of(n));
    }
}

static void tell_perf(const struct t2_build *u, const char *what, uint32_t from,
                      uint32_t to)
{
    struct t1_jitdump *d = u->t.c->core->tvm->jitdump;
    char name[48];
    if (d && to > from) {
        snprintf(name, sizeof(name), "region %" PRIx64 "%s", u->r->node[0].b->gpa,
                 what);
        t1_jitdump_code(d, name, u->t.t1->exec + from, to - from);
    }
}

/* Links to the node's block lead to @entry from now on. */
static void hook(struct t0_cpu *c, struct t2_region *r, unsigned index,
                 const uint32_t entry[2])
{
    struct t0_block *b = r->node[index].b;
    struct t1_trans *tr = &c->core->t1->trans[b->t1];
    t1_unlink_block(c, b);
    tr->own_entry = tr->entry;
    tr->t2 = true;
    tr->entry = entry[0];
    tr->entry_poll = entry[1];
}

static bool emit(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    struct t1_core *t1 = t->t1;
    struct t2_region *r = u->r;
    uint32_t entry[T2_MAX_NODES][2], start = ALIGN_UP(t1->used, 16), cold = t1->cold,
                                     sites = t1->nb_sites;
    t->e = (struct t1_emit){.p = t1->write + cold, .base = t1->write};
    put_exchanges(u);
    if (u->table.nodes) {
        t2_find_mask(u);
        u->table.at = ALIGN_UP(t1_pos(&t->e), 8);
        t->e.p = t->e.base + u->table.at + 8 + (16u << u->table.bits);
    }
    u->cold = t->e.p;
    t->e.p = t1->write + start;
    for (unsigned i = 0; i < r->nb; i++) {
        if (!put_node(u, u->order[i])) {
            t1->nb_sites = sites;
            return false;
        }
    }
    fix_jumps(u);
    if (u->table.nodes) {
        t2_put_table(u);
    }
    u->hot = t->e.p;
    t->e.p = u->cold;
    for (unsigned i = 0; i < r->nb; i++) {
        const struct t1_trans *tr = &t1->trans[r->node[i].b->t1];
        r->node[i].way_in = (i == 0 || r->node[i].polled) && !tr->t2;
        if (r->node[i].way_in) {
            r->node[i].t1_entry[0] = tr->entry;
            r->node[i].t1_entry[1] = tr->entry_poll;
            put_way_in(u, i, entry[i]);
        }
    }
    t1->used = (uint32_t)(u->hot - t1->write);
    t1->cold = t1_pos(&t->e);
    tell_perf(u, "", start, t1->used);
    tell_perf(u, " (slow)", cold, t1->cold);
    for (unsigned i = 0; i < r->nb; i++) {
        if (r->node[i].way_in) {
            hook(t->c, r, i, entry[i]);
        }
        t1->trans[r->node[i].b->t1].in_t2 = true;
    }
    return true;
}

bool t2_build(struct t0_cpu *c, const struct t2_region *recorded)
{
    struct t1_core *t1 = c->core->t1;
    unsigned hot = recorded->nb_insns * 80 + NODE_ROOM;
    unsigned cold = recorded->nb_insns * 160 + recorded->nb * 400 + NODE_ROOM;
    if (!t1_make_room_for(c, hot, cold, recorded->nb * 3 + T2_NODE_WAYS)) {
        return false;
    }
    for (unsigned i = 0; i < recorded->nb; i++) {
        if (!recorded->node[i].b->t1) {
            return false; /* forgotten, to make room */
        }
    }
    g_autofree struct t2_build *u = g_new0(struct t2_build, 1);
    struct t2_region *r = u->r = g_memdup2(recorded, t2_region_bytes(recorded->nb));
    struct t1_ctx *t = &u->t;
    t->c = c;
    t->t1 = t1;
    t->lone = c->vcpu->vm->nb_vcpus == 1;
    u->lockstep = c->core->tvm->lockstep;
    t->region = u->grouped = !t1->trans[recorded->node[0].b->t1].t2_plain;
    t->groups = u->grouped ? &u->groups : NULL;
    t2_lay_out(u);
    t2_regs(c, r, u->host);
    find_pairs(u);
    if (!t2_look(u) || !emit(u)) {
        g_free(r);
        return false;
    }
    g_ptr_array_add(t1->t2->regions, r);
    return true;
}
