#include "vmm/dev/display/vga.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/display/edid.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/display/console.h"
#include "vmm/vm/vm.h"

/*
 * The card: a struct vga behind PCI, ports, the window and BARs. Ports and window are
 * where the guest cannot move them; several cards may want them, so they are mapped as
 * what moves is, and the first card keeps them.
 */

enum {
    BAR_MEMORY = 0,
    BAR_REGISTERS = 2,
    REGISTERS_LEN = 4096,
    EDID_ROOM = 0x400,
    IBM_PORTS = 0x400, /* 0x3c0..0x3df */
    IBM_PORTS_LEN = 0x20,
    DISPI = 0x500,
    DISPI_LEN = 2 * DISPI_COUNT,
    EXTENSION = 0x600, /* its length, then the byte order */
    EXTENSION_LEN = 8,
    LITTLE_ENDIAN_SAYS = 0x1e1e1e1e,
    WINDOW_BASE = 0xa0000,
    WINDOW_LEN = 0x20000,
};

struct vga_card {
    struct device dev;
    struct pci_device pci;
    struct vga vga;
    struct gmem_block *memory;
    struct console *console;
    struct io_region ports[4], dispi_ports, window;
    bool mapped;
    uint32_t opt_mib, opt_xres, opt_yres;
    bool opt_edid;
    uint8_t edid[EDID_LEN];
};

static const struct {
    uint16_t base, len;
} port_ranges[] = {{0x3b4, 2}, {0x3ba, 1}, {0x3c0, 16}, {0x3d4, 7}};

static uint64_t ports_read(struct vga_card *k, unsigned port, unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len; i++)
        value |= (uint64_t)vga_port_read(&k->vga, port + i) << 8 * i;
    return value;
}

static void ports_write(struct vga_card *k, unsigned port, uint64_t value, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        vga_port_write(&k->vga, port + i, (uint8_t)(value >> 8 * i));
}

/* Each range of ports has functions of its own: they differ in their base. */
#define PORT_OPS(N)                                                           \
    static uint64_t read_##N(void *opaque, struct vcpu *vcpu, uint64_t off,   \
                             unsigned len)                                    \
    {                                                                         \
        return ports_read(opaque, port_ranges[N].base + (unsigned)off, len);  \
    }                                                                         \
    static void write_##N(void *opaque, struct vcpu *vcpu, uint64_t off,      \
                          uint64_t value, unsigned len)                       \
    {                                                                         \
        ports_write(opaque, port_ranges[N].base + (unsigned)off, value, len); \
    }
PORT_OPS(0)
PORT_OPS(1)
PORT_OPS(2)
PORT_OPS(3)

static const struct io_ops port_ops[ARRAY_LEN(port_ranges)] = {
    {.read = read_0, .write = write_0, .max_len = 2},
    {.read = read_1, .write = write_1, .max_len = 1},
    {.read = read_2, .write = write_2, .max_len = 2},
    {.read = read_3, .write = write_3, .max_len = 2},
};

/* Index at 0x1ce, data at 0x1cf, or at 0x1d0 for those who want it aligned. */
static uint64_t dispi_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct vga_card *k = opaque;
    uint16_t index;

    g_mutex_lock(&k->vga.lock);
    index = k->vga.r.dispi_index;
    g_mutex_unlock(&k->vga.lock);
    return off == 0 ? index : vga_dispi_read(&k->vga, index);
}

static void dispi_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct vga_card *k = opaque;
    uint16_t index;

    g_mutex_lock(&k->vga.lock);
    index = k->vga.r.dispi_index;
    if (off == 0)
        k->vga.r.dispi_index = (uint16_t)value;
    g_mutex_unlock(&k->vga.lock);
    if (off != 0)
        vga_dispi_write(&k->vga, index, (uint16_t)value);
}

static const struct io_ops dispi_ops = {
    .read = dispi_read, .write = dispi_write, .max_len = 2};

static uint64_t window_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct vga_card *k = opaque;
    uint64_t value = 0;

    g_mutex_lock(&k->vga.lock);
    for (unsigned i = 0; i < len; i++)
        value |= (uint64_t)vga_mem_read_locked(&k->vga, (uint32_t)off + i) << 8 * i;
    g_mutex_unlock(&k->vga.lock);
    return value;
}

