/* The interrupt controllers: 8259 pair, IOAPIC, and their wiring. */
#include "lib/base/base.h"
#include "vmm/dev/pc/pc_test.h"

static struct device *pic, *ioapic;
static bool intr;

static void note_intr(void *opaque, unsigned input, bool level)
{
    intr = level;
}

/* As every BIOS and OS does: vectors 0x20 and 0x28, 8086 mode, fully nested. */
static void pic_program(uint8_t icw4)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } steps[] = {
        {0x20, 0x11}, {0x21, 0x20}, {0x21, 0x04},
        {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 0x02},
    };
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        outb(steps[i].port, steps[i].value);
        if (i == 2) {
            outb(0x21, icw4);
        }
    }
    outb(0xa1, 0x01);
    outb(0x21, 0x00);
    outb(0xa1, 0x00);
}

static void pic_setup(void)
{
    setup(1);
    intr = false;
    pic = add(&i8259_type);
    i8259_set_output(pic, (struct irq_line){.fn = note_intr});
    pic_program(0x01);
}

static void line(unsigned input, bool level)
{
    i8259_set_input(pic, input, level);
}

static void edge(unsigned input)
{
    line(input, true);
    line(input, false);
}

static void pic_delivers_by_priority(void)
{
    pic_setup();
    g_assert_false(intr);
    edge(4);
    edge(1);
    g_assert_true(intr);
    g_assert_cmphex(inb(0x20), ==, 0x12); /* IRR after ICW1 */
    g_assert_cmphex(i8259_ack(pic), ==, 0x21);
    g_assert_false(intr); /* 4 is lower than 1, in service */
    outb(0x20, 0x0b);
    g_assert_cmphex(inb(0x20), ==, 0x02); /* ISR */
    edge(0);
    g_assert_true(intr); /* 0 is higher: nests */
    g_assert_cmphex(i8259_ack(pic), ==, 0x20);
    outb(0x20, 0x20); /* EOI of 0 */
    g_assert_cmphex(inb(0x20), ==, 0x02);
    outb(0x20, 0x61); /* specific EOI of 1 */
    g_assert_cmphex(i8259_ack(pic), ==, 0x24);
    outb(0x20, 0x20);
    g_assert_cmphex(i8259_ack(pic), ==, 0x27); /* spurious: nothing in service */
    g_assert_cmphex(inb(0x20), ==, 0x00);
    teardown();
}

static void pic_masks(void)
{
    pic_setup();
    outb(0x21, 0x10);
    g_assert_cmphex(inb(0x21), ==, 0x10);
    edge(4);
    g_assert_false(intr);
    outb(0x21, 0x00); /* the edge was latched */
    g_assert_true(intr);
    g_assert_cmphex(i8259_ack(pic), ==, 0x24);
    teardown();
}

static void pic_cascades(void)
{
    pic_setup();
    edge(12);
    edge(9);
    g_assert_cmphex(i8259_ack(pic), ==, 0x29);
    outb(0x20, 0x0b);
    outb(0xa0, 0x0b);
    g_assert_cmphex(inb(0x20), ==, 0x04);
    g_assert_cmphex(inb(0xa0), ==, 0x02);
    g_assert_false(intr);
    outb(0xa0, 0x20);
    g_assert_false(intr); /* the master still serves its input 2 */
    outb(0x20, 0x20);
    g_assert_true(intr);
    g_assert_cmphex(i8259_ack(pic), ==, 0x2c);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    /* A slave request that goes between INT and INTA: the slave's spurious one. */
    outb(0x4d1, 0x02);
    line(9, true);
    line(9, false);
    g_assert_false(intr);
    g_assert_cmphex(i8259_ack(pic), ==, 0x27);
    teardown();
}

static void pic_special_fully_nested_lets_the_slave_nest(void)
{
    pic_setup();
    pic_program(0x11);
    edge(12);
    g_assert_cmphex(i8259_ack(pic), ==, 0x2c);
    edge(9);
    g_assert_true(intr); /* higher on the same slave */
    g_assert_cmphex(i8259_ack(pic), ==, 0x29);
    edge(5);
    g_assert_false(intr); /* lower than the cascade */
    teardown();
}

