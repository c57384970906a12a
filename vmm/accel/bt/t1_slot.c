#include "vmm/accel/bt/t1_priv.h"

#include "lib/base/base.h"

/*
 * Slots: what an access needs to know of the page that it was in the last time. See
 * t1.h.
 *
 * Each place in a translation that accesses memory has one (struct t1_slot), and all
 * that go through the stack pointer share c->t1.stack. An access compares its address
 * with the slot's page; the addend, which is what a TLB is asked for, is loaded from
 * a constant place and does not wait for the address.
 *
 *     page    one comparison: pext takes the page's number and the bits that say
 *             whether the address is aligned, which makes its last byte's page the
 *             same one
 *     any     page numbers of both ends, whose sum is twice the slot's
 *     probe   no slot: the look in the TLB that t1_mem.c does
 *
 * A site begins as the first (vectors: as the second) and is refilled out of line,
 * which costs ten times what a slot saves. One that asks for it too often becomes the
 * second when its addresses are not aligned, and otherwise all of its block become the
 * third: a site that goes through objects is seldom alone. The hint is noted in the
 * block, which is translated anew. What is too often is a leaky bucket in the slot: a
 * refill pours in REFILL_COST instructions, each instruction executed lets one out. So
 * much that it does not matter how many sites ask: with a few thousand instructions for
 * each, a program of some thousand sites (perl) spent half of its time in refills.
 *
 * After a load of the stack pointer, and before POP of it, a block has slots of its
 * own: a kernel that comes from one stack, and goes back over another, would refill the
 * stack's copy at each system call, twice.
 *
 * A slot is a copy of a TLB entry and lives no longer: each that was filled is in a
 * list, by group (user code's, kernel code's that a load of CR3 drops or not) and by
 * the low bits of the page's number, so that forgetting costs what was filled. A TLB
 * entry from which one was filled says so (t0_tlb_entry.copied), and its list is
 * forgotten when the entry makes room for another page's. The stack's copy is forgotten
 * whenever anything is.
 *
 * What is compared has at most 57 bits and is compared by adding minus what is
 * expected: no address fits T1_SLOT_EMPTY.
 *
 * Kernel slots are only filled from the bank that kernel code normally has
 * (c->t1.kernel_bank): with SMAP what that bank allows is allowed with EFLAGS.AC set
 * too, but not the other way round.
 */

#define REFILL_COST      (1 << 20) /* instructions */
#define REFILL_LIMIT_LOG 23        /* log2 of instructions */

/* --- Forgetting ------------------------------------------------------------- */

static void forget_stack(struct t0_cpu *c)
{
    for (unsigned user = 0; user < 2; user++) {
        for (unsigned i = 0; i < T1_NB_SIZES; i++) {
            c->t1.stack[user].read[i] = c->t1.stack[user].write[i] = T1_SLOT_EMPTY;
        }
    }
}

static void forget_bucket(struct t1_bucket *b)
{
    for (uint64_t i = 0; i < b->nb; i++) {
        b->slot[i]->expected = T1_SLOT_EMPTY;
    }
    b->nb = 0;
}

static void forget_group(struct t0_cpu *c, unsigned group)
{
    for (unsigned i = 0; i < T1_BUCKETS; i++) {
        forget_bucket(&c->t1.filled[group][i]);
    }
}

/* For those who have found out something and have not used it yet. */
static void tell(struct t0_cpu *c)
{
    if (c->core->t1) {
        c->core->t1->forgets++;
    }
}

void t1_slots_forget(struct t0_cpu *c, bool global_too)
{
    tell(c);
    forget_stack(c);
    forget_group(c, T1_GROUP_USER);
    forget_group(c, T1_GROUP_LOCAL);
    if (global_too) {
        forget_group(c, T1_GROUP_GLOBAL);
    }
}

void t1_slots_forget_page(struct t0_cpu *c, uint64_t la)
{
    tell(c);
    forget_stack(c);
    for (unsigned group = 0; group < T1_NB_GROUPS; group++) {
        forget_bucket(&c->t1.filled[group][la >> 12 & (T1_BUCKETS - 1)]);
    }
}

