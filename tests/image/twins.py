"""Command lines that two programs run side by side, in folders that are alike.

A story is some lines of shell. `qemu-img` in them is the program in question, `qemu-io`
always Debian's, so that both folders have the same content. The two programs must say
the same on both streams and end alike, line by line.
"""
import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess

from images import IMG

F_OFD_SETLK = 37
SECONDS = 300  # what hangs, not what is slow
UNSTABLE = [  # what no two runs have in common
    (re.compile(r"disk size: .*"), "disk size: N"),
    (re.compile(r'"actual-size": \d+'), '"actual-size": N'),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "DATE"),
    (re.compile(r'"date-(n?sec)": \d+'), r'"date-\1": N'),
    (re.compile(r"(cid|parent cid|content ?id|CID|parentCID): \d+"), r"\1: N"),
    (re.compile(r'"(cid|parent-cid)": \d+'), r'"\1": N'),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"(iters|stripes)(\"?): \d+"), r"\1\2: N"),
    (re.compile(r"[\d.]+ seconds"), "N seconds"),
    (re.compile(r"#block\d+"), "NODE"),
]


def stable(text):
    for what, by in UNSTABLE:
        text = what.sub(by, text)
    return text


@contextlib.contextmanager
def used(path):
    """Somebody has the image open for writing, as a virtual machine would."""
    with open(path, "r+b") as f:
        for byte in (100, 101, 201, 203):
            fcntl.fcntl(f, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
        yield


class Twins:
    """Two folders with one program each, both called qemu-img."""

    def __init__(self, folder, img=IMG):
        self.folder, self.img = folder, img
        self.bins = {}
        for who in ("ours", "qemu"):
            bin_ = folder / f"bin-{who}"
            bin_.mkdir(parents=True)
            (bin_ / "qemu-img").symlink_to(img if who == "ours" else
                                           shutil.which("qemu-img"))
            self.bins[who] = bin_

    def fresh(self):
        for who in self.bins:
            home = self.folder / who
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()

    def one(self, who, line, tries=20):
        if line.startswith("L; "):
            with used(self.folder / who / "t.img"):
                return self.one(who, line[3:])
        env = dict(os.environ, PATH=f"{self.bins[who]}:{os.environ['PATH']}", LC_ALL="C")
        done = subprocess.run(["/bin/sh", "-c", line], cwd=self.folder / who, env=env,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=SECONDS)
        if b"accurate CPU usage" in done.stderr and tries:
            return self.one(who, line, tries - 1)  # qemu-img's, on a busy machine
        return (stable(done.stdout.decode(errors="replace")),
                stable(done.stderr.decode(errors="replace")), done.returncode)

    def tell(self, story):
        """Run the lines of @story; what differs, as text, empty when nothing does."""
        self.fresh()
        wrong = []
        for line in story:
            theirs, ours = self.one("qemu", line), self.one("ours", line)
            if theirs != ours:
                wrong.append(difference(line, theirs, ours))
        return "\n".join(wrong)


def difference(line, theirs, ours):
    text = [f"$ {line}"]
    for name, a, b in zip(("stdout", "stderr", "exit code"), theirs, ours):
        if a != b:
            text += [f"  {name} of qemu-img:", indent(a), "  of ours:", indent(b)]
    return "\n".join(text)


def indent(value):
    return "\n".join(f"    {x!r}" for x in str(value).split("\n"))


def expand(line):
    """The shorthand "@io FORMAT FILE SIZE COMMAND..."."""
    if line.startswith("@io "):
        fmt, name, size, *commands = line[4:].split(" ", 3)
        quoted = "".join(f" -c {c}" for c in re.findall(r"'[^']*'", " ".join(commands)))
        return (f"/usr/bin/qemu-img create -q -f {fmt} {name} {size} && "
                f"qemu-io -f {fmt}{quoted} {name} >/dev/null")
    return line


def stories(text, **names):
    """The stories of @text, which empty lines part, with NAMES put in."""
    for name, value in names.items():
        text = text.replace(name, value)
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = [x.strip() for x in part.splitlines()]
        yield [expand(x) for x in lines if x and not x.startswith("#")]
