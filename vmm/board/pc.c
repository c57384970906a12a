#include "vmm/board/pc.h"

#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/cpu_model.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/board/boot_order.h"
#include "vmm/board/pc_acpi.h"
#include "vmm/board/pc_boot.h"
#include "vmm/board/smbios.h"
#include "vmm/chardev/chardev.h"
#include "vmm/dev/pc/acpi_pm.h"
#include "vmm/dev/pc/chipset.h"
#include "vmm/dev/pc/ferr.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/hpet.h"
#include "vmm/dev/pc/i8042.h"
#include "vmm/dev/pc/i8254.h"
#include "vmm/dev/pc/i8259.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/isa_serial.h"
#include "vmm/dev/pc/mc146818.h"
#include "vmm/dev/pc/pc_irqs.h"
#include "vmm/dev/pc/pc_reset.h"
#include "vmm/dev/pci/pci_host.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/device.h"
#include "vmm/vm/vm.h"

#define HIGH_RAM (4 * GIB)

/* What the two chipsets differ in, for a board. */
struct chipset {
    /* RAM below 4 GiB: @small when there is no more than that, @large otherwise. */
    uint64_t small_low, large_low;
    const struct device_type *host_bridge, *south_bridge;
    const struct device_type *power; /* NULL: the south bridge has it */
    const struct device_type *smbus; /* NULL: the power management has it */
};

struct pc {
    struct board board;
    const struct chipset *chipset;
    bool acpi, hpet, smbus;
    uint64_t max_low; /* -machine max-ram-below-4g; 0: the chipset's */

    struct boot_order order;
    bool started; /* reset once: order.then counts */

    struct pc_irqs irqs;
    struct device *pm, *rtc;
    struct pc_boot boot;
};

static const struct chipset i440fx = {
    .small_low = 0xe0000000,
    .large_low = 0xc0000000,
    .host_bridge = &i440fx_type,
    .south_bridge = &piix3_type,
    .power = &piix4_pm_type,
};

static const struct chipset q35 = {
    .small_low = 0xb0000000,
    .large_low = 0x80000000,
    .host_bridge = &q35_mch_type,
    .south_bridge = &ich9_lpc_type,
    .smbus = &ich9_smbus_type,
};

static struct pc *pc_of(struct board *b)
{
    return container_of(b, struct pc, board);
}

static uint64_t low_ram(const struct pc *m)
{
    uint64_t small = m->chipset->small_low, large = m->chipset->large_low;

    if (m->max_low)
        small = large = MIN(m->max_low, small);
    return m->board.config.memory > small ? large : small;
}

static bool pc_check(struct board *b, GError **error)
{
    struct pc *m = pc_of(b);

    for (size_t i = 0; i < json_array_size(b->config.smbios); i++) {
        if (!smbios_check(json_array_get(b->config.smbios, i), error)) {
            g_prefix_error(error, "-smbios: ");
            return false;
        }
    }
    if (!boot_order_parse(b->config.boot, &m->order, error)) {
        g_prefix_error(error, "-boot: ");
        return false;
    }
    m->boot.config = &b->config;
    m->boot.chipset = true;
    m->boot.entry = PC_BOOT_ENTRY_FIRMWARE;
    if (!b->config.bios && b->config.kernel)
        return error_msg(error,
                         "-kernel is started by firmware, of which there is none");
    if (!b->config.bios)
        m->boot.entry = PC_BOOT_ENTRY_AUTO;
    if (b->config.memory < MIB)
        return error_msg(error, "-m: machine '%s' needs at least 1 MiB", b->type->name);
    if (m->max_low && (m->max_low < MIB || m->max_low % (64 * KIB) != 0))
        return error_msg(error,
                         "max-ram-below-4g is a multiple of 64 KiB, from 1 MiB on");
    if (!x86_e820_add(&m->boot.map, 0, 0xa0000, X86_E820_RAM) ||
        !x86_e820_add(&m->boot.map, MIB, MIN(b->config.memory, low_ram(m)) - MIB,
                      X86_E820_RAM))
        return error_msg(error, "memory of %" PRIu64 " bytes makes no memory map",
                         b->config.memory);
    return pc_boot_check(&m->boot, error);
}

