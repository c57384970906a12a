#include "tests/insn_fuzz/fuzz.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <glib.h>
#include <jansson.h>

#include "lib/base/base.h"
#include "lib/isa/x86/opspec.h"

/*
 * What a form consists of. Its variants are the encodings among 66h or not, W or not
 * and L or not that mean another operand size (or another W or L, with VEX); which
 * ones there are the decoder says. A variant's key is
 *
 *     log2 of the operand size | W << 2 | L << 3
 *
 * under the form's key_mask. Aspects are counted each by itself, and so is each
 * condition of Jcc, SETcc and CMOVcc and each register of the x87 stack.
 */

enum { KEY_SIZE = 3, KEY_W = 4, KEY_L = 8 };

static unsigned full_key(const struct x86_insn *i)
{
    unsigned log = i->opsize ? (unsigned)__builtin_ctz(i->opsize) : 0;
    return (log & KEY_SIZE) | (i->prefixes & X86_P_W ? KEY_W : 0) |
           (i->prefixes & X86_P_L ? KEY_L : 0);
}

static bool has_enc(const struct x86_desc *row, unsigned enc)
{
    for (unsigned i = 0; i < row->nb_opnds; i++) {
        if (row->opnd[i].enc == enc) {
            return true;
        }
    }
    return false;
}

/* --- Cells ----------------------------------------------------------------- */

static bool same_sizes(const struct x86_insn *a, const struct x86_insn *b)
{
    for (unsigned i = 0; i < a->nb_opnds; i++) {
        if (a->opnd[i].size != b->opnd[i].size) {
            return false;
        }
    }
    return true;
}

/* The operand size counts though no operand has it: what is implicit does. */
static bool has_implicit_size(const struct x86_desc *row)
{
    return row->cls == X86_CLASS_INT || row->cls == X86_CLASS_STRING ||
           row->cls == X86_CLASS_BRANCH || (row->props & X86_D_IMPL_MEM);
}

static void find_variants(struct fz_form *f)
{
    const struct x86_desc *row = x86_desc_get(f->row);
    struct x86_insn insn[8];
    unsigned nb = 0;
    for (unsigned n = 0; n < 8; n++) {
        nb += fz_encode_template(f, n & 1, n & 2, n & 4, &insn[nb]);
    }
    bool vex = row->map >= X86_MAP_VEX1;
    for (unsigned n = 1; n < nb; n++) {
        unsigned differs = full_key(&insn[n]) ^ full_key(&insn[0]);
        f->key_mask |= vex ? differs & (KEY_W | KEY_L) : 0;
        if (!vex && (has_implicit_size(row) || !same_sizes(&insn[n], &insn[0]))) {
            f->key_mask |= differs & KEY_SIZE ? KEY_SIZE : 0;
        }
    }
    for (unsigned n = 0; n < nb; n++) {
        uint8_t key = full_key(&insn[n]) & f->key_mask;
        if (!memchr(f->variant, key, f->nb_variants)) {
            f->variant[f->nb_variants++] = key;
        }
    }
}

/* Whether one of the operands is a register that REX may extend. */
static bool extends(const struct fz_form *f, const struct x86_desc *row)
{
    static const uint8_t encs[] = {X86_ENC_E, X86_ENC_R, X86_ENC_G,
                                   X86_ENC_B, X86_ENC_Z, X86_ENC_V,
                                   X86_ENC_W, X86_ENC_U, X86_ENC_H};
    for (unsigned i = 0; i < ARRAY_LEN(encs); i++) {
        if (has_enc(row, encs[i])) {
            return (row->allow & X86_A_B1) || encs[i] == X86_ENC_G ||
                   encs[i] == X86_ENC_V || f->has_mem;
        }
    }
    return f->has_mem;
}

static bool has_byte_register(const struct fz_form *f, const struct x86_desc *row)
{
    for (unsigned i = 0; i < row->nb_opnds; i++) {
        unsigned enc = row->opnd[i].enc;
        bool reg = enc == X86_ENC_G || enc == X86_ENC_Z || enc == X86_ENC_R ||
                   (enc == X86_ENC_E && !f->has_mem);
        if (reg && row->opnd[i].width == X86_WIDTH_b) {
            return true;
        }
    }
    return false;
}

