#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A sequence with a shape, for what translates: blocks that are executed again, found
 * through links, and changed while they run.
 *
 *             mov  counter, n
 *     start:  items, among them
 *                 call function
 *                 store to an instruction, each time or once
 *                 that instruction, here or in the function
 *             dec  counter
 *             jnz  start
 *             jmp  end
 *     function: items
 *             ret, perhaps of arguments
 *     end:    items
 *
 * Each of the three, loop, function and store, may be missing. All parts are items, so
 * that the minimiser can take any away.
 */

struct plan {
    bool loop, function, change;
    unsigned start, body, tail, over, function_at, function_nb, ret, end, nb;
    /* Items in the body. */
    unsigned call, store, victim;
    unsigned arguments; /* words that the function takes from the stack */
};

static void put(struct fz_gen *g, const void *bytes, unsigned n)
{
    fz_emit(g, bytes, n);
}

static bool in_64(const struct fz_gen *g)
{
    return g->k->bits == 64;
}

/* An instruction with ModRM.rm @reg, of 32 bits or (@wide) 64. */
static void put_rm(struct fz_gen *g, bool wide, uint8_t opcode, unsigned digit,
                   unsigned reg, int imm8)
{
    uint8_t b[5];
    unsigned n = 0;
    if (in_64(g) && (wide || reg >= 8)) {
        b[n++] = (uint8_t)(0x40 | (wide ? 8 : 0) | reg >> 3);
    }
    b[n++] = opcode;
    b[n++] = (uint8_t)(0xc0 | digit << 3 | (reg & 7));
    if (imm8 >= 0) {
        b[n++] = (uint8_t)imm8;
    }
    put(g, b, n);
}

/* A branch to @item: @opcode E8, E9 or 0F 8x as 8x. */
static void put_branch(struct fz_gen *g, uint8_t opcode, unsigned item)
{
    uint8_t b[6] = {0x0f, opcode};
    bool jcc = opcode < 0x90;
    struct fz_insn *in = fz_emit(g, b + !jcc, jcc ? 6 : 5);
    if (in) {
        in->fix = FZ_FIX_BRANCH;
        in->fix_at = jcc ? 2 : 1;
        in->fix_size = 4;
        in->target = (uint8_t)item;
    }
}

/* --- The loop -------------------------------------------------------------- */

enum { JB = 0x82, JNZ = 0x85, JZ = 0x84, JG = 0x8f };

