/*
 * FXSAVE, FXRSTOR and the XSAVE family, on the canonical state: the registers are
 * brought back from the host first, images are built and taken apart in memory of
 * our own, and guest memory is only copied. Spec: AMD64 APM vol. 2 11.4 and 11.5,
 * vol. 4; SDM vol. 1 chapter 13.
 */
#include "vmm/accel/bt/t0_fpu.h"

enum { /* offsets in the area */
       AREA_MXCSR = 24,
       AREA_MXCSR_MASK = 28,
       AREA_ST = 32,
       AREA_XMM = 160,
       AREA_XSTATE_BV = 512,
       AREA_XCOMP_BV = 520,
       AREA_YMM = 576,
       LEGACY_SIZE = 512,
       HEADER_SIZE = 64,
       YMM_SIZE = 256,
};

#define XCOMP_COMPACT (UINT64_C(1) << 63)

static unsigned nb_vectors(const struct t0_cpu *c)
{
    return (c->mode & T0_MODE_SIZE) == T0_MODE_64 ? 16 : 8;
}

/* REX.W forms hold 64-bit pointers; the others offsets and selectors, which are stored
 * as 0, as processors do that no longer keep them. */
static bool is_long_format(const struct t0_op *op)
{
    return op->aux2;
}

static void build_x87(const struct t0_cpu *c, bool long_format, uint8_t *p)
{
    const struct x86_fpu *s = &c->s.fpu;
    le16_put(p, s->fcw);
    le16_put(p + 2, s->fsw);
    p[4] = s->ftw;
    p[5] = 0;
    bool pending = s->fsw & 0x80; /* the only time that processors store them */
    uint64_t mask = !pending ? 0 : long_format ? UINT64_MAX : UINT32_MAX;
    le16_put(p + 6, pending ? s->fop : 0);
    le64_put(p + 8, s->fip & mask);
    le64_put(p + 16, s->fdp & mask);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(p + AREA_ST + 16 * i, s->st[i], 10);
        memset(p + AREA_ST + 16 * i + 10, 0, 6);
    }
}

/* Pointers are kept as 57 bits, sign-extended. */
static uint64_t pointer(const uint8_t *p, bool long_format)
{
    return long_format ? (uint64_t)((int64_t)(le64_get(p) << 7) >> 7) : le32_get(p);
}

static void take_x87(struct t0_cpu *c, bool long_format, const uint8_t *p)
{
    struct x86_fpu *s = &c->s.fpu;
    s->fcw = (le16_get(p) & 0x1f3f) | 0x40;
    s->fsw = t0_fpu_summary(c, le16_get(p + 2));
    s->ftw = p[4];
    s->fop = le16_get(p + 6) & 0x7ff;
    s->fip = pointer(p + 8, long_format);
    s->fdp = pointer(p + 16, long_format);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], p + AREA_ST + 16 * i, 10);
    }
}

static void init_x87(struct t0_cpu *c)
{
    struct x86_fpu *s = &c->s.fpu;
    s->fcw = 0x37f;
    s->fsw = s->fop = 0;
    s->ftw = 0;
    s->fip = s->fdp = 0;
    memset(s->st, 0, sizeof(s->st));
}

/* The 16-byte halves of the vector registers: @half 0 is XMM, 1 the rest of YMM. */
static void build_halves(const struct t0_cpu *c, unsigned half, uint8_t *p)
{
    for (unsigned i = 0; i < nb_vectors(c); i++) {
        memcpy(p + 16 * i, c->s.fpu.ymm[i] + 16 * half, 16);
    }
}

/* @p NULL: the initial state, zero. */
static void take_halves(struct t0_cpu *c, unsigned half, const uint8_t *p)
{
    for (unsigned i = 0; i < nb_vectors(c); i++) {
        if (p) {
            memcpy(c->s.fpu.ymm[i] + 16 * half, p + 16 * i, 16);
        } else {
            memset(c->s.fpu.ymm[i] + 16 * half, 0, 16);
        }
    }
}

/* Level 0 of 64-bit code may leave out the XMM registers (EFER.FFXSR, APM 2 3.1.7). */
static bool is_fast(const struct t0_cpu *c)
{
    return (c->s.efer & X86_EFER_FFXSR) && !c->s.cpl &&
           (c->mode & T0_MODE_SIZE) == T0_MODE_64;
}

/* --- FXSAVE ---------------------------------------------------------------- */

