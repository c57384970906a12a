/*
 * Copying a boot image into guest memory: nothing is decided here (see boot.c).
 */
#include "vmm/arch/x86/boot_priv.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/vm/gmem.h"

#define COPY_CHUNK (64 * KIB)

static bool blob_write(const struct boot_blob *blob, struct gmem *m, uint8_t *chunk,
                       GError **error)
{
    for (uint64_t done = 0; done < blob->len;) {
        size_t n = MIN(blob->len - done, COPY_CHUNK);
        int r;

        if (blob->bytes)
            memcpy(chunk, blob->bytes + done, n);
        else if (!blob->file)
            memset(chunk, 0, n);
        else if (!boot_file_read(blob->file, blob->file_off + done, chunk, n, error))
            return false;
        r = gmem_load(m, blob->gpa + done, chunk, n);
        if (r < 0)
            return error_errno(error, -r, "boot image: no memory at 0x%" PRIx64,
                               blob->gpa + done);
        done += n;
    }
    return true;
}

bool x86_boot_write(struct x86_boot *b, struct gmem *m, GError **error)
{
    g_autofree uint8_t *chunk = g_malloc(COPY_CHUNK);

    for (guint i = 0; i < b->blobs->len; i++) {
        if (!blob_write(&g_array_index(b->blobs, struct boot_blob, i), m, chunk, error))
            return false;
    }
    return true;
}
