#ifndef BLOCK_CHUNKS_H
#define BLOCK_CHUNKS_H

#include "block/driver.h"

/*
 * Decoded chunks of one node, shared by all its reads: a chunk that is stored
 * compressed is decoded once for the requests that read parts of it, one after the
 * other or at the same time. Bounded in bytes; who was not asked for longest goes.
 *
 * What makes an entry old. A chunk is found by where it begins in the guest, and counts
 * only when the extent asked for is the one it was decoded from. Its stored bytes stay
 * what they are as long as the guest's range maps to them, and the range is only mapped
 * anew by a request that is alone in it; that one calls blk_chunks_forget() before it
 * leaves. Whoever reads is in the range, too, so it never meets an old entry.
 *
 * Any thread, but for waiting: see blk_chunks_get().
 */

struct blk_chunks;

/* A chunk, or a place for one that somebody decodes. Fields are the cache's but for
 * what is said here. */
struct blk_chunk {
    uint8_t *data; /* guest_len bytes; good once the chunk is decoded */
    uint64_t guest_start, guest_len;
    struct blk *child;
    uint64_t offset, stored_len;
    enum blk_chunk_state { BLK_CHUNK_DECODING, BLK_CHUNK_GOOD, BLK_CHUNK_BAD } state;
    unsigned refs;
    bool listed; /* in the table: others find it */
    struct blk_chunk *newer, *older;
};

/* @max_bytes of chunks are kept; one that is larger is kept alone. */
struct blk_chunks *blk_chunks_new(uint64_t max_bytes);
void blk_chunks_free(struct blk_chunks *cs); /* nobody holds a chunk any more */

/* The chunk of @e when it is decoded, referenced; else NULL. Never waits. */
struct blk_chunk *blk_chunks_peek(struct blk_chunks *cs, const struct blk_extent *e);

/*
 * The chunk of @e, referenced: decoded, or *ret_mine and the caller decodes it into
 * data and calls blk_chunks_decoded(). While somebody else is at it: waits with @wait,
 * else the caller gets a place of his own, which nobody will find. NULL: no memory.
 */
struct blk_chunk *blk_chunks_get(struct blk_chunks *cs, const struct blk_extent *e,
                                 bool wait, bool *ret_mine);

/* @c is decoded, or could not be: then those who wait get it as BAD, and it is gone. */
void blk_chunks_decoded(struct blk_chunks *cs, struct blk_chunk *c, bool good);

void blk_chunks_unref(struct blk_chunks *cs, struct blk_chunk *c);

/* The guest's range [offset, offset + len) is mapped anew. */
void blk_chunks_forget(struct blk_chunks *cs, uint64_t offset, uint64_t len);

/* Bytes of chunks that are kept now. */
uint64_t blk_chunks_bytes(struct blk_chunks *cs);

#endif
