#ifndef LIB_ISA_X86_OPS_H
#define LIB_ISA_X86_OPS_H

/*
 * The mnemonics, one list: X(ID, name). Families that differ only by a condition
 * or by a size are one entry: the condition of JCC, SETCC and CMOVCC is in
 * insn.cc, the size of CBW (cbw, cwde, cdqe), CWD (cwd, cdq, cqo), MOVS, IRET,
 * PUSHF... in insn.opsize, that of JCXZ in insn.addrsize. x86_format() prints the
 * name with its suffix. The far forms of JMP, CALL and RET are JMPF, CALLF, RETF.
 */

/* clang-format off */
#define X86_OPS(X)                                                                   \
    /* Integer arithmetic, logic and data movement */                                \
    X(ADD, "add") X(OR, "or") X(ADC, "adc") X(SBB, "sbb") X(AND, "and")              \
    X(SUB, "sub") X(XOR, "xor") X(CMP, "cmp") X(TEST, "test") X(INC, "inc")          \
    X(DEC, "dec") X(NEG, "neg") X(NOT, "not") X(MUL, "mul") X(IMUL, "imul")          \
    X(DIV, "div") X(IDIV, "idiv") X(MOV, "mov") X(MOVZX, "movzx") X(MOVSX, "movsx")  \
    X(MOVSXD, "movsxd") X(LEA, "lea") X(XCHG, "xchg") X(XADD, "xadd")                \
    X(CMPXCHG, "cmpxchg") X(CMPXCHG8B, "cmpxchg8b") X(CMPXCHG16B, "cmpxchg16b")      \
    X(BSWAP, "bswap") X(MOVBE, "movbe") X(MOVNTI, "movnti") X(PUSH, "push")          \
    X(POP, "pop") X(PUSHA, "pusha") X(POPA, "popa") X(PUSHF, "pushf")                \
    X(POPF, "popf") X(ENTER, "enter") X(LEAVE, "leave") X(CBW, "cbw") X(CWD, "cwd")  \
    X(LAHF, "lahf") X(SAHF, "sahf") X(ROL, "rol") X(ROR, "ror") X(RCL, "rcl")        \
    X(RCR, "rcr") X(SHL, "shl") X(SHR, "shr") X(SAR, "sar") X(SHLD, "shld")          \
    X(SHRD, "shrd") X(BT, "bt") X(BTS, "bts") X(BTR, "btr") X(BTC, "btc")            \
    X(BSF, "bsf") X(BSR, "bsr") X(LZCNT, "lzcnt") X(TZCNT, "tzcnt")                  \
    X(POPCNT, "popcnt") X(CRC32, "crc32") X(ADCX, "adcx") X(ADOX, "adox")            \
    X(SETCC, "setcc") X(CMOVCC, "cmovcc") X(CLC, "clc") X(STC, "stc") X(CMC, "cmc")  \
    X(CLD, "cld") X(STD, "std") X(NOP, "nop") X(PAUSE, "pause") X(XLAT, "xlat")      \
    X(SALC, "salc") X(DAA, "daa") X(DAS, "das") X(AAA, "aaa") X(AAS, "aas")          \
    X(AAM, "aam") X(AAD, "aad") X(BOUND, "bound") X(RDRAND, "rdrand")                \
    X(RDSEED, "rdseed") X(RDPID, "rdpid") X(CPUID, "cpuid") X(PREFETCH, "prefetch")  \
    X(PREFETCHW, "prefetchw")                                                        \
    X(PREFETCHNTA, "prefetchnta") X(PREFETCHT0, "prefetcht0")                        \
    X(PREFETCHT1, "prefetcht1") X(PREFETCHT2, "prefetcht2") X(CLFLUSH, "clflush")    \
    X(CLFLUSHOPT, "clflushopt") X(CLWB, "clwb") X(CLZERO, "clzero")                  \
    X(LFENCE, "lfence") X(MFENCE, "mfence")                                          \
    X(SFENCE, "sfence") X(SERIALIZE, "serialize") X(ENDBR32, "endbr32")              \
    X(ENDBR64, "endbr64") X(MOVDIRI, "movdiri") X(MOVDIR64B, "movdir64b")            \
    X(RDPRU, "rdpru") X(ANDN, "andn") X(BEXTR, "bextr") X(BLSI, "blsi")              \
    X(BLSMSK, "blsmsk") X(BLSR, "blsr") X(BZHI, "bzhi") X(MULX, "mulx")              \
    X(PDEP, "pdep") X(PEXT, "pext") X(RORX, "rorx") X(SARX, "sarx") X(SHLX, "shlx")  \
    X(SHRX, "shrx")                                                                  \
    /* Branches */                                                                   \
    X(JCC, "jcc") X(JMP, "jmp") X(JCXZ, "jcxz") X(LOOP, "loop") X(LOOPE, "loope")    \
    X(LOOPNE, "loopne") X(CALL, "call") X(RET, "ret") X(JMPF, "jmpf")                \
    X(CALLF, "callf") X(RETF, "retf") X(INT, "int") X(INT3, "int3") X(INT1, "int1")  \
    X(INTO, "into") X(IRET, "iret") X(SYSCALL, "syscall") X(SYSRET, "sysret")        \
    X(SYSENTER, "sysenter") X(SYSEXIT, "sysexit") X(UD0, "ud0") X(UD1, "ud1")        \
    X(UD2, "ud2")                                                                    \
    /* String and port operations */                                                 \
    X(MOVS, "movs") X(STOS, "stos") X(LODS, "lods") X(SCAS, "scas") X(CMPS, "cmps")  \
    X(INS, "ins") X(OUTS, "outs") X(IN, "in") X(OUT, "out")                          \
    /* System */                                                                     \
    X(CLI, "cli") X(STI, "sti") X(HLT, "hlt") X(LGDT, "lgdt") X(LIDT, "lidt")        \
    X(SGDT, "sgdt") X(SIDT, "sidt") X(LLDT, "lldt") X(SLDT, "sldt") X(LTR, "ltr")    \
    X(STR, "str") X(LMSW, "lmsw") X(SMSW, "smsw") X(CLTS, "clts") X(ARPL, "arpl")    \
    X(LAR, "lar") X(LSL, "lsl") X(VERR, "verr") X(VERW, "verw") X(LDS, "lds")        \
    X(LES, "les") X(LFS, "lfs") X(LGS, "lgs") X(LSS, "lss") X(INVD, "invd")          \
    X(WBINVD, "wbinvd") X(WBNOINVD, "wbnoinvd") X(INVLPG, "invlpg")                  \
    X(INVLPGA, "invlpga") X(INVPCID, "invpcid") X(RDMSR, "rdmsr") X(WRMSR, "wrmsr")  \
    X(RDPMC, "rdpmc") X(RDTSC, "rdtsc") X(RDTSCP, "rdtscp") X(SWAPGS, "swapgs")      \
    X(STAC, "stac") X(CLAC, "clac") X(RDPKRU, "rdpkru") X(WRPKRU, "wrpkru")          \
    X(RDFSBASE, "rdfsbase") X(RDGSBASE, "rdgsbase") X(WRFSBASE, "wrfsbase")          \
    X(WRGSBASE, "wrgsbase") X(MONITOR, "monitor") X(MWAIT, "mwait")                  \
    X(MONITORX, "monitorx") X(MWAITX, "mwaitx") X(RSM, "rsm") X(XGETBV, "xgetbv")    \
    X(XSETBV, "xsetbv") X(XSAVE, "xsave") X(XSAVEOPT, "xsaveopt")                    \
    X(XSAVEC, "xsavec") X(XSAVES, "xsaves") X(XRSTOR, "xrstor")                      \
    X(XRSTORS, "xrstors") X(FXSAVE, "fxsave") X(FXRSTOR, "fxrstor")                  \
    X(LDMXCSR, "ldmxcsr") X(STMXCSR, "stmxcsr") X(VMCALL, "vmcall")                  \
    X(VMLAUNCH, "vmlaunch") X(VMRESUME, "vmresume") X(VMXOFF, "vmxoff")              \
    X(VMXON, "vmxon") X(VMPTRLD, "vmptrld") X(VMPTRST, "vmptrst")                    \
    X(VMCLEAR, "vmclear") X(VMREAD, "vmread") X(VMWRITE, "vmwrite")                  \
    X(VMFUNC, "vmfunc") X(INVEPT, "invept") X(INVVPID, "invvpid") X(VMRUN, "vmrun")  \
    X(VMMCALL, "vmmcall") X(VMLOAD, "vmload") X(VMSAVE, "vmsave") X(STGI, "stgi")    \
    X(CLGI, "clgi") X(SKINIT, "skinit")                                              \
    /* x87 */                                                                        \
    X(FADD, "fadd") X(FMUL, "fmul") X(FCOM, "fcom") X(FCOMP, "fcomp")                \
    X(FSUB, "fsub") X(FSUBR, "fsubr") X(FDIV, "fdiv") X(FDIVR, "fdivr")              \
    X(FADDP, "faddp") X(FMULP, "fmulp") X(FCOMPP, "fcompp") X(FSUBP, "fsubp")        \
    X(FSUBRP, "fsubrp") X(FDIVP, "fdivp") X(FDIVRP, "fdivrp") X(FIADD, "fiadd")      \
    X(FIMUL, "fimul") X(FICOM, "ficom") X(FICOMP, "ficomp") X(FISUB, "fisub")        \
    X(FISUBR, "fisubr") X(FIDIV, "fidiv") X(FIDIVR, "fidivr") X(FLD, "fld")          \
    X(FST, "fst") X(FSTP, "fstp") X(FXCH, "fxch") X(FILD, "fild") X(FIST, "fist")    \
    X(FISTP, "fistp") X(FISTTP, "fisttp") X(FBLD, "fbld") X(FBSTP, "fbstp")          \
    X(FFREE, "ffree") X(FFREEP, "ffreep") X(FNOP, "fnop") X(FLDENV, "fldenv")        \
    X(FNSTENV, "fnstenv") X(FLDCW, "fldcw") X(FNSTCW, "fnstcw") X(FNSTSW, "fnstsw")  \
    X(FNSAVE, "fnsave") X(FRSTOR, "frstor") X(FNINIT, "fninit") X(FNCLEX, "fnclex")  \
    X(FNENI, "fneni") X(FNDISI, "fndisi") X(FNSETPM, "fnsetpm") X(FCHS, "fchs")      \
    X(FABS, "fabs") X(FTST, "ftst") X(FXAM, "fxam") X(FLD1, "fld1")                  \
    X(FLDL2T, "fldl2t") X(FLDL2E, "fldl2e") X(FLDPI, "fldpi") X(FLDLG2, "fldlg2")    \
    X(FLDLN2, "fldln2") X(FLDZ, "fldz") X(F2XM1, "f2xm1") X(FYL2X, "fyl2x")          \
    X(FPTAN, "fptan") X(FPATAN, "fpatan") X(FXTRACT, "fxtract") X(FPREM1, "fprem1")  \
    X(FDECSTP, "fdecstp") X(FINCSTP, "fincstp") X(FPREM, "fprem")                    \
    X(FYL2XP1, "fyl2xp1") X(FSQRT, "fsqrt") X(FSINCOS, "fsincos")                    \
    X(FRNDINT, "frndint") X(FSCALE, "fscale") X(FSIN, "fsin") X(FCOS, "fcos")        \
    X(FUCOM, "fucom") X(FUCOMP, "fucomp") X(FUCOMPP, "fucompp") X(FCOMI, "fcomi")    \
    X(FCOMIP, "fcomip") X(FUCOMI, "fucomi") X(FUCOMIP, "fucomip")                    \
    X(FCMOVB, "fcmovb") X(FCMOVE, "fcmove") X(FCMOVBE, "fcmovbe")                    \
    X(FCMOVU, "fcmovu") X(FCMOVNB, "fcmovnb") X(FCMOVNE, "fcmovne")                  \
    X(FCMOVNBE, "fcmovnbe") X(FCMOVNU, "fcmovnu") X(FWAIT, "fwait")                  \
    /* MMX and SSE, the forms without VEX */                                         \
    X(PACKSSWB, "packsswb") X(PACKSSDW, "packssdw") X(PACKUSWB, "packuswb")          \
    X(PACKUSDW, "packusdw") X(PUNPCKLBW, "punpcklbw") X(PUNPCKLWD, "punpcklwd")      \
    X(PUNPCKLDQ, "punpckldq") X(PUNPCKHBW, "punpckhbw") X(PUNPCKHWD, "punpckhwd")    \
    X(PUNPCKHDQ, "punpckhdq") X(PUNPCKLQDQ, "punpcklqdq")                            \
    X(PUNPCKHQDQ, "punpckhqdq") X(PADDB, "paddb") X(PADDW, "paddw")                  \
    X(PADDD, "paddd") X(PADDQ, "paddq") X(PADDSB, "paddsb") X(PADDSW, "paddsw")      \
    X(PADDUSB, "paddusb") X(PADDUSW, "paddusw") X(PSUBB, "psubb") X(PSUBW, "psubw")  \
    X(PSUBD, "psubd") X(PSUBQ, "psubq") X(PSUBSB, "psubsb") X(PSUBSW, "psubsw")      \
    X(PSUBUSB, "psubusb") X(PSUBUSW, "psubusw") X(PMULLW, "pmullw")                  \
    X(PMULHW, "pmulhw") X(PMULHUW, "pmulhuw") X(PMULUDQ, "pmuludq")                  \
    X(PMULDQ, "pmuldq") X(PMULLD, "pmulld") X(PMULHRSW, "pmulhrsw")                  \
    X(PMADDWD, "pmaddwd") X(PMADDUBSW, "pmaddubsw") X(PAND, "pand")                  \
    X(PANDN, "pandn") X(POR, "por") X(PXOR, "pxor") X(PCMPEQB, "pcmpeqb")            \
    X(PCMPEQW, "pcmpeqw") X(PCMPEQD, "pcmpeqd") X(PCMPEQQ, "pcmpeqq")                \
    X(PCMPGTB, "pcmpgtb") X(PCMPGTW, "pcmpgtw") X(PCMPGTD, "pcmpgtd")                \
    X(PCMPGTQ, "pcmpgtq") X(PSLLW, "psllw") X(PSLLD, "pslld") X(PSLLQ, "psllq")      \
    X(PSLLDQ, "pslldq") X(PSRLW, "psrlw") X(PSRLD, "psrld") X(PSRLQ, "psrlq")        \
    X(PSRLDQ, "psrldq") X(PSRAW, "psraw") X(PSRAD, "psrad") X(PAVGB, "pavgb")        \
    X(PAVGW, "pavgw") X(PSADBW, "psadbw") X(PMINUB, "pminub") X(PMINUW, "pminuw")    \
    X(PMINUD, "pminud") X(PMINSB, "pminsb") X(PMINSW, "pminsw") X(PMINSD, "pminsd")  \
    X(PMAXUB, "pmaxub") X(PMAXUW, "pmaxuw") X(PMAXUD, "pmaxud") X(PMAXSB, "pmaxsb")  \
    X(PMAXSW, "pmaxsw") X(PMAXSD, "pmaxsd") X(PINSRB, "pinsrb") X(PINSRW, "pinsrw")  \
    X(PINSRD, "pinsrd") X(PINSRQ, "pinsrq") X(PEXTRB, "pextrb") X(PEXTRW, "pextrw")  \
    X(PEXTRD, "pextrd") X(PEXTRQ, "pextrq") X(PMOVMSKB, "pmovmskb")                  \
    X(PSHUFB, "pshufb") X(PSHUFD, "pshufd") X(PSHUFHW, "pshufhw")                    \
    X(PSHUFLW, "pshuflw") X(PHADDW, "phaddw") X(PHADDD, "phaddd")                    \
    X(PHADDSW, "phaddsw") X(PHSUBW, "phsubw") X(PHSUBD, "phsubd")                    \
    X(PHSUBSW, "phsubsw") X(PSIGNB, "psignb") X(PSIGNW, "psignw")                    \
    X(PSIGND, "psignd") X(PABSB, "pabsb") X(PABSW, "pabsw") X(PABSD, "pabsd")        \
    X(PALIGNR, "palignr") X(MOVD, "movd") X(MOVQ, "movq") X(MOVAPS, "movaps")        \
    X(MOVAPD, "movapd") X(MOVUPS, "movups") X(MOVUPD, "movupd") X(MOVDQA, "movdqa")  \
    X(MOVDQU, "movdqu") X(MOVSS, "movss") X(MOVSD, "movsd") X(MOVLPS, "movlps")      \
    X(MOVLPD, "movlpd") X(MOVHPS, "movhps") X(MOVHPD, "movhpd")                      \
    X(MOVHLPS, "movhlps") X(MOVLHPS, "movlhps") X(MOVMSKPS, "movmskps")              \
    X(MOVMSKPD, "movmskpd") X(MOVNTPS, "movntps") X(MOVNTPD, "movntpd")              \
    X(MOVNTDQ, "movntdq") X(MOVNTDQA, "movntdqa") X(MOVDDUP, "movddup")              \
    X(MOVSLDUP, "movsldup") X(MOVSHDUP, "movshdup") X(LDDQU, "lddqu")                \
    X(MASKMOVDQU, "maskmovdqu") X(ADDPS, "addps") X(ADDPD, "addpd")                  \
    X(ADDSS, "addss") X(ADDSD, "addsd") X(SUBPS, "subps") X(SUBPD, "subpd")          \
    X(SUBSS, "subss") X(SUBSD, "subsd") X(MULPS, "mulps") X(MULPD, "mulpd")          \
    X(MULSS, "mulss") X(MULSD, "mulsd") X(DIVPS, "divps") X(DIVPD, "divpd")          \
    X(DIVSS, "divss") X(DIVSD, "divsd") X(MINPS, "minps") X(MINPD, "minpd")          \
    X(MINSS, "minss") X(MINSD, "minsd") X(MAXPS, "maxps") X(MAXPD, "maxpd")          \
    X(MAXSS, "maxss") X(MAXSD, "maxsd") X(SQRTPS, "sqrtps") X(SQRTPD, "sqrtpd")      \
    X(SQRTSS, "sqrtss") X(SQRTSD, "sqrtsd") X(RSQRTPS, "rsqrtps")                    \
    X(RSQRTSS, "rsqrtss") X(RCPPS, "rcpps") X(RCPSS, "rcpss") X(ANDPS, "andps")      \
    X(ANDPD, "andpd") X(ANDNPS, "andnps") X(ANDNPD, "andnpd") X(ORPS, "orps")        \
    X(ORPD, "orpd") X(XORPS, "xorps") X(XORPD, "xorpd") X(CMPPS, "cmpps")            \
    X(CMPPD, "cmppd") X(CMPSS, "cmpss") X(CMPSD, "cmpsd") X(COMISS, "comiss")        \
    X(COMISD, "comisd") X(UCOMISS, "ucomiss") X(UCOMISD, "ucomisd")                  \
    X(UNPCKLPS, "unpcklps") X(UNPCKLPD, "unpcklpd") X(UNPCKHPS, "unpckhps")          \
    X(UNPCKHPD, "unpckhpd") X(SHUFPS, "shufps") X(SHUFPD, "shufpd")                  \
    X(HADDPS, "haddps") X(HADDPD, "haddpd") X(HSUBPS, "hsubps") X(HSUBPD, "hsubpd")  \
    X(ADDSUBPS, "addsubps") X(ADDSUBPD, "addsubpd") X(CVTSI2SS, "cvtsi2ss")          \
    X(CVTSI2SD, "cvtsi2sd") X(CVTSS2SI, "cvtss2si") X(CVTSD2SI, "cvtsd2si")          \
    X(CVTTSS2SI, "cvttss2si") X(CVTTSD2SI, "cvttsd2si") X(CVTPS2PD, "cvtps2pd")      \
    X(CVTPD2PS, "cvtpd2ps") X(CVTSS2SD, "cvtss2sd") X(CVTSD2SS, "cvtsd2ss")          \
    X(CVTDQ2PS, "cvtdq2ps") X(CVTPS2DQ, "cvtps2dq") X(CVTTPS2DQ, "cvttps2dq")        \
    X(CVTDQ2PD, "cvtdq2pd") X(CVTPD2DQ, "cvtpd2dq") X(CVTTPD2DQ, "cvttpd2dq")        \
    X(BLENDPS, "blendps") X(BLENDPD, "blendpd") X(PBLENDW, "pblendw")                \
    X(DPPS, "dpps") X(DPPD, "dppd") X(INSERTPS, "insertps")                          \
    X(EXTRACTPS, "extractps") X(MPSADBW, "mpsadbw") X(PHMINPOSUW, "phminposuw")      \
    X(PMOVSXBW, "pmovsxbw") X(PMOVSXBD, "pmovsxbd") X(PMOVSXBQ, "pmovsxbq")          \
    X(PMOVSXWD, "pmovsxwd") X(PMOVSXWQ, "pmovsxwq") X(PMOVSXDQ, "pmovsxdq")          \
    X(PMOVZXBW, "pmovzxbw") X(PMOVZXBD, "pmovzxbd") X(PMOVZXBQ, "pmovzxbq")          \
    X(PMOVZXWD, "pmovzxwd") X(PMOVZXWQ, "pmovzxwq") X(PMOVZXDQ, "pmovzxdq")          \
    X(PTEST, "ptest") X(ROUNDPS, "roundps") X(ROUNDPD, "roundpd")                    \
    X(ROUNDSS, "roundss") X(ROUNDSD, "roundsd") X(PCMPESTRI, "pcmpestri")            \
    X(PCMPESTRM, "pcmpestrm") X(PCMPISTRI, "pcmpistri") X(PCMPISTRM, "pcmpistrm")    \
    X(AESENC, "aesenc") X(AESENCLAST, "aesenclast") X(AESDEC, "aesdec")              \
    X(AESDECLAST, "aesdeclast") X(AESIMC, "aesimc")                                  \
    X(AESKEYGENASSIST, "aeskeygenassist") X(PCLMULQDQ, "pclmulqdq")                  \
    X(GF2P8MULB, "gf2p8mulb") X(GF2P8AFFINEQB, "gf2p8affineqb")                      \
    X(GF2P8AFFINEINVQB, "gf2p8affineinvqb") X(PSHUFW, "pshufw") X(MOVNTQ, "movntq")  \
    X(MASKMOVQ, "maskmovq") X(MOVQ2DQ, "movq2dq") X(MOVDQ2Q, "movdq2q")              \
    X(EMMS, "emms") X(CVTPI2PS, "cvtpi2ps") X(CVTPI2PD, "cvtpi2pd")                  \
    X(CVTPS2PI, "cvtps2pi") X(CVTPD2PI, "cvtpd2pi") X(CVTTPS2PI, "cvttps2pi")        \
    X(CVTTPD2PI, "cvttpd2pi") X(BLENDVPS, "blendvps") X(BLENDVPD, "blendvpd")        \
    X(PBLENDVB, "pblendvb") X(SHA1NEXTE, "sha1nexte") X(SHA1MSG1, "sha1msg1")        \
    X(SHA1MSG2, "sha1msg2") X(SHA1RNDS4, "sha1rnds4") X(SHA256RNDS2, "sha256rnds2")  \
    X(SHA256MSG1, "sha256msg1") X(SHA256MSG2, "sha256msg2") X(EXTRQ, "extrq")        \
    X(INSERTQ, "insertq") X(MOVNTSS, "movntss") X(MOVNTSD, "movntsd")                \
    /* Only as VEX */                                                                \
    X(VZEROUPPER, "vzeroupper") X(VZEROALL, "vzeroall")                              \
    X(VBROADCASTSS, "vbroadcastss") X(VBROADCASTSD, "vbroadcastsd")                  \
    X(VBROADCASTF128, "vbroadcastf128") X(VBROADCASTI128, "vbroadcasti128")          \
    X(VPBROADCASTB, "vpbroadcastb") X(VPBROADCASTW, "vpbroadcastw")                  \
    X(VPBROADCASTD, "vpbroadcastd") X(VPBROADCASTQ, "vpbroadcastq")                  \
    X(VEXTRACTF128, "vextractf128") X(VEXTRACTI128, "vextracti128")                  \
    X(VINSERTF128, "vinsertf128") X(VINSERTI128, "vinserti128")                      \
    X(VPERM2F128, "vperm2f128") X(VPERM2I128, "vperm2i128")                          \
    X(VPERMILPS, "vpermilps") X(VPERMILPD, "vpermilpd") X(VPERMD, "vpermd")          \
    X(VPERMPS, "vpermps") X(VPERMQ, "vpermq") X(VPERMPD, "vpermpd")                  \
    X(VPBLENDD, "vpblendd") X(VPSLLVD, "vpsllvd") X(VPSLLVQ, "vpsllvq")              \
    X(VPSRLVD, "vpsrlvd") X(VPSRLVQ, "vpsrlvq") X(VPSRAVD, "vpsravd")                \
    X(VMASKMOVPS, "vmaskmovps") X(VMASKMOVPD, "vmaskmovpd")                          \
    X(VPMASKMOVD, "vpmaskmovd") X(VPMASKMOVQ, "vpmaskmovq") X(VTESTPS, "vtestps")    \
    X(VTESTPD, "vtestpd") X(VCVTPH2PS, "vcvtph2ps") X(VCVTPS2PH, "vcvtps2ph")        \
    X(VGATHERDPS, "vgatherdps") X(VGATHERDPD, "vgatherdpd")                          \
    X(VGATHERQPS, "vgatherqps") X(VGATHERQPD, "vgatherqpd")                          \
    X(VPGATHERDD, "vpgatherdd") X(VPGATHERDQ, "vpgatherdq")                          \
    X(VPGATHERQD, "vpgatherqd") X(VPGATHERQQ, "vpgatherqq") X(VPDPBUSD, "vpdpbusd")  \
    X(VPDPBUSDS, "vpdpbusds") X(VPDPWSSD, "vpdpwssd") X(VPDPWSSDS, "vpdpwssds")      \
    X(VFMADD132PS, "vfmadd132ps") X(VFMADD132PD, "vfmadd132pd")                      \
    X(VFMADD132SS, "vfmadd132ss") X(VFMADD132SD, "vfmadd132sd")                      \
    X(VFMADD213PS, "vfmadd213ps") X(VFMADD213PD, "vfmadd213pd")                      \
    X(VFMADD213SS, "vfmadd213ss") X(VFMADD213SD, "vfmadd213sd")                      \
    X(VFMADD231PS, "vfmadd231ps") X(VFMADD231PD, "vfmadd231pd")                      \
    X(VFMADD231SS, "vfmadd231ss") X(VFMADD231SD, "vfmadd231sd")                      \
    X(VFMSUB132PS, "vfmsub132ps") X(VFMSUB132PD, "vfmsub132pd")                      \
    X(VFMSUB132SS, "vfmsub132ss") X(VFMSUB132SD, "vfmsub132sd")                      \
    X(VFMSUB213PS, "vfmsub213ps") X(VFMSUB213PD, "vfmsub213pd")                      \
    X(VFMSUB213SS, "vfmsub213ss") X(VFMSUB213SD, "vfmsub213sd")                      \
    X(VFMSUB231PS, "vfmsub231ps") X(VFMSUB231PD, "vfmsub231pd")                      \
    X(VFMSUB231SS, "vfmsub231ss") X(VFMSUB231SD, "vfmsub231sd")                      \
    X(VFNMADD132PS, "vfnmadd132ps") X(VFNMADD132PD, "vfnmadd132pd")                  \
    X(VFNMADD132SS, "vfnmadd132ss") X(VFNMADD132SD, "vfnmadd132sd")                  \
    X(VFNMADD213PS, "vfnmadd213ps") X(VFNMADD213PD, "vfnmadd213pd")                  \
    X(VFNMADD213SS, "vfnmadd213ss") X(VFNMADD213SD, "vfnmadd213sd")                  \
    X(VFNMADD231PS, "vfnmadd231ps") X(VFNMADD231PD, "vfnmadd231pd")                  \
    X(VFNMADD231SS, "vfnmadd231ss") X(VFNMADD231SD, "vfnmadd231sd")                  \
    X(VFNMSUB132PS, "vfnmsub132ps") X(VFNMSUB132PD, "vfnmsub132pd")                  \
    X(VFNMSUB132SS, "vfnmsub132ss") X(VFNMSUB132SD, "vfnmsub132sd")                  \
    X(VFNMSUB213PS, "vfnmsub213ps") X(VFNMSUB213PD, "vfnmsub213pd")                  \
    X(VFNMSUB213SS, "vfnmsub213ss") X(VFNMSUB213SD, "vfnmsub213sd")                  \
    X(VFNMSUB231PS, "vfnmsub231ps") X(VFNMSUB231PD, "vfnmsub231pd")                  \
    X(VFNMSUB231SS, "vfnmsub231ss") X(VFNMSUB231SD, "vfnmsub231sd")                  \
    X(VFMADDSUB132PS, "vfmaddsub132ps") X(VFMADDSUB132PD, "vfmaddsub132pd")          \
    X(VFMADDSUB213PS, "vfmaddsub213ps") X(VFMADDSUB213PD, "vfmaddsub213pd")          \
    X(VFMADDSUB231PS, "vfmaddsub231ps") X(VFMADDSUB231PD, "vfmaddsub231pd")          \
    X(VFMSUBADD132PS, "vfmsubadd132ps") X(VFMSUBADD132PD, "vfmsubadd132pd")          \
    X(VFMSUBADD213PS, "vfmsubadd213ps") X(VFMSUBADD213PD, "vfmsubadd213pd")          \
    X(VFMSUBADD231PS, "vfmsubadd231ps") X(VFMSUBADD231PD, "vfmsubadd231pd")          \
    /* VEX twins */                                                                  \
    X(VPACKSSWB, "vpacksswb") X(VPACKSSDW, "vpackssdw") X(VPACKUSWB, "vpackuswb")    \
    X(VPACKUSDW, "vpackusdw") X(VPUNPCKLBW, "vpunpcklbw")                            \
    X(VPUNPCKLWD, "vpunpcklwd") X(VPUNPCKLDQ, "vpunpckldq")                          \
    X(VPUNPCKHBW, "vpunpckhbw") X(VPUNPCKHWD, "vpunpckhwd")                          \
    X(VPUNPCKHDQ, "vpunpckhdq") X(VPUNPCKLQDQ, "vpunpcklqdq")                        \
    X(VPUNPCKHQDQ, "vpunpckhqdq") X(VPADDB, "vpaddb") X(VPADDW, "vpaddw")            \
    X(VPADDD, "vpaddd") X(VPADDQ, "vpaddq") X(VPADDSB, "vpaddsb")                    \
    X(VPADDSW, "vpaddsw") X(VPADDUSB, "vpaddusb") X(VPADDUSW, "vpaddusw")            \
    X(VPSUBB, "vpsubb") X(VPSUBW, "vpsubw") X(VPSUBD, "vpsubd") X(VPSUBQ, "vpsubq")  \
    X(VPSUBSB, "vpsubsb") X(VPSUBSW, "vpsubsw") X(VPSUBUSB, "vpsubusb")              \
    X(VPSUBUSW, "vpsubusw") X(VPMULLW, "vpmullw") X(VPMULHW, "vpmulhw")              \
    X(VPMULHUW, "vpmulhuw") X(VPMULUDQ, "vpmuludq") X(VPMULDQ, "vpmuldq")            \
    X(VPMULLD, "vpmulld") X(VPMULHRSW, "vpmulhrsw") X(VPMADDWD, "vpmaddwd")          \
    X(VPMADDUBSW, "vpmaddubsw") X(VPAND, "vpand") X(VPANDN, "vpandn")                \
    X(VPOR, "vpor") X(VPXOR, "vpxor") X(VPCMPEQB, "vpcmpeqb")                        \
    X(VPCMPEQW, "vpcmpeqw") X(VPCMPEQD, "vpcmpeqd") X(VPCMPEQQ, "vpcmpeqq")          \
    X(VPCMPGTB, "vpcmpgtb") X(VPCMPGTW, "vpcmpgtw") X(VPCMPGTD, "vpcmpgtd")          \
    X(VPCMPGTQ, "vpcmpgtq") X(VPSLLW, "vpsllw") X(VPSLLD, "vpslld")                  \
    X(VPSLLQ, "vpsllq") X(VPSLLDQ, "vpslldq") X(VPSRLW, "vpsrlw")                    \
    X(VPSRLD, "vpsrld") X(VPSRLQ, "vpsrlq") X(VPSRLDQ, "vpsrldq")                    \
    X(VPSRAW, "vpsraw") X(VPSRAD, "vpsrad") X(VPAVGB, "vpavgb") X(VPAVGW, "vpavgw")  \
    X(VPSADBW, "vpsadbw") X(VPMINUB, "vpminub") X(VPMINUW, "vpminuw")                \
    X(VPMINUD, "vpminud") X(VPMINSB, "vpminsb") X(VPMINSW, "vpminsw")                \
    X(VPMINSD, "vpminsd") X(VPMAXUB, "vpmaxub") X(VPMAXUW, "vpmaxuw")                \
    X(VPMAXUD, "vpmaxud") X(VPMAXSB, "vpmaxsb") X(VPMAXSW, "vpmaxsw")                \
    X(VPMAXSD, "vpmaxsd") X(VPINSRB, "vpinsrb") X(VPINSRW, "vpinsrw")                \
    X(VPINSRD, "vpinsrd") X(VPINSRQ, "vpinsrq") X(VPEXTRB, "vpextrb")                \
    X(VPEXTRW, "vpextrw") X(VPEXTRD, "vpextrd") X(VPEXTRQ, "vpextrq")                \
    X(VPMOVMSKB, "vpmovmskb") X(VPSHUFB, "vpshufb") X(VPSHUFD, "vpshufd")            \
    X(VPSHUFHW, "vpshufhw") X(VPSHUFLW, "vpshuflw") X(VPHADDW, "vphaddw")            \
    X(VPHADDD, "vphaddd") X(VPHADDSW, "vphaddsw") X(VPHSUBW, "vphsubw")              \
    X(VPHSUBD, "vphsubd") X(VPHSUBSW, "vphsubsw") X(VPSIGNB, "vpsignb")              \
    X(VPSIGNW, "vpsignw") X(VPSIGND, "vpsignd") X(VPABSB, "vpabsb")                  \
    X(VPABSW, "vpabsw") X(VPABSD, "vpabsd") X(VPALIGNR, "vpalignr")                  \
    X(VMOVD, "vmovd") X(VMOVQ, "vmovq") X(VMOVAPS, "vmovaps") X(VMOVAPD, "vmovapd")  \
    X(VMOVUPS, "vmovups") X(VMOVUPD, "vmovupd") X(VMOVDQA, "vmovdqa")                \
    X(VMOVDQU, "vmovdqu") X(VMOVSS, "vmovss") X(VMOVSD, "vmovsd")                    \
    X(VMOVLPS, "vmovlps") X(VMOVLPD, "vmovlpd") X(VMOVHPS, "vmovhps")                \
    X(VMOVHPD, "vmovhpd") X(VMOVHLPS, "vmovhlps") X(VMOVLHPS, "vmovlhps")            \
    X(VMOVMSKPS, "vmovmskps") X(VMOVMSKPD, "vmovmskpd") X(VMOVNTPS, "vmovntps")      \
    X(VMOVNTPD, "vmovntpd") X(VMOVNTDQ, "vmovntdq") X(VMOVNTDQA, "vmovntdqa")        \
    X(VMOVDDUP, "vmovddup") X(VMOVSLDUP, "vmovsldup") X(VMOVSHDUP, "vmovshdup")      \
    X(VLDDQU, "vlddqu") X(VMASKMOVDQU, "vmaskmovdqu") X(VADDPS, "vaddps")            \
    X(VADDPD, "vaddpd") X(VADDSS, "vaddss") X(VADDSD, "vaddsd") X(VSUBPS, "vsubps")  \
    X(VSUBPD, "vsubpd") X(VSUBSS, "vsubss") X(VSUBSD, "vsubsd") X(VMULPS, "vmulps")  \
    X(VMULPD, "vmulpd") X(VMULSS, "vmulss") X(VMULSD, "vmulsd") X(VDIVPS, "vdivps")  \
    X(VDIVPD, "vdivpd") X(VDIVSS, "vdivss") X(VDIVSD, "vdivsd") X(VMINPS, "vminps")  \
    X(VMINPD, "vminpd") X(VMINSS, "vminss") X(VMINSD, "vminsd") X(VMAXPS, "vmaxps")  \
    X(VMAXPD, "vmaxpd") X(VMAXSS, "vmaxss") X(VMAXSD, "vmaxsd")                      \
    X(VSQRTPS, "vsqrtps") X(VSQRTPD, "vsqrtpd") X(VSQRTSS, "vsqrtss")                \
    X(VSQRTSD, "vsqrtsd") X(VRSQRTPS, "vrsqrtps") X(VRSQRTSS, "vrsqrtss")            \
    X(VRCPPS, "vrcpps") X(VRCPSS, "vrcpss") X(VANDPS, "vandps") X(VANDPD, "vandpd")  \
    X(VANDNPS, "vandnps") X(VANDNPD, "vandnpd") X(VORPS, "vorps") X(VORPD, "vorpd")  \
    X(VXORPS, "vxorps") X(VXORPD, "vxorpd") X(VCMPPS, "vcmpps") X(VCMPPD, "vcmppd")  \
    X(VCMPSS, "vcmpss") X(VCMPSD, "vcmpsd") X(VCOMISS, "vcomiss")                    \
    X(VCOMISD, "vcomisd") X(VUCOMISS, "vucomiss") X(VUCOMISD, "vucomisd")            \
    X(VUNPCKLPS, "vunpcklps") X(VUNPCKLPD, "vunpcklpd") X(VUNPCKHPS, "vunpckhps")    \
    X(VUNPCKHPD, "vunpckhpd") X(VSHUFPS, "vshufps") X(VSHUFPD, "vshufpd")            \
    X(VHADDPS, "vhaddps") X(VHADDPD, "vhaddpd") X(VHSUBPS, "vhsubps")                \
    X(VHSUBPD, "vhsubpd") X(VADDSUBPS, "vaddsubps") X(VADDSUBPD, "vaddsubpd")        \
    X(VCVTSI2SS, "vcvtsi2ss") X(VCVTSI2SD, "vcvtsi2sd") X(VCVTSS2SI, "vcvtss2si")    \
    X(VCVTSD2SI, "vcvtsd2si") X(VCVTTSS2SI, "vcvttss2si")                            \
    X(VCVTTSD2SI, "vcvttsd2si") X(VCVTPS2PD, "vcvtps2pd") X(VCVTPD2PS, "vcvtpd2ps")  \
    X(VCVTSS2SD, "vcvtss2sd") X(VCVTSD2SS, "vcvtsd2ss") X(VCVTDQ2PS, "vcvtdq2ps")    \
    X(VCVTPS2DQ, "vcvtps2dq") X(VCVTTPS2DQ, "vcvttps2dq") X(VCVTDQ2PD, "vcvtdq2pd")  \
    X(VCVTPD2DQ, "vcvtpd2dq") X(VCVTTPD2DQ, "vcvttpd2dq") X(VBLENDPS, "vblendps")    \
    X(VBLENDPD, "vblendpd") X(VPBLENDW, "vpblendw") X(VDPPS, "vdpps")                \
    X(VDPPD, "vdppd") X(VINSERTPS, "vinsertps") X(VEXTRACTPS, "vextractps")          \
    X(VMPSADBW, "vmpsadbw") X(VPHMINPOSUW, "vphminposuw") X(VPMOVSXBW, "vpmovsxbw")  \
    X(VPMOVSXBD, "vpmovsxbd") X(VPMOVSXBQ, "vpmovsxbq") X(VPMOVSXWD, "vpmovsxwd")    \
    X(VPMOVSXWQ, "vpmovsxwq") X(VPMOVSXDQ, "vpmovsxdq") X(VPMOVZXBW, "vpmovzxbw")    \
    X(VPMOVZXBD, "vpmovzxbd") X(VPMOVZXBQ, "vpmovzxbq") X(VPMOVZXWD, "vpmovzxwd")    \
    X(VPMOVZXWQ, "vpmovzxwq") X(VPMOVZXDQ, "vpmovzxdq") X(VPTEST, "vptest")          \
    X(VROUNDPS, "vroundps") X(VROUNDPD, "vroundpd") X(VROUNDSS, "vroundss")          \
    X(VROUNDSD, "vroundsd") X(VPCMPESTRI, "vpcmpestri") X(VPCMPESTRM, "vpcmpestrm")  \
    X(VPCMPISTRI, "vpcmpistri") X(VPCMPISTRM, "vpcmpistrm") X(VAESENC, "vaesenc")    \
    X(VAESENCLAST, "vaesenclast") X(VAESDEC, "vaesdec")                              \
    X(VAESDECLAST, "vaesdeclast") X(VAESIMC, "vaesimc")                              \
    X(VAESKEYGENASSIST, "vaeskeygenassist") X(VPCLMULQDQ, "vpclmulqdq")              \
    X(VGF2P8MULB, "vgf2p8mulb") X(VGF2P8AFFINEQB, "vgf2p8affineqb")                  \
    X(VGF2P8AFFINEINVQB, "vgf2p8affineinvqb") X(VLDMXCSR, "vldmxcsr")                \
    X(VSTMXCSR, "vstmxcsr") X(VBLENDVPS, "vblendvps") X(VBLENDVPD, "vblendvpd")      \
    X(VPBLENDVB, "vpblendvb")
/* clang-format on */

#define X86_OP_ENUM(id, name) X86_OP_##id,
enum x86_op { X86_OP_INVALID, X86_OPS(X86_OP_ENUM) X86_NB_OPS };

#endif
