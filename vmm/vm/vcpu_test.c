#include "vmm/vm/vcpu.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/device.h"
#include "vmm/vm/fake_accel.h"

/* Guest code that counts until somebody wants attention. */
static enum vcpu_exit spin(struct vcpu *vcpu)
{
    while (!vcpu_wants_attention(vcpu)) {
        atomic_fetch_add_explicit(&vcpu->insns, 1, memory_order_relaxed);
    }
    vcpu_take_attention(vcpu, VCPU_ATTN_IRQ);
    return VCPU_EXIT_KICK;
}

static void power_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nb_vcpus; i++) {
        vcpu_set_powered(vm->vcpus[i], true);
    }
}

static uint64_t insns(struct vm *vm, unsigned i)
{
    return atomic_load_explicit(&vm->vcpus[i]->insns, memory_order_relaxed);
}

static void wait_for_progress(struct vm *vm, unsigned i)
{
    uint64_t before = insns(vm, i);
    while (insns(vm, i) == before) {
        g_thread_yield();
    }
}

static void board_powers_all(struct vm *vm, void *opaque)
{
    power_all(vm);
}

static struct vm *spinning_vm(struct fake_model *model, unsigned n)
{
    *model = (struct fake_model){.run = spin};
    struct vm *vm = fake_vm_new(model, n, NULL);
    vm->board_reset = board_powers_all;
    g_assert_true(vm_start(vm, NULL));
    return vm;
}

static void stop_all_holds_every_vcpu(void)
{
    struct fake_model model;
    struct vm *vm = spinning_vm(&model, 4);
    for (int round = 0; round < 50; round++) {
        wait_for_progress(vm, (unsigned)round % 4);
        vm_stop_all(vm);
        uint64_t a = insns(vm, 0), b = insns(vm, 3);
        vm_stop_all(vm); /* nests */
        vm_resume_all(vm);
        g_usleep(100);
        g_assert_cmpuint(insns(vm, 0), ==, a);
        g_assert_cmpuint(insns(vm, 3), ==, b);
        vm_resume_all(vm);
    }
    wait_for_progress(vm, 0);
    vm_free(vm);
}

struct stopper {
    struct vm *vm;
};

static gpointer stop_many_times(gpointer opaque)
{
    struct stopper *s = opaque;
    for (int i = 0; i < 200; i++) {
        vm_stop_all(s->vm);
        vm_resume_all(s->vm);
    }
    return NULL;
}

static void stops_from_several_threads_do_not_lose_one(void)
{
    struct fake_model model;
    struct vm *vm = spinning_vm(&model, 3);
    struct stopper s = {.vm = vm};
    GThread *t[3];
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        t[i] = g_thread_new("stopper", stop_many_times, &s);
    }
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        g_thread_join(t[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        wait_for_progress(vm, i);
    }
    vm_free(vm);
}

/* A guest that asks for a change and goes on: how many steps it made by then. */
struct changer {
    struct vm *vm;
    unsigned wanted, done;
    GThread *thread;
    bool other_ran;
};

static void do_change(void *opaque)
{
    struct changer *c = opaque;
    uint64_t before = insns(c->vm, 1);
    c->thread = g_thread_self();
    g_usleep(50);
    c->other_ran |= insns(c->vm, 1) != before;
    c->done++;
}

static enum vcpu_exit ask_for_changes(struct vcpu *vcpu)
{
    struct changer *c = fake_model(vcpu)->opaque;
    if (vcpu->index != 0) {
        return spin(vcpu);
    }
    /* The change asked for in the block before was done before this one. */
    g_assert_cmpuint(c->done, ==, c->wanted);
    if (c->wanted == 100) {
        vm_request_end(c->vm, VM_END_EXIT, 0);
        return spin(vcpu);
    }
    c->wanted += 2;
    vm_change(c->vm, do_change, c);
    vm_change(c->vm, do_change, c);
    g_assert_true(vcpu_wants_attention(vcpu));
    return VCPU_EXIT_KICK;
}

