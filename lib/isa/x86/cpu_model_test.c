#include "lib/isa/x86/cpu_model.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/state.h"

static struct x86_featset everything(void)
{
    struct x86_featset s = {{0}};
    for (unsigned f = 1; f < X86_NB_FEATS; f++) {
        x86_featset_put(&s, f, true);
    }
    return s;
}

static struct x86_cpu_model *model(const char *spec)
{
    struct x86_featset all = everything();
    GError *error = NULL;
    struct x86_cpu_model *m = x86_cpu_model_new(spec, &all, NULL, &error);
    g_assert_no_error(error);
    return m;
}

static const struct x86_cpuid_env one_cpu = {.apic_enabled = true, .xcr0 = 1};

static void model_edits_features_of_the_named_one(void)
{
    g_autofree struct x86_cpu_model *m = model("qemu64,+aes,-nx,sse4_1=on,x2apic=off");
    g_assert_true(x86_cpu_has(m, X86_FEAT_AES));
    g_assert_true(x86_cpu_has(m, X86_FEAT_SSE4_1));
    g_assert_true(x86_cpu_has(m, X86_FEAT_LM));
    g_assert_false(x86_cpu_has(m, X86_FEAT_NX));
    g_assert_false(x86_cpu_has(m, X86_FEAT_X2APIC));
}

static void model_drops_what_builds_on_a_missing_feature(void)
{
    g_autofree struct x86_cpu_model *m = model("qemu64,-pcid,+invpcid,+avx2,-xsave");
    g_assert_false(x86_cpu_has(m, X86_FEAT_INVPCID));
    g_assert_false(x86_cpu_has(m, X86_FEAT_AVX2));
    g_autofree struct x86_cpu_model *n = model("qemu64,+pcid,+invpcid,+la57");
    g_assert_true(x86_cpu_has(n, X86_FEAT_INVPCID));
    g_assert_true(x86_cpu_has(n, X86_FEAT_LA57));
}

static void max_leaves_out_what_comes_by_name_only(void)
{
    g_autofree struct x86_cpu_model *m = model("max");
    g_assert_false(x86_cpu_has(m, X86_FEAT_LA57));
    g_assert_false(x86_cpu_has(m, X86_FEAT_MONITOR));
    g_autofree struct x86_cpu_model *n = model("max,+monitor");
    g_assert_true(x86_cpu_has(n, X86_FEAT_MONITOR));
}

static void hyperv_is_known_and_missing(void)
{
    struct x86_featset all = everything();
    g_autofree char *missing = NULL;
    g_autofree struct x86_cpu_model *m =
        x86_cpu_model_new("kvm64,hv_time,hv-synic=on,hv_vapic=off,hv-spinlocks=0x1fff",
                          &all, &missing, NULL);
    g_assert_nonnull(m);
    g_assert_cmpstr(missing, ==, "hv_time, hv-synic, hv-spinlocks");
}

static void model_is_bounded_by_the_accelerator(void)
{
    struct x86_featset some = everything();
    x86_featset_put(&some, X86_FEAT_AVX2, false);
    x86_featset_put(&some, X86_FEAT_BMI1, false);
    g_autofree char *missing = NULL;
    g_autofree struct x86_cpu_model *m =
        x86_cpu_model_new("x86-64-v3", &some, &missing, NULL);
    g_assert_nonnull(m);
    g_assert_false(x86_cpu_has(m, X86_FEAT_AVX2));
    g_assert_cmpstr(missing, ==, "bmi1, avx2");

    g_autoptr(GError) error = NULL;
    g_assert_null(x86_cpu_model_new("x86-64-v3,enforce=on", &some, NULL, &error));
    g_assert_nonnull(strstr(error->message, "bmi1, avx2"));
}

static void model_refuses_unknown_words_by_name(void)
{
    static const struct {
        const char *spec, *said;
    } bad[] = {
        {"qemu46", "did you mean 'qemu64'"},
        {"qemu64,+avx3", "did you mean 'avx"},
        {"qemu64,family=many", "'family': 'many'"},
        {"qemu64,nx=maybe", "'nx': expected 'on' or 'off'"},
        {"qemu64,vendor=me", "12 letters"},
        {"", "unable to find CPU model ''"},
    };
    struct x86_featset all = everything();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(x86_cpu_model_new(bad[i].spec, &all, NULL, &error));
        g_assert_nonnull(strstr(error->message, bad[i].said));
    }
}

