#include "block/format/dmg.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/codec/codec.h"
#include "block/driver.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * Big-endian. At the end of the file, or near it, is a trailer of 512 bytes:
 *
 *     0     "koly"
 *     24    where the data begins, and its length; 40: the same of the resource fork
 *     216   the same of a property list (XML)
 *     492   sectors of the disk
 *
 * Fork or list have blocks ("mish") that describe parts of the disk:
 *
 *     0     "mish", version
 *     8     first sector of the part, its sectors, where its data begins
 *     200   number of chunks, then each: type, comment, first sector within the part,
 *           sectors, place and length of what is stored
 *
 * In the fork each block has its length in front; in the list it is text in base64
 * between <data> and </data>. All chunks are kept in memory, in order of sectors; they
 * are at most what fits in META_MAX. Sectors of no chunk are zeros.
 */

enum {
    TRAILER = 512,
    MISH_HEAD = 204,
    MISH_CHUNK = 40,
    META_MAX = 16 * 1024 * 1024,
    MAX_SECTORS = 131072, /* of a compressed chunk: 64 MiB */
    MAX_STORED = 64 * 1024 * 1024,
};

enum {
    CHUNK_ZERO = 0,
    CHUNK_RAW = 1,
    CHUNK_IGNORE = 2, /* what nobody wrote */
    CHUNK_COMMENT = 0x7ffffffe,
};

#define MAGIC_KOLY UINT32_C(0x6b6f6c79)
#define MAGIC_MISH UINT32_C(0x6d697368)
#define CHUNK_END  UINT32_C(0xffffffff)

static const struct {
    uint32_t type;
    const char *name;
    const struct blk_codec *codec; /* NULL: none here */
} packed_types[] = {
    {0x80000004u, "ADC", &blk_codec_adc},     {0x80000005u, "zlib", &blk_codec_zlib},
    {0x80000006u, "bzip2", &blk_codec_bzip2}, {0x80000007u, "LZFSE", NULL},
    {0x80000008u, "LZMA", &blk_codec_xz},
};

struct chunk {
    uint64_t start, len; /* of the disk, bytes */
    uint64_t offset, stored;
    const struct blk_codec *codec; /* NULL: plain, or zeros when stored is 0 */
};

struct dmg {
    struct blk *file;
    uint64_t data; /* where the data fork begins */
    GArray *chunks;
};

/* ---- chunks -------------------------------------------------------------------------
 */

static bool no_such_type(uint32_t type, const char *name, GError **error)
{
    return name ? error_msg(error,
                            "the image has chunks compressed with %s, which is not "
                            "supported",
                            name)
                : error_msg(error, "the image has chunks of unknown type %" PRIx32,
                            type);
}

/* The codec of @type, or NULL with @error. */
static const struct blk_codec *find_codec(uint32_t type, GError **error)
{
    for (size_t i = 0; i < ARRAY_LEN(packed_types); i++) {
        if (packed_types[i].type == type) {
            if (!packed_types[i].codec) {
                no_such_type(type, packed_types[i].name, error);
            }
            return packed_types[i].codec;
        }
    }
    no_such_type(type, NULL, error);
    return NULL;
}

static bool take_chunk(struct dmg *d, const uint8_t *p, uint64_t first, uint64_t base,
                       GError **error)
{
    uint32_t type = be32_get(p);
    uint64_t sector = be64_get(p + 8), count = be64_get(p + 16);
    struct chunk c = {.stored = be64_get(p + 32)};
    if (type == CHUNK_COMMENT || type == CHUNK_END || count == 0) {
        return true;
    }
    if (!ck_add(sector, first, &sector) || sector > INT64_MAX / 512 ||
        count > INT64_MAX / 512 - sector ||
        !ck_add(be64_get(p + 24), base, &c.offset) || c.offset > INT64_MAX) {
        return error_msg(
            error, "chunk %u: sector %" PRIu64 " or its place %" PRIu64 " cannot be",
            d->chunks->len, sector, be64_get(p + 24));
    }
    c.start = sector * 512;
    c.len = count * 512;
    if (type == CHUNK_ZERO || type == CHUNK_IGNORE) {
        c.stored = 0;
    } else if (type == CHUNK_RAW) {
        c.len = MIN(c.len, ALIGN_DOWN(c.stored, 512));
    } else {
        c.codec = find_codec(type, error);
        if (!c.codec) {
            return false;
        }
        if (count > MAX_SECTORS) {
            return error_msg(error,
                             "sector count %" PRIu64 " for chunk %u is larger than max "
                             "(%u)",
                             count, d->chunks->len, (unsigned)MAX_SECTORS);
        }
        if (c.stored > MAX_STORED) {
            return error_msg(error,
                             "length %" PRIu64 " for chunk %u is larger than max "
                             "(%u)",
                             c.stored, d->chunks->len, (unsigned)MAX_STORED);
        }
    }
    g_array_append_val(d->chunks, c);
    return true;
}

