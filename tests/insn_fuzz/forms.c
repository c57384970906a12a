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

/* What user mode may try but never complete, and why; privileged rows are known. */
static const struct {
    uint16_t op;
    const char *reason;
} failures[] = {
    {X86_OP_UD0, "raises #UD by definition"},
    {X86_OP_UD1, "raises #UD by definition"},
    {X86_OP_UD2, "raises #UD by definition"},
    {X86_OP_INT3, "raises #BP by definition"},
    {X86_OP_RSM, "only in system management mode"},
    {X86_OP_SYSENTER, "not in long mode on AMD's processors"},
    {X86_OP_SYSEXIT, "not in long mode on AMD's processors"},
    {X86_OP_RDPMC, "CR4.PCE is clear"},
    {X86_OP_XSETBV, "privileged"},
    {X86_OP_XSAVES, "privileged"},
    {X86_OP_XRSTORS, "privileged"},
    {X86_OP_INVPCID, "privileged"},
    {X86_OP_SWAPGS, "privileged"},
};

const char *fz_form_faults(const struct fz_form *form)
{
    const struct x86_desc *row = x86_desc_get(form->row);
    for (unsigned i = 0; i < ARRAY_LEN(failures); i++) {
        if (failures[i].op == row->op) {
            return failures[i].reason;
        }
    }
    return row->priv == X86_PRIV_CPL0 ? "privileged"
           : row->priv == X86_PRIV_IOPL
               ? "needs an I/O privilege that Linux does not give"
               : NULL;
}

static void classify(struct fz_form *f, const struct x86_featset *host,
                     const struct x86_featset *guest)
{
    const struct x86_desc *row = x86_desc_get(f->row);
    if (f->bits == 32 && row->op == X86_OP_SYSENTER) {
        f->skip = FZ_RUN_NEVER;
        f->reason = "enters the host's kernel on Intel's processors";
    }
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

static void add_forms(struct fz_forms *f, unsigned bits, const struct x86_featset *host,
                      const struct x86_featset *guest)
{
    struct fz_range *r = &f->range[bits == 32];
    r->first = f->nb;
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        bool vex = row->map >= X86_MAP_VEX1;
        if (!(row->allow & (bits == 64 ? X86_A_64 : X86_A_32)) ||
            (bits == 32 && !vex && !(row->allow & X86_A_W0))) { /* with REX.W */
            continue;
        }
        bool mod3 = row->has_modrm && (row->modrm_mask & 0xc0) == 0xc0;
        bool mem = row->has_modrm && !mod3 && (row->allow & X86_A_MEM);
        bool reg = !row->has_modrm || mod3 || (row->allow & X86_A_REG);
        for (unsigned m = 0; m < 2; m++) {
            struct fz_form form = {
                .row = (uint16_t)i, .bits = (uint8_t)bits, .has_mem = m};
            if (m ? mem : reg) {
                classify(&form, host, guest);
                f->form[f->nb++] = form;
            }
        }
    }
    r->nb = f->nb - r->first;
}

static void sort_forms(struct fz_forms *f, struct fz_range *r)
{
    qsort(f->form + r->first, r->nb, sizeof(f->form[0]), by_skip);
    unsigned *plain = f->plain + r->first;
    r->first_plain = r->first;
    while (r->nb_run < r->nb && f->form[r->first + r->nb_run].skip != FZ_RUN_NEVER) {
        const struct fz_form *form = &f->form[r->first + r->nb_run];
        if (is_plain(x86_desc_get(form->row)) && form->skip == FZ_RUN) {
            plain[r->nb_plain++] = r->first + r->nb_run;
        }
        r->nb_run++;
    }
}

void fz_forms_init(struct fz_forms *f)
{
    struct x86_featset host, guest;
    unsigned most = x86_desc_count() * 4;

    x86_featset_host(&host);
    bt_features(&guest);
    *f = (struct fz_forms){.form = g_new0(struct fz_form, most),
                           .plain = g_new0(unsigned, most)};
    add_forms(f, 64, &host, &guest);
    add_forms(f, 32, &host, &guest);
    g_assert_cmpuint(f->nb, <=, ARRAY_LEN(((struct fz_counts *)0)->form));
    sort_forms(f, &f->range[0]);
    sort_forms(f, &f->range[1]);
    fz_cells_init(f);
}

void fz_forms_done(struct fz_forms *f)
{
    g_free(f->form);
    g_free(f->plain);
    g_free(f->cell);
    g_free(f->range[0].subject);
    g_free(f->range[1].subject);
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
