#include "vmm/dev/virtio/virtio_test.h"

/*
 * The transport, the core and the rings, seen from the driver, with the entropy
 * device as the one that answers.
 */

#define ALL   UINT64_MAX
#define PLAIN (UINT64_C(1) << 32) /* VERSION_1 alone */

static void setup_rng(struct machine *m, json_t *options)
{
    GError *error = NULL;
    machine_init(m);
    g_assert_nonnull(device_new(m->vm, &virtio_rng_device_type, options, NULL, &error));
    g_assert_no_error(error);
    json_decref(options);
}

static void setup(struct machine *m, gconstpointer data)
{
    setup_rng(m, json_object());
}

static void teardown(struct machine *m, gconstpointer data)
{
    machine_done(m);
}

static void registers_identify_the_device(struct machine *m, gconstpointer data)
{
    g_assert_cmphex(reg(m, 0x000), ==, 0x74726976);
    g_assert_cmphex(reg(m, 0x004), ==, 2);
    g_assert_cmphex(reg(m, 0x008), ==, 4);
    g_assert_cmphex(reg(m, 0x034), ==, 64);
    set_reg(m, 0x030, 1);
    g_assert_cmphex(reg(m, 0x034), ==, 0);
    set_reg(m, 0x014, 1);
    g_assert_cmphex(reg(m, 0x010), ==, 1);
    set_reg(m, 0x014, 2);
    g_assert_cmphex(reg(m, 0x010), ==, 0);
    /* No shared memory. */
    g_assert_cmphex(reg(m, 0x0b0), ==, UINT32_MAX);
    g_assert_cmphex(reg(m, 0x100), ==, 0);
}

static void an_empty_slot_has_device_id_0(struct machine *m, gconstpointer data)
{
    gpa_t base = SLOT0 + VIRTIO_MMIO_LEN;
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, base, 4), ==, 0x74726976);
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, base + 8, 4), ==, 0);
    for (unsigned off = 0x10; off < VIRTIO_MMIO_LEN; off += 4) {
        aspace_write(m->vm->mmio, NULL, base + off, UINT32_MAX, 4);
        g_assert_cmphex(aspace_read(m->vm->mmio, NULL, base + off, 4), ==, 0);
    }
    g_assert_cmpuint(virtio_mmio_count(m->vm), ==, 2);
    g_assert_cmpuint(virtio_mmio_get(m->vm, 0).device_id, ==, 4);
    g_assert_cmpuint(virtio_mmio_get(m->vm, 1).device_id, ==, 0);
    g_assert_cmpuint(virtio_mmio_get(m->vm, 1).gsi, ==, 6);
}

static void slots_run_out_with_an_error(struct machine *m, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_assert_nonnull(device_new(m->vm, &virtio_rng_device_type, NULL, NULL, NULL));
    g_assert_null(device_new(m->vm, &virtio_rng_device_type, NULL, NULL, &error));
    g_assert_nonnull(strstr(error->message, "no free virtio-mmio slot"));
    g_clear_error(&error);
    g_assert_false(virtio_mmio_add(m->vm, SLOT0 + 4, 7, &error));
    g_assert_nonnull(strstr(error->message, "overlaps"));
    g_assert_cmpuint(virtio_mmio_count(m->vm), ==, 2);
}

static void only_aligned_words_reach_registers(struct machine *m, gconstpointer data)
{
    set_reg(m, 0x070, 1);
    for (unsigned off = 0; off < 0x100; off++) {
        for (unsigned len = 1; len <= 4; len *= 2) {
            if (len == 4 && off % 4 == 0) {
                continue;
            }
            g_assert_cmphex(aspace_read(m->vm->mmio, NULL, SLOT0 + off, len), ==, 0);
            aspace_write(m->vm->mmio, NULL, SLOT0 + off, 0x0f0f0f0f, len);
        }
    }
    g_assert_cmphex(reg(m, 0x070), ==, 1);
    /* Wide ones are two words. */
    g_assert_cmphex(aspace_read(m->vm->mmio, NULL, SLOT0, 8), ==,
                    UINT64_C(0x274726976));
}

