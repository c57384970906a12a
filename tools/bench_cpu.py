"""Programs in a Linux guest: Lodge's software CPU, QEMU's TCG, and the host itself.

usage: ./dev bench cpu [--only PATTERN]... [--smp N] [--repeat N] [--tier N] [--accel A]
                       [--no-native] [--no-tcg] [--json] [--counters] [--list]
       ./dev bench cpu --docs FILE.json...   (docs/bench-cpu.md, from --json's output)

One initramfs (bench_cpu_image.py) boots under Debian's qemu-system-x86_64 with TCG and
under lodge-vmm, and the host runs the same files in a chroot. All three stay up; every
workload of tests/bench/cpu/workloads.txt runs in each of them in turn, so that a busy
host slows all of them. Times are the host's clock, between two words that the guest
writes to its serial line, with nothing subtracted. What a workload computes must be
the same everywhere: who is wrong, crashes or hangs has failed, and counts as 0.

NAMEs match as shell patterns. The columns: the medians in seconds, how many times
Lodge is faster than TCG, and how many times slower than the host. With --repeat above
1 the last column is the range of the faster-than-TCG ratio over the repeats.
"""
import argparse
import dataclasses
import fnmatch
import json
import math
import os
import pathlib
import re
import statistics
import sys

import assets
import bench_cpu_counters
import bench_cpu_image
import bench_cpu_report
import vm

LODGE, TCG, NATIVE = "lodge", "tcg", "native"
CLASSES = {"integer": "integer", "calls": "calls and indirect", "memory": "memory",
           "fp": "FP and SIMD", "os": "operating system", "app": "applications"}
TIMEOUT = 180
MEMORY = "768M"
APPEND = "console=ttyS0 quiet panic=-1 random.trust_cpu=on"


@dataclasses.dataclass(frozen=True)
class Workload:
    kind: str
    name: str
    command: str


def workloads():
    table = []
    for line in bench_cpu_image.TABLE.read_text().splitlines():
        words = line.split(None, 2)
        if words and words[0] in CLASSES:
            table.append(Workload(*words))
    return table


@dataclasses.dataclass
class Result:
    """One run of a workload; @seconds is None when it did not come to an end."""
    seconds: float | None
    status: str = ""  # what it computed, or what went wrong
    ok: bool = False


class Side:
    """A machine that serves commands, started again when it has gone."""

    def __init__(self, argv):
        self.argv, self.machine, self.number, self.boots = argv, None, 0, []

    def start(self):
        self.machine = vm.Vm(self.argv)
        self.boots.append(self.machine.wait_for("cpubench: ready", TIMEOUT))

    def stop(self):
        if self.machine:
            self.machine.kill()
            self.machine = None

    def run(self, command):
        self.number += 1
        number, result = self.number, Result(None)
        try:
            if not self.machine:
                self.start()
            self.machine.type(f"{number} {command}\n")
            begin = self.machine.wait_for(f"begin {number}.", TIMEOUT)
            seconds = self.machine.wait_for(f"end {number}.", TIMEOUT) - begin
            sums = re.compile(rf"sum {number} (-?\d+) (\w+)\.")
            self.machine.wait_for(f"sum {number} ", TIMEOUT)
            while not (found := sums.search(self.machine.serial)):
                self.machine.wait_for("\n", TIMEOUT, self.machine.serial.count("\n") + 1)
            result = Result(seconds, found[2], found[1] == "0")
            if not result.ok:
                words = self.machine.serial.split(f"begin {number}.")[-1]
                words = words.split(f"end {number}.")[0].strip()
                result.status = f"wait status {found[1]}; {words}"
        except (vm.Timeout, OSError) as error:
            result.status = str(error)
            self.stop()
        return result


def vm_side(options, program, accel=None, extra=()):
    initrd, _ = bench_cpu_image.image()
    argv = vm.vm_argv(program, kernel=assets.kernel(), initrd=initrd, append=APPEND,
                      memory=MEMORY, accel=accel,
                      extra=["-smp", str(options.smp), "-no-reboot", *extra])
    return Side(argv)


def lodge_accel(options):
    return options.accel or ("bt" if options.tier is None else f"bt,tier={options.tier}")


