#include "vmm/board/pc_boot.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/cpu_model.h"
#include "lib/isa/x86/state.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

#define HIGH_RAM     (4 * GIB)
#define VGA_BASE     0xa0000
#define RESET_VECTOR 0xffff0                    /* ffff:0000 of real mode */
#define ROM_BASE     (4 * GIB - GMEM_PAGE_SIZE) /* without firmware */
#define LOW_KERNEL   (64 * KIB)                 /* see low_len() */

const char *const pc_boot_entries[] = {"auto",  "16bit",    "32bit",
                                       "64bit", "firmware", NULL};

/* files */

static bool open_bios(struct pc_boot *p, GError **error)
{
    struct x86_boot_file *f;

    if (!p->config->bios)
        return true;
    f = x86_boot_file_open("bios", p->config->bios, error);
    p->bios = f ? x86_bios_new(f, error) : NULL;
    return p->bios;
}

static struct x86_boot *make_boot(struct pc_boot *p, const char *cmdline,
                                  GError **error)
{
    struct x86_boot_config c = {
        .cmdline = cmdline,
        .memory = p->config->memory,
        .rsdp = p->rsdp,
        .map = p->map,
        /* Before there is a processor, the best is hoped for. */
        .long_mode =
            !p->vm || (p->vm->cpu_model && x86_cpu_has(p->vm->cpu_model, X86_FEAT_LM)),
    };

    if (p->entry != PC_BOOT_ENTRY_FIRMWARE)
        c.entry = (enum x86_boot_entry)p->entry;

    if (!x86_boot_open(&c, p->config->kernel, p->config->initrd, error)) {
        x86_boot_config_done(&c);
        return NULL;
    }
    return x86_boot_new(&c, error);
}

bool pc_boot_check(struct pc_boot *p, GError **error)
{
    const struct board_config *c = p->config;
    struct x86_boot *boot;

    if (!c->kernel && (c->initrd || c->cmdline))
        return error_msg(error, "%s needs -kernel", c->initrd ? "-initrd" : "-append");
    if (p->entry == PC_BOOT_ENTRY_FIRMWARE && !c->bios)
        return error_msg(error, "kernel-entry=firmware needs -bios");
    if (p->entry == PC_BOOT_ENTRY_16 && c->bios)
        return error_msg(error, "kernel-entry=16bit is firmware of its own: no -bios");
    if (!open_bios(p, error))
        return false;
    if (!c->kernel)
        return true;
    boot = make_boot(p, c->cmdline, error);
    x86_boot_free(boot);
    return boot;
}

bool pc_boot_is_firmware(const struct pc_boot *p)
{
    return p->bios &&
           (p->chipset || !p->config->kernel || p->entry == PC_BOOT_ENTRY_FIRMWARE);
}

/* what firmware asks for */

#define E820_ENTRY 20

bool pc_boot_add_fw_cfg(struct pc_boot *p, struct vm *vm, GError **error)
{
    p->fw_cfg = device_new(vm, &fw_cfg_type, NULL, NULL, error);
    return p->fw_cfg;
}

static bool add_e820(struct pc_boot *p, GError **error)
{
    uint8_t table[X86_E820_MAX * E820_ENTRY];
    struct fw_cfg_content c = {.bytes = table};
    uint64_t low = MIN(p->low, p->config->memory);
    struct x86_e820 map = {0};

    /* Firmware carves out what it uses itself: it is told of memory alone. */
    x86_e820_add(&map, 0, low, X86_E820_RAM);
    x86_e820_add(&map, HIGH_RAM, p->config->memory - low, X86_E820_RAM);
    for (unsigned i = 0; i < map.n; i++, c.len += E820_ENTRY) {
        le64_put(table + c.len, map.e[i].base);
        le64_put(table + c.len + 8, map.e[i].len);
        le32_put(table + c.len + 16, map.e[i].type);
    }
    return fw_cfg_set_file(p->fw_cfg, "etc/e820", &c, error);
}

static bool read_file(void *opaque, uint32_t off, void *buf, uint32_t len)
{
    return x86_boot_piece_read(opaque, off, buf, len, NULL);
}

