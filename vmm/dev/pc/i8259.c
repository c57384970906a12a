/*
 * Two 8259As. Each has, one bit per input:
 *
 *   irr   requests: latched by a rising edge, or the level itself where ELCR says
 *   isr   being served: set by INTA, cleared by EOI
 *   imr   masked
 *
 * Priorities rotate: `lowest` is the input with the lowest one. An input is passed
 * on when no input of the same or a higher priority is in service. The slave's
 * output is the master's input 2, computed, not latched: it cannot be lost.
 *
 * ICW1 starts the initialization sequence ICW2, ICW3 (if cascaded), ICW4 (if ICW1
 * said so), of which `icw` holds the next one expected.
 */
#include "vmm/dev/pc/i8259.h"

#include "lib/base/base.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define CASCADE 2

#define ICW1_START  0x10
#define ICW1_SINGLE 0x02
#define ICW1_ICW4   0x01
#define ICW4_AEOI   0x02
#define ICW4_SFNM   0x10
#define OCW3_SELECT 0x08

struct pic {
    uint8_t irr, isr, imr;
    uint8_t lines; /* levels of the inputs */
    uint8_t elcr;  /* 1: level-triggered */
    uint8_t elcr_writable;
    uint8_t vector_base; /* ICW2, bits 7:3 */
    uint8_t lowest;      /* input of the lowest priority, 7 after ICW1 */
    uint8_t icw;         /* 0: operating, else number of the ICW expected: 2, 3, 4 */
    bool need_icw4, single;
    bool auto_eoi, rotate_auto, special_mask, fully_nested;
    bool read_isr, poll;
    bool master;
};

struct i8259 {
    struct device dev;
    GMutex lock; /* guards all below */
    struct pic chips[2];
    struct irq_line output;
    struct io_region ports[3];
};

/* The input to pass on of those requested in @irr, or -1. */
static int pic_choose(const struct pic *p, uint8_t irr)
{
    uint8_t requests = irr & ~p->imr;
    uint8_t serving = p->special_mask ? p->isr & ~p->imr : p->isr;
    for (unsigned i = 1; i <= 8 && requests; i++) {
        unsigned input = (p->lowest + i) & 7;
        uint8_t bit = 1u << input;
        bool again = p->fully_nested && p->master && input == CASCADE;
        if ((serving & bit) && !(again && (requests & bit))) {
            return -1;
        }
        if (requests & bit) {
            return input;
        }
    }
    return -1;
}

static uint8_t pic_requests(const struct i8259 *d, unsigned chip)
{
    const struct pic *p = &d->chips[chip];
    uint8_t irr = p->irr | (p->lines & p->elcr);
    if (chip == 0) {
        irr &= ~(1u << CASCADE);
        if (pic_choose(&d->chips[1], pic_requests(d, 1)) >= 0) {
            irr |= 1u << CASCADE;
        }
    }
    return irr;
}

static int pic_pending(const struct i8259 *d, unsigned chip)
{
    const struct pic *p = &d->chips[chip];
    return p->icw ? -1 : pic_choose(p, pic_requests(d, chip));
}

static void i8259_update(struct i8259 *d)
{
    irq_set(&d->output, pic_pending(d, 0) >= 0);
}

void i8259_set_input(void *opaque, unsigned input, bool level)
{
    struct i8259 *d = opaque;
    struct pic *p = &d->chips[input >> 3 & 1];
    uint8_t bit = 1u << (input & 7);
    if (input > 15 || input == CASCADE) {
        return;
    }
    g_mutex_lock(&d->lock);
    bool changed = !(p->lines & bit) == level;
    if (level) {
        if (changed && !(p->elcr & bit)) {
            p->irr |= bit;
        }
        p->lines |= bit;
    } else {
        p->lines &= ~bit;
    }
    if (changed) {
        i8259_update(d);
    }
    g_mutex_unlock(&d->lock);
}

/* @input goes into service, as by INTA. */
static void pic_serve(struct pic *p, unsigned input)
{
    uint8_t bit = 1u << input;
    p->irr &= ~bit;
    if (!p->auto_eoi) {
        p->isr |= bit;
    } else if (p->rotate_auto) {
        p->lowest = input;
    }
}

int i8259_ack(void *opaque)
{
    struct i8259 *d = opaque;
    g_mutex_lock(&d->lock);
    int input = pic_pending(d, 0);
    int vector = d->chips[0].vector_base | 7; /* spurious: nothing in service */
    if (input == CASCADE) {
        int second = pic_pending(d, 1);
        vector = d->chips[1].vector_base | (second < 0 ? 7 : second);
        pic_serve(&d->chips[0], CASCADE);
        if (second >= 0) {
            pic_serve(&d->chips[1], second);
        }
    } else if (input >= 0) {
        vector = d->chips[0].vector_base | input;
        pic_serve(&d->chips[0], input);
    }
    /* INT falls with INTA, so that a next request is an edge again. */
    irq_set(&d->output, false);
    i8259_update(d);
    g_mutex_unlock(&d->lock);
    return vector;
}

