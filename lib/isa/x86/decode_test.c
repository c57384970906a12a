#include "lib/isa/x86/insn.h"

#include <string.h>

#include "lib/base/base.h"

/*
 * The decoder on bytes that can be read here. What it says of every other byte
 * string is compared with Zydis in decode_oracle_test.c.
 */

struct sample {
    unsigned mode;
    const char *hex;
    const char *text; /* of x86_format() at rIP 0x1000 */
};

static const struct sample samples[] = {
    /* integer, sizes from prefixes */
    {64, "00 c8", "add al, cl"},
    {64, "01 d8", "add eax, ebx"},
    {64, "66 01 d8", "add ax, bx"},
    {64, "48 01 d8", "add rax, rbx"},
    {64, "66 48 01 d8", "add rax, rbx"},
    {16, "01 d8", "add ax, bx"},
    {16, "66 01 d8", "add eax, ebx"},
    {64, "48 83 c4 f0", "add rsp, 0xfffffffffffffff0"},
    {64, "66 81 c1 00 80", "add cx, 0x8000"},
    {64, "48 81 c1 00 00 00 80", "add rcx, 0xffffffff80000000"},
    {64, "48 b8 88 77 66 55 44 33 22 11", "mov rax, 0x1122334455667788"},
    {64, "41 b9 01 00 00 00", "mov r9d, 0x1"},
    {64, "f0 0f c1 07", "lock xadd dword ptr [rdi], eax"},
    {64, "0f b6 c4", "movzx eax, ah"},
    {64, "40 0f b6 c4", "movzx eax, spl"},
    {64, "48 63 c3", "movsxd rax, ebx"},
    {32, "63 c3", "arpl bx, ax"},
    {64, "d3 e0", "shl eax, cl"},
    {64, "d1 f8", "sar eax, 0x1"},
    {64, "c1 f0 03", "shl eax, 0x3"},
    {32, "40", "inc eax"},
    {64, "48 98", "cdqe"},
    {32, "66 99", "cwd"},
    {64, "6a ff", "push 0xffffffffffffffff"},
    {64, "41 50", "push r8"},
    {64, "66 50", "push ax"},
    {32, "1e", "push ds"},
    {64, "c8 10 00 01", "enter 0x10, 0x1"},
    {64, "0f 95 c0", "setne al"},
    {64, "48 0f 42 c1", "cmovb rax, rcx"},
    {64, "f3 0f b8 c1", "popcnt eax, ecx"},
    {64, "f3 0f bc c1", "tzcnt eax, ecx"},
    {64, "0f bc c1", "bsf eax, ecx"},
    {64, "66 0f 38 f0 01", "movbe ax, word ptr [rcx]"},
    {64, "66 f2 0f 38 f1 c1", "crc32 eax, cx"},
    {64, "48 0f c7 0f", "cmpxchg16b xmmword ptr [rdi]"},
    {64, "90", "nop"},
    {64, "f3 90", "pause"},
    {64, "41 90", "xchg r8d, eax"},
    {64, "f3 0f 1e fa", "endbr64"},
    {64, "0f 1f 44 00 00", "nop [rax+rax]"},
    /* memory operands */
    {64, "8b 04 25 00 00 00 80", "mov eax, dword ptr [0xffffffff80000000]"},
    {64, "8b 05 10 00 00 00", "mov eax, dword ptr [rip+0x10]  # 0x1016"},
    {64, "67 8b 05 10 00 00 00", "mov eax, dword ptr [eip+0x10]  # 0x1017"},
    {32, "8b 05 10 00 00 00", "mov eax, dword ptr [0x10]"},
    {64, "65 48 8b 04 25 28 00 00 00", "mov rax, qword ptr gs:[0x28]"},
    {64, "2e 8b 00", "mov eax, dword ptr [rax]"},
    {32, "2e 8b 00", "mov eax, dword ptr cs:[eax]"},
    {64, "43 8b 44 8d f8", "mov eax, dword ptr [r13+r9*4-0x8]"},
    {64, "8b 04 24", "mov eax, dword ptr [rsp]"},
    {64, "42 8b 04 24", "mov eax, dword ptr [rsp+r12]"},
    {16, "8b 42 fe", "mov ax, word ptr [bp+si-0x2]"},
    {16, "8b 06 34 12", "mov ax, word ptr [0x1234]"},
    {16, "67 8b 44 88 01", "mov ax, word ptr [eax+ecx*4+0x1]"},
    {64, "a1 88 77 66 55 44 33 22 11", "mov eax, dword ptr [0x1122334455667788]"},
    {64, "48 8d 44 98 10", "lea rax, [rax+rbx*4+0x10]"},
    /* branches */
    {64, "eb fe", "jmp 0x1000"},
    {64, "0f 84 00 01 00 00", "je 0x1106"},
    {16, "e9 00 f0", "jmp 0x3"},
    {64, "66 e9 00 10", "jmp 0x2004"},
    {64, "ff 25 02 00 00 00", "jmp qword ptr [rip+0x2]  # 0x1008"},
    {64, "41 ff d3", "call r11"},
    {32, "ea 78 56 34 12 08 00", "jmp far 0x8:0x12345678"},
    {64, "48 cb", "retfq"},
    {64, "48 cf", "iretq"},
    {64, "67 e3 00", "jecxz 0x1003"},
    {64, "0f 05", "syscall"},
    /* strings and ports */
    {64, "f3 48 a5", "rep movsq qword ptr es:[rdi], qword ptr [rsi]"},
    {64, "f2 ae", "repne scasb al, byte ptr es:[rdi]"},
    {16, "f3 67 26 a4", "rep movsb byte ptr es:[edi], byte ptr es:[esi]"},
    {64, "48 ed", "in eax, dx"},
    {64, "e6 80", "out 0x80, al"},
    /* system */
    {64, "0f 20 d8", "mov rax, cr3"},
    {64, "44 0f 22 c0", "mov cr8, rax"},
    {32, "f0 0f 22 c0", "mov cr8, eax"},
    {64, "0f 01 f8", "swapgs"},
    {32, "0f 01 f8", NULL},
    {64, "66 0f 01 15 00 00 00 00", "lgdt tbyte ptr [rip]  # 0x1008"},
    {64, "48 0f ae 07", "fxsave64 [rdi]"},
    {64, "f3 48 0f ae c1", "rdfsbase rcx"},
    {64, "66 0f 38 82 06", "invpcid rax, xmmword ptr [rsi]"},
    {64, "8c d8", "mov eax, ds"},
    {64, "8e c8", NULL}, /* MOV CS */
    /* x87, MMX, SSE */
    {64, "d8 c1", "fadd st(0), st(1)"},
    {64, "dd 45 f0", "fld qword ptr [rbp-0x10]"},
    {64, "df e0", "fnstsw ax"},
    {64, "0f fe c1", "paddd mm0, mm1"},
    {64, "66 0f fe 01", "paddd xmm0, xmmword ptr [rcx]"},
    {64, "f2 0f 10 01", "movsd xmm0, qword ptr [rcx]"},
    {64, "66 f2 0f 10 01", "movsd xmm0, qword ptr [rcx]"},
    {64, "f3 0f 7e c1", "movq xmm0, xmm1"},
    {64, "66 48 0f 6e c0", "movq xmm0, rax"},
    {64, "66 0f 3a 0f c1 08", "palignr xmm0, xmm1, 0x8"},
    {64, "f3 0f 14 c1", NULL}, /* no F3 form of UNPCKLPS */
    /* VEX */
    {64, "c5 fd fe 01", "vpaddd ymm0, ymm0, ymmword ptr [rcx]"},
    {64, "c4 c1 7a 58 c1", "vaddss xmm0, xmm0, xmm9"},
    {64, "c4 e2 f9 99 c1", "vfmadd132sd xmm0, xmm0, xmm1"},
    {64, "c4 e2 71 90 04 a0", "vpgatherdd xmm0, dword ptr [rax+xmm4*4], xmm1"},
    {64, "c4 e2 71 90 04 88", NULL}, /* index is the mask */
    {64, "c4 e2 f3 f5 d0", "pdep rdx, rcx, rax"},
    {64, "c5 f8 77", "vzeroupper"},
    {32, "c5 f8 77", "vzeroupper"},
    {32, "c5 00", "lds eax, fword ptr [eax]"},
    {64, "66 c5 f8 77", NULL}, /* 66 before VEX */
    {64, "c5 f0 77", NULL},    /* vvvv where none is used: xmm1 */
    /* REX counts only directly before the opcode; LOCK only where allowed */
    {64, "48 66 01 d8", "add ax, bx"},
    {64, "f0 01 d8", NULL},
    {64, "f0 8b 00", NULL},
    {64, "0f 0b", "ud2"},
    {64, "06", NULL},
    {64, "62 f1 7c 48 58 c1", NULL}, /* EVEX */
};

