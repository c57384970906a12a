/*
 * The controller answers through one output buffer. A command may want one data
 * byte at port 0x60; `expect` names the command that waits for it. When the buffer is
 * empty the next byte of the keyboard or of the mouse comes into it, unless its port is
 * off; the keyboard's through the translation to scan code set 1, if that is on.
 *
 * With nothing plugged in, a byte meant for the keyboard meets an open wire: the
 * controller reports a time-out. Then there is no auxiliary port, either: its commands
 * are accepted and answer nothing, by which drivers recognise a controller with one
 * port.
 */
#include "vmm/dev/pc/i8042.h"

#include "lib/base/base.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/dev/pc/ps2.h"
#include "vmm/display/console.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

enum {
    STATUS_OUTPUT = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20, /* the byte is the mouse's */
    STATUS_TIMEOUT = 0x40,
};

enum {
    CMD_READ_RAM = 0x20,  /* .. 0x3f; 0x20 is the command byte */
    CMD_WRITE_RAM = 0x60, /* .. 0x7f */
    CMD_AUX_OFF = 0xa7,
    CMD_AUX_ON = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KBD_TEST = 0xab,
    CMD_KBD_OFF = 0xad,
    CMD_KBD_ON = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_LOOP_KBD = 0xd2,
    CMD_LOOP_AUX = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_PULSE = 0xf0, /* .. 0xff: lines with a 0 in bits 3:0 are pulsed low */
};

enum {
    CB_KBD_IRQ = 0x01,
    CB_AUX_IRQ = 0x02,
    CB_SYSTEM = 0x04,
    CB_KBD_OFF = 0x10,
    CB_AUX_OFF = 0x20,
    CB_TRANSLATE = 0x40,
};

enum { OUTPUT_NO_RESET = 0x01, OUTPUT_A20 = 0x02 };

enum { PORT92_RESET = 0x01, PORT92_A20 = 0x02 };

struct i8042 {
    struct device dev;
    GMutex lock; /* guards all below */
    uint8_t status;
    uint8_t data;
    uint8_t ram[32]; /* ram[0] is the command byte */
    uint8_t expect;  /* command that waits for a byte, 0: none */
    bool a20;
    bool plugged;   /* there are a keyboard and a mouse */
    uint8_t prefix; /* of the translation */
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;
    struct irq_line irq, aux_irq, a20_line;
    struct io_region ports[3];
};

static void i8042_update_irq(struct i8042 *d)
{
    bool full = d->status & STATUS_OUTPUT, aux = d->status & STATUS_AUX;

    irq_set(&d->irq, full && !aux && (d->ram[0] & CB_KBD_IRQ));
    irq_set(&d->aux_irq, full && aux && (d->ram[0] & CB_AUX_IRQ));
}

static void i8042_give(struct i8042 *d, uint8_t value, bool aux)
{
    d->data = value;
    d->status = (d->status & ~STATUS_AUX) | STATUS_OUTPUT | (aux ? STATUS_AUX : 0);
    i8042_update_irq(d);
}

static void i8042_answer(struct i8042 *d, uint8_t value)
{
    i8042_give(d, value, false);
}

/* The next byte of what is plugged in, when there is room for it. */
static void i8042_fetch(struct i8042 *d)
{
    if (!d->plugged)
        return;
    while (!(d->status & STATUS_OUTPUT) && !(d->ram[0] & CB_KBD_OFF) &&
           ps2_has(&d->keyboard.queue)) {
        uint8_t byte = ps2_take(&d->keyboard.queue);

        if (!(d->ram[0] & CB_TRANSLATE) || ps2_translate(&d->prefix, byte, &byte))
            i8042_give(d, byte, false);
    }
    if (!(d->status & STATUS_OUTPUT) && !(d->ram[0] & CB_AUX_OFF)) {
        ps2_mouse_report(&d->mouse);
        if (ps2_has(&d->mouse.queue))
            i8042_give(d, ps2_take(&d->mouse.queue), true);
    }
}

static void i8042_to_keyboard(struct i8042 *d, uint8_t value)
{
    ps2_keyboard_write(&d->keyboard, value);
    d->ram[0] &= ~CB_KBD_OFF;
    if (d->dev.vm->display)
        display_set_leds(d->dev.vm->display, d->keyboard.leds);
}

static void i8042_to_mouse(struct i8042 *d, uint8_t value)
{
    ps2_mouse_write(&d->mouse, value);
    d->ram[0] &= ~CB_AUX_OFF;
}

static void i8042_set_a20(struct i8042 *d, bool on)
{
    d->a20 = on;
    irq_set(&d->a20_line, on);
}

static uint8_t output_port(const struct i8042 *d)
{
    return OUTPUT_NO_RESET | (d->a20 ? OUTPUT_A20 : 0) |
           (d->status & STATUS_OUTPUT ? 0x10 : 0);
}

