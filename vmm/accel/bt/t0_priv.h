#ifndef VMM_ACCEL_BT_T0_PRIV_H
#define VMM_ACCEL_BT_T0_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "lib/base/bytes.h"
#include "lib/isa/x86/cpu_model.h"
#include "vmm/accel/bt/t0.h"
#include "vmm/arch/x86/kvm_pv.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

/*
 * What the core files of the interpreter share (t0_cpu, t0_block, t0_mmu, t0_exc,
 * t0_seg, t0_sys, t0_branch) and the writers of handlers do not see.
 *
 * Threads. A struct t0_cpu and its t0_core belong to the vCPU's thread. Others reach
 * it only through what struct t0_vm's lock guards (struct t0_inbox), and raise
 * T0_ATTN in vcpu->attention so that it looks. The lock is innermost: nothing else
 * is taken while it is held, except by vcpu_kick().
 */

/* The accelerator's own bit of vcpu->attention: look at the inbox. */
#define T0_ATTN (UINT32_C(1) << 31)

/* Another: a sample is wanted of what runs (t2.h). */
#define T2_ATTN (UINT32_C(1) << 30)

/* --- Blocks ---------------------------------------------------------------- */

/* Offset in a vCPU's code arena; 0 is none. */
typedef uint32_t t0_ref;

/* A place in a block that jumps to another block directly. Follows the ops. */
struct t0_chain {
    struct t0_block *to; /* NULL: not yet known */
    t0_ref next_in;      /* next chain with the same target */
    uint32_t pad;
};

struct t0_block {
    uint64_t gpa;        /* of its first byte */
    uint64_t gpa2;       /* with T0_BLOCK_STRADDLES: address of its second page */
    t0_ref next;         /* same hash bucket */
    t0_ref page_next[2]; /* blocks of the same page, of the first and second one */
    t0_ref incoming;     /* chains that lead here */
    uint16_t len;        /* bytes */
    uint16_t nb_insns;
    uint16_t mode;
    uint16_t flags; /* T0_BLOCK_* */
    t0_fn first_fn; /* of ops[0], whose fn may be T1's */
    uint32_t t1;    /* translation, 0: none */
    uint32_t heat;  /* times executed, while there is none */
    t0_ref check;   /* struct t0_check, with T0_BLOCK_CHECKED */
    uint32_t pad;
    uint64_t any_sites, probe_sites; /* hints for T1, by instruction: t1_slot.c */
    struct t0_op ops[];
};

enum {
    T0_BLOCK_STRADDLES = 1 << 0, /* one instruction over a page boundary */
    T0_BLOCK_DEAD = 1 << 1,      /* invalidated: every op leaves */
    T0_BLOCK_SCRATCH = 1 << 2,   /* one instruction, not in the cache */
    T0_BLOCK_HAS_END = 1 << 3,   /* after the instructions comes an end op */
    T0_BLOCK_CHECKED = 1 << 4,   /* its bytes are compared at each entry: t0_check.c */
};

#define T0_BLOCK_MAX_INSNS 48

/* --- Per VM ---------------------------------------------------------------- */

struct t0_vm {
    struct vm *vm;
    uint32_t tier;    /* what -accel bt,tier= says, */
    bool t1;          /* and whether translations are made */
    bool t2;          /* and of hot regions */
    bool jrcxz;       /* even where LOOP is quick */
    uint32_t t2_heat; /* 0: what is hot is found by samples */
    struct t2_thread *t2_thread;
    bool lockstep;              /* check translations against T0 */
    bool nochain;               /* every block is entered by the run loop */
    uint32_t heat;              /* executions after which a block is translated */
    uint32_t t1_mib;            /* MiB of memory for a vCPU's translations */
    struct t1_jitdump *jitdump; /* NULL: none */
    char *jitdump_folder;
    bool one_insn;        /* -accel bt,one-insn-per-block=on */
    unsigned block_insns; /* most instructions of a block */
    bool record; /* -accel bt,record=on: every block start goes into the ring */
    uint64_t cache_bytes;
    GMutex split;             /* serialises read-modify-writes of devices */
    GMutex lock;              /* guards what follows and every inbox */
    struct t0_cpu *exclusive; /* runs alone: t0_exclusive_begin() */
    GCond cond;               /* an inbox was emptied, or a vCPU left guest code */
    uint64_t a20_mask;        /* see struct t0_core */
    GHashTable *pages; /* page number -> mask of vCPUs (index % 64) caching code */
    GPtrArray *cpus;   /* struct t0_cpu *, borrowed */
};

