/*
 * x87: the registers stay in the host's own, so that an x87 instruction is its thunk
 * alone. What stays ours: pending unmasked exceptions (#MF), the pointers to the last
 * instruction and operand, and everything that moves whole environments, which goes
 * through the canonical state. t0_fpu.h says how exceptions are done.
 * Spec: AMD64 APM vol. 1 chapter 6, vol. 5; SDM vol. 1 chapter 8.
 *
 * With CR0.NE clear and a board that has FERR#, what would raise #MF waits.
 */
#include "vmm/accel/bt/t0_fpu.h"

#include <immintrin.h>

#include "vmm/accel/bt/t0_int.h"
#include "vmm/accel/bt/t0_priv.h"

enum { /* offsets in an FXSAVE image (APM 2 figure 11-6) */
       FX_FCW = 0,
       FX_FSW = 2,
       FX_FTW = 4,
       FX_MXCSR = 24,
       FX_ST = 32,
};

#define FSW_ES  0x0080u /* an unmasked exception is pending */
#define FSW_B   0x8000u
#define FSW_TOP 11

bool t0_fpu_init(struct t0_cpu *c, GError **error)
{
    c->fpu = g_aligned_alloc0(1, sizeof(*c->fpu), 64);
    c->fpu->arena = thunk_arena_new(THUNK_ARENA, error);
    return c->fpu->arena != NULL;
}

void t0_fpu_done(struct t0_cpu *c)
{
    if (c->fpu) {
        thunk_arena_free(c->fpu->arena);
        g_aligned_free(c->fpu);
        c->fpu = NULL;
    }
}

static bool x87_all_masked(const struct t0_cpu *c)
{
    return (c->s.fpu.fcw & T0_FPU_EXCEPTIONS) == T0_FPU_EXCEPTIONS;
}

uint16_t t0_fpu_summary(const struct t0_cpu *c, uint16_t fsw)
{
    fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (fsw & ~c->s.fpu.fcw & T0_FPU_EXCEPTIONS) {
        fsw |= FSW_ES | FSW_B;
    }
    return fsw;
}

#define CLOBBER_XMM                                                                 \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

void t0_x87_load(struct t0_cpu *c)
{
    struct t0_fpu *f = c->fpu;
    const struct x86_fpu *s = &c->s.fpu;
    if (!(c->fpu_loaded & T0_FPU_HOST)) {
        memset(f->image, 0, 512);
        le16_put(f->image + FX_FCW, s->fcw);
        f->hidden = s->fsw & ~s->fcw & T0_FPU_EXCEPTIONS;
        uint16_t hide = f->hidden ? f->hidden | FSW_ES | FSW_B : 0;
        le16_put(f->image + FX_FSW, s->fsw & ~hide);
        f->image[FX_FTW] = s->ftw;
        le32_put(f->image + FX_MXCSR, _mm_getcsr());
        memcpy(f->image + FX_ST, s->st, sizeof(s->st));
        __asm__ volatile("fxrstor64 (%0)" : : "r"(f->image) : "memory", CLOBBER_XMM);
        c->fpu_loaded |= T0_FPU_HOST;
    }
    if (x87_all_masked(c)) {
        c->fpu_loaded |= T0_FPU_X87;
    }
}

static void x87_put(struct t0_cpu *c)
{
    struct t0_fpu *f = c->fpu;
    struct x86_fpu *s = &c->s.fpu;
    if (!(c->fpu_loaded & T0_FPU_HOST)) {
        return;
    }
    c->fpu_loaded &= (uint8_t) ~(T0_FPU_X87 | T0_FPU_HOST);
    __asm__ volatile("fxsave64 (%0)\n\tfninit" : : "r"(f->image) : "memory");
    s->fsw = t0_fpu_summary(c, le16_get(f->image + FX_FSW) | f->hidden);
    f->hidden = 0;
    s->ftw = f->image[FX_FTW];
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], f->image + FX_ST + 16 * i, 10);
    }
}

