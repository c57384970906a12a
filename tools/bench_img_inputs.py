"""The images that `./dev bench img` works on, made by Debian's tools in each place.

The content is what disks hold: the host's own programs and libraries, text, bytes that
do not get shorter, and room that was never written.
"""
import os
import pathlib
import random
import shutil
import subprocess

import assets

MIB = 1 << 20
FILES, NOISE, VIRTUAL = 288 * MIB, 32 * MIB, 640 * MIB
SECRET = "--object secret,id=key,data=benchmark"
READS, NEAR = 4000, 16 * MIB


def host_files():
    """The host's libraries, programs and texts, largest folders first, always alike."""
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/share", "/usr/lib"):
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def write_raw(path):
    """Files from the front, a gap, noise, and nothing behind it."""
    done = 0
    with open(path, "wb") as out:
        for name in host_files():
            with open(name, "rb") as one:
                data = one.read(min(FILES - done, 16 * MIB))
            out.write(data)
            done += len(data)
            done += -done % 4096
            out.seek(done)
            if done >= FILES:
                break
        out.seek(FILES + 64 * MIB)
        out.write(random.Random(1).randbytes(NOISE))
        out.truncate(VIRTUAL)


def script(path, reach):
    chance = random.Random(2)
    lines = [f"read -q {chance.randrange(reach // 4096) * 4096} 4096"
             for _ in range(READS)]
    path.write_text("\n".join([*lines, "quit", ""]))


class Inputs:
    """Made when a row first asks for them, in @folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def path(self, name):
        path = self.folder / f"input.{name}"
        if not path.exists():
            try:
                getattr(self, "make_" + name)(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return path

    def img(self, command):
        words = [w if isinstance(w, str) else str(w) for w in command]
        assets.run(["qemu-img", *words])

    def convert(self, path, target, *options, source="raw"):
        self.img(["convert", *options, "-O", target, self.path(source), path])

    def make_raw(self, path):
        write_raw(path)

    def make_qcow2(self, path):
        self.convert(path, "qcow2")

    def make_vmdk(self, path):
        self.convert(path, "vmdk")

    def make_packed(self, path):
        self.convert(path, "qcow2", "-c")

    def make_packed_zstd(self, path):
        self.convert(path, "qcow2", "-c", "-o", "compression_type=zstd")

    def make_half(self, path):
        """What the rows of encryption move: no zeros."""
        with open(self.path("raw"), "rb") as all_, open(path, "wb") as out:
            shutil.copyfileobj(all_, out, MIB)
            out.truncate(256 * MIB)

    def luks(self, *words):
        """By Lodge: Debian's tool fails at it on a busy machine, one time in some."""
        assets.run([assets.ROOT / "build/bin/lodge-img", *words[:1], *SECRET.split(),
                    "-o", "key-secret=key,iter-time=10", *words[1:]])

    def make_luks(self, path):
        self.luks("create", "-f", "luks", path, 256 * MIB)

    def make_luks_full(self, path):
        self.luks("convert", "-O", "luks", self.path("half"), path)

    def make_base(self, path):
        self.convert(path, "qcow2")

    def make_base_two(self, path):
        """Like the base, but for every sixteenth MiB."""
        self.convert(path, "qcow2")
        writes = [w for at in range(0, FILES, 16 * MIB)
                  for w in ("-c", f"write -q -P 7 {at} 1M")]
        assets.run(["qemu-io", "-f", "qcow2", *writes, path])

    def overlay(self, path, base):
        self.img(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path])
        writes = [w for at in range(0, FILES, 2 * MIB)
                  for w in ("-c", f"write -q -P 5 {at} 1M")]
        assets.run(["qemu-io", "-f", "qcow2", *writes, path])

    def make_overlay(self, path):
        self.overlay(path, self.path("base"))

    def make_commit_base(self, path):
        self.convert(path, "qcow2")

    def make_commit_overlay(self, path):
        self.overlay(path, self.path("commit_base"))

    def make_metadata(self, path):
        self.img(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path,
                  "128G"])

    def make_terabyte(self, path):
        self.img(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path,
                  "1T"])

    def make_near(self, path):
        script(path, NEAR)

    def make_far(self, path):
        script(path, FILES)


def reflink_place(folder):
    """An XFS with shared extents in a file of @folder, mounted; None where that cannot
    be."""
    if os.geteuid() or not shutil.which("mkfs.xfs"):
        return None
    disk, point = folder / "xfs.img", folder / "xfs"
    point.mkdir()
    with open(disk, "wb") as out:
        out.truncate(6 << 30)
    try:
        assets.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk])
        assets.run(["mount", "-o", "loop", disk, point])
    except assets.AssetError:
        return None
    return point


def leave_reflink_place(point):
    subprocess.run(["umount", point], check=False)
