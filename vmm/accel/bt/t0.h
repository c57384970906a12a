#ifndef VMM_ACCEL_BT_T0_H
#define VMM_ACCEL_BT_T0_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/insn.h"
#include "lib/isa/x86/state.h"
#include "vmm/vm/vcpu.h"

/*
 * T0, the interpreter: the software CPU's reference and its path for rare
 * instructions.
 *
 * Guest code is decoded once into blocks of struct t0_op. Each op has the handler
 * chosen for its operation, operand kinds and size when it was decoded ("lowered"),
 * so that executing is: call the handler, which does the work and calls the next
 * op's handler as a tail call (threaded dispatch, no loop and no switch).
 *
 *     static const struct t0_op *add_rr_4(struct t0_cpu *c, const struct t0_op *op)
 *     {
 *         uint32_t v = T0_R32(c, op->dst);
 *         T0_FLAGS2(c, "addl", v, T0_R32(c, op->src));
 *         T0_W32(c, op->dst, v);
 *         return T0_NEXT(c, op);
 *     }
 *
 * Rules for handlers:
 *   - Precise exceptions: nothing the guest can see changes before the last thing
 *     that can fault. A read-modify-write asks for the write first
 *     (t0_rmw_begin_N). A failed access returns T0_FAULT(c, op).
 *   - RIP is not kept up to date: op->start / op->next are offsets from c->rip_base.
 *   - Arithmetic flags live in c->flags as the host's own bytes (below), computed by
 *     the host's own instruction: undefined flags are the silicon's too. DF, IF and
 *     the rest live in c->s.rflags, in which the six arithmetic bits are stale.
 *     t0_get_rflags()/t0_set_rflags() convert.
 *   - Do not take the address of a local that outlives the tail call: it would stop
 *     the compiler from making it one (T0_NEXT is then a nested call: the stack
 *     grows). Slow paths return values in registers (struct t0_val).
 *
 * Files: t0.h this contract; t0_cpu.c the accel_ops and the run loop; t0_block.c
 * blocks: cache, find, invalidate; t0_decode.c their making; t0_mmu.c page walks and
 * the software TLB; t0_exc.c exceptions and interrupts, t0_ret.c the returns from them;
 * t0_debug.c breakpoints and single step; t0_seg.c segment registers, t0_desc.c
 * descriptor tables, t0_far.c far transfers, t0_task.c task switches, t0_vm86.c
 * virtual-8086 mode, t0_syscall.c system calls; t0_sys.c system instructions;
 * t0_branch.c near branches; t0_alu.c, t0_mov.c, t0_shift.c, t0_muldiv.c, t0_bit.c,
 * t0_string.c integer; t0_fpu.c, t0_simd.c, t0_xsave.c floating point and vectors.
 */

struct t0_cpu;
struct t0_op;
struct t0_block;

typedef const struct t0_op *(*t0_fn)(struct t0_cpu *c, const struct t0_op *op);

/*
 * An instruction ready to execute. Registers are byte offsets into c->gpr, so that
 * AH is 1, and RAX, EAX, AX, AL are 0: see t0_reg().
 */
struct t0_op {
    t0_fn fn;
    union {
        int64_t imm;
        void *x; /* the handler's own, instead of imm: a thunk */
    };
    int64_t disp;           /* with the RIP-relative part folded in: see T0_REG_RIP */
    uint8_t dst, src, src2; /* byte offsets into c->gpr, or vector/x87 numbers */
    uint8_t base, index;    /* of the memory operand, indices into c->gpr (0..17) */
    uint8_t shift;          /* log2 of the scale */
    uint8_t seg;            /* enum x86_seg */
    uint8_t ea;             /* enum t0_ea_kind */
    uint16_t start, next;   /* offsets of this and the next instruction from rip_base */
    uint8_t size;           /* operand size in bytes */
    uint8_t aux;            /* the handler's own: condition, REP kind, ... */
    uint16_t aux2;
};

_Static_assert(sizeof(struct t0_op) == 40, "ops are most of the interpreter's memory");

