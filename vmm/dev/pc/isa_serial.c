/*
 * Registers at iobase, DLAB being bit 7 of LCR:
 *
 *   0 RBR read, THR write, DLL when DLAB    4 MCR
 *   1 IER, DLM when DLAB                    5 LSR
 *   2 IIR read, FCR write                   6 MSR
 *   3 LCR                                   7 SCR
 *
 * Sending takes no time: a byte goes from THR to the gathered output (chr_out.h),
 * and the transmitter is empty again, as long as the host takes what is sent. When
 * it does not, THRE and TEMT go away until there is room for a whole FIFO.
 *
 * Receiving: the chardev is asked for as much as the FIFO (or RBR alone) has room
 * for. Below the trigger level the interrupt comes when four character times have
 * passed without a byte or a read.
 *
 * The modem lines of the other side are always ready, as a null-modem cable makes
 * them; in loopback they follow MCR.
 */
#include "vmm/dev/pc/isa_serial.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/chardev/chardev.h"
#include "vmm/dev/pc/chr_out.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define FIFO_SIZE 16
#define UART_HZ   115200 /* characters bits per second at divisor 1 */
#define AUTO      UINT32_MAX

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
    IER_RX = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_ALL = 0x0f,
};

enum {
    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_THRE = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,
};

enum {
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    FCR_KEPT = 0xc9, /* enable, DMA mode, trigger */
};

enum { LCR_DLAB = 0x80 };

enum { MCR_LOOP = 0x10, MCR_ALL = 0x1f };

enum {
    LSR_DR = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_ERRORS = 0x1e, /* OE, PE, FE, BI */
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
};

enum {
    MSR_DELTA_CTS = 0x01,
    MSR_DELTA_DSR = 0x02,
    MSR_RI_ENDED = 0x04,
    MSR_DELTA_DCD = 0x08,
    MSR_DELTAS = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct isa_serial {
    struct device dev;
    uint32_t index, iobase, irq_number;
    struct chardev *cd;

    GMutex lock; /* guards all below */
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
    uint16_t divisor;
    bool thre_pending;    /* the transmitter became empty, IIR has not said so */
    bool timeout_pending; /* characters wait below the trigger level */
    uint8_t rx[FIFO_SIZE];
    uint8_t rx_head, rx_count;
    struct chr_out out;
    struct vm_timer *timeout;
    struct irq_line irq;
    struct io_region ports;
    bool attached;
};

static bool fifo_on(const struct isa_serial *d)
{
    return d->fcr & FCR_ENABLE;
}

static unsigned rx_capacity(const struct isa_serial *d)
{
    return fifo_on(d) ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct isa_serial *d)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return fifo_on(d) ? levels[d->fcr >> 6] : 1;
}

