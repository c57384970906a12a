#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t1_priv.h"

/*
 * One instruction. Nearly all are emitted as they were written: the same prefixes and
 * opcode, with the registers that the guest's are in and the memory operand at
 * [address + r11] after a probe. Registers that live in memory are loaded into a
 * scratch register before, and stored after:
 *
 *     guest   add r15, [rdi + 8]
 *     host    lea r10, [rdi + 8]
 *             ...probe...
 *             mov rcx, [rsp + gpr.r15]
 *             add rcx, [r10 + r11]
 *             mov [rsp + gpr.r15], rcx
 *
 * With a memory operand rcx is what is left for that; without one r10 holds ModRM.reg,
 * r11 ModRM.rm and rcx VEX.vvvv. CL as shift count needs rcx for itself.
 */

/* --- Instructions as they are ----------------------------------------------- */

/* What may be emitted as it is, when its operands allow. */
static bool is_plain(unsigned op)
{
    switch (op) {
    case X86_OP_ADD:
    case X86_OP_OR:
    case X86_OP_ADC:
    case X86_OP_SBB:
    case X86_OP_AND:
    case X86_OP_SUB:
    case X86_OP_XOR:
    case X86_OP_CMP:
    case X86_OP_TEST:
    case X86_OP_INC:
    case X86_OP_DEC:
    case X86_OP_NEG:
    case X86_OP_NOT:
    case X86_OP_MUL:
    case X86_OP_IMUL:
    case X86_OP_MOV:
    case X86_OP_MOVZX:
    case X86_OP_MOVSX:
    case X86_OP_MOVSXD:
    case X86_OP_XCHG:
    case X86_OP_XADD:
    case X86_OP_CMPXCHG:
    case X86_OP_BSWAP:
    case X86_OP_MOVBE:
    case X86_OP_MOVNTI:
    case X86_OP_CBW:
    case X86_OP_CWD:
    case X86_OP_LAHF:
    case X86_OP_SAHF:
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
    case X86_OP_SHLD:
    case X86_OP_SHRD:
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
    case X86_OP_BSF:
    case X86_OP_BSR:
    case X86_OP_LZCNT:
    case X86_OP_TZCNT:
    case X86_OP_POPCNT:
    case X86_OP_CRC32:
    case X86_OP_ADCX:
    case X86_OP_ADOX:
    case X86_OP_SETCC:
    case X86_OP_CMOVCC:
    case X86_OP_CLC:
    case X86_OP_STC:
    case X86_OP_CMC:
    case X86_OP_LFENCE:
    case X86_OP_MFENCE:
    case X86_OP_SFENCE:
    case X86_OP_ANDN:
    case X86_OP_BEXTR:
    case X86_OP_BLSI:
    case X86_OP_BLSMSK:
    case X86_OP_BLSR:
    case X86_OP_BZHI:
    case X86_OP_MULX:
    case X86_OP_PDEP:
    case X86_OP_PEXT:
    case X86_OP_RORX:
    case X86_OP_SARX:
    case X86_OP_SHLX:
    case X86_OP_SHRX: return true;
    default: return false;
    }
}

/* Where the explicit operands are encoded. */
struct places {
    const struct x86_opnd *reg, *rm, *vvvv; /* general registers, or NULL */
    const struct x86_opnd *low;             /* in the opcode's low bits */
    const struct x86_opnd *mem;
    const struct x86_opnd *high; /* that of these which goes through RCX */
    bool cl;                     /* CL is an operand */
    bool moffs;
};

static bool sort_operands(const struct x86_insn *insn, struct places *p)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    *p = (struct places){0};
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        bool reg = o->kind == X86_OPND_REG;
        switch (d->opnd[i].enc) {
        case X86_ENC_G: p->reg = o; break;
        case X86_ENC_E:
        case X86_ENC_R:
        case X86_ENC_M: *(reg ? &p->rm : &p->mem) = o; break;
        case X86_ENC_B: p->vvvv = o; break;
        case X86_ENC_Z: p->low = o; break;
        case X86_ENC_O:
            p->mem = o;
            p->moffs = true;
            break;
        case X86_ENC_RCX: p->cl = true; break;
        case X86_ENC_RAX:
        case X86_ENC_RDX:
        case X86_ENC_I:
        case X86_ENC_IS:
        case X86_ENC_ONE: break;
        default: return false;
        }
    }
    return true;
}