/* How op's effective address becomes a linear one. */
enum t0_ea_kind {
    T0_EA_FLAT64, /* 64-bit address size, no segment base */
    T0_EA_SEG64,  /* 64-bit address size, FS or GS base */
    T0_EA_FLAT32, /* 32-bit address size, base 0 and no limit to check */
    /* The same outside of long mode, where no TLB entry has an address of more than 32
     * bits: the sum need not be cut off, it hits only when that would not change it. */
    T0_EA_LEGACY32,
    T0_EA_GENERAL, /* this and above: t0_ea_slow(). 16-bit address size */
    T0_EA_GENERAL32,
    T0_EA_GENERAL64,
};

/* Two more slots after the 16 general registers, so that addresses need no test. */
#define T0_REG_ZERO 16 /* always 0: no base, no index */
#define T0_REG_RIP  17 /* = c->rip_base while a block runs */

/* Byte offset into c->gpr of struct x86_opnd's register number. */
static inline uint8_t t0_reg(uint8_t reg)
{
    return reg >= X86_REG_HIGH ? (uint8_t)((reg - X86_REG_HIGH) * 8 + 1)
                               : (uint8_t)(reg * 8);
}

/*
 * One entry of the software TLB. A tag is the complement of the page's linear address
 * when the access may go straight to host memory, so that (tag + address of the byte
 * after the access) >> 12 is 0 for a hit; else that of no page that is looked for
 * there: MMIO, ROM stores, stores to pages with cached code and first stores to clean
 * pages all take the slow path.
 */
struct t0_tlb_entry {
    uint64_t read, write; /* tags */
    uintptr_t addend;     /* host address = linear address + addend */
    uint32_t group;       /* T1: offset of its list of copies in t1_hot.filled */
    uint8_t large;        /* T1: 1 in a page of 2 MiB that is one piece of memory */
    uint8_t copied;       /* T1: there are copies */
    uint16_t pad;         /* an index is a shift, and no entry is on two cache lines */
};

#define T0_TLB_BITS 13
#define T0_TLB_SIZE (1u << T0_TLB_BITS)
#define T0_TLB_NONE UINT64_C(1) /* never a page's address, nor its complement */

/* What stands in an unused tag of entry @i: a page's address that has another index,
 * as has the page before it, so that no access that looks there ends in that page. */
static inline uint64_t t0_tlb_none(unsigned i)
{
    return ~((uint64_t)(i ^ 2) << 12);
}

/*
 * Banks: which permissions the cached translations are for. Supervisor code with
 * SMAP in force and EFLAGS.AC clear must not reach user pages, so it has its own. In
 * the bank of user code with alignment checks nothing is fast: every access is looked
 * at.
 */
enum t0_bank {
    T0_BANK_USER,
    T0_BANK_USER_AC,
    T0_BANK_KERNEL,
    T0_BANK_KERNEL_SMAP,
    T0_NB_BANKS,
};

/* Translations of code pages; tag = page's linear address | 1 in user mode. */
struct t0_itlb_entry {
    uint64_t tag;
    uint64_t gpa;
    uint8_t *host;
};
#define T0_ITLB_SIZE 4096u

/*
 * Jump cache: linear address of a block's start -> block, valid while the
 * instruction TLB has not dropped a translation that an entry was made with (then
 * the whole cache goes). key = linear address ^ mode_key: bits 48-63 of a canonical
 * address are all equal, so that two modes' keys never meet (with 5-level paging, bits
 * 57-63: mode_key_la57()).
 */
struct t0_jump_entry {
    uint64_t key;
    struct t0_block *block;
};
#define T0_JUMP_SIZE 2048u

/* A fault raised by an instruction, until the run loop delivers it. */
struct t0_exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* with #PF */
};

/* What translations (t1.h) reach in the vCPU's state. */
struct t1_jump {
    uint64_t minus_rip; /* of the target, negated */
    uint64_t code;      /* its translation */
    uint64_t page;      /* rip & ~0xfff */
    uint64_t pad;
};
#define T1_JUMP_SIZE 4096u
#define T1_JUMP_ROT  12 /* index: low bits of rip + (rip rotated right) */

