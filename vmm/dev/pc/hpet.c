#include "vmm/dev/pc/hpet.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/dev/pc/pc_irqs.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

/*
 * The counter is guest time in units of 10 ns plus an offset, while it is enabled;
 * otherwise it keeps what it had. A comparator is a point on it: the host's timer is
 * set for the nearest one in the future, and when it fires, a periodic comparator moves
 * on by its period until it is in the future again.
 *
 * A comparator of 32 bits is compared with the low half of the counter; the point in
 * time is then the next at which that half is reached.
 */

enum {
    HPET_LEN = 0x400,
    TIMERS = 3,
    TICK_NS = 10,

    REG_CAPS = 0x000,
    REG_CONFIG = 0x010,
    REG_STATUS = 0x020,
    REG_COUNTER = 0x0f0,
    REG_TIMERS = 0x100, /* 0x20 bytes each: configuration, comparator, message */

    CONFIG_ON = 1 << 0,
    CONFIG_LEGACY = 1 << 1,

    T_LEVEL = 1 << 1,
    T_INT_ON = 1 << 2,
    T_PERIODIC = 1 << 3,
    T_CAN_PERIODIC = 1 << 4,
    T_CAN_64 = 1 << 5,
    T_SET_VALUE = 1 << 6,
    T_32 = 1 << 8,
    T_ROUTE_SHIFT = 9,
    T_MSI_ON = 1 << 14,
    T_CAN_MSI = 1 << 15,
    T_WRITABLE = 0x7f4e,
};

/* Revision 1, three timers, 64 bits, legacy replacement; the period in femtoseconds. */
#define CAPS       (UINT64_C(0x8086a201) | UINT64_C(TICK_NS * 1000000) << 32)
#define ROUTES_ALL UINT64_C(0x00ff0104) /* inputs that a comparator may have */

struct hpet_timer {
    uint64_t config, comparator, message;
    uint64_t period; /* of a periodic one, as written last */
};

struct hpet {
    struct device dev;
    struct pc_irqs *irqs;
    struct io_region region;
    bool mapped;
    struct vm_timer *host_timer;

    GMutex lock; /* guards what follows */
    uint64_t config, status;
    uint64_t counter; /* at guest time `since`, or now while it is off */
    uint64_t since;   /* in ticks */
    struct hpet_timer timer[TIMERS];
};

/* ---- under the lock ---- */

static uint64_t now_ticks(const struct hpet *h)
{
    return vm_clock_ns(h->dev.vm->clock) / TICK_NS;
}

static uint64_t counter(const struct hpet *h)
{
    return h->config & CONFIG_ON ? h->counter + (now_ticks(h) - h->since) : h->counter;
}

static unsigned route(const struct hpet *h, unsigned n)
{
    if ((h->config & CONFIG_LEGACY) && n < 2) {
        return n == 0 ? 0 : 8;
    }
    return h->timer[n].config >> T_ROUTE_SHIFT & 31;
}

static void set_line(struct hpet *h, unsigned n, bool level)
{
    if ((h->config & CONFIG_LEGACY) && n < 2) {
        if (h->irqs) {
            pc_irqs_set_by_hpet(h->irqs, route(h, n), level);
        }
        return;
    }
    struct irq_line line = vm_gsi_line(h->dev.vm, route(h, n));
    irq_set(&line, level);
}

static void fire(struct hpet *h, unsigned n)
{
    const struct hpet_timer *t = &h->timer[n];
    bool is_level = t->config & T_LEVEL;
    if (is_level) {
        h->status |= UINT64_C(1) << n;
    }
    if (!(t->config & T_INT_ON) || !(h->config & CONFIG_ON)) {
        return;
    }
    if (t->config & T_MSI_ON) {
        vm_send_msi(h->dev.vm, t->message >> 32, (uint32_t)t->message);
    } else if (is_level) {
        set_line(h, n, true);
    } else {
        set_line(h, n, true);
        set_line(h, n, false);
    }
}

/* How many ticks until comparator @t is reached from @now; 0 is a whole round. */
static uint64_t distance(const struct hpet_timer *t, uint64_t now)
{
    if (t->config & T_32) {
        uint32_t d = (uint32_t)t->comparator - (uint32_t)now;
        return d ? d : UINT64_C(1) << 32;
    }
    uint64_t d = t->comparator - now;
    return d ? d : UINT64_MAX;
}

static void arm(struct hpet *h)
{
    uint64_t now = counter(h), nearest = UINT64_MAX;
    for (unsigned n = 0; n < TIMERS; n++) {
        if (h->timer[n].config & T_INT_ON) {
            nearest = MIN(nearest, distance(&h->timer[n], now));
        }
    }
    /* What is nearer than 5 us waits until then: a guest may ask for a tick every 10
     * ns. Beyond a day the timer comes, looks and waits on. */
    nearest = MAX(nearest, 500);
    nearest = MIN(nearest, UINT64_C(86400) * 100000000);
    if (h->config & CONFIG_ON) {
        vm_timer_set(h->host_timer, (now_ticks(h) + nearest) * TICK_NS);
    } else {
        vm_timer_cancel(h->host_timer);
    }
}

