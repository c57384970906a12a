"""Dirty bitmaps in qcow2 images against Debian's qemu-img, qemu-io and qemu-nbd."""
import contextlib
import json
import random
import struct
import subprocess
import time

import pytest

from images import IMG, IO, QEMU_IMG, QEMU_IO, out, run

SIZE = 40 << 20


def create(image, size=SIZE, options="cluster_size=64k"):
    run(IMG, "create", "-q", "-f", "qcow2", "-o", options, image, size)


def bitmap(tool, *argv, ok=True):
    return run(tool, "bitmap", *argv, ok=ok)


def fio(tool, image, *commands):
    argv = [tool]
    for c in commands:
        argv += ["-c", c]
    assert "failed" not in out(*argv, image)


def bitmaps(image):
    """What both tools say of the bitmaps, by name."""
    said = [json.loads(out(tool, "info", "--output=json", image)) for tool in (IMG, QEMU_IMG)]
    said = [{b["name"]: b for b in i["format-specific"]["data"].get("bitmaps", [])} for i in said]
    assert said[0] == said[1]
    return said[0]


@contextlib.contextmanager
def exported(image, name, tmp_path):
    path = tmp_path / "nbd.sock"
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", path, "-B", name, image])
    try:
        for _ in range(400):
            if path.exists():
                break
            assert server.poll() is None
            time.sleep(0.05)
        yield path
    finally:
        server.terminate()
        server.wait()
        path.unlink(missing_ok=True)


def dirty(image, name, tmp_path):
    """The dirty parts, as Debian's server tells them."""
    with exported(image, name, tmp_path) as path:
        said = json.loads(out(QEMU_IMG, "map", "--output=json", "--image-opts",
                              f"driver=nbd,server.type=unix,server.path={path},"
                              f"x-dirty-bitmap=qemu:dirty-bitmap:{name}"))
    parts = []
    for e in said:
        if not e["data"]:
            if parts and parts[-1][1] == e["start"]:
                parts[-1][1] += e["length"]
            else:
                parts.append([e["start"], e["start"] + e["length"]])
    return parts


