#ifndef BLOCK_FORMAT_QCOW2_QCOW2_PRIV_H
#define BLOCK_FORMAT_QCOW2_QCOW2_PRIV_H

#include <pthread.h>

#include "block/driver.h"
#include "block/format/slices.h"

/*
 * Inside the qcow2 driver. "Spec" means the public description of the format (QEMU,
 * docs/interop/qcow2); its section names stand in the comments.
 *
 *   header.c    the first cluster: fields, extensions, names; reading, writing
 *   cache.c     the order in which tables are written back
 *   map.c       L1 and L2: where a guest offset is
 *   refcount.c  which host clusters are in use; finding free ones
 *   write.c     reserve, publish, unmap, zero, flush
 *   snapshot.c  snapshots inside the image
 *   check.c     counting everything again; repair
 *   rebuild.c   refcounts made anew
 *   create.c    new images; preallocation; measuring
 *   amend.c     size, version, backing file and other header fields of an old image
 *   qcow2.c     opening, closing, reports and the tables of operations
 *
 * Everything runs under the node's metadata lock (driver.h), so nothing here locks.
 */

enum {
    QCOW2_MIN_CLUSTER_BITS = 9,
    QCOW2_MAX_CLUSTER_BITS = 21,
    QCOW2_V2_HEADER = 72,
    QCOW2_V3_HEADER = 104,
    QCOW2_OUR_HEADER = 112, /* with compression_type, padded to 8 */
    QCOW2_MAX_SNAPSHOTS = 65536,
    QCOW2_SUBCLUSTERS = 32,
};

#define QCOW2_MAGIC             0x514649fbu
#define QCOW2_MAX_L1_BYTES      (32 * MIB)
#define QCOW2_MAX_RT_BYTES      (8 * MIB)
#define QCOW2_MAX_SNAPTAB_BYTES (64 * MIB)

/* Spec, "Header": incompatible_features and the others. */
#define QCOW2_INCOMPAT_DIRTY       (1u << 0)
#define QCOW2_INCOMPAT_CORRUPT     (1u << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (1u << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1u << 3)
#define QCOW2_INCOMPAT_EXTL2       (1u << 4)
#define QCOW2_INCOMPAT_KNOWN       0x1fu
#define QCOW2_COMPAT_LAZY          (1u << 0)
#define QCOW2_AUTOCLEAR_BITMAPS    (1u << 0)
#define QCOW2_AUTOCLEAR_DATA_RAW   (1u << 1)

/* Spec, "Cluster mapping". */
#define QCOW2_COPIED      (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED  (UINT64_C(1) << 62)
#define QCOW2_ZERO        UINT64_C(1)
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_RT_RESERVED UINT64_C(0x1ff)
/* Spec, "Extended L2 Entries". */
#define QCOW2_SUB_ALLOC(i)  (UINT64_C(1) << (i))
#define QCOW2_SUB_ZERO(i)   (UINT64_C(1) << ((i) + 32))
#define QCOW2_SUB_ALL_ZERO  UINT64_C(0xffffffff00000000)
#define QCOW2_SUB_ALL_ALLOC UINT64_C(0x00000000ffffffff)

/* A header extension that we do not know, kept as it is. */
struct qcow2_extension {
    uint32_t type, len;
    uint8_t *data;
};

struct qcow2_snapshot {
    struct blk_snapshot info;
    uint64_t l1_offset;
    uint32_t l1_size;
    uint8_t *extra; /* behind the 24 bytes of extra data that we know */
    uint32_t extra_len;
    bool has_icount;
};

/* Host clusters whose references go away once the tables are safe on disk. */
struct qcow2_pending {
    uint64_t first, count; /* clusters */
};

/* Kinds of slices (block/format/slices.h). */
enum { QCOW2_SLICE_TABLE, QCOW2_SLICE_REFS };

struct qcow2 {
    struct blk *b;
    struct blk *file; /* tables, and data unless there is a data file */
    struct blk *data; /* file, or the external data file; NULL: not opened */

