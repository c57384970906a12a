#include "lib/isa/x86/decode_oracle.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "lib/base/base.h"
#include "lib/isa/x86/decode_known.h"
#include "lib/isa/x86/insn.h"
#include "lib/isa/x86/opspec.h"

struct oracle {
    ZydisDecoder decoder[3]; /* 16, 32, 64 */
    ZydisFormatter formatter;
    struct oracle_counts counts;
    uint64_t known[KNOWN_MAX];
    GHashTable *printed; /* what differs and in what: one example of each is enough */
};

#define TEXT_RIP 0x1000

struct oracle *oracle_new(void)
{
    static const ZydisMachineMode modes[3] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
                                              ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                              ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth stacks[3] = {
        ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
    struct oracle *o = g_new0(struct oracle, 1);

    o->printed = g_hash_table_new(NULL, NULL);

    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoder *d = &o->decoder[i];

        ZydisDecoderInit(d, modes[i], stacks[i]);
        ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
        ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_TRUE);
        ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
    ZydisFormatter *f = &o->formatter;

    ZydisFormatterInit(f, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_FORCE_RELATIVE_RIPREL, ZYAN_TRUE);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_IMM_SIGNEDNESS,
                              ZYDIS_SIGNEDNESS_UNSIGNED);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_DISP_PADDING,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_IMM_PADDING,
                              ZYDIS_PADDING_DISABLED);
    return o;
}

void oracle_free(struct oracle *o)
{
    g_hash_table_destroy(o->printed);
    g_free(o);
}

const struct oracle_counts *oracle_get_counts(const struct oracle *o)
{
    return &o->counts;
}

void oracle_report(const struct oracle *o)
{
    printf("# compared %" G_GUINT64_FORMAT ", instructions %" G_GUINT64_FORMAT
           ", known differences %" G_GUINT64_FORMAT ", wrong %" G_GUINT64_FORMAT "\n",
           o->counts.compared, o->counts.valid, o->counts.known, o->counts.wrong);
    for (unsigned i = 0; known_differences[i].what; i++) {
        if (o->known[i]) {
            printf("#   %8" G_GUINT64_FORMAT "  %s: %s\n", o->known[i],
                   known_differences[i].what, known_differences[i].reason);
        }
    }
}

/* ---- one side by side view ---- */

struct pair {
    const uint8_t *bytes;
    int len; /* ours, or X86_DECODE_* */
    struct x86_insn insn;
    ZyanStatus status;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
    char text[2][128]; /* ours, theirs */
    char detail[160];
};

static bool differ(struct pair *p, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static bool differ(struct pair *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->detail, sizeof(p->detail), fmt, ap);
    va_end(ap);
    return false;
}

/* The number of a register in its class, ours. */
static unsigned reg_number(ZydisRegister reg)
{
    unsigned id = ZydisRegisterGetId(reg);

    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
        return X86_REG_HIGH + (reg - ZYDIS_REGISTER_AH);
    }
    /* Zydis numbers AL CL DL BL, AH CH DH BH, SPL...: take the containing register. */
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8) {
        return ZydisRegisterGetId(
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
    }
    return id;
}

static unsigned kind_of_class(ZydisRegisterClass c)
{
    switch (c) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return X86_OPND_REG;
    case ZYDIS_REGCLASS_X87: return X86_OPND_ST;
    case ZYDIS_REGCLASS_MMX: return X86_OPND_MMX;
    case ZYDIS_REGCLASS_XMM: return X86_OPND_XMM;
    case ZYDIS_REGCLASS_YMM: return X86_OPND_YMM;
    case ZYDIS_REGCLASS_SEGMENT: return X86_OPND_SEG;
    case ZYDIS_REGCLASS_CONTROL: return X86_OPND_CR;
    case ZYDIS_REGCLASS_DEBUG: return X86_OPND_DR;
    default: return X86_OPND_NONE;
    }
}

static unsigned address_reg(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE) {
        return X86_REG_NONE;
    }
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP) {
        return X86_REG_RIP;
    }
    return reg_number(reg);
}

