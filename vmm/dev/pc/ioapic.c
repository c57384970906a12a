/*
 * A pin's redirection entry, 64 bits:
 *
 *    0-7 vector, 8-10 delivery mode, 11 logical, 12 delivery status (always idle),
 *    13 active low, 14 remote IRR, 15 level, 16 masked, 56-63 destination
 *
 * Edge: a rising input sends the message, once; edges while masked are lost. Level:
 * while the input is asserted and remote IRR is clear the message is sent; remote
 * IRR is set when a local APIC took it and cleared by the EOI for its vector.
 *
 * The lines of the VM say "asserted" or not, so the polarity bit is only kept.
 */
#include "vmm/dev/pc/ioapic.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI    0x40

#define IND_ID          0x00
#define IND_VERSION     0x01
#define IND_ARBITRATION 0x02
#define IND_TABLE       0x10

#define VERSION_VALUE (0x20u | (IOAPIC_NB_PINS - 1) << 16)

#define ENTRY_LOGICAL    (UINT64_C(1) << 11)
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL      (UINT64_C(1) << 15)
#define ENTRY_MASKED     (UINT64_C(1) << 16)
#define ENTRY_WRITABLE   UINT64_C(0xff0000000001afff)

struct ioapic {
    struct device dev;
    uint64_t base;
    GMutex lock; /* guards all below */
    uint8_t select;
    uint8_t id; /* 4 bits */
    uint32_t lines;
    uint64_t table[IOAPIC_NB_PINS];
    struct io_region region;
};

static struct lapic_msg pin_msg(const struct ioapic *d, unsigned pin)
{
    uint64_t e = d->table[pin];
    return (struct lapic_msg){
        .dest = e >> 56,
        .logical = e & ENTRY_LOGICAL,
        .level = e & ENTRY_LEVEL,
        .mode = e >> 8 & 7,
        .vector = e,
    };
}

/* Send the message of @pin; returns whether a local APIC took it. */
static bool pin_send(struct ioapic *d, unsigned pin)
{
    struct lapic_msg msg = pin_msg(d, pin);
    return lapic_deliver(d->dev.vm, &msg) > 0;
}

/* Tell local APICs that are the accelerator's what @pin sends. */
static void pin_route(struct ioapic *d, unsigned pin)
{
    struct lapic_msg msg = pin_msg(d, pin);
    lapic_route(d->dev.vm, pin, d->table[pin] & ENTRY_MASKED ? NULL : &msg);
}

/* Level-triggered: send when the input asks and nothing is outstanding. */
static void pin_look(struct ioapic *d, unsigned pin)
{
    uint64_t e = d->table[pin];
    if ((d->lines >> pin & 1) && (e & ENTRY_LEVEL) &&
        !(e & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) && pin_send(d, pin)) {
        d->table[pin] |= ENTRY_REMOTE_IRR;
    }
}

void ioapic_set_input(void *opaque, unsigned input, bool level)
{
    struct ioapic *d = opaque;
    if (input >= IOAPIC_NB_PINS) {
        return;
    }
    uint32_t bit = 1u << input;
    g_mutex_lock(&d->lock);
    bool rose = level && !(d->lines & bit);
    d->lines = level ? d->lines | bit : d->lines & ~bit;
    if (d->table[input] & ENTRY_LEVEL) {
        pin_look(d, input);
    } else if (rose && !(d->table[input] & ENTRY_MASKED)) {
        pin_send(d, input);
    }
    g_mutex_unlock(&d->lock);
}

static void eoi_locked(struct ioapic *d, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_NB_PINS; pin++) {
        uint64_t e = d->table[pin];
        if ((e & ENTRY_LEVEL) && (e & ENTRY_REMOTE_IRR) && (e & 0xff) == vector) {
            d->table[pin] &= ~ENTRY_REMOTE_IRR;
            pin_look(d, pin);
        }
    }
}

void ioapic_eoi(void *opaque, uint8_t vector)
{
    struct ioapic *d = opaque;
    g_mutex_lock(&d->lock);
    eoi_locked(d, vector);
    g_mutex_unlock(&d->lock);
}

static uint32_t window_read(const struct ioapic *d)
{
    unsigned i = d->select;
    switch (i) {
    case IND_ID:
    case IND_ARBITRATION: return (uint32_t)d->id << 24;
    case IND_VERSION: return VERSION_VALUE;
    }
    unsigned pin = (i - IND_TABLE) / 2;
    if (i < IND_TABLE || pin >= IOAPIC_NB_PINS) {
        return UINT32_MAX;
    }
    return d->table[pin] >> (i & 1 ? 32 : 0);
}

