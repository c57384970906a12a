#include "vmm/accel/bt/t0_priv.h"

#include <inttypes.h>
#include <sys/mman.h>

#include "lib/base/base.h"
#include "vmm/accel/bt/t0_log.h"
#include "vmm/accel/bt/t1.h"

/*
 * Blocks: decode, lower, cache, find, chain and invalidate.
 *
 * A block is a run of instructions inside one page, up to a branch or
 * T0_BLOCK_MAX_INSNS, known by the guest-physical address of its first byte and the
 * mode it was decoded for. RIP is no part of it (ops hold offsets from rip_base), so
 * a page mapped twice is decoded once. In memory:
 *
 *     struct t0_block | ops | end op, where the last instruction is no branch | chains
 *
 * all from one arena, which only grows: an invalidated block stays where it is until
 * the arena is full and everything is forgotten. So pointers into dead blocks are
 * harmless, and a dead block's ops all lead back to the run loop.
 *
 * An instruction that straddles two pages is a block of its own. Its second page
 * depends on the mapping, so it is looked up each time and never entered directly.
 *
 * Finding, from fast to slow: a chain (t0_branch.c); the jump cache by linear address;
 * the hash by guest-physical address behind the instruction TLB; decoding.
 *
 * Self-modifying code on one CPU. Before bytes are decoded, the code bits of their
 * 512-byte pieces are set in the region's bitmap, and store translations of the page
 * are dropped from the TLB (t0_mmu.c does not make fast ones while the byte is set).
 * A store that then takes the slow path and hits a piece with its bit set kills the
 * overlapping blocks; when the page has none left its code byte is cleared.
 *
 * Several CPUs. Which vCPUs cache code of a page is in t0_vm.pages. The code byte is
 * cleared only under the lock by who finds no one else there. A store by CPU A into
 * code of CPU B: A stores, then reads the code byte; B sets the bit, then reads the
 * bytes; both with a full fence between, so that B decodes the new bytes or A sees
 * the bit and queues an invalidation in B's inbox. That holds for slow stores; A may
 * still hold a fast store translation from before the page was code. So when B makes
 * a page a code page, B asks every CPU that is in guest code to drop its store
 * translations, and waits for them before it decodes (drop_foreign_writes): after
 * that all stores to the page are slow ones. While waiting B answers its own inbox,
 * so that two CPUs waiting for each other both go on. A CPU outside guest code finds
 * the request when it enters.
 *
 * Writes by devices come through accel_ops.invalidate into the inbox, which is read
 * before the next interrupt is delivered.
 */

#define HASH_BITS      16
#define PAGE_HASH_BITS 12

struct code_page {
    uint64_t gpa;
    t0_ref next;     /* same hash bucket */
    t0_ref blocks;   /* list over page_next[]; the low bit of a ref says which link */
    bool registered; /* in t0_vm.pages, and the code byte is set */
};

/* Refs to blocks in page lists: 8-byte aligned offsets, bit 0 = index of page_next. */

static void *at(const struct t0_core *core, t0_ref ref)
{
    return core->arena + (ref & ~7u);
}

static t0_ref ref_of(const struct t0_core *core, const void *p)
{
    return (t0_ref)((const uint8_t *)p - core->arena);
}

static unsigned hash_block(uint64_t gpa, unsigned mode)
{
    return (unsigned)(((gpa ^ (uint64_t)mode << 40) * UINT64_C(0x9e3779b97f4a7c15)) >>
                      (64 - HASH_BITS));
}

