#include "block/blk_priv.h"

#include <errno.h>
#include <string.h>

#include "block/event.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * The asynchronous data path, all on the loop's thread.
 *
 * blk_submit() checks a request and hands it to the protocol, or asks the format where
 * its parts are. As long as the format answers from its caches and the parts are plain
 * data, zeros or a backing file, each part becomes a request (struct blk_sub) of a
 * child and they run side by side:
 *
 *     job_step: map_cached ─ DATA ──────────> sub-request on the child
 *                          ├ UNALLOCATED ──> sub-request on the backing file
 *                          ├ ZERO, INLINE ─> done in place
 *                          ├ COMPRESSED ───> from the decoded chunks, or decoded by
 *                          │                 the pool, each chunk for itself
 *                          ├ -EAGAIN ──────> map in the pool, then go on here
 *                          └ anything else > the rest of the request in the pool,
 * through blk_format_run_held() (blocking.c), which can do everything
 *
 * Writes take the fast way only when all of their range is in place; what allocates,
 * compresses, or encrypts goes to the pool, alone in its range.
 *
 * A completion that happens inside the submission is put off to a bottom half: callers
 * may rely on done() coming later. Jobs are kept for reuse, so a steady load allocates
 * nothing.
 */

struct blk_sub {
    struct blk_req req;
    struct blk_job *job;
    struct iovec *iov; /* a slice, or NULL */
};

struct blk_job {
    struct loop_work work;
    struct blk *blk;
    struct blk_req *req;
    uint64_t pos, end;
    unsigned pending; /* sub-requests, and one for whoever is stepping */
    int ret;          /* of the first failure */
    int step_ret;     /* of the pool */
    bool have_extent;
    struct blk_extent extent;
    struct blk_range range;
    void (*then)(struct blk_job *j); /* once it is granted */
    bool in_range;
    struct blk_sub first; /* most jobs need one */
    bool first_used;
    struct blk_job *next_free;
};

enum { JOBS_KEPT = 256 };

/* ---- completion
 * ------------------------------------------------------------------------ */