static void add_piece(struct pc_boot *p, uint16_t addr, uint16_t size, uint16_t data,
                      const struct x86_boot_piece *piece)
{
    struct fw_cfg_content c = {
        .len = piece->len, .read = read_file, .opaque = (void *)piece};

    fw_cfg_set_u32(p->fw_cfg, addr, piece->gpa);
    fw_cfg_set_u32(p->fw_cfg, size, piece->len);
    fw_cfg_set(p->fw_cfg, data, &c);
}

static void add_kernel(struct pc_boot *p)
{
    const struct x86_boot_pieces *k = x86_boot_get_pieces(p->boot);

    if (!k)
        return;
    add_piece(p, FW_CFG_KERNEL_ADDR, FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL_DATA,
              &k->kernel);
    add_piece(p, FW_CFG_SETUP_ADDR, FW_CFG_SETUP_SIZE, FW_CFG_SETUP_DATA, &k->setup);
    add_piece(p, FW_CFG_CMDLINE_ADDR, FW_CFG_CMDLINE_SIZE, FW_CFG_CMDLINE_DATA,
              &k->cmdline);
    if (k->initrd.len > 0)
        add_piece(p, FW_CFG_INITRD_ADDR, FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA,
                  &k->initrd);
}

static void add_uuid(struct pc_boot *p)
{
    const char *text = p->config->uuid ?: "";
    uint8_t uuid[16] = {0};
    unsigned n = 0;

    for (; *text && n < 2 * sizeof(uuid); text++) {
        if (!g_ascii_isxdigit(*text))
            continue;
        uuid[n / 2] = uuid[n / 2] << 4 | g_ascii_xdigit_value(*text);
        n++;
    }
    fw_cfg_set_bytes(p->fw_cfg, FW_CFG_UUID, uuid, sizeof(uuid));
}

static bool add_items(struct pc_boot *p, GError **error)
{
    const struct board_config *c = p->config;

    fw_cfg_set_u16(p->fw_cfg, FW_CFG_NB_CPUS, c->nb_cpus);
    fw_cfg_set_u16(p->fw_cfg, FW_CFG_MAX_CPUS, c->nb_cpus);
    fw_cfg_set_u64(p->fw_cfg, FW_CFG_RAM_SIZE, c->memory);
    fw_cfg_set_u16(p->fw_cfg, FW_CFG_NOGRAPHIC, c->nographic);
    fw_cfg_set_u16(p->fw_cfg, FW_CFG_BOOT_MENU, 0);
    fw_cfg_set_u32(p->fw_cfg, FW_CFG_IRQ0_OVERRIDE, 1);
    add_uuid(p);
    if (!add_e820(p, error))
        return false;
    for (unsigned i = 0; i < c->nb_fw_files; i++) {
        const struct board_fw_file *f = &c->fw_files[i];
        struct fw_cfg_content content = {.bytes = f->bytes, .len = f->len};

        if (!fw_cfg_set_file(p->fw_cfg, f->name, &content, error))
            return false;
    }
    return true;
}

bool pc_boot_load(struct pc_boot *p, const char *cmdline, GError **error)
{
    if (!add_items(p, error))
        return false;
    if (!p->config->kernel)
        return true;
    p->boot = make_boot(p, cmdline, error);
    if (p->boot)
        add_kernel(p);
    return p->boot;
}

/* memory */

/* The firmware that the 16-bit entry comes with. */
static bool has_boot_rom(const struct pc_boot *p)
{
    return p->config->kernel && p->entry == PC_BOOT_ENTRY_16;
}

/*
 * How much of the firmware is shown below 1 MiB. A kernel that is entered directly
 * finds the board's tables in the lower half of the usual 128 KiB.
 */
static uint32_t low_len(const struct pc_boot *p)
{
    uint32_t most = pc_boot_is_firmware(p) ? X86_BIOS_LOW_MAX : LOW_KERNEL;

    if (has_boot_rom(p))
        return X86_BOOT_ROM_LEN;
    return p->bios ? MIN(x86_bios_len(p->bios), most) : 0;
}

