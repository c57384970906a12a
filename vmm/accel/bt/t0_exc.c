#include "vmm/accel/bt/t0_task.h"

#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_log.h"

/*
 * Exceptions and interrupts: delivery through the IDT (APM 2 chapter 8), double and
 * triple faults, INT n. The returns from them are in t0_ret.c.
 *
 * A delivery reads everything, writes the frame to the new stack, and only then
 * changes the CPU, so that a fault on the way leaves the state of before; but for task
 * gates, of which t0_task.c says more.
 */

/* Error code of faults found during delivery: EXT says an event was the cause. */
struct delivery {
    struct t0_cpu *c;
    enum t0_event kind;
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint32_t ext;
};

static bool fail_gate(const struct delivery *d, uint8_t vector)
{
    return t0_fail(d->c, vector, d->vector * 8u + 2 + d->ext);
}

static bool fail_sel(const struct delivery *d, uint8_t vector, uint16_t sel)
{
    return t0_fail(d->c, vector, (sel & 0xfffcu) | d->ext);
}

/* RFLAGS to push: RF is set for faults, so that a breakpoint on the instruction does
 * not hit again (APM 2 3.1.6). */
static uint64_t pushed_flags(const struct delivery *d)
{
    uint64_t f = t0_get_rflags(d->c);
    if (d->kind == T0_EVENT_EXTERNAL) {
        return f; /* the next instruction is as it would have been */
    }
    return d->kind == T0_EVENT_FAULT ? f | X86_FL_RF : f & ~(uint64_t)X86_FL_RF;
}

/* --- Stacks of inner levels ------------------------------------------------ */

bool t0_inner_stack(struct t0_cpu *c, unsigned cpl, uint32_t ext, uint16_t *ret_ss,
                    uint64_t *ret_sp)
{
    const struct x86_segment *tr = &c->s.tr;
    unsigned type = tr->attr & X86_SEG_TYPE;
    bool tss16 = type == X86_SYS_TSS16 || type == X86_SYS_TSS16_BUSY;
    uint32_t off = tss16 ? 2 + cpl * 4 : 4 + cpl * 8;
    unsigned size = t0_long_mode(c) ? 8 : tss16 ? 4 : 6;
    uint8_t b[8] = {0};
    if (off + size - 1 > tr->limit) {
        return t0_fail(c, X86_EXC_TS, (tr->sel & 0xfffcu) | ext);
    }
    if (t0_long_mode(c)) {
        *ret_ss = 0;
        return !t0_sys_words(c, tr->base + off, ret_sp, 1);
    }
    if (t0_sys_read(c, tr->base + off, b, size)) {
        return false;
    }
    if (tss16) {
        *ret_sp = le16_get(b);
        *ret_ss = le16_get(b + 2);
    } else {
        *ret_sp = le32_get(b);
        *ret_ss = le16_get(b + 4);
    }
    return true;
}

/* The stack segment of inner level @cpl in legacy mode (APM 2 4.11.2): #TS. */
bool t0_inner_ss(struct t0_cpu *c, uint16_t sel, unsigned cpl, uint32_t ext,
                 struct x86_segment *ret)
{
    struct t0_desc d;
    uint32_t error = (sel & 0xfffcu) | ext;
    if ((sel & 0xfffc) == 0) {
        return t0_fail(c, X86_EXC_TS, ext);
    }
    int r = t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    struct x86_segment s = t0_desc_segment(sel, d.raw);
    unsigned dpl = s.attr >> X86_SEG_DPL_SHIFT & 3;
    if (r == T0_DESC_LIMIT || (sel & 3) != cpl || dpl != cpl || !(s.attr & X86_SEG_S) ||
        (s.attr & X86_SEG_CODE) || !(s.attr & X86_SEG_RW)) {
        return t0_fail(c, X86_EXC_TS, error);
    }
    if (!(s.attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_SS, error);
    }
    if (t0_desc_accessed(c, &d)) {
        return false;
    }
    s.attr |= X86_SEG_ACCESSED;
    *ret = s;
    return true;
}

static bool in_stack(const struct x86_segment *ss, uint32_t mask, uint32_t off,
                     unsigned n)
{
    uint64_t last = (uint64_t)off + n - 1;
    return (ss->attr & X86_SEG_DOWN) ? off > ss->limit && last <= mask
                                     : last <= ss->limit;
}

