#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * bench: a number of equal requests in a row, so many of them at a time, and how long
 * they took. With a flush interval every so many writes are followed by a flush, before
 * which all of them are waited for unless --no-drain is given.
 */

enum {
    OPT_PATTERN = OPT_ACTION,
    OPT_FLUSH_INTERVAL,
    OPT_NO_DRAIN,
    MOST_BYTES = 1 << 30, /* of all buffers together */
};

struct slot {
    struct blk_req req;
    struct bench *bench;
    struct iovec iov;
};

struct bench {
    struct img *im;
    struct blk *b;
    const char *format, *cache, *aio;
    unsigned flags;
    int count, depth, flush_interval, pattern;
    uint64_t offset, size, step; /* bytes */
    bool write, no_drain;

    struct slot *slots;
    GPtrArray *idle;   /* of struct slot */
    struct slot flush; /* one flush at a time */
    bool flushing, flush_due;
    int left, in_flight, until_flush;
    int error; /* -errno of the first request that failed */
};

static void flush_done(struct blk_req *req, int ret)
{
    struct bench *t = container_of(req, struct slot, req)->bench;
    t->flushing = false;
    t->error = t->error ? t->error : ret;
}

static void request_done(struct blk_req *req, int ret)
{
    struct slot *s = container_of(req, struct slot, req);
    struct bench *t = s->bench;
    g_ptr_array_add(t->idle, s);
    t->in_flight--;
    t->error = t->error ? t->error : ret;
    if (t->flush_interval && --t->until_flush == 0) {
        t->until_flush = t->flush_interval;
        t->flush_due = true;
    }
}

static void submit(struct bench *t)
{
    struct slot *s = g_ptr_array_steal_index(t->idle, t->idle->len - 1);
    uint64_t length = blk_length(t->b), at = t->offset;
    t->left--;
    if (at > length || length - at < t->size) {
        g_ptr_array_add(t->idle, s);
        t->error = -EIO;
        return;
    }
    t->in_flight++;
    t->offset = (at + t->step) % length;
    s->req.done = request_done;
    if (t->write) {
        blk_pwritev(t->b, &s->req, at, &s->iov, 1, 0);
    } else {
        blk_preadv(t->b, &s->req, at, &s->iov, 1);
    }
}

static int run(struct bench *t)
{
    t->left = t->count;
    t->until_flush = t->flush_interval;
    while (!t->error && (t->left || t->in_flight || t->flushing || t->flush_due)) {
        bool drain = (t->flush_due || t->flushing) && !t->no_drain;
        if (t->flush_due && !t->flushing && (t->no_drain || !t->in_flight)) {
            t->flush_due = false;
            t->flushing = true;
            t->flush.req.done = flush_done;
            blk_flush(t->b, &t->flush.req);
        }
        while (!t->error && !drain && t->left && t->in_flight < t->depth) {
            submit(t);
        }
        if (t->in_flight || t->flushing) {
            loop_poll(t->im->loop, true);
        }
    }
    while (t->in_flight || t->flushing) {
        loop_poll(t->im->loop, true);
    }
    if (t->error) {
        img_error(t->im, "Failed request: %s", g_strerror(-t->error));
    }
    return t->error ? 1 : 0;
}

static int measure(struct bench *t)
{
    int most = MIN(t->depth, t->count);
    void *mem = NULL;
    uint64_t each = ALIGN_UP(t->size, 4096);
    if (each * (uint64_t)most > MOST_BYTES ||
        posix_memalign(&mem, 4096, MAX(each * (uint64_t)most, 4096)) != 0) {
        img_error(t->im, "%d buffers of %" PRIu64 " bytes are too much memory", most,
                  t->size);
        return 1;
    }
    memset(mem, t->pattern, each * (uint64_t)most);
    t->slots = g_new0(struct slot, most);
    t->idle = g_ptr_array_new();
    t->flush.bench = t;
    for (int i = 0; i < most; i++) {
        t->slots[i].bench = t;
        t->slots[i].iov = (struct iovec){(char *)mem + each * (uint64_t)i, t->size};
        g_ptr_array_add(t->idle, &t->slots[i]);
    }
    printf("Sending %d %s requests, %" PRIu64
           " bytes each, %d in parallel (starting at offset %" PRIu64
           ", step size %" PRIu64 ")\n",
           t->count, t->write ? "write" : "read", t->size, t->depth, t->offset,
           t->step ? t->step : t->size);
    if (t->flush_interval) {
        printf("Sending flush every %d requests\n", t->flush_interval);
    }
    t->step = t->step ? t->step : t->size;
    t->depth = most;
    uint64_t start = loop_now_ns();
    int code = run(t);
    if (code == 0) {
        printf("Run completed in %3.3f seconds.\n",
               (double)(loop_now_ns() - start) / 1e9);
    }
    g_ptr_array_free(t->idle, TRUE);
    g_free(t->slots);
    free(mem);
    return code;
}

