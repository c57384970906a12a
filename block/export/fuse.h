#ifndef BLOCK_EXPORT_FUSE_H
#define BLOCK_EXPORT_FUSE_H

#include <stdbool.h>

#include <glib.h>

#include "block/blk.h"

/*
 * An image as a raw file: a regular file that is there already is covered by a FUSE
 * mount, whose only inode is the content of the image. For hosts without an NBD driver,
 * and for programs that know raw files alone. All functions: the loop's thread.
 */

struct fuse_export;

struct fuse_export_opts {
    struct blk *blk;        /* a reference is taken; its loop does the work      */
    const char *mountpoint; /* a regular file                                    */
    bool writable;          /* ignored for a read-only image                     */
    bool growable;          /* writing behind the end makes the image longer;
                               needs BLK_PERM_RESIZE, as truncating does         */
    bool allow_other;       /* other users may open it, as its mode allows       */

    /* Somebody has unmounted it. May be NULL. */
    void (*ended)(void *opaque);
    void *opaque;
};

/* Mount. NULL with @error. */
struct fuse_export *fuse_export_new(const struct fuse_export_opts *o, GError **error);

/* Unmount, wait for requests in flight, give up the image. NULL is fine. */
void fuse_export_free(struct fuse_export *e);

#endif
