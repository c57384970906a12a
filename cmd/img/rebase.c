#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/img.h"
#include "cmd/img/pipe.h"
#include "lib/base/base.h"

/*
 * rebase: another backing file. Safe: where the old and the new one differ, the image
 * gets the old content first. With -u the name alone changes.
 */

struct rebase {
    struct img *im;
    struct blk *top;
    struct blk *old, *fresh; /* either may be NULL */
    uint64_t at;             /* how far the pieces were taken */
    struct img_progress progress;
    uint64_t chunk; /* to store compressed by; 0: not compressed */
    uint64_t piece; /* bytes of each backing file that are compared in one go */
};

/* What a backing file has at @at, with zeros behind its end. */
static int read_below(struct blk *b, uint64_t at, uint8_t *buf, uint64_t len)
{
    uint64_t length = b ? blk_length(b) : 0;
    uint64_t has = at < length ? MIN(len, length - at) : 0;
    memset(buf + has, 0, len - has);
    return has ? blk_pread(b, at, buf, has) : 0;
}

enum { PIECE = 512 * 1024, STEP = 65536 };

/* Whether a backing file (or none) reads as zero from @at, and for how long it is
 * known. */
static int zero_below(struct blk *b, uint64_t at, uint64_t *len, bool *ret_zero)
{
    uint64_t length = b ? blk_length(b) : 0;
    struct blk_status s;
    *ret_zero = at >= length;
    if (*ret_zero) {
        return 0;
    }
    int err = blk_map_at(b, at, MIN(*len, length - at), &s);
    *len = err ? *len : s.len;
    *ret_zero = err == 0 && (s.flags & BLK_STATUS_ZERO);
    return err;
}

/* Bytes from r->at to the end of a chunk that begins there and that the image leaves to
 * its backing file as a whole; else 0. */
static uint64_t whole_chunk(struct rebase *r)
{
    uint64_t at = r->at, end = MIN(at + r->chunk, blk_length(r->top));
    while (r->at % r->chunk == 0 && at < end) {
        struct blk_status s;
        if (blk_map_at(r->top, at, end - at, &s) < 0 ||
            (s.depth == 0 && (s.flags & BLK_STATUS_ALLOCATED))) {
            return 0;
        }
        at += s.len;
    }
    return at - r->at;
}

/* What the image leaves to its backing file, where the old and the new one may differ;
 * at most PIECE bytes. */
static int merge_next(void *opaque, struct piece *pc)
{
    struct rebase *r = opaque;
    uint64_t length = blk_length(r->top);
    while (r->at < length) {
        struct blk_status s;
        pc->offset = r->at;
        int err = blk_map_at(r->top, r->at, length - r->at, &s);
        bool ours = s.depth == 0 && (s.flags & BLK_STATUS_ALLOCATED), zero[2] = {0};
        if (err == 0 && !ours) {
            err = zero_below(r->old, r->at, &s.len, &zero[0]);
            err = err ? err : zero_below(r->fresh, r->at, &s.len, &zero[1]);
        }
        if (err < 0) {
            return err;
        }
        bool same = ours || (zero[0] && zero[1]);
        uint64_t whole = !ours && r->chunk ? whole_chunk(r) : 0;
        if (whole && s.len >= r->chunk) {
            s.len = ALIGN_DOWN(s.len, r->chunk);
        } else if (whole) { /* a chunk is compared as one */
            s.len = whole;
            same = false;
        }
        pc->len = same ? s.len : MIN(s.len, r->piece);
        r->at += pc->len;
        if (!same) {
            return 0;
        }
    }
    return PIPE_END;
}

/* Both of them, one behind the other. */
static int merge_work(void *opaque, struct piece *pc)
{
    struct rebase *r = opaque;
    int err = read_below(r->old, pc->offset, pc->mem, pc->len);
    return err ? err : read_below(r->fresh, pc->offset, pc->mem + r->piece, pc->len);
}

/* Into the image, in compressed chunks if asked. */
static int store(struct rebase *r, uint64_t at, uint8_t *buf, uint64_t len)
{
    if (at >= (r->old ? blk_length(r->old) : 0)) { /* nothing was there */
        return blk_run(r->top, BLK_ZERO, at, NULL, 0, len, 0);
    }
    int err = 0;
    for (uint64_t in = 0, n; err == 0 && in < len; in += n) {
        n = r->chunk ? MIN(r->chunk, len - in) : len;
        struct iovec v = {buf + in, n};
        bool whole = r->chunk && n == r->chunk && (at + in) % n == 0;
        err = blk_run(r->top, BLK_WRITE, at + in, &v, 1, n, whole ? BLK_COMPRESS : 0);
    }
    return err;
}

/* Write the steps that differ. */
static int merge_steps(struct rebase *r, const struct piece *pc)
{
    const uint64_t step = r->chunk ? r->chunk : STEP;
    uint8_t *a = pc->mem, *b = pc->mem + r->piece;
    int err = 0;
    for (uint64_t in = 0; err == 0 && in < pc->len;) {
        uint64_t from = in;
        while (in < pc->len && memcmp(a + in, b + in, MIN(pc->len - in, step)) != 0) {
            in += MIN(pc->len - in, step);
        }
        if (in == from) {
            in += MIN(pc->len - in, step);
            continue;
        }
        err = store(r, pc->offset + from, a + from, in - from);
    }
    return err;
}

