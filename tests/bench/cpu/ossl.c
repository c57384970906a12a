/*
 * Debian's libcrypto at work: cpubench-ossl WORK COUNT. A program of its own because it
 * is linked with the distribution's library, which chooses its code by CPUID; the
 * others are static. Prints a checksum, as they do.
 */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 16384

static uint8_t data[BLOCK], result[BLOCK + 512];

static void need(int ok, const char *what)
{
    if (ok <= 0) {
        fprintf(stderr, "cpubench-ossl: %s failed\n", what);
        exit(1);
    }
}

static EVP_PKEY *read_key(const char *path)
{
    FILE *f = fopen(path, "r");
    EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;
    need(key != NULL, path);
    fclose(f);
    return key;
}

static void digest(uint64_t n)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    need(EVP_DigestInit_ex(c, EVP_sha256(), NULL), "SHA-256");
    for (uint64_t i = 0; i < n; i++) {
        need(EVP_DigestUpdate(c, data, sizeof(data)), "SHA-256");
    }
    need(EVP_DigestFinal_ex(c, result, NULL), "SHA-256");
}

static void encrypt(const EVP_CIPHER *cipher, uint64_t n)
{
    static const uint8_t key[32] = "0123456789abcdef0123456789abcde", iv[12] = "nonce";
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int length = 0;
    for (uint64_t i = 0; i < n; i++) {
        need(EVP_EncryptInit_ex(c, i ? NULL : cipher, NULL, key, iv), "key");
        need(EVP_EncryptUpdate(c, result, &length, data, sizeof(data)), "cipher");
        need(EVP_EncryptFinal_ex(c, result + length, &length), "cipher");
        need(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, 16, data), "tag");
    }
}

/* Signs and verifies; RSA's signature is always the same, ECDSA's is not shown. */
static void sign(const char *path, uint64_t n, int show)
{
    static uint8_t signature[512];
    EVP_PKEY *key = read_key(path);
    for (uint64_t i = 0; i < n; i++) {
        EVP_MD_CTX *c = EVP_MD_CTX_new();
        size_t length = sizeof(signature);
        data[0] = (uint8_t)i;
        need(EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, key), "key");
        need(EVP_DigestSign(c, signature, &length, data, 64), "signing");
        need(EVP_MD_CTX_reset(c), "reset");
        need(EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, key), "key");
        need(EVP_DigestVerify(c, signature, length, data, 64), "verification");
        EVP_MD_CTX_free(c);
    }
    if (show) {
        memcpy(result, signature, 256);
    }
}

int main(int argc, char **argv)
{
    const char *work = argc == 3 ? argv[1] : "";
    uint64_t n = argc == 3 ? strtoull(argv[2], NULL, 0) : 0;
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7 + i / 256);
    }
    if (strcmp(work, "sha256") == 0) {
        digest(n);
    } else if (strcmp(work, "aes-gcm") == 0) {
        encrypt(EVP_aes_256_gcm(), n);
    } else if (strcmp(work, "chacha") == 0) {
        encrypt(EVP_chacha20_poly1305(), n);
    } else if (strcmp(work, "rsa") == 0) {
        sign("/data/rsa.pem", n, 1);
    } else if (strcmp(work, "p256") == 0) {
        sign("/data/p256.pem", n, 0);
    } else {
        fprintf(stderr, "usage: cpubench-ossl sha256|aes-gcm|chacha|rsa|p256 COUNT\n");
        return 2;
    }
    for (unsigned i = 0; i < sizeof(result); i++) {
        printf("%02x", result[i]);
    }
    putchar('\n');
    return 0;
}
