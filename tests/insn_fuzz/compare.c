#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/bt.h"

/* Two outcomes of one case: what differs, and what may. */

/* RF is set in the image of a fault and the kernel's business; IF never changes. */
#define FLAGS_COMPARED                                                          \
    (X86_FL_ARITH | X86_FL_DF | X86_FL_TF | X86_FL_NT | X86_FL_AC | X86_FL_ID | \
     X86_FL_IOPL | X86_FL_IF)

/* Linux's TASK_SIZE_MAX with four levels of page tables. */
#define LINUX_TASK_END UINT64_C(0x7ffffffff000)

int fz_insn_at(const struct fz_case *k, uint64_t rip)
{
    for (unsigned i = 0; i < k->nb_insns; i++) {
        if (!k->insn[i].dropped && FZ_CODE + k->insn[i].off == rip) {
            return (int)i;
        }
    }
    return -1;
}

/* --- What may differ ------------------------------------------------------- */

static bool is_maskmov(unsigned op)
{
    return op == X86_OP_MASKMOVQ || op == X86_OP_MASKMOVDQU || op == X86_OP_VMASKMOVDQU;
}

/* Read or written in several pieces: which comes first is the processor's own. */
static bool in_pieces(const struct x86_insn *i)
{
    const struct x86_desc *row = x86_insn_desc(i);
    const struct x86_opnd *m = x86_insn_mem(i);
    return (m && (m->size == 0 || m->size == 14 || m->size == 28 || m->size > 32)) ||
           row->op == X86_OP_RETF || row->op == X86_OP_IRET ||
           (row->props & (X86_D_IMPL_MEM | X86_D_VSIB | X86_D_VSIB_HALF));
}

/*
 * XSAVE does not tell the last x87 instruction when no exception is pending; of one
 * whose exception was masked then the opcode is not known: see forgive_environment().
 */
static void forgive_pointers(struct fz_state *got, const struct fz_state *want)
{
    if (!(le16_get(got->xsave + FZ_FSW) & 0x80)) {
        memcpy(got->xsave + FZ_FOP, want->xsave + FZ_FOP, FZ_MXCSR - FZ_FOP);
    } else if (!le16_get(got->xsave + FZ_FOP)) {
        memcpy(got->xsave + FZ_FOP, want->xsave + FZ_FOP, 2);
    }
}

/*
 * #XM: MXCSR.PE beside an unmasked overflow or underflow (whether the result would
 * have been inexact with an unbounded exponent) is not known to the software CPU; the
 * dot products raise the exceptions of one step before the next.
 */
static void forgive_xm(const struct x86_insn *i, const struct fz_state *w,
                       struct fz_state *g)
{
    uint32_t a = le32_get(w->xsave + FZ_MXCSR), b = le32_get(g->xsave + FZ_MXCSR);
    bool dot = i->op == X86_OP_DPPS || i->op == X86_OP_DPPD || i->op == X86_OP_VDPPS ||
               i->op == X86_OP_VDPPD;
    if (dot ? (a ^ b) < 0x40 : (a ^ b) == 0x20 && (b & ~(b >> 7) & 0x18)) {
        le32_put(g->xsave + FZ_MXCSR, a);
    }
}

static bool is_area(const struct x86_insn *i)
{
    const struct x86_opnd *m = x86_insn_mem(i);
    return m && m->size == 0 && (x86_insn_desc(i)->props & X86_D_IMPL_MEM);
}

static void forgive_pf(const struct x86_insn *i, const struct fz_state *w,
                       struct fz_state *g)
{
    if (w->cr2 >= LINUX_TASK_END && w->error == (g->error | X86_PF_P)) {
        g->error = w->error; /* Linux says so of all that is not the process's */
    }
    if (i && in_pieces(i) && (w->cr2 ^ g->cr2) < FZ_PAGE) {
        g->cr2 = w->cr2;
    }
    if (i && is_area(i) &&
        (i->addrsize == 2 || w->cr2 - g->cr2 + FZ_XSAVE_SIZE < 2 * FZ_XSAVE_SIZE)) {
        g->cr2 = w->cr2;
        g->error = w->error; /* two pages, and neither may be written */
    }
    if (i && is_maskmov(i->op)) {
        g->cr2 = w->cr2;
        g->error = w->error;
    }
}

