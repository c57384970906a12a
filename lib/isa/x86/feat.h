#ifndef LIB_ISA_X86_FEAT_H
#define LIB_ISA_X86_FEAT_H

/*
 * Every CPUID feature bit Lodge knows, once: X(ID, name, leaf, subleaf, register,
 * bit). The names are the ones QEMU's -cpu takes. Instructions name the feature
 * they need (struct x86_desc), CPU models are sets of them. Spec: AMD64 APM
 * volume 3, appendix E; Intel SDM volume 2, CPUID.
 */

/* clang-format off */
enum x86_cpuid_reg { X86_CPUID_EAX, X86_CPUID_EBX, X86_CPUID_ECX, X86_CPUID_EDX };

#define X86_FEATS(X)                                            \
    X(FPU,          "fpu",              0x1, 0, EDX, 0)         \
    X(VME,          "vme",              0x1, 0, EDX, 1)         \
    X(DE,           "de",               0x1, 0, EDX, 2)         \
    X(PSE,          "pse",              0x1, 0, EDX, 3)         \
    X(TSC,          "tsc",              0x1, 0, EDX, 4)         \
    X(MSR,          "msr",              0x1, 0, EDX, 5)         \
    X(PAE,          "pae",              0x1, 0, EDX, 6)         \
    X(MCE,          "mce",              0x1, 0, EDX, 7)         \
    X(CX8,          "cx8",              0x1, 0, EDX, 8)         \
    X(APIC,         "apic",             0x1, 0, EDX, 9)         \
    X(SEP,          "sep",              0x1, 0, EDX, 11)        \
    X(MTRR,         "mtrr",             0x1, 0, EDX, 12)        \
    X(PGE,          "pge",              0x1, 0, EDX, 13)        \
    X(MCA,          "mca",              0x1, 0, EDX, 14)        \
    X(CMOV,         "cmov",             0x1, 0, EDX, 15)        \
    X(PAT,          "pat",              0x1, 0, EDX, 16)        \
    X(PSE36,        "pse36",            0x1, 0, EDX, 17)        \
    X(CLFLUSH,      "clflush",          0x1, 0, EDX, 19)        \
    X(MMX,          "mmx",              0x1, 0, EDX, 23)        \
    X(FXSR,         "fxsr",             0x1, 0, EDX, 24)        \
    X(SSE,          "sse",              0x1, 0, EDX, 25)        \
    X(SSE2,         "sse2",             0x1, 0, EDX, 26)        \
    X(SS,           "ss",               0x1, 0, EDX, 27)        \
    X(HT,           "ht",               0x1, 0, EDX, 28)        \
    X(SSE3,         "pni",              0x1, 0, ECX, 0)         \
    X(PCLMULQDQ,    "pclmulqdq",        0x1, 0, ECX, 1)         \
    X(MONITOR,      "monitor",          0x1, 0, ECX, 3)         \
    X(VMX,          "vmx",              0x1, 0, ECX, 5)         \
    X(SMX,          "smx",              0x1, 0, ECX, 6)         \
    X(SSSE3,        "ssse3",            0x1, 0, ECX, 9)         \
    X(FMA,          "fma",              0x1, 0, ECX, 12)        \
    X(CX16,         "cx16",             0x1, 0, ECX, 13)        \
    X(PCID,         "pcid",             0x1, 0, ECX, 17)        \
    X(SSE4_1,       "sse4.1",           0x1, 0, ECX, 19)        \
    X(SSE4_2,       "sse4.2",           0x1, 0, ECX, 20)        \
    X(X2APIC,       "x2apic",           0x1, 0, ECX, 21)        \
    X(MOVBE,        "movbe",            0x1, 0, ECX, 22)        \
    X(POPCNT,       "popcnt",           0x1, 0, ECX, 23)        \
    X(TSC_DEADLINE, "tsc-deadline",     0x1, 0, ECX, 24)        \
    X(AES,          "aes",              0x1, 0, ECX, 25)        \
    X(XSAVE,        "xsave",            0x1, 0, ECX, 26)        \
    X(OSXSAVE,      "osxsave",          0x1, 0, ECX, 27)        \
    X(AVX,          "avx",              0x1, 0, ECX, 28)        \
    X(F16C,         "f16c",             0x1, 0, ECX, 29)        \
    X(RDRAND,       "rdrand",           0x1, 0, ECX, 30)        \
    X(HYPERVISOR,   "hypervisor",       0x1, 0, ECX, 31)        \
    X(ARAT,         "arat",             0x6, 0, EAX, 2)         \
    X(FSGSBASE,     "fsgsbase",         0x7, 0, EBX, 0)         \
    X(TSC_ADJUST,   "tsc-adjust",       0x7, 0, EBX, 1)         \
    X(BMI1,         "bmi1",             0x7, 0, EBX, 3)         \
    X(AVX2,         "avx2",             0x7, 0, EBX, 5)         \
    X(SMEP,         "smep",             0x7, 0, EBX, 7)         \
    X(BMI2,         "bmi2",             0x7, 0, EBX, 8)         \
    X(ERMS,         "erms",             0x7, 0, EBX, 9)         \
    X(INVPCID,      "invpcid",          0x7, 0, EBX, 10)        \
    X(RTM,          "rtm",              0x7, 0, EBX, 11)        \
    X(MPX,          "mpx",              0x7, 0, EBX, 14)        \
    X(AVX512F,      "avx512f",          0x7, 0, EBX, 16)        \
    X(AVX512DQ,     "avx512dq",         0x7, 0, EBX, 17)        \
    X(RDSEED,       "rdseed",           0x7, 0, EBX, 18)        \
    X(ADX,          "adx",              0x7, 0, EBX, 19)        \
    X(SMAP,         "smap",             0x7, 0, EBX, 20)        \
    X(AVX512IFMA,   "avx512ifma",       0x7, 0, EBX, 21)        \
    X(CLFLUSHOPT,   "clflushopt",       0x7, 0, EBX, 23)        \
    X(CLWB,         "clwb",             0x7, 0, EBX, 24)        \
    X(AVX512CD,     "avx512cd",         0x7, 0, EBX, 28)        \
    X(SHA_NI,       "sha-ni",           0x7, 0, EBX, 29)        \
    X(AVX512BW,     "avx512bw",         0x7, 0, EBX, 30)        \
    X(AVX512VL,     "avx512vl",         0x7, 0, EBX, 31)        \
    X(AVX512VBMI,   "avx512vbmi",       0x7, 0, ECX, 1)         \
    X(UMIP,         "umip",             0x7, 0, ECX, 2)         \
    X(PKU,          "pku",              0x7, 0, ECX, 3)         \
    X(WAITPKG,      "waitpkg",          0x7, 0, ECX, 5)         \
    X(GFNI,         "gfni",             0x7, 0, ECX, 8)         \
    X(VAES,         "vaes",             0x7, 0, ECX, 9)         \
    X(VPCLMULQDQ,   "vpclmulqdq",       0x7, 0, ECX, 10)        \
    X(LA57,         "la57",             0x7, 0, ECX, 16)        \
    X(RDPID,        "rdpid",            0x7, 0, ECX, 22)        \
    X(MOVDIRI,      "movdiri",          0x7, 0, ECX, 27)        \
    X(MOVDIR64B,    "movdir64b",        0x7, 0, ECX, 28)        \
    X(FSRM,         "fsrm",             0x7, 0, EDX, 4)         \
    X(SERIALIZE,    "serialize",        0x7, 0, EDX, 14)        \
    X(CET_IBT,      "cet-ibt",          0x7, 0, EDX, 20)        \
    X(SPEC_CTRL,    "spec-ctrl",        0x7, 0, EDX, 26)        \
    X(ARCH_CAPS,    "arch-capabilities", 0x7, 0, EDX, 29)       \
    X(CET_SS,       "cet-ss",           0x7, 0, ECX, 7)         \
    X(AVX_VNNI,     "avx-vnni",         0x7, 1, EAX, 4)         \
    X(XSAVEOPT,     "xsaveopt",         0xd, 1, EAX, 0)         \
    X(XSAVEC,       "xsavec",           0xd, 1, EAX, 1)         \
    X(XGETBV1,      "xgetbv1",          0xd, 1, EAX, 2)         \
    X(XSAVES,       "xsaves",           0xd, 1, EAX, 3)         \
    X(LAHF_LM,      "lahf-lm",          0x80000001, 0, ECX, 0)  \
    X(CMP_LEGACY,   "cmp-legacy",       0x80000001, 0, ECX, 1)  \
    X(SVM,          "svm",              0x80000001, 0, ECX, 2)  \
    X(CR8LEGACY,    "cr8legacy",        0x80000001, 0, ECX, 4)  \
    X(ABM,          "abm",              0x80000001, 0, ECX, 5)  \
    X(SSE4A,        "sse4a",            0x80000001, 0, ECX, 6)  \
    X(MISALIGNSSE,  "misalignsse",      0x80000001, 0, ECX, 7)  \
    X(PREFETCHW,    "3dnowprefetch",    0x80000001, 0, ECX, 8)  \
    X(OSVW,         "osvw",             0x80000001, 0, ECX, 9)  \
    X(SKINIT,       "skinit",           0x80000001, 0, ECX, 12) \
    X(TOPOEXT,      "topoext",          0x80000001, 0, ECX, 22) \
    X(MWAITX,       "mwaitx",           0x80000001, 0, ECX, 29) \
    X(SYSCALL,      "syscall",          0x80000001, 0, EDX, 11) \
    X(NX,           "nx",               0x80000001, 0, EDX, 20) \
    X(MMXEXT,       "mmxext",           0x80000001, 0, EDX, 22) \
    X(FXSR_OPT,     "fxsr-opt",         0x80000001, 0, EDX, 25) \
    X(PDPE1GB,      "pdpe1gb",          0x80000001, 0, EDX, 26) \
    X(RDTSCP,       "rdtscp",           0x80000001, 0, EDX, 27) \
    X(LM,           "lm",               0x80000001, 0, EDX, 29) \
    X(INVTSC,       "invtsc",           0x80000007, 0, EDX, 8)  \
    X(CLZERO,       "clzero",           0x80000008, 0, EBX, 0)  \
    X(XSAVEERPTR,   "xsaveerptr",       0x80000008, 0, EBX, 2)  \
    X(RDPRU,        "rdpru",            0x80000008, 0, EBX, 4)  \
    X(WBNOINVD,     "wbnoinvd",         0x80000008, 0, EBX, 9)
/* clang-format on */

/* X86_FEAT_NONE is "every CPU has it". */
#define X86_FEAT_ENUM(id, name, leaf, subleaf, reg, bit) X86_FEAT_##id,
enum x86_feat { X86_FEAT_NONE, X86_FEATS(X86_FEAT_ENUM) X86_NB_FEATS };

#endif
