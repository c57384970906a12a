#include "vmm/vm/clock.h"

#include <time.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"

#define MS UINT64_C(1000000)

struct fixture {
    struct loop *loop;
    struct vm_clock *clock;
    struct vm_timer *timer;
    unsigned fired;
    uint64_t fired_at;
};

static void fire(void *opaque)
{
    struct fixture *f = opaque;
    f->fired++;
    f->fired_at = vm_clock_ns(f->clock);
}

static void setup(struct fixture *f, gconstpointer data)
{
    f->loop = loop_new(NULL, NULL);
    f->clock = vm_clock_new(f->loop);
    f->timer = vm_timer_new(f->clock, fire, f);
}

static void teardown(struct fixture *f, gconstpointer data)
{
    vm_timer_free(f->timer);
    vm_clock_free(f->clock);
    loop_free(f->loop);
}

/* Nothing here expects to be quick: a busy host may stop us anywhere for long. */
#define HOUR (3600 * 1000 * MS)

/* Drive the loop for @ns of host time at least, and once after it. */
static void run_for(struct fixture *f, uint64_t ns)
{
    uint64_t end = loop_now_ns() + ns;
    while (loop_now_ns() < end) {
        loop_poll(f->loop, false);
        g_usleep(200);
    }
    loop_poll(f->loop, false);
}

static void guest_time_stands_still_while_stopped(struct fixture *f, gconstpointer data)
{
    g_assert_cmpuint(vm_clock_ns(f->clock), ==, 0);
    g_usleep(2000);
    g_assert_cmpuint(vm_clock_ns(f->clock), ==, 0);
    vm_clock_start(f->clock);
    g_usleep(2000);
    vm_clock_stop(f->clock);
    uint64_t stopped = vm_clock_ns(f->clock);
    g_assert_cmpuint(stopped, >=, 2 * MS);
    g_usleep(2000);
    g_assert_cmpuint(vm_clock_ns(f->clock), ==, stopped);
    vm_clock_stop(f->clock);
    uint64_t before = loop_now_ns();
    vm_clock_start(f->clock);
    vm_clock_start(f->clock);
    uint64_t again = vm_clock_ns(f->clock);
    g_assert_cmpuint(again, >=, stopped);
    g_assert_cmpuint(again - stopped, <=, loop_now_ns() - before);
}

static void timers_fire_once_and_never_early(struct fixture *f, gconstpointer data)
{
    vm_clock_start(f->clock);
    vm_timer_set(f->timer, 5 * MS);
    run_for(f, 15 * MS);
    g_assert_cmpuint(f->fired, ==, 1);
    g_assert_cmpuint(f->fired_at, >=, 5 * MS);
    /* In the past: at once. */
    vm_timer_set(f->timer, 1);
    run_for(f, 2 * MS);
    g_assert_cmpuint(f->fired, ==, 2);
    vm_timer_set(f->timer, UINT64_MAX);
    run_for(f, 2 * MS);
    g_assert_cmpuint(f->fired, ==, 2);
}

static void moved_and_cancelled_timers_obey(struct fixture *f, gconstpointer data)
{
    vm_clock_start(f->clock);
    vm_timer_set(f->timer, 3 * MS);
    vm_timer_set(f->timer, HOUR);
    run_for(f, 8 * MS);
    g_assert_cmpuint(f->fired, ==, 0);
    vm_timer_set(f->timer, vm_clock_ns(f->clock) + 2 * MS);
    vm_timer_cancel(f->timer);
    run_for(f, 5 * MS);
    g_assert_cmpuint(f->fired, ==, 0);
}

static void timers_wait_for_a_stopped_clock(struct fixture *f, gconstpointer data)
{
    vm_timer_set(f->timer, 1);
    run_for(f, 5 * MS);
    g_assert_cmpuint(f->fired, ==, 0);
    vm_clock_start(f->clock);
    vm_clock_stop(f->clock);
    vm_timer_set(f->timer, vm_clock_ns(f->clock) + MS);
    run_for(f, 5 * MS);
    g_assert_cmpuint(f->fired, ==, 0);
    vm_clock_start(f->clock);
    run_for(f, 5 * MS);
    g_assert_cmpuint(f->fired, ==, 1);
}

