#include "vmm/accel/bt/t2_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * Lockstep (-accel bt,tier=1,lockstep=on): a translation is checked against T0.
 *
 * Blocks are not linked, so each is entered from here. T0's handlers execute the block
 * first, and what they overwrite in memory is noted; then memory and registers are
 * put back, the translation runs, and both must have come to the same end: registers,
 * flags, vectors, RIP, count of instructions, and the bytes that were written. A
 * difference is printed, and ends the program.
 *
 * Executing twice must not be seen from outside. So a block is left unchecked this time
 * when an instruction in it has no translation, raises something, or touches what is
 * not RAM behind a TLB entry. To be quick about it, a block is checked the first
 * ALWAYS times and then once in SOMETIMES.
 *
 * Of a hot region (t2.h) T0 executes the blocks that it goes through: until it is left,
 * or comes to a block with a poll, which leaves it in lockstep.
 *
 * For one vCPU: others may change memory between the two executions.
 */

#define ALWAYS    64u
#define SOMETIMES 61u
#define MOST      64u /* bytes that an instruction writes */

struct written {
    uint8_t *host;
    unsigned size;
    uint8_t before[MOST], t0[MOST];
};

struct state {
    uint64_t gpr[X86_NB_GPR];
    uint64_t rip, insns, rflags;
    uint64_t gs_base, kernel_gs_base;
    struct t0_tlb_entry *tlb;
    uint16_t flags;
    uint8_t ymm[16][32];
};

struct lockstep {
    struct written log[T2_MAX_INSNS];
    unsigned nb;
    struct state start, t0, t1;
};

static void take(struct t0_cpu *c, struct state *s)
{
    memset(s, 0, sizeof(*s)); /* what is between the fields is compared too */
    memcpy(s->gpr, c->gpr, sizeof(s->gpr));
    memcpy(s->ymm, c->s.fpu.ymm, sizeof(s->ymm));
    s->rip = c->s.rip;
    s->insns = c->insns;
    s->rflags = c->s.rflags & ~(uint64_t)X86_FL_ARITH;
    s->flags = c->flags;
    s->gs_base = c->seg_base[X86_GS];
    s->kernel_gs_base = c->s.msr.kernel_gs_base;
    s->tlb = c->tlb;
}

static void put_back(struct t0_cpu *c, struct lockstep *l, uint64_t rip_base)
{
    const struct state *s = &l->start;
    while (l->nb) {
        const struct written *w = &l->log[--l->nb];
        memcpy(w->host, w->before, w->size);
    }
    memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    memcpy(c->s.fpu.ymm, s->ymm, sizeof(s->ymm));
    c->s.rip = s->rip;
    c->insns = s->insns;
    c->flags = s->flags;
    c->s.rflags = s->rflags;
    t0_update_bank(c);
    c->seg_base[X86_GS] = c->s.seg[X86_GS].base = s->gs_base;
    c->s.msr.kernel_gs_base = s->kernel_gs_base;
    c->rip_base = rip_base;
    c->core->exc_pending = false;
    c->core->chain_wanted = NULL;
}

/* [la, la + size) is going to be overwritten. */
static bool note_write(struct t0_cpu *c, struct lockstep *l, uint64_t la, unsigned size)
{
    struct written *w = &l->log[l->nb];
    w->host = t0_host_write(c, la, size);
    if (!w->host || size > sizeof(w->before)) {
        return false;
    }
    w->size = size;
    memcpy(w->before, w->host, size);
    l->nb++;
    return true;
}

static bool is_string(unsigned op)
{
    return op == X86_OP_MOVS || op == X86_OP_STOS || op == X86_OP_LODS ||
           op == X86_OP_SCAS || op == X86_OP_CMPS;
}

