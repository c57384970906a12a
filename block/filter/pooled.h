#ifndef BLOCK_FILTER_POOLED_H
#define BLOCK_FILTER_POOLED_H

#include "block/driver.h"

/*
 * For filters that only know the blocking way: their submit. Has proto->run do the
 * request on a pool thread. Loop thread.
 */
void filter_submit_pooled(struct blk *b, struct blk_req *req);

/* What a filter takes over from its file when it opens: length, limits, growth. */
void filter_follow_file(struct blk *b);

/* @req as it is, on @child; what a file has behind its end reads as zero. Any thread.
 */
int filter_pass(struct blk *child, const struct blk_req *req);

/* blk_protocol.resize of a filter that hands the new length down. */
extern const struct blk_resize_ops filter_resize_ops;

#endif
