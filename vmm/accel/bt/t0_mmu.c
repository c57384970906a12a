#include "vmm/accel/bt/t0_priv.h"

#include "vmm/accel/bt/t1.h"

#include "vmm/vm/arch.h"

/*
 * Translation: page walks, the software TLB in front of them, and every access that
 * the TLB's fast path does not take.
 *
 * A walk (APM 2 chapter 5) goes through the tables in guest RAM with atomic reads,
 * checks permission with the bits of all levels together, and only then sets
 * Accessed and Dirty, each with a compare-and-exchange against what was read; when
 * another CPU changed an entry meanwhile the walk starts again.
 *
 * The result fills one entry of the bank it was made for, always for 4 KiB. Two kinds
 * of tags: those of struct t0_tlb_side say what permission allows; those of struct
 * t0_tlb_entry, which the fast path compares, are in addition NONE where the access
 * needs more than a host load or store:
 *   read    NONE for MMIO
 *   write   NONE for MMIO, ROM, pages with a code byte, and pages whose gmem dirty
 *           bit is clear (until the first store, which sets it)
 * So a slow access that permission allows costs no walk.
 *
 * The tags of struct t0_tlb_entry are kept complemented: see t0.h. t0_tlb.c forgets
 * entries. PCID is implemented by flushing at each load of CR3, which is always
 * allowed: a TLB may forget at any time.
 */

enum { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

/* Page-table entry bits (APM 2 5.4). */
#define PTE_P  (UINT64_C(1) << 0)
#define PTE_W  (UINT64_C(1) << 1)
#define PTE_U  (UINT64_C(1) << 2)
#define PTE_A  (UINT64_C(1) << 5)
#define PTE_D  (UINT64_C(1) << 6)
#define PTE_PS (UINT64_C(1) << 7)
#define PTE_G  (UINT64_C(1) << 8)
#define PTE_NX (UINT64_C(1) << 63)

/* Of a legacy PAE page-directory pointer (5.3.3). */
#define PDPTE_RESERVED UINT64_C(0x1e6)

#define PAGE_OFF  UINT64_C(0xfff)
#define PAGE_MASK (~PAGE_OFF)

/* What a walk found. */
struct xlat {
    uint64_t gpa; /* of the 4 KiB page */
    bool user, writable, nx, dirty, global;
    uint8_t shift; /* log2 of the page size */
};

/* The page an access goes to. */
struct page_ref {
    uint64_t gpa;
    const struct gmem_region *region; /* NULL: MMIO */
};

/* The region of @gpa, if it is one of the last two. */
static inline const struct gmem_region *known_region(struct t0_core *core, uint64_t gpa)
{
    const struct gmem_region *r = core->last_region, *other = core->other_region;
    if (likely(r && gpa - r->gpa < r->len)) {
        return r;
    }
    if (other && gpa - other->gpa < other->len) {
        core->last_region = other;
        core->other_region = r;
        return other;
    }
    return NULL;
}

static const struct gmem_region *find_region(struct t0_cpu *c, uint64_t gpa)
{
    const struct gmem_region *r = known_region(c->core, gpa);
    if (unlikely(!r)) {
        r = gmem_find(c->vcpu->vm->gmem, gpa);
        if (r) {
            c->core->other_region = c->core->last_region;
            c->core->last_region = r;
        }
    }
    return r;
}

/* --- Walks ----------------------------------------------------------------- */

struct walk {
    struct t0_cpu *c;
    uint64_t la;
    unsigned access, bank;
    unsigned nb;    /* levels read */
    unsigned width; /* bytes of an entry */
    struct {
        const struct gmem_region *region;
        uint64_t gpa, val;
    } level[5];
};

static bool is_user(unsigned bank)
{
    return bank <= T0_BANK_USER_AC;
}

static bool page_fault(const struct walk *w, uint32_t code)
{
    struct t0_cpu *c = w->c;
    if (w->access == ACCESS_WRITE) {
        code |= X86_PF_W;
    }
    if (is_user(w->bank)) {
        code |= X86_PF_U;
    }
    if (w->access == ACCESS_EXEC &&
        ((c->s.efer & X86_EFER_NXE) || (c->s.cr4 & X86_CR4_SMEP))) {
        code |= X86_PF_I;
    }
    t0_set_exc_error(c, X86_EXC_PF, code);
    c->exc.cr2 = w->la;
    return false;
}

static uint64_t read_entry(const struct gmem_region *r, uint64_t gpa, unsigned width)
{
    const uint8_t *p = r->host + (gpa - r->gpa);
    return width == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE)
                      : __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
}

/* Read the entry at @gpa into the next level. A table outside memory reads as all
 * ones on a PC: present, with reserved bits set. */
static uint64_t next_level(struct walk *w, uint64_t gpa)
{
    unsigned i = w->nb++;
    gpa &= w->c->core->a20_mask;
    const struct gmem_region *r = find_region(w->c, gpa);
    w->level[i].region = r;
    w->level[i].gpa = gpa;
    w->level[i].val =
        r ? read_entry(r, gpa, w->width) : (w->width == 8 ? UINT64_MAX : UINT32_MAX);
    return w->level[i].val;
}

