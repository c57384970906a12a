#include "vmm/accel/bt/t2_priv.h"

#include "lib/base/base.h"

/*
 * Host registers for the guest registers that a region uses.
 *
 * Guest registers that have a host register of their own in T1 keep it, as long as they
 * are used; what some instruction uses without naming it (RAX and RDX of MUL, RSP)
 * has to. The others get the host registers that are left, those used most first, and
 * the place of one that is used much less.
 *
 * A use counts as often as its block was executed.
 */

struct uses {
    uint64_t weight[X86_NB_GPR];
    uint32_t fixed; /* 1 << enum x86_gpr */
};

static void use(struct uses *u, unsigned reg, uint32_t count)
{
    if (reg >= X86_REG_HIGH && reg < X86_REG_HIGH + 4) {
        reg -= X86_REG_HIGH;
    }
    if (reg < X86_NB_GPR) {
        u->weight[reg] += count;
    }
}

static void note_insn(struct uses *u, const struct x86_insn *insn, uint32_t count)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    uint32_t fixed = d->gpr_read | d->gpr_written;
    if (d->props & X86_D_STACK) {
        fixed |= 1u << X86_RSP;
    }
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        switch (o->kind) {
        case X86_OPND_REG: use(u, o->reg, count); break;
        case X86_OPND_MEM:
            use(u, insn->base, count);
            use(u, insn->index, count);
            break;
        case X86_OPND_SRC: fixed |= 1u << X86_RSI | 1u << X86_RCX; break;
        case X86_OPND_DST: fixed |= 1u << X86_RDI | 1u << X86_RCX; break;
        default: break;
        }
    }
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        if (fixed >> r & 1) {
            u->weight[r] += count;
        }
    }
    u->fixed |= fixed;
}

static void find_uses(struct t0_cpu *c, const struct t2_region *r, struct uses *u)
{
    for (unsigned n = 0; n < r->nb; n++) {
        const struct t0_block *b = r->node[n].b;
        struct x86_insn insn;
        for (unsigned i = 0; i < b->nb_insns; i++) {
            if (t1_decode_op(c, b, i, &insn)) {
                note_insn(u, &insn, r->node[n].count);
            }
        }
    }
}

/* The guest register in memory that is used most, or X86_NB_GPR. */
static unsigned heaviest(const struct uses *u, const uint8_t host[X86_NB_GPR])
{
    unsigned best = X86_NB_GPR;
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        if (host[r] == T1_MEMORY && t1_home[r] == T1_MEMORY && u->weight[r] &&
            (best == X86_NB_GPR || u->weight[r] > u->weight[best])) {
            best = r;
        }
    }
    return best;
}

/* The guest register whose host register costs least, of those that may give it, or
 * X86_NB_GPR. */
static unsigned lightest(const struct uses *u, const uint8_t host[X86_NB_GPR])
{
    /* Emitters know these by their host registers. */
    const uint32_t own =
        1u << X86_RAX | 1u << X86_RCX | 1u << X86_RDX | 1u << X86_RBX | 1u << X86_RSP;
    unsigned best = X86_NB_GPR;
    for (unsigned r = 0; r < X86_NB_GPR; r++) {
        bool gives = !u->weight[r] || (!(u->fixed >> r & 1) && !(own >> r & 1));
        if (host[r] != T1_MEMORY && host[r] == t1_home[r] && gives &&
            (best == X86_NB_GPR || u->weight[r] < u->weight[best])) {
            best = r;
        }
    }
    return best;
}

void t2_regs(struct t0_cpu *c, const struct t2_region *r, uint8_t host[X86_NB_GPR])
{
    struct uses u = {.fixed = 0};
    find_uses(c, r, &u);
    memcpy(host, t1_home, X86_NB_GPR);
    for (;;) {
        unsigned want = heaviest(&u, host), from = lightest(&u, host);
        if (want == X86_NB_GPR || from == X86_NB_GPR ||
            u.weight[want] < 2 * u.weight[from]) {
            return;
        }
        host[want] = host[from];
        host[from] = T1_MEMORY;
    }
}
