#include <glib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t0_guest.h"
#include "vmm/accel/bt/t0_native.h"

/*
 * Floating point and vectors against the processor this runs on.
 *
 * Every row of the decoder's table that is an x87, MMX, SSE or AVX instruction, or
 * saves and restores their state, is made into many random encodings. Each is executed
 * natively (t0_native.h) and by the interpreter (t0_guest.h) from the same registers,
 * control words and memory. Everything must be equal afterwards: general, vector and
 * x87 registers, flags, tags, status and control words, memory; in case of a fault its
 * vector, error code and address.
 */

#define PAGE     UINT64_C(4096)
#define WRITABLE (2 * PAGE)

enum { FCW = 0, FSW = 2, FTW = 4, FOP = 6, FIP = 8, FDP = 16, MXCSR = 24 };
enum { ST = 32, XMM = 160, XSTATE_BV = 512, YMM = 576 };

static uint8_t template[4 * PAGE];

/* --- Values ---------------------------------------------------------------- */

static uint64_t rnd_float(void)
{
    static const uint32_t pool[] = {
        0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x3fc00000, 0x7f7fffff,
        0xff7fffff, 0x00800000, 0x80800000, 0x00000001, 0x807fffff, 0x7f800000,
        0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffa00000, 0x4f000000,
        0xcf000000, 0xcf000001, 0x4effffff, 0x5f000000, 0xdf000000, 0x3f000000,
        0x3effffff, 0x4b000001, 0x33800000, 0x477fff00, 0x47000000, 0x00400000,
    };
    switch (native_below(4)) {
    case 0: return pool[native_below(G_N_ELEMENTS(pool))];
    case 1: return 0x3f800000 + (native_rnd() & 0x83ffffff);
    case 2: return (uint32_t)(native_rnd() & 0x80ffffff); /* around the smallest */
    default: return (uint32_t)(0x3d000000 + (native_rnd() & 0x87ffffff));
    }
}

static uint64_t rnd_double(void)
{
    static const uint64_t pool[] = {
        0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
        0x3ff8000000000000, 0x7fefffffffffffff, 0xffefffffffffffff, 0x0010000000000000,
        0x0000000000000001, 0x800fffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
        0x7ff8000000000000, 0xfff8000000000001, 0x7ff0000000000001, 0xfff4000000000000,
        0x41dfffffffc00000, 0x41e0000000000000, 0xc1e0000000000000, 0xc1e0000000200000,
        0x43e0000000000000, 0xc3e0000000000000, 0x3fe0000000000000, 0x47efffffe0000000,
        0x47f0000000000000, 0x36a0000000000000, 0x3810000000000000, 0x0008000000000000,
        0x40e0000000000000, 0x40dfffe000000000,
    };
    switch (native_below(4)) {
    case 0: return pool[native_below(G_N_ELEMENTS(pool))];
    case 1: return UINT64_C(0x3ff0000000000000) + (native_rnd() & 0x801fffffffffffff);
    case 2: return native_rnd() & UINT64_C(0x801fffffffffffff);
    default: return UINT64_C(0x3f00000000000000) + (native_rnd() & 0x81ffffffffffffff);
    }
}

/* An 80-bit value: mostly numbers, and each of the odd encodings. */
static void rnd_extended(uint8_t *p)
{
    uint64_t m = native_rnd() | UINT64_C(1) << 63;
    unsigned sign = (unsigned)native_rnd() & 0x8000, e = 0x3fff;
    switch (native_below(14)) {
    case 0: m = e = 0; break;
    case 1: e = 0x7fff, m = UINT64_C(1) << 63; break;            /* infinity */
    case 2: e = 0x7fff; break;                                   /* NaN */
    case 3: e = 0x7fff, m &= ~(UINT64_C(1) << 62); break;        /* SNaN */
    case 4: e = 0, m >>= 1 + native_below(60); break;            /* denormal */
    case 5: e = 0; break;                                        /* pseudo-denormal */
    case 6: e = (unsigned)native_rnd() & 0x7fff, m >>= 1; break; /* unnormal */
    case 7:
        e = 0x3fff + (unsigned)native_below(70), m &= ~0ull << native_below(64);
        break;
    case 8: e = 1 + (unsigned)native_below(40); break;      /* tiny */
    case 9: e = 0x7ffe - (unsigned)native_below(40); break; /* huge */
    case 10: e = (unsigned)native_rnd() & 0x7fff; break;
    case 11: m = UINT64_C(1) << 63; break; /* one */
    default: e = 0x3fff - 20 + (unsigned)native_below(60); break;
    }
    le64_put(p, m);
    le16_put(p + 8, (uint16_t)(sign | e));
}

