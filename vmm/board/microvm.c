#include "vmm/board/microvm.h"

#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/board/acpi.h"
#include "vmm/board/ged.h"
#include "vmm/board/pc_boot.h"
#include "vmm/chardev/chardev.h"
#include "vmm/dev/pc/ferr.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/i8042.h"
#include "vmm/dev/pc/i8254.h"
#include "vmm/dev/pc/i8259.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/isa_serial.h"
#include "vmm/dev/pc/mc146818.h"
#include "vmm/dev/pc/pc_irqs.h"
#include "vmm/dev/virtio/virtio_mmio.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

#define LOW_RAM_MAX (3 * GIB)
#define HIGH_RAM    (4 * GIB)
#define EBDA        0x9fc00
#define ACPI_TABLES 0xe0000
#define GED_BASE    0xfea00000
#define GED_GSI     9
#define VIRTIO_BASE 0xfeb00000
#define SLOTS_MAX   16

/* Inputs of the slots, in the order in which they are filled. */
static const uint8_t acpi_gsis[] = {16, 17, 18, 19, 20, 21, 22, 23,
                                    5,  6,  7,  10, 11, 12, 14, 15};
static const uint8_t isa_gsis[] = {5, 6, 7, 9, 10, 11, 12, 15};

static const struct {
    uint16_t port;
    uint8_t irq;
} com_ports[BOARD_SERIALS] = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}};

enum on_off_auto { ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF };

static const char *const on_off_auto[] = {"auto", "on", "off", NULL};

struct microvm {
    struct board board;
    unsigned pit, pic, rtc, acpi; /* enum on_off_auto; auto is on */
    bool isa_serial, auto_cmdline, option_roms;

    struct pc_irqs irqs;
    struct device *ged;
    struct pc_boot boot;
    GByteArray *tables; /* ACPI, written at each reset */
};

static bool is_on(unsigned on_off)
{
    return on_off != ON_OFF_AUTO_OFF;
}

/* boot image */

static bool memory_map(const struct microvm *m, struct x86_e820 *map)
{
    uint64_t memory = m->board.config.memory, low = MIN(memory, LOW_RAM_MAX);
    bool ok = x86_e820_add(map, 0, MIN(low, EBDA), X86_E820_RAM);

    if (low <= MIB)
        return ok;
    ok &= x86_e820_add(map, EBDA, 0xa0000 - EBDA, X86_E820_RESERVED);
    ok &= x86_e820_add(map, ACPI_TABLES, MIB - ACPI_TABLES,
                       is_on(m->acpi) ? X86_E820_ACPI : X86_E820_RESERVED);
    ok &= x86_e820_add(map, MIB, low - MIB, X86_E820_RAM);
    ok &= x86_e820_add(map, HIGH_RAM, memory - low, X86_E820_RAM);
    return ok;
}

static bool microvm_check(struct board *b, GError **error)
{
    struct microvm *m = container_of(b, struct microvm, board);

    m->boot.config = &b->config;
    m->boot.rsdp = is_on(m->acpi) ? ACPI_TABLES : 0;
    if (!memory_map(m, &m->boot.map))
        return error_msg(error, "memory of %" PRIu64 " bytes makes no memory map",
                         b->config.memory);
    return pc_boot_check(&m->boot, error);
}

/* devices */

/* A device with options given as json_pack() makes them (taken). */
static struct device *make(struct microvm *m, const struct device_type *type,
                           json_t *options, GError **error)
{
    struct device *dev = device_new(m->board.vm, type, options, NULL, error);

    json_decref(options);
    return dev;
}

static void *resolve_chardev(void *opaque, const char *id, GError **error)
{
    return opaque;
}

static bool add_serial(struct microvm *m, unsigned n, GError **error)
{
    struct chardev *cd = m->board.serial[n];
    struct device_resolver resolver = {.opaque = cd, .chardev = resolve_chardev};
    json_t *options;
    bool ok;

    if (!cd)
        return true;
    options = json_pack("{s:i, s:s}", "index", n, "chardev", chardev_get_id(cd));
    ok = device_new(m->board.vm, &isa_serial_type, options, &resolver, error);
    json_decref(options);
    return ok;
}

