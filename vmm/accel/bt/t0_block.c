#include "vmm/accel/bt/t0_priv.h"

#include <inttypes.h>
#include <sys/mman.h>

#include "lib/base/base.h"
#include "vmm/accel/bt/t0_decode.h"
#include "vmm/accel/bt/t0_log.h"
#include "vmm/accel/bt/t1.h"
#include "vmm/accel/bt/t2.h"

/*
 * Blocks: cache, find, chain and invalidate. t0_decode.c makes them.
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
 * Pages that are stored to all the time get no code bits any more: t0_check.c.
 *
 * Writes by devices come through accel_ops.invalidate into the inbox, which is read
 * before the next interrupt is delivered.
 */

#define PAGE_HASH_BITS 12

/* Refs to blocks in page lists: 8-byte aligned offsets, bit 0 = index of page_next. */

static void *at(const struct t0_core *core, t0_ref ref)
{
    return core->arena + (ref & ~7u);
}

static t0_ref ref_of(const struct t0_core *core, const void *p)
{
    return (t0_ref)((const uint8_t *)p - core->arena);
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
     2 * sizeof(struct t0_chain) + 2 * sizeof(struct t0_page) +                  \
     T0_CHECK_ROOM(T0_BLOCK_MAX_INSNS * X86_INSN_MAX_LEN) + 64)

