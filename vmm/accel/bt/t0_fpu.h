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
 *   x87, MMX   in the host's registers from the first use (T0_FPU_HOST in
 *              c->fpu_loaded) until t0_fpu_put()
 *   MXCSR      the host's holds the guest's from the first use (T0_FPU_SSE) until
 *              t0_fpu_put()
 *   FCW        in c->s.fpu, and in the host's while the registers are there
 *
 * As long as the guest has an exception unmasked, T0_FPU_X87 or T0_FPU_SSE stays
 * clear, and each instruction takes the slow path.
 *
 *   x87   The host executes with the guest's control word. An unmasked exception does
 *         what it does there: the response of the manuals, and ES set in the status
 *         word. It traps at the next waiting instruction, which is never reached:
 *         the slow path looks at ES after each, takes the registers away from the
 *         host, and raises #MF at the guest's next waiting instruction.
 *   SSE   The host executes with all masked, and what the guest must not see of it is
 *         undone before #XM is raised.
 *
 * C code outside this part (devices above all) runs with the host's own MXCSR and an
 * empty x87 stack: who calls it from inside the guest calls t0_fpu_lend() before.
 * So a handler that has made its registers ready and then reads memory by a slow path
 * makes them ready again.
 */
enum {
    T0_FPU_X87 = 1 << 0,  /* x87 in the host's registers, no unmasked exception */
    T0_FPU_SSE = 1 << 1,  /* MXCSR likewise */
    T0_FPU_HOST = 1 << 2, /* x87 in the host's registers */
};

#define T0_FPU_EXCEPTIONS 0x3fu   /* FSW and FCW, MXCSR flags: IE DE ZE OE UE PE */
#define T0_MXCSR_MASKS    0x1f80u /* all six masked */
#define T0_MXCSR_DEFAULT  0x1f80u
#define T0_MXCSR_MM       0x20000u /* misaligned SSE operands allowed (AMD) */

struct t0_fpu {
    struct thunk_arena *arena;
    bool arena_full; /* blocks are being dropped; then the arena is reset */
    uint16_t
        hidden; /* pending exceptions that IGNNE# lets pass, not in the host's FSW */
    _Alignas(64) uint8_t bounce[64];  /* memory operands that are not plain RAM */
    _Alignas(64) uint8_t image[1024]; /* FXSAVE and XSAVE areas */
};

/* @fsw with ES and B as the guest's control word makes them. */
uint16_t t0_fpu_summary(const struct t0_cpu *c, uint16_t fsw);

/* Bring the x87 registers into the host's, but for unmasked exceptions: the host must
 * not raise what IGNNE# lets pass. */
void t0_x87_load(struct t0_cpu *c);

/*
 * What a waiting x87 or MMX instruction does first: an exception that is pending and
 * unmasked is taken now (true: c->exc is set, and the block is left). Otherwise the
 * registers are in the host afterwards.
 */
bool t0_x87_wait(struct t0_cpu *c, const struct t0_op *op);

/* What the first MMX instruction does to the x87 state in c->s.fpu: TOP becomes 0 and
 * every register valid (APM 1 5.4). */
void t0_mmx_enter(struct t0_cpu *c);

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

/* The last thing a handler does: the thunk goes on with the next op. */
static inline const struct t0_op *t0_go_thunk(struct t0_cpu *c, const struct t0_op *op,
                                              void *mem)
{
    return ((thunk_fn)(uintptr_t)op->x)(c, op, mem);
}

/* Run op's thunk and come back. */
extern const struct t0_op t0_thunk_stop[2];

static inline void t0_run_thunk(struct t0_cpu *c, const struct t0_op *op, void *mem)
{
    ((thunk_fn)(uintptr_t)op->x)(c, t0_thunk_stop, mem);
}

/* The handler for a memory operand: @b, @f and @g as t0_int.h has them. */
static inline t0_fn t0_mem_handler(const struct t0_op *op, t0_fn b, t0_fn f, t0_fn g)
{
    return op->ea != T0_EA_FLAT64 ? g : op->index == T0_REG_ZERO ? b : f;
}

/*
 * Handlers' access to a memory operand: @size bytes at op's effective address, read
 * into or written from @buf; @align a power of two, else #GP. Non-zero: c->exc set.
 */
uint64_t t0_fpu_read(struct t0_cpu *c, const struct t0_op *op, void *buf, unsigned size,
                     unsigned align);
/* To be written back after: the faults are those of the write. */
uint64_t t0_fpu_read_rmw(struct t0_cpu *c, const struct t0_op *op, void *buf,
                         unsigned size, unsigned align);
uint64_t t0_fpu_write(struct t0_cpu *c, const struct t0_op *op, const void *buf,
                      unsigned size, unsigned align);

#endif
