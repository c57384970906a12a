#include "vmm/vm/vm.h"

#include <assert.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vcpu_priv.h"

/*
 * The life of a VM.
 *
 * A guest's wish (reset, power-off, end) may come from any thread with a device's
 * lock held: it is only written down under vm->lock, and the main context is woken.
 * vm_run_main() takes the wishes, in this order: end, pause, reset. The first end
 * that is asked for stays.
 */

const char *vm_end_name(enum vm_end end)
{
    static const char *const names[] = {
        [VM_END_NONE] = "running", [VM_END_POWEROFF] = "poweroff",
        [VM_END_RESET] = "reset",  [VM_END_TRIPLE_FAULT] = "triple-fault",
        [VM_END_EXIT] = "exit",    [VM_END_QUIT] = "quit",
        [VM_END_ERROR] = "error",
    };
    assert((unsigned)end < ARRAY_LEN(names));
    return names[end];
}

static void invalidate(void *opaque, gpa_t gpa, uint64_t len)
{
    struct vm *vm = opaque;
    vm->accel->invalidate(vm, gpa, len);
}

static bool region_added(void *opaque, const struct gmem_region *region, GError **error)
{
    struct vm *vm = opaque;
    return vm->accel->map(vm, region, error);
}

static void region_removed(void *opaque, const struct gmem_region *region)
{
    struct vm *vm = opaque;
    vm->accel->unmap(vm, region);
}

static bool vcpus_new(struct vm *vm, unsigned n, GError **error)
{
    if (n == 0 || n > vm->arch->max_vcpus) {
        return error_msg(error, "%u vCPUs asked for; %s has 1 to %u", n, vm->arch->name,
                         vm->arch->max_vcpus);
    }
    vm->vcpus = g_new0(struct vcpu *, n);
    for (unsigned i = 0; i < n; i++) {
        vm->vcpus[i] = vcpu_new(vm, i, error);
        if (!vm->vcpus[i]) {
            return false;
        }
        vm->nb_vcpus++;
    }
    return true;
}

struct vm_boot_path {
    uint32_t index;
    char *path;
};

static void boot_path_free(gpointer p)
{
    struct vm_boot_path *b = p;
    g_free(b->path);
    g_free(b);
}

struct vm_change {
    void (*fn)(void *opaque);
    void *opaque;
};

struct vm *vm_new(const struct vm_config *config, GError **error)
{
    struct vm *vm = g_new0(struct vm, 1);
    g_mutex_init(&vm->lock);
    vm->name = g_strdup(config->name);
    vm->arch = config->arch;
    vm->loop = config->loop;
    vm->log = config->log;
    vm->cpu_model = config->cpu_model;
    vm->gmem = gmem_new();
    vm->mmio = aspace_new("mmio", vm->arch->phys_bits, VCPU_EXIT_MMIO);
    if (vm->arch->port_bits) {
        vm->pio = aspace_new("pio", vm->arch->port_bits, VCPU_EXIT_PIO);
    }
    vm->clock = vm_clock_new(vm->loop);
    vm->devices = g_ptr_array_new();
    vm->changes = g_array_new(FALSE, FALSE, sizeof(struct vm_change));
    vm->boot_paths = g_ptr_array_new_with_free_func(boot_path_free);
    if (!config->accel->init(vm, config->accel_options, &vm->accel_state, error)) {
        g_prefix_error(error, "accelerator %s: ", config->accel->name);
        goto fail;
    }
    vm->accel = config->accel;
    if (vm->accel->invalidate) {
        gmem_set_invalidate(vm->gmem, invalidate, vm);
    }
    if (vm->accel->map) {
        gmem_set_listener(vm->gmem, &(struct gmem_listener){.added = region_added,
                                                            .removed = region_removed,
                                                            .opaque = vm});
    }
    if (!vcpus_new(vm, config->nb_vcpus, error)) {
        goto fail;
    }
    return vm;
fail:
    vm_free(vm);
    return NULL;
}

static void join_vcpus(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        vcpu_join(vm->vcpus[i]);
    }
}

