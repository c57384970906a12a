#ifndef LIB_ISA_X86_REGS_H
#define LIB_ISA_X86_REGS_H

/*
 * The numbers that instructions and the CPU state share: general registers,
 * segment registers and the bits of rFLAGS. Spec: AMD64 APM volume 1, 2.5 and
 * 3.1; Intel SDM volume 1, 3.4.
 */

/* General registers, by the number that ModRM, SIB and REX encode. */
enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    X86_NB_GPR,
};

/* Segment registers, by encoding (ModRM.reg of MOV Sreg). */
enum x86_seg {
    X86_ES,
    X86_CS,
    X86_SS,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_NB_SEG,
};

#define X86_FL_CF   0x00000001u /* carry */
#define X86_FL_R1   0x00000002u /* always one */
#define X86_FL_PF   0x00000004u /* parity of the low byte */
#define X86_FL_AF   0x00000010u /* carry out of bit 3 */
#define X86_FL_ZF   0x00000040u /* zero */
#define X86_FL_SF   0x00000080u /* sign */
#define X86_FL_TF   0x00000100u /* trap after each instruction */
#define X86_FL_IF   0x00000200u /* interrupts enabled */
#define X86_FL_DF   0x00000400u /* string operations go down */
#define X86_FL_OF   0x00000800u /* signed overflow */
#define X86_FL_IOPL 0x00003000u /* I/O privilege level, two bits */
#define X86_FL_NT   0x00004000u /* nested task */
#define X86_FL_RF   0x00010000u /* resume: no instruction breakpoint */
#define X86_FL_VM   0x00020000u /* virtual-8086 mode */
#define X86_FL_AC   0x00040000u /* alignment check, SMAP override */
#define X86_FL_VIF  0x00080000u /* virtual interrupt flag */
#define X86_FL_VIP  0x00100000u /* virtual interrupt pending */
#define X86_FL_ID   0x00200000u /* CPUID is there */

/* The six that arithmetic writes. */
#define X86_FL_ARITH \
    (X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF)

#endif
