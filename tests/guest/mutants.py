"""Plant mistakes in what the software CPU does when code changes, and see the tests of
that find each.

usage: mutants.py [--build FOLDER] [--list] [NAME...]

As tests/insn_fuzz/mutants.py, but for what random instruction sequences do not reach:
each mutant names who has to find it: a unit test, or a bare-metal guest as
GUEST:PROCESSORS:OPTIONS of -accel bt. A test that hangs has found it, too.
"""
import argparse
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/insn_fuzz"))
import mutants as base  # noqa: E402

BT = base.BT
CACHE = ["t1_cache_test"]
CHECK = ["t0_check_test"]
CORE = ["t0_core_test"]
TLB = ["t0_tlb_test"]
VIEW = ["t1_view_test"]
QUICK = ["t0_quick_test"]
SWITCH = [f"{name}:1:tier=1,heat=1" for name in
          ("switch", "system", "debug", "smc")]
JUMPS = ["pcid:1:tier=1,heat=1", "paging:1:tier=1,heat=1", "compat:1:tier=1,heat=1", "smp_branches:2:tier=1,heat=1"]
SLOT = ["t1_slot_test"]
T2 = ["t2_test"]
RUN = ["smp_branches:2:tier=1,heat=1"]
SMC = ["smc:1:tier=1,heat=1"]
SMP = ["smp_code:4:tier=1,heat=1", "smp_memory:4:tier=1,heat=1"]
SECONDS = 60  # a hung test: so long, and five times what it takes without a mutant

