#include "vmm/dev/pci/pci_host.h"

#include <assert.h>
#include <string.h>

#include "lib/base/base.h"
#include "vmm/dev/pci/pci_priv.h"
#include "vmm/vm/vm.h"

/*
 * Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2): an address goes to port 0xcf8, of
 * 32 bits only, and 0xcfc to 0xcff are the four bytes of configuration space there.
 * ECAM (PCI Express 3.0, 7.2.2): the address is in the address.
 *
 * INTx. A pin is low or high; pins that end in the same PIRQ are counted, so that it is
 * high while one of them is. On the way up each bridge turns pins by the slot number
 * (PCI-to-PCI Bridge 1.2, 9.1).
 */

enum {
    PORTS = 0xcf8,
    PORTS_LEN = 8,
    RESET_PORT = 1, /* relative */
    DATA_PORT = 4,
    ADDRESS_ON = 1u << 31,
    ADDRESS_BITS = 0x80fffffc,
};

/* ---- finding functions ---- */

static struct pci_device *find_on(struct pci_bus *bus, uint8_t number, uint8_t wanted,
                                  uint8_t devfn)
{
    if (number == wanted) {
        return bus->devices[devfn];
    }
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        if (pd && pd->bridge) {
            uint8_t first = pd->config[PCI_SECONDARY_BUS],
                    last = pd->config[PCI_SUBORDINATE_BUS];
            /* A number that does not grow on the way down is no bus behind it. */
            if (first > number && wanted >= first && wanted <= last) {
                return find_on(&pd->bridge->bus, first, wanted, devfn);
            }
        }
    }
    return NULL;
}

struct pci_device *pci_find(struct pci_host *h, uint8_t bus, uint8_t devfn)
{
    return find_on(&h->root, 0, bus, devfn);
}

struct pci_device *pci_host_find(const struct pci_host *h, unsigned devfn)
{
    return devfn < ARRAY_LEN(h->root.devices) ? h->root.devices[devfn] : NULL;
}

static struct pci_bus *find_below(struct pci_bus *bus, const char *name)
{
    if (strcmp(bus->name, name) == 0) {
        return bus;
    }
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        struct pci_bus *found =
            pd && pd->bridge ? find_below(&pd->bridge->bus, name) : NULL;
        if (found) {
            return found;
        }
    }
    return NULL;
}

struct pci_bus *pci_bus_find(struct pci_host *h, const char *name, GError **error)
{
    struct pci_bus *bus = name ? find_below(&h->root, name) : &h->root;
    if (!bus) {
        error_msg(error, "there is no PCI bus '%s'; the root bus is '%s'", name,
                  h->root.name);
    }
    return bus;
}

uint32_t pci_host_read(struct pci_host *h, uint8_t bus, uint8_t devfn, unsigned off,
                       unsigned len)
{
    pci_lock(h);
    struct pci_device *pd = pci_find(h, bus, devfn);
    uint32_t value = pd ? pci_config_get(pd, off, len) : UINT32_MAX >> (32 - 8 * len);
    pci_unlock(h);
    return value;
}

void pci_host_write(struct pci_host *h, uint8_t bus, uint8_t devfn, unsigned off,
                    uint32_t value, unsigned len)
{
    pci_lock(h);
    struct pci_device *pd = pci_find(h, bus, devfn);
    if (pd) {
        pci_config_put(pd, off, value, len);
    }
    pci_unlock(h);
}

/* ---- the ports ---- */

static uint32_t address(struct pci_host *h)
{
    pci_lock(h);
    uint32_t a = h->address;
    g_mutex_unlock(&h->lock);
    return a;
}

static uint64_t all_ones(unsigned len)
{
    return UINT64_MAX >> (64 - 8 * len);
}

static uint64_t ports_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pci_host *h = opaque;
    uint32_t a = address(h);
    if (off < DATA_PORT) {
        if (off == RESET_PORT && len == 1 && h->reset_ops) {
            return h->reset_ops->read(h->reset_opaque, vcpu, 0, 1);
        }
        return off == 0 && len == 4 ? a : all_ones(len);
    }
    unsigned reg = (a & 0xfc) + ((unsigned)off - DATA_PORT);
    if (!(a & ADDRESS_ON) || (reg & 3) + len > 4) {
        return all_ones(len);
    }
    return pci_host_read(h, (uint8_t)(a >> 16), (uint8_t)(a >> 8), reg, len);
}

static void ports_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct pci_host *h = opaque;
    if (off < DATA_PORT) {
        if (off == 0 && len == 4) {
            pci_lock(h);
            h->address = (uint32_t)value & ADDRESS_BITS;
            g_mutex_unlock(&h->lock);
        } else if (off == RESET_PORT && len == 1 && h->reset_ops) {
            h->reset_ops->write(h->reset_opaque, vcpu, 0, value, 1);
        }
        return;
    }
    uint32_t a = address(h);
    unsigned reg = (a & 0xfc) + ((unsigned)off - DATA_PORT);
    if ((a & ADDRESS_ON) && (reg & 3) + len <= 4) {
        pci_host_write(h, (uint8_t)(a >> 16), (uint8_t)(a >> 8), reg, (uint32_t)value,
                       len);
    }
}

static const struct io_ops ports_ops = {
    .read = ports_read, .write = ports_write, .max_len = 4};

void pci_host_set_reset_port(struct pci_host *h, const struct io_ops *ops, void *opaque)
{
    h->reset_ops = ops;
    h->reset_opaque = opaque;
}

