/*
 * ELF kernels with a PVH entry point (Xen, docs/misc/pvh.pandoc and
 * xen/include/public/arch-x86/hvm/start_info.h).
 *
 * PT_LOAD segments go to their physical addresses. A PT_NOTE segment holds the note
 * "Xen" of type 18, whose descriptor is the 32-bit entry point. The CPU arrives there
 * in 32-bit protected mode without paging, EBX pointing to hvm_start_info:
 *
 *    0 magic  4 version  8 flags  12 nr_modules  16 modlist  24 cmdline  32 rsdp
 *   40 memmap  48 memmap_entries  52 reserved
 */
#include "vmm/arch/x86/boot_priv.h"

#include <elf.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

#define NOTE_PHYS32_ENTRY 18
#define SEGMENTS_MAX      64 /* of each kind; kernels have about five */
#define NOTES_MAX         (64 * KIB)

#define INFO_MAGIC   0x336ec578
#define INFO_SIZE    56
#define MODULE_SIZE  32
#define MEMMAP_SIZE  24
#define INFO_MODLIST (X86_BOOT_PVH_INFO + 0x40)
#define INFO_MEMMAP  (X86_BOOT_PVH_INFO + 0x80)
#define CMDLINE_MAX  (X86_BOOT_LOW_END - X86_BOOT_CMDLINE - 1)

_Static_assert(INFO_MEMMAP + X86_E820_MAX * MEMMAP_SIZE <= X86_BOOT_ZEROPAGE,
               "the memory map fits before the zero page");

/* A program header of either class. */
struct segment {
    uint32_t type;
    uint64_t off, vaddr, paddr, filesz, memsz, align;
};

