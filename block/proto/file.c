#include "block/proto/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/proto/lock.h"
#include "lib/base/base.h"

/*
 * file: regular files and block devices, through the loop's I/O (io_uring or threads).
 *
 * A request becomes one loop_io kept in blk_req.driver; the blocking run() makes the
 * same loop_io and does it at once. Zeroes and discards are fallocate() modes tried
 * from the best to the plainest; what the file system answers "not supported" to is
 * remembered, and when nothing is left the data path writes zeros.
 *
 * After a failed fsync() Linux may have dropped the dirty pages and calls the next
 * fsync() a success, although data is lost. So without O_DIRECT the first error
 * sticks: every later flush fails with it, and the guest learns.
 */

enum {
    WAY_PUNCH = 1,      /* FALLOC_FL_PUNCH_HOLE */
    WAY_ZERO_RANGE = 2, /* FALLOC_FL_ZERO_RANGE */
    WAYS = 2,
};

struct file {
    int fd;
    enum loop_io_engine engine;
    bool device;
    bool locking;
    _Atomic unsigned cannot; /* WAY_... that this file system refused */
    _Atomic int sync_error;  /* the errno that sticks */
    struct file_lock lock;

    /*
     * The last stretch of data that was looked up. Some file systems walk all of it to
     * find its end (tmpfs), and who maps an image asks once per cluster. It may be out
     * of date towards "data", which is always a right answer.
     */
    pthread_mutex_t data_lock;
    uint64_t data_from, data_to;
};

struct file_req {
    struct loop_io io;
    unsigned way; /* of fallocate() */
};

_Static_assert(sizeof(struct file_req) <= BLK_REQ_DRIVER_BYTES, "blk_req.driver");

/* ---- requests -------------------------------------------------------------------- */

static bool file_known_data(struct file *f, uint64_t offset, struct blk_extent *ret)
{
    pthread_mutex_lock(&f->data_lock);
    bool known = offset >= f->data_from && offset < f->data_to;
    if (known) {
        ret->len = MIN(ret->len, f->data_to - offset);
    }
    pthread_mutex_unlock(&f->data_lock);
    return known;
}

static void file_forget_data(struct file *f)
{
    pthread_mutex_lock(&f->data_lock);
    f->data_to = 0;
    pthread_mutex_unlock(&f->data_lock);
}

static unsigned file_way(const struct file *f, const struct blk_req *req)
{
    unsigned cannot = atomic_load(&f->cannot);
    if ((req->op == BLK_DISCARD || (req->flags & BLK_MAY_UNMAP)) &&
        !(cannot & WAY_PUNCH)) {
        return WAY_PUNCH;
    }
    if (req->op == BLK_ZERO && !(cannot & WAY_ZERO_RANGE)) {
        return WAY_ZERO_RANGE;
    }
    return 0;
}

/* Fill @fr for the next step of @req; false when there is no way. */
static bool file_fill(struct blk *b, const struct blk_req *req, struct file_req *fr)
{
    const struct file *f = b->priv;
    bool fua = (req->flags & BLK_FUA) && !b->no_flush;
    fr->way = 0;
    fr->io = (struct loop_io){
        .engine = f->engine,
        .fd = f->fd,
        .offset = req->offset,
        .len = req->len,
    };
    switch (req->op) {
    case BLK_READ:
    case BLK_WRITE:
        fr->io.op = req->op == BLK_READ ? LOOP_IO_READ : LOOP_IO_WRITE;
        fr->io.iov = req->iov;
        fr->io.nb_iov = req->nb_iov;
        fr->io.flags = req->op == BLK_WRITE && fua ? LOOP_IO_DSYNC : 0;
        return true;
    case BLK_FLUSH:
        fr->io.op = LOOP_IO_FSYNC;
        fr->io.flags = LOOP_IO_DATASYNC;
        return true;
    default:
        fr->way = file_way(f, req);
        fr->io.op = LOOP_IO_FALLOCATE;
        fr->io.mode = fr->way == WAY_PUNCH ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                                           : FALLOC_FL_ZERO_RANGE;
        return fr->way != 0;
    }
}

