#include "vmm/accel/bt/t0_int.h"
#include "vmm/accel/bt/t0_priv.h"

#include <sys/random.h>

#include "lib/base/bytes.h"

/*
 * System instructions: control and debug registers, flags, ports, CPUID, time, halt,
 * TLB management. The MSRs are in t0_msr.c. Spec: APM 2 chapter 3 and the
 * instructions' pages in APM 3.
 */

#define HANDLER(name) \
    static const struct t0_op *name(struct t0_cpu *c, const struct t0_op *op)

static const struct t0_op *gp0(struct t0_cpu *c, const struct t0_op *op)
{
    return t0_raise_error(c, op, X86_EXC_GP, 0);
}

static uint64_t exc_gp0(struct t0_cpu *c)
{
    t0_set_exc_error(c, X86_EXC_GP, 0);
    return 1;
}

/* --- Control registers ----------------------------------------------------- */

/* Turning paging on or off with EFER.LME (APM 2 14.6). */
static uint64_t switch_long_mode(struct t0_cpu *c, uint64_t cr0)
{
    bool on = cr0 & X86_CR0_PG;
    if (!(c->s.efer & X86_EFER_LME)) {
        return 0;
    }
    if (on) {
        if (!(c->s.cr4 & X86_CR4_PAE) || (c->s.seg[X86_CS].attr & X86_SEG_L)) {
            return exc_gp0(c);
        }
        c->s.efer |= X86_EFER_LMA;
    } else {
        if (t0_is64(c)) {
            return exc_gp0(c);
        }
        c->s.efer &= ~X86_EFER_LMA;
    }
    return 0;
}

uint64_t t0_write_cr0(struct t0_cpu *c, uint64_t v)
{
    const uint64_t known = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS |
                           X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
                           X86_CR0_NW | X86_CR0_CD | X86_CR0_PG;
    uint64_t old = c->s.cr0;
    bool pg = v & X86_CR0_PG;
    if (v >> 32 || (pg && !(v & X86_CR0_PE)) ||
        ((v & X86_CR0_NW) && !(v & X86_CR0_CD)) ||
        (!pg && (c->s.cr4 & X86_CR4_PCIDE))) {
        return exc_gp0(c);
    }
    v = (v & known) | X86_CR0_ET;
    if (pg && !(old & X86_CR0_PG) && !(c->s.efer & X86_EFER_LME) &&
        (c->s.cr4 & X86_CR4_PAE) && !t0_pdptes_ok(c, c->s.cr3)) {
        return exc_gp0(c);
    }
    if (((old ^ v) & X86_CR0_PG) && switch_long_mode(c, v)) {
        return 1;
    }
    c->s.cr0 = v;
    if ((old ^ v) & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP)) {
        t0_tlb_flush(c, true);
    }
    t0_update_mode(c);
    return 0;
}

/* Whether @cr4 makes paging that of PAE outside of long mode. */
static bool pae_legacy(const struct t0_cpu *c, uint64_t cr4)
{
    return (c->s.cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !t0_long_mode(c);
}

uint64_t t0_write_cr3(struct t0_cpu *c, uint64_t v)
{
    if (c->s.cr4 & X86_CR4_PCIDE) {
        v &= ~(UINT64_C(1) << 63); /* "need not flush": may all the same */
    }
    if (t0_long_mode(c) && (v & ~c->core->phys_mask)) {
        return exc_gp0(c);
    }
    if (unlikely(pae_legacy(c, c->s.cr4)) && !t0_pdptes_ok(c, v)) {
        return exc_gp0(c);
    }
    c->s.cr3 = v;
    t0_tlb_flush(c, false);
    return 0;
}

uint64_t t0_write_cr4(struct t0_cpu *c, uint64_t v)
{
    uint64_t changed = c->s.cr4 ^ v;
    bool pcid_on = (changed & v) & X86_CR4_PCIDE;
    if ((v & ~x86_cpu_cr4_mask(c->core->model)) ||
        (t0_long_mode(c) && !(v & X86_CR4_PAE)) ||
        (t0_long_mode(c) && (changed & X86_CR4_LA57)) ||
        (pcid_on && (!t0_long_mode(c) || (c->s.cr3 & 0xfff))) ||
        ((changed & X86_CR4_PAE) && pae_legacy(c, v) && !t0_pdptes_ok(c, c->s.cr3))) {
        return exc_gp0(c);
    }
    c->s.cr4 = v;
    if (changed & X86_CR4_DE) {
        t0_debug_update(c);
    }
    if (changed & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP |
                   X86_CR4_LA57 | X86_CR4_PCIDE | X86_CR4_SMAP)) {
        t0_tlb_flush(c, true);
    }
    t0_update_mode(c);
    return 0;
}

