#include "vmm/dev/pci/pci.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pci/pci_priv.h"
#include "vmm/vm/vm.h"

/*
 * Configuration space is a table of bytes, with a mask of what the guest may write and
 * one of what it clears by writing ones. A write changes the bytes; then whatever hangs
 * on them is decided anew from the bytes: where BARs are, whether DMA and INTx pass,
 * MSI, a bridge's windows, and at last the device's own hook.
 *
 * A BAR's registers move at once (aspace_map()). A BAR that is memory answers there as
 * well, slowly, through the same; that the guest's memory shows it, so that vCPUs
 * access it directly, follows when they are stopped for a moment (vm_change()), and
 * only where nothing else answers before it.
 */

/* ---- configuration space ---- */

uint32_t pci_config_get(struct pci_device *pd, unsigned off, unsigned len)
{
    uint32_t value = 0;
    if (off + len > pd->config_len) {
        return UINT32_MAX >> (32 - 8 * len);
    }
    if (pd->msi_cap) {
        pci_msi_read(pd, off, len);
    }
    if (pd->ops && pd->ops->config_read) {
        pd->ops->config_read(pd, off, len);
    }
    for (unsigned i = 0; i < len; i++) {
        value |= (uint32_t)pd->config[off + i] << (8 * i);
    }
    if (off <= PCI_STATUS && off + len > PCI_STATUS && pd->intx) {
        value |= (uint32_t)PCI_STATUS_INTX << (8 * (PCI_STATUS - off));
    }
    return value;
}

static bool touches(unsigned off, unsigned len, unsigned reg, unsigned reg_len)
{
    return off < reg + reg_len && reg < off + len;
}

static void keep_initial(struct pci_device *pd)
{
    if (!pd->has_initial) {
        memcpy(pd->initial, pd->config, pd->config_len);
        pd->has_initial = true;
    }
}

/* Everything that follows from the bytes in [off, off + len). */
static void config_changed(struct pci_device *pd, unsigned off, unsigned len)
{
    bool command = touches(off, len, PCI_COMMAND, 2);
    if (command) {
        bool master = le16_get(pd->config + PCI_COMMAND) & PCI_CMD_MASTER;
        atomic_store_explicit(&pd->master, master, memory_order_release);
    }
    if (command || touches(off, len, PCI_BAR0, 4 * PCI_BARS) ||
        touches(off, len, PCI_ROM, 4) || touches(off, len, PCI_BRIDGE_ROM, 4)) {
        pci_remap(pd);
    }
    if (pd->bridge) {
        pci_bridge_written(pd, off, len);
    }
    if (pd->msi_cap || pd->msix_cap) {
        pci_msi_written(pd, off, len);
    }
    pci_update_intx(pd);
    if (pd->ops && pd->ops->config_written) {
        pd->ops->config_written(pd, off, len);
    }
}

void pci_config_put(struct pci_device *pd, unsigned off, uint32_t value, unsigned len)
{
    if (off + len > pd->config_len) {
        return;
    }
    keep_initial(pd);
    for (unsigned i = 0; i < len; i++) {
        uint8_t *b = &pd->config[off + i], v = (uint8_t)(value >> (8 * i)),
                w = pd->writable[off + i];
        *b = (uint8_t)((*b & ~w) | (v & w));
        *b &= (uint8_t) ~(v & pd->w1c[off + i]);
    }
    config_changed(pd, off, len);
}

/* ---- where BARs are ---- */

static unsigned bar_register(const struct pci_device *pd, const struct pci_bar *b)
{
    if (b == &pd->rom) {
        return pd->bridge ? PCI_BRIDGE_ROM : PCI_ROM;
    }
    return PCI_BAR0 + 4 * (unsigned)(b - pd->bars);
}

