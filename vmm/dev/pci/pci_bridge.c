#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pci/pci_bridges.h"
#include "vmm/dev/pci/pci_priv.h"
#include "vmm/vm/vm.h"

/*
 * Bridges: a function with a bus behind it. Addresses pass downwards through three
 * windows, for ports, memory and prefetchable memory (PCI-to-PCI Bridge 1.2, 3.2.5),
 * DMA passes upwards if the bridge is a bus master. Ports of a root complex are such
 * bridges with one slot behind them (PCI Express 3.0, 7.1).
 */

struct bridge {
    struct device dev;
    struct pci_device pci;
    struct pci_bridge bus;
    uint8_t chassis;
    uint16_t slot;
    uint8_t port;
};

/* ---- windows. Under the configuration's lock. ---- */

struct window {
    uint64_t first, last; /* first > last: closed */
};

static bool holds(struct window w, uint64_t at, uint64_t len)
{
    return at >= w.first && at <= w.last && len - 1 <= w.last - at;
}

static struct window io_window(const uint8_t *c)
{
    return (struct window){(uint64_t)(c[PCI_IO_BASE] & 0xf0) << 8 |
                               (uint64_t)le16_get(c + PCI_IO_BASE_UPPER) << 16,
                           (uint64_t)(c[PCI_IO_LIMIT] & 0xf0) << 8 | 0xfff |
                               (uint64_t)le16_get(c + PCI_IO_LIMIT_UPPER) << 16};
}

static struct window memory_window(const uint8_t *c)
{
    return (struct window){(uint64_t)(le16_get(c + PCI_MEMORY_BASE) & 0xfff0) << 16,
                           (uint64_t)(le16_get(c + PCI_MEMORY_LIMIT) & 0xfff0) << 16 |
                               0xfffff};
}

static struct window prefetch_window(const uint8_t *c)
{
    return (struct window){(uint64_t)(le16_get(c + PCI_PREF_BASE) & 0xfff0) << 16 |
                               (uint64_t)le32_get(c + PCI_PREF_BASE_UPPER) << 32,
                           (uint64_t)(le16_get(c + PCI_PREF_LIMIT) & 0xfff0) << 16 |
                               0xfffff |
                               (uint64_t)le32_get(c + PCI_PREF_LIMIT_UPPER) << 32};
}

bool pci_bridge_forwards(const struct pci_bus *bus, uint64_t at, uint64_t len,
                         uint8_t flags)
{
    for (; bus->bridge; bus = bus->bridge->bus) {
        const uint8_t *c = bus->bridge->config;
        uint16_t command = le16_get(c + PCI_COMMAND);
        if (flags & PCI_BAR_IS_IO) {
            if (!(command & PCI_CMD_IO) || !holds(io_window(c), at, len)) {
                return false;
            }
        } else if (!(command & PCI_CMD_MEMORY) ||
                   !(holds(memory_window(c), at, len) ||
                     holds(prefetch_window(c), at, len))) {
            return false;
        }
    }
    return true;
}

static void reset_below(void *opaque)
{
    struct pci_bus *bus = &((struct pci_bridge *)opaque)->bus;
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        if (pd && pd->dev->type->reset) {
            pd->dev->type->reset(pd->dev);
        }
        if (pd && pd->bridge) {
            reset_below(pd->bridge);
        }
    }
}

void pci_bridge_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct pci_bridge *b = pd->bridge;
    bool reset = pd->config[PCI_BRIDGE_CONTROL] & PCI_BRIDGE_RESET;
    pci_remap_bus(&b->bus);
    if (reset && !b->in_reset) {
        b->reset_wanted = true;
        b->bus.host->resets_wanted = true;
    }
    b->in_reset = reset;
}

/* Secondary bus resets that were asked for, once the lock is released: devices take it
 * themselves. */
static void reset_wanted_on(struct pci_bus *bus)
{
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        if (!pd || !pd->bridge) {
            continue;
        }
        if (pd->bridge->reset_wanted) {
            pd->bridge->reset_wanted = false;
            reset_below(pd->bridge);
        }
        reset_wanted_on(&pd->bridge->bus);
    }
}

void pci_bridges_reset(void *opaque)
{
    reset_wanted_on(&((struct pci_host *)opaque)->root);
}

/* ---- devices ---- */

static void fill_bridge_header(struct pci_device *pd)
{
    uint8_t *c = pd->config, *w = pd->writable;
    c[PCI_HEADER_TYPE] |= PCI_HEADER_BRIDGE;
    w[PCI_PRIMARY_BUS] = w[PCI_SECONDARY_BUS] = w[PCI_SUBORDINATE_BUS] = 0xff;
    w[PCI_SECONDARY_LATENCY] = 0xff;
    c[PCI_IO_BASE] = c[PCI_IO_LIMIT] = 1; /* 32-bit addresses */
    w[PCI_IO_BASE] = w[PCI_IO_LIMIT] = 0xf0;
    le16_put(pd->w1c + PCI_SECONDARY_STATUS, PCI_STATUS_ERRORS);
    le16_put(w + PCI_MEMORY_BASE, 0xfff0);
    le16_put(w + PCI_MEMORY_LIMIT, 0xfff0);
    le16_put(c + PCI_PREF_BASE, 1); /* 64-bit addresses */
    le16_put(c + PCI_PREF_LIMIT, 1);
    le16_put(w + PCI_PREF_BASE, 0xfff0);
    le16_put(w + PCI_PREF_LIMIT, 0xfff0);
    memset(w + PCI_PREF_BASE_UPPER, 0xff, 12);
    le16_put(w + PCI_BRIDGE_CONTROL, 0x007f);
}

