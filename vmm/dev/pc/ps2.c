#include "vmm/dev/pc/ps2.h"

#include <string.h>

#include "lib/base/base.h"

enum {
    ACK = 0xfa,
    RESEND = 0xfe,
    SELF_TEST_OK = 0xaa,
    BREAK = 0xf0,
    EXTENDED = 0xe0,
};

/* ---- queues ---- */

static void put(struct ps2_queue *q, uint8_t byte)
{
    if (q->n < PS2_QUEUE)
        q->bytes[(q->first + q->n++) % PS2_QUEUE] = byte;
}

uint8_t ps2_take(struct ps2_queue *q)
{
    uint8_t byte = q->bytes[q->first];

    q->first = (uint16_t)((q->first + 1) % PS2_QUEUE);
    q->n--;
    return byte;
}

static void clear(struct ps2_queue *q)
{
    q->first = q->n = 0;
}

/* ---- scan codes ---- */

/* Set 2's code of each key, by that of set 1; those with 0xe0 have the same. */
static const uint8_t set2[128] = {
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e,
    0x55, 0x66, 0x0d, 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d,
    0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b,
    0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a, 0x32, 0x31, 0x3a, 0x41,
    0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03, 0x0b,
    0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74,
    0x79, 0x69, 0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17,
    0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x56, 0x5e, 0x08, 0x10, 0x18, 0x20,
    0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6f, 0x13, 0x19, 0x39, 0x51, 0x53,
    0x5c, 0x5f, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6a, 0x6d, 0x6e,
};

/* Set 3 has a code of one byte for each key; those that differ from set 2. */
static const struct {
    uint8_t code, set3;
} set3[] = {
    {0x01, 0x08}, {0x1d, 0x11}, {0x2b, 0x5c}, {0x38, 0x19}, {0x3a, 0x14}, {0x3b, 0x07},
    {0x3c, 0x0f}, {0x3d, 0x17}, {0x3e, 0x1f}, {0x3f, 0x27}, {0x40, 0x2f}, {0x41, 0x37},
    {0x42, 0x3f}, {0x43, 0x47}, {0x44, 0x4f}, {0x45, 0x76}, {0x46, 0x5f}, {0x4a, 0x84},
    {0x4e, 0x7c}, {0x37, 0x7e}, {0x57, 0x56}, {0x58, 0x5e}, {0x56, 0x13}, {0x9c, 0x79},
    {0x9d, 0x58}, {0xb5, 0x4a}, {0xb7, 0x57}, {0xb8, 0x39}, {0xc6, 0x62}, {0xc7, 0x6e},
    {0xc8, 0x63}, {0xc9, 0x6f}, {0xcb, 0x61}, {0xcd, 0x6a}, {0xcf, 0x65}, {0xd0, 0x60},
    {0xd1, 0x6d}, {0xd2, 0x67}, {0xd3, 0x64}, {0xdb, 0x8b}, {0xdc, 0x8c}, {0xdd, 0x8d},
};

bool ps2_translate(uint8_t *prefix, uint8_t byte, uint8_t *ret)
{
    uint8_t release = *prefix;

    *prefix = 0;
    if (byte == BREAK) {
        *prefix = 0x80;
        return false;
    }
    *ret = byte;
    for (uint8_t i = 1; i < ARRAY_LEN(set2); i++) {
        if (set2[i] == byte) {
            *ret = i | release;
            return true;
        }
    }
    if (byte == 0x84) /* Alt and SysRq, of some keyboards */
        *ret = 0x54 | release;
    return true;
}

/* ---- the keyboard ---- */

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
    *k = (struct ps2_keyboard){.set = 2, .scanning = true};
}

