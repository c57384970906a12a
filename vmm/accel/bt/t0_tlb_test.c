#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_priv.h"
#include "vmm/accel/bt/t0_test.h"

/*
 * Forgetting translations: what INVLPG, a load of CR3 and a page that becomes code
 * drop, and what they leave; and that the bitmaps always say what is in the TLBs. APM
 * vol. 2, 5.5.2 and 5.5.3: an INVLPG drops the translation of the whole page, of
 * whatever size.
 */

#define P  UINT64_C(1)
#define W  UINT64_C(2)
#define U  UINT64_C(4)
#define PS UINT64_C(0x80)
#define G  UINT64_C(0x100)

#define GIB1 UINT64_C(0x40000000) /* page tables with every size below 1 GiB */
#define GIB2 UINT64_C(0x80000000) /* a page of 1 GiB, not global */
#define GIB3 UINT64_C(0xc0000000) /* the same, global */
#define BIG  (GIB1 + 0x200000)    /* a page of 2 MiB, not global */
#define BIGG (GIB1 + 0x400000)    /* the same, global */

enum { PD = 0x100000, PT = 0x101000, RAM_KIB = 8192 };

/* The 512 pages of 4 KiB at GIB1: two in three are global. */
static bool is_global(uint64_t la)
{
    return la >= GIB3 || (la >= BIGG && la < BIGG + 0x200000) ||
           (la >= GIB1 && la < BIG && la >> 12 & 3);
}

/* Bytes of the page of @la. */
static uint64_t page_size(uint64_t la)
{
    return la >= GIB2 ? GIB : la >= BIG ? 2 * MIB : 4 * KIB;
}

static struct t0_cpu *machine(struct t0_test **ret)
{
    struct t0_test *t = t0_test_new(64, RAM_KIB, NULL);
    uint8_t *pdpt = t->ram + T0_TEST_PML4 + 0x1000;
    le64_put(pdpt + 8, PD | P | W | U);
    le64_put(pdpt + 16, P | W | U | PS);
    le64_put(pdpt + 24, P | W | U | PS | G);
    le64_put(t->ram + PD, PT | P | W | U);
    le64_put(t->ram + PD + 8, 0x200000 | P | W | U | PS);
    le64_put(t->ram + PD + 16, 0x400000 | P | W | U | PS | G);
    for (unsigned i = 0; i < 512; i++) {
        uint64_t la = GIB1 + i * 0x1000u;
        le64_put(t->ram + PT + 8 * i, (0x200000 + i * UINT64_C(0x1000)) | P | W | U |
                                          (is_global(la) ? G : 0));
    }
    t0_test_code(t, "\xf4", 1);
    t->s.cr4 |= X86_CR4_PGE;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    *ret = t;
    struct t0_cpu *c = t->vcpu->accel;
    t0_tlb_flush(c, true);
    return c;
}

/* --- What there is ---------------------------------------------------------------- */

static bool has(const struct t0_tlb_set *s, unsigned i)
{
    return s->bits[i / 64] >> (i % 64) & 1;
}

static void check_summary(const struct t0_tlb_set *s)
{
    for (unsigned w = 0; w < ARRAY_LEN(s->bits); w++) {
        g_assert_cmpint(s->words[w / 64] >> (w % 64) & 1, ==, s->bits[w] != 0);
    }
}

/* The bitmaps say what the entries say. */
static void check_sets(struct t0_cpu *c)
{
    const struct t0_core *core = c->core;
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        check_summary(&core->filled[b]);
        check_summary(&core->local[b]);
        for (unsigned i = 0; i < T0_TLB_SIZE; i++) {
            const struct t0_tlb_side *s = &core->side[b][i];
            const struct t0_tlb_entry *e = &c->banks[b][i];
            bool used = s->read != T0_TLB_NONE || s->write != T0_TLB_NONE;
            g_assert_cmpint(used, ==, has(&core->filled[b], i));
            g_assert_cmpint(used && !(s->gpa & T0_SIDE_GLOBAL), ==,
                            has(&core->local[b], i));
            g_assert_true(e->read == t0_tlb_none(i) || (used && e->read == ~s->read));
            g_assert_true(e->write == t0_tlb_none(i) ||
                          (used && e->write == ~s->write));
        }
    }
    check_summary(&core->itlb_filled);
    check_summary(&core->itlb_local);
    for (unsigned i = 0; i < T0_ITLB_SIZE; i++) {
        bool used = c->itlb[i].tag != UINT64_MAX;
        g_assert_cmpint(used, ==, has(&core->itlb_filled, i));
        g_assert_cmpint(used && !(c->itlb[i].gpa & T0_SIDE_GLOBAL), ==,
                        has(&core->itlb_local, i));
    }
}

