#include "block/format/raw.h"

#include <inttypes.h>

#include "block/driver.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * raw: guest offset x is at x + offset in the file. Everything else of a raw image,
 * holes, zeroes and discards among it, is what the data path and the protocol below
 * do with an answer of one line.
 */

struct raw {
    uint64_t offset;
    bool windowed; /* size= was given: the length is ours, not the file's */
};

static bool raw_open(struct blk *b, json_t *opts, GError **error)
{
    struct raw *raw = g_new0(struct raw, 1);
    b->priv = raw;
    raw->offset = blk_opt_u64(opts, "offset", 0);
    uint64_t have = b->file->content_len;
    if (raw->offset > have) {
        return error_msg(error,
                         "Offset (%" PRIu64 ") cannot be greater than size of the "
                         "containing file (%" PRIu64 ")",
                         raw->offset, have);
    }
    uint64_t rest = have - raw->offset;
    uint64_t size = blk_opt_u64(opts, "size", rest);
    raw->windowed = json_object_get(opts, "size") != NULL;
    if (raw->windowed && size % 512 != 0) {
        return error_msg(error, "Specified size is not multiple of 512");
    }
    if (size > rest) {
        return error_msg(error,
                         "The sum of offset (%" PRIu64 ") and size (%" PRIu64
                         ") has to be smaller or equal to the  actual size of the "
                         "containing file (%" PRIu64 ")",
                         raw->offset, size, have);
    }
    b->content_len = size;
    b->limits = b->file->limits;
    b->limits.alloc_unit = 0;
    if (raw->offset % b->limits.request_align) {
        b->limits.request_align = 1; /* the file's alignment says nothing here */
    }
    return true;
}

static void raw_close(struct blk *b)
{
    g_free(b->priv);
}

static int raw_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    const struct raw *raw = b->priv;
    *ret = (struct blk_extent){
        .kind = BLK_EXT_DATA,
        .flags = BLK_EXT_IN_PLACE,
        .len = len,
        .child = b->file,
        .offset = raw->offset + offset,
    };
    return 0;
}

static bool raw_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                         GError **error)
{
    const struct raw *raw = b->priv;
    uint64_t end;
    if (raw->windowed) {
        return error_msg(error, "Cannot resize fixed-size raw disks");
    }
    if (!ck_add(raw->offset, length, &end)) {
        return error_msg(error, "%" PRIu64 " bytes are too many", length);
    }
    if (!blk_truncate(b->file, end, prealloc, error)) {
        return false;
    }
    b->content_len = length;
    return true;
}

static const struct blk_option raw_options[] = {
    {"offset", BLK_OPT_SIZE, NULL, "where in the file the disk begins"},
    {"size", BLK_OPT_SIZE, NULL,
     "length of the disk (default: to the end of the file)"},
    {0},
};

static const struct blk_write_ops raw_write_ops = {0}; /* every extent is in place */

static const struct blk_resize_ops raw_resize_ops = {.truncate = raw_truncate};

static bool raw_measure(json_t *opts, const struct blk_measure_source *src,
                        struct blk_measure *ret, GError **error)
{
    ret->full = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    ret->required = ret->full;
    return true;
}

static const struct blk_option raw_create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {0},
};

/* The file alone is the image. */
static const struct blk_create_ops raw_create_ops = {
    .options = raw_create_options,
    .measure = raw_measure,
};

const struct blk_format raw_format = {
    .name = "raw",
    .help = "the guest's bytes as they are",
    .options = raw_options,
    .open = raw_open,
    .close = raw_close,
    .map = raw_map,
    .map_cached = raw_map,
    .passes_perms = true,
    .writable = &raw_write_ops,
    .resize = &raw_resize_ops,
    .creatable = &raw_create_ops,
};
