#include "vmm/accel/bt/t0_priv.h"

#include "lib/base/bytes.h"

/*
 * Segmentation: loads of segment registers, descriptor tables, far transfers, the
 * system calls that load flat segments. APM 2 chapter 4 and 6.1; the instructions'
 * own pages in APM 3.
 *
 * Task switches (JMP and CALL to a TSS or a task gate) are not implemented: #GP with
 * the selector.
 */

#define HANDLER(name) \
    static const struct t0_op *name(struct t0_cpu *c, const struct t0_op *op)

static uint64_t raise_sel(struct t0_cpu *c, uint8_t vector, uint16_t sel)
{
    t0_set_exc_error(c, vector, sel & 0xfffcu);
    return 1;
}

static unsigned dpl_of(const struct x86_segment *s)
{
    return s->attr >> X86_SEG_DPL_SHIFT & 3;
}

static bool is_null(uint16_t sel)
{
    return (sel & 0xfffc) == 0;
}

static bool protected_mode(const struct t0_cpu *c)
{
    return c->mode & T0_MODE_PE;
}

/* --- Descriptors ----------------------------------------------------------- */

int t0_desc_get(struct t0_cpu *c, uint16_t sel, struct t0_desc *ret)
{
    uint64_t base = c->s.gdtr.base;
    uint32_t limit = c->s.gdtr.limit;
    uint8_t b[8];
    ret->raw = 0;
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
    if (t0_sys_read(c, ret->addr, b, 8)) {
        return T0_DESC_FAULT;
    }
    ret->raw = le64_get(b);
    return T0_DESC_OK;
}

struct x86_segment t0_desc_segment(uint16_t sel, uint64_t raw)
{
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
    uint16_t attr = (uint16_t)(raw >> 40 & 0xf0ff);
    if (attr & X86_SEG_G) {
        limit = limit << 12 | 0xfff;
    }
    return (struct x86_segment){
        .sel = sel,
        .attr = attr,
        .limit = limit,
        .base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000),
    };
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

