#ifndef VMM_DISPLAY_CONSOLE_H
#define VMM_DISPLAY_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

/*
 * Where graphics devices and those who look at them meet. A device knows no viewer, a
 * viewer no device:
 *
 *   device  -> struct console  -> listeners (VNC, a picture file)
 *   viewers -> struct display  -> who registered for keys and for the pointer
 *
 * A struct display is all of a VM's screens and its input. Its loop has a thread of its
 * own between display_start() and display_stop(), and everything here that does not say
 * otherwise happens on it, or, while there is none, on the thread that has the display
 * to itself. So viewers that keep the thread busy hold up neither vCPUs nor devices.
 *
 * Nobody looks at a screen, nothing is done: a console asks its device for a picture
 * (refresh) only while a listener wants it.
 */

struct console;
struct display;
struct loop;

/* Pixels of 32 bits, 0x00RRGGBB; the row below begins @stride pixels further. */
struct surface {
    unsigned width, height; /* 1 .. SURFACE_MAX */
    unsigned stride;
    uint32_t *pixels;
};

enum { SURFACE_MAX = 8192 };

struct rect {
    unsigned x, y, w, h;
};

/* A pointer's picture, of pixels 0xAARRGGBB in rows without gaps. */
enum { CURSOR_MAX = 64 };
struct cursor {
    unsigned width, height; /* 1 .. CURSOR_MAX */
    unsigned hot_x, hot_y;  /* which of its pixels points */
    uint32_t pixels[CURSOR_MAX * CURSOR_MAX];
};

/* ---- the display ---- */

/* NULL with @error when the host refuses a loop. Thread: main. */
struct display *display_new(GError **error);

/* Consoles and listeners are gone. NULL is fine. Thread: main. */
void display_free(struct display *d);

struct loop *display_loop(struct display *d);

/* Begin and end of its own thread. stop: fine when it was not started. Thread: main. */
bool display_start(struct display *d, GError **error);
void display_stop(struct display *d);

/* The console that viewers see, or NULL. */
struct console *display_console(struct display *d);

/* ---- for devices ---- */

struct console_ops {
    /* Bring the surface up to date: console_resize(), write the pixels that changed,
     * console_update() them. Display's thread; takes the device's lock. */
    void (*refresh)(void *opaque, struct console *c);
    /* A viewer would like that size; NULL: the guest decides alone. Likewise. */
    void (*want_size)(void *opaque, unsigned width, unsigned height);
};

/* A screen of 640x480 black pixels. @name is copied. Thread: main, before the display
 * starts. free: after it stopped; NULL is fine. */
struct console *console_new(struct display *d, const char *name,
                            const struct console_ops *ops, void *opaque);
void console_free(struct console *c);

/* Make it @width x @height, black. False, and nothing changed, when that is no size or
 * the host has no memory. Nothing happens when it has that size already. */
bool console_resize(struct console *c, unsigned width, unsigned height);

/* Borrowed until the next console_resize(). */
const struct surface *console_surface(const struct console *c);

/* Pixels of @r changed. What lies outside the surface is cut off. */
void console_update(struct console *c, struct rect r);

/* Write @row, a whole one, at @y; update what of it is different from what was there.
 */
void console_put_row(struct console *c, unsigned y, const uint32_t *row);

/* The guest's pointer is to look like that, copied; NULL: none is shown. */
void console_set_cursor(struct console *c, const struct cursor *cursor);
const struct cursor *console_cursor(const struct console *c);

/* ---- for viewers ---- */

struct console_listener {
    void (*resized)(void *opaque);
    void (*updated)(void *opaque, struct rect r);
    void (*cursor)(void *opaque);
    void (*refreshed)(void *opaque); /* the others were called for all that changed */
    void *opaque;
    bool wants; /* refreshes, see console_listener_want() */
};

/* @l is the caller's until removed. */
void console_listen(struct console *c, struct console_listener *l);
void console_unlisten(struct console *c, struct console_listener *l);

/* Whether @l wants to be told what changes, from now on: at once the first time, then
 * as often as the console looks. */
void console_listener_want(struct console *c, struct console_listener *l, bool wants);

/* Have the surface be what the guest shows now. */
void console_refresh(struct console *c);

/* Ask the guest for another size. False: it cannot be asked. */
bool console_want_size(struct console *c, unsigned width, unsigned height);

/* ---- input ---- */

/*
 * A key's code is its number in the PC's scan code set 1, with 0x80 added where 0xe0
 * comes before it; so does the RFB extension "extended key event". 1 .. 0xff.
 */
enum {
    KEY_PAUSE = 0xc6, /* whose real code is longer */
    KEY_PRINT = 0xb7,
};

enum pointer_button {
    POINTER_LEFT = 1 << 0,
    POINTER_MIDDLE = 1 << 1,
    POINTER_RIGHT = 1 << 2,
    POINTER_WHEEL_UP = 1 << 3,
    POINTER_WHEEL_DOWN = 1 << 4,
    POINTER_BACK = 1 << 5,
    POINTER_FORWARD = 1 << 6,
};

enum { POINTER_RANGE = 0x7fff }; /* of absolute coordinates: 0 .. 0x7fff */

struct pointer_event {
    bool absolute;
    int x, y;         /* absolute: 0 .. POINTER_RANGE; else a distance, y downwards */
    unsigned buttons; /* POINTER_..., those that are down now */
};

/* Called on the display's thread; take the device's lock. */
struct input_ops {
    void (*key)(void *opaque, uint8_t code, bool down);
    void (*pointer)(void *opaque, const struct pointer_event *e);
    bool absolute; /* the pointer takes absolute coordinates only; else distances only
                    */
};

/* Whoever registered last gets the keys, and so for each kind of pointer. Thread: main,
 * while the display has no thread. */
void display_add_input(struct display *d, const struct input_ops *ops, void *opaque);
void display_remove_input(struct display *d, void *opaque);

void display_key(struct display *d, uint8_t code, bool down);

/*
 * A pointer event: of the kind that a device takes. When it says (absolute) where on
 * the screen the pointer is and only distances are taken, they are made from where it
 * was last.
 */
void display_pointer(struct display *d, const struct pointer_event *e);

/* Whether a device takes absolute coordinates. */
bool display_is_absolute(const struct display *d);

/* The keyboard's lamps, as the guest sets them: bit 0 scroll lock, 1 num lock, 2 caps
 * lock. Any thread. */
void display_set_leds(struct display *d, unsigned leds);
unsigned display_leds(struct display *d);

#endif
