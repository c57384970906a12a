#include "vmm/accel/bt/t2_build.h"

#include "lib/base/base.h"

/*
 * One check for several accesses to the same page: to fields of a struct, to a stack
 * frame.
 *
 * Along a chain of nodes (each is only come to from the one before) it is known which
 * accesses have the same base and index registers, with the same values but for
 * constants that were added: PUSH, POP, ADD, LEA and others move a register and do not
 * make another one of it. Such accesses are a group when they are not farther apart
 * than RANGE. The first one checks that all of the group's bytes are in the page of its
 * slot (t1_slot.c), for writing if one of them writes; the others only load the
 * addend:
 *
 *     lea   rcx, [base + highest]
 *     shrx  rcx, rcx, rsp
 *     lea   r11, [base + lowest]
 *     shrx  r11, r11, rsp
 *     lea   rcx, [rcx + r11]
 *     mov   r11, [slot.expected]     -2 * page number
 *     lea   rcx, [rcx + r11]
 *     jrcxz hit
 *     jmp   fill
 *   hit:
 *     mov   r11, [slot.addend]
 *     OP    [base + displacement + r11]
 *     ...
 *     mov   r11, [slot.addend]
 *     OP    [base + displacement + r11]
 *
 * When the bytes are in two pages, or the page is one that T0 has to look at, the
 * region is left before the instruction: T1 goes on. A region that is left so for more
 * than T2_MAX_FAILS times is made anew without groups.
 *
 * What was checked stays so along the chain. Only C code changes the TLB: a step by T0
 * in a region that made the TLB forget anything leaves (T1_STRICT). An instruction that
 * may change what is allowed ends all groups.
 */

#define RANGE 1024

/* What a register holds: a value that has no name, and a constant. */
struct value {
    uint32_t id;
    int64_t delta;
};

struct plan {
    struct t2_build *u;
    struct value reg[X86_NB_GPR];
    uint32_t next_id;
    unsigned first_group; /* that may be joined */
};

/* --- Which accesses there are --------------------------------------------------- */

static void forget_reg(struct plan *p, unsigned r)
{
    p->reg[r & 15] = (struct value){.id = p->next_id++};
}

static void forget_all(struct plan *p)
{
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        forget_reg(p, r);
    }
    p->first_group = p->u->nb_groups;
}

static bool same_key(const struct t2_key *a, const struct t2_key *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale;
}

/* An access at @off from what @key is. */
static void note_access(struct plan *p, struct t2_access a, const struct t2_key *key,
                        int64_t off)
{
    struct t2_build *u = p->u;
    if (u->nb_accesses == ARRAY_LEN(u->access) || !t1_fits32(off * 4)) {
        return;
    }
    int32_t lo = (int32_t)off, hi = lo + a.size;
    for (unsigned i = p->first_group; i <= u->nb_groups; i++) {
        struct t2_group *g = &u->group[i];
        if (i == u->nb_groups) {
            if (u->nb_groups == ARRAY_LEN(u->group)) {
                return;
            }
            u->nb_groups++;
            *g = (struct t2_group){.key = *key, .lo = lo, .hi = hi};
        } else if (!same_key(&g->key, key) || MAX(hi, g->hi) - MIN(lo, g->lo) > RANGE) {
            continue;
        }
        g->lo = MIN(lo, g->lo);
        g->hi = MAX(hi, g->hi);
        g->write |= a.write;
        g->nb++;
        a.group = (uint8_t)i;
        a.off = lo;
        u->access[u->nb_accesses++] = a;
        return;
    }
}

static void note_stack(struct plan *p, struct t2_access a, int64_t disp, bool write)
{
    const struct value *sp = &p->reg[X86_RSP];
    a.stack = true;
    a.size = 8;
    a.write = write;
    note_access(p, a, &(struct t2_key){.base = sp->id}, sp->delta + disp);
}

static void note_operand(struct plan *p, struct t2_access a,
                         const struct x86_insn *insn, const struct x86_opnd *m,
                         int64_t next_off)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    struct t2_key key = {.base = T2_RIP};
    int64_t off = insn->disp;
    if (insn->addrsize != 8 || insn->seg >= X86_FS || !m->access || !m->size ||
        m->size > 32 || (d->props & (X86_D_VSIB | X86_D_VSIB_HALF)) ||
        (insn->base == X86_REG_NONE && insn->index == X86_REG_NONE)) {
        return;
    }
    if (insn->base == X86_REG_RIP) {
        off += next_off;
    } else if (insn->base == X86_REG_NONE) {
        key.base = T2_NOTHING;
    } else {
        key.base = p->reg[insn->base].id;
        off += p->reg[insn->base].delta;
    }
    if (insn->index != X86_REG_NONE) {
        key.index = p->reg[insn->index].id;
        key.scale = insn->scale;
        off += p->reg[insn->index].delta * insn->scale;
    }
    a.size = (uint8_t)m->size;
    a.write = m->access & X86_ACC_W;
    note_access(p, a, &key, off);
}

