#include "vmm/accel/bt/t0_task.h"

#include "lib/base/bytes.h"

/*
 * Task switches of the hardware: APM 2 12.2 and 12.3; Intel SDM 3 chapter 8 for the
 * order of the checks and who is told of which fault.
 *
 * A task-state segment holds, from `save` on and every `word` bytes, the instruction
 * pointer, the flags, eight general registers and the segment registers in the order
 * of their encoding. 16-bit ones have neither FS and GS nor CR3.
 *
 * Everything that can fault in the task that is left comes first: the new TSS is read,
 * and the link and busy bits that will be written are tried. Then the old state is
 * saved, which is the point of no return: from there on faults belong to the new task,
 * whose registers are those of its TSS but for the segments that are still to be
 * checked. Those have no hidden part yet, and as long as SS is one of them the
 * privilege level is 3, so that a handler gets a stack of its own.
 */

struct layout {
    uint8_t word, save, nb_seg, ldt, least; /* least: limit that a TSS must have */
};

static const struct layout layouts[2] = {
    {.word = 2, .save = 0x0e, .nb_seg = 4, .ldt = 0x2a, .least = 0x2b},
    {.word = 4, .save = 0x20, .nb_seg = 6, .ldt = 0x60, .least = 0x67},
};

/* Breakpoints of the task alone (APM 2 13.1.1.4), and the trap of a T bit. */
#define DR7_LOCAL UINT64_C(0x155)
#define DR6_BT    (UINT64_C(1) << 15)

enum { NB_REGS = 8, SAVED_MAX = 16 * 4, CR3 = 0x1c, TRAP = 0x64 };

/* Flags that a TSS can hold. */
#define FLAGS_KNOWN                                                               \
    (X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL | X86_FL_NT | \
     X86_FL_RF | X86_FL_VM | X86_FL_AC | X86_FL_VIF | X86_FL_VIP | X86_FL_ID)

static const struct layout *layout_of(const struct x86_segment *tss)
{
    return &layouts[(tss->attr & 8) != 0];
}

static uint32_t get(const uint8_t *p, unsigned word)
{
    return word == 4 ? le32_get(p) : le16_get(p);
}

static void put(uint8_t *p, unsigned word, uint64_t v)
{
    if (word == 4) {
        le32_put(p, (uint32_t)v);
    } else {
        le16_put(p, (uint16_t)v);
    }
}

/* --- Before ---------------------------------------------------------------- */

static unsigned saved_bytes(const struct layout *l)
{
    return (2 + NB_REGS + l->nb_seg) * l->word;
}

