#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/opspec.h"

/*
 * An instruction with random registers faults more often than it works: DIV divides
 * by too little, RET goes nowhere, MOVS copies from nowhere. Here is what each wants
 * before it: mostly it gets it, sometimes not.
 */

#define USER_DATA 0x2b

static uint16_t user_code(const struct fz_gen *g)
{
    return g->k->bits == 64 ? 0x33 : 0x23;
}

static unsigned word_size(const struct fz_gen *g)
{
    return g->k->bits / 8;
}

struct fz_insn *fz_emit(struct fz_gen *g, const uint8_t *bytes, unsigned n)
{
    struct fz_case *k = g->k;
    if (k->nb_insns >= FZ_MAX_INSNS) {
        return NULL;
    }
    struct fz_insn *in = &k->insn[k->nb_insns];
    memset(in, 0, sizeof(*in));
    memcpy(in->bytes, bytes, n);
    if (x86_decode(&in->insn, in->bytes, n, k->bits) != (int)n) {
        return NULL;
    }
    in->form = FZ_NO_FORM;
    in->item = (uint8_t)g->item;
    k->nb_insns++;
    return in;
}

void fz_ensure(struct fz_gen *g, unsigned reg, uint64_t v)
{
    uint8_t b[10];
    unsigned n;
    v = g->k->bits == 64 ? v : (uint32_t)v;
    if ((g->known >> reg & 1 && g->val[reg] == v) || (int)reg == g->loop_reg ||
        reg >= g->nb_regs || (reg == X86_RSP && g->no_stack)) {
        return;
    }
    if (v == (uint32_t)v) {
        n = reg >= 8;
        b[0] = 0x41;
        b[n++] = (uint8_t)(0xb8 + (reg & 7));
        le32_put(b + n, (uint32_t)v);
        n += 4;
    } else {
        b[0] = (uint8_t)(0x48 | reg >> 3);
        b[1] = (uint8_t)(0xb8 + (reg & 7));
        le64_put(b + 2, v);
        n = 10;
    }
    if (fz_emit(g, b, n)) {
        g->val[reg] = v;
        g->known |= (uint16_t)(1u << reg);
    }
}

static void emit_push(struct fz_gen *g, uint32_t v)
{
    uint8_t b[5] = {0x68};
    le32_put(b + 1, v);
    if (fz_emit(g, b, 5)) {
        g->val[X86_RSP] -= word_size(g);
    }
}

/* Push the address of a later item. */
static void emit_push_target(struct fz_gen *g, unsigned item)
{
    uint8_t b[5] = {0x68, 0, 0, 0, 0x20};
    struct fz_insn *in = fz_emit(g, b, 5);
    if (in) {
        in->fix = FZ_FIX_ADDR;
        in->fix_at = 1;
        in->fix_size = 4;
        in->target = (uint8_t)item;
        g->val[X86_RSP] -= word_size(g);
    }
}

/* --- Places ---------------------------------------------------------------- */

uint64_t fz_target(struct fz_gen *g, unsigned size, bool align, bool write)
{
    struct fz_rng *r = &g->r;
    unsigned how = fz_below(r, 1000);
    uint64_t t;
    if (how < 880) {
        t = FZ_DATA + fz_below(r, FZ_DATA_RW - 64);
        if (align || how < 500) {
            unsigned a = size >= 64 ? 64 : size & -size;
            t &= ~(uint64_t)((a ? a : 1) - 1);
        }
        return t;
    }
    unsigned back = fz_below(r, size + 2);
    if (how < 940) {
        t = FZ_DATA + FZ_PAGE - back;
    } else if (how < 962) {
        t = FZ_DATA + 2 * FZ_PAGE - back; /* into read-only */
    } else if (how < 975) {
        t = FZ_DATA + 2 * FZ_PAGE + fz_below(r, FZ_PAGE - 64);
    } else if (how < 985) {
        t = FZ_DATA + 3 * FZ_PAGE - back;
    } else if (how < 989) {
        t = FZ_DATA - back;
    } else if (how < 994) {
        t = FZ_STACK + fz_below(r, FZ_PAGE);
    } else if (how < 998) {
        t = FZ_CODE + fz_below(r, write ? 512 : 2 * FZ_PAGE);
    } else {
        t = FZ_STACK + FZ_PAGE - back;
    }
    return align && fz_chance(r, 80) ? t & ~(uint64_t)(size - 1) : t;
}