static bool add_irq_controllers(struct microvm *m, GError **error)
{
    struct device *pic = NULL, *ioapic;

    if (is_on(m->pic)) {
        pic = make(m, &i8259_type, json_object(), error);
        if (!pic)
            return false;
    }
    ioapic = make(m, &ioapic_type, json_object(), error);
    if (!ioapic || !lapic_map(m->board.vm, error))
        return false;
    pc_irqs_connect(&m->irqs, m->board.vm, pic, ioapic);
    return make(m, &ferr_type, json_object(), error) != NULL;
}

static void set_a20(void *opaque, unsigned input, bool level)
{
    x86_accel_set_a20(opaque, level);
}

static bool add_legacy(struct microvm *m, GError **error)
{
    struct device *kbc;

    if (is_on(m->pit) && !make(m, &i8254_type, json_object(), error))
        return false;
    if (is_on(m->rtc) && !make(m, &mc146818rtc_type, json_object(), error))
        return false;
    kbc = make(m, &i8042_type, json_object(), error);
    if (!kbc)
        return false;
    i8042_set_a20_line(kbc, (struct irq_line){.fn = set_a20, .opaque = m->board.vm});
    for (unsigned i = 0; m->isa_serial && i < BOARD_SERIALS; i++) {
        if (!add_serial(m, i, error))
            return false;
    }
    return true;
}

static bool add_virtio_slots(struct microvm *m, GError **error)
{
    const uint8_t *gsis = is_on(m->acpi) ? acpi_gsis : isa_gsis;
    size_t n = is_on(m->acpi) ? ARRAY_LEN(acpi_gsis) : ARRAY_LEN(isa_gsis);

    for (size_t i = 0; i < n; i++) {
        if (!virtio_mmio_add(m->board.vm, VIRTIO_BASE + i * VIRTIO_MMIO_LEN, gsis[i],
                             error))
            return false;
    }
    return true;
}

static bool microvm_build(struct board *b, GError **error)
{
    struct microvm *m = container_of(b, struct microvm, board);

    if (!pc_boot_add_memory(&m->boot, b->vm, LOW_RAM_MAX, error))
        return false;
    if (!add_irq_controllers(m, error) || !add_legacy(m, error) ||
        !pc_boot_add_fw_cfg(&m->boot, b->vm, error) || !add_virtio_slots(m, error))
        return false;
    if (is_on(m->acpi)) {
        m->ged =
            make(m, &ged_type,
                 json_pack("{s:I, s:i}", "base", (json_int_t)GED_BASE, "gsi", GED_GSI),
                 error);
        return m->ged != NULL;
    }
    return true;
}

/* what the guest is told */

static GByteArray *make_tables(struct microvm *m)
{
    struct acpi_device devices[BOARD_SERIALS + 2 + SLOTS_MAX];
    struct acpi_machine machine = {
        .nb_cpus = m->board.vm->nb_vcpus,
        .has_pic = is_on(m->pic),
        .has_rtc = is_on(m->rtc),
        .ioapic_base = IOAPIC_BASE,
        .ged_base = GED_BASE,
        .ged_gsi = GED_GSI,
        .devices = devices,
    };
    unsigned n = 0;

    for (unsigned i = 0; m->isa_serial && i < BOARD_SERIALS; i++) {
        if (m->board.serial[i])
            devices[n++] = (struct acpi_device){ACPI_SERIAL, com_ports[i].port, 8,
                                                com_ports[i].irq};
    }
    if (is_on(m->rtc))
        devices[n++] = (struct acpi_device){ACPI_RTC, 0x70, 8, 8};
    devices[n++] = (struct acpi_device){ACPI_FW_CFG, FW_CFG_IO_BASE, FW_CFG_IO_LEN, 0};
    for (unsigned i = 0; i < virtio_mmio_count(m->board.vm); i++) {
        struct virtio_mmio_slot s = virtio_mmio_get(m->board.vm, i);

        if (s.device_id != 0)
            devices[n++] =
                (struct acpi_device){ACPI_VIRTIO, s.base, VIRTIO_MMIO_LEN, s.gsi};
    }
    machine.nb_devices = n;
    return acpi_build(&machine, ACPI_TABLES);
}

/* Without ACPI the kernel learns of its devices from its command line
 * (Linux, Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device=). */
