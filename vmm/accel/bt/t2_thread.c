#include "vmm/accel/bt/t2_priv.h"

/*
 * The thread that takes samples: while some vCPU runs guest code it asks all that do
 * for attention, at first every PERIOD_US. When nothing new is found for a while it
 * does so less often, up to 1 << MAX_SLOWER times. While all are halted it sleeps.
 *
 * t0_vm.lock guards what vCPUs and the thread share; `found` and `vain` are counters
 * that may be a little wrong.
 */

#define PERIOD_US  1000u
#define MAX_SLOWER 4u
#define PATIENCE   32u /* samples in vain for each step */

struct t2_thread {
    GThread *thread;
    GCond cond;  /* stop, or a vCPU is in guest code: with t0_vm.lock */
    bool stop;   /* t0_vm.lock */
    bool asleep; /* t0_vm.lock: nothing to sample */
    _Atomic unsigned vain;
};

void t2_thread_tell(struct t0_vm *tvm, bool found)
{
    struct t2_thread *s = tvm->t2_thread;
    if (s && found) {
        atomic_store_explicit(&s->vain, 0, memory_order_relaxed);
    } else if (s) {
        atomic_fetch_add_explicit(&s->vain, 1, memory_order_relaxed);
    }
}

/* Ask for attention. Whether anybody was there. */
static bool ask_locked(struct t0_vm *tvm)
{
    bool any = false;
    for (guint i = 0; i < tvm->cpus->len; i++) {
        struct t0_cpu *c = g_ptr_array_index(tvm->cpus, i);
        if (c->core->inbox.in_guest) {
            atomic_fetch_or(&c->vcpu->attention, T2_ATTN);
            any = true;
        }
    }
    return any;
}

static gpointer run(gpointer opaque)
{
    struct t0_vm *tvm = opaque;
    struct t2_thread *s = tvm->t2_thread;
    g_mutex_lock(&tvm->lock);
    while (!s->stop) {
        if (!ask_locked(tvm)) {
            s->asleep = true;
            g_cond_wait(&s->cond, &tvm->lock);
            s->asleep = false;
            continue;
        }
        unsigned vain = atomic_load_explicit(&s->vain, memory_order_relaxed);
        unsigned slower = MIN(vain / PATIENCE, MAX_SLOWER);
        gint64 until = g_get_monotonic_time() + (PERIOD_US << slower);
        while (!s->stop && g_cond_wait_until(&s->cond, &tvm->lock, until)) {
        }
    }
    g_mutex_unlock(&tvm->lock);
    return NULL;
}

static void start(struct t0_vm *tvm)
{
    struct t2_thread *s = tvm->t2_thread = g_new0(struct t2_thread, 1);
    g_cond_init(&s->cond);
    s->thread = g_thread_new("t2", run, tvm);
}

void t2_thread_stop(struct t0_vm *tvm)
{
    struct t2_thread *s = tvm->t2_thread;
    if (!s) {
        return;
    }
    g_mutex_lock(&tvm->lock);
    s->stop = true;
    g_cond_signal(&s->cond);
    g_mutex_unlock(&tvm->lock);
    g_thread_join(s->thread);
    g_cond_clear(&s->cond);
    g_free(s);
    tvm->t2_thread = NULL;
}

void t2_thread_wake_locked(struct t0_vm *tvm)
{
    struct t2_thread *s = tvm->t2_thread;
    if (!s && tvm->t2 && !tvm->t2_heat) {
        start(tvm);
    } else if (s && s->asleep) {
        g_cond_signal(&s->cond);
    }
}