/* One block of @len bytes; what is not "mish" says nothing about the disk. */
static bool take_block(struct dmg *d, const uint8_t *p, uint64_t len, GError **error)
{
    uint64_t base;
    if (len < MISH_HEAD || be32_get(p) != MAGIC_MISH) {
        return true;
    }
    if (!ck_add(d->data, be64_get(p + 24), &base)) {
        return error_msg(error, "the data of a part at %" PRIu64 " cannot be",
                         be64_get(p + 24));
    }
    uint64_t count = MIN(be32_get(p + 200), (len - MISH_HEAD) / MISH_CHUNK);
    for (uint64_t i = 0; i < count; i++) {
        if (!take_chunk(d, p + MISH_HEAD + i * MISH_CHUNK, be64_get(p + 8), base,
                        error)) {
            return false;
        }
    }
    return true;
}

/* ---- where blocks are
 * ------------------------------------------------------------------ */

static bool invalid(const struct dmg *d, GError **error)
{
    return error_errno(error, EINVAL, "Could not open '%s'", d->file->filename);
}

static uint8_t *read_meta(struct dmg *d, uint64_t offset, uint64_t len, GError **error)
{
    if (len == 0 || len > META_MAX || !ck_range(offset, len, blk_length(d->file))) {
        invalid(d, error);
        return NULL;
    }
    g_autofree uint8_t *buf = g_try_malloc(len + 1);
    int r = buf ? blk_pread(d->file, offset, buf, len) : -ENOMEM;
    if (r < 0) {
        error_errno(error, -r, "Could not open '%s'", d->file->filename);
        return NULL;
    }
    buf[len] = '\0';
    return g_steal_pointer(&buf);
}

/* The data part of a resource fork: blocks one after the other. */
static bool take_fork(struct dmg *d, uint64_t offset, uint64_t len, GError **error)
{
    g_autofree uint8_t *buf = read_meta(d, offset, len, error);
    if (!buf) {
        return false;
    }
    uint64_t at = len >= 16 ? be32_get(buf) : len,
             all = len >= 16 ? be32_get(buf + 8) : 0;
    if (!ck_range(at, all, len)) {
        return invalid(d, error);
    }
    for (uint64_t end = at + all; at + 4 <= end;) {
        uint64_t n = be32_get(buf + at);
        at += 4;
        if (n == 0 || n > end - at) {
            return invalid(d, error);
        }
        if (!take_block(d, buf + at, n, error)) {
            return false;
        }
        at += n;
    }
    return true;
}

static bool take_list(struct dmg *d, uint64_t offset, uint64_t len, GError **error)
{
    static const char from[] = "<data>", to[] = "</data>";
    g_autofree uint8_t *buf = read_meta(d, offset, len, error);
    if (!buf) {
        return false;
    }
    char *p = (char *)buf;
    while ((p = strstr(p, from)) != NULL) {
        p += strlen(from);
        char *end = strstr(p, to);
        gsize n = 0;
        if (!end) {
            return invalid(d, error);
        }
        *end = '\0';
        g_autofree guchar *block = g_base64_decode(p, &n);
        if (!take_block(d, block, n, error)) {
            return false;
        }
        p = end + 1;
    }
    return true;
}

/* ---- opening
 * ------------------------------------------------------------------------- */

/* There is nothing at the start of such a file. */
static int dmg_probe(const uint8_t *head, size_t len, const char *filename)
{
    return filename && g_str_has_suffix(filename, ".dmg") ? 2 : 0;
}

