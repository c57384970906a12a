#include "vmm/dev/pc/smbus.h"

enum { STATUS = 0, CONTROL = 2, STATUS_NO_DEVICE = 1 << 2, CONTROL_START = 1 << 6 };

static uint64_t smbus_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct smbus *s = opaque;
    g_mutex_lock(&s->lock);
    uint8_t v = off < sizeof(s->reg) ? s->reg[off] : 0;
    g_mutex_unlock(&s->lock);
    return v;
}

static void smbus_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct smbus *s = opaque;
    g_mutex_lock(&s->lock);
    if (off == STATUS) {
        s->reg[STATUS] &= (uint8_t)~value;
    } else if (off == CONTROL) {
        s->reg[CONTROL] = (uint8_t)value & (uint8_t)~CONTROL_START;
        if (value & CONTROL_START) {
            s->reg[STATUS] |= STATUS_NO_DEVICE;
        }
    } else if (off < sizeof(s->reg)) {
        s->reg[off] = (uint8_t)value;
    }
    g_mutex_unlock(&s->lock);
}

const struct io_ops smbus_ops = {
    .read = smbus_read, .write = smbus_write, .max_len = 1};
