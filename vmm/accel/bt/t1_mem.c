#include "vmm/accel/bt/t1_priv.h"

/*
 * Where a translation finds the guest's registers and its memory: registers that live
 * in c->gpr and are held in scratch registers for a while, addresses, and the look in
 * the TLB before each access. See t1.h.
 */

const uint8_t t1_home[X86_NB_GPR] = {
    [X86_RAX] = X86_RAX,   [X86_RCX] = X86_R15,   [X86_RDX] = X86_RDX,
    [X86_RBX] = X86_RBX,   [X86_RSP] = X86_R14,   [X86_RBP] = X86_RBP,
    [X86_RSI] = X86_RSI,   [X86_RDI] = X86_RDI,   [X86_R8] = X86_R8,
    [X86_R9] = T1_MEMORY,  [X86_R10] = T1_MEMORY, [X86_R11] = T1_MEMORY,
    [X86_R12] = X86_R12,   [X86_R13] = X86_R13,   [X86_R14] = T1_MEMORY,
    [X86_R15] = T1_MEMORY,
};

/* --- Guest registers that live in memory ------------------------------------- */

const uint8_t t1_holder[2] = {T1_S1, T1_S2};

static void put_back(struct t1_ctx *t, unsigned i)
{
    if (t->held[i].reg != T1_NO_REG && t->held[i].dirty) {
        t1_store(&t->e, T1_GPR(t->held[i].reg), t1_holder[i]);
    }
    t->held[i].reg = T1_NO_REG;
}

void t1_let_go(struct t1_ctx *t)
{
    put_back(t, 0);
    put_back(t, 1);
}

int t1_holds(const struct t1_ctx *t, unsigned reg)
{
    return t->held[0].reg == reg ? 0 : t->held[1].reg == reg ? 1 : -1;
}

int t1_hold(struct t1_ctx *t, unsigned reg, bool load, int keep)
{
    int i = t1_holds(t, reg);
    if (i < 0) {
        i = keep >= 0                     ? 1 - keep
            : t->held[0].reg == T1_NO_REG ? 0
            : t->held[1].reg == T1_NO_REG ? 1
                                          : (int)t->oldest;
        put_back(t, (unsigned)i);
        if (load) {
            t1_load(&t->e, t1_holder[i], T1_GPR(reg));
        }
        t->held[i].reg = (uint8_t)reg;
        t->held[i].dirty = false;
    }
    t->oldest = 1 - (unsigned)i;
    return i;
}

/* --- Memory ----------------------------------------------------------------- */

struct t1_slow *t1_slow_of(struct t1_ctx *t)
{
    if (!t->cur) {
        t->cur = &t->slow[t->nb_slow++];
        unsigned needs = (t->vec_ready ? T1_NEED_VEC : 0u) |
                         (t->x87_ready ? T1_NEED_X87 : 0u) |
                         (t->groups ? T1_STRICT : 0u);
        *t->cur = (struct t1_slow){
            .what = (uint16_t)(t->index | needs), .op = X86_NB_OPS, .x87 = t->x87};
    }
    return t->cur;
}

void t1_jump_slow(struct t1_ctx *t)
{
    struct t1_slow *s = t1_slow_of(t);
    s->from[s->nb++] = t1_jmp(&t->e, 0);
}

void t1_slow_unless(struct t1_ctx *t)
{
    struct t1_slow *s = t1_slow_of(t);
    t1_unless(&t->e, &s->from[s->nb++]);
}

void t1_rcx_to_one(struct t1_emit *e)
{
    if (t1_one(e)) {
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, 1});
    }
}

void t1_slow_unless_zero(struct t1_ctx *t)
{
    t1_rcx_to_one(&t->e);
    t1_slow_unless(t);
}

unsigned t1_in_reg(struct t1_ctx *t, unsigned reg, unsigned scratch)
{
    if (t->host[reg] != T1_MEMORY) {
        return t->host[reg];
    }
    t1_load(&t->e, scratch, T1_GPR(reg));
    return scratch;
}

/* Whether t1_ea() can do it. */
bool t1_ea_possible(const struct t1_ctx *t, bool with_segment)
{
    const struct x86_insn *i = t->insn;
    bool fs_gs = with_segment && i->seg >= X86_FS;
    bool code = with_segment && i->seg == X86_CS && t1_is_32(t); /* not to be written */
    if (i->addrsize == 2 || (fs_gs && i->addrsize != t1_word(t)) || code) {
        return false;
    }
    return i->base != X86_REG_RIP || t1_fits32(t1_next_off(t) + i->disp);
}

