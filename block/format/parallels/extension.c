#include "block/format/parallels/parallels_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * The format extension (Spec, "Format Extension"): one cluster with a magic, the MD5 of
 * the rest, and features one after the other, of which dirty bitmaps name clusters of
 * their own. Bitmaps are not used here; their clusters are kept.
 */

#define EXT_MAGIC      UINT64_C(0xab234cef23dcea87)
#define FEATURE_BITMAP UINT64_C(0x20385fae252cb34a)

enum { EXT_HEAD = 24, SUM = 16, FEATURE_HEAD = 24, BITMAP_HEAD = 32, PIECE = 65536 };

/* @len bytes of the file, zeros behind its end. */
static int read_at(struct parallels *p, uint64_t offset, uint8_t *buf, uint64_t len)
{
    uint64_t length = blk_length(p->file);
    uint64_t has = offset < length ? MIN(len, length - offset) : 0;
    memset(buf + has, 0, len - has);
    return has ? blk_pread(p->file, offset, buf, has) : 0;
}

static int sum_of(struct parallels *p, uint8_t *ret)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_MD5);
    g_autofree uint8_t *buf = g_malloc(PIECE);
    uint64_t at = EXT_HEAD;
    while (at < p->cluster) {
        uint64_t n = MIN(p->cluster - at, (uint64_t)PIECE);
        int r = read_at(p, p->ext_offset + at, buf, n);
        if (r < 0) {
            return r;
        }
        g_checksum_update(sum, buf, (gssize)n);
        at += n;
    }
    gsize len = SUM;
    g_checksum_get_digest(sum, ret, &len);
    return 0;
}

bool parallels_check_extension(struct parallels *p, GError **error)
{
    uint8_t head[EXT_HEAD], sum[SUM];
    int r = read_at(p, p->ext_offset, head, sizeof(head));
    if (r < 0) {
        return error_errno(error, -r, "Failed to read Format Extension cluster");
    }
    if (le64_get(head) != EXT_MAGIC) {
        return error_msg(error,
                         "Wrong parallels Format Extension magic: 0x%" PRIx64
                         ", expected: 0x%" PRIx64,
                         le64_get(head), EXT_MAGIC);
    }
    if (!ck_range(p->ext_offset, p->cluster, ALIGN_UP(blk_length(p->file), 512))) {
        return error_msg(
            error, "Format Extension at %#" PRIx64 " reaches past the end of the file",
            p->ext_offset);
    }
    r = sum_of(p, sum);
    if (r < 0) {
        return error_errno(error, -r, "Failed to read Format Extension cluster");
    }
    return memcmp(sum, head + 8, SUM) == 0 ||
           error_msg(error,
                     "Wrong checksum in Format Extension header. Format extension "
                     "is corrupted.");
}

/* The clusters of one bitmap, whose feature data is at @at. */
static void bitmap_end(struct parallels *p, uint64_t at, uint64_t len, uint64_t *end)
{
    uint8_t head[BITMAP_HEAD], buf[4096];
    if (len < BITMAP_HEAD || read_at(p, at, head, sizeof(head)) < 0) {
        return;
    }
    uint64_t entries = MIN(le32_get(head + 28), (len - BITMAP_HEAD) / 8);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t in = i * 8 % sizeof(buf);
        if (in == 0 && read_at(p, at + BITMAP_HEAD + i * 8, buf, sizeof(buf)) < 0) {
            return;
        }
        uint64_t place = le64_get(buf + in);
        if (place > 1 && place < p->limit) {
            *end = MAX(*end, place + p->cluster);
        }
    }
}

uint64_t parallels_extension_end(struct parallels *p)
{
    uint8_t head[FEATURE_HEAD];
    uint64_t at = EXT_HEAD, end = p->ext_offset + p->cluster;
    if (p->ext_offset >= p->limit || read_at(p, p->ext_offset, head, 8) < 0 ||
        le64_get(head) != EXT_MAGIC) {
        return 0; /* there is none to lose */
    }
    while (at + FEATURE_HEAD <= p->cluster &&
           read_at(p, p->ext_offset + at, head, sizeof(head)) == 0) {
        uint64_t magic = le64_get(head), len = le32_get(head + 16);
        at += FEATURE_HEAD;
        if (magic == 0 || len > p->cluster - at) {
            break;
        }
        if (magic == FEATURE_BITMAP) {
            bitmap_end(p, p->ext_offset + at, len, &end);
        }
        at += ALIGN_UP(len, 8);
    }
    return end;
}
