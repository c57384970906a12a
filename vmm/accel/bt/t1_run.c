#include "vmm/accel/bt/t1_priv.h"

#include "lib/base/base.h"

/*
 * Runs of PUSH, or of POP and RET, as functions begin and end with. All of a run's
 * accesses are compared with the stack's page at once, by the page numbers of the first
 * and of the last byte, whose sum is twice the page's when both are in it:
 *
 *     lea   rcx, [r14 - 24]
 *     shrx  rcx, rcx, rsp
 *     lea   r11, [r14 - 1]
 *     shrx  r11, r11, rsp
 *     lea   rcx, [rcx + r11]
 *     mov   r11, [stack.write[1]]      minus twice the page's number
 *     lea   rcx, [rcx + r11 + 1]
 *     loop  careful
 *     mov   r11, [stack.write_addend]
 *     mov   [r14 + r11 - 8], rbp
 *     lea   r14, [r14 - 8]
 *     ...
 *   back:
 *
 * Otherwise the run is executed out of line, where every instruction looks for itself:
 * with the stack's page not at hand, over the end of a page, and what T0 has to do.
 *
 * Between a run's instructions may be others that only change registers, but for the
 * stack pointer. Nothing in a run makes the TLB forget.
 */

#define WORD 8

/* Changes or reads registers only, whatever is in them; not the stack pointer. */
static bool is_harmless(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_LEA: break;
    case X86_OP_MOV:
    case X86_OP_MOVZX:
    case X86_OP_MOVSXD:
    case X86_OP_XOR:
    case X86_OP_ADD:
    case X86_OP_SUB:
    case X86_OP_AND:
    case X86_OP_OR:
    case X86_OP_CMP:
    case X86_OP_TEST:
        for (unsigned n = 0; n < i->nb_opnds; n++) {
            if (i->opnd[n].kind != X86_OPND_REG && i->opnd[n].kind != X86_OPND_IMM) {
                return false;
            }
        }
        break;
    default: return false;
    }
    return i->opnd[0].kind == X86_OPND_REG && i->opnd[0].reg != X86_RSP;
}

static bool is_push(const struct x86_insn *i)
{
    return i->op == X86_OP_PUSH && i->opsize == WORD &&
           (i->opnd[0].kind == X86_OPND_REG || i->opnd[0].kind == X86_OPND_IMM);
}

static bool is_pop(const struct x86_insn *i)
{
    return i->op == X86_OP_POP && i->opsize == WORD &&
           i->opnd[0].kind == X86_OPND_REG && i->opnd[0].reg != X86_RSP;
}

static struct t1_mem stack_field(const struct t1_ctx *t, size_t off)
{
    size_t user = t1_is_user(t->b->mode);
    return t1_field(offsetof(struct t0_cpu, t1.stack) + user * sizeof(struct t1_stack) +
                    off);
}

/* rcx = page number of rsp + @disp */
static void put_page_number(struct t1_ctx *t, unsigned to, int32_t disp)
{
    unsigned sp = t->host[X86_RSP];
    if (disp) {
        t1_lea(&t->e, to, (struct t1_mem){(uint8_t)sp, T1_NO_REG, 0, disp});
        sp = to;
    }
    t1_shrx(&t->e, to, sp, T1_SP);
}

static void put_test(struct t1_ctx *t, struct t1_run *r, unsigned nb)
{
    struct t1_emit *e = &t->e;
    int32_t size = WORD * (int32_t)nb;
    put_page_number(t, T1_RCX, r->write ? -size : 0);
    put_page_number(t, T1_S2, r->write ? -1 : size - 1);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
    t1_load(e, T1_S2,
            stack_field(t, r->write ? offsetof(struct t1_stack, write[1])
                                    : offsetof(struct t1_stack, read[1])));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, (int32_t)t1_one(e)});
    t1_unless(e, &r->from);
}

void t1_run_begin(struct t1_ctx *t, const struct t1_decoded *d, unsigned first)
{
    const struct t0_block *b = t->b;
    bool write = is_push(&d->insn[first]);
    unsigned nb = 0, end = first;
    if (t->run || t->new_stack || t1_is_32(t) || t->nb_runs == ARRAY_LEN(t->runs)) {
        return;
    }
    for (unsigned i = first; i < b->nb_insns; i++) {
        const struct x86_insn *insn = &d->insn[i];
        bool ret = !write && nb && insn->op == X86_OP_RET && insn->opsize == WORD;
        if (ret || (write ? is_push(insn) : is_pop(insn))) {
            nb++;
            end = i + 1;
        } else if (!nb || !is_harmless(insn)) {
            break;
        }
        if (ret) {
            break;
        }
    }
    if (nb < 2) {
        return;
    }
    t1_let_go(t);
    t->run = &t->runs[t->nb_runs++];
    *t->run = (struct t1_run){
        .first = (uint8_t)first,
        .end = (uint8_t)end,
        .write = write,
        .vec_ready = t->vec_ready,
        .x87_ready = t->x87_ready,
        .x87 = t->x87,
    };
    put_test(t, t->run, nb);
}

struct t1_mem t1_run_access(struct t1_ctx *t, int32_t disp)
{
    if (t->run->addend_at != t1_pos(&t->e)) {
        t1_load(&t->e, T1_S2,
                stack_field(t, t->run->write ? offsetof(struct t1_stack, write_addend)
                                             : offsetof(struct t1_stack, read_addend)));
    }
    return (struct t1_mem){t->host[X86_RSP], T1_S2, 0, disp};
}

void t1_run_step(struct t1_ctx *t, const struct t1_decoded *d, unsigned i)
{
    struct t1_run *r = t->run;
    if (r && i + 1 == r->end) {
        r->back = t1_pos(&t->e);
        t->run = NULL;
    } else if (r && (is_push(&d->insn[i]) || is_pop(&d->insn[i]))) {
        r->addend_at = t1_pos(&t->e); /* r11 still has it */
    }
}

void t1_put_runs(struct t1_ctx *t, const struct t1_decoded *d)
{
    for (unsigned n = 0; n < t->nb_runs; n++) {
        const struct t1_run *r = &t->runs[n];
        t1_set_rel32(&t->e, r->from, t1_pos(&t->e));
        t->vec_ready = r->vec_ready;
        t->x87_ready = r->x87_ready;
        t->x87 = r->x87;
        for (unsigned i = r->first; i < r->end; i++) {
            t1_put_insn(t, d, i);
        }
        t1_jmp(&t->e, r->back);
    }
}
