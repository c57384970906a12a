"""Small loops that each stress one thing of a CPU: Lodge's tiers, QEMU's TCG, native.

Every loop is run by a bare-metal guest (tests/bench/loops_guest.c) and as a program of
the host; all read the host's time stamp counter, and of four runs the best counts.
"""
import re
import subprocess

import vm

BUILT = vm.BUILT / "tests"
SOURCE = vm.ROOT / "tests/bench/loops.c"
TIMEOUT = 300
QEMU, NATIVE = "qemu-tcg", "native"
TIERS = {"tier-1": "bt,tier=1", "tier-0": "bt,tier=0"}

NAMES = re.findall(r'\{"([\w-]+)", \w+, ', SOURCE.read_text())
METRICS = {name: ("ns", 1, "less") for name in NAMES}


def sides():
    return ["tier-1", QEMU, "tier-0", NATIVE]


def command(side):
    if side == NATIVE:
        return [str(BUILT / "bench/loops_host")]
    program = vm.QEMU if side == QEMU else vm.default_vmm()
    machine = ["-M", "q35", "-accel", "tcg"] if side == QEMU else \
              ["-M", "microvm", "-accel", TIERS[side]]
    return [str(program), *machine, "-cpu", "max", "-m", "256", "-nodefaults",
            "-display", "none", "-no-reboot", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
            "-kernel", str(BUILT / "bench/loops.elf")]


def sample(side):
    ticks_per_ns = vm.host_tsc_khz() / 1e6
    done = subprocess.run(command(side), stdin=subprocess.DEVNULL, timeout=TIMEOUT,
                          stdout=subprocess.PIPE, check=False)
    found = dict(re.findall(r"^loop ([\w-]+) (\d+)", done.stdout.decode(), re.M))
    return {name: int(found[name]) / 1000 / ticks_per_ns if name in found else None
            for name in NAMES}


def describe(one):
    known = [v for v in one.values() if v]
    return f"{len(known)} of {len(one)} loops"
