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

#endif
