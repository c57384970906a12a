#ifndef BLOCK_DRIVER_H
#define BLOCK_DRIVER_H

#include "block/blk.h"
#include "block/image.h"

/*
 * For those who write a format, a protocol or a filter. Using images: block/blk.h.
 *
 * A FORMAT IS A MAP. It never moves guest data. It answers where data is, where new
 * data should go, and afterwards that it is there; the data path reads, writes,
 * zeroes, decompresses, encrypts, copies on write and keeps requests apart. So a
 * format is tables and arithmetic, and every format gets asynchronous I/O, partial
 * writes, backing files, block status and conversion without a line of its own.
 *
 * Locking. Each format node has a metadata lock, held by the data path around every
 * operation below: a format needs no locks and no thread thoughts of its own. Locks
 * are taken from parent to child only. The plain operations may block (reading
 * metadata with blk_pread() on a child, in the calling thread); they run on pool
 * threads, or on the thread of a blocking call. The ..._cached variants run on the
 * loop's thread, must not block, and answer -EAGAIN when they would have to: then
 * the plain one is called.
 *
 * Order. The data path keeps overlapping requests of a format apart as far as that
 * matters: while reserve...publish, unmap or zero runs for a range (rounded out to
 * limits.alloc_unit), no other request is active in that range. Reads and in-place
 * writes run side by side. A format that encrypts sets alloc_unit to at least its
 * cipher's sector.
 */

/* ---- extents -------------------------------------------------------------------- */

enum blk_extent_kind {
    BLK_EXT_DATA, /* at (child, offset)                                         */
    BLK_EXT_ZERO, /* reads as zero, whatever a backing file has                 */
    BLK_EXT_UNALLOCATED, /* the backing file decides; zero without one or past its end
                          */
    BLK_EXT_COMPRESSED,  /* a chunk of stored bytes that decodes to a chunk of the guest
                          */
    BLK_EXT_INLINE, /* bytes in memory                                            */
};

/* DATA: may be overwritten where it is (not shared with a snapshot, not read-only).
 * Without it a write goes through reserve. */
#define BLK_EXT_IN_PLACE (1u << 0)
/* ZERO, UNALLOCATED: (child, offset) is reserved for it all the same. */
#define BLK_EXT_HAS_SPACE (1u << 1)
/* DATA: worth asking the child for holes (space was given out before it was written).
 */
#define BLK_EXT_SPARSE (1u << 2)

/* Room for a chunk that does not get shorter. */
#define BLK_CHUNK_ROOM(len) ((len) + (len) / 1024 + 64)

/* Turns stored bytes into a chunk and back. Stateless; any thread, in parallel. */
struct blk_codec {
    const char *name;
    /* 0, -EIO when @src is not what it should be, -ENOMEM. Fills @dst to the last
     * byte or fails; @src may have slack behind the stream. */
    int (*decode)(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_len);
    /* Bytes written to @dst, or -ENOSPC when it does not fit in @dst_max. Where
     * everything is stored encoded (blk.chunks_only), BLK_CHUNK_ROOM(src_len) must do
     * for any content. */
    int64_t (*encode)(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_max);
};

/*
 * A cipher with its key. A format that encrypts makes one in open, frees it in close,
 * and puts it into its extents and reservations. Any thread, in parallel.
 */
struct blk_crypt {
    uint32_t
        sector_bytes; /* unit of the cipher, power of two; I/O is rounded out to it */
    /* In place. @iv_offset is the byte position, a multiple of sector_bytes, that the
     * IV of the first sector comes from: 0 or -errno. */
    int (*decrypt)(const struct blk_crypt *c, uint64_t iv_offset, uint8_t *buf,
                   size_t len);
    int (*encrypt)(const struct blk_crypt *c, uint64_t iv_offset, uint8_t *buf,
                   size_t len);
};

/* The answer of map for a guest range that starts at the offset asked. */
struct blk_extent {
    enum blk_extent_kind kind;
    unsigned flags; /* BLK_EXT_... */
    uint64_t len; /* how far it goes: 1..len asked                                   */

    struct blk *child; /* DATA, COMPRESSED, or with HAS_SPACE */
    uint64_t offset;   /* DATA: in the child, of the byte asked for.
                          COMPRESSED: of the first stored byte                         */

    /* COMPRESSED: [guest_start, guest_start + guest_len), which holds the offset asked,
     * is what stored_len bytes decode to. At most 64 MiB each. */
    uint64_t stored_len;
    uint64_t guest_start;
    uint64_t guest_len;
    const struct blk_codec *codec;

