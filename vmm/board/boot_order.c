#include "vmm/board/boot_order.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

#define DEFAULT_ORDER "cad"

static bool parse_drives(const char *what, const char *text, uint8_t out[BOOT_KINDS],
                         GError **error)
{
    static const char letters[] = "acdn";
    size_t len = strlen(text);

    memset(out, 0, BOOT_KINDS);
    for (size_t i = 0; i < len; i++) {
        const char *at = strchr(letters, text[i]);

        if (!at)
            return error_msg(error,
                             "%s=%s: '%c' is not a (floppy), c (disk), d (CD) or n "
                             "(network)",
                             what, text, text[i]);
        if (memchr(text, text[i], i))
            return error_msg(error, "%s=%s: '%c' is there twice", what, text, text[i]);
        if (i >= BOOT_KINDS)
            return error_msg(error, "%s=%s: a BIOS takes %d", what, text, BOOT_KINDS);
        out[i] = (uint8_t)(at - letters + 1);
    }
    return true;
}

static bool parse_number(const char *what, const char *text, long min, long max,
                         long *ret, GError **error)
{
    char *end;

    *ret = strtol(text, &end, 10);
    return (*text && !*end && *ret >= min && *ret <= max) ||
           error_msg(error, "%s=%s is not a number of milliseconds, %ld to %ld", what,
                     text, min, max);
}

static bool parse_switch(const json_t *options, const char *what, bool *ret,
                         GError **error)
{
    const char *text = json_string_value(json_object_get(options, what));

    *ret = g_strcmp0(text, "on") == 0;
    return !text || *ret || strcmp(text, "off") == 0 ||
           error_msg(error, "%s=%s is neither on nor off", what, text);
}

bool boot_order_parse(const json_t *options, struct boot_order *ret, GError **error)
{
    const char *order = json_string_value(json_object_get(options, "order"));
    const char *once = json_string_value(json_object_get(options, "once"));
    const char *splash = json_string_value(json_object_get(options, "splash-time"));
    const char *reboot = json_string_value(json_object_get(options, "reboot-timeout"));
    bool strict;
    long ms = 0;

    *ret = (struct boot_order){.reboot_timeout = -1};
    if (!parse_drives("order", order ?: DEFAULT_ORDER, ret->then, error) ||
        !parse_drives("once", once ?: order ?: DEFAULT_ORDER, ret->first, error) ||
        !parse_switch(options, "menu", &ret->menu, error) ||
        !parse_switch(options, "strict", &strict, error))
        return false;
    if (splash) {
        if (!parse_number("splash-time", splash, 0, UINT16_MAX, &ms, error))
            return false;
        ret->has_splash_time = true;
        ret->splash_time = (uint16_t)ms;
    }
    if (reboot) {
        if (!parse_number("reboot-timeout", reboot, -1, UINT16_MAX, &ms, error))
            return false;
        ret->has_reboot_timeout = true;
        ret->reboot_timeout = (int32_t)ms;
    }
    return true;
}
