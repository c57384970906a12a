#include "vmm/accel/bt/t0_priv.h"

/*
 * Breakpoints in hardware (APM 2 13.1, SDM 3 17.2, 17.3): what DR7 watches, and the
 * debug traps that wait to be taken.
 *
 * Nothing here costs anything while DR7 enables nothing. Otherwise
 *   instructions   code in the page of a breakpoint is stepped over, one instruction at
 *                  a time, by the run loop; so that every way into such a page leads
 *                  through the loop, blocks are neither chained nor put into the jump
 *                  cache
 *   data           the TLB has no fast translation of a watched page: every access to
 *                  it comes by the slow paths, which ask t0_debug_access()
 *   ports          t0_pio_in() and t0_pio_out() ask t0_debug_io()
 * and nothing is translated by T1 while instructions or data are watched.
 *
 * A hit of the last two is a trap: the instruction completes (of a repeated string
 * instruction, the element), then the run loop delivers #DB. To get there the block is
 * dropped and attention is raised on ourselves.
 *
 * MOV SS and POP SS hold traps back until the instruction after them is done
 * (T0_DEBUG_SHADOW); it does not stop at an instruction breakpoint either.
 */

#define DR7_GD       (UINT64_C(1) << 13)
#define DR6_HITS     UINT64_C(0xf)
#define DEBUGCTL_BTF UINT64_C(2)
#define DEBUGCTL_LBR UINT64_C(1)

enum { RW_EXEC, RW_WRITE, RW_IO, RW_DATA };

struct watch {
    unsigned rw;
    uint64_t first, last;
};

/* Breakpoint @n; false when it is not enabled. */
static bool watch_of(const struct t0_cpu *c, unsigned n, struct watch *ret)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    uint64_t dr7 = c->s.dr[7];
    if (!(dr7 >> (2 * n) & 3)) {
        return false;
    }
    unsigned len = lengths[dr7 >> (18 + 4 * n) & 3];
    ret->rw = dr7 >> (16 + 4 * n) & 3;
    ret->first = c->s.dr[n] & ~(uint64_t)(len - 1);
    ret->last = ret->first + len - 1;
    return ret->rw != RW_IO || (c->s.cr4 & X86_CR4_DE);
}

void t0_debug_update(struct t0_cpu *c)
{
    unsigned old = c->debug;
    unsigned now = old & ~(unsigned)(T0_DEBUG_CODE | T0_DEBUG_DATA | T0_DEBUG_IO);
    for (unsigned n = 0; n < 4; n++) {
        struct watch w;
        if (watch_of(c, n, &w)) {
            now |= w.rw == RW_EXEC ? T0_DEBUG_CODE
                   : w.rw == RW_IO ? T0_DEBUG_IO
                                   : T0_DEBUG_DATA;
        }
    }
    if ((old | now) & (T0_DEBUG_CODE | T0_DEBUG_DATA)) {
        now |= T0_DEBUG_FLUSH;
    }
    c->debug = (uint8_t)now;
}

void t0_debug_trap(struct t0_cpu *c, uint64_t bits)
{
    c->core->debug_bits |= bits;
    c->debug |= T0_DEBUG_HIT;
    atomic_fetch_or_explicit(&c->vcpu->attention, T0_ATTN, memory_order_relaxed);
}

bool t0_debug_watches(const struct t0_cpu *c, uint64_t page)
{
    for (unsigned n = 0; n < 4; n++) {
        struct watch w;
        if (watch_of(c, n, &w) && (w.rw & RW_WRITE) && (w.first ^ page) >> 12 == 0) {
            return true;
        }
    }
    return false;
}

void t0_debug_access(struct t0_cpu *c, uint64_t la, unsigned size, bool write)
{
    uint64_t bits = 0, last = la + size - 1;
    for (unsigned n = 0; n < 4; n++) {
        struct watch w;
        if (watch_of(c, n, &w) && (w.rw == RW_DATA || (w.rw == RW_WRITE && write)) &&
            w.first <= last && la <= w.last) {
            bits |= 1u << n;
        }
    }
    if (bits) {
        t0_debug_trap(c, bits);
        t0_block_abandon(c);
    }
}

void t0_debug_io(struct t0_cpu *c, uint16_t port, unsigned size)
{
    uint64_t bits = 0;
    for (unsigned n = 0; n < 4; n++) {
        struct watch w;
        if (watch_of(c, n, &w) && w.rw == RW_IO && w.first <= port + size - 1u &&
            port <= w.last) {
            bits |= 1u << n;
        }
    }
    if (bits) {
        t0_debug_trap(c, bits);
    }
}

