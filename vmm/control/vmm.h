#ifndef VMM_CONTROL_VMM_H
#define VMM_CONTROL_VMM_H

#include <stdbool.h>
#include <stdio.h>

#include <glib.h>

#include "lib/isa/x86/cpu_model.h"
#include "vmm/control/config.h"
#include "vmm/vm/vm.h"

struct vmm;

/*
 * A VM with all that belongs to it, made from a command line and run to its end. The
 * program's main (cmd/lodge-vmm.c) gives the accelerators, since this folder knows
 * none.
 */
struct vmm_accel {
    const struct accel_ops *ops; /* NULL ends the array; the first is the default */
    const char *alias;           /* another name that is accepted, or NULL */
    /* The bound of CPU models; NULL: what the host has. */
    void (*features)(struct x86_featset *ret);
    bool no_guest; /* executes no guest code, so that it needs no kernel */
};

/*
 * Check all of @c, then open and make everything; the guest does not run yet. @c is
 * borrowed until vmm_free() and may grow (devices of drives). Nothing is written
 * before everything that can be checked has been. NULL with @error.
 */
struct vmm *vmm_new(struct vmm_config *c, const struct vmm_accel *accels,
                    GError **error);

/*
 * Run it until it ends, by itself, by a signal (SIGINT, SIGTERM, SIGHUP) or by the
 * user's leave key. Returns the exit code; why it ended is on stderr when it was not
 * for power-off or by the user.
 */
int vmm_run(struct vmm *v);

void vmm_free(struct vmm *v);

/* The accelerator called @name, or NULL with @error. */
const struct vmm_accel *vmm_accel_find(const struct vmm_accel *accels, const char *name,
                                       GError **error);

/* The whole program. */
int vmm_main(int argc, char **argv, const struct vmm_accel *accels);

#endif
