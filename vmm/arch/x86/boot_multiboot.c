/*
 * Multiboot 1 (GNU, "Multiboot Specification version 0.6.96").
 *
 * The header is 4-byte aligned in the file's first 8 KiB:
 *
 *    0 magic 0x1badb002   4 flags   8 checksum (the three sum up to 0)
 *   12 header_addr  16 load_addr  20 load_end_addr  24 bss_end_addr  28 entry_addr
 *
 * With bit 16 of the flags ("the a.out kludge") the addresses say where a contiguous
 * piece of the file goes; without it the file is a 32-bit ELF file, whose segments go
 * to their physical addresses. The kernel starts in flat 32-bit protected mode with
 * EAX = 0x2badb002 and EBX pointing to the information structure:
 *
 *    0 flags        4 mem_lower   8 mem_upper (KiB)   16 cmdline
 *   20 mods_count  24 mods_addr  44 mmap_length       48 mmap_addr
 *   64 boot_loader_name
 *
 * Structure, tables, strings and a GDT are one block below 640 KiB, where the kernel
 * leaves room: at 0x9000 if possible. Modules are page aligned, above the kernel and
 * above 1 MiB, as they come.
 */
#include "vmm/arch/x86/boot_priv.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

#define HEADER_MAGIC 0x1badb002u
#define SEARCH_MAX   8192u
#define FLAG_VIDEO   (1u << 2) /* a wish; there is no video, and we say so */
#define FLAG_KLUDGE  (1u << 16)
#define MUST_KNOW    0xffffu /* an unknown one of these must be refused */
#define KNOWN        7u

#define PAGE        UINT64_C(4096)
#define INFO_GPA    0x9000
#define INFO_SIZE   128
#define INFO_MAX    (256 * KIB) /* command lines are limited by this alone */
#define MODULE_SIZE 16
#define MMAP_SIZE   24
#define LOADER_NAME "lodge"

enum {
    INFO_HAS_MEMORY = 1 << 0,
    INFO_HAS_CMDLINE = 1 << 2,
    INFO_HAS_MODULES = 1 << 3,
    INFO_HAS_MMAP = 1 << 6,
    INFO_HAS_NAME = 1 << 9,
};

struct header {
    uint64_t off; /* in the file */
    uint32_t flags;
    uint32_t header_addr, load_addr, load_end, bss_end, entry;
};

static bool find_header(const struct x86_boot_file *f, struct header *ret)
{
    uint8_t head[SEARCH_MAX];
    size_t n = MIN(boot_file_len(f), sizeof(head)) & ~(size_t)3;

    if (!boot_file_read(f, 0, head, n, NULL))
        return false;
    for (size_t i = 0; i + 12 <= n; i += 4) {
        uint8_t h[32] = {0};

        if (le32_get(head + i) != HEADER_MAGIC ||
            HEADER_MAGIC + le32_get(head + i + 4) + le32_get(head + i + 8) != 0)
            continue;
        memcpy(h, head + i, MIN(n - i, sizeof(h)));
        *ret = (struct header){
            .off = i,
            .flags = le32_get(h + 4),
            .header_addr = le32_get(h + 12),
            .load_addr = le32_get(h + 16),
            .load_end = le32_get(h + 20),
            .bss_end = le32_get(h + 24),
            .entry = le32_get(h + 28),
        };
        return true;
    }
    return false;
}

/* A 64-bit ELF file cannot be meant, whatever bytes it has. */
bool boot_is_multiboot(const struct x86_boot_file *f)
{
    uint8_t ident[5] = {0}, setup[4] = {0};
    struct header h;

    boot_file_read(f, 0x202, setup, sizeof(setup), NULL);
    if (memcmp(setup, "HdrS", 4) == 0 || !find_header(f, &h))
        return false;
    return h.flags & FLAG_KLUDGE ||
           (boot_file_read(f, 0, ident, 5, NULL) && memcmp(ident, "\177ELF\1", 5) == 0);
}

