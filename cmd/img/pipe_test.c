#include "cmd/img/pipe.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <glib.h>

#include "lib/base/base.h"

enum { MEM = 8192 };

/* Pieces 0..total-1; each is marked by work, and put sees that and the order. */
struct rig {
    uint64_t total, taken, put, sum;
    bool any_order;
    uint64_t fail_next, fail_work, fail_put; /* at which piece, from 1; 0: never */
    int seen_error;
    unsigned in_work, most_in_work; /* atomically */
    pthread_mutex_t lock;
};

static int next(void *opaque, struct piece *p)
{
    struct rig *r = opaque;
    if (r->taken == r->total) {
        return PIPE_END;
    }
    p->offset = r->taken++;
    p->no_work = p->offset % 5 == 4;
    return p->offset + 1 == r->fail_next ? -EILSEQ : 0;
}

static int work(void *opaque, struct piece *p)
{
    struct rig *r = opaque;
    unsigned n = __atomic_add_fetch(&r->in_work, 1, __ATOMIC_SEQ_CST);
    g_assert_cmpuint((uintptr_t)p->mem % 4096, ==, 0);
    g_assert_false(p->no_work);
    memset(p->mem, (int)(p->offset & 0xff), MEM);
    p->result = p->offset * 3;
    pthread_mutex_lock(&r->lock);
    r->most_in_work = MAX(r->most_in_work, n);
    pthread_mutex_unlock(&r->lock);
    __atomic_sub_fetch(&r->in_work, 1, __ATOMIC_SEQ_CST);
    return p->offset + 1 == r->fail_work ? -EDOM : 0;
}

static int put(void *opaque, struct piece *p)
{
    struct rig *r = opaque;
    pthread_mutex_lock(&r->lock);
    if (!r->any_order) {
        g_assert_cmpuint(p->offset, ==, r->put);
    }
    r->put++;
    r->sum += p->offset;
    pthread_mutex_unlock(&r->lock);
    if (p->error) {
        g_assert_cmpint(p->unknown, ==, p->error == -EILSEQ);
        r->seen_error = p->error;
        return p->error;
    }
    if (!p->no_work) {
        g_assert_cmpuint(p->result, ==, p->offset * 3);
        g_assert_cmpuint(p->mem[0], ==, p->offset & 0xff);
        g_assert_cmpuint(p->mem[MEM - 1], ==, p->offset & 0xff);
    }
    return p->offset + 1 == r->fail_put ? 7 : 0;
}

static int run(struct rig *r, unsigned threads)
{
    struct pipe p = {
        .threads = threads,
        .any_order = r->any_order,
        .mem_bytes = MEM,
        .next = next,
        .work = work,
        .put = put,
        .opaque = r,
    };
    pthread_mutex_init(&r->lock, NULL);
    int ret = pipe_run(&p);
    pthread_mutex_destroy(&r->lock);
    g_assert_cmpuint(r->most_in_work, <=, threads ? threads : 16);
    return ret;
}

static void every_piece_is_put_once(void)
{
    for (unsigned i = 0; i < 2 * 5; i++) {
        static const unsigned threads[] = {0, 1, 2, 3, 16};
        struct rig r = {.total = i / 2 * 100, .any_order = i % 2};
        g_assert_cmpint(run(&r, threads[i % 5]), ==, 0);
        g_assert_cmpuint(r.put, ==, r.total);
        g_assert_cmpuint(r.sum, ==, r.total ? r.total * (r.total - 1) / 2 : 0);
    }
}

/* What went wrong is told in the piece's turn: all before it was put, nothing after. */
static void failure_comes_in_its_turn(void)
{
    struct rig a = {.total = 200, .fail_next = 58};
    g_assert_cmpint(run(&a, 4), ==, -EILSEQ);
    g_assert_cmpuint(a.put, ==, 58);
    struct rig b = {.total = 200, .fail_work = 62};
    g_assert_cmpint(run(&b, 4), ==, -EDOM);
    g_assert_cmpuint(b.put, ==, 62);
    g_assert_cmpint(b.seen_error, ==, -EDOM);
    struct rig c = {.total = 200, .fail_put = 34, .fail_work = 36, .fail_next = 91};
    g_assert_cmpint(run(&c, 4), ==, 7);
    g_assert_cmpuint(c.put, ==, 34);
    g_assert_cmpint(c.seen_error, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pipe/every_piece_is_put_once", every_piece_is_put_once);
    g_test_add_func("/pipe/failure_comes_in_its_turn", failure_comes_in_its_turn);
    return g_test_run();
}
