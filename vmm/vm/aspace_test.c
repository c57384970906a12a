#include "vmm/vm/aspace.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/fake_accel.h"

/* A device that is a piece of memory and writes down how it was accessed. */
struct mem_dev {
    uint8_t bytes[64];
    unsigned lens[16];
    uint64_t offs[16];
    unsigned n;
};

static void note(struct mem_dev *d, uint64_t off, unsigned len)
{
    if (d->n < ARRAY_LEN(d->lens)) {
        d->offs[d->n] = off;
        d->lens[d->n++] = len;
    }
}

static uint64_t mem_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct mem_dev *d = opaque;
    note(d, off, len);
    return le_get(d->bytes + off, len);
}

static void mem_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct mem_dev *d = opaque;
    note(d, off, len);
    le_put(d->bytes + off, value, len);
}

static const struct io_ops any_width = {.read = mem_read, .write = mem_write};
static const struct io_ops bytes_only = {
    .read = mem_read, .write = mem_write, .max_len = 1};
static const struct io_ops words_only = {
    .read = mem_read, .write = mem_write, .min_len = 4, .max_len = 4};

static void overlaps_are_refused_naming_both(void)
{
    struct aspace *as = aspace_new("pio", 16, VCPU_EXIT_PIO);
    struct io_region a = {.name = "a", .base = 0x60, .len = 8, .ops = &any_width};
    static const struct {
        uint64_t base, len;
        bool ok;
    } cases[] = {
        {0x5f, 1, true},   {0x68, 8, true},        {0x5f, 2, false},
        {0x67, 1, false},  {0x60, 8, false},       {0x0, 0x10000, false},
        {0xffff, 1, true}, {0xffff, 2, false},     {0x10000, 1, false},
        {0x100, 0, false}, {8, UINT64_MAX, false},
    };
    g_assert_true(aspace_add(as, &a, NULL));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g_autoptr(GError) error = NULL;
        struct io_region b = {
            .name = "b", .base = cases[i].base, .len = cases[i].len, .ops = &any_width};
        g_assert_cmpint(aspace_add(as, &b, &error), ==, cases[i].ok);
        if (cases[i].ok) {
            aspace_remove(as, &b);
        } else {
            g_assert_nonnull(strstr(error->message, "'b'"));
        }
    }
    aspace_free(as);
}

static void absent_registers_read_all_ones(void)
{
    struct aspace *as = aspace_new("mmio", 48, VCPU_EXIT_MMIO);
    g_assert_cmphex(aspace_read(as, NULL, 0x1000, 1), ==, 0xff);
    g_assert_cmphex(aspace_read(as, NULL, 0x1000, 2), ==, 0xffff);
    g_assert_cmphex(aspace_read(as, NULL, 0x1000, 4), ==, 0xffffffff);
    g_assert_cmphex(aspace_read(as, NULL, UINT64_MAX, 8), ==, UINT64_MAX);
    aspace_write(as, NULL, 0x1000, 1, 4);
    g_assert_cmpuint(aspace_unassigned(as), ==, 5);
    g_assert_false(aspace_has(as, 0x1000));
    aspace_free(as);
}

static void wide_accesses_are_split_ascending(void)
{
    struct aspace *as = aspace_new("mmio", 48, VCPU_EXIT_MMIO);
    struct mem_dev d = {0};
    struct io_region r = {
        .name = "d", .base = 0x1000, .len = 64, .ops = &bytes_only, .opaque = &d};
    g_assert_true(aspace_add(as, &r, NULL));
    aspace_write(as, NULL, 0x1002, 0x11223344, 4);
    g_assert_cmpuint(d.n, ==, 4);
    g_assert_cmpuint(d.offs[0], ==, 2);
    g_assert_cmpuint(d.offs[3], ==, 5);
    g_assert_cmphex(d.bytes[2], ==, 0x44);
    g_assert_cmphex(aspace_read(as, NULL, 0x1002, 4), ==, 0x11223344);
    g_assert_cmpuint(r.writes.count, ==, 1);
    g_assert_cmpuint(r.reads.count, ==, 1);
    aspace_free(as);
}

static void narrow_accesses_meet_nothing(void)
{
    struct aspace *as = aspace_new("mmio", 48, VCPU_EXIT_MMIO);
    struct mem_dev d = {0};
    struct io_region r = {
        .name = "d", .base = 0x1000, .len = 64, .ops = &words_only, .opaque = &d};
    g_assert_true(aspace_add(as, &r, NULL));
    g_assert_cmphex(aspace_read(as, NULL, 0x1000, 2), ==, 0xffff);
    aspace_write(as, NULL, 0x1000, 0xaa, 1);
    g_assert_cmpuint(d.n, ==, 0);
    g_assert_cmpuint(aspace_unassigned(as), ==, 2);
    g_assert_cmphex(aspace_read(as, NULL, 0x1000, 8), ==, 0);
    g_assert_cmpuint(d.n, ==, 2);
    aspace_free(as);
}