/* Set @bits in level @i. False: the entry changed, walk again. */
static bool set_bits(struct walk *w, unsigned i, uint64_t bits)
{
    const struct gmem_region *r = w->level[i].region;
    uint64_t old = w->level[i].val, gpa = w->level[i].gpa;
    if ((old & bits) == bits || !r || r->kind != GMEM_RAM) {
        return true;
    }
    uint8_t *p = r->host + (gpa - r->gpa);
    bool ok;
    if (w->width == 8) {
        ok = __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        uint32_t old32 = (uint32_t)old;
        ok = __atomic_compare_exchange_n((uint32_t *)p, &old32, old32 | (uint32_t)bits,
                                         false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (ok) {
        w->level[i].val = old | bits;
        uint64_t page = (gpa - r->gpa) >> GMEM_PAGE_SHIFT;
        atomic_fetch_or_explicit(&r->dirty[page], 1, memory_order_relaxed);
        t0_code_stored(w->c, r, gpa, w->width);
    }
    return ok;
}

/* Reserved bits of a long-mode or PAE entry (5.3.3, 5.4.1) at a level whose pages
 * have @shift bits, @leaf when it maps one. */
static bool reserved64(const struct t0_cpu *c, uint64_t e, unsigned shift, bool leaf)
{
    uint64_t bad = ~c->core->phys_mask & UINT64_C(0x000ffffffffff000);
    if (!(c->s.efer & X86_EFER_NXE)) {
        bad |= PTE_NX;
    }
    if (!t0_long_mode(c)) {
        bad |= UINT64_C(0x7ff0000000000000);
    }
    if (leaf && shift > 12) {
        bad |= ((UINT64_C(1) << shift) - 1) & UINT64_C(0x3fffe000);
    }
    if (!leaf && shift >= 39) {
        bad |= PTE_PS;
    }
    return e & bad;
}

static bool walk_tables64(struct walk *w, struct xlat *x)
{
    struct t0_cpu *c = w->c;
    bool lm = t0_long_mode(c);
    unsigned shift = !lm ? 30 : (c->s.cr4 & X86_CR4_LA57) ? 48 : 39;
    uint64_t table = c->s.cr3 & (lm ? c->core->phys_mask & PAGE_MASK : 0xffffffe0u);
    w->width = 8;
    x->user = x->writable = true;
    x->nx = false;
    for (;; shift -= 9) {
        uint64_t mask = !lm && shift == 30 ? 3 : 511;
        uint64_t e = next_level(w, table + ((w->la >> shift) & mask) * 8);
        if (!(e & PTE_P)) {
            return page_fault(w, 0);
        }
        bool top_pae = !lm && shift == 30;
        bool may_ps = shift == 21 || (shift == 30 && lm &&
                                      x86_cpu_has(c->core->model, X86_FEAT_PDPE1GB));
        bool leaf = shift == 12 || (may_ps && (e & PTE_PS));
        if (top_pae) {
            if (e & (UINT64_C(0xfff0000000000000) | PDPTE_RESERVED)) {
                return page_fault(w, X86_PF_P | X86_PF_RSV);
            }
        } else {
            if (reserved64(c, e, shift, leaf) ||
                (shift == 30 && (e & PTE_PS) && !leaf)) {
                return page_fault(w, X86_PF_P | X86_PF_RSV);
            }
            x->user &= (e & PTE_U) != 0;
            x->writable &= (e & PTE_W) != 0;
            x->nx |= (e & PTE_NX) != 0;
        }
        table = e & c->core->phys_mask & PAGE_MASK;
        if (leaf) {
            uint64_t off = (UINT64_C(1) << shift) - 1;
            x->gpa = ((table & ~off) | (w->la & off)) & PAGE_MASK;
            x->shift = (uint8_t)shift;
            x->global = (e & PTE_G) && (c->s.cr4 & X86_CR4_PGE);
            x->dirty = e & PTE_D;
            return true;
        }
    }
}

static bool walk_tables32(struct walk *w, struct xlat *x)
{
    struct t0_cpu *c = w->c;
    w->width = 4;
    x->nx = false;
    uint64_t table = c->s.cr3 & 0xfffff000u;
    uint64_t e = next_level(w, table + ((w->la >> 22) & 1023) * 4);
    if (!(e & PTE_P)) {
        return page_fault(w, 0);
    }
    x->user = e & PTE_U;
    x->writable = e & PTE_W;
    if ((e & PTE_PS) && (c->s.cr4 & X86_CR4_PSE)) {
        /* PSE-36: bits 13-20 are address bits 32-39 (5.2.3). */
        uint64_t base = (e & 0xffc00000u) | (e >> 13 & 0xff) << 32;
        if ((e & (1u << 21)) || (base & ~c->core->phys_mask)) {
            return page_fault(w, X86_PF_P | X86_PF_RSV);
        }
        x->gpa = base | (w->la & 0x3ff000);
        x->shift = 22;
    } else {
        e = next_level(w, (e & 0xfffff000u) + ((w->la >> 12) & 1023) * 4);
        if (!(e & PTE_P)) {
            return page_fault(w, 0);
        }
        x->user &= (e & PTE_U) != 0;
        x->writable &= (e & PTE_W) != 0;
        x->gpa = e & 0xfffff000u;
        x->shift = 12;
    }
    x->global = (e & PTE_G) && (c->s.cr4 & X86_CR4_PGE);
    x->dirty = e & PTE_D;
    return true;
}

/* Permission of the whole path (5.6). */
static bool allowed(const struct walk *w, const struct xlat *x)
{
    const struct x86_state *s = &w->c->s;
    if (w->access == ACCESS_EXEC && x->nx && (s->efer & X86_EFER_NXE)) {
        return false;
    }
    if (is_user(w->bank)) {
        return x->user && (x->writable || w->access != ACCESS_WRITE);
    }
    if (w->access == ACCESS_EXEC) {
        return !(x->user && (s->cr4 & X86_CR4_SMEP));
    }
    if (x->user && w->bank == T0_BANK_KERNEL_SMAP) {
        return false;
    }
    return w->access != ACCESS_WRITE || x->writable || !(s->cr0 & X86_CR0_WP);
}

/* Translate @la. False: c->exc is a #PF. The A20 gate acts here, on what tables and
 * TLBs are filled with, and nowhere else. */
static bool walk(struct t0_cpu *c, uint64_t la, unsigned access, unsigned bank,
                 struct xlat *x)
{
    c->core->n.walks++;
    if (!(c->s.cr0 & X86_CR0_PG)) {
        *x = (struct xlat){.gpa = la & PAGE_MASK & c->core->a20_mask,
                           .user = true,
                           .writable = true,
                           .dirty = true,
                           .shift = 12};
        return true;
    }
    for (;;) {
        struct walk w = {.c = c, .la = la, .access = access, .bank = bank};
        bool ok =
            (c->s.cr4 & X86_CR4_PAE) ? walk_tables64(&w, x) : walk_tables32(&w, x);
        if (!ok) {
            return false;
        }
        if (!allowed(&w, x)) {
            return page_fault(&w, X86_PF_P);
        }
        /* PAE's page-directory pointers have no Accessed bit. */
        unsigned first = w.width == 8 && !t0_long_mode(c) ? 1 : 0;
        bool same = true;
        for (unsigned i = first; i < w.nb && same; i++) {
            bool leaf = i == w.nb - 1;
            uint64_t bits = PTE_A | (leaf && access == ACCESS_WRITE ? PTE_D : 0);
            same = set_bits(&w, i, bits);
        }
        if (likely(same)) {
            x->dirty |= access == ACCESS_WRITE;
            x->gpa &= c->core->a20_mask;
            return true;
        }
    }
}

bool t0_pdptes_ok(struct t0_cpu *c, uint64_t cr3)
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t gpa = (cr3 & 0xffffffe0u) + i * 8;
        const struct gmem_region *r = find_region(c, gpa);
        uint64_t e = r ? read_entry(r, gpa, 8) : 0;
        if ((e & PTE_P) && (e & (~c->core->phys_mask | PDPTE_RESERVED))) {
            return false;
        }
    }
    return true;
}

