#ifndef BLOCK_FORMAT_QCOW_QCOW_PRIV_H
#define BLOCK_FORMAT_QCOW_QCOW_PRIV_H

#include "block/driver.h"
#include "block/format/bitset.h"
#include "block/format/pages.h"

/*
 * Inside the qcow driver. All numbers in the file are big-endian:
 *
 *     0   magic "QFI\xfb", version 1
 *     8   backing file: offset (64 bits) and length of its name
 *     20  mtime of the backing file, not used
 *     24  size of the disk, bytes
 *     32  cluster_bits, l2_bits (log2 of the entries of an L2 table), padding
 *     36  encryption: 0 none, 1 AES-CBC
 *     40  offset of the L1 table
 *
 * L1 leads to L2 tables, L2 to clusters; 0 is nothing: the backing file decides. An
 * entry of L2 with its highest bit set is a compressed cluster (raw deflate):
 *
 *     | 1 | stored bytes, cluster_bits wide | place, any byte |
 *
 * Nothing counts what is in use; whatever is new goes to the end of the file. So the
 * image is sound at any moment if a reference is written after what it leads to: data,
 * flush, L2, flush, L1.
 *
 *   qcow.c   header, map, new images
 *   write.c  changing what the guest sees
 *   crypt.c  encrypted images
 */

#define QCOW_MAGIC      UINT32_C(0x514649fb)
#define QCOW_COMPRESSED (UINT64_C(1) << 63)

enum {
    QCOW_HEADER_BYTES = 48,
    QCOW_MAX_NAME = 1023,
    QCOW_MAX_L1 = INT32_MAX / 8, /* entries */
    QCOW_PAGE = 4096,
};

struct qcow {
    struct blk *b;
    struct blk *file;
    unsigned cluster_bits, l2_bits;
    uint64_t cluster_size, size;
    uint64_t l1_offset, l1_size; /* bytes in the file; entries */
    uint32_t crypt_method;       /* 0 or 1 */
    struct blk_crypt *crypt;     /* once there is a key; or NULL */
    char *backing_name;
    uint64_t end; /* of what is in use of the file; new things go behind it */
    struct pages *l1, *l2;
    struct bitset *meta; /* sectors of L2 tables, when we write; or NULL */
    bool told;           /* damage was reported */
};

static inline uint64_t qcow_table_bytes(const struct qcow *q)
{
    return UINT64_C(8) << q->l2_bits;
}

/* Tell of damage, once. Returns -EIO. */
int qcow_corrupt(struct qcow *q, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* The L2 table of L1 entry @index: 0 when there is none. -EIO when it cannot be. */
int qcow_l2_table(struct qcow *q, uint64_t index, bool cached, uint64_t *ret);

/* Whether [offset, offset + len) of the file touches header, L1 or, when they are known
 * because we write, L2 tables. */
bool qcow_is_meta(const struct qcow *q, uint64_t offset, uint64_t len);
bool qcow_over_l1(const struct qcow *q, uint64_t offset, uint64_t len);

/* For new images and the pages of old ones. */
void qcow_new_pages(struct qcow *q);

/* ---- crypt.c: keys of old images, and what new ones are to have. */
bool qcow_open_crypt(struct qcow *q, json_t *opts, GError **error);
bool qcow_take_crypt(struct qcow *q, struct blk *file, json_t *opts, GError **error);

extern const struct blk_write_ops qcow_write_ops;
extern const struct blk_amend_ops qcow_amend_ops;

#endif
