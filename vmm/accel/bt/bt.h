#ifndef VMM_ACCEL_BT_BT_H
#define VMM_ACCEL_BT_BT_H

#include "lib/isa/x86/cpu_model.h"
#include "vmm/vm/accel.h"

/*
 * -accel bt: the software CPU. It interprets, and translates what is hot where the host
 * has the instructions for that (tier=1, the default: docs/adr/0006); tier=0 only
 * interprets. `-accel bt,help` lists the other options.
 */
extern const struct accel_ops bt_accel_ops;

/* What the software CPU can do on this host: the bound of CPU models under bt. */
void bt_features(struct x86_featset *ret);

#endif
