#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * SSE and AVX instructions, as themselves.
 *
 * The guest's vector registers are in c->s.fpu.ymm. Inside a block they are brought
 * into the host's registers of the same number when first used, and put back before
 * the block ends, before an instruction that is left to T0, and on every slow path
 * (which loads them again). What is where is known while translating:
 *
 *     T1_V_NONE  in memory alone
 *     T1_V_XMM   the low half is in the host's register
 *     T1_V_YMM   all of it is
 *
 * and xdirty says whose copy in memory is old. An instruction without VEX leaves the
 * high half alone, here as there; one with VEX writes all of its destination.
 *
 * What stays T0's: MMX and x87, gathers and masked moves, MXCSR, unmasked exceptions.
 * An instruction that can raise floating-point exceptions looks whether the guest's
 * MXCSR is loaded with all of them masked (T0_FPU_SSE); if not, T0 executes it, which
 * also loads it. A misaligned operand goes the same way, and T0 raises #GP.
 */

static struct t1_mem vector_at(unsigned n)
{
    return t1_field(offsetof(struct t0_cpu, s.fpu.ymm) + 32 * (size_t)n);
}

/* movups or vmovups. */
static void move(struct t1_emit *e, bool store, bool ymm, unsigned n)
{
    if (ymm) {
        t1_vex(e, 1, false, 0, true, (n >> 3 & 1) << 2, 0, store ? 0x11 : 0x10);
        t1_modrm_mem(e, n, vector_at(n));
    } else {
        t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = store ? 0x11 : 0x10}, n,
                  vector_at(n));
    }
}

void t1_vectors_move(struct t1_emit *e, bool store, uint16_t xmm, uint16_t ymm)
{
    for (unsigned n = 0; n < 16; n++) {
        if ((xmm | ymm) >> n & 1) {
            move(e, store, ymm >> n & 1, n);
        }
    }
}

void t1_vectors_masks(const struct t1_ctx *t, uint16_t which, uint16_t *ret_xmm,
                      uint16_t *ret_ymm)
{
    *ret_xmm = *ret_ymm = 0;
    for (unsigned n = 0; n < 16; n++) {
        if (which >> n & 1) {
            *ret_xmm |= (uint16_t)((t->xstate[n] == T1_V_XMM) << n);
            *ret_ymm |= (uint16_t)((t->xstate[n] == T1_V_YMM) << n);
        }
    }
}

void t1_vectors_put(struct t1_ctx *t)
{
    uint16_t xmm, ymm;
    t1_vectors_masks(t, t->xdirty, &xmm, &ymm);
    t1_vectors_move(&t->e, true, xmm, ymm);
    if (t->used_vex) {
        t1_u8(&t->e, 0xc5); /* vzeroupper */
        t1_u8(&t->e, 0xf8);
        t1_u8(&t->e, 0x77);
        t->used_vex = false;
    }
    t->xdirty = 0;
    memset(t->xstate, T1_V_NONE, sizeof(t->xstate));
}

static void need(struct t1_ctx *t, unsigned n, unsigned state)
{
    if (t->xstate[n] >= state) {
        return;
    }
    if (t->xdirty >> n & 1) {
        move(&t->e, true, false, n);
    }
    move(&t->e, false, state == T1_V_YMM, n);
    t->xstate[n] = (uint8_t)state;
}

static bool is_vector(const struct x86_opnd *o)
{
    return o->kind == X86_OPND_XMM || o->kind == X86_OPND_YMM;
}

/* Before the instruction: what it reads, and what it keeps of what it writes. */
static void load_vectors(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    bool vex = insn->prefixes & X86_P_VEX;
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        bool keeps = !vex && o->size < 16;
        if (is_vector(o) && ((o->access & X86_ACC_R) || keeps)) {
            need(t, o->reg, vex ? T1_V_YMM : T1_V_XMM);
        }
    }
}

static void note_written(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    bool vex = insn->prefixes & X86_P_VEX;
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        if (is_vector(o) && (o->access & X86_ACC_W)) {
            unsigned state = vex ? T1_V_YMM : T1_V_XMM;
            t->xstate[o->reg] = (uint8_t)MAX(t->xstate[o->reg], state);
            t->xdirty |= (uint16_t)(1u << o->reg);
        }
    }
    t->used_vex |= vex;
}

