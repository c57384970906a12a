#include "block/blk_priv.h"

/*
 * Ranges keep overlapping requests apart. Shared ranges go together, an exclusive one
 * goes alone. The list is in order of arrival and a range is granted when no earlier
 * one, waiting or active, conflicts with it: nobody starves, and since a request
 * enters one range only, in one step, nobody waits in a circle.
 */

void blk_ranges_init(struct blk_ranges *rs)
{
    *rs = (struct blk_ranges){0};
    pthread_mutex_init(&rs->lock, NULL);
    pthread_cond_init(&rs->changed, NULL);
}

void blk_ranges_done(struct blk_ranges *rs)
{
    pthread_cond_destroy(&rs->changed);
    pthread_mutex_destroy(&rs->lock);
}

static bool conflict(const struct blk_range *a, const struct blk_range *b)
{
    return (a->exclusive || b->exclusive) && a->start < b->end && b->start < a->end;
}

static bool free_to_go(const struct blk_range *r)
{
    for (const struct blk_range *p = r->prev; p; p = p->prev) {
        if (conflict(p, r)) {
            return false;
        }
    }
    return true;
}

bool blk_ranges_enter(struct blk_ranges *rs, struct blk_range *r)
{
    pthread_mutex_lock(&rs->lock);
    r->next = NULL;
    r->prev = rs->last;
    *(rs->last ? &rs->last->next : &rs->first) = r;
    rs->last = r;
    bool go = free_to_go(r);
    r->granted = go;
    pthread_mutex_unlock(&rs->lock);
    return go;
}

static void wake_loop(void *opaque)
{
}

static void grant_to_loop(struct blk_range *r)
{
    loop_call(r->opaque, wake_loop, NULL);
}

void blk_ranges_enter_wait(struct blk_ranges *rs, struct blk_range *r, struct loop *l)
{
    bool in_loop = loop_in_thread(l);
    r->on_grant = in_loop ? grant_to_loop : NULL;
    r->opaque = l;
    if (blk_ranges_enter(rs, r)) {
        return;
    }
    pthread_mutex_lock(&rs->lock);
    while (!r->granted) {
        if (in_loop) {
            pthread_mutex_unlock(&rs->lock);
            loop_poll(l, true);
            pthread_mutex_lock(&rs->lock);
        } else {
            pthread_cond_wait(&rs->changed, &rs->lock);
        }
    }
    pthread_mutex_unlock(&rs->lock);
}

void blk_ranges_leave(struct blk_ranges *rs, struct blk_range *r)
{
    pthread_mutex_lock(&rs->lock);
    struct blk_range *after = r->next;
    *(r->prev ? &r->prev->next : &rs->first) = r->next;
    *(r->next ? &r->next->prev : &rs->last) = r->prev;
    bool any = false;
    for (struct blk_range *p = after, *next; p; p = next) {
        next = p->next;
        if (!p->granted && conflict(p, r) && free_to_go(p)) {
            p->granted = true;
            any = true;
            if (p->on_grant) {
                p->on_grant(p);
            }
        }
    }
    if (any) {
        pthread_cond_broadcast(&rs->changed);
    }
    pthread_mutex_unlock(&rs->lock);
}