static bool parse_count(struct bench *t, const char *what, int least, int most,
                        int *ret)
{
    char *end;
    errno = 0;
    long n = strtol(optarg, &end, 0);
    if (end == optarg || *end || errno || n < least || n > most) {
        img_error(t->im, "Invalid %s specified", what);
        return false;
    }
    *ret = (int)n;
    return true;
}

static bool parse_aio(struct bench *t, const char *text)
{
    if (strcmp(text, "native") && strcmp(text, "threads") && strcmp(text, "io_uring")) {
        img_error(t->im, "Invalid aio option: %s", text);
        return false;
    }
    t->aio = text;
    return true;
}

static bool parse_one(struct bench *t, int o)
{
    switch (o) {
    case 'c': return parse_count(t, "request count", 0, INT32_MAX, &t->count);
    case 'd': return parse_count(t, "queue depth", 1, INT32_MAX, &t->depth);
    case 'f': t->format = optarg; return true;
    case 'i': return parse_aio(t, optarg);
    case 'n': t->aio = "native"; return true;
    case 'o': return img_parse_size(t->im, "offset", optarg, &t->offset);
    case 'q': t->im->quiet = true; return true;
    case 's':
        return img_parse_size_in(t->im, "buffer size", optarg, 1, INT32_MAX, &t->size);
    case 'S':
        return img_parse_size_in(t->im, "step_size", optarg, 1, INT32_MAX, &t->step);
    case 't':
        if (!img_parse_cache(optarg, NULL)) {
            img_error(t->im, "Invalid cache mode");
            return false;
        }
        t->cache = optarg;
        return true;
    case 'w': t->write = true; return true;
    case 'U': t->flags |= IMG_FORCE_SHARE; return true;
    case OPT_PATTERN: return parse_count(t, "pattern byte", 0, 255, &t->pattern);
    case OPT_FLUSH_INTERVAL:
        return parse_count(t, "flush interval", 0, INT32_MAX, &t->flush_interval);
    case OPT_NO_DRAIN: t->no_drain = true; return true;
    case OPT_IMAGE_OPTS: t->flags |= IMG_IMAGE_OPTS; return true;
    default: return true;
    }
}

static bool judge(const struct bench *t)
{
    if (!t->write && t->flush_interval) {
        img_error(t->im, "--flush-interval is only available in write tests");
        return false;
    }
    if (t->flush_interval && t->flush_interval < t->depth) {
        img_error(t->im, "Flush interval can't be smaller than depth");
        return false;
    }
    return true;
}

int img_bench(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"flush-interval", required_argument, 0, OPT_FLUSH_INTERVAL},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"pattern", required_argument, 0, OPT_PATTERN},
        {"no-drain", no_argument, 0, OPT_NO_DRAIN},
        {"force-share", no_argument, 0, 'U'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"format", required_argument, 0, 'f'},
        {"cache", required_argument, 0, 't'},
        {"count", required_argument, 0, 'c'},
        {"depth", required_argument, 0, 'd'},
        {"offset", required_argument, 0, 'o'},
        {"buffer-size", required_argument, 0, 's'},
        {"step-size", required_argument, 0, 'S'},
        {"write", no_argument, 0, 'w'},
        {"aio", required_argument, 0, 'i'},
        {"native", no_argument, 0, 'n'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    struct bench t = {
        .im = im, .cache = "writeback", .count = 75000, .depth = 64, .size = 4096};
    for (int o;
         (o = img_getopt(im, argc, argv, "hc:d:f:ni:o:qs:S:t:wU", longs)) != -1;) {
        if (o == '?' || o == 'h') {
            return o == 'h' ? 0 : 1;
        }
        if (!parse_one(&t, o)) {
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    if (!judge(&t)) {
        return 1;
    }
    const char *name = argv[optind];
    bool direct = !strcmp(t.cache, "none") || !strcmp(t.cache, "off") ||
                  !strcmp(t.cache, "directsync");
    if (t.aio && !strcmp(t.aio, "native") && !direct) {
        img_error(im,
                  "Could not open '%s': aio=native was specified, but it requires "
                  "cache.direct=on, which was not specified.",
                  name);
        return 1;
    }
    /* Linux AIO has no other use than io_uring, which the loop chooses itself. */
    im->aio = t.aio && strcmp(t.aio, "native") ? t.aio : NULL;
    t.b = img_open(im, name, t.format, t.flags | (t.write ? IMG_RW : 0), t.cache);
    im->aio = NULL;
    if (!t.b) {
        return 1;
    }
    int code = measure(&t);
    return img_close(im, t.b) ? code : 1;
}
