#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/* map: neighbouring extents that say the same are one line. */

struct entry {
    uint64_t start, len;
    struct blk_status s;
};

static const char *yes_no(bool on)
{
    return on ? "true" : "false";
}

static bool print_entry(const struct img *im, const struct entry *e,
                        const struct entry *next, bool json)
{
    bool data = e->s.flags & BLK_STATUS_DATA, zero = e->s.flags & BLK_STATUS_ZERO;
    bool placed = e->s.flags & BLK_STATUS_OFFSET;
    if (!json) {
        if (data && !placed) {
            img_error(im, "File contains external, encrypted or compressed clusters.");
            return false;
        }
        if (data && !zero) {
            printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start,
                   e->len, e->s.file_offset, blk_get_filename(e->s.file));
        }
        return true;
    }
    printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
           e->start, e->len, e->s.depth, yes_no(e->s.flags & BLK_STATUS_ALLOCATED),
           yes_no(zero), yes_no(data));
    if (placed) {
        printf(", \"offset\": %" PRIu64, e->s.file_offset);
    }
    printf("}%s", next ? ",\n" : "");
    return true;
}

static bool mergeable(const struct entry *e, const struct blk_status *s)
{
    unsigned mask =
        BLK_STATUS_DATA | BLK_STATUS_ZERO | BLK_STATUS_ALLOCATED | BLK_STATUS_OFFSET;
    return (e->s.flags & mask) == (s->flags & mask) && e->s.depth == s->depth &&
           (!(s->flags & BLK_STATUS_OFFSET) ||
            (e->s.file == s->file && e->s.file_offset + e->len == s->file_offset));
}

static int map_image(struct img *im, struct blk *b, uint64_t from, uint64_t len,
                     bool json)
{
    uint64_t length = blk_length(b);
    uint64_t end = from > length ? from : from + MIN(len, length - from);
    struct entry e = {.start = from};
    if (!json) {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    } else {
        printf("[");
    }
    for (uint64_t at = from; at < end;) {
        struct blk_status s;
        int r = blk_map_at(b, at, MIN(end - at, GIB), &s);
        if (r < 0) {
            img_error(im, "Failed to read image metadata: %s", g_strerror(-r));
            return 1;
        }
        if (e.len && mergeable(&e, &s)) {
            e.len += s.len;
        } else {
            struct entry next = {at, s.len, s};
            if (e.len && !print_entry(im, &e, &next, json)) {
                return 1;
            }
            e = next;
        }
        at += s.len;
    }
    bool ok = print_entry(im, &e, NULL, json); /* of an empty disk, too */
    if (json) {
        printf("]\n");
    }
    return ok ? 0 : 1;
}

int img_map(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"output", required_argument, 0, OPT_OUTPUT},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"start-offset", required_argument, 0, 's'},
        {"max-length", required_argument, 0, 'l'},
        {0},
    };
    const char *format = NULL;
    const char *output = NULL;
    bool json = false;
    uint64_t start = 0, most = UINT64_MAX;
    unsigned flags = 0;
    for (int c; (c = img_getopt(im, argc, argv, "f:s:l:hU", longs)) != -1;) {
        switch (c) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format = optarg; break;
        case 'U': flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        case OPT_OUTPUT: output = optarg; break;
        case 's':
            if (!img_parse_size(im, "start offset", optarg, &start)) {
                return 1;
            }
            break;
        case 'l':
            if (!img_parse_size(im, "max length", optarg, &most)) {
                return 1;
            }
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
    struct blk *b = img_open(im, argv[optind], format, flags, NULL);
    if (!b) {
        return 1;
    }
    int code = map_image(im, b, start, most, json);
    blk_unref(b);
    return code;
}
