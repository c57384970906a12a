#include "lib/isa/x86/insn.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/tables.h"

/*
 * The decoder. An instruction is
 *
 *     legacy prefixes | REX or VEX | escape bytes, opcode | ModRM | SIB | disp | imm
 *
 * and is taken apart in that order, each byte once:
 *
 *  1. scan_prefixes(): any number of legacy prefixes; REX counts only directly
 *     before the opcode.
 *  2. scan_opcode(): map and opcode; a VEX prefix brings map, W, L, vvvv and the
 *     mandatory prefix with it.
 *  3. find_row(): the slot of (map, opcode) lists the rows that may match, in order.
 *     What selects among them, other than ModRM, is gathered as one bit per fact
 *     (X86_A_*: "F3 is there", "ModRM is memory", "64-bit code"); a row matches when
 *     it allows every fact that holds. Rows of instructions for which 66, F2 or F3
 *     are no opcode part allow all four prefix facts.
 *  4. take_operands(): registers, memory and immediates as the row's operand
 *     specifications say.
 *  5. check(): what makes the encoding invalid although a row was found.
 *
 * Spec: AMD64 APM volume 3, chapter 1; Intel SDM volume 2, chapter 2.
 */

struct decoder {
    struct x86_insn *insn;
    const uint8_t *p;
    const uint8_t *end;
    int at_end;    /* what running out of bytes means               */
    uint8_t rex;   /* 0100WRXB or 0                                 */
    uint8_t seg;   /* override that counts, or X86_NB_SEG           */
    uint8_t vvvv;  /* not inverted                                  */
    uint8_t vsize; /* operand size of the v widths: 2, 4, 8         */
    uint8_t map;
};

#define REX_W 8
#define REX_R 4
#define REX_X 2
#define REX_B 1

/* Legacy prefixes as a set of bits, so that one load tells most bytes apart. */
static bool is_prefix(uint8_t b)
{
    return (b & 0xe7) == 0x26 || (b >= 0x64 && b <= 0x67) || b == 0xf0 || b == 0xf2 ||
           b == 0xf3;
}

static void take_segment(struct decoder *d, uint8_t seg)
{
    /* 64-bit mode ignores the others, and they do not cancel an FS or GS. */
    if (d->insn->mode != 64 || seg >= X86_FS) {
        d->seg = seg;
        d->insn->prefixes |= X86_P_SEG;
    }
}

static void take_prefix(struct decoder *d, uint8_t b)
{
    uint16_t *p = &d->insn->prefixes;

    switch (b) {
    case 0x66: *p |= X86_P_OPSIZE; break;
    case 0x67: *p |= X86_P_ADSIZE; break;
    case 0xf0: *p |= X86_P_LOCK; break;
    case 0xf2: *p = (*p & ~X86_P_REP) | X86_P_REPNE; break;
    case 0xf3: *p = (*p & ~X86_P_REPNE) | X86_P_REP; break;
    case 0x64: take_segment(d, X86_FS); break;
    case 0x65: take_segment(d, X86_GS); break;
    default: take_segment(d, (b >> 3) & 3); break;
    }
}

/* Leaves d->p behind the prefixes, on the first opcode byte or VEX. */
static int scan_prefixes(struct decoder *d)
{
    for (;; d->p++) {
        if (unlikely(d->p == d->end)) {
            return d->at_end;
        }
        uint8_t b = *d->p;

        if (is_prefix(b)) {
            take_prefix(d, b);
            d->rex = 0;
        } else if (d->insn->mode == 64 && (b & 0xf0) == 0x40) {
            d->rex = b;
        } else {
            return 0;
        }
    }
}