static void changes_are_done_before_the_next_block(void)
{
    struct changer c = {0};
    struct fake_model model = {.run = ask_for_changes, .opaque = &c};
    struct vm *vm = fake_vm_new(&model, 2, NULL);
    c.vm = vm;
    vm->board_reset = board_powers_all;
    vm_change(vm, do_change, &c);
    g_assert_cmpuint(c.done, ==, 1); /* nothing runs: at once */
    c.done = 0;
    g_assert_true(vm_start(vm, NULL));
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_EXIT);
    g_assert_cmpuint(c.done, ==, 100);
    g_assert_true(c.thread == g_thread_self());
    g_assert_false(c.other_ran);
    vm_free(vm);
}

struct on_what {
    GThread *thread;
    unsigned calls;
};

static void note_thread(struct vcpu *vcpu, void *opaque)
{
    struct on_what *w = opaque;
    w->thread = g_thread_self();
    w->calls++;
    /* From its own thread it runs at once. */
    if (w->calls == 1) {
        vcpu_run_on(vcpu, note_thread, w);
    }
}

static void run_on_runs_there_running_stopped_or_gone(void)
{
    struct fake_model model;
    struct vm *vm = spinning_vm(&model, 2);
    struct on_what w = {0};
    vcpu_run_on(vm->vcpus[1], note_thread, &w);
    g_assert_cmpuint(w.calls, ==, 2);
    g_assert_true(w.thread == vm->vcpus[1]->thread);

    vm_stop_all(vm);
    vcpu_run_on(vm->vcpus[0], note_thread, &w);
    g_assert_cmpuint(w.calls, ==, 3);
    g_assert_true(w.thread == vm->vcpus[0]->thread);
    vm_resume_all(vm);

    vm_request_end(vm, VM_END_QUIT, 0);
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_QUIT);
    vcpu_run_on(vm->vcpus[0], note_thread, &w);
    g_assert_cmpuint(w.calls, ==, 4);
    g_assert_true(w.thread == g_thread_self());
    vm_free(vm);
}

/* A guest that halts; each wake-up with work counts. */
struct halter {
    _Atomic unsigned irqs; /* wanted by the "interrupt controller" */
    _Atomic unsigned taken;
};

static bool halter_has_work(struct vcpu *vcpu)
{
    struct halter *h = fake_model(vcpu)->opaque;
    return atomic_load(&h->irqs) != 0;
}

static enum vcpu_exit halter_run(struct vcpu *vcpu)
{
    struct halter *h = fake_model(vcpu)->opaque;
    if (vcpu_take_attention(vcpu, VCPU_ATTN_IRQ) && atomic_load(&h->irqs)) {
        atomic_fetch_sub(&h->irqs, 1);
        atomic_fetch_add(&h->taken, 1);
    }
    return vcpu_wants_attention(vcpu) ? VCPU_EXIT_KICK : VCPU_EXIT_HLT;
}

static void interrupt(struct vm *vm, struct halter *h)
{
    unsigned before = atomic_load(&h->taken);
    atomic_fetch_add(&h->irqs, 1);
    vcpu_kick(vm->vcpus[0], VCPU_ATTN_IRQ);
    while (atomic_load(&h->taken) == before) {
        g_thread_yield();
    }
}

static void halt_waits_for_work_and_survives_a_stop(void)
{
    struct halter h = {0};
    struct fake_model model = {
        .run = halter_run, .has_work = halter_has_work, .opaque = &h};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    g_assert_true(vm_start(vm, NULL));
    for (int i = 0; i < 300; i++) {
        interrupt(vm, &h);
    }
    /* Woken without work, and stopped: it goes on halting. */
    while (!atomic_load(&vm->vcpus[0]->halted)) {
        g_thread_yield();
    }
    uint64_t halts = atomic_load(&vm->vcpus[0]->exits[VCPU_EXIT_HLT].count);
    vcpu_kick(vm->vcpus[0], VCPU_ATTN_IRQ);
    vm_stop_all(vm);
    vm_resume_all(vm);
    g_usleep(2000);
    vm_stop_all(vm);
    g_assert_true(atomic_load(&vm->vcpus[0]->halted));
    g_assert_cmpuint(atomic_load(&vm->vcpus[0]->exits[VCPU_EXIT_HLT].count), ==, halts);
    vm_resume_all(vm);
    interrupt(vm, &h);
    g_assert_cmpuint(atomic_load(&h.taken), ==, 301);
    g_assert_cmpuint(atomic_load(&vm->vcpus[0]->exits[VCPU_EXIT_HLT].ns), >, 0);
    vm_free(vm);
}

