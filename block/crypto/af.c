#include "block/crypto/af.h"

#include <errno.h>
#include <string.h>

#include <openssl/rand.h>

#include <glib.h>

#include "lib/base/bytes.h"

/* Each piece of @d as long as the hash becomes the hash of its number and itself. */
static int diffuse(uint8_t *d, size_t len, const EVP_MD *md, EVP_MD_CTX *ctx)
{
    size_t unit = (size_t)EVP_MD_get_size(md);
    uint8_t number[4], out[EVP_MAX_MD_SIZE];
    for (size_t done = 0, i = 0; done < len; done += unit, i++) {
        size_t n = MIN(unit, len - done);
        be32_put(number, (uint32_t)i);
        if (!EVP_DigestInit_ex(ctx, md, NULL) ||
            !EVP_DigestUpdate(ctx, number, sizeof(number)) ||
            !EVP_DigestUpdate(ctx, d + done, n) ||
            !EVP_DigestFinal_ex(ctx, out, NULL)) {
            return -EIO;
        }
        memcpy(d + done, out, n);
    }
    return 0;
}

static void xor_into(uint8_t *d, const uint8_t *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        d[i] ^= s[i];
    }
}

/* @ret_d: what the first @stripes - 1 stripes amount to. */
static int sum_up(const uint8_t *split, size_t len, unsigned stripes, const EVP_MD *md,
                  uint8_t *ret_d)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int err = ctx ? 0 : -ENOMEM;
    memset(ret_d, 0, len);
    for (unsigned i = 0; err == 0 && i + 1 < stripes; i++) {
        xor_into(ret_d, split + i * len, len);
        err = diffuse(ret_d, len, md, ctx);
    }
    EVP_MD_CTX_free(ctx);
    return err;
}

int af_split(const uint8_t *key, size_t len, unsigned stripes, const EVP_MD *md,
             uint8_t *ret_split)
{
    uint8_t *last = ret_split + (stripes - 1) * len;
    if (RAND_bytes(ret_split, (int)((stripes - 1) * len)) != 1) {
        return -EIO;
    }
    int err = sum_up(ret_split, len, stripes, md, last);
    xor_into(last, key, len);
    return err;
}

int af_merge(const uint8_t *split, size_t len, unsigned stripes, const EVP_MD *md,
             uint8_t *ret_key)
{
    int err = sum_up(split, len, stripes, md, ret_key);
    xor_into(ret_key, split + (stripes - 1) * len, len);
    return err;
}
