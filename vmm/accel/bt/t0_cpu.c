#include "vmm/accel/bt/t0_priv.h"

#include <inttypes.h>

#include "lib/base/base.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/accel/bt/bt_view.h"
#include "vmm/accel/bt/t1.h"
#include "vmm/accel/bt/t2.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/log.h"

/*
 * The run loop and the accelerator's face.
 *
 *     deliver a pending exception
 *     look at attention: the inbox, and what makes run() return
 *     take an interrupt, when one is pending and may be taken
 *     find the block at RIP (decoding it when it is new) and execute
 *
 * Executing goes from op to op and from block to block by itself (t0_branch.c) until
 * a handler returns NULL: an exception, an exit, attention, or a block that was not
 * found by the fast ways.
 *
 * Interrupts. irq_maybe says that the LAPIC may have something for us; it is set by
 * attention and cleared when the LAPIC answers that it has nothing. While IF is clear
 * it stays, and whatever sets IF looks at it. The interrupt shadow of STI and MOV SS
 * only matters when something is pending: then the one instruction in the shadow is
 * executed alone. STI leaves the flag set otherwise, which at worst makes one
 * instruction be stepped over alone later.
 */

/* --- State ----------------------------------------------------------------- */

static void bt_get_state(struct vcpu *vcpu, void *ret_state)
{
    struct t0_cpu *c = vcpu->accel;
    struct x86_state *s = ret_state;
    t0_fpu_put(c);
    *s = c->s;
    memcpy(s->gpr, c->gpr, sizeof(s->gpr));
    s->rflags = t0_get_rflags(c);
    s->cr8 = lapic_get_cr8(vcpu);
    s->msr.tsc_offset = x86_vcpu_of(vcpu)->tsc_offset;
    s->a20_low = c->core->a20_mask != UINT64_MAX;
    s->event.pending = c->core->exc_pending;
    if (c->core->exc_pending) {
        s->event.vector = c->exc.vector;
        s->event.has_error = c->exc.has_error;
        s->event.error = c->exc.error;
        s->cr2 = c->exc.vector == X86_EXC_PF ? c->exc.cr2 : s->cr2;
    }
}

static bool bt_set_state(struct vcpu *vcpu, const void *state, GError **error)
{
    struct t0_cpu *c = vcpu->accel;
    const struct x86_state *s = state;
    t0_fpu_put(c);
    c->s = *s;
    c->s.a20_low = false;
    memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    t0_set_rflags(c, s->rflags);
    lapic_set_cr8(vcpu, (unsigned)s->cr8);
    x86_vcpu_of(vcpu)->tsc_offset = s->msr.tsc_offset;
    c->core->exc_pending = s->event.pending;
    c->exc = (struct t0_exception){.vector = s->event.vector,
                                   .has_error = s->event.has_error,
                                   .error = s->event.error,
                                   .cr2 = s->cr2};
    c->core->irq_maybe = true;
    c->core->exit_wanted = false;
    c->core->chain_wanted = NULL;
    c->core->debug_bits = 0;
    c->debug = 0;
    t0_debug_update(c);
    t0_tlb_flush(c, true);
    t0_update_mode(c);
    return true;
}

/* --- Leaving blocks -------------------------------------------------------- */

void t0_set_exc(struct t0_cpu *c, uint8_t vector)
{
    c->exc = (struct t0_exception){.vector = vector};
}

void t0_set_exc_error(struct t0_cpu *c, uint8_t vector, uint32_t error)
{
    c->exc = (struct t0_exception){.vector = vector, .has_error = true, .error = error};
}

const struct t0_op *t0_fault(struct t0_cpu *c, const struct t0_op *op)
{
    c->insns += t0_nb_done(c, op) - 1;
    c->s.rip = t0_op_rip(c, op);
    c->core->exc_pending = true;
    c->debug &= (uint8_t)~T0_DEBUG_HIT; /* it will be executed again */
    c->core->debug_bits = 0;
    return NULL;
}

const struct t0_op *t0_raise(struct t0_cpu *c, const struct t0_op *op, uint8_t vector)
{
    t0_set_exc(c, vector);
    return t0_fault(c, op);
}

const struct t0_op *t0_raise_error(struct t0_cpu *c, const struct t0_op *op,
                                   uint8_t vector, uint32_t error)
{
    t0_set_exc_error(c, vector, error);
    return t0_fault(c, op);
}

const struct t0_op *t0_leave(struct t0_cpu *c, const struct t0_op *op, uint64_t rip)
{
    c->insns += t0_nb_done(c, op);
    c->s.rip = rip;
    return NULL;
}

