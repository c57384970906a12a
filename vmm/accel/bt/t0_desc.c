#include "vmm/accel/bt/t0_seg.h"

#include "lib/base/bytes.h"

/*
 * Descriptor tables, LDTR and TR, and the instructions that look at descriptors: LAR,
 * LSL, VERR, VERW, ARPL. APM 2 4.6 to 4.8; the instructions' own pages in APM 3.
 */

/* --- Descriptor tables ----------------------------------------------------- */
/* System descriptors of long mode are 16 bytes (APM 2 4.8.3). */
static uint64_t read_upper_base(struct t0_cpu *c, const struct t0_desc *d,
                                uint64_t *base)
{
    uint64_t upper;
    if (!t0_long_mode(c)) {
        return 0;
    }
    if (t0_desc_upper(c, d, &upper)) {
        return 1;
    }
    *base |= upper << 32;
    if (!t0_canonical_base(c, *base)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    return 0;
}

static bool umip_forbids(const struct t0_cpu *c)
{
    return c->s.cpl && (c->s.cr4 & X86_CR4_UMIP);
}

/* aux: 1 for IDT */
HANDLER(load_table)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    bool m64 = t0_is64(c);
    struct t0_val limit = load_at(c, op, 0, 2);
    struct t0_val base = limit.fault ? limit : load_at(c, op, 2, m64 ? 8 : 4);
    if (base.fault) {
        return T0_FAULT(c, op);
    }
    if (op->size == 2) {
        base.v &= 0xffffff;
    }
    if (m64 && !t0_canonical_base(c, base.v)) {
        return gp0(c, op);
    }
    struct x86_dtable *t = op->aux ? &c->s.idtr : &c->s.gdtr;
    t->base = base.v;
    t->limit = (uint16_t)limit.v;
    return t0_end_block(c, op);
}

