#ifndef CMD_NBD_NBD_H
#define CMD_NBD_NBD_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

#include "block/blk.h"
#include "lib/secret/secret.h"

/*
 * lodge-nbd: qemu-nbd's command line on block/nbd. Messages begin with the program's
 * name as it was called, so a link named qemu-nbd stands in for it.
 */

struct nbd_args {
    const char *prog; /* as called, without folders */
    struct secrets *secrets;

    /* Where */
    const char *port, *bind, *socket;
    unsigned shared; /* 0: any number */
    bool persistent, verbose, list;
    unsigned handshake_secs;
    const char *export_name, *description;

    /* What */
    const char *image, *format;
    bool image_opts, read_only, snapshot, allocation_depth;
    const char *load_snapshot; /* id, name or both: snapshot.id=...,snapshot.name=... */
    uint64_t offset;
    bool offset_negative; /* refused only once the image is open */
    GPtrArray *bitmaps;   /* NULL-terminated */
    const char *cache, *aio, *discard, *detect_zeroes;

    /* How */
    const char *tls_creds, *tls_authz, *tls_hostname;
    bool fork;
    const char *pid_file;
    const char *connect, *disconnect; /* devices of the kernel's client */

    const char *fuse; /* the file to mount on instead of serving NBD */
    bool fuse_growable, fuse_allow_other;
};

/* "prog: text" and a new line on standard error. */
void nbd_error(const struct nbd_args *a, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* @error, with @front before it; frees it. */
void nbd_report(const struct nbd_args *a, const char *front, GError *error);

/*
 * options.c: read the command line. False when the program is to end with *ret_code:
 * help was printed, or something was wrong and has been reported.
 */
bool nbd_parse(struct nbd_args *a, int argc, char **argv, int *ret_code);

/* open.c: the image as the arguments have it; NULL when it was reported why not. */
struct blk *nbd_open_image(const struct nbd_args *a, struct loop *loop);

/* The least block size that clients of qemu-nbd are told for such an image. */
uint32_t nbd_min_block(const struct nbd_args *a, struct blk *b);

/* listen.c: listening sockets. An array of int, the caller's; NULL with @error. */
GArray *nbd_listen(const struct nbd_args *a, GError **error);

/* The same from systemd's socket activation; NULL when there was none. */
GArray *nbd_listen_activated(void);

/* Exit codes of whole modes. */
int nbd_list(const struct nbd_args *a);
int nbd_disconnect_device(const struct nbd_args *a);

/* kernel.c: give a client of the kernel one end of @fd's socket pair. */
struct nbd_device;
struct nbd_device *nbd_device_open(const struct nbd_args *a);
bool nbd_device_start(struct nbd_device *d, int fd, uint64_t size, uint16_t flags,
                      void (*ended)(void *opaque), void *opaque);
void nbd_device_close(struct nbd_device *d);

/*
 * daemon.c: --fork. The child goes on as a daemon; the parent stays in nbd_fork() until
 * the child says that it is ready, or is gone, and ends.
 */
bool nbd_fork(const struct nbd_args *a, GError **error);
void nbd_fork_ready(const struct nbd_args *a);
bool nbd_write_pid(const struct nbd_args *a, GError **error);

#endif