/*
 * A fault of an instruction with an MMX operand: the processor has already made MMX
 * registers of the x87 stack, the manuals have nothing changed.
 */
static void forgive_mmx(const struct x86_insn *i, const struct fz_state *w,
                        struct fz_state *g)
{
    if (x86_insn_desc(i)->props & X86_D_MMX) {
        memcpy(g->xsave + FZ_FSW, w->xsave + FZ_FSW, 3);
        memcpy(g->xsave + FZ_ST, w->xsave + FZ_ST, 128);
    }
}

/* The instruction that @end stopped at, as memory is now. False: none. */
static bool decode_there(const struct fz_case *k, const struct fz_outcome *end,
                         struct x86_insn *ret)
{
    uint64_t off = end->s.rip - FZ_CODE;
    int at = fz_insn_at(k, end->s.rip);
    if (off >= sizeof(end->mem.code)) {
        return false;
    }
    size_t avail = MIN(sizeof(end->mem.code) - off, (size_t)X86_INSN_MAX_LEN);
    int len = x86_decode(ret, end->mem.code + off, avail, k->bits);
    if (len == X86_DECODE_MORE && at >= 0) {
        *ret = k->insn[at].insn; /* over the edge */
        return true;
    }
    return len > 0;
}

static void forgive(const struct fz_case *k, const struct fz_outcome *want,
                    struct fz_outcome *got)
{
    const struct fz_state *w = &want->s;
    struct fz_state *g = &got->s;
    forgive_pointers(g, w);
    for (unsigned i = 0; i < 16; i++) {
        if (k->ignored >> i & 1 && fz_insn_at(k, w->rip) < 0) {
            g->gpr[i] = w->gpr[i];
        }
    }
    if (w->end != FZ_END_FAULT || g->end != FZ_END_FAULT || w->vector != g->vector ||
        w->rip != g->rip) {
        return;
    }
    struct x86_insn there;
    const struct x86_insn *i = decode_there(k, got, &there) ? &there : NULL;
    if (w->vector == X86_EXC_PF) {
        forgive_pf(i, w, g);
    }
    if (i && i->op == X86_OP_POPA) {
        memcpy(g->gpr, w->gpr, sizeof(g->gpr)); /* some are popped already */
    }
    if (i && w->vector == X86_EXC_XM) {
        forgive_xm(i, w, g);
    }
    if (i) {
        forgive_mmx(i, w, g);
    }
}

#define INT1_OPCODE 0xf1

/* What the software CPU faulted at is an instruction as we made it. */
static bool is_ours(const struct fz_case *k, const struct fz_outcome *got)
{
    int at = fz_insn_at(k, got->s.rip);
    if (at < 0) {
        return false;
    }
    const struct fz_insn *in = &k->insn[at];
    return in->off + in->insn.len > sizeof(got->mem.code) ||
           memcmp(got->mem.code + in->off, in->bytes, in->insn.len) == 0;
}

/*
 * A wild jump or a store to the code has found something that we did not make and
 * that cannot be compared: an instruction that the host has and we do not (AVX-512),
 * one that Linux emulates, or the code at FZ_EXIT, which is not the same on both.
 */
static bool is_beyond_us(const struct fz_case *k, const struct fz_outcome *want,
                         const struct fz_outcome *got)
{
    const struct fz_state *g = &got->s;
    struct x86_insn i;
    if (want->s.rip - FZ_EXIT <= FZ_PAGE && want->s.end == FZ_END_FAULT) {
        return true;
    }
    if (k->ignored && memcmp(got->mem.code, k->mem.code, sizeof(k->mem.code)) != 0) {
        return true; /* and it may write to another register now */
    }
    uint64_t before = g->rip - FZ_CODE - 1;
    if (g->end == FZ_END_FAULT && g->vector == X86_EXC_DB &&
        before < sizeof(got->mem.code) && got->mem.code[before] == INT1_OPCODE) {
        return true;
    }
    if (g->end != FZ_END_FAULT || is_ours(k, got)) {
        return false;
    }
    if (!decode_there(k, got, &i)) {
        return g->vector == X86_EXC_UD;
    }
    struct x86_featset guest;
    bt_features(&guest);
    if (g->vector == X86_EXC_UD && !x86_featset_has(&guest, x86_insn_desc(&i)->feat)) {
        return true;
    }
    return (g->vector == X86_EXC_GP && x86_insn_desc(&i)->priv == X86_PRIV_UMIP);
}

