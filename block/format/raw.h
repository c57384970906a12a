#ifndef BLOCK_FORMAT_RAW_H
#define BLOCK_FORMAT_RAW_H

struct blk_format;

/* The guest's bytes as they are, or a part of a file (offset=, size=). */
extern const struct blk_format raw_format;

#endif
