#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <string.h>

#include "block/codec/codec.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* Where a guest offset is: the extent, its tables, and how far the same goes on. */

struct vmdk_extent *vmdk_extent_at(const struct vmdk *v, uint64_t offset)
{
    unsigned lo = 0, hi = v->nb_extents;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        struct vmdk_extent *e = &v->extents[mid];
        if (offset < e->start) {
            hi = mid;
        } else if (offset - e->start >= e->len) {
            lo = mid + 1;
        } else {
            return e;
        }
    }
    return NULL;
}

int vmdk_entry_at(struct vmdk_extent *e, uint64_t gd, uint64_t in, bool cached,
                  uint64_t *ret)
{
    uint64_t grain = in / e->grain, index = grain / e->gt_entries;
    uint32_t sector;
    *ret = 0;
    if (index >= e->gd_entries) {
        return -EIO;
    }
    int r = pages_get_le32(e->pages, gd + index * 4, cached, &sector);
    if (r == 0 && sector) {
        *ret = (uint64_t)sector * VMDK_SECTOR + grain % e->gt_entries * 4;
    }
    return r;
}

static int lookup_32(struct vmdk_extent *e, uint64_t in, bool cached,
                     enum vmdk_grain *ret_kind, uint64_t *ret_place)
{
    uint64_t at;
    uint32_t sector = 0;
    int r = vmdk_entry_at(e, e->gd, in, cached, &at);
    r = r || !at ? r : pages_get_le32(e->pages, at, cached, &sector);
    *ret_place = (uint64_t)sector * VMDK_SECTOR;
    *ret_kind = sector == 0                                   ? VMDK_GRAIN_NONE
                : e->zero_grains && sector == VMDK_GTE_ZEROED ? VMDK_GRAIN_ZERO
                                                              : VMDK_GRAIN_DATA;
    return r;
}

static int get_64(struct pages *p, uint64_t offset, bool cached, uint64_t *ret)
{
    uint8_t *at;
    int r = pages_get(p, offset, cached, &at);
    *ret = r == 0 ? le64_get(at) : 0;
    return r;
}

/* seSparse: the first digit says what an entry is, a table's number or grain's follows
 * with its middle first. */
static int lookup_64(struct vmdk_extent *e, uint64_t in, bool cached,
                     enum vmdk_grain *ret_kind, uint64_t *ret_place)
{
    uint64_t grain = in / e->grain, index = grain / e->gt_entries, entry;
    *ret_kind = VMDK_GRAIN_NONE;
    if (index >= e->gd_entries) {
        return -EIO;
    }
    int r = get_64(e->pages, e->gd + index * 8, cached, &entry);
    if (r < 0 || entry == 0) {
        return r;
    }
    if (entry >> 32 != 0x10000000) {
        return -EIO;
    }
    uint64_t table = e->se_tables + (entry & UINT32_MAX) * e->gt_entries * 8;
    r = get_64(e->pages, table + grain % e->gt_entries * 8, cached, &entry);
    if (r < 0) {
        return r;
    }
    switch (entry >> 60) {
    case 0: return entry ? -EIO : 0;
    case 1:
    case 2: *ret_kind = VMDK_GRAIN_ZERO; return 0;
    case 3:
        *ret_kind = VMDK_GRAIN_DATA;
        entry = (entry >> 48 & 0xfff) | (entry & UINT64_C(0xffffffffffff)) << 12;
        if (entry > INT64_MAX / e->grain - e->se_grains / e->grain) {
            return -EIO;
        }
        *ret_place = e->se_grains + entry * e->grain;
        return 0;
    default: return -EIO;
    }
}

int vmdk_lookup(struct vmdk_extent *e, uint64_t in, bool cached,
                enum vmdk_grain *ret_kind, uint64_t *ret_place)
{
    return e->kind == VMDK_SE ? lookup_64(e, in, cached, ret_kind, ret_place)
                              : lookup_32(e, in, cached, ret_kind, ret_place);
}

/* ---- answers ------------------------------------------------------------------------
 */

/* The parent must be the one that this image was made from. */
static int judge_parent(struct blk *b)
{
    struct vmdk *v = b->priv;
    if (!v->cid_checked && b->backing) {
        const struct vmdk *p =
            b->backing->format == &vmdk_format ? b->backing->priv : NULL;
        v->cid_wrong = p && p->cid != v->parent_cid;
        v->cid_checked = true;
    }
    return v->cid_wrong ? -EINVAL : 0;
}

