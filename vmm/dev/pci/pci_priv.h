#ifndef VMM_DEV_PCI_PCI_PRIV_H
#define VMM_DEV_PCI_PCI_PRIV_H

#include "vmm/dev/pci/pci.h"
#include "vmm/dev/pci/pci_host.h"

struct pci_bus {
    struct pci_host *host;
    char *name;
    bool express, is_port;     /* is_port: below a port, one slot */
    uint8_t first_slot;        /* of those that are given out */
    struct pci_device *bridge; /* whose secondary bus it is; NULL: the root */
    struct pci_device *devices[256];
};

struct pci_bridge {
    struct pci_bus bus;
    bool in_reset, reset_wanted; /* of the secondary bus */
};

struct pci_host {
    struct vm *vm;
    struct pci_bus root;
    struct pci_host_setup setup;

    GMutex lock; /* guards configuration space and what it decides */
    uint32_t address;
    uint64_t ecam_base;
    unsigned ecam_buses;
    bool ram_moved;     /* what the guest's memory shows is not what BARs say */
    bool resets_wanted; /* of a bridge */

    GMutex irq_lock; /* guards what follows and pci_device.intx */
    unsigned asserted[PCI_PIRQS];
    pci_route_fn route; /* NULL: not connected */
    irq_fn set_pirq;
    void *irq_opaque;

    struct io_region ports, ecam;
    const struct io_ops *reset_ops;
    void *reset_opaque;
};

static inline void pci_lock(struct pci_host *h)
{
    g_mutex_lock(&h->lock);
}

/* Releases the lock; then does what is to be done without it: moving memory, resets. */
void pci_unlock(struct pci_host *h);

/* The bus named @name, NULL: the root. */
struct pci_bus *pci_bus_find(struct pci_host *h, const char *name, GError **error);

/* ---- under the configuration's lock ---- */

/* The function that answers to this address, or NULL. */
struct pci_device *pci_find(struct pci_host *h, uint8_t bus, uint8_t devfn);

uint32_t pci_config_get(struct pci_device *pd, unsigned off, unsigned len);
void pci_config_put(struct pci_device *pd, unsigned off, uint32_t value, unsigned len);

/* Decide again where the BARs of @pd are, and of everything below it. */
void pci_remap(struct pci_device *pd);
void pci_remap_bus(struct pci_bus *bus);

/* Whether a device on @bus is reached at [at, at + len): every bridge above forwards
 * it. */
bool pci_bridge_forwards(const struct pci_bus *bus, uint64_t at, uint64_t len,
                         uint8_t flags);
void pci_bridge_written(struct pci_device *pd, unsigned off, unsigned len);
/* For vm_change(), of a host: do the resets that bridges were asked for. */
void pci_bridges_reset(void *opaque);

/* ---- pci_msi.c ---- */

void pci_msi_written(struct pci_device *pd, unsigned off, unsigned len);
/* Bring the pending bits of MSI into pd->config. */
void pci_msi_read(struct pci_device *pd, unsigned off, unsigned len);
void pci_msi_reset(struct pci_device *pd);

/* ---- pci_host.c ---- */

/* Let the pin's level out, or not, as the command register says now. */
void pci_update_intx(struct pci_device *pd);

#endif