static void straddling_accesses_go_byte_by_byte(void)
{
    struct aspace *as = aspace_new("pio", 16, VCPU_EXIT_PIO);
    struct mem_dev d = {0}, e = {0};
    struct io_region r = {
        .name = "d", .base = 0x10, .len = 4, .ops = &any_width, .opaque = &d};
    struct io_region q = {
        .name = "e", .base = 0x14, .len = 4, .ops = &any_width, .opaque = &e};
    struct io_region end = {
        .name = "end", .base = 0xfffe, .len = 2, .ops = &any_width, .opaque = &d};
    g_assert_true(aspace_add(as, &r, NULL));
    g_assert_true(aspace_add(as, &q, NULL));
    g_assert_true(aspace_add(as, &end, NULL));
    aspace_write(as, NULL, 0x12, 0x44332211, 4);
    g_assert_cmphex(d.bytes[2], ==, 0x11);
    g_assert_cmphex(d.bytes[3], ==, 0x22);
    g_assert_cmphex(e.bytes[0], ==, 0x33);
    g_assert_cmphex(e.bytes[1], ==, 0x44);
    /* Half before the region, half behind the space. */
    g_assert_cmphex(aspace_read(as, NULL, 0xe, 4), ==, 0x0000ffff);
    d.bytes[0] = 0x77;
    g_assert_cmphex(aspace_read(as, NULL, 0xfffe, 4), ==, 0xffff0077);
    g_assert_cmphex(aspace_read(as, NULL, 0xe, 4), ==, 0x0077ffff);
    aspace_free(as);
}

static void accesses_are_counted_per_region_and_vcpu(void)
{
    struct fake_model model = {0};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    struct mem_dev d = {0};
    struct io_region r = {
        .name = "counted", .base = 0x70, .len = 2, .ops = &any_width, .opaque = &d};
    g_assert_true(aspace_add(vm->pio, &r, NULL));
    vcpu_pio_write(vm->vcpus[0], 0x70, 5, 1);
    g_assert_cmpuint(vcpu_pio_read(vm->vcpus[0], 0x70, 1), ==, 5);
    vcpu_mmio_read(vm->vcpus[0], 0x70, 4);

    json_t *stats = vm_stats(vm);
    const char *name;
    json_int_t reads, writes, ns, pio, mmio, absent;
    g_assert_cmpint(json_unpack(stats,
                                "{s:[{s:s, s:I, s:I, s:I}], s:{s:{s:I}, s:{s:I}},"
                                " s:{s:I}}",
                                "regions", "name", &name, "reads", &reads, "writes",
                                &writes, "read-ns", &ns, "exits", "pio", "count", &pio,
                                "mmio", "count", &mmio, "unassigned", "mmio", &absent),
                    ==, 0);
    g_assert_cmpstr(name, ==, "counted");
    g_assert_cmpint(reads, ==, 1);
    g_assert_cmpint(writes, ==, 1);
    g_assert_cmpint(ns, >, 0);
    g_assert_cmpint(pio, ==, 2);
    g_assert_cmpint(mmio, ==, 1);
    g_assert_cmpint(absent, ==, 1);
    json_decref(stats);
    vm_free(vm);
}

static void an_access_costs_less_than_a_microsecond(void)
{
    struct fake_model model = {0};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    struct mem_dev d = {.n = 16};
    struct io_region r = {
        .name = "d", .base = 0x70, .len = 2, .ops = &any_width, .opaque = &d};
    enum { N = 200000 };
    g_assert_true(aspace_add(vm->pio, &r, NULL));
    gint64 start = g_get_monotonic_time();
    for (int i = 0; i < N; i++) {
        vcpu_pio_read(vm->vcpus[0], 0x70, 1);
    }
    double ns = (double)(g_get_monotonic_time() - start) * 1000 / N;
    g_test_minimized_result(ns, "%.0f ns per access", ns);
    vm_free(vm);
}

static uint64_t tell(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return (uint64_t)GPOINTER_TO_UINT(opaque) << 32 | off;
}

static void drop(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                 unsigned len)
{
}

static const struct io_ops telling = {.read = tell, .write = drop};

static struct io_region teller(unsigned name, uint64_t len)
{
    return (struct io_region){.name = "teller",
                              .len = len,
                              .ops = &telling,
                              .opaque = GUINT_TO_POINTER(name)};
}

#define TOLD(name, off) ((uint64_t)(name) << 32 | (off))

