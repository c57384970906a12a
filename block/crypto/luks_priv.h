#ifndef BLOCK_CRYPTO_LUKS_PRIV_H
#define BLOCK_CRYPTO_LUKS_PRIV_H

#include <openssl/evp.h>

#include "block/crypto/luks.h"

/* What luks.c (reading, unlocking), luks_create.c and luks_amend.c share. */

#define LUKS_STRIPES    4000u
#define LUKS_SALT       32u
#define LUKS_DIGEST     20u
#define LUKS_KEY_MAX    64u
#define LUKS_SECTOR     512u
#define LUKS_MIN_ITERS  1000u
#define LUKS_HEADER     592u /* bytes of the header proper */
#define LUKS_FIRST_SLOT 8u   /* sector of the first key material */
#define LUKS_SLOT_ON    0x00ac71f3u
#define LUKS_SLOT_OFF   0x0000deadu

struct luks_slot {
    bool active;
    uint32_t iters, sector, stripes; /* sector: of the key material, from the header */
    uint8_t salt[LUKS_SALT];
};

struct luks {
    struct blk *file;
    uint64_t offset; /* of the header in file */
    struct cipher_spec cipher;
    enum cipher_hash hash;
    uint32_t payload_sector, key_len, master_iters;
    uint8_t master_digest[LUKS_DIGEST], master_salt[LUKS_SALT];
    char uuid[40];
    struct luks_slot slots[LUKS_NB_SLOTS];
    bool unlocked;
    uint8_t key[LUKS_KEY_MAX];
    struct blk_crypt *crypt;
};

static inline const EVP_MD *luks_md(const struct luks *l)
{
    return cipher_md(l->hash);
}

/* Bytes of split key, and of the room for it. */
static inline size_t luks_split_len(const struct luks *l)
{
    return (size_t)l->key_len * LUKS_STRIPES;
}

/* @passphrase to @len bytes: PBKDF2 (RFC 8018). */
bool luks_derive(GBytes *passphrase, const uint8_t salt[LUKS_SALT], uint32_t iters,
                 const EVP_MD *md, uint8_t *ret, size_t len, GError **error);

/* Whether @key is the one that the header's digest is of. */
bool luks_key_fits(const struct luks *l, const uint8_t *key);

/*
 * Try @passphrase with slot @i: @ret_fits, and then the key into @ret_key. False with
 * @error when it could not be tried.
 */
bool luks_try_slot(struct luks *l, unsigned i, GBytes *passphrase, uint8_t *ret_key,
                   bool *ret_fits, GError **error);

/* Put l->key into slot @i behind @passphrase; the header itself is not written. */
bool luks_fill_slot(struct luks *l, unsigned i, GBytes *passphrase, uint64_t iter_ms,
                    GError **error);

/* Write the header of @l. */
bool luks_write_header(const struct luks *l, GError **error);

/* Iterations of PBKDF2 for @len bytes that take @ms milliseconds here. */
bool luks_count_iters(const EVP_MD *md, size_t len, uint64_t ms, uint64_t *ret,
                      GError **error);

#endif
