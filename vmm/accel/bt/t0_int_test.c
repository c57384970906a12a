#include "vmm/accel/bt/t0.h"

#include <glib.h>
#include <sys/mman.h>

#include "vmm/accel/bt/t0_native.h"

/*
 * The integer handlers against the processor this runs on.
 *
 * Every row of the decoder's table that is an integer or string instruction is made
 * into many random encodings. Each is executed twice from the same registers, flags
 * and memory: natively, in a page of code below 4 GiB (32-bit code through a far
 * jump to the kernel's compatibility segment), and by its handler. All registers,
 * flags, memory, and in case of a fault its vector and address must be equal.
 *
 * The handlers run without the interpreter's core: what they call of it is here, for
 * a flat memory whose linear addresses are the host's own.
 *
 *     arena:  page 0, 1 writable | page 2 read-only | page 3 absent
 */

#define PAGE UINT64_C(4096)
#define CODE UINT64_C(0x53370000)

/* --- The core's part ------------------------------------------------------- */

static struct {
    struct t0_cpu cpu;
    struct vcpu vcpu;
    bool faulted;
    bool jumped;
    uint64_t jump_rip;
    unsigned nb_slow;
    struct {
        uint64_t la;
        unsigned size;
    } rmw;
    uint32_t port_value;
    unsigned nb_ports;
} t;

static bool page_ok(uint64_t la, bool write)
{
    uint64_t end = NATIVE_ARENA + (write ? NATIVE_PAGES - 1 : NATIVE_PAGES) * PAGE;
    return la >= NATIVE_ARENA && la < end;
}

static uint64_t raise_memory(struct t0_cpu *c, uint64_t la, bool write, unsigned seg)
{
    if ((uint64_t)((int64_t)(la << 16) >> 16) != la) {
        c->exc = (struct t0_exception){
            .vector = seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, .has_error = true};
        return 1;
    }
    bool present = page_ok(la, false);
    c->exc = (struct t0_exception){
        .vector = X86_EXC_PF,
        .has_error = true,
        .error = X86_PF_U | (write ? X86_PF_W : 0) | (present ? X86_PF_P : 0),
        .cr2 = la,
    };
    return 1;
}

/* Both ends, and fill the TLB when it is one page. */
static uint64_t probe(struct t0_cpu *c, uint64_t la, unsigned size, bool write,
                      unsigned seg)
{
    uint64_t last = la + size - 1, second = last & ~(PAGE - 1);
    t.nb_slow++;
    if (!page_ok(la, write)) {
        return raise_memory(c, la, write, seg);
    }
    if ((la & ~(PAGE - 1)) != second) {
        return page_ok(second, write) ? 0 : raise_memory(c, second, write, seg);
    }
    struct t0_tlb_entry *e = &c->tlb[(la >> 12) & (T0_TLB_SIZE - 1)];
    e->read = ~second;
    e->write =
        page_ok(la, true) ? ~second : t0_tlb_none((la >> 12) & (T0_TLB_SIZE - 1));
    e->addend = 0;
    return 0;
}

struct t0_val t0_load_slow(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    uint64_t v = 0;
    if (probe(c, la, size, false, seg)) {
        return (struct t0_val){0, 1};
    }
    memcpy(&v, (void *)(uintptr_t)la, size);
    return (struct t0_val){v, 0};
}

uint64_t t0_store_slow(struct t0_cpu *c, uint64_t la, uint64_t v, unsigned size,
                       unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return 1;
    }
    memcpy((void *)(uintptr_t)la, &v, size);
    return 0;
}

uint64_t t0_read_bytes(struct t0_cpu *c, uint64_t la, void *buf, unsigned size,
                       unsigned seg)
{
    if (probe(c, la, size, false, seg)) {
        return 1;
    }
    memcpy(buf, (void *)(uintptr_t)la, size);
    return 0;
}

uint64_t t0_write_bytes(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size,
                        unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return 1;
    }
    memcpy((void *)(uintptr_t)la, buf, size);
    return 0;
}

uint64_t t0_probe_write(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    return probe(c, la, size, true, seg);
}

struct t0_val t0_rmw_begin_slow(struct t0_cpu *c, uint64_t la, unsigned size,
                                unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return (struct t0_val){0, 1};
    }
    memcpy(c->bounce, (void *)(uintptr_t)la, size);
    t.rmw.la = la;
    t.rmw.size = size;
    c->rmw_open = T0_RMW_BOUNCE;
    return (struct t0_val){(uint64_t)(uintptr_t)c->bounce, 0};
}