static void rnd_bcd(uint8_t *p)
{
    for (unsigned i = 0; i < 9; i++) {
        p[i] = (uint8_t)(native_below(10) | native_below(10) << 4);
    }
    p[9] = native_below(2) ? 0x80 : 0;
}

enum { KIND_FLOAT, KIND_DOUBLE, KIND_INT, KIND_BYTES, KIND_MASK, KIND_X87, NB_KINDS };

/* Fill @n bytes, a multiple of 8, with values of @kind. */
static void fill(uint8_t *p, unsigned n, unsigned kind)
{
    for (unsigned i = 0; i + 8 <= n; i += 8) {
        uint64_t v = kind == KIND_FLOAT    ? rnd_float() | rnd_float() << 32
                     : kind == KIND_DOUBLE ? rnd_double()
                     : kind == KIND_INT    ? native_rnd_value()
                     : kind == KIND_MASK   ? (native_rnd() & 0x0101010101010101) * 0xff
                                           : native_rnd();
        le64_put(p + i, v);
    }
    if (kind == KIND_X87 && n >= 16) {
        if (native_below(3)) {
            rnd_extended(p);
        } else {
            rnd_bcd(p);
        }
    }
}

/* Where memory operands are: mostly inside pages, often over their borders. */
static uint64_t rnd_target(void)
{
    uint64_t kind = native_below(20);
    if (kind < 14) {
        return NATIVE_ARENA + 64 + native_below(WRITABLE - 1024);
    }
    unsigned border = kind < 17 ? 1 : kind < 19 ? 2 : 3;
    return NATIVE_ARENA + border * PAGE - 20 + native_below(28);
}

static void fill_template(void)
{
    for (unsigned i = 0; i < sizeof(template); i += 64) {
        fill(template + i, 64, (unsigned)native_below(NB_KINDS));
    }
}

/* --- State ----------------------------------------------------------------- */

static uint16_t rnd_control(void)
{
    static const uint16_t precision[] = {0x300, 0x300, 0x200, 0x000, 0x100};
    uint16_t masks = native_below(4) ? 0x3f : (uint16_t)(native_rnd() & 0x3f);
    return masks | 0x40 | precision[native_below(5)] |
           (uint16_t)(native_below(4) << 10);
}

static uint16_t rnd_status(uint16_t fcw)
{
    uint16_t flags = native_below(3) ? 0 : (uint16_t)(native_rnd() & 0x3f);
    if (native_below(8)) {
        flags &= fcw; /* nothing pending */
    }
    bool pending = flags & ~fcw & 0x3f;
    return (uint16_t)((native_rnd() & 0x7f00) | flags | (pending ? 0x8080 : 0));
}

static uint32_t rnd_mxcsr(void)
{
    uint32_t masks = native_below(4) ? 0x1f80 : (uint32_t)native_rnd() & 0x1f80;
    uint32_t v = masks | (uint32_t)native_below(4) << 13;
    if (native_below(3) == 0) {
        v |= (uint32_t)native_rnd() & 0x3f;
    }
    if (native_below(4) == 0) {
        v |= 0x8000; /* flush to zero */
    }
    if (native_below(4) == 0) {
        v |= 0x40; /* denormals are zeros */
    }
    if (native_below(8) == 0) {
        v |= 0x20000; /* misaligned operands */
    }
    return v;
}