/* Write a frame of @n bytes below @sp of @ss with @cpl's rights; legacy mode. */
bool t0_push_frame(struct t0_cpu *c, const struct x86_segment *ss, uint64_t *sp,
                   unsigned cpl, uint32_t ss_error, const void *frame, unsigned n,
                   unsigned word)
{
    const uint8_t *bytes = frame;
    uint32_t mask = (ss->attr & X86_SEG_DB) ? UINT32_MAX : 0xffff;
    uint32_t off = (uint32_t)(*sp - n) & mask;
    /* All of it at once, unless it wraps around between two words. */
    unsigned piece = (uint64_t)off + n - 1 > mask ? word : n;
    for (unsigned i = 0; i < n; i += piece) {
        if (!in_stack(ss, mask, (off + i) & mask, piece)) {
            return t0_fail(c, X86_EXC_SS, ss_error);
        }
    }
    struct t0_tlb_entry *old = t0_use_bank(c, t0_bank_for(c, cpl));
    uint64_t bad = 0;
    for (unsigned i = 0; i < n && !bad; i += piece) {
        uint32_t la = (uint32_t)(ss->base + ((off + i) & mask));
        bad = t0_write_bytes(c, la, bytes + i, piece, X86_SS);
    }
    c->tlb = old;
    *sp = (*sp & ~(uint64_t)mask) | off;
    return !bad;
}

/* --- Delivery -------------------------------------------------------------- */

static bool deliver_real(const struct delivery *d)
{
    struct t0_cpu *c = d->c;
    uint8_t entry[4], frame[6];
    uint64_t sp = c->gpr[X86_RSP];
    if (d->vector * 4u + 3 > c->s.idtr.limit) {
        return t0_fail(c, X86_EXC_GP, d->vector * 8u + 2 + d->ext);
    }
    if (t0_sys_read(c, c->s.idtr.base + d->vector * 4u, entry, 4)) {
        return false;
    }
    le16_put(frame, (uint16_t)c->s.rip);
    le16_put(frame + 2, c->s.seg[X86_CS].sel);
    le16_put(frame + 4, (uint16_t)t0_get_rflags(c));
    if (!t0_push_frame(c, &c->s.seg[X86_SS], &sp, 0, 0, frame, sizeof(frame), 2)) {
        return false;
    }
    c->gpr[X86_RSP] = sp;
    c->s.rip = le16_get(entry);
    c->s.seg[X86_CS].sel = le16_get(entry + 2);
    c->s.seg[X86_CS].base = (uint64_t)le16_get(entry + 2) << 4;
    c->s.rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_RF);
    return true;
}

struct gate {
    uint64_t off;
    uint16_t sel;
    uint8_t type, ist;
};

static bool read_gate(const struct delivery *d, struct gate *g)
{
    struct t0_cpu *c = d->c;
    bool lm = t0_long_mode(c);
    unsigned size = lm ? 16 : 8;
    uint64_t w[2];
    if (d->vector * size + size - 1 > c->s.idtr.limit) {
        return fail_gate(d, X86_EXC_GP);
    }
    if (t0_sys_words(c, c->s.idtr.base + d->vector * size, w, size / 8)) {
        return false;
    }
    g->off = (w[0] & 0xffff) | (w[0] >> 32 & 0xffff0000);
    g->sel = (uint16_t)(w[0] >> 16);
    g->ist = w[0] >> 32 & 7;
    g->type = w[0] >> 40 & 0x1f; /* S included, which no gate has set */
    unsigned dpl = w[0] >> 45 & 3;
    bool present = w[0] >> 47 & 1;
    if (lm) {
        g->off |= w[1] << 32;
    }
    bool known = g->type == X86_SYS_INT || g->type == X86_SYS_TRAP ||
                 (!lm && (g->type == X86_SYS_INT16 || g->type == X86_SYS_TRAP16 ||
                          g->type == X86_SYS_TASK));
    if (!known || (d->kind == T0_EVENT_SOFT && dpl < c->s.cpl)) {
        return fail_gate(d, X86_EXC_GP);
    }
    if (!present) {
        return fail_gate(d, X86_EXC_NP);
    }
    if (g->type == X86_SYS_INT16 || g->type == X86_SYS_TRAP16) {
        g->off &= 0xffff;
    }
    return true;
}