static bool read_ehdr(struct x86_boot *b, struct boot_elf *e, GError **error)
{
    uint8_t h[64] = {0};
    unsigned machine;

    if (!boot_file_read(b->kernel, 0, h, 52, error))
        return false;
    e->is64 = h[EI_CLASS] == ELFCLASS64;
    if (e->is64 && !boot_file_read(b->kernel, 0, h, 64, error))
        return false;
    machine = le16_get(h + 18);
    if ((!e->is64 && h[EI_CLASS] != ELFCLASS32) || h[EI_DATA] != ELFDATA2LSB ||
        (machine != EM_X86_64 && machine != EM_386))
        return boot_file_error(b->kernel, error, "an ELF file, but not for x86");
    e->entry = e->is64 ? le64_get(h + 24) : le32_get(h + 24);
    e->phoff = e->is64 ? le64_get(h + 32) : le32_get(h + 28);
    e->phentsize = le16_get(h + (e->is64 ? 54 : 42));
    e->phnum = le16_get(h + (e->is64 ? 56 : 44));
    if (e->phentsize < (e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return boot_file_error(b->kernel, error,
                               "its program headers are %u bytes, too short",
                               e->phentsize);
    if (e->phnum == 0 || e->phnum > SEGMENTS_MAX)
        return boot_file_error(b->kernel, error, "has %u program headers, not 1..%u",
                               e->phnum, SEGMENTS_MAX);
    return true;
}

static bool read_segment(struct x86_boot *b, const struct boot_elf *e, unsigned i,
                         struct segment *ret, GError **error)
{
    uint8_t p[sizeof(Elf64_Phdr)];
    /* Cannot wrap: header 0 was read, so that phoff lies in the file when i > 0. */
    uint64_t off = e->phoff + (uint64_t)i * e->phentsize;

    if (!boot_file_read(b->kernel, off, p,
                        e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr), error))
        return false;
    ret->type = le32_get(p);
    if (e->is64) {
        ret->off = le64_get(p + 8);
        ret->vaddr = le64_get(p + 16);
        ret->paddr = le64_get(p + 24);
        ret->filesz = le64_get(p + 32);
        ret->memsz = le64_get(p + 40);
        ret->align = le64_get(p + 48);
    } else {
        ret->off = le32_get(p + 4);
        ret->vaddr = le32_get(p + 8);
        ret->paddr = le32_get(p + 12);
        ret->filesz = le32_get(p + 16);
        ret->memsz = le32_get(p + 20);
        ret->align = le32_get(p + 28);
    }
    if (!ck_range(ret->off, ret->filesz, boot_file_len(b->kernel)))
        return boot_file_error(b->kernel, error,
                               "truncated: segment %u is %" PRIu64
                               " bytes at offset %" PRIu64 ", the file has %" PRIu64,
                               i, ret->filesz, ret->off, boot_file_len(b->kernel));
    return true;
}

static bool load_segment(struct x86_boot *b, const struct x86_boot_config *config,
                         struct boot_elf *e, unsigned i, const struct segment *s,
                         GError **error)
{
    if (s->memsz == 0)
        return true;
    if (s->memsz < s->filesz)
        return boot_file_error(b->kernel, error,
                               "segment %u is larger in the file than in memory", i);
    if (s->paddr < e->lowest || s->paddr >= 4 * GIB)
        return boot_file_error(b->kernel, error,
                               "segment %u is at 0x%" PRIx64 ", outside of 0x%" PRIx64
                               "..4 GiB where kernels are loaded",
                               i, s->paddr, e->lowest);
    /* The sum bounds the work when segments overlap. */
    if (!x86_e820_is_ram(&config->map, s->paddr, s->memsz) ||
        !ck_add(e->loaded, s->memsz, &e->loaded) || e->loaded > config->memory)
        return boot_file_error(b->kernel, error,
                               "segment %u, %" PRIu64 " KiB at 0x%" PRIx64
                               ", does not fit into memory of %" PRIu64 " MiB",
                               i, (s->memsz + KIB - 1) / KIB, s->paddr,
                               config->memory / MIB);
    if (s->filesz > 0)
        boot_add_file(b, s->paddr, b->kernel, s->off, s->filesz);
    boot_add_zeros(b, s->paddr + s->filesz, s->memsz - s->filesz);
    e->end = MAX(e->end, s->paddr + s->memsz);
    e->nb_load++;
    return true;
}

/* Look for the PVH entry in a note segment: { namesz, descsz, type, name, desc }. */
static bool read_notes(struct x86_boot *b, struct boot_elf *e, const struct segment *s,
                       GError **error)
{
    g_autofree uint8_t *n = NULL;
    uint64_t align = s->align == 8 ? 8 : 4;
    uint64_t off = 0;

    if (s->filesz > NOTES_MAX)
        return boot_file_error(b->kernel, error, "has %" PRIu64 " bytes of notes",
                               s->filesz);
    n = g_malloc(s->filesz);
    if (!boot_file_read(b->kernel, s->off, n, s->filesz, error))
        return false;
    while (ck_range(off, 12, s->filesz)) {
        uint64_t namesz = le32_get(n + off), descsz = le32_get(n + off + 4);
        uint64_t name = off + 12, desc = name + ALIGN_UP(namesz, align);

        if (!ck_range(desc, descsz, s->filesz))
            break;
        if (le32_get(n + off + 8) == NOTE_PHYS32_ENTRY && namesz == 4 &&
            memcmp(n + name, "Xen", 4) == 0 && (descsz == 4 || descsz == 8)) {
            e->has_pvh = true;
            e->pvh = le_get(n + desc, descsz);
        }
        off = desc + ALIGN_UP(descsz, align);
    }
    return true;
}

static void add_start_info(struct x86_boot *b, const struct x86_boot_config *config,
                           uint64_t initrd)
{
    uint8_t info[INFO_SIZE] = {0}, module[MODULE_SIZE] = {0};
    uint8_t memmap[X86_E820_MAX * MEMMAP_SIZE] = {0};

    le32_put(info, INFO_MAGIC);
    le32_put(info + 4, 1);
    le32_put(info + 12, b->initrd ? 1 : 0);
    le64_put(info + 16, b->initrd ? INFO_MODLIST : 0);
    le64_put(info + 24, X86_BOOT_CMDLINE);
    le64_put(info + 32, config->rsdp);
    le64_put(info + 40, INFO_MEMMAP);
    le32_put(info + 48, config->map.n);
    boot_add_bytes(b, X86_BOOT_PVH_INFO, info, sizeof(info));

    if (b->initrd) {
        le64_put(module, initrd);
        le64_put(module + 8, boot_file_len(b->initrd));
        boot_add_bytes(b, INFO_MODLIST, module, sizeof(module));
    }
    for (unsigned i = 0; i < config->map.n; i++) {
        uint8_t *m = memmap + i * MEMMAP_SIZE;

        le64_put(m, config->map.e[i].base);
        le64_put(m + 8, config->map.e[i].len);
        le32_put(m + 16, config->map.e[i].type);
    }
    boot_add_bytes(b, INFO_MEMMAP, memmap, config->map.n * MEMMAP_SIZE);
}

/* The header's entry point is a virtual address in one of the segments. */
static void find_entry(struct boot_elf *e, const struct segment *s, uint64_t entry)
{
    if (s->type != PT_LOAD || e->has_entry || entry < s->vaddr ||
        entry - s->vaddr >= s->memsz)
        return;
    e->entry = entry - s->vaddr + s->paddr;
    e->has_entry = true;
}

static bool read_segments(struct x86_boot *b, const struct x86_boot_config *config,
                          struct boot_elf *e, GError **error)
{
    uint64_t entry = e->entry;

    for (unsigned i = 0; i < e->phnum; i++) {
        struct segment s = {0};

        if (!read_segment(b, e, i, &s, error))
            return false;
        if (s.type == PT_LOAD && !load_segment(b, config, e, i, &s, error))
            return false;
        if (s.type == PT_NOTE && !read_notes(b, e, &s, error))
            return false;
        find_entry(e, &s, entry);
    }
    return e->nb_load > 0 || boot_file_error(b->kernel, error, "has nothing to load");
}

static bool check_pvh(struct x86_boot *b, const struct boot_elf *e, GError **error)
{
    if (!e->has_pvh)
        return boot_file_error(b->kernel, error,
                               "has no PVH entry point (a note 'Xen' of type 18; "
                               "Linux: CONFIG_PVH)%s",
                               e->is64 ? "" : " and no multiboot header");
    if (e->pvh < X86_BOOT_LOW_END || e->pvh >= e->end)
        return boot_file_error(
            b->kernel, error, "its entry point 0x%" PRIx64 " is outside of it", e->pvh);
    return true;
}

bool boot_elf_load(struct x86_boot *b, const struct x86_boot_config *config,
                   struct boot_elf *e, GError **error)
{
    return read_ehdr(b, e, error) && read_segments(b, config, e, error);
}

bool boot_elf(struct x86_boot *b, const struct x86_boot_config *config, GError **error)
{
    struct boot_elf e = {.lowest = X86_BOOT_LOW_END};
    const char *cmdline = config->cmdline ?: "";
    uint64_t initrd;

    if (!read_ehdr(b, &e, error) || !read_segments(b, config, &e, error) ||
        !check_pvh(b, &e, error))
        return false;
    if (strlen(cmdline) > CMDLINE_MAX)
        return error_msg(error, "-append has %zu bytes, more than the %d that fit",
                         strlen(cmdline), CMDLINE_MAX);
    if (!boot_place_initrd(b, config, MAX(e.end, MIB), 4 * GIB, &initrd, error))
        return false;
    add_start_info(b, config, initrd);
    boot_add_bytes(b, X86_BOOT_CMDLINE, cmdline, strlen(cmdline) + 1);
    b->protocol = X86_BOOT_PVH;
    b->entry = e.pvh;
    return true;
}
