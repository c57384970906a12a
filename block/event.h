#ifndef BLOCK_EVENT_H
#define BLOCK_EVENT_H

#include "block/driver.h"

/*
 * Points in the life of a request that tests can hook: formats and the data path say
 * where they are, and a blkdebug node right below them makes the next request fail,
 * changes its state, or stops the request there (block/filter/blkdebug.c). Nobody
 * below: one comparison. The names are QEMU's, as its users write them into the
 * configuration of blkdebug.
 */
/* clang-format off */
#define BLK_EVENTS(X)                                                                  \
    X(L1_UPDATE, "l1_update")                                                          \
    X(L1_GROW_ALLOC_TABLE, "l1_grow_alloc_table")                                      \
    X(L1_GROW_WRITE_TABLE, "l1_grow_write_table")                                      \
    X(L1_GROW_ACTIVATE_TABLE, "l1_grow_activate_table")                                \
    X(L2_LOAD, "l2_load")                                                              \
    X(L2_UPDATE, "l2_update")                                                          \
    X(L2_UPDATE_COMPRESSED, "l2_update_compressed")                                    \
    X(L2_ALLOC_COW_READ, "l2_alloc_cow_read")                                          \
    X(L2_ALLOC_WRITE, "l2_alloc_write")                                                \
    X(READ_AIO, "read_aio")                                                            \
    X(READ_BACKING_AIO, "read_backing_aio")                                            \
    X(READ_COMPRESSED, "read_compressed")                                              \
    X(WRITE_AIO, "write_aio")                                                          \
    X(WRITE_COMPRESSED, "write_compressed")                                            \
    X(VMSTATE_LOAD, "vmstate_load")                                                    \
    X(VMSTATE_SAVE, "vmstate_save")                                                    \
    X(COW_READ, "cow_read")                                                            \
    X(COW_WRITE, "cow_write")                                                          \
    X(REFTABLE_LOAD, "reftable_load")                                                  \
    X(REFTABLE_GROW, "reftable_grow")                                                  \
    X(REFTABLE_UPDATE, "reftable_update")                                              \
    X(REFBLOCK_LOAD, "refblock_load")                                                  \
    X(REFBLOCK_UPDATE, "refblock_update")                                              \
    X(REFBLOCK_UPDATE_PART, "refblock_update_part")                                    \
    X(REFBLOCK_ALLOC, "refblock_alloc")                                                \
    X(REFBLOCK_ALLOC_HOOKUP, "refblock_alloc_hookup")                                  \
    X(REFBLOCK_ALLOC_WRITE, "refblock_alloc_write")                                    \
    X(REFBLOCK_ALLOC_WRITE_BLOCKS, "refblock_alloc_write_blocks")                      \
    X(REFBLOCK_ALLOC_WRITE_TABLE, "refblock_alloc_write_table")                        \
    X(REFBLOCK_ALLOC_SWITCH_TABLE, "refblock_alloc_switch_table")                      \
    X(CLUSTER_ALLOC, "cluster_alloc")                                                  \
    X(CLUSTER_ALLOC_BYTES, "cluster_alloc_bytes")                                      \
    X(CLUSTER_FREE, "cluster_free")                                                    \
    X(FLUSH_TO_OS, "flush_to_os")                                                      \
    X(FLUSH_TO_DISK, "flush_to_disk")                                                  \
    X(PWRITEV_RMW_HEAD, "pwritev_rmw_head")                                            \
    X(PWRITEV_RMW_AFTER_HEAD, "pwritev_rmw_after_head")                                \
    X(PWRITEV_RMW_TAIL, "pwritev_rmw_tail")                                            \
    X(PWRITEV_RMW_AFTER_TAIL, "pwritev_rmw_after_tail")                                \
    X(PWRITEV, "pwritev")                                                              \
    X(PWRITEV_ZERO, "pwritev_zero")                                                    \
    X(PWRITEV_DONE, "pwritev_done")                                                    \
    X(EMPTY_IMAGE_PREPARE, "empty_image_prepare")                                      \
    X(L1_SHRINK_WRITE_TABLE, "l1_shrink_write_table")                                  \
    X(L1_SHRINK_FREE_L2_CLUSTERS, "l1_shrink_free_l2_clusters")                        \
    X(COR_WRITE, "cor_write")                                                          \
    X(CLUSTER_ALLOC_SPACE, "cluster_alloc_space")                                      \
    X(NONE, "none")
/* clang-format on */

#define BLK_EVENT_ENUM(id, name) BLK_EVENT_##id,
enum blk_event { BLK_EVENTS(BLK_EVENT_ENUM) BLK_EVENT_COUNT };

/* The names, BLK_EVENT_COUNT of them and NULL. */
extern const char *const blk_event_names[];

/* What a protocol or filter does with events; all optional but event. Any thread. */
struct blk_debug_ops {
    /* A user of this node is at @e. May sleep until the break point is resumed. */
    void (*event)(struct blk *b, enum blk_event e);

    /* Stop the next request that comes to the event, under the name @tag. -ENOENT: no
     * such event. */
    int (*break_set)(struct blk *b, const char *event, const char *tag);
    /* Take the break points of @tag away, -ENOENT when there are none, and let go what
     * stopped there. */
    int (*break_remove)(struct blk *b, const char *tag);
    /* Let one request go on that stopped as @tag. -ENOENT. */
    int (*break_resume)(struct blk *b, const char *tag);
    /* Whether one has. */
    bool (*break_stopped)(struct blk *b, const char *tag);
};

/* A user of @b, which may be NULL, is at @e. Not on the loop's thread when it might
 * stop there: see blk_has_events(). */
static inline void blk_event(struct blk *b, enum blk_event e)
{
    if (b && b->proto && b->proto->debug) {
        b->proto->debug->event(b, e);
    }
}

/* Whether somebody looks at events of @b's users: then requests go the way that may
 * sleep. */
static inline bool blk_has_events(const struct blk *b)
{
    return b && b->proto && b->proto->debug;
}

/*
 * The same operations for users, on the first node from @b down that has them. -ENOTSUP
 * when there is none. blk_break_stopped(): 1 when a request stopped as @tag.
 */
int blk_break_set(struct blk *b, const char *event, const char *tag);
int blk_break_remove(struct blk *b, const char *tag);
int blk_break_resume(struct blk *b, const char *tag);
int blk_break_stopped(struct blk *b, const char *tag);

#endif