static uint32_t implicit_memory_aspects(const struct x86_desc *row)
{
    bool has_seg = has_enc(row, X86_ENC_X) || has_enc(row, X86_ENC_O) ||
                   row->op == X86_OP_XLAT || row->op == X86_OP_MASKMOVQ ||
                   row->op == X86_OP_MASKMOVDQU || row->op == X86_OP_VMASKMOVDQU;
    bool address = has_seg || has_enc(row, X86_ENC_Y) || row->op == X86_OP_CLZERO;
    return (has_seg ? FZ_A_FS | FZ_A_GS : 0u) | (address ? FZ_A_AD : 0u);
}

/* MOV to and from CR and DR ignore ModRM.mod. */
static bool has_memory_operand(const struct fz_form *f)
{
    struct x86_insn insn;
    for (unsigned n = 0; n < 8; n++) {
        if (fz_encode_template(f, n & 1, n & 2, n & 4, &insn)) {
            return x86_insn_mem(&insn);
        }
    }
    return false;
}

static uint32_t find_aspects(const struct fz_form *f)
{
    const struct x86_desc *row = x86_desc_get(f->row);
    uint32_t a = implicit_memory_aspects(row);
    bool vsib = row->props & (X86_D_VSIB | X86_D_VSIB_HALF);
    bool vex = row->map >= X86_MAP_VEX1;
    if (f->has_mem && has_memory_operand(f)) {
        a |= FZ_A_AD | FZ_A_FS | FZ_A_GS | (vsib ? 0 : FZ_A_DISP | FZ_A_SIB);
        a |= (row->props & X86_D_LOCK) && (row->allow & X86_A_NOLOCK) ? FZ_A_LOCK : 0u;
    }
    if (row->cls == X86_CLASS_STRING) {
        a |= FZ_A_REP | FZ_A_REPNE;
    }
    if (!vex && has_byte_register(f, row)) {
        a |= FZ_A_HIGH | (f->bits == 64 ? FZ_A_LOW : 0u);
    }
    if (f->bits == 64 && extends(f, row)) {
        a |= FZ_A_EXT;
    }
    if (f->bits == 32 && vsib) {
        a &= ~(uint32_t)FZ_A_AD; /* 16-bit addresses have no VSIB */
    }
    return a;
}

static unsigned nb_cells(const struct fz_form *f)
{
    return f->nb_variants + (unsigned)__builtin_popcount(f->aspects) + f->nb_index;
}

/* Cell @n of @form: which of the three it is, and its number there. */
static unsigned split_cell(const struct fz_form *form, unsigned n, unsigned *ret)
{
    unsigned aspects = (unsigned)__builtin_popcount(form->aspects);
    if (n < form->nb_variants) {
        *ret = n;
        return 0;
    }
    n -= form->nb_variants;
    if (n >= aspects) {
        *ret = n - aspects;
        return 2;
    }
    uint32_t left = form->aspects;
    while (n--) {
        left &= left - 1;
    }
    *ret = (unsigned)__builtin_ctz(left);
    return 1;
}

/* How often a cell is the subject, for one that is easily met. */
static unsigned weight(const struct fz_form *form, unsigned cell)
{
    unsigned at, kind = split_cell(form, cell - form->cell, &at);
    bool other_address = kind == 1 && at == FZ_ASPECT_NR_AD;
    return form->skip != FZ_RUN                ? 4
           : other_address && form->bits == 32 ? 4
           : kind                              ? 2
                                               : 1;
}

/* In turns, so that the same cell does not come twice in a row. */
static void find_subjects(const struct fz_forms *f, struct fz_range *r)
{
    r->subject = g_new(uint32_t, r->nb_cells * 4);
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned c = r->first_cell; c < r->first_cell + r->nb_cells; c++) {
            if (turn < weight(&f->form[f->cell[c]], c)) {
                r->subject[r->nb_subjects++] = c;
            }
        }
    }
}

