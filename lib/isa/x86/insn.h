#ifndef LIB_ISA_X86_INSN_H
#define LIB_ISA_X86_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/isa/x86/feat.h"
#include "lib/isa/x86/ops.h"
#include "lib/isa/x86/regs.h"

/*
 * One x86 instruction, decoded: what everybody who looks at guest code shares (the
 * interpreter, the translator, the disassembler, the MMIO emulator, the instruction
 * fuzzer).
 *
 *     struct x86_insn i;
 *     int len = x86_decode(&i, bytes, nb_bytes, 64);
 *     if (len > 0) {
 *         switch (i.op) {
 *         case X86_OP_ADD:   // i.opnd[0] += i.opnd[1], i.opsize bytes
 *
 * What is written in the bytes of one instruction is in struct x86_insn; what is
 * true of every instruction of that form (flags, privilege, feature, implicit
 * registers) is in its row of the opcode table, x86_insn_desc(). The rows are
 * written in the *.tab files of this folder, one line per opcode form.
 *
 * Where AMD's and Intel's processors decode the same bytes differently the result
 * is AMD's: a 66h prefix makes near branches 16 bits wide in 64-bit mode, REX.W
 * leaves far pointers in memory 16:32, LOCK MOV CR0 is MOV CR8 (feature cr8legacy),
 * PREFETCH of a register is #UD. EVEX, XOP and 3DNow! are not known: #UD. The
 * opcodes of MPX and of CET's shadow stack are the NOPs they are without these.
 *
 * Nothing here allocates, keeps state or touches CPU state; every function may be
 * called from any thread.
 *
 * Spec: AMD64 APM volumes 3, 4, 5; Intel SDM volume 2.
 */

/* Returned by x86_decode(). */
enum {
    X86_DECODE_MORE = -1, /* the instruction goes on after the last byte given     */
    X86_DECODE_UD = -2,   /* no such encoding, or LOCK where it may not be: #UD    */
    X86_DECODE_GP = -3,   /* longer than 15 bytes: #GP(0)                          */
};

#define X86_INSN_MAX_LEN 15

/* Prefixes and encoding, the bits of insn.prefixes. */
enum {
    X86_P_LOCK = 1 << 0,   /* F0, and the instruction allows it here               */
    X86_P_REP = 1 << 1,    /* F3 is there and came after any F2. A prefix only for
                              string operations (REP, REPE); otherwise part of the
                              opcode or without effect                             */
    X86_P_REPNE = 1 << 2,  /* F2 is there and came after any F3                    */
    X86_P_OPSIZE = 1 << 3, /* 66 (already in opsize)                               */
    X86_P_ADSIZE = 1 << 4, /* 67 (already in addrsize)                             */
    X86_P_SEG = 1 << 5,    /* a segment override that counts (already in seg)      */
    X86_P_REX = 1 << 6,    /* a REX prefix that counts (already in the registers)  */
    X86_P_VEX = 1 << 7,    /* VEX-encoded                                          */
    X86_P_W = 1 << 8,      /* REX.W or VEX.W                                       */
    X86_P_R = 1 << 9,      /* REX.R or VEX.R, as extension: not inverted           */
    X86_P_X = 1 << 10,
    X86_P_B = 1 << 11,
    X86_P_L = 1 << 12,     /* VEX.L                                                */
    X86_P_MODRM = 1 << 13, /* insn.modrm is there                                  */
};

enum x86_opnd_kind {
    X86_OPND_NONE,
    X86_OPND_REG, /* general register, opnd.reg and opnd.size                      */
    X86_OPND_MEM, /* memory at insn.{seg,base,index,scale,disp,addrsize}. Also the
                     moffs forms of MOV (base and index none)                      */
    X86_OPND_IMM, /* insn.imm; the second one of ENTER is insn.imm2                */
    X86_OPND_REL, /* relative branch: insn.imm, see x86_branch_target()            */
    X86_OPND_FAR, /* far pointer insn.imm2:insn.imm                                */
    X86_OPND_SRC, /* string source, insn.seg:[rSI], addrsize wide                  */
    X86_OPND_DST, /* string destination, ES:[rDI], addrsize wide                   */
    X86_OPND_SEG, /* segment register, enum x86_seg                                */
    X86_OPND_CR,
    X86_OPND_DR,
    X86_OPND_ST, /* x87 register ST(reg), relative to TOP                         */
    X86_OPND_MMX,
    X86_OPND_XMM,
    X86_OPND_YMM,
    X86_NB_OPND_KINDS,
};

