#ifndef LIB_ISA_X86_CPU_MODEL_H
#define LIB_ISA_X86_CPU_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

#include "lib/isa/x86/feat.h"

/*
 * CPU models: what CPUID tells a guest. A model is a vendor, a family, a name and a
 * set of features; the named ones are a table in cpu_model.c, and -cpu's text
 * ("Haswell,+aes,-avx,x2apic=off") edits one. What the accelerator can really do
 * bounds all of them.
 */

/* A set of enum x86_feat. */
struct x86_featset {
    uint64_t bits[(X86_NB_FEATS + 63) / 64];
};

static inline bool x86_featset_has(const struct x86_featset *s, enum x86_feat f)
{
    return f == X86_FEAT_NONE || (s->bits[f / 64] >> (f % 64) & 1);
}

static inline void x86_featset_put(struct x86_featset *s, enum x86_feat f, bool on)
{
    uint64_t bit = UINT64_C(1) << (f % 64);
    s->bits[f / 64] = on ? s->bits[f / 64] | bit : s->bits[f / 64] & ~bit;
}

/* The features of the processor this runs on, as CPUID shows them now. */
void x86_featset_host(struct x86_featset *ret);

/* Add every feature of the list (ends with X86_FEAT_NONE). */
void x86_featset_add(struct x86_featset *s, const uint8_t *feats);

/*
 * How the logical processors are told apart: so many sockets, dies in each, cores in
 * each die, threads on each core. All at least 1. APIC IDs number them from 0 without
 * gaps, which x86_topology_check() ensures.
 */
struct x86_topology {
    uint16_t sockets, dies, cores, threads;
};

/*
 * Whether every level but the topmost one in use holds a power of two, so that the
 * fields of an APIC ID leave no gap. False with @error naming the level.
 */
bool x86_topology_check(const struct x86_topology *t, GError **error);

struct x86_cpu_model {
    char name[32];
    char vendor[13]; /* CPUID 0: EBX, EDX, ECX */
    char brand[49];  /* CPUID 80000002h-4h */
    uint16_t family, model, stepping;
    uint32_t max_leaf, max_ext_leaf; /* largest basic and extended leaf */
    uint8_t phys_bits, virt_bits;
    bool no_kvm; /* kvm=off: a guest that looks for KVM's interface finds none */
    struct x86_featset feats;
    struct x86_topology topo; /* one processor until its owner says otherwise */
};

/*
 * Make a model from @spec: NAME[,+f|,-f|,f=on|off|,vendor=...|,family=N|,model=N|
 * ,stepping=N|,model-id=TEXT|,phys-bits=N|,host-phys-bits=on|,check=on|off
 * |,enforce=on|off|,kvm=on|off].
 *
 * @supported  what the accelerator can do. Features that the named model or +f wants
 *             beyond it are left out and named in *ret_missing (comma-separated,
 *             owned by the caller, NULL when none); with enforce=on that is an error.
 *
 * NULL with @error naming the unknown model or feature and the nearest one. Free
 * with g_free().
 */
struct x86_cpu_model *x86_cpu_model_new(const char *spec,
                                        const struct x86_featset *supported,
                                        char **ret_missing, GError **error);

/* "-cpu help": every model, then every feature name. */
void x86_cpu_model_help(FILE *out);

static inline bool x86_cpu_has(const struct x86_cpu_model *m, enum x86_feat f)
{
    return x86_featset_has(&m->feats, f);
}

/* CPUID 1 EAX: what RESET leaves in EDX. */
uint32_t x86_cpu_signature(const struct x86_cpu_model *m);

/* What of CPUID changes while the guest runs, or differs between its CPUs. */
struct x86_cpuid_env {
    uint32_t apic_id;
    uint32_t nb_cpus;   /* logical processors, all in one package */
    uint64_t cr4;       /* OSXSAVE */
    uint64_t xcr0, xss; /* sizes of the XSAVE area */
    bool apic_enabled;  /* APIC_BASE bit 11 */
    uint32_t tsc_khz;   /* leaf 15h and 40000010h; 0: not told */
};

/* CPUID results, in the order of enum x86_cpuid_reg. */
struct x86_cpuid {
    uint32_t reg[4];
};

/*
 * What CPUID with EAX = @leaf, ECX = @subleaf gives. A leaf above the largest gives
 * zeroes on an AMD model and the largest basic leaf on an Intel one. The hypervisor
 * leaves (4000_0000h) are not here: vmm/arch/x86/kvm_pv.h.
 */
struct x86_cpuid x86_cpuid(const struct x86_cpu_model *m,
                           const struct x86_cpuid_env *env, uint32_t leaf,
                           uint32_t subleaf);

/* XCR0 bits the model has (APM 2 11.5.2); 0 without XSAVE. */
uint64_t x86_cpu_xcr0_mask(const struct x86_cpu_model *m);

/* CR4 bits the model lets software set; others are reserved: #GP. */
uint64_t x86_cpu_cr4_mask(const struct x86_cpu_model *m);

/* EFER bits the model lets software set. */
uint64_t x86_cpu_efer_mask(const struct x86_cpu_model *m);

#endif
