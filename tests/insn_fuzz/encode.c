#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/opspec.h"

/*
 * One instruction of a form. Its parts are chosen at random among what the row allows,
 * put together and given to the decoder; what the decoder takes for another row is
 * thrown away and tried again. Then the memory operand is aimed: base and index have
 * values that the generator knows, the displacement makes up the rest.
 */

/* Parts of an encoding. */
struct parts {
    uint8_t prefix[8];
    unsigned nb_prefixes;
    unsigned bits;
    bool vex, rex;
    bool w, r, x, b, l;
    uint8_t vvvv, pp;
    uint8_t modrm, sib, disp_size;
    bool has_sib;
    uint8_t seg; /* 0, X86_FS, X86_GS */
    bool adsize;
};

static bool is_vsib(const struct x86_desc *row)
{
    return row->props & (X86_D_VSIB | X86_D_VSIB_HALF);
}

static bool has_enc(const struct x86_desc *row, unsigned enc)
{
    for (unsigned i = 0; i < row->nb_opnds; i++) {
        if (row->opnd[i].enc == enc) {
            return true;
        }
    }
    return false;
}

/* Memory that is not in ModRM: string, XLAT and so on, MOV's absolute address. */
static bool has_implicit_memory(const struct x86_desc *row)
{
    return row->cls == X86_CLASS_STRING || has_enc(row, X86_ENC_O) ||
           (row->props & X86_D_IMPL_MEM);
}

/* --- Prefixes -------------------------------------------------------------- */

static void add_prefix(struct parts *p, uint8_t byte)
{
    if (p->nb_prefixes < sizeof(p->prefix)) {
        p->prefix[p->nb_prefixes++] = byte;
    }
}

/* 0, 66, F3 or F2: what the row tells itself apart by. */
static uint8_t mandatory_prefix(struct fz_rng *r, const struct x86_desc *row)
{
    uint32_t a = row->allow;
    if (a & X86_A_NP) {
        return (a & X86_A_66) && fz_chance(r, 25) ? 0x66 : 0;
    }
    if ((a & X86_A_66) && !((a & (X86_A_F3 | X86_A_F2)) && fz_chance(r, 50))) {
        return 0x66;
    }
    return (a & X86_A_F3) && !((a & X86_A_F2) && fz_chance(r, 50)) ? 0xf3 : 0xf2;
}

/* Segment and address size. */
static void choose_address_prefixes(struct fz_gen *g, const struct x86_desc *row,
                                    bool mem, const struct fz_wish *w, struct parts *p)
{
    static const uint8_t idle[] = {0x2e, 0x36, 0x3e, 0x26};
    struct fz_rng *r = &g->r;
    bool any = mem || has_implicit_memory(row);

    p->seg = w->seg;
    p->adsize = w->adsize || w->aspect == FZ_A_AD ||
                (!w->plain && !has_implicit_memory(row) && fz_chance(r, any ? 8 : 1));
    /* 16-bit addresses reach the data through these. */
    unsigned often = p->bits == 32 && p->adsize ? 95 : 12;
    if (w->aspect & (FZ_A_FS | FZ_A_GS)) {
        p->seg = w->aspect == FZ_A_FS ? X86_FS : X86_GS;
    } else if (!w->no_seg && !w->plain && !p->seg && mem && fz_chance(r, often)) {
        p->seg = fz_chance(r, 50) ? (g->fs_known ? X86_FS : 0)
                 : g->gs_known    ? X86_GS
                                  : 0;
    }
    if (p->adsize) {
        add_prefix(p, 0x67);
    }
    if (!w->plain && fz_chance(r, 2)) {
        add_prefix(p, idle[fz_below(r, sizeof(idle))]);
    }
    if (p->seg) {
        add_prefix(p, p->seg == X86_FS ? 0x64 : 0x65);
    }
}

