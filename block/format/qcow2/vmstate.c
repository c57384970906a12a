#include "block/format/qcow2/qcow2_priv.h"

#include <errno.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * The state of the VM (savevm) is kept as if the disk went on: from the first offset
 * that an L1 entry of its own stands for (Spec, "Snapshots": vm_state_size). The L1
 * table grows for it; the disk does not.
 */

int qcow2_vmstate(struct blk *b, uint64_t end, uint64_t *ret_offset)
{
    struct qcow2 *q = b->priv;
    GError *error = NULL;
    uint64_t at, last;
    if (!ck_mul(qcow2_l1_entries(q, q->size),
                UINT64_C(1) << (q->cluster_bits + q->l2_bits), &at) ||
        !ck_add(at, end, &last) || last > INT64_MAX) {
        return -EFBIG;
    }
    uint64_t entries = qcow2_l1_entries(q, last);
    if (end && entries > QCOW2_MAX_L1_BYTES / 8) {
        return -EFBIG;
    }
    if (end && !qcow2_grow_l1(q, entries, &error)) {
        int code = error->domain == LODGE_ERROR && error->code ? error->code : EIO;
        g_error_free(error);
        return -code;
    }
    *ret_offset = at;
    return 0;
}
