#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t2_priv.h"

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

#define NODE_ROOM  (24u << 10) /* more than any block needs, on either path */
#define NODE_WAYS  8u
#define TABLE_BITS 9u /* at most: 8 KiB */

/* A jump out of the region, or to T1's translation of a branch. */
struct way_out {
    uint32_t from;
    int64_t target; /* offset */
    bool poll;
};

struct build {
    struct t1_ctx t;
    struct t2_region *r;
    struct t1_decoded d;
    uint8_t order[T2_MAX_NODES]; /* nodes as they are laid out */
    unsigned place[T2_MAX_NODES];
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
    struct way_out out[NODE_WAYS];
    unsigned nb_outs;
    uint32_t general[2]; /* jumps to T1's translation of the branch */
    unsigned nb_general;
    uint32_t poll_from;
    int64_t push_target; /* of a CALL whose push is left to T0 */
    bool lockstep;
};

/* --- Where things are --------------------------------------------------------- */

static int find_off(const struct t2_region *r, int64_t off)
{
    for (unsigned i = 0; i < r->nb; i++) {
        if (t2_node_off(&r->node[i]) == off) {
            return (int)i;
        }
    }
    return -1;
}

static void find_pairs(struct build *u)
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
static void exchange(struct build *u, bool back, int32_t above)
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

static void put_exchanges(struct build *u)
{
    u->put_home = t1_pos(&u->t.e);
    exchange(u, false, 8);
    t1_u8(&u->t.e, 0xc3);
    u->put_back = t1_pos(&u->t.e);
    exchange(u, true, 8);
    t1_u8(&u->t.e, 0xc3);
}

/* page_base += @by; changes rcx. */
static void move_base(struct build *u, int32_t by)
{
    struct t1_emit *e = &u->t.e;
    if (by) {
        t1_load(e, T1_RCX, T1_FIELD(t1.page_base));
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, by});
        t1_store(e, T1_FIELD(t1.page_base), T1_RCX);
    }
}

/* From here on all is as T1 has it, for the current node. */
static void as_t1(struct build *u)
{
    memcpy(u->t.host, t1_home, sizeof(t1_home));
    u->t.page_off = (int32_t)(u->n->b->gpa & 0xfff);
}

static void as_t2(struct build *u)
{
    memcpy(u->t.host, u->host, sizeof(u->host));
    u->t.page_off = t2_node_off(u->n);
}

/* --- Ways between blocks ------------------------------------------------------- */

/* The rel32 at @at is to lead to @target. */
static void lead(struct build *u, uint32_t at, int64_t target)
{
    int to = find_off(u->r, target);
    if (to >= 0) {
        u->n->edges |= UINT64_C(1) << to;
        u->jump[u->nb_jumps].at = at;
        u->jump[u->nb_jumps++].node = (uint8_t)to;
        return;
    }
    const struct t0_op *op = &u->n->b->ops[u->t.index];
    u->out[u->nb_outs++] = (struct way_out){
        .from = at, .target = target, .poll = target <= u->t.page_off + op->start};
}

/* Whether the block at @target is emitted next. */
static bool is_next(const struct build *u, int64_t target)
{
    int to = find_off(u->r, target);
    return to >= 0 && u->place[to] == u->place[u->index] + 1;
}

static void go(struct build *u, int64_t target)
{
    if (is_next(u, target)) {
        u->n->edges |= UINT64_C(1) << find_off(u->r, target);
    } else {
        lead(u, t1_jmp(&u->t.e, 0), target);
    }
}

static void jcc(struct build *u)
{
    struct t1_ctx *t = &u->t;
    int64_t next = t1_next_off(t), target = next + t->insn->imm;
    unsigned cc = t->insn->cc;
    t1_count(t);
    if (is_next(u, target) && !is_next(u, next)) {
        lead(u, t1_jcc(&t->e, cc ^ 1, 0), next);
        go(u, target);
    } else {
        lead(u, t1_jcc(&t->e, cc, 0), target);
        go(u, next);
    }
}

static void call_direct(struct build *u)
{
    struct t1_ctx *t = &u->t;
    int64_t target = t1_next_off(t) + t->insn->imm;
    t1_push_return(t);
    /* After T0's push the region is left: that store may have changed its code. */
    t->cur->what |= T1_PUSH_RETURN;
    t->cur = NULL;
    u->push_target = target;
    t1_count(t);
    go(u, target);
}

/* Whether the target in r10 is at offset @off: a jump when it is, returned. */
static uint32_t guard(struct build *u, int64_t off)
{
    struct t1_emit *e = &u->t.e;
    t1_load(e, T1_RCX, T1_FIELD(t1.page_base));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, (int32_t)off});
    t1_not(e, T1_RCX);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, 1});
    return t1_jrcxz(e);
}