enum { X86_ACC_R = 1, X86_ACC_W = 2 };

/* opnd.reg of byte registers AH, CH, DH, BH: 16 + the register they are in. */
#define X86_REG_HIGH 16
#define X86_AH       (X86_REG_HIGH + X86_RAX)
#define X86_CH       (X86_REG_HIGH + X86_RCX)
#define X86_DH       (X86_REG_HIGH + X86_RDX)
#define X86_BH       (X86_REG_HIGH + X86_RBX)

/* insn.base and insn.index. */
#define X86_REG_NONE 0xff
#define X86_REG_RIP  0xfe /* base only: the address of the next instruction */

/*
 * One explicit operand, in Intel's order (destination first).
 *
 * size is in bytes what the instruction reads or writes there: 4 for the XMM
 * register of ADDSS, 16 for that of ADDPS. 0 where there is no data (LEA, INVLPG,
 * NOP, PREFETCH) or the size is not fixed (FXSAVE and XSAVE areas).
 * access is X86_ACC_R, X86_ACC_W, both, or 0 for an address that is only computed.
 * A 32-bit write to a general register zeroes its upper half in 64-bit mode, always.
 */
struct x86_opnd {
    uint8_t kind;
    uint8_t reg;
    uint8_t size;
    uint8_t access;
};

struct x86_insn {
    /*
     * Immediate, sign-extended as the instruction means it: 83h's byte is
     * sign-extended, a shift count or a port number is not. Truncate to the
     * operand's size where it is narrower. Also displacement of a branch (signed)
     * and offset of a far pointer (unsigned).
     */
    int64_t imm;
    /* Of the memory operand, sign-extended; add it and truncate to addrsize. */
    int64_t disp;
    struct x86_opnd opnd[4];
    uint16_t imm2;     /* ENTER's nesting level; selector of a far pointer         */
    uint16_t op;       /* enum x86_op                                              */
    uint16_t desc;     /* row of the table, for x86_desc_get()                     */
    uint16_t prefixes; /* X86_P_*                                                  */
    uint8_t len;       /* 1..15                                                    */
    uint8_t mode;      /* 16, 32, 64, as given to x86_decode()                     */
    uint8_t opsize;    /* effective operand size in bytes: 1 for byte forms, 2, 4,
                          8 (push, pop, near branches: 8 in 64-bit mode)           */
    uint8_t addrsize;  /* effective address size in bytes: 2, 4, 8                 */
    uint8_t seg;       /* of MEM, SRC, XLAT, MASKMOV: enum x86_seg, defaults and
                          overrides resolved; in 64-bit mode only FS and GS have a
                          base, SS still tells #SS from #GP                        */
    uint8_t base;      /* general register, X86_REG_NONE or X86_REG_RIP            */
    uint8_t index;     /* general register or X86_REG_NONE; vector register where
                          the row says X86_D_VSIB                                  */
    uint8_t scale;     /* 1, 2, 4, 8                                               */
    uint8_t cc;        /* condition 0..15 of JCC, SETCC, CMOVCC, as encoded        */
    uint8_t nb_opnds;
    uint8_t opcode;    /* the last opcode byte                                     */
    uint8_t modrm;     /* raw, with X86_P_MODRM                                    */
    uint8_t imm_size;  /* bytes of immediate in the encoding                       */
    uint8_t disp_size; /* bytes of displacement in the encoding                    */
};

_Static_assert(sizeof(struct x86_insn) <= 64, "one cache line");

/*
 * Decode the instruction at @bytes.
 *
 * @avail  how many bytes may be read; more than 15 are never needed
 * @mode   16, 32 or 64: CS.D and CS.L of the guest, not its operating mode
 *
 * Returns the length and fills @insn, or X86_DECODE_MORE (@avail < 15 bytes were
 * not enough: fetch from the next page and call again), X86_DECODE_UD or
 * X86_DECODE_GP, and then @insn is not valid. Encoding is all that is checked:
 * privilege, CPU features, and whether the operating mode has the instruction
 * (X86_D_PROT in real and VM86 mode) are the caller's.
 */
int x86_decode(struct x86_insn *insn, const uint8_t *bytes, size_t avail,
               unsigned mode);