/* Whether a translation of an address in [from, from + len) is anywhere. */
static bool knows(struct t0_cpu *c, uint64_t from, uint64_t len)
{
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        for (unsigned i = 0; i < T0_TLB_SIZE; i++) {
            const struct t0_tlb_side *s = &c->core->side[b][i];
            if ((s->read != T0_TLB_NONE && s->read - from < len) ||
                (s->write != T0_TLB_NONE && s->write - from < len)) {
                return true;
            }
        }
    }
    for (unsigned i = 0; i < T0_ITLB_SIZE; i++) {
        uint64_t tag = c->itlb[i].tag;
        if (tag != UINT64_MAX && (tag & ~UINT64_C(0xfff)) - from < len) {
            return true;
        }
    }
    return false;
}

enum { READ, WRITE, EXEC };

static void touch(struct t0_cpu *c, uint64_t la, unsigned bank, int what)
{
    struct t0_tlb_entry *old = t0_use_bank(c, bank);
    if (what == READ) {
        g_assert_false(t0_load(c, la, 1, X86_DS).fault);
    } else if (what == WRITE) {
        g_assert_false(t0_store(c, la, 1, 1, X86_DS));
    } else {
        g_assert_nonnull(t0_itlb_get(c, la));
    }
    c->tlb = old;
}

/* Each in an entry of its own, and in RAM. */
static const uint64_t places[] = {GIB1,
                                  GIB1 + 0x1000,
                                  GIB1 + 0x1ff000,
                                  BIG,
                                  BIG + 0x155000,
                                  BIGG + 0x1000,
                                  BIGG + 0x1ff000,
                                  GIB2 + 0x300000,
                                  GIB2 + 0x7ff000,
                                  GIB3 + 0x345000,
                                  GIB3 + 0x600000};

static void touch_all(struct t0_cpu *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        for (unsigned b = 0; b < T0_NB_BANKS; b++) {
            if (b != T0_BANK_KERNEL_SMAP) { /* which may not see the user's pages */
                touch(c, places[i], b, READ);
                touch(c, places[i], b, WRITE);
            }
        }
        touch(c, places[i], T0_BANK_KERNEL, EXEC);
    }
}

/* --- What is dropped ------------------------------------------------------------- */

static void invlpg_drops_the_whole_page_and_no_other(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    static const uint64_t inside[] = {0, 0x7f3, 0x1ff123, 0x3456789};
    for (unsigned k = 0; k < ARRAY_LEN(places); k++) {
        uint64_t size = page_size(places[k]), page = places[k] & ~(size - 1);
        for (unsigned n = 0; n < ARRAY_LEN(inside) && inside[n] < size; n++) {
            touch_all(c);
            check_sets(c);
            t0_tlb_flush_page(c, page + inside[n]);
            check_sets(c);
            g_assert_false(knows(c, page, size));
            for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
                if (places[i] - page >= size) {
                    g_assert_true(knows(c, places[i], 4 * KIB));
                }
            }
        }
    }
    t0_test_free(t);
}

/* One that was only read, and may not be written. */
static void invlpg_drops_what_is_only_read(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    le64_put(t->ram + PT + 8 * 2, 0x202000 | P | U);
    touch(c, GIB1 + 0x2000, T0_BANK_USER, READ);
    g_assert_true(knows(c, GIB1 + 0x2000, 4 * KIB));
    t0_tlb_flush_page(c, GIB1 + 0x2abc);
    check_sets(c);
    g_assert_false(knows(c, GIB1 + 0x2000, 4 * KIB));
    t0_test_free(t);
}

/* So many large pages that where they are noted some share a place: none is taken for
 * another, nor forgotten with one. */