const uint8_t *fz_contents(const struct fz_gen *g, uint64_t la, unsigned size)
{
    uint64_t off = la - FZ_DATA;
    return off < sizeof(g->base->data) - size ? g->base->data + off : NULL;
}

struct fz_patch *fz_add_patch(struct fz_gen *g, uint64_t la, const void *p,
                              unsigned len)
{
    struct fz_case *k = g->k;
    uint64_t off = la - FZ_DATA;
    if (k->nb_patches >= FZ_MAX_PATCHES || off > sizeof(g->base->data) - len) {
        return NULL;
    }
    struct fz_patch *patch = &k->patch[k->nb_patches++];
    *patch = (struct fz_patch){.la = la, .len = (uint16_t)len};
    if (len <= sizeof(patch->bytes)) {
        memcpy(patch->bytes, p, len);
    } else {
        patch->big = p;
    }
    return patch;
}

/* An item after this one: what a branch goes to. */
static unsigned choose_item(struct fz_gen *g)
{
    unsigned ahead = 1 + fz_below(&g->r, 3);
    return MIN(g->item + ahead, g->k->nb_items);
}

void fz_note_branch(struct fz_gen *g, unsigned to)
{
    if (g->nb_joins < ARRAY_LEN(g->join)) {
        g->join[g->nb_joins].to = (uint8_t)to;
        g->join[g->nb_joins].known = g->known;
        memcpy(g->join[g->nb_joins].val, g->val, sizeof(g->val));
        g->nb_joins++;
    }
}

/* --- Before the encoding: implicit registers ------------------------------- */

static uint64_t base_of(const struct fz_gen *g, unsigned seg)
{
    return seg == X86_FS ? g->fs : seg == X86_GS ? g->gs : 0; /* the others are flat */
}

static void before_string(struct fz_gen *g, const struct x86_desc *row,
                          struct fz_wish *w)
{
    struct fz_rng *r = &g->r;
    bool src = row->gpr_read & 1u << X86_RSI, dst = row->gpr_read & 1u << X86_RDI;
    unsigned how = w->aspect == FZ_A_REP     ? 0
                   : w->aspect == FZ_A_REPNE ? 50
                                             : fz_below(r, 100);
    w->rep = how < 40;
    w->repne = how >= 40 && how < 60;
    w->adsize = w->aspect == FZ_A_AD || fz_chance(r, 8);
    if (w->aspect & (FZ_A_FS | FZ_A_GS)) {
        w->seg = w->aspect == FZ_A_FS ? X86_FS : X86_GS;
    } else if (src && fz_chance(r, 15)) {
        w->seg = g->gs_known && fz_chance(r, 50) ? X86_GS : g->fs_known ? X86_FS : 0;
    }
    if (fz_chance(r, 97)) {
        unsigned len = fz_chance(r, 70) ? 1u << fz_below(r, 4) : fz_below(r, 64);
        bool in_16 = w->adsize && g->k->bits == 32;
        uint64_t high = !w->adsize || fz_chance(r, 50) ? 0
                        : in_16                        ? fz_rnd(r) << 16
                                                       : fz_rnd(r) << 32;
        if (src) {
            uint64_t v = fz_target(g, len, false, false) - base_of(g, w->seg);
            fz_ensure(g, X86_RSI,
                      in_16       ? (uint16_t)v | high
                      : w->adsize ? (uint32_t)v | high
                                  : v);
        }
        if (dst) {
            uint64_t v = fz_target(g, len, false, true);
            v = src && fz_chance(r, 20) ? g->val[X86_RSI] + fz_below(r, 32) : v;
            fz_ensure(g, X86_RDI, v | high);
        }
    }
    if (w->rep || w->repne) {
        uint64_t n = fz_chance(r, 90) ? fz_below(r, 20) : fz_below(r, 300);
        unsigned high = g->k->bits == 32 ? 16 : 32;
        fz_ensure(g, X86_RCX,
                  w->adsize && fz_chance(r, 50) ? n | fz_rnd(r) << high : n);
    }
}