def lodge_side(options, extra=()):
    return vm_side(options, vm.default_vmm(), lodge_accel(options), extra)


def make_sides(options):
    sides = {}
    if options.native:
        _, tree = bench_cpu_image.image()
        sides[NATIVE] = Side([tree / "init", "serve", tree, options.smp])
    if options.tcg:
        sides[TCG] = vm_side(options, vm.QEMU)
    sides[LODGE] = lodge_side(options)
    return sides


def judge(runs):
    """Marks as failed what did not compute what the others did; @runs: side -> Result."""
    reference = next((runs[s].status for s in (NATIVE, TCG, LODGE)
                      if s in runs and runs[s].ok), None)
    for side, run in runs.items():
        if run.ok and run.status != reference:
            run.ok, run.status = False, f"wrong result {run.status}, not {reference}"
        if not run.ok:
            print(f"{side}: {run.status}", file=sys.stderr, flush=True)


def measure(options, chosen):
    """{name: {side: [Result]}}, and the seconds that the sides needed to start."""
    sides = make_sides(options)
    results = {w.name: {side: [] for side in sides} for w in chosen}
    try:
        for repeat in range(options.repeat):
            for w in chosen:
                runs = {side: machine.run(w.command) for side, machine in sides.items()}
                text = "  ".join(f"{s} {r.seconds:.3f}" if r.seconds else f"{s} failed"
                                 for s, r in runs.items())
                print(f"{repeat + 1}/{options.repeat} {w.name}: {text}", file=sys.stderr,
                      flush=True)
                judge(runs)
                for side, run in runs.items():
                    results[w.name][side].append(run)
    except KeyboardInterrupt:
        print("dev: interrupted: only what has been measured", file=sys.stderr)
        results = {n: runs for n, runs in results.items() if all(runs.values())}
    finally:
        for machine in sides.values():
            machine.stop()
    return results, {s: m.boots for s, m in sides.items()}


def median(runs):
    """Seconds; None when any of the runs has failed."""
    if not runs or not all(r.ok for r in runs):
        return None
    return statistics.median(r.seconds for r in runs)


def ratio(top, bottom):
    """How many times the time @top is the time @bottom; a failed @bottom makes it 0."""
    if bottom is None:
        return 0.0
    return None if top is None else top / bottom


def mean(ratios):
    known = [r for r in ratios if r is not None]
    if not known:
        return None
    return math.exp(statistics.fmean(map(math.log, known))) if all(known) else 0.0


def row(w, runs):
    times = {side: median(runs.get(side, [])) for side in (NATIVE, TCG, LODGE)}
    over = [t.seconds / l.seconds for t, l in zip(runs.get(TCG, []), runs[LODGE])
            if t.ok and l.ok]
    return {"class": w.kind, "name": w.name, **times,
            "lodge_over_tcg": ratio(times[TCG], times[LODGE]) if TCG in runs else None,
            "lodge_over_native": times[LODGE] and times[NATIVE] and
            times[LODGE] / times[NATIVE],
            "tcg_over_native": times[TCG] and times[NATIVE] and times[TCG] / times[NATIVE],
            "spread": [min(over), max(over)] if over else None,
            "failures": {s: [r.status for r in all_of if not r.ok]
                         for s, all_of in runs.items() if not all(r.ok for r in all_of)}}


def summarize(rows):
    groups = {"all": rows} | {k: [r for r in rows if r["class"] == k] for k in CLASSES}
    return {name: {"workloads": len(group),
                   "failed": sum(LODGE in r["failures"] for r in group),
                   "slower_than_tcg": [r["name"] for r in group
                                       if r["lodge_over_tcg"] is not None
                                       and r["lodge_over_tcg"] < 1],
                   **{key: mean(r[key] for r in group) for key in
                      ("lodge_over_tcg", "lodge_over_native", "tcg_over_native")}}
            for name, group in groups.items() if group}


def number(value, form="{:.2f}x"):
    return "-" if value is None else form.format(value)


