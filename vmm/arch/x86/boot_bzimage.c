/*
 * The Linux x86 boot protocol (Documentation/arch/x86/boot.rst).
 *
 *   file:   | setup: (setup_sects + 1) * 512 bytes | protected-mode kernel | signature
 * | ^ 0x1f1 setup header                   syssize * 16 bytes      (ignored)
 *
 * The protected-mode kernel is loaded at 1 MiB. It decompresses itself to its
 * preferred address (or to where it is, rounded up to kernel_alignment, when that is
 * higher) and needs init_size bytes from there; the initrd and nothing of ours may be
 * in that window. The zero page gets the setup header back with the loader's fields
 * filled in, and the memory map.
 */
#include "vmm/arch/x86/boot_priv.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* Offsets in the file's first sectors and, the same, in the zero page. */
enum {
    ZP_EXT_RSDP = 0x070,
    ZP_ALT_MEM_K = 0x1e0,
    ZP_E820_ENTRIES = 0x1e8,
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_VID_MODE = 0x1fa,
    HDR_JUMP_LEN = 0x201,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_HEAP_END_PTR = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END = 0x290, /* the zero page has other things from here on */
    ZP_E820_TABLE = 0x2d0,
    ZP_SIZE = 0x1000,
};

#define LOADED_HIGH     0x01
#define CAN_USE_HEAP    0x80
#define LOADER_UNKNOWN  0xff
#define VID_MODE_NORMAL 0xffff
#define LOAD_ADDRESS    MIB
#define PROTOCOL_MIN    0x202 /* the first with a 32-bit command line pointer */
#define INITRD_MAX_OLD  UINT64_C(0x37ffffff)
#define CMDLINE_MAX_OLD 255
#define CMDLINE_MAX_OWN (X86_BOOT_LOW_END - X86_BOOT_CMDLINE - 1)
#define SETUP_SECTS_OLD 4
#define SECTOR          UINT64_C(512)
#define E820_ENTRY_SIZE 20
#define XLF_KERNEL_64   0x01
#define ENTRY_64        0x200 /* from where the kernel is loaded */
#define SETUP_HEAP_END  0xe000
#define SETUP_MAX       0xc000 /* leaves a heap and a stack of 8 KiB */

#define PTE_PRESENT_WRITE 0x03
#define PTE_LARGE         0x80

/* The firmware of the 16-bit entry and its parameters, boot_rom.S. */
extern const uint8_t boot_rom[X86_BOOT_ROM_LEN];

enum {
    ROM_SEG = 0,
    ROM_SP = 2,
    ROM_ABOVE = 4,
    ROM_LOW = 8,
    ROM_NB_E820 = 10,
    ROM_E820 = 16,
};

#define ROM_GO    0x4f0
#define ROM_GO_IS 0x474f

/* What we take from the header, checked. */
struct bzimage {
    uint8_t header[HDR_END]; /* the file's first bytes, zeroed from header_end on */
    unsigned header_end;
    unsigned version;
    uint64_t payload_off, payload_len;
    uint64_t kernel_end; /* first byte after what the kernel uses before it is up */
    uint64_t initrd_max; /* last byte that the initrd may occupy */
    uint64_t cmdline_max;
};

/*
 * The protected-mode part of the file. syssize counts 16-byte paragraphs; before 2.04
 * it had only 16 bits and could not be relied on. A file that is longer is fine: a
 * signature follows.
 */
static bool read_payload(struct x86_boot *b, struct bzimage *k, GError **error)
{
    uint64_t sects = k->header[HDR_SETUP_SECTS] ?: SETUP_SECTS_OLD;
    uint64_t file_len = boot_file_len(b->kernel);

    k->payload_off = (sects + 1) * SECTOR;
    if (k->payload_off >= file_len)
        return boot_file_error(b->kernel, error,
                               "truncated: its setup part alone is %" PRIu64
                               " bytes, the file has %" PRIu64,
                               k->payload_off, file_len);
    k->payload_len = file_len - k->payload_off;
    if (k->version >= 0x204) {
        uint64_t said = le32_get(k->header + HDR_SYSSIZE) * UINT64_C(16);

        if (said == 0)
            return boot_file_error(b->kernel, error, "its header says it is empty");
        if (said > k->payload_len)
            return boot_file_error(b->kernel, error,
                                   "truncated: its header says %" PRIu64
                                   " bytes, the file has %" PRIu64,
                                   k->payload_off + said, file_len);
        k->payload_len = said;
    }
    return true;
}

