#ifndef BLOCK_NBD_SERVER_H
#define BLOCK_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "block/blk.h"

/*
 * An NBD server: exports images to clients on stream sockets, by the NBD protocol
 * (fixed newstyle, structured replies, block status, TLS). Everything is asynchronous
 * on one loop, that of the images. All functions: the loop's thread.
 *
 * Clients are hostile. What one of them can make the server hold is bounded in bytes
 * and requests; a client that does not read its replies, or sends half a request, is
 * waited for without keeping anybody else waiting.
 */

struct nbd_server;
struct nbd_tls;

struct nbd_server_opts {
    struct loop *loop; /* must outlive the server */

    /* Connections at a time; more wait in the kernel's queue. 0: as many as there are
     * file descriptors. */
    unsigned max_clients;

    /* Whether several connections are offered for one client (they always work). */
    bool multi_conn;

    /* Seconds that a client has to finish its handshake; 0: any time. */
    unsigned handshake_secs;

    /* NULL: plain text. Else nothing but TLS is served. Must outlive the server. */
    const struct nbd_tls *tls;

    /* A connection is gone. @negotiated: it had got as far as choosing an export.
     * May be NULL. The server may not be freed in it. */
    void (*closed)(void *opaque, bool negotiated);

    /* What a client did wrong, for those who debug: one line. May be NULL. */
    void (*trace)(void *opaque, const char *line);
    void *opaque;
};

struct nbd_server *nbd_server_new(const struct nbd_server_opts *opts);

/*
 * Close every connection and listener, wait for requests in flight, give up the images.
 * NULL is fine.
 */
void nbd_server_free(struct nbd_server *s);

struct nbd_export_opts {
    const char *name;        /* at most 4096 bytes; "" is the default export */
    const char *description; /* or NULL */
    struct blk *blk;         /* a reference is taken; its loop is the server's */
    uint64_t offset;         /* the export is [offset, offset + length) of it */
    uint64_t length;         /* UINT64_MAX: to its end */
    bool read_only;          /* forced when the image is */
    uint32_t min_block; /* what clients are told of alignment, a power of two up to 64
                           KiB; 0: 1. Any alignment works. */
    bool allocation_depth;      /* offer qemu:allocation-depth */
    const char *const *bitmaps; /* offer qemu:dirty-bitmap:NAME; NULL-terminated or
                                   NULL */
};

/*
 * Offer an image. False with @error: a name that is taken or too long, a range outside
 * of the image, a bitmap that is not there or cannot be used.
 */
bool nbd_server_add_export(struct nbd_server *s, const struct nbd_export_opts *o,
                           GError **error);

/* Take back export @name: its connections are closed. False when there is none. */
bool nbd_server_remove_export(struct nbd_server *s, const char *name);

/*
 * Accept clients from @fd, a listening stream socket, which the server owns from here
 * on. False with @error when it cannot be watched; then it is closed.
 */
bool nbd_server_listen(struct nbd_server *s, int fd, GError **error);

/* No new clients from now on; those that are connected stay. */
void nbd_server_stop_listening(struct nbd_server *s);

/* Serve one client on @fd, a connected stream socket, which the server owns from here
 * on. */
void nbd_server_add_client(struct nbd_server *s, int fd);

/*
 * The same without a handshake, as the kernel's client wants it: export @name at once,
 * with simple replies. *ret_size and *ret_flags are what the client must be told. False
 * when there is no such export; @fd is the caller's then.
 */
bool nbd_server_add_raw_client(struct nbd_server *s, int fd, const char *name,
                               uint64_t *ret_size, uint16_t *ret_flags);

/* Connections there are. */
unsigned nbd_server_clients(const struct nbd_server *s);

/* Close all of them, without waiting. */
void nbd_server_disconnect(struct nbd_server *s);

#endif
