#ifndef VMM_DEV_DISPLAY_VGA_H
#define VMM_DEV_DISPLAY_VGA_H

struct device_type;

/*
 * "VGA": a graphics card on PCI, 1234:1111, that is a VGA with the Bochs extensions.
 *
 *   ports 0x3b4..0x3da and memory 0xa0000..0xbffff as the IBM VGA's
 *   ports 0x1ce (index) and 0x1cf (data): "dispi", modes of up to 32 bits per pixel
 *   BAR 0: the video memory
 *   BAR 2: 4 KiB of registers: EDID at 0, ports 0x3c0..0x3df at 0x400, dispi's 16-bit
 *          registers at 0x500
 *
 * Its option ROM is SeaBIOS's vgabios-stdvga.bin. Of several cards the first has the
 * ports and the memory below 1 MiB.
 *
 * Spec: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; VBE dispi
 * interface of Bochs; VESA E-EDID 1.4.
 */
extern const struct device_type vga_type;

#endif