/* --- The TLB --------------------------------------------------------------- */

/* Whether all of the 2 MiB around @gpa are in @r. */
static bool in_one_piece(const struct gmem_region *r, uint64_t gpa)
{
    uint64_t size = UINT64_C(2) << 20, start = gpa & ~(size - 1);
    return start >= r->gpa && r->len >= size && start - r->gpa <= r->len - size;
}

/* @r is the region of x->gpa, or NULL. @watched: no access is to be fast. */
static void fill(struct t0_cpu *c, uint64_t la, unsigned bank, bool write,
                 const struct xlat *x, const struct gmem_region *r, bool watched)
{
    struct t0_core *core = c->core;
    unsigned i = (la >> 12) & (T0_TLB_SIZE - 1);
    uint64_t page = la & PAGE_MASK;
    struct t0_tlb_entry *e = &c->banks[bank][i];
    struct t0_tlb_side *side = &core->side[bank][i];
    bool wp = is_user(bank) || (c->s.cr0 & X86_CR0_WP);

    t0_tlb_note(c, bank, i, la, x->shift, x->global);
    if (side->read != page || (side->gpa & PAGE_MASK) != x->gpa) {
        t0_tlb_uncopy(c, e);
    }
    unsigned group = is_user(bank) ? T1_GROUP_USER
                     : x->global   ? T1_GROUP_GLOBAL
                                   : T1_GROUP_LOCAL;
    e->group = (uint32_t)(group * sizeof(c->t1.filled[0]));
    e->large = r && x->shift >= 21 && in_one_piece(r, x->gpa) &&
               core->a20_mask == UINT64_MAX && !(c->debug & T0_DEBUG_DATA);
    side->region = r;
    side->gpa = x->gpa;
    if (x->global) {
        side->gpa |= T0_SIDE_GLOBAL;
    }
    if (x->shift > 12) {
        side->gpa |= T0_SIDE_LARGE;
    }
    side->read = page;
    side->write = x->dirty && (x->writable || !wp) ? page : T0_TLB_NONE;
    e->read = e->write = t0_tlb_none(i);
    if (r && bank != T0_BANK_USER_AC && !watched) {
        uint64_t n = (x->gpa - r->gpa) >> GMEM_PAGE_SHIFT;
        e->addend = (uintptr_t)(r->host + (x->gpa - r->gpa)) - page;
        e->read = ~page;
        if (side->write == page && r->kind == GMEM_RAM &&
            (write || (atomic_load_explicit(&r->dirty[n], memory_order_relaxed) & 1)) &&
            atomic_load_explicit(&r->code[n], memory_order_acquire) == 0) {
            atomic_fetch_or_explicit(&r->dirty[n], 1, memory_order_relaxed);
            e->write = ~page;
        }
    }
}

/* Make a store translation fast again when nothing stands against it any more. */
static void refill_write(struct t0_cpu *c, struct t0_tlb_entry *e,
                         const struct t0_tlb_side *side)
{
    const struct gmem_region *r = side->region;
    if (!r || r->kind != GMEM_RAM || e->read != ~side->write) {
        return;
    }
    uint64_t n = ((side->gpa & PAGE_MASK) - r->gpa) >> GMEM_PAGE_SHIFT;
    if (!(atomic_load_explicit(&r->dirty[n], memory_order_relaxed) & 1)) {
        atomic_fetch_or_explicit(&r->dirty[n], 1, memory_order_relaxed);
    }
    if (atomic_load_explicit(&r->code[n], memory_order_acquire) == 0) {
        e->write = ~side->write;
    }
}

