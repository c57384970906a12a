#ifndef VMM_DEV_DEVICES_H
#define VMM_DEV_DEVICES_H

struct device_type;

/* Every device type there is, ends with NULL: what -device help lists and what names
 * are looked up in. Boards also use types that users cannot name. */
extern const struct device_type *const device_types[];

#endif
