#include "block/format/vhdx/vhdx_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* The map: one entry per block. */

static uint64_t entry_place(const struct vhdx *v, uint64_t block)
{
    return v->bat_offset + (block + block / v->chunk_ratio) * 8;
}

static int get_entry(struct vhdx *v, uint64_t block, bool cached, uint64_t *ret)
{
    uint8_t *p;
    int r = pages_get(v->pages, entry_place(v, block), cached, &p);
    if (r == 0) {
        *ret = le64_get(p);
    }
    return r;
}

static int kind_of(struct blk *b, uint64_t entry, uint64_t in, struct blk_extent *ret)
{
    const struct vhdx *v = b->priv;
    switch (entry & VHDX_STATE_MASK) {
    case VHDX_NOT_PRESENT:
    case VHDX_UNDEFINED:
    case VHDX_ZERO:
    case VHDX_UNMAPPED:
    case VHDX_UNMAPPED_OLD: ret->kind = BLK_EXT_ZERO; return 0;
    case VHDX_PRESENT: {
        uint64_t place = entry & VHDX_OFFSET_MASK;
        g_autofree char *text = NULL;
        if (place > (uint64_t)INT64_MAX - v->block_size ||
            vhdx_overlaps(v, place, place + v->block_size, &text)) {
            return -EIO;
        }
        ret->kind = BLK_EXT_DATA;
        ret->flags = BLK_EXT_IN_PLACE;
        ret->child = b->file;
        ret->offset = place + in;
        return 0;
    }
    default: return -EIO;
    }
}

static int map(struct blk *b, uint64_t offset, uint64_t len, bool cached,
               struct blk_extent *ret)
{
    enum { MOST = 4096 };
    struct vhdx *v = b->priv;
    uint64_t block = offset / v->block_size, in = offset % v->block_size, entry;
    int r = get_entry(v, block, cached, &entry);
    *ret = (struct blk_extent){.len = MIN(len, v->block_size - in)};
    r = r ? r : kind_of(b, entry, in, ret);
    for (unsigned n = 1; r == 0 && n < MOST && ret->len < len; n++) {
        struct blk_extent more = {0};
        if (get_entry(v, block + n, cached, &entry) < 0 ||
            kind_of(b, entry, 0, &more) < 0 || more.kind != ret->kind ||
            (more.kind == BLK_EXT_DATA && more.offset != ret->offset + ret->len)) {
            break;
        }
        ret->len = MIN(len, ret->len + v->block_size);
    }
    return r;
}

int vhdx_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    return map(b, offset, len, false, ret);
}

int vhdx_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret)
{
    return map(b, offset, len, true, ret);
}

/* ---- writing ------------------------------------------------------------------------
 */

/* The disk's content changes: others who know it by its GUIDs shall see that. */
static int vhdx_begin(struct blk *b)
{
    struct vhdx *v = b->priv;
    vhdx_random_guid(v->header + H_FILE_GUID);
    vhdx_random_guid(v->header + H_DATA_GUID);
    return vhdx_write_headers(v);
}

static int vhdx_reserve(struct blk *b, struct blk_reservation *r)
{
    struct vhdx *v = b->priv;
    uint64_t in = r->offset % v->block_size;
    if (v->next == 0) {
        v->next = b->file->content_len;
        for (unsigned i = 0; i < v->nb_regions; i++) {
            v->next = MAX(v->next, v->regions[i].end);
        }
        v->next = ALIGN_UP(v->next, MIB);
    }
    r->len = MIN(r->len, v->block_size - in);
    r->guest_start = r->offset - in;
    r->guest_len = v->block_size;
    r->child = b->file;
    r->child_offset = v->next;
    r->fill = BLK_FILL_NO;
    int err =
        r->len == v->block_size ? 0 : pages_zero_space(b->file, v->next, v->block_size);
    if (err == 0) {
        v->next += v->block_size;
    }
    return err;
}