/* The gate's code segment and the level it runs at. */
static bool gate_code(const struct delivery *d, const struct gate *g,
                      struct x86_segment *cs, unsigned *cpl)
{
    struct t0_cpu *c = d->c;
    struct t0_desc desc;
    if ((g->sel & 0xfffc) == 0) {
        return t0_fail(c, X86_EXC_GP, d->ext);
    }
    int r = t0_desc_get(c, g->sel, &desc);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    *cs = t0_desc_segment(g->sel, desc.raw);
    unsigned dpl = cs->attr >> X86_SEG_DPL_SHIFT & 3;
    uint16_t sc = X86_SEG_S | X86_SEG_CODE;
    bool bits_ok =
        !t0_long_mode(c) || (cs->attr & (X86_SEG_L | X86_SEG_DB)) == X86_SEG_L;
    if (r == T0_DESC_LIMIT || (cs->attr & sc) != sc || dpl > c->s.cpl || !bits_ok) {
        return fail_sel(d, X86_EXC_GP, g->sel);
    }
    if (!(cs->attr & X86_SEG_P)) {
        return fail_sel(d, X86_EXC_NP, g->sel);
    }
    /* Out of virtual-8086 mode the way leads to level 0 only. */
    if ((c->s.rflags & X86_FL_VM) && ((cs->attr & X86_SEG_DOWN) || dpl != 0)) {
        return fail_sel(d, X86_EXC_GP, g->sel);
    }
    if (t0_desc_accessed(c, &desc)) {
        return false;
    }
    cs->attr |= X86_SEG_ACCESSED;
    *cpl = (cs->attr & X86_SEG_DOWN) ? c->s.cpl : dpl;
    cs->sel = (uint16_t)((g->sel & 0xfffc) | *cpl);
    return true;
}

static void enter_handler(const struct delivery *d, const struct gate *g,
                          const struct x86_segment *cs, unsigned cpl)
{
    struct t0_cpu *c = d->c;
    uint32_t clear = X86_FL_TF | X86_FL_NT | X86_FL_RF | X86_FL_VM;
    if (g->type == X86_SYS_INT || g->type == X86_SYS_INT16) {
        clear |= X86_FL_IF;
    }
    c->s.rflags &= ~(uint64_t)clear;
    c->s.seg[X86_CS] = *cs;
    c->s.cpl = (uint8_t)cpl;
    c->s.rip = g->off;
    if (likely(t0_is64(c) && (cs->attr & X86_SEG_L))) {
        t0_update_level(c);
    } else {
        t0_update_mode(c);
    }
}

/* IST entry @ist of the TSS (APM 2 12.2.5). */
static bool ist_stack(const struct delivery *d, unsigned ist, uint64_t *ret_sp)
{
    struct t0_cpu *c = d->c;
    uint32_t off = 0x24 + (ist - 1) * 8;
    if (off + 7 > c->s.tr.limit) {
        return fail_sel(d, X86_EXC_TS, c->s.tr.sel);
    }
    return !t0_sys_words(c, c->s.tr.base + off, ret_sp, 1);
}

/* APM 2 8.9. */
static bool deliver_long(const struct delivery *d)
{
    struct t0_cpu *c = d->c;
    struct gate g;
    struct x86_segment cs;
    unsigned cpl = 0;
    uint16_t unused;
    uint64_t sp = c->gpr[X86_RSP];
    if (!read_gate(d, &g) || !gate_code(d, &g, &cs, &cpl)) {
        return false;
    }
    if (g.ist) {
        if (!ist_stack(d, g.ist, &sp)) {
            return false;
        }
    } else if (cpl < c->s.cpl) {
        if (!t0_inner_stack(c, cpl, d->ext, &unused, &sp)) {
            return false;
        }
    }
    if (!t0_canonical(c, sp)) {
        return t0_fail(c, X86_EXC_SS, d->ext);
    }
    if (!t0_canonical(c, g.off)) {
        return t0_fail(c, X86_EXC_GP, d->ext);
    }
    uint64_t frame[6] = {d->error,        c->s.rip,        c->s.seg[X86_CS].sel,
                         pushed_flags(d), c->gpr[X86_RSP], c->s.seg[X86_SS].sel};
    unsigned n = d->has_error ? 48 : 40;
    sp = (sp & ~UINT64_C(15)) - n;
    struct t0_tlb_entry *old = t0_use_bank(c, t0_bank_for(c, cpl));
    uint8_t *h = t0_host_write(c, sp, n);
    uint64_t bad = 0;
    if (likely(h != NULL)) {
        for (unsigned i = 0; i < n / 8; i++) {
            gmem_copy(h + i * 8, frame + !d->has_error + i, 8);
        }
    } else {
        bad = t0_write_bytes(c, sp, frame + !d->has_error, n, X86_SS);
    }
    c->tlb = old;
    if (bad) {
        return false;
    }
    if (cpl != c->s.cpl) {
        c->s.seg[X86_SS] = (struct x86_segment){
            .sel = (uint16_t)cpl, .attr = (uint16_t)(cpl << X86_SEG_DPL_SHIFT)};
    }
    c->gpr[X86_RSP] = sp;
    enter_handler(d, &g, &cs, cpl);
    return true;
}

