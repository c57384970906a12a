#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * A sequence by the software CPU: in 64-bit user mode, with the pages where the native
 * process has them and the selectors Linux has. All 256 vectors have handlers, which
 * halt; the frame on the kernel's stack says what happened. The kernel itself is in
 * the upper half.
 */

#define KERNEL     UINT64_C(0xffff800000000000) /* where physical memory is */
#define END_VECTOR 0x80u

/* Guest-physical addresses, beside those of t0_test.h. */
enum {
    RAM_KIB = 1024,
    HANDLERS = 0x30000,
    TABLES = 0x40000,
    DATA_PHYS = 0x50000,
    STACK_PHYS = 0x58000,
    CODE_PHYS = 0x5a000,
    EXIT_PHYS = 0x5e000,
};

enum { P = 1, W = 2, U = 4, ALL = 7, LARGE = 0x80 };
#define NX (UINT64_C(1) << 63)

struct fz_guest {
    struct t0_test *t;
    struct x86_state start, start32;
    unsigned next_table;
};

/* For the watchdog. As many instructions as the processor may take: the interpreter is
 * slower. */
#define LIMIT_NS UINT64_C(6000000000)
static struct {
    struct vcpu *_Atomic vcpu;       /* NULL: not running */
    volatile uint64_t first_tick_ns; /* 0: none yet */
} watched;

static uint64_t new_table(struct fz_guest *g)
{
    return TABLES + FZ_PAGE * g->next_table++;
}

static void map_page(struct fz_guest *g, uint64_t la, uint64_t phys, uint64_t rights)
{
    uint64_t table = TABLES;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint8_t *entry = g->t->ram + table + (la >> shift & 511) * 8;
        if (!(le64_get(entry) & P)) {
            le64_put(entry, new_table(g) | ALL);
        }
        table = le64_get(entry) & ~UINT64_C(0xfff);
    }
    le64_put(g->t->ram + table + (la >> 12 & 511) * 8, phys | rights);
}

static void make_tables(struct fz_guest *g)
{
    g->next_table = 1;
    for (unsigned i = 0; i < FZ_DATA_PAGES; i++) {
        map_page(g, FZ_DATA + i * FZ_PAGE, DATA_PHYS + i * FZ_PAGE,
                 (i < 2 ? ALL : P | U) | NX);
    }
    map_page(g, FZ_STACK, STACK_PHYS, ALL | NX);
    for (unsigned i = 0; i < FZ_CODE_PAGES; i++) {
        map_page(g, FZ_CODE + i * FZ_PAGE, CODE_PHYS + i * FZ_PAGE, ALL);
    }
    map_page(g, FZ_EXIT, EXIT_PHYS, P | U);
    for (uint64_t i = 0; i < RAM_KIB * KIB; i += FZ_PAGE) {
        map_page(g, KERNEL + i, i, P | W);
    }
}

#define USER_DATA_ATTR                                                    \
    (X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_ACCESSED | X86_SEG_DB | \
     3 << X86_SEG_DPL_SHIFT)

/* In the LDT, which lies behind the GDT, as native.c sets them. */
#define LDT (T0_TEST_GDT + 0x80u)

static const struct x86_segment fs32 = {.sel = FZ_FS_SEL,
                                        .attr = USER_DATA_ATTR | X86_SEG_G,
                                        .limit = UINT32_MAX,
                                        .base = FZ_FS32_BASE};
static const struct x86_segment gs32 = {.sel = FZ_GS_SEL,
                                        .attr = USER_DATA_ATTR,
                                        .limit = FZ_GS32_LIMIT,
                                        .base = FZ_GS32_BASE};

static void put_descriptor(struct t0_test *t, const struct x86_segment *s)
{
    uint64_t limit = (s->attr & X86_SEG_G) ? s->limit >> 12 : s->limit;
    uint64_t raw = (limit & 0xffff) | (s->base & 0xffffff) << 16 |
                   (uint64_t)s->attr << 40 | (limit >> 16 & 0xf) << 48 |
                   (s->base >> 24 & 0xff) << 56;
    le64_put(t->ram + LDT + (s->sel & 0xfff8), raw);
}

/* --- Filling the TLB ------------------------------------------------------- */

