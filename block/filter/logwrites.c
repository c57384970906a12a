#include "block/filter/logwrites.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "block/filter/pooled.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The log (Linux, Documentation/admin-guide/device-mapper/log-writes), in sectors:
 *
 *     0        magic, version, number of entries, bytes of a sector; little-endian
 *     then     per entry: where, how many sectors, flags, bytes of data behind it;
 *              one sector, and the data itself
 *
 * A write is put down when it is complete, a flush when it begins: so all that stands
 * before a flush was covered by it, and what stands behind the last one may be lost.
 */

#define LOG_MAGIC   UINT64_C(0x6a736677736872)
#define LOG_FLUSH   1u
#define LOG_FUA     2u
#define LOG_DISCARD 4u

enum { SECTOR = 512 };

struct logwrites {
    struct blk *log;
    pthread_mutex_t lock;
    uint64_t sector; /* where the next entry goes */
    uint64_t entries;
};

static int put_super(struct logwrites *w)
{
    uint8_t super[SECTOR] = {0};
    le64_put(super, LOG_MAGIC);
    le64_put(super + 8, 1);
    le64_put(super + 16, w->entries);
    le32_put(super + 24, SECTOR);
    return blk_pwrite(w->log, 0, super, sizeof(super));
}

static int put_entry(struct logwrites *w, const struct blk_req *req, unsigned flags)
{
    uint8_t head[SECTOR] = {0};
    bool data = req->op == BLK_WRITE || req->op == BLK_ZERO;
    uint64_t len = req->op == BLK_FLUSH ? 0 : req->len;
    le64_put(head, req->offset / SECTOR);
    le64_put(head + 8, len / SECTOR);
    le64_put(head + 16, flags);
    le64_put(head + 24, data ? len : 0);
    pthread_mutex_lock(&w->lock);
    uint64_t at = w->sector * SECTOR;
    int r = blk_pwrite(w->log, at, head, sizeof(head));
    if (r == 0 && req->op == BLK_WRITE) {
        r = blk_run(w->log, BLK_WRITE, at + SECTOR, req->iov, req->nb_iov, len, 0);
    } else if (r == 0 && req->op == BLK_ZERO) {
        r = blk_run(w->log, BLK_ZERO, at + SECTOR, NULL, 0, len, 0);
    }
    if (r == 0) {
        w->sector += 1 + (data ? len / SECTOR : 0);
        w->entries++;
        r = put_super(w);
    }
    pthread_mutex_unlock(&w->lock);
    return r;
}

static int logwrites_run(struct blk *b, struct blk_req *req)
{
    struct logwrites *w = b->priv;
    if (req->op == BLK_READ) {
        return filter_pass(b->file, req);
    }
    int r = req->op == BLK_FLUSH ? put_entry(w, req, LOG_FLUSH) : 0;
    r = r ? r : filter_pass(b->file, req);
    if (r == 0 && req->op != BLK_FLUSH) {
        r = put_entry(w, req,
                      (req->op == BLK_DISCARD ? LOG_DISCARD : 0) |
                          (req->flags & BLK_FUA ? LOG_FUA : 0));
    }
    return r;
}

/* Behind the entries of a log that is there: the next one. */
static int find_end(struct logwrites *w)
{
    uint8_t head[SECTOR];
    int r = blk_pread(w->log, 0, head, sizeof(head));
    if (r < 0 || le64_get(head) != LOG_MAGIC || le32_get(head + 24) != SECTOR) {
        return r < 0 ? r : -EINVAL;
    }
    uint64_t n = le64_get(head + 16);
    for (w->entries = 0; w->entries < n; w->entries++) {
        uint64_t at = w->sector * SECTOR;
        if (at + SECTOR > blk_length(w->log)) {
            return -EINVAL;
        }
        r = blk_pread(w->log, at, head, sizeof(head));
        if (r < 0) {
            return r;
        }
        w->sector += 1 + le64_get(head + 24) / SECTOR;
    }
    return 0;
}

static bool logwrites_open(struct blk *b, json_t *opts, GError **error)
{
    struct logwrites *w = g_new0(struct logwrites, 1);
    b->priv = w;
    pthread_mutex_init(&w->lock, NULL);
    json_t *log = json_object_get(opts, "log");
    if (!log) {
        return error_msg(error, "driver 'blklogwrites' needs 'log'");
    }
    w->log = blk_open_child(b, "log", log, false, error);
    if (!w->log) {
        return false;
    }
    filter_follow_file(b);
    b->limits.request_align = MAX(b->limits.request_align, (uint32_t)SECTOR);
    w->sector = 1;
    int r = blk_opt_bool(opts, "log-append", false) ? find_end(w) : put_super(w);
    return r == 0 || error_errno(error, -r, "the log '%s'", blk_get_filename(w->log));
}

static void logwrites_close(struct blk *b)
{
    struct logwrites *w = b->priv;
    if (w) {
        pthread_mutex_destroy(&w->lock);
    }
    g_free(w);
}

static const struct blk_option logwrites_options[] = {
    {"log", BLK_OPT_NODE, NULL, "where changes are put down"},
    {"log-append", BLK_OPT_BOOL, NULL, "go on behind the entries there are"},
    {0},
};

const struct blk_protocol logwrites_filter = {
    .name = "blklogwrites",
    .help = "filter that writes down every change, as Linux' dm-log-writes does",
    .options = logwrites_options,
    .filter = true,
    .open = logwrites_open,
    .close = logwrites_close,
    .submit = filter_submit_pooled,
    .run = logwrites_run,
};
