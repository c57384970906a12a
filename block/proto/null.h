#ifndef BLOCK_PROTO_NULL_H
#define BLOCK_PROTO_NULL_H

/* driver=null-co and driver=null-aio: a disk that forgets what is written and reads as
 * zero, for measuring what is above it. */
extern const struct blk_protocol null_co_protocol, null_aio_protocol;

#endif
