#include "lib/loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "lib/base/base.h"

/* Every promise is kept by hand, on a thread of its own, and under GLib alike. */
enum driver { BY_HAND, OWN_THREAD, GLIB };

struct rig {
    struct loop *loop;
    enum driver driver;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void rig_up(struct rig *r, enum driver d)
{
    *r = (struct rig){.driver = d};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->loop = loop_new(NULL, NULL);
    g_assert_nonnull(r->loop);
    if (d == OWN_THREAD) {
        g_assert_true(loop_start(r->loop, "test", NULL));
    } else if (d == GLIB) {
        loop_attach(r->loop, NULL);
    }
}

static void rig_down(struct rig *r)
{
    loop_free(r->loop);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

/* Wait until *@value, which callbacks change through rig_add(), is at least @want. */
static void rig_wait(struct rig *r, const unsigned *value, unsigned want)
{
    pthread_mutex_lock(&r->lock);
    while (*value < want) {
        if (r->driver == OWN_THREAD) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        pthread_mutex_unlock(&r->lock);
        if (r->driver == GLIB) {
            g_main_context_iteration(NULL, TRUE);
        } else {
            loop_poll(r->loop, true);
        }
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

static void rig_add(struct rig *r, unsigned *value)
{
    pthread_mutex_lock(&r->lock);
    ++*value;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static unsigned rig_read(struct rig *r, const unsigned *value)
{
    pthread_mutex_lock(&r->lock);
    unsigned v = *value;
    pthread_mutex_unlock(&r->lock);
    return v;
}

/* ---- bottom halves ---- */

struct bh_test {
    struct rig rig;
    struct loop_bh bh;
    unsigned runs, calls;
    unsigned again;
};

static void bh_count(void *opaque)
{
    struct bh_test *t = opaque;
    g_assert_true(loop_in_thread(t->rig.loop));
    if (t->again) {
        t->again--;
        loop_bh_schedule(&t->bh);
    }
    rig_add(&t->rig, &t->runs);
}

static void *schedule_1000(void *opaque)
{
    struct bh_test *t = opaque;
    for (unsigned i = 0; i < 1000; i++) {
        loop_bh_schedule(&t->bh);
    }
    return NULL;
}

static void call_count(void *opaque)
{
    struct bh_test *t = opaque;
    rig_add(&t->rig, &t->calls);
}

static void bh_runs_from_any_thread(gconstpointer driver)
{
    struct bh_test t = {0};
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    loop_bh_init(&t.bh, t.rig.loop, bh_count, &t);

    pthread_t thread[2];
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&thread[i], NULL, schedule_1000, &t);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
    }
    rig_wait(&t.rig, &t.runs, 1);
    loop_call(t.rig.loop, call_count, &t);
    rig_wait(&t.rig, &t.calls, 1);
    g_assert_cmpuint(rig_read(&t.rig, &t.runs), <=, 2000);
    rig_down(&t.rig);
}

static void bh_may_schedule_itself(gconstpointer driver)
{
    struct bh_test t = {.again = 9};
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    loop_bh_init(&t.bh, t.rig.loop, bh_count, &t);
    loop_bh_schedule(&t.bh);
    rig_wait(&t.rig, &t.runs, 10);
    rig_down(&t.rig);
    g_assert_cmpuint(t.runs, ==, 10);
}

static void bh_coalesces_and_cancels(void)
{
    struct bh_test t = {0};
    rig_up(&t.rig, BY_HAND);
    loop_bh_init(&t.bh, t.rig.loop, bh_count, &t);
    loop_bh_schedule(&t.bh);
    loop_bh_schedule(&t.bh);
    g_assert_true(loop_poll(t.rig.loop, false));
    g_assert_cmpuint(t.runs, ==, 1);
    g_assert_false(loop_poll(t.rig.loop, false));

    loop_bh_schedule(&t.bh);
    loop_bh_cancel(&t.bh);
    loop_poll(t.rig.loop, false);
    g_assert_cmpuint(t.runs, ==, 1);
    /* Cancelling the last of the list must leave a list that can grow. */
    loop_bh_schedule(&t.bh);
    loop_poll(t.rig.loop, false);
    g_assert_cmpuint(t.runs, ==, 2);
    rig_down(&t.rig);
}

static void bh_polls_again(void *opaque)
{
    struct bh_test *t = opaque;
    loop_bh_schedule(&t->bh);
    while (t->runs == 0) {
        loop_poll(t->rig.loop, true);
    }
    t->calls++;
}

static void poll_nests(void)
{
    struct bh_test t = {0};
    rig_up(&t.rig, BY_HAND);
    loop_bh_init(&t.bh, t.rig.loop, bh_count, &t);
    loop_call(t.rig.loop, bh_polls_again, &t);
    while (t.calls == 0) {
        loop_poll(t.rig.loop, true);
    }
    g_assert_cmpuint(t.runs, ==, 1);
    rig_down(&t.rig);
}

/* ---- timers ---- */

struct timer_test {
    struct rig rig;
    struct loop_timer timer[3];
    uint64_t due_ns[3];
    unsigned order[8], fired;
};

static void timer_note(struct timer_test *t, unsigned which)
{
    g_assert_cmpuint(loop_now_ns(), >=, t->due_ns[which]);
    g_assert_true(loop_in_thread(t->rig.loop));
    t->order[t->fired] = which;
    rig_add(&t->rig, &t->fired);
}

static void timer_0(void *t)
{
    timer_note(t, 0);
}

static void timer_1(void *t)
{
    timer_note(t, 1);
}

static void timer_2(void *t)
{
    timer_note(t, 2);
}

/* In the loop's thread: none fires before all are set. */
static void set_three(void *opaque)
{
    struct timer_test *t = opaque;
    static const unsigned ms[] = {30, 10, 20};
    uint64_t now = loop_now_ns();
    for (unsigned i = 0; i < 3; i++) {
        t->due_ns[i] = now + ms[i] * 1000000u;
        loop_timer_set(&t->timer[i], t->due_ns[i]);
    }
}

static void timers_fire_in_order_never_early(gconstpointer driver)
{
    struct timer_test t = {0};
    struct loop_bh bh;
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    static const loop_timer_fn fns[] = {timer_0, timer_1, timer_2};
    for (unsigned i = 0; i < 3; i++) {
        loop_timer_init(&t.timer[i], t.rig.loop, fns[i], &t);
    }
    loop_bh_init(&bh, t.rig.loop, set_three, &t);
    loop_bh_schedule(&bh);
    rig_wait(&t.rig, &t.fired, 3);
    loop_bh_cancel(&bh);
    g_assert_cmpuint(t.order[0], ==, 1);
    g_assert_cmpuint(t.order[1], ==, 2);
    g_assert_cmpuint(t.order[2], ==, 0);
    rig_down(&t.rig);
}

static void timer_moves_and_clears(void)
{
    struct timer_test t = {0};
    rig_up(&t.rig, BY_HAND);
    loop_timer_init(&t.timer[0], t.rig.loop, timer_0, &t);
    loop_timer_init(&t.timer[1], t.rig.loop, timer_1, &t);
    uint64_t now = loop_now_ns();
    loop_timer_set(&t.timer[0], now + 5000000);
    loop_timer_set(&t.timer[1], now + 10000000);
    loop_timer_set(&t.timer[0], now + 3600000000000); /* later than the one armed */
    g_assert_true(loop_timer_clear(&t.timer[0]));
    g_assert_false(loop_timer_clear(&t.timer[0]));
    rig_wait(&t.rig, &t.fired, 1);
    g_assert_cmpuint(t.order[0], ==, 1);

    loop_timer_set(&t.timer[0], 0); /* long past: at once */
    loop_poll(t.rig.loop, true);
    g_assert_cmpuint(t.fired, ==, 2);
    rig_down(&t.rig);
}

static void timer_heap_keeps_order(void)
{
    struct loop *l = loop_new(NULL, NULL);
    struct timer_test t = {.rig.loop = l};
    struct loop_timer timer[200];
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    uint64_t far = loop_now_ns() + 3600000000000;
    for (unsigned i = 0; i < 200; i++) {
        loop_timer_init(&timer[i], l, timer_0, &t);
        loop_timer_set(&timer[i], far + g_rand_int(rand) % 1000);
    }
    /* Taking away and moving at random must keep each armed timer findable. */
    for (unsigned n = 0; n < 5000; n++) {
        struct loop_timer *x = &timer[g_rand_int(rand) % 200];
        if (g_rand_boolean(rand)) {
            bool armed = x->slot != 0;
            g_assert_true(loop_timer_clear(x) == armed);
        } else {
            loop_timer_set(x, far + g_rand_int(rand) % 1000);
        }
    }
    for (unsigned i = 0; i < 200; i++) {
        loop_timer_done(&timer[i]);
        g_assert_cmpuint(timer[i].slot, ==, 0);
    }
    g_assert_false(loop_poll(l, false));
    loop_free(l);
}

struct slow_timer {
    struct rig rig;
    struct loop_timer timer;
    unsigned started;
    _Atomic bool over;
};

static void slow_fn(void *opaque)
{
    struct slow_timer *t = opaque;
    rig_add(&t->rig, &t->started);
    g_usleep(20000);
    atomic_store(&t->over, true);
}

static void timer_done_waits_for_a_running_one(void)
{
    struct slow_timer t = {0};
    rig_up(&t.rig, OWN_THREAD);
    loop_timer_init(&t.timer, t.rig.loop, slow_fn, &t);
    loop_timer_set(&t.timer, 0);
    rig_wait(&t.rig, &t.started, 1);
    loop_timer_done(&t.timer);
    g_assert_true(atomic_load(&t.over));
    rig_down(&t.rig);
}

/* ---- descriptors ---- */

struct fd_test {
    struct rig rig;
    struct loop_fd *watch, *other;
    int pipe[2];
    unsigned reads, others;
};

static void fd_read(void *opaque, unsigned events)
{
    struct fd_test *t = opaque;
    char c;
    g_assert_true(events & LOOP_READ);
    g_assert_cmpint(read(t->pipe[0], &c, 1), ==, 1);
    rig_add(&t->rig, &t->reads);
}

static void fd_add_bh(void *opaque)
{
    struct fd_test *t = opaque;
    t->watch = loop_fd_add(t->rig.loop, t->pipe[0], LOOP_READ, fd_read, t);
    g_assert_nonnull(t->watch);
    rig_add(&t->rig, &t->others);
}

static void fd_remove_bh(void *opaque)
{
    struct fd_test *t = opaque;
    loop_fd_remove(t->watch);
    rig_add(&t->rig, &t->others);
}

static void fd_watch_reports(gconstpointer driver)
{
    struct fd_test t = {0};
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    g_assert_cmpint(pipe(t.pipe), ==, 0);
    loop_call(t.rig.loop, fd_add_bh, &t);
    rig_wait(&t.rig, &t.others, 1);
    for (unsigned i = 1; i <= 3; i++) {
        g_assert_cmpint(write(t.pipe[1], "x", 1), ==, 1);
        rig_wait(&t.rig, &t.reads, i);
    }
    loop_call(t.rig.loop, fd_remove_bh, &t);
    rig_wait(&t.rig, &t.others, 2);
    g_assert_cmpint(write(t.pipe[1], "x", 1), ==, 1);
    rig_down(&t.rig);
    g_assert_cmpuint(t.reads, ==, 3);
    close(t.pipe[0]);
    close(t.pipe[1]);
}

static void fd_remove_both(void *opaque, unsigned events)
{
    struct fd_test *t = opaque;
    t->reads++;
    loop_fd_remove(g_steal_pointer(&t->watch));
    loop_fd_remove(g_steal_pointer(&t->other));
}

static void fd_removed_in_callback_is_silent(void)
{
    struct fd_test t = {0};
    int second[2];
    rig_up(&t.rig, BY_HAND);
    g_assert_cmpint(pipe(t.pipe), ==, 0);
    g_assert_cmpint(pipe(second), ==, 0);
    t.watch = loop_fd_add(t.rig.loop, t.pipe[0], LOOP_READ, fd_remove_both, &t);
    t.other = loop_fd_add(t.rig.loop, second[0], LOOP_READ, fd_remove_both, &t);
    g_assert_cmpint(write(t.pipe[1], "x", 1), ==, 1);
    g_assert_cmpint(write(second[1], "x", 1), ==, 1);
    while (loop_poll(t.rig.loop, false)) {
    }
    g_assert_cmpuint(t.reads, ==, 1);
    rig_down(&t.rig);
    close(t.pipe[0]);
    close(t.pipe[1]);
    close(second[0]);
    close(second[1]);
}

static void count_reads(void *opaque, unsigned events)
{
    struct fd_test *t = opaque;
    rig_add(&t->rig, &t->reads);
}

static void fd_regular_file_is_always_ready(gconstpointer driver)
{
    struct fd_test t = {0};
    char name[] = "loop-test-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    t.watch = loop_fd_add(t.rig.loop, fd, LOOP_READ, count_reads, &t);
    g_assert_nonnull(t.watch);
    rig_wait(&t.rig, &t.reads, 3);
    loop_fd_remove(t.watch);
    rig_down(&t.rig);
    close(fd);
}

static void fd_twice_is_refused(void)
{
    struct fd_test t = {0};
    rig_up(&t.rig, BY_HAND);
    g_assert_cmpint(pipe(t.pipe), ==, 0);
    t.watch = loop_fd_add(t.rig.loop, t.pipe[0], LOOP_READ, count_reads, &t);
    g_assert_null(loop_fd_add(t.rig.loop, t.pipe[0], LOOP_READ, count_reads, &t));
    g_assert_cmpint(errno, ==, EEXIST);
    loop_fd_remove(t.watch);
    rig_down(&t.rig);
    close(t.pipe[0]);
    close(t.pipe[1]);
}

/* ---- work ---- */

struct work_test {
    struct rig rig;
    struct one_work {
        struct loop_work work;
        struct work_test *test;
        unsigned number;
        unsigned result;
    } one[100];
    unsigned done;
};

static void work_run(struct loop_work *w)
{
    struct one_work *o = container_of(w, struct one_work, work);
    g_assert_false(loop_in_thread(o->test->rig.loop));
    o->result = o->number * o->number;
}

static void work_done(struct loop_work *w)
{
    struct one_work *o = container_of(w, struct one_work, work);
    g_assert_true(loop_in_thread(o->test->rig.loop));
    g_assert_cmpuint(o->result, ==, o->number * o->number);
    rig_add(&o->test->rig, &o->test->done);
}

static void submit_all(void *opaque)
{
    struct work_test *t = opaque;
    for (unsigned i = 0; i < G_N_ELEMENTS(t->one); i++) {
        struct one_work *o = &t->one[i];
        *o = (struct one_work){
            .work = {.run = work_run, .done = work_done}, .test = t, .number = i};
        loop_work_submit(t->rig.loop, &o->work);
    }
}

static void work_runs_in_pool_and_comes_back(gconstpointer driver)
{
    struct work_test t = {0};
    rig_up(&t.rig, GPOINTER_TO_INT(driver));
    loop_call(t.rig.loop, submit_all, &t);
    rig_wait(&t.rig, &t.done, G_N_ELEMENTS(t.one));
    rig_down(&t.rig);
}

static void free_finishes_work(void)
{
    struct work_test t = {0};
    rig_up(&t.rig, BY_HAND);
    submit_all(&t);
    g_assert_cmpuint(loop_in_flight(t.rig.loop), ==, G_N_ELEMENTS(t.one));
    rig_down(&t.rig);
    g_assert_cmpuint(t.done, ==, G_N_ELEMENTS(t.one));
}

static void add3(const char *name, GTestDataFunc fn)
{
    static const char *const drivers[] = {"by-hand", "own-thread", "glib"};
    for (int d = BY_HAND; d <= GLIB; d++) {
        g_autofree char *path = g_strdup_printf("/loop/%s/%s", name, drivers[d]);
        g_test_add_data_func(path, GINT_TO_POINTER(d), fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add3("bh_runs_from_any_thread", bh_runs_from_any_thread);
    add3("bh_may_schedule_itself", bh_may_schedule_itself);
    g_test_add_func("/loop/bh_coalesces_and_cancels", bh_coalesces_and_cancels);
    g_test_add_func("/loop/poll_nests", poll_nests);
    add3("timers_fire_in_order_never_early", timers_fire_in_order_never_early);
    g_test_add_func("/loop/timer_moves_and_clears", timer_moves_and_clears);
    g_test_add_func("/loop/timer_heap_keeps_order", timer_heap_keeps_order);
    g_test_add_func("/loop/timer_done_waits_for_a_running_one",
                    timer_done_waits_for_a_running_one);
    add3("fd_watch_reports", fd_watch_reports);
    g_test_add_func("/loop/fd_removed_in_callback_is_silent",
                    fd_removed_in_callback_is_silent);
    g_test_add_data_func("/loop/fd_regular_file_is_always_ready/by-hand",
                         GINT_TO_POINTER(BY_HAND), fd_regular_file_is_always_ready);
    g_test_add_data_func("/loop/fd_regular_file_is_always_ready/glib",
                         GINT_TO_POINTER(GLIB), fd_regular_file_is_always_ready);
    g_test_add_func("/loop/fd_twice_is_refused", fd_twice_is_refused);
    add3("work_runs_in_pool_and_comes_back", work_runs_in_pool_and_comes_back);
    g_test_add_func("/loop/free_finishes_work", free_finishes_work);
    return g_test_run();
}
