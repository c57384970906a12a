#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include "block/blk.h"

/*
 * Images as a whole: making, describing, checking, repairing, snapshots inside,
 * headers. For tools and the daemon; moving data is block/blk.h. Everything here
 * blocks, is for the node's loop thread, and wants no request in flight.
 */

struct blk_option;

/* ---- creating ------------------------------------------------------------------ */

/*
 * Options of creating an image are one object: "size", "preallocation" and what the
 * format and the file below have, as text or typed. The tables that describe them give
 * `-o help`, the parser and the line that says what is being made.
 */
struct blk_create_tables {
    const struct blk_option *format;   /* end with a NULL name; or NULL */
    const struct blk_option *protocol; /* of the file below; NULL when not asked for */
};

/*
 * The tables of @format, and of the protocol that @filename names (NULL: none). False
 * with @error: unknown, or images of this format cannot be made.
 */
bool blk_create_options(const char *format, const char *filename,
                        struct blk_create_tables *ret, GError **error);

/*
 * Check and type @opts, and fill in the defaults of the tables. False with @error, in
 * the words that QEMU's users know ("Invalid parameter 'x'"). Options that are one of a
 * few words are judged when the image is made.
 */
bool blk_create_prepare(const struct blk_create_tables *t, json_t *opts,
                        GError **error);

/*
 * Make an image of @format in @filename; what was there is lost. @opts went through
 * blk_create_prepare(). @args gives loop and callbacks. False with @error: the file
 * could not be made, a lock is in the way, or the options do not go together. What was
 * half made is then empty or invalid, never an image with wrong content.
 */
bool blk_create(const struct blk_open_args *args, const char *format,
                const char *filename, json_t *opts, GError **error);

/* Whether what was never written of a new image like @b reads as zero. */
bool blk_new_is_zero(const struct blk *b);

/* Whether every place of @b has its data where it always was and will be (raw, luks):
 * then it does not matter in which order it is written. */
bool blk_is_flat(const struct blk *b);

/* ---- measuring ------------------------------------------------------------------ */

struct blk_measure {
    uint64_t required; /* bytes the file needs for the data there is */
    uint64_t full;     /* when every cluster is written              */
};

/*
 * What will be stored: how many of the @cluster-sized pieces hold data. -errno when the
 * source cannot be read. NULL data: all of it.
 */
struct blk_measure_source {
    int64_t (*clusters)(void *opaque, uint64_t cluster);
    void *opaque;
};

bool blk_measure(const char *format, json_t *opts, const struct blk_measure_source *src,
                 struct blk_measure *ret, GError **error);

/* ---- describing ------------------------------------------------------------------ */

/*
 * All there is to say about @b, as an object with the names of QEMU's ImageInfo:
 * virtual-size, filename, format, actual-size, cluster-size, dirty-flag,
 * backing-filename, full-backing-filename, backing-filename-format, snapshots,
 * format-specific. Text and JSON reports both come from it. @filename is what the user
 * calls it. The caller owns the object. NULL with @error.
 */
json_t *blk_info(struct blk *b, const char *filename, GError **error);

/* Where backing file @name of an image at @image is: a new string. */
char *blk_backing_path(const char *image, const char *name);

/* ---- checking -------------------------------------------------------------------- */

#define BLK_FIX_LEAKS  (1u << 0)
#define BLK_FIX_ERRORS (1u << 1)

struct blk_check {
    unsigned fix; /* BLK_FIX_...; then the node must be writable */
    /* One line without its end about each thing found. @error: not a mere note. */
    void (*report)(void *opaque, bool error, const char *line);
    void *opaque;

    struct blk_check_result {
        uint64_t corruptions, leaks, check_errors;
        uint64_t corruptions_fixed, leaks_fixed;
        uint64_t image_end_offset;
        uint64_t total_clusters, allocated_clusters;
        uint64_t fragmented_clusters, compressed_clusters;
    } result;
};

/*
 * Check the tables of @b and, as c->fix says, repair them. 0 with c->result; -ENOTSUP
 * when the format has nothing to check; -errno when the check could not be finished.
 */
int blk_check(struct blk *b, struct blk_check *c);

/* ---- snapshots inside an image ------------------------------------------------------
 */

struct blk_snapshot {
    char id[128];           /* unique in the image, a number for those we make */
    char name[256];         /* what the user calls it; need not be unique      */
    uint64_t vm_state_size; /* bytes; 0: disk only                     */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec; /* how long the guest had run              */
    uint64_t icount;        /* instructions, UINT64_MAX: not counted   */
    uint64_t disk_size;     /* bytes                                   */
};

/* Whether images like @b can have snapshots at all. */
bool blk_has_snapshots(const struct blk *b);

/* An array of struct blk_snapshot, the caller's; empty when there are none or the
 * format has none. */