/* Where the registers say that @b is, or PCI_NOWHERE. */
static uint64_t wanted_place(const struct pci_device *pd, const struct pci_bar *b)
{
    unsigned reg = bar_register(pd, b);
    uint16_t command = le16_get(pd->config + PCI_COMMAND);
    bool is_io = b->flags & PCI_BAR_IS_IO;
    uint64_t at = le32_get(pd->config + reg), top = UINT32_MAX;
    if (!(command & (is_io ? PCI_CMD_IO : PCI_CMD_MEMORY)) ||
        (b == &pd->rom && !(at & PCI_ROM_ON))) {
        return PCI_NOWHERE;
    }
    if (b->flags & PCI_BAR_IS_64) {
        at |= (uint64_t)le32_get(pd->config + reg + 4) << 32;
        top = UINT64_MAX;
    } else if (is_io) {
        top = UINT16_MAX;
    }
    at &= ~(b->region.len - 1);
    if (is_io) {
        at &= ~UINT64_C(3);
    }
    /* At 0 and at the very end there is nothing: guests ask for the size so. */
    if (at == 0 || at > top || b->region.len - 1 >= top - at ||
        !pci_bridge_forwards(pd->bus, at, b->region.len, b->flags)) {
        return PCI_NOWHERE;
    }
    return at;
}

static struct aspace *bar_space(const struct pci_device *pd, const struct pci_bar *b)
{
    struct vm *vm = pd->bus->host->vm;
    return b->flags & PCI_BAR_IS_IO ? vm->pio : vm->mmio;
}

static void move_bar(struct pci_device *pd, struct pci_bar *b, uint64_t at)
{
    if (at == b->at) {
        return;
    }
    b->at = at;
    if (at == PCI_NOWHERE) {
        aspace_unmap(bar_space(pd, b), &b->region);
    } else {
        aspace_map(bar_space(pd, b), &b->region, at, ASPACE_DEVICE);
    }
    if (pd->ops && pd->ops->bar_moved && b != &pd->rom) {
        pd->ops->bar_moved(pd, (unsigned)(b - pd->bars), at);
    }
    pd->bus->host->ram_moved = true;
}

void pci_remap(struct pci_device *pd)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *b = &pd->bars[i];
        if (b->region.len) {
            move_bar(pd, b, wanted_place(pd, b));
        }
    }
    if (pd->rom.region.len) {
        move_bar(pd, &pd->rom, wanted_place(pd, &pd->rom));
    }
}

void pci_remap_bus(struct pci_bus *bus)
{
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        if (pd) {
            pci_remap(pd);
            if (pd->bridge) {
                pci_remap_bus(&pd->bridge->bus);
            }
        }
    }
}

/* ---- BARs that are memory ---- */

static uint64_t ram_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pci_bar *b = opaque;
    uint8_t bytes[8] = {0};
    gmem_copy(bytes, gmem_block_host(b->ram) + off, len);
    return le64_get(bytes);
}

static void ram_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct pci_bar *b = opaque;
    uint8_t bytes[8];
    if (b->ram_kind == GMEM_ROM) {
        return;
    }
    le64_put(bytes, value);
    gmem_copy(gmem_block_host(b->ram) + off, bytes, len);
    for (uint64_t page = off >> GMEM_PAGE_SHIFT;
         page <= (off + len - 1) >> GMEM_PAGE_SHIFT; page++) {
        atomic_fetch_or_explicit(&gmem_block_dirty(b->ram)[page], 1,
                                 memory_order_relaxed);
    }
}

static const struct io_ops ram_ops = {.read = ram_read, .write = ram_write};

/* Where the guest's memory should show @b. Below a page it stays with the slow way. */
static uint64_t wanted_ram_place(const struct pci_device *pd, const struct pci_bar *b)
{
    if (b->at == PCI_NOWHERE || (b->at | b->region.len) % GMEM_PAGE_SIZE ||
        !aspace_shows(pd->bus->host->vm->mmio, &b->region)) {
        return PCI_NOWHERE;
    }
    return b->at;
}

typedef void (*ram_fn)(struct pci_device *pd, struct pci_bar *b);

static void for_each_ram(struct pci_bus *bus, ram_fn fn)
{
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        if (!pd) {
            continue;
        }
        for (unsigned n = 0; n <= PCI_BARS; n++) {
            struct pci_bar *b = n < PCI_BARS ? &pd->bars[n] : &pd->rom;
            if (b->ram) {
                fn(pd, b);
            }
        }
        if (pd->bridge) {
            for_each_ram(&pd->bridge->bus, fn);
        }
    }
}

static void hide_ram(struct pci_device *pd, struct pci_bar *b)
{
    if (b->ram_at != PCI_NOWHERE && b->ram_at != wanted_ram_place(pd, b)) {
        gmem_remove(pd->bus->host->vm->gmem, b->ram_at);
        b->ram_at = PCI_NOWHERE;
    }
}

