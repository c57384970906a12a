#include <errno.h>

#include "vmm/dev/virtio/virtio_test_drive.h"
#include "vmm/vm/state.h"

/* The block device over the drive of virtio_test_drive.h. */

#define ALL   UINT64_MAX
#define PLAIN (UINT64_C(1) << 32)
#define FLUSH (UINT64_C(1) << 9)

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, NO_STATUS = 0xee };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { HDR = DATA, STATUS = DATA + 0x800, BUF = DATA + 0x1000 };

static void setup_with(struct disk_machine *d, bool read_only, json_t *options)
{
    GError *error = NULL;
    drive_init(d);
    d->drive.read_only = read_only;
    g_assert_nonnull(plug(d, options, &error));
    g_assert_no_error(error);
}

static void setup(struct disk_machine *d, gconstpointer data)
{
    setup_with(d, false, json_pack("{s:s}", "serial", "disk-1"));
}

static void teardown(struct disk_machine *d, gconstpointer data)
{
    machine_done(&d->m);
}

static void header(struct disk_machine *d, uint32_t type, uint64_t sector)
{
    put(&d->m, HDR, type, 4);
    put(&d->m, HDR + 4, 0, 4);
    put(&d->m, HDR + 8, sector, 8);
    put(&d->m, STATUS, NO_STATUS, 1);
}

/* A request of three descriptors: header, @len bytes of data at BUF, status. */
static void queue_request(struct disk_machine *d, uint32_t type, uint64_t sector,
                          uint32_t len)
{
    bool in = type == T_IN || type == T_GET_ID;
    header(d, type, sector);
    set_desc(&d->m, 0, HDR, 16, D_NEXT, len ? 1 : 2);
    set_desc(&d->m, 1, BUF, len, D_NEXT | (in ? D_WRITE : 0), 2);
    set_desc(&d->m, 2, STATUS, 1, D_WRITE, 0);
    offer(&d->m, 0);
}

/* Do it; returns the status, and *ret_len what the device says it wrote. */
static unsigned request(struct disk_machine *d, uint32_t type, uint64_t sector,
                        uint32_t len, uint32_t *ret_len)
{
    uint16_t head = 0xffff;
    uint32_t written = 0;
    queue_request(d, type, sector, len);
    kick(&d->m);
    if (!take_used(&d->m, &head, &written)) {
        return NO_STATUS;
    }
    g_assert_cmpuint(head, ==, 0);
    if (ret_len) {
        *ret_len = written;
    }
    return (unsigned)get(&d->m, STATUS, 1);
}

static void data_goes_both_ways(struct disk_machine *d, gconstpointer data)
{
    uint32_t len = 0;
    start(&d->m, ALL);
    put(&d->m, BUF, 0x1122334455667788, 8);
    put(&d->m, BUF + 1016, 0x99, 1);
    g_assert_cmpuint(request(d, T_OUT, 3, 1024, &len), ==, S_OK);
    g_assert_cmpuint(len, ==, 1);
    g_assert_cmphex(le64_get(d->drive.bytes + 3 * 512), ==, 0x1122334455667788);
    g_assert_cmphex(d->drive.bytes[3 * 512 + 1016], ==, 0x99);
    put(&d->m, BUF, 0, 8);
    g_assert_cmpuint(request(d, T_IN, 3, 512, &len), ==, S_OK);
    g_assert_cmpuint(len, ==, 513);
    g_assert_cmphex(get(&d->m, BUF, 8), ==, 0x1122334455667788);
    g_assert_true(d->m.vm->gsi[5].level);
}