/* d->p is behind C4 or C5; at least one byte follows. */
static int scan_vex(struct decoder *d, bool three_bytes)
{
    struct x86_insn *i = d->insn;
    unsigned map = 1;
    uint8_t b, pay;

    if (d->rex || i->prefixes & (X86_P_LOCK | X86_P_REP | X86_P_REPNE | X86_P_OPSIZE)) {
        return X86_DECODE_UD;
    }
    b = *d->p++;
    pay = b;
    if (three_bytes) {
        map = b & 0x1f;
        if (map < 1 || map > 3) {
            return X86_DECODE_UD;
        }
        if (d->p == d->end) {
            return d->at_end;
        }
        pay = *d->p++;
        d->rex = (~b >> 5) & (REX_R | REX_X | REX_B);
        d->rex |= pay & 0x80 ? REX_W : 0;
    } else {
        d->rex = b & 0x80 ? 0 : REX_R;
    }
    d->vvvv = (~pay >> 3) & 15;
    if (i->mode != 64) {
        d->rex &= REX_W; /* R and X are clear here, B has no effect */
        d->vvvv &= 7;
    }
    d->map = X86_MAP_VEX1 - 1 + map;
    i->prefixes |= X86_P_VEX | (pay & 4 ? X86_P_L : 0);
    if (d->p == d->end) {
        return d->at_end;
    }
    i->opcode = *d->p++;
    return pay & 3; /* mandatory prefix: none, 66, F3, F2 */
}

/*
 * Map and opcode, into d->map and insn->opcode. Returns the mandatory prefix as
 * the logarithm of X86_A_NP, _66, _F3, _F2, or a negative error.
 */
static int scan_opcode(struct decoder *d)
{
    struct x86_insn *i = d->insn;
    uint8_t b = *d->p++;

    if (unlikely((b & 0xfe) == 0xc4)) {
        if (d->p == d->end) {
            return d->at_end;
        }
        /* LES and LDS take no register, so outside 64-bit mode that is VEX. */
        if (i->mode == 64 || *d->p >= 0xc0) {
            return scan_vex(d, b == 0xc4);
        }
    }
    d->map = X86_MAP_ONE;
    if (b == 0x0f) {
        d->map = X86_MAP_0F;
        if (d->p == d->end) {
            return d->at_end;
        }
        b = *d->p++;
        if (b == 0x38 || b == 0x3a) {
            d->map = b == 0x38 ? X86_MAP_0F38 : X86_MAP_0F3A;
            if (d->p == d->end) {
                return d->at_end;
            }
            b = *d->p++;
        }
    }
    i->opcode = b;
    return i->prefixes & X86_P_REP      ? 2
           : i->prefixes & X86_P_REPNE  ? 3
           : i->prefixes & X86_P_OPSIZE ? 1
                                        : 0;
}

static uint32_t facts(const struct decoder *d, int mandatory)
{
    const struct x86_insn *i = d->insn;
    uint32_t f = X86_A_NP << mandatory;

    f |= d->rex & REX_W ? X86_A_W1 : X86_A_W0;
    f |= d->rex & REX_B ? X86_A_B1 : X86_A_B0;
    f |= i->prefixes & X86_P_L ? X86_A_L1 : X86_A_L0;
    f |= i->mode == 64 ? X86_A_64 : i->mode == 32 ? X86_A_32 : X86_A_16;
    f |= i->prefixes & X86_P_LOCK ? X86_A_LOCK : X86_A_NOLOCK;
    if (i->prefixes & X86_P_MODRM) {
        f |= i->modrm >= 0xc0 ? X86_A_REG : X86_A_MEM;
    }
    return f;
}

