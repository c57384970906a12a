"""Image tools under test and their peers, for the tests of this folder."""
import json
import random
import subprocess

import vm

IMG = str(vm.PROGRAMS / "lodge-img")
IO = str(vm.PROGRAMS / "lodge-io")
QEMU_IMG = "qemu-img"
QEMU_IO = "qemu-io"
SECONDS = 120  # what hangs, not what is slow


def run(*argv, ok=True, **kw):
    """A command's result; with @ok it must succeed."""
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, **kw)
    if ok:
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def out(*argv, **kw):
    return run(*argv, **kw).stdout


def check(tool, image):
    """A check that finds nothing: neither errors nor leaks."""
    done = run(tool, "check", image, ok=False)
    assert done.returncode == 0, f"{tool} check {image}: {done.stdout}{done.stderr}"


def same(tool, a, b):
    done = run(tool, "compare", a, b, ok=False)
    assert done.returncode == 0, f"{tool} compare {a} {b}: {done.stdout}{done.stderr}"


def info(tool, image):
    return json.loads(out(tool, "info", "--output=json", image))


def io(tool, image, commands, **kw):
    argv = [tool]
    for c in commands:
        argv += ["-c", c]
    done = run(*argv, "-d", "unmap", image, **kw)
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


class Model:
    """What a guest reads, next to the commands that make an image read like that."""

    def __init__(self, size, seed):
        self.data = bytearray(size)
        self.random = random.Random(seed)

    def range(self, unit):
        size = len(self.data)
        kind = self.random.random()
        if kind < 0.4:  # within or around one cluster
            length = self.random.randrange(1, 3 * unit)
        elif kind < 0.8:
            length = unit * self.random.randrange(1, 9)
        else:
            length = self.random.randrange(1, max(2, size // 3))
        start = self.random.randrange(size)
        if self.random.random() < 0.6:
            start -= start % unit
        start -= start % 512
        length += -length % 512
        return start, max(512, min(length, size - start))

    def command(self, unit, compressed=False):
        start, length = self.range(unit)
        op = self.random.random()
        if op < 0.5:
            byte = self.random.randrange(1, 256)
            self.data[start:start + length] = bytes([byte]) * length
            return f"write -q -P {byte} {start} {length}"
        if op < 0.65:
            self.data[start:start + length] = bytes(length)
            return f"write -q -z {start} {length}"
        if op < 0.8:
            self.data[start:start + length] = bytes(length)
            return f"write -q -z -u {start} {length}"
        if op < 0.9 and compressed:
            start -= start % unit
            length = min(unit, len(self.data) - start)
            if length == unit:
                byte = self.random.randrange(1, 256)
                self.data[start:start + length] = bytes([byte]) * length
                return f"write -q -c -P {byte} {start} {length}"
        return "flush"

    def save(self, path):
        path.write_bytes(self.data)
