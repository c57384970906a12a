#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * What kernels execute often and no other instruction can stand for: the flags beside
 * the arithmetic ones, which are in c->s.rflags, control registers, the bases of FS and
 * GS, the time-stamp counter, bit strings in memory, and compare-and-exchange of 8 and
 * 16 bytes.
 *
 * None of it may change the host's flags. A bit is cleared by taking the others out
 * (PEXT) and putting them back (PDEP); set, by doing that to the complement.
 */

/* rcx = what @mask lets through */
static void keep(struct t1_emit *e, unsigned reg, struct t1_mem mask)
{
    t1_pext(e, reg, reg, mask);
    t1_pdep(e, reg, reg, mask);
}

/* CLI, CLD: c->s.rflags & @mask */
static bool clear_flag(struct t1_ctx *t, struct t1_mem mask)
{
    t1_load(&t->e, T1_RCX, T1_FIELD(s.rflags));
    keep(&t->e, T1_RCX, mask);
    t1_store(&t->e, T1_FIELD(s.rflags), T1_RCX);
    return true;
}

/* STC of a flag in s.rflags: the one that @mask has not. */
static void set_flag(struct t1_ctx *t, struct t1_mem mask)
{
    t1_load(&t->e, T1_RCX, T1_FIELD(s.rflags));
    t1_not(&t->e, T1_RCX);
    keep(&t->e, T1_RCX, mask);
    t1_not(&t->e, T1_RCX);
    t1_store(&t->e, T1_FIELD(s.rflags), T1_RCX);
}

/* STI: an interrupt that waits for it is T0's. */
static bool sti(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    t1_load(e, T1_RCX, T1_FIELD(core));
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
              (struct t1_mem){T1_RCX, T1_NO_REG, 0,
                              offsetof(struct t0_core, irq_maybe)}); /* movzx */
    t1_slow_unless_zero(t);
    t1_load(e, T1_RCX, T1_FIELD(vcpu));
    t1_load32(e, T1_RCX,
              (struct t1_mem){T1_RCX, T1_NO_REG, 0, offsetof(struct vcpu, attention)});
    t1_slow_unless_zero(t);
    set_flag(t, T1_FIELD(t1.not_if));
    t1_op_mem(e, &(struct t1_enc){.opcode = 0xc6}, 0, T1_FIELD(s.int_shadow));
    t1_u8(e, 1);
    return true;
}

/* PUSHF: the arithmetic flags are the host's. Its own stack is the one below the
 * vCPU's state. */
static bool pushf(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    int32_t word = (int32_t)t1_word(t);
    if (t->insn->opsize != word) {
        return false;
    }
    t1_u8(e, 0x9c);          /* pushfq */
    t1_u8(e, 0x58 | T1_RCX); /* pop rcx */
    keep(e, T1_RCX, T1_FIELD(t1.arith));
    t1_load(e, T1_S1, T1_FIELD(s.rflags));
    keep(e, T1_S1, T1_FIELD(t1.pushf_keep));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, 0});
    t1_store(e, T1_FIELD(t1.target), T1_RCX);
    struct t1_mem m = t1_probe_stack(t, -word, (unsigned)word, true);
    t1_load(e, T1_RCX, T1_FIELD(t1.target));
    t1_store_word(t, m, T1_RCX);
    t1_sp_add(t, -word);
    return true;
}

static bool swapgs(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    t1_load(e, T1_RCX, T1_FIELD(s.msr.kernel_gs_base));
    t1_load(e, T1_S1, T1_FIELD(s.seg[X86_GS].base));
    t1_store(e, T1_FIELD(s.msr.kernel_gs_base), T1_S1);
    t1_store(e, T1_FIELD(s.seg[X86_GS].base), T1_RCX);
    t1_store(e, T1_FIELD(seg_base[X86_GS]), T1_RCX);
    return true;
}

/*
 * STAC, CLAC: the bank is another one. Slots stay good: with AC set everything is
 * allowed that was allowed before, and they are not filled then.
 */
static bool stac(struct t1_ctx *t)
{
    set_flag(t, T1_FIELD(t1.not_ac));
    t1_lea(&t->e, T1_RCX, T1_FIELD(banks[T0_BANK_KERNEL]));
    t1_store(&t->e, T1_FIELD(tlb), T1_RCX);
    return true;
}