/*
 * Intel-syntax text, lower case, as in "add qword ptr [rax+rcx*4+0x10], 0x5".
 *
 * @rip  the instruction's address, for branch targets and RIP-relative operands
 * @buf  @n bytes; always terminated when @n > 0, cut when too small (96 suffice)
 *
 * Returns the length of the whole text.
 */
size_t x86_format(const struct x86_insn *insn, uint64_t rip, char *buf, size_t n);

/* "add", "jcc", ... of an enum x86_op. */
const char *x86_op_name(unsigned op);

/* "eax", "ah", "r10w": @reg as in struct x86_opnd, @size 1, 2, 4, 8. */
const char *x86_gpr_name(unsigned reg, unsigned size);

/* Name (QEMU's) of an enum x86_feat; "" for X86_FEAT_NONE. */
const char *x86_feat_name(unsigned feat);

enum x86_class {
    X86_CLASS_INT,    /* integer and moves                                         */
    X86_CLASS_BRANCH, /* changes rIP: the end of a block, as X86_D_END             */
    X86_CLASS_STRING, /* the seven string operations, may have REP                 */
    X86_CLASS_SYSTEM,
    X86_CLASS_X87, /* CR0.EM or TS: #NM                                         */
    X86_CLASS_MMX, /* CR0.EM: #UD, TS: #NM; x87 state changes to MMX            */
    X86_CLASS_SSE, /* CR0.EM or !CR4.OSFXSR: #UD, TS: #NM                       */
    X86_CLASS_AVX, /* !CR4.OSXSAVE or XCR0 without SSE|AVX: #UD, TS: #NM. Writes
                      to an XMM register zero the rest of the YMM register      */
};

enum x86_priv {
    X86_PRIV_ANY,
    X86_PRIV_CPL0, /* #GP(0) when CPL is not 0                                     */
    X86_PRIV_IOPL, /* compares CPL with IOPL (CLI, STI, IN, OUT, INS, OUTS; PUSHF,
                      POPF, IRET, INT in VM86): the instruction tells how          */
    X86_PRIV_UMIP, /* #GP(0) when CPL is not 0 and CR4.UMIP                        */
    X86_PRIV_OWN,  /* its own rule (RDTSC: CR4.TSD, RDPMC: CR4.PCE, ...)           */
};

/* Properties of a row. */
enum {
    X86_D_END = 1 << 0,        /* ends a decoded block: rIP, mode, mapping, CPL, IF or
                                  traps may differ for the next instruction          */
    X86_D_LOCK = 1 << 1,       /* LOCK allowed with a memory destination             */
    X86_D_ALIGN = 1 << 2,      /* memory operand must be aligned to its size: #GP    */
    X86_D_SSEMEM = 1 << 3,     /* 16-byte SSE operand, aligned unless MXCSR.MM       */
    X86_D_VSIB = 1 << 4,       /* gather: insn.index is a vector register, YMM with
                                  X86_P_L, else XMM                                  */
    X86_D_PROT = 1 << 5,       /* #UD in real and virtual-8086 mode                  */
    X86_D_STACK = 1 << 6,      /* pushes or pops through SS:rSP                      */
    X86_D_FL_MAYBE = 1 << 7,   /* may leave all flags alone (shift by 0, REP with
                                  rCX 0): flags_written is not a must                */
    X86_D_IMPL_MEM = 1 << 8,   /* reads or writes memory that is no operand (XLAT,
                                  ENTER, MASKMOV, far loads, tables)                 */
    X86_D_FXU = 1 << 9,        /* may raise #XM (SSE, AVX) or #MF (x87)              */
    X86_D_FPU = 1 << 10,       /* touches x87, MMX, SSE or AVX state: CR0.TS is #NM   */
    X86_D_MMX = 1 << 11,       /* has an MMX operand: the x87 state becomes MMX       */
    X86_D_VSIB_HALF = 1 << 12, /* gather with 4-byte indices of 8-byte elements:
                                  insn.index is always XMM                         */
};

