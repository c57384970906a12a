#include "vmm/accel/script/script.h"

#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/fake_accel.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"

/*
 * A machine with 64 KiB of memory, and a device of 16 bytes at port 0x10 and at
 * 0x1000000: a piece of memory, whose last byte sets the level of input 3, and whose
 * first, when written, arms a timer of 1 ms that raises input 5.
 */
struct machine {
    struct loop *loop;
    struct vm *vm;
    uint8_t bytes[16];
    struct irq_line line;
    struct irq_line timer_line;
    struct vm_timer *timer;
    struct io_region port, mmio;
    struct fake_model model;
};

static uint64_t dev_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return le_get(((struct machine *)opaque)->bytes + off, len);
}

static void dev_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t v,
                      unsigned len)
{
    struct machine *m = opaque;
    le_put(m->bytes + off, v, len);
    if (off == 15) {
        irq_set(&m->line, v != 0);
    } else if (off == 0) {
        vm_timer_set(m->timer, vm_clock_ns(m->vm->clock) + 1000000);
    }
}

static const struct io_ops dev_ops = {.read = dev_read, .write = dev_write};

static void ignore_irq(void *opaque, unsigned input, bool level)
{
}

static void expire(void *opaque)
{
    irq_pulse(&((struct machine *)opaque)->timer_line);
}

static void setup_with(struct machine *m, const struct accel_ops *accel,
                       const json_t *options)
{
    memset(m, 0, sizeof(*m));
    m->loop = loop_new(NULL, NULL);
    loop_attach(m->loop, NULL);
    struct vm_config config = {
        .arch = &fake_arch,
        .accel = accel,
        .accel_options = options,
        .loop = m->loop,
        .nb_vcpus = 1,
        .cpu_model = &m->model,
    };
    GError *error = NULL;
    m->vm = vm_new(&config, &error);
    g_assert_no_error(error);
    m->vm->gsi_fn = ignore_irq;
    m->vm->nb_gsi = 24;
    m->line = vm_gsi_line(m->vm, 3);
    m->timer_line = vm_gsi_line(m->vm, 5);
    m->timer = vm_timer_new(m->vm->clock, expire, m);
    m->port = (struct io_region){
        .name = "dev", .base = 0x10, .len = 16, .ops = &dev_ops, .opaque = m};
    m->mmio = m->port;
    m->mmio.base = 0x1000000;
    g_assert_true(aspace_add(m->vm->pio, &m->port, NULL));
    g_assert_true(aspace_add(m->vm->mmio, &m->mmio, NULL));
    g_assert_true(gmem_add(m->vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL));
}

static void setup(struct machine *m, gconstpointer data)
{
    setup_with(m, &fake_accel, NULL);
}

static void teardown(struct machine *m, gconstpointer data)
{
    vm_timer_free(m->timer);
    vm_free(m->vm);
    loop_free(m->loop);
}

static const char good[] = "# a comment\n"
                           "\n"
                           "let base 0x1000000   # and another\n"
                           "outb 0x11 0x5a\n"
                           "inb 0x11 = 0x5a\n"
                           "inb 0x11 & 0x0f = 10\n"
                           "inb 0x11 -> v\n"
                           "write32 $base+4 0x11223344\n"
                           "read16 $base+0x4+2 = 0x1122\n"
                           "read8 $base+2 = 0\n"
                           "write8 $base+2 $v+1\n"
                           "read64 $base = 0x11223344005b5a00\n"
                           "inl 0x8000 = 0xffffffff\n"
                           "load 0x100 deadbeef 00 01\n"
                           "expect-mem 0x102 BEEF\n"
                           "read32 0x100 = 0xefbeadde\n"
                           "fill 0x2000 0x1800 0xee\n"
                           "expect-fill 0x2001 0x17ff 0xee\n"
                           "read8 0x3800 = 0\n"
                           "irq 3 = 0\n"
                           "no-irq 3\n"
                           "outb 0x1f 1\n"
                           "irq 3 = 1\n"
                           "wait-irq 3\n"
                           "no-irq 3\n"
                           "outb 0x1f 0\n"
                           "repeat 3\n"
                           "  repeat 0\n"
                           "    read8 0 = 99\n"
                           "  end\n"
                           "  repeat 2\n"
                           "    inb 0x12 -> n\n"
                           "    outb 0x12 $n+1\n"
                           "  end\n"
                           "end\n"
                           "inb 0x12 = 0x61\n"
                           "within 1s inb 0x12 = 0x61\n";

static void every_command_works(struct machine *m, gconstpointer data)
{
    GError *error = NULL;
    script_run_text(m->vm, "good", good, &error);
    g_assert_no_error(error);
}

static void time_moves_only_with_advance(struct machine *m, gconstpointer data)
{
    GError *error = NULL;
    script_run_text(m->vm, "time",
                    "outb 0x10 1\n"
                    "advance 999us\nadvance 999ns\n"
                    "no-irq 5\n"
                    "advance 1ns\n"
                    "wait-irq 5 1ns\n"
                    "no-irq 5\n",
                    &error);
    g_assert_no_error(error);
    g_assert_cmpuint(vm_clock_ns(m->vm->clock), ==, 1000000);
}

