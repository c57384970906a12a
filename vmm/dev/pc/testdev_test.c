/* pc-testdev, as QEMU's behaves. */
#include "vmm/dev/pc/isa_debug.h"
#include "vmm/dev/pc/pc_test.h"
#include "vmm/dev/pc/pc_testdev.h"
#include "vmm/vm/gmem.h"

static struct device *testdev;

static void testdev_setup(void)
{
    setup(1);
    testdev = add(&pc_testdev_type);
}

static uint64_t in(uint16_t port, unsigned len)
{
    return vcpu_pio_read(vm->vcpus[0], port, len);
}

static void out(uint16_t port, uint64_t value, unsigned len)
{
    vcpu_pio_write(vm->vcpus[0], port, value, len);
}

static void ports_keep_what_is_written(void)
{
    testdev_setup();
    out(0xe0, 0x87654321, 4);
    g_assert_cmphex(in(0xe0, 4), ==, 0x87654321);
    g_assert_cmphex(in(0xe1, 1), ==, 0x43);
    g_assert_cmphex(in(0xe2, 2), ==, 0x8765);
    out(0xe1, 0xab, 1);
    out(0xe2, 0xcdef, 2);
    g_assert_cmphex(in(0xe0, 4), ==, 0xcdefab21);
    /* The same bytes, one by one. */
    g_assert_cmphex(in(0xe8, 4), ==, 0xcdefab21);
    out(0xe9, 0x1122, 2);
    g_assert_cmphex(in(0xe0, 4), ==, 0xcd112221);
    g_assert_cmphex(in(0xea, 1), ==, 0x11);
    save_and_load(testdev);
    g_assert_cmphex(in(0xe0, 4), ==, 0xcd112221);
    pc_testdev_type.reset(testdev);
    g_assert_cmphex(in(0xe0, 4), ==, 0);
    teardown();
}

static void irq_ports_drive_the_inputs(void)
{
    testdev_setup();
    for (unsigned i = 0; i < 24; i++) {
        out(0x2000 + i, 1, 1);
        g_assert_true(irq_level(i));
        out(0x2000 + i, 0, 1);
        g_assert_false(irq_level(i));
    }
    out(0x2017, 0x80, 1);
    g_assert_true(irq_level(23));
    pc_testdev_type.reset(testdev);
    g_assert_false(irq_level(23));
    teardown();
}

static void memory_takes_all_widths(void)
{
    testdev_setup();
    struct vcpu *vcpu = vm->vcpus[0];
    vcpu_mmio_write(vcpu, 0xff000000, UINT64_C(0x1122334455667788), 8);
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xff000001, 4), ==, 0x44556677);
    vcpu_mmio_write(vcpu, 0xff00ffff, 0x99, 1);
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xff00ffff, 1), ==, 0x99);
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xff010000, 4), ==, 0xffffffff);
    /* Across the end: one byte of it is there. */
    g_assert_cmphex(vcpu_mmio_read(vcpu, 0xff00ffff, 2), ==, 0xff99);
    teardown();
}

static unsigned nb_flushed;

static void flushed(void *opaque, gpa_t gpa, uint64_t len)
{
    nb_flushed += gpa == 0x3000 && len == GMEM_PAGE_SIZE;
}

static void flush_port_invalidates_a_page(void)
{
    testdev_setup();
    g_assert_true(gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL));
    gmem_set_invalidate(vm->gmem, flushed, NULL);
    const struct gmem_region *r = gmem_find(vm->gmem, 0);
    for (unsigned i = 0; i < 16; i++) {
        atomic_store(&r->code[i], 0xff);
    }
    nb_flushed = 0;
    out(0xe4, 0x3456, 4);
    g_assert_cmpuint(nb_flushed, ==, 1);
    out(0xe4, 0xfffff000, 4); /* no memory there */
    g_assert_cmpuint(nb_flushed, ==, 1);
    teardown();
}

static void a_debug_console_keeps_its_port(void)
{
    setup(1);
    add(&isa_debugcon_type);
    testdev = add(&pc_testdev_type);
    g_assert_cmphex(in(0xe9, 1), ==, 0xe9);
    out(0xe8, 0x55, 1);
    g_assert_cmphex(in(0xe0, 1), ==, 0x55);
    teardown();
}

static void survives_anything(void)
{
    testdev_setup();
    storm(0xde, 0x10);
    storm(0x1ffe, 0x20);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc-testdev/ports", ports_keep_what_is_written);
    g_test_add_func("/pc-testdev/irqs", irq_ports_drive_the_inputs);
    g_test_add_func("/pc-testdev/memory", memory_takes_all_widths);
    g_test_add_func("/pc-testdev/flush", flush_port_invalidates_a_page);
    g_test_add_func("/pc-testdev/debugcon", a_debug_console_keeps_its_port);
    g_test_add_func("/pc-testdev/hostility", survives_anything);
    return g_test_run();
}
