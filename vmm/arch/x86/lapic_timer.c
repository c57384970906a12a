/*
 * The APIC timer: a count-down from the initial count at LAPIC_BUS_HZ / divider,
 * once or again and again, or a deadline of the time-stamp counter. SDM vol. 3,
 * "APIC Timer".
 *
 * Nothing counts down: the deadline is computed when it is set, and the current
 * count when it is read. Guests move deadlines far more often than they let them
 * pass, so the host timer is touched only when a deadline comes before the one it
 * is set to.
 *
 * lapic_timer_expired() runs on the main thread, everything else on the vCPU's;
 * both take timer.lock. IRR is set outside of it. A halted vCPU waits for its deadline
 * itself (lapic_timer_poll()), and mostly comes before the main thread.
 */
#include "vmm/arch/x86/lapic_priv.h"

#include "lib/base/base.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/vm.h"

/* The shortest period that is served: a guest must not keep the host's main thread
 * busy with a timer alone. Shorter ones give merged interrupts. */
#define MIN_PERIOD_NS UINT64_C(20000)

static struct vm_clock *timer_clock(const struct lapic *l)
{
    return l->vcpu->vm->clock;
}

static enum timer_mode timer_mode(const struct lapic *l)
{
    unsigned bits = lapic_lvt(l, LVT_TIMER) >> 17 & 3;
    return bits == 2 && l->has_tsc_deadline ? TIMER_TSC
           : bits & 1                       ? TIMER_PERIODIC
                                            : TIMER_ONE_SHOT;
}

/* Nanoseconds per count. Bits 3, 1, 0 of the divide register: 2, 4, .. 128, 1. */
static uint64_t timer_tick_ns(const struct lapic *l)
{
    unsigned code = (l->timer.divide & 3) | (l->timer.divide >> 1 & 4);
    return (UINT64_C(1) << ((code + 1) & 7)) * (1000000000 / LAPIC_BUS_HZ);
}

static uint64_t timer_period_ns(const struct lapic *l)
{
    return l->timer.initial * timer_tick_ns(l);
}

/* lock held. Make sure that the host timer calls at the deadline or before. */
static void timer_arm_locked(struct lapic *l)
{
    struct lapic_timer *t = &l->timer;
    if (t->deadline_ns && t->deadline_ns < t->host_ns) {
        t->host_ns = t->deadline_ns;
        vm_timer_set(t->host, t->deadline_ns);
    }
}

/* lock held. The deadline has passed at @now: prepare the next. */
static void timer_pass_locked(struct lapic *l, uint64_t now)
{
    struct lapic_timer *t = &l->timer;
    uint64_t period = timer_period_ns(l);
    t->tsc = 0;
    if (timer_mode(l) != TIMER_PERIODIC || period == 0) {
        t->deadline_ns = 0;
        return;
    }
    uint64_t late = now - t->deadline_ns;
    t->deadline_ns += (late / period + 1) * period;
    if (t->deadline_ns < now + MIN_PERIOD_NS) {
        uint64_t skip = (now + MIN_PERIOD_NS - t->deadline_ns) / period + 1;
        t->deadline_ns += skip * period;
    }
}

static void timer_fire(struct lapic *l)
{
    uint32_t lvt = lapic_lvt(l, LVT_TIMER);
    if (!(lvt & LVT_MASKED)) {
        lapic_set_irr(l->vcpu, lvt & LVT_VECTOR, false);
    }
}

/* The interrupt if its time has come. */
static void timer_look(struct lapic *l, bool host_fired)
{
    struct lapic_timer *t = &l->timer;
    bool fire = false;
    g_mutex_lock(&t->lock);
    if (host_fired) {
        t->host_ns = UINT64_MAX;
    }
    if (t->deadline_ns) {
        uint64_t now = vm_clock_ns(timer_clock(l));
        if (now >= t->deadline_ns) {
            fire = true;
            timer_pass_locked(l, now);
        }
        timer_arm_locked(l);
    }
    g_mutex_unlock(&t->lock);
    if (fire) {
        timer_fire(l);
    }
}

static void lapic_timer_expired(void *opaque)
{
    timer_look(opaque, true);
}

void lapic_timer_poll(struct vcpu *vcpu)
{
    timer_look(lapic_of(vcpu), false);
}

uint64_t lapic_timer_deadline_ns(struct vcpu *vcpu)
{
    struct lapic_timer *t = &lapic_of(vcpu)->timer;
    g_mutex_lock(&t->lock);
    uint64_t deadline = t->deadline_ns ? t->deadline_ns : UINT64_MAX;
    g_mutex_unlock(&t->lock);
    return deadline;
}

void lapic_timer_init(struct lapic *l)
{
    g_mutex_init(&l->timer.lock);
    l->timer.host_ns = UINT64_MAX;
    l->timer.host = vm_timer_new(timer_clock(l), lapic_timer_expired, l);
}

void lapic_timer_done(struct lapic *l)
{
    vm_timer_free(l->timer.host);
    g_mutex_clear(&l->timer.lock);
}

void lapic_timer_reset(struct lapic *l)
{
    g_mutex_lock(&l->timer.lock);
    l->timer.deadline_ns = 0;
    l->timer.tsc = 0;
    l->timer.initial = 0;
    l->timer.divide = 0;
    g_mutex_unlock(&l->timer.lock);
}