static struct t0_page *find_page(const struct t0_core *core, uint64_t gpa)
{
    for (t0_ref r = core->page_hash[hash_page(gpa)]; r;) {
        struct t0_page *p = at(core, r);
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
                          struct t0_page *p, uint8_t pieces)
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

static void unregister_page_locked(struct t0_cpu *c, struct t0_page *p)
{
    struct t0_vm *tvm = c->core->tvm;
    uint64_t gpa = p->gpa;
    p->registered = false;
    p->lines = 0;
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

/* Bits for offsets @start to @end in a page, in lines of 64 bytes. */
static uint64_t lines_of(unsigned start, unsigned end)
{
    return (UINT64_MAX << start / 64) & (UINT64_MAX >> (63 - end / 64));
}

/* Code bits for decoding up to 15 bytes at @gpa of page @p, before reading them. */
void t0_mark_code(struct t0_cpu *c, const struct gmem_region *r, struct t0_page *p,
                  uint64_t gpa)
{
    unsigned start = gpa & 0xfff, end = MIN(start + X86_INSN_MAX_LEN - 1, 0xfff);
    unsigned first = start >> GMEM_CODE_SHIFT, last = end >> GMEM_CODE_SHIFT;
    p->lines |= lines_of(start, end);
    if (p->checked) {
        return;
    }
    uint8_t bits = (uint8_t)(1u << first | 1u << last);
    _Atomic uint8_t *byte = code_byte(r, p->gpa);
    if ((atomic_load_explicit(byte, memory_order_relaxed) & bits) != bits) {
        atomic_fetch_or(byte, bits); /* a full fence: pairs with t0_code_stored() */
    }
}

/* The page of @gpa, made when new. */
struct t0_page *t0_code_page(struct t0_cpu *c, const struct gmem_region *r,
                             uint64_t gpa)
{
    struct t0_core *core = c->core;
    uint64_t page = gpa & ~UINT64_C(0xfff);
    struct t0_page *p = find_page(core, page);
    if (!p) {
        p = arena_alloc(core, sizeof(*p));
        t0_ref *bucket = &core->page_hash[hash_page(page)];
        *p = (struct t0_page){.gpa = page, .next = *bucket};
        *bucket = ref_of(core, p);
    }
    if (!p->registered && !p->checked) {
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
    t0_ref *link = &core->block_hash[t0_block_hash(b->gpa, b->mode)],
           me = ref_of(core, b);
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
    struct t0_page *p = find_page(core, page);
    t0_ref me = ref_of(core, b) | which;
    t0_ref *link = p ? &p->blocks : NULL;
    while (link && *link && *link != me) {
        link = &((struct t0_block *)at(core, *link))->page_next[*link & 1];
    }
    if (link && *link) {
        *link = b->page_next[which];
    }
}

void t0_block_drop(struct t0_cpu *c, struct t0_block *b)
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
        t0_block_drop(c, b);
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
static void invalidate_page(struct t0_cpu *c, struct t0_page *p, uint64_t gpa,
                            uint64_t len)
{
    if (len <= GMEM_PAGE_SIZE && (gpa & ~UINT64_C(0xfff)) == p->gpa &&
        !(p->lines & lines_of(gpa & 0xfff, (gpa & 0xfff) + (unsigned)len - 1))) {
        return;
    }
    for (t0_ref r = p->blocks; r;) {
        struct t0_block *b = at(c->core, r);
        unsigned which = r & 1;
        r = b->page_next[which];
        if (overlaps(b, which, gpa, len)) {
            t0_block_drop(c, b);
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
            struct t0_page *p = find_page(core, gpa & ~UINT64_C(0xfff));
            if (p) {
                invalidate_page(c, p, gpa, n);
            }
            gpa += n;
        }
        return;
    }
    for (unsigned i = 0; i < (1u << PAGE_HASH_BITS); i++) {
        for (t0_ref r = core->page_hash[i]; r;) {
            struct t0_page *p = at(core, r);
            r = p->next;
            invalidate_page(c, p, gpa, len);
        }
    }
}

/* --- Pages with compared code ------------------------------------------------- */

/* No stores to @p will be noticed from now on. */
static void begin_checks(struct t0_cpu *c, struct t0_page *p)
{
    struct t0_core *core = c->core;
    if (p->checked || core->nb_checked == T0_MAX_CHECKED) {
        return;
    }
    core->n.pages_checked++;
    core->checked[core->nb_checked++] = p->gpa;
    p->checked = true;
    p->since = c->insns;
    invalidate_page(c, p, p->gpa, GMEM_PAGE_SIZE);
    core->review = MIN(core->review, c->insns + t0_check_period(p->tries));
    p->tries++;
}

/* Whether page @i of core->checked goes on to be one. */
static bool review_page(struct t0_cpu *c, unsigned i)
{
    struct t0_core *core = c->core;
    struct t0_page *p = find_page(core, core->checked[i]);
    if (!p || !p->checked) {
        return false;
    }
    uint64_t until = p->since + t0_check_period(p->tries - 1u);
    if (c->insns < until) {
        core->review = MIN(core->review, until);
        return true;
    }
    p->checked = false;
    invalidate_page(c, p, p->gpa, GMEM_PAGE_SIZE);
    return false;
}

void t0_code_review(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    if (likely(c->insns < core->review)) {
        return;
    }
    core->review = UINT64_MAX;
    for (unsigned i = 0; i < core->nb_checked;) {
        if (review_page(c, i)) {
            i++;
        } else {
            core->checked[i] = core->checked[--core->nb_checked];
        }
    }
}

/* --- Stores ------------------------------------------------------------------- */

/* Put a range into the inboxes of those in @mask. */
static void post_range_locked(struct t0_vm *tvm, uint64_t mask, const struct t0_cpu *me,
                              uint64_t gpa, uint64_t len, bool check)
{
    for (guint i = 0; i < tvm->cpus->len; i++) {
        struct t0_cpu *o = g_ptr_array_index(tvm->cpus, i);
        struct t0_inbox *in = &o->core->inbox;
        if (o == me || !(mask & cpu_bit(o))) {
            continue;
        }
        if (in->nb < ARRAY_LEN(in->range)) {
            in->range[in->nb].gpa = gpa;
            in->range[in->nb].check = check;
            in->range[in->nb++].len = len;
        } else {
            in->flush = true;
        }
        if (in->in_guest) {
            vcpu_kick(o->vcpu, T0_ATTN);
        }
    }
}

/* Tell the others that cache code of the page. */
static void tell_others(struct t0_cpu *c, uint64_t gpa, uint64_t len, bool check)
{
    struct t0_vm *tvm = c->core->tvm;
    if (tvm->cpus->len == 1) {
        return;
    }
    g_mutex_lock(&tvm->lock);
    uint64_t mask = (guintptr)g_hash_table_lookup(tvm->pages, page_key(gpa));
    post_range_locked(tvm, mask, c, gpa, len, check);
    g_mutex_unlock(&tvm->lock);
}

void t0_code_kept(struct t0_cpu *c, uint64_t gpa)
{
    uint64_t page = gpa & ~UINT64_C(0xfff);
    if (likely(!t0_check_wanted(c, page))) {
        return;
    }
    struct t0_page *p = find_page(c->core, page);
    tell_others(c, page, GMEM_PAGE_SIZE, true);
    if (p) {
        begin_checks(c, p);
    }
}

void t0_code_stored(struct t0_cpu *c, const struct gmem_region *r, uint64_t gpa,
                    unsigned len)
{
    atomic_thread_fence(memory_order_seq_cst); /* pairs with t0_mark_code() */
    uint8_t bits = atomic_load_explicit(code_byte(r, gpa), memory_order_relaxed);
    if (likely(!bits)) {
        return;
    }
    unsigned first = (gpa & 0xfff) >> GMEM_CODE_SHIFT;
    unsigned last = (unsigned)(((gpa & 0xfff) + len - 1) >> GMEM_CODE_SHIFT);
    if (bits >> first & ((2u << (last - first)) - 1)) {
        c->core->n.smc_stores++;
        t0_code_invalidate(c, gpa, len);
        tell_others(c, gpa, len, false);
    }
    t0_code_kept(c, gpa);
}

void t0_vm_invalidate(struct t0_vm *tvm, uint64_t gpa, uint64_t len)
{
    g_mutex_lock(&tvm->lock);
    post_range_locked(tvm, UINT64_MAX, NULL, gpa, len, false);
    g_mutex_unlock(&tvm->lock);
}

void t0_code_flush(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    core->n.cache_flushes++;
    g_mutex_lock(&core->tvm->lock);
    for (unsigned i = 0; i < (1u << PAGE_HASH_BITS); i++) {
        for (t0_ref r = core->page_hash[i]; r;) {
            struct t0_page *p = at(core, r);
            if (p->registered) {
                unregister_page_locked(c, p);
            }
            r = p->next;
        }
    }
    g_mutex_unlock(&core->tvm->lock);
    memset(core->page_hash, 0, sizeof(t0_ref) << PAGE_HASH_BITS);
    memset(core->block_hash, 0, sizeof(t0_ref) << T0_BLOCK_HASH_BITS);
    core->arena_used = 8; /* ref 0 is none */
    core->chain_wanted = NULL;
    core->nb_checked = 0;
    core->review = UINT64_MAX;
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
        struct t0_page *p =
            copy.range[i].check ? find_page(c->core, copy.range[i].gpa) : NULL;
        if (p) {
            begin_checks(c, p);
        } else {
            t0_code_invalidate(c, copy.range[i].gpa, copy.range[i].len);
        }
    }
}

void t0_guest_enter(struct t0_cpu *c)
{
    g_mutex_lock(&c->core->tvm->lock);
    c->core->inbox.in_guest = true;
    t2_thread_wake_locked(c->core->tvm);
    g_mutex_unlock(&c->core->tvm->lock);
    t0_inbox_read(c);
}

void t0_guest_leave(struct t0_cpu *c)
{
    g_mutex_lock(&c->core->tvm->lock);
    c->core->inbox.in_guest = false;
    vcpu_take_attention(c->vcpu, T0_ATTN | T2_ATTN);
    g_cond_broadcast(&c->core->tvm->cond);
    g_mutex_unlock(&c->core->tvm->lock);
}

/* --- Finding and building ------------------------------------------------------ */

static uint64_t current_linear(const struct t0_cpu *c)
{
    uint64_t lin = c->s.rip + c->seg_base[X86_CS];
    return t0_is64(c) ? lin : (uint32_t)lin;
}

static const uint8_t absent_code[4096] = {[0 ... 4095] = 0xff};

static bool fetch_init(struct t0_fetch *f, struct t0_cpu *c)
{
    f->c = c;
    f->lin = current_linear(c);
    f->page = NULL;
    f->checked = false;
    struct t0_itlb_entry *e = t0_itlb_get(c, f->lin);
    if (unlikely(!e)) {
        return false;
    }
    f->gpa = (e->gpa & ~UINT64_C(0xfff)) | (f->lin & 0xfff);
    f->region = NULL;
    f->host = (e->host ? e->host : absent_code) + (f->lin & 0xfff);
    return true;
}

static void log_block(struct t0_cpu *c, struct t0_block *b, const struct t0_fetch *f,
                      const struct t0_decoded *d)
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
    struct t0_fetch f;
    struct t0_decoded d;
    c->core->n.steps++;
    if (!fetch_init(&f, c) || !t0_decode(&f, &d, 1)) {
        return NULL;
    }
    struct t0_block *b = c->core->scratch;
    t0_fill_block(c, b, &f, &d);
    b->flags |= T0_BLOCK_SCRATCH;
    if (unlikely(c->vcpu->vm->log)) {
        log_block(c, b, &f, &d);
    }
    return b;
}

static struct t0_block *build(struct t0_cpu *c, struct t0_fetch *f)
{
    struct t0_core *core = c->core;
    struct t0_decoded d;
    if (core->arena_used + BLOCK_ROOM > core->arena_size) {
        t0_code_flush(c);
    }
    f->region = gmem_find(c->vcpu->vm->gmem, f->gpa);
    f->page = t0_code_page(c, f->region, f->gpa);
    f->checked = f->page->checked;
    if (!t0_decode(f, &d, core->tvm->block_insns)) {
        return NULL;
    }
    if (unlikely(d.outside)) {
        return t0_block_step(c);
    }
    struct t0_block *b = (struct t0_block *)(core->arena + core->arena_used);
    core->arena_used += (uint32_t)ALIGN_UP(t0_fill_block(c, b, f, &d), 8);
    struct t0_check *check = NULL;
    if (unlikely(f->checked)) {
        check = arena_alloc(core, T0_CHECK_ROOM(b->len));
        b->check = ref_of(core, check);
        t0_check_make(b, check, f, &d);
    }
    core->n.blocks_built++;
    core->n.insns_built += b->nb_insns;

    t0_ref me = ref_of(core, b);
    t0_ref *bucket = &core->block_hash[t0_block_hash(b->gpa, b->mode)];
    b->next = *bucket;
    *bucket = me;
    b->page_next[0] = f->page->blocks;
    f->page->blocks = me;
    if (b->flags & T0_BLOCK_STRADDLES) {
        struct t0_page *p = find_page(core, b->gpa2);
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
    if (unlikely(check != NULL)) {
        t0_check_first(b, check);
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
static struct t0_block *lookup(struct t0_cpu *c, const struct t0_fetch *f,
                               bool *ret_fault)
{
    struct t0_core *core = c->core;
    *ret_fault = false;
    for (t0_ref r = core->block_hash[t0_block_hash(f->gpa, c->mode)]; r;) {
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
    struct t0_fetch f;
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
    /* A chain whose target died is off every list; see t0_block_drop(). */
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
    core->block_hash = g_new0(t0_ref, 1u << T0_BLOCK_HASH_BITS);
    core->page_hash = g_new0(t0_ref, 1u << PAGE_HASH_BITS);
    core->scratch = g_malloc0(BLOCK_ROOM);
    core->review = UINT64_MAX;
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