void t0_rmw_end_slow(struct t0_cpu *c)
{
    c->rmw_open = T0_RMW_NONE;
    memcpy((void *)(uintptr_t)t.rmw.la, c->bounce, t.rmw.size);
}

struct t0_val t0_ea_slow(struct t0_cpu *c, const struct t0_op *op, unsigned size,
                         bool write)
{
    uint64_t off = t0_offset(c, op);
    const struct x86_segment *s = &c->s.seg[op->seg];
    if (op->ea == T0_EA_GENERAL) {
        off = (uint16_t)off;
    } else if (op->ea == T0_EA_GENERAL32) {
        off = (uint32_t)off;
    }
    if (s->limit && off + size - 1 > s->limit) {
        c->exc = (struct t0_exception){.vector = X86_EXC_GP, .has_error = true};
        return (struct t0_val){0, 1};
    }
    return (struct t0_val){off + c->seg_base[op->seg], 0};
}

static unsigned stack_width(const struct t0_cpu *c)
{
    return (c->mode & T0_MODE_SIZE) == T0_MODE_64 ? 8
           : c->mode & T0_MODE_STACK32            ? 4
                                                  : 2;
}

static uint64_t stack_address(const struct t0_cpu *c, uint64_t sp)
{
    unsigned width = stack_width(c);
    return c->seg_base[X86_SS] + (width == 8   ? sp
                                  : width == 4 ? (uint32_t)sp
                                               : (uint16_t)sp);
}

void t0_sp_add(struct t0_cpu *c, int64_t delta)
{
    uint64_t sp = c->gpr[X86_RSP] + (uint64_t)delta;
    switch (stack_width(c)) {
    case 8: c->gpr[X86_RSP] = sp; break;
    case 4: c->gpr[X86_RSP] = (uint32_t)sp; break;
    default: T0_W16(c, X86_RSP * 8, sp); break;
    }
}

uint64_t t0_push(struct t0_cpu *c, uint64_t v, unsigned size)
{
    if (t0_store(c, stack_address(c, c->gpr[X86_RSP] - size), v, size, X86_SS)) {
        return 1;
    }
    t0_sp_add(c, -(int64_t)size);
    return 0;
}

struct t0_val t0_pop_peek(struct t0_cpu *c, unsigned size)
{
    return t0_load(c, stack_address(c, c->gpr[X86_RSP]), size, X86_SS);
}

const struct t0_op *t0_fault(struct t0_cpu *c, const struct t0_op *op)
{
    t.faulted = true;
    return NULL;
}

const struct t0_op *t0_raise(struct t0_cpu *c, const struct t0_op *op, uint8_t vector)
{
    c->exc = (struct t0_exception){.vector = vector};
    return t0_fault(c, op);
}

const struct t0_op *t0_jump(struct t0_cpu *c, const struct t0_op *op, uint64_t rip)
{
    t.jumped = true;
    t.jump_rip = rip;
    return NULL;
}

uint64_t t0_pio_check(struct t0_cpu *c, uint16_t port, unsigned size)
{
    return 0;
}

struct t0_val t0_pio_in(struct t0_cpu *c, uint16_t port, unsigned size)
{
    t.nb_ports++;
    return (struct t0_val){t.port_value++ + port, 0};
}

uint64_t t0_pio_out(struct t0_cpu *c, uint16_t port, uint32_t v, unsigned size)
{
    t.nb_ports++;
    t.port_value = t.port_value * 31 + v + port;
    return 0;
}

/* --- One instruction by its handler ---------------------------------------- */

static const struct t0_op *leave(struct t0_cpu *c, const struct t0_op *op)
{
    return NULL;
}

static void flush_tlb(void)
{
    for (unsigned i = 0; i < T0_TLB_SIZE; i++) {
        t.cpu.tlb[i] = (struct t0_tlb_entry){t0_tlb_none(i), t0_tlb_none(i), 0, 0};
    }
}

static unsigned mode_bits(unsigned mode)
{
    return mode == 64   ? T0_MODE_64 | T0_MODE_FLAT
           : mode == 32 ? T0_MODE_32 | T0_MODE_FLAT | T0_MODE_STACK32 | T0_MODE_PE
                        : T0_MODE_16;
}

