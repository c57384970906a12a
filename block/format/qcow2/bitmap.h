#ifndef BLOCK_FORMAT_QCOW2_BITMAP_H
#define BLOCK_FORMAT_QCOW2_BITMAP_H

#include "block/format/qcow2/qcow2_priv.h"

/*
 * Dirty bitmaps kept in the image (Spec, "Bitmaps extension"): which parts of the disk
 * were written since the bitmap was made or cleared.
 *
 * They come into memory when the image begins to change; those that record are marked
 * in use on disk then, so that after a crash nobody trusts them, and all that changed
 * are written to new clusters when the image is closed.
 */

#define QCOW2_BITMAP_IN_USE 1u
#define QCOW2_BITMAP_AUTO   2u /* it records */

struct qcow2_bitmap {
    char *name;
    unsigned shift;    /* log2 of the bytes that a bit stands for */
    uint32_t flags;    /* as on disk when the image was opened, AUTO as it is now */
    uint64_t flags_at; /* where they are in the file; 0: not there yet */
    uint64_t table_at; /* 0: not there yet */
    uint32_t entries;
    uint8_t *extra;
    uint32_t extra_len;
    bool inconsistent; /* in use by somebody who did not come back */

    /* One for each cluster of bits: NULL all 0, QCOW2_ONES all 1, or the bits. Under
     * bitmaps_lock. NULL: not in memory. */
    uint8_t **chunks;
    uint32_t nb_chunks;
    bool changed;
};

/* Clusters that a bitmap had on disk. */
struct qcow2_bitmap_table {
    uint64_t at;
    uint32_t entries;
};

extern uint8_t qcow2_ones[1];
#define QCOW2_ONES qcow2_ones

bool qcow2_read_bitmaps(struct qcow2 *q, GError **error);
void qcow2_free_bitmaps(struct qcow2 *q);
struct qcow2_bitmap *qcow2_find_bitmap(const struct qcow2 *q, const char *name);
/* One that nobody may use, or NULL. */
const struct qcow2_bitmap *qcow2_inconsistent_bitmap(const struct qcow2 *q);
void qcow2_bitmap_free(void *bitmap);

/* Bring it into memory: 0 or -errno. */
int qcow2_load_bitmap(struct qcow2 *q, struct qcow2_bitmap *m);

/* Bits that a disk of @size bytes has, and chunks for them. */
uint64_t qcow2_bitmap_bits(uint64_t size, unsigned shift);
uint32_t qcow2_bitmap_chunks(const struct qcow2 *q, uint64_t size, unsigned shift);

/* The image begins to change: recording ones are loaded and marked. */
int qcow2_begin_bitmaps(struct qcow2 *q);
/* The image is closed: write what changed. */
int qcow2_store_bitmaps(struct qcow2 *q);
/* Before the disk gets @size bytes. */
int qcow2_resize_bitmaps(struct qcow2 *q, uint64_t size);
/* Set the bits from @first up to @end. Under bitmaps_lock. */
void qcow2_bitmap_set(struct qcow2 *q, struct qcow2_bitmap *m, uint64_t first,
                      uint64_t end);

/* The guest's data changed. Any thread. */
void qcow2_written(struct blk *b, uint64_t offset, uint64_t len);

void qcow2_bitmap_info(const struct qcow2 *q, json_t *data);
extern const struct blk_bitmap_ops qcow2_bitmap_ops;

#endif
