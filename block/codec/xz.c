#include "block/codec/codec.h"

#include <errno.h>
#include <lzma.h>

/* A stream may ask for any dictionary; the largest preset has one of 64 MiB. */
enum { MEMORY = 96 * 1024 * 1024 };

static int xz_decode(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_len)
{
    uint64_t memory = MEMORY;
    size_t in = 0, out = 0;
    lzma_ret r = lzma_stream_buffer_decode(&memory, 0, NULL, src, &in, src_len, dst,
                                           &out, dst_len);
    return r == LZMA_MEM_ERROR ? -ENOMEM : r == LZMA_OK && out == dst_len ? 0 : -EIO;
}

const struct blk_codec blk_codec_xz = {.name = "xz", .decode = xz_decode};