/* Bytes of @req behind the @got that the file had read as zero. */
static void file_zero_rest(const struct blk_req *req, uint64_t got)
{
    for (unsigned i = 0; i < req->nb_iov; i++) {
        const struct iovec *v = &req->iov[i];
        if (got < v->iov_len) {
            memset((char *)v->iov_base + got, 0, v->iov_len - got);
            got = 0;
        } else {
            got -= v->iov_len;
        }
    }
}

/*
 * What the result @ret of a step means: 0 or -errno to finish the request with, or 1
 * when another step must follow, which *fr is filled for.
 */
static int file_next(struct blk *b, const struct blk_req *req, struct file_req *fr,
                     int64_t ret)
{
    struct file *f = b->priv;
    if (fr->way && (ret == -EOPNOTSUPP || ret == -ENODEV || ret == -EINVAL)) {
        atomic_fetch_or(&f->cannot, fr->way);
        return file_fill(b, req, fr) ? 1 : -ENOTSUP;
    }
    if (fr->io.op == LOOP_IO_FSYNC) {
        if (ret < 0 && !b->direct) {
            int none = 0;
            atomic_compare_exchange_strong(&f->sync_error, &none, (int)-ret);
        }
        int stuck = atomic_load(&f->sync_error);
        return ret < 0 ? (int)ret : -stuck;
    }
    if (ret < 0) {
        return (int)ret;
    }
    if (fr->way) {
        file_forget_data(f);
    }
    if (req->op == BLK_READ && (uint64_t)ret < req->len) {
        file_zero_rest(req, (uint64_t)ret);
    }
    if (req->op == BLK_ZERO && (req->flags & BLK_FUA) && !b->no_flush) {
        fr->way = 0;
        fr->io.op = LOOP_IO_FSYNC;
        fr->io.flags = LOOP_IO_DATASYNC;
        return 1;
    }
    return 0;
}

static void file_io_done(struct loop_io *io, int64_t ret)
{
    struct file_req *fr = container_of(io, struct file_req, io);
    struct blk_req *req = container_of((unsigned char(*)[BLK_REQ_DRIVER_BYTES])fr,
                                       struct blk_req, driver);
    int r = file_next(req->blk, req, fr, ret);
    if (r == 1) {
        fr->io.done = file_io_done;
        loop_io_submit(req->blk->loop, &fr->io);
    } else {
        blk_req_done(req, r);
    }
}

/* A block device's discard is an ioctl, which knows no io_uring. */
static int file_discard_device(const struct file *f, const struct blk_req *req)
{
    uint64_t range[2] = {req->offset, req->len};
    if (ioctl(f->fd, BLKDISCARD, range) == 0) {
        return 0;
    }
    return errno == EOPNOTSUPP || errno == ENOTTY ? -ENOTSUP : -errno;
}

static int file_run(struct blk *b, struct blk_req *req)
{
    struct file_req fr;
    const struct file *f = b->priv;
    if (f->device && req->op == BLK_DISCARD) {
        return file_discard_device(f, req);
    }
    if (!file_fill(b, req, &fr)) {
        return -ENOTSUP;
    }
    int r;
    do {
        r = file_next(b, req, &fr, loop_io_run(&fr.io));
    } while (r == 1);
    return r;
}

struct file_work {
    struct loop_work work;
    struct blk_req *req;
    int ret;
};

_Static_assert(sizeof(struct file_work) <= BLK_REQ_DRIVER_BYTES, "blk_req.driver");

static void file_work_run(struct loop_work *w)
{
    struct file_work *fw = container_of(w, struct file_work, work);
    fw->ret = file_run(fw->req->blk, fw->req);
}

static void file_work_done(struct loop_work *w)
{
    struct file_work *fw = container_of(w, struct file_work, work);
    blk_req_done(fw->req, fw->ret);
}

static void file_submit(struct blk *b, struct blk_req *req)
{
    const struct file *f = b->priv;
    if (f->device && req->op == BLK_DISCARD) {
        struct file_work *fw = (struct file_work *)(void *)req->driver;
        *fw = (struct file_work){.work = {.run = file_work_run, .done = file_work_done},
                                 .req = req};
        loop_work_submit(b->loop, &fw->work);
        return;
    }
    struct file_req *fr = (struct file_req *)(void *)req->driver;
    if (!file_fill(b, req, fr)) {
        blk_req_done(req, -ENOTSUP);
        return;
    }
    fr->io.done = file_io_done;
    loop_io_submit(b->loop, &fr->io);
}

