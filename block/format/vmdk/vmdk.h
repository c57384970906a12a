#ifndef BLOCK_FORMAT_VMDK_H
#define BLOCK_FORMAT_VMDK_H

#include "block/driver.h"

/* VMware's disk images: sparse, flat, in one file or many, compressed streams. */
extern const struct blk_format vmdk_format;

#endif
