#ifndef BLOCK_CODEC_CODEC_H
#define BLOCK_CODEC_CODEC_H

#include "block/driver.h"

/* Codecs of image formats (struct blk_codec in block/driver.h). Any thread. */

/* Raw DEFLATE streams (RFC 1951), without zlib's frame. libdeflate and ISA-L. */
extern const struct blk_codec blk_codec_deflate;

/* The same, but what is encoded copies from no further back than 4 KiB, for readers
 * that keep no more. encode: -ENOTSUP when built without ISA-L. */
extern const struct blk_codec blk_codec_deflate_4k;

/*
 * zlib streams (RFC 1950). A stream that ends early leaves zeros, as the last chunk of
 * a disk may be short; what does not get shorter is stored as it is.
 */
extern const struct blk_codec blk_codec_zlib;

/* Zstandard frames (RFC 8878). libzstd. */
extern const struct blk_codec blk_codec_zstd;

/* Those of Apple's disk images, which are only read: no encode. bzip2 and .xz streams,
 * and Apple's own first compression. */
extern const struct blk_codec blk_codec_bzip2;
extern const struct blk_codec blk_codec_xz;
extern const struct blk_codec blk_codec_adc;

#endif