/* What others ask of a vCPU. t0_vm.lock. */
struct t0_inbox {
    bool in_guest;    /* inside accel run(): may touch guest memory */
    bool drop_writes; /* forget all translations for stores */
    bool paused;      /* waits for the end of t0_vm.exclusive */
    bool flush;       /* forget all blocks and translations */
    unsigned nb;      /* ranges of guest-physical addresses to invalidate */
    struct {
        uint64_t gpa, len;
        bool check; /* nothing was written: compare the page's code from now on */
    } range[16];
};

/* --- Per vCPU -------------------------------------------------------------- */

/* What the software TLB's slow paths know of an entry. */
struct t0_tlb_side {
    uint64_t read, write; /* tags by permission alone, whatever the kind of memory */
    uint64_t gpa;         /* of the page, and T0_SIDE_* */
    const struct gmem_region *region; /* NULL: no memory there */
};

enum {
    T0_SIDE_GLOBAL = 1 << 0,
    T0_SIDE_LARGE = 1 << 1, /* part of a 2 MiB, 4 MiB or 1 GiB page */
};

/* Numbers of entries, see t0_tlb.c. */
_Static_assert(T0_ITLB_SIZE <= T0_TLB_SIZE, "a set holds either's");
struct t0_tlb_set {
    uint64_t bits[T0_TLB_SIZE / 64];
    uint64_t words[(T0_TLB_SIZE + 4095) / 4096]; /* of bits that are not 0 */
};

#define T0_LARGE_BITS 10
#define T0_NB_LARGE   (1u << T0_LARGE_BITS)

/* Filters of page numbers: log2 of their bits. */
#define T0_SMALL_FILTER    12
#define T0_BIG_FILTER      16
#define T0_FILTER_WORDS(n) ((1u << (n)) / 64)

#define T0_RING_SIZE 64u

/* Stores to pages with code lately, by page. See t0_check.c. */
struct t0_stored {
    uint64_t page, since; /* instructions retired at the first of them */
    uint32_t nb;
};
#define T0_NB_STORED   64u
#define T0_MAX_CHECKED 64u /* pages at a time */

struct t0_counters {
    uint64_t blocks_built, insns_built, cache_flushes, blocks_killed, smc_stores;
    uint64_t walks, tlb_flushes, jump_flushes, lookups, steps, exceptions, irqs;
    uint64_t fills[T0_NB_BANKS], code_fills; /* of the TLBs, for misses */
    uint64_t pages_checked, checks_failed;   /* t0_check.c */
};

struct t0_core {
    struct t0_cpu *cpu;
    struct t0_vm *tvm;
    const struct x86_cpu_model *model;
    uint64_t phys_mask; /* address bits of a page-table entry that may be set */
    uint64_t a20_mask;  /* all ones, but for bit 20 while that line is off */

    struct t1_core *t1; /* NULL: no translator */
    bool t2_look;       /* the run loop asks t2_turn() */

    /* t0_block.c */
    uint8_t *arena;
    uint32_t arena_size, arena_used;
    t0_ref *block_hash, *page_hash;
    struct t0_stored stored[T0_NB_STORED];
    uint64_t checked[T0_MAX_CHECKED]; /* pages */
    unsigned nb_checked;
    uint64_t review;               /* of these, when so many instructions are retired */
    struct t0_chain *chain_wanted; /* fill it with the next block entered */
    struct t0_block *scratch;

