#include "vmm/vm/gmem.h"

#include <errno.h>
#include <string.h>

#include "lib/base/base.h"

/* ram at 0..64K, rom at 64K..68K, a hole, high at 1M..1M+8K */
static struct gmem *three_regions(void)
{
    struct gmem *m = gmem_new();
    g_assert_true(gmem_add(m, "high", GMEM_RAM, MIB, 2 * GMEM_PAGE_SIZE, NULL));
    g_assert_true(gmem_add(m, "ram", GMEM_RAM, 0, 16 * GMEM_PAGE_SIZE, NULL));
    g_assert_true(gmem_add(m, "rom", GMEM_ROM, 0x10000, GMEM_PAGE_SIZE, NULL));
    return m;
}

static void regions_are_sorted_and_found(void)
{
    struct gmem *m = three_regions();
    size_t n;
    const struct gmem_region *r = gmem_regions(m, &n);
    g_assert_cmpuint(n, ==, 3);
    g_assert_cmpstr(r[0].name, ==, "ram");
    g_assert_cmpstr(r[1].name, ==, "rom");
    g_assert_cmpstr(r[2].name, ==, "high");
    g_assert_true(gmem_find(m, 0xffff) == &r[0]);
    g_assert_true(gmem_find(m, 0x10000) == &r[1]);
    g_assert_null(gmem_find(m, 0x11000));
    g_assert_null(gmem_find(m, MIB - 1));
    g_assert_true(gmem_find(m, MIB + 0x1fff) == &r[2]);
    g_assert_null(gmem_find(m, MIB + 0x2000));
    g_assert_null(gmem_find(m, UINT64_MAX));
    gmem_remove(m, 0x10000);
    g_assert_null(gmem_find(m, 0x10000));
    g_assert_nonnull(gmem_find(m, MIB));
    gmem_free(m);
}

static void bad_regions_are_refused_by_name(void)
{
    static const struct {
        gpa_t gpa;
        uint64_t len;
        const char *says;
    } bad[] = {
        {0xf000, 0x1000, "ram"},
        {0x10000, 0x2000, "rom"},
        {0xff000, 0x2000, "high"},
        {MIB + 0x1000, 0x1000, "high"},
        {0x20000, 0, "pages"},
        {0x20800, 0x1000, "pages"},
        {0x20000, 0x1001, "pages"},
        {UINT64_MAX - 0xfff, 0x2000, "address space"},
        {2 * MIB, UINT64_C(1) << 63, "fit"},
        {2 * MIB, UINT64_C(1) << 60, "reserve"},
    };
    struct gmem *m = three_regions();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(gmem_add(m, "new", GMEM_RAM, bad[i].gpa, bad[i].len, &error));
        g_assert_nonnull(strstr(error->message, "'new'"));
        g_assert_nonnull(strstr(error->message, bad[i].says));
    }
    gmem_free(m);
}

static void copies_cross_regions_or_copy_nothing(void)
{
    struct gmem *m = three_regions();
    uint8_t out[32], in[32];
    for (unsigned i = 0; i < sizeof(in); i++) {
        in[i] = (uint8_t)(i + 1);
    }
    g_assert_cmpint(gmem_load(m, 0x10000 - 16, in, 32), ==, 0);
    g_assert_cmpint(gmem_read(m, 0x10000 - 16, out, 32), ==, 0);
    g_assert_cmpmem(in, 32, out, 32);

    /* Into the hole: not even the part before it. */
    memset(out, 0x55, sizeof(out));
    g_assert_cmpint(gmem_read(m, 0x11000 - 16, out, 32), ==, -EFAULT);
    g_assert_cmpint(out[0], ==, 0x55);
    g_assert_cmpint(gmem_write(m, MIB + 0x2000 - 16, in, 32), ==, -EFAULT);
    g_assert_cmpint(gmem_read(m, MIB + 0x2000 - 16, out, 16), ==, 0);
    g_assert_cmpint(out[0], ==, 0);
    g_assert_cmpint(gmem_read(m, UINT64_MAX - 3, out, 32), ==, -EFAULT);
    g_assert_cmpint(gmem_read(m, 0x11000, out, 0), ==, 0);
    gmem_free(m);
}

