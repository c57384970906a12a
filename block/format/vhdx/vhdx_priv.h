#ifndef BLOCK_FORMAT_VHDX_PRIV_H
#define BLOCK_FORMAT_VHDX_PRIV_H

#include "block/format/pages.h"
#include "block/format/vhdx/vhdx.h"

/*
 * VHDX (MS-VHDX, "Virtual Hard Disk v2 File Format"). Little-endian, everything large
 * at multiples of 1 MiB:
 *
 *     0        "vhdxfile", who made it
 *     64 KiB   header 1     128 KiB   header 2     the valid one with the higher number
 *     192 KiB  region table 256 KiB   the same again
 *     1 MiB... log, BAT, metadata and blocks, wherever the tables say
 *
 *     header.c   headers, region tables, metadata (2.2, 2.6)
 *     log.c      writing through the log, and its replay (2.3)
 *     bat.c      the map, giving out blocks, checking (2.5)
 *     create.c
 *
 * The BAT has one 64-bit entry per block: a state in the lowest three bits, where the
 * block is in the upper 44, in MiB. After every chunk_ratio of them stands one for a
 * sector bitmap, which only images with a parent use.
 *
 * Changed BAT pages go through the log: the data is flushed, the pages are written to
 * the log and flushed, then to their place. The header names the log's GUID as long as
 * something in it may have to be replayed.
 */

enum {
    VHDX_PAGE = 4096, /* of the log and all that goes through it */
    VHDX_HEADER_1 = 64 << 10,
    VHDX_HEADER_2 = 128 << 10,
    VHDX_REGIONS_1 = 192 << 10,
    VHDX_REGIONS_2 = 256 << 10,
    VHDX_REGIONS_BYTES = 64 << 10,
    VHDX_START = 1 << 20, /* what is before belongs to the headers */
    VHDX_GUID = 16,

    H_CHECKSUM = 4,
    H_SEQUENCE = 8,
    H_FILE_GUID = 16,
    H_DATA_GUID = 32,
    H_LOG_GUID = 48,
    H_LOG_VERSION = 64,
    H_VERSION = 66,
    H_LOG_LENGTH = 68,
    H_LOG_OFFSET = 72,
};

#define VHDX_SIG_FILE     "vhdxfile"
#define VHDX_SIG_HEADER   "head"
#define VHDX_SIG_REGIONS  "regi"
#define VHDX_SIG_METADATA "metadata"

#define VHDX_SIZE_MAX  (UINT64_C(64) << 40)
#define VHDX_BLOCK_MIN (UINT64_C(1) << 20)
#define VHDX_BLOCK_MAX (UINT64_C(256) << 20)

enum vhdx_state { /* of a payload block (2.5.1.1) */
                  VHDX_NOT_PRESENT = 0,
                  VHDX_UNDEFINED = 1,
                  VHDX_ZERO = 2,
                  VHDX_UNMAPPED = 3,
                  VHDX_UNMAPPED_OLD = 5, /* of version 0.95 */
                  VHDX_PRESENT = 6,
                  VHDX_PARTLY = 7,
                  VHDX_STATE_MASK = 7,
};

#define VHDX_OFFSET_MASK (~UINT64_C(0xfffff))

enum { VHDX_REGIONS_KEPT = 16 };

struct vhdx_region {
    uint64_t start, end;
};

struct vhdx {
    struct blk *file;
    uint32_t crc_table[256];

    uint8_t header[VHDX_PAGE]; /* the valid one */
    unsigned current;          /* 0 or 1: where it is */
    uint64_t log_offset;
    uint32_t log_length;

    uint64_t bat_offset, bat_bytes;
    uint64_t meta_offset, meta_bytes;
    struct vhdx_region regions[VHDX_REGIONS_KEPT]; /* headers, log, all of the table */
    unsigned nb_regions;

    uint64_t size;
    uint32_t block_size, logical_sector;
    bool has_parent, fixed;
    uint64_t chunk_ratio, bat_entries;

    struct pages *pages; /* BAT */
    uint64_t next;       /* where the next block goes; 0: behind the end of the file */
    uint64_t log_position, log_sequence;
    bool log_replayed;
};

/* ---- header.c ---------------------------------------------------------------------
 */

void vhdx_crc_init(struct vhdx *v);
/* CRC-32C of @len bytes, going on from @crc (0 to begin). */
uint32_t vhdx_crc(const struct vhdx *v, uint32_t crc, const void *buf, size_t len);
/* The checksum of a structure whose four bytes at 4 count as zero. */
uint32_t vhdx_checksum(const struct vhdx *v, const uint8_t *p, size_t len);
void vhdx_random_guid(uint8_t *guid);
bool vhdx_is_null(const uint8_t *guid);

bool vhdx_read_headers(struct vhdx *v, GError **error);
bool vhdx_read_regions(struct vhdx *v, GError **error);
bool vhdx_read_metadata(struct vhdx *v, GError **error);

/* Write v->header with the next number, twice, so that both are valid. */
int vhdx_write_headers(struct vhdx *v);

/* Whether [start, end) is in a region; says so with the numbers of both. */
bool vhdx_overlaps(const struct vhdx *v, uint64_t start, uint64_t end, char **ret_text);

extern const uint8_t vhdx_guid_bat[VHDX_GUID], vhdx_guid_metadata[VHDX_GUID];
extern const uint8_t vhdx_guid_params[VHDX_GUID], vhdx_guid_size[VHDX_GUID];
extern const uint8_t vhdx_guid_page83[VHDX_GUID], vhdx_guid_logical[VHDX_GUID];
extern const uint8_t vhdx_guid_physical[VHDX_GUID];

/* ---- log.c ------------------------------------------------------------------------
 */

/* Look at the log, and replay it if there is something in it. */
bool vhdx_replay_log(struct blk *b, GError **error);

/* Write the changed pages, by way of the log. */
int vhdx_commit(struct vhdx *v);
int vhdx_close_log(struct vhdx *v);

/* ---- bat.c ------------------------------------------------------------------------
 */

int vhdx_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret);
int vhdx_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret);

/* Look at all entries; @found is told of each that is wrong. Returns how many, or
 * -errno. @most: stop after so many. */
int64_t vhdx_check_bat(struct vhdx *v, uint64_t most,
                       void (*found)(void *opaque, const char *line), void *opaque);

extern const struct blk_write_ops vhdx_write_ops;
extern const struct blk_create_ops vhdx_create_ops;
extern const struct blk_check_ops vhdx_check_ops;

#endif
