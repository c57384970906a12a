#ifndef BLOCK_BLK_H
#define BLOCK_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <glib.h>
#include <jansson.h>

#include "lib/loop/loop.h"

/*
 * Disk images, for those who use them: devices, tools, jobs. Who writes a format
 * or a protocol reads block/driver.h next.
 *
 * An image is a graph of nodes (struct blk). A *format* node (raw, qcow2...) knows
 * where data is: it maps guest offsets to extents of its children. A *protocol*
 * node (file, nbd...) does I/O; a *filter* node (fault...) does it by way of
 * another node. A user holds the topmost node and reads, writes, flushes; the data
 * path in block/ asks the formats and moves the bytes.
 *
 *        user ── raw ── file            user ── qcow2 ── file
 *                                                 └── backing: raw ── file
 *
 * Threads. Every node belongs to one loop. Functions marked "loop thread" are for
 * that loop's thread; completions arrive there. blk_run() and what stands on it
 * block and are for any thread.
 *
 * Sizes and offsets are bytes. A guest sees whole 512-byte sectors: the length of
 * a node is its content rounded up to 512, and what lies behind the end of the
 * content reads as zero.
 */

struct blk;

/* ---- opening -------------------------------------------------------------- */

/*
 * Permissions, with the numbers QEMU gives them in its file locks. A user says
 * what it does itself and what it lets other users of the same image do.
 */
#define BLK_PERM_READ            (1u << 0) /* reads that need stable content    */
#define BLK_PERM_WRITE           (1u << 1)
#define BLK_PERM_WRITE_UNCHANGED (1u << 2) /* writes the data that is there      */
#define BLK_PERM_RESIZE          (1u << 3)
#define BLK_PERM_ALL             0xfu

struct blk_perms {
    unsigned used;   /* BLK_PERM_... this user needs            */
    unsigned shared; /* BLK_PERM_... others may have meanwhile   */
};

/* A guest's disk: others may not write (share_rw: they may). */
struct blk_perms blk_perms_guest(bool read_only, bool share_rw);

struct blk_open_args {
    struct loop *loop; /* must outlive the node */

    /* NULL: as blk_perms_guest(read-only?, false). */
    const struct blk_perms *perms;

    /*
     * Where a child is given as a string, it is the name of an existing node, and
     * this finds it (borrowed), or says NULL. NULL: no named nodes here.
     */
    struct blk *(*find_node)(void *opaque, const char *node_name);

    /*
     * Told of what is odd but no error: a probed raw image, damage found in tables.
     * NULL: not told. Any thread, as long as the node lives.
     */
    void (*warn)(void *opaque, const char *message);
    void *opaque;

    unsigned flags; /* BLK_OPEN_..., of the node itself, not of its children */

    /* Passphrases that options name; must outlive the node. NULL: none. */
    const struct secrets *secrets;
};

#define BLK_OPEN_NO_BACKING (1u << 0) /* leave the backing file closed          */
#define BLK_OPEN_NO_IO \
    (1u << 1) /* only asked about itself: other files it names stay closed      */
#define BLK_OPEN_CHECK (1u << 2) /* to be checked: damaged tables are no error  */

/*
 * Open a node and its children.
 *
 * @options  an object as QEMU's -blockdev takes it, borrowed. Values may be typed
 *           or the strings a command line has ("on", "64k"). Keys may be nested
 *           objects or dotted ("file.filename"). See block/options.h for making
 *           one from -drive and -blockdev texts. Common keys:
 *             driver         format or protocol; absent: probed from the content
 *             node-name      default: the parent's with the role ("disk.file"),
 *                            or the driver's name
 *             read-only      bool, default off
 *             discard        ignore | unmap (default ignore, as QEMU)
 *             detect-zeroes  off | on | unmap
 *             force-share    bool: read without locks, others may do anything
 *             cache          object: direct (O_DIRECT), no-flush, writeback
 *           and the driver's own; raw: file, offset, size; file: filename or fd,
 *           aio, locking. What a parent does not know but its children do
 *           (read-only, discard, cache) is inherited downwards.
 *
 * NULL with @error, which names the node's file, when: an option is unknown (with
 * the nearest name) or has a bad value; the file is missing, a directory, not
 * readable, or not writable and read-only is off; another program holds a lock on
 * it; or the format finds the image damaged. Nothing has been written then.
 * Blocks. Loop thread.
 */
struct blk *blk_open(const struct blk_open_args *args, json_t *options, GError **error);

/* The same for one file with nothing but a format (NULL: probed). */
struct blk *blk_open_path(const struct blk_open_args *args, const char *path,
                          const char *format, bool read_only, GError **error);