void fz_cells_init(struct fz_forms *f)
{
    for (unsigned i = 0; i < f->nb; i++) {
        struct fz_form *form = &f->form[i];
        const struct x86_desc *row = x86_desc_get(form->row);
        form->cell = f->nb_cells;
        find_variants(form);
        form->aspects = find_aspects(form);
        form->nb_index = row->nb_opcode == 16                          ? 16
                         : has_enc(row, X86_ENC_STI) && !form->has_mem ? 8
                                                                       : 0;
        f->nb_cells += nb_cells(form);
    }
    f->cell = g_new(uint16_t, f->nb_cells);
    for (unsigned i = 0; i < f->nb; i++) {
        for (unsigned n = 0; n < nb_cells(&f->form[i]); n++) {
            f->cell[f->form[i].cell + n] = (uint16_t)i;
        }
    }
    for (unsigned n = 0; n < ARRAY_LEN(f->range); n++) {
        struct fz_range *r = &f->range[n];
        const struct fz_form *last = &f->form[r->first + r->nb_run - 1];
        r->first_cell = f->form[r->first].cell;
        r->nb_cells = last->cell + nb_cells(last) - r->first_cell;
        find_subjects(f, r);
    }
}

void fz_wish_cell(const struct fz_form *form, unsigned cell, struct fz_wish *w)
{
    unsigned n, kind = split_cell(form, cell - form->cell, &n);
    w->directed = true;
    w->key = kind == 0 ? form->variant[n] : -1;
    w->aspect = kind == 1 ? 1u << n : 0;
    w->index = kind == 2 ? (int)n : -1;
}

/* --- What an instruction is ------------------------------------------------ */

static bool is_extended(const struct x86_opnd *o)
{
    switch (o->kind) {
    case X86_OPND_REG: return o->reg >= 8 && o->reg < 16;
    case X86_OPND_XMM:
    case X86_OPND_YMM: return o->reg >= 8;
    default: return false;
    }
}

static uint32_t register_aspects(const struct x86_insn *i)
{
    uint32_t a = 0;
    for (unsigned n = 0; n < i->nb_opnds; n++) {
        const struct x86_opnd *o = &i->opnd[n];
        bool byte = o->kind == X86_OPND_REG && o->size == 1;
        a |= is_extended(o) ? FZ_A_EXT : 0u;
        a |= o->kind == X86_OPND_REG && o->reg >= X86_REG_HIGH ? FZ_A_HIGH : 0u;
        a |= byte && o->reg >= 4 && o->reg < 16 ? FZ_A_LOW : 0u;
    }
    return a;
}

static uint32_t aspects_of(const struct x86_insn *i)
{
    uint32_t a = register_aspects(i);
    unsigned p = i->prefixes;
    a |= p & X86_P_ADSIZE ? FZ_A_AD : 0u;
    if (p & X86_P_SEG) {
        a |= i->seg == X86_FS ? FZ_A_FS : i->seg == X86_GS ? FZ_A_GS : 0u;
    }
    a |= p & X86_P_LOCK ? FZ_A_LOCK : 0u;
    a |= p & X86_P_REP ? FZ_A_REP : p & X86_P_REPNE ? FZ_A_REPNE : 0u;
    if (x86_insn_mem(i)) {
        bool no_base = i->base >= 16, no_index = i->index >= 16;
        a |= no_base && no_index ? FZ_A_DISP : 0u;
        a |= !no_base && !no_index ? FZ_A_SIB : 0u;
        a |= (i->base >= 8 && !no_base) || (i->index >= 8 && !no_index) ? FZ_A_EXT : 0u;
    }
    return a;
}

static int index_of(const struct fz_form *form, const struct x86_insn *i)
{
    if (form->nb_index == 16) {
        return i->cc;
    }
    for (unsigned n = i->nb_opnds; n-- > 0;) {
        if (x86_desc_get(form->row)->opnd[n].enc == X86_ENC_STI) {
            return i->opnd[n].reg & 7;
        }
    }
    return -1;
}

bool fz_wish_met(const struct fz_form *form, const struct fz_wish *w,
                 const struct x86_insn *i)
{
    return !w->directed ||
           ((w->key < 0 || (full_key(i) & form->key_mask) == (unsigned)w->key) &&
            (!w->aspect || aspects_of(i) & w->aspect) &&
            (w->index < 0 || index_of(form, i) == w->index));
}

/* --- Counting -------------------------------------------------------------- */

size_t fz_counts_size(const struct fz_forms *f)
{
    return ALIGN_UP(sizeof(struct fz_counts) + f->nb_cells * sizeof(uint32_t), 64);
}

