/*
 * The models are rows of a table: a name, the identity and lists of features. The
 * lists build on each other as the processors did, from what every long-mode
 * processor has (base) to x86-64-v3; a row names the levels it stands on.
 *
 * Identity (vendor, family, model) decides work-arounds and vendor-specific paths in
 * guests, so it is that of the real part. A guest on a software CPU runs better as
 * the host's own vendor: SYSRET and friends behave as the host's do.
 */
#include "lib/isa/x86/cpu_model.h"

#include <cpuid.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/state.h"

struct feat_info {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
};

#define FEAT_INFO(id, text, l, s, r, b) \
    [X86_FEAT_##                        \
        id] = {.name = text, .leaf = l, .subleaf = s, .reg = X86_CPUID_##r, .bit = b},
static const struct feat_info feat_infos[X86_NB_FEATS] = {X86_FEATS(FEAT_INFO)};

#define F(x) X86_FEAT_##x
#define END  X86_FEAT_NONE

static const uint8_t level_base[] = {
    F(FPU),  F(DE),    F(PSE),     F(TSC),  F(MSR),  F(PAE),     F(MCE),
    F(CX8),  F(APIC),  F(SEP),     F(MTRR), F(PGE),  F(MCA),     F(CMOV),
    F(PAT),  F(PSE36), F(CLFLUSH), F(MMX),  F(FXSR), F(SSE),     F(SSE2),
    F(SSE3), F(CX16),  F(SYSCALL), F(NX),   F(LM),   F(LAHF_LM), END,
};
static const uint8_t level_v2[] = {
    F(SSSE3), F(SSE4_1), F(SSE4_2), F(POPCNT), END,
};
static const uint8_t level_v3[] = {
    F(AVX), F(AVX2), F(BMI1), F(BMI2), F(F16C), F(FMA), F(ABM), F(MOVBE), F(XSAVE), END,
};
static const uint8_t extra_haswell[] = {
    F(PCLMULQDQ), F(AES),     F(PCID),   F(RDRAND), F(FSGSBASE), F(SMEP),
    F(ERMS),      F(INVPCID), F(RDTSCP), F(ARAT),   F(XSAVEOPT), END,
};
static const uint8_t extra_epyc[] = {
    F(PCLMULQDQ), F(AES),     F(RDRAND),     F(FSGSBASE), F(SMEP),        F(SMAP),
    F(RDSEED),    F(ADX),     F(CLFLUSHOPT), F(SHA_NI),   F(ARAT),        F(XSAVEOPT),
    F(XSAVEC),    F(XGETBV1), F(CR8LEGACY),  F(SSE4A),    F(MISALIGNSSE), F(PREFETCHW),
    F(OSVW),      F(MMXEXT),  F(FXSR_OPT),   F(PDPE1GB),  F(RDTSCP),      END,
};
/* Every model has these unless switched off: a guest wants to know that it is one. */
static const uint8_t defaults[] = {
    F(HYPERVISOR), F(X2APIC), F(TSC_DEADLINE), F(INVTSC), END,
};

enum { BASE_ALL = 1, BASE_HOST = 2 }; /* all that is supported; host's identity */

static const struct named_model {
    const char *name, *vendor, *brand;
    uint16_t family, model, stepping;
    unsigned base;
    const uint8_t *levels[4];
    const char *help;
} named_models[] = {
    {"qemu64",
     "AuthenticAMD",
     "QEMU Virtual CPU version 2.5+",
     15,
     107,
     1,
     0,
     {level_base},
     "the least every 64-bit guest needs"},
    {"Nehalem",
     "GenuineIntel",
     "Intel Core i7 9xx (Nehalem Class Core i7)",
     6,
     26,
     3,
     0,
     {level_base, level_v2},
     "Intel, 2008"},
    {"x86-64-v2",
     "AuthenticAMD",
     "Lodge x86-64-v2 CPU",
     15,
     107,
     1,
     0,
     {level_base, level_v2},
     "the x86-64-v2 level"},
    {"Haswell",
     "GenuineIntel",
     "Intel Core Processor (Haswell)",
     6,
     60,
     4,
     0,
     {level_base, level_v2, level_v3, extra_haswell},
     "Intel, 2013"},
    {"x86-64-v3",
     "AuthenticAMD",
     "Lodge x86-64-v3 CPU",
     15,
     107,
     1,
     0,
     {level_base, level_v2, level_v3},
     "the x86-64-v3 level"},
    {"EPYC",
     "AuthenticAMD",
     "AMD EPYC Processor",
     23,
     1,
     2,
     0,
     {level_base, level_v2, level_v3, extra_epyc},
     "AMD, 2017"},
    {"host",
     NULL,
     NULL,
     0,
     0,
     0,
     BASE_ALL | BASE_HOST,
     {NULL},
     "this host's processor, as far as the accelerator goes"},
    {"max",
     NULL,
     "Lodge CPU, all features",
     0,
     0,
     0,
     BASE_ALL | BASE_HOST,
     {NULL},
     "everything the accelerator can do"},
};

void x86_featset_add(struct x86_featset *s, const uint8_t *feats)
{
    for (; *feats != X86_FEAT_NONE; feats++) {
        x86_featset_put(s, *feats, true);
    }
}

void x86_featset_host(struct x86_featset *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        const struct feat_info *i = &feat_infos[f];
        uint32_t r[4] = {0};
        if (__get_cpuid_count(i->leaf, i->subleaf, &r[0], &r[1], &r[2], &r[3])) {
            x86_featset_put(ret, f, r[i->reg] >> i->bit & 1);
        }
    }
}

