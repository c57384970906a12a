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

/* XMM12, 13 and 14, 15, in 32-bit code 4, 5 and 6, 7, have indices of 4 and 8 bytes for
 * gathers. */
static void set_indices(struct fz_rng *r, unsigned first, uint8_t *xsave)
{
    for (unsigned n = first; n < first + 4; n++) {
        unsigned step = n < first + 2 ? 4 : 8;
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

    bool in_64 = g->k->bits == 64;
    unsigned nb = g->nb_regs = in_64 ? 16 : 8;
    g->loop_reg = -1;
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < nb; i++) {
        s->gpr[i] = in_64 ? fz_value(r) : (uint32_t)fz_value(r);
    }
    g->keep = 1u << X86_RSP;
    for (unsigned n = 0; n < 4; n++) {
        unsigned reg = fz_below(r, nb);
        s->gpr[reg] = pointer(r);
        if (n == 0 && in_64) { /* for 32-bit addresses */
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
                (fz_chance(r, 15) ? X86_FL_DF : 0) | (fz_chance(r, 3) ? X86_FL_AC : 0);
    s->seg[X86_CS] = in_64 ? 0x33 : 0x23;
    s->seg[X86_SS] = 0x2b;
    if (!in_64) {
        s->seg[X86_DS] = s->seg[X86_ES] = 0x2b;
        s->seg[X86_FS] = FZ_FS_SEL;
        s->seg[X86_GS] = FZ_GS_SEL;
    }
    s->fs_base = g->fs = in_64 ? FZ_FS_BASE : FZ_FS32_BASE;
    s->gs_base = g->gs = in_64 ? FZ_GS_BASE : FZ_GS32_BASE;
    g->fs_known = g->gs_known = true;
    fz_fill_xsave(r, s->xsave);
    set_indices(r, in_64 ? 12 : 4, s->xsave);

    memcpy(g->val, s->gpr, sizeof(g->val));
    g->known = in_64 ? 0xffff : 0xff;
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

/* A form, and often one of its cells. */
static unsigned any_form(struct fz_gen *g, uint32_t *ret_cell)
{
    const struct fz_forms *f = g->forms;
    const struct fz_range *r = fz_range_of(f, g->k->bits);
    for (;;) {
        unsigned form;
        *ret_cell = FZ_NO_CELL;
        if (fz_chance(&g->r, 30)) {
            form = f->plain[r->first_plain + fz_below(&g->r, r->nb_plain)];
        } else {
            *ret_cell = r->first_cell + fz_below(&g->r, r->nb_cells);
            form = f->cell[*ret_cell];
        }
        const struct x86_desc *row = x86_desc_get(f->form[form].row);
        if (f->form[form].skip == FZ_RUN &&
            !(g->no_stack && (row->props & X86_D_STACK))) {
            return form;
        }
    }
}

void fz_any_item(struct fz_gen *g)
{
    for (unsigned tries = 0; tries < 4; tries++) {
        uint32_t cell;
        unsigned form = any_form(g, &cell);
        if (fz_item(g, form, cell)) {
            return;
        }
    }
}

/* One item after the other. */
static void row_of_items(struct fz_gen *g, unsigned subject, uint32_t cell)
{
    struct fz_case *k = g->k;
    bool last = g->forms->form[subject].skip != FZ_RUN;
    unsigned where = last ? k->nb_items - 1 : fz_below(&g->r, MIN(k->nb_items, 3u));
    for (g->item = 0; g->item < k->nb_items; g->item++) {
        join(g);
        if (g->item != where || !fz_item(g, subject, cell)) {
            fz_any_item(g);
        }
    }
}

void fz_generate(const struct fz_forms *forms, const struct fz_mem *base, uint64_t seed,
                 uint64_t number, unsigned max_items, struct fz_case *k)
{
    struct fz_gen g = {.forms = forms, .base = base, .k = k};
    k->bits = fz_bits_of(number);
    const struct fz_range *range = fz_range_of(forms, k->bits);
    uint32_t cell = range->subject[number / 2 % range->nb_subjects];
    unsigned subject = forms->cell[cell];

    fz_seed(&g.r, seed, number);
    k->seed = seed;
    k->number = number;
    k->nb_insns = k->nb_patches = k->nb_big = 0;
    k->ignored = 0;
    k->shape = 0;
    k->nb_items = 1 + fz_below(&g.r, MIN(max_items, FZ_MAX_ITEMS));
    set_registers(&g);
    if (max_items > 1 && forms->form[subject].skip == FZ_RUN && fz_chance(&g.r, 25)) {
        fz_structure(&g, subject, cell);
    } else {
        row_of_items(&g, subject, cell);
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
    case FZ_FIX_ADDR: v = item_address(k, in->target) + in->delta; break;
    case FZ_FIX_CODE:
        v = item_address(k, in->target) + in->delta - (k->bits == 64 ? next : 0);
        break;
    default: return;
    }
    if (in->fix_size == 1 && (int64_t)v != (int8_t)v) {
        v = 0;
    }
    le_put(in->bytes + in->fix_at, v, in->fix_size);
    x86_decode(&in->insn, in->bytes, in->insn.len, k->bits);
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
        uint64_t exit = k->bits == 64 ? FZ_EXIT : FZ_EXIT32;
        le32_put(k->mem.code + off + 1, (uint32_t)(exit - FZ_CODE - off - 5));
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
