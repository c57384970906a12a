#include <stdio.h>
#include <string.h>

#include "block/driver.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"

/* amend: change options of an image that exists. */

static void tell(void *opaque, uint64_t done, uint64_t total)
{
    img_progress_at(opaque, 100.0 * (double)done / (double)MAX(total, 1));
}

static int amend(struct img *im, struct blk *b, json_t *opts, bool force, bool help,
                 bool progress)
{
    const struct blk_option *table = blk_amend_options(b);
    struct img_progress p;
    GError *error = NULL;
    if (!table) {
        img_error(im, "Format driver '%s' does not support option amendment",
                  blk_get_driver_name(b));
        return 1;
    }
    if (help) {
        g_autofree char *title =
            g_strdup_printf("Amend options for '%s':", blk_get_driver_name(b));
        img_print_options(title, table, NULL);
        return 0;
    }
    img_progress_start(&p, progress && !im->quiet);
    struct blk_progress told = {.at = tell, .opaque = &p};
    bool ok = blk_amend(b, opts, force, &told, &error);
    if (ok) {
        img_progress_at(&p, 100);
    }
    img_progress_end(&p);
    if (!ok) {
        img_report(im, error, "%s", "");
    }
    return ok ? 0 : 1;
}

/* Help for a format needs no image. */
static int amend_help(struct img *im, const char *format)
{
    for (size_t i = 0; format && blk_formats[i]; i++) {
        const struct blk_amend_ops *ops = blk_formats[i]->amendable;
        if (g_str_equal(blk_formats[i]->name, format) && ops && ops->amend) {
            g_autofree char *title = g_strdup_printf("Amend options for '%s':", format);
            img_print_options(title, ops->options, NULL);
            return 0;
        }
    }
    if (format && blk_is_driver(format)) {
        img_error(im, "Format driver '%s' does not support option amendment", format);
    } else if (format) {
        img_error(im, "Unknown file format '%s'", format);
    } else {
        img_error(im, "Expecting one image file name");
    }
    return 1;
}

int img_amend(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force", no_argument, 0, OPT_FORCE},
        {"format", required_argument, 0, 'f'},
        {"options", required_argument, 0, 'o'},
        {"cache", required_argument, 0, 't'},
        {"progress", no_argument, 0, 'p'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *format = NULL, *cache = "writeback";
    GSList *texts = NULL;
    unsigned flags = IMG_RW;
    bool force = false, help = false, progress = false;
    for (int o; (o = img_getopt(im, argc, argv, "ho:f:t:pq", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'o': texts = g_slist_append(texts, optarg); break;
        case 'f': format = optarg; break;
        case 't': cache = optarg; break;
        case 'p': progress = true; break;
        case 'q': im->quiet = true; break;
        case OPT_FORCE: force = true; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (!texts) {
        return img_usage(im, "Must specify options (-o)");
    }
    json_t *opts = json_object();
    struct blk *b = NULL;
    int code = 1;
    if (!img_parse_options(im, texts, opts, &help)) {
        goto out;
    }
    if (help && (optind == argc || (format && !blk_is_driver(format)))) {
        code = amend_help(im, format);
        goto out;
    }
    if (optind != argc - 1) {
        img_error(im, "Expecting one image file name");
        goto out;
    }
    if (!img_parse_cache(cache, NULL)) {
        img_error(im, "Invalid cache option: %s", cache);
        goto out;
    }
    b = img_open(im, argv[optind], format, flags, cache);
    if (b) {
        code = amend(im, b, opts, force, help, progress);
        code = img_close(im, b) ? code : 1;
    }
out:
    g_slist_free(texts);
    json_decref(opts);
    return code;
}