void vm_free(struct vm *vm)
{
    if (!vm) {
        return;
    }
    join_vcpus(vm);
    while (vm->devices->len) {
        device_free(g_ptr_array_index(vm->devices, vm->devices->len - 1));
    }
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        vcpu_free(vm->vcpus[i]);
    }
    g_free(vm->vcpus);
    if (vm->accel && vm->accel->done) {
        vm->accel->done(vm, vm->accel_state);
    }
    g_ptr_array_free(vm->devices, TRUE);
    g_array_unref(vm->changes);
    g_ptr_array_unref(vm->boot_paths);
    vm_clock_free(vm->clock);
    aspace_free(vm->pio);
    aspace_free(vm->mmio);
    gmem_free(vm->gmem);
    g_clear_error(&vm->end_error);
    g_mutex_clear(&vm->lock);
    g_free(vm->name);
    g_free(vm);
}

/* Every line of a device to the board goes through here: counted, then passed on. */
static void gsi_set(void *opaque, unsigned input, bool level)
{
    struct vm *vm = opaque;
    struct vm_gsi *g = &vm->gsi[input];
    /* Who sees the level or the count sees what the device wrote before: pairs with
     * whoever polls them in place of an interrupt controller. */
    bool was = atomic_exchange_explicit(&g->level, level, memory_order_acq_rel);
    if (level && !was) {
        atomic_fetch_add_explicit(&g->rises, 1, memory_order_release);
    }
    vm->gsi_fn(vm->gsi_opaque, input, level);
}

struct irq_line vm_gsi_line(struct vm *vm, unsigned gsi)
{
    if (!vm->gsi_fn || gsi >= MIN(vm->nb_gsi, VM_GSI_MAX)) {
        return (struct irq_line){0};
    }
    return (struct irq_line){.fn = gsi_set, .opaque = vm, .input = gsi};
}

void vm_stop_all(struct vm *vm)
{
    g_mutex_lock(&vm->lock);
    if (vm->stop_depth++ == 0) {
        for (unsigned i = 0; i < vm->nb_vcpus; i++) {
            vcpu_want_stop(vm->vcpus[i]);
        }
    }
    g_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        vcpu_wait_parked(vm->vcpus[i]);
    }
}

void vm_resume_all(struct vm *vm)
{
    g_mutex_lock(&vm->lock);
    assert(vm->stop_depth > 0);
    if (--vm->stop_depth == 0) {
        for (unsigned i = 0; i < vm->nb_vcpus; i++) {
            vcpu_unpark(vm->vcpus[i]);
        }
    }
    g_mutex_unlock(&vm->lock);
}

void vm_reset(struct vm *vm)
{
    vm_stop_all(vm);
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);
        if (dev->type->reset) {
            dev->type->reset(dev);
        }
    }
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        vcpu_log_reset(vm->vcpus[i]);
        vcpu_set_powered(vm->vcpus[i], i == 0);
        vm->arch->vcpu_reset(vm->vcpus[i]);
    }
    if (vm->board_reset) {
        vm->board_reset(vm, vm->board_opaque);
    }
    vm_resume_all(vm);
}

bool vm_start(struct vm *vm, GError **error)
{
    vm_reset(vm);
    if (!vm->paused) {
        vm_clock_start(vm->clock);
    }
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        if (!vcpu_start(vm->vcpus[i], error)) {
            join_vcpus(vm);
            vm_clock_stop(vm->clock);
            return false;
        }
    }
    g_mutex_lock(&vm->lock);
    vm->started = true;
    g_mutex_unlock(&vm->lock);
    return true;
}

void vm_pause(struct vm *vm)
{
    if (!vm->paused) {
        vm_stop_all(vm);
        vm_clock_stop(vm->clock);
        vm->paused = true;
    }
}

void vm_continue(struct vm *vm)
{
    if (vm->paused) {
        vm->paused = false;
        if (vm->started) {
            vm_clock_start(vm->clock);
        }
        vm_resume_all(vm);
    }
}

/* ---- changes of guest memory ---- */

struct vcpu *vm_current_vcpu(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        if (vm->vcpus[i]->thread == g_thread_self()) {
            return vm->vcpus[i];
        }
    }
    return NULL;
}

/*
 * The first change stops the vCPUs, without waiting, as the calling one is still in the
 * middle of an access. Who does the changes lets them go on.
 */
void vm_change(struct vm *vm, void (*fn)(void *opaque), void *opaque)
{
    struct vm_change change = {.fn = fn, .opaque = opaque};
    if (!vm_current_vcpu(vm)) {
        vm_stop_all(vm);
        fn(opaque);
        vm_resume_all(vm);
        return;
    }
    g_mutex_lock(&vm->lock);
    if (vm->changes->len == 0 && vm->stop_depth++ == 0) {
        for (unsigned i = 0; i < vm->nb_vcpus; i++) {
            vcpu_want_stop(vm->vcpus[i]);
        }
    }
    g_array_append_val(vm->changes, change);
    g_mutex_unlock(&vm->lock);
    g_main_context_wakeup(NULL);
}