static unsigned current_bank(const struct t0_cpu *c)
{
    return (unsigned)((c->tlb - c->banks[0]) / T0_TLB_SIZE);
}

unsigned t0_bank_for(const struct t0_cpu *c, unsigned cpl)
{
    if (cpl == 3) {
        return T0_BANK_USER;
    }
    return (c->s.cr4 & X86_CR4_SMAP) ? T0_BANK_KERNEL_SMAP : T0_BANK_KERNEL;
}

struct t0_tlb_entry *t0_use_bank(struct t0_cpu *c, unsigned bank)
{
    struct t0_tlb_entry *old = c->tlb;
    c->tlb = c->banks[bank];
    return old;
}

/* --- The quick way ------------------------------------------------------------ */

/* Set @bits of the leaf that is @e in @r at @gpa. False: it is more than that. */
static bool quick_bits(struct t0_cpu *c, const struct gmem_region *r, uint64_t gpa,
                       uint64_t e, uint64_t bits)
{
    uint64_t page = (gpa - r->gpa) >> GMEM_PAGE_SHIFT;
    if (c->vcpu->vm->nb_vcpus > 1 || r->kind != GMEM_RAM ||
        atomic_load_explicit(&r->code[page], memory_order_relaxed)) {
        return false;
    }
    uint64_t *p = (uint64_t *)(void *)(r->host + (gpa - r->gpa));
    if (!__atomic_compare_exchange_n(p, &e, e | bits, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_RELAXED)) {
        return false;
    }
    atomic_fetch_or_explicit(&r->dirty[page], 1, memory_order_relaxed);
    return true;
}

/* As walk(), where that ends well and tables are in RAM, accessed already. */
static bool quick_walk(struct t0_cpu *c, uint64_t la, bool write, unsigned bank,
                       struct xlat *x)
{
    struct t0_core *core = c->core;
    const struct gmem_region *r;
    unsigned shift = (c->s.cr4 & X86_CR4_LA57) ? 48 : 39;
    uint64_t bad = ~core->phys_mask & UINT64_C(0x000ffffffffff000);
    uint64_t table = c->s.cr3 & core->phys_mask & PAGE_MASK, all = UINT64_MAX, e, gpa;
    bad |= (c->s.efer & X86_EFER_NXE) ? 0 : PTE_NX;
    for (;; shift -= 9) {
        gpa = table + ((la >> shift) & 511) * 8;
        r = known_region(core, gpa);
        if (unlikely(!r)) {
            return false;
        }
        e = read_entry(r, gpa, 8);
        if (unlikely(!(e & PTE_P) || (e & bad))) {
            return false;
        }
        all &= e;
        table = e & core->phys_mask & PAGE_MASK;
        if (shift == 12 || (e & PTE_PS)) {
            break;
        }
        if (unlikely(!(e & PTE_A))) {
            return false;
        }
    }
    if (unlikely(shift > 21)) {
        return false; /* a page of 1 GiB, or a mistake */
    }
    uint64_t off = (UINT64_C(1) << shift) - 1;
    if (unlikely(shift == 21 && (table & off & ~UINT64_C(0x1000)))) {
        return false; /* reserved; the lowest is PAT */
    }
    *x = (struct xlat){
        .gpa = ((table & ~off) | (la & off)) & PAGE_MASK,
        .user = all & PTE_U,
        .writable = all & PTE_W,
        .dirty = write || (e & PTE_D),
        .global = (e & PTE_G) && (c->s.cr4 & X86_CR4_PGE),
        .shift = (uint8_t)shift,
    };
    struct walk w;
    w.c = c;
    w.access = write ? ACCESS_WRITE : ACCESS_READ;
    w.bank = bank;
    if (unlikely(!allowed(&w, x) || !known_region(core, x->gpa))) {
        return false;
    }
    uint64_t bits = PTE_A | (write ? PTE_D : 0);
    return likely((e & bits) == bits) || quick_bits(c, r, gpa, e, bits);
}

uint64_t t0_tlb_quick(struct t0_cpu *c, uint64_t la, uint32_t write)
{
    unsigned bank = current_bank(c), i = (la >> 12) & (T0_TLB_SIZE - 1);
    struct t0_tlb_entry *e = &c->tlb[i];
    const struct t0_tlb_side *side = &c->core->side[bank][i];
    uint64_t page = la & PAGE_MASK;
    struct xlat x;
    if (unlikely(!t0_long_mode(c) || !t0_canonical(c, la) || c->debug ||
                 bank == T0_BANK_USER_AC || c->core->a20_mask != UINT64_MAX ||
                 (write ? e->write : e->read) == ~page)) {
        return 1;
    }
    if (side->read == page && (!write || side->write == page)) {
        refill_write(c, e, side);
    } else {
        if (!quick_walk(c, la, write, bank, &x)) {
            return 1;
        }
        c->core->n.walks++;
        fill(c, la, bank, write, &x, known_region(c->core, x.gpa), false);
    }
    return (write ? e->write : e->read) != ~page;
}

/* --- Operands ------------------------------------------------------------------ */

/* Alignment of an operand of 2, 4, 8, 16 or 32 bytes in user code that asked for the
 * check (APM 2 8.2.18). Non-zero with c->exc set. */
static inline uint64_t misaligned(struct t0_cpu *c, uint64_t la, unsigned size,
                                  unsigned seg)
{
    if (likely(c->tlb != c->banks[T0_BANK_USER_AC]) || !(la & (size - 1)) ||
        (t0_long_mode(c) && !t0_canonical(c, la)) ||
        (!t0_is64(c) && (c->mode & T0_MODE_FLAT) && seg < X86_FS &&
         la + size - 1 > UINT32_MAX)) { /* which come first */
        return 0;
    }
    t0_set_exc_error(c, X86_EXC_AC, 0);
    return 1;
}

