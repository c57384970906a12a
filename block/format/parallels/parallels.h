#ifndef BLOCK_FORMAT_PARALLELS_PARALLELS_H
#define BLOCK_FORMAT_PARALLELS_PARALLELS_H

/* Parallels expandable images, as docs/interop/parallels of the QEMU project describes
 * them. */

extern const struct blk_format parallels_format;

#endif