/* The same for an open descriptor, duplicated; the caller still closes his. It must
 * allow what is asked of it. */
struct blk *blk_open_fd(const struct blk_open_args *args, int fd, const char *format,
                        bool read_only, GError **error);

/*
 * Options for an image by the name users give: a path (with or without "file:"), or
 * "json:{...}", an object as blk_open() takes it. @format is its driver; NULL: probed,
 * or said by the json: text. The caller owns the object.
 */
json_t *blk_options_from_name(const char *name, const char *format, GError **error);

struct blk *blk_ref(struct blk *b);

/*
 * Give up a reference. The last one waits for requests in flight, writes back what
 * the format holds (not a flush of the disk's cache: see blk_flush), closes
 * children and files, and with them ends the locks. NULL is fine. Blocks. Loop
 * thread.
 */
void blk_unref(struct blk *b);

/*
 * Change what this user does and shares. False with @error, and everything as
 * before, when another user or program is in the way. Blocks. Loop thread.
 */
bool blk_set_perms(struct blk *b, const struct blk_perms *perms, GError **error);

/* ---- what a node is ---------------------------------------------------------- */

struct blk_limits {
    uint32_t request_align; /* unaligned requests work, but slower; power of two  */
    uint32_t mem_align;     /* the same for buffers                               */
    uint32_t opt_transfer;  /* a good request size, a multiple of request_align; 0 */
    uint32_t alloc_unit;    /* the format allocates this much at a time; 0: no unit */
};

/* Bytes a guest may address, a multiple of 512. Any thread. */
uint64_t blk_length(const struct blk *b);
bool blk_read_only(const struct blk *b);
const struct blk_limits *blk_get_limits(const struct blk *b);
const char *blk_get_driver_name(const struct blk *b);
const char *blk_get_node_name(const struct blk *b);

/* The file at the bottom, for messages; "" when there is none. */
const char *blk_get_filename(const struct blk *b);

/* The child @role ("file", "backing"...), borrowed; NULL when there is none. */
struct blk *blk_get_child(const struct blk *b, const char *role);

struct loop *blk_get_loop(const struct blk *b);

/*
 * Whether written data may stay in a volatile cache until blk_flush() (a disk's
 * write cache, on by default; cache=writethrough turns it off). Off, a write is on
 * stable storage when it completes. Loop thread.
 */
void blk_set_write_cache(struct blk *b, bool on);
bool blk_get_write_cache(const struct blk *b);

/* ---- asynchronous requests --------------------------------------------------- */

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO, BLK_OP_COUNT };

#define BLK_FUA       (1u << 0) /* WRITE, ZERO: on stable storage when completed    */
#define BLK_MAY_UNMAP (1u << 1) /* ZERO: the space may be given back                */
/* WRITE: store it compressed where that is shorter. Whole chunks of the format only,
 * else -EINVAL; -ENOTSUP when the format stores nothing compressed. */
#define BLK_COMPRESS (1u << 2)
/* ZERO: -ENOTSUP rather than writing zeros out one by one. */
#define BLK_NO_FALLBACK (1u << 3)

enum { BLK_REQ_DRIVER_BYTES = 192 };

/*
 * One request. The caller embeds it in his own, fills it with one of the functions
 * below, and must leave it alone until done() is called; done() may free it or use
 * it again. Nothing is allocated for a request that a protocol can do at once.
 */
struct blk_req {
    enum blk_op op;
    unsigned flags;
    uint64_t offset;
    uint64_t len;
    const struct iovec *iov; /* READ, WRITE: array and memory stay until done */
    unsigned nb_iov;

    /*
     * On the loop's thread, exactly once, never before the submitting function has
     * returned. @ret is 0, or the negative errno of the first thing that failed:
     *   -EINVAL  outside the node, or iov and len disagree
     *   -EROFS   writing to a read-only node
     *   others   from the host (-EIO, -ENOSPC...) or the format
     * A failed READ leaves the memory, a failed WRITE the image, in any mixture of
     * old and new. Later requests are not affected.
     */
    void (*done)(struct blk_req *req, int ret);

    /* The data path's. */
    struct blk *blk;
    uint64_t start_ns;
    struct blk_req *next;
    void *job;
    int ret;
    unsigned state;
    _Alignas(16) unsigned char driver[BLK_REQ_DRIVER_BYTES];
};

