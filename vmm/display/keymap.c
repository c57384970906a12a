#include "vmm/display/keymap.h"

#include <stddef.h>
#include <string.h>

#include "lib/base/base.h"

/* Rows of the keyboard: from which code on, what they say without and with shift. */
static const struct {
    uint8_t code;
    const char *plain, *shifted;
} rows[] = {
    {0x02, "1234567890-=", "!@#$%^&*()_+"},
    {0x10, "qwertyuiop[]", "QWERTYUIOP{}"},
    {0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"},
    {0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"},
    {0x39, " ", " "},
};

/* The others: keysyms from the first to the last, codes in the same order. */
static const struct {
    uint16_t first, last;
    uint8_t code;
} others[] = {
    {0xfe03, 0xfe03, 0xb8},                         /* level 3 shift: right Alt */
    {0xfe20, 0xfe20, 0x0f},                         /* Tab with shift */
    {0xff08, 0xff09, 0x0e},                         /* backspace, Tab */
    {0xff0d, 0xff0d, 0x1c}, {0xff13, 0xff13, 0xc6}, /* Return, Pause */
    {0xff14, 0xff14, 0x46}, {0xff15, 0xff15, 0xb7}, /* scroll lock, SysRq */
    {0xff1b, 0xff1b, 0x01},                         /* Escape */
    {0xff50, 0xff50, 0xc7}, {0xff51, 0xff51, 0xcb}, /* Home, left */
    {0xff52, 0xff52, 0xc8}, {0xff53, 0xff53, 0xcd}, /* up, right */
    {0xff54, 0xff54, 0xd0}, {0xff55, 0xff55, 0xc9}, /* down, page up */
    {0xff56, 0xff56, 0xd1}, {0xff57, 0xff57, 0xcf}, /* page down, End */
    {0xff61, 0xff61, 0xb7}, {0xff63, 0xff63, 0xd2}, /* print, insert */
    {0xff67, 0xff67, 0xdd}, {0xff6b, 0xff6b, 0xc6}, /* menu, break */
    {0xff7e, 0xff7e, 0xb8}, {0xff7f, 0xff7f, 0x45}, /* mode switch, num lock */
    {0xff8d, 0xff8d, 0x9c}, {0xff95, 0xff95, 0x47}, /* keypad: Enter, Home */
    {0xff96, 0xff96, 0x4b}, {0xff97, 0xff97, 0x48}, /* left, up */
    {0xff98, 0xff98, 0x4d}, {0xff99, 0xff99, 0x50}, /* right, down */
    {0xff9a, 0xff9a, 0x49}, {0xff9b, 0xff9b, 0x51}, /* page up, page down */
    {0xff9c, 0xff9c, 0x4f}, {0xff9d, 0xff9d, 0x4c}, /* End, 5 */
    {0xff9e, 0xff9f, 0x52},                         /* insert, delete */
    {0xffaa, 0xffaa, 0x37}, {0xffab, 0xffab, 0x4e}, /* * + */
    {0xffad, 0xffad, 0x4a}, {0xffae, 0xffae, 0x53}, /* - . */
    {0xffaf, 0xffaf, 0xb5}, {0xffb0, 0xffb0, 0x52}, /* / 0 */
    {0xffb1, 0xffb3, 0x4f}, {0xffb4, 0xffb6, 0x4b}, /* 1 to 3, 4 to 6 */
    {0xffb7, 0xffb9, 0x47},                         /* 7 to 9 */
    {0xffbe, 0xffc7, 0x3b}, {0xffc8, 0xffc9, 0x57}, /* F1 to F10, F11, F12 */
    {0xffe1, 0xffe1, 0x2a}, {0xffe2, 0xffe2, 0x36}, /* shift */
    {0xffe3, 0xffe3, 0x1d}, {0xffe4, 0xffe4, 0x9d}, /* control */
    {0xffe5, 0xffe5, 0x3a},                         /* caps lock */
    {0xffe7, 0xffe7, 0x38}, {0xffe8, 0xffe8, 0xb8}, /* meta */
    {0xffe9, 0xffe9, 0x38}, {0xffea, 0xffea, 0xb8}, /* Alt */
    {0xffeb, 0xffec, 0xdb},                         /* the two with a window */
    {0xffff, 0xffff, 0xd3},                         /* delete */
};

uint8_t keymap_find(uint32_t keysym, int *ret_shift, bool *ret_letter)
{
    *ret_shift = -1;
    *ret_letter = false;
    if (keysym > 0 && keysym < 0x7f) {
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            const char *plain = strchr(rows[i].plain, (char)keysym);
            const char *shifted = strchr(rows[i].shifted, (char)keysym);

            if (!plain && !shifted)
                continue;
            *ret_shift = plain && shifted ? -1 : !plain;
            *ret_letter = (keysym | 0x20) >= 'a' && (keysym | 0x20) <= 'z';
            return (uint8_t)(rows[i].code + (plain ? plain - rows[i].plain
                                                   : shifted - rows[i].shifted));
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (keysym >= others[i].first && keysym <= others[i].last)
            return (uint8_t)(others[i].code + (keysym - others[i].first));
    }
    return 0;
}