static void window_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct vga_card *k = opaque;

    g_mutex_lock(&k->vga.lock);
    for (unsigned i = 0; i < len; i++)
        vga_mem_write_locked(&k->vga, (uint32_t)off + i, (uint8_t)(value >> 8 * i));
    g_mutex_unlock(&k->vga.lock);
}

static const struct io_ops window_ops = {.read = window_read, .write = window_write};

/* ---- BAR 2 ---- */

static uint8_t register_byte(struct vga_card *k, uint64_t off)
{
    if (off < EDID_ROOM)
        return k->opt_edid && off < EDID_LEN ? k->edid[off] : 0;
    if (off >= IBM_PORTS && off < IBM_PORTS + IBM_PORTS_LEN)
        return vga_port_read(&k->vga, 0x3c0 + (unsigned)(off - IBM_PORTS));
    if (off >= EXTENSION && off < EXTENSION + EXTENSION_LEN) {
        uint64_t all = EXTENSION_LEN | (uint64_t)LITTLE_ENDIAN_SAYS << 32;

        return (uint8_t)(all >> 8 * (off - EXTENSION));
    }
    return 0;
}

static bool is_dispi(uint64_t off)
{
    return off >= DISPI && off < DISPI + DISPI_LEN;
}

static uint64_t registers_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                               unsigned len)
{
    struct vga_card *k = opaque;
    uint64_t value = 0;

    for (unsigned i = 0; i < len; i++) {
        uint64_t at = off + i;
        uint8_t byte =
            is_dispi(at)
                ? (uint8_t)(vga_dispi_read(&k->vga, (at - DISPI) / 2) >> 8 * (at & 1))
                : register_byte(k, at);

        value |= (uint64_t)byte << 8 * i;
    }
    return value;
}

static void registers_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                            uint64_t value, unsigned len)
{
    struct vga_card *k = opaque;

    for (unsigned i = 0; i < len; i++) {
        uint64_t at = off + i;

        if (is_dispi(at)) {
            /* Whole registers; a single byte is written with zeros above it. */
            vga_dispi_write(&k->vga, (at - DISPI) / 2,
                            (uint16_t)(value >> 8 * i & (i + 1 < len ? 0xffff : 0xff)));
            i++;
        } else if (at >= IBM_PORTS && at < IBM_PORTS + IBM_PORTS_LEN) {
            vga_port_write(&k->vga, 0x3c0 + (unsigned)(at - IBM_PORTS),
                           (uint8_t)(value >> 8 * i));
        }
    }
}

static const struct io_ops registers_ops = {.read = registers_read,
                                            .write = registers_write};

/* ---- life ---- */

static void map_legacy(struct vga_card *k)
{
    struct vm *vm = k->dev.vm;

    aspace_reserve(vm->pio, ARRAY_LEN(port_ranges) + 1);
    aspace_reserve(vm->mmio, 1);
    k->mapped = true;
    for (unsigned i = 0; i < ARRAY_LEN(port_ranges); i++) {
        k->ports[i] = (struct io_region){.name = k->dev.id,
                                         .len = port_ranges[i].len,
                                         .ops = &port_ops[i],
                                         .opaque = k};
        aspace_map(vm->pio, &k->ports[i], port_ranges[i].base, ASPACE_BOARD);
    }
    k->dispi_ports =
        (struct io_region){.name = k->dev.id, .len = 4, .ops = &dispi_ops, .opaque = k};
    aspace_map(vm->pio, &k->dispi_ports, 0x1ce, ASPACE_BOARD);
    k->window = (struct io_region){
        .name = k->dev.id, .len = WINDOW_LEN, .ops = &window_ops, .opaque = k};
    aspace_map(vm->mmio, &k->window, WINDOW_BASE, ASPACE_BOARD);
}

static void unmap_legacy(struct vga_card *k)
{
    struct vm *vm = k->dev.vm;

    if (!k->mapped)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(port_ranges); i++)
        aspace_unmap(vm->pio, &k->ports[i]);
    aspace_unmap(vm->pio, &k->dispi_ports);
    aspace_unmap(vm->mmio, &k->window);
    aspace_reserve(vm->pio, -(int)(ARRAY_LEN(port_ranges) + 1));
    aspace_reserve(vm->mmio, -1);
}

