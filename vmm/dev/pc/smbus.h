#ifndef VMM_DEV_PC_SMBUS_H
#define VMM_DEV_PC_SMBUS_H

#include <stdint.h>

#include <glib.h>

#include "vmm/vm/aspace.h"

/*
 * The SMBus host controller of Intel's south bridges, 16 ports, with nothing on its
 * bus: every transaction ends with "no device answered". Spec: PIIX4 data sheet
 * (290562), 7.3; ICH9 data sheet (316972), 19.2.
 */
struct smbus {
    GMutex lock;
    uint8_t reg[16];
};

/* The opaque is a struct smbus, whose mutex is initialized. */
extern const struct io_ops smbus_ops;

#endif