static bool read_header(struct x86_boot *b, struct bzimage *k, GError **error)
{
    size_t n = MIN(boot_file_len(b->kernel), sizeof(k->header));

    if (!boot_file_read(b->kernel, 0, k->header, n, error))
        return false;
    k->header_end = MIN(HDR_MAGIC + k->header[HDR_JUMP_LEN], HDR_END);
    k->version = le16_get(k->header + HDR_VERSION);
    if (k->version < PROTOCOL_MIN)
        return boot_file_error(b->kernel, error,
                               "its boot protocol %u.%02u is too old: 2.02 is needed",
                               k->version >> 8, k->version & 0xff);
    /* Fields that the header does not have must read as 0. */
    memset(k->header + k->header_end, 0, sizeof(k->header) - k->header_end);
    if (!(k->header[HDR_LOADFLAGS] & LOADED_HIGH))
        return boot_file_error(
            b->kernel, error, "a zImage, which must be loaded low: only bzImages boot");
    return read_payload(b, k, error);
}

/* Where the kernel will be while it starts, and the limits it states. */
static bool read_limits(struct x86_boot *b, struct bzimage *k, GError **error)
{
    const uint8_t *h = k->header;
    uint64_t start = LOAD_ADDRESS;
    uint64_t need = k->payload_len;

    if (k->version >= 0x205 && h[HDR_RELOCATABLE]) {
        uint64_t align = le32_get(h + HDR_KERNEL_ALIGNMENT);

        if (align == 0 || (align & (align - 1)) != 0)
            return boot_file_error(b->kernel, error,
                                   "its alignment 0x%" PRIx64 " is not a power of two",
                                   align);
        start = ALIGN_UP(start, align);
    }
    if (k->version >= 0x20a) {
        start = MAX(start, le64_get(h + HDR_PREF_ADDRESS));
        need = MAX(need, le32_get(h + HDR_INIT_SIZE));
    }
    if (!ck_add(start, need, &k->kernel_end))
        return boot_file_error(b->kernel, error,
                               "its preferred address 0x%" PRIx64 " makes no sense",
                               start);
    k->kernel_end = MAX(k->kernel_end, LOAD_ADDRESS + k->payload_len);
    k->initrd_max =
        k->version >= 0x203 ? le32_get(h + HDR_INITRD_ADDR_MAX) : INITRD_MAX_OLD;
    k->cmdline_max =
        k->version >= 0x206 ? le32_get(h + HDR_CMDLINE_SIZE) : CMDLINE_MAX_OLD;
    k->cmdline_max = MIN(k->cmdline_max, CMDLINE_MAX_OWN);
    return true;
}

static bool place(struct x86_boot *b, const struct x86_boot_config *config,
                  struct bzimage *k, uint64_t *ret_initrd, GError **error)
{
    if (!x86_e820_is_ram(&config->map, LOAD_ADDRESS, k->kernel_end - LOAD_ADDRESS))
        return boot_file_error(b->kernel, error,
                               "needs memory up to %" PRIu64
                               " MiB to start, the guest has %" PRIu64
                               " MiB: give it more with -m",
                               (k->kernel_end + MIB - 1) / MIB, config->memory / MIB);
    boot_add_file(b, LOAD_ADDRESS, b->kernel, k->payload_off, k->payload_len);
    return boot_place_initrd(b, config, k->kernel_end, k->initrd_max + 1, ret_initrd,
                             error);
}

