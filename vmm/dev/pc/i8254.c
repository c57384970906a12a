/*
 * Nothing counts: a channel remembers the tick (guest time * I8254_HZ) at which its
 * count was loaded, and counter and OUT follow from the tick now. With N the count,
 * d the ticks since loading:
 *
 *   mode                      counter        OUT
 *   0 interrupt on count      N - d          low until d = N, then high
 *   1 retriggerable one-shot  N - d          low from the trigger until d = N
 *   2 rate generator          N - d mod N    low while d mod N = N - 1
 *   3 square wave             N - 2d mod N   high for the first half of N
 *   4 software strobe         N - d          low while d = N
 *   5 hardware strobe         N - d          low while d = N
 *
 * Loading takes one clock after the count is written. In modes 2 and 3 a new count
 * takes over at the end of the current period; in 1 and 5 at the next trigger. A
 * low gate stops modes 0, 2, 3, 4 (2 and 3 start over afterwards); a rising gate
 * triggers 1 and 5. Only channel 2 has a gate that moves.
 *
 * The host timer exists for channel 0 alone and is set to its next rising OUT.
 */
#include "vmm/dev/pc/i8254.h"

#include "lib/base/base.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define NS_PER_S UINT64_C(1000000000)

/* The shortest time between two interrupts of channel 0: a guest must not keep the
 * host's main thread busy with a timer alone. Faster ones merge. */
#define MIN_TICKS (I8254_HZ / 10000)

/* Port 0x61. */
#define PORTB_GATE2   0x01
#define PORTB_SAVED   0x0f
#define PORTB_REFRESH 0x10
#define PORTB_OUT2    0x20
#define REFRESH_NS    15085

enum { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

struct channel {
    uint8_t mode;   /* 0..5 */
    uint8_t access; /* ACCESS_..., as in the control word */
    bool bcd;
    bool gate;
    bool loaded;      /* a count was written since the control word */
    bool running;     /* loaded, and triggered where the mode asks for it */
    uint32_t count;   /* 1..65536 */
    uint32_t next;    /* count that takes over later, 0: none */
    uint64_t next_at; /* the tick when it does (modes 2, 3) */
    uint64_t start;   /* tick at which `count` was loaded */
    uint64_t held;    /* ticks gone when the gate closed */
    uint8_t low_byte; /* first half of a count being written */
    bool write_high;  /* the next byte written is the high one */
    bool read_high;   /* the next byte read is the high one */
    uint8_t latched;  /* bytes of `latch` still to be read */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
};

struct i8254 {
    struct device dev;
    GMutex lock; /* guards all below */
    struct channel ch[3];
    uint8_t portb;
    uint64_t irq_tick; /* next rising OUT of channel 0, 0: none */
    struct irq_line irq;
    struct vm_timer *timer;
    struct io_region ports[2];
};

static uint64_t ns_to_tick(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * I8254_HZ / NS_PER_S);
}

/* The first nanosecond of @tick. */
static uint64_t tick_to_ns(uint64_t tick)
{
    return (uint64_t)(((unsigned __int128)tick * NS_PER_S + I8254_HZ - 1) / I8254_HZ);
}

static uint64_t i8254_now(const struct i8254 *d)
{
    return ns_to_tick(vm_clock_ns(d->dev.vm->clock));
}