    /* t0_mmu.c */
    struct t0_tlb_side side[T0_NB_BANKS][T0_TLB_SIZE];
    struct t0_tlb_set filled[T0_NB_BANKS]; /* entries in use */
    struct t0_tlb_set local[T0_NB_BANKS];  /* of these, those that are not global */
    /* Regions with large pages, not global and global: see t0_tlb.c. */
    uint64_t large[2][T0_NB_LARGE + T0_NB_LARGE / 16];
    bool any_large[2];
    /* Filters: linear pages that jump caches know kernel code of, and user code; and
     * the regions that these are in. */
    uint64_t code_seen[T0_FILTER_WORDS(T0_BIG_FILTER)];
    uint64_t user_code_seen[T0_FILTER_WORDS(T0_SMALL_FILTER)];
    struct t0_tlb_set itlb_filled, itlb_local;            /* the same of c->itlb */
    uint64_t jumps_used[T0_JUMP_SIZE / 64];               /* entries of c->jumps */
    const struct gmem_region *last_region, *other_region; /* the one before */
    struct {
        uint64_t la;
        unsigned size, seg;
        bool alone; /* the other vCPUs are stopped */
        const struct gmem_region *region;
        uint64_t gpa;
    } rmw;
    struct {
        bool armed, wanted; /* MONITOR was executed; MWAIT, and the run loop waits */
        bool any_irq;       /* also for interrupts that are masked */
        uint64_t gpa;       /* of the line, and what was in it */
        uint64_t line[8];
    } monitor;

    /* t0_cpu.c */
    bool exc_pending;    /* c->exc is to be delivered */
    bool exit_wanted;    /* leave run() with exit */
    bool irq_maybe;      /* the LAPIC may have something: look when IF allows */
    bool no_trap;        /* the instruction stepped over takes no single-step trap */
    uint64_t debug_bits; /* of DR6, for the trap that T0_DEBUG_HIT announces */
    bool new_task;       /* see t0_task_switch() */
    enum vcpu_exit exit;
    uint32_t pauses; /* PAUSE instructions executed */
    struct t0_inbox inbox;
    struct t0_counters n;
    uint32_t ring_pos;
    uint64_t ring[T0_RING_SIZE];
};

/* --- t0_cpu.c -------------------------------------------------------------- */

/* Recompute mode, mode_key, seg_base and the TLB bank from c->s. */
void t0_update_mode(struct t0_cpu *c);

/* The same where only the level has changed, between 64-bit code and 64-bit code. */
void t0_update_level(struct t0_cpu *c);

/* Recompute only the bank: after EFLAGS.AC or CR4.SMAP changed. */
void t0_update_bank(struct t0_cpu *c);

/* RSM, with the block left already. False: shut down. */
bool t0_leave_smm(struct t0_cpu *c);

/* @op is done and RIP is @rip: back to the run loop. Returns NULL. */
const struct t0_op *t0_leave(struct t0_cpu *c, const struct t0_op *op, uint64_t rip);

/* Now an interrupt may be taken when one is pending: whether to leave for it. */
static inline bool t0_irq_wanted(const struct t0_cpu *c)
{
    return c->core->irq_maybe || vcpu_wants_attention(c->vcpu);
}

static inline bool t0_long_mode(const struct t0_cpu *c)
{
    return c->s.efer & X86_EFER_LMA;
}

static inline bool t0_is64(const struct t0_cpu *c)
{
    return (c->mode & T0_MODE_SIZE) == T0_MODE_64;
}

static inline unsigned t0_iopl(const struct t0_cpu *c)
{
    return (unsigned)(c->s.rflags / (X86_FL_IOPL / 3)) & 3;
}