static bool is_high(const struct x86_opnd *o)
{
    return o && o->reg >= X86_REG_HIGH;
}

static bool in_memory(const struct t1_ctx *t, const struct x86_opnd *o)
{
    return o && !is_high(o) && t->host[o->reg] == T1_MEMORY;
}

/* AH and friends can only be encoded without a REX prefix; otherwise one of them goes
 * through RCX, and so does CH. */
static bool high_bytes_fit(const struct t1_ctx *t, struct places *p)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *all[] = {p->reg, p->rm, p->low};
    bool rex = p->mem || (insn->prefixes & X86_P_W);
    unsigned nb = 0;
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        const struct x86_opnd *o = all[i];
        if (!o) {
            continue;
        }
        if (is_high(o)) {
            nb++;
            p->high = o;
            rex |= o->reg == X86_CH;
        } else {
            unsigned h = t->host[o->reg];
            rex |= h >= 8 || (o->size == 1 && h >= 4);
        }
    }
    if (!rex) {
        p->high = NULL;
    }
    return !nb || !rex || (nb == 1 && !p->cl);
}

/* In RCX for an instruction, and back. */
static void high_get(struct t1_ctx *t, const struct x86_opnd *o)
{
    if (o->reg == X86_CH) {
        t1_rorx(&t->e, T1_RCX, t->host[X86_RCX], 8);
    } else {
        t1_op_reg(&t->e, &(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_RCX,
                  4 + o->reg - X86_REG_HIGH);
    }
}

static void high_put(struct t1_ctx *t, const struct x86_opnd *o)
{
    const struct t1_enc mov = {.opcode = 0x8a};
    unsigned cx = t->host[X86_RCX];
    if (!(o->access & X86_ACC_W)) {
        return;
    }
    if (o->reg == X86_CH) {
        t1_rorx(&t->e, cx, cx, 8);
        t1_op_reg(&t->e, &mov, cx, T1_RCX);
        t1_rorx(&t->e, cx, cx, 56);
    } else {
        t1_op_reg(&t->e, &mov, 4 + o->reg - X86_REG_HIGH, T1_RCX);
    }
}

static bool fits_scheme(const struct t1_ctx *t, struct places *p)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    const uint16_t easy = 1 << X86_RAX | 1 << X86_RDX | 1 << X86_RBX;
    if ((d->gpr_read & ~(easy | 1u << X86_RCX)) || (d->gpr_written & ~easy) ||
        (d->props & (X86_D_ALIGN | X86_D_STACK | X86_D_IMPL_MEM)) ||
        !high_bytes_fit(t, p)) {
        return false;
    }
    if (p->mem) {
        unsigned nb = in_memory(t, p->reg) + in_memory(t, p->vvvv) + (p->cl ? 1u : 0u) +
                      (p->high ? 1u : 0u);
        bool bit_string =
            insn->op >= X86_OP_BT && insn->op <= X86_OP_BTC && p->reg != NULL;
        bool two = nb == 2 && in_memory(t, p->reg) && in_memory(t, p->vvvv);
        return (nb <= 1 || two) && !bit_string && p->mem->size >= 1 &&
               p->mem->size <= 8 && p->mem->access && t1_ea_possible(t, true);
    }
    return true;
}

/* Writes of less than four bytes keep the rest; BSF and BSR may keep all. */
static bool is_read(const struct t1_ctx *t, const struct x86_opnd *o)
{
    return (o->access & X86_ACC_R) || o->size < 4 || t->insn->op == X86_OP_BSF ||
           t->insn->op == X86_OP_BSR;
}