/* The interrupt with the highest priority, as IIR's low bits. */
static uint8_t serial_interrupt(const struct isa_serial *d)
{
    if ((d->ier & IER_LINE) && (d->lsr & LSR_ERRORS)) {
        return IIR_LINE;
    }
    if ((d->ier & IER_RX) && d->rx_count >= rx_trigger(d)) {
        return IIR_RX;
    }
    if ((d->ier & IER_RX) && d->timeout_pending) {
        return IIR_TIMEOUT;
    }
    if ((d->ier & IER_THRE) && d->thre_pending) {
        return IIR_THRE;
    }
    if ((d->ier & IER_MODEM) && (d->msr & MSR_DELTAS)) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

/*
 * OUT2 is not looked at, though on a PC it gates the line: guests written against
 * other virtual machines leave it off.
 */
static void serial_update_irq(struct isa_serial *d)
{
    irq_set(&d->irq, serial_interrupt(d) != IIR_NONE);
}

/* Four characters of ten bits. */
static void serial_arm_timeout(struct isa_serial *d)
{
    d->timeout_pending = false;
    if (!fifo_on(d) || d->rx_count == 0) {
        vm_timer_cancel(d->timeout);
        return;
    }
    uint64_t divisor = d->divisor ? d->divisor : 1;
    struct vm_clock *clock = d->dev.vm->clock;
    vm_timer_set(d->timeout, vm_clock_ns(clock) + divisor * 40 * 1000000000 / UART_HZ);
}

static void serial_timeout(void *opaque)
{
    struct isa_serial *d = opaque;
    g_mutex_lock(&d->lock);
    if (fifo_on(d) && d->rx_count) {
        d->timeout_pending = true;
        serial_update_irq(d);
    }
    g_mutex_unlock(&d->lock);
}

static void rx_push(struct isa_serial *d, uint8_t byte)
{
    if (d->rx_count == rx_capacity(d)) {
        d->lsr |= LSR_OVERRUN;
        if (!fifo_on(d)) {
            d->rx[d->rx_head] = byte; /* RBR is overwritten, a full FIFO is not */
        }
        return;
    }
    d->rx[(d->rx_head + d->rx_count++) % FIFO_SIZE] = byte;
    d->lsr |= LSR_DR;
}

static void rx_clear(struct isa_serial *d)
{
    d->rx_head = d->rx_count = 0;
    d->lsr &= ~LSR_DR;
    serial_arm_timeout(d);
}

static uint8_t rx_pop(struct isa_serial *d)
{
    uint8_t byte = d->rx[d->rx_head];
    if (d->rx_count) {
        d->rx_head = (d->rx_head + 1) % FIFO_SIZE;
        d->rx_count--;
        serial_arm_timeout(d);
    }
    if (d->rx_count == 0) {
        d->lsr &= ~LSR_DR;
    }
    return byte;
}

/* THRE and TEMT stand while a whole FIFO would be taken. */
static void tx_look(struct isa_serial *d)
{
    bool was_empty = d->lsr & LSR_THRE;
    if (chr_out_room(&d->out) < FIFO_SIZE) {
        chr_out_flush(&d->out);
    }
    if (chr_out_room(&d->out) < FIFO_SIZE) { /* serial_can_write() looks again */
        d->lsr &= ~(LSR_THRE | LSR_TEMT);
    } else if (!was_empty) {
        d->lsr |= LSR_THRE | LSR_TEMT;
        d->thre_pending = true;
    }
}

static void tx_write(struct isa_serial *d, uint8_t byte)
{
    if (d->mcr & MCR_LOOP) {
        rx_push(d, byte);
        serial_arm_timeout(d);
    } else {
        chr_out_put(&d->out, byte);
    }
    /* THR was filled and, unless the host does not take it, is empty again. */
    d->lsr &= ~(LSR_THRE | LSR_TEMT);
    d->thre_pending = false;
    tx_look(d);
}

/* The modem lines as MCR and the other side make them, with deltas. */
static void modem_look(struct isa_serial *d)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;
    if (d->mcr & MCR_LOOP) {
        lines = (d->mcr & 0x02 ? MSR_CTS : 0) | (d->mcr & 0x01 ? MSR_DSR : 0) |
                (d->mcr & 0x04 ? MSR_RI : 0) | (d->mcr & 0x08 ? MSR_DCD : 0);
    }
    uint8_t changed = (d->msr ^ lines) & 0xf0;
    uint8_t deltas = changed >> 4 & (MSR_DELTA_CTS | MSR_DELTA_DSR | MSR_DELTA_DCD);
    if ((changed & MSR_RI) && !(lines & MSR_RI)) {
        deltas |= MSR_RI_ENDED; /* of RI only the trailing edge is told */
    }
    d->msr = lines | (d->msr & MSR_DELTAS) | deltas;
}

static void fcr_write(struct isa_serial *d, uint8_t value)
{
    bool toggled = (value ^ d->fcr) & FCR_ENABLE;
    if (!(value & FCR_ENABLE)) {
        value = 0; /* the other bits are only taken with it */
    }
    d->fcr = value & FCR_KEPT;
    if (toggled || (value & FCR_CLEAR_RX)) {
        rx_clear(d);
    }
    /* FCR_CLEAR_TX: the transmitter's FIFO is never anything but empty. */
}

static void ier_write(struct isa_serial *d, uint8_t value)
{
    uint8_t risen = value & ~d->ier;
    d->ier = value & IER_ALL;
    if ((risen & IER_THRE) && (d->lsr & LSR_THRE)) {
        d->thre_pending = true;
    }
}

