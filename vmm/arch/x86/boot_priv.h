#ifndef VMM_ARCH_X86_BOOT_PRIV_H
#define VMM_ARCH_X86_BOOT_PRIV_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/arch/x86/boot.h"

/* A piece of the boot image: bytes of our own, of a file, or zeros. */
struct boot_blob {
    uint64_t gpa;
    uint64_t len;
    uint8_t *bytes;                   /* owned; NULL when from a file or zeros */
    const struct x86_boot_file *file; /* NULL: zeros */
    uint64_t file_off;
};

struct x86_boot {
    enum x86_boot_protocol protocol;
    struct x86_boot_file *kernel, *initrd;
    struct x86_boot_module modules[X86_BOOT_MODULES_MAX];
    unsigned nb_modules;
    uint32_t entry;
    uint32_t info; /* multiboot: the information structure */
    uint32_t gdt;
    GArray *blobs; /* struct boot_blob */
    bool has_pieces;
    struct x86_boot_pieces pieces;
};

uint64_t boot_file_len(const struct x86_boot_file *f);
const char *boot_file_path(const struct x86_boot_file *f);

/* Exactly @len bytes at @off, or false: "kernel 'X': truncated: ...". */
bool boot_file_read(const struct x86_boot_file *f, uint64_t off, void *buf, size_t len,
                    GError **error);

/* error_msg() with "kernel 'X': " before it; always false. */
gboolean boot_file_error(const struct x86_boot_file *f, GError **error, const char *fmt,
                         ...) G_GNUC_PRINTF(3, 4);

/* Append a blob; bytes are copied. */
void boot_add_bytes(struct x86_boot *b, uint64_t gpa, const void *bytes, size_t len);
void boot_add_file(struct x86_boot *b, uint64_t gpa, const struct x86_boot_file *f,
                   uint64_t off, uint64_t len);
void boot_add_zeros(struct x86_boot *b, uint64_t gpa, uint64_t len);

/*
 * Find the highest page-aligned place for the initrd that ends at or below @limit,
 * in RAM below 4 GiB and above @kernel_end. *ret_gpa is 0 without an initrd.
 */
bool boot_place_initrd(struct x86_boot *b, const struct x86_boot_config *config,
                       uint64_t kernel_end, uint64_t limit, uint64_t *ret_gpa,
                       GError **error);

/* What the segments of an ELF file come to. */
struct boot_elf {
    bool is64;
    uint64_t phoff;
    unsigned phentsize, phnum;
    uint64_t lowest; /* no segment may be below */
    uint64_t loaded; /* bytes of memory taken by segments */
    uint64_t end;    /* first byte after the highest segment */
    unsigned nb_load;
    bool has_pvh;
    uint64_t pvh;   /* the PVH note's entry point */
    uint64_t entry; /* the header's, as a physical address */
    bool has_entry; /* a segment has it */
};

/* Place all segments of the kernel, an ELF file, at or above e->lowest. */
bool boot_elf_load(struct x86_boot *b, const struct x86_boot_config *config,
                   struct boot_elf *e, GError **error);

/* Whether a file is to be started by the multiboot protocol. */
bool boot_is_multiboot(const struct x86_boot_file *f);

/* The protocols. The magic was seen; the rest is unchecked. */
bool boot_bzimage(struct x86_boot *b, const struct x86_boot_config *config,
                  GError **error);
bool boot_multiboot(struct x86_boot *b, const struct x86_boot_config *config,
                    GError **error);
bool boot_elf(struct x86_boot *b, const struct x86_boot_config *config, GError **error);

#endif
