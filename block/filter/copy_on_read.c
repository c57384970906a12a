#include "block/filter/copy_on_read.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "block/event.h"
#include "block/filter/pooled.h"
#include "lib/base/base.h"

/*
 * A read is rounded out to whole allocation units of the image, and those that the
 * image does not have itself are read and written to it. A write of the guest that came
 * between the two would be lost: copying holds the lock alone, what changes the image
 * holds it together.
 */

enum { STEP_MAX = 16 * 1024 * 1024 };

struct copy_on_read {
    pthread_rwlock_t lock;
};

static bool all_zero(const uint8_t *p, uint64_t len)
{
    return len == 0 || (*p == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static bool own(const struct blk_status *s)
{
    return (s->flags & BLK_STATUS_ALLOCATED) && s->depth == 0;
}

/* Whether anything of the range is not the image's own: 1, 0 or -errno. */
static int misses(struct blk *file, uint64_t offset, uint64_t len)
{
    while (len > 0) {
        struct blk_status s;
        int r = blk_map_at(file, offset, len, &s);
        if (r < 0 || !own(&s)) {
            return r < 0 ? r : 1;
        }
        offset += s.len;
        len -= s.len;
    }
    return 0;
}

static int copy_piece(struct blk *file, uint64_t offset, uint8_t *buf, uint64_t len)
{
    int r = blk_pread(file, offset, buf, len);
    if (r < 0) {
        return r;
    }
    blk_event(file->file, BLK_EVENT_COR_WRITE);
    return all_zero(buf, len) ? blk_run(file, BLK_ZERO, offset, NULL, 0, len, 0)
                              : blk_pwrite(file, offset, buf, len);
}

/* [offset, offset + len), whole units, with the lock held alone. */
static int copy_range(struct blk *file, uint64_t offset, uint64_t len)
{
    g_autofree uint8_t *buf = g_try_malloc(MIN(len, STEP_MAX));
    if (!buf) {
        return -ENOMEM;
    }
    while (len > 0) {
        struct blk_status s;
        int r = blk_map_at(file, offset, MIN(len, STEP_MAX), &s);
        if (r == 0 && !own(&s)) {
            r = copy_piece(file, offset, buf, s.len);
        }
        if (r < 0) {
            return r;
        }
        offset += s.len;
        len -= s.len;
    }
    return 0;
}

static int read_copying(struct blk *b, const struct blk_req *req)
{
    struct copy_on_read *c = b->priv;
    struct blk *file = b->file;
    uint64_t unit = MAX(file->limits.alloc_unit, 512), length = blk_length(file);
    uint64_t start = req->offset - req->offset % unit;
    uint64_t end = MIN(ALIGN_UP(req->offset + req->len, unit), length);
    int r = start < end ? misses(file, start, end - start) : 0;
    if (r == 1) {
        pthread_rwlock_wrlock(&c->lock);
        r = copy_range(file, start, end - start);
        pthread_rwlock_unlock(&c->lock);
    }
    return r < 0 ? r : filter_pass(file, req);
}

static int copy_on_read_run(struct blk *b, struct blk_req *req)
{
    struct copy_on_read *c = b->priv;
    if (req->op == BLK_READ) {
        return b->read_only ? filter_pass(b->file, req) : read_copying(b, req);
    }
    pthread_rwlock_rdlock(&c->lock);
    int r = filter_pass(b->file, req);
    pthread_rwlock_unlock(&c->lock);
    return r;
}

static bool copy_on_read_open(struct blk *b, json_t *opts, GError **error)
{
    struct copy_on_read *c = g_new0(struct copy_on_read, 1);
    pthread_rwlock_init(&c->lock, NULL);
    b->priv = c;
    filter_follow_file(b);
    return true;
}

static void copy_on_read_close(struct blk *b)
{
    struct copy_on_read *c = b->priv;
    if (c) {
        pthread_rwlock_destroy(&c->lock);
    }
    g_free(c);
}

const struct blk_protocol copy_on_read_filter = {
    .name = "copy-on-read",
    .help = "filter that keeps in the image what was read from its backing file",
    .filter = true,
    .open = copy_on_read_open,
    .close = copy_on_read_close,
    .submit = filter_submit_pooled,
    .run = copy_on_read_run,
    .resize = &filter_resize_ops,
};
