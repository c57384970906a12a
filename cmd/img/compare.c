#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/* compare: exit codes 0 alike, 1 different, 2 not opened, 3 no status, 4 not read. */

enum { CHUNK = 2 * 1024 * 1024, CODE_OPEN = 2, CODE_STATUS = 3, CODE_READ = 4 };

struct compare {
    struct img *im;
    struct blk *b[2];
    const char *name[2];
    uint64_t len[2];
    uint8_t *buf[2];
    bool strict;
    struct img_progress progress;
};

static int status_of(struct compare *c, unsigned i, uint64_t at, uint64_t len,
                     struct blk_status *ret)
{
    int r = blk_map_at(c->b[i], at, len, ret);
    if (r < 0) {
        img_error(c->im, "Sector allocation test failed for %s", c->name[i]);
    }
    return r;
}

static int read_of(struct compare *c, unsigned i, uint64_t at, uint64_t len)
{
    int r = blk_pread(c->b[i], at, c->buf[i], len);
    if (r < 0) {
        img_error(c->im, "Error while reading offset %" PRIu64 " of %s: %s", at,
                  c->name[i], g_strerror(-r));
    }
    return r;
}

/* Where the buffers differ first, by sectors as reports have it; @len when nowhere. */
static uint64_t difference(const uint8_t *a, const uint8_t *b, uint64_t len)
{
    if (memcmp(a, b, len) == 0) {
        return len;
    }
    uint64_t at = 0;
    while (memcmp(a + at, b + at, MIN(len - at, (uint64_t)512)) == 0) {
        at += 512;
    }
    while (a[at] == b[at]) {
        at++;
    }
    return at;
}

/* Zeros are expected from @i. */
static int compare_zero(struct compare *c, unsigned i, uint64_t at, uint64_t len)
{
    while (len > 0) {
        uint64_t n = MIN(len, (uint64_t)CHUNK);
        if (read_of(c, i, at, n) < 0) {
            return CODE_READ;
        }
        if (!img_is_zero(c->buf[i], n)) {
            uint64_t d = 0;
            while (c->buf[i][d] == 0) {
                d++;
            }
            img_say(c->im, "Content mismatch at offset %" PRIu64 "!\n", at + d);
            return 1;
        }
        at += n;
        len -= n;
    }
    return 0;
}

static int compare_data(struct compare *c, uint64_t at, uint64_t len)
{
    while (len > 0) {
        uint64_t n = MIN(len, (uint64_t)CHUNK);
        if (read_of(c, 0, at, n) < 0 || read_of(c, 1, at, n) < 0) {
            return CODE_READ;
        }
        uint64_t d = difference(c->buf[0], c->buf[1], n);
        if (d < n) {
            img_say(c->im, "Content mismatch at offset %" PRIu64 "!\n", at + d);
            return 1;
        }
        at += n;
        len -= n;
    }
    return 0;
}

static int compare_both(struct compare *c, uint64_t end)
{
    for (uint64_t at = 0; at < end;) {
        struct blk_status s[2];
        if (status_of(c, 0, at, end - at, &s[0]) < 0 ||
            status_of(c, 1, at, end - at, &s[1]) < 0) {
            return CODE_STATUS;
        }
        uint64_t n = MIN(MIN(s[0].len, s[1].len), 64 * MIB);
        bool zero[2] = {s[0].flags & BLK_STATUS_ZERO, s[1].flags & BLK_STATUS_ZERO};
        unsigned kinds = BLK_STATUS_ZERO | BLK_STATUS_DATA | BLK_STATUS_ALLOCATED;
        if (c->strict && (s[0].flags & kinds) != (s[1].flags & kinds)) {
            img_say(c->im, "Strict mode: Offset %" PRIu64 " block status mismatch!\n",
                    at);
            return 1;
        }
        int r = zero[0] && zero[1] ? 0
                : zero[0]          ? compare_zero(c, 1, at, n)
                : zero[1]          ? compare_zero(c, 0, at, n)
                                   : compare_data(c, at, n);
        if (r) {
            return r;
        }
        at += n;
        img_progress_at(&c->progress,
                        100.0 * (double)at / (double)MAX(c->len[0], c->len[1]));
    }
    return 0;
}

/* What only the longer one has must be zero. */
static int compare_rest(struct compare *c, unsigned longer, uint64_t from)
{
    for (uint64_t at = from; at < c->len[longer];) {
        struct blk_status s;
        if (status_of(c, longer, at, c->len[longer] - at, &s) < 0) {
            return CODE_STATUS;
        }
        if (!(s.flags & BLK_STATUS_ZERO)) {
            int r = compare_zero(c, longer, at, s.len);
            if (r) {
                return r;
            }
        }
        at += s.len;
    }
    return 0;
}

static int compare(struct compare *c)
{
    c->len[0] = blk_length(c->b[0]);
    c->len[1] = blk_length(c->b[1]);
    uint64_t both = MIN(c->len[0], c->len[1]);
    if (c->strict && c->len[0] != c->len[1]) {
        img_say(c->im, "Strict mode: Image size mismatch!\n");
        return 1;
    }
    int r = compare_both(c, both);
    if (r == 0 && c->len[0] != c->len[1]) {
        img_say(c->im, "Warning: Image size mismatch!\n");
        r = compare_rest(c, c->len[1] > c->len[0], both);
    }
    if (r == 0) {
        img_say(c->im, "Images are identical.\n");
    }
    return r;
}

int img_compare(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    struct compare c = {.im = im};
    const char *format[2] = {NULL, NULL}, *cache = "writeback";
    unsigned flags = 0;
    bool progress = false;
    for (int o; (o = img_getopt(im, argc, argv, "hf:F:T:pqsU", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'f': format[0] = optarg; break;
        case 'F': format[1] = optarg; break;
        case 'T': cache = optarg; break;
        case 'p': progress = true; break;
        case 'q': im->quiet = true; break;
        case 's': c.strict = true; break;
        case 'U': flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (optind != argc - 2) {
        img_usage(im, "Expecting two image file names");
        return 1;
    }
    if (!img_parse_cache(cache, NULL)) {
        img_error(im, "Invalid source cache option: %s", cache);
        return CODE_OPEN;
    }
    int code = CODE_OPEN;
    for (unsigned i = 0; i < 2; i++) {
        c.name[i] = argv[optind + (int)i];
        c.b[i] = img_open(im, c.name[i], format[i], flags, cache);
        c.buf[i] = g_malloc(CHUNK);
        if (!c.b[i]) {
            goto out;
        }
    }
    img_progress_start(&c.progress, progress && !im->quiet);
    code = compare(&c);
    img_progress_end(&c.progress);
out:
    for (unsigned i = 0; i < 2; i++) {
        blk_unref(c.b[i]);
        g_free(c.buf[i]);
    }
    return code;
}