/*
 * Changed code has REP or REPNE before LOOPE or LOOPNE, which the manuals reserve: to
 * Zen 5 the prefix is the condition, REP LOOPNE is LOOPE.
 */
static bool is_prefixed_loop(const struct fz_case *k, const struct fz_outcome *want)
{
    const uint8_t *code = want->mem.code;
    for (unsigned i = 0; i + 1 < sizeof(want->mem.code); i++) {
        if ((code[i] == 0xf2 || code[i] == 0xf3) && (code[i + 1] & 0xfe) == 0xe0 &&
            (code[i] != k->mem.code[i] || code[i + 1] != k->mem.code[i + 1])) {
            return true;
        }
    }
    return false;
}

/* Operands of which only one half counts: the processor may read no more. */
static bool reads_half(unsigned op)
{
    switch (op) {
    case X86_OP_UNPCKLPS:
    case X86_OP_UNPCKLPD:
    case X86_OP_PUNPCKLBW:
    case X86_OP_PUNPCKLWD:
    case X86_OP_PUNPCKLDQ:
    case X86_OP_PUNPCKLQDQ:
    case X86_OP_PSLLW:
    case X86_OP_PSLLD:
    case X86_OP_PSLLQ:
    case X86_OP_PSRLW:
    case X86_OP_PSRLD:
    case X86_OP_PSRLQ:
    case X86_OP_PSRAW:
    case X86_OP_PSRAD: return true;
    default: return false;
    }
}

static bool is_limit(unsigned vector)
{
    return vector == X86_EXC_GP || vector == X86_EXC_SS;
}

/* How much of a save area or environment must be inside the segment's limit, and when
 * that is looked at, is the processor's own. */
static bool is_area_limit(const struct fz_case *k, const struct fz_outcome *want,
                          const struct fz_outcome *got)
{
    int at = fz_insn_at(k, want->s.rip);
    bool same = got->s.end == FZ_END_FAULT && got->s.rip == want->s.rip;
    struct x86_insn there;
    const struct x86_insn *i = at >= 0 ? &k->insn[at].insn
                               : same && decode_there(k, got, &there) ? &there
                                                                      : NULL;
    if (k->bits == 64 || want->s.end != FZ_END_FAULT || !i) {
        return false;
    }
    const struct x86_opnd *m = x86_insn_mem(i);
    bool whole = m && (is_area(i) || m->size == 10 || m->size == 14 || m->size > 16);
    return whole && is_limit(want->s.vector)
               ? !same || got->s.vector == X86_EXC_PF || got->s.vector == X86_EXC_AC
               : whole && same && is_limit(got->s.vector) &&
                     (want->s.vector == X86_EXC_AC || want->s.vector == X86_EXC_PF);
}

/* Both stopped at the same instruction, or the processor did not: with another fault,
 * and which one comes first is the processor's own. */
