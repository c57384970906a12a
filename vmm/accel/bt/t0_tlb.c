#include "vmm/accel/bt/t0_priv.h"

#include "vmm/accel/bt/t1.h"

/*
 * Forgetting translations. t0_mmu.c makes them.
 *
 * A flush costs what was used, not what there is room for: bitmaps say which entries
 * are in use and which of these a load of CR3 drops (those that are not global), and a
 * bitmap above each says which words of it are not 0.
 *
 * All entries are 4 KiB, so INVLPG inside a large page has to drop every entry of that
 * page. Entries made from large pages are marked; a filter of large pages tells when to
 * look for them. The jump caches are looked through by nobody: filters of the pages
 * that code of user and kernel was run from tell when INVLPG drops them.
 */

#define PAGE_MASK (~UINT64_C(0xfff))

static unsigned hash_bit(uint64_t v, unsigned bits)
{
    return (unsigned)((v * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - bits));
}

static void filter_add(uint64_t *filter, unsigned bits, uint64_t v)
{
    unsigned i = hash_bit(v, bits);
    filter[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool filter_has(const uint64_t *filter, unsigned bits, uint64_t v)
{
    unsigned i = hash_bit(v, bits);
    return filter[i / 64] >> (i % 64) & 1;
}

/* --- The bitmaps ----------------------------------------------------------- */

static void set_add(struct t0_tlb_set *s, unsigned i)
{
    s->bits[i / 64] |= UINT64_C(1) << (i % 64);
    s->words[i / 4096] |= UINT64_C(1) << (i / 64 % 64);
}

static void set_remove(struct t0_tlb_set *s, unsigned i)
{
    uint64_t *w = &s->bits[i / 64];
    *w &= ~(UINT64_C(1) << (i % 64));
    if (!*w) {
        s->words[i / 4096] &= ~(UINT64_C(1) << (i / 64 % 64));
    }
}

/* Every @i in @s, of which the body may remove @i. */
#define SET_EACH(s, i)                                                             \
    for (unsigned o_ = 0; o_ < ARRAY_LEN((s)->words); o_++)                        \
        for (uint64_t ws_ = (s)->words[o_]; ws_; ws_ &= ws_ - 1)                   \
            for (uint64_t w_ = o_ * 64 + (unsigned)__builtin_ctzll(ws_),           \
                          bs_ = (s)->bits[w_];                                     \
                 bs_; bs_ &= bs_ - 1)                                              \
                for (unsigned                                                      \
                         i = (unsigned)(w_ * 64) + (unsigned)__builtin_ctzll(bs_), \
                         once_ = 1;                                                \
                     once_; once_ = 0)

static void note_large(struct t0_cpu *c, uint64_t la, unsigned shift)
{
    uint64_t *f = c->core->large_seen;
    if (shift == 30) {
        filter_add(f, T0_BIG_FILTER, la >> 30 | UINT64_C(1) << 62);
    } else {
        filter_add(f, T0_BIG_FILTER, la >> 21);
        /* A 4 MiB page is two of 2 MiB. */
        filter_add(f, T0_BIG_FILTER, la >> 21 ^ (shift == 22));
    }
}

static bool large_at(const struct t0_core *core, uint64_t la)
{
    return filter_has(core->large_seen, T0_BIG_FILTER, la >> 21) ||
           filter_has(core->large_seen, T0_BIG_FILTER, la >> 30 | UINT64_C(1) << 62);
}

void t0_tlb_note(struct t0_cpu *c, unsigned bank, unsigned i, uint64_t la,
                 unsigned shift, bool global)
{
    struct t0_core *core = c->core;
    core->n.fills[bank]++;
    set_add(&core->filled[bank], i);
    if (global) {
        set_remove(&core->local[bank], i);
    } else {
        set_add(&core->local[bank], i);
    }
    if (shift > 12) {
        note_large(c, la, shift);
    }
}

void t0_itlb_note(struct t0_cpu *c, const struct t0_itlb_entry *e, uint64_t la,
                  unsigned shift, bool global)
{
    struct t0_core *core = c->core;
    unsigned i = (unsigned)(e - c->itlb);
    core->n.code_fills++;
    set_add(&core->itlb_filled, i);
    if (global) {
        set_remove(&core->itlb_local, i);
    } else {
        set_add(&core->itlb_local, i);
    }
    if (shift > 12) {
        note_large(c, la, shift);
    }
}

static void drop_code(struct t0_cpu *c, unsigned i)
{
    c->itlb[i].tag = UINT64_MAX;
    set_remove(&c->core->itlb_filled, i);
    set_remove(&c->core->itlb_local, i);
}

void t0_tlb_uncopy(struct t0_cpu *c, struct t0_tlb_entry *e)
{
    if (e->copied) {
        e->copied = 0;
        t1_slots_forget_page(c, (uint64_t)(size_t)(e - c->banks[0]) << 12);
    }
}

static void drop_entry(struct t0_cpu *c, unsigned bank, unsigned i)
{
    struct t0_tlb_entry *e = &c->banks[bank][i];
    struct t0_tlb_side *side = &c->core->side[bank][i];
    e->read = e->write = t0_tlb_none(i);
    side->read = side->write = T0_TLB_NONE;
    set_remove(&c->core->filled[bank], i);
    set_remove(&c->core->local[bank], i);
}

/* --- Jump caches ----------------------------------------------------------- */

/* T0's is one of all levels. */
static void forget_jumps(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    core->n.jump_flushes++;
    for (unsigned w = 0; w < ARRAY_LEN(core->jumps_used); w++) {
        for (uint64_t m = core->jumps_used[w]; m; m &= m - 1) {
            c->jumps[w * 64 + (unsigned)__builtin_ctzll(m)].key = T0_TLB_NONE;
        }
        core->jumps_used[w] = 0;
    }
}

static void forget_user_jumps(struct t0_cpu *c)
{
    memset(c->core->user_code_seen, 0, sizeof(c->core->user_code_seen));
    t1_jumps_flush(c, 1);
}

static void forget_kernel_jumps(struct t0_cpu *c)
{
    memset(c->core->code_seen, 0, sizeof(c->core->code_seen));
    t1_jumps_flush(c, 0);
}

void t0_jumps_flush(struct t0_cpu *c)
{
    forget_jumps(c);
    forget_user_jumps(c);
    forget_kernel_jumps(c);
}

static void note_code(struct t0_core *core, bool user, uint64_t page)
{
    if (user) {
        filter_add(core->user_code_seen, T0_SMALL_FILTER, page);
    } else {
        filter_add(core->code_seen, T0_BIG_FILTER, page);
    }
}

void t0_jumps_note(struct t0_cpu *c, const struct t0_jump_entry *j, uint64_t lin)
{
    unsigned i = (unsigned)(j - c->jumps);
    c->core->jumps_used[i / 64] |= UINT64_C(1) << (i % 64);
    t0_jumps_page(c, lin);
}

void t0_jumps_page(struct t0_cpu *c, uint64_t lin)
{
    note_code(c->core, c->mode & T0_MODE_CPL3, lin >> 12);
}

/* The page of @la is mapped no longer; @large: nor are others near it. */
static void flush_jumps_of(struct t0_cpu *c, uint64_t la, bool large)
{
    const struct t0_core *core = c->core;
    bool user = large || filter_has(core->user_code_seen, T0_SMALL_FILTER, la >> 12);
    bool kernel = large || filter_has(core->code_seen, T0_BIG_FILTER, la >> 12);
    if (user || kernel) {
        forget_jumps(c);
    }
    if (user) {
        forget_user_jumps(c);
    }
    if (kernel) {
        forget_kernel_jumps(c);
    }
}

/* --- Flushes --------------------------------------------------------------- */

void t0_tlb_init(struct t0_cpu *c)
{
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        for (unsigned i = 0; i < T0_TLB_SIZE; i++) {
            c->banks[b][i].read = c->banks[b][i].write = t0_tlb_none(i);
            c->core->side[b][i].read = c->core->side[b][i].write = T0_TLB_NONE;
        }
    }
    t1_slots_forget(c, true);
    for (unsigned i = 0; i < T0_ITLB_SIZE; i++) {
        c->itlb[i].tag = UINT64_MAX;
    }
    for (unsigned i = 0; i < T0_JUMP_SIZE; i++) {
        c->jumps[i].key = T0_TLB_NONE;
    }
    t0_jumps_flush(c);
}

void t0_tlb_flush(struct t0_cpu *c, bool global_too)
{
    struct t0_core *core = c->core;
    t1_slots_forget(c, global_too);
    core->n.tlb_flushes++;
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        const struct t0_tlb_set *s = global_too ? &core->filled[b] : &core->local[b];
        SET_EACH(s, i)
        {
            drop_entry(c, b, i);
        }
    }
    SET_EACH(global_too ? &core->itlb_filled : &core->itlb_local, i)
    {
        drop_code(c, i);
    }
    forget_jumps(c);
    forget_user_jumps(c);
    if (global_too || t1_kernel_jumps_local(c)) {
        forget_kernel_jumps(c);
    }
    if (global_too) {
        memset(core->large_seen, 0, sizeof(core->large_seen));
    }
    core->last_region = NULL;
}