/* --- What instructions do to registers ---------------------------------------------
 */

/* ADD and the like of a constant: how much is added. */
static bool adds(const struct x86_insn *insn, int64_t *ret)
{
    const struct x86_opnd *o = insn->opnd;
    if (insn->nb_opnds < 1 || o[0].kind != X86_OPND_REG || o[0].size != 8) {
        return false;
    }
    bool imm = insn->nb_opnds == 2 && o[1].kind == X86_OPND_IMM;
    switch (insn->op) {
    case X86_OP_ADD: *ret = insn->imm; return imm;
    case X86_OP_SUB: *ret = -insn->imm; return imm;
    case X86_OP_INC: *ret = 1; return true;
    case X86_OP_DEC: *ret = -1; return true;
    case X86_OP_LEA:
        *ret = insn->disp;
        return insn->addrsize == 8 && insn->base == o[0].reg &&
               insn->index == X86_REG_NONE;
    default: return false;
    }
}

static void do_stack(struct plan *p, const struct x86_insn *insn)
{
    struct value *sp = &p->reg[X86_RSP];
    const struct x86_opnd *o = &insn->opnd[0];
    bool plain = insn->opsize == 8;
    switch (insn->op) {
    case X86_OP_PUSH:
    case X86_OP_CALL: sp->delta -= 8; break;
    case X86_OP_RET: sp->delta += 8 + (insn->nb_opnds ? insn->imm & 0xffff : 0); break;
    case X86_OP_POP:
        sp->delta += 8;
        if (o->kind == X86_OPND_REG) {
            forget_reg(p, o->reg);
        }
        break;
    default: plain = false;
    }
    if (!plain) {
        forget_all(p);
    }
}

static void do_registers(struct plan *p, const struct x86_insn *insn)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    int64_t n;
    if (d->props & X86_D_STACK) {
        do_stack(p, insn);
        return;
    }
    if (d->cls != X86_CLASS_INT && d->cls != X86_CLASS_SSE && d->cls != X86_CLASS_AVX &&
        d->cls != X86_CLASS_X87 && d->cls != X86_CLASS_BRANCH) {
        forget_all(p);
        return;
    }
    if (adds(insn, &n)) {
        p->reg[insn->opnd[0].reg].delta += n;
        return;
    }
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        if (o->kind == X86_OPND_REG && (o->access & X86_ACC_W)) {
            forget_reg(p, o->reg);
        } else if (o->kind == X86_OPND_SRC || o->kind == X86_OPND_DST) {
            forget_all(p);
        }
    }
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        if (d->gpr_written >> r & 1) {
            forget_reg(p, r);
        }
    }
}

static void plan_node(struct plan *p, unsigned node)
{
    const struct t2_node *n = &p->u->r->node[node];
    const struct t0_block *b = n->b;
    struct x86_insn insn;
    for (unsigned i = 0; i < b->nb_insns; i++) {
        struct t2_access a = {.node = (uint8_t)node, .insn = (uint8_t)i};
        if (!t1_decode_op(p->u->t.c, b, i, &insn)) {
            forget_all(p);
            continue;
        }
        const struct x86_opnd *m = x86_insn_mem(&insn);
        unsigned cls = x86_insn_desc(&insn)->cls;
        bool operand = cls == X86_CLASS_INT || cls == X86_CLASS_SSE ||
                       cls == X86_CLASS_AVX || cls == X86_CLASS_BRANCH;
        if (m && operand) {
            note_operand(p, a, &insn, m, (int64_t)t2_node_off(n) + b->ops[i].next);
        }
        if (insn.opsize == 8 && (insn.op == X86_OP_PUSH || insn.op == X86_OP_CALL)) {
            note_stack(p, a, -8, true);
        } else if (insn.opsize == 8 &&
                   (insn.op == X86_OP_POP || insn.op == X86_OP_RET)) {
            note_stack(p, a, 0, false);
        }
        do_registers(p, &insn);
    }
}

void t2_plan_groups(struct t2_build *u, unsigned place)
{
    struct plan p = {.u = u, .next_id = T2_RIP + 1};
    u->nb_groups = u->nb_accesses = 0;
    forget_all(&p);
    do {
        plan_node(&p, u->order[place++]);
    } while (place < u->r->nb && t2_in_chain(u, place));
}

/* --- Translating
 * ---------------------------------------------------------------------- */

static struct t2_access *find_access(struct t2_build *u, bool stack)
{
    for (unsigned i = 0; i < u->nb_accesses; i++) {
        struct t2_access *a = &u->access[i];
        if (a->node == u->index && a->insn == u->t.index && a->stack == stack) {
            return a;
        }
    }
    return NULL;
}

static struct t1_mem plus(struct t1_mem m, int32_t n)
{
    m.disp += n;
    return m;
}

/* rcx = the page number of @at. */
static void put_page(struct t1_emit *e, unsigned to, struct t1_mem at)
{
    t1_lea(e, to, at);
    t1_shrx(e, to, to, T1_SP);
}

