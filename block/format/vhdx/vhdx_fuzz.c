#include <sys/mman.h>
#include <unistd.h>

#include "block/format/vhdx/vhdx_priv.h"
#include "block/image_fuzz.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A vhdx image is some MiB long, nearly all of it zeros, and what counts stands under
 * checksums. So the input is the parts that count, one behind the other; they are put
 * in their places, and their checksums are made right unless a bit of the mode says no.
 */
static const struct {
    uint64_t place;
    uint32_t len, summed; /* bytes; what the checksum is over, 0: there is none */
} parts[] = {
    {0, 16, 0},
    {VHDX_HEADER_1, 128, VHDX_PAGE},
    {VHDX_HEADER_2, 128, VHDX_PAGE},
    {VHDX_REGIONS_1, 128, VHDX_REGIONS_BYTES},
    {3 * MIB, 256, 0},         /* metadata table */
    {3 * MIB + 65536, 64, 0},  /* its values */
    {2 * MIB, 256, 0},         /* BAT */
    {1 * MIB, 8192, 0},        /* log: an entry of one page, */
    {1 * MIB + 8192, 8192, 0}, /* and another */
};

enum { LENGTH = 9 << 20, UNSUMMED = 0x40, LOG_PARTS = 2 };

static void put(int fd, const struct vhdx *v, unsigned i, const uint8_t *data,
                bool summed)
{
    uint32_t over = parts[i].summed;
    if (i >= ARRAY_LEN(parts) - LOG_PARTS && parts[i].len >= 64) {
        over = MIN(le32_get(data + 8), parts[i].len); /* as long as it says */
        over = MAX(over, 64);
    }
    uint32_t len = MAX(over, parts[i].len);
    g_autofree uint8_t *p = g_malloc0(len);
    memcpy(p, data, parts[i].len);
    if (over && summed) {
        le32_put(p + 4, vhdx_checksum(v, p, over));
    }
    if (pwrite(fd, p, len, (off_t)parts[i].place) < 0) {
        return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vhdx v;
    size_t at = IMAGE_FUZZ_HEAD, all = at;
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        all += parts[i].len;
    }
    if (size < all) {
        return 0;
    }
    vhdx_crc_init(&v);
    int fd = memfd_create("vhdx-fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, LENGTH) < 0) {
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        put(fd, &v, i, data + at, !(data[0] & UNSUMMED));
        at += parts[i].len;
    }
    image_fuzz_file("vhdx", fd, data[0] & ~UNSUMMED, le64_get(data + 1));
    close(fd);
    return 0;
}