/* Copies of a TLB entry: see t1_slot.c. Of one access in a translation, */
struct t1_slot {
    uint64_t expected; /* minus what the address's bits under the mask are to be */
    uint64_t mask;
    uintptr_t addend; /* as the TLB's */
    uint64_t due;     /* instructions retired until which its refills are paid for */
};
/* and of the page that the stack pointer was last in: expected for each size. */
#define T1_NB_SIZES 6 /* 1 to 32 bytes */
struct t1_stack {
    uint64_t read[T1_NB_SIZES], write[T1_NB_SIZES];
    uintptr_t read_addend, write_addend;
};

/* Slots that were filled, from pages with the same low bits of their number. */
#define T1_BUCKETS     64
#define T1_BUCKET_SIZE 63
struct t1_bucket {
    uint64_t nb;
    struct t1_slot *slot[T1_BUCKET_SIZE];
};
enum { T1_GROUP_USER, T1_GROUP_LOCAL, T1_GROUP_GLOBAL, T1_NB_GROUPS };

struct t1_hot {
    struct t1_stack stack[2]; /* of kernel and user code, */
    bool stack_64[2];         /* and whether of 64-bit code */
    uint64_t adapt;           /* T1_ADAPT_*: what the current access wants */
    uint64_t host_sp;         /* while a translation runs: the thread's stack */
    uint64_t page_base;       /* linear address of the page whose code runs */
    uint64_t target;          /* and whatever has to be kept for a moment */
    uint64_t entry;           /* the same, of an indirect call */
    uint64_t tlb_mask, itlb_mask, jump_mask; /* for PDEP: index to byte offset */
    uint64_t align16_mask, align32_mask;     /* for PEXT: bits to look at */
    uint64_t x87_mask, not_if, not_df, not_ac, df, tsd, fsgsbase; /* for PEXT, too */
    uint64_t arith, pushf_keep, bits[3];
    uint64_t fcw_mask, mxcsr_masks, mxcsr_high;
    uint64_t tsc_add;                 /* to the host's TSC: the guest's */
    struct t0_tlb_entry *kernel_bank; /* the current one while EFLAGS.AC is clear */
    uint64_t low[T1_NB_SIZES];        /* bits that are 0 in an aligned address; */
    uint64_t outside[T1_NB_SIZES][2]; /* these and those outside of a page, or 2 MiB */
    uint64_t bucket_mask;             /* for PDEP */
    /* Of FS and GS in 32-bit code: what may not be set in the offset of the byte after
     * an access. All of it, when the segment has a limit or may not be written to. */
    uint64_t seg_mask[2];
    uint64_t vec_away; /* 0: the vector registers are in the host's, MXCSR too */
    uint64_t vec_want; /* bring them there before going on */
    /* No entry is on two cache lines. Of kernel and user code. */
    _Alignas(64) struct t1_jump jumps[2][T1_JUMP_SIZE];
    struct t1_bucket filled[T1_NB_GROUPS][T1_BUCKETS];
};

/*
 * A processor takes a load for one of what was stored shortly before when the lower
 * bits of their addresses are the same, and waits: half of the speed of code that keeps
 * much in guest registers that live in memory. So what translations load all the time
 * is not at a multiple of 2 KiB from the guest's registers.
 */
#define T0_APART 448

struct t0_cpu {
    /* Hot: what nearly every handler touches. */
    union {
        uint64_t gpr[18];
        struct {
            uint64_t gpr_only_[17];
            uint64_t rip_base; /* gpr[T0_REG_RIP]: offset in CS of the block's first
                                  byte */
        };
    };
    /* Arithmetic flags: low byte OF as 0 or 1, high byte as LAHF gives it
     * (SF 7, ZF 6, AF 4, PF 2, bit 1 set, CF 0). */
    uint16_t flags;
    uint16_t mode;     /* T0_MODE_* now; t0_update_mode() computes it from s */
    uint64_t mode_key; /* from mode, for the jump cache */
    uint64_t seg_base[X86_NB_SEG]; /* s.seg[].base; in 64-bit mode 0 but FS and GS */
    struct t0_tlb_entry *tlb;      /* the current bank */
    struct vcpu *vcpu;
    uint8_t rmw_open;        /* T0_RMW_*: t0_rmw_end() has something to do */
    bool stay_out;           /* single step: jumps go back to the run loop */
    uint8_t canon_shift;     /* 64 - bits of a linear address: 16, or 7 with LA57 */
    uint8_t debug;           /* T0_DEBUG_* of t0_priv.h: 0 when nothing is watched */
    struct t0_block *block;  /* being executed */
    uint64_t insns;          /* retired up to the start of this block */
    struct t0_exception exc; /* after a handler returned T0_FAULT */
    uint8_t fpu_loaded;      /* T0_FPU_* of t0_fpu.h */
    struct t0_fpu *fpu;