HANDLER(store_table)
{
    if (umip_forbids(c)) {
        return gp0(c, op);
    }
    const struct x86_dtable *t = op->aux ? &c->s.idtr : &c->s.gdtr;
    unsigned n = t0_is64(c) ? 10 : 6;
    uint8_t *b = c->bounce; /* a local would keep the next op from a tail call */
    le16_put(b, t->limit);
    le64_put(b + 2, t->base);
    struct t0_val a = t0_ea(c, op, n, true);
    if (a.fault || t0_write_bytes(c, a.v, b, n, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* SLDT, STR; aux: 1 for TR; src: 1 for memory */
HANDLER(store_sysreg)
{
    uint16_t sel = op->aux ? c->s.tr.sel : c->s.ldtr.sel;
    if (umip_forbids(c)) {
        return gp0(c, op);
    }
    if (op->src) {
        return store16(c, op, sel);
    }
    put_reg(c, op, sel);
    return T0_NEXT(c, op);
}

static uint64_t load_ldt(struct t0_cpu *c, uint16_t sel)
{
    struct t0_desc d;
    if (is_null(sel)) {
        c->s.ldtr = (struct x86_segment){.sel = sel};
        return 0;
    }
    int r = (sel & 4) ? T0_DESC_LIMIT : t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return 1;
    }
    if (r == T0_DESC_LIMIT) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    struct x86_segment s = t0_desc_segment(sel, d.raw);
    if ((s.attr & (X86_SEG_S | X86_SEG_TYPE)) != X86_SYS_LDT) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    if (!(s.attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, sel);
    }
    if (read_upper_base(c, &d, &s.base)) {
        return 1;
    }
    c->s.ldtr = s;
    return 0;
}

static uint64_t load_tr(struct t0_cpu *c, uint16_t sel)
{
    struct t0_desc d;
    if (is_null(sel)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    int r = (sel & 4) ? T0_DESC_LIMIT : t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return 1;
    }
    if (r == T0_DESC_LIMIT) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    struct x86_segment s = t0_desc_segment(sel, d.raw);
    unsigned type = s.attr & (X86_SEG_S | X86_SEG_TYPE);
    if (type != X86_SYS_TSS && (t0_long_mode(c) || type != X86_SYS_TSS16)) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    if (!(s.attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, sel);
    }
    if (read_upper_base(c, &d, &s.base)) {
        return 1;
    }
    s.attr |= 2; /* busy */
    uint8_t byte = (uint8_t)s.attr;
    if (t0_sys_write(c, d.addr + 5, &byte, 1)) {
        return 1;
    }
    c->s.tr = s;
    return 0;
}

/* The 16-bit operand of LLDT, LTR, VERR, ...: a register (src) or memory. */
static struct t0_val operand16(struct t0_cpu *c, const struct t0_op *op)
{
    if (op->src != T0_REG_ZERO * 8) {
        return (struct t0_val){T0_R16(c, op->src), 0};
    }
    return load_at(c, op, 0, 2);
}

/* aux: 1 for TR */
HANDLER(load_sysreg)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    struct t0_val v = operand16(c, op);
    if (v.fault || (op->aux ? load_tr(c, (uint16_t)v.v) : load_ldt(c, (uint16_t)v.v))) {
        return T0_FAULT(c, op);
    }
    return t0_end_block(c, op);
}

/* --- Looking at descriptors ------------------------------------------------ */

/* Whether @sel can be seen at all from here; fills *s. -1: c->exc is set. */
static int visible(struct t0_cpu *c, uint16_t sel, struct t0_desc *d,
                   struct x86_segment *s)
{
    if (is_null(sel)) {
        return 0;
    }
    int r = t0_desc_get(c, sel, d);
    if (r != T0_DESC_OK) {
        return r == T0_DESC_FAULT ? -1 : 0;
    }
    *s = t0_desc_segment(sel, d->raw);
    bool conforming =
        (s->attr & X86_SEG_S) && (s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_DOWN);
    unsigned dpl = dpl_of(s);
    return conforming || (dpl >= c->s.cpl && dpl >= (sel & 3u));
}

static void set_zf(struct t0_cpu *c, bool on)
{
    c->flags = (uint16_t)((c->flags & ~T0_FLAG_ZF) | (on ? T0_FLAG_ZF : 0));
}

/* System types that LAR and LSL show (APM 3, LAR and LSL). */
static bool system_type_ok(const struct t0_cpu *c, unsigned type, bool lar)
{
    unsigned lm = 1u << X86_SYS_LDT | 1u << X86_SYS_TSS | 1u << X86_SYS_TSS_BUSY;
    unsigned legacy = lm | 1u << X86_SYS_TSS16 | 1u << X86_SYS_TSS16_BUSY;
    if (lar) {
        lm |= 1u << X86_SYS_CALL;
        legacy |= 1u << X86_SYS_CALL | 1u << X86_SYS_CALL16 | 1u << X86_SYS_TASK;
    }
    return (t0_long_mode(c) ? lm : legacy) >> type & 1;
}

/*
 * What LAR, LSL, VERR and VERW find, apart so that the handlers have no local whose
 * address is taken: see t0.h. fault: c->exc is set, or LOOK_NONE.
 */
enum { LOOK_NONE = 2 };

/* aux: 1 for LSL */
__attribute__((noinline)) static struct t0_val look_value(struct t0_cpu *c,
                                                          const struct t0_op *op,
                                                          uint16_t sel)
{
    struct t0_desc d;
    struct x86_segment s;
    int ok = visible(c, sel, &d, &s);
    if (ok > 0) {
        ok = (s.attr & X86_SEG_S) || system_type_ok(c, s.attr & X86_SEG_TYPE, !op->aux);
    }
    if (ok <= 0) {
        return (struct t0_val){0, ok < 0 ? 1 : LOOK_NONE};
    }
    return (struct t0_val){op->aux ? s.limit : d.raw >> 32 & 0xffff00, 0};
}

HANDLER(lar_lsl)
{
    struct t0_val v = operand16(c, op);
    v = v.fault ? v : look_value(c, op, (uint16_t)v.v);
    if (v.fault == 1) {
        return T0_FAULT(c, op);
    }
    set_zf(c, !v.fault);
    if (!v.fault) {
        put_reg(c, op, v.v);
    }
    return T0_NEXT(c, op);
}

/* aux: 1 for VERW */
__attribute__((noinline)) static struct t0_val look_rights(struct t0_cpu *c,
                                                           const struct t0_op *op,
                                                           uint16_t sel)
{
    struct t0_desc d;
    struct x86_segment s;
    int ok = visible(c, sel, &d, &s);
    if (ok > 0) {
        bool code = s.attr & X86_SEG_CODE, rw = s.attr & X86_SEG_RW;
        ok = (s.attr & X86_SEG_S) && (op->aux ? !code && rw : !code || rw);
    }
    return (struct t0_val){0, ok < 0 ? 1 : ok ? 0 : LOOK_NONE};
}

HANDLER(verr_verw)
{
    struct t0_val v = operand16(c, op);
    v = v.fault ? v : look_rights(c, op, (uint16_t)v.v);
    if (v.fault == 1) {
        return T0_FAULT(c, op);
    }
    set_zf(c, !v.fault);
    return T0_NEXT(c, op);
}

HANDLER(arpl_reg)
{
    uint16_t d = T0_R16(c, op->dst), rpl = T0_R16(c, op->src) & 3;
    bool raise = (d & 3) < rpl;
    set_zf(c, raise);
    if (raise) {
        T0_W16(c, op->dst, (d & ~3u) | rpl);
    }
    return T0_NEXT(c, op);
}

/* A selector that does not change is not written, and may be read-only. */
HANDLER(arpl_mem)
{
    struct t0_val d = load_at(c, op, 0, 2);
    if (d.fault) {
        return T0_FAULT(c, op);
    }
    uint16_t rpl = T0_R16(c, op->src) & 3;
    bool raise = (d.v & 3) < rpl;
    if (raise) {
        struct t0_val a = t0_ea(c, op, 2, true);
        if (a.fault || t0_store(c, a.v, (d.v & ~UINT64_C(3)) | rpl, 2, op->seg)) {
            return T0_FAULT(c, op);
        }
    }
    set_zf(c, raise);
    return T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */
/* A 16-bit source: src is a register, or T0_REG_ZERO's offset for memory. */
static void lower_src16(const struct x86_opnd *o, struct t0_op *op)
{
    op->src = o->kind == X86_OPND_REG ? t0_reg(o->reg) : T0_REG_ZERO * 8;
}

/* 2: bases of 24 bits. */
static uint8_t table_size(const struct x86_insn *insn, const struct t0_lower *ctx)
{
    bool code16 = (ctx->mode & T0_MODE_SIZE) == T0_MODE_16;
    bool other = insn->prefixes & X86_P_OPSIZE;
    return (ctx->mode & T0_MODE_SIZE) == T0_MODE_64 ? 8 : code16 != other ? 2 : 4;
}

bool t0_lower_desc(const struct x86_insn *insn, const struct t0_lower *ctx,
                   struct t0_op *op)
{
    const struct x86_opnd *o = &insn->opnd[0];
    switch (insn->op) {
    case X86_OP_LGDT:
    case X86_OP_LIDT:
        op->aux = insn->op == X86_OP_LIDT;
        op->size = table_size(insn, ctx); /* not that of the operand in memory */
        op->fn = load_table;
        return true;
    case X86_OP_SGDT:
    case X86_OP_SIDT:
        op->aux = insn->op == X86_OP_SIDT;
        op->fn = store_table;
        return true;
    case X86_OP_SLDT:
    case X86_OP_STR:
        op->aux = insn->op == X86_OP_STR;
        op->src = o->kind == X86_OPND_MEM;
        op->dst = o->kind == X86_OPND_REG ? t0_reg(o->reg) : 0;
        op->size = o->size;
        op->fn = store_sysreg;
        return true;
    case X86_OP_LLDT:
    case X86_OP_LTR:
        op->aux = insn->op == X86_OP_LTR;
        lower_src16(o, op);
        op->fn = load_sysreg;
        return true;
    case X86_OP_VERR:
    case X86_OP_VERW:
        op->aux = insn->op == X86_OP_VERW;
        lower_src16(o, op);
        op->fn = verr_verw;
        return true;
    case X86_OP_LAR:
    case X86_OP_LSL:
        op->aux = insn->op == X86_OP_LSL;
        op->dst = t0_reg(o->reg);
        lower_src16(&insn->opnd[1], op);
        op->fn = lar_lsl;
        return true;
    case X86_OP_ARPL:
        op->src = t0_reg(insn->opnd[1].reg);
        op->dst = o->kind == X86_OPND_REG ? t0_reg(o->reg) : 0;
        op->fn = o->kind == X86_OPND_REG ? arpl_reg : arpl_mem;
        return true;
    default: return false;
    }
}
