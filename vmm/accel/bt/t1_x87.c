#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * x87 instructions as themselves, and when floating-point registers are the host's.
 *
 * The x87 registers come into the host's with the first instruction that needs them
 * and stay, as in T0 (t0_fpu.h): T0_FPU_X87 in c->fpu_loaded says that they are there
 * and that no exception is unmasked. Otherwise T0 executes.
 *
 * The address of the last x87 instruction, which FNSTENV shows, is not stored after
 * each: it is pending while translating, and written when the block ends, on every slow
 * path, and before T0 executes one. The operand's address is not known while
 * translating and is stored at once.
 */

void t1_ensure(struct t1_ctx *t, unsigned need)
{
    struct t1_emit *e = &t->e;
    bool *ready = need == T1_NEED_VEC ? &t->vec_ready : &t->x87_ready;
    if (*ready) {
        return;
    }
    unsigned had =
        (t->vec_ready ? T1_NEED_VEC : 0u) | (t->x87_ready ? T1_NEED_X87 : 0u);
    if (need == T1_NEED_VEC) {
        t1_load(e, T1_RCX, T1_FIELD(t1.vec_away));
    } else {
        t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
                  T1_FIELD(fpu_loaded)); /* movzx */
        t1_not(e, T1_RCX);
        t1_pext(e, T1_RCX, T1_RCX, T1_FIELD(t1.x87_mask));
    }
    t1_rcx_to_one(e);
    struct t1_slow *s = &t->slow[t->nb_slow++];
    *s = (struct t1_slow){.what = (uint16_t)(t->index | had | need | T1_ENSURE),
                          .op = X86_NB_OPS,
                          .x87 = t->x87};
    t1_unless(e, &s->from[s->nb++]);
    s->resume = t1_pos(e);
    *ready = true;
}

void t1_x87_note(struct t1_emit *e, const struct t1_x87 *x)
{
    if (!x->pending) {
        return;
    }
    t1_load(e, T1_RCX, T1_FIELD(t1.page_base));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, x->off});
    t1_store(e, T1_FIELD(s.fpu.fip), T1_RCX);
    t1_op_mem(e, &(struct t1_enc){.p66 = 0x66, .opcode = 0xc7}, 0, T1_FIELD(s.fpu.fop));
    t1_u8(e, x->fop);
    t1_u8(e, x->fop >> 8);
}

/* Control and environment: not arithmetic, and T0's. */
static bool is_control(unsigned op)
{
    switch (op) {
    case X86_OP_FNCLEX:
    case X86_OP_FNINIT:
    case X86_OP_FNSTENV:
    case X86_OP_FLDENV:
    case X86_OP_FNSAVE:
    case X86_OP_FRSTOR:
    case X86_OP_FNENI:
    case X86_OP_FNDISI:
    case X86_OP_FNSETPM: return true;
    default: return false;
    }
}

/*
 * The control word is c->s.fpu.fcw, and the host's while the registers are there. One
 * that unmasks an exception is T0's.
 */
static void fldcw(struct t1_ctx *t)
{
    struct t1_emit *e = &t->e;
    const struct t1_mem fcw = T1_FIELD(s.fpu.fcw);
    t1_ensure(t, T1_NEED_X87);
    struct t1_mem m = t1_operand(t, 2, false, false);
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, T1_S1, m); /* movzx */
    t1_mov_rr(e, T1_RCX, T1_S1);
    t1_not(e, T1_RCX);
    t1_check_zero(t, T1_RCX, T1_FIELD(t1.bits[2])); /* all six are masked */
    t1_pext(e, T1_S1, T1_S1, T1_FIELD(t1.fcw_mask));
    t1_pdep(e, T1_S1, T1_S1, T1_FIELD(t1.fcw_mask));
    t1_lea(e, T1_S1, (struct t1_mem){T1_S1, T1_NO_REG, 0, 0x40}); /* always 1 */
    t1_op_mem(e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x89}, T1_S1, fcw);
    t1_op_mem(e, &(struct t1_enc){.opcode = 0xd9}, 5, fcw);
}

static void fnstcw(struct t1_ctx *t)
{
    struct t1_mem m = t1_operand(t, 2, true, false);
    t1_op_mem(&t->e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, T1_RCX,
              T1_FIELD(s.fpu.fcw)); /* movzx */
    t1_op_mem(&t->e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x89}, T1_RCX, m);
}

static void fnstsw(struct t1_ctx *t)
{
    t1_ensure(t, T1_NEED_X87);
    if (x86_insn_mem(t->insn)) {
        t1_op_mem(&t->e, &(struct t1_enc){.opcode = 0xdd}, 7,
                  t1_operand(t, 2, true, false));
    } else {
        t1_u8(&t->e, 0xdf);
        t1_u8(&t->e, 0xe0);
    }
}

/* What is done often and is no arithmetic: these leave no address behind. */
static bool control(struct t1_ctx *t)
{
    switch (t->insn->op) {
    case X86_OP_FWAIT: t1_ensure(t, T1_NEED_X87); return true;
    case X86_OP_FLDCW: fldcw(t); return true;
    case X86_OP_FNSTCW: fnstcw(t); return true;
    case X86_OP_FNSTSW: fnstsw(t); return true;
    default: return false;
    }
}

bool t1_x87(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *mem = x86_insn_mem(insn);
    struct t1_emit *e = &t->e;
    if (is_control(insn->op) || (t->b->mode & (T0_MODE_TS | T0_MODE_EM)) ||
        (mem && (!mem->access || !mem->size || mem->size > 16 || insn->seg >= X86_FS ||
                 !t1_ea_possible(t, true)))) {
        return false;
    }
    if (control(t)) {
        return true;
    }
    t1_ensure(t, T1_NEED_X87);
    if (mem) {
        unsigned a = t1_ea(t, T1_S1, true);
        struct t1_mem m = t1_at(a);
        if (t1_slot_possible(t, mem->size)) {
            m = t1_probe_slot(t, (struct t1_mem){(uint8_t)a, T1_NO_REG, 0, 0},
                              mem->size, mem->access & X86_ACC_W, false);
        } else {
            t1_probe(t, a, mem->size, mem->access & X86_ACC_W);
        }
        t1_store(e, T1_FIELD(s.fpu.fdp), a);
        t1_op_mem(e, &(struct t1_enc){.opcode = insn->opcode}, insn->modrm >> 3 & 7u,
                  m);
    } else {
        t1_u8(e, insn->opcode);
        t1_u8(e, insn->modrm);
    }
    t->x87 = (struct t1_x87){
        .pending = true,
        .fop = (uint16_t)((insn->opcode & 7) << 8 | insn->modrm),
        .off = (int32_t)(t->page_off + t->b->ops[t->index].start),
    };
    return true;
}