/* "sse4_1" and "SSE4.1" are "sse4.1"; a trailing "lahf_lm" is "lahf-lm". */
static bool same_feature(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        char x = g_ascii_tolower(*a), y = g_ascii_tolower(*b);
        bool sx = strchr("_-.", x) != NULL, sy = strchr("_-.", y) != NULL;
        if (x != y && !(sx && sy)) {
            return false;
        }
    }
    return *a == *b;
}

static const struct {
    const char *alias, *name;
} feat_aliases[] = {
    {"sse3", "pni"}, {"lzcnt", "abm"}, {"sse4-1", "sse4.1"}, {"sse4-2", "sse4.2"},
    {"i64", "lm"},   {"xd", "nx"},     {"sha", "sha-ni"},
};

static enum x86_feat find_feature(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(feat_aliases); i++) {
        if (same_feature(name, feat_aliases[i].alias)) {
            name = feat_aliases[i].name;
        }
    }
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        if (same_feature(name, feat_infos[f].name)) {
            return f;
        }
    }
    return X86_FEAT_NONE;
}

static bool unknown_feature(const char *name, GError **error)
{
    const char *names[X86_NB_FEATS] = {NULL};
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        names[f - 1] = feat_infos[f].name;
    }
    const char *near = nearest_name(name, names);
    return error_msg(error, "CPU feature '%s' is not known%s%s%s", name,
                     near ? "; did you mean '" : "", near ? near : "",
                     near ? "'?" : "");
}