static void before_divide(struct fz_gen *g, const struct x86_desc *row)
{
    struct fz_rng *r = &g->r;
    if (row->opcode == 0xf6) {
        if (fz_chance(r, 60)) {
            fz_ensure(g, X86_RAX, fz_value(r) & (fz_chance(r, 60) ? 0xff : 0xffff));
        }
        return;
    }
    if (row->op == X86_OP_IDIV && fz_chance(r, 10)) { /* by -1: see after() */
        fz_ensure(g, X86_RDX, UINT64_MAX);
        fz_ensure(g, X86_RAX, UINT64_MAX << (fz_chance(r, 50) ? 63 : 31));
        return;
    }
    if (fz_chance(r, 75)) {
        uint64_t high = fz_chance(r, 60)   ? 0
                        : fz_chance(r, 50) ? UINT64_MAX
                                           : fz_below(r, 9);
        fz_ensure(g, X86_RDX, high);
        if (high && fz_chance(r, 60)) {
            fz_ensure(g, X86_RAX, UINT64_MAX << fz_below(r, 60));
        }
    }
}

static void before_stack(struct fz_gen *g, const struct x86_desc *row)
{
    struct fz_rng *r = &g->r;
    uint64_t sp = g->val[X86_RSP];
    bool fine = g->known >> X86_RSP & 1 && sp > FZ_STACK + 256 && sp < FZ_STACK + 3800;
    if (!fine && fz_chance(r, 90)) {
        uint64_t v = FZ_STACK + 1024 + fz_below(r, 2048);
        fz_ensure(g, X86_RSP, fz_chance(r, 90) ? v & ~UINT64_C(7) : v);
    }
    if (fz_chance(r, 2)) { /* a push or pop over the edge */
        fz_ensure(g, X86_RSP,
                  FZ_STACK + (fz_chance(r, 50) ? 0 : FZ_PAGE) - 8 + fz_below(r, 24));
    }
    if ((row->op == X86_OP_ENTER || row->op == X86_OP_LEAVE) && fz_chance(r, 85)) {
        fz_ensure(g, X86_RBP, (FZ_STACK + 1024 + fz_below(r, 2048)) & ~UINT64_C(7));
    }
}

static uint32_t some_flags(struct fz_rng *r)
{
    uint32_t v = (uint32_t)fz_rnd(r);
    v &= fz_chance(r, 12)   ? X86_FL_ARITH | X86_FL_AC
         : fz_chance(r, 8)  ? X86_FL_ARITH | X86_FL_TF
         : fz_chance(r, 10) ? ~(uint32_t)(X86_FL_TF | X86_FL_AC)
                            : X86_FL_ARITH | X86_FL_DF | X86_FL_ID;
    return v;
}

/* What RET, RETF, IRET and POPF find on the stack. */
static void before_pop(struct fz_gen *g, const struct x86_desc *row, struct fz_wish *w)
{
    struct fz_rng *r = &g->r;
    unsigned to = choose_item(g);
    if (row->op == X86_OP_POPF) {
        emit_push(g, some_flags(r));
        return;
    }
    if (row->cls != X86_CLASS_BRANCH || fz_chance(r, 5)) {
        return;
    }
    if (row->op == X86_OP_RET) {
        w->plain = true;
        emit_push_target(g, to);
        fz_note_branch(g, to);
    } else if (row->op == X86_OP_RETF || row->op == X86_OP_IRET) {
        w->plain = true;
        if (row->op == X86_OP_IRET && g->k->bits == 64) {
            uint64_t sp = g->val[X86_RSP];
            emit_push(g, fz_chance(r, 95) ? USER_DATA : fz_below(r, 64));
            emit_push(g, (uint32_t)(fz_chance(r, 90) ? sp : fz_value(r)));
        }
        if (row->op == X86_OP_IRET) {
            uint32_t step = fz_chance(r, 15) ? X86_FL_TF : 0;
            emit_push(g, some_flags(r) | step | X86_FL_IF | X86_FL_R1);
        }
        emit_push(g, fz_chance(r, 93) ? user_code(g) : fz_below(r, 0x78));
        emit_push_target(g, to);
        fz_note_branch(g, to);
    }
}

