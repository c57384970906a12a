#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/img/img.h"
#include "cmd/img/pipe.h"
#include "lib/base/base.h"

/* compare: exit codes 0 alike, 1 different, 2 not opened, 3 no status, 4 not read. */

enum { CODE_OPEN = 2, CODE_STATUS = 3, CODE_READ = 4 };

/* Memory of a piece: so much of each image, one behind the other. */
enum { PIECE = 512 * 1024 };

/* What a piece must be: all zeros in both (nothing to do), in image 0 or 1 where the
 * other has zeros, the same bytes; or it is known to be wrong. */
enum piece_kind { ALIKE, ZERO_IN_0, ZERO_IN_1, SAME_DATA, OTHER_STATUS };

/* What work found. */
enum { NO_DIFFERENCE = 0 }; /* piece.result: else where it is, counted from 1 */

struct compare {
    struct img *im;
    struct blk *b[2];
    const char *name[2];
    uint64_t len[2];
    bool strict;
    struct img_progress progress;
    uint64_t at, end; /* what is taken next, and where this part ends */
    bool only[2];     /* in this part there is only one image */
};

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

static uint64_t first_not_zero(const uint8_t *buf, uint64_t len)
{
    uint64_t at = 0;
    if (img_is_zero(buf, len)) {
        return len;
    }
    while (buf[at] == 0) {
        at++;
    }
    return at;
}

/* Status of both, zeros for one that is not there. On failure *ret_which says whose. */
static int status_of(struct compare *c, struct blk_status s[2], unsigned *ret_which)
{
    for (unsigned i = 0; i < 2; i++) {
        *ret_which = i;
        if (c->only[!i]) {
            s[i] = (struct blk_status){.flags = BLK_STATUS_ZERO, .len = c->end - c->at};
            continue;
        }
        int r = blk_map_at(c->b[i], c->at, c->end - c->at, &s[i]);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int compare_next(void *opaque, struct piece *pc)
{
    const unsigned kinds = BLK_STATUS_ZERO | BLK_STATUS_DATA | BLK_STATUS_ALLOCATED;
    struct compare *c = opaque;
    struct blk_status s[2];
    unsigned which;
    if (c->at >= c->end) {
        return PIPE_END;
    }
    pc->offset = c->at;
    int r = status_of(c, s, &which);
    if (r < 0) {
        pc->result = which;
        return r;
    }
    bool zero[2] = {s[0].flags & BLK_STATUS_ZERO, s[1].flags & BLK_STATUS_ZERO};
    pc->kind = zero[0] && zero[1] ? ALIKE
               : zero[0]          ? ZERO_IN_1
               : zero[1]          ? ZERO_IN_0
                                  : SAME_DATA;
    pc->len = MIN(s[0].len, s[1].len);
    if (c->strict && !c->only[0] && !c->only[1] &&
        (s[0].flags & kinds) != (s[1].flags & kinds)) {
        pc->kind = OTHER_STATUS;
    }
    pc->no_work = pc->kind == ALIKE || pc->kind == OTHER_STATUS;
    pc->len = pc->no_work ? pc->len : MIN(pc->len, (uint64_t)PIECE);
    c->at += pc->len;
    return 0;
}

static int compare_work(void *opaque, struct piece *pc)
{
    struct compare *c = opaque;
    uint8_t *buf[2] = {pc->mem, pc->mem + PIECE};
    for (unsigned i = 0; i < 2; i++) {
        if (pc->kind != SAME_DATA && i != (pc->kind == ZERO_IN_1)) {
            continue;
        }
        int r = blk_pread(c->b[i], pc->offset, buf[i], pc->len);
        if (r < 0) {
            pc->result = i;
            return r;
        }
    }
    uint64_t d = pc->kind == SAME_DATA
                     ? difference(buf[0], buf[1], pc->len)
                     : first_not_zero(buf[pc->kind == ZERO_IN_1], pc->len);
    pc->result = d < pc->len ? d + 1 : NO_DIFFERENCE;
    return 0;
}

static int compare_put(void *opaque, struct piece *pc)
{
    struct compare *c = opaque;
    if (pc->unknown) {
        img_error(c->im, "Sector allocation test failed for %s", c->name[pc->result]);
        return CODE_STATUS;
    }
    if (pc->kind == OTHER_STATUS) {
        img_say(c->im, "Strict mode: Offset %" PRIu64 " block status mismatch!\n",
                pc->offset);
        return 1;
    }
    if (pc->error) {
        img_error(c->im, "Error while reading offset %" PRIu64 " of %s: %s", pc->offset,
                  c->name[pc->result], g_strerror(-pc->error));
        return CODE_READ;
    }
    if (pc->result != NO_DIFFERENCE) {
        img_say(c->im, "Content mismatch at offset %" PRIu64 "!\n",
                pc->offset + pc->result - 1);
        return 1;
    }
    img_progress_at(&c->progress, 100.0 * (double)(pc->offset + pc->len) /
                                      (double)MAX(c->len[0], c->len[1]));
    return 0;
}

/* Compare up to @end from where the last call ended. */
static int compare_part(struct compare *c, uint64_t end)
{
    struct pipe pipe = {
        .mem_bytes = 2 * PIECE,
        .next = compare_next,
        .work = compare_work,
        .put = compare_put,
        .opaque = c,
    };
    c->end = end;
    int r = pipe_run(&pipe);
    if (r == -ENOMEM) {
        img_error(c->im, "%s", g_strerror(ENOMEM));
        return CODE_READ;
    }
    return r;
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
    int r = compare_part(c, both);
    if (r == 0 && c->len[0] != c->len[1]) {
        img_say(c->im, "Warning: Image size mismatch!\n");
        /* What only the longer one has must be zero. */
        c->only[c->len[1] > c->len[0]] = true;
        r = compare_part(c, MAX(c->len[0], c->len[1]));
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
        {"a-format", required_argument, 0, 'f'},
        {"b-format", required_argument, 0, 'F'},
        {"cache", required_argument, 0, 'T'},
        {"strict", no_argument, 0, 's'},
        {"progress", no_argument, 0, 'p'},
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
    }
    return code;
}
