#include "block/crypto/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <openssl/crypto.h>

#include "block/crypto/af.h"
#include "block/crypto/luks_priv.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Reading headers, and finding the key. Section numbers are of version 1's
 * specification. */

/* --- The header (section 2.2, figures 1 to 3) --------------------------------------
 */

static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};

/* A text field of @max bytes with its NUL. */
static bool text_at(const uint8_t *h, size_t at, size_t max, const char *what,
                    char *ret, GError **error)
{
    if (!memchr(h + at, 0, max)) {
        return error_msg(error, "LUKS header %s is not NUL terminated", what);
    }
    memcpy(ret, h + at, max);
    return true;
}

static bool split_ivgen(char *ivgen, struct cipher_spec *ret, GError **error)
{
    char *hash = strchr(ivgen, ':');
    if (hash) {
        *hash++ = 0;
    }
    int iv = cipher_find(cipher_ivgen_names, ivgen);
    if (iv < 0) {
        return error_msg(error, "IV generator '%s' is not known", ivgen);
    }
    ret->ivgen = (enum cipher_ivgen)iv;
    if (ret->ivgen != IVGEN_ESSIV) {
        return true;
    }
    int h = hash ? cipher_find(cipher_hash_names, hash) : -1;
    if (h < 0) {
        return hash ? error_msg(error, "Hash algorithm '%s' is not known", hash)
                    : error_msg(error, "Missing IV generator hash specification");
    }
    ret->ivgen_hash = (enum cipher_hash)h;
    return true;
}

/* "aes", "xts-plain64" and the length of the key. */
static bool parse_cipher(const char *name, char *mode, struct luks *l, GError **error)
{
    char *ivgen = strchr(mode, '-');
    if (!ivgen) {
        return error_msg(error, "Unexpected cipher mode string format '%s'", mode);
    }
    *ivgen++ = 0;
    int m = cipher_find(cipher_mode_names, mode);
    if (m < 0) {
        return error_msg(error, "Cipher mode '%s' is not known", mode);
    }
    l->cipher.mode = (enum cipher_mode)m;
    if (!split_ivgen(ivgen, &l->cipher, error)) {
        return false;
    }
    for (unsigned a = 0; g_str_equal(name, "aes") && a < CIPHER_NB_ALGS; a++) {
        l->cipher.alg = (enum cipher_alg)a;
        if (cipher_key_len(&l->cipher) == l->key_len) {
            return true;
        }
    }
    return error_msg(error,
                     "Algorithm '%s' with key size %" PRIu32 " bytes not supported",
                     name, l->key_len);
}

static bool read_slot(struct luks *l, const uint8_t *h, unsigned i, GError **error)
{
    struct luks_slot *s = &l->slots[i];
    uint32_t active = be32_get(h);
    if (active != LUKS_SLOT_ON && active != LUKS_SLOT_OFF) {
        return error_msg(error, "Keyslot %u state (active/disable) is corrupted", i);
    }
    s->active = active == LUKS_SLOT_ON;
    s->iters = be32_get(h + 4);
    memcpy(s->salt, h + 8, LUKS_SALT);
    s->sector = be32_get(h + 40);
    s->stripes = be32_get(h + 44);
    uint64_t sectors = ALIGN_UP(luks_split_len(l), (size_t)LUKS_SECTOR) / LUKS_SECTOR;
    if (s->stripes != LUKS_STRIPES) {
        return error_msg(error, "Keyslot %u is corrupted (stripes %" PRIu32 " != %u)",
                         i, s->stripes, LUKS_STRIPES);
    }
    if (s->sector <= LUKS_HEADER / LUKS_SECTOR) {
        return error_msg(error, "Keyslot %u is overlapping the LUKS header", i);
    }
    if (s->active && s->iters == 0) {
        return error_msg(error, "Keyslot %u iteration count is zero", i);
    }
    if (l->payload_sector && s->sector + sectors > l->payload_sector) {
        return error_msg(error, "Keyslot %u is overlapping with the encrypted payload",
                         i);
    }
    for (unsigned j = 0; j < i; j++) {
        if (s->sector < l->slots[j].sector + sectors &&
            l->slots[j].sector < s->sector + sectors) {
            return error_msg(error, "Keyslots %u and %u are overlapping in the header",
                             j, i);
        }
    }
    return true;
}