static size_t parse_hex(const char *hex, uint8_t *bytes)
{
    size_t n = 0;

    while (*hex) {
        char *end;

        bytes[n++] = strtoul(hex, &end, 16);
        hex = *end ? end + 1 : end;
    }
    return n;
}

static void decode_and_format_samples(void)
{
    for (unsigned k = 0; k < ARRAY_LEN(samples); k++) {
        const struct sample *s = &samples[k];
        struct x86_insn insn;
        uint8_t bytes[16];
        size_t n = parse_hex(s->hex, bytes);
        int len = x86_decode(&insn, bytes, n, s->mode);
        char text[96] = "";

        g_test_message("%u: %s", s->mode, s->hex);
        if (!s->text) {
            g_assert_cmpint(len, ==, X86_DECODE_UD);
            continue;
        }
        g_assert_cmpint(len, ==, n);
        g_assert_cmpuint(insn.len, ==, n);
        x86_format(&insn, 0x1000, text, sizeof(text));
        g_assert_cmpstr(text, ==, s->text);
    }
}

/* Cut anywhere, an instruction asks for more; its bytes behind avail do not count. */
static void decode_wants_more_bytes(void)
{
    for (unsigned k = 0; k < ARRAY_LEN(samples); k++) {
        const struct sample *s = &samples[k];
        struct x86_insn insn;
        uint8_t bytes[16];
        size_t n = parse_hex(s->hex, bytes);

        for (size_t cut = 0; s->text && cut < n; cut++) {
            g_autofree uint8_t *exact = g_memdup2(bytes, cut);

            g_test_message("%u: %s cut at %zu", s->mode, s->hex, cut);
            g_assert_cmpint(x86_decode(&insn, exact, cut, s->mode), ==,
                            X86_DECODE_MORE);
        }
    }
}

