#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/pump.h"
#include "lib/base/base.h"

/*
 * commit: what the top image holds goes into its backing file (or one further down,
 * -b), and the top is emptied unless -d. The base is opened a second time, to be
 * written, by the name the chain has for it.
 */

struct commit {
    struct img *im;
    struct blk *top, *base;
    unsigned depth; /* of the base below the top: layers above it are committed */
    struct img_progress progress;
    uint64_t rate; /* bytes per second; 0: as fast as it goes */
};

static void failed(const struct pump *p, uint64_t offset, int error)
{
    img_error(p->im, "Block job failed at byte %" PRIu64 ": %s", offset,
              g_strerror(-error));
}

static int copy_all(struct commit *c)
{
    struct pump_source source = {.blk = c->top, .len = blk_length(c->top)};
    struct pump p = {
        .im = c->im,
        .sources = &source,
        .nb_sources = 1,
        .target = c->base,
        .total = source.len,
        .layers = c->depth,
        .rate = c->rate,
        .progress = &c->progress,
        .failed = failed,
    };
    if (source.len && pump_run(&p) < 0) {
        return 1;
    }
    int r = blk_run(c->base, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        img_error(c->im, "Block job failed: %s", g_strerror(-r));
    }
    return r < 0;
}

/* The node of the chain that is @name (NULL: the first below), and how deep. */
static struct blk *find_base(struct commit *c, const char *name)
{
    struct blk *b = blk_get_child(c->top, "backing");
    c->depth = 1;
    if (!name) {
        if (!b) {
            img_error(c->im, "Image does not have a backing file");
        }
        return b;
    }
    g_autofree char *path = blk_backing_path(blk_get_filename(c->top), name);
    for (; b; b = blk_get_child(b, "backing"), c->depth++) {
        if (g_str_equal(blk_get_filename(b), name) ||
            g_str_equal(blk_get_filename(b), path)) {
            return b;
        }
    }
    img_error(c->im, "Did not find '%s' in the backing chain of '%s'", name,
              blk_get_filename(c->top));
    return NULL;
}

static int commit(struct commit *c, const char *base_name, const char *cache, bool drop)
{
    GError *error = NULL;
    struct blk *below = find_base(c, base_name);
    if (!below) {
        return 1;
    }
    g_autofree char *name = g_strdup(blk_get_filename(below));
    /* Our own lock on the base must not be in our way; its content there is not read.
     */
    struct blk_perms none = {0, BLK_PERM_ALL};
    struct blk *file = blk_get_child(below, "file");
    if (file && !blk_set_perms(file, &none, &error)) {
        img_report(c->im, error, "%s", "");
        return 1;
    }
    c->base = img_open(c->im, name, blk_get_driver_name(below), IMG_RW, cache);
    if (!c->base) {
        return 1;
    }
    if (blk_length(c->base) < blk_length(c->top) &&
        !blk_truncate(c->base, blk_length(c->top), BLK_PREALLOC_OFF, &error)) {
        img_report(c->im, error, "Could not grow '%s': ", name);
        img_close(c->im, c->base);
        return 1;
    }
    int code = copy_all(c);
    code = img_close(c->im, c->base) ? code : 1;
    if (code == 0 && !drop && c->depth == 1 && !blk_make_empty(c->top, &error)) {
        if (g_error_matches(error, LODGE_ERROR, ENOTSUP)) {
            g_error_free(error); /* what it holds reads as the base does now */
            return 0;
        }
        img_report(c->im, error, "Could not empty %s: ", blk_get_filename(c->top));
        code = 1;
    }
    return code;
}

int img_commit(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"format", required_argument, 0, 'f'},
        {"cache", required_argument, 0, 't'},
        {"base", required_argument, 0, 'b'},
        {"drop", no_argument, 0, 'd'},
        {"rate-limit", required_argument, 0, 'r'},
        {"progress", no_argument, 0, 'p'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *cache = "writeback", *base = NULL;
    unsigned flags = IMG_RW;
    bool drop = false, progress = false;
    struct commit c = {.im = im};
    for (int o; (o = img_getopt(im, argc, argv, "f:ht:b:dpqr:", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 't': cache = optarg; break;
        case 'b':
            base = optarg;
            drop = true; /* -b implies -d: the layers between are not valid any more */
            break;
        case 'd': drop = true; break;
        case 'p': progress = true; break;
        case 'q': im->quiet = true; break;
        case 'r':
            if (!img_parse_size(im, "rate limit", optarg, &c.rate)) {
                return 1;
            }
            break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    if (!img_parse_cache(cache, NULL)) {
        img_error(im, "Invalid cache option: %s", cache);
        return 1;
    }
    c.top = img_open(im, argv[optind], format, flags, cache);
    if (!c.top) {
        return 1;
    }
    img_progress_start(&c.progress, progress && !im->quiet);
    int code = commit(&c, base, cache, drop);
    img_progress_end(&c.progress);
    code = img_close(im, c.top) ? code : 1;
    if (code == 0) {
        img_say(im, "Image committed.\n");
    }
    return code;
}
