#include "lib/loop/loop_priv.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * Everything a loop waits for is one epoll set: the watched descriptors, an
 * eventfd (bottom halves and finished work, from other threads), a timerfd set to
 * the earliest deadline, and the io_uring descriptor, which polls readable while
 * completions wait. So a round is the same whoever drives it: the own thread
 * sleeps in epoll_wait(), GLib polls the epoll descriptor as one of its own.
 */

struct loop_fd {
    struct loop *loop;
    int fd;
    unsigned events;
    loop_fd_fn fn; /* NULL: removed, freed when no round is running */
    void *opaque;
    bool always; /* a regular file: epoll refuses it, it is always ready */
};

struct loop_source {
    GSource base;
    struct loop *loop;
};

enum { EVENTS_PER_ROUND = 64 };

uint64_t loop_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

bool loop_in_thread(const struct loop *l)
{
    return pthread_equal(l->home, pthread_self());
}

static bool loop_epoll_add(struct loop *l, int fd, void *tag)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

struct loop *loop_new(const struct loop_opts *opts, GError **error)
{
    struct loop *l = g_new0(struct loop, 1);
    l->home = pthread_self();
    l->engine = opts ? opts->engine : LOOP_IO_AUTO;
    l->queue_depth = opts && opts->queue_depth ? MIN(opts->queue_depth, 4096) : 256;
    unsigned threads = opts && opts->pool_threads ? MIN(opts->pool_threads, 256) : 16;
    pthread_mutex_init(&l->lock, NULL);
    l->bh_last = &l->bh_first;
    work_queue_init(&l->finished);
    l->watches = g_ptr_array_new();
    loop_timers_init(l);
    loop_pool_init(&l->pool, threads);

    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->epoll_fd < 0 || l->event_fd < 0 || l->timer_fd < 0 ||
        !loop_epoll_add(l, l->event_fd, &l->event_fd) ||
        !loop_epoll_add(l, l->timer_fd, &l->timer_fd)) {
        error_errno(error, errno, "event loop");
        goto fail;
    }
    if (l->engine == LOOP_IO_URING && !loop_has_uring(l, NULL)) {
        error_errno(error, l->uring_err, "io_uring is not available");
        goto fail;
    }
    return l;

fail:
    loop_free(l);
    return NULL;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void loop_free(struct loop *l)
{
    if (!l) {
        return;
    }
    loop_stop(l);
    loop_detach(l);
    while (l->in_flight > 0) {
        loop_poll(l, true);
    }
    uring_free(l->uring);
    loop_pool_done(&l->pool);
    loop_timers_free(l);
    for (unsigned i = 0; i < l->watches->len; i++) {
        g_free(g_ptr_array_index(l->watches, i));
    }
    g_ptr_array_free(l->watches, TRUE);
    for (struct loop_bh *bh = l->bh_first, *next; bh; bh = next) {
        next = bh->next;
        if (bh->once) {
            g_free(bh);
        }
    }
    close_fd(l->epoll_fd);
    close_fd(l->event_fd);
    close_fd(l->timer_fd);
    pthread_mutex_destroy(&l->lock);
    g_free(l);
}

bool loop_has_uring(struct loop *l, int *ret_why)
{
    if (!l->uring && l->uring_err == 0) {
        l->uring = uring_new(l->queue_depth, &l->uring_err);
        if (l->uring && !loop_epoll_add(l, uring_fd(l->uring), &l->uring)) {
            l->uring_err = errno;
            uring_free(g_steal_pointer(&l->uring));
        }
    }
    if (!l->uring && ret_why) {
        *ret_why = l->uring_err;
    }
    return l->uring != NULL;
}

unsigned loop_in_flight(const struct loop *l)
{
    return l->in_flight;
}

/* ---- descriptors ------------------------------------------------------------ */

static uint32_t to_epoll(unsigned events)
{
    return (events & LOOP_READ ? EPOLLIN : 0u) | (events & LOOP_WRITE ? EPOLLOUT : 0u);
}

static unsigned from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? LOOP_READ : 0u) | (events & EPOLLOUT ? LOOP_WRITE : 0u) |
           (events & (EPOLLHUP | EPOLLERR) ? LOOP_HUP : 0u);
}

struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, loop_fd_fn fn,
                            void *opaque)
{
    struct loop_fd *w = g_new0(struct loop_fd, 1);
    *w = (struct loop_fd){l, fd, events, fn, opaque, false};
    struct epoll_event ev = {.events = to_epoll(events), .data.ptr = w};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        if (errno != EPERM) {
            g_free(w);
            return NULL;
        }
        w->always = true;
        l->always_ready += events != 0;
    }
    g_ptr_array_add(l->watches, w);
    return w;
}