static char *make_cmdline(struct microvm *m)
{
    GString *s = g_string_new(m->board.config.cmdline ?: "");

    for (unsigned i = 0; i < virtio_mmio_count(m->board.vm); i++) {
        struct virtio_mmio_slot slot = virtio_mmio_get(m->board.vm, i);

        if (slot.device_id != 0 && m->auto_cmdline && !is_on(m->acpi))
            g_string_append_printf(s, "%svirtio_mmio.device=%u@0x%" PRIx64 ":%u",
                                   s->len ? " " : "", VIRTIO_MMIO_LEN, slot.base,
                                   slot.gsi);
    }
    return g_string_free(s, FALSE);
}

static bool microvm_finish(struct board *b, GError **error)
{
    struct microvm *m = container_of(b, struct microvm, board);
    g_autofree char *cmdline = NULL;

    if (is_on(m->acpi))
        m->tables = make_tables(m);
    cmdline = make_cmdline(m);
    return pc_boot_load(&m->boot, cmdline, error);
}

/* reset */

/* What a guest that was started by firmware would find: the 8259 quiet, tables where
 * they are looked for. */
static void leave_as_firmware(struct microvm *m)
{
    struct vm *vm = m->board.vm;

    if (is_on(m->pic)) {
        aspace_write(vm->pio, NULL, 0x21, 0xff, 1);
        aspace_write(vm->pio, NULL, 0xa1, 0xff, 1);
    }
    if (m->tables && m->board.config.memory >= MIB)
        gmem_load(vm->gmem, ACPI_TABLES, m->tables->data, m->tables->len);
}

static void microvm_reset(struct board *b)
{
    struct microvm *m = container_of(b, struct microvm, board);

    lapic_set_virtual_wire(b->vm->vcpus[0]);
    if (!pc_boot_is_firmware(&m->boot))
        leave_as_firmware(m);
    pc_irqs_ready(&m->irqs);
    pc_boot_reset(&m->boot, b->vm);
}

static void microvm_power_button(struct board *b)
{
    struct microvm *m = container_of(b, struct microvm, board);

    if (m->ged)
        ged_power_button(m->ged);
}

static void microvm_done(struct board *b)
{
    struct microvm *m = container_of(b, struct microvm, board);

    pc_boot_done(&m->boot);
    if (m->tables)
        g_byte_array_unref(m->tables);
}

#define ON_OFF_AUTO(prop_name, field, text)                                      \
    {                                                                            \
        .name = prop_name, .type = PROP_ENUM, PROP_FIELD(struct microvm, field), \
        .values = on_off_auto, .def = ON_OFF_AUTO_AUTO, .help = text             \
    }

static const struct prop microvm_props[] = {
    ON_OFF_AUTO("pit", pit, "an 8254 timer"),
    ON_OFF_AUTO("pic", pic, "an 8259 interrupt controller pair"),
    ON_OFF_AUTO("rtc", rtc, "a CMOS clock"),
    ON_OFF_AUTO("acpi", acpi, "ACPI tables; without them there are fewer devices"),
    {"isa-serial", PROP_BOOL, PROP_FIELD(struct microvm, isa_serial), .def = true,
     .help = "serial ports for -serial"},
    {"auto-kernel-cmdline", PROP_BOOL, PROP_FIELD(struct microvm, auto_cmdline),
     .def = true, .help = "without ACPI: add virtio_mmio.device= for each device"},
    {"kernel-entry", PROP_ENUM, PROP_FIELD(struct microvm, boot.entry),
     .values = pc_boot_entries, .def = PC_BOOT_ENTRY_AUTO,
     .help = "which entry of a bzImage is taken (auto: 32bit), or: by -bios, which "
             "finds it"},
    {"bios-writable", PROP_BOOL, PROP_FIELD(struct microvm, boot.bios_writable),
     .def = false, .help = "the firmware of -bios may write to itself, as on QEMU's"},
    {"x-option-roms", PROP_BOOL, PROP_FIELD(struct microvm, option_roms), .def = true,
     .help = "accepted for compatibility: there are none"},
    {NULL},
};

const struct board_type microvm_board = {
    .name = "microvm",
    .desc = "no PCI: virtio-mmio devices, kernels are entered directly",
    .max_cpus = 255,
    .default_memory = 128 * MIB,
    .default_cpu = "qemu64",
    .disk_device = "virtio-blk-device",
    .props = microvm_props,
    .size = sizeof(struct microvm),
    .check = microvm_check,
    .build = microvm_build,
    .finish = microvm_finish,
    .reset = microvm_reset,
    .power_button = microvm_power_button,
    .done = microvm_done,
};
