#include "block/filter/preallocate.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>

#include "block/filter/pooled.h"
#include "lib/base/base.h"

/*
 * Behind the end of the data the file is made longer than a write asks for, with space
 * given out (fallocate): later writes then find it there. data_end is what users wrote;
 * the rest is cut off at the end. If that does not come about, the file is longer than
 * it need be, with zeros: formats let it be.
 */

struct preallocate {
    uint64_t size, align; /* how far ahead, and to multiples of what */
    pthread_mutex_t lock; /* the lengths */
    uint64_t data_end, file_end;
};

/* Room for a write up to @end; nothing is lost if it cannot be had. */
static void reach(struct blk *b, uint64_t end)
{
    struct preallocate *p = b->priv;
    pthread_mutex_lock(&p->lock);
    if (end > p->file_end && p->size) {
        uint64_t want = ALIGN_UP(end + p->size, p->align);
        uint64_t len = want - p->file_end;
        if (blk_run(b->file, BLK_ZERO, p->file_end, NULL, 0, len, 0) == 0) {
            p->file_end = want;
        }
    }
    p->data_end = MAX(p->data_end, end);
    pthread_mutex_unlock(&p->lock);
}

static int preallocate_run(struct blk *b, struct blk_req *req)
{
    if (req->op == BLK_WRITE || req->op == BLK_ZERO) {
        reach(b, req->offset + req->len);
    }
    return filter_pass(b->file, req);
}

static bool preallocate_truncate(struct blk *b, uint64_t length,
                                 enum blk_prealloc prealloc, GError **error)
{
    struct preallocate *p = b->priv;
    if (!blk_truncate(b->file, length, prealloc, error)) {
        return false;
    }
    p->data_end = p->file_end = b->content_len = length;
    return true;
}

static bool preallocate_open(struct blk *b, json_t *opts, GError **error)
{
    struct preallocate *p = g_new0(struct preallocate, 1);
    pthread_mutex_init(&p->lock, NULL);
    b->priv = p;
    filter_follow_file(b);
    p->size = blk_opt_u64(opts, "prealloc-size", 128 * MIB);
    p->align = blk_opt_u64(opts, "prealloc-align", MIB);
    p->data_end = p->file_end = b->content_len;
    if (p->align == 0 || p->align % 512 || (p->align & (p->align - 1)) ||
        p->align > GIB) {
        return error_msg(
            error, "prealloc-align parameter of preallocate filter is not aligned "
                   "to 512");
    }
    if (p->size > (UINT64_C(1) << 40)) {
        return error_msg(error, "prealloc-size of %" PRIu64 " bytes is too large",
                         p->size);
    }
    if (b->read_only || !b->growable) {
        p->size = 0;
    }
    return true;
}

static void preallocate_close(struct blk *b)
{
    struct preallocate *p = b->priv;
    if (!p) {
        return;
    }
    if (p->file_end > p->data_end) {
        blk_truncate(b->file, p->data_end, BLK_PREALLOC_OFF, NULL);
    }
    pthread_mutex_destroy(&p->lock);
    g_free(p);
}

static const struct blk_option preallocate_options[] = {
    {"prealloc-size", BLK_OPT_SIZE, NULL, "how far ahead (default 128M)"},
    {"prealloc-align", BLK_OPT_SIZE, NULL, "to multiples of this (default 1M)"},
    {0},
};

static const struct blk_resize_ops preallocate_resize_ops = {.truncate =
                                                                 preallocate_truncate};

const struct blk_protocol preallocate_filter = {
    .name = "preallocate",
    .help = "filter that makes files grow in large steps",
    .options = preallocate_options,
    .filter = true,
    .open = preallocate_open,
    .close = preallocate_close,
    .submit = filter_submit_pooled,
    .run = preallocate_run,
    .resize = &preallocate_resize_ops,
};
