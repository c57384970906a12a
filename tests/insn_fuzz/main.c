#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "lib/base/base.h"
#include "tests/insn_fuzz/fuzz.h"

/*
 * The command. A child process does the work, so that whatever a sequence does to it
 * is a finding and not the end: the parent starts another one after the case that was
 * being run. Both share one page of counters.
 */

struct options {
    uint64_t seed;
    uint64_t count; /* cases; 0: until seconds are over */
    unsigned seconds;
    int64_t one;       /* --case: only this one, -1 for none */
    unsigned length;   /* most items of a sequence */
    unsigned failures; /* stop after so many */
    unsigned tier;     /* of the software CPU */
    unsigned target;   /* of the report */
    bool report, verbose, forms, tap;
};

struct shared {
    _Atomic uint64_t number; /* the case that runs now */
    _Atomic uint64_t done, skipped, faulted;
    _Atomic uint32_t failures;
    _Atomic bool finished;
    /* Per form: how often it completed, and how often it faulted. */
    struct {
        uint32_t completed, faulted;
    } met[];
};

struct fuzzer {
    const struct options *opt;
    struct fz_forms forms;
    struct shared *shared;
    struct fz_guest *guest;
    struct fz_case k;
    struct fz_mem base;
    uint64_t base_of;
    struct fz_outcome want, got;
    GHashTable *seen; /* findings told already, by what is left of them */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- One case -------------------------------------------------------------- */

static enum fz_verdict run_both(struct fuzzer *f)
{
    fz_native_run(&f->k.mem, &f->want, &f->k.from);
    fz_guest_run(f->guest, &f->k.mem, &f->got, &f->k.from);
    return fz_compare(&f->k, &f->want, &f->got);
}

/*
 * Count what was certainly executed: not what a branch before it may have skipped,
 * and nothing behind a fault.
 */
static void count_forms(struct fuzzer *f)
{
    const struct fz_case *k = &f->k;
    const struct fz_state *s = &f->want.s;
    int fault = s->end == FZ_END_FAULT ? fz_insn_at(k, s->rip) : -1;
    unsigned skipped_to = 0;
    if (s->end == FZ_END_FAULT && fault < 0) {
        return; /* somewhere else */
    }
    for (unsigned i = 0; i < k->nb_insns && (fault < 0 || (int)i <= fault); i++) {
        const struct fz_insn *in = &k->insn[i];
        if (in->item >= skipped_to && in->form != FZ_NO_FORM) {
            if ((int)i == fault) {
                f->shared->met[in->form].faulted++;
            } else {
                f->shared->met[in->form].completed++;
            }
        }
        bool ends = x86_insn_desc(&in->insn)->cls == X86_CLASS_BRANCH;
        if (ends) {
            skipped_to = MAX(skipped_to, in->item + 4u);
        }
    }
}

static void drop_item(struct fz_case *k, unsigned item, bool dropped)
{
    for (unsigned i = 0; i < k->nb_insns; i++) {
        if (k->insn[i].item == item) {
            k->insn[i].dropped = dropped;
        }
    }
}

/* Drop the items, instructions with what they need, that make no difference. Leaves
 * the smallest case in f->k. */
static void minimise(struct fuzzer *f)
{
    struct fz_case *k = &f->k;
    bool dropped[FZ_MAX_ITEMS] = {false}, smaller = true;
    while (smaller) {
        smaller = false;
        for (unsigned item = k->nb_items; item-- > 0;) {
            if (dropped[item]) {
                continue;
            }
            drop_item(k, item, true);
            fz_layout(&f->base, k);
            dropped[item] = run_both(f) == FZ_DIFFERENT;
            smaller |= dropped[item];
            drop_item(k, item, dropped[item]);
        }
    }
    fz_layout(&f->base, k);
    run_both(f);
}

/* The operations that are left: findings with the same ones are told once. */
static char *signature(const struct fz_case *k)
{
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < k->nb_insns; i++) {
        if (!k->insn[i].dropped && k->insn[i].form != FZ_NO_FORM) {
            g_string_append_printf(s, "%s ", x86_op_name(k->insn[i].insn.op));
        }
    }
    return g_string_free(s, FALSE);
}

static void report_failure(struct fuzzer *f)
{
    const char *prefix = f->opt->tap ? "# " : "";
    minimise(f);
    char *sign = signature(&f->k);
    if (!g_hash_table_add(f->seen, sign)) {
        return;
    }
    f->shared->failures++;
    printf("%sdifferent: --seed %" PRIu64 " --case %" PRIu64 " (%s)\n", prefix,
           f->opt->seed, f->k.number, sign);
    if (!f->opt->tap) {
        fz_print_case(&f->k, stdout);
        fz_print_difference(&f->k, &f->want, &f->got, stdout);
    } else {
        fz_print_case(&f->k, stderr);
        fz_print_difference(&f->k, &f->want, &f->got, stderr);
    }
    fflush(stdout);
}