/* ---- devices ---- */

static struct device *make(struct pc *m, const struct device_type *type, GError **error)
{
    return device_new(m->board.vm, type, NULL, NULL, error);
}

static void *resolve_chardev(void *opaque, const char *id, GError **error)
{
    return opaque;
}

static bool add_serials(struct pc *m, GError **error)
{
    for (unsigned n = 0; n < BOARD_SERIALS; n++) {
        struct chardev *cd = m->board.serial[n];
        struct device_resolver resolver = {.opaque = cd, .chardev = resolve_chardev};
        json_t *options;
        bool ok;

        if (!cd)
            continue;
        options = json_pack("{s:i, s:s}", "index", n, "chardev", chardev_get_id(cd));
        ok = device_new(m->board.vm, &isa_serial_type, options, &resolver, error);
        json_decref(options);
        if (!ok)
            return false;
    }
    return true;
}

static bool add_irq_controllers(struct pc *m, GError **error)
{
    struct device *pic = make(m, &i8259_type, error), *ioapic;

    if (!pic)
        return false;
    ioapic = make(m, &ioapic_type, error);
    if (!ioapic || !lapic_map(m->board.vm, error))
        return false;
    pc_irqs_connect(&m->irqs, m->board.vm, pic, ioapic);
    return make(m, &ferr_type, error) != NULL;
}

static bool add_chipset(struct pc *m, GError **error)
{
    const struct chipset *c = m->chipset;
    struct device *south;

    if (!make(m, c->host_bridge, error))
        return false;
    south = make(m, c->south_bridge, error);
    m->pm = south && c->power ? make(m, c->power, error) : south;
    if (!m->pm || (c->smbus && m->smbus && !make(m, c->smbus, error)))
        return false;
    return make(m, &pc_reset_type, error) != NULL;
}

static void set_a20(void *opaque, unsigned input, bool level)
{
    x86_accel_set_a20(opaque, level);
}

static bool add_legacy(struct pc *m, GError **error)
{
    struct irq_line a20 = {.fn = set_a20, .opaque = m->board.vm};
    struct device *kbc, *hpet;

    if (!make(m, &i8254_type, error))
        return false;
    m->rtc = make(m, &mc146818rtc_type, error);
    kbc = m->rtc ? make(m, &i8042_type, error) : NULL;
    if (!kbc)
        return false;
    i8042_set_a20_line(kbc, a20);
    i8042_plug(kbc);
    if (m->hpet) {
        hpet = make(m, &hpet_type, error);
        if (!hpet)
            return false;
        hpet_connect(hpet, &m->irqs);
    }
    return add_serials(m, error);
}

static bool pc_build(struct board *b, GError **error)
{
    struct pc *m = pc_of(b);

    return pc_boot_add_memory(&m->boot, b->vm, low_ram(m), error) &&
           add_irq_controllers(m, error) && add_chipset(m, error) &&
           add_legacy(m, error) && pc_boot_add_fw_cfg(&m->boot, b->vm, error);
}

/* ---- what firmware is told ---- */

static void set_cmos16(struct pc *m, unsigned index, uint64_t value)
{
    uint64_t v = MIN(value, UINT16_MAX);

    mc146818_set(m->rtc, index, (uint8_t)v);
    mc146818_set(m->rtc, index + 1, (uint8_t)(v >> 8));
}

/* Sizes of memory and the order of booting, where BIOSes have looked since the PC/AT
 * and Bochs. */
