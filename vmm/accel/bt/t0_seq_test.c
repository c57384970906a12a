#include "vmm/accel/bt/t0_test.h"

#include <glib.h>
#include <stdio.h>

#include "vmm/accel/bt/t0_native.h"
#include "vmm/accel/bt/t1.h"
#include "vmm/vm/vcpu.h"

/*
 * Runs of integer instructions, with short branches between them, in a machine of the
 * interpreter and natively: what blocks, chains and dead flags make of them must be
 * what the processor does. One instruction at a time is t0_int_test.c's business.
 */

#define PAGE      UINT64_C(4096)
#define MAX_INSNS 24
#define RAM_KIB   ((unsigned)((NATIVE_ARENA + NATIVE_PAGES * PAGE) / 1024))
#define TIER1     256u /* with the mode: through the translator */
#define NB_RUNS   NATIVE_CASES(12000u, 200000u)

struct sequence {
    unsigned mode, nb, len;
    uint8_t bytes[MAX_INSNS * 20 + 1];
    unsigned at[MAX_INSNS];
};

/* What needs its registers prepared, leaves the arena, or may raise #DE or #BR; and
 * what this processor may execute although no model here has it. */
static bool is_excluded(const struct x86_insn *i)
{
    static const uint16_t ops[] = {X86_OP_DIV,     X86_OP_IDIV,     X86_OP_BOUND,
                                   X86_OP_XLAT,    X86_OP_CLZERO,   X86_OP_AAM,
                                   X86_OP_MOVDIRI, X86_OP_MOVDIR64B};
    const struct x86_desc *row = x86_insn_desc(i);
    bool bit_string = i->op >= X86_OP_BT && i->op <= X86_OP_BTC &&
                      i->opnd[0].kind == X86_OPND_MEM &&
                      i->opnd[1].kind == X86_OPND_REG;

    for (unsigned n = 0; n < G_N_ELEMENTS(ops); n++) {
        if (i->op == ops[n]) {
            return true;
        }
    }
    return bit_string || row->cls == X86_CLASS_STRING || (row->props & X86_D_STACK) ||
           i->seg >= X86_FS || native_is_system(i);
}

/* A memory operand must need no register: those have been changed by then. */
static bool add_insn(struct sequence *s, uint64_t rip)
{
    struct native_case k;
    uint64_t unused[16] = {0},
             target = NATIVE_ARENA + 64 + native_below(2 * PAGE - 256);
    unsigned row = (unsigned)native_below(x86_desc_count());

    if (!native_is_integer(x86_desc_get(row)) || !native_case_make(row, s->mode, &k) ||
        is_excluded(&k.insn)) {
        return false;
    }
    if (x86_insn_mem(&k.insn) && k.insn.op != X86_OP_LEA) {
        bool absolute = k.insn.index == X86_REG_NONE && k.insn.base >= X86_REG_RIP;
        if (!absolute || !native_case_aim(&k, target & ~15ull, rip + s->len, unused)) {
            return false;
        }
    }
    s->at[s->nb++] = s->len;
    memcpy(s->bytes + s->len, k.bytes, k.insn.len);
    s->len += k.insn.len;
    return true;
}

/* jcc over "mov r8, imm": taken or not shows in a register. */
static void add_branch(struct sequence *s)
{
    uint8_t *p = s->bytes + s->len;
    p[0] = (uint8_t)(0x70 | native_below(16));
    p[1] = 2;
    p[2] = (uint8_t)(0xb0 | native_below(8));
    p[3] = (uint8_t)native_rnd();
    s->at[s->nb++] = s->len;
    s->len += 4;
}

static void make_sequence(struct sequence *s, unsigned mode)
{
    unsigned want = 2 + (unsigned)native_below(MAX_INSNS - 2);
    *s = (struct sequence){.mode = mode};
    while (s->nb < want) {
        if (native_below(5) == 0) {
            add_branch(s);
        } else {
            while (!add_insn(s, T0_TEST_CODE)) {
            }
        }
    }
}