static unsigned hash_page(uint64_t gpa)
{
    return (unsigned)(((gpa >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >>
                      (64 - PAGE_HASH_BITS));
}

static void *arena_alloc(struct t0_core *core, size_t n)
{
    void *p = core->arena + core->arena_used;
    core->arena_used += (uint32_t)ALIGN_UP(n, 8);
    return p;
}

#define BLOCK_ROOM                                                               \
    (sizeof(struct t0_block) + (T0_BLOCK_MAX_INSNS + 1) * sizeof(struct t0_op) + \
     2 * sizeof(struct t0_chain) + 2 * sizeof(struct code_page) + 64)

static struct code_page *find_page(const struct t0_core *core, uint64_t gpa)
{
    for (t0_ref r = core->page_hash[hash_page(gpa)]; r;) {
        struct code_page *p = at(core, r);
        if (p->gpa == gpa) {
            return p;
        }
        r = p->next;
    }
    return NULL;
}

/* --- Code bits, over all vCPUs --------------------------------------------- */

static uint64_t cpu_bit(const struct t0_cpu *c)
{
    return UINT64_C(1) << (c->vcpu->index % 64);
}

static gpointer page_key(uint64_t gpa)
{
    return GSIZE_TO_POINTER(gpa >> GMEM_PAGE_SHIFT);
}

static _Atomic uint8_t *code_byte(const struct gmem_region *r, uint64_t gpa)
{
    return &r->code[(gpa - r->gpa) >> GMEM_PAGE_SHIFT];
}

static void answer_inbox_locked(struct t0_cpu *c)
{
    struct t0_inbox *in = &c->core->inbox;
    if (in->drop_writes) {
        t0_tlb_drop_writes(c, UINT64_MAX);
        in->drop_writes = false;
        g_cond_broadcast(&c->core->tvm->cond);
    }
}

/* Wait until no other vCPU runs alone. */
static void let_exclusive_locked(struct t0_cpu *c)
{
    struct t0_vm *tvm = c->core->tvm;
    while (unlikely(tvm->exclusive && tvm->exclusive != c)) {
        c->core->inbox.paused = true;
        answer_inbox_locked(c);
        g_cond_broadcast(&tvm->cond);
        g_cond_wait(&tvm->cond, &tvm->lock);
    }
    c->core->inbox.paused = false;
}

void t0_exclusive_begin(struct t0_cpu *c)
{
    struct t0_vm *tvm = c->core->tvm;
    if (tvm->cpus->len == 1) {
        return;
    }
    g_mutex_lock(&tvm->lock);
    let_exclusive_locked(c);
    tvm->exclusive = c;
    for (guint i = 0; i < tvm->cpus->len; i++) {
        struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
        if (o != c && o->core->inbox.in_guest) {
            vcpu_kick(o->vcpu, T0_ATTN);
        }
    }
    for (;;) {
        bool busy = false;
        answer_inbox_locked(c);
        for (guint i = 0; i < tvm->cpus->len; i++) {
            struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
            busy |= o != c && o->core->inbox.in_guest && !o->core->inbox.paused;
        }
        if (!busy) {
            break;
        }
        g_cond_wait(&tvm->cond, &tvm->lock);
    }
    g_mutex_unlock(&tvm->lock);
}

void t0_exclusive_end(struct t0_cpu *c)
{
    struct t0_vm *tvm = c->core->tvm;
    if (tvm->cpus->len == 1) {
        return;
    }
    g_mutex_lock(&tvm->lock);
    tvm->exclusive = NULL;
    g_cond_broadcast(&tvm->cond);
    g_mutex_unlock(&tvm->lock);
}

/* Ask all others in guest code to drop their store translations and wait. */
static void drop_foreign_writes_locked(struct t0_cpu *c)
{
    struct t0_vm *tvm = c->core->tvm;
    for (guint i = 0; i < tvm->cpus->len; i++) {
        struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
        if (o != c) {
            o->core->inbox.drop_writes = true;
            if (o->core->inbox.in_guest) {
                vcpu_kick(o->vcpu, T0_ATTN);
            }
        }
    }
    for (;;) {
        bool busy = false;
        answer_inbox_locked(c);
        for (guint i = 0; i < tvm->cpus->len; i++) {
            struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
            busy |= o != c && o->core->inbox.in_guest && o->core->inbox.drop_writes;
        }
        if (!busy) {
            return;
        }
        g_cond_wait(&tvm->cond, &tvm->lock);
    }
}

/* This vCPU is going to cache code of page @p and has none of it yet. */
static void register_page(struct t0_cpu *c, const struct gmem_region *r,
                          struct code_page *p, uint8_t pieces)
{
    struct t0_vm *tvm = c->core->tvm;
    uint64_t gpa = p->gpa;
    p->registered = true;
    g_mutex_lock(&tvm->lock);
    uint8_t old = atomic_fetch_or(code_byte(r, gpa), pieces);
    if (tvm->cpus->len > 1) {
        guintptr mask = (guintptr)g_hash_table_lookup(tvm->pages, page_key(gpa));
        g_hash_table_insert(tvm->pages, page_key(gpa),
                            GSIZE_TO_POINTER(mask | cpu_bit(c)));
        if (old == 0) {
            drop_foreign_writes_locked(c);
        }
    }
    g_mutex_unlock(&tvm->lock);
    t0_tlb_drop_writes(c, gpa);
}

static void unregister_page_locked(struct t0_cpu *c, struct code_page *p)
{
    struct t0_vm *tvm = c->core->tvm;
    uint64_t gpa = p->gpa;
    p->registered = false;
    const struct gmem_region *r = gmem_find(c->vcpu->vm->gmem, gpa);
    guintptr left = 0;
    if (tvm->cpus->len > 1) {
        left = (guintptr)g_hash_table_lookup(tvm->pages, page_key(gpa)) & ~cpu_bit(c);
        if (left) {
            g_hash_table_insert(tvm->pages, page_key(gpa), GSIZE_TO_POINTER(left));
        } else {
            g_hash_table_remove(tvm->pages, page_key(gpa));
        }
    }
    if (!left && r) {
        atomic_store(code_byte(r, gpa), 0);
    }
}

/* Code bits for decoding up to 15 bytes at @gpa of page @p, before reading them. */
static void mark_pieces(struct t0_cpu *c, const struct gmem_region *r,
                        const struct code_page *p, uint64_t gpa)
{
    unsigned first = (gpa & 0xfff) >> GMEM_CODE_SHIFT;
    unsigned last =
        (unsigned)(MIN((gpa & 0xfff) + X86_INSN_MAX_LEN - 1, 0xfff) >> GMEM_CODE_SHIFT);
    uint8_t bits = (uint8_t)(1u << first | 1u << last);
    _Atomic uint8_t *byte = code_byte(r, p->gpa);
    if ((atomic_load_explicit(byte, memory_order_relaxed) & bits) != bits) {
        atomic_fetch_or(byte, bits); /* a full fence: pairs with t0_code_stored() */
    }
}

/* The page of @gpa, made when new. */
static struct code_page *get_page(struct t0_cpu *c, const struct gmem_region *r,
                                  uint64_t gpa)
{
    struct t0_core *core = c->core;
    uint64_t page = gpa & ~UINT64_C(0xfff);
    struct code_page *p = find_page(core, page);
    if (!p) {
        p = arena_alloc(core, sizeof(*p));
        t0_ref *bucket = &core->page_hash[hash_page(page)];
        *p = (struct code_page){.gpa = page, .next = *bucket};
        *bucket = ref_of(core, p);
    }
    if (!p->registered) {
        register_page(c, r, p, (uint8_t)(1u << ((gpa & 0xfff) >> GMEM_CODE_SHIFT)));
    }
    return p;
}

/* --- Invalidation ---------------------------------------------------------- */

/* What the ops of a dead block do: this instruction has not begun. */
static const struct t0_op *op_dead(struct t0_cpu *c, const struct t0_op *op)
{
    c->insns += t0_nb_done(c, op) - 1;
    c->s.rip = t0_op_rip(c, op);
    return NULL;
}

static void unlink_hash(struct t0_core *core, struct t0_block *b)
{
    t0_ref *link = &core->block_hash[hash_block(b->gpa, b->mode)], me = ref_of(core, b);
    while (*link && *link != me) {
        link = &((struct t0_block *)at(core, *link))->next;
    }
    if (*link) {
        *link = b->next;
    }
}

static void unlink_page(struct t0_core *core, struct t0_block *b, unsigned which,
                        uint64_t page)
{
    struct code_page *p = find_page(core, page);
    t0_ref me = ref_of(core, b) | which;
    t0_ref *link = p ? &p->blocks : NULL;
    while (link && *link && *link != me) {
        link = &((struct t0_block *)at(core, *link))->page_next[*link & 1];
    }
    if (link && *link) {
        *link = b->page_next[which];
    }
}

static void kill_block(struct t0_cpu *c, struct t0_block *b)
{
    struct t0_core *core = c->core;
    core->n.blocks_killed++;
    unlink_hash(core, b);
    unlink_page(core, b, 0, b->gpa & ~UINT64_C(0xfff));
    if (b->flags & T0_BLOCK_STRADDLES) {
        unlink_page(core, b, 1, b->gpa2);
    }
    /* The jump cache may still lead here: t0_block_get() looks at the flag. */
    for (t0_ref r = b->incoming; r;) {
        struct t0_chain *chain = at(core, r);
        if (chain->to == b) {
            chain->to = NULL;
        }
        r = chain->next_in;
        chain->next_in = 0;
    }
    b->incoming = 0;
    b->flags |= T0_BLOCK_DEAD;
    unsigned nb = b->nb_insns + ((b->flags & T0_BLOCK_HAS_END) != 0);
    for (unsigned i = 0; i < nb; i++) {
        b->ops[i].fn = op_dead;
    }
    t1_block_kill(c, b);
}

void t0_block_abandon(struct t0_cpu *c)
{
    struct t0_block *b = c->block;
    bool in_arena = (size_t)((uint8_t *)b - c->core->arena) < c->core->arena_used;
    if (b && in_arena && !(b->flags & (T0_BLOCK_SCRATCH | T0_BLOCK_DEAD))) {
        kill_block(c, b);
    }
}

static bool overlaps(const struct t0_block *b, unsigned which, uint64_t gpa,
                     uint64_t len)
{
    uint64_t room = 0x1000 - (b->gpa & 0xfff);
    uint64_t start = which ? b->gpa2 : b->gpa;
    uint64_t n = which                             ? b->len - room
                 : (b->flags & T0_BLOCK_STRADDLES) ? room
                                                   : b->len;
    return start < gpa + len && gpa < start + n;
}

/* Kill the blocks of one page that overlap; forget the page when none is left. */
static void invalidate_page(struct t0_cpu *c, struct code_page *p, uint64_t gpa,
                            uint64_t len)
{
    for (t0_ref r = p->blocks; r;) {
        struct t0_block *b = at(c->core, r);
        unsigned which = r & 1;
        r = b->page_next[which];
        if (overlaps(b, which, gpa, len)) {
            kill_block(c, b);
        }
    }
    if (!p->blocks && p->registered) {
        g_mutex_lock(&c->core->tvm->lock);
        unregister_page_locked(c, p);
        g_mutex_unlock(&c->core->tvm->lock);
    }
}

void t0_code_invalidate(struct t0_cpu *c, uint64_t gpa, uint64_t len)
{
    struct t0_core *core = c->core;
    uint64_t end = gpa + len;
    if (len / GMEM_PAGE_SIZE <= (1u << PAGE_HASH_BITS)) {
        while (gpa < end) {
            uint64_t n = MIN(GMEM_PAGE_SIZE - (gpa & 0xfff), end - gpa);
            struct code_page *p = find_page(core, gpa & ~UINT64_C(0xfff));
            if (p) {
                invalidate_page(c, p, gpa, n);
            }
            gpa += n;
        }
        return;
    }
    for (unsigned i = 0; i < (1u << PAGE_HASH_BITS); i++) {
        for (t0_ref r = core->page_hash[i]; r;) {
            struct code_page *p = at(core, r);
            r = p->next;
            invalidate_page(c, p, gpa, len);
        }
    }
}

/* Put a range into the inboxes of those in @mask. */
static void post_range_locked(struct t0_vm *tvm, uint64_t mask, const struct t0_cpu *me,
                              uint64_t gpa, uint64_t len)
{
    for (guint i = 0; i < tvm->cpus->len; i++) {
        struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
        struct t0_inbox *in = &o->core->inbox;
        if (o == me || !(mask & cpu_bit(o))) {
            continue;
        }
        if (in->nb < ARRAY_LEN(in->range)) {
            in->range[in->nb].gpa = gpa;
            in->range[in->nb++].len = len;
        } else {
            in->flush = true;
        }
        if (in->in_guest) {
            vcpu_kick(o->vcpu, T0_ATTN);
        }
    }
}

void t0_code_stored(struct t0_cpu *c, const struct gmem_region *r, uint64_t gpa,
                    unsigned len)
{
    struct t0_vm *tvm = c->core->tvm;
    atomic_thread_fence(memory_order_seq_cst); /* pairs with mark_pieces() */
    uint8_t bits = atomic_load_explicit(code_byte(r, gpa), memory_order_relaxed);
    if (likely(!bits)) {
        return;
    }
    unsigned first = (gpa & 0xfff) >> GMEM_CODE_SHIFT;
    unsigned last = (unsigned)(((gpa & 0xfff) + len - 1) >> GMEM_CODE_SHIFT);
    if (!(bits >> first & ((2u << (last - first)) - 1))) {
        return;
    }
    c->core->n.smc_stores++;
    t0_code_invalidate(c, gpa, len);
    if (tvm->cpus->len > 1) {
        g_mutex_lock(&tvm->lock);
        uint64_t mask = (guintptr)g_hash_table_lookup(tvm->pages, page_key(gpa));
        post_range_locked(tvm, mask, c, gpa, len);
        g_mutex_unlock(&tvm->lock);
    }
}

void t0_vm_invalidate(struct t0_vm *tvm, uint64_t gpa, uint64_t len)
{
    g_mutex_lock(&tvm->lock);
    post_range_locked(tvm, UINT64_MAX, NULL, gpa, len);
    g_mutex_unlock(&tvm->lock);
}

void t0_code_flush(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    core->n.cache_flushes++;
    g_mutex_lock(&core->tvm->lock);
    for (unsigned i = 0; i < (1u << PAGE_HASH_BITS); i++) {
        for (t0_ref r = core->page_hash[i]; r;) {
            struct code_page *p = at(core, r);
            if (p->registered) {
                unregister_page_locked(c, p);
            }
            r = p->next;
        }
    }
    g_mutex_unlock(&core->tvm->lock);
    memset(core->page_hash, 0, sizeof(t0_ref) << PAGE_HASH_BITS);
    memset(core->block_hash, 0, sizeof(t0_ref) << HASH_BITS);
    core->arena_used = 8; /* ref 0 is none */
    core->chain_wanted = NULL;
    c->block = NULL;
    t1_flush(c);
    t0_jumps_flush(c);
}

void t0_inbox_read(struct t0_cpu *c)
{
    struct t0_vm *tvm = c->core->tvm;
    struct t0_inbox *in = &c->core->inbox, copy;
    g_mutex_lock(&tvm->lock);
    vcpu_take_attention(c->vcpu, T0_ATTN);
    answer_inbox_locked(c);
    let_exclusive_locked(c);
    c->core->a20_mask = tvm->a20_mask; /* a change comes with a flush */
    copy = *in;
    in->flush = false;
    in->nb = 0;
    g_mutex_unlock(&tvm->lock);
    if (copy.flush) {
        t0_code_flush(c);
        t0_tlb_flush(c, true);
        return;
    }
    for (unsigned i = 0; i < copy.nb; i++) {
        t0_code_invalidate(c, copy.range[i].gpa, copy.range[i].len);
    }
}

void t0_guest_enter(struct t0_cpu *c)
{
    g_mutex_lock(&c->core->tvm->lock);
    c->core->inbox.in_guest = true;
    g_mutex_unlock(&c->core->tvm->lock);
    t0_inbox_read(c);
}

void t0_guest_leave(struct t0_cpu *c)
{
    g_mutex_lock(&c->core->tvm->lock);
    c->core->inbox.in_guest = false;
    vcpu_take_attention(c->vcpu, T0_ATTN);
    g_cond_broadcast(&c->core->tvm->cond);
    g_mutex_unlock(&c->core->tvm->lock);
}

/* --- Lowering -------------------------------------------------------------- */

/* Who may take an instruction, asked in this order. */
static const t0_lower_fn lowerings[] = {
    t0_lower_branch, t0_lower_vm86, t0_lower_exc,   t0_lower_seg,    t0_lower_sys,
    t0_lower_mov,    t0_lower_alu,  t0_lower_shift, t0_lower_muldiv, t0_lower_bit,
    t0_lower_string, t0_lower_fpu,  t0_lower_simd,  t0_lower_xsave,
};

static const struct t0_op *op_raise(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise(c, op, op->aux);
}

static const struct t0_op *op_raise_gp0(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise_error(c, op, X86_EXC_GP, 0);
}

static void lower_ea(const struct x86_insn *insn, unsigned mode, struct t0_op *op)
{
    bool m64 = (mode & T0_MODE_SIZE) == T0_MODE_64;
    bool fs_gs = insn->seg == X86_FS || insn->seg == X86_GS;
    op->seg = insn->seg < X86_NB_SEG ? insn->seg : X86_DS;
    op->disp = insn->disp;
    op->base = insn->base < X86_NB_GPR ? insn->base : T0_REG_ZERO;
    op->index = insn->index < X86_NB_GPR ? insn->index : T0_REG_ZERO;
    op->shift = insn->scale > 1 ? (uint8_t)__builtin_ctz(insn->scale) : 0;
    if (insn->base == X86_REG_RIP) {
        op->base = T0_REG_RIP;
        op->disp += op->next;
    }
    if (insn->addrsize == 8) {
        op->ea = fs_gs ? T0_EA_SEG64 : T0_EA_FLAT64;
    } else if (insn->addrsize == 4) {
        /* Code is flat, but nobody may write to it, and not always read it. */
        bool flat = !fs_gs && (m64 || ((mode & T0_MODE_FLAT) && op->seg != X86_CS));
        op->ea = !flat                  ? T0_EA_GENERAL32
                 : (mode & T0_MODE_LMA) ? T0_EA_FLAT32
                                        : T0_EA_LEGACY32;
    } else {
        op->ea = T0_EA_GENERAL;
    }
}

static void raise_ud(struct t0_op *op)
{
    op->fn = op_raise;
    op->aux = X86_EXC_UD;
}

/*
 * Instructions that are an older one with a prefix which a processor without the
 * feature ignores (APM 3 LZCNT, TZCNT, WBNOINVD). 0 when @op is none of them.
 */
static unsigned without_feature(unsigned op)
{
    switch (op) {
    case X86_OP_TZCNT: return X86_OP_BSF;
    case X86_OP_LZCNT: return X86_OP_BSR;
    case X86_OP_WBNOINVD: return X86_OP_WBINVD;
    case X86_OP_PREFETCH: /* every long-mode processor has these two */
    case X86_OP_PREFETCHW: return op;
    default: return 0;
    }
}

static void lower(struct t0_cpu *c, const struct x86_insn *insn,
                  const struct t0_lower *ctx, struct t0_op *op)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    bool lacks = d->feat && !x86_cpu_has(c->core->model, d->feat);
    struct x86_insn older = *insn;
    if (unlikely(lacks) && without_feature(insn->op)) {
        older.op = (uint16_t)without_feature(insn->op);
        insn = &older;
        lacks = false;
    }
    op->size = insn->opsize;
    op->imm = insn->imm;
    lower_ea(insn, ctx->mode, op);
    bool hypercall = insn->op == X86_OP_VMCALL || insn->op == X86_OP_VMMCALL;
    if ((lacks && !hypercall) ||
        ((d->props & X86_D_PROT) && !(ctx->mode & T0_MODE_PE))) {
        raise_ud(op);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(lowerings); i++) {
        if (lowerings[i](insn, ctx, op)) {
            return;
        }
    }
    raise_ud(op);
}

/* --- Decoding -------------------------------------------------------------- */

/* Instructions that a table row calls ends of blocks and whose handlers leave by
 * themselves when they have to. */
static bool ends_block(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_CLI:
    case X86_OP_STI:
    case X86_OP_STAC:
    case X86_OP_CLAC:
    case X86_OP_IN:
    case X86_OP_OUT:
    case X86_OP_RDMSR:
    case X86_OP_RDTSC:
    case X86_OP_RDTSCP:
    case X86_OP_CPUID:
    case X86_OP_POPF:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE:
    case X86_OP_SWAPGS: return false;
    default: return x86_insn_desc(insn)->props & X86_D_END;
    }
}