/*
 * Every run starts with an empty TLB, and the translator leaves what misses it to the
 * interpreter. This code, behind that at FZ_EXIT, reads and writes each page once, with
 * RAX, changes no flag, and goes where it is told to.
 */
enum { WARM_64 = 0x100, WARM_32 = 0x200, WARM_RAX = 0x800, WARM_RIP = 0x808 };

static uint8_t *put_abs(uint8_t *p, unsigned bits, uint8_t opcode, unsigned digit,
                        uint64_t la)
{
    if (bits == 64 && opcode != 0xff) {
        *p++ = 0x48;
    }
    *p++ = opcode;
    *p++ = (uint8_t)((bits == 64 ? 4 : 5) | digit << 3);
    if (bits == 64) {
        *p++ = 0x25; /* SIB: no register */
    }
    le32_put(p, (uint32_t)la);
    return p + 4;
}

static void make_warm(struct fz_guest *g, unsigned bits)
{
    static const uint64_t pages[] = {FZ_DATA, FZ_DATA + FZ_PAGE, FZ_STACK,
                                     FZ_DATA + 2 * FZ_PAGE};
    uint8_t *p = g->t->ram + EXIT_PHYS + (bits == 64 ? WARM_64 : WARM_32);
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        p = put_abs(p, bits, 0x8b, 0, pages[i]); /* mov rax, [] */
        if (i < 3) {
            p = put_abs(p, bits, 0x89, 0, pages[i]); /* mov [], rax */
        }
    }
    p = put_abs(p, bits, 0x8b, 0, FZ_EXIT + WARM_RAX);
    put_abs(p, bits, 0xff, 4, FZ_EXIT + WARM_RIP); /* jmp [] */
}

static void start_warm(struct fz_guest *g, const struct fz_state *from)
{
    struct t0_test *t = g->t;
    bool in_64 = from->seg[X86_CS] == 0x33;
    le64_put(t->ram + EXIT_PHYS + WARM_RAX, from->gpr[X86_RAX]);
    le64_put(t->ram + EXIT_PHYS + WARM_RIP, from->rip);
    t->s.rip = FZ_EXIT + (in_64 ? WARM_64 : WARM_32);
}

static void make_kernel(struct fz_guest *g)
{
    struct t0_test *t = g->t;
    memset(t->ram + HANDLERS, 0xf4, 256); /* HLT */
    for (unsigned v = 0; v < 256; v++) {
        bool user = v == X86_EXC_BP || v == X86_EXC_OF || v == END_VECTOR;
        t0_test_gate(t, v, X86_SYS_INT, user ? 3 : 0, 0, KERNEL + HANDLERS + v);
    }
    le64_put(t->ram + T0_TEST_TSS + 4, KERNEL + T0_TEST_STACK - 0x800);
    /* Linux's GDT ends with one of the processor's number: data that may be read. */
    le64_put(t->ram + T0_TEST_GDT + 0x78, UINT64_C(0x40f5) << 40);
    put_descriptor(t, &fs32);
    put_descriptor(t, &gs32);
    /* No I/O permission bitmap: its offset is beyond the limit. */
    le16_put(t->ram + T0_TEST_TSS + 0x66, 0xffff);
    memset(t->ram + EXIT_PHYS, 0xcc, FZ_PAGE); /* INT3 */
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *p = t->ram + EXIT_PHYS + (i ? FZ_EXIT32 - FZ_EXIT : 0);
        p[0] = 0xcd;
        p[1] = END_VECTOR;
    }
}