void loop_fd_set_events(struct loop_fd *w, unsigned events)
{
    struct loop *l = w->loop;
    if (w->always) {
        l->always_ready += (events != 0) - (w->events != 0);
    } else if (events != w->events) {
        struct epoll_event ev = {.events = to_epoll(events), .data.ptr = w};
        epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
    }
    w->events = events;
}

void loop_fd_remove(struct loop_fd *w)
{
    if (!w) {
        return;
    }
    struct loop *l = w->loop;
    loop_fd_set_events(w, 0);
    if (!w->always) {
        epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    }
    if (l->nesting > 0) {
        /* A round on the stack may still hold an event for it. */
        w->fn = NULL;
        l->dead_watches = true;
        return;
    }
    g_ptr_array_remove_fast(l->watches, w);
    g_free(w);
}

static void loop_bury_watches(struct loop *l)
{
    for (unsigned i = 0; i < l->watches->len;) {
        struct loop_fd *w = g_ptr_array_index(l->watches, i);
        if (w->fn) {
            i++;
        } else {
            g_ptr_array_remove_index_fast(l->watches, i);
            g_free(w);
        }
    }
    l->dead_watches = false;
}

static bool loop_run_always_ready(struct loop *l)
{
    if (l->always_ready == 0) {
        return false;
    }
    /* The array may grow under us, and watches die only when we are back. */
    for (unsigned i = 0; i < l->watches->len; i++) {
        struct loop_fd *w = g_ptr_array_index(l->watches, i);
        if (w->always && w->events && w->fn) {
            w->fn(w->opaque, w->events);
        }
    }
    return true;
}

/* ---- bottom halves ------------------------------------------------------------ */

void loop_wake_locked(struct loop *l)
{
    if (!l->woken) {
        l->woken = true;
        /* Cannot fail: the counter never gets near its limit. */
        (void)!write(l->event_fd, &(uint64_t){1}, sizeof(uint64_t));
    }
}

void loop_bh_init(struct loop_bh *bh, struct loop *l, loop_bh_fn fn, void *opaque)
{
    *bh = (struct loop_bh){.loop = l, .fn = fn, .opaque = opaque};
}

