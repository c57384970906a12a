#include "vmm/accel/bt/t0_native.h"

#include <asm/prctl.h>
#include <glib.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "lib/base/bytes.h"
#include "lib/isa/x86/state.h"

#define PAGE UINT64_C(4096)

/* --- One instruction by the processor -------------------------------------- */

/* Offsets are known to the assembly below. */
struct native {
    uint64_t gpr[16];  /* 0 */
    uint64_t rflags;   /* 128 */
    uint64_t rip;      /* 136 */
    uint64_t host_rsp; /* 144 */
    uint32_t far_off;  /* 152 */
    uint32_t far_sel;  /* 156 */
    uint32_t mxcsr;    /* 160: the host's */
    volatile bool running;
    uint64_t code;
    struct native_result *r;
    _Alignas(64) uint8_t xsave[1024]; /* 192 */
};

_Static_assert(offsetof(struct native, xsave) == 192, "written below");

struct native native; /* external for the assembly */
void native_enter64(void);
void native_enter32(void);
void native_exit(void);
void native_out(void);

__asm__(".pushsection .text\n"
        "native_enter32:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es\n"
        "lea 1f(%rip), %rax\n"
        "jmp 3f\n"
        "native_enter64:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "lea 2f(%rip), %rax\n"
        "3: mov %rax, native_go(%rip)\n"
        "mov %rsp, native+144(%rip)\n"
        "stmxcsr native+160(%rip)\n"
        "mov $7, %eax; mov $0, %edx\n"
        "xrstor64 native+192(%rip)\n"
        "pushq native+128(%rip); popfq\n"
        "mov native(%rip), %rax; mov native+8(%rip), %rcx\n"
        "mov native+16(%rip), %rdx; mov native+24(%rip), %rbx\n"
        "mov native+32(%rip), %rsp; mov native+40(%rip), %rbp\n"
        "mov native+48(%rip), %rsi; mov native+56(%rip), %rdi\n"
        "mov native+64(%rip), %r8; mov native+72(%rip), %r9\n"
        "mov native+80(%rip), %r10; mov native+88(%rip), %r11\n"
        "mov native+96(%rip), %r12; mov native+104(%rip), %r13\n"
        "mov native+112(%rip), %r14; mov native+120(%rip), %r15\n"
        "jmp *native_go(%rip)\n"
        "1: ljmp *native+152(%rip)\n"
        "2: jmp *native+136(%rip)\n"
        "native_exit:\n"
        "mov %rax, native(%rip); mov %rcx, native+8(%rip)\n"
        "mov %rdx, native+16(%rip); mov %rbx, native+24(%rip)\n"
        "mov %rsp, native+32(%rip); mov %rbp, native+40(%rip)\n"
        "mov %rsi, native+48(%rip); mov %rdi, native+56(%rip)\n"
        "mov %r8, native+64(%rip); mov %r9, native+72(%rip)\n"
        "mov %r10, native+80(%rip); mov %r11, native+88(%rip)\n"
        "mov %r12, native+96(%rip); mov %r13, native+104(%rip)\n"
        "mov %r14, native+112(%rip); mov %r15, native+120(%rip)\n"
        "mov native+144(%rip), %rsp\n"
        "pushfq; popq native+128(%rip)\n"
        "mov $7, %eax; mov $0, %edx\n"
        "xsave64 native+192(%rip)\n"
        "native_out:\n"
        "cld\n"
        "fninit; ldmxcsr native+160(%rip); vzeroupper\n"
        "xor %eax, %eax; mov %eax, %ds; mov %eax, %es\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n"
        ".popsection\n"
        ".pushsection .bss\n"
        ".balign 8\n"
        "native_go: .skip 8\n"
        ".popsection\n");

