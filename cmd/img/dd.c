#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/driver.h"
#include "cmd/img/pump.h"
#include "lib/base/base.h"

/* dd: a part of one image becomes another. */

struct dd {
    struct img *im;
    const char *in, *out, *format, *out_format;
    uint64_t bs, count, skip;
    bool have_count;
    unsigned flags;
};

static bool parse_pair(struct dd *d, const char *arg)
{
    const char *eq = strchr(arg, '=');
    if (!eq) {
        img_error(d->im, "unrecognized operand %s", arg);
        return false;
    }
    size_t n = (size_t)(eq - arg);
    const char *value = eq + 1;
    if (n == 2 && !strncmp(arg, "if", 2)) {
        d->in = value;
    } else if (n == 2 && !strncmp(arg, "of", 2)) {
        d->out = value;
    } else if (n == 2 && !strncmp(arg, "bs", 2)) {
        return img_parse_size_in(d->im, "bs", value, 1, INT32_MAX, &d->bs);
    } else if (n == 5 && !strncmp(arg, "count", 5)) {
        d->have_count = true;
        return img_parse_size(d->im, "count", value, &d->count);
    } else if (n == 4 && !strncmp(arg, "skip", 4)) {
        return img_parse_size(d->im, "skip", value, &d->skip);
    } else {
        img_error(d->im, "unrecognized operand %.*s", (int)n, arg);
        return false;
    }
    return true;
}

static void failed(const struct pump *p, uint64_t offset, int error)
{
    img_error(p->im, "error while copying at byte %" PRIu64 ": %s",
              p->sources[0].from + offset, g_strerror(-error));
}

static int copy(struct dd *d, struct blk *in, struct blk *out, uint64_t from,
                uint64_t len)
{
    struct pump_source source = {.blk = in, .len = len, .from = from};
    struct pump p = {
        .im = d->im,
        .sources = &source,
        .nb_sources = 1,
        .target = out,
        .total = len,
        .compress = blk_chunks_only(out),
        .sparse = 4096,
        .target_is_zero = blk_new_is_zero(out),
        .failed = failed,
    };
    return len && pump_run(&p) < 0;
}

static int dd(struct dd *d)
{
    GError *error = NULL;
    struct blk *in = img_open(d->im, d->in, d->format, d->flags, NULL), *out = NULL;
    int code = 1;
    if (!in) {
        return 1;
    }
    uint64_t length = blk_length(in), from = 0, len;
    bool beyond = false;
    if (!__builtin_mul_overflow(d->skip, d->bs, &from) && from <= length) {
        len = length - from;
    } else {
        from = length;
        len = 0;
        beyond = true;
    }
    uint64_t most;
    if (d->have_count && !__builtin_mul_overflow(d->count, d->bs, &most)) {
        len = MIN(len, most);
    }
    struct blk_open_args args = {.loop = d->im->loop, .secrets = d->im->secrets};
    struct blk_create_tables t;
    json_t *opts = json_object();
    json_object_set_new(opts, "size", json_integer((json_int_t)len));
    if (!blk_create_options(d->out_format, d->out, &t, &error) ||
        !blk_create_prepare(&t, opts, &error) ||
        !blk_create(&args, d->out_format, d->out, opts, &error)) {
        img_report(d->im, error, "%s: error while creating output image: ", d->out);
    } else if ((out = img_open(d->im, d->out, d->out_format, IMG_RW, NULL))) {
        if (beyond) {
            img_error(d->im, "%s: cannot skip to specified offset", d->in);
        }
        code = copy(d, in, out, from, len);
        code = img_close(d->im, out) ? code : 1;
    }
    json_decref(opts);
    blk_unref(in);
    return code;
}

int img_dd(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"format", required_argument, 0, 'f'},
        {"output-format", required_argument, 0, 'O'},
        {"force-share", no_argument, 0, 'U'},
        {0},
    };
    struct dd d = {.im = im, .out_format = "raw", .bs = 512};
    for (int o; (o = img_getopt(im, argc, argv, "hf:O:U", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': d.format = optarg; break;
        case 'O': d.out_format = optarg; break;
        case 'U': d.flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: d.flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    for (int i = optind; i < argc; i++) {
        if (!parse_pair(&d, argv[i])) {
            return 1;
        }
    }
    if (!d.in || !d.out) {
        img_error(im, "Must specify both input and output files");
        return 1;
    }
    return dd(&d);
}