/*
 * 32-bit code: the offset in @off is inside the segment FS or GS, which has no limit
 * and may be read and written, or it is T0's. Changes rcx.
 */
static void check_segment(struct t1_ctx *t, unsigned off)
{
    const struct x86_insn *i = t->insn;
    size_t at = offsetof(struct t0_cpu, t1.seg_mask) + 8u * (i->seg - X86_FS);
    t1_lea(&t->e, T1_RCX,
           (struct t1_mem){(uint8_t)off, T1_NO_REG, 0, x86_insn_mem(i)->size});
    t1_check_zero(t, T1_RCX, t1_field(at));
}

unsigned t1_ea(struct t1_ctx *t, unsigned want, bool with_segment)
{
    const struct x86_insn *i = t->insn;
    struct t1_mem m = {T1_NO_REG, T1_NO_REG, 0, (int32_t)i->disp};
    bool fs_gs = with_segment && i->seg >= X86_FS;
    bool a32 = i->addrsize == 4;
    if (!t1_ea_possible(t, with_segment)) {
        return T1_NO_REG;
    }
    if (i->base == X86_REG_NONE && i->index == X86_REG_NONE) {
        t1_mov_ri(&t->e, want, a32 ? (int64_t)(uint32_t)i->disp : i->disp);
    } else {
        if (i->base == X86_REG_RIP) {
            t1_load(&t->e, T1_S1, T1_FIELD(t1.page_base));
            m.base = T1_S1;
            m.disp = (int32_t)(t1_next_off(t) + i->disp);
        } else if (i->base != X86_REG_NONE) {
            m.base = (uint8_t)t1_in_reg(t, i->base, T1_S1);
        }
        if (i->index != X86_REG_NONE) {
            m.index = (uint8_t)t1_in_reg(t, i->index, T1_S2);
            m.shift = (uint8_t)__builtin_ctz(i->scale);
        }
        bool plain = m.base != T1_NO_REG && m.index == T1_NO_REG && m.disp == 0;
        if (plain && !(a32 && t1_cuts(t)) && !fs_gs) {
            return m.base;
        }
        if (a32) {
            t1_lea32(&t->e, want, m);
        } else {
            t1_lea(&t->e, want, m);
        }
    }
    if (fs_gs) {
        if (t1_is_32(t)) {
            check_segment(t, want);
        }
        t1_load(&t->e, T1_S2,
                t1_field(offsetof(struct t0_cpu, seg_base) + 8u * i->seg));
        t1_lea_word(t, want, (struct t1_mem){(uint8_t)want, T1_S2, 0, 0});
    }
    return want;
}

/* Field @off of the entry whose offset in its bank is in r11. User code has one bank,
 * as translations of it do not run while alignment is checked; rcx is needed for the
 * others, whose pointer is loaded. */
static struct t1_mem tlb_field(struct t1_ctx *t, size_t off)
{
    if (!t1_is_user(t->b->mode)) {
        t1_load(&t->e, T1_RCX, T1_FIELD(tlb));
        return (struct t1_mem){T1_RCX, T1_S2, 0, (int32_t)off};
    }
    struct t1_mem m = t1_field(offsetof(struct t0_cpu, banks[T0_BANK_USER]) + off);
    m.index = T1_S2;
    return m;
}

/* Offset in its bank of the entry for the address in @addr, into r11. */
static void tlb_offset(struct t1_ctx *t, unsigned addr)
{
    t1_shrx(&t->e, T1_S2, addr, T1_SP);
    t1_pdep(&t->e, T1_S2, T1_S2, T1_FIELD(t1.tlb_mask));
}

static size_t tag_of(bool write)
{
    return write ? offsetof(struct t0_tlb_entry, write)
                 : offsetof(struct t0_tlb_entry, read);
}

/* What makes 0 or t1_one() of rcx when it is shifted by a page's bits. */
static int32_t pages_of_one(const struct t1_ctx *t)
{
    return (int32_t)(t1_one(&t->e) << GMEM_PAGE_SHIFT);
}

