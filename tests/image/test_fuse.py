"""Images as raw files: lodge-nbd --fuse, by programs that know nothing of images."""
import contextlib
import errno
import os
import random
import subprocess
import time

import pytest

from images import IO, QEMU_IMG, QEMU_IO, out, run
from nbd_server import NBD, SECONDS

SIZE = 8 << 20

pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK),
                                reason="this host has no FUSE, or not for this user")


@pytest.fixture(scope="module", autouse=True)
def may_mount(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    for name in ("a.raw", "disk.raw"):
        (folder / name).write_bytes(bytes(512))
    done = subprocess.run(["timeout", "--preserve-status", "-s", "TERM", "1", NBD, "--fuse",
                           folder / "disk.raw", "-f", "raw", folder / "a.raw"],
                          capture_output=True, text=True, check=False)
    if "not permitted" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this user may not mount")


@contextlib.contextmanager
def mounted(folder, *args):
    point, pid_file = folder / "disk.raw", folder / "pid"
    point.touch()
    pid_file.unlink(missing_ok=True)
    server = subprocess.Popen([NBD, "--fuse", point, f"--pid-file={pid_file}", *args], cwd=folder)
    try:
        deadline = time.monotonic() + SECONDS
        while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield point
    finally:
        server.terminate()
        code = server.wait(SECONDS)
    assert code == 0
    assert point.stat().st_size == 0, "it is still mounted"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", path, SIZE)
    run(QEMU_IO, "-c", "write -q -P 3 1M 2M", "-c", "write -q -P 4 6M 128k", path)
    return path


def test_reads_writes_and_holes(tmp_path, image):
    raw = tmp_path / "model.raw"
    run(QEMU_IMG, "convert", "-f", "qcow2", "-O", "raw", image, raw)
    model = bytearray(raw.read_bytes())
    rng = random.Random(5)
    with mounted(tmp_path, "-f", "qcow2", "--discard=unmap", image) as disk:
        assert disk.read_bytes() == bytes(model)
        fd = os.open(disk, os.O_RDWR)
        holes = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE),
                 os.lseek(fd, 4 << 20, os.SEEK_DATA), os.lseek(fd, 6 << 20, os.SEEK_HOLE)]
        assert holes == [1 << 20, 3 << 20, 6 << 20, (6 << 20) + (128 << 10)]
        with pytest.raises(OSError) as e:
            os.lseek(fd, 7 << 20, os.SEEK_DATA)
        assert e.value.errno == errno.ENXIO
        for _ in range(60):
            length = rng.randrange(1, 200000)
            offset = rng.randrange(SIZE - length)
            data = rng.randbytes(length)
            assert os.pwrite(fd, data, offset) == length
            model[offset:offset + length] = data
        os.fsync(fd)
        run("fallocate", "-p", "-o", 2 << 20, "-l", 1 << 20, disk)
        model[2 << 20:3 << 20] = bytes(1 << 20)
        assert os.pread(fd, SIZE, 0) == bytes(model)
        with pytest.raises(OSError) as e:
            os.pwrite(fd, b"x", SIZE)
        assert e.value.errno == errno.ENOSPC
        os.close(fd)
    raw.write_bytes(model)
    run(QEMU_IMG, "check", image)
    run(QEMU_IMG, "compare", "-f", "qcow2", "-F", "raw", image, raw)


def test_growing(tmp_path, image):
    with mounted(tmp_path, "-f", "qcow2", "--fuse-growable", image) as disk:
        with open(disk, "r+b") as f:
            f.seek(SIZE + 100000)
            f.write(b"end")
        os.truncate(disk, SIZE + (1 << 20))
        assert disk.stat().st_size == SIZE + (1 << 20)
    assert '"virtual-size": 9437184' in out(QEMU_IMG, "info", "--output=json", image)
    run(QEMU_IMG, "check", image)
    run(IO, "-c", f"read -q -P 0x65 {SIZE + 100000} 1", "-c",
        f"read -q -P 0 {SIZE} 100000", image)


def test_read_only(tmp_path, image):
    before = image.read_bytes()
    with mounted(tmp_path, "-r", "-f", "qcow2", image) as disk:
        with pytest.raises(PermissionError):
            os.open(disk, os.O_RDWR)
        assert disk.read_bytes()[1 << 20:(1 << 20) + 5] == b"\3" * 5
    assert image.read_bytes() == before


def test_a_file_system_inside_is_used_by_its_tools(tmp_path, image):
    with mounted(tmp_path, "-f", "qcow2", image) as disk:
        run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", disk)
        (tmp_path / "hello").write_text("hello\n")
        run("/sbin/debugfs", "-w", "-R", f"write {tmp_path / 'hello'} hello", disk)
    run(QEMU_IMG, "convert", "-f", "qcow2", "-O", "raw", image, tmp_path / "out.raw")
    run("/sbin/e2fsck", "-fn", tmp_path / "out.raw")
    assert out("/sbin/debugfs", "-R", "cat hello", tmp_path / "out.raw") == "hello\n"


def test_many_readers_at_once(tmp_path, image):
    with mounted(tmp_path, "-f", "qcow2", image) as disk:
        readers = [subprocess.Popen(["cmp", disk, disk]) for _ in range(8)]
        assert [r.wait(SECONDS) for r in readers] == [0] * 8


def test_messages(tmp_path, image):
    done = run(NBD, "--fuse", tmp_path / "nothing", "-f", "qcow2", image, ok=False)
    assert done.returncode == 1
    assert done.stderr == (f"lodge-nbd: Failed to stat '{tmp_path / 'nothing'}': "
                           "No such file or directory\n")
    done = run(NBD, "--fuse", tmp_path, "-f", "qcow2", image, ok=False)
    assert done.stderr == f"lodge-nbd: '{tmp_path}' is not a regular file\n"
    done = run(NBD, "--fuse", image, "-k", "/x", "-f", "qcow2", image, ok=False)
    assert "--fuse is incompatible with options of NBD" in done.stderr
