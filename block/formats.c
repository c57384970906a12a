#include "block/blk_priv.h"

#include <string.h>

#include "lib/base/base.h"

#include "block/filter/blkdebug.h"
#include "block/filter/blkverify.h"
#include "block/filter/copy_on_read.h"
#include "block/filter/fault.h"
#include "block/filter/logwrites.h"
#include "block/filter/preallocate.h"
#include "block/format/bochs.h"
#include "block/format/cloop.h"
#include "block/format/dmg.h"
#include "block/format/luks.h"
#include "block/format/parallels/parallels.h"
#include "block/format/qcow/qcow.h"
#include "block/format/qcow2/qcow2.h"
#include "block/format/qed/qed.h"
#include "block/format/raw.h"
#include "block/format/vdi.h"
#include "block/format/vhdx/vhdx.h"
#include "block/format/vmdk/vmdk.h"
#include "block/format/vpc.h"
#include "block/proto/file.h"
#include "block/proto/nbd.h"
#include "block/proto/null.h"

/* All there is, in the order it is asked. */

/* clang-format off */
const struct blk_format *const blk_formats[] = {
    &raw_format,
    &qcow2_format,
    &luks_format,
    &vdi_format,
    &vmdk_format,
    &vhdx_format,
    &vpc_format,
    &qed_format,
    &qcow_format,
    &parallels_format,
    &bochs_format,
    &cloop_format,
    &dmg_format,
    NULL,
};
/* clang-format on */

/* clang-format off */
const struct blk_protocol *const blk_protocols[] = {
    &file_protocol,
    &nbd_protocol,
    &null_co_protocol,
    &null_aio_protocol,
    &blkdebug_filter,
    &blkverify_filter,
    &copy_on_read_filter,
    &fault_filter,
    &logwrites_filter,
    &preallocate_filter,
    NULL,
};
/* clang-format on */

const struct blk_format *blk_probe(const uint8_t *head, size_t len,
                                   const char *filename)
{
    const struct blk_format *best = &raw_format;
    int surest = 0;
    for (size_t i = 0; blk_formats[i]; i++) {
        int sure =
            blk_formats[i]->probe ? blk_formats[i]->probe(head, len, filename) : 0;
        if (sure > surest) {
            best = blk_formats[i];
            surest = sure;
        }
    }
    return best;
}

/*
 * Signatures of formats without a driver here. Taking such an image for a raw disk
 * would show the guest its tables, and let it write over them; and a guest that could
 * write such a signature into a raw disk would have the next program that probes it
 * follow file names of the guest's choosing.
 */
static const struct {
    const char *name;
    uint16_t offset;
    uint8_t len;
    const char *bytes;
} signatures[] = {
    {"qcow", 0, 4, "QFI\xfb"}, /* of whatever version */
    {"luks (version 2)", 0, 6, "LUKS\xba\xbe"},
};

const char *blk_foreign_format(const uint8_t *head, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++) {
        size_t end = signatures[i].offset + (size_t)signatures[i].len;
        if (end <= len && memcmp(head + signatures[i].offset, signatures[i].bytes,
                                 signatures[i].len) == 0) {
            return signatures[i].name;
        }
    }
    return NULL;
}
