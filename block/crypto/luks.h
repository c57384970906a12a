#ifndef BLOCK_CRYPTO_LUKS_H
#define BLOCK_CRYPTO_LUKS_H

#include "block/crypto/cipher.h"

/*
 * LUKS headers: what cipher a disk has, and its key behind passphrases. "LUKS On-Disk
 * Format Specification" 1.2.3 (version 1). Used by the format luks, and by qcow2, which
 * keeps a header inside the image.
 *
 * A struct luks belongs to one thread at a time; luks_crypt() may be used by many.
 */

struct luks;

#define LUKS_NB_SLOTS 8 /* of version 1 */

/* What a new header is to be; luks_default_spec, and then what users say. */
struct luks_spec {
    struct cipher_spec cipher;
    enum cipher_hash hash; /* of PBKDF2, and of what spreads the key */
    uint64_t iter_ms;      /* how long a try of a passphrase shall take; not 0 */
};

extern const struct luks_spec luks_default_spec;

/*
 * Options "cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg" and
 * "iter-time" of @opts with @prefix ("" or "encrypt.") in front, over the defaults.
 */
bool luks_spec_from_options(json_t *opts, const char *prefix, struct luks_spec *ret,
                            GError **error);

/* Bytes from the header's start to the data: header and key material. */
uint64_t luks_header_len(const struct luks_spec *spec);

/*
 * Write a new header with a new key, which @passphrase unlocks, at @offset of @file,
 * luks_header_len() bytes. @detached: the data is in another file, from its start.
 * False with @error, and what was written is no header.
 */
bool luks_create(struct blk *file, uint64_t offset, const struct luks_spec *spec,
                 GBytes *passphrase, bool detached, GError **error);

/*
 * Read the header at @offset of @file, which is kept to (borrowed). Everything in it is
 * checked; nothing is unlocked. NULL with @error.
 */
struct luks *luks_read(struct blk *file, uint64_t offset, GError **error);
void luks_free(struct luks *l); /* NULL is fine; the key is wiped */

/* Find the key with @passphrase: some slots, some seconds. */
bool luks_unlock(struct luks *l, GBytes *passphrase, GError **error);

/* The cipher with the key, after luks_unlock(); freed with @l. */
struct blk_crypt *luks_crypt(const struct luks *l);

/* From the header's start; 0 with a detached header. */
uint64_t luks_payload_offset(const struct luks *l);

/* The fields that QEMU reports about an image with this header, into @o. @format: what
 * follows uuid in qcow2 images ("luks"), or NULL. */
void luks_info(const struct luks *l, json_t *o, const char *format);

/*
 * Change slots as options of `qemu-img amend` say (see luks_amend_options), with the
 * secrets looked up by @secret. @prefix as in luks_spec_from_options(). @force: also
 * what destroys the last slot or overwrites one. After a failure the
 * slots are as before, except where the disk fails.
 */
struct luks_secrets {
    GBytes *(*get)(void *opaque, const char *id, GError **error); /* borrowed */
    void *opaque;
    GBytes *opened_with; /* the passphrase that unlocked, or NULL */
};
bool luks_amend(struct luks *l, json_t *opts, const char *prefix,
                const struct luks_secrets *secrets, bool force, GError **error);

#endif
