/*
 * What CPUID shows of a model, and the control-register bits that follow from it.
 * Spec: AMD64 APM vol. 3 appendix E, Intel SDM vol. 2 CPUID.
 */
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/cpu_model.h"
#include "lib/isa/x86/cpuid_priv.h"
#include "lib/isa/x86/state.h"

#define FEAT_INFO(id, text, l, s, r, b) \
    [X86_FEAT_##                        \
        id] = {.name = text, .leaf = l, .subleaf = s, .reg = X86_CPUID_##r, .bit = b},
const struct x86_feat_info x86_feat_infos[X86_NB_FEATS] = {X86_FEATS(FEAT_INFO)};

#define F(x) X86_FEAT_##x

uint32_t x86_cpu_signature(const struct x86_cpu_model *m)
{
    uint32_t family = MIN(m->family, 0xf), extended = m->family - family;
    return extended << 20 | (uint32_t)(m->model >> 4) << 16 | family << 8 |
           (m->model & 0xfu) << 4 | m->stepping;
}

uint64_t x86_cpu_xcr0_mask(const struct x86_cpu_model *m)
{
    if (!x86_cpu_has(m, X86_FEAT_XSAVE)) {
        return 0;
    }
    return X86_XCR0_X87 | X86_XCR0_SSE |
           (x86_cpu_has(m, X86_FEAT_AVX) ? X86_XCR0_AVX : 0);
}

/* A control-register bit and the feature that brings it. */
struct bit_feat {
    uint64_t bit;
    uint8_t feat;
};

static uint64_t bits_of(const struct x86_cpu_model *m, const struct bit_feat *rows,
                        size_t n)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < n; i++) {
        mask |= x86_cpu_has(m, rows[i].feat) ? rows[i].bit : 0;
    }
    return mask;
}

uint64_t x86_cpu_cr4_mask(const struct x86_cpu_model *m)
{
    static const struct bit_feat rows[] = {
        {X86_CR4_VME | X86_CR4_PVI, F(VME)},
        {X86_CR4_TSD, F(TSC)},
        {X86_CR4_DE, F(DE)},
        {X86_CR4_PSE, F(PSE)},
        {X86_CR4_PAE, F(PAE)},
        {X86_CR4_MCE, F(MCE)},
        {X86_CR4_PGE, F(PGE)},
        {X86_CR4_PCE, F(NONE)},
        {X86_CR4_OSFXSR, F(FXSR)},
        {X86_CR4_OSXMMEXCPT, F(SSE)},
        {X86_CR4_UMIP, F(UMIP)},
        {X86_CR4_LA57, F(LA57)},
        {X86_CR4_FSGSBASE, F(FSGSBASE)},
        {X86_CR4_PCIDE, F(PCID)},
        {X86_CR4_OSXSAVE, F(XSAVE)},
        {X86_CR4_SMEP, F(SMEP)},
        {X86_CR4_SMAP, F(SMAP)},
        {X86_CR4_PKE, F(PKU)},
    };
    return bits_of(m, rows, ARRAY_LEN(rows));
}

uint64_t x86_cpu_efer_mask(const struct x86_cpu_model *m)
{
    static const struct bit_feat rows[] = {
        {X86_EFER_SCE, F(SYSCALL)},    {X86_EFER_LME | X86_EFER_LMA, F(LM)},
        {X86_EFER_NXE, F(NX)},         {X86_EFER_SVME, F(SVM)},
        {X86_EFER_FFXSR, F(FXSR_OPT)},
    };
    return bits_of(m, rows, ARRAY_LEN(rows));
}

/* The feature bits of one leaf. Only leaves 7 and Dh look at ECX; for the others it
 * holds whatever the guest had there. */
static void add_feature_bits(const struct x86_cpu_model *m, uint32_t leaf,
                             uint32_t subleaf, struct x86_cpuid *r)
{
    if (leaf != 7 && leaf != 0xd) {
        subleaf = 0;
    }
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        const struct x86_feat_info *i = &x86_feat_infos[f];
        if (i->leaf == leaf && i->subleaf == subleaf && x86_cpu_has(m, f)) {
            r->reg[i->reg] |= 1u << i->bit;
        }
    }
}

