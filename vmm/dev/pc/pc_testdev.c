#include "vmm/dev/pc/pc_testdev.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define ECHO_BASE  0xe0
#define FLUSH_BASE 0xe4
#define BYTE_BASE  0xe8
#define IRQ_BASE   0x2000
#define NB_IRQS    24
#define MEM_BASE   0xff000000
#define MEM_LEN    (64 * KIB)

struct pc_testdev {
    struct device dev;
    GMutex lock; /* guards echo, memory */
    uint8_t echo[4];
    uint8_t memory[MEM_LEN];
    struct irq_line irqs[NB_IRQS];
    struct io_region echo_ports, flush_port, irq_ports, mem;
    struct byte_port {
        struct pc_testdev *d;
        unsigned n;
        struct io_region port;
    } bytes[4];
};

/* The four bytes; what would go beyond them is cut off. */
static uint64_t echo_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pc_testdev *d = opaque;
    uint64_t value;

    g_mutex_lock(&d->lock);
    value = le32_get(d->echo) >> 8 * off;
    g_mutex_unlock(&d->lock);
    return len < 4 ? value & ((1u << 8 * len) - 1) : value;
}

static void echo_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct pc_testdev *d = opaque;

    g_mutex_lock(&d->lock);
    for (unsigned i = 0; i < len && off + i < sizeof(d->echo); i++)
        d->echo[off + i] = value >> 8 * i;
    g_mutex_unlock(&d->lock);
}

static const struct io_ops echo_ops = {
    .read = echo_read, .write = echo_write, .max_len = 4};

/* One port each, so that wider accesses come in pieces. */
static uint64_t byte_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct byte_port *p = opaque;

    return echo_read(p->d, vcpu, p->n, 1);
}

static void byte_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct byte_port *p = opaque;

    echo_write(p->d, vcpu, p->n, value, 1);
}

static const struct io_ops byte_ops = {
    .read = byte_read, .write = byte_write, .max_len = 1};

static uint64_t flush_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return 0;
}

static void flush_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    struct pc_testdev *d = opaque;

    gmem_written(d->dev.vm->gmem, value & ~(GMEM_PAGE_SIZE - 1), GMEM_PAGE_SIZE);
}

static const struct io_ops flush_ops = {
    .read = flush_read, .write = flush_write, .max_len = 4};

static uint64_t irq_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return 0;
}

static void irq_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct pc_testdev *d = opaque;

    irq_set(&d->irqs[off], value & 0xff);
}

static const struct io_ops irq_ops = {
    .read = irq_read, .write = irq_write, .max_len = 1};

static uint64_t mem_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pc_testdev *d = opaque;
    uint8_t b[8] = {0};

    g_mutex_lock(&d->lock);
    memcpy(b, d->memory + off, MIN(len, MEM_LEN - off));
    g_mutex_unlock(&d->lock);
    return le64_get(b);
}

static void mem_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct pc_testdev *d = opaque;
    uint8_t b[8];

    le64_put(b, value);
    g_mutex_lock(&d->lock);
    memcpy(d->memory + off, b, MIN(len, MEM_LEN - off));
    g_mutex_unlock(&d->lock);
}

static const struct io_ops mem_ops = {.read = mem_read, .write = mem_write};

static bool add_byte_ports(struct pc_testdev *d, GError **error)
{
    for (unsigned i = 0; i < ARRAY_LEN(d->bytes); i++) {
        struct byte_port *p = &d->bytes[i];

        *p = (struct byte_port){.d = d, .n = i};
        if (d->dev.vm->pio && aspace_has(d->dev.vm->pio, BYTE_BASE + i))
            continue;
        if (!isa_claim(&d->dev, &p->port, BYTE_BASE + i, 1, &byte_ops, error))
            return false;
        p->port.opaque = p;
    }
    return true;
}

static bool add_memory(struct pc_testdev *d, GError **error)
{
    d->mem = (struct io_region){
        .name = d->dev.type->name,
        .base = MEM_BASE,
        .len = MEM_LEN,
        .ops = &mem_ops,
        .opaque = d,
    };
    if (aspace_add(d->dev.vm->mmio, &d->mem, error))
        return true;
    d->mem.ops = NULL;
    return false;
}

static bool pc_testdev_init(struct device *dev, GError **error)
{
    struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);

    g_mutex_init(&d->lock);
    for (unsigned i = 0; i < NB_IRQS; i++)
        d->irqs[i] = vm_gsi_line(dev->vm, i);
    return isa_claim(dev, &d->echo_ports, ECHO_BASE, 4, &echo_ops, error) &&
           isa_claim(dev, &d->flush_port, FLUSH_BASE, 4, &flush_ops, error) &&
           isa_claim(dev, &d->irq_ports, IRQ_BASE, NB_IRQS, &irq_ops, error) &&
           add_byte_ports(d, error) && add_memory(d, error);
}

static void pc_testdev_done(struct device *dev)
{
    struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);

    isa_release(dev, &d->echo_ports);
    isa_release(dev, &d->flush_port);
    isa_release(dev, &d->irq_ports);
    for (unsigned i = 0; i < ARRAY_LEN(d->bytes); i++)
        isa_release(dev, &d->bytes[i].port);
    if (d->mem.ops)
        aspace_remove(dev->vm->mmio, &d->mem);
    g_mutex_clear(&d->lock);
}

static void pc_testdev_reset(struct device *dev)
{
    struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);

    g_mutex_lock(&d->lock);
    memset(d->echo, 0, sizeof(d->echo));
    memset(d->memory, 0, sizeof(d->memory));
    g_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < NB_IRQS; i++)
        irq_set(&d->irqs[i], false);
}

static const struct state_field pc_testdev_fields[] = {
    STATE_BUFFER(struct pc_testdev, echo),
    STATE_BUFFER(struct pc_testdev, memory),
    {0},
};

static const struct state_table pc_testdev_state = {
    .name = "pc-testdev", .version = 1, .fields = pc_testdev_fields};

const struct device_type pc_testdev_type = {
    .name = "pc-testdev",
    .desc = "registers for guests that test processors",
    .bus = "isa",
    .size = sizeof(struct pc_testdev),
    .state = &pc_testdev_state,
    .user = true,
    .init = pc_testdev_init,
    .done = pc_testdev_done,
    .reset = pc_testdev_reset,
};
