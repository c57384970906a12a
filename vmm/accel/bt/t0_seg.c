#include "vmm/accel/bt/t0_seg.h"

#include "lib/base/bytes.h"

/*
 * Segment registers: descriptors and the loads of them, MOV, PUSH, POP and the loads of
 * far pointers. APM 2 4.5 to 4.8; the instructions' own pages in APM 3.
 */

static bool protected_mode(const struct t0_cpu *c)
{
    return c->mode & T0_MODE_PE;
}

/* --- Descriptors ----------------------------------------------------------- */

int t0_desc_get(struct t0_cpu *c, uint16_t sel, struct t0_desc *ret)
{
    uint64_t base = c->s.gdtr.base;
    uint32_t limit = c->s.gdtr.limit;
    ret->raw = 0;
    ret->sel = sel;
    if (sel & 4) {
        if (!(c->s.ldtr.attr & X86_SEG_P)) {
            return T0_DESC_LIMIT;
        }
        base = c->s.ldtr.base;
        limit = c->s.ldtr.limit;
    }
    if ((sel | 7u) > limit) {
        return T0_DESC_LIMIT;
    }
    ret->addr = base + (sel & 0xfff8u);
    return t0_sys_words(c, ret->addr, &ret->raw, 1) ? T0_DESC_FAULT : T0_DESC_OK;
}

uint64_t t0_desc_upper(struct t0_cpu *c, const struct t0_desc *d, uint64_t *ret)
{
    uint32_t limit = (d->sel & 4) ? c->s.ldtr.limit : c->s.gdtr.limit;
    uint8_t b[8];
    if ((d->sel | 7u) + 8 > limit) {
        return raise_sel(c, X86_EXC_GP, d->sel);
    }
    if (t0_sys_read(c, d->addr + 8, b, 8)) {
        return 1;
    }
    if (b[5] & 0x1f) { /* its type, which must be 0 */
        return raise_sel(c, X86_EXC_GP, d->sel);
    }
    *ret = le32_get(b);
    return 0;
}

uint64_t t0_desc_accessed(struct t0_cpu *c, const struct t0_desc *d)
{
    uint8_t type = (uint8_t)(d->raw >> 40);
    if (type & X86_SEG_ACCESSED) {
        return 0;
    }
    type |= X86_SEG_ACCESSED;
    return t0_sys_write(c, d->addr + 5, &type, 1);
}

struct t0_val load_at(struct t0_cpu *c, const struct t0_op *op, unsigned off,
                      unsigned size)
{
    struct t0_op part = *op;
    part.disp = (int64_t)((uint64_t)op->disp + off);
    struct t0_val a = t0_ea(c, &part, size, false);
    return unlikely(a.fault) ? a : t0_load(c, a.v, size, op->seg);
}

/* --- Data segments --------------------------------------------------------- */

static bool data_ok(const struct t0_cpu *c, const struct x86_segment *s, unsigned rpl)
{
    bool code = s->attr & X86_SEG_CODE, rw = s->attr & X86_SEG_RW;
    bool conforming = code && (s->attr & X86_SEG_DOWN);
    unsigned dpl = dpl_of(s);
    return (s->attr & X86_SEG_S) && (!code || rw) &&
           (conforming || (dpl >= rpl && dpl >= c->s.cpl));
}

static bool stack_ok(const struct t0_cpu *c, const struct x86_segment *s, unsigned rpl)
{
    return (s->attr & X86_SEG_S) && !(s->attr & X86_SEG_CODE) &&
           (s->attr & X86_SEG_RW) && rpl == c->s.cpl && dpl_of(s) == c->s.cpl;
}

static uint64_t load_null(struct t0_cpu *c, unsigned seg, uint16_t sel)
{
    if (seg == X86_SS && !(t0_is64(c) && c->s.cpl != 3 && (sel & 3) == c->s.cpl)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    c->s.seg[seg] = (struct x86_segment){.sel = sel};
    if (seg == X86_SS) {
        c->s.seg[seg].attr = (uint16_t)(c->s.cpl << X86_SEG_DPL_SHIFT);
    }
    return 0;
}

/* Only the base changes: a limit of 4 GiB from protected mode stays ("unreal" mode).
 * What a null selector made unusable there is an ordinary segment again. */
static uint64_t load_real(struct t0_cpu *c, unsigned seg, uint16_t sel)
{
    struct x86_segment *s = &c->s.seg[seg];
    if (!(s->attr & X86_SEG_P)) {
        s->attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED;
        s->limit = 0xffff;
    }
    s->sel = sel;
    s->base = (uint64_t)sel << 4;
    return 0;
}

uint64_t t0_load_seg(struct t0_cpu *c, unsigned seg, uint16_t sel)
{
    struct t0_desc d;
    if (!protected_mode(c)) {
        return load_real(c, seg, sel);
    }
    if (is_null(sel)) {
        return load_null(c, seg, sel);
    }
    int r = t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return 1;
    }
    struct x86_segment s = t0_desc_segment(sel, d.raw);
    bool ok = seg == X86_SS ? stack_ok(c, &s, sel & 3) : data_ok(c, &s, sel & 3);
    if (r == T0_DESC_LIMIT || !ok) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    if (!(s.attr & X86_SEG_P)) {
        return raise_sel(c, seg == X86_SS ? X86_EXC_SS : X86_EXC_NP, sel);
    }
    if (t0_desc_accessed(c, &d)) {
        return 1;
    }
    s.attr |= X86_SEG_ACCESSED;
    c->s.seg[seg] = s;
    return 0;
}

