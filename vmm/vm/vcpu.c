#include "vmm/vm/vcpu.h"

#include <inttypes.h>
#include <sys/prctl.h>
#include <time.h>

#include "lib/base/base.h"
#include "vmm/vm/arch.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/log.h"
#include "vmm/vm/vcpu_priv.h"
#include "vmm/vm/vm.h"

/*
 * The vCPU's thread:
 *
 *     settle: take what attention asks for (work, park, reset); wait while the CPU
 *             is not powered or is halted without a reason to run
 *     run:    the accelerator executes guest code until it cannot decide
 *     decide: what the exit means
 *
 * Sleeping and waking. The thread sleeps on vcpu->cond, holding vcpu->lock only
 * around its own fields. A waker first sets bits of attention, then looks at
 * `sleeping`; the sleeper first sets `sleeping`, then looks at attention. Both
 * are sequentially consistent, so that one of them sees the other; only a waker that
 * sees a sleeper pays for the lock.
 *
 * A bit is cleared before what it stands for is looked at, never after.
 */

struct vcpu_work {
    void (*fn)(struct vcpu *vcpu, void *opaque);
    void *opaque;
    bool done; /* vcpu->lock */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

uint64_t vcpu_mmio_read(struct vcpu *vcpu, uint64_t gpa, unsigned len)
{
    return aspace_read(vcpu->vm->mmio, vcpu, gpa, len);
}

void vcpu_mmio_write(struct vcpu *vcpu, uint64_t gpa, uint64_t value, unsigned len)
{
    aspace_write(vcpu->vm->mmio, vcpu, gpa, value, len);
}

uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned len)
{
    return aspace_read(vcpu->vm->pio, vcpu, port, len);
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, uint64_t value, unsigned len)
{
    aspace_write(vcpu->vm->pio, vcpu, port, value, len);
}

void vcpu_kick(struct vcpu *vcpu, uint32_t bits)
{
    uint32_t old =
        atomic_fetch_or_explicit(&vcpu->attention, bits, memory_order_seq_cst);
    if (atomic_load_explicit(&vcpu->sleeping, memory_order_seq_cst)) {
        g_mutex_lock(&vcpu->lock);
        g_cond_broadcast(&vcpu->cond);
        g_mutex_unlock(&vcpu->lock);
    } else if ((old & bits) != bits && vcpu->vm->accel->kick) {
        vcpu->vm->accel->kick(vcpu);
    }
}

/* Sleep until @cond changes, attention is set, or the host's time is @until_ns.
 * Caller holds vcpu->lock. */
static void sleep_locked(struct vcpu *vcpu, uint64_t until_ns)
{
    atomic_store_explicit(&vcpu->sleeping, true, memory_order_seq_cst);
    if (atomic_load_explicit(&vcpu->attention, memory_order_seq_cst) == 0) {
        if (until_ns == UINT64_MAX) {
            g_cond_wait(&vcpu->cond, &vcpu->lock);
        } else {
            g_cond_wait_until(&vcpu->cond, &vcpu->lock,
                              (gint64)((until_ns + 999) / 1000));
        }
    }
    atomic_store_explicit(&vcpu->sleeping, false, memory_order_relaxed);
}

/* Run what vcpu_run_on() queued. Caller holds vcpu->lock; it is dropped meanwhile. */
static void run_work_locked(struct vcpu *vcpu)
{
    struct vcpu_work *w;
    while ((w = g_queue_pop_head(&vcpu->work)) != NULL) {
        g_mutex_unlock(&vcpu->lock);
        w->fn(vcpu, w->opaque);
        g_mutex_lock(&vcpu->lock);
        w->done = true;
        g_cond_broadcast(&vcpu->parked);
    }
}

void vcpu_doze(struct vcpu *vcpu, uint64_t ns)
{
    g_mutex_lock(&vcpu->lock);
    sleep_locked(vcpu, now_ns() + ns);
    g_mutex_unlock(&vcpu->lock);
}