static void put_pause(struct ps2_keyboard *k)
{
    static const uint8_t one[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
    static const uint8_t two[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};
    const uint8_t *b = k->set == 1 ? one : two;
    size_t n = k->set == 1 ? sizeof(one) : sizeof(two);

    for (size_t i = 0; i < n; i++)
        put(&k->queue, b[i]);
}

static void put_set3(struct ps2_keyboard *k, uint8_t code, bool down)
{
    uint8_t byte = code & 0x80 ? 0 : set2[code];

    for (size_t i = 0; i < ARRAY_LEN(set3); i++) {
        if (set3[i].code == code)
            byte = set3[i].set3;
    }
    if (!byte)
        return;
    if (!down)
        put(&k->queue, BREAK);
    put(&k->queue, byte);
}

void ps2_keyboard_key(struct ps2_keyboard *k, uint8_t code, bool down)
{
    enum { PAUSE = 0xc6, LONGEST = 8 };
    uint8_t low = code & 0x7f;

    if (!k->scanning || low == 0 || k->queue.n > PS2_QUEUE - LONGEST)
        return;
    if (k->set == 3) {
        put_set3(k, code, down);
    } else if (code == PAUSE) {
        if (down)
            put_pause(k);
    } else {
        if (code & 0x80)
            put(&k->queue, EXTENDED);
        if (k->set == 2 && !down)
            put(&k->queue, BREAK);
        put(&k->queue, k->set == 2 ? set2[low] : (uint8_t)(low | (down ? 0 : 0x80)));
    }
}

enum {
    KBD_LEDS = 0xed,
    KBD_ECHO = 0xee,
    KBD_SET = 0xf0,
    KBD_ID = 0xf2,
    KBD_RATE = 0xf3,
    KBD_ON = 0xf4,
    KBD_DEFAULTS_OFF = 0xf5,
    KBD_DEFAULTS = 0xf6,
    KBD_ALL_KEYS = 0xf7, /* .. 0xfa: what keys do in set 3 */
    KBD_ALL_KEYS_LAST = 0xfa,
    KBD_KEY = 0xfb, /* .. 0xfd: the same, of one key */
    KBD_KEY_LAST = 0xfd,
    KBD_RESET = 0xff,
};

static void keyboard_data(struct ps2_keyboard *k, uint8_t command, uint8_t value)
{
    put(&k->queue, ACK);
    if (command == KBD_LEDS)
        k->leds = value & 7;
    if (command == KBD_SET && value == 0)
        put(&k->queue, k->set);
    if (command == KBD_SET && value >= 1 && value <= 3)
        k->set = value;
}

static void keyboard_defaults(struct ps2_keyboard *k, bool scanning)
{
    clear(&k->queue);
    k->set = 2;
    k->scanning = scanning;
    put(&k->queue, ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t value)
{
    uint8_t command = k->command;

    k->command = 0;
    if (command && value < 0x80) {
        keyboard_data(k, command, value);
        return;
    }
    switch (value) {
    case KBD_LEDS:
    case KBD_SET:
    case KBD_RATE:
    case KBD_KEY ... KBD_KEY_LAST:
        k->command = value;
        put(&k->queue, ACK);
        break;
    case KBD_ECHO: put(&k->queue, KBD_ECHO); break;
    case KBD_ID:
        put(&k->queue, ACK);
        put(&k->queue, 0xab);
        put(&k->queue, 0x83);
        break;
    case KBD_ON: keyboard_defaults(k, true); break;
    case KBD_DEFAULTS_OFF: keyboard_defaults(k, false); break;
    case KBD_DEFAULTS: keyboard_defaults(k, true); break;
    case KBD_ALL_KEYS ... KBD_ALL_KEYS_LAST: put(&k->queue, ACK); break;
    case KBD_RESET:
        keyboard_defaults(k, true);
        k->leds = 0;
        put(&k->queue, SELF_TEST_OK);
        break;
    default: put(&k->queue, RESEND); break;
    }
}

/* ---- the mouse ---- */

enum {
    MOUSE_SCALE_1 = 0xe6,
    MOUSE_SCALE_2 = 0xe7,
    MOUSE_RESOLUTION = 0xe8,
    MOUSE_STATUS = 0xe9,
    MOUSE_STREAM = 0xea,
    MOUSE_READ = 0xeb,
    MOUSE_WRAP_OFF = 0xec,
    MOUSE_WRAP = 0xee,
    MOUSE_REMOTE = 0xf0,
    MOUSE_ID = 0xf2,
    MOUSE_RATE = 0xf3,
    MOUSE_ON = 0xf4,
    MOUSE_OFF = 0xf5,
    MOUSE_DEFAULTS = 0xf6,
    MOUSE_RESET = 0xff,
};

enum { MOVE_MAX = 255, TOO_MUCH = 2048 };

void ps2_mouse_reset(struct ps2_mouse *m)
{
    *m = (struct ps2_mouse){.resolution = 2, .rate = 100, .scaling = 1};
}

/* One report (figure "Mouse data report"): of what moved, as much as it can say. */
static void put_report(struct ps2_mouse *m)
{
    int dx = CLAMP(m->dx, -MOVE_MAX, MOVE_MAX), dy = CLAMP(m->dy, -MOVE_MAX, MOVE_MAX);
    int dz = CLAMP(m->dz, -8, 7);
    uint8_t b = m->buttons;

    put(&m->queue, (uint8_t)(0x08 | (b & 1) | (b & 4) >> 1 | (b & 2) << 1 |
                             (dx < 0) << 4 | (dy < 0) << 5));
    put(&m->queue, (uint8_t)dx);
    put(&m->queue, (uint8_t)dy);
    if (m->wheel)
        put(&m->queue, (uint8_t)dz);
    m->dx -= dx;
    m->dy -= dy;
    m->dz -= m->wheel ? dz : m->dz;
    m->sent_buttons = b;
}

void ps2_mouse_report(struct ps2_mouse *m)
{
    if (m->reporting && !m->remote && !m->wrap && !ps2_has(&m->queue) &&
        (m->dx || m->dy || (m->dz && m->wheel) || m->buttons != m->sent_buttons))
        put_report(m);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons)
{
    m->dx = CLAMP(m->dx + dx, -TOO_MUCH, TOO_MUCH);
    m->dy = CLAMP(m->dy - dy, -TOO_MUCH, TOO_MUCH);
    m->dz = CLAMP(m->dz + dz, -TOO_MUCH, TOO_MUCH);
    m->buttons = buttons & 7;
    ps2_mouse_report(m);
}

static void put_status(struct ps2_mouse *m)
{
    uint8_t b = m->buttons;

    put(&m->queue, ACK);
    put(&m->queue,
        (uint8_t)((b & 4) >> 2 | (b & 2) | (b & 1) << 2 | (m->scaling == 2) << 4 |
                  m->reporting << 5 | m->remote << 6));
    put(&m->queue, m->resolution);
    put(&m->queue, m->rate);
}

static void mouse_defaults(struct ps2_mouse *m)
{
    m->resolution = 2;
    m->rate = 100;
    m->scaling = 1;
    m->reporting = m->remote = false;
    m->dx = m->dy = m->dz = 0;
}

static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
    m->rate = rate;
    m->rates[0] = m->rates[1];
    m->rates[1] = m->rates[2];
    m->rates[2] = rate;
    if (m->rates[0] == 200 && m->rates[1] == 100 && m->rates[2] == 80)
        m->wheel = true;
}

static void mouse_command(struct ps2_mouse *m, uint8_t value)
{
    switch (value) {
    case MOUSE_SCALE_1: m->scaling = 1; break;
    case MOUSE_SCALE_2: m->scaling = 2; break;
    case MOUSE_RESOLUTION:
    case MOUSE_RATE: m->command = value; break;
    case MOUSE_STATUS: put_status(m); return;
    case MOUSE_STREAM: m->remote = false; break;
    case MOUSE_REMOTE: m->remote = true; break;
    case MOUSE_WRAP: m->wrap = true; break;
    case MOUSE_WRAP_OFF: m->wrap = false; break;
    case MOUSE_ON: m->reporting = true; break;
    case MOUSE_OFF: m->reporting = false; break;
    case MOUSE_DEFAULTS: mouse_defaults(m); break;
    case MOUSE_READ:
        put(&m->queue, ACK);
        put_report(m);
        return;
    case MOUSE_ID:
        put(&m->queue, ACK);
        put(&m->queue, m->wheel ? 3 : 0);
        return;
    case MOUSE_RESET:
        mouse_defaults(m);
        m->wheel = false;
        put(&m->queue, ACK);
        put(&m->queue, SELF_TEST_OK);
        put(&m->queue, 0);
        return;
    default: put(&m->queue, RESEND); return;
    }
    put(&m->queue, ACK);
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t value)
{
    uint8_t command = m->command;

    m->command = 0;
    if (m->wrap && value != MOUSE_RESET && value != MOUSE_WRAP_OFF) {
        put(&m->queue, value);
        return;
    }
    clear(&m->queue); /* a command ends what was being sent */
    if (command == MOUSE_RESOLUTION)
        m->resolution = value & 3;
    else if (command == MOUSE_RATE)
        set_rate(m, value);
    if (command)
        put(&m->queue, ACK);
    else
        mouse_command(m, value);
}

/* ---- state ---- */

static bool queue_ok(const struct ps2_queue *q, GError **error)
{
    return (q->first < PS2_QUEUE && q->n <= PS2_QUEUE) ||
           error_msg(error, "a queue is beyond its end");
}

static bool keyboard_post_load(void *object, unsigned version, GError **error)
{
    const struct ps2_keyboard *k = object;

    if (k->set < 1 || k->set > 3)
        return error_msg(error, "there is no scan code set %u", k->set);
    return queue_ok(&k->queue, error);
}

static bool mouse_post_load(void *object, unsigned version, GError **error)
{
    struct ps2_mouse *m = object;

    m->dx = CLAMP(m->dx, -TOO_MUCH, TOO_MUCH);
    m->dy = CLAMP(m->dy, -TOO_MUCH, TOO_MUCH);
    m->dz = CLAMP(m->dz, -TOO_MUCH, TOO_MUCH);
    return queue_ok(&m->queue, error);
}

static const struct state_field queue_fields[] = {
    STATE_BUFFER(struct ps2_queue, bytes),
    STATE_FIELD(U16, struct ps2_queue, first),
    STATE_FIELD(U16, struct ps2_queue, n),
    {0},
};
static const struct state_table queue_state = {
    .name = "ps2-queue", .version = 1, .fields = queue_fields};

#define QUEUE_FIELD(TYPE)                                                       \
    {                                                                           \
        .name = "queue", .kind = STATE_STRUCT, .offset = offsetof(TYPE, queue), \
        .size = sizeof(struct ps2_queue), .table = &queue_state                 \
    }

static const struct state_field keyboard_fields[] = {
    QUEUE_FIELD(struct ps2_keyboard),
    STATE_FIELD(U8, struct ps2_keyboard, command),
    STATE_FIELD(U8, struct ps2_keyboard, set),
    STATE_FIELD(U8, struct ps2_keyboard, leds),
    STATE_FIELD(BOOL, struct ps2_keyboard, scanning),
    {0},
};

const struct state_table ps2_keyboard_state = {.name = "ps2-keyboard",
                                               .version = 1,
                                               .fields = keyboard_fields,
                                               .post_load = keyboard_post_load};

static const struct state_field mouse_fields[] = {
    QUEUE_FIELD(struct ps2_mouse),
    STATE_FIELD(U8, struct ps2_mouse, command),
    STATE_FIELD(BOOL, struct ps2_mouse, reporting),
    STATE_FIELD(BOOL, struct ps2_mouse, remote),
    STATE_FIELD(BOOL, struct ps2_mouse, wrap),
    STATE_FIELD(BOOL, struct ps2_mouse, wheel),
    STATE_FIELD(U8, struct ps2_mouse, resolution),
    STATE_FIELD(U8, struct ps2_mouse, rate),
    STATE_FIELD(U8, struct ps2_mouse, scaling),
    STATE_BUFFER(struct ps2_mouse, rates),
    STATE_FIELD(U8, struct ps2_mouse, buttons),
    STATE_FIELD(U8, struct ps2_mouse, sent_buttons),
    STATE_FIELD(U32, struct ps2_mouse, dx),
    STATE_FIELD(U32, struct ps2_mouse, dy),
    STATE_FIELD(U32, struct ps2_mouse, dz),
    {0},
};

const struct state_table ps2_mouse_state = {.name = "ps2-mouse",
                                            .version = 1,
                                            .fields = mouse_fields,
                                            .post_load = mouse_post_load};