static bool clac(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    clear_flag(t, T1_FIELD(t1.not_ac));
    t1_load(e, T1_RCX, T1_FIELD(t1.kernel_bank));
    t1_store(e, T1_FIELD(tlb), T1_RCX);
    return true;
}

/* The guest's time-stamp counter is the host's and a number. RDTSCP waits for what is
 * before it, which only another processor could notice; that costs as much again. */
static bool rdtsc(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    bool rdtscp = t->insn->op == X86_OP_RDTSCP, waits = rdtscp && !t->lone;
    if (t->host[X86_RAX] != X86_RAX || t->host[X86_RDX] != X86_RDX ||
        t->host[X86_RCX] == T1_MEMORY) {
        return false;
    }
    if (t1_is_user(t->b->mode)) {
        t1_load(e, T1_RCX, T1_FIELD(s.cr4));
        t1_check_zero(t, T1_RCX, T1_FIELD(t1.tsd));
    }
    t1_u8(e, 0x0f);
    t1_u8(e, waits ? 0x01 : 0x31);
    if (waits) {
        t1_u8(e, 0xf9);
    }
    t1_rorx(e, X86_RDX, X86_RDX, 32);
    t1_lea(e, X86_RAX, (struct t1_mem){X86_RAX, X86_RDX, 0, 0});
    t1_load(e, T1_RCX, T1_FIELD(t1.tsc_add));
    t1_lea(e, X86_RAX, (struct t1_mem){X86_RAX, T1_RCX, 0, 0});
    t1_rorx(e, X86_RDX, X86_RAX, 32);
    t1_mov_rr32(e, X86_RDX, X86_RDX);
    t1_mov_rr32(e, X86_RAX, X86_RAX);
    if (rdtscp) {
        t1_load32(e, t->host[X86_RCX], T1_FIELD(s.msr.tsc_aux));
    }
    t->t1->trans[t->t1->nb_trans].native = false; /* no two of them are the same */
    return true;
}

/* Guest register @reg = what is at @m. */
static bool load_field(struct t1_ctx *t, unsigned reg, unsigned size, struct t1_mem m)
{
    bool mem = t->host[reg] == T1_MEMORY;
    unsigned to = mem ? T1_RCX : t->host[reg];
    if (size == 4) {
        t1_load32(&t->e, to, m);
    } else {
        t1_load(&t->e, to, m);
    }
    if (mem) {
        t1_store(&t->e, T1_GPR(reg), T1_RCX);
    }
    return true;
}

/* MOV r, CRn */
static bool read_cr(struct t1_ctx *t)
{
    const struct x86_opnd *o = t->insn->opnd;
    if (o[0].kind != X86_OPND_REG || o[1].kind != X86_OPND_CR) {
        return false;
    }
    switch (o[1].reg) {
    case 0: return load_field(t, o[0].reg, o[0].size, T1_FIELD(s.cr0));
    case 2: return load_field(t, o[0].reg, o[0].size, T1_FIELD(s.cr2));
    case 3: return load_field(t, o[0].reg, o[0].size, T1_FIELD(s.cr3));
    case 4: return load_field(t, o[0].reg, o[0].size, T1_FIELD(s.cr4));
    default: return false;
    }
}

/* MOV r, Sreg */
static bool read_selector(struct t1_ctx *t)
{
    const struct x86_opnd *o = t->insn->opnd;
    struct t1_emit *e = &t->e;
    if (o[0].kind != X86_OPND_REG || o[1].kind != X86_OPND_SEG) {
        return false;
    }
    unsigned dst = t->host[o[0].reg];
    const struct t1_enc store = {
        .p66 = o[0].size == 2 ? 0x66 : 0, .w = o[0].size != 2, .opcode = 0x89};
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, T1_RCX,
              t1_selector(o[1].reg)); /* movzx */
    if (dst == T1_MEMORY) {
        t1_op_mem(e, &store, T1_RCX, T1_GPR(o[0].reg));
    } else {
        t1_op_reg(e, &store, T1_RCX, dst);
    }
    return true;
}

