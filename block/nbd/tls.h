#ifndef BLOCK_NBD_TLS_H
#define BLOCK_NBD_TLS_H

#include <stdbool.h>

#include <glib.h>
#include <jansson.h>

#include "lib/secret/secret.h"

/*
 * TLS of an NBD server: credentials, and who is let in. OpenSSL does the work.
 */

struct nbd_tls;

/*
 * Credentials from the properties of an object, as QEMU has them:
 *
 *     tls-creds-x509  dir: the folder with ca-cert.pem, server-cert.pem, server-key.pem
 *                     and perhaps ca-crl.pem; verify-peer (default on): clients need a
 *                     certificate that the CA signed; passwordid: the secret that opens
 *                     the key
 *     tls-creds-psk   dir: the folder with keys.psk, lines of "name:hexadecimal key"
 *     tls-creds-anon  encrypted, but nobody knows with whom
 *
 * "endpoint" must be server. @authz are the properties of an object authz-simple
 * (identity), authz-list (policy, rules) or authz-list-file (filename), which then
 * decides by the client's distinguished name, or its PSK name; NULL: everybody with
 * good credentials may come in. All borrowed. NULL with @error.
 */
struct nbd_tls *nbd_tls_new(const json_t *creds, const json_t *authz,
                            const struct secrets *secrets, GError **error);
void nbd_tls_free(struct nbd_tls *t); /* NULL is fine */

#endif
