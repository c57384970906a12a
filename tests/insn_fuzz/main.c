#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "lib/base/base.h"
#include "tests/insn_fuzz/fuzz.h"

/*
 * The command. Child processes do the work, so that whatever a sequence does to one
 * is a finding and not the end: the parent starts another one after the case that was
 * being run. Worker w of n takes each n-th 4096 cases. Parent and worker share its
 * counters.
 */

#define MAX_JOBS 64u
#define BATCH    4096u /* cases with the same memory: fz_base_memory() */

struct options {
    uint64_t seed;
    uint64_t count; /* cases; 0: until seconds are over, or all is covered */
    uint64_t from;  /* the first case */
    unsigned seconds;
    int64_t one;       /* --case: only this one, -1 for none */
    unsigned length;   /* most items of a sequence */
    unsigned failures; /* stop after so many */
    unsigned tier;     /* of the software CPU */
    unsigned runs;     /* of each case by the software CPU; 0: by tier */
    unsigned bits;     /* 0: both */
    unsigned target;   /* how often each cell is to be met */
    unsigned jobs;
    const char *json; /* --report */
    bool table, verbose, forms, tap;
};

/* One worker's. */
struct shared {
    _Atomic uint64_t number; /* the case that runs now */
    _Atomic uint64_t done, skipped, faulted;
    _Atomic uint32_t failures;
    _Atomic bool stop, finished;
    pid_t pid;
    uint64_t last; /* done, when it was looked at last */
    unsigned still;
    _Alignas(64) struct fz_counts counts;
};

