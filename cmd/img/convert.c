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

struct convert {
    struct img *im;
    const char *format, *out_format, *cache, *src_cache, *snapshot;
    const char *backing, *backing_format;
    GSList *options;
    unsigned flags; /* IMG_FORCE_SHARE, IMG_IMAGE_OPTS */
    bool compress, progress, no_create, any_order, salvage, target_is_zero, bitmaps,
        skip_broken;
    bool target_image_opts, help;
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

/* "snapshot.id=1,snapshot.name=x", or one text for either. */
static bool load_snapshot(struct convert *c, struct blk *b)
{
    GError *error = NULL;
    g_autoptr(GArray) list = blk_snapshots(b);
    int i = -1;
    if (g_str_has_prefix(c->snapshot, "snapshot.")) {
        json_t *o = blk_options_parse(c->snapshot, NULL, &error);
        if (!o) {
            img_report(c->im, error,
                       "Failed in parsing snapshot param '%s': ", c->snapshot);
            return false;
        }
        i = blk_snapshot_match(list,
                               json_string_value(json_object_get(o, "snapshot.id")),
                               json_string_value(json_object_get(o, "snapshot.name")));
        json_decref(o);
    } else {
        i = blk_snapshot_find(list, c->snapshot);
    }
    if (i < 0) {
        img_error(c->im, "Failed to load snapshot: Can't find snapshot");
        return false;
    }
    if (!blk_snapshot_load(b, g_array_index(list, struct blk_snapshot, i).id, &error)) {
        img_report(c->im, error, "Failed to load snapshot: ");
        return false;
    }
    return true;
}

static bool open_sources(struct convert *c, char **names, unsigned n)
{
    c->sources = g_new0(struct pump_source, n);
    for (unsigned i = 0; i < n; i++) {
        struct blk *b = img_open(c->im, names[i], c->format, c->flags, c->src_cache);
        if (!b) {
            return false;
        }
        c->sources[i].blk = b;
        c->nb_sources = i + 1;
        if (c->snapshot && !load_snapshot(c, b)) {
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

static bool create_target(struct convert *c, json_t *opts)
{
    GError *error = NULL;
    struct blk_create_tables t;
    if (!blk_create_options(c->out_format, c->target_name, &t, &error)) {
        img_report(c->im, error, "%s", "");
        return false;
    }
    if (c->backing) {
        json_object_set_new(opts, "backing_file", json_string_nocheck(c->backing));
    }
    if (c->backing_format) {
        json_object_set_new(opts, "backing_fmt",
                            json_string_nocheck(c->backing_format));
    }
    if (!json_object_get(opts, "size")) {
        json_object_set_new(opts, "size", json_integer((json_int_t)c->total));
    }
    struct blk_open_args args = {.loop = c->im->loop, .secrets = c->im->secrets};
    if (blk_create_prepare(&t, opts, &error) &&
        blk_create(&args, c->out_format, c->target_name, opts, &error)) {
        return true;
    }
    img_report(c->im, error, "%s: error while converting %s: ", c->target_name,
               c->out_format);
    return false;
}

static bool judge_options(struct convert *c, json_t *opts)
{
    const char *backing = json_string_value(json_object_get(opts, "backing_file"));
    const char *prealloc = json_string_value(json_object_get(opts, "preallocation"));
    c->backing = c->backing ? c->backing : backing;
    if (c->compress && prealloc && !g_str_equal(prealloc, "off")) {
        img_error(c->im,
                  "Compression and preallocation not supported at the same time");
        return false;
    }
    if (c->compress && (json_object_get(opts, "encrypt.format") ||
                        json_object_get(opts, "encryption"))) {
        img_error(c->im, "Compression and encryption not supported at the same time");
        return false;
    }
    if (c->compress && json_object_get(opts, "data_file")) {
        img_error(c->im, "Compression not supported with an external data file");
        return false;
    }
    if (c->no_create && json_object_size(opts)) {
        fprintf(stderr, "%s: warning: -o has no effect when skipping image creation\n",
                c->im->prog);
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

static bool open_target(struct convert *c, json_t *opts)
{
    if (!judge_bitmaps(c)) {
        return false;
    }
    unsigned flags = IMG_RW | (c->target_image_opts ? IMG_IMAGE_OPTS : 0);
    if (!judge_options(c, opts) || (!c->no_create && !create_target(c, opts))) {
        return false;
    }
    if (!c->backing) {
        flags |= c->no_create ? 0 : IMG_NO_BACKING;
    }
    c->target =
        img_open_new(c->im, c->target_name, c->target_image_opts ? NULL : c->out_format,
                     flags, c->cache, c->no_create ? NULL : opts);
    if (!c->target) {
        return false;
    }
    c->compress |= blk_chunks_only(c->target);
    if (c->compress && !blk_chunk(c->target)) {
        img_error(c->im, "Compression not supported for this file format");
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
        .target_is_zero = c->target_is_zero ||
                          (!c->no_create && !backing && blk_new_is_zero(c->target)),
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

static int convert(struct convert *c, char **names, unsigned n)
{
    json_t *opts = json_object();
    bool ok = img_parse_options(c->im, c->options, opts, &c->help);
    int code = 1;
    if (ok && c->help) {
        code = img_create_help(c->im, c->out_format, n ? names[n - 1] : NULL);
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
    if (!parse_size(text, 1, &n, NULL) || n % 512 || n > INT32_MAX) {
        img_error(c->im, "Invalid buffer size for sparse output specified. Valid sizes "
                         "are multiples of 512 up to 2147483136. Select 0 to disable "
                         "sparse detection (fully allocates output).");
        return false;
    }
    c->sparse = n;
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
    case 'C': break; /* copy offloading is the data path's own decision */
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

static bool judge(struct convert *c)
{
    if (c->skip_broken && !c->bitmaps) {
        img_error(c->im, "Use of --skip-broken-bitmaps requires --bitmaps");
        return false;
    }
    if (c->target_image_opts && !c->no_create) {
        img_error(c->im, "--target-image-opts requires use of -n flag");
        return false;
    }
    if (c->target_is_zero && !c->no_create) {
        img_error(c->im, "--target-is-zero requires use of -n flag");
        return false;
    }
    if (!img_parse_cache(c->cache, NULL)) {
        img_error(c->im, "Invalid cache option: %s", c->cache);
        return false;
    }
    if (!img_parse_cache(c->src_cache, NULL)) {
        img_error(c->im, "Invalid source cache option: %s", c->src_cache);
        return false;
    }
    return true;
}

int img_convert(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"source-format", required_argument, 0, 'f'},
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
    struct convert c = {.im = im,
                        .out_format = "raw",
                        .cache = "unsafe",
                        .src_cache = "writeback",
                        .sparse = 4096};
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
    if (!judge(&c)) {
        return 1;
    }
    return convert(&c, argv + optind, (unsigned)(argc - optind));
}