void fz_counts_add(const struct fz_forms *f, struct fz_counts *sum,
                   const struct fz_counts *more)
{
    for (unsigned v = 0; v < 32; v++) {
        sum->vector[0][v] += more->vector[0][v];
        sum->vector[1][v] += more->vector[1][v];
    }
    for (unsigned i = 0; i < FZ_NB_FAULTS; i++) {
        sum->fault[i] += more->fault[i];
    }
    sum->loops += more->loops;
    sum->calls += more->calls;
    sum->changes += more->changes;
    for (unsigned i = 0; i < f->nb; i++) {
        sum->form[i].completed += more->form[i].completed;
        sum->form[i].faulted += more->form[i].faulted;
    }
    for (unsigned i = 0; i < f->nb_cells; i++) {
        sum->cell[i] += more->cell[i];
    }
}

static void count_cells(const struct fz_forms *f, unsigned n, const struct x86_insn *i,
                        struct fz_counts *c)
{
    const struct fz_form *form = &f->form[n];
    const uint8_t *v =
        memchr(form->variant, full_key(i) & form->key_mask, form->nb_variants);
    uint32_t cell = form->cell;
    if (v) {
        c->cell[cell + (size_t)(v - form->variant)]++;
    }
    cell += form->nb_variants;
    uint32_t has = aspects_of(i);
    for (uint32_t left = form->aspects; left; left &= left - 1, cell++) {
        c->cell[cell] += (has & left & -left) != 0;
    }
    int index = form->nb_index ? index_of(form, i) : -1;
    if (index >= 0) {
        c->cell[cell + (unsigned)index]++;
    }
}

static bool is_masked_move(unsigned op)
{
    switch (op) {
    case X86_OP_MASKMOVQ:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
    case X86_OP_VMASKMOVPS:
    case X86_OP_VMASKMOVPD:
    case X86_OP_VPMASKMOVD:
    case X86_OP_VPMASKMOVQ: return true;
    default: return false;
    }
}

static void count_pf(const struct fz_insn *in, const struct fz_state *s,
                     struct fz_counts *c)
{
    const struct x86_insn *i = &in->insn;
    const struct x86_desc *row = x86_insn_desc(i);
    const struct x86_opnd *m = x86_insn_mem(i);
    bool vsib = row->props & (X86_D_VSIB | X86_D_VSIB_HALF);
    if (s->error & X86_PF_I) {
        c->fault[FZ_FAULT_FETCH] += (s->cr2 ^ s->rip) >= FZ_PAGE;
        return;
    }
    c->fault[FZ_FAULT_SECOND] +=
        m && m->size > 1 && in->mem_la < s->cr2 && s->cr2 < in->mem_la + m->size;
    c->fault[FZ_FAULT_READONLY] += s->error == (X86_PF_P | X86_PF_W | X86_PF_U);
    c->fault[FZ_FAULT_REP] +=
        in->count && s->gpr[X86_RCX] && (uint32_t)s->gpr[X86_RCX] < (uint32_t)in->count;
    c->fault[FZ_FAULT_GATHER] += vsib;
    c->fault[FZ_FAULT_MASKED] += is_masked_move(row->op);
    c->fault[FZ_FAULT_AREA] += m && (m->size == 0 || m->size > 32) && !vsib;
}

static void count_protection(const struct fz_insn *in, const struct fz_state *s,
                             unsigned bits, struct fz_counts *c)
{
    const struct x86_desc *row = x86_insn_desc(&in->insn);
    const struct x86_opnd *m = x86_insn_mem(&in->insn);
    bool aligns = m && (row->props & (X86_D_ALIGN | X86_D_SSEMEM));
    bool user = row->priv == X86_PRIV_ANY;
    c->fault[FZ_FAULT_SELECTOR] += s->error != 0;
    if (s->error || !m || !user) {
        return;
    }
    bool canonical = (uint64_t)((int64_t)(in->mem_la << 16) >> 16) == in->mem_la;
    if (aligns && s->vector == X86_EXC_GP && m->size && in->mem_la & (m->size - 1u)) {
        c->fault[FZ_FAULT_ALIGN]++;
    } else if (bits == 64) {
        c->fault[FZ_FAULT_CANON] += canonical || in->insn.index < 16;
    } else {
        c->fault[FZ_FAULT_LIMIT]++;
    }
}