static void tsc_and_time_agree(struct fixture *f, gconstpointer data)
{
    vm_clock_start(f->clock);
    uint64_t khz = vm_clock_tsc_khz(f->clock);
    g_assert_cmpuint(khz, >, 100 * 1000);
    g_assert_cmpuint(khz, ==, vm_clock_tsc_khz(f->clock));
    uint64_t before = vm_clock_ns(f->clock);
    uint64_t t0 = vm_clock_tsc(f->clock);
    uint64_t after = vm_clock_ns(f->clock);
    uint64_t ahead = vm_clock_tsc_to_ns(f->clock, t0 + khz * 10);
    g_assert_cmpuint(ahead, >, before + 9 * MS);
    g_assert_cmpuint(ahead, <, after + 12 * MS);
    g_assert_cmpuint(vm_clock_tsc_to_ns(f->clock, UINT64_MAX), >, UINT64_C(1) << 60);
    g_assert_cmpuint(vm_clock_tsc_to_ns(f->clock, t0), <=, vm_clock_ns(f->clock));
}

/* Sets itself anew at each call: a device that ticks. */
static void tick(void *opaque)
{
    struct fixture *f = opaque;
    f->fired++;
    f->fired_at = vm_clock_ns(f->clock);
    vm_timer_set(f->timer, f->fired_at + MS);
}

static void advancing_fires_each_timer_at_its_time(struct fixture *f,
                                                   gconstpointer data)
{
    struct fixture ticker = {.clock = f->clock};
    ticker.timer = vm_timer_new(f->clock, tick, &ticker);
    vm_timer_set(ticker.timer, 0);
    vm_timer_set(f->timer, 2 * MS + 5);
    vm_clock_advance(f->clock, 2 * MS + 4);
    g_assert_cmpuint(ticker.fired, ==, 3);
    g_assert_cmpuint(ticker.fired_at, ==, 2 * MS);
    g_assert_cmpuint(f->fired, ==, 0);
    vm_clock_advance(f->clock, 1);
    g_assert_cmpuint(f->fired_at, ==, 2 * MS + 5);
    g_assert_cmpuint(vm_clock_ns(f->clock), ==, 2 * MS + 5);
    vm_timer_free(ticker.timer);
}

struct racer {
    struct fixture *f;
    _Atomic bool stop;
};

static gpointer race_reads_and_sets(gpointer opaque)
{
    struct racer *r = opaque;
    uint64_t last = 0;
    while (!r->stop) {
        uint64_t now = vm_clock_ns(r->f->clock);
        g_assert_cmpuint(now, >=, last);
        last = now;
        vm_timer_set(r->f->timer, now + MS);
        if ((now & 7) == 0) {
            vm_timer_cancel(r->f->timer);
        }
    }
    return NULL;
}

static void time_is_monotonic_across_stops_from_any_thread(struct fixture *f,
                                                           gconstpointer data)
{
    struct racer r = {.f = f};
    vm_clock_start(f->clock);
    GThread *t = g_thread_new("racer", race_reads_and_sets, &r);
    for (int i = 0; i < 200; i++) {
        vm_clock_stop(f->clock);
        vm_clock_start(f->clock);
        loop_poll(f->loop, false);
    }
    r.stop = true;
    g_thread_join(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, fn) g_test_add(path, struct fixture, NULL, setup, fn, teardown)
    ADD("/clock/stopped", guest_time_stands_still_while_stopped);
    ADD("/clock/timer", timers_fire_once_and_never_early);
    ADD("/clock/timer-moved", moved_and_cancelled_timers_obey);
    ADD("/clock/timer-stopped", timers_wait_for_a_stopped_clock);
    ADD("/clock/advance", advancing_fires_each_timer_at_its_time);
    ADD("/clock/tsc", tsc_and_time_agree);
    ADD("/clock/race", time_is_monotonic_across_stops_from_any_thread);
    return g_test_run();
}