static bool add_roms(struct pc_boot *p, struct vm *vm, GError **error)
{
    enum gmem_kind kind = p->bios_writable ? GMEM_RAM : GMEM_ROM;
    uint32_t low = low_len(p);

    if (has_boot_rom(p))
        return gmem_add(vm->gmem, "boot-rom", GMEM_ROM, 4 * GIB - X86_BOOT_ROM_LEN,
                        X86_BOOT_ROM_LEN, error) &&
               gmem_add(vm->gmem, "boot-rom-low", GMEM_ROM, MIB - X86_BOOT_ROM_LEN,
                        X86_BOOT_ROM_LEN, error);
    if (!p->bios)
        return gmem_add(vm->gmem, "reset", GMEM_ROM, ROM_BASE, GMEM_PAGE_SIZE, error);
    return gmem_add(vm->gmem, "bios", kind, 4 * GIB - x86_bios_len(p->bios),
                    x86_bios_len(p->bios), error) &&
           (p->chipset || gmem_add(vm->gmem, "bios-low", kind, MIB - low, low, error));
}

/* RAM below 4 GiB, without what is something else below 1 MiB. */
static bool add_low_ram(struct pc_boot *p, struct vm *vm, GError **error)
{
    uint64_t hole = p->chipset ? VGA_BASE : MIB - low_len(p);

    if (hole == MIB || p->low <= hole)
        return gmem_add(vm->gmem, "ram", GMEM_RAM, 0, p->low, error);
    return gmem_add(vm->gmem, "ram-low", GMEM_RAM, 0, hole, error) &&
           (p->low <= MIB ||
            gmem_add(vm->gmem, "ram", GMEM_RAM, MIB, p->low - MIB, error));
}

bool pc_boot_add_memory(struct pc_boot *p, struct vm *vm, uint64_t low, GError **error)
{
    uint64_t memory = p->config->memory;

    low = MIN(memory, low);
    p->low = low;
    p->vm = vm;
    if (!add_roms(p, vm, error) || !add_low_ram(p, vm, error))
        return false;
    return memory == low ||
           gmem_add(vm->gmem, "ram-high", GMEM_RAM, HIGH_RAM, memory - low, error);
}

/* reset */

/*
 * Where firmware would be entered there is code that resets the machine through the
 * keyboard controller: with hardware-reduced ACPI Linux reboots by asking EFI and,
 * where there is none, by jumping to the BIOS in real mode.
 */
static void put_reset_code(struct vm *vm)
{
    static const uint8_t code[16] = {
        0xb0, 0xfe, /* mov $0xfe, %al */
        0xe6, 0x64, /* out %al, $0x64 */
        0xf4,       /* 1: hlt */
        0xeb, 0xfd, /* jmp 1b */
    };

    gmem_load(vm->gmem, RESET_VECTOR, code, sizeof(code));
    gmem_load(vm->gmem, ROM_BASE + 0xff0, code, sizeof(code));
}

static bool enter_kernel(struct pc_boot *p, struct vm *vm, GError **error)
{
    struct vcpu *first = vm->vcpus[0];
    struct x86_state s;

    if (!x86_boot_write(p->boot, vm->gmem, error))
        return false;
    vm->accel->get_state(first, &s);
    x86_boot_set_state(p->boot, &s);
    return vm->accel->set_state(first, &s, error);
}

void pc_boot_reset(struct pc_boot *p, struct vm *vm)
{
    GError *error = NULL;
    bool ok = true;

    if (p->bios)
        ok = x86_bios_write(p->bios, vm->gmem, low_len(p), &error);
    else if (!has_boot_rom(p))
        put_reset_code(vm);
    if (ok && p->boot && !pc_boot_is_firmware(p))
        ok = enter_kernel(p, vm, &error);
    if (!ok)
        vm_request_error(vm, error);
}

void pc_boot_done(struct pc_boot *p)
{
    x86_boot_free(p->boot);
    x86_bios_free(p->bios);
}