static void segments_may_be_cut_anywhere(struct disk_machine *d, gconstpointer data)
{
    struct machine *m = &d->m;
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, ALL);
    /* Write: half the header | the other half and 100 bytes | the rest. */
    header(d, T_OUT, 1);
    for (unsigned i = 0; i < 512; i++) {
        put(m, HDR + 16 + i, i * 7 & 0xff, 1);
    }
    set_desc(m, 0, HDR, 5, D_NEXT, 1);
    set_desc(m, 1, HDR + 5, 111, D_NEXT, 2);
    set_desc(m, 2, HDR + 116, 412, D_NEXT, 3);
    set_desc(m, 3, STATUS, 1, D_WRITE, 0);
    offer(m, 0);
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(get(m, STATUS, 1), ==, S_OK);
    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmpuint(d->drive.bytes[512 + i], ==, i * 7 & 0xff);
    }
    /* Read: data in two pieces, the status at the end of the second. */
    header(d, T_IN, 1);
    set_desc(m, 0, HDR, 16, D_NEXT, 1);
    set_desc(m, 1, BUF, 500, D_WRITE | D_NEXT, 2);
    set_desc(m, 2, BUF + 0x800, 13, D_WRITE, 0);
    put(m, BUF + 0x800 + 12, NO_STATUS, 1);
    offer(m, 0);
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(len, ==, 513);
    g_assert_cmpuint(get(m, BUF + 0x800 + 12, 1), ==, S_OK);
    g_assert_cmpuint(get(m, BUF + 499, 1), ==, 499 * 7 & 0xff);
    g_assert_cmpuint(get(m, BUF + 0x800 + 11, 1), ==, 511 * 7 & 0xff);
}

static void bad_ranges_are_io_errors(struct disk_machine *d, gconstpointer data)
{
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t len;
    } bad[] = {
        {T_IN, DISK_SECTORS, 512},
        {T_IN, DISK_SECTORS - 1, 1024},
        {T_OUT, DISK_SECTORS, 512},
        {T_IN, UINT64_MAX, 512},
        {T_IN, UINT64_MAX / 512, 512},
        {T_IN, UINT64_MAX / 512 + 1, 512},
        {T_IN, 0, 511},
        {T_OUT, 0, 513},
        {T_IN, 0, 0},
        {T_OUT, 0, 0},
        {T_GET_ID, 0, 19},
    };
    start(&d->m, ALL);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t len = 0;
        g_assert_cmpuint(request(d, bad[i].type, bad[i].sector, bad[i].len, &len), ==,
                         S_IOERR);
        g_assert_cmpuint(len, ==, 1);
    }
    g_assert_cmpuint(d->drive.n, ==, 0);
    g_assert_cmpuint(request(d, 99, 0, 512, NULL), ==, S_UNSUPP);
}

static void host_errors_reach_the_guest(struct disk_machine *d, gconstpointer data)
{
    start(&d->m, ALL);
    d->drive.fail = EIO;
    g_assert_cmpuint(request(d, T_IN, 0, 512, NULL), ==, S_IOERR);
    g_assert_cmpuint(request(d, T_FLUSH, 0, 0, NULL), ==, S_IOERR);
    d->drive.fail = 0;
    g_assert_cmpuint(request(d, T_IN, 0, 512, NULL), ==, S_OK);
}

static void the_serial_is_padded(struct disk_machine *d, gconstpointer data)
{
    uint32_t len = 0;
    start(&d->m, ALL);
    for (unsigned i = 0; i < 24; i++) {
        put(&d->m, BUF + i, 0xff, 1);
    }
    g_assert_cmpuint(request(d, T_GET_ID, 0, 20, &len), ==, S_OK);
    g_assert_cmpuint(len, ==, 21);
    uint8_t id[21];
    g_assert_cmpint(gmem_read(d->m.vm->gmem, BUF, id, 21), ==, 0);
    g_assert_cmpmem(id, 21, "disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff", 21);
}

static void range(struct disk_machine *d, uint64_t sector, uint32_t sectors,
                  uint32_t flags)
{
    put(&d->m, BUF, sector, 8);
    put(&d->m, BUF + 8, sectors, 4);
    put(&d->m, BUF + 12, flags, 4);
}

