#ifndef VMM_DEV_VIRTIO_VIRTIO_DEVICES_H
#define VMM_DEV_VIRTIO_VIRTIO_DEVICES_H

#include "vmm/vm/device.h"

/* The virtio devices of the bus "virtio-mmio", for vmm/dev/devices.c. */
extern const struct device_type virtio_blk_device_type;
extern const struct device_type virtio_rng_device_type;

/* ... and of the bus PCI. */
extern const struct device_type virtio_blk_pci_type;
extern const struct device_type virtio_rng_pci_type;

#endif