static void add_zero_page(struct x86_boot *b, const struct x86_boot_config *config,
                          const struct bzimage *k, uint64_t initrd)
{
    uint8_t zp[ZP_SIZE] = {0};
    uint64_t above_1m = 0;
    unsigned n = 0;

    memcpy(zp + HDR_SETUP_SECTS, k->header + HDR_SETUP_SECTS,
           k->header_end - HDR_SETUP_SECTS);
    zp[HDR_TYPE_OF_LOADER] = LOADER_UNKNOWN;
    zp[HDR_LOADFLAGS] &= ~CAN_USE_HEAP; /* only its real-mode code would use one */
    le16_put(zp + HDR_VID_MODE, VID_MODE_NORMAL);
    le32_put(zp + HDR_CODE32_START, LOAD_ADDRESS);
    le32_put(zp + HDR_CMD_LINE_PTR, X86_BOOT_CMDLINE);
    le32_put(zp + HDR_RAMDISK_IMAGE, initrd);
    le32_put(zp + HDR_RAMDISK_SIZE, b->initrd ? boot_file_len(b->initrd) : 0);
    le64_put(zp + HDR_SETUP_DATA, 0);
    if (k->version >= 0x20e)
        le64_put(zp + ZP_EXT_RSDP, config->rsdp);

    for (unsigned i = 0; i < config->map.n; i++, n++) {
        uint8_t *e = zp + ZP_E820_TABLE + n * E820_ENTRY_SIZE;

        le64_put(e, config->map.e[i].base);
        le64_put(e + 8, config->map.e[i].len);
        le32_put(e + 16, config->map.e[i].type);
        if (config->map.e[i].base == MIB && config->map.e[i].type == X86_E820_RAM)
            above_1m = config->map.e[i].len;
    }
    zp[ZP_E820_ENTRIES] = n;
    le32_put(zp + ZP_ALT_MEM_K, MIN(above_1m / KIB, UINT32_MAX));
    boot_add_bytes(b, X86_BOOT_ZEROPAGE, zp, sizeof(zp));
}

/*
 * The real-mode part with the loader's fields, for who enters it (boot.rst, "Memory
 * Layout", "Sample Boot Configuration"): heap and stack end at SETUP_HEAP_END of its
 * segment.
 */
static bool add_pieces(struct x86_boot *b, const struct bzimage *k, uint64_t initrd,
                       const char *cmdline, GError **error)
{
    struct x86_boot_pieces *p = &b->pieces;
    uint8_t *h;

    p->kernel = (struct x86_boot_piece){
        .gpa = LOAD_ADDRESS,
        .len = k->payload_len,
        .file = b->kernel,
        .off = k->payload_off,
    };
    p->cmdline = (struct x86_boot_piece){
        .gpa = X86_BOOT_CMDLINE,
        .len = strlen(cmdline) + 1,
        .bytes = (uint8_t *)g_strdup(cmdline),
    };
    if (b->initrd)
        p->initrd = (struct x86_boot_piece){
            .gpa = initrd, .len = boot_file_len(b->initrd), .file = b->initrd};
    p->setup.gpa = X86_BOOT_SETUP;
    p->setup.len = k->payload_off;
    p->setup.bytes = h = g_malloc0(MAX(k->payload_off, HDR_END));
    b->has_pieces = k->payload_off <= SETUP_MAX;
    if (!boot_file_read(b->kernel, 0, h, k->payload_off, error))
        return false;
    h[HDR_TYPE_OF_LOADER] = LOADER_UNKNOWN;
    h[HDR_LOADFLAGS] |= CAN_USE_HEAP;
    le16_put(h + HDR_HEAP_END_PTR, SETUP_HEAP_END - 0x200);
    le16_put(h + HDR_VID_MODE, VID_MODE_NORMAL);
    le32_put(h + HDR_CMD_LINE_PTR, X86_BOOT_CMDLINE);
    le32_put(h + HDR_RAMDISK_IMAGE, p->initrd.gpa);
    le32_put(h + HDR_RAMDISK_SIZE, p->initrd.len);
    return true;
}

/*
 * The firmware with what it is to say, and the real-mode part that it enters. The
 * parameters: boot_rom.S.
 */