static void put_check(struct t2_build *u, struct t2_group *g, struct t1_mem first,
                      struct t1_mem last)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    struct t2_check *k = &u->check[u->nb_checks++];
    g->slot = t1_new_slot(t, 0);
    put_page(e, T1_RCX, last);
    put_page(e, T1_S2, first);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
    t1_load(e, T1_S2, t1_slot_field(t, g->slot, offsetof(struct t1_slot, expected)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
    uint32_t hit = t1_jrcxz(e);
    *k = (struct t2_check){.from = t1_jmp(e, 0),
                           .first = first,
                           .last = last,
                           .slot = g->slot,
                           .write = g->write,
                           .insn = (uint8_t)t->index,
                           .x87 = t->x87};
    t1_here8(e, hit);
    k->hit = t1_pos(e);
    g->checked = true;
}

bool t2_shared_access(struct t1_ctx *t, const struct t1_mem *stack, unsigned size,
                      bool write, bool aligned, struct t1_mem *ret)
{
    struct t2_build *u = container_of(t, struct t2_build, t);
    struct t2_access *a = find_access(u, stack != NULL);
    struct t2_group *g = a ? &u->group[a->group] : NULL;
    const struct x86_insn *i = t->insn;
    struct t1_mem at;
    if (!g || g->nb < 2 || size > a->size || (write && !g->write)) {
        return false;
    }
    /* A slow path that skips the check would leave the others without one. */
    if (!g->checked && (t->cur || u->nb_checks == ARRAY_LEN(u->check))) {
        return false;
    }
    if (stack) {
        at = *stack;
    } else if (i->index != X86_REG_NONE || i->base == X86_REG_NONE) {
        at = (struct t1_mem){(uint8_t)t1_ea(t, T1_S1, true), T1_NO_REG, 0, 0};
    } else if (i->base == X86_REG_RIP) {
        t1_load(&t->e, T1_S1, T1_FIELD(t1.page_base));
        at = (struct t1_mem){T1_S1, T1_NO_REG, 0, (int32_t)(t1_next_off(t) + i->disp)};
    } else {
        at = (struct t1_mem){(uint8_t)t1_in_reg(t, i->base, T1_S1), T1_NO_REG, 0,
                             (int32_t)i->disp};
    }
    if (!g->checked) {
        put_check(u, g, plus(at, g->lo - a->off), plus(at, g->hi - 1 - a->off));
    }
    if (aligned) {
        t1_lea(&t->e, T1_RCX, at);
        t1_check_zero(t, T1_RCX,
                      t1_field(offsetof(struct t0_cpu, t1.low[__builtin_ctz(size)])));
    }
    t1_load(&t->e, T1_S2, t1_slot_field(t, g->slot, offsetof(struct t1_slot, addend)));
    at.index = T1_S2;
    *ret = at;
    return true;
}

/* Jump unless rcx is 0. */
static uint32_t unless_zero(struct t1_emit *e)
{
    uint32_t zero = t1_jrcxz(e), jump = t1_jmp(e, 0);
    t1_here8(e, zero);
    return jump;
}

void t2_put_check_fill(struct t2_build *u, const struct t2_check *k)
{
    struct t1_ctx *t = &u->t;
    struct t1_emit *e = &t->e;
    unsigned user = t1_is_user(t->b->mode);
    uint32_t fail[3];
    t1_set_rel32(e, k->from, t1_pos(e));
    put_page(e, T1_RCX, k->last);
    put_page(e, T1_S2, k->first);
    t1_not(e, T1_S2);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 1});
    fail[0] = unless_zero(e);
    t1_lea(e, T1_S2, k->first);
    t1_lea(e, T1_RCX, t1_slot_field(t, k->slot, 0));
    t1_call(e, t->t1->glue_fill[user][k->write][0][T1_FILL_ANY]);
    fail[1] = unless_zero(e);
    /* Was it filled? */
    put_page(e, T1_RCX, k->first);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_RCX, 0, 0});
    t1_load(e, T1_S2, t1_slot_field(t, k->slot, offsetof(struct t1_slot, expected)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
    fail[2] = unless_zero(e);
    t1_jmp(e, k->hit);
    for (unsigned i = 0; i < ARRAY_LEN(fail); i++) {
        t1_set_rel32(e, fail[i], t1_pos(e));
    }
    t1_x87_note(e, &k->x87);
    t1_mov_ri(e, T1_S2, (int64_t)(uintptr_t)&u->r->fails);
    t1_load(e, T1_RCX, (struct t1_mem){T1_S2, T1_NO_REG, 0, 0});
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, 1});
    t1_store(e, (struct t1_mem){T1_S2, T1_NO_REG, 0, 0}, T1_RCX);
    t1_mov_ri(e, T1_RCX, T1_ADAPT_NOT);
    t1_store(e, T1_FIELD(t1.adapt), T1_RCX);
}