static void decode_refuses_more_than_15_bytes(void)
{
    static const uint8_t nop15[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                      0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    static const uint8_t add16[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                      0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x04, 0x01};
    struct x86_insn insn;

    g_assert_cmpint(x86_decode(&insn, nop15, 16, 64), ==, 15);
    g_assert_cmpint(x86_decode(&insn, add16, 16, 64), ==, X86_DECODE_GP);
    g_assert_cmpint(x86_decode(&insn, add16, 14, 64), ==, X86_DECODE_MORE);
}

static void decode_one(struct x86_insn *insn, const char *hex)
{
    uint8_t bytes[16];
    size_t n = parse_hex(hex, bytes);

    g_assert_cmpint(x86_decode(insn, bytes, n, 64), ==, n);
}

static void decode_resolves_segments(void)
{
    static const struct {
        const char *hex;
        unsigned seg;
    } cases[] = {
        {"8b 00", X86_DS},       {"8b 45 00", X86_SS},    {"8b 04 24", X86_SS},
        {"41 8b 45 00", X86_DS}, {"65 8b 45 00", X86_GS}, {"8b 05 00 00 00 00", X86_DS},
        {"8b 44 25 00", X86_SS}, {"a4", X86_DS},          {"64 a4", X86_FS},
        {"64 2e 8b 00", X86_FS},
    };

    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct x86_insn insn;

        decode_one(&insn, cases[k].hex);
        g_assert_cmpuint(insn.seg, ==, cases[k].seg);
    }
}