static void window_write(struct ioapic *d, uint32_t value)
{
    unsigned i = d->select;
    if (i == IND_ID) {
        d->id = value >> 24 & 0xf;
        return;
    }
    unsigned pin = (i - IND_TABLE) / 2;
    if (i < IND_TABLE || pin >= IOAPIC_NB_PINS) {
        return;
    }
    unsigned shift = i & 1 ? 32 : 0;
    uint64_t writable = ENTRY_WRITABLE & (UINT64_C(0xffffffff) << shift);
    uint64_t e = d->table[pin];
    e = (e & ~writable) | ((uint64_t)value << shift & writable);
    if (!(e & ENTRY_LEVEL)) {
        e &= ~ENTRY_REMOTE_IRR; /* how software without an EOI register clears it */
    }
    d->table[pin] = e;
    pin_route(d, pin);
    pin_look(d, pin);
}

static uint64_t ioapic_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct ioapic *d = opaque;
    uint32_t value = 0;
    g_mutex_lock(&d->lock);
    switch (off & ~UINT64_C(3)) {
    case REG_SELECT: value = d->select; break;
    case REG_WINDOW: value = window_read(d); break;
    }
    g_mutex_unlock(&d->lock);
    return value >> 8 * (off & 3);
}

/* Registers are written as 32 bits; anything else is not a register. */
static void ioapic_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct ioapic *d = opaque;
    g_mutex_lock(&d->lock);
    switch (off) {
    case REG_SELECT: d->select = value; break;
    case REG_WINDOW:
        if (len == 4) {
            window_write(d, value);
        }
        break;
    case REG_EOI: eoi_locked(d, value); break;
    }
    g_mutex_unlock(&d->lock);
}

static const struct io_ops ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .max_len = 4,
};

static bool ioapic_init(struct device *dev, GError **error)
{
    struct ioapic *d = container_of(dev, struct ioapic, dev);
    g_mutex_init(&d->lock);
    d->region = (struct io_region){
        .name = dev->type->name,
        .base = d->base,
        .len = 0x1000,
        .ops = &ioapic_ops,
        .opaque = d,
    };
    if (!aspace_add(dev->vm->mmio, &d->region, error)) {
        d->region.ops = NULL;
        return false;
    }
    return true;
}

static void ioapic_done(struct device *dev)
{
    struct ioapic *d = container_of(dev, struct ioapic, dev);
    if (d->region.ops) {
        aspace_remove(dev->vm->mmio, &d->region);
    }
    g_mutex_clear(&d->lock);
}

static void ioapic_reset(struct device *dev)
{
    struct ioapic *d = container_of(dev, struct ioapic, dev);
    g_mutex_lock(&d->lock);
    d->select = d->id = 0;
    for (unsigned i = 0; i < IOAPIC_NB_PINS; i++) {
        d->table[i] = ENTRY_MASKED;
        pin_route(d, i);
    }
    g_mutex_unlock(&d->lock);
}

static bool ioapic_post_load(void *object, unsigned version, GError **error)
{
    struct ioapic *d = object;
    for (unsigned i = 0; i < IOAPIC_NB_PINS; i++) {
        if (d->table[i] & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR)) {
            return error_msg(error, "ioapic: entry %u has reserved bits", i);
        }
        pin_route(d, i);
    }
    return true;
}

void ioapic_get_regs(struct device *dev, struct x86_ioapic_regs *ret)
{
    struct ioapic *d = container_of(dev, struct ioapic, dev);
    g_mutex_lock(&d->lock);
    *ret = (struct x86_ioapic_regs){
        .base = d->base, .select = d->select, .id = d->id, .irr = d->lines};
    memcpy(ret->table, d->table, sizeof(ret->table));
    g_mutex_unlock(&d->lock);
}

static const struct prop ioapic_props[] = {
    {
        .name = "base",
        .type = PROP_U64,
        PROP_FIELD(struct ioapic, base),
        .def = IOAPIC_BASE,
        .help = "address of the register page",
    },
    {0},
};

static const struct state_field ioapic_fields[] = {
    STATE_FIELD(U8, struct ioapic, select),
    STATE_FIELD(U8, struct ioapic, id),
    STATE_FIELD(U32, struct ioapic, lines),
    STATE_ARRAY(U64, struct ioapic, table, IOAPIC_NB_PINS),
    {0},
};

static const struct state_table ioapic_state = {
    .name = "ioapic",
    .version = 1,
    .fields = ioapic_fields,
    .post_load = ioapic_post_load,
};

const struct device_type ioapic_type = {
    .name = "ioapic",
    .desc = "I/O APIC with 24 pins",
    .size = sizeof(struct ioapic),
    .props = ioapic_props,
    .state = &ioapic_state,
    .init = ioapic_init,
    .done = ioapic_done,
    .reset = ioapic_reset,
};
