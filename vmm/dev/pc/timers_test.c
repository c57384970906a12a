/* The timers: 8254 with port 0x61, MC146818. */
#include "lib/base/base.h"
#include "vmm/dev/pc/i8254.h"
#include "vmm/dev/pc/mc146818.h"
#include "vmm/dev/pc/pc_test.h"

/* ---- 8254 ---- */

static struct device *pit;

static void pit_setup(void)
{
    setup(1);
    pit = add(&i8254_type);
}

/* Let @n clocks of the 8254 pass: to the middle of the clock after them. */
static void clocks(uint64_t n)
{
    static const uint64_t half = UINT64_C(1000000000) / I8254_HZ / 2;
    uint64_t now = vm_clock_ns(vm->clock);
    uint64_t tick = (uint64_t)((unsigned __int128)now * I8254_HZ / 1000000000) + n;
    uint64_t at = (uint64_t)((unsigned __int128)tick * 1000000000 / I8254_HZ) + half;
    test_advance(vm, at - now);
}

static void pit_load(unsigned channel, uint8_t mode, uint16_t count)
{
    outb(0x43, channel << 6 | 0x30 | mode << 1);
    outb(0x40 + channel, count);
    outb(0x40 + channel, count >> 8);
}

static uint16_t pit_count(unsigned channel)
{
    outb(0x43, channel << 6); /* latch */
    uint8_t low = inb(0x40 + channel);
    return low | inb(0x40 + channel) << 8;
}

static uint8_t pit_status(unsigned channel)
{
    outb(0x43, 0xe0 | 2u << channel);
    return inb(0x40 + channel);
}

static bool out(unsigned channel)
{
    return pit_status(channel) & 0x80;
}

/* Data sheet, "Mode 0": OUT is low, and goes high N + 1 clocks after the count. */
static void pit_mode0(void)
{
    pit_setup();
    clocks(1);
    pit_load(0, 0, 1000);
    g_assert_false(out(0));
    clocks(1);
    g_assert_cmpuint(pit_count(0), ==, 1000);
    clocks(999);
    g_assert_cmpuint(pit_count(0), ==, 1);
    g_assert_false(out(0));
    g_assert_cmpuint(irq_rises(0), ==, 0);
    clocks(1);
    g_assert_true(out(0));
    g_assert_cmpuint(irq_rises(0), ==, 1);
    clocks(5);
    g_assert_cmphex(pit_count(0), ==, 0xfffb); /* it counts on */
    clocks(100000);
    g_assert_cmpuint(irq_rises(0), ==, 1);
    teardown();
}

static void pit_mode2_is_a_rate(void)
{
    pit_setup();
    pit_load(0, 2, 11932); /* 100 Hz */
    test_advance(vm, UINT64_C(1000000000) + 20000);
    g_assert_cmpuint(irq_rises(0), ==, 99 + 1);
    outb(0x40, 0x2e); /* a new count takes over at the end of the period */
    outb(0x40, 0x00);
    uint64_t before = irq_rises(0);
    clocks(1);
    g_assert_cmpuint(pit_count(0), >, 0x2e);
    g_assert_cmphex(pit_status(0) & 0x40, ==, 0x40); /* null count: not loaded yet */
    clocks(12000);
    g_assert_cmpuint(pit_count(0), <=, 0x2e);
    g_assert_cmphex(pit_status(0) & 0x40, ==, 0);
    g_assert_cmpuint(irq_rises(0), >, before);
    teardown();
}

static void pit_mode2_out_is_low_for_one_clock(void)
{
    pit_setup();
    outb(0x61, 0x01);
    clocks(1);
    pit_load(2, 2, 4);
    clocks(1);
    static const struct {
        uint8_t count;
        bool out;
    } cycle[] = {{4, 1}, {3, 1}, {2, 1}, {1, 0}, {4, 1}, {3, 1}};
    for (unsigned i = 0; i < ARRAY_LEN(cycle); i++) {
        g_assert_cmpuint(pit_count(2), ==, cycle[i].count);
        g_assert_cmpint(out(2), ==, cycle[i].out);
        clocks(1);
    }
    teardown();
}