static void show_ram(struct pci_device *pd, struct pci_bar *b)
{
    uint64_t at = wanted_ram_place(pd, b);
    /* Where RAM of the board is, or of another BAR, it is not shown. */
    if (at != b->ram_at && gmem_map(pd->bus->host->vm->gmem, b->ram, b->ram_kind, at, 0,
                                    b->region.len, NULL)) {
        b->ram_at = at;
    }
}

static void move_ram(void *opaque)
{
    struct pci_host *h = opaque;
    pci_lock(h);
    for_each_ram(&h->root, hide_ram);
    for_each_ram(&h->root, show_ram);
    g_mutex_unlock(&h->lock);
}

static bool any_ram_moved(struct pci_bus *bus)
{
    for (unsigned i = 0; i < ARRAY_LEN(bus->devices); i++) {
        struct pci_device *pd = bus->devices[i];
        for (unsigned n = 0; pd && n <= PCI_BARS; n++) {
            struct pci_bar *b = n < PCI_BARS ? &pd->bars[n] : &pd->rom;
            if (b->ram && b->ram_at != wanted_ram_place(pd, b)) {
                return true;
            }
        }
        if (pd && pd->bridge && any_ram_moved(&pd->bridge->bus)) {
            return true;
        }
    }
    return false;
}

void pci_unlock(struct pci_host *h)
{
    bool moved = h->ram_moved && any_ram_moved(&h->root);
    bool resets = h->resets_wanted;
    h->ram_moved = h->resets_wanted = false;
    g_mutex_unlock(&h->lock);
    if (moved) {
        vm_change(h->vm, move_ram, h);
    }
    if (resets) {
        vm_change(h->vm, pci_bridges_reset, h);
    }
}

/* ---- plugging ---- */

/* "5", "05.0", "0x5.1": hexadecimal, as users of QEMU write it. */
static bool parse_addr(const char *text, unsigned *ret_devfn)
{
    char *end;
    unsigned long slot = strtoul(text, &end, 16), function = 0;
    if (end == text || slot >= 32) {
        return false;
    }
    if (*end == '.') {
        const char *second = end + 1;
        function = strtoul(second, &end, 16);
        if (end == second || function >= 8) {
            return false;
        }
    }
    *ret_devfn = (unsigned)(slot << 3 | function);
    return *end == '\0';
}

static bool choose_place(struct pci_device *pd, struct pci_bus *bus,
                         const struct pci_setup *setup, GError **error)
{
    unsigned devfn = (unsigned)setup->devfn, last = bus->is_port ? 0 : 31;
    if (!setup->has_devfn && pd->opt_addr) {
        if (!parse_addr(pd->opt_addr, &devfn)) {
            return error_msg(error,
                             "addr=%s is not a slot, 0 to 1f, and a function, 0 to 7",
                             pd->opt_addr);
        }
        if (devfn >> 3 > last) {
            return error_msg(error, "bus '%s' has no slot but 0", bus->name);
        }
    } else if (!setup->has_devfn) {
        unsigned slot = bus->first_slot;
        while (slot <= last && bus->devices[slot << 3]) {
            slot++;
        }
        if (slot > last) {
            return error_msg(error, "no slot is free on bus '%s'", bus->name);
        }
        devfn = slot << 3;
    }
    struct pci_device *there = bus->devices[devfn], *first = bus->devices[devfn & ~7u];
    if (there) {
        return error_msg(error, "slot %x function %x of bus '%s' is taken by '%s'",
                         devfn >> 3, devfn & 7, bus->name, there->dev->id);
    }
    if ((devfn & 7) && first && !(first->config[PCI_HEADER_TYPE] & PCI_HEADER_MULTI)) {
        return error_msg(error,
                         "function 0 of slot %x of bus '%s', '%s', has no "
                         "multifunction=on",
                         devfn >> 3, bus->name, first->dev->id);
    }
    pd->devfn = (uint8_t)devfn;
    return true;
}