/* Canonical in the paging that is in force: what accesses and branches need. */
static inline bool t0_canonical(const struct t0_cpu *c, uint64_t la)
{
    return (uint64_t)((int64_t)(la << c->canon_shift) >> c->canon_shift) == la;
}

/* Canonical for the processor: what bases, pointers of tables and the MSRs with
 * addresses may hold, whether 5-level paging is on or not (SDM 3 4.5.2). */
static inline bool t0_canonical_base(const struct t0_cpu *c, uint64_t la)
{
    unsigned shift = 64u - c->core->model->virt_bits;
    return (uint64_t)((int64_t)(la << shift) >> shift) == la;
}

/* Instructions from the block's start to @op, itself included. */
static inline unsigned t0_nb_done(const struct t0_cpu *c, const struct t0_op *op)
{
    return (unsigned)(op - c->block->ops) + 1;
}

/* --- t0_block.c ------------------------------------------------------------ */

bool t0_code_init(struct t0_cpu *c, GError **error);
void t0_code_done(struct t0_cpu *c);

/* The block at CS:s.rip in the current mode; NULL with c->exc set. */
struct t0_block *t0_block_get(struct t0_cpu *c);

/* The same, of one instruction and outside the cache. */
struct t0_block *t0_block_step(struct t0_cpu *c);

/* Let @chain lead to @b, when b is one that may be entered directly. */
void t0_block_chain(struct t0_cpu *c, struct t0_chain *chain, struct t0_block *b);

/* What follows in the block that is running is not to be executed: the run loop goes
 * on after the current instruction, unless that is a branch. */
void t0_block_abandon(struct t0_cpu *c);

/* Index in t0_core.block_hash of the blocks at @gpa. */
#define T0_BLOCK_HASH_BITS 16
static inline unsigned t0_block_hash(uint64_t gpa, unsigned mode)
{
    return (unsigned)(((gpa ^ (uint64_t)mode << 40) * UINT64_C(0x9e3779b97f4a7c15)) >>
                      (64 - T0_BLOCK_HASH_BITS));
}

/* Forget all blocks. Not while one is running. */
void t0_code_flush(struct t0_cpu *c);

/* Forget the blocks that overlap the range. Also while one of them is running. */
void t0_code_invalidate(struct t0_cpu *c, uint64_t gpa, uint64_t len);

/* [gpa, gpa + len), inside one page, was written by this vCPU and the page has code
 * bits: invalidate here and tell the other vCPUs. */
void t0_code_stored(struct t0_cpu *c, const struct gmem_region *r, uint64_t gpa,
                    unsigned len);

/* The same where the store left the bytes as they were. */
void t0_code_kept(struct t0_cpu *c, uint64_t gpa);

/* Whether @n bytes of guest memory are those at @own. They may change meanwhile: then
 * either answer will do. */
bool t0_same_bytes(const void *own, const void *of_guest, unsigned n);

/* Whether @b, whose bytes are compared at each entry, may be entered: they are what was
 * decoded. False: it is dead now. */
bool t0_check_entry(struct t0_cpu *c, struct t0_block *b);

/* The bytes that @b was decoded from, with T0_BLOCK_CHECKED. Unless NULL, ret_host is
 * where in the host's memory they are; [1] NULL when all are in one page. */
const uint8_t *t0_check_bytes(const struct t0_cpu *c, const struct t0_block *b,
                              const uint8_t *ret_host[2]);

/* What is executed first in @b: @fn, after the comparison if there is one. */
void t0_block_entry(struct t0_cpu *c, struct t0_block *b, t0_fn fn);

/* Look whether pages with compared code may be protected again. No block is running. */
void t0_code_review(struct t0_cpu *c);

/* Do what the inbox says. Thread: the vCPU's, no block running. */
void t0_inbox_read(struct t0_cpu *c);
void t0_guest_enter(struct t0_cpu *c);

/* Stop all other vCPUs at a block boundary, and let them go on: for a LOCKed operand
 * over a page boundary. Thread: the vCPU's, also while a block is running. */
