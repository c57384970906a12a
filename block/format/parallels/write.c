#include "block/format/parallels/parallels_priv.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * Changing what the guest sees. New clusters are made as zeros behind the last one, so
 * that only the new data has to be written; BAT entries follow after a flush.
 */

/* blk_reservation.tag */
enum { TAG_PLACE, TAG_COUNT, TAG_INDEX };

static int parallels_begin(struct blk *b)
{
    struct parallels *p = b->priv;
    if (!p->end) {
        int r = parallels_find_end(p, &p->end);
        if (r < 0) {
            return r;
        }
        if (p->end > p->limit + p->cluster && p->data_start > p->limit) {
            p->end = 0;
            return parallels_corrupt(
                p, "the data begins at %" PRIu64 ", past the end of the file",
                p->data_start);
        }
    }
    return parallels_set_in_use(p, PARALLELS_IN_USE);
}

static int count_free(struct parallels *p, uint64_t index, uint64_t most, uint64_t *ret)
{
    most = MIN(most, p->bat_entries - index);
    for (*ret = 0; *ret < most; ++*ret) {
        uint64_t place;
        int r = parallels_place(p, index + *ret, false, &place);
        if (r < 0) {
            return r;
        }
        if (place) {
            break;
        }
    }
    return 0;
}

static int parallels_reserve(struct blk *b, struct blk_reservation *r)
{
    struct parallels *p = b->priv;
    uint64_t index = r->offset / p->cluster, first = index * p->cluster, n;
    if (index >= p->bat_entries) {
        return -EINVAL;
    }
    int err =
        count_free(p, index, (r->offset + r->len - 1) / p->cluster - index + 1, &n);
    if (err < 0) {
        return err;
    }
    if (n == 0) {
        return parallels_corrupt(
            p, "BAT entry %" PRIu64 " leads into the header or out of the file", index);
    }
    if ((p->end + n * p->cluster) / p->unit > UINT32_MAX) {
        return -EFBIG;
    }
    err = pages_zero_space(p->file, p->end, n * p->cluster);
    if (err < 0) {
        return err;
    }
    r->guest_start = first;
    r->guest_len = n * p->cluster;
    r->len = MIN(r->len, first + r->guest_len - r->offset);
    r->child = p->file;
    r->child_offset = p->end;
    r->fill = BLK_FILL_NO;
    r->tag[TAG_PLACE] = p->end;
    r->tag[TAG_COUNT] = n;
    r->tag[TAG_INDEX] = index;
    p->end += n * p->cluster;
    p->limit = MAX(p->limit, p->end);
    return 0;
}

static int parallels_publish(struct blk *b, const struct blk_reservation *r)
{
    struct parallels *p = b->priv;
    int err = 0;
    for (uint64_t i = 0; err == 0 && i < r->tag[TAG_COUNT]; i++) {
        err = parallels_set_place(p, r->tag[TAG_INDEX] + i,
                                  r->tag[TAG_PLACE] + i * p->cluster);
    }
    return err;
}

static void parallels_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct parallels *p = b->priv;
    if (p->end == r->tag[TAG_PLACE] + r->tag[TAG_COUNT] * p->cluster) {
        p->end = r->tag[TAG_PLACE];
    }
}

static int parallels_flush(struct blk *b)
{
    struct parallels *p = b->priv;
    return pages_write(p->bat); /* begins with a flush of the data */
}

static int parallels_finish(struct blk *b)
{
    struct parallels *p = b->priv;
    int r = parallels_flush(b);
    r = r ? r : blk_run(p->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    /* Not the value that says that an extension is up to date: bitmaps know nothing of
     * what was written here. */
    return r ? r : parallels_set_in_use(p, 0);
}

const struct blk_write_ops parallels_write_ops = {
    .begin = parallels_begin,
    .reserve = parallels_reserve,
    .publish = parallels_publish,
    .cancel = parallels_cancel,
    .flush = parallels_flush,
    .finish = parallels_finish,
};
