"""What -d writes while a bare-metal guest runs, and what an error leaves."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import vm  # noqa: E402

BUILT = vm.BUILT / "tests/guest"
HEX = "[0-9a-f]"
EVENT = re.compile(rf" *\d+: v={HEX}{{2}} e={HEX}{{4}} i=[01] cpl=[0-3] "
                   rf"IP={HEX}{{4}}:{HEX}{{16}} pc={HEX}{{16}} SP={HEX}{{4}}:{HEX}{{16}} "
                   rf"(CR2={HEX}{{16}}|env->regs\[R_EAX\]={HEX}{{16}})( cpu=\d)?$")
TRACE = re.compile(rf"Trace (\d): 0x{HEX}+ \[{HEX}{{16}}/({HEX}{{16}})/{HEX}{{8}}/{HEX}{{8}}\]$")
CODE = re.compile(rf"0x({HEX}{{8,16}}):  (({HEX}{{2}} )+) +[a-z(]")


def command(guest, accel="bt", cpus=1):
    return [str(vm.LODGE_VMM), "-M", "microvm", "-accel", accel, "-cpu", "max", "-m", "64",
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-smp", str(cpus),
            "-append", f"cpus={cpus}", "-device", "virtio-rng-device",
            "-kernel", str(BUILT / f"{guest}.elf")]


def run(guest, *extra, log, accel="bt", cpus=1):
    argv = [*command(guest, accel, cpus), "-D", str(log), *extra]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=vm.patience(180))
    return done, log.read_text().splitlines()


def test_int_writes_every_event_and_its_registers(tmp_path):
    done, lines = run("exceptions", "-d", "int", log=tmp_path / "log")

    events = [n for n, line in enumerate(lines) if " v=" in line]
    assert done.returncode == 33 and len(events) > 20
    for count, n in enumerate(events):
        assert EVENT.match(lines[n]), lines[n]
        assert int(lines[n].partition(":")[0]) == count
        assert lines[n + 1].startswith(("RAX=", "EAX="))
    vectors = {re.search(r" v=(..)", lines[n])[1] for n in events}
    assert {"00", "06", "0d", "0e"} <= vectors
    assert any(line.startswith("  iret: ") for line in lines)


@pytest.mark.parametrize("accel", ["bt", "bt,tier=1,heat=1"])
def test_int_misses_nothing_whatever_the_tier(accel, tmp_path):
    done, lines = run("paging", "-d", "int", log=tmp_path / "log", accel=accel)

    faults = [line for line in lines if " v=0e " in line]
    assert done.returncode == 33 and len(faults) > 20
    assert all(EVENT.match(line) for line in faults)


def test_in_asm_has_bytes_and_instructions(tmp_path):
    done, lines = run("system", "-d", "in_asm", log=tmp_path / "log")

    code = [CODE.match(line) for line in lines if line.startswith("0x")]
    assert done.returncode == 33 and len(code) > 1000
    assert all(code)
    assert lines[:2] == ["-" * 16, "IN: "]
    assert any("wrmsr" in line for line in lines)


def test_exec_and_cpu_precede_every_block_of_the_filter(tmp_path):
    everything = run("paging", "-d", "in_asm", log=tmp_path / "all")[1]
    entry = next(CODE.match(line)[1] for line in everything if line.startswith("0x"))

    done, lines = run("paging", "-d", "exec,cpu,in_asm", "-dfilter", f"0x{entry}+0x20",
                      log=tmp_path / "log", accel="bt,tier=1,heat=1")

    traces = [TRACE.match(line) for line in lines if line.startswith("Trace")]
    assert done.returncode == 33 and traces
    first = int(entry, 16)
    assert all(first <= int(t[2], 16) < first + 0x20 for t in traces)
    assert sum(line.startswith(("EAX=", "RAX=")) for line in lines) == len(traces)
    assert f"EIP={entry}" in "\n".join(lines)


def test_out_asm_has_the_host_code_of_every_translation(tmp_path):
    done, lines = run("system", "-d", "in_asm,out_asm,bt", log=tmp_path / "log",
                      accel="bt,tier=1,heat=1")

    text = "\n".join(lines)
    stats = json.loads(text[text.rindex("\n[\n"):])[0]
    guest = {int(line.split(":")[0], 16) for line in lines
             if line.startswith("0x00")}
    outs = text.split("\nOUT: ")[1:]
    assert done.returncode == 33
    assert len(outs) == stats["translations"]["blocks"] > 100
    for out in outs:
        out = out.split("\n\n")[0].splitlines()
        size = int(re.match(r"\[size=(\d+)\]$", out[0])[1])
        code = [CODE.match(line) for line in out[1:] if line.startswith("0x")]
        assert all(code)
        assert sum(len(line[2].split()) for line in code) == size
        addresses = [int(a, 16) for a in re.findall(r"guest addr 0x(\w+)", "\n".join(out))]
        assert set(addresses) <= guest and out[1].endswith(" + block prologue")
        assert addresses[1:] == sorted(addresses[1:])
        assert "(bad)" not in "\n".join(out)


def test_out_asm_obeys_the_filter_and_needs_translations(tmp_path):
    entry = 0x100020
    _, some = run("system", "-d", "out_asm", "-dfilter", f"{entry:#x}+0x1", log=tmp_path / "a",
                  accel="bt,tier=1,heat=1")
    _, none = run("system", "-d", "out_asm", log=tmp_path / "b", accel="bt,tier=0")

    prologues = [line for line in some if line.endswith("block prologue")]
    assert prologues and all(f"{entry:016x}" in line for line in prologues)
    assert none == []


@pytest.mark.parametrize("name", ["one-insn-per-block", "one-insn-per-tb"])
def test_one_instruction_per_block_traces_every_instruction(name, tmp_path):
    done, lines = run("paging", "-d", "exec,nochain,in_asm,bt", log=tmp_path / "log",
                      accel=f"bt,{name}=on")

    text = "\n".join(lines)
    stats = json.loads(text[text.rindex("\n[\n"):])[0]
    traces = sum(line.startswith("Trace ") for line in lines)
    blocks = text.split("IN: \n")[1:]
    assert done.returncode == 33
    # What raises an exception is begun, and not executed; what is stepped over is both.
    faults = stats["exceptions"]
    assert 0 <= traces - stats["insns"] <= 2 * faults
    assert all(sum(line.startswith("0x") for line in b.split("\n\n")[0].splitlines()) == 1
               for b in blocks)


def test_counters_are_those_of_the_events_that_were_written(tmp_path):
    done, lines = run("smp_apic", "-d", "int,bt", log=tmp_path / "log", cpus=2)

    text = "\n".join(lines)
    stats = json.loads(text[text.rindex("\n[\n"):])
    assert done.returncode == 33 and len(stats) == 2
    taken = sum(line.startswith("Servicing hardware INT") for line in lines)
    assert sum(cpu["interrupts"] for cpu in stats) == taken > 0


def test_perf_names_translations_by_the_jitdump(tmp_path):
    if not shutil.which("perf"):
        pytest.skip("no perf")
    accel = f"bt,heat=1,jitdump={tmp_path}"
    done = subprocess.run(["perf", "record", "-q", "-k", "mono", "-o", tmp_path / "data",
                           *command("paging", accel)], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=vm.patience(180))
    if not (tmp_path / "data").exists():
        pytest.skip("perf may not record here")
    assert done.returncode == 33
    subprocess.run(["perf", "inject", "--jit", "-i", tmp_path / "data", "-o",
                    tmp_path / "named"], check=True, timeout=vm.patience(180), cwd=tmp_path)

    dump, = tmp_path.glob("jit-*.dump")
    data, at, names = dump.read_bytes(), 40, []
    while at < len(data):
        names.append(data[at + 56:data.index(0, at + 56)].decode())
        at += int.from_bytes(data[at + 4:at + 8], "little")
    pid = dump.stem.split("-")[1]
    objects = {tmp_path / f"jitted-{pid}-{n}.so" for n in range(len(names))}
    assert len(names) > 200 and objects == set(tmp_path.glob("jitted-*.so"))
    for n in (0, len(names) // 2, len(names) - 1):
        assert names[n].encode() + b"\0" in (tmp_path / f"jitted-{pid}-{n}.so").read_bytes()


def test_lines_of_several_processors_are_whole(tmp_path):
    done, lines = run("smp", "-d", "int,exec", "-dfilter", "0x100000+0x200",
                      log=tmp_path / "log", cpus=2)

    assert done.returncode == 33, done.stdout
    kinds = [line for line in lines if line.startswith("Trace") or " v=" in line]
    assert all(TRACE.match(line) or EVENT.match(line) for line in kinds)
    assert {t[1] for t in map(TRACE.match, kinds) if t} == {"0", "1"}


def test_cpu_reset_shows_every_processor(tmp_path):
    _, lines = run("system", "-d", "cpu_reset", log=tmp_path / "log", cpus=2)

    resets = [n for n, line in enumerate(lines) if line.startswith("CPU Reset")]
    assert [lines[n] for n in resets[:2]] == ["CPU Reset (CPU 0)", "CPU Reset (CPU 1)"]
    assert lines[resets[0] + 3].startswith("EIP=0000fff0 EFL=00000002 [-------] CPL=0")


def test_triple_fault_leaves_the_registers_of_every_processor(tmp_path):
    code = bytes.fromhex("0f011d 00000000 cc")  # lidt [rip]; int3
    guest = tmp_path / "guest.elf"
    guest.write_bytes(pvh_elf(code))
    argv = [str(vm.LODGE_VMM), "-M", "microvm", "-m", "16", "-nodefaults", "-display",
            "none", "-no-reboot", "-smp", "2", "-kernel", str(guest)]

    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=vm.patience(60))

    assert done.returncode == 1
    assert "the guest died of a triple fault of CPU 0" in done.stderr
    assert [int(n) for n in re.findall(r"^CPU#(\d): ", done.stderr, re.M)] == [0, 1]
    assert len(re.findall(r"^EIP=", done.stderr, re.M)) == 2
    assert len(re.findall(r"^FCW=", done.stderr, re.M)) == 2


def pvh_elf(code):
    """A 32-bit ELF of one segment at 1 MiB with the note of PVH's entry."""
    base = 0x100000
    note = b"".join(n.to_bytes(4, "little") for n in (4, 4, 18)) + b"Xen\0" + \
        (base + 0x100).to_bytes(4, "little")

    def word(*numbers, size=4):
        return b"".join(n.to_bytes(size, "little") for n in numbers)

    head = (b"\x7fELF\1\1\1" + bytes(9) + word(2, 3, size=2) + word(1, base + 0x100, 52, 0, 0) +
            word(52, 32, 2, 0, 0, 0, size=2))
    load = word(1, 0, base, base, 0x200, 0x200, 7, 0x1000)
    notes = word(4, 0xc0, base + 0xc0, base + 0xc0, len(note), len(note), 4, 4)
    return ((head + load + notes).ljust(0xc0, b"\0") + note.ljust(0x40, b"\0") +
            code.ljust(0x100, b"\xf4"))
