#include "vmm/accel/bt/t1_priv.h"

/*
 * The ways out of a block: direct branches, whose sites t1_link.c links to the blocks
 * they lead to, and indirect ones, which look in the table that it fills. See t1.h.
 */

#define IN_PAGE(off) ((uint64_t)(off) < GMEM_PAGE_SIZE)

/* --- Ways out --------------------------------------------------------------- */

/* The block is over: count its instructions. */
static void count(struct t1_ctx *t)
{
    t1_lea(&t->e, T1_COUNT, (struct t1_mem){T1_COUNT, T1_NO_REG, 0, t->b->nb_insns});
}

static struct t1_site *new_site(struct t1_ctx *t, int64_t target, bool poll)
{
    struct t1_site *s = &t->t1->sites[++t->t1->nb_sites];
    *s = (struct t1_site){
        .target = (int32_t)target,
        .from = (t0_ref)((uint8_t *)t->b - t->c->core->arena),
        .poll = poll,
    };
    return s;
}

/* Entries of the instruction TLB are 24 bytes. */
void t1_code_page(struct t1_ctx *t, int32_t page, uint32_t *ret_miss)
{
    struct t1_emit *e = &t->e;
    _Static_assert(sizeof(struct t0_itlb_entry) == 24, "8 times 3");
    const size_t itlb = offsetof(struct t0_cpu, itlb);
    unsigned user = t1_is_user(t->b->mode);
    struct t1_mem m;

    t1_load(e, T1_S1, T1_FIELD(t1.page_base));
    t1_lea_word(t, T1_S1, (struct t1_mem){T1_S1, T1_NO_REG, 0, page});
    t1_shrx(e, T1_S2, T1_S1, T1_SP);
    t1_pdep(e, T1_S2, T1_S2, T1_FIELD(t1.itlb_mask));
    t1_lea(e, T1_S2, (struct t1_mem){T1_S2, T1_S2, 1, 0});
    m = t1_field(itlb + offsetof(struct t0_itlb_entry, tag));
    m.index = T1_S2;
    t1_load(e, T1_RCX, m);
    t1_not(e, T1_RCX);
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, T1_S1, 0, (int32_t)(1 + user + t1_one(e))});
    t1_unless(e, ret_miss);
    m = t1_field(itlb + offsetof(struct t0_itlb_entry, gpa));
    m.index = T1_S2;
    t1_load(e, T1_RCX, m);
    t1_shrx(e, T1_RCX, T1_RCX, T1_SP);
}

/*
 * To the block at page_base + @target, in another page: where the instruction TLB maps
 * that page must be the page of the linked block.
 */
static void far_check(struct t1_ctx *t, struct t1_site *s, uint32_t ret_miss[2])
{
    struct t1_emit *e = &t->e;
    t1_code_page(t, (int32_t)(s->target & ~0xfff), &ret_miss[0]);
    /* rcx += minus the page number: see t1_site_page(). A displacement of four bytes
     * whatever its value: it is patched. */
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, 0x11111111});
    s->page = t1_pos(e) - 4;
    s->one = t1_one(e);
    t1_site_page(t->t1, s, 0);
    t1_unless(e, &ret_miss[1]);
    t1_store(e, T1_FIELD(t1.page_base), T1_S1);
}

/* The stub of a site: ask for a link. */
static void put_stub(struct t1_ctx *t, struct t1_site *s, const uint32_t *miss,
                     unsigned nb_miss)
{
    struct t1_emit *e = &t->e;
    /* After far_check() page_base has been changed: the linked jump comes with an
     * unchanged one, because an unlinked site never passes the check. */
    s->stub = t1_pos(e);
    for (unsigned i = 0; i < nb_miss; i++) {
        t1_set_rel32(e, miss[i], s->stub);
    }
    t1_set_rel32(e, s->jump, s->stub);
    t1_mov_ri(e, T1_RCX, (int64_t)(s - t->t1->sites));
    t1_jmp(e, t->t1->glue_resolve);
}

/* Emit "go to page_base + @target"; the stub comes later. */
static void go(struct t1_ctx *t, int64_t target, bool poll, struct t1_stub *p)
{
    p->site = new_site(t, target, poll);
    p->nb = 0;
    if (!IN_PAGE(target)) {
        far_check(t, p->site, p->miss);
        p->nb = 2;
    }
    p->site->jump = t1_jmp(&t->e, 0);
}

/* --- Branches --------------------------------------------------------------- */

/*
 * 32-bit code also comes back by going forward, over 4 GiB. In steps of at most this
 * size that takes more pages than the instruction TLB has entries, and who misses it
 * asks for attention (t1_do_resolve()).
 */
#define MAX_FORWARD 0x80000
_Static_assert((UINT64_C(1) << 32) / MAX_FORWARD >= 2 * T0_ITLB_SIZE, "misses");

static bool is_backward(const struct t1_ctx *t, int64_t target)
{
    return target <= (int64_t)t->page_off + t->b->ops[t->index].start ||
           (t1_is_32(t) && target > MAX_FORWARD);
}

