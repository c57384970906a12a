/*
 * The clock is the host's wall time plus an offset, which changes when the guest
 * sets the time. The time registers are computed when they are read. While updates
 * are held (SET in register B, or the divider in reset) they keep what they had, and
 * the offset is computed from them when the clock starts again.
 *
 * Register C's flags are found out the same way: each look at the device compares
 * now with the last look (`seen`), and sets PF, AF, UF for what has passed between.
 * The host timer is armed only for interrupts that are enabled, and does nothing
 * but look.
 *
 * UIP is set for the last 244 us of each second, as the data sheet promises to
 * software that reads it clear.
 */
#include "vmm/dev/pc/mc146818.h"

#include <time.h>

#include "lib/base/base.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define NS_PER_S INT64_C(1000000000)
#define DAY_S    86400
#define UIP_NS   244000
#define CRYSTAL  32768
#define NB_BYTES 128
#define NO_ALARM INT64_MAX

enum {
    REG_SECONDS = 0,
    REG_SECONDS_ALARM = 1,
    REG_MINUTES = 2,
    REG_MINUTES_ALARM = 3,
    REG_HOURS = 4,
    REG_HOURS_ALARM = 5,
    REG_WEEKDAY = 6,
    REG_DAY = 7,
    REG_MONTH = 8,
    REG_YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
    REG_CENTURY = 0x32,
};

enum { A_UIP = 0x80, A_DIVIDER_RESET = 0x60 };

enum {
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_SQWE = 0x08,
    B_BINARY = 0x04,
    B_24H = 0x02,
};

enum { C_IRQ = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };

enum { D_VALID = 0x80 };

struct rtc {
    struct device dev;
    GMutex lock; /* guards all below */
    uint8_t index;
    uint8_t cmos[NB_BYTES];
    int64_t offset_ns;  /* clock - wall time */
    int64_t seen_ns;    /* clock time of the last look */
    uint64_t seen_tick; /* guest time of it, in crystal periods */
    struct irq_line irq;
    struct vm_timer *timer;
    struct io_region ports;
};