static const struct t0_op *op_fxsave(struct t0_cpu *c, const struct t0_op *op)
{
    t0_fpu_put(c);
    uint8_t *p = c->fpu->image;
    /* Bytes 464-511 are software's: they keep what memory holds. */
    if (t0_fpu_read_rmw(c, op, p, LEGACY_SIZE, 16)) {
        return T0_FAULT(c, op);
    }
    build_x87(c, is_long_format(op), p);
    le32_put(p + AREA_MXCSR, c->s.fpu.mxcsr);
    le32_put(p + AREA_MXCSR_MASK, t0_mxcsr_mask(c));
    if (!is_fast(c)) {
        build_halves(c, 0, p + AREA_XMM);
    }
    if (t0_fpu_write(c, op, p, LEGACY_SIZE, 16)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fxrstor(struct t0_cpu *c, const struct t0_op *op)
{
    t0_fpu_put(c);
    uint8_t *p = c->fpu->image;
    if (t0_fpu_read(c, op, p, LEGACY_SIZE, 16)) {
        return T0_FAULT(c, op);
    }
    uint32_t mxcsr = le32_get(p + AREA_MXCSR);
    if (mxcsr & ~t0_mxcsr_mask(c)) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    take_x87(c, is_long_format(op), p);
    c->s.fpu.mxcsr = mxcsr;
    if (!is_fast(c)) {
        take_halves(c, 0, p + AREA_XMM);
    }
    return T0_NEXT(c, op);
}

/* --- XSAVE ----------------------------------------------------------------- */

/* @n: a multiple of 8. */
static bool all_zero(const void *p, size_t n)
{
    uint64_t any = 0;
    for (size_t i = 0; i < n; i += 8) {
        any |= le64_get((const uint8_t *)p + i);
    }
    return any == 0;
}

/* Components that are not in their initial state (XINUSE). */
static uint64_t in_use(const struct t0_cpu *c)
{
    const struct x86_fpu *s = &c->s.fpu;
    uint64_t used = 0;
    if (s->fcw != 0x37f || s->fsw || s->ftw || s->fop || s->fip || s->fdp ||
        !all_zero(s->st[0], sizeof(s->st))) {
        used |= X86_XCR0_X87;
    }
    for (unsigned i = 0; i < nb_vectors(c); i++) {
        used |= all_zero(s->ymm[i], 16) ? 0 : X86_XCR0_SSE;
        used |= all_zero(s->ymm[i] + 16, 16) ? 0 : X86_XCR0_AVX;
    }
    return used;
}

/* The requested-feature bitmap: EDX:EAX under what is enabled. */
static uint64_t requested(const struct t0_cpu *c, bool supervisor)
{
    uint64_t want = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    return want & (c->s.xcr0 | (supervisor ? c->s.xss : 0));
}

enum xsave_kind { XS_XSAVE, XS_XSAVEOPT, XS_XSAVEC, XS_XSAVES };

/*
 * Shared by the four: XSAVE writes every requested component, XSAVEOPT those in use,
 * XSAVEC and XSAVES the same in the compacted format. With x87, SSE and AVX alone,
 * the compacted layout differs only in that the AVX part moves up when it is the
 * first extended component, which it always is.
 */
static const struct t0_op *xsave(struct t0_cpu *c, const struct t0_op *op)
{
    enum xsave_kind kind = op->aux;
    bool compact = kind == XS_XSAVEC || kind == XS_XSAVES;
    uint64_t rfbm = requested(c, kind == XS_XSAVES), used;
    uint8_t *p = c->fpu->image;
    unsigned len = LEGACY_SIZE + HEADER_SIZE + (rfbm & X86_XCR0_AVX ? YMM_SIZE : 0);

    t0_fpu_put(c);
    used = in_use(c);
    if (compact && c->s.fpu.mxcsr != T0_MXCSR_DEFAULT) {
        used |= X86_XCR0_SSE; /* SDM 1 13.8: XSAVEC counts MXCSR in */
    }
    if (t0_fpu_read_rmw(c, op, p, len, 64)) {
        return T0_FAULT(c, op);
    }
    uint64_t write = kind == XS_XSAVE ? rfbm : rfbm & used;
    if (write & X86_XCR0_X87) {
        build_x87(c, is_long_format(op), p);
    }
    if (write & X86_XCR0_SSE) {
        build_halves(c, 0, p + AREA_XMM);
    }
    if ((compact ? write : rfbm) & (X86_XCR0_SSE | (compact ? 0 : X86_XCR0_AVX))) {
        le32_put(p + AREA_MXCSR, c->s.fpu.mxcsr);
        le32_put(p + AREA_MXCSR_MASK, t0_mxcsr_mask(c));
    }
    if (write & X86_XCR0_AVX) {
        build_halves(c, 1, p + AREA_YMM);
    }
    if (compact) {
        le64_put(p + AREA_XSTATE_BV, rfbm & used);
        le64_put(p + AREA_XCOMP_BV, rfbm | XCOMP_COMPACT);
    } else {
        uint64_t old = le64_get(p + AREA_XSTATE_BV);
        le64_put(p + AREA_XSTATE_BV, (old & ~rfbm) | (rfbm & used));
    }
    if (t0_fpu_write(c, op, p, len, 64)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* Header rules of XRSTOR and XRSTORS (SDM 1 13.8, 13.12). */
static bool header_ok(const struct t0_cpu *c, const uint8_t *p, bool supervisor)
{
    uint64_t bv = le64_get(p + AREA_XSTATE_BV), comp = le64_get(p + AREA_XCOMP_BV);
    uint64_t enabled = c->s.xcr0 | (supervisor ? c->s.xss : 0);
    const uint8_t *rest = p + AREA_XCOMP_BV + 8;
    if (comp & XCOMP_COMPACT) {
        const struct x86_cpu_model *m = c->vcpu->vm->cpu_model;
        uint64_t parts = comp & ~XCOMP_COMPACT;
        return x86_cpu_has(m, X86_FEAT_XSAVEC) && !(parts & ~enabled) &&
               !(bv & ~parts) && all_zero(rest, HEADER_SIZE - 16);
    }
    return !supervisor && comp == 0 && !(bv & ~c->s.xcr0) && all_zero(rest, 8);
}

static const struct t0_op *xrstor(struct t0_cpu *c, const struct t0_op *op)
{
    bool supervisor = op->aux;
    uint64_t rfbm = requested(c, supervisor);
    uint8_t *p = c->fpu->image;
    t0_fpu_put(c);
    if (t0_fpu_read(c, op, p, LEGACY_SIZE + HEADER_SIZE, 64)) {
        return T0_FAULT(c, op);
    }
    if (!header_ok(c, p, supervisor)) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    bool compact = le64_get(p + AREA_XCOMP_BV) & XCOMP_COMPACT;
    uint64_t bv = le64_get(p + AREA_XSTATE_BV);
    uint64_t load = rfbm & bv;
    if (load & X86_XCR0_AVX) {
        struct t0_val la = t0_ea(c, op, AREA_YMM + YMM_SIZE, false);
        if (la.fault ||
            t0_read_bytes(c, la.v + AREA_YMM, p + AREA_YMM, YMM_SIZE, op->seg)) {
            return T0_FAULT(c, op);
        }
    }
    bool mxcsr_too = compact ? (load & X86_XCR0_SSE) != 0
                             : (rfbm & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0;
    uint32_t mxcsr = le32_get(p + AREA_MXCSR);
    if (mxcsr_too && (mxcsr & ~t0_mxcsr_mask(c))) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }

    if (load & X86_XCR0_X87) {
        take_x87(c, is_long_format(op), p);
    } else if (rfbm & X86_XCR0_X87) {
        init_x87(c);
    }
    if (mxcsr_too) {
        c->s.fpu.mxcsr = mxcsr;
    } else if (compact && (rfbm & X86_XCR0_SSE)) {
        c->s.fpu.mxcsr = T0_MXCSR_DEFAULT;
    }
    if (rfbm & X86_XCR0_SSE) {
        take_halves(c, 0, load & X86_XCR0_SSE ? p + AREA_XMM : NULL);
    }
    if (rfbm & X86_XCR0_AVX) {
        take_halves(c, 1, load & X86_XCR0_AVX ? p + AREA_YMM : NULL);
    }
    return T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

/* CR4.OSXSAVE clear: #UD; XSAVES and XRSTORS (src2) above level 0: #GP; CR0.TS: #NM.
 * Looked at here, as the block's mode does not tell OSXSAVE apart from AVX. */
static const struct t0_op *xsave_checked(struct t0_cpu *c, const struct t0_op *op)
{
    if (!(c->s.cr4 & X86_CR4_OSXSAVE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (op->src2 && c->s.cpl) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    if (c->s.cr0 & X86_CR0_TS) {
        return t0_raise(c, op, X86_EXC_NM);
    }
    return op->src ? xrstor(c, op) : xsave(c, op);
}

static const struct t0_op *fx_checked(struct t0_cpu *c, const struct t0_op *op)
{
    if (c->s.cr0 & (X86_CR0_EM | X86_CR0_TS)) {
        return t0_raise(c, op, X86_EXC_NM);
    }
    return op->src ? op_fxrstor(c, op) : op_fxsave(c, op);
}

bool t0_lower_xsave(const struct x86_insn *insn, const struct t0_lower *ctx,
                    struct t0_op *op)
{
    op->fn = xsave_checked;
    op->src = 0;
    op->src2 = x86_insn_desc(insn)->priv == X86_PRIV_CPL0;
    switch (insn->op) {
    case X86_OP_FXSAVE: op->fn = fx_checked; break;
    case X86_OP_FXRSTOR:
        op->fn = fx_checked;
        op->src = 1;
        break;
    case X86_OP_XSAVE: op->aux = XS_XSAVE; break;
    case X86_OP_XSAVEOPT: op->aux = XS_XSAVEOPT; break;
    case X86_OP_XSAVEC: op->aux = XS_XSAVEC; break;
    case X86_OP_XSAVES: op->aux = XS_XSAVES; break;
    case X86_OP_XRSTOR:
    case X86_OP_XRSTORS:
        op->src = 1;
        op->aux = insn->op == X86_OP_XRSTORS;
        break;
    default: op->fn = NULL; return false;
    }
    op->aux2 = (insn->prefixes & X86_P_W) != 0;
    return true;
}
