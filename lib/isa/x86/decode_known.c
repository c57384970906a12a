#include "lib/isa/x86/decode_known.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/opspec.h"

/* Theirs is one of the mnemonics in @names, which is closed by NULL. */
static bool is_one_of(const struct known_case *c, const char *const *names)
{
    const char *name = ZydisMnemonicGetString(c->zi->mnemonic);

    return g_strv_contains(names, name);
}

/* ---- instructions one of the two does not know ---- */

static bool other_encoding(const struct known_case *c)
{
    switch (c->zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW: return true;
    default: return false;
    }
}

static bool not_offered(const struct known_case *c)
{
    static const char *const exts[] = {"AMX_TILE",
                                       "AMX_INT8",
                                       "AMX_BF16",
                                       "AVX512EVEX",
                                       "AVX512VEX",
                                       "CET",
                                       "ENQCMD",
                                       "FMA4",
                                       "HRESET",
                                       "KEYLOCKER",
                                       "KEYLOCKER_WIDE",
                                       "KNC",
                                       "KNCE",
                                       "KNCV",
                                       "KNCJKBR",
                                       "KNCSTREAM",
                                       "MPX",
                                       "PADLOCK",
                                       "PCONFIG",
                                       "PT",
                                       "PTWRITE",
                                       "RTM",
                                       "SGX",
                                       "SGX_ENCLV",
                                       "SMX",
                                       "SNP",
                                       "TDX",
                                       "TSX_LDTRK",
                                       "UINTR",
                                       "WAITPKG",
                                       "XOP",
                                       "AMD_INVLPGB",
                                       "MCOMMIT",
                                       "TBM",
                                       "LWP",
                                       NULL};

    return g_strv_contains(exts, ZydisISAExtGetString(c->zi->meta.isa_ext));
}

static bool is_femms(const struct known_case *c)
{
    static const char *const names[] = {"femms", NULL};

    return is_one_of(c, names);
}

static bool is_clzero(const struct known_case *c)
{
    static const char *const names[] = {"clzero", NULL};

    return is_one_of(c, names);
}

static bool is_prefetch_reg(const struct known_case *c)
{
    static const char *const names[] = {"nop", NULL};

    return is_one_of(c, names) && c->zi->opcode == 0x0d;
}

static bool vvvv_bit3(const struct known_case *c)
{
    return c->mode != 64 && c->insn->prefixes & X86_P_VEX;
}

static bool is_lock_mov_cr(const struct known_case *c)
{
    return c->insn->op == X86_OP_MOV && c->insn->prefixes & X86_P_LOCK;
}

/* ---- operands ---- */

/* VEX.W set, outside 64-bit mode. */
static bool is_vpextrd_w1(const struct known_case *c)
{
    static const char *const names[] = {"vpextrd", "vpinsrd", NULL};

    return is_one_of(c, names);
}

static bool near_indirect_66(const struct known_case *c)
{
    return c->mode == 64 && c->insn->opsize == 2 &&
           (c->insn->op == X86_OP_JMP || c->insn->op == X86_OP_CALL);
}

/* SIB.base 5 with mod 0: no base register, whatever REX.B is. */
static bool no_base_with_rex_b(const struct known_case *c)
{
    return c->mode == 64 && c->insn->addrsize == 4 && c->insn->base == X86_REG_NONE &&
           c->zi->raw.sib.base == 5 && c->zi->raw.modrm.mod == 0;
}

static bool far_pointer_64(const struct known_case *c)
{
    return c->insn->opsize == 8 && x86_insn_mem(c->insn) &&
           x86_insn_mem(c->insn)->size == 6;
}

static bool no_data(const struct known_case *c)
{
    const struct x86_opnd *mem = x86_insn_mem(c->insn);

    return mem && mem->size == 0;
}

static bool bsf_or_bsr(const struct known_case *c)
{
    return c->insn->op == X86_OP_BSF || c->insn->op == X86_OP_BSR;
}

static bool lar_or_lsl(const struct known_case *c)
{
    return c->insn->op == X86_OP_LAR || c->insn->op == X86_OP_LSL;
}

static bool address_in_rax(const struct known_case *c)
{
    static const char *const names[] = {"clzero", "vmrun",   "vmload",   "vmsave",
                                        "skinit", "invlpga", "monitorx", NULL};

    return is_one_of(c, names);
}

static bool cvtsi2(const struct known_case *c)
{
    return c->insn->op == X86_OP_CVTSI2SS || c->insn->op == X86_OP_CVTSI2SD;
}

static bool is_extrq(const struct known_case *c)
{
    return c->insn->op == X86_OP_EXTRQ || c->insn->op == X86_OP_INSERTQ;
}

