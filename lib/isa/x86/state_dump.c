#include "lib/isa/x86/state.h"

#include <inttypes.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The registers as text, in the layout that QEMU's "info registers" and "-d cpu" have:
 * people read it every day, and scripts do. Names and widths follow the mode: EAX with
 * eight digits outside of 64-bit code, RAX with sixteen in it.
 *
 * A20 and SMM have no place in the canonical state: the line is the board's, and there
 * is no system management mode. The layout has them as what they always are.
 */

struct dump {
    const struct x86_state *s;
    FILE *out;
    bool code64, long_mode, protected;
};

static bool type_is(const struct x86_segment *seg, uint16_t bits)
{
    return (seg->attr & bits) == bits;
}

static const char *system_type(const struct dump *d, unsigned type)
{
    static const char *const names[2][16] = {
        {"Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate",
         "IntGate16", "TrapGate16", "Reserved", "TSS32-avl", "Reserved", "TSS32-busy",
         "CallGate32", "Reserved", "IntGate32", "TrapGate32"},
        {"<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved",
         "Reserved", "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64",
         "Reserved", "IntGate64", "TrapGate64"},
    };
    return names[d->long_mode][type];
}

static void dump_kind(const struct dump *d, const struct x86_segment *seg)
{
    bool down = seg->attr & X86_SEG_DOWN, rw = seg->attr & X86_SEG_RW;

    fprintf(d->out, " DPL=%d ", seg->attr >> X86_SEG_DPL_SHIFT & 3);
    if (!(seg->attr & X86_SEG_S)) {
        fprintf(d->out, "%s", system_type(d, seg->attr & X86_SEG_TYPE));
        return;
    }
    if (seg->attr & X86_SEG_CODE) {
        fprintf(d->out, "%s [%c%c",
                type_is(seg, X86_SEG_L)    ? "CS64"
                : type_is(seg, X86_SEG_DB) ? "CS32"
                                           : "CS16",
                down ? 'C' : '-', rw ? 'R' : '-');
    } else {
        bool wide = (seg->attr & X86_SEG_DB) || d->long_mode;

        fprintf(d->out, "%s [%c%c", wide ? "DS  " : "DS16", down ? 'E' : '-',
                rw ? 'W' : '-');
    }
    fprintf(d->out, "%c]", seg->attr & X86_SEG_ACCESSED ? 'A' : '-');
}

/* The fourth number is the descriptor's upper half, without its bits of the base. */
static void dump_segment(const struct dump *d, const char *name,
                         const struct x86_segment *seg)
{
    uint32_t limit = seg->attr & X86_SEG_G ? seg->limit >> 12 : seg->limit;
    uint32_t high =
        (seg->attr & 0xffu) << 8 | (seg->attr & 0xf000u) << 8 | (limit & 0xf0000u);

    fprintf(d->out, "%-3s=%04x %0*" PRIx64 " %08x %08x", name, seg->sel,
            d->code64 ? 16 : 8, seg->base, seg->limit, high);
    if (d->protected && (seg->attr & X86_SEG_P)) {
        dump_kind(d, seg);
    }
    fputc('\n', d->out);
}

static void dump_gprs(const struct dump *d)
{
    /* In this order, four a line. */
    static const struct {
        const char *wide, *narrow;
        unsigned reg;
    } regs[] = {
        {"RAX", "EAX", X86_RAX}, {"RBX", "EBX", X86_RBX}, {"RCX", "ECX", X86_RCX},
        {"RDX", "EDX", X86_RDX}, {"RSI", "ESI", X86_RSI}, {"RDI", "EDI", X86_RDI},
        {"RBP", "EBP", X86_RBP}, {"RSP", "ESP", X86_RSP}, {"R8", NULL, X86_R8},
        {"R9", NULL, X86_R9},    {"R10", NULL, X86_R10},  {"R11", NULL, X86_R11},
        {"R12", NULL, X86_R12},  {"R13", NULL, X86_R13},  {"R14", NULL, X86_R14},
        {"R15", NULL, X86_R15},
    };

    for (size_t i = 0; i < ARRAY_LEN(regs) && (d->code64 || regs[i].narrow); i++) {
        uint64_t v = d->s->gpr[regs[i].reg];
        char end = i % 4 == 3 ? '\n' : ' ';

        if (d->code64) {
            fprintf(d->out, "%-3s=%016" PRIx64 "%c", regs[i].wide, v, end);
        } else {
            fprintf(d->out, "%s=%08x%c", regs[i].narrow, (uint32_t)v, end);
        }
    }
}