/* The node that followed most often, but for one, or -1. */
static int most_often(const struct t2_next *n, int but)
{
    int best = -1;
    for (unsigned i = 0; i < n->nb; i++) {
        if ((int)i != but && (best < 0 || n->to[i].count > n->to[best].count)) {
            best = (int)i;
        }
    }
    return best;
}

static void to_general(struct build *u)
{
    u->general[u->nb_general++] = t1_jmp(&u->t.e, 0);
}

/* What is left to do of an indirect branch when its target is known. Changes rcx, r10
 * and r11. */
static void put_rest(struct build *u)
{
    struct t1_ctx *t = &u->t;
    unsigned sp = t->host[X86_RSP];
    if (t->insn->op == X86_OP_RET) {
        int32_t more = t->insn->nb_opnds ? (int32_t)(t->insn->imm & 0xffff) : 0;
        t1_lea(&t->e, sp, (struct t1_mem){(uint8_t)sp, T1_NO_REG, 0, 8 + more});
    } else if (t->insn->op == X86_OP_CALL) {
        t1_push_return(t);
    }
    t1_count(t);
}

/* The target is known to be @off. Others are compared behind it, unless it is the
 * @last. */
static void go_guarded(struct build *u, int64_t off, bool last)
{
    put_rest(u);
    if (last) {
        go(u, off);
    } else {
        lead(u, t1_jmp(&u->t.e, 0), off);
    }
}

/* rcx and r10: the target in r10 as an offset from page_base. */
static void make_offset(struct build *u)
{
    struct t1_emit *e = &u->t.e;
    t1_load(e, T1_RCX, T1_FIELD(t1.page_base));
    t1_not(e, T1_RCX);
    t1_lea(e, T1_S1, (struct t1_mem){T1_S1, T1_RCX, 0, 1});
}

/*
 * Look for the target in r10 in the region's table:
 *
 *     mask | minus the offset, for each value under the mask | code, likewise
 */
static void put_look_up(struct build *u)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    int32_t codes = 8 + (8 << u->table.bits);
    make_offset(u);
    t1_mov_ri(e, T1_S2, (int64_t)(uintptr_t)(t->t1->exec + u->table.at));
    t1_pext(e, T1_RCX, T1_S1, (struct t1_mem){T1_S2, T1_NO_REG, 0, 0});
    t1_lea(e, T1_S2, (struct t1_mem){T1_S2, T1_RCX, 3, 0});
    t1_load(e, T1_RCX, (struct t1_mem){T1_S2, T1_NO_REG, 0, 8});
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, 0});
    uint32_t hit = t1_jrcxz(e);
    to_general(u);
    t1_here8(e, hit);
    unsigned entry = T1_S2;
    if (t->insn->op == X86_OP_CALL) {
        t1_store(e, T1_FIELD(t1.target), T1_S2);
        put_rest(u);
        t1_load(e, T1_RCX, T1_FIELD(t1.target));
        entry = T1_RCX;
    } else {
        put_rest(u);
    }
    u->n->edges |= u->table.nodes;
    t1_op_mem(e, &(struct t1_enc){.opcode = 0xff}, 4,
              (struct t1_mem){(uint8_t)entry, T1_NO_REG, 0, codes});
}

/* Compare the target in r10 with those that followed. */
static void put_guards(struct build *u)
{
    struct t1_ctx *t = &u->t;
    const struct t2_next *n = u->next;
    int first = most_often(n, -1), second = most_often(n, first);
    /* A slow path has only so many jumps to it. */
    unsigned nb = second < 0 || t->insn->op == X86_OP_CALL ? 1 : T2_GUARDS;
    for (unsigned i = 0; i < nb; i++) {
        int64_t off = t2_node_off(&u->r->node[n->to[i ? second : first].node]);
        uint32_t hit = guard(u, off), miss = 0;
        if (i + 1 == nb) {
            to_general(u);
        } else {
            miss = t1_jmp(&t->e, 0);
        }
        t1_here8(&t->e, hit);
        go_guarded(u, off, i + 1 == nb);
        if (miss) {
            t1_set_rel32(&t->e, miss, t1_pos(&t->e));
        }
    }
}

static void indirect(struct build *u)
{
    struct t1_ctx *t = &u->t;
    bool ret = t->insn->op == X86_OP_RET;
    if (!u->next->nb || (!ret && !t1_load_target(t))) {
        to_general(u);
        return;
    }
    if (ret) {
        t1_load(&t->e, T1_S1, t1_probe_stack(t, 0, 8, false));
    }
    if (u->next->nb > T2_GUARDS) {
        put_look_up(u);
    } else {
        put_guards(u);
    }
}

