#ifndef VMM_ACCEL_BT_T0_FPU_H
#define VMM_ACCEL_BT_T0_FPU_H

#include "lib/base/bytes.h"
#include "lib/isa/x86/cpu_model.h"
#include "vmm/accel/bt/t0.h"
#include "vmm/accel/bt/t0_thunk.h"
#include "vmm/vm/vm.h"

/*
 * The guest's floating-point state while guest code runs. For t0_fpu.c, t0_simd.c
 * and t0_xsave.c.
 *
 *   XMM, YMM   always in c->s.fpu.ymm; thunks load and store what they touch
 *   x87, MMX   in the host's registers from the first use until t0_fpu_put()
 *   MXCSR      the host's holds the guest's from the first use (T0_FPU_SSE in
 *              c->fpu_loaded) until t0_fpu_put()
 *   FCW        always in c->s.fpu; the host's has all exceptions masked, so that the
 *              host never traps
 *
 * Exceptions that the guest has unmasked are found in software. As long as there is
 * one, the bit in c->fpu_loaded stays clear, and each instruction takes the slow path
 * that looks at the status flags.
 */
enum {
    T0_FPU_X87 = 1 << 0, /* x87 in the host's registers, no unmasked exception */
    T0_FPU_SSE = 1 << 1, /* MXCSR likewise */
};

#define T0_FPU_EXCEPTIONS 0x3fu   /* FSW and FCW, MXCSR flags: IE DE ZE OE UE PE */
#define T0_MXCSR_MASKS    0x1f80u /* all six masked */
#define T0_MXCSR_DEFAULT  0x1f80u
#define T0_MXCSR_MM       0x20000u /* misaligned SSE operands allowed (AMD) */

struct t0_fpu {
    struct thunk_arena *arena;
    bool x87_in_host;
    bool arena_full; /* blocks are being dropped; then the arena is reset */
    _Alignas(64) uint8_t bounce[64];  /* memory operands that are not plain RAM */
    _Alignas(64) uint8_t image[1024]; /* FXSAVE and XSAVE areas */
};

/* Bring the x87 registers into the host's. */
void t0_x87_load(struct t0_cpu *c);

/* Bring MXCSR back into c->s.fpu and the host's own into the host. Idempotent. */
void t0_mxcsr_put(struct t0_cpu *c);

/* MXCSR bits that the CPU model has; others raise #GP in LDMXCSR and friends. */
uint32_t t0_mxcsr_mask(const struct t0_cpu *c);

/*
 * CR0 and CR4 do not let an instruction of @cls run now: raise what they say (#UD or
 * #NM; APM 2 8.2.7, 8.2.8), or return false when it may run.
 */
bool t0_fpu_unavailable(const struct t0_cpu *c, unsigned cls, uint8_t *ret_vector);

/*
 * Lower to the exception when the block's mode forbids @cls. The block's key holds
 * what the decision needs, so a block decoded while it was forbidden is not run when
 * it is allowed.
 */
bool t0_lower_unavailable(const struct t0_lower *ctx, unsigned cls, struct t0_op *op);

/*
 * Make @insn's thunk and put it in op->x. False when there is none for it. When the
 * memory for thunks is full, op->fn is set to what drops all and decodes anew:
 * *ret_full says so, and the caller leaves op as it is.
 */
bool t0_lower_thunk(const struct x86_insn *insn, const struct t0_lower *ctx,
                    struct t0_op *op, bool *ret_full);

static inline void t0_run_thunk(struct t0_cpu *c, const struct t0_op *op, void *mem)
{
    ((thunk_fn)(uintptr_t)op->x)(c, mem);
}

/*
 * Handlers' access to a memory operand: @size bytes at op's effective address, read
 * into or written from @buf; @align a power of two, else #GP. Non-zero: c->exc set.
 */
uint64_t t0_fpu_read(struct t0_cpu *c, const struct t0_op *op, void *buf, unsigned size,
                     unsigned align);
uint64_t t0_fpu_write(struct t0_cpu *c, const struct t0_op *op, const void *buf,
                      unsigned size, unsigned align);

#endif
