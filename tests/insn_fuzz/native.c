#include "tests/insn_fuzz/fuzz.h"

#include <asm/ldt.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * A sequence by the processor. It runs in this process, from fz_native_enter, with all
 * registers, the flags, x87, SSE and AVX state and the bases of FS and GS its own, and
 * comes back in one of two ways:
 *
 *   - through the page at FZ_EXIT, which jumps to fz_native_exit;
 *   - by a signal, whose context is the state and names the exception. FS is not what
 *     the C library wants then: the handlers begin in assembly that restores it.
 *
 * Wild stores reach nothing of this process but by a one in 2^30 chance, since none of
 * its addresses are ever in a register. A wild jump may find the bytes of a system
 * call: seccomp makes a signal of any that comes from the code pages, or in the way of
 * 32-bit programs.
 *
 * 32-bit code runs in the same process, in compatibility mode: a far jump to Linux's
 * 32-bit code segment leads there, and one back from FZ_EXIT32. FS and GS are in the
 * process's local descriptor table then.
 */

#define HWCAP2_FSGSBASE (1u << 1)
#define INT3_OPCODE     0xcc
#define NATIVE_LIMIT_NS UINT64_C(30000000)

/* Offsets are known to the assembly below. */
struct native {
    uint64_t gpr[16];  /* 0 */
    uint64_t rflags;   /* 128 */
    uint64_t rip;      /* 136; of 32-bit code a far pointer */
    uint64_t host_rsp; /* 144 */
    uint64_t host_fs;  /* 152 */
    uint64_t fs, gs;   /* 160, 168 */
    uint32_t mxcsr;    /* 176: the host's */
    uint16_t seg[4];   /* 180: DS, ES, FS, GS */
    uint32_t pad;
    _Alignas(64) uint8_t xsave[1024]; /* 192 */
    volatile sig_atomic_t running;
    volatile uint64_t first_tick_ns; /* 0: none yet */
    void (*tick)(void);
    struct fz_state *s;
};

_Static_assert(offsetof(struct native, xsave) == 192, "written below");
_Static_assert(offsetof(struct native, seg) == 180, "written below");

struct native fz_native;
void fz_native_enter(void);
void fz_native_enter32(void);
void fz_native_exit(void);
void fz_native_out(void);
void fz_signal_entry(int sig, siginfo_t *info, void *opaque);
uint64_t fz_on_signal(int sig, siginfo_t *info, void *opaque, uint64_t fs);

#define ENTER_BEGIN                                                      \
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n" \
    "mov %rsp, fz_native+144(%rip)\n"                                    \
    "stmxcsr fz_native+176(%rip)\n"
#define ENTER_END                                                   \
    "mov $7, %eax; xor %edx, %edx\n"                                \
    "xrstor64 fz_native+192(%rip)\n"                                \
    "pushq fz_native+128(%rip); popfq\n"                            \
    "mov fz_native(%rip), %rax; mov fz_native+8(%rip), %rcx\n"      \
    "mov fz_native+16(%rip), %rdx; mov fz_native+24(%rip), %rbx\n"  \
    "mov fz_native+32(%rip), %rsp; mov fz_native+40(%rip), %rbp\n"  \
    "mov fz_native+48(%rip), %rsi; mov fz_native+56(%rip), %rdi\n"  \
    "mov fz_native+64(%rip), %r8; mov fz_native+72(%rip), %r9\n"    \
    "mov fz_native+80(%rip), %r10; mov fz_native+88(%rip), %r11\n"  \
    "mov fz_native+96(%rip), %r12; mov fz_native+104(%rip), %r13\n" \
    "mov fz_native+112(%rip), %r14; mov fz_native+120(%rip), %r15\n"

