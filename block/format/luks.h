#ifndef BLOCK_FORMAT_LUKS_H
#define BLOCK_FORMAT_LUKS_H

/* A disk encrypted as a whole, behind a LUKS header or with one in a file of its own.
 */

extern const struct blk_format luks_format;

#endif