const struct t0_op *t0_end_block(struct t0_cpu *c, const struct t0_op *op)
{
    uint64_t rip = t0_next_rip(c, op);
    if (!t0_is64(c)) {
        rip = (uint32_t)rip;
    }
    return t0_leave(c, op, rip);
}

/* --- The run loop ---------------------------------------------------------- */

/* An SMI: the board gets the canonical state and gives another. */
static void __attribute__((noinline)) enter_smm(struct t0_cpu *c)
{
    struct x86_smm *smm = &x86_vcpu_of(c->vcpu)->smm;
    struct x86_state s;
    lapic_take_smi(c->vcpu);
    bt_get_state(c->vcpu, &s);
    s.activity = X86_ACTIVE; /* HLT goes on after RSM as the saved state says */
    smm->ops->enter(smm->opaque, c->vcpu, &s);
    smm->active = true;
    bt_set_state(c->vcpu, &s, NULL);
}

bool t0_leave_smm(struct t0_cpu *c)
{
    struct x86_smm *smm = &x86_vcpu_of(c->vcpu)->smm;
    struct x86_state s;
    bt_get_state(c->vcpu, &s);
    if (!smm->ops->resume(smm->opaque, c->vcpu, &s)) {
        return false;
    }
    smm->active = false;
    bt_set_state(c->vcpu, &s, NULL);
    return true;
}

/* Take an interrupt or NMI if one is pending and may be taken now. */
static void take_interrupt(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    struct vcpu *vcpu = c->vcpu;
    if (c->s.int_shadow) {
        return; /* the caller steps over one instruction */
    }
    if (lapic_smi_pending(vcpu) && !x86_vcpu_of(vcpu)->smm.active) {
        enter_smm(c);
        return;
    }
    if (lapic_nmi_pending(vcpu) && !c->s.nmi_blocked) {
        lapic_take_nmi(vcpu);
        c->s.activity = X86_ACTIVE;
        core->chain_wanted = NULL;
        if (t0_deliver(c, T0_EVENT_EXTERNAL, X86_EXC_NMI, false, 0)) {
            c->s.nmi_blocked = true;
        } else {
            core->exc_pending = true;
        }
        return;
    }
    if (!(c->s.rflags & X86_FL_IF)) {
        return;
    }
    int v = lapic_pending_vector(vcpu);
    if (v < 0) {
        core->irq_maybe = false;
        return;
    }
    unsigned vector = lapic_accept(vcpu, v);
    core->n.irqs++;
    t0_code_review(c);
    exit_stat_add(&vcpu->exits[VCPU_EXIT_IRQ], 0);
    c->s.activity = X86_ACTIVE;
    core->chain_wanted = NULL;
    if (!t0_deliver(c, T0_EVENT_EXTERNAL, (uint8_t)vector, false, 0)) {
        core->exc_pending = true;
    }
}

static void execute(struct t0_cpu *c, struct t0_block *b)
{
    struct t0_core *core = c->core;
    core->ring[core->ring_pos++ % T0_RING_SIZE] = c->s.rip;
    c->rip_base = c->s.rip;
    c->block = b;
#if T0_TAIL_CALLS
    b->ops[0].fn(c, b->ops);
#else
    for (const struct t0_op *op = b->ops; op;) {
        op = op->fn(c, op);
    }
#endif
}

/* Execute one instruction, and its single-step trap when TF was set before it. */
static void step(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    bool tf = c->s.rflags & X86_FL_TF;
    uint64_t rip = c->s.rip;
    c->s.int_shadow = false;
    core->no_trap = false;
    core->chain_wanted = NULL;
    if (unlikely(c->debug) && t0_debug_before(c)) {
        return;
    }
    struct t0_block *b = t0_block_step(c);
    if (!b) {
        core->exc_pending = true;
        return;
    }
    c->stay_out = true;
    execute(c, b);
    c->stay_out = false;
    if (unlikely(tf || c->debug)) {
        t0_debug_after(c, tf, rip, rip + b->len);
    }
}

/* Attention is not 0. True: run() has to return. */
static bool look_up(struct t0_cpu *c)
{
    uint32_t bits = vcpu_take_attention(c->vcpu, VCPU_ATTN_IRQ | T0_ATTN | T2_ATTN);
    if (bits & VCPU_ATTN_IRQ) {
        c->core->irq_maybe = true;
    }
    if (bits & T0_ATTN) {
        t0_inbox_read(c);
    }
    if (bits & T2_ATTN) {
        t2_sample(c);
    }
    return vcpu_wants_attention(c->vcpu);
}

