#define FUSE_USE_VERSION 314

#include "block/export/fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <fuse_lowlevel.h>
#include <glib-unix.h>

#include "block/driver.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * libfuse's low-level interface on our loop. The session's descriptor is one more that
 * the loop watches; each request that it brings becomes a request of the image and is
 * answered when that is done, so many are in flight and none waits for another. What
 * the image can only answer by blocking (where data is) is asked in the pool; changing
 * the length is done at once, with nothing else in flight.
 *
 * There is one inode, the root, and it is a regular file.
 */

enum { REQUEST_MAX = 1024 * 1024, BACKGROUND = 64, SECTOR = 512 };

struct fuse_export {
    struct blk *blk;
    struct fuse_export_opts opts;
    struct fuse_session *session;
    bool mounted;
    struct loop_fd *watch;
    struct fuse_buf buf; /* libfuse's, reused */
    unsigned in_flight;
    struct stat st; /* mode, uid, gid, times */
};

/* One request of the kernel. */
struct fuse_op {
    struct fuse_export *export;
    fuse_req_t req;
    struct blk_req blk;
    struct iovec iov;
    void *mem;
    struct loop_work work; /* LSEEK */
    uint64_t offset;
    int whence, ret;
};

static struct fuse_export *export_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct fuse_op *op_new(fuse_req_t req)
{
    struct fuse_op *op = g_new0(struct fuse_op, 1);
    op->export = export_of(req);
    op->req = req;
    op->export->in_flight++;
    return op;
}

static void op_free(struct fuse_op *op)
{
    op->export->in_flight--;
    free(op->mem);
    g_free(op);
}

/* ---- attributes
 * ------------------------------------------------------------------------- */

static uint64_t blocks_of(const struct blk *b)
{
    while (b->format && b->file) {
        b = b->file;
    }
    int64_t used =
        b->proto && b->proto->allocated ? b->proto->allocated((struct blk *)b) : -1;
    return used < 0 ? blk_length(b) / SECTOR : (uint64_t)used / SECTOR;
}

static struct stat attributes(struct fuse_export *e)
{
    struct stat st = e->st;
    st.st_ino = FUSE_ROOT_ID;
    st.st_nlink = 1;
    st.st_size = (off_t)blk_length(e->blk);
    st.st_blocks = (blkcnt_t)blocks_of(e->blk);
    st.st_blksize = 4096;
    return st;
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st = attributes(export_of(req));
    fuse_reply_attr(req, &st, 1.0);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, ENOENT);
}

/* 0 or an errno. */
static int set_length(struct fuse_export *e, uint64_t length)
{
    uint64_t rounded;
    if (!e->opts.writable) {
        return EACCES;
    }
    if (!ck_add(length, SECTOR - 1, &rounded) || rounded > INT64_MAX) {
        return EFBIG;
    }
    rounded -= rounded % SECTOR;
    if (rounded == blk_length(e->blk)) {
        return 0;
    }
    return blk_truncate(e->blk, rounded, BLK_PREALLOC_OFF, NULL) ? 0 : EIO;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set,
                       struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    int err = 0;
    if (set & FUSE_SET_ATTR_SIZE) {
        err = set_length(e, (uint64_t)attr->st_size);
    }
    if (!err && (set & FUSE_SET_ATTR_MODE)) {
        if (!e->opts.writable && (attr->st_mode & 0222)) {
            err = EROFS;
        } else {
            e->st.st_mode = S_IFREG | (attr->st_mode & 07777);
        }
    }
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    if (set & FUSE_SET_ATTR_UID) {
        e->st.st_uid = attr->st_uid;
    }
    if (set & FUSE_SET_ATTR_GID) {
        e->st.st_gid = attr->st_gid;
    }
    if (set & FUSE_SET_ATTR_MTIME) {
        e->st.st_mtim = attr->st_mtim;
    }
    if (set & (FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_SIZE)) {
        clock_gettime(CLOCK_REALTIME, &e->st.st_mtim);
    }
    do_getattr(req, ino, fi);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    if ((fi->flags & O_ACCMODE) != O_RDONLY && !e->opts.writable) {
        fuse_reply_err(req, EACCES);
        return;
    }
    fi->keep_cache = 1; /* nobody else changes what it shows */
    fuse_reply_open(req, fi);
}

/* ---- data
 * -------------------------------------------------------------------------------- */

static void read_done(struct blk_req *b, int ret)
{
    struct fuse_op *op = container_of(b, struct fuse_op, blk);
    if (ret < 0) {
        fuse_reply_err(op->req, -ret);
    } else {
        fuse_reply_buf(op->req, op->iov.iov_base, op->iov.iov_len);
    }
    op_free(op);
}