static void pit_mode3_is_square(void)
{
    pit_setup();
    outb(0x61, 0x01);
    clocks(1);
    pit_load(2, 3, 6);
    clocks(1);
    static const bool level[] = {1, 1, 1, 0, 0, 0, 1, 1, 1, 0};
    static const uint8_t count[] = {6, 4, 2, 6, 4, 2, 6, 4, 2, 6};
    for (unsigned i = 0; i < ARRAY_LEN(level); i++) {
        g_assert_cmpint(out(2), ==, level[i]);
        g_assert_cmpint(!!(inb(0x61) & 0x20), ==, level[i]);
        g_assert_cmpuint(pit_count(2), ==, count[i]);
        clocks(1);
    }
    pit_load(2, 3, 5); /* odd: three high, two low */
    clocks(1);
    static const bool odd[] = {1, 1, 1, 0, 0, 1, 1, 1, 0, 0};
    for (unsigned i = 0; i < ARRAY_LEN(odd); i++) {
        g_assert_cmpint(out(2), ==, odd[i]);
        clocks(1);
    }
    teardown();
}

static void pit_mode1_and_5_need_a_trigger(void)
{
    pit_setup();
    clocks(1);
    pit_load(2, 1, 10);
    clocks(50);
    g_assert_true(out(2));
    outb(0x61, 0x01); /* the gate rises */
    clocks(1);
    g_assert_false(out(2));
    clocks(9);
    g_assert_false(out(2));
    clocks(1);
    g_assert_true(out(2));
    outb(0x61, 0x00);
    pit_load(2, 5, 10);
    outb(0x61, 0x01);
    clocks(10);
    g_assert_true(out(2));
    clocks(1);
    g_assert_false(out(2)); /* for one clock */
    clocks(1);
    g_assert_true(out(2));
    teardown();
}

static void pit_mode4_strobes(void)
{
    pit_setup();
    clocks(1);
    pit_load(0, 4, 100);
    clocks(100);
    g_assert_true(out(0));
    clocks(1);
    g_assert_false(out(0));
    g_assert_cmpuint(irq_rises(0), ==, 0);
    clocks(1);
    g_assert_true(out(0));
    g_assert_cmpuint(irq_rises(0), ==, 1);
    teardown();
}

static void pit_gate_holds_the_count(void)
{
    pit_setup();
    outb(0x61, 0x01);
    clocks(1);
    pit_load(2, 0, 1000);
    clocks(101);
    outb(0x61, 0x00);
    clocks(5000);
    g_assert_cmpuint(pit_count(2), ==, 900);
    outb(0x61, 0x01);
    clocks(100);
    g_assert_cmpuint(pit_count(2), ==, 800);
    teardown();
}

/* What Linux does to measure the TSC: channel 2, mode 0, wait for OUT. */
static void pit_calibration_takes_50_ms(void)
{
    pit_setup();
    outb(0x61, (inb(0x61) & ~0x02) | 0x01);
    outb(0x43, 0xb0);
    outb(0x42, 59659 & 0xff);
    outb(0x42, 59659 >> 8);
    unsigned us = 0;
    while (!(inb(0x61) & 0x20)) {
        test_advance(vm, 1000);
        us++;
    }
    g_assert_cmpuint(us, >=, 50000);
    g_assert_cmpuint(us, <=, 50002);
    teardown();
}

