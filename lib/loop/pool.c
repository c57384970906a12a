#include "lib/loop/loop_priv.h"

#include <signal.h>

#include "lib/base/base.h"

/*
 * The pool: threads that run blocking work, started one at a time when work is
 * queued and nobody is idle. Finished work goes back on a list of the loop, whose
 * thread is woken once for all that gathered there.
 */

void work_queue_init(struct work_queue *q)
{
    q->first = NULL;
    q->last = &q->first;
}

void work_queue_push(struct work_queue *q, struct loop_work *w)
{
    w->next = NULL;
    *q->last = w;
    q->last = &w->next;
}

struct loop_work *work_queue_pop(struct work_queue *q)
{
    struct loop_work *w = q->first;
    if (w) {
        q->first = w->next;
        if (!q->first) {
            q->last = &q->first;
        }
    }
    return w;
}

void loop_pool_init(struct loop_pool *p, unsigned max_threads)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    work_queue_init(&p->queue);
    p->threads = g_ptr_array_new_with_free_func(g_free);
    p->max_threads = max_threads;
}

void loop_pool_done(struct loop_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->threads->len; i++) {
        pthread_join(*(pthread_t *)g_ptr_array_index(p->threads, i), NULL);
    }
    g_ptr_array_free(p->threads, TRUE);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
}

static void work_finished(struct loop_work *w)
{
    struct loop *l = w->loop;
    pthread_mutex_lock(&l->lock);
    work_queue_push(&l->finished, w);
    loop_wake_locked(l);
    pthread_mutex_unlock(&l->lock);
}

static void *pool_thread(void *opaque)
{
    struct loop_pool *p = opaque;
    pthread_setname_np(pthread_self(), "lodge-pool");
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct loop_work *w = work_queue_pop(&p->queue);
        if (w) {
            p->queued--;
            pthread_mutex_unlock(&p->lock);
            w->run(w);
            work_finished(w);
            pthread_mutex_lock(&p->lock);
        } else if (p->stop) {
            break;
        } else {
            p->idle++;
            pthread_cond_wait(&p->more, &p->lock);
            p->idle--;
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Whether there is a thread more. Caller holds the pool's lock. */
static bool pool_grow_locked(struct loop_pool *p)
{
    if (p->threads->len >= p->max_threads) {
        return false;
    }
    pthread_t *thread = g_new(pthread_t, 1);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(thread, NULL, pool_thread, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        g_free(thread);
        return false;
    }
    g_ptr_array_add(p->threads, thread);
    return true;
}

void loop_work_submit(struct loop *l, struct loop_work *w)
{
    struct loop_pool *p = &l->pool;
    w->loop = l;
    l->in_flight++;
    pthread_mutex_lock(&p->lock);
    bool hands = p->idle > p->queued || pool_grow_locked(p) || p->threads->len > 0;
    if (hands) {
        work_queue_push(&p->queue, w);
        p->queued++;
        pthread_cond_signal(&p->more);
    }
    pthread_mutex_unlock(&p->lock);
    if (!hands) {
        /* Not one thread to be had: slow is better than never. */
        w->run(w);
        work_finished(w);
    }
}

bool loop_pool_reap(struct loop *l)
{
    bool any = false;
    for (;;) {
        pthread_mutex_lock(&l->lock);
        struct loop_work *w = work_queue_pop(&l->finished);
        pthread_mutex_unlock(&l->lock);
        if (!w) {
            return any;
        }
        l->in_flight--;
        w->done(w);
        any = true;
    }
}