void vm_change_cancel(struct vm *vm, const void *opaque)
{
    g_mutex_lock(&vm->lock);
    for (guint i = 0; i < vm->changes->len; i++) {
        struct vm_change *c = &g_array_index(vm->changes, struct vm_change, i);
        if (c->opaque == opaque) {
            c->fn = NULL;
        }
    }
    g_mutex_unlock(&vm->lock);
}

static void do_changes(struct vm *vm)
{
    g_mutex_lock(&vm->lock);
    bool any = vm->changes->len > 0;
    g_mutex_unlock(&vm->lock);
    if (!any) {
        return;
    }
    vm_stop_all(vm);
    g_mutex_lock(&vm->lock);
    g_autoptr(GArray) changes = vm->changes;
    vm->changes = g_array_new(FALSE, FALSE, sizeof(struct vm_change));
    g_mutex_unlock(&vm->lock);
    for (guint i = 0; i < changes->len; i++) {
        const struct vm_change *c = &g_array_index(changes, struct vm_change, i);
        if (c->fn) {
            c->fn(c->opaque);
        }
    }
    vm_resume_all(vm); /* of this function */
    vm_resume_all(vm); /* of vm_change() */
}

/* Do what was asked for; returns whether the VM has ended. */
static bool take_wishes(struct vm *vm)
{
    g_mutex_lock(&vm->lock);
    bool ended = vm->end != VM_END_NONE;
    bool pause = vm->pause_wanted, reset = vm->reset_wanted;
    vm->pause_wanted = vm->reset_wanted = false;
    g_mutex_unlock(&vm->lock);
    if (ended) {
        return true;
    }
    do_changes(vm);
    if (pause) {
        vm_pause(vm);
    }
    if (reset) {
        vm_reset(vm);
    }
    return false;
}

enum vm_end vm_run_main(struct vm *vm)
{
    while (!take_wishes(vm)) {
        g_main_context_iteration(NULL, TRUE);
    }
    join_vcpus(vm);
    vm_clock_stop(vm->clock);
    g_mutex_lock(&vm->lock);
    vm->started = false;
    enum vm_end end = vm->end;
    g_mutex_unlock(&vm->lock);
    return end;
}

void vm_send_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    uint8_t bytes[4];
    if (!vm->msi_fn || !vm->msi_fn(vm->msi_opaque, addr, data)) {
        le32_put(bytes, data);
        gmem_write(vm->gmem, addr, bytes, sizeof(bytes));
    }
}

char *vm_find_file(struct vm *vm, const char *name, GError **error)
{
    if (vm->find_file) {
        return vm->find_file(vm->find_file_opaque, name, error);
    }
    if (g_file_test(name, G_FILE_TEST_EXISTS)) {
        return g_strdup(name);
    }
    error_msg(error, "there is no file '%s'", name);
    return NULL;
}

static gint compare_boot_paths(gconstpointer a, gconstpointer b)
{
    const struct vm_boot_path *const *x = a, *const *y = b;
    return ((*x)->index > (*y)->index) - ((*x)->index < (*y)->index);
}

bool vm_add_boot_path(struct vm *vm, uint32_t index, const char *path, GError **error)
{
    if (index == UINT32_MAX) {
        return true;
    }
    for (guint i = 0; i < vm->boot_paths->len; i++) {
        const struct vm_boot_path *b = g_ptr_array_index(vm->boot_paths, i);
        if (b->index == index) {
            return error_msg(error, "The bootindex %u has already been used", index);
        }
    }
    struct vm_boot_path *b = g_new(struct vm_boot_path, 1);
    *b = (struct vm_boot_path){.index = index, .path = g_strdup(path)};
    g_ptr_array_add(vm->boot_paths, b);
    g_ptr_array_sort(vm->boot_paths, compare_boot_paths);
    return true;
}

char *vm_boot_order(const struct vm *vm)
{
    GString *s = g_string_new(NULL);
    for (guint i = 0; i < vm->boot_paths->len; i++) {
        const struct vm_boot_path *b = g_ptr_array_index(vm->boot_paths, i);
        g_string_append_printf(s, "%s%s", i ? "\n" : "", b->path);
    }
    return g_string_free(s, FALSE);
}

