#include "vmm/accel/bt/t1_group.h"

#include <inttypes.h>
#include <stdio.h>

#include "vmm/vm/log.h"

/*
 * One block, and the ways out of it:
 *
 *     poll        attention? leave : fall into entry
 *     entry       is the second page where it was? leave : go on
 *                 of a checked block: are the bytes what they were? leave : go on
 *                 instruction
 *                 ...
 *                 branch
 *     slow paths  of each instruction: what T0 does, and back
 *     stubs       of direct branches that are not linked
 */

/* --- Slow paths ------------------------------------------------------------- */

/* To the run loop, with RIP at the block. */
static void put_leave(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    t1_load(e, T1_S1, T1_FIELD(t1.page_base));
    t1_lea(e, T1_S1, (struct t1_mem){T1_S1, T1_NO_REG, 0, (int32_t)t->page_off});
    t1_jmp(e, t->t1->glue_exit);
}

static void put_slow(struct t1_ctx *t, const struct t1_slow *s)
{
    struct t1_emit *e = &t->e;
    for (unsigned i = 0; i < s->nb; i++) {
        t1_set_rel32(e, s->from[i], t1_pos(e));
    }
    t1_x87_note(e, &s->x87);
    t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
    t1_mov_ri(e, T1_S1, s->what | (int64_t)s->op << 16);
    if (s->branch) {
        t1_jmp(e, t->t1->glue_branch);
    } else {
        t1_call(e, t->t1->glue_step);
        t1_jmp(e, s->resume);
    }
}

void t1_put_slows(struct t1_ctx *t)
{
    if (t->leave_from) {
        t1_set_rel32(&t->e, t->leave_from, t1_pos(&t->e));
        t->leave_from = 0;
        put_leave(t);
    }
    for (unsigned i = 0; i < t->nb_refill; i++) {
        t1_put_refill(t, &t->refill[i]);
    }
    for (unsigned i = 0; i < t->nb_slow; i++) {
        put_slow(t, &t->slow[i]);
    }
}

/* The whole instruction by T0. */
static void fall_back(struct t1_ctx *t)
{
    t1_let_go(t);
    t->t1->trans[t->t1->nb_trans].native = false;
    t1_x87_note(&t->e, &t->x87);
    t->x87.pending = false;
    t1_jump_slow(t);
    t->cur->op = t->insn->op;
}

/* --- Blocks ----------------------------------------------------------------- */

static const uint8_t *code_bytes(const struct t0_cpu *c, uint64_t gpa)
{
    const struct gmem_region *r = gmem_find(c->vcpu->vm->gmem, gpa);
    return r ? r->host + (gpa - r->gpa) : NULL;
}

/* @n bytes of @b's code, from @off on. */
static bool copy_code(const struct t0_cpu *c, const struct t0_block *b, unsigned off,
                      uint8_t *to, unsigned n)
{
    if (b->flags & T0_BLOCK_CHECKED) {
        memcpy(to, t0_check_bytes(c, b, NULL) + off, n);
        return true;
    }
    const uint8_t *bytes = code_bytes(c, b->gpa);
    unsigned room = (unsigned)(GMEM_PAGE_SIZE - (b->gpa & 0xfff)) - off;
    if (!bytes) {
        return false;
    }
    memcpy(to, bytes + off, MIN(n, room));
    if (n > room) {
        bytes = b->flags & T0_BLOCK_STRADDLES ? code_bytes(c, b->gpa2) : NULL;
        if (!bytes) {
            return false;
        }
        memcpy(to + room, bytes, n - room);
    }
    return true;
}

bool t1_decode_op(struct t0_cpu *c, const struct t0_block *b, unsigned i,
                  struct x86_insn *ret)
{
    const struct t0_op *op = &b->ops[i];
    uint8_t copy[X86_INSN_MAX_LEN];
    unsigned n = (unsigned)(op->next - op->start);
    if (n > sizeof(copy) || !copy_code(c, b, op->start, copy, n)) {
        return false;
    }
    return x86_decode(ret, copy, n, t1_bits(b)) == (int)n;
}

bool t1_decode_block(struct t0_cpu *c, const struct t0_block *b, struct t1_decoded *d)
{
    if (!copy_code(c, b, 0, d->bytes, b->len)) {
        return false;
    }
    for (unsigned i = 0; i < b->nb_insns; i++) {
        const struct t0_op *op = &b->ops[i];
        int len = x86_decode(&d->insn[i], d->bytes + op->start, b->len - op->start,
                             t1_bits(b));
        if (len <= 0 || op->start + len != op->next) {
            return false;
        }
    }
    return true;
}

