#include "block/filter/blkdebug.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "block/filter/blkdebug_rules.h"
#include "block/filter/pooled.h"
#include "lib/base/base.h"

/*
 * The node. Events come from the threads that serve the format above, requests run on
 * pool threads; one lock for the rules and for who waits. A request that stops sleeps
 * on its thread until it is resumed, which never is the loop's: there it does not stop.
 */

struct suspended {
    char *tag;
    bool resumed;
    struct suspended *next;
};

struct blkdebug {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GArray *rules; /* of struct blkdebug_rule */
    int64_t state;
    struct suspended *suspended;
    _Atomic uint64_t written, flushed; /* changes so far, and those flushed */

    /* What the options ask of requests; 0: nothing. */
    uint64_t align, max_transfer;
    uint64_t opt_zero, max_zero, opt_discard, max_discard;
};

/* ---- events ------------------------------------------------------------------------
 */

/* With the lock held. */
static void wait_as(struct blkdebug *d, const char *tag)
{
    struct suspended me = {.tag = (char *)tag, .next = d->suspended};
    d->suspended = &me;
    printf("blkdebug: Suspended request '%s'\n", tag);
    pthread_cond_broadcast(&d->changed);
    while (!me.resumed) {
        pthread_cond_wait(&d->changed, &d->lock);
    }
    for (struct suspended **p = &d->suspended; *p; p = &(*p)->next) {
        if (*p == &me) {
            *p = me.next;
            break;
        }
    }
}

static void blkdebug_event_at(struct blk *b, enum blk_event e)
{
    struct blkdebug *d = b->priv;
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_lock(&d->lock);
    blkdebug_rules_event(d->rules, &d->state, e, !loop_in_thread(b->loop), tags);
    for (unsigned i = 0; i < tags->len; i++) {
        wait_as(d, tags->pdata[i]);
    }
    pthread_mutex_unlock(&d->lock);
}

