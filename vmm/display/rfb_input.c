/*
 * Keys and the pointer. A viewer that sends keysyms means characters: where its
 * keyboard makes one with other modifiers than a US one does, shift is turned over for
 * the moment. Guests then see what was typed, as long as they have a US keymap; viewers
 * that know the extended key event send keys and leave the map to the guest.
 */
#include "lib/base/base.h"
#include "vmm/display/keymap.h"
#include "vmm/display/rfb_priv.h"

enum { LEFT_SHIFT = 0x2a, RIGHT_SHIFT = 0x36, CAPS_LOCK_LED = 4, ALL_BUTTONS = 0x1f };

static bool is_down(const struct rfb *r, uint8_t code)
{
    return r->down[code / 8] >> code % 8 & 1;
}

void rfb_key_code(struct rfb *r, uint8_t code, bool down)
{
    /* Nobody lets go of what he does not hold. */
    if (code == 0 || (!down && !is_down(r, code)))
        return;
    if (down)
        r->down[code / 8] |= (uint8_t)(1 << code % 8);
    else
        r->down[code / 8] &= (uint8_t) ~(1 << code % 8);
    display_key(r->host.display, code, down);
}

void rfb_release_keys(struct rfb *r)
{
    for (unsigned code = 1; code < 256; code++) {
        if (is_down(r, (uint8_t)code))
            rfb_key_code(r, (uint8_t)code, false);
    }
}

/* Shift is down, and must not be, or the other way: turn it over. */
static void turn_shift(struct rfb *r, bool on)
{
    struct display *d = r->host.display;

    if (on) {
        display_key(d, LEFT_SHIFT, true);
        return;
    }
    if (is_down(r, LEFT_SHIFT))
        display_key(d, LEFT_SHIFT, false);
    if (is_down(r, RIGHT_SHIFT))
        display_key(d, RIGHT_SHIFT, false);
}

static void turn_back(struct rfb *r, bool on)
{
    struct display *d = r->host.display;

    if (on) {
        display_key(d, LEFT_SHIFT, false);
        return;
    }
    if (is_down(r, LEFT_SHIFT))
        display_key(d, LEFT_SHIFT, true);
    if (is_down(r, RIGHT_SHIFT))
        display_key(d, RIGHT_SHIFT, true);
}

void rfb_key(struct rfb *r, uint32_t keysym, bool down)
{
    int shift;
    bool letter, have = is_down(r, LEFT_SHIFT) || is_down(r, RIGHT_SHIFT), want;
    uint8_t code = keymap_find(keysym, &shift, &letter);

    want = shift == 1;
    if (letter && (display_leds(r->host.display) & CAPS_LOCK_LED))
        want = !want;
    if (!down || shift < 0 || want == have) {
        rfb_key_code(r, code, down);
        return;
    }
    turn_shift(r, want);
    rfb_key_code(r, code, down);
    turn_back(r, want);
}

static int scale(unsigned at, unsigned size)
{
    return size < 2 ? 0
                    : (int)(MIN(at, size - 1) * (unsigned)POINTER_RANGE / (size - 1));
}

void rfb_pointer(struct rfb *r, unsigned buttons, unsigned x, unsigned y)
{
    struct pointer_event e = {.buttons = buttons & ALL_BUTTONS};

    if (r->relative) {
        e.x = (int)x - 0x7fff;
        e.y = (int)y - 0x7fff;
    } else {
        e.absolute = true;
        e.x = scale(x, r->width);
        e.y = scale(y, r->height);
    }
    display_pointer(r->host.display, &e);
}
