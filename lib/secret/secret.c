#include "lib/secret/secret.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "lib/base/base.h"

#define MAX_FILE (16u << 20)
#define KEY_LEN  32
#define IV_LEN   16

struct secrets {
    GHashTable *by_id;   /* name to GBytes */
    GHashTable *objects; /* name to json_t */
};

static void wipe(gpointer p)
{
    GByteArray *a = p;
    OPENSSL_cleanse(a->data, a->len);
    g_byte_array_unref(a);
}

/* Takes over @data. */
static GBytes *bytes_of(uint8_t *data, size_t len)
{
    GByteArray *a = g_byte_array_new_take(data, len);
    return g_bytes_new_with_free_func(a->data, a->len, wipe, a);
}

struct secrets *secrets_new(void)
{
    struct secrets *s = g_new(struct secrets, 1);
    s->by_id = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                     (GDestroyNotify)g_bytes_unref);
    s->objects = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                       (GDestroyNotify)json_decref);
    return s;
}

void secrets_free(struct secrets *s)
{
    if (s) {
        g_hash_table_unref(s->by_id);
        g_hash_table_unref(s->objects);
        g_free(s);
    }
}

GBytes *secrets_get(const struct secrets *s, const char *id, GError **error)
{
    GBytes *b = s ? g_hash_table_lookup(s->by_id, id) : NULL;
    if (!b) {
        error_msg(error, "No secret with id '%s'", id);
    }
    return b;
}

static uint8_t *read_file(const char *name, size_t *ret_len, GError **error)
{
    GError *why = NULL;
    char *text = NULL;
    if (!g_file_get_contents(name, &text, ret_len, &why)) {
        error_msg(error, "Unable to read %s: %s", name, why->message);
        g_clear_error(&why);
    } else if (*ret_len > MAX_FILE) {
        error_msg(error, "%s is too large for a secret", name);
        OPENSSL_cleanse(text, *ret_len);
        g_clear_pointer(&text, g_free);
    }
    return (uint8_t *)text;
}

/* In place. */
static bool from_base64(uint8_t *data, size_t *len, GError **error)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                              "0123456789+/=\r\n";
    for (size_t i = 0; i < *len; i++) {
        if (!data[i] || !strchr(set, data[i])) {
            return error_msg(error, "Base64 data is not valid");
        }
    }
    int state = 0;
    unsigned save = 0;
    *len = g_base64_decode_step((const char *)data, *len, data, &state, &save);
    return true;
}

static uint8_t *decrypt(const uint8_t *data, size_t len, GBytes *key, const uint8_t *iv,
                        size_t *ret_len, GError **error)
{
    uint8_t *plain = g_malloc(len + IV_LEN);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, rest = 0;
    bool ok = ctx && len <= MAX_FILE &&
              EVP_DecryptInit_ex(ctx, EVP_aes_256_cbc(), NULL,
                                 g_bytes_get_data(key, NULL), iv) &&
              EVP_DecryptUpdate(ctx, plain, &n, data, (int)len) &&
              EVP_DecryptFinal_ex(ctx, plain + n, &rest);
    EVP_CIPHER_CTX_free(ctx);
    if (!ok) {
        error_msg(error, "Unable to decrypt secret, wrong key or damaged data");
        OPENSSL_cleanse(plain, len + IV_LEN);
        g_free(plain);
        return NULL;
    }
    *ret_len = (size_t)(n + rest);
    return plain;
}

static const char *text_of(const json_t *props, const char *name)
{
    return json_string_value(json_object_get(props, name));
}

static bool check_id(const struct secrets *s, const char *id, GError **error)
{
    if (!id) {
        return error_msg(error, "Parameter 'id' is missing");
    }
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               "0123456789-._";
    if (!g_ascii_isalpha(*id) || id[strspn(id, rest)] != '\0') {
        return error_msg(error, "Parameter 'id' expects an identifier\nIdentifiers "
                                "consist of letters, digits, '-', '.', '_', starting "
                                "with a letter.");
    }
    if (g_hash_table_contains(s->by_id, id) || g_hash_table_contains(s->objects, id)) {
        return error_msg(error,
                         "attempt to add duplicate property '%s' to object (type "
                         "'container')",
                         id);
    }
    return true;
}

static bool check_names(const json_t *props, GError **error)
{
    static const char *const names[] = {"qom-type", "id",    "data", "file",
                                        "format",   "keyid", "iv",   NULL};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)props, key, value)
    {
        if (!g_strv_contains(names, key)) {
            return error_msg(error, "Parameter '%s' is unexpected", key);
        }
        if (!json_is_string(value)) {
            return error_msg(error, "Invalid parameter type for '%s', expected: string",
                             key);
        }
    }
    return true;
}