static void features_are_refused_unless_they_fit(struct machine *m, gconstpointer data)
{
    static const uint64_t bad[] = {0, UINT64_C(1) << 28, UINT64_C(3) << 32,
                                   UINT64_C(1) << 32 | 1, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        set_reg(m, 0x070, 0);
        set_reg(m, 0x070, 3);
        set_reg(m, 0x024, 0);
        set_reg(m, 0x020, (uint32_t)bad[i]);
        set_reg(m, 0x024, 1);
        set_reg(m, 0x020, (uint32_t)(bad[i] >> 32));
        set_reg(m, 0x070, 11);
        g_assert_cmphex(reg(m, 0x070), ==, 3);
        /* Nor does it start without them. */
        set_reg(m, 0x070, 15);
        g_assert_cmphex(reg(m, 0x070), ==, 3);
        set_reg(m, 0x044, 1);
        g_assert_cmphex(reg(m, 0x044), ==, 0);
    }
}

static void features_stay_once_agreed(struct machine *m, gconstpointer data)
{
    start(m, PLAIN);
    set_reg(m, 0x024, 1);
    set_reg(m, 0x020, 0);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmpuint(get(m, USED + 2, 2), ==, 1);
}

static void nothing_happens_before_driver_ok(struct machine *m, gconstpointer data)
{
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, PLAIN);
    set_reg(m, 0x070, 0);
    g_assert_cmphex(reg(m, 0x044), ==, 0);
    set_reg(m, 0x070, 3);
    set_reg(m, 0x024, 1);
    set_reg(m, 0x020, 1);
    set_reg(m, 0x070, 11);
    set_reg(m, 0x038, QSIZE);
    set_reg(m, 0x080, DESC);
    set_reg(m, 0x090, AVAIL);
    set_reg(m, 0x0a0, USED);
    set_reg(m, 0x044, 1);
    set_desc(m, 3, DATA, 16, D_WRITE, 0);
    offer(m, 3);
    kick(m);
    g_assert_false(take_used(m, &head, &len));
    /* And then without another notification. */
    set_reg(m, 0x070, 15);
    settle(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(head, ==, 3);
}

static void buffers_are_filled_and_the_interrupt_acknowledged(struct machine *m,
                                                              gconstpointer data)
{
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, PLAIN);
    set_desc(m, 2, DATA, 16, D_WRITE | D_NEXT, 5);
    set_desc(m, 5, DATA + 0x100, 16, D_WRITE, 0);
    offer(m, 2);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(head, ==, 2);
    g_assert_cmpuint(len, ==, 32);
    g_assert_cmphex(get(m, DATA, 8) | get(m, DATA + 0x108, 8), !=, 0);
    g_assert_cmphex(get(m, DATA + 16, 8), ==, 0);
    g_assert_cmpint(gmem_find(m->vm->gmem, DATA)->dirty[DATA >> 12], ==, 1);

    g_assert_cmphex(reg(m, 0x060), ==, 1);
    g_assert_true(m->vm->gsi[5].level);
    set_reg(m, 0x064, 2);
    g_assert_true(m->vm->gsi[5].level);
    set_reg(m, 0x064, 1);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
    g_assert_false(m->vm->gsi[5].level);
}

static void the_driver_can_do_without_interrupts(struct machine *m, gconstpointer data)
{
    start(m, PLAIN);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    put(m, AVAIL, 1, 2);
    offer(m, 0);
    kick(m);
    g_assert_cmpuint(get(m, USED + 2, 2), ==, 1);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
    g_assert_cmpuint(get(m, USED, 2), ==, 0);
}

static void a_kick_for_nothing_is_not_answered(struct machine *m, gconstpointer data)
{
    start(m, PLAIN);
    kick(m);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmphex(reg(m, 0x060), ==, 1);
    set_reg(m, 0x064, 1);
    kick(m);
    g_assert_cmphex(reg(m, 0x060), ==, 0);
}

static void event_idx_asks_for_the_nth(struct machine *m, gconstpointer data)
{
    start(m, ALL);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    put(m, AVAIL + 4 + 2 * QSIZE, 2, 2); /* used_event: tell me of the third */
    for (unsigned i = 1; i <= 5; i++) {
        offer(m, 0);
        kick(m);
        g_assert_cmphex(reg(m, 0x060), ==, i == 3);
        set_reg(m, 0x064, 1);
        /* avail_event: notify for the next. */
        g_assert_cmpuint(get(m, USED + 4 + 8 * QSIZE, 2), ==, i);
    }
}

static void indexes_wrap(struct machine *m, gconstpointer data)
{
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, ALL);
    set_desc(m, 1, DATA, 1, D_WRITE, 0);
    for (unsigned i = 0; i < 70000; i++) {
        offer(m, 1);
        if (i % QSIZE == QSIZE - 1) {
            kick(m);
            for (unsigned k = 0; k < QSIZE; k++) {
                g_assert_true(take_used(m, &head, &len));
            }
        }
    }
    g_assert_cmphex(reg(m, 0x070), ==, 15);
    g_assert_cmpuint(m->used_seen, ==, (uint16_t)70000);
}