/* --- In the run loop ------------------------------------------------------- */

static uint64_t linear_rip(const struct t0_cpu *c)
{
    uint64_t lin = c->s.rip + c->seg_base[X86_CS];
    return t0_is64(c) ? lin : (uint32_t)lin;
}

/* DR6 bits of the instruction breakpoints at @lin, or anywhere in its page. */
static uint64_t code_hits(const struct t0_cpu *c, uint64_t lin, bool in_page)
{
    uint64_t bits = 0;
    for (unsigned n = 0; n < 4; n++) {
        struct watch w;
        if (watch_of(c, n, &w) && w.rw == RW_EXEC &&
            (c->s.dr[n] ^ lin) >> (in_page ? 12 : 0) == 0) {
            bits |= 1u << n;
        }
    }
    return bits;
}

void t0_debug_enter(struct t0_cpu *c, uint64_t bits)
{
    c->s.dr[6] = (c->s.dr[6] & ~DR6_HITS) | bits;
    c->s.dr[7] &= ~DR7_GD;
    c->s.msr.debugctl &= ~(DEBUGCTL_BTF | DEBUGCTL_LBR);
    c->core->debug_bits = 0;
    c->debug &= (uint8_t) ~(T0_DEBUG_HIT | T0_DEBUG_SHADOW);
}

/* #DB with RIP as it is: a trap, or the fault of an instruction breakpoint, for which
 * RF is not set in what is pushed either (SDM 3 17.3.1.1). */
static void deliver(struct t0_cpu *c, uint64_t bits)
{
    struct t0_core *core = c->core;
    t0_debug_enter(c, bits);
    c->s.activity = X86_ACTIVE; /* HLT was stepped over */
    if (core->exit_wanted && core->exit == VCPU_EXIT_HLT) {
        core->exit_wanted = false;
    }
    core->chain_wanted = NULL;
    if (!t0_deliver(c, T0_EVENT_TRAP, X86_EXC_DB, false, 0)) {
        core->exc_pending = true;
    }
}

void t0_debug_settle(struct t0_cpu *c)
{
    if (c->debug & T0_DEBUG_FLUSH) {
        c->debug &= (uint8_t)~T0_DEBUG_FLUSH;
        t0_code_flush(c);
        t0_tlb_flush(c, true);
    }
    if ((c->debug & (T0_DEBUG_HIT | T0_DEBUG_SHADOW)) == T0_DEBUG_HIT) {
        deliver(c, c->core->debug_bits);
    }
}

bool t0_debug_steps(struct t0_cpu *c)
{
    if (c->debug & T0_DEBUG_HIT) {
        return true;
    }
    if ((c->debug & T0_DEBUG_CODE) && code_hits(c, linear_rip(c), true)) {
        return true;
    }
    c->s.rflags &= ~(uint64_t)X86_FL_RF;
    c->debug &= (uint8_t)~T0_DEBUG_SHADOW;
    return false;
}

bool t0_debug_before(struct t0_cpu *c)
{
    bool shadow = c->debug & T0_DEBUG_SHADOW;
    c->debug &= (uint8_t)~T0_DEBUG_SHADOW;
    if (!(c->debug & T0_DEBUG_CODE) || shadow || (c->s.rflags & X86_FL_RF)) {
        return false;
    }
    uint64_t bits = code_hits(c, linear_rip(c), false);
    if (bits) {
        deliver(c, bits);
    }
    return bits != 0;
}

void t0_debug_after(struct t0_cpu *c, bool tf, uint64_t rip, uint64_t next)
{
    if (c->core->exc_pending) {
        return;
    }
    c->s.rflags &= ~(uint64_t)X86_FL_RF;
    if ((c->debug & T0_DEBUG_CODE) && c->s.rip == rip) {
        c->s.rflags |= X86_FL_RF; /* the next element of a string instruction */
    }
    bool branches = c->s.msr.debugctl & DEBUGCTL_BTF;
    if (tf && !c->core->no_trap && (!branches || c->s.rip != next)) {
        c->core->debug_bits |= T0_DR6_BS;
        c->debug |= T0_DEBUG_HIT;
    }
    if ((c->debug & T0_DEBUG_SHADOW)) {
        /* The single step of MOV SS itself is lost; hits of its operand wait. */
        c->core->debug_bits &= ~T0_DR6_BS;
        if (!c->core->debug_bits) {
            c->debug &= (uint8_t)~T0_DEBUG_HIT;
        }
    }
    t0_debug_settle(c);
}
