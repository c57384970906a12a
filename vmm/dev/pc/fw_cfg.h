#ifndef VMM_DEV_PC_FW_CFG_H
#define VMM_DEV_PC_FW_CFG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

struct device;
struct device_type;

/*
 * The firmware configuration device: named and numbered items that firmware, option
 * ROMs and operating systems read from the VMM. QEMU, docs/specs/fw_cfg.
 *
 *   0x510  selector, 16 bits, write only     0x511  data, a byte at a time
 *   0x514  DMA: address of a request, 64 bits, big endian, two halves of 32
 *
 * Items are added by the board before the guest runs and when it is stopped; what
 * guests read is bytes held here or what a callback gives. One such device is one per
 * machine; it is no -device.
 */
extern const struct device_type fw_cfg_type;

#define FW_CFG_IO_BASE 0x510
#define FW_CFG_IO_LEN  12

/* Numbers of items; little-endian values. */
enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00, /* "QEMU": the device itself has it */
    FW_CFG_ID = 0x01,        /* u32: 1 ports, 2 DMA: likewise */
    FW_CFG_UUID = 0x02,      /* 16 bytes */
    FW_CFG_RAM_SIZE = 0x03,  /* u64 */
    FW_CFG_NOGRAPHIC = 0x04, /* u16 */
    FW_CFG_NB_CPUS = 0x05,   /* u16 */
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_KERNEL_CMDLINE = 0x09,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e, /* u16 */
    FW_CFG_MAX_CPUS = 0x0f,  /* u16: one more than the highest APIC ID */
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19, /* the device's */
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH_LOCAL = 0x8000,
    FW_CFG_ACPI_TABLES = 0x8000,
    FW_CFG_SMBIOS_ENTRIES = 0x8001,
    FW_CFG_IRQ0_OVERRIDE = 0x8002, /* u32: 1, the timer is IOAPIC input 2 */
};

#define FW_CFG_FILES_MAX 256 /* names in the directory */
#define FW_CFG_NAME_MAX  55  /* bytes of a file's name */

/*
 * What an item holds: @len bytes at @bytes, which are copied, or, where @read is set,
 * bytes that it gives. The callbacks run on the vCPU's thread, without the device's
 * lock; any may be NULL.
 */
struct fw_cfg_content {
    const void *bytes;
    uint32_t len;
    bool writable; /* the guest may change the bytes, by DMA; not with @read */

    /* Give [off, off + len), which lies within the item. False: the guest's request
     * fails. */
    bool (*read)(void *opaque, uint32_t off, void *buf, uint32_t len);
    /* The guest selected the item: fw_cfg_set() or fw_cfg_set_file() may renew it. */
    void (*selected)(void *opaque);
    /* The guest wrote [off, off + len), which @bytes has. */
    void (*written)(void *opaque, const uint8_t *bytes, uint32_t off, uint32_t len);
    void *opaque;
};

/* Give item @key, below FW_CFG_FILE_FIRST or from FW_CFG_ARCH_LOCAL on, its content, in
 * the place of what it had. */
void fw_cfg_set(struct device *dev, uint16_t key, const struct fw_cfg_content *content);
void fw_cfg_set_bytes(struct device *dev, uint16_t key, const void *bytes,
                      uint32_t len);
void fw_cfg_set_u16(struct device *dev, uint16_t key, uint16_t value);
void fw_cfg_set_u32(struct device *dev, uint16_t key, uint32_t value);
void fw_cfg_set_u64(struct device *dev, uint16_t key, uint64_t value);
/* With its terminating zero. */
void fw_cfg_set_string(struct device *dev, uint16_t key, const char *text);

/*
 * Add the file @name, or renew its content. Files have numbers from FW_CFG_FILE_FIRST
 * on in the order of their names: add all of them before the guest runs. False with
 * @error when the name is too long, empty or not ASCII, or the directory is full.
 */
bool fw_cfg_set_file(struct device *dev, const char *name,
                     const struct fw_cfg_content *content, GError **error);

/* Whether the file is there. */
bool fw_cfg_has_file(struct device *dev, const char *name);

#endif
