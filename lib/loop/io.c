#include "lib/loop/loop_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * File I/O. loop_io_run() is the whole meaning of a request as plain system calls;
 * the thread engine runs just that in the pool. io_uring does the first attempt in
 * the kernel, and whatever that leaves over (a short transfer, an interruption, a
 * list longer than IOV_MAX) goes on with loop_io_run() in the pool too, so that
 * both engines end the same way.
 */

enum { IOV_BATCH = 64 };

/* The part of @io's list that starts @skip bytes in, at most @max entries. */
static unsigned iov_from(const struct loop_io *io, uint64_t skip, struct iovec *out,
                         unsigned max)
{
    unsigned n = 0;
    for (unsigned i = 0; i < io->nb_iov && n < max; i++) {
        const struct iovec *v = &io->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        out[n].iov_base = (char *)v->iov_base + skip;
        out[n++].iov_len = v->iov_len - skip;
        skip = 0;
    }
    return n;
}

static int64_t io_move(struct loop_io *io)
{
    while (io->moved < io->total) {
        struct iovec iov[IOV_BATCH];
        unsigned n = iov_from(io, io->moved, iov, IOV_BATCH);
        off_t at = (off_t)(io->offset + io->moved);
        ssize_t got = io->op == LOOP_IO_READ
                          ? preadv(io->fd, iov, (int)n, at)
                          : pwritev2(io->fd, iov, (int)n, at,
                                     io->flags & LOOP_IO_DSYNC ? RWF_DSYNC : 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (got == 0) {
            if (io->op == LOOP_IO_WRITE) {
                return -ENOSPC; /* a block device that ends here */
            }
            break; /* end of file */
        }
        io->moved += (uint64_t)got;
    }
    return (int64_t)io->moved;
}

static int64_t io_go_on(struct loop_io *io)
{
    int r;
    switch (io->op) {
    case LOOP_IO_READ:
    case LOOP_IO_WRITE: return io_move(io);
    case LOOP_IO_FSYNC:
        do {
            r = io->flags & LOOP_IO_DATASYNC ? fdatasync(io->fd) : fsync(io->fd);
        } while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : 0;
    case LOOP_IO_FALLOCATE:
        do {
            r = fallocate(io->fd, io->mode, (off_t)io->offset, (off_t)io->len);
        } while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : 0;
    }
    return -EINVAL;
}

static void io_begin(struct loop_io *io)
{
    io->total = 0;
    io->moved = 0;
    for (unsigned i = 0; i < io->nb_iov; i++) {
        io->total += io->iov[i].iov_len;
    }
}

int64_t loop_io_run(struct loop_io *io)
{
    io_begin(io);
    return io_go_on(io);
}

static void io_work_run(struct loop_work *w)
{
    struct loop_io *io = container_of(w, struct loop_io, work);
    io->result = io_go_on(io);
}

static void io_work_done(struct loop_work *w)
{
    struct loop_io *io = container_of(w, struct loop_io, work);
    io->done(io, io->result);
}

static void io_to_pool(struct loop *l, struct loop_io *io)
{
    io->work.run = io_work_run;
    io->work.done = io_work_done;
    loop_work_submit(l, &io->work);
}

void loop_io_submit(struct loop *l, struct loop_io *io)
{
    io_begin(io);
    enum loop_io_engine engine = io->engine == LOOP_IO_AUTO ? l->engine : io->engine;
    if (engine == LOOP_IO_THREADS || !loop_has_uring(l, NULL)) {
        io_to_pool(l, io);
        return;
    }
    l->in_flight++;
    uring_queue(l->uring, io);
}

void loop_io_finish(struct loop *l, struct loop_io *io, int64_t ret)
{
    bool moves = io->op == LOOP_IO_READ || io->op == LOOP_IO_WRITE;
    l->in_flight--;
    if (ret > 0 && moves) {
        io->moved += (uint64_t)ret;
    }
    bool rest = moves && ret >= 0 && io->moved < io->total &&
                !(io->op == LOOP_IO_READ && ret == 0 && io->total > 0);
    if (rest || ret == -EINTR || ret == -EAGAIN) {
        io_to_pool(l, io);
    } else {
        io->done(io, ret < 0 ? ret : (int64_t)io->moved);
    }
}
