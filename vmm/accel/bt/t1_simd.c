#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * SSE and AVX instructions, as themselves.
 *
 * The guest's vector registers are in c->s.fpu.ymm or in the host's registers of the
 * same number, all of them: c->t1.vec_away says which. A block's first vector
 * instruction looks (t1_ensure()); whatever goes to C code puts them back into memory
 * (the glue in t1_code.c), and a slow path that comes back into such a block brings
 * them again. They stay where they are over branches. Beside them the host then holds
 * the guest's MXCSR, with all exceptions masked; while the guest has one unmasked the
 * registers do not come, and T0 executes.
 *
 * MMX instructions need the x87 registers in the host's (t1_x87.c), and do to them
 * there what they do to the guest's. A masked move is itself when all of its operand is
 * in a page that is at hand, masked elements included.
 *
 * What stays T0's: gathers, MASKMOVDQU, unmasked exceptions. A misaligned operand goes
 * the same way, and T0 raises #GP.
 */

/* --- One instruction -------------------------------------------------------- */

struct places {
    const struct x86_opnd *reg_gpr, *rm_gpr, *mem;
    bool reg_vector, rm_vector;
    bool is4;      /* the last byte names a vector register */
    bool with_gpr; /* or memory in place of one */
    bool with_mmx;
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
        case X86_ENC_P:
            p->with_mmx = true;
            p->reg = o->reg;
            break;
        case X86_ENC_Q:
        case X86_ENC_N:
            p->with_mmx |= o->kind == X86_OPND_MMX;
            p->rm = o->reg;
            p->mem = o->kind == X86_OPND_MEM ? o : p->mem;
            break;
        case X86_ENC_W:
        case X86_ENC_U:
        case X86_ENC_E:
        case X86_ENC_R:
        case X86_ENC_M:
            p->with_gpr |= d->opnd[i].enc == X86_ENC_E || d->opnd[i].enc == X86_ENC_R;
            if (o->kind == X86_OPND_MEM) {
                p->mem = o;
            } else if (o->kind == X86_OPND_REG) {
                p->rm_gpr = o;
            } else {
                p->rm_vector = true;
                p->rm = o->reg;
            }
            break;
        case X86_ENC_G:
            p->reg_gpr = o;
            p->with_gpr = true;
            break;
        case X86_ENC_H: p->vvvv = o->reg; break;
        case X86_ENC_L: p->is4 = true; break;
        case X86_ENC_XMM0:
        case X86_ENC_I:
        case X86_ENC_IS: break;
        default: return false;
        }
    }
    return true;
}

/* Instructions that T0 has written out, and what is no vector instruction at heart. */
static bool is_special(unsigned op)
{
    switch (op) {
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
    case X86_OP_MASKMOVQ: return true;
    default: return false;
    }
}

/* Of the control bits, those that forbid instructions of @cls. */
static unsigned forbidding(unsigned cls)
{
    return T0_MODE_TS | (cls == X86_CLASS_MMX   ? T0_MODE_EM
                         : cls == X86_CLASS_AVX ? T0_MODE_NOAVX
                                                : T0_MODE_NOSSE);
}

static bool possible(const struct t1_ctx *t, const struct places *p)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    bool simd =
        d->cls == X86_CLASS_SSE || d->cls == X86_CLASS_AVX || d->cls == X86_CLASS_MMX;
    if (!simd || (t->b->mode & forbidding(d->cls)) ||
        (d->gpr_read & ~(1u << X86_RAX | 1u << X86_RDX)) ||
        (d->gpr_written & ~(1u << X86_RCX)) || is_special(insn->op) ||
        !(insn->prefixes & X86_P_MODRM) ||
        (d->props & (X86_D_VSIB | X86_D_VSIB_HALF | X86_D_IMPL_MEM | X86_D_STACK))) {
        return false;
    }
    return !p->mem || (p->mem->size >= 1 && p->mem->size <= 32 && p->mem->access &&
                       t1_ea_possible(t, true));
}

void t1_check_zero(struct t1_ctx *t, unsigned reg, struct t1_mem mask)
{
    t1_pext(&t->e, T1_RCX, reg, mask);
    t1_slow_unless_zero(t);
}

/* Whether the operand has to be aligned to its size. */
static bool aligned(const struct t1_ctx *t, const struct places *p)
{
    unsigned props = x86_insn_desc(t->insn)->props;
    return (props & X86_D_ALIGN) ? p->mem->size >= 16
                                 : (props & X86_D_SSEMEM) && p->mem->size == 16;
}