/* Stay at this block boundary while someone wants it. Caller holds vcpu->lock. */
static void park_locked(struct vcpu *vcpu)
{
    while (vcpu->stop && !vcpu->quit) {
        if (!vcpu->is_parked) {
            vcpu->is_parked = true;
            g_cond_broadcast(&vcpu->parked);
        }
        vcpu_take_attention(vcpu, VCPU_ATTN_STOP | VCPU_ATTN_WORK);
        if (!g_queue_is_empty(&vcpu->work)) {
            run_work_locked(vcpu);
            continue;
        }
        /* Bits that wait for the resume must not keep us awake: plain wait. */
        atomic_store_explicit(&vcpu->sleeping, true, memory_order_seq_cst);
        g_cond_wait(&vcpu->cond, &vcpu->lock);
        atomic_store_explicit(&vcpu->sleeping, false, memory_order_relaxed);
    }
    vcpu->is_parked = false;
    g_cond_broadcast(&vcpu->parked);
}

/* Do what attention asks for except IRQ, which is the accelerator's. Returns false
 * when the thread is to end. */
static bool attend(struct vcpu *vcpu)
{
    uint32_t bits = vcpu_take_attention(vcpu, VCPU_ATTN_STOP | VCPU_ATTN_WORK);
    bool go_on = true;
    if (unlikely(bits)) {
        g_mutex_lock(&vcpu->lock);
        run_work_locked(vcpu);
        park_locked(vcpu);
        go_on = !vcpu->quit;
        g_mutex_unlock(&vcpu->lock);
    }
    if (go_on && vcpu_take_attention(vcpu, VCPU_ATTN_RESET)) {
        vcpu->vm->arch->vcpu_attention_reset(vcpu);
    }
    return go_on;
}

/*
 * Whether a halted or unpowered CPU may run now. The IRQ bit is cleared before
 * looking; it is set again when there is work, for the accelerator to find.
 */
static bool may_run(struct vcpu *vcpu)
{
    if (!atomic_load_explicit(&vcpu->powered, memory_order_relaxed)) {
        vcpu_take_attention(vcpu, VCPU_ATTN_IRQ);
        return false;
    }
    if (!atomic_load_explicit(&vcpu->halted, memory_order_relaxed)) {
        return true;
    }
    vcpu_take_attention(vcpu, VCPU_ATTN_IRQ);
    if (!vcpu->vm->arch->vcpu_has_work(vcpu)) {
        return false;
    }
    atomic_store_explicit(&vcpu->halted, false, memory_order_relaxed);
    atomic_fetch_or_explicit(&vcpu->attention, VCPU_ATTN_IRQ, memory_order_relaxed);
    return true;
}

/*
 * When a halted vCPU wakes by itself. Its timer wakes the main thread as well, but the
 * way through that one takes two wake-ups instead of one.
 */
static uint64_t wake_host_ns(struct vcpu *vcpu)
{
    const struct vm *vm = vcpu->vm;
    if (!vm->arch->vcpu_wake_ns ||
        !atomic_load_explicit(&vcpu->halted, memory_order_relaxed)) {
        return UINT64_MAX;
    }
    return vm_clock_to_host(vm->clock, vm->arch->vcpu_wake_ns(vcpu));
}

/* Wait until guest code may run. Returns false when the thread is to end. */
static bool settle(struct vcpu *vcpu)
{
    for (;;) {
        if (!attend(vcpu)) {
            return false;
        }
        if (may_run(vcpu)) {
            return true;
        }
        uint64_t start = now_ns(), until = wake_host_ns(vcpu);
        g_mutex_lock(&vcpu->lock);
        sleep_locked(vcpu, until);
        g_mutex_unlock(&vcpu->lock);
        if (atomic_load_explicit(&vcpu->halted, memory_order_relaxed)) {
            struct exit_stat *hlt = &vcpu->exits[VCPU_EXIT_HLT];
            uint64_t ns = atomic_load_explicit(&hlt->ns, memory_order_relaxed);
            atomic_store_explicit(&hlt->ns, ns + (now_ns() - start),
                                  memory_order_relaxed);
        }
    }
}