static void on_signal(int sig, siginfo_t *info, void *opaque)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = opaque;
    greg_t *g = uc->uc_mcontext.gregs;
    if (!native.running) {
        signal(sig, SIG_DFL);
        return;
    }
    for (unsigned i = 0; i < 16; i++) {
        native.gpr[i] = (uint64_t)g[order[i]];
    }
    native.rflags = (uint64_t)g[REG_EFL];
    memcpy(native.xsave, uc->uc_mcontext.fpregs, NATIVE_XSAVE_SIZE);
    native.r->faulted = true;
    native.r->rip = (uint64_t)g[REG_RIP];
    native.r->vector = (uint8_t)g[REG_TRAPNO];
    native.r->error = (uint32_t)g[REG_ERR];
    native.r->cr2 = g[REG_TRAPNO] == X86_EXC_PF ? (uint64_t)g[REG_CR2] : 0;
    g[REG_RIP] = (greg_t)(uintptr_t)native_out;
    g[REG_RSP] = (greg_t)native.host_rsp;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~(greg_t)0xffff) | 0x33;
    g[REG_EFL] = 0x202;
}

/* Components that XSTATE_BV says are in their initial state need not be written. */
static void complete_xsave(uint8_t *p)
{
    uint64_t bv = le64_get(p + 512);
    if (!(bv & X86_XCR0_X87)) {
        memset(p, 0, 24);
        memset(p + 32, 0, 128);
        le16_put(p, 0x37f);
    }
    if (!(bv & X86_XCR0_SSE)) {
        memset(p + 160, 0, 256);
    }
    if (!(bv & X86_XCR0_AVX)) {
        memset(p + 576, 0, 256);
    }
}

#define STUB 2048

void native_run(const uint8_t *bytes, unsigned len, unsigned mode,
                struct native_result *r)
{
    uint8_t xsave[NATIVE_XSAVE_SIZE] = {0};
    le32_put(xsave + 24, 0x1f80);
    native_run_fpu(bytes, len, mode, r, xsave);
}

void native_run_fpu(const uint8_t *bytes, unsigned len, unsigned mode,
                    struct native_result *r, uint8_t *xsave)
{
    uint8_t *code = (uint8_t *)(uintptr_t)native.code;
    uint64_t out = (uint64_t)(uintptr_t)native_exit;

    memcpy(code, bytes, len);
    if (mode == 64) { /* jmp [rip]; the address */
        memcpy(code + len, "\xff\x25\0\0\0\0", 6);
        memcpy(code + len + 6, &out, 8);
    } else { /* jmp 33h:code + STUB, and there the same */
        uint32_t stub = (uint32_t)native.code + STUB;
        code[len] = 0xea;
        memcpy(code + len + 1, &stub, 4);
        memcpy(code + len + 5, "\x33\0", 2);
        memcpy(code + STUB, "\xff\x25\0\0\0\0", 6);
        memcpy(code + STUB + 6, &out, 8);
    }
    memcpy(native.gpr, r->gpr, sizeof(r->gpr));
    native.rflags = (r->rflags & NATIVE_FLAGS) | X86_FL_R1 | X86_FL_IF;
    native.rip = native.code;
    native.far_off = (uint32_t)native.code;
    native.far_sel = 0x23;
    native.r = r;
    memset(native.xsave, 0, sizeof(native.xsave));
    memcpy(native.xsave, xsave, NATIVE_XSAVE_SIZE);
    r->rip = native.code + len;
    r->faulted = false;
    r->vector = 0;
    r->error = 0;
    r->cr2 = 0;
    native.running = true;
    if (mode == 64) {
        native_enter64();
    } else {
        native_enter32();
    }
    native.running = false;
    memcpy(r->gpr, native.gpr, sizeof(r->gpr));
    r->rflags = native.rflags & NATIVE_FLAGS;
    memcpy(xsave, native.xsave, NATIVE_XSAVE_SIZE);
    complete_xsave(xsave);
}

