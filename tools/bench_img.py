"""Disk images: lodge-img and lodge-io against Debian's qemu-img and qemu-io.

usage: ./dev bench img [--only PATTERN]... [--repeat N] [--json] [--list] [--disk DIR]
                       [--keep]
       ./dev bench img --docs FILE.json...   (docs/bench-img.md, from --json's output)

Every row is one command, which both tools run in turn on the same inputs: in memory
(tmpfs), in a folder of the disk, and for shared extents on an XFS in a file (root only).
Every output is looked at by Debian's tool: it must be the same as its source and check
clean. PATTERNs match rows or places as the shell does: --only 'pack-*' --only disk.

The columns: medians of wall and CPU time of Lodge and of Debian's tool; wall and CPU time
of Lodge divided by the other's; the smallest and largest wall ratio of the rounds; the
aim for it. A machine with other work slows both, so ratios of CPU time say more there.
"""
import argparse
import dataclasses
import fnmatch
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import assets
import bench_img_inputs
import bench_img_report
import bench_img_rows

TIMEOUT = 300
BIN = assets.ROOT / "build/bin"
SIDES = {
    "lodge": {"img": str(BIN / "lodge-img"), "io": str(BIN / "lodge-io")},
    "qemu": {"img": "/usr/bin/qemu-img", "io": "/usr/bin/qemu-io"},
}


class Failed(Exception):
    """A run that went wrong, or an output that is not what it should be."""


@dataclasses.dataclass
class Sample:
    wall: float
    cpu: float
    bytes: int = 0


def expand(text, names):
    """Words of @text with {name} replaced; names are paths without blanks."""
    return [w.format_map(names) for w in text.split()]


class Names(dict):
    """{name} in a row's command: an input, or the output."""

    def __init__(self, inputs, out):
        super().__init__(out=str(out))
        self.inputs = inputs

    def __missing__(self, name):
        return str(self.inputs.path(name))


def tool(argv, what):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
    if done.returncode:
        text = done.stdout.decode(errors="replace").strip()[-300:]
        raise Failed(f"{what}: {text or done.returncode}")