void t0_exclusive_begin(struct t0_cpu *c);
void t0_exclusive_end(struct t0_cpu *c);
void t0_guest_leave(struct t0_cpu *c);

/* accel_ops.invalidate. Any thread. */
void t0_vm_invalidate(struct t0_vm *tvm, uint64_t gpa, uint64_t len);

/* First instruction at and after @c's RIP as text, for dumps. */
void t0_dump_code(struct t0_cpu *c, FILE *out);

static inline struct t0_chain *t0_chain_of(const struct t0_op *op)
{
    return (struct t0_chain *)(uintptr_t)(op + 1);
}

static inline struct t0_jump_entry *t0_jump_slot(struct t0_cpu *c, uint64_t lin)
{
    return &c->jumps[(lin ^ lin >> 11) & (T0_JUMP_SIZE - 1)];
}

/* --- t0_branch.c ----------------------------------------------------------- */

/* Make @end, after the last instruction of @b, lead to the next block. */
void t0_lower_end(struct t0_cpu *c, const struct t0_block *b, struct t0_op *end);

/* --- t0_mmu.c, t0_tlb.c --------------------------------------------------------------
 */

void t0_tlb_init(struct t0_cpu *c);
void t0_tlb_flush(struct t0_cpu *c, bool global_too);
void t0_tlb_flush_page(struct t0_cpu *c, uint64_t la);
/* Forget store translations of guest page @gpa, or of all with UINT64_MAX. */
void t0_tlb_drop_writes(struct t0_cpu *c, uint64_t gpa);
/* T1 is to forget its copies of entry @e, of any bank. */
void t0_tlb_uncopy(struct t0_cpu *c, struct t0_tlb_entry *e);
/* Drop the jump caches. */
void t0_jumps_flush(struct t0_cpu *c);
/* Entry @j was filled, for code at linear address @lin. */
void t0_jumps_note(struct t0_cpu *c, const struct t0_jump_entry *j, uint64_t lin);
/* T1's has one for code at @lin. */
void t0_jumps_page(struct t0_cpu *c, uint64_t lin);
/* Entry @i of @bank was filled from a page of 1 << @shift bytes at @la. */
void t0_tlb_note(struct t0_cpu *c, unsigned bank, unsigned i, uint64_t la,
                 unsigned shift, bool global);
/* Entry @e of c->itlb was filled likewise. */
void t0_itlb_note(struct t0_cpu *c, const struct t0_itlb_entry *e, uint64_t la,
                  unsigned shift, bool global);

/*
 * Fill the entry of the current bank for a load or store at @la, as a translation asks
 * for: in long mode, for RAM, and where nothing has to be told anybody. 0: done. Else
 * nothing was changed, and T0 finds out what the access does. Uses no vector registers,
 * nor does anything that it calls.
 */
uint64_t t0_tlb_quick(struct t0_cpu *c, uint64_t la, uint32_t write);

/* Whether the page-directory pointers of legacy PAE paging at @cr3 may be loaded. */
bool t0_pdptes_ok(struct t0_cpu *c, uint64_t cr3);

/* Translate a code page; NULL with c->exc set. */
struct t0_itlb_entry *t0_itlb_fill(struct t0_cpu *c, uint64_t la);

static inline uint64_t t0_itlb_tag(const struct t0_cpu *c, uint64_t la)
{
    _Static_assert(T0_MODE_CPL3 == 16, "shifted to bit 0");
    return (la & ~UINT64_C(0xfff)) | ((c->mode / T0_MODE_CPL3) & 1);
}

static inline struct t0_itlb_entry *t0_itlb_slot(struct t0_cpu *c, uint64_t la)
{
    return &c->itlb[(la >> 12) & (T0_ITLB_SIZE - 1)];
}

