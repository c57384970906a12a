#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/*
 * rebase: another backing file. Safe: where the old and the new one differ, the image
 * gets the old content first. With -u the name alone changes.
 */

struct rebase {
    struct img *im;
    struct blk *top;
    struct blk *old, *fresh; /* either may be NULL */
    struct img_progress progress;
};

/* What a backing file has at @at, with zeros behind its end. */
static int read_below(struct blk *b, uint64_t at, uint8_t *buf, uint64_t len)
{
    uint64_t length = b ? blk_length(b) : 0;
    uint64_t has = at < length ? MIN(len, length - at) : 0;
    memset(buf + has, 0, len - has);
    return has ? blk_pread(b, at, buf, has) : 0;
}

/* Copy what differs, by the sectors that do. */
static int merge(struct rebase *r, uint64_t at, uint64_t len, uint8_t *a, uint8_t *b)
{
    enum { STEP = 65536 };
    while (len > 0) {
        uint64_t n = MIN(len, 2 * MIB);
        int err = read_below(r->old, at, a, n);
        err = err ? err : read_below(r->fresh, at, b, n);
        for (uint64_t in = 0; err == 0 && in < n;) {
            uint64_t part = MIN(n - in, (uint64_t)STEP);
            if (memcmp(a + in, b + in, part) == 0) {
                in += part;
                continue;
            }
            uint64_t from = in;
            while (in < n && memcmp(a + in, b + in, MIN(n - in, (uint64_t)STEP)) != 0) {
                in += MIN(n - in, (uint64_t)STEP);
            }
            err = img_is_zero(a + from, in - from)
                      ? blk_run(r->top, BLK_ZERO, at + from, NULL, 0, in - from, 0)
                      : blk_pwrite(r->top, at + from, a + from, in - from);
        }
        if (err < 0) {
            img_error(r->im, "error while merging at byte %" PRIu64 ": %s", at,
                      g_strerror(-err));
            return err;
        }
        at += n;
        len -= n;
    }
    return 0;
}

static int merge_all(struct rebase *r)
{
    uint64_t length = blk_length(r->top);
    g_autofree uint8_t *a = g_malloc(2 * MIB), *b = g_malloc(2 * MIB);
    for (uint64_t at = 0; at < length;) {
        struct blk_status s;
        int err = blk_map_at(r->top, at, MIN(length - at, 64 * MIB), &s);
        if (err < 0) {
            img_error(r->im, "error while reading image metadata: %s",
                      g_strerror(-err));
            return err;
        }
        bool ours = s.depth == 0 && (s.flags & BLK_STATUS_ALLOCATED);
        err = ours ? 0 : merge(r, at, s.len, a, b);
        if (err < 0) {
            return err;
        }
        at += s.len;
        img_progress_at(&r->progress, 100.0 * (double)at / (double)length);
    }
    return 0;
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
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *cache = "writeback", *src_cache = "writeback";
    const char *backing = NULL, *backing_format = NULL;
    unsigned flags = IMG_RW;
    bool unsafe = false, progress = false;
    for (int o; (o = img_getopt(im, argc, argv, "hf:F:b:upt:T:qU", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'F': backing_format = optarg; break;
        case 'b': backing = optarg; break;
        case 'u': unsafe = true; break;
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
    img_progress_start(&r.progress, progress && !im->quiet);
    int code = rebase(&r, backing, backing_format, src_cache, unsafe);
    img_progress_end(&r.progress);
    blk_unref(r.fresh);
    return img_close(im, r.top) ? code : 1;
}
