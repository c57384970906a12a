#ifndef BLOCK_CRYPTO_CIPHER_H
#define BLOCK_CRYPTO_CIPHER_H

#include "block/driver.h"

/*
 * Ciphers of disk sectors, as LUKS names them ("aes", "xts-plain64"), out of OpenSSL.
 * The cipher's sector is 512 bytes or more; the IV of a sector comes from its number in
 * units of 512 bytes.
 */

enum cipher_alg { CIPHER_AES_128, CIPHER_AES_192, CIPHER_AES_256, CIPHER_NB_ALGS };
enum cipher_mode { CIPHER_ECB, CIPHER_CBC, CIPHER_XTS, CIPHER_CTR, CIPHER_NB_MODES };
enum cipher_ivgen { IVGEN_PLAIN, IVGEN_PLAIN64, IVGEN_ESSIV, IVGEN_NB };

enum cipher_hash {
    HASH_MD5,
    HASH_SHA1,
    HASH_SHA224,
    HASH_SHA256,
    HASH_SHA384,
    HASH_SHA512,
    HASH_RIPEMD160,
    HASH_NB
};

/* As users and images name them; each ends with NULL. */
extern const char *const cipher_alg_names[];   /* "aes-256" */
extern const char *const cipher_mode_names[];  /* "xts" */
extern const char *const cipher_ivgen_names[]; /* "plain64" */
extern const char *const cipher_hash_names[];  /* "sha256" */

/* The index of @name in one of these tables, or -1. */
int cipher_find(const char *const *names, const char *name);

struct cipher_spec {
    enum cipher_alg alg;
    enum cipher_mode mode;
    enum cipher_ivgen ivgen;
    enum cipher_hash ivgen_hash; /* IVGEN_ESSIV */
};

/* Bytes of key that @s needs: twice the cipher's for XTS. */
size_t cipher_key_len(const struct cipher_spec *s);

/* OpenSSL's EVP_MD of @h, borrowed; NULL when this OpenSSL does not have it. */
const void *cipher_md(enum cipher_hash h);

/*
 * A cipher with @key of cipher_key_len() bytes for sectors of @sector_bytes. NULL with
 * @error when OpenSSL cannot do it. Any thread may use it, several at a time.
 */
struct blk_crypt *cipher_new(const struct cipher_spec *s, const uint8_t *key,
                             uint32_t sector_bytes, GError **error);

/* The first encryption of qcow and qcow2: AES-128 in CBC, the key is the passphrase as
 * it is, cut off at 16 bytes or filled up with zeros. */
struct blk_crypt *cipher_new_legacy(GBytes *passphrase, GError **error);

void cipher_free(struct blk_crypt *c); /* NULL is fine */

#endif