/* MOV r, CRn; src: number */
HANDLER(read_cr)
{
    uint64_t v;
    if (c->s.cpl) {
        return gp0(c, op);
    }
    switch (op->src) {
    case 0: v = c->s.cr0; break;
    case 2: v = c->s.cr2; break;
    case 3: v = c->s.cr3; break;
    case 4: v = c->s.cr4; break;
    case 8: v = lapic_get_cr8(c->vcpu); break;
    default: return t0_raise(c, op, X86_EXC_UD);
    }
    if (op->size == 8) {
        T0_W64(c, op->dst, v);
    } else {
        T0_W32(c, op->dst, v);
    }
    return T0_NEXT(c, op);
}

/* MOV CRn, r; dst: number */
HANDLER(write_cr)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t bad = 0, v = op->size == 8 ? T0_R64(c, op->src) : T0_R32(c, op->src);
    switch (op->dst) {
    case 0: bad = t0_write_cr0(c, v); break;
    case 2: c->s.cr2 = v; break;
    case 3: bad = t0_write_cr3(c, v); break;
    case 4: bad = t0_write_cr4(c, v); break;
    case 8:
        if (v > 15) {
            return gp0(c, op);
        }
        lapic_set_cr8(c->vcpu, (unsigned)v);
        break;
    default: return t0_raise(c, op, X86_EXC_UD);
    }
    return bad ? T0_FAULT(c, op) : t0_end_block(c, op);
}

HANDLER(op_clts)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    c->s.cr0 &= ~X86_CR0_TS;
    t0_update_mode(c);
    return t0_end_block(c, op);
}

/* The 16-bit operand of LMSW: register (src) or memory (aux). */
HANDLER(op_lmsw)
{
    struct t0_val v = {T0_R16(c, op->src), 0};
    if (c->s.cpl) {
        return gp0(c, op);
    }
    if (op->aux) {
        v = t0_ea(c, op, 2, false);
        v = v.fault ? v : t0_load(c, v.v, 2, op->seg);
    }
    /* PE can be set, not cleared. */
    uint64_t low = (v.v & 0xf) | (c->s.cr0 & X86_CR0_PE);
    if (v.fault || t0_write_cr0(c, (c->s.cr0 & ~UINT64_C(0xf)) | low)) {
        return T0_FAULT(c, op);
    }
    return t0_end_block(c, op);
}

HANDLER(op_smsw)
{
    if (c->s.cpl && (c->s.cr4 & X86_CR4_UMIP)) {
        return gp0(c, op);
    }
    if (op->aux) {
        struct t0_val a = t0_ea(c, op, 2, true);
        if (a.fault || t0_store(c, a.v, c->s.cr0 & 0xffff, 2, op->seg)) {
            return T0_FAULT(c, op);
        }
    } else if (op->size == 2) {
        T0_W16(c, op->dst, c->s.cr0);
    } else if (op->size == 4) {
        T0_W32(c, op->dst, c->s.cr0);
    } else {
        T0_W64(c, op->dst, c->s.cr0);
    }
    return T0_NEXT(c, op);
}

/* --- Debug registers (APM 2 13.1) ------------------------------------------ */

/* Which register number @n names, or -1: #UD. */
static int dr_number(const struct t0_cpu *c, unsigned n)
{
    if (n == 4 || n == 5) {
        return (c->s.cr4 & X86_CR4_DE) ? -1 : (int)n + 2;
    }
    return n < 8 ? (int)n : -1;
}

#define DR7_GD (UINT64_C(1) << 13)

