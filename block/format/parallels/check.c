#include "block/format/parallels/parallels_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>

#include "block/format/bitset.h"
#include "lib/base/base.h"

/*
 * Consistency (Spec, "BAT"): each entry leads into the file and no two to one place.
 * What the file has behind the last cluster is leaked.
 */

struct walk {
    struct parallels *p;
    struct blk_check *c;
    struct bitset *places; /* in units of BAT entries */
    uint64_t last, highest;
};

static void tell(struct blk_check *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static void tell(struct blk_check *c, const char *fmt, ...)
{
    if (c->report) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *line = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        c->report(c->opaque, true, line);
    }
}

static const char *verb(const struct blk_check *c, unsigned what)
{
    return c->fix & what ? "Repairing" : "ERROR";
}

static int check_unclean(struct parallels *p, struct blk_check *c)
{
    if (!p->unclean) {
        return 0;
    }
    tell(c, "%s image was not closed correctly", verb(c, BLK_FIX_ERRORS));
    if (!(c->fix & BLK_FIX_ERRORS)) {
        c->result.corruptions++;
        return 0;
    }
    c->result.corruptions_fixed++;
    p->unclean = false;
    return parallels_set_in_use(p, 0);
}

static int check_entry(struct walk *w, uint64_t index, uint64_t place, uint64_t size)
{
    struct blk_check *c = w->c;
    if (place > size) {
        tell(c, "%s cluster %" PRIu64 " is outside image", verb(c, BLK_FIX_ERRORS),
             index);
        if (c->fix & BLK_FIX_ERRORS) {
            c->result.corruptions_fixed++;
            w->last = 0;
            return parallels_set_place(w->p, index, 0);
        }
        c->result.corruptions++;
    } else if (!bitset_add(w->places, place / w->p->unit)) {
        tell(c, "ERROR duplicate offset in BAT entry %" PRIu64, index);
        c->result.corruptions++;
    }
    c->result.allocated_clusters++;
    c->result.fragmented_clusters += w->last && w->last + w->p->cluster != place;
    w->last = place;
    w->highest = MAX(w->highest, place);
    return 0;
}

static int check_bat(struct walk *w, uint64_t size)
{
    uint64_t index = 0, place, before = 0;
    for (;; index++) {
        int r = parallels_next(w->p, &index, &place);
        if (r < 0 || index >= w->p->bat_entries) {
            return r;
        }
        if (index != before) {
            w->last = 0; /* a gap is no fragmentation */
        }
        before = index + 1;
        r = check_entry(w, index, place, size);
        if (r < 0) {
            return r;
        }
    }
}

static int check_leaks(struct walk *w, uint64_t size)
{
    struct blk_check_result *res = &w->c->result;
    uint64_t end = res->image_end_offset, cluster = w->p->cluster;
    if (size <= end) {
        return 0;
    }
    uint64_t count = (size - end) / cluster + ((size - end) % cluster != 0);
    tell(w->c, "%s space leaked at the end of the image %" PRIu64,
         verb(w->c, BLK_FIX_LEAKS), size - end);
    if (!(w->c->fix & BLK_FIX_LEAKS)) {
        res->leaks += count;
        return 0;
    }
    GError *error = NULL;
    if (!blk_truncate(w->p->file, ALIGN_UP(end, 512), BLK_PREALLOC_OFF, &error)) {
        tell(w->c, "%s", error->message);
        g_error_free(error);
        res->check_errors++;
        return -EIO;
    }
    w->p->limit = end;
    res->leaks_fixed += count;
    return 0;
}

static int run_check(struct parallels *p, struct blk_check *c)
{
    struct walk w = {.p = p, .c = c, .places = bitset_new()};
    uint64_t size = p->file->content_len;
    c->result.total_clusters = p->bat_entries;
    int r = check_unclean(p, c);
    r = r ? r : check_bat(&w, size);
    r = r ? r : pages_write(p->bat);
    bitset_free(w.places);
    if (r < 0) {
        c->result.check_errors++;
        return r;
    }
    uint64_t end = w.highest ? w.highest + p->cluster : MAX(p->data_start, p->cluster);
    if (p->ext_offset) {
        end = MAX(end, parallels_extension_end(p));
    }
    c->result.image_end_offset = end;
    return check_leaks(&w, size);
}

static int parallels_check(struct blk *b, struct blk_check *c)
{
    struct parallels *p = b->priv;
    int r = b->read_only ? 0 : pages_write(p->bat);
    return r ? r : run_check(p, c);
}

const struct blk_check_ops parallels_check_ops = {.check = parallels_check};