/* The accelerator stopped and says why. PIO, MMIO and IRQ it counted itself. */
static void decide(struct vcpu *vcpu, enum vcpu_exit exit)
{
    struct vm *vm = vcpu->vm;
    exit_stat_add_own(&vcpu->exits[exit], 0);
    switch (exit) {
    case VCPU_EXIT_HLT:
        atomic_store_explicit(&vcpu->halted, true, memory_order_relaxed);
        break;
    case VCPU_EXIT_SHUTDOWN:
        vm_log_printf(vm->log, VM_LOG_INT | VM_LOG_CPU_RESET, "Triple fault\n");
        /* Nothing but a reset leaves this state. */
        atomic_store_explicit(&vcpu->powered, false, memory_order_relaxed);
        vm_request_triple_fault(vm, vcpu);
        break;
    case VCPU_EXIT_ERROR:
        atomic_store_explicit(&vcpu->powered, false, memory_order_relaxed);
        vm_request_error(vm, vcpu->error
                                 ? g_steal_pointer(&vcpu->error)
                                 : g_error_new(LODGE_ERROR, 0,
                                               "vCPU %u: the accelerator failed",
                                               vcpu->index));
        break;
    case VCPU_EXIT_DEBUG:
        if (vm->debug_fn) {
            vm->debug_fn(vcpu, vm->debug_opaque);
        } else {
            vm_request_error(vm, g_error_new(LODGE_ERROR, 0,
                                             "vCPU %u: a debug exit, and no debugger",
                                             vcpu->index));
        }
        break;
    case VCPU_EXIT_PIO:
    case VCPU_EXIT_MMIO:
    case VCPU_EXIT_IRQ:
    case VCPU_EXIT_KICK:
    case VCPU_EXIT_COUNT: break;
    }
}

static gpointer vcpu_thread(gpointer opaque)
{
    struct vcpu *vcpu = opaque;
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); /* else its sleeps end 50 us late */
    g_mutex_lock(&vcpu->lock);
    g_mutex_unlock(&vcpu->lock);
    while (settle(vcpu)) {
        decide(vcpu, vcpu->vm->accel->run(vcpu));
    }
    g_mutex_lock(&vcpu->lock);
    run_work_locked(vcpu);
    vcpu->is_parked = true;
    vcpu->gone = true;
    g_cond_broadcast(&vcpu->parked);
    g_mutex_unlock(&vcpu->lock);
    return NULL;
}

struct vcpu *vcpu_new(struct vm *vm, unsigned index, GError **error)
{
    struct vcpu *vcpu = g_new0(struct vcpu, 1);
    vcpu->vm = vm;
    vcpu->index = index;
    g_mutex_init(&vcpu->lock);
    g_cond_init(&vcpu->cond);
    g_cond_init(&vcpu->parked);
    g_queue_init(&vcpu->work);
    /* Until its thread exists it stands still. */
    vcpu->is_parked = vcpu->gone = true;
    if (!vm->accel->vcpu_new(vcpu, error)) {
        g_prefix_error(error, "vCPU %u: ", index);
        goto fail;
    }
    vcpu->has_accel = true;
    if (!vm->arch->vcpu_new(vcpu, error)) {
        g_prefix_error(error, "vCPU %u: ", index);
        goto fail;
    }
    vcpu->has_arch = true;
    return vcpu;
fail:
    vcpu_free(vcpu);
    return NULL;
}

void vcpu_free(struct vcpu *vcpu)
{
    if (!vcpu) {
        return;
    }
    if (vcpu->has_arch) {
        vcpu->vm->arch->vcpu_free(vcpu);
    }
    if (vcpu->has_accel) {
        vcpu->vm->accel->vcpu_free(vcpu);
    }
    g_clear_error(&vcpu->error);
    g_cond_clear(&vcpu->parked);
    g_cond_clear(&vcpu->cond);
    g_mutex_clear(&vcpu->lock);
    g_free(vcpu);
}

bool vcpu_start(struct vcpu *vcpu, GError **error)
{
    g_autofree char *name = g_strdup_printf("vcpu-%u", vcpu->index);
    /* A vCPU that was started before may want this one to stop. And the thread begins
     * with this lock, so that it sees vcpu->thread. */
    g_mutex_lock(&vcpu->lock);
    vcpu->gone = false;
    vcpu->is_parked = false;
    if (vcpu->stop) {
        atomic_fetch_or(&vcpu->attention, VCPU_ATTN_STOP);
    }
    vcpu->thread = g_thread_try_new(name, vcpu_thread, vcpu, error);
    if (!vcpu->thread) {
        vcpu->gone = vcpu->is_parked = true;
    }
    g_mutex_unlock(&vcpu->lock);
    return vcpu->thread != NULL;
}

