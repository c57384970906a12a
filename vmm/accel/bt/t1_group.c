#include "vmm/accel/bt/t1_group.h"

#include "lib/base/base.h"

/*
 * One check for several accesses to the same page: to fields of a struct, to a stack
 * frame.
 *
 * In code that is only come through from its beginning (a block, or in a hot region a
 * chain of blocks) it is known which accesses have the same base and index registers,
 * with the same values but for constants that were added: PUSH, POP, ADD, LEA and
 * others move a register and do not make another one of it. Such accesses are a group
 * when they are not farther apart than RANGE. The first one checks that all of the
 * group's bytes are in the page of its slot (t1_slot.c), for writing if one of them
 * writes; the others only load the addend:
 *
 *     lea   rcx, [base + highest]
 *     shrx  rcx, rcx, rsp
 *     lea   r11, [base + lowest]
 *     shrx  r11, r11, rsp
 *     lea   rcx, [rcx + r11 + 1]
 *     mov   r11, [slot.expected]     -2 * page number
 *     lea   rcx, [rcx + r11]
 *     loop  fill
 *     mov   r11, [slot.addend]
 *     OP    [base + displacement + r11]
 *     ...
 *     mov   r11, [slot.addend]
 *     OP    [base + displacement + r11]
 *
 * Where slots do not pay (t0_block.probe_sites) it is a look in the TLB that leaves the
 * addend in the slot. A block's stack frame has the slot that all that goes through the
 * stack pointer shares, unless there are two.
 *
 * When the bytes are in two pages, or the page is one that T0 has to look at, a block
 * goes on in a copy of itself, out of line, where each access is checked by itself: one
 * copy for each stretch of instructions in which groups are open, and entered at any
 * check. A region is left before the instruction: T1 goes on.
 *
 * What was checked stays so until the end. Only C code changes the TLB: a step by T0
 * that made it forget anything leaves (T1_STRICT). An instruction that may change what
 * is allowed ends all groups.
 */

#define RANGE 1024
#define WORD  8 /* on the stack */

/* --- Which accesses there are --------------------------------------------------- */

static void forget_reg(struct t1_groups *s, unsigned r)
{
    s->reg[r & 15] = (struct t1_value){.id = s->next_id++};
}

static void forget_all(struct t1_groups *s)
{
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        forget_reg(s, r);
    }
    s->first_open = s->nb_groups;
}

static bool same_key(const struct t1_key *a, const struct t1_key *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale;
}

/* An access at @off from what @key is. */
static void note_access(struct t1_groups *s, struct t1_access a,
                        const struct t1_key *key, int64_t off)
{
    if (s->nb_accesses == ARRAY_LEN(s->access) || !t1_fits32(off * 4)) {
        return;
    }
    int32_t lo = (int32_t)off, hi = lo + a.size;
    for (unsigned i = s->first_open; i <= s->nb_groups; i++) {
        struct t1_group *g = &s->group[i];
        if (i == s->nb_groups) {
            if (s->nb_groups == ARRAY_LEN(s->group)) {
                return;
            }
            s->nb_groups++;
            *g = (struct t1_group){.key = *key,
                                   .lo = lo,
                                   .hi = hi,
                                   .stack = key->base == s->reg[X86_RSP].id};
        } else if (!same_key(&g->key, key) || MAX(hi, g->hi) - MIN(lo, g->lo) > RANGE) {
            continue;
        }
        g->lo = MIN(lo, g->lo);
        g->hi = MAX(hi, g->hi);
        g->write |= a.write;
        g->nb++;
        a.group = (uint8_t)i;
        a.off = lo;
        s->access[s->nb_accesses++] = a;
        return;
    }
}

static void note_stack(struct t1_groups *s, struct t1_access a, int64_t disp,
                       bool write)
{
    const struct t1_value *sp = &s->reg[X86_RSP];
    a.implied = true;
    a.size = WORD;
    a.write = write;
    note_access(s, a, &(struct t1_key){.base = sp->id}, sp->delta + disp);
}