static void choose_prefixes(struct fz_gen *g, const struct x86_desc *row, bool mem,
                            const struct fz_wish *w, struct parts *p)
{
    struct fz_rng *r = &g->r;
    uint8_t must = mandatory_prefix(r, row);
    bool locks = (row->props & X86_D_LOCK) && mem;

    choose_address_prefixes(g, row, mem, w, p);
    if (p->vex) {
        p->pp = must == 0x66 ? 1 : must == 0xf3 ? 2 : must == 0xf2 ? 3 : 0;
        return;
    }
    if (!(row->allow & X86_A_NOLOCK) ||
        (locks && (w->aspect == FZ_A_LOCK || fz_chance(r, 35)))) {
        add_prefix(p, 0xf0);
    }
    if (w->rep || w->repne) {
        add_prefix(p, w->rep ? 0xf3 : 0xf2);
    } else if (!must && !w->plain && fz_chance(r, 3) && row->cls != X86_CLASS_STRING &&
               row->op != X86_OP_LOOPE && row->op != X86_OP_LOOPNE) {
        /* (LOOPNE with F3 loops while ZF is set on Zen 5.) */
        must = fz_chance(r, 50) ? 0xf3 : 0xf2; /* may be idle; the decoder knows */
    }
    if (must) {
        add_prefix(p, must);
        bool may = (row->allow & X86_A_66) || !(row->allow & X86_A_NP);
        if (must != 0x66 && may && fz_chance(r, 20)) {
            add_prefix(p, 0x66);
        }
    }
    if (!w->plain && p->bits == 64 && fz_chance(r, 2)) {
        add_prefix(p, (uint8_t)(0x40 | fz_below(r, 16))); /* idle before another one */
    }
    if (!w->plain && p->nb_prefixes && fz_chance(r, 3)) {
        add_prefix(p, p->prefix[0]);
    }
    for (unsigned i = p->nb_prefixes; i > 1; i--) { /* any order */
        unsigned j = fz_below(r, i);
        uint8_t t = p->prefix[j];
        p->prefix[j] = p->prefix[i - 1];
        p->prefix[i - 1] = t;
    }
}

/* --- Registers and addressing ---------------------------------------------- */

static bool points(uint64_t v)
{
    return v >= FZ_DATA - FZ_PAGE && v < FZ_EXIT;
}

/* A known register that points to memory, or -1. */
static int choose_base(struct fz_gen *g, bool adsize)
{
    unsigned from = fz_below(&g->r, 16);
    for (unsigned i = 0; i < 16; i++) {
        unsigned reg = (from + i) % 16;
        uint64_t v = adsize ? (uint32_t)g->val[reg] : g->val[reg];
        if (g->known >> reg & 1 && points(v)) {
            return (int)reg;
        }
    }
    return -1;
}

static int choose_index(struct fz_gen *g)
{
    unsigned from = fz_below(&g->r, 16);
    for (unsigned i = 0; i < 16; i++) {
        unsigned reg = (from + i) % 16;
        if (reg != X86_RSP && g->known >> reg & 1) {
            return (int)reg;
        }
    }
    return -1;
}

static void set_modrm_mem(struct parts *p, unsigned mod, unsigned rm)
{
    p->modrm = (uint8_t)((p->modrm & 0x38) | mod << 6 | rm);
}

static void choose_sib(struct fz_gen *g, const struct x86_desc *row,
                       const struct fz_wish *w, struct parts *p, int base)
{
    struct fz_rng *r = &g->r;
    int index = 4; /* none */
    if (is_vsib(row)) {
        /* See fz_generate(): these start with indices. */
        bool qwords = row->opcode & 1;
        unsigned first = p->bits == 64 ? 8 : 0;
        index = (int)(first + (qwords ? 6 : 4) + fz_below(r, 2));
        index = fz_chance(r, 3) ? (int)fz_below(r, first + 8) : index;
    } else if (w->aspect == FZ_A_SIB || fz_chance(r, 40)) {
        index = choose_index(g);
        index = index < 0 ? 4 : index;
    }
    p->x = index >> 3;
    p->has_sib = true;
    p->sib =
        (uint8_t)(fz_below(r, 4) << 6 | (index & 7) << 3 | (base < 0 ? 5 : base & 7));
}