void t1_slots_bank(struct t0_cpu *c)
{
    struct t0_tlb_entry *bank = c->banks[t0_bank_for(c, 0)];
    if (c->t1.kernel_bank != bank) {
        c->t1.kernel_bank = bank;
        t1_slots_forget(c, true);
    }
    /* 32-bit code reads a page above 4 GiB out of the upper half of RSP. */
    unsigned user = c->s.cpl == 3;
    if (c->t1.stack_64[user] != t0_is64(c)) {
        c->t1.stack_64[user] = t0_is64(c);
        forget_stack(c);
    }
}

void t1_slots_init(struct t0_cpu *c)
{
    const uint64_t off[2] = {UINT64_C(0xfff), UINT64_C(0x1fffff)};
    for (unsigned i = 0; i < T1_NB_SIZES; i++) {
        c->t1.low[i] = (1u << i) - 1;
        for (unsigned large = 0; large < 2; large++) {
            c->t1.outside[i][large] = ~(off[large] >> i << i);
        }
    }
    c->t1.bucket_mask = (uint64_t)(T1_BUCKETS - 1) * sizeof(struct t1_bucket);
    t1_slots_forget(c, true);
}

/* --- The check, in line ------------------------------------------------------ */

struct t1_mem t1_slot_field(const struct t1_ctx *t, uint32_t slot, size_t off)
{
    return (struct t1_mem){T1_RIP, T1_NO_REG, 0, (int32_t)(t->t1->size + slot + off)};
}

static struct t1_mem stack_field(const struct t1_ctx *t, size_t off)
{
    size_t user = t1_is_user(t->b->mode);
    return t1_field(offsetof(struct t0_cpu, t1.stack) + user * sizeof(struct t1_stack) +
                    off);
}

static struct t1_mem outside(unsigned log)
{
    return t1_field(offsetof(struct t0_cpu, t1.outside[log][0]));
}

/* rcx = the bits of base + disp under the mask. */
static void put_page(struct t1_emit *e, struct t1_mem at, struct t1_mem mask)
{
    if (at.disp) {
        t1_lea(e, T1_RCX, at);
        at.base = T1_RCX;
    }
    t1_pext(e, T1_RCX, at.base, mask);
}

/* rcx = sum of the page numbers of the first and the last byte. Changes r11. */
static void put_pages(struct t1_emit *e, struct t1_mem at, unsigned size)
{
    struct t1_mem last = at;
    last.disp += (int32_t)size - 1;
    t1_lea(e, T1_RCX, last);
    t1_shrx(e, T1_RCX, T1_RCX, T1_SP);
    if (at.disp) {
        t1_lea(e, T1_S2, at);
        at.base = T1_S2;
    }
    t1_shrx(e, T1_S2, at.base, T1_SP);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 0});
}

/* What is in rcx compared with what is expected; the rest of the access. */
static struct t1_mem put_compare(struct t1_ctx *t, struct t1_refill *r,
                                 struct t1_mem expected, struct t1_mem addend)
{
    struct t1_emit *e = &t->e;
    t1_load(e, T1_S2, expected);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, (int32_t)t1_one(e)});
    t1_unless(e, &r->from);
    r->slow = t1_slow_of(t);
    t1_load(e, T1_S2, addend);
    r->found = t1_pos(e);
    struct t1_mem m = r->at;
    m.index = T1_S2;
    return m;
}

uint32_t t1_new_slot(struct t1_ctx *t, unsigned log)
{
    _Static_assert(sizeof(struct t1_slot) == 32, "less than the code of an access");
    uint32_t at = t1_pos(&t->e) & ~31u;
    struct t1_slot *s = (struct t1_slot *)(t->t1->exec + t->t1->size + at);
    *s = (struct t1_slot){.expected = T1_SLOT_EMPTY, .mask = t->c->t1.outside[log][0]};
    return at;
}

bool t1_slot_possible(const struct t1_ctx *t, unsigned size)
{
    return !(size & (size - 1)) && size <= 1u << (T1_NB_SIZES - 1) &&
           !(t->b->probe_sites >> t->index & 1);
}

