"""Plant mistakes in the software CPU and see the instruction fuzzer find each.

usage: mutants.py [--count N] [--build FOLDER] [--list] [NAME...]

Every mutant is one text replaced by another in one file of a copy of the source
tree; only what changed is built again. A mutant is caught when insn-fuzz, with
seed 1, finds a difference (or its worker dies) within N sequences (default 1000000).
Prints a line per mutant and fails when one is missed, or when a text is not there
exactly once: then the table below is to be brought up to date.
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
    ("less_is_sign", BT + "t0.h", "case 6: r = sf != of; break;", "case 6: r = sf; break;"),
    ("below_or_equal_is_below", BT + "t0.h", "case 3: r = f & (T0_FLAG_CF | T0_FLAG_ZF); break;",
     "case 3: r = f & T0_FLAG_CF; break;"),
    ("flags_dead_before_inc", TAB + "effects.tab", "INC DEC             : w=oszap\n",
     "INC DEC             : w=oszapc\n"),
    ("flags_dead_before_shift", TAB + "effects.tab", "SHL SHR SAR         : w=szpc u=oa maybe",
     "SHL SHR SAR         : w=oszapc"),
    ("rcl_reads_no_carry", TAB + "effects.tab", "RCL RCR             : r=c w=c u=o maybe",
     "RCL RCR             : w=oszapc"),
    ("flags_dead_over_faults", BT + "t0_block.c", "        if (may_fault(insn)) {",
     "        if (0 && may_fault(insn)) {"),
    # Widths and extensions.
    ("write32_keeps_upper_half", BT + "t0.h",
     "#define T0_W32(c, off, v) (*(uint64_t *)T0_REG_PTR(c, off) = (uint32_t)(v))",
     "#define T0_W32(c, off, v) (*(uint32_t *)T0_REG_PTR(c, off) = (uint32_t)(v))"),
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
    ("index_not_scaled", BT + "t0.h", "(c->gpr[op->index] << op->shift)", "c->gpr[op->index]"),
    ("fs_is_gs", BT + "t0.h",
     "case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[op->seg], 0};",
     "case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[X86_GS], 0};"),
    ("address32_not_cut", BT + "t0.h",
     "case T0_EA_FLAT32: return (struct t0_val){(uint32_t)off, 0};",
     "case T0_EA_FLAT32: return (struct t0_val){off, 0};"),
    ("rip_relative_from_start", BT + "t0_block.c", "        op->disp += op->next;",
     "        op->disp += op->start;"),
    ("string_source_without_base", BT + "t0_string.c",
     "case T0_EA_SEG64: return (struct t0_val){off + c->seg_base[seg], 0};",
     "case T0_EA_SEG64: return (struct t0_val){off, 0};"),
    ("second_page_not_checked", BT + "t0_mmu.c",
     "return n < size && get_page(c, la + n, write, seg, &ret[1]);",
     "return n < size && get_page(c, la + n, false, seg, &ret[1]);"),
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
     "if ((mask[i + op->aux2 - 1] & 0x80) &&\n            t0_read_bytes",
     "if ((mask[i] & 0x80) &&\n            t0_read_bytes"),
    ("xrstor_reserved_bits", BT + "t0_xsave.c", "s->fcw = (le16_get(p) & 0x1f3f) | 0x40;",
     "s->fcw = le16_get(p);"),
    # Privilege.
    ("xsaves_for_users", BT + "t0_xsave.c", "if (op->src2 && c->s.cpl) {", "if (0) {"),
    ("verw_of_code", BT + "t0_seg.c", "(op->aux ? !code && rw : !code || rw)",
     "(op->aux ? rw : !code || rw)"),
]


def resolve(tree, mutant):
    """(path, whole text, mutated text), or a complaint."""
    name, file, old, new = mutant
    path = tree / file
    text = path.read_text()
    # Formatting may break lines elsewhere tomorrow: any white space matches any.
    pattern = re.compile(r"\s+".join(re.escape(w) for w in old.split()))
    found = pattern.findall(text)
    if len(found) != 1:
        return f"{file} has the text {len(found)} times: {old!r}"
    if "\n" in old or "  " in old or old != old.strip():
        if text.count(old) != 1:
            return f"{file} has the text {text.count(old)} times: {old!r}"
        return path, text, text.replace(old, new)
    return path, text, pattern.sub(lambda _: new, text)


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
                    "-Doptimization=2", "-Dwerror=false", "-Dwarning_level=0"])
        if done.returncode:
            sys.exit(done.stdout)
    return tree, objects


def compile_fuzzer(objects):
    return run(["ninja", "-C", str(objects), "tests/insn_fuzz/insn-fuzz"])


def fuzz(objects, count):
    """(difference found, the first line about it)"""
    try:
        done = run([str(objects / "tests/insn_fuzz/insn-fuzz"), "--seed", "1",
                    "--count", str(count)], timeout=1200)
    except subprocess.TimeoutExpired:
        return True, "did not come back"
    lines = [line for line in done.stdout.splitlines()
             if line.startswith(("different:", "the worker"))]
    return done.returncode != 0, lines[0] if lines else done.stdout[-300:]


def try_mutant(tree, objects, mutant, count):
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
        found, line = fuzz(objects, count)
        return ("caught" if found else "missed"), line.strip()
    finally:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000000)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/mutants")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    mutants = [m for m in MUTANTS if not args.names or m[0] in args.names]
    if args.list:
        print("\n".join(m[0] for m in mutants))
        return 0
    tree, objects = prepare(args.build)
    done = compile_fuzzer(objects)
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    found, line = fuzz(objects, args.count // 4)
    if found:
        sys.exit(f"the fuzzer finds something without any mutant: {line}")
    bad = []
    for mutant in mutants:
        start = time.monotonic()
        verdict, detail = try_mutant(tree, objects, mutant, args.count)
        print(f"{verdict:8} {mutant[0]:28} {time.monotonic() - start:5.0f} s  {detail}",
              flush=True)
        if verdict != "caught":
            bad.append(mutant[0])
    print(f"{len(mutants) - len(bad)} of {len(mutants)} mutants caught"
          + (f"; not: {' '.join(bad)}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