static void i8042_self_test(struct i8042 *d)
{
    d->status |= STATUS_SYSTEM;
    d->status &= ~STATUS_TIMEOUT;
    d->ram[0] = CB_KBD_OFF | CB_SYSTEM;
    if (d->plugged)
        d->ram[0] |= CB_AUX_OFF | CB_TRANSLATE;
    i8042_answer(d, 0x55);
}

/* Returns whether the machine is to be reset. */
static bool i8042_command(struct i8042 *d, uint8_t cmd)
{
    d->status |= STATUS_COMMAND;
    d->expect = 0;
    switch (cmd) {
    case CMD_READ_RAM ... CMD_READ_RAM + 31:
        i8042_answer(d, d->ram[cmd - CMD_READ_RAM]);
        break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 31:
    case CMD_WRITE_OUTPUT:
    case CMD_LOOP_KBD: d->expect = cmd; break;
    case CMD_SELF_TEST: i8042_self_test(d); break;
    case CMD_KBD_TEST: i8042_answer(d, 0x00); break;
    case CMD_AUX_OFF: d->ram[0] |= d->plugged ? CB_AUX_OFF : 0; break;
    case CMD_AUX_ON: d->ram[0] &= ~CB_AUX_OFF; break;
    case CMD_AUX_TEST:
        if (d->plugged)
            i8042_answer(d, 0x00);
        break;
    case CMD_LOOP_AUX:
    case CMD_WRITE_AUX:
        if (d->plugged)
            d->expect = cmd;
        break;
    case CMD_KBD_OFF: d->ram[0] |= CB_KBD_OFF; break;
    case CMD_KBD_ON: d->ram[0] &= ~CB_KBD_OFF; break;
    case CMD_READ_INPUT: i8042_answer(d, 0x80); break; /* not locked */
    case CMD_READ_OUTPUT: i8042_answer(d, output_port(d)); break;
    case CMD_A20_OFF: i8042_set_a20(d, false); break;
    case CMD_A20_ON: i8042_set_a20(d, true); break;
    case CMD_PULSE ... CMD_PULSE + 15: return !(cmd & 0x01);
    }
    return false;
}

static bool i8042_data(struct i8042 *d, uint8_t value)
{
    uint8_t cmd = d->expect;
    d->status &= ~STATUS_COMMAND;
    d->expect = 0;
    switch (cmd) {
    case CMD_WRITE_RAM:
        d->ram[0] = value & 0x7f;
        d->status = (d->status & ~STATUS_SYSTEM) | (value & CB_SYSTEM);
        i8042_update_irq(d);
        return false;
    case CMD_WRITE_RAM + 1 ... CMD_WRITE_RAM + 31:
        d->ram[cmd - CMD_WRITE_RAM] = value;
        return false;
    case CMD_WRITE_OUTPUT:
        i8042_set_a20(d, value & OUTPUT_A20);
        return !(value & OUTPUT_NO_RESET);
    case CMD_LOOP_KBD: i8042_answer(d, value); return false;
    case CMD_LOOP_AUX: i8042_give(d, value, true); return false;
    case CMD_WRITE_AUX: i8042_to_mouse(d, value); return false;
    }
    if (d->plugged) {
        i8042_to_keyboard(d, value);
        return false;
    }
    d->status |= STATUS_TIMEOUT;
    i8042_answer(d, 0xfe);
    return false;
}

static uint64_t data_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    uint8_t value = d->data;
    d->status &= ~(STATUS_OUTPUT | STATUS_TIMEOUT | STATUS_AUX);
    i8042_update_irq(d);
    i8042_fetch(d);
    g_mutex_unlock(&d->lock);
    return value;
}

static void data_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    bool reset = i8042_data(d, value);
    i8042_fetch(d);
    g_mutex_unlock(&d->lock);
    if (reset) {
        vm_request_reset(d->dev.vm);
    }
}

static uint64_t status_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    uint8_t value = d->status;
    g_mutex_unlock(&d->lock);
    return value;
}

static void command_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                          unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    bool reset = i8042_command(d, value);
    i8042_fetch(d);
    g_mutex_unlock(&d->lock);
    if (reset) {
        vm_request_reset(d->dev.vm);
    }
}

static uint64_t port92_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    uint8_t value = d->a20 ? PORT92_A20 : 0;
    g_mutex_unlock(&d->lock);
    return value;
}

static void port92_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    i8042_set_a20(d, value & PORT92_A20);
    g_mutex_unlock(&d->lock);
    if (value & PORT92_RESET) {
        vm_request_reset(d->dev.vm);
    }
}

static const struct io_ops data_ops = {
    .read = data_read, .write = data_write, .max_len = 1};
static const struct io_ops command_ops = {
    .read = status_read, .write = command_write, .max_len = 1};
static const struct io_ops port92_ops = {
    .read = port92_read, .write = port92_write, .max_len = 1};

