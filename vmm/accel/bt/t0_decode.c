#include "vmm/accel/bt/t0_decode.h"

#include "lib/base/base.h"

/*
 * From bytes to a block: decode, find flags that nobody looks at, and choose the
 * handler of each instruction ("lower").
 */

/* --- Lowering -------------------------------------------------------------- */

/* Who may take an instruction, asked in this order. */
static const t0_lower_fn lowerings[] = {
    t0_lower_branch, t0_lower_vm86, t0_lower_exc,   t0_lower_seg,    t0_lower_sys,
    t0_lower_mov,    t0_lower_alu,  t0_lower_shift, t0_lower_muldiv, t0_lower_bit,
    t0_lower_string, t0_lower_fpu,  t0_lower_simd,  t0_lower_xsave,
};

static const struct t0_op *op_raise(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise(c, op, op->aux);
}

static const struct t0_op *op_raise_gp0(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise_error(c, op, X86_EXC_GP, 0);
}

static void lower_ea(const struct x86_insn *insn, unsigned mode, struct t0_op *op)
{
    bool m64 = (mode & T0_MODE_SIZE) == T0_MODE_64;
    bool fs_gs = insn->seg == X86_FS || insn->seg == X86_GS;
    op->seg = insn->seg < X86_NB_SEG ? insn->seg : X86_DS;
    op->disp = insn->disp;
    op->base = insn->base < X86_NB_GPR ? insn->base : T0_REG_ZERO;
    op->index = insn->index < X86_NB_GPR ? insn->index : T0_REG_ZERO;
    op->shift = insn->scale > 1 ? (uint8_t)__builtin_ctz(insn->scale) : 0;
    if (insn->base == X86_REG_RIP) {
        op->base = T0_REG_RIP;
        op->disp += op->next;
    }
    if (insn->addrsize == 8) {
        op->ea = fs_gs ? T0_EA_SEG64 : T0_EA_FLAT64;
    } else if (insn->addrsize == 4) {
        /* Code is flat, but nobody may write to it, and not always read it. */
        bool flat = !fs_gs && (m64 || ((mode & T0_MODE_FLAT) && op->seg != X86_CS));
        op->ea = !flat                  ? T0_EA_GENERAL32
                 : (mode & T0_MODE_LMA) ? T0_EA_FLAT32
                                        : T0_EA_LEGACY32;
    } else {
        op->ea = T0_EA_GENERAL;
    }
}

static void raise_ud(struct t0_op *op)
{
    op->fn = op_raise;
    op->aux = X86_EXC_UD;
}

/*
 * Instructions that are an older one with a prefix which a processor without the
 * feature ignores (APM 3 LZCNT, TZCNT, WBNOINVD). 0 when @op is none of them.
 */
static unsigned without_feature(unsigned op)
{
    switch (op) {
    case X86_OP_TZCNT: return X86_OP_BSF;
    case X86_OP_LZCNT: return X86_OP_BSR;
    case X86_OP_WBNOINVD: return X86_OP_WBINVD;
    case X86_OP_PREFETCH: /* every long-mode processor has these two */
    case X86_OP_PREFETCHW: return op;
    default: return 0;
    }
}

static void lower(struct t0_cpu *c, const struct x86_insn *insn,
                  const struct t0_lower *ctx, struct t0_op *op)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    bool lacks = d->feat && !x86_cpu_has(c->core->model, d->feat);
    struct x86_insn older = *insn;
    if (unlikely(lacks) && without_feature(insn->op)) {
        older.op = (uint16_t)without_feature(insn->op);
        insn = &older;
        lacks = false;
    }
    op->size = insn->opsize;
    op->imm = insn->imm;
    lower_ea(insn, ctx->mode, op);
    bool hypercall = insn->op == X86_OP_VMCALL || insn->op == X86_OP_VMMCALL;
    if ((lacks && !hypercall) ||
        ((d->props & X86_D_PROT) && !(ctx->mode & T0_MODE_PE))) {
        raise_ud(op);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(lowerings); i++) {
        if (lowerings[i](insn, ctx, op)) {
            return;
        }
    }
    raise_ud(op);
}

/* --- Decoding -------------------------------------------------------------- */

/* Instructions that a table row calls ends of blocks and whose handlers leave by
 * themselves when they have to. */
