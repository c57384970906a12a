/*
 * MMX, SSE and AVX: native thunks (t0_thunk.h) around which this file does what
 * stays ours: where the memory operand is, its alignment (#GP), faults before
 * anything is written, and exceptions that the guest has unmasked in MXCSR (#XM).
 * Masked moves and gathers, whose faults depend on the mask, are written out in C at
 * the end. Spec: AMD64 APM vol. 4; SDM vol. 1 chapters 10-14.
 */
#include <immintrin.h>

#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t0_int.h"

/* op->aux: T0_FPU_* that the instruction needs in the host. */

uint32_t t0_mxcsr_mask(const struct t0_cpu *c)
{
    const struct x86_cpu_model *m = c->vcpu->vm->cpu_model;
    return 0xffff | (x86_cpu_has(m, X86_FEAT_MISALIGNSSE) ? T0_MXCSR_MM : 0);
}

/* prepare(): c->exc is set, the block is left. */
#define NOT_READY (1u << 31)

/*
 * Make ready what @op needs. The bit of T0_FPU_SSE stays clear while the guest has an
 * exception unmasked: then T0_FPU_SSE is returned and the caller uses run_checked().
 */
static __attribute__((noinline)) unsigned prepare(struct t0_cpu *c,
                                                  const struct t0_op *op)
{
    unsigned need = op->aux & ~(unsigned)c->fpu_loaded;
    if (need & T0_FPU_X87) {
        if (t0_x87_wait(c, op)) {
            return NOT_READY;
        }
        need &= ~(unsigned)T0_FPU_X87;
    }
    if ((need & T0_FPU_SSE) && (c->s.fpu.mxcsr & T0_MXCSR_MASKS) == T0_MXCSR_MASKS) {
        _mm_setcsr(c->s.fpu.mxcsr & 0xffff);
        c->fpu_loaded |= T0_FPU_SSE;
        need = 0;
    }
    return need;
}

#define MXCSR_EARLY 0x07u /* IE, DE, ZE: found before anything is computed */
#define MXCSR_UE    0x10u
#define MXCSR_UM    0x0800u
#define MXCSR_FTZ   0x8000u

/* Run the thunk with MXCSR as @csr and all masked; the flags it raises. */
static uint32_t run_masked(struct t0_cpu *c, const struct t0_op *op, void *mem,
                           uint32_t csr)
{
    _mm_setcsr((csr | T0_MXCSR_MASKS) & ~T0_FPU_EXCEPTIONS);
    t0_run_thunk(c, op, mem);
    uint32_t raised = _mm_getcsr() & T0_FPU_EXCEPTIONS;
    _mm_setcsr(T0_MXCSR_DEFAULT);
    return raised;
}

/* The registers that an instruction may have changed. */
struct undo {
    struct x86_fpu fpu;
    uint64_t gpr[16];
    uint16_t flags;
};

static void undo(struct t0_cpu *c, const struct t0_op *op, const struct undo *u)
{
    if (op->aux & T0_FPU_X87) {
        t0_fpu_put(c);
    }
    c->s.fpu = u->fpu;
    memcpy(c->gpr, u->gpr, sizeof(u->gpr));
    c->flags = u->flags;
}

/*
 * Run the thunk with every exception masked, then look whether one was raised that
 * the guest has not masked. If so, undo and raise #XM (#UD without OSXMMEXCPT).
 * Non-zero: c->exc is set. @mem is never guest memory itself when it is written.
 *
 * Underflow is the one flag that depends on its mask: unmasked, it tells of every tiny
 * result, masked only of the inexact ones (SDM 1 4.9.1.5). Flush-to-zero tells of
 * every one too.
 */