static void req_finish(struct blk_req *req, int ret)
{
    struct blk_core *c = req->blk->core;
    struct blk *b = req->blk;
    enum blk_op op = req->state >> REQ_OP_SHIFT;
    if (ret == 0) {
        atomic_fetch_add_explicit(&c->ops[op], 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->bytes[op], req->len, memory_order_relaxed);
        if (op == BLK_WRITE || op == BLK_ZERO) {
            blk_grew(b, req->offset + req->len);
        }
    } else {
        atomic_fetch_add_explicit(&c->failed[op], 1, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&c->time_ns[op], loop_now_ns() - req->start_ns,
                              memory_order_relaxed);
    atomic_fetch_sub_explicit(&c->stat_in_flight, 1, memory_order_relaxed);
    blk_note_written(b, op, req->offset, req->len);
    req->op = op;
    c->in_flight--;
    req->done(req, ret);
}

void blk_done_bh(void *opaque)
{
    struct blk *b = blk_ref(opaque);
    struct blk_core *c = b->core;
    unsigned left = 0;
    for (const struct blk_req *r = c->done_first; r; r = r->next) {
        left++;
    }
    /* Only what is here now; done() may defer more, or poll the loop for the rest. */
    for (; left > 0 && c->done_first; left--) {
        struct blk_req *req = c->done_first;
        c->done_first = req->next;
        if (c->done_first) {
            loop_bh_schedule(&c->done_bh);
        } else {
            c->done_last = &c->done_first;
        }
        req_finish(req, req->ret);
    }
    blk_unref(b);
}

static void req_defer(struct blk_req *req)
{
    struct blk_core *c = req->blk->core;
    req->next = NULL;
    *c->done_last = req;
    c->done_last = &req->next;
    loop_bh_schedule(&c->done_bh);
}

static void req_complete(struct blk_req *req, int ret)
{
    if (req->state & REQ_SUBMITTING) {
        req->ret = ret;
        req->state |= REQ_DONE;
    } else {
        req_finish(req, ret);
    }
}

/* ---- jobs
 * ------------------------------------------------------------------------------- */

static struct blk_job *job_new(struct blk *b, struct blk_req *req)
{
    struct blk_core *c = b->core;
    struct blk_job *j = c->free_jobs;
    if (j) {
        c->free_jobs = j->next_free;
        c->nb_free_jobs--;
    } else {
        j = g_new(struct blk_job, 1);
    }
    j->blk = b;
    j->req = req;
    j->pos = req->offset;
    j->end = req->offset + req->len;
    j->pending = 1;
    j->ret = 0;
    j->have_extent = false;
    j->in_range = false;
    j->first_used = false;
    req->job = j;
    return j;
}

static void job_free(struct blk_job *j)
{
    struct blk_core *c = j->blk->core;
    if (j->in_range) {
        blk_ranges_leave(&c->ranges, &j->range);
    }
    if (c->nb_free_jobs == JOBS_KEPT) {
        g_free(j);
        return;
    }
    j->next_free = c->free_jobs;
    c->free_jobs = j;
    c->nb_free_jobs++;
}

void blk_core_free_jobs(struct blk *b)
{
    struct blk_job *j = b->core->free_jobs;
    while (j) {
        struct blk_job *next = j->next_free;
        g_free(j);
        j = next;
    }
}

static void job_put(struct blk_job *j)
{
    if (--j->pending == 0) {
        struct blk_req *req = j->req;
        int ret = j->ret;
        job_free(j);
        req_complete(req, ret);
    }
}

static void job_fail(struct blk_job *j, int err)
{
    if (j->ret == 0) {
        j->ret = err;
    }
}

static void job_to_pool(struct blk_job *j, void (*run)(struct loop_work *),
                        void (*done)(struct loop_work *))
{
    j->work.run = run;
    j->work.done = done;
    loop_work_submit(j->blk->loop, &j->work);
}

/* Enter the job's range, then go on with @then: now or when it is granted. */
static void job_granted(void *opaque)
{
    struct blk_job *j = opaque;
    j->in_range = true;
    j->then(j);
}

static void job_grant(struct blk_range *r)
{
    struct blk_job *j = container_of(r, struct blk_job, range);
    loop_call(j->blk->loop, job_granted, j);
}

static void job_enter(struct blk_job *j, bool exclusive, void (*then)(struct blk_job *))
{
    struct blk *b = j->blk;
    blk_range_of(b, j->pos, j->end - j->pos, &j->range);
    j->range.exclusive = exclusive;
    j->range.on_grant = job_grant;
    j->then = then;
    if (blk_ranges_enter(&b->core->ranges, &j->range)) {
        j->in_range = true;
        then(j);
    }
}

static void job_leave(struct blk_job *j)
{
    blk_ranges_leave(&j->blk->core->ranges, &j->range);
    j->in_range = false;
}

/* ---- formats: sub-requests
 * ---------------------------------------------------------------- */

static void sub_done(struct blk_req *req, int ret)
{
    struct blk_sub *s = container_of(req, struct blk_sub, req);
    struct blk_job *j = s->job;
    g_free(s->iov);
    if (s != &j->first) {
        g_free(s);
    }
    if (ret < 0) {
        job_fail(j, ret);
    }
    job_put(j);
}

static struct blk_data job_data(const struct blk_job *j)
{
    return (struct blk_data){j->req->iov, j->req->nb_iov, j->pos - j->req->offset};
}

/* Have @child do the next @len bytes of the job at its @offset. */
static void job_sub(struct blk_job *j, struct blk *child, uint64_t offset, uint64_t len)
{
    const struct blk_req *req = j->req;
    struct blk_sub *s = &j->first;
    if (j->first_used) {
        s = g_new(struct blk_sub, 1);
    }
    j->first_used = true;
    j->pending++;
    s->job = j;
    s->iov = NULL;
    s->req.op = req->op;
    s->req.flags = req->flags;
    s->req.offset = offset;
    s->req.len = len;
    s->req.iov = req->iov;
    s->req.nb_iov = req->nb_iov;
    s->req.done = sub_done;
    if (req->iov && len != req->len) {
        struct blk_data d = job_data(j);
        s->iov = g_new(struct iovec, req->nb_iov);
        s->req.nb_iov = blk_data_slice(&d, len, s->iov);
        s->req.iov = s->iov;
    }
    blk_submit(child, &s->req);
}

/* ---- formats: stepping
 * --------------------------------------------------------------------- */

static void job_step(struct blk_job *j);

static void job_map_run(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    struct blk *b = j->blk;
    blk_meta_lock(b);
    j->step_ret = b->format->map(b, j->pos, j->end - j->pos, &j->extent);
    if (j->step_ret == 0 && j->extent.kind == BLK_EXT_INLINE &&
        j->req->op == BLK_READ) {
        struct blk_data d = job_data(j);
        blk_data_copy_in(&d, j->extent.bytes, j->extent.len);
    }
    blk_meta_unlock(b);
}

static void job_map_done(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    if (j->step_ret < 0) {
        job_fail(j, j->step_ret);
        job_put(j);
        return;
    }
    j->have_extent = true;
    job_step(j);
}

static void job_rest_run(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    struct blk_data d = job_data(j);
    j->step_ret = blk_format_run_held(j->blk, j->req->op, j->pos, j->end - j->pos, &d,
                                      j->req->flags);
}

static void job_rest_done(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    if (j->step_ret < 0) {
        job_fail(j, j->step_ret);
    }
    job_put(j);
}

static void job_rest_in_pool(struct blk_job *j)
{
    job_to_pool(j, job_rest_run, job_rest_done);
}

/* Ask the format, never sleeping. INLINE bytes are copied while they are valid. */
static int job_map_cached(struct blk_job *j, uint64_t pos, struct blk_extent *e)
{
    struct blk *b = j->blk;
    if (!b->format->map_cached || pthread_mutex_trylock(&b->core->meta) != 0) {
        return -EAGAIN;
    }
    int r = b->format->map_cached(b, pos, j->end - pos, e);
    if (r == 0 && e->kind == BLK_EXT_INLINE && j->req->op == BLK_READ) {
        struct blk_data d = job_data(j);
        blk_data_copy_in(&d, e->bytes, e->len);
    }
    pthread_mutex_unlock(&b->core->meta);
    return r;
}

/* A chunk to decode: each in its own pool thread, while the job goes on. */
struct chunk_work {
    struct loop_work work;
    struct blk_job *job;
    uint64_t pos;
    struct blk_extent extent;
    struct blk_data data;
    int ret;
};

static void chunk_run(struct loop_work *w)
{
    struct chunk_work *cw = container_of(w, struct chunk_work, work);
    cw->ret = blk_read_chunk(cw->job->blk, cw->pos, &cw->extent, &cw->data, false);
}

static void chunk_done(struct loop_work *w)
{
    struct chunk_work *cw = container_of(w, struct chunk_work, work);
    struct blk_job *j = cw->job;
    if (cw->ret < 0) {
        job_fail(j, cw->ret);
    }
    g_free(cw);
    job_put(j);
}

static void job_read_chunk(struct blk_job *j, const struct blk_extent *e,
                           const struct blk_data *d)
{
    int r = blk_read_chunk(j->blk, j->pos, e, d, true);
    if (r == -EAGAIN) {
        struct chunk_work *cw = g_new(struct chunk_work, 1);
        *cw = (struct chunk_work){.work = {.run = chunk_run, .done = chunk_done},
                                  .job = j,
                                  .pos = j->pos,
                                  .extent = *e,
                                  .data = *d};
        j->pending++;
        loop_work_submit(j->blk->loop, &cw->work);
    } else if (r < 0) {
        job_fail(j, r);
    }
}

/* Do the part of a READ that @e describes; false when it needs the pool. May shorten
 * @e. */
static bool job_read_extent(struct blk_job *j, struct blk_extent *e)
{
    struct blk_data d = job_data(j);
    uint64_t has;
    switch (e->kind) {
    case BLK_EXT_DATA:
        if (e->crypt || !ck_range(e->offset, e->len, blk_length(e->child))) {
            return false;
        }
        job_sub(j, e->child, e->offset, e->len);
        return true;
    case BLK_EXT_UNALLOCATED:
        has = blk_backing_has(j->blk, j->pos, e->len);
        if (has) {
            e->len = has;
            job_sub(j, j->blk->backing, j->pos, has);
            return true;
        }
        blk_data_zero(&d, e->len);
        return true;
    case BLK_EXT_ZERO: blk_data_zero(&d, e->len); return true;
    case BLK_EXT_INLINE: return true; /* copied under the lock */
    case BLK_EXT_COMPRESSED: job_read_chunk(j, e, &d); return true;
    default: return false;
    }
}

/* The same for a change. */
static bool job_change_extent(struct blk_job *j, const struct blk_extent *e)
{
    bool in_place = e->kind == BLK_EXT_DATA && (e->flags & BLK_EXT_IN_PLACE);
    if (in_place && (!e->crypt || j->req->op == BLK_DISCARD)) {
        job_sub(j, e->child, e->offset, e->len);
        return true;
    }
    return false;
}

static void job_step(struct blk_job *j)
{
    while (j->pos < j->end && j->ret == 0) {
        struct blk_extent e = j->extent;
        if (!j->have_extent) {
            int r = job_map_cached(j, j->pos, &e);
            if (r == -EAGAIN) {
                job_to_pool(j, job_map_run, job_map_done);
                return;
            }
            if (r < 0) {
                job_fail(j, r);
                break;
            }
        }
        j->have_extent = false;
        bool done =
            j->req->op == BLK_READ ? job_read_extent(j, &e) : job_change_extent(j, &e);
        if (!done) {
            job_rest_in_pool(j);
            return;
        }
        j->pos += e.len;
    }
    job_put(j);
}

/* Whether all of a write lies in plain data in place, as far as the caches know. */
static bool job_all_in_place(struct blk_job *j)
{
    for (uint64_t pos = j->pos; pos < j->end;) {
        struct blk_extent e;
        if (job_map_cached(j, pos, &e) != 0 || e.kind != BLK_EXT_DATA || e.crypt ||
            !(e.flags & BLK_EXT_IN_PLACE)) {
            return false;
        }
        pos += e.len;
    }
    return true;
}

static void job_write_shared(struct blk_job *j)
{
    if (job_all_in_place(j)) {
        job_step(j);
        return;
    }
    job_leave(j);
    job_enter(j, true, job_rest_in_pool);
}

/* Whether the format must act on every change of this kind itself. */
static bool format_acts(const struct blk *b, const struct blk_req *req)
{
    const struct blk_write_ops *w = b->format->writable;
    return (w->begin && !atomic_load(&b->core->begun)) ||
           (req->op == BLK_ZERO && w->zero) || (req->op == BLK_DISCARD && w->unmap) ||
           (req->flags & BLK_COMPRESS) || ((req->flags & BLK_FUA) && w->flush);
}

/* Requests that may be stopped on their way: all of them in the pool. */
static void submit_watched(struct blk_job *j, const struct blk_req *req)
{
    if (j->blk->core->ranged && req->op != BLK_FLUSH) {
        job_enter(j, req->op != BLK_READ, job_rest_in_pool);
    } else {
        job_rest_in_pool(j);
    }
}

static void format_submit(struct blk *b, struct blk_req *req)
{
    struct blk_job *j = job_new(b, req);
    if (unlikely(blk_has_events(b->file))) {
        submit_watched(j, req);
        return;
    }
    if (req->op == BLK_FLUSH) {
        bool plain = !(b->format->writable && b->format->writable->flush) &&
                     b->core->children->len == 1;
        if (plain) {
            job_sub(j, b->file, 0, 0);
            job_put(j);
        } else {
            job_rest_in_pool(j);
        }
    } else if (!b->core->ranged) {
        if (req->op == BLK_READ || !format_acts(b, req)) {
            job_step(j);
        } else {
            job_rest_in_pool(j);
        }
    } else if (req->op == BLK_READ) {
        job_enter(j, false, job_step);
    } else if (req->op == BLK_WRITE && !format_acts(b, req)) {
        job_enter(j, false, job_write_shared);
    } else {
        job_enter(j, true, job_rest_in_pool);
    }
}

/* ---- protocols
 * ------------------------------------------------------------------------------ */

static void proto_job_go(struct blk_job *j)
{
    j->blk->proto->submit(j->blk, j->req);
}

static void proto_bounce_run(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    const struct blk_req *req = j->req;
    /* Not a copy of all: its state belongs to the loop's thread. */
    struct blk_req here = {
        .op = req->op,
        .flags = req->flags,
        .offset = req->offset,
        .len = req->len,
        .iov = req->iov,
        .nb_iov = req->nb_iov,
        .blk = req->blk,
    };
    j->step_ret = blk_proto_run(j->blk, &here);
}

static void proto_zeros_run(struct loop_work *w)
{
    struct blk_job *j = container_of(w, struct blk_job, work);
    j->step_ret =
        blk_proto_write_zeros(j->blk, j->req->offset, j->req->len, j->req->flags);
}

static void proto_submit(struct blk *b, struct blk_req *req)
{
    req->job = NULL;
    if (req->op == BLK_FLUSH) {
        b->proto->submit(b, req);
    } else if (!blk_req_aligned(b, req)) {
        job_to_pool(job_new(b, req), proto_bounce_run, job_rest_done);
    } else if (b->core->ranged && req->op != BLK_READ) {
        /* Others may be reading, changing and writing back the blocks around. */
        job_enter(job_new(b, req), false, proto_job_go);
    } else {
        b->proto->submit(b, req);
    }
}

void blk_req_done(struct blk_req *req, int ret)
{
    struct blk *b = req->blk;
    struct blk_job *j = req->job;
    if (ret == -ENOTSUP && req->op == BLK_ZERO && !(req->flags & BLK_NO_FALLBACK)) {
        if (!j) {
            j = job_new(b, req);
        } else if (j->in_range) {
            job_leave(j); /* the writing enters for itself */
        }
        job_to_pool(j, proto_zeros_run, job_rest_done);
        return;
    }
    if (ret == -ENOTSUP && req->op == BLK_DISCARD) {
        ret = 0; /* it was advice */
    }
    if (j) {
        job_fail(j, ret);
        job_put(j);
    } else {
        req_complete(req, ret);
    }
}

/* ---- submission
 * ------------------------------------------------------------------------------ */

void blk_submit(struct blk *b, struct blk_req *req)
{
    struct blk_core *c = b->core;
    req->blk = b;
    req->job = NULL;
    req->ret = 0;
    req->state = REQ_SUBMITTING | (unsigned)req->op << REQ_OP_SHIFT;
    req->start_ns = loop_now_ns();
    c->in_flight++;
    atomic_fetch_add_explicit(&c->stat_in_flight, 1, memory_order_relaxed);

    int r = blk_request_check(b, req);
    if (r != 0) {
        req_complete(req, r < 0 ? r : 0);
    } else if (b->proto) {
        proto_submit(b, req);
    } else {
        format_submit(b, req);
    }
    req->state &= ~(unsigned)REQ_SUBMITTING;
    if (req->state & REQ_DONE) {
        req_defer(req);
    }
}

static uint64_t iov_bytes(const struct iovec *iov, unsigned nb_iov)
{
    uint64_t len = 0;
    for (unsigned i = 0; i < nb_iov; i++) {
        len += iov[i].iov_len;
    }
    return len;
}

void blk_preadv(struct blk *b, struct blk_req *req, uint64_t offset,
                const struct iovec *iov, unsigned nb_iov)
{
    req->op = BLK_READ;
    req->flags = 0;
    req->offset = offset;
    req->len = iov_bytes(iov, nb_iov);
    req->iov = iov;
    req->nb_iov = nb_iov;
    blk_submit(b, req);
}

void blk_pwritev(struct blk *b, struct blk_req *req, uint64_t offset,
                 const struct iovec *iov, unsigned nb_iov, unsigned flags)
{
    req->op = BLK_WRITE;
    req->flags = flags;
    req->offset = offset;
    req->len = iov_bytes(iov, nb_iov);
    req->iov = iov;
    req->nb_iov = nb_iov;
    blk_submit(b, req);
}

static void submit_plain(struct blk *b, struct blk_req *req, enum blk_op op,
                         uint64_t offset, uint64_t len, unsigned flags)
{
    req->op = op;
    req->flags = flags;
    req->offset = offset;
    req->len = len;
    req->iov = NULL;
    req->nb_iov = 0;
    blk_submit(b, req);
}

void blk_flush(struct blk *b, struct blk_req *req)
{
    submit_plain(b, req, BLK_FLUSH, 0, 0, 0);
}

void blk_discard(struct blk *b, struct blk_req *req, uint64_t offset, uint64_t len)
{
    submit_plain(b, req, BLK_DISCARD, offset, len, 0);
}

void blk_write_zeroes(struct blk *b, struct blk_req *req, uint64_t offset, uint64_t len,
                      unsigned flags)
{
    submit_plain(b, req, BLK_ZERO, offset, len, flags);
}

void blk_drain(struct blk *b)
{
    while (b->core->in_flight > 0) {
        loop_poll(b->loop, true);
    }
}