static void refresh(void *opaque, struct console *c)
{
    struct vga_card *k = opaque;

    vga_draw(&k->vga, c);
}

static const struct console_ops console_ops = {.refresh = refresh};

static bool vga_card_init(struct device *dev, GError **error)
{
    struct vga_card *k = container_of(dev, struct vga_card, dev);
    struct vga *v = &k->vga;
    struct pci_setup setup = {
        .vendor = 0x1234, .device = 0x1111, .class_code = PCI_CLASS_VGA, .revision = 2};

    vga_init(v);
    if (k->opt_mib & (k->opt_mib - 1))
        return error_msg(error, "vgamem_mb=%u is not a power of two", k->opt_mib);
    if (!pci_plug(&k->pci, dev, &setup, error))
        return false;
    k->memory = gmem_block_new("vga.vram", k->opt_mib * MIB, error);
    if (!k->memory)
        return false;
    v->clock = dev->vm->clock;
    v->vram = gmem_block_host(k->memory);
    v->dirty = gmem_block_dirty(k->memory);
    v->vram_len = (uint32_t)gmem_block_len(k->memory);
    edid_make(k->edid, k->opt_xres, k->opt_yres);
    pci_add_bar(
        &k->pci, BAR_MEMORY,
        &(struct pci_bar_setup){.flags = PCI_BAR_IS_PREFETCH, .ram = k->memory});
    pci_add_bar(&k->pci, BAR_REGISTERS,
                &(struct pci_bar_setup){
                    .len = REGISTERS_LEN, .ops = &registers_ops, .opaque = k});
    if (!pci_add_rom(&k->pci, "vgabios-stdvga.bin", error))
        return false;
    map_legacy(k);
    if (dev->vm->display)
        k->console = console_new(dev->vm->display, dev->id, &console_ops, k);
    return true;
}

static void vga_card_done(struct device *dev)
{
    struct vga_card *k = container_of(dev, struct vga_card, dev);

    console_free(k->console);
    unmap_legacy(k);
    pci_unplug(&k->pci);
    gmem_block_free(k->memory);
    vga_done(&k->vga);
}

static void vga_card_reset(struct device *dev)
{
    struct vga_card *k = container_of(dev, struct vga_card, dev);

    pci_reset(&k->pci);
    vga_reset(&k->vga);
}

static const struct prop props[] = {
    {.name = "vgamem_mb",
     .type = PROP_U32,
     PROP_FIELD(struct vga_card, opt_mib),
     .def = 16,
     .min = 1,
     .max = 256,
     .help = "video memory in MiB, a power of two"},
    {.name = "edid",
     .type = PROP_BOOL,
     PROP_FIELD(struct vga_card, opt_edid),
     .def = 1,
     .help = "a description of the monitor"},
    {.name = "xres",
     .type = PROP_U32,
     PROP_FIELD(struct vga_card, opt_xres),
     .def = 1280,
     .min = 64,
     .max = 4095,
     .help = "the monitor's best width"},
    {.name = "yres",
     .type = PROP_U32,
     PROP_FIELD(struct vga_card, opt_yres),
     .def = 800,
     .min = 64,
     .max = 4095,
     .help = "and height"},
    PCI_PROPS(struct vga_card, pci),
    {0},
};

static const struct state_field fields[] = {
    PCI_STATE_FIELD(struct vga_card, pci),
    {.name = "vga",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct vga_card, vga.r),
     .size = sizeof(struct vga_regs),
     .table = &vga_core_state},
    {0},
};

static const struct state_table state = {.name = "VGA", .version = 1, .fields = fields};

const struct device_type vga_type = {
    .name = "VGA",
    .alias = "vga",
    .desc = "graphics card: VGA with Bochs's extensions",
    .bus = "PCI",
    .size = sizeof(struct vga_card),
    .props = props,
    .state = &state,
    .user = true,
    .init = vga_card_init,
    .done = vga_card_done,
    .reset = vga_card_reset,
};
