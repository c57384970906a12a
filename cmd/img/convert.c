#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/driver.h"
#include "block/options.h"
#include "cmd/img/pump.h"
#include "lib/base/base.h"

/* convert: open the sources, make the target, and let the pump run. */

enum { MOST_SPARSE = 16777216 };

struct convert {
    struct img *im;
    const char *format, *out_format, *cache, *src_cache, *snapshot;
    const char *backing, *backing_format;
    GSList *options;
    unsigned flags; /* IMG_FORCE_SHARE, IMG_IMAGE_OPTS */
    bool compress, progress, no_create, any_order, salvage, target_is_zero, bitmaps,
        skip_broken;
    bool target_image_opts, help, offload, sparse_given;
    uint64_t sparse, rate;
    unsigned threads;
    const char *target_name;
    struct pump_source *sources;
    unsigned nb_sources;
    uint64_t total;
    struct blk *target;
};

/* ---- sources ------------------------------------------------------------------------
 */

static bool open_sources(struct convert *c, char **names, unsigned n)
{
    c->sources = g_new0(struct pump_source, n);
    for (unsigned i = 0; i < n; i++) {
        struct blk *b =
            img_open(c->im, names[i], c->format, c->flags | IMG_NO_SHARE, c->src_cache);
        if (!b) {
            return false;
        }
        c->sources[i].blk = b;
        c->nb_sources = i + 1;
        if (c->snapshot && !img_load_snapshot(c->im, b, c->snapshot)) {
            return false;
        }
        c->sources[i].start = c->total;
        c->sources[i].len = blk_length(b);
        c->total += c->sources[i].len;
    }
    return true;
}

/* ---- the target
 * ------------------------------------------------------------------------ */

static bool has_option(const struct blk_option *o, const char *name)
{
    for (; o && o->name; o++) {
        if (g_str_equal(o->name, name)) {
            return true;
        }
    }
    return false;
}

/* -B and -F into @opts, where the format has them. */
static bool add_backing(struct convert *c, const struct blk_create_tables *t,
                        json_t *opts)
{
    if (c->backing && !has_option(t->format, "backing_file")) {
        img_error(c->im, "Backing file not supported for file format '%s'",
                  c->out_format);
        return false;
    }
    if (c->backing_format && !has_option(t->format, "backing_fmt")) {
        img_error(c->im, "Backing file format not supported for file format '%s'",
                  c->out_format);
        return false;
    }
    if (c->backing) {
        json_object_set_new(opts, "backing_file", json_string_nocheck(c->backing));
    }
    if (c->backing_format) {
        json_object_set_new(opts, "backing_fmt",
                            json_string_nocheck(c->backing_format));
    }
    return true;
}

/* The options of what shall be made, before anything is. */
static bool judge_new(struct convert *c, struct blk_create_tables *t, json_t *opts)
{
    GError *error = NULL;
    json_t *typed = NULL;
    bool ok = blk_create_options(c->out_format, c->target_name, t, &error) &&
              blk_create_prepare(t, typed = json_deep_copy(opts), &error);
    json_decref(typed);
    if (!ok) {
        img_report(c->im, error, "%s", "");
        return false;
    }
    json_object_set_new(opts, "size", json_integer((json_int_t)c->total));
    return add_backing(c, t, opts);
}

static bool create_target(struct convert *c, const struct blk_create_tables *t,
                          json_t *opts)
{
    GError *error = NULL;
    struct blk_open_args args = {.loop = c->im->loop, .secrets = c->im->secrets};
    const char *format = json_string_value(json_object_get(opts, "backing_fmt"));
    bool ok =
        !format || !*format || blk_is_driver(format) ||
        error_msg(&error, "Parameter 'backing-fmt' does not accept value '%s'", format);
    if (ok && blk_create_prepare(t, opts, &error) &&
        blk_create(&args, c->out_format, c->target_name, opts, &error)) {
        return true;
    }
    img_report(c->im, error, "%s: error while converting %s: ", c->target_name,
               c->out_format);
    return false;
}