    /*
     * All other state, canonical. While guest code runs, these are stale:
     * gpr and rip (above), the arithmetic bits of rflags, and in s.fpu the x87 part
     * when fpu_loaded. t0_sync_out()/t0_sync_in() of t0_cpu.c convert.
     */
    struct x86_state s;

    /* Where t0_rmw_begin() puts an operand that cannot be worked on in place. */
    _Alignas(16) uint8_t bounce[16];

    uint8_t apart[T0_APART];
    struct t1_hot t1;
    struct t0_jump_entry jumps[T0_JUMP_SIZE];
    struct t0_itlb_entry itlb[T0_ITLB_SIZE];
    _Alignas(64) struct t0_tlb_entry banks[T0_NB_BANKS][T0_TLB_SIZE];
    /* The rest is t0_priv.h's: block cache, page-walk caches, counters. */
    struct t0_core *core;
};

#define T0_APART_FROM_GPR(field) (offsetof(struct t0_cpu, field) % 2048)
_Static_assert(T0_APART_FROM_GPR(t1) >= 256 && T0_APART_FROM_GPR(t1.jumps) > 256 &&
                   offsetof(struct t0_cpu, gpr) + sizeof(((struct t0_cpu *)0)->gpr) <=
                       256 &&
                   T0_APART_FROM_GPR(t1) < T0_APART_FROM_GPR(t1.jumps),
               "change T0_APART");

/* --- Registers ------------------------------------------------------------- */

#define T0_REG_PTR(c, off) ((uint8_t *)(c)->gpr + (off))
#define T0_R8(c, off)      (*(uint8_t *)T0_REG_PTR(c, off))
#define T0_R16(c, off)     (*(uint16_t *)T0_REG_PTR(c, off))
#define T0_R32(c, off)     (*(uint32_t *)T0_REG_PTR(c, off))
#define T0_R64(c, off)     (*(uint64_t *)T0_REG_PTR(c, off))
#define T0_W8(c, off, v)   (*(uint8_t *)T0_REG_PTR(c, off) = (uint8_t)(v))
#define T0_W16(c, off, v)  (*(uint16_t *)T0_REG_PTR(c, off) = (uint16_t)(v))
/* A 32-bit result zeroes the upper half. */
#define T0_W32(c, off, v) (*(uint64_t *)T0_REG_PTR(c, off) = (uint32_t)(v))
#define T0_W64(c, off, v) (*(uint64_t *)T0_REG_PTR(c, off) = (uint64_t)(v))

/* --- Dispatch -------------------------------------------------------------- */

/*
 * In optimised builds a handler calls the next one as a tail call; in sanitizer and
 * -O0 builds, where the compiler makes no tail calls, it returns the next op to a
 * loop. NULL means "back to the run loop", which looks at c->exc and attention.
 */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(T0_NO_TAIL_CALLS)
    #define T0_TAIL_CALLS 1
    #define T0_GO(c, op)  ((op)->fn((c), (op)))
#else
    #define T0_TAIL_CALLS 0
    #define T0_GO(c, op)  (op)
#endif

/* The barrier makes of it "add $40, %rsi; jmp *(%rsi)", two instructions fewer than
 * what the compiler thinks of. */
static inline __attribute__((always_inline)) const struct t0_op *t0_go_next(
    struct t0_cpu *c, const struct t0_op *op)
{
    op++;
    __asm__("" : "+r"(op));
    return T0_GO(c, op);
}
#define T0_NEXT(c, op) t0_go_next((c), (op))