static int blkdebug_break_set(struct blk *b, const char *event, const char *tag)
{
    struct blkdebug *d = b->priv;
    enum blk_event e = blkdebug_event(event);
    if (e == BLK_EVENT_COUNT) {
        return -ENOENT;
    }
    struct blkdebug_rule r = {
        .event = e, .action = BLKDEBUG_SUSPEND, .tag = g_strdup(tag)};
    pthread_mutex_lock(&d->lock);
    g_array_append_val(d->rules, r);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

/* With the lock held. */
static int resume(struct blkdebug *d, const char *tag, bool all)
{
    int r = -ENOENT;
    for (struct suspended *s = d->suspended; s && (all || r); s = s->next) {
        if (!s->resumed && g_str_equal(s->tag, tag)) {
            s->resumed = true;
            printf("blkdebug: Resuming request '%s'\n", tag);
            r = 0;
        }
    }
    pthread_cond_broadcast(&d->changed);
    return r;
}

static int blkdebug_break_resume(struct blk *b, const char *tag)
{
    struct blkdebug *d = b->priv;
    pthread_mutex_lock(&d->lock);
    int r = resume(d, tag, false);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int blkdebug_break_remove(struct blk *b, const char *tag)
{
    struct blkdebug *d = b->priv;
    int ret = -ENOENT;
    pthread_mutex_lock(&d->lock);
    for (unsigned i = 0; i < d->rules->len; i++) {
        const struct blkdebug_rule *r =
            &g_array_index(d->rules, struct blkdebug_rule, i);
        if (r->action == BLKDEBUG_SUSPEND && g_str_equal(r->tag, tag)) {
            g_array_remove_index(d->rules, i--);
            ret = 0;
        }
    }
    resume(d, tag, true);
    pthread_mutex_unlock(&d->lock);
    return ret;
}

static bool blkdebug_break_stopped(struct blk *b, const char *tag)
{
    struct blkdebug *d = b->priv;
    bool found = false;
    pthread_mutex_lock(&d->lock);
    for (const struct suspended *s = d->suspended; s; s = s->next) {
        found |= !s->resumed && g_str_equal(s->tag, tag);
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

/* ---- requests ----------------------------------------------------------------------
 */

static int check(struct blkdebug *d, enum blkdebug_io io, uint64_t offset, uint64_t len)
{
    pthread_mutex_lock(&d->lock);
    int err = blkdebug_rules_request(d->rules, io, offset, len);
    pthread_mutex_unlock(&d->lock);
    return -err;
}

/* One request of at most @max bytes after the other. */
static int run_pieces(struct blk *b, const struct blk_req *req, enum blkdebug_io io,
                      uint64_t max)
{
    struct blkdebug *d = b->priv;
    if (!max || req->len <= max || req->op == BLK_READ || req->op == BLK_WRITE) {
        int r = check(d, io, req->offset, req->len);
        return r ? r : filter_pass(b->file, req);
    }
    struct blk_req part = *req;
    for (uint64_t done = 0; done < req->len; done += part.len) {
        part.offset = req->offset + done;
        part.len = MIN(max, req->len - done);
        int r = check(d, io, part.offset, part.len);
        r = r ? r : filter_pass(b->file, &part);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* A device whose unit of zeroes is larger: the data path writes shorter ones out where
 * it is told -ENOTSUP. */
static int run_zeroes(struct blk *b, const struct blk_req *req)
{
    struct blkdebug *d = b->priv;
    uint64_t unit = MAX(d->opt_zero, 1);
    if (req->len < unit) {
        return -ENOTSUP;
    }
    return run_pieces(b, req, BLKDEBUG_WRITE_ZEROES, d->max_zero);
}

/* With nothing written since the last one there is nothing to flush, nor to fail. */
static int run_flush(struct blk *b, const struct blk_req *req)
{
    struct blkdebug *d = b->priv;
    uint64_t written = atomic_load(&d->written);
    if (written == atomic_load(&d->flushed)) {
        return 0;
    }
    int r = check(d, BLKDEBUG_FLUSH, 0, 0);
    r = r ? r : filter_pass(b->file, req);
    if (r == 0) {
        atomic_store(&d->flushed, written);
    }
    return r;
}

static int blkdebug_run(struct blk *b, struct blk_req *req)
{
    struct blkdebug *d = b->priv;
    int r;
    if (req->op != BLK_READ && req->op != BLK_FLUSH) {
        atomic_fetch_add(&d->written, 1);
    }
    switch (req->op) {
    case BLK_READ: return run_pieces(b, req, BLKDEBUG_READ, d->max_transfer);
    case BLK_WRITE:
        blkdebug_event_at(b, BLK_EVENT_PWRITEV);
        r = run_pieces(b, req, BLKDEBUG_WRITE, d->max_transfer);
        blkdebug_event_at(b, BLK_EVENT_PWRITEV_DONE);
        return r;
    case BLK_ZERO:
        blkdebug_event_at(b, BLK_EVENT_PWRITEV_ZERO);
        r = run_zeroes(b, req);
        blkdebug_event_at(b, BLK_EVENT_PWRITEV_DONE);
        return r;
    case BLK_DISCARD: return run_pieces(b, req, BLKDEBUG_DISCARD, d->max_discard);
    default: break;
    }
    return run_flush(b, req);
}

static int blkdebug_status(struct blk *b, uint64_t offset, uint64_t len,
                           struct blk_extent *ret)
{
    struct blk_status s;
    int r = check(b->priv, BLKDEBUG_BLOCK_STATUS, offset, len);
    r = r ? r : blk_map_at(b->file, offset, len, &s);
    if (r == 0) {
        *ret = (struct blk_extent){
            .kind = s.flags & BLK_STATUS_ZERO ? BLK_EXT_ZERO : BLK_EXT_DATA,
            .len = s.len,
            .offset = offset,
        };
    }
    return r;
}

/* ---- opening -----------------------------------------------------------------------
 */

static bool size_option(json_t *opts, const char *name, uint64_t most, bool power,
                        uint64_t unit, uint64_t *ret, GError **error)
{
    uint64_t v = blk_opt_u64(opts, name, 0);
    bool bad = v > most || (power && (v & (v - 1))) || (v && unit && v % unit);
    *ret = v;
    return !bad ||
           (power ? error_msg(error, "Cannot meet constraints with align %" PRIu64, v)
                  : error_msg(error, "Cannot meet constraints with %s %" PRIu64, name,
                              v));
}

static bool take_limits(struct blk *b, json_t *opts, GError **error)
{
    struct blkdebug *d = b->priv;
    if (!size_option(opts, "align", 1 << 20, true, 0, &d->align, error)) {
        return false;
    }
    uint64_t unit = MAX(d->align, b->limits.request_align);
    if (!size_option(opts, "max-transfer", INT32_MAX, false, unit, &d->max_transfer,
                     error) ||
        !size_option(opts, "opt-write-zero", INT32_MAX, false, unit, &d->opt_zero,
                     error) ||
        !size_option(opts, "max-write-zero", INT32_MAX, false, MAX(d->opt_zero, unit),
                     &d->max_zero, error) ||
        !size_option(opts, "opt-discard", INT32_MAX, false, unit, &d->opt_discard,
                     error) ||
        !size_option(opts, "max-discard", INT32_MAX, false, MAX(d->opt_discard, unit),
                     &d->max_discard, error)) {
        return false;
    }
    b->limits.request_align = (uint32_t)unit;
    return true;
}

static bool blkdebug_open(struct blk *b, json_t *opts, GError **error)
{
    struct blkdebug *d = g_new0(struct blkdebug, 1);
    const char *config = blk_opt_str(opts, "config", "");
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->rules = blkdebug_rules_new();
    d->state = 1;
    b->priv = d;
    filter_follow_file(b);
    if ((*config && !blkdebug_rules_file(d->rules, config, error)) ||
        !blkdebug_rules_options(d->rules, opts, error) ||
        !take_limits(b, opts, error)) {
        return false;
    }
    blkdebug_event_at(b, BLK_EVENT_NONE);
    return true;
}

static void blkdebug_close(struct blk *b)
{
    struct blkdebug *d = b->priv;
    if (d) {
        g_array_free(d->rules, TRUE);
        pthread_mutex_destroy(&d->lock);
        pthread_cond_destroy(&d->changed);
    }
    g_free(d);
}

static const struct blk_option blkdebug_options[] = {
    {"config", BLK_OPT_STR, NULL, "file with rules"},
    {"inject-error", BLK_OPT_ANY, NULL, "rules: at an event, the next request fails"},
    {"set-state", BLK_OPT_ANY, NULL, "rules: at an event, the state changes"},
    {"align", BLK_OPT_SIZE, NULL, "requests must be aligned so"},
    {"max-transfer", BLK_OPT_SIZE, NULL, "longest request"},
    {"opt-write-zero", BLK_OPT_SIZE, NULL, "unit of writing zeroes"},
    {"max-write-zero", BLK_OPT_SIZE, NULL, "longest request of that"},
    {"opt-discard", BLK_OPT_SIZE, NULL, "unit of discarding"},
    {"max-discard", BLK_OPT_SIZE, NULL, "longest request of that"},
    {"take-child-perms", BLK_OPT_ANY, NULL, "accepted"},
    {"unshare-child-perms", BLK_OPT_ANY, NULL, "accepted"},
    {0},
};

static const struct blk_debug_ops blkdebug_ops = {
    .event = blkdebug_event_at,
    .break_set = blkdebug_break_set,
    .break_remove = blkdebug_break_remove,
    .break_resume = blkdebug_break_resume,
    .break_stopped = blkdebug_break_stopped,
};

const struct blk_protocol blkdebug_filter = {
    .name = "blkdebug",
    .help = "filter that makes requests fail or stop at chosen points",
    .options = blkdebug_options,
    .filter = true,
    .file_key = "image",
    .name_key = "image",
    .open = blkdebug_open,
    .close = blkdebug_close,
    .submit = filter_submit_pooled,
    .run = blkdebug_run,
    .status = blkdebug_status,
    .resize = &filter_resize_ops,
    .debug = &blkdebug_ops,
};
