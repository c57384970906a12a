#include "block/codec/codec.h"

#include <errno.h>
#ifdef HAVE_ISAL
    #include <isa-l/igzip_lib.h>
#endif
#include <libdeflate.h>
#include <string.h>

#include "lib/base/bytes.h"

/*
 * Whole buffers, several times faster than zlib's streams: libdeflate, and ISA-L where
 * it is there. Making a compressor costs more than a small chunk, so each thread keeps
 * its own.
 *
 * How tight. 300 MB of programs and libraries in clusters of 64 KiB, against zlib's
 * level 6 with the 4 KiB window of qemu-img's qcow2:
 *
 *                          time   size
 *     ISA-L, level 2       0.08   1.047
 *     libdeflate, level 1  0.19   1.022
 *     libdeflate, level 2  0.26   0.974
 *     half and half        0.17   1.011
 *
 * So every other chunk goes to each: the cheapest way not to be larger by more than a
 * hundredth. Which one is said by the chunk's bytes, so that the same content is stored
 * alike, whatever thread and order. Streams in zlib's frame are measured by qemu-img's
 * streamOptimized images, whose window is 32 KiB: libdeflate's level 3 is 1.01 of
 * those.
 */
enum { LEVEL_QCOW2 = 2, LEVEL_ZLIB = 3 };

static void free_compressor(void *c)
{
    libdeflate_free_compressor(c);
}

static void free_decompressor(void *d)
{
    libdeflate_free_decompressor(d);
}

/* Of the thread; they hold nothing from one call to the next. */
static GPrivate compressors = G_PRIVATE_INIT(free_compressor);
static GPrivate zlib_compressors = G_PRIVATE_INIT(free_compressor);
static GPrivate decompressors = G_PRIVATE_INIT(free_decompressor);

static struct libdeflate_decompressor *decompressor(void)
{
    struct libdeflate_decompressor *d = g_private_get(&decompressors);
    if (!d) {
        d = libdeflate_alloc_decompressor();
        g_private_set(&decompressors, d);
    }
    return d;
}

static struct libdeflate_compressor *compressor(GPrivate *of_thread, int level)
{
    struct libdeflate_compressor *c = g_private_get(of_thread);
    if (!c) {
        c = libdeflate_alloc_compressor(level);
        g_private_set(of_thread, c);
    }
    return c;
}

static int deflate_decode(const uint8_t *src, size_t src_len, uint8_t *dst,
                          size_t dst_len)
{
    struct libdeflate_decompressor *d = decompressor();
    size_t in, out;
    if (!d) {
        return -ENOMEM;
    }
    enum libdeflate_result r =
        libdeflate_deflate_decompress_ex(d, src, src_len, dst, dst_len, &in, &out);
    return r == LIBDEFLATE_SUCCESS && out == dst_len ? 0 : -EIO;
}

#ifdef HAVE_ISAL

/* ISA-L's tokens and hash of level 2; of the thread. */
static GPrivate isal_buffers = G_PRIVATE_INIT(g_free);

/* @window_bits: how far back copies may reach, 0: as far as can be. */
static int64_t isal_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                           size_t dst_max, uint16_t window_bits)
{
    enum { BUFFER = ISAL_DEF_LVL2_DEFAULT };
    uint8_t *buffer = g_private_get(&isal_buffers);
    if (!buffer) {
        buffer = g_try_malloc(BUFFER);
        g_private_set(&isal_buffers, buffer);
    }
    if (!buffer || src_len > UINT32_MAX || dst_max > UINT32_MAX) {
        return -ENOMEM;
    }
    struct isal_zstream z;
    isal_deflate_stateless_init(&z);
    z.level = 2;
    z.level_buf = buffer;
    z.level_buf_size = BUFFER;
    z.hist_bits = window_bits;
    z.next_in = (uint8_t *)src;
    z.avail_in = (uint32_t)src_len;
    z.next_out = dst;
    z.avail_out = (uint32_t)dst_max;
    z.end_of_stream = 1;
    z.flush = NO_FLUSH;
    int r = isal_deflate_stateless(&z);
    return r == COMP_OK              ? (int64_t)z.total_out
           : r == STATELESS_OVERFLOW ? -ENOSPC
                                     : -EIO;
}