void t1_put_poll(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    t1_load(e, T1_RCX, T1_FIELD(vcpu));
    t1_load32(e, T1_RCX,
              (struct t1_mem){T1_RCX, T1_NO_REG, 0, offsetof(struct vcpu, attention)});
    /* A taken branch, which tells the predictor of indirect branches where it is: an
     * interpreter's dispatch is 1.1 times as quick with it as with LOOP. */
    uint32_t none = t1_jrcxz(e);
    t->leave_from = t1_jmp(e, 0);
    t1_here8(e, none);
}

/* An instruction over a page boundary: @leave unless the second page is still mapped to
 * where it was decoded from. The run loop finds out what is there now. */
static void put_second_page_check(struct t1_ctx *t, uint32_t leave)
{
    struct t1_emit *e = &t->e;
    int32_t page = (int32_t)((t->page_off & ~0xfff) + (int32_t)GMEM_PAGE_SIZE);
    uint32_t miss;
    t1_code_page(t, page, &miss);
    t1_put_islands(e, true);
    t1_set_rel32(e, miss, leave);
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, T1_NO_REG, 0,
                           -(int32_t)(t->b->gpa2 >> GMEM_PAGE_SHIFT)});
    uint32_t same = t1_jrcxz(e);
    t1_jmp(e, leave);
    t1_here8(e, same);
}

/* The next 8, 4, 2 or 1 of @n bytes at [r11], which are @bytes: jump to @leave when
 * they are not. Returns how many. */
static unsigned put_compare(struct t1_ctx *t, unsigned off, const uint8_t *bytes,
                            unsigned n, uint32_t leave)
{
    struct t1_emit *e = &t->e;
    unsigned size = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
    struct t1_mem m = {T1_S2, T1_NO_REG, 0, (int32_t)off};
    uint64_t value = 0;
    memcpy(&value, bytes + off, size);
    if (size == 8) {
        t1_load(e, T1_RCX, m);
    } else if (size == 4) {
        t1_load32(e, T1_RCX, m);
    } else { /* movzx */
        t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = size == 2 ? 0xb7 : 0xb6},
                  T1_RCX, m);
    }
    t1_mov_ri(e, T1_S1, -(int64_t)value);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, 0});
    uint32_t same = t1_jrcxz(e);
    t1_jmp(e, leave);
    t1_here8(e, same);
    return size;
}

/* A checked block (t0_check.c): @leave unless its bytes are those that were decoded.
 * The run loop then makes another of it. */
static void put_check(struct t1_ctx *t, uint32_t leave)
{
    const struct t0_block *b = t->b;
    const uint8_t *host[2], *bytes = t0_check_bytes(t->c, b, host);
    unsigned room = (unsigned)(GMEM_PAGE_SIZE - (b->gpa & 0xfff));
    unsigned first = MIN(b->len, room);
    t1_mov_ri(&t->e, T1_S2, (int64_t)(uintptr_t)host[0]);
    for (unsigned off = 0; off < first;) {
        off += put_compare(t, off, bytes, first - off, leave);
    }
    if (!host[1]) {
        return;
    }
    t1_mov_ri(&t->e, T1_S2, (int64_t)(uintptr_t)host[1]);
    for (unsigned off = 0; off < b->len - first;) {
        off += put_compare(t, off, bytes + first, b->len - first - off, leave);
    }
}

/* The stack pointer comes from memory, as where kernels change stacks. */
static bool loads_stack(const struct x86_insn *i)
{
    return (i->op == X86_OP_MOV || i->op == X86_OP_POP) &&
           i->opnd[0].kind == X86_OPND_REG && i->opnd[0].reg == X86_RSP &&
           (i->op == X86_OP_POP || i->opnd[1].kind == X86_OPND_MEM);
}

/* The block is one that is on such a stack from its begin: it ends in POP RSP. */
static bool is_on_new_stack(const struct t0_block *b, const struct t1_decoded *d)
{
    for (unsigned i = 0; i < b->nb_insns; i++) {
        if (loads_stack(&d->insn[i])) {
            return d->insn[i].op == X86_OP_POP;
        }
    }
    return false;
}

void t1_put_insn(struct t1_ctx *t, const struct t1_decoded *d, unsigned i)
{
    const struct t0_block *b = t->b;
    t->insn = &d->insn[i];
    t->bytes = d->bytes + b->ops[i].start;
    t->index = i;
    t->cur = NULL;
    t1_look_for_islands(&t->e);
    bool last = i + 1u == b->nb_insns && !(b->flags & T0_BLOCK_HAS_END);
    if (last) {
        t1_let_go(t);
        t1_x87_note(&t->e, &t->x87);
        t->x87.pending = t->vec_ready = t->x87_ready = false;
    }
    if (!(last ? t1_branch(t) : t1_insn(t))) {
        fall_back(t);
    }
    if (t->cur) {
        t->cur->resume = t1_pos(&t->e);
        t->cur->branch = last;
    }
    t->new_stack |= loads_stack(t->insn);
}