static bool ends_block(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_CLI:
    case X86_OP_STI:
    case X86_OP_STAC:
    case X86_OP_CLAC:
    case X86_OP_IN:
    case X86_OP_OUT:
    case X86_OP_RDMSR:
    case X86_OP_RDTSC:
    case X86_OP_RDTSCP:
    case X86_OP_CPUID:
    case X86_OP_POPF:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE:
    case X86_OP_SWAPGS: return false;
    default: return x86_insn_desc(insn)->props & X86_D_END;
    }
}

/* Whether an exception frame could show the flags as they are before @insn. */
static bool may_fault(const struct x86_insn *insn)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    if (d->cls != X86_CLASS_INT ||
        (d->props & (X86_D_STACK | X86_D_IMPL_MEM | X86_D_END))) {
        return true;
    }
    switch (insn->op) {
    case X86_OP_DIV:
    case X86_OP_IDIV:
    case X86_OP_AAM:
    case X86_OP_CLFLUSH: /* an address without data, but it must be mapped */
    case X86_OP_CLFLUSHOPT:
    case X86_OP_CLWB: return true;
    default: break;
    }
    const struct x86_opnd *m = x86_insn_mem(insn);
    return m && m->access;
}

/* What an instruction stores may be the code after it: then the flags are read. */
static bool stores(const struct x86_insn *insn)
{
    const struct x86_opnd *m = x86_insn_mem(insn);
    return m && (m->access & X86_ACC_W);
}

static void find_dead_flags(struct t0_decoded *d)
{
    uint32_t live = X86_FL_ARITH;
    for (unsigned i = d->nb; i-- > 0;) {
        const struct x86_insn *insn = &d->insn[i];
        const struct x86_desc *desc = x86_insn_desc(insn);
        uint32_t written = desc->flags_written | desc->flags_undef;
        d->dead[i] = !(live & written & X86_FL_ARITH) && !stores(insn);
        if (!(desc->props & X86_D_FL_MAYBE)) {
            live &= ~desc->flags_written;
        }
        live |= x86_insn_flags_read(insn) & X86_FL_ARITH;
        if (may_fault(insn)) {
            live = X86_FL_ARITH;
        }
    }
}

/* Bytes of the instruction at the end of the page, continued in the next one.
 * Returns how many there are, or -1 with c->exc set. */
static int fetch_straddling(struct t0_fetch *f, unsigned off, uint8_t *buf,
                            struct t0_decoded *d)
{
    struct t0_cpu *c = f->c;
    unsigned room = (unsigned)(0x1000 - ((f->gpa + off) & 0xfff));
    uint64_t next = f->lin + off + room;
    if (!t0_is64(c)) {
        next = (uint32_t)next;
    }
    struct t0_itlb_entry *e = t0_itlb_get(c, next);
    if (!e) {
        return -1;
    }
    const struct gmem_region *r = gmem_find(c->vcpu->vm->gmem, e->gpa & ~0xfffULL);
    d->gpa2 = e->gpa & ~UINT64_C(0xfff);
    f->host2 = NULL;
    if (!r) {
        memset(buf + room, 0xff, X86_INSN_MAX_LEN - room);
        return X86_INSN_MAX_LEN;
    }
    f->host2 = e->host;
    if (f->page) {
        struct t0_page *p = t0_code_page(c, r, d->gpa2);
        f->checked |= p->checked;
        t0_mark_code(c, r, p, d->gpa2);
    }
    gmem_copy(buf + room, e->host, X86_INSN_MAX_LEN - room);
    return X86_INSN_MAX_LEN;
}

/* Whether @insn may change memory in any way. */
static bool may_store(const struct x86_insn *insn)
{
    bool dst = false;
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        dst |= insn->opnd[i].kind == X86_OPND_DST;
    }
    return dst || stores(insn) ||
           (x86_insn_desc(insn)->props & (X86_D_STACK | X86_D_IMPL_MEM | X86_D_END));
}

/* Decode one more instruction. Returns 1, 0 when the block ends before it, -1 with
 * c->exc set. */