/* Takes ModRM when the opcode has one. NULL with *ret_error when there is no row. */
static const struct x86_desc *find_row(struct decoder *d, int mandatory, int *ret_error)
{
    struct x86_insn *i = d->insn;
    const struct x86_slot *slot = &x86_slots[d->map][i->opcode];
    uint32_t f;

    *ret_error = X86_DECODE_UD;
    if (slot->count == 0) {
        return NULL;
    }
    if (slot->flags & X86_SLOT_MODRM) {
        if (d->p == d->end) {
            *ret_error = d->at_end;
            return NULL;
        }
        i->modrm = *d->p++;
        i->prefixes |= X86_P_MODRM;
    }
    if (slot->flags & X86_SLOT_PLAIN) {
        i->desc = x86_row_list[slot->first];
        return &x86_rows[i->desc];
    }
    if (slot->flags & X86_SLOT_GROUP) {
        slot = &x86_subslots[slot->first][(i->modrm >> 3) & 7];
    }
    f = facts(d, mandatory);
    for (unsigned n = 0; n < slot->count; n++) {
        unsigned id = x86_row_list[slot->first + n];
        const struct x86_desc *row = &x86_rows[id];

        if ((f & ~row->allow) == 0 && (i->modrm & row->modrm_mask) == row->modrm) {
            i->desc = id;
            return row;
        }
    }
    return NULL;
}

static unsigned width_bytes(const struct decoder *d, unsigned width)
{
    const struct x86_insn *i = d->insn;
    unsigned vec = i->prefixes & X86_P_L ? 32 : 16;

    switch (width) {
    case X86_WIDTH_b: return 1;
    case X86_WIDTH_w: return 2;
    case X86_WIDTH_d: return 4;
    case X86_WIDTH_q: return 8;
    case X86_WIDTH_dq: return 16;
    case X86_WIDTH_qq: return 32;
    case X86_WIDTH_ten: return 10;
    case X86_WIDTH_v:
    case X86_WIDTH_d64: return d->vsize;
    case X86_WIDTH_z: return d->vsize == 2 ? 2 : 4;
    case X86_WIDTH_y: return i->mode == 64 && d->rex & REX_W ? 8 : 4;
    case X86_WIDTH_t: return i->mode == 64 ? 8 : 4;
    case X86_WIDTH_a: return i->addrsize;
    case X86_WIDTH_s: return i->mode == 64 ? 10 : 6;
    case X86_WIDTH_p: return d->vsize == 2 ? 4 : 6;
    case X86_WIDTH_bnd: return 2 * d->vsize;
    case X86_WIDTH_x: return vec;
    case X86_WIDTH_h: return vec / 2;
    case X86_WIDTH_f: return vec / 4;
    case X86_WIDTH_e: return vec / 8;
    case X86_WIDTH_dup: return vec == 32 ? 32 : 8;
    case X86_WIDTH_env: return d->vsize == 2 ? 14 : 28;
    case X86_WIDTH_fsave: return d->vsize == 2 ? 94 : 108;
    default: return 0;
    }
}

static void set_sizes(struct decoder *d, const struct x86_desc *row)
{
    struct x86_insn *i = d->insn;
    bool is66 = i->prefixes & X86_P_OPSIZE;

    if (i->mode == 64) {
        i->addrsize = i->prefixes & X86_P_ADSIZE ? 4 : 8;
        d->vsize = d->rex & REX_W ? 8 : is66 ? 2 : row->size == X86_WIDTH_d64 ? 8 : 4;
    } else {
        bool wide = i->mode == 32;

        i->addrsize = wide != !!(i->prefixes & X86_P_ADSIZE) ? 4 : 2;
        d->vsize = wide != is66 ? 4 : 2;
    }
    i->opsize = width_bytes(d, row->size);
}

/* @len bytes of displacement or immediate, sign-extended; false: ran out. */
static bool take_int(struct decoder *d, unsigned len, int64_t *ret)
{
    if ((size_t)(d->end - d->p) < len) {
        return false;
    }
    switch (len) {
    case 1: *ret = (int8_t)*d->p; break;
    case 2: *ret = (int16_t)le16_get(d->p); break;
    case 4: *ret = (int32_t)le32_get(d->p); break;
    default: *ret = (int64_t)le64_get(d->p); break;
    }
    d->p += len;
    return true;
}

