"""The machines pc and q35 from power-on: firmware, a boot sector, GRUB, Debian's kernel."""
import pathlib
import shutil
import uuid

import pytest

import assets
import pc
import vm

SECONDS = vm.patience(60)  # what hangs, not what is slow


@pytest.fixture
def run(vmm):
    """run(board, *words, **what pc.argv takes) -> a running vm.Vm, killed after the test."""
    running = []

    def start(board, *words, program=None, **options):
        running.append(vm.Vm(pc.argv(program or vmm, board, *words, **options)))
        return running[-1]

    yield start
    for machine in running:
        machine.kill()


def sector_words(tmp_path):
    """The exit that a boot sector takes, and the firmware's own messages in a file."""
    return ["-device", f"isa-debug-exit,iobase={pc.EXIT_PORT:#x}",
            "-chardev", f"file,id=log,path={tmp_path / 'firmware.log'}",
            "-device", "isa-debugcon,iobase=0x402,chardev=log"]


@pytest.mark.parametrize("board, before, options", [
    ("pc", [], ""),
    ("pc", [], ",disable-modern=on"),
    ("pc", [], ",disable-legacy=on,addr=1f"),
    ("pc", ["-device", "pci-bridge,id=bridge,chassis_nr=1"], ",bus=bridge,addr=3"),
    ("q35", [], ""),
    ("q35", [], ",disable-modern=on"),
    ("q35", ["-device", "pcie-root-port,id=port"], ",bus=port"),
])
@pytest.mark.parametrize("cpus", [1, 2])
def test_firmware_boots_a_sector(run, tmp_path, board, before, options, cpus):
    nonce = f"nonce {uuid.uuid4()}"
    image = pc.make_boot_disk(tmp_path / "disk.img", nonce)
    machine = run(board, *sector_words(tmp_path), *before, *pc.disk(0, image, options),
                  memory="64M", cpus=cpus)
    assert machine.wait(SECONDS) == pc.SECTOR_ENDS_WITH, machine.errors
    assert nonce in machine.serial
    log = (tmp_path / "firmware.log").read_text(errors="replace")
    assert "SeaBIOS (version" in log
    assert f"Found {cpus} cpu(s)" in log


@pytest.mark.parametrize("board", pc.BOARDS)
def test_bootindex_is_the_order_of_booting(run, tmp_path, board):
    first = pc.make_boot_disk(tmp_path / "first.img", "the one in the lower slot")
    second = pc.make_boot_disk(tmp_path / "second.img", "the one that is wanted")
    machine = run(board, *sector_words(tmp_path), *pc.disk(0, first, ",bootindex=2"),
                  *pc.disk(1, second, ",bootindex=1"), memory="64M")
    assert machine.wait(SECONDS) == pc.SECTOR_ENDS_WITH, machine.errors
    assert machine.serial.endswith("the one that is wanted")


def test_firmware_tries_again_when_it_is_told_to(run, tmp_path):
    """A disk without a boot sector, then a reset by the firmware."""
    (tmp_path / "empty.img").write_bytes(bytes(1 << 20))
    machine = run("q35", *sector_words(tmp_path), *pc.disk(0, tmp_path / "empty.img"),
                  "-boot", "reboot-timeout=10", "-no-reboot", memory="64M")
    assert machine.wait(SECONDS) == 0, machine.errors
    log = (tmp_path / "firmware.log").read_text(errors="replace")
    assert "not a bootable disk" in log and "Rebooting" in log


OVMF = pathlib.Path("/usr/share/ovmf/OVMF.fd")


@pytest.mark.long
@pytest.mark.skipif(not OVMF.exists(), reason="needs Debian's package ovmf")
@pytest.mark.parametrize("board", pc.BOARDS)
def test_uefi_firmware_reaches_its_shell(run, board):
    machine = run(board, "-bios", OVMF)
    machine.wait_for("Shell> ", SECONDS)


REPORT = """
exec 3>/report
say() { echo "$1=$2" >&3; }
say cpus "$(nproc)"
say command "$(cat /proc/cmdline)"
for d in /sys/bus/pci/devices/*; do
    say "pci-${d##*/}" "$(cat $d/vendor) $(cat $d/device) $(cat $d/class)"
done
say tables "$(cd /sys/firmware/acpi/tables && echo [A-Z]*)"
say msi "$(grep -c 'PCI-MSI.*virtio' /proc/interrupts || true)"
say intx "$(grep -c 'fasteoi.*virtio' /proc/interrupts || true)"
say serial "$(cat /sys/class/dmi/id/product_serial)"
say rng "$(head -c 32 /dev/hwrng | wc -c)"
say cold "$(dmesg | grep -c -i -E 'BIOS bug|ACPI.*error|PCI.*error|nobody cared' || true)"
dd if=/dev/vda of=/dev/null bs=1M count=16 2>/dev/null
"""


def linux_disk(tmp_path, program, more=""):
    """A GRUB image that starts Debian's kernel on the root disk's script."""
    words = pc.linux_words(program, f"lodge.script=/etc/test.sh {more}")
    return pc.make_grub_disk(
        tmp_path / "grub.img",
        f"echo grub says hello\nlinux /vmlinuz {words}\ninitrd /initrd.img\nboot",
        {"vmlinuz": assets.kernel(), "initrd.img": assets.initrd()})


