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
 * page. Entries made from large pages are marked, and a table says in which regions of
 * 2 MiB (4 MiB without PAE) and of 1 GiB there may be any: the entries of the former
 * follow each other in the TLB. The jump caches are looked through by nobody: filters
 * of the pages that code of user and kernel was run from, and of these regions, tell
 * when INVLPG drops them.
 */

#define PAGE_MASK (~UINT64_C(0xfff))

static unsigned hash_of(uint64_t v, unsigned bits)
{
    return (unsigned)((v * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - bits));
}

static void filter_add(uint64_t *filter, unsigned bits, uint64_t v)
{
    unsigned i = hash_of(v, bits);
    filter[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool filter_has(const uint64_t *filter, unsigned bits, uint64_t v)
{
    unsigned i = hash_of(v, bits);
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

/* --- Large pages ------------------------------------------------------------ */

/* Regions around an address: of the size of large pages, and of 1 GiB. Paging with
 * other large pages begins with nothing in the TLB. */
enum { GIB1 = 30 };

static unsigned large_shift(const struct t0_cpu *c)
{
    return (c->s.cr4 & X86_CR4_PAE) ? 21 : 22;
}

static uint64_t region_of(uint64_t la, unsigned shift)
{
    return la >> shift << 6 | shift;
}

#define LARGE_NONE UINT64_C(0)
#define LARGE_MANY UINT64_C(1) /* some regions with the same place */

/* Those of 1 GiB have places of their own. */
static uint64_t *large_place(struct t0_core *core, bool global, uint64_t region)
{
    bool gib = (region & 63) == GIB1;
    unsigned bits = T0_LARGE_BITS - (gib ? 4 : 0);
    return &core->large[global][(gib ? T0_NB_LARGE : 0) + hash_of(region, bits)];
}

static void note_large(struct t0_cpu *c, uint64_t la, unsigned shift, bool global)
{
    uint64_t region = region_of(la, shift == GIB1 ? GIB1 : large_shift(c));
    uint64_t *p = large_place(c->core, global, region);
    if (*p != region) {
        *p = *p == LARGE_NONE ? region : LARGE_MANY;
        c->core->any_large[global] = true;
    }
}

/* Whether there may be large pages in the region of @la. */
static bool large_at(struct t0_core *core, uint64_t la, unsigned shift)
{
    uint64_t region = region_of(la, shift);
    uint64_t local = *large_place(core, false, region);
    uint64_t global = *large_place(core, true, region);
    return local == region || local == LARGE_MANY || global == region ||
           global == LARGE_MANY;
}

/* There are none any more. */
static void forget_large(struct t0_core *core, uint64_t la, unsigned shift)
{
    uint64_t region = region_of(la, shift);
    for (unsigned global = 0; global < 2; global++) {
        uint64_t *p = large_place(core, global, region);
        *p = *p == region ? LARGE_NONE : *p;
    }
}

static void forget_all_large(struct t0_core *core, bool global)
{
    if (core->any_large[global]) {
        memset(core->large[global], 0, sizeof(core->large[global]));
        core->any_large[global] = false;
    }
}

/* --- Filling ---------------------------------------------------------------- */

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
        note_large(c, la, shift, global);
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
        note_large(c, la, shift, global);
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

/* What stands for the region in the filters, beside numbers of pages. */
static uint64_t region_bit(uint64_t la, unsigned shift)
{
    return region_of(la, shift) | UINT64_C(1) << 63;
}

static void note_code(struct t0_core *core, bool user, uint64_t v)
{
    if (user) {
        filter_add(core->user_code_seen, T0_SMALL_FILTER, v);
    } else {
        filter_add(core->code_seen, T0_BIG_FILTER, v);
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
    bool user = c->mode & T0_MODE_CPL3;
    note_code(c->core, user, lin >> 12);
    note_code(c->core, user, region_bit(lin, large_shift(c)));
    note_code(c->core, user, region_bit(lin, GIB1));
}

/* What @what stands for in the filters is mapped no longer. */
static void flush_jumps_of(struct t0_cpu *c, uint64_t what)
{
    const struct t0_core *core = c->core;
    bool user = filter_has(core->user_code_seen, T0_SMALL_FILTER, what);
    bool kernel = filter_has(core->code_seen, T0_BIG_FILTER, what);
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
    forget_all_large(core, false);
    if (global_too) {
        forget_all_large(core, true);
        core->last_region = core->other_region = NULL; /* may be gone */
    }
}

/* The entries that the pages of a region have, as words of the bitmaps: some that
 * follow each other, or all. */
struct span {
    unsigned first, nb;
};

static struct span entries_of(uint64_t la, unsigned shift, unsigned size)
{
    unsigned nb = 1u << (shift - 12), first = (unsigned)(la >> shift << (shift - 12));
    return nb >= size ? (struct span){0, size / 64}
                      : (struct span){(first & (size - 1)) / 64, nb / 64};
}

/* Drop all entries of large pages in the region of @la. */
static void drop_large(struct t0_cpu *c, uint64_t la, unsigned shift)
{
    struct t0_core *core = c->core;
    struct span s = entries_of(la, shift, T0_TLB_SIZE);
    for (unsigned w = s.first; w < s.first + s.nb; w++) {
        for (unsigned b = 0; b < T0_NB_BANKS; b++) {
            for (uint64_t m = core->filled[b].bits[w]; m; m &= m - 1) {
                unsigned i = w * 64 + (unsigned)__builtin_ctzll(m);
                const struct t0_tlb_side *side = &core->side[b][i];
                if ((side->gpa & T0_SIDE_LARGE) && !((side->read ^ la) >> shift)) {
                    t0_tlb_uncopy(c, &c->banks[b][i]);
                    drop_entry(c, b, i);
                }
            }
        }
    }
    s = entries_of(la, shift, T0_ITLB_SIZE);
    for (unsigned w = s.first; w < s.first + s.nb; w++) {
        for (uint64_t m = core->itlb_filled.bits[w]; m; m &= m - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(m);
            if ((c->itlb[i].gpa & T0_SIDE_LARGE) && !((c->itlb[i].tag ^ la) >> shift)) {
                drop_code(c, i);
            }
        }
    }
    flush_jumps_of(c, region_bit(la, shift));
    forget_large(core, la, shift);
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
    t1_slots_forget_page(c, la);
    struct t0_itlb_entry *e = t0_itlb_slot(c, la);
    if ((e->tag & PAGE_MASK) == page) {
        drop_code(c, (unsigned)(e - c->itlb));
    }
    flush_jumps_of(c, la >> 12);
    unsigned shift = large_shift(c);
    if (large_at(core, la, shift)) {
        drop_large(c, la, shift);
    }
    if (large_at(core, la, GIB1)) {
        drop_large(c, la, GIB1);
    }
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