/* A compressed grain: how long it is stands in front of it. */
static int map_packed(const struct vmdk_extent *e, uint64_t in, uint64_t place,
                      bool cached, struct blk_extent *ret)
{
    uint8_t marker[VMDK_MARKER_BYTES];
    uint64_t length = blk_length(e->file), grain_start = in - in % e->grain;
    if (cached) {
        return -EAGAIN;
    }
    if (place >= length || length - place <= sizeof(marker)) {
        return -EIO;
    }
    ret->kind = BLK_EXT_COMPRESSED;
    ret->child = e->file;
    ret->codec = &blk_codec_zlib;
    ret->guest_start = e->start + grain_start;
    ret->guest_len = e->grain;
    ret->offset = place;
    ret->stored_len = MIN(2 * e->grain, length - place);
    if (!e->markers) {
        return 0;
    }
    int r = blk_pread(e->file, place, marker, sizeof(marker));
    uint64_t n = r ? 0 : le32_get(marker + 8);
    if (r < 0 || n == 0 || n > 2 * e->grain) {
        return r ? r : -EIO;
    }
    ret->offset = place + sizeof(marker);
    ret->stored_len = n;
    return 0;
}

uint64_t vmdk_step(struct vmdk_extent *e, uint64_t in, enum vmdk_grain kind)
{
    uint64_t table = e->grain * e->gt_entries;
    uint64_t place = e->gd + in / table * (e->kind == VMDK_SE ? 8 : 4), entry = 0;
    if (kind == VMDK_GRAIN_NONE) {
        uint32_t sector = 0;
        int r = e->kind == VMDK_SE ? get_64(e->pages, place, true, &entry)
                                   : pages_get_le32(e->pages, place, true, &sector);
        if (r == 0 && entry == 0 && sector == 0) {
            return table - in % table;
        }
    }
    return e->grain - in % e->grain;
}

/* How far grains of the same kind, one behind the other, go on. */
static void extend_run(struct vmdk_extent *e, uint64_t in, uint64_t len, bool cached,
                       enum vmdk_grain kind, uint64_t place, struct blk_extent *ret)
{
    enum { MOST = 4096 };
    uint64_t first = in - in % e->grain;
    for (unsigned n = 1; n < MOST && ret->len < len; n++) {
        enum vmdk_grain k;
        uint64_t p = 0, at = in + ret->len;
        if (vmdk_lookup(e, at, cached, &k, &p) < 0 || k != kind ||
            (k == VMDK_GRAIN_DATA && p != place + (at - first))) {
            break;
        }
        ret->len = MIN(len, ret->len + vmdk_step(e, at, k));
    }
}

static int map_sparse(struct blk *b, struct vmdk_extent *e, uint64_t in, uint64_t len,
                      bool cached, struct blk_extent *ret)
{
    enum vmdk_grain kind;
    uint64_t place = 0;
    int r = vmdk_lookup(e, in, cached, &kind, &place);
    if (r < 0) {
        return r;
    }
    ret->len = MIN(len, vmdk_step(e, in, kind));
    switch (kind) {
    case VMDK_GRAIN_NONE:
        ret->kind = BLK_EXT_UNALLOCATED;
        r = judge_parent(b);
        break;
    case VMDK_GRAIN_ZERO: ret->kind = BLK_EXT_ZERO; break;
    case VMDK_GRAIN_DATA:
        if (e->compressed) {
            return map_packed(e, in, place, cached, ret);
        }
        ret->kind = BLK_EXT_DATA;
        /* Never write over headers and tables. */
        ret->flags = !e->read_only && place >= e->data_start ? BLK_EXT_IN_PLACE : 0;
        ret->child = e->file;
        ret->offset = place + in % e->grain;
    }
    if (r == 0) {
        extend_run(e, in, len, cached, kind, place, ret);
    }
    return r;
}

static int map(struct blk *b, uint64_t offset, uint64_t len, bool cached,
               struct blk_extent *ret)
{
    const struct vmdk *v = b->priv;
    struct vmdk_extent *e = vmdk_extent_at(v, offset);
    if (!e) {
        return -EIO;
    }
    uint64_t in = offset - e->start;
    len = MIN(len, e->len - in);
    *ret = (struct blk_extent){.kind = BLK_EXT_ZERO, .len = len};
    if (e->kind == VMDK_FLAT) {
        ret->kind = BLK_EXT_DATA;
        ret->flags = BLK_EXT_SPARSE | (e->read_only ? 0 : BLK_EXT_IN_PLACE);
        ret->child = e->file;
        ret->offset = e->flat_offset + in;
    }
    return e->kind == VMDK_FLAT || e->kind == VMDK_ZERO
               ? 0
               : map_sparse(b, e, in, len, cached, ret);
}

int vmdk_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    return map(b, offset, len, false, ret);
}

int vmdk_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret)
{
    return map(b, offset, len, true, ret);
}