/* The last place in the last two sectors where a trailer begins and fits. */
static bool find_trailer(struct dmg *d, uint8_t *ret, GError **error)
{
    enum { LOOK = 2 * TRAILER - 1 };
    uint8_t buf[LOOK + TRAILER] = {0};
    uint64_t length = d->file->content_len, n = MIN(length, (uint64_t)LOOK);
    int r = n ? blk_pread(d->file, length - n, buf, n) : 0;
    if (r < 0) {
        return error_errno(error, -r, "Could not open '%s'", d->file->filename);
    }
    for (uint64_t i = 0; i + 4 <= n && i <= 511; i++) {
        if (be32_get(buf + i) == MAGIC_KOLY) {
            memcpy(ret, buf + i, TRAILER);
            return true;
        }
    }
    return error_msg(error, "Could not locate UDIF trailer in dmg file");
}

static int by_start(const void *a, const void *b)
{
    const struct chunk *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static bool dmg_open(struct blk *b, json_t *opts, GError **error)
{
    struct dmg *d = g_new0(struct dmg, 1);
    uint8_t t[TRAILER] = {0};
    b->priv = d;
    d->file = b->file;
    d->chunks = g_array_new(FALSE, FALSE, sizeof(struct chunk));
    if (!find_trailer(d, t, error)) {
        return false;
    }
    uint64_t fork = be64_get(t + 40), fork_len = be64_get(t + 48);
    uint64_t list = be64_get(t + 216), list_len = be64_get(t + 224);
    uint64_t sectors = be64_get(t + 492);
    d->data = be64_get(t + 24);
    if (d->data > INT64_MAX || sectors > INT64_MAX / 512 || (!fork_len && !list_len)) {
        return invalid(d, error);
    }
    bool ok = fork_len ? take_fork(d, fork, fork_len, error)
                       : take_list(d, list, list_len, error);
    if (ok && d->chunks->len) {
        g_array_sort(d->chunks, by_start);
    }
    b->content_len = sectors * 512;
    return ok;
}

static void dmg_close(struct blk *b)
{
    struct dmg *d = b->priv;
    if (d) {
        g_array_free(d->chunks, TRUE);
        g_free(d);
    }
}

/* ---- map ----------------------------------------------------------------------------
 */

/* The last chunk that begins at or before @offset, or -1. */
static int64_t find_chunk(const struct dmg *d, uint64_t offset)
{
    int64_t low = 0, high = d->chunks->len;
    while (low < high) {
        int64_t mid = (low + high) / 2;
        if (g_array_index(d->chunks, struct chunk, mid).start <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low - 1;
}

static int dmg_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    const struct dmg *d = b->priv;
    int64_t i = find_chunk(d, offset);
    if (i + 1 < d->chunks->len) {
        len = MIN(len, g_array_index(d->chunks, struct chunk, i + 1).start - offset);
    }
    *ret = (struct blk_extent){.kind = BLK_EXT_ZERO, .len = len};
    if (i < 0) {
        return 0;
    }
    const struct chunk *c = &g_array_index(d->chunks, struct chunk, i);
    if (offset - c->start >= c->len) {
        return 0;
    }
    uint64_t in = offset - c->start;
    ret->len = MIN(len, c->len - in);
    if (c->codec) {
        ret->kind = BLK_EXT_COMPRESSED;
        ret->child = d->file;
        ret->offset = c->offset;
        ret->stored_len = c->stored;
        ret->guest_start = c->start;
        ret->guest_len = c->len;
        ret->codec = c->codec;
    } else if (c->stored) {
        ret->kind = BLK_EXT_DATA;
        ret->child = d->file;
        ret->offset = c->offset + in;
    }
    return 0;
}

static void dmg_info(struct blk *b, json_t *info)
{
    json_object_del(info, "dirty-flag"); /* as QEMU's users know it */
}

const struct blk_format dmg_format = {
    .name = "dmg",
    .help = "Apple's disk images, read-only",
    .probe = dmg_probe,
    .open = dmg_open,
    .close = dmg_close,
    .map = dmg_map,
    .map_cached = dmg_map,
    .info = dmg_info,
};