/* The same of operands for which that is not always their size (APM 2 table 8-6), the
 * x87's environments among them. Save areas are aligned by rules of their own. */
static inline uint64_t misaligned_bytes(struct t0_cpu *c, uint64_t la, unsigned size,
                                        unsigned seg)
{
    switch (size) {
    case 10: return misaligned(c, la, 8, seg);
    case 32: return misaligned(c, la, 16, seg);
    case 14:
    case 94: return misaligned(c, la, 2, seg);
    case 28:
    case 108: return misaligned(c, la, 4, seg);
    default: {
        bool one = size <= 16 && !(size & (size - 1));
        return misaligned(c, la, one ? size : 1, seg);
    }
    }
}

static uint64_t raise_bad_address(struct t0_cpu *c, unsigned seg)
{
    t0_set_exc_error(c, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);
    return 1;
}

/* Translate one page for a data access. Returns 0, or 1 with c->exc set. */
static uint64_t get_page(struct t0_cpu *c, uint64_t la, bool write, unsigned seg,
                         struct page_ref *ret)
{
    unsigned i = (la >> 12) & (T0_TLB_SIZE - 1);
    unsigned bank = current_bank(c);
    struct t0_tlb_side *side = &c->core->side[bank][i];
    uint64_t page = la & PAGE_MASK;
    if ((write ? side->write : side->read) != page) {
        struct xlat x;
        if (!t0_long_mode(c)) {
            la = (uint32_t)la; /* the second page of an access may wrap */
        } else if (unlikely(!t0_canonical(c, la))) {
            return raise_bad_address(c, seg);
        }
        if (!walk(c, la, write ? ACCESS_WRITE : ACCESS_READ, bank, &x)) {
            return 1;
        }
        bool watched =
            (c->debug & T0_DEBUG_DATA) && t0_debug_watches(c, la & PAGE_MASK);
        fill(c, la, bank, write, &x, find_region(c, x.gpa), watched);
        i = (la >> 12) & (T0_TLB_SIZE - 1);
        side = &c->core->side[bank][i];
    } else if (write) {
        refill_write(c, &c->tlb[i], side);
    }
    ret->gpa = side->gpa & PAGE_MASK;
    ret->region = side->region;
    return 0;
}

struct t0_itlb_entry *t0_itlb_fill(struct t0_cpu *c, uint64_t la)
{
    struct xlat x;
    unsigned bank = (c->mode & T0_MODE_CPL3) ? T0_BANK_USER : T0_BANK_KERNEL;
    if (t0_is64(c) && !t0_canonical(c, la)) {
        t0_set_exc_error(c, X86_EXC_GP, 0);
        return NULL;
    }
    if (!walk(c, la, ACCESS_EXEC, bank, &x)) {
        return NULL;
    }
    struct t0_itlb_entry *e = t0_itlb_slot(c, la);
    const struct gmem_region *r = find_region(c, x.gpa);
    e->tag = t0_itlb_tag(c, la);
    e->gpa = x.gpa;
    if (x.global) {
        e->gpa |= T0_SIDE_GLOBAL;
    }
    if (x.shift > 12) {
        e->gpa |= T0_SIDE_LARGE;
    }
    t0_itlb_note(c, e, la, x.shift, x.global);
    e->host = r ? r->host + (x.gpa - r->gpa) : NULL;
    return e;
}

/* --- Slow accesses --------------------------------------------------------- */

static uint8_t *host_of(const struct page_ref *p, uint64_t la)
{
    return p->region->host + (p->gpa - p->region->gpa) + (la & PAGE_OFF);
}

/* Largest naturally sized piece of @n bytes at @gpa for a device. */
static unsigned mmio_piece(uint64_t gpa, unsigned n)
{
    unsigned size = 8;
    while (size > n || (gpa & (size - 1))) {
        size /= 2;
    }
    return size;
}

static uint64_t mmio_read(struct t0_cpu *c, uint64_t gpa, unsigned size)
{
    uint64_t v;
    return lapic_moved_read(c->vcpu, gpa, size, &v)
               ? v
               : vcpu_mmio_read(c->vcpu, gpa, size);
}

/* What a device wants of this vCPU is looked at with the next instruction. */
static void mmio_write(struct t0_cpu *c, uint64_t gpa, uint64_t v, unsigned size)
{
    if (!lapic_moved_write(c->vcpu, gpa, v)) {
        vcpu_mmio_write(c->vcpu, gpa, v, size);
    }
    if (unlikely(vcpu_wants_attention(c->vcpu))) {
        t0_block_abandon(c);
    }
}

static void read_page(struct t0_cpu *c, const struct page_ref *p, uint64_t la,
                      void *buf, unsigned n)
{
    uint8_t *out = buf;
    if (p->region) {
        gmem_copy(out, host_of(p, la), n);
        return;
    }
    uint64_t gpa = p->gpa | (la & PAGE_OFF);
    t0_fpu_lend(c);
    while (n) {
        unsigned k = mmio_piece(gpa, n);
        uint64_t v = mmio_read(c, gpa, k);
        memcpy(out, &v, k);
        out += k, gpa += k, n -= k;
    }
}

static void after_store(struct t0_cpu *c, const struct page_ref *p, uint64_t la,
                        unsigned n)
{
    t0_code_stored(c, p->region, p->gpa | (la & PAGE_OFF), n);
}