static void start_up(struct vcpu *vcpu)
{
    vcpu_set_powered(vcpu, true);
}

static void secondary_vcpus_wait_for_the_architecture(void)
{
    struct fake_model model = {.run = spin, .attention_reset = start_up};
    struct vm *vm = fake_vm_new(&model, 2, NULL);
    g_assert_true(vm_start(vm, NULL));
    wait_for_progress(vm, 0);
    vcpu_kick(vm->vcpus[1], VCPU_ATTN_IRQ);
    g_usleep(1000);
    g_assert_cmpuint(insns(vm, 1), ==, 0);
    vcpu_kick(vm->vcpus[1], VCPU_ATTN_RESET);
    wait_for_progress(vm, 1);
    vm_free(vm);
}

/* ---- the life of the VM ------------------------------------------------------ */

struct life {
    enum vcpu_exit exit;            /* what the guest does first */
    void (*request)(struct vm *vm); /* or this */
    _Atomic unsigned runs;
    unsigned board_resets, device_resets;
};

static enum vcpu_exit live(struct vcpu *vcpu)
{
    struct life *l = fake_model(vcpu)->opaque;
    unsigned run = atomic_fetch_add(&l->runs, 1);
    if (run == 0 && l->request) {
        l->request(vcpu->vm);
    } else if (run == 0) {
        return l->exit;
    } else if (run == 1) {
        vm_request_end(vcpu->vm, VM_END_EXIT, 33);
    }
    return VCPU_EXIT_HLT;
}

static void count_board_reset(struct vm *vm, void *opaque)
{
    ((struct life *)opaque)->board_resets++;
}

static void count_device_reset(struct device *dev)
{
    ((struct life *)fake_model(dev->vm->vcpus[0])->opaque)->device_resets++;
}

static const struct device_type counter_type = {
    .name = "counter", .size = sizeof(struct device), .reset = count_device_reset};

static struct vm *living_vm(struct fake_model *model, struct life *life)
{
    *model = (struct fake_model){.run = live, .opaque = life};
    struct vm *vm = fake_vm_new(model, 1, NULL);
    vm->board_reset = count_board_reset;
    vm->board_opaque = life;
    g_assert_nonnull(device_new(vm, &counter_type, NULL, NULL, NULL));
    g_assert_true(vm_start(vm, NULL));
    return vm;
}

static void a_reset_starts_over(void)
{
    struct life lives[] = {{.request = vm_request_reset}, {.exit = VCPU_EXIT_SHUTDOWN}};
    for (unsigned i = 0; i < ARRAY_LEN(lives); i++) {
        struct fake_model model;
        struct vm *vm = living_vm(&model, &lives[i]);
        g_assert_cmpint(vm_run_main(vm), ==, VM_END_EXIT);
        g_assert_cmpint(vm->exit_status, ==, 33);
        g_assert_cmpuint(lives[i].board_resets, ==, 2);
        g_assert_cmpuint(lives[i].device_resets, ==, 2);
        g_assert_cmpuint(lives[i].runs, >=, 2);
        vm_free(vm);
    }
}

static void no_reboot_ends_instead(void)
{
    struct life reset = {.request = vm_request_reset};
    struct life fault = {.exit = VCPU_EXIT_SHUTDOWN};
    struct fake_model model = {.run = live};
    struct vm *vm;

    model.opaque = &reset;
    vm = fake_vm_new(&model, 1, NULL);
    vm->no_reboot = true;
    g_assert_true(vm_start(vm, NULL));
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_RESET);
    vm_free(vm);

    model.opaque = &fault;
    vm = fake_vm_new(&model, 1, NULL);
    vm->no_reboot = true;
    g_assert_true(vm_start(vm, NULL));
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_TRIPLE_FAULT);
    g_assert_true(vm->end_vcpu == vm->vcpus[0]);
    g_autofree char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    vcpu_dump(vm->end_vcpu, out);
    fclose(out);
    g_assert_nonnull(strstr(text, "CPU#0: off"));
    vm_free(vm);
}

