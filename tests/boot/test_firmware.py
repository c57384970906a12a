"""-bios: a firmware image at the reset vector, and the ports that such guests report
through. The same image says the same on Debian's QEMU, whose PC shows firmware in the
same way (its microvm has RAM there, as bios-writable=on)."""
import pathlib
import socket
import subprocess
import time

import pytest

import vm

GUESTS = vm.BUILT / "tests/guest"
PASSED = 33  # isa-debug-exit: (0x10 << 1) | 1
KIB = 1 << 10


def run(program, *extra, machine="microvm", seconds=60):
    """(exit code, serial line, error text)"""
    argv = [program, "-M", machine, "-m", "32", "-nodefaults", "-nographic", "-vnc",
            "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-serial",
            "stdio", *extra]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=vm.patience(seconds))
    return (done.returncode, done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"))


def read_until(path, words, seconds):
    """What comes from a UNIX socket that is about to be there, up to @words."""
    end = time.monotonic() + seconds
    got = b""
    with socket.socket(socket.AF_UNIX) as s:
        while True:
            try:
                s.connect(str(path))
                break
            except OSError:
                assert time.monotonic() < end, f"no {path}"
                time.sleep(0.02)
        s.settimeout(seconds)
        while words not in got:
            more = s.recv(4096)
            assert more and time.monotonic() < end, got.decode(errors="replace")
            got += more
    return got.decode(errors="replace")


def reports(tmp_path):
    return ["-debugcon", f"file:{tmp_path}/e9", "-chardev",
            f"file,id=post,path={tmp_path}/post", "-device",
            "isa-debugcon,iobase=0x190,chardev=post"]


@pytest.mark.parametrize("machine", ["lodge", "qemu"])
def test_rom_starts_reports_and_ends(vmm, tmp_path, machine):
    program = vmm if machine == "lodge" else vm.QEMU
    board = "pc" if vm.is_qemu(program) else "microvm"

    code, serial, errors = run(program, "-bios", GUESTS / "rom.bin", *reports(tmp_path),
                               machine=board)

    assert code == PASSED, serial + errors
    assert serial.count("ok ") == 14 and "not ok" not in serial
    assert (tmp_path / "e9").read_text() == serial
    assert (tmp_path / "post").read_bytes() == bytes(range(1, 9))


@pytest.mark.parametrize("size", [64, 128, 256, 1024, 16 * KIB])
def test_images_of_all_sizes_end_at_4_gib(vmm, is_lodge, tmp_path, size):
    image = tmp_path / "image"
    image.write_bytes(bytes((size - 64) * KIB) + (GUESTS / "rom.bin").read_bytes())

    code, serial, errors = run(vmm, "-bios", image,
                               machine="microvm" if is_lodge else "pc")

    assert code == PASSED, serial + errors


def test_image_is_found_by_name_in_a_folder(vmm, is_lodge, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "named.bin").write_bytes((GUESTS / "rom.bin").read_bytes())

    code, serial, errors = run(vmm, "-L", tmp_path / "other", "-L", tmp_path, "-bios",
                               "named.bin", machine="microvm" if is_lodge else "pc")

    assert code == PASSED, serial + errors


def test_writable_firmware_is_ram(vmm, is_lodge):
    if not is_lodge:
        pytest.skip("an option of ours")

    code, serial, errors = run(vmm, "-bios", GUESTS / "rom.bin",
                               machine="microvm,bios-writable=on")

    assert code == 35, serial + errors
    assert "not ok low_copy_ignores_writes" in serial
    assert "not ok top_of_4_gib_ignores_writes" in serial
    assert "\nok triple_fault_resets_to_the_reset_vector" in serial


WRONG_IMAGES = [
    (0, "the file is empty"),
    (1, "multiple of 64 KiB"),
    (65535, "its size of 65535 bytes is not a multiple of 64 KiB"),
    (16384 * KIB + 65536, "up to 16 MiB"),
]


@pytest.mark.parametrize("size, why", WRONG_IMAGES)
def test_wrong_image_is_refused(vmm, is_lodge, tmp_path, size, why):
    if not is_lodge:
        pytest.skip("the words are ours")
    image = tmp_path / "wrong.bin"
    image.write_bytes(bytes(size))

    code, _, errors = run(vmm, "-bios", image)

    assert 0 < code < 126
    assert "wrong.bin" in errors and why in errors


WRONG_WORDS = [
    (["-bios", "no-such-bios"], "no-such-bios", "/usr/share/seabios"),
    (["-bios", "/etc"], "/etc", "not a regular file"),
    (["-global", "isa-debugcon.iobas=3"], "iobas", "did you mean 'iobase'?"),
    (["-global", "isa-debugcon"], "isa-debugcon", "TYPE.PROPERTY=VALUE"),
    (["-debugcon", "fil:x"], "fil:x", "file:"),
    (["-debugcon", "chardev:nobody"], "nobody", "chardev"),
]


@pytest.mark.parametrize("words, wrong, why", WRONG_WORDS)
def test_wrong_words_are_named(vmm, is_lodge, words, wrong, why):
    if not is_lodge:
        pytest.skip("the words are ours")

    code, _, errors = run(vmm, "-bios", GUESTS / "rom.bin", *words)

    assert 0 < code < 126
    assert wrong in errors and why in errors


def test_globals_are_defaults_of_devices(vmm, tmp_path, is_lodge):
    code, serial, errors = run(
        vmm, "-bios", GUESTS / "rom.bin", "-chardev", f"file,id=post,path={tmp_path}/post",
        "-global", "isa-debugcon.iobase=0x190", "-device", "isa-debugcon,chardev=post",
        machine="microvm" if is_lodge else "pc")

    assert code == PASSED, serial + errors
    assert (tmp_path / "post").read_bytes() == bytes(range(1, 9))


def test_seabios_finds_its_machine(vmm, is_lodge, tmp_path):
    """Debian's SeaBIOS for microvm runs to where it finds nothing to boot."""
    if not is_lodge or not pathlib.Path("/usr/share/seabios/bios-microvm.bin").exists():
        pytest.skip("not for this program, or no SeaBIOS here")
    argv = [vmm, "-M", "microvm,bios-writable=on", "-m", "64",
            "-smp", "2", "-nodefaults", "-display", "none", "-bios", "bios-microvm.bin",
            "-chardev", "socket,id=log,path=" + str(tmp_path / "log") + ",server=on",
            "-device", "isa-debugcon,iobase=0x402,chardev=log"]
    with subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL) as guest:
        try:
            log = read_until(tmp_path / "log", b"No bootable device", 60)
        finally:
            guest.kill()

    for words in ("Found QEMU fw_cfg", "QEMU fw_cfg DMA interface supported",
                  "len 0x0000000004000000 [RAM]", "Found 2 cpu(s)"):
        assert words in log, log