static __attribute__((noinline)) uint64_t run_checked(struct t0_cpu *c,
                                                      const struct t0_op *op, void *mem)
{
    struct undo u;
    t0_mxcsr_put(c);
    if (op->aux & T0_FPU_X87) {
        t0_fpu_put(c);
    }
    u.fpu = c->s.fpu;
    u.flags = c->flags;
    memcpy(u.gpr, c->gpr, sizeof(u.gpr));

    uint32_t guest = c->s.fpu.mxcsr & 0xffff, tiny = 0;
    if (!(guest & MXCSR_UM)) {
        if (op->aux & T0_FPU_X87) {
            t0_x87_load(c);
        }
        tiny = run_masked(c, op, mem, guest | MXCSR_FTZ) & MXCSR_UE;
        undo(c, op, &u);
    }
    if (op->aux & T0_FPU_X87) {
        t0_x87_load(c);
    }
    uint32_t raised = run_masked(c, op, mem, guest) | tiny;
    uint32_t fatal = raised & ~(guest >> 7) & T0_FPU_EXCEPTIONS;
    if (!fatal) {
        c->s.fpu.mxcsr |= raised;
        return 0;
    }
    undo(c, op, &u);
    c->s.fpu.mxcsr |= fatal & MXCSR_EARLY ? raised & MXCSR_EARLY : raised;
    t0_raise(c, op, c->s.cr4 & X86_CR4_OSXMMEXCPT ? X86_EXC_XM : X86_EXC_UD);
    return 1;
}

static uint64_t run(struct t0_cpu *c, const struct t0_op *op, void *mem,
                    unsigned checked)
{
    if (checked) {
        return run_checked(c, op, mem);
    }
    t0_run_thunk(c, op, mem);
    return 0;
}

T0_HANDLER(simd_reg)
{
    if (likely(!(op->aux & ~(unsigned)c->fpu_loaded))) {
        return t0_go_thunk(c, op, NULL);
    }
    unsigned checked = prepare(c, op);
    if ((checked & NOT_READY) || run(c, op, NULL, checked)) {
        return NULL;
    }
    return T0_NEXT(c, op);
}

/*
 * op->aux2: alignment mask; op->src2: MXCSR.MM lifts it. The host's own alignment
 * check is never met: such an operand goes through the bounce buffer.
 */
enum alignment { ALIGNED, BOUNCE, MISALIGNED };

static enum alignment look_at_alignment(struct t0_cpu *c, const struct t0_op *op,
                                        uint64_t la)
{
    if (!(la & op->aux2)) {
        return ALIGNED;
    }
    if (op->src2 && (c->s.fpu.mxcsr & T0_MXCSR_MM)) {
        return BOUNCE;
    }
    t0_raise_error(c, op, X86_EXC_GP, 0);
    return MISALIGNED;
}

T0_HANDLER(simd_load_g)
{
    unsigned checked = prepare(c, op);
    if (checked & NOT_READY) {
        return NULL;
    }
    struct t0_val la = t0_ea(c, op, op->size, false);
    if (unlikely(la.fault)) {
        return T0_FAULT(c, op);
    }
    enum alignment align = look_at_alignment(c, op, la.v);
    if (align == MISALIGNED) {
        return NULL;
    }
    void *p = t0_host_read(c, la.v, op->size);
    if (!p || align == BOUNCE) {
        p = c->fpu->bounce;
        if (t0_read_bytes(c, la.v, p, op->size, op->seg)) {
            return T0_FAULT(c, op);
        }
        prepare(c, op); /* a device may have had the registers taken out */
    }
    if (run(c, op, p, checked)) {
        return NULL;
    }
    return T0_NEXT(c, op);
}

