#ifndef BLOCK_FORMAT_VPC_H
#define BLOCK_FORMAT_VPC_H

#include "block/driver.h"

/* Virtual PC's and Hyper-V's VHD images: fixed and dynamic. */
extern const struct blk_format vpc_format;

#endif