# (name, file, text, replacement, tests)
MUTANTS = [
    # Eviction.
    ("evicted_stays_linked", BT + "t1_cache.c", "    t1_unlink_block(c, b);\n    b->t1 = 0;",
     "    b->t1 = 0;", CACHE),
    ("evicted_sites_stay_in_lists", BT + "t1_cache.c", "t1_forget_site(c, k);", "(void)k;", CACHE),
    ("evicted_stays_in_jumps", BT + "t1_cache.c",
     "t1->generation++; t1_jumps_flush(c, 0); t1_jumps_flush(c, 1);",
     "t1->generation++;", CACHE),
    ("evicted_stays_entered", BT + "t1_cache.c", "t1_block_cool(c, b);", "", CACHE),
    ("dead_is_evicted", BT + "t1_code.c", "c->core->t1->trans[b->t1].block = 0;", "", CACHE),
    ("list_without_way_back", BT + "t1_link.c", "t1->sites[s->next_in].prev_in = index;", "",
     CACHE),
    ("regions_share_sites", BT + "t1_cache.c", "r->first_site = r->nb_sites = t1->size / 64 / n * i;",
     "r->first_site = r->nb_sites = 0;", CACHE),
    ("writable_and_executable", BT + "t1_cache.c", "PROT_READ | PROT_EXEC",
     "PROT_READ | PROT_WRITE | PROT_EXEC", CACHE),
    # Compared pages.
    ("last_byte_not_compared", BT + "t0_check.c", "for (; n; n--) {", "for (; n > 1; n--) {", CHECK),
    ("last_byte_not_compared_inline", BT + "t1_block.c", "for (unsigned off = 0; off < first;) {",
     "for (unsigned off = 0; off + 1 < first;) {", CHECK),
    ("second_page_not_compared", BT + "t0_check.c", "(!k->host2 ||", "(1 || !k->host2 ||", CHECK),
    ("second_page_not_compared_inline", BT + "t1_block.c",
     "for (unsigned off = 0; off < b->len - first;) {",
     "for (unsigned off = 0; off + 100 < b->len - first;) {", CHECK),
    ("not_compared", BT + "t0_check.c", "if (likely(same(check_of(c, b), b))) {",
     "if (same(check_of(c, b), b) || 1) {", CHECK),
    ("not_compared_inline", BT + "t1_block.c", "put_check(t, leave);",
     "if (t->index) { put_check(t, leave); }", CHECK),
    ("goes_on_after_stores", BT + "t0_decode.c", "(f->checked && may_store(&d->insn[i]))",
     "(f->checked && may_store(&d->insn[i]) && !stores(&d->insn[i]))", CHECK),
    ("goes_on_after_string_stores", BT + "t0_decode.c", "dst |= insn->opnd[i].kind == X86_OPND_DST;",
     "", CHECK),
    ("checked_for_good", BT + "t0_block.c", "    p->checked = false;\n", "", CHECK),
    ("protected_too_soon", BT + "t0_check.c", "return PERIOD << MIN(tries, MOST_TRIES);",
     "return PERIOD;", CHECK),
    ("never_compared", BT + "t0_check.c", "if (likely(++s->nb < STORES)) {", "if (++s->nb) {", CHECK),
    ("same_bytes_always", BT + "t0_mmu.c", "if (exchange_keeps(h, v, size)) {",
     "if (exchange_keeps(h, v, size) || 1) {", CORE),
    ("same_bytes_never", BT + "t0_mmu.c", "if (exchange_keeps(h, v, size)) {",
     "if (exchange_keeps(h, v, size) && 0) {", CHECK),
    ("lines_end_early", BT + "t0_block.c", "(UINT64_MAX >> (63 - end / 64))",
     "(UINT64_MAX >> (63 - start / 64))", CHECK + CORE),
    # Stores to code.
    ("device_tells_nobody", BT + "t0_block.c",
     "post_range_locked(tvm, UINT64_MAX, NULL, gpa, len, false);", "", CORE),
    ("others_are_not_told", BT + "t0_block.c", "tell_others(c, gpa, len, false);", "", SMP),
    ("others_keep_stores", BT + "t0_block.c", "            drop_foreign_writes_locked(c);", ";", SMP),
    ("waits_for_the_halted", BT + "t0_block.c",
     "busy |= o != c && o->core->inbox.in_guest && o->core->inbox.drop_writes;",
     "busy |= o != c && o->core->inbox.drop_writes;", SMP),
    ("alone_waits_for_the_halted", BT + "t0_block.c",
     "busy |= o != c && o->core->inbox.in_guest && !o->core->inbox.paused;",
     "busy |= o != c && !o->core->inbox.paused;", SMP),
    ("own_block_goes_on", BT + "t0_block.c", "        b->ops[i].fn = op_dead;", ";", CORE),
    ("second_half_overlaps_nothing", BT + "t0_block.c",
     "uint64_t start = which ? b->gpa2 : b->gpa;", "uint64_t start = which ? b->gpa2 + 8 : b->gpa;",
     SMC),
    # The TLB.
    ("large_page_stays", BT + "t0_tlb.c", "if (large_at(core, la, shift))", "if (false)", TLB),
    ("gib_page_not_noted", BT + "t0_tlb.c", "if (large_at(core, la, GIB1))", "if (false)", TLB),
    ("large_page_is_where_another_is", BT + "t0_tlb.c",
     "*p == LARGE_NONE ? region : LARGE_MANY", "region", TLB),
    ("large_is_forgotten_with_cr3", BT + "t0_tlb.c", "memset(core->large[global], 0, sizeof(core->large[global]));",
     "memset(core->large, 0, sizeof(core->large));", TLB),
    ("large_of_others_is_forgotten", BT + "t0_tlb.c", "*p == region ? LARGE_NONE : *p", "LARGE_NONE", TLB),
    ("large_code_stays", BT + "t0_tlb.c", "flush_jumps_of(c, region_bit(la, shift));", "", TLB),
    ("large_copy_stays", BT + "t0_tlb.c", "t0_tlb_uncopy(c, &c->banks[b][i]);\n                    drop_entry",
     "drop_entry", TLB),
    ("word_stays_in_summary", BT + "t0_tlb.c", "s->words[i / 4096] &= ~(UINT64_C(1) << (i / 64 % 64));",
     "", TLB),
    ("global_is_local", BT + "t0_tlb.c", "        set_remove(&core->local[bank], i);\n    } else {",
     "        set_add(&core->local[bank], i);\n    } else {", TLB),
    ("write_survives_drop", BT + "t0_tlb.c", "(core->side[b][i].gpa & PAGE_MASK) == gpa",
     "core->side[b][i].gpa == gpa", TLB),
    ("write_side_not_looked_at", BT + "t0_tlb.c",
     "core->side[b][idx].read == page || core->side[b][idx].write == page",
     "core->side[b][idx].write == page", TLB),
    # Accesses that are checked together.
    ("frame_looked_at_one_end", BT + "t1_group.c", ".last = plus(first, g->hi - g->lo - 1),",
     ".last = first,", RUN),
    ("frame_loses_the_addend", BT + "t1_group.c",
     "s->r11_at == t1_pos(e) && s->r11_group == a->group;", "s->r11_at != UINT32_MAX;", RUN),
    ("frame_pushes_where_it_may_read", BT + "t1_group.c",
     "g->write ? offsetof(struct t1_stack, write[1])", "0 ? offsetof(struct t1_stack, write[1])",
     RUN),
    ("frames_share_a_slot", BT + "t1_group.c", "    return nb == 1;\n", "    return nb;\n", RUN),
    # Slots.
    ("slot_of_first_byte", BT + "t1_slot.c", "last.disp += (int32_t)size - 1;",
     "last.disp += 0;", SLOT),
    ("slot_of_last_byte", BT + "t1_slot.c", "        t1_lea(e, T1_S2, at);\n        at.base",
     "        t1_lea(e, T1_S2, last);\n        at.base", SLOT),
    ("slots_filled_stay", BT + "t1_slot.c", "i < b->nb;", "0;", SLOT),
    ("slots_of_full_list_stay", BT + "t1_slot.c", "t1_mov_ri(e, T1_RCX, T1_BUCKET_SIZE);",
     "t1_mov_ri(e, T1_RCX, T1_BUCKET_SIZE - 2);", SLOT),
    ("stack_copy_stays", BT + "t1_slot.c",
     "c->t1.stack[user].read[i] = c->t1.stack[user].write[i] = T1_SLOT_EMPTY;", ";", SLOT),
    ("slot_of_twice_the_page", BT + "t1_slot.c", "put_negate(e, TMP, 1);",
     "put_negate(e, TMP, 0);", SLOT),
    ("slot_filled_from_any_bank", BT + "t1_slot.c",
     "out[nb++] = put_unless_zero(e);\n    }\n    put_copies",
     "(void)put_unless_zero;\n    }\n    put_copies", SLOT),
    # Hot regions.
    ("group_loses_a_constant", BT + "t1_group.c",
     "        s->reg[insn->opnd[0].reg].delta += n;\n", "", T2),
    ("fixed_register_moves", BT + "t2_regs.c", "(!(u->fixed >> r & 1) && !(own >> r & 1));",
     "!(u->fixed >> r & 1);", T2),
    ("kill_not_noticed", BT + "t2_region.c", "    t1->t2_drops++;\n", "", T2),
    # The quick ways to fill the TLB and the table of indirect branches.
    ("quick_user_of_last_level", BT + "t0_mmu.c", "        all &= e;\n", "        all = e;\n", QUICK),
    ("quick_reserved_bits", BT + "t0_mmu.c", "if (unlikely(!(e & PTE_P) || (e & bad))) {",
     "if (unlikely(!(e & PTE_P))) {", QUICK),
    ("quick_nx_is_always_known", BT + "t0_mmu.c", "    bad |= (c->s.efer & X86_EFER_NXE) ? 0 : PTE_NX;\n    for",
     "    for", QUICK),
    ("quick_accessed_table", BT + "t0_mmu.c", "        if (unlikely(!(e & PTE_A))) {\n            return false;\n        }\n",
     "", QUICK),
    ("quick_dirty_is_not_set", BT + "t0_mmu.c", "uint64_t bits = PTE_A | (write ? PTE_D : 0);\n    return likely",
     "uint64_t bits = PTE_A;\n    return likely", QUICK),
    ("quick_dirty_of_reads", BT + "t0_mmu.c", ".dirty = write || (e & PTE_D),", ".dirty = true,", QUICK),
    ("quick_large_reserved", BT + "t0_mmu.c", "if (unlikely(shift == 21 && (table & off & ~UINT64_C(0x1000)))) {",
     "if (false) {", QUICK),
    ("quick_gib", BT + "t0_mmu.c", "    if (unlikely(shift > 21)) {\n", "    if (unlikely(shift > 39)) {\n", QUICK),
    ("quick_not_allowed", BT + "t0_mmu.c", "if (unlikely(!allowed(&w, x) || !known", "if (unlikely(!known", QUICK),
    ("quick_global", BT + "t0_mmu.c", "        .global = (e & PTE_G) && (c->s.cr4 & X86_CR4_PGE),",
     "        .global = (e & PTE_G) != 0,", QUICK),
    ("quick_code_not_told", BT + "t0_mmu.c",
     "r->kind != GMEM_RAM ||\n        atomic_load_explicit(&r->code[page], memory_order_relaxed)) {",
     "r->kind != GMEM_RAM) {", QUICK),
    ("quick_table_stays_clean", BT + "t0_mmu.c",
     "    atomic_fetch_or_explicit(&r->dirty[page], 1, memory_order_relaxed);\n    return true;", "    return true;",
     QUICK),
    ("quick_alignment", BT + "t0_mmu.c", "                 bank == T0_BANK_USER_AC || c->core",
     "                 c->core", QUICK),
    ("quick_jump_of_any_page", BT + "t1_link.c", "if (e->tag != t0_itlb_tag(c, rip) || core", "if (core", JUMPS),
    ("quick_changes_flags", BT + "t1_glue.c",
     "    t1_u8(e, 0x9e); /* sahf */\n    for (unsigned i = ARRAY_LEN(kept)", "    for (unsigned i = ARRAY_LEN(kept)",
     SWITCH),
    # SYSCALL, SYSRET and IRET.
    ("switch_syscall_without_sce", BT + "t1_switch.c",
     "unusual(c) || !(c->s.efer & X86_EFER_SCE) || !t0_is64(c)) {", "unusual(c) || !t0_is64(c)) {", SWITCH),
    ("switch_syscall_flags_lost", BT + "t1_switch.c",
     "    c->flags = (uint16_t)flags;\n    c->gpr[X86_RCX] = next;", "    c->gpr[X86_RCX] = next;", SWITCH),
    ("switch_sysret_tf", BT + "t1_switch.c", "(to & X86_FL_TF) || ", "", SWITCH),
    ("switch_sysret_alignment", BT + "t1_switch.c", " || checks_alignment(c, to)) {", ") {", SWITCH),
    ("switch_sysret_from_user", BT + "t1_switch.c", "!t0_is64(c) || c->s.cpl ||\n        !t0_canonical",
     "!t0_is64(c) || !t0_canonical", SWITCH),
    ("switch_iret_tf", BT + "t1_switch.c", "const uint64_t never = X86_FL_TF | ", "const uint64_t never = ", SWITCH),
    ("switch_iret_nt", BT + "t1_switch.c", "X86_FL_VM | X86_FL_NT;", "X86_FL_VM;", SWITCH),
    ("switch_iret_noncanonical", BT + "t1_switch.c", "!t0_canonical(c, w[RIP]) || ", "", SWITCH),
    ("switch_iret_null_cs", BT + "t1_switch.c", "!(cs_sel & 0xfffc) || !desc", "!desc", SWITCH),
    ("switch_iret_any_code", BT + "t1_switch.c", "!descriptor(c, cs_sel, &cs) || !code_ok(&cs, cpl) ||",
     "!descriptor(c, cs_sel, &cs) ||", SWITCH),
    ("switch_iret_code_not_accessed", BT + "t1_switch.c", "return (cs->attr & TYPE_BITS) ==",
     "return ((cs->attr | X86_SEG_ACCESSED) & TYPE_BITS) ==", SWITCH),
    ("switch_iret_stack_rpl", BT + "t1_switch.c", "return (sel & 3) == cpl && descriptor(c, sel, ret) &&",
     "return descriptor(c, sel, ret) &&", SWITCH),
    ("switch_iret_stack_read_only", BT + "t1_switch.c", "(ret->attr & all) ==", "((ret->attr | X86_SEG_RW) & all) ==",
     SWITCH),
    ("switch_iret_null_stack_of_users", BT + "t1_switch.c", "return sel == 0 && cpl == 0;", "return sel == 0;", SWITCH),
    ("switch_iret_keeps_segments", BT + "t1_switch.c", "(cpl && (drops_segments(c) || checks_alignment(c, w[FLAGS])))",
     "(cpl && checks_alignment(c, w[FLAGS]))", SWITCH),
    ("switch_iret_alignment", BT + "t1_switch.c", "(drops_segments(c) || checks_alignment(c, w[FLAGS]))",
     "drops_segments(c)", SWITCH),
    ("switch_iret_limit_of_gdt", BT + "t1_switch.c", "(sel & 4) || (sel | 7u) > c->s.gdtr.limit || !h", "(sel & 4) || !h",
     SWITCH),
    ("switch_iret_ldt", BT + "t1_switch.c", "if ((sel & 4) || (sel", "if ((sel", SWITCH),
    ("switch_irq_is_late", BT + "t1_switch.c", "return c->debug || core->irq_maybe || core", "return c->debug || core", SWITCH),
    ("base_of_any_address", BT + "t1_sys.c", "        t1_slow_unless_zero(t);\n    }\n    t1_store(e, t1_field(offsetof(struct t0_cpu, seg_base)",
     "    }\n    t1_store(e, t1_field(offsetof(struct t0_cpu, seg_base)", SWITCH),
    ("base_without_cr4", BT + "t1_sys.c", "    struct t1_emit *e = &t->e;\n    check_fsgsbase(t);\n",
     "    struct t1_emit *e = &t->e;\n", SWITCH),
    ("base_is_not_stored", BT + "t1_sys.c", "    t1_store(e, t1_field(offsetof(struct t0_cpu, seg_base) + 8u * seg), v);\n", "",
     SWITCH),
    ("base_keeps_upper_half", BT + "t1_sys.c", "    if (insn->opsize != 8) {\n        t1_mov_rr32(e, T1_S2, v);",
     "    if (insn->opsize != 8) {\n        t1_mov_rr(e, T1_S2, v);", SWITCH),
    ("selector_of_16_bits_is_wide", BT + "t1_sys.c", ".p66 = o[0].size == 2 ? 0x66 : 0, .w = o[0].size != 2,",
     ".w = true,", SWITCH),
    # Views.
    ("fallbacks_not_counted", BT + "t1_code.c", "    t1->steps++;\n    t1->fallbacks[what >> 16]++;",
     "    t1->steps++;", VIEW),
    ("bank_of_misses", BT + "t0_tlb.c", "core->n.fills[bank]++;", "core->n.fills[0]++;", VIEW),
    ("jitdump_of_half_a_name", BT + "t1_view.c", "size_t name_size = strlen(name) + 1;",
     "size_t name_size = strlen(name);", VIEW),
    ("one_insn_is_many", BT + "bt_options.c", "t->one_insn ? 1 : T0_BLOCK_MAX_INSNS",
     "t->one_insn ? 2 : T0_BLOCK_MAX_INSNS", VIEW),
]


