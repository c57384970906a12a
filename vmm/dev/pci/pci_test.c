#include "vmm/dev/pci/pci_test.h"

enum { DEV = 5 << 3, ALL_ON = PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER };

static struct test_device *one(struct machine *m)
{
    struct test_device *d = machine_add(m, "{\"addr\":\"5\"}");
    cfg_put(m, DEV, PCI_COMMAND, ALL_ON, 2);
    return d;
}

static void sizes_of_bars_are_found_by_writing_ones(void)
{
    static const uint32_t expected[6] = {0xffffffe1, 0xffff0000, 0xffffc00c,
                                         0xffffffff, 0xfffff000, 0};
    struct machine *m = machine_new(false);
    one(m);
    for (unsigned i = 0; i < 6; i++) {
        cfg_put(m, DEV, PCI_BAR0 + 4 * i, UINT32_MAX, 4);
        g_assert_cmphex(cfg(m, DEV, PCI_BAR0 + 4 * i, 4), ==, expected[i]);
    }
    g_assert_cmphex(cfg(m, DEV, 0, 4), ==, 0x56781234);
    g_assert_cmphex(cfg(m, DEV, PCI_SUBVENDOR_ID, 4), ==, 0x11001af4);
    g_assert_cmphex(cfg(m, 6 << 3, 0, 4), ==, UINT32_MAX);
    g_assert_cmphex(cfg(m, 0x105, 0, 2), ==, 0xffff);
    machine_free(m);
}

static void ports_0xcf8_and_0xcfc_reach_configuration_space(void)
{
    struct machine *m = machine_new(false);
    one(m);
    aspace_write(m->vm->pio, NULL, 0xcf8, 0x80000000u | DEV << 8, 4);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xcfc, 4), ==, 0x56781234);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xcfe, 2), ==, 0x5678);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xcfd, 1), ==, 0x12);
    /* Only a write of 32 bits is an address. */
    aspace_write(m->vm->pio, NULL, 0xcf8, 0, 1);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xcfc, 2), ==, 0x1234);
    aspace_write(m->vm->pio, NULL, 0xcf8, DEV << 8, 4);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xcfc, 4), ==, UINT32_MAX);
    machine_free(m);
}

static void ecam_reaches_all_of_4096_bytes(void)
{
    struct machine *m = machine_new(true);
    struct test_device *d = one(m);
    unsigned off = pci_add_ecap(&d->pci, PCI_ECAP_SERIAL, 1, 12);
    g_assert_cmphex(off, ==, 0x100);
    g_assert_cmphex(pci_add_ecap(&d->pci, PCI_ECAP_ACS, 1, 8), ==, 0x10c);
    pci_host_set_ecam(m->host, 0xb0000000, 256);
    uint64_t at = 0xb0000000 + (DEV << 12);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, at, 4), ==, 0x56781234);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, at + 0x100, 4), ==, 0x10c10003);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, at + 0x10c, 4), ==, 0x0001000d);
    pci_host_set_ecam(m->host, 0xe0000000, 64);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, at, 4), ==, UINT32_MAX);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000 + (DEV << 12), 4), ==,
                    0x56781234);
    pci_host_set_ecam(m->host, 0, 0);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000 + (DEV << 12), 4), ==,
                    UINT32_MAX);
    machine_free(m);
}

static void bars_answer_where_they_were_put(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    d->regs[0] = 0x5a;
    cfg_put(m, DEV, PCI_BAR0, 0xc000, 4);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xc000, 1), ==, 0x5a);
    cfg_put(m, DEV, PCI_BAR0 + 8, 0, 4);
    cfg_put(m, DEV, PCI_BAR0 + 12, 0x12, 4);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, UINT64_C(0x1200000000), 1), ==,
                    0x5a);
    cfg_put(m, DEV, PCI_BAR0 + 12, 0x34, 4);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, UINT64_C(0x1200000000), 1), ==,
                    0xff);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, UINT64_C(0x3400000000), 1), ==,
                    0x5a);
    cfg_put(m, DEV, PCI_COMMAND, PCI_CMD_MEMORY, 2);
    g_assert_cmphex(aspace_read(m->vm->pio, NULL, 0xc000, 1), ==, 0xff);
    test_reset(&d->dev);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, UINT64_C(0x3400000000), 1), ==,
                    0xff);
    g_assert_cmphex(cfg(m, DEV, PCI_COMMAND, 2), ==, 0);
    machine_free(m);
}