def show(report):
    print(f"{'workload':15}{'native':>9}{'TCG':>9}{'Lodge':>9}{'Lodge/TCG':>11}"
          f"{'Lodge/native':>14}")
    for r in report["rows"]:
        lodge = "FAILED" if LODGE in r["failures"] else number(r[LODGE], "{:.3f}")
        spread = "  " + " to ".join(f"{v:.2f}" for v in r["spread"]) \
            if r["spread"] and report["repeat"] > 1 else ""
        print(f"{r['name']:15}{number(r[NATIVE], '{:.3f}'):>9}{number(r[TCG], '{:.3f}'):>9}"
              f"{lodge:>9}{number(r['lodge_over_tcg']):>11}"
              f"{number(r['lodge_over_native']):>14}{spread}")
        for side, why in r["failures"].items():
            print(f"    {side} failed: {why[0].splitlines()[0]}")
    print("\ngeometric means: times faster than TCG, times slower than native")
    for name, s in report["means"].items():
        failed = f", {s['failed']} failed" if s["failed"] else ""
        slower = f"; slower than TCG: {', '.join(s['slower_than_tcg'])}" \
            if s["slower_than_tcg"] and name != "all" else ""
        print(f"  {CLASSES.get(name, name):20}{number(s['lodge_over_tcg']):>9}"
              f"{number(s['lodge_over_native']):>9}"
              f"   ({s['workloads']} workloads{failed}{slower})")
    for side, boots in report["boots"].items():
        again = f", started {len(boots)} times" if len(boots) > 1 else ""
        print(f"{side}: " +
              (f"ready after {boots[0]:.2f} s{again}" if boots else "did not start"))


def host():
    """What the figures depend on."""
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(),
                      re.M)
    version = re.search(r"version (\S+)", assets.run([vm.QEMU, "--version"])) \
        if os.access(vm.QEMU, os.X_OK) else None
    return {"cpu": model[1] if model else "?", "cpus": os.cpu_count(),
            "kernel": os.uname().release, "qemu": version[1] if version else "?"}


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev bench cpu", allow_abbrev=False)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN",
                        help="names or classes, shell patterns; may be given again")
    parser.add_argument("--smp", type=int, default=1, help="processors (default 1)")
    parser.add_argument("--repeat", type=int, default=1, help="rounds (default 1)")
    parser.add_argument("--tier", type=int, help="of Lodge's software CPU")
    parser.add_argument("--accel", help="all of Lodge's -accel option")
    parser.add_argument("--no-native", dest="native", action="store_false")
    parser.add_argument("--no-tcg", dest="tcg", action="store_false")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--counters", action="store_true",
                        help="no times: what Lodge's software CPU counts in each")
    parser.add_argument("--docs", nargs="+", metavar="FILE.json",
                        help="write the documentation's tables and picture")
    parser.add_argument("--list", action="store_true", help="the workloads")
    options = parser.parse_args(argv)
    if options.smp < 1 or options.repeat < 1:
        parser.error("--smp, --repeat: at least 1")
    return options


def main(argv):
    options = parse(argv)
    chosen = [w for w in workloads() if not options.only or
              any(fnmatch.fnmatch(n, p) for p in options.only for n in (w.name, w.kind))]
    if not chosen:
        sys.exit("dev: --only: no such workload (./dev bench cpu --list)")
    if options.list:
        for w in chosen:
            print(f"{w.kind:8} {w.name:14} {w.command}")
        return 0
    if options.docs:
        bench_cpu_report.write(options.docs, CLASSES)
        return 0
    if options.counters:
        bench_cpu_counters.show(lambda extra: lodge_side(options, extra), chosen)
        return 0
    for program in [vm.default_vmm()] + ([vm.QEMU] if options.tcg else []):
        if not os.access(program, os.X_OK):
            raise assets.AssetError(f"no program {program}")
    results, boots = measure(options, chosen)
    rows = [row(w, results[w.name]) for w in chosen if w.name in results]
    report = {"host": host(), "accel": lodge_accel(options), "smp": options.smp,
              "repeat": options.repeat, "rows": rows, "means": summarize(rows),
              "boots": boots}
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        show(report)
    return 1 if any(LODGE in r["failures"] for r in rows) else 0