/* What selects a row besides opcode and ModRM: all must be in x86_desc.allow. */
enum {
    X86_A_NP = 1 << 0, /* none of 66, F2, F3                                       */
    X86_A_66 = 1 << 1, /* 66 and no F2, F3                                         */
    X86_A_F3 = 1 << 2,
    X86_A_F2 = 1 << 3,
    X86_A_W0 = 1 << 4,
    X86_A_W1 = 1 << 5,
    X86_A_L0 = 1 << 6,
    X86_A_L1 = 1 << 7,
    X86_A_MEM = 1 << 8, /* ModRM.mod is not 3                                      */
    X86_A_REG = 1 << 9, /* ModRM.mod is 3                                          */
    X86_A_16 = 1 << 10, /* in 16-bit code                                          */
    X86_A_32 = 1 << 11,
    X86_A_64 = 1 << 12,
    X86_A_LOCK = 1 << 13,   /* with LOCK. Without it is always allowed, but see     */
    X86_A_NOLOCK = 1 << 14, /* a few rows that exist only with LOCK                 */
    X86_A_B0 = 1 << 15,     /* REX.B clear                                          */
    X86_A_B1 = 1 << 16,
    X86_A_ALL = (1 << 17) - 1,
};

enum x86_map { /* also what bytes come before the opcode */
               X86_MAP_ONE,
               X86_MAP_0F,
               X86_MAP_0F38,
               X86_MAP_0F3A,
               X86_MAP_VEX1, /* VEX with map 1 (0F)   */
               X86_MAP_VEX2, /* VEX with map 2 (0F38) */
               X86_MAP_VEX3, /* VEX with map 3 (0F3A) */
               X86_NB_MAPS,
};

/*
 * How an operand is encoded and how wide it is: private to the decoder except for
 * those who make instructions (the fuzzer): see opspec.h for the codes.
 */
struct x86_opspec {
    uint8_t enc;    /* enum x86_enc   */
    uint8_t width;  /* enum x86_width */
    uint8_t access; /* X86_ACC_*      */
};

/* One opcode form: a row of the table. Constant, shared. */
struct x86_desc {
    uint16_t op;       /* enum x86_op                                              */
    uint8_t map;       /* enum x86_map                                             */
    uint8_t opcode;    /* the first one                                            */
    uint8_t nb_opcode; /* 1; 8: register in the low bits; 16: condition            */
    uint8_t has_modrm;
    uint8_t modrm_mask; /* which bits of ModRM are part of the opcode              */
    uint8_t modrm;      /* their value                                             */
    uint32_t allow;     /* X86_A_*                                                 */
    struct x86_opspec opnd[4];
    uint8_t nb_opnds;
    uint8_t size;   /* enum x86_width of opsize                                     */
    uint8_t feat;   /* enum x86_feat                                                */
    uint8_t cls;    /* enum x86_class                                               */
    uint8_t priv;   /* enum x86_priv                                                */
    uint16_t props; /* X86_D_*                                                     */
    uint32_t flags_read;    /* X86_FL_*; of JCC, SETCC, CMOVCC: all that any
                               condition reads, see x86_cc_flags()                 */
    uint32_t flags_written; /* to a defined value, constants included              */
    uint32_t flags_undef;   /* may change, to no defined value                     */
    uint16_t gpr_read;      /* implicit general registers, 1 << enum x86_gpr       */
    uint16_t gpr_written;
};

/* Number of rows; row @i, 0 <= i < count. For who walks over all instructions. */
unsigned x86_desc_count(void);
const struct x86_desc *x86_desc_get(unsigned i);

static inline const struct x86_desc *x86_insn_desc(const struct x86_insn *insn)
{
    return x86_desc_get(insn->desc);
}

/* Flags that condition @cc (0..15) reads. */
uint32_t x86_cc_flags(unsigned cc);

/* Flags that @insn reads: those of the row, or of the condition of JCC and so on. */
uint32_t x86_insn_flags_read(const struct x86_insn *insn);

/*
 * General registers read (address registers included) and written, wholly or
 * partly, as masks of 1 << enum x86_gpr; explicit and implicit ones.
 */
void x86_insn_gprs(const struct x86_insn *insn, uint16_t *ret_read,
                   uint16_t *ret_written);

/* Memory operand of @insn, or NULL. */
static inline const struct x86_opnd *x86_insn_mem(const struct x86_insn *insn)
{
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        if (insn->opnd[i].kind == X86_OPND_MEM) {
            return &insn->opnd[i];
        }
    }
    return NULL;
}

/* Where a relative branch at @rip goes: truncated to the operand size. */
static inline uint64_t x86_branch_target(const struct x86_insn *insn, uint64_t rip)
{
    uint64_t target = rip + insn->len + (uint64_t)insn->imm;
    return insn->opsize == 8   ? target
           : insn->opsize == 4 ? (uint32_t)target
                               : (uint16_t)target;
}

#endif