static void pic_level_input_asks_again(void)
{
    pic_setup();
    outb(0x4d0, 0xff);
    g_assert_cmphex(inb(0x4d0), ==, 0xf8); /* 0..2 stay edges */
    outb(0x4d0, 0x20);
    line(5, true);
    g_assert_cmphex(i8259_ack(pic), ==, 0x25);
    outb(0x20, 0x20);
    g_assert_true(intr); /* still asserted */
    line(5, false);
    g_assert_false(intr);
    teardown();
}

static void pic_auto_eoi_and_rotation(void)
{
    pic_setup();
    pic_program(0x03); /* AEOI */
    edge(3);
    g_assert_cmphex(i8259_ack(pic), ==, 0x23);
    outb(0x20, 0x0b);
    g_assert_cmphex(inb(0x20), ==, 0x00);
    outb(0x20, 0x80); /* rotate in AEOI mode */
    edge(3);
    i8259_ack(pic);
    edge(3);
    edge(4);
    g_assert_cmphex(i8259_ack(pic), ==, 0x24); /* 3 is the lowest now */
    pic_program(0x01);
    outb(0x20, 0xc4); /* set priority: 4 lowest, 5 highest */
    edge(0);
    edge(6);
    g_assert_cmphex(i8259_ack(pic), ==, 0x26);
    outb(0x20, 0xa0); /* rotate on non-specific EOI */
    g_assert_cmphex(i8259_ack(pic), ==, 0x20);
    teardown();
}

static void pic_special_mask_opens_lower_inputs(void)
{
    pic_setup();
    edge(1);
    i8259_ack(pic);
    edge(6);
    g_assert_false(intr);
    outb(0x21, 0x02);
    outb(0x20, 0x68); /* set special mask mode */
    g_assert_true(intr);
    g_assert_cmphex(i8259_ack(pic), ==, 0x26);
    teardown();
}

static void pic_poll_acknowledges(void)
{
    pic_setup();
    outb(0x20, 0x0c);
    g_assert_cmphex(inb(0x20), ==, 0x00);
    edge(6);
    outb(0x20, 0x0c);
    g_assert_cmphex(inb(0x20), ==, 0x86);
    outb(0x20, 0x0b);
    g_assert_cmphex(inb(0x20), ==, 0x40);
    teardown();
}

static void pic_state_and_reset(void)
{
    pic_setup();
    edge(3);
    i8259_ack(pic);
    edge(1);
    save_and_load(pic);
    g_assert_true(intr);
    g_assert_cmphex(i8259_ack(pic), ==, 0x21);
    outb(0x20, 0x0b);
    g_assert_cmphex(inb(0x20), ==, 0x0a);
    i8259_type.reset(pic);
    edge(1);
    g_assert_false(intr); /* nothing passes before ICW1 */
    teardown();
}

static void pic_survives_anything(void)
{
    pic_setup();
    storm(0x20, 2);
    storm(0xa0, 2);
    storm(0x4d0, 2);
    for (unsigned i = 0; i < 1000; i++) {
        i8259_set_input(pic, i % 20, i & 64);
        g_assert_cmpint(i8259_ack(pic), <, 256);
    }
    teardown();
}

/* ---- IOAPIC ---- */

static uint32_t io_get(uint8_t reg)
{
    vcpu_mmio_write(vm->vcpus[0], 0xfec00000, reg, 4);
    return vcpu_mmio_read(vm->vcpus[0], 0xfec00010, 4);
}

static void io_put(uint8_t reg, uint32_t value)
{
    vcpu_mmio_write(vm->vcpus[0], 0xfec00000, reg, 4);
    vcpu_mmio_write(vm->vcpus[0], 0xfec00010, value, 4);
}

static void pin_program(unsigned pin, uint32_t low, uint32_t high)
{
    io_put(0x11 + 2 * pin, high);
    io_put(0x10 + 2 * pin, low);
}

static struct pc_irqs irqs;

