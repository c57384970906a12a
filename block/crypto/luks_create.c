#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "block/crypto/af.h"
#include "block/crypto/luks_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* New headers, and what of them amending writes too. */

#define SLOT_ALIGN 4096u

const struct luks_spec luks_default_spec = {
    .cipher = {CIPHER_AES_256, CIPHER_XTS, IVGEN_PLAIN64, HASH_SHA256},
    .hash = HASH_SHA256,
    .iter_ms = 2000,
};

static uint64_t slot_len(size_t key_len)
{
    return ALIGN_UP((uint64_t)key_len * LUKS_STRIPES, (uint64_t)SLOT_ALIGN);
}

uint64_t luks_header_len(const struct luks_spec *spec)
{
    return LUKS_FIRST_SLOT * LUKS_SECTOR +
           LUKS_NB_SLOTS * slot_len(cipher_key_len(&spec->cipher));
}

/* --- Options ------------------------------------------------------------------------
 */

static bool take_name(json_t *opts, const char *prefix, const char *name,
                      const char *const *names, unsigned *ret, GError **error)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    const char *text = blk_opt_str(opts, key, NULL);
    if (!text) {
        return true;
    }
    int i = cipher_find(names, text);
    if (i < 0) {
        static const char *const known[] = {
            "des",         "3des",        "cast5-128",   "serpent-128", "serpent-192",
            "serpent-256", "twofish-128", "twofish-192", "twofish-256", NULL};
        return g_strv_contains(known, text)
                   ? error_msg(error, "Algorithm '%s' not supported", text)
                   : error_msg(error, "Parameter '%s' does not accept value '%s'", name,
                               text);
    }
    *ret = (unsigned)i;
    return true;
}

bool luks_spec_from_options(json_t *opts, const char *prefix, struct luks_spec *ret,
                            GError **error)
{
    *ret = luks_default_spec;
    unsigned alg = ret->cipher.alg, mode = ret->cipher.mode, iv = ret->cipher.ivgen,
             iv_hash = ret->cipher.ivgen_hash, hash = ret->hash;
    if (!take_name(opts, prefix, "cipher-alg", cipher_alg_names, &alg, error) ||
        !take_name(opts, prefix, "cipher-mode", cipher_mode_names, &mode, error) ||
        !take_name(opts, prefix, "ivgen-alg", cipher_ivgen_names, &iv, error) ||
        !take_name(opts, prefix, "ivgen-hash-alg", cipher_hash_names, &iv_hash,
                   error) ||
        !take_name(opts, prefix, "hash-alg", cipher_hash_names, &hash, error)) {
        return false;
    }
    g_autofree char *key = g_strconcat(prefix, "iter-time", NULL);
    ret->cipher = (struct cipher_spec){alg, mode, iv, iv_hash};
    ret->hash = hash;
    uint64_t ms = blk_opt_u64(opts, key, 0);
    ret->iter_ms = ms ? ms : ret->iter_ms;
    return true;
}

/* --- Iterations ----------------------------------------------------------------------
 */

static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* In the processor's time of this thread, so that a busy machine gives no weak keys. */
bool luks_count_iters(const EVP_MD *md, size_t len, uint64_t ms, uint64_t *ret,
                      GError **error)
{
    static const uint8_t salt[LUKS_SALT];
    g_autoptr(GBytes) pass = g_bytes_new_static("password", 8);
    uint8_t out[LUKS_KEY_MAX];
    for (uint32_t iters = 1u << 12;; iters *= 2) {
        uint64_t start = thread_ns();
        if (!luks_derive(pass, salt, iters, md, out, len, error)) {
            return false;
        }
        uint64_t ns = thread_ns() - start;
        if (ns >= 50000000 || iters >= 1u << 28) {
            double per_ms = (double)iters * 1e6 / (double)MAX(ns, 1u);
            double n = per_ms * (double)ms;
            *ret = n > INT32_MAX ? INT32_MAX : (uint64_t)n;
            return true;
        }
    }
}

/* --- Writing -------------------------------------------------------------------------
 */

bool luks_write_header(const struct luks *l, GError **error)
{
    uint8_t h[LUKS_HEADER] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};
    const struct cipher_spec *c = &l->cipher;
    bool essiv = c->ivgen == IVGEN_ESSIV;
    g_snprintf((char *)h + 8, 32, "aes");
    g_snprintf((char *)h + 40, 32, "%s-%s%s%s", cipher_mode_names[c->mode],
               cipher_ivgen_names[c->ivgen], essiv ? ":" : "",
               essiv ? cipher_hash_names[c->ivgen_hash] : "");
    g_snprintf((char *)h + 72, 32, "%s", cipher_hash_names[l->hash]);
    be32_put(h + 104, l->payload_sector);
    be32_put(h + 108, l->key_len);
    memcpy(h + 112, l->master_digest, LUKS_DIGEST);
    memcpy(h + 132, l->master_salt, LUKS_SALT);
    be32_put(h + 164, l->master_iters);
    memcpy(h + 168, l->uuid, sizeof(l->uuid));
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        const struct luks_slot *s = &l->slots[i];
        uint8_t *p = h + 208 + 48 * i;
        be32_put(p, s->active ? LUKS_SLOT_ON : LUKS_SLOT_OFF);
        be32_put(p + 4, s->iters);
        memcpy(p + 8, s->salt, LUKS_SALT);
        be32_put(p + 40, s->sector);
        be32_put(p + 44, s->stripes);
    }
    int r = blk_pwrite(l->file, l->offset, h, sizeof(h));
    if (r == 0) {
        r = blk_run(l->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    }
    return r == 0 || error_errno(error, -r, "Unable to write encryption header");
}

