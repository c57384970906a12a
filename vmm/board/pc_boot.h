#ifndef VMM_BOARD_PC_BOOT_H
#define VMM_BOARD_PC_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/arch/x86/boot.h"
#include "vmm/board/board.h"

struct device;
struct vm;

/* -machine kernel-entry=: how -kernel is started. The first ones as in
 * enum x86_boot_entry. */
enum {
    PC_BOOT_ENTRY_AUTO = X86_BOOT_ENTRY_AUTO,
    PC_BOOT_ENTRY_16 = X86_BOOT_ENTRY_16,
    PC_BOOT_ENTRY_32 = X86_BOOT_ENTRY_32,
    PC_BOOT_ENTRY_64 = X86_BOOT_ENTRY_64,
    PC_BOOT_ENTRY_FIRMWARE, /* not at all: -bios finds it by fw_cfg */
};

extern const char *const pc_boot_entries[]; /* for PROP_ENUM */

/*
 * How a PC starts: with firmware (-bios) at the top of 4 GiB, with a kernel that is
 * entered directly (-kernel), or with both, when the kernel is entered and the firmware
 * is only there. What the boards have in common: RAM around the firmware, the boot
 * image, the state of the first processor.
 *
 * The board's struct holds one, zeroed, and fills in what is marked so.
 */
struct pc_boot {
    const struct board_config *config; /* the board's */
    unsigned entry;                    /* -machine kernel-entry=: PC_BOOT_ENTRY_... */
    bool bios_writable;                /* -machine bios-writable=: RAM, not ROM */
    bool chipset; /* the board's: from 640 KiB to 1 MiB memory is the host bridge's, and
                     only firmware is entered */
    struct x86_e820 map; /* the board's: what a kernel is told */
    uint64_t rsdp;       /* the board's: ACPI's root pointer, 0: none */

    struct x86_bios *bios;
    struct x86_boot *boot;
    struct device *fw_cfg;
    uint64_t low;  /* bytes of RAM below 4 GiB */
    struct vm *vm; /* from pc_boot_add_memory() on */
};

/*
 * Open and check firmware, kernel and initrd as config names them. The kernel is
 * looked at again by pc_boot_load(): this finds mistakes before there is a VM.
 */
bool pc_boot_check(struct pc_boot *p, GError **error);

/* Whether the processor starts in the firmware rather than in a kernel. */
bool pc_boot_is_firmware(const struct pc_boot *p);

/* Give @vm its memory: @low bytes from 0, interrupted by firmware below 1 MiB or by
 * what is the host bridge's, what is left of config->memory from 4 GiB on, and the
 * firmware's ROMs. */
bool pc_boot_add_memory(struct pc_boot *p, struct vm *vm, uint64_t low, GError **error);

/* The firmware configuration device, vmm/dev/pc/fw_cfg.h; boards add items to
 * p->fw_cfg. */
bool pc_boot_add_fw_cfg(struct pc_boot *p, struct vm *vm, GError **error);

/* The machine is complete: ready the kernel with its final command line, and what
 * firmware asks fw_cfg for. */
bool pc_boot_load(struct pc_boot *p, const char *cmdline, GError **error);

/* Write the images into memory and put the first processor where it starts. A failure
 * ends the VM. vCPUs are stopped and reset. */
void pc_boot_reset(struct pc_boot *p, struct vm *vm);

/* Fine after a failure, and when nothing was done. */
void pc_boot_done(struct pc_boot *p);

#endif
