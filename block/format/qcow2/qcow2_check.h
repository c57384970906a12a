#ifndef BLOCK_FORMAT_QCOW2_QCOW2_CHECK_H
#define BLOCK_FORMAT_QCOW2_QCOW2_CHECK_H

#include "block/format/qcow2/qcow2_priv.h"

/* Between check.c, which counts and compares, and rebuild.c, which writes a refcount
 * structure from what was counted. */

enum { QCOW2_PAGE_BITS = 15 };

struct checker {
    struct qcow2 *q;
    struct blk_check *c;
    uint64_t file_len;
    GHashTable *pages;    /* page number -> uint16_t or uint32_t [1 << PAGE_BITS] */
    uint64_t last_number; /* of the page used last */
    void *last_page;
    bool wide;
    uint64_t highest; /* cluster with a count of either kind */
    unsigned fix;     /* of this comparison */
    bool rebuild;
    bool widen;                     /* the structure is made anew for another width */
    struct blk_check_result walked; /* before counts were compared */
    uint64_t next_contiguous;
};

/* Count the references of everything, from the header down. -errno when it could not be
 * finished; what is wrong goes into the result. */
int qcow2_count_all(struct checker *k);

/* References of a host cluster as counted. */
uint64_t qcow2_counted(struct checker *k, uint64_t cluster);

/* The page of counts with @cluster; NULL when nothing in it was counted. @make: with
 * one when memory allows. */
void *qcow2_count_page(struct checker *k, uint64_t cluster, bool make);

/* A new structure behind everything in use, as counted; the header leads to it then.
 * The clusters of the old one are still counted. */
int qcow2_rebuild_refcounts(struct checker *k);

#endif