/* --- Topology -------------------------------------------------------------- */

/* Bits that number @n things. */
static unsigned bits_for(unsigned n)
{
    unsigned bits = 0;
    while ((1u << bits) < n) {
        bits++;
    }
    return bits;
}

/* Bits of an APIC ID below the core's, the die's and the package's number. */
static unsigned core_shift(const struct x86_topology *t)
{
    return bits_for(t->threads);
}

static unsigned die_shift(const struct x86_topology *t)
{
    return core_shift(t) + bits_for(t->cores);
}

static unsigned package_shift(const struct x86_topology *t)
{
    return die_shift(t) + bits_for(t->dies);
}

static unsigned package_cpus(const struct x86_topology *t)
{
    return (unsigned)t->dies * t->cores * t->threads;
}

bool x86_topology_check(const struct x86_topology *t, GError **error)
{
    const struct {
        const char *name, *of;
        unsigned n, above;
    } levels[] = {
        {"threads", "core", t->threads, t->cores * t->dies * t->sockets},
        {"cores", "die", t->cores, t->dies * t->sockets},
        {"dies", "socket", t->dies, t->sockets},
    };
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (levels[i].above > 1 && (levels[i].n & (levels[i].n - 1))) {
            return error_msg(error,
                             "the %s of a %s must be a power of two when there are "
                             "several of those, not %u",
                             levels[i].name, levels[i].of, levels[i].n);
        }
    }
    return true;
}

/* --- Leaves ---------------------------------------------------------------- */

static void leaf_1(const struct x86_cpu_model *m, const struct x86_cpuid_env *env,
                   struct x86_cpuid *r)
{
    r->reg[X86_CPUID_EAX] = x86_cpu_signature(m);
    r->reg[X86_CPUID_EBX] =
        (env->apic_id & 0xff) << 24 | MIN(package_cpus(&m->topo), 255u) << 16 | 8 << 8;
    if (package_cpus(&m->topo) > 1) {
        r->reg[X86_CPUID_EDX] |= 1u << 28; /* HTT: more than one logical processor */
    }
    if (!env->apic_enabled) {
        r->reg[X86_CPUID_EDX] &= ~(1u << 9);
    }
    r->reg[X86_CPUID_ECX] &= ~(1u << 27);
    if (env->cr4 & X86_CR4_OSXSAVE) {
        r->reg[X86_CPUID_ECX] |= 1u << 27;
    }
}

/*
 * Extended topology (SDM 2, CPUID 0Bh and 1Fh): a subleaf a level, each with the
 * shift to the next level's number and the processors it holds. 0Bh knows threads
 * and cores; 1Fh, there only with several dies, tells those too.
 */
static void leaf_topology(const struct x86_cpu_model *m,
                          const struct x86_cpuid_env *env, uint32_t leaf,
                          uint32_t subleaf, struct x86_cpuid *r)
{
    const struct x86_topology *t = &m->topo;
    enum { SMT = 1, CORE = 2, DIE = 5 };
    const struct {
        unsigned type, shift, cpus;
    } whole[] = {{SMT, core_shift(t), t->threads},
                 {CORE, package_shift(t), package_cpus(t)}},
      dies[] = {{SMT, core_shift(t), t->threads},
                {CORE, die_shift(t), (unsigned)t->cores * t->threads},
                {DIE, package_shift(t), package_cpus(t)}};
    r->reg[X86_CPUID_ECX] = subleaf & 0xff;
    r->reg[X86_CPUID_EDX] = env->apic_id;
    unsigned levels = leaf == 0x1f ? ARRAY_LEN(dies) : ARRAY_LEN(whole);
    if (subleaf < levels) {
        unsigned type = leaf == 0x1f ? dies[subleaf].type : whole[subleaf].type;
        r->reg[X86_CPUID_EAX] =
            leaf == 0x1f ? dies[subleaf].shift : whole[subleaf].shift;
        r->reg[X86_CPUID_EBX] = leaf == 0x1f ? dies[subleaf].cpus : whole[subleaf].cpus;
        r->reg[X86_CPUID_ECX] |= type << 8;
    }
}