static void note_operand(struct t1_groups *s, struct t1_access a,
                         const struct x86_insn *insn, const struct x86_opnd *m,
                         int64_t next_off)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    struct t1_key key = {.base = T1_KEY_RIP};
    int64_t off = insn->disp;
    if (insn->addrsize != 8 || insn->seg >= X86_FS || !m->access || !m->size ||
        m->size > 32 || (d->props & (X86_D_VSIB | X86_D_VSIB_HALF)) ||
        (insn->base == X86_REG_NONE && insn->index == X86_REG_NONE)) {
        return;
    }
    if (insn->base == X86_REG_RIP) {
        off += next_off;
    } else if (insn->base == X86_REG_NONE) {
        key.base = T1_KEY_NOTHING;
    } else {
        key.base = s->reg[insn->base].id;
        off += s->reg[insn->base].delta;
    }
    if (insn->index != X86_REG_NONE) {
        key.index = s->reg[insn->index].id;
        key.scale = insn->scale;
        off += s->reg[insn->index].delta * insn->scale;
    }
    a.size = (uint8_t)m->size;
    a.write = m->access & X86_ACC_W;
    note_access(s, a, &key, off);
}

/* --- What instructions do to registers ------------------------------------------ */

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

/* MOV between registers. */
static bool copies(const struct x86_insn *insn)
{
    const struct x86_opnd *o = insn->opnd;
    return insn->op == X86_OP_MOV && o[0].kind == X86_OPND_REG && o[0].size == 8 &&
           o[1].kind == X86_OPND_REG;
}

static void do_stack(struct t1_groups *s, const struct x86_insn *insn)
{
    struct t1_value *sp = &s->reg[X86_RSP];
    const struct x86_opnd *o = &insn->opnd[0];
    bool plain = insn->opsize == 8;
    switch (insn->op) {
    case X86_OP_PUSH:
    case X86_OP_CALL: sp->delta -= 8; break;
    case X86_OP_RET: sp->delta += 8 + (insn->nb_opnds ? insn->imm & 0xffff : 0); break;
    case X86_OP_POP:
        sp->delta += 8;
        if (o->kind == X86_OPND_REG) {
            forget_reg(s, o->reg);
        }
        break;
    default: plain = false;
    }
    if (!plain) {
        forget_all(s);
    }
}

static void do_registers(struct t1_groups *s, const struct x86_insn *insn)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    int64_t n;
    if (d->props & X86_D_STACK) {
        do_stack(s, insn);
        return;
    }
    if (d->cls != X86_CLASS_INT && d->cls != X86_CLASS_SSE && d->cls != X86_CLASS_AVX &&
        d->cls != X86_CLASS_X87 && d->cls != X86_CLASS_BRANCH) {
        forget_all(s);
        return;
    }
    if (adds(insn, &n)) {
        s->reg[insn->opnd[0].reg].delta += n;
        return;
    }
    if (copies(insn)) {
        s->reg[insn->opnd[0].reg] = s->reg[insn->opnd[1].reg];
        return;
    }
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        if (o->kind == X86_OPND_REG && (o->access & X86_ACC_W)) {
            forget_reg(s, o->reg);
        } else if (o->kind == X86_OPND_SRC || o->kind == X86_OPND_DST) {
            forget_all(s);
        }
    }
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        if (d->gpr_written >> r & 1) {
            forget_reg(s, r);
        }
    }
}

/* --- Plans ------------------------------------------------------------------------ */

void t1_groups_begin(struct t1_groups *s)
{
    s->next_id = T1_KEY_RIP + 1;
    s->nb_groups = s->nb_accesses = s->nb_checks = s->nb_stretches = 0;
    s->r11_at = UINT32_MAX;
    s->last_insn = UINT8_MAX;
    s->stretch_now = 0;
    s->open = s->other_frame = false;
    forget_all(s);
}

void t1_groups_insn(struct t1_groups *s, const struct x86_insn *insn, unsigned node,
                    unsigned index, int64_t next_off, bool may_push)
{
    struct t1_access a = {.node = (uint8_t)node, .insn = (uint8_t)index};
    const struct x86_opnd *m = x86_insn_mem(insn);
    unsigned cls = x86_insn_desc(insn)->cls;
    bool operand = cls == X86_CLASS_INT || cls == X86_CLASS_SSE ||
                   cls == X86_CLASS_AVX || cls == X86_CLASS_BRANCH;
    unsigned nb = s->nb_accesses;
    if (m && operand) {
        note_operand(s, a, insn, m, next_off);
    }
    s->other_frame |= m && insn->base == X86_RSP &&
                      (nb == s->nb_accesses || !t1_fits32((int64_t)insn->disp * 2));
    if (insn->opsize == WORD && may_push &&
        (insn->op == X86_OP_PUSH || insn->op == X86_OP_CALL)) {
        note_stack(s, a, -WORD, true);
    } else if (insn->opsize == WORD &&
               (insn->op == X86_OP_POP || insn->op == X86_OP_RET)) {
        note_stack(s, a, 0, false);
    }
    do_registers(s, insn);
}