static void many_large_pages_are_dropped_one_by_one(void)
{
    enum { NB = 1400, GIBS = 60, FROM = 4 };
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    g_autofree uint64_t *page = g_new(uint64_t, NB);
    for (unsigned i = 0; i < GIBS; i++) {
        le64_put(t->ram + T0_TEST_PML4 + 0x1000 + 8 * (FROM + i), PD | P | W | U);
    }
    for (unsigned i = 0; i < 512; i++) {
        le64_put(t->ram + PD + 8 * i, 0x400000 | P | W | U | PS | (i & 1 ? G : 0));
    }
    t0_tlb_flush(c, true);
    for (unsigned i = 0; i < NB; i++) { /* each in an entry of its own */
        page[i] = FROM * GIB + (uint64_t)i * 21 * 2 * MIB;
        touch(c, page[i] + i / 16 * 0x1000u, T0_BANK_USER, READ);
    }
    check_sets(c);
    for (unsigned i = 0; i < NB; i++) {
        const struct t0_tlb_entry *e =
            &c->banks[T0_BANK_USER][((page[i] >> 12) + i / 16) & (T0_TLB_SIZE - 1)];
        g_assert_cmphex(e->read, ==, ~(page[i] + i / 16 * 0x1000u));
        t0_tlb_flush_page(c, page[i] + 0x1fe000);
        g_assert_cmphex(e->read, !=, ~(page[i] + i / 16 * 0x1000u));
    }
    g_assert_false(knows(c, 0, UINT64_MAX));
    t0_test_free(t);
}

/* Jumps to a large page, and copies of its entries, go with it, and no others. */
static void invlpg_drops_what_was_made_of_a_large_page(void)
{
    static const struct {
        uint64_t page, other;
    } row[] = {{BIG, BIGG}, {BIGG, BIG}, {GIB2, GIB3}, {GIB3, GIB2}};
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t la = row[i].page + 0x3210, size = page_size(row[i].page);
        struct t0_jump_entry *j = t0_jump_slot(c, la);
        struct t0_tlb_entry *e = &c->banks[T0_BANK_USER][la >> 12 & (T0_TLB_SIZE - 1)];
        touch(c, la, T0_BANK_KERNEL, EXEC);
        touch(c, la, T0_BANK_USER, READ);
        touch(c, row[i].other + 0x3210, T0_BANK_USER_AC, READ);
        j->key = la;
        t0_jumps_note(c, j, la);
        e->copied = 1;
        t0_tlb_flush_page(c, row[i].other + size / 2);
        g_assert_cmphex(j->key, ==, la);
        g_assert_cmpint(e->copied, ==, 1);
        t0_tlb_flush_page(c, row[i].page + size / 2);
        g_assert_cmphex(j->key, ==, T0_TLB_NONE);
        g_assert_cmpint(e->copied, ==, 0);
    }
    t0_test_free(t);
}

static void cr3_leaves_what_is_global(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    touch_all(c);
    t0_tlb_flush(c, false);
    check_sets(c);
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        g_assert_cmpint(knows(c, places[i], 4 * KIB), ==, is_global(places[i]));
    }
    /* A large global page is still known as one. */
    t0_tlb_flush_page(c, BIGG + 0x123456);
    g_assert_false(knows(c, BIGG, 2 * MIB));
    t0_tlb_flush_page(c, GIB3 + 0x3fffffff);
    g_assert_false(knows(c, GIB3, GIB));
    t0_tlb_flush(c, true);
    check_sets(c);
    g_assert_false(knows(c, 0, UINT64_MAX));
    t0_test_free(t);
}

/* An entry that becomes global, or no longer is, when it is filled again. */
static void a_page_changes_its_being_global(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    for (unsigned n = 0; n < 4; n++) {
        bool global = n & 1;
        le64_put(t->ram + PT, 0x200000 | P | W | U | (global ? G : 0));
        t0_tlb_flush_page(c, GIB1);
        touch(c, GIB1, T0_BANK_USER, WRITE);
        touch(c, GIB1, T0_BANK_KERNEL, EXEC);
        check_sets(c);
        t0_tlb_flush(c, false);
        check_sets(c);
        g_assert_cmpint(knows(c, GIB1, 4 * KIB), ==, global);
    }
    t0_test_free(t);
}

static bool writes_fast(struct t0_cpu *c, uint64_t la)
{
    for (unsigned b = 0; b < T0_NB_BANKS; b++) {
        struct t0_tlb_entry *old = t0_use_bank(c, b);
        bool fast = t0_host_write(c, la, 1) != NULL;
        c->tlb = old;
        if (fast) {
            return true;
        }
    }
    return false;
}