static void rom_is_written_by_loaders_alone(void)
{
    struct gmem *m = three_regions();
    uint8_t v[4] = {1, 2, 3, 4}, out[4];
    g_assert_cmpint(gmem_write(m, 0x10000, v, 4), ==, -EACCES);
    g_assert_cmpint(gmem_write(m, 0x10000 - 2, v, 4), ==, -EACCES);
    g_assert_cmpint(gmem_read(m, 0x10000 - 2, out, 4), ==, 0);
    g_assert_cmpint(out[0] | out[1] | out[2] | out[3], ==, 0);
    g_assert_cmpint(gmem_load(m, 0x10000, v, 4), ==, 0);
    g_assert_cmpint(gmem_read(m, 0x10000, out, 4), ==, 0);
    g_assert_cmpmem(v, 4, out, 4);
    gmem_free(m);
}

static void iov_lends_segments_up_to_the_limit(void)
{
    struct gmem *m = three_regions();
    struct iovec iov[3];
    unsigned n = 0;
    g_assert_cmpint(gmem_iov(m, 0xff00, 0x200, false, iov, &n, 3), ==, 0);
    g_assert_cmpuint(n, ==, 2);
    g_assert_cmpuint(iov[0].iov_len, ==, 0x100);
    g_assert_cmpuint(iov[1].iov_len, ==, 0x100);
    g_assert_cmpint(gmem_iov(m, 0xff00, 0x200, false, iov, &n, 3), ==, -E2BIG);
    g_assert_cmpuint(n, ==, 2);
    g_assert_cmpint(gmem_iov(m, 0xff00, 0x200, true, iov, &n, 3), ==, -EACCES);
    g_assert_cmpint(gmem_iov(m, 0x10f00, 0x200, false, iov, &n, 3), ==, -EFAULT);
    gmem_free(m);
}

struct seen {
    unsigned calls;
    gpa_t gpa;
    uint64_t len;
};

static void saw(void *opaque, gpa_t gpa, uint64_t len)
{
    struct seen *s = opaque;
    *s = (struct seen){s->calls + 1, gpa, len};
}

static void writes_mark_dirty_and_tell_only_where_code_is(void)
{
    struct gmem *m = three_regions();
    struct seen seen = {0};
    const struct gmem_region *ram = gmem_find(m, 0);
    uint8_t v[0x800] = {1};
    gmem_set_invalidate(m, saw, &seen);

    g_assert_cmpint(gmem_write(m, 0x2ffe, v, 4), ==, 0);
    g_assert_cmpint(ram->dirty[1], ==, 0);
    g_assert_cmpint(ram->dirty[2], ==, 1);
    g_assert_cmpint(ram->dirty[3], ==, 1);
    g_assert_cmpuint(seen.calls, ==, 0);

    /* Code in the bytes 0x200..0x3ff of page 5. */
    ram->code[5] = 1 << 1;
    g_assert_cmpint(gmem_write(m, 0x51ff, v, 1), ==, 0);
    g_assert_cmpint(gmem_write(m, 0x5400, v, 0x800), ==, 0);
    g_assert_cmpuint(seen.calls, ==, 0);
    g_assert_cmpint(gmem_write(m, 0x51ff, v, 2), ==, 0);
    g_assert_cmpuint(seen.calls, ==, 1);
    g_assert_cmphex(seen.gpa, ==, 0x51ff);
    g_assert_cmphex(seen.len, ==, 2);
    gmem_written(m, 0x53ff, 1);
    g_assert_cmpuint(seen.calls, ==, 2);
    gmem_free(m);
}

static void ram_is_reserved_not_touched(void)
{
    struct gmem *m = gmem_new();
    uint8_t byte = 0xff;
    g_assert_true(gmem_add(m, "ram", GMEM_RAM, 0, 512 * GIB, NULL));
    g_assert_cmpint(gmem_read(m, 400 * GIB, &byte, 1), ==, 0);
    g_assert_cmpint(byte, ==, 0);
    gmem_free(m);
}