static void an_error_ends_with_its_reason(void)
{
    struct life life = {.exit = VCPU_EXIT_ERROR};
    struct fake_model model;
    struct vm *vm = living_vm(&model, &life);
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_ERROR);
    g_assert_nonnull(strstr(vm->end_error->message, "vCPU 0"));
    vm_request_error(vm, g_error_new(LODGE_ERROR, 0, "a second one"));
    g_assert_nonnull(strstr(vm->end_error->message, "vCPU 0"));
    vm_free(vm);
}

static gboolean quit_when_paused(gpointer opaque)
{
    struct vm *vm = opaque;
    if (!vm->paused) {
        return G_SOURCE_CONTINUE;
    }
    vm_request_end(vm, VM_END_QUIT, 0);
    return G_SOURCE_REMOVE;
}

static void no_shutdown_pauses_instead(void)
{
    struct life life = {.request = vm_request_poweroff};
    struct fake_model model = {.run = live, .opaque = &life};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    vm->no_shutdown = true;
    g_assert_true(vm_start(vm, NULL));
    g_timeout_add(1, quit_when_paused, vm);
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_QUIT);
    g_assert_true(vm->paused);
    vm_free(vm);

    struct life off = {.request = vm_request_poweroff};
    model.opaque = &off;
    vm = fake_vm_new(&model, 1, NULL);
    g_assert_true(vm_start(vm, NULL));
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_POWEROFF);
    vm_free(vm);
}

static void a_vm_paused_before_the_start_waits(void)
{
    struct life life = {.request = vm_request_poweroff};
    struct fake_model model = {.run = live, .opaque = &life};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    vm_pause(vm);
    g_assert_true(vm_start(vm, NULL));
    g_usleep(2000);
    g_assert_cmpuint(atomic_load(&life.runs), ==, 0);
    g_assert_cmpuint(vm_clock_ns(vm->clock), ==, 0);
    vm_continue(vm);
    g_assert_cmpint(vm_run_main(vm), ==, VM_END_POWEROFF);
    vm_free(vm);
}

static void impossible_vcpu_counts_are_refused(void)
{
    static const unsigned bad[] = {0, 9, G_MAXUINT};
    struct fake_model model = {.run = spin};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct vm_config config = {.arch = &fake_arch,
                                   .accel = &fake_accel,
                                   .nb_vcpus = bad[i],
                                   .cpu_model = &model};
        g_autoptr(GError) error = NULL;
        g_assert_null(vm_new(&config, &error));
        g_assert_nonnull(strstr(error->message, "fake has 1 to 8"));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vcpu/stop-all", stop_all_holds_every_vcpu);
    g_test_add_func("/vcpu/stop-all-many", stops_from_several_threads_do_not_lose_one);
    g_test_add_func("/vcpu/run-on", run_on_runs_there_running_stopped_or_gone);
    g_test_add_func("/vcpu/halt", halt_waits_for_work_and_survives_a_stop);
    g_test_add_func("/vcpu/secondary", secondary_vcpus_wait_for_the_architecture);
    g_test_add_func("/vm/reset", a_reset_starts_over);
    g_test_add_func("/vm/no-reboot", no_reboot_ends_instead);
    g_test_add_func("/vm/error", an_error_ends_with_its_reason);
    g_test_add_func("/vm/no-shutdown", no_shutdown_pauses_instead);
    g_test_add_func("/vm/paused", a_vm_paused_before_the_start_waits);
    g_test_add_func("/vm/vcpus", impossible_vcpu_counts_are_refused);
    g_test_add_func("/vcpu/change", changes_are_done_before_the_next_block);
    return g_test_run();
}