/* Comparators that were reached since the counter was @before. */
static void catch_up(struct hpet *h, uint64_t before, uint64_t now)
{
    for (unsigned n = 0; n < TIMERS; n++) {
        struct hpet_timer *t = &h->timer[n];
        uint64_t d = distance(t, before);
        if (now - before < d) {
            continue;
        }
        if ((t->config & T_PERIODIC) && t->period) {
            uint64_t missed = (now - before - d) / t->period;
            t->comparator += (missed + 1) * t->period;
            if (t->config & T_32) {
                t->comparator = (uint32_t)t->comparator;
            }
        }
        fire(h, n);
    }
}

/* Bring everything to now. */
static void look(struct hpet *h)
{
    if (!(h->config & CONFIG_ON)) {
        return;
    }
    uint64_t ticks = now_ticks(h), before = h->counter,
             now = before + (ticks - h->since);
    h->counter = now;
    h->since = ticks;
    catch_up(h, before, now);
}

static void write_config(struct hpet *h, uint64_t v)
{
    uint64_t old = h->config;
    v &= CONFIG_ON | CONFIG_LEGACY;
    h->config = v;
    if (v & ~old & CONFIG_ON) {
        h->since = now_ticks(h);
    }
    if ((v ^ old) & CONFIG_LEGACY && h->irqs) {
        pc_irqs_set_hpet_legacy(h->irqs, v & CONFIG_LEGACY);
    }
}

static void write_status(struct hpet *h, uint64_t v)
{
    for (unsigned n = 0; n < TIMERS; n++) {
        if (v & h->status & (UINT64_C(1) << n)) {
            set_line(h, n, false);
        }
    }
    h->status &= ~v;
}

static void write_timer(struct hpet *h, unsigned n, unsigned off, uint64_t v)
{
    struct hpet_timer *t = &h->timer[n];
    switch (off) {
    case 0x00: {
        uint64_t fixed = t->config & ~(uint64_t)T_WRITABLE;
        if ((h->status >> n & 1) && ((t->config ^ v) & (T_LEVEL | T_INT_ON))) {
            set_line(h, n, false);
        }
        t->config = fixed | (v & T_WRITABLE);
        if (t->config & T_32) {
            t->comparator = (uint32_t)t->comparator;
            t->period = (uint32_t)t->period;
        }
        break;
    }
    case 0x08:
        if (t->config & T_32) {
            v = (uint32_t)v;
        }
        /* Of a periodic one this is the period, and the comparator too only after it
         * was said so (2.3.9.2.2). */
        if (!(t->config & T_PERIODIC) || (t->config & T_SET_VALUE)) {
            t->comparator = v;
        }
        if (t->config & T_PERIODIC) {
            t->period = v;
        }
        t->config &= ~(uint64_t)T_SET_VALUE;
        break;
    case 0x10: t->message = v; break;
    default: break;
    }
}

static uint64_t read_register(struct hpet *h, unsigned reg)
{
    switch (reg) {
    case REG_CAPS: return CAPS;
    case REG_CONFIG: return h->config;
    case REG_STATUS: return h->status;
    case REG_COUNTER: return counter(h);
    default: break;
    }
    if (reg >= REG_TIMERS && reg < REG_TIMERS + TIMERS * 0x20) {
        const struct hpet_timer *t = &h->timer[(reg - REG_TIMERS) / 0x20];
        switch (reg & 0x18) {
        case 0x00: return t->config;
        case 0x08: return t->comparator;
        case 0x10: return t->message;
        default: break;
        }
    }
    return 0;
}

static void write_register(struct hpet *h, unsigned reg, uint64_t v)
{
    switch (reg) {
    case REG_CONFIG: write_config(h, v); break;
    case REG_STATUS: write_status(h, v); break;
    case REG_COUNTER:
        if (!(h->config & CONFIG_ON)) {
            h->counter = v;
        }
        break;
    default:
        if (reg >= REG_TIMERS && reg < REG_TIMERS + TIMERS * 0x20) {
            write_timer(h, (reg - REG_TIMERS) / 0x20, reg & 0x18, v);
        }
        break;
    }
}

/* ---- accesses: of 32 and 64 bits (2.1) ---- */

static uint64_t hpet_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct hpet *h = opaque;
    if (off % len) {
        return 0;
    }
    g_mutex_lock(&h->lock);
    look(h);
    uint64_t v = read_register(h, (unsigned)off & ~7u);
    g_mutex_unlock(&h->lock);
    return v >> (off & 7) * 8;
}