static void jcc(struct t1_ctx *t)
{
    int64_t next = t1_next_off(t), target = next + t->insn->imm;
    struct t1_stub *taken = &t->stub[0], *other = &t->stub[1];
    count(t);
    t->nb_stubs = 2;
    if (IN_PAGE(target)) {
        taken->site = new_site(t, target, is_backward(t, target));
        taken->nb = 0;
        taken->site->jump = t1_jcc(&t->e, t->insn->cc, 0);
        go(t, next, false, other);
        return;
    }
    uint32_t over = t1_jcc(&t->e, t->insn->cc ^ 1, 0);
    go(t, target, is_backward(t, target), taken);
    t1_set_rel32(&t->e, over, t1_pos(&t->e));
    go(t, next, false, other);
}

/* Push the address of the next instruction. */
static void push_return(struct t1_ctx *t)
{
    int32_t word = (int32_t)t1_word(t);
    struct t1_mem m = t1_probe_stack(t, -word, (unsigned)word, true);
    t1_load(&t->e, T1_RCX, T1_FIELD(t1.page_base));
    t1_lea(&t->e, T1_RCX,
           (struct t1_mem){T1_RCX, T1_NO_REG, 0, (int32_t)t1_next_off(t)});
    t1_store_word(t, m, T1_RCX);
    t1_sp_add(t, -word);
}

/* Field @off of an entry of the table of indirect branches. */
static struct t1_mem entry_at(const struct t1_ctx *t, unsigned offset, size_t off)
{
    size_t user = t1_is_user(t->b->mode);
    struct t1_mem m = t1_field(offsetof(struct t0_cpu, t1.jumps) +
                               user * sizeof(t->c->t1.jumps[0]) + off);
    m.index = (uint8_t)offset;
    return m;
}

/*
 * Look the linear address in r10 up in the table of indirect branches. On a miss the
 * slow path. On a hit r11 is the entry's offset. Changes rcx and r11.
 */
static void look_up(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    _Static_assert(sizeof(struct t1_jump) == 32, "t1.jump_mask");
    uint32_t begin = t1_pos(e);
    t1_rorx(e, T1_S2, T1_S1, T1_JUMP_ROT);
    t1_lea(e, T1_S2, (struct t1_mem){T1_S2, T1_S1, 0, 0});
    t1_pdep(e, T1_S2, T1_S2, T1_FIELD(t1.jump_mask));
    t1_load(e, T1_RCX, entry_at(t, T1_S2, offsetof(struct t1_jump, minus_rip)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, (int32_t)t1_one(e)});
    t1_quick_unless(t, &(struct t1_refill){.found = begin, .kind = T1_FILL_JUMP});
}

/* Go to what look_up() found; @offset is the register with its offset in the table. */
static void go_found(struct t1_ctx *t, unsigned offset)
{
    count(t);
    t1_load(&t->e, T1_RCX, entry_at(t, offset, offsetof(struct t1_jump, page)));
    t1_store(&t->e, T1_FIELD(t1.page_base), T1_RCX);
    t1_op_mem(&t->e, &(struct t1_enc){.opcode = 0xff}, 4,
              entry_at(t, offset, offsetof(struct t1_jump, code)));
}

/* The target of an indirect branch, into r10. */
static bool load_target(struct t1_ctx *t)
{
    const struct x86_opnd *o = &t->insn->opnd[0];
    if (o->kind == X86_OPND_REG) {
        if (t->host[o->reg] == T1_MEMORY) {
            t1_load(&t->e, T1_S1, T1_GPR(o->reg));
        } else if (t1_is_32(t)) {
            t1_mov_rr32(&t->e, T1_S1, t->host[o->reg]);
        } else {
            t1_mov_rr(&t->e, T1_S1, t->host[o->reg]);
        }
        return true;
    }
    if (!t1_ea_possible(t, true)) {
        return false;
    }
    t1_load_word(t, T1_S1, t1_operand(t, t1_word(t), false, false));
    return true;
}

static bool jmp_indirect(struct t1_ctx *t)
{
    if (!load_target(t)) {
        return false;
    }
    look_up(t);
    go_found(t, T1_S2);
    return true;
}

/* The target is looked up before anything is pushed. */
static bool call_indirect(struct t1_ctx *t)
{
    if (!load_target(t)) {
        return false;
    }
    look_up(t);
    t1_mov_rr(&t->e, T1_S1, T1_S2);
    t1_store(&t->e, T1_FIELD(t1.entry), T1_S1);
    push_return(t);
    go_found(t, T1_S1);
    return true;
}

static void ret(struct t1_ctx *t)
{
    unsigned word = t1_word(t);
    int32_t more = t->insn->nb_opnds ? (int32_t)(t->insn->imm & 0xffff) : 0;
    t1_load_word(t, T1_S1, t1_probe_stack(t, 0, word, false));
    look_up(t);
    t1_sp_add(t, (int32_t)word + more);
    go_found(t, T1_S2);
}