static void pic_icw1(struct pic *p, uint8_t value)
{
    p->irr = p->isr = p->imr = 0;
    p->lowest = 7;
    p->special_mask = p->read_isr = p->poll = p->rotate_auto = false;
    p->need_icw4 = value & ICW1_ICW4;
    p->single = value & ICW1_SINGLE;
    if (!p->need_icw4) {
        p->auto_eoi = p->fully_nested = false;
    }
    p->icw = 2;
}

/* The input in service with the highest priority, or -1. */
static int pic_highest_in_service(const struct pic *p)
{
    /* In special mask mode a masked input in service is not what EOI ends. */
    uint8_t serving = p->special_mask ? p->isr & ~p->imr : p->isr;
    for (unsigned i = 1; i <= 8; i++) {
        unsigned input = (p->lowest + i) & 7;
        if (serving & (1u << input)) {
            return input;
        }
    }
    return -1;
}

static void pic_ocw2(struct pic *p, uint8_t value)
{
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    int input = specific ? value & 7 : pic_highest_in_service(p);
    if (!eoi) {
        if (!specific) {
            p->rotate_auto = rotate;
        } else if (rotate) {
            p->lowest = input; /* set priority */
        }
        return; /* the rest: no operation */
    }
    if (input >= 0) {
        p->isr &= ~(1u << input);
        if (rotate) {
            p->lowest = input;
        }
    }
}

static void pic_ocw3(struct pic *p, uint8_t value)
{
    if (value & 0x04) {
        p->poll = true;
    }
    if (value & 0x02) {
        p->read_isr = value & 0x01;
    }
    if (value & 0x40) {
        p->special_mask = value & 0x20;
    }
}

static void pic_write_data(struct pic *p, uint8_t value)
{
    switch (p->icw) {
    case 0: p->imr = value; return; /* OCW1 */
    case 2:
        p->vector_base = value & 0xf8;
        p->icw = !p->single ? 3 : p->need_icw4 ? 4 : 0;
        return;
    case 3: p->icw = p->need_icw4 ? 4 : 0; return; /* the wiring is fixed */
    default:
        p->auto_eoi = value & ICW4_AEOI;
        p->fully_nested = value & ICW4_SFNM;
        p->icw = 0;
    }
}

static void pic_write(struct i8259 *d, unsigned chip, uint64_t off, uint8_t value)
{
    struct pic *p = &d->chips[chip];
    g_mutex_lock(&d->lock);
    if (off) {
        pic_write_data(p, value);
    } else if (value & ICW1_START) {
        pic_icw1(p, value);
    } else if (value & OCW3_SELECT) {
        pic_ocw3(p, value);
    } else {
        pic_ocw2(p, value);
    }
    i8259_update(d);
    g_mutex_unlock(&d->lock);
}

/* The poll command makes the next read an INTA: bit 7 and the input, or 0. */
static uint8_t pic_poll(struct i8259 *d, unsigned chip)
{
    struct pic *p = &d->chips[chip];
    int input = pic_pending(d, chip);
    p->poll = false;
    if (input < 0) {
        return 0;
    }
    pic_serve(p, input);
    i8259_update(d);
    return 0x80 | input;
}

static uint8_t pic_read(struct i8259 *d, unsigned chip, uint64_t off)
{
    struct pic *p = &d->chips[chip];
    g_mutex_lock(&d->lock);
    uint8_t value = p->poll       ? pic_poll(d, chip)
                    : off         ? p->imr
                    : p->read_isr ? p->isr
                                  : pic_requests(d, chip);
    g_mutex_unlock(&d->lock);
    return value;
}

static uint64_t master_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return pic_read(opaque, 0, off);
}

static void master_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    pic_write(opaque, 0, off, value);
}

static uint64_t slave_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return pic_read(opaque, 1, off);
}

static void slave_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    pic_write(opaque, 1, off, value);
}

static uint64_t elcr_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct i8259 *d = opaque;
    g_mutex_lock(&d->lock);
    uint8_t value = d->chips[off & 1].elcr;
    g_mutex_unlock(&d->lock);
    return value;
}

static void elcr_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct i8259 *d = opaque;
    struct pic *p = &d->chips[off & 1];
    g_mutex_lock(&d->lock);
    p->elcr = value & p->elcr_writable;
    i8259_update(d);
    g_mutex_unlock(&d->lock);
}

static const struct io_ops master_ops = {
    .read = master_read, .write = master_write, .max_len = 1};
static const struct io_ops slave_ops = {
    .read = slave_read, .write = slave_write, .max_len = 1};
static const struct io_ops elcr_ops = {
    .read = elcr_read, .write = elcr_write, .max_len = 1};

void i8259_set_output(struct device *dev, struct irq_line output)
{
    struct i8259 *d = container_of(dev, struct i8259, dev);
    g_mutex_lock(&d->lock);
    d->output = output;
    i8259_update(d);
    g_mutex_unlock(&d->lock);
}