static bool judge_backing(struct convert *c, json_t *opts)
{
    const char *backing = json_string_value(json_object_get(opts, "backing_file"));
    c->backing = backing && *backing ? backing : c->backing;
    if (c->backing && c->nb_sources > 1) {
        img_error(c->im, "Having a backing file for the target makes no sense when "
                         "concatenating multiple input images");
        return false;
    }
    if (c->backing && !json_object_get(opts, "backing_fmt") && !c->no_create) {
        img_error(c->im, "Use of backing file requires explicit backing format");
        return false;
    }
    return true;
}

/* Whether the format stores compressed data at all. */
static bool format_compresses(const char *name)
{
    for (size_t i = 0; blk_formats[i]; i++) {
        const struct blk_write_ops *w = blk_formats[i]->writable;
        if (g_str_equal(blk_formats[i]->name, name)) {
            return w && w->codec;
        }
    }
    return true; /* a protocol says so when it is written */
}

static bool judge_compression(struct convert *c, json_t *opts)
{
    const char *prealloc = json_string_value(json_object_get(opts, "preallocation"));
    const char *encryption = json_string_value(json_object_get(opts, "encryption"));
    if (!c->compress) {
        return true;
    }
    if (!c->target_image_opts && !format_compresses(c->out_format)) {
        img_error(c->im, "Compression not supported for this file format");
        return false;
    }
    if ((encryption && g_str_equal(encryption, "on")) ||
        json_object_get(opts, "encrypt.format")) {
        img_error(c->im, "Compression and encryption not supported at the same time");
        return false;
    }
    if (prealloc && !g_str_equal(prealloc, "off")) {
        img_error(c->im,
                  "Compression and preallocation not supported at the same time");
        return false;
    }
    return true;
}

static bool format_has_bitmaps(const char *name)
{
    for (size_t i = 0; blk_formats[i]; i++) {
        if (g_str_equal(blk_formats[i]->name, name)) {
            return blk_formats[i]->bitmaps != NULL;
        }
    }
    return true; /* a protocol says so when it is opened */
}

static bool judge_bitmaps(struct convert *c)
{
    if (!c->bitmaps) {
        return true;
    }
    if (c->nb_sources > 1) {
        img_error(c->im, "Copying bitmaps only possible with single source");
        return false;
    }
    if (!img_can_copy_bitmaps(c->im, c->sources[0].blk, c->skip_broken)) {
        return false;
    }
    if (!c->target_image_opts && !format_has_bitmaps(c->out_format)) {
        img_error(c->im, "Format driver '%s' does not support bitmaps", c->out_format);
        return false;
    }
    return true;
}

/* What is wrong before the target is touched. */
static bool judge_target(struct convert *c, struct blk_create_tables *t, json_t *opts)
{
    if (c->no_create && json_object_size(opts)) {
        img_error(c->im, "-o has no effect when skipping image creation");
        return false;
    }
    return (c->no_create || judge_new(c, t, opts)) && judge_backing(c, opts) &&
           judge_bitmaps(c) && judge_compression(c, opts);
}

static bool open_target(struct convert *c, json_t *opts)
{
    struct blk_create_tables t;
    if (!judge_target(c, &t, opts) || (!c->no_create && !create_target(c, &t, opts))) {
        return false;
    }
    unsigned flags = IMG_RW | (c->target_image_opts ? IMG_IMAGE_OPTS : 0);
    if (!c->backing) {
        flags |= c->no_create ? 0 : IMG_NO_BACKING;
    }
    c->target = img_open_new(c->im, c->target_name, c->out_format, flags, c->cache,
                             c->no_create ? NULL : opts);
    if (!c->target) {
        return false;
    }
    if (c->target_is_zero && blk_get_child(c->target, "backing")) {
        img_error(c->im, "Cannot use --target-is-zero when the destination image has a "
                         "backing file");
        return false;
    }
    if (c->bitmaps && !blk_takes_bitmaps(c->target)) {
        img_error(c->im, "Format driver '%s' does not support bitmaps",
                  blk_get_driver_name(c->target));
        return false;
    }
    c->compress |= blk_chunks_only(c->target);
    if (c->compress && !blk_chunk(c->target) &&
        g_str_equal(blk_get_driver_name(c->target), "vmdk")) {
        c->compress = false; /* a kind that stores plain data alone */
    }
    if (c->compress && !blk_chunk(c->target)) {
        img_error(c->im, "error while writing at byte 0: %s", g_strerror(ENOTSUP));
        return false;
    }
    uint64_t have = blk_length(c->target);
    if (have < c->total) {
        img_error(c->im, "output file is smaller than input file");
        return false;
    }
    return true;
}