/* One page of memory at three addresses: in pages of 4 KiB, 2 MiB and 1 GiB. */
static void writes_are_dropped_at_every_address(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    const uint64_t gpa = 0x203000;
    const uint64_t alias[] = {GIB1 + 0x3000, BIG + 0x3000, GIB2 + gpa};
    const uint64_t other[] = {GIB1 + 0x4000, BIG + 0x4000, GIB2 + gpa + 0x2000};
    for (unsigned i = 0; i < ARRAY_LEN(alias); i++) {
        touch(c, alias[i], i & 1 ? T0_BANK_USER : T0_BANK_KERNEL, WRITE);
        g_assert_true(writes_fast(c, alias[i]));
    }
    for (unsigned i = 0; i < ARRAY_LEN(other); i++) {
        touch(c, other[i], T0_BANK_KERNEL, WRITE);
    }
    t0_tlb_drop_writes(c, gpa);
    check_sets(c);
    for (unsigned i = 0; i < ARRAY_LEN(alias); i++) {
        g_assert_false(writes_fast(c, alias[i]));
        g_assert_true(knows(c, alias[i], 4 * KIB)); /* for loads, and slow stores */
    }
    for (unsigned i = 0; i < ARRAY_LEN(other); i++) {
        g_assert_true(writes_fast(c, other[i]));
    }
    t0_tlb_drop_writes(c, UINT64_MAX);
    for (unsigned i = 0; i < ARRAY_LEN(other); i++) {
        g_assert_false(writes_fast(c, other[i]));
    }
    /* A slow store makes them fast again: there is no code. */
    touch(c, alias[0], T0_BANK_KERNEL, WRITE);
    g_assert_true(writes_fast(c, alias[0]));
    t0_test_free(t);
}

/* Everything in any order, from a fixed seed. */
static void bitmaps_stay_true(void)
{
    struct t0_test *t;
    struct t0_cpu *c = machine(&t);
    g_autoptr(GRand) r = g_rand_new_with_seed(4);
    for (unsigned n = 0; n < 6000; n++) {
        static const uint64_t base[] = {GIB1, BIG, BIGG, GIB2 + 0x400000,
                                        GIB3 + 0x400000}; /* not where tables are */
        uint64_t la = base[g_rand_int_range(r, 0, 5)] +
                      (uint64_t)g_rand_int_range(r, 0, 512) * 0x1000;
        unsigned bank = g_rand_boolean(r) ? T0_BANK_USER : T0_BANK_KERNEL;
        switch (g_rand_int_range(r, 0, 60)) {
        case 0:
            t0_tlb_flush(c, false);
            for (unsigned b = 0; b < T0_NB_BANKS; b++) {
                for (unsigned w = 0; w < ARRAY_LEN(c->core->local[b].bits); w++) {
                    g_assert_cmphex(c->core->local[b].bits[w], ==, 0);
                }
            }
            break;
        case 1: t0_tlb_flush(c, n % 7 == 0); break;
        case 2: t0_tlb_drop_writes(c, 0x200000 + (la & 0x1ff000)); break;
        case 3:
        case 4:
            t0_tlb_flush_page(c, la);
            g_assert_false(knows(c, la & ~(page_size(la) - 1), page_size(la)));
            break;
        default: touch(c, la, bank, g_rand_int_range(r, 0, 3)); break;
        }
        if (n % 50 == 0) {
            check_sets(c);
        }
    }
    check_sets(c);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/tlb/invlpg", invlpg_drops_the_whole_page_and_no_other);
    g_test_add_func("/t0/tlb/invlpg_read", invlpg_drops_what_is_only_read);
    g_test_add_func("/t0/tlb/many_large", many_large_pages_are_dropped_one_by_one);
    g_test_add_func("/t0/tlb/made_of_large",
                    invlpg_drops_what_was_made_of_a_large_page);
    g_test_add_func("/t0/tlb/cr3", cr3_leaves_what_is_global);
    g_test_add_func("/t0/tlb/global_changes", a_page_changes_its_being_global);
    g_test_add_func("/t0/tlb/drop_writes", writes_are_dropped_at_every_address);
    g_test_add_func("/t0/tlb/bitmaps", bitmaps_stay_true);
    return g_test_run();
}
