/* The firmware configuration device, by ports and by DMA. */
#include "vmm/dev/pc/fw_cfg.h"

#include <string.h>

#include "lib/base/bytes.h"
#include "vmm/dev/pc/pc_test.h"
#include "vmm/vm/gmem.h"

#define RAM  0x40000
#define REQ  0x1000
#define DATA 0x2000

static struct device *cfg;

static void cfg_setup(void)
{
    setup(1);
    g_assert_true(gmem_add(vm->gmem, "ram", GMEM_RAM, 0, RAM, NULL));
    g_assert_true(gmem_add(vm->gmem, "rom", GMEM_ROM, 0x80000, 0x1000, NULL));
    cfg = add(&fw_cfg_type);
}

static void sel(uint16_t key)
{
    vcpu_pio_write(vm->vcpus[0], 0x510, key, 2);
}

static uint64_t data_le(unsigned len)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < len; i++) {
        value |= (uint64_t)inb(0x511) << 8 * i;
    }
    return value;
}

/* One DMA request; returns its control word afterwards. */
static uint32_t dma(uint32_t control, uint32_t len, uint64_t gpa)
{
    uint8_t req[16];
    be32_put(req, control);
    be32_put(req + 4, len);
    be32_put(req + 8, gpa >> 32);
    be32_put(req + 12, gpa);
    gmem_write(vm->gmem, REQ, req, sizeof(req));
    vcpu_pio_write(vm->vcpus[0], 0x514, 0, 4);
    vcpu_pio_write(vm->vcpus[0], 0x518, __builtin_bswap32(REQ), 4);
    gmem_read(vm->gmem, REQ, req, 4);
    return be32_get(req);
}

static void expect_memory(uint64_t gpa, const void *bytes, size_t len)
{
    uint8_t buf[64];
    g_assert_cmpuint(len, <=, sizeof(buf));
    g_assert_cmpint(gmem_read(vm->gmem, gpa, buf, len), ==, 0);
    g_assert_cmpmem(buf, len, bytes, len);
}

static void set_file(const char *name, const char *text)
{
    GError *error = NULL;
    fw_cfg_set_file(cfg, name,
                    &(struct fw_cfg_content){.bytes = text, .len = strlen(text)},
                    &error);
    g_assert_no_error(error);
}

static void says_what_it_is(void)
{
    cfg_setup();
    g_assert_cmphex(data_le(4), ==, 0x554d4551); /* "QEMU", selected after reset */
    g_assert_cmphex(data_le(4), ==, 0);
    sel(FW_CFG_ID);
    g_assert_cmphex(data_le(4), ==, 3);
    g_assert_cmphex(vcpu_pio_read(vm->vcpus[0], 0x514, 4), ==, 0x554d4551);
    g_assert_cmphex(vcpu_pio_read(vm->vcpus[0], 0x518, 4), ==, 0x47464320);
    g_assert_cmphex(vcpu_pio_read(vm->vcpus[0], 0x514, 1), ==, 'Q');
    g_assert_cmphex(vcpu_pio_read(vm->vcpus[0], 0x510, 2), ==, 0);
    teardown();
}

static void items_are_little_endian(void)
{
    cfg_setup();
    fw_cfg_set_u16(cfg, FW_CFG_NB_CPUS, 3);
    fw_cfg_set_u64(cfg, FW_CFG_RAM_SIZE, UINT64_C(0x123456789a));
    fw_cfg_set_u32(cfg, FW_CFG_IRQ0_OVERRIDE, 1);
    fw_cfg_set_string(cfg, FW_CFG_CMDLINE_DATA, "quiet");
    sel(FW_CFG_NB_CPUS);
    g_assert_cmphex(data_le(2), ==, 3);
    sel(FW_CFG_RAM_SIZE);
    g_assert_cmphex(data_le(8), ==, 0x123456789a);
    sel(FW_CFG_RAM_SIZE | 0x4000); /* the former write channel */
    g_assert_cmphex(data_le(1), ==, 0x9a);
    sel(FW_CFG_IRQ0_OVERRIDE);
    g_assert_cmphex(data_le(4), ==, 1);
    sel(FW_CFG_CMDLINE_DATA);
    g_assert_cmphex(data_le(7), ==, UINT64_C(0x7465697571));
    sel(FW_CFG_NUMA);
    g_assert_cmphex(data_le(4), ==, 0);
    fw_cfg_set_u16(cfg, FW_CFG_NB_CPUS, 4);
    sel(FW_CFG_NB_CPUS);
    g_assert_cmphex(data_le(2), ==, 4);
    teardown();
}

