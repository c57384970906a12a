#ifndef BLOCK_FILTER_LOGWRITES_H
#define BLOCK_FILTER_LOGWRITES_H

/*
 * blklogwrites: a filter that writes down every change of its file in the format of
 * Linux' dm-log-writes, so that any moment of a power cut can be made again.
 */

extern const struct blk_protocol logwrites_filter;

#endif