/* As the core does before it asks the lowerings. */
static void lower_common(const struct x86_insn *i, const struct t0_lower *ctx,
                         struct t0_op *op)
{
    bool is64 = i->mode == 64, flat = ctx->mode & T0_MODE_FLAT;
    *op = (struct t0_op){
        .imm = i->imm,
        .disp = i->disp + (i->base == X86_REG_RIP ? i->len : 0),
        .base = i->base == X86_REG_NONE  ? T0_REG_ZERO
                : i->base == X86_REG_RIP ? T0_REG_RIP
                                         : i->base,
        .index = i->index == X86_REG_NONE ? T0_REG_ZERO : i->index,
        .shift = i->scale ? (uint8_t)__builtin_ctz(i->scale) : 0,
        .seg = i->seg,
        .next = i->len,
        .size = i->opsize,
    };
    bool based = i->seg == X86_FS || i->seg == X86_GS;
    op->ea = is64 && i->addrsize == 8             ? (based ? T0_EA_SEG64 : T0_EA_FLAT64)
             : i->addrsize == 4 && flat && !based ? T0_EA_FLAT32
             : i->addrsize == 4                   ? T0_EA_GENERAL32
                                                  : T0_EA_GENERAL;
}

static const t0_lower_fn lowerings[] = {t0_lower_mov, t0_lower_alu,    t0_lower_shift,
                                        t0_lower_bit, t0_lower_muldiv, t0_lower_string};

static bool lower(const struct x86_insn *i, bool flags_dead, struct t0_op *op)
{
    struct t0_lower ctx = {
        .c = &t.cpu, .mode = mode_bits(i->mode), .flags_dead = flags_dead};
    lower_common(i, &ctx, op);
    for (unsigned k = 0; k < G_N_ELEMENTS(lowerings); k++) {
        if (lowerings[k](i, &ctx, op)) {
            g_assert_nonnull(op->fn);
            return true;
        }
    }
    return false;
}

static void set_flags(struct t0_cpu *c, uint64_t f)
{
    c->flags = (uint16_t)((f & 0xd7) << 8 | 0x0200 | (f >> 11 & 1));
    c->s.rflags = f & X86_FL_DF;
}

static uint64_t get_flags(const struct t0_cpu *c)
{
    return (c->flags >> 8 & 0xd5) | (uint64_t)(c->flags & 1) << 11 | c->s.rflags;
}

/* Execute @op at @rip, from and to @r. */
static void run_handler(const struct t0_op *op, unsigned mode, struct native_result *r)
{
    struct t0_cpu *c = &t.cpu;
    struct t0_op ops[2] = {*op, {.fn = leave}};

    memcpy(c->gpr, r->gpr, sizeof(r->gpr));
    c->gpr[T0_REG_ZERO] = 0;
    c->rip_base = r->rip;
    c->mode = (uint16_t)mode_bits(mode);
    c->exc = (struct t0_exception){0};
    set_flags(c, r->rflags);
    t.faulted = t.jumped = false;
    for (const struct t0_op *o = ops; o;) {
        o = o->fn(c, o);
    }
    memcpy(r->gpr, c->gpr, sizeof(r->gpr));
    r->rflags = get_flags(c);
    r->rip += t.faulted ? 0 : op->next;
    r->faulted = t.faulted;
    r->vector = c->exc.vector;
    r->error = c->exc.error;
    r->cr2 = c->exc.cr2;
}

static void setup(void)
{
    native_setup(CODE);
    t.cpu.vcpu = &t.vcpu;
    t.cpu.tlb = t.cpu.banks[0];
    t.cpu.seg_base[X86_GS] = NATIVE_GS_BASE;
    flush_tlb();
}

/* --- Random cases ---------------------------------------------------------- */

/* Where memory operands are: mostly inside pages, often over their borders. */
static uint64_t rnd_target(void)
{
    uint64_t kind = native_below(20);
    if (kind < 14) {
        return NATIVE_ARENA + 64 + native_below(2 * PAGE - 1024);
    }
    unsigned border = kind < 17 ? 1 : kind < 19 ? 2 : 3;
    return NATIVE_ARENA + border * PAGE - 20 + native_below(28);
}

