#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* A case: its registers, its items, and where its code goes. */

enum { PLACE_FRONT, PLACE_CROSSING, PLACE_EDGE };

static uint64_t pointer(struct fz_rng *r)
{
    return FZ_DATA + 128 + fz_below(r, FZ_DATA_RW - 256);
}

/* XMM12, 13 and 14, 15 have indices of 4 and 8 bytes for gathers. */
static void set_indices(struct fz_rng *r, uint8_t *xsave)
{
    for (unsigned n = 12; n < 16; n++) {
        unsigned step = n < 14 ? 4 : 8;
        for (unsigned i = 0; i < 16; i += step) {
            for (unsigned half = 0; half < 2; half++) {
                int64_t v = (int64_t)fz_below(r, 64) - 32;
                v = fz_chance(r, 97) ? v : (int64_t)fz_value(r);
                le_put(xsave + (half ? FZ_YMM : FZ_XMM) + 16 * n + i, (uint64_t)v,
                       step);
            }
        }
    }
}

static void set_registers(struct fz_gen *g)
{
    struct fz_rng *r = &g->r;
    struct fz_state *s = &g->k->from;

    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++) {
        s->gpr[i] = fz_value(r);
    }
    g->keep = 1u << X86_RSP;
    for (unsigned n = 0; n < 4; n++) {
        unsigned reg = fz_below(r, 16);
        s->gpr[reg] = pointer(r);
        if (n == 0) { /* for 32-bit addresses */
            s->gpr[reg] |= fz_chance(r, 20) ? fz_rnd(r) << 32 : 0;
        }
        g->keep |= (uint16_t)(1u << reg);
    }
    s->gpr[X86_RSP] = FZ_STACK + 1024 + fz_below(r, 2048);
    if (fz_chance(r, 90)) {
        s->gpr[X86_RSP] &= ~UINT64_C(7);
    }
    if (fz_chance(r, 30)) {
        s->gpr[X86_RCX] = fz_below(r, 70);
    }
    s->rflags = (fz_rnd(r) & X86_FL_ARITH) | X86_FL_R1 | X86_FL_IF |
                (fz_chance(r, 15) ? X86_FL_DF : 0);
    s->fs_base = FZ_FS_BASE;
    s->gs_base = FZ_GS_BASE;
    s->seg[X86_CS] = 0x33;
    s->seg[X86_SS] = 0x2b;
    fz_fill_xsave(r, s->xsave);
    set_indices(r, s->xsave);

    memcpy(g->val, s->gpr, sizeof(g->val));
    g->known = 0xffff;
    g->fs = FZ_FS_BASE;
    g->gs = FZ_GS_BASE;
    g->fs_known = g->gs_known = true;
}

/* Branches meet here: only what is the same on all ways is known. */
static void join(struct fz_gen *g)
{
    for (unsigned j = 0; j < g->nb_joins; j++) {
        if (g->join[j].to != g->item) {
            continue;
        }
        for (unsigned i = 0; i < 16; i++) {
            if (!(g->join[j].known >> i & 1) ||
                (g->join[j].val[i] != g->val[i] && i != X86_RSP)) {
                g->known &= (uint16_t) ~(1u << i);
            }
        }
    }
}

static unsigned any_form(struct fz_gen *g)
{
    const struct fz_forms *f = g->forms;
    for (;;) {
        unsigned form = fz_chance(&g->r, 45) ? f->plain[fz_below(&g->r, f->nb_plain)]
                                             : fz_below(&g->r, f->nb_run);
        if (f->form[form].skip == FZ_RUN) {
            return form;
        }
    }
}

