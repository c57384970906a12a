#ifndef LIB_SECRET_SECRET_H
#define LIB_SECRET_SECRET_H

#include <stdbool.h>

#include <glib.h>
#include <jansson.h>

/*
 * What users must not put into options of images and machines: passwords and keys,
 * named once ("--object secret,id=sec0,file=passwd") and referred to by name
 * ("key-secret=sec0"). The bytes are wiped when they are forgotten.
 *
 * Any thread while nobody adds.
 */

struct secrets;

struct secrets *secrets_new(void);
void secrets_free(struct secrets *s); /* NULL is fine */

/*
 * Add the secret that the properties of an object "secret" say, as QEMU has them:
 *
 *     id       its name
 *     data     the bytes, or
 *     file     the file with them; it may have at most 16 MiB
 *     format   raw (default) | base64: how data or file is to be read
 *     keyid    the secret, added before, of 32 bytes that this one is encrypted with:
 *              AES-256-CBC with PKCS #7 padding
 *     iv       with keyid: 16 bytes in base64
 *
 * @props is borrowed; "qom-type" in it is passed over. False with @error.
 */
bool secrets_add(struct secrets *s, const json_t *props, GError **error);

/* The bytes of secret @id, borrowed; NULL with @error when there is none. @s may be
 * NULL, which has none. */
GBytes *secrets_get(const struct secrets *s, const char *id, GError **error);

/*
 * Add TLS credentials or an authorization: the properties of an object tls-creds-x509,
 * tls-creds-psk, tls-creds-anon, authz-simple, authz-list or authz-list-file,
 * "qom-type" saying which. They are kept as they are, for who uses them; @props is
 * copied. False with @error for properties that such an object does not have.
 */
bool secrets_add_object(struct secrets *s, const json_t *props, GError **error);

/* Whether secrets_add_object() knows objects of this type. */
bool secrets_knows_object(const char *type);

/* Those of object @id, borrowed; NULL when there is none. @s may be NULL. */
const json_t *secrets_get_object(const struct secrets *s, const char *id);

#endif