static void fill_cmos(struct pc *m)
{
    enum {
        EQUIPMENT = 0x14,
        BASE_KIB = 0x15,
        EXTENDED_KIB = 0x17,
        ACTUAL_KIB = 0x30,
        ABOVE_16M = 0x34,
        ABOVE_4G = 0x5b,
        MORE_CPUS = 0x5f,
        HAS_FPU = 1 << 1,
        HAS_MOUSE = 1 << 2,
    };
    uint64_t low = m->boot.low, high = m->board.config.memory - low;

    mc146818_set(m->rtc, EQUIPMENT, HAS_FPU | HAS_MOUSE);
    set_cmos16(m, BASE_KIB, 640);
    set_cmos16(m, EXTENDED_KIB, (low - MIB) / KIB);
    set_cmos16(m, ACTUAL_KIB, (low - MIB) / KIB);
    set_cmos16(m, ABOVE_16M, low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0);
    set_cmos16(m, ABOVE_4G, high / (64 * KIB) & 0xffff);
    mc146818_set(m->rtc, ABOVE_4G + 2, (uint8_t)(high / (64 * KIB) >> 16));
    mc146818_set(m->rtc, MORE_CPUS, (uint8_t)(m->board.config.nb_cpus - 1));
}

/* Bochs's: two kinds of drives in one byte, the third in another, whose lowest bit says
 * that floppies are taken without looking whether they are bootable. */
static void set_boot_order(struct pc *m, const uint8_t kinds[BOOT_KINDS])
{
    enum { THIRD = 0x38, FIRST = 0x3d, NO_FLOPPY_CHECK = 1 };

    mc146818_set(m->rtc, THIRD, (uint8_t)(kinds[2] << 4 | NO_FLOPPY_CHECK));
    mc146818_set(m->rtc, FIRST, (uint8_t)(kinds[1] << 4 | kinds[0]));
}

static bool set_file(struct pc *m, const char *name, const void *bytes, uint32_t len,
                     GError **error)
{
    struct fw_cfg_content c = {.bytes = bytes, .len = len};

    return fw_cfg_has_file(m->boot.fw_cfg, name) ||
           fw_cfg_set_file(m->boot.fw_cfg, name, &c, error);
}

#define KERNEL_ROM "genroms/linuxboot_dma.bin"

/* The firmware's order of booting: -kernel, then what has a bootindex. */
static bool add_boot_order(struct pc *m, GError **error)
{
    g_autofree char *devices = vm_boot_order(m->board.vm);
    g_autofree char *all = NULL;
    const char *rom = m->board.config.kernel ? "/rom@" KERNEL_ROM : "";

    all = g_strconcat(rom, *rom && *devices ? "\n" : "", devices, NULL);
    return !*all || set_file(m, "bootorder", all, strlen(all) + 1, error);
}

/* How long firmware shows its picture, and when it tries again after a failure. */
static bool add_waits(struct pc *m, GError **error)
{
    uint8_t splash[2], reboot[4];

    le16_put(splash, m->order.splash_time);
    le32_put(reboot, (uint32_t)m->order.reboot_timeout);
    fw_cfg_set_u16(m->boot.fw_cfg, FW_CFG_BOOT_MENU, m->order.menu);
    return (!m->order.has_splash_time ||
            set_file(m, "etc/boot-menu-wait", splash, sizeof(splash), error)) &&
           set_file(m, "etc/boot-fail-wait", reboot, sizeof(reboot), error);
}

/* Which sleep states there are: S5 alone (bit 7: disabled, bits 0..2 the type). */
static bool add_sleep_states(struct pc *m, GError **error)
{
    static const uint8_t states[6] = {0x80, 0, 0, 0, 0, 0x80};

    return set_file(m, "etc/system-states", states, sizeof(states), error);
}

/* -kernel: an option ROM that fetches the kernel from fw_cfg and starts it. */
static bool add_kernel_rom(struct pc *m, GError **error)
{
    static const char name[] = "linuxboot_dma.bin";
    g_autofree char *path = NULL, *bytes = NULL;
    gsize len;

    if (!m->board.config.kernel || fw_cfg_has_file(m->boot.fw_cfg, KERNEL_ROM))
        return true;
    path = vm_find_file(m->board.vm, name, error);
    if (!path) {
        g_prefix_error(error,
                       "-kernel: the option ROM %s (Debian's package "
                       "qemu-system-data has it): ",
                       name);
        return false;
    }
    return g_file_get_contents(path, &bytes, &len, error) &&
           set_file(m, KERNEL_ROM, bytes, len, error);
}

