#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/base/base.h"

/* Checking: every grain must be where the file is. The first that is not ends the
 * check, unless they are to be repaired: then they become "not there". */

static void tell(struct blk_check *c, const char *what, uint64_t sector,
                 const char *more)
{
    g_autofree char *line =
        g_strdup_printf("ERROR: %s for sector %" PRIu64 "%s", what, sector, more);
    if (c->report) {
        c->report(c->opaque, true, line);
    }
}

static int fix(struct vmdk_extent *e, struct blk_check *c, uint64_t in)
{
    c->result.corruptions_fixed++;
    return vmdk_set_entry(e, in, 0);
}

static int check_extent(struct vmdk_extent *e, struct blk_check *c)
{
    uint64_t length = blk_length(e->file), step;
    bool repair = (c->fix & BLK_FIX_ERRORS) && e->kind == VMDK_SPARSE;
    for (uint64_t in = 0; in < e->len; in += step) {
        enum vmdk_grain kind;
        uint64_t place = 0, sector = (e->start + in) / VMDK_SECTOR;
        int r = vmdk_lookup(e, in, false, &kind, &place);
        step = r ? e->grain : vmdk_step(e, in, kind);
        if (r < 0) {
            tell(c, "could not get cluster_offset", sector, "");
            c->result.corruptions++;
            return -EINVAL;
        }
        if (kind != VMDK_GRAIN_DATA || place < length) {
            continue;
        }
        tell(c, "cluster offset", sector, " points after EOF");
        if (!repair) {
            c->result.corruptions++;
            return -EINVAL;
        }
        if ((r = fix(e, c, in)) < 0) {
            return r;
        }
    }
    return 0;
}

static int vmdk_check(struct blk *b, struct blk_check *c)
{
    const struct vmdk *v = b->priv;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < v->nb_extents; i++) {
        struct vmdk_extent *e = &v->extents[i];
        r = e->pages ? check_extent(e, c) : 0;
    }
    return r == 0 && c->result.corruptions_fixed ? vmdk_flush(b) : r;
}

const struct blk_check_ops vmdk_check_ops = {.check = vmdk_check};
