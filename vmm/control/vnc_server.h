#ifndef VMM_CONTROL_VNC_SERVER_H
#define VMM_CONTROL_VNC_SERVER_H

#include <stdbool.h>

#include <glib.h>

#include "lib/secret/secret.h"
#include "vmm/control/config.h"

/* A -vnc or -display vnc=. Thread: main. */

struct display;
struct vnc_server;

/* Check what @item says, which is borrowed; nothing is opened. NULL with @error. */
struct vnc_server *vnc_server_new(const struct vmm_item *item,
                                  const struct secrets *secrets, GError **error);
void vnc_server_free(struct vnc_server *v); /* NULL is fine */

/* Listen, with @name for the desktop. Twice is a mistake. */
bool vnc_server_open(struct vnc_server *v, struct display *d, const char *name,
                     GError **error);

#endif
