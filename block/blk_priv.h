#ifndef BLOCK_BLK_PRIV_H
#define BLOCK_BLK_PRIV_H

#include <pthread.h>

#include "block/chunks.h"
#include "block/driver.h"

/*
 * Inside the data path.
 *
 * Locks, in the order they may be taken; parents before children:
 *   blk_core.meta      the format's tables and every call into the format
 *   blk_ranges.lock    the list of active ranges of one node (a leaf)
 *   blk_chunks.lock    the decoded chunks of one node (a leaf)
 * The loop's thread never sleeps on meta: whoever holds it may be waiting for a
 * request that the loop must complete.
 */

/* ---- ranges.c: who is active where ------------------------------------------- */

struct blk_range {
    uint64_t start, end;
    bool exclusive;
    bool granted;
    void (*on_grant)(struct blk_range *r); /* in the thread that released; or NULL */
    void *opaque;
    struct blk_range *prev, *next;
};

/* In order of arrival: a range waits for every earlier one it conflicts with. */
struct blk_ranges {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct blk_range *first, *last;
};

void blk_ranges_init(struct blk_ranges *rs);
void blk_ranges_done(struct blk_ranges *rs);

/* Enter [start, end) of @r, whose exclusive and on_grant are set. True when it is
 * granted at once; else on_grant follows. */
bool blk_ranges_enter(struct blk_ranges *rs, struct blk_range *r);

/* The same, waiting; on the loop's thread it keeps the loop turning. */
void blk_ranges_enter_wait(struct blk_ranges *rs, struct blk_range *r, struct loop *l);
void blk_ranges_leave(struct blk_ranges *rs, struct blk_range *r);

/* ---- iov.c ---------------------------------------------------------------------- */

/* A part of a list of buffers: @skip bytes in. iov NULL: zeros to write. */
struct blk_data {
    const struct iovec *iov;
    unsigned nb;
    uint64_t skip;
};

/* Entries for @len bytes of @d to @out, which has room for d->nb; how many. */
unsigned blk_data_slice(const struct blk_data *d, uint64_t len, struct iovec *out);
void blk_data_copy_in(const struct blk_data *d, const void *from, uint64_t len);
void blk_data_copy_out(const struct blk_data *d, void *to, uint64_t len);
void blk_data_zero(const struct blk_data *d, uint64_t len);
bool blk_data_is_zero(const struct blk_data *d, uint64_t len);
struct blk_data blk_data_at(const struct blk_data *d, uint64_t skip);
/* Where @len bytes of @d are when they are in one piece; else NULL. */
void *blk_data_flat(const struct blk_data *d, uint64_t len);

/* ---- the node's private part --------------------------------------------------------
 */

enum blk_detect { BLK_DETECT_OFF, BLK_DETECT_ON, BLK_DETECT_UNMAP };

struct blk_child {
    char *role;
    struct blk *blk;
};

struct blk_job;

/* Tell the format of @b that a request changed what the guest reads. Any thread. */
void blk_note_written(struct blk *b, enum blk_op op, uint64_t offset, uint64_t len);

struct blk_core {
    unsigned refs;
    GArray *children;                 /* of struct blk_child */
    const struct blk_open_args *args; /* while opening only */
    const struct blk *opener;         /* who opens this as a child; the same */
    bool below_format; /* holds an image, or stands before what does: never probed */
    unsigned flags;    /* BLK_OPEN_... */
    void (*warn)(void *opaque, const char *message);
    void *warn_opaque;
    const struct secrets *secrets; /* the opener's */

    struct blk_perms perms;
    bool force_share;
    bool discard;
    enum blk_detect detect;
    _Atomic bool write_cache;
    _Atomic uint64_t vmstate_at; /* behind here lies the VM's state; 0: not used */

