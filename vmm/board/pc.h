#ifndef VMM_BOARD_PC_H
#define VMM_BOARD_PC_H

#include "vmm/board/board.h"

/*
 * PCs with PCI, started by firmware: "pc" with the chipset i440FX and PIIX3, "q35" with
 * Q35 and ICH9 (vmm/dev/pc/chipset.h).
 *
 *   0x00000000  RAM to 640 KiB; 0xa0000 is for video cards; from 0xc0000 on RAM or ROM
 *               as the host bridge shows them; from 1 MiB on RAM
 *               pc: to 3.5 GiB, or 3 when there is more; q35: to 2.75 GiB, or 2
 *   above       PCI; q35: ECAM at 0xb0000000, where firmware puts it
 *   0xfec00000  IOAPIC, 24 inputs      0xfed00000  HPET
 *   0xfee00000  local APICs, messages  4 GiB - n   the firmware
 *   0x1_00000000  the rest of RAM, then PCI
 *
 * Ports: 8259 pair, 8254, clock, keyboard controller, serial ports, 0x92, firmware
 * configuration, PCI's configuration; power management where firmware puts it.
 */
extern const struct board_type pc_board, q35_board;

#endif