    /* INLINE: at least len bytes, valid until the next operation on this node. */
    const void *bytes;

    /* DATA, COMPRESSED (stored bytes): how it is encrypted; NULL: it is not.
     * iv_offset belongs to the byte at @offset and is congruent to it modulo the
     * cipher's sector. */
    const struct blk_crypt *crypt;
    uint64_t iv_offset;
};

/* ---- formats ----------------------------------------------------------------------
 */

/*
 * Where a write shall go. The format fills in what is below the line in reserve; the
 * data path then writes [guest_start, guest_start + guest_len) there as one piece:
 * the new data in the middle, around it what the guest would have read before (copy
 * on write), unless the fill says otherwise. Then it calls publish, or cancel when
 * writing failed.
 */
enum blk_fill {
    BLK_FILL_OLD, /* with the old content */
    BLK_FILL_NO,  /* not at all: only the new data is written; guest_start and _len say
                     what publish covers (formats with sector bitmaps, or when the
                     space is known to hold the right bytes)  */
};

struct blk_reservation {
    uint64_t offset;     /* the write, within the node */
    uint64_t len;        /* reserve may shorten it: the data path comes again */
    uint64_t stored_len; /* 0: plain data; else the bytes a chunk was encoded to */
    /* -------- */
    uint64_t guest_start; /* at most offset */
    uint64_t guest_len;   /* up to offset + len at least, inside the alloc_units that
                             the write touches; for a chunk: all it decodes to */
    struct blk *child;
    uint64_t child_offset; /* where guest_start, or the stored bytes, go */
    enum blk_fill fill;    /* of plain data */
    const struct blk_crypt *crypt;
    uint64_t iv_offset; /* of guest_start */
    uint64_t tag[4];    /* the format's own, for publish and cancel */
};

/* All return 0 or -errno and may block. */
struct blk_write_ops {
    /* Before the first change since open or finish: set dirty flags, replay or start
     * logs. NULL: nothing to do. */
    int (*begin)(struct blk *b);

    /*
     * Find room for a write to an extent that is not IN_PLACE. Nothing the guest can
     * see may change yet. NULL when every extent is DATA and IN_PLACE (raw).
     */
    int (*reserve)(struct blk *b, struct blk_reservation *r);

    /*
     * The data is written (not flushed): make the metadata point to it, as one
     * transaction, in an order that leaves a sound image whenever power fails. The
     * format may keep metadata in memory until flush.
     */
    int (*publish)(struct blk *b, const struct blk_reservation *r);

    /*
     * How BLK_COMPRESS writes are encoded, and the length of a chunk (a multiple of
     * alloc_unit, at most 64 MiB), at whose multiples they begin. reserve then gets one
     * chunk with its stored_len. NULL: the format stores nothing compressed. When it
     * returns NULL, this image takes such writes as they are.
     */
    const struct blk_codec *(*codec)(const struct blk *b, uint64_t *ret_chunk);

    /* The data could not be written: give the room back. */
    void (*cancel)(struct blk *b, const struct blk_reservation *r);

    /*
     * The content of the range no longer matters; give back what can be. @ret_len says
     * how far it got, at least one byte. NULL: the data path discards the IN_PLACE
     * extents in the children instead.
     */
    int (*unmap)(struct blk *b, uint64_t offset, uint64_t len, uint64_t *ret_len);

    /*
     * Make the range read as zero through metadata, with BLK_MAY_UNMAP giving the room
     * back. -ENOTSUP for a range that cannot be done so (part of a cluster): the data
     * path writes zeros. NULL: zeroes go to the children's IN_PLACE extents.
     */
    int (*zero)(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                uint64_t *ret_len);
    bool zero_always; /* whole clusters can always be zeroed so (BLK_NO_FALLBACK) */

    /* Write back metadata; the data path flushes the children afterwards. NULL: none.
     */
    int (*flush)(struct blk *b);

    /* Before closing: footers, clear dirty flags. Only when begin was called. NULL:
     * none. */
    int (*finish)(struct blk *b);

    /* The guest's data changed in the range, by whatever way. Without meta, any thread,
     * several at a time. NULL: nobody wants to know. */
    void (*written)(struct blk *b, uint64_t offset, uint64_t len);
};

/* Absent as a group: the node cannot change its length. */
struct blk_resize_ops {
    bool (*truncate)(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                     GError **error);
};