__asm__(".pushsection .text\n"
        "fz_native_enter:\n" ENTER_BEGIN
        "mov fz_native+160(%rip), %rax; wrfsbase %rax\n"
        "mov fz_native+168(%rip), %rax; wrgsbase %rax\n" ENTER_END
        "jmp *fz_native+136(%rip)\n"
        "fz_native_enter32:\n" ENTER_BEGIN
        "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es\n"
        "mov $0x07, %eax; mov %eax, %fs; mov $0x0f, %eax; mov %eax, %gs\n" ENTER_END
        "ljmp *fz_native+136(%rip)\n"
        "fz_native_exit:\n"
        "mov %rax, fz_native(%rip); mov %rcx, fz_native+8(%rip)\n"
        "mov %rdx, fz_native+16(%rip); mov %rbx, fz_native+24(%rip)\n"
        "mov %rsp, fz_native+32(%rip); mov %rbp, fz_native+40(%rip)\n"
        "mov %rsi, fz_native+48(%rip); mov %rdi, fz_native+56(%rip)\n"
        "mov %r8, fz_native+64(%rip); mov %r9, fz_native+72(%rip)\n"
        "mov %r10, fz_native+80(%rip); mov %r11, fz_native+88(%rip)\n"
        "mov %r12, fz_native+96(%rip); mov %r13, fz_native+104(%rip)\n"
        "mov %r14, fz_native+112(%rip); mov %r15, fz_native+120(%rip)\n"
        "mov fz_native+144(%rip), %rsp\n"
        "pushfq; popq fz_native+128(%rip)\n"
        "pushq $2; popfq\n"
        "rdfsbase %rax; mov %rax, fz_native+160(%rip)\n"
        "rdgsbase %rax; mov %rax, fz_native+168(%rip)\n"
        "mov %ds, fz_native+180(%rip); mov %es, fz_native+182(%rip)\n"
        "mov %fs, fz_native+184(%rip); mov %gs, fz_native+186(%rip)\n"
        "mov $7, %eax; xor %edx, %edx\n"
        "xsave64 fz_native+192(%rip)\n"
        "fz_native_out:\n"
        "xor %eax, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs\n"
        "mov fz_native+152(%rip), %rax; wrfsbase %rax\n"
        "fninit; ldmxcsr fz_native+176(%rip); vzeroupper\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n"
        "fz_signal_entry:\n" /* AC may be set; C code does not mind alignment */
        "pushfq; andl $~0x40000, (%rsp); popfq\n"
        "rdfsbase %rcx\n"
        "mov fz_native+152(%rip), %rax; wrfsbase %rax\n"
        "push %rax\n"
        "call fz_on_signal\n"
        "wrfsbase %rax\n"
        "pop %rax\n"
        "ret\n"
        ".popsection\n");

__attribute__((target("fsgsbase"))) static void take_context(ucontext_t *uc, int sig,
                                                             uint64_t fs)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    const greg_t *g = uc->uc_mcontext.gregs;
    struct fz_state *s = fz_native.s;

    for (unsigned i = 0; i < 16; i++) {
        s->gpr[i] = (uint64_t)g[order[i]];
    }
    s->rflags = (uint64_t)g[REG_EFL];
    s->rip = (uint64_t)g[REG_RIP];
    s->fs_base = fs;
    s->gs_base = __builtin_ia32_rdgsbase64();
    s->seg[X86_CS] = (uint16_t)g[REG_CSGSFS];
    s->seg[X86_SS] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    __asm__("mov %%ds, %0" : "=r"(s->seg[X86_DS]));
    __asm__("mov %%es, %0" : "=r"(s->seg[X86_ES]));
    __asm__("mov %%fs, %0" : "=r"(s->seg[X86_FS]));
    __asm__("mov %%gs, %0" : "=r"(s->seg[X86_GS]));
    memcpy(s->xsave, uc->uc_mcontext.fpregs, FZ_XSAVE_SIZE);
    s->end = sig == SIGSYS    ? FZ_END_SYSCALL
             : sig == SIGALRM ? FZ_END_TIMEOUT
                              : FZ_END_FAULT;
    s->vector = (uint8_t)g[REG_TRAPNO];
    s->error = (uint32_t)g[REG_ERR];
    s->cr2 = g[REG_TRAPNO] == X86_EXC_PF ? (uint64_t)g[REG_CR2] : 0;
}

uint64_t fz_cpu_time_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Whether the sequence goes on after this tick. */
static bool may_go_on(void)
{
    uint64_t now = fz_cpu_time_ns();
    if (!fz_native.first_tick_ns) {
        fz_native.first_tick_ns = now;
    }
    return now - fz_native.first_tick_ns < NATIVE_LIMIT_NS;
}

