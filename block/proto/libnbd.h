#ifndef BLOCK_PROTO_LIBNBD_H
#define BLOCK_PROTO_LIBNBD_H

#include <stdbool.h>

#include <glib.h>
#include <jansson.h>

#include <libnbd.h>

/*
 * libnbd, loaded when somebody first needs it, so that programs which do not talk to
 * NBD servers do not pay for it; and connecting with it. Any thread.
 */

/* clang-format off */
#define LIBNBD_CALLS(X) \
    X(create) X(close) X(get_error) X(get_errno) X(set_export_name) X(set_opt_mode)    \
    X(set_full_info) X(add_meta_context) X(set_handshake_flags) X(connect_socket)      \
    X(set_tls) X(set_tls_certificates) X(set_tls_verify_peer) X(set_tls_username)      \
    X(set_tls_psk_file) X(connect_tcp)                                            \
    X(get_size) X(get_block_size) X(is_read_only) X(is_rotational) X(can_flush)        \
    X(can_fua) X(can_trim) X(can_zero) X(can_fast_zero) X(can_df) X(can_cache)         \
    X(can_multi_conn) X(can_meta_context) X(get_export_description)                    \
    X(opt_list) X(opt_info) X(opt_abort) X(opt_list_meta_context)                      \
    X(aio_pread) X(aio_pwrite) X(aio_flush) X(aio_trim) X(aio_zero)                    \
    X(aio_block_status) X(aio_get_fd) X(aio_get_direction) X(aio_notify_read)          \
    X(aio_notify_write) X(aio_is_dead) X(aio_is_closed) X(aio_disconnect) X(shutdown)
/* clang-format on */

#define LIBNBD_POINTER(name) __typeof__(nbd_##name) *name;
struct libnbd {
    LIBNBD_CALLS(LIBNBD_POINTER)

    /* Newer libraries' only: or NULL. */
    int (*set_tls_hostname)(struct nbd_handle *h, const char *name);
};

/* Its calls, for ever; NULL with @error when it is not installed. */
const struct libnbd *libnbd_load(GError **error);

struct libnbd_server {
    const char *path;        /* of a UNIX socket, or */
    const char *host, *port; /* of TCP */
    const char *export;      /* name; "" is the default one */
    bool tls;                /* with what the system trusts, or with */
    const json_t *tls_creds; /* a client's, as lib/secret keeps them; or NULL */
    /* That the certificate must name; NULL: host. On a UNIX socket a name can only be
     * asked for where libnbd has nbd_set_tls_hostname(); without one, nothing is. */
    const char *tls_hostname;
};

/*
 * Connect @h to @server, up to where the handle's option mode wants to stop. The
 * message is in the words of QEMU's users. Blocks.
 */
bool libnbd_connect(const struct libnbd *n, struct nbd_handle *h,
                    const struct libnbd_server *server, GError **error);

#endif
