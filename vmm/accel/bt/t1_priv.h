#ifndef VMM_ACCEL_BT_T1_PRIV_H
#define VMM_ACCEL_BT_T1_PRIV_H

#include "vmm/accel/bt/t0_priv.h"
#include "vmm/accel/bt/t1.h"
#include "vmm/accel/bt/t1_emit.h"

/* What the files of the translator share. See t1.h for the theory. */

/* A direct branch. In a struct t1_core's array; refs are indices, 0 is none. */
struct t1_site {
    uint32_t jump;    /* position of the rel32 to patch */
    uint32_t page;    /* position of minus the target's page number, or 0: in page */
    uint32_t stub;    /* where the jump leads while it is not linked */
    uint32_t next_in; /* next site with the same target, */
    uint32_t prev_in; /* and the one before it; 0: the target's own word */
    int32_t target;   /* offset from page_base */
    t0_ref from;      /* the block it is in */
    t0_ref to;        /* linked to; 0: not */
    bool poll;
    bool one; /* t1_one() of its check */
};

enum { T1_JUMPS_NONE, T1_JUMPS_ONE, T1_JUMPS_MANY };

/* What is in a table of indirect branches. */
struct t1_used {
    uint16_t mode; /* of all */
    uint16_t nb;
    uint16_t index[T1_JUMP_SIZE];
};

struct t1_trans {
    uint32_t entry, entry_poll; /* positions */
    t0_ref block;               /* 0: it is dead */
    uint32_t incoming;          /* sites */
    bool native;                /* nothing in it is left to T0 */
    uint8_t in_jumps;           /* T1_JUMPS_*: in the table of indirect branches */
    uint16_t jump;              /* with T1_JUMPS_ONE: its place there */
    bool t2;                    /* entry and entry_poll are a hot region's */
    bool in_t2;                 /* the block is in some region */
    bool t2_plain;              /* its region is to check each access */
    uint8_t t2_tried;           /* times it was recorded */
    uint32_t own_entry;         /* with t2: the translation's own */
    uint32_t t2_samples;        /* times it was met since */
};

/* A part of the memory for code, and of the arrays; see t1_cache.c. */
#define T1_MAX_REGIONS 8u
struct t1_region {
    uint32_t hot, cold, end;          /* positions: where each begins */
    uint32_t hot_used, cold_used;     /* where each ends, but for the current region */
    uint32_t first_site, first_trans; /* the ones before the first */
    uint32_t nb_sites, nb_trans;      /* the last ones, likewise */
};

/* How the glue fills a copy: t1_slot.c. */
enum t1_fill {
    T1_FILL_PAGE,
    T1_FILL_ANY,
    T1_FILL_STACK,
    T1_NB_FILLS,
    T1_FILL_TLB =
        T1_NB_FILLS, /* there is none: the TLB; then what asked does it again */
    T1_FILL_JUMP,    /* the table of indirect branches, likewise */
};

struct t1_core {
    uint8_t *write, *exec; /* the same memory twice; behind the latter come slots */
    uint32_t size, glue_end;
    /* The region that is being filled: what is on the straight path, */
    uint32_t used, cold_start;
    uint32_t cold, cold_end; /* and, from cold_start on, what is not */
    struct t1_site *sites;
    struct t1_trans *trans;
    uint32_t nb_sites, nb_trans, max_sites, max_trans; /* last ones of that region */
    struct t1_region region[T1_MAX_REGIONS];
    unsigned nb_regions, current;
    uint64_t translated, evicted, evictions; /* blocks, blocks, regions */
    uint32_t generation;                     /* counts flushes and evictions */
    uint32_t glue_enter, glue_step, glue_branch, glue_resolve, glue_exit;
    uint32_t glue_fill[2][2][T1_NB_SIZES][T1_NB_FILLS]; /* user, write, log of size */
    uint32_t glue_quick[2], glue_quick_jump;            /* of the former: write */
    uint32_t glue_syscall, glue_sysret, glue_iret, glue_go_on;
    struct t1_used jumps_used[2];
    bool kernel_local;  /* jumps of kernel code hold pages that are not global */
    struct t2_core *t2; /* NULL: no hot regions */
    uint32_t forgets;   /* counts what the TLB forgot */
    bool loop;          /* LOOP is quick on this processor: t1_unless() */
    bool left_early;    /* a translation, for a reason that T0 has not */
    uint32_t t2_drops;  /* counts regions that were dropped */
    uint64_t checked;   /* in lockstep */
    uint64_t steps, branches, resolves, enters, linked, switches;
    uint64_t fallbacks[X86_NB_OPS + 1]; /* by enum x86_op; last: memory */
    _Alignas(8) uint8_t single[sizeof(struct t0_block) + 2 * sizeof(struct t0_op)];
};

