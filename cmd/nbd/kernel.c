#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/fs.h>

#include <linux/nbd.h>

#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/*
 * The kernel's NBD client, which makes an export a block device. It is told the size
 * and flags that a handshake would have shown, gets one end of a socket pair, and stays
 * in an ioctl on a thread of ours until somebody disconnects the device.
 */

enum { SECTOR = 512 };

struct nbd_device {
    const struct nbd_args *args;
    int fd, socket;
    pthread_t thread;
    bool started;
    void (*ended)(void *opaque);
    void *opaque;
};

struct nbd_device *nbd_device_open(const struct nbd_args *a)
{
    int fd = open(a->connect, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        nbd_error(a, "Failed to open %s: %s", a->connect, g_strerror(errno));
        return NULL;
    }
    struct nbd_device *d = g_new0(struct nbd_device, 1);
    d->args = a;
    d->fd = fd;
    d->socket = -1;
    return d;
}

static void *device_thread(void *opaque)
{
    struct nbd_device *d = opaque;
    ioctl(d->fd, NBD_DO_IT);
    ioctl(d->fd, NBD_CLEAR_QUE);
    ioctl(d->fd, NBD_CLEAR_SOCK);
    d->ended(d->opaque);
    return NULL;
}

/* What failed, or NULL. */
static const char *set_up(struct nbd_device *d, uint64_t size, uint16_t flags)
{
    int read_only = flags & NBD_FLAG_READ_ONLY ? 1 : 0;
    if (ioctl(d->fd, NBD_SET_SOCK, (unsigned long)d->socket) < 0) {
        return "Failed to set NBD socket";
    }
    if (ioctl(d->fd, NBD_SET_BLKSIZE, (unsigned long)SECTOR) < 0) {
        return "Failed setting NBD block size";
    }
    if (ioctl(d->fd, NBD_SET_SIZE_BLOCKS, (unsigned long)(size / SECTOR)) < 0) {
        return "Failed setting size (in blocks)";
    }
    if (ioctl(d->fd, NBD_SET_FLAGS, (unsigned long)flags) < 0 && errno == ENOTTY &&
        read_only && ioctl(d->fd, BLKROSET, &read_only) < 0) {
        return "Failed setting read-only attribute";
    }
    return NULL;
}

bool nbd_device_start(struct nbd_device *d, int fd, uint64_t size, uint16_t flags,
                      void (*ended)(void *opaque), void *opaque)
{
    d->socket = fd;
    d->ended = ended;
    d->opaque = opaque;
    const char *failed = set_up(d, size, flags);
    int err = errno;
    if (!failed) {
        err = pthread_create(&d->thread, NULL, device_thread, d);
        failed = err ? "cannot start a thread" : NULL;
    }
    if (failed) {
        nbd_error(d->args, "%s: %s", failed, g_strerror(err));
        return false;
    }
    d->started = true;
    if (d->args->verbose && !d->args->fork) {
        fprintf(stderr, "NBD device %s is now connected to %s\n", d->args->connect,
                d->args->image);
    }
    return true;
}

void nbd_device_close(struct nbd_device *d)
{
    if (!d) {
        return;
    }
    if (d->started) {
        ioctl(d->fd, NBD_DISCONNECT);
        pthread_join(d->thread, NULL);
    }
    if (d->socket >= 0) {
        close(d->socket);
    }
    close(d->fd);
    g_free(d);
}

int nbd_disconnect_device(const struct nbd_args *a)
{
    int fd = open(a->disconnect, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        nbd_error(a, "Cannot open %s: %s", a->disconnect, g_strerror(errno));
        return 1;
    }
    ioctl(fd, NBD_CLEAR_QUE);
    ioctl(fd, NBD_DISCONNECT);
    ioctl(fd, NBD_CLEAR_SOCK);
    close(fd);
    printf("%s disconnected\n", a->disconnect);
    return 0;
}