/* What all accesses check. NULL: go on. */
static const struct t0_op *dr_check(struct t0_cpu *c, const struct t0_op *op, int n,
                                    bool *ok)
{
    *ok = false;
    if (n < 0) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (c->s.cpl) {
        return gp0(c, op);
    }
    if (c->s.dr[7] & DR7_GD) {
        t0_debug_enter(c, T0_DR6_BD);
        return t0_raise(c, op, X86_EXC_DB);
    }
    *ok = true;
    return NULL;
}

HANDLER(read_dr)
{
    bool ok;
    int n = dr_number(c, op->src);
    const struct t0_op *r = dr_check(c, op, n, &ok);
    if (!ok) {
        return r;
    }
    if (op->size == 8) {
        T0_W64(c, op->dst, c->s.dr[n]);
    } else {
        T0_W32(c, op->dst, c->s.dr[n]);
    }
    return T0_NEXT(c, op);
}

HANDLER(write_dr)
{
    bool ok;
    int n = dr_number(c, op->dst);
    const struct t0_op *r = dr_check(c, op, n, &ok);
    uint64_t v = op->size == 8 ? T0_R64(c, op->src) : T0_R32(c, op->src);
    if (!ok) {
        return r;
    }
    if (n >= 6 && v >> 32) {
        return gp0(c, op);
    }
    if (n == 6) {
        v = (v & 0xe00f) | 0xffff0ff0;
    } else if (n == 7) {
        v = (v & 0xffff23ff) | 0x400;
    }
    c->s.dr[n] = v;
    t0_debug_update(c);
    return t0_end_block(c, op);
}

/* --- Flags ----------------------------------------------------------------- */

HANDLER(op_cli)
{
    if (c->s.cpl > t0_iopl(c)) {
        return t0_pvi(c, op, false);
    }
    c->s.rflags &= ~(uint64_t)X86_FL_IF;
    return T0_NEXT(c, op);
}

HANDLER(op_sti)
{
    if (c->s.cpl > t0_iopl(c)) {
        return t0_pvi(c, op, true);
    }
    if (!(c->s.rflags & X86_FL_IF)) {
        c->s.rflags |= X86_FL_IF;
        c->s.int_shadow = true;
        if (t0_irq_wanted(c)) {
            return t0_end_block(c, op);
        }
    }
    return T0_NEXT(c, op);
}

HANDLER(op_pushf)
{
    uint64_t v = t0_get_rflags(c) & ~(uint64_t)(X86_FL_VM | X86_FL_RF);
    return t0_push(c, v, op->size) ? T0_FAULT(c, op) : T0_NEXT(c, op);
}

HANDLER(op_popf)
{
    struct t0_val v = t0_pop_peek(c, op->size);
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    uint64_t old = t0_get_rflags(c), m = t0_flags_mask(c, op->size);
    uint64_t flags = (old & ~m & ~(uint64_t)X86_FL_RF) | (v.v & m);
    t0_sp_add(c, op->size);
    t0_set_rflags(c, flags);
    if ((old ^ flags) & X86_FL_AC) {
        t0_update_bank(c);
    }
    if ((flags & X86_FL_TF) || ((flags & ~old & X86_FL_IF) && t0_irq_wanted(c))) {
        return t0_end_block(c, op);
    }
    return T0_NEXT(c, op);
}

/* STAC, CLAC; aux: 1 to set */
HANDLER(op_ac)
{
    if (c->s.cpl) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    c->s.rflags &= ~(uint64_t)X86_FL_AC;
    c->s.rflags |= op->aux ? X86_FL_AC : 0;
    t0_update_bank(c);
    return T0_NEXT(c, op);
}

/* --- Ports ----------------------------------------------------------------- */