/* Append a 16- or 32-bit word below the ones before. */
static unsigned frame_put(uint8_t *frame, unsigned at, unsigned size, uint32_t v)
{
    if (size == 4) {
        le32_put(frame + at, v);
    } else {
        le16_put(frame + at, (uint16_t)v);
    }
    return at + size;
}

/* Through a task gate: the error code goes onto the new task's stack. */
static bool deliver_task(const struct delivery *d, const struct gate *g)
{
    struct t0_cpu *c = d->c;
    struct t0_task_from from = {.how = T0_TASK_EVENT,
                                .rip = c->s.rip,
                                .rflags = pushed_flags(d),
                                .ext = d->ext};
    if (!t0_task_switch(c, g->sel, &from)) {
        return false;
    }
    bool tss32 = c->s.tr.attr & 8;
    if (d->has_error && t0_push(c, d->error, tss32 ? 4 : 2)) {
        c->exc.error |= c->exc.vector == X86_EXC_SS ? d->ext : 0;
        return false;
    }
    return t0_task_trap(c);
}

/* What an event in virtual-8086 mode saves beyond the stack, and makes null. */
static const uint8_t vm86_saved[] = {X86_ES, X86_DS, X86_FS, X86_GS};

/* APM 2 8.7, and 8.10 out of virtual-8086 mode. */
static bool deliver_protected(const struct delivery *d)
{
    struct t0_cpu *c = d->c;
    struct gate g;
    struct x86_segment cs, ss = c->s.seg[X86_SS];
    unsigned cpl = 0, n = 0;
    uint64_t sp = c->gpr[X86_RSP];
    if (!read_gate(d, &g)) {
        return false;
    }
    if (g.type == X86_SYS_TASK) {
        return deliver_task(d, &g);
    }
    if (!gate_code(d, &g, &cs, &cpl)) {
        return false;
    }
    bool inner = cpl < c->s.cpl, vm86 = c->s.rflags & X86_FL_VM;
    uint32_t ss_error = d->ext;
    if (inner) {
        uint16_t sel;
        if (!t0_inner_stack(c, cpl, d->ext, &sel, &sp) ||
            !t0_inner_ss(c, sel, cpl, d->ext, &ss)) {
            return false;
        }
        ss_error = (sel & 0xfffcu) | d->ext;
    }
    if (g.off > cs.limit) {
        return t0_fail(c, X86_EXC_GP, d->ext);
    }
    unsigned size = g.type >= X86_SYS_INT ? 4 : 2;
    uint8_t frame[10 * 4];
    if (d->has_error) {
        n = frame_put(frame, n, size, d->error);
    }
    n = frame_put(frame, n, size, (uint32_t)c->s.rip);
    n = frame_put(frame, n, size, c->s.seg[X86_CS].sel);
    n = frame_put(frame, n, size, (uint32_t)pushed_flags(d));
    if (inner) {
        n = frame_put(frame, n, size, (uint32_t)c->gpr[X86_RSP]);
        n = frame_put(frame, n, size, c->s.seg[X86_SS].sel);
    }
    for (unsigned i = 0; vm86 && i < ARRAY_LEN(vm86_saved); i++) {
        n = frame_put(frame, n, size, c->s.seg[vm86_saved[i]].sel);
    }
    if (!t0_push_frame(c, &ss, &sp, cpl, ss_error, frame, n, size)) {
        return false;
    }
    for (unsigned i = 0; vm86 && i < ARRAY_LEN(vm86_saved); i++) {
        c->s.seg[vm86_saved[i]] = (struct x86_segment){0};
    }
    c->s.seg[X86_SS] = ss;
    c->gpr[X86_RSP] = sp;
    enter_handler(d, &g, &cs, cpl);
    return true;
}