static const struct named_model *find_model(const char *name, GError **error)
{
    const char *names[ARRAY_LEN(named_models) + 1] = {NULL};
    for (size_t i = 0; i < ARRAY_LEN(named_models); i++) {
        if (g_ascii_strcasecmp(named_models[i].name, name) == 0) {
            return &named_models[i];
        }
        names[i] = named_models[i].name;
    }
    const char *near = nearest_name(name, names);
    error_msg(error, "unable to find CPU model '%s'%s%s%s", name,
              near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return NULL;
}

/* Vendor, family and brand of the processor this runs on. */
static void take_host_identity(struct x86_cpu_model *m)
{
    uint32_t a, b, c, d;
    __cpuid(0, a, b, c, d);
    memcpy(m->vendor, &b, 4);
    memcpy(m->vendor + 4, &d, 4);
    memcpy(m->vendor + 8, &c, 4);
    __cpuid(1, a, b, c, d);
    m->stepping = a & 0xf;
    m->family =
        (uint16_t)((a >> 8 & 0xf) + ((a >> 8 & 0xf) == 0xf ? a >> 20 & 0xff : 0));
    m->model = (uint16_t)((a >> 4 & 0xf) | (a >> 12 & 0xf0));
    for (unsigned i = 0; i < 3 && !m->brand[i * 16]; i++) {
        __cpuid(0x80000002 + i, a, b, c, d);
        uint32_t text[4] = {a, b, c, d};
        memcpy(m->brand + 16 * i, text, sizeof(text));
    }
}

static void fill_from_row(struct x86_cpu_model *m, const struct named_model *row,
                          const struct x86_featset *supported)
{
    g_strlcpy(m->name, row->name, sizeof(m->name));
    g_strlcpy(m->brand, row->brand ? row->brand : "", sizeof(m->brand));
    if (row->base & BASE_HOST) {
        take_host_identity(m);
    } else {
        g_strlcpy(m->vendor, row->vendor, sizeof(m->vendor));
        m->family = row->family;
        m->model = row->model;
        m->stepping = row->stepping;
    }
    if (row->base & BASE_ALL) {
        m->feats = *supported;
    }
    for (size_t i = 0; i < ARRAY_LEN(row->levels) && row->levels[i]; i++) {
        x86_featset_add(&m->feats, row->levels[i]);
    }
    x86_featset_add(&m->feats, defaults);
    m->phys_bits = 40;
    m->virt_bits = 48;
}

/* What a "key=value" of -cpu that is no feature does. */
struct spec_flags {
    bool enforce;
};

static bool parse_number(const char *key, const char *value, unsigned max,
                         uint16_t *ret, GError **error)
{
    uint64_t v;
    if (!g_ascii_string_to_unsigned(value, strncmp(value, "0x", 2) ? 10 : 16, 0, max,
                                    &v, NULL)) {
        return error_msg(error, "CPU property '%s': '%s' is not a number from 0 to %u",
                         key, value, max);
    }
    *ret = (uint16_t)v;
    return true;
}

static bool parse_switch(const char *key, const char *value, bool *ret, GError **error)
{
    static const char *const yes[] = {"on", "yes", "true", "y", NULL};
    static const char *const no[] = {"off", "no", "false", "n", NULL};
    if (g_strv_contains(yes, value)) {
        *ret = true;
    } else if (g_strv_contains(no, value)) {
        *ret = false;
    } else {
        return error_msg(error, "CPU property '%s': expected 'on' or 'off', not '%s'",
                         key, value);
    }
    return true;
}

static bool apply_property(struct x86_cpu_model *m, struct spec_flags *flags,
                           const char *key, const char *value, GError **error)
{
    bool on = false;
    uint16_t bits;
    if (strcmp(key, "vendor") == 0) {
        if (strlen(value) != 12) {
            return error_msg(
                error, "CPU property 'vendor': '%s' is not 12 letters long", value);
        }
        g_strlcpy(m->vendor, value, sizeof(m->vendor));
        return true;
    }
    if (strcmp(key, "model-id") == 0) {
        memset(m->brand, 0, sizeof(m->brand));
        g_strlcpy(m->brand, value, sizeof(m->brand));
        return true;
    }
    if (strcmp(key, "family") == 0) {
        return parse_number(key, value, 0xff + 0xf, &m->family, error);
    }
    if (strcmp(key, "model") == 0) {
        return parse_number(key, value, 0xff, &m->model, error);
    }
    if (strcmp(key, "stepping") == 0) {
        return parse_number(key, value, 0xf, &m->stepping, error);
    }
    if (strcmp(key, "phys-bits") == 0) {
        if (!parse_number(key, value, 52, &bits, error)) {
            return false;
        }
        if (bits < 32) {
            return error_msg(error, "CPU property 'phys-bits': %u is below 32", bits);
        }
        m->phys_bits = (uint8_t)bits;
        return true;
    }
    if (!parse_switch(key, value, &on, error)) {
        return false;
    }
    if (strcmp(key, "enforce") == 0) {
        flags->enforce = on;
        return true;
    }
    if (strcmp(key, "check") == 0) {
        return true; /* missing features are always told */
    }
    enum x86_feat f = find_feature(key);
    if (f == X86_FEAT_NONE) {
        return unknown_feature(key, error);
    }
    x86_featset_put(&m->feats, f, on);
    return true;
}

static bool apply_word(struct x86_cpu_model *m, struct spec_flags *flags, char *word,
                       GError **error)
{
    if (word[0] == '+' || word[0] == '-') {
        enum x86_feat f = find_feature(word + 1);
        if (f == X86_FEAT_NONE) {
            return unknown_feature(word + 1, error);
        }
        x86_featset_put(&m->feats, f, word[0] == '+');
        return true;
    }
    char *value = strchr(word, '=');
    if (value) {
        *value++ = '\0';
    }
    return apply_property(m, flags, word, value ? value : "on", error);
}

/* Leave out what the accelerator lacks; the names of those, or NULL. */
static char *bound_features(struct x86_cpu_model *m,
                            const struct x86_featset *supported)
{
    GString *missing = g_string_new(NULL);
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        if (x86_cpu_has(m, f) && !x86_featset_has(supported, f)) {
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "",
                                   feat_infos[f].name);
            x86_featset_put(&m->feats, f, false);
        }
    }
    return g_string_free(missing, missing->len == 0);
}

