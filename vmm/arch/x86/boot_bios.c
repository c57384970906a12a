/*
 * A flat firmware image: a file that ends where the processor starts, F000:FFF0 with a
 * code base of 0xffff0000, 16 bytes below 4 GiB (SDM 3, "Processor State After Reset").
 *
 *   4 GiB - len .. 4 GiB      all of it
 *   1 MiB - low .. 1 MiB      its last `low` bytes, where real mode reaches it; a PC
 * has 128 KiB there
 *
 * The file stays a file: its bytes are copied at each reset.
 */
#include "vmm/arch/x86/boot_priv.h"

#include "lib/base/base.h"
#include "vmm/vm/gmem.h"

#define UNIT  (64 * KIB)
#define CHUNK (64 * KIB)

struct x86_bios {
    struct x86_boot_file *file;
};

struct x86_bios *x86_bios_new(struct x86_boot_file *file, GError **error)
{
    uint64_t len = boot_file_len(file);
    struct x86_bios *b;

    if (len == 0 || len % UNIT != 0 || len > X86_BIOS_MAX) {
        boot_file_error(file, error,
                        "its size of %" PRIu64
                        " bytes is not a multiple of 64 KiB up to 16 MiB",
                        len);
        x86_boot_file_free(file);
        return NULL;
    }
    b = g_new0(struct x86_bios, 1);
    b->file = file;
    return b;
}

void x86_bios_free(struct x86_bios *b)
{
    if (!b)
        return;
    x86_boot_file_free(b->file);
    g_free(b);
}

uint32_t x86_bios_len(const struct x86_bios *b)
{
    return boot_file_len(b->file);
}

/* The last @len bytes of the image, to end at @end. */
static bool write_tail(const struct x86_bios *b, struct gmem *m, uint64_t end,
                       uint32_t len, GError **error)
{
    g_autofree uint8_t *chunk = g_malloc(CHUNK);

    for (uint32_t left = len; left > 0;) {
        uint32_t n = MIN(left, CHUNK);
        int r;

        if (!boot_file_read(b->file, x86_bios_len(b) - left, chunk, n, error))
            return false;
        r = gmem_load(m, end - left, chunk, n);
        if (r < 0)
            return error_errno(error, -r, "firmware: no memory at 0x%" PRIx64,
                               end - left);
        left -= n;
    }
    return true;
}

bool x86_bios_write(const struct x86_bios *b, struct gmem *m, uint32_t low,
                    GError **error)
{
    return write_tail(b, m, 4 * GIB, x86_bios_len(b), error) &&
           write_tail(b, m, MIB, MIN(low, x86_bios_len(b)), error);
}
