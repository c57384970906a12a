#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd/server.h"

/*
 * What a client may send: all of @data on one connection, in pieces whose length the
 * first byte decides, and then its end. The server must come to an end, too, with
 * nothing left in flight, and whoever reads its replies gets all of them.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IMAGE_BYTES = 1 << 20 };

struct target {
    struct loop *loop;
    struct blk *blk;
    struct nbd_server *server;
};

static struct blk *image_new(struct loop *loop)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    struct blk_perms perms = {BLK_PERM_READ | BLK_PERM_WRITE, BLK_PERM_ALL};
    struct blk_open_args args = {.loop = loop, .perms = &perms};
    if (fd < 0 || ftruncate(fd, IMAGE_BYTES) < 0 || pwrite(fd, "data", 4, 65536) != 4) {
        __builtin_trap();
    }
    struct blk *b = blk_open_fd(&args, fd, "raw", false, NULL);
    close(fd);
    return b;
}

static struct target target_new(void)
{
    struct target t = {.loop = loop_new(NULL, NULL)};
    t.blk = t.loop ? image_new(t.loop) : NULL;
    if (!t.blk) {
        __builtin_trap();
    }
    struct nbd_server_opts opts = {.loop = t.loop, .multi_conn = true};
    struct nbd_export_opts all = {.name = "",
                                  .blk = t.blk,
                                  .length = UINT64_MAX,
                                  .description = "all",
                                  .allocation_depth = true};
    struct nbd_export_opts part = {.name = "part",
                                   .blk = t.blk,
                                   .offset = 4096,
                                   .length = 8192,
                                   .read_only = true};
    t.server = nbd_server_new(&opts);
    if (!nbd_server_add_export(t.server, &all, NULL) ||
        !nbd_server_add_export(t.server, &part, NULL)) {
        __builtin_trap();
    }
    return t;
}

static void target_free(struct target *t)
{
    nbd_server_free(t->server);
    blk_unref(t->blk);
    loop_free(t->loop);
}

/* Take what the server says; false once it has closed. */
static bool drain(int fd)
{
    static uint8_t buf[65536];
    ssize_t n;
    do {
        n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    } while (n > 0);
    return n < 0 && errno == EAGAIN;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct target t = target_new();
    size_t step = data[0] ? data[0] * 16u : size, at = 1;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
        __builtin_trap();
    }
    nbd_server_add_client(t.server, fds[0]);
    while (at < size && nbd_server_clients(t.server) > 0) {
        ssize_t n =
            send(fds[1], data + at, MIN(step, size - at), MSG_DONTWAIT | MSG_NOSIGNAL);
        at += n > 0 ? (size_t)n : 0;
        drain(fds[1]);
        loop_poll(t.loop, n <= 0);
    }
    shutdown(fds[1], SHUT_WR);
    while (nbd_server_clients(t.server) > 0) {
        drain(fds[1]);
        loop_poll(t.loop, true);
    }
    close(fds[1]);
    target_free(&t);
    return 0;
}