static bool is_periodic(const struct channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool is_triggered(const struct channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Bring in a count whose time has come. */
static void channel_sync(struct channel *c, uint64_t now)
{
    if (c->next && is_periodic(c) && c->running && c->gate && now >= c->next_at) {
        c->start = c->next_at;
        c->count = c->next;
        c->next = 0;
    }
}

static uint64_t channel_gone(const struct channel *c, uint64_t now)
{
    if (!c->gate && !is_triggered(c)) {
        return c->held;
    }
    return now > c->start ? now - c->start : 0;
}

static uint16_t channel_counter(const struct channel *c, uint64_t now)
{
    uint32_t modulus = c->bcd ? 10000 : 0x10000;
    uint32_t value = c->count;
    if (c->running) {
        uint64_t d = channel_gone(c, now);
        if (c->mode == 2) {
            value = c->count - d % c->count;
        } else if (c->mode == 3) {
            value = (c->count - 2 * d % c->count) & ~1u;
        } else {
            value = (c->count % modulus + modulus - d % modulus) % modulus;
        }
    }
    value %= modulus;
    if (!c->bcd) {
        return value;
    }
    return value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
           value % 10;
}

static bool channel_out(const struct channel *c, uint64_t now)
{
    if (!c->running) {
        return c->mode != 0;
    }
    uint64_t d = channel_gone(c, now);
    switch (c->mode) {
    case 0:
    case 1: return d >= c->count;
    case 2: return !c->gate || d % c->count != c->count - 1;
    case 3: return !c->gate || d % c->count < (c->count + 1) / 2;
    default: return d != c->count;
    }
}

/* The tick after @now at which OUT rises, 0: never. */
static uint64_t channel_next_rise(const struct channel *c, uint64_t now)
{
    uint64_t at;
    if (!c->running) {
        return 0;
    }
    switch (c->mode) {
    case 0:
    case 1: at = c->start + c->count; break;
    case 2:
    case 3: return c->start + (channel_gone(c, now) / c->count + 1) * c->count;
    default: at = c->start + c->count + 1; break;
    }
    return at > now ? at : 0;
}

static void irq_arm(struct i8254 *d, uint64_t now)
{
    d->irq_tick = channel_next_rise(&d->ch[0], now);
    if (d->irq_tick) {
        vm_timer_set(d->timer, tick_to_ns(d->irq_tick));
    } else {
        vm_timer_cancel(d->timer);
    }
}

static void i8254_expired(void *opaque)
{
    struct i8254 *d = opaque;
    g_mutex_lock(&d->lock);
    uint64_t now = i8254_now(d);
    channel_sync(&d->ch[0], now);
    if (d->irq_tick && now < d->irq_tick) {
        vm_timer_set(d->timer, tick_to_ns(d->irq_tick));
    } else if (d->irq_tick) {
        irq_set(&d->irq, false);
        irq_set(&d->irq, true);
        irq_arm(d, now);
        if (d->irq_tick && d->irq_tick < now + MIN_TICKS) {
            irq_arm(d, now + MIN_TICKS);
        }
    }
    g_mutex_unlock(&d->lock);
}

/* ---- programming ---- */

static void channel_trigger(struct channel *c, uint64_t now)
{
    if (!c->loaded) {
        return;
    }
    if (c->next) {
        c->count = c->next;
        c->next = 0;
    }
    c->start = now + 1;
    c->running = true;
}

static void channel_load(struct channel *c, uint16_t value, uint64_t now)
{
    uint32_t count = value;
    if (c->bcd) {
        count = (value >> 12 & 0xf) * 1000 + (value >> 8 & 0xf) * 100 +
                (value >> 4 & 0xf) * 10 + (value & 0xf);
    }
    if (count == 0) {
        count = c->bcd ? 10000 : 0x10000;
    }
    /* 1 is illegal in modes 2 and 3; a period of 2 stands in for it. */
    if (count == 1 && is_periodic(c)) {
        count = 2;
    }
    bool first = !c->loaded;
    c->loaded = true;
    if (is_triggered(c)) {
        if (first) {
            c->count = count;
        } else {
            c->next = count;
        }
        return;
    }
    if (is_periodic(c) && c->running && c->gate) {
        channel_sync(c, now);
        c->next = count;
        c->next_at = c->start + (channel_gone(c, now) / c->count + 1) * c->count;
        return;
    }
    c->count = count;
    c->next = 0;
    c->start = now + 1;
    c->held = 0;
    c->running = true;
}

static void channel_write(struct i8254 *d, unsigned n, uint8_t value, uint64_t now)
{
    struct channel *c = &d->ch[n];
    if (c->access == ACCESS_BOTH && !c->write_high) {
        c->low_byte = value;
        c->write_high = true;
        if (c->mode == 0) {
            c->running = false; /* the first byte stops the count, OUT is low */
            if (n == 0) {
                irq_set(&d->irq, false);
                irq_arm(d, now);
            }
        }
        return;
    }
    uint16_t count = c->access == ACCESS_LOW    ? value
                     : c->access == ACCESS_HIGH ? value << 8
                                                : value << 8 | c->low_byte;
    c->write_high = false;
    channel_load(c, count, now);
    if (n == 0) {
        if (c->mode == 0) {
            irq_set(&d->irq, false);
        }
        irq_arm(d, now);
    }
}

static void channel_latch_count(struct channel *c, uint64_t now)
{
    if (!c->latched) {
        c->latch = channel_counter(c, now);
        c->latched = c->access == ACCESS_BOTH ? 2 : 1;
    }
}

static void channel_latch_status(struct channel *c, uint64_t now)
{
    if (!c->status_latched) {
        bool null_count = !c->running || c->next || now < c->start;
        c->status_latched = true;
        c->status = channel_out(c, now) << 7 | null_count << 6 | c->access << 4 |
                    c->mode << 1 | c->bcd;
    }
}

static void control_write(struct i8254 *d, uint8_t value, uint64_t now)
{
    unsigned n = value >> 6;
    if (n == 3) { /* read-back command */
        for (unsigned i = 0; i < 3; i++) {
            if (value & (2u << i)) {
                if (!(value & 0x20)) {
                    channel_latch_count(&d->ch[i], now);
                }
                if (!(value & 0x10)) {
                    channel_latch_status(&d->ch[i], now);
                }
            }
        }
        return;
    }
    struct channel *c = &d->ch[n];
    if ((value >> 4 & 3) == 0) {
        channel_latch_count(c, now);
        return;
    }
    uint8_t mode = value >> 1 & 7;
    *c = (struct channel){
        .gate = c->gate,
        .count = c->count,
        .access = value >> 4 & 3,
        .mode = mode > 5 ? mode - 4 : mode, /* 6 and 7 are 2 and 3 */
        .bcd = value & 1,
    };
    if (n == 0) {
        if (c->mode == 0) {
            irq_set(&d->irq, false);
        }
        irq_arm(d, now);
    }
}

static uint8_t channel_read(struct channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched) {
        bool high =
            c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->latched == 1);
        c->latched--;
        return high ? c->latch >> 8 : c->latch;
    }
    uint16_t value = channel_counter(c, now);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
    if (c->access == ACCESS_BOTH) {
        c->read_high = !c->read_high;
    }
    return high ? value >> 8 : value;
}