#define XSAVE_LEGACY 576u /* FXSAVE area and header (APM 2 11.5.2) */
#define XSAVE_AVX    256u

static void leaf_d(const struct x86_cpu_model *m, const struct x86_cpuid_env *env,
                   uint32_t subleaf, struct x86_cpuid *r)
{
    uint64_t mask = x86_cpu_xcr0_mask(m);
    if (!mask) {
        return;
    }
    uint32_t all = XSAVE_LEGACY + (mask & X86_XCR0_AVX ? XSAVE_AVX : 0);
    uint32_t enabled = XSAVE_LEGACY + (env->xcr0 & X86_XCR0_AVX ? XSAVE_AVX : 0);
    if (subleaf == 0) {
        r->reg[X86_CPUID_EAX] = (uint32_t)mask;
        r->reg[X86_CPUID_EBX] = enabled;
        r->reg[X86_CPUID_ECX] = all;
        r->reg[X86_CPUID_EDX] = (uint32_t)(mask >> 32);
    } else if (subleaf == 1) {
        r->reg[X86_CPUID_EBX] = enabled; /* compacted: no holes among these */
    } else if (subleaf == 2 && (mask & X86_XCR0_AVX)) {
        r->reg[X86_CPUID_EAX] = XSAVE_AVX;
        r->reg[X86_CPUID_EBX] = XSAVE_LEGACY;
    }
}

/* Caches as AMD tells them in 8000_0005h/6h: 32 KiB L1, 512 KiB L2, 16 MiB L3. */
static void leaf_amd_caches(uint32_t leaf, struct x86_cpuid *r)
{
    if (leaf == 0x80000005) {
        *r = (struct x86_cpuid){{0xff40ff40, 0xff40ff40, 0x20080140, 0x20080140}};
    } else {
        *r = (struct x86_cpuid){{0, 0x42004200, 0x02006140, 0x00808140}};
    }
}

/*
 * Cache parameters, the same caches: Intel's leaf 4 (SDM 2) and AMD's 8000_001Dh (APM
 * 3 E.4.15), which has no number of cores. The L3 is a die's, the others a core's.
 */
static void leaf_caches(const struct x86_cpu_model *m, bool amd, uint32_t subleaf,
                        struct x86_cpuid *r)
{
    static const struct {
        uint8_t type, level;
        uint32_t ways, sets;
    } caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 8, 1024}, {3, 3, 16, 16384}};
    if (subleaf >= ARRAY_LEN(caches)) {
        return;
    }
    const struct x86_topology *t = &m->topo;
    unsigned shift = caches[subleaf].level == 3 ? die_shift(t) : core_shift(t);
    unsigned cores = amd ? 0 : (1u << (package_shift(t) - core_shift(t))) - 1;
    r->reg[X86_CPUID_EAX] = caches[subleaf].type |
                            (uint32_t)caches[subleaf].level << 5 | 1 << 8 |
                            ((1u << shift) - 1) << 14 | MIN(cores, 63u) << 26;
    r->reg[X86_CPUID_EBX] = (caches[subleaf].ways - 1) << 22 | 63;
    r->reg[X86_CPUID_ECX] = caches[subleaf].sets - 1;
}

/* AMD's processor topology (APM 3 E.4.16): core, threads of it, node. */
static void leaf_amd_topology(const struct x86_cpu_model *m,
                              const struct x86_cpuid_env *env, struct x86_cpuid *r)
{
    const struct x86_topology *t = &m->topo;
    unsigned in_package = env->apic_id & ((1u << package_shift(t)) - 1);
    r->reg[X86_CPUID_EAX] = env->apic_id;
    r->reg[X86_CPUID_EBX] = (in_package >> core_shift(t)) | (t->threads - 1u) << 8;
    r->reg[X86_CPUID_ECX] = (env->apic_id >> die_shift(t)) | (t->dies - 1u) << 8;
}

