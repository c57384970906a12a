/*
 * lodge-vmm's main: help, or a VM from its making to its end.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "vmm/board/board.h"
#include "vmm/chardev/chardev.h"
#include "vmm/control/firmware.h"
#include "vmm/control/objects.h"
#include "vmm/control/screen.h"
#include "vmm/control/vmm.h"
#include "vmm/dev/devices.h"
#include "vmm/vm/device.h"
#include "vmm/vm/props.h"

static void help_accels(const struct vmm_accel *accels)
{
    printf("Accelerators:\n");
    for (const struct vmm_accel *a = accels; a->ops; a++)
        printf("  %-10s %s%s%s%s%s\n", a->ops->name, a->ops->help,
               a->alias ? " (also: " : "", a->alias ?: "", a->alias ? ")" : "",
               a == accels ? " (default)" : "");
}

static bool help_accel(const struct vmm_accel *accels, const char *name, GError **error)
{
    const struct vmm_accel *a = vmm_accel_find(accels, name, error);

    if (a) {
        printf("%s: %s\n", a->ops->name, a->ops->help);
        if (a->ops->props)
            props_help(a->ops->props, stdout);
    }
    return a;
}

static void help_devices(void)
{
    printf("Devices:\n");
    for (unsigned i = 0; device_types[i]; i++) {
        const struct device_type *t = device_types[i];

        if (t->user)
            printf("  %-22s %s%s%s\n", t->name, t->desc, t->bus ? ", bus " : "",
                   t->bus ?: "");
    }
}

static bool help_device(const char *name, GError **error)
{
    const struct device_type *t = device_type_find(device_types, name, error);

    if (t)
        device_type_help(t, stdout);
    return t;
}

static bool help_machine(const char *name, GError **error)
{
    const struct board_type *t = board_type_find(name, error);

    if (t)
        board_type_help(t, stdout);
    return t;
}

static bool show_help(const struct vmm_config *c, const struct vmm_accel *accels,
                      GError **error)
{
    switch (c->help) {
    case VMM_HELP_USAGE: vmm_config_help(stdout); break;
    case VMM_HELP_VERSION: printf("lodge-vmm version %s\n", LODGE_VERSION); break;
    case VMM_HELP_MACHINES:
        if (c->help_name)
            return help_machine(c->help_name, error);
        board_types_help(stdout);
        break;
    case VMM_HELP_CPUS: x86_cpu_model_help(stdout); break;
    case VMM_HELP_ACCELS:
        if (c->help_name)
            return help_accel(accels, c->help_name, error);
        help_accels(accels);
        break;
    case VMM_HELP_DEVICES:
        if (c->help_name)
            return help_device(c->help_name, error);
        help_devices();
        break;
    case VMM_HELP_CHARDEVS: chardev_help(stdout); break;
    case VMM_HELP_OBJECTS: objects_help(stdout); break;
    case VMM_HELP_LOG: vmm_log_help(stdout); break;
    case VMM_HELP_DISPLAYS: screen_help(stdout); break;
    case VMM_HELP_VGA: screen_cards_help(stdout); break;
    case VMM_HELP_DATA_DIRS: firmware_dirs_help(c, stdout); break;
    case VMM_DISAS: return disas_file(&c->disas, stdout, error);
    case VMM_HELP_NONE: break;
    }
    return true;
}

static int run(struct vmm_config *c, int argc, char **argv,
               const struct vmm_accel *accels, GError **error)
{
    struct vmm *v;
    int code;

    if (!vmm_config_parse(c, argc, argv, error))
        return 1;
    if (c->help != VMM_HELP_NONE)
        return show_help(c, accels, error) ? 0 : 1;
    v = vmm_new(c, accels, error);
    if (!v)
        return 1;
    code = vmm_run(v);
    vmm_free(v);
    return code;
}

int vmm_main(int argc, char **argv, const struct vmm_accel *accels)
{
    struct vmm_config *c = vmm_config_new();
    g_autoptr(GError) error = NULL;
    int code;

    signal(SIGPIPE, SIG_IGN);
    code = run(c, argc, argv, accels, &error);
    if (error)
        fprintf(stderr, "lodge-vmm: %s\n", error->message);
    vmm_config_free(c);
    return code;
}