/* One option of a driver; a table of them ends with a NULL name. */
enum blk_opt_type {
    BLK_OPT_STR,  /* string                                         */
    BLK_OPT_BOOL, /* true, false; "on", "off"; arrives as true/false */
    BLK_OPT_SIZE, /* bytes, with suffix as text; arrives as integer  */
    BLK_OPT_INT,  /* not negative; arrives as integer                */
    BLK_OPT_ENUM, /* one of values; arrives as string                */
    BLK_OPT_NODE, /* a child: object, or name of a node              */
    BLK_OPT_ANY,  /* whatever it is: the driver judges               */
};

struct blk_option {
    const char *name;
    enum blk_opt_type type;
    const char *const *values; /* ENUM: NULL-terminated */
    const char *help;          /* one line              */
    const char *def; /* of creating: the text of the default, shown to users; or NULL */
};

/* ---- images as a whole: creating, checking, snapshots; the users' side: image.h ----
 */

/* Absent as a group: images of the format cannot be created. */
struct blk_create_ops {
    const struct blk_option *options; /* "size" and what the format has; sorted as
                                         users shall see them                    */
    bool terse; /* what is said of a value that is none of the option's does not name
                   the option: users know it so */

    /*
     * Write a new image into @file, which is open for writing and growing, empty, and
     * on its way out when this fails. @opts is checked, typed, and may be changed.
     * NULL: the file of "size" bytes that the protocol makes is the image (raw).
     */
    bool (*create)(struct blk *file, json_t *opts, GError **error);

    /*
     * How large a file would be: *ret_required for @needed bytes of data in whole
     * clusters as measure->data() was told, *ret_full for all of "size". NULL:
     * raw-like.
     */
    bool (*measure)(json_t *opts, const struct blk_measure_source *source,
                    struct blk_measure *ret, GError **error);
};

/* Absent as a group: nothing to check. The node is open and no request in flight. */
struct blk_check_ops {
    /* 0, or -errno when the check itself could not go on. Fills c->result. */
    int (*check)(struct blk *b, struct blk_check *c);
};

/* Absent as a group: no internal snapshots. All with meta held, nothing in flight. */
struct blk_snapshot_ops {
    /* An array of struct blk_snapshot, owned by the caller; never NULL. */
    GArray *(*list)(struct blk *b);
    /* sn->id empty: the format chooses one, and writes it back. */
    bool (*create)(struct blk *b, struct blk_snapshot *sn, GError **error);
    bool (*apply)(struct blk *b, const char *id, GError **error);
    bool (*remove)(struct blk *b, const char *id, GError **error);
    /* Show this snapshot instead of the active state: the node must be read-only. */
    bool (*load)(struct blk *b, const char *id, GError **error);
};

/* Absent as a group: headers stay as they are. With meta held, nothing in flight. */
struct blk_amend_ops {
    const struct blk_option *options; /* what amend() takes */
    /* @force: also what loses the key to the data. */
    bool (*amend)(struct blk *b, json_t *opts, bool force,
                  const struct blk_progress *progress, GError **error);
    /* NULL name: no backing file any more. */
    bool (*set_backing)(struct blk *b, const char *name, const char *format,
                        GError **error);
    /* Throw away all content, so that everything is UNALLOCATED. Or NULL. */
    bool (*make_empty)(struct blk *b, GError **error);
};

/* Absent as a group: no dirty bitmaps are kept in images. With meta held; those that
 * change something come after begin. @name is one of list's, or an error. */
struct blk_bitmap_ops {
    bool (*able)(const struct blk *b); /* whether this image can have them; NULL: yes */
    GArray *(*list)(struct blk *b); /* of struct blk_bitmap, the caller's; never NULL */
    /* Recording, empty. @granularity 0: the format chooses. */
    bool (*add)(struct blk *b, const char *name, uint64_t granularity, GError **error);
    bool (*remove)(struct blk *b, const char *name, GError **error);
    bool (*clear)(struct blk *b, const char *name, GError **error);
    bool (*enable)(struct blk *b, const char *name, bool on, GError **error);
    bool (*set)(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                GError **error);
    /* Whether the byte at @offset is dirty, and for how long it goes on so. */
    bool (*next)(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                 bool *ret_dirty, uint64_t *ret_len, GError **error);
};

struct blk_format {
    const char *name;
    const char *help;                 /* one line */
    const struct blk_option *options; /* beside the common ones and "file" */