    /* ---- header.c */
    unsigned version;
    unsigned cluster_bits;
    uint64_t cluster_size;
    uint64_t size; /* of the guest's disk, bytes */
    uint32_t crypt_method;
    uint64_t incompatible, compatible, autoclear;
    unsigned refcount_order; /* width in bits: 1 << order */
    uint32_t header_len;
    uint8_t compression; /* 0 deflate, 1 zstd */
    bool window_4k;      /* deflate: of what is written; not in the header */
    char *backing_name, *backing_format, *data_file_name;
    GArray *extensions;           /* of struct qcow2_extension */
    uint64_t crypt_at, crypt_len; /* the LUKS header; len 0: none */
    uint64_t bitmaps_at[3];       /* nb, directory size, offset; nb 0: none */
    char *feature_text;           /* of incompatible bits we do not know */

    /* ---- derived */
    bool extended;        /* 16-byte entries with 32 subclusters */
    unsigned entry_bytes; /* 8 or 16 */
    unsigned sub_bits;    /* log2 of a subcluster; cluster_bits without them */
    unsigned l2_bits;     /* log2 of the entries of an L2 table */
    unsigned slice_bits;  /* log2 of the bytes the cache holds as one */
    unsigned refblock_bits;
    uint64_t refcount_max;
    bool data_raw;

    /* ---- L1: in memory, host byte order */
    uint64_t l1_offset;
    uint32_t l1_size;
    uint64_t *l1;
    uint32_t l1_dirty_from, l1_dirty_to; /* entries; empty when equal */

    /* ---- refcount table: the same */
    uint64_t rt_offset;
    uint32_t rt_clusters;
    uint32_t rt_size;
    uint64_t *rt;
    uint32_t rt_dirty_from, rt_dirty_to;
    uint64_t free_hint;   /* no cluster before it is free */
    uint64_t free_byte;   /* where the next compressed chunk may go; 0: nowhere */
    GArray *pending;      /* of struct qcow2_pending */
    bool refs_need_flush; /* tables wait for refcounts that are not yet written */

    struct slices *cache;

    GArray *snapshots; /* of struct qcow2_snapshot */
    uint64_t snapshots_offset, snapshots_bytes;
    uint32_t nb_snapshots;
    bool snapshots_lost; /* opened to be checked, table not readable */

    /* ---- crypt.c: how clusters are encrypted; NULL: not, or opened without the key */
    struct luks *luks;
    struct blk_crypt *crypt;
    GBytes *passphrase; /* borrowed from the opener's secrets */

    /* ---- bitmap.c */
    GPtrArray *bitmaps;           /* of struct qcow2_bitmap, in the directory's order */
    GArray *removed;              /* of struct qcow2_bitmap_table: to be let go */
    bool bitmaps_lost;            /* opened to be checked, directory not readable */
    bool bitmaps_changed;         /* some came or went */
    _Atomic bool recording;       /* writes have to be noted */
    pthread_mutex_t bitmaps_lock; /* the bits, and the array against recording */

    bool corrupt_told; /* the first damage was reported */
    bool finished;     /* written back for good before closing */
    bool lazy;         /* lazy refcounts, for this opening */
    bool loaded_snapshot;
    bool pass_discards; /* clusters that become free are discarded in the file */
    bool sparse; /* clusters were counted that the file does not hold: preallocated */
    bool tail_unsure; /* a failed write may have left bytes behind the end */
};

static inline uint64_t qcow2_cluster_of(const struct qcow2 *q, uint64_t offset)
{
    return offset >> q->cluster_bits;
}

static inline uint64_t qcow2_clusters_for(const struct qcow2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}

static inline bool qcow2_aligned(const struct qcow2 *q, uint64_t offset)
{
    return (offset & (q->cluster_size - 1)) == 0;
}

/* Entries an L1 table needs for @size bytes of guest; may not fit 32 bits. */
static inline uint64_t qcow2_l1_entries(const struct qcow2 *q, uint64_t size)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

/* ---- header.c ------------------------------------------------------------------- */

/* Read and judge the header; with @check damage of tables behind it is let be. */
bool qcow2_read_header(struct qcow2 *q, bool check, GError **error);
void qcow2_derive(struct qcow2 *q); /* what follows from the fields */

/* The header cluster from the fields: a new buffer of cluster_size bytes, or NULL with
 * @error when it does not fit. */
