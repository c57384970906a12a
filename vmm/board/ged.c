#include "vmm/board/ged.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/irq.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

/* Sleep control register (ACPI 6.4, 4.8.3.7). */
#define SLP_EN     (1u << 5)
#define SLP_TYP(v) (((v) >> 2) & 7)

struct ged {
    struct device dev;
    uint64_t base;
    uint32_t gsi;
    struct io_region io;
    struct irq_line irq;
    bool mapped;
    GMutex lock; /* guards what follows */
    uint32_t events;
};

static uint64_t ged_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct ged *g = opaque;
    uint64_t v = 0;

    if (off == GED_EVENTS) {
        g_mutex_lock(&g->lock);
        v = g->events;
        g->events = 0;
        irq_set(&g->irq, false);
        g_mutex_unlock(&g->lock);
    }
    return v;
}

static void ged_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct ged *g = opaque;

    if (off == GED_SLEEP_CONTROL && (value & SLP_EN) &&
        SLP_TYP(value) == GED_SLEEP_TYPE_S5)
        vm_request_poweroff(g->dev.vm);
    else if (off == GED_RESET && (value & 0xff) == GED_RESET_VALUE)
        vm_request_reset(g->dev.vm);
}

static const struct io_ops ged_io = {
    .read = ged_read, .write = ged_write, .max_len = 4};

void ged_power_button(struct device *dev)
{
    struct ged *g = container_of(dev, struct ged, dev);

    g_mutex_lock(&g->lock);
    g->events |= GED_EVENT_POWER_BUTTON;
    irq_set(&g->irq, true);
    g_mutex_unlock(&g->lock);
}

static bool ged_init(struct device *dev, GError **error)
{
    struct ged *g = container_of(dev, struct ged, dev);

    g_mutex_init(&g->lock);
    g->irq = vm_gsi_line(dev->vm, g->gsi);
    g->io = (struct io_region){
        .name = "acpi-ged",
        .base = g->base,
        .len = GED_LEN,
        .ops = &ged_io,
        .opaque = g,
    };
    g->mapped = aspace_add(dev->vm->mmio, &g->io, error);
    return g->mapped;
}

static void ged_done(struct device *dev)
{
    struct ged *g = container_of(dev, struct ged, dev);

    if (g->mapped)
        aspace_remove(dev->vm->mmio, &g->io);
    g_mutex_clear(&g->lock);
}

static void ged_reset(struct device *dev)
{
    struct ged *g = container_of(dev, struct ged, dev);

    g_mutex_lock(&g->lock);
    g->events = 0;
    irq_set(&g->irq, false);
    g_mutex_unlock(&g->lock);
}

static const struct prop ged_props[] = {
    {"base", PROP_U64, PROP_FIELD(struct ged, base), .required = true,
     .help = "address of its registers"},
    {"gsi", PROP_U32, PROP_FIELD(struct ged, gsi), .required = true,
     .help = "its interrupt"},
    {NULL},
};

static const struct state_field ged_fields[] = {
    STATE_FIELD(U32, struct ged, events),
    {NULL},
};

static bool ged_post_load(void *object, unsigned version, GError **error)
{
    struct ged *g = object;

    irq_set(&g->irq, g->events != 0);
    return true;
}

static const struct state_table ged_state = {
    .name = "acpi-ged",
    .version = 1,
    .fields = ged_fields,
    .post_load = ged_post_load,
};

const struct device_type ged_type = {
    .name = "acpi-ged",
    .desc = "ACPI sleep and reset registers, power button",
    .size = sizeof(struct ged),
    .props = ged_props,
    .state = &ged_state,
    .init = ged_init,
    .done = ged_done,
    .reset = ged_reset,
};