void t1_groups_lost(struct t1_groups *s)
{
    forget_all(s);
}

/* Where groups are open: first and last instruction of each, put together. */
static void find_stretches(struct t1_groups *s)
{
    uint8_t end[T0_BLOCK_MAX_INSNS] = {0}; /* of the group that begins there */
    for (unsigned n = s->nb_accesses; n-- > 0;) {
        const struct t1_access *a = &s->access[n];
        struct t1_group *g = &s->group[a->group];
        if (g->nb > 1) {
            g->end = MAX(g->end, (uint8_t)(a->insn + 1));
            end[a->insn] = MAX(end[a->insn], g->end);
        }
    }
    for (unsigned i = 0; i < T0_BLOCK_MAX_INSNS; i++) {
        struct t1_stretch *last =
            s->nb_stretches ? &s->stretch[s->nb_stretches - 1] : NULL;
        if (end[i] && last && i < last->end) {
            last->end = MAX(last->end, end[i]);
        } else if (end[i]) {
            s->stretch[s->nb_stretches++] =
                (struct t1_stretch){.first = (uint8_t)i, .end = end[i]};
        }
    }
}

/* Whether all that goes through the stack pointer is in one group: nothing else fills
 * its slot while that is open. */
static bool one_frame(const struct t1_groups *s)
{
    unsigned nb = s->other_frame;
    for (unsigned i = 0; i < s->nb_groups; i++) {
        nb += s->group[i].stack;
    }
    return nb == 1;
}

bool t1_plan_block(struct t1_ctx *t, const struct t1_decoded *d, struct t1_groups *s)
{
    const struct t0_block *b = t->b;
    t1_groups_begin(s);
    for (unsigned i = 0; i < b->nb_insns; i++) {
        const struct x86_insn *insn = &d->insn[i];
        /* The stub of a direct branch is made once. */
        bool stub = insn->nb_opnds && insn->opnd[0].kind == X86_OPND_REL;
        t1_groups_insn(s, insn, 0, i, (int64_t)t->page_off + b->ops[i].next, !stub);
    }
    s->one_frame = one_frame(s);
    find_stretches(s);
    return s->nb_stretches;
}

/* --- Translating ---------------------------------------------------------------- */