uint8_t *qcow2_build_header(const struct qcow2 *q, GError **error);
int qcow2_write_header(struct qcow2 *q);
/* The feature words only, in one write. Version 3. */
int qcow2_write_features(struct qcow2 *q);
bool qcow2_table_fits(const struct qcow2 *q, const char *what, uint64_t offset,
                      uint64_t entries, uint64_t entry_bytes, uint64_t max_bytes,
                      GError **error);
void qcow2_done_header(struct qcow2 *q);

/* Damage was found: tell it once, set the corrupt bit if we may write. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- crypt.c -------------------------------------------------------------------- */

enum { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };

/* Find the key with the node's option "encrypt". */
bool qcow2_open_crypt(struct qcow2 *q, json_t *opts, GError **error);
void qcow2_close_crypt(struct qcow2 *q);

/* Where the IV of the byte at @host, which the guest sees at @guest, comes from. */
static inline uint64_t qcow2_iv(const struct qcow2 *q, uint64_t host, uint64_t guest)
{
    return q->crypt_method == QCOW2_CRYPT_LUKS ? host : guest;
}

/* Options of creating: q->crypt_method and q->crypt_len. */
bool qcow2_take_crypt(struct qcow2 *q, json_t *opts, GError **error);
/* Write a new image's LUKS header at q->crypt_at. @file: whose secrets there are. */
bool qcow2_write_crypt(struct qcow2 *q, struct blk *file, json_t *opts, GError **error);

/* The option "encrypt" that opens an image made with @opts; NULL: it needs none. */
json_t *qcow2_crypt_options(json_t *opts);

bool qcow2_amend_crypt(struct qcow2 *q, json_t *opts, bool force, GError **error);
void qcow2_crypt_info(const struct qcow2 *q, json_t *data);

/* ---- cache.c -------------------------------------------------------------------- */

/* For slices_new(): make room by writing @kind. @opaque is the struct qcow2. */
int qcow2_make_room(void *opaque, unsigned kind);

/*
 * Everything that is only in memory, in the order that keeps the image sound if power
 * fails between any two writes: refcounts, refcount table, (flush) L2 tables, (flush)
 * L1 table, (flush) references that go away. The last are on disk too afterwards.
 */
int qcow2_writeback(struct qcow2 *q);

/* The same before closing: what cannot be written is told. */
int qcow2_flush_at_end(struct qcow2 *q);

/* Up to the L2 tables: to make room in the cache. */
int qcow2_write_tables(struct qcow2 *q);

/* ---- map.c ---------------------------------------------------------------------- */

struct qcow2_entry {
    uint64_t desc;   /* the cluster descriptor with its flags */
    uint64_t bitmap; /* of subclusters; 0 without them */
};

enum qcow2_cluster {
    QCOW2_UNALLOCATED,
    QCOW2_UNALLOCATED_SPACE, /* a subcluster of a cluster that has a place */
    QCOW2_ZERO_PLAIN,
    QCOW2_ZERO_SPACE,
    QCOW2_DATA,
    QCOW2_PACKED, /* compressed */
    QCOW2_BAD,
};

/* Subcluster @sub (0 without subclusters) of @e. */
enum qcow2_cluster qcow2_kind(const struct qcow2 *q, const struct qcow2_entry *e,
                              unsigned sub);

struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const uint8_t *slice,
                                   unsigned index);
void qcow2_entry_put(const struct qcow2 *q, uint8_t *slice, unsigned index,
                     const struct qcow2_entry *e);

/* Where a compressed cluster is: first byte, and bytes up to the end of its last
 * sector. */
void qcow2_packed_place(const struct qcow2 *q, uint64_t desc, uint64_t *ret_offset,
                        uint64_t *ret_len);

/*
 * The slice of the L2 table with the entry of @offset, and the index of the entry in
 * it. *ret_slice is NULL when there is no table. *ret_at is the slice's place in the
 * file. -EAGAIN when @cached and it is not in memory.
 */
int qcow2_l2_slice(struct qcow2 *q, uint64_t offset, bool cached, uint8_t **ret_slice,
                   unsigned *ret_index, uint64_t *ret_at);
unsigned qcow2_slice_entries(const struct qcow2 *q);

int qcow2_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret);
int qcow2_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                     struct blk_extent *ret);

