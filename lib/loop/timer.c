#include "lib/loop/loop_priv.h"

#include <sys/timerfd.h>
#include <unistd.h>

/*
 * Timers: a binary heap by deadline, and one timerfd set to its top. The timerfd
 * is moved only when the top becomes earlier; a top that became later costs one
 * wake-up for nothing, which is cheaper than a system call at every change.
 */

static struct loop_timer *heap_at(struct loop *l, unsigned slot)
{
    return g_ptr_array_index(l->heap, slot - 1);
}

static void heap_put(struct loop *l, unsigned slot, struct loop_timer *t)
{
    g_ptr_array_index(l->heap, slot - 1) = t;
    t->slot = slot;
}

static void heap_up(struct loop *l, struct loop_timer *t)
{
    unsigned slot = t->slot;
    while (slot > 1 && heap_at(l, slot / 2)->deadline_ns > t->deadline_ns) {
        heap_put(l, slot, heap_at(l, slot / 2));
        slot /= 2;
    }
    heap_put(l, slot, t);
}

static void heap_down(struct loop *l, struct loop_timer *t)
{
    unsigned slot = t->slot, n = l->heap->len;
    while (2 * slot <= n) {
        unsigned kid = 2 * slot;
        if (kid < n &&
            heap_at(l, kid + 1)->deadline_ns < heap_at(l, kid)->deadline_ns) {
            kid++;
        }
        if (heap_at(l, kid)->deadline_ns >= t->deadline_ns) {
            break;
        }
        heap_put(l, slot, heap_at(l, kid));
        slot = kid;
    }
    heap_put(l, slot, t);
}

static void heap_remove(struct loop *l, struct loop_timer *t)
{
    struct loop_timer *last = heap_at(l, l->heap->len);
    unsigned slot = t->slot;
    g_ptr_array_set_size(l->heap, (gint)l->heap->len - 1);
    t->slot = 0;
    if (last != t) {
        heap_put(l, slot, last);
        heap_up(l, last);
        heap_down(l, last);
    }
}

/* Have timer_fd fire no later than the top. Caller holds timer_lock. */
static void timer_arm_locked(struct loop *l)
{
    if (l->heap->len == 0) {
        return;
    }
    uint64_t ns = MAX(heap_at(l, 1)->deadline_ns, 1);
    if (l->armed_ns && l->armed_ns <= ns) {
        return;
    }
    l->armed_ns = ns;
    struct itimerspec its = {
        .it_value = {.tv_sec = (time_t)(ns / 1000000000u),
                     .tv_nsec = (long)(ns % 1000000000u)},
    };
    timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

void loop_timers_init(struct loop *l)
{
    pthread_mutex_init(&l->timer_lock, NULL);
    pthread_cond_init(&l->timer_idle, NULL);
    l->heap = g_ptr_array_new();
}

void loop_timers_free(struct loop *l)
{
    g_ptr_array_free(l->heap, TRUE);
    pthread_cond_destroy(&l->timer_idle);
    pthread_mutex_destroy(&l->timer_lock);
}

void loop_timer_init(struct loop_timer *t, struct loop *l, loop_timer_fn fn,
                     void *opaque)
{
    *t = (struct loop_timer){.loop = l, .fn = fn, .opaque = opaque};
}

void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
    struct loop *l = t->loop;
    pthread_mutex_lock(&l->timer_lock);
    uint64_t old = t->deadline_ns;
    t->deadline_ns = deadline_ns;
    if (t->slot == 0) {
        g_ptr_array_add(l->heap, t);
        t->slot = l->heap->len;
        heap_up(l, t);
    } else if (deadline_ns < old) {
        heap_up(l, t);
    } else {
        heap_down(l, t);
    }
    timer_arm_locked(l);
    pthread_mutex_unlock(&l->timer_lock);
}

bool loop_timer_clear(struct loop_timer *t)
{
    struct loop *l = t->loop;
    if (!l) {
        return false;
    }
    pthread_mutex_lock(&l->timer_lock);
    bool armed = t->slot != 0;
    if (armed) {
        heap_remove(l, t);
    }
    pthread_mutex_unlock(&l->timer_lock);
    return armed;
}

static bool timer_running_locked(const struct loop *l, const struct loop_timer *t)
{
    for (const struct timer_frame *f = l->timer_frames; f; f = f->up) {
        if (f->running == t) {
            return true;
        }
    }
    return false;
}

void loop_timer_done(struct loop_timer *t)
{
    struct loop *l = t->loop;
    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->timer_lock);
    bool inside = loop_in_thread(l);
    for (;;) {
        if (t->slot) {
            heap_remove(l, t);
        }
        if (inside || !timer_running_locked(l, t)) {
            break;
        }
        pthread_cond_wait(&l->timer_idle, &l->timer_lock);
    }
    pthread_mutex_unlock(&l->timer_lock);
}

void loop_timers_run(struct loop *l)
{
    uint64_t expirations;
    struct timer_frame frame = {.up = l->timer_frames};

    pthread_mutex_lock(&l->timer_lock);
    (void)!read(l->timer_fd, &expirations, sizeof(expirations));
    l->armed_ns = 0;
    l->timer_frames = &frame;
    uint64_t now = loop_now_ns();
    /* A function that sets itself into the past runs again next round, not now. */
    for (unsigned left = l->heap->len; left > 0 && l->heap->len > 0; left--) {
        struct loop_timer *t = heap_at(l, 1);
        if (t->deadline_ns > now) {
            break;
        }
        heap_remove(l, t);
        frame.running = t;
        loop_timer_fn fn = t->fn;
        void *opaque = t->opaque;
        pthread_mutex_unlock(&l->timer_lock);
        fn(opaque);
        pthread_mutex_lock(&l->timer_lock);
        frame.running = NULL;
        pthread_cond_broadcast(&l->timer_idle);
    }
    l->timer_frames = frame.up;
    timer_arm_locked(l);
    pthread_mutex_unlock(&l->timer_lock);
}