static void cpuid_tells_identity_and_follows_cr4(void)
{
    g_autofree struct x86_cpu_model *m = model("EPYC");
    struct x86_cpuid r = x86_cpuid(m, &one_cpu, 0, 0);
    g_assert_cmpint(memcmp(&r.reg[X86_CPUID_EBX], "Auth", 4), ==, 0);
    g_assert_cmpint(memcmp(&r.reg[X86_CPUID_EDX], "enti", 4), ==, 0);
    g_assert_cmphex(x86_cpu_signature(m), ==, 0x00800f12); /* 17h, 01h, 2 */

    struct x86_cpuid_env env = one_cpu;
    g_assert_cmphex(x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_ECX] >> 27 & 1, ==, 0);
    env.cr4 = X86_CR4_OSXSAVE;
    g_assert_cmphex(x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_ECX] >> 27 & 1, ==, 1);
    /* Leaf 1 has no subleaves: what is in ECX does not matter. */
    g_assert_cmphex(x86_cpuid(m, &env, 1, 0x444d4163).reg[X86_CPUID_ECX], ==,
                    x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_ECX]);
    env.apic_enabled = false;
    g_assert_cmphex(x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_EDX] >> 9 & 1, ==, 0);
}

static void cpuid_xsave_sizes_follow_xcr0(void)
{
    g_autofree struct x86_cpu_model *m = model("x86-64-v3");
    struct x86_cpuid_env env = one_cpu;
    struct x86_cpuid r = x86_cpuid(m, &env, 0xd, 0);
    g_assert_cmphex(r.reg[X86_CPUID_EAX], ==, 7);
    g_assert_cmpuint(r.reg[X86_CPUID_EBX], ==, 576);
    g_assert_cmpuint(r.reg[X86_CPUID_ECX], ==, 832);
    env.xcr0 = 7;
    g_assert_cmpuint(x86_cpuid(m, &env, 0xd, 0).reg[X86_CPUID_EBX], ==, 832);
    r = x86_cpuid(m, &env, 0xd, 2);
    g_assert_cmpuint(r.reg[X86_CPUID_EAX], ==, 256);
    g_assert_cmpuint(r.reg[X86_CPUID_EBX], ==, 576);
}

static void cpuid_topology_numbers_every_cpu(void)
{
    g_autofree struct x86_cpu_model *m = model("qemu64");
    struct x86_cpuid_env env = {.apic_id = 5, .apic_enabled = true};
    m->topo = (struct x86_topology){.sockets = 1, .dies = 1, .cores = 6, .threads = 1};
    struct x86_cpuid r = x86_cpuid(m, &env, 0xb, 1);
    g_assert_cmpuint(r.reg[X86_CPUID_EAX], ==, 3);
    g_assert_cmpuint(r.reg[X86_CPUID_EBX], ==, 6);
    g_assert_cmpuint(r.reg[X86_CPUID_EDX], ==, 5);
    g_assert_cmpuint(x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_EBX] >> 24, ==, 5);
    g_assert_cmpuint(x86_cpuid(m, &env, 0x1f, 0).reg[X86_CPUID_ECX], ==, 0);
}

static void cpuid_topology_tells_sockets_dies_cores_and_threads(void)
{
    g_autofree struct x86_cpu_model *m = model("host");
    struct x86_cpuid_env env = {.apic_id = 13, .apic_enabled = true};
    m->topo = (struct x86_topology){.sockets = 2, .dies = 2, .cores = 2, .threads = 2};
    static const uint32_t levels[][3] = {{1, 2, 1}, {2, 4, 2}, {3, 8, 5}, {0, 0, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(levels); i++) {
        struct x86_cpuid r = x86_cpuid(m, &env, 0x1f, i);
        g_assert_cmpuint(r.reg[X86_CPUID_EAX], ==, levels[i][0]);
        g_assert_cmpuint(r.reg[X86_CPUID_EBX], ==, levels[i][1]);
        g_assert_cmpuint(r.reg[X86_CPUID_ECX], ==, levels[i][2] << 8 | i);
        g_assert_cmpuint(r.reg[X86_CPUID_EDX], ==, 13);
    }
    g_assert_cmpuint(x86_cpuid(m, &env, 1, 0).reg[X86_CPUID_EBX] >> 16 & 0xff, ==, 8);
}

static void topology_refuses_what_would_leave_gaps(void)
{
    static const struct x86_topology good[] = {
        {1, 1, 6, 1}, {3, 1, 4, 2}, {1, 3, 2, 1}};
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        g_assert_true(x86_topology_check(&good[i], NULL));
    }
    g_autoptr(GError) error = NULL;
    struct x86_topology gaps = {.sockets = 2, .dies = 1, .cores = 6, .threads = 1};
    g_assert_false(x86_topology_check(&gaps, &error));
    g_assert_nonnull(strstr(error->message, "cores of a die"));
}