static bool has_code(const struct page_ref *p)
{
    const struct gmem_region *r = p->region;
    return atomic_load_explicit(&r->code[(p->gpa - r->gpa) >> GMEM_PAGE_SHIFT],
                                memory_order_relaxed) != 0;
}

/*
 * A store to a page with code that leaves the bytes as they were, as that of a
 * trampoline that is written again, does nothing to the code. Nobody else may store in
 * between: with other vCPUs only an exchange can tell. (What a device stores in between
 * is in the inbox.) False: nothing was stored.
 */
static bool keeps_code(struct t0_cpu *c, const struct page_ref *p, uint64_t la,
                       const void *buf, unsigned n)
{
    if (likely(!has_code(p)) || c->vcpu->vm->nb_vcpus > 1 ||
        !t0_same_bytes(buf, host_of(p, la), n)) {
        return false;
    }
    gmem_copy(host_of(p, la), buf, n);
    t0_code_kept(c, p->gpa);
    return true;
}

/* The same of a word, which is stored in any case. */
static bool exchange_keeps(void *h, uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        return __atomic_exchange_n((uint8_t *)h, (uint8_t)v, __ATOMIC_SEQ_CST) ==
               (uint8_t)v;
    case 2:
        return __atomic_exchange_n((uint16_t *)h, (uint16_t)v, __ATOMIC_SEQ_CST) ==
               (uint16_t)v;
    case 4:
        return __atomic_exchange_n((uint32_t *)h, (uint32_t)v, __ATOMIC_SEQ_CST) ==
               (uint32_t)v;
    default: return __atomic_exchange_n((uint64_t *)h, v, __ATOMIC_SEQ_CST) == v;
    }
}

static void store_word(void *h, uint64_t v, unsigned size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)h = (uint8_t)v; break;
    case 2: *(volatile uint16_t *)h = (uint16_t)v; break;
    case 4: *(volatile uint32_t *)h = (uint32_t)v; break;
    default: *(volatile uint64_t *)h = v; break;
    }
}

static void store_ram(struct t0_cpu *c, const struct page_ref *p, uint64_t la,
                      uint64_t v, unsigned size)
{
    void *h = host_of(p, la);
    bool aligned = !(la & (size - 1));
    if (unlikely(has_code(p)) && aligned) {
        if (exchange_keeps(h, v, size)) {
            t0_code_kept(c, p->gpa);
            return;
        }
    } else if (keeps_code(c, p, la, &v, size)) {
        return;
    } else {
        store_word(h, v, size);
    }
    after_store(c, p, la, size);
}

static void write_page(struct t0_cpu *c, const struct page_ref *p, uint64_t la,
                       const void *buf, unsigned n)
{
    const uint8_t *in = buf;
    if (p->region) {
        if (p->region->kind == GMEM_RAM && !keeps_code(c, p, la, in, n)) {
            gmem_copy(host_of(p, la), in, n);
            after_store(c, p, la, n);
        }
        return;
    }
    uint64_t gpa = p->gpa | (la & PAGE_OFF);
    t0_fpu_lend(c);
    while (n) {
        unsigned k = mmio_piece(gpa, n);
        uint64_t v = 0;
        memcpy(&v, in, k);
        mmio_write(c, gpa, v, k);
        in += k, gpa += k, n -= k;
    }
}

static unsigned first_part(uint64_t la, unsigned size)
{
    unsigned room = (unsigned)(GMEM_PAGE_SIZE - (la & PAGE_OFF));
    return size < room ? size : room;
}

/* Both pages of [la, la + size); @ret[1] only when it crosses. */
static uint64_t get_pages(struct t0_cpu *c, uint64_t la, unsigned size, bool write,
                          unsigned seg, struct page_ref ret[2])
{
    unsigned n = first_part(la, size);
    if (unlikely(n < size && t0_long_mode(c) && !t0_canonical(c, la + n))) {
        return raise_bad_address(c, seg); /* before any fault of the first page */
    }
    uint64_t next = la + n;
    if (unlikely(n < size && next > UINT32_MAX && !t0_is64(c))) {
        if ((c->mode & T0_MODE_FLAT) && seg < X86_FS) {
            return raise_bad_address(c, seg); /* beyond the limit, which is the top */
        }
        next = (uint32_t)next;
    }
    if (get_page(c, la, write, seg, &ret[0])) {
        return 1;
    }
    return n < size && get_page(c, next, write, seg, &ret[1]);
}

/* The access will be done: breakpoints on data. */
static inline void watch(struct t0_cpu *c, uint64_t la, unsigned size, bool write)
{
    if (unlikely(c->debug & T0_DEBUG_DATA)) {
        t0_debug_access(c, la, size, write);
    }
}

struct t0_val t0_load_slow(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    struct page_ref p[2];
    struct t0_val r = {0, 0};
    if (misaligned(c, la, size, seg) || get_pages(c, la, size, false, seg, p)) {
        r.fault = 1;
        return r;
    }
    watch(c, la, size, false);
    unsigned n = first_part(la, size);
    if (n < size) {
        read_page(c, &p[0], la, &r.v, n);
        read_page(c, &p[1], la + n, (uint8_t *)&r.v + n, size - n);
    } else if (p[0].region) {
        const void *h = host_of(&p[0], la);
        switch (size) {
        case 1: r.v = *(const volatile uint8_t *)h; break;
        case 2: r.v = *(const volatile uint16_t *)h; break;
        case 4: r.v = *(const volatile uint32_t *)h; break;
        default: r.v = *(const volatile uint64_t *)h; break;
        }
    } else {
        t0_fpu_lend(c);
        r.v = mmio_read(c, p[0].gpa | (la & PAGE_OFF), size);
    }
    return r;
}

