#include "block/crypto/cipher.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <openssl/evp.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

#define IV_LEN     16
#define IV_SECTOR  512
#define MAX_SECTOR (64u << 10)

const char *const cipher_alg_names[] = {"aes-128", "aes-192", "aes-256", NULL};
const char *const cipher_mode_names[] = {"ecb", "cbc", "xts", "ctr", NULL};
const char *const cipher_ivgen_names[] = {"plain", "plain64", "essiv", NULL};
const char *const cipher_hash_names[] = {"md5",    "sha1",   "sha224",    "sha256",
                                         "sha384", "sha512", "ripemd160", NULL};

/* OpenSSL's ciphers by algorithm and mode; there is no XTS of 192 bits. */
static const EVP_CIPHER *(*const ciphers[CIPHER_NB_ALGS][CIPHER_NB_MODES])(void) = {
    {EVP_aes_128_ecb, EVP_aes_128_cbc, EVP_aes_128_xts, EVP_aes_128_ctr},
    {EVP_aes_192_ecb, EVP_aes_192_cbc, NULL, EVP_aes_192_ctr},
    {EVP_aes_256_ecb, EVP_aes_256_cbc, EVP_aes_256_xts, EVP_aes_256_ctr},
};

/* A pair of contexts is used by one thread at a time; the unused ones wait here. */
struct contexts {
    struct contexts *next;
    EVP_CIPHER_CTX *data[2]; /* to decrypt, to encrypt */
    EVP_CIPHER_CTX *essiv;
};

struct cipher {
    struct blk_crypt crypt; /* first */
    struct cipher_spec spec;
    pthread_mutex_t lock;
    struct contexts *unused;
    uint8_t key[64], essiv_key[EVP_MAX_MD_SIZE];
    const EVP_CIPHER *evp, *essiv_evp;
};

int cipher_find(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (g_str_equal(names[i], name)) {
            return i;
        }
    }
    return -1;
}

size_t cipher_key_len(const struct cipher_spec *s)
{
    return (16 + 8 * (size_t)s->alg) * (s->mode == CIPHER_XTS ? 2 : 1);
}

const void *cipher_md(enum cipher_hash h)
{
    return EVP_get_digestbyname(cipher_hash_names[h]);
}

static void contexts_free(struct contexts *x)
{
    EVP_CIPHER_CTX_free(x->data[0]);
    EVP_CIPHER_CTX_free(x->data[1]);
    EVP_CIPHER_CTX_free(x->essiv);
    g_free(x);
}

static struct contexts *contexts_new(const struct cipher *c)
{
    struct contexts *x = g_new0(struct contexts, 1);
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        x->data[i] = EVP_CIPHER_CTX_new();
        ok = ok && x->data[i] &&
             EVP_CipherInit_ex(x->data[i], c->evp, NULL, c->key, NULL, i) &&
             EVP_CIPHER_CTX_set_padding(x->data[i], 0);
    }
    if (c->essiv_evp) {
        x->essiv = EVP_CIPHER_CTX_new();
        ok = ok && x->essiv &&
             EVP_EncryptInit_ex(x->essiv, c->essiv_evp, NULL, c->essiv_key, NULL) &&
             EVP_CIPHER_CTX_set_padding(x->essiv, 0);
    }
    if (!ok) {
        contexts_free(x);
        return NULL;
    }
    return x;
}

static struct contexts *take(struct cipher *c)
{
    pthread_mutex_lock(&c->lock);
    struct contexts *x = c->unused;
    if (x) {
        c->unused = x->next;
    }
    pthread_mutex_unlock(&c->lock);
    return x ? x : contexts_new(c);
}

static void give(struct cipher *c, struct contexts *x)
{
    pthread_mutex_lock(&c->lock);
    x->next = c->unused;
    c->unused = x;
    pthread_mutex_unlock(&c->lock);
}

static bool make_iv(const struct cipher *c, const struct contexts *x, uint64_t sector,
                    uint8_t iv[IV_LEN])
{
    int n;
    memset(iv, 0, IV_LEN);
    if (c->spec.ivgen == IVGEN_PLAIN) {
        le32_put(iv, (uint32_t)sector);
        return true;
    }
    le64_put(iv, sector);
    return !x->essiv || EVP_EncryptUpdate(x->essiv, iv, &n, iv, IV_LEN);
}