/* ---- shared extents ----------------------------------------------------------------
 */

static int file_share(struct blk *b, uint64_t offset, struct blk *from,
                      uint64_t from_offset, uint64_t len)
{
    struct file *f = b->priv;
    const struct file *source = from->priv;
    struct file_clone_range range = {.src_fd = source->fd,
                                     .src_offset = from_offset,
                                     .src_length = len,
                                     .dest_offset = offset};
    if (ioctl(f->fd, FICLONERANGE, &range) == 0) {
        file_forget_data(f);
        return 0;
    }
    switch (errno) {
    case EOPNOTSUPP:
    case ENOTTY:
    case EXDEV:
    case EINVAL: /* places that are no multiples of its blocks, among others */
    case EPERM:
    case ETXTBSY: return -ENOTSUP;
    default: return -errno;
    }
}

/* A place that no file system has blocks at: one that shares says so, others say that
 * they cannot. */
static bool file_may_share(struct blk *b, struct blk *from)
{
    const struct file *f = b->priv, *source = from->priv;
    struct file_clone_range range = {
        .src_fd = source->fd, .src_offset = 1, .src_length = 1, .dest_offset = 0};
    return !f->device && !source->device && ioctl(f->fd, FICLONERANGE, &range) < 0 &&
           errno == EINVAL;
}

/* ---- holes ----------------------------------------------------------------------- */

static int file_status(struct blk *b, uint64_t offset, uint64_t len,
                       struct blk_extent *ret)
{
    struct file *f = b->priv;
    *ret = (struct blk_extent){.kind = BLK_EXT_DATA, .len = len, .offset = offset};
    if (file_known_data(f, offset, ret)) {
        return 0;
    }
    off_t data = lseek(f->fd, (off_t)offset, SEEK_DATA);
    if (data < 0) {
        /* ENXIO: nothing but a hole up to the end, or behind it. */
        if (errno == ENXIO && !f->device) {
            ret->kind = BLK_EXT_ZERO;
        }
        return 0;
    }
    if ((uint64_t)data > offset) {
        ret->kind = BLK_EXT_ZERO;
        ret->len = MIN(len, (uint64_t)data - offset);
        return 0;
    }
    off_t hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole > offset) {
        pthread_mutex_lock(&f->data_lock);
        f->data_from = offset;
        f->data_to = (uint64_t)hole;
        pthread_mutex_unlock(&f->data_lock);
        ret->len = MIN(len, (uint64_t)hole - offset);
    }
    return 0;
}

/* ---- opening ----------------------------------------------------------------------
 */

/* What O_DIRECT asks of offsets, lengths and memory, found by trying. */
static void file_probe_direct(struct blk *b, int fd, uint32_t fallback)
{
    enum { MOST = 4096 };
    void *mem = NULL;
    b->limits.request_align = fallback;
    b->limits.mem_align = MOST;
    if (posix_memalign(&mem, MOST, 2 * MOST) != 0) {
        return;
    }
    for (uint32_t a = 512; a <= MOST; a *= 2) {
        if (pread(fd, mem, a, 0) == (ssize_t)a) { /* an empty file proves nothing */
            b->limits.request_align = a;
            break;
        }
    }
    for (uint32_t a = 512; a <= MOST; a *= 2) {
        if (pread(fd, (char *)mem + a, MOST, 0) > 0) {
            b->limits.mem_align = a;
            break;
        }
    }
    free(mem);
}

static bool file_examine(struct blk *b, struct file *f, GError **error)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0) {
        return error_errno(error, errno, "Could not open '%s'", b->filename);
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode)) {
        return error_msg(error, "'file' driver requires '%s' to be a regular file",
                         b->filename);
    }
    b->limits = (struct blk_limits){.request_align = 1, .mem_align = 1};
    f->device = S_ISBLK(st.st_mode);
    b->growable = !f->device;
    b->content_len = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    if (f->device) {
        uint64_t bytes;
        if (ioctl(f->fd, BLKGETSIZE64, &bytes) < 0) {
            return error_errno(error, errno, "cannot tell the size of '%s'",
                               b->filename);
        }
        b->content_len = bytes;
    }
    if (b->direct) {
        int sector = 0;
        bool known =
            f->device && ioctl(f->fd, BLKSSZGET, &sector) == 0 && sector >= 512;
        file_probe_direct(b, f->fd, 4096);
        if (known) {
            b->limits.request_align = (uint32_t)sector;
        }
    }
    return true;
}

