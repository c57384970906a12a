#include "block/filter/fault.h"

#include <errno.h>

#include "block/driver.h"
#include "lib/base/base.h"

/* Requests are counted as they arrive; the atomics let blocking calls join in. */

struct fault {
    enum blk_op op;
    uint64_t after; /* 1: the first request fails */
    uint64_t times; /* how many in a row; 0: all from there on */
    int err;
    _Atomic uint64_t seen;
};

static const char *const op_names[] = {"read",    "write", "flush",
                                       "discard", "zero",  NULL};

static const struct {
    const char *name;
    int err;
} errnos[] = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EAGAIN", EAGAIN},
    {"EINVAL", EINVAL}, {"ENOMEM", ENOMEM}, {"ENOTSUP", ENOTSUP},
};
static const char *const errno_names[] = {"EIO",    "ENOSPC",  "EAGAIN", "EINVAL",
                                          "ENOMEM", "ENOTSUP", NULL};

static bool fault_open(struct blk *b, json_t *opts, GError **error)
{
    struct fault *f = g_new0(struct fault, 1);
    b->priv = f;
    const char *op = blk_opt_str(opts, "op", "write");
    for (unsigned i = 0; op_names[i]; i++) {
        if (g_str_equal(op_names[i], op)) {
            f->op = (enum blk_op)i;
        }
    }
    const char *err = blk_opt_str(opts, "errno", "EIO");
    for (unsigned i = 0; i < ARRAY_LEN(errnos); i++) {
        if (g_str_equal(errnos[i].name, err)) {
            f->err = errnos[i].err;
        }
    }
    f->after = blk_opt_u64(opts, "after", 1);
    f->times = blk_opt_u64(opts, "times", 1);
    b->content_len = b->file->content_len;
    b->limits = b->file->limits;
    b->growable = b->file->growable;
    return true;
}

static void fault_close(struct blk *b)
{
    g_free(b->priv);
}

/* The errno this request is to fail with, or 0. */
static int fault_hit(struct fault *f, enum blk_op op)
{
    if (op != f->op) {
        return 0;
    }
    uint64_t n = atomic_fetch_add(&f->seen, 1) + 1;
    bool hit = n >= f->after && (f->times == 0 || n - f->after < f->times);
    return hit ? -f->err : 0;
}

struct fault_child {
    struct blk_req req;
    struct blk_req *owner;
};

static void fault_child_done(struct blk_req *req, int ret)
{
    struct fault_child *c = container_of(req, struct fault_child, req);
    struct blk_req *owner = c->owner;
    g_free(c);
    blk_req_done(owner, ret);
}

static void fault_submit(struct blk *b, struct blk_req *req)
{
    int err = fault_hit(b->priv, req->op);
    if (err) {
        blk_req_done(req, err);
        return;
    }
    struct fault_child *c = g_new(struct fault_child, 1);
    c->owner = req;
    c->req = (struct blk_req){
        .op = req->op,
        .flags = req->flags,
        .offset = req->offset,
        .len = req->len,
        .iov = req->iov,
        .nb_iov = req->nb_iov,
        .done = fault_child_done,
    };
    blk_submit(b->file, &c->req);
}

static int fault_run(struct blk *b, struct blk_req *req)
{
    int err = fault_hit(b->priv, req->op);
    return err ? err
               : blk_run(b->file, req->op, req->offset, req->iov, req->nb_iov, req->len,
                         req->flags);
}

static const struct blk_option fault_options[] = {
    {"op", BLK_OPT_ENUM, op_names, "which requests to count and fail (default write)"},
    {"after", BLK_OPT_INT, NULL, "number of the first one that fails (default 1)"},
    {"times", BLK_OPT_INT, NULL, "how many fail in a row (default 1; 0: all)"},
    {"errno", BLK_OPT_ENUM, errno_names, "with which error (default EIO)"},
    {0},
};

const struct blk_protocol fault_filter = {
    .name = "fault",
    .help = "filter that fails chosen requests",
    .options = fault_options,
    .filter = true,
    .open = fault_open,
    .close = fault_close,
    .submit = fault_submit,
    .run = fault_run,
};
