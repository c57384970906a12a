#include "block/filter/blkverify.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/filter/pooled.h"
#include "lib/base/base.h"

/*
 * Both images get every change, and every read asks both. One request at a time, so
 * that what they hold can be compared. A difference is said on standard error and ends
 * the program: the state in which it was found is what the tester wants to see.
 */

struct blkverify {
    pthread_mutex_t lock;
    struct blk *test;
};

static void G_GNUC_NORETURN G_GNUC_PRINTF(2, 3)
    give_up(const struct blk_req *req, const char *fmt, ...)
{
    static const char *const names[] = {"read", "write", "flush", "pdiscard",
                                        "pwrite_zeroes"};
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "blkverify: %s offset=%" PRIu64 " bytes=%" PRIu64 " %s\n",
            names[req->op], req->offset, req->len, what);
    fflush(stdout);
    exit(1);
}

static uint64_t first_difference(const struct blk_req *req, const uint8_t *raw)
{
    uint64_t at = 0;
    for (unsigned i = 0; i < req->nb_iov; i++) {
        const uint8_t *test = req->iov[i].iov_base;
        for (size_t k = 0; k < req->iov[i].iov_len; k++, at++) {
            if (test[k] != raw[at]) {
                return at;
            }
        }
    }
    return at;
}

static int run_both(struct blk *b, struct blk_req *req)
{
    struct blkverify *v = b->priv;
    struct blk_req on_raw = *req;
    g_autofree uint8_t *raw = NULL;
    struct iovec iov;
    if (req->op == BLK_READ) {
        raw = g_try_malloc(req->len);
        if (!raw) {
            return -ENOMEM;
        }
        iov = (struct iovec){raw, req->len};
        on_raw.iov = &iov;
        on_raw.nb_iov = 1;
    }
    int r = filter_pass(v->test, req), r_raw = filter_pass(b->file, &on_raw);
    if (r != r_raw) {
        give_up(req, "return value mismatch %d != %d", r, r_raw);
    }
    if (r == 0 && req->op == BLK_READ) {
        uint64_t at = first_difference(req, raw);
        if (at < req->len) {
            give_up(req, "contents mismatch at offset %" PRIu64, req->offset + at);
        }
    }
    return r;
}

static int blkverify_run(struct blk *b, struct blk_req *req)
{
    struct blkverify *v = b->priv;
    pthread_mutex_lock(&v->lock);
    /* The raw file is not asked to sync: only the image under test counts. */
    int r = req->op == BLK_FLUSH ? filter_pass(v->test, req) : run_both(b, req);
    pthread_mutex_unlock(&v->lock);
    return r;
}

static bool blkverify_open(struct blk *b, json_t *opts, GError **error)
{
    struct blkverify *v = g_new0(struct blkverify, 1);
    json_t *test = json_object_get(opts, "test");
    pthread_mutex_init(&v->lock, NULL);
    b->priv = v;
    if (!test) {
        return error_msg(error, "A block device must be specified for \"test\"");
    }
    v->test = blk_open_child(b, "test", test, false, error);
    if (!v->test) {
        return false;
    }
    b->content_len = v->test->content_len;
    b->limits.request_align = 1;
    return true;
}

static void blkverify_close(struct blk *b)
{
    struct blkverify *v = b->priv;
    if (v) {
        pthread_mutex_destroy(&v->lock);
    }
    g_free(v);
}

static const struct blk_option blkverify_options[] = {
    {"test", BLK_OPT_NODE, NULL, "the image that is to be proven"},
    {0},
};

const struct blk_protocol blkverify_filter = {
    .name = "blkverify",
    .help = "filter that compares an image with a raw file, and ends the program",
    .options = blkverify_options,
    .filter = true,
    .file_key = "raw",
    .name_key = "test",
    .open = blkverify_open,
    .close = blkverify_close,
    .submit = filter_submit_pooled,
    .run = blkverify_run,
};