/* Registers that make the instruction do something rather than fault. */
static void set_registers(struct native_case *k, struct native_result *r,
                          uint64_t target)
{
    uint64_t mask = k->mode == 64 ? UINT64_MAX : UINT32_MAX;
    const struct x86_insn *i = &k->insn;
    uint64_t seg = i->seg == X86_GS ? NATIVE_GS_BASE : 0;

    if (k->row->props & X86_D_STACK) {
        r->gpr[X86_RSP] = rnd_target() & (native_below(2) ? ~7ull : ~0ull);
        r->gpr[X86_RBP] = rnd_target();
    }
    switch (i->op) {
    case X86_OP_DIV:
    case X86_OP_IDIV:
        if (native_below(3)) {
            bool neg = i->op == X86_OP_IDIV && native_below(2);
            r->gpr[X86_RDX] = neg               ? UINT64_MAX
                              : native_below(2) ? 0
                                                : native_below(1000);
        }
        break;
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        /* Into the arena, beside it, or to where there is no memory: not anywhere, for
         * there the sanitizers have memory of their own. */
        if (i->opnd[1].kind == X86_OPND_REG) {
            uint64_t none = (native_rnd() >> 1) | UINT64_C(1) << 62;
            r->gpr[i->opnd[1].reg & 15] = native_below(10) ? native_below(4096) - 2048
                                          : native_below(2)
                                              ? (uint64_t)(int32_t)native_rnd()
                                              : none;
        }
        break;
    case X86_OP_XLAT: r->gpr[X86_RBX] = target - seg; break;
    case X86_OP_CLZERO: r->gpr[X86_RAX] = target - seg; break;
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B:
    case X86_OP_CMPXCHG:
        if (native_below(2)) { /* so that it is equal at times */
            unsigned size = i->op == X86_OP_CMPXCHG16B  ? 8
                            : i->op == X86_OP_CMPXCHG8B ? 4
                                                        : 8;
            if (page_ok(target, false) && page_ok(target + 15, false)) {
                memcpy(&r->gpr[X86_RAX], (void *)(uintptr_t)target, size);
                memcpy(&r->gpr[X86_RDX], (void *)(uintptr_t)(target + size), size);
            }
        }
        break;
    default: break;
    }
    if (k->row->cls == X86_CLASS_STRING) {
        uint64_t high = i->addrsize == 4 && k->mode == 64 ? native_rnd() << 32 : 0;
        r->gpr[X86_RSI] = (target - seg) ^ high;
        r->gpr[X86_RDI] =
            (native_below(2) ? rnd_target() : target + native_below(40) - 20) ^ high;
        r->gpr[X86_RCX] = native_below(3) == 0 ? native_below(2000) : native_below(20);
        r->gpr[X86_RCX] ^= high;
    }
    for (unsigned n = 0; n < 16; n++) {
        r->gpr[n] &= mask;
    }
}

/* --- Comparison ------------------------------------------------------------ */

static uint8_t template[4 * PAGE], after_native[NATIVE_PAGES * PAGE];

static void fill_template(void)
{
    for (unsigned i = 0; i < sizeof(template); i += 8) {
        uint64_t v = native_rnd_value();
        memcpy(template + i, &v, 8);
    }
}

/* The read-only page always holds the same. */
static void reset_arena(uint64_t off)
{
    memcpy(native_arena(), template + off, 2 * PAGE);
}

static void explain(const struct native_case *k, const struct native_result *from,
                    const struct native_result *want, const struct native_result *got,
                    const char *what)
{
    char text[128];
    GString *s = g_string_new(NULL);
    x86_format(&k->insn, CODE, text, sizeof(text));
    g_string_append_printf(s, "%u-bit: %s: %s differ;", k->mode, text, what);
    for (unsigned i = 0; i < 16; i++) {
        if (want->gpr[i] != got->gpr[i] || i < 2) {
            g_string_append_printf(s, " %s: %lx -> %lx, not %lx;", x86_gpr_name(i, 8),
                                   from->gpr[i], want->gpr[i], got->gpr[i]);
        }
    }
    g_string_append_printf(s, " flags %lx -> %lx, not %lx; rip %lx, not %lx;",
                           from->rflags, want->rflags, got->rflags, want->rip,
                           got->rip);
    g_string_append_printf(s, " fault %d:%u err %x at %lx, not %d:%u err %x at %lx",
                           want->faulted, want->vector, want->error, want->cr2,
                           got->faulted, got->vector, got->error, got->cr2);
    g_test_message("%s", s->str);
    g_string_free(s, true);
}