static void rnd_state(uint8_t *p, unsigned kind)
{
    memset(p, 0, NATIVE_XSAVE_SIZE);
    uint16_t fcw = rnd_control();
    le16_put(p + FCW, fcw);
    le16_put(p + FSW, rnd_status(fcw));
    p[FTW] = native_below(2) ? 0xff : native_below(2) ? (uint8_t)native_rnd() : 0;
    le32_put(p + MXCSR, rnd_mxcsr());
    for (unsigned i = 0; i < 8; i++) {
        if (kind == KIND_X87 || native_below(3) == 0) {
            rnd_extended(p + ST + 16 * i);
        } else {
            uint8_t v[16];
            fill(v, 16, kind);
            memcpy(p + ST + 16 * i, v, 10);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        unsigned k = native_below(8) ? kind : (unsigned)native_below(NB_KINDS);
        fill(p + XMM + 16 * i, 16, k);
        fill(p + YMM + 16 * i, 16, k);
    }
    le64_put(p + XSTATE_BV, 7);
}

/* --- Cases ----------------------------------------------------------------- */

/* What an instruction that saves or restores state has in place of operands. */
static bool is_area(unsigned op)
{
    switch (op) {
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC: return true;
    default: return false;
    }
}

static bool is_ours(const struct x86_desc *row)
{
    return row->cls == X86_CLASS_X87 || row->cls == X86_CLASS_MMX ||
           row->cls == X86_CLASS_SSE || row->cls == X86_CLASS_AVX || is_area(row->op);
}

static bool is_maskmov(unsigned op)
{
    return op == X86_OP_MASKMOVQ || op == X86_OP_MASKMOVDQU || op == X86_OP_VMASKMOVDQU;
}

static bool writable(uint64_t at, unsigned n)
{
    return at >= NATIVE_ARENA && at + n <= NATIVE_ARENA + WRITABLE;
}

/* Both memories: @n bytes at @at, when they are in the writable part. */
struct operand {
    uint64_t at;
    unsigned n;
    uint8_t data[1024];
};

/* Images that XRSTOR and FXRSTOR accept, mostly. */
static void make_image(struct operand *o, unsigned op, unsigned kind)
{
    uint8_t *p = o->data;
    rnd_state(p, kind);
    o->n = op == X86_OP_FXRSTOR ? 512 : NATIVE_XSAVE_SIZE;
    le16_put(p + FOP, (uint16_t)native_rnd());
    le64_put(p + FIP, native_rnd());
    le64_put(p + FDP, native_rnd());
    le32_put(p + MXCSR,
             rnd_mxcsr() | (native_below(20) ? 0 : 1u << (16 + native_below(16))));
    if (op == X86_OP_FXRSTOR) {
        return;
    }
    le64_put(p + XSTATE_BV, native_below(8));
    if (native_below(3) == 0) { /* compacted */
        uint64_t bv = native_below(8);
        le64_put(p + XSTATE_BV + 8, bv | UINT64_C(1) << 63);
        le64_put(p + XSTATE_BV, native_below(10) ? bv & native_rnd() : native_below(8));
    }
    if (native_below(20) == 0) {
        p[XSTATE_BV + 2 + native_below(62)] ^= (uint8_t)(1u << native_below(8));
    }
}

static uint64_t choose_target(const struct native_case *k)
{
    uint64_t t = rnd_target();
    const struct x86_opnd *m = x86_insn_mem(&k->insn);
    if (is_area(k->row->op)) {
        t = NATIVE_ARENA +
            (native_below(8) ? native_below(PAGE) : native_below(3 * PAGE));
        return native_below(10) ? t & ~63ull : t;
    }
    bool aligned = k->row->props & (X86_D_ALIGN | X86_D_SSEMEM);
    return m && aligned && m->size && native_below(8) ? t & ~(uint64_t)(m->size - 1)
                                                      : t;
}

/* Indices of a gather that stay near its base, mostly; some reach where nothing is, or
 * (of 8 bytes) make an address that is not canonical. */
static void set_indices(const struct native_case *k, uint8_t *state)
{
    unsigned n = k->insn.index, step = k->insn.opcode & 1 ? 8 : 4;
    for (unsigned i = 0; i < 16; i += step) {
        for (unsigned half = 0; half < 2; half++) {
            int64_t v = (int64_t)native_below(64) - 32;
            if (native_below(20) == 0) {
                bool far = step == 8 && native_below(2);
                v = far ? INT64_C(1) << 59 : (int64_t)(native_rnd() & 0xffff) - 0x8000;
            }
            le_put(state + (half ? YMM : XMM) + 16 * n + i,
                   (uint64_t)v & (step == 8 ? UINT64_MAX : UINT32_MAX), step);
        }
    }
}

/* Registers and memory of one case; false when the operand cannot be aimed. */
static bool make_operands(struct native_case *k, struct native_result *r,
                          uint8_t *state, struct operand *o)
{
    unsigned kind = k->row->cls == X86_CLASS_X87 && native_below(4)
                        ? KIND_X87
                        : (unsigned)native_below(NB_KINDS);
    uint64_t seg = k->insn.seg == X86_GS ? NATIVE_GS_BASE : 0;
    rnd_state(state, kind);
    for (unsigned i = 0; i < 16; i++) {
        r->gpr[i] = native_rnd_value();
    }
    r->rflags = native_rnd() & X86_FL_ARITH;
    o->at = choose_target(k);
    o->n = 64;
    fill(o->data, 64, kind);
    if (is_area(k->row->op)) {
        make_image(o, k->row->op, kind);
        r->gpr[X86_RAX] = native_rnd() & 0x1f;
        r->gpr[X86_RDX] = 0;
    }
    if (k->row->op == X86_OP_LDMXCSR || k->row->op == X86_OP_VLDMXCSR) {
        le32_put(o->data, rnd_mxcsr() | (native_below(4) ? 0 : (uint32_t)native_rnd()));
    }
    if (k->row->op == X86_OP_FLDENV || k->row->op == X86_OP_FRSTOR) {
        o->n = 112;
        fill(o->data, 112, KIND_BYTES);
    }
    if (k->row->op == X86_OP_PCMPESTRI || k->row->op == X86_OP_PCMPESTRM) {
        r->gpr[X86_RAX] = native_below(40) - 20;
        r->gpr[X86_RDX] = native_below(40) - 20;
    }
    if (x86_insn_mem(&k->insn) && !native_case_aim(k, o->at, GUEST_CODE, r->gpr)) {
        return false;
    }
    if (k->row->props & (X86_D_VSIB | X86_D_VSIB_HALF)) {
        set_indices(k, state);
    }
    if (is_area(k->row->op) && r->gpr[X86_RAX] > 0x1f) {
        return false; /* the base: it would ask for components that we do not have */
    }
    if (k->row->gpr_read & 1u << X86_RDI) {
        r->gpr[X86_RDI] = o->at - seg;
    }
    if (k->mode == 32) {
        for (unsigned i = 0; i < 16; i++) {
            r->gpr[i] = i < 8 ? (uint32_t)r->gpr[i] : 0;
        }
    }
    return true;
}

/* --- Comparison ------------------------------------------------------------ */

struct outcome {
    struct native_result r;
    uint8_t state[NATIVE_XSAVE_SIZE];
    uint8_t memory[WRITABLE];
};

static const struct field {
    const char *name;
    unsigned at, size;
} fields[] = {
    {"FCW", FCW, 2},      {"FSW", FSW, 2},      {"FTW", FTW, 1},
    {"FOP", FOP, 2},      {"FIP", FIP, 8},      {"FDP", FDP, 8},
    {"MXCSR", MXCSR, 4},  {"ST0", ST, 10},      {"ST1", ST + 16, 10},
    {"ST2", ST + 32, 10}, {"ST3", ST + 48, 10}, {"ST4", ST + 64, 10},
    {"ST5", ST + 80, 10}, {"ST6", ST + 96, 10}, {"ST7", ST + 112, 10},
    {"XMM", XMM, 256},    {"YMM", YMM, 256},
};

static void put_hex(GString *s, const uint8_t *p, unsigned n)
{
    for (unsigned i = n; i-- > 0;) {
        g_string_append_printf(s, "%02x", p[i]);
    }
}

static void put_bytes(GString *s, const char *name, const uint8_t *from,
                      const uint8_t *want, const uint8_t *got, unsigned n)
{
    g_string_append_printf(s, "\n      %s ", name);
    put_hex(s, from, n);
    g_string_append(s, " -> ");
    put_hex(s, want, n);
    g_string_append(s, ", not ");
    put_hex(s, got, n);
}

/* What is read or written in several pieces: which of them faults first is the
 * processor's own. */
static bool in_pieces(const struct native_case *k)
{
    const struct x86_opnd *m = x86_insn_mem(&k->insn);
    return (m && (m->size == 0 || m->size == 14 || m->size == 28 || m->size > 32)) ||
           (k->row->props & X86_D_IMPL_MEM);
}

/*
 * What may differ is made equal:
 *   - the pointers to the last x87 instruction, which the processor does not tell (by
 *     XSAVE) when no exception is pending;
 *   - MXCSR.PE beside an unmasked overflow or underflow: whether the result would have
 *     been inexact with an unbounded exponent is not known to us;
 *   - the dot products, which raise the exceptions of one step before the next;
 *   - of which page the fault is when several are touched and may not be;
 *   - the x87 stack after a fault of an instruction with an MMX operand: the processor
 *     has already made MMX registers of it, the manuals have nothing changed.
 */
static void forgive(const struct native_case *k, const struct outcome *want,
                    struct outcome *got)
{
    const struct native_result *w = &want->r;
    struct native_result *g = &got->r;
    if (!(le16_get(got->state + FSW) & 0x80)) {
        memset(got->state + FOP, 0, MXCSR - FOP);
    }
    if (!w->faulted || !g->faulted || w->vector != g->vector) {
        return;
    }
    if (w->vector == X86_EXC_XM) {
        unsigned op = k->row->op;
        uint32_t a = le32_get(want->state + MXCSR), b = le32_get(got->state + MXCSR);
        bool half = op == X86_OP_VCVTPS2PH && (a ^ b) == 0x10 && !(a & 0x800);
        bool dot = op == X86_OP_DPPS || op == X86_OP_DPPD || op == X86_OP_VDPPS ||
                   op == X86_OP_VDPPD;
        bool pe = (a ^ b) == 0x20 && (b & ~(b >> 7) & 0x18);
        if (half || pe || (dot && (a ^ b) < 0x40)) {
            le32_put(got->state + MXCSR, a);
        }
    }
    if (w->vector == X86_EXC_PF && in_pieces(k)) {
        g->cr2 = w->cr2;
        g->error = w->error;
    }
    /* Our kernel is not where the host's is. */
    if (w->vector == X86_EXC_PF && (w->cr2 >> 63 || w->cr2 < 2 * MIB)) {
        g->error = w->error;
    }
    if (k->row->props & X86_D_MMX) {
        memcpy(got->state + FSW, want->state + FSW, 3);
        memcpy(got->state + ST, want->state + ST, 128);
    }
}

/* Append what differs to @s; false: nothing does. */
static bool difference(const struct outcome *from, const struct outcome *want,
                       const struct outcome *got, GString *s)
{
    gsize empty = s->len;
    const struct native_result *w = &want->r, *g = &got->r;
    if (w->faulted != g->faulted || w->vector != g->vector || w->cr2 != g->cr2 ||
        w->error != g->error) {
        g_string_append_printf(
            s, "\n      fault %d:%u err %x cr2 %lx, not %d:%u %x %lx", w->faulted,
            w->vector, w->error, w->cr2, g->faulted, g->vector, g->error, g->cr2);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (w->gpr[i] != g->gpr[i]) {
            g_string_append_printf(s, "\n      %s %lx -> %lx, not %lx",
                                   x86_gpr_name(i, 8), from->r.gpr[i], w->gpr[i],
                                   g->gpr[i]);
        }
    }
    if (w->rflags != g->rflags || w->rip != g->rip) {
        g_string_append_printf(s, "\n      flags %lx -> %lx, not %lx; rip %lx, not %lx",
                               from->r.rflags, w->rflags, g->rflags, w->rip, g->rip);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        unsigned at = fields[i].at, step = fields[i].size > 16 ? 16 : fields[i].size;
        for (unsigned j = 0; j < fields[i].size; j += step) {
            if (memcmp(want->state + at + j, got->state + at + j, step) != 0) {
                g_autofree char *name = g_strdup_printf("%s%u", fields[i].name, j / 16);
                put_bytes(s, step < fields[i].size ? name : fields[i].name,
                          from->state + at + j, want->state + at + j,
                          got->state + at + j, step);
            }
        }
    }
    for (unsigned i = 0, shown = 0; i < WRITABLE && shown < 6; i += 8) {
        if (memcmp(want->memory + i, got->memory + i, 8) != 0) {
            g_autofree char *name = g_strdup_printf("memory+%x", i);
            put_bytes(s, name, from->memory + i, want->memory + i, got->memory + i, 8);
            shown++;
        }
    }
    return s->len > empty;
}

static void explain(const struct native_case *k, const struct outcome *from,
                    uint64_t target, const char *what)
{
    char text[128];
    g_autoptr(GString) s = g_string_new(NULL);
    x86_format(&k->insn, GUEST_CODE, text, sizeof(text));
    put_hex(s, k->bytes, 0);
    g_test_message("%u-bit: %s (%02x %02x %02x %02x) at %lx: fcw %x fsw %x ftw %x "
                   "mxcsr %x%s",
                   k->mode, text, k->bytes[0], k->bytes[1], k->bytes[2], k->bytes[3],
                   target, le16_get(from->state + FCW), le16_get(from->state + FSW),
                   from->state[FTW], le32_get(from->state + MXCSR), what);
}

/*
 * What only one of the two faults for:
 *   - a byte that MASKMOVDQU does not store: the processor may fault;
 *   - the upper half of an operand of which only the lower one counts (PUNPCKL, shift
 *     counts): seen only with MXCSR.MM, else both halves are in one page;
 *   - a tiny but exact half-precision result with underflow unmasked: found by means
 *     of flush-to-zero, which VCVTPS2PH does not know.
 */
static bool is_implementation_specific(const struct native_case *k,
                                       const struct outcome *want,
                                       const struct outcome *got)
{
    bool mm = le32_get(want->state + MXCSR) & 0x20000;
    if (is_maskmov(k->row->op) && want->r.faulted && !got->r.faulted) {
        return true;
    }
    if (k->row->op == X86_OP_VCVTPS2PH && want->r.vector == X86_EXC_XM) {
        return !(le32_get(want->state + MXCSR) & 0x800) && !got->r.faulted;
    }
    return mm && (k->row->props & X86_D_SSEMEM) && !want->r.faulted &&
           got->r.vector == X86_EXC_PF && (got->r.cr2 & (PAGE - 1)) == 0;
}

enum verdict { EQUAL, EQUAL_FAULT, DIFFERENT, SKIPPED };

static enum verdict run_case(struct guest *g, struct native_case *k)
{
    static struct outcome from, want, got;
    static struct operand o;
    uint64_t off = native_below(2 * PAGE) & ~63ull;

    memset(&from.r, 0, sizeof(from.r));
    if (!make_operands(k, &from.r, from.state, &o)) {
        return SKIPPED;
    }
    memcpy(from.memory, template + off, WRITABLE);
    if (writable(o.at, o.n)) {
        memcpy(from.memory + (o.at - NATIVE_ARENA), o.data, o.n);
    }

    want.r = from.r;
    memcpy(want.state, from.state, sizeof(want.state));
    memcpy(native_arena(), from.memory, WRITABLE);
    native_run_fpu(k->bytes, k->insn.len, k->mode, &want.r, want.state);
    memcpy(want.memory, native_arena(), WRITABLE);

    got.r = from.r;
    memcpy(got.state, from.state, sizeof(got.state));
    memcpy(g->arena, from.memory, WRITABLE);
    guest_run(g, k->bytes, k->insn.len, &got.r, got.state);
    memcpy(got.memory, g->arena, WRITABLE);

    if (is_implementation_specific(k, &want, &got)) {
        return SKIPPED;
    }
    if (want.r.faulted && want.r.vector == X86_EXC_UD && got.r.faulted &&
        got.r.vector == X86_EXC_UD) {
        return SKIPPED;
    }
    g_autoptr(GString) s = g_string_new(NULL);
    forgive(k, &want, &got);
    if (difference(&from, &want, &got, s)) {
        explain(k, &from, o.at, s->str);
        return DIFFERENT;
    }
    return want.r.faulted ? EQUAL_FAULT : EQUAL;
}

#define CASES_PER_ROW NATIVE_CASES(100u, 5000u)

static void test_native(const void *opaque)
{
    unsigned mode = GPOINTER_TO_UINT(opaque), rows = 0, bad_rows = 0;
    uint64_t equal = 0, faults = 0, skipped = 0;
    struct guest *g = guest_new(mode);
    const char *only = g_getenv("T0_ROW");

    native_seed();
    fill_template();
    memcpy(native_arena() + WRITABLE, template, PAGE);
    memcpy(g->arena + WRITABLE, template, PAGE);
    mprotect(native_arena() + WRITABLE, PAGE, PROT_READ);
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        struct native_case k = {0};
        unsigned row_equal = 0, bad = 0;
        if (!is_ours(row) || (only && g_ascii_strcasecmp(only, x86_op_name(row->op))) ||
            !native_case_make(i, mode, &k)) {
            continue;
        }
        for (unsigned n = 0; n < CASES_PER_ROW && bad < 2; n++) {
            if (!native_case_make(i, mode, &k)) {
                continue;
            }
            enum verdict v = run_case(g, &k);
            row_equal += v == EQUAL || v == EQUAL_FAULT;
            faults += v == EQUAL_FAULT;
            skipped += v == SKIPPED;
            bad += v == DIFFERENT;
        }
        equal += row_equal;
        rows++;
        bad_rows += bad > 0;
        if (row_equal == 0 && !bad) {
            g_test_message("not compared: %s map %u %02x feature %s",
                           x86_op_name(row->op), row->map, row->opcode,
                           x86_feat_name(row->feat));
        }
    }
    mprotect(native_arena() + WRITABLE, PAGE, PROT_READ | PROT_WRITE);
    guest_free(g);
    g_test_message("%u rows, %lu equal cases, %lu of them faults, %lu skipped, "
                   "%u rows differ",
                   rows, equal, faults, skipped, bad_rows);
    g_assert_cmpuint(bad_rows, ==, 0);
    g_assert_cmpuint(faults, >, only ? 0 : equal / 40);
    g_assert_cmpuint(rows, >, only ? 0 : 600);
}

