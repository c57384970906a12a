#ifndef VMM_ARCH_X86_BOOT_H
#define VMM_ARCH_X86_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct gmem;
struct x86_state;

/*
 * Booting a kernel without firmware.
 *
 *   bzImage   the Linux x86 boot protocol 2.02 and later, entered at its 32-bit or
 *             64-bit entry (Documentation/arch/x86/boot.rst, "32-bit Boot Protocol"),
 *             or at its 16-bit one through a little firmware, boot_rom.S
 *   ELF       an uncompressed kernel with a PVH note, XEN_ELFNOTE_PHYS32_ENTRY (Xen's
 *             "x86/HVM direct boot ABI"), 32- or 64-bit file, always a 32-bit entry
 *
 *   multiboot a kernel with a multiboot 1 header: a 32-bit ELF file, or any file whose
 *             header says where it goes (GNU, "Multiboot Specification" 0.6.96)
 *
 * Everything is looked at and placed by x86_boot_new(), before a guest exists; the
 * bytes are copied by x86_boot_write(), at the start and again at each reset. The
 * kernel and the initrd stay files: nothing of their size is kept in memory.
 *
 * What is written below 1 MiB (the board's memory map has RAM there):
 *   0x00500   a GDT with flat segments: code at selector 0x10, data at 0x18
 *   0x06000   PVH: hvm_start_info, its module list and memory map
 *   0x07000   bzImage: struct boot_params, the "zero page"
 *   0x09000   64-bit entry: page tables that map the first 4 GiB to themselves
 *   0x10000   16-bit entry: the real-mode part of the kernel
 *   0x20000   the command line
 * A multiboot kernel, which may be loaded there itself, has one block instead, at
 * 0x9000 or higher, see boot_multiboot.c.
 */
#define X86_BOOT_GDT      0x500
#define X86_BOOT_PVH_INFO 0x6000
#define X86_BOOT_ZEROPAGE 0x7000
#define X86_BOOT_PAGES    0x9000
#define X86_BOOT_SETUP    0x10000
#define X86_BOOT_CMDLINE  0x20000
#define X86_BOOT_LOW_END  0x30000 /* kernels may use nothing below */

#define X86_BOOT_CS 0x10
#define X86_BOOT_DS 0x18

#define X86_BOOT_MULTIBOOT_CS 0x08
#define X86_BOOT_MULTIBOOT_DS 0x10

/* ACPI 6.4, table 15.1: address range types. */
enum x86_e820_type {
    X86_E820_RAM = 1,
    X86_E820_RESERVED = 2,
    X86_E820_ACPI = 3,
};

#define X86_E820_MAX 32

/* The memory map that firmware would report: ascending, not overlapping. */
struct x86_e820 {
    unsigned n;
    struct {
        uint64_t base, len;
        enum x86_e820_type type;
    } e[X86_E820_MAX];
};

/* Append; false when the table is full or @base is below the end of the last. An
 * empty range is left out. */
bool x86_e820_add(struct x86_e820 *map, uint64_t base, uint64_t len,
                  enum x86_e820_type type);

/* Whether [base, base + len) lies in one range of RAM. */
bool x86_e820_is_ram(const struct x86_e820 *map, uint64_t base, uint64_t len);

/*
 * A file to boot from, read at offsets: a path, or bytes for tests and fuzzers.
 */
struct x86_boot_file;

/* @what is "kernel", "initrd"..., static. Opens @path; only regular files of at
 * least one byte will do. Errors read "kernel 'PATH': ...". */
struct x86_boot_file *x86_boot_file_open(const char *what, const char *path,
                                         GError **error);
/* @data is borrowed and must outlive the file. */
struct x86_boot_file *x86_boot_file_mem(const char *what, const uint8_t *data,
                                        uint64_t len);
void x86_boot_file_free(struct x86_boot_file *f);

enum x86_boot_protocol {
    X86_BOOT_LINUX32,
    X86_BOOT_LINUX64,
    X86_BOOT_LINUX16,
    X86_BOOT_PVH,
    X86_BOOT_MULTIBOOT,
};

/* Which of a bzImage's entries is wanted. */
enum x86_boot_entry {
    X86_BOOT_ENTRY_AUTO, /* the 32-bit one, which all have */
    X86_BOOT_ENTRY_16,   /* needs two ROMs, X86_BOOT_ROM_LEN */
    X86_BOOT_ENTRY_32,
    X86_BOOT_ENTRY_64,
};

