/*
 * Every instruction that belongs to a CPUID feature raises #UD when the model lacks the
 * feature, and does not when it has it: for each row of the decoder's table, with a
 * register operand and with one in memory, as far as it has these forms.
 */
#include <glib.h>

#include "lib/isa/x86/cpu_model.h"
#include "lib/isa/x86/insn.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/accel/bt/t0_test.h"

/* Where the memory operand of every encoding here is (RSI), and where code that is
 * jumped to by SYSCALL and the like stops. */
#define DATA 0x20000u
#define STOP 0x30000u

enum { FORM_REG, FORM_MEM, NB_FORMS };

struct encoding {
    uint8_t bytes[16];
    unsigned len;
};

struct row {
    struct encoding form[NB_FORMS];
    bool legacy; /* there is an encoding outside of 64-bit mode */
};

static void try_encoding(struct row *rows, const uint8_t *bytes, unsigned n)
{
    struct x86_insn insn;
    uint8_t padded[X86_INSN_MAX_LEN] = {0};
    memcpy(padded, bytes, n);
    if (x86_decode(&insn, padded, sizeof(padded), 32) > 0) {
        rows[insn.desc].legacy = true;
    }
    int len = x86_decode(&insn, padded, sizeof(padded), 64);
    if (len <= 0 || !x86_insn_desc(&insn)->feat) {
        return;
    }
    bool mem = (insn.prefixes & X86_P_MODRM) && insn.modrm >> 6 != 3;
    struct encoding *e = &rows[insn.desc].form[mem ? FORM_MEM : FORM_REG];
    if (!e->len) {
        memcpy(e->bytes, padded, sizeof(padded));
        e->len = (unsigned)len;
    }
}

/* All ModRM bytes of registers, [RSI] and, for vector indices, [RSI + 1]. */
static void try_modrms(struct row *rows, uint8_t *bytes, unsigned n)
{
    for (unsigned reg = 0; reg < 8; reg++) {
        for (unsigned rm = 0; rm < 8; rm++) {
            bytes[n] = (uint8_t)(0xc0 | reg << 3 | rm);
            try_encoding(rows, bytes, n + 1);
        }
        bytes[n] = (uint8_t)(reg << 3 | 6);
        try_encoding(rows, bytes, n + 1);
        bytes[n] = (uint8_t)(reg << 3 | 4);
        bytes[n + 1] = 0x0e;
        try_encoding(rows, bytes, n + 2);
    }
}

static void try_legacy(struct row *rows)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2, 0xf0};
    static const uint8_t maps[][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    for (unsigned p = 0; p < 5; p++) {
        for (unsigned w = 0; w < 2; w++) {
            for (unsigned m = 0; m < 4; m++) {
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    uint8_t b[16];
                    unsigned n = 0;
                    if (prefixes[p]) {
                        b[n++] = prefixes[p];
                    }
                    if (w) {
                        b[n++] = 0x48;
                    }
                    for (unsigned i = 0; i < 2; i++) {
                        if (maps[m][i]) {
                            b[n++] = maps[m][i];
                        }
                    }
                    b[n++] = (uint8_t)opcode;
                    try_modrms(rows, b, n);
                }
            }
        }
    }
}

static void try_vex(struct row *rows)
{
    for (unsigned map = 1; map <= 3; map++) {
        for (unsigned low = 0; low < 256; low++) {
            if ((low & 0x78) != 0x78 && (low & 0x78) != 0x68) {
                continue; /* vvvv: none, or register 2 */
            }
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t b[16] = {0xc4, (uint8_t)(0xe0 | map), (uint8_t)low,
                                 (uint8_t)opcode};
                try_modrms(rows, b, 4);
            }
        }
    }
}

/* A feature that an instruction of a longer name is an older one without. */
static bool has_older_meaning(unsigned op)
{
    switch (op) {
    case X86_OP_TZCNT:
    case X86_OP_LZCNT:
    case X86_OP_WBNOINVD:
    case X86_OP_PREFETCH:
    case X86_OP_PREFETCHW: return true;
    default: return false;
    }
}

/* Hypercalls are there for every guest that is told of a hypervisor. */
static bool is_hypercall(unsigned op)
{
    return op == X86_OP_VMCALL || op == X86_OP_VMMCALL;
}

