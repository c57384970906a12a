#ifndef BLOCK_FILTER_PREALLOCATE_H
#define BLOCK_FILTER_PREALLOCATE_H

/* driver=preallocate,file=...: a file that grows does so in large steps, and gets its
 * length back when it is closed. */
extern const struct blk_protocol preallocate_filter;

#endif
