/* The devices at ports alone: serial, debug ports, i8042, reset control. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/chardev/chardev.h"
#include "vmm/dev/pc/i8042.h"
#include "vmm/dev/pc/isa_debug.h"
#include "vmm/dev/pc/isa_serial.h"
#include "vmm/dev/pc/pc_reset.h"
#include "vmm/dev/pc/pc_test.h"

static struct chardev *cd;
static struct device *serial;

static void *resolve_chardev(void *opaque, const char *id, GError **error)
{
    return cd;
}

static const struct device_resolver resolver = {.chardev = resolve_chardev};

static void ring_setup(void)
{
    GError *error = NULL;
    setup(1);
    json_t *options =
        json_pack("{s:s, s:s, s:s}", "backend", "ringbuf", "id", "c", "size", "64k");
    cd = chardev_new(vm->loop, options, &error);
    g_assert_no_error(error);
    json_decref(options);
}

static void ring_teardown(void)
{
    while (vm->devices->len) {
        device_free(g_ptr_array_index(vm->devices, 0));
    }
    chardev_free(cd);
    teardown();
}

static void turn(void)
{
    for (unsigned i = 0; i < 20; i++) {
        loop_poll(vm->loop, false);
    }
}

static void type(const char *text)
{
    chardev_ring_put(cd, (const uint8_t *)text, strlen(text));
    turn();
}

static void expect_output(const char *text)
{
    uint8_t buf[4096];
    size_t n = chardev_ring_take(cd, buf, sizeof(buf));
    g_assert_cmpmem(buf, n, text, strlen(text));
}

static void uart_setup(void)
{
    ring_setup();
    serial = add_with(&isa_serial_type, "{\"chardev\": \"c\"}", &resolver);
}

enum { DATA = 0x3f8, IER, IIR, LCR, MCR, LSR, MSR, SCR };

static void uart_reset_state(void)
{
    uart_setup();
    outb(SCR, 0x5a);
    outb(LCR, 0x83);
    outb(DATA, 0x01);
    isa_serial_type.reset(serial);
    g_assert_cmphex(inb(IER), ==, 0x00);
    g_assert_cmphex(inb(IIR), ==, 0x01);
    g_assert_cmphex(inb(LCR), ==, 0x00);
    g_assert_cmphex(inb(MCR), ==, 0x00);
    g_assert_cmphex(inb(LSR), ==, 0x60);
    g_assert_cmphex(inb(MSR), ==, 0xb0);
    outb(LCR, 0x80);
    g_assert_cmphex(inb(DATA) | inb(IER) << 8, ==, 12);
    outb(LCR, 0x00);
    outb(SCR, 0xa5);
    g_assert_cmphex(inb(SCR), ==, 0xa5);
    outb(IER, 0xff);
    g_assert_cmphex(inb(IER), ==, 0x0f); /* how drivers tell it from others */
    outb(IIR, 0x01);
    g_assert_cmphex(inb(IIR) & 0xc0, ==, 0xc0); /* a 16550A */
    outb(IIR, 0x00);
    g_assert_cmphex(inb(IIR) & 0xc0, ==, 0x00);
    ring_teardown();
}

static void uart_output_goes_by_lines(void)
{
    uart_setup();
    for (const char *p = "hello\r\nwor"; *p; p++) {
        g_assert_cmphex(inb(LSR) & 0x60, ==, 0x60);
        outb(DATA, *p);
    }
    expect_output("hello\r\n");
    test_advance(vm, 1000000);
    expect_output("wor");
    outb(DATA, '!');
    device_free(serial); /* nothing is lost at the end */
    expect_output("!");
    ring_teardown();
}

static void uart_thre_interrupt(void)
{
    uart_setup();
    outb(IER, 0x02);
    g_assert_true(irq_level(4)); /* enabled while empty */
    g_assert_cmphex(inb(IIR), ==, 0x02);
    g_assert_false(irq_level(4)); /* reading IIR takes it back */
    g_assert_cmphex(inb(IIR), ==, 0x01);
    outb(DATA, 'x');
    g_assert_true(irq_level(4));
    outb(IER, 0x00);
    g_assert_false(irq_level(4));
    outb(IER, 0x02); /* enabling it anew raises it again */
    g_assert_cmphex(inb(IIR), ==, 0x02);
    ring_teardown();
}

