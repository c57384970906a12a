#include "block/format/qcow/qcow_priv.h"

#include "block/crypto/cipher.h"
#include "lib/base/base.h"

/*
 * Encrypted images: AES-128-CBC with the passphrase as key and IVs from the guest's
 * sector numbers. What is encrypted is the guest's data in plain clusters.
 */

static bool judge_options(const struct qcow *q, json_t *encrypt, GError **error)
{
    const char *format = blk_opt_str(encrypt, "format", NULL), *key;
    json_t *value;
    if (format && !q->crypt_method) {
        return error_msg(error,
                         "No encryption in image header, but options specified format "
                         "'%s'",
                         format);
    }
    if (format && !g_str_equal(format, "aes")) {
        return error_msg(error,
                         "Header reported 'aes' encryption format but options specify "
                         "'%s'",
                         format);
    }
    json_object_foreach(encrypt, key, value)
    {
        if (!g_str_equal(key, "format") && !g_str_equal(key, "key-secret")) {
            return error_msg(error, "Parameter '%s' is unexpected", key);
        }
    }
    return true;
}

bool qcow_open_crypt(struct qcow *q, json_t *opts, GError **error)
{
    json_t *encrypt = json_object_get(opts, "encrypt");
    const char *id = blk_opt_str(encrypt, "key-secret", NULL);
    if (!judge_options(q, encrypt, error)) {
        return false;
    }
    if (!q->crypt_method || (blk_open_flags(q->b) & BLK_OPEN_NO_IO)) {
        return true;
    }
    if (!id) {
        return error_msg(error,
                         "Parameter 'encrypt.key-secret' is required for cipher");
    }
    GBytes *passphrase = blk_secret(q->b, id, error);
    q->crypt = passphrase ? cipher_new_legacy(passphrase, error) : NULL;
    return q->crypt != NULL;
}

bool qcow_take_crypt(struct qcow *q, struct blk *file, json_t *opts, GError **error)
{
    const char *format = blk_opt_str(opts, "encrypt.format", NULL);
    const char *id = blk_opt_str(opts, "encrypt.key-secret", NULL);
    if (blk_opt_bool(opts, "encryption", false)) {
        if (format) {
            return error_msg(error, "'encrypt.format' and its alias 'encryption' can't "
                                    "be used at the same time");
        }
        format = "aes";
    }
    if (!format) {
        return !id || error_msg(error, "Parameter 'encrypt.format' is missing");
    }
    if (!g_str_equal(format, "aes")) {
        return error_msg(error, "Unsupported encryption format");
    }
    q->crypt_method = 1;
    return id ? blk_secret(file, id, error) != NULL
              : error_msg(error,
                          "Parameter 'encrypt.key-secret' is required for cipher");
}