static void before_area(struct fz_gen *g, const struct x86_desc *row, struct fz_wish *w)
{
    struct fz_rng *r = &g->r;
    struct fz_case *k = g->k;
    bool restores = row->op == X86_OP_FXRSTOR || row->op == X86_OP_XRSTOR;
    fz_ensure(g, X86_RAX, fz_below(r, 8));
    fz_ensure(g, X86_RDX, 0);
    if (restores && k->nb_big < ARRAY_LEN(k->big) && fz_chance(r, 90)) {
        bool fx = row->op == X86_OP_FXRSTOR;
        uint8_t *p = k->big[k->nb_big];
        w->flat_target = true;
        w->target = FZ_DATA + 64 * fz_below(r, (sizeof(g->base->data) - 1024) / 64);
        fz_fill_area(r, p, fx);
        if (fz_add_patch(g, w->target, p, fx ? 512 : FZ_XSAVE_SIZE)) {
            k->nb_big++;
        }
    }
}

static void before(struct fz_gen *g, const struct fz_form *form, struct fz_wish *w)
{
    const struct x86_desc *row = x86_desc_get(form->row);
    struct fz_rng *r = &g->r;

    if (row->cls == X86_CLASS_STRING) {
        before_string(g, row, w);
        return;
    }
    if (row->props & X86_D_STACK) {
        before_stack(g, row);
        before_pop(g, row, w);
    }
    switch (row->op) {
    case X86_OP_DIV:
    case X86_OP_IDIV: before_divide(g, row); break;
    case X86_OP_IRET: break;
    case X86_OP_XLAT:
        fz_ensure(g, X86_RBX, FZ_DATA + fz_below(r, FZ_DATA_RW - 256));
        break;
    case X86_OP_MASKMOVQ:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
        fz_ensure(g, X86_RDI, fz_target(g, 16, false, true));
        break;
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
    case X86_OP_JCXZ:
        if (fz_chance(r, 60)) {
            fz_ensure(g, X86_RCX, fz_below(r, 3));
        }
        break;
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC: before_area(g, row, w); break;
    case X86_OP_CLZERO: fz_ensure(g, X86_RAX, fz_target(g, 64, false, true)); break;
    case X86_OP_XGETBV: fz_ensure(g, X86_RCX, fz_below(r, 2)); break;
    case X86_OP_PCMPESTRI:
    case X86_OP_PCMPESTRM:
    case X86_OP_VPCMPESTRI:
    case X86_OP_VPCMPESTRM:
        if (fz_chance(r, 80)) {
            fz_ensure(g, X86_RAX, fz_below(r, 40) - UINT64_C(20));
            fz_ensure(g, X86_RDX, fz_below(r, 40) - UINT64_C(20));
        }
        break;
    default: break;
    }
}

/* --- After the encoding: operands ------------------------------------------ */

static uint16_t some_selector(struct fz_gen *g)
{
    static const uint16_t good[] = {0,    1,    2,         3,         USER_DATA, 0x28,
                                    0x33, 0x23, FZ_FS_SEL, FZ_GS_SEL, USER_DATA};
    struct fz_rng *r = &g->r;
    if (g->k->bits == 32 && fz_chance(r, 50)) {
        return USER_DATA; /* that which the following wants */
    }
    /* Beyond the end of the GDT, too; but 78h is Linux's own. */
    return fz_chance(r, 75)   ? good[fz_below(r, ARRAY_LEN(good))]
           : fz_chance(r, 70) ? (uint16_t)fz_below(r, 0x78)
                              : (uint16_t)(0x80 + fz_below(r, 0xff00));
}

