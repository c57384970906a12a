#include "block/proto/null.h"

#include <string.h>
#include <unistd.h>

#include "block/driver.h"
#include "lib/base/base.h"

/*
 * Nothing is kept. latency-ns makes every request take its time, on a pool thread. What
 * is read is always zeros, whether read-zeroes says that users may rely on it or not:
 * memory that was not written to would show the guest what this program last had there.
 */

struct null {
    uint64_t latency_ns;
    bool read_zeroes;
};

struct null_work {
    struct loop_work work;
    struct blk_req *req;
    uint64_t latency_ns;
};

_Static_assert(sizeof(struct null_work) <= BLK_REQ_DRIVER_BYTES, "blk_req.driver");

static void serve(const struct blk_req *req)
{
    for (unsigned i = 0; req->op == BLK_READ && i < req->nb_iov; i++) {
        memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
    }
}

static void pause_ns(uint64_t ns)
{
    if (ns) {
        g_usleep((gulong)(ns / 1000 + (ns % 1000 != 0)));
    }
}

static void null_work_run(struct loop_work *w)
{
    pause_ns(container_of(w, struct null_work, work)->latency_ns);
}

static void null_work_done(struct loop_work *w)
{
    struct null_work *n = container_of(w, struct null_work, work);
    serve(n->req);
    blk_req_done(n->req, 0);
}

static void null_submit(struct blk *b, struct blk_req *req)
{
    const struct null *n = b->priv;
    if (!n->latency_ns) {
        serve(req);
        blk_req_done(req, 0);
        return;
    }
    struct null_work *w = (struct null_work *)(void *)req->driver;
    *w = (struct null_work){.work = {.run = null_work_run, .done = null_work_done},
                            .req = req,
                            .latency_ns = n->latency_ns};
    loop_work_submit(b->loop, &w->work);
}

static int null_run(struct blk *b, struct blk_req *req)
{
    const struct null *n = b->priv;
    pause_ns(n->latency_ns);
    serve(req);
    return 0;
}

static int null_status(struct blk *b, uint64_t offset, uint64_t len,
                       struct blk_extent *ret)
{
    const struct null *n = b->priv;
    *ret =
        (struct blk_extent){.kind = n->read_zeroes ? BLK_EXT_ZERO : BLK_EXT_UNALLOCATED,
                            .len = len,
                            .offset = offset};
    return 0;
}

static bool null_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                          GError **error)
{
    return error_msg(error, "Image format driver does not support resize");
}

static bool null_open(struct blk *b, json_t *opts, GError **error)
{
    const char *name = blk_opt_str(opts, "filename", NULL);
    struct null *n = g_new0(struct null, 1);
    b->priv = n;
    n->latency_ns = blk_opt_u64(opts, "latency-ns", 0);
    n->read_zeroes = blk_opt_bool(opts, "read-zeroes", false);
    b->content_len = blk_opt_u64(opts, "size", GIB);
    b->filename = g_strdup_printf("%s://", blk_get_driver_name(b));
    if (name && !g_str_equal(name, b->filename)) {
        return error_msg(error, "The only allowed filename for this driver is '%s'",
                         b->filename);
    }
    return n->latency_ns <= INT64_MAX / 2 || error_msg(error, "latency-ns is invalid");
}

static void null_close(struct blk *b)
{
    g_free(b->priv);
}

static int64_t null_allocated(struct blk *b)
{
    return 0;
}

static const struct blk_option null_options[] = {
    {"filename", BLK_OPT_STR, NULL, "null-co:// or null-aio://"},
    {"size", BLK_OPT_SIZE, NULL, "bytes (default 1G)"},
    {"latency-ns", BLK_OPT_INT, NULL, "how long a request takes"},
    {"read-zeroes", BLK_OPT_BOOL, NULL, "users may rely on zeros being read"},
    {0},
};

static const struct blk_resize_ops null_resize_ops = {.truncate = null_truncate};

#define NULL_PROTOCOL(id, text)                        \
    const struct blk_protocol id = {                   \
        .name = text,                                  \
        .help = "a disk that forgets what is written", \
        .options = null_options,                       \
        .open = null_open,                             \
        .close = null_close,                           \
        .submit = null_submit,                         \
        .run = null_run,                               \
        .status = null_status,                         \
        .resize = &null_resize_ops,                    \
        .allocated = null_allocated,                   \
    }

NULL_PROTOCOL(null_co_protocol, "null-co");
NULL_PROTOCOL(null_aio_protocol, "null-aio");