/* ---- ECAM ---- */

static uint64_t ecam_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    if ((off & 3) + len > 4) {
        return all_ones(len);
    }
    return pci_host_read(opaque, (uint8_t)(off >> 20), (uint8_t)(off >> 12),
                         off & 0xfff, len);
}

static void ecam_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    if ((off & 3) + len <= 4) {
        pci_host_write(opaque, (uint8_t)(off >> 20), (uint8_t)(off >> 12), off & 0xfff,
                       (uint32_t)value, len);
    }
}

static const struct io_ops ecam_ops = {
    .read = ecam_read, .write = ecam_write, .max_len = 4};

void pci_host_set_ecam(struct pci_host *h, uint64_t base, unsigned nb_buses)
{
    if (base == h->ecam_base && nb_buses == h->ecam_buses) {
        return;
    }
    h->ecam_base = base;
    h->ecam_buses = nb_buses;
    h->ram_moved = true;
    /* Another length is another region to those who are just looking: first it goes. */
    aspace_unmap(h->vm->mmio, &h->ecam);
    h->ecam.len = (uint64_t)nb_buses * MIB;
    if (nb_buses) {
        aspace_map(h->vm->mmio, &h->ecam, base, ASPACE_BOARD);
    }
}

void pci_host_get_ecam(const struct pci_host *h, uint64_t *ret_base,
                       unsigned *ret_nb_buses)
{
    *ret_base = h->ecam_base;
    *ret_nb_buses = h->ecam_buses;
}

/* ---- INTx ---- */

/* Which PIRQ the pin of @pd ends in. */
static unsigned pirq_of(const struct pci_device *pd)
{
    unsigned pin = pd->irq_pin - 1u;
    for (; pd->bus->bridge; pd = pd->bus->bridge) {
        pin = (pin + pci_slot(pd)) % 4;
    }
    struct pci_host *h = pd->bus->host;
    return h->route(h->irq_opaque, pci_slot(pd), pin) % PCI_PIRQS;
}

/* Caller holds irq_lock. */
static void update_locked(struct pci_device *pd, bool level)
{
    struct pci_host *h = pd->bus->host;
    if (level == pd->intx_seen || !h->route) {
        return;
    }
    if (level) {
        pd->pirq = (uint8_t)pirq_of(pd);
    }
    pd->intx_seen = level;
    unsigned n = pd->pirq;
    if (level ? h->asserted[n]++ == 0 : --h->asserted[n] == 0) {
        h->set_pirq(h->irq_opaque, n, level);
    }
}

static bool pin_is_open(struct pci_device *pd)
{
    return !(pd->config[PCI_COMMAND + 1] & (PCI_CMD_INTX_OFF >> 8)) &&
           !pci_has_messages(pd);
}

void pci_set_irq(struct pci_device *pd, bool level)
{
    if (!pd->irq_pin) {
        return;
    }
    struct pci_host *h = pd->bus->host;
    g_mutex_lock(&h->irq_lock);
    pd->intx = level;
    update_locked(pd, level && pd->pin_open);
    g_mutex_unlock(&h->irq_lock);
}

void pci_update_intx(struct pci_device *pd)
{
    if (!pd->irq_pin) {
        return;
    }
    struct pci_host *h = pd->bus->host;
    bool open = pin_is_open(pd);
    g_mutex_lock(&h->irq_lock);
    pd->pin_open = open;
    update_locked(pd, pd->intx && open);
    g_mutex_unlock(&h->irq_lock);
}

void pci_host_connect(struct pci_host *h, pci_route_fn route, irq_fn set, void *opaque)
{
    h->route = route;
    h->set_pirq = set;
    h->irq_opaque = opaque;
}

/* ---- life ---- */

bool pci_host_new(struct vm *vm, const struct pci_host_setup *setup, GError **error)
{
    struct pci_host *h = g_new0(struct pci_host, 1);
    h->vm = vm;
    h->setup = *setup;
    h->root = (struct pci_bus){.host = h,
                               .name = g_strdup(setup->bus),
                               .express = setup->express,
                               .first_slot = setup->first_slot};
    g_mutex_init(&h->lock);
    g_mutex_init(&h->irq_lock);
    h->ports = (struct io_region){.name = "pci-config",
                                  .base = PORTS,
                                  .len = PORTS_LEN,
                                  .ops = &ports_ops,
                                  .opaque = h};
    h->ecam = (struct io_region){.name = "pci-ecam", .ops = &ecam_ops, .opaque = h};
    vm->pci = h;
    aspace_reserve(vm->mmio, 1);
    if (!aspace_add(vm->pio, &h->ports, error)) {
        h->ports.len = 0;
        pci_host_free(vm);
        return false;
    }
    return true;
}

void pci_host_free(struct vm *vm)
{
    struct pci_host *h = vm->pci;
    if (!h) {
        return;
    }
    vm_change_cancel(vm, h);
    if (h->ports.len) {
        aspace_remove(vm->pio, &h->ports);
    }
    aspace_unmap(vm->mmio, &h->ecam);
    aspace_reserve(vm->mmio, -1);
    g_mutex_clear(&h->irq_lock);
    g_mutex_clear(&h->lock);
    g_free(h->root.name);
    g_free(h);
    vm->pci = NULL;
}

void pci_host_reset(struct pci_host *h)
{
    pci_lock(h);
    h->address = 0;
    pci_unlock(h);
}