/* What has no other way goes the one of T1's translation, or of T0. */
static void branch(struct build *u)
{
    struct t1_ctx *t = &u->t;
    const struct x86_insn *insn = t->insn;
    bool direct = insn->nb_opnds && insn->opnd[0].kind == X86_OPND_REL;
    int64_t target = t1_next_off(t) + insn->imm;
    if (insn->opsize != 8 || (direct && !t1_fits32(target))) {
        to_general(u);
        return;
    }
    switch (insn->op) {
    case X86_OP_JCC: jcc(u); break;
    case X86_OP_JMP:
        if (direct) {
            t1_count(t);
            go(u, target);
        } else {
            indirect(u);
        }
        break;
    case X86_OP_CALL:
        if (direct) {
            call_direct(u);
        } else {
            indirect(u);
        }
        break;
    case X86_OP_RET: indirect(u); break;
    default: to_general(u); break;
    }
}

/* --- Blocks --------------------------------------------------------------------- */

static void fall_back(struct build *u)
{
    struct t1_ctx *t = &u->t;
    t1_let_go(t);
    t1_x87_note(&t->e, &t->x87);
    t->x87.pending = false;
    t1_jump_slow(t);
    t->cur->op = t->insn->op;
}

static void put_insn(struct build *u, unsigned i)
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
        branch(u);
    } else if (!t1_insn(t)) {
        fall_back(u);
    }
    if (t->cur) {
        t->cur->resume = t1_pos(&t->e);
        t->cur->branch = last;
    }
}

/* A jump when attention is wanted, returned. */
static uint32_t poll(struct build *u)
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

static void put_hot(struct build *u)
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
        go(u, (int64_t)t->page_off + b->len);
    }
}

/* --- Off the straight path ------------------------------------------------------- */

static void put_slow(struct build *u, const struct t1_slow *s)
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
    t1_mov_ri(e, T1_S1, s->what | (int64_t)s->op << 16);
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

static void put_slows(struct build *u)
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

static void put_way_out(struct build *u, const struct way_out *o)
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
static void put_general(struct build *u)
{
    struct t1_ctx *t = &u->t;
    for (unsigned i = 0; i < u->nb_general; i++) {
        t1_set_rel32(&t->e, u->general[i], t1_pos(&t->e));
    }
    exchange(u, false, 0);
    move_base(u, u->n->page);
    t->cur = NULL;
    t->nb_stubs = 0;
    t->vec_ready = t->x87_ready = false;
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
}

/* Attention is wanted: to the run loop, with RIP at the node. */
static void put_poll_out(struct build *u)
{
    struct t1_emit *e = &u->t.e;
    t1_set_rel32(e, u->poll_from, t1_pos(e));
    exchange(u, false, 0);
    t1_load(e, T1_S1, T1_FIELD(t1.page_base));
    t1_lea(e, T1_S1, (struct t1_mem){T1_S1, T1_NO_REG, 0, t2_node_off(u->n)});
    t1_jmp(e, u->t.t1->glue_exit);
}