static void cpuid_above_the_largest_leaf_is_the_vendors(void)
{
    g_autofree struct x86_cpu_model *amd = model("qemu64"), *intel = model("Nehalem");
    struct x86_cpuid zero = {{0}};
    struct x86_cpuid r = x86_cpuid(amd, &one_cpu, 0x1000, 0);
    g_assert_cmpmem(&r, sizeof(r), &zero, sizeof(zero));
    struct x86_cpuid last = x86_cpuid(intel, &one_cpu, intel->max_leaf, 0);
    r = x86_cpuid(intel, &one_cpu, 0x1000, 0);
    g_assert_cmpmem(&r, sizeof(r), &last, sizeof(last));
}

static void five_level_paging_widens_addresses(void)
{
    g_autofree struct x86_cpu_model *without = model("max,-la57");
    g_autofree struct x86_cpu_model *with = model("max,+la57");
    g_assert_cmphex(x86_cpuid(without, &one_cpu, 0x80000008, 0).reg[0] >> 8 & 0xff, ==,
                    48);
    g_assert_cmphex(x86_cpuid(with, &one_cpu, 0x80000008, 0).reg[0] >> 8 & 0xff, ==,
                    57);
}

static void masks_follow_features(void)
{
    g_autofree struct x86_cpu_model *m = model("qemu64"),
                                    *v3 = model("x86-64-v3,+smep");
    g_assert_cmphex(x86_cpu_cr4_mask(m) & (X86_CR4_SMEP | X86_CR4_OSXSAVE), ==, 0);
    g_assert_cmphex(x86_cpu_cr4_mask(v3) & X86_CR4_SMEP, ==, X86_CR4_SMEP);
    g_assert_cmphex(x86_cpu_xcr0_mask(m), ==, 0);
    g_assert_cmphex(x86_cpu_xcr0_mask(v3), ==, 7);
    g_assert_cmphex(x86_cpu_efer_mask(m), ==,
                    X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE);
}

static void reset_state_is_the_manuals(void)
{
    struct x86_state s;
    x86_state_reset(&s, 0x00800f12, false);
    g_assert_cmphex(s.rip, ==, 0xfff0);
    g_assert_cmphex(s.seg[X86_CS].base, ==, 0xffff0000);
    g_assert_cmphex(s.cr0, ==, 0x60000010);
    g_assert_cmphex(s.gpr[X86_RDX], ==, 0x00800f12);
    g_assert_cmphex(s.dr[6], ==, 0xffff0ff0);
    g_assert_cmphex(s.fpu.mxcsr, ==, 0x1f80);
    g_assert_cmpuint(x86_state_code_bits(&s), ==, 16);

    s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NW;
    s.msr.lstar = 0x1234;
    s.fpu.fcw = 0x37f;
    x86_state_reset(&s, 0, true);
    g_assert_cmphex(s.cr0, ==, X86_CR0_NW | X86_CR0_ET);
    g_assert_cmphex(s.msr.lstar, ==, 0x1234);
    g_assert_cmphex(s.fpu.fcw, ==, 0x37f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpu-model/edit", model_edits_features_of_the_named_one);
    g_test_add_func("/cpu-model/bound", model_is_bounded_by_the_accelerator);
    g_test_add_func("/cpu-model/dependent",
                    model_drops_what_builds_on_a_missing_feature);
    g_test_add_func("/cpu-model/by-name", max_leaves_out_what_comes_by_name_only);
    g_test_add_func("/cpu-model/hyperv", hyperv_is_known_and_missing);
    g_test_add_func("/cpu-model/bad", model_refuses_unknown_words_by_name);
    g_test_add_func("/cpuid/identity", cpuid_tells_identity_and_follows_cr4);
    g_test_add_func("/cpuid/xsave", cpuid_xsave_sizes_follow_xcr0);
    g_test_add_func("/cpuid/topology", cpuid_topology_numbers_every_cpu);
    g_test_add_func("/cpuid/levels",
                    cpuid_topology_tells_sockets_dies_cores_and_threads);
    g_test_add_func("/topology/gaps", topology_refuses_what_would_leave_gaps);
    g_test_add_func("/cpuid/out-of-range", cpuid_above_the_largest_leaf_is_the_vendors);
    g_test_add_func("/cpuid/la57", five_level_paging_widens_addresses);
    g_test_add_func("/cpuid/masks", masks_follow_features);
    g_test_add_func("/state/reset", reset_state_is_the_manuals);
    return g_test_run();
}