static int file_flags(const struct blk *b)
{
    return (b->read_only ? O_RDONLY : O_RDWR) | (b->direct ? O_DIRECT : 0);
}

static bool file_open_path(struct blk *b, struct file *f, GError **error)
{
    /* Not blocking: a FIFO would wait here for a writer. */
    f->fd = open(b->filename, file_flags(b) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd >= 0) {
        return true;
    }
    if (errno == EINVAL && b->direct) {
        return error_msg(
            error,
            "Could not open '%s': its file system does not support O_DIRECT "
            "(cache=none, cache=directsync)",
            b->filename);
    }
    return error_errno(error, errno, "Could not open '%s'", b->filename);
}

static bool file_open_fd(struct blk *b, struct file *f, uint64_t fd, GError **error)
{
    int flags = fd <= INT_MAX ? fcntl((int)fd, F_GETFL) : -1;
    if (flags < 0) {
        return error_msg(error, "'fd' is not an open file descriptor: %" PRIu64, fd);
    }
    int mode = flags & O_ACCMODE;
    if (mode != O_RDWR && mode != (b->read_only ? O_RDONLY : O_RDWR)) {
        return error_msg(error,
                         "file descriptor %" PRIu64 " is open %s, but the image is %s",
                         fd, mode == O_RDONLY ? "read-only" : "write-only",
                         b->read_only ? "to be read" : "to be written");
    }
    if (b->direct && !(flags & O_DIRECT)) {
        return error_msg(error,
                         "file descriptor %" PRIu64
                         " was opened without O_DIRECT, which "
                         "cache=none and cache=directsync need",
                         fd);
    }
    f->fd = fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
    if (f->fd < 0) {
        return error_errno(error, errno, "file descriptor %" PRIu64, fd);
    }
    return true;
}

static bool file_choose_engine(struct blk *b, struct file *f, const char *aio,
                               GError **error)
{
    int why;
    if (g_str_equal(aio, "native") && !b->direct) {
        return error_msg(error, "aio=native was specified, but it requires "
                                "cache.direct=on, which was not specified.");
    }
    /* What Linux AIO was for, io_uring does as well: "native" takes what there is. */
    f->engine = g_str_equal(aio, "threads")    ? LOOP_IO_THREADS
                : g_str_equal(aio, "io_uring") ? LOOP_IO_URING
                                               : LOOP_IO_AUTO;
    if (f->engine == LOOP_IO_URING && !loop_has_uring(b->loop, &why)) {
        return error_errno(error, why, "aio=io_uring is not available on this host");
    }
    return true;
}

static bool file_choose_locking(struct blk *b, struct file *f, const char *locking,
                                GError **error)
{
    bool works = file_lock_works(f->fd);
    f->locking = works && !g_str_equal(locking, "off");
    if (!works && g_str_equal(locking, "on")) {
        return error_msg(error, "locking=on: the file system of '%s' has no OFD locks",
                         b->filename);
    }
    return true;
}

static bool file_open(struct blk *b, json_t *opts, GError **error)
{
    struct file *f = g_new0(struct file, 1);
    f->fd = -1;
    pthread_mutex_init(&f->data_lock, NULL);
    b->priv = f;
    const char *name = blk_opt_str(opts, "filename", NULL);
    bool by_fd = json_object_get(opts, "fd") != NULL;
    uint64_t fd = blk_opt_u64(opts, "fd", 0);
    if (!name == !by_fd) {
        return name ? error_msg(error, "Only one of 'filename' and 'fd' can be given")
                    : error_msg(error, "The 'file' block driver requires a file name");
    }
    if (name && *name == '\0') {
        return error_msg(error, "The 'file' block driver requires a file name");
    }
    if (name && g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
    }
    b->filename = name ? g_strdup(name) : g_strdup_printf("fd %" PRIu64, fd);
    return file_choose_engine(b, f, blk_opt_str(opts, "aio", "auto"), error) &&
           (by_fd ? file_open_fd(b, f, fd, error) : file_open_path(b, f, error)) &&
           file_examine(b, f, error) &&
           file_choose_locking(b, f, blk_opt_str(opts, "locking", "auto"), error);
}