static const struct {
    uint16_t port;
    uint8_t irq;
} com_ports[BOARD_SERIALS] = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}};

static unsigned list_devices(const struct pc *m, struct acpi_device *devices)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BOARD_SERIALS; i++) {
        if (m->board.serial[i])
            devices[n++] = (struct acpi_device){ACPI_SERIAL, com_ports[i].port, 8,
                                                com_ports[i].irq};
    }
    devices[n++] = (struct acpi_device){ACPI_RTC, 0x70, 2, 8};
    devices[n++] = (struct acpi_device){ACPI_KEYBOARD, 0x60, 1, 1};
    devices[n++] = (struct acpi_device){ACPI_MOUSE, 0, 0, 12};
    devices[n++] = (struct acpi_device){ACPI_FW_CFG, FW_CFG_IO_BASE, FW_CFG_IO_LEN, 0};
    return n;
}

/* With what firmware has put where until now. */
static void build_tables(struct pc *m, struct pc_acpi *ret)
{
    const struct acpi_pm *pm = chipset_pm(m->pm);
    const struct x86_cpu_model *cpu = m->board.vm->cpu_model;
    struct acpi_device devices[BOARD_SERIALS + 4];
    struct pc_acpi_machine machine = {
        .nb_cpus = m->board.vm->nb_vcpus,
        .is_q35 = m->chipset == &q35,
        .has_hpet = m->hpet,
        .pm_base = chipset_pm_base(m->pm),
        .gpe_base = chipset_gpe_base(m->pm),
        .gpe_len = pm->gpe_len,
        .acpi_enable = pm->enable_value,
        .acpi_disable = pm->disable_value,
        .low_memory = m->boot.low,
        .high_memory = m->board.config.memory - m->boot.low,
        .phys_bits = cpu->phys_bits,
        .devices = devices,
        .nb_devices = list_devices(m, devices),
    };

    pci_host_get_ecam(m->board.vm->pci, &machine.ecam_base, &machine.ecam_buses);
    if (machine.ecam_buses == 0) {
        machine.ecam_base = Q35_ECAM_BASE;
        machine.ecam_buses = Q35_ECAM_BUSES;
    }
    pc_acpi_build(&machine, ret);
}

#define TABLES_FILE "etc/acpi/tables"

static void renew_tables(void *opaque);

static bool set_tables(struct pc *m, const GByteArray *tables, GError **error)
{
    struct fw_cfg_content c = {.bytes = tables->data,
                               .len = tables->len,
                               .selected = renew_tables,
                               .opaque = m};

    return fw_cfg_set_file(m->boot.fw_cfg, TABLES_FILE, &c, error);
}

/* The guest is about to read them: firmware has set up the chipset by now. */
static void renew_tables(void *opaque)
{
    struct pc *m = opaque;
    struct pc_acpi t;

    build_tables(m, &t);
    set_tables(m, t.tables, NULL);
    pc_acpi_done(&t);
}

static bool add_tables(struct pc *m, GError **error)
{
    struct pc_acpi t;
    bool ok;

    if (!m->acpi || fw_cfg_has_file(m->boot.fw_cfg, "etc/table-loader"))
        return true;
    build_tables(m, &t);
    ok = set_tables(m, t.tables, error) &&
         set_file(m, "etc/acpi/rsdp", t.rsdp->data, t.rsdp->len, error) &&
         set_file(m, "etc/table-loader", t.loader->data, t.loader->len, error);
    pc_acpi_done(&t);
    return ok;
}

