#ifndef VMM_DEV_PC_ACPI_PM_H
#define VMM_DEV_PC_ACPI_PM_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/vm/aspace.h"
#include "vmm/vm/irq.h"
#include "vmm/vm/state.h"

struct vm;
struct vm_timer;

/*
 * The fixed hardware of ACPI (6.4, chapter 4.8) as Intel's south bridges have it: the
 * PM1 event and control registers, the power management timer, a block of general
 * purpose events, and the ports 0xb2 and 0xb3 over which software asks for SMIs. A part
 * of a chipset device, which maps the registers where the guest wants them.
 *
 *   +0 PM1_STS, +2 PM1_EN, +4 PM1_CNT (16 bits each), +8 PM_TMR (32 bits)
 */

enum { ACPI_PM_GPES = 16 }; /* bytes of status and enable registers together, at most */

/* Of PM1_STS and PM1_EN; PM1_CNT. */
enum {
    ACPI_PM1_TIMER = 1 << 0,
    ACPI_PM1_GLOBAL = 1 << 5,
    ACPI_PM1_POWER_BUTTON = 1 << 8,
    ACPI_PM1_RTC = 1 << 10,
    ACPI_PM1_WAKE = 1 << 15,
    ACPI_CNT_SCI_ON = 1 << 0,
    ACPI_CNT_SLEEP = 1 << 13,
};

struct acpi_pm {
    struct vm *vm;
    struct irq_line sci;
    uint8_t enable_value, disable_value; /* for port 0xb2: SCI_EN on, off */
    unsigned gpe_len;                    /* bytes of GPE0: half status, half enable */
    /* A value was written to port 0xb2; takes no lock of this. NULL: nothing. */
    void (*smi)(void *opaque, uint8_t value);
    void *opaque;
    struct vm_timer *timer;
    struct io_region apm;
    bool has_apm;

    GMutex lock; /* guards what follows */
    uint16_t pm1_status, pm1_enable, pm1_control;
    uint8_t gpe[ACPI_PM_GPES];
    uint8_t apm_control, apm_status;
    uint64_t timer_seen; /* ticks at which the timer's status bit was looked at last */
};

/* @pm's fields up to opaque are set by the caller. False with @error when the ports are
 * taken. done: fine after that. Thread: main. */
bool acpi_pm_init(struct acpi_pm *pm, GError **error);
void acpi_pm_done(struct acpi_pm *pm);
void acpi_pm_reset(struct acpi_pm *pm);

/* Registers at +0..+15. */
uint64_t acpi_pm_read(struct acpi_pm *pm, unsigned off, unsigned len);
void acpi_pm_write(struct acpi_pm *pm, unsigned off, uint32_t value, unsigned len);

/* The bytes of GPE0. */
uint8_t acpi_pm_read_gpe(struct acpi_pm *pm, unsigned off);
void acpi_pm_write_gpe(struct acpi_pm *pm, unsigned off, uint8_t value);

/* The event with number @gpe happened. Any thread. */
void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned gpe);

void acpi_pm_power_button(struct acpi_pm *pm);

extern const struct state_table acpi_pm_state;

#endif