static bool is_order(const struct fz_case *k, const struct fz_outcome *want,
                     const struct fz_outcome *got)
{
    const struct fz_state *w = &want->s, *g = &got->s;
    struct x86_insn i;
    if (is_area_limit(k, want, got)) {
        return true;
    }
    if (g->end != FZ_END_FAULT || !decode_there(k, got, &i)) {
        return false;
    }
    unsigned op = i.op;
    if (reads_half(op) && g->vector == X86_EXC_PF && !(g->cr2 & (FZ_PAGE - 1))) {
        return true;
    }
    if (w->end != FZ_END_FAULT || w->rip != g->rip) {
        return false;
    }
    if (i.seg == X86_SS && w->vector == X86_EXC_GP && g->vector == X86_EXC_SS) {
        return x86_insn_mem(&i) && /* not aligned, either */
               (x86_insn_mem(&i)->size >= 16 || is_area(&i));
    }
    if (i.seg >= X86_FS && w->vector == X86_EXC_GP && g->vector == X86_EXC_PF) {
        /* Zen 5 wants the offset canonical, too, before the base makes it so. */
        uint64_t off = g->cr2 - (i.seg == X86_FS ? g->fs_base : g->gs_base);
        return (uint64_t)((int64_t)(off << 16) >> 16) != off;
    }
    switch (op) {
    case X86_OP_UD0: /* how much of it is fetched before #UD */
    case X86_OP_UD1: return w->vector == X86_EXC_UD && g->vector == X86_EXC_PF;
    case X86_OP_RETF: /* all of the stack, selectors, canonical address */
    case X86_OP_IRET:
        return (w->vector == X86_EXC_PF || w->vector == X86_EXC_GP ||
                w->vector == X86_EXC_AC) &&
               g->vector == X86_EXC_GP;
    default:
        /* Elements of a gather: pages and canonical addresses. */
        return x86_insn_desc(&i)->props & (X86_D_VSIB | X86_D_VSIB_HALF) &&
               w->vector == X86_EXC_GP && g->vector == X86_EXC_PF;
    }
}

/* VCVTPS2PH does not flush to zero, by which the software CPU finds exact results
 * that are tiny, and raises underflow when it is unmasked. */
static bool is_tiny_half(const struct fz_case *k, const struct fz_outcome *want)
{
    int at = fz_insn_at(k, want->s.rip);
    return at >= 0 && want->s.end == FZ_END_FAULT && want->s.vector == X86_EXC_XM &&
           k->insn[at].insn.op == X86_OP_VCVTPS2PH;
}

/* LSL of the last descriptor of Linux's GDT tells the processor's number; ours is 0. */
static bool is_cpu_number(const struct fz_case *k, const struct fz_outcome *want,
                          const struct fz_outcome *got)
{
    for (unsigned i = 0; i < k->nb_insns; i++) {
        const struct x86_insn *in = &k->insn[i].insn;
        if (in->op == X86_OP_LSL && !k->insn[i].dropped) {
            uint64_t w = want->s.gpr[in->opnd[0].reg], g = got->s.gpr[in->opnd[0].reg];
            return !(uint16_t)g && (uint16_t)w && (w ^ g) <= UINT16_MAX;
        }
    }
    return false;
}

/* Where the memory operand of an instruction is that changes no general register and
 * was the last one. */
static uint64_t operand_address(const struct fz_insn *in, const struct fz_state *s)
{
    const struct x86_insn *i = &in->insn;
    if (i->base == X86_REG_RIP) {
        return in->mem_la;
    }
    uint64_t v = (uint64_t)i->disp;
    v += i->base < 16 ? s->gpr[i->base] : 0;
    v += i->index < 16 ? s->gpr[i->index] * i->scale : 0;
    v = i->addrsize == 8 ? v : i->addrsize == 4 ? (uint32_t)v : (uint16_t)v;
    v += i->seg == X86_FS ? s->fs_base : i->seg == X86_GS ? s->gs_base : 0;
    return i->mode == 64 ? v : (uint32_t)v;
}

/* @n bytes of guest memory at @la; NULL when they are not all there. */
static const uint8_t *bytes_at(const struct fz_mem *mem, uint64_t la, size_t n)
{
    const struct {
        uint64_t la;
        const uint8_t *bytes;
        size_t size;
    } areas[] = {{FZ_DATA, mem->data, sizeof(mem->data)},
                 {FZ_STACK, mem->stack, sizeof(mem->stack)},
                 {FZ_CODE, mem->code, sizeof(mem->code)}};
    for (unsigned i = 0; i < ARRAY_LEN(areas); i++) {
        if (la - areas[i].la <= areas[i].size - n) {
            return areas[i].bytes + (la - areas[i].la);
        }
    }
    return NULL;
}