/* Read an L1 table; the caller owns it. */
uint64_t *qcow2_read_table(struct qcow2 *q, uint64_t offset, uint32_t entries,
                           int *ret_err);
int qcow2_write_table(struct qcow2 *q, uint64_t offset, const uint64_t *table,
                      uint32_t entries);

/* ---- refcount.c -------------------------------------------------------------------
 */

uint64_t qcow2_refs_get(unsigned order, const uint8_t *p, uint64_t index);
void qcow2_refs_put(unsigned order, uint8_t *p, uint64_t index, uint64_t value);

int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *ret);
/* Add @delta to @count clusters from @first. -EIO when one would go below zero, -ENOSPC
 * past the largest; then nothing was changed. */
int qcow2_refcount_add(struct qcow2 *q, uint64_t first, uint64_t count, int delta);

/*
 * @count clusters in a row, or at least @least of them, now with refcount 1; *ret_got
 * says how many (NULL: all of them). -ENOSPC, -EFBIG, -EIO.
 */
int qcow2_alloc(struct qcow2 *q, uint64_t count, uint64_t least, uint64_t *ret_offset,
                uint64_t *ret_got);
/* Room for @len packed bytes. */
int qcow2_alloc_bytes(struct qcow2 *q, uint64_t len, uint64_t *ret_offset);

/* One reference fewer for each cluster that [offset, offset + len) touches, as soon as
 * the tables are safe; a bounded list. */
int qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t len);
/* What an L2 entry refers to. */
int qcow2_free_entry(struct qcow2 *q, const struct qcow2_entry *e);
/* Now: nothing on disk refers to them. */
int qcow2_free_now(struct qcow2 *q, uint64_t offset, uint64_t len);
int qcow2_apply_pending(struct qcow2 *q);

/* Which table of ours lies in [offset, offset + len), or NULL: what no data may touch.
 * @all: also L2 tables and refcount blocks, which takes longer. */
const char *qcow2_overlap(const struct qcow2 *q, uint64_t offset, uint64_t len,
                          bool all);

/* ---- write.c ------------------------------------------------------------------------
 */

extern const struct blk_write_ops qcow2_write_ops;

/* An entry of the active L1 table, to be written back. */
void qcow2_l1_set(struct qcow2 *q, uint32_t index, uint64_t value);
/* A private L2 table for @l1_index. */
int qcow2_own_l2(struct qcow2 *q, uint32_t l1_index);
int qcow2_begin(struct blk *b);
int qcow2_reserve_range(struct qcow2 *q, struct blk_reservation *r);
int qcow2_publish(struct blk *b, const struct blk_reservation *r);
/* Drop whole clusters; @full: back to unallocated, whatever a backing file has. */
int qcow2_drop_clusters(struct qcow2 *q, uint64_t offset, uint64_t len, bool full,
                        uint64_t *ret_len);

/* ---- the others ---------------------------------------------------------------------
 */

bool qcow2_read_snapshots(struct qcow2 *q, GError **error);
void qcow2_free_snapshots(struct qcow2 *q);
int qcow2_write_snapshots(struct qcow2 *q);
/* @delta to all that an L1 table refers to, and flags of the tables as the new counts
 * are. @active: the entries of the active table, in memory. */
int qcow2_refs_of_l1(struct qcow2 *q, uint64_t *l1, uint32_t l1_size, int delta,
                     bool active);
extern const struct blk_snapshot_ops qcow2_snapshot_ops;
extern const struct blk_check_ops qcow2_check_ops;
extern const struct blk_create_ops qcow2_create_ops;
extern const struct blk_resize_ops qcow2_resize_ops;
extern const struct blk_amend_ops qcow2_amend_ops;

/* Refcounts of 1 << @order bits from now on. */
bool qcow2_change_width(struct qcow2 *q, unsigned order, GError **error);

/* Check and repair an image that was not closed (dirty bit). */
bool qcow2_repair_dirty(struct qcow2 *q, GError **error);

/* vmstate.c: blk_format.vmstate */
int qcow2_vmstate(struct blk *b, uint64_t end, uint64_t *ret_offset);

bool qcow2_grow_l1(struct qcow2 *q, uint64_t entries, GError **error);
/* Give [from, to) of the guest a place, without writing it. */
bool qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to,
                       enum blk_prealloc mode, GError **error);

#endif