/* --- Sequences ------------------------------------------------------------- */

#define MAX_INSNS 8u

struct sequence {
    uint8_t bytes[MAX_INSNS * X86_INSN_MAX_LEN];
    unsigned at[MAX_INSNS]; /* of each instruction */
    unsigned len, nb, mode;
};

/* Not here: what has differences that forgive() knows. */
static bool is_loner(const struct native_case *k)
{
    const struct x86_opnd *m = x86_insn_mem(&k->insn);
    return is_area(k->row->op) || is_maskmov(k->row->op) ||
           (k->row->props & (X86_D_VSIB | X86_D_VSIB_HALF)) ||
           (m && (m->size == 0 || m->size > 32)) || k->insn.seg >= X86_FS ||
           k->row->op == X86_OP_VCVTPS2PH;
}

/* A memory operand must need no register: those have been changed by then. */
static bool add_insn(struct sequence *s)
{
    struct native_case k;
    uint64_t unused[16] = {0};
    uint64_t target = NATIVE_ARENA + 64 + native_below(WRITABLE - 256);
    unsigned row = (unsigned)native_below(x86_desc_count());

    if (!is_ours(x86_desc_get(row)) || !native_case_make(row, s->mode, &k) ||
        is_loner(&k)) {
        return false;
    }
    if (x86_insn_mem(&k.insn)) {
        bool absolute = k.insn.index == X86_REG_NONE && k.insn.base >= X86_REG_RIP;
        target &= native_below(10) ? ~31ull : ~0ull;
        if (!absolute || !native_case_aim(&k, target, GUEST_CODE + s->len, unused)) {
            return false;
        }
    }
    s->at[s->nb++] = s->len;
    memcpy(s->bytes + s->len, k.bytes, k.insn.len);
    s->len += k.insn.len;
    return true;
}

