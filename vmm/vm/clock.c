#include "vmm/vm/clock.h"

#include <time.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * Guest time is the host's monotonic time less an offset, which grows by each time
 * the VM stood still. Reading it takes no lock: a sequence counter (odd while it is
 * being changed) guards offset and stop time.
 *
 * A timer stands on a loop timer with the same deadline in host time; lib/loop says
 * what arming costs (a system call only when it becomes the earliest of all). While
 * guest time stands still, no loop timer is armed.
 *
 * Lock order: a device's lock, clock->lock, the loop's own.
 */

struct vm_clock {
    struct loop *loop;

    _Atomic uint32_t seq;
    _Atomic uint64_t offset_ns; /* host - guest, while running */
    _Atomic uint64_t frozen_ns; /* guest time, while stopped */
    _Atomic bool running;

    uint64_t tsc_base; /* host TSC and time at creation */
    uint64_t tsc_base_ns;
    _Atomic uint64_t tsc_khz; /* 0: not measured yet */

    GMutex lock;
    GQueue timers; /* struct vm_timer, under lock */
};

struct vm_timer {
    struct vm_clock *clock;
    vm_timer_fn fn;
    void *opaque;
    struct loop_timer host;
    GList link;
    uint64_t deadline_ns; /* guest time; these two under clock->lock */
    bool armed;
};

/* The host's counter of constant rate, whatever the host calls it. */
static uint64_t host_tsc(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t v;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
#else
    return loop_now_ns();
#endif
}

/* The counter and the time at the same moment: the tightest of a few tries. */
static void sample(uint64_t *ret_tsc, uint64_t *ret_ns)
{
    uint64_t best = UINT64_MAX;
    *ret_tsc = *ret_ns = 0;
    for (int i = 0; i < 5; i++) {
        uint64_t before = host_tsc();
        uint64_t ns = loop_now_ns();
        uint64_t after = host_tsc();
        if (after - before < best) {
            best = after - before;
            *ret_tsc = before + best / 2;
            *ret_ns = ns;
        }
    }
}

struct vm_clock *vm_clock_new(struct loop *loop)
{
    struct vm_clock *c = g_new0(struct vm_clock, 1);
    c->loop = loop;
    g_mutex_init(&c->lock);
    g_queue_init(&c->timers);
    sample(&c->tsc_base, &c->tsc_base_ns);
    return c;
}

void vm_clock_free(struct vm_clock *c)
{
    if (!c) {
        return;
    }
    g_mutex_clear(&c->lock);
    g_free(c);
}

uint64_t vm_clock_ns(struct vm_clock *c)
{
    for (;;) {
        uint32_t seq = atomic_load_explicit(&c->seq, memory_order_acquire);
        bool running = atomic_load_explicit(&c->running, memory_order_acquire);
        uint64_t offset = atomic_load_explicit(&c->offset_ns, memory_order_acquire);
        uint64_t frozen = atomic_load_explicit(&c->frozen_ns, memory_order_acquire);
        uint64_t now = running ? loop_now_ns() - offset : frozen;
        /* Acquire loads above: seq is read again after them. */
        if (likely(!(seq & 1) &&
                   atomic_load_explicit(&c->seq, memory_order_relaxed) == seq)) {
            return now;
        }
    }
}

uint64_t vm_clock_wall_ns(struct vm_clock *c)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* Change what vm_clock_ns() reads. Caller holds the lock. */
static void change_locked(struct vm_clock *c, bool running, uint64_t offset,
                          uint64_t frozen)
{
    atomic_fetch_add_explicit(&c->seq, 1, memory_order_acq_rel);
    atomic_store_explicit(&c->running, running, memory_order_release);
    atomic_store_explicit(&c->offset_ns, offset, memory_order_release);
    atomic_store_explicit(&c->frozen_ns, frozen, memory_order_release);
    atomic_fetch_add_explicit(&c->seq, 1, memory_order_release);
}