static uint64_t serial_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct isa_serial *d = opaque;
    uint8_t value = 0;
    bool accept = false;
    g_mutex_lock(&d->lock);
    bool dlab = d->lcr & LCR_DLAB;
    switch (off) {
    case REG_DATA:
        accept = !dlab;
        value = dlab ? d->divisor : rx_pop(d);
        break;
    case REG_IER: value = dlab ? d->divisor >> 8 : d->ier; break;
    case REG_IIR:
        value = serial_interrupt(d);
        if (value == IIR_THRE) {
            d->thre_pending = false;
        }
        value |= fifo_on(d) ? IIR_FIFO : 0;
        break;
    case REG_LCR: value = d->lcr; break;
    case REG_MCR: value = d->mcr; break;
    case REG_LSR:
        value = d->lsr;
        d->lsr &= ~LSR_ERRORS;
        break;
    case REG_MSR:
        value = d->msr;
        d->msr &= ~MSR_DELTAS;
        break;
    case REG_SCR: value = d->scr; break;
    }
    serial_update_irq(d);
    g_mutex_unlock(&d->lock);
    if (accept && d->cd) {
        chardev_accept_input(d->cd);
    }
    return value;
}

static void serial_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct isa_serial *d = opaque;
    bool accept = false;
    g_mutex_lock(&d->lock);
    bool dlab = d->lcr & LCR_DLAB;
    switch (off) {
    case REG_DATA:
        if (dlab) {
            d->divisor = (d->divisor & 0xff00) | value;
        } else {
            tx_write(d, value);
        }
        break;
    case REG_IER:
        if (dlab) {
            d->divisor = (d->divisor & 0xff) | value << 8;
        } else {
            ier_write(d, value);
        }
        break;
    case REG_IIR:
        fcr_write(d, value);
        accept = true;
        break;
    case REG_LCR: d->lcr = value; break;
    case REG_MCR:
        d->mcr = value & MCR_ALL;
        modem_look(d);
        accept = true;
        break;
    case REG_SCR: d->scr = value; break;
    }
    serial_update_irq(d);
    g_mutex_unlock(&d->lock);
    if (accept && d->cd) {
        chardev_accept_input(d->cd);
    }
}

static const struct io_ops serial_ops = {
    .read = serial_read, .write = serial_write, .max_len = 1};

/* ---- the host's side, on the loop's thread ---- */

static size_t serial_can_read(void *opaque)
{
    struct isa_serial *d = opaque;
    g_mutex_lock(&d->lock);
    size_t n = d->mcr & MCR_LOOP ? 0 : rx_capacity(d) - d->rx_count;
    g_mutex_unlock(&d->lock);
    return n;
}

/* A register write may have taken room away since can_read: what does not fit is
 * lost then, with an overrun, as on a line. */
static void serial_receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct isa_serial *d = opaque;
    g_mutex_lock(&d->lock);
    for (size_t i = 0; i < len; i++) {
        rx_push(d, buf[i]);
    }
    serial_arm_timeout(d);
    serial_update_irq(d);
    g_mutex_unlock(&d->lock);
}

static void serial_can_write(void *opaque)
{
    struct isa_serial *d = opaque;
    g_mutex_lock(&d->lock);
    chr_out_resume(&d->out);
    tx_look(d);
    serial_update_irq(d);
    g_mutex_unlock(&d->lock);
}

static const struct chardev_handlers serial_handlers = {
    .can_read = serial_can_read,
    .read = serial_receive,
    .can_write = serial_can_write,
};

/* ---- life ---- */

static unsigned count_serials(const struct vm *vm)
{
    unsigned n = 0;
    for (unsigned i = 0; i < vm->devices->len; i++) {
        const struct device *dev = g_ptr_array_index(vm->devices, i);
        n += dev->type == &isa_serial_type;
    }
    return n;
}

static bool serial_place(struct isa_serial *d, GError **error)
{
    static const uint16_t bases[] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
    static const uint8_t irqs[] = {4, 3, 4, 3};
    if (d->index == AUTO) {
        d->index = count_serials(d->dev.vm);
    }
    if (d->index >= ARRAY_LEN(bases)) {
        if (d->iobase == AUTO || d->irq_number == AUTO) {
            return error_msg(error,
                             "%s: serial port %u has no standard place: give "
                             "iobase and irq",
                             d->dev.id, d->index);
        }
        return true;
    }
    if (d->iobase == AUTO) {
        d->iobase = bases[d->index];
    }
    if (d->irq_number == AUTO) {
        d->irq_number = irqs[d->index];
    }
    return true;
}