/* Whether an exception frame could show the flags as they are before @insn. */
static bool may_fault(const struct x86_insn *insn)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    if (d->cls != X86_CLASS_INT ||
        (d->props & (X86_D_STACK | X86_D_IMPL_MEM | X86_D_END))) {
        return true;
    }
    switch (insn->op) {
    case X86_OP_DIV:
    case X86_OP_IDIV:
    case X86_OP_AAM:
    case X86_OP_CLFLUSH: /* an address without data, but it must be mapped */
    case X86_OP_CLFLUSHOPT:
    case X86_OP_CLWB: return true;
    default: break;
    }
    const struct x86_opnd *m = x86_insn_mem(insn);
    return m && m->access;
}

struct decoded {
    struct x86_insn insn[T0_BLOCK_MAX_INSNS];
    uint8_t bytes[T0_BLOCK_MAX_INSNS][X86_INSN_MAX_LEN + 1];
    uint16_t start[T0_BLOCK_MAX_INSNS];
    bool dead[T0_BLOCK_MAX_INSNS]; /* flags */
    unsigned nb;
    unsigned len;
    uint8_t raise; /* vector of the last instruction's decode failure, or 0xff */
    bool stop;     /* nothing may follow the last instruction in this block */
    bool ends;     /* and its handler always leaves: no end op is needed */
    bool outside;  /* of the code segment's limit, which is no part of the block */
    uint64_t gpa2; /* UINT64_MAX: does not straddle */
};

