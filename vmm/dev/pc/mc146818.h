#ifndef VMM_DEV_PC_MC146818_H
#define VMM_DEV_PC_MC146818_H

#include <stdint.h>

struct device;
struct device_type;

/*
 * The real-time clock and its 128 bytes of battery-backed memory at ports 0x70 and
 * 0x71, on the board's interrupt input 8. The century is at 0x32, in BCD.
 * Spec: Motorola MC146818A data sheet.
 */
extern const struct device_type mc146818rtc_type;

/* A byte of the memory, @index 14..127: boards store configuration there. Thread:
 * main, or with vCPUs stopped. */
void mc146818_set(struct device *dev, unsigned index, uint8_t value);
uint8_t mc146818_get(struct device *dev, unsigned index);

#endif