static void gate_set(struct channel *c, bool gate, uint64_t now)
{
    channel_sync(c, now);
    if (gate && !c->gate) {
        if (is_triggered(c)) {
            c->gate = true;
            channel_trigger(c, now);
            return;
        }
        c->start = is_periodic(c) ? now + 1 : now - MIN(c->held, now);
    } else if (!gate && c->gate) {
        c->held = channel_gone(c, now);
    }
    c->gate = gate;
}

/* ---- ports ---- */

static uint64_t i8254_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8254 *d = opaque;
    if (off == 3) {
        return 0xff; /* the control word cannot be read */
    }
    g_mutex_lock(&d->lock);
    uint64_t now = i8254_now(d);
    channel_sync(&d->ch[off], now);
    uint8_t value = channel_read(&d->ch[off], now);
    g_mutex_unlock(&d->lock);
    return value;
}

static void i8254_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct i8254 *d = opaque;
    g_mutex_lock(&d->lock);
    uint64_t now = i8254_now(d);
    for (unsigned i = 0; i < 3; i++) {
        channel_sync(&d->ch[i], now);
    }
    if (off == 3) {
        control_write(d, value, now);
    } else {
        channel_write(d, off, value, now);
    }
    g_mutex_unlock(&d->lock);
}

static uint64_t portb_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8254 *d = opaque;
    g_mutex_lock(&d->lock);
    uint64_t ns = vm_clock_ns(d->dev.vm->clock);
    uint64_t now = ns_to_tick(ns);
    channel_sync(&d->ch[2], now);
    uint8_t value = d->portb | (ns / REFRESH_NS & 1 ? PORTB_REFRESH : 0) |
                    (channel_out(&d->ch[2], now) ? PORTB_OUT2 : 0);
    g_mutex_unlock(&d->lock);
    return value;
}

static void portb_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct i8254 *d = opaque;
    g_mutex_lock(&d->lock);
    d->portb = value & PORTB_SAVED;
    gate_set(&d->ch[2], value & PORTB_GATE2, i8254_now(d));
    g_mutex_unlock(&d->lock);
}

