#ifndef LIB_ISA_X86_OPSPEC_H
#define LIB_ISA_X86_OPSPEC_H

/*
 * How the rows of the opcode table name operands: where an operand is encoded and
 * how wide it is. The *.tab files write both as one word, "Ev" is encoding E with
 * width v; the letters are those of AMD's and Intel's opcode maps where they have
 * one. Who makes instructions from rows (the instruction fuzzer) reads this.
 */

/* clang-format off */
#define X86_ENCS(F)                                                               \
    F(NONE)                                                                       \
    F(E)    /* ModRM.rm: general register or memory */                            \
    F(G)    /* ModRM.reg: general register */                                     \
    F(M)    /* ModRM.rm: memory */                                                \
    F(R)    /* ModRM.rm: general register */                                      \
    F(B)    /* VEX.vvvv: general register */                                      \
    F(Z)    /* low three bits of the opcode: general register */                  \
    F(RAX) F(RCX) F(RDX)                                                          \
    F(I)    /* immediate, zero-extended */                                        \
    F(IS)   /* immediate, sign-extended */                                        \
    F(I2)   /* second immediate byte: insn.imm2 */                                \
    F(ONE)  /* the constant 1 */                                                  \
    F(J)    /* relative branch */                                                 \
    F(FAR)  /* far pointer */                                                     \
    F(O)    /* absolute address of address size */                                \
    F(S)    /* ModRM.reg: segment register */                                     \
    F(ES) F(CS) F(SS) F(DS) F(FS) F(GS)                                           \
    F(C)    /* ModRM.reg: control register */                                     \
    F(C8)   /* ModRM.reg 0: CR8, the LOCK MOV CR0 form */                         \
    F(D)    /* ModRM.reg: debug register */                                       \
    F(X) F(Y) /* string source, destination */                                    \
    F(ST0) F(STI) /* top of the x87 stack; ModRM.rm */                            \
    F(P)    /* ModRM.reg: MMX */                                                  \
    F(Q)    /* ModRM.rm: MMX or memory */                                         \
    F(N)    /* ModRM.rm: MMX */                                                   \
    F(V)    /* ModRM.reg: XMM or YMM */                                           \
    F(W)    /* ModRM.rm: XMM, YMM or memory */                                    \
    F(U)    /* ModRM.rm: XMM or YMM */                                            \
    F(H)    /* VEX.vvvv: XMM or YMM */                                            \
    F(L)    /* high four bits of the last immediate byte: XMM or YMM */           \
    F(XMM0)

#define X86_WIDTHS(X)                                                             \
    X(_)                  /* 0: no data, or no fixed size */                      \
    X(b) X(w) X(d) X(q)   /* 1, 2, 4, 8 bytes */                                  \
    X(dq) X(qq) X(ten)    /* 16, 32, 10 */                                        \
    X(v)                  /* operand size: 2, 4, 8 */                             \
    X(z)                  /* the same, but 4 for 8 */                             \
    X(y)                  /* 8 with W in 64-bit mode, else 4; ignores 66 */       \
    X(t)                  /* 8 in 64-bit mode, else 4 */                          \
    X(a)                  /* address size */                                      \
    X(d64)                /* v, but 8 for 4 in 64-bit mode (stack, near branch) */ \
    X(s)                  /* descriptor table: 10 in 64-bit mode, else 6 */       \
    X(p)                  /* far pointer in memory: 4, else 6 */                  \
    X(bnd)                /* two of v */                                          \
    X(x)                  /* vector: 32 with VEX.L, else 16 */                    \
    X(h) X(f) X(e)        /* half, quarter, eighth of x */                        \
    X(dup)                /* MOVDDUP: 32 with VEX.L, else 8 */                    \
    X(env)                /* x87 environment: 28, 14 with 16-bit operands */      \
    X(fsave)              /* x87 state: 108, 94 */
/* clang-format on */

#define X86_ENC_ENUM(id) X86_ENC_##id,
enum x86_enc { X86_ENCS(X86_ENC_ENUM) X86_NB_ENCS };

#define X86_WIDTH_ENUM(id) X86_WIDTH_##id,
enum x86_width { X86_WIDTHS(X86_WIDTH_ENUM) X86_NB_WIDTHS };

#endif