GArray *blk_snapshots(struct blk *b);

/*
 * The snapshot with this id and name; either may be NULL. Index, or -1.
 * blk_snapshot_find() takes one text: an id first, else a name.
 */
int blk_snapshot_match(const GArray *list, const char *id, const char *name);
int blk_snapshot_find(const GArray *list, const char *id_or_name);

bool blk_snapshot_create(struct blk *b, struct blk_snapshot *sn, GError **error);
bool blk_snapshot_apply(struct blk *b, const char *id, GError **error);
bool blk_snapshot_delete(struct blk *b, const char *id, GError **error);

/* Read @b as it was in the snapshot, from now on; @b is read-only. */
bool blk_snapshot_load(struct blk *b, const char *id, GError **error);

/* ---- dirty bitmaps inside an image --------------------------------------------------
 */

struct blk_bitmap {
    char name[1024];
    uint64_t granularity; /* bytes that a bit stands for */
    bool recording;       /* writes are noted */
    bool inconsistent;    /* its user crashed: it can only be removed */
};

/* Whether images like @b can have bitmaps at all. */
bool blk_has_bitmaps(const struct blk *b);

/* Whether @b itself can take new ones. */
bool blk_takes_bitmaps(const struct blk *b);

/* An array of struct blk_bitmap, the caller's. */
GArray *blk_bitmaps(struct blk *b);

/* @granularity 0: what fits the image. */
bool blk_bitmap_add(struct blk *b, const char *name, uint64_t granularity,
                    GError **error);
bool blk_bitmap_remove(struct blk *b, const char *name, GError **error);
bool blk_bitmap_clear(struct blk *b, const char *name, GError **error);
bool blk_bitmap_enable(struct blk *b, const char *name, bool on, GError **error);

/* Add to bitmap @name of @b all that is dirty in @from of @source, which may be @b. */
bool blk_bitmap_merge(struct blk *b, const char *name, struct blk *source,
                      const char *from, GError **error);

/* Whether the byte at @offset is dirty in @name; *ret_len bytes, at most @len, are
 * alike. */
bool blk_bitmap_next(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                     bool *ret_dirty, uint64_t *ret_len, GError **error);

/* ---- changing headers
 * ----------------------------------------------------------------- */

/* Told how far something that takes long is. */
struct blk_progress {
    void (*at)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

const struct blk_option *blk_amend_options(const struct blk *b);
/* @force: also what makes the data unreadable for good (the last key of a LUKS header).
 */
bool blk_amend(struct blk *b, json_t *opts, bool force,
               const struct blk_progress *progress, GError **error);
bool blk_set_backing(struct blk *b, const char *name, const char *format,
                     GError **error);
bool blk_make_empty(struct blk *b, GError **error);

/* ---- compressed chunks, in two steps ------------------------------------------------
 */

/*
 * For tools that encode on several cores but store in order. blk_chunk() is the length
 * of a chunk, 0 when the format stores nothing compressed; blk_chunks_only() says
 * whether the image stores all data so. blk_encode() returns the bytes written to
 * @stored (blk_chunk_room() bytes), 0 when the chunk does not get shorter and may be
 * stored plain, or -errno; any thread. blk_write_encoded() stores them as what @offset,
 * a multiple of the chunk, reads as; any thread.
 */
uint64_t blk_chunk(const struct blk *b);
uint64_t blk_chunk_room(const struct blk *b);
bool blk_chunks_only(const struct blk *b);
int64_t blk_encode(struct blk *b, const void *plain, uint64_t len, void *stored);
int blk_write_encoded(struct blk *b, uint64_t offset, const void *stored,
                      uint64_t stored_len);

/* ---- extents that two images share
 * ------------------------------------------------------------------ */

/* Whether blk_share() is worth trying: both are on one file system that can do it. */
bool blk_may_share(struct blk *from, struct blk *to);

/*
 * Have @to at @to_offset hold what @from has at @from_offset, by sharing the extents of
 * the files below; a write to @to in every other respect. 0 with how far it got, at
 * least one byte, in *ret_len; or -EAGAIN   not for the first *ret_len bytes: they must
 * be copied (edges of clusters, what is no plain data) -ENOTSUP  not between these
 * images others    as of writing Any thread.
 */
int blk_share(struct blk *from, uint64_t from_offset, struct blk *to,
              uint64_t to_offset, uint64_t len, uint64_t *ret_len);

/*
 * Give up the last reference as blk_unref() does, but say when what the format held
 * could not be written. @b is gone in either case.
 */
bool blk_close(struct blk *b, GError **error);

/* Whether there is a format or protocol of this name. */
bool blk_is_driver(const char *name);

/* The drivers, for lists: formats[i], then protocols; NULL past the end. */
const char *blk_driver_name(unsigned i);

#endif
