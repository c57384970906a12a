#ifndef BLOCK_FORMAT_QED_QED_H
#define BLOCK_FORMAT_QED_QED_H

/* QED, as docs/interop/qed_spec of the QEMU project describes it. */

extern const struct blk_format qed_format;

#endif