/* An operand's number in the encoding, loaded when it has to be. */
static unsigned operand(struct t1_ctx *t, const struct places *p,
                        const struct x86_opnd *o, unsigned scratch)
{
    if (!o) {
        return 0;
    }
    if (o == p->high) {
        high_get(t, o);
        return T1_RCX;
    }
    if (is_high(o)) {
        return 4 + o->reg - X86_REG_HIGH;
    }
    if (!in_memory(t, o)) {
        return t->host[o->reg];
    }
    if (is_read(t, o)) {
        t1_load(&t->e, scratch, T1_GPR(o->reg));
    }
    return scratch;
}

static void store_operand(struct t1_ctx *t, const struct x86_opnd *o, unsigned scratch)
{
    if (in_memory(t, o) && (o->access & X86_ACC_W)) {
        t1_store(&t->e, T1_GPR(o->reg), scratch);
    }
}

static bool needs_rex(const struct t1_ctx *t, const struct x86_opnd *o)
{
    return o && o->size == 1 && !is_high(o) && t->host[o->reg] != T1_MEMORY &&
           t->host[o->reg] >= 4;
}

static void put_vex_insn(struct t1_ctx *t, const struct places *p, unsigned reg,
                         unsigned rm, unsigned vvvv, struct t1_mem m)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    unsigned i = 0;
    while (t->bytes[i] != 0xc4 && t->bytes[i] != 0xc5) {
        i++; /* prefixes: segment, address size */
    }
    unsigned pp = t->bytes[i + (t->bytes[i] == 0xc4 ? 2 : 1)] & 3;
    unsigned rex = p->mem ? t1_rex_mem(reg, m) : (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
    /* Outside 64-bit code VEX.W makes no register wider. */
    bool w = (insn->prefixes & X86_P_W) && !t1_is_32(t);
    t1_vex(&t->e, d->map - X86_MAP_VEX1 + 1u, w, pp, false, rex, vvvv, insn->opcode);
    if (p->mem) {
        t1_modrm_mem(&t->e, reg, m);
    } else {
        t1_u8(&t->e, 0xc0 | (reg & 7) << 3 | (rm & 7));
    }
}

static void put_legacy_insn(struct t1_ctx *t, const struct places *p, unsigned reg,
                            unsigned rm, struct t1_mem m)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    struct t1_enc x = {
        .lock = t1_lock_prefix(t),
        .p66 = insn->prefixes & X86_P_OPSIZE ? 0x66 : 0,
        .rep = insn->prefixes & X86_P_REP     ? 0xf3
               : insn->prefixes & X86_P_REPNE ? 0xf2
                                              : 0,
        .w = insn->prefixes & X86_P_W,
        .rex = needs_rex(t, p->reg) || needs_rex(t, p->rm) || needs_rex(t, p->low),
        .map = d->map,
        .opcode = insn->opcode,
    };
    if (!d->map && insn->opcode == 0x82) {
        x.opcode = 0x80; /* its alias, which 64-bit code has not */
    }
    if (p->low && t1_is_32(t) && !d->map && (insn->opcode & 0xf0) == 0x40) {
        /* INC and DEC of one byte are REX prefixes now. */
        x.opcode = 0xff;
        t1_op_reg(&t->e, &x, insn->opcode >> 3 & 1u, rm);
    } else if (p->low) {
        x.opcode = (uint8_t)((insn->opcode & ~7u) | (rm & 7));
        t1_opcode(&t->e, &x, rm >> 3 & 1);
    } else if (p->moffs) {
        x.opcode = (uint8_t)(insn->opcode == 0xa0   ? 0x8a
                             : insn->opcode == 0xa1 ? 0x8b
                             : insn->opcode == 0xa2 ? 0x88
                                                    : 0x89);
        t1_op_mem(&t->e, &x, X86_RAX, m);
    } else if (p->mem) {
        t1_op_mem(&t->e, &x, p->reg ? reg : insn->modrm >> 3 & 7u, m);
    } else if (insn->prefixes & X86_P_MODRM) {
        t1_op_reg(&t->e, &x, p->reg ? reg : insn->modrm >> 3 & 7u,
                  p->rm ? rm : insn->modrm & 7u);
    } else {
        t1_opcode(&t->e, &x, 0);
    }
}