/* A coin that falls alike for alike chunks. */
static bool coin(const uint8_t *src, size_t len)
{
    uint64_t hash = 0;
    for (size_t at = 0; at + 8 <= len; at += len / 16) {
        hash = (hash ^ le64_get(src + at)) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return hash & 1;
}

#endif

static int64_t deflate_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                              size_t dst_max)
{
#ifdef HAVE_ISAL
    if (src_len >= 4096 && coin(src, src_len)) {
        return isal_encode(src, src_len, dst, dst_max, 0);
    }
#endif
    struct libdeflate_compressor *c = compressor(&compressors, LEVEL_QCOW2);
    if (!c) {
        return -ENOMEM;
    }
    size_t n = libdeflate_deflate_compress(c, src, src_len, dst, dst_max);
    return n ? (int64_t)n : -ENOSPC;
}

const struct blk_codec blk_codec_deflate = {
    .name = "deflate",
    .decode = deflate_decode,
    .encode = deflate_encode,
};

#ifdef HAVE_ISAL

static int64_t deflate_4k_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                                 size_t dst_max)
{
    return isal_encode(src, src_len, dst, dst_max, 12);
}

const struct blk_codec blk_codec_deflate_4k = {
    .name = "deflate, window 4 KiB",
    .decode = deflate_decode,
    .encode = deflate_4k_encode,
};

#else

/* libdeflate has no smaller window: nothing is stored compressed then. */
static int64_t no_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                         size_t dst_max)
{
    return -ENOTSUP;
}

const struct blk_codec blk_codec_deflate_4k = {
    .name = "deflate, window 4 KiB",
    .decode = deflate_decode,
    .encode = no_encode,
};

#endif

/* ---- with zlib's frame --------------------------------------------------------------
 */

static int zlib_decode(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_len)
{
    struct libdeflate_decompressor *d = decompressor();
    size_t in, out = 0;
    if (!d) {
        return -ENOMEM;
    }
    enum libdeflate_result r =
        libdeflate_zlib_decompress_ex(d, src, src_len, dst, dst_len, &in, &out);
    if (r != LIBDEFLATE_SUCCESS) {
        return -EIO;
    }
    memset(dst + out, 0, dst_len - out);
    return 0;
}

/* Blocks without compression: two bytes in front, five per block, the checksum. */
static int64_t zlib_store(const uint8_t *src, size_t src_len, uint8_t *dst,
                          size_t dst_max)
{
    enum { MOST = 65535 };
    size_t blocks = MAX((src_len + MOST - 1) / MOST, 1), at = 2;
    if (src_len + blocks * 5 + 6 > dst_max) {
        return -ENOSPC;
    }
    memcpy(dst, "\x78\x01", 2);
    for (size_t done = 0; blocks--;) {
        size_t n = MIN(src_len - done, MOST);
        dst[at] = blocks == 0;
        le16_put(dst + at + 1, (uint16_t)n);
        le16_put(dst + at + 3, (uint16_t)~n);
        memcpy(dst + at + 5, src + done, n);
        at += 5 + n;
        done += n;
    }
    be32_put(dst + at, libdeflate_adler32(1, src, src_len));
    return (int64_t)at + 4;
}

static int64_t zlib_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                           size_t dst_max)
{
    struct libdeflate_compressor *c = compressor(&zlib_compressors, LEVEL_ZLIB);
    if (!c) {
        return -ENOMEM;
    }
    size_t n = libdeflate_zlib_compress(c, src, src_len, dst, dst_max);
    return n ? (int64_t)n : zlib_store(src, src_len, dst, dst_max);
}

const struct blk_codec blk_codec_zlib = {
    .name = "zlib",
    .decode = zlib_decode,
    .encode = zlib_encode,
};