static struct t1_access *find_access(const struct t1_ctx *t, bool implied)
{
    struct t1_groups *s = t->groups;
    for (unsigned i = 0; i < s->nb_accesses; i++) {
        struct t1_access *a = &s->access[i];
        if (a->node == t->node && a->insn == t->index && a->implied == implied) {
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

/* to = the page number of @at. */
static void put_page(struct t1_emit *e, unsigned to, struct t1_mem at)
{
    if (at.disp) {
        t1_lea(e, to, at);
        at.base = (uint8_t)to;
    }
    t1_shrx(e, to, at.base, T1_SP);
}

static struct t1_mem stack_field(const struct t1_ctx *t, size_t off)
{
    size_t user = t1_is_user(t->b->mode);
    return t1_field(offsetof(struct t0_cpu, t1.stack) + user * sizeof(struct t1_stack) +
                    off);
}

/* Minus twice the page's number, and its addend. */
static struct t1_mem expected(const struct t1_ctx *t, const struct t1_group *g)
{
    return g->kind == T1_FILL_STACK
               ? stack_field(t, g->write ? offsetof(struct t1_stack, write[1])
                                         : offsetof(struct t1_stack, read[1]))
               : t1_slot_field(t, g->slot, offsetof(struct t1_slot, expected));
}

static struct t1_mem addend(const struct t1_ctx *t, const struct t1_group *g)
{
    return g->kind == T1_FILL_STACK
               ? stack_field(t, g->write ? offsetof(struct t1_stack, write_addend)
                                         : offsetof(struct t1_stack, read_addend))
               : t1_slot_field(t, g->slot, offsetof(struct t1_slot, addend));
}

static void put_check(struct t1_ctx *t, struct t1_group *g, struct t1_mem first)
{
    struct t1_emit *e = &t->e;
    struct t1_groups *s = t->groups;
    struct t1_check *k = &s->check[s->nb_checks++];
    bool block = s->nb_stretches;
    *k = (struct t1_check){.group = g,
                           .first = first,
                           .last = plus(first, g->hi - g->lo - 1),
                           .insn = (uint8_t)t->index,
                           .needs = (uint16_t)((t->vec_ready ? T1_NEED_VEC : 0) |
                                               (t->x87_ready ? T1_NEED_X87 : 0)),
                           .x87 = t->x87};
    g->kind = block && g->stack && s->one_frame && !t->new_stack ? T1_FILL_STACK
              : block && (t->b->probe_sites >> t->index & 1)     ? T1_NB_FILLS
                                                                 : T1_FILL_ANY;
    if (g->kind != T1_FILL_STACK) {
        g->slot = t1_new_slot(t, 0);
    }
    if (g->kind == T1_NB_FILLS) {
        t1_probe_bytes(t, first, g->hi - g->lo, g->write, &k->from);
        t1_store(e, addend(t, g), T1_S2);
    } else {
        put_page(e, T1_RCX, k->last);
        put_page(e, T1_S2, first);
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, (int32_t)t1_one(e)});
        t1_load(e, T1_S2, expected(t, g));
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
        t1_unless(e, &k->from);
    }
    k->hit = t1_pos(e);
    g->checked = true;
}

/* Base and displacement of the instruction's operand; changes r10 and r11. */
static struct t1_mem operand(struct t1_ctx *t)
{
    const struct x86_insn *i = t->insn;
    if (i->index != X86_REG_NONE || i->base == X86_REG_NONE) {
        return (struct t1_mem){(uint8_t)t1_ea(t, T1_S1, true), T1_NO_REG, 0, 0};
    }
    if (i->base == X86_REG_RIP) {
        t1_load(&t->e, T1_S1, T1_FIELD(t1.page_base));
        return (struct t1_mem){T1_S1, T1_NO_REG, 0,
                               (int32_t)(t1_next_off(t) + i->disp)};
    }
    return (struct t1_mem){(uint8_t)t1_in_reg(t, i->base, T1_S1), T1_NO_REG, 0,
                           (int32_t)i->disp};
}

/* Whether t1_ea() and what is added to it cannot overflow. */
static bool is_near(const struct t1_ctx *t)
{
    int64_t far = t->insn->disp;
    if (t->insn->base == X86_REG_RIP) {
        far += t1_next_off(t);
    }
    return t1_fits32(far * 2);
}

bool t1_shared_access(struct t1_ctx *t, const struct t1_mem *stack, unsigned size,
                      bool write, bool aligned, struct t1_mem *ret)
{
    struct t1_groups *s = t->groups;
    const struct t1_access *a = find_access(t, stack != NULL);
    struct t1_group *g = a ? &s->group[a->group] : NULL;
    struct t1_emit *e = &t->e;
    if (!g || g->nb < 2 || size > a->size || (write && !g->write) ||
        (!stack && !is_near(t))) {
        return false;
    }
    /* A slow path that skips the check would leave the others without one. */
    if (!g->checked && (t->cur || s->nb_checks == ARRAY_LEN(s->check))) {
        return false;
    }
    bool in_r11 = stack && s->r11_at == t1_pos(e) && s->r11_group == a->group;
    struct t1_mem at = stack ? *stack : operand(t);
    if (!g->checked) {
        put_check(t, g, plus(at, g->lo - a->off));
    }
    if (aligned) {
        t1_lea(e, T1_RCX, at);
        t1_check_zero(t, T1_RCX,
                      t1_field(offsetof(struct t0_cpu, t1.low[__builtin_ctz(size)])));
    }
    if (!in_r11) {
        t1_load(e, T1_S2, addend(t, g));
    }
    s->last_group = a->group;
    s->last_insn = a->insn;
    at.index = T1_S2;
    *ret = at;
    return true;
}

/* --- A check that fails ----------------------------------------------------------- */

/* Jump unless rcx is 0. */
static uint32_t unless_zero(struct t1_emit *e)
{
    uint32_t zero = t1_jrcxz(e), jump = t1_jmp(e, 0);
    t1_here8(e, zero);
    return jump;
}

void t1_put_check_fill(struct t1_ctx *t, const struct t1_check *k)
{
    struct t1_emit *e = &t->e;
    const struct t1_group *g = k->group;
    unsigned user = t1_is_user(t->b->mode);
    uint32_t fail[3];
    t1_set_rel32(e, k->from, t1_pos(e));
    if (g->kind == T1_NB_FILLS) {
        return;
    }
    put_page(e, T1_RCX, k->last);
    put_page(e, T1_S2, k->first);
    t1_not(e, T1_S2);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 1});
    fail[0] = unless_zero(e);
    t1_lea(e, T1_S2, k->first);
    if (g->kind != T1_FILL_STACK) {
        t1_lea(e, T1_RCX, t1_slot_field(t, g->slot, 0));
    }
    t1_call(e, t->t1->glue_fill[user][g->write][0][g->kind]);
    fail[1] = unless_zero(e);
    /* Was it filled? */
    put_page(e, T1_RCX, k->first);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_RCX, 0, 0});
    t1_load(e, T1_S2, expected(t, g));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
    fail[2] = unless_zero(e);
    t1_jmp(e, k->hit);
    for (unsigned i = 0; i < ARRAY_LEN(fail); i++) {
        t1_set_rel32(e, fail[i], t1_pos(e));
    }
}

