#ifndef VMM_ACCEL_BT_T0_SEG_H
#define VMM_ACCEL_BT_T0_SEG_H

#include "vmm/accel/bt/t0_priv.h"

/*
 * What the files about segments share: t0_seg.c (segment registers), t0_desc.c
 * (descriptor tables and looking at descriptors), t0_far.c (far JMP, CALL and RETF),
 * t0_syscall.c, t0_exc.c and t0_ret.c (events and the returns from them).
 */

#define HANDLER(name) \
    static const struct t0_op *name(struct t0_cpu *c, const struct t0_op *op)

static inline uint64_t raise_sel(struct t0_cpu *c, uint8_t vector, uint16_t sel)
{
    t0_set_exc_error(c, vector, sel & 0xfffcu);
    return 1;
}

/* For what returns whether it went well. */
static inline bool t0_fail(struct t0_cpu *c, uint8_t vector, uint32_t error)
{
    t0_set_exc_error(c, vector, error);
    return false;
}

static inline const struct t0_op *gp0(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise_error(c, op, X86_EXC_GP, 0);
}

static inline unsigned dpl_of(const struct x86_segment *s)
{
    return s->attr >> X86_SEG_DPL_SHIFT & 3;
}

static inline bool is_null(uint16_t sel)
{
    return (sel & 0xfffc) == 0;
}

static inline bool is_amd(const struct t0_cpu *c)
{
    const char *v = c->core->model->vendor;
    return !strcmp(v, "AuthenticAMD") || !strcmp(v, "HygonGenuine");
}

/* Size of the offset of a far pointer in memory: AMD's has at most 32 bits (APM 3, the
 * far forms of JMP). */
static inline unsigned far_size(const struct t0_cpu *c, const struct t0_op *op)
{
    return op->size == 8 && is_amd(c) ? 4 : op->size;
}

/* The part of @size bytes at @off of op's operand, an access of its own: the offset
 * wraps around with the address size. */
struct t0_val load_at(struct t0_cpu *c, const struct t0_op *op, unsigned off,
                      unsigned size);

/* Selectors go to memory as 16 bits, to registers zero-extended. */
static inline void put_reg(struct t0_cpu *c, const struct t0_op *op, uint64_t v)
{
    if (op->size == 2) {
        T0_W16(c, op->dst, v);
    } else if (op->size == 4) {
        T0_W32(c, op->dst, v);
    } else {
        T0_W64(c, op->dst, v);
    }
}

static inline const struct t0_op *store16(struct t0_cpu *c, const struct t0_op *op,
                                          uint16_t v)
{
    struct t0_val a = t0_ea(c, op, 2, true);
    if (a.fault || t0_store(c, a.v, v, 2, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* @op has taken effect, and what c->exc says is due before the next instruction: RIP
 * and the rest of the state are up to date. Returns NULL. */
const struct t0_op *t0_fault_after(struct t0_cpu *c, const struct t0_op *op);

/* t0_lower_exc() asks it: IRET. */
bool t0_lower_ret(const struct x86_insn *, const struct t0_lower *, struct t0_op *);

/* t0_lower_seg() asks them. */
bool t0_lower_desc(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_far(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_syscall(const struct x86_insn *, const struct t0_lower *, struct t0_op *);

#endif
