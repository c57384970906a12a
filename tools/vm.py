"""One virtual machine as a child process: its command line, its serial line, its end.

The same QEMU-style command line runs lodge-vmm and Debian's QEMU, so that tests and
benchmarks can run either; only the machine and accelerator words differ.
"""
import ctypes
import functools
import mmap
import os
import pathlib
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The build tree under test: its programs and guests. `./dev test --tree` sets it.
TREE = os.environ.get("LODGE_TREE") or "release"
BUILT = ROOT / "build" / TREE
PROGRAMS = ROOT / "build/bin" if TREE == "release" else BUILT / "cmd"
LODGE_VMM = PROGRAMS / "lodge-vmm"
QEMU = pathlib.Path("/usr/bin/qemu-system-x86_64")
USER_SPACE = "lodge: user space"  # the first line that the initramfs's init prints

# The virtio-mmio devices come from the ACPI tables, as on Lodge's microvm.
QEMU_MACHINE = "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,auto-kernel-cmdline=on"


def patience(seconds):
    """How long to wait for what takes less than @seconds of a release tree."""
    return min(seconds * {"asan": 15, "tsan": 20}.get(TREE, 1), max(seconds, 1800))


def default_vmm():
    """The program to run: $LODGE_VMM, or this tree's lodge-vmm."""
    return pathlib.Path(os.environ.get("LODGE_VMM") or LODGE_VMM)


def is_qemu(program):
    return pathlib.Path(program).name.startswith("qemu")


def machine_args(program, machine=None, accel=None):
    qemu = is_qemu(program)
    return ["-M", machine or (QEMU_MACHINE if qemu else "microvm"),
            "-accel", accel or ("tcg" if qemu else "bt")]


@functools.cache
def host_tsc_khz():
    """The speed of the host's time stamp counter, measured over a tenth of a second."""
    rdtsc = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; rax |= rdx << 32; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(rdtsc)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    begin, ticks = time.monotonic_ns(), read()
    time.sleep(0.1)
    end, ticks = time.monotonic_ns(), read() - ticks
    return ticks * 1_000_000 // (end - begin)


def kernel_words(program, append):
    """
    QEMU's software CPU shows the host's TSC but no KVM clock, and its guest measures
    the TSC against the PIT. On a busy host that fails, and the guest then hangs; so
    the guest is told. Lodge's guests have the KVM clock.
    """
    return f"{append} tsc_early_khz={host_tsc_khz()}" if is_qemu(program) else append


def vm_argv(program, *, kernel=None, initrd=None, append=None, disks=(), memory="256M",
            cpu="max", serial="stdio", accel=None, extra=()):
    """A command line. @disks: image paths, or dicts of -drive properties."""
    argv = [str(program), *machine_args(program, accel=accel), "-nodefaults",
            "-display", "none", "-m", memory, "-cpu", cpu, "-serial", serial]
    words = append and kernel_words(program, append)
    for option, value in (("-kernel", kernel), ("-initrd", initrd), ("-append", words)):
        if value is not None:
            argv += [option, str(value)]
    for number, disk in enumerate(disks):
        drive = {"file": disk} if not isinstance(disk, dict) else disk
        drive = {"if": "none", "id": f"disk{number}", "format": "raw", **drive}
        argv += ["-drive", ",".join(f"{k}={v}" for k, v in drive.items()),
                 "-device", f"virtio-blk-device,drive={drive['id']}"]
    return [*argv, "-device", "virtio-rng-device", *extra]


class Timeout(Exception):
    pass


class Vm:
    """A running VM. Use as a context manager: it never outlives the block."""

    def __init__(self, argv, env=None):
        self.argv = [str(a) for a in argv]
        self._output = bytearray()
        self._marks = {}  # text to look for -> when it was first seen
        self._news = threading.Condition()
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=env)
        self._errors = bytearray()
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True)
                         for pair in ((self.process.stdout, self._output),
                                      (self.process.stderr, self._errors))]
        for reader in self._readers:
            reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def _read(self, stream, into):
        while data := os.read(stream.fileno(), 65536):
            with self._news:
                into += data
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self):
        return self.process.pid

    @property
    def serial(self):
        """All the guest has written to its serial line so far."""
        with self._news:
            return self._output.decode(errors="replace").replace("\r\n", "\n")

    @property
    def errors(self):
        """All the VMM itself has written to stderr so far."""
        with self._news:
            return self._errors.decode(errors="replace")

    def type(self, text):
        """Type @text on the guest's serial line."""
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, text, timeout, count=1):
        """Seconds from the start until @text was there @count times."""
        wanted, deadline = text.encode(), time.monotonic() + timeout
        with self._news:
            while self._output.count(wanted) < count:
                left = deadline - time.monotonic()
                ended = not self._readers[0].is_alive()
                if left <= 0 or ended:
                    why = "the VM ended" if ended else f"{timeout} s passed"
                    raise Timeout(f"{why} before {text!r}; {self._tail()}")
                self._news.wait(min(left, 0.5))
            return time.monotonic() - self.started

    def wait(self, timeout):
        """The exit code of a VM that ends by itself."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            with self._news:
                raise Timeout(f"the VM still runs after {timeout} s; {self._tail()}")
        for reader in self._readers:
            reader.join(10)
        return code

    def _tail(self):
        lines = self._output.decode(errors="replace").splitlines()[-25:]
        errors = self._errors.decode(errors="replace")[-2000:]
        return "\n".join(["serial ends with:", *lines, "stderr:", errors,
                          "command:", " ".join(self.argv)])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass
