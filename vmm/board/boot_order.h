#ifndef VMM_BOARD_BOOT_ORDER_H
#define VMM_BOARD_BOOT_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

/*
 * -boot, as BIOSes of PCs are told: kinds of drives by letters of old, and how long to
 * wait for whom. Devices with a bootindex come before.
 */

enum { BOOT_KINDS = 3 }; /* a BIOS has room for so many */

struct boot_order {
    uint8_t
        first[BOOT_KINDS]; /* of the first start: 1 floppy, 2 disk, 3 CD, 4 network */
    uint8_t then[BOOT_KINDS]; /* after a reset */
    bool menu, has_splash_time, has_reboot_timeout;
    uint16_t splash_time;   /* ms */
    int32_t reboot_timeout; /* ms; -1: never */
};

/* What @options (borrowed, NULL: none) say. False with @error. */
bool boot_order_parse(const json_t *options, struct boot_order *ret, GError **error);

#endif
