#ifndef VMM_BOARD_GED_H
#define VMM_BOARD_GED_H

#include "vmm/vm/device.h"

/*
 * The registers behind ACPI without fixed hardware: sleep control and reset (ACPI 6.4,
 * 4.8.3.7, 4.8.3.6), and the events of a generic event device (5.6.9).
 *
 *   0x0  GED_EVENTS         read: events since the last read, which clears them
 *   0x4  GED_SLEEP_CONTROL  write: SLP_EN with the type of S5 powers off
 *   0x5  GED_SLEEP_STATUS   reads 0: the machine never wakes from S5
 *   0x6  GED_RESET          write GED_RESET_VALUE: reset
 *
 * The interrupt is level-triggered: high while an event is unread.
 */
enum {
    GED_EVENTS = 0,
    GED_SLEEP_CONTROL = 4,
    GED_SLEEP_STATUS = 5,
    GED_RESET = 6,
    GED_LEN = 8,
};

#define GED_EVENT_POWER_BUTTON (1u << 0)
#define GED_RESET_VALUE        0x42
#define GED_SLEEP_TYPE_S5      5

/* Properties: base (address), gsi. */
extern const struct device_type ged_type;

/* Press the power button. @dev is of ged_type. Any thread. */
void ged_power_button(struct device *dev);

#endif