/* XRSTOR of an area that an instruction before it has changed, so that it names
 * components that only the host has. */
static bool restores_more(const struct fz_case *k, const struct fz_outcome *want,
                          const struct fz_outcome *got)
{
    const struct fz_state *g = &got->s;
    int at = g->end == FZ_END_FAULT ? fz_insn_at(k, g->rip) : -1;
    if (at < 0 || g->vector != X86_EXC_GP || k->insn[at].insn.op != X86_OP_XRSTOR ||
        want->s.rip == g->rip) {
        return false;
    }
    const uint8_t *bv =
        bytes_at(&got->mem, operand_address(&k->insn[at], g) + FZ_XSTATE_BV, 16);
    return bv && (le64_get(bv) | le64_get(bv + 8)) & UINT64_C(0x7ffffffffffffff8);
}

/*
 * Whether a component whose contents are the initial ones is in use is the processor's
 * own (SDM 1 13.6): XSAVEOPT and XSAVEC store it, XSAVE says so in XSTATE_BV.
 */
static bool is_in_use(const struct fz_case *k, const struct fz_outcome *want,
                      const struct fz_outcome *got)
{
    const struct fz_insn *in = &k->insn[k->nb_insns - 1];
    uint64_t la = operand_address(in, &want->s) + FZ_XSTATE_BV;
    const uint8_t *want_bv = bytes_at(&want->mem, la, 8),
                  *got_bv = bytes_at(&got->mem, la, 8);
    unsigned op = in->insn.op;
    if ((op != X86_OP_XSAVE && op != X86_OP_XSAVEC && op != X86_OP_XSAVEOPT) ||
        !want_bv) {
        return false;
    }
    uint64_t w = le64_get(want_bv), g = le64_get(got_bv);
    return w != g && (w | g) == w && (w ^ g) <= 7;
}

bool fz_equal(const struct fz_outcome *want, const struct fz_outcome *got)
{
    const struct fz_state *w = &want->s, *g = &got->s;
    return w->end == g->end && w->vector == g->vector && w->error == g->error &&
           w->cr2 == g->cr2 && w->rip == g->rip &&
           memcmp(w->gpr, g->gpr, sizeof(w->gpr)) == 0 &&
           !((w->rflags ^ g->rflags) & FLAGS_COMPARED) && w->fs_base == g->fs_base &&
           w->gs_base == g->gs_base && memcmp(w->seg, g->seg, sizeof(w->seg)) == 0 &&
           memcmp(w->xsave, g->xsave, 416) == 0 &&
           memcmp(w->xsave + FZ_YMM, g->xsave + FZ_YMM, 256) == 0 &&
           memcmp(&want->mem, &got->mem, sizeof(want->mem)) == 0;
}

/*
 * FNSTENV, FXSAVE and the like store the selectors of the last x87 instruction, which
 * are lost at the next context switch of a 64-bit kernel, and the opcode of the last
 * one that raised an exception, masked ones included, which the software CPU knows
 * only of unmasked ones. These are last in their sequence; here are the offsets of
 * what they stored so.
 */
static unsigned forgiven_bytes(const struct x86_insn *i, const uint8_t **ret)
{
    static const uint8_t env[] = {16, 17, 18, 19, 24, 25}, env16[] = {8, 9, 12, 13};
    static const uint8_t area[] = {6, 7}, area32[] = {6, 7, 12, 13, 20, 21};
    switch (i->op) {
    case X86_OP_FNSTENV:
    case X86_OP_FNSAVE:
        *ret = i->opsize == 2 ? env16 : env;
        return i->opsize == 2 ? sizeof(env16) : sizeof(env);
    case X86_OP_FXSAVE:
    case X86_OP_XSAVE:
    case X86_OP_XSAVEC:
    case X86_OP_XSAVEOPT:
        *ret = i->prefixes & X86_P_W ? area : area32;
        return i->prefixes & X86_P_W ? sizeof(area) : sizeof(area32);
    default: return 0;
    }
}