void t0_mxcsr_put(struct t0_cpu *c)
{
    if (c->fpu_loaded & T0_FPU_SSE) {
        c->s.fpu.mxcsr |= _mm_getcsr() & T0_FPU_EXCEPTIONS;
        _mm_setcsr(T0_MXCSR_DEFAULT);
        c->fpu_loaded &= (uint8_t)~T0_FPU_SSE;
    }
}

void t0_fpu_put(struct t0_cpu *c)
{
    t0_mxcsr_put(c);
    x87_put(c);
}

/* --- Availability ---------------------------------------------------------- */

/* What EM, TS, OSFXSR and OSXSAVE forbid (APM 2 3.1.1-3.1.3, APM 4 1.2.5). */
bool t0_fpu_unavailable(const struct t0_cpu *c, unsigned cls, uint8_t *ret_vector)
{
    uint64_t cr0 = c->s.cr0, cr4 = c->s.cr4;
    const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    bool ud = false;
    switch (cls) {
    case X86_CLASS_X87:
        *ret_vector = X86_EXC_NM;
        return (cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0;
    case X86_CLASS_MMX: ud = cr0 & X86_CR0_EM; break;
    case X86_CLASS_SSE: ud = (cr0 & X86_CR0_EM) || !(cr4 & X86_CR4_OSFXSR); break;
    default: ud = !(cr4 & X86_CR4_OSXSAVE) || (c->s.xcr0 & avx) != avx; break;
    }
    *ret_vector = ud ? X86_EXC_UD : X86_EXC_NM;
    return ud || (cr0 & X86_CR0_TS);
}

static const struct t0_op *unavailable(struct t0_cpu *c, const struct t0_op *op)
{
    uint8_t vector = X86_EXC_UD;
    t0_fpu_unavailable(c, op->aux, &vector);
    return t0_raise(c, op, vector);
}

bool t0_lower_unavailable(const struct t0_lower *ctx, unsigned cls, struct t0_op *op)
{
    unsigned forbids = T0_MODE_TS;
    forbids |= cls == X86_CLASS_SSE   ? T0_MODE_NOSSE
               : cls == X86_CLASS_AVX ? T0_MODE_NOAVX
                                      : T0_MODE_EM;
    if (!(ctx->mode & forbids)) {
        return false;
    }
    op->fn = unavailable;
    op->aux = (uint8_t)cls;
    return true;
}

/* --- x87 ------------------------------------------------------------------- */

/* Linear address of op's operand; fault also when it is not aligned. */
static struct t0_val operand(struct t0_cpu *c, const struct t0_op *op, unsigned size,
                             unsigned align, bool write)
{
    struct t0_val la = t0_ea(c, op, size, write);
    if (!la.fault && (la.v & (align - 1))) {
        /* #AC of FXSAVE and FXRSTOR, not XSAVE: Zen 5 looks for doublewords. */
        bool ac = align == 16 && (la.v & 3) && c->tlb == c->banks[T0_BANK_USER_AC];
        bool canonical = (uint64_t)((int64_t)(la.v << 16) >> 16) == la.v;
        t0_set_exc_error(c,
                         !canonical && op->seg == X86_SS ? X86_EXC_SS
                         : ac && canonical               ? X86_EXC_AC
                                                         : X86_EXC_GP,
                         0);
        la.fault = 1;
    }
    return la;
}

uint64_t t0_fpu_read(struct t0_cpu *c, const struct t0_op *op, void *buf, unsigned size,
                     unsigned align)
{
    struct t0_val la = operand(c, op, size, align, false);
    return la.fault ? la.fault : t0_read_bytes(c, la.v, buf, size, op->seg);
}

uint64_t t0_fpu_read_rmw(struct t0_cpu *c, const struct t0_op *op, void *buf,
                         unsigned size, unsigned align)
{
    struct t0_val la = operand(c, op, size, align, true);
    return la.fault ? la.fault
           : t0_probe_write(c, la.v, size, op->seg)
               ? 1
               : t0_read_bytes(c, la.v, buf, size, op->seg);
}

uint64_t t0_fpu_write(struct t0_cpu *c, const struct t0_op *op, const void *buf,
                      unsigned size, unsigned align)
{
    struct t0_val la = operand(c, op, size, align, true);
    return la.fault ? la.fault : t0_write_bytes(c, la.v, buf, size, op->seg);
}

static uint16_t x87_status(struct t0_cpu *c)
{
    if (!(c->fpu_loaded & T0_FPU_HOST)) {
        return t0_fpu_summary(c, c->s.fpu.fsw);
    }
    uint16_t fsw;
    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    return unlikely(c->fpu->hidden) ? t0_fpu_summary(c, fsw | c->fpu->hidden) : fsw;
}

/* No exception is pending. */
static inline void ferr_gone(struct t0_cpu *c)
{
    if (unlikely(atomic_load_explicit(&x86_vcpu_of(c->vcpu)->ferr.on,
                                      memory_order_relaxed))) {
        x86_set_ferr(c->vcpu, false);
    }
}

/* An unmasked exception is pending before @op, which waits: #MF; or assert FERR# and,
 * without IGNNE#, stop until an interrupt comes. False: go on nevertheless. */
static bool pending(struct t0_cpu *c, const struct t0_op *op)
{
    if ((c->s.cr0 & X86_CR0_NE) || !x86_vcpu_of(c->vcpu)->ferr.line.fn) {
        t0_raise(c, op, X86_EXC_MF);
        return true;
    }
    t0_fpu_lend(c);
    x86_set_ferr(c->vcpu, true);
    if (atomic_load(&x86_vcpu_of(c->vcpu)->ferr.ignne)) {
        return false;
    }
    c->s.activity = X86_HALTED;
    c->s.int_shadow = false;
    c->core->exit_wanted = true;
    c->core->exit = VCPU_EXIT_HLT;
    t0_leave(c, op, t0_op_rip(c, op));
    c->insns--;
    return true;
}

bool t0_x87_wait(struct t0_cpu *c, const struct t0_op *op)
{
    if (unlikely(!x87_all_masked(c)) && (x87_status(c) & FSW_ES)) {
        if (pending(c, op)) {
            return true;
        }
    } else {
        ferr_gone(c);
    }
    t0_x87_load(c);
    return false;
}

/*
 * The last instruction and operand, for FNSTENV and exception handlers. As on AMD's
 * processors FXSAVE and XSAVE store them only while an exception is pending.
 */
static inline void record(struct t0_cpu *c, const struct t0_op *op)
{
    c->s.fpu.fip = t0_op_rip(c, op);
    c->s.fpu.fop = op->aux2;
}

static void record_mem(struct t0_cpu *c, const struct t0_op *op)
{
    uint64_t off = t0_offset(c, op);
    bool wide = op->ea == T0_EA_FLAT64 || op->ea == T0_EA_SEG64;
    record(c, op);
    c->s.fpu.fdp = wide ? off : op->ea == T0_EA_GENERAL ? (uint16_t)off : (uint32_t)off;
}

/*
 * Run op's thunk and look whether it left an unmasked exception: returns those that
 * are now pending, and then the host has let go of the registers.
 */
static __attribute__((noinline)) unsigned run_looking(struct t0_cpu *c,
                                                      const struct t0_op *op, void *mem)
{
    t0_run_thunk(c, op, mem);
    uint16_t fsw = x87_status(c);
    if (!(fsw & FSW_ES)) {
        return 0;
    }
    x87_put(c);
    return fsw & ~(unsigned)c->s.fpu.fcw & T0_FPU_EXCEPTIONS;
}

T0_HANDLER(x87_reg_g)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    record(c, op);
    run_looking(c, op, NULL);
    return T0_NEXT(c, op);
}

