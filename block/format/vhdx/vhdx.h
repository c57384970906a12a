#ifndef BLOCK_FORMAT_VHDX_H
#define BLOCK_FORMAT_VHDX_H

#include "block/driver.h"

/* Hyper-V's second format: large blocks, a log for the metadata. */
extern const struct blk_format vhdx_format;

#endif
