#include "vmm/accel/bt/t0_guest.h"

#include <glib.h>
#include <string.h>

#include "lib/base/bytes.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

/* Guest-physical addresses, beside those of t0_test.h. */
enum {
    RAM_KIB = 1024,
    HANDLERS = 0x30000, /* HLT for every vector */
    CODE_PHYS = 0x40000,
    ARENA_PHYS = 0x50000,
    ARENA_TABLE = 0x60000, /* page tables */
    CODE_TABLE = 0x61000,
    SECOND_GIB = 0x62000, /* page directory */
    PDPT32 = 0x63000,
};

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };

#define PAGE       UINT64_C(4096)
#define END_VECTOR 0x80

static void put_pte(struct t0_test *t, uint64_t table, uint64_t la, unsigned shift,
                    uint64_t v)
{
    le64_put(t->ram + table + (la >> shift & 511) * 8, v);
}

static void make_tables(struct t0_test *t)
{
    const unsigned all = PTE_P | PTE_W | PTE_U;
    uint64_t first = T0_TEST_PML4 + 0x2000, pdpt = T0_TEST_PML4 + 0x1000;
    memset(t->ram + first, 0, PAGE);
    le64_put(t->ram + first, 0x83); /* 2 MiB for the supervisor */
    put_pte(t, first, NATIVE_ARENA, 21, ARENA_TABLE | all);
    put_pte(t, SECOND_GIB, GUEST_CODE, 21, CODE_TABLE | all);
    put_pte(t, CODE_TABLE, GUEST_CODE, 12, CODE_PHYS | all);
    for (unsigned i = 0; i < NATIVE_PAGES; i++) {
        uint64_t la = NATIVE_ARENA + i * PAGE;
        put_pte(t, ARENA_TABLE, la, 12,
                (ARENA_PHYS + i * PAGE) | (i < 2 ? all : PTE_P | PTE_U));
    }
    if (t->bits == 64) {
        put_pte(t, pdpt, GUEST_CODE, 30, SECOND_GIB | all);
        return;
    }
    le64_put(t->ram + PDPT32, first | PTE_P);
    le64_put(t->ram + PDPT32 + 8, SECOND_GIB | PTE_P);
    t->s.cr3 = PDPT32;
    t->s.cr4 |= X86_CR4_PAE;
    t->s.cr0 |= X86_CR0_PG | X86_CR0_WP;
}

struct guest *guest_new(unsigned bits)
{
    struct guest *g = g_new0(struct guest, 1);
    struct t0_test *t = g->t = t0_test_new(bits, RAM_KIB, NULL);
    make_tables(t);
    memset(t->ram + HANDLERS, 0xf4, 256);
    for (unsigned v = 0; v < 256; v++) {
        t0_test_gate(t, v, X86_SYS_INT, v == END_VECTOR ? 3 : 0, 0, HANDLERS + v);
    }
    t0_test_user(t);
    t->s.cr0 |= X86_CR0_NE;
    t->s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    t->s.xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    t->s.seg[X86_GS].base = bits == 64 ? NATIVE_GS_BASE : 0;
    g->arena = t->ram + ARENA_PHYS;
    g->start = t->s;
    return g;
}

void guest_free(struct guest *g)
{
    t0_test_free(g->t);
    g_free(g);
}

void fpu_to_xsave(const struct x86_fpu *s, uint8_t *p)
{
    memset(p, 0, NATIVE_XSAVE_SIZE);
    le16_put(p, s->fcw);
    le16_put(p + 2, s->fsw);
    p[4] = s->ftw;
    le16_put(p + 6, s->fop);
    le64_put(p + 8, s->fip);
    le64_put(p + 16, s->fdp);
    le32_put(p + 24, s->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(p + 32 + 16 * i, s->st[i], 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(p + 160 + 16 * i, s->ymm[i], 16);
        memcpy(p + 576 + 16 * i, s->ymm[i] + 16, 16);
    }
    le64_put(p + 512, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}

void fpu_from_xsave(struct x86_fpu *s, const uint8_t *p)
{
    memset(s, 0, sizeof(*s));
    s->fcw = le16_get(p);
    s->fsw = le16_get(p + 2);
    s->ftw = p[4];
    s->fop = le16_get(p + 6);
    s->fip = le64_get(p + 8);
    s->fdp = le64_get(p + 16);
    s->mxcsr = le32_get(p + 24);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], p + 32 + 16 * i, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(s->ymm[i], p + 160 + 16 * i, 16);
        memcpy(s->ymm[i] + 16, p + 576 + 16 * i, 16);
    }
}

/* The interrupt frame that the handler found. */
static void take_frame(struct guest *g, struct native_result *r, unsigned vector)
{
    struct t0_test *t = g->t;
    unsigned w = t->bits / 8;
    const uint8_t *sp = t->ram + t->s.gpr[X86_RSP];
    r->error = 0;
    if (vector == 8 || (vector >= 10 && vector <= 14) || vector == 17) {
        r->error = le32_get(sp);
        sp += w;
    }
    r->rip = le_get(sp, w);
    r->rflags = le_get(sp + 2 * w, w) & NATIVE_FLAGS;
    r->gpr[X86_RSP] = le_get(sp + 3 * w, w);
}

void guest_run(struct guest *g, const uint8_t *bytes, unsigned len,
               struct native_result *r, uint8_t *xsave)
{
    struct t0_test *t = g->t;
    uint8_t code[GUEST_MAX_LEN + 2];
    g_assert_cmpuint(len, <=, GUEST_MAX_LEN);
    memcpy(code, bytes, len);
    code[len] = 0xcd;
    code[len + 1] = END_VECTOR;
    g_assert_cmpint(gmem_write(t->vm->gmem, CODE_PHYS, code, len + 2), ==, 0);

    t->s = g->start;
    memcpy(t->s.gpr, r->gpr, sizeof(r->gpr));
    t->s.rip = GUEST_CODE;
    t->s.rflags = X86_FL_R1 | X86_FL_IF | (r->rflags & NATIVE_FLAGS);
    fpu_from_xsave(&t->s.fpu, xsave);
    enum vcpu_exit exit = t0_test_run(t);
    g_assert_cmpint(exit, ==, VCPU_EXIT_HLT);

    unsigned vector = (unsigned)(t->s.rip - HANDLERS - 1);
    g_assert_cmpuint(vector, <, 256);
    memcpy(r->gpr, t->s.gpr, sizeof(r->gpr));
    take_frame(g, r, vector);
    r->faulted = vector != END_VECTOR;
    r->vector = r->faulted ? (uint8_t)vector : 0;
    r->rip -= r->faulted ? 0 : 2;
    r->cr2 = r->faulted && vector == X86_EXC_PF ? t->s.cr2 : 0;
    fpu_to_xsave(&t->s.fpu, xsave);
}