static void file_close(struct blk *b)
{
    struct file *f = b->priv;
    if (f && f->fd >= 0) {
        /* A duplicated descriptor shares its locks with the caller's: end ours. */
        struct blk_perms none = {0, BLK_PERM_ALL};
        if (f->locking) {
            file_lock_set(&f->lock, f->fd, &none, b->filename, NULL);
        }
        close(f->fd);
    }
    if (f) {
        pthread_mutex_destroy(&f->data_lock);
    }
    g_free(f);
}

static bool file_set_perms(struct blk *b, const struct blk_perms *perms, GError **error)
{
    struct file *f = b->priv;
    return !f->locking || file_lock_set(&f->lock, f->fd, perms, b->filename, error);
}

/* ---- resizing -----------------------------------------------------------------------
 */

static int file_preallocate(struct file *f, uint64_t from, uint64_t to,
                            enum blk_prealloc prealloc)
{
    if (prealloc == BLK_PREALLOC_OFF || to <= from) {
        return 0;
    }
    if (prealloc == BLK_PREALLOC_FALLOC) {
        return posix_fallocate(f->fd, (off_t)from, (off_t)(to - from));
    }
    /* Nothing is in flight, so O_DIRECT and its alignment may pause. */
    int flags = fcntl(f->fd, F_GETFL);
    fcntl(f->fd, F_SETFL, flags & ~O_DIRECT);
    g_autofree void *zeros = g_malloc0(MIB);
    int err = 0;
    while (err == 0 && from < to) {
        ssize_t n = pwrite(f->fd, zeros, MIN(MIB, to - from), (off_t)from);
        if (n > 0) {
            from += (uint64_t)n;
        } else if (n == 0 || errno != EINTR) {
            err = n == 0 ? ENOSPC : errno;
        }
    }
    if (err == 0 && fsync(f->fd) < 0) {
        err = errno;
    }
    fcntl(f->fd, F_SETFL, flags);
    return err;
}

/* A file that grows from nothing gets its first block, as QEMU's do: the alignment that
 * O_DIRECT wants is found by reading it. Advice. */
static void file_allocate_first(int fd, uint64_t length)
{
    static const char zeros[4096];
    (void)!pwrite(fd, zeros,
                  length < sizeof(zeros) ? MIN(length, (uint64_t)512) : sizeof(zeros),
                  0);
}

static bool file_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                          GError **error)
{
    struct file *f = b->priv;
    uint64_t old = b->content_len;
    if (prealloc == BLK_PREALLOC_METADATA) {
        return error_msg(error, "Unsupported preallocation mode: metadata");
    }
    if (f->device) {
        return length <= old ||
               error_msg(error, "cannot grow the block device '%s'", b->filename);
    }
    if (length > INT64_MAX) {
        return error_errno(error, EFBIG, "Could not resize file");
    }
    if (ftruncate(f->fd, (off_t)length) < 0) {
        return error_errno(error, errno, "Could not resize file");
    }
    if (old == 0 && length && prealloc == BLK_PREALLOC_OFF && !b->direct) {
        file_allocate_first(f->fd, length);
    }
    int err = file_preallocate(f, old, length, prealloc);
    if (err) {
        (void)!ftruncate(f->fd, (off_t)old);
        return error_errno(error, err, "cannot preallocate '%s'", b->filename);
    }
    b->content_len = length;
    return true;
}

/* ---- the driver
 * ---------------------------------------------------------------------- */

/* ---- creating -----------------------------------------------------------------------
 */

static enum blk_prealloc file_prealloc(const char *mode)
{
    return g_str_equal(mode, "full")     ? BLK_PREALLOC_FULL
           : g_str_equal(mode, "falloc") ? BLK_PREALLOC_FALLOC
                                         : BLK_PREALLOC_OFF;
}

