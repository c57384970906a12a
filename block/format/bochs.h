#ifndef BLOCK_FORMAT_BOCHS_H
#define BLOCK_FORMAT_BOCHS_H

/* Growing disk images of Bochs ("Harddisk Images based on redologs" in its developers'
 * manual). Read-only. */

extern const struct blk_format bochs_format;

#endif