/* As note(). Not much is noted. */
static bool note_string(struct t0_cpu *c, struct lockstep *l,
                        const struct x86_insn *insn)
{
    bool rep = insn->prefixes & (X86_P_REP | X86_P_REPNE);
    bool src = insn->op != X86_OP_STOS && insn->op != X86_OP_SCAS;
    bool dst = insn->op != X86_OP_LODS;
    bool write = insn->op == X86_OP_STOS || insn->op == X86_OP_MOVS;
    uint64_t n = rep ? c->gpr[X86_RCX] : 1;
    if (n > MOST / insn->opsize || (c->s.rflags & X86_FL_DF) ||
        insn->addrsize != (t0_is64(c) ? 8 : 4) || insn->seg >= X86_FS) {
        return false;
    }
    unsigned size = (unsigned)n * insn->opsize;
    if (!n) {
        return true;
    }
    return (!src || t0_host_read(c, c->gpr[X86_RSI], size)) &&
           (!dst || t0_host_read(c, c->gpr[X86_RDI], size)) &&
           (!write || note_write(c, l, c->gpr[X86_RDI], size));
}

/* Note what the instruction is going to overwrite. False: cannot be done twice. */
static bool note(struct t0_cpu *c, struct lockstep *l, const struct x86_insn *insn,
                 const struct t0_op *op)
{
    const struct x86_opnd *m = x86_insn_mem(insn);
    bool write = m && (m->access & X86_ACC_W);
    unsigned size = m && m->access ? m->size : 0;
    uint64_t la = 0;
    if (write && insn->op >= X86_OP_BT && insn->op <= X86_OP_BTC) {
        return false; /* the bit may be far from the operand */
    }
    if (is_string(insn->op)) {
        return note_string(c, l, insn);
    }
    if (size) {
        struct t0_val a = t0_ea(c, op, size, write);
        if (a.fault) {
            return false;
        }
        la = a.v;
        if (!t0_host_read(c, la, size)) {
            return false;
        }
    }
    if (insn->op == X86_OP_PUSH || insn->op == X86_OP_PUSHF ||
        insn->op == X86_OP_CALL) {
        la = c->gpr[X86_RSP] - insn->opsize;
        size = insn->opsize;
        write = true;
    } else if (insn->op == X86_OP_POP || insn->op == X86_OP_RET ||
               insn->op == X86_OP_LEAVE) {
        la = c->gpr[insn->op == X86_OP_LEAVE ? X86_RBP : X86_RSP];
        size = insn->opsize;
    }
    if (!t0_is64(c)) {
        la = (uint32_t)la;
    }
    if (!size) {
        return true;
    }
    if (!write) {
        return t0_host_read(c, la, size) != NULL;
    }
    return note_write(c, l, la, size);
}

/* By T0's handlers, from start to end. False: something is in the way. */
static bool run_t0(struct t0_cpu *c, struct t0_block *b, struct lockstep *l)
{
    struct t0_block *single = (struct t0_block *)c->core->t1->single;
    struct x86_insn insn;
    bool fine = true;
    c->stay_out = true;
    for (unsigned i = 0; i < b->nb_insns && fine; i++) {
        const struct t0_op *op = &b->ops[i];
        bool branch = i + 1u == b->nb_insns && !(b->flags & T0_BLOCK_HAS_END);
        t0_fn fn = i == 0 ? b->first_fn : op->fn;
        fine = t1_decode_op(c, b, i, &insn) && note(c, l, &insn, op);
        if (!fine) {
            break;
        }
        if (branch) {
            c->block = b;
            fn(c, op);
            fine = !c->core->exc_pending;
        } else {
            single->ops[0] = *op;
            single->ops[1].fn = t1_op_stop;
            c->block = single;
            fine = fn(c, &single->ops[0]) != NULL;
        }
    }
    c->stay_out = false;
    if (fine && (b->flags & T0_BLOCK_HAS_END)) {
        c->s.rip = c->rip_base + b->len;
        c->insns += b->nb_insns;
    }
    return fine;
}

