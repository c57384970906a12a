#ifndef BLOCK_FILTER_BLKDEBUG_H
#define BLOCK_FILTER_BLKDEBUG_H

/*
 * driver=blkdebug,image=...: makes requests fail, or stop, at chosen points in the life
 * of the format above (block/event.h). Rules come from the options inject-error and
 * set-state and from a configuration file.
 */
extern const struct blk_protocol blkdebug_filter;

#endif
