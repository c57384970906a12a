#include "block/filter/pooled.h"

#include <errno.h>
#include <string.h>

#include "lib/base/base.h"

/* What most filters need. */

struct pooled {
    struct loop_work work;
    struct blk_req *req;
    int ret;
};

_Static_assert(sizeof(struct pooled) <= BLK_REQ_DRIVER_BYTES, "blk_req.driver");

static void pooled_run(struct loop_work *work)
{
    struct pooled *p = container_of(work, struct pooled, work);
    p->ret = p->req->blk->proto->run(p->req->blk, p->req);
}

static void pooled_done(struct loop_work *work)
{
    struct pooled *p = container_of(work, struct pooled, work);
    blk_req_done(p->req, p->ret);
}

void filter_submit_pooled(struct blk *b, struct blk_req *req)
{
    struct pooled *p = (struct pooled *)(void *)req->driver;
    *p = (struct pooled){.work = {.run = pooled_run, .done = pooled_done}, .req = req};
    loop_work_submit(b->loop, &p->work);
}

void filter_follow_file(struct blk *b)
{
    b->content_len = b->file->content_len;
    b->limits = b->file->limits;
    b->growable = b->file->growable;
}

/* Whole blocks are asked for, of a file that may end within one. */
static int read_padded(struct blk *child, const struct blk_req *req, uint64_t has)
{
    g_autofree uint8_t *buf = g_try_malloc0(req->len);
    int r = !buf ? -ENOMEM : has ? blk_pread(child, req->offset, buf, has) : 0;
    const uint8_t *from = buf;
    for (unsigned i = 0; r == 0 && i < req->nb_iov; i++) {
        memcpy(req->iov[i].iov_base, from, req->iov[i].iov_len);
        from += req->iov[i].iov_len;
    }
    return r;
}

int filter_pass(struct blk *child, const struct blk_req *req)
{
    uint64_t length = blk_length(child);
    if (req->op == BLK_READ &&
        (req->offset > length || req->len > length - req->offset)) {
        return read_padded(child, req, req->offset < length ? length - req->offset : 0);
    }
    return blk_run(child, req->op, req->offset, req->iov, req->nb_iov, req->len,
                   req->flags);
}

static bool filter_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                            GError **error)
{
    if (!blk_truncate(b->file, length, prealloc, error)) {
        return false;
    }
    b->content_len = b->file->content_len;
    return true;
}

const struct blk_resize_ops filter_resize_ops = {.truncate = filter_truncate};
