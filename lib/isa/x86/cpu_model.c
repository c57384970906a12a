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
#include "lib/isa/x86/cpuid_priv.h"

#define F(x) X86_FEAT_##x
#define END  X86_FEAT_NONE

static const uint8_t level_base[] = {
    F(FPU),     F(VME),     F(DE),  F(PSE),     F(TSC), F(MSR),  F(PAE),  F(MCE),
    F(CX8),     F(APIC),    F(SEP), F(MTRR),    F(PGE), F(MCA),  F(CMOV), F(PAT),
    F(PSE36),   F(CLFLUSH), F(MMX), F(FXSR),    F(SSE), F(SSE2), F(SSE3), F(CX16),
    F(SYSCALL), F(NX),      F(LM),  F(LAHF_LM), END,
};
static const uint8_t level_v2[] = {
    F(SSSE3), F(SSE4_1), F(SSE4_2), F(POPCNT), END,
};
static const uint8_t level_v3[] = {
    F(AVX), F(AVX2), F(BMI1), F(BMI2), F(F16C), F(FMA), F(ABM), F(MOVBE), F(XSAVE), END,
};
static const uint8_t extra_conroe[] = {F(SSSE3), END};
static const uint8_t extra_penryn[] = {F(SSSE3), F(SSE4_1), END};
static const uint8_t extra_westmere[] = {F(AES), F(PCLMULQDQ), END};
static const uint8_t extra_sandy_bridge[] = {F(AVX), F(XSAVE), F(XSAVEOPT), F(RDTSCP),
                                             END};
static const uint8_t extra_ivy_bridge[] = {
    F(F16C), F(RDRAND), F(FSGSBASE), F(SMEP), F(ERMS), END,
};
static const uint8_t extra_broadwell[] = {
    F(RDSEED), F(ADX), F(SMAP), F(PREFETCHW), END,
};
static const uint8_t extra_rome[] = {
    F(CLWB), F(RDPID), F(UMIP), F(WBNOINVD), F(CLZERO), END,
};
static const uint8_t extra_haswell[] = {
    F(PCLMULQDQ), F(AES),     F(PCID),   F(RDRAND), F(FSGSBASE), F(SMEP),
    F(ERMS),      F(INVPCID), F(RDTSCP), F(ARAT),   F(XSAVEOPT), END,
};
static const uint8_t extra_epyc[] = {
    F(PCLMULQDQ), F(AES),         F(RDRAND),    F(FSGSBASE),   F(SMEP),
    F(SMAP),      F(RDSEED),      F(ADX),       F(CLFLUSHOPT), F(SHA_NI),
    F(ARAT),      F(XSAVEOPT),    F(XSAVEC),    F(XGETBV1),    F(CR8LEGACY),
    F(SSE4A),     F(MISALIGNSSE), F(PREFETCHW), F(OSVW),       F(MMXEXT),
    F(FXSR_OPT),  F(PDPE1GB),     F(RDTSCP),    F(TOPOEXT),    END,
};
/* Every model has these unless switched off: a guest wants to know that it is one. */
static const uint8_t defaults[] = {
    F(HYPERVISOR), F(X2APIC), F(TSC_DEADLINE), F(INVTSC), END,
};

/* Supported, but only by name: 5-level paging makes page walks longer, and a guest
 * that has MWAIT idles in it. */
static const uint8_t by_name_only[] = {F(LA57), F(MONITOR), END};

enum { BASE_ALL = 1, BASE_HOST = 2 }; /* all that is supported; host's identity */

static const struct named_model {
    const char *name, *vendor, *brand;
    uint16_t family, model, stepping;
    unsigned base;
    const uint8_t *levels[6];
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
    {"kvm64",
     "GenuineIntel",
     "Common KVM processor",
     15,
     6,
     1,
     0,
     {level_base},
     "as qemu64, with Intel's name"},
    {"Opteron_G1",
     "AuthenticAMD",
     "AMD Opteron 240 (Gen 1 Class Opteron)",
     15,
     6,
     1,
     0,
     {level_base},
     "AMD, 2003"},
    {"Conroe",
     "GenuineIntel",
     "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
     6,
     15,
     3,
     0,
     {level_base, extra_conroe},
     "Intel, 2006"},
    {"Penryn",
     "GenuineIntel",
     "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
     6,
     23,
     3,
     0,
     {level_base, extra_penryn},
     "Intel, 2007"},
    {"Westmere",
     "GenuineIntel",
     "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
     6,
     44,
     1,
     0,
     {level_base, level_v2, extra_westmere},
     "Intel, 2010"},
    {"SandyBridge",
     "GenuineIntel",
     "Intel Xeon E312xx (Sandy Bridge)",
     6,
     42,
     1,
     0,
     {level_base, level_v2, extra_westmere, extra_sandy_bridge},
     "Intel, 2011"},
    {"IvyBridge",
     "GenuineIntel",
     "Intel Xeon E3-12xx v2 (Ivy Bridge)",
     6,
     58,
     9,
     0,
     {level_base, level_v2, extra_westmere, extra_sandy_bridge, extra_ivy_bridge},
     "Intel, 2012"},
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
    {"Broadwell",
     "GenuineIntel",
     "Intel Core Processor (Broadwell)",
     6,
     61,
     2,
     0,
     {level_base, level_v2, level_v3, extra_haswell, extra_broadwell},
     "Intel, 2014"},
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
    {"EPYC-Rome",
     "AuthenticAMD",
     "AMD EPYC-Rome Processor",
     23,
     49,
     0,
     0,
     {level_base, level_v2, level_v3, extra_epyc, extra_rome},
     "AMD, 2019"},
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
        const struct x86_feat_info *i = &x86_feat_infos[f];
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

/* Whether @name begins with @prefix, told apart as features are. */
static bool same_feature_prefix(const char *name, const char *prefix)
{
    g_autofree char *start = g_strndup(name, strlen(prefix));
    return same_feature(start, prefix);
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
        if (same_feature(name, x86_feat_infos[f].name)) {
            return f;
        }
    }
    return X86_FEAT_NONE;
}

