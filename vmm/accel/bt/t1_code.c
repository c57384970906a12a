#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"

#include <errno.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * Memory for translations, and what they call. See t1.h.
 *
 * The memory is one memfd mapped twice, writable and executable. It only fills; when
 * it is full, all blocks (T0's too) are forgotten, which happens in the run loop or
 * between two blocks, never under a running one that goes on. generation tells a
 * function that was called from a translation whether that still exists.
 */

/* More than any block needs. */
#define CODE_ROOM (32u << 10)

/* --- What translations call -------------------------------------------------- */

/* The code to go on with at s.rip, or 0: back to the run loop, which looks at all the
 * other reasons to do something else. */
static uint64_t go_on(struct t0_cpu *c, uint32_t site, uint32_t generation)
{
    struct t0_core *core = c->core;
    struct t1_core *t1 = core->t1;
    if (c->tlb == c->banks[T0_BANK_USER_AC] || core->tvm->lockstep ||
        core->exc_pending || core->exit_wanted || vcpu_wants_attention(c->vcpu) ||
        (core->irq_maybe && ((c->s.rflags & X86_FL_IF) || c->s.int_shadow ||
                             lapic_nmi_pending(c->vcpu))) ||
        c->s.activity != X86_ACTIVE || (c->s.rflags & X86_FL_TF)) {
        return 0;
    }
    struct t0_block *b = t0_block_get(c);
    if (!b) {
        core->exc_pending = true;
        return 0;
    }
    if (!b->t1 ||
        (b->flags & (T0_BLOCK_DEAD | T0_BLOCK_SCRATCH | T0_BLOCK_STRADDLES))) {
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
    return go_on(c, site, t1->generation);
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

/* A branch by T0's handler; op @what of the block. */
uint64_t t1_do_branch(struct t0_cpu *c, t0_ref ref, uint32_t what)
{
    struct t1_core *t1 = c->core->t1;
    struct t0_block *b = t1_block_at(c, ref);
    uint32_t generation = t1->generation;
    t0_fn fn;
    const struct t0_op *op = enter_op(c, b, what & 0xffff, &fn);
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

/* Another instruction by T0. Returns non-zero when the translation is left. */
uint64_t t1_do_step(struct t0_cpu *c, t0_ref ref, uint32_t what)
{
    struct t1_core *t1 = c->core->t1;
    struct t0_block *b = t1_block_at(c, ref), *single = (struct t0_block *)t1->single;
    unsigned i = what & T1_INDEX;
    uint32_t generation = t1->generation;
    t0_fn fn;
    const struct t0_op *op = enter_op(c, b, i, &fn);
    if ((what & T1_ENSURE) && make_ready(c, what)) {
        return 0;
    }
    t1->steps++;
    t1->fallbacks[what >> 16]++;
    single->ops[0] = *op;
    single->ops[1].fn = t1_op_stop;
    c->block = single;
    if (what & T1_PUSH_RETURN) {
        c->block = b;
        return t0_push(c, c->rip_base + op->next, 8) && !T0_FAULT(c, op);
    }
    c->insns += i;
    c->stay_out = true;
    bool left = !fn(c, &single->ops[0]);
    c->stay_out = false;
    if (left) {
        return 1;
    }
    if (unlikely(c->tlb == c->banks[T0_BANK_USER_AC] || generation != t1->generation ||
                 (b->flags & T0_BLOCK_DEAD) || vcpu_wants_attention(c->vcpu) ||
                 (what & T1_ENSURE) || !make_ready(c, what))) {
        c->insns++;
        c->s.rip = c->rip_base + single->ops[0].next;
        return 1;
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
    if (unlikely(c->tlb == c->banks[T0_BANK_USER_AC])) {
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

static bool has_room(const struct t1_core *t1)
{
    return t1->used + CODE_ROOM <= t1->cold_start && t1->cold + CODE_ROOM <= t1->size &&
           t1->nb_sites + 3 < t1->max_sites && t1->nb_trans + 2 < t1->max_trans;
}

/* The first op of a block that may be translated once. */
static const struct t0_op *op_count(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_block *b = block_of(op);
    if (likely(++b->heat < c->core->tvm->heat)) {
        return b->first_fn(c, op);
    }
    if (!has_room(c->core->t1)) {
        /* The run loop decodes anew what it needs. */
        c->s.rip = c->rip_base;
        t0_code_flush(c);
        return NULL;
    }
    if (!t1_translate(c, b)) {
        b->ops[0].fn = b->first_fn;
        return b->first_fn(c, op);
    }
    b->ops[0].fn = op_enter;
    return enter(c, b);
}

void t1_block_new(struct t0_cpu *c, struct t0_block *b)
{
    unsigned want = T0_MODE_64 | T0_MODE_FLAT;
    b->first_fn = b->ops[0].fn;
    if (c->core->t1 && (b->mode & (T0_MODE_SIZE | T0_MODE_FLAT)) == want &&
        !(b->flags & (T0_BLOCK_STRADDLES | T0_BLOCK_SCRATCH))) {
        b->ops[0].fn = op_count;
    }
}

void t1_block_kill(struct t0_cpu *c, struct t0_block *b)
{
    b->first_fn = b->ops[0].fn;
    if (b->t1) {
        t1_unlink_block(c, b);
        b->t1 = 0;
    }
}

void t1_flush(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    t1->generation++;
    t1->used = t1->glue_end;
    t1->cold = t1->cold_start;
    t1->nb_sites = t1->nb_trans = 0;
    t1_jumps_flush(c, true);
}

/* --- The stack's page ---------------------------------------------------------- */

static void forget_stack(struct t0_cpu *c, unsigned user)
{
    struct t1_core *t1 = c->core->t1;
    uintptr_t nowhere = t1 ? T1_STACK_NOWHERE(t1) : 0; /* without T1 nobody uses it */
    c->t1.stack[user] =
        (struct t1_stack){T1_STACK_NONE, T1_STACK_NONE, nowhere, nowhere};
}

void t1_stack_forget(struct t0_cpu *c)
{
    forget_stack(c, 0);
    forget_stack(c, 1);
}

void t1_bank_changed(struct t0_cpu *c)
{
    unsigned user = c->s.cpl == 3;
    if (c->core->t1) {
        t1_links_mode(c);
    }
    if (c->t1.stack_bank[user] != c->tlb) {
        c->t1.stack_bank[user] = c->tlb;
        forget_stack(c, user);
    }
}

/* --- Life -------------------------------------------------------------------- */

bool t1_supported(void)
{
    return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx");
}

bool t1_init(struct t0_cpu *c, GError **error)
{
    struct t1_core *t1 = c->core->t1 = g_new0(struct t1_core, 1);
    t1->size = c->core->tvm->t1_mib << 20;
    t1->cold_start = t1->size / 3;
    t1->max_sites = t1->size / 64;
    t1->max_trans = t1->size / 128;
    t1->write = t1->exec = MAP_FAILED;
    int fd = memfd_create("t1-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, t1->size) < 0) {
        error_errno(error, errno, "cannot make memory for translated code");
        goto out;
    }
    t1->write = mmap(NULL, t1->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    t1->exec = mmap(NULL, t1->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (t1->write == MAP_FAILED || t1->exec == MAP_FAILED) {
        error_errno(error, errno, "cannot map memory for translated code");
        goto out;
    }
    close(fd);
    t1->sites = g_new(struct t1_site, t1->max_sites);
    t1->trans = g_new(struct t1_trans, t1->max_trans);
    c->t1.tlb_mask = (uint64_t)(T0_TLB_SIZE - 1) * sizeof(struct t0_tlb_entry);
    c->t1.itlb_mask = (uint64_t)(T0_ITLB_SIZE - 1) * 8;
    c->t1.x87_mask = T0_FPU_X87;
    c->t1.not_if = ~(uint64_t)X86_FL_IF;
    c->t1.not_df = ~(uint64_t)X86_FL_DF;
    c->t1.arith = X86_FL_ARITH;
    c->t1.pushf_keep = ~(uint64_t)(X86_FL_ARITH | X86_FL_VM | X86_FL_RF);
    for (unsigned i = 0; i < 3; i++) {
        c->t1.bits[i] = (16u << i) - 1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(c->t1.outside); i++) {
        c->t1.outside[i] = ~((UINT64_C(0xfff) >> i) << i);
    }
    c->t1.vec_away = 1;
    c->t1.align16_mask = 15;
    t1_links_init(c);
    t1->nowhere = g_aligned_alloc0(1, GMEM_PAGE_SIZE, 64);
    t1_stack_forget(c);
    t1_make_glue(t1);
    return true;
out:
    if (fd >= 0) {
        close(fd);
    }
    t1_done(c);
    return false;
}

void t1_done(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    if (t1->write != MAP_FAILED) {
        munmap(t1->write, t1->size);
    }
    if (t1->exec != MAP_FAILED) {
        munmap(t1->exec, t1->size);
    }
    g_free(t1->sites);
    g_free(t1->trans);
    g_aligned_free(t1->nowhere);
    g_free(t1);
    c->core->t1 = NULL;
}