struct t1_mem t1_probe_slot(struct t1_ctx *t, struct t1_mem at, unsigned size,
                            bool write, bool aligned)
{
    struct t1_refill *r = &t->refill[t->nb_refill++];
    unsigned log = (unsigned)__builtin_ctz(size);
    bool any = !aligned && log && (log >= 4 || (t->b->any_sites >> t->index & 1));
    uint32_t slot = t1_new_slot(t, log);
    *r = (struct t1_refill){.at = at,
                            .slot = slot,
                            .log = (uint8_t)log,
                            .kind = any ? T1_FILL_ANY : T1_FILL_PAGE,
                            .write = write,
                            .aligned = aligned};
    if (any) {
        put_pages(&t->e, at, size);
    } else {
        put_page(&t->e, at, t1_slot_field(t, slot, offsetof(struct t1_slot, mask)));
    }
    return put_compare(t, r, t1_slot_field(t, slot, offsetof(struct t1_slot, expected)),
                       t1_slot_field(t, slot, offsetof(struct t1_slot, addend)));
}

struct t1_mem t1_probe_stack_operand(struct t1_ctx *t, int32_t disp, unsigned size,
                                     bool write, bool aligned)
{
    struct t1_mem at = {t->host[X86_RSP], T1_NO_REG, 0, disp};
    if (t->new_stack && !t1_is_32(t) && t1_slot_possible(t, size)) {
        return t1_probe_slot(t, at, size, write, aligned);
    }
    struct t1_refill *r = &t->refill[t->nb_refill++];
    unsigned log = (unsigned)__builtin_ctz(size);
    *r = (struct t1_refill){.at = at,
                            .log = (uint8_t)log,
                            .kind = T1_FILL_STACK,
                            .write = write,
                            .aligned = aligned};
    put_page(&t->e, at, outside(log));
    return put_compare(t, r,
                       stack_field(t, (write ? offsetof(struct t1_stack, write)
                                             : offsetof(struct t1_stack, read)) +
                                          8u * log),
                       stack_field(t, write ? offsetof(struct t1_stack, write_addend)
                                            : offsetof(struct t1_stack, read_addend)));
}

struct t1_mem t1_probe_stack(struct t1_ctx *t, int32_t disp, unsigned size, bool write)
{
    struct t1_mem m = {t->host[X86_RSP], T1_NO_REG, 0, disp};
    if (t->groups && t1_shared_access(t, &m, size, write, false, &m)) {
        return m;
    }
    return t1_probe_stack_operand(t, disp, size, write, false);
}

/* --- Refilling, out of line --------------------------------------------------- */

/* The address of the access. Only the stack's was not cut to 32 bits before. */
static void put_address(struct t1_ctx *t, const struct t1_refill *r, unsigned to)
{
    if (r->kind == T1_FILL_STACK) {
        t1_lea_word(t, to, r->at);
    } else {
        t1_lea(&t->e, to, r->at);
    }
}

void t1_put_refill(struct t1_ctx *t, const struct t1_refill *r)
{
    struct t1_emit *e = &t->e;
    t->cur = r->slow;
    t1_set_rel32(e, r->from, t1_pos(e));
    if (r->kind == T1_FILL_JUMP) {
        t1_put_quick(t, t->t1->glue_quick_jump, r->found);
        return;
    }
    put_address(t, r, T1_S2);
    if (r->kind == T1_FILL_TLB) {
        t1_put_quick(t, t->t1->glue_quick[r->write], r->found);
        return;
    }
    if (r->aligned) {
        t1_pext(e, T1_RCX, T1_S2, t1_field(offsetof(struct t0_cpu, t1.low[r->log])));
        t1_slow_unless_zero(t);
    }
    uint32_t again = t1_pos(e);
    if (r->kind != T1_FILL_STACK) {
        t1_lea(e, T1_RCX, t1_slot_field(t, r->slot, 0));
    }
    t1_call(e, t->t1->glue_fill[t1_is_user(t->b->mode)][r->write][r->log][r->kind]);
    uint32_t filled = t1_jrcxz(e);
    t1_put_quick(t, t->t1->glue_quick[r->write], again);
    t1_here8(e, filled);
    if (r->kind == T1_FILL_STACK && t1_is_32(t)) {
        /* r11 is to be added to what has not been cut: += address - (rsp + disp) */
        put_address(t, r, T1_RCX);
        t1_lea(e, T1_S2, (struct t1_mem){T1_S2, T1_RCX, 0, 1 - r->at.disp});
        t1_mov_rr(e, T1_RCX, r->at.base);
        t1_not(e, T1_RCX);
        t1_lea(e, T1_S2, (struct t1_mem){T1_S2, T1_RCX, 0, 0});
    }
    t1_jmp(e, r->found);
}

