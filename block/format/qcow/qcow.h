#ifndef BLOCK_FORMAT_QCOW_QCOW_H
#define BLOCK_FORMAT_QCOW_QCOW_H

/* qcow, version 1: the format before qcow2. */

extern const struct blk_format qcow_format;

#endif