static void rows_tell_flags_and_registers(void)
{
    struct x86_insn insn;
    uint16_t rd, wr;

    decode_one(&insn, "48 11 08"); /* adc [rax], rcx */
    g_assert_cmphex(x86_insn_flags_read(&insn), ==, X86_FL_CF);
    g_assert_cmphex(x86_insn_desc(&insn)->flags_written, ==, X86_FL_ARITH);
    g_assert_true(x86_insn_desc(&insn)->props & X86_D_LOCK);
    g_assert_cmpuint(insn.opnd[0].access, ==, X86_ACC_R | X86_ACC_W);
    x86_insn_gprs(&insn, &rd, &wr);
    g_assert_cmphex(rd, ==, 1 << X86_RAX | 1 << X86_RCX);
    g_assert_cmphex(wr, ==, 0);

    decode_one(&insn, "7f 00"); /* jg */
    g_assert_cmphex(x86_insn_flags_read(&insn), ==, X86_FL_ZF | X86_FL_SF | X86_FL_OF);
    g_assert_true(x86_insn_desc(&insn)->props & X86_D_END);

    decode_one(&insn, "f3 a4"); /* rep movsb */
    x86_insn_gprs(&insn, &rd, &wr);
    g_assert_cmphex(rd, ==, 1 << X86_RCX | 1 << X86_RSI | 1 << X86_RDI);
    g_assert_cmphex(wr, ==, rd);

    decode_one(&insn, "f7 f1"); /* div ecx */
    x86_insn_gprs(&insn, &rd, &wr);
    g_assert_cmphex(rd, ==, 1 << X86_RAX | 1 << X86_RCX | 1 << X86_RDX);
    g_assert_cmphex(wr, ==, 1 << X86_RAX | 1 << X86_RDX);

    decode_one(&insn, "0f 30"); /* wrmsr */
    g_assert_cmpuint(x86_insn_desc(&insn)->priv, ==, X86_PRIV_CPL0);
    decode_one(&insn, "0f 28 00"); /* movaps */
    g_assert_true(x86_insn_desc(&insn)->props & X86_D_ALIGN);
    decode_one(&insn, "0f 58 00"); /* addps */
    g_assert_true(x86_insn_desc(&insn)->props & X86_D_SSEMEM);
    decode_one(&insn, "0f 10 00"); /* movups */
    g_assert_false(x86_insn_desc(&insn)->props & (X86_D_SSEMEM | X86_D_ALIGN));
}

/* Every mnemonic is reachable: no name without a row. */
static void every_op_has_a_row(void)
{
    g_autofree bool *seen = g_new0(bool, X86_NB_OPS);

    for (unsigned k = 0; k < x86_desc_count(); k++) {
        seen[x86_desc_get(k)->op] = true;
    }
    for (unsigned op = 1; op < X86_NB_OPS; op++) {
        g_test_message("%s", x86_op_name(op));
        g_assert_true(seen[op]);
    }
}

static void format_cuts_to_the_buffer(void)
{
    struct x86_insn insn;
    char text[8];

    decode_one(&insn, "48 01 d8");
    memset(text, 'x', sizeof(text));
    g_assert_cmpuint(x86_format(&insn, 0, text, 6), ==, strlen("add rax, rbx"));
    g_assert_cmpstr(text, ==, "add r");
    g_assert_cmpuint(x86_format(&insn, 0, NULL, 0), ==, strlen("add rax, rbx"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/samples", decode_and_format_samples);
    g_test_add_func("/decode/more", decode_wants_more_bytes);
    g_test_add_func("/decode/15_bytes", decode_refuses_more_than_15_bytes);
    g_test_add_func("/decode/segments", decode_resolves_segments);
    g_test_add_func("/decode/rows", rows_tell_flags_and_registers);
    g_test_add_func("/decode/every_op", every_op_has_a_row);
    g_test_add_func("/decode/format_cuts", format_cuts_to_the_buffer);
    return g_test_run();
}