/* The registers of the memory operand, which must not change any more. */
static uint16_t address_registers(const struct x86_insn *i)
{
    uint16_t m = i->base < 16 ? (uint16_t)(1u << i->base) : 0;
    return m | (i->index < 16 ? (uint16_t)(1u << i->index) : 0);
}

/* Give operand @n, register or memory, the value @v. */
static void give(struct fz_gen *g, const struct fz_insn *in, unsigned n,
                 uint64_t target, uint64_t v, unsigned size)
{
    const struct x86_opnd *o = &in->insn.opnd[n];
    if (o->kind == X86_OPND_REG && o->reg < 16 &&
        !(address_registers(&in->insn) >> o->reg & 1)) {
        fz_ensure(g, o->reg, v);
    } else if (o->kind == X86_OPND_MEM) {
        fz_add_patch(g, target, &v, size);
    }
}

static void give_selector(struct fz_gen *g, const struct fz_insn *in, uint64_t target)
{
    struct fz_rng *r = &g->r;
    const struct x86_desc *row = x86_insn_desc(&in->insn);
    unsigned n = row->op == X86_OP_VERR || row->op == X86_OP_VERW ? 0 : 1;
    uint64_t high = fz_chance(r, 30) ? fz_rnd(r) << 16 : 0;
    give(g, in, n, target, some_selector(g) | high, 2);
}

/* Far pointer for LSS, LFS, LGS. */
static void give_pointer(struct fz_gen *g, const struct fz_insn *in, uint64_t target)
{
    uint8_t p[10];
    unsigned size = in->insn.opsize == 2 ? 2 : 4; /* REX.W changes nothing on AMD */
    le64_put(p, fz_value(&g->r));
    le16_put(p + size, some_selector(g));
    fz_add_patch(g, target, p, size + 2);
}

static bool is_push_or_pop_seg(const struct x86_insn *i)
{
    return i->nb_opnds && i->opnd[0].kind == X86_OPND_SEG &&
           i->opnd[0].access & X86_ACC_W;
}

static void give_accumulator(struct fz_gen *g, const struct fz_insn *in,
                             uint64_t target)
{
    const struct x86_insn *i = &in->insn;
    unsigned size = x86_insn_mem(i) ? x86_insn_mem(i)->size : 0;
    uint16_t busy = address_registers(i);
    const uint8_t *p = size ? fz_contents(g, target, size) : NULL;
    if (!p || fz_chance(&g->r, 50)) {
        return;
    }
    if (i->op == X86_OP_CMPXCHG && !(busy & 1u << X86_RAX)) {
        fz_ensure(g, X86_RAX, le_get(p, size));
    } else if (i->op != X86_OP_CMPXCHG && !(busy & (1u << X86_RAX | 1u << X86_RDX))) {
        fz_ensure(g, X86_RAX, le_get(p, size / 2));
        fz_ensure(g, X86_RDX, le_get(p + size / 2, size / 2));
    }
}

