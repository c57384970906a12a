#include "cmd/img/pipe.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <glib.h>

#include "lib/base/base.h"

/*
 * Places in a ring, by the piece's number. A piece is begun when its place is free, so
 * at most as many are under way as there are places. Every thread does whatever is to
 * be done next: put the oldest when it is ready, else begin another piece, else wait.
 */

enum { THREADS_MOST = 16 };

enum place_state { FREE, WORKING, READY };

struct place {
    enum place_state state;
    struct piece piece;
};

struct pool {
    const struct pipe *p;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct place *places;
    unsigned nb_places;
    uint64_t begun;  /* pieces taken: the number of the next */
    uint64_t served; /* pieces put, when in order: whose turn it is */
    bool taking;     /* somebody is in next */
    bool putting;    /* somebody is in put, in order */
    bool end;        /* next has nothing more */
    int ret;
};

static struct place *place_of(struct pool *pool, uint64_t ticket)
{
    return &pool->places[ticket % pool->nb_places];
}

static void stop(struct pool *pool, int ret)
{
    if (pool->ret == 0) {
        pool->ret = ret;
    }
    pthread_cond_broadcast(&pool->changed);
}

static bool has_mem(struct pool *pool, struct piece *pc)
{
    void *mem = NULL;
    if (!pc->mem && pool->p->mem_bytes &&
        posix_memalign(&mem, 4096, pool->p->mem_bytes) == 0) {
        pc->mem = mem;
    }
    return pc->mem || !pool->p->mem_bytes;
}

/* The lock is held, and let go meanwhile. */
static void take(struct pool *pool)
{
    struct place *pl = place_of(pool, pool->begun);
    uint8_t *mem = pl->piece.mem;
    pl->piece = (struct piece){.ticket = pool->begun, .mem = mem};
    pl->state = WORKING;
    pool->taking = true;
    pthread_mutex_unlock(&pool->lock);
    int r = pool->p->next(pool->p->opaque, &pl->piece);
    pthread_mutex_lock(&pool->lock);
    pool->taking = false;
    if (r == PIPE_END) {
        pl->state = FREE;
        pool->end = true;
        pthread_cond_broadcast(&pool->changed);
        return;
    }
    pool->begun++;
    pool->end |= r < 0;
    pthread_cond_signal(&pool->changed); /* another may take one now */
    pthread_mutex_unlock(&pool->lock);
    pl->piece.error = r;
    pl->piece.unknown = r < 0;
    bool mem_ok = true;
    if (r == 0 && !pl->piece.no_work) {
        mem_ok = has_mem(pool, &pl->piece);
        pl->piece.error = mem_ok ? pool->p->work(pool->p->opaque, &pl->piece) : 0;
    }
    pthread_mutex_lock(&pool->lock);
    pl->state = READY; /* we look ourselves, unless somebody is in put, who will */
    if (!mem_ok) {
        stop(pool, -ENOMEM);
    }
}

/* Put the piece there, the lock being held, and let go meanwhile. */
static void put(struct pool *pool, struct place *pl)
{
    pthread_mutex_unlock(&pool->lock);
    int r = pool->p->put(pool->p->opaque, &pl->piece);
    pthread_mutex_lock(&pool->lock);
    pl->state = FREE;
    pool->served++;
    if (r) {
        stop(pool, r);
    }
    pthread_cond_signal(&pool->changed); /* a place is free */
}

static struct place *ready_place(struct pool *pool)
{
    if (!pool->p->any_order) {
        struct place *pl = place_of(pool, pool->served);
        return pool->served < pool->begun && pl->state == READY && !pool->putting
                   ? pl
                   : NULL;
    }
    for (unsigned i = 0; i < pool->nb_places; i++) {
        if (pool->places[i].state == READY) {
            pool->places[i].state = WORKING; /* ours */
            return &pool->places[i];
        }
    }
    return NULL;
}

static void *worker(void *opaque)
{
    struct pool *pool = opaque;
    pthread_mutex_lock(&pool->lock);
    while (pool->ret == 0 && !(pool->end && pool->served == pool->begun)) {
        struct place *pl = ready_place(pool);
        if (pl) {
            pool->putting = true;
            put(pool, pl);
            pool->putting = false;
        } else if (!pool->end && !pool->taking &&
                   place_of(pool, pool->begun)->state == FREE) {
            take(pool);
        } else {
            pthread_cond_wait(&pool->changed, &pool->lock);
        }
    }
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int pipe_run(const struct pipe *p)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = p->threads ? p->threads : (unsigned)CLAMP(cpus + 1, 2, THREADS_MOST);
    pthread_t threads[THREADS_MOST];
    unsigned started = 0;
    n = MIN(n, (unsigned)THREADS_MOST);
    struct pool pool = {.p = p, .nb_places = 2 * n};
    pool.places = g_new0(struct place, pool.nb_places);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.changed, NULL);
    while (started < n && pthread_create(&threads[started], NULL, worker, &pool) == 0) {
        started++;
    }
    if (!started) {
        worker(&pool);
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    for (unsigned i = 0; i < pool.nb_places; i++) {
        free(pool.places[i].piece.mem);
    }
    g_free(pool.places);
    pthread_cond_destroy(&pool.changed);
    pthread_mutex_destroy(&pool.lock);
    return pool.ret;
}