static void put_insn(struct t1_ctx *t, const struct places *p, unsigned reg,
                     unsigned rm, unsigned vvvv, struct t1_mem m)
{
    const struct x86_insn *insn = t->insn;
    if (insn->prefixes & X86_P_VEX) {
        put_vex_insn(t, p, p->reg ? reg : insn->modrm >> 3 & 7u, rm, vvvv, m);
    } else {
        put_legacy_insn(t, p, reg, rm, m);
    }
    if (!p->moffs) {
        for (unsigned i = insn->len - insn->imm_size; i < insn->len; i++) {
            t1_u8(&t->e, t->bytes[i]);
        }
    }
}

/* RCX as the shift count, the multiplicand... */
static void load_cl(struct t1_ctx *t, const struct places *p)
{
    if (p->cl || (x86_insn_desc(t->insn)->gpr_read & 1 << X86_RCX)) {
        t1_mov_rr(&t->e, T1_RCX, t->host[X86_RCX]);
    }
}

/* With a memory operand: two of the others may live in memory too, and then the address
 * is put together in r11. */
static void plain_memory(struct t1_ctx *t, const struct places *p)
{
    unsigned vvvv_scratch = T1_RCX;
    struct t1_mem m = t1_operand(t, p->mem->size, p->mem->access & X86_ACC_W, false);
    if (in_memory(t, p->reg) && in_memory(t, p->vvvv)) {
        t1_lea(&t->e, T1_S2, m);
        m = (struct t1_mem){T1_S2, T1_NO_REG, 0, 0};
        vvvv_scratch = T1_S1;
    }
    if (t->insn->op == X86_OP_XADD && !in_memory(t, p->reg) &&
        p->reg->reg < X86_NB_GPR &&
        t1_xadd_alone(t, t->host[p->reg->reg], p->mem->size, m)) {
        return;
    }
    load_cl(t, p);
    unsigned reg = operand(t, p, p->reg, T1_RCX);
    unsigned vvvv = operand(t, p, p->vvvv, vvvv_scratch);
    put_insn(t, p, reg, 0, vvvv, m);
    if (p->high) {
        high_put(t, p->high);
    }
    store_operand(t, p->vvvv, vvvv_scratch);
    store_operand(t, p->reg, T1_RCX);
}

static bool same_reg(const struct t1_ctx *t, const struct x86_opnd *a,
                     const struct x86_opnd *b)
{
    return in_memory(t, a) && in_memory(t, b) && a->reg == b->reg;
}

static void plain_registers(struct t1_ctx *t, const struct places *p)
{
    const struct x86_opnd *all[] = {p->reg, p->low ? p->low : p->rm};
    unsigned host[2];
    int at[2] = {-1, -1};
    load_cl(t, p);
    for (unsigned i = 0; i < 2; i++) {
        const struct x86_opnd *o = all[i];
        if (in_memory(t, o)) {
            bool load = is_read(t, o) || same_reg(t, o, p->vvvv) ||
                        (same_reg(t, o, all[1 - i]) && is_read(t, all[1 - i]));
            at[i] = t1_hold(t, o->reg, load, i ? at[0] : -1);
            host[i] = t1_holder[at[i]];
        } else {
            host[i] = operand(t, p, o, T1_RCX);
        }
    }
    /* There is a third only beside VEX. */
    int third = in_memory(t, p->vvvv) ? t1_holds(t, p->vvvv->reg) : -1;
    unsigned vvvv = third >= 0 ? t1_holder[third] : operand(t, p, p->vvvv, T1_RCX);
    put_insn(t, p, host[0], host[1], vvvv, (struct t1_mem){0});
    if (p->high) {
        high_put(t, p->high);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (at[i] >= 0 && (all[i]->access & X86_ACC_W)) {
            t->held[at[i]].dirty = true;
        }
    }
    if (third >= 0) {
        t->held[third].dirty |= (p->vvvv->access & X86_ACC_W) != 0;
    } else {
        store_operand(t, p->vvvv, T1_RCX);
    }
}

