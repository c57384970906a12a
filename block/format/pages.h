#ifndef BLOCK_FORMAT_PAGES_H
#define BLOCK_FORMAT_PAGES_H

#include "block/driver.h"

/*
 * Tables of a file in memory, by pages that are found by their place. For formats whose
 * tables lie where they are (vdi, vpc, vmdk, vhdx): a table of any size costs the
 * memory of what is used of it.
 *
 * What is changed is remembered by the sector and the byte, so a page may hold
 * something else beside tables: guest data next to one, or in the sectors between two,
 * is never written back. All calls with the node's metadata lock held; the plain ones
 * may block.
 */

struct pages;

/* Bytes of a sector of 512; equal: nothing was changed. */
struct page_span {
    uint16_t from, to;
};

struct page {
    uint64_t offset; /* in the file, a multiple of the page's size */
    bool dirty;
    struct page_span *spans; /* what was changed of each sector */
    uint8_t *data;
    struct page *newer, *older;
};

/* Pages of @page_bytes (a power of two, 512 or more) of @file, together at most about
 * @max_bytes. */
struct pages *pages_new(struct blk *file, uint32_t page_bytes, uint64_t max_bytes);

/* What was changed and not written is lost. NULL is fine. */
void pages_free(struct pages *p);

/*
 * Do this instead of pages_write() when room is needed and all is changed (a log to be
 * written first). It must leave no page dirty.
 */
void pages_on_full(struct pages *p, int (*write)(void *opaque), void *opaque);

/*
 * *ret: the byte at @offset and what follows in its page, until the next pages_get().
 * What the file does not have reads as zero. @cached: -EAGAIN rather than reading.
 */
int pages_get(struct pages *p, uint64_t offset, bool cached, uint8_t **ret);

/* [offset, offset + len), which lies in one page that pages_get() gave, was changed. */
void pages_dirty(struct pages *p, uint64_t offset, uint32_t len);

/* Fetch and store one little- or big-endian entry. */
int pages_get_le32(struct pages *p, uint64_t offset, bool cached, uint32_t *ret);
int pages_get_be32(struct pages *p, uint64_t offset, bool cached, uint32_t *ret);
int pages_put_le32(struct pages *p, uint64_t offset, uint32_t value);
int pages_put_be32(struct pages *p, uint64_t offset, uint32_t value);

/* Copy @len bytes in or out, across pages. */
int pages_read(struct pages *p, uint64_t offset, void *buf, uint64_t len);
int pages_store(struct pages *p, uint64_t offset, const void *buf, uint64_t len);

/*
 * Flush the file, so that the data which the tables point to is there, then write what
 * was changed, in order of place. 0 or -errno.
 */
int pages_write(struct pages *p);

/* The changed pages in order of place; the array is the caller's, the pages are not. */
GPtrArray *pages_changed(struct pages *p);
void pages_clean(struct pages *p, struct page *page);

/*
 * Make [offset, offset + len) of @file read as zero, for new tables and clusters that
 * are not written as a whole: what is behind the end of the file is zero already, and
 * the file is made to reach that far.
 */
int pages_zero_space(struct blk *file, uint64_t offset, uint64_t len);

#endif