/* Scratch registers of the host, and the count of instructions. */
enum {
    T1_COUNT = X86_R9,
    T1_RCX = X86_RCX,
    T1_S1 = X86_R10,
    T1_S2 = X86_R11,
    T1_SP = X86_RSP
};

/* What is compared with an address never makes 0 with this. */
#define T1_SLOT_EMPTY 1

/* t1_hot.adapt: what kind of site the current access is to become. */
enum { T1_ADAPT_NOT, T1_ADAPT_ANY, T1_ADAPT_PROBE };

/* Where guest registers are between translations, and in the glue. While translating,
 * struct t1_ctx's host[] says where they are. */
#define T1_MEMORY 0xff /* in c->gpr only */
extern const uint8_t t1_home[X86_NB_GPR];

/* [rsp + ...] for an offset in struct t0_cpu. */
static inline struct t1_mem t1_field(size_t off)
{
    return (struct t1_mem){T1_SP, T1_NO_REG, 0, (int32_t)off + T1_BIAS};
}

#define T1_FIELD(name) t1_field(offsetof(struct t0_cpu, name))
#define T1_GPR(n)      t1_field(offsetof(struct t0_cpu, gpr) + 8 * (size_t)(n))

/* Of segment register @seg, 2 bytes. */
static inline struct t1_mem t1_selector(unsigned seg)
{
    return t1_field(offsetof(struct t0_cpu, s.seg) + seg * sizeof(struct x86_segment) +
                    offsetof(struct x86_segment, sel));
}

/* --- Translating ------------------------------------------------------------ */

/*
 * What a slow path is asked, beside the op's index:
 *   PUSH_RETURN  of a CALL: push the return address, and no more
 *   NEED_*       the translation goes on with these in the host's registers
 *   ENSURE       bring them there, and do not execute the op
 *   TRY          and go on if that is not possible
 *   STRICT       leave when the TLB has forgotten anything
 *   ADAPT        only note what the access wants
 */
enum {
    T1_INDEX = 0xff,
    T1_NEED_VEC = 0x100,
    T1_NEED_X87 = 0x200,
    T1_ENSURE = 0x400,
    T1_TRY = 0x800,
    T1_STRICT = 0x1000,
    T1_ADAPT = 0x2000,
    T1_PUSH_RETURN = 0x8000,
};

/* The last x87 instruction, not yet noted in the vCPU's state. */
struct t1_x87 {
    bool pending;
    uint16_t fop;
    int32_t off; /* from page_base */
};

struct t1_slow {
    uint32_t from[6]; /* jumps to it */
    unsigned nb;
    uint32_t resume;
    uint16_t what; /* T1_INDEX and others */
    uint16_t op;   /* enum x86_op of a fall-back; X86_NB_OPS: a slow access */
    struct t1_x87 x87;
    bool branch;
};

/* A copy is not of the access's page, or something is not in a table: out of line. */
struct t1_refill {
    uint32_t from, found; /* the jump to it, and where to go on with the addend */
    struct t1_mem at;     /* base and displacement */
    uint32_t slot;        /* position */
    uint8_t log, kind;    /* log2 of the size; enum t1_fill */
    bool write, aligned;
    struct t1_slow *slow;
};

/* The way to a block that is not linked yet. */
struct t1_stub {
    struct t1_site *site;
    uint32_t miss[2]; /* jumps to it */
    unsigned nb;
};

/* Of each instruction one, and one for each kind of registers to make ready; and as
 * many in the copies of t1_group.c. */
#define T1_MAX_SLOW (6 * T0_BLOCK_MAX_INSNS)

struct t1_decoded;

struct t1_groups;

