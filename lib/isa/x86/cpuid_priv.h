#ifndef LIB_ISA_X86_CPUID_PRIV_H
#define LIB_ISA_X86_CPUID_PRIV_H

#include <stdint.h>

#include "lib/isa/x86/feat.h"

/* Where CPUID shows each feature; index enum x86_feat. In cpuid.c. */
struct x86_feat_info {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
};
extern const struct x86_feat_info x86_feat_infos[X86_NB_FEATS];

#endif
