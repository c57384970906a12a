#ifndef BLOCK_PROTO_NBD_H
#define BLOCK_PROTO_NBD_H

#include "block/driver.h"

/* Exports of NBD servers, by libnbd. */
extern const struct blk_protocol nbd_protocol;

/*
 * The options of an NBD node from a name:
 *
 *     nbd://HOST[:PORT]/[EXPORT]            nbds:// is the same with TLS
 *     nbd+unix:///[EXPORT]?socket=PATH      nbds+unix
 *     nbd:HOST:PORT[:exportname=EXPORT]
 *     nbd:unix:PATH[:exportname=EXPORT]
 *
 * A new object; NULL with @error when it is none of these. nbd_is_name() says whether
 * the protocol in front is NBD's.
 */
json_t *nbd_options_from_name(const char *name, GError **error);
bool nbd_is_name(const char *name);

#endif