static void ioapic_setup(unsigned nb_vcpus)
{
    setup(nb_vcpus);
    pic = add(&i8259_type);
    ioapic = add(&ioapic_type);
    pc_irqs_connect(&irqs, vm, pic, ioapic);
    g_assert_true(lapic_map(vm, NULL));
    for (unsigned i = 0; i < nb_vcpus; i++) {
        vcpu_mmio_write(vm->vcpus[i], 0xfee000f0, 0x1ff, 4);
    }
}

static void gsi(unsigned n, bool level)
{
    struct irq_line l = vm_gsi_line(vm, n);
    irq_set(&l, level);
}

/* Take the vector pending on @cpu, without ending it; -1: none. */
static int take(unsigned cpu)
{
    int v = lapic_pending_vector(vm->vcpus[cpu]);
    return v < 0 ? -1 : (int)lapic_accept(vm->vcpus[cpu], v);
}

static void end(unsigned cpu)
{
    vcpu_mmio_write(vm->vcpus[cpu], 0xfee000b0, 0, 4);
}

static void ioapic_reset_state(void)
{
    ioapic_setup(1);
    g_assert_cmphex(io_get(0x00), ==, 0);
    g_assert_cmphex(io_get(0x01), ==, 0x00170020);
    for (unsigned pin = 0; pin < 24; pin++) {
        g_assert_cmphex(io_get(0x10 + 2 * pin), ==, 0x00010000);
        g_assert_cmphex(io_get(0x11 + 2 * pin), ==, 0);
    }
    io_put(0x00, 0xffffffff);
    g_assert_cmphex(io_get(0x00), ==, 0x0f000000);
    g_assert_cmphex(io_get(0x02), ==, 0x0f000000);
    io_put(0x01, 0);
    g_assert_cmphex(io_get(0x01), ==, 0x00170020);
    pin_program(5, 0xffffffff, 0xffffffff);
    g_assert_cmphex(io_get(0x1a), ==, 0x0001afff); /* 12 and 14 are read-only */
    g_assert_cmphex(io_get(0x1b), ==, 0xff000000);
    teardown();
}

static void ioapic_edge_sends_once(void)
{
    ioapic_setup(2);
    pin_program(4, 0x0051, 1u << 24);
    gsi(4, true);
    gsi(4, true);
    g_assert_cmpint(take(1), ==, 0x51);
    end(1);
    g_assert_cmpint(take(1), ==, -1);
    gsi(4, false);
    pin_program(4, 0x10051, 1u << 24);
    gsi(4, true); /* masked: lost */
    gsi(4, false);
    pin_program(4, 0x00051, 1u << 24);
    g_assert_cmpint(take(1), ==, -1);
    gsi(4, true);
    g_assert_cmpint(take(1), ==, 0x51);
    teardown();
}

static void ioapic_level_follows_remote_irr(void)
{
    ioapic_setup(1);
    pin_program(10, 0x8061, 0);
    gsi(10, true);
    g_assert_cmphex(io_get(0x24), ==, 0xc061); /* remote IRR */
    g_assert_cmpint(take(0), ==, 0x61);
    g_assert_cmpint(take(0), ==, -1);
    end(0); /* still asserted: again */
    g_assert_cmpint(take(0), ==, 0x61);
    gsi(10, false);
    end(0);
    g_assert_cmphex(io_get(0x24), ==, 0x8061);
    g_assert_cmpint(take(0), ==, -1);

    pin_program(10, 0x18061, 0);
    gsi(10, true); /* masked: waits for the unmask */
    g_assert_cmpint(take(0), ==, -1);
    pin_program(10, 0x8061, 0);
    g_assert_cmpint(take(0), ==, 0x61);
    gsi(10, false);
    /* Software ends it by hand: through the EOI register ... */
    vcpu_mmio_write(vm->vcpus[0], 0xfec00040, 0x61, 4);
    g_assert_cmphex(io_get(0x24), ==, 0x8061);
    gsi(10, true);
    gsi(10, false);
    g_assert_cmphex(io_get(0x24), ==, 0xc061);
    pin_program(10, 0x10061, 0); /* ... or by switching to edge and back */
    pin_program(10, 0x18061, 0);
    g_assert_cmphex(io_get(0x24), ==, 0x18061);
    teardown();
}

