#ifndef BLOCK_PROTO_LOCK_H
#define BLOCK_PROTO_LOCK_H

#include <stdbool.h>

#include <glib.h>

struct blk_perms;

/*
 * Image locks, the same byte ranges that QEMU takes, so that both can be used on one
 * host without harm.
 *
 * Bit p of the permissions has two bytes in the file (the bytes need not exist):
 *   100 + p   locked (shared) by everybody who uses p
 *   200 + p   locked (shared) by everybody who does not let others use p
 * Whoever takes p looks whether anybody else has 200 + p; whoever forbids p looks
 * whether anybody else has 100 + p. All are shared locks, since "looks" is a query for
 * a conflicting exclusive lock (F_OFD_GETLK), which one's own locks never answer.
 * The locks belong to the open file description (fcntl(2), "Open file description
 * locks") and end with it.
 */
struct file_lock {
    unsigned used;     /* bits we hold at 100 */
    unsigned unshared; /* bits we hold at 200 */
};

/* Whether the file system knows such locks. */
bool file_lock_works(int fd);

/*
 * Change what @lock holds on @fd to @perms. False with @error, and as before, when
 * another is in the way: 'Failed to get "write" lock', with @filename in the second
 * line; or when fcntl() fails.
 */
bool file_lock_set(struct file_lock *lock, int fd, const struct blk_perms *perms,
                   const char *filename, GError **error);

#endif
