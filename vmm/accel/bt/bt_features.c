#include "vmm/accel/bt/bt.h"

#include <string.h>

#include "lib/base/base.h"

#define F(x) X86_FEAT_##x

/* Done by the interpreter's own code, whatever the host has. */
static const uint8_t own[] = {
    F(FPU),         F(DE),        F(PSE),       F(TSC),        F(MSR),
    F(PAE),         F(MCE),       F(CX8),       F(APIC),       F(SEP),
    F(MTRR),        F(PGE),       F(MCA),       F(CMOV),       F(PAT),
    F(PSE36),       F(CLFLUSH),   F(MMX),       F(FXSR),       F(SSE),
    F(SSE2),        F(CX16),      F(PCID),      F(X2APIC),     F(TSC_DEADLINE),
    F(HYPERVISOR),  F(ARAT),      F(FSGSBASE),  F(SMEP),       F(SMAP),
    F(UMIP),        F(ERMS),      F(FSRM),      F(INVPCID),    F(XSAVE),
    F(XSAVEOPT),    F(XSAVEC),    F(XGETBV1),   F(XSAVES),     F(LAHF_LM),
    F(CMP_LEGACY),  F(CR8LEGACY), F(SYSCALL),   F(NX),         F(PDPE1GB),
    F(RDTSCP),      F(LM),        F(INVTSC),    F(RDPID),      F(WBNOINVD),
    F(CLFLUSHOPT),  F(CLWB),      F(PREFETCHW), F(RDRAND),     F(RDSEED),
    F(MISALIGNSSE), F(MMXEXT),    F(CLZERO),    F(TOPOEXT),    F(LA57),
    F(MONITOR),     F(OSVW),      F(FXSR_OPT),  F(TSC_ADJUST), F(VME),
    X86_FEAT_NONE,
};

/* Run by the host's own instructions: only where the host has them. */
static const uint8_t native[] = {
    F(SSE3),      F(SSSE3),  F(SSE4_1),     F(SSE4_2),   F(SSE4A),      F(POPCNT),
    F(MOVBE),     F(ABM),    F(BMI1),       F(BMI2),     F(ADX),        F(AES),
    F(PCLMULQDQ), F(SHA_NI), F(GFNI),       F(AVX),      F(AVX2),       F(FMA),
    F(F16C),      F(VAES),   F(VPCLMULQDQ), F(AVX_VNNI), X86_FEAT_NONE,
};

void bt_features(struct x86_featset *ret)
{
    struct x86_featset host;
    x86_featset_host(&host);
    memset(ret, 0, sizeof(*ret));
    x86_featset_add(ret, own);
    for (const uint8_t *f = native; *f != X86_FEAT_NONE; f++) {
        x86_featset_put(ret, *f, x86_featset_has(&host, *f));
    }
}
