#include "vmm/display/console.h"

#include <stdatomic.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * A console polls its device, 30 times a second, for as long as some listener wants
 * pictures. The device draws whole rows and console_put_row() finds what of them is
 * new: a comparison with what viewers have been told already is cheaper, for the sizes
 * that guests use, than to be told of every store, and needs nothing of accelerators.
 */

#define REFRESH_NS UINT64_C(33000000)

struct input {
    const struct input_ops *ops;
    void *opaque;
};

struct display {
    struct loop *loop;
    bool running;
    GPtrArray *consoles; /* struct console *, borrowed */
    GArray *inputs;      /* struct input */
    int last_x, last_y;  /* of the pointer, to make distances of places */
    bool has_last;
    _Atomic unsigned leds;
};

struct console {
    struct display *display;
    char *name;
    const struct console_ops *ops;
    void *opaque;
    struct surface surface;
    struct cursor cursor;
    bool has_cursor;
    GPtrArray *listeners; /* struct console_listener * */
    struct loop_timer timer;
    uint64_t next_ns; /* no refresh before */
};

/* ---- the display ---- */

struct display *display_new(GError **error)
{
    struct loop *loop = loop_new(NULL, error);
    struct display *d;

    if (!loop)
        return NULL;
    d = g_new0(struct display, 1);
    d->loop = loop;
    d->consoles = g_ptr_array_new();
    d->inputs = g_array_new(FALSE, FALSE, sizeof(struct input));
    return d;
}

void display_free(struct display *d)
{
    if (!d)
        return;
    display_stop(d);
    loop_free(d->loop);
    g_ptr_array_unref(d->consoles);
    g_array_unref(d->inputs);
    g_free(d);
}

struct loop *display_loop(struct display *d)
{
    return d->loop;
}

bool display_start(struct display *d, GError **error)
{
    d->running = loop_start(d->loop, "display", error);
    return d->running;
}

void display_stop(struct display *d)
{
    if (d->running)
        loop_stop(d->loop);
    d->running = false;
}

struct console *display_console(struct display *d)
{
    return d->consoles->len ? d->consoles->pdata[0] : NULL;
}

/* ---- consoles ---- */

static void arm(struct console *c)
{
    for (guint i = 0; i < c->listeners->len; i++) {
        const struct console_listener *l = c->listeners->pdata[i];

        if (l->wants) {
            loop_timer_set(&c->timer, c->next_ns);
            return;
        }
    }
}

static void on_timer(void *opaque)
{
    struct console *c = opaque;

    console_refresh(c);
    arm(c);
}

struct console *console_new(struct display *d, const char *name,
                            const struct console_ops *ops, void *opaque)
{
    struct console *c = g_new0(struct console, 1);

    c->display = d;
    c->name = g_strdup(name);
    c->ops = ops;
    c->opaque = opaque;
    c->surface = (struct surface){640, 480, 640, g_new0(uint32_t, 640 * 480)};
    c->listeners = g_ptr_array_new();
    loop_timer_init(&c->timer, d->loop, on_timer, c);
    g_ptr_array_add(d->consoles, c);
    return c;
}

void console_free(struct console *c)
{
    if (!c)
        return;
    loop_timer_done(&c->timer);
    g_ptr_array_remove(c->display->consoles, c);
    g_ptr_array_unref(c->listeners);
    g_free(c->surface.pixels);
    g_free(c->name);
    g_free(c);
}

bool console_resize(struct console *c, unsigned width, unsigned height)
{
    struct surface *s = &c->surface;
    uint32_t *pixels;

    if (width == s->width && height == s->height)
        return true;
    if (width == 0 || height == 0 || width > SURFACE_MAX || height > SURFACE_MAX)
        return false;
    pixels = g_try_new0(uint32_t, (size_t)width * height);
    if (!pixels)
        return false;
    g_free(s->pixels);
    *s = (struct surface){width, height, width, pixels};
    for (guint i = 0; i < c->listeners->len; i++) {
        const struct console_listener *l = c->listeners->pdata[i];

        if (l->resized)
            l->resized(l->opaque);
    }
    return true;
}

const struct surface *console_surface(const struct console *c)
{
    return &c->surface;
}

void console_update(struct console *c, struct rect r)
{
    const struct surface *s = &c->surface;

    if (r.x >= s->width || r.y >= s->height)
        return;
    r.w = MIN(r.w, s->width - r.x);
    r.h = MIN(r.h, s->height - r.y);
    if (!r.w || !r.h)
        return;
    for (guint i = 0; i < c->listeners->len; i++) {
        const struct console_listener *l = c->listeners->pdata[i];

        if (l->updated)
            l->updated(l->opaque, r);
    }
}