static void one_case(struct fuzzer *f, uint64_t number)
{
    struct shared *s = f->shared;
    if (f->base_of != number >> 12) {
        f->base_of = number >> 12;
        fz_base_memory(f->opt->seed, number, &f->base);
    }
    s->number = number;
    fz_generate(&f->forms, &f->base, f->opt->seed, number, f->opt->length, &f->k);
    if (f->opt->verbose) {
        printf("case %" PRIu64 ":\n", number);
        fz_print_case(&f->k, stdout);
        fflush(stdout);
    }
    enum fz_verdict v = run_both(f);
    if (f->opt->verbose) {
        fz_print_difference(&f->k, &f->want, &f->got, stdout);
    }
    if (v == FZ_SKIPPED) {
        s->skipped++;
    } else {
        count_forms(f);
        s->faulted += f->want.s.end == FZ_END_FAULT;
    }
    if (v == FZ_DIFFERENT) {
        report_failure(f);
    }
    s->done++;
}

/* --- The worker ------------------------------------------------------------ */

static void work(const struct options *opt, struct shared *shared, uint64_t from,
                 double deadline)
{
    struct fuzzer *f = g_new0(struct fuzzer, 1);
    f->opt = opt;
    f->shared = shared;
    f->base_of = UINT64_MAX;
    f->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    fz_forms_init(&f->forms);
    f->guest = fz_guest_new(opt->tier);
    fz_native_set_tick(fz_guest_tick);
    fz_native_init();
    if (opt->one >= 0) {
        one_case(f, (uint64_t)opt->one);
    } else {
        for (uint64_t n = from; !opt->count || n < opt->count; n++) {
            if ((n & 255) == 0 && deadline > 0 && now() >= deadline) {
                break;
            }
            one_case(f, n);
            if (shared->failures >= opt->failures) {
                break;
            }
        }
    }
    shared->finished = true;
    fflush(stdout);
    _exit(0);
}

/* Wait for the worker; kill it when it stays in one case. Its wait status. */
static int wait_worker(pid_t pid, struct shared *s)
{
    uint64_t last = UINT64_MAX;
    int status, still = 0;
    for (;;) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return status;
        }
        g_usleep(20000);
        still = s->done == last ? still + 1 : 0;
        last = s->done;
        if (still > 50 * 20) {
            kill(pid, SIGKILL);
            still = 0;
        }
    }
}

static void run_workers(const struct options *opt, struct shared *s)
{
    double deadline = opt->seconds ? now() + opt->seconds : 0;
    uint64_t from = 0;
    while (!s->finished && s->failures < opt->failures) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            work(opt, s, from, deadline);
        }
        if (pid < 0) {
            perror("insn-fuzz: fork");
            exit(2);
        }
        int status = wait_worker(pid, s);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
            exit(77);
        }
        if (s->finished) {
            break;
        }
        from = s->number + 1;
        s->failures++;
        printf("%sthe worker %s %d in --seed %" PRIu64 " --case %" PRIu64 "\n",
               opt->tap ? "# " : "",
               WIFSIGNALED(status) ? "died of signal" : "exited with",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), opt->seed,
               (uint64_t)s->number);
    }
}

/* --- Telling --------------------------------------------------------------- */

static void print_report(const struct options *opt, const struct fz_forms *forms,
                         const struct shared *s)
{
    unsigned below = 0;
    char name[96];
    for (unsigned i = 0; i < forms->nb_run; i++) {
        if (s->met[i].completed + s->met[i].faulted < opt->target) {
            fz_form_name(&forms->form[i], name, sizeof(name));
            printf("  %8u met %8u faulted  %s\n", s->met[i].completed,
                   s->met[i].faulted, name);
            below++;
        }
    }
    printf("%u of %u forms below %u\n", below, forms->nb_run, opt->target);
    unsigned never = 0;
    for (unsigned i = 0; i < forms->nb_run; i++) {
        if (s->met[i].completed == 0 && s->met[i].faulted) {
            fz_form_name(&forms->form[i], name, sizeof(name));
            printf("%s %s", never++ ? ";" : "always a fault:", name);
        }
    }
    printf("%s%u forms always fault\n", never ? "\n" : "", never);
}

static void print_forms(const struct fz_forms *forms)
{
    char name[96];
    for (unsigned i = 0; i < forms->nb; i++) {
        const struct fz_form *f = &forms->form[i];
        fz_form_name(f, name, sizeof(name));
        printf("%5u %-40s %s\n", i, name, f->reason ? f->reason : "");
    }
    printf("%u forms, %u run\n", forms->nb, forms->nb_run);
    fz_forms_explain(stdout);
}

