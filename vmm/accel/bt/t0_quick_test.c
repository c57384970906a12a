#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_priv.h"
#include "vmm/accel/bt/t0_test.h"

/*
 * The quick way to fill the TLB (t0_tlb_quick()) against the one that knows everything:
 * whatever page tables hold, it leaves the same entry and the same tables, or nothing.
 */

#define P  UINT64_C(1)
#define W  UINT64_C(2)
#define U  UINT64_C(4)
#define A  UINT64_C(0x20)
#define D  UINT64_C(0x40)
#define PS UINT64_C(0x80)
#define G  UINT64_C(0x100)
#define NX (UINT64_C(1) << 63)

enum { PDPT = T0_TEST_PML4 + 0x1000, PD = 0x100000, PT = 0x101000, PAGE = 0x200000 };
enum { RAM_KIB = 8192, NB_LEVELS = 4 };

#define LA UINT64_C(0x40005678) /* its entries in the four tables: */
static const uint32_t entry_at[NB_LEVELS] = {T0_TEST_PML4, PDPT + 8, PD, PT + 5 * 8};
static const uint64_t leads_to[NB_LEVELS] = {PDPT, PD, PT, PAGE};

struct tables {
    uint64_t e[NB_LEVELS];
};

static void put_tables(struct t0_test *t, const struct tables *s)
{
    for (unsigned i = 0; i < NB_LEVELS; i++) {
        le64_put(t->ram + entry_at[i], s->e[i]);
    }
}

static struct tables get_tables(const struct t0_test *t)
{
    struct tables s;
    for (unsigned i = 0; i < NB_LEVELS; i++) {
        s.e[i] = le64_get(t->ram + entry_at[i]);
    }
    return s;
}

static bool one_in(GRand *r, int n)
{
    return g_rand_int_range(r, 0, n) == 0;
}

static struct tables some_tables(GRand *r)
{
    struct tables s;
    for (unsigned i = 0; i < NB_LEVELS; i++) {
        bool leaf = i == NB_LEVELS - 1;
        uint64_t e = leads_to[i] | P | W | U | A | (leaf ? D : 0);
        e ^= one_in(r, 40) ? P : 0;
        e ^= one_in(r, 8) ? W : 0;
        e ^= one_in(r, 6) ? U : 0;
        e ^= one_in(r, leaf ? 3 : 25) ? A : 0;
        e ^= one_in(r, 3) ? D : 0;
        e ^= one_in(r, 12) ? PS : 0; /* of the last: PAT */
        e ^= one_in(r, 2) ? G : 0;
        e ^= one_in(r, 20) ? NX : 0;
        e ^= one_in(r, 40) ? UINT64_C(1) << g_rand_int_range(r, 12, 63) : 0;
        if (i == 2 && (e & PS) && !one_in(r, 3)) {
            e = (e & ~UINT64_C(0x1ff000)) | PAGE; /* a good page of 2 MiB */
        }
        s.e[i] = e;
    }
    return s;
}

static struct t0_cpu *machine(struct t0_test **ret)
{
    struct t0_test *t = t0_test_new(64, RAM_KIB, NULL);
    t0_test_code(t, "\xf4", 1);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    *ret = t;
    return t->vcpu->accel;
}

static void set_bit(uint64_t *v, uint64_t bit, bool on)
{
    *v = on ? *v | bit : *v & ~bit;
}

/* Some mode of kernel or user code; the bank. */
static unsigned some_mode(struct t0_cpu *c, GRand *r)
{
    unsigned bank = (unsigned)g_rand_int_range(r, 0, T0_NB_BANKS);
    bool user = bank <= T0_BANK_USER_AC;
    c->s.cpl = user ? 3 : 0;
    set_bit(&c->s.cr0, X86_CR0_WP, !one_in(r, 4));
    set_bit(&c->s.cr4, X86_CR4_PGE, !one_in(r, 4));
    set_bit(&c->s.cr4, X86_CR4_SMAP, bank == T0_BANK_KERNEL_SMAP);
    set_bit(&c->s.efer, X86_EFER_NXE, !one_in(r, 4));
    t0_tlb_flush(c, true);
    t0_update_mode(c);
    c->tlb = c->banks[bank];
    return bank;
}

static struct t0_tlb_entry *entry_of(struct t0_cpu *c)
{
    return &c->tlb[LA >> 12 & (T0_TLB_SIZE - 1)];
}

static struct t0_tlb_side side_of(const struct t0_cpu *c, unsigned bank)
{
    return c->core->side[bank][LA >> 12 & (T0_TLB_SIZE - 1)];
}

static bool slow(struct t0_cpu *c, bool write)
{
    return write ? t0_store_slow(c, LA, 0, 1, X86_DS)
                 : t0_load_slow(c, LA, 1, X86_DS).fault;
}

/* It does not look for regions of memory. */
static void know_ram(struct t0_test *t, struct t0_cpu *c)
{
    c->core->last_region = gmem_find(t->vm->gmem, 0);
}

