#include "vmm/accel/bt/t2_priv.h"

#include <inttypes.h>

#include "lib/base/base.h"

/*
 * Which blocks make a region: found hot by samples, and recorded while T0 executes
 * them. See t2.h.
 *
 * A recording ends when the head was met LAPS times, with STEPS blocks, when there is
 * no room for another block, and when something comes in between: an exception, an
 * interrupt, code that cannot be translated. What was seen until then is built when it
 * has a loop.
 */

#define LAPS      48u
#define STEPS     4000u
#define MAX_TRIED 3u

static struct t2_core *core_of(const struct t0_cpu *c)
{
    return c->core->t1->t2;
}

/* --- Executing by T0 ---------------------------------------------------------- */

/* @b and no more: its chains lead nowhere meanwhile. */
static void execute(struct t0_cpu *c, struct t0_block *b)
{
    bool has_end = b->flags & T0_BLOCK_HAS_END;
    struct t0_chain *chain = t0_chain_of(&b->ops[b->nb_insns - !has_end]);
    struct t0_block *to[2] = {chain[0].to, chain[1].to};
    chain[0].to = chain[1].to = NULL;
    c->rip_base = c->s.rip;
    c->block = b;
    c->stay_out = true;
#if T0_TAIL_CALLS
    b->first_fn(c, b->ops);
#else
    for (const struct t0_op *op = b->first_fn(c, b->ops); op;) {
        op = op->fn(c, op);
    }
#endif
    c->stay_out = false;
    c->core->chain_wanted = NULL;
    for (unsigned i = 0; i < 2; i++) {
        if (to[i] && !(to[i]->flags & T0_BLOCK_DEAD)) {
            chain[i].to = to[i];
        }
    }
}

/* --- Recording ---------------------------------------------------------------- */

static bool may_be_in(struct t0_cpu *c, struct t0_block *b)
{
    return !(b->flags & (T0_BLOCK_DEAD | T0_BLOCK_SCRATCH | T0_BLOCK_CHECKED)) &&
           (b->mode & T0_MODE_SIZE) == T0_MODE_64 && t1_make(c, b);
}

/* The page at @page from the head's, with physical address @gpa. False: no room. */
static bool note_page(struct t2_region *r, int32_t page, uint64_t gpa)
{
    for (unsigned i = 0; i < r->nb_pages; i++) {
        if (r->pages[i].page == page) {
            return r->pages[i].gpa == gpa;
        }
    }
    if (r->nb_pages == T2_MAX_PAGES) {
        return false;
    }
    r->pages[r->nb_pages].page = page;
    r->pages[r->nb_pages++].gpa = gpa;
    return true;
}

/* The node of @b at @page; a new one when there is room. NULL: cannot be in. */
static struct t2_node *find_node(struct t0_cpu *c, struct t0_block *b, int64_t page)
{
    struct t2_region *r = core_of(c)->rec;
    for (unsigned i = 0; i < r->nb; i++) {
        if (r->node[i].b == b) {
            return r->node[i].page == page ? &r->node[i] : NULL;
        }
    }
    if (r->nb == T2_MAX_NODES || r->nb_insns + b->nb_insns > T2_MAX_INSNS ||
        b->mode != r->mode || page > INT32_MAX / 4 || page < INT32_MIN / 4 ||
        !note_page(r, (int32_t)page, b->gpa & ~UINT64_C(0xfff)) ||
        ((b->flags & T0_BLOCK_STRADDLES) &&
         !note_page(r, (int32_t)page + (int32_t)GMEM_PAGE_SIZE, b->gpa2)) ||
        !may_be_in(c, b)) {
        return NULL;
    }
    core_of(c)->next[r->nb].nb = 0;
    struct t2_node *n = &r->node[r->nb++];
    *n = (struct t2_node){.b = b, .page = (int32_t)page};
    r->nb_insns += b->nb_insns;
    return n;
}

static void note_next(struct t2_next *n, unsigned to)
{
    for (unsigned i = 0; i < n->nb; i++) {
        if (n->to[i].node == to) {
            n->to[i].count++;
            return;
        }
    }
    if (n->nb < T2_MAX_NEXT) {
        n->to[n->nb].node = (uint16_t)to;
        n->to[n->nb++].count = 1;
    }
}

/* @b is executed next. False: the recording is over. */
static bool add(struct t0_cpu *c, struct t0_block *b)
{
    struct t2_core *t2 = core_of(c);
    struct t2_region *r = t2->rec;
    uint64_t page = (c->s.rip & ~UINT64_C(0xfff)) - t2->base;
    if (c->s.rip != t2->expect || t2->steps++ >= STEPS || t2->laps >= LAPS) {
        return false;
    }
    struct t2_node *n = find_node(c, b, (int64_t)page);
    if (!n) {
        return false;
    }
    unsigned index = (unsigned)(n - r->node);
    n->count++;
    t2->laps += index == 0;
    if (t2->steps > 1) {
        note_next(&t2->next[t2->last], index);
    }
    t2->last = index;
    return true;
}

static bool has_loop(const struct t2_region *r)
{
    for (unsigned i = 0; i < r->nb; i++) {
        if (r->node[i].count > 1) {
            return true;
        }
    }
    return false;
}

