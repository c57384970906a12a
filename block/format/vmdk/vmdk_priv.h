#ifndef BLOCK_FORMAT_VMDK_PRIV_H
#define BLOCK_FORMAT_VMDK_PRIV_H

#include "block/format/pages.h"
#include "block/format/vmdk/vmdk.h"

/*
 * VMDK ("Virtual Disk Format 5.0", VMware). An image is a text, the descriptor, and
 * extents that follow each other on the disk:
 *
 *     descriptor.c   reading and changing the text
 *     extent.c       headers of the files: KDMV (sparse), COWD (ESX), seSparse (ESX)
 *     map.c          where a guest offset is
 *     write.c        giving out grains, zeroing them, compressed ones
 *     create.c, check.c
 *
 * A sparse extent has grains (64 KiB) and two levels of tables:
 *
 *     offset = | grain directory index | grain table index | in grain |
 *
 * all in sectors of 512 bytes, little-endian. Entry 0: not there, the parent decides
 * (or zero); entry 1 with the flag for it: zero. Most sparse extents have both tables
 * twice ("redundant"); both are kept.
 *
 * streamOptimized: each grain is a zlib stream with a marker of 12 bytes in front. In
 * images that were written as a stream the directory is at the end, where a footer
 * repeats the header.
 */

enum {
    VMDK_SECTOR = 512,
    VMDK_HEADER_BYTES = 512,
    VMDK_MARKER_BYTES = 12,
    VMDK_DESC_SECTORS = 20,
    VMDK_GTE_ZEROED = 1,
};

#define VMDK_MAGIC_KDMV 0x4b444d56u /* big-endian, the first four bytes */
#define VMDK_MAGIC_COWD 0x434f5744u

#define VMDK_FLAG_NL_DETECT (1u << 0)
#define VMDK_FLAG_RGD       (1u << 1)
#define VMDK_FLAG_ZERO      (1u << 2)
#define VMDK_FLAG_COMPRESS  (1u << 16)
#define VMDK_FLAG_MARKER    (1u << 17)
#define VMDK_GD_AT_END      UINT64_MAX
#define VMDK_NO_PARENT      0xffffffffu

enum vmdk_kind {
    VMDK_FLAT,   /* bytes as they are      */
    VMDK_SPARSE, /* grains, 32-bit entries */
    VMDK_SE,     /* grains, 64-bit entries */
    VMDK_ZERO,   /* no file                */
};

struct vmdk_extent {
    enum vmdk_kind kind;
    char type[12];       /* of the descriptor's line; "" for an image of one file */
    struct blk *file;    /* NULL for ZERO */
    uint64_t start, len; /* on the disk, bytes */
    bool read_only;

    uint64_t flat_offset; /* FLAT: where it begins in the file */

    /* SPARSE and SE; bytes unless said otherwise */
    uint32_t version;
    bool compressed, markers, zero_grains, at_end;
    uint64_t grain;
    uint32_t gt_entries; /* of a grain table                     */
    uint64_t gd_entries; /* of the grain directory               */
    uint64_t gd, rgd;    /* where they are; rgd 0: there is none */
    uint64_t data_start; /* nothing before is a grain            */
    uint64_t se_tables, se_grains;
    struct pages *pages;
    uint64_t next; /* where the next grain goes; 0: not known yet */
};

struct vmdk {
    struct vmdk_extent *extents;
    unsigned nb_extents;
    char *create_type;
    char *backing_name;
    uint32_t cid, parent_cid;
    bool cid_checked, cid_wrong;
    uint64_t desc_offset, desc_bytes; /* of the text in b->file */
    bool desc_embedded;
    bool anywhere; /* extents may be outside of the image's folder */
};

/* ---- descriptor.c -----------------------------------------------------------------
 */

enum { VMDK_DESC_MAX = 1 << 20, VMDK_EXTENTS_MAX = 32768 };

/* A text of at most VMDK_DESC_MAX bytes at @offset of @file, ended with NUL. */
char *vmdk_read_text(struct blk *file, uint64_t offset, uint64_t max, GError **error);

/* Whether a file begins as a descriptor does. */
bool vmdk_is_text(const uint8_t *head, size_t len);

/* The value of key="value", unquoted; NULL when it is not there. Owned by the caller.
 */
char *vmdk_text_value(const char *text, const char *key);

/* CID or parentCID; false when it is not there. */
bool vmdk_text_cid(const char *text, const char *key, uint32_t *ret);

/* One extent line; *ret_skip: a line about something else. */
struct vmdk_line {
    char type[12];
    char *name; /* NULL for ZERO */
    uint64_t sectors;
    uint64_t flat_sector;
    bool read_only;
};
bool vmdk_parse_line(const char *line, struct vmdk_line *ret, bool *ret_skip,
                     GError **error);

/*
 * The path of an extent that an image names: within the folder of the image, or
 * anywhere when the user allowed it. NULL with @error. This alone decides.
 */
char *vmdk_extent_path(const struct blk *b, const char *name, bool anywhere,
                       GError **error);

/* Put a new random CID into the text. */
int vmdk_write_cid(struct blk *b);

/* ---- extent.c ---------------------------------------------------------------------
 */

/*
 * Read the header of @e->file, a sparse extent of any kind. *ret_text_at: 0, or where
 * the descriptor is when the file has no extent of its own.
 */
bool vmdk_open_sparse(struct blk *b, struct vmdk_extent *e, uint64_t *ret_text_at,
                      uint64_t *ret_text_bytes, GError **error);

/* ---- map.c ------------------------------------------------------------------------
 */

enum vmdk_grain { VMDK_GRAIN_NONE, VMDK_GRAIN_ZERO, VMDK_GRAIN_DATA };

/* Of the grain at @in bytes of @e. 0 or -errno; with @cached -EAGAIN. */
int vmdk_lookup(struct vmdk_extent *e, uint64_t in, bool cached,
                enum vmdk_grain *ret_kind, uint64_t *ret_place);

/* From @in to the end of its grain, or of the table when there is none for it. */
uint64_t vmdk_step(struct vmdk_extent *e, uint64_t in, enum vmdk_grain kind);

struct vmdk_extent *vmdk_extent_at(const struct vmdk *v, uint64_t offset);
int vmdk_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret);
int vmdk_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret);

/* Where the entry of @in is in the grain table whose directory is at @gd; 0: nowhere.
 */
int vmdk_entry_at(struct vmdk_extent *e, uint64_t gd, uint64_t in, bool cached,
                  uint64_t *ret);

/* ---- write.c ----------------------------------------------------------------------
 */

int vmdk_set_entry(struct vmdk_extent *e, uint64_t in, uint32_t value);
int vmdk_flush(struct blk *b);

extern const struct blk_write_ops vmdk_write_ops;
extern const struct blk_create_ops vmdk_create_ops;
extern const struct blk_check_ops vmdk_check_ops;

#endif
