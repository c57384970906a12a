#include "lib/isa/x86/insn.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * Intel-syntax text of a decoded instruction. It follows what objdump -M intel and
 * Capstone print where they agree; sizes of memory operands are always written, and
 * a RIP-relative operand is followed by the address it means:
 *
 *     mov rax, qword ptr [rip+0x2ee2]  # 0x404018
 */

struct text {
    char *buf;
    size_t size;
    size_t len; /* of the whole text, even what did not fit */
};

static void G_GNUC_PRINTF(2, 3) put(struct text *t, const char *fmt, ...)
{
    size_t at = MIN(t->len, t->size);
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(t->size ? t->buf + at : NULL, t->size - at, fmt, ap);
    va_end(ap);
    t->len += n > 0 ? n : 0;
}

const char *x86_gpr_name(unsigned reg, unsigned size)
{
    static const char *const names[4][20] = {
        {"al",   "cl",   "dl",   "bl",   "spl",  "bpl",  "sil", "dil", "r8b", "r9b",
         "r10b", "r11b", "r12b", "r13b", "r14b", "r15b", "ah",  "ch",  "dh",  "bh"},
        {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w",
         "r12w", "r13w", "r14w", "r15w"},
        {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d",
         "r11d", "r12d", "r13d", "r14d", "r15d"},
        {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10",
         "r11", "r12", "r13", "r14", "r15"},
    };
    unsigned row = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;

    return reg < 20 && names[row][reg] ? names[row][reg] : "?";
}

static const char *seg_name(unsigned seg)
{
    static const char *const names[8] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};

    return names[seg & 7];
}

/* "dword ptr ", or nothing where the size has no name. */
static const char *size_name(unsigned size)
{
    switch (size) {
    case 1: return "byte ptr ";
    case 2: return "word ptr ";
    case 4: return "dword ptr ";
    case 6: return "fword ptr ";
    case 8: return "qword ptr ";
    case 10: return "tbyte ptr ";
    case 16: return "xmmword ptr ";
    case 32: return "ymmword ptr ";
    default: return "";
    }
}

/* Mnemonics whose suffix is their operand size: 2, 4, 8 bytes. */
struct sized_name {
    uint16_t op;
    const char *names[3];
};

static const struct sized_name sized_names[] = {
    {X86_OP_CBW, {"cbw", "cwde", "cdqe"}},
    {X86_OP_CWD, {"cwd", "cdq", "cqo"}},
    {X86_OP_IRET, {"iret", "iretd", "iretq"}},
    {X86_OP_PUSHF, {"pushf", "pushfd", "pushfq"}},
    {X86_OP_POPF, {"popf", "popfd", "popfq"}},
    {X86_OP_PUSHA, {"pusha", "pushad", "pushad"}},
    {X86_OP_POPA, {"popa", "popad", "popad"}},
    {X86_OP_CALLF, {"call far", "call far", "call far"}},
    {X86_OP_JMPF, {"jmp far", "jmp far", "jmp far"}},
    {X86_OP_RETF, {"retf", "retf", "retfq"}},
    {X86_OP_SYSRET, {"sysret", "sysret", "sysretq"}},
    {X86_OP_SYSEXIT, {"sysexit", "sysexit", "sysexitq"}},
    {X86_OP_FXSAVE, {"fxsave", "fxsave", "fxsave64"}},
    {X86_OP_FXRSTOR, {"fxrstor", "fxrstor", "fxrstor64"}},
    {X86_OP_XSAVE, {"xsave", "xsave", "xsave64"}},
    {X86_OP_XSAVEOPT, {"xsaveopt", "xsaveopt", "xsaveopt64"}},
    {X86_OP_XSAVEC, {"xsavec", "xsavec", "xsavec64"}},
    {X86_OP_XSAVES, {"xsaves", "xsaves", "xsaves64"}},
    {X86_OP_XRSTOR, {"xrstor", "xrstor", "xrstor64"}},
    {X86_OP_XRSTORS, {"xrstors", "xrstors", "xrstors64"}},
};

static unsigned size_index(unsigned bytes)
{
    return bytes == 2 ? 0 : bytes == 4 ? 1 : 2;
}

static void put_mnemonic(struct text *t, const struct x86_insn *i)
{
    static const char *const cc[16] = {"o", "no", "b", "ae", "e", "ne", "be", "a",
                                       "s", "ns", "p", "np", "l", "ge", "le", "g"};
    const char *name = x86_op_name(i->op);

    if (x86_insn_desc(i)->nb_opcode == 16) { /* JCC, SETCC, CMOVCC */
        put(t, "%.*s%s", (int)strlen(name) - 2, name, cc[i->cc & 15]);
        return;
    }
    if (i->op == X86_OP_JCXZ) {
        static const char *const jcxz[3] = {"jcxz", "jecxz", "jrcxz"};

        put(t, "%s", jcxz[size_index(i->addrsize)]);
        return;
    }
    if (x86_insn_desc(i)->cls == X86_CLASS_STRING) {
        put(t, "%s%c", name, i->opsize == 1 ? 'b' : "wdq"[size_index(i->opsize)]);
        return;
    }
    for (unsigned n = 0; n < ARRAY_LEN(sized_names); n++) {
        if (sized_names[n].op == i->op) {
            put(t, "%s", sized_names[n].names[size_index(i->opsize)]);
            return;
        }
    }
    put(t, "%s", name);
}