static bool load_kludge(struct x86_boot *b, const struct x86_boot_config *config,
                        const struct header *h, struct boot_elf *image, GError **error)
{
    uint64_t before = (uint64_t)h->header_addr - h->load_addr;
    uint64_t off = h->off - before, len, memory;

    if (h->header_addr < h->load_addr || before > h->off)
        return boot_file_error(b->kernel, error,
                               "its multiboot header is not where it says: "
                               "header_addr 0x%x, load_addr 0x%x",
                               h->header_addr, h->load_addr);
    len = boot_file_len(b->kernel) - off;
    if (h->load_end != 0) {
        if (h->load_end < h->load_addr || h->load_end - h->load_addr > len)
            return boot_file_error(b->kernel, error,
                                   "truncated: its multiboot load_end_addr is 0x%x",
                                   h->load_end);
        len = h->load_end - h->load_addr;
    }
    memory = len;
    if (h->bss_end != 0) {
        if (h->bss_end < h->load_addr + len)
            return boot_file_error(b->kernel, error,
                                   "its multiboot bss_end_addr 0x%x is within it",
                                   h->bss_end);
        memory = h->bss_end - h->load_addr;
    }
    if (!x86_e820_is_ram(&config->map, h->load_addr, memory))
        return boot_file_error(
            b->kernel, error,
            "%" PRIu64 " KiB at 0x%x do not fit into memory of %" PRIu64 " MiB",
            (memory + KIB - 1) / KIB, h->load_addr, config->memory / MIB);
    if (h->entry < h->load_addr || h->entry - h->load_addr >= memory)
        return boot_file_error(b->kernel, error,
                               "its entry point 0x%x is outside of it", h->entry);
    boot_add_file(b, h->load_addr, b->kernel, off, len);
    boot_add_zeros(b, h->load_addr + len, memory - len);
    image->entry = h->entry;
    image->end = h->load_addr + memory;
    return true;
}

/* ---- what the kernel is told ---- */

/* Append @len bytes to @block, 4-byte aligned; returns their offset. */
static uint32_t put(GByteArray *block, const void *bytes, size_t len)
{
    static const uint8_t zeros[4];
    uint32_t off;

    g_byte_array_append(block, zeros, -block->len & 3);
    off = block->len;
    g_byte_array_append(block, bytes, len);
    return off;
}

static uint32_t put_string(GByteArray *block, const char *text)
{
    return put(block, text, strlen(text) + 1);
}

static uint32_t put_mmap(GByteArray *block, const struct x86_e820 *map)
{
    uint32_t at = block->len;

    for (unsigned i = 0; i < map->n; i++) {
        uint8_t e[MMAP_SIZE];
        uint32_t off;

        le32_put(e, MMAP_SIZE - 4);
        le64_put(e + 4, map->e[i].base);
        le64_put(e + 12, map->e[i].len);
        le32_put(e + 20, map->e[i].type);
        off = put(block, e, sizeof(e));
        at = i == 0 ? off : at;
    }
    return at;
}

/* Where modules go, from @end on. */
static bool place_modules(struct x86_boot *b, const struct x86_boot_config *config,
                          uint64_t end, uint64_t *at, GError **error)
{
    uint64_t next = MAX(end, MIB);

    for (unsigned i = 0; i < b->nb_modules; i++) {
        const struct x86_boot_file *f = b->modules[i].file;

        next = ALIGN_UP(next, PAGE);
        if (!x86_e820_is_ram(&config->map, next, boot_file_len(f)) ||
            next + boot_file_len(f) > 4 * GIB)
            return boot_file_error(f, error,
                                   "its %" PRIu64 " KiB do not fit above the kernel "
                                   "into memory of %" PRIu64 " MiB",
                                   (boot_file_len(f) + KIB - 1) / KIB,
                                   config->memory / MIB);
        at[i] = next;
        boot_add_file(b, next, f, 0, boot_file_len(f));
        next += boot_file_len(f);
    }
    return true;
}

static bool is_free(const struct x86_boot *b, uint64_t gpa, uint64_t len)
{
    for (guint i = 0; i < b->blobs->len; i++) {
        const struct boot_blob *blob = &g_array_index(b->blobs, struct boot_blob, i);

        if (gpa < blob->gpa + blob->len && blob->gpa < gpa + len)
            return false;
    }
    return true;
}

/* A place for @len bytes in conventional memory: INFO_GPA, or the highest. */
static bool place_info(const struct x86_boot *b, const struct x86_boot_config *config,
                       uint64_t len, uint32_t *ret, GError **error)
{
    uint64_t end = config->map.e[0].len;

    if (len <= INFO_MAX && INFO_GPA + len <= end && is_free(b, INFO_GPA, len)) {
        *ret = INFO_GPA;
        return true;
    }
    for (uint64_t at = ALIGN_DOWN(MIN(end, 640 * KIB), PAGE); at >= PAGE; at -= PAGE) {
        if (len <= INFO_MAX && at + len <= end && is_free(b, at, len)) {
            *ret = at;
            return true;
        }
    }
    return boot_file_error(b->kernel, error,
                           "it leaves no room for %" PRIu64 " bytes of command lines "
                           "and tables below 640 KiB",
                           len);
}