/*
 * Leave the block with c->exc set by whoever failed: RIP and the retired count
 * become those of @op's start. Returns NULL.
 */
const struct t0_op *t0_fault(struct t0_cpu *c, const struct t0_op *op);
#define T0_FAULT(c, op) t0_fault((c), (op))

/* Fill c->exc only: for what a handler calls and follows with T0_FAULT. */
void t0_set_exc(struct t0_cpu *c, uint8_t vector);
void t0_set_exc_error(struct t0_cpu *c, uint8_t vector, uint32_t error);

/* Set c->exc and leave as T0_FAULT does. */
const struct t0_op *t0_raise(struct t0_cpu *c, const struct t0_op *op, uint8_t vector);
const struct t0_op *t0_raise_error(struct t0_cpu *c, const struct t0_op *op,
                                   uint8_t vector, uint32_t error);

/*
 * @op is done and the next instruction is not the next op: leave the block with RIP
 * after it (op->next). For ends of blocks, mode changes, anything after which mode,
 * mapping or interruptibility may differ. Returns NULL or the next block's op.
 */
const struct t0_op *t0_end_block(struct t0_cpu *c, const struct t0_op *op);

/* @op is done and RIP is now @rip (already truncated and checked canonical). */
const struct t0_op *t0_jump(struct t0_cpu *c, const struct t0_op *op, uint64_t rip);

/* RIP of @op and of the instruction after it. */
static inline uint64_t t0_op_rip(const struct t0_cpu *c, const struct t0_op *op)
{
    return c->rip_base + op->start;
}

static inline uint64_t t0_next_rip(const struct t0_cpu *c, const struct t0_op *op)
{
    return c->rip_base + op->next;
}

/* --- Memory ---------------------------------------------------------------- */

struct t0_val {
    uint64_t v;
    uint64_t fault; /* non-zero: c->exc is set, v is meaningless */
};

/* Segment, limit and canonical checks for the general case; @size of the access. */
struct t0_val t0_ea_slow(struct t0_cpu *c, const struct t0_op *op, unsigned size,
                         bool write);

/* Offset part of the effective address, not truncated. */
static inline uint64_t t0_offset(const struct t0_cpu *c, const struct t0_op *op)
{
    return c->gpr[op->base] + (c->gpr[op->index] << op->shift) + (uint64_t)op->disp;
}

/* Linear address of op's memory operand. fault as t0_ea_slow(): #GP or #SS. In
 * 64-bit mode a non-canonical address is found by the TLB miss path. */
static inline struct t0_val t0_ea(struct t0_cpu *c, const struct t0_op *op,
                                  unsigned size, bool write)
{
    uint64_t off = t0_offset(c, op);
    switch (op->ea) {
    case T0_EA_FLAT64: return (struct t0_val){off, 0};
    case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[op->seg], 0};
    case T0_EA_FLAT32:
    case T0_EA_LEGACY32: return (struct t0_val){(uint32_t)off, 0};
    default: return t0_ea_slow(c, op, size, write);
    }
}

/*
 * Slow paths: TLB miss, page crossing, MMIO, code pages. @la linear, @size 1..64
 * for the copies and 1, 2, 4, 8 for the scalars. @seg picks #SS or #GP for a
 * non-canonical address. On a fault nothing was written and no MMIO done.
 */
struct t0_val t0_load_slow(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg);
/* Returns non-zero with c->exc set on a fault. */
uint64_t t0_store_slow(struct t0_cpu *c, uint64_t la, uint64_t v, unsigned size,
                       unsigned seg);
/* Copies of any size up to 4096; for vectors, FXSAVE areas, descriptors. */
uint64_t t0_read_bytes(struct t0_cpu *c, uint64_t la, void *buf, unsigned size,
                       unsigned seg);
uint64_t t0_write_bytes(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size,
                        unsigned seg);
/* Whether a write of @size bytes would succeed: raises its fault if not. */
uint64_t t0_probe_write(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg);