static void ioapic_unaccepted_level_is_not_outstanding(void)
{
    ioapic_setup(1);
    pin_program(11, 0x8062, 9u << 24); /* there is no APIC 9 */
    gsi(11, true);
    g_assert_cmphex(io_get(0x26), ==, 0x8062);
    pin_program(11, 0x8062, 0);
    g_assert_cmpint(take(0), ==, 0x62);
    teardown();
}

static void pc_wiring(void)
{
    ioapic_setup(1);
    pic_program(0x01);
    pin_program(2, 0x0030, 0); /* the timer's */
    pin_program(8, 0x0038, 0);
    gsi(0, true);
    g_assert_cmpint(take(0), ==, 0x30);
    gsi(8, true);
    g_assert_cmpint(take(0), ==, -1); /* same class: waits */
    end(0);
    g_assert_cmpint(take(0), ==, 0x38);
    end(0);
    /* The same lines through the 8259 and LINT0 in virtual wire mode. */
    vcpu_mmio_write(vm->vcpus[0], 0xfee00350, 0x700, 4);
    g_assert_cmpint(take(0), ==, 0x20);
    outb(0x20, 0x20);
    g_assert_cmpint(take(0), ==, 0x28 + 0);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    g_assert_cmpint(take(0), ==, -1);
    /* ExtINT through pin 0 of the IOAPIC, LINT0 masked. */
    vcpu_mmio_write(vm->vcpus[0], 0xfee00350, 0x10700, 4);
    pin_program(0, 0x0700, 0);
    gsi(5, true);
    g_assert_cmpint(take(0), ==, 0x25);
    g_assert_cmpint(take(0), ==, -1);
    teardown();
}

static void ioapic_state(void)
{
    ioapic_setup(1);
    pin_program(10, 0x8061, 0);
    gsi(10, true);
    save_and_load(ioapic);
    g_assert_cmphex(io_get(0x24), ==, 0xc061);
    take(0);
    end(0);
    g_assert_cmpint(take(0), ==, 0x61);
    teardown();
}

static void ioapic_survives_anything(void)
{
    ioapic_setup(2);
    GRand *rand = g_rand_new_with_seed(7);
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t addr = 0xfec00000 + g_rand_int_range(rand, 0, i & 1 ? 0x50 : 0x1000);
        unsigned len = 1u << g_rand_int_range(rand, 0, 4);
        uint64_t value = g_rand_int(rand);
        vcpu_mmio_write(vm->vcpus[0], addr, value, len);
        vcpu_mmio_read(vm->vcpus[1], addr, len);
        gsi(value % 26, value & 0x100);
        if (take(value >> 10 & 1) >= 0) {
            end(value >> 10 & 1);
        }
    }
    g_rand_free(rand);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8259/priority", pic_delivers_by_priority);
    g_test_add_func("/i8259/mask", pic_masks);
    g_test_add_func("/i8259/cascade", pic_cascades);
    g_test_add_func("/i8259/sfnm", pic_special_fully_nested_lets_the_slave_nest);
    g_test_add_func("/i8259/level", pic_level_input_asks_again);
    g_test_add_func("/i8259/aeoi", pic_auto_eoi_and_rotation);
    g_test_add_func("/i8259/special-mask", pic_special_mask_opens_lower_inputs);
    g_test_add_func("/i8259/poll", pic_poll_acknowledges);
    g_test_add_func("/i8259/state", pic_state_and_reset);
    g_test_add_func("/i8259/hostile", pic_survives_anything);
    g_test_add_func("/ioapic/reset", ioapic_reset_state);
    g_test_add_func("/ioapic/edge", ioapic_edge_sends_once);
    g_test_add_func("/ioapic/level", ioapic_level_follows_remote_irr);
    g_test_add_func("/ioapic/unaccepted", ioapic_unaccepted_level_is_not_outstanding);
    g_test_add_func("/ioapic/state", ioapic_state);
    g_test_add_func("/ioapic/hostile", ioapic_survives_anything);
    g_test_add_func("/pc/wiring", pc_wiring);
    return g_test_run();
}