static uint64_t kib_above_1m(const struct x86_e820 *map)
{
    for (unsigned i = 0; i < map->n; i++) {
        uint64_t end = map->e[i].base + map->e[i].len;

        if (map->e[i].type == X86_E820_RAM && map->e[i].base <= MIB && end > MIB)
            return MIN((end - MIB) / KIB, UINT32_MAX);
    }
    return 0;
}

static GByteArray *info_new(struct x86_boot *b, const struct x86_boot_config *config,
                            const uint64_t *modules, GArray *pointers)
{
    GByteArray *block = g_byte_array_new();
    uint8_t info[INFO_SIZE] = {0};
    uint8_t gdt[3 * 8] = {0};
    g_autofree char *cmdline =
        g_strjoin(config->cmdline && *config->cmdline ? " " : "",
                  boot_file_path(b->kernel), config->cmdline ?: "", NULL);
    g_autofree uint8_t *mods = g_malloc0(b->nb_modules * MODULE_SIZE + 1);
    uint32_t at;

    le32_put(info, INFO_HAS_MEMORY | INFO_HAS_CMDLINE | INFO_HAS_MODULES |
                       INFO_HAS_MMAP | INFO_HAS_NAME);
    le32_put(info + 4, MIN(config->map.e[0].len / KIB, 640));
    le32_put(info + 8, kib_above_1m(&config->map));
    le32_put(info + 20, b->nb_modules);
    le32_put(info + 44, config->map.n * MMAP_SIZE);
    put(block, info, sizeof(info));
    le64_put(gdt + X86_BOOT_MULTIBOOT_CS, UINT64_C(0x00cf9b000000ffff));
    le64_put(gdt + X86_BOOT_MULTIBOOT_DS, UINT64_C(0x00cf93000000ffff));
    put(block, gdt, sizeof(gdt));

#define POINT(field_off, value_off)                      \
    do {                                                 \
        uint32_t point_[2] = {(field_off), (value_off)}; \
        g_array_append_vals(pointers, point_, 1);        \
    } while (0)
    at = put_string(block, cmdline);
    POINT(16, at);
    at = put_string(block, LOADER_NAME);
    POINT(64, at);
    at = put_mmap(block, &config->map);
    POINT(48, at);
    for (unsigned i = 0; i < b->nb_modules; i++) {
        le32_put(mods + i * MODULE_SIZE, modules[i]);
        le32_put(mods + i * MODULE_SIZE + 4,
                 modules[i] + boot_file_len(b->modules[i].file));
    }
    at = put(block, mods, b->nb_modules * MODULE_SIZE);
    POINT(24, at);
    for (unsigned i = 0; i < b->nb_modules; i++) {
        uint32_t text = put_string(block, b->modules[i].cmdline);

        POINT(at + i * MODULE_SIZE + 8, text);
    }
#undef POINT
    return block;
}

static bool add_info(struct x86_boot *b, const struct x86_boot_config *config,
                     const uint64_t *modules, GError **error)
{
    /* Pairs: where a pointer is, what it points to; both offsets in the block. */
    g_autoptr(GArray) pointers = g_array_new(FALSE, FALSE, 2 * sizeof(uint32_t));
    g_autoptr(GByteArray) block = info_new(b, config, modules, pointers);

    if (!place_info(b, config, block->len, &b->info, error))
        return false;
    for (guint i = 0; i < pointers->len; i++) {
        const uint32_t *p = &((const uint32_t *)(void *)pointers->data)[2 * i];

        le32_put(block->data + p[0], b->info + p[1]);
    }
    boot_add_bytes(b, b->info, block->data, block->len);
    b->gdt = b->info + INFO_SIZE;
    return true;
}

bool boot_multiboot(struct x86_boot *b, const struct x86_boot_config *config,
                    GError **error)
{
    g_autofree uint64_t *modules = g_new0(uint64_t, b->nb_modules + 1);
    struct boot_elf image = {0};
    struct header h = {0};

    if (!find_header(b->kernel, &h))
        return boot_file_error(b->kernel, error, "has no multiboot header");
    if (h.flags & MUST_KNOW & ~KNOWN)
        return boot_file_error(b->kernel, error,
                               "its multiboot header wants what is unknown: "
                               "flags 0x%x",
                               h.flags);
    if (h.flags & FLAG_KLUDGE ? !load_kludge(b, config, &h, &image, error)
                              : !boot_elf_load(b, config, &image, error))
        return false;
    if (!(h.flags & FLAG_KLUDGE) && !image.has_entry)
        return boot_file_error(b->kernel, error,
                               "its entry point 0x%" PRIx64 " is in no segment",
                               image.entry);
    if (!place_modules(b, config, image.end, modules, error) ||
        !add_info(b, config, modules, error))
        return false;
    b->protocol = X86_BOOT_MULTIBOOT;
    b->entry = image.entry;
    return true;
}
