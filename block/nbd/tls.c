#include "block/nbd/tls.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "block/nbd/priv.h"
#include "lib/base/base.h"

/*
 * TLS on OpenSSL. A session reads and writes the socket itself; nothing blocks. TLS 1.2
 * at least. With PSK, the name a client gives is looked up in keys.psk at every
 * handshake, so that keys can be added while the server runs.
 */

struct nbd_tls {
    SSL_CTX *ctx;
    char *psk_file;
    json_t *authz; /* or NULL: everybody */
};

enum { KEY_FILE_MAX = 1 << 20, PSK_MAX = 256 };

static bool ssl_error(GError **error, const char *what, const char *name)
{
    unsigned long code = ERR_peek_error();
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    error_msg(error, "%s %s: %s", what, name, why ? why : "unknown error");
    ERR_clear_error();
    return false;
}

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static bool switch_of(const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);
    if (text) {
        return g_str_equal(text, "on") || g_str_equal(text, "yes") ||
               g_str_equal(text, "true") || g_str_equal(text, "y");
    }
    return v ? json_is_true(v) : def;
}

/* ---- PSK ----------------------------------------------------------------------------
 */

/* The key of @who in lines of "name:hex". Bytes written, 0 when there is none. */
static unsigned psk_find(const char *text, const char *who, unsigned char *key,
                         unsigned max)
{
    size_t name = strlen(who);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        if (strncmp(*l, who, name) != 0 || (*l)[name] != ':') {
            continue;
        }
        const char *hex = *l + name + 1;
        unsigned n = 0;
        while (n < max && isxdigit((unsigned char)hex[0]) &&
               isxdigit((unsigned char)hex[1])) {
            key[n++] = (unsigned char)(g_ascii_xdigit_value(hex[0]) << 4 |
                                       g_ascii_xdigit_value(hex[1]));
            hex += 2;
        }
        return n;
    }
    return 0;
}

static unsigned psk_server(SSL *ssl, const char *identity, unsigned char *psk,
                           unsigned max)
{
    const struct nbd_tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    g_autofree char *text = NULL;
    gsize len;
    if (!identity || !g_file_get_contents(t->psk_file, &text, &len, NULL) ||
        len > KEY_FILE_MAX) {
        return 0;
    }
    unsigned n = psk_find(text, identity, psk, MIN(max, (unsigned)PSK_MAX));
    if (n > 0) {
        g_free(SSL_get_app_data(ssl));
        /* For who asks about the peer; freed with the session. */
        SSL_set_app_data(ssl, g_strdup(identity));
    }
    OPENSSL_cleanse(text, len);
    return n;
}

static bool use_psk(struct nbd_tls *t, const char *dir, GError **error)
{
    t->psk_file = g_build_filename(dir, "keys.psk", NULL);
    if (!g_file_test(t->psk_file, G_FILE_TEST_IS_REGULAR)) {
        return error_msg(error, "Unable to access credentials %s: %s", t->psk_file,
                         g_strerror(ENOENT));
    }
    SSL_CTX_set_psk_server_callback(t->ctx, psk_server);
    /* Without certificates only these suites can be agreed on. */
    return SSL_CTX_set_cipher_list(t->ctx, "PSK:@SECLEVEL=1") == 1 ||
           ssl_error(error, "cannot use", "PSK");
}

/* ---- certificates
 * ---------------------------------------------------------------------- */

static int key_password(char *buf, int size, int writing, void *opaque)
{
    gsize len = 0;
    const void *data = opaque ? g_bytes_get_data(opaque, &len) : NULL;
    if (!data || len > (gsize)size) {
        return -1;
    }
    memcpy(buf, data, len);
    return (int)len;
}

static bool needs_file(const char *path, GError **error)
{
    return g_file_test(path, G_FILE_TEST_EXISTS) ||
           error_msg(error, "Unable to access credentials %s: %s", path,
                     g_strerror(ENOENT));
}

static bool use_crl(struct nbd_tls *t, const char *path, GError **error)
{
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        return true;
    }
    X509_STORE *store = SSL_CTX_get_cert_store(t->ctx);
    if (X509_STORE_load_file(store, path) != 1) {
        return ssl_error(error, "Unable to load CRL", path);
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return true;
}

static bool use_x509(struct nbd_tls *t, const json_t *creds, const char *dir,
                     const struct secrets *secrets, GError **error)
{
    g_autofree char *ca = g_build_filename(dir, "ca-cert.pem", NULL);
    g_autofree char *crl = g_build_filename(dir, "ca-crl.pem", NULL);
    g_autofree char *cert = g_build_filename(dir, "server-cert.pem", NULL);
    g_autofree char *key = g_build_filename(dir, "server-key.pem", NULL);
    const char *password = text_of(creds, "passwordid");
    GBytes *secret = NULL;
    if (password && !(secret = secrets_get(secrets, password, error))) {
        return false;
    }
    if (!needs_file(ca, error) || !needs_file(cert, error) || !needs_file(key, error)) {
        return false;
    }
    SSL_CTX_set_default_passwd_cb(t->ctx, key_password);
    SSL_CTX_set_default_passwd_cb_userdata(t->ctx, secret);
    if (SSL_CTX_load_verify_file(t->ctx, ca) != 1) {
        return ssl_error(error, "Unable to load CA certificate", ca);
    }
    if (SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1) {
        return ssl_error(error, "Unable to load certificate", cert);
    }
    if (SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(t->ctx) != 1) {
        return ssl_error(error, "Unable to load private key", key);
    }
    SSL_CTX_set_default_passwd_cb_userdata(t->ctx, NULL);
    if (!use_crl(t, crl, error)) {
        return false;
    }
    if (switch_of(creds, "verify-peer", true)) {
        SSL_CTX_set_client_CA_list(t->ctx, SSL_load_client_CA_file(ca));
        SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                           NULL);
    }
    return true;
}