void loop_bh_schedule(struct loop_bh *bh)
{
    struct loop *l = bh->loop;
    pthread_mutex_lock(&l->lock);
    if (!bh->scheduled) {
        bh->scheduled = true;
        bh->next = NULL;
        *l->bh_last = bh;
        l->bh_last = &bh->next;
        loop_wake_locked(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void loop_bh_cancel(struct loop_bh *bh)
{
    struct loop *l = bh->loop;
    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    for (struct loop_bh **p = &l->bh_first; bh->scheduled && *p; p = &(*p)->next) {
        if (*p == bh) {
            *p = bh->next;
            if (l->bh_last == &bh->next) {
                l->bh_last = p;
            }
            bh->scheduled = false;
            break;
        }
    }
    pthread_mutex_unlock(&l->lock);
}

void loop_call(struct loop *l, loop_bh_fn fn, void *opaque)
{
    struct loop_bh *bh = g_new(struct loop_bh, 1);
    loop_bh_init(bh, l, fn, opaque);
    bh->once = true;
    loop_bh_schedule(bh);
}

/*
 * Run what is scheduled now; what these functions schedule waits for the next
 * round. The end mark is a bottom half of our own, so that nested rounds and
 * cancelled neighbours need no special case.
 */
static bool loop_run_bhs(struct loop *l)
{
    struct loop_bh mark = {.loop = l, .scheduled = true};
    bool any = false;
    pthread_mutex_lock(&l->lock);
    if (!l->bh_first) {
        pthread_mutex_unlock(&l->lock);
        return false;
    }
    *l->bh_last = &mark;
    l->bh_last = &mark.next;
    while (mark.scheduled) {
        struct loop_bh *bh = l->bh_first;
        l->bh_first = bh->next;
        if (!l->bh_first) {
            l->bh_last = &l->bh_first;
        }
        bh->scheduled = false;
        if (!bh->fn) {
            continue; /* our mark, or that of a round we are nested in */
        }
        loop_bh_fn fn = bh->fn;
        void *opaque = bh->opaque;
        bool once = bh->once;
        pthread_mutex_unlock(&l->lock);
        if (once) {
            g_free(bh);
        }
        fn(opaque);
        any = true;
        pthread_mutex_lock(&l->lock);
    }
    if (l->bh_first) {
        loop_wake_locked(l);
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

/* ---- rounds -------------------------------------------------------------------- */

static void loop_read_event(struct loop *l)
{
    uint64_t count;
    pthread_mutex_lock(&l->lock);
    l->woken = false;
    (void)!read(l->event_fd, &count, sizeof(count));
    pthread_mutex_unlock(&l->lock);
}

/* Give I/O to the kernel; whether some of it was complete at once. */
static bool loop_flush_io(struct loop *l)
{
    if (!l->uring) {
        return false;
    }
    uring_flush(l->uring);
    return uring_reap(l->uring, l);
}

static bool loop_must_not_sleep(const struct loop *l)
{
    return l->always_ready > 0 || (l->uring && uring_stalled(l->uring));
}

static bool loop_dispatch(struct loop *l, const struct epoll_event *ev)
{
    if (ev->data.ptr == &l->event_fd) {
        loop_read_event(l);
        bool any = loop_pool_reap(l);
        return loop_run_bhs(l) || any;
    }
    if (ev->data.ptr == &l->timer_fd) {
        loop_timers_run(l);
        return true;
    }
    if (ev->data.ptr == &l->uring) {
        return uring_reap(l->uring, l);
    }
    struct loop_fd *w = ev->data.ptr;
    if (!w->fn) {
        return false;
    }
    unsigned got = from_epoll(ev->events) & (w->events | LOOP_HUP);
    if (got) {
        w->fn(w->opaque, got);
    }
    return got != 0;
}

bool loop_poll(struct loop *l, bool block)
{
    l->nesting++;
    bool any = loop_flush_io(l);
    bool sleep = block && !any && !loop_must_not_sleep(l);
    struct epoll_event ev[EVENTS_PER_ROUND];
    int n = epoll_wait(l->epoll_fd, ev, EVENTS_PER_ROUND, sleep ? -1 : 0);
    for (int i = 0; i < n; i++) {
        any |= loop_dispatch(l, &ev[i]);
    }
    any |= loop_run_always_ready(l);
    if (--l->nesting == 0 && l->dead_watches) {
        loop_bury_watches(l);
    }
    return any;
}

/* ---- own thread ------------------------------------------------------------------ */

struct loop_start_args {
    struct loop *loop;
    char name[16];
};

static void *loop_thread(void *opaque)
{
    struct loop_start_args *a = opaque;
    struct loop *l = a->loop;
    pthread_mutex_lock(&l->lock); /* until loop_start() has set l->home */
    pthread_mutex_unlock(&l->lock);
    pthread_setname_np(pthread_self(), a->name);
    g_free(a);
    while (!atomic_load(&l->stop)) {
        loop_poll(l, true);
    }
    return NULL;
}

static void nop_bh(void *opaque)
{
}

bool loop_start(struct loop *l, const char *name, GError **error)
{
    struct loop_start_args *a = g_new0(struct loop_start_args, 1);
    a->loop = l;
    g_strlcpy(a->name, name, sizeof(a->name));
    atomic_store(&l->stop, false);

    /* Signals are for the program's main thread. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    /* Held over the creation so that the thread finds itself in l->home. */
    pthread_mutex_lock(&l->lock);
    int err = pthread_create(&l->thread, NULL, loop_thread, a);
    if (err == 0) {
        l->home = l->thread;
    }
    pthread_mutex_unlock(&l->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        g_free(a);
        return error_errno(error, err, "I/O thread '%s'", name);
    }
    l->threaded = true;
    return true;
}

void loop_stop(struct loop *l)
{
    if (!l->threaded) {
        return;
    }
    atomic_store(&l->stop, true);
    loop_call(l, nop_bh, NULL);
    pthread_join(l->thread, NULL);
    l->threaded = false;
    l->home = pthread_self();
}

/* ---- GLib ---------------------------------------------------------------------- */

static gboolean source_prepare(GSource *s, gint *timeout_ms)
{
    struct loop *l = ((struct loop_source *)s)->loop;
    *timeout_ms = -1;
    /* Requests may have been made outside our dispatch. Completions that came at
     * once keep the ring readable, so check() sees them. */
    if (l->uring) {
        uring_flush(l->uring);
    }
    return loop_must_not_sleep(l);
}

static gboolean source_dispatch(GSource *s, GSourceFunc unused_fn, gpointer unused_data)
{
    loop_poll(((struct loop_source *)s)->loop, false);
    return G_SOURCE_CONTINUE;
}

static gboolean source_check(GSource *s)
{
    struct loop_source *src = (struct loop_source *)s;
    struct epoll_event ev;
    return loop_must_not_sleep(src->loop) ||
           epoll_wait(src->loop->epoll_fd, &ev, 1, 0) > 0;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

void loop_attach(struct loop *l, GMainContext *ctx)
{
    g_assert(!l->threaded && !l->source);
    l->home = pthread_self();
    l->source = g_source_new(&source_funcs, sizeof(struct loop_source));
    ((struct loop_source *)l->source)->loop = l;
    g_source_set_name(l->source, "lodge-loop");
    g_source_set_can_recurse(l->source, TRUE);
    g_source_add_unix_fd(l->source, l->epoll_fd, G_IO_IN);
    g_source_attach(l->source, ctx);
}

void loop_detach(struct loop *l)
{
    if (l->source) {
        g_source_destroy(l->source);
        g_source_unref(g_steal_pointer(&l->source));
    }
}
