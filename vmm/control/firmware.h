#ifndef VMM_CONTROL_FIRMWARE_H
#define VMM_CONTROL_FIRMWARE_H

#include <stdio.h>

#include <glib.h>

#include "vmm/control/config.h"

/*
 * Where firmware files are: -bios NAME is a path, or the name of a file in a folder of
 * -L or in one of the folders where Debian's packages have theirs.
 */

/* The path of @name as the options of @c say, or NULL with @error that lists where it
 * was looked for. The caller owns it. */
char *firmware_find(const struct vmm_config *c, const char *name, GError **error);

/* -L help: the folders, in the order in which they are looked at. */
void firmware_dirs_help(const struct vmm_config *c, FILE *out);

#endif
