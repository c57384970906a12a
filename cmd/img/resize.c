#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/* resize: to a size, or by one. */

static bool parse_amount(struct img *im, const char *text, uint64_t *ret)
{
    GError *error = NULL;
    *ret = 0;
    if (parse_size(text, 1, ret, &error)) {
        return true;
    }
    if (g_str_has_suffix(error->message, "is too large")) {
        img_error(im, "Value '%s' is out of range for parameter 'size'", text);
    } else {
        img_error(im, "Parameter 'size' expects a non-negative number below 2^64\n"
                      "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
                      "tera-, peta-\nand exabytes, respectively.");
    }
    g_error_free(error);
    return false;
}

/* The new size, 0 when it was reported. */
static uint64_t judge_size(struct img *im, uint64_t old, char sign, uint64_t n)
{
    uint64_t size = n;
    if (sign == '-') {
        size = n > old ? 0 : old - n;
    } else if (sign == '+' && __builtin_add_overflow(old, n, &size)) {
        size = 0;
    }
    if (size == 0 || size > INT64_MAX) {
        img_error(im, "New image size must be positive");
        return 0;
    }
    return size;
}

static int resize(struct img *im, struct blk *b, char sign, uint64_t n,
                  const char *prealloc, bool shrink)
{
    GError *error = NULL;
    uint64_t old = blk_length(b), size = judge_size(im, old, sign, n);
    if (!size) {
        return 1;
    }
    if (size <= old && !g_str_equal(prealloc, "off")) {
        img_error(im, "Preallocation can only be used for growing images");
        return 1;
    }
    if (size < old && !shrink) {
        fprintf(stderr,
                "%s: Use the --shrink option to perform a shrink operation.\n"
                "%s: warning: Shrinking an image will delete all data beyond the "
                "shrunken image's end. Before performing such an operation, make sure "
                "there is no important data there.\n",
                im->prog, im->prog);
        return 1;
    }
    const char *driver = blk_get_driver_name(b);
    if (size % 512 && (g_str_equal(driver, "qcow2") || g_str_equal(driver, "qed"))) {
        img_error(im, "%s",
                  g_str_equal(driver, "qcow2")
                      ? "The new size must be a multiple of 512"
                      : "Invalid image size specified");
        return 1;
    }
    size = MIN(ALIGN_UP(size, 512), ALIGN_DOWN((uint64_t)INT64_MAX, 512));
    enum blk_prealloc mode = g_str_equal(prealloc, "full")       ? BLK_PREALLOC_FULL
                             : g_str_equal(prealloc, "falloc")   ? BLK_PREALLOC_FALLOC
                             : g_str_equal(prealloc, "metadata") ? BLK_PREALLOC_METADATA
                                                                 : BLK_PREALLOC_OFF;
    if (!blk_truncate(b, size, mode, &error)) {
        img_report(im, error, "%s", "");
        return 1;
    }
    img_say(im, "Image resized.\n");
    return 0;
}

int img_resize(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"preallocation", required_argument, 0, OPT_PREALLOCATION},
        {"shrink", no_argument, 0, OPT_SHRINK},
        {"format", required_argument, 0, 'f'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *prealloc = "off";
    unsigned flags = IMG_RW;
    bool shrink = false;
    if (argc < 3) {
        return img_usage(im, "Not enough arguments");
    }
    char *size = argv[--argc]; /* before getopt takes "-1G" for options */
    for (int o; (o = img_getopt(im, argc, argv, "f:hq", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'q': im->quiet = true; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        case OPT_SHRINK: shrink = true; break;
        case OPT_PREALLOCATION:
            prealloc = optarg;
            if (strcmp(optarg, "off") && strcmp(optarg, "metadata") &&
                strcmp(optarg, "falloc") && strcmp(optarg, "full")) {
                img_error(im, "Invalid preallocation mode '%s'", optarg);
                return 1;
            }
            break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting image file name and size");
    }
    char sign = *size == '+' || *size == '-' ? *size++ : 0;
    uint64_t n;
    if (!parse_amount(im, size, &n)) {
        return 1;
    }
    struct blk *b = img_open(im, argv[optind], format, flags, NULL);
    if (!b) {
        return 1;
    }
    int code = resize(im, b, sign, n, prealloc, shrink);
    return img_close(im, b) ? code : 1;
}
