#include "block/crypto/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/driver.h"
#include "block/format/luks.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * luks: behind the header is the disk, encrypted sector by sector; the IV comes from
 * the sector's number in the disk. With a detached header ("header") the file is the
 * disk from its start. See block/crypto/luks.h.
 */

struct luks_image {
    struct luks *luks;
    struct blk *header; /* where the header is: the file, or a child of its own */
    GBytes *passphrase; /* borrowed from the opener's secrets */
    uint64_t payload;   /* byte of the file where the disk begins */
};

static int luks_probe(const uint8_t *head, size_t len, const char *filename)
{
    return len >= 8 && memcmp(head, "LUKS\xba\xbe\0\x01", 8) == 0 ? 100 : 0;
}

static void luks_close(struct blk *b)
{
    struct luks_image *i = b->priv;
    if (i) {
        luks_free(i->luks);
        g_free(i);
    }
}

static bool unlock(struct blk *b, struct luks_image *i, json_t *opts, GError **error)
{
    const char *id = blk_opt_str(opts, "key-secret", NULL);
    if (!id && (blk_open_flags(b) & BLK_OPEN_NO_IO)) {
        return true;
    }
    if (!id) {
        return error_msg(error, "Parameter 'key-secret' is required for cipher");
    }
    i->passphrase = blk_secret(b, id, error);
    return i->passphrase && ((blk_open_flags(b) & BLK_OPEN_NO_IO) ||
                             luks_unlock(i->luks, i->passphrase, error));
}

static bool luks_open(struct blk *b, json_t *opts, GError **error)
{
    struct luks_image *i = g_new0(struct luks_image, 1);
    json_t *header = json_object_get(opts, "header");
    b->priv = i;
    i->header =
        header ? blk_open_child(b, "header", header, b->read_only, error) : b->file;
    if (!i->header) {
        return false;
    }
    i->luks = luks_read(i->header, 0, error);
    if (!i->luks || !unlock(b, i, opts, error)) {
        return false;
    }
    i->payload = luks_payload_offset(i->luks);
    if (!header && !i->payload && !(blk_open_flags(b) & BLK_OPEN_NO_IO)) {
        return error_msg(error, "the LUKS header belongs to a disk in another file; "
                                "name it with 'header'");
    }
    uint64_t have = b->file->content_len;
    if (i->payload > have) {
        return error_msg(error,
                         "the encrypted data begins at %" PRIu64
                         ", past the end of the file (%" PRIu64 " bytes)",
                         i->payload, have);
    }
    b->content_len = (have - i->payload) / 512 * 512;
    b->limits = b->file->limits;
    b->limits.alloc_unit = 512; /* requests that share a sector of the cipher wait */
    return true;
}

static int luks_map(struct blk *b, uint64_t offset, uint64_t len,
                    struct blk_extent *ret)
{
    const struct luks_image *i = b->priv;
    *ret = (struct blk_extent){
        .kind = BLK_EXT_DATA,
        .flags = BLK_EXT_IN_PLACE,
        .len = len,
        .child = b->file,
        .offset = i->payload + offset,
        .crypt = luks_crypt(i->luks),
        .iv_offset = offset,
    };
    return ret->crypt ? 0 : -EACCES;
}

static void luks_image_info(struct blk *b, json_t *info)
{
    const struct luks_image *i = b->priv;
    json_t *data = json_object();
    luks_info(i->luks, data, NULL);
    json_object_set_new(info, "format-specific",
                        json_pack("{ss so}", "type", "luks", "data", data));
    json_object_set_new(info, "encrypted", json_true());
}

static bool luks_truncate(struct blk *b, uint64_t length, enum blk_prealloc prealloc,
                          GError **error)
{
    const struct luks_image *i = b->priv;
    uint64_t end;
    if (!ck_add(i->payload, length, &end) || end > INT64_MAX) {
        return error_msg(error, "The requested file size is too large");
    }
    if (!blk_truncate(b->file, end, prealloc, error)) {
        return false;
    }
    b->content_len = length;
    return true;
}

/* --- Creating -----------------------------------------------------------------------
 */

