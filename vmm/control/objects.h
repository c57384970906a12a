#ifndef VMM_CONTROL_OBJECTS_H
#define VMM_CONTROL_OBJECTS_H

#include <stdbool.h>
#include <stdio.h>

#include <glib.h>

#include "lib/secret/secret.h"
#include "vmm/control/config.h"

/*
 * -object: back ends without a chardev's or an image's life. Secrets go into
 * @secrets. The others are sources of randomness, and every device that needs one takes
 * the host's getrandom(); so such an object is checked and otherwise nothing but a
 * name. The references that devices make (rng=ID) are checked and taken out of their
 * options.
 */
bool objects_check(const struct vmm_config *c, struct secrets *secrets, GError **error);

/* -object help. */
void objects_help(FILE *out);

#endif