static bool bridge_plug(struct bridge *b, const struct pci_setup *setup, bool is_port,
                        GError **error)
{
    struct pci_device *pd = &b->pci;
    if (!pci_plug(pd, &b->dev, setup, error)) {
        return false;
    }
    b->bus.bus = (struct pci_bus){.host = pd->bus->host,
                                  .name = g_strdup(b->dev.id),
                                  .express = is_port,
                                  .is_port = is_port,
                                  .first_slot = is_port ? 0 : 1,
                                  .bridge = pd};
    fill_bridge_header(pd);
    pci_lock(pd->bus->host);
    pd->bridge = &b->bus;
    g_mutex_unlock(&pd->bus->host->lock);
    return true;
}

/* The slot's registers (7.8.9..): a card is in, and stays. */
static void fill_slot(struct bridge *b)
{
    enum {
        SLOT_CAP = 0x14,
        SLOT_CTL = 0x18,
        SLOT_STA = 0x1a,
        ROOT_CTL = 0x1c,
        SLOT_IMPLEMENTED = 1 << 8,
        PRESENT = 1 << 6
    };
    struct pci_device *pd = &b->pci;
    uint8_t *c = pd->config + pd->express, *w = pd->writable + pd->express;
    le16_put(c + 2, le16_get(c + 2) | SLOT_IMPLEMENTED);
    c[12 + 3] = b->port; /* port number of the link capabilities */
    le32_put(c + SLOT_CAP, (uint32_t)b->slot << 19);
    le16_put(w + SLOT_CTL, 0x0fff);
    le16_put(w + ROOT_CTL, 0x001f);
    le16_put(c + SLOT_STA, PRESENT);
}

static bool port_init(struct device *dev, GError **error)
{
    struct bridge *b = (struct bridge *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_REDHAT,
        .device = 0x000c,
        .class_code = PCI_CLASS_BRIDGE,
        .irq_pin = 1,
        .is_express = true,
        .express_type = PCI_EXP_ROOT_PORT,
    };
    if (!bridge_plug(b, &setup, true, error)) {
        return false;
    }
    if (!b->pci.express || b->pci.bus->bridge) {
        return error_msg(error, "a root port belongs on the root bus of PCI Express");
    }
    fill_slot(b);
    unsigned off = pci_add_cap(&b->pci, PCI_CAP_SUBSYSTEM, 8);
    le16_put(b->pci.config + off + 4, PCI_VENDOR_REDHAT);
    pci_add_msi(&b->pci, 0, true);
    return true;
}

static bool bridge_init(struct device *dev, GError **error)
{
    struct bridge *b = (struct bridge *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_REDHAT,
        .device = 0x0001,
        .class_code = PCI_CLASS_BRIDGE,
    };
    return bridge_plug(b, &setup, false, error);
}

static void bridge_done(struct device *dev)
{
    struct bridge *b = (struct bridge *)dev;
    pci_unplug(&b->pci);
    b->pci.bridge = NULL;
    g_free(b->bus.bus.name);
}

static void bridge_reset(struct device *dev)
{
    pci_reset(&((struct bridge *)dev)->pci);
}

static const struct prop port_props[] = {
    PCI_PROPS(struct bridge, pci),
    {.name = "chassis",
     .type = PROP_U8,
     PROP_FIELD(struct bridge, chassis),
     .help = "number of the chassis"},
    {.name = "slot",
     .type = PROP_U16,
     PROP_FIELD(struct bridge, slot),
     .max = 0x1fff,
     .help = "number of the slot, as the guest is told"},
    {.name = "port",
     .type = PROP_U8,
     PROP_FIELD(struct bridge, port),
     .help = "number of the port, as the guest is told"},
    {.name = NULL},
};

static const struct prop bridge_props[] = {
    PCI_PROPS(struct bridge, pci),
    {.name = "chassis_nr",
     .type = PROP_U8,
     PROP_FIELD(struct bridge, chassis),
     .help = "number of the chassis"},
    {.name = NULL},
};

static const struct state_field bridge_fields[] = {
    PCI_STATE_FIELD(struct bridge, pci),
    {.name = NULL},
};

static const struct state_table bridge_state = {
    .name = "pci-bridge", .version = 1, .fields = bridge_fields};

const struct device_type pcie_root_port_type = {
    .name = "pcie-root-port",
    .desc = "a PCI Express port with one slot",
    .bus = "PCI",
    .size = sizeof(struct bridge),
    .props = port_props,
    .state = &bridge_state,
    .user = true,
    .init = port_init,
    .done = bridge_done,
    .reset = bridge_reset,
};

const struct device_type pci_bridge_type = {
    .name = "pci-bridge",
    .desc = "a bridge to another PCI bus",
    .bus = "PCI",
    .size = sizeof(struct bridge),
    .props = bridge_props,
    .state = &bridge_state,
    .user = true,
    .init = bridge_init,
    .done = bridge_done,
    .reset = bridge_reset,
};
