"""Memory order and atomics for longer: tests/guest/smp_order.c with millions of rounds of
each shape, in each tier, with 2 and with 4 processors. `./dev test litmus`.

LODGE_LITMUS=N: N times as many.
"""
import contextlib
import os
import re
import subprocess
import time

import pytest
import vm

pytestmark = pytest.mark.long

GUEST = vm.BUILT / "tests/guest/smp_order.elf"
TIMES = int(os.environ.get("LODGE_LITMUS") or 1)
CELLS = 128  # rounds in a batch
BATCHES = 16_000 * TIMES
ROUNDS = 300_000 * TIMES
TIERS = {"tier0": "tier=0", "tier1": "tier=1,heat=1", "tier2": "tier=2,heat=1,t2-heat=1"}


def spread(pid):
    """Give each thread of a process another of the host's processors, in turn: when all are
    busy the scheduler may leave the threads of one VM on the same one for long, where they
    never run at the same time. What is seen then says that they did (SB), and is not judged.
    """
    time.sleep(0.5)  # the virtual processors' threads: the more are there, the better
    processors = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        for n, thread in enumerate(sorted(map(int, os.listdir(f"/proc/{pid}/task")))):
            os.sched_setaffinity(thread, {processors[n % len(processors)]})


@pytest.mark.parametrize("cpus", [2, 4])
@pytest.mark.parametrize("tier", TIERS)
def test_no_forbidden_order_in_millions_of_rounds(tier, cpus, record_property):
    argv = [str(vm.LODGE_VMM), "-M", "microvm", "-accel", f"bt,{TIERS[tier]}", "-cpu", "max",
            "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-smp", str(cpus),
            "-append", f"cpus={cpus} batches={BATCHES} rounds={ROUNDS} patience=20000", "-kernel", str(GUEST)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        try:
            spread(process.pid)
            out, _ = process.communicate(timeout=vm.patience(1200 * TIMES))
        finally:
            process.kill()
    text = out.decode(errors="replace")
    seen = {name: (int(odd), int(of), kind) for name, odd, of, kind
            in re.findall(r"# (\S+): (\d+) of (\d+), (\w+)", text)}
    for name, (odd, of, kind) in seen.items():
        record_property(name, f"{odd} of {of}, {kind}")
        print(f"{name}: {odd} of {of}, {kind}")

    assert process.returncode == 33, text
    assert {"MP", "SB", "LB", "2+2W", "R", "S", "CoRR"} <= set(seen)
    assert cpus == 2 or {"IRIW", "WRC"} <= set(seen)
    assert all(of == BATCHES * CELLS >= 2_000_000 for _, of, _ in seen.values())
    assert {n for n, (odd, _, kind) in seen.items() if kind == "forbidden" and odd} == set()