static uint64_t ask(struct aspace *as, uint64_t addr)
{
    return aspace_read(as, NULL, addr, 8);
}

static void the_first_of_the_highest_answers_where_regions_overlap(void)
{
    struct aspace *as = aspace_new("mmio", 32, VCPU_EXIT_MMIO);
    struct io_region fixed = teller(1, 0x100), a = teller(2, 0x1000),
                     b = teller(3, 0x1000), low = teller(4, 0x10000);
    fixed.base = 0x1800;
    g_assert_true(aspace_add(as, &fixed, NULL));
    aspace_reserve(as, 3);
    aspace_map(as, &low, 0, ASPACE_LOW);
    aspace_map(as, &a, 0x1000, ASPACE_DEVICE);
    aspace_map(as, &b, 0x1400, ASPACE_DEVICE);
    g_assert_cmphex(ask(as, 0xff8), ==, TOLD(4, 0xff8));
    g_assert_cmphex(ask(as, 0x1000), ==, TOLD(2, 0));
    g_assert_cmphex(ask(as, 0x1400), ==, TOLD(2, 0x400));
    g_assert_cmphex(ask(as, 0x1810), ==, TOLD(1, 0x10));
    g_assert_cmphex(ask(as, 0x1900), ==, TOLD(2, 0x900));
    g_assert_cmphex(ask(as, 0x2000), ==, TOLD(3, 0xc00));
    g_assert_cmphex(ask(as, 0x2400), ==, TOLD(4, 0x2400));
    aspace_map(as, &a, 0x8000, ASPACE_DEVICE);
    g_assert_cmphex(ask(as, 0x1400), ==, TOLD(3, 0));
    g_assert_cmphex(ask(as, 0x1000), ==, TOLD(4, 0x1000));
    aspace_unmap(as, &b);
    aspace_unmap(as, &b);
    g_assert_cmphex(ask(as, 0x1400), ==, TOLD(4, 0x1400));
    g_assert_cmphex(ask(as, 0x8010), ==, TOLD(2, 0x10));
    /* What is beyond the space is nowhere; what reaches out of it ends with it. */
    aspace_map(as, &a, UINT64_MAX - 0xfff, ASPACE_DEVICE);
    g_assert_cmphex(ask(as, 0x8010), ==, TOLD(4, 0x8010));
    aspace_map(as, &a, UINT32_MAX - 0xf, ASPACE_DEVICE);
    g_assert_cmphex(ask(as, UINT32_MAX - 7), ==, TOLD(2, 8));
    aspace_free(as);
}

struct mover {
    struct aspace *as;
    struct io_region *region;
    _Atomic bool stop;
};

static gpointer keep_moving(gpointer opaque)
{
    struct mover *m = opaque;
    for (unsigned i = 0; !atomic_load(&m->stop); i++) {
        aspace_map(m->as, m->region, 0x1000 * (1 + i % 8), ASPACE_DEVICE);
        if (i % 5 == 0) {
            aspace_unmap(m->as, m->region);
        }
    }
    return NULL;
}

/* While one thread moves a region about, another sees each address answered by it,
 * with the right offset, or by who is below. */
static void readers_never_see_half_a_move(void)
{
    struct aspace *as = aspace_new("mmio", 32, VCPU_EXIT_MMIO);
    struct io_region below = teller(1, 0x100000), moved = teller(2, 0x1000);
    struct mover m = {.as = as, .region = &moved};
    aspace_reserve(as, 2);
    aspace_map(as, &below, 0, ASPACE_LOW);
    GThread *t = g_thread_new("mover", keep_moving, &m);
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t addr = 0x800 * (i % 20) + 0x10, v = ask(as, addr);
        g_assert_true(v == TOLD(1, addr) || v == TOLD(2, addr & 0xfff));
    }
    atomic_store(&m.stop, true);
    g_thread_join(t);
    aspace_free(as);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aspace/overlap", overlaps_are_refused_naming_both);
    g_test_add_func("/aspace/absent", absent_registers_read_all_ones);
    g_test_add_func("/aspace/split", wide_accesses_are_split_ascending);
    g_test_add_func("/aspace/narrow", narrow_accesses_meet_nothing);
    g_test_add_func("/aspace/straddle", straddling_accesses_go_byte_by_byte);
    g_test_add_func("/aspace/counted", accesses_are_counted_per_region_and_vcpu);
    if (g_test_perf()) {
        g_test_add_func("/aspace/cost", an_access_costs_less_than_a_microsecond);
    }
    g_test_add_func("/aspace/priority",
                    the_first_of_the_highest_answers_where_regions_overlap);
    g_test_add_func("/aspace/moving", readers_never_see_half_a_move);
    return g_test_run();
}