static int vhdx_publish(struct blk *b, const struct blk_reservation *r)
{
    struct vhdx *v = b->priv;
    uint64_t at = entry_place(v, r->guest_start / v->block_size);
    uint8_t *p;
    int err = pages_get(v->pages, at, false, &p);
    if (err == 0) {
        le64_put(p, r->child_offset | VHDX_PRESENT);
        pages_dirty(v->pages, at, 8);
    }
    return err;
}

static void vhdx_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct vhdx *v = b->priv;
    if (v->next == r->child_offset + v->block_size) {
        v->next = r->child_offset;
    }
}

static int vhdx_flush(struct blk *b)
{
    return vhdx_commit(b->priv);
}

static int vhdx_finish(struct blk *b)
{
    int r = vhdx_commit(b->priv);
    return r ? r : vhdx_close_log(b->priv);
}

const struct blk_write_ops vhdx_write_ops = {
    .begin = vhdx_begin,
    .reserve = vhdx_reserve,
    .publish = vhdx_publish,
    .cancel = vhdx_cancel,
    .flush = vhdx_flush,
    .finish = vhdx_finish,
};

/* ---- checking -----------------------------------------------------------------------
 */

/* What is wrong with the entry @i of the table, or NULL. */
static char *judge_entry(const struct vhdx *v, uint64_t i, uint64_t entry,
                         uint64_t file_len)
{
    uint64_t place = entry & VHDX_OFFSET_MASK, len = v->block_size, end;
    char *text;
    if ((entry & VHDX_STATE_MASK) != VHDX_PRESENT ||
        i % (v->chunk_ratio + 1) == v->chunk_ratio) {
        return NULL;
    }
    if (i == v->bat_entries - 1 && v->size % len) {
        len = v->size % len; /* the last block need not be there as a whole */
    }
    if (place > UINT64_MAX - v->block_size) {
        return g_strdup_printf("VHDX BAT entry %" PRIu64 " offset overflow.", i);
    }
    end = place + len;
    if (place >= file_len) {
        return g_strdup_printf("VHDX BAT entry %" PRIu64 " start offset %" PRIu64
                               " points after end of file (%" PRIu64
                               "). Image has probably been truncated.",
                               i, place, file_len);
    }
    if (end > file_len) {
        return g_strdup_printf("VHDX BAT entry %" PRIu64 " end offset %" PRIu64
                               " points after end of file (%" PRIu64
                               "). Image has probably been truncated.",
                               i, end - 1, file_len);
    }
    return vhdx_overlaps(v, place, place + v->block_size, &text) ? text : NULL;
}

int64_t vhdx_check_bat(struct vhdx *v, uint64_t most,
                       void (*found)(void *opaque, const char *line), void *opaque)
{
    enum { STEP = 16384 };
    g_autofree uint8_t *buf = g_try_malloc(STEP * 8);
    uint64_t file_len = v->file->content_len, wrong = 0;
    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < v->bat_entries && wrong < most; i += STEP) {
        uint64_t n = MIN(v->bat_entries - i, (uint64_t)STEP);
        int r = blk_pread(v->file, v->bat_offset + i * 8, buf, n * 8);
        if (r < 0) {
            return r;
        }
        for (uint64_t k = 0; k < n && wrong < most; k++) {
            g_autofree char *line =
                judge_entry(v, i + k, le64_get(buf + k * 8), file_len);
            if (line) {
                found(opaque, line);
                wrong++;
            }
        }
    }
    return (int64_t)wrong;
}

static void tell(void *opaque, const char *line)
{
    const struct blk_check *c = opaque;
    if (c->report) {
        c->report(c->opaque, true, line);
    }
}

/* A log that was replayed when the image was opened is something that was repaired. */
static int vhdx_check(struct blk *b, struct blk_check *c)
{
    struct vhdx *v = b->priv;
    int64_t wrong = vhdx_check_bat(v, UINT64_MAX, tell, c);
    if (wrong < 0) {
        return (int)wrong;
    }
    c->result.corruptions = (uint64_t)wrong;
    c->result.corruptions_fixed = v->log_replayed;
    return 0;
}

const struct blk_check_ops vhdx_check_ops = {.check = vhdx_check};