uint64_t t0_pio_check(struct t0_cpu *c, uint16_t port, unsigned size)
{
    const struct x86_segment *tr = &c->s.tr;
    uint8_t b[2];
    bool vm86 = c->s.rflags & X86_FL_VM;
    if (!vm86 && (!(c->mode & T0_MODE_PE) || c->s.cpl <= t0_iopl(c))) {
        return 0;
    }
    /* The permission bitmap (APM 2 12.2.4): two bytes are always read. */
    unsigned type = tr->attr & X86_SEG_TYPE;
    if (type != X86_SYS_TSS_BUSY || tr->limit < 0x67) {
        return exc_gp0(c);
    }
    if (t0_sys_read(c, tr->base + 0x66, b, 2)) {
        return 1;
    }
    uint32_t off = le16_get(b) + port / 8u;
    if (off + 1 > tr->limit) {
        return exc_gp0(c);
    }
    if (t0_sys_read(c, tr->base + off, b, 2)) {
        return 1;
    }
    return (le16_get(b) >> (port & 7) & ((1u << size) - 1)) ? exc_gp0(c) : 0;
}

struct t0_val t0_pio_in(struct t0_cpu *c, uint16_t port, unsigned size)
{
    if (t0_pio_check(c, port, size)) {
        return (struct t0_val){0, 1};
    }
    t0_fpu_lend(c);
    if (unlikely(c->debug & T0_DEBUG_IO)) {
        t0_debug_io(c, port, size);
    }
    return (struct t0_val){vcpu_pio_read(c->vcpu, port, size), 0};
}

uint64_t t0_pio_out(struct t0_cpu *c, uint16_t port, uint32_t v, unsigned size)
{
    if (t0_pio_check(c, port, size)) {
        return 1;
    }
    t0_fpu_lend(c);
    if (unlikely(c->debug & T0_DEBUG_IO)) {
        t0_debug_io(c, port, size);
    }
    vcpu_pio_write(c->vcpu, port, v, size);
    return 0;
}

/* aux: 1 when the port is imm, else DX. The device may have woken something up. */
HANDLER(op_in)
{
    uint16_t port = op->aux ? (uint16_t)op->imm : T0_R16(c, X86_RDX * 8);
    struct t0_val v = t0_pio_in(c, port, op->size);
    if (v.fault) {
        return T0_FAULT(c, op);
    }
    switch (op->size) {
    case 1: T0_W8(c, 0, v.v); break;
    case 2: T0_W16(c, 0, v.v); break;
    default: T0_W32(c, 0, v.v);
    }
    return t0_end_block(c, op);
}

HANDLER(op_out)
{
    uint16_t port = op->aux ? (uint16_t)op->imm : T0_R16(c, X86_RDX * 8);
    uint32_t v = op->size == 1   ? T0_R8(c, 0)
                 : op->size == 2 ? T0_R16(c, 0)
                                 : T0_R32(c, 0);
    if (t0_pio_out(c, port, v, op->size)) {
        return T0_FAULT(c, op);
    }
    return t0_end_block(c, op);
}

/* --- Identity, time, chance ------------------------------------------------ */

HANDLER(op_cpuid)
{
    struct x86_cpuid r = t0_cpuid(c, T0_R32(c, X86_RAX * 8), T0_R32(c, X86_RCX * 8));
    T0_W32(c, X86_RAX * 8, r.reg[X86_CPUID_EAX]);
    T0_W32(c, X86_RBX * 8, r.reg[X86_CPUID_EBX]);
    T0_W32(c, X86_RCX * 8, r.reg[X86_CPUID_ECX]);
    T0_W32(c, X86_RDX * 8, r.reg[X86_CPUID_EDX]);
    return T0_NEXT(c, op);
}

/* aux: 1 for RDTSCP */
HANDLER(op_rdtsc)
{
    if (c->s.cpl && (c->s.cr4 & X86_CR4_TSD)) {
        return gp0(c, op);
    }
    uint64_t t = t0_tsc(c);
    T0_W32(c, X86_RAX * 8, t);
    T0_W32(c, X86_RDX * 8, t >> 32);
    if (op->aux) {
        T0_W32(c, X86_RCX * 8, c->s.msr.tsc_aux);
    }
    return T0_NEXT(c, op);
}

/* There are four counters; they do not count. */
HANDLER(op_rdpmc)
{
    if ((c->s.cpl && !(c->s.cr4 & X86_CR4_PCE)) || T0_R32(c, X86_RCX * 8) > 3) {
        return gp0(c, op);
    }
    T0_W32(c, X86_RAX * 8, 0);
    T0_W32(c, X86_RDX * 8, 0);
    return T0_NEXT(c, op);
}