bool t0_deliver(struct t0_cpu *c, enum t0_event kind, uint8_t vector, bool has_error,
                uint32_t error)
{
    struct delivery d = {
        .c = c,
        .kind = kind,
        .vector = vector,
        .has_error = has_error,
        .error = error,
        .ext = kind != T0_EVENT_SOFT,
    };
    bool ok;
    if (unlikely(c->vcpu->vm->log)) {
        t0_log_event(c, kind, vector, error);
    }
    if (!(c->s.cr0 & X86_CR0_PE)) {
        d.has_error = false;
        ok = deliver_real(&d);
        t0_update_mode(c);
    } else if (t0_long_mode(c)) {
        ok = deliver_long(&d);
    } else {
        ok = deliver_protected(&d);
        t0_update_mode(c); /* a task switch */
    }
    if (ok) {
        c->s.int_shadow = false;
    }
    return ok;
}

/* Benign, contributory, page fault (APM 2 table 8-2). */
static int exc_class(uint8_t vector)
{
    switch (vector) {
    case X86_EXC_DE:
    case X86_EXC_TS:
    case X86_EXC_NP:
    case X86_EXC_SS:
    case X86_EXC_GP: return 1;
    case X86_EXC_PF: return 2;
    default: return 0;
    }
}

bool t0_deliver_exc(struct t0_cpu *c)
{
    struct t0_exception e = c->exc;
    for (;;) {
        if (e.vector == X86_EXC_PF) {
            c->s.cr2 = e.cr2;
        }
        if (t0_deliver(c, T0_EVENT_FAULT, e.vector, e.has_error, e.error)) {
            return true;
        }
        if (e.vector == X86_EXC_DF) {
            return false;
        }
        t0_log_second_fault(c, e.vector, c->exc.vector);
        int first = exc_class(e.vector), second = exc_class(c->exc.vector);
        bool dbl = (first == 1 && second == 1) || (first == 2 && second != 0);
        e = c->exc;
        if (dbl) {
            e = (struct t0_exception){
                .vector = X86_EXC_DF, .has_error = true, .error = 0};
        }
    }
}

/* --- Instructions ---------------------------------------------------------- */

/* INT n, INT3, INTO, INT1; aux: vector */
const struct t0_op *t0_int_op(struct t0_cpu *c, const struct t0_op *op)
{
    enum t0_event kind = op->dst ? T0_EVENT_TRAP : T0_EVENT_SOFT;
    c->s.rip = t0_next_rip(c, op);
    c->core->new_task = false;
    if (!t0_deliver(c, kind, op->aux, false, 0)) {
        return c->core->new_task ? t0_fault_after(c, op) : T0_FAULT(c, op);
    }
    if (op->dst) {
        t0_debug_enter(c, c->core->debug_bits);
    }
    c->core->no_trap = true;
    c->insns += t0_nb_done(c, op);
    return NULL;
}

HANDLER(op_into)
{
    return (c->flags & T0_FLAG_OF) ? t0_int_op(c, op) : t0_end_block(c, op);
}

HANDLER(op_ud)
{
    return t0_raise(c, op, X86_EXC_UD);
}

bool t0_lower_exc(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_INT:
        op->aux = (uint8_t)insn->imm;
        op->fn = t0_int_op;
        return true;
    case X86_OP_INT3:
        op->aux = X86_EXC_BP;
        op->fn = t0_int_op;
        return true;
    case X86_OP_INT1:
        op->aux = X86_EXC_DB;
        op->dst = 1; /* no check of the gate's DPL */
        op->fn = t0_int_op;
        return true;
    case X86_OP_INTO:
        op->aux = X86_EXC_OF;
        op->fn = op_into;
        return true;
    case X86_OP_IRET: return t0_lower_ret(insn, ctx, op);
    case X86_OP_UD0:
    case X86_OP_UD1:
    case X86_OP_UD2: op->fn = op_ud; return true;
    default: return false;
    }
}