static void loop_begin(struct fz_gen *g)
{
    static const uint8_t regs[] = {3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct fz_rng *r = &g->r;
    unsigned reg = regs[fz_below(r, in_64(g) ? ARRAY_LEN(regs) : 3)];
    unsigned n = fz_chance(r, 85) ? 1 + fz_below(r, 6) : 1 + fz_below(r, 40);
    uint8_t b[6] = {0x41, (uint8_t)(0xb8 + (reg & 7)), (uint8_t)n};
    put(g, b + (reg < 8), reg < 8 ? 5 : 6);
    g->known &= (uint16_t) ~(1u << reg);
    g->loop_reg = (int)reg;
}

static void loop_end(struct fz_gen *g, const struct plan *p)
{
    struct fz_rng *r = &g->r;
    unsigned reg = (unsigned)g->loop_reg;
    bool wide = in_64(g) && fz_chance(r, 50);
    switch (fz_below(r, 5)) {
    case 0:
        put_rm(g, wide, 0xff, 1, reg, -1); /* dec */
        put_branch(g, JNZ, p->start);
        break;
    case 1:
        put_rm(g, wide, 0x83, 5, reg, 1); /* sub */
        put_branch(g, JG, p->start);
        break;
    case 2:
        put_rm(g, wide, 0x83, 0, reg, 0xff); /* add -1: a carry until it is 0 */
        put_branch(g, JB, p->start);
        break;
    case 3:
        put_rm(g, wide, 0xff, 1, reg, -1);
        put_branch(g, JZ, p->over);
        put_branch(g, 0xe9, p->start);
        break;
    default:
        put_rm(g, wide, 0xff, 1, reg, -1);
        put_rm(g, wide, 0x83, 7, reg, 0); /* cmp */
        put_branch(g, JNZ, p->start);
        break;
    }
}

/* --- The function ---------------------------------------------------------- */

static void call_register(struct fz_gen *g, unsigned item)
{
    unsigned reg = fz_below(&g->r, g->nb_regs);
    if (reg == X86_RSP || (int)reg == g->loop_reg) {
        reg = X86_RAX;
    }
    uint8_t b[6] = {0x41, (uint8_t)(0xb8 + (reg & 7))};
    unsigned skip = reg < 8;
    struct fz_insn *mov = fz_emit(g, b + skip, 6 - skip);
    if (mov) {
        mov->fix = FZ_FIX_ADDR;
        mov->fix_at = (uint8_t)(2 - skip);
        mov->fix_size = 4;
        mov->target = (uint8_t)item;
        g->known &= (uint16_t) ~(1u << reg);
        put_rm(g, false, 0xff, 2, reg, -1);
    }
}

/* Through memory that holds its address. */
static void call_memory(struct fz_gen *g, unsigned item)
{
    uint64_t la = FZ_DATA + 8 * fz_below(&g->r, FZ_DATA_RW / 8);
    struct fz_patch *patch = fz_add_patch(g, la, "\0\0\0\0\0\0\0", 8);
    uint8_t b[6] = {0xff, 0x15};
    le32_put(b + 2, (uint32_t)la);
    struct fz_insn *in = patch ? fz_emit(g, b, 6) : NULL;
    if (in) {
        patch->has_target = 8;
        patch->target = (uint8_t)item;
        in->fix = in_64(g) ? FZ_FIX_RIP : FZ_FIX_NONE;
        in->fix_at = 2;
        in->fix_size = 4;
        in->target_la = la;
    }
}

static void call(struct fz_gen *g, const struct plan *p)
{
    uint64_t sp = FZ_STACK + 1024 + 8 * fz_below(&g->r, 256);
    fz_ensure(g, X86_RSP, sp);
    for (unsigned i = 0; i < p->arguments; i++) {
        put(g, (const uint8_t[]){0x6a, (uint8_t)(i + 1)}, 2); /* push */
    }
    switch (fz_below(&g->r, 4)) {
    case 0: call_register(g, p->function_at); break;
    case 1: call_memory(g, p->function_at); break;
    default: put_branch(g, 0xe8, p->function_at); break;
    }
    g->known = 1u << X86_RSP; /* what the function leaves is not known here */
}

/* --- Changing code --------------------------------------------------------- */

/* Opcodes of five bytes with an immediate of four: each is a good replacement of
 * another one. Not the stack pointer. */
static uint8_t some_opcode(const struct fz_gen *g, struct fz_rng *r)
{
    static const uint8_t opcodes[] = {0x05, 0x0d, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d,
                                      0xa9, 0xb8, 0xb9, 0xba, 0xbb, 0xbd, 0xbe, 0xbf};
    uint8_t b = opcodes[fz_below(r, ARRAY_LEN(opcodes))];
    return g->loop_reg >= 0 && b == 0xb8 + g->loop_reg ? 0x05 : b;
}

static void victim(struct fz_gen *g)
{
    uint8_t b[5] = {some_opcode(g, &g->r)};
    le32_put(b + 1, (uint32_t)fz_value(&g->r));
    put(g, b, 5);
    g->known &= 1u << X86_RSP;
}

/* A store with the address as displacement; @b has room for it at @at. */
static void put_store(struct fz_gen *g, const struct plan *p, uint8_t *b, unsigned n,
                      unsigned at, unsigned delta)
{
    struct fz_insn *in = fz_emit(g, b, n);
    if (in) {
        in->fix = FZ_FIX_CODE;
        in->fix_at = (uint8_t)at;
        in->fix_size = 4;
        in->target = (uint8_t)p->victim;
        in->delta = (uint8_t)delta;
    }
}

static void store_string(struct fz_gen *g, const struct plan *p)
{
    uint8_t b[] = {0xbf, 0, 0, 0, 0};
    struct fz_insn *mov = g->loop_reg == X86_RDI ? NULL : fz_emit(g, b, 5);
    if (mov) {
        mov->fix = FZ_FIX_ADDR;
        mov->fix_at = 1;
        mov->fix_size = 4;
        mov->target = (uint8_t)p->victim;
        mov->delta = 1;
        g->known &= (uint16_t) ~(1u << X86_RDI);
        fz_ensure(g, X86_RCX, 1 + fz_below(&g->r, 4));
        put(g, (const uint8_t[]){0xfc, 0xf3, 0xaa}, 1); /* cld */
        put(g, (const uint8_t[]){0xf3, 0xaa}, 2);
        g->known &= (uint16_t) ~(1u << X86_RCX);
    }
}

static void store(struct fz_gen *g, const struct plan *p)
{
    struct fz_rng *r = &g->r;
    if (p->loop && fz_chance(r, 60)) { /* only once: what it changes is known then */
        put_rm(g, false, 0x83, 7, (unsigned)g->loop_reg, (int)(1 + fz_below(r, 3)));
        put_branch(g, JNZ, g->item + 1);
    }
    uint8_t b[12] = {0};
    unsigned delta = 1 + fz_below(r, 4);
    switch (fz_below(r, 8)) {
    case 0: /* mov byte, the opcode or a byte of the immediate */
        delta = fz_below(r, 5);
        memcpy(b, "\xc6\x05", 2);
        b[6] = delta ? (uint8_t)fz_rnd(r) : some_opcode(g, r);
        put_store(g, p, b, 7, 2, delta);
        break;
    case 1: /* mov dword */
        memcpy(b, "\xc7\x05", 2);
        le32_put(b + 6, (uint32_t)fz_value(r));
        put_store(g, p, b, 10, 2, 1);
        break;
    case 2: /* mov word */
        memcpy(b, "\x66\xc7\x05", 3);
        le16_put(b + 7, (uint16_t)fz_rnd(r));
        put_store(g, p, b, 9, 3, 1 + fz_below(r, 3));
        break;
    case 3: /* add byte */
        memcpy(b, "\x80\x05", 2);
        b[6] = (uint8_t)fz_rnd(r);
        put_store(g, p, b, 7, 2, delta);
        break;
    case 4: /* lock inc byte */
        memcpy(b, "\xf0\xfe\x05", 3);
        put_store(g, p, b, 7, 3, delta);
        break;
    case 5: /* mov register */
        b[0] = 0x89;
        b[1] = (uint8_t)(5 | fz_below(r, 8) << 3);
        put_store(g, p, b, 6, 2, 1);
        break;
    case 6: /* movd xmm */
        memcpy(b, "\x66\x0f\x7e", 3);
        b[3] = (uint8_t)(5 | fz_below(r, 8) << 3);
        put_store(g, p, b, 8, 4, 1);
        break;
    default: store_string(g, p); break;
    }
}

/* --- All of it ------------------------------------------------------------- */

static void make_plan(struct fz_rng *r, struct plan *p)
{
    *p = (struct plan){.loop = fz_chance(r, 75),
                       .function = fz_chance(r, 50),
                       .change = fz_chance(r, 35)};
    unsigned n = p->start = p->loop;
    p->body = 1 + fz_below(r, 4) + p->function + 2 * p->change;
    n += p->body;
    p->tail = n;
    n += p->loop;
    p->over = n;
    p->function_at = n + 1;
    p->function_nb = p->function ? 1 + fz_below(r, 3) : 0;
    p->arguments = fz_chance(r, 40) ? 1 + fz_below(r, 3) : 0;
    p->ret = p->function_at + p->function_nb;
    n = p->function ? p->ret + 1 : n;
    p->end = n;
    p->nb = MIN(n + fz_below(r, 2), FZ_MAX_ITEMS);
    /* The store comes first, or behind it in a loop. */
    unsigned at = p->start + fz_below(r, p->body - p->function - p->change);
    p->call = p->function ? at : UINT32_MAX;
    p->store = p->victim = UINT32_MAX;
    if (p->change) {
        unsigned a = p->start + p->body - 2, b = a + 1;
        bool behind = p->loop && fz_chance(r, 50);
        p->store = behind ? b : a;
        p->victim = p->function && fz_chance(r, 50) ? p->function_at : behind ? a : b;
    }
}

static void one_item(struct fz_gen *g, const struct plan *p, unsigned where,
                     unsigned subject, uint32_t cell)
{
    if (p->loop && g->item == 0) {
        loop_begin(g);
    } else if (p->loop && g->item == p->tail) {
        loop_end(g, p);
    } else if (p->function && g->item == p->over) {
        put_branch(g, 0xe9, p->end);
        fz_note_branch(g, p->end);
    } else if (p->function && g->item == p->ret) {
        uint8_t b[3] = {p->arguments ? 0xc2 : 0xc3,
                        (uint8_t)(p->arguments * g->k->bits / 8), 0};
        put(g, b, p->arguments ? 3 : 1);
        g->no_stack = false;
    } else if (g->item == p->call) {
        call(g, p);
    } else if (g->item == p->store) {
        store(g, p);
    } else if (g->item == p->victim) {
        victim(g);
    } else if (g->item != where || !fz_item(g, subject, cell)) {
        fz_any_item(g);
    }
}

void fz_structure(struct fz_gen *g, unsigned subject, uint32_t cell)
{
    struct plan p;
    make_plan(&g->r, &p);
    g->k->nb_items = p.nb;
    unsigned where = p.start + fz_below(&g->r, 3); /* may be another part */
    for (g->item = 0; g->item < p.nb; g->item++) {
        if (p.function && g->item == p.function_at) {
            g->no_stack = true;
        }
        if (g->item == p.end) {
            g->loop_reg = -1;
        }
        one_item(g, &p, where, subject, cell);
    }
    g->k->shape = (uint8_t)(p.loop | p.function << 1 | p.change << 2);
}
