#include "cmd/io/io.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "block/event.h"
#include "lib/base/base.h"

/* Stopping requests in the middle (a blkdebug node below), and crashes. */

int io_break(struct io *io, int argc, char **argv)
{
    int r = blk_break_set(io->blk, argv[1], argv[2]);
    io->stopping |= r == 0;
    if (r < 0) {
        printf("Could not set breakpoint: %s\n", g_strerror(-r));
    }
    return r;
}

int io_remove_break(struct io *io, int argc, char **argv)
{
    int r = blk_break_remove(io->blk, argv[1]);
    if (r < 0) {
        printf("Could not remove breakpoint %s: %s\n", argv[1], g_strerror(-r));
    }
    return r;
}

static void run_ready(struct io *io)
{
    while (loop_poll(io->loop, false)) {
    }
}

int io_resume(struct io *io, int argc, char **argv)
{
    int r = blk_break_resume(io->blk, argv[1]);
    if (r < 0) {
        printf("Could not resume request: %s\n", g_strerror(-r));
    }
    return r;
}

int io_wait_break(struct io *io, int argc, char **argv)
{
    int r;
    while ((r = blk_break_stopped(io->blk, argv[1])) == 0) {
        run_ready(io);
        g_usleep(200);
    }
    if (r < 0) {
        printf("Could not wait for breakpoint %s: %s\n", argv[1], g_strerror(-r));
        return r;
    }
    return 0;
}

int io_sleep(struct io *io, int argc, char **argv)
{
    char *end;
    errno = 0;
    long ms = strtol(argv[1], &end, 0);
    if (errno || end == argv[1] || *end || ms < 0) {
        printf("%s is not a valid number\n", argv[1]);
        return -EINVAL;
    }
    uint64_t until = loop_now_ns() + (uint64_t)ms * 1000000;
    while (loop_now_ns() < until) {
        run_ready(io);
        g_usleep(MIN((until - loop_now_ns()) / 1000 + 1, 1000));
    }
    return 0;
}

int io_sigraise(struct io *io, int argc, char **argv)
{
    uint64_t sig;
    if (!io_number(argv[1], &sig)) {
        return -EINVAL;
    }
    if (sig > NSIG) {
        printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -EINVAL;
    }
    fflush(stdout); /* it may be the last thing we do */
    raise((int)sig);
    return 0;
}

int io_abort(struct io *io, int argc, char **argv)
{
    abort();
}
