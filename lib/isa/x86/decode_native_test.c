#include <cpuid.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/isa/x86/decode_random.h"
#include "lib/isa/x86/insn.h"

/*
 * The decoder against the processor it runs on, in 64-bit mode: are these bytes an
 * instruction, and where does it end?
 *
 *     decode_native_test                       a short run, as a unit test
 *     decode_native_test --random N [--seed S]
 *
 * The bytes are put at the end of a page with nothing behind it and executed with
 * TF set. Bytes that we call an instruction of length n are put there with exactly
 * n bytes: the processor asks for more with a fault behind the page, and says it
 * was less by the address of the next instruction. SIGILL is #UD; any other fault
 * comes from a valid instruction.
 *
 * One signal is one case: the handler judges what came back, writes the next case
 * and returns into it with fresh registers. All registers point into an arena of
 * 16 GiB without access but for one scratch page, so that no displacement leaves
 * it. What could do harm or would not come back is not executed: see is_safe().
 *
 * The decoder follows AMD; on other processors the test is skipped.
 */

#define ARENA   (16 * GIB)
#define SCRATCH (8 * GIB)
#define CODE    (8 * GIB + 64 * KIB)
#define PAGE    4096

/* Of the sigset_t in a signal frame only these are the mask. */
#define MASK_BYTES 8

struct native {
    uint8_t *arena;
    uint8_t *code_end; /* behind it is no memory */
    struct rng rng;
    uint64_t left;
    bool features[X86_NB_FEATS];
    greg_t resume[NGREG]; /* of main(), to return to */
    uint8_t resume_mask[MASK_BYTES];
    bool started;
    /* the case that runs now */
    uint8_t bytes[16];
    int len; /* ours, or X86_DECODE_* */
    struct x86_insn insn;
    uint8_t *start;
    /* results */
    uint64_t cases;
    uint64_t valid;
    unsigned wrong;
    struct {
        uint8_t bytes[16];
        int len;
        int sig;
        int64_t next; /* where it went, from the start */
    } first[20];
};

/* A signal handler has no argument for it. */
static struct native *volatile the_native;

/* ---- what may run ---- */

static bool op_is_safe(unsigned op)
{
    switch (op) {
    case X86_OP_SYSCALL:
    case X86_OP_SYSENTER:
    case X86_OP_INT:
    case X86_OP_VMMCALL:
    case X86_OP_VMCALL:
    case X86_OP_POPF: /* AC, TF */
    case X86_OP_IRET:
    case X86_OP_WRFSBASE: /* thread-local storage */
    case X86_OP_LFS:
    case X86_OP_LSS:
    case X86_OP_CALLF: /* might find a code segment */
    case X86_OP_JMPF:
    case X86_OP_RETF:
    case X86_OP_MWAITX: return false;
    default: return true;
    }
}

/* #UD for other reasons than the encoding. */
static bool op_may_be_ud(unsigned op)
{
    switch (op) {
    case X86_OP_UD0:
    case X86_OP_UD1:
    case X86_OP_UD2:
    case X86_OP_RSM:
    case X86_OP_SYSEXIT: /* not in long mode on AMD */
    case X86_OP_SYSRET:
    case X86_OP_MONITOR: /* in user mode */
    case X86_OP_MWAIT:
    case X86_OP_STAC:
    case X86_OP_CLAC:
    case X86_OP_RDPKRU: /* CR4.PKE */
    case X86_OP_WRPKRU: return true;
    default: return false;
    }
}

static bool is_safe(const struct native *n)
{
    const struct x86_insn *i = &n->insn;

    for (unsigned k = 0; k < 14; k++) { /* whatever the decoder thinks of it */
        const uint8_t *b = &n->bytes[k];

        if ((b[0] == 0x0f && (b[1] == 0x05 || b[1] == 0x34)) || b[0] == 0xcd ||
            (b[0] == 0x0f && b[1] == 0x01 && (b[2] == 0xd9 || b[2] == 0xc1))) {
            return false;
        }
    }
    if (n->len < 0) {
        return n->len == X86_DECODE_UD;
    }
    if (i->prefixes & X86_P_SEG || !op_is_safe(i->op) || op_may_be_ud(i->op)) {
        return false;
    }
    if (i->nb_opnds && i->opnd[0].kind == X86_OPND_SEG &&
        i->opnd[0].access & X86_ACC_W) {
        return false;
    }
    return n->features[x86_insn_desc(i)->feat];
}

