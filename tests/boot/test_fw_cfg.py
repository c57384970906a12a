"""fw_cfg and pc-testdev as a guest sees them: the same lines on Debian's QEMU."""
import subprocess

import pytest

import vm

GUESTS = vm.BUILT / "tests/guest"
UUID = "11223344-5566-7788-99aa-bbccddeeff00"


def run(program, *extra):
    """(exit code, {name: value} of the serial line, error text)"""
    argv = [program, "-M", "pc" if vm.is_qemu(program) else "microvm", "-m", "64",
            "-nodefaults", "-display", "none", "-serial", "stdio", "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device", "pc-testdev",
            "-kernel", GUESTS / "devices.elf", *extra]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=vm.patience(60))
    lines = done.stdout.decode(errors="replace").splitlines()
    return (done.returncode, dict(l.split("=", 1) for l in lines if "=" in l),
            done.stderr.decode(errors="replace"))


@pytest.mark.parametrize("machine", ["lodge", "qemu"])
def test_guest_reads_items_and_files(vmm, tmp_path, machine):
    program = vmm if machine == "lodge" else vm.QEMU
    (tmp_path / "file").write_bytes(b"from a file")

    code, said, errors = run(
        program, "-smp", "3", "-uuid", UUID, "-fw_cfg", "name=opt/b,string=a,,b",
        "-fw_cfg", f"opt/a,file={tmp_path}/file", "-fw_cfg", f"name=opt/{'n' * 51},string=x")

    assert code == 33, errors
    assert said == {
        "signature": "554d4551", "id": "3", "uuid": "8877665544332211",
        "ram": f"{64 << 20:x}", "cpus": "3", "max_cpus": "3", "irq0": "1", "nothing": "0",
        "dma": "554d4551", "dma_low": "47464320",
        "opt/a": "b from a file", "opt/b": "3 a,b", f"opt/{'n' * 51}": "1 x",
        "dma_error": "1", "dma_far": said["dma_far"],
        "echo32": "12345678", "echo16": "1234", "echo8": "56",
        "echo_mixed": "9a34bcde", "bytes": "cafe0123", "same": "cafe0123",
        "memory": "dead77ef", "memory16": "dead", "irr_low": "0", "irr_high": "20"}
    if machine == "lodge":
        assert said["dma_far"] == "1"


WRONG = [
    ("opt/a", "needs 'file' or 'string'"),
    ("opt/a,file=/x,string=y", "needs 'file' or 'string'"),
    ("string=y", "'name' is missing"),
    ("opt/a,file=/no/such/file", "/no/such/file: No such file"),
    ("opt/a,file=/", "Is a directory"),
    ("opt/a,strin=x", "did you mean 'string'?"),
    ("opt/" + "n" * 52 + ",string=x", "more than 55 bytes"),
    ("opt/\u00e4,string=x", "ASCII"),
]


@pytest.mark.parametrize("words, why", WRONG, ids=range(len(WRONG)))
def test_wrong_file_is_refused(vmm, is_lodge, words, why):
    if not is_lodge:
        pytest.skip("the words are ours")

    code, _, errors = run(vmm, "-fw_cfg", words)

    assert code == 1 and why in errors, errors


def test_foreign_name_is_warned_of(vmm, is_lodge):
    if not is_lodge:
        pytest.skip("the words are ours")

    code, said, errors = run(vmm, "-fw_cfg", "etc/mine,string=x")

    assert code == 33 and "warning" in errors and "etc/mine" in errors