uint64_t vm_clock_to_host(struct vm_clock *c, uint64_t guest_ns)
{
    uint64_t host = UINT64_MAX;
    g_mutex_lock(&c->lock);
    if (atomic_load_explicit(&c->running, memory_order_relaxed) &&
        (__builtin_add_overflow(
             guest_ns, atomic_load_explicit(&c->offset_ns, memory_order_relaxed),
             &host) ||
         host > INT64_MAX)) {
        host = UINT64_MAX;
    }
    g_mutex_unlock(&c->lock);
    return host;
}

/* Arm the loop timer of @t when it should be. Caller holds the lock. */
static void arm_locked(struct vm_timer *t)
{
    struct vm_clock *c = t->clock;
    if (t->armed && atomic_load_explicit(&c->running, memory_order_relaxed)) {
        uint64_t offset = atomic_load_explicit(&c->offset_ns, memory_order_relaxed);
        uint64_t host;
        /* Half of all time is more than the host will see. */
        if (__builtin_add_overflow(t->deadline_ns, offset, &host) || host > INT64_MAX) {
            host = INT64_MAX;
        }
        loop_timer_set(&t->host, host);
    }
}

void vm_clock_stop(struct vm_clock *c)
{
    g_mutex_lock(&c->lock);
    if (atomic_load(&c->running)) {
        change_locked(c, false, 0, vm_clock_ns(c));
        for (GList *l = c->timers.head; l; l = l->next) {
            loop_timer_clear(&((struct vm_timer *)l->data)->host);
        }
    }
    g_mutex_unlock(&c->lock);
}

void vm_clock_start(struct vm_clock *c)
{
    g_mutex_lock(&c->lock);
    if (!atomic_load(&c->running)) {
        change_locked(c, true, loop_now_ns() - vm_clock_ns(c), 0);
        for (GList *l = c->timers.head; l; l = l->next) {
            arm_locked(l->data);
        }
    }
    g_mutex_unlock(&c->lock);
}

bool vm_clock_is_running(const struct vm_clock *c)
{
    return atomic_load_explicit(&c->running, memory_order_relaxed);
}

/* The armed timer with the earliest deadline, no later than @end. */
static struct vm_timer *earliest_locked(struct vm_clock *c, uint64_t end)
{
    struct vm_timer *best = NULL;
    for (GList *l = c->timers.head; l; l = l->next) {
        struct vm_timer *t = l->data;
        if (t->armed && t->deadline_ns <= end &&
            (!best || t->deadline_ns < best->deadline_ns)) {
            best = t;
        }
    }
    return best;
}

void vm_clock_advance(struct vm_clock *c, uint64_t ns)
{
    g_mutex_lock(&c->lock);
    if (!atomic_load(&c->running)) {
        uint64_t now = vm_clock_ns(c), end;
        struct vm_timer *t;
        if (__builtin_add_overflow(now, ns, &end)) {
            end = UINT64_MAX;
        }
        while ((t = earliest_locked(c, end)) != NULL) {
            now = MAX(now, t->deadline_ns);
            change_locked(c, false, 0, now);
            t->armed = false;
            g_mutex_unlock(&c->lock);
            t->fn(t->opaque);
            g_mutex_lock(&c->lock);
        }
        change_locked(c, false, 0, end);
    }
    g_mutex_unlock(&c->lock);
}

uint64_t vm_clock_tsc(struct vm_clock *c)
{
    return host_tsc() - c->tsc_base;
}

uint64_t vm_clock_tsc_start(const struct vm_clock *c)
{
    return c->tsc_base;
}

/* Measured over the time since the clock was made, of which there is mostly enough
 * when it is first asked for; else it waits for the rest of 10 ms. */