/* Advice for btrfs, before anything is written; elsewhere it does nothing. */
static void file_set_nocow(int fd)
{
    int attr;
    if (ioctl(fd, FS_IOC_GETFLAGS, &attr) == 0) {
        attr |= FS_NOCOW_FL;
        (void)!ioctl(fd, FS_IOC_SETFLAGS, &attr);
    }
}

static bool file_fill_new(int fd, const char *filename, json_t *opts, GError **error)
{
    uint64_t size = ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    enum blk_prealloc prealloc =
        file_prealloc(blk_opt_str(opts, "preallocation", "off"));
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return error_errno(error, errno, "Could not create '%s'", filename);
    }
    if (S_ISBLK(st.st_mode)) {
        uint64_t bytes = 0;
        if (ioctl(fd, BLKGETSIZE64, &bytes) < 0 || bytes < size) {
            return error_errno(error, ENOSPC, "'%s' has %" PRIu64 " bytes", filename,
                               bytes);
        }
        return true;
    }
    if (ftruncate(fd, 0) < 0) {
        return error_errno(error, errno, "Could not truncate '%s'", filename);
    }
    if (blk_opt_bool(opts, "nocow", false)) {
        file_set_nocow(fd);
    }
    if (size > INT64_MAX || ftruncate(fd, (off_t)size) < 0) {
        return error_errno(error, size > INT64_MAX ? EINVAL : errno,
                           "Could not resize file");
    }
    file_allocate_first(fd, size);
    struct file f = {.fd = fd};
    int err = file_preallocate(&f, 0, size, prealloc);
    return err == 0 || error_errno(error, err,
                                   "Could not preallocate data for the new "
                                   "file");
}

static bool file_create(const char *filename, json_t *opts, GError **error)
{
    struct file_lock lock = {0};
    struct blk_perms perms = {BLK_PERM_WRITE | BLK_PERM_RESIZE,
                              BLK_PERM_ALL & ~BLK_PERM_RESIZE};
    int fd = open(filename, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
    if (fd < 0) {
        return error_errno(error, errno, "Could not create '%s'", filename);
    }
    bool ok = !file_lock_works(fd) || file_lock_set(&lock, fd, &perms, filename, error);
    ok = ok && file_fill_new(fd, filename, opts, error);
    close(fd);
    return ok;
}

static int64_t file_allocated(struct blk *b)
{
    const struct file *f = b->priv;
    struct stat st;
    return fstat(f->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

static const char *const prealloc_values[] = {"off", "falloc", "full", NULL};

static const struct blk_option file_create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    {"preallocation", BLK_OPT_ENUM, prealloc_values,
     "Preallocation mode (allowed values: off, falloc, full)"},
    {"nocow", BLK_OPT_BOOL, NULL, "Turn off copy-on-write (valid only on btrfs)"},
    {"extent_size_hint", BLK_OPT_SIZE, NULL,
     "Extent size hint for the image file, 0 to disable"},
    {0},
};

static const char *const aio_values[] = {"auto", "io_uring", "threads", "native", NULL};
static const char *const locking_values[] = {"auto", "on", "off", NULL};

static const struct blk_option file_options[] = {
    {"filename", BLK_OPT_STR, NULL, "path of a regular file or block device"},
    {"fd", BLK_OPT_INT, NULL, "number of an open file descriptor, instead of a path"},
    {"aio", BLK_OPT_ENUM, aio_values, "how I/O is done (default auto)"},
    {"locking", BLK_OPT_ENUM, locking_values, "image locks, as QEMU's (default auto)"},
    {0},
};

static const struct blk_resize_ops file_resize_ops = {.truncate = file_truncate};

const struct blk_protocol file_protocol = {
    .name = "file",
    .help = "regular files and block devices of this host",
    .options = file_options,
    .open = file_open,
    .close = file_close,
    .submit = file_submit,
    .run = file_run,
    .status = file_status,
    .share = file_share,
    .may_share = file_may_share,
    .set_perms = file_set_perms,
    .resize = &file_resize_ops,
    .create_options = file_create_options,
    .create = file_create,
    .allocated = file_allocated,
};