/* What an instruction stores may be the code after it: then the flags are read. */
static bool stores(const struct x86_insn *insn)
{
    const struct x86_opnd *m = x86_insn_mem(insn);
    return m && (m->access & X86_ACC_W);
}

static void find_dead_flags(struct decoded *d)
{
    uint32_t live = X86_FL_ARITH;
    for (unsigned i = d->nb; i-- > 0;) {
        const struct x86_insn *insn = &d->insn[i];
        const struct x86_desc *desc = x86_insn_desc(insn);
        uint32_t written = desc->flags_written | desc->flags_undef;
        d->dead[i] = !(live & written & X86_FL_ARITH) && !stores(insn);
        if (!(desc->props & X86_D_FL_MAYBE)) {
            live &= ~desc->flags_written;
        }
        live |= x86_insn_flags_read(insn) & X86_FL_ARITH;
        if (may_fault(insn)) {
            live = X86_FL_ARITH;
        }
    }
}

/* Where code is read from: the page of @lin, and on demand the next one. */
struct fetch {
    struct t0_cpu *c;
    uint64_t lin; /* of the block's start */
    const struct gmem_region *region;
    struct code_page *page; /* NULL: not to be cached */
    const uint8_t *host;    /* of the block's first byte */
    uint64_t gpa;
};