static void memory_behind_a_bar_is_the_guests(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    uint8_t byte = 0;
    cfg_put(m, DEV, PCI_BAR0 + 4, 0xe0000000, 4);
    g_assert_cmpint(gmem_write(m->vm->gmem, 0xe0000123, "x", 1), ==, 0);
    g_assert_cmpuint(gmem_block_host(d->vram)[0x123], ==, 'x');
    /* As the registers' space has it too, for who gets there first. */
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000123, 1), ==, 'x');
    cfg_put(m, DEV, PCI_BAR0 + 4, 0xd0000000, 4);
    g_assert_cmpint(gmem_read(m->vm->gmem, 0xe0000123, &byte, 1), ==, -EFAULT);
    g_assert_cmpint(gmem_read(m->vm->gmem, 0xd0000123, &byte, 1), ==, 0);
    g_assert_cmpuint(byte, ==, 'x');
    machine_free(m);
}

/* RAM answers, and nothing is lost of it; where there is none the BAR does. */
static void a_bar_over_ram_does_no_harm(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    uint8_t byte = 0;
    g_assert_cmpint(gmem_write(m->vm->gmem, 0xf8000, "r", 1), ==, 0);
    memset(gmem_block_host(d->vram), 'v', TEST_VRAM);
    cfg_put(m, DEV, PCI_BAR0 + 4, 0xf0000, 4); /* within RAM */
    g_assert_cmpint(gmem_read(m->vm->gmem, 0xf8000, &byte, 1), ==, 0);
    g_assert_cmpuint(byte, ==, 'r');
    cfg_put(m, DEV, PCI_BAR0 + 4, 0x100000, 4); /* behind it */
    g_assert_cmpint(gmem_read(m->vm->gmem, 0x108000, &byte, 1), ==, 0);
    g_assert_cmpuint(byte, ==, 'v');
    machine_free(m);
}

/* Where other registers come first, the guest's memory does not show the BAR. */
static void memory_gives_way_to_what_is_fixed(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    struct io_region fixed = {.name = "fixed",
                              .base = 0xe0004000,
                              .len = 0x1000,
                              .ops = &test_ops,
                              .opaque = d};
    uint8_t byte = 0;
    d->regs[0] = 0x77;
    g_assert_true(aspace_add(m->vm->mmio, &fixed, NULL));
    cfg_put(m, DEV, PCI_BAR0 + 4, 0xe0000000, 4);
    g_assert_cmpint(gmem_read(m->vm->gmem, 0xe0000000, &byte, 1), ==, -EFAULT);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0004000, 1), ==, 0x77);
    memset(gmem_block_host(d->vram), 'v', TEST_VRAM);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000, 1), ==, 'v');
    aspace_remove(m->vm->mmio, &fixed);
    machine_free(m);
}

static void intx_pins_are_wired_together(void)
{
    struct machine *m = machine_new(false);
    struct test_device *a = one(m), *b = machine_add(m, "{\"addr\":\"9\"}");
    pci_set_irq(&a->pci, true); /* slots 5 and 9 share PIRQ 1 */
    pci_set_irq(&b->pci, true);
    g_assert_true(m->pirq[1] && !m->pirq[0]);
    g_assert_cmphex(cfg(m, DEV, PCI_STATUS, 2) & PCI_STATUS_INTX, !=, 0);
    pci_set_irq(&a->pci, false);
    g_assert_true(m->pirq[1]);
    cfg_put(m, 9 << 3, PCI_COMMAND, PCI_CMD_INTX_OFF, 2);
    g_assert_false(m->pirq[1]);
    cfg_put(m, 9 << 3, PCI_COMMAND, 0, 2);
    g_assert_true(m->pirq[1]);
    test_reset(&b->dev);
    g_assert_false(m->pirq[1]);
    machine_free(m);
}

