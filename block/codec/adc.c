#include "block/codec/codec.h"

#include <errno.h>
#include <string.h>

/*
 * Apple Data Compression: bytes as they are, and copies of what came before.
 *
 *     1nnnnnnn                      n + 1 bytes follow
 *     01nnnnnn oooooooo oooooooo    n + 4 bytes from o + 1 back
 *     00nnnnoo oooooooo             n + 3 bytes from o + 1 back
 */
static int adc_decode(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_len)
{
    size_t in = 0, out = 0;
    while (out < dst_len) {
        if (in >= src_len) {
            return -EIO;
        }
        uint8_t code = src[in];
        unsigned head = code & 0x80 ? 1 : code & 0x40 ? 3 : 2;
        size_t n = code & 0x80   ? (code & 0x7fu) + 1u
                   : code & 0x40 ? (code & 0x3fu) + 4u
                                 : (code >> 2 & 0xfu) + 3u;
        if (src_len - in < head || n > dst_len - out) {
            return -EIO;
        }
        if (code & 0x80) {
            if (src_len - in - 1 < n) {
                return -EIO;
            }
            memcpy(dst + out, src + in + 1, n);
            in += 1 + n;
            out += n;
            continue;
        }
        size_t back = head == 3 ? (size_t)src[in + 1] << 8 | src[in + 2]
                                : (size_t)(code & 3) << 8 | src[in + 1];
        in += head;
        if (++back > out) {
            return -EIO;
        }
        for (; n > 0; n--, out++) { /* may overlap: a run */
            dst[out] = dst[out - back];
        }
    }
    return 0;
}

const struct blk_codec blk_codec_adc = {.name = "adc", .decode = adc_decode};