static void count_fault(const struct fz_case *k, const struct fz_insn *in, unsigned at,
                        const struct fz_state *s, struct fz_counts *c)
{
    const struct x86_desc *row = x86_insn_desc(&in->insn);
    c->fault[FZ_FAULT_MIDDLE] += at > 0;
    switch (s->vector) {
    case X86_EXC_DE: c->fault[FZ_FAULT_DIVIDE]++; break;
    case X86_EXC_OF: c->fault[FZ_FAULT_OVERFLOW]++; break;
    case X86_EXC_BR: c->fault[FZ_FAULT_BOUND]++; break;
    case X86_EXC_PF: count_pf(in, s, c); break;
    case X86_EXC_NP:
    case X86_EXC_SS:
    case X86_EXC_GP: count_protection(in, s, k->bits, c); break;
    case X86_EXC_AC: c->fault[FZ_FAULT_AC]++; break;
    case X86_EXC_MF:
        c->fault[row->cls == X86_CLASS_X87 ? FZ_FAULT_MF_X87 : FZ_FAULT_MF_MMX]++;
        break;
    case X86_EXC_XM:
        c->fault[row->cls == X86_CLASS_AVX ? FZ_FAULT_XM_AVX : FZ_FAULT_XM_SSE]++;
        break;
    default: break;
    }
}

/* The item that @in may go to, 0 when it goes nowhere else but back. */
static unsigned may_skip_to(const struct fz_insn *in)
{
    if (x86_insn_desc(&in->insn)->cls != X86_CLASS_BRANCH) {
        return 0;
    }
    if (in->fix == FZ_FIX_BRANCH) {
        return in->target > in->item ? in->target : 0;
    }
    return in->item + 4u;
}

/* It leads to the first 64 KiB, where nothing is. */
static bool is_branch16(const struct fz_insn *in)
{
    return x86_insn_desc(&in->insn)->cls == X86_CLASS_BRANCH && in->insn.opsize == 2;
}

/*
 * What was certainly executed: not what a branch before it may have skipped, and
 * nothing behind a fault.
 */
void fz_count(const struct fz_forms *f, const struct fz_case *k,
              const struct fz_state *s, struct fz_counts *c)
{
    int fault = s->end == FZ_END_FAULT ? fz_insn_at(k, s->rip) : -1;
    unsigned skipped_to = 0;
    c->loops += k->shape & 1;
    c->calls += k->shape >> 1 & 1;
    c->changes += k->shape >> 2 & 1;
    if (s->end == FZ_END_FAULT) {
        c->vector[k->bits == 32][s->vector & 31]++;
        c->fault[FZ_FAULT_STEP] += s->vector == X86_EXC_DB;
    }
    bool away = s->end == FZ_END_FAULT && fault < 0;
    if (away && !(s->vector == X86_EXC_PF && s->rip <= UINT16_MAX)) {
        return; /* somewhere else */
    }
    for (unsigned i = 0; i < k->nb_insns && (fault < 0 || (int)i <= fault); i++) {
        const struct fz_insn *in = &k->insn[i];
        if (away && is_branch16(in) && in->item < skipped_to) {
            return; /* this one or another */
        }
        if ((int)i == fault) {
            count_fault(k, in, i, s, c);
        }
        if (in->form != FZ_NO_FORM && (in->item >= skipped_to || (int)i == fault)) {
            if ((int)i == fault) {
                c->form[in->form].faulted++;
            } else {
                c->form[in->form].completed++;
            }
            count_cells(f, in->form, &in->insn, c);
        }
        if (away && is_branch16(in)) {
            return;
        }
        skipped_to = MAX(skipped_to, may_skip_to(in));
    }
}

uint32_t fz_counts_least(const struct fz_forms *f, const struct fz_counts *c)
{
    uint32_t least = UINT32_MAX;
    for (unsigned n = 0; n < ARRAY_LEN(f->range); n++) {
        const struct fz_range *r = &f->range[n];
        for (unsigned i = 0; i < r->nb_cells; i++) {
            least = MIN(least, c->cell[r->first_cell + i]);
        }
    }
    return least;
}