static const struct io_ops i8254_ops = {
    .read = i8254_read, .write = i8254_write, .max_len = 1};
static const struct io_ops portb_ops = {
    .read = portb_read, .write = portb_write, .max_len = 1};

/* ---- life ---- */

static bool i8254_init(struct device *dev, GError **error)
{
    struct i8254 *d = container_of(dev, struct i8254, dev);
    g_mutex_init(&d->lock);
    d->timer = vm_timer_new(dev->vm->clock, i8254_expired, d);
    d->irq = vm_gsi_line(dev->vm, 0);
    return isa_claim(dev, &d->ports[0], 0x40, 4, &i8254_ops, error) &&
           isa_claim(dev, &d->ports[1], 0x61, 1, &portb_ops, error);
}

static void i8254_done(struct device *dev)
{
    struct i8254 *d = container_of(dev, struct i8254, dev);
    isa_release(dev, &d->ports[0]);
    isa_release(dev, &d->ports[1]);
    vm_timer_free(d->timer);
    g_mutex_clear(&d->lock);
}

/* "Prior to initialization, the mode, count and output of all counters is
 * undefined": here they stand still. */
static void i8254_reset(struct device *dev)
{
    struct i8254 *d = container_of(dev, struct i8254, dev);
    g_mutex_lock(&d->lock);
    for (unsigned i = 0; i < 3; i++) {
        d->ch[i] = (struct channel){
            .mode = 3, .access = ACCESS_BOTH, .gate = i != 2, .count = 0x10000};
    }
    d->portb = 0;
    d->irq_tick = 0;
    vm_timer_cancel(d->timer);
    irq_set(&d->irq, false);
    g_mutex_unlock(&d->lock);
}

static bool i8254_post_load(void *object, unsigned version, GError **error)
{
    struct i8254 *d = object;
    for (unsigned i = 0; i < 3; i++) {
        const struct channel *c = &d->ch[i];
        if (c->mode > 5 || c->access == 0 || c->access > 3 || c->count == 0 ||
            c->count > 0x10000 || c->next > 0x10000 || c->latched > 2) {
            return error_msg(error, "i8254: channel %u: a field is out of range", i);
        }
    }
    irq_arm(d, i8254_now(d));
    return true;
}

static const struct state_field channel_fields[] = {
    STATE_FIELD(U8, struct channel, mode),
    STATE_FIELD(U8, struct channel, access),
    STATE_FIELD(BOOL, struct channel, bcd),
    STATE_FIELD(BOOL, struct channel, gate),
    STATE_FIELD(BOOL, struct channel, loaded),
    STATE_FIELD(BOOL, struct channel, running),
    STATE_FIELD(U32, struct channel, count),
    STATE_FIELD(U32, struct channel, next),
    STATE_FIELD(U64, struct channel, next_at),
    STATE_FIELD(U64, struct channel, start),
    STATE_FIELD(U64, struct channel, held),
    STATE_FIELD(U8, struct channel, low_byte),
    STATE_FIELD(BOOL, struct channel, write_high),
    STATE_FIELD(BOOL, struct channel, read_high),
    STATE_FIELD(U8, struct channel, latched),
    STATE_FIELD(U16, struct channel, latch),
    STATE_FIELD(BOOL, struct channel, status_latched),
    STATE_FIELD(U8, struct channel, status),
    {0},
};

static const struct state_table channel_state = {
    .name = "channel", .version = 1, .fields = channel_fields};

static const struct state_field i8254_fields[] = {
    {
        .name = "ch",
        .kind = STATE_STRUCT,
        .offset = offsetof(struct i8254, ch),
        .size = sizeof(struct channel),
        .count = 3,
        .table = &channel_state,
    },
    STATE_FIELD(U8, struct i8254, portb),
    {0},
};

static const struct state_table i8254_state = {
    .name = "i8254",
    .version = 1,
    .fields = i8254_fields,
    .post_load = i8254_post_load,
};

const struct device_type i8254_type = {
    .name = "i8254",
    .desc = "programmable interval timer and port 0x61",
    .size = sizeof(struct i8254),
    .state = &i8254_state,
    .init = i8254_init,
    .done = i8254_done,
    .reset = i8254_reset,
};