static void failures_name_place_expected_and_actual(struct machine *m,
                                                    gconstpointer data)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"\n\ninb 0x11 = 0x5a\n", "t:3: inb 0x11: expected 0x5a, got 0x0"},
        {"inb 0x11 & 0xf0 = 0x10", "t:1: inb 0x11 & 0xf0: expected 0x10, got 0x0"},
        {"expect-mem 0x10 00 01", "at 0x11: expected 0x01, got 0x00"},
        {"expect-fill 0 8 1", "at 0x0: expected 0x01, got 0x00"},
        {"inbb 0x11", "no command 'inbb'; did you mean 'inb'?"},
        {"frobnicate", "no command 'frobnicate'"},
        {"outb 1", "outb takes 2 to 2 words, not 1"},
        {"outb 1 2 3", "outb takes 2 to 2 words, not 3"},
        {"inb 0x10000", "no port 0x10000"},
        {"inb zz", "'zz' is not a number"},
        {"inb 0x", "'0x' is not a number"},
        {"inb 1+", "'' is not a number"},
        {"inb $x", "no value is named 'x'"},
        {"inb 0x11 == 1", "after a read there is"},
        {"inb 0x11 & 1", "after a read there is"},
        {"load 0xffff 0011", "no memory for 2 bytes"},
        {"load 0 123", "half a byte"},
        {"load 0 zz", "not hex"},
        {"fill 0xf000 0x2000 1", "no memory at 0x10000"},
        {"read32 0xfffe", "leaves memory"},
        {"irq 24 = 0", "24 interrupt inputs"},
        {"wait-irq 3 1ms", "t:1: wait-irq 3 1ms: the interrupt did not come"},
        {"outb 0x1f 1\nno-irq 3", "t:2: no-irq 3: the interrupt came"},
        {"advance 5", "not a time"},
        {"advance 99999999999s", "too long"},
        {"within 2ms inb 0x13 = 1", "within 2ms inb 0x13: expected 0x1, got 0x0"},
        {"within 2ms repeat 1", "repeat cannot stand within"},
        {"repeat 2\nno-irq 1", "t:1: repeat without end"},
        {"end", "t:1: end without repeat"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(script_run_text(m->vm, "t", bad[i].text, &error));
        if (!strstr(error->message, bad[i].says)) {
            g_test_message("'%s' does not say '%s'", error->message, bad[i].says);
            g_test_fail();
        }
    }
}

/* Run @text as an accelerator does, with a vCPU thread and a running clock. */
static enum vm_end run_accel(struct machine *m, const char *text)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("script-XXXXXX", &path, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    json_t *options = json_pack("{s:s}", "file", path);
    setup_with(m, &script_accel, options);
    json_decref(options);
    g_unlink(path);
    g_assert_true(vm_start(m->vm, NULL));
    return vm_run_main(m->vm);
}

static void as_an_accelerator_it_ends_the_vm(void)
{
    struct machine m;
    g_assert_cmpint(run_accel(&m, "outb 0x11 7\nadvance 2ms\noutb 0x10 1\nwait-irq 5\n"
                                  "inb 0x11 = 7\n"),
                    ==, VM_END_EXIT);
    g_assert_cmpint(m.vm->exit_status, ==, 0);
    g_assert_cmpuint(m.vm->vcpus[0]->exits[VCPU_EXIT_PIO].count, ==, 3);
    g_assert_cmpuint(vm_clock_ns(m.vm->clock), >=, 3000000);
    teardown(&m, NULL);

    g_assert_cmpint(run_accel(&m, "inb 0x11 = 7\n"), ==, VM_END_ERROR);
    g_assert_nonnull(strstr(m.vm->end_error->message, ":1: inb 0x11: expected 0x7"));
    teardown(&m, NULL);
}

static gboolean quit(gpointer opaque)
{
    vm_request_end(opaque, VM_END_QUIT, 0);
    return G_SOURCE_REMOVE;
}

static void a_long_script_stops_when_asked(void)
{
    struct machine m;
    json_t *options;
    g_autofree char *path = NULL;
    close(g_file_open_tmp("script-XXXXXX", &path, NULL));
    g_assert_true(g_file_set_contents(
        path, "repeat 1000000000\nrepeat 1000000000\ninb 0x11\nend\nend\n", -1, NULL));
    options = json_pack("{s:s}", "file", path);
    setup_with(&m, &script_accel, options);
    json_decref(options);
    g_unlink(path);
    g_timeout_add(5, quit, m.vm);
    g_assert_true(vm_start(m.vm, NULL));
    g_assert_cmpint(vm_run_main(m.vm), ==, VM_END_QUIT);
    teardown(&m, NULL);
}

static void bad_options_are_refused(void)
{
    static const struct {
        const char *name, *value, *says;
    } bad[] = {
        {"flie", "x", "did you mean 'file'"},
        {"file", "/nonexistent/x", "/nonexistent/x"},
        {NULL, NULL, "'file' is missing"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *options = json_object();
        if (bad[i].name) {
            json_object_set_new(options, bad[i].name, json_string(bad[i].value));
        }
        struct vm_config config = {.arch = &fake_arch,
                                   .accel = &script_accel,
                                   .accel_options = options,
                                   .nb_vcpus = 1};
        g_autoptr(GError) error = NULL;
        g_assert_null(vm_new(&config, &error));
        g_assert_nonnull(strstr(error->message, bad[i].says));
        json_decref(options);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, fn) g_test_add(path, struct machine, NULL, setup, fn, teardown)
    ADD("/script/commands", every_command_works);
    ADD("/script/time", time_moves_only_with_advance);
    ADD("/script/failures", failures_name_place_expected_and_actual);
    g_test_add_func("/script/accel", as_an_accelerator_it_ends_the_vm);
    g_test_add_func("/script/stops", a_long_script_stops_when_asked);
    g_test_add_func("/script/options", bad_options_are_refused);
    return g_test_run();
}