static void indirect_tables_are_followed(struct machine *m, gconstpointer data)
{
    uint16_t head = 0;
    uint32_t len = 0;
    start(m, ALL);
    set_desc_at(m, TABLE, 0, DATA, 8, D_WRITE | D_NEXT, 2);
    set_desc_at(m, TABLE, 2, DATA + 0x20, 24, D_WRITE, 0);
    /* The write flag of the descriptor that points to the table means nothing. */
    set_desc(m, 4, TABLE, 48, D_INDIRECT | D_WRITE, 0);
    offer(m, 4);
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(len, ==, 32);
}

/* ---- hostile rings ------------------------------------------------------------------
 */

static void break_loop(struct machine *m)
{
    set_desc(m, 0, DATA, 1, D_WRITE | D_NEXT, 1);
    set_desc(m, 1, DATA, 1, D_WRITE | D_NEXT, 0);
    offer(m, 0);
}

static void break_self(struct machine *m)
{
    set_desc(m, 0, DATA, 1, D_WRITE | D_NEXT, 0);
    offer(m, 0);
}

static void break_next(struct machine *m)
{
    set_desc(m, 0, DATA, 1, D_WRITE | D_NEXT, QSIZE);
    offer(m, 0);
}

static void break_head(struct machine *m)
{
    offer(m, QSIZE);
}

static void break_outside(struct machine *m)
{
    set_desc(m, 0, RAM_LEN - 8, 16, D_WRITE, 0);
    offer(m, 0);
}

static void break_wrap(struct machine *m)
{
    set_desc(m, 0, UINT64_MAX - 7, 16, D_WRITE, 0);
    offer(m, 0);
}

static void break_registers(struct machine *m)
{
    set_desc(m, 0, SLOT0, 16, D_WRITE, 0);
    offer(m, 0);
}

static void break_order(struct machine *m)
{
    set_desc(m, 0, DATA, 16, D_WRITE | D_NEXT, 1);
    set_desc(m, 1, DATA, 16, 0, 0);
    offer(m, 0);
}

static void break_total(struct machine *m)
{
    /* More than 4 GiB in all cannot be counted in a used entry. */
    for (unsigned i = 0; i < QSIZE; i++) {
        set_desc(m, i, 0, RAM_LEN, D_WRITE | (i < QSIZE - 1 ? D_NEXT : 0),
                 (uint16_t)(i + 1));
    }
    set_desc(m, 1, 0, UINT32_MAX, D_WRITE | D_NEXT, 2);
    offer(m, 0);
}

static void break_idx(struct machine *m)
{
    put(m, AVAIL + 2, QSIZE + 1, 2);
}

static void break_idx_back(struct machine *m)
{
    put(m, AVAIL + 2, UINT16_MAX, 2);
}

