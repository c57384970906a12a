#include "tests/insn_fuzz/fuzz.h"

#include <string.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/isa/x86/cpu_model.h"
#include "vmm/accel/bt/bt.h"

/* What cannot be compared, and why. */
static const struct {
    uint16_t op;
    uint8_t skip;
    const char *reason;
} exclusions[] = {
    {X86_OP_SYSCALL, FZ_RUN_NEVER, "enters the host's kernel"},
    {X86_OP_VMMCALL, FZ_RUN_NEVER, "may enter the host's hypervisor"},
    {X86_OP_VMCALL, FZ_RUN_NEVER, "may enter the host's hypervisor"},
    {X86_OP_INT1, FZ_RUN_NEVER, "hypervisors report its RIP in two ways"},
    {X86_OP_SGDT, FZ_RUN_NEVER, "Linux emulates it under UMIP"},
    {X86_OP_SIDT, FZ_RUN_NEVER, "Linux emulates it under UMIP"},
    {X86_OP_SLDT, FZ_RUN_NEVER, "Linux emulates it under UMIP"},
    {X86_OP_STR, FZ_RUN_NEVER, "Linux emulates it under UMIP"},
    {X86_OP_SMSW, FZ_RUN_NEVER, "Linux emulates it under UMIP"},
    {X86_OP_MONITORX, FZ_RUN_NEVER, "may wait, for as long as the host likes"},
    {X86_OP_MWAITX, FZ_RUN_NEVER, "may wait, for as long as the host likes"},
    {X86_OP_FNSTENV, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_FNSAVE, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_FXSAVE, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_XSAVE, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_XSAVEC, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_XSAVEOPT, FZ_RUN_LAST, "stores what compare.c forgives"},
    {X86_OP_RDTSC, FZ_RUN_RESULT, "time passes"},
    {X86_OP_RDTSCP, FZ_RUN_RESULT, "time passes"},
    {X86_OP_RDPRU, FZ_RUN_RESULT, "time passes"},
    {X86_OP_RDRAND, FZ_RUN_RESULT, "random"},
    {X86_OP_RDSEED, FZ_RUN_RESULT, "random"},
    {X86_OP_RDPID, FZ_RUN_RESULT, "the host's processor number"},
    {X86_OP_CPUID, FZ_RUN_RESULT, "the guest's processor is another model"},
    {X86_OP_XGETBV, FZ_RUN_RESULT, "the host has more components"},
};

static void classify(struct fz_form *f, const struct x86_featset *host,
                     const struct x86_featset *guest)
{
    const struct x86_desc *row = x86_desc_get(f->row);
    if (!x86_featset_has(guest, row->feat)) {
        f->skip = FZ_RUN_NEVER;
        f->reason = "the software CPU does not have it";
    } else if (!x86_featset_has(host, row->feat)) {
        f->skip = FZ_RUN_NEVER; /* and may still execute it */
        f->reason = "the host's CPUID does not show it";
    }
    for (unsigned i = 0; i < ARRAY_LEN(exclusions); i++) {
        if (exclusions[i].op == row->op && f->skip != FZ_RUN_NEVER) {
            f->skip = exclusions[i].skip;
            f->reason = exclusions[i].reason;
        }
    }
}

static int by_skip(const void *a, const void *b)
{
    const struct fz_form *x = a, *y = b;
    bool never_x = x->skip == FZ_RUN_NEVER, never_y = y->skip == FZ_RUN_NEVER;
    if (never_x != never_y) {
        return never_x - never_y;
    }
    return x->row != y->row ? x->row - y->row : x->has_mem - y->has_mem;
}

static bool is_plain(const struct x86_desc *row)
{
    return (row->cls == X86_CLASS_INT || row->cls == X86_CLASS_STRING) &&
           row->priv == X86_PRIV_ANY && !(row->props & X86_D_END);
}

void fz_forms_init(struct fz_forms *f)
{
    struct x86_featset host, guest;
    unsigned rows = x86_desc_count();

    x86_featset_host(&host);
    bt_features(&guest);
    *f = (struct fz_forms){.form = g_new0(struct fz_form, rows * 2),
                           .plain = g_new0(unsigned, rows * 2)};
    for (unsigned i = 0; i < rows; i++) {
        const struct x86_desc *row = x86_desc_get(i);
        if (!(row->allow & X86_A_64)) {
            continue;
        }
        bool mod3 = row->has_modrm && (row->modrm_mask & 0xc0) == 0xc0;
        bool mem = row->has_modrm && !mod3 && (row->allow & X86_A_MEM);
        bool reg = !row->has_modrm || mod3 || (row->allow & X86_A_REG);
        for (unsigned m = 0; m < 2; m++) {
            if (m ? mem : reg) {
                struct fz_form *form = &f->form[f->nb++];
                form->row = (uint16_t)i;
                form->has_mem = m;
                classify(form, &host, &guest);
            }
        }
    }
    qsort(f->form, f->nb, sizeof(f->form[0]), by_skip);
    while (f->nb_run < f->nb && f->form[f->nb_run].skip != FZ_RUN_NEVER) {
        const struct fz_form *form = &f->form[f->nb_run];
        if (is_plain(x86_desc_get(form->row)) && form->skip == FZ_RUN) {
            f->plain[f->nb_plain++] = f->nb_run;
        }
        f->nb_run++;
    }
}

void fz_forms_done(struct fz_forms *f)
{
    g_free(f->form);
    g_free(f->plain);
}

void fz_form_name(const struct fz_form *form, char *buf, size_t n)
{
    static const char *const maps[X86_NB_MAPS] = {"",      "0f ",   "0f38 ", "0f3a ",
                                                  "vex1 ", "vex2 ", "vex3 "};
    const struct x86_desc *row = x86_desc_get(form->row);
    unsigned a = row->allow;
    char digit[8] = "";
    if (row->has_modrm && (row->modrm_mask & 0x38) == 0x38) {
        g_snprintf(digit, sizeof(digit), "/%u", row->modrm >> 3 & 7);
    }
    g_snprintf(buf, n, "%-12s %s%s%s%02x%s%s%s %s", x86_op_name(row->op),
               !(a & X86_A_NP) && a & X86_A_66   ? "66 "
               : !(a & X86_A_NP) && a & X86_A_F3 ? "f3 "
               : !(a & X86_A_NP) && a & X86_A_F2 ? "f2 "
                                                 : "",
               maps[row->map], "", row->opcode, digit,
               !(a & X86_A_W0)   ? " w1"
               : !(a & X86_A_W1) ? " w0"
                                 : "",
               !(a & X86_A_L0)   ? " l1"
               : !(a & X86_A_L1) ? " l0"
                                 : "",
               form->has_mem ? "mem" : "reg");
}

void fz_forms_explain(FILE *out)
{
    fprintf(out, "Not run, or run without comparing the result registers:\n");
    for (unsigned i = 0; i < ARRAY_LEN(exclusions); i++) {
        fprintf(out, "  %-10s %-8s %s\n", x86_op_name(exclusions[i].op),
                exclusions[i].skip == FZ_RUN_NEVER  ? "never"
                : exclusions[i].skip == FZ_RUN_LAST ? "last"
                                                    : "result",
                exclusions[i].reason);
    }
    fprintf(out, "  %-10s %-8s %s\n", "int 80h", "never", "a system call of the host");
}
