#ifndef VMM_DEV_DISPLAY_EDID_H
#define VMM_DEV_DISPLAY_EDID_H

#include <stdint.h>

enum { EDID_LEN = 128 };

/* What a monitor says of itself whose best mode is @width x @height, each 64 .. 4095,
 * at 60 Hz. Spec: VESA E-EDID 1.4. */
void edid_make(uint8_t ret[EDID_LEN], unsigned width, unsigned height);

#endif
