#ifndef BLOCK_FILTER_BLKDEBUG_RULES_H
#define BLOCK_FILTER_BLKDEBUG_RULES_H

#include "block/event.h"

/* The rules of a blkdebug node: where they come from, and which of them act now. */

enum blkdebug_io {
    BLKDEBUG_READ,
    BLKDEBUG_WRITE,
    BLKDEBUG_WRITE_ZEROES,
    BLKDEBUG_DISCARD,
    BLKDEBUG_FLUSH,
    BLKDEBUG_BLOCK_STATUS,
    BLKDEBUG_IO_COUNT
};

enum blkdebug_action { BLKDEBUG_INJECT, BLKDEBUG_SET_STATE, BLKDEBUG_SUSPEND };

struct blkdebug_rule {
    enum blk_event event;
    int64_t state; /* the node must be in this one; 0: any */
    enum blkdebug_action action;
    /* INJECT */
    int error; /* positive errno; 0: only takes the place of other errors */
    unsigned io_mask;
    int64_t offset; /* the byte that a request must touch; -1: any */
    bool once;
    /* SET_STATE */
    int64_t new_state;
    /* SUSPEND */
    char *tag;

    bool active;  /* INJECT: waits for a request to fail */
    uint64_t nth; /* of becoming active: the last one is asked first */
};

/* A GArray of struct blkdebug_rule that frees tags. */
GArray *blkdebug_rules_new(void);

/* Add the rules of the options "inject-error" and "set-state": lists, or objects with
 * numbers as keys. False with @error, in QEMU's words. */
bool blkdebug_rules_options(GArray *rules, json_t *opts, GError **error);

/*
 * Add those of a file: sections [inject-error] and [set-state] with lines of
 * key = "value", # for comments. Read as a whole, 1 MiB at most.
 */
bool blkdebug_rules_file(GArray *rules, const char *path, GError **error);

/* The event of this name; BLK_EVENT_COUNT: none. */
enum blk_event blkdebug_event(const char *name);

/*
 * The node's user is at @e: rules become active, *state moves on. How many suspend
 * rules were hit; each is taken off @rules, its tag goes to @tags (strings, owned).
 */
void blkdebug_rules_event(GArray *rules, int64_t *state, enum blk_event e,
                          bool may_stop, GPtrArray *tags);

/* The errno (positive) that a request shall fail with, 0 for none. */
int blkdebug_rules_request(GArray *rules, enum blkdebug_io io, uint64_t offset,
                           uint64_t len);

#endif
