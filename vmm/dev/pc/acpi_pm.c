#include "vmm/dev/pc/acpi_pm.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/vm.h"

/*
 * The timer is a counter of 24 bits at 3.579545 MHz whose status bit is set when its
 * top bit changes. Nothing counts: the value comes from guest time, and whether the
 * top bit has changed since the last look from two values. The host's timer runs only
 * while the guest wants an interrupt of it.
 *
 * Sleep types are those of the firmware's tables: 0 is S5.
 */

enum {
    PM1_STS = 0,
    PM1_EN = 2,
    PM1_CNT = 4,
    PM_TMR = 8,

    APM_CONTROL = 0xb2,
    TIMER_BITS = 24,
    STATUS_BITS = ACPI_PM1_TIMER | ACPI_PM1_GLOBAL | ACPI_PM1_POWER_BUTTON |
                  ACPI_PM1_RTC | ACPI_PM1_WAKE,
    ENABLE_BITS =
        ACPI_PM1_TIMER | ACPI_PM1_GLOBAL | ACPI_PM1_POWER_BUTTON | ACPI_PM1_RTC,
    CONTROL_BITS = 0x1c07,
    SLEEP_OFF = 0,
};

#define TIMER_HZ 3579545
#define NS_PER_S UINT64_C(1000000000)
#define HALF     (UINT64_C(1) << (TIMER_BITS - 1))

static uint64_t ticks(const struct acpi_pm *pm)
{
    return (uint64_t)((unsigned __int128)vm_clock_ns(pm->vm->clock) * TIMER_HZ /
                      NS_PER_S);
}

/* ---- under the lock ---- */

static void look_at_timer(struct acpi_pm *pm)
{
    uint64_t now = ticks(pm);
    if (now / HALF != pm->timer_seen / HALF) {
        pm->pm1_status |= ACPI_PM1_TIMER;
    }
    pm->timer_seen = now;
}

static void arm_timer(struct acpi_pm *pm)
{
    if ((pm->pm1_enable & ACPI_PM1_TIMER) && !(pm->pm1_status & ACPI_PM1_TIMER)) {
        uint64_t next = (pm->timer_seen / HALF + 1) * HALF;
        vm_timer_set(pm->timer,
                     (uint64_t)((unsigned __int128)next * NS_PER_S / TIMER_HZ) + 1);
    } else {
        vm_timer_cancel(pm->timer);
    }
}

static void update(struct acpi_pm *pm)
{
    bool level = pm->pm1_status & pm->pm1_enable;
    for (unsigned i = 0; i < pm->gpe_len / 2; i++) {
        level |= pm->gpe[i] & pm->gpe[pm->gpe_len / 2 + i];
    }
    irq_set(&pm->sci, level);
    arm_timer(pm);
}

static void sleep_asked(struct acpi_pm *pm, uint16_t value)
{
    /* S4 has no type of its own in the tables: all that are not S5 do nothing. */
    if ((value >> 10 & 7) == SLEEP_OFF) {
        vm_request_poweroff(pm->vm);
    }
}

/* ---- registers ---- */

static uint16_t *register_of(struct acpi_pm *pm, unsigned off)
{
    switch (off & ~1u) {
    case PM1_STS: return &pm->pm1_status;
    case PM1_EN: return &pm->pm1_enable;
    case PM1_CNT: return &pm->pm1_control;
    default: return NULL;
    }
}

uint64_t acpi_pm_read(struct acpi_pm *pm, unsigned off, unsigned len)
{
    uint64_t value = 0;
    g_mutex_lock(&pm->lock);
    look_at_timer(pm);
    uint32_t count = (uint32_t)pm->timer_seen & 0xffffff;
    for (unsigned i = 0; i < len; i++) {
        unsigned at = off + i;
        const uint16_t *r = register_of(pm, at);
        uint8_t byte = 0;
        if (r) {
            byte = (uint8_t)(*r >> (at & 1) * 8);
        } else if (at >= PM_TMR && at < PM_TMR + 4) {
            byte = (uint8_t)(count >> (at - PM_TMR) * 8);
        }
        value |= (uint64_t)byte << (8 * i);
    }
    g_mutex_unlock(&pm->lock);
    return value;
}

static void write_byte(struct acpi_pm *pm, unsigned off, uint8_t value)
{
    unsigned shift = (off & 1) * 8;
    uint16_t mask = (uint16_t)(0xff << shift), v = (uint16_t)(value << shift);
    switch (off & ~1u) {
    case PM1_STS: pm->pm1_status &= (uint16_t) ~(v & STATUS_BITS); break;
    case PM1_EN:
        pm->pm1_enable = (uint16_t)((pm->pm1_enable & ~mask) | (v & ENABLE_BITS));
        break;
    case PM1_CNT:
        pm->pm1_control = (uint16_t)((pm->pm1_control & ~mask) | (v & CONTROL_BITS));
        if (v & ACPI_CNT_SLEEP) {
            sleep_asked(pm, pm->pm1_control);
        }
        break;
    default: break;
    }
}