@pytest.mark.skipif(not shutil.which("grub-mkrescue"), reason="needs grub-mkrescue")
@pytest.mark.parametrize("board, cpus", [
    ("pc", 1), ("q35", 2), pytest.param("pc", 2, marks=pytest.mark.long),
    pytest.param("q35", 1, marks=pytest.mark.long)])
def test_grub_starts_debians_kernel(run, vmm, tmp_path, board, cpus):
    nonce = str(uuid.uuid4())
    root = pc.script_disk(tmp_path / "root.img", REPORT)
    grub = linux_disk(tmp_path, vmm, f"lodge.nonce={nonce}")
    machine = run(board, *pc.disk(0, root), *pc.disk(1, grub, ",bootindex=0"),
                  "-device", "virtio-rng-pci", "-no-reboot", "-smbios",
                  f"type=1,serial={nonce[::-1]}", cpus=cpus)
    assert machine.wait(SECONDS) == 0, machine.errors + machine.serial
    assert "grub says hello" in machine.serial
    report = pc.report(root)
    assert report["cpus"] == str(cpus)
    assert nonce in report["command"]
    assert report["serial"] == nonce[::-1]
    assert {"APIC", "DSDT", "FACP", "HPET"} <= set(report["tables"].split())
    assert ("MCFG" in report["tables"]) == (board == "q35")
    assert int(report["msi"]) > 0 and report["intx"] == "0"
    assert report["rng"] == "32" and report["cold"] == "0"


@pytest.mark.parametrize("board", pc.BOARDS)
def test_interrupts_reach_the_kernel_without_messages(run, vmm, tmp_path, board):
    """-kernel, no MSI: virtio's line goes through PIRQ, link device and IOAPIC."""
    root = pc.script_disk(tmp_path / "root.img", REPORT)
    machine = run(board, *pc.disk(0, root, ",vectors=0"), "-device",
                  "virtio-rng-pci,vectors=0", "-no-reboot", "-kernel", assets.kernel(),
                  "-initrd", assets.initrd(), "-append",
                  pc.linux_words(vmm, "lodge.script=/etc/test.sh"))
    assert machine.wait(SECONDS) == 0, machine.errors + machine.serial
    report = pc.report(root)
    assert report["msi"] == "0" and int(report["intx"]) > 0
    assert report["rng"] == "32" and report["cold"] == "0"


@pytest.mark.long
@pytest.mark.parametrize("board", pc.BOARDS)
def test_pci_functions_are_those_of_the_peer(run, vmm, tmp_path, board):
    """What this program has on PCI, Debian's QEMU has in the same place."""
    if not vm.QEMU.exists() or vm.is_qemu(vmm):
        pytest.skip("needs QEMU beside the program")
    lists = []
    for program in (vmm, vm.QEMU):
        root = pc.script_disk(tmp_path / "root.img", REPORT)
        machine = run(board, *pc.disk(0, root, ",addr=10"), "-no-reboot", "-kernel",
                      assets.kernel(), "-initrd", assets.initrd(), "-append",
                      pc.linux_words(program, "lodge.script=/etc/test.sh"),
                      program=program)
        assert machine.wait(SECONDS) == 0, machine.errors + machine.serial
        lists.append({k: v for k, v in pc.report(root).items() if k.startswith("pci-")})
    assert len(lists[0]) > 2
    assert lists[0].items() <= lists[1].items()


@pytest.mark.parametrize("board, words, why", [
    ("pc", ["-device", "virtio-rng-pci,addr=20"], "addr=20"),
    ("pc", ["-device", "virtio-rng-pci,addr=1.0"], "taken by"),
    ("pc", ["-device", "virtio-rng-pci,bus=pcie.0"], "no PCI bus 'pcie.0'"),
    ("q35", ["-device", "virtio-rng-pci,addr=3", "-device", "virtio-rng-pci,addr=3.1"],
     "multifunction"),
    ("q35", ["-device", "pcie-root-port,id=p", "-device", "virtio-rng-pci,bus=p,addr=1"],
     "no slot but 0"),
    ("pc", ["-device", "virtio-rng-pci,romfile=/nonexistent/rom"], "/nonexistent/rom"),
    ("pc", ["-boot", "order=cx"], "'x'"),
    ("pc", ["-boot", "cc"], "twice"),
    ("pc", ["-boot", "menu=maybe"], "menu=maybe"),
    ("pc", ["-boot", "reboot-timeout=-2"], "reboot-timeout=-2"),
    ("pc", ["-boot", "colour=red"], "colour"),
    ("pc", ["-bios", "nothing-of-the-kind.bin"], "nothing-of-the-kind.bin"),
    ("microvm", ["-kernel", "/etc/hostname", "-device", "virtio-rng-pci"], None),
])
def test_what_cannot_be_is_refused(run, is_lodge, board, words, why):
    if not is_lodge:
        pytest.skip("the words are Lodge's")
    machine = run(board, *words, memory="64M")
    assert machine.wait(SECONDS) == 1
    assert why is None or why in machine.errors