/* The firmware of the 16-bit entry: bytes of ROM that end at 4 GiB, and again at
 * 1 MiB. */
#define X86_BOOT_ROM_LEN 4096

#define X86_BOOT_MODULES_MAX 64

/* A multiboot module. */
struct x86_boot_module {
    struct x86_boot_file *file;
    char *cmdline; /* its own, which begins with the file's name */
};

/* Files and modules are taken by x86_boot_new(), also when it fails. */
struct x86_boot_config {
    struct x86_boot_file *kernel;
    struct x86_boot_file *initrd;                         /* NULL: none */
    struct x86_boot_module modules[X86_BOOT_MODULES_MAX]; /* multiboot's initrd */
    unsigned nb_modules;
    const char *cmdline; /* borrowed; NULL: empty */
    enum x86_boot_entry entry;
    bool long_mode; /* the processor has it, for the 64-bit entry */
    struct x86_e820 map;
    uint64_t memory; /* all RAM in bytes, for messages */
    uint64_t rsdp;   /* where the ACPI root pointer is; 0: no ACPI */
};

/*
 * Open what -kernel and -initrd name (@initrd may be NULL) into @config, whose files
 * must be NULL. For a multiboot kernel @initrd lists modules: "FILE ARGS,FILE ARGS", a
 * comma within being two. On failure what was opened stays for x86_boot_config_done().
 */
bool x86_boot_open(struct x86_boot_config *config, const char *kernel,
                   const char *initrd, GError **error);

/* Close the files of a configuration that no x86_boot_new() took. */
void x86_boot_config_done(struct x86_boot_config *config);

struct x86_boot;

/*
 * Check the files and decide where everything goes. Each field of the files is
 * checked; on failure NULL with an @error that names the file and, where memory is
 * too small, how much was given and how much is needed.
 */
struct x86_boot *x86_boot_new(const struct x86_boot_config *config, GError **error);
void x86_boot_free(struct x86_boot *b);

enum x86_boot_protocol x86_boot_get_protocol(const struct x86_boot *b);

/* Where the CPU enters, a 32-bit physical address. */
uint32_t x86_boot_get_entry(const struct x86_boot *b);

/*
 * A bzImage as firmware that starts it itself wants it: pieces and where they are meant
 * to go. setup is the real-mode part, its header filled in by the loader.
 */
struct x86_boot_piece {
    uint32_t gpa, len;
    const struct x86_boot_file *file; /* with off; or: */
    uint64_t off;
    uint8_t *bytes; /* owned by the boot image */
};

struct x86_boot_pieces {
    struct x86_boot_piece setup, kernel, initrd, cmdline; /* no initrd: len is 0 */
};

/* NULL when the kernel is no bzImage. Borrowed. */
const struct x86_boot_pieces *x86_boot_get_pieces(const struct x86_boot *b);

/* [off, off + len) of a piece, within it. Fails when the file cannot be read. */
bool x86_boot_piece_read(const struct x86_boot_piece *p, uint64_t off, void *buf,
                         size_t len, GError **error);

/*
 * Copy kernel, initrd, command line and tables into @m. Fails when a file has become
 * shorter or cannot be read, or @m does not have the RAM that the map promised.
 * vCPUs are stopped.
 */
bool x86_boot_write(struct x86_boot *b, struct gmem *m, GError **error);

/* Make @state, which is as after reset, the state in which the kernel is entered. */
void x86_boot_set_state(const struct x86_boot *b, struct x86_state *state);

/*
 * A flat firmware image for the top of 4 GiB, where a processor starts, and its last
 * part below 1 MiB.
 */
#define X86_BIOS_MAX     (UINT32_C(16) << 20)
#define X86_BIOS_LOW_MAX (UINT32_C(128) << 10) /* what a PC shows below 1 MiB */

struct x86_bios;

/* @file is taken, also on failure: its size must be a multiple of 64 KiB, at most
 * X86_BIOS_MAX. */
struct x86_bios *x86_bios_new(struct x86_boot_file *file, GError **error);
void x86_bios_free(struct x86_bios *b);

/* Its size in bytes. */
uint32_t x86_bios_len(const struct x86_bios *b);

/*
 * Copy it into @m, where the board has memory for all of it below 4 GiB and for its
 * last @low bytes below 1 MiB. Fails as x86_boot_write() does. vCPUs are stopped.
 */
bool x86_bios_write(const struct x86_bios *b, struct gmem *m, uint32_t low,
                    GError **error);

#endif