/* Whether entry @e's page is in the same large page as @la, as far as we know. */
static bool same_large(uint64_t tag, uint64_t la)
{
    return ((tag ^ la) >> 30) == 0;
}

void t0_tlb_flush_page(struct t0_cpu *c, uint64_t la)
{
    struct t0_core *core = c->core;
    uint64_t page = la & PAGE_MASK;
    unsigned idx = (la >> 12) & (T0_TLB_SIZE - 1);
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        if (core->side[b][idx].read == page || core->side[b][idx].write == page) {
            drop_entry(c, b, idx);
        }
    }
    bool large = large_at(core, la);
    if (large) {
        t1_slots_forget(c, true);
    } else {
        t1_slots_forget_page(c, la);
    }
    for (unsigned b = 0; large && b < T0_NB_BANKS; b++) {
        SET_EACH(&core->filled[b], i)
        {
            struct t0_tlb_side *s = &core->side[b][i];
            if ((s->gpa & T0_SIDE_LARGE) && same_large(s->read, la)) {
                drop_entry(c, b, i);
            }
        }
    }
    struct t0_itlb_entry *e = t0_itlb_slot(c, la);
    if ((e->tag & PAGE_MASK) == page) {
        drop_code(c, (unsigned)(e - c->itlb));
    }
    if (large) {
        SET_EACH(&core->itlb_filled, i)
        {
            e = &c->itlb[i];
            if ((e->gpa & T0_SIDE_LARGE) && same_large(e->tag, la)) {
                drop_code(c, i);
            }
        }
    }
    flush_jumps_of(c, la, large);
}

void t0_tlb_drop_writes(struct t0_cpu *c, uint64_t gpa)
{
    struct t0_core *core = c->core;
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        SET_EACH(&core->filled[b], i)
        {
            if (gpa == UINT64_MAX || (core->side[b][i].gpa & PAGE_MASK) == gpa) {
                c->banks[b][i].write = t0_tlb_none(i);
                t0_tlb_uncopy(c, &c->banks[b][i]);
            }
        }
    }
}