static const char *difference(const struct native_case *k,
                              const struct native_result *want,
                              const struct native_result *got, bool flags)
{
    if (want->faulted != got->faulted ||
        (want->faulted && (want->vector != got->vector || want->cr2 != got->cr2))) {
        return "faults";
    }
    /* After a fault in its middle the processor has written some of POPA's registers;
     * the handler none. */
    if (memcmp(want->gpr, got->gpr, sizeof(want->gpr)) != 0 &&
        !(k->insn.op == X86_OP_POPA && want->faulted)) {
        return "registers";
    }
    if (want->rip != got->rip) {
        return "rip";
    }
    if (flags && (want->rflags != got->rflags)) {
        return "flags";
    }
    return memcmp(after_native, native_arena(), 2 * PAGE) == 0 ? NULL : "memory";
}

enum outcome { EQUAL, DIFFERENT, SKIPPED };

static enum outcome run_case(struct native_case *k)
{
    struct native_result from = {.rip = CODE}, want, got;
    struct t0_op op;
    uint64_t target = rnd_target(), off = native_below(2 * PAGE) & ~7ull;

    if (native_is_locked(&k->insn) || k->insn.op == X86_OP_CMPXCHG16B) {
        target &= k->insn.op == X86_OP_CMPXCHG16B && native_below(8) ? ~15ull : ~7ull;
    }
    for (unsigned i = 0; i < 16; i++) {
        from.gpr[i] = native_rnd_value();
    }
    from.rflags = native_rnd() & X86_FL_ARITH;
    if (k->row->cls == X86_CLASS_STRING && native_below(3) == 0) {
        from.rflags |= X86_FL_DF;
    }
    reset_arena(off);
    if (k->insn.op == X86_OP_ENTER) {
        native_case_patch(k, k->insn.len - 3u,
                          (int64_t)native_below(300) | (int64_t)native_below(34) << 16,
                          3);
    }
    set_registers(k, &from, target);
    if (x86_insn_mem(&k->insn) && k->insn.op != X86_OP_LEA &&
        !native_case_aim(k, target, CODE, from.gpr)) {
        return SKIPPED;
    }
    if (!lower(&k->insn, false, &op)) {
        return SKIPPED;
    }

    want = from;
    native_run(k->bytes, k->insn.len, k->mode, &want);
    if (want.faulted && want.vector == X86_EXC_UD) {
        return SKIPPED; /* this processor has no such instruction */
    }
    memcpy(after_native, native_arena(), 2 * PAGE);
    for (unsigned dead = 0; dead < 2; dead++) {
        reset_arena(off);
        if (native_below(2)) {
            flush_tlb();
        }
        lower(&k->insn, dead, &op);
        got = from;
        run_handler(&op, k->mode, &got);
        const char *what = difference(k, &want, &got, !dead);
        if (what) {
            explain(k, &from, &want, &got, what);
            return DIFFERENT;
        }
    }
    return EQUAL;
}

/* Ports are not for processes. */
static bool is_incomparable(unsigned op)
{
    return op == X86_OP_INS || op == X86_OP_OUTS;
}

#define CASES_PER_ROW NATIVE_CASES(1200u, 12000u)

static void test_native(const void *opaque)
{
    unsigned mode = GPOINTER_TO_UINT(opaque), rows = 0, bad_rows = 0;
    uint64_t equal = 0, skipped = 0;

    native_seed();
    fill_template();
    memcpy(native_arena() + 2 * PAGE, template, PAGE);
    mprotect(native_arena() + 2 * PAGE, PAGE, PROT_READ);
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        struct native_case k = {0};
        if (!native_is_integer(row) || is_incomparable(row->op) ||
            !native_case_make(i, mode, &k) || native_is_system(&k.insn)) {
            continue;
        }
        unsigned row_equal = 0, bad = 0;
        for (unsigned n = 0; n < CASES_PER_ROW && bad < 3; n++) {
            if (!native_case_make(i, mode, &k)) {
                continue;
            }
            enum outcome o = run_case(&k);
            row_equal += o == EQUAL;
            skipped += o == SKIPPED;
            bad += o == DIFFERENT;
        }
        equal += row_equal;
        rows++;
        bad_rows += bad > 0;
        if (row_equal == 0 && !bad) {
            g_test_message("not compared: %s %02x", x86_op_name(row->op), row->opcode);
        }
    }
    mprotect(native_arena() + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    g_test_message("%u rows, %lu equal cases, %lu skipped", rows, equal, skipped);
    g_assert_cmpuint(bad_rows, ==, 0);
    g_assert_cmpuint(rows, >, mode == 64 ? 200 : 180);
}