void fz_generate(const struct fz_forms *forms, const struct fz_mem *base, uint64_t seed,
                 uint64_t number, unsigned max_items, struct fz_case *k)
{
    struct fz_gen g = {.forms = forms, .base = base, .k = k};
    unsigned subject = (unsigned)(number % forms->nb_run);
    bool last = forms->form[subject].skip != FZ_RUN;

    fz_seed(&g.r, seed, number);
    k->seed = seed;
    k->number = number;
    k->nb_insns = k->nb_patches = k->nb_big = 0;
    k->ignored = 0;
    k->nb_items = 1 + fz_below(&g.r, MIN(max_items, FZ_MAX_ITEMS));
    set_registers(&g);

    unsigned where = last ? k->nb_items - 1 : fz_below(&g.r, MIN(k->nb_items, 3u));
    for (g.item = 0; g.item < k->nb_items; g.item++) {
        join(&g);
        bool made = fz_item(&g, g.item == where ? subject : any_form(&g));
        for (unsigned tries = 0; !made && tries < 4; tries++) {
            made = fz_item(&g, any_form(&g));
        }
    }
    if (!k->nb_insns) {
        fz_emit(&g, (const uint8_t[]){0x90}, 1);
    }
    unsigned how = fz_below(&g.r, 100);
    k->place = how < 88 ? PLACE_FRONT : how < 97 ? PLACE_CROSSING : PLACE_EDGE;
    k->start_off = fz_below(&g.r, 64); /* of the front, until it is laid out */
    fz_layout(base, k);
}

/* --- Layout ---------------------------------------------------------------- */

static uint64_t item_address(const struct fz_case *k, unsigned item)
{
    for (unsigned i = 0; i < k->nb_insns; i++) {
        if (k->insn[i].item >= item && !k->insn[i].dropped) {
            return FZ_CODE + k->insn[i].off;
        }
    }
    return FZ_CODE + k->end_off;
}

static void resolve(const struct fz_case *k, struct fz_insn *in)
{
    uint64_t next = FZ_CODE + in->off + in->insn.len;
    uint64_t v = 0;
    switch (in->fix) {
    case FZ_FIX_RIP: v = in->target_la - next; break;
    case FZ_FIX_BRANCH: v = item_address(k, in->target) - next; break;
    case FZ_FIX_ADDR: v = item_address(k, in->target); break;
    default: return;
    }
    if (in->fix_size == 1 && (int64_t)v != (int8_t)v) {
        v = 0;
    }
    le_put(in->bytes + in->fix_at, v, in->fix_size);
    x86_decode(&in->insn, in->bytes, in->insn.len, 64);
}

static uint32_t total_length(const struct fz_case *k)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < k->nb_insns; i++) {
        n += k->insn[i].dropped ? 0 : k->insn[i].insn.len;
    }
    return n;
}

static uint32_t choose_start(const struct fz_case *k, uint32_t len)
{
    uint32_t front = k->start_off & 63;
    switch (k->place) {
    case PLACE_CROSSING: return FZ_PAGE - (front * len / 64 + 1);
    /* The last bytes of the sequence are there, its end is not. */
    case PLACE_EDGE: return 2 * FZ_PAGE - len + front % 8;
    default: return front;
    }
}

static uint8_t *patch_place(struct fz_mem *m, const struct fz_patch *p)
{
    return m->data + (p->la - FZ_DATA);
}

bool fz_layout(const struct fz_mem *base, struct fz_case *k)
{
    uint32_t len = total_length(k);
    uint32_t off = choose_start(k, len), start = off;
    for (unsigned i = 0; i < k->nb_insns; i++) {
        k->insn[i].off = off;
        off += k->insn[i].dropped ? 0 : k->insn[i].insn.len;
    }
    k->end_off = off;
    memcpy(&k->mem, base, sizeof(k->mem));
    for (unsigned i = 0; i < k->nb_insns; i++) {
        struct fz_insn *in = &k->insn[i];
        if (!in->dropped) {
            resolve(k, in);
            for (unsigned n = 0; n < in->insn.len && in->off + n < 2 * FZ_PAGE; n++) {
                k->mem.code[in->off + n] = in->bytes[n];
            }
        }
    }
    if (off + 5 <= 2 * FZ_PAGE) { /* JMP to the end */
        k->mem.code[off] = 0xe9;
        le32_put(k->mem.code + off + 1, (uint32_t)(FZ_EXIT - FZ_CODE - off - 5));
    }
    for (unsigned i = 0; i < k->nb_patches; i++) {
        struct fz_patch *p = &k->patch[i];
        if (p->has_target) {
            le_put(p->bytes, item_address(k, p->target), p->has_target);
        }
        memcpy(patch_place(&k->mem, p), p->big ? p->big : p->bytes, p->len);
    }
    k->from.rip = FZ_CODE + start;
    return true;
}