static void pit_access_modes_and_bcd(void)
{
    pit_setup();
    outb(0x61, 0x01);
    clocks(1);
    outb(0x43, 0x94); /* channel 2, low byte only, mode 2 */
    outb(0x42, 0x20);
    clocks(2);
    g_assert_cmphex(inb(0x42), ==, 0x1f);
    g_assert_cmphex(pit_status(2) & 0x3f, ==, 0x14);
    outb(0x43, 0xb1); /* both bytes, mode 0, BCD */
    outb(0x42, 0x00);
    outb(0x42, 0x10); /* 1000 */
    clocks(2);
    g_assert_cmphex(pit_count(2), ==, 0x0999);
    clocks(1);
    g_assert_cmphex(inb(0x42), ==, 0x98); /* unlatched, low then high */
    g_assert_cmphex(inb(0x42), ==, 0x09);
    outb(0x43, 0xd8); /* read back count and status of channel 2: status first */
    outb(0x43, 0xc8);
    clocks(50);
    g_assert_cmphex(inb(0x42), ==, 0x31);
    g_assert_cmphex(inb(0x42), ==, 0x98);
    g_assert_cmphex(inb(0x42), ==, 0x09);
    teardown();
}

static void port61_refresh_toggles(void)
{
    pit_setup();
    unsigned toggles = 0;
    uint8_t last = inb(0x61) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        test_advance(vm, 1000);
        toggles += (inb(0x61) & 0x10) != last;
        last = inb(0x61) & 0x10;
    }
    g_assert_cmpuint(toggles, ==, 66); /* each 15.085 us */
    outb(0x61, 0xff);
    g_assert_cmphex(inb(0x61) & 0xcf, ==, 0x0f);
    teardown();
}

static void pit_does_not_flood_the_host(void)
{
    pit_setup();
    pit_load(0, 2, 2);
    test_advance(vm, 100000000);
    g_assert_cmpuint(irq_rises(0), >, 500);
    g_assert_cmpuint(irq_rises(0), <=, 1010);
    teardown();
}

static void pit_state_and_hostility(void)
{
    pit_setup();
    pit_load(0, 2, 1193);
    test_advance(vm, 500000);
    save_and_load(pit);
    uint64_t before = irq_rises(0);
    test_advance(vm, 10000000);
    g_assert_cmpuint(irq_rises(0) - before, ==, 10);
    i8254_type.reset(pit);
    before = irq_rises(0);
    test_advance(vm, 100000000);
    g_assert_cmpuint(irq_rises(0), ==, before);
    storm(0x40, 4);
    storm(0x61, 1);
    storm(0x40, 0x22);
    teardown();
}

/* ---- MC146818 ---- */

static struct device *rtc;