static void forgive_environment(const struct fz_case *k, const struct fz_outcome *want,
                                struct fz_outcome *got)
{
    const struct fz_insn *in = &k->insn[k->nb_insns - 1];
    uint64_t la = operand_address(in, &want->s);
    const uint8_t *offsets = NULL;
    unsigned n = k->nb_insns ? forgiven_bytes(&in->insn, &offsets) : 0;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *byte = (uint8_t *)bytes_at(&got->mem, la + offsets[i], 1);
        if (byte) {
            *byte = *bytes_at(&want->mem, la + offsets[i], 1);
        }
    }
}

/* The instruction that stores its environment is another one now: elsewhere, or of
 * components that only the host has. */
static bool is_changed_environment(const struct fz_case *k,
                                   const struct fz_outcome *got)
{
    const uint8_t *offsets;
    return k->nb_insns && forgiven_bytes(&k->insn[k->nb_insns - 1].insn, &offsets) &&
           memcmp(got->mem.code, k->mem.code, sizeof(k->mem.code)) != 0;
}

/* XSAVE, XSAVEOPT or XSAVEC, if one jumps behind the prefix of CLWB or into the middle
 * of another instruction. */
static bool hides_save(const struct fz_insn *in)
{
    unsigned op = in->insn.op;
    bool open = op == X86_OP_XSAVE || op == X86_OP_XSAVEOPT || op == X86_OP_XSAVEC;
    for (unsigned i = 0; i + 2 < in->insn.len && !open && !in->dropped; i++) {
        unsigned digit = in->bytes[i + 2] >> 3 & 7;
        bool mem = in->bytes[i + 2] < 0xc0;
        if (in->bytes[i] == 0x0f && mem &&
            ((in->bytes[i + 1] == 0xae && (digit == 4 || digit == 6)) ||
             (in->bytes[i + 1] == 0xc7 && digit == 4))) {
            return true;
        }
    }
    return false;
}

/* A wild return has found one, and nothing but memory differs. */
static bool is_hidden_save(const struct fz_case *k, const struct fz_outcome *want,
                           const struct fz_outcome *got)
{
    const struct fz_state *w = &want->s, *g = &got->s;
    bool hidden = false;
    for (unsigned i = 0; i < k->nb_insns; i++) {
        hidden |= hides_save(&k->insn[i]);
    }
    return hidden && w->end == g->end && w->rip == g->rip && w->vector == g->vector &&
           memcmp(w->gpr, g->gpr, sizeof(w->gpr)) == 0 &&
           memcmp(w->xsave, g->xsave, 416) == 0;
}

void fz_normalise(const struct fz_case *k, struct fz_state *s)
{
    for (unsigned i = 0; k->bits == 32 && i < 16;
         i++) { /* the rest is undefined there */
        s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
    }
    for (unsigned i = 0; i < X86_NB_SEG; i++) { /* a null selector is a null selector */
        s->seg[i] = s->seg[i] <= 3 ? 0 : s->seg[i];
    }
    s->xsave[FZ_FTW + 1] = 0;
    memset(s->xsave + FZ_MXCSR + 4, 0, 4); /* the mask */
    for (unsigned i = 0; i < 8; i++) {
        memset(s->xsave + FZ_ST + 16 * i + 10, 0, 6);
    }
}

enum fz_verdict fz_compare(const struct fz_case *k, const struct fz_outcome *want,
                           struct fz_outcome *got)
{
    const struct fz_state *w = &want->s;
    if (w->end == FZ_END_SYSCALL || w->end == FZ_END_TIMEOUT) {
        return FZ_SKIPPED;
    }
    fz_normalise(k, &got->s);
    fz_normalise(k, (struct fz_state *)&want->s);
    forgive(k, want, got);
    forgive_environment(k, want, got);
    if (fz_equal(want, got)) {
        return FZ_EQUAL;
    }
    if (is_beyond_us(k, want, got) || is_order(k, want, got) || is_tiny_half(k, want) ||
        is_in_use(k, want, got) || is_changed_environment(k, got) ||
        is_hidden_save(k, want, got) || restores_more(k, want, got) ||
        is_cpu_number(k, want, got) || is_prefixed_loop(k, want)) {
        return FZ_SKIPPED;
    }
    struct x86_insn there;
    if (w->end == FZ_END_FAULT && w->vector == X86_EXC_PF &&
        decode_there(k, want, &there) && is_maskmov(there.op)) {
        return FZ_SKIPPED; /* for a byte that is not stored, which the manuals allow */
    }
    return FZ_DIFFERENT;
}