static void choose_max_leaves(struct x86_cpu_model *m)
{
    m->max_leaf = 1;
    m->max_ext_leaf = 0x80000008;
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        if (x86_cpu_has(m, f) && feat_infos[f].leaf < 0x80000000) {
            m->max_leaf = MAX(m->max_leaf, feat_infos[f].leaf);
        }
    }
    if (x86_cpu_has(m, X86_FEAT_TOPOEXT)) {
        m->max_ext_leaf = 0x8000001e;
    }
    m->max_leaf = MAX(m->max_leaf, 0xb); /* x2APIC topology */
    if (x86_cpu_has(m, X86_FEAT_XSAVE)) {
        m->max_leaf = MAX(m->max_leaf, 0xd);
    }
}

struct x86_cpu_model *x86_cpu_model_new(const char *spec,
                                        const struct x86_featset *supported,
                                        char **ret_missing, GError **error)
{
    g_auto(GStrv) words = g_strsplit(spec, ",", -1);
    const struct named_model *row = find_model(words[0] ? words[0] : "", error);
    if (!row) {
        return NULL;
    }
    g_autofree struct x86_cpu_model *m = g_new0(struct x86_cpu_model, 1);
    struct spec_flags flags = {0};
    fill_from_row(m, row, supported);
    for (char **w = words + 1; *w; w++) {
        if (!apply_word(m, &flags, *w, error)) {
            return NULL;
        }
    }
    g_autofree char *missing = bound_features(m, supported);
    if (missing && flags.enforce) {
        error_msg(error, "CPU model '%s': the accelerator lacks: %s", row->name,
                  missing);
        return NULL;
    }
    choose_max_leaves(m);
    if (x86_cpu_has(m, X86_FEAT_LA57)) {
        m->virt_bits = 57; /* Linux finds its own addresses wrong otherwise */
    }
    if (ret_missing) {
        *ret_missing = g_steal_pointer(&missing);
    }
    return g_steal_pointer(&m);
}