T0_HANDLER(x87_reg)
{
    if (unlikely(!(c->fpu_loaded & T0_FPU_X87))) {
        return x87_reg_g(c, op);
    }
    record(c, op);
    return t0_go_thunk(c, op, NULL);
}

T0_HANDLER(x87_load_g)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    struct t0_val la = t0_ea(c, op, op->size, false);
    if (unlikely(la.fault)) {
        return T0_FAULT(c, op);
    }
    void *p = t0_host_read(c, la.v, op->size);
    if (unlikely(!p)) {
        p = c->fpu->bounce;
        if (t0_read_bytes(c, la.v, p, op->size, op->seg)) {
            return T0_FAULT(c, op);
        }
        t0_x87_load(c); /* a device may have had the registers taken out */
    }
    record_mem(c, op);
    run_looking(c, op, p);
    return T0_NEXT(c, op);
}

/* An unmasked exception leaves memory alone, except that of an inexact result. */
#define STORES_DESPITE 0x20u

T0_HANDLER(x87_store_g)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    struct t0_val la = t0_ea(c, op, op->size, true);
    if (unlikely(la.fault)) {
        return T0_FAULT(c, op);
    }
    void *p = t0_host_write(c, la.v, op->size);
    bool bounce = !p;
    if (unlikely(bounce)) {
        p = c->fpu->bounce;
        if (t0_probe_write(c, la.v, op->size, op->seg)) {
            return T0_FAULT(c, op);
        }
    }
    record_mem(c, op);
    unsigned raised = run_looking(c, op, p);
    if (unlikely(bounce) && !(raised & ~STORES_DESPITE) &&
        t0_write_bytes(c, la.v, p, op->size, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* In RAM at a flat 64-bit address, with the registers in the host and all masked. */
#define X87_FAST(name, kind, offset, tag)                               \
    T0_HANDLER(name##kind)                                              \
    {                                                                   \
        uint64_t la = offset(c, op);                                    \
        const struct t0_tlb_entry *e = t0_tlb_entry(c, la);             \
        if (unlikely(!(c->fpu_loaded & T0_FPU_X87) ||                   \
                     !t0_tlb_hit(la, op->size, e->tag))) {              \
            return name##_g(c, op);                                     \
        }                                                               \
        record(c, op);                                                  \
        c->s.fpu.fdp = la;                                              \
        return t0_go_thunk(c, op, (void *)(uintptr_t)(la + e->addend)); \
    }

X87_FAST(x87_load, _b, t0_base_offset, read)
X87_FAST(x87_load, _f, t0_offset, read)
X87_FAST(x87_store, _b, t0_base_offset, write)
X87_FAST(x87_store, _f, t0_offset, write)

/* --- x87 control ----------------------------------------------------------- */

/* Change the status word. st[] is in stack order: it turns when TOP changes. */
static void set_fsw(struct x86_fpu *s, uint16_t fsw)
{
    unsigned from = s->fsw >> FSW_TOP & 7, to = fsw >> FSW_TOP & 7;
    uint8_t st[8][16];
    for (unsigned i = 0; i < 8; i++) {
        memcpy(st[(from + i - to) & 7], s->st[i], 16);
    }
    memcpy(s->st, st, sizeof(st));
    s->fsw = fsw;
}

void t0_mmx_enter(struct t0_cpu *c)
{
    struct x86_fpu *s = &c->s.fpu;
    set_fsw(s, s->fsw & (uint16_t) ~(7u << FSW_TOP));
    s->ftw = 0xff;
}

static void set_fcw(struct t0_cpu *c, uint16_t fcw)
{
    c->s.fpu.fcw = (uint16_t)((fcw & 0x1f3f) | 0x40);
    c->s.fpu.fsw = t0_fpu_summary(c, c->s.fpu.fsw);
}

/* A word at op's operand. */
static inline struct t0_val load_word(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_val la = t0_ea(c, op, 2, false);
    return la.fault ? la : t0_load(c, la.v, 2, op->seg);
}

static inline uint64_t store_word(struct t0_cpu *c, const struct t0_op *op, uint16_t v)
{
    struct t0_val la = t0_ea(c, op, 2, true);
    return la.fault ? la.fault : t0_store(c, la.v, v, 2, op->seg);
}

T0_HANDLER(op_fldcw)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    struct t0_val v = load_word(c, op);
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    bool masked = (v.v & T0_FPU_EXCEPTIONS) == T0_FPU_EXCEPTIONS;
    if (!masked || !(c->fpu_loaded & T0_FPU_X87)) {
        x87_put(c); /* something may become pending */
        set_fcw(c, (uint16_t)v.v);
        return T0_NEXT(c, op);
    }
    set_fcw(c, (uint16_t)v.v);
    __asm__ volatile("fldcw %0" : : "m"(c->s.fpu.fcw));
    return T0_NEXT(c, op);
}

T0_HANDLER(op_fnstcw)
{
    return store_word(c, op, c->s.fpu.fcw) ? T0_FAULT(c, op) : T0_NEXT(c, op);
}

T0_HANDLER(op_fnstsw_mem)
{
    return store_word(c, op, x87_status(c)) ? T0_FAULT(c, op) : T0_NEXT(c, op);
}

static const struct t0_op *op_fnstsw_ax(struct t0_cpu *c, const struct t0_op *op)
{
    T0_W16(c, t0_reg(X86_RAX), x87_status(c));
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fnclex(struct t0_cpu *c, const struct t0_op *op)
{
    x87_put(c);
    c->s.fpu.fsw &= 0x7f00; /* exception flags, SF, ES and B */
    ferr_gone(c);
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fninit(struct t0_cpu *c, const struct t0_op *op)
{
    x87_put(c);
    struct x86_fpu *s = &c->s.fpu;
    ferr_gone(c);
    set_fsw(s, 0); /* the registers keep their contents */
    s->fcw = 0x37f;
    s->ftw = 0;
    s->fop = 0;
    s->fip = s->fdp = 0;
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fwait(struct t0_cpu *c, const struct t0_op *op)
{
    if ((c->s.cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS)) {
        return t0_raise(c, op, X86_EXC_NM);
    }
    if ((x87_status(c) & FSW_ES) && pending(c, op)) {
        return NULL;
    }
    return T0_NEXT(c, op);
}

/* FENI, FDISI, FSETPM: nothing since the 387. */
static const struct t0_op *op_nop(struct t0_cpu *c, const struct t0_op *op)
{
    return T0_NEXT(c, op);
}

/* --- Environments ---------------------------------------------------------- */

/* The two-bit tag of an 80-bit register: 0 valid, 1 zero, 2 special (APM 1 6.2.3). */
static unsigned full_tag(const uint8_t *reg)
{
    uint64_t mantissa = le64_get(reg);
    unsigned exponent = le16_get(reg + 8) & 0x7fff;
    if (exponent == 0 && mantissa == 0) {
        return 1;
    }
    return exponent == 0x7fff || exponent == 0 || !(mantissa >> 63) ? 2 : 0;
}

static uint16_t full_tags(const struct x86_fpu *s)
{
    unsigned top = s->fsw >> FSW_TOP & 7, tags = 0;
    for (unsigned phys = 0; phys < 8; phys++) {
        unsigned tag = s->ftw >> phys & 1 ? full_tag(s->st[(phys - top) & 7]) : 3;
        tags |= tag << (2 * phys);
    }
    return (uint16_t)tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    unsigned ftw = 0;
    for (unsigned phys = 0; phys < 8; phys++) {
        ftw |= (unsigned)((tags >> (2 * phys) & 3) != 3) << phys;
    }
    return (uint8_t)ftw;
}

/* Real and VM86 mode put a linear address and the opcode where protected mode puts
 * selectors (APM 1 figures 6-9 to 6-12). */
static bool real_format(const struct t0_cpu *c)
{
    return !(c->s.cr0 & X86_CR0_PE) || (c->s.rflags & X86_FL_VM);
}

/* Returns the length: 28 or, with a 16-bit operand size, 14. */
static unsigned env_build(const struct t0_cpu *c, bool wide, uint8_t *p)
{
    const struct x86_fpu *s = &c->s.fpu;
    unsigned step = wide ? 4 : 2;
    /* The selectors are today's: those of then are not kept. */
    uint64_t cs = s->fip ? c->s.seg[X86_CS].sel : 0;
    uint64_t ds = s->fdp ? c->s.seg[X86_DS].sel : 0;
    uint64_t words[7] = {s->fcw, s->fsw, full_tags(s), s->fip, cs, s->fdp, ds};
    if (wide) {
        words[0] |= 0xffff0000;
        words[1] |= 0xffff0000;
        words[2] |= 0xffff0000;
        words[6] |= 0xffff0000;
    }
    if (real_format(c)) {
        uint64_t ip = s->fip + c->s.seg[X86_CS].base, dp = s->fdp;
        words[3] = ip & 0xffff;
        words[4] =
            wide ? (ip >> 16 & 0xffff) << 12 | s->fop : (ip >> 16 & 0xf) << 12 | s->fop;
        words[5] = dp & 0xffff;
        words[6] = (dp >> 16 & (wide ? 0xffff : 0xf)) << 12;
    } else if (wide) {
        words[4] |= (uint64_t)s->fop << 16;
    }
    for (unsigned i = 0; i < 7; i++) {
        le_put(p + i * step, words[i], step);
    }
    return 7 * step;
}

static unsigned env_parse(struct t0_cpu *c, bool wide, const uint8_t *p)
{
    struct x86_fpu *s = &c->s.fpu;
    unsigned step = wide ? 4 : 2;
    set_fsw(s, le16_get(p + step));
    s->ftw = abridged_tags(le16_get(p + 2 * step));
    s->fip = le_get(p + 3 * step, step);
    s->fdp = le_get(p + 5 * step, step);
    s->fop = (wide ? le16_get(p + 4 * step + 2) : 0) & 0x7ff;
    set_fcw(c, le16_get(p));
    return 7 * step;
}

static bool is_wide(const struct t0_op *op)
{
    return op->aux2 != 2;
}

static const struct t0_op *op_fnstenv(struct t0_cpu *c, const struct t0_op *op)
{
    x87_put(c);
    unsigned len = env_build(c, is_wide(op), c->fpu->image);
    if (t0_fpu_write(c, op, c->fpu->image, len, 1)) {
        return T0_FAULT(c, op);
    }
    c->s.fpu.fcw |= T0_FPU_EXCEPTIONS; /* FNSTENV masks all (APM 5) */
    c->s.fpu.fsw = t0_fpu_summary(c, c->s.fpu.fsw);
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fldenv(struct t0_cpu *c, const struct t0_op *op)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    x87_put(c);
    if (t0_fpu_read(c, op, c->fpu->image, is_wide(op) ? 28 : 14, 1)) {
        return T0_FAULT(c, op);
    }
    env_parse(c, is_wide(op), c->fpu->image);
    return T0_NEXT(c, op);
}

static const struct t0_op *op_fnsave(struct t0_cpu *c, const struct t0_op *op)
{
    x87_put(c);
    uint8_t *p = c->fpu->image;
    unsigned len = env_build(c, is_wide(op), p);
    for (unsigned i = 0; i < 8; i++, len += 10) {
        memcpy(p + len, c->s.fpu.st[i], 10);
    }
    if (t0_fpu_write(c, op, p, len, 1)) {
        return T0_FAULT(c, op);
    }
    return op_fninit(c, op);
}

static const struct t0_op *op_frstor(struct t0_cpu *c, const struct t0_op *op)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    x87_put(c);
    uint8_t *p = c->fpu->image;
    if (t0_fpu_read(c, op, p, is_wide(op) ? 108 : 94, 1)) {
        return T0_FAULT(c, op);
    }
    unsigned len = env_parse(c, is_wide(op), p);
    for (unsigned i = 0; i < 8; i++, len += 10) {
        memcpy(c->s.fpu.st[i], p + len, 10);
    }
    return T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

static t0_fn control_handler(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_FLDCW: return op_fldcw;
    case X86_OP_FNSTCW: return op_fnstcw;
    case X86_OP_FNSTSW:
        return insn->opnd[0].kind == X86_OPND_MEM ? op_fnstsw_mem : op_fnstsw_ax;
    case X86_OP_FNCLEX: return op_fnclex;
    case X86_OP_FNINIT: return op_fninit;
    case X86_OP_FNSTENV: return op_fnstenv;
    case X86_OP_FLDENV: return op_fldenv;
    case X86_OP_FNSAVE: return op_fnsave;
    case X86_OP_FRSTOR: return op_frstor;
    case X86_OP_FNENI:
    case X86_OP_FNDISI:
    case X86_OP_FNSETPM: return op_nop;
    default: return NULL;
    }
}

bool t0_lower_fpu(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    if (x86_insn_desc(insn)->cls != X86_CLASS_X87) {
        return false;
    }
    if (insn->op == X86_OP_FWAIT) {
        op->fn = op_fwait;
        return true;
    }
    if (t0_lower_unavailable(ctx, X86_CLASS_X87, op)) {
        return true;
    }
    op->fn = control_handler(insn);
    if (op->fn) {
        op->aux2 = insn->opsize;
        return true;
    }
    bool full;
    if (!t0_lower_thunk(insn, ctx, op, &full) || full) {
        return full;
    }
    const struct x86_opnd *mem = x86_insn_mem(insn);
    op->aux2 = (uint16_t)((insn->opcode & 7) << 8 | insn->modrm);
    op->fn = x87_reg;
    if (mem) {
        op->size = mem->size;
        op->fn = mem->access & X86_ACC_W
                     ? t0_mem_handler(op, x87_store_b, x87_store_f, x87_store_g)
                     : t0_mem_handler(op, x87_load_b, x87_load_f, x87_load_g);
    }
    return true;
}

/* --- Thunks ---------------------------------------------------------------- */

static const struct t0_op *stop(struct t0_cpu *c, const struct t0_op *op)
{
    return NULL;
}

const struct t0_op t0_thunk_stop[2] = {{.fn = stop}, {.fn = stop}};

static void request_flush(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    g_mutex_lock(&core->tvm->lock);
    core->inbox.flush = true;
    g_mutex_unlock(&core->tvm->lock);
    vcpu_kick(c->vcpu, T0_ATTN);
}

/* No room for this instruction's thunk when its block was decoded: have all blocks
 * dropped, come back to the same instruction, and drop the thunks when it is decoded
 * again: then nobody holds one. */
static const struct t0_op *arena_full(struct t0_cpu *c, const struct t0_op *op)
{
    c->fpu->arena_full = true;
    request_flush(c);
    t0_leave(c, op, t0_op_rip(c, op));
    c->insns--; /* op was not executed */
    return NULL;
}

bool t0_lower_thunk(const struct x86_insn *insn, const struct t0_lower *ctx,
                    struct t0_op *op, bool *ret_full)
{
    uint8_t code[THUNK_MAX];
    unsigned len = thunk_emit(insn, ctx->bytes, code);
    *ret_full = false;
    if (ctx->c->fpu->arena_full) {
        thunk_arena_reset(ctx->c->fpu->arena);
        ctx->c->fpu->arena_full = false;
    }
    if (!len) {
        return false;
    }
    op->x = (void *)(uintptr_t)thunk_get(ctx->c->fpu->arena, code, len);
    if (!op->x) {
        op->fn = arena_full;
        *ret_full = true;
    }
    return true;
}
