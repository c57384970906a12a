#ifndef BLOCK_CRYPTO_AF_H
#define BLOCK_CRYPTO_AF_H

#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

/*
 * Anti-forensic splitting (LUKS On-Disk Format Specification 1.2.3, section 2.4): a key
 * of @len bytes as @stripes times @len bytes, all of which are needed to get it back.
 * 0, or -EIO when OpenSSL fails.
 */
int af_split(const uint8_t *key, size_t len, unsigned stripes, const EVP_MD *md,
             uint8_t *ret_split);
int af_merge(const uint8_t *split, size_t len, unsigned stripes, const EVP_MD *md,
             uint8_t *ret_key);

#endif
