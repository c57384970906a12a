#ifndef CMD_IMG_PIPE_H
#define CMD_IMG_PIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Work on images with all processors: pieces are taken in order, worked on side by
 * side, and finished in order. Threads that are ahead go on with later pieces, as far
 * as there is memory for them, instead of waiting for one that is late.
 *
 *     next (in order, one at a time) ─ work (side by side) ─ put (in order, one at a
 * time)
 */

struct piece {
    uint64_t offset, len; /* bytes; next's */
    unsigned kind;        /* next's own */
    bool no_work;         /* next: put can be called at once */
    uint8_t *mem;    /* work's: pipe.mem_bytes, page-aligned; kept from next to put */
    uint64_t result; /* from work to put */
    int error;       /* what next or work failed with; put gets it */
    bool unknown;    /* next failed: there is no work's result */
    uint64_t ticket;
};

enum { PIPE_END = 1 }; /* next: nothing is left */

struct pipe {
    unsigned threads; /* 0: by the processors */
    bool any_order;   /* put may be called in any order, and side by side */
    size_t mem_bytes; /* of a piece */

    /* 0 with @p filled, PIPE_END, or -errno; then the piece goes to put with error. */
    int (*next)(void *opaque, struct piece *p);
    /* 0 or -errno. Any thread, several at a time. */
    int (*work)(void *opaque, struct piece *p);
    /* 0 to go on. Anything else ends it: nothing more is put, in order. */
    int (*put)(void *opaque, struct piece *p);
    void *opaque;
};

/* What put returned when it ended it, -ENOMEM when no memory was to be had, or 0. */
int pipe_run(const struct pipe *p);

#endif
