#ifndef VMM_CONTROL_GLOBALS_H
#define VMM_CONTROL_GLOBALS_H

#include <stdbool.h>

#include <glib.h>

#include "vmm/control/config.h"

/*
 * -global TYPE.PROPERTY=VALUE: a default for every device of a type that the command
 * line asks for. What -device says itself goes first; of several -global the last.
 */

/*
 * Bring c->globals into c->devices. A property that the type does not have is refused;
 * a type that does not exist here is warned of, for a command line may be meant for
 * several machines.
 */
bool globals_apply(const struct vmm_config *c, GError **error);

#endif