def rounded(writes, grain, size=SIZE):
    touched = sorted({g for at, n in writes if n for g in range(at // grain, (at + n - 1) // grain + 1)})
    parts = []
    for g in touched:
        if parts and parts[-1][1] == g * grain:
            parts[-1][1] = min(size, (g + 1) * grain)
        else:
            parts.append([g * grain, min(size, (g + 1) * grain)])
    return parts


def some_writes(rnd, n=12):
    return [(rnd.randrange(SIZE - 400000), rnd.randrange(1, 400000)) for _ in range(n)]


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512", "cluster_size=2M",
                                     "extended_l2=on", "lazy_refcounts=on"])
@pytest.mark.parametrize("grain", [512, 65536, 1 << 20])
def test_writes_of_both_are_noted(tmp_path, options, grain):
    image, rnd = tmp_path / "a.qcow2", random.Random(f"{options}{grain}")
    create(image, options=options)
    bitmap(IMG, "--add", "-g", grain, image, "b0")
    writes = []
    for turn in range(4):
        now = some_writes(rnd, 5)
        kinds = [rnd.choice(["write -P 5", "write -z", "discard"]) for _ in now]
        now = [(at // 512 * 512, n + 511 - (n + 511) % 512) for at, n in now]
        fio((IO, QEMU_IO)[turn % 2], image, *(f"{k} {at} {n}" for k, (at, n) in zip(kinds, now)))
        writes += now
        run(QEMU_IMG, "check", image)
        run(IMG, "check", image)
    assert bitmaps(image) == {"b0": {"name": "b0", "granularity": grain, "flags": ["auto"]}}
    assert dirty(image, "b0", tmp_path) == rounded(writes, grain)


def test_only_what_records_is_noted(tmp_path):
    image, rnd = tmp_path / "a.qcow2", random.Random(7)
    create(image)
    for tool, name in ((IMG, "ours"), (QEMU_IMG, "theirs")):
        bitmap(tool, "--add", image, name)
        bitmap(tool, "--add", "--disable", image, name + "-off")
    first, second = some_writes(rnd), some_writes(rnd)
    fio(IO, image, *(f"write {at} {n}" for at, n in first))
    bitmap(IMG, "--disable", image, "theirs")
    fio(IO, image, *(f"write {at} {n}" for at, n in second))
    assert dirty(image, "ours", tmp_path) == rounded(first + second, 65536)
    assert dirty(image, "theirs", tmp_path) == rounded(first, 65536)
    assert dirty(image, "ours-off", tmp_path) == dirty(image, "theirs-off", tmp_path) == []
    bitmap(IMG, "--merge", "ours", "--enable", image, "theirs-off")
    assert dirty(image, "theirs-off", tmp_path) == rounded(first + second, 65536)
    bitmap(IMG, "--clear", image, "theirs-off")
    assert dirty(image, "theirs-off", tmp_path) == []
    for name in ("ours", "theirs-off", "theirs", "ours-off"):
        bitmap(IMG, "--remove", image, name)
        run(QEMU_IMG, "check", image)
    assert bitmaps(image) == {}


def test_merge_from_another_image_and_another_grain(tmp_path):
    a, b, writes = tmp_path / "a.qcow2", tmp_path / "b.qcow2", [(5000, 100), (1 << 20, 70000)]
    create(a)
    create(b)
    bitmap(IMG, "--add", "-g", "512", a, "fine")
    fio(IO, a, *(f"write {at} {n}" for at, n in writes))
    bitmap(IMG, "--add", "--merge", "fine", "-b", a, "-F", "qcow2", b, "coarse")
    assert dirty(a, "fine", tmp_path) == rounded(writes, 512)
    assert dirty(b, "coarse", tmp_path) == rounded(rounded_pairs(writes, 512), 65536)


def rounded_pairs(writes, grain):
    return [(a, b - a) for a, b in rounded(writes, grain)]


@pytest.mark.parametrize("argv", [
    ["--add", "b0"], ["--add", "-g", "3", "b1"], ["--add", "-g", "256", "b1"],
    ["--add", "-g", "4G", "b1"], ["--remove", "x"], ["--enable", "x"], ["--merge", "zz", "b0"],
    ["b0"], ["--add", "-b", "a.qcow2", "b4"], ["--merge", "b0", "-b", "x.qcow2", "b4"],
    ["--clear", "-g", "1k", "b0"], ["--merge", "b0", "-F", "qcow2", "b0"], ["--add"],
])
def test_refused_alike(tmp_path, argv):
    create(tmp_path / "a.qcow2")
    bitmap(IMG, "--add", tmp_path / "a.qcow2", "b0")
    done = [run(tool, "bitmap", *argv[:-1], "a.qcow2", argv[-1], ok=False, cwd=tmp_path)
            for tool in (IMG, QEMU_IMG)]
    words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
    assert words[0] == words[1]
    assert done[0].returncode == done[1].returncode == 1
    run(QEMU_IMG, "check", tmp_path / "a.qcow2")


def test_after_a_crash_nobody_trusts_them(tmp_path):
    image, other = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    create(image)
    bitmap(IMG, "--add", image, "b0")
    bitmap(IMG, "--add", "--disable", image, "off")
    run(IO, "-c", "write 0 64k", "-c", "sigraise 9", image, ok=False)
    said = bitmaps(image)
    assert said["b0"]["flags"] == ["in-use", "auto"] and said["off"]["flags"] == []
    for argv in (["bitmap", "--clear", image, "b0"], ["bitmap", "--merge", "b0", image, "off"],
                 ["convert", "-O", "qcow2", "--bitmaps", image, other],
                 ["resize", image, "+1M"]):
        done = [run(tool, *argv, ok=False) for tool in (IMG, QEMU_IMG)]
        words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
        assert words[0] == words[1] and done[0].returncode == done[1].returncode == 1
    done = run(IMG, "convert", "-O", "qcow2", "--bitmaps", "--skip-broken-bitmaps", image, other)
    assert "warning: Skipping inconsistent bitmap 'b0'" in done.stderr
    assert set(bitmaps(other)) == {"off"}
    bitmap(IMG, "--remove", image, "b0")
    run(QEMU_IMG, "check", image)
    run(IMG, "check", image)


def test_convert_takes_them_along(tmp_path):
    image, other, writes = tmp_path / "a.qcow2", tmp_path / "b.qcow2", some_writes(random.Random(2))
    create(image)
    bitmap(IMG, "--add", "-g", "4k", image, "b0")
    bitmap(IMG, "--add", "-g", "1M", image, "b1")
    fio(IO, image, *(f"write {at} {n}" for at, n in writes))
    bitmap(IMG, "--disable", image, "b1")
    run(IMG, "convert", "-O", "qcow2", "--bitmaps", image, other)
    assert bitmaps(other) == bitmaps(image)
    assert dirty(other, "b0", tmp_path) == rounded(writes, 4096)
    assert dirty(other, "b1", tmp_path) == rounded(writes, 1 << 20)
    run(QEMU_IMG, "check", other)
    for argv in (["convert", "-O", "raw", "--bitmaps", image, tmp_path / "c"],
                 ["convert", "-f", "raw", "-O", "qcow2", "--bitmaps", image, tmp_path / "c"],
                 ["convert", "-O", "qcow2", "--skip-broken-bitmaps", image, tmp_path / "c"]):
        done = [run(tool, *argv, ok=False) for tool in (IMG, QEMU_IMG)]
        words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
        assert words[0] == words[1] and done[0].returncode == done[1].returncode == 1


@pytest.mark.parametrize("to", ["10M", "100M"])
def test_resizing(tmp_path, to):
    image = tmp_path / "a.qcow2"
    create(image)
    bitmap(IMG, "--add", "-g", "512", image, "b0")
    bitmap(IMG, "--add", "-g", "64k", "--disable", image, "b1")
    fio(IO, image, "write 1M 1k", "write 39M 64k")
    run(IMG, "resize", *(["--shrink"] if to == "10M" else []), image, to)
    run(QEMU_IMG, "check", image)
    size = 10 << 20 if to == "10M" else 100 << 20
    writes = [(1 << 20, 1024)] + ([] if to == "10M" else [(39 << 20, 65536)])
    if to == "10M":
        assert [p for p in dirty(image, "b0", tmp_path) if p[0] < 9 << 20] == rounded(writes, 512, size)
    else:
        got = dirty(image, "b0", tmp_path)
        assert all(p in got for p in rounded(writes, 512, size))
    fio(QEMU_IO, image, "write 5M 512")
    fio(IO, image, "write 6M 512")
    run(QEMU_IMG, "check", image)


@pytest.mark.parametrize("more", [[], ["--output=json"]])
def test_measure_counts_them(tmp_path, more):
    image = tmp_path / "a.qcow2"
    create(image)
    for argv in (["measure", "-O", "qcow2", *more, image], ["measure", "-O", "raw", *more, image]):
        assert out(IMG, *argv) == out(QEMU_IMG, *argv)
    bitmap(IMG, "--add", "-g", "512", image, "b0")
    bitmap(IMG, "--add", image, "b1")
    for o in ("cluster_size=64k", "cluster_size=512", "compat=0.10"):
        argv = ["measure", "-O", "qcow2", "-o", o, *more, image]
        assert out(IMG, *argv) == out(QEMU_IMG, *argv)


HOSTILE = {
    "count": ("ext", 0, struct.pack(">I", 70000)), "count 2": ("ext", 0, struct.pack(">I", 2)),
    "directory size": ("ext", 8, struct.pack(">Q", 1 << 60)),
    "directory size 0": ("ext", 8, bytes(8)),
    "directory offset": ("ext", 16, struct.pack(">Q", 1 << 60)),
    "directory unaligned": ("ext", 16, struct.pack(">Q", 12345)),
    "table offset": ("dir", 0, struct.pack(">Q", 1 << 60)),
    "table unaligned": ("dir", 0, struct.pack(">Q", 1001)),
    "table entries": ("dir", 8, struct.pack(">I", 0xffffffff)),
    "flags": ("dir", 12, struct.pack(">I", 0xff00)), "type": ("dir", 16, b"\7"),
    "granularity": ("dir", 17, b"\77"), "granularity small": ("dir", 17, b"\1"),
    "name length": ("dir", 18, struct.pack(">H", 60000)),
    "extra": ("dir", 20, struct.pack(">I", 0xffffffff)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_directories(tmp_path, what):
    image = tmp_path / "a.qcow2"
    create(image)
    bitmap(IMG, "--add", image, "b0")
    fio(IO, image, "write 1M 1M")
    data = bytearray(image.read_bytes())
    ext = data.index(struct.pack(">II", 0x23852875, 24)) + 8
    where, at, value = HOSTILE[what]
    base = ext if where == "ext" else struct.unpack_from(">Q", data, ext + 16)[0]
    data[base + at:base + at + len(value)] = value
    image.write_bytes(data)
    for argv in ([IO, "-c", "write 0 512", image], [IMG, "bitmap", "--clear", image, "b0"]):
        done = run(*argv, ok=False)
        assert done.returncode == 1 and done.stderr.startswith("lodge-")
    assert image.read_bytes() == data
    run(IMG, "check", image, ok=False)