static int merge_put(void *opaque, struct piece *pc)
{
    struct rebase *r = opaque;
    int err = pc->error;
    if (pc->unknown) {
        img_error(r->im, "error while reading image metadata: %s", g_strerror(-err));
        return err;
    }
    err = err ? err : merge_steps(r, pc);
    if (err < 0) {
        img_error(r->im, "error while merging at byte %" PRIu64 ": %s", pc->offset,
                  g_strerror(-err));
    }
    img_progress_at(&r->progress, 100.0 * (double)(pc->offset + pc->len) /
                                      (double)blk_length(r->top));
    return err;
}

static int merge_all(struct rebase *r)
{
    struct pipe pipe = {
        .mem_bytes = 2 * r->piece,
        .next = merge_next,
        .work = merge_work,
        .put = merge_put,
        .opaque = r,
    };
    return pipe_run(&pipe);
}

static int rebase(struct rebase *r, const char *backing, const char *format,
                  const char *src_cache, bool unsafe)
{
    GError *error = NULL;
    bool none = !backing || !*backing;
    if (format && !blk_is_driver(format)) {
        img_error(r->im, "Invalid format name: '%s'", format);
        return 1;
    }
    if (!none && !format) {
        img_error(r->im,
                  "Could not change the backing file to '%s': backing format must be "
                  "specified",
                  backing);
        return 1;
    }
    if (!unsafe) {
        r->old = blk_get_child(r->top, "backing");
        if (!none) {
            g_autofree char *path = blk_backing_path(blk_get_filename(r->top), backing);
            r->fresh = img_try_open(r->im, path, format, 0, src_cache, &error);
            if (!r->fresh) {
                img_report(r->im, error,
                           "Could not open new backing file '%s': ", backing);
                return 1;
            }
        }
        if (merge_all(r) < 0) {
            return 1;
        }
        int err = blk_run(r->top, BLK_FLUSH, 0, NULL, 0, 0, 0);
        if (err < 0) {
            img_error(r->im, "error while flushing: %s", g_strerror(-err));
            return 1;
        }
    }
    if (!blk_set_backing(r->top, none ? NULL : backing, none ? NULL : format, &error)) {
        img_report(r->im, error,
                   "Could not change the backing file to '%s': ", backing);
        return 1;
    }
    return 0;
}

int img_rebase(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"format", required_argument, 0, 'f'},
        {"backing", required_argument, 0, 'b'},
        {"backing-file", required_argument, 0, 'b'},
        {"backing-format", required_argument, 0, 'F'},
        {"backing-cache", required_argument, 0, 'T'},
        {"backing-unsafe", no_argument, 0, 'u'},
        {"cache", required_argument, 0, 't'},
        {"compress", no_argument, 0, 'c'},
        {"progress", no_argument, 0, 'p'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *cache = "writeback", *src_cache = "writeback";
    const char *backing = NULL, *backing_format = NULL;
    unsigned flags = IMG_RW;
    bool unsafe = false, progress = false, compress = false;
    for (int o; (o = img_getopt(im, argc, argv, "hf:F:b:cupt:T:qU", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'F': backing_format = optarg; break;
        case 'b': backing = optarg; break;
        case 'u': unsafe = true; break;
        case 'c': compress = true; break;
        case 'p': progress = true; break;
        case 't': cache = optarg; break;
        case 'T': src_cache = optarg; break;
        case 'q': im->quiet = true; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    if (!backing && !unsafe) {
        return img_usage(im, "Must specify backing file (-b) or use unsafe mode (-u)");
    }
    if (!img_parse_cache(cache, NULL)) {
        img_error(im, "Invalid cache option: %s", cache);
        return 1;
    }
    if (!img_parse_cache(src_cache, NULL)) {
        img_error(im, "Invalid source cache option: %s", src_cache);
        return 1;
    }
    struct rebase r = {.im = im};
    r.top = img_open(im, argv[optind], format, flags | (unsafe ? IMG_NO_BACKING : 0),
                     cache);
    if (!r.top) {
        return 1;
    }
    if (compress && !blk_chunk(r.top)) {
        img_error(im, "Compression not supported for this file format");
        img_close(im, r.top);
        return 1;
    }
    if (compress && unsafe) {
        img_error(im, "Cannot compress when the image is not changed (-u)");
        img_close(im, r.top);
        return 1;
    }
    r.chunk = compress ? blk_chunk(r.top) : 0;
    r.piece = MAX((uint64_t)PIECE, r.chunk);
    img_progress_start(&r.progress, progress && !im->quiet);
    int code = rebase(&r, backing, backing_format, src_cache, unsafe);
    img_progress_at(&r.progress, code == 0 ? 100 : 0);
    img_progress_end(&r.progress);
    blk_unref(r.fresh);
    return img_close(im, r.top) ? code : 1;
}