/* Whether [la, la + size) is inside the page of @tag, an entry's. */
static inline bool t0_tlb_hit(uint64_t la, unsigned size, uint64_t tag)
{
    return (la + size + tag) >> 12 == 0;
}

/*
 * Host address of [la, la+size) when it is plain RAM inside one page, readable (or
 * writable) now; else NULL, and no fault is raised. Valid until the next memory
 * access of this CPU.
 */
static inline void *t0_host_read(struct t0_cpu *c, uint64_t la, unsigned size)
{
    struct t0_tlb_entry *e = &c->tlb[(la >> 12) & (T0_TLB_SIZE - 1)];
    return likely(t0_tlb_hit(la, size, e->read)) ? (void *)(uintptr_t)(la + e->addend)
                                                 : NULL;
}

static inline void *t0_host_write(struct t0_cpu *c, uint64_t la, unsigned size)
{
    struct t0_tlb_entry *e = &c->tlb[(la >> 12) & (T0_TLB_SIZE - 1)];
    return likely(t0_tlb_hit(la, size, e->write)) ? (void *)(uintptr_t)(la + e->addend)
                                                  : NULL;
}

static inline struct t0_val t0_load(struct t0_cpu *c, uint64_t la, unsigned size,
                                    unsigned seg)
{
    const void *p = t0_host_read(c, la, size);
    if (unlikely(!p)) {
        return t0_load_slow(c, la, size, seg);
    }
    /* Guest RAM is shared between vCPUs: one host access per guest access. */
    switch (size) {
    case 1: return (struct t0_val){*(const volatile uint8_t *)p, 0};
    case 2: return (struct t0_val){*(const volatile uint16_t *)p, 0};
    case 4: return (struct t0_val){*(const volatile uint32_t *)p, 0};
    default: return (struct t0_val){*(const volatile uint64_t *)p, 0};
    }
}

static inline uint64_t t0_store(struct t0_cpu *c, uint64_t la, uint64_t v,
                                unsigned size, unsigned seg)
{
    void *p = t0_host_write(c, la, size);
    if (unlikely(!p)) {
        return t0_store_slow(c, la, v, size, seg);
    }
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)v; break;
    case 2: *(volatile uint16_t *)p = (uint16_t)v; break;
    case 4: *(volatile uint32_t *)p = (uint32_t)v; break;
    default: *(volatile uint64_t *)p = v; break;
    }
    return 0;
}

/*
 * Read-modify-write: where the operand is, writable. When it is plain RAM in one
 * page, ret.v is its host address and the handler works on it in place (with a LOCK
 * prefix of the host for a LOCKed one), code pages included: then t0_rmw_end() tells
 * who has the code. Otherwise (page crossing, MMIO) ret.v is c's bounce buffer, filled
 * with the operand after the write permission was checked, and t0_rmw_end() writes it
 * back; meanwhile the other vCPUs are stopped, or for MMIO other such accesses.
 * Every successful begin is followed by exactly one end. fault: c->exc is set.
 */
struct t0_val t0_rmw_begin_slow(struct t0_cpu *c, uint64_t la, unsigned size,
                                unsigned seg);
void t0_rmw_end_slow(struct t0_cpu *c);

static inline struct t0_val t0_rmw_begin(struct t0_cpu *c, uint64_t la, unsigned size,
                                         unsigned seg)
{
    void *p = t0_host_write(c, la, size);
    if (likely(p != NULL)) {
        return (struct t0_val){(uint64_t)(uintptr_t)p, 0};
    }
    return t0_rmw_begin_slow(c, la, size, seg);
}

enum { T0_RMW_NONE, T0_RMW_IN_PLACE, T0_RMW_BOUNCE };

/* @p: what begin gave. Cheap when nothing stood in the way. */
static inline void t0_rmw_end(struct t0_cpu *c, uint64_t p)
{
    if (unlikely(c->rmw_open)) {
        t0_rmw_end_slow(c);
    }
}

/*
 * Self-modifying code: a store into the block that is being executed takes effect
 * with the next instruction. t0_store_slow() notices; the block's ops stay allocated
 * until the run loop, and every op's fn is replaced by one that leaves the block, so
 * handlers need no test of their own.
 */