static void msi_sends_masks_and_keeps_pending(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    unsigned cap = d->pci.msi_cap;
    g_assert_false(pci_notify(&d->pci, 0));
    pci_set_irq(&d->pci, true);
    cfg_put(m, DEV, cap + 4, 0xfee01000, 4);
    cfg_put(m, DEV, cap + 12, 0x40, 2);
    cfg_put(m, DEV, cap + 2, 1 | 1 << 4, 2); /* on, two vectors */
    g_assert_false(m->pirq[1]);              /* the pin is low then */
    g_assert_true(pci_notify(&d->pci, 1));
    g_assert_true(pci_notify(&d->pci, 3)); /* the last stands for the rest */
    g_assert_cmpuint(m->nb_msi, ==, 2);
    g_assert_cmphex(m->msi[0].addr, ==, 0xfee01000);
    g_assert_cmphex(m->msi[1].data, ==, 0x41);
    cfg_put(m, DEV, cap + 16, 2, 4); /* mask vector 1 */
    g_assert_true(pci_notify(&d->pci, 1));
    g_assert_cmpuint(m->nb_msi, ==, 2);
    g_assert_cmphex(cfg(m, DEV, cap + 20, 4), ==, 2);
    cfg_put(m, DEV, cap + 16, 0, 4);
    g_assert_cmpuint(m->nb_msi, ==, 3);
    g_assert_cmphex(cfg(m, DEV, cap + 20, 4), ==, 0);
    cfg_put(m, DEV, PCI_COMMAND, PCI_CMD_MEMORY, 2); /* no master: no messages */
    g_assert_true(pci_notify(&d->pci, 0));
    g_assert_cmpuint(m->nb_msi, ==, 3);
    machine_free(m);
}

#define TABLE (0xe0000000u + 0x800)
#define PBA   (0xe0000000u + 0xc00)

static void msix_sends_masks_and_keeps_pending(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    unsigned cap = d->pci.msix_cap;
    cfg_put(m, DEV, PCI_BAR0 + 16, 0xe0000000, 4);
    g_assert_cmphex(cfg(m, DEV, cap + 2, 2), ==, 39);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, TABLE + 39 * 16 + 12, 4), ==, 1);
    aspace_write(m->vm->mmio, NULL, TABLE + 39 * 16, 0xfee02000, 8);
    aspace_write(m->vm->mmio, NULL, TABLE + 39 * 16 + 8, 0x55, 4);
    cfg_put(m, DEV, cap + 2, 0x8000, 2);
    g_assert_true(pci_notify(&d->pci, 39)); /* still masked by its entry */
    g_assert_false(pci_notify(&d->pci, 40));
    g_assert_cmpuint(m->nb_msi, ==, 0);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, PBA, 8), ==, UINT64_C(1) << 39);
    cfg_put(m, DEV, cap + 2, 0xc000, 2); /* all are masked */
    aspace_write(m->vm->mmio, NULL, TABLE + 39 * 16 + 12, 0, 4);
    g_assert_cmpuint(m->nb_msi, ==, 0);
    cfg_put(m, DEV, cap + 2, 0x8000, 2);
    g_assert_cmpuint(m->nb_msi, ==, 1);
    g_assert_cmphex(m->msi[0].addr, ==, 0xfee02000);
    g_assert_cmphex(m->msi[0].data, ==, 0x55);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, PBA, 8), ==, 0);
    /* The rest of the BAR is the device's. */
    aspace_write(m->vm->mmio, NULL, 0xe0000000, 0x12345678, 4);
    g_assert_cmphex(le32_get(d->regs), ==, 0x12345678);
    machine_free(m);
}

/* A message goes to interrupt controllers or RAM, never into another register. */
static void a_message_to_a_register_goes_nowhere(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    unsigned cap = d->pci.msi_cap;
    uint8_t bytes[4] = {0};
    cfg_put(m, DEV, PCI_BAR0 + 16, 0xe0000000, 4);
    cfg_put(m, DEV, cap + 12, 0xbeef, 2);
    cfg_put(m, DEV, cap + 2, 1, 2);
    cfg_put(m, DEV, cap + 4, 0xe0000000, 4);
    g_assert_true(pci_notify(&d->pci, 0));
    g_assert_cmphex(le32_get(d->regs), ==, 0);
    cfg_put(m, DEV, cap + 4, 0x8000, 4);
    g_assert_true(pci_notify(&d->pci, 0));
    g_assert_cmpint(gmem_read(m->vm->gmem, 0x8000, bytes, 4), ==, 0);
    g_assert_cmphex(le32_get(bytes), ==, 0xbeef);
    machine_free(m);
}

static void dma_is_for_bus_masters(void)
{
    struct machine *m = machine_new(false);
    struct test_device *d = one(m);
    char byte;
    g_assert_cmpint(pci_dma_write(&d->pci, 0x1000, "m", 1), ==, 0);
    g_assert_cmpint(pci_dma_write(&d->pci, 0x100000, "m", 1), ==, -EFAULT);
    cfg_put(m, DEV, PCI_COMMAND, PCI_CMD_MEMORY, 2);
    g_assert_cmpint(pci_dma_read(&d->pci, 0x1000, &byte, 1), ==, -EACCES);
    machine_free(m);
}