void native_setup(uint64_t code_at)
{
    static uint8_t alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

    sigaltstack(&ss, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(sigs); i++) {
        sigaction(sigs[i], &sa, NULL);
    }
    void *data = (void *)(uintptr_t)NATIVE_ARENA, *code = (void *)(uintptr_t)code_at;
    g_assert_true(
        mmap(data, NATIVE_PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == data);
    g_assert_true(mmap(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0) ==
                  code);
    syscall(SYS_arch_prctl, ARCH_SET_GS, NATIVE_GS_BASE);
    native.code = code_at;
}

/* --- Random instructions --------------------------------------------------- */

static uint64_t rng_state;

uint64_t native_rnd(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}

void native_seed(void)
{
    rng_state = UINT64_C(88172645463325252);
    if (g_test_thorough()) {
        rng_state ^= (uint64_t)(unsigned)g_test_rand_int() << 1;
    }
}

uint64_t native_below(uint64_t n)
{
    return (native_rnd() >> 32) % n;
}

uint64_t native_rnd_value(void)
{
    uint64_t one = UINT64_C(1) << native_below(64);
    switch (native_below(6)) {
    case 0: return native_below(4) - 2;
    case 1: return one - native_below(3) + 1;
    case 2: return -one + native_below(3) - 1;
    case 3: return native_below(256);
    default: return native_rnd();
    }
}

/* The prefix state a row wants: 0, 66, F3 or F2. */
static uint8_t mandatory_prefix(uint32_t allow)
{
    bool np = allow & X86_A_NP, p66 = allow & X86_A_66;
    if (np) {
        return p66 && native_below(3) == 0 ? 0x66 : 0;
    }
    return p66 ? 0x66 : allow & X86_A_F3 ? 0xf3 : 0xf2;
}

static unsigned put_vex(uint8_t *p, const struct x86_desc *row, unsigned mode)
{
    uint8_t prefix = mandatory_prefix(row->allow);
    unsigned pp = prefix == 0x66 ? 1 : prefix == 0xf3 ? 2 : prefix == 0xf2 ? 3 : 0;
    unsigned n = 0;
    p[n++] = 0xc4;
    p[n++] = (uint8_t)((mode == 64 ? native_rnd() & 0xe0 : 0xe0) |
                       (row->map - X86_MAP_VEX1 + 1));
    uint8_t vvvv = (uint8_t)(native_below(2) ? 0x78
                             : mode == 64    ? native_rnd() & 0x78
                                             : 0x40 | (native_rnd() & 0x38));
    p[n++] = (uint8_t)((native_rnd() & 0x84) | vvvv | pp);
    if (row->map == X86_MAP_VEX1 && (p[1] & 0x60) == 0x60 && !(p[2] & 0x80) &&
        native_below(2)) {
        p[0] = 0xc5; /* the same in two bytes */
        p[1] = (uint8_t)((p[1] & 0x80) | p[2]);
        n = 2;
    }
    return n;
}

static unsigned put_legacy(uint8_t *p, const struct x86_desc *row, unsigned mode)
{
    uint8_t prefix = mandatory_prefix(row->allow);
    unsigned n = 0;
    if ((row->props & X86_D_LOCK) && native_below(3) == 0) {
        p[n++] = 0xf0;
    }
    if (row->cls == X86_CLASS_STRING && native_below(3)) {
        p[n++] = native_below(2) ? 0xf3 : 0xf2;
    }
    if (mode == 64 && native_below(8) == 0) {
        p[n++] = 0x65;
    }
    if (prefix) {
        p[n++] = prefix;
    }
    if (mode == 64 && native_below(2)) {
        p[n++] = 0x40 | (native_rnd() & 15);
    }
    if (row->map != X86_MAP_ONE) {
        p[n++] = 0x0f;
    }
    if (row->map == X86_MAP_0F38 || row->map == X86_MAP_0F3A) {
        p[n++] = row->map == X86_MAP_0F38 ? 0x38 : 0x3a;
    }
    return n;
}

static uint8_t rnd_modrm(const struct x86_desc *row)
{
    uint8_t m = (uint8_t)native_rnd();
    bool mem = row->allow & X86_A_MEM, reg = row->allow & X86_A_REG;
    if (reg && (!mem || native_below(2))) {
        m |= 0xc0;
    } else if (m >= 0xc0) {
        m &= 0x7f;
    }
    return (uint8_t)((m & ~row->modrm_mask) | (row->modrm & row->modrm_mask));
}

bool native_case_make(unsigned i, unsigned mode, struct native_case *k)
{
    k->row = x86_desc_get(i);
    k->mode = mode;
    if (!(k->row->allow & (mode == 64 ? X86_A_64 : X86_A_32))) {
        return false;
    }
    for (unsigned tries = 0; tries < 400; tries++) {
        unsigned n = 0;
        if (native_below(10) == 0) {
            k->bytes[n++] = 0x67;
        }
        n += k->row->map >= X86_MAP_VEX1 ? put_vex(k->bytes + n, k->row, mode)
                                         : put_legacy(k->bytes + n, k->row, mode);
        k->bytes[n++] = (uint8_t)(k->row->opcode + native_below(k->row->nb_opcode));
        if (k->row->has_modrm) {
            k->bytes[n++] = rnd_modrm(k->row);
        }
        for (; n < sizeof(k->bytes); n++) {
            k->bytes[n] = (uint8_t)native_rnd();
        }
        if (x86_decode(&k->insn, k->bytes, 15, mode) > 0 && k->insn.desc == i) {
            return true;
        }
    }
    return false;
}

void native_case_patch(struct native_case *k, unsigned at, int64_t v, unsigned size)
{
    memcpy(k->bytes + at, &v, size);
    g_assert_cmpint(x86_decode(&k->insn, k->bytes, 15, k->mode), >, 0);
}

bool native_case_aim(struct native_case *k, uint64_t target, uint64_t rip,
                     uint64_t gpr[16])
{
    struct x86_insn *i = &k->insn;
    unsigned disp_at = i->len - i->imm_size - i->disp_size;
    uint64_t off = target - (i->seg == X86_GS ? NATIVE_GS_BASE : 0);

    bool vsib = k->row->props & (X86_D_VSIB | X86_D_VSIB_HALF);

    if (i->addrsize == 2 || (i->base == i->index && !vsib)) {
        return i->addrsize != 2 && i->base == X86_REG_NONE && i->disp_size >= 4
                   ? (native_case_patch(k, disp_at, (int64_t)off, i->disp_size), true)
                   : false;
    }
    if (i->disp_size == 4 && i->base < 16) {
        native_case_patch(k, disp_at, (int16_t)native_rnd(), 4);
    }
    if (i->index != X86_REG_NONE && !vsib) {
        gpr[i->index] = native_below(200) - 100;
        off -= gpr[i->index] * i->scale;
        if (i->addrsize == 4) {
            gpr[i->index] = k->mode == 64 ? gpr[i->index] ^ native_rnd() << 32
                                          : (uint32_t)gpr[i->index];
        }
    }
    if (i->base < 16) {
        gpr[i->base] = off - (uint64_t)i->disp;
        if (i->addrsize == 4) {
            gpr[i->base] = k->mode == 64 ? gpr[i->base] ^ native_rnd() << 32
                                         : (uint32_t)gpr[i->base];
        }
    } else if (i->base == X86_REG_RIP) {
        native_case_patch(k, disp_at, (int64_t)(off - rip - i->len), 4);
    } else {
        native_case_patch(k, disp_at, (int64_t)off, i->disp_size);
    }
    return true;
}

/* What the core's files lower. */
bool native_is_system(const struct x86_insn *i)
{
    static const uint16_t ops[] = {
        X86_OP_PUSHF,  X86_OP_POPF,  X86_OP_CPUID,     X86_OP_RDTSC,
        X86_OP_LAR,    X86_OP_LSL,   X86_OP_SERIALIZE, X86_OP_RDPID,
        X86_OP_RDPRU,  X86_OP_ARPL,  X86_OP_LDS,       X86_OP_LES,
        X86_OP_LFS,    X86_OP_LGS,   X86_OP_LSS,       X86_OP_RDRAND,
        X86_OP_RDSEED, X86_OP_PAUSE, X86_OP_CLFLUSH,   X86_OP_CLFLUSHOPT,
        X86_OP_CLWB,
    };
    for (unsigned n = 0; n < G_N_ELEMENTS(ops); n++) {
        if (i->op == ops[n]) {
            return true;
        }
    }
    return i->opnd[0].kind == X86_OPND_SEG || i->opnd[1].kind == X86_OPND_SEG;
}

bool native_is_integer(const struct x86_desc *row)
{
    return row->cls == X86_CLASS_INT || row->cls == X86_CLASS_STRING;
}

bool native_is_locked(const struct x86_insn *i)
{
    return (i->prefixes & X86_P_LOCK) || i->op == X86_OP_XCHG;
}
