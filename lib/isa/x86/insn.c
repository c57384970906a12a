#include "lib/isa/x86/insn.h"

#include "lib/base/base.h"
#include "lib/isa/x86/tables.h"

/* Questions about a decoded instruction that its row and its bytes answer together. */

#define OP_NAME(id, name) [X86_OP_##id] = name,
static const char *const op_names[X86_NB_OPS] = {[X86_OP_INVALID] = "(bad)",
                                                 X86_OPS(OP_NAME)};

#define FEAT_NAME(id, name, leaf, subleaf, reg, bit) [X86_FEAT_##id] = name,
static const char *const feat_names[X86_NB_FEATS] = {[X86_FEAT_NONE] = "",
                                                     X86_FEATS(FEAT_NAME)};

const char *x86_op_name(unsigned op)
{
    return op < X86_NB_OPS ? op_names[op] : "(bad)";
}

const char *x86_feat_name(unsigned feat)
{
    return feat < X86_NB_FEATS ? feat_names[feat] : "";
}

unsigned x86_desc_count(void)
{
    return x86_nb_rows;
}

const struct x86_desc *x86_desc_get(unsigned i)
{
    return &x86_rows[i];
}

uint32_t x86_cc_flags(unsigned cc)
{
    static const uint32_t flags[8] = {
        X86_FL_OF,
        X86_FL_CF,
        X86_FL_ZF,
        X86_FL_CF | X86_FL_ZF,
        X86_FL_SF,
        X86_FL_PF,
        X86_FL_SF | X86_FL_OF,
        X86_FL_ZF | X86_FL_SF | X86_FL_OF,
    };
    return flags[(cc >> 1) & 7];
}

static bool has_rep(const struct x86_insn *insn)
{
    return x86_insn_desc(insn)->cls == X86_CLASS_STRING &&
           insn->prefixes & (X86_P_REP | X86_P_REPNE);
}

uint32_t x86_insn_flags_read(const struct x86_insn *insn)
{
    const struct x86_desc *row = x86_insn_desc(insn);

    return row->nb_opcode == 16 ? x86_cc_flags(insn->cc) : row->flags_read;
}

void x86_insn_gprs(const struct x86_insn *insn, uint16_t *ret_read,
                   uint16_t *ret_written)
{
    const struct x86_desc *row = x86_insn_desc(insn);
    uint16_t read = row->gpr_read, written = row->gpr_written;

    for (unsigned n = 0; n < insn->nb_opnds; n++) {
        const struct x86_opnd *o = &insn->opnd[n];

        if (o->kind == X86_OPND_REG) {
            uint16_t bit = 1u << (o->reg & 15);

            if (o->reg >= X86_REG_HIGH) {
                bit = 1u << (o->reg - X86_REG_HIGH);
            }
            read |= o->access & X86_ACC_R ? bit : 0;
            written |= o->access & X86_ACC_W ? bit : 0;
        } else if (o->kind == X86_OPND_MEM) {
            read |= insn->base < X86_NB_GPR ? 1u << insn->base : 0;
            if (insn->index < X86_NB_GPR &&
                !(row->props & (X86_D_VSIB | X86_D_VSIB_HALF))) {
                read |= 1u << insn->index;
            }
        }
    }
    if (has_rep(insn)) {
        read |= 1u << X86_RCX;
        written |= 1u << X86_RCX;
    }
    *ret_read = read;
    *ret_written = written;
}