static void uart_receives_one_byte_at_a_time_without_fifo(void)
{
    uart_setup();
    outb(IER, 0x01);
    type("abc");
    g_assert_true(irq_level(4));
    g_assert_cmphex(inb(IIR), ==, 0x04);
    g_assert_cmphex(inb(LSR), ==, 0x61);
    g_assert_cmphex(inb(DATA), ==, 'a');
    g_assert_false(irq_level(4));
    turn();
    g_assert_cmphex(inb(DATA), ==, 'b');
    turn();
    g_assert_cmphex(inb(DATA), ==, 'c');
    turn();
    g_assert_cmphex(inb(LSR), ==, 0x60);
    ring_teardown();
}

static void uart_fifo_trigger_and_timeout(void)
{
    uart_setup();
    outb(LCR, 0x83);
    outb(DATA, 1); /* 115200 baud: four characters are 347 us */
    outb(IER, 0);
    outb(LCR, 0x03);
    outb(IIR, 0x81); /* trigger at 8 */
    outb(IER, 0x01);
    type("1234567");
    g_assert_false(irq_level(4));
    test_advance(vm, 340000);
    g_assert_false(irq_level(4));
    test_advance(vm, 10000);
    g_assert_true(irq_level(4));
    g_assert_cmphex(inb(IIR), ==, 0xcc); /* character time-out */
    g_assert_cmphex(inb(DATA), ==, '1');
    g_assert_false(irq_level(4));
    type("89");
    g_assert_cmphex(inb(IIR), ==, 0xc4); /* eight are there */
    for (const char *p = "23456789"; *p; p++) {
        g_assert_cmphex(inb(DATA), ==, *p);
    }
    g_assert_false(irq_level(4));
    test_advance(vm, 1000000);
    g_assert_false(irq_level(4)); /* empty: no time-out */
    ring_teardown();
}

/* Nothing is lost, however much the host types. */
static void uart_holds_input_back(void)
{
    char text[1001];
    uart_setup();
    outb(IIR, 0xc1);
    for (unsigned i = 0; i < 1000; i++) {
        text[i] = 'A' + i % 26;
    }
    text[1000] = 0;
    type(text);
    for (unsigned i = 0; i < 1000; i++) {
        g_assert_cmphex(inb(LSR), ==, 0x61);
        g_assert_cmphex(inb(DATA), ==, text[i]);
        turn();
    }
    g_assert_cmphex(inb(LSR), ==, 0x60);
    ring_teardown();
}

static void uart_loopback(void)
{
    uart_setup();
    outb(MCR, 0x10);
    g_assert_cmphex(inb(MSR) & 0xf0, ==, 0x00);
    outb(MCR, 0x1a); /* RTS and OUT2 come back as CTS and DCD */
    g_assert_cmphex(inb(MSR) & 0xf0, ==, 0x90);
    outb(MCR, 0x1f);
    g_assert_cmphex(inb(MSR), ==, 0xf0 | 0x02); /* DSR changed; RI only tells its end */
    outb(IER, 0x08);
    outb(MCR, 0x1b);
    g_assert_cmphex(inb(IIR), ==, 0x00);
    g_assert_cmphex(inb(MSR), ==, 0xb4);
    g_assert_cmphex(inb(IIR), ==, 0x01);
    outb(IER, 0x05);
    outb(DATA, 'p');
    g_assert_cmphex(inb(LSR), ==, 0x61);
    outb(DATA, 'q'); /* no FIFO: overruns */
    g_assert_cmphex(inb(IIR), ==, 0x06);
    g_assert_cmphex(inb(LSR), ==, 0x63);
    g_assert_cmphex(inb(IIR), ==, 0x04);
    g_assert_cmphex(inb(DATA), ==, 'q');
    type("x"); /* the line is cut off meanwhile */
    g_assert_cmphex(inb(LSR), ==, 0x60);
    outb(MCR, 0x00);
    turn();
    g_assert_cmphex(inb(DATA), ==, 'x');
    test_advance(vm, 2000000);
    expect_output("");
    ring_teardown();
}