static inline struct t0_itlb_entry *t0_itlb_get(struct t0_cpu *c, uint64_t la)
{
    struct t0_itlb_entry *e = t0_itlb_slot(c, la);
    return likely(e->tag == t0_itlb_tag(c, la)) ? e : t0_itlb_fill(c, la);
}

/* Watch the line of memory at @la, which is readable. */
uint64_t t0_monitor(struct t0_cpu *c, uint64_t la, unsigned seg);
bool t0_monitor_hit(const struct t0_cpu *c);

/* Implicit supervisor accesses (descriptor tables, TSS, gates): as t0_read_bytes
 * and t0_write_bytes with CPL 0's rights whatever CPL is. */
uint64_t t0_sys_read(struct t0_cpu *c, uint64_t la, void *buf, unsigned size);
uint64_t t0_sys_write(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size);

/* As t0_host_read(), with CPL 0's rights. */
static inline const void *t0_sys_host(const struct t0_cpu *c, uint64_t la,
                                      unsigned size)
{
    const struct t0_tlb_entry *e = &c->t1.kernel_bank[(la >> 12) & (T0_TLB_SIZE - 1)];
    return likely(t0_tlb_hit(la, size, e->read)) ? (void *)(uintptr_t)(la + e->addend)
                                                 : NULL;
}

/* t0_sys_read() of @n little-endian words of 8 bytes, 1 or 2. */
static inline uint64_t t0_sys_words(struct t0_cpu *c, uint64_t la, uint64_t *ret,
                                    unsigned n)
{
    const uint8_t *h = t0_sys_host(c, la, 8 * n);
    if (unlikely(!h)) {
        uint8_t b[16];
        uint64_t bad = t0_sys_read(c, la, b, 8 * n);
        for (unsigned i = 0; i < n && !bad; i++) {
            ret[i] = le64_get(b + 8 * i);
        }
        return bad;
    }
    for (unsigned i = 0; i < n; i++) {
        gmem_copy(&ret[i], h + 8 * i, 8);
    }
    return 0;
}

/* The bank for accesses with @cpl's rights; t0_use_bank() returns the previous. */
unsigned t0_bank_for(const struct t0_cpu *c, unsigned cpl);
struct t0_tlb_entry *t0_use_bank(struct t0_cpu *c, unsigned bank);

/* Offset @off of segment @seg -> linear address, with its checks. fault: c->exc is
 * set, #SS or #GP with error code 0. */
struct t0_val t0_seg_linear(struct t0_cpu *c, unsigned seg, uint64_t off, unsigned size,
                            bool write);

/* --- t0_exc.c -------------------------------------------------------------- */

enum t0_event {
    T0_EVENT_FAULT,    /* exception by an instruction: RIP is its own */
    T0_EVENT_TRAP,     /* #DB single-step */
    T0_EVENT_SOFT,     /* INT n, INT3, INTO: gate DPL counts, RIP is the next */
    T0_EVENT_EXTERNAL, /* interrupt, NMI */
};

/*
 * Deliver through the IDT from the state in c->s (rip, gpr). False: a fault happened
 * on the way, c->exc says which; nothing changed.
 */
bool t0_deliver(struct t0_cpu *c, enum t0_event kind, uint8_t vector, bool has_error,
                uint32_t error);

bool t0_lower_exc(const struct x86_insn *, const struct t0_lower *, struct t0_op *);

/* Deliver c->exc, with the double-fault rules. False: triple fault. */
bool t0_deliver_exc(struct t0_cpu *c);

/* Stack of inner level @cpl from the TSS; its segment, with #TS; a frame below it
 * with #SS(@ss_error). False with c->exc set. @ext goes into error codes. A frame is
 * pushed in words of @word bytes, and may wrap around the segment's end between them.
 */
bool t0_inner_stack(struct t0_cpu *c, unsigned cpl, uint32_t ext, uint16_t *ret_ss,
                    uint64_t *ret_sp);
bool t0_inner_ss(struct t0_cpu *c, uint16_t sel, unsigned cpl, uint32_t ext,
                 struct x86_segment *ret);