/* --- The glue ----------------------------------------------------------------- */

/*
 * Called with the address in r11 and the slot in rcx: look the access up in the TLB and
 * keep what is there. Returns with rcx 0 and the addend in r11, or with another rcx
 * where T0 has to do the access. Changes no other register, and no flags.
 */
struct fill {
    struct t1_emit *e;
    unsigned user, log;
    enum t1_fill kind;
    bool write;
};

static const uint8_t saved[] = {T1_S1, X86_RAX, X86_RDX, X86_RDI};
/* What these hold: */
enum { ENTRY = T1_S1, SLOT = X86_RAX, LOW = X86_RDX, TMP = X86_RDI };

/* [rsp + ...] below the return address and what was saved. */
static struct t1_mem below(size_t off)
{
    struct t1_mem m = t1_field(off);
    m.disp += 8 + 8 * (int32_t)ARRAY_LEN(saved);
    return m;
}

#define BELOW(name) below(offsetof(struct t0_cpu, name))

static struct t1_mem entry_field(size_t off)
{
    return (struct t1_mem){ENTRY, T1_NO_REG, 0, (int32_t)off};
}

static struct t1_mem field_of_slot(size_t off)
{
    return (struct t1_mem){SLOT, T1_NO_REG, 0, (int32_t)off};
}

static void put_push(struct t1_emit *e, unsigned reg, bool pop)
{
    struct t1_enc x = {.opcode = (uint8_t)((pop ? 0x58 : 0x50) | (reg & 7))};
    t1_opcode(e, &x, reg >> 3);
}

static void put_return(struct t1_emit *e, int64_t rcx)
{
    t1_mov_ri(e, T1_RCX, rcx);
    for (unsigned i = ARRAY_LEN(saved); i-- > 0;) {
        put_push(e, saved[i], true);
    }
    t1_u8(e, 0xc3);
}

/* Jump elsewhere unless rcx is 0; returns the rel32's position. */
static uint32_t put_unless_zero(struct t1_emit *e)
{
    uint32_t zero = t1_jrcxz(e);
    uint32_t jump = t1_jmp(e, 0);
    t1_here8(e, zero);
    return jump;
}

/* dst = src >> n; changes rcx */
static void put_shift(struct t1_emit *e, unsigned dst, unsigned src, unsigned n)
{
    t1_mov_ri(e, T1_RCX, n);
    t1_shrx(e, dst, src, T1_RCX);
}

/* reg = -reg, times 1 << log */
static void put_negate(struct t1_emit *e, unsigned reg, unsigned log)
{
    t1_not(e, reg);
    t1_lea(e, reg, (struct t1_mem){(uint8_t)reg, T1_NO_REG, 0, 1});
    while (log--) {
        t1_lea(e, reg, (struct t1_mem){(uint8_t)reg, (uint8_t)reg, 0, 0});
    }
}

/* ENTRY = the TLB's entry; returns the jump where it is another page's. */
static uint32_t put_look(const struct fill *f)
{
    struct t1_emit *e = f->e;
    struct t1_mem m = BELOW(banks[T0_BANK_USER]);
    put_shift(e, ENTRY, T1_S2, 12);
    t1_pdep(e, ENTRY, ENTRY, BELOW(t1.tlb_mask));
    if (f->user) {
        m.index = ENTRY;
    } else {
        t1_load(e, T1_RCX, BELOW(tlb));
        m = (struct t1_mem){ENTRY, T1_RCX, 0, 0};
    }
    t1_lea(e, ENTRY, m);
    t1_load(e, T1_RCX,
            entry_field(f->write ? offsetof(struct t0_tlb_entry, write)
                                 : offsetof(struct t0_tlb_entry, read)));
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S2, 0, 1 << f->log});
    t1_pext(e, T1_RCX, T1_RCX, BELOW(t1.outside[0][0]));
    return put_unless_zero(e);
}