/* The descriptor of the new task's TSS. */
static bool find_task(struct t0_cpu *c, uint16_t sel, const struct t0_task_from *from,
                      struct t0_desc *d, struct x86_segment *tss)
{
    bool back = from->how == T0_TASK_IRET;
    uint32_t error = (sel & 0xfffcu) | from->ext;
    int r = (sel & 4) || is_null(sel) ? T0_DESC_LIMIT : t0_desc_get(c, sel, d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    *tss = t0_desc_segment(sel, r == T0_DESC_OK ? d->raw : 0);
    unsigned type = tss->attr & (X86_SEG_S | X86_SEG_TYPE);
    bool ok = back ? type == X86_SYS_TSS_BUSY || type == X86_SYS_TSS16_BUSY
                   : type == X86_SYS_TSS || type == X86_SYS_TSS16;
    if (!ok) {
        return t0_fail(c, back ? X86_EXC_TS : X86_EXC_GP, error);
    }
    if (!(tss->attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_NP, error);
    }
    return tss->limit >= layout_of(tss)->least || t0_fail(c, X86_EXC_TS, error);
}

static uint64_t probe(struct t0_cpu *c, uint64_t la, unsigned size)
{
    struct t0_tlb_entry *old = t0_use_bank(c, t0_bank_for(c, 0));
    uint64_t bad = t0_probe_write(c, la, size, X86_DS);
    c->tlb = old;
    return bad;
}

/* Where the descriptor of the present task is; 0: it has none. */
static uint64_t old_descriptor(const struct t0_cpu *c)
{
    uint16_t sel = c->s.tr.sel;
    return is_null(sel) || (sel & 4) ? 0 : c->s.gdtr.base + (sel & 0xfff8u);
}

static bool leaves_old(const struct t0_task_from *from)
{
    return from->how == T0_TASK_JMP || from->how == T0_TASK_IRET;
}

static bool nests(const struct t0_task_from *from)
{
    return from->how == T0_TASK_CALL || from->how == T0_TASK_EVENT;
}

/* Try everything that the switch will touch outside of the old TSS. */
static bool try_all(struct t0_cpu *c, const struct t0_desc *d,
                    const struct x86_segment *tss, const struct t0_task_from *from)
{
    uint8_t b[0x68];
    uint64_t old = old_descriptor(c);
    return !t0_sys_read(c, tss->base, b, layout_of(tss)->least + 1u) &&
           (!nests(from) || !probe(c, tss->base, 2)) &&
           (from->how == T0_TASK_IRET || !probe(c, d->addr + 5, 1)) &&
           (!leaves_old(from) || !old || !probe(c, old + 5, 1));
}

/* The last thing that faults in the old task. */
static bool save_old(struct t0_cpu *c, const struct t0_task_from *from)
{
    const struct layout *l = layout_of(&c->s.tr);
    uint8_t b[SAVED_MAX], *p = b;
    uint64_t at = c->s.tr.base + l->save;
    unsigned n = saved_bytes(l), w = l->word;
    uint64_t flags = from->rflags;
    if (l->save + n - 1 > c->s.tr.limit) {
        return t0_fail(c, X86_EXC_TS, (c->s.tr.sel & 0xfffcu) | from->ext);
    }
    if (t0_sys_read(c, at, b, n)) { /* what is beside the selectors stays */
        return false;
    }
    put(p, w, from->rip);
    put(p + w, w, from->how == T0_TASK_IRET ? flags & ~(uint64_t)X86_FL_NT : flags);
    p += 2 * w;
    for (unsigned i = 0; i < NB_REGS; i++, p += w) {
        put(p, w, c->gpr[i]);
    }
    for (unsigned i = 0; i < l->nb_seg; i++, p += w) {
        le16_put(p, c->s.seg[i].sel);
    }
    return !t0_sys_write(c, at, b, n);
}

/* --- Busy bits and links ---------------------------------------------------- */

static void set_busy(struct t0_cpu *c, uint64_t descriptor, bool busy)
{
    uint8_t type;
    if (!t0_sys_read(c, descriptor + 5, &type, 1)) {
        type = (uint8_t)(busy ? type | 2 : type & ~2);
        t0_sys_write(c, descriptor + 5, &type, 1);
    }
}

/* All were tried before: none of these fails. */
static void commit(struct t0_cpu *c, const struct t0_desc *d, struct x86_segment *tss,
                   const struct t0_task_from *from)
{
    uint64_t old = old_descriptor(c);
    if (leaves_old(from) && old) {
        set_busy(c, old, false);
    }
    if (nests(from)) {
        uint8_t link[2];
        le16_put(link, c->s.tr.sel);
        t0_sys_write(c, tss->base, link, 2);
    }
    if (from->how != T0_TASK_IRET) {
        set_busy(c, d->addr, true);
    }
    tss->attr |= 2;
    c->s.tr = *tss;
    c->s.cr0 |= X86_CR0_TS;
    if (c->s.dr[7] & DR7_LOCAL) {
        c->s.dr[7] &= ~DR7_LOCAL;
        t0_debug_update(c);
    }
    c->s.int_shadow = false;
    c->core->new_task = true;
}

/* --- The new task ----------------------------------------------------------- */

struct incoming {
    uint16_t sel[X86_NB_SEG], ldt;
    uint32_t cr3;
    bool has_cr3;
};

/* General registers, flags and RIP; the rest into @in. */
static void load_registers(struct t0_cpu *c, const struct t0_task_from *from,
                           struct incoming *in)
{
    const struct layout *l = layout_of(&c->s.tr);
    uint8_t b[0x68] = {0};
    unsigned w = l->word;
    t0_sys_read(c, c->s.tr.base, b, l->least + 1u); /* it was read before */
    const uint8_t *p = b + l->save;
    uint64_t flags = get(p + w, w) & FLAGS_KNOWN;
    if (nests(from)) {
        flags |= X86_FL_NT;
    }
    c->s.rip = get(p, w);
    t0_set_rflags(c, flags);
    p += 2 * w;
    for (unsigned i = 0; i < NB_REGS; i++, p += w) {
        c->gpr[i] = get(p, w);
    }
    *in = (struct incoming){.ldt = le16_get(b + l->ldt), .has_cr3 = w == 4};
    for (unsigned i = 0; i < l->nb_seg; i++, p += w) {
        in->sel[i] = le16_get(p);
    }
    in->cr3 = le32_get(b + CR3);
}

static bool load_ldt(struct t0_cpu *c, uint16_t sel, uint32_t ext)
{
    struct t0_desc d;
    c->s.ldtr = (struct x86_segment){.sel = sel};
    if (is_null(sel)) {
        return true;
    }
    int r = (sel & 4) ? T0_DESC_LIMIT : t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    struct x86_segment s = t0_desc_segment(sel, r == T0_DESC_OK ? d.raw : 0);
    if ((s.attr & (X86_SEG_S | X86_SEG_TYPE)) != X86_SYS_LDT || !(s.attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_TS, (sel & 0xfffcu) | ext);
    }
    c->s.ldtr = s;
    return true;
}

static bool load_code(struct t0_cpu *c, uint16_t sel, uint32_t ext)
{
    struct t0_desc d;
    uint32_t error = (sel & 0xfffcu) | ext;
    unsigned rpl = sel & 3;
    int r = is_null(sel) ? T0_DESC_LIMIT : t0_desc_get(c, sel, &d);
    if (r == T0_DESC_FAULT) {
        return false;
    }
    struct x86_segment s = t0_desc_segment(sel, r == T0_DESC_OK ? d.raw : 0);
    uint16_t sc = X86_SEG_S | X86_SEG_CODE;
    bool level_ok = (s.attr & X86_SEG_DOWN) ? dpl_of(&s) <= rpl : dpl_of(&s) == rpl;
    if ((s.attr & sc) != sc || !level_ok) {
        return t0_fail(c, X86_EXC_TS, error);
    }
    if (!(s.attr & X86_SEG_P)) {
        return t0_fail(c, X86_EXC_NP, error);
    }
    if (t0_desc_accessed(c, &d)) {
        return false;
    }
    s.attr |= X86_SEG_ACCESSED;
    c->s.seg[X86_CS] = s;
    return true;
}

/* Loads of data segments raise #TS where MOV raises #GP. */
static bool load_data(struct t0_cpu *c, unsigned seg, uint16_t sel, uint32_t ext)
{
    if (!t0_load_seg(c, seg, sel)) {
        return true;
    }
    if (c->exc.vector == X86_EXC_GP) {
        c->exc.vector = X86_EXC_TS;
    }
    if (c->exc.vector != X86_EXC_PF) {
        c->exc.error |= ext;
    }
    return false;
}

static bool load_segments(struct t0_cpu *c, const struct incoming *in, uint32_t ext)
{
    struct x86_segment ss;
    unsigned cpl = in->sel[X86_CS] & 3;
    if (!load_ldt(c, in->ldt, ext)) {
        return false;
    }
    if (c->s.rflags & X86_FL_VM) {
        t0_vm86_segs(c, in->sel);
        return true;
    }
    if (!load_code(c, in->sel[X86_CS], ext) ||
        !t0_inner_ss(c, in->sel[X86_SS], cpl, ext, &ss)) {
        return false;
    }
    c->s.seg[X86_SS] = ss;
    c->s.cpl = (uint8_t)cpl;
    t0_update_mode(c);
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(data); i++) {
        if (!load_data(c, data[i], in->sel[data[i]], ext)) {
            return false;
        }
    }
    return true;
}