/* ---- bridges ---- */

enum { PORT = 2 << 3, BELOW = 1 << 8 };

static struct test_device *behind_port(struct machine *m)
{
    g_autoptr(GError) error = NULL;
    machine_try(m, &pcie_root_port_type, "{\"id\":\"port\",\"addr\":\"2\"}", &error);
    g_assert_no_error(error);
    struct test_device *d = machine_add(m, "{\"bus\":\"port\"}");
    cfg_put(m, PORT, PCI_SECONDARY_BUS, 0x0101, 2);
    cfg_put(m, BELOW, PCI_COMMAND, ALL_ON, 2);
    cfg_put(m, BELOW, PCI_BAR0 + 16, 0xe0000000, 4);
    return d;
}

static void a_bridge_forwards_its_windows(void)
{
    struct machine *m = machine_new(true);
    struct test_device *d = behind_port(m);
    d->regs[0] = 0x5a;
    g_assert_cmphex(cfg(m, BELOW, 0, 4), ==, 0x56781234);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000, 1), ==, 0xff);
    cfg_put(m, PORT, PCI_COMMAND, ALL_ON, 2);
    cfg_put(m, PORT, PCI_MEMORY_BASE, 0xe000e000, 4);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000, 1), ==, 0x5a);
    cfg_put(m, PORT, PCI_MEMORY_BASE, 0xd000d000, 4);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, 0xe0000000, 1), ==, 0xff);
    cfg_put(m, PORT, PCI_SECONDARY_BUS, 0x0202, 2);
    g_assert_cmphex(cfg(m, BELOW, 0, 4), ==, UINT32_MAX);
    g_assert_cmphex(cfg(m, 2 << 8, 0, 4), ==, 0x56781234);
    machine_free(m);
}

static void a_bridge_turns_interrupt_pins(void)
{
    struct machine *m = machine_new(false);
    g_autoptr(GError) error = NULL;
    machine_try(m, &pci_bridge_type, "{\"id\":\"b\",\"addr\":\"2\"}", &error);
    g_assert_no_error(error);
    struct test_device *d = machine_add(m, "{\"bus\":\"b\",\"addr\":\"3\"}");
    pci_set_irq(&d->pci, true); /* pin A of slot 3 is pin D of the bridge, slot 2 */
    g_assert_true(m->pirq[(2 + 3) % 4]);
    pci_set_irq(&d->pci, false);
    g_assert_false(m->pirq[1]);
    machine_free(m);
}

static void a_secondary_bus_reset_resets_what_is_behind(void)
{
    struct machine *m = machine_new(true);
    behind_port(m);
    cfg_put(m, PORT, PCI_BRIDGE_CONTROL, PCI_BRIDGE_RESET, 2);
    g_assert_cmphex(cfg(m, BELOW, PCI_COMMAND, 2), ==, 0);
    g_assert_cmphex(cfg(m, BELOW, PCI_BAR0 + 16, 4), ==, 0);
    machine_free(m);
}

/* Bus numbers that lead in a circle find nobody. */
static void bus_numbers_in_a_circle_end(void)
{
    struct machine *m = machine_new(true);
    behind_port(m);
    for (unsigned first = 0; first < 256; first += 5) {
        cfg_put(m, PORT, PCI_SECONDARY_BUS, 0xff00 | first, 2);
        for (unsigned bus = 0; bus < 256; bus++) {
            uint32_t id = cfg(m, bus << 8, 0, 4);
            g_assert_true(id == UINT32_MAX || (bus == first && id == 0x56781234));
        }
    }
    machine_free(m);
}

/* ---- options, state, hostile writes ---- */

static void places_that_cannot_be_are_refused(void)
{
    static const struct {
        const char *options, *why;
    } cases[] = {
        {"{\"addr\":\"20\"}", "addr=20"},
        {"{\"addr\":\"1.8\"}", "addr=1.8"},
        {"{\"addr\":\"\"}", "addr="},
        {"{\"addr\":\"5x\"}", "addr=5x"},
        {"{\"addr\":\"5\"}", "is taken by 'test-0'"},
        {"{\"addr\":\"5.1\"}", "multifunction"},
        {"{\"bus\":\"pci.1\"}", "there is no PCI bus 'pci.1'; the root bus is 'pci.0'"},
    };
    struct machine *m = machine_new(false);
    one(m);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(machine_try(m, &test_type, cases[i].options, &error));
        g_assert_nonnull(strstr(error->message, cases[i].why));
    }
    for (unsigned slot = 2; slot < 31; slot++) {
        machine_add(m, "{}");
    }
    g_autoptr(GError) error = NULL;
    g_assert_null(machine_try(m, &test_type, "{}", &error));
    g_assert_nonnull(strstr(error->message, "no slot is free on bus 'pci.0'"));
    machine_free(m);
}

