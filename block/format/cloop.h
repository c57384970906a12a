#ifndef BLOCK_FORMAT_CLOOP_H
#define BLOCK_FORMAT_CLOOP_H

/* Compressed loop images, version 2, as Knoppix has them. Read-only. */

extern const struct blk_format cloop_format;

#endif