/* System descriptors of long mode are 16 bytes (APM 2 4.8.3). */
static uint64_t read_upper_base(struct t0_cpu *c, const struct t0_desc *d,
                                uint64_t *base)
{
    uint8_t b[8];
    if (!t0_long_mode(c)) {
        return 0;
    }
    if (t0_sys_read(c, d->addr + 8, b, 8)) {
        return 1;
    }
    *base |= (uint64_t)le32_get(b) << 32;
    if (!t0_canonical(*base)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    return 0;
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

uint64_t t0_load_seg(struct t0_cpu *c, unsigned seg, uint16_t sel)
{
    struct t0_desc d;
    if (!protected_mode(c)) {
        c->s.seg[seg].sel = sel;
        c->s.seg[seg].base = (uint64_t)sel << 4;
        return 0;
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

void t0_drop_outer_segs(struct t0_cpu *c)
{
    static const uint8_t which[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(which); i++) {
        struct x86_segment *s = &c->s.seg[which[i]];
        bool conforming = (s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_DOWN);
        if ((s->attr & X86_SEG_P) && dpl_of(s) < c->s.cpl && !conforming) {
            *s = (struct x86_segment){0};
        }
    }
}

static struct t0_val load_at(struct t0_cpu *c, const struct t0_op *op, unsigned off,
                             unsigned size)
{
    struct t0_val a = t0_ea(c, op, off + size, false);
    return unlikely(a.fault) ? a : t0_load(c, a.v + off, size, op->seg);
}

/* After a load of @seg. SS keeps interrupts away from the next instruction. */
static const struct t0_op *seg_loaded(struct t0_cpu *c, const struct t0_op *op,
                                      unsigned seg)
{
    t0_update_mode(c);
    if (seg == X86_SS) {
        c->s.int_shadow = true;
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

/* Selectors go to memory as 16 bits, to registers zero-extended. */
static void put_reg(struct t0_cpu *c, const struct t0_op *op, uint64_t v)
{
    if (op->size == 2) {
        T0_W16(c, op->dst, v);
    } else if (op->size == 4) {
        T0_W32(c, op->dst, v);
    } else {
        T0_W64(c, op->dst, v);
    }
}

HANDLER(mov_reg_seg)
{
    put_reg(c, op, c->s.seg[op->src].sel);
    return T0_NEXT(c, op);
}

static const struct t0_op *store16(struct t0_cpu *c, const struct t0_op *op, uint16_t v)
{
    struct t0_val a = t0_ea(c, op, 2, true);
    if (a.fault || t0_store(c, a.v, v, 2, op->seg)) {
        return T0_FAULT(c, op);
    }
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

static bool is_amd(const struct t0_cpu *c)
{
    const char *v = c->core->model->vendor;
    return !strcmp(v, "AuthenticAMD") || !strcmp(v, "HygonGenuine");
}

/* Size of the offset of a far pointer in memory: AMD's has at most 32 bits (APM 3, the
 * far forms of JMP). */
static unsigned far_size(const struct t0_cpu *c, const struct t0_op *op)
{
    return op->size == 8 && is_amd(c) ? 4 : op->size;
}

/* LDS, LES, LSS, LFS, LGS; src: segment, dst: register */
HANDLER(load_far)
{
    unsigned size = far_size(c, op);
    struct t0_val off = load_at(c, op, 0, size);
    struct t0_val sel = off.fault ? off : load_at(c, op, size, 2);
    if (sel.fault || t0_load_seg(c, op->src, (uint16_t)sel.v)) {
        return T0_FAULT(c, op);
    }
    put_reg(c, op, off.v);
    return seg_loaded(c, op, op->src);
}

/* --- Descriptor tables ----------------------------------------------------- */

static bool umip_forbids(const struct t0_cpu *c)
{
    return c->s.cpl && (c->s.cr4 & X86_CR4_UMIP);
}

static const struct t0_op *gp0(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise_error(c, op, X86_EXC_GP, 0);
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
    if (m64 && !t0_canonical(base.v)) {
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

/* aux: 1 for LSL */
HANDLER(lar_lsl)
{
    struct t0_val v = operand16(c, op);
    struct t0_desc d;
    struct x86_segment s;
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    int ok = visible(c, (uint16_t)v.v, &d, &s);
    if (ok < 0) {
        return T0_FAULT(c, op);
    }
    ok = ok &&
         ((s.attr & X86_SEG_S) || system_type_ok(c, s.attr & X86_SEG_TYPE, !op->aux));
    set_zf(c, ok);
    if (ok) {
        put_reg(c, op, op->aux ? s.limit : d.raw >> 32 & 0xffff00);
    }
    return T0_NEXT(c, op);
}

/* aux: 1 for VERW */
HANDLER(verr_verw)
{
    struct t0_val v = operand16(c, op);
    struct t0_desc d;
    struct x86_segment s;
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    int ok = visible(c, (uint16_t)v.v, &d, &s);
    if (ok < 0) {
        return T0_FAULT(c, op);
    }
    if (ok) {
        bool code = s.attr & X86_SEG_CODE, rw = s.attr & X86_SEG_RW;
        ok = (s.attr & X86_SEG_S) && (op->aux ? !code && rw : !code || rw);
    }
    set_zf(c, ok);
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

HANDLER(arpl_mem)
{
    struct t0_val a = t0_ea(c, op, 2, true);
    struct t0_val p = a.fault ? a : t0_rmw_begin(c, a.v, 2, op->seg);
    if (p.fault) {
        return T0_FAULT(c, op);
    }
    uint16_t *d = (uint16_t *)(uintptr_t)p.v, rpl = T0_R16(c, op->src) & 3;
    bool raise = (*d & 3) < rpl;
    if (raise) {
        *d = (uint16_t)((*d & ~3u) | rpl);
    }
    set_zf(c, raise);
    t0_rmw_end(c, p.v);
    return T0_NEXT(c, op);
}

/* --- Far transfers --------------------------------------------------------- */

static uint64_t check_target(struct t0_cpu *c, const struct x86_segment *cs,
                             uint64_t rip)
{
    bool to64 = t0_long_mode(c) && (cs->attr & X86_SEG_L);
    if (to64 ? !t0_canonical(rip) : rip > cs->limit) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    return 0;
}

static uint64_t far_real(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                         uint64_t off, bool call)
{
    if (off > c->s.seg[X86_CS].limit) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    if (call) {
        uint64_t sp = c->gpr[X86_RSP];
        if (t0_push(c, c->s.seg[X86_CS].sel, op->size)) {
            return 1;
        }
        if (t0_push(c, t0_next_rip(c, op), op->size)) {
            c->gpr[X86_RSP] = sp;
            return 1;
        }
    }
    c->s.seg[X86_CS].sel = sel;
    c->s.seg[X86_CS].base = (uint64_t)sel << 4;
    c->s.rip = off;
    return 0;
}

static uint64_t far_code(struct t0_cpu *c, const struct t0_op *op, struct t0_desc *d,
                         struct x86_segment *cs, uint64_t off, bool call)
{
    unsigned dpl = dpl_of(cs), rpl = cs->sel & 3;
    bool conforming = cs->attr & X86_SEG_DOWN;
    uint16_t both = X86_SEG_L | X86_SEG_DB;
    if ((conforming ? dpl > c->s.cpl : rpl > c->s.cpl || dpl != c->s.cpl) ||
        (t0_long_mode(c) && (cs->attr & both) == both)) {
        return raise_sel(c, X86_EXC_GP, cs->sel);
    }
    if (!(cs->attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, cs->sel);
    }
    if (check_target(c, cs, off) || t0_desc_accessed(c, d)) {
        return 1;
    }
    if (call) {
        uint64_t sp = c->gpr[X86_RSP];
        if (t0_push(c, c->s.seg[X86_CS].sel, op->size)) {
            return 1;
        }
        if (t0_push(c, t0_next_rip(c, op), op->size)) {
            c->gpr[X86_RSP] = sp;
            return 1;
        }
    }
    cs->attr |= X86_SEG_ACCESSED;
    cs->sel = (uint16_t)((cs->sel & 0xfffc) | c->s.cpl);
    c->s.seg[X86_CS] = *cs;
    c->s.rip = off;
    return 0;
}

/* What a call gate says. */
struct call_gate {
    uint16_t sel;
    uint64_t off;
    unsigned params, size; /* words, bytes per word */
};

/* CALL through a gate to an inner level: new stack, parameters, return address. */
static uint64_t gate_inner(struct t0_cpu *c, const struct t0_op *op,
                           const struct call_gate *g, unsigned cpl)
{
    bool lm = t0_long_mode(c);
    uint8_t frame[32 * 4 + 32];
    uint16_t sel;
    uint64_t sp, old_sp = c->gpr[X86_RSP];
    struct x86_segment ss = {.sel = (uint16_t)cpl,
                             .attr = (uint16_t)(cpl << X86_SEG_DPL_SHIFT)};
    uint64_t words[4] = {t0_next_rip(c, op), c->s.seg[X86_CS].sel, old_sp,
                         c->s.seg[X86_SS].sel};
    unsigned n = 0, size = g->size;
    if (!t0_inner_stack(c, cpl, 0, &sel, &sp) ||
        (!lm && !t0_inner_ss(c, sel, cpl, 0, &ss))) {
        return 1;
    }
    for (unsigned i = 0; i < 2; i++, n += size) {
        memcpy(frame + n, &words[i], size);
    }
    for (unsigned i = 0; !lm && i < g->params; i++, n += size) {
        c->gpr[X86_RSP] = old_sp + i * size;
        struct t0_val v = t0_pop_peek(c, size);
        c->gpr[X86_RSP] = old_sp;
        if (v.fault) {
            return 1;
        }
        memcpy(frame + n, &v.v, size);
    }
    for (unsigned i = 2; i < 4; i++, n += size) {
        memcpy(frame + n, &words[i], size);
    }
    if (lm) {
        sp -= n;
        if (t0_sys_write(c, sp, frame, n)) {
            return 1;
        }
    } else if (!t0_push_frame(c, &ss, &sp, cpl, sel & 0xfffcu, frame, n)) {
        return 1;
    }
    c->s.seg[X86_SS] = ss;
    c->gpr[X86_RSP] = sp;
    return 0;
}

static uint64_t read_gate(struct t0_cpu *c, const struct t0_desc *d, unsigned type,
                          struct call_gate *g)
{
    uint64_t upper = 0;
    g->sel = (uint16_t)(d->raw >> 16);
    g->off = (d->raw & 0xffff) | (d->raw >> 32 & 0xffff0000);
    g->params = d->raw >> 32 & 31;
    g->size = type == X86_SYS_CALL16 ? 2 : 4;
    if (g->size == 2) {
        g->off &= 0xffff;
    }
    if (t0_long_mode(c)) {
        uint8_t b[8];
        if (t0_sys_read(c, d->addr + 8, b, 8)) {
            return 1;
        }
        upper = le32_get(b);
        g->off |= upper << 32;
        g->size = 8;
    }
    return 0;
}

/* APM 2 4.11.2, and 4.8.3 for long mode. */
static uint64_t far_gate(struct t0_cpu *c, const struct t0_op *op, uint16_t sel,
                         const struct t0_desc *d, const struct x86_segment *s,
                         bool call)
{
    struct call_gate g;
    struct t0_desc cd;
    unsigned type = s->attr & X86_SEG_TYPE, rpl = sel & 3;
    bool known = type == X86_SYS_CALL || (!t0_long_mode(c) && type == X86_SYS_CALL16);
    if (!known || dpl_of(s) < c->s.cpl || dpl_of(s) < rpl) {
        return raise_sel(c, X86_EXC_GP, sel);
    }
    if (!(s->attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, sel);
    }
    if (read_gate(c, d, type, &g)) {
        return 1;
    }
    if (is_null(g.sel)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return 1;
    }
    int r = t0_desc_get(c, g.sel, &cd);
    if (r == T0_DESC_FAULT) {
        return 1;
    }
    struct x86_segment cs = t0_desc_segment(g.sel, cd.raw);
    uint16_t sc = X86_SEG_S | X86_SEG_CODE;
    bool conforming = cs.attr & X86_SEG_DOWN;
    bool bits_ok =
        !t0_long_mode(c) || (cs.attr & (X86_SEG_L | X86_SEG_DB)) == X86_SEG_L;
    unsigned dpl = dpl_of(&cs);
    if (r == T0_DESC_LIMIT || (cs.attr & sc) != sc || dpl > c->s.cpl || !bits_ok ||
        (!call && !conforming && dpl != c->s.cpl)) {
        return raise_sel(c, X86_EXC_GP, g.sel);
    }
    if (!(cs.attr & X86_SEG_P)) {
        return raise_sel(c, X86_EXC_NP, g.sel);
    }
    if (check_target(c, &cs, g.off) || t0_desc_accessed(c, &cd)) {
        return 1;
    }
    unsigned cpl = conforming ? c->s.cpl : dpl;
    uint64_t sp = c->gpr[X86_RSP];
    if (call && cpl < c->s.cpl) {
        if (gate_inner(c, op, &g, cpl)) {
            return 1;
        }
    } else if (call && (t0_push(c, c->s.seg[X86_CS].sel, g.size) ||
                        t0_push(c, t0_next_rip(c, op), g.size))) {
        c->gpr[X86_RSP] = sp;
        return 1;
    }
    cs.attr |= X86_SEG_ACCESSED;
    cs.sel = (uint16_t)((g.sel & 0xfffc) | cpl);
    c->s.seg[X86_CS] = cs;
    c->s.cpl = (uint8_t)cpl;
    c->s.rip = g.off;
    return 0;
}

static const struct t0_op *far_to(struct t0_cpu *c, const struct t0_op *op,
                                  uint16_t sel, uint64_t off, bool call)
{
    struct t0_desc d;
    uint64_t bad;
    if (!protected_mode(c)) {
        bad = far_real(c, op, sel, off, call);
    } else if (is_null(sel)) {
        return gp0(c, op);
    } else {
        int r = t0_desc_get(c, sel, &d);
        if (r == T0_DESC_FAULT) {
            return T0_FAULT(c, op);
        }
        if (r == T0_DESC_LIMIT) {
            return t0_raise_error(c, op, X86_EXC_GP, sel & 0xfffcu);
        }
        struct x86_segment s = t0_desc_segment(sel, d.raw);
        if (!(s.attr & X86_SEG_S)) {
            bad = far_gate(c, op, sel, &d, &s, call);
        } else if (s.attr & X86_SEG_CODE) {
            bad = far_code(c, op, &d, &s, off, call);
        } else {
            bad = raise_sel(c, X86_EXC_GP, sel);
        }
    }
    if (bad) {
        return T0_FAULT(c, op);
    }
    t0_update_mode(c);
    c->insns += t0_nb_done(c, op);
    return NULL;
}

/* aux: 1 for CALL; aux2: selector */
HANDLER(far_imm)
{
    return far_to(c, op, op->aux2, (uint64_t)op->imm, op->aux);
}

HANDLER(far_mem)
{
    unsigned size = far_size(c, op);
    struct t0_val off = load_at(c, op, 0, size);
    struct t0_val sel = off.fault ? off : load_at(c, op, size, 2);
    if (sel.fault) {
        return T0_FAULT(c, op);
    }
    return far_to(c, op, (uint16_t)sel.v, off.v, op->aux);
}

HANDLER(retf)
{
    if (!t0_far_return(c, op->size, (unsigned)op->imm, false)) {
        return T0_FAULT(c, op);
    }
    c->insns += t0_nb_done(c, op);
    return NULL;
}

HANDLER(retf_real)
{
    uint64_t sp = c->gpr[X86_RSP];
    struct t0_val off = t0_pop_peek(c, op->size);
    t0_sp_add(c, op->size);
    struct t0_val sel = off.fault ? off : t0_pop_peek(c, op->size);
    if (sel.fault || off.v > c->s.seg[X86_CS].limit) {
        c->gpr[X86_RSP] = sp;
        return sel.fault ? T0_FAULT(c, op) : gp0(c, op);
    }
    t0_sp_add(c, op->size + op->imm);
    c->s.seg[X86_CS].sel = (uint16_t)sel.v;
    c->s.seg[X86_CS].base = (sel.v & 0xffff) << 4;
    t0_update_mode(c);
    return t0_leave(c, op, off.v);
}

/* --- System calls ---------------------------------------------------------- */

struct x86_segment t0_flat_code(uint16_t sel, unsigned dpl, bool long_mode)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_RW |
                           X86_SEG_ACCESSED | X86_SEG_G | dpl << X86_SEG_DPL_SHIFT |
                           (long_mode ? X86_SEG_L : X86_SEG_DB)),
        .limit = UINT32_MAX,
    };
}

struct x86_segment t0_flat_stack(uint16_t sel, unsigned dpl)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED |
                           X86_SEG_G | X86_SEG_DB | dpl << X86_SEG_DPL_SHIFT),
        .limit = UINT32_MAX,
    };
}

static const struct t0_op *switched(struct t0_cpu *c, const struct t0_op *op,
                                    uint64_t rip)
{
    c->core->no_trap = true;
    t0_update_mode(c);
    return t0_jump(c, op, rip);
}

/* APM 2 6.1.1. */
HANDLER(op_syscall)
{
    uint64_t star = c->s.msr.star, next = t0_next_rip(c, op);
    bool lm = t0_long_mode(c), m64 = t0_is64(c);
    if (!(c->s.efer & X86_EFER_SCE) || (!m64 && !is_amd(c))) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint16_t sel = (uint16_t)(star >> 32 & 0xfffc);
    uint64_t rip;
    c->gpr[X86_RCX] = m64 ? next : (uint32_t)next;
    if (lm) {
        c->gpr[X86_R11] = t0_get_rflags(c) & ~(uint64_t)X86_FL_RF;
        rip = m64 ? c->s.msr.lstar : c->s.msr.cstar;
        t0_set_rflags(c, t0_get_rflags(c) & ~c->s.msr.sfmask & ~(uint64_t)X86_FL_RF);
    } else {
        rip = (uint32_t)star;
        c->s.rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_VM | X86_FL_RF);
    }
    c->s.cpl = 0;
    c->s.seg[X86_CS] = t0_flat_code(sel, 0, lm);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 0);
    return switched(c, op, rip);
}

HANDLER(op_sysret)
{
    uint64_t star = c->s.msr.star;
    if (!(c->s.efer & X86_EFER_SCE) || (!t0_is64(c) && !is_amd(c))) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (c->s.cpl) {
        return gp0(c, op);
    }
    bool to64 = op->size == 8;
    uint64_t rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
    if (to64 && !is_amd(c) && !t0_canonical(rip)) {
        return gp0(c, op);
    }
    uint16_t sel = (uint16_t)(star >> 48);
    if (t0_long_mode(c)) {
        uint64_t keep = X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL |
                        X86_FL_NT | X86_FL_AC | X86_FL_VIF | X86_FL_VIP | X86_FL_ID;
        t0_set_rflags(c, c->gpr[X86_R11] & keep);
    } else {
        c->s.rflags |= X86_FL_IF;
    }
    c->s.cpl = 3;
    c->s.seg[X86_CS] = t0_flat_code((uint16_t)((to64 ? sel + 16 : sel) | 3), 3, to64);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)((sel + 8) | 3), 3);
    return switched(c, op, rip);
}