void t1_put_quick(struct t1_ctx *t, uint32_t glue, uint32_t again)
{
    struct t1_emit *e = &t->e;
    if (t->region) { /* its groups go on with what was checked */
        t1_jump_slow(t);
        return;
    }
    t1_call(e, glue);
    t1_slow_unless_zero(t);
    t1_jmp(e, again);
}

void t1_quick_unless(struct t1_ctx *t, const struct t1_refill *r)
{
    if (t->region || t->nb_refill == ARRAY_LEN(t->refill)) {
        t1_slow_unless(t);
        return;
    }
    struct t1_refill *out = &t->refill[t->nb_refill++];
    *out = *r;
    out->slow = t1_slow_of(t);
    t1_unless(&t->e, &out->from);
}

/* After the test, which began at @begin and has left t1_one() in rcx for a hit. */
static void tlb_end(struct t1_ctx *t, uint32_t begin, unsigned addr, bool write)
{
    t1_quick_unless(t, &(struct t1_refill){.found = begin,
                                           .at = {(uint8_t)addr, T1_NO_REG, 0, 0},
                                           .kind = T1_FILL_TLB,
                                           .write = write});
    t1_load(&t->e, T1_S2, tlb_field(t, offsetof(struct t0_tlb_entry, addend)));
}

void t1_probe(struct t1_ctx *t, unsigned addr, unsigned size, bool write)
{
    struct t1_emit *e = &t->e;
    uint32_t begin = t1_pos(e);
    tlb_offset(t, addr);
    t1_load(e, T1_RCX, tlb_field(t, tag_of(write)));
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, (uint8_t)addr, 0, (int32_t)size + pages_of_one(t)});
    t1_shrx(e, T1_RCX, T1_RCX, T1_SP);
    tlb_end(t, begin, addr, write);
}

void t1_probe_bytes(struct t1_ctx *t, struct t1_mem at, int32_t size, bool write,
                    uint32_t *ret_from)
{
    struct t1_emit *e = &t->e;
    unsigned addr = at.base;
    if (at.disp) {
        t1_lea(e, T1_S2, at);
        addr = T1_S2;
    }
    tlb_offset(t, addr);
    t1_load(e, T1_RCX, tlb_field(t, tag_of(write)));
    t1_lea(e, T1_RCX,
           (struct t1_mem){T1_RCX, at.base, 0, at.disp + size + pages_of_one(t)});
    t1_shrx(e, T1_RCX, T1_RCX, T1_SP);
    t1_unless(e, ret_from);
    t1_load(e, T1_S2, tlb_field(t, offsetof(struct t0_tlb_entry, addend)));
}

void t1_probe_to(struct t1_ctx *t, unsigned addr, unsigned end, bool write)
{
    struct t1_emit *e = &t->e;
    uint32_t begin = t1_pos(e);
    tlb_offset(t, addr);
    t1_load(e, T1_RCX, tlb_field(t, tag_of(write)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, (uint8_t)end, 0, pages_of_one(t)});
    t1_shrx(e, T1_RCX, T1_RCX, T1_SP);
    tlb_end(t, begin, addr, write);
}

/* The same, and slow when @addr is not a multiple of @size. */
static void probe_aligned(struct t1_ctx *t, unsigned addr, unsigned size, bool write)
{
    struct t1_emit *e = &t->e;
    size_t log = (size_t)__builtin_ctz(size);
    uint32_t begin = t1_pos(e);
    tlb_offset(t, addr);
    t1_load(e, T1_RCX, tlb_field(t, tag_of(write)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, (uint8_t)addr, 0, 1});
    t1_pext(e, T1_RCX, T1_RCX, t1_field(offsetof(struct t0_cpu, t1.outside[log][0])));
    t1_rcx_to_one(e);
    tlb_end(t, begin, addr, write);
}

/* Base and displacement of the memory operand, when that is all it has. */
static bool simple_operand(struct t1_ctx *t, struct t1_mem *ret)
{
    const struct x86_insn *i = t->insn;
    if (i->index != X86_REG_NONE || i->base == X86_REG_NONE || i->addrsize != 8 ||
        i->seg >= X86_FS) {
        return false;
    }
    *ret = (struct t1_mem){T1_S1, T1_NO_REG, 0, (int32_t)i->disp};
    if (i->base == X86_REG_RIP) {
        t1_load(&t->e, T1_S1, T1_FIELD(t1.page_base));
        ret->disp = (int32_t)(t1_next_off(t) + i->disp);
    } else {
        ret->base = (uint8_t)t1_in_reg(t, i->base, T1_S1);
    }
    return true;
}