T0_HANDLER(simd_store_g)
{
    unsigned checked = prepare(c, op);
    if (checked & NOT_READY) {
        return NULL;
    }
    struct t0_val la = t0_ea(c, op, op->size, true);
    if (unlikely(la.fault)) {
        return T0_FAULT(c, op);
    }
    enum alignment align = look_at_alignment(c, op, la.v);
    if (align == MISALIGNED) {
        return NULL;
    }
    void *p = t0_host_write(c, la.v, op->size);
    bool bounce = !p || checked || align == BOUNCE;
    if (bounce) {
        p = c->fpu->bounce;
        if (t0_probe_write(c, la.v, op->size, op->seg)) {
            return T0_FAULT(c, op);
        }
    }
    if (run(c, op, p, checked)) {
        return NULL;
    }
    if (bounce && t0_write_bytes(c, la.v, p, op->size, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* Aligned as it has to be, in RAM at a flat 64-bit address, with all made ready. */
#define SIMD_FAST(name, kind, offset, tag)                                      \
    T0_HANDLER(name##kind)                                                      \
    {                                                                           \
        uint64_t la = offset(c, op);                                            \
        const struct t0_tlb_entry *e = t0_tlb_entry(c, la);                     \
        if (unlikely((op->aux & ~(unsigned)c->fpu_loaded) | (la & op->aux2)) || \
            unlikely(!t0_tlb_hit(la, op->size, e->tag))) {                      \
            return name##_g(c, op);                                             \
        }                                                                       \
        return t0_go_thunk(c, op, (void *)(uintptr_t)(la + e->addend));         \
    }

SIMD_FAST(simd_load, _b, t0_base_offset, read)
SIMD_FAST(simd_load, _f, t0_offset, read)
SIMD_FAST(simd_store, _b, t0_base_offset, write)
SIMD_FAST(simd_store, _f, t0_offset, write)

/* --- Written out ----------------------------------------------------------- */

static const struct t0_op *op_vzeroupper(struct t0_cpu *c, const struct t0_op *op)
{
    unsigned n = c->mode & T0_MODE_64 ? 16 : 8;
    for (unsigned i = 0; i < n; i++) {
        memset(c->s.fpu.ymm[i] + 16, 0, 16);
    }
    return T0_NEXT(c, op);
}

static const struct t0_op *op_vzeroall(struct t0_cpu *c, const struct t0_op *op)
{
    memset(c->s.fpu.ymm, 0, (c->mode & T0_MODE_64 ? 16 : 8) * sizeof(c->s.fpu.ymm[0]));
    return T0_NEXT(c, op);
}

static const struct t0_op *op_ldmxcsr(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_val v = t0_ea(c, op, 4, false);
    if (!v.fault) {
        v = t0_load(c, v.v, 4, op->seg);
    }
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    if (v.v & ~(uint64_t)t0_mxcsr_mask(c)) {
        return t0_raise_error(c, op, X86_EXC_GP, 0);
    }
    t0_mxcsr_put(c);
    c->s.fpu.mxcsr = (uint32_t)v.v;
    return T0_NEXT(c, op);
}

static const struct t0_op *op_stmxcsr(struct t0_cpu *c, const struct t0_op *op)
{
    t0_mxcsr_put(c);
    struct t0_val la = t0_ea(c, op, 4, true);
    if (la.fault || t0_store(c, la.v, c->s.fpu.mxcsr, 4, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* Elements of gathers and of masked moves are not checked for alignment. Returns what
 * c->tlb is to be after them. */
static struct t0_tlb_entry *begin_elements(struct t0_cpu *c)
{
    struct t0_tlb_entry *old = c->tlb;
    if (old == c->banks[T0_BANK_USER_AC]) {
        c->tlb = c->banks[T0_BANK_USER];
    }
    return old;
}

/* Of the element @off bytes behind the first: limits are checked of each alone, and
 * only the first one's offset is cut to the address size. */
static struct t0_val element_address(struct t0_cpu *c, const struct t0_op *op,
                                     unsigned off, unsigned size, bool write)
{
    struct t0_op at = *op;
    at.disp += off;
    if (op->ea != T0_EA_FLAT64 && op->ea != T0_EA_SEG64) {
        uint64_t first = t0_offset(c, op);
        first = op->ea == T0_EA_GENERAL ? (uint16_t)first : (uint32_t)first;
        at.disp = (int64_t)(first + off);
        at.base = at.index = T0_REG_ZERO;
        at.ea = T0_EA_GENERAL64;
    }
    return t0_ea(c, &at, size, write);
}

/*
 * A store of the elements of @data whose mask byte's (element's) top bit is set:
 * every page that a stored element touches is probed first, so that a fault leaves
 * memory as it was. @step is the element's size.
 */
static uint64_t store_elements(struct t0_cpu *c, const struct t0_op *op,
                               const uint8_t *data, const uint8_t *mask, unsigned size,
                               unsigned step)
{
    for (unsigned i = 0; i < size; i += step) {
        if (mask[i + step - 1] & 0x80) {
            struct t0_val la = element_address(c, op, i, step, true);
            if (la.fault || t0_probe_write(c, la.v, step, op->seg)) {
                return 1;
            }
        }
    }
    for (unsigned i = 0; i < size; i += step) {
        if (mask[i + step - 1] & 0x80) {
            struct t0_val la = element_address(c, op, i, step, true);
            if (la.fault || t0_write_bytes(c, la.v, data + i, step, op->seg)) {
                return 1;
            }
        }
    }
    return 0;
}

static uint64_t store_masked(struct t0_cpu *c, const struct t0_op *op,
                             const uint8_t *data, const uint8_t *mask, unsigned size,
                             unsigned step)
{
    struct t0_tlb_entry *tlb = begin_elements(c);
    uint64_t fault = store_elements(c, op, data, mask, size, step);
    c->tlb = tlb;
    return fault;
}

/* MASKMOVDQU and MASKMOVQ are, as quadwords (Zen 5). */
static uint64_t misaligned_quadwords(struct t0_cpu *c, uint64_t la)
{
    if (likely(c->tlb != c->banks[T0_BANK_USER_AC]) || !(la & 7)) {
        return 0;
    }
    t0_set_exc_error(c, X86_EXC_AC, 0);
    return 1;
}

/* MASKMOVDQU: bytes of dst under src's top bits to seg:[rDI]. op->base is rDI. */
static const struct t0_op *op_maskmovdqu(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_val la = t0_ea(c, op, 16, true);
    if (la.fault || misaligned_quadwords(c, la.v) ||
        store_masked(c, op, c->s.fpu.ymm[op->dst], c->s.fpu.ymm[op->src], 16, 1)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

static const struct t0_op *op_maskmovq(struct t0_cpu *c, const struct t0_op *op)
{
    if (t0_x87_wait(c, op)) {
        return NULL;
    }
    t0_fpu_put(c);
    struct t0_val la = t0_ea(c, op, 8, true);
    unsigned top = c->s.fpu.fsw >> 11 & 7; /* st[] is in stack order */
    if (la.fault || misaligned_quadwords(c, la.v) ||
        store_masked(c, op, c->s.fpu.st[(op->dst - top) & 7],
                     c->s.fpu.st[(op->src - top) & 7], 8, 1)) {
        return T0_FAULT(c, op);
    }
    t0_mmx_enter(c);
    return T0_NEXT(c, op);
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q; aux2: element size; src: mask register. */
static const struct t0_op *op_vmaskmov_load(struct t0_cpu *c, const struct t0_op *op)
{
    uint8_t *data = c->fpu->bounce;
    bool fault = false;
    const uint8_t *mask = c->s.fpu.ymm[op->src];
    memset(data, 0, 32);
    struct t0_tlb_entry *tlb = begin_elements(c);
    for (unsigned i = 0; i < op->size && !fault; i += op->aux2) {
        if (mask[i + op->aux2 - 1] & 0x80) {
            struct t0_val la = element_address(c, op, i, op->aux2, false);
            fault = la.fault || t0_read_bytes(c, la.v, data + i, op->aux2, op->seg);
        }
    }
    c->tlb = tlb;
    if (fault) {
        return T0_FAULT(c, op);
    }
    memcpy(c->s.fpu.ymm[op->dst], data, 32);
    return T0_NEXT(c, op);
}

static const struct t0_op *op_vmaskmov_store(struct t0_cpu *c, const struct t0_op *op)
{
    if (store_masked(c, op, c->s.fpu.ymm[op->dst], c->s.fpu.ymm[op->src], op->size,
                     op->aux2)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/*
 * Gathers. dst: destination, src: mask, src2: vector of indices, aux: log2 of index
 * size, aux2: element size, size: bytes of the destination that count. Elements are
 * done in ascending order; each one done clears its mask, so that a fault half-way
 * resumes there (SDM 2, VGATHERDPS).
 */
static __attribute__((noinline)) uint64_t gather(struct t0_cpu *c,
                                                 const struct t0_op *op)
{
    unsigned step = op->aux2, index_size = 1u << op->aux;
    uint8_t *dst = c->s.fpu.ymm[op->dst], *mask = c->s.fpu.ymm[op->src];
    const uint8_t *indices = c->s.fpu.ymm[op->src2];
    struct t0_op at = *op;
    at.index = T0_REG_ZERO;
    for (unsigned i = 0; i < op->size / step; i++) {
        if (!(mask[(i + 1) * step - 1] & 0x80)) {
            memset(mask + i * step, 0, step);
            continue;
        }
        int64_t index = index_size == 4 ? (int32_t)le32_get(indices + 4 * i)
                                        : (int64_t)le64_get(indices + 8 * i);
        at.disp = op->disp + (int64_t)((uint64_t)index << op->shift);
        struct t0_val la = t0_ea(c, &at, step, false);
        if (la.fault || t0_read_bytes(c, la.v, dst + i * step, step, op->seg)) {
            return 1;
        }
        memset(mask + i * step, 0, step);
    }
    memset(mask, 0, 32);
    memset(dst + op->size, 0, 32u - op->size);
    return 0;
}

static const struct t0_op *op_vgather(struct t0_cpu *c, const struct t0_op *op)
{
    if (op->dst == op->src || op->dst == op->src2 || op->src == op->src2) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    struct t0_tlb_entry *tlb = begin_elements(c);
    uint64_t fault = gather(c, op);
    c->tlb = tlb;
    return fault ? T0_FAULT(c, op) : T0_NEXT(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

static void lower_string_like_mem(const struct x86_insn *insn,
                                  const struct t0_lower *ctx, struct t0_op *op)
{
    op->base = X86_RDI;
    op->index = T0_REG_ZERO;
    op->disp = 0;
    op->shift = 0;
    op->seg = insn->seg;
    op->ea = insn->addrsize == 8 && insn->seg < X86_FS ? T0_EA_FLAT64
             : insn->addrsize == 8                     ? T0_EA_SEG64
             : insn->addrsize == 4 && insn->seg < X86_FS && insn->seg != X86_CS &&
                     (ctx->mode & T0_MODE_FLAT)
                 ? T0_EA_FLAT32
             : insn->addrsize == 4 ? T0_EA_GENERAL32
                                   : T0_EA_GENERAL;
}

static void lower_vmaskmov(const struct x86_insn *insn, struct t0_op *op)
{
    bool load = insn->opnd[0].kind != X86_OPND_MEM;
    bool quad = insn->op == X86_OP_VMASKMOVPD || insn->op == X86_OP_VPMASKMOVQ;
    op->dst = insn->opnd[load ? 0 : 2].reg;
    op->src = insn->opnd[1].reg;
    op->size = insn->prefixes & X86_P_L ? 32 : 16;
    op->aux2 = quad ? 8 : 4;
    op->fn = load ? op_vmaskmov_load : op_vmaskmov_store;
}

static void lower_vgather(const struct x86_insn *insn, struct t0_op *op)
{
    bool quad_index = insn->opcode & 1; /* 91h, 93h */
    bool quad_data = insn->prefixes & X86_P_W;
    unsigned vector = insn->prefixes & X86_P_L ? 32 : 16;
    unsigned elements = vector / (quad_index || quad_data ? 8 : 4);
    op->dst = insn->opnd[0].reg;
    op->src = insn->opnd[2].reg;
    op->src2 = insn->index;
    op->aux = quad_index ? 3 : 2;
    op->aux2 = quad_data ? 8 : 4;
    op->size = (uint8_t)(elements * op->aux2);
    op->fn = op_vgather;
}

/* Instructions that are no thunks. False: it is one. */
static bool lower_written_out(const struct x86_insn *insn, const struct t0_lower *ctx,
                              struct t0_op *op)
{
    switch (insn->op) {
    case X86_OP_VZEROUPPER: op->fn = op_vzeroupper; return true;
    case X86_OP_VZEROALL: op->fn = op_vzeroall; return true;
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR: op->fn = op_ldmxcsr; return true;
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR: op->fn = op_stmxcsr; return true;
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
    case X86_OP_MASKMOVQ:
        lower_string_like_mem(insn, ctx, op);
        op->dst = insn->opnd[0].reg;
        op->src = insn->opnd[1].reg;
        op->fn = insn->op == X86_OP_MASKMOVQ ? op_maskmovq : op_maskmovdqu;
        return true;
    case X86_OP_VMASKMOVPS:
    case X86_OP_VMASKMOVPD:
    case X86_OP_VPMASKMOVD:
    case X86_OP_VPMASKMOVQ: lower_vmaskmov(insn, op); return true;
    case X86_OP_VGATHERDPS:
    case X86_OP_VGATHERDPD:
    case X86_OP_VGATHERQPS:
    case X86_OP_VGATHERQPD:
    case X86_OP_VPGATHERDD:
    case X86_OP_VPGATHERDQ:
    case X86_OP_VPGATHERQD:
    case X86_OP_VPGATHERQQ: lower_vgather(insn, op); return true;
    default: return false;
    }
}

static bool has_mmx_operand(const struct x86_insn *insn)
{
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        if (insn->opnd[i].kind == X86_OPND_MMX) {
            return true;
        }
    }
    return x86_insn_desc(insn)->cls == X86_CLASS_MMX;
}

bool t0_lower_simd(const struct x86_insn *insn, const struct t0_lower *ctx,
                   struct t0_op *op)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    if (d->cls != X86_CLASS_MMX && d->cls != X86_CLASS_SSE && d->cls != X86_CLASS_AVX) {
        return false;
    }
    if (t0_lower_unavailable(ctx, d->cls, op)) {
        return true;
    }
    if (lower_written_out(insn, ctx, op)) {
        return true;
    }
    bool full;
    if (!t0_lower_thunk(insn, ctx, op, &full) || full) {
        return full;
    }
    op->aux = (d->props & X86_D_FXU ? T0_FPU_SSE : 0) |
              (has_mmx_operand(insn) ? T0_FPU_X87 : 0);
    const struct x86_opnd *mem = x86_insn_mem(insn);
    if (!mem) {
        op->fn = op->aux ? simd_reg : (t0_fn)(uintptr_t)op->x;
        return true;
    }
    op->size = mem->size;
    op->aux2 = (d->props & X86_D_ALIGN)                       ? mem->size - 1u
               : (d->props & X86_D_SSEMEM) && mem->size == 16 ? 15
                                                              : 0;
    op->src2 = !(d->props & X86_D_ALIGN); /* MXCSR.MM counts */
    op->fn = mem->access & X86_ACC_W
                 ? t0_mem_handler(op, simd_store_b, simd_store_f, simd_store_g)
                 : t0_mem_handler(op, simd_load_b, simd_load_f, simd_load_g);
    return true;
}