/* RDFSBASE and friends: #UD unless CR4 has them. */
static void check_fsgsbase(struct t1_ctx *t)
{
    t1_load(&t->e, T1_RCX, T1_FIELD(s.cr4));
    t1_not(&t->e, T1_RCX);
    t1_check_zero(t, T1_RCX, T1_FIELD(t1.fsgsbase));
}

/* to = from << rcx, with @pp 1; >> rcx, arithmetically, with 2. */
static void shift_by_rcx(struct t1_emit *e, unsigned pp, unsigned to, unsigned from)
{
    t1_vex(e, 2, true, pp, false, (to >> 3) << 2 | from >> 3, T1_RCX, 0xf7);
    t1_u8(e, 0xc0 | (to & 7) << 3 | (from & 7));
}

static bool write_base(struct t1_ctx *t, unsigned seg)
{
    const struct x86_insn *insn = t->insn;
    struct t1_emit *e = &t->e;
    check_fsgsbase(t);
    unsigned v = t1_in_reg(t, insn->opnd[0].reg, T1_S2);
    if (insn->opsize != 8) {
        t1_mov_rr32(e, T1_S2, v);
        v = T1_S2;
    } else { /* canonical? rcx = v - v with its upper bits those of an address */
        t1_mov_ri(e, T1_RCX, 64 - t->c->core->model->virt_bits);
        shift_by_rcx(e, 1, T1_S1, v);
        shift_by_rcx(e, 2, T1_S1, T1_S1);
        t1_not(e, T1_S1);
        t1_lea(e, T1_RCX, (struct t1_mem){T1_S1, (uint8_t)v, 0, 1});
        t1_slow_unless_zero(t);
    }
    t1_store(e, t1_field(offsetof(struct t0_cpu, seg_base) + 8u * seg), v);
    t1_store(e,
             t1_field(offsetof(struct t0_cpu, s.seg) +
                      seg * sizeof(struct x86_segment) +
                      offsetof(struct x86_segment, base)),
             v);
    return true;
}

static bool read_base(struct t1_ctx *t, unsigned seg)
{
    const struct x86_insn *insn = t->insn;
    check_fsgsbase(t);
    return load_field(t, insn->opnd[0].reg, insn->opsize,
                      t1_field(offsetof(struct t0_cpu, seg_base) + 8u * seg));
}

/*
 * BT and friends of a bit that a register names, in memory: the element that has the
 * bit is looked for first, then the instruction is given the bit's number in it.
 */
static bool bit_string(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *m = &insn->opnd[0], *r = &insn->opnd[1];
    struct t1_emit *e = &t->e;
    bool limit = t1_is_32(t) && insn->seg >= X86_FS; /* of the bit's, not m's offset */
    if (m->kind != X86_OPND_MEM || r->kind != X86_OPND_REG || limit ||
        !t1_ea_possible(t, true)) {
        return false;
    }
    unsigned log = (unsigned)__builtin_ctz(m->size);
    unsigned a = t1_ea(t, T1_S1, true);
    unsigned bit = t1_in_reg(t, r->reg, T1_S2);
    if (m->size == 4) {
        t1_op_reg(e, &(struct t1_enc){.w = true, .opcode = 0x63}, T1_S2, bit);
    } else if (m->size == 2) {
        t1_op_reg(e, &(struct t1_enc){.w = true, .map = 1, .opcode = 0xbf}, T1_S2, bit);
    } else if (bit != T1_S2) {
        t1_mov_rr(e, T1_S2, bit);
    }
    t1_mov_ri(e, T1_RCX, 3 + (int64_t)log);
    t1_vex(e, 2, true, 2, false, 5, T1_RCX, 0xf7); /* sarx r11, r11, rcx */
    t1_u8(e, 0xc0 | (T1_S2 & 7) << 3 | (T1_S2 & 7));
    t1_lea_word(t, T1_S1, (struct t1_mem){(uint8_t)a, T1_S2, (uint8_t)log, 0});
    t1_probe(t, T1_S1, m->size, m->access & X86_ACC_W);
    bit = t1_in_reg(t, r->reg, T1_RCX);
    t1_pext(e, T1_RCX, bit,
            t1_field(offsetof(struct t0_cpu, t1.bits) + 8u * (log - 1)));
    const struct t1_enc x = {
        .lock = t1_lock_prefix(t),
        .p66 = m->size == 2 ? 0x66 : 0,
        .w = m->size == 8,
        .map = 1,
        .opcode = insn->opcode,
    };
    t1_op_mem(e, &x, T1_RCX, t1_at(T1_S1));
    return true;
}

