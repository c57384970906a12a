#ifndef VMM_DEV_VIRTIO_VIRTIO_MMIO_PRIV_H
#define VMM_DEV_VIRTIO_VIRTIO_MMIO_PRIV_H

#include <stdbool.h>

#include <glib.h>

struct virtio_device;

/* Plug @vdev into the free slot with the lowest number; false with @error when there
 * is none. Unplugging what is not plugged is fine. Thread: main, vCPUs stopped. */
bool virtio_mmio_plug(struct virtio_device *vdev, GError **error);
void virtio_mmio_unplug(struct virtio_device *vdev);

#endif