def program(objects, test):
    """The command line of @test, and what is to be built for it."""
    if ":" not in test:
        target = f"vmm/accel/bt/{test}"
        return [str(objects / target)], [target]
    guest, cpus, options = test.split(":")
    target = f"tests/guest/{guest}.elf"
    argv = [str(objects / "cmd/lodge-vmm"), "-M", "microvm", "-accel", f"bt,{options}", "-cpu",
            "max", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial",
            "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-smp", cpus,
            "-append", f"cpus={cpus}", "-device", "virtio-rng-device", "-kernel",
            str(objects / target)]
    return argv, ["cmd/lodge-vmm", target]


def run_tests(objects, tests, took=None):
    """('caught', why), ('missed', '') or ('does not build', why). @took: how long each test
    takes, or None: that is what is to be found out, by test."""
    times = {}
    for test in tests:
        argv, targets = program(objects, test)
        done = base.run(["ninja", "-C", str(objects), *targets])
        if done.returncode:
            return "does not build", done.stdout[-1500:]
        passes = 33 if ":" in test else 0
        start = time.monotonic()
        limit = SECONDS + 5 * took[test] if took else 20 * SECONDS
        try:
            done = base.run(argv, timeout=limit, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return "caught", f"{test}: did not come back"
        if done.returncode != passes:
            why = [line for line in done.stdout.splitlines()
                   if line.startswith(("not ok", "Bail out", "#  ", "lodge-vmm:"))]
            return "caught", f"{test}: {(why or ['ended with ' + str(done.returncode)])[0]}"
        times[test] = time.monotonic() - start
    return "missed", "" if took else times


def try_mutant(tree, objects, mutant, took):
    what = base.resolve(tree, mutant[:4])
    if isinstance(what, str):
        return "stale", what
    path, text, mutated = what
    path.write_text(mutated)
    try:
        return run_tests(objects, mutant[4], took)
    finally:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/mutants")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    mutants = [m for m in MUTANTS if not args.names or m[0] in args.names]
    if args.list:
        print("\n".join(m[0] for m in mutants))
        return 0
    tree, objects = base.prepare(args.build)
    verdict, took = run_tests(objects, sorted({t for m in mutants for t in m[4]}))
    if verdict != "missed":
        sys.exit(f"without any mutant: {verdict}: {took}")
    bad = []
    for mutant in mutants:
        start = time.monotonic()
        verdict, detail = try_mutant(tree, objects, mutant, took)
        print(f"{verdict:8} {mutant[0]:32} {time.monotonic() - start:5.0f} s  {detail}", flush=True)
        if verdict != "caught":
            bad.append(mutant[0])
    if bad:
        print(f"not caught: {' '.join(bad)}")
    print(f"{len(mutants) - len(bad)} of {len(mutants)} caught")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