static bool is_nop(const struct known_case *c)
{
    return c->insn->op == X86_OP_NOP;
}

static bool is_xchg_r8(const struct known_case *c)
{
    return c->insn->op == X86_OP_XCHG && c->insn->opcode == 0x90;
}

static bool movsxd_66(const struct known_case *c)
{
    return c->insn->op == X86_OP_MOVSXD && c->insn->opsize == 2;
}

static bool mask_to_gpr(const struct known_case *c)
{
    static const char *const names[] = {"movmskps",  "movmskpd",  "pmovmskb",
                                        "vmovmskps", "vmovmskpd", "vpmovmskb",
                                        "pextrw",    "vpextrw",   NULL};

    return is_one_of(c, names);
}

static bool is_0f0d_3(const struct known_case *c)
{
    return c->insn->op == X86_OP_PREFETCHW;
}

/* 3E before an indirect branch. */
static bool is_notrack(const struct known_case *c)
{
    return c->zi->attributes & ZYDIS_ATTRIB_HAS_NOTRACK;
}

static bool is_wbnoinvd(const struct known_case *c)
{
    return c->insn->op == X86_OP_WBNOINVD;
}

/* ---- implicit registers ---- */

static bool is_mwaitx(const struct known_case *c)
{
    return c->insn->op == X86_OP_MWAITX;
}

static bool is_vmfunc(const struct known_case *c)
{
    return c->insn->op == X86_OP_VMFUNC;
}

static bool is_string(const struct known_case *c)
{
    return x86_insn_desc(c->insn)->cls == X86_CLASS_STRING;
}

static bool is_far_pointer(const struct known_case *c)
{
    return c->insn->opnd[0].kind == X86_OPND_FAR;
}

static bool is_scas_or_cmps(const struct known_case *c)
{
    return c->insn->op == X86_OP_SCAS || c->insn->op == X86_OP_CMPS;
}

/* ---- flags ---- */

static bool is_sbb(const struct known_case *c)
{
    return c->insn->op == X86_OP_SBB;
}

static bool is_bextr(const struct known_case *c)
{
    return c->insn->op == X86_OP_BEXTR;
}

static bool is_vtest(const struct known_case *c)
{
    return c->insn->op == X86_OP_VPTEST || c->insn->op == X86_OP_VTESTPS ||
           c->insn->op == X86_OP_VTESTPD;
}

static bool is_system(const struct known_case *c)
{
    unsigned op = c->insn->op;

    return x86_insn_desc(c->insn)->priv != X86_PRIV_ANY ||
           (op >= X86_OP_CALLF && op <= X86_OP_SYSEXIT) || op == X86_OP_JMPF ||
           op == X86_OP_PUSHF || op == X86_OP_POPF || op == X86_OP_IRET;
}

#define UD   (1 << DIFF_WE_UD)
#define VAL  (1 << DIFF_THEY_UD)
#define OPS  (1 << DIFF_OPERANDS)
#define FLG  (1 << DIFF_FLAGS)
#define GPR  (1 << DIFF_GPRS)
#define TEXT (1 << DIFF_TEXT)