static bool rtc_held(const struct rtc *d)
{
    return (d->cmos[REG_B] & B_SET) ||
           (d->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static int64_t rtc_now(const struct rtc *d)
{
    return (int64_t)vm_clock_wall_ns(d->dev.vm->clock) + d->offset_ns;
}

/* Floor, also for times before 1970. */
static int64_t to_seconds(int64_t ns)
{
    return ns / NS_PER_S - (ns % NS_PER_S < 0);
}

static uint64_t rtc_tick(const struct rtc *d)
{
    return (uint64_t)((unsigned __int128)vm_clock_ns(d->dev.vm->clock) * CRYSTAL /
                      NS_PER_S);
}

/* ---- how numbers stand in the registers ---- */

static uint8_t rtc_encode(const struct rtc *d, unsigned value)
{
    return d->cmos[REG_B] & B_BINARY ? value : value / 10 % 10 << 4 | value % 10;
}

static unsigned rtc_decode(const struct rtc *d, uint8_t raw)
{
    return d->cmos[REG_B] & B_BINARY ? raw : (raw >> 4) * 10 + (raw & 0xf);
}

static uint8_t rtc_encode_hour(const struct rtc *d, unsigned hour)
{
    if (d->cmos[REG_B] & B_24H) {
        return rtc_encode(d, hour);
    }
    return rtc_encode(d, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static unsigned rtc_decode_hour(const struct rtc *d, uint8_t raw)
{
    if (d->cmos[REG_B] & B_24H) {
        return rtc_decode(d, raw);
    }
    return rtc_decode(d, raw & 0x7f) % 12 + (raw & 0x80 ? 12 : 0);
}

/* The time registers from the clock. */
static void rtc_show(struct rtc *d, int64_t now)
{
    time_t s = to_seconds(now);
    struct tm tm;
    if (!gmtime_r(&s, &tm)) {
        return;
    }
    unsigned year = tm.tm_year + 1900;
    d->cmos[REG_SECONDS] = rtc_encode(d, tm.tm_sec);
    d->cmos[REG_MINUTES] = rtc_encode(d, tm.tm_min);
    d->cmos[REG_HOURS] = rtc_encode_hour(d, tm.tm_hour);
    d->cmos[REG_WEEKDAY] = rtc_encode(d, tm.tm_wday + 1);
    d->cmos[REG_DAY] = rtc_encode(d, tm.tm_mday);
    d->cmos[REG_MONTH] = rtc_encode(d, tm.tm_mon + 1);
    d->cmos[REG_YEAR] = rtc_encode(d, year % 100);
    d->cmos[REG_CENTURY] = year / 1000 % 10 << 4 | year / 100 % 10;
}

/* The clock from the time registers, @sub_ns into the second. Any bytes are
 * possible: each counts as the number it decodes to, at most 255. */
static void rtc_set_clock(struct rtc *d, int64_t sub_ns)
{
    uint8_t century = d->cmos[REG_CENTURY];
    struct tm tm = {
        .tm_sec = rtc_decode(d, d->cmos[REG_SECONDS]),
        .tm_min = rtc_decode(d, d->cmos[REG_MINUTES]),
        .tm_hour = rtc_decode_hour(d, d->cmos[REG_HOURS]),
        .tm_mday = rtc_decode(d, d->cmos[REG_DAY]),
        .tm_mon = (int)rtc_decode(d, d->cmos[REG_MONTH]) - 1,
        .tm_year = (int)rtc_decode(d, d->cmos[REG_YEAR]) +
                   ((century >> 4) * 10 + (century & 0xf)) * 100 - 1900,
    };
    int64_t seconds = timegm(&tm);
    int64_t ns;
    if (__builtin_mul_overflow(seconds, NS_PER_S, &ns)) {
        return; /* beyond 2262: the clock goes on as it was */
    }
    d->offset_ns = ns + sub_ns - (int64_t)vm_clock_wall_ns(d->dev.vm->clock);
    d->seen_ns = ns + sub_ns;
}

/* ---- alarm ---- */

/* Whether alarm register @raw means @value; the top two bits say "every". */
static bool alarm_means(uint8_t raw, uint8_t encoded)
{
    return raw >= 0xc0 || raw == encoded;
}

/* The first second of a day, from @from on, that the alarm means, or -1. */
static int alarm_in_day(const struct rtc *d, unsigned from)
{
    for (unsigned h = from / 3600; h < 24; h++) {
        if (!alarm_means(d->cmos[REG_HOURS_ALARM], rtc_encode_hour(d, h))) {
            continue;
        }
        unsigned m = h == from / 3600 ? from / 60 % 60 : 0;
        for (; m < 60; m++) {
            if (!alarm_means(d->cmos[REG_MINUTES_ALARM], rtc_encode(d, m))) {
                continue;
            }
            unsigned base = h * 3600 + m * 60;
            for (unsigned s = base >= from ? 0 : from - base; s < 60; s++) {
                if (alarm_means(d->cmos[REG_SECONDS_ALARM], rtc_encode(d, s))) {
                    return base + s;
                }
            }
        }
    }
    return -1;
}

/* The first second after @second at which the alarm goes off, or NO_ALARM. */
static int64_t alarm_after(const struct rtc *d, int64_t second)
{
    /* A seconds register that no second has would be searched for in vain, 86400
     * times. */
    uint8_t raw = d->cmos[REG_SECONDS_ALARM];
    if (raw < 0xc0 &&
        (rtc_decode(d, raw) > 59 || rtc_encode(d, rtc_decode(d, raw)) != raw)) {
        return NO_ALARM;
    }
    int64_t next = second + 1;
    int64_t day = next - ((next % DAY_S) + DAY_S) % DAY_S;
    int in_day = alarm_in_day(d, next - day);
    if (in_day < 0) {
        day += DAY_S;
        in_day = alarm_in_day(d, 0);
    }
    return in_day < 0 ? NO_ALARM : day + in_day;
}

/* ---- flags and interrupts ---- */

/* Crystal periods between periodic interrupts, 0: none. Register A, bits 3:0. */
static uint64_t rtc_period(const struct rtc *d)
{
    unsigned rate = d->cmos[REG_A] & 0xf;
    if (rate == 0) {
        return 0;
    }
    return UINT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

static void rtc_update_irq(struct rtc *d)
{
    uint8_t c = d->cmos[REG_C] & (C_PF | C_AF | C_UF);
    /* Flags and enables have the same bit numbers. */
    if (c & d->cmos[REG_B]) {
        c |= C_IRQ;
    }
    d->cmos[REG_C] = c;
    irq_set(&d->irq, c & C_IRQ);
}

/* Set the flags of what has passed since the last look. */
static void rtc_look(struct rtc *d)
{
    uint64_t tick = rtc_tick(d);
    uint64_t period = rtc_period(d);
    if (period && tick / period != d->seen_tick / period) {
        d->cmos[REG_C] |= C_PF;
    }
    d->seen_tick = tick;
    if (!rtc_held(d)) {
        int64_t now = rtc_now(d);
        int64_t second = to_seconds(now), seen = to_seconds(d->seen_ns);
        if (second > seen) {
            d->cmos[REG_C] |= C_UF;
            if (alarm_after(d, seen) <= second) {
                d->cmos[REG_C] |= C_AF;
            }
        }
        d->seen_ns = now;
    }
    rtc_update_irq(d);
}

/* Nanoseconds from now until the clock shows @second. */
static uint64_t until_second(const struct rtc *d, int64_t second, int64_t now)
{
    int64_t at;
    if (__builtin_mul_overflow(second, NS_PER_S, &at)) {
        return INT64_MAX;
    }
    return at > now ? at - now : 0;
}

/* Set the host timer to the next thing that is enabled and not flagged yet. */
static void rtc_arm(struct rtc *d)
{
    uint64_t guest = vm_clock_ns(d->dev.vm->clock);
    uint64_t wait = UINT64_MAX;
    uint8_t wanted = d->cmos[REG_B] & ~d->cmos[REG_C];
    uint64_t period = rtc_period(d);
    if ((wanted & B_PIE) && period) {
        uint64_t tick = (rtc_tick(d) / period + 1) * period;
        uint64_t at =
            (uint64_t)(((unsigned __int128)tick * NS_PER_S + CRYSTAL - 1) / CRYSTAL);
        wait = at - MIN(at, guest);
    }
    if (!rtc_held(d)) {
        int64_t now = rtc_now(d);
        if (wanted & B_UIE) {
            wait = MIN(wait, until_second(d, to_seconds(now) + 1, now));
        }
        int64_t alarm = wanted & B_AIE ? alarm_after(d, to_seconds(now)) : NO_ALARM;
        if (alarm != NO_ALARM) {
            wait = MIN(wait, until_second(d, alarm, now));
        }
    }
    if (wait == UINT64_MAX) {
        vm_timer_cancel(d->timer);
    } else {
        vm_timer_set(d->timer, guest + wait);
    }
}

static void rtc_expired(void *opaque)
{
    struct rtc *d = opaque;
    g_mutex_lock(&d->lock);
    rtc_look(d);
    rtc_arm(d);
    g_mutex_unlock(&d->lock);
}

/* ---- registers ---- */

static bool is_time(unsigned i)
{
    return i == REG_SECONDS || i == REG_MINUTES || i == REG_HOURS ||
           (i >= REG_WEEKDAY && i <= REG_YEAR) || i == REG_CENTURY;
}

static uint8_t rtc_read_byte(struct rtc *d, unsigned i)
{
    uint8_t value;
    rtc_look(d);
    if (is_time(i) && !rtc_held(d)) {
        rtc_show(d, rtc_now(d));
    }
    value = d->cmos[i];
    if (i == REG_A && !rtc_held(d)) {
        int64_t now = rtc_now(d);
        int64_t left = (to_seconds(now) + 1) * NS_PER_S - now;
        value |= left <= UIP_NS ? A_UIP : 0;
    } else if (i == REG_C) {
        d->cmos[REG_C] = 0;
        rtc_update_irq(d);
        rtc_arm(d);
    }
    return value;
}

/* Registers A and B decide whether the clock runs: keep its time over the change. */
static void rtc_write_control(struct rtc *d, unsigned i, uint8_t value)
{
    bool was_held = rtc_held(d);
    bool was_reset = (d->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
    if (!was_held) {
        rtc_show(d, rtc_now(d));
    }
    if (i == REG_A) {
        value &= ~A_UIP;
    } else if (value & B_SET) {
        value &= ~B_UIE;
    }
    int64_t sub = was_held ? 0 : ((rtc_now(d) % NS_PER_S) + NS_PER_S) % NS_PER_S;
    d->cmos[i] = value;
    if (was_held && !rtc_held(d)) {
        /* "The first update cycle begins 500 ms after the divider is released." */
        rtc_set_clock(d, was_reset ? NS_PER_S / 2 : sub);
    }
    rtc_update_irq(d);
}

static void rtc_write_byte(struct rtc *d, unsigned i, uint8_t value)
{
    rtc_look(d);
    switch (i) {
    case REG_A:
    case REG_B: rtc_write_control(d, i, value); break;
    case REG_C:
    case REG_D: break; /* read-only */
    default:
        if (is_time(i) && !rtc_held(d)) {
            int64_t now = rtc_now(d);
            rtc_show(d, now);
            d->cmos[i] = value;
            rtc_set_clock(d, now - to_seconds(now) * NS_PER_S);
        } else {
            d->cmos[i] = value;
        }
    }
    rtc_arm(d);
}

static uint64_t rtc_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct rtc *d = opaque;
    uint8_t value = 0xff; /* the index cannot be read */
    if (off == 1) {
        g_mutex_lock(&d->lock);
        value = rtc_read_byte(d, d->index);
        g_mutex_unlock(&d->lock);
    }
    return value;
}

static void rtc_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    struct rtc *d = opaque;
    g_mutex_lock(&d->lock);
    if (off == 0) {
        d->index = value & (NB_BYTES - 1); /* bit 7 would mask NMIs, which are none */
    } else {
        rtc_write_byte(d, d->index, value);
    }
    g_mutex_unlock(&d->lock);
}

static const struct io_ops rtc_ops = {
    .read = rtc_read, .write = rtc_write, .max_len = 1};

void mc146818_set(struct device *dev, unsigned index, uint8_t value)
{
    struct rtc *d = container_of(dev, struct rtc, dev);
    g_mutex_lock(&d->lock);
    if (index > REG_D && index < NB_BYTES) {
        d->cmos[index] = value;
    }
    g_mutex_unlock(&d->lock);
}

uint8_t mc146818_get(struct device *dev, unsigned index)
{
    struct rtc *d = container_of(dev, struct rtc, dev);
    g_mutex_lock(&d->lock);
    uint8_t value = index < NB_BYTES ? d->cmos[index] : 0;
    g_mutex_unlock(&d->lock);
    return value;
}

/* ---- life ---- */

static bool rtc_init(struct device *dev, GError **error)
{
    struct rtc *d = container_of(dev, struct rtc, dev);
    g_mutex_init(&d->lock);
    d->timer = vm_timer_new(dev->vm->clock, rtc_expired, d);
    d->irq = vm_gsi_line(dev->vm, 8);
    d->cmos[REG_A] = 0x26; /* 32768 Hz crystal, 1024 Hz rate */
    d->cmos[REG_B] = B_24H;
    d->cmos[REG_D] = D_VALID;
    d->seen_ns = rtc_now(d);
    rtc_show(d, d->seen_ns);
    return isa_claim(dev, &d->ports, 0x70, 2, &rtc_ops, error);
}

static void rtc_done(struct device *dev)
{
    struct rtc *d = container_of(dev, struct rtc, dev);
    isa_release(dev, &d->ports);
    vm_timer_free(d->timer);
    g_mutex_clear(&d->lock);
}

/* RESET clears interrupts and their enables; time and memory have a battery. */
static void rtc_reset(struct device *dev)
{
    struct rtc *d = container_of(dev, struct rtc, dev);
    g_mutex_lock(&d->lock);
    d->index = 0;
    d->cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    d->cmos[REG_C] = 0;
    d->seen_tick = rtc_tick(d);
    d->seen_ns = rtc_now(d);
    rtc_update_irq(d);
    rtc_arm(d);
    g_mutex_unlock(&d->lock);
}

static bool rtc_post_load(void *object, unsigned version, GError **error)
{
    struct rtc *d = object;
    if (d->index >= NB_BYTES) {
        return error_msg(error, "mc146818rtc: index %u is not below 128", d->index);
    }
    d->cmos[REG_D] = D_VALID;
    d->seen_tick = rtc_tick(d);
    rtc_update_irq(d);
    rtc_arm(d);
    return true;
}

static const struct state_field rtc_fields[] = {
    STATE_FIELD(U8, struct rtc, index),
    STATE_BUFFER(struct rtc, cmos),
    STATE_FIELD(U64, struct rtc, offset_ns),
    STATE_FIELD(U64, struct rtc, seen_ns),
    {0},
};

static const struct state_table rtc_state = {
    .name = "mc146818rtc",
    .version = 1,
    .fields = rtc_fields,
    .post_load = rtc_post_load,
};

const struct device_type mc146818rtc_type = {
    .name = "mc146818rtc",
    .desc = "real-time clock with 128 bytes of memory",
    .bus = "isa",
    .size = sizeof(struct rtc),
    .state = &rtc_state,
    .init = rtc_init,
    .done = rtc_done,
    .reset = rtc_reset,
};