struct fuzzer {
    const struct options *opt;
    const struct fz_forms *forms;
    struct shared *shared;
    struct fz_guest *guest;
    struct fz_case k;
    struct fz_mem base;
    uint64_t base_of;
    struct fz_outcome want, got, again, first_want, first_got;
    GHashTable *seen; /* findings told already, by what is left of them */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- One case -------------------------------------------------------------- */

/* Whether the processor does the same when it runs the case once more. It does not
 * where the sequence sees what is not the case's. */
static bool is_repeatable(struct fuzzer *f)
{
    fz_native_run(&f->k.mem, &f->again, &f->k.from);
    fz_normalise(&f->k, &f->again.s);
    return fz_equal(&f->want, &f->again);
}

/* The software CPU runs it more than once when that is asked for: blocks are linked
 * and tables are filled then, its TLB, too. */
static enum fz_verdict run_both(struct fuzzer *f)
{
    enum fz_verdict v = FZ_EQUAL;
    fz_native_run(&f->k.mem, &f->want, &f->k.from);
    if (f->want.s.end == FZ_END_TIMEOUT || f->want.s.end == FZ_END_SYSCALL) {
        return FZ_SKIPPED;
    }
    bool far = f->want.s.seg[X86_CS] != f->k.from.seg[X86_CS];
    for (unsigned i = 0; i < f->opt->runs && v == FZ_EQUAL; i++) {
        unsigned how = (i ? FZ_WARM : 0) | (far ? FZ_NO_JUNK : 0);
        fz_guest_run(f->guest, &f->k.mem, &f->got, &f->k.from, how);
        v = fz_compare(&f->k, &f->want, &f->got);
    }
    return v == FZ_DIFFERENT && !is_repeatable(f) ? FZ_SKIPPED : v;
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
 * the smallest case in f->k. False: there was no difference any more, and the first
 * one is kept. */
static bool minimise(struct fuzzer *f)
{
    struct fz_case *k = &f->k;
    f->first_want = f->want;
    f->first_got = f->got;
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
    if (run_both(f) == FZ_DIFFERENT) {
        return true;
    }
    for (unsigned item = 0; item < k->nb_items; item++) {
        drop_item(k, item, false);
    }
    fz_layout(&f->base, k);
    f->want = f->first_want;
    f->got = f->first_got;
    return false;
}

/* The operations that are left: findings with the same ones are told once. */
static char *signature(const struct fz_case *k)
{
    GString *s = g_string_new(k->bits == 32 ? "32-bit " : NULL);
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
    FILE *out = f->opt->tap ? stderr : stdout;
    bool again = minimise(f);
    char *sign = signature(&f->k);
    if (!g_hash_table_add(f->seen, sign)) {
        return;
    }
    f->shared->failures++;
    printf("%sdifferent%s: --seed %" PRIu64 " --case %" PRIu64 " --length %u (%s)\n",
           prefix, again ? "" : ", but not again", f->opt->seed, f->k.number,
           f->opt->length, sign);
    fz_print_case(&f->k, out);
    fz_print_difference(&f->k, &f->want, &f->got, out);
    fflush(stdout);
}

static void one_case(struct fuzzer *f, uint64_t number)
{
    struct shared *s = f->shared;
    if (f->base_of != number / BATCH) {
        f->base_of = number / BATCH;
        fz_base_memory(f->opt->seed, number, &f->base);
    }
    s->number = number;
    fz_generate(f->forms, &f->base, f->opt->seed, number, f->opt->length, &f->k);
    if (f->opt->verbose) {
        printf("case %" PRIu64 ":\n", number);
        fz_print_case(&f->k, stdout);
        fflush(stdout);
    }
    enum fz_verdict v = run_both(f);
    if (f->opt->verbose) {
        fz_print_difference(&f->k, &f->want, &f->got, stdout);
    }
    if (f->opt->verbose && v == FZ_SKIPPED) {
        printf("    not comparable\n");
    }
    if (v == FZ_SKIPPED) {
        s->skipped++;
    } else {
        fz_count(f->forms, &f->k, &f->want.s, &s->counts);
        s->faulted += f->want.s.end == FZ_END_FAULT;
    }
    if (v == FZ_DIFFERENT) {
        report_failure(f);
    }
    s->done++;
}

/* --- The workers ----------------------------------------------------------- */

static bool wanted(const struct options *opt, uint64_t number)
{
    return !opt->bits || opt->bits == fz_bits_of(number);
}

/* The first case from @n on that is worker @w's. */
static uint64_t next_case(const struct options *opt, unsigned w, uint64_t n)
{
    if (n / BATCH % opt->jobs != w) {
        uint64_t batch = n / BATCH + 1;
        while (batch % opt->jobs != w) {
            batch++;
        }
        n = batch * BATCH;
    }
    return n;
}

static _Noreturn void work(const struct options *opt, const struct fz_forms *forms,
                           struct shared *shared, unsigned w, uint64_t from,
                           double deadline)
{
    struct fuzzer *f = g_new0(struct fuzzer, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    f->opt = opt;
    f->forms = forms;
    f->shared = shared;
    f->base_of = UINT64_MAX;
    f->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    f->guest = fz_guest_new(opt->tier);
    fz_native_set_tick(fz_guest_tick);
    fz_native_init();
    if (opt->one >= 0) {
        one_case(f, (uint64_t)opt->one);
    } else {
        for (uint64_t n = next_case(opt, w, from);
             !opt->count || n < opt->from + opt->count; n = next_case(opt, w, n + 1)) {
            if ((n & 255) == 0 &&
                ((deadline > 0 && now() >= deadline) || shared->stop)) {
                break;
            }
            if (wanted(opt, n)) {
                one_case(f, n);
            }
            if (shared->failures >= opt->failures) {
                break;
            }
        }
    }
    shared->finished = true;
    fflush(stdout);
    _exit(0);
}

struct run {
    const struct options *opt;
    const struct fz_forms *forms;
    uint8_t *memory; /* struct shared, each `size` bytes */
    size_t size;
    double start, deadline;
};

static struct shared *worker(const struct run *r, unsigned w)
{
    return (struct shared *)(r->memory + w * r->size);
}

static void start_worker(const struct run *r, unsigned w, uint64_t from)
{
    struct shared *s = worker(r, w);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        work(r->opt, r->forms, s, w, from, r->deadline);
    }
    if (pid < 0) {
        perror("insn-fuzz: fork");
        exit(2);
    }
    s->pid = pid; /* the parent's: the child sees the same memory */
}

/* Worker @w ended with wait status @status. */
static void take_end(const struct run *r, unsigned w, int status)
{
    struct shared *s = worker(r, w);
    s->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        exit(77);
    }
    if (s->finished) {
        return;
    }
    s->failures++;
    printf("%sthe worker %s %d in --seed %" PRIu64 " --case %" PRIu64 " --length %u\n",
           r->opt->tap ? "# " : "",
           WIFSIGNALED(status) ? "died of signal" : "exited with",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), r->opt->seed,
           (uint64_t)s->number, r->opt->length);
    if (s->failures < r->opt->failures && !s->stop) {
        start_worker(r, w, s->number + 1);
    }
}

/* Kill a worker that stays in one case. */
static void look_at_worker(struct shared *s)
{
    s->still = s->done == s->last ? s->still + 1 : 0;
    s->last = s->done;
    if (s->still > 50 * 120) {
        kill(s->pid, SIGKILL);
        s->still = 0;
    }
}