/* LOOP, LOOPE, LOOPNE and JRCXZ. */
static bool loop(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    int64_t next = t1_next_off(t), target = next + insn->imm;
    unsigned cx = t->host[X86_RCX];
    const struct t1_enc mov = {.w = insn->addrsize == 8, .opcode = 0x8b};
    const struct t1_enc lea = {.w = insn->addrsize == 8, .opcode = 0x8d};
    if (insn->addrsize < 4 || cx == T1_MEMORY) {
        return false;
    }
    count(t);
    if (insn->op != X86_OP_JCXZ) {
        t1_op_mem(&t->e, &lea, cx, (struct t1_mem){(uint8_t)cx, T1_NO_REG, 0, -1});
    }
    t1_op_reg(&t->e, &mov, T1_RCX, cx);
    uint32_t zero = t1_jrcxz(&t->e);
    uint32_t other = insn->op == X86_OP_LOOPE    ? t1_jcc(&t->e, 4, 0)
                     : insn->op == X86_OP_LOOPNE ? t1_jcc(&t->e, 5, 0)
                                                 : t1_jmp(&t->e, 0);
    t1_here8(&t->e, zero);
    bool jcxz = insn->op == X86_OP_JCXZ;
    t->nb_stubs = 2;
    go(t, jcxz ? target : next, jcxz && is_backward(t, target), &t->stub[0]);
    t1_set_rel32(&t->e, other, t1_pos(&t->e));
    go(t, jcxz ? next : target, !jcxz && is_backward(t, target), &t->stub[1]);
    return true;
}

/* SYSCALL, SYSRET and IRET of 64-bit code. */
static bool to_another_level(struct t1_ctx *t)
{
    const struct t1_core *t1 = t->t1;
    enum x86_op op = t->insn->op;
    uint32_t glue = op == X86_OP_SYSCALL  ? t1->glue_syscall
                    : op == X86_OP_SYSRET ? t1->glue_sysret
                                          : t1->glue_iret;
    if (t1_is_32(t) || (op != X86_OP_SYSCALL && t->insn->opsize != 8)) {
        return false;
    }
    if (op == X86_OP_SYSCALL) {
        t1_load(&t->e, T1_S1, T1_FIELD(t1.page_base));
        t1_lea(&t->e, T1_S1,
               (struct t1_mem){T1_S1, T1_NO_REG, 0, (int32_t)t1_next_off(t)});
    }
    count(t);
    t1_call(&t->e, glue);
    t1_lea(&t->e, T1_COUNT,
           (struct t1_mem){T1_COUNT, T1_NO_REG, 0, -(int32_t)t->b->nb_insns});
    return false;
}

bool t1_branch(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    if (insn->op == X86_OP_SYSCALL || insn->op == X86_OP_SYSRET ||
        insn->op == X86_OP_IRET) {
        return to_another_level(t);
    }
    bool direct = insn->nb_opnds && insn->opnd[0].kind == X86_OPND_REL;
    int64_t target = t1_next_off(t) + insn->imm;
    if (insn->opsize != t1_word(t) || (direct && !t1_fits32(target))) {
        return false;
    }
    switch (insn->op) {
    case X86_OP_JCC: jcc(t); return true;
    case X86_OP_JCXZ:
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE: return loop(t);
    case X86_OP_JMP:
        if (!direct) {
            return jmp_indirect(t);
        }
        count(t);
        t->nb_stubs = 1;
        go(t, target, is_backward(t, target), &t->stub[0]);
        return true;
    case X86_OP_CALL:
        if (!direct) {
            return call_indirect(t);
        }
        push_return(t);
        /* T0's handler would follow its own chain: on the slow path only the push is
         * done there. */
        t->cur->resume = t1_pos(&t->e);
        t->cur->what |= T1_PUSH_RETURN;
        t->cur = NULL;
        count(t);
        t->nb_stubs = 1;
        go(t, target, is_backward(t, target), &t->stub[0]);
        return true;
    case X86_OP_RET: ret(t); return true;
    default: return false;
    }
}

void t1_block_end(struct t1_ctx *t)
{
    count(t);
    t->nb_stubs = 1;
    go(t, (int64_t)t->page_off + t->b->len, false, &t->stub[0]);
}

/* --- For the translation of hot regions ------------------------------------- */

void t1_count(struct t1_ctx *t)
{
    count(t);
}

void t1_push_return(struct t1_ctx *t)
{
    push_return(t);
}

bool t1_load_target(struct t1_ctx *t)
{
    return load_target(t);
}

void t1_go(struct t1_ctx *t, int64_t target, bool poll, struct t1_stub *ret_stub)
{
    go(t, target, poll, ret_stub);
}

void t1_put_stub(struct t1_ctx *t, const struct t1_stub *stub)
{
    put_stub(t, stub->site, stub->miss, stub->nb);
}

void t1_put_stubs(struct t1_ctx *t)
{
    for (unsigned i = 0; i < t->nb_stubs; i++) {
        put_stub(t, t->stub[i].site, t->stub[i].miss, t->stub[i].nb);
    }
}