static bool unknown_feature(const char *name, GError **error)
{
    const char *names[X86_NB_FEATS] = {NULL};
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        names[f - 1] = x86_feat_infos[f].name;
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
        for (const uint8_t *f = by_name_only; *f != END; f++) {
            x86_featset_put(&m->feats, *f, false);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(row->levels) && row->levels[i]; i++) {
        x86_featset_add(&m->feats, row->levels[i]);
    }
    x86_featset_add(&m->feats, defaults);
    m->topo = (struct x86_topology){1, 1, 1, 1};
    m->phys_bits = 40;
    m->virt_bits = 48;
}

/* What a "key=value" of -cpu that is no feature does. */
struct spec_flags {
    bool enforce;
    GString *missing; /* what was asked for by name and is not known here */
};

/* Hyper-V's interfaces: known words for what is not offered. */
static bool is_hyperv(const char *name)
{
    return same_feature_prefix(name, "hv-");
}

static void note_missing(struct spec_flags *flags, const char *name)
{
    g_string_append_printf(flags->missing, "%s%s", flags->missing->len ? ", " : "",
                           name);
}

/* What page tables of this host can hold; 52 is the architecture's most. */
static uint8_t host_phys_bits(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(0x80000008, &a, &b, &c, &d)) {
        return 40;
    }
    return (uint8_t)MIN(MAX(a & 0xff, 32u), 52u);
}

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
    if (is_hyperv(key) && g_ascii_isdigit(value[0])) {
        note_missing(flags, key); /* hv-spinlocks=0x1fff */
        return true;
    }
    if (!parse_switch(key, value, &on, error)) {
        return false;
    }
    if (strcmp(key, "host-phys-bits") == 0) {
        m->phys_bits = on ? host_phys_bits() : m->phys_bits;
        return true;
    }
    if (strcmp(key, "kvm") == 0) {
        m->no_kvm = !on;
        return true;
    }
    if (is_hyperv(key)) {
        if (on) {
            note_missing(flags, key);
        }
        return true;
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
    if ((word[0] == '+' || word[0] == '-') && is_hyperv(word + 1)) {
        if (word[0] == '+') {
            note_missing(flags, word + 1);
        }
        return true;
    }
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

/* A feature without the one that it builds on is none. */
static void drop_dependent(struct x86_cpu_model *m)
{
    static const uint8_t needs[][2] = {
        {F(INVPCID), F(PCID)},  {F(XSAVEOPT), F(XSAVE)},  {F(XSAVEC), F(XSAVE)},
        {F(XGETBV1), F(XSAVE)}, {F(XSAVES), F(XSAVEC)},   {F(AVX), F(XSAVE)},
        {F(AVX2), F(AVX)},      {F(FMA), F(AVX)},         {F(F16C), F(AVX)},
        {F(VAES), F(AVX2)},     {F(VPCLMULQDQ), F(AVX2)}, {F(AVX_VNNI), F(AVX2)},
        {F(FXSR_OPT), F(FXSR)}, {F(SSE), F(FXSR)},        {F(SSE2), F(SSE)},
    };
    for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
        if (!x86_cpu_has(m, needs[i][1])) {
            x86_featset_put(&m->feats, needs[i][0], false);
        }
    }
}

/* Leave out what the accelerator lacks; the names of those and of @missing, which is
 * taken, or NULL. */
static char *bound_features(struct x86_cpu_model *m,
                            const struct x86_featset *supported, GString *missing)
{
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        if (x86_cpu_has(m, f) && !x86_featset_has(supported, f)) {
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "",
                                   x86_feat_infos[f].name);
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
        if (x86_cpu_has(m, f) && x86_feat_infos[f].leaf < 0x80000000) {
            m->max_leaf = MAX(m->max_leaf, x86_feat_infos[f].leaf);
        }
    }
    if (x86_cpu_has(m, X86_FEAT_TOPOEXT)) {
        m->max_ext_leaf = 0x8000001e;
    }
    m->max_leaf = MAX(m->max_leaf, 0x1f); /* topology */
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
    struct spec_flags flags = {.missing = g_string_new(NULL)};
    fill_from_row(m, row, supported);
    for (char **w = words + 1; *w; w++) {
        if (!apply_word(m, &flags, *w, error)) {
            g_string_free(flags.missing, TRUE);
            return NULL;
        }
    }
    g_autofree char *missing = bound_features(m, supported, flags.missing);
    drop_dependent(m);
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
        int len = (int)strlen(x86_feat_infos[f].name) + 1;
        if (column + len > 78) {
            fprintf(out, "\n ");
            column = 1;
        }
        fprintf(out, " %s", x86_feat_infos[f].name);
        column += len;
    }
    fprintf(out, "\n");
}