/* Returns what FS is to be. */
__attribute__((target("fsgsbase"))) uint64_t fz_on_signal(int sig, siginfo_t *info,
                                                          void *opaque, uint64_t fs)
{
    ucontext_t *uc = opaque;
    greg_t *g = uc->uc_mcontext.gregs;

    if (sig == SIGALRM) {
        if (!fz_native.running && fz_native.tick) {
            fz_native.tick();
        }
        if (!fz_native.running || may_go_on()) {
            return fs;
        }
    } else if (!fz_native.running) {
        signal(sig, SIG_DFL);
        return fs;
    }
    take_context(uc, sig, fs);
    fz_native.running = false;
    g[REG_RIP] = (greg_t)(uintptr_t)fz_native_out;
    g[REG_RSP] = (greg_t)fz_native.host_rsp;
    g[REG_CSGSFS] = (greg_t)0x002b000000000033;
    g[REG_EFL] = X86_FL_R1 | X86_FL_IF;
    return fz_native.host_fs;
}

/* Components that XSTATE_BV says are in their initial state need not be written. */
static void complete_xsave(uint8_t *p)
{
    uint64_t bv = le64_get(p + FZ_XSTATE_BV);
    if (!(bv & X86_XCR0_X87)) {
        memset(p, 0, FZ_MXCSR);
        memset(p + FZ_ST, 0, 128);
        le16_put(p, 0x37f);
    }
    if (!(bv & X86_XCR0_SSE)) {
        memset(p + FZ_XMM, 0, 256);
    }
    if (!(bv & X86_XCR0_AVX)) {
        memset(p + FZ_YMM, 0, 256);
    }
}

static void take_exit(struct fz_state *s, uint16_t cs)
{
    memcpy(s->gpr, fz_native.gpr, sizeof(s->gpr));
    s->rflags = fz_native.rflags;
    s->rip = FZ_EXIT;
    s->fs_base = fz_native.fs;
    s->gs_base = fz_native.gs;
    s->seg[X86_CS] = cs;
    __asm__("mov %%ss, %0" : "=r"(s->seg[X86_SS]));
    s->seg[X86_DS] = fz_native.seg[0];
    s->seg[X86_ES] = fz_native.seg[1];
    s->seg[X86_FS] = fz_native.seg[2];
    s->seg[X86_GS] = fz_native.seg[3];
    s->end = FZ_END_EXIT;
    s->vector = 0;
    s->error = 0;
    s->cr2 = 0;
    memcpy(s->xsave, fz_native.xsave, FZ_XSAVE_SIZE);
}

static uint8_t *at(uint64_t la)
{
    return (uint8_t *)(uintptr_t)la;
}

static void store_memory(const struct fz_mem *m)
{
    memcpy(at(FZ_DATA), m->data, FZ_DATA_RW);
    const uint8_t *ro = m->data + FZ_DATA_RW;
    if (memcmp(at(FZ_DATA + FZ_DATA_RW), ro, FZ_PAGE) != 0) {
        mprotect(at(FZ_DATA + FZ_DATA_RW), FZ_PAGE, PROT_READ | PROT_WRITE);
        memcpy(at(FZ_DATA + FZ_DATA_RW), ro, FZ_PAGE);
        mprotect(at(FZ_DATA + FZ_DATA_RW), FZ_PAGE, PROT_READ);
    }
    memcpy(at(FZ_STACK), m->stack, sizeof(m->stack));
    memcpy(at(FZ_CODE), m->code, sizeof(m->code));
}

void fz_native_run(const struct fz_mem *mem, struct fz_outcome *ret,
                   const struct fz_state *from)
{
    struct native *n = &fz_native;

    store_memory(mem);
    memcpy(n->gpr, from->gpr, sizeof(n->gpr));
    n->rflags = from->rflags;
    n->rip = from->rip;
    n->fs = from->fs_base;
    n->gs = from->gs_base;
    memset(n->xsave, 0, sizeof(n->xsave));
    memcpy(n->xsave, from->xsave, FZ_XSAVE_SIZE);
    n->s = &ret->s;
    n->first_tick_ns = 0;
    n->running = true;
    if (from->seg[X86_CS] == 0x33) {
        fz_native_enter();
    } else {
        n->rip |= (uint64_t)from->seg[X86_CS] << 32;
        fz_native_enter32();
    }
    if (n->running) {
        n->running = false;
        take_exit(&ret->s, from->seg[X86_CS]);
    }
    complete_xsave(ret->s.xsave);
    memcpy(ret->mem.data, at(FZ_DATA), sizeof(ret->mem.data));
    memcpy(ret->mem.stack, at(FZ_STACK), sizeof(ret->mem.stack));
    memcpy(ret->mem.code, at(FZ_CODE), sizeof(ret->mem.code));
}