/*
 * MWAIT. Memory is looked at now and then, less often the longer it takes, so that a
 * waiting vCPU costs the host next to nothing; what wants attention ends the wait at
 * once. An MWAIT may return without a reason, and this one does after MWAIT_MOST_US:
 * a store that changes nothing would not be noticed.
 */
enum { MWAIT_MOST_US = 20000, MWAIT_STEP_US = 1000 };

static void wait_for_store(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    core->monitor.wanted = false;
    bool irqs = core->monitor.any_irq || (c->s.rflags & X86_FL_IF);
    if (lapic_nmi_pending(c->vcpu) || (irqs && lapic_pending_vector(c->vcpu) >= 0)) {
        return;
    }
    t0_fpu_lend(c);
    t0_guest_leave(c);
    for (unsigned us = 0, step = 10;
         us < MWAIT_MOST_US && !vcpu_wants_attention(c->vcpu) && !t0_monitor_hit(c);
         us += step) {
        step = MIN(step * 2, MWAIT_STEP_US);
        vcpu_doze(c->vcpu, step * UINT64_C(1000));
    }
    t0_guest_enter(c);
}

/* One turn of the loop. True: run() returns core->exit. */
static bool turn(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    if (core->exc_pending) {
        core->chain_wanted = NULL;
        core->exc_pending = false;
        core->n.exceptions++;
        if (!t0_deliver_exc(c)) {
            c->s.activity = X86_SHUTDOWN;
            core->exit = VCPU_EXIT_SHUTDOWN;
            return true;
        }
    }
    if (unlikely(c->debug)) {
        t0_debug_settle(c);
        if (core->exc_pending) {
            return false;
        }
    }
    if (unlikely(vcpu_wants_attention(c->vcpu)) && look_up(c)) {
        core->exit = VCPU_EXIT_KICK;
        return true;
    }
    if (core->irq_maybe) {
        take_interrupt(c);
        if (core->exc_pending) {
            return false;
        }
    }
    if (unlikely(core->exit_wanted)) {
        core->exit_wanted = false;
        if (core->monitor.wanted) {
            wait_for_store(c);
            return false;
        }
        if (core->exit != VCPU_EXIT_HLT || c->s.activity == X86_HALTED) {
            return true;
        }
    }
    if (unlikely(c->s.activity != X86_ACTIVE)) {
        core->exit = c->s.activity == X86_SHUTDOWN ? VCPU_EXIT_SHUTDOWN : VCPU_EXIT_HLT;
        return true;
    }
    if (unlikely((c->s.rflags & X86_FL_TF) || (c->s.int_shadow && core->irq_maybe) ||
                 (c->debug && t0_debug_steps(c)))) {
        step(c);
        return false;
    }
    struct t0_block *b = t0_block_get(c);
    if (unlikely(!b)) {
        core->exc_pending = true;
        return false;
    }
    if (core->chain_wanted) {
        t0_block_chain(c, core->chain_wanted, b);
        core->chain_wanted = NULL;
    }
    if (unlikely(core->t2_look) && t2_turn(c, b)) {
        return false;
    }
    execute(c, b);
    return false;
}

static enum vcpu_exit bt_run(struct vcpu *vcpu)
{
    struct t0_cpu *c = vcpu->accel;
    t0_guest_enter(c);
    c->core->irq_maybe = true;
    t0_tsc_changed(c);
    while (!turn(c)) {
    }
    t0_fpu_put(c);
    t0_guest_leave(c);
    atomic_store_explicit(&vcpu->insns, c->insns, memory_order_relaxed);
    return c->core->exit;
}

/* --- Life ------------------------------------------------------------------ */

static void bt_done(struct vm *vm, void *state)
{
    struct t0_vm *t = state;
    if (!t) {
        return;
    }
    if (vm->gmem) {
        gmem_set_invalidate(vm->gmem, NULL, NULL);
    }
    vm->accel_arch = NULL;
    t2_thread_stop(t);
    bt_options_done(t);
    g_hash_table_unref(t->pages);
    g_ptr_array_unref(t->cpus);
    g_cond_clear(&t->cond);
    g_mutex_clear(&t->lock);
    g_mutex_clear(&t->split);
    g_free(t);
}

/* x86_accel_ops.set_a20: translations change as if all regions had moved. */
static void bt_set_a20(struct vm *vm, bool on)
{
    struct t0_vm *t = vm->accel_state;
    uint64_t mask = on ? UINT64_MAX : ~(UINT64_C(1) << 20);
    g_mutex_lock(&t->lock);
    for (guint i = 0; t->a20_mask != mask && i < t->cpus->len; i++) {
        struct t0_cpu *c = g_ptr_array_index(t->cpus, i);
        c->core->inbox.flush = true;
        if (c->core->inbox.in_guest) {
            vcpu_kick(c->vcpu, T0_ATTN);
        }
    }
    t->a20_mask = mask;
    g_mutex_unlock(&t->lock);
}