/* ---- making
 * ------------------------------------------------------------------------------ */

static bool use_creds(struct nbd_tls *t, const json_t *creds,
                      const struct secrets *secrets, GError **error)
{
    const char *type = text_of(creds, "qom-type"), *dir = text_of(creds, "dir"),
               *endpoint = text_of(creds, "endpoint");
    if (!endpoint || !g_str_equal(endpoint, "server")) {
        return error_msg(error, "Expecting TLS credentials with a server endpoint");
    }
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                    SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (g_str_equal(type, "tls-creds-anon")) {
        SSL_CTX_set_max_proto_version(t->ctx, TLS1_2_VERSION);
        SSL_CTX_set_dh_auto(t->ctx, 1);
        return SSL_CTX_set_cipher_list(t->ctx, "aNULL:@SECLEVEL=0") == 1 ||
               ssl_error(error, "cannot use", "anonymous credentials");
    }
    if (!dir) {
        return error_msg(error, "Missing 'dir' property value");
    }
    return g_str_equal(type, "tls-creds-psk") ? use_psk(t, dir, error)
                                              : use_x509(t, creds, dir, secrets, error);
}

struct nbd_tls *nbd_tls_new(const json_t *creds, const json_t *authz,
                            const struct secrets *secrets, GError **error)
{
    struct nbd_tls *t = g_new0(struct nbd_tls, 1);
    t->ctx = SSL_CTX_new(TLS_server_method());
    t->authz = json_deep_copy(authz);
    if (!t->ctx) {
        ssl_error(error, "cannot start", "TLS");
    } else {
        SSL_CTX_set_app_data(t->ctx, t);
        if (use_creds(t, creds, secrets, error)) {
            return t;
        }
    }
    nbd_tls_free(t);
    return NULL;
}

void nbd_tls_free(struct nbd_tls *t)
{
    if (t) {
        SSL_CTX_free(t->ctx);
        json_decref(t->authz);
        g_free(t->psk_file);
        g_free(t);
    }
}

/* ---- sessions
 * ----------------------------------------------------------------------------- */

SSL *nbd_tls_session(const struct nbd_tls *t, int fd)
{
    SSL *ssl = SSL_new(t->ctx);
    if (ssl && SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}

void nbd_tls_session_free(SSL *ssl)
{
    g_free(SSL_get_app_data(ssl));
    SSL_free(ssl);
}

char *nbd_tls_peer(const struct nbd_tls *t, SSL *ssl)
{
    char *name = SSL_get_app_data(ssl);
    if (name) {
        SSL_set_app_data(ssl, NULL);
        return name;
    }
    X509 *cert = SSL_get0_peer_certificate(ssl);
    BIO *bio = cert ? BIO_new(BIO_s_mem()) : NULL;
    if (!bio) {
        return g_strdup("");
    }
    X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0,
                       XN_FLAG_RFC2253 & ~XN_FLAG_DN_REV);
    char *bytes;
    long len = BIO_get_mem_data(bio, &bytes);
    name = g_strndup(bytes, (gsize)len);
    BIO_free(bio);
    return name;
}

/* ---- who may come in
 * ----------------------------------------------------------------------- */

/* The first rule that matches decides, else the policy. */
static bool list_allows(const json_t *list, const char *who)
{
    const json_t *rules = json_object_get(list, "rules"), *rule;
    const char *policy = text_of(list, "policy");
    size_t i;
    json_array_foreach((json_t *)rules, i, rule)
    {
        const char *match = text_of(rule, "match"), *format = text_of(rule, "format"),
                   *verdict = text_of(rule, "policy");
        bool glob = format && g_str_equal(format, "glob");
        if (match &&
            (glob ? g_pattern_match_simple(match, who) : g_str_equal(match, who))) {
            return verdict && g_str_equal(verdict, "allow");
        }
    }
    return policy && g_str_equal(policy, "allow");
}

bool nbd_tls_authorized(const struct nbd_tls *t, const char *peer)
{
    if (!t->authz) {
        return true;
    }
    const char *type = text_of(t->authz, "qom-type");
    if (g_str_equal(type, "authz-simple")) {
        const char *who = text_of(t->authz, "identity");
        return who && g_str_equal(who, peer);
    }
    if (g_str_equal(type, "authz-list")) {
        return list_allows(t->authz, peer);
    }
    const char *file = text_of(t->authz, "filename");
    json_t *list = file ? json_load_file(file, 0, NULL) : NULL;
    bool ok = list && list_allows(list, peer);
    json_decref(list);
    return ok;
}