/* Two registers or one, and as much displacement as it takes. */
static void choose_memory16(struct fz_gen *g, struct parts *p)
{
    unsigned rm = fz_below(&g->r, 8);
    bool none = rm == 6 && fz_chance(&g->r, 50);
    set_modrm_mem(p, none ? 0 : 2, rm);
    p->disp_size = 2;
}

static void choose_memory(struct fz_gen *g, const struct x86_desc *row,
                          const struct fz_wish *w, struct parts *p)
{
    struct fz_rng *r = &g->r;
    int base = choose_base(g, p->adsize);
    bool sib = is_vsib(row);
    if (row->op == X86_OP_LEA && fz_chance(r, 60)) { /* any sum */
        base = (int)fz_below(r, g->nb_regs);
    }
    unsigned how = w->aspect == FZ_A_SIB ? 50 : fz_below(r, 100);

    if (p->bits == 32 && p->adsize && !sib) {
        choose_memory16(g, p);
        return;
    }
    p->disp_size = 4;
    if (!sib && (base < 0 || how < 12 || w->aspect == FZ_A_DISP)) {
        set_modrm_mem(p, 0, 5); /* RIP-relative, or absolute in 32-bit code */
        p->b = p->bits == 64 && fz_chance(r, 20);
        return;
    }
    if (how < 20) {
        set_modrm_mem(p, 0, 4); /* no base */
        choose_sib(g, row, w, p, -1);
        p->b = false;
        return;
    }
    p->b = base >= 0 ? base >> 3 : 0;
    sib |= (base & 7) == 4 || w->aspect == FZ_A_SIB || fz_chance(r, 40);
    if (fz_chance(r, 40)) {
        p->disp_size = 1;
    } else if (fz_chance(r, 20) && (base & 7) != 5) {
        p->disp_size = 0;
    }
    set_modrm_mem(p, p->disp_size == 4 ? 2 : p->disp_size,
                  sib ? 4 : (unsigned)base & 7);
    if (sib) {
        choose_sib(g, row, w, p, base < 0 ? X86_RBP : base);
        if (base < 0) {
            set_modrm_mem(p, 0, 4), p->disp_size = 4;
        }
    }
}

static void choose_parts(struct fz_gen *g, const struct x86_desc *row, bool mem,
                         const struct fz_wish *w, struct parts *p)
{
    struct fz_rng *r = &g->r;
    uint64_t bits = fz_rnd(r);
    uint32_t a = row->allow;

    bool extends = g->k->bits == 64 && w->aspect != FZ_A_HIGH;
    *p = (struct parts){.bits = g->k->bits, .vex = row->map >= X86_MAP_VEX1};
    choose_prefixes(g, row, mem, w, p);
    p->w =
        (a & X86_A_W1) && (!(a & X86_A_W0) || bits % 100 < 35) && (extends || p->vex);
    p->l = (a & X86_A_L1) && (!(a & X86_A_L0) || (bits >> 8 & 1));
    bits >>= 10;
    p->r = extends && bits & 1;
    p->b = extends && !mem && (a & X86_A_B1) && (!(a & X86_A_B0) || (bits & 2));
    p->x = extends && !mem && (bits & 0x3c) == 0;
    p->rex = extends && ((bits & 0xc0) == 0 || w->aspect == FZ_A_LOW);
    p->modrm = (uint8_t)(bits >> 8);
    if (has_enc(row, X86_ENC_H) || has_enc(row, X86_ENC_B)) {
        p->vvvv = bits >> 16 & (p->bits == 64 ? 15 : 7);
    }
    if (!row->has_modrm) {
        return;
    }
    if (mem) {
        choose_memory(g, row, w, p);
    } else {
        p->modrm |= 0xc0;
    }
    p->modrm =
        (uint8_t)((p->modrm & ~row->modrm_mask) | (row->modrm & row->modrm_mask));
    if (mem && (row->modrm_mask & 0x38)) {
        p->r = p->r && fz_chance(r, 10);
    }
    if (w->index >= 0 && row->nb_opcode != 16 && w->directed) {
        p->modrm = (uint8_t)((p->modrm & ~7) | w->index); /* ST(i) */
    }
}