/* Memory for @len bytes; answers the request when there is none. */
static bool op_memory(struct fuse_op *op, size_t len)
{
    if (len > REQUEST_MAX ||
        posix_memalign(&op->mem, 4096, ALIGN_UP(MAX(len, (size_t)1), (size_t)4096)) !=
            0) {
        fuse_reply_err(op->req, len > REQUEST_MAX ? EINVAL : ENOMEM);
        op_free(op);
        return false;
    }
    op->iov = (struct iovec){op->mem, len};
    return true;
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    uint64_t length = blk_length(e->blk), at = (uint64_t)offset;
    if (at >= length || size == 0) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    struct fuse_op *op = op_new(req);
    if (op_memory(op, (size_t)MIN(size, length - at))) {
        op->blk.done = read_done;
        blk_preadv(e->blk, &op->blk, at, &op->iov, 1);
    }
}

static void write_done(struct blk_req *b, int ret)
{
    struct fuse_op *op = container_of(b, struct fuse_op, blk);
    if (ret < 0) {
        fuse_reply_err(op->req, -ret);
    } else {
        clock_gettime(CLOCK_REALTIME, &op->export->st.st_mtim);
        fuse_reply_write(op->req, op->iov.iov_len);
    }
    op_free(op);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
                     off_t offset, struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    uint64_t at = (uint64_t)offset, end;
    int err = !e->opts.writable ? EACCES : !ck_add(at, size, &end) ? EFBIG : 0;
    if (!err && end > blk_length(e->blk)) {
        if (e->opts.growable) {
            err = set_length(e, end);
        } else if (at >= blk_length(e->blk)) {
            err = ENOSPC;
        } else {
            size = (size_t)(blk_length(e->blk) - at); /* a short write */
        }
    }
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    struct fuse_op *op = op_new(req);
    if (op_memory(op, size)) {
        memcpy(op->mem, buf, size); /* libfuse's buffer is used for the next request */
        op->blk.done = write_done;
        blk_pwritev(e->blk, &op->blk, at, &op->iov, 1, 0);
    }
}

static void plain_done(struct blk_req *b, int ret)
{
    struct fuse_op *op = container_of(b, struct fuse_op, blk);
    fuse_reply_err(op->req, ret < 0 ? -ret : 0);
    op_free(op);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
                     struct fuse_file_info *fi)
{
    struct fuse_op *op = op_new(req);
    op->blk.done = plain_done;
    blk_flush(op->export->blk, &op->blk);
}

/* close() of one descriptor: its data is written, as every write is when it returns. */
static void do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    do_fsync(req, ino, 1, fi);
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset,
                         off_t length, struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    uint64_t end, have = blk_length(e->blk);
    bool punch = mode & FALLOC_FL_PUNCH_HOLE, zero = mode & FALLOC_FL_ZERO_RANGE;
    int err = 0;
    if (!e->opts.writable) {
        err = EACCES;
    } else if (mode &
               ~(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)) {
        err = EOPNOTSUPP;
    } else if (offset < 0 || length <= 0 ||
               !ck_add((uint64_t)offset, (uint64_t)length, &end)) {
        err = EINVAL;
    } else if (end > have && !(mode & FALLOC_FL_KEEP_SIZE)) {
        err = set_length(e, end);
        have = blk_length(e->blk);
    }
    if (err || !(punch || zero) || (uint64_t)offset >= have) {
        fuse_reply_err(req, err);
        return;
    }
    struct fuse_op *op = op_new(req);
    op->blk.done = plain_done;
    blk_write_zeroes(e->blk, &op->blk, (uint64_t)offset,
                     MIN((uint64_t)length, have - (uint64_t)offset),
                     punch ? BLK_MAY_UNMAP : 0);
}

/* ---- holes
 * --------------------------------------------------------------------------------
 */

static void lseek_run(struct loop_work *w)
{
    struct fuse_op *op = container_of(w, struct fuse_op, work);
    struct blk *b = op->export->blk;
    uint64_t length = blk_length(b), at = op->offset;
    while (at < length) {
        struct blk_status s;
        int r = blk_map_at(b, at, length - at, &s);
        if (r < 0) {
            op->ret = -r;
            return;
        }
        bool hole = s.flags & BLK_STATUS_ZERO;
        if (hole == (op->whence == SEEK_HOLE)) {
            op->offset = at;
            return;
        }
        at += s.len;
    }
    op->offset = length; /* which is a hole, and no data */
    op->ret = op->whence == SEEK_HOLE ? 0 : ENXIO;
}