uint64_t t0_store_slow(struct t0_cpu *c, uint64_t la, uint64_t v, unsigned size,
                       unsigned seg)
{
    struct page_ref p[2];
    if (misaligned(c, la, size, seg) || get_pages(c, la, size, true, seg, p)) {
        return 1;
    }
    watch(c, la, size, true);
    unsigned n = first_part(la, size);
    if (n < size) {
        write_page(c, &p[0], la, &v, n);
        write_page(c, &p[1], la + n, (uint8_t *)&v + n, size - n);
    } else if (!p[0].region) {
        t0_fpu_lend(c);
        mmio_write(c, p[0].gpa | (la & PAGE_OFF), v, size);
    } else if (p[0].region->kind == GMEM_RAM) {
        store_ram(c, &p[0], la, v, size);
    }
    return 0;
}

static inline uint64_t read_bytes(struct t0_cpu *c, uint64_t la, void *buf,
                                  unsigned size, unsigned seg, bool watched)
{
    struct page_ref p[2];
    const void *h = t0_host_read(c, la, size);
    if (likely(h != NULL)) {
        gmem_copy(buf, h, size);
        return 0;
    }
    if (misaligned_bytes(c, la, size, seg) || get_pages(c, la, size, false, seg, p)) {
        return 1;
    }
    if (watched) {
        watch(c, la, size, false);
    }
    unsigned n = first_part(la, size);
    read_page(c, &p[0], la, buf, n);
    if (n < size) {
        read_page(c, &p[1], la + n, (uint8_t *)buf + n, size - n);
    }
    return 0;
}

uint64_t t0_read_bytes(struct t0_cpu *c, uint64_t la, void *buf, unsigned size,
                       unsigned seg)
{
    return read_bytes(c, la, buf, size, seg, true);
}

static inline uint64_t write_bytes(struct t0_cpu *c, uint64_t la, const void *buf,
                                   unsigned size, unsigned seg, bool watched)
{
    struct page_ref p[2];
    void *h = t0_host_write(c, la, size);
    if (likely(h != NULL)) {
        gmem_copy(h, buf, size);
        return 0;
    }
    if (misaligned_bytes(c, la, size, seg) || get_pages(c, la, size, true, seg, p)) {
        return 1;
    }
    if (watched) {
        watch(c, la, size, true);
    }
    unsigned n = first_part(la, size);
    write_page(c, &p[0], la, buf, n);
    if (n < size) {
        write_page(c, &p[1], la + n, (const uint8_t *)buf + n, size - n);
    }
    return 0;
}

uint64_t t0_write_bytes(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size,
                        unsigned seg)
{
    return write_bytes(c, la, buf, size, seg, true);
}

uint64_t t0_probe_write(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    struct page_ref p[2];
    if (t0_host_write(c, la, size)) {
        return 0;
    }
    return misaligned_bytes(c, la, size, seg) || get_pages(c, la, size, true, seg, p);
}

uint64_t t0_sys_read(struct t0_cpu *c, uint64_t la, void *buf, unsigned size)
{
    struct t0_tlb_entry *old = t0_use_bank(c, t0_bank_for(c, 0));
    uint64_t r = read_bytes(c, la, buf, size, X86_DS, false);
    c->tlb = old;
    return r;
}

uint64_t t0_sys_write(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size)
{
    struct t0_tlb_entry *old = t0_use_bank(c, t0_bank_for(c, 0));
    uint64_t r = write_bytes(c, la, buf, size, X86_DS, false);
    c->tlb = old;
    return r;
}

/* --- MONITOR --------------------------------------------------------------- */

#define MONITOR_LINE UINT64_C(64)

static void copy_line(uint64_t to[8], const struct gmem_region *r, uint64_t gpa)
{
    const uint64_t *p = (const uint64_t *)(const void *)(r->host + (gpa - r->gpa));
    for (unsigned i = 0; i < 8; i++) {
        to[i] = __atomic_load_n(&p[i], __ATOMIC_RELAXED);
    }
}

/* As a load of one byte (APM 3 MONITOR). What is no memory is not watched. */
uint64_t t0_monitor(struct t0_cpu *c, uint64_t la, unsigned seg)
{
    struct t0_core *core = c->core;
    struct page_ref p;
    core->monitor.armed = false;
    if (get_page(c, la, false, seg, &p)) {
        return 1;
    }
    if (p.region) {
        core->monitor.gpa = p.gpa | (la & PAGE_OFF & ~(MONITOR_LINE - 1));
        copy_line(core->monitor.line, p.region, core->monitor.gpa);
        core->monitor.armed = true;
    }
    return 0;
}

/* Whether the line is no longer what it was. */
bool t0_monitor_hit(const struct t0_cpu *c)
{
    const struct t0_core *core = c->core;
    const struct gmem_region *r = gmem_find(c->vcpu->vm->gmem, core->monitor.gpa);
    uint64_t now[8];
    if (!r) {
        return true;
    }
    copy_line(now, r, core->monitor.gpa);
    return memcmp(now, core->monitor.line, sizeof(now)) != 0;
}

/* --- Read-modify-write ----------------------------------------------------- */