static bool parse(struct luks *l, const uint8_t *h, GError **error)
{
    char name[32], mode[32], hash[32];
    if (memcmp(h, magic, sizeof(magic)) != 0) {
        return error_msg(error, "Volume is not in LUKS format");
    }
    if (be16_get(h + 6) != 1) {
        return error_msg(error, "LUKS version %u is not supported", be16_get(h + 6));
    }
    l->payload_sector = be32_get(h + 104);
    l->key_len = be32_get(h + 108);
    memcpy(l->master_digest, h + 112, LUKS_DIGEST);
    memcpy(l->master_salt, h + 132, LUKS_SALT);
    l->master_iters = be32_get(h + 164);
    if (!text_at(h, 8, 32, "cipher name", name, error) ||
        !text_at(h, 40, 32, "cipher mode", mode, error) ||
        !text_at(h, 72, 32, "hash spec", hash, error) ||
        !text_at(h, 168, 40, "uuid", l->uuid, error)) {
        return false;
    }
    if (l->key_len > LUKS_KEY_MAX || l->key_len < 16) {
        return error_msg(error, "LUKS key of %" PRIu32 " bytes is not supported",
                         l->key_len);
    }
    if (l->master_iters == 0) {
        return error_msg(error, "LUKS key iteration count is zero");
    }
    int md = cipher_find(cipher_hash_names, hash);
    if (md < 0) {
        return error_msg(error, "Hash algorithm '%s' is not known", hash);
    }
    l->hash = (enum cipher_hash)md;
    if (!luks_md(l)) {
        return error_msg(error, "Hash algorithm '%s' not supported", hash);
    }
    if (!parse_cipher(name, mode, l, error)) {
        return false;
    }
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        if (!read_slot(l, h + 208 + 48 * i, i, error)) {
            return false;
        }
    }
    return true;
}

struct luks *luks_read(struct blk *file, uint64_t offset, GError **error)
{
    uint8_t h[LUKS_HEADER];
    struct luks *l = g_new0(struct luks, 1);
    l->file = file;
    l->offset = offset;
    if (!ck_range(offset, sizeof(h), blk_length(file))) {
        error_msg(error, "Volume is not in LUKS format");
        goto bad;
    }
    int r = blk_pread(file, offset, h, sizeof(h));
    if (r < 0) {
        error_errno(error, -r, "Unable to read LUKS header");
        goto bad;
    }
    if (!parse(l, h, error)) {
        goto bad;
    }
    return l;
bad:
    luks_free(l);
    return NULL;
}

void luks_free(struct luks *l)
{
    if (l) {
        cipher_free(l->crypt);
        OPENSSL_cleanse(l, sizeof(*l));
        g_free(l);
    }
}

struct blk_crypt *luks_crypt(const struct luks *l)
{
    return l->crypt;
}

uint64_t luks_payload_offset(const struct luks *l)
{
    return (uint64_t)l->payload_sector * LUKS_SECTOR;
}

/* --- The key (section 4) -----------------------------------------------------------
 */

bool luks_derive(GBytes *passphrase, const uint8_t salt[LUKS_SALT], uint32_t iters,
                 const EVP_MD *md, uint8_t *ret, size_t len, GError **error)
{
    size_t n;
    const char *pass = g_bytes_get_data(passphrase, &n);
    if (iters > INT32_MAX || n > INT32_MAX ||
        PKCS5_PBKDF2_HMAC(pass ? pass : "", (int)n, salt, LUKS_SALT, (int)iters, md,
                          (int)len, ret) != 1) {
        return error_msg(error, "Unable to derive a key with %" PRIu32 " iterations",
                         iters);
    }
    return true;
}

bool luks_key_fits(const struct luks *l, const uint8_t *key)
{
    uint8_t digest[LUKS_DIGEST];
    return l->master_iters <= INT32_MAX &&
           PKCS5_PBKDF2_HMAC((const char *)key, (int)l->key_len, l->master_salt,
                             LUKS_SALT, (int)l->master_iters, luks_md(l), LUKS_DIGEST,
                             digest) == 1 &&
           CRYPTO_memcmp(digest, l->master_digest, LUKS_DIGEST) == 0;
}