void console_put_row(struct console *c, unsigned y, const uint32_t *row)
{
    const struct surface *s = &c->surface;
    uint32_t *old;
    unsigned first = 0, end = s->width;

    if (y >= s->height)
        return;
    old = s->pixels + (size_t)y * s->stride;
    if (memcmp(old, row, s->width * sizeof(*row)) == 0)
        return;
    while (old[first] == row[first])
        first++;
    while (old[end - 1] == row[end - 1])
        end--;
    memcpy(old + first, row + first, (end - first) * sizeof(*row));
    console_update(c, (struct rect){first, y, end - first, 1});
}

void console_set_cursor(struct console *c, const struct cursor *cursor)
{
    c->has_cursor = cursor;
    if (cursor)
        c->cursor = *cursor;
    for (guint i = 0; i < c->listeners->len; i++) {
        const struct console_listener *l = c->listeners->pdata[i];

        if (l->cursor)
            l->cursor(l->opaque);
    }
}

const struct cursor *console_cursor(const struct console *c)
{
    return c->has_cursor ? &c->cursor : NULL;
}

/* ---- viewers ---- */

void console_listen(struct console *c, struct console_listener *l)
{
    g_ptr_array_add(c->listeners, l);
}

void console_unlisten(struct console *c, struct console_listener *l)
{
    g_ptr_array_remove(c->listeners, l);
}

void console_listener_want(struct console *c, struct console_listener *l, bool wants)
{
    bool first = wants && !l->wants;

    l->wants = wants;
    if (first)
        arm(c);
}

void console_refresh(struct console *c)
{
    c->next_ns = loop_now_ns() + REFRESH_NS;
    if (c->ops->refresh)
        c->ops->refresh(c->opaque, c);
    for (guint i = 0; i < c->listeners->len; i++) {
        const struct console_listener *l = c->listeners->pdata[i];

        if (l->refreshed)
            l->refreshed(l->opaque);
    }
}

bool console_want_size(struct console *c, unsigned width, unsigned height)
{
    if (!c->ops->want_size)
        return false;
    c->ops->want_size(c->opaque, width, height);
    return true;
}

/* ---- input ---- */

void display_add_input(struct display *d, const struct input_ops *ops, void *opaque)
{
    struct input in = {ops, opaque};

    g_array_append_val(d->inputs, in);
}

void display_remove_input(struct display *d, void *opaque)
{
    for (guint i = d->inputs->len; i-- > 0;) {
        if (g_array_index(d->inputs, struct input, i).opaque == opaque)
            g_array_remove_index(d->inputs, i);
    }
}

void display_key(struct display *d, uint8_t code, bool down)
{
    for (guint i = d->inputs->len; i-- > 0;) {
        const struct input *in = &g_array_index(d->inputs, struct input, i);

        if (in->ops->key) {
            in->ops->key(in->opaque, code, down);
            return;
        }
    }
}

static const struct input *find_pointer(const struct display *d, bool absolute)
{
    for (guint i = d->inputs->len; i-- > 0;) {
        const struct input *in = &g_array_index(d->inputs, struct input, i);

        if (in->ops->pointer && in->ops->absolute == absolute)
            return in;
    }
    return NULL;
}

bool display_is_absolute(const struct display *d)
{
    return find_pointer(d, true);
}

/* A place on the screen, as a distance in pixels from the last one. */
static struct pointer_event to_distance(struct display *d,
                                        const struct pointer_event *e)
{
    const struct console *c = display_console(d);
    int w = c ? (int)c->surface.width : 640, h = c ? (int)c->surface.height : 480;
    int x = e->x * (w - 1) / POINTER_RANGE, y = e->y * (h - 1) / POINTER_RANGE;
    struct pointer_event r = {.buttons = e->buttons};

    if (d->has_last) {
        r.x = x - d->last_x;
        r.y = y - d->last_y;
    }
    d->has_last = true;
    d->last_x = x;
    d->last_y = y;
    return r;
}

void display_pointer(struct display *d, const struct pointer_event *e)
{
    const struct input *in = find_pointer(d, e->absolute);
    struct pointer_event other;

    if (!in && e->absolute) {
        other = to_distance(d, e);
        e = &other;
        in = find_pointer(d, false);
    }
    if (in)
        in->ops->pointer(in->opaque, e);
}

void display_set_leds(struct display *d, unsigned leds)
{
    atomic_store_explicit(&d->leds, leds, memory_order_relaxed);
}

unsigned display_leds(struct display *d)
{
    return atomic_load_explicit(&d->leds, memory_order_relaxed);
}
