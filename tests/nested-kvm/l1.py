"""A machine with KVM inside a machine without: QEMU's software CPU has AMD's
virtualization, so Debian's kernel in it has /dev/kvm, whatever the host has.

One boot runs a list of commands; each one's output and exit code come back over the
serial line. The guest's files travel in its initramfs: programs with their shared
libraries, and whatever the commands need.
"""
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import assets  # noqa: E402
import vm  # noqa: E402

MODULES = ("kvm_amd",)  # with what they depend on
BEGIN, END, OVER = "l1: begin", "l1: end", "l1: over"
LATE = "late"
# What has not ended by then hangs; the rest still runs. The whole is a matter of
# minutes, on a software CPU that runs a hypervisor.
COMMAND_SECONDS = 240

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod /lib/modules/$module || echo "l1: cannot load $module"
done </lib/modules/order
. /commands
echo "{over}"
poweroff -f
"""


def libraries(program):
    """The shared libraries of @program, its loader included."""
    out = subprocess.run(["ldd", str(program)], check=True, stdout=subprocess.PIPE).stdout
    return sorted(set(re.findall(r"(/\S+)", out.decode())))


class Initramfs:
    def __init__(self):
        self._cpio, self._folders = assets.Cpio(), set()

    def folder(self, path):
        if path and path not in self._folders:
            self.folder(str(pathlib.PurePath(path).parent).strip("."))
            self._folders.add(path)
            self._cpio.add(path, assets.Cpio.FOLDER | 0o755)

    def file(self, path, data, mode=0o644):
        path = path.lstrip("/")
        self.folder(str(pathlib.PurePath(path).parent).strip("."))
        self._cpio.add(path, assets.Cpio.FILE | mode, data)

    def device(self, path, major, minor):
        self._cpio.add(path, assets.Cpio.CHAR_DEVICE | 0o600, device=(major, minor))

    def program(self, path, source):
        self.file(path, pathlib.Path(source).read_bytes(), 0o755)
        for library in libraries(source):
            name = library.lstrip("/")
            if name not in self._folders:
                self._folders.add(name)
                self.file(library, pathlib.Path(library).read_bytes(), 0o755)

    def finish(self):
        return self._cpio.finish()


def make_initramfs(commands, files, programs):
    archive = Initramfs()
    for name in ("dev", "proc", "sys"):
        archive.folder(name)
    archive.device("dev/console", 5, 1)
    archive.file("bin/busybox", assets.busybox().read_bytes(), 0o755)
    archive.file("init", INIT.format(over=OVER).encode(), 0o755)
    loaded = assets.modules_in_order(assets.kernel_files()[1], MODULES)
    for name, data in loaded:
        archive.file(f"lib/modules/{name}", data)
    archive.file("lib/modules/order", "".join(f"{n}\n" for n, _ in loaded).encode())
    for path, source in programs.items():
        archive.program(path, source)
    for path, source in files.items():
        archive.file(path, pathlib.Path(source).read_bytes())
    script = "".join(
        f"echo '{BEGIN} {name}'\ntimeout -s KILL {COMMAND_SECONDS} {shlex.join(argv)} "
        f"</dev/null 2>&1\ncode=$?; echo; echo '{END} {name}' $code\n"
        for name, argv in commands.items())
    archive.file("commands", script.encode())
    return archive.finish()


def run(folder, commands, files, programs, timeout):
    """{name: (exit code or None, output)} of @commands ({name: argv}), in order. When the
    machine did not come to the end of them, LATE is how it ended."""
    with assets.locked():
        kernel = assets.kernel_files()[0]
        image = make_initramfs(commands, files, programs)
    (folder / "l1.img").write_bytes(image)
    argv = [vm.QEMU, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1536",
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-kernel", kernel, "-initrd", folder / "l1.img", "-append",
            vm.kernel_words(vm.QEMU, "console=ttyS0 panic=-1 quiet")]
    late = {}
    with vm.Vm(argv) as l1:
        try:
            l1.wait_for(OVER, timeout)
        except vm.Timeout as why:
            late[LATE] = (l1.process.poll(), str(why))
        serial = l1.serial
    (folder / "l1.log").write_text(serial)
    return parse(serial) | late


def parse(serial):
    results = {}
    for part in serial.split(f"{BEGIN} ")[1:]:
        name, _, rest = part.partition("\n")
        output, ended, tail = rest.partition(f"\n{END} {name} ")
        code = re.match(r"\d+", tail)
        results[name] = (int(code[0]) if ended and code else None, output)
    return results
