"""Bare-metal guests: one pytest test for each GUEST_TEST, on Lodge's software CPU in
each of its tiers and on Debian's QEMU. Where QEMU is known to deviate from the manual
(qemu_deviations.txt) its test must fail: a deviation that is gone is to be struck from
the list."""
import fcntl
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import vm  # noqa: E402

BUILT = vm.BUILT / "tests/guest"
PASSED, FAILED = 33, 35  # isa-debug-exit: (status << 1) | 1
HANGS = 600  # seconds: a hung guest, not a slow one on a busy host

VMMS = {
    "bt": [str(vm.LODGE_VMM), "-M", "microvm", "-accel", "bt,tier=0", "-cpu", "max"],
    # Every block is translated before its second execution.
    "bt-tier1": [str(vm.LODGE_VMM), "-M", "microvm", "-accel", "bt,tier=1,heat=1",
                 "-cpu", "max"],
    # The same, every block that is entered is recorded with what follows, and checks
    # are those of processors whose LOOP is slow.
    "bt-tier2": [str(vm.LODGE_VMM), "-M", "microvm", "-accel",
                 "bt,tier=2,heat=1,t2-heat=1,jrcxz=on", "-cpu", "max"],
    "qemu": [str(vm.QEMU), "-M", "q35", "-accel", "tcg", "-cpu", "max"],
}

# Guests that want more than one processor and an entropy device on virtio-mmio, which
# QEMU has on its microvm. Eight are four for each core of the smallest host.
CPUS = {"smp": 8, "smp_branches": 2, "smp_code": 4, "smp_memory": 4, "smp_order": 4,
        "smp_monitor": 2, "smp_apic": 4}

# Features that -cpu max leaves out.
MODELS = {"la57": "max,+la57", "smp_monitor": "max,+monitor"}


def machine(vmm, guest):
    argv = [MODELS.get(guest, word) if word == "max" else word for word in VMMS[vmm]]
    if guest not in CPUS:
        return argv
    argv = ["microvm" if word == "q35" else word for word in argv]
    if vmm == "qemu":
        argv += ["-global", "virtio-mmio.force-legacy=false"]
    words = f"cpus={CPUS[guest]}"
    if vmm == "qemu":
        words += " batches=200 rounds=4000"  # it is slow, and not what is tested
    return [*argv, "-smp", str(CPUS[guest]), "-append", words,
            "-device", "virtio-rng-device"]


# Guests made of another one's source.
SOURCES = {"smc32": "smc", "smc32_user": "smc"}


def guests():
    return sorted([p.stem for p in HERE.glob("*.c")] + list(SOURCES))


def tests_of(guest):
    source = HERE / f"{SOURCES.get(guest, guest)}.c"
    return re.findall(r"^GUEST_TEST\((\w+)\)", source.read_text(), re.M)


def deviations():
    lines = (HERE / "qemu_deviations.txt").read_text().splitlines()
    rows = [line.split(None, 2) for line in lines if line and line[0] != "#"]
    return {(guest.lstrip("?"), test): (guest[0] == "?", why)
            for guest, test, why in rows}


def run_now(vmm, guest):
    argv = [*machine(vmm, guest), "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
            "-kernel", str(BUILT / f"{guest}.elf")]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=vm.patience(HANGS))
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as hung:
        code, output = "none: it hangs", hung.stdout or b""
    return code, output.decode(errors="replace").replace("\r", "")


@functools.cache
def run(vmm, guest):
    """(exit code, serial output) of one run of all the guest's tests; the processes of
    one parallel test run share it."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    kept = ROOT / f"build/test/guest/{vmm}-{guest}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with open(kept, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        known = json.loads(text) if text.endswith("]") else [None]
        if known[0] == session:
            return known[1], known[2]
        code, output = run_now(vmm, guest)
        file.truncate(0)
        file.write(json.dumps([session, code, output]))
        return code, output


def verdict(output, test):
    """("ok"/"not ok"/None, the lines that say why)."""
    why = []
    for line in output.splitlines():
        found = re.match(r"(ok|not ok) \d+ - (\w+)(.*)", line)
        if not found:
            why.append(line)
            continue
        if found[2] == test:
            return found[1] + found[3], "\n".join(why)
        why = []
    return None, "\n".join(why)


CASES = [pytest.param(v, g, t, id=f"{v}-{g}-{t}")
         for v in VMMS for g in guests() for t in tests_of(g)]


@pytest.mark.parametrize("vmm, guest, test", CASES)
def test_guest(vmm, guest, test):
    code, output = run(vmm, guest)
    said, why = verdict(output, test)
    assert said is not None, f"exit code {code}:\n{output}"
    if " # SKIP" in said:
        pytest.skip(said.partition("# SKIP ")[2])
    sometimes, reason = deviations().get((guest, test), (False, None))
    if vmm == "qemu" and reason:
        assert sometimes or said == "not ok", f"QEMU no longer deviates: {reason}"
    else:
        assert said == "ok", why


@pytest.mark.parametrize("vmm", VMMS)
@pytest.mark.parametrize("guest", guests())
def test_exit_code_says_whether_all_passed(vmm, guest):
    code, output = run(vmm, guest)
    assert code == (FAILED if "\nnot ok" in output else PASSED), output


def test_every_listed_deviation_names_a_test():
    for guest, test in deviations():
        assert test in tests_of(guest)