/* --- Bytes ----------------------------------------------------------------- */

static unsigned put_vex(struct fz_rng *r, const struct x86_desc *row,
                        const struct parts *p, uint8_t *q)
{
    uint8_t low = (uint8_t)((~p->vvvv & 15) << 3 | p->l << 2 | p->pp);
    if (row->map == X86_MAP_VEX1 && !p->w && !p->x && !p->b && fz_chance(r, 60)) {
        q[0] = 0xc5;
        q[1] = (uint8_t)(!p->r << 7 | low);
        return 2;
    }
    q[0] = 0xc4;
    q[1] =
        (uint8_t)(!p->r << 7 | !p->x << 6 | !p->b << 5 | (row->map - X86_MAP_VEX1 + 1));
    q[2] = (uint8_t)(p->w << 7 | low);
    return 3;
}

static unsigned put_rex_and_map(const struct x86_desc *row, const struct parts *p,
                                uint8_t *q)
{
    unsigned n = 0;
    if (p->rex || p->w || p->r || p->x || p->b) {
        q[n++] = (uint8_t)(0x40 | p->w << 3 | p->r << 2 | p->x << 1 | p->b);
    }
    if (row->map != X86_MAP_ONE) {
        q[n++] = 0x0f;
    }
    if (row->map == X86_MAP_0F38 || row->map == X86_MAP_0F3A) {
        q[n++] = row->map == X86_MAP_0F38 ? 0x38 : 0x3a;
    }
    return n;
}

/* Returns where the displacement would be. */
static unsigned put_parts(struct fz_rng *r, const struct x86_desc *row, int index,
                          const struct parts *p, uint8_t bytes[32])
{
    unsigned n = p->nb_prefixes;
    memcpy(bytes, p->prefix, n);
    n += p->vex ? put_vex(r, row, p, bytes + n) : put_rex_and_map(row, p, bytes + n);
    bool fixed = index >= 0 && row->nb_opcode == 16;
    bytes[n++] = (uint8_t)(row->opcode +
                           (fixed ? (unsigned)index : fz_below(r, row->nb_opcode)));
    if (row->has_modrm) {
        bytes[n++] = p->modrm;
        if (p->has_sib) {
            bytes[n++] = p->sib;
        }
    }
    unsigned disp_at = n;
    le32_put(bytes + n, 0);
    n += p->disp_size;
    le64_put(bytes + n, fz_value(r));
    le64_put(bytes + n + 8, fz_rnd(r));
    return disp_at;
}

/* --- Aiming ---------------------------------------------------------------- */

/* What the address is without displacement; false when that is not known. */
static bool address_rest(const struct fz_gen *g, const struct x86_insn *i, bool vsib,
                         uint64_t *ret)
{
    uint64_t v = i->seg == X86_FS ? g->fs : i->seg == X86_GS ? g->gs : 0;
    if ((i->seg == X86_FS && !g->fs_known) || (i->seg == X86_GS && !g->gs_known)) {
        return false;
    }
    if (i->base < 16) {
        v += g->val[i->base];
    }
    if (i->index < 16 && !vsib) {
        v += g->val[i->index] * i->scale;
    }
    *ret = v;
    return i->base >= 16 || g->known >> i->base & 1;
}

