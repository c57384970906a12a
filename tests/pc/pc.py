"""The machines pc and q35 for tests: command lines, boot sectors, GRUB images."""
import shutil
import subprocess

import assets
import vm

BOARDS = ("pc", "q35")
EXIT_PORT = 0xf4
SECTOR_ENDS_WITH = 3  # what isa-debug-exit makes of 1


def argv(program, board, *extra, memory="256M", cpu="max", cpus=1, accel=None):
    """A machine without devices of its own, its serial line on stdio."""
    none = ["-vga", "none", "-nic", "none"] if vm.is_qemu(program) else []
    return [str(program), "-M", board,
            "-accel", accel or ("tcg" if vm.is_qemu(program) else "bt"), "-nodefaults",
            "-display", "none", *none, "-m", memory, "-cpu", cpu, "-smp", str(cpus),
            "-serial", "stdio", *map(str, extra)]


def disk(number, path, options="", image="raw"):
    """Words for a disk on PCI."""
    return ["-drive", f"file={path},format={image},if=none,id=d{number}",
            "-device", f"virtio-blk-pci,drive=d{number}{options}"]


def boot_sector(nonce):
    """
    An image of which the firmware loads the first sector; that one reads the second
    through INT 13h, prints the text in it on COM1 and ends the VM through isa-debug-exit.
    """
    code = bytes.fromhex(
        "fa31c08ed88ec08ed0bc007c"  # cli; ds = es = ss = 0; sp = 0x7c00
        "b80102bb007eb90200"        # ax = 0x0201 read one; bx = 0x7e00; cx = 2
        "b600cd13"                  # dh = 0; int 0x13, dl as the firmware gave it
        "7212"                      # jc fail
        "be007e"                    # si = 0x7e00
        "ac84c07408"                # again: lodsb; test al, al; jz done
        "baf803eeebf5"              # dx = 0x3f8; out; jmp again
        "9090"
        "b001"                      # done: al = 1
        "baf400ee"                  # fail: dx = 0xf4; out
        "f4ebfd")                   # hlt
    sector = code.ljust(510, b"\0") + b"\x55\xaa"
    return (sector + nonce.encode().ljust(512, b"\0")).ljust(1 << 20, b"\0")


def make_boot_disk(path, nonce):
    path.write_bytes(boot_sector(nonce))
    return path


def make_grub_disk(path, config, files):
    """
    An image that a PC's firmware boots from a disk or a CD: GRUB with @config on its
    serial line, and @files ({name: host path}) beside it.
    """
    tree = path.with_name(path.name + ".tree")
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(
        "serial --unit=0 --speed=115200\nterminal_input serial\n"
        f"terminal_output serial\n{config}\n")
    for name, source in files.items():
        shutil.copy(source, tree / name)
    subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", path, tree],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    shutil.rmtree(tree)
    return path


def linux_words(program, more=""):
    return vm.kernel_words(program, f"console=ttyS0 panic=-1 {more}")


def script_disk(path, script):
    """A root disk whose init runs @script; what it writes to /report can be read back."""
    return assets.root_image(path, 64, {"/etc/test.sh": f"set -e\n{script}".encode()})


def report(image):
    text = (assets.image_read(image, "/report") or b"").decode()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