static void what_is_saved_is_what_is_loaded(void)
{
    struct machine *m = machine_new(true);
    struct test_device *d = one(m);
    g_autoptr(GError) error = NULL;
    cfg_put(m, DEV, PCI_BAR0 + 16, 0xe0000000, 4);
    aspace_write(m->vm->mmio, NULL, TABLE, 0xfee03000, 8);
    cfg_put(m, DEV, d->pci.msix_cap + 2, 0x8000, 2);
    pci_notify(&d->pci, 0);
    json_t *saved = state_save(&test_state, d);
    test_reset(&d->dev);
    g_assert_true(state_load(&test_state, d, saved, &error));
    g_assert_no_error(error);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, TABLE, 8), ==, 0xfee03000);
    aspace_write(m->vm->mmio, NULL, TABLE + 12, 0, 4);
    g_assert_cmpuint(m->nb_msi, ==, 1);
    json_decref(saved);
    machine_free(m);
}

/* Every byte of configuration space, everywhere, with anything: nothing but what is
 * writable changes, and the machine can be taken apart. */
static void configuration_takes_any_write(void)
{
    struct machine *m = machine_new(true);
    struct test_device *d = behind_port(m);
    GRand *rand = g_rand_new_with_seed(7);
    one(m);
    for (unsigned i = 0; i < 60000; i++) {
        static const unsigned where[] = {DEV, PORT, BELOW, 0x100, 0x2ff};
        unsigned bdf = where[g_rand_int_range(rand, 0, ARRAY_LEN(where))];
        unsigned len = 1u << g_rand_int_range(rand, 0, 3);
        unsigned off = (unsigned)g_rand_int_range(rand, 0, 0x120) & ~(len - 1);
        uint32_t value = g_rand_int(rand) | (i % 3 ? 0 : 0xff000000);
        cfg_put(m, bdf, off, value, len);
        cfg(m, bdf, off, len);
        pci_notify(&d->pci, value % 64);
        pci_set_irq(&d->pci, value & 1);
        aspace_write(m->vm->mmio, NULL, value, value, 4);
    }
    g_rand_free(rand);
    g_assert_cmphex(cfg(m, DEV, 0, 4), ==, 0x56781234);
    machine_free(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pci/sizes", sizes_of_bars_are_found_by_writing_ones);
    g_test_add_func("/pci/ports", ports_0xcf8_and_0xcfc_reach_configuration_space);
    g_test_add_func("/pci/ecam", ecam_reaches_all_of_4096_bytes);
    g_test_add_func("/pci/bars", bars_answer_where_they_were_put);
    g_test_add_func("/pci/memory", memory_behind_a_bar_is_the_guests);
    g_test_add_func("/pci/over_ram", a_bar_over_ram_does_no_harm);
    g_test_add_func("/pci/gives_way", memory_gives_way_to_what_is_fixed);
    g_test_add_func("/pci/intx", intx_pins_are_wired_together);
    g_test_add_func("/pci/msi", msi_sends_masks_and_keeps_pending);
    g_test_add_func("/pci/msix", msix_sends_masks_and_keeps_pending);
    g_test_add_func("/pci/message", a_message_to_a_register_goes_nowhere);
    g_test_add_func("/pci/dma", dma_is_for_bus_masters);
    g_test_add_func("/pci/windows", a_bridge_forwards_its_windows);
    g_test_add_func("/pci/swizzle", a_bridge_turns_interrupt_pins);
    g_test_add_func("/pci/bus_reset", a_secondary_bus_reset_resets_what_is_behind);
    g_test_add_func("/pci/circle", bus_numbers_in_a_circle_end);
    g_test_add_func("/pci/places", places_that_cannot_be_are_refused);
    g_test_add_func("/pci/state", what_is_saved_is_what_is_loaded);
    g_test_add_func("/pci/any_write", configuration_takes_any_write);
    return g_test_run();
}