static void fill_header(struct pci_device *pd, const struct pci_setup *s)
{
    uint8_t *c = pd->config;
    bool own = s->subvendor || s->subsystem;
    le16_put(c + PCI_VENDOR_ID, s->vendor);
    le16_put(c + PCI_DEVICE_ID, s->device);
    c[PCI_REVISION] = s->revision;
    c[PCI_INTERFACE] = (uint8_t)s->class_code;
    c[PCI_SUBCLASS] = (uint8_t)(s->class_code >> 8);
    c[PCI_BASE_CLASS] = (uint8_t)(s->class_code >> 16);
    c[PCI_INTERRUPT_PIN] = s->irq_pin;
    if (s->multifunction || pd->opt_multifunction) {
        c[PCI_HEADER_TYPE] |= PCI_HEADER_MULTI;
    }
    if (s->class_code >> 8 != PCI_CLASS_BRIDGE >> 8) {
        le16_put(c + PCI_SUBVENDOR_ID, own ? s->subvendor : PCI_VENDOR_QUMRANET);
        le16_put(c + PCI_SUBSYSTEM_ID, own ? s->subsystem : PCI_SUBSYSTEM_QEMU);
    }
    le16_put(pd->writable + PCI_COMMAND, PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER |
                                             PCI_CMD_PARITY | PCI_CMD_SERR |
                                             PCI_CMD_INTX_OFF);
    le16_put(pd->w1c + PCI_STATUS, PCI_STATUS_ERRORS);
    pd->writable[PCI_CACHE_LINE] = 0xff;
    pd->writable[PCI_INTERRUPT_LINE] = 0xff;
}

/* PCI Express capability (7.8), version 2, of a device that promises little. */
static void add_express(struct pci_device *pd, uint8_t type)
{
    enum {
        LEN = 0x3c,
        DEV_CAP = 4,
        DEV_CTL = 8,
        DEV_STA = 10,
        LNK_CAP = 12,
        LNK_CTL = 16,
        LNK_STA = 18,
        DEV_CAP2 = 0x24,
        DEV_CTL2 = 0x28
    };
    unsigned off = pci_add_cap(pd, PCI_CAP_EXPRESS, LEN);
    uint8_t *c = pd->config + off;
    pd->express = off;
    le16_put(c + 2, (uint16_t)(2 | type << 4));
    le32_put(c + DEV_CAP, 1u << 15); /* role-based error reporting */
    le16_put(pd->writable + off + DEV_CTL, 0x78ff);
    le16_put(pd->w1c + off + DEV_STA, 0x000f);
    if (type != PCI_EXP_INTEGRATED) {
        le32_put(c + LNK_CAP, 1u << 4 | 1); /* one lane, 2.5 GT/s */
        le16_put(c + LNK_STA, 1u << 4 | 1);
        le16_put(pd->writable + off + LNK_CTL, 0x00c3);
    }
}

bool pci_plug(struct pci_device *pd, struct device *dev, const struct pci_setup *setup,
              GError **error)
{
    struct pci_host *h = dev->vm->pci;
    if (!h) {
        return error_msg(error, "the machine has no PCI bus");
    }
    struct pci_bus *bus = pci_bus_find(h, pd->opt_bus, error);
    pd->dev = dev;
    if (!bus || !choose_place(pd, bus, setup, error)) {
        return false;
    }
    pd->ops = setup->ops;
    pd->irq_pin = setup->irq_pin;
    pd->config_len =
        setup->is_express && bus->express ? PCI_EXPRESS_LEN : PCI_CONFIG_LEN;
    pd->caps_end = PCI_CAPS;
    g_mutex_init(&pd->msi_lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        pd->bars[i].at = pd->bars[i].ram_at = PCI_NOWHERE;
    }
    pd->rom.at = pd->rom.ram_at = PCI_NOWHERE;
    pd->pin_open = true;
    fill_header(pd, setup);
    pd->bus = bus;
    if (pd->config_len == PCI_EXPRESS_LEN) {
        uint8_t type = setup->express_type;
        add_express(pd, !bus->bridge && type == PCI_EXP_ENDPOINT ? PCI_EXP_INTEGRATED
                                                                 : type);
    }
    pci_lock(h);
    bus->devices[pd->devfn] = pd;
    pci_unlock(h);
    return true;
}

static void forget_bar(struct pci_device *pd, struct pci_bar *b)
{
    if (!b->region.len) {
        return;
    }
    aspace_unmap(bar_space(pd, b), &b->region);
    aspace_reserve(bar_space(pd, b), -1);
    if (b->ram_at != PCI_NOWHERE) {
        gmem_remove(pd->dev->vm->gmem, b->ram_at);
    }
    if (b->owns_ram) {
        gmem_block_free(b->ram);
    }
}

