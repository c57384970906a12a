#ifndef VMM_BOARD_BOARD_H
#define VMM_BOARD_BOARD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

#include "vmm/vm/props.h"

struct board;
struct chardev;
struct vm;

/*
 * Boards: which memory, controllers and devices a machine consists of and how they are
 * wired. A board only puts together what vmm/dev and vmm/arch have.
 *
 * Life: board_new() checks everything that can be wrong with files and options before
 * a VM exists; board_build() makes memory and system devices; the user's devices are
 * made; board_finish() describes what is there now (ACPI, command line) and readies
 * the boot image, which is written at each reset.
 */

#define BOARD_SERIALS 4

/* A file for the guest's firmware configuration device, from -fw_cfg. */
struct board_fw_file {
    char *name;
    void *bytes;
    uint32_t len;
};

/* What -kernel, -m, -smp... say. Strings are borrowed for the board's life. */
struct board_config {
    const char *kernel, *initrd, *cmdline; /* NULL: none */
    const char *bios;                      /* firmware's path; NULL: none */
    uint64_t memory;                       /* bytes, a multiple of 4096 */
    unsigned nb_cpus;
    const char *uuid; /* NULL: all zeros */
    bool nographic;
    const json_t *boot;                   /* -boot: an object; NULL: none */
    const json_t *smbios;                 /* -smbios: an array of objects; NULL: none */
    const struct board_fw_file *fw_files; /* copied by the board */
    unsigned nb_fw_files;
};

struct board_type {
    const char *name;  /* as in -machine NAME */
    const char *alias; /* another name, or NULL */
    const char *desc;
    unsigned max_cpus;
    uint64_t default_memory;
    const char *default_cpu;
    const char *disk_device;  /* the -device that a plain -drive gets */
    const char *vga_device;   /* the -device of -vga std; NULL: it takes none */
    const char *firmware;     /* the file used without -bios; NULL: none */
    const struct prop *props; /* -machine options */
    size_t size;              /* of the struct that begins with struct board */

    bool (*check)(struct board *b, GError **error);
    bool (*build)(struct board *b, GError **error);
    bool (*finish)(struct board *b, GError **error);
    void (*reset)(struct board *b);
    void (*power_button)(struct board *b);
    void (*done)(struct board *b);
};

struct board {
    const struct board_type *type;
    struct board_config config;
    struct vm *vm;                         /* from board_build() on */
    struct chardev *serial[BOARD_SERIALS]; /* NULL: no such port */
};

/* All of them, NULL-terminated, the default first. */
extern const struct board_type *const board_types[];

/* The board named @name, or NULL with @error suggesting the nearest. */
const struct board_type *board_type_find(const char *name, GError **error);

/* -machine help; -machine NAME,help. */
void board_types_help(FILE *out);
void board_type_help(const struct board_type *type, FILE *out);

/*
 * A board of @type with -machine's @options (an object, borrowed). Opens and checks
 * firmware, kernel and initrd. NULL with @error.
 */
struct board *board_new(const struct board_type *type, const json_t *options,
                        const struct board_config *config, GError **error);

/* Memory and system devices of @vm; @serial borrowed for the board's life. */
bool board_build(struct board *b, struct vm *vm, struct chardev *const *serial,
                 GError **error);

/* The user's devices have been made: get ready to start. */
bool board_finish(struct board *b, GError **error);

/* Press the power button, where there is one. Thread: main. */
void board_power_button(struct board *b);

/* After the VM is gone. NULL is fine. */
void board_free(struct board *b);

#endif