static bool same_memory(struct pair *p, const struct x86_opnd *o,
                        const ZydisDecodedOperand *z)
{
    const struct x86_insn *i = &p->insn;
    unsigned seg = ZydisRegisterGetId(z->mem.segment);

    if (o->kind != X86_OPND_MEM) {
        unsigned reg = o->kind == X86_OPND_SRC ? X86_RSI : X86_RDI;

        if (o->kind != X86_OPND_SRC && o->kind != X86_OPND_DST) {
            return differ(p, "kind %u, theirs memory", o->kind);
        }
        if (address_reg(z->mem.base) != reg) {
            return differ(p, "string operand base");
        }
        if (seg != (o->kind == X86_OPND_SRC ? i->seg : X86_ES)) {
            return differ(p, "string operand segment %u", seg);
        }
    } else {
        if (address_reg(z->mem.base) != i->base ||
            address_reg(z->mem.index) != i->index) {
            return differ(p, "base %u index %u, theirs %u %u", i->base, i->index,
                          address_reg(z->mem.base), address_reg(z->mem.index));
        }
        if (i->index != X86_REG_NONE && z->mem.scale != i->scale) {
            return differ(p, "scale %u, theirs %u", i->scale, z->mem.scale);
        }
        uint64_t mask = UINT64_MAX >> (64 - 8 * i->addrsize);

        if ((z->mem.disp.value ^ i->disp) & mask) {
            return differ(p, "disp %lx, theirs %lx", (long)i->disp,
                          (long)z->mem.disp.value);
        }
        if (seg != i->seg && z->mem.segment != ZYDIS_REGISTER_NONE) {
            return differ(p, "segment %u, theirs %u", i->seg, seg);
        }
    }
    if (o->size && z->size / 8 != o->size) {
        return differ(p, "memory size %u, theirs %u", o->size, z->size / 8);
    }
    return true;
}

static bool same_immediate(struct pair *p, const struct x86_opnd *o, unsigned n,
                           const ZydisDecodedOperand *z)
{
    const struct x86_insn *i = &p->insn;

    if (o->kind == X86_OPND_REL) {
        return z->imm.value.s == i->imm || differ(p, "branch displacement");
    }
    if (o->kind != X86_OPND_IMM) {
        return differ(p, "kind %u, theirs immediate", o->kind);
    }
    uint64_t ours = n > 0 && i->opnd[n - 1].kind == X86_OPND_IMM ? i->imm2 : i->imm;
    uint64_t mask = o->size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * o->size)) - 1;

    if (i->imm_size < o->size && ours != z->imm.value.u) {
        return differ(p, "sign of immediate");
    }
    return ((ours ^ z->imm.value.u) & mask) == 0 || differ(p, "immediate");
}

static bool same_access(struct pair *p, const struct x86_opnd *o,
                        const ZydisDecodedOperand *z)
{
    unsigned theirs = (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? X86_ACC_R : 0) |
                      (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? X86_ACC_W : 0);

    /* A conditional write keeps the old value: that is reading for who tracks it. */
    if (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) {
        theirs |= o->access & X86_ACC_R;
    }
    return o->access == theirs || differ(p, "access %u, theirs %u", o->access, theirs);
}

static bool same_operand(struct pair *p, unsigned n, const ZydisDecodedOperand *z)
{
    const struct x86_opnd *o = &p->insn.opnd[n];
    unsigned kind;

    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        kind = kind_of_class(ZydisRegisterGetClass(z->reg.value));
        if (kind != o->kind || reg_number(z->reg.value) != o->reg) {
            return differ(p, "kind %u register %u, theirs %u %u", o->kind, o->reg, kind,
                          reg_number(z->reg.value));
        }
        if (kind == X86_OPND_REG && z->size / 8 != o->size) {
            return differ(p, "register size %u, theirs %u", o->size, z->size / 8);
        }
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (!same_memory(p, o, z)) {
            return false;
        }
        if (o->size == 0) { /* no data: then access is a matter of taste */
            return true;
        }
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        if (o->kind != X86_OPND_FAR || z->ptr.segment != p->insn.imm2 ||
            z->ptr.offset != (uint32_t)p->insn.imm) {
            return differ(p, "far pointer");
        }
        break;
    default:
        if (!same_immediate(p, o, n, z)) {
            return false;
        }
        break;
    }
    return same_access(p, o, z);
}