bool luks_try_slot(struct luks *l, unsigned i, GBytes *passphrase, uint8_t *ret_key,
                   bool *ret_fits, GError **error)
{
    const struct luks_slot *s = &l->slots[i];
    size_t len = luks_split_len(l), room = ALIGN_UP(len, (size_t)LUKS_SECTOR);
    g_autofree uint8_t *split = g_malloc0(room);
    uint8_t derived[LUKS_KEY_MAX];
    struct blk_crypt *crypt = NULL;
    bool ok = false;
    *ret_fits = false;
    if (!s->active) {
        return true;
    }
    uint64_t at = l->offset + (uint64_t)s->sector * LUKS_SECTOR;
    if (!ck_range(at, len, blk_length(l->file))) {
        return error_msg(error, "Keyslot %u reaches past the end of the file", i);
    }
    int r = blk_pread(l->file, at, split, len);
    if (r < 0) {
        return error_errno(error, -r, "Failed to read key material of keyslot %u", i);
    }
    if (!luks_derive(passphrase, s->salt, s->iters, luks_md(l), derived, l->key_len,
                     error) ||
        !(crypt = cipher_new(&l->cipher, derived, LUKS_SECTOR, error))) {
        goto out;
    }
    if (crypt->decrypt(crypt, 0, split, room) < 0 ||
        af_merge(split, l->key_len, LUKS_STRIPES, luks_md(l), ret_key) < 0) {
        error_msg(error, "Unable to decrypt keyslot %u", i);
        goto out;
    }
    *ret_fits = luks_key_fits(l, ret_key);
    ok = true;
out:
    cipher_free(crypt);
    OPENSSL_cleanse(split, room);
    OPENSSL_cleanse(derived, sizeof(derived));
    return ok;
}

bool luks_unlock(struct luks *l, GBytes *passphrase, GError **error)
{
    for (unsigned i = 0; i < LUKS_NB_SLOTS && !l->unlocked; i++) {
        if (!luks_try_slot(l, i, passphrase, l->key, &l->unlocked, error)) {
            return false;
        }
    }
    if (!l->unlocked) {
        return error_msg(error, "Invalid password, cannot unlock any keyslot");
    }
    l->crypt = cipher_new(&l->cipher, l->key, LUKS_SECTOR, error);
    return l->crypt != NULL;
}

/* --- Reports ------------------------------------------------------------------------
 */

void luks_info(const struct luks *l, json_t *o, const char *format)
{
    json_object_set_new(o, "ivgen-alg",
                        json_string(cipher_ivgen_names[l->cipher.ivgen]));
    json_object_set_new(o, "hash-alg", json_string(cipher_hash_names[l->hash]));
    json_object_set_new(o, "cipher-alg", json_string(cipher_alg_names[l->cipher.alg]));
    json_object_set_new(o, "uuid", json_string_nocheck(l->uuid));
    if (l->cipher.ivgen == IVGEN_ESSIV) {
        json_object_set_new(o, "ivgen-hash-alg",
                            json_string(cipher_hash_names[l->cipher.ivgen_hash]));
    }
    if (format) {
        json_object_set_new(o, "format", json_string(format));
    }
    json_object_set_new(o, "cipher-mode",
                        json_string(cipher_mode_names[l->cipher.mode]));
    json_t *slots = json_array();
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        const struct luks_slot *s = &l->slots[i];
        json_t *slot = json_pack("{sb}", "active", s->active);
        if (s->active) {
            json_object_set_new(slot, "iters", json_integer(s->iters));
        }
        json_object_set_new(slot, "key-offset",
                            json_integer((json_int_t)s->sector * LUKS_SECTOR));
        if (s->active) {
            json_object_set_new(slot, "stripes", json_integer(s->stripes));
        }
        json_array_append_new(slots, slot);
    }
    json_object_set_new(o, "slots", slots);
    json_object_set_new(o, "payload-offset",
                        json_integer((json_int_t)luks_payload_offset(l)));
    json_object_set_new(o, "master-key-iters", json_integer(l->master_iters));
}