static void break_nested(struct machine *m)
{
    set_desc_at(m, TABLE, 0, TABLE, 16, D_INDIRECT, 0);
    set_desc(m, 0, TABLE, 16, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_next(struct machine *m)
{
    set_desc_at(m, TABLE, 0, DATA, 16, D_WRITE, 0);
    set_desc(m, 0, TABLE, 16, D_INDIRECT | D_NEXT, 1);
    offer(m, 0);
}

static void break_indirect_second(struct machine *m)
{
    set_desc(m, 0, DATA, 16, D_WRITE | D_NEXT, 1);
    set_desc(m, 1, TABLE, 16, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_len(struct machine *m)
{
    set_desc(m, 0, TABLE, 17, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_empty(struct machine *m)
{
    set_desc(m, 0, TABLE, 0, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_huge(struct machine *m)
{
    set_desc(m, 0, 0, 0xfffffff0, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_outside(struct machine *m)
{
    set_desc(m, 0, RAM_LEN - 8, 32, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_wrap(struct machine *m)
{
    set_desc(m, 0, UINT64_MAX - 15, 32, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_loop(struct machine *m)
{
    set_desc_at(m, TABLE, 0, DATA, 1, D_WRITE | D_NEXT, 1);
    set_desc_at(m, TABLE, 1, DATA, 1, D_WRITE | D_NEXT, 0);
    set_desc(m, 0, TABLE, 32, D_INDIRECT, 0);
    offer(m, 0);
}

static void break_indirect_next_outside(struct machine *m)
{
    set_desc_at(m, TABLE, 0, DATA, 1, D_WRITE | D_NEXT, 2);
    set_desc(m, 0, TABLE, 32, D_INDIRECT, 0);
    offer(m, 0);
}

static void (*const breakers[])(struct machine *m) = {
    break_loop,
    break_self,
    break_next,
    break_head,
    break_outside,
    break_wrap,
    break_registers,
    break_order,
    break_total,
    break_idx,
    break_idx_back,
    break_nested,
    break_indirect_next,
    break_indirect_second,
    break_indirect_len,
    break_indirect_empty,
    break_indirect_huge,
    break_indirect_outside,
    break_indirect_wrap,
    break_indirect_loop,
    break_indirect_next_outside,
};

static void hostile_rings_break_the_device_until_reset(struct machine *m,
                                                       gconstpointer data)
{
    for (size_t i = 0; i < ARRAY_LEN(breakers); i++) {
        start(m, ALL);
        breakers[i](m);
        kick(m);
        if (reg(m, 0x070) != (15 | 64)) {
            g_test_message("breaker %zu did not break it", i);
            g_test_fail();
        }
        g_assert_cmphex(reg(m, 0x060) & 2, ==, 2);
        g_assert_cmpuint(get(m, USED + 2, 2), ==, 0);
        /* It stays so, whatever else is offered. */
        set_desc(m, 0, DATA, 16, D_WRITE, 0);
        kick(m);
        g_assert_cmpuint(get(m, USED + 2, 2), ==, 0);
        /* And a reset mends it. */
        start(m, ALL);
        g_assert_cmphex(reg(m, 0x060), ==, 0);
        set_desc(m, 0, DATA, 16, D_WRITE, 0);
        offer(m, 0);
        kick(m);
        g_assert_cmpuint(get(m, USED + 2, 2), ==, 1);
    }
}

static void indirect_tables_need_to_be_negotiated(struct machine *m, gconstpointer data)
{
    start(m, PLAIN);
    set_desc_at(m, TABLE, 0, DATA, 16, D_WRITE, 0);
    set_desc(m, 0, TABLE, 16, D_INDIRECT, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmphex(reg(m, 0x070), ==, 15 | 64);
}

static void bad_queues_are_not_switched_on(struct machine *m, gconstpointer data)
{
    static const struct {
        uint32_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        {0, DESC, AVAIL, USED},
        {7, DESC, AVAIL, USED},
        {128, DESC, AVAIL, USED},
        {0x10008, DESC, AVAIL, USED},
        {8, DESC + 8, AVAIL, USED},
        {8, DESC, AVAIL + 1, USED},
        {8, DESC, AVAIL, USED + 2},
        {8, RAM_LEN - 64, AVAIL, USED},
        {8, DESC, RAM_LEN - 2, USED},
        {8, DESC, AVAIL, UINT64_C(1) << 40},
        {8, UINT64_MAX - 15, AVAIL, USED},
        {8, SLOT0, AVAIL, USED},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        start(m, PLAIN);
        set_reg(m, 0x044, 0);
        g_assert_cmphex(reg(m, 0x044), ==, 0);
        set_reg(m, 0x038, bad[i].size);
        set_reg(m, 0x080, (uint32_t)bad[i].desc);
        set_reg(m, 0x084, (uint32_t)(bad[i].desc >> 32));
        set_reg(m, 0x090, (uint32_t)bad[i].avail);
        set_reg(m, 0x094, (uint32_t)(bad[i].avail >> 32));
        set_reg(m, 0x0a0, (uint32_t)bad[i].used);
        set_reg(m, 0x0a4, (uint32_t)(bad[i].used >> 32));
        set_reg(m, 0x044, 1);
        g_assert_cmphex(reg(m, 0x044), ==, 0);
        g_assert_cmphex(reg(m, 0x070), ==, 15 | 64);
        kick(m);
    }
}

static void queues_in_use_are_not_moved(struct machine *m, gconstpointer data)
{
    start(m, PLAIN);
    set_reg(m, 0x038, 2);
    set_reg(m, 0x080, 0x8000);
    set_reg(m, 0x0a0, 0x8000);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    offer(m, 0);
    kick(m);
    g_assert_cmpuint(get(m, USED + 2, 2), ==, 1);
    /* Queues there are none of. */
    set_reg(m, 0x030, 1);
    set_reg(m, 0x038, 8);
    set_reg(m, 0x044, 1);
    g_assert_cmphex(reg(m, 0x044), ==, 0);
    set_reg(m, 0x030, UINT32_MAX);
    set_reg(m, 0x044, 1);
    set_reg(m, 0x080, 1);
    set_reg(m, 0x050, UINT32_MAX);
    g_assert_cmphex(reg(m, 0x070), ==, 15);
}

static unsigned noise(unsigned below)
{
    return (uint32_t)g_test_rand_int() % below;
}

/* Registers and rings full of noise: nothing to expect but that it ends. */
static void noise_does_no_harm(struct machine *m, gconstpointer data)
{
    for (unsigned round = 0; round < 3000; round++) {
        start(m, g_test_rand_bit() ? ALL : PLAIN);
        for (unsigned i = 0; i < QSIZE; i++) {
            static const uint64_t addrs[] = {
                DATA, TABLE, RAM_LEN - 16, 0,       DESC,
                USED, AVAIL, SLOT0,        1 << 30, UINT64_MAX - 8};
            static const uint32_t lens[] = {0, 1, 16, 32, 4096, 65536, UINT32_MAX};
            gpa_t table = g_test_rand_bit() ? DESC : TABLE;
            set_desc_at(m, table, i, addrs[noise(ARRAY_LEN(addrs))],
                        lens[noise(ARRAY_LEN(lens))], (uint16_t)noise(8),
                        (uint16_t)noise(QSIZE + 1));
        }
        for (unsigned i = noise(4); i > 0; i--) {
            offer(m, (uint16_t)noise(QSIZE + 1));
        }
        kick(m);
        if (round % 8 == 0) {
            set_reg(m, noise(VIRTIO_MMIO_LEN) & ~3u, (uint32_t)g_test_rand_int());
            aspace_write(m->vm->mmio, NULL, SLOT0 + noise(VIRTIO_MMIO_LEN),
                         (uint32_t)g_test_rand_int(), 1u << noise(4));
            settle(m);
        }
    }
    start(m, PLAIN);
}

/* ---- the entropy device's rate
 * --------------------------------------------------------- */

static void a_limited_device_waits_for_its_period(void)
{
    struct machine machine, *m = &machine;
    uint16_t head = 0;
    uint32_t len = 0;
    setup_rng(m, json_pack("{s:i, s:i}", "max-bytes", 24, "period", 100));
    start(m, PLAIN);
    set_desc(m, 0, DATA, 16, D_WRITE, 0);
    for (unsigned i = 0; i < 3; i++) {
        offer(m, 0);
    }
    kick(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(len, ==, 16);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(len, ==, 8);
    g_assert_false(take_used(m, &head, &len));
    vm_clock_advance(m->vm->clock, 99999999);
    settle(m);
    g_assert_false(take_used(m, &head, &len));
    vm_clock_advance(m->vm->clock, 1);
    settle(m);
    g_assert_true(take_used(m, &head, &len));
    g_assert_cmpuint(len, ==, 16);
    machine_done(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, fn) g_test_add(path, struct machine, NULL, setup, fn, teardown)
    ADD("/virtio-mmio/registers", registers_identify_the_device);
    ADD("/virtio-mmio/empty", an_empty_slot_has_device_id_0);
    ADD("/virtio-mmio/slots", slots_run_out_with_an_error);
    ADD("/virtio-mmio/widths", only_aligned_words_reach_registers);
    ADD("/virtio/features", features_are_refused_unless_they_fit);
    ADD("/virtio/features-stay", features_stay_once_agreed);
    ADD("/virtio/driver-ok", nothing_happens_before_driver_ok);
    ADD("/virtio/queue-bad", bad_queues_are_not_switched_on);
    ADD("/virtio/queue-in-use", queues_in_use_are_not_moved);
    ADD("/virtq/fill", buffers_are_filled_and_the_interrupt_acknowledged);
    ADD("/virtq/no-spurious-interrupt", a_kick_for_nothing_is_not_answered);
    ADD("/virtq/no-interrupt", the_driver_can_do_without_interrupts);
    ADD("/virtq/event-idx", event_idx_asks_for_the_nth);
    ADD("/virtq/wrap", indexes_wrap);
    ADD("/virtq/indirect", indirect_tables_are_followed);
    ADD("/virtq/indirect-off", indirect_tables_need_to_be_negotiated);
    ADD("/virtq/hostile", hostile_rings_break_the_device_until_reset);
    ADD("/virtq/noise", noise_does_no_harm);
    g_test_add_func("/virtio-rng/rate", a_limited_device_waits_for_its_period);
    return g_test_run();
}
