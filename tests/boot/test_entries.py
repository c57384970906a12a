"""The entries of a bzImage: -machine kernel-entry=16bit goes through a little firmware in
real mode, 64bit starts in long mode. And the kernel that firmware finds by fw_cfg."""
import pathlib
import subprocess

import pytest

import assets
import vm

GUESTS = vm.BUILT / "tests/guest"
KIB, MIB = 1 << 10, 1 << 20


def run_setup(program, *extra):
    """What the real-mode test kernel is told: {name: [values]}."""
    qemu = vm.is_qemu(program)
    argv = [program, "-M", "pc" if qemu else "microvm,kernel-entry=16bit", "-m", "256",
            "-nodefaults", "-display", "none", "-serial", "stdio", "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel",
            GUESTS / ("setup16_serial.bin" if qemu else "setup16.bin"), *extra]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60)
    assert done.returncode == 33, (done.stdout, done.stderr)
    said = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, is_line, value = line.partition("=")
        if is_line:
            said.setdefault(name, []).append(value if name == "cmdline" else int(value, 16))
    return said


@pytest.mark.parametrize("machine", ["lodge", "qemu"])
def test_firmware_answers_what_a_setup_code_asks(vmm, tmp_path, machine):
    program = vmm if machine == "lodge" else vm.QEMU
    (tmp_path / "initrd").write_bytes(bytes(5000))

    said = run_setup(program, "-append", "one two=3", "-initrd", tmp_path / "initrd")

    assert said["cs_minus_ds"] == [0x20]
    assert said["heap"] == [0x8000]
    assert said["heap_end"][0] + 0x200 >= said["sp"][0] > 0xd000
    assert said["cmdline"] == ["one two=3"]
    assert said["ramdisk"] == [5000]
    assert said["int12"] == [639]
    assert said["int1588"] == [0xfc00] and said["e801_ax"] == said["e801_cx"] == [0x3c00]
    assert said["e801_bx"] == said["e801_dx"]
    assert 0xe00 < said["e801_bx"][0] <= 240 * 16  # QEMU's firmware keeps some
    assert set(said["e820_signature"]) == {0x534d4150}
    ram = [(base, length) for base, length, kind in
           zip(said["e820_base"], said["e820_len"], said["e820_type"]) if kind == 1]
    assert ram[0] == (0, 0x9fc00) and ram[1][0] == MIB
    for name in ("int1588_cf", "e801_cf", "a20_support_cf", "a20_on_cf", "rtc_cf", "wait_cf"):
        assert said[name] == [0], name
    assert said["e820_bad_cf"] == said["disk_cf"] == said["a20"] == said["ticks"] == [1]
    assert said["no_key"] == [1] and said["ega"] == [0x10]
    if machine == "lodge":
        assert ram == [(0, 0x9fc00), (MIB, 255 * MIB)]
        assert said["e801_bx"] == [240 * 16]


@pytest.mark.parametrize("entry, kind", [("16bit", "cloud"), ("64bit", "cloud"),
                                         ("16bit", "686")])
def test_debians_kernels_boot_by_every_entry(run_vm, is_lodge, entry, kind):
    if not is_lodge:
        pytest.skip("a choice of ours")
    guest = run_vm("-machine", f"kernel-entry={entry}", "-no-reboot",
                   kernel=assets.kernel(kind), initrd=assets.initrd(kind),
                   append="console=ttyS0 panic=-1 edd=on")

    guest.wait_for(vm.USER_SPACE, 240)
    guest.kill()
    assert ("Probing EDD" in guest.serial) == (entry == "16bit"), guest.serial[:500]


ROM = "/usr/share/qemu/linuxboot_dma.bin"  # QEMU's option ROM that starts a kernel


@pytest.mark.parametrize("bios, extra", [
    ("qboot.rom", []),
    ("bios-microvm.bin", ["-fw_cfg", f"name=genroms/linuxboot_dma.bin,file={ROM}",
                          "-fw_cfg", "bootorder,string=/rom@genroms/linuxboot_dma.bin"]),
])
def test_firmware_finds_the_kernel_by_fw_cfg(run_vm, is_lodge, bios, extra):
    if not is_lodge:
        pytest.skip("a choice of ours")
    folders = [pathlib.Path("/usr/share") / name for name in ("qemu", "seabios")]
    if not any((f / bios).exists() for f in folders) or not pathlib.Path(ROM).exists():
        pytest.skip("QEMU's firmware is not here")
    guest = run_vm("-machine", "kernel-entry=firmware,bios-writable=on", "-bios", bios,
                   *extra, "-no-reboot", kernel=assets.kernel(), initrd=assets.initrd(),
                   append="console=ttyS0 panic=-1")

    guest.wait_for(vm.USER_SPACE, 240)
    guest.kill()


def test_reboot_through_the_bios_resets(run_vm, is_lodge):
    """Linux jumps to the reset code in real mode, which finds that nobody asked it to
    start a kernel."""
    if not is_lodge:
        pytest.skip("a choice of ours")
    guest = run_vm("-machine", "kernel-entry=16bit,acpi=off", "-no-reboot",
                   kernel=assets.kernel(), initrd=None,
                   append="console=ttyS0 panic=-1 reboot=bios")

    assert guest.wait(240) == 0, guest.serial
    assert "Kernel panic" in guest.serial


def refuse(vmm, machine, *words):
    argv = [vmm, "-M", machine, "-nodefaults", "-display", "none", *words]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60)
    assert done.returncode == 1
    return done.stderr.decode(errors="replace")


WRONG = [
    ("17bit", ["-kernel", GUESTS / "setup16.bin"], "16bit"),
    ("64bit", ["-kernel", GUESTS / "setup16.bin"], "has no 64-bit entry"),
    ("16bit", ["-kernel", GUESTS / "multiboot.elf"], "only a Linux bzImage"),
    ("16bit", ["-kernel", GUESTS / "setup16.bin", "-bios", GUESTS / "rom.bin"], "no -bios"),
    ("firmware", ["-kernel", GUESTS / "setup16.bin"], "needs -bios"),
]


@pytest.mark.parametrize("entry, words, why", WRONG, ids=[w[2] for w in WRONG])
def test_wrong_entry_is_refused(vmm, is_lodge, entry, words, why):
    if not is_lodge:
        pytest.skip("the words are ours")

    assert why in refuse(vmm, f"microvm,kernel-entry={entry}", *words)


def test_processor_without_long_mode_has_no_64_bit_entry(vmm, is_lodge):
    if not is_lodge:
        pytest.skip("the words are ours")

    assert "no long mode" in refuse(vmm, "microvm,kernel-entry=64bit", "-cpu", "qemu64,-lm",
                                    "-kernel", assets.kernel())
