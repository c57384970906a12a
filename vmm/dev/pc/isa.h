#ifndef VMM_DEV_PC_ISA_H
#define VMM_DEV_PC_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/vm/aspace.h"

struct device;

/* What devices in port space have in common. Thread: main. */

/*
 * Claim @len ports from @base for @dev, whose struct begins with struct device and
 * is what @ops get as opaque. @region is a zeroed member of it. False with @error
 * when the ports are taken, or when there is no port space.
 */
bool isa_claim(struct device *dev, struct io_region *region, uint32_t base,
               uint32_t len, const struct io_ops *ops, GError **error);

/* Give the ports back; nothing happens when they were never claimed. */
void isa_release(struct device *dev, struct io_region *region);

#endif