/* --- One instruction -------------------------------------------------------- */

struct places {
    const struct x86_opnd *reg_gpr, *rm_gpr, *mem;
    bool reg_vector, rm_vector;
    uint8_t reg, rm, vvvv;
};

static bool sort_operands(const struct x86_insn *insn, struct places *p)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    *p = (struct places){.reg = insn->modrm >> 3 & 7, .rm = insn->modrm & 7};
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        switch (d->opnd[i].enc) {
        case X86_ENC_V:
            p->reg_vector = true;
            p->reg = o->reg;
            break;
        case X86_ENC_W:
        case X86_ENC_U:
        case X86_ENC_E:
        case X86_ENC_R:
        case X86_ENC_M:
            if (o->kind == X86_OPND_MEM) {
                p->mem = o;
            } else if (o->kind == X86_OPND_REG) {
                p->rm_gpr = o;
            } else {
                p->rm_vector = true;
                p->rm = o->reg;
            }
            break;
        case X86_ENC_G: p->reg_gpr = o; break;
        case X86_ENC_H: p->vvvv = o->reg; break;
        case X86_ENC_L:
        case X86_ENC_XMM0:
        case X86_ENC_I:
        case X86_ENC_IS: break;
        default: return false;
        }
        if (o->kind == X86_OPND_MMX) {
            return false;
        }
    }
    return true;
}

/* Instructions that T0 has written out, and what is no vector instruction at heart. */
static bool is_special(unsigned op)
{
    switch (op) {
    case X86_OP_VZEROUPPER:
    case X86_OP_VZEROALL:
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
    case X86_OP_MASKMOVQ:
    case X86_OP_VMASKMOVPS:
    case X86_OP_VMASKMOVPD:
    case X86_OP_VPMASKMOVD:
    case X86_OP_VPMASKMOVQ:
    case X86_OP_PCMPISTRM: /* writes XMM0, which is no operand */
    case X86_OP_PCMPESTRM:
    case X86_OP_VPCMPISTRM:
    case X86_OP_VPCMPESTRM: return true;
    default: return false;
    }
}

static bool possible(const struct t1_ctx *t, const struct places *p)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    bool avx = d->cls == X86_CLASS_AVX;
    unsigned bad = T0_MODE_TS | (avx ? T0_MODE_NOAVX : T0_MODE_NOSSE);
    if ((d->cls != X86_CLASS_SSE && !avx) || (t->b->mode & bad) || d->gpr_read ||
        d->gpr_written || is_special(insn->op) || !(insn->prefixes & X86_P_MODRM) ||
        (d->props &
         (X86_D_VSIB | X86_D_VSIB_HALF | X86_D_IMPL_MEM | X86_D_MMX | X86_D_STACK))) {
        return false;
    }
    return !p->mem || (p->mem->size >= 1 && p->mem->size <= 32 && p->mem->access &&
                       t1_ea_possible(t, true));
}

/* Slow unless the bits of @reg under @mask are 0. */
static void check_zero(struct t1_ctx *t, unsigned reg, struct t1_mem mask)
{
    t1_pext(&t->e, T1_RCX, reg, mask);
    uint32_t fine = t1_jrcxz(&t->e);
    t1_jump_slow(t);
    t1_here8(&t->e, fine);
}

/* Slow unless the guest's MXCSR is loaded. */
static void check_mxcsr(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
              T1_FIELD(fpu_loaded)); /* movzx */
    t1_not(e, T1_RCX);
    check_zero(t, T1_RCX, T1_FIELD(t1.sse_mask));
}

static void check_alignment(struct t1_ctx *t, const struct places *p, unsigned addr)
{
    const struct x86_desc *d = x86_insn_desc(t->insn);
    if ((d->props & X86_D_ALIGN) && p->mem->size == 32) {
        check_zero(t, addr, T1_FIELD(t1.align32_mask));
    } else if ((d->props & X86_D_ALIGN)
                   ? p->mem->size == 16
                   : (d->props & X86_D_SSEMEM) && p->mem->size == 16) {
        check_zero(t, addr, T1_FIELD(t1.align16_mask));
    }
}

