#include "vmm/dev/devices.h"

#include <stddef.h>

#include "vmm/dev/display/vga.h"
#include "vmm/dev/pc/chipset.h"
#include "vmm/dev/pc/ferr.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/hpet.h"
#include "vmm/dev/pc/i8042.h"
#include "vmm/dev/pc/i8254.h"
#include "vmm/dev/pc/i8259.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/isa_debug.h"
#include "vmm/dev/pc/isa_serial.h"
#include "vmm/dev/pc/mc146818.h"
#include "vmm/dev/pc/pc_reset.h"
#include "vmm/dev/pc/pc_testdev.h"
#include "vmm/dev/pci/pci_bridges.h"
#include "vmm/dev/virtio/virtio_devices.h"

/* clang-format off */
const struct device_type *const device_types[] = {
    &fw_cfg_type,
    &hpet_type,
    &i8042_type,
    &i8254_type,
    &i8259_type,
    &i440fx_type,
    &ich9_lpc_type,
    &ich9_smbus_type,
    &ioapic_type,
    &isa_debug_exit_type,
    &isa_debugcon_type,
    &isa_serial_type,
    &mc146818rtc_type,
    &ferr_type,
    &pc_reset_type,
    &pc_testdev_type,
    &piix3_type,
    &piix4_pm_type,
    &q35_mch_type,
    &pci_bridge_type,
    &pcie_root_port_type,
    &vga_type,
    &virtio_blk_device_type,
    &virtio_blk_pci_type,
    &virtio_rng_device_type,
    &virtio_rng_pci_type,
    NULL,
};
/* clang-format on */