struct t1_ctx {
    struct t1_emit e;
    struct t0_cpu *c;
    struct t1_core *t1;
    struct t0_block *b;
    const struct x86_insn *insn;
    const uint8_t *bytes;     /* the instruction's */
    unsigned index;           /* its op */
    int32_t page_off;         /* of the block, from page_base */
    uint8_t host[X86_NB_GPR]; /* host register of each guest register, or T1_MEMORY */
    uint32_t at[T0_BLOCK_MAX_INSNS]; /* position of each instruction's code */
    struct t1_slow slow[T1_MAX_SLOW];
    unsigned nb_slow;
    struct t1_refill refill[6 * T0_BLOCK_MAX_INSNS];
    unsigned nb_refill;
    struct t1_stub stub[2];
    unsigned nb_stubs;
    struct t1_slow *cur; /* of the current instruction, or NULL */
    struct {
        uint8_t reg; /* guest register that lives in memory, or T1_NO_REG */
        bool dirty;
    } held[2]; /* in r10 and r11, over instructions without memory operand */
    unsigned oldest;
    bool vec_ready, x87_ready; /* known to be in the host's registers */
    uint32_t leave_from;       /* the poll's jump */
    bool lone;                 /* no other vCPU */
    bool new_stack;            /* accesses of the stack have slots of their own */
    struct t1_x87 x87;
    struct t1_groups *groups; /* accesses that are checked together, or NULL */
    bool region;              /* of a hot region, with groups */
    unsigned node;            /* of it */
};

/* Offset from page_base of the instruction after the current one. */
static inline int64_t t1_next_off(const struct t1_ctx *t)
{
    return (int64_t)t->page_off + t->b->ops[t->index].next;
}

/*
 * 32-bit code. Its instructions do the same in 64-bit code, zeroed upper halves
 * included; what differs is addresses, which are of 32 bits, and the stack's words. In
 * long mode the upper half of a register may be anything and the TLB has pages above
 * 4 GiB: there sums are always cut. Outside, where nothing is mapped there, only those
 * that may overflow: others hit only if they do not have to be cut.
 */
static inline bool t1_is_32(const struct t1_ctx *t)
{
    return (t->b->mode & T0_MODE_SIZE) == T0_MODE_32;
}

/* Bytes of an address, a word on the stack, an instruction pointer. */
static inline unsigned t1_word(const struct t1_ctx *t)
{
    return t1_is_32(t) ? 4 : 8;
}

/* Whether a register alone may not be taken for an address of 4 bytes. */
static inline bool t1_cuts(const struct t1_ctx *t)
{
    return !t1_is_32(t) || (t->b->mode & T0_MODE_LMA);
}

/* What x86_decode() is told. */
static inline unsigned t1_bits(const struct t0_block *b)
{
    return (b->mode & T0_MODE_SIZE) == T0_MODE_32 ? 32 : 64;
}

/* MOV and LEA of an address or a word of the stack. */
static inline void t1_load_word(struct t1_ctx *t, unsigned dst, struct t1_mem m)
{
    t1_op_mem(&t->e, &(struct t1_enc){.w = !t1_is_32(t), .opcode = 0x8b}, dst, m);
}

static inline void t1_store_word(struct t1_ctx *t, struct t1_mem m, unsigned src)
{
    t1_op_mem(&t->e, &(struct t1_enc){.w = !t1_is_32(t), .opcode = 0x89}, src, m);
}

static inline void t1_lea_word(struct t1_ctx *t, unsigned dst, struct t1_mem m)
{
    t1_op_mem(&t->e, &(struct t1_enc){.w = !t1_is_32(t), .opcode = 0x8d}, dst, m);
}

/* The stack pointer += @n. */
static inline void t1_sp_add(struct t1_ctx *t, int32_t n)
{
    unsigned sp = t->host[X86_RSP];
    t1_lea_word(t, sp, (struct t1_mem){(uint8_t)sp, T1_NO_REG, 0, n});
}

/* Kernel or user code: which of two things of the vCPU's state it uses. */
static inline unsigned t1_is_user(unsigned mode)
{
    return (mode & T0_MODE_CPL3) != 0;
}

/* A jump to the slow path of the current instruction. */
void t1_jump_slow(struct t1_ctx *t);

/*
 * Address of the instruction's memory operand. Returns the register it is in (@want,
 * or the base register itself), or T1_NO_REG when it is of a kind that is left to T0.
 * Uses the scratch registers r10 and r11.
 */
bool t1_ea_possible(const struct t1_ctx *t, bool with_segment);
unsigned t1_ea(struct t1_ctx *t, unsigned want, bool with_segment);

/* Probe for @size bytes at @addr, a register other than rcx and r11. What follows may
 * access [addr + r11]. Changes rcx and r11. */