static bool run(struct convert *c, json_t *opts)
{
    struct img_progress progress;
    struct blk *backing = blk_get_child(c->target, "backing");
    struct pump p = {
        .im = c->im,
        .sources = c->sources,
        .nb_sources = c->nb_sources,
        .target = c->target,
        .total = c->total,
        .threads = c->threads,
        .any_order = c->any_order,
        .compress = c->compress,
        .sparse = c->sparse,
        .target_is_zero =
            c->target_is_zero ||
            (c->backing ? backing != NULL
                        : !c->no_create && !backing && blk_new_is_zero(c->target)),
        .backing_len = c->backing && backing ? blk_length(backing) : 0,
        .salvage = c->salvage,
        .rate = c->rate,
        .progress = &progress,
    };
    img_progress_start(&progress, c->progress && !c->im->quiet);
    int r = c->total ? pump_run(&p) : 0;
    if (r == 0) {
        r = blk_run(c->target, BLK_FLUSH, 0, NULL, 0, 0, 0);
        if (r < 0) {
            img_error(c->im, "error while writing: %s", g_strerror(-r));
        }
    }
    if (r == 0 && c->bitmaps &&
        !img_copy_bitmaps(c->im, c->sources[0].blk, c->target)) {
        r = -EIO;
    }
    if (r == 0) {
        img_progress_at(&progress, 100);
    }
    img_progress_end(&progress);
    return r == 0;
}

static bool judge(struct convert *c)
{
    if (!c->target_image_opts && !c->out_format) {
        c->out_format = "raw";
    }
    const char *wrong =
        c->skip_broken && !c->bitmaps
            ? "Use of --skip-broken-bitmaps requires --bitmaps"
        : c->compress && c->offload ? "Cannot enable copy offloading when -c is used"
        : c->sparse_given && c->offload
            ? "Cannot enable copy offloading when -S is used"
        : c->salvage && c->offload ? "Cannot use copy offloading in salvaging mode"
        : c->target_image_opts && !c->no_create
            ? "--target-image-opts requires use of -n flag"
        : c->target_is_zero && !c->no_create
            ? "--target-is-zero requires use of -n flag"
            : NULL;
    if (wrong) {
        img_error(c->im, "%s", wrong);
        return false;
    }
    if (!c->help && !img_parse_cache(c->cache, NULL)) {
        img_error(c->im, "Invalid cache option: %s", c->cache);
        return false;
    }
    if (!c->help && !img_parse_cache(c->src_cache, NULL)) {
        img_error(c->im, "Invalid source cache option: %s", c->src_cache);
        return false;
    }
    return true;
}

static int convert(struct convert *c, char **names, unsigned n)
{
    json_t *opts = json_object();
    bool ok = img_parse_options(c->im, c->options, opts, &c->help) && judge(c);
    int code = 1;
    if (ok && c->help) {
        code = img_create_help(c->im, c->out_format, n > 1 ? names[n - 1] : NULL);
    } else if (ok && n < 2) {
        img_error(c->im, "Must specify image file name");
    } else if (ok) {
        c->target_name = names[n - 1];
        ok = open_sources(c, names, n - 1) && open_target(c, opts) && run(c, opts);
        ok = img_close(c->im, c->target) && ok;
        code = ok ? 0 : 1;
    }
    for (unsigned i = 0; i < c->nb_sources; i++) {
        blk_unref(c->sources[i].blk);
    }
    g_free(c->sources);
    g_slist_free(c->options);
    json_decref(opts);
    return code;
}

/* ---- the command line
 * ------------------------------------------------------------------------ */

static bool parse_threads(struct convert *c, const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > 16) {
        img_error(c->im,
                  "Invalid number of coroutines. Allowed number of coroutines is "
                  "between 1 and 16");
        return false;
    }
    c->threads = (unsigned)n;
    return true;
}