static void directory_is_sorted_by_name(void)
{
    static const char *const names[] = {"bootorder", "etc/e820", "opt/a"};
    uint8_t dir[4 + 3 * 64];
    cfg_setup();
    set_file("opt/a", "three");
    set_file("bootorder", "1");
    set_file("etc/e820", "22");
    g_assert_true(fw_cfg_has_file(cfg, "opt/a"));
    g_assert_false(fw_cfg_has_file(cfg, "opt"));
    sel(FW_CFG_FILE_DIR);
    for (size_t i = 0; i < sizeof(dir); i++) {
        dir[i] = inb(0x511);
    }
    g_assert_cmpuint(be32_get(dir), ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *e = dir + 4 + 64 * i;
        g_assert_cmpuint(be32_get(e), ==, i == 2 ? 5 : i + 1);
        g_assert_cmphex(e[4] << 8 | e[5], ==, 0x20 + i);
        g_assert_cmpstr((const char *)e + 8, ==, names[i]);
    }
    sel(0x21);
    g_assert_cmphex(data_le(3), ==, 0x3232);
    set_file("etc/e820", "4444"); /* renewed in its place */
    sel(0x21);
    g_assert_cmphex(data_le(4), ==, 0x34343434);
    teardown();
}

static void dma_selects_reads_and_skips(void)
{
    cfg_setup();
    set_file("opt/a", "abcdefgh");
    g_assert_cmphex(dma(0x20 << 16 | 8 | 2, 3, DATA), ==, 0);
    expect_memory(DATA, "abc", 3);
    g_assert_cmphex(dma(4, 2, 0), ==, 0);
    g_assert_cmphex(dma(2, 6, DATA), ==, 0);
    expect_memory(DATA, "fgh\0\0\0", 6); /* zeros behind the end */
    /* Only the selection, then the port goes on from there. */
    g_assert_cmphex(dma(0x20 << 16 | 8, 0, 0), ==, 0);
    g_assert_cmphex(data_le(2), ==, 0x6261);
    g_assert_cmphex(dma(2, 1, DATA), ==, 0);
    expect_memory(DATA, "c", 1);
    /* One access of 64 bits. */
    uint8_t req[16] = {0, 0x20, 0, 8 | 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, DATA >> 8};
    gmem_write(vm->gmem, REQ, req, sizeof(req));
    vcpu_pio_write(vm->vcpus[0], 0x514, __builtin_bswap64(REQ), 8);
    expect_memory(DATA, "a", 1);
    expect_memory(REQ, "\0\0\0", 4);
    teardown();
}

static void dma_reads_across_pages(void)
{
    g_autofree uint8_t *big = g_malloc(20000), *got = g_malloc(20000);
    cfg_setup();
    for (unsigned i = 0; i < 20000; i++) {
        big[i] = i * 7 >> 3;
    }
    fw_cfg_set_bytes(cfg, FW_CFG_KERNEL_DATA, big, 20000);
    g_assert_cmphex(dma(FW_CFG_KERNEL_DATA << 16 | 8 | 2, 20000, DATA + 5), ==, 0);
    gmem_read(vm->gmem, DATA + 5, got, 20000);
    g_assert_cmpmem(got, 20000, big, 20000);
    teardown();
}

static void bad_requests_end_with_the_error_bit(void)
{
    cfg_setup();
    set_file("opt/a", "abcdefgh");
    g_assert_cmphex(dma(0x20 << 16 | 8 | 2, 4, RAM - 2), ==, 1);
    g_assert_cmphex(dma(0x20 << 16 | 8 | 2, 4, UINT64_MAX - 1), ==, 1);
    g_assert_cmphex(dma(0x20 << 16 | 8 | 2, 4, 0x80000), ==, 1); /* ROM */
    g_assert_cmphex(dma(0x20 << 16 | 8 | 2, UINT32_MAX, DATA), ==, 1);
    g_assert_cmphex(dma(0x20 << 16 | 8 | 16, 1, DATA), ==, 1); /* not writable */
    g_assert_cmphex(dma(0x99 << 16 | 8 | 16, 1, DATA), ==, 1);
    g_assert_cmphex(dma(0x99 << 16 | 8 | 2, 1, DATA), ==, 0); /* empty: a zero */
    /* No request can be read there: nothing happens, all ones are no RAM. */
    vcpu_pio_write(vm->vcpus[0], 0x514, UINT32_MAX, 4);
    vcpu_pio_write(vm->vcpus[0], 0x518, UINT32_MAX, 4);
    vcpu_pio_write(vm->vcpus[0], 0x518, 0xffff, 2);
    teardown();
}