static bool load_new(struct t0_cpu *c, const struct t0_task_from *from)
{
    struct incoming in;
    load_registers(c, from, &in);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        c->s.seg[i] = (struct x86_segment){.sel = in.sel[i]};
    }
    c->s.cpl = 3;
    c->s.ldtr = (struct x86_segment){.sel = in.ldt};
    t0_update_mode(c);
    if (in.has_cr3 && (c->s.cr0 & X86_CR0_PG) && t0_write_cr3(c, in.cr3)) {
        return false;
    }
    bool ok = load_segments(c, &in, from->ext);
    t0_update_mode(c);
    if (!ok) {
        return false;
    }
    if (c->s.rip > c->s.seg[X86_CS].limit) {
        return t0_fail(c, X86_EXC_GP, from->ext);
    }
    return !t0_virtual_irq_due(c) || t0_fail(c, X86_EXC_GP, 0);
}

bool t0_task_switch(struct t0_cpu *c, uint16_t sel, const struct t0_task_from *from)
{
    struct t0_desc d;
    struct x86_segment tss;
    if (!find_task(c, sel, from, &d, &tss) || !try_all(c, &d, &tss, from) ||
        !save_old(c, from)) {
        return false;
    }
    commit(c, &d, &tss, from);
    c->core->no_trap = true;
    return load_new(c, from);
}

bool t0_task_trap(struct t0_cpu *c)
{
    uint8_t trap = 0;
    if (layout_of(&c->s.tr)->word == 2) {
        return true;
    }
    if (t0_sys_read(c, c->s.tr.base + TRAP, &trap, 1)) {
        return false;
    }
    if (trap & 1) {
        t0_debug_trap(c, DR6_BT);
    }
    return true;
}