/* The leaky bucket; returns the jump where it overflows. */
static uint32_t put_charge(const struct fill *f)
{
    struct t1_emit *e = f->e;
    const struct t1_mem due = field_of_slot(offsetof(struct t1_slot, due));
    t1_load(e, TMP, due);
    t1_mov_rr(e, T1_RCX, T1_COUNT);
    t1_not(e, T1_RCX);
    t1_lea(e, TMP, (struct t1_mem){TMP, T1_RCX, 0, 1});
    put_shift(e, T1_RCX, TMP, 63);
    uint32_t some = t1_jrcxz(e); /* not negative: something is in it */
    t1_mov_ri(e, TMP, 0);
    t1_here8(e, some);
    t1_lea(e, TMP, (struct t1_mem){TMP, T1_NO_REG, 0, REFILL_COST});
    t1_lea(e, T1_RCX, (struct t1_mem){TMP, T1_COUNT, 0, 0});
    t1_store(e, due, T1_RCX);
    put_shift(e, T1_RCX, TMP, REFILL_LIMIT_LOG);
    return put_unless_zero(e);
}

static void put_stack_copy(const struct fill *f, size_t tags, size_t addend)
{
    struct t1_emit *e = f->e;
    size_t at = offsetof(struct t0_cpu, t1.stack) + f->user * sizeof(struct t1_stack);
    put_shift(e, TMP, T1_S2, 12);
    put_negate(e, TMP, 0);
    for (unsigned i = 0; i < T1_NB_SIZES; i++) {
        t1_store(e, below(at + tags + 8u * i), TMP);
        t1_lea(e, TMP, (struct t1_mem){TMP, TMP, 0, 0});
    }
    t1_load(e, T1_RCX, entry_field(offsetof(struct t0_tlb_entry, addend)));
    t1_store(e, below(at + addend), T1_RCX);
}

static void put_slot_copy(const struct fill *f)
{
    struct t1_emit *e = f->e;
    if (f->kind == T1_FILL_ANY) {
        put_shift(e, TMP, T1_S2, 12);
        put_negate(e, TMP, 1);
    } else {
        struct t1_mem mask = below(offsetof(struct t0_cpu, t1.outside[f->log][0]));
        if (!f->write) { /* stores need dirty pages without code, one by one */
            t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
                      entry_field(offsetof(struct t0_tlb_entry, large))); /* movzx */
            mask.index = T1_RCX;
            mask.shift = 3;
        }
        t1_load(e, TMP, mask);
        t1_store(e, field_of_slot(offsetof(struct t1_slot, mask)), TMP);
        t1_pext_rr(e, TMP, T1_S2, TMP);
        put_negate(e, TMP, 0);
    }
    t1_store(e, field_of_slot(offsetof(struct t1_slot, expected)), TMP);
    t1_load(e, T1_RCX, entry_field(offsetof(struct t0_tlb_entry, addend)));
    t1_store(e, field_of_slot(offsetof(struct t1_slot, addend)), T1_RCX);
}

/* Note the slot in its list; one that is full is forgotten. */
static void put_note(const struct fill *f)
{
    struct t1_emit *e = f->e;
    struct t1_mem first = BELOW(t1.filled);
    const struct t1_mem nb = {TMP, T1_NO_REG, 0, 0};
    _Static_assert(offsetof(struct t1_bucket, nb) == 0 &&
                       offsetof(struct t1_bucket, slot) == 8,
                   "slot n is n + 1 words behind");
    put_shift(e, TMP, T1_S2, 12);
    t1_pdep(e, TMP, TMP, BELOW(t1.bucket_mask));
    t1_load32(e, T1_RCX, entry_field(offsetof(struct t0_tlb_entry, group)));
    t1_lea(e, TMP, (struct t1_mem){TMP, T1_RCX, 0, 0});
    first.index = TMP;
    t1_lea(e, TMP, first);
    t1_load(e, T1_RCX, nb);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, 1});
    t1_store(e, (struct t1_mem){TMP, T1_RCX, 3, 0}, SLOT);
    t1_store(e, nb, T1_RCX);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, -T1_BUCKET_SIZE});
    uint32_t room = put_unless_zero(e);
    t1_mov_ri(e, T1_RCX, T1_BUCKET_SIZE);
    uint32_t loop = t1_pos(e);
    t1_load(e, SLOT, (struct t1_mem){TMP, T1_RCX, 3, 0});
    t1_op_mem(e, &(struct t1_enc){.w = true, .opcode = 0xc7}, 0,
              field_of_slot(offsetof(struct t1_slot, expected)));
    t1_u32(e, T1_SLOT_EMPTY);
    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_NO_REG, 0, -1});
    uint32_t all = t1_jrcxz(e);
    t1_jmp(e, loop);
    t1_here8(e, all);
    t1_store(e, nb, T1_RCX);
    t1_set_rel32(e, room, t1_pos(e));
}

