#include "vmm/arch/x86/boot_priv.h"

#include <elf.h>
#include <string.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/state.h"

/* A bzImage of protocol 2.15: 1 KiB of setup and 4 KiB of kernel that needs 8 MiB from
 * 16 MiB on, as Debian's does in kind. */
#define SETUP   1024
#define PAYLOAD 4096

static GByteArray *bzimage(void)
{
    GByteArray *a = g_byte_array_new();
    uint8_t *d;

    g_byte_array_set_size(a, SETUP + PAYLOAD);
    d = a->data;
    memset(d, 0, a->len);
    memset(d + SETUP, 0x90, PAYLOAD);
    d[0x1f1] = SETUP / 512 - 1;
    le32_put(d + 0x1f4, PAYLOAD / 16);
    le16_put(d + 0x1fe, 0xaa55);
    d[0x201] = 0x6a;
    memcpy(d + 0x202, "HdrS", 4);
    le16_put(d + 0x206, 0x20f);
    d[0x211] = 1;
    le32_put(d + 0x22c, 0x7fffffff);
    le32_put(d + 0x230, 0x200000);
    d[0x234] = 1;
    le32_put(d + 0x238, 2047);
    le64_put(d + 0x258, 16 * MIB);
    le32_put(d + 0x260, 8 * MIB);
    return a;
}

#define ELF_CODE 0x100
#define ELF_LEN  0x200