/* String operations hide their operands: find those that ours names. */
static bool same_string_operands(struct pair *p)
{
    for (unsigned n = 0; n < p->insn.nb_opnds; n++) {
        const struct x86_opnd *o = &p->insn.opnd[n];
        unsigned k;

        for (k = 0; k < p->zi.operand_count; k++) {
            const ZydisDecodedOperand *z = &p->zo[k];

            if (z->type == ZYDIS_OPERAND_TYPE_MEMORY
                    ? o->kind == (address_reg(z->mem.base) == X86_RSI ? X86_OPND_SRC
                                                                      : X86_OPND_DST)
                    : o->kind == X86_OPND_REG && reg_number(z->reg.value) == o->reg) {
                break;
            }
        }
        if (k == p->zi.operand_count) {
            return differ(p, "string operand %u not found", n);
        }
        if (!same_operand(p, n, &p->zo[k])) {
            return false;
        }
    }
    return true;
}

static bool is_st0(const ZydisDecodedOperand *z)
{
    return z->type == ZYDIS_OPERAND_TYPE_REGISTER && z->reg.value == ZYDIS_REGISTER_ST0;
}

/* XMM0 of BLENDVPS and its like: written down by us, hidden by Zydis. */
static bool ours_has_hidden_xmm0(const struct pair *p)
{
    return x86_insn_desc(&p->insn)->opnd[p->insn.nb_opnds - 1].enc == X86_ENC_XMM0;
}

/* Operands without an ST(0) that only one of the two writes down. */
static bool same_operands(struct pair *p)
{
    unsigned nb = 0, first = 0, theirs = p->zi.operand_count_visible;

    if (x86_insn_desc(&p->insn)->cls == X86_CLASS_STRING) {
        return same_string_operands(p);
    }
    if (x86_insn_desc(&p->insn)->cls == X86_CLASS_X87 && theirs > p->insn.nb_opnds) {
        if (theirs > 0 && is_st0(&p->zo[0])) {
            first = 1;
        }
        while (theirs > first && theirs - first > p->insn.nb_opnds &&
               is_st0(&p->zo[theirs - 1])) {
            theirs--;
        }
    }
    nb = theirs - first;
    if (nb + 1 == p->insn.nb_opnds && ours_has_hidden_xmm0(p)) {
        nb++; /* it is the next one in their list */
    }
    if (nb != p->insn.nb_opnds) {
        return differ(p, "%u operands, theirs %u", p->insn.nb_opnds, nb);
    }
    for (unsigned n = 0; n < nb; n++) {
        if (!same_operand(p, n, &p->zo[first + n])) {
            return false;
        }
    }
    return true;
}

/* Zydis' bits are those of EFLAGS, but for IOPL it has one. */
static uint32_t their_flags(uint32_t mask)
{
    return mask & 0x1000 ? mask | X86_FL_IOPL : mask;
}

static bool same_flags(struct pair *p)
{
    const struct x86_desc *row = x86_insn_desc(&p->insn);
    const ZydisAccessedFlags *z = p->zi.cpu_flags;
    ZydisAccessedFlags none = {0};

    if (!z) {
        z = &none;
    }
    uint32_t written = their_flags(z->modified | z->set_0 | z->set_1);
    uint32_t undef = their_flags(z->undefined);
    uint32_t ours_any = row->flags_written | row->flags_undef;

    if (x86_insn_flags_read(&p->insn) != their_flags(z->tested)) {
        return differ(p, "flags read %x, theirs %x", x86_insn_flags_read(&p->insn),
                      z->tested);
    }
    if (ours_any != (written | undef) || row->flags_undef != undef) {
        return differ(p, "flags written %x undefined %x, theirs %x %x",
                      row->flags_written, row->flags_undef, written, undef);
    }
    return true;
}

static void their_gprs(const struct pair *p, uint16_t *ret_rd, uint16_t *ret_wr)
{
    uint16_t rd = 0, wr = 0;

    for (unsigned n = 0; n < p->zi.operand_count; n++) {
        const ZydisDecodedOperand *z = &p->zo[n];

        if (z->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            kind_of_class(ZydisRegisterGetClass(z->reg.value)) == X86_OPND_REG) {
            unsigned reg = reg_number(z->reg.value);
            uint16_t bit = 1u << (reg >= X86_REG_HIGH ? reg - X86_REG_HIGH : reg);

            rd |= z->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? bit : 0;
            wr |= z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? bit : 0;
        } else if (z->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            unsigned base = address_reg(z->mem.base), index = address_reg(z->mem.index);

            rd |= base < X86_NB_GPR ? 1u << base : 0;
            if (index < X86_NB_GPR && z->mem.type != ZYDIS_MEMOP_TYPE_VSIB) {
                rd |= 1u << index;
            }
        }
    }
    *ret_rd = rd;
    *ret_wr = wr;
}