/* vCPUs are stopped, or there are none yet. */
void pci_unplug(struct pci_device *pd)
{
    if (!pd->bus) {
        return;
    }
    struct pci_host *h = pd->bus->host;
    pci_set_irq(pd, false);
    pci_lock(h);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        forget_bar(pd, &pd->bars[i]);
    }
    forget_bar(pd, &pd->rom);
    pd->bus->devices[pd->devfn] = NULL;
    g_mutex_unlock(&h->lock);
    g_mutex_clear(&pd->msi_lock);
    pd->bus = NULL;
}

void pci_reset(struct pci_device *pd)
{
    struct pci_host *h = pd->bus->host;
    pci_set_irq(pd, false);
    pci_lock(h);
    keep_initial(pd);
    memcpy(pd->config, pd->initial, pd->config_len);
    pci_msi_reset(pd);
    config_changed(pd, 0, pd->config_len);
    pci_unlock(h);
}

bool pci_is_behind_port(const struct pci_device *pd)
{
    return pd->bus->is_port;
}

/* ---- what a device consists of ---- */

void pci_add_bar(struct pci_device *pd, unsigned n, const struct pci_bar_setup *setup)
{
    struct pci_bar *b = &pd->bars[n];
    unsigned reg = PCI_BAR0 + 4 * n;
    uint64_t len = setup->ram ? gmem_block_len(setup->ram) : setup->len,
             mask = ~(len - 1);
    assert(n < PCI_BARS && !b->region.len && len >= 4 && (len & (len - 1)) == 0);
    b->pd = pd;
    b->flags = setup->flags;
    b->ram = setup->ram;
    b->ram_kind = GMEM_RAM;
    b->region = (struct io_region){
        .name = pd->dev->id,
        .len = len,
        .ops = setup->ram ? &ram_ops : setup->ops,
        .opaque = setup->ram ? b : setup->opaque,
    };
    le32_put(pd->config + reg, setup->flags);
    le32_put(pd->writable + reg,
             (uint32_t)mask & (setup->flags & PCI_BAR_IS_IO ? ~3u : ~15u));
    if (setup->flags & PCI_BAR_IS_64) {
        assert(n + 1 < PCI_BARS);
        le32_put(pd->writable + reg + 4, (uint32_t)(mask >> 32));
    }
    aspace_reserve(bar_space(pd, b), 1);
}

static uint64_t power_of_two_from(uint64_t len)
{
    uint64_t p = GMEM_PAGE_SIZE;
    while (p < len) {
        p *= 2;
    }
    return p;
}

bool pci_add_rom(struct pci_device *pd, const char *file, GError **error)
{
    bool named = pd->opt_romfile;
    const char *name = named ? pd->opt_romfile : file;
    g_autofree char *path = NULL, *bytes = NULL;
    gsize len;
    if (!name || !*name || !pd->opt_rombar) {
        return true;
    }
    path = vm_find_file(pd->dev->vm, name, named ? error : NULL);
    if (!path) {
        return !named;
    }
    if (!g_file_get_contents(path, &bytes, &len, error)) {
        return false;
    }
    if (len == 0 || len > 16 * MIB) {
        return error_msg(error, "romfile %s: %zu bytes are no option ROM", path, len);
    }
    struct pci_bar *b = &pd->rom;
    b->pd = pd;
    b->ram_kind = GMEM_ROM;
    b->owns_ram = true;
    b->ram = gmem_block_new(pd->dev->id, power_of_two_from(len), error);
    if (!b->ram) {
        return false;
    }
    memset(gmem_block_host(b->ram), 0xff, gmem_block_len(b->ram));
    memcpy(gmem_block_host(b->ram), bytes, len);
    b->region = (struct io_region){.name = pd->dev->id,
                                   .len = gmem_block_len(b->ram),
                                   .ops = &ram_ops,
                                   .opaque = b};
    le32_put(pd->writable + bar_register(pd, b),
             (uint32_t) ~(b->region.len - 1) | PCI_ROM_ON);
    aspace_reserve(bar_space(pd, b), 1);
    return true;
}

unsigned pci_add_cap(struct pci_device *pd, uint8_t id, unsigned len)
{
    unsigned off = pd->caps_end;
    assert(off + len <= PCI_CONFIG_LEN);
    pd->config[off] = id;
    pd->config[off + 1] = pd->config[PCI_CAP_LIST];
    pd->config[PCI_CAP_LIST] = (uint8_t)off;
    pd->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    pd->caps_end = ALIGN_UP(off + len, 4u);
    return off;
}