static void hpet_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct hpet *h = opaque;
    unsigned reg = (unsigned)off & ~7u, shift = (unsigned)(off & 7) * 8;
    if (off % len) {
        return;
    }
    g_mutex_lock(&h->lock);
    look(h);
    if (len == 4) {
        uint64_t mask = UINT64_C(0xffffffff) << shift,
                 old = reg == REG_STATUS ? 0 : read_register(h, reg);
        value = (old & ~mask) | (value << shift & mask);
    }
    write_register(h, reg, value);
    arm(h);
    g_mutex_unlock(&h->lock);
}

static const struct io_ops hpet_ops = {
    .read = hpet_read, .write = hpet_write, .min_len = 4};

static void timer_fired(void *opaque)
{
    struct hpet *h = opaque;
    g_mutex_lock(&h->lock);
    look(h);
    arm(h);
    g_mutex_unlock(&h->lock);
}

/* ---- life ---- */

void hpet_connect(struct device *dev, struct pc_irqs *irqs)
{
    ((struct hpet *)dev)->irqs = irqs;
}

static bool hpet_init(struct device *dev, GError **error)
{
    struct hpet *h = (struct hpet *)dev;
    g_mutex_init(&h->lock);
    h->host_timer = vm_timer_new(dev->vm->clock, timer_fired, h);
    h->region = (struct io_region){.name = dev->id,
                                   .base = HPET_BASE,
                                   .len = HPET_LEN,
                                   .ops = &hpet_ops,
                                   .opaque = h};
    h->mapped = aspace_add(dev->vm->mmio, &h->region, error);
    return h->mapped;
}

static void hpet_done(struct device *dev)
{
    struct hpet *h = (struct hpet *)dev;
    if (h->mapped) {
        aspace_remove(dev->vm->mmio, &h->region);
    }
    vm_timer_free(h->host_timer);
    g_mutex_clear(&h->lock);
}

static void hpet_reset(struct device *dev)
{
    struct hpet *h = (struct hpet *)dev;
    g_mutex_lock(&h->lock);
    write_status(h, h->status);
    write_config(h, 0);
    h->counter = h->since = 0;
    for (unsigned n = 0; n < TIMERS; n++) {
        h->timer[n] = (struct hpet_timer){.config = T_CAN_PERIODIC | T_CAN_64 |
                                                    T_CAN_MSI | ROUTES_ALL << 32,
                                          .comparator = UINT64_MAX};
    }
    arm(h);
    g_mutex_unlock(&h->lock);
}

static const struct state_field timer_fields[] = {
    STATE_FIELD(U64, struct hpet_timer, config),
    STATE_FIELD(U64, struct hpet_timer, comparator),
    STATE_FIELD(U64, struct hpet_timer, message),
    STATE_FIELD(U64, struct hpet_timer, period),
    {.name = NULL},
};

static const struct state_table timer_state = {
    .name = "hpet-timer", .version = 1, .fields = timer_fields};

static const struct state_field hpet_fields[] = {
    STATE_FIELD(U64, struct hpet, config),
    STATE_FIELD(U64, struct hpet, status),
    STATE_FIELD(U64, struct hpet, counter),
    STATE_FIELD(U64, struct hpet, since),
    {.name = "timers",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct hpet, timer),
     .size = sizeof(struct hpet_timer),
     .count = TIMERS,
     .table = &timer_state},
    {.name = NULL},
};

static void pre_save(void *object)
{
    struct hpet *h = object;
    g_mutex_lock(&h->lock);
    look(h);
    g_mutex_unlock(&h->lock);
}

static bool post_load(void *object, unsigned version, GError **error)
{
    struct hpet *h = object;
    g_mutex_lock(&h->lock);
    for (unsigned n = 0; n < TIMERS; n++) {
        uint64_t fixed = T_CAN_PERIODIC | T_CAN_64 | T_CAN_MSI | ROUTES_ALL << 32;
        h->timer[n].config = fixed | (h->timer[n].config & T_WRITABLE);
    }
    h->config &= CONFIG_ON | CONFIG_LEGACY;
    h->since = now_ticks(h);
    if (h->irqs) {
        pc_irqs_set_hpet_legacy(h->irqs, h->config & CONFIG_LEGACY);
    }
    arm(h);
    g_mutex_unlock(&h->lock);
    return true;
}

static const struct state_table hpet_state = {.name = "hpet",
                                              .version = 1,
                                              .fields = hpet_fields,
                                              .pre_save = pre_save,
                                              .post_load = post_load};

const struct device_type hpet_type = {
    .name = "hpet",
    .desc = "high precision event timer",
    .size = sizeof(struct hpet),
    .state = &hpet_state,
    .init = hpet_init,
    .done = hpet_done,
    .reset = hpet_reset,
};