/* No encoding that the decoder lets through is without a handler. */
static void test_every_form(const void *opaque)
{
    static const unsigned modes[] = {16, 32, 64};
    unsigned missing = 0;

    native_seed();
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        for (unsigned m = 0; m < G_N_ELEMENTS(modes) && native_is_integer(row); m++) {
            struct native_case k = {0};
            unsigned found = 0;
            for (unsigned n = 0; n < 100 && !found; n++) {
                struct t0_op op;
                if (native_case_make(i, modes[m], &k) && !native_is_system(&k.insn) &&
                    !(lower(&k.insn, n & 1, &op) && lower(&k.insn, !(n & 1), &op))) {
                    char text[128];
                    x86_format(&k.insn, 0, text, sizeof(text));
                    g_test_message("%u-bit: no handler: %s", modes[m], text);
                    missing++;
                    found = 1;
                }
            }
        }
    }
    g_assert_cmpuint(missing, ==, 0);
}

/* --- What random cases do not reach ---------------------------------------- */

static struct native_case case_of(const char *hex, unsigned mode)
{
    struct native_case k = {.mode = mode};
    unsigned n = 0;
    for (const char *p = hex; *p; p += p[2] ? 3 : 2) {
        k.bytes[n++] =
            (uint8_t)(g_ascii_xdigit_value(p[0]) * 16 + g_ascii_xdigit_value(p[1]));
    }
    g_assert_cmpint(x86_decode(&k.insn, k.bytes, n, mode), ==, (int)n);
    k.row = x86_insn_desc(&k.insn);
    return k;
}

static void handle(const struct native_case *k, struct native_result *r)
{
    struct t0_op op;
    g_assert_true(lower(&k->insn, false, &op));
    r->rip = CODE;
    run_handler(&op, k->mode, r);
}

/* Quotients at the border of what fits, natively and by the handler. */
static void test_div_edges(const void *opaque)
{
    static const char *const insns[] = {"f6 f3", "66 f7 f3", "f7 f3", "48 f7 f3",
                                        "f6 fb", "66 f7 fb", "f7 fb", "48 f7 fb"};
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      0x7f,
                                      0x80,
                                      0x81,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7f80,
                                      0xff80,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      INT64_MAX,
                                      1ull << 63,
                                      UINT64_MAX,
                                      UINT64_MAX - 1,
                                      UINT64_C(0x8000000000000001)};
    unsigned traps = 0, nb = 0;

    reset_arena(0);
    memcpy(after_native, native_arena(), 2 * PAGE);
    for (unsigned i = 0; i < G_N_ELEMENTS(insns); i++) {
        struct native_case k = case_of(insns[i], 64);
        for (unsigned v = 0; v < 20 * 20 * 20; v++) {
            struct native_result from = {.rip = CODE}, want, got;
            from.gpr[X86_RAX] = values[v % 20];
            from.gpr[X86_RDX] = values[v / 20 % 20];
            from.gpr[X86_RBX] = values[v / 400];
            want = got = from;
            native_run(k.bytes, k.insn.len, 64, &want);
            handle(&k, &got);
            const char *what = difference(&k, &want, &got, true);
            if (what) {
                explain(&k, &from, &want, &got, what);
            }
            g_assert_null(what);
            traps += want.faulted;
            nb++;
        }
    }
    g_assert_cmpuint(traps, >, 1000);
    g_assert_cmpuint(nb - traps, >, 1000);
}

/* LOCKed operations over a page border: natively they would lock the bus, so the
 * results are written here. RBX = 0x11, RAX = 5, memory = 5. */