HANDLER(op_rdpid)
{
    T0_W64(c, op->dst, c->s.msr.tsc_aux);
    return T0_NEXT(c, op);
}

/* Apart, so that op_rdrand has no local whose address is taken: see t0.h. */
static __attribute__((noinline)) struct t0_val random_value(void)
{
    struct t0_val v = {0, 0};
    v.fault = getrandom(&v.v, sizeof(v.v), GRND_NONBLOCK) != (ssize_t)sizeof(v.v);
    return v;
}

/* RDRAND, RDSEED: CF says whether there was a number. */
HANDLER(op_rdrand)
{
    struct t0_val v = random_value();
    switch (op->size) {
    case 2: T0_W16(c, op->dst, v.v); break;
    case 4: T0_W32(c, op->dst, v.v); break;
    default: T0_W64(c, op->dst, v.v);
    }
    c->flags = 0x200 | (v.fault ? 0 : T0_FLAG_CF);
    return T0_NEXT(c, op);
}

/* --- Waiting --------------------------------------------------------------- */

HANDLER(op_hlt)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    c->s.activity = X86_HALTED;
    c->s.int_shadow = false;
    c->core->exit_wanted = true;
    c->core->exit = VCPU_EXIT_HLT;
    return t0_leave(c, op, t0_next_rip(c, op));
}

/* MWAIT: the run loop waits (t0_cpu.c). */
HANDLER(op_mwait)
{
    uint32_t ext = T0_R32(c, X86_RCX * 8);
    if (c->s.cpl) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (ext & ~1u) {
        return gp0(c, op);
    }
    if (c->core->monitor.armed) {
        c->core->monitor.armed = false;
        c->core->monitor.wanted = true;
        c->core->monitor.any_irq = ext & 1;
        c->core->exit_wanted = true;
    }
    return t0_leave(c, op, t0_next_rip(c, op));
}

/* base: rAX */
HANDLER(op_monitor)
{
    if (c->s.cpl) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (T0_R32(c, X86_RCX * 8)) {
        return gp0(c, op);
    }
    struct t0_val a = t0_ea(c, op, 1, false);
    if (a.fault || t0_monitor(c, a.v, op->seg)) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/*
 * The guest waits for another of its processors, which may be waiting for ours to
 * leave the host's: let go of it every PAUSES_TO_YIELD times. That is often enough for
 * a ticket lock to go round among four vCPUs a core, and costs a lone spinner little.
 */
enum { PAUSES_TO_YIELD = 32 };

HANDLER(op_pause)
{
    if (c->vcpu->vm->nb_vcpus > 1 && ++c->core->pauses % PAUSES_TO_YIELD == 0) {
        g_thread_yield();
    }
    return T0_NEXT(c, op);
}

/* --- TLB and caches -------------------------------------------------------- */

HANDLER(op_invlpg)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t la = t0_offset(c, op);
    la += c->seg_base[op->seg];
    t0_tlb_flush_page(c, t0_is64(c) ? la : (uint32_t)la);
    return t0_end_block(c, op);
}

/* INVPCID (APM 3): dst holds the type, memory PCID and address. */
HANDLER(op_invpcid)
{
    if (c->s.cpl) {
        return gp0(c, op);
    }
    uint64_t type = op->size == 8 ? T0_R64(c, op->dst) : T0_R32(c, op->dst);
    uint8_t b[16];
    struct t0_val a = t0_ea(c, op, 16, false);
    if (a.fault || t0_read_bytes(c, a.v, b, 16, op->seg)) {
        return T0_FAULT(c, op);
    }
    uint64_t pcid = le64_get(b), la = le64_get(b + 8);
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->s.cr4 & X86_CR4_PCIDE)) ||
        (type == 0 && !t0_canonical_base(c, la))) {
        return gp0(c, op);
    }
    if (type == 0) {
        t0_tlb_flush_page(c, la);
    } else {
        t0_tlb_flush(c, type == 2);
    }
    return t0_end_block(c, op);
}

HANDLER(op_rsm)
{
    if (!x86_vcpu_of(c->vcpu)->smm.active) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    t0_leave(c, op, t0_next_rip(c, op));
    if (!t0_leave_smm(c)) {
        c->s.activity = X86_SHUTDOWN;
    }
    return NULL;
}