static void uart_state_and_hostility(void)
{
    uart_setup();
    outb(IIR, 0x81);
    outb(IER, 0x01);
    outb(SCR, 0x42);
    type("abc");
    save_and_load(serial);
    g_assert_cmphex(inb(SCR), ==, 0x42);
    g_assert_cmphex(inb(DATA), ==, 'a');
    test_advance(vm, 100000000);
    g_assert_true(irq_level(4));
    g_assert_cmphex(inb(IIR), ==, 0xcc);
    storm(0x3f8, 8);
    ring_teardown();
}

static void uart_places(void)
{
    GError *error = NULL;
    setup(1);
    for (unsigned i = 0; i < 4; i++) {
        add(&isa_serial_type);
    }
    static const uint16_t scratch[] = {0x3ff, 0x2ff, 0x3ef, 0x2ef};
    for (unsigned i = 0; i < 4; i++) {
        outb(scratch[i], 0x10 + i);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmphex(inb(scratch[i]), ==, 0x10 + i);
    }
    json_t *none = json_object();
    g_assert_null(device_new(vm, &isa_serial_type, none, NULL, &error));
    g_assert_nonnull(strstr(error->message, "iobase and irq"));
    g_clear_error(&error);
    json_decref(none);
    json_t *taken = json_pack("{s:i, s:i}", "iobase", 0x3fa, "irq", 5);
    g_assert_null(device_new(vm, &isa_serial_type, taken, NULL, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    json_decref(taken);
    json_t *outside = json_pack("{s:i, s:i}", "iobase", 0xfffc, "irq", 5);
    g_assert_null(device_new(vm, &isa_serial_type, outside, NULL, &error));
    g_assert_nonnull(strstr(error->message, "0xfffc"));
    g_clear_error(&error);
    json_decref(outside);
    add_with(&isa_serial_type, "{\"iobase\": \"0x100\", \"irq\": 9}", NULL);
    outb(0x101, 0x02);
    g_assert_true(irq_level(9));
    teardown();
}

/* A host that does not take output: THRE goes, nothing is lost, and it comes back. */
static void uart_back_pressure(void)
{
    GError *error = NULL;
    int fds[2];
    setup(1);
    g_assert_cmpint(pipe2(fds, O_NONBLOCK | O_CLOEXEC), ==, 0);
    json_t *options =
        json_pack("{s:s, s:s, s:i}", "backend", "fd", "id", "c", "fd", fds[1]);
    cd = chardev_new(vm->loop, options, &error);
    g_assert_no_error(error);
    json_decref(options);
    serial = add_with(&isa_serial_type, "{\"chardev\": \"c\"}", &resolver);
    unsigned sent = 0;
    while ((inb(LSR) & 0x20) && sent < 64u << 20) {
        outb(DATA, sent++);
    }
    g_assert_cmphex(inb(LSR) & 0x60, ==, 0x00);
    outb(IER, 0x02);
    g_assert_false(irq_level(4));
    unsigned got = 0;
    uint8_t buf[4096];
    for (unsigned i = 0; i < 1000000 && got < sent; i++) {
        ssize_t n = read(fds[0], buf, sizeof(buf));
        for (ssize_t k = 0; k < n; k++) {
            g_assert_cmphex(buf[k], ==, (uint8_t)got);
            got++;
        }
        turn();
        test_advance(vm, 1000000);
    }
    g_assert_cmpuint(got, ==, sent);
    g_assert_cmphex(inb(LSR) & 0x60, ==, 0x60);
    g_assert_true(irq_level(4));
    ring_teardown();
    close(fds[0]);
    close(fds[1]);
}

static void uart_sends_lines_of_any_length(void)
{
    uint8_t buf[8192];
    uart_setup();
    for (unsigned i = 0; i < 5000; i++) {
        g_assert_cmphex(inb(LSR) & 0x60, ==, 0x60);
        outb(DATA, 'x');
    }
    test_advance(vm, 1000000);
    g_assert_cmpuint(chardev_ring_take(cd, buf, sizeof(buf)), ==, 5000);
    ring_teardown();
}

/* ---- debug ports ---- */

enum { DEBUG_BYTES = 300000 };

static gpointer write_debug_port(gpointer opaque)
{
    for (unsigned i = 0; i < DEBUG_BYTES; i++) {
        outb(0xe9, i * 7 >> 3);
    }
    return NULL;
}

/* More than pipe, ring and device hold, and a reader that comes late. */
static void debugcon_loses_nothing(void)
{
    GError *error = NULL;
    int fds[2];
    setup(1);
    g_assert_cmpint(pipe2(fds, O_NONBLOCK | O_CLOEXEC), ==, 0);
    json_t *options =
        json_pack("{s:s, s:s, s:i}", "backend", "fd", "id", "c", "fd", fds[1]);
    cd = chardev_new(vm->loop, options, &error);
    g_assert_no_error(error);
    json_decref(options);
    add_with(&isa_debugcon_type, "{\"chardev\": \"c\"}", &resolver);
    GThread *writer = g_thread_new("writer", write_debug_port, NULL);
    g_usleep(20000);
    for (unsigned got = 0; got < DEBUG_BYTES;) {
        uint8_t buf[4096];
        ssize_t n = read(fds[0], buf, sizeof(buf));
        for (ssize_t k = 0; k < n; k++, got++) {
            g_assert_cmphex(buf[k], ==, (uint8_t)(got * 7 >> 3));
        }
        turn();
        if (writer && got > DEBUG_BYTES - 1024) { /* the rest is in the device */
            g_thread_join(writer);
            writer = NULL;
        }
        if (!writer) {
            test_advance(vm, 1000000);
        }
    }
    ring_teardown();
    close(fds[0]);
    close(fds[1]);
}

static void debugcon(void)
{
    ring_setup();
    add_with(&isa_debugcon_type, "{\"chardev\": \"c\"}", &resolver);
    g_assert_cmphex(inb(0xe9), ==, 0xe9);
    for (const char *p = "ok\nmore"; *p; p++) {
        outb(0xe9, *p);
    }
    expect_output("ok\n");
    test_advance(vm, 1000000);
    expect_output("more");
    add_with(&isa_debugcon_type, "{\"iobase\": \"0x402\", \"readback\": 7}", NULL);
    g_assert_cmphex(inb(0x402), ==, 7);
    storm(0xe9, 1);
    ring_teardown();
}

static void debug_exit(void)
{
    setup(1);
    add(&isa_debug_exit_type);
    g_assert_cmphex(inb(0x501), ==, 0);
    outb(0x501, 0x10);
    g_assert_cmpint(vm->end, ==, VM_END_EXIT);
    g_assert_cmpint(vm->exit_status, ==, 0x21);
    teardown();
    setup(1);
    add_with(&isa_debug_exit_type, "{\"iobase\": \"0xf4\", \"iosize\": 4}", NULL);
    vcpu_pio_write(vm->vcpus[0], 0xf4, 0x100, 4);
    g_assert_cmpint(vm->exit_status, ==, 0x201);
    teardown();
}

/* ---- i8042 and reset ---- */

static bool a20 = true;

static void note_a20(void *opaque, unsigned input, bool level)
{
    a20 = level;
}

static void kbc_setup(void)
{
    setup(1);
    struct device *kbc = add(&i8042_type);
    i8042_set_a20_line(kbc, (struct irq_line){.fn = note_a20});
}

/* vm_request_reset() writes the wish down. */
static bool reset_wanted(void)
{
    bool wanted = vm->reset_wanted;
    vm->reset_wanted = false;
    return wanted;
}

static void kbc_probe(void)
{
    kbc_setup();
    g_assert_cmphex(inb(0x64) & 0x03, ==, 0x00); /* nothing to flush */
    outb(0x64, 0xaa);
    g_assert_cmphex(inb(0x64) & 0x05, ==, 0x05);
    g_assert_cmphex(inb(0x60), ==, 0x55);
    g_assert_cmphex(inb(0x64) & 0x01, ==, 0x00);
    outb(0x64, 0xab);
    g_assert_cmphex(inb(0x60), ==, 0x00);
    outb(0x64, 0x60);
    outb(0x60, 0x45); /* command byte: translate, system, interrupt */
    outb(0x64, 0x20);
    g_assert_true(irq_level(1));
    g_assert_cmphex(inb(0x60), ==, 0x45);
    g_assert_false(irq_level(1));
    outb(0x64, 0xd2);
    outb(0x60, 0x3c);
    g_assert_cmphex(inb(0x60), ==, 0x3c);
    /* No auxiliary port: its loop answers nothing. */
    outb(0x64, 0xa8);
    outb(0x64, 0xd3);
    g_assert_cmphex(inb(0x64) & 0x01, ==, 0x00);
    outb(0x64, 0xad);
    outb(0x64, 0x20);
    g_assert_cmphex(inb(0x60), ==, 0x55);
    /* No keyboard: a byte for it times out. */
    outb(0x60, 0xf2);
    g_assert_cmphex(inb(0x64) & 0x41, ==, 0x41);
    g_assert_cmphex(inb(0x60), ==, 0xfe);
    g_assert_cmphex(inb(0x64) & 0x41, ==, 0x00);
    teardown();
}

static void kbc_a20(void)
{
    kbc_setup();
    g_assert_true(a20);
    g_assert_cmphex(inb(0x92), ==, 0x02);
    outb(0x92, 0x00);
    g_assert_false(a20);
    outb(0x64, 0xd0);
    g_assert_cmphex(inb(0x60) & 0x03, ==, 0x01);
    outb(0x64, 0xd1);
    outb(0x60, 0xdf);
    g_assert_true(a20);
    outb(0x64, 0xdd);
    g_assert_false(a20);
    outb(0x64, 0xdf);
    g_assert_true(a20);
    teardown();
}

static void ways_to_reset(void)
{
    kbc_setup();
    add(&pc_reset_type);
    outb(0x64, 0xff); /* pulses nothing */
    g_assert_false(reset_wanted());
    outb(0x64, 0xfe);
    g_assert_true(reset_wanted());
    outb(0x92, 0x03);
    g_assert_true(reset_wanted());
    outb(0x64, 0xd1);
    outb(0x60, 0xde);
    g_assert_true(reset_wanted());
    outb(0xcf9, 0x02);
    g_assert_false(reset_wanted());
    outb(0xcf9, 0x06);
    g_assert_true(reset_wanted());
    g_assert_cmphex(inb(0xcf9), ==, 0x06);
    outb(0xcf9, 0x06); /* not an edge */
    g_assert_false(reset_wanted());
    teardown();
}

static void kbc_state_and_hostility(void)
{
    kbc_setup();
    struct device *kbc = g_ptr_array_index(vm->devices, 0);
    struct device *rst = add(&pc_reset_type);
    outb(0x64, 0xaa);
    outb(0x92, 0x00);
    outb(0xcf9, 0x02);
    save_and_load(kbc);
    save_and_load(rst);
    g_assert_false(a20);
    g_assert_cmphex(inb(0x60), ==, 0x55);
    g_assert_cmphex(inb(0xcf9), ==, 0x02);
    storm(0x60, 5);
    storm(0x92, 1);
    storm(0xcf9, 1);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/isa-serial/reset", uart_reset_state);
    g_test_add_func("/isa-serial/lines", uart_output_goes_by_lines);
    g_test_add_func("/isa-serial/thre", uart_thre_interrupt);
    g_test_add_func("/isa-serial/receive",
                    uart_receives_one_byte_at_a_time_without_fifo);
    g_test_add_func("/isa-serial/fifo", uart_fifo_trigger_and_timeout);
    g_test_add_func("/isa-serial/flow", uart_holds_input_back);
    g_test_add_func("/isa-serial/back-pressure", uart_back_pressure);
    g_test_add_func("/isa-serial/long-lines", uart_sends_lines_of_any_length);
    g_test_add_func("/isa-debugcon/loses-nothing", debugcon_loses_nothing);
    g_test_add_func("/isa-serial/loopback", uart_loopback);
    g_test_add_func("/isa-serial/state", uart_state_and_hostility);
    g_test_add_func("/isa-serial/places", uart_places);
    g_test_add_func("/isa-debugcon", debugcon);
    g_test_add_func("/isa-debug-exit", debug_exit);
    g_test_add_func("/i8042/probe", kbc_probe);
    g_test_add_func("/i8042/a20", kbc_a20);
    g_test_add_func("/i8042/reset", ways_to_reset);
    g_test_add_func("/i8042/state", kbc_state_and_hostility);
    return g_test_run();
}