/* In the order that QEMU's reports have. */
#define CIPHER_OPTIONS                                                                \
    {"key-secret", BLK_OPT_STR, NULL,                                                 \
     "ID of the secret that provides the keyslot passphrase"},                        \
        {"cipher-alg", BLK_OPT_STR, NULL, "Name of encryption cipher algorithm"},     \
        {"cipher-mode", BLK_OPT_STR, NULL, "Name of encryption cipher mode"},         \
        {"ivgen-alg", BLK_OPT_STR, NULL, "Name of IV generator algorithm"},           \
        {"ivgen-hash-alg", BLK_OPT_STR, NULL, "Name of IV generator hash algorithm"}, \
        {"hash-alg", BLK_OPT_STR, NULL, "Name of encryption hash algorithm"},         \
    {                                                                                 \
        "iter-time", BLK_OPT_INT, NULL, "Time to spend in PBKDF in milliseconds"      \
    }

static bool luks_create_image(struct blk *file, json_t *opts, GError **error)
{
    struct luks_spec spec;
    const char *id = blk_opt_str(opts, "key-secret", NULL);
    bool detached = blk_opt_bool(opts, "detached-header", false);
    uint64_t size = blk_opt_u64(opts, "size", 0), end;
    if (!luks_spec_from_options(opts, "", &spec, error)) {
        return false;
    }
    if (!id) {
        return error_msg(error, "Parameter 'key-secret' is required for cipher");
    }
    GBytes *passphrase = blk_secret(file, id, error);
    if (!passphrase) {
        return false;
    }
    if (!ck_add(luks_header_len(&spec), detached ? 0 : ALIGN_UP(size, 512), &end) ||
        end > INT64_MAX) {
        return error_msg(error, "The requested file size is too large");
    }
    return blk_truncate(file, end, BLK_PREALLOC_OFF, error) &&
           luks_create(file, 0, &spec, passphrase, detached, error);
}

static bool luks_measure(json_t *opts, const struct blk_measure_source *src,
                         struct blk_measure *ret, GError **error)
{
    struct luks_spec spec;
    if (!luks_spec_from_options(opts, "", &spec, error)) {
        return false;
    }
    ret->full = luks_header_len(&spec) + ALIGN_UP(blk_opt_u64(opts, "size", 0), 512);
    ret->required = ret->full;
    return true;
}

static const struct blk_option luks_create_options[] = {
    {"size", BLK_OPT_SIZE, NULL, "Virtual disk size"},
    CIPHER_OPTIONS,
    {"detached-header", BLK_OPT_BOOL, NULL, "Make the header alone, without a disk"},
    {0},
};

static const struct blk_create_ops luks_create_ops = {
    .options = luks_create_options,
    .create = luks_create_image,
    .measure = luks_measure,
};

/* --- Amending ------------------------------------------------------------------------
 */

static GBytes *find_secret(void *opaque, const char *id, GError **error)
{
    return blk_secret(opaque, id, error);
}

static bool luks_amend_image(struct blk *b, json_t *opts, bool force,
                             const struct blk_progress *progress, GError **error)
{
    struct luks_image *i = b->priv;
    const struct luks_secrets secrets = {find_secret, b, i->passphrase};
    return luks_amend(i->luks, opts, "", &secrets, force, error);
}

static const struct blk_option luks_amend_options[] = {
    {"state", BLK_OPT_STR, NULL,
     "Select new state of affected keyslots (active/inactive)"},
    {"keyslot", BLK_OPT_INT, NULL, "Select a single keyslot to modify explicitly"},
    {"old-secret", BLK_OPT_STR, NULL, "Select all keyslots that match this password"},
    {"new-secret", BLK_OPT_STR, NULL,
     "New secret to set in the matching keyslots. Empty string to erase"},
    {"iter-time", BLK_OPT_INT, NULL, "Time to spend in PBKDF in milliseconds"},
    {0},
};

static const struct blk_amend_ops luks_amend_ops = {
    .options = luks_amend_options,
    .amend = luks_amend_image,
};

static const struct blk_option luks_options[] = {
    {"key-secret", BLK_OPT_STR, NULL,
     "ID of the secret that provides the keyslot passphrase"},
    {"header", BLK_OPT_NODE, NULL, "where the LUKS header is, when not in the file"},
    {0},
};

static const struct blk_write_ops luks_write_ops = {0}; /* every extent is in place */

static const struct blk_resize_ops luks_resize_ops = {.truncate = luks_truncate};

const struct blk_format luks_format = {
    .name = "luks",
    .help = "a disk encrypted as a whole (LUKS)",
    .options = luks_options,
    .probe = luks_probe,
    .open = luks_open,
    .close = luks_close,
    .map = luks_map,
    .map_cached = luks_map,
    .new_is_noise = true,
    .info = luks_image_info,
    .writable = &luks_write_ops,
    .resize = &luks_resize_ops,
    .creatable = &luks_create_ops,
    .amendable = &luks_amend_ops,
};