/* Caches are coherent here: writing back and dropping them changes nothing. */
HANDLER(op_wbinvd)
{
    return c->s.cpl ? gp0(c, op) : T0_NEXT(c, op);
}

/* CLFLUSH and friends fault as a one-byte read does. */
HANDLER(op_clflush)
{
    struct t0_val a = t0_ea(c, op, 1, false);
    if (a.fault || t0_load(c, a.v, 1, op->seg).fault) {
        return T0_FAULT(c, op);
    }
    return T0_NEXT(c, op);
}

/* --- The rest -------------------------------------------------------------- */

/* KVM's hypercalls: none is offered. -KVM_ENOSYS is -1000. */
HANDLER(op_vmcall)
{
    if (!x86_cpu_has(c->core->model, X86_FEAT_HYPERVISOR)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    int64_t r = c->s.cpl ? -1 : -1000; /* -KVM_EPERM */
    c->gpr[X86_RAX] = t0_is64(c) ? (uint64_t)r : (uint32_t)r;
    return t0_end_block(c, op);
}

HANDLER(op_xgetbv)
{
    uint32_t n = T0_R32(c, X86_RCX * 8);
    if (!(c->s.cr4 & X86_CR4_OSXSAVE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    bool one = n == 1 && x86_cpu_has(c->core->model, X86_FEAT_XGETBV1);
    if (n && !one) {
        return gp0(c, op);
    }
    /* XCR0 & XINUSE: all that is on may be in use. */
    T0_W32(c, X86_RAX * 8, c->s.xcr0);
    T0_W32(c, X86_RDX * 8, c->s.xcr0 >> 32);
    return T0_NEXT(c, op);
}

HANDLER(op_xsetbv)
{
    uint64_t v = T0_R32(c, X86_RAX * 8) | (uint64_t)T0_R32(c, X86_RDX * 8) << 32;
    if (!(c->s.cr4 & X86_CR4_OSXSAVE)) {
        return t0_raise(c, op, X86_EXC_UD);
    }
    if (c->s.cpl || T0_R32(c, X86_RCX * 8) || !(v & X86_XCR0_X87) ||
        (v & ~x86_cpu_xcr0_mask(c->core->model)) ||
        ((v & X86_XCR0_AVX) && !(v & X86_XCR0_SSE))) {
        return gp0(c, op);
    }
    c->s.xcr0 = v;
    t0_update_mode(c);
    return t0_end_block(c, op);
}

/* Apart, so that op_rdmsr has no local whose address is taken: see t0.h. */
static __attribute__((noinline)) struct t0_val read_msr(struct t0_cpu *c)
{
    struct t0_val v = {0, 0};
    v.fault = c->s.cpl || !t0_msr_read(c, T0_R32(c, X86_RCX * 8), &v.v);
    return v;
}

HANDLER(op_rdmsr)
{
    struct t0_val v = read_msr(c);
    if (v.fault) {
        return gp0(c, op);
    }
    T0_W32(c, X86_RAX * 8, v.v);
    T0_W32(c, X86_RDX * 8, v.v >> 32);
    return T0_NEXT(c, op);
}

HANDLER(op_wrmsr)
{
    uint64_t v = T0_R32(c, X86_RAX * 8) | (uint64_t)T0_R32(c, X86_RDX * 8) << 32;
    if (c->s.cpl || !t0_msr_write(c, T0_R32(c, X86_RCX * 8), v)) {
        return gp0(c, op);
    }
    return t0_end_block(c, op);
}

/* --- Lowering -------------------------------------------------------------- */

static bool lower_mov_cr_dr(const struct x86_insn *insn, struct t0_op *op)
{
    const struct x86_opnd *d = &insn->opnd[0], *s = &insn->opnd[1];
    if (d->kind == X86_OPND_CR || d->kind == X86_OPND_DR) {
        op->dst = d->reg;
        op->src = t0_reg(s->reg);
        op->size = s->size;
        op->fn = d->kind == X86_OPND_CR ? write_cr : write_dr;
        return true;
    }
    if (s->kind == X86_OPND_CR || s->kind == X86_OPND_DR) {
        op->dst = t0_reg(d->reg);
        op->src = s->reg;
        op->size = d->size;
        op->fn = s->kind == X86_OPND_CR ? read_cr : read_dr;
        return true;
    }
    return false;
}

static bool lower_pio(const struct x86_insn *insn, struct t0_op *op)
{
    bool in = insn->op == X86_OP_IN;
    const struct x86_opnd *port = &insn->opnd[in], *data = &insn->opnd[!in];
    op->aux = port->kind == X86_OPND_IMM;
    op->size = data->size;
    op->fn = in ? op_in : op_out;
    return true;
}

struct plain {
    uint16_t op;
    uint8_t aux;
    t0_fn fn;
};

/* Instructions that need nothing but their handler. */
static const struct plain plain[] = {
    {X86_OP_RSM, 0, op_rsm},
    {X86_OP_CLTS, 0, op_clts},
    {X86_OP_CLI, 0, op_cli},
    {X86_OP_STI, 0, op_sti},
    {X86_OP_PUSHF, 0, op_pushf},
    {X86_OP_POPF, 0, op_popf},
    {X86_OP_STAC, 1, op_ac},
    {X86_OP_CLAC, 0, op_ac},
    {X86_OP_CPUID, 0, op_cpuid},
    {X86_OP_RDTSC, 0, op_rdtsc},
    {X86_OP_RDTSCP, 1, op_rdtsc},
    {X86_OP_RDPMC, 0, op_rdpmc},
    {X86_OP_HLT, 0, op_hlt},
    {X86_OP_MWAIT, 0, op_mwait},
    {X86_OP_PAUSE, 0, op_pause},
    {X86_OP_INVLPG, 0, op_invlpg},
    {X86_OP_INVD, 0, op_wbinvd},
    {X86_OP_WBINVD, 0, op_wbinvd},
    {X86_OP_WBNOINVD, 0, op_wbinvd},
    {X86_OP_CLFLUSH, 0, op_clflush},
    {X86_OP_CLFLUSHOPT, 0, op_clflush},
    {X86_OP_CLWB, 0, op_clflush},
    {X86_OP_VMCALL, 0, op_vmcall},
    {X86_OP_VMMCALL, 0, op_vmcall},
    {X86_OP_XGETBV, 0, op_xgetbv},
    {X86_OP_XSETBV, 0, op_xsetbv},
    {X86_OP_RDMSR, 0, op_rdmsr},
    {X86_OP_WRMSR, 0, op_wrmsr},
};

bool t0_lower_sys(const struct x86_insn *insn, const struct t0_lower *ctx,
                  struct t0_op *op)
{
    const struct x86_opnd *o = insn->opnd;
    switch (insn->op) {
    case X86_OP_MOV: return lower_mov_cr_dr(insn, op);
    case X86_OP_IN:
    case X86_OP_OUT: return lower_pio(insn, op);
    case X86_OP_LMSW:
        op->aux = o[0].kind == X86_OPND_MEM;
        op->src = op->aux ? 0 : t0_reg(o[0].reg);
        op->fn = op_lmsw;
        return true;
    case X86_OP_SMSW:
        op->aux = o[0].kind == X86_OPND_MEM;
        op->dst = op->aux ? 0 : t0_reg(o[0].reg);
        op->fn = op_smsw;
        return true;
    case X86_OP_RDRAND:
    case X86_OP_RDSEED:
        op->dst = t0_reg(o[0].reg);
        op->fn = op_rdrand;
        return true;
    case X86_OP_RDPID:
        op->dst = t0_reg(o[0].reg);
        op->fn = op_rdpid;
        return true;
    case X86_OP_MONITOR:
        t0_set_ea(insn, ctx, op, X86_RAX, op->seg);
        op->fn = op_monitor;
        return true;
    case X86_OP_INVPCID:
        op->dst = t0_reg(o[0].reg);
        op->fn = op_invpcid;
        return true;
    default: break;
    }
    for (unsigned i = 0; i < ARRAY_LEN(plain); i++) {
        if (plain[i].op == insn->op) {
            op->aux = plain[i].aux;
            op->fn = plain[i].fn;
            return true;
        }
    }
    return false;
}