static unsigned area_size(unsigned op)
{
    switch (op) {
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR: return 512;
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
    case X86_OP_XSAVES:
    case X86_OP_XRSTORS: return FZ_XSAVE_SIZE;
    default: return 0;
    }
}

/* Also of operands without a size. */
static uint64_t choose_target(struct fz_gen *g, const struct x86_insn *i,
                              const struct fz_wish *w)
{
    const struct x86_desc *row = x86_insn_desc(i);
    const struct x86_opnd *m = x86_insn_mem(i);
    unsigned size = m->size ? m->size : area_size(row->op);
    if (w->flat_target) {
        return w->target;
    }
    if (area_size(row->op)) {
        uint64_t t = fz_target(g, size, false, m->access & X86_ACC_W);
        return fz_chance(&g->r, 92) ? t & ~UINT64_C(63) : t;
    }
    bool align = row->props & (X86_D_ALIGN | X86_D_SSEMEM);
    return fz_target(g, size ? size : 1, align, m->access & X86_ACC_W);
}

/* Displacement so that @i reaches its target. */
static bool aim(struct fz_gen *g, struct fz_insn *in, unsigned at, unsigned size,
                const struct fz_wish *w, uint64_t *ret_target)
{
    struct x86_insn *i = &in->insn;
    const struct x86_desc *row = x86_insn_desc(i);
    uint64_t rest, target = choose_target(g, i, w);
    bool known = address_rest(g, i, is_vsib(row), &rest);

    if (!known) {
        return false;
    }
    if (i->base == X86_REG_RIP) {
        in->fix = FZ_FIX_RIP;
        in->fix_at = (uint8_t)at;
        in->fix_size = 4;
        in->target_la = target - rest;
        *ret_target = target;
        return true;
    }
    int64_t disp = (int64_t)(target - rest);
    if (i->addrsize == 2) {
        if (!size) {
            return false;
        }
        le16_put(in->bytes + at, (uint16_t)disp);
        *ret_target = target;
        return true;
    }
    if (i->addrsize == 4) {
        disp = (int32_t)disp;
    }
    if (size == 8) {
        le64_put(in->bytes + at, (uint64_t)disp);
    } else if (size == 4 && disp == (int32_t)disp) {
        le32_put(in->bytes + at, (uint32_t)disp);
    } else if (size == 4 && i->addrsize == 4) {
        return false;
    } else if (size <= 1 && !w->flat_target) {
        /* Where the registers are, then, if that is somewhere. */
        disp = size ? (int8_t)fz_rnd(&g->r) : 0;
        target = rest + (uint64_t)disp;
        if (row->props & (X86_D_ALIGN | X86_D_SSEMEM) && size && fz_chance(&g->r, 90)) {
            disp -= (int64_t)(target & 15);
            target = rest + (uint64_t)disp;
            if (disp < -128) {
                return false;
            }
        }
        if (!points(target)) {
            return false;
        }
        in->bytes[at] = size ? (uint8_t)disp : in->bytes[at];
    } else {
        return false;
    }
    *ret_target = target;
    return true;
}

/* Writes to registers that had better stay. */
static bool writes_kept(struct fz_gen *g, const struct x86_insn *i)
{
    uint16_t explicit = 0;
    for (unsigned n = 0; n < i->nb_opnds; n++) {
        if (i->opnd[n].kind == X86_OPND_REG && i->opnd[n].access & X86_ACC_W) {
            explicit |= (uint16_t)(1u << (i->opnd[n].reg & 15));
        }
    }
    if (g->loop_reg >= 0) {
        uint16_t read, written;
        x86_insn_gprs(i, &read, &written);
        if ((explicit | written) >> g->loop_reg & 1) {
            return true;
        }
    }
    unsigned seldom = i->op == X86_OP_POP ? 40 : 95;
    if (explicit & 1u << X86_RSP && (g->no_stack || fz_chance(&g->r, seldom))) {
        return true;
    }
    bool pop_sp = i->op == X86_OP_POP && explicit == 1u << X86_RSP;
    return !pop_sp && explicit & g->keep && fz_chance(&g->r, 85);
}