static bool same_gprs(struct pair *p)
{
    uint16_t rd, wr, zrd, zwr;

    x86_insn_gprs(&p->insn, &rd, &wr);
    their_gprs(p, &zrd, &zwr);
    if (wr != zwr) {
        return differ(p, "registers written %x, theirs %x", wr, zwr);
    }
    /* What is written in part or perhaps is read too, for one of the two. */
    return (rd | wr) == (zrd | zwr) ||
           differ(p, "registers read %x, theirs %x", rd, zrd);
}

static bool same_text(struct oracle *o, struct pair *p)
{
    x86_format(&p->insn, TEXT_RIP, p->text[0], sizeof(p->text[0]));
    if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
            &o->formatter, &p->zi, p->zo, p->zi.operand_count_visible, p->text[1],
            sizeof(p->text[1]), TEXT_RIP, NULL))) {
        return differ(p, "no text");
    }
    known_spelling(&p->insn, p->text[0], p->text[1], sizeof(p->text[1]));
    return strcmp(p->text[0], p->text[1]) == 0 ||
           differ(p, "text '%s', theirs '%s'", p->text[0], p->text[1]);
}

static void print_wrong(struct oracle *o, const struct pair *p, unsigned mode,
                        enum diff diff)
{
    static const char *const names[] = {"none",     "we #UD", "they #UD", "length",
                                        "operands", "flags",  "gprs",     "text"};
    bool theirs = ZYAN_SUCCESS(p->status);

    unsigned key = (diff << 28) | ((p->len > 0 ? p->insn.op : 0) << 14) |
                   (theirs ? p->zi.mnemonic : 0);

    if (!g_hash_table_add(o->printed, GUINT_TO_POINTER(key))) {
        return;
    }
    printf("# %u-bit, %s:", mode, names[diff]);
    for (int n = 0; n < (p->len > 0 ? p->len : theirs ? p->zi.length : 15); n++) {
        printf(" %02x", p->bytes[n]);
    }
    printf(" ours %s (%d), theirs %s %s: %s\n",
           p->len > 0 ? x86_op_name(p->insn.op) : "-", p->len,
           theirs ? ZydisMnemonicGetString(p->zi.mnemonic) : "-",
           theirs ? ZydisISAExtGetString(p->zi.meta.isa_ext) : "", p->detail);
}

/* @diff was found: known, or wrong and printed. */
static void count_difference(struct oracle *o, const struct pair *p, unsigned mode,
                             enum diff diff)
{
    int known =
        known_find(diff, p->len > 0 ? &p->insn : NULL,
                   ZYAN_SUCCESS(p->status) ? &p->zi : NULL, p->zo, p->bytes, mode);

    if (known >= 0) {
        o->known[known]++;
        o->counts.known++;
    } else {
        o->counts.wrong++;
        print_wrong(o, p, mode, diff);
    }
}

int oracle_compare(struct oracle *o, const uint8_t *bytes, unsigned mode)
{
    struct pair p = {.bytes = bytes};
    bool theirs;

    p.len = x86_decode(&p.insn, bytes, X86_INSN_MAX_LEN, mode);
    p.status = ZydisDecoderDecodeFull(&o->decoder[mode >> 5], bytes, X86_INSN_MAX_LEN,
                                      &p.zi, p.zo);
    theirs = ZYAN_SUCCESS(p.status);
    o->counts.compared++;
    if (!theirs || p.len < 0) {
        if (theirs || p.len > 0) {
            count_difference(o, &p, mode, theirs ? DIFF_WE_UD : DIFF_THEY_UD);
        }
        return 0;
    }
    o->counts.valid++;
    if (p.zi.length != p.len) {
        differ(&p, "length %d, theirs %u", p.len, p.zi.length);
        count_difference(o, &p, mode, DIFF_LENGTH);
        return 0;
    }
    if (!same_operands(&p)) {
        count_difference(o, &p, mode, DIFF_OPERANDS);
    }
    if (!same_flags(&p)) {
        count_difference(o, &p, mode, DIFF_FLAGS);
    }
    if (!same_gprs(&p)) {
        count_difference(o, &p, mode, DIFF_GPRS);
    }
    if (!same_text(o, &p)) {
        count_difference(o, &p, mode, DIFF_TEXT);
    }
    return p.len;
}
