#ifndef VMM_DISPLAY_PICTURE_H
#define VMM_DISPLAY_PICTURE_H

#include <stdbool.h>

#include <glib.h>

#include "vmm/display/console.h"

/*
 * Write what @s shows into the file @path: PNG when its name ends with ".png", else PPM
 * (P6, of 8 bits). The file is written anew; false with @error naming it.
 */
bool picture_save(const struct surface *s, const char *path, GError **error);

#endif