static uint32_t timer_current_locked(const struct lapic *l, uint64_t now)
{
    const struct lapic_timer *t = &l->timer;
    enum timer_mode mode = timer_mode(l);
    if (t->initial == 0 || mode == TIMER_TSC || !t->deadline_ns) {
        return 0;
    }
    uint64_t tick = timer_tick_ns(l);
    if (now < t->deadline_ns) {
        /* Deadlines may be several periods away. */
        uint64_t left = (t->deadline_ns - now + tick - 1) / tick;
        return (uint32_t)((left - 1) % t->initial + 1);
    }
    if (mode == TIMER_ONE_SHOT) {
        return 0;
    }
    return t->initial - (uint32_t)((now - t->deadline_ns) / tick % t->initial);
}

uint32_t lapic_timer_current(struct lapic *l)
{
    g_mutex_lock(&l->timer.lock);
    uint32_t count = timer_current_locked(l, vm_clock_ns(timer_clock(l)));
    g_mutex_unlock(&l->timer.lock);
    return count;
}

void lapic_timer_set_initial(struct lapic *l, uint32_t count)
{
    struct lapic_timer *t = &l->timer;
    if (timer_mode(l) == TIMER_TSC) {
        return; /* "writes to the initial-count register are ignored" */
    }
    g_mutex_lock(&t->lock);
    t->initial = count;
    t->start_ns = vm_clock_ns(timer_clock(l));
    t->deadline_ns = count ? t->start_ns + timer_period_ns(l) : 0;
    timer_arm_locked(l);
    g_mutex_unlock(&t->lock);
}

/* The count goes on from where it is, at the new rate. */
void lapic_timer_set_divide(struct lapic *l, uint32_t divide)
{
    struct lapic_timer *t = &l->timer;
    g_mutex_lock(&t->lock);
    uint64_t now = vm_clock_ns(timer_clock(l));
    uint64_t left = timer_current_locked(l, now);
    t->divide = divide & 0xb;
    if (left) {
        uint64_t gone_ns = (t->initial - left) * timer_tick_ns(l);
        t->start_ns = now > gone_ns ? now - gone_ns : 0;
        t->deadline_ns = now + left * timer_tick_ns(l);
        timer_arm_locked(l);
    }
    g_mutex_unlock(&t->lock);
}

/* Entering or leaving TSC-deadline mode disarms the timer. Otherwise it goes on from
 * where it is: what has run out in one-shot mode stays so. */
void lapic_timer_set_lvt(struct lapic *l, uint32_t lvt)
{
    timer_look(l, false);
    g_mutex_lock(&l->timer.lock);
    bool was_tsc = timer_mode(l) == TIMER_TSC;
    atomic_store(&l->lvt[LVT_TIMER], lvt);
    if (was_tsc != (timer_mode(l) == TIMER_TSC)) {
        l->timer.deadline_ns = 0;
        l->timer.tsc = 0;
        l->timer.initial = 0;
    }
    g_mutex_unlock(&l->timer.lock);
}

uint64_t lapic_timer_get_tsc(struct lapic *l)
{
    g_mutex_lock(&l->timer.lock);
    uint64_t tsc = l->timer.tsc;
    g_mutex_unlock(&l->timer.lock);
    return tsc;
}

void lapic_timer_set_tsc(struct lapic *l, uint64_t tsc)
{
    struct lapic_timer *t = &l->timer;
    struct vm_clock *clock = timer_clock(l);
    if (timer_mode(l) != TIMER_TSC) {
        return;
    }
    uint64_t offset = x86_vcpu_of(l->vcpu)->tsc_offset;
    bool passed = tsc && (int64_t)(tsc - (vm_clock_tsc(clock) + offset)) <= 0;
    g_mutex_lock(&t->lock);
    t->tsc = passed ? 0 : tsc;
    t->deadline_ns = 0;
    if (t->tsc) {
        uint64_t ns = vm_clock_tsc_to_ns(clock, tsc - offset);
        t->deadline_ns = ns ? ns : 1;
        timer_arm_locked(l);
    }
    g_mutex_unlock(&t->lock);
    if (passed) {
        timer_fire(l);
    }
}

void lapic_timer_loaded(struct lapic *l)
{
    g_mutex_lock(&l->timer.lock);
    timer_arm_locked(l);
    g_mutex_unlock(&l->timer.lock);
}

void lapic_timer_pulled(struct lapic *l, uint32_t initial, uint32_t current,
                        uint32_t divide, uint64_t tsc)
{
    struct lapic_timer *t = &l->timer;
    struct vm_clock *clock = timer_clock(l);
    g_mutex_lock(&t->lock);
    uint64_t now = vm_clock_ns(clock);
    t->initial = initial;
    t->divide = divide & 0xb;
    t->tsc = timer_mode(l) == TIMER_TSC ? tsc : 0;
    uint64_t gone_ns = initial > current ? (initial - current) * timer_tick_ns(l) : 0;
    t->start_ns = now > gone_ns ? now - gone_ns : 0;
    t->deadline_ns = current ? now + current * timer_tick_ns(l) : 0;
    if (t->tsc) {
        uint64_t offset = x86_vcpu_of(l->vcpu)->tsc_offset;
        t->deadline_ns = MAX(vm_clock_tsc_to_ns(clock, t->tsc - offset), 1);
    }
    g_mutex_unlock(&t->lock);
}