static void extended_leaf(const struct x86_cpu_model *m,
                          const struct x86_cpuid_env *env, uint32_t leaf,
                          uint32_t subleaf, struct x86_cpuid *r)
{
    switch (leaf) {
    case 0x80000000:
        r->reg[X86_CPUID_EAX] = m->max_ext_leaf;
        memcpy(&r->reg[X86_CPUID_EBX], m->vendor, 4);
        memcpy(&r->reg[X86_CPUID_EDX], m->vendor + 4, 4);
        memcpy(&r->reg[X86_CPUID_ECX], m->vendor + 8, 4);
        break;
    case 0x80000001:
        r->reg[X86_CPUID_EAX] = x86_cpu_signature(m);
        if (strcmp(m->vendor, "AuthenticAMD") == 0) {
            /* AMD repeats leaf 1's EDX but for what is its own here. */
            struct x86_cpuid one = {{0}};
            add_feature_bits(m, 1, 0, &one);
            r->reg[X86_CPUID_EDX] |= one.reg[X86_CPUID_EDX] & 0x0183f3ff;
            if (package_cpus(&m->topo) > 1 && m->topo.threads == 1) {
                r->reg[X86_CPUID_ECX] |= 1u << 1; /* CmpLegacy: cores, not threads */
            }
        }
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: memcpy(r->reg, m->brand + 16 * (leaf - 0x80000002), 16); break;
    case 0x80000005:
    case 0x80000006: leaf_amd_caches(leaf, r); break;
    case 0x80000008:
        r->reg[X86_CPUID_EAX] = m->phys_bits | (uint32_t)m->virt_bits << 8;
        r->reg[X86_CPUID_ECX] = (package_cpus(&m->topo) - 1) | package_shift(&m->topo)
                                                                   << 12;
        break;
    case 0x8000001d: leaf_caches(m, true, subleaf, r); break;
    case 0x8000001e: leaf_amd_topology(m, env, r); break;
    default: break;
    }
}

struct x86_cpuid x86_cpuid(const struct x86_cpu_model *m,
                           const struct x86_cpuid_env *env, uint32_t leaf,
                           uint32_t subleaf)
{
    struct x86_cpuid r = {{0}};
    bool intel = strcmp(m->vendor, "GenuineIntel") == 0;
    bool extended = leaf >= 0x80000000;
    if (leaf > (extended ? m->max_ext_leaf : m->max_leaf)) {
        if (!intel) {
            return r;
        }
        leaf = m->max_leaf;
        extended = false;
    }
    add_feature_bits(m, leaf, subleaf, &r);
    if (extended) {
        extended_leaf(m, env, leaf, subleaf, &r);
        return r;
    }
    switch (leaf) {
    case 0:
        r.reg[X86_CPUID_EAX] = m->max_leaf;
        memcpy(&r.reg[X86_CPUID_EBX], m->vendor, 4);
        memcpy(&r.reg[X86_CPUID_EDX], m->vendor + 4, 4);
        memcpy(&r.reg[X86_CPUID_ECX], m->vendor + 8, 4);
        break;
    case 1: leaf_1(m, env, &r); break;
    case 2:
        if (intel) {
            r.reg[X86_CPUID_EAX] = 0xff01; /* no descriptors: ask leaf 4 */
        }
        break;
    case 4:
        if (intel) {
            leaf_caches(m, false, subleaf, &r);
        }
        break;
    case 5:
        if (x86_cpu_has(m, X86_FEAT_MONITOR)) {
            /* Lines of 64 bytes; interrupts end MWAIT even when masked. */
            r.reg[X86_CPUID_EAX] = r.reg[X86_CPUID_EBX] = 64;
            r.reg[X86_CPUID_ECX] = 3;
        }
        break;
    case 7:
        if (subleaf == 0) {
            r.reg[X86_CPUID_EAX] = 1; /* largest subleaf */
        }
        break;
    case 0xb: leaf_topology(m, env, leaf, subleaf, &r); break;
    case 0x1f:
        if (m->topo.dies > 1) {
            leaf_topology(m, env, leaf, subleaf, &r);
        }
        break;
    case 0xd: leaf_d(m, env, subleaf, &r); break;
    default: break;
    }
    return r;
}
