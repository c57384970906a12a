#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"
#include "vmm/accel/bt/t2.h"

#include <immintrin.h>

#include "lib/base/base.h"

/*
 * What translations call, how T0 enters them, and when blocks become translations. See
 * t1.h.
 */

/* --- What translations call -------------------------------------------------- */

/*
 * Deliver the exception that is due, as the run loop does. False: it has to. So it has
 * for a second fault that ends in a shutdown, which is found again, and outside of long
 * mode, where a task switch may be half done then.
 */
static bool deliver(struct t0_cpu *c)
{
    struct t0_core *core = c->core;
    struct t0_exception e = c->exc;
    if (c->debug || !t0_long_mode(c) || core->tvm->lockstep) {
        return false;
    }
    core->exc_pending = false;
    core->chain_wanted = NULL;
    if (!t0_deliver_exc(c)) {
        c->exc = e;
        core->exc_pending = true;
        return false;
    }
    core->n.exceptions++;
    return true;
}

/* Whether something else comes before the instruction at s.rip. */
static bool interrupted(const struct t0_cpu *c)
{
    const struct t0_core *core = c->core;
    return t1_kept_out(c) || core->tvm->lockstep || core->exit_wanted ||
           vcpu_wants_attention(c->vcpu) ||
           (core->irq_maybe && ((c->s.rflags & X86_FL_IF) || c->s.int_shadow ||
                                lapic_nmi_pending(c->vcpu))) ||
           c->s.activity != X86_ACTIVE || (c->s.rflags & X86_FL_TF);
}

/* The code to go on with at s.rip, or 0: back to the run loop, which looks at all the
 * other reasons to do something else. */
static uint64_t go_on(struct t0_cpu *c, uint32_t site, uint32_t generation)
{
    struct t0_core *core = c->core;
    struct t1_core *t1 = core->t1;
    if (unlikely(core->exc_pending)) {
        if (!deliver(c)) {
            return 0;
        }
        site = 0;
    }
    if (unlikely(interrupted(c))) {
        return 0;
    }
    const struct t1_jump *known = site ? NULL : t1_find_jump(c, c->s.rip);
    if (known) {
        c->t1.page_base = known->page;
        return known->code;
    }
    struct t0_block *b = t0_block_get(c);
    if (!b) {
        core->exc_pending = true;
        return 0;
    }
    if (!b->t1 || (b->flags & (T0_BLOCK_DEAD | T0_BLOCK_SCRATCH))) {
        return 0;
    }
    if (t2_wants(c, b)) {
        return 0;
    }
    if (generation == t1->generation) {
        /* The jump cache may know the block when the instruction TLB, which the branch
         * looks at, has lost its page. */
        if (site && t1->sites[site].page && !t0_itlb_get(c, c->s.rip)) {
            core->exc_pending = true;
            return 0;
        }
        if (site) {
            t1_link_site(c, site, b);
        } else {
            t1_remember_jump(c, b, c->s.rip);
        }
    }
    c->t1.page_base = c->s.rip & ~UINT64_C(0xfff);
    return (uintptr_t)(t1->exec + t1->trans[b->t1].entry);
}

/* A direct branch that is not linked. */
uint64_t t1_do_resolve(struct t0_cpu *c, uint32_t site)
{
    struct t1_core *t1 = c->core->t1;
    t1->resolves++;
    c->s.rip = c->t1.page_base + (uint64_t)(int64_t)t1->sites[site].target;
    if (!t0_is64(c)) {
        c->s.rip = (uint32_t)c->s.rip;
    }
    return go_on(c, site, t1->generation);
}

/* Somewhere that is not known yet. */
uint64_t t1_do_go_on(struct t0_cpu *c)
{
    return go_on(c, 0, c->core->t1->generation);
}

/* Where T0's handlers find what they work on. */
static const struct t0_op *enter_op(struct t0_cpu *c, struct t0_block *b, unsigned i,
                                    t0_fn *ret_fn)
{
    const struct t0_op *op = &b->ops[i];
    c->rip_base = c->t1.page_base + (b->gpa & 0xfff);
    *ret_fn = i == 0 ? b->first_fn : op->fn;
    return op;
}

