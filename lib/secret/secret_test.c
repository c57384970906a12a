#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/secret/secret.h"

static bool add(struct secrets *s, json_t *props, const char *expect)
{
    GError *error = NULL;
    bool ok = secrets_add(s, props, &error);
    json_decref(props);
    g_assert_cmpstr(error ? error->message : NULL, ==, expect);
    g_clear_error(&error);
    return ok;
}

static void check(const struct secrets *s, const char *id, const char *expect)
{
    GBytes *b = secrets_get(s, id, NULL);
    g_assert_nonnull(b);
    g_assert_cmpmem(g_bytes_get_data(b, NULL), g_bytes_get_size(b), expect,
                    strlen(expect));
}

static void test_plain(void)
{
    struct secrets *s = secrets_new();
    GError *error = NULL;
    g_assert_null(secrets_get(NULL, "x", &error));
    g_assert_cmpstr(error->message, ==, "No secret with id 'x'");
    g_clear_error(&error);
    g_assert_true(add(s, json_pack("{ss ss}", "id", "a", "data", "abc"), NULL));
    g_assert_true(
        add(s, json_pack("{ss ss ss}", "id", "b", "data", "YWJj\n", "format", "base64"),
            NULL));
    check(s, "a", "abc");
    check(s, "b", "abc");
    g_autofree char *name = g_build_filename(g_get_tmp_dir(), "secret-XXXXXX", NULL);
    int fd = g_mkstemp(name);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(name, "from a file", -1, NULL));
    g_assert_true(add(s, json_pack("{ss ss}", "id", "c", "file", name), NULL));
    check(s, "c", "from a file");
    g_unlink(name);
    secrets_free(s);
}

static void test_bad(void)
{
    struct secrets *s = secrets_new();
    add(s, json_pack("{ss}", "data", "a"), "Parameter 'id' is missing");
    add(s, json_pack("{ss}", "id", "a"), "Either 'file' or 'data' must be provided");
    add(s, json_pack("{ss ss ss}", "id", "a", "data", "a", "file", "b"),
        "'file' and 'data' are mutually exclusive");
    add(s, json_pack("{ss ss ss}", "id", "a", "data", "a", "foo", "b"),
        "Parameter 'foo' is unexpected");
    add(s, json_pack("{ss ss ss}", "id", "a", "data", "a", "format", "x"),
        "Parameter 'format' does not accept value 'x'");
    add(s, json_pack("{ss ss ss}", "id", "a", "data", "a*", "format", "base64"),
        "Base64 data is not valid");
    add(s, json_pack("{ss ss ss}", "id", "a", "data", "a", "keyid", "k"),
        "No secret with id 'k'");
    g_assert_null(secrets_get(s, "a", NULL));
    secrets_free(s);
}

/* AES-256-CBC of "hello", made with: openssl enc -aes-256-cbc -K ... -iv ... */
static void test_encrypted(void)
{
    struct secrets *s = secrets_new();
    g_assert_true(add(
        s, json_pack("{ss ss}", "id", "k", "data", "01234567890123456789012345678901"),
        NULL));
    g_assert_true(add(s,
                      json_pack("{ss ss ss ss ss}", "id", "e", "keyid", "k", "iv",
                                "YWJjZGVmZ2hpamtsbW5vcA==", "format", "base64", "data",
                                "9qzQYqW/N6GKVxY5zeeYkg=="),
                      NULL));
    check(s, "e", "hello");
    add(s,
        json_pack("{ss ss ss ss ss}", "id", "f", "keyid", "k", "iv",
                  "YWJjZGVmZ2hpamtsbW5vcA==", "format", "base64", "data", "AAAA"),
        "Unable to decrypt secret, wrong key or damaged data");
    add(s,
        json_pack("{ss ss ss ss}", "id", "g", "keyid", "k", "iv", "YQ==", "data", "x"),
        "IV should be 16 bytes in length not 1");
    add(s, json_pack("{ss ss ss}", "id", "g", "keyid", "k", "data", "x"),
        "IV is required to decrypt secret");
    secrets_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/secret/plain", test_plain);
    g_test_add_func("/secret/bad", test_bad);
    g_test_add_func("/secret/encrypted", test_encrypted);
    return g_test_run();
}