/* ModRM with 16-bit addresses. Returns the size of the displacement. */
static unsigned take_mem16(struct decoder *d)
{
    static const uint8_t bases[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                     X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t indices[8] = {X86_RSI,      X86_RDI,      X86_RSI,
                                       X86_RDI,      X86_REG_NONE, X86_REG_NONE,
                                       X86_REG_NONE, X86_REG_NONE};
    struct x86_insn *i = d->insn;
    unsigned rm = i->modrm & 7, mod = i->modrm >> 6;

    if (mod == 0 && rm == 6) {
        return 2;
    }
    i->base = bases[rm];
    i->index = indices[rm];
    return mod;
}

/* ModRM and SIB with 32- and 64-bit addresses. Returns as take_mem16(), or -1. */
static int take_mem32(struct decoder *d, bool vsib)
{
    struct x86_insn *i = d->insn;
    unsigned rm = i->modrm & 7, mod = i->modrm >> 6;
    unsigned disp = mod == 2 ? 4 : mod;

    if (rm == 4) {
        if (d->p == d->end) {
            return -1;
        }
        uint8_t sib = *d->p++;
        unsigned index = ((sib >> 3) & 7) | (d->rex & REX_X ? 8 : 0);

        rm = sib & 7;
        if (index != X86_RSP || vsib) {
            i->index = index;
            i->scale = 1 << (sib >> 6);
        }
    } else if (mod == 0 && rm == 5 && i->mode == 64) {
        i->base = X86_REG_RIP;
        return 4;
    }
    if (mod == 0 && rm == 5) {
        return 4;
    }
    i->base = rm | (d->rex & REX_B ? 8 : 0);
    return disp;
}

static int take_mem(struct decoder *d, struct x86_opnd *o, const struct x86_desc *row)
{
    struct x86_insn *i = d->insn;
    bool vsib = row->props & (X86_D_VSIB | X86_D_VSIB_HALF);
    int disp;

    o->kind = X86_OPND_MEM;
    if (i->addrsize == 2) {
        if (vsib) {
            return X86_DECODE_UD;
        }
        disp = take_mem16(d);
    } else {
        if (vsib && (i->modrm & 7) != 4) {
            return X86_DECODE_UD;
        }
        disp = take_mem32(d, vsib);
    }
    if (disp < 0 || (disp > 0 && !take_int(d, disp, &i->disp))) {
        return d->at_end;
    }
    i->disp_size = disp;
    if (d->seg == X86_NB_SEG && (i->base == X86_RSP || i->base == X86_RBP)) {
        i->seg = X86_SS;
    }
    return 0;
}

static void set_gpr(const struct decoder *d, struct x86_opnd *o, unsigned reg)
{
    o->kind = X86_OPND_REG;
    o->reg = reg;
    if (o->size == 1 && reg >= 4 && reg < 8 && !d->rex) {
        o->reg = X86_REG_HIGH + reg - 4;
    }
}

static void set_vec(struct x86_opnd *o, unsigned reg)
{
    o->kind = o->size == 32 ? X86_OPND_YMM : X86_OPND_XMM;
    o->reg = reg;
}

static void set_reg(struct x86_opnd *o, unsigned kind, unsigned reg)
{
    o->kind = kind;
    o->reg = reg;
}

static int take_imm(struct decoder *d, struct x86_opnd *o, unsigned enc)
{
    struct x86_insn *i = d->insn;
    unsigned len = o->size;
    int64_t value;

    if (enc == X86_ENC_O) {
        o->kind = X86_OPND_MEM;
        if (!take_int(d, i->addrsize, &i->disp)) {
            return d->at_end;
        }
        if (i->addrsize < 8) { /* an address: not signed */
            i->disp &= (INT64_C(1) << (8 * i->addrsize)) - 1;
        }
        i->disp_size = i->addrsize;
        return 0;
    }
    if (enc == X86_ENC_L) {
        len = 1;
    }
    if (!take_int(d, len, &value)) {
        return d->at_end;
    }
    i->imm_size += len;
    if (enc != X86_ENC_IS && enc != X86_ENC_J && len < 8) {
        value &= (INT64_C(1) << (8 * len)) - 1;
    }
    o->kind = enc == X86_ENC_J ? X86_OPND_REL : X86_OPND_IMM;
    if (enc == X86_ENC_I2) {
        i->imm2 = value;
        return 0;
    }
    i->imm = value;
    if (enc == X86_ENC_IS) {
        o->size = i->opsize;
    } else if (enc == X86_ENC_L) {
        set_vec(o, (value >> 4) & (i->mode == 64 ? 15 : 7));
    } else if (enc == X86_ENC_FAR) {
        o->kind = X86_OPND_FAR;
        if (!take_int(d, 2, &value)) {
            return d->at_end;
        }
        i->imm2 = value;
        i->imm_size += 2;
    }
    return 0;
}

/* Operands of ModRM.rm when it is a register. */
static void set_rm(const struct decoder *d, struct x86_opnd *o, unsigned enc)
{
    unsigned rm = d->insn->modrm & 7;
    unsigned ext = rm | (d->rex & REX_B ? 8 : 0);

    switch (enc) {
    case X86_ENC_Q:
    case X86_ENC_N: set_reg(o, X86_OPND_MMX, rm); break;
    case X86_ENC_W:
    case X86_ENC_U: set_vec(o, ext); break;
    default: set_gpr(d, o, ext); break;
    }
}

static int take_operand(struct decoder *d, struct x86_opnd *o, unsigned enc,
                        const struct x86_desc *row)
{
    struct x86_insn *i = d->insn;
    unsigned reg = (i->modrm >> 3) & 7;
    unsigned ext = reg | (d->rex & REX_R ? 8 : 0);

    switch (enc) {
    case X86_ENC_E:
    case X86_ENC_Q:
    case X86_ENC_W:
    case X86_ENC_M:
        if (i->modrm < 0xc0) {
            return take_mem(d, o, row);
        }
        set_rm(d, o, enc);
        break;
    case X86_ENC_R:
    case X86_ENC_N:
    case X86_ENC_U: set_rm(d, o, enc); break;
    case X86_ENC_G: set_gpr(d, o, ext); break;
    case X86_ENC_B: set_gpr(d, o, d->vvvv); break;
    case X86_ENC_Z: set_gpr(d, o, (i->opcode & 7) | (d->rex & REX_B ? 8 : 0)); break;
    case X86_ENC_RAX: set_gpr(d, o, X86_RAX); break;
    case X86_ENC_RCX: set_gpr(d, o, X86_RCX); break;
    case X86_ENC_RDX: set_gpr(d, o, X86_RDX); break;
    case X86_ENC_ONE:
        o->kind = X86_OPND_IMM;
        i->imm = 1;
        break;
    case X86_ENC_I:
    case X86_ENC_IS:
    case X86_ENC_I2:
    case X86_ENC_J:
    case X86_ENC_FAR:
    case X86_ENC_O:
    case X86_ENC_L: return take_imm(d, o, enc);
    case X86_ENC_S:
        set_reg(o, X86_OPND_SEG, reg);
        return reg >= X86_NB_SEG || (reg == X86_CS && o->access & X86_ACC_W)
                   ? X86_DECODE_UD
                   : 0;
    case X86_ENC_ES:
    case X86_ENC_CS:
    case X86_ENC_SS:
    case X86_ENC_DS:
    case X86_ENC_FS:
    case X86_ENC_GS: set_reg(o, X86_OPND_SEG, enc - X86_ENC_ES); break;
    case X86_ENC_C:
        set_reg(o, X86_OPND_CR, ext);
        return 1u << ext & (1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8) ? 0
                                                                        : X86_DECODE_UD;
    case X86_ENC_C8: set_reg(o, X86_OPND_CR, 8); return ext == 0 ? 0 : X86_DECODE_UD;
    case X86_ENC_D: set_reg(o, X86_OPND_DR, ext); return ext < 8 ? 0 : X86_DECODE_UD;
    case X86_ENC_X: o->kind = X86_OPND_SRC; break;
    case X86_ENC_Y: o->kind = X86_OPND_DST; break;
    case X86_ENC_ST0: set_reg(o, X86_OPND_ST, 0); break;
    case X86_ENC_STI: set_reg(o, X86_OPND_ST, i->modrm & 7); break;
    case X86_ENC_P: set_reg(o, X86_OPND_MMX, reg); break;
    case X86_ENC_V: set_vec(o, ext); break;
    case X86_ENC_H: set_vec(o, d->vvvv); break;
    case X86_ENC_XMM0: set_vec(o, 0); break;
    default: break;
    }
    return 0;
}

static int take_operands(struct decoder *d, const struct x86_desc *row)
{
    struct x86_insn *i = d->insn;
    bool vvvv_used = false;

    i->nb_opnds = row->nb_opnds;
    for (unsigned n = 0; n < row->nb_opnds; n++) {
        const struct x86_opspec *spec = &row->opnd[n];
        struct x86_opnd *o = &i->opnd[n];
        int r;

        o->size = width_bytes(d, spec->width);
        o->access = spec->access;
        r = take_operand(d, o, spec->enc, row);
        if (r < 0) {
            return r;
        }
        vvvv_used |= spec->enc == X86_ENC_H || spec->enc == X86_ENC_B;
    }
    return d->vvvv && !vvvv_used ? X86_DECODE_UD : 0;
}

/* A gather's destination, index and mask must be three registers. */
static bool gather_is_valid(const struct x86_insn *i)
{
    return i->opnd[0].reg != i->opnd[2].reg && i->opnd[0].reg != i->index &&
           i->opnd[2].reg != i->index;
}

static bool lock_is_valid(const struct x86_insn *i, const struct x86_desc *row)
{
    if (!(row->allow & X86_A_NOLOCK)) {
        return true; /* there LOCK is part of the opcode */
    }
    return row->props & X86_D_LOCK && i->opnd[0].kind == X86_OPND_MEM;
}

static int decode(struct decoder *d)
{
    struct x86_insn *i = d->insn;
    const struct x86_desc *row;
    int mandatory, r;

    r = scan_prefixes(d);
    if (r < 0) {
        return r;
    }
    mandatory = scan_opcode(d);
    if (mandatory < 0) {
        return mandatory;
    }
    row = find_row(d, mandatory, &r);
    if (!row) {
        return r;
    }
    i->op = row->op;
    i->cc = row->nb_opcode == 16 ? i->opcode & 15 : 0;
    i->seg = d->seg == X86_NB_SEG ? X86_DS : d->seg;
    set_sizes(d, row);
    r = take_operands(d, row);
    if (r < 0) {
        return r;
    }
    if ((i->prefixes & X86_P_LOCK && !lock_is_valid(i, row)) ||
        (row->props & (X86_D_VSIB | X86_D_VSIB_HALF) && !gather_is_valid(i))) {
        return X86_DECODE_UD;
    }
    return 0;
}

int x86_decode(struct x86_insn *insn, const uint8_t *bytes, size_t avail, unsigned mode)
{
    struct decoder d = {
        .insn = insn,
        .p = bytes,
        .end = bytes + (avail < X86_INSN_MAX_LEN ? avail : X86_INSN_MAX_LEN),
        .at_end = avail < X86_INSN_MAX_LEN ? X86_DECODE_MORE : X86_DECODE_GP,
        .seg = X86_NB_SEG,
    };
    int r;

    *insn = (struct x86_insn){
        .mode = mode,
        .base = X86_REG_NONE,
        .index = X86_REG_NONE,
        .scale = 1,
    };
    r = decode(&d);
    if (r < 0) {
        return r;
    }
    if (d.rex) {
        insn->prefixes |= (insn->prefixes & X86_P_VEX ? 0 : X86_P_REX) |
                          (d.rex & REX_W ? X86_P_W : 0) |
                          (d.rex & REX_R ? X86_P_R : 0) |
                          (d.rex & REX_X ? X86_P_X : 0) | (d.rex & REX_B ? X86_P_B : 0);
    }
    insn->len = d.p - bytes;
    return insn->len;
}