uint64_t vm_clock_tsc_khz(struct vm_clock *c)
{
    enum { SPAN_NS = 10 * 1000 * 1000 };
    uint64_t khz = atomic_load_explicit(&c->tsc_khz, memory_order_acquire);
    if (likely(khz)) {
        return khz;
    }
    g_mutex_lock(&c->lock);
    khz = atomic_load_explicit(&c->tsc_khz, memory_order_relaxed);
    if (!khz) {
        uint64_t tsc, ns;
        uint64_t gone = loop_now_ns() - c->tsc_base_ns;
        if (gone < SPAN_NS) {
            g_usleep((SPAN_NS - gone) / 1000 + 1);
        }
        sample(&tsc, &ns);
        unsigned __int128 ticks = (unsigned __int128)(tsc - c->tsc_base) * 1000000;
        uint64_t span = ns - c->tsc_base_ns;
        khz = MAX((uint64_t)((ticks + span / 2) / span), 1);
        atomic_store_explicit(&c->tsc_khz, khz, memory_order_release);
    }
    g_mutex_unlock(&c->lock);
    return khz;
}

/*
 * Counter and guest time of one moment. The host may take the processor away between
 * the two: then the tightest of a few tries, and the counter is read first, which makes
 * what is computed from them late and never early.
 */
static void vm_clock_both(struct vm_clock *c, uint64_t khz, uint64_t *ret_tsc,
                          uint64_t *ret_ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5 && best > khz / 1000; i++) { /* a microsecond */
        uint64_t before = vm_clock_tsc(c);
        uint64_t ns = vm_clock_ns(c);
        uint64_t gap = vm_clock_tsc(c) - before;
        if (gap < best) {
            best = gap;
            *ret_tsc = before;
            *ret_ns = ns;
        }
    }
}

uint64_t vm_clock_tsc_to_ns(struct vm_clock *c, uint64_t tsc)
{
    uint64_t khz = vm_clock_tsc_khz(c);
    uint64_t now = 0, tsc_now = 0;
    vm_clock_both(c, khz, &tsc_now, &now);
    if (tsc <= tsc_now) {
        unsigned __int128 ago = (unsigned __int128)(tsc_now - tsc) * 1000000 / khz;
        return ago < now ? now - (uint64_t)ago : 0;
    }
    unsigned __int128 ahead = (unsigned __int128)(tsc - tsc_now) * 1000000 / khz;
    return ahead < UINT64_MAX - now ? now + (uint64_t)ahead : UINT64_MAX;
}

/* The loop timer fired. It may be one that was cancelled or moved meanwhile. */
static void fired(void *opaque)
{
    struct vm_timer *t = opaque;
    struct vm_clock *c = t->clock;
    g_mutex_lock(&c->lock);
    bool due = t->armed && atomic_load(&c->running) && t->deadline_ns <= vm_clock_ns(c);
    if (due) {
        t->armed = false;
    } else {
        arm_locked(t);
    }
    g_mutex_unlock(&c->lock);
    if (due) {
        t->fn(t->opaque);
    }
}

struct vm_timer *vm_timer_new(struct vm_clock *c, vm_timer_fn fn, void *opaque)
{
    struct vm_timer *t = g_new0(struct vm_timer, 1);
    t->clock = c;
    t->fn = fn;
    t->opaque = opaque;
    t->link.data = t;
    loop_timer_init(&t->host, c->loop, fired, t);
    g_mutex_lock(&c->lock);
    g_queue_push_tail_link(&c->timers, &t->link);
    g_mutex_unlock(&c->lock);
    return t;
}

void vm_timer_free(struct vm_timer *t)
{
    if (!t) {
        return;
    }
    struct vm_clock *c = t->clock;
    g_mutex_lock(&c->lock);
    t->armed = false;
    g_queue_unlink(&c->timers, &t->link);
    g_mutex_unlock(&c->lock);
    loop_timer_done(&t->host);
    g_free(t);
}

void vm_timer_set(struct vm_timer *t, uint64_t guest_ns)
{
    struct vm_clock *c = t->clock;
    g_mutex_lock(&c->lock);
    t->deadline_ns = guest_ns;
    t->armed = true;
    arm_locked(t);
    g_mutex_unlock(&c->lock);
}

/* The loop timer stays armed: it fires for nothing once, which costs less than
 * taking it back and arming it anew each time a guest changes its mind. */
void vm_timer_cancel(struct vm_timer *t)
{
    g_mutex_lock(&t->clock->lock);
    t->armed = false;
    g_mutex_unlock(&t->clock->lock);
}