/* Bytes of the instruction at the end of the page, continued in the next one.
 * Returns how many there are, or -1 with c->exc set. */
static int fetch_straddling(struct fetch *f, unsigned off, uint8_t *buf,
                            struct decoded *d)
{
    struct t0_cpu *c = f->c;
    unsigned room = (unsigned)(0x1000 - ((f->gpa + off) & 0xfff));
    uint64_t next = f->lin + off + room;
    if (!t0_is64(c)) {
        next = (uint32_t)next;
    }
    struct t0_itlb_entry *e = t0_itlb_get(c, next);
    if (!e) {
        return -1;
    }
    const struct gmem_region *r = gmem_find(c->vcpu->vm->gmem, e->gpa & ~0xfffULL);
    d->gpa2 = e->gpa & ~UINT64_C(0xfff);
    if (!r) {
        memset(buf + room, 0xff, X86_INSN_MAX_LEN - room);
        return X86_INSN_MAX_LEN;
    }
    if (f->page) {
        struct code_page *p = get_page(c, r, d->gpa2);
        mark_pieces(c, r, p, d->gpa2);
    }
    gmem_copy(buf + room, e->host, X86_INSN_MAX_LEN - room);
    return X86_INSN_MAX_LEN;
}

/* Decode one more instruction. Returns 1, 0 when the block ends before it, -1 with
 * c->exc set. */