static void explain_sequence(const struct sequence *s, const struct outcome *from,
                             const char *what)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (unsigned i = 0; i < s->nb; i++) {
        struct x86_insn insn;
        char line[128];
        x86_decode(&insn, s->bytes + s->at[i], 15, s->mode);
        x86_format(&insn, GUEST_CODE + s->at[i], line, sizeof(line));
        g_string_append_printf(text, "\n  %lx %s", GUEST_CODE + s->at[i], line);
    }
    g_test_message("%u-bit: fcw %x fsw %x ftw %x mxcsr %x%s%s", s->mode,
                   le16_get(from->state + FCW), le16_get(from->state + FSW),
                   from->state[FTW], le32_get(from->state + MXCSR), text->str, what);
}

/* Whether both ways agree; *ret_faults counts the sequences that ended in a fault. */
static bool run_sequence(struct guest *g, const struct sequence *s,
                         unsigned *ret_faults)
{
    static struct outcome from, want, got;
    struct native_case last = {0}; /* the one that faulted */
    unsigned kind = (unsigned)native_below(NB_KINDS);

    memset(&from.r, 0, sizeof(from.r));
    for (unsigned i = 0; i < (s->mode == 64 ? 16 : 8); i++) {
        from.r.gpr[i] = s->mode == 64 ? native_rnd_value() : (uint32_t)native_rnd();
    }
    from.r.rflags = native_rnd() & X86_FL_ARITH;
    rnd_state(from.state, kind);
    memcpy(from.memory, template + (native_below(WRITABLE) & ~63ull), WRITABLE);

    want = from;
    memcpy(native_arena(), from.memory, WRITABLE);
    native_run_fpu(s->bytes, s->len, s->mode, &want.r, want.state);
    memcpy(want.memory, native_arena(), WRITABLE);
    *ret_faults += want.r.faulted;

    got = from;
    memcpy(g->arena, from.memory, WRITABLE);
    guest_run(g, s->bytes, s->len, &got.r, got.state);
    memcpy(got.memory, g->arena, WRITABLE);

    g_autoptr(GString) text = g_string_new(NULL);
    uint64_t off = want.r.faulted ? want.r.rip - GUEST_CODE : 0;
    g_assert_cmpint(x86_decode(&last.insn, s->bytes + off, 15, s->mode), >, 0);
    last.row = x86_insn_desc(&last.insn);
    forgive(&last, &want, &got);
    if (difference(&from, &want, &got, text)) {
        explain_sequence(s, &from, text->str);
        return false;
    }
    return true;
}