static int run(const struct blk_crypt *crypt, uint64_t iv_offset, uint8_t *buf,
               size_t len, int encrypt)
{
    struct cipher *c = (struct cipher *)crypt;
    struct contexts *x = take(c);
    int err = x ? 0 : -ENOMEM, n;
    size_t unit = crypt->sector_bytes;
    for (size_t done = 0; err == 0 && done < len; done += unit) {
        uint8_t iv[IV_LEN];
        size_t piece = MIN(unit, len - done);
        if (!make_iv(c, x, (iv_offset + done) / IV_SECTOR, iv) ||
            !EVP_CipherInit_ex(x->data[encrypt], NULL, NULL, NULL, iv, encrypt) ||
            !EVP_CipherUpdate(x->data[encrypt], buf + done, &n, buf + done,
                              (int)piece)) {
            err = -EIO;
        }
    }
    if (x) {
        give(c, x);
    }
    return err;
}

static int decrypt(const struct blk_crypt *c, uint64_t iv_offset, uint8_t *buf,
                   size_t len)
{
    return run(c, iv_offset, buf, len, 0);
}

static int encrypt(const struct blk_crypt *c, uint64_t iv_offset, uint8_t *buf,
                   size_t len)
{
    return run(c, iv_offset, buf, len, 1);
}

/* ESSIV: the sector's number, encrypted with a hash of the key. */
static bool prepare_essiv(struct cipher *c, GError **error)
{
    const char *name = cipher_hash_names[c->spec.ivgen_hash];
    const EVP_MD *md = cipher_md(c->spec.ivgen_hash);
    unsigned len = 0;
    if (!md ||
        !EVP_Digest(c->key, cipher_key_len(&c->spec), c->essiv_key, &len, md, NULL)) {
        return error_msg(error, "Hash algorithm '%s' not supported", name);
    }
    c->essiv_evp = len == 16   ? EVP_aes_128_ecb()
                   : len == 24 ? EVP_aes_192_ecb()
                   : len == 32 ? EVP_aes_256_ecb()
                               : NULL;
    return c->essiv_evp ||
           error_msg(error, "No cipher with a key of the %u bytes that '%s' makes", len,
                     name);
}

struct blk_crypt *cipher_new(const struct cipher_spec *s, const uint8_t *key,
                             uint32_t sector_bytes, GError **error)
{
    struct cipher *c = g_new0(struct cipher, 1);
    c->crypt = (struct blk_crypt){sector_bytes, decrypt, encrypt};
    c->spec = *s;
    pthread_mutex_init(&c->lock, NULL);
    memcpy(c->key, key, cipher_key_len(s));
    c->evp = ciphers[s->alg][s->mode] ? ciphers[s->alg][s->mode]() : NULL;
    if (!c->evp || sector_bytes < IV_SECTOR || sector_bytes > MAX_SECTOR) {
        error_msg(error, "Algorithm '%s' with mode '%s' not supported",
                  cipher_alg_names[s->alg], cipher_mode_names[s->mode]);
        goto bad;
    }
    if (s->ivgen == IVGEN_ESSIV && !prepare_essiv(c, error)) {
        goto bad;
    }
    c->unused = contexts_new(c);
    if (!c->unused) {
        /* OpenSSL refuses XTS whose two keys are the same. */
        error_msg(error, "Unable to initialize cipher with this key");
        goto bad;
    }
    return &c->crypt;
bad:
    cipher_free(&c->crypt);
    return NULL;
}

struct blk_crypt *cipher_new_legacy(GBytes *passphrase, GError **error)
{
    const struct cipher_spec spec = {CIPHER_AES_128, CIPHER_CBC, IVGEN_PLAIN64, 0};
    uint8_t key[16] = {0};
    size_t len;
    const void *text = g_bytes_get_data(passphrase, &len);
    if (len) {
        memcpy(key, text, MIN(len, sizeof(key)));
    }
    struct blk_crypt *c = cipher_new(&spec, key, IV_SECTOR, error);
    OPENSSL_cleanse(key, sizeof(key));
    return c;
}

void cipher_free(struct blk_crypt *crypt)
{
    struct cipher *c = (struct cipher *)crypt;
    if (!c) {
        return;
    }
    while (c->unused) {
        struct contexts *x = c->unused;
        c->unused = x->next;
        contexts_free(x);
    }
    pthread_mutex_destroy(&c->lock);
    OPENSSL_cleanse(c, sizeof(*c));
    g_free(c);
}