static bool raises_ud(struct t0_test *t, const struct x86_state *start,
                      const struct encoding *e, unsigned op)
{
    uint8_t code[24];
    memcpy(code, e->bytes, e->len);
    memset(code + e->len, 0xf4, sizeof(code) - e->len);
    t->s = *start;
    if (op == X86_OP_SYSRET || op == X86_OP_SYSEXIT) {
        t->s.gpr[X86_RCX] = t->s.gpr[X86_RDX] = STOP;
    }
    memset(t->ram + DATA, 0, 4096);
    t0_test_code(t, code, e->len + 4);
    t0_test_run(t);
    return t->s.rip == STOP + 17;
}

/* All that an operating system switches on. */
static struct x86_state make_start(const struct t0_test *t)
{
    const struct x86_cpu_model *m = t->model;
    struct x86_state s = t->s;
    s.cr4 |= x86_cpu_cr4_mask(m) &
             (X86_CR4_OSXSAVE | X86_CR4_FSGSBASE | X86_CR4_OSFXSR | X86_CR4_PCE);
    s.xcr0 = x86_cpu_xcr0_mask(m) | X86_XCR0_X87;
    s.msr.lstar = s.msr.cstar = s.msr.sysenter_eip = STOP;
    s.msr.star = (uint64_t)T0_TEST_CS64 << 32 | (uint64_t)(T0_TEST_UCS32 & ~3) << 48;
    s.msr.sysenter_cs = T0_TEST_CS64;
    s.msr.sysenter_esp = T0_TEST_STACK;
    s.gpr[X86_RSI] = s.gpr[X86_RDI] = s.gpr[X86_RAX] = DATA;
    s.gpr[X86_RDX] = 0;
    s.gpr[X86_RCX] = 0;
    return s;
}

static struct t0_test *machine(unsigned without)
{
    g_autofree char *cpu =
        g_strdup_printf("max,vendor=GenuineIntel,+la57,+monitor%s%s",
                        without ? ",-" : "", without ? x86_feat_name(without) : "");
    struct t0_test *t = t0_test_new(64, 1024, cpu);
    /* #UD stops in another place than everything else. */
    memset(t->ram + STOP, 0xf4, 64);
    t0_test_gate(t, 6, 14, 0, 0, STOP + 16);
    for (unsigned v = 0; v < 32; v++) {
        if (v != 6) {
            t0_test_gate(t, v, 14, 0, 0, STOP + 32);
        }
    }
    return t;
}

static void check_feature(const struct row *rows, unsigned feat, struct t0_test *with,
                          const struct x86_state *start)
{
    struct t0_test *t = machine(feat);
    struct x86_state less = make_start(t);
    bool have = x86_cpu_has(with->model, feat);
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *d = x86_desc_get(i);
        for (unsigned f = 0; d->feat == feat && f < NB_FORMS; f++) {
            const struct encoding *e = &rows[i].form[f];
            if (!e->len || is_hypercall(d->op)) {
                continue;
            }
            bool ud = raises_ud(t, &less, e, d->op), want = !has_older_meaning(d->op);
            if (ud != want) {
                g_test_message("%s, opcode %02x without %s: #UD is %d",
                               x86_op_name(d->op), d->opcode, x86_feat_name(feat), ud);
                g_test_fail();
            }
            if (have && raises_ud(with, start, e, d->op)) {
                g_test_message("%s, opcode %02x with %s: #UD", x86_op_name(d->op),
                               d->opcode, x86_feat_name(feat));
                g_test_fail();
            }
        }
    }
    t0_test_free(t);
}

static void each_instruction_follows_its_feature(void)
{
    g_autofree struct row *rows = g_new0(struct row, x86_desc_count());
    try_legacy(rows);
    try_vex(rows);
    struct t0_test *with = machine(0);
    struct x86_state start = make_start(with);
    bool seen[X86_NB_FEATS] = {false};
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *d = x86_desc_get(i);
        seen[d->feat] = true;
        if (d->feat && !rows[i].form[FORM_REG].len && !rows[i].form[FORM_MEM].len &&
            !rows[i].legacy) {
            g_test_message("%s, map %u opcode %02x: no encoding was found",
                           x86_op_name(d->op), d->map, d->opcode);
            g_test_fail();
        }
    }
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        if (seen[f]) {
            check_feature(rows, f, with, &start);
        }
    }
    t0_test_free(with);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/features", each_instruction_follows_its_feature);
    return g_test_run();
}