    /*
     * How sure we are that an image with these first @len bytes (up to 2048, fewer in a
     * shorter file) is ours: 0 no, 100 certain. NULL: never probed.
     */
    int (*probe)(const uint8_t *head, size_t len, const char *filename);

    /*
     * b->file is open; @opts holds the driver's own options, checked and typed. Sets
     * b->content_len, b->limits.alloc_unit, b->priv, and opens further children with
     * blk_open_child(). Must not write. False with @error; close is called then too,
     * and accepts a half-open node.
     */
    bool (*open)(struct blk *b, json_t *opts, GError **error);
    void (*close)(struct blk *b); /* or NULL */

    /*
     * What is at @offset; @len is at least 1 and the range is within the node. The
     * answer covers at least one byte. 0 or -errno (-EIO for damaged tables, with the
     * node marked so that the user can be told). map_cached never blocks; a format
     * whose tables are in memory gives one function for both.
     */
    int (*map)(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret);
    int (*map_cached)(struct blk *b, uint64_t offset, uint64_t len,
                      struct blk_extent *ret); /* or NULL: always map */

    bool new_is_noise; /* what was never written does not read as zero */
    bool passes_perms; /* needs of its file what its users need of it, no more (raw) */

    /*
     * The fields of the image itself for reports, into @info as blk_info() says:
     * cluster-size, format-specific... NULL: none. With meta held.
     */
    void (*info)(struct blk *b, json_t *info);

    /*
     * Where the state of the VM is kept, in the guest's offsets behind the disk; for
     * @end > 0 with the tables large enough for so many bytes of it, to be written. 0
     * or -errno. With meta held. NULL: it is not kept.
     */
    int (*vmstate)(struct blk *b, uint64_t end, uint64_t *ret_offset);

    const struct blk_write_ops *writable;     /* NULL: read-only format */
    const struct blk_resize_ops *resize;      /* NULL: fixed length     */
    const struct blk_create_ops *creatable;   /* NULL: cannot be made   */
    const struct blk_check_ops *checkable;    /* NULL: nothing to check */
    const struct blk_snapshot_ops *snapshots; /* NULL: it has none      */
    const struct blk_amend_ops *amendable;    /* NULL: nothing to amend */
    const struct blk_bitmap_ops *bitmaps;     /* NULL: it has none      */
};

/* ---- protocols and filters
 * ----------------------------------------------------------- */

struct blk_protocol {
    const char *name;
    const char *help;
    const struct blk_option *options;
    bool filter;          /* has a child "file", opened before open */
    bool names_itself;    /* reports show its b->filename, whatever users called it */
    const char *file_key; /* filter: the option that says which; NULL: "file". With a
                             key of its own the child is never probed */
    const char *name_key; /* filter: the child that "filename" means; NULL: none */

    /* As for formats. Sets b->content_len, b->limits, b->priv. */
    bool (*open)(struct blk *b, json_t *opts, GError **error);
    void (*close)(struct blk *b);

    /*
     * Do @req and call blk_req_done() once, now or later, on the loop's thread. The
     * data path guarantees: inside the node (rounded up to request_align), aligned as
     * b->limits asks in offset, length and memory, never a change to a read-only node.
     * READ behind the end of the content gives zeros. -ENOTSUP for ZERO or DISCARD
     * that the peer cannot do: the data path writes zeros, or lets it be.
     * req->driver is the driver's until done. Loop thread.
     */
    void (*submit)(struct blk *b, struct blk_req *req);

    /* The same at once, returning the result. Any thread, in parallel. */
    int (*run)(struct blk *b, struct blk_req *req);

    /* Where holes are: DATA (child NULL: here), ZERO (HAS_SPACE: with its space), or
     * UNALLOCATED, which may read as anything. NULL: all is data. Any thread. */
    int (*status)(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret);

    /*
     * Make @len bytes of @b at @offset the same extents as those of @from, a node of
     * the same protocol, at @from_offset: 0, -ENOTSUP when that cannot be for these
     * files or places, or -errno. may_share: whether it is worth trying. Any thread.
     * Both or none.
     */
    int (*share)(struct blk *b, uint64_t offset, struct blk *from, uint64_t from_offset,
                 uint64_t len);
    bool (*may_share)(struct blk *b, struct blk *from);

    /* Lock for these permissions, or change to them. NULL: nobody to ask. Filters: the
     * data path asks their child. */
    bool (*set_perms)(struct blk *b, const struct blk_perms *perms, GError **error);