static void forget_translation(struct t0_cpu *c, struct t0_block *b)
{
    if (b->t1) {
        t1_unlink_block(c, b);
        t2_block_kill(c, b);
        c->core->t1->trans[b->t1].block = 0;
        b->t1 = 0;
    }
}

/* An access of op @i of @b has had to look for its page too often: the block is
 * translated anew before it is entered the next time. */
static void adapt(struct t0_cpu *c, struct t0_block *b, unsigned i)
{
    uint64_t how = c->t1.adapt;
    c->t1.adapt = T1_ADAPT_NOT;
    if (!b->t1) {
        return;
    }
    if (how == T1_ADAPT_ANY) {
        b->any_sites |= UINT64_C(1) << i;
    } else {
        b->probe_sites = UINT64_MAX;
    }
    forget_translation(c, b);
    t1_block_cool(c, b);
    b->heat = c->core->tvm->heat - 1;
}

/* A branch by T0's handler; op @what of the block. */
uint64_t t1_do_branch(struct t0_cpu *c, t0_ref ref, uint32_t what)
{
    struct t1_core *t1 = c->core->t1;
    struct t0_block *b = t1_block_at(c, ref);
    uint32_t generation = t1->generation;
    t0_fn fn;
    const struct t0_op *op = enter_op(c, b, what & T1_INDEX, &fn);
    if (unlikely(c->t1.adapt)) {
        adapt(c, b, what & T1_INDEX);
    }
    t1->branches++;
    t1->fallbacks[what >> 16]++;
    c->block = b;
    c->stay_out = true;
    fn(c, op);
    c->stay_out = false;
    return go_on(c, 0, generation);
}

/* The instruction after the single one. */
const struct t0_op *t1_op_stop(struct t0_cpu *c, const struct t0_op *op)
{
    return op;
}

/* Bring what a translation needs (T1_NEED_*) into the host's registers. False: the
 * guest has an exception unmasked. */
static bool make_ready(struct t0_cpu *c, uint32_t what)
{
    const struct x86_fpu *f = &c->s.fpu;
    if ((what & T1_NEED_X87) && !(c->fpu_loaded & T0_FPU_X87)) {
        if ((f->fcw & T0_FPU_EXCEPTIONS) != T0_FPU_EXCEPTIONS) {
            return false;
        }
        t0_x87_load(c);
    }
    if (what & T1_NEED_VEC) {
        if ((f->mxcsr & T0_MXCSR_MASKS) != T0_MXCSR_MASKS) {
            return false;
        }
        if (!(c->fpu_loaded & T0_FPU_SSE)) {
            _mm_setcsr(f->mxcsr & 0xffff);
            c->fpu_loaded |= T0_FPU_SSE;
        }
        c->t1.vec_want = 1;
    }
    return true;
}

/* The translation is left, with all in the vCPU's state: what t1_do_step() says. */
static uint64_t leave(struct t0_cpu *c, uint32_t generation)
{
    uint64_t code = go_on(c, 0, generation);
    return code ? code : T1_LEAVE;
}