/*
 * What the host may take although we say #UD: EVEX, VEX on mask registers (both not
 * for our guests), and VPERMQ and VPERMPD with VEX.W clear, which Zen 5 executes
 * although the manuals demand W set. XOP is #UD, but #GP when it would be too long.
 */
static bool host_may_have_more(const struct native *n)
{
    for (unsigned k = 0; k < 12; k++) {
        const uint8_t *b = &n->bytes[k];

        if (b[0] == 0x62 || (b[0] == 0x8f && (b[1] & 31) >= 8)) {
            return true;
        }
        if (b[0] == 0xc5 || b[0] == 0xc4) {
            unsigned op = b[0] == 0xc5 ? b[2] : b[3];

            return (op >= 0x41 && op <= 0x4b) || (op >= 0x90 && op <= 0x99) ||
                   (op >= 0x30 && op <= 0x33) ||
                   (b[0] == 0xc4 && (b[1] & 31) == 3 && op <= 1);
        }
    }
    return false;
}

static void next_case(struct native *n)
{
    do {
        random_insn(&n->rng, n->bytes);
        n->len = x86_decode(&n->insn, n->bytes, X86_INSN_MAX_LEN, 64);
    } while (!is_safe(n));
    unsigned size = n->len > 0 ? (unsigned)n->len : X86_INSN_MAX_LEN;

    n->start = n->code_end - size;
    memcpy(n->start, n->bytes, size);
}

/* ---- judging and running ---- */

static bool changes_rip(const struct native *n)
{
    return x86_insn_desc(&n->insn)->cls == X86_CLASS_BRANCH;
}

static bool is_right(const struct native *n, int sig, const siginfo_t *si,
                     const greg_t *regs)
{
    if (n->len < 0) {
        return sig == SIGILL || host_may_have_more(n);
    }
    if (sig == SIGILL) {
        return false;
    }
    if (sig == SIGSEGV && si->si_addr == n->code_end && !changes_rip(n) &&
        regs[REG_RIP] == (greg_t)(uintptr_t)n->start) {
        return false; /* wanted more bytes */
    }
    if (sig == SIGTRAP && !changes_rip(n)) {
        const struct x86_desc *row = x86_insn_desc(&n->insn);

        /* REP traps between two iterations, a gather between two elements. */
        return regs[REG_RIP] == (greg_t)(uintptr_t)n->code_end ||
               row->cls == X86_CLASS_STRING ||
               row->props & (X86_D_VSIB | X86_D_VSIB_HALF);
    }
    return true;
}

static void judge(struct native *n, int sig, const siginfo_t *si, const greg_t *regs)
{
    n->cases++;
    n->valid += n->len > 0;
    if (is_right(n, sig, si, regs)) {
        return;
    }
    if (n->wrong < ARRAY_LEN(n->first)) {
        memcpy(n->first[n->wrong].bytes, n->bytes, sizeof(n->bytes));
        n->first[n->wrong].len = n->len;
        n->first[n->wrong].sig = sig;
        n->first[n->wrong].next = regs[REG_RIP] - (greg_t)(uintptr_t)n->start;
    }
    n->wrong++;
}

static void set_context(struct native *n, ucontext_t *uc)
{
    greg_t *regs = uc->uc_mcontext.gregs;
    struct _libc_fpstate *fp = uc->uc_mcontext.fpregs;

    for (unsigned r = REG_R8; r <= REG_RSP; r++) {
        regs[r] = (greg_t)(uintptr_t)(n->arena + SCRATCH + 2048 + 64 * r);
    }
    memset(&uc->uc_sigmask, 0, MASK_BYTES); /* raise() had blocked some */
    regs[REG_RCX] = 1;
    regs[REG_RIP] = (greg_t)(uintptr_t)n->start;
    regs[REG_EFL] = X86_FL_R1 | X86_FL_IF | X86_FL_TF;
    if (fp) { /* nothing unmasked, an empty x87 stack */
        fp->cwd = 0x37f;
        fp->swd = 0;
        fp->ftw = 0;
        fp->mxcsr = 0x1f80;
    }
}