static bool isa_serial_init(struct device *dev, GError **error)
{
    struct isa_serial *d = container_of(dev, struct isa_serial, dev);
    g_mutex_init(&d->lock);
    d->timeout = vm_timer_new(dev->vm->clock, serial_timeout, d);
    chr_out_init(&d->out, d->cd, dev->vm->clock, &d->lock);
    if (!serial_place(d, error)) {
        return false;
    }
    d->irq = vm_gsi_line(dev->vm, d->irq_number);
    if (!isa_claim(dev, &d->ports, d->iobase, 8, &serial_ops, error)) {
        return false;
    }
    d->attached = d->cd && chardev_attach(d->cd, &serial_handlers, d, error);
    return d->attached || !d->cd;
}

static void isa_serial_done(struct device *dev)
{
    struct isa_serial *d = container_of(dev, struct isa_serial, dev);
    isa_release(dev, &d->ports);
    chr_out_done(&d->out);
    if (d->attached) {
        chardev_detach(d->cd);
    }
    vm_timer_free(d->timeout);
    g_mutex_clear(&d->lock);
}

static void isa_serial_reset(struct device *dev)
{
    struct isa_serial *d = container_of(dev, struct isa_serial, dev);
    g_mutex_lock(&d->lock);
    d->ier = d->fcr = d->lcr = d->mcr = d->scr = 0;
    d->lsr = LSR_THRE | LSR_TEMT;
    d->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    d->divisor = 12; /* 9600 baud, what a BIOS leaves */
    d->thre_pending = false;
    rx_clear(d);
    tx_look(d);
    serial_update_irq(d);
    g_mutex_unlock(&d->lock);
    if (d->cd) {
        chardev_accept_input(d->cd);
    }
}

static bool isa_serial_post_load(void *object, unsigned version, GError **error)
{
    struct isa_serial *d = object;
    if (d->rx_head >= FIFO_SIZE || d->rx_count > rx_capacity(d)) {
        return error_msg(error, "isa-serial: receive FIFO out of range");
    }
    bool pending = d->timeout_pending;
    serial_arm_timeout(d);
    d->timeout_pending = pending;
    serial_update_irq(d);
    return true;
}

static const struct prop isa_serial_props[] = {
    {
        .name = "index",
        .type = PROP_U32,
        PROP_FIELD(struct isa_serial, index),
        .def = AUTO,
        .help = "which COM port, from 0; default: the next",
    },
    {
        .name = "iobase",
        .type = PROP_U32,
        PROP_FIELD(struct isa_serial, iobase),
        .def = AUTO,
        .help = "first of its 8 ports; default: by index",
    },
    {
        .name = "irq",
        .type = PROP_U32,
        PROP_FIELD(struct isa_serial, irq_number),
        .def = AUTO,
        .help = "interrupt input; default: by index",
    },
    {
        .name = "chardev",
        .type = PROP_CHARDEV,
        PROP_FIELD(struct isa_serial, cd),
        .help = "where the line leads",
    },
    {0},
};

static const struct state_field isa_serial_fields[] = {
    STATE_FIELD(U8, struct isa_serial, ier),
    STATE_FIELD(U8, struct isa_serial, fcr),
    STATE_FIELD(U8, struct isa_serial, lcr),
    STATE_FIELD(U8, struct isa_serial, mcr),
    STATE_FIELD(U8, struct isa_serial, lsr),
    STATE_FIELD(U8, struct isa_serial, msr),
    STATE_FIELD(U8, struct isa_serial, scr),
    STATE_FIELD(U16, struct isa_serial, divisor),
    STATE_FIELD(BOOL, struct isa_serial, thre_pending),
    STATE_FIELD(BOOL, struct isa_serial, timeout_pending),
    STATE_BUFFER(struct isa_serial, rx),
    STATE_FIELD(U8, struct isa_serial, rx_head),
    STATE_FIELD(U8, struct isa_serial, rx_count),
    {0},
};

static const struct state_table isa_serial_state = {
    .name = "isa-serial",
    .version = 1,
    .fields = isa_serial_fields,
    .post_load = isa_serial_post_load,
};

const struct device_type isa_serial_type = {
    .name = "isa-serial",
    .desc = "16550A serial port",
    .bus = "isa",
    .size = sizeof(struct isa_serial),
    .props = isa_serial_props,
    .state = &isa_serial_state,
    .user = true,
    .init = isa_serial_init,
    .done = isa_serial_done,
    .reset = isa_serial_reset,
};
