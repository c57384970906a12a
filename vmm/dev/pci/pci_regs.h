#ifndef VMM_DEV_PCI_PCI_REGS_H
#define VMM_DEV_PCI_PCI_REGS_H

/* Configuration space: offsets and bits (PCI Local Bus 3.0 chapter 6, PCI Express Base
 * 3.0 chapter 7, PCI-to-PCI Bridge 1.2 chapter 3). Only what is used here. */

enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_INTERFACE = 0x09,
    PCI_SUBCLASS = 0x0a,
    PCI_BASE_CLASS = 0x0b,
    PCI_CACHE_LINE = 0x0c,
    PCI_LATENCY = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBVENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM = 0x30,
    PCI_CAP_LIST = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_CAPS = 0x40, /* where capabilities may begin */

    /* Header type 1: bridges. */
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_SECONDARY_LATENCY = 0x1b,
    PCI_IO_BASE = 0x1c,
    PCI_IO_LIMIT = 0x1d,
    PCI_SECONDARY_STATUS = 0x1e,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREF_BASE = 0x24,
    PCI_PREF_LIMIT = 0x26,
    PCI_PREF_BASE_UPPER = 0x28,
    PCI_PREF_LIMIT_UPPER = 0x2c,
    PCI_IO_BASE_UPPER = 0x30,
    PCI_IO_LIMIT_UPPER = 0x32,
    PCI_BRIDGE_ROM = 0x38,
    PCI_BRIDGE_CONTROL = 0x3e,
};

enum {
    PCI_CMD_IO = 1 << 0,
    PCI_CMD_MEMORY = 1 << 1,
    PCI_CMD_MASTER = 1 << 2,
    PCI_CMD_PARITY = 1 << 6,
    PCI_CMD_SERR = 1 << 8,
    PCI_CMD_INTX_OFF = 1 << 10,

    PCI_STATUS_INTX = 1 << 3,
    PCI_STATUS_CAPS = 1 << 4,
    PCI_STATUS_66MHZ = 1 << 5,
    PCI_STATUS_FAST_BACK = 1 << 7,
    PCI_STATUS_MEDIUM = 1 << 9, /* DEVSEL timing */
    PCI_STATUS_ERRORS = 0xf900, /* written with 1 to clear */

    PCI_HEADER_BRIDGE = 0x01,
    PCI_HEADER_MULTI = 0x80,

    PCI_BAR_IS_IO = 1 << 0,
    PCI_BAR_IS_64 = 1 << 2,
    PCI_BAR_IS_PREFETCH = 1 << 3,
    PCI_ROM_ON = 1 << 0,

    PCI_BRIDGE_RESET = 1 << 6, /* of bridge control */
};

/* Identifiers of capabilities. */
enum {
    PCI_CAP_PM = 0x01,
    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_SUBSYSTEM = 0x0d,
    PCI_CAP_EXPRESS = 0x10,
    PCI_CAP_MSIX = 0x11,
    PCI_CAP_SATA = 0x12,
    PCI_ECAP_AER = 0x0001,
    PCI_ECAP_SERIAL = 0x0003,
    PCI_ECAP_ACS = 0x000d,
    PCI_ECAP_ARI = 0x000e,
};

/* Device/port types of the PCI Express capability. */
enum {
    PCI_EXP_ENDPOINT = 0x0,
    PCI_EXP_LEGACY = 0x1,
    PCI_EXP_ROOT_PORT = 0x4,
    PCI_EXP_INTEGRATED = 0x9, /* root complex integrated endpoint */
};

/* Classes, with the programming interface: the upper 24 bits of the register. */
enum {
    PCI_CLASS_IDE = 0x010180, /* both channels in compatibility mode, bus master */
    PCI_CLASS_SCSI = 0x010000,
    PCI_CLASS_AHCI = 0x010601,
    PCI_CLASS_NVME = 0x010802,
    PCI_CLASS_ETHERNET = 0x020000,
    PCI_CLASS_VGA = 0x030000,
    PCI_CLASS_DISPLAY = 0x038000,
    PCI_CLASS_AUDIO = 0x040300,
    PCI_CLASS_HOST = 0x060000,
    PCI_CLASS_ISA = 0x060100,
    PCI_CLASS_BRIDGE = 0x060400,
    PCI_CLASS_OTHER_BRIDGE = 0x068000,
    PCI_CLASS_SERIAL = 0x070002,
    PCI_CLASS_OTHER_COMM = 0x078000,
    PCI_CLASS_SMBUS = 0x0c0500,
    PCI_CLASS_XHCI = 0x0c0330,
    PCI_CLASS_EHCI = 0x0c0320,
    PCI_CLASS_UHCI = 0x0c0300,
    PCI_CLASS_OTHER = 0x00ff00, /* not VGA-compatible, before there were classes */
};

enum {
    PCI_VENDOR_INTEL = 0x8086,
    PCI_VENDOR_REDHAT = 0x1b36,
    PCI_VENDOR_QUMRANET = 0x1af4, /* virtio, and subsystems of virtual machines */
    PCI_SUBSYSTEM_QEMU = 0x1100,
};

#endif
