#ifndef BLOCK_FORMAT_SLICES_H
#define BLOCK_FORMAT_SLICES_H

#include "block/event.h"

/*
 * Tables of an image in memory, in slices: pieces of a few kilobytes, found by their
 * place in the file, so that a large table does not come in whole for one entry. The
 * bytes of all slices together stay below a limit; the one used longest ago goes first.
 *
 * A slice is 1 << bits bytes at a multiple of that. The bytes of a slice belong to
 * tables: nobody else writes them while it is in memory. Changed slices are of one of a
 * few kinds, which are written back apart: the format keeps them in the order that its
 * tables refer to each other. Under the metadata lock of the format's node.
 */
struct slices;

enum { SLICES_KINDS = 2 };

/*
 * @file belongs to the caller and outlives the slices. @write_back is called when a
 * changed slice of @kind has to make room: it must at least write that kind, whatever
 * that takes before. Never NULL.
 */
struct slices *slices_new(struct blk *file, unsigned bits, uint64_t max_bytes,
                          int (*write_back)(void *opaque, unsigned kind), void *opaque);
/* What is said to the file (block/event.h) before a slice of @kind is read, and before
 * slices are written. Without it nothing is. */
void slices_events(struct slices *c, unsigned kind, enum blk_event load,
                   enum blk_event update);
void slices_free(struct slices *c); /* what was not written is lost */

/* The slice that holds @offset, or NULL when it is not in memory. Never blocks. */
uint8_t *slices_peek(struct slices *c, uint64_t offset);

/*
 * The slice that holds @offset, read when it is not there, with zeros behind the end of
 * the file; *ret points to its first byte and is good until the next call here. May
 * write others back to make room. 0, -ENOMEM or what reading and writing back say.
 */
int slices_get(struct slices *c, unsigned kind, uint64_t offset, uint8_t **ret);

/* The slice at @offset, a multiple of its size, was just written to the file as @data:
 * have it in memory without reading it. What cannot be had (-ENOMEM...) will be read.
 */
int slices_put(struct slices *c, unsigned kind, uint64_t offset, const uint8_t *data);

/* The slice was changed. It is in memory. */
void slices_dirty(struct slices *c, uint64_t offset);

/* What is in [offset, offset + len) of the file is no table any more, or was written
 * past the slices: forget it, changes included. */
void slices_forget(struct slices *c, uint64_t offset, uint64_t len);

/* All of it, changes included. */
void slices_drop(struct slices *c);

/* Write changed slices of a kind, by place. No order beyond that. */
int slices_write(struct slices *c, unsigned kind);
bool slices_changed(const struct slices *c, unsigned kind);

#endif