struct fz_guest *fz_guest_new(unsigned tier)
{
    struct fz_guest *g = g_new0(struct fz_guest, 1);
    struct t0_test *t = g->t = t0_test_new_tier(64, RAM_KIB, NULL, tier);
    make_tables(g);
    make_kernel(g);
    make_warm(g, 64);
    make_warm(g, 32);
    t0_test_user(t);
    struct x86_state *s = &t->s;
    s->cr3 = TABLES;
    s->cr0 |= X86_CR0_AM;
    s->cr4 |= X86_CR4_OSXSAVE | X86_CR4_FSGSBASE | X86_CR4_UMIP;
    s->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    s->gdtr = (struct x86_dtable){.base = KERNEL + T0_TEST_GDT, .limit = 0x7f};
    s->idtr.base = KERNEL + T0_TEST_IDT;
    s->tr.base = KERNEL + T0_TEST_TSS;
    s->ldtr = (struct x86_segment){.sel = 0x40,
                                   .attr = X86_SEG_P | X86_SYS_LDT,
                                   .limit = 15,
                                   .base = KERNEL + LDT};
    static const uint8_t null_segs[] = {X86_DS, X86_ES, X86_FS, X86_GS};
    for (unsigned i = 0; i < ARRAY_LEN(null_segs); i++) {
        s->seg[null_segs[i]] = (struct x86_segment){0};
    }
    g->start = g->start32 = *s;
    struct x86_segment *seg = g->start32.seg;
    seg[X86_DS] = seg[X86_ES] = seg[X86_SS];
    seg[X86_FS] = fs32;
    seg[X86_GS] = gs32;
    seg[X86_CS].sel = T0_TEST_UCS32;
    seg[X86_CS].attr ^= X86_SEG_L | X86_SEG_DB;
    return g;
}

void fz_guest_free(struct fz_guest *g)
{
    t0_test_free(g->t);
    g_free(g);
}

/* Code that did not change since the last case is not written again. */
static void store_code(struct fz_guest *g, const struct fz_mem *m)
{
    uint8_t *ram = g->t->ram + CODE_PHYS;
    for (unsigned i = 0; i < sizeof(m->code); i += 64) {
        unsigned to = i + 64;
        if (memcmp(ram + i, m->code + i, 64) == 0) {
            continue;
        }
        while (to < sizeof(m->code) && memcmp(ram + to, m->code + to, 64) != 0) {
            to += 64;
        }
        g_assert_cmpint(gmem_write(g->t->vm->gmem, CODE_PHYS + i, m->code + i, to - i),
                        ==, 0);
        i = to - 64;
    }
}

static void fpu_from_xsave(struct x86_fpu *s, const uint8_t *p)
{
    memset(s, 0, sizeof(*s));
    s->fcw = le16_get(p + FZ_FCW);
    s->fsw = le16_get(p + FZ_FSW);
    s->ftw = p[FZ_FTW];
    s->fop = le16_get(p + FZ_FOP);
    s->fip = le64_get(p + FZ_FIP);
    s->fdp = le64_get(p + FZ_FDP);
    s->mxcsr = le32_get(p + FZ_MXCSR);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], p + FZ_ST + 16 * i, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(s->ymm[i], p + FZ_XMM + 16 * i, 16);
        memcpy(s->ymm[i] + 16, p + FZ_YMM + 16 * i, 16);
    }
}

static void fpu_to_xsave(const struct x86_fpu *s, uint8_t *p)
{
    memset(p, 0, FZ_XSAVE_SIZE);
    le16_put(p + FZ_FCW, s->fcw);
    le16_put(p + FZ_FSW, s->fsw);
    p[FZ_FTW] = s->ftw;
    le16_put(p + FZ_FOP, s->fop);
    le64_put(p + FZ_FIP, s->fip);
    le64_put(p + FZ_FDP, s->fdp);
    le32_put(p + FZ_MXCSR, s->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(p + FZ_ST + 16 * i, s->st[i], 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(p + FZ_XMM + 16 * i, s->ymm[i], 16);
        memcpy(p + FZ_YMM + 16 * i, s->ymm[i] + 16, 16);
    }
}

static bool pushes_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* What the handler found on its stack. */
static void take_state(struct fz_guest *g, struct fz_state *s)
{
    const struct x86_state *x = &g->t->s;
    unsigned vector = (unsigned)(x->rip - KERNEL - HANDLERS - 1);
    uint64_t sp = x->gpr[X86_RSP] - KERNEL;
    if (vector > 255 || sp > T0_TEST_STACK) {
        s->end = FZ_END_FAULT;
        s->vector = 0xff;
        s->rip = x->rip;
        return;
    }
    const uint8_t *frame = g->t->ram + sp;
    s->error = 0;
    if (pushes_error(vector)) {
        s->error = le32_get(frame);
        frame += 8;
    }
    memcpy(s->gpr, x->gpr, sizeof(s->gpr));
    s->rip = le64_get(frame);
    s->rflags = le64_get(frame + 16);
    s->gpr[X86_RSP] = le64_get(frame + 24);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        s->seg[i] = x->seg[i].sel;
    }
    s->seg[X86_CS] = le16_get(frame + 8);
    s->seg[X86_SS] = le16_get(frame + 32);
    s->fs_base = x->seg[X86_FS].base;
    s->gs_base = x->seg[X86_GS].base;
    s->end = FZ_END_FAULT;
    s->vector = (uint8_t)vector;
    uint64_t exit = s->seg[X86_CS] == 0x33 ? FZ_EXIT : FZ_EXIT32;
    if (vector == END_VECTOR && s->rip == exit + 2) {
        s->end = FZ_END_EXIT;
        s->rip = FZ_EXIT;
        s->vector = 0;
    }
    s->cr2 = s->end == FZ_END_FAULT && vector == X86_EXC_PF ? x->cr2 : 0;
    fpu_to_xsave(&x->fpu, s->xsave);
}