static void test_locked_crossing(const void *opaque)
{
    static const struct {
        const char *hex;
        uint64_t memory, rbx;
    } cases[] = {
        {"f0 48 01 1f", 0x16, 0x11},       /* lock add [rdi], rbx */
        {"f0 48 83 2f 01", 4, 0x11},       /* lock sub [rdi], 1 */
        {"f0 48 0f c1 1f", 0x16, 5},       /* lock xadd [rdi], rbx */
        {"f0 48 0f b1 1f", 0x11, 0x11},    /* lock cmpxchg [rdi], rbx */
        {"f0 48 ff 07", 6, 0x11},          /* lock inc [rdi] */
        {"f0 48 f7 17", ~5ull, 0x11},      /* lock not [rdi] */
        {"f0 48 0f ba 2f 04", 0x15, 0x11}, /* lock bts [rdi], 4 */
        {"48 87 1f", 0x11, 5},             /* xchg [rdi], rbx */
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct native_case k = case_of(cases[i].hex, 64);
        for (unsigned border = 1; border <= 3; border++) {
            uint64_t five = 5, at = NATIVE_ARENA + border * PAGE - 3, now;
            struct native_result r = {0};
            memcpy((void *)(uintptr_t)at, &five, border == 3 ? 3 : 8);
            r.gpr[X86_RDI] = at;
            r.gpr[X86_RBX] = 0x11;
            r.gpr[X86_RAX] = 5;
            handle(&k, &r);
            /* Page 2 cannot be written and page 3 is absent: nothing changes. */
            g_assert_cmpint(r.faulted, ==, border > 1);
            if (border > 1) {
                g_assert_cmpuint(r.cr2, ==, border == 2 ? NATIVE_ARENA + 2 * PAGE : at);
                g_assert_cmpint(memcmp((void *)(uintptr_t)at, "\5\0", 3), ==, 0);
            } else {
                memcpy(&now, (void *)(uintptr_t)at, 8);
                g_assert_cmpuint(now, ==, cases[i].memory);
            }
            g_assert_cmpuint(r.gpr[X86_RBX], ==, border > 1 ? 0x11 : cases[i].rbx);
        }
    }
}

/* rep movsb over three pages, interrupted whenever it looks: as one native run. */
static void test_rep_interrupted(const void *opaque)
{
    struct native_case k = case_of("f3 a4", 64);
    struct native_result r = {.rip = CODE}, want;
    unsigned runs = 0;

    reset_arena(0);
    r.gpr[X86_RSI] = NATIVE_ARENA + 5;
    r.gpr[X86_RDI] = NATIVE_ARENA + PAGE / 2 + 3; /* overlaps: the pattern repeats */
    r.gpr[X86_RCX] = PAGE;
    want = r;
    native_run(k.bytes, k.insn.len, 64, &want);
    memcpy(after_native, native_arena(), 2 * PAGE);
    reset_arena(0);
    atomic_store(&t.vcpu.attention, 1);
    do {
        uint64_t left = r.gpr[X86_RCX];
        handle(&k, &r);
        g_assert_false(r.faulted);
        g_assert_cmpuint(r.gpr[X86_RCX], <, left);
        if (t.jumped) {
            g_assert_cmpuint(t.jump_rip, ==, CODE);
        }
        runs++;
    } while (t.jumped);
    atomic_store(&t.vcpu.attention, 0);
    g_assert_cmpuint(runs, >, 2);
    g_assert_null(difference(&k, &want, &r, true));
}

/* With TF set every element is an instruction of its own. */
static void test_rep_single_step(const void *opaque)
{
    struct native_case k = case_of("f3 48 ab", 64); /* rep stosq */
    struct native_result r = {0};
    struct t0_op op;

    r.gpr[X86_RDI] = NATIVE_ARENA + 8;
    r.gpr[X86_RCX] = 3;
    for (unsigned left = 3; left-- > 0;) {
        g_assert_true(lower(&k.insn, false, &op));
        struct t0_op ops[2] = {op, {.fn = leave}};
        struct t0_cpu *c = &t.cpu;
        memcpy(c->gpr, r.gpr, sizeof(r.gpr));
        c->s.rflags = X86_FL_TF;
        t.jumped = false;
        for (const struct t0_op *o = ops; o;) {
            o = o->fn(c, o);
        }
        memcpy(r.gpr, c->gpr, sizeof(r.gpr));
        g_assert_cmpuint(r.gpr[X86_RCX], ==, left);
        g_assert_cmpint(t.jumped, ==, left > 0);
    }
}

/* A fault leaves a REP that goes on when its page has come. */
static void test_rep_fault(const void *opaque)
{
    struct native_case k = case_of("f3 66 a5", 64); /* rep movsw */
    struct native_result r = {0};

    reset_arena(0);
    r.gpr[X86_RSI] = NATIVE_ARENA;
    r.gpr[X86_RDI] = NATIVE_ARENA + 2 * PAGE - 101;
    r.gpr[X86_RCX] = 200;
    handle(&k, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.vector, ==, X86_EXC_PF);
    g_assert_cmpuint(r.cr2, ==, NATIVE_ARENA + 2 * PAGE);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 150);
    g_assert_cmpuint(r.gpr[X86_RSI], ==, NATIVE_ARENA + 100);
    g_assert_cmpuint(r.gpr[X86_RDI], ==, NATIVE_ARENA + 2 * PAGE - 1);
    g_assert_cmpint(memcmp(native_arena(), native_arena() + 2 * PAGE - 101, 100), ==,
                    0);
    r.gpr[X86_RDI] = NATIVE_ARENA + PAGE; /* as if the page were there now */
    handle(&k, &r);
    g_assert_false(r.faulted);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0);
    g_assert_cmpint(memcmp(native_arena() + 100, native_arena() + PAGE, 300), ==, 0);
}