static int decode_one(struct t0_fetch *f, struct t0_decoded *d)
{
    static const uint8_t bits[] = {16, 32, 64};
    struct t0_cpu *c = f->c;
    unsigned i = d->nb, off = d->len;
    uint8_t *buf = d->bytes[i];
    unsigned room = (unsigned)(0x1000 - (f->gpa & 0xfff)) - off;
    unsigned avail = MIN(room, X86_INSN_MAX_LEN);
    if (f->page) {
        t0_mark_code(c, f->region, f->page, f->gpa + off);
    }
    gmem_copy(buf, f->host + off, avail);
    int len = x86_decode(&d->insn[i], buf, avail, bits[c->mode & T0_MODE_SIZE]);
    if (len == X86_DECODE_MORE) {
        if (i) {
            return 0;
        }
        int n = fetch_straddling(f, off, buf, d);
        if (n < 0) {
            return -1;
        }
        len = x86_decode(&d->insn[i], buf, (size_t)n, bits[c->mode & T0_MODE_SIZE]);
        avail = (unsigned)n;
    }
    /* In segments with a limit the instruction must be inside (APM 2 4.12.1). */
    uint64_t limit = c->s.seg[X86_CS].limit;
    bool outside =
        !t0_is64(c) && c->s.rip + off + (len > 0 ? (unsigned)len : 1) - 1 > limit;
    if (len <= 0 || outside) {
        if (i) {
            return 0;
        }
        memset(&d->insn[i], 0, sizeof(d->insn[i]));
        d->raise = outside || len == X86_DECODE_GP ? X86_EXC_GP : X86_EXC_UD;
        d->stop = d->ends = true;
        d->outside = outside;
        d->start[0] = 0;
        d->len = avail; /* a store to any of these may make an instruction of them */
        d->nb = 1;
        return 1;
    }
    d->start[i] = (uint16_t)off;
    d->nb++;
    d->len += (unsigned)len;
    d->stop = ends_block(&d->insn[i]) || (f->checked && may_store(&d->insn[i]));
    d->ends = d->stop && x86_insn_desc(&d->insn[i])->cls == X86_CLASS_BRANCH;
    return 1;
}

bool t0_decode(struct t0_fetch *f, struct t0_decoded *d, unsigned max)
{
    d->nb = d->len = 0;
    d->raise = 0xff;
    d->stop = d->ends = d->outside = false;
    d->gpa2 = UINT64_MAX;
    unsigned room = (unsigned)(0x1000 - (f->gpa & 0xfff));
    while (d->nb < max && !d->stop && d->len < room) {
        int r = decode_one(f, d);
        if (r < 0) {
            return false;
        }
        if (r == 0) {
            break;
        }
    }
    if (d->raise == 0xff) {
        find_dead_flags(d);
    } else {
        d->dead[0] = false;
    }
    return true;
}

size_t t0_fill_block(struct t0_cpu *c, struct t0_block *b, const struct t0_fetch *f,
                     const struct t0_decoded *d)
{
    memset(b, 0, sizeof(*b));
    b->gpa = f->gpa;
    b->gpa2 = d->gpa2;
    b->len = (uint16_t)d->len;
    b->nb_insns = (uint16_t)d->nb;
    b->mode = c->mode;
    b->flags = d->gpa2 != UINT64_MAX ? T0_BLOCK_STRADDLES : 0;
    for (unsigned i = 0; i < d->nb; i++) {
        struct t0_op *op = &b->ops[i];
        struct t0_lower ctx = {
            .c = c,
            .mode = c->mode,
            .bytes = d->bytes[i],
            .page_off = b->gpa & 0xfff,
            .flags_dead = d->dead[i],
        };
        memset(op, 0, sizeof(*op));
        op->start = d->start[i];
        if (d->raise != 0xff) {
            op->next = op->start;
            op->aux = d->raise;
            op->fn = d->raise == X86_EXC_GP ? op_raise_gp0 : op_raise;
            continue;
        }
        op->next = (uint16_t)(op->start + d->insn[i].len);
        op->aux2 = (uint16_t)(i + 1); /* what branches want there */
        lower(c, &d->insn[i], &ctx, op);
    }
    struct t0_op *end = &b->ops[d->nb];
    /* Branches never go to the next op; other ends of blocks may. */
    bool branch =
        d->raise == 0xff && x86_insn_desc(&d->insn[d->nb - 1])->cls == X86_CLASS_BRANCH;
    if (!branch) {
        b->flags |= T0_BLOCK_HAS_END;
        memset(end, 0, sizeof(*end));
        end->start = end->next = (uint16_t)d->len;
        end->aux2 = (uint16_t)d->nb;
        t0_lower_end(c, b, end);
        end++;
    }
    memset(end, 0, 2 * sizeof(struct t0_chain));
    return (size_t)((uint8_t *)end - (uint8_t *)b) + 2 * sizeof(struct t0_chain);
}