void fz_guest_tick(void)
{
    struct vcpu *v = watched.vcpu;
    uint64_t now = fz_cpu_time_ns();
    if (v && !watched.first_tick_ns) {
        watched.first_tick_ns = now;
    }
    if (v && now - watched.first_tick_ns >= LIMIT_NS) {
        atomic_fetch_or(&v->attention, VCPU_ATTN_STOP);
    }
}

static enum vcpu_exit run(struct fz_guest *g, bool *ret_timeout)
{
    struct t0_test *t = g->t;
    GError *error = NULL;
    enum vcpu_exit exit;
    *ret_timeout = false;
    t->s.activity = X86_ACTIVE;
    g_assert_true(bt_accel_ops.set_state(t->vcpu, &t->s, &error));
    watched.first_tick_ns = 0;
    watched.vcpu = t->vcpu;
    do {
        exit = bt_accel_ops.run(t->vcpu);
        *ret_timeout = vcpu_take_attention(t->vcpu, VCPU_ATTN_STOP) != 0;
    } while (exit == VCPU_EXIT_KICK && !*ret_timeout);
    watched.vcpu = NULL;
    bt_accel_ops.get_state(t->vcpu, &t->s);
    return exit;
}

/* 32-bit code does not see the upper halves of registers: they are not those of the
 * processor's run, which are 0. The stack pointer's makes a canonical address of it.
 * Sequences that go on in 64-bit code, where they show, have none. */
static const uint64_t upper_halves = UINT64_C(0x00000fed) << 32;

void fz_guest_run(struct fz_guest *g, const struct fz_mem *mem, struct fz_outcome *ret,
                  const struct fz_state *from, unsigned how)
{
    struct t0_test *t = g->t;
    bool timeout, junk = from->seg[X86_CS] != 0x33 && !(how & FZ_NO_JUNK);

    memcpy(t->ram + DATA_PHYS, mem->data, sizeof(mem->data));
    memcpy(t->ram + STACK_PHYS, mem->stack, sizeof(mem->stack));
    store_code(g, mem);
    t->s = from->seg[X86_CS] == 0x33 ? g->start : g->start32;
    memcpy(t->s.gpr, from->gpr, sizeof(from->gpr));
    for (unsigned i = 0; junk && i < X86_NB_GPR; i++) {
        t->s.gpr[i] |= upper_halves * (i + 1);
    }
    t->s.rip = from->rip;
    t->s.rflags = from->rflags;
    t->s.seg[X86_FS].base = from->fs_base;
    t->s.seg[X86_GS].base = from->gs_base;
    fpu_from_xsave(&t->s.fpu, from->xsave);
    if (how & FZ_WARM) {
        start_warm(g, from);
    }

    enum vcpu_exit exit = run(g, &timeout);
    memset(&ret->s, 0, sizeof(ret->s));
    if (exit == VCPU_EXIT_HLT) {
        take_state(g, &ret->s);
    } else {
        ret->s.end = timeout ? FZ_END_TIMEOUT : FZ_END_FAULT;
        ret->s.vector = (uint8_t)(0xe0 + exit); /* not a vector of the host */
        ret->s.rip = t->s.rip;
    }
    memcpy(ret->mem.data, t->ram + DATA_PHYS, sizeof(ret->mem.data));
    memcpy(ret->mem.stack, t->ram + STACK_PHYS, sizeof(ret->mem.stack));
    memcpy(ret->mem.code, t->ram + CODE_PHYS, sizeof(ret->mem.code));
}