static void differ(struct t0_cpu *c, const struct lockstep *l, const struct t0_block *b,
                   uint64_t rip)
{
    fprintf(stderr, "lockstep: block at %016" PRIx64 ", %u instructions\n", rip,
            b->nb_insns);
    for (unsigned i = 0; i < b->nb_insns; i++) {
        struct x86_insn insn;
        char text[96] = "?";
        if (t1_decode_op(c, b, i, &insn)) {
            x86_format(&insn, rip + b->ops[i].start, text, sizeof(text));
        }
        fprintf(stderr, "    %s\n", text);
    }
    for (unsigned i = 0; i < X86_NB_GPR; i++) {
        if (l->t0.gpr[i] != l->t1.gpr[i]) {
            fprintf(stderr, "  %s: %" PRIx64 " -> %" PRIx64 ", not %" PRIx64 "\n",
                    x86_gpr_name(i, 8), l->start.gpr[i], l->t0.gpr[i], l->t1.gpr[i]);
        }
    }
    fprintf(stderr,
            "  flags %x -> %x, not %x; rip %" PRIx64 ", not %" PRIx64 "; insns %" PRIu64
            ", not %" PRIu64 "\n",
            l->start.flags, l->t0.flags, l->t1.flags, l->t0.rip, l->t1.rip,
            l->t0.insns - l->start.insns, l->t1.insns - l->start.insns);
    for (unsigned i = 0; i < 16; i++) {
        if (memcmp(l->t0.ymm[i], l->t1.ymm[i], 32) != 0) {
            fprintf(stderr, "  ymm%u\n", i);
        }
    }
}

/* What T0 does is what the translation of @b does. False: something is in the way. */
static bool run_t0_as_translated(struct t0_cpu *c, struct t0_block *b,
                                 struct lockstep *l, uint64_t rip)
{
    const struct t1_core *t1 = c->core->t1;
    unsigned node;
    const struct t2_region *r = t2_region_at(c, b, &node);
    uint64_t base =
        r ? (rip & ~UINT64_C(0xfff)) - (uint64_t)(int64_t)r->node[node].page : 0;
    if (!run_t0(c, b, l)) {
        return false;
    }
    while (r && (b = t2_region_next(c, r, &node, base))) {
        c->rip_base = c->s.rip;
        if (!t1->trans[b->t1].native || !run_t0(c, b, l)) {
            return false;
        }
    }
    return !r || t2_region_ready(c, r, base);
}

const struct t0_op *t1_lockstep(struct t0_cpu *c, struct t0_block *b)
{
    struct lockstep l;
    l.nb = 0;
    uint64_t rip = c->rip_base;
    b->heat++;
    if (!c->core->t1->trans[b->t1].native ||
        (b->heat > c->core->tvm->heat + ALWAYS && b->heat % SOMETIMES)) {
        return t1_enter(c, b);
    }
    c->s.rip = rip;
    take(c, &l.start);
    if (!run_t0_as_translated(c, b, &l, rip)) {
        put_back(c, &l, rip);
        return t1_enter(c, b);
    }
    take(c, &l.t0);
    unsigned nb = l.nb;
    for (unsigned i = 0; i < nb; i++) {
        memcpy(l.log[i].t0, l.log[i].host, l.log[i].size);
    }
    put_back(c, &l, rip);
    c->core->t1->left_early = false;
    t1_enter(c, b);
    if (c->core->t1->left_early || vcpu_wants_attention(c->vcpu)) {
        return NULL; /* it may have come meanwhile, and the translation left for it */
    }
    take(c, &l.t1);
    c->core->t1->checked++;
    bool same = memcmp(&l.t0, &l.t1, sizeof(l.t0)) == 0;
    for (unsigned i = 0; i < nb; i++) {
        same &= memcmp(l.log[i].t0, l.log[i].host, l.log[i].size) == 0;
    }
    if (!same) {
        differ(c, &l, b, rip);
        t0_dump_code(c, stderr);
        abort();
    }
    return NULL;
}