def timed(argv, script):
    """Run @argv: its wall time, and the CPU time of all its threads."""
    with open(script or os.devnull, "rb") as given:
        start = time.monotonic()
        process = subprocess.Popen(argv, stdin=given, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        text = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
    if process.returncode:
        raise Failed(f"{argv[0]}: {text.decode(errors='replace').strip()[-300:]}"
                     f" (exit code {process.returncode})")
    return Sample(wall, usage.ru_utime + usage.ru_stime)


def at_its_end(argv, fields):
    """Fields of /proc/PID/status and smaps_rollup, in bytes, when the process has done
    its work: it stands in the write of its report, because the pipe is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=writer,
                               stderr=subprocess.DEVNULL)
    os.close(writer)
    folder, found = pathlib.Path(f"/proc/{process.pid}"), {}
    deadline = time.monotonic() + TIMEOUT
    try:
        while not (folder / "syscall").read_text().startswith("1 0x1 "):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{argv[0]} did not come to write its report")
            time.sleep(0.01)
        for line in [*(folder / "status").read_text().splitlines(),
                     *(folder / "smaps_rollup").read_text().splitlines()]:
            key, _, value = line.partition(":")
            if key in fields:
                found[key] = int(value.split()[0]) << 10
    finally:
        os.close(reader)
        process.kill()
        process.wait()
    return found


class Place:
    """A folder with inputs, and the rows run there."""

    def __init__(self, name, folder):
        self.name, self.folder = name, pathlib.Path(folder)
        self.inputs = bench_img_inputs.Inputs(folder)

    def prepare(self, row, out):
        out.unlink(missing_ok=True)
        if row.copy:
            assets.run(["cp", "--sparse=always", "--reflink=never",
                        self.inputs.path(row.copy), out])
        if row.first:
            tool([SIDES["qemu"]["img"], *expand(row.first, Names(self.inputs, out))],
                 "preparing")

    def verify(self, row, out):
        img, names = SIDES["qemu"]["img"], Names(self.inputs, out)
        if out.exists() and row.check:
            tool([img, "check", "-q", str(out)], "qemu-img check")
        if row.same:
            tool([img, "compare", *expand(row.same, names)], "qemu-img compare")
        elif row.source:
            kind = ["-F", row.kind] if row.kind else []
            tool([img, "compare", *kind, *expand(f"{{{row.source}}} {{out}}", names)],
                 "qemu-img compare")

    def run(self, row, side):
        """One sample; verified, with the clock stopped."""
        out = self.folder / f"out-{side}"
        self.prepare(row, out)
        names = Names(self.inputs, out)
        argv = [SIDES[side][row.tool], *expand(row.command, names)]
        script = str(self.inputs.path(row.script)) if row.script else None
        os.sync()
        sample = timed(argv, script)
        self.verify(row, out)
        if row.source and out.exists():
            sample.bytes = out.stat().st_size
        out.unlink(missing_ok=True)
        return sample

    def memory(self, row, side):
        out = self.folder / f"out-{side}"
        argv = [SIDES[side][row.tool], *expand(row.command, Names(self.inputs, out))]
        return at_its_end(argv, ("VmHWM", "Private_Dirty"))


def median(samples, field):
    return statistics.median(getattr(s, field) for s in samples)


def judge(row, place, samples):
    """What is reported of a row: medians, ratios, and whether the aims are reached."""
    ours, theirs = samples["lodge"], samples["qemu"]
    ratios = [a.wall / b.wall for a, b in zip(ours, theirs)]
    one = {"row": row.name, "place": place, "aim": row.aim,
           "ratio": median(ours, "wall") / median(theirs, "wall"),
           "cpu_ratio": median(ours, "cpu") / max(median(theirs, "cpu"), 1e-6),
           "spread": [min(ratios), max(ratios)]}
    for side, all_ in samples.items():
        one[side] = {"wall": [s.wall for s in all_], "cpu": [s.cpu for s in all_],
                     "median_wall": median(all_, "wall"),
                     "median_cpu": median(all_, "cpu")}
    one["reached"] = row.aim is None or one["ratio"] <= row.aim
    if row.size_aim:
        one["size_ratio"] = ours[0].bytes / theirs[0].bytes
        one["size_aim"] = row.size_aim
        one["reached"] = one["reached"] and one["size_ratio"] <= row.size_aim
    return one


def measure(row, place, repeat):
    samples = {side: [] for side in SIDES}
    try:
        for number in range(repeat):
            order = list(SIDES) if number % 2 == 0 else list(reversed(SIDES))
            for side in order:
                samples[side].append(place.run(row, side))
        one = judge(row, place.name, samples)
        if row.memory_aim or row.name == "start":
            one["memory"] = {side: place.memory(row, side) for side in SIDES}
            most = one["memory"]["lodge"]["VmHWM"] / (1 << 20)
            one["reached"] = one["reached"] and most <= (row.memory_aim or most)
        return one
    except (Failed, subprocess.TimeoutExpired, assets.AssetError, OSError) as error:
        return {"row": row.name, "place": place.name, "aim": row.aim, "ratio": None,
                "reached": False, "failed": str(error)}


def wanted(row, place, patterns):
    """Rows and places are different words: a pattern that names a place narrows."""
    places = {"tmpfs", "disk", "xfs"}
    by_place = [p for p in patterns if p in places]
    by_row = [p for p in patterns if p not in places]
    return (not by_place or place in by_place) and (
        not by_row or any(fnmatch.fnmatchcase(row.name, p) for p in by_row))


def run_place(name, folder, rows, options, say):
    place, results = Place(name, folder), []
    for row in rows:
        one = measure(row, place, options.repeat)
        say(one)
        results.append(one)
    return results


def folders(options):
    """{place: a new folder there}; what is in it goes with it."""
    disk = pathlib.Path(options.disk) if options.disk else assets.ROOT / "build"
    disk.mkdir(parents=True, exist_ok=True)
    return {"tmpfs": "/dev/shm", "disk": disk, "xfs": disk}


def run_all(options, say):
    results = []
    for name, parent in folders(options).items():
        rows = [r for r in bench_img_rows.rows()
                if name in r.places and wanted(r, name, options.only)]
        if not rows:
            continue
        if options.keep and name != "xfs":
            folder = pathlib.Path(parent, f"bench-img-{name}")
            folder.mkdir(exist_ok=True)
            results += run_place(name, folder, rows, options, say)
            continue
        with tempfile.TemporaryDirectory(prefix="bench-img-", dir=parent) as folder:
            if name != "xfs":
                results += run_place(name, folder, rows, options, say)
                continue
            point = bench_img_inputs.reflink_place(pathlib.Path(folder))
            if point is None:
                print("no XFS could be mounted here: its rows are left out",
                      file=sys.stderr)
                continue
            try:
                results += run_place(name, point, rows, options, say)
            finally:
                bench_img_inputs.leave_reflink_place(point)
    return results


def host():
    version = subprocess.run([SIDES["qemu"]["img"], "--version"], check=True,
                             capture_output=True, text=True).stdout.split()[2]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(),
            "qemu": version}


def parse(args):
    parser = argparse.ArgumentParser(
        prog="./dev bench img", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--repeat", type=int, default=3, metavar="N",
                        help="rounds of each row (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--list", action="store_true", help="the rows, and their aims")
    parser.add_argument("--disk", metavar="DIR", help="a folder to measure in (default: build)")
    parser.add_argument("--keep", action="store_true",
                        help="leave the inputs, and use those of an earlier run")
    parser.add_argument("--docs", nargs="+", metavar="FILE.json",
                        help="write docs/bench-img.md's tables from --json's output")
    options = parser.parse_args(args)
    if options.repeat < 1:
        parser.error("--repeat: at least 1")
    return options


def main(args):
    options = parse(args)
    if options.docs:
        bench_img_report.write(options.docs)
        return 0
    if options.list:
        for row in bench_img_rows.rows():
            aim = "-" if row.aim is None else row.aim
            print(f"{row.name:20} {aim!s:5} {' '.join(row.places):10} {row.command}")
        return 0
    if not shutil.which(SIDES["qemu"]["img"]):
        raise assets.AssetError("no qemu-img to compare with (Debian's qemu-utils)")
    def say(one):
        text = bench_img_report.line(one)
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)
    say(None)
    results = run_all(options, say)
    if options.json:
        json.dump({"host": host(), "repeat": options.repeat, "rows": results},
                  sys.stdout, indent=1)
        print()
    return 0 if results and not any("failed" in r for r in results) else 1