/* --- Telling --------------------------------------------------------------- */

static void key_name(const struct fz_form *form, unsigned key, char *buf, size_t n)
{
    g_snprintf(
        buf, n, "%s%s%s",
        form->key_mask & KEY_SIZE
            ? (const char *const[]){"8 bits", "16 bits", "32 bits", "64 bits"}[key & 3]
            : "",
        form->key_mask & KEY_W ? key & KEY_W ? "W1 " : "W0 " : "",
        form->key_mask & KEY_L ? key & KEY_L ? "L1" : "L0" : "");
}

static void cell_name(const struct fz_form *form, unsigned cell, char *buf, size_t n)
{
#define ASPECT_NAME(id, name) name,
    static const char *const aspects[] = {FZ_ASPECTS(ASPECT_NAME)};
    unsigned at, kind = split_cell(form, cell - form->cell, &at);
    if (kind == 0) {
        key_name(form, form->variant[at], buf, n);
    } else if (kind == 1) {
        g_strlcpy(buf, aspects[at], n);
    } else {
        g_snprintf(buf, n, form->nb_index == 16 ? "cc %x" : "st%x", at);
    }
}

#define FAULT_TEXT(id, text) text,
static const char *const fault_texts[] = {FZ_FAULTS(FAULT_TEXT)};

static const char *const vectors[32] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",   "#TS",
    "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};

static unsigned report_range(const struct fz_forms *f, const struct fz_counts *c,
                             const struct fz_range *r, unsigned target, FILE *out)
{
    unsigned below = 0;
    for (unsigned i = r->first_cell; i < r->first_cell + r->nb_cells; i++) {
        const struct fz_form *form = &f->form[f->cell[i]];
        if (c->cell[i] < target) {
            char name[96], cell[32];
            fz_form_name(form, name, sizeof(name));
            cell_name(form, i, cell, sizeof(cell));
            fprintf(out, "  %8u met  %u-bit  %-34s %s\n", c->cell[i], form->bits, name,
                    cell);
            below++;
        }
    }
    return below;
}

/* Forms of which @want tells a reason, by reason. */
static unsigned report_reasons(const struct fz_forms *f,
                               const char *(*want)(const struct fz_forms *, unsigned,
                                                   const struct fz_counts *),
                               const struct fz_counts *c, FILE *out)
{
    unsigned total = 0;
    g_autoptr(GHashTable) by =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, NULL);
    g_autoptr(GPtrArray) reasons = g_ptr_array_new();
    for (unsigned i = 0; i < f->nb; i++) {
        const char *why = want(f, i, c);
        if (why && g_hash_table_add(by, (void *)why)) {
            g_ptr_array_add(reasons, (void *)why);
        }
    }
    for (unsigned n = 0; n < reasons->len; n++) {
        fprintf(out, "  %s:\n   ", (const char *)reasons->pdata[n]);
        for (unsigned i = 0, column = 0; i < f->nb; i++) {
            const char *why = want(f, i, c);
            if (why && !strcmp(why, reasons->pdata[n])) {
                char name[96];
                fz_form_name(&f->form[i], name, sizeof(name));
                g_autofree char *text =
                    g_strdup_printf("%u: %s", f->form[i].bits, name);
                unsigned width = (unsigned)strlen(g_strchomp(text));
                if (column + width > 90) {
                    fprintf(out, "\n   ");
                    column = 0;
                }
                fprintf(out, " %s;", text);
                column += width + 2;
                total++;
            }
        }
        fprintf(out, "\n");
    }
    return total;
}

static const char *why_not_run(const struct fz_forms *f, unsigned i,
                               const struct fz_counts *c)
{
    (void)c;
    const struct fz_form *form = &f->form[i];
    return form->skip == FZ_RUN_NEVER ? form->reason : NULL;
}

static const char *why_always_faults(const struct fz_forms *f, unsigned i,
                                     const struct fz_counts *c)
{
    const struct fz_form *form = &f->form[i];
    if (form->skip == FZ_RUN_NEVER || c->form[i].completed || !c->form[i].faulted) {
        return NULL;
    }
    const char *why = fz_form_faults(form);
    return why ? why : "NO REASON IS KNOWN";
}