/* --- Setting up ------------------------------------------------------------ */

static void map_at(uint64_t la, unsigned pages, int prot)
{
    void *p = mmap(at(la), pages * FZ_PAGE, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != at(la)) {
        perror("insn-fuzz: mmap");
        exit(2);
    }
    if (prot & PROT_WRITE) {
        memset(p, 0, pages * FZ_PAGE);
    }
}

/* SIGSYS for every system call that the code pages make, and for 32-bit programs'. */
static void forbid_system_calls(void)
{
    _Static_assert(FZ_EXIT >> 32 == 0 && FZ_CODE < FZ_EXIT, "compared below");
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)(FZ_EXIT + 2 * FZ_PAGE), 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)FZ_DATA, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog prog = {ARRAY_LEN(code), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
        perror("insn-fuzz: seccomp");
        exit(2);
    }
}

static void take_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL,
                                  SIGTRAP, SIGSYS, SIGALRM};
    static uint8_t alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = fz_signal_entry,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

    sigaltstack(&ss, NULL);
    sigemptyset(&sa.sa_mask);
    sigaddset(&sa.sa_mask, SIGALRM);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &sa, NULL);
    }
    struct itimerval every = {{0, FZ_TICK_US}, {0, FZ_TICK_US}};
    setitimer(ITIMER_REAL, &every, NULL);
}

/* The descriptors that 32-bit code has in FS and GS. */
static void set_segments(void)
{
    enum { WRITE = 0x11 };
    struct user_desc fs = {.entry_number = FZ_FS_SEL >> 3,
                           .base_addr = (uint32_t)FZ_FS32_BASE,
                           .limit = 0xfffff,
                           .seg_32bit = 1,
                           .limit_in_pages = 1};
    struct user_desc gs = {.entry_number = FZ_GS_SEL >> 3,
                           .base_addr = (uint32_t)FZ_GS32_BASE,
                           .limit = FZ_GS32_LIMIT,
                           .seg_32bit = 1};
    if (syscall(SYS_modify_ldt, WRITE, &fs, sizeof(fs)) ||
        syscall(SYS_modify_ldt, WRITE, &gs, sizeof(gs))) {
        fprintf(stderr, "insn-fuzz: modify_ldt: %s\n", strerror(errno));
        exit(77);
    }
}

__attribute__((target("fsgsbase"))) void fz_native_init(void)
{
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
        fprintf(stderr, "insn-fuzz: the kernel does not allow WRFSBASE\n");
        exit(77);
    }
    map_at(FZ_DATA, 2, PROT_READ | PROT_WRITE);
    map_at(FZ_DATA + FZ_DATA_RW, 1, PROT_READ);
    map_at(FZ_STACK, 1, PROT_READ | PROT_WRITE);
    map_at(FZ_CODE, FZ_CODE_PAGES, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_at(FZ_EXIT, 1, PROT_READ | PROT_WRITE | PROT_EXEC);
    /* Jumps into the middle of it stop there, as in the guest. */
    memset(at(FZ_EXIT), INT3_OPCODE, FZ_PAGE);
    memcpy(at(FZ_EXIT), "\xff\x25\xf2\x0f\0\0",
           6); /* jmp [rip + ff2h]; AC may be set */
    le64_put(at(FZ_EXIT) + FZ_PAGE - 8, (uint64_t)(uintptr_t)fz_native_exit);
    memcpy(at(FZ_EXIT32), "\xea\0\0\0\0\x33\0", 7); /* jmp far FZ_EXIT */
    le32_put(at(FZ_EXIT32) + 1, (uint32_t)FZ_EXIT);
    mprotect(at(FZ_EXIT), FZ_PAGE, PROT_READ | PROT_EXEC); /* as in the guest */
    set_segments();
    fz_native.host_fs = __builtin_ia32_rdfsbase64();
    take_signals();
    forbid_system_calls();
}

void fz_native_set_tick(void (*tick)(void))
{
    fz_native.tick = tick;
}