static void put_insns(struct t1_ctx *t, const struct t1_decoded *d)
{
    const struct t0_block *b = t->b;
    t->new_stack = is_on_new_stack(b, d);
    for (unsigned i = 0; i < b->nb_insns; i++) {
        t->at[i] = t1_pos(&t->e);
        t1_stretch_insn(t, i);
        t1_put_insn(t, d, i);
        t1_stretch_insn_end(t, i);
    }
    if (b->flags & T0_BLOCK_HAS_END) {
        t1_let_go(t);
        t1_x87_note(&t->e, &t->x87);
        t1_block_end(t);
    }
}

/* Positions @from to @to are code of the block. */
static void tell_perf(const struct t1_ctx *t, uint32_t from, uint32_t to)
{
    struct t1_jitdump *d = t->c->core->tvm->jitdump;
    char name[48];
    if (d && to > from) {
        snprintf(name, sizeof(name), "guest %" PRIx64 "%s", t->c->rip_base,
                 from >= t->t1->cold_start ? " (slow)" : "");
        t1_jitdump_code(d, name, t->t1->exec + from, to - from);
    }
}

/* As many checks as are mostly so near. */
#define FRONT_ISLANDS 4

/* False, and nothing has changed, when checks with LOOP are wanted and one could not
 * reach its island. */
static bool translate(struct t0_cpu *c, struct t0_block *b, const struct t1_decoded *d,
                      bool loop)
{
    struct t1_core *t1 = c->core->t1;
    uint32_t nb_sites = t1->nb_sites;
    g_autofree struct t1_ctx *t = g_new0(struct t1_ctx, 1);
    t->c = c;
    t->t1 = t1;
    t->b = b;
    t->page_off = b->gpa & 0xfff;
    memcpy(t->host, t1_home, sizeof(t->host));
    t->held[0].reg = t->held[1].reg = T1_NO_REG;
    t->lone = c->vcpu->vm->nb_vcpus == 1;
    t->e = (struct t1_emit){
        .p = t1->write + ALIGN_UP(t1->used, 16), .base = t1->write, .loop = loop};

    g_autofree struct t1_groups *groups = g_new0(struct t1_groups, 1);
    t->groups = !t1_is_32(t) && t1_plan_block(t, d, groups) ? groups : NULL;
    t1_reserve_islands(&t->e, FRONT_ISLANDS);
    struct t1_trans *tr = &t1->trans[++t1->nb_trans];
    *tr = (struct t1_trans){
        .entry_poll = t1_pos(&t->e),
        .block = (t0_ref)((uint8_t *)b - c->core->arena),
        .native = true,
    };
    uint32_t leave = 0;
    if (b->flags & (T0_BLOCK_STRADDLES | T0_BLOCK_CHECKED)) {
        leave = t1_pos(&t->e);
        put_leave(t);
        tr->entry_poll = t1_pos(&t->e);
    }
    t1_put_poll(t);
    tr->entry = t1_pos(&t->e);
    if (b->flags & T0_BLOCK_STRADDLES) {
        put_second_page_check(t, leave);
    }
    if (b->flags & T0_BLOCK_CHECKED) {
        put_check(t, leave);
    }
    put_insns(t, d);
    t1_put_islands(&t->e, false);
    if (t->e.too_far) {
        t1->nb_sites = nb_sites;
        t1->nb_trans--;
        return false;
    }
    t1->used = t1_pos(&t->e);
    t->e.p = t1->write + t1->cold;
    t->e.loop = false;
    t1_put_stretches(t, d);
    t1_put_slows(t);
    t1_put_stubs(t);
    tell_perf(t, tr->entry_poll, t1->used);
    tell_perf(t, t1->cold, t1_pos(&t->e));
    if (unlikely(vm_log_has(c->vcpu->vm->log, VM_LOG_OUT_ASM))) {
        t1_log_code(t, tr->entry_poll, t1->used, t1->cold, t1_pos(&t->e));
    }
    t1->cold = t1_pos(&t->e);
    b->t1 = t1->nb_trans;
    t1->translated++;
    return true;
}

bool t1_translate(struct t0_cpu *c, struct t0_block *b)
{
    g_autofree struct t1_decoded *d = g_new(struct t1_decoded, 1);
    return t1_decode_block(c, b, d) &&
           (translate(c, b, d, c->core->t1->loop) || translate(c, b, d, false));
}