static int decode_one(struct fetch *f, struct decoded *d)
{
    static const uint8_t bits[] = {16, 32, 64};
    struct t0_cpu *c = f->c;
    unsigned i = d->nb, off = d->len;
    uint8_t *buf = d->bytes[i];
    unsigned room = (unsigned)(0x1000 - (f->gpa & 0xfff)) - off;
    unsigned avail = MIN(room, X86_INSN_MAX_LEN);
    if (f->page) {
        mark_pieces(c, f->region, f->page, f->gpa + off);
    }
    gmem_copy(buf, f->host + off, avail);
    int len = x86_decode(&d->insn[i], buf, avail, bits[c->mode & T0_MODE_SIZE]);
    if (len == X86_DECODE_MORE) {
        if (i) {
            return 0;
        }
        int n = fetch_straddling(f, off, buf, d);
        if (n < 0) {
            return -1;
        }
        len = x86_decode(&d->insn[i], buf, (size_t)n, bits[c->mode & T0_MODE_SIZE]);
        avail = (unsigned)n;
    }
    /* In segments with a limit the instruction must be inside (APM 2 4.12.1). */
    uint64_t limit = c->s.seg[X86_CS].limit;
    bool outside =
        !t0_is64(c) && c->s.rip + off + (len > 0 ? (unsigned)len : 1) - 1 > limit;
    if (len <= 0 || outside) {
        if (i) {
            return 0;
        }
        memset(&d->insn[i], 0, sizeof(d->insn[i]));
        d->raise = outside || len == X86_DECODE_GP ? X86_EXC_GP : X86_EXC_UD;
        d->stop = d->ends = true;
        d->outside = outside;
        d->start[0] = 0;
        d->len = avail; /* a store to any of these may make an instruction of them */
        d->nb = 1;
        return 1;
    }
    d->start[i] = (uint16_t)off;
    d->nb++;
    d->len += (unsigned)len;
    d->stop = ends_block(&d->insn[i]);
    d->ends = d->stop && x86_insn_desc(&d->insn[i])->cls == X86_CLASS_BRANCH;
    return 1;
}

static bool decode_block(struct fetch *f, struct decoded *d, unsigned max)
{
    d->nb = d->len = 0;
    d->raise = 0xff;
    d->stop = d->ends = d->outside = false;
    d->gpa2 = UINT64_MAX;
    unsigned room = (unsigned)(0x1000 - (f->gpa & 0xfff));
    while (d->nb < max && !d->stop && d->len < room) {
        int r = decode_one(f, d);
        if (r < 0) {
            return false;
        }
        if (r == 0) {
            break;
        }
    }
    if (d->raise == 0xff) {
        find_dead_flags(d);
    } else {
        d->dead[0] = false;
    }
    return true;
}

