#ifndef VMM_VM_CLOCK_H
#define VMM_VM_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct vm_clock;
struct vm_timer;

/*
 * The one seam for time. Devices take time and timers from here and nowhere else,
 * so that a recorded run can feed the same times again.
 *
 *   guest time  nanoseconds since the VM started, not counting the time it was
 *               stopped; monotonic. Timers run on it.
 *   wall time   what the guest's RTC shows: UTC in nanoseconds since 1970.
 */

struct vm_clock *vm_clock_new(struct loop *loop);
void vm_clock_free(struct vm_clock *c);

/* Guest time. Any thread; about 25 ns. */
uint64_t vm_clock_ns(struct vm_clock *c);

/* The host's monotonic time at which it is guest time @guest_ns, in nanoseconds;
 * UINT64_MAX while guest time stands still or when that is out of reach. Any thread. */
uint64_t vm_clock_to_host(struct vm_clock *c, uint64_t guest_ns);

/* Wall time. Any thread. */
uint64_t vm_clock_wall_ns(struct vm_clock *c);

/* Stop and restart guest time. Idempotent. Thread: main. */
void vm_clock_stop(struct vm_clock *c);
void vm_clock_start(struct vm_clock *c);

bool vm_clock_is_running(const struct vm_clock *c);

/*
 * While guest time is stopped: move it on by @ns, and call the functions of the
 * timers that become due, in order, each at its own time exactly. For tests and
 * replay. Thread: main.
 */
void vm_clock_advance(struct vm_clock *c, uint64_t ns);

/*
 * The host's time-stamp counter shown to guests: host TSC + offset, so that it
 * starts near 0 and stands still never; its rate in kHz (measured once per boot of
 * the host, from CPUID or against the monotonic clock over 10 ms).
 */
uint64_t vm_clock_tsc(struct vm_clock *c);
/* The host's counter when the other was 0; never changes. */
uint64_t vm_clock_tsc_start(const struct vm_clock *c);
uint64_t vm_clock_tsc_khz(struct vm_clock *c);

/* Guest nanoseconds at which vm_clock_tsc() reaches @tsc (saturating). */
uint64_t vm_clock_tsc_to_ns(struct vm_clock *c, uint64_t tsc);

/*
 * A timer on guest time. @fn runs on the main loop's thread with no lock held.
 * set/cancel: any thread, also with the device's lock held; cancel does not wait,
 * so @fn may run once more: it looks at the device's state under the device's lock.
 * free: main thread, after which @fn does not run.
 */
typedef void (*vm_timer_fn)(void *opaque);
struct vm_timer *vm_timer_new(struct vm_clock *c, vm_timer_fn fn, void *opaque);
void vm_timer_free(struct vm_timer *t);
void vm_timer_set(struct vm_timer *t, uint64_t guest_ns);
void vm_timer_cancel(struct vm_timer *t);

#endif
