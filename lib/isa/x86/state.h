#ifndef LIB_ISA_X86_STATE_H
#define LIB_ISA_X86_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/isa/x86/regs.h"

/*
 * The canonical state of one x86 CPU: what every accelerator gives and takes, what
 * is saved and migrated, and what debuggers see. Plain data, no pointers.
 *
 * Names and layouts follow the AMD64 Architecture Programmer's Manual (APM) vol. 2
 * and the Intel SDM vol. 3.
 */

/* CR0 (APM 2 3.1.1), CR4 (3.1.3), EFER (3.1.7). */
#define X86_CR0_PE (UINT64_C(1) << 0)
#define X86_CR0_MP (UINT64_C(1) << 1)
#define X86_CR0_EM (UINT64_C(1) << 2)
#define X86_CR0_TS (UINT64_C(1) << 3)
#define X86_CR0_ET (UINT64_C(1) << 4)
#define X86_CR0_NE (UINT64_C(1) << 5)
#define X86_CR0_WP (UINT64_C(1) << 16)
#define X86_CR0_AM (UINT64_C(1) << 18)
#define X86_CR0_NW (UINT64_C(1) << 29)
#define X86_CR0_CD (UINT64_C(1) << 30)
#define X86_CR0_PG (UINT64_C(1) << 31)

#define X86_CR4_VME        (UINT64_C(1) << 0)
#define X86_CR4_PVI        (UINT64_C(1) << 1)
#define X86_CR4_TSD        (UINT64_C(1) << 2)
#define X86_CR4_DE         (UINT64_C(1) << 3)
#define X86_CR4_PSE        (UINT64_C(1) << 4)
#define X86_CR4_PAE        (UINT64_C(1) << 5)
#define X86_CR4_MCE        (UINT64_C(1) << 6)
#define X86_CR4_PGE        (UINT64_C(1) << 7)
#define X86_CR4_PCE        (UINT64_C(1) << 8)
#define X86_CR4_OSFXSR     (UINT64_C(1) << 9)
#define X86_CR4_OSXMMEXCPT (UINT64_C(1) << 10)
#define X86_CR4_UMIP       (UINT64_C(1) << 11)
#define X86_CR4_LA57       (UINT64_C(1) << 12)
#define X86_CR4_FSGSBASE   (UINT64_C(1) << 16)
#define X86_CR4_PCIDE      (UINT64_C(1) << 17)
#define X86_CR4_OSXSAVE    (UINT64_C(1) << 18)
#define X86_CR4_SMEP       (UINT64_C(1) << 20)
#define X86_CR4_SMAP       (UINT64_C(1) << 21)
#define X86_CR4_PKE        (UINT64_C(1) << 22)

#define X86_EFER_SCE   (UINT64_C(1) << 0)
#define X86_EFER_LME   (UINT64_C(1) << 8)
#define X86_EFER_LMA   (UINT64_C(1) << 10)
#define X86_EFER_NXE   (UINT64_C(1) << 11)
#define X86_EFER_SVME  (UINT64_C(1) << 12)
#define X86_EFER_FFXSR (UINT64_C(1) << 14)

/* Exception vectors (APM 2 8.1). */
enum x86_vector {
    X86_EXC_DE = 0,
    X86_EXC_DB = 1,
    X86_EXC_NMI = 2,
    X86_EXC_BP = 3,
    X86_EXC_OF = 4,
    X86_EXC_BR = 5,
    X86_EXC_UD = 6,
    X86_EXC_NM = 7,
    X86_EXC_DF = 8,
    X86_EXC_TS = 10,
    X86_EXC_NP = 11,
    X86_EXC_SS = 12,
    X86_EXC_GP = 13,
    X86_EXC_PF = 14,
    X86_EXC_MF = 16,
    X86_EXC_AC = 17,
    X86_EXC_MC = 18,
    X86_EXC_XM = 19,
};

/* Page-fault error code (APM 2 8.2.15). */
enum {
    X86_PF_P = 1 << 0, /* protection, not a missing page */
    X86_PF_W = 1 << 1,
    X86_PF_U = 1 << 2,
    X86_PF_RSV = 1 << 3,
    X86_PF_I = 1 << 4,
};

/*
 * A segment register with its hidden part. attr holds the descriptor's bits 40-55
 * (APM 2 4.7): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15; bits 8-11
 * are 0. limit is in bytes, already scaled by G.
 */
struct x86_segment {
    uint16_t sel;
    uint16_t attr;
    uint32_t limit;
    uint64_t base;
};