unsigned pci_add_ecap(struct pci_device *pd, uint16_t id, uint8_t version, unsigned len)
{
    enum { FIRST = 0x100 };
    if (pd->config_len < PCI_EXPRESS_LEN) {
        return 0;
    }
    unsigned off = pd->ecap_last ? pd->ecap_end : FIRST;
    assert(off + len <= PCI_EXPRESS_LEN);
    le32_put(pd->config + off, (uint32_t)id | (uint32_t)version << 16);
    if (pd->ecap_last) {
        uint8_t *before = pd->config + pd->ecap_last;
        le16_put(before + 2, (uint16_t)((before[2] & 0xf) | off << 4));
    }
    pd->ecap_last = off;
    pd->ecap_end = ALIGN_UP(off + len, 4u);
    return off;
}

unsigned pci_add_pm(struct pci_device *pd)
{
    unsigned off = pci_add_cap(pd, PCI_CAP_PM, 8);
    le16_put(pd->config + off + 2, 3);      /* version 1.2 */
    le16_put(pd->config + off + 4, 1 << 3); /* no soft reset from D3hot to D0 */
    le16_put(pd->writable + off + 4, 3);
    return off;
}

/* ---- DMA ---- */

int pci_dma_read(struct pci_device *pd, uint64_t addr, void *buf, size_t len)
{
    return pci_may_dma(pd) ? gmem_read(pd->dev->vm->gmem, addr, buf, len) : -EACCES;
}

int pci_dma_write(struct pci_device *pd, uint64_t addr, const void *buf, size_t len)
{
    return pci_may_dma(pd) ? gmem_write(pd->dev->vm->gmem, addr, buf, len) : -EACCES;
}

/* ---- names ---- */

char *pci_boot_path(const struct pci_device *pd, const char *name)
{
    g_autofree char *above = pd->bus->bridge
                                 ? pci_boot_path(pd->bus->bridge, "pci-bridge")
                                 : g_strdup("/pci@i0cf8");
    if (pci_function(pd)) {
        return g_strdup_printf("%s/%s@%x,%x", above, name, pci_slot(pd),
                               pci_function(pd));
    }
    return g_strdup_printf("%s/%s@%x", above, name, pci_slot(pd));
}

bool pci_add_boot_path(struct pci_device *pd, const char *name, const char *suffix,
                       GError **error)
{
    g_autofree char *path = pci_boot_path(pd, name);
    g_autofree char *all = g_strconcat(path, suffix, NULL);
    return vm_add_boot_path(pd->dev->vm, pd->bootindex, all, error);
}

/* ---- state ---- */

static const struct state_field msix_fields[] = {
    STATE_FIELD(U64, struct pci_msix_entry, addr),
    STATE_FIELD(U32, struct pci_msix_entry, data),
    STATE_FIELD(BOOL, struct pci_msix_entry, masked),
    STATE_FIELD(BOOL, struct pci_msix_entry, pending),
    {.name = NULL},
};

static const struct state_table msix_state = {
    .name = "msix", .version = 1, .fields = msix_fields};

static const struct state_field pci_fields[] = {
    STATE_BUFFER(struct pci_device, config),
    STATE_FIELD(U32, struct pci_device, msi_pending),
    STATE_FIELD(BOOL, struct pci_device, intx),
    {.name = "msix",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct pci_device, msix),
     .size = sizeof(struct pci_msix_entry),
     .count = PCI_MSIX_MAX,
     .table = &msix_state},
    {.name = NULL},
};

static bool post_load(void *object, unsigned version, GError **error)
{
    struct pci_device *pd = object;
    keep_initial(pd);
    for (unsigned i = 0; i < pd->config_len; i++) {
        uint8_t fixed = (uint8_t) ~(pd->writable[i] | pd->w1c[i]);
        if (i < PCI_CAPS && ((pd->config[i] ^ pd->initial[i]) & fixed)) {
            return error_msg(error, "configuration byte 0x%x is 0x%02x, not 0x%02x", i,
                             pd->config[i], pd->initial[i]);
        }
    }
    pci_lock(pd->bus->host);
    config_changed(pd, 0, pd->config_len);
    pci_unlock(pd->bus->host);
    return true;
}

const struct state_table pci_state = {
    .name = "pci", .version = 1, .fields = pci_fields, .post_load = post_load};
