/*
 * The controller answers through one output buffer. A command may want one data
 * byte at port 0x60; `expect` names the command that waits for it. A byte meant for
 * the keyboard meets an open wire: the controller reports a time-out.
 *
 * There is no auxiliary port: its commands are accepted and answer nothing, by which
 * drivers recognise a controller with one port.
 */
#include "vmm/dev/pc/i8042.h"

#include "lib/base/base.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

enum {
    STATUS_OUTPUT = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_TIMEOUT = 0x40,
};

enum {
    CMD_READ_RAM = 0x20,  /* .. 0x3f; 0x20 is the command byte */
    CMD_WRITE_RAM = 0x60, /* .. 0x7f */
    CMD_SELF_TEST = 0xaa,
    CMD_KBD_TEST = 0xab,
    CMD_KBD_OFF = 0xad,
    CMD_KBD_ON = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_LOOP_KBD = 0xd2,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_PULSE = 0xf0, /* .. 0xff: lines with a 0 in bits 3:0 are pulsed low */
};

enum { CB_KBD_IRQ = 0x01, CB_SYSTEM = 0x04, CB_KBD_OFF = 0x10 };

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
    struct irq_line irq, a20_line;
    struct io_region ports[3];
};

static void i8042_update_irq(struct i8042 *d)
{
    irq_set(&d->irq, (d->status & STATUS_OUTPUT) && (d->ram[0] & CB_KBD_IRQ));
}

static void i8042_answer(struct i8042 *d, uint8_t value)
{
    d->data = value;
    d->status |= STATUS_OUTPUT;
    i8042_update_irq(d);
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
    d->status &= ~(STATUS_OUTPUT | STATUS_TIMEOUT);
    i8042_update_irq(d);
    g_mutex_unlock(&d->lock);
    return value;
}

static void data_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct i8042 *d = opaque;
    g_mutex_lock(&d->lock);
    bool reset = i8042_data(d, value);
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

static const struct state_table i8042_state = {
    .name = "i8042",
    .version = 1,
    .fields = i8042_fields,
    .post_load = i8042_post_load,
};

const struct device_type i8042_type = {
    .name = "i8042",
    .desc = "keyboard controller without a keyboard, and port 0x92",
    .bus = "isa",
    .size = sizeof(struct i8042),
    .state = &i8042_state,
    .init = i8042_init,
    .done = i8042_done,
    .reset = i8042_reset,
};