/* Let branch @in go to a later item. */
static void give_target(struct fz_gen *g, struct fz_insn *in, uint64_t target)
{
    const struct x86_insn *i = &in->insn;
    const struct x86_opnd *o = &i->opnd[0];
    unsigned to = choose_item(g);

    if (i->nb_opnds && o->kind == X86_OPND_REL) {
        in->fix = FZ_FIX_BRANCH;
        in->fix_size = i->imm_size;
        in->fix_at = (uint8_t)(i->len - i->imm_size);
        in->target = (uint8_t)to;
        fz_note_branch(g, to);
    } else if (i->op == X86_OP_JMP || i->op == X86_OP_CALL) {
        if (o->kind == X86_OPND_REG && fz_chance(&g->r, 96)) {
            uint8_t b[6] = {0x41, (uint8_t)(0xb8 + (o->reg & 7)), 0, 0, 0, 0x20};
            unsigned skip = o->reg < 8;
            struct fz_insn *mov = fz_emit(g, b + skip, 6 - skip);
            if (mov) {
                mov->fix = FZ_FIX_ADDR;
                mov->fix_at = (uint8_t)(2 - skip);
                mov->fix_size = 4;
                mov->target = (uint8_t)to;
                g->known &= (uint16_t) ~(1u << o->reg);
                fz_note_branch(g, to);
            }
        } else if (o->kind == X86_OPND_MEM) {
            struct fz_patch *p =
                fz_add_patch(g, target, "\0\0\0\0\0\0\0", word_size(g));
            if (p) {
                p->has_target = (uint8_t)word_size(g);
                p->target = (uint8_t)to;
                fz_note_branch(g, to);
            }
        }
    } else if (i->op == X86_OP_JMPF || i->op == X86_OP_CALLF) {
        uint16_t cs = fz_chance(&g->r, 93) ? user_code(g) : some_selector(g);
        uint8_t b[10] = {0};
        cs = cs == (0x23 ^ 0x33 ^ user_code(g)) ? 0 : cs; /* code of the other kind */
        if (o->kind == X86_OPND_FAR) {
            if (i->opsize == 4) {
                in->fix = FZ_FIX_ADDR;
                in->fix_size = 4;
                in->fix_at = (uint8_t)(i->len - 6);
                in->target = (uint8_t)to;
            }
            le16_put(in->bytes + i->len - 2, cs);
            fz_note_branch(g, to);
            return;
        }
        le16_put(b + 4, cs);
        struct fz_patch *p = i->opsize == 2 ? NULL : fz_add_patch(g, target, b, 6);
        if (p) {
            p->has_target = 4;
            p->target = (uint8_t)to;
            fz_note_branch(g, to);
        }
    }
}

static void after_bits(struct fz_gen *g, const struct fz_insn *in)
{
    const struct x86_opnd *o = &in->insn.opnd[1];
    bool mem = in->insn.opnd[0].kind == X86_OPND_MEM;
    if (mem && o->kind == X86_OPND_REG && o->reg < 16 && fz_chance(&g->r, 92) &&
        !(address_registers(&in->insn) >> o->reg & 1)) {
        int64_t v = (int64_t)fz_below(&g->r, 4000) - 2000;
        unsigned bits = in->insn.opsize * 8;
        uint64_t junk = bits < 64 && fz_chance(&g->r, 30) ? fz_rnd(&g->r) << bits : 0;
        uint64_t low =
            bits < 64 ? (uint64_t)v & ((UINT64_C(1) << bits) - 1) : (uint64_t)v;
        fz_ensure(g, o->reg, low | junk);
    }
}

static void after(struct fz_gen *g, struct fz_insn *in, uint64_t target)
{
    struct x86_insn *i = &in->insn;
    const struct x86_desc *row = x86_insn_desc(i);
    struct fz_rng *r = &g->r;

    if (row->cls == X86_CLASS_BRANCH) {
        give_target(g, in, target);
    }
    switch (row->op) {
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC: after_bits(g, in); break;
    case X86_OP_DIV:
    case X86_OP_IDIV:
        if (fz_chance(r, 15) && i->opnd[0].reg != X86_RAX &&
            i->opnd[0].reg != X86_RDX) {
            give(g, in, 0, target, fz_chance(r, 70) ? UINT64_MAX : fz_below(r, 2),
                 i->opnd[0].size);
        }
        break;
    case X86_OP_CMPXCHG:
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B: give_accumulator(g, in, target); break;
    case X86_OP_LAR:
    case X86_OP_LSL:
    case X86_OP_VERR:
    case X86_OP_VERW: give_selector(g, in, target); break;
    case X86_OP_LSS:
    case X86_OP_LFS:
    case X86_OP_LGS: give_pointer(g, in, target); break;
    case X86_OP_MOV:
        if (is_push_or_pop_seg(i)) {
            give_selector(g, in, target);
        }
        break;
    case X86_OP_POP:
        if (is_push_or_pop_seg(i)) {
            emit_push(g, some_selector(g));
        }
        break;
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE: give(g, in, 0, 0, FZ_DATA + fz_below(r, 4096), 8); break;
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR: give(g, in, 0, target, fz_mxcsr(r), 4); break;
    case X86_OP_FLDCW: give(g, in, 0, target, fz_control_word(r), 2); break;
    case X86_OP_INT:
        in->bytes[i->len - 1] =
            (uint8_t)(fz_chance(r, 40) ? 3 + fz_below(r, 2) : fz_rnd(r));
        if (in->bytes[i->len - 1] == 0x80) {
            in->bytes[i->len - 1] = 0x81;
        }
        break;
    case X86_OP_ENTER:
        le16_put(in->bytes + i->len - 3, (uint16_t)fz_below(r, 256));
        if (fz_chance(r, 70)) {
            in->bytes[i->len - 1] = (uint8_t)fz_below(r, 4);
        }
        break;
    case X86_OP_RET:
    case X86_OP_RETF:
        if (i->imm_size == 2) {
            le16_put(in->bytes + i->len - 2, (uint16_t)(8 * fz_below(r, 16)));
        }
        break;
    default: break;
    }
    x86_decode(i, in->bytes, i->len, g->k->bits);
}