static bool add_smbios(struct pc *m, GError **error)
{
    const struct x86_cpu_model *cpu = m->board.vm->cpu_model;
    bool is_q35 = m->chipset == &q35;
    struct smbios_machine machine = {
        .product = is_q35 ? "Standard PC (Q35 + ICH9, 2009)"
                          : "Standard PC (i440FX + PIIX, 1996)",
        .version = m->board.type->alias,
        .uuid = m->board.config.uuid,
        .nb_cpus = m->board.config.nb_cpus,
        .cores = cpu->topo.cores,
        .threads = cpu->topo.threads,
        .cpu_id = x86_cpu_signature(cpu),
        .low_memory = m->boot.low,
        .high_memory = m->board.config.memory - m->boot.low,
        .options = m->board.config.smbios,
    };
    struct smbios s;
    bool ok;

    smbios_build(&machine, &s);
    ok =
        set_file(m, "etc/smbios/smbios-tables", s.tables->data, s.tables->len, error) &&
        set_file(m, "etc/smbios/smbios-anchor", s.anchor->data, s.anchor->len, error);
    smbios_done(&s);
    return ok;
}

static bool pc_finish(struct board *b, GError **error)
{
    struct pc *m = pc_of(b);

    fill_cmos(m);
    /* What the user gives with -fw_cfg comes first. */
    return pc_boot_load(&m->boot, b->config.cmdline, error) &&
           add_boot_order(m, error) && add_waits(m, error) &&
           add_sleep_states(m, error) && add_kernel_rom(m, error) &&
           add_tables(m, error) && add_smbios(m, error);
}

/* ---- life ---- */

static void pc_reset(struct board *b)
{
    struct pc *m = pc_of(b);

    set_boot_order(m, m->started ? m->order.then : m->order.first);
    m->started = true;
    pc_irqs_ready(&m->irqs);
    pc_boot_reset(&m->boot, b->vm);
}

static void pc_power_button(struct board *b)
{
    acpi_pm_power_button(chipset_pm(pc_of(b)->pm));
}

static void pc_done(struct board *b)
{
    struct pc *m = pc_of(b);

    pc_boot_done(&m->boot);
}

static const struct prop pc_props[] = {
    {"acpi", PROP_BOOL, PROP_FIELD(struct pc, acpi), .def = true,
     .help = "ACPI tables"},
    {"hpet", PROP_BOOL, PROP_FIELD(struct pc, hpet), .def = true,
     .help = "a high precision event timer"},
    {"smbus", PROP_BOOL, PROP_FIELD(struct pc, smbus), .def = true,
     .help = "q35: an SMBus controller"},
    {"max-ram-below-4g", PROP_SIZE, PROP_FIELD(struct pc, max_low),
     .help = "most memory below 4 GiB; 0: as the chipset has it"},
    {NULL},
};

static bool i440fx_check(struct board *b, GError **error)
{
    pc_of(b)->chipset = &i440fx;
    return pc_check(b, error);
}

static bool q35_check(struct board *b, GError **error)
{
    pc_of(b)->chipset = &q35;
    return pc_check(b, error);
}

/* What both boards have. */
#define PC_BOARD                                                                       \
    .max_cpus = 255, .default_memory = 128 * MIB, .default_cpu = "qemu64",             \
    .disk_device = "virtio-blk-pci", .vga_device = "VGA", .firmware = "bios-256k.bin", \
    .props = pc_props, .size = sizeof(struct pc), .build = pc_build,                   \
    .finish = pc_finish, .reset = pc_reset, .power_button = pc_power_button,           \
    .done = pc_done

const struct board_type pc_board = {
    .name = "pc",
    .alias = "pc-i440fx-7.2",
    .desc = "PCI: chipset i440FX and PIIX3, started by firmware",
    .check = i440fx_check,
    PC_BOARD,
};

const struct board_type q35_board = {
    .name = "q35",
    .alias = "pc-q35-7.2",
    .desc = "PCI Express: chipset Q35 and ICH9, started by firmware",
    .check = q35_check,
    PC_BOARD,
};