static unsigned gpr(struct t1_ctx *t, const struct x86_opnd *o, unsigned scratch)
{
    unsigned h = t1_host[o->reg];
    if (h != T1_MEMORY) {
        return h;
    }
    t1_load(&t->e, scratch, T1_GPR(o->reg));
    return scratch;
}

static void put_insn(struct t1_ctx *t, const struct places *p, unsigned reg,
                     unsigned rm, struct t1_mem m)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    struct t1_emit *e = &t->e;
    if (insn->prefixes & X86_P_VEX) {
        unsigned i = 0;
        while (t->bytes[i] != 0xc4 && t->bytes[i] != 0xc5) {
            i++;
        }
        unsigned last = t->bytes[i + (t->bytes[i] == 0xc4 ? 2 : 1)]; /* L, pp */
        unsigned rex =
            p->mem ? t1_rex_mem(reg, m) : (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
        t1_vex(e, d->map - X86_MAP_VEX1 + 1u, insn->prefixes & X86_P_W, last & 3,
               last & 4, rex, p->vvvv, insn->opcode);
        if (p->mem) {
            t1_modrm_mem(e, reg, m);
        } else {
            t1_u8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
        }
    } else {
        struct t1_enc x = {
            .p66 = insn->prefixes & X86_P_OPSIZE ? 0x66 : 0,
            .rep = insn->prefixes & X86_P_REP     ? 0xf3
                   : insn->prefixes & X86_P_REPNE ? 0xf2
                                                  : 0,
            .w = insn->prefixes & X86_P_W,
            .map = d->map,
            .opcode = insn->opcode,
        };
        if (p->mem) {
            t1_op_mem(e, &x, reg, m);
        } else {
            t1_op_reg(e, &x, reg, rm);
        }
    }
    for (unsigned i = insn->len - insn->imm_size; i < insn->len; i++) {
        t1_u8(e, t->bytes[i]);
    }
}

/* VZEROUPPER: the high halves are zeroed in memory; no register is live then. */
static bool zero_upper(struct t1_ctx *t)
{
    if (t->b->mode & (T0_MODE_TS | T0_MODE_NOAVX)) {
        return false;
    }
    t->used_vex = true;
    t1_vectors_put(t);
    t1_op_reg(&t->e, &(struct t1_enc){.map = 1, .opcode = 0x57}, 0, 0); /* xorps */
    for (unsigned n = 0; n < 16; n++) {
        struct t1_mem m = vector_at(n);
        m.disp += 16;
        t1_op_mem(&t->e, &(struct t1_enc){.map = 1, .opcode = 0x11}, 0, m);
    }
    return true;
}

bool t1_simd(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    struct places p;
    if (insn->op == X86_OP_VZEROUPPER) {
        return zero_upper(t);
    }
    if (!sort_operands(insn, &p) || !possible(t, &p)) {
        return false;
    }
    if (d->props & X86_D_FXU) {
        check_mxcsr(t);
    }
    struct t1_mem m = {0};
    if (p.mem) {
        unsigned a = t1_ea(t, T1_S1, true);
        check_alignment(t, &p, a);
        t1_probe(t, a, p.mem->size, p.mem->access & X86_ACC_W);
        m = t1_at(a);
    }
    load_vectors(t);
    unsigned reg = p.reg_gpr ? gpr(t, p.reg_gpr, T1_RCX) : p.reg;
    unsigned rm = p.rm_gpr ? gpr(t, p.rm_gpr, T1_S2) : p.rm;
    put_insn(t, &p, reg, rm, m);
    note_written(t);
    if (p.reg_gpr && (p.reg_gpr->access & X86_ACC_W) && reg == T1_RCX) {
        t1_store(&t->e, T1_GPR(p.reg_gpr->reg), T1_RCX);
    }
    if (p.rm_gpr && (p.rm_gpr->access & X86_ACC_W) && rm == T1_S2) {
        t1_store(&t->e, T1_GPR(p.rm_gpr->reg), T1_S2);
    }
    return true;
}