#define SEQUENCES NATIVE_CASES(6000u, 400000u)

static void test_sequences(const void *opaque)
{
    unsigned mode = GPOINTER_TO_UINT(opaque), bad = 0, faults = 0;
    struct guest *g = guest_new(mode);

    native_seed();
    fill_template();
    for (unsigned n = 0; n < SEQUENCES && bad < 4; n++) {
        struct sequence s = {.mode = mode};
        unsigned nb = 2 + (unsigned)native_below(MAX_INSNS - 1);
        while (s.nb < nb) {
            add_insn(&s);
        }
        bad += !run_sequence(g, &s, &faults);
    }
    guest_free(g);
    g_test_message("%u of %u sequences end in a fault", faults, SEQUENCES);
    g_assert_cmpuint(bad, ==, 0);
    g_assert_cmpuint(faults, >, SEQUENCES / 20);
    g_assert_cmpuint(faults, <, SEQUENCES * 3 / 4);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    native_setup(GUEST_CODE);
    g_test_add_data_func("/t0/simd/as_the_processor_64", GUINT_TO_POINTER(64),
                         test_native);
    g_test_add_data_func("/t0/simd/as_the_processor_32", GUINT_TO_POINTER(32),
                         test_native);
    g_test_add_data_func("/t0/simd/sequences_64", GUINT_TO_POINTER(64), test_sequences);
    g_test_add_data_func("/t0/simd/sequences_32", GUINT_TO_POINTER(32), test_sequences);
    return g_test_run();
}