void t1_probe(struct t1_ctx *t, unsigned addr, unsigned size, bool write);

/* The same for @size bytes at @at, a register and a displacement. The jump of a miss is
 * *ret_from: t1_unless(). */
void t1_probe_bytes(struct t1_ctx *t, struct t1_mem at, int32_t size, bool write,
                    uint32_t *ret_from);

/* The same from @addr up to the address in @end, which is at most 32 KiB further. */
void t1_probe_to(struct t1_ctx *t, unsigned addr, unsigned end, bool write);

/* The same with a slot, at @at, a register and a displacement, of which what may be
 * accessed is returned: with r11 as index. Slow when it is to be @aligned and is not.
 * possible: for this size, and the current instruction. */
bool t1_slot_possible(const struct t1_ctx *t, unsigned size);
struct t1_mem t1_probe_slot(struct t1_ctx *t, struct t1_mem at, unsigned size,
                            bool write, bool aligned);
/* And at the stack pointer + @disp. */
struct t1_mem t1_probe_stack(struct t1_ctx *t, int32_t disp, unsigned size, bool write);
struct t1_mem t1_probe_stack_operand(struct t1_ctx *t, int32_t disp, unsigned size,
                                     bool write, bool aligned);
/* A slot for an access of 1 << @log bytes, whose code begins here and is longer than a
 * slot: its position, the code's in another mapping. Field @off of it. */
uint32_t t1_new_slot(struct t1_ctx *t, unsigned log);
struct t1_mem t1_slot_field(const struct t1_ctx *t, uint32_t slot, size_t off);
/* With groups: an access to the instruction's operand, or to the @stack, that needs no
 * check, or has one together with others. False: it is like any other. */
bool t1_shared_access(struct t1_ctx *t, const struct t1_mem *stack, unsigned size,
                      bool write, bool aligned, struct t1_mem *ret);
void t1_put_refill(struct t1_ctx *t, const struct t1_refill *r);
/* Go on if rcx is 0; else call @glue, which fills a table, and go to @again when it
 * has, with what @glue does not change: all but rcx. Slow if not. */
void t1_put_quick(struct t1_ctx *t, uint32_t glue, uint32_t again);
/* Go on if rcx is t1_one(), or else, out of line, after t1_put_quick() as @r says. */
void t1_quick_unless(struct t1_ctx *t, const struct t1_refill *r);
void t1_put_slot_glue(struct t1_core *t1, struct t1_emit *e);
void t1_slots_init(struct t0_cpu *c);
/* The bank or the mode has changed. */
void t1_slots_bank(struct t0_cpu *c);

/* r10 and r11 may hold guest registers that live in memory. */
extern const uint8_t t1_holder[2];
/* Which of the two holds guest register @reg, or -1. */
int t1_holds(const struct t1_ctx *t, unsigned reg);
/* Hold guest register @reg, and not in place of @keep (-1: none). */
int t1_hold(struct t1_ctx *t, unsigned reg, bool load, int keep);
/* r10 and r11 are needed for something else: store what they hold and is newer. */
void t1_let_go(struct t1_ctx *t);

/* t1_ea() and a probe for the instruction's memory operand, with its segment; slow when
 * it is to be @aligned to its size and is not. */
struct t1_mem t1_operand(struct t1_ctx *t, unsigned size, bool write, bool aligned);

/* Leave it to T0: the place for jumps to the slow path is made. */
struct t1_slow *t1_slow_of(struct t1_ctx *t);

static inline struct t1_mem t1_at(unsigned addr)
{
    return (struct t1_mem){(uint8_t)addr, T1_S2, 0, 0};
}

/* LEA, as t1_insn(). */
bool t1_lea_insn(struct t1_ctx *t);

/* Translate the current instruction, which is no branch. False: nothing was emitted,
 * T0 is to execute it. */
bool t1_insn(struct t1_ctx *t);

/* Instruction @i of the block, whatever it is. */
void t1_put_insn(struct t1_ctx *t, const struct t1_decoded *d, unsigned i);

/* Look at the block: whether it has groups. Before and after instruction @i; and, out
 * of line, what happens when a check fails. */
bool t1_plan_block(struct t1_ctx *t, const struct t1_decoded *d, struct t1_groups *s);
void t1_stretch_insn(struct t1_ctx *t, unsigned i);
void t1_stretch_insn_end(struct t1_ctx *t, unsigned i);
void t1_put_stretches(struct t1_ctx *t, const struct t1_decoded *d);