static struct fz_counts *sum_counts(const struct run *r)
{
    struct fz_counts *sum = g_malloc0(fz_counts_size(r->forms));
    for (unsigned w = 0; w < r->opt->jobs; w++) {
        fz_counts_add(r->forms, sum, &worker(r, w)->counts);
    }
    return sum;
}

static bool all_covered(const struct run *r)
{
    g_autofree struct fz_counts *sum = sum_counts(r);
    return fz_counts_least(r->forms, sum) >= r->opt->target;
}

/* Signals that end the run: blocked, in the workers, too. */
static sigset_t ends(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

/* Wait for a while. True: the user wants the end; what was found so far is told. */
static bool wait_a_tick(void)
{
    struct timespec tick = {.tv_nsec = 20000000};
    sigset_t set = ends();
    return sigtimedwait(&set, NULL, &tick) > 0;
}

static void run_workers(const struct run *r)
{
    const struct options *opt = r->opt;
    bool until_covered = !opt->count && !opt->seconds && opt->one < 0, running = true;
    sigset_t set = ends();
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (unsigned w = 0; w < opt->jobs; w++) {
        start_worker(r, w, opt->from);
    }
    for (unsigned ticks = 1; running; ticks++) {
        bool enough = wait_a_tick();
        running = false;
        enough |= until_covered && ticks % 50 == 0 && all_covered(r);
        for (unsigned w = 0; w < opt->jobs; w++) {
            struct shared *s = worker(r, w);
            int status;
            s->stop = s->stop || enough;
            if (s->pid && waitpid(s->pid, &status, WNOHANG) == s->pid) {
                take_end(r, w, status);
            } else if (s->pid) {
                look_at_worker(s);
            }
            running |= s->pid != 0;
        }
    }
}

/* --- Telling --------------------------------------------------------------- */

static void print_forms(const struct fz_forms *forms)
{
    char name[96];
    for (unsigned i = 0; i < forms->nb; i++) {
        const struct fz_form *f = &forms->form[i];
        fz_form_name(f, name, sizeof(name));
        printf("%5u %u-bit %-40s %s\n", i, f->bits, name, f->reason ? f->reason : "");
    }
    printf("%u forms, %u run; %u cells\n", forms->nb,
           forms->range[0].nb_run + forms->range[1].nb_run, forms->nb_cells);
    fz_forms_explain(stdout);
}

/* How many findings. */
static unsigned tell(const struct run *r)
{
    const struct options *opt = r->opt;
    struct fz_run_facts facts = {
        .seed = opt->seed, .seconds = now() - r->start, .tier = opt->tier};
    uint64_t faulted = 0;
    for (unsigned w = 0; w < opt->jobs; w++) {
        const struct shared *s = worker(r, w);
        facts.sequences += s->done;
        facts.skipped += s->skipped;
        facts.different += s->failures;
        faulted += s->faulted;
    }
    g_autofree struct fz_counts *sum = sum_counts(r);
    if (opt->table) {
        fz_report(r->forms, sum, opt->target, stdout);
    }
    if (opt->json && !fz_report_json(r->forms, sum, &facts, opt->json)) {
        fprintf(stderr, "insn-fuzz: %s: %s\n", opt->json, strerror(errno));
        facts.different++;
    }
    printf("%sinsn-fuzz: seed %" PRIu64 ", tier %u: %" PRIu64
           " sequences in %.1f s, %.0f/s, %" PRIu64 " faulted, %" PRIu64
           " not comparable, %u cells met %u times or more, %u different\n",
           opt->tap ? "# " : "", opt->seed, opt->tier, facts.sequences, facts.seconds,
           (double)facts.sequences / facts.seconds, faulted, facts.skipped,
           r->forms->range[0].nb_cells + r->forms->range[1].nb_cells,
           fz_counts_least(r->forms, sum), facts.different);
    if (opt->tap) {
        printf("%s 1 - seed %" PRIu64 "\n1..1\n", facts.different ? "not ok" : "ok",
               opt->seed);
    }
    return facts.different;
}

static int usage(const char *wrong)
{
    if (wrong) {
        fprintf(stderr, "insn-fuzz: '%s'?\n", wrong);
    }
    fputs(
        "usage: insn-fuzz [SECONDS] [--count N] [--seed S|random] [--case N] "
        "[--from N] [--length N]\n"
        "                 [--tier N] [--runs N] [--bits 32|64] [--jobs N] "
        "[--failures N]\n"
        "                 [--report FILE] [--target N] [--table] [--forms] [--tap] "
        "[--verbose]\n"
        "Random instruction sequences, by this processor and by the software CPU.\n"
        "Without SECONDS and --count: until each cell of each form was met 1000 "
        "times.\n"
        "  --count N     so many sequences, from number --from (default 0) on\n"
        "  --case N      only case N of the seed\n"
        "  --tier N      of the software CPU: 0 (default) interprets, 1 translates, 2\n"
        "                hot regions\n"
        "  --runs N      of each sequence by the software CPU (default 1, tiers 1, 2: "
        "3)\n"
        "  --bits N      only 64-bit or only 32-bit code\n"
        "  --length N    at most N instructions and what they need (default 6)\n"
        "  --jobs N      so many processes (default 1)\n"
        "  --failures N  stop after N different findings (default 1)\n"
        "  --table       list the cells met fewer than --target (default 1000) "
        "times, what\n"
        "                always faults, what is not run and why, and the faults met\n"
        "  --report FILE the same, and how often all was met as JSON in FILE\n"
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

/* An option with a number. */
static bool take_number(struct options *o, const char *name, const char *value)
{
    uint64_t v = strtoull(value, NULL, 0);
    struct {
        const char *name;
        unsigned *to;
    } small[] = {
        {"--tier", &o->tier},     {"--length", &o->length},
        {"--target", &o->target}, {"--failures", &o->failures},
        {"--jobs", &o->jobs},     {"--runs", &o->runs},
        {"--bits", &o->bits},
    };
    for (unsigned i = 0; i < ARRAY_LEN(small); i++) {
        if (!strcmp(name, small[i].name)) {
            *small[i].to = (unsigned)v;
            return true;
        }
    }
    if (!strcmp(name, "--count")) {
        o->count = v;
    } else if (!strcmp(name, "--from")) {
        o->from = v;
    } else if (!strcmp(name, "--seed")) {
        o->seed = v;
    } else if (!strcmp(name, "--case")) {
        o->one = (int64_t)v;
    } else {
        return false;
    }
    return true;
}

static bool parse(int argc, char **argv, struct options *o, const char **ret_wrong)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        *ret_wrong = a;
        if (g_ascii_isdigit(*a)) {
            o->seconds = (unsigned)strtoul(a, NULL, 0);
        } else if (!strcmp(a, "--seed") && v && !strcmp(v, "random")) {
            o->seed = random_seed();
            i++;
        } else if (!strcmp(a, "--report") && v) {
            o->json = v;
            o->table = true;
            i++;
        } else if (!strcmp(a, "--table")) {
            o->table = true;
        } else if (!strcmp(a, "--forms")) {
            o->forms = true;
        } else if (!strcmp(a, "--tap")) {
            o->tap = true;
        } else if (!strcmp(a, "--verbose")) {
            o->verbose = true;
        } else if (v && g_ascii_isdigit(*v) && take_number(o, a, v)) {
            i++;
        } else {
            return false;
        }
    }
    *ret_wrong = "a number that cannot be";
    return o->length && o->failures && o->jobs && o->jobs <= MAX_JOBS &&
           (o->bits == 0 || o->bits == 32 || o->bits == 64);
}

int main(int argc, char **argv)
{
    struct options opt = {
        .seed = 1, .one = -1, .length = 6, .failures = 1, .target = 1000, .jobs = 1};
    struct fz_forms forms;
    const char *wrong = NULL;
    if (!parse(argc, argv, &opt, &wrong)) {
        return usage(wrong);
    }
    opt.jobs = opt.one >= 0 ? 1 : opt.jobs;
    opt.runs = opt.runs ? opt.runs : opt.tier ? 3 : 1;
    opt.table |= !opt.count && !opt.seconds && opt.one < 0;
    fz_forms_init(&forms);
    if (opt.forms) {
        print_forms(&forms);
        return 0;
    }
    struct run r = {.opt = &opt, .forms = &forms, .start = now()};
    r.size = ALIGN_UP(offsetof(struct shared, counts) + fz_counts_size(&forms), 4096);
    r.deadline = opt.seconds ? r.start + opt.seconds : 0;
    void *p = mmap(NULL, r.size * opt.jobs, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("insn-fuzz: mmap");
        return 2;
    }
    r.memory = p;
    run_workers(&r);
    unsigned different = tell(&r);
    fz_forms_done(&forms);
    return different ? 1 : 0;
}
