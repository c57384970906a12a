#ifndef BLOCK_FORMAT_QED_QED_PRIV_H
#define BLOCK_FORMAT_QED_QED_PRIV_H

#include "block/driver.h"
#include "block/format/bitset.h"
#include "block/format/slices.h"

/*
 * Inside the QED driver. All numbers in the file are little-endian:
 *
 *     cluster 0     header; the name of the backing file
 *     ...           up to header_size clusters of header
 *     anywhere      the L1 table; L2 tables; each table_size clusters
 *     anywhere      data clusters
 *
 * An entry of L1 is the place of an L2 table, or 0; an entry of L2 the place of a data
 * cluster, 0 (the backing file decides) or 1 (zeros). Nothing counts what is in use:
 * new clusters go to the end of the file, and a check finds what nobody refers to.
 *
 *   header.c  the header: reading, judging, writing; new images
 *   qed.c     opening, map, reports
 *   write.c   reserve, publish, zero, flush, resize, backing file
 *   check.c   consistency and repair
 */

#define QED_MAGIC UINT32_C(0x00444551) /* "QED\0" */

#define QED_F_BACKING    UINT64_C(1)
#define QED_F_NEED_CHECK UINT64_C(2)
#define QED_F_NO_PROBE   UINT64_C(4) /* the backing file is raw */
#define QED_F_KNOWN      UINT64_C(7)

enum {
    QED_HEADER_BYTES = 64,
    QED_MIN_CLUSTER = 1 << 12,
    QED_MAX_CLUSTER = 1 << 26,
    QED_MAX_TABLE = 16,  /* clusters */
    QED_MAX_NAME = 4095, /* what QEMU takes */
};

/* Entries of L2 that are no places. */
enum { QED_UNALLOCATED = 0, QED_ZERO = 1 };

/* Kinds of slices. */
enum { QED_L2, QED_L1 };

struct qed {
    struct blk *b;
    struct blk *file;

    /* The header's fields. */
    uint32_t cluster_size, table_size, header_size;
    uint64_t features, compat, autoclear;
    uint64_t l1_offset, size;
    uint32_t backing_offset, backing_len;
    char *backing_name;

    unsigned cluster_bits;
    uint64_t entries;     /* of a table */
    uint64_t table_bytes; /* of a table */
    uint64_t end;         /* of the last whole cluster of the file: new ones go here */

    struct slices *tables;
    struct bitset *meta; /* clusters of header and tables, when we write; or NULL */
    bool told;           /* damage was reported */
};

/* ---- header.c */

bool qed_read_header(struct qed *q, GError **error);
int qed_write_header(const struct qed *q);
/* What follows from the fields. */
void qed_derive(struct qed *q);
/* Bytes that tables can map at most. */
uint64_t qed_max_size(uint32_t cluster_size, uint32_t table_size);
extern const struct blk_create_ops qed_create_ops;

/* ---- qed.c */

/* Whether a cluster, or a table, may be at @offset: aligned, behind the header, inside
 * the file. */
bool qed_cluster_ok(const struct qed *q, uint64_t offset);
bool qed_table_ok(const struct qed *q, uint64_t offset);

/* Entry @index of the table at @table, of @kind. */
int qed_entry(struct qed *q, unsigned kind, uint64_t table, uint64_t index,
              uint64_t *ret);
int qed_set_entry(struct qed *q, unsigned kind, uint64_t table, uint64_t index,
                  uint64_t value);

/*
 * The slice of the L2 table with the entry of guest @offset, in *ret_slice, NULL
 * without a table. *ret_index is the entry within the slice, *ret_left how many the
 * slice has from there. -EAGAIN when @cached and it is not in memory.
 */
int qed_l2_slice(struct qed *q, uint64_t offset, bool cached, uint8_t **ret_slice,
                 unsigned *ret_index, unsigned *ret_left);

/* Tell of damage, once. Returns -EINVAL, which is what QEMU's users know. */
int qed_corrupt(struct qed *q, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- write.c */

/* Everything to the file, in an order that leaves a sound image wherever it stops. */
int qed_writeback(struct qed *q);
/* For slices_new(). */
int qed_make_room(void *opaque, unsigned kind);
extern const struct blk_write_ops qed_write_ops;
extern const struct blk_resize_ops qed_resize_ops;
extern const struct blk_amend_ops qed_amend_ops;

/* ---- check.c */

int qed_check(struct qed *q, struct blk_check *c);
extern const struct blk_check_ops qed_check_ops;

/*
 * Call @fn for each L1 entry that is not zero, holes of the file passed over. A value
 * other than 0 ends it.
 */
int qed_each_table(struct qed *q,
                   int (*fn)(struct qed *q, uint64_t index, uint64_t table,
                             void *opaque),
                   void *opaque);

#endif
