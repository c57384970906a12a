#include "block/format/vhdx/vhdx.h"

#include <errno.h>
#include <string.h>

#include "block/format/vhdx/vhdx_priv.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

enum { CACHE = 16 << 20 };

static int vhdx_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= 8 && memcmp(head, VHDX_SIG_FILE, 8) == 0 ? 100 : 0;
}

static int commit(void *opaque)
{
    return vhdx_commit(opaque);
}

static void first_wrong(void *opaque, const char *line)
{
    char **text = opaque;
    *text = g_strdup(line);
}

/* Entries that lead outside of the file or into tables: not even to be read. */
static bool judge_bat(struct blk *b, GError **error)
{
    struct vhdx *v = b->priv;
    g_autofree char *text = NULL;
    if (!ck_range(v->bat_offset, v->bat_entries * 8, blk_length(v->file))) {
        return error_msg(error, "VHDX BAT is past the end of the file");
    }
    if ((blk_open_flags(b) & (BLK_OPEN_CHECK | BLK_OPEN_NO_IO)) == BLK_OPEN_CHECK) {
        return true; /* the check will tell, of all of them */
    }
    int64_t wrong = vhdx_check_bat(v, 1, first_wrong, &text);
    return wrong < 0 ? error_errno(error, (int)-wrong, "VHDX BAT: could not be read")
                     : wrong == 0 || error_msg(error, "%s", text);
}

static bool vhdx_open(struct blk *b, json_t *opts, GError **error)
{
    struct vhdx *v = g_new0(struct vhdx, 1);
    b->priv = v;
    v->file = b->file;
    vhdx_crc_init(v);
    if (!vhdx_read_headers(v, error) || !vhdx_replay_log(b, error) ||
        !vhdx_read_regions(v, error) || !vhdx_read_metadata(v, error)) {
        return false;
    }
    if (v->has_parent) {
        return error_msg(error, "differencing VHDX images are not supported");
    }
    if (!judge_bat(b, error)) {
        return false;
    }
    v->pages = pages_new(b->file, VHDX_PAGE, CACHE);
    pages_on_full(v->pages, commit, v);
    b->content_len = v->size;
    b->limits.alloc_unit = v->block_size;
    return true;
}

static void vhdx_close(struct blk *b)
{
    struct vhdx *v = b->priv;
    if (v) {
        pages_free(v->pages);
        g_free(v);
    }
}

static void vhdx_info(struct blk *b, json_t *info)
{
    const struct vhdx *v = b->priv;
    json_object_set_new(info, "cluster-size", json_integer(v->block_size));
}

const struct blk_format vhdx_format = {
    .name = "vhdx",
    .help = "Hyper-V's second format: large blocks, a log",
    .probe = vhdx_probe,
    .open = vhdx_open,
    .close = vhdx_close,
    .map = vhdx_map,
    .map_cached = vhdx_map_cached,
    .info = vhdx_info,
    .writable = &vhdx_write_ops,
    .creatable = &vhdx_create_ops,
    .checkable = &vhdx_check_ops,
};