static unsigned gpr(struct t1_ctx *t, const struct x86_opnd *o, unsigned scratch)
{
    unsigned h = t->host[o->reg];
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
    /* Outside 64-bit code VEX.W makes no general register wider. */
    bool w =
        (insn->prefixes & X86_P_W) && !(t1_is_32(t) && (p->with_gpr || d->gpr_read));
    if (insn->prefixes & X86_P_VEX) {
        unsigned i = 0;
        while (t->bytes[i] != 0xc4 && t->bytes[i] != 0xc5) {
            i++;
        }
        unsigned last = t->bytes[i + (t->bytes[i] == 0xc4 ? 2 : 1)]; /* L, pp */
        unsigned rex =
            p->mem ? t1_rex_mem(reg, m) : (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
        t1_vex(e, d->map - X86_MAP_VEX1 + 1u, w, last & 3, last & 4, rex, p->vvvv,
               insn->opcode);
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
            .w = w,
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
        /* There are registers above 7 only in 64-bit code. */
        bool cut = p->is4 && t1_is_32(t) && i + 1u == insn->len;
        t1_u8(e, cut ? t->bytes[i] & 0x7fu : t->bytes[i]);
    }
}

/* VZEROUPPER, VZEROALL; in 32-bit code of the first eight registers. */
static bool zero(struct t1_ctx *t)
{
    if (t->b->mode & forbidding(X86_CLASS_AVX)) {
        return false;
    }
    t1_ensure(t, T1_NEED_VEC);
    bool all = t->insn->op == X86_OP_VZEROALL;
    for (unsigned n = 0; t1_is_32(t) && n < 8; n++) {
        /* vpxor n, n, n; vmovdqa n, n */
        t1_vex(&t->e, 1, false, 1, false, 0, all ? n : 0, all ? 0xef : 0x6f);
        t1_u8(&t->e, 0xc0 | n << 3 | n);
    }
    if (t1_is_32(t)) {
        return true;
    }
    t1_u8(&t->e, 0xc5);
    t1_u8(&t->e, t->insn->op == X86_OP_VZEROALL ? 0xfc : 0xf8);
    t1_u8(&t->e, 0x77);
    return true;
}

/* LDMXCSR and STMXCSR. The host's MXCSR is the guest's but for bits above 15, with
 * which the instruction is T0's, as is one that unmasks an exception. */
static bool mxcsr(struct t1_ctx *t, bool load)
{
    struct t1_emit *e = &t->e;
    const struct t1_mem field = T1_FIELD(s.fpu.mxcsr);
    const struct t1_enc op = {.map = 1, .opcode = 0xae};
    if ((t->b->mode & forbidding(x86_insn_desc(t->insn)->cls)) ||
        !t1_ea_possible(t, true)) {
        return false;
    }
    t1_ensure(t, T1_NEED_VEC);
    if (!load) {
        t1_load32(e, T1_RCX, field);
        t1_check_zero(t, T1_RCX, T1_FIELD(t1.mxcsr_high));
        t1_op_mem(e, &op, 3, t1_operand(t, 4, true, false));
        return true;
    }
    t1_load32(e, T1_S1, t1_operand(t, 4, false, false));
    t1_check_zero(t, T1_S1, T1_FIELD(t1.mxcsr_high));
    t1_mov_rr(e, T1_RCX, T1_S1);
    t1_not(e, T1_RCX);
    t1_check_zero(t, T1_RCX, T1_FIELD(t1.mxcsr_masks));
    t1_op_mem(e, &(struct t1_enc){.opcode = 0x89}, T1_S1, field);
    t1_op_mem(e, &op, 2, field);
    return true;
}

static bool emms(struct t1_ctx *t)
{
    if (t->b->mode & forbidding(X86_CLASS_MMX)) {
        return false;
    }
    t1_ensure(t, T1_NEED_X87);
    t1_u8(&t->e, 0x0f);
    t1_u8(&t->e, 0x77);
    return true;
}

bool t1_simd(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    struct places p;
    switch (insn->op) {
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR: return mxcsr(t, true);
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR: return mxcsr(t, false);
    case X86_OP_EMMS: return emms(t);
    default: break;
    }
    if (insn->op == X86_OP_VZEROUPPER || insn->op == X86_OP_VZEROALL) {
        return zero(t);
    }
    if (!sort_operands(insn, &p) || !possible(t, &p)) {
        return false;
    }
    if (x86_insn_desc(insn)->cls != X86_CLASS_MMX) {
        t1_ensure(t, T1_NEED_VEC);
    }
    if (p.with_mmx) {
        t1_ensure(t, T1_NEED_X87);
    }
    struct t1_mem m = {0};
    if (p.mem) {
        m = t1_operand(t, p.mem->size, p.mem->access & X86_ACC_W, aligned(t, &p));
    }
    unsigned reg = p.reg_gpr ? gpr(t, p.reg_gpr, T1_RCX) : p.reg;
    unsigned rm = p.rm_gpr ? gpr(t, p.rm_gpr, T1_S2) : p.rm;
    put_insn(t, &p, reg, rm, m);
    if (x86_insn_desc(insn)->gpr_written & 1u << X86_RCX) {
        t1_mov_rr(&t->e, t->host[X86_RCX], T1_RCX);
    }
    if (p.reg_gpr && (p.reg_gpr->access & X86_ACC_W) && reg == T1_RCX) {
        t1_store(&t->e, T1_GPR(p.reg_gpr->reg), T1_RCX);
    }
    if (p.rm_gpr && (p.rm_gpr->access & X86_ACC_W) && rm == T1_S2) {
        t1_store(&t->e, T1_GPR(p.rm_gpr->reg), T1_S2);
    }
    return true;
}