static uint8_t cmos(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void cmos_put(uint8_t reg, uint8_t value)
{
    outb(0x70, reg);
    outb(0x71, value);
}

static void rtc_setup(void)
{
    setup(1);
    rtc = add(&mc146818rtc_type);
}

static void rtc_shows_wall_time(void)
{
    rtc_setup(); /* Tue 2023-11-14 22:13:20 UTC */
    g_assert_cmphex(cmos(0x0a), ==, 0x26);
    g_assert_cmphex(cmos(0x0b), ==, 0x02);
    g_assert_cmphex(cmos(0x0d), ==, 0x80);
    static const uint8_t bcd[][2] = {{0, 0x20}, {2, 0x13}, {4, 0x22}, {6, 0x03},
                                     {7, 0x14}, {8, 0x11}, {9, 0x23}, {0x32, 0x20}};
    for (unsigned i = 0; i < ARRAY_LEN(bcd); i++) {
        g_assert_cmphex(cmos(bcd[i][0]), ==, bcd[i][1]);
    }
    cmos_put(0x0b, 0x04); /* binary, 12 hours */
    g_assert_cmphex(cmos(0), ==, 20);
    g_assert_cmphex(cmos(4), ==, 0x80 | 10);
    test_advance(vm, UINT64_C(2) * 3600 * 1000000000);
    g_assert_cmphex(cmos(4), ==, 12); /* midnight is 12 AM */
    g_assert_cmphex(cmos(7), ==, 15);
    teardown();
}

static void rtc_update_in_progress(void)
{
    rtc_setup();
    test_advance(vm, 999000000);
    g_assert_cmphex(cmos(0x0a) & 0x80, ==, 0);
    test_advance(vm, 800000);
    g_assert_cmphex(cmos(0x0a) & 0x80, ==, 0x80);
    g_assert_cmphex(cmos(0), ==, 0x20);
    test_advance(vm, 200000);
    g_assert_cmphex(cmos(0x0a) & 0x80, ==, 0);
    g_assert_cmphex(cmos(0), ==, 0x21);
    teardown();
}

static void rtc_set_keeps_what_is_written(void)
{
    rtc_setup();
    cmos_put(0x0b, 0x82);
    static const uint8_t t[][2] = {{0, 0x58}, {2, 0x59}, {4, 0x23},    {7, 0x31},
                                   {8, 0x12}, {9, 0x99}, {0x32, 0x19}, {6, 0x06}};
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        cmos_put(t[i][0], t[i][1]);
    }
    test_advance(vm, UINT64_C(10000000000)); /* held meanwhile */
    g_assert_cmphex(cmos(0), ==, 0x58);
    cmos_put(0x0b, 0x02);
    test_advance(vm, UINT64_C(2000000000));
    static const uint8_t after[][2] = {{0, 0x00}, {2, 0x00}, {4, 0x00},    {7, 0x01},
                                       {8, 0x01}, {9, 0x00}, {0x32, 0x20}, {6, 0x07}};
    for (unsigned i = 0; i < ARRAY_LEN(after); i++) {
        g_assert_cmphex(cmos(after[i][0]), ==, after[i][1]);
    }
    /* The first update comes 500 ms after the divider's reset ends. */
    cmos_put(0x0a, 0x76);
    test_advance(vm, UINT64_C(5000000000));
    g_assert_cmphex(cmos(0), ==, 0x00);
    cmos_put(0x0a, 0x26);
    test_advance(vm, 499000000);
    g_assert_cmphex(cmos(0), ==, 0x00);
    test_advance(vm, 2000000);
    g_assert_cmphex(cmos(0), ==, 0x01);
    teardown();
}

static void rtc_alarm(void)
{
    rtc_setup(); /* 22:13:20 */
    cmos_put(1, 0x05);
    cmos_put(3, 0x14);
    cmos_put(5, 0x22);
    cmos_put(0x0b, 0x22);
    test_advance(vm, UINT64_C(44999000000));
    g_assert_false(irq_level(8));
    test_advance(vm, 2000000);
    g_assert_true(irq_level(8));
    g_assert_cmphex(cmos(0x0c) & 0xa0, ==, 0xa0);
    g_assert_false(irq_level(8)); /* reading C takes the interrupt back */
    g_assert_cmphex(cmos(0x0c), ==, 0x00);
    /* "Every hour": the next is 23:14:05. */
    cmos_put(5, 0xff);
    test_advance(vm, UINT64_C(3599) * 1000000000);
    g_assert_false(irq_level(8));
    test_advance(vm, UINT64_C(2) * 1000000000);
    g_assert_true(irq_level(8));
    cmos(0x0c);
    cmos_put(1, 0x77); /* no second has this number: never */
    test_advance(vm, UINT64_C(200000) * 1000000000);
    g_assert_false(irq_level(8));
    teardown();
}

static void rtc_periodic_and_update(void)
{
    rtc_setup();
    cmos_put(0x0b, 0x42); /* periodic, rate 6: 1024 Hz */
    unsigned n = 0;
    for (unsigned i = 0; i < 10000; i++) {
        test_advance(vm, 100000);
        if (irq_level(8)) {
            g_assert_cmphex(cmos(0x0c) & 0xc0, ==, 0xc0);
            n++;
        }
    }
    g_assert_cmpuint(n, ==, 1024);
    cmos_put(0x0b, 0x12);
    cmos(0x0c);
    test_advance(vm, UINT64_C(1000000000));
    g_assert_true(irq_level(8));
    g_assert_cmphex(cmos(0x0c) & 0xd0, ==, 0xd0);
    cmos_put(0x0b, 0x92);
    g_assert_cmphex(cmos(0x0b), ==, 0x82); /* SET clears UIE */
    teardown();
}

