#ifndef BLOCK_CODEC_CODEC_H
#define BLOCK_CODEC_CODEC_H

#include "block/driver.h"

/* Codecs of image formats (struct blk_codec in block/driver.h). Any thread. */

/* Raw DEFLATE streams (RFC 1951), without zlib's frame. libdeflate. */
extern const struct blk_codec blk_codec_deflate;

/* Zstandard frames (RFC 8878). libzstd. */
extern const struct blk_codec blk_codec_zstd;

#endif