bool t0_push_frame(struct t0_cpu *c, const struct x86_segment *ss, uint64_t *sp,
                   unsigned cpl, uint32_t ss_error, const void *frame, unsigned n,
                   unsigned word);

/* INT n, vector aux, through the IDT; a handler. */
const struct t0_op *t0_int_op(struct t0_cpu *c, const struct t0_op *op);

/* --- t0_ret.c -------------------------------------------------------------- */

/* RETF and IRET in protected and long mode: pop words of @size, release @release more
 * bytes. False with c->exc set. On success all of c->s is that of the new place. */
bool t0_far_return(struct t0_cpu *c, unsigned size, unsigned release, bool iret);

/* Bits of RFLAGS that POPF and IRET of @size may change at the current level. */
uint64_t t0_flags_mask(const struct t0_cpu *c, unsigned size);
/* Set these as in @v, and clear RF. */
void t0_set_flags_masked(struct t0_cpu *c, uint64_t v, unsigned size);

/* --- t0_seg.c -------------------------------------------------------------- */

struct t0_desc {
    uint64_t raw;  /* the 8 bytes */
    uint64_t addr; /* linear */
    uint16_t sel;
};

enum { T0_DESC_OK, T0_DESC_LIMIT, T0_DESC_FAULT };

/* Read the descriptor of @sel. LIMIT: outside its table (the caller raises what its
 * instruction says); FAULT: c->exc is set (#PF). */
int t0_desc_get(struct t0_cpu *c, uint16_t sel, struct t0_desc *ret);

/* Bits 32-63 of the base or offset in a system descriptor of long mode, which is 16
 * bytes long. Non-zero with c->exc set: #GP, #PF. */
uint64_t t0_desc_upper(struct t0_cpu *c, const struct t0_desc *d, uint64_t *ret);

/* The hidden part for @sel as @raw says. */
static inline struct x86_segment t0_desc_segment(uint16_t sel, uint64_t raw)
{
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
    uint16_t attr = (uint16_t)(raw >> 40 & 0xf0ff);
    if (attr & X86_SEG_G) {
        limit = limit << 12 | 0xfff;
    }
    return (struct x86_segment){
        .sel = sel,
        .attr = attr,
        .limit = limit,
        .base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000),
    };
}

/* Set the descriptor's accessed bit. Non-zero with c->exc set on a fault. */
uint64_t t0_desc_accessed(struct t0_cpu *c, const struct t0_desc *d);

/* Load a data or stack segment register (MOV, POP, LDS, IRET): all checks. Non-zero
 * with c->exc set. The caller calls t0_update_mode() when all is done. */
uint64_t t0_load_seg(struct t0_cpu *c, unsigned seg, uint16_t sel);

/* After a return to an outer level: data segments that it may not use become null.
 * Whether there was one. */
bool t0_drop_outer_segs(struct t0_cpu *c);

/* All of SYSCALL's and SYSRET's work in long mode, and of the latter outside, but for
 * RCX, RIP and what follows from the level: t0_update_level(), t0_update_mode(). */
void t0_syscall_state(struct t0_cpu *c);
void t0_sysret_state(struct t0_cpu *c, bool to64);

/* Flat code / stack segments of SYSCALL and friends. */
struct x86_segment t0_flat_code(uint16_t sel, unsigned dpl, bool long_mode);
struct x86_segment t0_flat_stack(uint16_t sel, unsigned dpl);

/* --- t0_debug.c ------------------------------------------------------------ */

/* c->debug */
enum {
    T0_DEBUG_CODE = 1 << 0,   /* instruction breakpoints are set, */
    T0_DEBUG_DATA = 1 << 1,   /* data breakpoints, */
    T0_DEBUG_IO = 1 << 2,     /* breakpoints on ports */
    T0_DEBUG_HIT = 1 << 3,    /* #DB is due after the current instruction */
    T0_DEBUG_SHADOW = 1 << 4, /* but MOV SS has just been executed */
    T0_DEBUG_FLUSH = 1 << 5,  /* what is watched has changed: forget all */
};