/* --- What is known afterwards ---------------------------------------------- */

static void update_known(struct fz_gen *g, const struct x86_insn *i)
{
    const struct x86_desc *row = x86_insn_desc(i);
    uint16_t read, written;
    x86_insn_gprs(i, &read, &written);
    if (row->props & X86_D_STACK && row->op != X86_OP_LEAVE &&
        row->op != X86_OP_ENTER &&
        !(i->nb_opnds && i->opnd[0].kind == X86_OPND_REG &&
          i->opnd[0].reg == X86_RSP)) {
        written &= (uint16_t) ~(1u << X86_RSP); /* moves a little */
        g->val[X86_RSP] +=
            row->op == X86_OP_PUSH || row->op == X86_OP_PUSHF || row->op == X86_OP_CALL
                ? -(uint64_t)i->opsize
            : row->op == X86_OP_CALLF ? -2 * (uint64_t)i->opsize
            : row->op == X86_OP_RETF  ? 2 * (uint64_t)i->opsize
            : row->op == X86_OP_IRET  ? (g->k->bits == 64 ? 5 : 3) * (uint64_t)i->opsize
            : row->op == X86_OP_PUSHA ? -8 * (uint64_t)i->opsize
            : row->op == X86_OP_POPA  ? 8 * (uint64_t)i->opsize
                                      : i->opsize;
    }
    if (row->op == X86_OP_POP && i->opnd[0].kind == X86_OPND_REG &&
        i->opnd[0].reg == X86_RSP) {
        written |= 1u << X86_RSP;
    }
    if (row->op == X86_OP_LSS || row->op == X86_OP_LFS || row->op == X86_OP_LGS ||
        is_push_or_pop_seg(i) || row->op == X86_OP_WRFSBASE ||
        row->op == X86_OP_WRGSBASE) {
        g->fs_known = g->gs_known = false;
    }
    g->known &= (uint16_t)~written;
}

bool fz_item(struct fz_gen *g, unsigned form, uint32_t cell)
{
    const struct fz_form *f = &g->forms->form[form];
    struct fz_case *k = g->k;
    struct fz_insn in;
    struct fz_wish w = {.key = -1, .index = -1};
    uint64_t target;
    unsigned first = k->nb_insns;

    if (k->nb_insns + 12 > FZ_MAX_INSNS) {
        return false;
    }
    if (cell != FZ_NO_CELL) {
        fz_wish_cell(f, cell, &w);
    }
    before(g, f, &w);
    if (!fz_encode(g, form, &w, &in, &target)) {
        k->nb_insns = first;
        return false;
    }
    if (w.rep || w.repne) {
        in.count = g->val[X86_RCX];
    }
    after(g, &in, target);
    in.mem_la = target;
    in.item = (uint8_t)g->item;
    k->insn[k->nb_insns++] = in;
    update_known(g, &in.insn);
    if (f->skip == FZ_RUN_RESULT) { /* it is the last */
        uint16_t read;
        x86_insn_gprs(&in.insn, &read, &k->ignored);
    }
    return true;
}