static void dump_rip(const struct dump *d)
{
    static const struct {
        uint32_t bit;
        char letter;
    } flags[] = {{X86_FL_DF, 'D'}, {X86_FL_OF, 'O'}, {X86_FL_SF, 'S'}, {X86_FL_ZF, 'Z'},
                 {X86_FL_AF, 'A'}, {X86_FL_PF, 'P'}, {X86_FL_CF, 'C'}};
    const struct x86_state *s = d->s;

    if (d->code64) {
        fprintf(d->out, "RIP=%016" PRIx64 " RFL=%08x [", s->rip, (uint32_t)s->rflags);
    } else {
        fprintf(d->out, "EIP=%08x EFL=%08x [", (uint32_t)s->rip, (uint32_t)s->rflags);
    }
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        fputc(s->rflags & flags[i].bit ? flags[i].letter : '-', d->out);
    }
    fprintf(d->out, "] CPL=%u II=%d A20=%d SMM=0 HLT=%d\n", s->cpl, s->int_shadow,
            !s->a20_low, s->activity == X86_HALTED);
}

static void dump_system(const struct dump *d)
{
    const struct x86_state *s = d->s;
    int wide = d->long_mode ? 16 : 8;

    fprintf(d->out, "GDT=     %0*" PRIx64 " %08x\n", wide, s->gdtr.base, s->gdtr.limit);
    fprintf(d->out, "IDT=     %0*" PRIx64 " %08x\n", wide, s->idtr.base, s->idtr.limit);
    fprintf(d->out, "CR0=%08x CR2=%0*" PRIx64 " CR3=%0*" PRIx64 " CR4=%08x\n",
            (uint32_t)s->cr0, wide, s->cr2, wide, s->cr3, (uint32_t)s->cr4);
    for (unsigned i = 0; i < 4; i++) {
        fprintf(d->out, "DR%u=%016" PRIx64 " ", i, s->dr[i]);
    }
    fprintf(d->out, "\nDR6=%016" PRIx64 " DR7=%016" PRIx64 "\n", s->dr[6], s->dr[7]);
}

static void dump_fpu(const struct dump *d)
{
    const struct x86_fpu *f = &d->s->fpu;
    unsigned top = f->fsw >> 11 & 7, nb = d->code64 ? 16 : 8;

    fprintf(d->out, "FCW=%04x FSW=%04x [ST=%u] FTW=%02x MXCSR=%08x\n", f->fcw, f->fsw,
            top, f->ftw, f->mxcsr);
    for (unsigned i = 0; i < 8; i++) { /* physical registers */
        const uint8_t *st = f->st[(i - top) & 7];

        fprintf(d->out, "FPR%u=%016" PRIx64 " %04x%c", i, le64_get(st),
                le16_get(st + 8), i % 2 ? '\n' : ' ');
    }
    for (unsigned i = 0; i < nb; i++) {
        const uint8_t *v = f->ymm[i];

        if (d->s->xcr0 & X86_XCR0_AVX) {
            fprintf(
                d->out,
                "YMM%02u=%016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "\n",
                i, le64_get(v + 24), le64_get(v + 16), le64_get(v + 8), le64_get(v));
        } else {
            fprintf(d->out, "XMM%02u=%016" PRIx64 " %016" PRIx64 "%c", i,
                    le64_get(v + 8), le64_get(v), i % 2 ? '\n' : ' ');
        }
    }
}

void x86_state_dump(const struct x86_state *s, unsigned parts, FILE *out)
{
    static const char *const names[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    struct dump d = {
        .s = s,
        .out = out,
        .code64 = x86_state_code_bits(s) == 64,
        .long_mode = s->efer & X86_EFER_LMA,
        .protected = s->cr0 & X86_CR0_PE,
    };

    dump_gprs(&d);
    dump_rip(&d);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        dump_segment(&d, names[i], &s->seg[i]);
    }
    dump_segment(&d, "LDT", &s->ldtr);
    dump_segment(&d, "TR", &s->tr);
    dump_system(&d);
    if (parts & X86_DUMP_CC) {
        int wide = d.code64 ? 16 : 8;

        fprintf(out, "CCS=%0*" PRIx64 " CCD=%0*x CCO=EFLAGS\n", wide,
                s->rflags & X86_FL_ARITH, wide, 0);
    }
    fprintf(out, "EFER=%016" PRIx64 "\n", s->efer);
    if (parts & X86_DUMP_FPU) {
        dump_fpu(&d);
    }
}
