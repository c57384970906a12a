#ifndef VMM_CONTROL_CONFIG_H
#define VMM_CONTROL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

#include "lib/isa/x86/cpu_model.h"
#include "vmm/control/disas.h"
#include "vmm/vm/log.h"

/*
 * What a command line asked for, before anything of it is opened or made.
 */

/* One option that may be given several times. */
struct vmm_item {
    char *where;     /* as the user wrote it, for messages: "-device foo,bar=1" */
    json_t *options; /* an object; owned */
};

enum vmm_help {
    VMM_HELP_NONE,
    VMM_HELP_USAGE,
    VMM_HELP_VERSION,
    VMM_HELP_MACHINES, /* help_name: of one machine type */
    VMM_HELP_CPUS,
    VMM_HELP_ACCELS,
    VMM_HELP_DEVICES, /* help_name: of one device type */
    VMM_HELP_CHARDEVS,
    VMM_HELP_OBJECTS,
    VMM_HELP_LOG,
    VMM_HELP_DISPLAYS,
    VMM_HELP_VGA,
    VMM_HELP_DATA_DIRS,
    VMM_DISAS, /* -disas: config->disas */
};

struct vmm_config {
    enum vmm_help help; /* the first that was asked for; nothing else is done then */
    char *help_name;
    struct disas_options disas;

    char *machine;           /* type, or NULL for the default */
    json_t *machine_options; /* object */
    GPtrArray *accels;       /* struct vmm_item *; the key "accel" names it */
    char *cpu;
    uint64_t memory; /* bytes; 0: the board's default */
    unsigned nb_cpus;
    struct x86_topology topology; /* all 0 without -smp */
    char *kernel, *initrd, *append;
    char *bios;           /* a path, or a name to be looked for */
    GPtrArray *data_dirs; /* char *, of -L */

    GPtrArray *drives;    /* struct vmm_item *, flat as blk_options_parse() makes it */
    GPtrArray *blockdevs; /* nested, for blk_open() */
    GPtrArray *chardevs;  /* for chardev_new() */
    GPtrArray *serials;   /* the same; "backend" = "none": leave this port out;
                             {"chardev": id}: one of chardevs */
    GPtrArray *devices;   /* "driver" names the type */
    GPtrArray *objects;   /* "qom-type" names it */
    GPtrArray *globals;   /* "driver", "property", "value" */
    GPtrArray *displays;  /* -display: "type" and what belongs to it */
    GPtrArray *vncs;      /* -vnc, -display vnc=: "vnc" is the place */
    char *vga;            /* -vga; NULL: as the board has it */
    json_t *boot;         /* object: what -boot says; later ones win */
    json_t *smbios;       /* array of -smbios' objects */
    GPtrArray *fw_files;  /* "name", and "file" or "string" */

    bool nographic, nodefaults;
    bool no_reboot, no_shutdown;
    bool daemonize;
    char *name, *uuid, *pidfile;
    unsigned log;       /* VM_LOG_... */
    GArray *log_ranges; /* -dfilter: struct vm_log_range */
    char *log_file;     /* "%d" stands for the process ID */
};

struct vmm_config *vmm_config_new(void);
void vmm_config_free(struct vmm_config *c);

void vmm_item_free(struct vmm_item *item);

/*
 * Read a command line in QEMU's language. Options begin with '-' or '--'. Nothing is
 * opened. False with @error, which begins with the option: "-smp 0: ...".
 */
bool vmm_config_parse(struct vmm_config *c, int argc, char *const *argv,
                      GError **error);

/* -help: the same table. */
void vmm_config_help(FILE *out);

/* -d help. */
void vmm_log_help(FILE *out);

#endif