bool luks_fill_slot(struct luks *l, unsigned i, GBytes *passphrase, uint64_t iter_ms,
                    GError **error)
{
    struct luks_slot s = l->slots[i];
    size_t len = luks_split_len(l), room = ALIGN_UP(len, (size_t)LUKS_SECTOR);
    g_autofree uint8_t *split = g_malloc0(room);
    uint8_t derived[LUKS_KEY_MAX];
    uint64_t iters;
    struct blk_crypt *crypt = NULL;
    bool ok = false;
    if (!luks_count_iters(luks_md(l), l->key_len, iter_ms, &iters, error)) {
        return false;
    }
    s.iters = (uint32_t)MAX(iters, LUKS_MIN_ITERS);
    s.active = true;
    if (RAND_bytes(s.salt, LUKS_SALT) != 1 ||
        af_split(l->key, l->key_len, LUKS_STRIPES, luks_md(l), split) < 0) {
        return error_msg(error, "Unable to get random bytes for the key");
    }
    if (luks_derive(passphrase, s.salt, s.iters, luks_md(l), derived, l->key_len,
                    error) &&
        (crypt = cipher_new(&l->cipher, derived, LUKS_SECTOR, error))) {
        int r = crypt->encrypt(crypt, 0, split, room);
        if (r == 0) {
            r = blk_pwrite(l->file, l->offset + (uint64_t)s.sector * LUKS_SECTOR, split,
                           len);
        }
        if (r == 0) {
            r = blk_run(l->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
        }
        ok = r == 0 || error_errno(error, -r, "Unable to store key material");
    }
    if (ok) {
        l->slots[i] = s;
    }
    cipher_free(crypt);
    OPENSSL_cleanse(split, room);
    OPENSSL_cleanse(derived, sizeof(derived));
    return ok;
}

/* Sizes, key, and the digest of the key (sections 3.1 and 4.1). */
static bool new_key(struct luks *l, const struct luks_spec *spec, GError **error)
{
    uint64_t iters;
    g_autofree char *uuid = g_uuid_string_random();
    g_snprintf(l->uuid, sizeof(l->uuid), "%s", uuid);
    if (!luks_md(l)) {
        return error_msg(error, "Hash algorithm '%s' not supported",
                         cipher_hash_names[l->hash]);
    }
    if (RAND_bytes(l->key, (int)l->key_len) != 1 ||
        RAND_bytes(l->master_salt, LUKS_SALT) != 1) {
        return error_msg(error, "Unable to get random bytes for the key");
    }
    if (!luks_count_iters(luks_md(l), LUKS_DIGEST, spec->iter_ms, &iters, error)) {
        return false;
    }
    /* The digest costs an eighth of what a slot does. */
    l->master_iters = (uint32_t)MAX(iters / 8, LUKS_MIN_ITERS);
    if (PKCS5_PBKDF2_HMAC((const char *)l->key, (int)l->key_len, l->master_salt,
                          LUKS_SALT, (int)l->master_iters, luks_md(l), LUKS_DIGEST,
                          l->master_digest) != 1) {
        return error_msg(error, "Unable to make the key's digest");
    }
    return true;
}

bool luks_create(struct blk *file, uint64_t offset, const struct luks_spec *spec,
                 GBytes *passphrase, bool detached, GError **error)
{
    struct luks *l = g_new0(struct luks, 1);
    l->file = file;
    l->offset = offset;
    l->cipher = spec->cipher;
    l->hash = spec->hash;
    l->key_len = (uint32_t)cipher_key_len(&spec->cipher);
    l->payload_sector = detached ? 0 : (uint32_t)(luks_header_len(spec) / LUKS_SECTOR);
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        l->slots[i].stripes = LUKS_STRIPES;
        l->slots[i].sector =
            LUKS_FIRST_SLOT + i * (uint32_t)(slot_len(l->key_len) / LUKS_SECTOR);
    }
    bool ok = new_key(l, spec, error) &&
              luks_fill_slot(l, 0, passphrase, spec->iter_ms, error) &&
              luks_write_header(l, error);
    luks_free(l);
    return ok;
}
