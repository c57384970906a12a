/*
 * Any bytes as a kernel: refused, or placed wholly into the RAM of the memory map.
 */
#include "vmm/arch/x86/boot_priv.h"

#include "lib/base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const uint8_t initrd[5000];
    struct x86_boot_config c = {
        .kernel = x86_boot_file_mem("kernel", data, len),
        .initrd = len % 2 ? x86_boot_file_mem("initrd", initrd, sizeof(initrd)) : NULL,
        .cmdline = "console=ttyS0",
        .memory = 128 * MIB,
        .rsdp = 0xe0000,
        .entry = len % 5 == 0 ? X86_BOOT_ENTRY_64 : X86_BOOT_ENTRY_AUTO,
        .long_mode = true,
    };
    struct x86_boot *b;

    if (len % 3 == 0) {
        c.modules[0].file = x86_boot_file_mem("module", initrd, sizeof(initrd));
        c.modules[0].cmdline = g_strdup("module with words");
        c.nb_modules = 1;
    }
    x86_e820_add(&c.map, 0, 640 * KIB, X86_E820_RAM);
    x86_e820_add(&c.map, MIB, 127 * MIB, X86_E820_RAM);
    b = x86_boot_new(&c, NULL);
    for (guint i = 0; b && i < b->blobs->len; i++) {
        const struct boot_blob *blob = &g_array_index(b->blobs, struct boot_blob, i);

        if (!x86_e820_is_ram(&c.map, blob->gpa, blob->len))
            __builtin_trap();
        if (blob->file && blob->file_off + blob->len > boot_file_len(blob->file))
            __builtin_trap();
    }
    x86_boot_free(b);
    return 0;
}
