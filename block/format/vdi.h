#ifndef BLOCK_FORMAT_VDI_H
#define BLOCK_FORMAT_VDI_H

#include "block/driver.h"

/* VirtualBox's disk images: blocks of 1 MiB and one table of them. */
extern const struct blk_format vdi_format;

#endif