    const struct blk_resize_ops *resize;

    /*
     * Make @filename new and empty, or empty what is there, "size" bytes long. NULL: it
     * must exist. @create_options ends with a NULL name.
     */
    const struct blk_option *create_options;
    bool (*create)(const char *filename, json_t *opts, GError **error);

    /* Bytes the host really uses for it, or -errno. NULL: not known. */
    int64_t (*allocated)(struct blk *b);

    const struct blk_debug_ops *debug; /* block/event.h; NULL: no interest in events */
};

/* Complete a request that submit was given. Loop thread. */
void blk_req_done(struct blk_req *req, int ret);

/* ---- the node, as its driver sees it
 * ------------------------------------------------- */

struct blk_core;
struct blk_debug_ops;

struct blk {
    /* Set before open, constant from then on. */
    const struct blk_format *format; /* one of these two is NULL */
    const struct blk_protocol *proto;
    struct loop *loop;
    char *node_name;
    char *filename;      /* of the file at the bottom, for messages; owned */
    struct blk *file;    /* child "file", or NULL */
    struct blk *backing; /* child "backing", or NULL */
    bool read_only;
    bool direct;   /* cache.direct: O_DIRECT      */
    bool no_flush; /* cache.no-flush: never sync  */

    /* Set by open; changed by truncate. */
    void *priv;
    _Atomic uint64_t content_len; /* bytes, need not be a multiple of 512 */
    bool growable;                /* protocol: a holder of BLK_PERM_RESIZE may write
                                     behind the end, which moves                     */
    struct blk_limits limits;
    bool chunks_only; /* format: all data is stored in compressed chunks, so every write
                         is one with BLK_COMPRESS */

    struct blk_core *core; /* the data path's */
};

/*
 * Open a further child of @b under @role, which is kept with the node and closed with
 * it. @options as for blk_open(); cache, aio and read-only are inherited where they
 * are not set. @read_only: never written (backing files). Borrowed. From open only.
 */
struct blk *blk_open_child(struct blk *b, const char *role, json_t *options,
                           bool read_only, GError **error);

/*
 * Open the backing file of @b, from open only. @opts is what open got: its key
 * "backing" decides: null for none, the name of a node, or an object, which what the
 * image says completes. Absent, @name and @format (NULL: probed) of the image do, @name
 * relative to the image's folder or a json: text. True without a backing file when
 * there shall be none; false with @error, also when a chain leads back to itself.
 */
bool blk_open_backing(struct blk *b, json_t *opts, const char *name, const char *format,
                      GError **error);

/* Whether discards of @b's users are wanted (discard=unmap). */
bool blk_wants_discards(const struct blk *b);

/* Flags of blk_open_args for @b itself; 0 for children. From open only. */
unsigned blk_open_flags(const struct blk *b);

/* Tell the user of something odd, "disk.qcow2: ..." in front. Any thread. */
void blk_warn(struct blk *b, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/*
 * Secret @id of those that came with the node's blk_open_args, borrowed; they outlive
 * the node. NULL with @error when there is none. From open, create and amend.
 */
GBytes *blk_secret(struct blk *b, const char *id, GError **error);
/* All of them, for opening something else. */
const struct secrets *blk_secrets(const struct blk *b);

/* Values of @opts as open got them, with a default for what is absent. */
bool blk_opt_bool(json_t *opts, const char *name, bool def);
uint64_t blk_opt_u64(json_t *opts, const char *name, uint64_t def);
const char *blk_opt_str(json_t *opts, const char *name, const char *def);

/*
 * Check and type @opts by @tables, which end with NULL: texts become what the tables
 * say. Keys that are in none are an error, which says @who and the key; with @who NULL
 * they are let be.
 */
gboolean blk_options_check(json_t *opts, const struct blk_option *const *tables,
                           const char *who, GError **error);

/* ---- the registry: block/formats.c
 * ----------------------------------------------------- */

extern const struct blk_format *const blk_formats[];     /* NULL-terminated */
extern const struct blk_protocol *const blk_protocols[]; /* NULL-terminated */

/*
 * The format of an image whose first @len bytes are @head: the one that is surest,
 * raw when nobody is. Never NULL.
 */
const struct blk_format *blk_probe(const uint8_t *head, size_t len,
                                   const char *filename);

enum { BLK_PROBE_BYTES = 2048 };

#endif
