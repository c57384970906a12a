#include "vmm/accel/bt/t2_build.h"

#include "lib/base/base.h"

/*
 * Branches of a region: between its blocks, and what has to be known of an indirect one
 * before it is one of these. See t2.h.
 */

/* --- Ways between blocks ------------------------------------------------------- */

/* The rel32 at @at is to lead to @target. */
static void lead(struct t2_build *u, uint32_t at, int64_t target)
{
    int to = t2_find_off(u->r, target);
    if (to >= 0) {
        u->n->edges |= UINT64_C(1) << to;
        u->jump[u->nb_jumps].at = at;
        u->jump[u->nb_jumps++].node = (uint8_t)to;
        return;
    }
    const struct t0_op *op = &u->n->b->ops[u->t.index];
    u->out[u->nb_outs++] = (struct t2_way_out){
        .from = at, .target = target, .poll = target <= u->t.page_off + op->start};
}

/* Whether the block at @target is emitted next. */
static bool is_next(const struct t2_build *u, int64_t target)
{
    int to = t2_find_off(u->r, target);
    return to >= 0 && u->place[to] == u->place[u->index] + 1;
}

void t2_go(struct t2_build *u, int64_t target)
{
    if (is_next(u, target)) {
        u->n->edges |= UINT64_C(1) << t2_find_off(u->r, target);
    } else {
        lead(u, t1_jmp(&u->t.e, 0), target);
    }
}

static void jcc(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    int64_t next = t1_next_off(t), target = next + t->insn->imm;
    unsigned cc = t->insn->cc;
    t1_count(t);
    if (is_next(u, target) && !is_next(u, next)) {
        lead(u, t1_jcc(&t->e, cc ^ 1, 0), next);
        t2_go(u, target);
    } else {
        lead(u, t1_jcc(&t->e, cc, 0), target);
        t2_go(u, next);
    }
}

static void call_direct(struct t2_build *u)
{
    struct t1_ctx *t = &u->t;
    int64_t target = t1_next_off(t) + t->insn->imm;
    t1_push_return(t);
    /* After T0's push the region is left: that store may have changed its code. */
    if (t->cur) {
        t->cur->what |= T1_PUSH_RETURN;
        t->cur = NULL;
    }
    u->push_target = target;
    t1_count(t);
    t2_go(u, target);
}

/* Whether the target in r10 is at offset @off: a jump when it is, returned. */
static uint32_t guard(struct t2_build *u, int64_t off)
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

static void to_general(struct t2_build *u)
{
    u->general[u->nb_general++] = t1_jmp(&u->t.e, 0);
}

/* What is left to do of an indirect branch when its target is known. Changes rcx, r10
 * and r11. */
static void put_rest(struct t2_build *u)
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
static void go_guarded(struct t2_build *u, int64_t off, bool last)
{
    put_rest(u);
    if (last) {
        t2_go(u, off);
    } else {
        lead(u, t1_jmp(&u->t.e, 0), off);
    }
}

/* rcx and r10: the target in r10 as an offset from page_base. */
static void make_offset(struct t2_build *u)
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
static void put_look_up(struct t2_build *u)
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
static void put_guards(struct t2_build *u)
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

static void indirect(struct t2_build *u)
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
void t2_branch(struct t2_build *u)
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
            t2_go(u, target);
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