/*
 * Submit @req to @b. req->done has been set. Requests in flight at the same time are
 * not ordered; of overlapping writes in flight the result is one or the other or a
 * mixture by sector, as with a real disk. Loop thread.
 *
 * blk_flush    everything that completed before is on stable storage afterwards
 *              (with cache.no-flush it completes at once).
 * blk_discard  the content no longer matters. Advice: parts that cannot be given
 *              back are left alone; with discard=ignore all are.
 * blk_write_zeroes  reads as zero afterwards, written out if need be.
 */
void blk_preadv(struct blk *b, struct blk_req *req, uint64_t offset,
                const struct iovec *iov, unsigned nb_iov);
void blk_pwritev(struct blk *b, struct blk_req *req, uint64_t offset,
                 const struct iovec *iov, unsigned nb_iov, unsigned flags);
void blk_flush(struct blk *b, struct blk_req *req);
void blk_discard(struct blk *b, struct blk_req *req, uint64_t offset, uint64_t len);
void blk_write_zeroes(struct blk *b, struct blk_req *req, uint64_t offset, uint64_t len,
                      unsigned flags);

/* The same with op, flags, offset, len, iov, nb_iov and done filled by the caller. */
void blk_submit(struct blk *b, struct blk_req *req);

/* Wait until no request is in flight on @b. Loop thread. */
void blk_drain(struct blk *b);

/* ---- blocking ----------------------------------------------------------------- */

/*
 * Do one request in the calling thread and return its result: 0 or -errno as done()
 * would get it. For tools, and for formats that read and write their metadata. Any
 * thread; on the loop's thread it may run other callbacks of the loop meanwhile.
 */
int blk_run(struct blk *b, enum blk_op op, uint64_t offset, const struct iovec *iov,
            unsigned nb_iov, uint64_t len, unsigned flags);
int blk_pread(struct blk *b, uint64_t offset, void *buf, uint64_t len);
int blk_pwrite(struct blk *b, uint64_t offset, const void *buf, uint64_t len);

enum blk_prealloc {
    BLK_PREALLOC_OFF,
    BLK_PREALLOC_METADATA, /* tables only */
    BLK_PREALLOC_FALLOC,
    BLK_PREALLOC_FULL
};

/*
 * Make the image @length bytes long; what is new reads as zero. Most formats want a
 * multiple of 512. Needs BLK_PERM_RESIZE. False with @error when the format cannot, or
 * the host cannot. No request may be in flight. Loop thread.
 */
bool blk_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                  GError **error);

/*
 * The state of a whole VM that formats with internal snapshots keep beside the disk:
 * READ or WRITE @len bytes of @buf, both multiples of 512, at @offset of it. 0 or
 * -errno, -ENOTSUP where no format from @b down keeps any. blk_vmstate_offset(): where
 * it lies behind the disk, bytes; 0: nowhere. Block; any thread.
 */
int blk_vmstate(struct blk *b, enum blk_op op, uint64_t offset, void *buf,
                uint64_t len);
uint64_t blk_vmstate_offset(struct blk *b);

/* ---- where data is -------------------------------------------------------------- */

#define BLK_STATUS_DATA (1u << 0) /* may hold anything                            */
#define BLK_STATUS_ZERO (1u << 1) /* reads as zero                                */
#define BLK_STATUS_ALLOCATED \
    (1u << 2) /* this layer decides, not a backing file       */
#define BLK_STATUS_COMPRESSED (1u << 3)
#define BLK_STATUS_OFFSET     (1u << 4) /* file and file_offset are valid               */

struct blk_status {
    unsigned flags;
    uint64_t len;     /* bytes this answer is good for, from the offset asked      */
    unsigned depth;   /* 0: the node itself, 1: its backing file...                */
    struct blk *file; /* the protocol node the bytes are in, borrowed              */
    uint64_t file_offset; /* and where */
};

/*
 * What is at @offset: walks formats, backing files and, at the bottom, the holes
 * of the file. The answer may be shorter than it could be, never longer than
 * @len, and is at least one byte. 0, or -EINVAL outside the node, or -errno.
 * Blocks. Any thread.
 */
int blk_map_at(struct blk *b, uint64_t offset, uint64_t len, struct blk_status *ret);

/* ---- statistics -------------------------------------------------------------------
 */

struct blk_stats {
    uint64_t ops[BLK_OP_COUNT]; /* completed without error */
    uint64_t failed[BLK_OP_COUNT];
    uint64_t bytes[BLK_OP_COUNT];
    uint64_t time_ns[BLK_OP_COUNT]; /* from submission to completion, summed */
    uint64_t in_flight;
};

/* Asynchronous requests of this node since it was opened. Any thread. */
void blk_get_stats(const struct blk *b, struct blk_stats *ret);

/* "read", "write"... for reports. */
const char *blk_op_name(enum blk_op op);

#endif