/* --- For people ------------------------------------------------------------ */

static const struct field {
    const char *name;
    unsigned at, size;
} fields[] = {
    {"fcw", FZ_FCW, 2},      {"fsw", FZ_FSW, 2},      {"ftw", FZ_FTW, 1},
    {"fop", FZ_FOP, 2},      {"fip", FZ_FIP, 8},      {"fdp", FZ_FDP, 8},
    {"mxcsr", FZ_MXCSR, 4},  {"st0", FZ_ST, 10},      {"st1", FZ_ST + 16, 10},
    {"st2", FZ_ST + 32, 10}, {"st3", FZ_ST + 48, 10}, {"st4", FZ_ST + 64, 10},
    {"st5", FZ_ST + 80, 10}, {"st6", FZ_ST + 96, 10}, {"st7", FZ_ST + 112, 10},
    {"xmm", FZ_XMM, 256},    {"ymm", FZ_YMM, 256},
};

static void print_hex(FILE *out, const uint8_t *p, unsigned n)
{
    for (unsigned i = n; i-- > 0;) {
        fprintf(out, "%02x", p[i]);
    }
}

static void print_number(FILE *out, const char *name, uint64_t from, uint64_t want,
                         uint64_t got)
{
    if (want != got) {
        fprintf(out,
                "    %-6s %" G_GINT64_MODIFIER "x -> %" G_GINT64_MODIFIER
                "x, not %" G_GINT64_MODIFIER "x\n",
                name, from, want, got);
    }
}

static void print_bytes(FILE *out, const char *name, const uint8_t *from,
                        const uint8_t *want, const uint8_t *got, unsigned n)
{
    if (memcmp(want, got, n) != 0) {
        fprintf(out, "    %-6s ", name);
        print_hex(out, from, n);
        fprintf(out, " -> ");
        print_hex(out, want, n);
        fprintf(out, ", not ");
        print_hex(out, got, n);
        fprintf(out, "\n");
    }
}

static void print_end(FILE *out, const char *who, const struct fz_state *s)
{
    static const char *const ends[] = {"end", "fault", "never comes back",
                                       "system call"};
    fprintf(out, "    %s: %s", who, ends[s->end]);
    if (s->end == FZ_END_FAULT) {
        fprintf(out, " %u, error %x, cr2 %" G_GINT64_MODIFIER "x", s->vector, s->error,
                s->cr2);
    }
    fprintf(out, ", rip %" G_GINT64_MODIFIER "x\n", s->rip);
}

static void print_memory(FILE *out, const char *name, uint64_t la, const uint8_t *from,
                         const uint8_t *want, const uint8_t *got, unsigned n)
{
    unsigned shown = 0;
    for (unsigned i = 0; i < n && shown < 8; i += 8) {
        if (memcmp(want + i, got + i, 8) != 0) {
            g_autofree char *label =
                g_strdup_printf("%s %" G_GINT64_MODIFIER "x", name, la + i);
            print_bytes(out, label, from + i, want + i, got + i, 8);
            shown++;
        }
    }
}