enum {
    X86_SEG_TYPE = 0xf,
    X86_SEG_ACCESSED = 1 << 0,
    X86_SEG_RW = 1 << 1,   /* writable data / readable code */
    X86_SEG_DOWN = 1 << 2, /* expand-down data / conforming code */
    X86_SEG_CODE = 1 << 3,
    X86_SEG_S = 1 << 4, /* code or data, not system */
    X86_SEG_DPL_SHIFT = 5,
    X86_SEG_P = 1 << 7,
    X86_SEG_AVL = 1 << 12,
    X86_SEG_L = 1 << 13,
    X86_SEG_DB = 1 << 14,
    X86_SEG_G = 1 << 15,
};

/* System-segment types in legacy and long mode (APM 2 4.7.4, 4.8.3). */
enum {
    X86_SYS_TSS16 = 1,
    X86_SYS_LDT = 2,
    X86_SYS_TSS16_BUSY = 3,
    X86_SYS_CALL16 = 4,
    X86_SYS_TASK = 5,
    X86_SYS_INT16 = 6,
    X86_SYS_TRAP16 = 7,
    X86_SYS_TSS = 9,
    X86_SYS_TSS_BUSY = 11,
    X86_SYS_CALL = 12,
    X86_SYS_INT = 14,
    X86_SYS_TRAP = 15,
};

struct x86_dtable {
    uint64_t base;
    uint16_t limit;
};

/* Components of XCR0 / the XSAVE area that Lodge knows. */
#define X86_XCR0_X87 (UINT64_C(1) << 0)
#define X86_XCR0_SSE (UINT64_C(1) << 1)
#define X86_XCR0_AVX (UINT64_C(1) << 2)

/* What a CPU that does not execute is waiting for. */
enum x86_activity {
    X86_ACTIVE,
    X86_HALTED,    /* HLT: until an unmasked interrupt, NMI, INIT */
    X86_WAIT_SIPI, /* after INIT on a secondary CPU */
    X86_SHUTDOWN,  /* triple fault */
};

struct x86_fpu {
    uint16_t fcw, fsw; /* control and status word; TOP in fsw 11-13 */
    uint8_t ftw;       /* abridged tag word: bit i set = physical register i in use */
    uint16_t fop;      /* last opcode, 11 bits */
    uint64_t fip, fdp; /* last instruction and data pointer */
    /* Stack order: st[0] is ST(0); 80-bit values in the low 10 bytes. */
    _Alignas(16) uint8_t st[8][16];
    uint32_t mxcsr;
    _Alignas(32) uint8_t ymm[16][32]; /* low half: XMM; high half: bits 128-255 */
};

struct x86_state {
    uint64_t gpr[X86_NB_GPR];
    uint64_t rip;
    uint64_t rflags;

    struct x86_segment seg[X86_NB_SEG];
    struct x86_segment ldtr, tr;
    struct x86_dtable gdtr, idtr;
    uint8_t cpl;

    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t dr[8]; /* 4 and 5 unused */
    uint64_t efer;
    uint64_t xcr0, xss;

    struct {
        uint64_t star, lstar, cstar, sfmask;
        uint64_t kernel_gs_base;
        uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
        uint64_t tsc_aux;
        int64_t tsc_offset; /* guest TSC = vm_clock_tsc() + this */
        uint64_t pat;
        uint64_t misc_enable;
        uint64_t mtrr_def_type;
        uint64_t mtrr_fixed[11];
        uint64_t mtrr_var[8][2]; /* base, mask */
        uint64_t debugctl;
        uint64_t spec_ctrl;
    } msr;

    struct x86_fpu fpu;

    enum x86_activity activity;
    bool a20_low;     /* told, not set: the board holds bit 20 of addresses low */
    bool int_shadow;  /* the instruction after STI or MOV SS */
    bool nmi_blocked; /* between an NMI and its IRET */
    struct {
        bool pending; /* an event being delivered when the state was taken */
        bool has_error;
        bool is_soft;
        uint8_t vector;
        uint32_t error;
    } event;
};

/*
 * Fill @s with the state after power-on or RESET (APM 2 table 14-1), or, with @init,
 * after INIT, which keeps FPU, MTRR and most MSRs. @signature: CPUID 1 EAX, in RDX.
 */
void x86_state_reset(struct x86_state *s, uint32_t signature, bool init);

/* Bits of code size, 16, 32 or 64, of the state's mode and CS. */
unsigned x86_state_code_bits(const struct x86_state *s);

/*
 * Write the registers as text, in the layout of QEMU's "info registers". @parts beside
 * the integer and system registers: x87 and vector registers; how the arithmetic flags
 * are kept, a line of QEMU's logs.
 */
enum { X86_DUMP_FPU = 1 << 0, X86_DUMP_CC = 1 << 1 };

void x86_state_dump(const struct x86_state *s, unsigned parts, FILE *out);

#endif