void vcpu_join(struct vcpu *vcpu)
{
    if (!vcpu->thread) {
        return;
    }
    g_mutex_lock(&vcpu->lock);
    vcpu->quit = true;
    g_cond_broadcast(&vcpu->cond);
    g_mutex_unlock(&vcpu->lock);
    vcpu_kick(vcpu, VCPU_ATTN_STOP);
    g_thread_join(g_steal_pointer(&vcpu->thread));
}

void vcpu_want_stop(struct vcpu *vcpu)
{
    g_mutex_lock(&vcpu->lock);
    vcpu->stop = true;
    bool parked = vcpu->is_parked;
    g_mutex_unlock(&vcpu->lock);
    if (!parked) {
        vcpu_kick(vcpu, VCPU_ATTN_STOP);
    }
}

void vcpu_wait_parked(struct vcpu *vcpu)
{
    g_mutex_lock(&vcpu->lock);
    while (vcpu->stop && !vcpu->is_parked) {
        g_cond_wait(&vcpu->parked, &vcpu->lock);
    }
    g_mutex_unlock(&vcpu->lock);
}

void vcpu_unpark(struct vcpu *vcpu)
{
    g_mutex_lock(&vcpu->lock);
    vcpu->stop = false;
    g_cond_broadcast(&vcpu->cond);
    g_mutex_unlock(&vcpu->lock);
}

void vcpu_run_on(struct vcpu *vcpu, void (*fn)(struct vcpu *vcpu, void *opaque),
                 void *opaque)
{
    if (vcpu->thread == g_thread_self()) {
        fn(vcpu, opaque);
        return;
    }
    struct vcpu_work w = {.fn = fn, .opaque = opaque};
    g_mutex_lock(&vcpu->lock);
    if (vcpu->gone) {
        /* No thread to run on: the caller is alone with the vCPU. */
        g_mutex_unlock(&vcpu->lock);
        fn(vcpu, opaque);
        return;
    }
    g_queue_push_tail(&vcpu->work, &w);
    g_mutex_unlock(&vcpu->lock);
    vcpu_kick(vcpu, VCPU_ATTN_WORK);
    g_mutex_lock(&vcpu->lock);
    while (!w.done) {
        g_cond_wait(&vcpu->parked, &vcpu->lock);
    }
    g_mutex_unlock(&vcpu->lock);
}

void vcpu_set_powered(struct vcpu *vcpu, bool powered)
{
    atomic_store_explicit(&vcpu->powered, powered, memory_order_relaxed);
    atomic_store_explicit(&vcpu->halted, false, memory_order_relaxed);
}

static void dump_registers(struct vcpu *vcpu, FILE *out)
{
    const struct vm *vm = vcpu->vm;
    if (vm->accel->get_state && vm->arch->dump && vm->arch->state_size) {
        g_autofree void *state = g_malloc0(vm->arch->state_size);
        vm->accel->get_state(vcpu, state);
        vm->arch->dump(state, out);
    }
}

void vcpu_log_reset(struct vcpu *vcpu)
{
    struct vm_log *log = vcpu->vm->log;
    if (vm_log_has(log, VM_LOG_CPU_RESET)) {
        FILE *out = vm_log_begin(log);
        fprintf(out, "CPU Reset (CPU %u)\n", vcpu->index);
        dump_registers(vcpu, out);
        vm_log_end(log);
    }
}

void vcpu_dump(struct vcpu *vcpu, FILE *out)
{
    const struct vm *vm = vcpu->vm;
    fprintf(out, "CPU#%u: %s, %" PRIu64 " instructions\n", vcpu->index,
            !atomic_load(&vcpu->powered) ? "off"
            : atomic_load(&vcpu->halted) ? "halted"
                                         : "running",
            atomic_load_explicit(&vcpu->insns, memory_order_relaxed));
    dump_registers(vcpu, out);
    if (vm->accel->dump) {
        vm->accel->dump(vcpu, out);
    }
}