/* clang-format off */
const struct known_difference known_differences[] = {
    {"EVEX, MVEX, XOP, 3DNow!", UD, other_encoding,
     "not offered to guests: #UD"},
    {"instruction sets of other processors", UD, not_offered,
     "not on AMD's processors or not offered to guests: #UD"},
    {"FEMMS", UD, is_femms,
     "went with 3DNow!; Zen raises #UD"},
    {"F2 CLZERO", UD, is_clzero,
     "F2 and F3 make it #UD (seen on Zen 5), Zydis knows that of F3"},
    {"VPEXTRD, VPINSRD with W1 outside 64-bit mode", UD, is_vpextrd_w1,
     "#UD (seen on Zen 5), Zydis ignores VEX.W"},
    {"PREFETCH with a register", UD, is_prefetch_reg,
     "AMD raises #UD (seen on Zen 5), Intel takes it as NOP"},
    {"VEX.vvvv bit 3 outside 64-bit mode", VAL | OPS, vvvv_bit3,
     "ignored there (SDM volume 2, 2.3.5.6); Zydis takes part of it"},
    {"LOCK MOV CR0", VAL, is_lock_mov_cr,
     "is MOV CR8 on AMD (cr8legacy)"},
    {"66 with JMP and CALL through a register or memory", OPS | TEXT, near_indirect_66,
     "16 bits wide on AMD (seen on Zen 5); Zydis knows that of relative branches only"},
    {"REX.W with far pointers in memory", OPS | TEXT, far_pointer_64,
     "AMD loads 16:32 (seen on Zen 5), Intel 16:64"},
    {"67 and SIB without base and REX.B", OPS | GPR | TEXT, no_base_with_rex_b,
     "no base register (seen on Zen 5), Zydis takes R13D"},
    {"operands without data", OPS, no_data,
     "number, segment and size of an address that is not accessed"},
    {"BSF, BSR destination", OPS, bsf_or_bsr,
     "kept when the source is 0 (AMD documents it): read and written"},
    {"LAR, LSL source and destination", OPS | TEXT, lar_or_lsl,
     "16 bits are read whatever the register; the destination may be kept"},
    {"address in rAX", OPS | TEXT, address_in_rax,
     "an implicit register for us, an operand for Zydis"},
    {"CVTSI2SS, CVTSI2SD destination", OPS, cvtsi2,
     "we say what is written (4 or 8 bytes), as for MOVSS"},
    {"EXTRQ, INSERTQ destination", OPS, is_extrq,
     "read and written; for Zydis only one of these"},
    {"NOPs with ModRM", OPS | GPR | TEXT, is_nop,
     "one operand, not accessed; also MPX and CET instructions: NOP without them"},
    {"F3 41 90", OPS | GPR | TEXT, is_xchg_r8,
     "XCHG R8, RAX (seen on Zen 5), Zydis says PAUSE"},
    {"66 MOVSXD", OPS | TEXT, movsxd_66,
     "reads 4 bytes (seen on Zen 5), Zydis says 2"},
    {"REX.W MOVMSK, PEXTRW", OPS | TEXT, mask_to_gpr,
     "no more than 32 bits come out: a 32-bit register whatever REX.W is"},
    {"F3 0F 09", TEXT, is_wbnoinvd,
     "WBNOINVD in every mode, for Zydis only in 64-bit mode"},
    {"0F 0D /3", TEXT, is_0f0d_3,
     "another PREFETCHW on AMD"},
    {"3E before an indirect branch", OPS | TEXT, is_notrack,
     "the DS it is outside 64-bit mode, no NOTRACK without CET"},
    {"MWAITX registers", GPR, is_mwaitx,
     "reads EBX too"},
    {"VMFUNC registers", GPR, is_vmfunc,
     "reads ECX too"},
    {"string operations' registers", GPR, is_string,
     "rSI and rDI are advanced, Zydis has some as only read"},
    {"far pointers", TEXT, is_far_pointer,
     "Zydis fills the offset up with zeros"},
    {"REP SCAS, REP CMPS flags", FLG, is_scas_or_cmps,
     "the ZF that ends them is their own, not one from before"},
    {"SBB flags", FLG, is_sbb,
     "AF is defined; Zydis has it undefined in some forms"},
    {"BEXTR flags", FLG, is_bextr,
     "AMD: CF and OF cleared, ZF from the result; Zydis has them undefined"},
    {"VPTEST, VTESTPS, VTESTPD flags", FLG, is_vtest,
     "AF, OF, PF, SF are cleared; Zydis leaves them out"},
    {"flags of system instructions", FLG, is_system,
     "what is pushed, popped and checked is counted differently"},
    {NULL, 0, NULL, NULL},
};
/* clang-format on */

int known_find(enum diff diff, const struct x86_insn *insn,
               const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
               const uint8_t *bytes, unsigned mode)
{
    struct known_case c = {insn, zi, zo, bytes, mode};

    for (unsigned i = 0; known_differences[i].what; i++) {
        if (known_differences[i].diffs & 1u << diff &&
            known_differences[i].applies(&c)) {
            return i;
        }
    }
    return -1;
}

/* ---- spelling ---- */

struct respelling {
    const char *theirs;
    const char *ours;
};

/* Words that Zydis writes otherwise, or where we leave something out. */
static const struct respelling respellings[] = {
    {"*1]", "]"}, /* scale 1 is not written */
    {"*1+", "+"},
    {"*1-", "-"},
    {"xacquire ", ""}, /* hints that no AMD processor knows */
    {"xrelease ", ""},
    {"bnd ", ""},
    {"notrack ", ""},
    {"ret far", "retf"}, /* objdump's names */
    {"fstpnce", "fstp"}, /* undocumented aliases */
    {"fcom2 ", "fcom "},
    {"fcomp3", "fcomp"},
    {"fcomp5", "fcomp"},
    {"fxch4", "fxch"},
    {"fxch7", "fxch"},
    {"fstp8", "fstp"},
    {"fstp9", "fstp"},
    {"fsetpm287_nop", "fnsetpm"},
    {"fdisi8087_nop", "fndisi"},
    {"feni8087_nop", "fneni"},
    {"prefetchwt1", "prefetch"}, /* 0F 0D /2 is plain PREFETCH on AMD */
};