#define T0_DR6_BD (UINT64_C(1) << 13)
#define T0_DR6_BS (UINT64_C(1) << 14)

/* DR0-DR3, DR7 or CR4.DE changed. The current block has to end. */
void t0_debug_update(struct t0_cpu *c);

/* Raise #DB with @bits in DR6 after the current instruction, whose handler has to leave
 * the block or to be a branch. */
void t0_debug_trap(struct t0_cpu *c, uint64_t bits);

/* Whether data in @page (its linear address) is watched. */
bool t0_debug_watches(const struct t0_cpu *c, uint64_t page);

/* An access was done. Only called with T0_DEBUG_DATA, T0_DEBUG_IO. */
void t0_debug_access(struct t0_cpu *c, uint64_t la, unsigned size, bool write);
void t0_debug_io(struct t0_cpu *c, uint16_t port, unsigned size);

/* #DB is being delivered: DR6 and what the processor switches off. */
void t0_debug_enter(struct t0_cpu *c, uint64_t bits);

/* For the run loop, with c->debug: no block is running. Deliver what is due. */
void t0_debug_settle(struct t0_cpu *c);

/* The same, before executing: whether to execute one instruction alone. */
bool t0_debug_steps(struct t0_cpu *c);

/* Around one instruction alone. before: true when #DB was delivered in its place.
 * after: @tf as it was before; @rip the instruction's, @next that of the following. */
bool t0_debug_before(struct t0_cpu *c);
void t0_debug_after(struct t0_cpu *c, bool tf, uint64_t rip, uint64_t next);

/* SS was loaded: traps wait for one instruction. */
static inline void t0_debug_shadow(struct t0_cpu *c)
{
    if (unlikely((c->s.rflags & X86_FL_TF) ||
                 (c->debug & (T0_DEBUG_CODE | T0_DEBUG_HIT)))) {
        c->debug |= T0_DEBUG_SHADOW;
    }
}

/* --- t0_vm86.c ------------------------------------------------------------- */

bool t0_lower_vm86(const struct x86_insn *, const struct t0_lower *, struct t0_op *);

/* Segment registers and level of virtual-8086 mode; EFLAGS.VM is the caller's, and
 * t0_update_mode(). */
void t0_vm86_segs(struct t0_cpu *c, const uint16_t sel[X86_NB_SEG]);

/* Whether VIF and VIP are both set where that is #GP(0) at the next instruction. */
bool t0_virtual_irq_due(const struct t0_cpu *c);

/* CLI and STI (@set) that IOPL forbids: the virtual interrupt flag with CR4.PVI, else
 * #GP(0). */
const struct t0_op *t0_pvi(struct t0_cpu *c, const struct t0_op *op, bool set);

/* --- t0_sys.c -------------------------------------------------------------- */

/* What MOV CR0/CR3/CR4 and WRMSR EFER do; non-zero with c->exc set (#GP). */
uint64_t t0_write_cr0(struct t0_cpu *c, uint64_t v);
uint64_t t0_write_cr3(struct t0_cpu *c, uint64_t v);
uint64_t t0_write_cr4(struct t0_cpu *c, uint64_t v);

/* --- t0_msr.c -------------------------------------------------------------- */

/* False: #GP(0). */
bool t0_msr_read(struct t0_cpu *c, uint32_t msr, uint64_t *ret);
bool t0_msr_write(struct t0_cpu *c, uint32_t msr, uint64_t v);

uint64_t t0_tsc(struct t0_cpu *c);
/* What the guest's counter is ahead of the host's is another number, or may be. */
void t0_tsc_changed(struct t0_cpu *c);
struct x86_cpuid t0_cpuid(struct t0_cpu *c, uint32_t leaf, uint32_t subleaf);

#endif
