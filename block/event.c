#include "block/event.h"

#include <errno.h>

/* Users' break points find the node that keeps them. */

#define BLK_EVENT_NAME(id, name) name,
const char *const blk_event_names[] = {BLK_EVENTS(BLK_EVENT_NAME) NULL};

static struct blk *debug_node(struct blk *b)
{
    while (b && !blk_has_events(b)) {
        b = b->file;
    }
    return b;
}

int blk_break_set(struct blk *b, const char *event, const char *tag)
{
    struct blk *d = debug_node(b);
    return d ? d->proto->debug->break_set(d, event, tag) : -ENOTSUP;
}

int blk_break_remove(struct blk *b, const char *tag)
{
    struct blk *d = debug_node(b);
    return d ? d->proto->debug->break_remove(d, tag) : -ENOTSUP;
}

int blk_break_resume(struct blk *b, const char *tag)
{
    struct blk *d = debug_node(b);
    return d ? d->proto->debug->break_resume(d, tag) : -ENOTSUP;
}

int blk_break_stopped(struct blk *b, const char *tag)
{
    struct blk *d = debug_node(b);
    return d ? d->proto->debug->break_stopped(d, tag) : -ENOTSUP;
}
