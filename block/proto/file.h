#ifndef BLOCK_PROTO_FILE_H
#define BLOCK_PROTO_FILE_H

struct blk_protocol;

/* Regular files and block devices of the host, by name or by descriptor. */
extern const struct blk_protocol file_protocol;

#endif
