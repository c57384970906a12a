#ifndef BLOCK_FILTER_BLKVERIFY_H
#define BLOCK_FILTER_BLKVERIFY_H

/* driver=blkverify,test=...,raw=...: what is read from an image under test must be what
 * a raw file has, or the program ends. Writes go to both. */
extern const struct blk_protocol blkverify_filter;

#endif