/* Another instruction by T0. */
uint64_t t1_do_step(struct t0_cpu *c, t0_ref ref, uint32_t what)
{
    struct t1_core *t1 = c->core->t1;
    struct t0_block *b = t1_block_at(c, ref), *single = (struct t0_block *)t1->single;
    unsigned i = what & T1_INDEX;
    uint32_t generation = t1->generation, drops = t1->t2_drops;
    uint32_t forgets = t1->forgets;
    t0_fn fn;
    const struct t0_op *op = enter_op(c, b, i, &fn);
    if ((what & T1_ENSURE) && (make_ready(c, what) || (what & T1_TRY))) {
        return 0;
    }
    if (unlikely(c->t1.adapt)) {
        adapt(c, b, i);
    }
    if (what & T1_ADAPT) {
        make_ready(c, what);
        return 0;
    }
    t1->steps++;
    t1->fallbacks[what >> 16]++;
    single->ops[0] = *op;
    single->ops[1].fn = t1_op_stop;
    c->block = single;
    if (what & T1_PUSH_RETURN) {
        c->block = b;
        if (likely(!t0_push(c, c->rip_base + op->next, t0_is64(c) ? 8 : 4))) {
            return 0;
        }
        T0_FAULT(c, op);
        return leave(c, generation);
    }
    c->insns += i;
    c->stay_out = true;
    bool left = !fn(c, &single->ops[0]);
    c->stay_out = false;
    if (left) {
        return leave(c, generation);
    }
    if (unlikely(c->tlb == c->banks[T0_BANK_USER_AC] || generation != t1->generation ||
                 drops != t1->t2_drops || (b->flags & T0_BLOCK_DEAD) ||
                 ((what & T1_STRICT) && forgets != t1->forgets) ||
                 vcpu_wants_attention(c->vcpu) || (what & T1_ENSURE) ||
                 !make_ready(c, what))) {
        t1->left_early = true;
        c->insns++;
        c->s.rip = c->rip_base + single->ops[0].next;
        if (!t0_is64(c)) {
            c->s.rip = (uint32_t)c->s.rip;
        }
        return leave(c, generation);
    }
    c->insns -= i;
    return 0;
}

/* --- T0's side --------------------------------------------------------------- */

const struct t0_op *t1_enter(struct t0_cpu *c, struct t0_block *b)
{
    struct t1_core *t1 = c->core->t1;
    typedef const struct t0_op *(*enter_fn)(struct t0_cpu *, uint64_t);
    enter_fn fn = (enter_fn)(uintptr_t)(t1->exec + t1->glue_enter);
    t1->enters++;
    c->t1.page_base = c->rip_base & ~UINT64_C(0xfff);
    return fn(c, (uintptr_t)(t1->exec + t1->trans[b->t1].entry));
}

static const struct t0_op *enter(struct t0_cpu *c, struct t0_block *b)
{
    if (unlikely(t1_kept_out(c))) {
        return b->first_fn(c, b->ops);
    }
    return unlikely(c->core->tvm->lockstep) ? t1_lockstep(c, b) : t1_enter(c, b);
}

static struct t0_block *block_of(const struct t0_op *op)
{
    return (struct t0_block *)((uintptr_t)op - offsetof(struct t0_block, ops));
}

/* The first op of a translated block. */
static const struct t0_op *op_enter(struct t0_cpu *c, const struct t0_op *op)
{
    return enter(c, block_of(op));
}

static bool translate(struct t0_cpu *c, struct t0_block *b)
{
    t1_make_room(c);
    bool made = t1_translate(c, b);
    t0_block_entry(c, b, made ? op_enter : b->first_fn);
    return made;
}

/* The first op of a block that may be translated once. */
static const struct t0_op *op_count(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_block *b = block_of(op);
    if (likely(++b->heat < c->core->tvm->heat)) {
        return b->first_fn(c, op);
    }
    return translate(c, b) ? enter(c, b) : b->first_fn(c, op);
}

bool t1_make(struct t0_cpu *c, struct t0_block *b)
{
    return b->t1 || (b->ops[0].fn == op_count && translate(c, b));
}

void t1_block_cool(struct t0_cpu *c, struct t0_block *b)
{
    b->heat = 0;
    t0_block_entry(c, b, op_count);
}

void t1_block_new(struct t0_cpu *c, struct t0_block *b)
{
    const unsigned flat32 = T0_MODE_32 | T0_MODE_STACK32 | T0_MODE_FLAT | T0_MODE_PE;
    unsigned size = b->mode & T0_MODE_SIZE;
    b->first_fn = b->ops[0].fn;
    if (c->core->t1 &&
        (size == T0_MODE_64 || (size == T0_MODE_32 && (b->mode & flat32) == flat32)) &&
        !(b->flags & T0_BLOCK_SCRATCH)) {
        t0_block_entry(c, b, op_count);
    }
}

void t1_block_kill(struct t0_cpu *c, struct t0_block *b)
{
    b->first_fn = b->ops[0].fn;
    forget_translation(c, b);
}
