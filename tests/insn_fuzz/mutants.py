"""Plant mistakes in the software CPU and see the instruction fuzzer find each.

usage: mutants.py [--tier N] [--count N] [--build FOLDER] [--list] [NAME...]

Every mutant is one text replaced by another in one file of a copy of the source
tree; only what changed is built again. --tier 1 has mistakes of the translator, --tier 2
of hot regions. A
mutant is caught when insn-fuzz, with seed 1, finds a difference (or its worker dies)
within N sequences (default 1000000). Prints a line per mutant and fails when one is
missed, or when a text is not there exactly once: then the tables below are to be
brought up to date.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BT = "vmm/accel/bt/"
TAB = "lib/isa/x86/tab/"

# (name, file, text, replacement)
MUTANTS = [
    # Flags.
    ("adc_no_carry_in", BT + "t0_alu.c", '"adc" T0_SFX_##N, v, s)', '"add" T0_SFX_##N, v, s)'),
    ("sbb_no_borrow_in", BT + "t0_alu.c", '"sbb" T0_SFX_##N, v, s)', '"sub" T0_SFX_##N, v, s)'),
    ("adc_dead_flags_no_carry", BT + "t0_alu.c",
     "#define DO_adc_d(N, v, s) (v += s + ((c->flags & T0_FLAG_CF) != 0))",
     "#define DO_adc_d(N, v, s) (v += s)"),
    ("dec_destroys_carry", BT + "t0_alu.c", "T0_FLAGS1_IN(c, \"dec\" T0_SFX_##N, v)",
     "T0_FLAGS1(c, \"dec\" T0_SFX_##N, v)"),
    ("zeroing_without_parity", BT + "t0_alu.c", "c->flags = T0_FLAG_ZF | T0_FLAG_PF | 0x0200;",
     "c->flags = T0_FLAG_ZF | 0x0200;"),
    ("cmpxchg8b_zf_inverted", BT + "t0_alu.c", "(equal_ ? T0_FLAG_ZF : 0)",
     "(equal_ ? 0 : T0_FLAG_ZF)"),
    ("sahf_loses_overflow", BT + "t0_mov.c", "(c->flags & T0_FLAG_OF) | ((T0_R8(c, 1) & 0xd5)",
     "((T0_R8(c, 1) & 0xd5)"),
    ("cmc_sets", BT + "t0_mov.c", "c->flags ^= T0_FLAG_CF", "c->flags |= T0_FLAG_CF"),
    ("flags_dead_before_inc", TAB + "effects.tab", "INC DEC             : w=oszap\n",
     "INC DEC             : w=oszapc\n"),
    ("flags_dead_before_shift", TAB + "effects.tab", "SHL SHR SAR         : w=szpc u=oa maybe",
     "SHL SHR SAR         : w=oszapc"),
    ("rcl_reads_no_carry", TAB + "effects.tab", "RCL RCR             : r=c w=c u=o maybe",
     "RCL RCR             : w=oszapc"),
    ("flags_dead_over_faults", BT + "t0_decode.c", "        if (may_fault(insn)) {",
     "        if (0 && may_fault(insn)) {"),
    ("jcc_less_is_sign", BT + "t0_branch.c", "jcc_near[insn->cc] : jcc_far[insn->cc];",
     "jcc_near[insn->cc == 12 ? 8 : insn->cc] : jcc_far[insn->cc];"),
    ("setcc_below_or_equal_is_below", BT + "t0_mov.c", "unsigned cc = insn->cc & 15;",
     "unsigned cc = insn->cc == 6 ? 2 : insn->cc & 15;"),
    # Widths and extensions.
    ("bswap32_keeps_upper_half", BT + "t0_mov.c",
     "T0_W32(c, op->dst, __builtin_bswap32(T0_R32(c, op->dst)));",
     "T0_W64(c, op->dst, (T0_R64(c, op->dst) & ~0xffffffffull) | __builtin_bswap32(T0_R32(c, op->dst)));"),
    ("mul32_keeps_upper_half", BT + "t0_muldiv.c", "T0_W32(c, X86_RDX * 8, hi)",
     "T0_W64(c, X86_RDX * 8, (T0_R64(c, X86_RDX * 8) & ~0xffffffffull) | (uint32_t)(hi))"),
    ("movsx16_is_movzx", BT + "t0_mov.c", "T0_SIZES_248(EXTEND_FORMS, movsx2, T0_S_, 2)",
     "T0_SIZES_248(EXTEND_FORMS, movsx2, T0_U_, 2)"),
    ("lea_of_32_bit_address", BT + "t0_mov.c", "T0_W64(c, op->dst, (uint32_t)t0_offset(c, op));",
     "T0_W64(c, op->dst, t0_offset(c, op));"),
    ("cwd_of_zero", BT + "t0_mov.c", "T0_RD_##N(c, 0) < 0 ? ~0ull : 0",
     "T0_RD_##N(c, 0) <= 0 ? ~0ull : 0"),
    ("bswap16_swaps", BT + "t0_mov.c", "    T0_W16(c, op->dst, 0);",
     "    T0_W16(c, op->dst, __builtin_bswap16(T0_R16(c, op->dst)));"),
    ("shift_count_of_5_bits", BT + "t0_shift.c", "((unsigned)(n)&T0_MASK_##N)",
     "((unsigned)(n)&31u)"),
    ("sar_dead_flags_unsigned", BT + "t0_shift.c",
     "#define DO_sar_d(N, v, n) (v = (T0_U_##N)((T0_S_##N)v >>",
     "#define DO_sar_d(N, v, n) (v = (T0_U_##N)((T0_U_##N)v >>"),
    ("shrd_is_shld", BT + "t0_shift.c", "case X86_OP_SHRD: t = &shrd_fn[imm];",
     "case X86_OP_SHRD: t = &shld_fn[imm];"),
    ("rorx_left", BT + "t0_shift.c", "ROTATE(N, m, 0u - COUNT(N, op->imm))",
     "ROTATE(N, m, COUNT(N, op->imm))"),
    ("bt_offset_unsigned", BT + "t0_bit.c", "(int64_t)(T0_S_##N)T0_RD_##N(c, op->src) >> BIT_LOG",
     "(int64_t)(T0_U_##N)T0_RD_##N(c, op->src) >> BIT_LOG"),
    ("tzcnt_is_bsf", BT + "t0_bit.c", "t0_pick(&tzcnt_fn,", "t0_pick(&bsf_fn,"),
    ("blsr_is_blsi", BT + "t0_bit.c", "lower_bmi(&blsr_fn,", "lower_bmi(&blsi_fn,"),
    ("push_imm8_unsigned", TAB + "int.tab", "PUSH     6A             ; Isb",
     "PUSH     6A             ; Ib"),
    ("vzeroupper_half", BT + "t0_simd.c", "memset(c->s.fpu.ymm[i] + 16, 0, 16);",
     "memset(c->s.fpu.ymm[i] + 16, 0, 8);"),
    # Operations.
    ("xadd_returns_source", BT + "t0_alu.c", "s = T0_RD_##N(c, op->src), old = v;",
     "s = T0_RD_##N(c, op->src), old = s;"),
    ("idiv_smallest_quotient", BT + "t0_muldiv.c",
     "return quotient > most + (dividend_neg != s_neg);", "return quotient > most;"),
    ("div_limit", BT + "t0_muldiv.c", "(HIGH_##N >= (s))", "(HIGH_##N > (s))"),
    ("pop_rsp_adds_after", BT + "t0_mov.c",
     "    t0_sp_add(c, op->size);\n    write_sized(c, op->dst, v.v, op->size);",
     "    write_sized(c, op->dst, v.v, op->size);\n    t0_sp_add(c, op->size);"),
    ("ret_releases_nothing", BT + "t0_branch.c", "c->gpr[X86_RSP] += 8 + (uint64_t)op->imm;",
     "c->gpr[X86_RSP] += 8;"),
    ("strings_only_up", BT + "t0_string.c", "is_down(c) ? v - bytes : v + bytes", "v + bytes"),
    ("repne_is_repe", BT + "t0_string.c", "return op->aux == REP_E ? !equal : equal;",
     "return !equal;"),
    # Addresses, segments, memory.
    ("index_not_scaled", BT + "t0_decode.c",
     "op->shift = insn->scale > 1 ? (uint8_t)__builtin_ctz(insn->scale) : 0;", "op->shift = 0;"),
    ("fs_is_gs", BT + "t0_decode.c", "op->seg = insn->seg < X86_NB_SEG ? insn->seg : X86_DS;",
     "op->seg = insn->seg == X86_FS ? X86_GS : insn->seg < X86_NB_SEG ? insn->seg : X86_DS;"),
    ("address32_not_cut", BT + "t0_decode.c", "(mode & T0_MODE_LMA) ? T0_EA_FLAT32",
     "(mode & T0_MODE_LMA) ? T0_EA_FLAT64"),
    ("rip_relative_from_start", BT + "t0_decode.c", "        op->disp += op->next;",
     "        op->disp += op->start;"),
    ("string_source_without_base", BT + "t0_string.c",
     "case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[seg], 0};",
     "case T0_EA_SEG64: return (struct t0_val){off, 0};"),
    ("second_page_not_checked", BT + "t0_mmu.c",
     "return n < size && get_page(c, next, write, seg, &ret[1]);",
     "return n < size && get_page(c, next, false, seg, &ret[1]);"),
    ("no_limit_at_4_gib", BT + "t0_mmu.c",
     "if (unlikely(n < size && next > UINT32_MAX && !t0_is64(c))) {", "if (0) {"),
    ("limit_one_byte_late", BT + "t0_mmu.c", "return last <= seg->limit;",
     "return last <= (uint64_t)seg->limit + 1;"),
    ("alignment_of_words_only", BT + "t0_mmu.c",
     "if (likely(c->tlb != c->banks[T0_BANK_USER_AC]) || !(la & (size - 1)) ||",
     "if (likely(c->tlb != c->banks[T0_BANK_USER_AC]) || !(la & 1) ||"),
    ("stack_fault_is_gp", BT + "t0_mmu.c", "seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);",
     "X86_EXC_GP, 0);"),
    ("fault_without_user_bit", BT + "t0_mmu.c", "        code |= X86_PF_U;", "        code |= 0;"),
    ("cmpxchg16b_alignment", BT + "t0_alu.c", "(a.v & 15)", "(a.v & 7)"),
    ("sse_misaligned_allowed", BT + "t0_simd.c", "if (!(la & op->aux2)) {",
     "if (!(la & op->aux2 & 7)) {"),
    ("extended_base_register", "lib/isa/x86/decode.c", "i->base = rm | (d->rex & REX_B ? 8 : 0);",
     "i->base = rm | (d->rex & REX_B && rm != 5 ? 8 : 0);"),
    # Floating point and vectors.
    ("fnclex_keeps_stack_fault", BT + "t0_fpu.c", "c->s.fpu.fsw &= 0x7f00;",
     "c->s.fpu.fsw &= 0x7f40;"),
    ("fninit_precision", BT + "t0_fpu.c", "    s->fcw = 0x37f;\n    s->ftw = 0;",
     "    s->fcw = 0x27f;\n    s->ftw = 0;"),
    ("tag_of_unnormal", BT + "t0_fpu.c", "exponent == 0 || !(mantissa >> 63) ? 2 : 0",
     "exponent == 0 ? 2 : 0"),
    ("ldmxcsr_takes_all", BT + "t0_simd.c", "if (v.v & ~(uint64_t)t0_mxcsr_mask(c)) {",
     "if (v.v >> 31) {"),
    ("xm_leaves_no_flags", BT + "t0_simd.c",
     "fatal & MXCSR_EARLY ? raised & MXCSR_EARLY : raised;", "raised;"),
    ("underflow_as_if_masked", BT + "t0_simd.c", "if (!(guest & MXCSR_UM)) {", "if (0) {"),
    ("gather_index_unsigned", BT + "t0_simd.c", "? (int32_t)le32_get(indices + 4 * i)",
     "? (int64_t)le32_get(indices + 4 * i)"),
    ("gather_keeps_upper_half", BT + "t0_simd.c", "    memset(mask, 0, 32);\n", ""),
    ("maskmov_takes_low_bit", BT + "t0_simd.c",
     "if (mask[i + op->aux2 - 1] & 0x80) {", "if (mask[i] & 0x80) {"),
    ("xrstor_reserved_bits", BT + "t0_xsave.c", "s->fcw = (le16_get(p) & 0x1f3f) | 0x40;",
     "s->fcw = le16_get(p);"),
    # Privilege.
    ("xsaves_for_users", BT + "t0_xsave.c", "if (op->src2 && c->s.cpl) {", "if (0) {"),
    ("verw_of_code", BT + "t0_desc.c", "(op->aux ? !code && rw : !code || rw)",
     "(op->aux ? rw : !code || rw)"),
]

# Of the translator: (name, file, text, replacement)
T1_MUTANTS = [
    # Addresses and probes.
    ("probe_of_first_byte", BT + "t1_mem.c",
     "(struct t1_mem){T1_RCX, (uint8_t)addr, 0, (int32_t)size + pages_of_one(t)});",
     "(struct t1_mem){T1_RCX, (uint8_t)addr, 0, 1 + pages_of_one(t)});"),
    ("probe_never_for_writing", BT + "t1_insn.c",
     "return write ? offsetof(struct t0_tlb_entry, write)",
     "return 0 ? offsetof(struct t0_tlb_entry, write)"),
    ("address32_not_cut", BT + "t1_insn.c", "t1_lea32(&t->e, want, m);",
     "t1_lea(&t->e, want, m);"),
    ("index_not_scaled", BT + "t1_insn.c",
     "m.index = (uint8_t)t1_in_reg(t, i->index, T1_S2);\n            m.shift = (uint8_t)__builtin_ctz(i->scale);",
     "m.index = (uint8_t)t1_in_reg(t, i->index, T1_S2);\n            m.shift = 0;"),
    ("index_of_memory_register", BT + "t1_insn.c",
     "m.index = (uint8_t)t1_in_reg(t, i->index, T1_S2);",
     "m.index = (uint8_t)t1_in_reg(t, i->index & 7, T1_S2);"),
    ("fs_is_gs", BT + "t1_insn.c", "offsetof(struct t0_cpu, seg_base) + 8u * i->seg",
     "offsetof(struct t0_cpu, seg_base) + 8u * X86_GS"),
    ("rip_relative_from_start", BT + "t1_insn.c",
     "m.disp = (int32_t)(t1_next_off(t) + i->disp);",
     "m.disp = (int32_t)(t1_next_off(t) - i->len + i->disp);"),
    # Integer instructions.
    ("push_immediate_of_4_bytes", BT + "t1_insn.c",
     "&(struct t1_enc){.w = !t1_is_32(t), .opcode = 0xc7}, 0,",
     "&(struct t1_enc){.opcode = 0xc7}, 0,"),
    ("pop_rsp_adds", BT + "t1_insn.c", "if (o->reg != X86_RSP) {", "if (1) {"),
    ("leave_forgets_the_frame", BT + "t1_insn.c",
     "t1_lea_word(t, sp, (struct t1_mem){(uint8_t)bp, T1_NO_REG, 0, (int32_t)word});",
     "t1_lea_word(t, sp, (struct t1_mem){(uint8_t)bp, T1_NO_REG, 0, 0});"),
    ("lea16_clears", BT + "t1_insn.c", "&(struct t1_enc){.p66 = 0x66, .opcode = 0x8b},",
     "&(struct t1_enc){.opcode = 0x8b},"),
    ("lea32_keeps_upper_half", BT + "t1_insn.c", "t1_mov_rr32(&t->e, want, a);",
     "t1_mov_rr(&t->e, want, a);"),
    ("idiv_by_minus_one", BT + "t1_insn.c", "(struct t1_mem){(uint8_t)by, T1_NO_REG, 0, 1});",
     "(struct t1_mem){(uint8_t)by, T1_NO_REG, 0, 3});"),
    ("div_of_any_dividend", BT + "t1_insn.c",
     "    t1_slow_unless_zero(t);\n    t1_op_reg(e, &mov, T1_RCX, by);",
     "    t1_op_reg(e, &mov, T1_RCX, by);"),
    ("write16_clears_memory_register", BT + "t1_insn.c", "|| o->size < 4 ||",
     "|| o->size < 2 ||"),
    ("low_byte_without_rex", BT + "t1_insn.c", "t->host[o->reg] >= 4;",
     "t->host[o->reg] >= 8;"),
    ("count_from_the_host", BT + "t1_insn.c",
     "t1_mov_rr(&t->e, T1_RCX, t->host[X86_RCX]);", "t1_mov_rr(&t->e, T1_RCX, X86_RDX);"),
    ("bit_string_in_its_operand", BT + "t1_insn.c",
     "insn->op >= X86_OP_BT && insn->op <= X86_OP_BTC && p->reg != NULL;", "false;"),
    ("moffs_of_word_is_byte", BT + "t1_insn.c", "insn->opcode == 0xa1 ? 0x8b",
     "insn->opcode == 0xa1 ? 0x8a"),
    ("mulx_low_half_lost", BT + "t1_insn.c", "    store_operand(t, p->vvvv, vvvv_scratch);\n", ""),
    ("bit_string_element", BT + "t1_sys.c", "t1_mov_ri(e, T1_RCX, 3 + (int64_t)log);",
     "t1_mov_ri(e, T1_RCX, 2 + (int64_t)log);"),
    ("bit_string_of_words_unsigned", BT + "t1_sys.c",
     "&(struct t1_enc){.w = true, .map = 1, .opcode = 0xbf}, T1_S2, bit);",
     "&(struct t1_enc){.w = true, .map = 1, .opcode = 0xb7}, T1_S2, bit);"),
    ("string_downwards", BT + "t1_string.c",
     "    t1_check_zero(t, T1_RCX, T1_FIELD(t1.df));\n", ""),
    ("string_over_its_page", BT + "t1_string.c", "t1_probe_to(t, reg, T1_S1, write);",
     "t1_probe(t, reg, size, write);"),
    ("string_count_stays", BT + "t1_string.c", "t1_mov_rr(e, count, T1_RCX);", ""),
    ("repne_is_repe", BT + "t1_string.c", "? 0xf2", "? 0xf3"),
    ("string_source_stays", BT + "t1_string.c", "take_away(e, X86_RSI, T1_S1);", ""),
    ("cmpxchg16b_alignment", BT + "t1_sys.c", "if (m->size == 16) {", "if (0) {"),
    ("pushf_of_host_flags", BT + "t1_sys.c", "    keep(e, T1_RCX, T1_FIELD(t1.arith));\n", ""),
    ("cld_forgotten", BT + "t1_sys.c",
     "case X86_OP_CLD: return clear_flag(t, T1_FIELD(t1.not_df));",
     "case X86_OP_CLD: return clear_flag(t, T1_FIELD(t1.pushf_keep));"),
    # Branches.
    ("far_condition_inverted", BT + "t1_block.c", "t1_jcc(&t->e, t->insn->cc ^ 1, 0);",
     "t1_jcc(&t->e, t->insn->cc, 0);"),
    ("near_condition_inverted", BT + "t1_block.c", "t1_jcc(&t->e, t->insn->cc, 0);",
     "t1_jcc(&t->e, t->insn->cc ^ 1, 0);"),
    ("ret_releases_nothing", BT + "t1_block.c", "t1_sp_add(t, (int32_t)word + more);",
     "t1_sp_add(t, (int32_t)word);"),
    ("branch16_is_branch64", BT + "t1_block.c",
     "if (insn->opsize != t1_word(t) || (direct && !t1_fits32(target))) {",
     "if (direct && !t1_fits32(target)) {"),
    ("page_base_not_changed", BT + "t1_block.c",
     "    t1_store(e, T1_FIELD(t1.page_base), T1_S1);\n", ""),
    ("slow_call_does_all", BT + "t1_block.c", "t->cur->what |= T1_PUSH_RETURN;", ""),
    # Accesses that are checked together.
    ("careful_copy_goes_on_early", BT + "t1_group.c", "t1_jmp(&t->e, r->back);",
     "t1_jmp(&t->e, t->at[r->end - 1]);"),
    ("group_checks_its_first_byte", BT + "t1_group.c", ".last = plus(first, g->hi - g->lo - 1),",
     ".last = first,"),
    ("group_checked_for_reading", BT + "t1_group.c", "glue_fill[user][g->write][0][g->kind]",
     "glue_fill[user][0][0][g->kind]"),
    ("group_over_a_changed_register", BT + "t1_group.c",
     "        if (o->kind == X86_OPND_REG && (o->access & X86_ACC_W)) {",
     "        if (0) {"),
    ("group_over_a_copied_register", BT + "t1_group.c",
     "        s->reg[insn->opnd[0].reg] = s->reg[insn->opnd[1].reg];\n", ""),
    ("group_without_alignment", BT + "t1_group.c", "    if (aligned) {", "    if (0) {"),
    # Slow paths and state.
    ("vectors_not_taken_after_t0", BT + "t1_code.c", "c->t1.vec_want = 1;", ""),
    ("own_block_changed_goes_on", BT + "t1_code.c",
     "drops != t1->t2_drops || (b->flags & T0_BLOCK_DEAD) ||", "drops != t1->t2_drops ||"),
    ("jumps_to_killed_stay", BT + "t1_code.c",
     "if (tr->in_jumps == T1_JUMPS_ONE && table[tr->jump].code == code) {", "if (0) {"),
    ("unmasked_sse_taken", BT + "t1_code.c",
     "if ((f->mxcsr & T0_MXCSR_MASKS) != T0_MXCSR_MASKS) {", "if (0) {"),
    ("unmasked_x87_taken", BT + "t1_code.c",
     "if ((f->fcw & T0_FPU_EXCEPTIONS) != T0_FPU_EXCEPTIONS) {", "if (0) {"),
    ("host_mxcsr_stays", BT + "t1_code.c", "_mm_setcsr(f->mxcsr & 0xffff);", ""),
    ("upper_halves_not_put", BT + "t1_code.c",
     "t1_vex(e, 1, false, 0, true, (n >> 3 & 1) << 2, 0, store ? 0x11 : 0x10);",
     "t1_vex(e, 1, false, 0, !store, (n >> 3 & 1) << 2, 0, store ? 0x11 : 0x10);"),
    # The x87.
    ("x87_never_brought", BT + "t1_x87.c",
     "t1_pext(e, T1_RCX, T1_RCX, T1_FIELD(t1.x87_mask));", "t1_mov_ri(e, T1_RCX, 0);"),
    ("x87_address_forgotten", BT + "t1_x87.c",
     "    t1_store(e, T1_FIELD(s.fpu.fip), T1_RCX);\n", ""),
    ("x87_operand_forgotten", BT + "t1_x87.c",
     "        t1_store(e, T1_FIELD(s.fpu.fdp), a);\n", ""),
    ("overflow_lost_on_return", BT + "t1_glue.c",
     "X86_RAX, m); /* movzx */\n    t1_u8(e, 0x04); /* add al, 0x7f: OF */\n    t1_u8(e, 0x7f);",
     "X86_RAX, m); /* movzx */\n    t1_u8(e, 0x04); /* add al, 0x7f: OF */\n    t1_u8(e, 0x7e);"),
    ("overflow_lost_on_quick_return", BT + "t1_glue.c",
     "{\n    t1_u8(e, 0x04); /* add al, 0x7f: OF */\n    t1_u8(e, 0x7f);",
     "{\n    t1_u8(e, 0x04); /* add al, 0x7f: OF */\n    t1_u8(e, 0x7e);"),
    ("links_to_killed_stay", BT + "t1_code.c",
     "for (uint32_t i = tr->incoming; i; i = t1->sites[i].next_in) {",
     "for (uint32_t i = 0; i; i = t1->sites[i].next_in) {"),
    # Vectors.
    ("misaligned_reaches_the_host", BT + "t1_simd.c",
     ": (props & X86_D_SSEMEM) && p->mem->size == 16;", ": 0;"),
    # Slots.
    ("stack_probe_never_for_writing", BT + "t1_slot.c",
     "stack_field(t, (write ? offsetof(struct t1_stack, write)",
     "stack_field(t, (0 ? offsetof(struct t1_stack, write)"),
    ("slot_displacement_lost", BT + "t1_slot.c", "struct t1_mem m = r->at;",
     "struct t1_mem m = {r->at.base, T1_NO_REG, 0, 0};"),
    ("slot_for_writing_of_read_only_page", BT + "t1_slot.c",
     "entry_field(f->write ? offsetof(struct t0_tlb_entry, write)",
     "entry_field(0 ? offsetof(struct t0_tlb_entry, write)"),
    ("slot_of_misaligned_operand", BT + "t1_slot.c", "    if (r->aligned) {", "    if (0) {"),
    ("slot_of_any_size", BT + "t1_slot.c", "~(off[large] >> i << i);", "~off[large];"),
    ("refill_changes_a_register", BT + "t1_slot.c",
     "saved[] = {T1_S1, X86_RAX, X86_RDX, X86_RDI};", "saved[] = {T1_S1, X86_RAX, X86_RDX};"),
    ("vzeroall_is_vzeroupper", BT + "t1_simd.c", "X86_OP_VZEROALL ? 0xfc : 0xf8", "X86_OP_VZEROALL ? 0xf8 : 0xf8"),
    ("vector_length_lost", BT + "t1_simd.c", "w, last & 3, last & 4, rex,", "w, last & 3, false, rex,"),
    ("pcmpistri_result_lost", BT + "t1_simd.c",
     "        t1_mov_rr(&t->e, t->host[X86_RCX], T1_RCX);\n", ""),
    # 32-bit code.
    ("push32_of_8_bytes", BT + "t1_priv.h", "&(struct t1_enc){.w = !t1_is_32(t), .opcode = 0x89}",
     "&(struct t1_enc){.w = true, .opcode = 0x89}"),
    ("inc_of_one_byte_is_dec", BT + "t1_insn.c", "insn->opcode >> 3 & 1u", "~insn->opcode >> 3 & 1u"),
    ("segment32_limit_forgotten", BT + "t1_mem.c", "            check_segment(t, want);\n", ""),
    ("code32_written_to", BT + "t1_mem.c", "|| code) {", ") {"),
    ("bmi32_of_64_bits", BT + "t1_insn.c", "(insn->prefixes & X86_P_W) && !t1_is_32(t);",
     "(insn->prefixes & X86_P_W) != 0;"),
    ("vmovd32_is_vmovq", BT + "t1_simd.c", "!(t1_is_32(t) && (p->with_gpr || d->gpr_read));", "true;"),
    ("is4_of_16_registers", BT + "t1_simd.c", "cut ? t->bytes[i] & 0x7fu : t->bytes[i]", "t->bytes[i]"),
    ("vzeroupper32_of_seven", BT + "t1_simd.c", "t1_is_32(t) && n < 8;", "t1_is_32(t) && n < 7;"),
    ("call32_pushes_8_bytes", BT + "t1_code.c", "op->next, t0_is64(c) ? 8 : 4))) {",
     "op->next, 8))) {"),
    # Strings, loops, control words, MMX.
    ("xlat_signed", BT + "t1_string.c",
     "&(struct t1_enc){.map = 1, .opcode = 0xb6}, T1_S1, X86_RAX);",
     "&(struct t1_enc){.map = 1, .opcode = 0xbe}, T1_S1, X86_RAX);"),
    ("loope_is_loopne", BT + "t1_branch.c", "insn->op == X86_OP_LOOPE ? t1_jcc(&t->e, 4, 0)",
     "insn->op == X86_OP_LOOPE ? t1_jcc(&t->e, 5, 0)"),
    ("jrcxz_counts", BT + "t1_branch.c", "if (insn->op != X86_OP_JCXZ) {", "if (1) {"),
    ("fldcw_unmasks", BT + "t1_x87.c",
     "    t1_check_zero(t, T1_RCX, T1_FIELD(t1.bits[2])); /* all six are masked */\n", ""),
    ("fldcw_forgotten", BT + "t1_x87.c",
     "    t1_op_mem(e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x89}, T1_S1, fcw);\n", ""),
    ("fldcw_reserved_bits", BT + "t1_x87.c",
     "    t1_pdep(e, T1_S1, T1_S1, T1_FIELD(t1.fcw_mask));\n", ""),
    ("ldmxcsr_unmasks", BT + "t1_simd.c",
     "    t1_check_zero(t, T1_RCX, T1_FIELD(t1.mxcsr_masks));\n", ""),
    ("ldmxcsr_reserved_bits", BT + "t1_simd.c",
     "    t1_check_zero(t, T1_S1, T1_FIELD(t1.mxcsr_high));\n", ""),
    ("ldmxcsr_forgotten", BT + "t1_simd.c",
     "    t1_op_mem(e, &(struct t1_enc){.opcode = 0x89}, T1_S1, field);\n", ""),
    ("mmx_of_the_hosts", BT + "t1_simd.c", "if (p.with_mmx) {", "if (0) {"),
    # Results of vector instructions.
    ("pextr_result_lost", BT + "t1_simd.c",
     "if (p.rm_gpr && (p.rm_gpr->access & X86_ACC_W) && rm == T1_S2) {", "if (0) {"),
    ("movmsk_result_lost", BT + "t1_simd.c",
     "if (p.reg_gpr && (p.reg_gpr->access & X86_ACC_W) && reg == T1_RCX) {", "if (0) {"),
]

# Of hot regions. What they share with blocks is T1's.
T2_MUTANTS = [
    ("way_out_keeps_registers", BT + "t2_build.c",
     """    t1_set_rel32(&t->e, o->from, t1_pos(&t->e));
    exchange(u, false, 0);