static void put_copies(const struct fill *f)
{
    t1_op_mem(f->e, &(struct t1_enc){.opcode = 0xc6}, 0,
              entry_field(offsetof(struct t0_tlb_entry, copied)));
    t1_u8(f->e, 1);
    if (f->kind == T1_FILL_STACK) {
        put_stack_copy(f, offsetof(struct t1_stack, read),
                       offsetof(struct t1_stack, read_addend));
        if (f->write) {
            put_stack_copy(f, offsetof(struct t1_stack, write),
                           offsetof(struct t1_stack, write_addend));
        }
    } else {
        put_slot_copy(f);
        put_note(f);
    }
}

/* What becomes of a site that was refilled too often. */
static void put_adapt(const struct fill *f)
{
    struct t1_emit *e = f->e;
    const struct t1_enc mov = {.w = true, .opcode = 0xc7};
    uint32_t over = 0, aligned = 0;
    if (f->kind == T1_FILL_PAGE && f->log) {
        t1_mov_rr(e, T1_RCX, LOW);
        aligned = t1_jrcxz(e);
        t1_op_mem(e, &mov, 0, BELOW(t1.adapt));
        t1_u32(e, T1_ADAPT_ANY);
        over = t1_jmp(e, 0);
        t1_here8(e, aligned);
    }
    t1_op_mem(e, &mov, 0, BELOW(t1.adapt));
    t1_u32(e, T1_ADAPT_PROBE);
    if (over) {
        t1_set_rel32(e, over, t1_pos(e));
    }
}

static void put_fill(const struct fill *f)
{
    struct t1_emit *e = f->e;
    bool low = f->log && f->kind != T1_FILL_ANY, slot = f->kind != T1_FILL_STACK;
    uint32_t full = 0, out[2];
    unsigned nb = 0;
    for (unsigned i = 0; i < ARRAY_LEN(saved); i++) {
        put_push(e, saved[i], false);
    }
    if (slot) {
        t1_mov_rr(e, SLOT, T1_RCX);
    }
    if (low) {
        t1_pext(e, LOW, T1_S2, BELOW(t1.low[f->log]));
    }
    uint32_t miss = put_look(f);
    if (slot) {
        full = put_charge(f);
    }
    if (low) {
        t1_mov_rr(e, T1_RCX, LOW);
        out[nb++] = put_unless_zero(e);
    }
    if (!f->user) {
        t1_load(e, T1_RCX, BELOW(tlb));
        t1_not(e, T1_RCX);
        t1_load(e, TMP, BELOW(t1.kernel_bank));
        t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, TMP, 0, 1});
        out[nb++] = put_unless_zero(e);
    }
    put_copies(f);
    while (nb) {
        t1_set_rel32(e, out[--nb], t1_pos(e));
    }
    t1_load(e, T1_S2, entry_field(offsetof(struct t0_tlb_entry, addend)));
    put_return(e, 0);
    if (slot) {
        t1_set_rel32(e, full, t1_pos(e));
        put_adapt(f);
    }
    t1_set_rel32(e, miss, t1_pos(e));
    put_return(e, 1);
}

void t1_put_slot_glue(struct t1_core *t1, struct t1_emit *e)
{
    for (unsigned n = 0; n < 4 * T1_NB_SIZES * T1_NB_FILLS; n++) {
        struct fill f = {.e = e,
                         .user = n & 1,
                         .write = n >> 1 & 1,
                         .log = n / 4 % T1_NB_SIZES,
                         .kind = n / 4 / T1_NB_SIZES};
        t1->glue_fill[f.user][f.write][f.log][f.kind] = t1_pos(e);
        put_fill(&f);
    }
}