bool t0_drop_outer_segs(struct t0_cpu *c)
{
    bool any = false;
    static const uint8_t which[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(which); i++) {
        struct x86_segment *s = &c->s.seg[which[i]];
        bool conforming = (s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_DOWN);
        if ((s->attr & X86_SEG_P) && dpl_of(s) < c->s.cpl && !conforming) {
            *s = (struct x86_segment){.base = s->base}; /* 64-bit code sees it */
            any = true;
        }
    }
    return any;
}

/* After a load of @seg. SS keeps interrupts away from the next instruction. */
static const struct t0_op *seg_loaded(struct t0_cpu *c, const struct t0_op *op,
                                      unsigned seg)
{
    t0_update_mode(c);
    if (seg == X86_SS) {
        c->s.int_shadow = true;
        t0_debug_shadow(c);
    }
    return t0_end_block(c, op);
}

/* dst: segment; src: register */
HANDLER(mov_seg_reg)
{
    if (t0_load_seg(c, op->dst, T0_R16(c, op->src))) {
        return T0_FAULT(c, op);
    }
    return seg_loaded(c, op, op->dst);
}

HANDLER(mov_seg_mem)
{
    struct t0_val v = load_at(c, op, 0, 2);
    if (v.fault || t0_load_seg(c, op->dst, (uint16_t)v.v)) {
        return T0_FAULT(c, op);
    }
    return seg_loaded(c, op, op->dst);
}

HANDLER(mov_reg_seg)
{
    put_reg(c, op, c->s.seg[op->src].sel);
    return T0_NEXT(c, op);
}

HANDLER(mov_mem_seg)
{
    return store16(c, op, c->s.seg[op->src].sel);
}

HANDLER(push_seg)
{
    if (t0_push(c, c->s.seg[op->src].sel, op->size)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

HANDLER(pop_seg)
{
    struct t0_val v = t0_pop_peek(c, op->size);
    if (v.fault || t0_load_seg(c, op->dst, (uint16_t)v.v)) {
        return T0_FAULT(c, op);
    }
    t0_sp_add(c, op->size);
    return seg_loaded(c, op, op->dst);
}

/* LDS, LES, LSS, LFS, LGS; src: segment, dst: register. LSS is one instruction and has
 * no shadow. */
HANDLER(load_far)
{
    unsigned size = far_size(c, op);
    struct t0_val off = load_at(c, op, 0, size);
    struct t0_val sel = off.fault ? off : load_at(c, op, size, 2);
    if (sel.fault || t0_load_seg(c, op->src, (uint16_t)sel.v)) {
        return T0_FAULT(c, op);
    }
    put_reg(c, op, off.v);
    t0_update_mode(c);
    return t0_end_block(c, op);
}

/* --- Lowering -------------------------------------------------------------- */
static void lower_mov(const struct x86_insn *insn, struct t0_op *op)
{
    const struct x86_opnd *d = &insn->opnd[0], *s = &insn->opnd[1];
    if (d->kind == X86_OPND_SEG) {
        op->dst = d->reg;
        op->src = s->kind == X86_OPND_REG ? t0_reg(s->reg) : 0;
        op->fn = s->kind == X86_OPND_REG ? mov_seg_reg : mov_seg_mem;
    } else {
        op->src = s->reg;
        op->size = d->size;
        op->dst = d->kind == X86_OPND_REG ? t0_reg(d->reg) : 0;
        op->fn = d->kind == X86_OPND_REG ? mov_reg_seg : mov_mem_seg;
    }
}

bool t0_lower_seg(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    static const uint8_t far_seg[] = {X86_DS, X86_ES, X86_FS, X86_GS, X86_SS};
    const struct x86_opnd *o = insn->opnd;
    switch (insn->op) {
    case X86_OP_MOV:
        if (o[0].kind != X86_OPND_SEG && o[1].kind != X86_OPND_SEG) {
            return false;
        }
        lower_mov(insn, op);
        return true;
    case X86_OP_PUSH:
    case X86_OP_POP:
        if (o[0].kind != X86_OPND_SEG) {
            return false;
        }
        op->src = op->dst = o[0].reg;
        op->fn = insn->op == X86_OP_PUSH ? push_seg : pop_seg;
        return true;
    case X86_OP_LDS:
    case X86_OP_LES:
    case X86_OP_LFS:
    case X86_OP_LGS:
    case X86_OP_LSS:
        op->src = far_seg[insn->op - X86_OP_LDS];
        op->dst = t0_reg(o[0].reg);
        op->fn = load_far;
        return true;
    default:
        return t0_lower_desc(insn, ctx, op) || t0_lower_far(insn, ctx, op) ||
               t0_lower_syscall(insn, ctx, op);
    }
}