struct t0_val t0_rmw_begin_slow(struct t0_cpu *c, uint64_t la, unsigned size,
                                unsigned seg)
{
    struct t0_core *core = c->core;
    struct page_ref p[2];
    if (misaligned(c, la, size, seg) || get_pages(c, la, size, true, seg, p)) {
        return (struct t0_val){0, 1};
    }
    watch(c, la, size, true);
    void *h = t0_host_write(c, la, size);
    if (h) {
        return (struct t0_val){(uint64_t)(uintptr_t)h, 0};
    }
    unsigned n = first_part(la, size);
    core->rmw.la = la;
    core->rmw.size = size;
    core->rmw.seg = seg;
    if (n == size && p[0].region && p[0].region->kind == GMEM_RAM) {
        core->rmw.region = p[0].region;
        core->rmw.gpa = p[0].gpa | (la & PAGE_OFF);
        c->rmw_open = T0_RMW_IN_PLACE;
        return (struct t0_val){(uint64_t)(uintptr_t)host_of(&p[0], la), 0};
    }
    core->rmw.alone = n < size && p[0].region && p[1].region;
    if (core->rmw.alone) {
        t0_exclusive_begin(c);
    } else {
        g_mutex_lock(&core->tvm->split);
    }
    read_page(c, &p[0], la, c->bounce, n);
    if (n < size) {
        read_page(c, &p[1], la + n, c->bounce + n, size - n);
    }
    c->rmw_open = T0_RMW_BOUNCE;
    return (struct t0_val){(uint64_t)(uintptr_t)c->bounce, 0};
}

void t0_rmw_end_slow(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    uint8_t how = c->rmw_open;
    c->rmw_open = T0_RMW_NONE;
    if (how == T0_RMW_IN_PLACE) {
        t0_code_stored(c, core->rmw.region, core->rmw.gpa, core->rmw.size);
        return;
    }
    /* The pages were translated for writing by the begin. */
    struct page_ref p[2];
    uint64_t la = core->rmw.la;
    unsigned size = core->rmw.size, n = first_part(la, size);
    if (!get_pages(c, la, size, true, core->rmw.seg, p)) {
        write_page(c, &p[0], la, c->bounce, n);
        if (n < size) {
            write_page(c, &p[1], la + n, c->bounce + n, size - n);
        }
    }
    if (core->rmw.alone) {
        t0_exclusive_end(c);
    } else {
        g_mutex_unlock(&core->tvm->split);
    }
}

/* --- Segments -------------------------------------------------------------- */

/* Whether [off, off + size) is inside the limit (APM 2 4.12). */
static bool in_limit(const struct x86_segment *seg, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;
    if (!(seg->attr & X86_SEG_CODE) && (seg->attr & X86_SEG_DOWN)) {
        uint64_t top = (seg->attr & X86_SEG_DB) ? UINT32_MAX : 0xffff;
        return off > seg->limit && last <= top;
    }
    return last <= seg->limit;
}

struct t0_val t0_seg_linear(struct t0_cpu *c, unsigned seg, uint64_t off, unsigned size,
                            bool write)
{
    const struct x86_segment *s = &c->s.seg[seg];
    if (t0_is64(c)) {
        return (struct t0_val){off + c->seg_base[seg], 0};
    }
    bool ok = s->attr & X86_SEG_P; /* null selectors have no P either */
    if (c->mode & T0_MODE_PE) {
        bool code = s->attr & X86_SEG_CODE, rw = s->attr & X86_SEG_RW;
        ok = ok && (write ? !code && rw : !code || rw);
    }
    if (unlikely(!ok || !in_limit(s, off, size ? size : 1))) {
        return (struct t0_val){0, raise_bad_address(c, seg)};
    }
    return (struct t0_val){(uint32_t)(s->base + off), 0};
}

struct t0_val t0_ea_slow(struct t0_cpu *c, const struct t0_op *op, unsigned size,
                         bool write)
{
    uint64_t off = t0_offset(c, op);
    if (op->ea == T0_EA_GENERAL) {
        off = (uint16_t)off;
    } else if (op->ea == T0_EA_GENERAL32) {
        off = (uint32_t)off;
    }
    return t0_seg_linear(c, op->seg, off, size, write);
}

/* --- Stack ----------------------------------------------------------------- */

static uint64_t stack_mask(const struct t0_cpu *c)
{
    return t0_is64(c) ? UINT64_MAX : (c->mode & T0_MODE_STACK32) ? UINT32_MAX : 0xffff;
}

void t0_sp_add(struct t0_cpu *c, int64_t delta)
{
    uint64_t sp = c->gpr[X86_RSP] + (uint64_t)delta;
    if (t0_is64(c)) {
        c->gpr[X86_RSP] = sp;
    } else if (c->mode & T0_MODE_STACK32) {
        c->gpr[X86_RSP] = (uint32_t)sp;
    } else {
        T0_W16(c, X86_RSP * 8, sp);
    }
}

uint64_t t0_push(struct t0_cpu *c, uint64_t v, unsigned size)
{
    uint64_t sp = (c->gpr[X86_RSP] - size) & stack_mask(c);
    if (!t0_is64(c)) {
        struct t0_val a = t0_seg_linear(c, X86_SS, sp, size, true);
        if (unlikely(a.fault)) {
            return 1;
        }
        sp = a.v;
    }
    if (unlikely(t0_store(c, sp, v, size, X86_SS))) {
        return 1;
    }
    t0_sp_add(c, -(int64_t)size);
    return 0;
}

struct t0_val t0_pop_peek(struct t0_cpu *c, unsigned size)
{
    uint64_t sp = c->gpr[X86_RSP] & stack_mask(c);
    if (!t0_is64(c)) {
        struct t0_val a = t0_seg_linear(c, X86_SS, sp, size, false);
        if (unlikely(a.fault)) {
            return a;
        }
        sp = a.v;
    }
    return t0_load(c, sp, size, X86_SS);
}