static bool cmpxchg_wide(struct t1_ctx *t)
{
    const struct x86_opnd *m = &t->insn->opnd[0];
    struct t1_emit *e = &t->e;
    if (m->kind != X86_OPND_MEM || !t1_ea_possible(t, true)) {
        return false;
    }
    unsigned a = t1_ea(t, T1_S1, true);
    if (m->size == 16) {
        t1_check_zero(t, a, T1_FIELD(t1.align16_mask));
    }
    t1_probe(t, a, m->size, true);
    t1_mov_rr(e, T1_RCX, t->host[X86_RCX]);
    const struct t1_enc x = {
        .lock = t1_lock_prefix(t), .w = m->size == 16, .map = 1, .opcode = 0xc7};
    t1_op_mem(e, &x, 1, t1_at(a));
    return true;
}

/*
 * A lone vCPU needs no atomic accesses: what else reaches guest memory, devices, does
 * no read-modify-write of it. What is meant as a fence stays one: adding nothing, and
 * whatever is done to the stack.
 */
uint8_t t1_lock_prefix(const struct t1_ctx *t)
{
    const struct x86_insn *i = t->insn;
    bool fence = i->base == X86_RSP || (i->imm_size && i->imm == 0);
    return (i->prefixes & X86_P_LOCK) && (!t->lone || fence) ? 0xf0 : 0;
}

bool t1_xadd_alone(struct t1_ctx *t, unsigned reg, unsigned size, struct t1_mem m)
{
    const struct t1_enc load = {.w = size == 8, .opcode = 0x8b};
    const struct t1_enc xadd = {.w = size == 8, .map = 1, .opcode = 0xc1};
    const struct t1_enc store = {.w = size == 8, .opcode = 0x89};
    if (size < 4 || !(t->insn->prefixes & X86_P_LOCK) || t1_lock_prefix(t) ||
        m.base == reg) { /* the address would change before the store */
        return false;
    }
    t1_op_mem(&t->e, &load, T1_RCX, m);
    t1_op_reg(&t->e, &xadd, reg, T1_RCX);
    t1_op_mem(&t->e, &store, T1_RCX, m);
    return true;
}

bool t1_system(struct t1_ctx *t)
{
    bool kernel = !(t->b->mode & T0_MODE_CPL3);
    switch (t->insn->op) {
    case X86_OP_CLI: return kernel && clear_flag(t, T1_FIELD(t1.not_if));
    case X86_OP_STI: return kernel && sti(t);
    case X86_OP_CLD: return clear_flag(t, T1_FIELD(t1.not_df));
    case X86_OP_PUSHF: return pushf(t);
    case X86_OP_SWAPGS: return kernel && swapgs(t);
    case X86_OP_STAC: return kernel && stac(t);
    case X86_OP_CLAC: return kernel && clac(t);
    case X86_OP_MOV: return read_selector(t) || (kernel && read_cr(t));
    case X86_OP_RDTSC:
    case X86_OP_RDTSCP: return rdtsc(t);
    case X86_OP_RDFSBASE: return read_base(t, X86_FS);
    case X86_OP_RDGSBASE: return read_base(t, X86_GS);
    case X86_OP_WRFSBASE: return write_base(t, X86_FS);
    case X86_OP_WRGSBASE: return write_base(t, X86_GS);
    case X86_OP_PAUSE: return t->lone; /* there is nobody to wait for */
    case X86_OP_MOVS:
    case X86_OP_CMPS:
    case X86_OP_STOS:
    case X86_OP_LODS:
    case X86_OP_SCAS: return t1_string(t);
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC: return bit_string(t);
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B: return cmpxchg_wide(t);
    default: return false;
    }
}
