#include "block/format/pages.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"

/* Pages over a file in memory. */

struct rig {
    struct loop *loop;
    int fd;
    struct blk *file;
};

static void rig_up(struct rig *r, size_t len)
{
    struct blk_perms perms = {BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                              BLK_PERM_ALL};
    r->loop = loop_new(&(struct loop_opts){.engine = LOOP_IO_THREADS}, NULL);
    r->fd = memfd_create("pages", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(r->fd, (off_t)len), ==, 0);
    struct blk_open_args args = {.loop = r->loop, .perms = &perms};
    json_t *o =
        json_pack("{s:s, s:i, s:s}", "driver", "file", "fd", r->fd, "locking", "off");
    GError *error = NULL;
    r->file = blk_open(&args, o, &error);
    g_assert_no_error(error);
    json_decref(o);
}

static void rig_down(struct rig *r)
{
    blk_unref(r->file);
    close(r->fd);
    loop_free(r->loop);
}

/* Tables at 0 and 1536 of one page, and data between them that is written past it. */
static void data_between_two_tables_stays(void)
{
    struct rig r;
    rig_up(&r, 8192);
    struct pages *p = pages_new(r.file, 4096, 1 << 20);
    uint8_t data[1024], now[4096];
    g_assert_cmpint(pages_put_le32(p, 508, 0x11111111), ==, 0);
    memset(data, 0xaa, sizeof(data));
    g_assert_cmpint(blk_pwrite(r.file, 512, data, sizeof(data)), ==, 0);
    g_assert_cmpint(pages_put_le32(p, 1536, 0x22222222), ==, 0);
    g_assert_cmpint(pages_put_le32(p, 1548, 0x33333333), ==, 0);
    g_assert_cmpint(pages_write(p), ==, 0);
    pages_free(p);

    g_assert_cmpint(blk_pread(r.file, 0, now, sizeof(now)), ==, 0);
    g_assert_cmpint(now[507], ==, 0);
    g_assert_cmpint(now[508], ==, 0x11);
    g_assert_cmpmem(now + 512, sizeof(data), data, sizeof(data));
    g_assert_cmpint(now[1536], ==, 0x22);
    g_assert_cmpint(now[1544], ==, 0);
    g_assert_cmpint(now[1551], ==, 0x33);
    rig_down(&r);
}

/* The end of a table and data in one sector. */
static void data_behind_a_table_stays(void)
{
    struct rig r;
    rig_up(&r, 4096);
    struct pages *p = pages_new(r.file, 4096, 1 << 20);
    uint8_t data[100], now[512];
    g_assert_cmpint(pages_put_le32(p, 48, 0x11111111), ==, 0);
    memset(data, 0xaa, sizeof(data));
    g_assert_cmpint(blk_pwrite(r.file, 64, data, sizeof(data)), ==, 0);
    g_assert_cmpint(pages_put_le32(p, 56, 0x22222222), ==, 0);
    g_assert_cmpint(pages_write(p), ==, 0);
    g_assert_cmpint(blk_pread(r.file, 0, now, sizeof(now)), ==, 0);
    g_assert_cmpint(now[48], ==, 0x11);
    g_assert_cmpint(now[59], ==, 0x22);
    g_assert_cmpmem(now + 64, sizeof(data), data, sizeof(data));
    pages_free(p);
    rig_down(&r);
}

static void long_changes_arrive_whole(void)
{
    struct rig r;
    rig_up(&r, 16384);
    struct pages *p = pages_new(r.file, 4096, 1 << 20);
    g_autofree uint8_t *in = g_malloc(9000), *out = g_malloc(9000);
    for (unsigned i = 0; i < 9000; i++) {
        in[i] = (uint8_t)(i * 7 + i / 251);
    }
    g_assert_cmpint(pages_store(p, 777, in, 9000), ==, 0);
    g_assert_cmpint(pages_write(p), ==, 0);
    g_autoptr(GPtrArray) changed = pages_changed(p);
    g_assert_cmpuint(changed->len, ==, 0);
    g_assert_cmpint(blk_pread(r.file, 777, out, 9000), ==, 0);
    g_assert_cmpmem(in, 9000, out, 9000);
    pages_free(p);
    rig_down(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pages/data_between_two_tables_stays",
                    data_between_two_tables_stays);
    g_test_add_func("/pages/data_behind_a_table_stays", data_behind_a_table_stays);
    g_test_add_func("/pages/long_changes_arrive_whole", long_changes_arrive_whole);
    return g_test_run();
}