/* The same for a branch. */
bool t1_branch(struct t1_ctx *t);
/*
 * Look in the instruction TLB for the page at page_base + @page: rcx is the number of
 * the guest page there, r10 its linear address. Changes r11. *ret_miss is the jump of a
 * miss: t1_unless().
 */
void t1_code_page(struct t1_ctx *t, int32_t page, uint32_t *ret_miss);
/* After the last instruction, which is none: go on behind it. */
void t1_block_end(struct t1_ctx *t);
/* Parts of these for hot regions: count the block's instructions; push the address of
 * the next one; the target of an indirect branch into r10, unless that is left to T0;
 * go to page_base + @target, and the stub for it, to be put out of line. */
void t1_count(struct t1_ctx *t);
void t1_push_return(struct t1_ctx *t);
bool t1_load_target(struct t1_ctx *t);
void t1_go(struct t1_ctx *t, int64_t target, bool poll, struct t1_stub *ret_stub);
void t1_put_stub(struct t1_ctx *t, const struct t1_stub *stub);
/* Leave when attention is wanted, with RIP at the block: t1_put_slows() says how. */
void t1_put_poll(struct t1_ctx *t);
/* Out of line: the slow paths. */
void t1_put_slows(struct t1_ctx *t);
/* Out of line, after both: what asks for a link. */
void t1_put_stubs(struct t1_ctx *t);

/* The same for SSE and AVX, for x87, and for what is the kernel's. */
bool t1_simd(struct t1_ctx *t);
bool t1_x87(struct t1_ctx *t);
bool t1_system(struct t1_ctx *t);
bool t1_string(struct t1_ctx *t);
bool t1_xlat(struct t1_ctx *t);

/* The host register with guest register @reg: its own, or @scratch after loading. */
unsigned t1_in_reg(struct t1_ctx *t, unsigned reg, unsigned scratch);

/* Slow unless rcx is 0. */
void t1_slow_unless_zero(struct t1_ctx *t);
/* The same when rcx is not t1_one(); that of it, when it is 0. */
void t1_slow_unless(struct t1_ctx *t);
void t1_rcx_to_one(struct t1_emit *e);
/* Slow unless the bits of @reg under @mask are 0. Changes rcx. */
void t1_check_zero(struct t1_ctx *t, unsigned reg, struct t1_mem mask);

/* From here on T1_NEED_VEC or T1_NEED_X87 is in the host's registers. Changes rcx. */
void t1_ensure(struct t1_ctx *t, unsigned need);
/* Write what is pending in @x to the vCPU's state. Changes rcx. */
void t1_x87_note(struct t1_emit *e, const struct t1_x87 *x);
/* Prefix of a LOCKed instruction. */
uint8_t t1_lock_prefix(const struct t1_ctx *t);
/* LOCK XADD of 4 or 8 bytes at @m with host register @reg, where nothing needs it to be
 * atomic: its parts are twice as quick. False: nothing was emitted. Changes rcx. */
bool t1_xadd_alone(struct t1_ctx *t, unsigned reg, unsigned size, struct t1_mem m);

/* --- Links: t1_link.c ------------------------------------------------------- */

static inline struct t0_block *t1_block_at(const struct t0_cpu *c, t0_ref ref)
{
    return (struct t0_block *)(c->core->arena + ref);
}

void t1_links_init(struct t0_cpu *c);
/* The page of @s's target is to be that with number -@minus; 0: none is. */
void t1_site_page(struct t1_core *t1, const struct t1_site *s, int32_t minus);
/* Site @index leads to @to from now on, when it may. */
void t1_link_site(struct t0_cpu *c, uint32_t index, struct t0_block *to);
/* Where the indirect branch to @rip leads, or NULL. The entry looks for attention. */
const struct t1_jump *t1_find_jump(const struct t0_cpu *c, uint64_t rip);
/* The indirect branch to @rip is not found: look for a block and remember it. 0: it is
 * found now. Uses no vector registers. */
uint64_t t1_quick_jump(struct t0_cpu *c, uint64_t rip);
/* The indirect branch to @rip, where @b is, is found from now on. */
void t1_remember_jump(struct t0_cpu *c, const struct t0_block *b, uint64_t rip);
/* Site @index leads nowhere any more, nor is in a list. */
void t1_forget_site(struct t0_cpu *c, uint32_t index);
/* Nothing leads to @b any more, which has a translation. */
void t1_unlink_block(struct t0_cpu *c, struct t0_block *b);
/* The mode is another one: so is what the table of indirect branches is for. */
void t1_links_mode(struct t0_cpu *c);

