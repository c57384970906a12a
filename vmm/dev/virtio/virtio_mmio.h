#ifndef VMM_DEV_VIRTIO_VIRTIO_MMIO_H
#define VMM_DEV_VIRTIO_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct vm;

/*
 * The virtio-mmio transport (virtio 1.2, section 4.2), for boards.
 *
 * A board makes as many slots as it has room for, before any user device is made.
 * A device of the bus "virtio-mmio" (virtio-blk-device, virtio-rng-device) plugs
 * itself into the free slot with the lowest number when it is made. An empty slot
 * answers with device ID 0, as the specification wants. Afterwards the board
 * describes the slots in ACPI (LNRO0005) or a device tree, the empty ones too or
 * not as it likes.
 *
 * The interrupt is level-triggered, active high.
 */

#define VIRTIO_MMIO_LEN 0x200 /* bytes of registers per slot */

/*
 * Make the next slot at guest-physical @base, on the board's interrupt input @gsi
 * (vm_gsi_line(); the board has set vm->gsi_fn). False with @error when the
 * addresses are taken. Thread: main, before the start.
 */
bool virtio_mmio_add(struct vm *vm, uint64_t base, unsigned gsi, GError **error);

struct virtio_mmio_slot {
    uint64_t base;
    unsigned gsi;
    uint32_t device_id; /* 2: block, 4: entropy; 0: nothing is plugged */
};

/* The slots in the order they were made: 0 .. count - 1. Thread: main. */
unsigned virtio_mmio_count(const struct vm *vm);
struct virtio_mmio_slot virtio_mmio_get(const struct vm *vm, unsigned index);

#endif