/* Fill @b, which has room, from @d. Returns the bytes used. */
static size_t fill_block(struct t0_cpu *c, struct t0_block *b, const struct fetch *f,
                         const struct decoded *d)
{
    memset(b, 0, sizeof(*b));
    b->gpa = f->gpa;
    b->gpa2 = d->gpa2;
    b->len = (uint16_t)d->len;
    b->nb_insns = (uint16_t)d->nb;
    b->mode = c->mode;
    b->flags = d->gpa2 != UINT64_MAX ? T0_BLOCK_STRADDLES : 0;
    for (unsigned i = 0; i < d->nb; i++) {
        struct t0_op *op = &b->ops[i];
        struct t0_lower ctx = {
            .c = c,
            .mode = c->mode,
            .bytes = d->bytes[i],
            .page_off = b->gpa & 0xfff,
            .flags_dead = d->dead[i],
        };
        memset(op, 0, sizeof(*op));
        op->start = d->start[i];
        if (d->raise != 0xff) {
            op->next = op->start;
            op->aux = d->raise;
            op->fn = d->raise == X86_EXC_GP ? op_raise_gp0 : op_raise;
            continue;
        }
        op->next = (uint16_t)(op->start + d->insn[i].len);
        op->aux2 = (uint16_t)(i + 1); /* what branches want there */
        lower(c, &d->insn[i], &ctx, op);
    }
    struct t0_op *end = &b->ops[d->nb];
    /* Branches never go to the next op; other ends of blocks may. */
    bool branch =
        d->raise == 0xff && x86_insn_desc(&d->insn[d->nb - 1])->cls == X86_CLASS_BRANCH;
    if (!branch) {
        b->flags |= T0_BLOCK_HAS_END;
        memset(end, 0, sizeof(*end));
        end->start = end->next = (uint16_t)d->len;
        end->aux2 = (uint16_t)d->nb;
        t0_lower_end(c, b, end);
        end++;
    }
    memset(end, 0, 2 * sizeof(struct t0_chain));
    return (size_t)((uint8_t *)end - (uint8_t *)b) + 2 * sizeof(struct t0_chain);
}

static uint64_t current_linear(const struct t0_cpu *c)
{
    uint64_t lin = c->s.rip + c->seg_base[X86_CS];
    return t0_is64(c) ? lin : (uint32_t)lin;
}

static const uint8_t absent_code[4096] = {[0 ... 4095] = 0xff};

static bool fetch_init(struct fetch *f, struct t0_cpu *c)
{
    f->c = c;
    f->lin = current_linear(c);
    f->page = NULL;
    struct t0_itlb_entry *e = t0_itlb_get(c, f->lin);
    if (unlikely(!e)) {
        return false;
    }
    f->gpa = (e->gpa & ~UINT64_C(0xfff)) | (f->lin & 0xfff);
    f->region = NULL;
    f->host = (e->host ? e->host : absent_code) + (f->lin & 0xfff);
    return true;
}

static void log_block(struct t0_cpu *c, struct t0_block *b, const struct fetch *f,
                      const struct decoded *d)
{
    t0_log_block(c, b,
                 &(struct t0_log_code){
                     .rip = c->s.rip,
                     .lin = f->lin,
                     .nb = d->raise == 0xff ? d->nb : 0,
                     .insn = d->insn,
                     .start = d->start,
                     .bytes = d->bytes[0],
                     .bytes_step = sizeof(d->bytes[0]),
                 });
}

struct t0_block *t0_block_step(struct t0_cpu *c)
{
    struct fetch f;
    struct decoded d;
    c->core->n.steps++;
    if (!fetch_init(&f, c) || !decode_block(&f, &d, 1)) {
        return NULL;
    }
    struct t0_block *b = c->core->scratch;
    fill_block(c, b, &f, &d);
    b->flags |= T0_BLOCK_SCRATCH;
    if (unlikely(c->vcpu->vm->log)) {
        log_block(c, b, &f, &d);
    }
    return b;
}

static struct t0_block *build(struct t0_cpu *c, struct fetch *f)
{
    struct t0_core *core = c->core;
    struct decoded d;
    if (core->arena_used + BLOCK_ROOM > core->arena_size) {
        t0_code_flush(c);
    }
    f->region = gmem_find(c->vcpu->vm->gmem, f->gpa);
    f->page = get_page(c, f->region, f->gpa);
    if (!decode_block(f, &d, core->tvm->block_insns)) {
        return NULL;
    }
    if (unlikely(d.outside)) {
        return t0_block_step(c);
    }
    struct t0_block *b = (struct t0_block *)(core->arena + core->arena_used);
    core->arena_used += (uint32_t)ALIGN_UP(fill_block(c, b, f, &d), 8);
    core->n.blocks_built++;
    core->n.insns_built += b->nb_insns;

    t0_ref me = ref_of(core, b);
    t0_ref *bucket = &core->block_hash[hash_block(b->gpa, b->mode)];
    b->next = *bucket;
    *bucket = me;
    b->page_next[0] = f->page->blocks;
    f->page->blocks = me;
    if (b->flags & T0_BLOCK_STRADDLES) {
        struct code_page *p = find_page(core, b->gpa2);
        if (p) {
            b->page_next[1] = p->blocks;
            p->blocks = me | 1;
        }
    }
    if (likely(!(c->debug & (T0_DEBUG_CODE | T0_DEBUG_DATA)))) {
        t1_block_new(c, b);
    }
    if (unlikely(c->vcpu->vm->log)) {
        log_block(c, b, f, &d);
    }
    return b;
}