static bool plain(struct t1_ctx *t)
{
    struct places p;
    if (!sort_operands(t->insn, &p) || !fits_scheme(t, &p)) {
        return false;
    }
    if (p.mem) {
        t1_let_go(t);
        plain_memory(t, &p);
    } else {
        plain_registers(t, &p);
    }
    return true;
}

/* --- Instructions of their own ---------------------------------------------- */

static bool push(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *o = &insn->opnd[0];
    bool mem = o->kind == X86_OPND_MEM;
    int32_t word = (int32_t)t1_word(t);
    if (insn->opsize != word || (mem && !t1_ea_possible(t, true)) ||
        (!mem && o->kind != X86_OPND_REG && o->kind != X86_OPND_IMM &&
         o->kind != X86_OPND_SEG)) {
        return false;
    }
    if (mem) {
        t1_load_word(t, T1_RCX, t1_operand(t, (unsigned)word, false, false));
        t1_store(&t->e, T1_FIELD(t1.target), T1_RCX);
    }
    struct t1_mem m = t1_probe_stack(t, -word, (unsigned)word, true);
    if (o->kind == X86_OPND_IMM) {
        t1_op_mem(&t->e, &(struct t1_enc){.w = !t1_is_32(t), .opcode = 0xc7}, 0, m);
        t1_u32(&t->e, (uint32_t)insn->imm);
    } else if (mem) {
        t1_load(&t->e, T1_RCX, T1_FIELD(t1.target));
        t1_store_word(t, m, T1_RCX);
    } else if (o->kind == X86_OPND_SEG) {
        t1_op_mem(&t->e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, T1_RCX,
                  t1_selector(o->reg)); /* movzx */
        t1_store_word(t, m, T1_RCX);
    } else {
        t1_store_word(t, m, t1_in_reg(t, o->reg, T1_RCX));
    }
    t1_sp_add(t, -word);
    return true;
}

static bool pop(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *o = &insn->opnd[0];
    unsigned word = t1_word(t);
    if (insn->opsize != word || o->kind != X86_OPND_REG) {
        return false;
    }
    unsigned dst = t->host[o->reg];
    struct t1_mem m = t1_probe_stack(t, 0, word, false);
    unsigned to = dst == T1_MEMORY ? T1_RCX : dst;
    t1_load_word(t, to, m);
    if (dst == T1_MEMORY) {
        t1_store(&t->e, T1_GPR(o->reg), to);
    }
    if (o->reg != X86_RSP) {
        t1_sp_add(t, (int32_t)word);
    }
    return true;
}

static bool leave(struct t1_ctx *t)
{
    unsigned word = t1_word(t), sp = t->host[X86_RSP], bp = t->host[X86_RBP], at = bp;
    if (t->insn->opsize != word) {
        return false;
    }
    if (t1_is_32(t) && t1_cuts(t)) {
        at = T1_S1;
        t1_mov_rr32(&t->e, at, bp);
    }
    struct t1_mem m = t1_at(at);
    if (t1_slot_possible(t, word)) {
        m = t1_probe_slot(t, (struct t1_mem){(uint8_t)at, T1_NO_REG, 0, 0}, word, false,
                          false);
    } else {
        t1_probe(t, at, word, false);
    }
    t1_load_word(t, T1_S2, m);
    t1_lea_word(t, sp, (struct t1_mem){(uint8_t)bp, T1_NO_REG, 0, (int32_t)word});
    t1_mov_rr(&t->e, bp, T1_S2);
    return true;
}