static bool i8259_init(struct device *dev, GError **error)
{
    struct i8259 *d = container_of(dev, struct i8259, dev);
    g_mutex_init(&d->lock);
    d->chips[0].master = true;
    /* The timer, keyboard, cascade, RTC and FERR inputs are always edges. */
    d->chips[0].elcr_writable = 0xf8;
    d->chips[1].elcr_writable = 0xde;
    return isa_claim(dev, &d->ports[0], 0x20, 2, &master_ops, error) &&
           isa_claim(dev, &d->ports[1], 0xa0, 2, &slave_ops, error) &&
           isa_claim(dev, &d->ports[2], 0x4d0, 2, &elcr_ops, error);
}

static void i8259_done(struct device *dev)
{
    struct i8259 *d = container_of(dev, struct i8259, dev);
    for (unsigned i = 0; i < ARRAY_LEN(d->ports); i++) {
        isa_release(dev, &d->ports[i]);
    }
    g_mutex_clear(&d->lock);
}

/* The data sheet leaves the state before ICW1 open: here nothing is passed on. */
static void i8259_reset(struct device *dev)
{
    struct i8259 *d = container_of(dev, struct i8259, dev);
    g_mutex_lock(&d->lock);
    for (unsigned i = 0; i < 2; i++) {
        struct pic *p = &d->chips[i];
        *p = (struct pic){
            .lines = p->lines,
            .elcr_writable = p->elcr_writable,
            .lowest = 7,
            .imr = 0xff,
            .master = p->master,
        };
    }
    i8259_update(d);
    g_mutex_unlock(&d->lock);
}

static bool i8259_post_load(void *object, unsigned version, GError **error)
{
    struct i8259 *d = object;
    for (unsigned i = 0; i < 2; i++) {
        const struct pic *p = &d->chips[i];
        if (p->lowest > 7 || p->icw == 1 || p->icw > 4 ||
            (p->elcr & ~p->elcr_writable)) {
            return error_msg(error, "i8259: chip %u: lowest, icw or elcr out of range",
                             i);
        }
    }
    i8259_update(d);
    return true;
}

void i8259_get_regs(struct device *dev, struct x86_pic_regs ret[2])
{
    struct i8259 *d = container_of(dev, struct i8259, dev);
    g_mutex_lock(&d->lock);
    for (unsigned i = 0; i < 2; i++) {
        const struct pic *p = &d->chips[i];
        ret[i] = (struct x86_pic_regs){
            .irr = p->irr,
            .imr = p->imr,
            .isr = p->isr,
            .last_irr = p->lines,
            .priority_add = (p->lowest + 1) & 7,
            .vector_base = p->vector_base,
            .elcr = p->elcr,
            .init_state = p->icw ? p->icw - 1 : 0,
            .init4 = p->need_icw4,
            .read_isr = p->read_isr,
            .poll = p->poll,
            .special_mask = p->special_mask,
            .auto_eoi = p->auto_eoi,
            .rotate_on_auto_eoi = p->rotate_auto,
            .special_nested = p->fully_nested,
        };
    }
    g_mutex_unlock(&d->lock);
}

static const struct state_field pic_fields[] = {
    STATE_FIELD(U8, struct pic, irr),
    STATE_FIELD(U8, struct pic, isr),
    STATE_FIELD(U8, struct pic, imr),
    STATE_FIELD(U8, struct pic, lines),
    STATE_FIELD(U8, struct pic, elcr),
    STATE_FIELD(U8, struct pic, vector_base),
    STATE_FIELD(U8, struct pic, lowest),
    STATE_FIELD(U8, struct pic, icw),
    STATE_FIELD(BOOL, struct pic, need_icw4),
    STATE_FIELD(BOOL, struct pic, single),
    STATE_FIELD(BOOL, struct pic, auto_eoi),
    STATE_FIELD(BOOL, struct pic, rotate_auto),
    STATE_FIELD(BOOL, struct pic, special_mask),
    STATE_FIELD(BOOL, struct pic, fully_nested),
    STATE_FIELD(BOOL, struct pic, read_isr),
    STATE_FIELD(BOOL, struct pic, poll),
    {0},
};

static const struct state_table pic_state = {
    .name = "pic", .version = 1, .fields = pic_fields};

static const struct state_field i8259_fields[] = {
    {
        .name = "chips",
        .kind = STATE_STRUCT,
        .offset = offsetof(struct i8259, chips),
        .size = sizeof(struct pic),
        .count = 2,
        .table = &pic_state,
    },
    {0},
};

static const struct state_table i8259_state = {
    .name = "i8259",
    .version = 1,
    .fields = i8259_fields,
    .post_load = i8259_post_load,
};

const struct device_type i8259_type = {
    .name = "i8259",
    .desc = "pair of 8259A interrupt controllers",
    .size = sizeof(struct i8259),
    .state = &i8259_state,
    .init = i8259_init,
    .done = i8259_done,
    .reset = i8259_reset,
};