/* A straddling block fits when its second page is still where it was. */
static int second_page_fits(struct t0_cpu *c, const struct t0_block *b, uint64_t lin)
{
    uint64_t next = (lin | 0xfff) + 1;
    struct t0_itlb_entry *e = t0_itlb_get(c, t0_is64(c) ? next : (uint32_t)next);
    return !e ? -1 : (e->gpa & ~UINT64_C(0xfff)) == b->gpa2;
}

/* In the hash; NULL with *ret_fault false when it is not there. */
static struct t0_block *lookup(struct t0_cpu *c, const struct fetch *f, bool *ret_fault)
{
    struct t0_core *core = c->core;
    *ret_fault = false;
    for (t0_ref r = core->block_hash[hash_block(f->gpa, c->mode)]; r;) {
        struct t0_block *b = at(core, r);
        r = b->next;
        if (b->gpa != f->gpa || b->mode != c->mode) {
            continue;
        }
        if (unlikely(b->flags & T0_BLOCK_STRADDLES)) {
            int fits = second_page_fits(c, b, f->lin);
            if (fits < 0) {
                *ret_fault = true;
                return NULL;
            }
            if (!fits) {
                continue;
            }
        }
        return b;
    }
    return NULL;
}

struct t0_block *t0_block_get(struct t0_cpu *c)
{
    struct fetch f;
    bool fault;
    uint64_t key = current_linear(c) ^ c->mode_key;
    struct t0_jump_entry *j = t0_jump_slot(c, current_linear(c));
    if (likely(j->key == key) && !(j->block->flags & T0_BLOCK_DEAD)) {
        return j->block;
    }
    c->core->n.lookups++;
    if (!fetch_init(&f, c)) {
        return NULL;
    }
    bool flat = c->mode & T0_MODE_FLAT;
    if (unlikely(f.host >= absent_code && f.host < absent_code + sizeof(absent_code))) {
        return t0_block_step(c);
    }
    struct t0_block *b = lookup(c, &f, &fault);
    if (!b && !fault) {
        b = build(c, &f);
    }
    if (b && unlikely(!flat && c->s.rip + b->len - 1 > c->s.seg[X86_CS].limit)) {
        return t0_block_step(c);
    }
    if (b && flat && !(b->flags & (T0_BLOCK_STRADDLES | T0_BLOCK_SCRATCH)) &&
        !(c->debug & T0_DEBUG_CODE)) {
        j->key = key;
        j->block = b;
        t0_jumps_note(c, j, f.lin);
    }
    return b;
}

void t0_block_chain(struct t0_cpu *c, struct t0_chain *chain, struct t0_block *b)
{
    bool in_arena = (size_t)((uint8_t *)chain - c->core->arena) < c->core->arena_size;
    if (!in_arena || c->core->tvm->nochain || (c->debug & T0_DEBUG_CODE) ||
        !(c->mode & T0_MODE_FLAT) || chain->to ||
        (b->flags & (T0_BLOCK_STRADDLES | T0_BLOCK_DEAD | T0_BLOCK_SCRATCH))) {
        return;
    }
    /* A chain whose target died is off every list; see kill_block(). */
    chain->to = b;
    chain->next_in = b->incoming;
    b->incoming = ref_of(c->core, chain);
}

/* --- Life ------------------------------------------------------------------ */

bool t0_code_init(struct t0_cpu *c, GError **error)
{
    struct t0_core *core = c->core;
    core->arena_size = (uint32_t)core->tvm->cache_bytes;
    core->arena = mmap(NULL, core->arena_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (core->arena == MAP_FAILED) {
        core->arena = NULL;
        return error_errno(error, errno, "code cache of %u bytes", core->arena_size);
    }
    core->arena_used = 8;
    core->block_hash = g_new0(t0_ref, 1u << HASH_BITS);
    core->page_hash = g_new0(t0_ref, 1u << PAGE_HASH_BITS);
    core->scratch = g_malloc0(BLOCK_ROOM);
    return true;
}

void t0_code_done(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    if (core->arena) {
        t0_code_flush(c);
        munmap(core->arena, core->arena_size);
    }
    g_free(core->block_hash);
    g_free(core->page_hash);
    g_free(core->scratch);
}

void t0_dump_code(struct t0_cpu *c, FILE *out)
{
    static const uint8_t bits[] = {16, 32, 64};
    uint64_t rip = c->s.rip;
    struct t0_exception saved = c->exc;
    for (int i = 0; i < 8; i++) {
        uint8_t buf[X86_INSN_MAX_LEN];
        uint64_t lin = rip + c->seg_base[X86_CS];
        unsigned n = 0;
        for (; n < sizeof(buf); n++) {
            struct t0_itlb_entry *e = t0_itlb_get(c, lin + n);
            if (!e || !e->host) {
                break;
            }
            buf[n] = e->host[(lin + n) & 0xfff];
        }
        struct x86_insn insn;
        int len = x86_decode(&insn, buf, n, bits[c->mode & T0_MODE_SIZE]);
        char text[96] = "?";
        if (len > 0) {
            x86_format(&insn, rip, text, sizeof(text));
        }
        fprintf(out, "  %016" PRIx64 "  %s\n", rip, text);
        if (len <= 0) {
            break;
        }
        rip += (unsigned)len;
    }
    c->exc = saved;
}
