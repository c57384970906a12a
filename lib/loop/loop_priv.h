#ifndef LIB_LOOP_LOOP_PRIV_H
#define LIB_LOOP_LOOP_PRIV_H

#include <pthread.h>

#include "lib/loop/loop.h"

/*
 * Inside the loop. Locks, none held over a callback or over one another:
 *   l->lock         bottom halves, finished work, the wake-up flag
 *   l->timer_lock   the timer heap and what is armed
 *   l->pool.lock    queued work and the threads
 * pthread mutexes rather than GMutex: thread sanitizers see those.
 */

struct uring;

/* One for each loop_timers_run() on the stack; loop_poll() nests. */
struct timer_frame {
    struct loop_timer *running;
    struct timer_frame *up;
};

struct work_queue {
    struct loop_work *first;
    struct loop_work **last;
};

struct loop_pool {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct work_queue queue;
    GPtrArray *threads; /* of pthread_t *; started and joined by the loop thread */
    unsigned max_threads;
    unsigned queued;
    unsigned idle; /* waiting for more, some of them perhaps already signalled */
    bool stop;
};

struct loop {
    int epoll_fd;
    int event_fd; /* any thread: something is in the lists below */
    int timer_fd;
    pthread_t home; /* the loop's thread; changes only while nobody drives it */

    pthread_t thread;
    bool threaded;
    _Atomic bool stop;
    GSource *source;

    pthread_mutex_t lock;
    struct loop_bh *bh_first, **bh_last;
    struct work_queue finished;
    bool woken; /* event_fd has been written and not read yet */

    GPtrArray *watches; /* loop thread */
    unsigned always_ready;
    unsigned nesting;
    bool dead_watches;

    pthread_mutex_t timer_lock;
    pthread_cond_t timer_idle;
    GPtrArray *heap;
    uint64_t armed_ns; /* what timer_fd is set to; 0: not set */
    struct timer_frame *timer_frames;

    enum loop_io_engine engine;
    unsigned queue_depth;
    struct uring *uring;
    int uring_err; /* 0: not tried or works; else why not */
    unsigned in_flight;

    struct loop_pool pool;
};

/* Make the loop's thread look at its lists. Caller holds l->lock. */
void loop_wake_locked(struct loop *l);

/* timer.c */
void loop_timers_init(struct loop *l);
void loop_timers_run(struct loop *l);
void loop_timers_free(struct loop *l);

/* pool.c */
void work_queue_init(struct work_queue *q);
void work_queue_push(struct work_queue *q, struct loop_work *w);
struct loop_work *work_queue_pop(struct work_queue *q);
void loop_pool_init(struct loop_pool *p, unsigned max_threads);
void loop_pool_done(struct loop_pool *p);
/* Call the done functions of finished work; whether there was any. */
bool loop_pool_reap(struct loop *l);

/* io.c: finish @io with @ret bytes or -errno from a first attempt; what is left
 * over goes to the pool. */
void loop_io_finish(struct loop *l, struct loop_io *io, int64_t ret);

/* uring.c */
struct uring *uring_new(unsigned depth, int *ret_err);
void uring_free(struct uring *u);
int uring_fd(const struct uring *u);
void uring_queue(struct uring *u, struct loop_io *io);
/* Give queued requests to the kernel. */
void uring_flush(struct uring *u);
/* Finish what has completed; whether there was any. */
bool uring_reap(struct uring *u, struct loop *l);
/* Requests wait that the kernel would not take; try again without sleeping. */
bool uring_stalled(const struct uring *u);

#endif