void acpi_pm_write(struct acpi_pm *pm, unsigned off, uint32_t value, unsigned len)
{
    g_mutex_lock(&pm->lock);
    look_at_timer(pm);
    for (unsigned i = 0; i < len; i++) {
        write_byte(pm, off + i, (uint8_t)(value >> (8 * i)));
    }
    update(pm);
    g_mutex_unlock(&pm->lock);
}

uint8_t acpi_pm_read_gpe(struct acpi_pm *pm, unsigned off)
{
    g_mutex_lock(&pm->lock);
    uint8_t v = off < pm->gpe_len ? pm->gpe[off] : 0;
    g_mutex_unlock(&pm->lock);
    return v;
}

void acpi_pm_write_gpe(struct acpi_pm *pm, unsigned off, uint8_t value)
{
    g_mutex_lock(&pm->lock);
    if (off < pm->gpe_len / 2) {
        pm->gpe[off] &= (uint8_t)~value;
    } else if (off < pm->gpe_len) {
        pm->gpe[off] = value;
    }
    update(pm);
    g_mutex_unlock(&pm->lock);
}

void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned gpe)
{
    g_mutex_lock(&pm->lock);
    if (gpe / 8 < pm->gpe_len / 2) {
        pm->gpe[gpe / 8] |= (uint8_t)(1u << gpe % 8);
    }
    update(pm);
    g_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    g_mutex_lock(&pm->lock);
    pm->pm1_status |= ACPI_PM1_POWER_BUTTON;
    update(pm);
    g_mutex_unlock(&pm->lock);
}

static void timer_fired(void *opaque)
{
    struct acpi_pm *pm = opaque;
    g_mutex_lock(&pm->lock);
    look_at_timer(pm);
    update(pm);
    g_mutex_unlock(&pm->lock);
}

/* ---- ports 0xb2 and 0xb3 ---- */

static uint64_t apm_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct acpi_pm *pm = opaque;
    g_mutex_lock(&pm->lock);
    uint8_t v = off == 0 ? pm->apm_control : pm->apm_status;
    g_mutex_unlock(&pm->lock);
    return v;
}

static void apm_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct acpi_pm *pm = opaque;
    g_mutex_lock(&pm->lock);
    if (off != 0) {
        pm->apm_status = (uint8_t)value;
    } else {
        pm->apm_control = (uint8_t)value;
        /* The firmware's SMI handler would do this. */
        if (value == pm->enable_value) {
            pm->pm1_control |= ACPI_CNT_SCI_ON;
        } else if (value == pm->disable_value) {
            pm->pm1_control &= (uint16_t)~ACPI_CNT_SCI_ON;
        }
    }
    g_mutex_unlock(&pm->lock);
    if (off == 0 && pm->smi) {
        pm->smi(pm->opaque, (uint8_t)value);
    }
}

static const struct io_ops apm_ops = {
    .read = apm_read, .write = apm_write, .max_len = 1};

/* ---- life ---- */

bool acpi_pm_init(struct acpi_pm *pm, GError **error)
{
    g_mutex_init(&pm->lock);
    pm->timer = vm_timer_new(pm->vm->clock, timer_fired, pm);
    pm->apm = (struct io_region){
        .name = "apm", .base = APM_CONTROL, .len = 2, .ops = &apm_ops, .opaque = pm};
    pm->has_apm = aspace_add(pm->vm->pio, &pm->apm, error);
    return pm->has_apm;
}

void acpi_pm_done(struct acpi_pm *pm)
{
    if (!pm->timer) {
        return;
    }
    if (pm->has_apm) {
        aspace_remove(pm->vm->pio, &pm->apm);
    }
    vm_timer_free(pm->timer);
    g_mutex_clear(&pm->lock);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
    g_mutex_lock(&pm->lock);
    pm->pm1_status = pm->pm1_enable = pm->pm1_control = 0;
    memset(pm->gpe, 0, sizeof(pm->gpe));
    pm->apm_control = pm->apm_status = 0;
    pm->timer_seen = ticks(pm);
    update(pm);
    g_mutex_unlock(&pm->lock);
}

static const struct state_field fields[] = {
    STATE_FIELD(U16, struct acpi_pm, pm1_status),
    STATE_FIELD(U16, struct acpi_pm, pm1_enable),
    STATE_FIELD(U16, struct acpi_pm, pm1_control),
    STATE_BUFFER(struct acpi_pm, gpe),
    STATE_FIELD(U8, struct acpi_pm, apm_control),
    STATE_FIELD(U8, struct acpi_pm, apm_status),
    STATE_FIELD(U64, struct acpi_pm, timer_seen),
    {.name = NULL},
};

static bool post_load(void *object, unsigned version, GError **error)
{
    struct acpi_pm *pm = object;
    g_mutex_lock(&pm->lock);
    update(pm);
    g_mutex_unlock(&pm->lock);
    return true;
}

const struct state_table acpi_pm_state = {
    .name = "acpi-pm", .version = 1, .fields = fields, .post_load = post_load};