/* Condition suffixes. */
static const struct respelling conditions[] = {
    {"nbe", "a"}, {"nle", "g"}, {"nb", "ae"}, {"nz", "ne"}, {"nl", "ge"}, {"z", "e"},
};

/* Replace every @from in @text, of size @n, by @to. */
static void replace(char *text, size_t n, const char *from, const char *to)
{
    if (strstr(text, from)) {
        g_autoptr(GString) s = g_string_new(text);

        g_string_replace(s, from, to, 0);
        g_strlcpy(text, s->str, n);
    }
}

/* The condition ends the mnemonic, which ends at the first blank. */
static void respell_condition(char *theirs, size_t n, const struct x86_insn *insn)
{
    char *blank = strchr(theirs, ' ');
    size_t len = blank ? (size_t)(blank - theirs) : strlen(theirs);
    size_t stem = strlen(x86_op_name(insn->op)) - 2;

    for (unsigned i = 0; i < ARRAY_LEN(conditions); i++) {
        const struct respelling *c = &conditions[i];

        if (len == stem + strlen(c->theirs) &&
            strncmp(theirs + stem, c->theirs, len - stem) == 0) {
            g_autofree char *text =
                g_strdup_printf("%.*s%s%s", (int)stem, theirs, c->ours, theirs + len);

            g_strlcpy(theirs, text, n);
            return;
        }
    }
}

/* Zydis does not wrap targets at the size of rIP. */
static void wrap_target(char *theirs, const struct x86_insn *insn)
{
    char *hex = strstr(theirs, "0x");

    if (insn->opnd[0].kind == X86_OPND_REL && hex && insn->opsize < 8) {
        guint64 mask = (UINT64_C(1) << (8 * insn->opsize)) - 1;

        sprintf(hex, "0x%" G_GINT64_MODIFIER "x",
                g_ascii_strtoull(hex, NULL, 16) & mask);
    }
}

/* "xmmword ptr [" -> "[" where we write no size. */
static void drop_size(char *theirs)
{
    char *ptr = strstr(theirs, " ptr "), *start = ptr;

    while (start && start > theirs && start[-1] != ' ') {
        start--;
    }
    if (start) {
        memmove(start, ptr + 5, strlen(ptr + 5) + 1);
    }
}

static void respell_x87(char *theirs, size_t n, const struct x86_insn *insn)
{
    for (unsigned i = 0; i < 8; i++) {
        char from[8], to[8];

        snprintf(from, sizeof(from), "st%u", i);
        snprintf(to, sizeof(to), "st(%u)", i);
        replace(theirs, n, from, to);
    }
    if (insn->nb_opnds < 2) { /* the implicit one */
        replace(theirs, n, " st(0), ", " ");
        if (insn->nb_opnds == 0 || insn->opnd[0].kind == X86_OPND_MEM) {
            replace(theirs, n, ", st(0)", "");
        }
    }
}

static void cut_at(char *text, const char *what)
{
    char *at = strstr(text, what);

    if (at) {
        *at = '\0';
    }
}

/* Leave mnemonic and REP prefix of a string operation. */
static void drop_operands(char *text)
{
    char *blank = strchr(text, ' ');

    if (blank && g_str_has_prefix(text, "rep")) {
        blank = strchr(blank + 1, ' ');
    }
    if (blank) {
        *blank = '\0';
    }
}

void known_spelling(const struct x86_insn *insn, char *ours, char *theirs, size_t n)
{
    const struct x86_desc *row = x86_insn_desc(insn);
    const struct x86_opnd *mem = x86_insn_mem(insn);

    cut_at(ours, "  # "); /* the address that a RIP-relative operand means */
    for (unsigned i = 0; i < ARRAY_LEN(respellings); i++) {
        replace(theirs, n, respellings[i].theirs, respellings[i].ours);
    }
    if (row->nb_opcode == 16) {
        respell_condition(theirs, n, insn);
    }
    if (row->cls == X86_CLASS_X87) {
        respell_x87(theirs, n, insn);
    }
    if (row->cls == X86_CLASS_STRING) {
        drop_operands(ours); /* Zydis hides them */
    }
    if (row->nb_opnds == 3 && row->opnd[2].enc == X86_ENC_XMM0) {
        ours[strlen(ours) - strlen(", xmm0")] = '\0';
    }
    if (mem && mem->size == 0) {
        drop_size(theirs);
    }
    wrap_target(theirs, insn);
    if (g_str_has_prefix(ours, "sys") || g_str_has_prefix(ours, "retf")) {
        replace(ours, n, "q", ""); /* the 64-bit forms have the suffix in objdump too */
    }
}
