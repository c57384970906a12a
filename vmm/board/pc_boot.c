#include "vmm/board/pc_boot.h"

#include "lib/base/base.h"
#include "lib/isa/x86/state.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

#define HIGH_RAM     (4 * GIB)
#define RESET_VECTOR 0xffff0                    /* ffff:0000 of real mode */
#define ROM_BASE     (4 * GIB - GMEM_PAGE_SIZE) /* without firmware */
#define LOW_KERNEL   (64 * KIB)                 /* see low_len() */

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
    };

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
    return p->bios && !p->config->kernel;
}

bool pc_boot_load(struct pc_boot *p, const char *cmdline, GError **error)
{
    if (!p->config->kernel)
        return true;
    p->boot = make_boot(p, cmdline, error);
    return p->boot;
}

/* memory */

/*
 * How much of the firmware is shown below 1 MiB. A kernel that is entered directly
 * finds the board's tables in the lower half of the usual 128 KiB.
 */
static uint32_t low_len(const struct pc_boot *p)
{
    uint32_t most = p->config->kernel ? LOW_KERNEL : X86_BIOS_LOW_MAX;

    return p->bios ? MIN(x86_bios_len(p->bios), most) : 0;
}

static bool add_roms(struct pc_boot *p, struct vm *vm, GError **error)
{
    enum gmem_kind kind = p->bios_writable ? GMEM_RAM : GMEM_ROM;
    uint32_t low = low_len(p);

    if (!p->bios)
        return gmem_add(vm->gmem, "reset", GMEM_ROM, ROM_BASE, GMEM_PAGE_SIZE, error);
    return gmem_add(vm->gmem, "bios", kind, 4 * GIB - x86_bios_len(p->bios),
                    x86_bios_len(p->bios), error) &&
           gmem_add(vm->gmem, "bios-low", kind, MIB - low, low, error);
}

bool pc_boot_add_memory(struct pc_boot *p, struct vm *vm, uint64_t low, GError **error)
{
    uint64_t memory = p->config->memory, hole = MIB - low_len(p);

    low = MIN(memory, low);
    if (!add_roms(p, vm, error))
        return false;
    if (!p->bios || low <= hole) {
        if (!gmem_add(vm->gmem, "ram", GMEM_RAM, 0, low, error))
            return false;
    } else if (!gmem_add(vm->gmem, "ram-low", GMEM_RAM, 0, hole, error) ||
               (low > MIB &&
                !gmem_add(vm->gmem, "ram", GMEM_RAM, MIB, low - MIB, error))) {
        return false;
    }
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
    else
        put_reset_code(vm);
    if (ok && p->boot)
        ok = enter_kernel(p, vm, &error);
    if (!ok)
        vm_request_error(vm, error);
}

void pc_boot_done(struct pc_boot *p)
{
    x86_boot_free(p->boot);
    x86_bios_free(p->bios);
}
