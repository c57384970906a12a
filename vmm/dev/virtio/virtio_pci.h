#ifndef VMM_DEV_VIRTIO_VIRTIO_PCI_H
#define VMM_DEV_VIRTIO_VIRTIO_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/dev/pci/pci.h"
#include "vmm/dev/virtio/virtio.h"

/*
 * Virtio over PCI (virtio 1.2, section 4.1), with the interface of before version 1.0
 * beside it (transitional devices, 4.1.4.8), as drivers of firmware and old systems use
 * it.
 *
 * A device FOO that has its own struct virtio_device makes a PCI device of itself in a
 * struct around it:
 *
 *     struct foo_pci { struct foo foo; struct virtio_pci pci; };
 *
 * with VIRTIO_PCI_PROPS(struct foo_pci, pci) in the properties, VIRTIO_PCI_STATE in the
 * state, virtio_pci_plug() at the end of init() where others call virtio_mmio_plug(),
 * virtio_pci_unplug() at the beginning of done(), and virtio_pci_reset() as reset().
 */

enum virtio_pci_legacy {
    VIRTIO_PCI_LEGACY_AUTO,
    VIRTIO_PCI_LEGACY_ON,
    VIRTIO_PCI_LEGACY_OFF
};

struct virtio_pci {
    struct pci_device pci;
    struct virtio_device *vdev; /* NULL: not plugged */

    unsigned disable_legacy; /* "auto", "on", "off" */
    bool disable_modern;
    uint32_t vectors; /* MSI-X; 0: none; UINT32_MAX: as many as are of use */

    bool legacy, modern; /* what there is */
    unsigned window;     /* offset of the window in configuration space; 0: none */

    GMutex lock; /* guards the selectors */
    uint32_t device_features_sel, driver_features_sel;
    uint16_t queue_sel;
    uint16_t queue_size[VIRTIO_QUEUES_MAX];
    _Atomic uint16_t config_vector, queue_vector[VIRTIO_QUEUES_MAX];
};

extern const char *const virtio_pci_on_off_auto[];

/* clang-format off */
#define VIRTIO_PCI_PROPS(TYPE, MEMBER)                                                 \
    PCI_PROPS(TYPE, MEMBER.pci),                                                       \
    {.name = "disable-legacy", .type = PROP_ENUM,                                      \
     PROP_FIELD(TYPE, MEMBER.disable_legacy), .values = virtio_pci_on_off_auto,        \
     .help = "without the interface of before 1.0; auto: behind a PCI Express port"},  \
    {.name = "disable-modern", .type = PROP_BOOL,                                      \
     PROP_FIELD(TYPE, MEMBER.disable_modern), .help = "without that of 1.0"},          \
    {.name = "vectors", .type = PROP_U32, PROP_FIELD(TYPE, MEMBER.vectors),            \
     .def = UINT32_MAX, .help = "MSI-X vectors; 0: none"}
/* clang-format on */

/* A field of the state of a device whose virtio_pci is MEMBER. */
extern const struct state_table virtio_pci_state;
#define VIRTIO_PCI_STATE(TYPE, MEMBER)                                                \
    {                                                                                 \
        .name = "virtio-pci", .kind = STATE_STRUCT, .offset = offsetof(TYPE, MEMBER), \
        .size = sizeof(struct virtio_pci), .table = &virtio_pci_state                 \
    }

/* Put @vdev, which virtio_init() has filled, on the bus. @class_code as PCI_CLASS_....
 * False with @error as pci_plug(). Thread: main. */
bool virtio_pci_plug(struct virtio_pci *p, struct virtio_device *vdev,
                     uint32_t class_code, GError **error);
/* Fine after a failure, and when it was never plugged. */
void virtio_pci_unplug(struct virtio_pci *p);
/* The function and the device behind it. vCPUs are stopped. */
void virtio_pci_reset(struct virtio_pci *p);

#endif
