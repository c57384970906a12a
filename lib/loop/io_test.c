#include "lib/loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

/* Each promise for io_uring and for threads; io_uring is skipped only where the
 * kernel refuses it. */

struct rig {
    struct loop *loop;
    int fd;
};

static bool rig_up(struct rig *r, gconstpointer engine)
{
    struct loop_opts opts = {.engine = (enum loop_io_engine)GPOINTER_TO_INT(engine),
                             .queue_depth = 8};
    g_autoptr(GError) err = NULL;
    r->loop = loop_new(&opts, &err);
    if (!r->loop) {
        g_test_skip(err->message);
        return false;
    }
    char name[] = "io-test-XXXXXX";
    r->fd = mkstemp(name);
    g_assert_cmpint(r->fd, >=, 0);
    unlink(name);
    return true;
}

static void rig_down(struct rig *r)
{
    loop_free(r->loop);
    close(r->fd);
}

struct one {
    struct loop_io io;
    struct iovec iov[2];
    int64_t ret;
    unsigned done;
};

static void one_done(struct loop_io *io, int64_t ret)
{
    struct one *o = container_of(io, struct one, io);
    o->ret = ret;
    o->done++;
}

static int64_t run(struct rig *r, struct one *o)
{
    o->io.fd = r->fd;
    o->io.done = one_done;
    if (o->io.iov == NULL && o->iov[0].iov_base) {
        o->io.iov = o->iov;
        o->io.nb_iov = o->iov[1].iov_base ? 2 : 1;
    }
    loop_io_submit(r->loop, &o->io);
    g_assert_cmpuint(o->done, ==, 0);
    while (!o->done) {
        loop_poll(r->loop, true);
    }
    g_assert_cmpuint(o->done, ==, 1);
    return o->ret;
}

static void io_writes_and_reads_lists(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    char a[] = "hello ", b[] = "world", back[16] = "";
    struct one w = {.io = {.op = LOOP_IO_WRITE, .offset = 100},
                    .iov = {{a, 6}, {b, 5}}};
    g_assert_cmpint(run(&r, &w), ==, 11);
    struct one rd = {.io = {.op = LOOP_IO_READ, .offset = 100},
                     .iov = {{back, 3}, {back + 3, 8}}};
    g_assert_cmpint(run(&r, &rd), ==, 11);
    g_assert_cmpstr(back, ==, "hello world");
    rig_down(&r);
}

static void io_read_stops_at_end_of_file(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    char buf[100];
    g_assert_cmpint(pwrite(r.fd, "0123456789", 10, 0), ==, 10);
    struct one rd = {.io = {.op = LOOP_IO_READ, .offset = 4}, .iov = {{buf, 100}}};
    g_assert_cmpint(run(&r, &rd), ==, 6);
    struct one past = {.io = {.op = LOOP_IO_READ, .offset = 4000}, .iov = {{buf, 100}}};
    g_assert_cmpint(run(&r, &past), ==, 0);
    rig_down(&r);
}

static void io_sync_and_fallocate(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    char buf[8192];
    memset(buf, 0xaa, sizeof(buf));
    struct one w = {.io = {.op = LOOP_IO_WRITE, .flags = LOOP_IO_DSYNC},
                    .iov = {{buf, sizeof(buf)}}};
    g_assert_cmpint(run(&r, &w), ==, 8192);
    struct one punch = {.io = {.op = LOOP_IO_FALLOCATE,
                               .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               .offset = 4096,
                               .len = 4096}};
    g_assert_cmpint(run(&r, &punch), ==, 0);
    struct one sync = {.io = {.op = LOOP_IO_FSYNC}};
    g_assert_cmpint(run(&r, &sync), ==, 0);
    struct one dsync = {.io = {.op = LOOP_IO_FSYNC, .flags = LOOP_IO_DATASYNC}};
    g_assert_cmpint(run(&r, &dsync), ==, 0);
    struct one rd = {.io = {.op = LOOP_IO_READ}, .iov = {{buf, sizeof(buf)}}};
    g_assert_cmpint(run(&r, &rd), ==, 8192);
    g_assert_cmpint((unsigned char)buf[4095], ==, 0xaa);
    g_assert_cmpint(buf[4096], ==, 0);
    rig_down(&r);
}

static void io_reports_errors(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    char buf[16] = "";
    int file = r.fd;
    int ro = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    r.fd = ro;
    struct one w = {.io = {.op = LOOP_IO_WRITE}, .iov = {{buf, 16}}};
    g_assert_cmpint(run(&r, &w), ==, -EBADF);
    r.fd = -1;
    struct one rd = {.io = {.op = LOOP_IO_READ}, .iov = {{buf, 16}}};
    g_assert_cmpint(run(&r, &rd), ==, -EBADF);
    close(ro);
    r.fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    struct one full = {.io = {.op = LOOP_IO_WRITE}, .iov = {{buf, 16}}};
    g_assert_cmpint(run(&r, &full), ==, -ENOSPC);
    close(r.fd);
    r.fd = file;
    rig_down(&r);
}

