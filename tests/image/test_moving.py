"""
What moves content between images (convert, dd, commit, rebase, compare): by all
processors, with shared extents where the file system has them, in bounded memory.
"""
import os
import random
import resource
import shutil
import subprocess

import pytest

import bench_img
from images import IMG, IO, QEMU_IMG, QEMU_IO, check, io, run, same

MIB = 1 << 20


def fill(path, fmt, size, seed, tool=QEMU_IO):
    """Stretches of every length, from a sector to some MiB, with gaps between."""
    rng = random.Random(seed)
    at, commands = 0, []
    while at < size:
        length = rng.choice([512, 4096, 12288, 65536, 300000 // 512 * 512, 3 * MIB])
        length = min(length, size - at)
        if rng.random() < 0.6:
            commands.append(f"write -q -P {rng.randrange(1, 256)} {at} {length}")
        at += length + rng.choice([0, 0, 512, 65536, 2 * MIB])
    io(tool, path, commands)


def image(path, fmt, size, seed, *options):
    run(QEMU_IMG, "create", "-q", "-f", fmt, *options, path, size)
    fill(path, fmt, size, seed)
    return path


@pytest.mark.parametrize("cluster", ["512", "64k", "2M"])
def test_dd_takes_a_window(tmp_path, cluster):
    source = image(tmp_path / "a", "qcow2", 9 * MIB, cluster, "-o", f"cluster_size={cluster}")
    for skip, count in ((0, None), (0, 4), (7, None), (0, 100)):
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        more = [f"count={count}"] if count else []
        for tool, target in ((IMG, ours), (QEMU_IMG, theirs)):
            run(tool, "dd", "-O", "qcow2", "bs=1M", f"skip={skip}", *more, f"if={source}", f"of={target}")
        check(QEMU_IMG, ours)
        same(QEMU_IMG, ours, theirs)


@pytest.mark.parametrize("fmt", ["qcow2", "qed", "raw"])
def test_commit_through_two_layers(tmp_path, fmt):
    size = 9 * MIB
    base = image(tmp_path / "base", fmt, size, "base")
    mid = image(tmp_path / "mid", "qcow2", size, "mid", "-F", fmt, "-b", base)
    top = image(tmp_path / "top", "qcow2", size, "top", "-F", "qcow2", "-b", mid)
    io(QEMU_IO, top, ["write -z -q 1M 3M", "discard -q 5M 1M"])
    whole = tmp_path / "whole"
    run(QEMU_IMG, "convert", "-O", "raw", top, whole)
    run(IMG, "commit", "-q", "-d", "-b", base, top)
    run(QEMU_IMG, "compare", "-f", fmt, "-F", "raw", base, whole)
    if fmt != "raw":
        check(QEMU_IMG, base)


@pytest.mark.parametrize("cluster", ["4k", "2M"])
def test_rebase_keeps_the_content(tmp_path, cluster):
    size = 9 * MIB
    old = image(tmp_path / "old", "qcow2", size, "old")
    new = image(tmp_path / "new", "qcow2", size - 2 * MIB, "new")
    top = image(tmp_path / "top", "qcow2", size, "top", "-o", f"cluster_size={cluster}", "-F", "qcow2", "-b", old)
    whole = tmp_path / "whole"
    run(QEMU_IMG, "convert", "-O", "raw", top, whole)
    for backing in (new, old, None):
        run(IMG, "rebase", "-F", "qcow2", "-b", backing or "", top)
        check(QEMU_IMG, top)
        run(QEMU_IMG, "compare", "-F", "raw", top, whole)


@pytest.mark.parametrize("at", [0, 1000 * 512, 5 * MIB - 512, 8 * MIB])
def test_compare_finds_the_first_difference(tmp_path, at):
    a = image(tmp_path / "a", "qcow2", 9 * MIB, "same")
    b = tmp_path / "b"
    run(QEMU_IMG, "convert", "-O", "raw", a, b)
    done = [run(tool, "compare", a, b).stdout for tool in (IMG, QEMU_IMG)]
    assert done[0] == done[1] == "Images are identical.\n"
    with open(b, "r+b") as f:
        for place in (at, 9 * MIB - 512):  # and one more behind it
            f.seek(place)
            old = f.read(512)
            f.seek(place)
            f.write(bytes(x ^ 0xff for x in old))
    done = [run(tool, "compare", a, b, ok=False) for tool in (IMG, QEMU_IMG)]
    assert [d.returncode for d in done] == [1, 1]
    assert done[0].stdout == done[1].stdout == f"Content mismatch at offset {at}!\n"


# ---- extents that files share


@pytest.fixture(scope="module")
def xfs(tmp_path_factory):
    if os.geteuid() or not shutil.which("mkfs.xfs"):
        pytest.skip("needs root and mkfs.xfs")
    folder = tmp_path_factory.mktemp("xfs")
    disk, point = folder / "disk", folder / "point"
    point.mkdir()
    with open(disk, "wb") as f:
        f.truncate(400 * MIB)
    run("mkfs.xfs", "-q", "-m", "reflink=1", disk)
    if subprocess.run(["mount", "-o", "loop", disk, point], check=False).returncode:
        pytest.skip("cannot mount here")
    yield point
    subprocess.run(["umount", point], check=True)


def shared(path):
    """How many of the file's bytes are in extents that another file has, too."""
    lines = run("filefrag", "-v", "-b4096", path).stdout.splitlines()
    return sum(int(line.split(":")[3]) for line in lines if "shared" in line) * 4096


@pytest.mark.parametrize("source", ["raw", "qcow2", "qcow2-512", "overlay"])
@pytest.mark.parametrize("target", ["raw", "qcow2", "qcow2-2M", "vdi", "vhdx", "luks"])
def test_shared_extents_are_the_content(xfs, tmp_path, source, target):
    size = 24 * MIB + 512 * 5
    a, b = xfs / "a", xfs / "b"
    for old in xfs.iterdir():
        old.unlink()
    if source == "overlay":
        base = image(xfs / "base", "raw", size, "base")
        image(a, "qcow2", size, "top", "-F", "raw", "-b", base)
    else:
        cluster = ["-o", "cluster_size=512"] if source == "qcow2-512" else []
        image(a, source.split("-")[0], size, source, *cluster)
    fmt = target.split("-")[0]
    options = {"qcow2-2M": ["-o", "cluster_size=2M"],
               "luks": ["--object", "secret,id=k,data=x", "-o", "key-secret=k,iter-time=10"]}
    kind = "raw" if source == "raw" else "qcow2"
    run(IMG, "convert", "-f", kind, "-O", fmt, *options.get(target, []), a, b)
    plain = tmp_path / "plain"
    run(QEMU_IMG, "convert", "-f", kind, "-O", "raw", a, plain)
    if target == "luks":
        run(QEMU_IMG, "compare", "--object", "secret,id=k,data=x", "--image-opts",
            f"driver=luks,key-secret=k,file.filename={b}", f"driver=raw,file.filename={plain}")
        assert shared(b) == 0
        return
    run(QEMU_IMG, "compare", "-f", fmt, "-F", "raw", b, plain)
    if fmt == "qcow2":
        check(QEMU_IMG, b)
    if source in ("raw", "qcow2") and target in ("raw", "qcow2"):
        assert shared(b) > 4 * MIB
    # What is written to one of them later is not seen in the other.
    tool = ["-f", fmt] if fmt == "raw" else []
    run(QEMU_IO, *tool, "-c", "write -q -P 77 0 24M", b)
    run(QEMU_IMG, "compare", "-f", kind, "-F", "raw", a, plain)


def test_a_file_system_that_cannot_share(tmp_path):
    """tmpfs or ext4: everything is moved, and the tool does not say a word of it."""
    a = image(tmp_path / "a", "raw", 5 * MIB, "a")
    done = run(IMG, "convert", "-f", "raw", "-O", "qcow2", a, tmp_path / "b")
    assert done.stdout + done.stderr == ""
    same(QEMU_IMG, a, tmp_path / "b")


# ---- memory


def limited(mib):
    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (mib * MIB, mib * MIB))
    return limit


def test_converting_has_bounded_memory(tmp_path):
    """Whatever the image's size: stacks of the threads, some pieces, the caches."""
    a = tmp_path / "a"
    run(QEMU_IMG, "create", "-q", "-f", "raw", a, "160M")
    with open(a, "r+b") as f:
        f.write(random.Random(1).randbytes(MIB) * 150)
    for options in (["-O", "qcow2"], ["-c", "-O", "qcow2"], ["-O", "vmdk", "-o", "subformat=streamOptimized"],
                    ["-c", "-O", "qcow2", "-o", "cluster_size=2M,compression_type=zstd"]):
        b = tmp_path / "b"
        run(IMG, "convert", "-m", "3", "-f", "raw", *options, a, b, preexec_fn=limited(256))
        run(IMG, "convert", "-m", "3", "-O", "raw", b, tmp_path / "c", preexec_fn=limited(256))
        run("cmp", a, tmp_path / "c")


def test_check_of_a_large_image_is_small(tmp_path):
    a = tmp_path / "a"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", a, "256G")
    found = bench_img.at_its_end([IMG, "check", str(a)], ("VmHWM",))
    assert found["VmHWM"] <= 40 * MIB


def test_reading_packed_clusters_keeps_few(tmp_path):
    """All of 300 MiB in small reads: what is decoded is not all kept."""
    a = tmp_path / "a"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", a, "300M")
    run(IO, "-f", "qcow2", "-c", "write -q -c -P 3 0 300M", a)
    script = "\n".join(f"read -q -P 3 {at} 512" for at in range(0, 300 * MIB, 65536))
    done = subprocess.run([IO, "-r", "-f", "qcow2", str(a)], input=script + "\nquit\n", text=True,
                          capture_output=True, check=False, preexec_fn=limited(160), timeout=120)
    assert done.returncode == 0 and "error" not in done.stdout + done.stderr
    assert "failed" not in done.stdout + done.stderr