void vm_request_reset(struct vm *vm)
{
    if (vm->no_reboot) {
        vm_request_end(vm, VM_END_RESET, 0);
        return;
    }
    g_mutex_lock(&vm->lock);
    vm->reset_wanted = true;
    g_mutex_unlock(&vm->lock);
    g_main_context_wakeup(NULL);
}

void vm_request_poweroff(struct vm *vm)
{
    if (!vm->no_shutdown) {
        vm_request_end(vm, VM_END_POWEROFF, 0);
        return;
    }
    g_mutex_lock(&vm->lock);
    vm->pause_wanted = true;
    g_mutex_unlock(&vm->lock);
    g_main_context_wakeup(NULL);
}

void vm_request_end(struct vm *vm, enum vm_end end, int exit_status)
{
    g_mutex_lock(&vm->lock);
    if (vm->end == VM_END_NONE) {
        vm->end = end;
        vm->exit_status = exit_status;
    }
    g_mutex_unlock(&vm->lock);
    g_main_context_wakeup(NULL);
}

void vm_request_error(struct vm *vm, GError *error)
{
    g_mutex_lock(&vm->lock);
    if (vm->end == VM_END_NONE) {
        vm->end = VM_END_ERROR;
        vm->end_error = g_steal_pointer(&error);
    }
    g_mutex_unlock(&vm->lock);
    g_clear_error(&error);
    g_main_context_wakeup(NULL);
}

void vm_request_triple_fault(struct vm *vm, struct vcpu *vcpu)
{
    if (!vm->no_reboot) {
        vm_request_reset(vm);
        return;
    }
    g_mutex_lock(&vm->lock);
    if (vm->end == VM_END_NONE) {
        vm->end = VM_END_TRIPLE_FAULT;
        vm->end_vcpu = vcpu;
    }
    g_mutex_unlock(&vm->lock);
    g_main_context_wakeup(NULL);
}

static uint64_t stat_get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static json_t *stat_json(uint64_t count, uint64_t ns)
{
    return json_pack("{s:I, s:I}", "count", (json_int_t)count, "ns", (json_int_t)ns);
}

static json_t *gsi_stats(struct vm *vm)
{
    json_t *all = json_object();
    for (unsigned i = 0; i < VM_GSI_MAX; i++) {
        uint64_t rises = stat_get(&vm->gsi[i].rises);
        if (rises) {
            char name[8];
            g_snprintf(name, sizeof(name), "%u", i);
            json_object_set_new(all, name, json_integer((json_int_t)rises));
        }
    }
    return all;
}

json_t *vm_stats(struct vm *vm)
{
    json_t *total = json_object(), *vcpus = json_array(), *unassigned = json_object();
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        struct vcpu *vcpu = vm->vcpus[i];
        json_t *exits = json_object();
        for (unsigned e = 0; e < VCPU_EXIT_COUNT; e++) {
            json_object_set_new(exits, vcpu_exit_name(e),
                                stat_json(stat_get(&vcpu->exits[e].count),
                                          stat_get(&vcpu->exits[e].ns)));
        }
        json_array_append_new(
            vcpus, json_pack("{s:i, s:I, s:o}", "index", (int)i, "insns",
                             (json_int_t)stat_get(&vcpu->insns), "exits", exits));
    }
    for (unsigned e = 0; e < VCPU_EXIT_COUNT; e++) {
        uint64_t count = 0, ns = 0;
        for (unsigned i = 0; i < vm->nb_vcpus; i++) {
            count += stat_get(&vm->vcpus[i]->exits[e].count);
            ns += stat_get(&vm->vcpus[i]->exits[e].ns);
        }
        json_object_set_new(total, vcpu_exit_name(e), stat_json(count, ns));
    }
    json_t *regions = aspace_stats(vm->mmio);
    json_object_set_new(unassigned, "mmio",
                        json_integer((json_int_t)aspace_unassigned(vm->mmio)));
    if (vm->pio) {
        json_t *ports = aspace_stats(vm->pio);
        json_array_extend(regions, ports);
        json_decref(ports);
        json_object_set_new(unassigned, "pio",
                            json_integer((json_int_t)aspace_unassigned(vm->pio)));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "exits", total, "regions", regions,
                     "unassigned", unassigned, "gsi", gsi_stats(vm), "vcpus", vcpus);
}
