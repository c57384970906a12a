#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/* check: exit codes 0 sound, 1 not finished, 2 errors, 3 leaks only, 63 no check. */

enum { CODE_FAILED = 1, CODE_ERRORS = 2, CODE_LEAKS = 3, CODE_NO_CHECK = 63 };

static void tell(void *opaque, bool error, const char *line)
{
    const struct img *im = opaque;
    /* qemu-img's vhdx speaks with the program's name in front, the others do not. */
    bool named = g_str_has_prefix(line, "VHDX ");
    fflush(stdout);
    fprintf(stderr, "%s%s%s\n", named ? im->prog : "", named ? ": " : "", line);
}

static void put(json_t *o, const char *key, uint64_t v, bool always)
{
    if (v || always) {
        json_object_set_new(o, key, json_integer((json_int_t)v));
    }
}

static void print_json(const char *filename, const char *format,
                       const struct blk_check_result *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "filename", json_string_nocheck(filename));
    json_object_set_new(o, "format", json_string(format));
    put(o, "check-errors", r->check_errors, true);
    put(o, "image-end-offset", r->image_end_offset, false);
    put(o, "corruptions", r->corruptions, false);
    put(o, "leaks", r->leaks, false);
    put(o, "corruptions-fixed", r->corruptions_fixed, false);
    put(o, "leaks-fixed", r->leaks_fixed, false);
    put(o, "total-clusters", r->total_clusters, false);
    put(o, "allocated-clusters", r->allocated_clusters, false);
    put(o, "fragmented-clusters", r->fragmented_clusters, false);
    put(o, "compressed-clusters", r->compressed_clusters, false);
    img_print_json(o);
    json_decref(o);
}

static void print_text(const struct img *im, const struct blk_check_result *r)
{
    if (!r->corruptions && !r->leaks && !r->check_errors) {
        img_say(im, "No errors were found on the image.\n");
    }
    if (r->corruptions) {
        img_say(im,
                "\n%" PRIu64 " errors were found on the image.\nData may be corrupted, "
                "or further writes to the image may corrupt it.\n",
                r->corruptions);
    }
    if (r->leaks) {
        img_say(im,
                "\n%" PRIu64 " leaked clusters were found on the image.\nThis means "
                "waste of disk space, but no harm to data.\n",
                r->leaks);
    }
    if (r->check_errors) {
        img_say(im, "\n%" PRIu64 " internal errors have occurred during the check.\n",
                r->check_errors);
    }
    if (r->total_clusters && r->allocated_clusters) {
        double used = (double)r->allocated_clusters;
        img_say(im,
                "%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
                "%0.2f%% compressed clusters\n",
                r->allocated_clusters, r->total_clusters,
                used * 100.0 / (double)r->total_clusters,
                (double)r->fragmented_clusters * 100.0 / used,
                (double)r->compressed_clusters * 100.0 / used);
    }
    if (r->image_end_offset) {
        img_say(im, "Image end offset: %" PRIu64 "\n", r->image_end_offset);
    }
}

/* Check, and once more when something was repaired. */
static int check_twice(struct img *im, struct blk *b, unsigned fix, bool json,
                       struct blk_check_result *ret)
{
    struct blk_check c = {.fix = fix, .report = tell, .opaque = im};
    int r = blk_check(b, &c);
    *ret = c.result;
    uint64_t corruptions = c.result.corruptions_fixed, leaks = c.result.leaks_fixed;
    if (r < 0 || (!corruptions && !leaks)) {
        return r;
    }
    if (!json) {
        img_say(im,
                "The following inconsistencies were found and repaired:\n\n"
                "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
                "Double checking the fixed image now...\n",
                leaks, corruptions);
    }
    c.fix = 0;
    r = blk_check(b, &c);
    *ret = c.result;
    ret->corruptions_fixed = corruptions;
    ret->leaks_fixed = leaks;
    return r;
}

static int check_image(struct img *im, struct blk *b, const char *filename,
                       unsigned fix, bool json)
{
    struct blk_check_result res;
    int r = check_twice(im, b, fix, json, &res);
    if (r == -ENOTSUP) {
        img_error(im, "This image format does not support checks");
        return CODE_NO_CHECK;
    }
    if (r < 0) {
        img_error(im, "Check failed: %s", g_strerror(-r));
        return CODE_FAILED;
    }
    if (json) {
        print_json(filename, blk_get_driver_name(b), &res);
    } else {
        print_text(im, &res);
    }
    return res.corruptions    ? CODE_ERRORS
           : res.leaks        ? CODE_LEAKS
           : res.check_errors ? CODE_FAILED
                              : 0;
}

int img_check(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"repair", required_argument, 0, 'r'},
        {"output", required_argument, 0, OPT_OUTPUT},
        {"cache", required_argument, 0, 'T'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *cache = "writeback";
    const char *output = NULL;
    bool json = false;
    unsigned flags = IMG_CHECK, fix = 0;
    for (int c; (c = img_getopt(im, argc, argv, "hf:r:T:qU", longs)) != -1;) {
        switch (c) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'T': cache = optarg; break;
        case 'q': im->quiet = true; break;
        case 'U': flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        case OPT_OUTPUT: output = optarg; break;
        case 'r':
            if (!strcmp(optarg, "leaks")) {
                fix = BLK_FIX_LEAKS;
            } else if (!strcmp(optarg, "all")) {
                fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS;
            } else {
                return img_usage(
                    im, "Unknown option value for -r (expecting 'leaks' or 'all'): %s",
                    optarg);
            }
            flags |= IMG_RW;
            break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    if (!img_parse_output(im, output, &json)) {
        return 1;
    }
    if (!img_parse_cache(cache, NULL)) {
        img_error(im, "Invalid source cache option: %s", cache);
        return 1;
    }
    struct blk *b = img_open(im, argv[optind], format, flags, cache);
    if (!b) {
        return 1;
    }
    int code = check_image(im, b, argv[optind], fix, json);
    return img_close(im, b) ? code : 1;
}
