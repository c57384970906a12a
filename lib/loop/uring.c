#include "lib/loop/loop_priv.h"

#include <errno.h>
#include <limits.h>

#include <liburing.h>

/*
 * The io_uring engine. At most @depth requests are in the ring, so neither of its
 * queues can overflow; the others wait in a list. The kernel may refuse io_uring
 * as a whole (sysctl kernel.io_uring_disabled, seccomp in containers) or lack one
 * of the operations; either way uring_new() says so and the pool does the work.
 */

struct uring {
    struct io_uring ring;
    struct loop_io *first, **last; /* waiting for a place in the ring */
    unsigned depth;
    unsigned in_ring;
    unsigned unsubmitted;
    bool stalled;
};

static bool uring_can(struct io_uring *ring)
{
    static const int wanted[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
                                 IORING_OP_FALLOCATE};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool can = probe != NULL;
    for (size_t i = 0; can && i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        can = io_uring_opcode_supported(probe, wanted[i]);
    }
    io_uring_free_probe(probe);
    return can;
}

struct uring *uring_new(unsigned depth, int *ret_err)
{
    struct uring *u = g_new0(struct uring, 1);
    u->depth = depth;
    u->last = &u->first;
    int err = io_uring_queue_init(depth, &u->ring, 0);
    if (err == 0 && !uring_can(&u->ring)) {
        io_uring_queue_exit(&u->ring);
        err = -ENOSYS;
    }
    if (err) {
        *ret_err = -err;
        g_free(u);
        return NULL;
    }
    return u;
}

void uring_free(struct uring *u)
{
    if (u) {
        io_uring_queue_exit(&u->ring);
        g_free(u);
    }
}

int uring_fd(const struct uring *u)
{
    return u->ring.ring_fd;
}

bool uring_stalled(const struct uring *u)
{
    return u->stalled;
}

static void uring_fill(struct io_uring_sqe *sqe, struct loop_io *io)
{
    unsigned n = io->nb_iov < IOV_MAX ? io->nb_iov : IOV_MAX;
    switch (io->op) {
    case LOOP_IO_READ:
        if (io->nb_iov == 1 && io->total <= INT_MAX) {
            io_uring_prep_read(sqe, io->fd, io->iov->iov_base, (unsigned)io->total,
                               io->offset);
        } else {
            io_uring_prep_readv(sqe, io->fd, io->iov, n, io->offset);
        }
        break;
    case LOOP_IO_WRITE:
        if (io->nb_iov == 1 && io->total <= INT_MAX) {
            io_uring_prep_write(sqe, io->fd, io->iov->iov_base, (unsigned)io->total,
                                io->offset);
        } else {
            io_uring_prep_writev(sqe, io->fd, io->iov, n, io->offset);
        }
        sqe->rw_flags = io->flags & LOOP_IO_DSYNC ? RWF_DSYNC : 0;
        break;
    case LOOP_IO_FSYNC:
        io_uring_prep_fsync(sqe, io->fd,
                            io->flags & LOOP_IO_DATASYNC ? IORING_FSYNC_DATASYNC : 0);
        break;
    case LOOP_IO_FALLOCATE:
        io_uring_prep_fallocate(sqe, io->fd, io->mode, (off_t)io->offset,
                                (off_t)io->len);
        break;
    }
    io_uring_sqe_set_data(sqe, io);
}

/* Move waiting requests into the submission queue as far as there is room. */
static void uring_refill(struct uring *u)
{
    while (u->first && u->in_ring < u->depth) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe) {
            return;
        }
        struct loop_io *io = u->first;
        u->first = io->next;
        if (!u->first) {
            u->last = &u->first;
        }
        uring_fill(sqe, io);
        u->in_ring++;
        u->unsubmitted++;
    }
}

void uring_queue(struct uring *u, struct loop_io *io)
{
    io->next = NULL;
    *u->last = io;
    u->last = &io->next;
}

void uring_flush(struct uring *u)
{
    u->stalled = false;
    uring_refill(u);
    while (u->unsubmitted > 0) {
        int n = io_uring_submit(&u->ring);
        if (n == -EINTR) {
            continue;
        }
        if (n <= 0) {
            /* Out of memory for now, or completions must be taken first. */
            u->stalled = true;
            return;
        }
        u->unsubmitted -= (unsigned)n < u->unsubmitted ? (unsigned)n : u->unsubmitted;
        uring_refill(u);
    }
}

bool uring_reap(struct uring *u, struct loop *l)
{
    struct io_uring_cqe *cqe;
    bool any = false;
    /* One ring's worth at most: callbacks may submit for ever. */
    for (unsigned left = u->depth; left > 0; left--) {
        if (io_uring_peek_cqe(&u->ring, &cqe) != 0) {
            break;
        }
        struct loop_io *io = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        u->in_ring--;
        any = true;
        loop_io_finish(l, io, res);
    }
    return any;
}