/* Returns whether the quick way did it. */
static bool compare_once(struct t0_test *t, struct t0_cpu *c, GRand *r)
{
    struct tables before = some_tables(r), after, wanted;
    unsigned bank = some_mode(c, r);
    bool write = one_in(r, 2);
    put_tables(t, &before);
    know_ram(t, c);
    if (one_in(r, 3)) {
        slow(c, false); /* known for reading, maybe for more */
        before = get_tables(t);
    }
    struct t0_tlb_entry first = *entry_of(c), quick;
    struct t0_tlb_side first_side = side_of(c, bank), quick_side;
    bool done = !t0_tlb_quick(c, LA, write);
    after = get_tables(t);
    quick = *entry_of(c);
    quick_side = side_of(c, bank);
    if (!done) {
        g_assert_cmpmem(&after, sizeof(after), &before, sizeof(before));
        g_assert_cmpmem(&quick, sizeof(quick), &first, sizeof(first));
        g_assert_cmpmem(&quick_side, sizeof(quick_side), &first_side,
                        sizeof(first_side));
        return false;
    }
    g_assert_cmphex(write ? quick.write : quick.read, ==, ~(LA & ~UINT64_C(0xfff)));
    put_tables(t, &before);
    t0_tlb_flush(c, true);
    g_assert_false(slow(c, write));
    wanted = get_tables(t);
    g_assert_cmpmem(&after, sizeof(after), &wanted, sizeof(wanted));
    const struct t0_tlb_entry *e = entry_of(c);
    struct t0_tlb_side side = side_of(c, bank);
    g_assert_cmphex(quick.read, ==, e->read);
    g_assert_cmphex(quick.write, ==, e->write);
    g_assert_cmphex(quick.addend, ==, e->addend);
    g_assert_cmphex(quick.group, ==, e->group);
    g_assert_cmphex(quick.large, ==, e->large);
    g_assert_cmpmem(&quick_side, sizeof(quick_side), &side, sizeof(side));
    return true;
}

static void what_it_fills_is_what_a_walk_finds(void)
{
    enum { TIMES = 60000 };
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    g_autoptr(GRand) r = g_rand_new_with_seed(7);
    unsigned done = 0;
    for (unsigned n = 0; n < TIMES; n++) {
        done += compare_once(t, c, r);
    }
    g_assert_cmpuint(done, >, TIMES / 8);
    t0_test_free(t);
}

/* Ordinary tables: that is what it is for. */
static void ordinary_pages_are_filled(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    for (unsigned n = 0; n < 16; n++) {
        bool user = n & 1, write = n & 2, large = n & 4, accessed = n & 8;
        struct tables s;
        for (unsigned i = 0; i < NB_LEVELS; i++) {
            s.e[i] = leads_to[i] | P | W | A | (user ? U : 0);
        }
        s.e[2] = large ? PAGE | P | W | PS | (user ? U : 0) : s.e[2];
        s.e[3] &= ~A;
        s.e[large ? 2 : 3] |= accessed ? A | D : 0;
        put_tables(t, &s);
        c->s.cpl = user ? 3 : 0;
        t0_tlb_flush(c, true);
        t0_update_mode(c);
        know_ram(t, c);
        g_assert_cmpuint(t0_tlb_quick(c, LA, write), ==, 0);
        g_assert_cmpuint(t0_tlb_quick(c, LA, write), ==, 1); /* it is there */
    }
    t0_test_free(t);
}

/* A table in a page with code: who executes it has to be told of what is set. */
static void tables_with_code_are_left_alone(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    struct tables s;
    for (unsigned i = 0; i < NB_LEVELS; i++) {
        s.e[i] = leads_to[i] | P | W | U | (i < 3 ? A : 0);
    }
    put_tables(t, &s);
    const struct gmem_region *r = gmem_find(t->vm->gmem, PT);
    t0_tlb_flush(c, false);
    know_ram(t, c);
    r->code[PT >> GMEM_PAGE_SHIFT] = 1;
    g_assert_cmpuint(t0_tlb_quick(c, LA, false), ==, 1);
    r->code[PT >> GMEM_PAGE_SHIFT] = 0;
    g_assert_false(slow(c, false));
    r->dirty[PT >> GMEM_PAGE_SHIFT] = 0;
    put_tables(t, &s);
    t0_tlb_flush(c, false); /* which forgets no regions */
    g_assert_cmpuint(t0_tlb_quick(c, LA, false), ==, 0);
    g_assert_cmpuint(r->dirty[PT >> GMEM_PAGE_SHIFT] & 1, ==, 1);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/quick/as_walk", what_it_fills_is_what_a_walk_finds);
    g_test_add_func("/t0/quick/ordinary", ordinary_pages_are_filled);
    g_test_add_func("/t0/quick/code", tables_with_code_are_left_alone);
    return g_test_run();
}
