#ifndef VMM_VM_EXIT_H
#define VMM_VM_EXIT_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Every reason for which guest execution is interrupted, and the counters of it.
 *
 * A hypervisor intercepts and redirects; Lodge counts and times each interception
 * per reason here and per device in struct io_region, whatever the accelerator.
 */

/* clang-format off */
#define VCPU_EXITS(X)                                                           \
    X(PIO,      "pio")      /* port access, served by a device               */ \
    X(MMIO,     "mmio")     /* load or store outside RAM, served by a device  */ \
    X(IRQ,      "irq")      /* an interrupt was delivered to the guest        */ \
    X(HLT,      "hlt")      /* idle until an interrupt is pending             */ \
    X(KICK,     "kick")     /* another thread asked for attention             */ \
    X(SHUTDOWN, "shutdown") /* triple fault; the board decides what next      */ \
    X(DEBUG,    "debug")    /* breakpoint or step asked for from outside      */ \
    X(ERROR,    "error")    /* the accelerator cannot go on; vcpu->error says */
/* clang-format on */

#define VCPU_EXIT_ENUM(id, name) VCPU_EXIT_##id,
enum vcpu_exit { VCPU_EXITS(VCPU_EXIT_ENUM) VCPU_EXIT_COUNT };
#undef VCPU_EXIT_ENUM

/* "pio", "mmio", ...; @exit in 0..VCPU_EXIT_COUNT-1. Static storage. */
const char *vcpu_exit_name(enum vcpu_exit exit);

/*
 * How often and how long. Read by any thread with relaxed atomics: a reader may
 * see a count one ahead of its time. exit_stat_add() is for counters that several
 * threads write (a region that two vCPUs access), exit_stat_add_own() for those of
 * one thread, without the locked instructions.
 */
struct exit_stat {
    _Atomic uint64_t count;
    _Atomic uint64_t ns;
};

static inline void exit_stat_add(struct exit_stat *s, uint64_t ns)
{
    atomic_fetch_add_explicit(&s->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->ns, ns, memory_order_relaxed);
}

static inline void exit_stat_add_own(struct exit_stat *s, uint64_t ns)
{
    uint64_t count = atomic_load_explicit(&s->count, memory_order_relaxed);
    uint64_t sum = atomic_load_explicit(&s->ns, memory_order_relaxed);
    atomic_store_explicit(&s->count, count + 1, memory_order_relaxed);
    atomic_store_explicit(&s->ns, sum + ns, memory_order_relaxed);
}

#endif