static void put_prefixes(struct text *t, const struct x86_insn *i)
{
    bool compares = i->op == X86_OP_CMPS || i->op == X86_OP_SCAS;

    if (i->prefixes & X86_P_LOCK && x86_insn_desc(i)->props & X86_D_LOCK) {
        put(t, "lock ");
    }
    if (x86_insn_desc(i)->cls != X86_CLASS_STRING) {
        return;
    }
    if (i->prefixes & X86_P_REP) {
        put(t, compares ? "repe " : "rep ");
    } else if (i->prefixes & X86_P_REPNE) {
        put(t, "repne ");
    }
}

static uint64_t truncate_to(uint64_t v, unsigned bytes)
{
    return bytes >= 8 ? v : v & ((UINT64_C(1) << (8 * bytes)) - 1);
}

static void put_index(struct text *t, const struct x86_insn *i)
{
    unsigned props = x86_insn_desc(i)->props;

    if (i->base != X86_REG_NONE) {
        put(t, "+");
    }
    if (props & (X86_D_VSIB | X86_D_VSIB_HALF)) {
        bool ymm = props & X86_D_VSIB && i->prefixes & X86_P_L;

        put(t, "%cmm%u", ymm ? 'y' : 'x', i->index);
    } else {
        put(t, "%s", x86_gpr_name(i->index, i->addrsize));
    }
    if (i->scale > 1) {
        put(t, "*%u", i->scale);
    }
}

static void put_mem(struct text *t, const struct x86_insn *i, const struct x86_opnd *o)
{
    bool seg = i->prefixes & X86_P_SEG && i->op != X86_OP_LEA;

    put(t, "%s%s%s[", size_name(o->size), seg ? seg_name(i->seg) : "", seg ? ":" : "");
    if (i->base == X86_REG_RIP) {
        put(t, i->addrsize == 4 ? "eip" : "rip");
    } else if (i->base != X86_REG_NONE) {
        put(t, "%s", x86_gpr_name(i->base, i->addrsize));
    }
    if (i->index != X86_REG_NONE) {
        put_index(t, i);
    }
    if (i->base == X86_REG_NONE && i->index == X86_REG_NONE) {
        put(t, "0x%" PRIx64, truncate_to(i->disp, i->addrsize));
    } else if (i->disp < 0) {
        put(t, "-0x%" PRIx64, -(uint64_t)i->disp);
    } else if (i->disp > 0) {
        put(t, "+0x%" PRIx64, (uint64_t)i->disp);
    }
    put(t, "]");
}

static void put_string_mem(struct text *t, const struct x86_insn *i,
                           const struct x86_opnd *o)
{
    if (o->kind == X86_OPND_SRC) {
        bool seg = i->prefixes & X86_P_SEG;

        put(t, "%s%s%s[%s]", size_name(o->size), seg ? seg_name(i->seg) : "",
            seg ? ":" : "", x86_gpr_name(X86_RSI, i->addrsize));
    } else {
        put(t, "%ses:[%s]", size_name(o->size), x86_gpr_name(X86_RDI, i->addrsize));
    }
}

static void put_operand(struct text *t, const struct x86_insn *i, unsigned n,
                        uint64_t rip)
{
    const struct x86_opnd *o = &i->opnd[n];

    switch (o->kind) {
    case X86_OPND_REG: put(t, "%s", x86_gpr_name(o->reg, o->size)); break;
    case X86_OPND_MEM: put_mem(t, i, o); break;
    case X86_OPND_IMM: {
        bool second = n > 0 && i->opnd[n - 1].kind == X86_OPND_IMM;

        put(t, "0x%" PRIx64, second ? i->imm2 : truncate_to(i->imm, o->size));
        break;
    }
    case X86_OPND_REL: put(t, "0x%" PRIx64, x86_branch_target(i, rip)); break;
    case X86_OPND_FAR: put(t, "0x%x:0x%" PRIx64, i->imm2, (uint64_t)i->imm); break;
    case X86_OPND_SRC:
    case X86_OPND_DST: put_string_mem(t, i, o); break;
    case X86_OPND_SEG: put(t, "%s", seg_name(o->reg)); break;
    case X86_OPND_CR: put(t, "cr%u", o->reg); break;
    case X86_OPND_DR: put(t, "dr%u", o->reg); break;
    case X86_OPND_ST: put(t, "st(%u)", o->reg); break;
    case X86_OPND_MMX: put(t, "mm%u", o->reg); break;
    case X86_OPND_XMM: put(t, "xmm%u", o->reg); break;
    case X86_OPND_YMM: put(t, "ymm%u", o->reg); break;
    default: break;
    }
}

size_t x86_format(const struct x86_insn *insn, uint64_t rip, char *buf, size_t n)
{
    struct text t = {.buf = buf, .size = n};

    if (n > 0) {
        buf[0] = '\0';
    }
    put_prefixes(&t, insn);
    put_mnemonic(&t, insn);
    for (unsigned k = 0; k < insn->nb_opnds; k++) {
        put(&t, k ? ", " : " ");
        put_operand(&t, insn, k, rip);
    }
    if (insn->base == X86_REG_RIP) {
        put(&t, "  # 0x%" PRIx64,
            truncate_to(rip + insn->len + (uint64_t)insn->disp, insn->addrsize));
    }
    return t.len;
}