static void put_cold(struct build *u)
{
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

static bool put_node(struct build *u, unsigned index)
{
    struct t1_ctx *t = &u->t;
    struct t1_core *t1 = t->t1;
    u->index = index;
    u->n = &u->r->node[index];
    u->next = &t1->t2->next[index];
    if (t1_pos(&t->e) + NODE_ROOM > t1->cold_start ||
        (uint32_t)(u->cold - t->e.base) + NODE_ROOM > t1->cold_end ||
        t1->nb_sites + NODE_WAYS > t1->max_sites ||
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
    u->nb_outs = u->nb_general = u->poll_from = 0;
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
static void check_page(struct build *u, int32_t page, uint64_t gpa,
                       uint32_t ret_miss[2])
{
    struct t1_emit *e = &u->t.e;
    ret_miss[0] = t1_code_page(&u->t, page);
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, T1_NO_REG, 0, -(int32_t)(gpa >> GMEM_PAGE_SHIFT)});
    uint32_t hit = t1_jrcxz(e);
    ret_miss[1] = t1_jmp(e, 0);
    t1_here8(e, hit);
}

/* rcx = 0 when the registers @need are in the host's. */
static void test_ready(struct build *u, unsigned need)
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
static void make_ready(struct build *u, unsigned need, unsigned had)
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
static void put_way_in(struct build *u, unsigned index, uint32_t ret_entry[2])
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

/* --- Shape --------------------------------------------------------------------------
 */

/* Blocks in the order in which they are emitted. */
static void lay_out(struct build *u)
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
static unsigned nb_values(const struct build *u, uint64_t mask)
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
static void find_mask(struct build *u)
{
    unsigned want = nb_values(u, UINT64_MAX);
    u->table.mask = u->table.bits = 0;
    while (nb_values(u, u->table.mask) < want) {
        uint64_t best = 0;
        if (u->table.bits == TABLE_BITS) {
            u->table.nodes &= u->table.nodes - 1;
            find_mask(u);
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

static uint32_t entry_of(const struct t2_node *n)
{
    return n->polled ? n->pos_poll : n->pos;
}

/* Fill the table; its place is made. */
static void put_table(struct build *u)
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
            table[at + size] = (uintptr_t)(t1->exec + entry_of(&u->r->node[i]));
        }
    }
}

static void note_back(struct build *u, unsigned from, int to)
{
    if (to >= 0 && u->place[to] <= u->place[from]) {
        u->r->node[to].polled = true;
    }
}

/* Whether the region uses vectors and x87 often, and which blocks branches lead back
 * to. */
static bool look(struct build *u)
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
        note_back(u, n, find_off(r, off + b->len));
        if (last->nb_opnds && last->opnd[0].kind == X86_OPND_REL) {
            note_back(u, n, find_off(r, off + b->len + last->imm));
        }
        const struct t2_next *next = &t->t1->t2->next[n];
        for (unsigned i = 0; i < next->nb; i++) {
            note_back(u, n, next->to[i].node);
            if (next->nb > T2_GUARDS) {
                u->table.nodes |= UINT64_C(1) << next->to[i].node;
                at_table |= UINT64_C(1) << n;
            }
        }
    }
    for (unsigned n = 0; n < r->nb; n++) {
        for (unsigned to = 0; to < r->nb && at_table >> n & 1; to++) {
            note_back(u, n, u->table.nodes >> to & 1 ? (int)to : -1);
        }
    }
    r->vec = vec * 4 >= most && vec;
    r->x87 = x87 * 4 >= most && x87;
    return true;
}

static void fix_jumps(struct build *u)
{
    for (unsigned i = 0; i < u->nb_jumps; i++) {
        const struct t2_node *n = &u->r->node[u->jump[i].node];
        t1_set_rel32(&u->t.e, u->jump[i].at, entry_of(n));
    }
}

static void tell_perf(const struct build *u, const char *what, uint32_t from,
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
    tr->t2 = true;
    tr->entry = entry[0];
    tr->entry_poll = entry[1];
}

static bool emit(struct build *u)
{
    struct t1_ctx *t = &u->t;
    struct t1_core *t1 = t->t1;
    struct t2_region *r = u->r;
    uint32_t entry[T2_MAX_NODES][2], start = ALIGN_UP(t1->used, 16), cold = t1->cold,
                                     sites = t1->nb_sites;
    t->e = (struct t1_emit){.p = t1->write + cold, .base = t1->write};
    put_exchanges(u);
    if (u->table.nodes) {
        find_mask(u);
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
        put_table(u);
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
    if (!t1_make_room_for(c, hot, cold, recorded->nb * 3 + NODE_WAYS)) {
        return false;
    }
    for (unsigned i = 0; i < recorded->nb; i++) {
        if (!recorded->node[i].b->t1) {
            return false; /* forgotten, to make room */
        }
    }
    g_autofree struct build *u = g_new0(struct build, 1);
    struct t2_region *r = u->r = g_memdup2(recorded, t2_region_bytes(recorded->nb));
    struct t1_ctx *t = &u->t;
    t->c = c;
    t->t1 = t1;
    t->lone = c->vcpu->vm->nb_vcpus == 1;
    u->lockstep = c->core->tvm->lockstep;
    lay_out(u);
    t2_regs(c, r, u->host);
    find_pairs(u);
    if (!look(u) || !emit(u)) {
        g_free(r);
        return false;
    }
    g_ptr_array_add(t1->t2->regions, r);
    return true;
}

/* --- The end of a region
 * -------------------------------------------------------------- */

static void drop(struct t0_cpu *c, struct t2_region *r)
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
                drop(c, r);
                g_ptr_array_remove_index_fast(all, i);
                break;
            }
        }
    }
}

void t2_evict(struct t0_cpu *c, uint32_t from, uint32_t to)
{
    struct t2_core *t2 = c->core->t1->t2;
    for (guint i = t2 ? t2->regions->len : 0; i-- > 0;) {
        struct t2_region *r = g_ptr_array_index(t2->regions, i);
        if (r->node[0].pos >= from && r->node[0].pos < to) {
            drop(c, r);
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
    int to = find_off(r, (int64_t)(c->s.rip - base));
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