static void rtc_flags_can_be_polled(void)
{
    rtc_setup();
    cmos(0x0c);
    test_advance(vm, UINT64_C(1000000000));
    g_assert_cmphex(cmos(0x0c), ==, 0x50); /* PF and UF without any enable */
    g_assert_cmphex(cmos(0x0c), ==, 0x00);
    g_assert_cmpuint(irq_rises(8), ==, 0);
    teardown();
}

static void rtc_memory_outlives_reset(void)
{
    rtc_setup();
    cmos_put(0x10, 0xa5);
    mc146818_set(rtc, 0x34, 0x77);
    mc146818_set(rtc, 5, 0x11); /* not memory: ignored */
    mc146818_set(rtc, 200, 0x11);
    cmos_put(0x0b, 0x72);
    cmos_put(0x0d, 0x00); /* read-only */
    mc146818rtc_type.reset(rtc);
    g_assert_cmphex(cmos(0x0b), ==, 0x02);
    g_assert_cmphex(cmos(0x0c), ==, 0x00);
    g_assert_cmphex(cmos(0x0d), ==, 0x80);
    g_assert_cmphex(cmos(0x10), ==, 0xa5);
    g_assert_cmphex(cmos(0x90), ==, 0xa5); /* bit 7 masks NMIs, not the index */
    g_assert_cmphex(cmos(0x34), ==, 0x77);
    g_assert_cmphex(cmos(5), ==, 0x00);
    g_assert_cmphex(mc146818_get(rtc, 0x10), ==, 0xa5);
    g_assert_cmphex(inb(0x70), ==, 0xff);
    cmos_put(0x11, 0x5a);
    save_and_load(rtc);
    g_assert_cmphex(cmos(0x11), ==, 0x5a);
    teardown();
}

static void rtc_survives_anything(void)
{
    rtc_setup();
    storm(0x70, 2);
    for (unsigned reg = 0; reg < 128; reg++) {
        for (unsigned v = 0; v < 256; v++) {
            cmos_put(reg, v);
            cmos(reg);
        }
    }
    test_advance(vm, 1000000000);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8254/mode0", pit_mode0);
    g_test_add_func("/i8254/mode2", pit_mode2_is_a_rate);
    g_test_add_func("/i8254/mode2-out", pit_mode2_out_is_low_for_one_clock);
    g_test_add_func("/i8254/mode3", pit_mode3_is_square);
    g_test_add_func("/i8254/mode1-5", pit_mode1_and_5_need_a_trigger);
    g_test_add_func("/i8254/mode4", pit_mode4_strobes);
    g_test_add_func("/i8254/gate", pit_gate_holds_the_count);
    g_test_add_func("/i8254/calibration", pit_calibration_takes_50_ms);
    g_test_add_func("/i8254/access", pit_access_modes_and_bcd);
    g_test_add_func("/i8254/port61", port61_refresh_toggles);
    g_test_add_func("/i8254/flood", pit_does_not_flood_the_host);
    g_test_add_func("/i8254/state", pit_state_and_hostility);
    g_test_add_func("/rtc/time", rtc_shows_wall_time);
    g_test_add_func("/rtc/uip", rtc_update_in_progress);
    g_test_add_func("/rtc/set", rtc_set_keeps_what_is_written);
    g_test_add_func("/rtc/alarm", rtc_alarm);
    g_test_add_func("/rtc/periodic", rtc_periodic_and_update);
    g_test_add_func("/rtc/poll", rtc_flags_can_be_polled);
    g_test_add_func("/rtc/memory", rtc_memory_outlives_reset);
    g_test_add_func("/rtc/hostile", rtc_survives_anything);
    return g_test_run();
}