static bool parse_sparse(struct convert *c, const char *text)
{
    uint64_t n;
    if (!img_parse_size(c->im, "buffer size for sparse output", text, &n)) {
        return false;
    }
    if (n % 512 || n > MOST_SPARSE) {
        img_error(c->im,
                  "Invalid buffer size for sparse output specified. Valid sizes "
                  "are multiples of 512 up to %d. Select 0 to disable "
                  "sparse detection (fully allocates output).",
                  MOST_SPARSE);
        return false;
    }
    c->sparse = n;
    c->sparse_given = true;
    return true;
}

static bool parse_one(struct convert *c, int o, bool *ret_ok)
{
    *ret_ok = true;
    switch (o) {
    case 'f': c->format = optarg; break;
    case 'O': c->out_format = optarg; break;
    case 'B': c->backing = optarg; break;
    case 'F': c->backing_format = optarg; break;
    case 'c': c->compress = true; break;
    case 'o': c->options = g_slist_append(c->options, optarg); break;
    case 'l': c->snapshot = optarg; break;
    case 'p': c->progress = true; break;
    case 't': c->cache = optarg; break;
    case 'T': c->src_cache = optarg; break;
    case 'q': c->im->quiet = true; break;
    case 'n': c->no_create = true; break;
    case 'W': c->any_order = true; break;
    case 'U': c->flags |= IMG_FORCE_SHARE; break;
    case 'C': c->offload = true; break;
    case 'S': *ret_ok = parse_sparse(c, optarg); break;
    case 'm': *ret_ok = parse_threads(c, optarg); break;
    case 'r': *ret_ok = img_parse_size(c->im, "rate limit", optarg, &c->rate); break;
    case OPT_IMAGE_OPTS: c->flags |= IMG_IMAGE_OPTS; break;
    case OPT_TARGET_IMAGE_OPTS: c->target_image_opts = true; break;
    case OPT_SALVAGE: c->salvage = true; break;
    case OPT_TARGET_IS_ZERO: c->target_is_zero = true; break;
    case OPT_BITMAPS: c->bitmaps = true; break;
    case OPT_SKIP_BROKEN: c->skip_broken = true; break;
    default: break;
    }
    return *ret_ok;
}

int img_convert(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"source-format", required_argument, 0, 'f'},
        {"source-cache", required_argument, 0, 'T'},
        {"snapshot", required_argument, 0, 'l'},
        {"sparse-size", required_argument, 0, 'S'},
        {"target-format", required_argument, 0, 'O'},
        {"target-format-options", required_argument, 0, 'o'},
        {"options", required_argument, 0, 'o'},
        {"target-cache", required_argument, 0, 't'},
        {"backing", required_argument, 0, 'B'},
        {"backing-file", required_argument, 0, 'B'},
        {"backing-format", required_argument, 0, 'F'},
        {"compress", no_argument, 0, 'c'},
        {"copy-range-offloading", no_argument, 0, 'C'},
        {"parallel", required_argument, 0, 'm'},
        {"oob-writes", no_argument, 0, 'W'},
        {"rate-limit", required_argument, 0, 'r'},
        {"no-create", no_argument, 0, 'n'},
        {"progress", no_argument, 0, 'p'},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"quiet", no_argument, 0, 'q'},
        {"target-image-opts", no_argument, 0, OPT_TARGET_IMAGE_OPTS},
        {"salvage", no_argument, 0, OPT_SALVAGE},
        {"target-is-zero", no_argument, 0, OPT_TARGET_IS_ZERO},
        {"bitmaps", no_argument, 0, OPT_BITMAPS},
        {"skip-broken-bitmaps", no_argument, 0, OPT_SKIP_BROKEN},
        {0},
    };
    struct convert c = {
        .im = im, .cache = "unsafe", .src_cache = "writeback", .sparse = 4096};
    for (int o; (o = img_getopt(im, argc, argv,
                                "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:", longs)) != -1;) {
        bool ok;
        if (o == '?' || o == 'h') {
            return o == 'h' ? 0 : 1;
        }
        if (!parse_one(&c, o, &ok)) {
            return 1;
        }
    }
    return convert(&c, argv + optind, (unsigned)(argc - optind));
}