/* --- Stretches of a block --------------------------------------------------------- */

void t1_stretch_insn(struct t1_ctx *t, unsigned i)
{
    struct t1_groups *s = t->groups;
    if (!s || s->stretch_now == s->nb_stretches ||
        s->stretch[s->stretch_now].first != i) {
        return;
    }
    struct t1_stretch *r = &s->stretch[s->stretch_now];
    t1_let_go(t);
    r->vec_ready = t->vec_ready;
    r->x87_ready = t->x87_ready;
    r->x87 = t->x87;
    s->open = true;
}

static bool keeps_r11(const struct x86_insn *i)
{
    return (i->op == X86_OP_PUSH || i->op == X86_OP_POP) &&
           i->opnd[0].kind != X86_OPND_MEM;
}

void t1_stretch_insn_end(struct t1_ctx *t, unsigned i)
{
    struct t1_groups *s = t->groups;
    if (!s || !s->open) {
        return;
    }
    if (s->last_insn == i && keeps_r11(t->insn)) {
        s->r11_at = t1_pos(&t->e);
        s->r11_group = s->last_group;
    }
    if (i + 1 == s->stretch[s->stretch_now].end) {
        t1_let_go(t);
        s->stretch[s->stretch_now++].back = t1_pos(&t->e);
        s->open = false;
    }
}

/* Every instruction of @r by itself. */
static void put_careful(struct t1_ctx *t, const struct t1_decoded *d,
                        const struct t1_stretch *r, uint32_t entry[T0_BLOCK_MAX_INSNS])
{
    t->vec_ready = r->vec_ready;
    t->x87_ready = r->x87_ready;
    t->x87 = r->x87;
    for (unsigned i = r->first; i < r->end; i++) {
        t1_let_go(t);
        entry[i] = t1_pos(&t->e);
        t1_put_insn(t, d, i);
    }
    t1_let_go(t);
    t1_jmp(&t->e, r->back);
}

void t1_put_stretches(struct t1_ctx *t, const struct t1_decoded *d)
{
    struct t1_groups *s = t->groups;
    struct t1_emit *e = &t->e;
    uint32_t entry[T0_BLOCK_MAX_INSNS];
    if (!s) {
        return;
    }
    t->groups = NULL;
    for (unsigned i = 0; i < s->nb_stretches; i++) {
        put_careful(t, d, &s->stretch[i], entry);
    }
    for (unsigned i = 0; i < s->nb_checks; i++) {
        const struct t1_check *k = &s->check[i];
        t1_put_check_fill(t, k);
        if (k->group->kind == T1_FILL_ANY) {
            /* Too often: the block is to be translated anew. */
            t1_load(e, T1_RCX, T1_FIELD(t1.adapt));
            uint32_t no = t1_jrcxz(e);
            t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
            t1_mov_ri(e, T1_S1,
                      (int64_t)(k->insn | k->needs | T1_ADAPT) | (int64_t)X86_NB_OPS
                                                                     << 16);
            t1_call(e, t->t1->glue_step);
            t1_here8(e, no);
        }
        t1_jmp(e, entry[k->insn]);
    }
}