static void discard_and_zeroes_take_one_range(struct disk_machine *d,
                                              gconstpointer data)
{
    start(&d->m, ALL);
    range(d, 2, 4, 0);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_op, ==, BLK_DISCARD);
    g_assert_cmpuint(d->drive.last_offset, ==, 1024);
    g_assert_cmpuint(d->drive.last_len, ==, 2048);
    range(d, 2, 4, 1);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_UNSUPP);
    g_assert_cmpuint(request(d, T_ZEROES, 0, 16, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_op, ==, BLK_ZERO);
    g_assert_cmpuint(d->drive.last_flags, ==, BLK_MAY_UNMAP);
    range(d, 2, 4, 2);
    g_assert_cmpuint(request(d, T_ZEROES, 0, 16, NULL), ==, S_UNSUPP);
    range(d, DISK_SECTORS - 1, 2, 0);
    g_assert_cmpuint(request(d, T_ZEROES, 0, 16, NULL), ==, S_IOERR);
    range(d, 0, UINT32_MAX, 0);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_IOERR);
    range(d, UINT64_MAX, 1, 0);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_IOERR);
    range(d, 0, 0, 0);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_IOERR);
    range(d, 0, 1, 0);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 15, NULL), ==, S_IOERR);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 32, NULL), ==, S_IOERR);
    g_assert_cmpuint(d->drive.n, ==, 2);
    /* Not negotiated: not understood. */
    start(&d->m, PLAIN);
    g_assert_cmpuint(request(d, T_DISCARD, 0, 16, NULL), ==, S_UNSUPP);
    g_assert_cmpuint(request(d, T_ZEROES, 0, 16, NULL), ==, S_UNSUPP);
}

static uint64_t config(struct disk_machine *d, unsigned off, unsigned len)
{
    return aspace_read(d->m.vm->mmio, NULL, SLOT0 + 0x100 + off, len);
}

