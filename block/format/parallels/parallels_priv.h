#ifndef BLOCK_FORMAT_PARALLELS_PARALLELS_PRIV_H
#define BLOCK_FORMAT_PARALLELS_PARALLELS_PRIV_H

#include "block/driver.h"
#include "block/format/pages.h"

/*
 * Inside the Parallels driver. All numbers in the file are little-endian:
 *
 *     0    magic, "WithoutFreeSpace" or "WithouFreSpacExt"
 *     16   version 2, heads, cylinders
 *     28   tracks: sectors of a cluster, any number of them
 *     32   nb_bat_entries; 36 nb_sectors of the disk
 *     44   in_use: a magic while somebody writes
 *     48   data_off, sectors; 52 flags; 56 ext_off, sectors
 *     64   BAT: where each cluster is, 0 for nowhere; in sectors, or in clusters with
 *          the second magic
 *     ...  clusters
 *
 * Nothing counts what is in use: new clusters go behind the last one. A cluster is
 * there, as zeros, and its data written, before its BAT entry is.
 *
 *   parallels.c  header, map, new images
 *   write.c      changing what the guest sees
 *   extension.c  the format extension: dirty bitmaps
 *   check.c      consistency and repair
 */

enum {
    PARALLELS_HEADER = 64,
    PARALLELS_IN_USE_AT = 44,
    PARALLELS_MAX_TRACKS = INT32_MAX / 513, /* what QEMU takes */
    PARALLELS_MAX_BAT = INT32_MAX / 4,
};

#define PARALLELS_IN_USE UINT32_C(0x746f6e59)

struct parallels {
    struct blk *b;
    struct blk *file;
    uint64_t cluster; /* bytes, a multiple of 512 */
    uint64_t unit;    /* of BAT entries, bytes */
    uint32_t bat_entries;
    uint64_t data_start; /* bytes: no cluster before it */
    uint64_t ext_offset; /* bytes; 0: no extension */
    uint64_t limit;      /* bytes of file where clusters can be */
    uint64_t end;        /* bytes: where the next new cluster goes; 0: not looked yet */
    bool unclean;        /* somebody did not close it */
    bool told;           /* damage was reported */
    struct pages *bat;
};

/* The place of cluster @index in the file, 0 for nowhere. */
int parallels_place(struct parallels *p, uint64_t index, bool cached, uint64_t *ret);
int parallels_set_place(struct parallels *p, uint64_t index, uint64_t place);

/* The next entry at or after *index that is not zero; @p->bat_entries: none. */
int parallels_next(struct parallels *p, uint64_t *index, uint64_t *ret_place);

/* Tell of damage, once. Returns -EIO. */
int parallels_corrupt(struct parallels *p, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

int parallels_set_in_use(struct parallels *p, uint32_t value);

/* Behind the last byte that BAT and extension refer to, as far as it is in the file. */
int parallels_find_end(struct parallels *p, uint64_t *ret);

/* Judge the extension of an image that is only read. */
bool parallels_check_extension(struct parallels *p, GError **error);
/* Behind the last cluster of the extension and of its bitmaps, in the file. */
uint64_t parallels_extension_end(struct parallels *p);

extern const struct blk_write_ops parallels_write_ops;
extern const struct blk_check_ops parallels_check_ops;

#endif
