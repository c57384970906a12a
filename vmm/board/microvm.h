#ifndef VMM_BOARD_MICROVM_H
#define VMM_BOARD_MICROVM_H

#include "vmm/board/board.h"

/*
 * A PC without PCI and without firmware of its own, as QEMU's machine of this name:
 * kernels are entered directly, disks and network are virtio-mmio devices.
 *
 *   0x00000000  RAM, at most 3 GiB; 0xe0000..0xfffff hold the ACPI tables
 *   0xfea00000  ACPI: events, sleep, reset
 *   0xfeb00000  virtio-mmio slots, 0x200 bytes each
 *   0xfec00000  IOAPIC, 24 inputs      0xfee00000  local APICs
 *   0xfffff000  ROM: code that resets the machine, for who jumps to the reset vector;
 *               -bios: that file, ending at 4 GiB, and its last 128 KiB below 1 MiB
 *   0x1_00000000  the rest of RAM
 *
 * Ports: 8259 pair, 8254, RTC, keyboard controller (reset), serial ports,
 * firmware configuration. There is no
 * 0xcf9: that port belongs to PCI chipsets, and a guest that probes for PCI writes
 * across it.
 *
 * With ACPI there are 16 virtio slots, on inputs 16..23 and then on ISA inputs that
 * nothing else uses. Without, 8 on ISA inputs as a legacy guest can reach them; the
 * kernel finds them by virtio_mmio.device= on its command line, which
 * auto-kernel-cmdline=on adds.
 */
extern const struct board_type microvm_board;

#endif