static void add_rom(struct x86_boot *b, const struct x86_boot_config *config)
{
    uint8_t rom[X86_BOOT_ROM_LEN], go[2];
    uint64_t above = 0;

    memcpy(rom, boot_rom, sizeof(rom));
    for (unsigned i = 0; i < config->map.n; i++) {
        uint8_t *e = rom + ROM_E820 + i * E820_ENTRY_SIZE;

        le64_put(e, config->map.e[i].base);
        le64_put(e + 8, config->map.e[i].len);
        le32_put(e + 16, config->map.e[i].type);
        if (config->map.e[i].base == MIB && config->map.e[i].type == X86_E820_RAM)
            above = config->map.e[i].len;
    }
    le16_put(rom + ROM_SEG, X86_BOOT_SETUP >> 4);
    le16_put(rom + ROM_SP, SETUP_HEAP_END);
    le32_put(rom + ROM_ABOVE, MIN(above / KIB, UINT32_MAX));
    le16_put(rom + ROM_LOW, MIN(config->map.e[0].len / KIB, 640));
    le16_put(rom + ROM_NB_E820, config->map.n);
    boot_add_bytes(b, 4 * GIB - sizeof(rom), rom, sizeof(rom));
    boot_add_bytes(b, MIB - sizeof(rom), rom, sizeof(rom));
    le16_put(go, ROM_GO_IS);
    boot_add_bytes(b, ROM_GO, go, sizeof(go));
    boot_add_bytes(b, X86_BOOT_SETUP, b->pieces.setup.bytes, b->pieces.setup.len);
}

/* Page tables for the 64-bit entry: 4 GiB in pages of 2 MiB. */
static void add_pages(struct x86_boot *b)
{
    g_autofree uint8_t *t = g_malloc0(6 * 4096);

    le64_put(t, (X86_BOOT_PAGES + 4096) | PTE_PRESENT_WRITE);
    for (unsigned i = 0; i < 4; i++)
        le64_put(t + 4096 + 8 * i,
                 (X86_BOOT_PAGES + (2 + i) * 4096) | PTE_PRESENT_WRITE);
    for (unsigned i = 0; i < 4 * 512; i++)
        le64_put(t + 2 * 4096 + 8 * i, i * 2 * MIB | PTE_PRESENT_WRITE | PTE_LARGE);
    boot_add_bytes(b, X86_BOOT_PAGES, t, 6 * 4096);
}

static bool choose_entry(struct x86_boot *b, const struct x86_boot_config *config,
                         const struct bzimage *k, GError **error)
{
    bool has64 =
        k->version >= 0x20c && le16_get(k->header + HDR_XLOADFLAGS) & XLF_KERNEL_64;

    b->entry = LOAD_ADDRESS;
    b->protocol = X86_BOOT_LINUX32;
    switch (config->entry) {
    case X86_BOOT_ENTRY_AUTO:
    case X86_BOOT_ENTRY_32: return true;
    case X86_BOOT_ENTRY_16:
        if (!b->has_pieces)
            return boot_file_error(b->kernel, error,
                                   "its real-mode part of %" PRIu64
                                   " bytes is too large for the 16-bit entry",
                                   k->payload_off);
        b->protocol = X86_BOOT_LINUX16;
        add_rom(b, config);
        return true;
    case X86_BOOT_ENTRY_64:
        if (!has64)
            return boot_file_error(b->kernel, error, "has no 64-bit entry");
        if (!config->long_mode)
            return boot_file_error(b->kernel, error,
                                   "the processor has no long mode for its 64-bit "
                                   "entry");
        break;
    }
    b->entry = LOAD_ADDRESS + ENTRY_64;
    b->protocol = X86_BOOT_LINUX64;
    add_pages(b);
    return true;
}

bool boot_bzimage(struct x86_boot *b, const struct x86_boot_config *config,
                  GError **error)
{
    struct bzimage k = {0};
    const char *cmdline = config->cmdline ?: "";
    uint64_t initrd;

    if (!read_header(b, &k, error) || !read_limits(b, &k, error))
        return false;
    if (strlen(cmdline) > k.cmdline_max)
        return boot_file_error(b->kernel, error,
                               "takes a command line of at most %" PRIu64
                               " bytes, -append has %zu",
                               k.cmdline_max, strlen(cmdline));
    if (!place(b, config, &k, &initrd, error) ||
        !add_pieces(b, &k, initrd, cmdline, error))
        return false;
    add_zero_page(b, config, &k, initrd);
    boot_add_bytes(b, X86_BOOT_CMDLINE, cmdline, strlen(cmdline) + 1);
    return choose_entry(b, config, &k, error);
}