static void finish(struct t0_cpu *c)
{
    struct t2_core *t2 = core_of(c);
    const struct t2_region *r = t2->rec;
    bool forced = c->core->tvm->t2_heat;
    t2->recording = false;
    t2->nb_recorded++;
    for (unsigned i = 0; i < r->nb; i++) {
        if (r->node[i].b->flags & T0_BLOCK_DEAD) {
            return;
        }
        struct t1_trans *tr = &c->core->t1->trans[r->node[i].b->t1];
        if (forced) {
            tr->t2_tried = MAX_TRIED;
        }
    }
    if (r->nb && (forced || has_loop(r))) {
        t2->nb_built += t2_build(c, r);
    }
}

static void begin(struct t0_cpu *c, const struct t0_block *head)
{
    struct t2_core *t2 = core_of(c);
    struct t2_region *r = t2->rec;
    r->nb = r->nb_insns = r->nb_pages = 0;
    r->mode = head->mode;
    t2->base = c->s.rip & ~UINT64_C(0xfff);
    t2->expect = c->s.rip;
    t2->steps = t2->laps = 0;
    t2->recording = true;
}

/* --- Which are hot ------------------------------------------------------------- */

bool t2_wants(const struct t0_cpu *c, const struct t0_block *b)
{
    const struct t1_trans *tr = &c->core->t1->trans[b->t1];
    return core_of(c) && c->core->tvm->t2_heat && b->t1 && !tr->t2 &&
           tr->t2_tried < MAX_TRIED;
}

static bool is_hot(struct t0_cpu *c, struct t0_block *b)
{
    struct t2_core *t2 = core_of(c);
    uint32_t heat = c->core->tvm->t2_heat;
    bool sampled = t2->sampled;
    t2->sampled = false;
    if (heat) {
        if (!may_be_in(c, b) || !t2_wants(c, b)) {
            return false;
        }
        struct t1_trans *tr = &c->core->t1->trans[b->t1];
        if (++tr->t2_samples < heat) {
            return false;
        }
        tr->t2_tried = MAX_TRIED;
        return true;
    }
    if (!sampled || !b->t1) {
        return false;
    }
    struct t1_trans *tr = &c->core->t1->trans[b->t1];
    unsigned node;
    struct t2_region *r = t2_region_at(c, b, &node);
    if (r && r->fails > T2_MAX_FAILS) {
        struct t1_trans *head = &c->core->t1->trans[r->node[0].b->t1];
        head->t2_plain = true;
        head->t2_tried = 0;
        t2_drop(c, r);
    }
    if (tr->t2 || tr->t2_tried == MAX_TRIED) {
        t2_thread_tell(c->core->tvm, false);
        return false;
    }
    t2_thread_tell(c->core->tvm, true);
    if (++tr->t2_samples < T2_SAMPLES) {
        return false;
    }
    tr->t2_samples = 0;
    tr->t2_tried++;
    return true;
}

bool t2_turn(struct t0_cpu *c, struct t0_block *b)
{
    struct t2_core *t2 = core_of(c);
    if (t1_kept_out(c)) {
        return false;
    }
    if (t2->recording) {
        if (!add(c, b)) {
            finish(c);
            c->core->t2_look = c->core->tvm->t2_heat;
            return false;
        }
    } else {
        c->core->t2_look = c->core->tvm->t2_heat;
        if (!is_hot(c, b)) {
            return false;
        }
        c->core->t2_look = true;
        begin(c, b);
        if (!add(c, b)) {
            t2->recording = false;
            return false;
        }
    }
    execute(c, b);
    t2->expect = c->s.rip;
    return true;
}

void t2_sample(struct t0_cpu *c)
{
    if (c->core->t1 && c->core->t1->t2) {
        core_of(c)->sampled = c->core->t2_look = true;
    }
}

/* --- Life ---------------------------------------------------------------------- */

void t2_init(struct t0_cpu *c)
{
    struct t2_core *t2 = c->core->t1->t2 = g_new0(struct t2_core, 1);
    t2->regions = g_ptr_array_new_with_free_func(g_free);
    t2->rec = g_malloc0(t2_region_bytes(T2_MAX_NODES));
    c->core->t2_look = c->core->tvm->t2_heat;
}

void t2_done(struct t0_cpu *c)
{
    struct t2_core *t2 = core_of(c);
    if (t2) {
        g_ptr_array_unref(t2->regions);
        g_free(t2->rec);
        g_free(t2);
    }
}

void t2_flush(struct t0_cpu *c)
{
    struct t2_core *t2 = core_of(c);
    if (t2) {
        g_ptr_array_set_size(t2->regions, 0);
        t2->recording = false;
        c->core->t2_look = c->core->tvm->t2_heat;
    }
}

void t2_dump(const struct t0_cpu *c, FILE *out)
{
    const struct t2_core *t2 = core_of(c);
    if (t2) {
        fprintf(out,
                "bt: %" PRIu64 " loops recorded, %" PRIu64
                " regions translated, %" PRIu64 " dropped\n",
                t2->nb_recorded, t2->nb_built, t2->nb_killed);
    }
}
