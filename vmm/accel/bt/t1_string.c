#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * String operations on flat memory, in the code's own address size and upwards: the
 * host's own instruction, with what is to be added to RSI and RDI to make host
 * addresses of them added before and taken away after.
 *
 *     df or 4096 elements?                  slow
 *     rsi and rsi + bytes in one page?      else slow; r10 = its addend
 *     rdi and rdi + bytes in one page?      else slow; r11 = its addend
 *     lea   rsi, [rsi + r10]
 *     lea   rdi, [rdi + r11]
 *     mov   rcx, r15
 *     rep movsb
 *     not   r10
 *     lea   rsi, [rsi + r10 + 1]
 *     ...
 *     mov   r15, rcx
 *
 * Where an operand leaves its page T0 does all of the instruction, page after page:
 * what is left to it are large copies, in which that costs next to nothing.
 *
 * In 32-bit code the upper halves of RSI, RDI and RCX are cleared before, which the
 * instruction does too, and after: at 4 GiB they begin anew.
 */

struct string_op {
    uint8_t opcode; /* of bytes */
    bool src, dst;  /* which addresses there are */
    bool store;
    bool compares; /* a repetition may end early, and REPNE is not REP */
};

static bool string_op(unsigned op, struct string_op *s)
{
    switch (op) {
    case X86_OP_MOVS: *s = (struct string_op){0xa4, true, true, true, false}; break;
    case X86_OP_CMPS: *s = (struct string_op){0xa6, true, true, false, true}; break;
    case X86_OP_STOS: *s = (struct string_op){0xaa, false, true, true, false}; break;
    case X86_OP_LODS: *s = (struct string_op){0xac, true, false, false, false}; break;
    case X86_OP_SCAS: *s = (struct string_op){0xae, false, true, false, true}; break;
    default: return false;
    }
    return true;
}

/* From @reg on, as many bytes as the operation goes: their addend, in r11. @count is
 * the register with the number of elements, or T1_NO_REG for one. */
static void probe(struct t1_ctx *t, unsigned reg, unsigned count, bool write)
{
    unsigned size = t->insn->opsize;
    if (count == T1_NO_REG) {
        t1_probe(t, reg, size, write);
        return;
    }
    unsigned log = (unsigned)__builtin_ctz(size);
    struct t1_mem end = {(uint8_t)reg, (uint8_t)count, (uint8_t)log, 0};
    t1_lea(&t->e, T1_S1, end);
    t1_probe_to(t, reg, T1_S1, write);
}

/* reg -= addend, without flags; the addend is lost. */
static void take_away(struct t1_emit *e, unsigned reg, unsigned addend)
{
    t1_not(e, addend);
    t1_lea(e, reg, (struct t1_mem){(uint8_t)reg, (uint8_t)addend, 0, 1});
}

static void cut(struct t1_ctx *t, unsigned reg)
{
    if (t1_is_32(t)) {
        t1_mov_rr32(&t->e, reg, reg);
    }
}

/* Whether all registers are where the host's instruction has them. */
static bool at_home(const struct t1_ctx *t)
{
    return t->host[X86_RSI] == X86_RSI && t->host[X86_RDI] == X86_RDI &&
           t->host[X86_RAX] == X86_RAX && t->host[X86_RCX] != T1_MEMORY;
}

bool t1_string(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    struct t1_emit *e = &t->e;
    unsigned rep = insn->prefixes & (X86_P_REP | X86_P_REPNE);
    unsigned count = rep ? t->host[X86_RCX] : T1_NO_REG;
    struct string_op s;
    bool far_source = insn->seg >= X86_FS || (t1_is_32(t) && insn->seg == X86_CS);
    if (!string_op(insn->op, &s) || insn->addrsize != t1_word(t) || !at_home(t) ||
        (s.src && far_source) || (rep && !s.dst)) {
        return false;
    }
    t1_load(e, T1_RCX, T1_FIELD(s.rflags));
    t1_check_zero(t, T1_RCX, T1_FIELD(t1.df));
    if (s.src) {
        cut(t, X86_RSI);
    }
    if (s.dst) {
        cut(t, X86_RDI);
    }
    if (rep) {
        cut(t, count);
        /* So many that the sum below cannot wrap around. */
        t1_shrx(e, T1_RCX, count, T1_SP);
        t1_slow_unless_zero(t);
    }
    if (s.src) {
        probe(t, X86_RSI, count, false);
        t1_store(e, T1_FIELD(t1.entry), T1_S2);
    }
    if (s.dst) {
        probe(t, X86_RDI, count, s.store);
        t1_lea(e, X86_RDI, (struct t1_mem){X86_RDI, T1_S2, 0, 0});
    }
    if (s.src) {
        t1_load(e, T1_S1, T1_FIELD(t1.entry));
        t1_lea(e, X86_RSI, (struct t1_mem){X86_RSI, T1_S1, 0, 0});
    }
    if (rep) {
        t1_mov_rr(e, T1_RCX, count);
    }
    const struct t1_enc x = {
        .p66 = insn->opsize == 2 ? 0x66 : 0,
        .rep = !rep                                           ? 0
               : s.compares && (insn->prefixes & X86_P_REPNE) ? 0xf2
                                                              : 0xf3,
        .w = insn->opsize == 8,
        .opcode = (uint8_t)(s.opcode | (insn->opsize > 1)),
    };
    t1_opcode(e, &x, 0);
    if (s.dst) {
        take_away(e, X86_RDI, T1_S2);
        cut(t, X86_RDI);
    }
    if (s.src) {
        take_away(e, X86_RSI, T1_S1);
        cut(t, X86_RSI);
    }
    if (rep) {
        t1_mov_rr(e, count, T1_RCX);
    }
    return true;
}

bool t1_xlat(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    if (insn->addrsize != t1_word(t) || insn->seg >= X86_FS ||
        (t1_is_32(t) && insn->seg == X86_CS) || t->host[X86_RAX] != X86_RAX) {
        return false;
    }
    t1_op_reg(&t->e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_S1, X86_RAX);
    unsigned b = t1_in_reg(t, X86_RBX, T1_S2);
    t1_lea_word(t, T1_S1, (struct t1_mem){T1_S1, (uint8_t)b, 0, 0});
    t1_probe(t, T1_S1, 1, false);
    t1_op_mem(&t->e, &(struct t1_enc){.opcode = 0x8a}, X86_RAX, t1_at(T1_S1));
    return true;
}
