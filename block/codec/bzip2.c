#include "block/codec/codec.h"

#include <bzlib.h>
#include <errno.h>
#include <limits.h>

static int bzip2_decode(const uint8_t *src, size_t src_len, uint8_t *dst,
                        size_t dst_len)
{
    unsigned out = (unsigned)dst_len;
    if (src_len > UINT_MAX || dst_len > UINT_MAX) {
        return -EIO;
    }
    int r = BZ2_bzBuffToBuffDecompress((char *)dst, &out, (char *)src,
                                       (unsigned)src_len, 0, 0);
    return r == BZ_MEM_ERROR ? -ENOMEM : r == BZ_OK && out == dst_len ? 0 : -EIO;
}

const struct blk_codec blk_codec_bzip2 = {.name = "bzip2", .decode = bzip2_decode};