struct t1_mem t1_operand(struct t1_ctx *t, unsigned size, bool write, bool aligned)
{
    const struct x86_insn *i = t->insn;
    const int64_t room = 2 * GMEM_PAGE_SIZE;
    bool power = !(size & (size - 1));
    bool small = i->disp < INT32_MAX - room && i->disp > INT32_MIN + room;
    struct t1_mem at;
    if (t->groups && t1_shared_access(t, NULL, size, write, aligned, &at)) {
        return at;
    }
    if (power && (size <= 8 || aligned) && i->base == X86_RSP &&
        i->index == X86_REG_NONE && i->addrsize == t1_word(t) && i->seg < X86_FS &&
        !(t1_is_32(t) && i->seg == X86_CS) && small) {
        return t1_probe_stack_operand(t, (int32_t)i->disp, size, write, aligned);
    }
    bool slot = t1_slot_possible(t, size);
    if (slot && small && simple_operand(t, &at)) {
        return t1_probe_slot(t, at, size, write, aligned);
    }
    unsigned a = t1_ea(t, T1_S1, true);
    if (slot) {
        at = (struct t1_mem){(uint8_t)a, T1_NO_REG, 0, 0};
        return t1_probe_slot(t, at, size, write, aligned);
    }
    if (aligned) {
        probe_aligned(t, a, size, write);
    } else {
        t1_probe(t, a, size, write);
    }
    return t1_at(a);
}

/* --- LEA -------------------------------------------------------------------- */

/* The common kind, of registers. False: nothing was emitted. */
static bool lea_held(struct t1_ctx *t)
{
    const struct x86_insn *i = t->insn;
    unsigned dst = i->opnd[0].reg, to;
    struct t1_mem m = {T1_NO_REG, T1_NO_REG, 0, (int32_t)i->disp};
    int base = -1, index = -1;
    if (i->addrsize < 4 || i->opsize < 4 || i->base == X86_REG_RIP ||
        (i->base == X86_REG_NONE && i->index == X86_REG_NONE)) {
        return false;
    }
    if (i->base != X86_REG_NONE) {
        m.base = t->host[i->base];
        if (m.base == T1_MEMORY) {
            base = t1_hold(t, i->base, true, -1);
            m.base = t1_holder[base];
        }
    }
    if (i->index != X86_REG_NONE) {
        m.index = t->host[i->index];
        m.shift = (uint8_t)__builtin_ctz(i->scale);
        if (m.index == T1_MEMORY) {
            index = t1_hold(t, i->index, true, base);
            m.index = t1_holder[index];
        }
    }
    bool full = base >= 0 && index >= 0 && base != index && t1_holds(t, dst) < 0;
    if (t->host[dst] != T1_MEMORY) {
        to = t->host[dst];
    } else if (full) {
        to = T1_RCX;
    } else {
        int at = t1_hold(t, dst, false, base >= 0 ? base : index);
        t->held[at].dirty = true;
        to = t1_holder[at];
    }
    if (i->opsize == 4 || i->addrsize == 4) {
        t1_lea32(&t->e, to, m);
    } else {
        t1_lea(&t->e, to, m);
    }
    if (to == T1_RCX) {
        t1_store(&t->e, T1_GPR(dst), T1_RCX);
    }
    return true;
}

bool t1_lea_insn(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    unsigned dst = insn->opnd[0].reg;
    bool mem = t->host[dst] == T1_MEMORY, small = insn->opsize == 2;
    unsigned want = mem || small ? T1_S1 : t->host[dst];
    if (!t1_ea_possible(t, false)) {
        return false;
    }
    if (lea_held(t)) {
        return true;
    }
    t1_let_go(t);
    unsigned a = t1_ea(t, want, false);
    if (small) {
        if (mem) {
            t1_op_mem(&t->e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x89}, a,
                      T1_GPR(dst));
        } else {
            t1_op_reg(&t->e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x8b},
                      t->host[dst], a);
        }
        return true;
    }
    if (insn->opsize == 4) {
        t1_mov_rr32(&t->e, want, a);
    } else if (a != want) {
        t1_mov_rr(&t->e, want, a);
    }
    if (mem) {
        t1_store(&t->e, T1_GPR(dst), want);
    }
    return true;
}