static void explain(const struct sequence *s, const struct native_result *from,
                    const struct native_result *want, const struct native_result *got)
{
    for (unsigned i = 0; i < s->nb; i++) {
        struct x86_insn insn;
        char text[128];
        x86_decode(&insn, s->bytes + s->at[i], 15, s->mode);
        x86_format(&insn, T0_TEST_CODE + s->at[i], text, sizeof(text));
        g_test_message("  %s", text);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (want->gpr[i] != got->gpr[i]) {
            g_test_message("%s: %lx -> %lx, not %lx", x86_gpr_name(i, 8), from->gpr[i],
                           want->gpr[i], got->gpr[i]);
        }
    }
    g_test_message("flags %lx -> %lx, not %lx; rip %lx, not %lx", from->rflags,
                   want->rflags, got->rflags, want->rip + 1, got->rip);
}

/* Execute in the machine, from and to @r, with the arena's contents copied both ways.
 */
static bool run_machine(struct t0_test *t, const struct sequence *s,
                        struct native_result *r, const uint8_t *before)
{
    uint8_t code[sizeof(s->bytes) + 1];
    memcpy(code, s->bytes, s->len);
    code[s->len] = 0xf4; /* hlt */
    memcpy(t->ram + NATIVE_ARENA, before, 2 * PAGE);
    t0_test_code(t, code, s->len + 1);
    memcpy(t->s.gpr, r->gpr, sizeof(r->gpr));
    t->s.rflags = r->rflags | X86_FL_R1;
    bool ok = t0_test_run(t) == VCPU_EXIT_HLT; /* an exception is a triple fault */
    memcpy(r->gpr, t->s.gpr, sizeof(r->gpr));
    r->rflags = t->s.rflags & NATIVE_FLAGS;
    r->rip = t->s.rip;
    return ok;
}

static void test_sequences(const void *opaque)
{
    unsigned mode = GPOINTER_TO_UINT(opaque) & ~TIER1, bad = 0, compared = 0;
    struct t0_test *t =
        t0_test_new_tier(mode, RAM_KIB, NULL, (GPOINTER_TO_UINT(opaque) & TIER1) != 0);
    g_autofree uint8_t *before = g_malloc(2 * PAGE);

    native_seed();
    for (unsigned n = 0; n < NB_RUNS && bad < 3; n++) {
        struct native_result from = {.rip = T0_TEST_CODE}, want, got;
        struct sequence s;
        make_sequence(&s, mode);
        for (unsigned i = 0; i < 16; i++) {
            from.gpr[i] =
                mode == 64 ? native_rnd_value() : (uint32_t)native_rnd_value();
        }
        for (unsigned i = 8; i < 16 && mode == 32; i++) {
            from.gpr[i] = 0;
        }
        from.rflags = native_rnd() & X86_FL_ARITH;
        for (unsigned i = 0; i < 2 * PAGE; i += 512) {
            uint64_t v = native_rnd_value();
            memcpy(native_arena() + i + native_below(500), &v, 8);
        }
        memcpy(before, native_arena(), 2 * PAGE);
        want = got = from;
        native_run(s.bytes, s.len, mode, &want);
        if (want.faulted) {
            continue; /* an instruction this processor does not have */
        }
        compared++;
        bool equal = run_machine(t, &s, &got, before) &&
                     memcmp(want.gpr, got.gpr, sizeof(want.gpr)) == 0 &&
                     want.rflags == got.rflags && got.rip == want.rip + 1 &&
                     memcmp(native_arena(), t->ram + NATIVE_ARENA, 2 * PAGE) == 0;
        if (!equal) {
            explain(&s, &from, &want, &got);
            bad++;
        }
    }
    if (GPOINTER_TO_UINT(opaque) & TIER1) {
        g_assert_cmpuint(t1_nb_enters(t->vcpu->accel), >=, compared);
    }
    t0_test_free(t);
    g_test_message("%u sequences compared", compared);
    g_assert_cmpuint(bad, ==, 0);
    g_assert_cmpuint(compared, >, NB_RUNS * 3 / 4);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    native_setup(T0_TEST_CODE);
    g_test_add_data_func("/t0/sequences/64", GUINT_TO_POINTER(64), test_sequences);
    g_test_add_data_func("/t1/sequences/64", GUINT_TO_POINTER(64 | TIER1),
                         test_sequences);
    g_test_add_data_func("/t0/sequences/32", GUINT_TO_POINTER(32), test_sequences);
    return g_test_run();
}