void fz_print_difference(const struct fz_case *k, const struct fz_outcome *want,
                         const struct fz_outcome *got, FILE *out)
{
    static const char *const segs[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const struct fz_state *f = &k->from, *w = &want->s, *g = &got->s;
    fprintf(out, "  before -> processor, not software CPU:\n");
    print_end(out, "processor", w);
    print_end(out, "software ", g);
    for (unsigned i = 0; i < 16; i++) {
        print_number(out, x86_gpr_name(i, 8), f->gpr[i], w->gpr[i], g->gpr[i]);
    }
    const uint64_t sp = w->gpr[X86_RSP] - FZ_STACK, rip = w->rip - FZ_CODE;
    if (sp < sizeof(want->mem.stack) - 40) {
        fprintf(out, "    stack there:");
        for (unsigned i = 0; i < 40; i += 8) {
            fprintf(out, " %" G_GINT64_MODIFIER "x",
                    le64_get(want->mem.stack + sp + i));
        }
        fprintf(out, "\n");
    }
    if (w->end == FZ_END_FAULT && rip < sizeof(want->mem.code) - 16) {
        fprintf(out, "    code there:");
        for (unsigned i = 0; i < 16; i++) {
            fprintf(out, " %02x", want->mem.code[rip + i]);
        }
        fprintf(out, "\n");
    }
    print_number(out, "rflags", f->rflags, w->rflags & FLAGS_COMPARED,
                 g->rflags & FLAGS_COMPARED);
    print_number(out, "fsbase", f->fs_base, w->fs_base, g->fs_base);
    print_number(out, "gsbase", f->gs_base, w->gs_base, g->gs_base);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        print_number(out, segs[i], f->seg[i], w->seg[i], g->seg[i]);
    }
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        unsigned step = MIN(fields[i].size, 16u);
        for (unsigned j = 0; j < fields[i].size; j += step) {
            char name[16];
            unsigned at = fields[i].at + j;
            g_snprintf(name, sizeof(name), fields[i].size > 16 ? "%s%u" : "%s",
                       fields[i].name, j / 16);
            print_bytes(out, name, f->xsave + at, w->xsave + at, g->xsave + at, step);
        }
    }
    print_memory(out, "data", FZ_DATA, k->mem.data, want->mem.data, got->mem.data,
                 sizeof(k->mem.data));
    print_memory(out, "stack", FZ_STACK, k->mem.stack, want->mem.stack, got->mem.stack,
                 sizeof(k->mem.stack));
    print_memory(out, "code", FZ_CODE, k->mem.code, want->mem.code, got->mem.code,
                 sizeof(k->mem.code));
}

static void print_insn(const struct fz_case *k, const struct fz_insn *in, FILE *out)
{
    char text[128];
    uint64_t rip = FZ_CODE + in->off;
    x86_format(&in->insn, rip, text, sizeof(text));
    fprintf(out, "    %08x ", (unsigned)rip);
    for (unsigned i = 0; i < 12 || i < in->insn.len; i++) {
        fprintf(out, i < in->insn.len ? " %02x" : "   ", in->bytes[i]);
    }
    fprintf(out, "  %s\n", text);
}

/* Registers that some instruction names. */
static uint16_t registers_used(const struct fz_case *k)
{
    uint16_t used = 0;
    for (unsigned i = 0; i < k->nb_insns; i++) {
        uint16_t r, w;
        x86_insn_gprs(&k->insn[i].insn, &r, &w);
        used |= k->insn[i].dropped ? 0 : r | w;
    }
    return used;
}

void fz_print_case(const struct fz_case *k, FILE *out)
{
    const struct fz_state *f = &k->from;
    uint16_t used = registers_used(k);
    unsigned n = 0;
    for (unsigned i = 0; i < k->nb_insns; i++) {
        if (!k->insn[i].dropped) {
            print_insn(k, &k->insn[i], out);
        }
    }
    fprintf(out, "  from:");
    for (unsigned i = 0; i < 16; i++) {
        if (used >> i & 1) {
            fprintf(out, "%s %s %" G_GINT64_MODIFIER "x",
                    n++ % 5 == 4 ? "\n       " : "", x86_gpr_name(i, 8), f->gpr[i]);
        }
    }
    fprintf(out,
            " rflags %" G_GINT64_MODIFIER "x\n    fs %" G_GINT64_MODIFIER
            "x gs %" G_GINT64_MODIFIER "x fcw %x fsw %x ftw %x mxcsr %x\n",
            f->rflags, f->fs_base, f->gs_base, le16_get(f->xsave + FZ_FCW),
            le16_get(f->xsave + FZ_FSW), f->xsave[FZ_FTW],
            le32_get(f->xsave + FZ_MXCSR));
}