/* Take @data out of its encryption with secret keyid. Frees @data. */
static uint8_t *with_key(const struct secrets *s, const json_t *props, uint8_t *data,
                         size_t *len, GError **error)
{
    const char *iv_text = text_of(props, "iv");
    GBytes *key = secrets_get(s, text_of(props, "keyid"), error);
    g_autofree uint8_t *iv = NULL;
    size_t iv_len = 0;
    uint8_t *plain = NULL;
    if (!key) {
        goto out;
    }
    if (g_bytes_get_size(key) != KEY_LEN) {
        error_msg(error, "Key should be %d bytes in length", KEY_LEN);
        goto out;
    }
    if (!iv_text) {
        error_msg(error, "IV is required to decrypt secret");
        goto out;
    }
    iv = (uint8_t *)g_strdup(iv_text);
    iv_len = strlen(iv_text);
    if (!from_base64(iv, &iv_len, error)) {
        goto out;
    }
    if (iv_len != IV_LEN) {
        error_msg(error, "IV should be %d bytes in length not %zu", IV_LEN, iv_len);
        goto out;
    }
    plain = decrypt(data, *len, key, iv, len, error);
out:
    g_free(data);
    return plain;
}

bool secrets_add(struct secrets *s, const json_t *props, GError **error)
{
    const char *id = text_of(props, "id"), *data = text_of(props, "data"),
               *file = text_of(props, "file"), *format = text_of(props, "format");
    if (!check_names(props, error)) {
        return false;
    }
    if (!check_id(s, id, error)) {
        return false;
    }
    if (format && !g_str_equal(format, "raw") && !g_str_equal(format, "base64")) {
        return error_msg(error, "Parameter 'format' does not accept value '%s'",
                         format);
    }
    if (file && data) {
        return error_msg(error, "'file' and 'data' are mutually exclusive");
    }
    if (!file && !data) {
        return error_msg(error, "Either 'file' or 'data' must be provided");
    }
    size_t len = data ? strlen(data) : 0;
    uint8_t *bytes =
        data ? (uint8_t *)g_memdup2(data, len + 1) : read_file(file, &len, error);
    if (!bytes) {
        return false;
    }
    if (format && g_str_equal(format, "base64") && !from_base64(bytes, &len, error)) {
        g_free(bytes);
        return false;
    }
    if (text_of(props, "keyid")) {
        bytes = with_key(s, props, bytes, &len, error);
        if (!bytes) {
            return false;
        }
    } else if (text_of(props, "iv")) {
        g_free(bytes);
        return error_msg(error, "'iv' is used with 'keyid' only");
    }
    g_hash_table_insert(s->by_id, g_strdup(id), bytes_of(bytes, len));
    return true;
}

/* ---- objects that are no secrets --------------------------------------------------
 */

enum { OBJECT_KEYS = 6 };

static const struct {
    const char *type;
    const char *keys[OBJECT_KEYS + 1]; /* beside id and qom-type */
} object_types[] = {
    {"tls-creds-x509",
     {"dir", "endpoint", "verify-peer", "passwordid", "priority", "sanity-check"}},
    {"tls-creds-psk", {"dir", "endpoint", "verify-peer", "username", "priority"}},
    {"tls-creds-anon", {"dir", "endpoint", "verify-peer", "priority"}},
    {"authz-simple", {"identity"}},
    {"authz-list", {"policy", "rules"}},
    {"authz-list-file", {"filename", "refresh"}},
};

static const char *const *keys_of(const char *type)
{
    for (size_t i = 0; i < ARRAY_LEN(object_types); i++) {
        if (g_str_equal(object_types[i].type, type)) {
            return object_types[i].keys;
        }
    }
    return NULL;
}

bool secrets_knows_object(const char *type)
{
    return keys_of(type) != NULL;
}

bool secrets_add_object(struct secrets *s, const json_t *props, GError **error)
{
    const char *id = text_of(props, "id"), *type = text_of(props, "qom-type");
    const char *const *keys = type ? keys_of(type) : NULL;
    const char *key;
    json_t *value;
    if (!keys) {
        return error_msg(error, "Parameter 'qom-type' does not accept value '%s'",
                         type ? type : "");
    }
    json_object_foreach((json_t *)props, key, value)
    {
        if (!g_str_equal(key, "id") && !g_str_equal(key, "qom-type") &&
            !g_strv_contains(keys, key)) {
            return error_msg(error, "Parameter '%s' is unexpected", key);
        }
    }
    if (!check_id(s, id, error)) {
        return false;
    }
    g_hash_table_insert(s->objects, g_strdup(id), json_deep_copy(props));
    return true;
}

const json_t *secrets_get_object(const struct secrets *s, const char *id)
{
    return s ? g_hash_table_lookup(s->objects, id) : NULL;
}