static void lseek_done(struct loop_work *w)
{
    struct fuse_op *op = container_of(w, struct fuse_op, work);
    if (op->ret) {
        fuse_reply_err(op->req, op->ret);
    } else {
        fuse_reply_lseek(op->req, (off_t)op->offset);
    }
    op_free(op);
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    struct fuse_export *e = export_of(req);
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (offset < 0 || (uint64_t)offset >= blk_length(e->blk)) {
        fuse_reply_err(req, ENXIO);
        return;
    }
    struct fuse_op *op = op_new(req);
    op->offset = (uint64_t)offset;
    op->whence = whence;
    op->work.run = lseek_run;
    op->work.done = lseek_done;
    loop_work_submit(blk_get_loop(e->blk), &op->work);
}

/* ---- the session
 * ---------------------------------------------------------------------------
 */

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
    conn->max_write = MIN(conn->max_write, (unsigned)REQUEST_MAX);
    conn->max_read = REQUEST_MAX; /* as the mount option says */
    conn->max_background = BACKGROUND;
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
}

static const struct fuse_lowlevel_ops fuse_ops = {
    .init = do_init,
    .lookup = do_lookup,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .open = do_open,
    .read = do_read,
    .write = do_write,
    .flush = do_flush,
    .fsync = do_fsync,
    .fallocate = do_fallocate,
    .lseek = do_lseek,
};

static void session_event(void *opaque, unsigned events)
{
    struct fuse_export *e = opaque;
    int n;
    /* A few, then the loop's other work has its turn. */
    for (int i = 0; i < 16; i++) {
        n = fuse_session_receive_buf(e->session, &e->buf);
        if (n <= 0) {
            break;
        }
        fuse_session_process_buf(e->session, &e->buf);
    }
    if (fuse_session_exited(e->session) || n == 0 || n == -ENODEV) {
        loop_fd_set_events(e->watch, 0);
        loop_fd_remove(g_steal_pointer(&e->watch));
        if (e->opts.ended) {
            e->opts.ended(e->opts.opaque);
        }
    }
}

static bool mount_session(struct fuse_export *e, const char *mountpoint, GError **error)
{
    g_autofree char *options =
        g_strdup_printf("fsname=lodge,subtype=image,max_read=%d,default_permissions%s",
                        REQUEST_MAX, e->opts.allow_other ? ",allow_other" : "");
    const char *argv[] = {"lodge", "-o", options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, (char **)argv);
    e->session = fuse_session_new(&args, &fuse_ops, sizeof(fuse_ops), e);
    fuse_opt_free_args(&args);
    if (!e->session) {
        return error_msg(error, "Failed to set up FUSE session");
    }
    if (fuse_session_mount(e->session, mountpoint) != 0) {
        return error_msg(error, "Failed to mount FUSE session to export");
    }
    e->mounted = true;
    int fd = fuse_session_fd(e->session);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    e->watch = loop_fd_add(blk_get_loop(e->blk), fd, LOOP_READ, session_event, e);
    return e->watch || error_errno(error, errno, "cannot watch the FUSE device");
}

struct fuse_export *fuse_export_new(const struct fuse_export_opts *o, GError **error)
{
    struct stat st;
    if (stat(o->mountpoint, &st) < 0) {
        error_errno(error, errno, "Failed to stat '%s'", o->mountpoint);
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        error_msg(error, "'%s' is not a regular file", o->mountpoint);
        return NULL;
    }
    struct fuse_export *e = g_new0(struct fuse_export, 1);
    e->opts = *o;
    e->blk = blk_ref(o->blk);
    e->opts.writable = o->writable && !blk_read_only(o->blk);
    e->opts.growable = o->growable && e->opts.writable;
    e->st.st_mode = S_IFREG | 0400 | (e->opts.writable ? 0200 : 0) |
                    (o->allow_other ? (e->opts.writable ? 0066 : 0044) : 0);
    e->st.st_uid = getuid();
    e->st.st_gid = getgid();
    clock_gettime(CLOCK_REALTIME, &e->st.st_mtim);
    e->st.st_ctim = e->st.st_atim = e->st.st_mtim;
    if (!mount_session(e, o->mountpoint, error)) {
        fuse_export_free(e);
        return NULL;
    }
    return e;
}

void fuse_export_free(struct fuse_export *e)
{
    if (!e) {
        return;
    }
    loop_fd_remove(e->watch);
    while (e->in_flight > 0) {
        loop_poll(blk_get_loop(e->blk), true);
    }
    if (e->mounted) {
        fuse_session_unmount(e->session);
    }
    if (e->session) {
        fuse_session_destroy(e->session);
    }
    free(e->buf.mem);
    blk_unref(e->blk);
    g_free(e);
}
