"""Multiboot 1 kernels: the same kernels are told the same by Debian's QEMU, apart from
the loader's name."""
import subprocess

import pytest

import vm

GUESTS = vm.BUILT / "tests/guest"
KIB, MIB = 1 << 10, 1 << 20


def run(program, kernel, *extra, memory="64"):
    """(exit code, {name: [values]} of the serial line, error text)"""
    argv = [program, "-M", "pc" if vm.is_qemu(program) else "microvm", "-m", memory,
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel", kernel, *extra]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=vm.patience(60))
    said = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, is_line, value = line.partition("=")
        if is_line:
            said.setdefault(name, []).append(value)
    return done.returncode, said, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("machine", ["lodge", "qemu"])
@pytest.mark.parametrize("kernel", ["multiboot.elf", "multiboot.bin"])
def test_kernel_is_told_what_the_specification_says(vmm, tmp_path, machine, kernel):
    program = vmm if machine == "lodge" else vm.QEMU
    (tmp_path / "one").write_bytes(b"first module")
    (tmp_path / "two").write_bytes(b"x" * 5000)

    code, said, errors = run(program, GUESTS / kernel, "-append", "a=1 b,c", "-initrd",
                             f"{tmp_path}/one with words,{tmp_path}/two x,,y")

    assert code == 33, errors
    assert said["magic"] == ["2badb002"]
    assert said["vm_if"] == ["00000000"] and said["pg_pe"] == ["00000001"]
    assert said["a20"] == ["00000001"] and said["bss"] == ["00000000"]
    assert said["flags"] == ["0000004d"] and said["lower_is_600_or_more"] == ["00000001"]
    assert said["cmdline"] == [" a=1 b,c"]
    assert said["modules"] == ["00000002"]
    assert said["module"] == [
        " with words aligned 00000000 bytes 0000000c text first module",
        " x,y aligned 00000000 bytes 00001388 text " + "x" * 5000]
    for name in ("upper", "map"):
        # QEMU's firmware keeps some at the end for itself.
        assert 62 * KIB < int(said[name][0], 16) <= 63 * KIB
    if not vm.is_qemu(program):
        assert said["loader"] == ["lodge"]
        assert said["upper"] == said["map"] == [f"{63 * KIB:08x}"]


def test_memory_below_4_gib_ends_where_the_map_says(vmm, is_lodge):
    code, said, errors = run(vmm, GUESTS / "multiboot.elf", memory="5G")

    assert code == 33, errors
    assert said["cmdline"][0].strip() == "" and said["modules"] == ["00000000"]
    if is_lodge:
        assert int(said["upper"][0], 16) == int(said["map"][0], 16) == (3 << 20) - KIB


def patched(tmp_path, name, find, replace):
    """A kernel with some bytes changed, and the header's sum right again."""
    data = bytearray((GUESTS / name).read_bytes())
    header = data.index((0x1BADB002).to_bytes(4, "little"))
    find(data, header, replace)
    flags = int.from_bytes(data[header + 4:header + 8], "little")
    data[header + 8:header + 12] = (-(0x1BADB002 + flags) & 0xFFFFFFFF).to_bytes(4, "little")
    path = tmp_path / "patched"
    path.write_bytes(data)
    return path


def word(at):
    def put(data, header, value):
        data[header + at:header + at + 4] = value.to_bytes(4, "little")
    return put


WRONG = [
    ("multiboot.elf", word(4), 0x0000_0013, "wants what is unknown"),
    ("multiboot.bin", word(12), 0x0010_0000, "header is not where it says"),
    ("multiboot.bin", word(20), 0x7000_0000, "load_end_addr is 0x70000000"),
    ("multiboot.bin", word(24), 0x0020_0010, "bss_end_addr 0x200010 is within it"),
    ("multiboot.bin", word(24), 0x4000_0000, "do not fit into memory of 64 MiB"),
    ("multiboot.bin", word(28), 0x0010_0000, "entry point 0x100000 is outside"),
]


@pytest.mark.parametrize("kernel, change, value, why", WRONG, ids=[w[3] for w in WRONG])
def test_wrong_header_is_refused(vmm, is_lodge, tmp_path, kernel, change, value, why):
    if not is_lodge:
        pytest.skip("the words are ours")

    code, _, errors = run(vmm, patched(tmp_path, kernel, change, value))

    assert code == 1 and why in errors, errors


def test_wrong_modules_are_named(vmm, is_lodge, tmp_path):
    if not is_lodge:
        pytest.skip("the words are ours")
    (tmp_path / "large").write_bytes(b"")
    with open(tmp_path / "large", "wb") as f:
        f.truncate(62 * MIB)
    (tmp_path / "empty").write_bytes(b"")
    kernel = GUESTS / "multiboot.elf"

    for words, why in [(f"{tmp_path}/none x", f"module '{tmp_path}/none': No such file"),
                       (f"{tmp_path}/large x", "do not fit above the kernel"),
                       (f"{tmp_path}/empty", "the file is empty"),
                       (",".join([str(tmp_path / "large")] * 65), "more than 64 modules")]:
        code, _, errors = run(vmm, kernel, "-initrd", words)
        assert code == 1 and why in errors, errors


def test_command_line_may_be_long(vmm):
    code, said, errors = run(vmm, GUESTS / "multiboot.elf", "-append", "x" * 100_000)

    assert code == 33, errors
    assert said["cmdline"] == [" " + "x" * 100_000]
