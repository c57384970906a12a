#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/describe.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"

/* info: everything comes from one object (blk_info), printed as JSON or as text. */

static const char *text_of(json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static void print_info(json_t *o, const GArray *snapshots)
{
    uint64_t length = (uint64_t)json_integer_value(json_object_get(o, "virtual-size"));
    json_t *used = json_object_get(o, "actual-size");
    json_t *cluster = json_object_get(o, "cluster-size");
    const char *backing = text_of(o, "backing-filename");
    const char *full = text_of(o, "full-backing-filename");
    g_autofree char *size = img_human_size(length);
    g_autofree char *disk = used ? img_human_size((uint64_t)json_integer_value(used))
                                 : g_strdup("unavailable");
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64
           " bytes)\ndisk size: %s\n",
           text_of(o, "filename"), text_of(o, "format"), size, length, disk);
    if (json_is_true(json_object_get(o, "encrypted"))) {
        printf("encrypted: yes\n");
    }
    if (cluster) {
        printf("cluster_size: %" JSON_INTEGER_FORMAT "\n", json_integer_value(cluster));
    }
    if (json_is_true(json_object_get(o, "dirty-flag"))) {
        printf("cleanly shut down: no\n");
    }
    if (backing) {
        printf("backing file: %s", backing);
        if (!full) {
            printf(" (cannot determine actual path)");
        } else if (strcmp(backing, full) != 0) {
            printf(" (actual path: %s)", full);
        }
        printf("\n");
    }
    if (text_of(o, "backing-filename-format")) {
        printf("backing file format: %s\n", text_of(o, "backing-filename-format"));
    }
    if (snapshots->len) {
        printf("Snapshot list:\n");
        img_print_snapshots(snapshots);
    }
    json_t *data = json_object_get(json_object_get(o, "format-specific"), "data");
    if (data) {
        printf("Format specific information:\n");
        describe_members(data, 1);
    }
}

struct node {
    json_t *info;
    GArray *snapshots;
};

static void free_node(void *p)
{
    struct node *n = p;
    json_decref(n->info);
    g_array_free(n->snapshots, TRUE);
    g_free(n);
}

/* One image; *ret_next gets its backing file, *ret_format its format. */
static struct node *examine(struct img *im, const char *name, const char *format,
                            unsigned flags)
{
    GError *error = NULL;
    struct blk *b = img_open(im, name, format,
                             flags | IMG_NO_BACKING | IMG_NO_IO | IMG_CHECK, NULL);
    if (!b) {
        return NULL;
    }
    struct node *n = g_new0(struct node, 1);
    g_autofree char *called = img_image_name(name, blk_get_driver_name(b), flags);
    n->info = blk_info(b, called, &error);
    n->snapshots = blk_snapshots(b);
    blk_unref(b);
    return n;
}

static GPtrArray *examine_chain(struct img *im, const char *first, const char *format,
                                unsigned flags, bool chain)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(free_node);
    g_autoptr(GHashTable) seen =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *name = g_strdup(first), *fmt = g_strdup(format);
    while (name) {
        if (!g_hash_table_add(seen, g_strdup(name))) {
            img_error(im, "Backing file '%s' creates an infinite loop.", name);
            g_ptr_array_free(list, TRUE);
            return NULL;
        }
        struct node *n = examine(im, name, fmt, flags);
        if (!n) {
            g_ptr_array_free(list, TRUE);
            return NULL;
        }
        g_ptr_array_add(list, n);
        flags &= ~(unsigned)IMG_IMAGE_OPTS;
        g_clear_pointer(&name, g_free);
        g_clear_pointer(&fmt, g_free);
        if (chain) {
            name = g_strdup(text_of(n->info, "full-backing-filename"));
            fmt = g_strdup(text_of(n->info, "backing-filename-format"));
        }
    }
    return list;
}

static void print_chain(GPtrArray *list, bool json, bool chain)
{
    if (json && chain) {
        json_t *all = json_array();
        for (unsigned i = 0; i < list->len; i++) {
            json_array_append(all, ((struct node *)list->pdata[i])->info);
        }
        img_print_json(all);
        json_decref(all);
        return;
    }
    for (unsigned i = 0; i < list->len; i++) {
        struct node *n = list->pdata[i];
        if (json) {
            img_print_json(n->info);
        } else {
            printf("%s", i ? "\n" : "");
            print_info(n->info, n->snapshots);
        }
    }
}

int img_info(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"output", required_argument, 0, OPT_OUTPUT},
        {"backing-chain", no_argument, 0, OPT_BACKING_CHAIN},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {0},
    };
    const char *format = NULL;
    const char *output = NULL;
    bool json = false, chain = false;
    unsigned flags = 0;
    for (int c; (c = img_getopt(im, argc, argv, "hf:U", longs)) != -1;) {
        switch (c) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'U': flags |= IMG_FORCE_SHARE; break;
        case OPT_OUTPUT: output = optarg; break;
        case OPT_BACKING_CHAIN: chain = true; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    if (!img_parse_output(im, output, &json)) {
        return 1;
    }
    g_autoptr(GPtrArray) list = examine_chain(im, argv[optind], format, flags, chain);
    if (!list) {
        return 1;
    }
    print_chain(list, json, chain);
    return 0;
}