static const struct x86_accel_ops bt_arch_ops = {.set_a20 = bt_set_a20};

static bool bt_init(struct vm *vm, const json_t *options, void **ret_state,
                    GError **error)
{
    struct t0_vm *t = g_new0(struct t0_vm, 1);
    t->vm = vm;
    t->a20_mask = UINT64_MAX;
    g_mutex_init(&t->lock);
    g_mutex_init(&t->split);
    g_cond_init(&t->cond);
    t->pages = g_hash_table_new(NULL, NULL);
    t->cpus = g_ptr_array_new();
    if (!bt_set_options(t, options, error)) {
        bt_done(vm, t);
        return false;
    }
    vm->accel_arch = &bt_arch_ops;
    *ret_state = t;
    return true;
}

static void bt_vcpu_free(struct vcpu *vcpu)
{
    struct t0_cpu *c = vcpu->accel;
    if (!c) {
        return;
    }
    if (c->core) {
        g_mutex_lock(&c->core->tvm->lock);
        g_ptr_array_remove(c->core->tvm->cpus, c);
        g_mutex_unlock(&c->core->tvm->lock);
        t0_code_done(c);
        t0_fpu_done(c);
        t1_done(c);
        g_free(c->core);
    }
    free((uint8_t *)c - T1_STACK);
    vcpu->accel = NULL;
}

static bool bt_vcpu_new(struct vcpu *vcpu, GError **error)
{
    struct vm *vm = vcpu->vm;
    /* Translated code has its stack below the state: see t1.h. */
    uint8_t *memory = aligned_alloc(64, T1_STACK + ALIGN_UP(sizeof(struct t0_cpu), 64));
    if (!memory) {
        return error_errno(error, errno, "software CPU");
    }
    struct t0_cpu *c = (struct t0_cpu *)(memory + T1_STACK);
    memset(c, 0, sizeof(*c));
    struct t0_core *core = g_new0(struct t0_core, 1);
    vcpu->accel = c;
    c->core = core;
    c->vcpu = vcpu;
    core->cpu = c;
    core->tvm = vm->accel_state;
    core->model = vm->cpu_model;
    core->phys_mask = (UINT64_C(1) << core->model->phys_bits) - 1;
    core->a20_mask = UINT64_MAX;
    g_mutex_lock(&core->tvm->lock);
    g_ptr_array_add(core->tvm->cpus, c);
    g_mutex_unlock(&core->tvm->lock);
    t0_tlb_init(c);
    if (!t0_code_init(c, error) || !t0_fpu_init(c, error) ||
        (core->tvm->t1 && !t1_init(c, error))) {
        bt_vcpu_free(vcpu);
        return false;
    }
    x86_state_reset(&c->s, x86_cpu_signature(core->model), false);
    memcpy(c->gpr, c->s.gpr, sizeof(c->s.gpr));
    t0_set_rflags(c, c->s.rflags);
    t0_update_mode(c);
    return true;
}

static void bt_invalidate(struct vm *vm, uint64_t gpa, uint64_t len)
{
    t0_vm_invalidate(vm->accel_state, gpa, len);
}

/* Regions changed: host addresses are in the TLBs. */
static void flush_all(struct vm *vm)
{
    struct t0_vm *t = vm->accel_state;
    g_mutex_lock(&t->lock);
    for (guint i = 0; i < t->cpus->len; i++) {
        struct t0_cpu *c = g_ptr_array_index(t->cpus, i);
        c->core->inbox.flush = true;
        c->core->last_region = c->core->other_region = NULL;
    }
    g_mutex_unlock(&t->lock);
}

static bool bt_map(struct vm *vm, const struct gmem_region *region, GError **error)
{
    flush_all(vm);
    return true;
}

static void bt_unmap(struct vm *vm, const struct gmem_region *region)
{
    flush_all(vm);
}

const struct accel_ops bt_accel_ops = {
    .name = "bt",
    .help = "software CPU: runs guest code without hardware virtualization",
    .props = bt_options,
    .init = bt_init,
    .done = bt_done,
    .vcpu_new = bt_vcpu_new,
    .vcpu_free = bt_vcpu_free,
    .run = bt_run,
    .get_state = bt_get_state,
    .set_state = bt_set_state,
    .map = bt_map,
    .unmap = bt_unmap,
    .invalidate = bt_invalidate,
    .dump = bt_dump,
    .stats = bt_stats,
};