/* --- Other levels: t1_switch.c ------------------------------------------------ */

/* SYSCALL before @next, SYSRET to @rip, IRET with the stack pointer @sp; @flags are the
 * arithmetic ones, as in c->flags. The code to go on with, which looks for attention,
 * or 0: nothing was changed, T0 is to execute it. */
uint64_t t1_quick_syscall(struct t0_cpu *c, uint64_t next, uint32_t flags);
uint64_t t1_quick_sysret(struct t0_cpu *c, uint64_t rip, uint32_t flags);
uint64_t t1_quick_iret(struct t0_cpu *c, uint64_t sp, uint32_t flags);

/* --- Memory for code: t1_cache.c --------------------------------------------- */

/* Make room for the translation of another block. No translation is running, or who
 * called from it looks at t1_core.generation. */
void t1_make_room(struct t0_cpu *c);
/* The same for @hot and @cold bytes of code on and off the straight path, and @sites.
 * False: there is not so much in a region. */
bool t1_make_room_for(struct t0_cpu *c, uint32_t hot, uint32_t cold, uint32_t sites);
/* Bytes of code that translations have. */
uint32_t t1_code_bytes(const struct t1_core *t1);

/* --- Code: t1_code.c -------------------------------------------------------- */

/* @b has lost its translation and is counted anew. */
void t1_block_cool(struct t0_cpu *c, struct t0_block *b);

/* Make @b's translation, unless it has one. False: it cannot have one. */
bool t1_make(struct t0_cpu *c, struct t0_block *b);

/* Translate @b. Its code's position, or 0. */
bool t1_translate(struct t0_cpu *c, struct t0_block *b);

struct t1_decoded {
    struct x86_insn insn[T0_BLOCK_MAX_INSNS];
    uint8_t bytes[GMEM_PAGE_SIZE];
};

/* Decode @b again. False when the bytes are no longer those that T0 decoded. */
bool t1_decode_block(struct t0_cpu *c, const struct t0_block *b, struct t1_decoded *d);

/* Decode op @i of @b again. False: the bytes are no longer those that T0 decoded. */
bool t1_decode_op(struct t0_cpu *c, const struct t0_block *b, unsigned i,
                  struct x86_insn *ret);

/* @size bytes of code at @address, called @name. Any vCPU's thread. */
void t1_jitdump_code(struct t1_jitdump *d, const char *name, const uint8_t *address,
                     uint32_t size);

/* -d out_asm: the code of @t's block, which is at [hot, hot_end) and [cold, cold_end).
 */
void t1_log_code(const struct t1_ctx *t, uint32_t hot, uint32_t hot_end, uint32_t cold,
                 uint32_t cold_end);

/* The code that everything else enters and leaves through. */
void t1_make_glue(struct t1_core *t1);

/* What the glue calls, with the state in @c: go on at a direct branch that is not
 * linked, or where s.rip is; a branch, another instruction by T0. The first three
 * return the code to go on with, or 0 for the run loop; the last 0 when the translation
 * goes on, else the code to go on with, or T1_LEAVE for the run loop. */
enum { T1_LEAVE = 1 };
uint64_t t1_do_resolve(struct t0_cpu *c, uint32_t site);
uint64_t t1_do_go_on(struct t0_cpu *c);
uint64_t t1_do_branch(struct t0_cpu *c, t0_ref ref, uint32_t what);
uint64_t t1_do_step(struct t0_cpu *c, t0_ref ref, uint32_t what);

/* Whether T0 is to execute everything: translations look at alignment and at privilege
 * only as far as the mode tells of them. */
static inline bool t1_kept_out(const struct t0_cpu *c)
{
    return c->tlb == c->banks[T0_BANK_USER_AC] || (c->s.cpl & 3) % 3 != 0;
}

/* Run the translation of @b at rip_base. Returns NULL. */
const struct t0_op *t1_enter(struct t0_cpu *c, struct t0_block *b);

/* The same, checked: t1_lockstep.c. */
const struct t0_op *t1_lockstep(struct t0_cpu *c, struct t0_block *b);

/* Handler of an op after a single instruction. */
const struct t0_op *t1_op_stop(struct t0_cpu *c, const struct t0_op *op);

#endif
