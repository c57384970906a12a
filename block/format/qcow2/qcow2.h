#ifndef BLOCK_FORMAT_QCOW2_QCOW2_H
#define BLOCK_FORMAT_QCOW2_QCOW2_H

/* qcow2, versions 2 and 3, as docs/interop/qcow2 of the QEMU project describes it. */

extern const struct blk_format qcow2_format;

#endif