static unsigned nb_selected, written_off, written_len;

static void on_selected(void *opaque)
{
    nb_selected++;
    set_file("opt/other", "renewed"); /* allowed from here */
}

static void on_written(void *opaque, const uint8_t *bytes, uint32_t off, uint32_t len)
{
    written_off = off;
    written_len = len;
    g_assert_cmpmem(bytes, 8, "abXYefgh", 8);
}

static bool on_read(void *opaque, uint32_t off, void *buf, uint32_t len)
{
    memset(buf, 'A' + off, len);
    return off != 3;
}

static void callbacks_are_called(void)
{
    struct fw_cfg_content c = {
        .bytes = "abcdefgh", .len = 8, .writable = true, .written = on_written};
    cfg_setup();
    g_assert_true(fw_cfg_set_file(cfg, "opt/w", &c, NULL));
    c = (struct fw_cfg_content){.len = 5, .read = on_read, .selected = on_selected};
    fw_cfg_set(cfg, FW_CFG_INITRD_DATA, &c);
    gmem_write(vm->gmem, DATA, "XY", 2);
    g_assert_cmphex(dma(0x20 << 16 | 8 | 4, 2, 0), ==, 0);
    g_assert_cmphex(dma(16, 2, DATA), ==, 0);
    g_assert_cmpuint(written_off, ==, 2);
    g_assert_cmpuint(written_len, ==, 2);
    g_assert_cmphex(dma(16, 5, DATA), ==, 1); /* beyond the end */
    nb_selected = 0;
    sel(FW_CFG_INITRD_DATA);
    g_assert_cmpuint(nb_selected, ==, 1);
    g_assert_cmphex(data_le(2), ==, 0x4241);
    g_assert_true(fw_cfg_has_file(cfg, "opt/other"));
    g_assert_cmphex(dma(FW_CFG_INITRD_DATA << 16 | 8 | 2, 7, DATA), ==, 0);
    expect_memory(DATA, "AAAAA\0\0", 7);
    g_assert_cmphex(dma(FW_CFG_INITRD_DATA << 16 | 8 | 4, 3, 0), ==, 0);
    g_assert_cmphex(dma(2, 1, DATA), ==, 1); /* its owner could not */
    teardown();
}

static void names_are_checked(void)
{
    struct fw_cfg_content c = {.len = 0};
    char name[64];
    cfg_setup();
    memset(name, 'n', sizeof(name));
    name[56] = '\0';
    g_assert_false(fw_cfg_set_file(cfg, name, &c, NULL));
    name[55] = '\0';
    g_assert_true(fw_cfg_set_file(cfg, name, &c, NULL));
    g_assert_false(fw_cfg_set_file(cfg, "", &c, NULL));
    g_assert_false(fw_cfg_set_file(cfg, "opt/\303\244", &c, NULL));
    for (unsigned i = 1; i < FW_CFG_FILES_MAX; i++) {
        g_snprintf(name, sizeof(name), "opt/%u", i);
        g_assert_true(fw_cfg_set_file(cfg, name, &c, NULL));
    }
    g_assert_false(fw_cfg_set_file(cfg, "opt/more", &c, NULL));
    g_assert_true(fw_cfg_set_file(cfg, "opt/7", &c, NULL));
    teardown();
}

static void state_is_where_the_guest_reads(void)
{
    cfg_setup();
    set_file("opt/a", "abcdefgh");
    sel(0x20);
    data_le(3);
    save_and_load(cfg);
    g_assert_cmphex(data_le(1), ==, 'd');
    fw_cfg_type.reset(cfg);
    g_assert_cmphex(data_le(1), ==, 'Q');
    storm(0x50e, 0x10);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fw-cfg/identity", says_what_it_is);
    g_test_add_func("/fw-cfg/items", items_are_little_endian);
    g_test_add_func("/fw-cfg/directory", directory_is_sorted_by_name);
    g_test_add_func("/fw-cfg/dma", dma_selects_reads_and_skips);
    g_test_add_func("/fw-cfg/dma-large", dma_reads_across_pages);
    g_test_add_func("/fw-cfg/errors", bad_requests_end_with_the_error_bit);
    g_test_add_func("/fw-cfg/callbacks", callbacks_are_called);
    g_test_add_func("/fw-cfg/names", names_are_checked);
    g_test_add_func("/fw-cfg/state", state_is_where_the_guest_reads);
    return g_test_run();
}