void x86_cpu_model_help(FILE *out)
{
    fprintf(out, "Available CPUs:\n");
    for (size_t i = 0; i < ARRAY_LEN(named_models); i++) {
        fprintf(out, "  %-12s  %s\n", named_models[i].name, named_models[i].help);
    }
    fprintf(out, "\nRecognized CPUID flags:\n ");
    int column = 1;
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        int len = (int)strlen(feat_infos[f].name) + 1;
        if (column + len > 78) {
            fprintf(out, "\n ");
            column = 1;
        }
        fprintf(out, " %s", feat_infos[f].name);
        column += len;
    }
    fprintf(out, "\n");
}

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
        const struct feat_info *i = &feat_infos[f];
        if (i->leaf == leaf && i->subleaf == subleaf && x86_cpu_has(m, f)) {
            r->reg[i->reg] |= 1u << i->bit;
        }
    }
}

/* Bits of an APIC ID that number the logical processors of a package. */
static unsigned package_bits(const struct x86_cpuid_env *env)
{
    unsigned bits = 0;
    while ((1u << bits) < env->nb_cpus) {
        bits++;
    }
    return bits;
}

static void leaf_1(const struct x86_cpu_model *m, const struct x86_cpuid_env *env,
                   struct x86_cpuid *r)
{
    r->reg[X86_CPUID_EAX] = x86_cpu_signature(m);
    r->reg[X86_CPUID_EBX] =
        (env->apic_id & 0xff) << 24 | MIN(env->nb_cpus, 255u) << 16 | 8 << 8;
    if (env->nb_cpus > 1) {
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

/* Extended topology (SDM 2, CPUID 0Bh): every vCPU is a core of one package. */
static void leaf_b(const struct x86_cpuid_env *env, uint32_t subleaf,
                   struct x86_cpuid *r)
{
    r->reg[X86_CPUID_ECX] = subleaf & 0xff;
    r->reg[X86_CPUID_EDX] = env->apic_id;
    if (subleaf == 0) {
        r->reg[X86_CPUID_EBX] = 1;
        r->reg[X86_CPUID_ECX] |= 1 << 8; /* SMT level */
    } else if (subleaf == 1) {
        r->reg[X86_CPUID_EAX] = package_bits(env);
        r->reg[X86_CPUID_EBX] = env->nb_cpus;
        r->reg[X86_CPUID_ECX] |= 2 << 8; /* core level */
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

/* Deterministic cache parameters, the same caches (SDM 2, CPUID 4). */
static void leaf_4(const struct x86_cpuid_env *env, uint32_t subleaf,
                   struct x86_cpuid *r)
{
    static const struct {
        uint8_t type, level;
        uint32_t ways, sets;
    } caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 8, 1024}, {3, 3, 16, 16384}};
    if (subleaf >= ARRAY_LEN(caches)) {
        return;
    }
    uint32_t sharing = caches[subleaf].level == 3 ? (1u << package_bits(env)) - 1 : 0;
    uint32_t cores = (1u << package_bits(env)) - 1;
    r->reg[X86_CPUID_EAX] = caches[subleaf].type |
                            (uint32_t)caches[subleaf].level << 5 | 1 << 8 |
                            sharing << 14 | MIN(cores, 63u) << 26;
    r->reg[X86_CPUID_EBX] = (caches[subleaf].ways - 1) << 22 | 63;
    r->reg[X86_CPUID_ECX] = caches[subleaf].sets - 1;
}

static void extended_leaf(const struct x86_cpu_model *m,
                          const struct x86_cpuid_env *env, uint32_t leaf,
                          struct x86_cpuid *r)
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
            if (env->nb_cpus > 1) {
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
        r->reg[X86_CPUID_ECX] = (env->nb_cpus - 1) | package_bits(env) << 12;
        break;
    case 0x8000001e:
        r->reg[X86_CPUID_EAX] = r->reg[X86_CPUID_EBX] = env->apic_id;
        break;
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
        extended_leaf(m, env, leaf, &r);
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
            leaf_4(env, subleaf, &r);
        }
        break;
    case 7:
        if (subleaf == 0) {
            r.reg[X86_CPUID_EAX] = 1; /* largest subleaf */
        }
        break;
    case 0xb: leaf_b(env, subleaf, &r); break;
    case 0xd: leaf_d(m, env, subleaf, &r); break;
    default: break;
    }
    return r;
}