bool fz_encode(struct fz_gen *g, unsigned form, const struct fz_wish *w,
               struct fz_insn *ret, uint64_t *ret_target)
{
    const struct fz_form *f = &g->forms->form[form];
    const struct x86_desc *row = x86_desc_get(f->row);

    for (unsigned tries = 0; tries < 60; tries++) {
        struct parts p;
        uint8_t bytes[40];
        choose_parts(g, row, f->has_mem, w, &p);
        unsigned disp_at =
            put_parts(&g->r, row, w->directed ? w->index : -1, &p, bytes);
        memset(ret, 0, sizeof(*ret));
        ret->form = (uint16_t)form;
        if (x86_decode(&ret->insn, bytes, X86_INSN_MAX_LEN, f->bits) <= 0 ||
            ret->insn.desc != f->row || writes_kept(g, &ret->insn) ||
            !fz_wish_met(f, w, &ret->insn)) {
            continue;
        }
        memcpy(ret->bytes, bytes, ret->insn.len);
        unsigned size = p.disp_size;
        if (has_enc(row, X86_ENC_O)) {
            size = ret->insn.disp_size;
            disp_at = ret->insn.len - size;
        }
        *ret_target = 0;
        if (row->op == X86_OP_LEA && fz_chance(&g->r, 60)) {
            le_put(ret->bytes + disp_at, fz_value(&g->r), size);
        } else if (x86_insn_mem(&ret->insn) &&
                   !aim(g, ret, disp_at, size, w, ret_target)) {
            continue;
        }
        if (x86_decode(&ret->insn, ret->bytes, ret->insn.len, f->bits) > 0) {
            return true;
        }
    }
    return false;
}

bool fz_encode_template(const struct fz_form *form, bool p66, bool w, bool l,
                        struct x86_insn *ret)
{
    const struct x86_desc *row = x86_desc_get(form->row);
    uint32_t a = row->allow;
    struct fz_rng r = {1};
    uint8_t bytes[40], must = a & X86_A_NP ? 0 : mandatory_prefix(&r, row);
    struct parts p = {.bits = form->bits, .vex = row->map >= X86_MAP_VEX1};

    if (!(a & (w ? X86_A_W1 : X86_A_W0)) || !(a & (l ? X86_A_L1 : X86_A_L0)) ||
        (form->bits == 32 && w && !p.vex) || (!p.vex && l) || (p.vex && p66)) {
        return false;
    }
    p.w = w;
    p.l = l;
    p.pp = must == 0x66 ? 1 : must == 0xf3 ? 2 : must == 0xf2 ? 3 : 0;
    p.b = form->bits == 64 && !(a & X86_A_B0);
    if (!p.vex && !(a & X86_A_NOLOCK)) {
        add_prefix(&p, 0xf0);
    }
    if (!p.vex && (p66 || must)) {
        add_prefix(&p, p66 ? 0x66 : must);
    }
    if (!p.vex && p66 && must && must != 0x66) {
        add_prefix(&p, must);
    }
    /* Three different registers, which gathers want. */
    p.vvvv = has_enc(row, X86_ENC_H) || has_enc(row, X86_ENC_B);
    p.modrm = (uint8_t)(is_vsib(row) ? 2 << 3 : row->modrm & row->modrm_mask);
    if (form->has_mem) {
        set_modrm_mem(&p, 0, 4);
        p.has_sib = true;
        p.sib = 0x25;
        p.disp_size = 4;
    } else {
        p.modrm |= 0xc0;
    }
    put_parts(&r, row, -1, &p, bytes);
    return x86_decode(ret, bytes, X86_INSN_MAX_LEN, form->bits) > 0 &&
           ret->desc == form->row;
}