/* APM 2 6.1.2: AMD has SYSENTER in legacy mode only, Intel everywhere. */
HANDLER(op_sysenter)
{
    bool lm = t0_long_mode(c);
    if (lm && is_amd(c)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint16_t sel = (uint16_t)(c->s.msr.sysenter_cs & 0xfffc);
    if (!sel) {
        return gp0(c, op);
    }
    c->s.rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    c->s.cpl = 0;
    c->s.seg[X86_CS] = t0_flat_code(sel, 0, lm);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 0);
    c->gpr[X86_RSP] = lm ? c->s.msr.sysenter_esp : (uint32_t)c->s.msr.sysenter_esp;
    return switched(c, op,
                    lm ? c->s.msr.sysenter_eip : (uint32_t)c->s.msr.sysenter_eip);
}

HANDLER(op_sysexit)
{
    bool lm = t0_long_mode(c), to64 = op->size == 8;
    if (lm && is_amd(c)) { /* the privilege is checked first */
        return c->s.cpl ? gp0(c, op) : t0_raise(c, op, X86_EXC_UD);
    }
    uint16_t sel = (uint16_t)(c->s.msr.sysenter_cs & 0xfffc);
    if (!sel || c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t rip = c->gpr[X86_RDX], rsp = c->gpr[X86_RCX];
    if (to64 && (!t0_canonical(rip) || !t0_canonical(rsp))) {
        return gp0(c, op);
    }
    sel = (uint16_t)((sel + (to64 ? 32 : 16)) | 3);
    c->s.cpl = 3;
    c->s.seg[X86_CS] = t0_flat_code(sel, 3, to64);
    c->s.seg[X86_SS] = t0_flat_stack((uint16_t)(sel + 8), 3);
    c->gpr[X86_RSP] = to64 ? rsp : (uint32_t)rsp;
    return switched(c, op, to64 ? rip : (uint32_t)rip);
}

HANDLER(op_swapgs)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t base = c->s.msr.kernel_gs_base;
    c->s.msr.kernel_gs_base = c->s.seg[X86_GS].base;
    c->s.seg[X86_GS].base = c->seg_base[X86_GS] = base;
    return T0_NEXT(c, op);
}