/* 16-bit addresses wrap at 64 KiB inside the segment, and limits hold. */
static void test_string_16(const void *opaque)
{
    struct native_case k = case_of("f3 aa", 16); /* rep stosb */
    struct native_result r = {0};

    t.cpu.seg_base[X86_ES] =
        NATIVE_ARENA - 0xf800; /* offset F800 is the arena's start */
    memset(native_arena(), 0, 2 * PAGE);
    r.gpr[X86_RAX] = 0x77;
    r.gpr[X86_RCX] = 0x12340010;
    r.gpr[X86_RDI] = 0xabcdfff8;
    handle(&k, &r);
    /* Eight bytes up to FFFF, and offset 0 is below the arena. */
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0x12340008);
    g_assert_cmpuint(r.gpr[X86_RDI], ==, 0xabcd0000);
    g_assert_cmpuint(r.cr2, ==, NATIVE_ARENA - 0xf800);
    g_assert_cmpint(native_arena()[0x7f7], ==, 0);
    g_assert_cmpint(native_arena()[0x7f8], ==, 0x77);
    g_assert_cmpint(native_arena()[0x7ff], ==, 0x77);
    g_assert_cmpint(native_arena()[0x800], ==, 0);

    t.cpu.s.seg[X86_ES].limit = 0xf8ff;
    r = (struct native_result){0};
    r.gpr[X86_RCX] = 0x20;
    r.gpr[X86_RDI] = 0xf8f0;
    handle(&k, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.vector, ==, X86_EXC_GP);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0x10);
    t.cpu.s.seg[X86_ES].limit = 0;
    t.cpu.seg_base[X86_ES] = 0;
}

static void test_ports(const void *opaque)
{
    struct native_case ins = case_of("f3 66 6d", 64); /* rep insw */
    struct native_case outs = case_of("6e", 64);      /* outsb */
    struct native_result r = {0};
    uint16_t words[4];

    t.port_value = 0;
    t.nb_ports = 0;
    r.gpr[X86_RDX] = 0x1f0;
    r.gpr[X86_RCX] = 300;
    r.gpr[X86_RDI] = NATIVE_ARENA + 2 * PAGE - 8; /* four words, then no more */
    handle(&ins, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(t.nb_ports, ==, 4); /* the fifth was not read from the port */
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 296);
    memcpy(words, native_arena() + 2 * PAGE - 8, 8);
    g_assert_cmpuint(words[0], ==, 0x1f0);
    g_assert_cmpuint(words[3], ==, 0x1f3);

    r = (struct native_result){0};
    r.gpr[X86_RDX] = 0x80;
    r.gpr[X86_RSI] = NATIVE_ARENA + 2 * PAGE - 8;
    t.port_value = 0;
    handle(&outs, &r);
    g_assert_cmpuint(t.port_value, ==, 0xf0 + 0x80);
    g_assert_cmpuint(r.gpr[X86_RSI], ==, NATIVE_ARENA + 2 * PAGE - 7);
    r.gpr[X86_RSI] = NATIVE_ARENA + 3 * PAGE;
    handle(&outs, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(t.nb_ports, ==, 5);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    setup();
    g_test_add_data_func("/t0/int/every_form_has_a_handler", NULL, test_every_form);
    g_test_add_data_func("/t0/int/as_the_processor_64", GUINT_TO_POINTER(64),
                         test_native);
    g_test_add_data_func("/t0/int/as_the_processor_32", GUINT_TO_POINTER(32),
                         test_native);
    g_test_add_data_func("/t0/int/div_edges", NULL, test_div_edges);
    g_test_add_data_func("/t0/int/locked_over_a_page_border", NULL,
                         test_locked_crossing);
    g_test_add_data_func("/t0/int/rep_interrupted", NULL, test_rep_interrupted);
    g_test_add_data_func("/t0/int/rep_single_step", NULL, test_rep_single_step);
    g_test_add_data_func("/t0/int/rep_fault", NULL, test_rep_fault);
    g_test_add_data_func("/t0/int/string_16", NULL, test_string_16);
    g_test_add_data_func("/t0/int/ports", NULL, test_ports);
    return g_test_run();
}
