#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/insn.h"

/*
 * The decoder's promises on any bytes: it never reads past what it is given, needs
 * exactly the bytes it says it used, and its text fits where the header says so.
 * The first byte chooses the mode, the rest is code.
 */

#define MUST(x)               \
    do {                      \
        if (!(x)) {           \
            __builtin_trap(); \
        }                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A copy without a byte to spare, for the sanitizer to guard. */
static int decode_exact(struct x86_insn *insn, const uint8_t *code, size_t len,
                        unsigned mode)
{
    g_autofree uint8_t *copy = g_memdup2(code, len);

    return x86_decode(insn, copy, len, mode);
}

static void check_insn(const struct x86_insn *insn, const uint8_t *code, unsigned mode)
{
    struct x86_insn again;
    char text[96];
    uint16_t rd, wr;

    MUST(insn->len >= 1 && insn->len <= X86_INSN_MAX_LEN);
    MUST(insn->op > X86_OP_INVALID && insn->op < X86_NB_OPS);
    MUST(insn->desc < x86_desc_count() && insn->nb_opnds <= ARRAY_LEN(insn->opnd));
    MUST(insn->base < X86_NB_GPR || insn->base >= X86_REG_RIP);
    MUST(insn->index < X86_NB_GPR || insn->index == X86_REG_NONE);
    MUST(insn->seg < X86_NB_SEG);
    MUST(x86_format(insn, 0x1000, text, sizeof(text)) < sizeof(text));
    x86_insn_gprs(insn, &rd, &wr);

    MUST(decode_exact(&again, code, insn->len, mode) == insn->len);
    MUST(memcmp(insn, &again, sizeof(again)) == 0);
    MUST(decode_exact(&again, code, insn->len - 1, mode) == X86_DECODE_MORE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const uint8_t modes[4] = {16, 32, 64, 64};

    if (len < 2) {
        return 0;
    }
    unsigned mode = modes[data[0] & 3];

    for (size_t at = 1; at < len;) {
        struct x86_insn insn;
        int n = decode_exact(&insn, data + at, MIN(len - at, 64), mode);

        if (n > 0) {
            MUST((size_t)n <= len - at);
            check_insn(&insn, data + at, mode);
        }
        at += n > 0 ? n : 1;
    }
    return 0;
}