""", """    t1_set_rel32(&t->e, o->from, t1_pos(&t->e));
"""),
    ("way_in_keeps_registers", BT + "t2_build.c", "    exchange(u, true, 0);\n", ""),
    ("slow_path_keeps_registers", BT + "t2_build.c",
     """        t1_call(e, u->put_home);
    }
    move_base(u, u->n->page);
""", """        t1_call(e, u->put_back);
    }
    move_base(u, u->n->page);
"""),
    ("slow_path_of_another_page", BT + "t2_build.c",
     """    move_base(u, u->n->page);
    t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
""", """    t1_mov_ri(e, T1_RCX, (uint8_t *)t->b - t->c->core->arena);
"""),
    ("branch_inverted_twice", BT + "t2_branch.c", "lead(u, t1_jcc(&t->e, cc ^ 1, 0), next);",
     "lead(u, t1_jcc(&t->e, cc, 0), next);"),
    ("return_guard_of_any_target", BT + "t2_branch.c",
     "    t1_not(e, T1_RCX);\n    t1_lea(e, T1_RCX, (struct t1_mem){T1_RCX, T1_S1, 0, 1});\n"
     "    return t1_jrcxz(e);",
     "    t1_mov_ri(e, T1_RCX, 0);\n    return t1_jrcxz(e);"),
    ("return_leaves_the_stack", BT + "t2_branch.c", "T1_NO_REG, 0, 8 + more}", "T1_NO_REG, 0, more}"),
    ("vectors_not_made_ready", BT + "t2_build.c", "        make_ready(u, T1_NEED_VEC, 0);\n", ""),
    ("group_over_two_chains", BT + "t2_group.c", "    t1_groups_begin(s);\n", ""),
    ("group_leaves_an_instruction_late", BT + "t2_build.c",
     "t->b->ops[insn].start, false, &stub);", "t->b->ops[insn].next, false, &stub);"),
]

TIERS = [MUTANTS, T1_MUTANTS, T2_MUTANTS]


def places(text, old):
    """How often @old is in @text, and a function that replaces it. Formatting may break
    lines elsewhere tomorrow: any white space matches any, but for texts that are lines."""
    if "\n" in old or "  " in old or old != old.strip():
        return text.count(old), lambda new: text.replace(old, new)
    pattern = re.compile(r"\s+".join(re.escape(w) for w in old.split()))
    return len(pattern.findall(text)), lambda new: pattern.sub(lambda _: new, text)


def resolve(tree, mutant):
    """(path, whole text, mutated text), or a complaint. The text may have moved to
    another file of the same tier."""
    name, file, old, new = mutant
    path = tree / file
    paths = [path] if path.exists() else []
    if file.startswith(BT):
        paths += [p for p in sorted(path.parent.glob(path.name[:3] + "*.c")) if p != path]
    for path in paths:
        text = path.read_text()
        count, replace = places(text, old)
        if count == 1:
            return path, text, replace(new)
        if count:
            return f"{path.name} has the text {count} times: {old!r}"
    return f"{file} has the text 0 times: {old!r}"


def run(argv, **more):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **more)


def prepare(build):
    """A copy of the tracked files, configured."""
    tree = build / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    files = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=ROOT).stdout.split("\0")
    for f in filter(None, files):
        source, copy = ROOT / f, tree / f
        if not source.is_file():
            continue
        data = source.read_bytes()
        if not copy.exists() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod(source.stat().st_mode)
    objects = build / "objects"
    if not (objects / "build.ninja").exists():
        done = run(["meson", "setup", str(objects), str(tree), "-Dbuildtype=plain",
                    "-Doptimization=1", "-Dc_args=-foptimize-sibling-calls",
                    "-Dwerror=false", "-Dwarning_level=0"])
        if done.returncode:
            sys.exit(done.stdout)
    return tree, objects


def compile_fuzzer(objects):
    return run(["ninja", "-C", str(objects), "tests/insn_fuzz/insn-fuzz"])


def fuzz(objects, count, tier):
    """(difference found, the first line about it)"""
    try:
        done = run([str(objects / "tests/insn_fuzz/insn-fuzz"), "--seed", "1", "--tier",
                    str(tier), "--count", str(count)], timeout=1200)
    except subprocess.TimeoutExpired:
        return True, "did not come back"
    lines = [line for line in done.stdout.splitlines()
             if line.startswith(("different", "the worker"))]
    return done.returncode != 0, lines[0] if lines else done.stdout[-300:]


def try_mutant(tree, objects, mutant, count, tier):
    """'caught', 'missed' or what is wrong, and details."""
    what = resolve(tree, mutant)
    if isinstance(what, str):
        return "stale", what
    path, text, mutated = what
    path.write_text(mutated)
    try:
        done = compile_fuzzer(objects)
        if done.returncode:
            return "does not build", done.stdout[-1500:]
        found, line = fuzz(objects, count, tier)
        return ("caught" if found else "missed"), line.strip()
    finally:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", type=int, choices=range(len(TIERS)), default=0)
    parser.add_argument("--count", type=int, default=1000000)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/mutants")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    mutants = [m for m in TIERS[args.tier] if not args.names or m[0] in args.names]
    if args.list:
        print("\n".join(m[0] for m in mutants))
        return 0
    tree, objects = prepare(args.build)
    done = compile_fuzzer(objects)
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    found, line = fuzz(objects, args.count // 4, args.tier)
    if found:
        sys.exit(f"the fuzzer finds something without any mutant: {line}")
    bad = []
    for mutant in mutants:
        start = time.monotonic()
        verdict, detail = try_mutant(tree, objects, mutant, args.count, args.tier)
        print(f"{verdict:8} {mutant[0]:28} {time.monotonic() - start:5.0f} s  {detail}",
              flush=True)
        if verdict != "caught":
            bad.append(mutant[0])
    if bad:
        print(f"not caught: {' '.join(bad)}")
    print(f"{len(mutants) - len(bad)} of {len(mutants)} caught")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
