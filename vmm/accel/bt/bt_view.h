#ifndef VMM_ACCEL_BT_BT_VIEW_H
#define VMM_ACCEL_BT_BT_VIEW_H

#include "vmm/accel/bt/t0_priv.h"
#include "vmm/vm/props.h"

/* -accel bt,...: fields of struct t0_vm. */
extern const struct prop bt_options[];

/* Set them from @options, as accel_ops.init() has them, and open what they name. False
 * with @error: bt_options_done() is called all the same. Thread: main. */
bool bt_set_options(struct t0_vm *t, const json_t *options, GError **error);
void bt_options_done(struct t0_vm *t);

/*
 * accel_ops.dump and .stats: what @vcpu's software CPU has counted, as text with the
 * last blocks and the code at RIP, and as JSON for programs. Counters start with the
 * vCPU and are those of its own thread: from another one while it runs they may be a
 * little behind each other, and each is right by itself.
 *
 *     {"insns": N,
 *      "blocks": {"decoded", "insns-decoded", "killed", "bytes", "room", "flushes",
 *                 "pages-checked", "checks-failed"},
 *      "code-stores": stores that hit memory with decoded code,
 *      "tlb": {"walks", "flushes", "jump-flushes",
 *              "misses": {"user", "user-ac", "kernel", "kernel-smap", "code"}},
 *      "exceptions", "interrupts", "steps", "lookups": N,
 *      "translations": {"blocks", "bytes", "room", "evictions", "blocks-evicted",
 *                       "enters", "chained", "resolves", "branches", "fallbacks",
 *                       "slow-accesses", "checked-in-lockstep"},
 *      "fallbacks": {mnemonic: times an instruction was left to the interpreter}}
 *
 * "translations" and "fallbacks" are not there with tier=0. "chained" is how often the
 * exit of a translation was linked to another one. The caller owns the result.
 */
void bt_dump(struct vcpu *vcpu, FILE *out);
json_t *bt_stats(struct vcpu *vcpu);

#endif