void i8042_set_a20_line(struct device *dev, struct irq_line a20)
{
    struct i8042 *d = container_of(dev, struct i8042, dev);
    g_mutex_lock(&d->lock);
    d->a20_line = a20;
    irq_set(&d->a20_line, d->a20);
    g_mutex_unlock(&d->lock);
}

/* ---- what is plugged in ---- */

static void on_key(void *opaque, uint8_t code, bool down)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    ps2_keyboard_key(&d->keyboard, code, down);
    i8042_fetch(d);
    g_mutex_unlock(&d->lock);
}

static void on_pointer(void *opaque, const struct pointer_event *e)
{
    struct i8042 *d = opaque;
    int dz = !!(e->buttons & POINTER_WHEEL_DOWN) - !!(e->buttons & POINTER_WHEEL_UP);
    g_mutex_lock(&d->lock);
    ps2_mouse_move(&d->mouse, e->x, e->y, dz, e->buttons);
    i8042_fetch(d);
    g_mutex_unlock(&d->lock);
}

static const struct input_ops input_ops = {.key = on_key, .pointer = on_pointer};

void i8042_plug(struct device *dev)
{
    struct i8042 *d = container_of(dev, struct i8042, dev);
    d->plugged = true;
    d->aux_irq = vm_gsi_line(dev->vm, 12);
    ps2_keyboard_reset(&d->keyboard);
    ps2_mouse_reset(&d->mouse);
    if (dev->vm->display) {
        display_add_input(dev->vm->display, &input_ops, d);
    }
}

static bool i8042_init(struct device *dev, GError **error)
{
    struct i8042 *d = container_of(dev, struct i8042, dev);
    g_mutex_init(&d->lock);
    d->irq = vm_gsi_line(dev->vm, 1);
    d->a20 = true;
    return isa_claim(dev, &d->ports[0], 0x60, 1, &data_ops, error) &&
           isa_claim(dev, &d->ports[1], 0x64, 1, &command_ops, error) &&
           isa_claim(dev, &d->ports[2], 0x92, 1, &port92_ops, error);
}

static void i8042_done(struct device *dev)
{
    struct i8042 *d = container_of(dev, struct i8042, dev);
    if (dev->vm->display) {
        display_remove_input(dev->vm->display, d);
    }
    for (unsigned i = 0; i < ARRAY_LEN(d->ports); i++) {
        isa_release(dev, &d->ports[i]);
    }
    g_mutex_clear(&d->lock);
}

static void i8042_reset(struct device *dev)
{
    struct i8042 *d = container_of(dev, struct i8042, dev);
    g_mutex_lock(&d->lock);
    d->status = STATUS_UNLOCKED | STATUS_COMMAND;
    d->data = d->expect = 0;
    for (unsigned i = 0; i < ARRAY_LEN(d->ram); i++) {
        d->ram[i] = 0;
    }
    d->ram[0] = CB_KBD_OFF;
    d->prefix = 0;
    if (d->plugged) {
        d->ram[0] |= CB_AUX_OFF | CB_TRANSLATE;
        ps2_keyboard_reset(&d->keyboard);
        ps2_mouse_reset(&d->mouse);
    }
    i8042_set_a20(d, true);
    i8042_update_irq(d);
    g_mutex_unlock(&d->lock);
}

static bool i8042_post_load(void *object, unsigned version, GError **error)
{
    struct i8042 *d = object;
    i8042_set_a20(d, d->a20);
    i8042_update_irq(d);
    return true;
}

static const struct state_field i8042_fields[] = {
    STATE_FIELD(U8, struct i8042, status), STATE_FIELD(U8, struct i8042, data),
    STATE_BUFFER(struct i8042, ram),       STATE_FIELD(U8, struct i8042, expect),
    STATE_FIELD(BOOL, struct i8042, a20),  {0},
};

static bool has_devices(const void *object)
{
    const struct i8042 *d = object;
    return d->plugged;
}

static const struct state_field device_fields[] = {
    STATE_FIELD(U8, struct i8042, prefix),
    {.name = "keyboard",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct i8042, keyboard),
     .size = sizeof(struct ps2_keyboard),
     .table = &ps2_keyboard_state},
    {.name = "mouse",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct i8042, mouse),
     .size = sizeof(struct ps2_mouse),
     .table = &ps2_mouse_state},
    {0},
};

static const struct state_table device_state = {
    .name = "ps2", .version = 1, .fields = device_fields, .needed = has_devices};

static const struct state_table *const i8042_subsections[] = {&device_state, NULL};

static const struct state_table i8042_state = {
    .name = "i8042",
    .version = 1,
    .fields = i8042_fields,
    .subsections = i8042_subsections,
    .post_load = i8042_post_load,
};

const struct device_type i8042_type = {
    .name = "i8042",
    .desc = "keyboard controller, and port 0x92",
    .bus = "isa",
    .size = sizeof(struct i8042),
    .state = &i8042_state,
    .init = i8042_init,
    .done = i8042_done,
    .reset = i8042_reset,
};