/* The slow path if rcx is 0. */
static void slow_if_zero(struct t1_ctx *t)
{
    uint32_t zero = t1_jrcxz(&t->e);
    t1_u8(&t->e, 0xeb); /* jmp over the next one */
    t1_u8(&t->e, 5);
    t1_here8(&t->e, zero);
    t1_jump_slow(t);
}

/*
 * Division, where it is certain not to raise #DE: the dividend is what XOR EDX, EDX or
 * CDQ, CQO made of one register, and the divisor is not 0 (nor -1, when signed).
 */
static bool divide(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_opnd *o = &insn->opnd[0];
    struct t1_emit *e = &t->e;
    bool is_signed = insn->op == X86_OP_IDIV, wide = o->size == 8;
    unsigned by = T1_S2;
    if (o->size < 4 || (o->kind == X86_OPND_MEM && !t1_ea_possible(t, true))) {
        return false;
    }
    const struct t1_enc mov = {.w = wide, .opcode = 0x8b};
    if (o->kind == X86_OPND_MEM) {
        t1_op_mem(e, &mov, by, t1_operand(t, o->size, false, false));
    } else {
        by = t1_in_reg(t, o->reg, T1_S2);
    }
    if (is_signed) {
        t1_mov_ri(e, T1_RCX, wide ? 63 : 31);
        /* sarx */
        t1_vex(e, 2, wide, 2, false, 4, T1_RCX, 0xf7);
        t1_u8(e, 0xc0 | (T1_S1 & 7) << 3 | X86_RAX);
        t1_not(e, T1_S1);
        struct t1_mem sum = {T1_S1, X86_RDX, 0, 1};
        t1_op_mem(e, &(struct t1_enc){.w = wide, .opcode = 0x8d}, T1_RCX, sum);
    } else {
        t1_op_reg(e, &mov, T1_RCX, X86_RDX);
    }
    t1_slow_unless_zero(t);
    t1_op_reg(e, &mov, T1_RCX, by);
    slow_if_zero(t);
    if (is_signed) {
        t1_op_mem(e, &(struct t1_enc){.w = wide, .opcode = 0x8d}, T1_RCX,
                  (struct t1_mem){(uint8_t)by, T1_NO_REG, 0, 1});
        slow_if_zero(t);
    }
    t1_op_reg(e, &(struct t1_enc){.w = wide, .opcode = 0xf7}, is_signed ? 7 : 6, by);
    return true;
}

bool t1_insn(struct t1_ctx *t)
{
    const struct x86_insn *insn = t->insn;
    const struct x86_desc *d = x86_insn_desc(insn);
    if (d->feat && !x86_cpu_has(t->c->core->model, d->feat)) {
        return false;
    }
    switch (insn->op) {
    case X86_OP_NOP:
    case X86_OP_ENDBR32:
    case X86_OP_ENDBR64:
    case X86_OP_PREFETCHNTA:
    case X86_OP_PREFETCHT0:
    case X86_OP_PREFETCHT1:
    case X86_OP_PREFETCHT2:
    case X86_OP_PREFETCH:
    case X86_OP_PREFETCHW: return true;
    case X86_OP_LEA: return t1_lea_insn(t);
    default: break;
    }
    if (d->cls == X86_CLASS_INT && is_plain(insn->op) && plain(t)) {
        return true;
    }
    t1_let_go(t);
    switch (insn->op) {
    case X86_OP_PUSH: return push(t);
    case X86_OP_POP: return pop(t);
    case X86_OP_LEAVE: return leave(t);
    case X86_OP_XLAT: return t1_xlat(t);
    case X86_OP_DIV:
    case X86_OP_IDIV: return divide(t);
    default: break;
    }
    switch (d->cls) {
    case X86_CLASS_X87: return t1_x87(t);
    case X86_CLASS_MMX:
    case X86_CLASS_SSE:
    case X86_CLASS_AVX: return t1_simd(t);
    default: return t1_system(t);
    }
}