static void print_summary(const struct options *opt, const struct fz_forms *forms,
                          const struct shared *s, double seconds)
{
    uint32_t least = UINT32_MAX;
    for (unsigned i = 0; i < forms->nb_run; i++) {
        least = MIN(least, s->met[i].completed + s->met[i].faulted);
    }
    printf("%sinsn-fuzz: seed %" PRIu64 ": %" PRIu64 " sequences in %.1f s, %.0f/s, "
           "%" PRIu64 " faulted, %" PRIu64 " not comparable, %u forms met %u times or "
           "more, %u different\n",
           opt->tap ? "# " : "", opt->seed, (uint64_t)s->done, seconds,
           (double)s->done / seconds, (uint64_t)s->faulted, (uint64_t)s->skipped,
           forms->nb_run, least, (unsigned)s->failures);
}

static int usage(const char *wrong)
{
    if (wrong) {
        fprintf(stderr, "insn-fuzz: '%s'?\n", wrong);
    }
    fputs("usage: insn-fuzz [SECONDS] [--count N] [--seed S|random] [--case N] "
          "[--length N] [--tier N]\n"
          "                 [--failures N] [--report [TARGET]] [--forms] [--tap] "
          "[--verbose]\n"
          "Random instruction sequences, by this processor and by the software CPU.\n"
          "  --case N      only case N of the seed\n"
          "  --tier N      of the software CPU: 0 (default) interprets, 1 translates\n"
          "  --length N    at most N instructions and what they need (default 6)\n"
          "  --failures N  stop after N different findings (default 1)\n"
          "  --report [N]  list forms met fewer than N times (default 1000)\n"
          "  --forms       list all forms, and what is not run and why\n",
          stderr);
    return 2;
}

static uint64_t random_seed(void)
{
    uint64_t v = 0;
    FILE *f = fopen("/dev/urandom", "r");
    if (!f || fread(&v, 1, sizeof(v), f) != sizeof(v)) {
        v = (uint64_t)time(NULL);
    }
    if (f) {
        fclose(f);
    }
    return v >> 32;
}

static bool parse(int argc, char **argv, struct options *o, const char **ret_wrong)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        bool has_number = v && g_ascii_isdigit(*v);
        *ret_wrong = a;
        if (g_ascii_isdigit(*a)) {
            o->seconds = (unsigned)strtoul(a, NULL, 0);
        } else if (!strcmp(a, "--seed") && v && !strcmp(v, "random")) {
            o->seed = random_seed();
            i++;
        } else if (!strcmp(a, "--report")) {
            o->report = true;
            o->target = has_number ? (unsigned)strtoul(argv[++i], NULL, 0) : 1000;
        } else if (!strcmp(a, "--forms")) {
            o->forms = true;
        } else if (!strcmp(a, "--tap")) {
            o->tap = true;
        } else if (!strcmp(a, "--verbose")) {
            o->verbose = true;
        } else if (!has_number) {
            return false;
        } else if (!strcmp(a, "--count")) {
            o->count = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(a, "--seed")) {
            o->seed = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(a, "--case")) {
            o->one = (int64_t)strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(a, "--tier")) {
            o->tier = (unsigned)strtoul(argv[++i], NULL, 0);
        } else if (!strcmp(a, "--length")) {
            o->length = (unsigned)strtoul(argv[++i], NULL, 0);
        } else if (!strcmp(a, "--failures")) {
            o->failures = (unsigned)strtoul(argv[++i], NULL, 0);
        } else {
            return false;
        }
    }
    return o->length && o->failures;
}

int main(int argc, char **argv)
{
    struct options opt = {.seed = 1, .one = -1, .length = 6, .failures = 1};
    struct fz_forms forms;
    const char *wrong = NULL;
    if (!parse(argc, argv, &opt, &wrong)) {
        return usage(wrong);
    }
    if (!opt.count && !opt.seconds) {
        opt.seconds = 10;
    }
    fz_forms_init(&forms);
    if (opt.forms) {
        print_forms(&forms);
        return 0;
    }
    size_t size =
        sizeof(struct shared) + forms.nb * sizeof(((struct shared *)0)->met[0]);
    struct shared *s =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) {
        perror("insn-fuzz: mmap");
        return 2;
    }
    double start = now();
    run_workers(&opt, s);
    if (opt.report) {
        print_report(&opt, &forms, s);
    }
    print_summary(&opt, &forms, s, now() - start);
    if (opt.tap) {
        printf("%s 1 - seed %" PRIu64 "\n1..1\n", s->failures ? "not ok" : "ok",
               opt.seed);
    }
    fz_forms_done(&forms);
    return s->failures ? 1 : 0;
}