/* More requests than the ring holds, submitted at once: all complete. */
static void io_more_than_queue_depth(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    enum { N = 300 };
    static struct one one[N];
    static uint32_t data[N][128];
    memset(one, 0, sizeof(one));
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < N; i++) {
            if (pass == 0) {
                for (unsigned k = 0; k < 128; k++) {
                    data[i][k] = i * 1000 + k;
                }
            } else {
                memset(data[i], 0, 512);
            }
            one[i] = (struct one){.io = {.op = pass ? LOOP_IO_READ : LOOP_IO_WRITE,
                                         .fd = r.fd,
                                         .offset = i * 512u,
                                         .done = one_done},
                                  .iov = {{data[i], 512}}};
            one[i].io.iov = one[i].iov;
            one[i].io.nb_iov = 1;
            loop_io_submit(r.loop, &one[i].io);
        }
        while (loop_in_flight(r.loop)) {
            loop_poll(r.loop, true);
        }
        for (unsigned i = 0; i < N; i++) {
            g_assert_cmpuint(one[i].done, ==, 1);
            g_assert_cmpint(one[i].ret, ==, 512);
            g_assert_cmpuint(data[i][127], ==, i * 1000 + 127);
        }
    }
    rig_down(&r);
}

/* Longer than IOV_MAX: the kernel takes a part, the rest must follow. */
static void io_lists_beyond_iov_max(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    enum { N = 3000 };
    static struct iovec iov[N];
    static unsigned char bytes[N * 3], back[N * 3];
    for (unsigned i = 0; i < N * 3; i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    for (unsigned i = 0; i < N; i++) {
        iov[i] = (struct iovec){bytes + i * 3, 3};
    }
    struct one w = {.io = {.op = LOOP_IO_WRITE, .iov = iov, .nb_iov = N}};
    g_assert_cmpint(run(&r, &w), ==, N * 3);
    g_assert_cmpint(pread(r.fd, back, sizeof(back), 0), ==, N * 3);
    g_assert_cmpmem(back, sizeof(back), bytes, sizeof(bytes));
    memset(bytes, 0, sizeof(bytes));
    struct one rd = {.io = {.op = LOOP_IO_READ, .iov = iov, .nb_iov = N}};
    g_assert_cmpint(run(&r, &rd), ==, N * 3);
    g_assert_cmpmem(back, sizeof(back), bytes, sizeof(bytes));
    rig_down(&r);
}

struct chain {
    struct one one;
    struct rig *rig;
    unsigned left;
    char buf[512];
};

static void chain_next(struct loop_io *io, int64_t ret)
{
    struct chain *c = container_of(io, struct chain, one.io);
    g_assert_cmpint(ret, ==, 512);
    if (c->left-- > 1) {
        loop_io_submit(c->rig->loop, io);
    }
}

/* Requests submitted by a completion go out without anybody else moving. */
static void io_chains_under_glib_and_thread(gconstpointer engine)
{
    struct rig r;
    if (!rig_up(&r, engine)) {
        return;
    }
    g_assert_cmpint(ftruncate(r.fd, 4096), ==, 0);
    struct chain c = {.rig = &r, .left = 200};
    c.one.iov[0] = (struct iovec){c.buf, 512};
    c.one.io = (struct loop_io){.op = LOOP_IO_READ,
                                .fd = r.fd,
                                .iov = c.one.iov,
                                .nb_iov = 1,
                                .done = chain_next};
    loop_attach(r.loop, NULL);
    loop_io_submit(r.loop, &c.one.io);
    while (c.left) {
        g_main_context_iteration(NULL, TRUE);
    }
    loop_detach(r.loop);

    c.left = 200;
    loop_io_submit(r.loop, &c.one.io);
    g_assert_true(loop_start(r.loop, "io", NULL));
    loop_stop(r.loop);
    while (loop_in_flight(r.loop)) {
        loop_poll(r.loop, true);
    }
    g_assert_cmpuint(c.left, ==, 0);
    rig_down(&r);
}

static void add2(const char *name, GTestDataFunc fn)
{
    g_autofree char *u = g_strdup_printf("/io/%s/io_uring", name);
    g_autofree char *t = g_strdup_printf("/io/%s/threads", name);
    g_test_add_data_func(u, GINT_TO_POINTER(LOOP_IO_URING), fn);
    g_test_add_data_func(t, GINT_TO_POINTER(LOOP_IO_THREADS), fn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add2("writes_and_reads_lists", io_writes_and_reads_lists);
    add2("read_stops_at_end_of_file", io_read_stops_at_end_of_file);
    add2("sync_and_fallocate", io_sync_and_fallocate);
    add2("reports_errors", io_reports_errors);
    add2("more_than_queue_depth", io_more_than_queue_depth);
    add2("lists_beyond_iov_max", io_lists_beyond_iov_max);
    add2("chains_under_glib_and_thread", io_chains_under_glib_and_thread);
    return g_test_run();
}
