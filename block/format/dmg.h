#ifndef BLOCK_FORMAT_DMG_H
#define BLOCK_FORMAT_DMG_H

/* Apple's disk images (UDIF): plain, zlib, bzip2, xz and ADC chunks. Read-only. */

extern const struct blk_format dmg_format;

#endif