/* An ELF64 kernel: 256 bytes at 1 MiB with 4 KiB of memory, and the PVH note. */
static GByteArray *elf(void)
{
    GByteArray *a = g_byte_array_new();
    uint8_t *d, *p, *n;

    g_byte_array_set_size(a, ELF_LEN);
    d = a->data;
    memset(d, 0, a->len);
    memcpy(d, "\177ELF\2\1\1", 7);
    le16_put(d + 18, EM_X86_64);
    le64_put(d + 32, 64);
    le16_put(d + 54, 56);
    le16_put(d + 56, 2);
    p = d + 64;
    le32_put(p, PT_LOAD);
    le64_put(p + 8, ELF_CODE);
    le64_put(p + 24, MIB);
    le64_put(p + 32, ELF_LEN - ELF_CODE);
    le64_put(p + 40, 4096);
    p += 56;
    le32_put(p, PT_NOTE);
    le64_put(p + 8, 0xb8);
    le64_put(p + 32, 20);
    n = d + 0xb8;
    le32_put(n, 4);
    le32_put(n + 4, 4);
    le32_put(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    le32_put(n + 16, MIB + 0x10);
    return a;
}

static struct x86_boot *boot(GByteArray *kernel, uint64_t initrd_len, uint64_t memory,
                             const char *cmdline, GError **error)
{
    static const uint8_t zeros[64 * 1024];
    struct x86_boot_config c = {
        .kernel = x86_boot_file_mem("kernel", kernel->data, kernel->len),
        .cmdline = cmdline,
        .memory = memory,
        .rsdp = 0xe0000,
    };

    if (initrd_len > 0)
        c.initrd = x86_boot_file_mem("initrd", zeros, initrd_len);
    x86_e820_add(&c.map, 0, MIN(memory, 0x9fc00), X86_E820_RAM);
    x86_e820_add(&c.map, 0xe0000, 0x20000, X86_E820_ACPI);
    if (memory > MIB)
        x86_e820_add(&c.map, MIB, memory - MIB, X86_E820_RAM);
    return x86_boot_new(&c, error);
}

static const struct boot_blob *blob_at(const struct x86_boot *b, uint64_t gpa)
{
    for (guint i = 0; i < b->blobs->len; i++) {
        const struct boot_blob *blob = &g_array_index(b->blobs, struct boot_blob, i);

        if (blob->gpa == gpa)
            return blob;
    }
    return NULL;
}

/* The kernel must be refused, and the message must say @why. Frees @kernel. */
static void refused(GByteArray *kernel, uint64_t initrd_len, uint64_t memory,
                    const char *cmdline, const char *why)
{
    g_autoptr(GError) error = NULL;
    struct x86_boot *b = boot(kernel, initrd_len, memory, cmdline, &error);

    g_assert_null(b);
    g_assert_nonnull(error);
    if (!strstr(error->message, why))
        g_error("'%s' does not say '%s'", error->message, why);
    g_byte_array_unref(kernel);
}

static void bzimage_is_placed(void)
{
    g_autoptr(GByteArray) k = bzimage();
    struct x86_boot *b = boot(k, 10000, 64 * MIB, "quiet root=/dev/vda", NULL);
    const struct boot_blob *zp, *payload, *initrd, *cmdline;

    g_assert_nonnull(b);
    g_assert_cmpint(x86_boot_get_protocol(b), ==, X86_BOOT_LINUX32);
    g_assert_cmphex(x86_boot_get_entry(b), ==, MIB);
    payload = blob_at(b, MIB);
    g_assert_cmpuint(payload->file_off, ==, SETUP);
    g_assert_cmpuint(payload->len, ==, PAYLOAD);
    initrd = blob_at(b, 64 * MIB - 12288);
    g_assert_nonnull(initrd);
    g_assert_cmpuint(initrd->len, ==, 10000);
    cmdline = blob_at(b, X86_BOOT_CMDLINE);
    g_assert_cmpstr((const char *)cmdline->bytes, ==, "quiet root=/dev/vda");

    zp = blob_at(b, X86_BOOT_ZEROPAGE);
    g_assert_cmpuint(zp->len, ==, 4096);
    g_assert_cmpmem(zp->bytes + 0x202, 4, "HdrS", 4);
    g_assert_cmphex(zp->bytes[0x210], ==, 0xff);
    g_assert_cmphex(le32_get(zp->bytes + 0x214), ==, MIB);
    g_assert_cmphex(le32_get(zp->bytes + 0x218), ==, 64 * MIB - 12288);
    g_assert_cmpuint(le32_get(zp->bytes + 0x21c), ==, 10000);
    g_assert_cmphex(le32_get(zp->bytes + 0x228), ==, X86_BOOT_CMDLINE);
    g_assert_cmphex(le64_get(zp->bytes + 0x70), ==, 0xe0000);
    g_assert_cmpuint(zp->bytes[0x1e8], ==, 3);
    g_assert_cmphex(le64_get(zp->bytes + 0x2d0 + 20), ==, 0xe0000);
    g_assert_cmpuint(le32_get(zp->bytes + 0x2d0 + 20 + 16), ==, X86_E820_ACPI);
    g_assert_cmphex(le64_get(zp->bytes + 0x2d0 + 48), ==, 63 * MIB);
    x86_boot_free(b);
}

static void bzimage_initrd_stays_below_its_limit(void)
{
    g_autoptr(GByteArray) k = bzimage();
    struct x86_boot *b;

    le32_put(k->data + 0x22c, 40 * MIB - 1);
    b = boot(k, 4096, 64 * MIB, NULL, NULL);
    g_assert_nonnull(b);
    g_assert_nonnull(blob_at(b, 40 * MIB - 4096));
    x86_boot_free(b);
}

static void bzimage_refuses_bad_files(void)
{
    GByteArray *k = bzimage();

    g_byte_array_set_size(k, SETUP + 100);
    refused(k, 0, 64 * MIB, NULL,
            "truncated: its header says 5120 bytes, the file has 1124");

    k = bzimage();
    g_byte_array_set_size(k, 0x300);
    refused(k, 0, 64 * MIB, NULL, "truncated: its setup part alone is 1024 bytes");

    k = bzimage();
    le16_put(k->data + 0x206, 0x201);
    refused(k, 0, 64 * MIB, NULL, "boot protocol 2.01 is too old");

    k = bzimage();
    k->data[0x211] = 0;
    refused(k, 0, 64 * MIB, NULL, "zImage");

    k = bzimage();
    le32_put(k->data + 0x230, 0x300000);
    refused(k, 0, 64 * MIB, NULL, "not a power of two");

    k = bzimage();
    le64_put(k->data + 0x258, UINT64_MAX - 4096);
    refused(k, 0, 64 * MIB, NULL, "makes no sense");

    k = bzimage();
    le32_put(k->data + 0x1f4, UINT32_MAX);
    refused(k, 0, 64 * MIB, NULL, "truncated");

    k = bzimage();
    memcpy(k->data + 0x202, "NoNo", 4);
    refused(k, 0, 64 * MIB, NULL, "not a Linux kernel");
    k = bzimage();
    memset(k->data, 'x', k->len);
    refused(k, 0, 64 * MIB, NULL, "neither a Linux bzImage nor an ELF file");
}

static void kernels_refuse_too_little_memory(void)
{
    g_autofree char *longline = g_strnfill(2048, 'x');

    refused(bzimage(), 0, 23 * MIB, NULL,
            "needs memory up to 24 MiB to start, the guest has 23 MiB");
    refused(bzimage(), 64 * 1024, 24 * MIB, NULL,
            "initrd 'memory': its 64 KiB do not fit");
    refused(bzimage(), 0, 64 * MIB, longline, "at most 2047 bytes, -append has 2048");
    refused(bzimage(), 0, 64 * KIB, NULL, "too small to boot anything");
    refused(elf(), 0, MIB + 2048, NULL, "does not fit into memory of 1 MiB");
}

static void elf_is_placed(void)
{
    g_autoptr(GByteArray) k = elf();
    struct x86_boot *b = boot(k, 5000, 32 * MIB, "console=ttyS0", NULL);
    const struct boot_blob *info, *module, *map;

    g_assert_nonnull(b);
    g_assert_cmpint(x86_boot_get_protocol(b), ==, X86_BOOT_PVH);
    g_assert_cmphex(x86_boot_get_entry(b), ==, MIB + 0x10);
    g_assert_cmpuint(blob_at(b, MIB)->len, ==, 256);
    g_assert_cmpuint(blob_at(b, MIB + 256)->len, ==, 4096 - 256);
    g_assert_null(blob_at(b, MIB + 256)->file);
    info = blob_at(b, X86_BOOT_PVH_INFO);
    g_assert_cmphex(le32_get(info->bytes), ==, 0x336ec578);
    g_assert_cmpuint(le32_get(info->bytes + 12), ==, 1);
    g_assert_cmphex(le64_get(info->bytes + 32), ==, 0xe0000);
    module = blob_at(b, le64_get(info->bytes + 16));
    g_assert_cmphex(le64_get(module->bytes), ==, 32 * MIB - 8192);
    g_assert_cmpuint(le64_get(module->bytes + 8), ==, 5000);
    map = blob_at(b, le64_get(info->bytes + 40));
    g_assert_cmpuint(map->len, ==, 3 * 24);
    g_assert_cmphex(le64_get(map->bytes + 48), ==, MIB);
    x86_boot_free(b);
}

static void elf_refuses_bad_files(void)
{
    GByteArray *k = elf();

    g_byte_array_set_size(k, 40);
    refused(k, 0, 32 * MIB, NULL, "truncated");

    k = elf();
    le16_put(k->data + 18, EM_AARCH64);
    refused(k, 0, 32 * MIB, NULL, "not for x86");

    k = elf();
    le16_put(k->data + 56, 60000);
    refused(k, 0, 32 * MIB, NULL, "60000 program headers");

    k = elf();
    le64_put(k->data + 32, UINT64_MAX - 8);
    refused(k, 0, 32 * MIB, NULL, "56 bytes are needed at offset");

    k = elf();
    le64_put(k->data + 64 + 8, UINT64_MAX - 10);
    refused(k, 0, 32 * MIB, NULL, "truncated: segment 0");

    k = elf();
    le64_put(k->data + 64 + 40, UINT64_MAX);
    refused(k, 0, 32 * MIB, NULL, "does not fit into memory of 32 MiB");

    k = elf();
    le64_put(k->data + 64 + 24, 0x7000);
    refused(k, 0, 32 * MIB, NULL, "where kernels are loaded");

    k = elf();
    le64_put(k->data + 64 + 40, 10);
    refused(k, 0, 32 * MIB, NULL, "larger in the file than in memory");

    k = elf();
    le32_put(k->data + 0xb8 + 8, 17);
    refused(k, 0, 32 * MIB, NULL, "no PVH entry point");

    k = elf();
    le32_put(k->data + 0xb8 + 16, 3 * MIB);
    refused(k, 0, 32 * MIB, NULL, "entry point 0x300000 is outside of it");
}

/* A flat multiboot kernel: 256 bytes of which go to 2 MiB, 4 KiB with its .bss. */
static GByteArray *multiboot(void)
{
    static const uint32_t header[] = {0x1badb002, 0x10003,  -(0x1badb002 + 0x10003),
                                      0x200010,   0x200000, 0x200100,
                                      0x201000,   0x200020};
    GByteArray *a = g_byte_array_new();

    g_byte_array_set_size(a, 0x140);
    memset(a->data, 0, a->len);
    for (size_t i = 0; i < ARRAY_LEN(header); i++)
        le32_put(a->data + 0x50 + 4 * i, header[i]);
    return a;
}

static void multiboot_is_placed(void)
{
    g_autoptr(GByteArray) k = multiboot();
    static const uint8_t bytes[5000];
    struct x86_boot_config c = {
        .kernel = x86_boot_file_mem("kernel", k->data, k->len),
        .modules = {{x86_boot_file_mem("module", bytes, 5000), g_strdup("one a")},
                    {x86_boot_file_mem("module", bytes, 1), g_strdup("two")}},
        .nb_modules = 2,
        .cmdline = "x=y",
        .memory = 64 * MIB,
    };
    const struct boot_blob *kernel, *info;
    struct x86_state s = {0};
    struct x86_boot *b;
    const uint8_t *p, *m;

    x86_e820_add(&c.map, 0, 0x9fc00, X86_E820_RAM);
    x86_e820_add(&c.map, MIB, 63 * MIB, X86_E820_RAM);
    b = x86_boot_new(&c, NULL);
    g_assert_nonnull(b);
    kernel = blob_at(b, 0x200000);
    g_assert_cmphex(kernel->file_off, ==, 0x40);
    g_assert_cmphex(kernel->len, ==, 0x100);
    g_assert_cmphex(blob_at(b, 0x200100)->len, ==, 0xf00);
    g_assert_cmpuint(blob_at(b, 0x201000)->len, ==, 5000);
    g_assert_cmpuint(blob_at(b, 0x203000)->len, ==, 1);

    x86_boot_set_state(b, &s);
    g_assert_cmphex(s.rip, ==, 0x200020);
    g_assert_cmphex(s.gpr[X86_RAX], ==, 0x2badb002);
    info = blob_at(b, s.gpr[X86_RBX]);
    p = info->bytes;
    g_assert_cmphex(le32_get(p) & 0x4d, ==, 0x4d);
    g_assert_cmpuint(le32_get(p + 4), ==, 639);
    g_assert_cmpuint(le32_get(p + 8), ==, 63 * KIB);
    g_assert_cmpstr((const char *)p + le32_get(p + 16) - info->gpa, ==, "memory x=y");
    g_assert_cmpuint(le32_get(p + 20), ==, 2);
    m = p + le32_get(p + 24) - info->gpa;
    g_assert_cmphex(le32_get(m), ==, 0x201000);
    g_assert_cmphex(le32_get(m + 4), ==, 0x201000 + 5000);
    g_assert_cmpstr((const char *)p + le32_get(m + 8) - info->gpa, ==, "one a");
    g_assert_cmphex(le32_get(m + 16), ==, 0x203000);
    g_assert_cmpuint(le32_get(p + 44), ==, 2 * 24);
    m = p + le32_get(p + 48) - info->gpa;
    g_assert_cmpuint(le32_get(m), ==, 20);
    g_assert_cmphex(le64_get(m + 24 + 4), ==, MIB);
    /* The GDT is what the selectors say. */
    g_assert_cmphex(s.gdtr.base, >=, info->gpa);
    m = p + s.gdtr.base - info->gpa;
    g_assert_cmphex(le64_get(m + s.seg[X86_CS].sel), ==, 0x00cf9b000000ffff);
    g_assert_cmphex(le64_get(m + s.seg[X86_DS].sel), ==, 0x00cf93000000ffff);
    x86_boot_free(b);
}

/* The kernel takes the place where the information usually is. */
static void multiboot_leaves_low_kernels_alone(void)
{
    GByteArray *k = multiboot();
    struct x86_boot *b;
    struct x86_state s = {0};

    for (unsigned i = 3; i < 8; i++)
        le32_put(k->data + 0x50 + 4 * i, le32_get(k->data + 0x50 + 4 * i) - 0x1f7800);
    b = boot(k, 0, 64 * MIB, NULL, NULL);
    g_assert_nonnull(b);
    g_assert_cmphex(x86_boot_get_entry(b), ==, 0x8820);
    x86_boot_set_state(b, &s);
    g_assert_cmphex(s.gpr[X86_RBX], >, 0x9800);
    g_assert_cmphex(s.gpr[X86_RBX], <, 0xa0000);
    x86_boot_free(b);

    for (unsigned i = 3; i < 8; i++)
        le32_put(k->data + 0x50 + 4 * i, le32_get(k->data + 0x50 + 4 * i) - 0x8000);
    le32_put(k->data + 0x50 + 24, 0x9fc00);
    refused(k, 0, 64 * MIB, NULL, "leaves no room for");
}

static struct x86_boot *boot_by(GByteArray *kernel, enum x86_boot_entry entry,
                                bool long_mode, GError **error)
{
    struct x86_boot_config c = {
        .kernel = x86_boot_file_mem("kernel", kernel->data, kernel->len),
        .cmdline = "quiet",
        .entry = entry,
        .long_mode = long_mode,
        .memory = 64 * MIB,
    };

    x86_e820_add(&c.map, 0, 0x9fc00, X86_E820_RAM);
    x86_e820_add(&c.map, MIB, 63 * MIB, X86_E820_RAM);
    return x86_boot_new(&c, error);
}

static void bzimage_has_a_64_bit_entry(void)
{
    g_autoptr(GByteArray) k = bzimage();
    g_autoptr(GError) error = NULL;
    struct x86_state s = {0};
    const uint8_t *pages;
    struct x86_boot *b;

    g_assert_null(boot_by(k, X86_BOOT_ENTRY_64, true, &error));
    g_assert_nonnull(strstr(error->message, "has no 64-bit entry"));
    g_clear_error(&error);
    k->data[0x236] = 1;
    g_assert_null(boot_by(k, X86_BOOT_ENTRY_64, false, &error));
    g_assert_nonnull(strstr(error->message, "no long mode"));
    b = boot_by(k, X86_BOOT_ENTRY_64, true, NULL);
    g_assert_nonnull(b);
    x86_boot_set_state(b, &s);
    g_assert_cmphex(s.rip, ==, MIB + 0x200);
    g_assert_cmphex(s.gpr[X86_RSI], ==, X86_BOOT_ZEROPAGE);
    g_assert_cmpuint(x86_state_code_bits(&s), ==, 64);
    g_assert_cmphex(s.cr0 & (X86_CR0_PG | X86_CR0_PE), ==, X86_CR0_PG | X86_CR0_PE);
    g_assert_cmphex(le64_get(blob_at(b, X86_BOOT_GDT)->bytes + s.seg[X86_CS].sel), ==,
                    0x00af9b000000ffff);
    /* The tables map 3 GiB + 4 MiB to itself. */
    pages = blob_at(b, s.cr3)->bytes;
    g_assert_cmphex(le64_get(pages), ==, (s.cr3 + 0x1000) | 3);
    g_assert_cmphex(le64_get(pages + 0x1000 + 3 * 8), ==, (s.cr3 + 0x5000) | 3);
    g_assert_cmphex(le64_get(pages + 0x5000 + 2 * 8), ==, (3 * GIB + 4 * MIB) | 0x83);
    x86_boot_free(b);

    b = boot_by(k, X86_BOOT_ENTRY_AUTO, true, NULL);
    g_assert_cmpint(x86_boot_get_protocol(b), ==, X86_BOOT_LINUX32);
    x86_boot_free(b);
}

static void bzimage_has_a_16_bit_entry(void)
{
    g_autoptr(GByteArray) k = bzimage();
    g_autoptr(GError) error = NULL;
    const struct boot_blob *rom, *setup;
    struct x86_state s = {.rip = 0xfff0}, reset = s;
    struct x86_boot *b = boot_by(k, X86_BOOT_ENTRY_16, true, NULL);
    const uint8_t *h;

    g_assert_nonnull(b);
    x86_boot_set_state(b, &s);
    g_assert_cmpmem(&s, sizeof(s), &reset, sizeof(reset));
    rom = blob_at(b, 4 * GIB - X86_BOOT_ROM_LEN);
    g_assert_cmpmem(rom->bytes, rom->len, blob_at(b, MIB - X86_BOOT_ROM_LEN)->bytes,
                    X86_BOOT_ROM_LEN);
    g_assert_cmphex(rom->bytes[0xff0], ==, 0xea); /* a far jump */
    setup = blob_at(b, X86_BOOT_SETUP);
    g_assert_cmpuint(setup->len, ==, SETUP);
    h = setup->bytes;
    g_assert_cmphex(h[0x211], ==, 0x81);
    g_assert_cmphex(le16_get(h + 0x224), ==, 0xde00);
    g_assert_cmphex(le32_get(h + 0x228), ==, X86_BOOT_CMDLINE);
    g_assert_cmpuint(blob_at(b, MIB)->len, ==, PAYLOAD);
    x86_boot_free(b);

    k->data[0x1f1] = 0x70; /* 56.5 KiB of setup */
    g_byte_array_set_size(k, 0x80 * 512);
    le32_put(k->data + 0x1f4, 1);
    g_assert_null(boot_by(k, X86_BOOT_ENTRY_16, true, &error));
    g_assert_nonnull(strstr(error->message, "too large for the 16-bit entry"));
    g_clear_error(&error);
    g_byte_array_set_size(k, 0);
    g_byte_array_append(k, (const uint8_t *)"\177ELF", 4);
    g_assert_null(boot_by(k, X86_BOOT_ENTRY_16, true, NULL));
}

static void entry_state_is_flat_protected_mode(void)
{
    g_autoptr(GByteArray) k = bzimage(), e = elf();
    struct x86_boot *b = boot(k, 0, 64 * MIB, NULL, NULL);
    struct x86_state s;

    x86_state_reset(&s, 0, false);
    x86_boot_set_state(b, &s);
    g_assert_cmpuint(x86_state_code_bits(&s), ==, 32);
    g_assert_cmphex(s.rip, ==, MIB);
    g_assert_cmphex(s.gpr[X86_RSI], ==, X86_BOOT_ZEROPAGE);
    g_assert_cmphex(s.seg[X86_CS].sel, ==, 0x10);
    g_assert_cmphex(s.seg[X86_DS].sel, ==, 0x18);
    g_assert_cmphex(s.seg[X86_DS].limit, ==, UINT32_MAX);
    g_assert_cmphex(s.cr0 & (X86_CR0_PE | X86_CR0_PG), ==, X86_CR0_PE);
    g_assert_cmphex(s.rflags & X86_FL_IF, ==, 0);
    x86_boot_free(b);

    b = boot(e, 0, 64 * MIB, NULL, NULL);
    x86_boot_set_state(b, &s);
    g_assert_cmphex(s.gpr[X86_RBX], ==, X86_BOOT_PVH_INFO);
    g_assert_cmphex(s.gpr[X86_RSI], ==, 0);
    x86_boot_free(b);
}

static void open_refuses_what_is_no_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("lodge-boot-XXXXXX", NULL);
    g_autofree char *empty = g_build_filename(dir, "empty", NULL);
    g_autoptr(GError) e1 = NULL, e2 = NULL, e3 = NULL;

    g_assert_true(g_file_set_contents(empty, "", 0, NULL));
    g_assert_null(x86_boot_file_open("kernel", "/does/not/exist", &e1));
    g_assert_cmpstr(e1->message, ==,
                    "kernel '/does/not/exist': No such file or directory");
    g_assert_null(x86_boot_file_open("initrd", dir, &e2));
    g_assert_nonnull(strstr(e2->message, "not a regular file"));
    g_assert_null(x86_boot_file_open("initrd", empty, &e3));
    g_assert_nonnull(strstr(e3->message, "is empty"));
    g_unlink(empty);
    g_rmdir(dir);
}