static void on_signal(int sig, siginfo_t *si, void *context)
{
    struct native *n = the_native;
    ucontext_t *uc = context;

    if (!n->started) {
        memcpy(n->resume, uc->uc_mcontext.gregs, sizeof(n->resume));
        memcpy(n->resume_mask, &uc->uc_sigmask, MASK_BYTES);
        n->started = true;
    } else {
        judge(n, sig, si, uc->uc_mcontext.gregs);
    }
    if (n->left-- == 0) {
        memcpy(uc->uc_mcontext.gregs, n->resume, sizeof(n->resume));
        memcpy(&uc->uc_sigmask, n->resume_mask, MASK_BYTES);
        return;
    }
    next_case(n);
    set_context(n, uc);
}

static bool cpu_has(const struct native *n, unsigned leaf, unsigned subleaf,
                    unsigned reg, unsigned bit)
{
    uint32_t r[4];

    return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) &&
           r[reg] >> bit & 1;
}

static bool is_amd(void)
{
    uint32_t eax, ebx, ecx, edx;

    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_AMD_ebx &&
           ecx == signature_AMD_ecx && edx == signature_AMD_edx;
}

static void native_init(struct native *n, uint64_t count, uint64_t seed)
{
    *n = (struct native){.left = count};
    n->rng.state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
#define HAS(id, name, leaf, subleaf, reg, bit) \
    n->features[X86_FEAT_##id] = cpu_has(n, leaf, subleaf, X86_CPUID_##reg, bit);
    X86_FEATS(HAS)
    n->features[X86_FEAT_NONE] = true;

    n->arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    g_assert_true(n->arena != MAP_FAILED);
    g_assert_cmpint(mprotect(n->arena + SCRATCH, PAGE, PROT_READ | PROT_WRITE), ==, 0);
    n->code_end = n->arena + CODE + PAGE;
    g_assert_cmpint(mprotect(n->arena + CODE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC),
                    ==, 0);
}

/* Run @count cases; prints and returns how many went wrong. */
static unsigned run_native(uint64_t count, uint64_t seed)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction old[ARRAY_LEN(signals)];
    stack_t stack = {.ss_sp = g_malloc(256 * KIB), .ss_size = 256 * KIB}, old_stack;
    g_autofree struct native *n = g_new(struct native, 1);

    native_init(n, count, seed);
    the_native = n;
    sigaltstack(&stack, &old_stack);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &sa, &old[i]);
    }
    raise(SIGTRAP);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &old[i], NULL);
    }
    sigaltstack(&old_stack, NULL);
    the_native = NULL;
    munmap(n->arena, ARENA);
    g_free(stack.ss_sp);

    printf("# native: %" G_GUINT64_FORMAT " strings, %" G_GUINT64_FORMAT
           " instructions, %u wrong\n",
           n->cases, n->valid, n->wrong);
    for (unsigned i = 0; i < MIN(n->wrong, ARRAY_LEN(n->first)); i++) {
        printf("#  ");
        for (unsigned k = 0; k < X86_INSN_MAX_LEN; k++) {
            printf(" %02x", n->first[i].bytes[k]);
        }
        printf(": ours %d, signal %s at +%ld\n", n->first[i].len,
               strsignal(n->first[i].sig), (long)n->first[i].next);
    }
    return n->wrong;
}

static void the_processor_agrees(void)
{
    if (!is_amd()) {
        g_test_skip("the decoder follows AMD's processors");
        return;
    }
    g_assert_cmpuint(run_native(50000, 1), ==, 0);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--random") == 0) {
        bool seeded = argc > 4 && strcmp(argv[3], "--seed") == 0;

        return run_native(g_ascii_strtoull(argv[2], NULL, 0),
                          seeded ? g_ascii_strtoull(argv[4], NULL, 0) : 1) != 0;
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/native", the_processor_agrees);
    return g_test_run();
}
