#ifndef VMM_ARCH_X86_LAPIC_PRIV_H
#define VMM_ARCH_X86_LAPIC_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/aspace.h"

struct vm_timer;

/* Registers by number: offset / 16 in the page, MSR - 0x800. SDM table 11-1, 11-6. */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR2 = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_THERMAL = 0x33,
    REG_LVT_PERF = 0x34,
    REG_LVT_LINT0 = 0x35,
    REG_LVT_LINT1 = 0x36,
    REG_LVT_ERROR = 0x37,
    REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39,
    REG_TIMER_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

/* Entries of the local vector table, in the order of their registers. */
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, NB_LVT };

/* Version 0x14, six LVT entries, EOI broadcasts may be suppressed. */
#define LAPIC_VERSION (UINT32_C(0x14) | (NB_LVT - 1) << 16 | 1u << 24)

#define LVT_VECTOR     0xffu
#define LVT_MODE_SHIFT 8
#define LVT_LEVEL      (1u << 15)
#define LVT_MASKED     (1u << 16)

#define BASE_BSP    (UINT64_C(1) << 8)
#define BASE_X2APIC (UINT64_C(1) << 10)
#define BASE_ENABLE (UINT64_C(1) << 11)

#define SVR_ENABLE       (1u << 8)
#define SVR_NO_BROADCAST (1u << 12)

#define ESR_SEND_VECTOR (1u << 5)
#define ESR_RECV_VECTOR (1u << 6)
#define ESR_REGISTER    (1u << 7)

/* lapic->events, beside LAPIC_INIT and LAPIC_SIPI. */
#define EVENT_NMI    (1u << 2)
#define EVENT_EXTINT (1u << 3)
#define EVENT_SMI    (1u << 4)

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC };

/*
 * The APIC timer. The host timer may be set earlier than needed: moving a deadline
 * back, or dropping it, costs nothing, and the early call looks again.
 */
struct lapic_timer {
    GMutex lock;
    struct vm_timer *host;
    uint64_t host_ns;     /* guest time the host timer is set to, UINT64_MAX: not */
    uint64_t deadline_ns; /* guest time of the next interrupt, 0: none */
    uint64_t start_ns;    /* when the count was at initial */
    uint64_t tsc;         /* IA32_TSC_DEADLINE, 0: disarmed */
    uint32_t initial;     /* count; ticks */
    uint32_t divide;      /* the register */
};

struct lapic {
    struct vcpu *vcpu;
    uint32_t id;
    bool has_x2apic, has_tsc_deadline;
    unsigned phys_bits; /* what the base address may have */
    struct lapic_board board;
    struct io_region window; /* the first vCPU's only */

    /* Read or written by senders. */
    _Atomic uint64_t base; /* IA32_APIC_BASE */
    _Atomic uint64_t irr[4], tmr[4];
    _Atomic uint32_t ppr; /* pairs with irr: see lapic.h */
    _Atomic uint32_t events;
    _Atomic uint32_t sipi_vector;
    _Atomic uint32_t svr, ldr, dfr;
    _Atomic uint32_t lvt[NB_LVT];
    _Atomic uint32_t lint[2];      /* levels of the pins */
    _Atomic uint32_t esr_incoming; /* errors since the last write to ESR */
    _Atomic bool pv_eoi_pending;   /* the guest may have ended its interrupt */

    /* The vCPU's thread only. */
    uint64_t isr[4];
    uint32_t tpr;
    uint32_t esr;
    uint32_t icr, icr2;
    uint64_t pv_eoi_gpa;

    struct lapic_timer timer;
};

/* Highest set bit of a 256-bit map, or -1. */
static inline int lapic_highest(const uint64_t map[4])
{
    for (int i = 3; i >= 0; i--) {
        if (map[i]) {
            return i * 64 + 63 - __builtin_clzll(map[i]);
        }
    }
    return -1;
}

static inline int lapic_highest_irr(const struct lapic *l)
{
    for (int i = 3; i >= 0; i--) {
        uint64_t w = atomic_load(&l->irr[i]);
        if (w) {
            return i * 64 + 63 - __builtin_clzll(w);
        }
    }
    return -1;
}

static inline bool lapic_x2apic(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & BASE_X2APIC;
}

static inline bool lapic_hw_enabled(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & BASE_ENABLE;
}

static inline uint32_t lapic_lvt(const struct lapic *l, unsigned i)
{
    return atomic_load_explicit(&l->lvt[i], memory_order_relaxed);
}

/* Recompute the processor priority and look whether something may be taken. */
void lapic_update_ppr(struct lapic *l);
/* Record ESR bits and raise the error interrupt. Any thread. */
void lapic_error(struct lapic *l, uint32_t bits);
/* A write to ICR, or its x2APIC form. */
void lapic_send_ipi(struct lapic *l, uint32_t icr, uint32_t dest);

/* lapic_accel.c: registers that an accelerator has. */
void lapic_pull(struct lapic *l);
void lapic_push(struct lapic *l);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *l);
void lapic_timer_done(struct lapic *l);
void lapic_timer_reset(struct lapic *l);
uint32_t lapic_timer_current(struct lapic *l);
void lapic_timer_set_initial(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint32_t divide);
void lapic_timer_set_lvt(struct lapic *l, uint32_t lvt);
uint64_t lapic_timer_get_tsc(struct lapic *l);
void lapic_timer_set_tsc(struct lapic *l, uint64_t tsc);
void lapic_timer_loaded(struct lapic *l);
/* The registers of an accelerator's timer; nothing is armed here. */
void lapic_timer_pulled(struct lapic *l, uint32_t initial, uint32_t current,
                        uint32_t divide, uint64_t tsc);

#endif