/* --- Stack ----------------------------------------------------------------- */

/* Push / pop @size bytes through SS:rSP with the stack's own address size. Push
 * changes RSP only on success; pop does not change RSP: the handler does with
 * t0_sp_add() once nothing can fault. */
uint64_t t0_push(struct t0_cpu *c, uint64_t v, unsigned size);
struct t0_val t0_pop_peek(struct t0_cpu *c, unsigned size);
void t0_sp_add(struct t0_cpu *c, int64_t delta);

/* --- Ports ----------------------------------------------------------------- */

/*
 * One port access of @size 1, 2 or 4, with the check of IOPL and the TSS's
 * permission bitmap. fault: c->exc is set and nothing was done. For INS and OUTS,
 * which touch memory too: t0_pio_check() first, then the memory's faults, then this.
 */
uint64_t t0_pio_check(struct t0_cpu *c, uint16_t port, unsigned size);
struct t0_val t0_pio_in(struct t0_cpu *c, uint16_t port, unsigned size);
uint64_t t0_pio_out(struct t0_cpu *c, uint16_t port, uint32_t v, unsigned size);

/* --- Flags ----------------------------------------------------------------- */

/* RFLAGS as the guest sees them, and the reverse (all bits as given). */
uint64_t t0_get_rflags(const struct t0_cpu *c);
void t0_set_rflags(struct t0_cpu *c, uint64_t rflags);

#define T0_FLAG_CF 0x0100
#define T0_FLAG_PF 0x0400
#define T0_FLAG_AF 0x1000
#define T0_FLAG_ZF 0x4000
#define T0_FLAG_SF 0x8000
#define T0_FLAG_OF 0x0001 /* as the byte 0 or 1 */

/*
 * Run one host instruction on @v (and @src) and keep its flags:
 *   T0_FLAGS2   insn src, v        (add, sub, and, or, xor, cmp, test)
 *   T0_FLAGS1   insn v             (neg)
 * and with the guest's flags loaded before: T0_FLAGS2_IN (adc, sbb), T0_FLAGS1_IN
 * (inc, dec: CF survives). The operand-size suffix is part of @insn; @v must be a
 * variable of that width.
 */
#define T0_SAVE_FLAGS "lahf\n\tseto %%al\n\t"
#define T0_LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"

#define T0_FLAGS2(c, insn, v, s)                 \
    do {                                         \
        uint64_t fl_;                            \
        __asm__(insn " %2, %1\n\t" T0_SAVE_FLAGS \
                : "=&a"(fl_), "+q"(v)            \
                : "q"((__typeof__(v))(s))        \
                : "cc");                         \
        (c)->flags = (uint16_t)fl_;              \
    } while (0)

#define T0_FLAGS1(c, insn, v)                                                 \
    do {                                                                      \
        uint64_t fl_;                                                         \
        __asm__(insn " %1\n\t" T0_SAVE_FLAGS : "=&a"(fl_), "+q"(v) : : "cc"); \
        (c)->flags = (uint16_t)fl_;                                           \
    } while (0)

#define T0_FLAGS2_IN(c, insn, v, s)                            \
    do {                                                       \
        uint64_t fl_ = (c)->flags;                             \
        __asm__(T0_LOAD_FLAGS insn " %2, %1\n\t" T0_SAVE_FLAGS \
                : "+&a"(fl_), "+q"(v)                          \
                : "q"((__typeof__(v))(s))                      \
                : "cc");                                       \
        (c)->flags = (uint16_t)fl_;                            \
    } while (0)

#define T0_FLAGS1_IN(c, insn, v)                           \
    do {                                                   \
        uint64_t fl_ = (c)->flags;                         \
        __asm__(T0_LOAD_FLAGS insn " %1\n\t" T0_SAVE_FLAGS \
                : "+&a"(fl_), "+q"(v)                      \
                :                                          \
                : "cc");                                   \
        (c)->flags = (uint16_t)fl_;                        \
    } while (0)

/* Whether condition @cc (0..15, as encoded) holds. Inlines to a test or two when
 * @cc is a constant. */
