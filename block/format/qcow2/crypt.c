#include "block/format/qcow2/qcow2_priv.h"

#include <string.h>

#include "block/crypto/luks.h"
#include "lib/base/base.h"

/*
 * Encrypted images. What is encrypted is the guest's data; tables and names are not.
 * Method 1 is AES-128-CBC with the passphrase as key and IVs from the guest's sector
 * numbers, kept for old images; method 2 has a LUKS header in clusters of its own, and
 * IVs from the sector numbers in the file.
 */

static const char *const methods[] = {"none", "aes", "luks"};

/* ---- opening
 * ---------------------------------------------------------------------------- */

static bool judge_format(const struct qcow2 *q, const char *format, GError **error)
{
    if (!format || g_str_equal(format, methods[q->crypt_method])) {
        return true;
    }
    return q->crypt_method
               ? error_msg(error,
                           "Header reported '%s' encryption format but options specify "
                           "'%s'",
                           methods[q->crypt_method], format)
               : error_msg(error,
                           "No encryption in image header, but options specified "
                           "format '%s'",
                           format);
}

static bool unlock(struct qcow2 *q, const char *id, GError **error)
{
    q->passphrase = blk_secret(q->b, id, error);
    if (!q->passphrase) {
        return false;
    }
    if (q->luks) {
        bool ok = luks_unlock(q->luks, q->passphrase, error);
        q->crypt = luks_crypt(q->luks);
        return ok;
    }
    q->crypt = cipher_new_legacy(q->passphrase, error);
    return q->crypt != NULL;
}

bool qcow2_open_crypt(struct qcow2 *q, json_t *opts, GError **error)
{
    json_t *encrypt = json_object_get(opts, "encrypt");
    const char *id = blk_opt_str(encrypt, "key-secret", NULL);
    bool no_io = blk_open_flags(q->b) & BLK_OPEN_NO_IO;
    if (!judge_format(q, blk_opt_str(encrypt, "format", NULL), error)) {
        return false;
    }
    if (!q->crypt_method) {
        return true;
    }
    if (q->crypt_method == QCOW2_CRYPT_LUKS) {
        q->luks = luks_read(q->file, q->crypt_at, error);
        if (!q->luks) {
            return false;
        }
    }
    if (no_io) {
        return true;
    }
    return id ? unlock(q, id, error)
              : error_msg(error,
                          "Parameter 'encrypt.key-secret' is required for cipher");
}

void qcow2_close_crypt(struct qcow2 *q)
{
    if (q->luks) {
        luks_free(q->luks); /* and its cipher */
    } else {
        cipher_free(q->crypt);
    }
}

/* ---- creating
 * --------------------------------------------------------------------------- */

static bool take_legacy(json_t *opts, GError **error)
{
    const char *key;
    json_t *value;
    json_object_foreach(opts, key, value)
    {
        if (g_str_has_prefix(key, "encrypt.") && !g_str_equal(key, "encrypt.format") &&
            !g_str_equal(key, "encrypt.key-secret")) {
            return error_msg(error, "Parameter '%s' is unexpected", key);
        }
    }
    return true;
}

bool qcow2_take_crypt(struct qcow2 *q, json_t *opts, GError **error)
{
    const char *format = blk_opt_str(opts, "encrypt.format", NULL);
    struct luks_spec spec;
    if (blk_opt_bool(opts, "encryption", false)) {
        if (format) {
            return error_msg(error, "'encrypt.format' and its alias 'encryption' can't "
                                    "be used at the same time");
        }
        format = "aes";
    }
    if (!format) {
        const char *key;
        json_t *value;
        json_object_foreach(opts, key, value)
        {
            if (g_str_has_prefix(key, "encrypt.")) {
                return error_msg(error, "Parameter 'encrypt.format' is missing");
            }
        }
        return true;
    }
    if (!g_str_equal(format, "aes") && !g_str_equal(format, "luks")) {
        return error_msg(error, "Parameter 'format' does not accept value '%s'",
                         format);
    }
    q->crypt_method = g_str_equal(format, "aes") ? QCOW2_CRYPT_AES : QCOW2_CRYPT_LUKS;
    if (q->crypt_method == QCOW2_CRYPT_AES) {
        return take_legacy(opts, error);
    }
    if (!luks_spec_from_options(opts, "encrypt.", &spec, error)) {
        return false;
    }
    q->crypt_len = luks_header_len(&spec);
    return true;
}

bool qcow2_write_crypt(struct qcow2 *q, struct blk *file, json_t *opts, GError **error)
{
    const char *id = blk_opt_str(opts, "encrypt.key-secret", NULL);
    struct luks_spec spec;
    if (!q->crypt_method) {
        return true;
    }
    if (!id) {
        return error_msg(error,
                         "Parameter 'encrypt.key-secret' is required for cipher");
    }
    GBytes *passphrase = blk_secret(file, id, error);
    if (!passphrase || q->crypt_method == QCOW2_CRYPT_AES) {
        return passphrase != NULL;
    }
    int r = blk_run(file, BLK_ZERO, q->crypt_at, NULL, 0,
                    ALIGN_UP(q->crypt_len, q->cluster_size), 0);
    if (r < 0) {
        return error_errno(error, -r, "Could not write the encryption header");
    }
    return luks_spec_from_options(opts, "encrypt.", &spec, error) &&
           luks_create(file, q->crypt_at, &spec, passphrase, false, error);
}

json_t *qcow2_crypt_options(json_t *opts)
{
    const char *id = blk_opt_str(opts, "encrypt.key-secret", NULL);
    return id ? json_pack("{s:s}", "key-secret", id) : NULL;
}

/* ---- keyslots, reports
 * ------------------------------------------------------------------ */

static GBytes *find_secret(void *opaque, const char *id, GError **error)
{
    return blk_secret(opaque, id, error);
}

bool qcow2_amend_crypt(struct qcow2 *q, json_t *opts, bool force, GError **error)
{
    const struct luks_secrets secrets = {find_secret, q->b, q->passphrase};
    const char *key;
    json_t *value;
    bool wanted = false;
    json_object_foreach(opts, key, value)
    {
        wanted |= g_str_has_prefix(key, "encrypt.");
    }
    if (!wanted) {
        return true;
    }
    if (!q->crypt_method) {
        return error_msg(error,
                         "Can't amend encryption options - encryption not present");
    }
    return q->luks ? luks_amend(q->luks, opts, "encrypt.", &secrets, force, error)
                   : error_msg(error, "Only LUKS encryption options can be amended");
}

void qcow2_crypt_info(const struct qcow2 *q, json_t *data)
{
    json_t *o = q->crypt_method ? json_object() : NULL;
    if (q->luks) {
        luks_info(q->luks, o, methods[q->crypt_method]);
    } else if (o) {
        json_object_set_new(o, "format", json_string(methods[q->crypt_method]));
    }
    if (o) {
        json_object_set_new(data, "encrypt", o);
    }
}