    pthread_mutex_t meta;
    _Atomic bool begun;   /* writable->begin was called                */
    bool opened;          /* the driver's open succeeded               */
    uint8_t *probed_head; /* raw without being told so: its first bytes */
    size_t probed_len;    /* both under meta                           */

    bool ranged; /* requests of this node enter its ranges */
    struct blk_ranges ranges;

    struct blk_chunks *chunks; /* decoded, for all reads of the node */

    /* Loop thread. */
    unsigned in_flight;
    struct blk_req *done_first, **done_last;
    struct loop_bh done_bh;
    struct blk_job *free_jobs;
    unsigned nb_free_jobs;

    _Atomic uint64_t ops[BLK_OP_COUNT], failed[BLK_OP_COUNT], bytes[BLK_OP_COUNT],
        time_ns[BLK_OP_COUNT];
    _Atomic uint64_t stat_in_flight;
};

/* Bits of blk_req.state; the operation the caller asked for stands above them. */
enum { REQ_SUBMITTING = 1, REQ_DONE = 2, REQ_OP_SHIFT = 8 };

/* ---- shared by the asynchronous and the blocking path
 * --------------------------------- */

/* 0: go on, 1: nothing is left to do, or -errno. May change op and flags. */
int blk_request_check(struct blk *b, struct blk_req *req);

/* Whether a protocol can take @req as it is. */
bool blk_req_aligned(const struct blk *b, const struct blk_req *req);

/* Lock for a map: on the loop's thread it keeps the loop turning meanwhile. */
void blk_meta_lock(struct blk *b);
void blk_meta_unlock(struct blk *b);

/* What the range of a request is: rounded out to what it may disturb. */
void blk_range_of(const struct blk *b, uint64_t offset, uint64_t len,
                  struct blk_range *r);

/* Data was written up to @end: a growable node may be longer now. */
void blk_grew(struct blk *b, uint64_t end);

/* How much of @len from @offset a backing file has; 0 without one. */
uint64_t blk_backing_has(const struct blk *b, uint64_t offset, uint64_t len);

/* blocking.c */

/* How many bytes of decoded chunks a node keeps. */
enum { BLK_CHUNKS_BYTES = 32 << 20 };

/*
 * The part of a READ at @offset that @e, a COMPRESSED extent, describes. With @now only
 * when the chunk is in memory, else -EAGAIN; that never blocks.
 */
int blk_read_chunk(struct blk *b, uint64_t offset, const struct blk_extent *e,
                   const struct blk_data *d, bool now);

/* Everything is, or may be, mapped anew: for what changes images as a whole. */
void blk_forget_chunks(struct blk *b);

/* Stored bytes as what [offset, offset + len) reads as; enters the range itself. */
int blk_store_chunk(struct blk *b, uint64_t offset, uint64_t len, const void *stored,
                    uint64_t stored_len);

/* blocking.c. The caller is in the range, exclusively if it changes something. */
int blk_format_run_held(struct blk *b, enum blk_op op, uint64_t offset, uint64_t len,
                        const struct blk_data *data, unsigned flags);
/* Any request of a protocol, aligned or not; enters ranges itself. */
int blk_proto_run(struct blk *b, struct blk_req *req);
/* Write zeros where the protocol has no better way. */
int blk_proto_write_zeros(struct blk *b, uint64_t offset, uint64_t len, unsigned flags);
/* Ask for room for a write, and end it: publish, or cancel with @err, which is
 * returned. The caller is alone in the range. */
int blk_reserve(struct blk *b, struct blk_reservation *r);
int blk_finish_reservation(struct blk *b, const struct blk_reservation *r, int err);
/* Call writable->begin if nobody has. Caller holds meta. */
int blk_begin_locked(struct blk *b);

/* datapath.c */
void blk_core_free_jobs(struct blk *b);
void blk_done_bh(void *opaque);

/* formats.c: a format we know by its signature but have no driver for; or NULL. */
const char *blk_foreign_format(const uint8_t *head, size_t len);

#endif