static void report_faults(const struct fz_counts *c, FILE *out)
{
    fprintf(out, "Faults:\n");
    for (unsigned i = 0; i < FZ_NB_FAULTS; i++) {
        fprintf(out, "  %10" PRIu64 "  %s\n", c->fault[i], fault_texts[i]);
    }
    for (unsigned n = 0; n < 2; n++) {
        fprintf(out, "  by vector, %s code:", n ? "32-bit" : "64-bit");
        for (unsigned v = 0; v < 32; v++) {
            if (c->vector[n][v]) {
                fprintf(out, " %s %" PRIu64, vectors[v] ? vectors[v] : "?",
                        c->vector[n][v]);
            }
        }
        fprintf(out, "\n");
    }
    fprintf(out,
            "Structures: %" PRIu64 " loops, %" PRIu64 " with functions, %" PRIu64
            " that change code\n",
            c->loops, c->calls, c->changes);
}

void fz_report(const struct fz_forms *f, const struct fz_counts *c, unsigned target,
               FILE *out)
{
    unsigned below = 0, run = 0, cells = 0;
    fprintf(out, "Met fewer than %u times:\n", target);
    for (unsigned n = 0; n < ARRAY_LEN(f->range); n++) {
        below += report_range(f, c, &f->range[n], target, out);
        run += f->range[n].nb_run;
        cells += f->range[n].nb_cells;
    }
    fprintf(out, "Always a fault, because:\n");
    unsigned always = report_reasons(f, why_always_faults, c, out);
    fprintf(out, "Never run, because:\n");
    unsigned never = report_reasons(f, why_not_run, c, out);
    report_faults(c, out);
    fprintf(out,
            "%u forms in %u cells run, %u cells below %u, the least %u times; %u forms "
            "always fault, %u are not run\n",
            run, cells, below, target, fz_counts_least(f, c), always, never);
}

static json_t *form_json(const struct fz_forms *f, unsigned n,
                         const struct fz_counts *c)
{
    const struct fz_form *form = &f->form[n];
    char name[96], cell[32];
    fz_form_name(form, name, sizeof(name));
    json_t *o =
        json_pack("{ss, si, sI, sI}", "form", g_strchomp(name), "bits", (int)form->bits,
                  "completed", (json_int_t)c->form[n].completed, "faulted",
                  (json_int_t)c->form[n].faulted);
    json_t *cells = json_object();
    for (unsigned i = 0; i < nb_cells(form); i++) {
        cell_name(form, form->cell + i, cell, sizeof(cell));
        json_object_set_new(cells, *cell ? g_strchomp(cell) : "plain",
                            json_integer(c->cell[form->cell + i]));
    }
    json_object_set_new(o, "met", cells);
    const char *why = why_not_run(f, n, c);
    if (why) {
        json_object_set_new(o, "not_run", json_string(why));
    } else if ((why = why_always_faults(f, n, c))) {
        json_object_set_new(o, "always_faults", json_string(why));
    } else if (form->reason) {
        json_object_set_new(o, "limited", json_string(form->reason));
    }
    return o;
}

bool fz_report_json(const struct fz_forms *f, const struct fz_counts *c,
                    const struct fz_run_facts *run, const char *path)
{
    json_t *forms = json_array(), *faults = json_object();
    for (unsigned i = 0; i < f->nb; i++) {
        json_array_append_new(forms, form_json(f, i, c));
    }
    for (unsigned i = 0; i < FZ_NB_FAULTS; i++) {
        json_object_set_new(faults, fault_texts[i],
                            json_integer((json_int_t)c->fault[i]));
    }
    json_t *o = json_pack(
        "{sI, si, sI, sI, sf, si, sI, s{sI, sI, sI}, so, so}", "seed",
        (json_int_t)run->seed, "tier", (int)run->tier, "sequences",
        (json_int_t)run->sequences, "not_comparable", (json_int_t)run->skipped,
        "seconds", run->seconds, "different", (int)run->different, "least",
        (json_int_t)fz_counts_least(f, c), "structures", "loops", (json_int_t)c->loops,
        "functions", (json_int_t)c->calls, "change_code", (json_int_t)c->changes,
        "faults", faults, "forms", forms);
    int e = json_dump_file(o, path, JSON_INDENT(1));
    json_decref(o);
    return e == 0;
}