/* aux: segment */
HANDLER(read_base)
{
    if (!(c->s.cr4 & X86_CR4_FSGSBASE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    put_reg(c, op, c->s.seg[op->aux].base);
    return T0_NEXT(c, op);
}

HANDLER(write_base)
{
    if (!(c->s.cr4 & X86_CR4_FSGSBASE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    uint64_t v = op->size == 8 ? T0_R64(c, op->dst) : T0_R32(c, op->dst);
    if (!t0_canonical(v)) {
        return gp0(c, op);
    }
    c->s.seg[op->aux].base = c->seg_base[op->aux] = v;
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

/* A 16-bit source: src is a register, or T0_REG_ZERO's offset for memory. */
static void lower_src16(const struct x86_opnd *o, struct t0_op *op)
{
    op->src = o->kind == X86_OPND_REG ? t0_reg(o->reg) : T0_REG_ZERO * 8;
}

static bool lower_table(const struct x86_insn *insn, struct t0_op *op)
{
    const struct x86_opnd *o = &insn->opnd[0];
    switch (insn->op) {
    case X86_OP_LGDT:
    case X86_OP_LIDT:
        op->aux = insn->op == X86_OP_LIDT;
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

static bool lower_far(const struct x86_insn *insn, const struct t0_lower *ctx,
                      struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_JMPF:
    case X86_OP_CALLF:
        op->aux = insn->op == X86_OP_CALLF;
        op->aux2 = insn->imm2;
        op->fn = insn->opnd[0].kind == X86_OPND_FAR ? far_imm : far_mem;
        return true;
    case X86_OP_RETF:
        op->imm = insn->nb_opnds ? insn->imm & 0xffff : 0;
        op->fn = ctx->mode & T0_MODE_PE ? retf : retf_real;
        return true;
    case X86_OP_SYSCALL: op->fn = op_syscall; return true;
    case X86_OP_SYSRET: op->fn = op_sysret; return true;
    case X86_OP_SYSENTER: op->fn = op_sysenter; return true;
    case X86_OP_SYSEXIT: op->fn = op_sysexit; return true;
    case X86_OP_SWAPGS: op->fn = op_swapgs; return true;
    case X86_OP_RDFSBASE:
    case X86_OP_RDGSBASE:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE: {
        bool gs = insn->op == X86_OP_RDGSBASE || insn->op == X86_OP_WRGSBASE;
        bool rd = insn->op == X86_OP_RDFSBASE || insn->op == X86_OP_RDGSBASE;
        op->aux = gs ? X86_GS : X86_FS;
        op->dst = t0_reg(insn->opnd[0].reg);
        op->fn = rd ? read_base : write_base;
        return true;
    }
    default: return false;
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
    default: return lower_table(insn, op) || lower_far(insn, ctx, op);
    }
}