static void e820_refuses_disorder(void)
{
    struct x86_e820 m = {0};

    g_assert_true(x86_e820_add(&m, 0, 4096, X86_E820_RAM));
    g_assert_false(x86_e820_add(&m, 4095, 10, X86_E820_RAM));
    g_assert_false(x86_e820_add(&m, UINT64_MAX, 2, X86_E820_RAM));
    g_assert_true(x86_e820_add(&m, 4096, 0, X86_E820_RAM));
    g_assert_cmpuint(m.n, ==, 1);
    g_assert_true(x86_e820_is_ram(&m, 4095, 1));
    g_assert_false(x86_e820_is_ram(&m, 4095, 2));
    while (m.n < X86_E820_MAX)
        g_assert_true(x86_e820_add(&m, m.n * 8192, 1, X86_E820_RAM));
    g_assert_false(x86_e820_add(&m, GIB, 1, X86_E820_RAM));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/boot/bzimage_is_placed", bzimage_is_placed);
    g_test_add_func("/boot/bzimage_initrd_stays_below_its_limit",
                    bzimage_initrd_stays_below_its_limit);
    g_test_add_func("/boot/bzimage_refuses_bad_files", bzimage_refuses_bad_files);
    g_test_add_func("/boot/kernels_refuse_too_little_memory",
                    kernels_refuse_too_little_memory);
    g_test_add_func("/boot/elf_is_placed", elf_is_placed);
    g_test_add_func("/boot/elf_refuses_bad_files", elf_refuses_bad_files);
    g_test_add_func("/boot/bzimage_has_a_64_bit_entry", bzimage_has_a_64_bit_entry);
    g_test_add_func("/boot/bzimage_has_a_16_bit_entry", bzimage_has_a_16_bit_entry);
    g_test_add_func("/boot/multiboot_is_placed", multiboot_is_placed);
    g_test_add_func("/boot/multiboot_leaves_low_kernels_alone",
                    multiboot_leaves_low_kernels_alone);
    g_test_add_func("/boot/entry_state_is_flat_protected_mode",
                    entry_state_is_flat_protected_mode);
    g_test_add_func("/boot/open_refuses_what_is_no_file", open_refuses_what_is_no_file);
    g_test_add_func("/boot/e820_refuses_disorder", e820_refuses_disorder);
    return g_test_run();
}
