#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/driver.h"
#include "block/options.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"
#include "lib/secret/secret.h"

/* measure: how large a file would be, for a size or for what an image holds. */

/* Pieces of @cluster bytes that hold anything but zeros, as far as the status says. */
static int64_t used_clusters(void *opaque, uint64_t cluster)
{
    struct blk *b = opaque;
    uint64_t length = blk_length(b);
    int64_t used = 0;
    uint64_t counted = 0; /* end of the last cluster counted */
    for (uint64_t at = 0; at < length;) {
        struct blk_status s;
        int r = blk_map_at(b, at, length - at, &s);
        if (r < 0) {
            return r;
        }
        if ((s.flags & BLK_STATUS_DATA) && !(s.flags & BLK_STATUS_ZERO)) {
            uint64_t from = MAX(ALIGN_DOWN(at, cluster), counted);
            uint64_t to = ALIGN_UP(at + s.len, cluster);
            if (to > from) {
                used += (int64_t)((to - from) / cluster);
                counted = to;
            }
        }
        at += s.len;
    }
    return used;
}

static int64_t nothing(void *opaque, uint64_t cluster)
{
    return 0;
}

struct measure {
    struct img *im;
    const char *format, *out_format, *snapshot, *size;
    GSList *options;
    unsigned flags;
    bool json;
    bool has_bitmaps; /* of source and target; then their bytes */
    uint64_t bitmaps;
};

static struct blk *open_source(struct measure *m, const char *name)
{
    struct blk *b = img_open(m->im, name, m->format, m->flags, NULL);
    if (b && m->snapshot && !img_load_snapshot(m->im, b, m->snapshot)) {
        blk_unref(b);
        return NULL;
    }
    return b;
}

/* What the bitmaps of @b would take in an image with clusters of @cluster bytes, each
 * full: bits, table of their clusters, directory. */
static uint64_t bitmaps_size(struct blk *b, uint64_t cluster)
{
    g_autoptr(GArray) all = blk_bitmaps(b);
    uint64_t total = 0, directory = 0;
    for (unsigned i = 0; i < all->len; i++) {
        const struct blk_bitmap *m = &g_array_index(all, struct blk_bitmap, i);
        uint64_t bits = (blk_length(b) + m->granularity - 1) / m->granularity;
        uint64_t bytes = ALIGN_UP((bits + 7) / 8, cluster);
        total += bytes + ALIGN_UP(bytes / cluster * 8, cluster);
        directory += ALIGN_UP(24 + strlen(m->name), 8);
    }
    return total + ALIGN_UP(directory, cluster);
}

static bool is_version_3(json_t *opts)
{
    const char *compat = blk_opt_str(opts, "compat", "v3");
    return !g_str_equal(compat, "0.10") && !g_str_equal(compat, "v2");
}

static void print(const struct measure *m, const struct blk_measure *r)
{
    if (m->json) {
        json_t *o = json_object();
        json_object_set_new(o, "required", json_integer((json_int_t)r->required));
        json_object_set_new(o, "fully-allocated", json_integer((json_int_t)r->full));
        if (m->has_bitmaps) {
            json_object_set_new(o, "bitmaps", json_integer((json_int_t)m->bitmaps));
        }
        img_print_json(o);
        json_decref(o);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
               r->required, r->full);
        if (m->has_bitmaps) {
            printf("bitmaps size: %" PRIu64 "\n", m->bitmaps);
        }
    }
}

static int measure(struct measure *m, const char *name)
{
    struct blk_create_tables t;
    GError *error = NULL;
    struct blk_measure result;
    bool help = false;
    struct blk *b = NULL;
    json_t *opts = json_object();
    int code = 1;
    uint64_t size = 0;
    if (!img_parse_options(m->im, m->options, opts, &help)) {
        goto out;
    }
    if (m->size && !img_parse_size(m->im, "image size", m->size, &size)) {
        goto out;
    }
    if (name && !(b = open_source(m, name))) {
        goto out;
    }
    if (!blk_create_options(m->out_format, NULL, &t, &error)) {
        img_report(m->im, error, "%s", "");
        goto out;
    }
    json_object_set_new(opts, "size",
                        json_integer((json_int_t)(b ? blk_length(b) : size)));
    struct blk_measure_source src = {b ? used_clusters : nothing, b};
    if (!blk_create_prepare(&t, opts, &error)) {
        img_report(m->im, error, "%s", "");
        img_error(m->im, "Invalid options for file format '%s'", m->out_format);
        goto out;
    }
    bool luks = g_str_equal(m->out_format, "luks");
    const char *key_name = luks ? "key-secret" : "encrypt.key-secret";
    const char *key = json_string_value(json_object_get(opts, key_name));
    if ((luks || json_object_get(opts, "encrypt.format")) && !key) {
        img_error(m->im, "Parameter '%s' is required for cipher", key_name);
        goto out;
    }
    if (key && !secrets_get(m->im->secrets, key, &error)) {
        img_report(m->im, error, "%s", "");
        goto out;
    }
    /* With a backing file nothing is left out: it might hide what is there. */
    if (json_object_get(opts, "backing_file") && b) {
        src.clusters = NULL;
    }
    if (!blk_measure(m->out_format, opts, &src, &result, &error)) {
        img_report(m->im, error, "%s", "");
        goto out;
    }
    m->has_bitmaps = b && blk_has_bitmaps(b) && g_str_equal(m->out_format, "qcow2") &&
                     is_version_3(opts);
    if (m->has_bitmaps) {
        m->bitmaps = bitmaps_size(b, blk_opt_u64(opts, "cluster_size", 65536));
    }
    print(m, &result);
    code = 0;
out:
    json_decref(opts);
    blk_unref(b);
    return code;
}

int img_measure(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"format", required_argument, 0, 'f'},
        {"snapshot", required_argument, 0, 'l'},
        {"target-format", required_argument, 0, 'O'},
        {"options", required_argument, 0, 'o'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"output", required_argument, 0, OPT_OUTPUT},
        {"size", required_argument, 0, OPT_SIZE},
        {"force-share", no_argument, 0, 'U'},
        {0},
    };
    struct measure m = {.im = im, .out_format = "raw"};
    const char *output = NULL;
    for (int o; (o = img_getopt(im, argc, argv, "hf:l:o:O:U", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': m.format = optarg; break;
        case 'l': m.snapshot = optarg; break;
        case 'o': m.options = g_slist_append(m.options, optarg); break;
        case 'O': m.out_format = optarg; break;
        case 'U': m.flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: m.flags |= IMG_IMAGE_OPTS; break;
        case OPT_SIZE: m.size = optarg; break;
        case OPT_OUTPUT: output = optarg; break;
        default: break;
        }
    }
    const char *name = optind < argc ? argv[optind] : NULL;
    if (!img_parse_output(im, output, &m.json)) {
        return 1;
    }
    if (argc - optind > 1) {
        img_error(im, "At most one filename argument is allowed.");
        return 1;
    }
    if (!name && (m.format || m.snapshot || (m.flags & IMG_IMAGE_OPTS))) {
        img_error(im, "--image-opts, -f, and -l require a filename argument.");
        return 1;
    }
    if (!name && !m.size) {
        img_error(im, "Either --size N or one filename must be specified.");
        return 1;
    }
    if (name && m.size) {
        img_error(im, "--size N cannot be used together with a filename.");
        return 1;
    }
    int code = measure(&m, name);
    g_slist_free(m.options);
    return code;
}