static void the_write_cache_decides_about_fua(struct disk_machine *d,
                                              gconstpointer data)
{
    start(&d->m, ALL);
    g_assert_cmpuint(request(d, T_OUT, 0, 512, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_flags, ==, 0);
    g_assert_cmpuint(config(d, 32, 1), ==, 1);
    aspace_write(d->m.vm->mmio, NULL, SLOT0 + 0x120, 0, 1);
    g_assert_cmpuint(config(d, 32, 1), ==, 0);
    g_assert_cmpuint(request(d, T_OUT, 0, 512, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_flags, ==, BLK_FUA);
    /* A driver that cannot flush gets durable writes; one that can, the cache. */
    start(&d->m, PLAIN);
    g_assert_cmpuint(request(d, T_OUT, 0, 512, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_flags, ==, BLK_FUA);
    start(&d->m, PLAIN | FLUSH);
    g_assert_cmpuint(request(d, T_OUT, 0, 512, NULL), ==, S_OK);
    g_assert_cmpuint(d->drive.last_flags, ==, 0);
    /* Without CONFIG_WCE the field is read-only, and so is all else. */
    aspace_write(d->m.vm->mmio, NULL, SLOT0 + 0x120, 0, 1);
    g_assert_cmpuint(config(d, 32, 1), ==, 1);
    aspace_write(d->m.vm->mmio, NULL, SLOT0 + 0x100, 1, 4);
    g_assert_cmpuint(config(d, 0, 8), ==, DISK_SECTORS);
}

static void the_configuration_tells_the_properties(void)
{
    struct disk_machine disk, *d = &disk;
    setup_with(d, false,
               json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "logical_block_size",
                         "4k", "physical_block_size", "16k", "min_io_size", "8k",
                         "opt_io_size", "1M", "discard_granularity", "64k",
                         "num-queues", "4", "queue-size", "16"));
    g_assert_cmpuint(config(d, 0, 8), ==, DISK_SECTORS);
    g_assert_cmpuint(config(d, 12, 4), ==, 126);
    g_assert_cmpuint(config(d, 20, 4), ==, 4096);
    g_assert_cmpuint(config(d, 24, 1), ==, 2);
    g_assert_cmpuint(config(d, 26, 2), ==, 2);
    g_assert_cmpuint(config(d, 28, 4), ==, 256);
    g_assert_cmpuint(config(d, 34, 2), ==, 4);
    g_assert_cmpuint(config(d, 36, 4), ==, INT32_MAX / 512);
    g_assert_cmpuint(config(d, 40, 4), ==, 1);
    g_assert_cmpuint(config(d, 44, 4), ==, 128);
    g_assert_cmpuint(config(d, 56, 1), ==, 1);
    g_assert_cmpuint(config(d, 60, 4), ==, 0);
    g_assert_cmpuint(config(d, 0xfc, 4), ==, 0);
    g_assert_cmpuint(reg(&d->m, 0x034), ==, 16);
    start(&d->m, ALL);
    g_assert_cmpuint(request(d, T_IN, 1, 4096, NULL), ==, S_IOERR);
    g_assert_cmpuint(request(d, T_IN, 8, 512, NULL), ==, S_IOERR);
    g_assert_cmpuint(request(d, T_IN, 8, 4096, NULL), ==, S_OK);
    machine_done(&d->m);
}

static void a_read_only_disk_refuses_writes(void)
{
    struct disk_machine disk, *d = &disk;
    setup_with(d, true, json_object());
    set_reg(&d->m, 0x014, 0);
    g_assert_cmphex(reg(&d->m, 0x010) & (1 << 5 | 1 << 13 | 1 << 14), ==, 1 << 5);
    start(&d->m, ALL);
    g_assert_cmpuint(request(d, T_OUT, 0, 512, NULL), ==, S_IOERR);
    g_assert_cmpuint(request(d, T_IN, 0, 512, NULL), ==, S_OK);
    g_assert_cmpuint(request(d, T_FLUSH, 0, 0, NULL), ==, S_OK);
    machine_done(&d->m);
}

static void bad_properties_are_refused(void)
{
    static const struct {
        const char *name, *value, *says;
    } bad[] = {
        {"logical_block_size", "1000", "powers of two"},
        {"logical_block_size", "256", "512 to"},
        {"logical_block_size", "4096", "physical_block_size is smaller"},
        {"min_io_size", "100", "multiples"},
        {"discard_granularity", "100", "discard_granularity"},
        {"queue-size", "100", "power of two"},
        {"queue-size", "2048", "2 to 1024"},
        {"num-queues", "0", "1 to 16"},
        {"serial", "123456789012345678901", "longer than 20"},
        {"seriel", "x", "did you mean 'serial'"},
    };
    struct disk_machine disk, *d = &disk;
    drive_init(d);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(plug(d, json_pack("{s:s}", bad[i].name, bad[i].value), &error));
        if (!strstr(error->message, bad[i].says)) {
            g_test_message("'%s' does not say '%s'", error->message, bad[i].says);
            g_test_fail();
        }
    }
    machine_done(&d->m);
}

static void chains_without_header_or_status_break_the_device(struct disk_machine *d,
                                                             gconstpointer data)
{
    struct machine *m = &d->m;
    start(m, ALL);
    header(d, T_IN, 0);
    set_desc(m, 0, HDR, 15, D_NEXT, 2);
    set_desc(m, 2, STATUS, 1, D_WRITE, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmphex(reg(m, 0x070), ==, 15 | 64);
    start(m, ALL);
    header(d, T_OUT, 0);
    set_desc(m, 0, HDR, 16, D_NEXT, 1);
    set_desc(m, 1, BUF, 512, 0, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmphex(reg(m, 0x070), ==, 15 | 64);
    g_assert_cmpuint(d->drive.n, ==, 0);
}

static void requests_complete_out_of_order(struct disk_machine *d, gconstpointer data)
{
    struct machine *m = &d->m;
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, ALL);
    d->drive.hold = true;
    queue_request(d, T_IN, 0, 512);
    header(d, T_IN, 1);
    /* A second one, of its own descriptors, and one that ends at once. */
    set_desc(m, 3, HDR, 16, D_NEXT, 4);
    set_desc(m, 4, BUF + 512, 512, D_WRITE | D_NEXT, 5);
    set_desc(m, 5, STATUS + 1, 1, D_WRITE, 0);
    offer(m, 3);
    put(m, HDR + 64, 77, 4);
    set_desc(m, 6, HDR + 64, 16, D_NEXT, 7);
    set_desc(m, 7, STATUS + 2, 1, D_WRITE, 0);
    offer(m, 6);
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(head, ==, 6);
    g_assert_cmpuint(get(m, STATUS + 2, 1), ==, S_UNSUPP);
    g_assert_false(take_used(m, &head, &len));
    release(&d->drive);
    settle(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_true(take_used(m, &head, &len));
    g_assert_false(take_used(m, &head, &len));
}

/* The same head again and again, never waiting for it: no more than the ring holds. */
static void a_ring_cannot_be_overfilled(struct disk_machine *d, gconstpointer data)
{
    start(&d->m, ALL);
    d->drive.hold = true;
    for (unsigned i = 0; i < QSIZE; i++) {
        queue_request(d, T_IN, 0, 512);
    }
    kick(&d->m);
    g_assert_cmpuint(d->drive.n, ==, QSIZE);
    g_assert_cmphex(reg(&d->m, 0x070), ==, 15);
    offer(&d->m, 0);
    kick(&d->m);
    g_assert_cmpuint(d->drive.n, ==, QSIZE);
    g_assert_cmphex(reg(&d->m, 0x070), ==, 15 | 64);
    release(&d->drive);
    settle(&d->m);
}

static void a_saved_device_goes_on_in_another_machine(struct disk_machine *d,
                                                      gconstpointer data)
{
    struct disk_machine other;
    GError *error = NULL;
    start(&d->m, ALL);
    for (unsigned i = 0; i < 11; i++) {
        g_assert_cmpuint(request(d, T_IN, 0, 512, NULL), ==, S_OK);
    }
    /* One more is waiting in the ring, unseen. */
    queue_request(d, T_IN, 1, 512);
    struct device *from = g_ptr_array_index(d->m.vm->devices, 2);
    json_t *state = state_save(from->type->state, from);

    setup_with(&other, false, json_object());
    struct device *to = g_ptr_array_index(other.m.vm->devices, 2);
    for (gpa_t a = 0; a < RAM_LEN; a += 8) {
        put(&other.m, a, get(&d->m, a, 8), 8);
    }
    other.m.avail_idx = d->m.avail_idx;
    other.m.used_seen = d->m.used_seen;
    g_assert_true(state_load(to->type->state, to, state, &error));
    g_assert_no_error(error);
    g_assert_true(other.m.vm->gsi[5].level);
    uint16_t head = 1;
    uint32_t len = 0;
    settle(&other.m);
    g_assert_true(take_used(&other.m, &head, &len));
    g_assert_cmpuint(len, ==, 513);
    g_assert_cmpuint(request(&other, T_IN, 0, 512, NULL), ==, S_OK);

    /* What does not fit this machine is refused. */
    static const struct {
        const char *field;
        json_int_t value;
        const char *says;
    } bad[] = {
        {"accepted", 1, "features 0x1"},
        {"desc", RAM_LEN, "queue 0: its rings"},
        {"size", 7, "queue 0: its rings"},
        {"size", 512, "512 entries are too many"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *copy = json_deep_copy(state);
        json_t *fields = json_object_get(
            json_object_get(json_object_get(copy, "fields"), "virtio"), "fields");
        if (i > 0) {
            fields = json_object_get(
                json_array_get(json_object_get(fields, "queues"), 0), "fields");
        }
        json_object_set_new(fields, bad[i].field, json_integer(bad[i].value));
        g_assert_false(state_load(to->type->state, to, copy, &error));
        g_assert_nonnull(strstr(error->message, bad[i].says));
        g_clear_error(&error);
        json_decref(copy);
    }
    json_decref(state);
    machine_done(&other.m);
}

static void release_soon(void *opaque)
{
    release(opaque);
}

static void a_reset_waits_for_requests_and_forgets_them(struct disk_machine *d,
                                                        gconstpointer data)
{
    struct machine *m = &d->m;
    struct loop_timer timer;
    start(m, ALL);
    d->drive.hold = true;
    memset(d->drive.bytes, 0xab, 512);
    queue_request(d, T_IN, 0, 512);
    kick(m);
    loop_timer_init(&timer, m->loop, release_soon, &d->drive);
    loop_timer_set(&timer, loop_now_ns() + 3000000);
    set_reg(m, 0x070, 0);
    /* It was read before the reset returned, and nobody was told. */
    g_assert_false(d->drive.hold);
    g_assert_cmphex(get(m, BUF, 1), ==, 0xab);
    g_assert_cmpuint(get(m, USED + 2, 2), ==, 0);
    g_assert_cmphex(get(m, STATUS, 1), ==, NO_STATUS);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
    start(m, ALL);
    g_assert_cmpuint(request(d, T_IN, 0, 512, NULL), ==, S_OK);
}

/* ---- the drive on an I/O thread ----------------------------------------------------
 */

static void an_io_thread_serves_while_the_guest_resets(void)
{
    struct disk_machine disk, *d = &disk;
    GError *error = NULL;
    memset(&d->drive, 0, sizeof(d->drive));
    machine_init(&d->m);
    d->drive.loop = loop_new(NULL, NULL);
    g_queue_init(&d->drive.waiting);
    loop_bh_init(&d->drive.bh, d->drive.loop, drive_run, &d->drive);
    g_assert_nonnull(plug(d, json_object(), &error));
    g_assert_true(loop_start(d->drive.loop, "io", NULL));
    for (unsigned round = 0; round < 200; round++) {
        start(&d->m, ALL);
        queue_request(d, T_IN, 0, 512);
        for (unsigned i = 1; i < QSIZE; i++) {
            offer(&d->m, 0);
        }
        set_reg(&d->m, 0x050, 0);
        if (round % 2) {
            gint64 end = g_get_monotonic_time() + 60 * G_TIME_SPAN_SECOND;
            /* The driver's view of used->idx, with its barrier. */
            const uint16_t *idx =
                (const uint16_t *)(gmem_find(d->m.vm->gmem, USED)->host + USED + 2);
            while (__atomic_load_n(idx, __ATOMIC_ACQUIRE) != QSIZE) {
                g_assert_cmpint(g_get_monotonic_time(), <, end);
                g_thread_yield();
            }
        }
    }
    vm_free(d->m.vm);
    loop_stop(d->drive.loop);
    loop_free(d->drive.loop);
    loop_free(d->m.loop);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, fn) \
    g_test_add("/virtio-blk/" path, struct disk_machine, NULL, setup, fn, teardown)
    ADD("read-write", data_goes_both_ways);
    ADD("framing", segments_may_be_cut_anywhere);
    ADD("bad-range", bad_ranges_are_io_errors);
    ADD("host-errors", host_errors_reach_the_guest);
    ADD("serial", the_serial_is_padded);
    ADD("ranges", discard_and_zeroes_take_one_range);
    ADD("write-cache", the_write_cache_decides_about_fua);
    ADD("no-room", chains_without_header_or_status_break_the_device);
    ADD("order", requests_complete_out_of_order);
    ADD("overfilled", a_ring_cannot_be_overfilled);
    ADD("reset", a_reset_waits_for_requests_and_forgets_them);
    ADD("state", a_saved_device_goes_on_in_another_machine);
    g_test_add_func("/virtio-blk/config", the_configuration_tells_the_properties);
    g_test_add_func("/virtio-blk/read-only", a_read_only_disk_refuses_writes);
    g_test_add_func("/virtio-blk/properties", bad_properties_are_refused);
    g_test_add_func("/virtio-blk/io-thread",
                    an_io_thread_serves_while_the_guest_resets);
    return g_test_run();
}
