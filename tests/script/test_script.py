"""The whole path from a register to an image file, driven by scripts in place of a
CPU: lodge-vmm -accel script."""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))
import vm  # noqa: E402


def run(script, *args, machine="microvm"):
    """(exit code, what was printed) of a machine that a script drives."""
    argv = [str(vm.LODGE_VMM), "-M", machine, "-accel", f"script,file={script}",
            "-m", "16", "-nodefaults", "-display", "none", *args]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=vm.patience(30))
    return done.returncode, done.stdout.decode()


def disk(image, options=""):
    return ["-drive", f"id=d0,if=none,format=raw,file={image}{options}",
            "-device", "virtio-blk-device,drive=d0"]


def test_a_disk_is_written_flushed_and_read(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(b"Sector 0".ljust(4096, b"."))
    code, output = run(HERE / "disk.script", *disk(image))
    assert (code, output) == (0, "done\n")
    content = image.read_bytes()
    assert content[:512] == b"Sector 0".ljust(512, b".")
    assert content[512:1024] == b"\xa5" * 512
    assert content[1024:] == b"." * 3072


def test_a_read_only_disk_refuses_the_write(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(b"Sector 0".ljust(4096, b"."))
    code, output = run(HERE / "disk.script", *disk(image, ",readonly=on"))
    assert code == 1
    assert "read8 $status: expected 0x0, got 0x1" in output
    assert image.read_bytes() == b"Sector 0".ljust(4096, b".")


def test_a_failed_expectation_names_its_place(tmp_path):
    script = tmp_path / "bad.script"
    script.write_text("# identify\nread32 0xfeb00000 = 5\n")
    code, output = run(script)
    assert code == 1
    assert f"{script}:2: read32 0xfeb00000: expected 0x5, got 0x74726976" in output


def test_random_bytes_come_with_an_interrupt(tmp_path):
    script = tmp_path / "rng.script"
    script.write_text("""
let dev 0xfeb00000
read32 $dev+8 = 4
write32 $dev+0x70 3
write32 $dev+0x24 1
write32 $dev+0x20 1
write32 $dev+0x70 11
write32 $dev+0x38 2
write32 $dev+0x80 0x1000
write32 $dev+0x90 0x2000
write32 $dev+0xa0 0x3000
write32 $dev+0x44 1
write32 $dev+0x70 15
write64 0x1000 0x4000
write32 0x1008 16
write16 0x100c 2
write16 0x2002 1
write32 $dev+0x50 0
within 5s read16 0x3002 = 1
read32 0x3008 = 16
read32 $dev+0x60 = 1
read64 0x4000 -> a
write16 0x2002 2
write32 $dev+0x50 0
within 5s read16 0x3002 = 2
read64 0x4000 = $a
""")
    code, output = run(script, "-device", "virtio-rng-device")
    # The only thing that fails is that two random numbers were equal.
    assert code == 1
    assert "rng.script:26: read64 0x4000: expected" in output


def test_the_chipset_of_pc():
    assert run(HERE / "i440fx.script", machine="pc") == (0, "done\n")


def test_the_chipset_of_q35_and_a_device_on_it():
    code, output = run(HERE / "q35.script", "-device", "virtio-rng-pci", machine="q35")
    assert (code, output) == (0, "done\n")
