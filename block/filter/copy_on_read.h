#ifndef BLOCK_FILTER_COPY_ON_READ_H
#define BLOCK_FILTER_COPY_ON_READ_H

/* driver=copy-on-read,file=...: what is read from a backing file is written into the
 * image, so that it is there the next time. */
extern const struct blk_protocol copy_on_read_filter;

#endif
