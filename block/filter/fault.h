#ifndef BLOCK_FILTER_FAULT_H
#define BLOCK_FILTER_FAULT_H

struct blk_protocol;

/*
 * A filter that fails chosen requests, to see what the layers above do about it:
 *   op=write,after=3,times=1,errno=ENOSPC,file=...
 * fails the third write with ENOSPC and lets everything else through.
 */
extern const struct blk_protocol fault_filter;

#endif