static inline bool t0_cond(const struct t0_cpu *c, unsigned cc)
{
    uint16_t f = c->flags;
    bool of = f & T0_FLAG_OF, sf = f & T0_FLAG_SF, r;
    switch (cc >> 1) {
    case 0: r = of; break;
    case 1: r = f & T0_FLAG_CF; break;
    case 2: r = f & T0_FLAG_ZF; break;
    case 3: r = f & (T0_FLAG_CF | T0_FLAG_ZF); break;
    case 4: r = sf; break;
    case 5: r = f & T0_FLAG_PF; break;
    case 6: r = sf != of; break;
    default: r = ((f & T0_FLAG_ZF) != 0) | (sf != of); break;
    }
    return r ^ (cc & 1);
}

/* --- Lowering -------------------------------------------------------------- */

/* What a block is decoded for; part of its key in the cache. */
enum {
    T0_MODE_16 = 0,
    T0_MODE_32 = 1,
    T0_MODE_64 = 2,
    T0_MODE_SIZE = 3,         /* mask of the three */
    T0_MODE_FLAT = 1 << 2,    /* ES, SS, DS (and CS) have base 0, limit 4 GiB, usable */
    T0_MODE_STACK32 = 1 << 3, /* SS.B: the stack pointer is ESP (outside 64-bit) */
    T0_MODE_CPL3 = 1 << 4,
    T0_MODE_PE = 1 << 5,    /* protected mode, not VM86 */
    T0_MODE_TS = 1 << 6,    /* CR0.TS: x87, MMX, SSE and AVX ops raise #NM */
    T0_MODE_NOSSE = 1 << 7, /* CR0.EM or !CR4.OSFXSR */
    T0_MODE_NOAVX = 1 << 8, /* !CR4.OSXSAVE, XCR0 lacks SSE|AVX, real mode */
    T0_MODE_EM = 1 << 9,    /* CR0.EM: x87 and MMX */
    T0_MODE_LMA = 1 << 10,  /* long mode, compatibility mode included */
};

struct t0_lower {
    struct t0_cpu *c;
    unsigned mode;        /* T0_MODE_*; T0_MODE_FLAT is always set in 64-bit mode */
    const uint8_t *bytes; /* the instruction's own, insn->len of them */
    unsigned page_off;    /* of the block's first byte in its page */
    bool flags_dead;      /* no later reader of its arithmetic flags: they need not
                             be computed. The op may still compute them */
};

/*
 * A lowering: when @insn is one of its own, choose op->fn and fill what fn needs
 * beyond what t0_lower_common() filled, and return true. A handler must exist for
 * every operand form that the decoder lets through. Instructions that no lowering
 * takes raise #UD.
 */
typedef bool (*t0_lower_fn)(const struct x86_insn *insn, const struct t0_lower *ctx,
                            struct t0_op *op);

/* Filled for every op before the lowerings are asked: start, next, size (opsize),
 * imm, and the memory operand's base, index, shift, disp, seg, ea. */

bool t0_lower_mov(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_alu(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_shift(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_muldiv(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_bit(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_string(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_branch(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_seg(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_sys(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_fpu(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_simd(const struct x86_insn *, const struct t0_lower *, struct t0_op *);
bool t0_lower_xsave(const struct x86_insn *, const struct t0_lower *, struct t0_op *);

/* --- FPU ------------------------------------------------------------------- */

/*
 * The guest's x87/MMX registers live in the host's while guest code runs, loaded
 * when the first x87 op needs them (fpu_loaded) and put back into s.fpu when the
 * run loop leaves or someone asks. XMM/YMM always live in s.fpu.ymm.
 */
void t0_fpu_put(struct t0_cpu *c); /* host registers -> s.fpu; idempotent */

/* Before calling C code that is not the CPU's (devices): it finds the host's own
 * MXCSR and x87 state. */
static inline void t0_fpu_lend(struct t0_cpu *c)
{
    if (unlikely(c->fpu_loaded)) {
        t0_fpu_put(c);
    }
}

bool t0_fpu_init(struct t0_cpu *c, GError **error); /* thunk memory */
void t0_fpu_done(struct t0_cpu *c);

#endif
