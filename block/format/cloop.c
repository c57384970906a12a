#include "block/format/cloop.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/codec/codec.h"
#include "block/format/pages.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * Big-endian:
 *
 *     0     a shell script, "#!/bin/sh\n#V2.0 Format\n..."
 *     128   bytes of a block, number of blocks
 *     136   where each block is in the file, and where the last one ends
 *     then  the blocks, zlib
 */

enum { FIELDS = 128, OFFSETS = 136, PAGE = 4096, PIECE = 65536 };

#define CACHE_BYTES (4 * MIB)
#define MAX_BLOCK   (64 * MIB)
#define MAX_TABLE   (512 * MIB)

static const char script[] = "#!/bin/sh\n#V2.0 Format\n";

struct cloop {
    struct blk *file;
    uint64_t block;
    uint32_t count;
    struct pages *offsets;
};

static int cloop_probe(const uint8_t *head, size_t len, const char *filename)
{
    size_t n = sizeof(script) - 1;
    return len >= OFFSETS && memcmp(head, script, n) == 0 ? 2 : 0;
}

static bool take_fields(struct cloop *s, const uint8_t *h, GError **error)
{
    uint32_t block = be32_get(h), most = UINT32_MAX / 8;
    s->count = be32_get(h + 4);
    if (block == 0) {
        return error_msg(error, "block_size cannot be zero");
    }
    if (block % 512) {
        return error_msg(error, "block_size %" PRIu32 " must be a multiple of 512",
                         block);
    }
    if (block > MAX_BLOCK) {
        return error_msg(error, "block_size %" PRIu32 " must be 64 MB or less", block);
    }
    s->block = block;
    if (s->count > most) {
        return error_msg(error, "n_blocks %" PRIu32 " must be %" PRIu32 " or less",
                         s->count, most);
    }
    return (s->count + UINT64_C(1)) * 8 <= MAX_TABLE ||
           error_msg(error,
                     "image requires too many offsets, try increasing block size");
}

/* Once through all of the table: blocks follow each other and are not too large. */
static bool check_offsets(struct cloop *s, GError **error)
{
    uint64_t last = 0, length = blk_length(s->file);
    g_autofree uint8_t *buf = g_malloc0(PIECE);
    for (uint64_t i = 0; i <= s->count; i++) {
        uint64_t in = i * 8 % PIECE, at = OFFSETS + i * 8;
        if (in == 0) {
            uint64_t has = at < length ? MIN(length - at, (uint64_t)PIECE) : 0;
            memset(buf + has, 0, PIECE - has);
            int r = has ? blk_pread(s->file, at, buf, has) : 0;
            if (r < 0) {
                return error_errno(error, -r, "Could not read the offsets");
            }
        }
        uint64_t offset = be64_get(buf + in);
        if (i > 0 && offset < last) {
            return error_msg(error,
                             "offsets not monotonically increasing at index %" PRIu64
                             ", image file is corrupt",
                             i);
        }
        if (i > 0 && offset - last > 2 * MAX_BLOCK) {
            return error_msg(error,
                             "invalid compressed block size at index %" PRIu64
                             ", image file is corrupt",
                             i);
        }
        last = offset;
    }
    return true;
}

static bool cloop_open(struct blk *b, json_t *opts, GError **error)
{
    struct cloop *s = g_new0(struct cloop, 1);
    uint8_t h[OFFSETS] = {0};
    b->priv = s;
    s->file = b->file;
    uint64_t has = MIN(blk_length(b->file), sizeof(h));
    int r = has ? blk_pread(b->file, 0, h, has) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not read the header");
    }
    if (!take_fields(s, h + FIELDS, error) || !check_offsets(s, error)) {
        return false;
    }
    s->offsets = pages_new(s->file, PAGE, CACHE_BYTES);
    b->content_len = s->count * s->block;
    return true;
}

static void cloop_close(struct blk *b)
{
    struct cloop *s = b->priv;
    if (s) {
        pages_free(s->offsets);
        g_free(s);
    }
}

static int map_any(struct cloop *s, uint64_t offset, uint64_t len, bool cached,
                   struct blk_extent *ret)
{
    uint64_t index = offset / s->block, from, to;
    uint8_t *p;
    int r = pages_get(s->offsets, OFFSETS + index * 8, cached, &p);
    if (r < 0) {
        return r;
    }
    from = be64_get(p);
    r = pages_get(s->offsets, OFFSETS + (index + 1) * 8, cached, &p);
    if (r < 0) {
        return r;
    }
    to = be64_get(p);
    if (to <= from || to > INT64_MAX) { /* the file may have changed meanwhile */
        return -EIO;
    }
    *ret = (struct blk_extent){
        .kind = BLK_EXT_COMPRESSED,
        .len = MIN(len, (index + 1) * s->block - offset),
        .child = s->file,
        .offset = from,
        .stored_len = to - from,
        .guest_start = index * s->block,
        .guest_len = s->block,
        .codec = &blk_codec_zlib,
    };
    return 0;
}

static int cloop_map(struct blk *b, uint64_t offset, uint64_t len,
                     struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, false, ret);
}

static int cloop_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                            struct blk_extent *ret)
{
    return map_any(b->priv, offset, len, true, ret);
}

static void cloop_info(struct blk *b, json_t *info)
{
    json_object_del(info, "dirty-flag"); /* as QEMU's users know it */
}

const struct blk_format cloop_format = {
    .name = "cloop",
    .help = "compressed loop images, version 2, read-only",
    .probe = cloop_probe,
    .open = cloop_open,
    .close = cloop_close,
    .map = cloop_map,
    .map_cached = cloop_map_cached,
    .info = cloop_info,
};
