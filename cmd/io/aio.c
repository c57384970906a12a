#include "cmd/io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * Requests that go on while the next commands run. What they say comes when they are
 * done; aio_flush waits for all of them, and so does closing the image.
 */

struct aio {
    struct blk_req req;
    struct io *io;
    struct io_timer timer;
    struct io_buffer buf;
    uint64_t offset, len;
    bool writing, zero, unmap, fua, quiet, machine, dump, invalid;
    int pattern; /* of reading; -1: none */
};

static void aio_free(struct aio *a)
{
    io_buffer_done(&a->buf);
    g_free(a);
}

static void aio_check(const struct aio *a)
{
    for (uint64_t i = 0; a->pattern >= 0 && i < a->len; i++) {
        if (a->buf.data[i] != a->pattern) {
            printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64
                   " bytes\n",
                   a->offset, a->len);
            return;
        }
    }
}

static void aio_finish(struct aio *a, int ret)
{
    if (ret < 0) {
        printf("%s failed: %s\n", a->writing ? "aio_write" : "readv", g_strerror(-ret));
        return;
    }
    if (!a->writing) {
        aio_check(a);
    }
    if (a->quiet) {
        return;
    }
    if (a->dump) {
        io_dump(a->buf.data, a->offset, a->len);
    }
    io_print_rates(a->writing ? "wrote" : "read", &a->timer, a->offset, a->len,
                   a->machine);
}

static void aio_done(struct blk_req *req, int ret)
{
    struct aio *a = container_of(req, struct aio, req);
    a->io->in_flight--;
    aio_finish(a, ret == -EINVAL ? -EIO : ret); /* outside the image */
    aio_free(a);
}

static int aio_submit(struct io *io, const struct aio *parsed)
{
    struct aio *a = g_memdup2(parsed, sizeof(*parsed));
    unsigned flags = (a->fua ? BLK_FUA : 0) | (a->unmap ? BLK_MAY_UNMAP : 0);
    a->io = io;
    a->timer.begun_ns = loop_now_ns();
    a->req.done = aio_done;
    io->in_flight++;
    if (a->zero) {
        blk_write_zeroes(io->blk, &a->req, a->offset, a->len, flags);
    } else if (a->writing) {
        blk_pwritev(io->blk, &a->req, a->offset, a->buf.iov, a->buf.nb_iov, flags);
    } else {
        blk_preadv(io->blk, &a->req, a->offset, a->buf.iov, a->buf.nb_iov);
    }
    return 0;
}

static bool aio_letters(struct aio *a, int argc, char **argv, const char *letters)
{
    a->pattern = -1;
    for (int c; (c = getopt(argc, argv, letters)) != -1;) {
        switch (c) {
        case 'C': a->machine = true; break;
        case 'f': a->fua = true; break;
        case 'i': a->invalid = true; break;
        case 'q': a->quiet = true; break;
        case 'u': a->unmap = true; break;
        case 'v': a->dump = true; break;
        case 'z': a->zero = true; break;
        case 'P':
            a->pattern = io_pattern(optarg);
            if (a->pattern < 0) {
                return false;
            }
            break;
        default: io_command_usage(argv[0]); return false;
        }
    }
    if (optind > argc - 2) {
        io_command_usage(argv[0]);
        return false;
    }
    return true;
}

int io_aio_read(struct io *io, int argc, char **argv)
{
    struct aio a = {0};
    if (!aio_letters(&a, argc, argv, "CP:iqv")) {
        return -EINVAL;
    }
    if (a.invalid) {
        printf("injecting invalid read request\n");
        return 0;
    }
    if (!io_number(argv[optind], &a.offset) ||
        !io_buffer_parse(io, &a.buf, argv + optind + 1, argc - optind - 1, 0xab)) {
        return -EINVAL;
    }
    a.len = a.buf.len;
    return aio_submit(io, &a);
}

static bool aio_write_range(struct io *io, struct aio *a, int argc, char **argv)
{
    if (a->zero) {
        return io_number(argv[optind + 1], &a->len);
    }
    if (!io_buffer_parse(io, &a->buf, argv + optind + 1, argc - optind - 1,
                         a->pattern < 0 ? IO_DEFAULT_PATTERN : a->pattern)) {
        return false;
    }
    a->len = a->buf.len;
    return true;
}

int io_aio_write(struct io *io, int argc, char **argv)
{
    struct aio a = {.writing = true};
    if (!aio_letters(&a, argc, argv, "CfiP:quz")) {
        return -EINVAL;
    }
    if (a.zero && optind != argc - 2) {
        printf("-z supports only a single length parameter\n");
        return -EINVAL;
    }
    if (a.unmap && !a.zero) {
        printf("-u requires -z to be specified\n");
        return -EINVAL;
    }
    if (!io_number(argv[optind], &a.offset)) {
        return -EINVAL;
    }
    if (a.invalid) {
        printf("injecting invalid write request\n");
        return 0;
    }
    return aio_write_range(io, &a, argc, argv) ? aio_submit(io, &a) : -EINVAL;
}

void io_settle(struct io *io)
{
    enum { PATIENCE_NS = 20000000 };
    uint64_t until = loop_now_ns() + PATIENCE_NS;
    while (io->in_flight && (!io->stopping || loop_now_ns() < until)) {
        if (!loop_poll(io->loop, !io->stopping)) {
            g_usleep(50);
        }
    }
}

int io_aio_flush(struct io *io, int argc, char **argv)
{
    blk_drain(io->blk);
    return 0;
}