struct heard {
    unsigned added, removed;
    gpa_t gpa;
    bool refuse;
};

static bool hear_added(void *opaque, const struct gmem_region *r, GError **error)
{
    struct heard *h = opaque;
    h->added++;
    h->gpa = r->gpa;
    return !h->refuse || error_msg(error, "no slot is left");
}

static void hear_removed(void *opaque, const struct gmem_region *r)
{
    struct heard *h = opaque;
    h->removed++;
    h->gpa = r->gpa;
    r->host[0] = 1; /* still there */
}

static void listener_hears_of_regions_and_may_refuse(void)
{
    struct heard h = {0};
    struct gmem *m = gmem_new();
    GError *error = NULL;
    gmem_set_listener(m, &(struct gmem_listener){hear_added, hear_removed, &h});
    g_assert_true(gmem_add(m, "ram", GMEM_RAM, 0, 0x1000, &error));
    g_assert_cmpuint(h.added, ==, 1);
    h.refuse = true;
    g_assert_false(gmem_add(m, "rom", GMEM_ROM, 0x2000, 0x1000, &error));
    g_assert_cmpstr(error->message, ==, "memory 'rom': no slot is left");
    g_clear_error(&error);
    g_assert_cmphex(h.gpa, ==, 0x2000);
    g_assert_null(gmem_find(m, 0x2000));
    gmem_remove(m, 0);
    g_assert_cmpuint(h.removed, ==, 1);
    g_assert_cmphex(h.gpa, ==, 0);
    gmem_free(m);
}

static void a_block_keeps_its_bytes_wherever_it_is_shown(void)
{
    struct gmem *m = gmem_new();
    struct gmem_block *b = gmem_block_new("vram", 0x4000, NULL);
    uint8_t byte = 0;
    g_assert_true(gmem_add(m, "ram", GMEM_RAM, 0, 0x10000, NULL));
    g_assert_true(gmem_map(m, b, GMEM_RAM, 0x20000, 0, 0x4000, NULL));
    g_assert_false(gmem_map(m, b, GMEM_RAM, 0xf000, 0, 0x4000, NULL));
    g_assert_cmpint(gmem_write(m, 0x21001, "x", 1), ==, 0);
    g_assert_cmpuint(gmem_block_host(b)[0x1001], ==, 'x');
    g_assert_cmpuint(gmem_block_dirty(b)[1], ==, 1);
    gmem_remove(m, 0x20000);
    g_assert_cmpint(gmem_read(m, 0x21001, &byte, 1), ==, -EFAULT);
    g_assert_true(gmem_map(m, b, GMEM_ROM, 0x50000, 0x1000, 0x1000, NULL));
    g_assert_cmpint(gmem_read(m, 0x50001, &byte, 1), ==, 0);
    g_assert_cmpuint(byte, ==, 'x');
    g_assert_cmpint(gmem_write(m, 0x50001, "y", 1), ==, -EACCES);
    gmem_remove(m, 0x50000);
    gmem_free(m);
    gmem_block_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/gmem/find", regions_are_sorted_and_found);
    g_test_add_func("/gmem/bad-regions", bad_regions_are_refused_by_name);
    g_test_add_func("/gmem/copy", copies_cross_regions_or_copy_nothing);
    g_test_add_func("/gmem/rom", rom_is_written_by_loaders_alone);
    g_test_add_func("/gmem/iov", iov_lends_segments_up_to_the_limit);
    g_test_add_func("/gmem/written", writes_mark_dirty_and_tell_only_where_code_is);
    g_test_add_func("/gmem/lazy", ram_is_reserved_not_touched);
    g_test_add_func("/gmem/listener", listener_hears_of_regions_and_may_refuse);
    g_test_add_func("/gmem/block", a_block_keeps_its_bytes_wherever_it_is_shown);
    return g_test_run();
}
