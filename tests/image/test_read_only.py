"""
Formats that are only read, in images that are made here: what we read is what was put in,
and what Debian's qemu-img reads.
"""
import random
import struct

import pytest

import hostile
import samples
from images import IMG, IO, QEMU_IMG, QEMU_IO, run, same

SECTORS = {n: bytes([n % 255 + 1]) * 512 for n in
           [*range(20), 63, 64, 100, 101, 103, *range(128, 192), 299]}


def reads_as(image, fmt, data, raw, peer=True):
    raw.write_bytes(data)
    for tool in (IMG, QEMU_IMG) if peer else (IMG,):
        done = run(tool, "compare", "-f", fmt, "-F", "raw", image, raw, ok=False)
        assert done.returncode == 0, done.stdout + done.stderr
    run(IMG, "convert", "-f", fmt, "-O", "qcow2", image, raw.with_suffix(".qcow2"))
    same(IMG, raw.with_suffix(".qcow2"), raw)
    rng = random.Random(7)
    for _ in range(20):  # parts of chunks, in any order
        at = rng.randrange(len(data) // 512) * 512
        n = min(rng.randrange(1, 200) * 512, len(data) - at)
        with open(raw, "r+b") as f:
            f.write(data)
        done = run(IMG, "dd", "-f", fmt, "-O", "raw", f"bs=512", f"skip={at // 512}",
                   f"count={(at + n) // 512}", f"if={image}", f"of={raw}.part")
        with open(f"{raw}.part", "rb") as f:
            assert f.read(n) == data[at:at + n]


def same_words(ours, theirs):
    """But for the program's name and what Debian's build says of its modules."""
    lines = [l for l in theirs.stderr.splitlines()
             if not l.startswith("qemu: module") and "warning: dmg-" not in l]
    assert [l.split(": ", 1)[1] for l in ours.stderr.splitlines()] == [
        l.split(": ", 1)[1] for l in lines]
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


@pytest.mark.parametrize("version", [0x10000, 0x20000])
@pytest.mark.parametrize("extent, bitmap", [(512 * 64, 512), (512, 1), (4096, 512),
                                            (1 << 23, 2048), (512 * 64, 700)])
def test_bochs(tmp_path, version, extent, bitmap):
    image = tmp_path / "a"
    data = samples.bochs(image, 512 * 300, SECTORS, extent, bitmap, version)
    reads_as(image, "bochs", data, tmp_path / "raw")
    for argv in (["info"], ["info", "--output=json"], ["check"], ["resize", "2M"]):
        argv = [*argv[:1], image, *argv[1:]]
        same_words(run(IMG, *argv, ok=False), run(QEMU_IMG, *argv, ok=False))


@pytest.mark.parametrize("block", [512, 1024, 65536, 63 * 512, 1 << 20])
def test_cloop(tmp_path, block):
    image = tmp_path / "a"
    data = samples.cloop(image, random.Random(1).randbytes(70000) + bytes(200000) +
                         b"abc" * 50000, block)
    reads_as(image, "cloop", data, tmp_path / "raw")
    for argv in (["info"], ["info", "--output=json"], ["check"], ["resize", "2M"], ["map"]):
        argv = [*argv[:1], image, *argv[1:]]
        same_words(run(IMG, *argv, ok=False), run(QEMU_IMG, *argv, ok=False))


def chunks(*more):
    rng = random.Random(3)
    return [(samples.RAW, rng.randbytes(5 * 512)), (samples.ZLIB, b"abcd" * 128 * 64),
            (samples.ZERO, bytes(512 * 100)), (samples.IGNORE, bytes(512 * 3)),
            (samples.ZLIB, rng.randbytes(512 * 9)), *more,
            (samples.ZLIB, bytes(range(256)) * 2 * 100)]


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("options", [{}, {"data_at": 100}, {"part_at": 77}, {"parts": 3},
                                     {"data_at": 512, "part_at": 1, "parts": 2}])
def test_dmg(tmp_path, fork, options):
    image = tmp_path / "a.dmg"
    data = samples.dmg(image, chunks(), fork=fork, **options)
    reads_as(image, "dmg", data, tmp_path / "raw")
    for argv in (["info"], ["info", "--output=json"], ["check"], ["resize", "2M"]):
        argv = [*argv[:1], image, *argv[1:]]
        same_words(run(IMG, *argv, ok=False), run(QEMU_IMG, *argv, ok=False))


def test_dmg_with_every_compression(tmp_path):
    """Debian's qemu-img has zlib alone."""
    image = tmp_path / "a.dmg"
    text = b"hello, disk image! " * 512
    data = samples.dmg(image, chunks(
        (samples.BZIP2, text * 30), (samples.XZ, text * 20), (samples.ADC, text[:4096]),
        (samples.ADC, bytes(512 * 7) + b"\1" * 1024 + text[:512])))
    reads_as(image, "dmg", data, tmp_path / "raw", peer=False)


def test_dmg_with_bytes_behind_the_trailer(tmp_path):
    image = tmp_path / "a.dmg"
    data = samples.dmg(image, chunks(), tail=bytes(300))
    reads_as(image, "dmg", data, tmp_path / "raw", peer=False)


def test_dmg_with_lzfse_is_refused_by_name(tmp_path):
    image = tmp_path / "a.dmg"
    samples.dmg(image, chunks((samples.LZFSE, bytes(512))))
    done = run(IMG, "info", image, ok=False)
    assert done.returncode == 1 and "compressed with LZFSE, which is not supported" in done.stderr


def make(fmt, path):
    if fmt == "bochs":
        return samples.bochs(path, 512 * 300, SECTORS)
    if fmt == "cloop":
        return samples.cloop(path, b"abc" * 100000)
    return samples.dmg(path, chunks())


@pytest.mark.parametrize("fmt", ["bochs", "cloop", "dmg"])
def test_nobody_writes(tmp_path, fmt):
    image = tmp_path / f"a.{fmt}"
    make(fmt, image)
    before = image.read_bytes()
    ours = run(IO, "-c", "write 0 512", image, ok=False)
    assert ours.stderr.endswith(": Image is read-only\n") and ours.returncode == 1
    assert image.read_bytes() == before
    done = run(IMG, "create", "-f", fmt, tmp_path / "x", "1M", ok=False)
    assert f"Format driver '{fmt}' does not support image creation" in done.stderr


def le(value):
    return struct.pack("<I", value & 0xffffffff)


def be(value):
    return struct.pack(">I", value & 0xffffffff)


def be64(value):
    return struct.pack(">Q", value & (1 << 64) - 1)


HEADERS = [
    ("bochs", 0, b"X"), ("bochs", 32, b"X"), ("bochs", 48, b"Undoable\0"),
    ("bochs", 64, le(0x30000)), ("bochs", 72, le(0)), ("bochs", 72, le(3)),
    ("bochs", 72, le(1 << 30)), ("bochs", 80, le(0)), ("bochs", 80, le(512)),
    ("bochs", 80, le(1000)), ("bochs", 80, le(1 << 24)), ("bochs", 80, le(1 << 30)),
    ("bochs", 88, struct.pack("<Q", 1 << 50)),
    ("cloop", 128, be(0)), ("cloop", 128, be(513)), ("cloop", 128, be(128 << 20)),
    ("cloop", 128, be(1 << 31)), ("cloop", 132, be(-1)), ("cloop", 132, be(1 << 28)),
    ("cloop", 132, be(1 << 24)), ("cloop", 136, be64(1 << 50)), ("cloop", 144, be64(1 << 50)),
    ("cloop", 144, be64(5)),
    ("dmg", -512, b"X"), ("dmg", -296, be64(1 << 50)), ("dmg", -288, be64(1 << 40)),
    ("dmg", -288, be64(0)), ("dmg", -20, be64(-1)),
]


@pytest.mark.parametrize("fmt, at, patch", HEADERS)
def test_headers_are_refused_in_qemus_words(tmp_path, fmt, at, patch):
    image = tmp_path / f"a.{fmt}"
    make(fmt, image)
    data = bytearray(image.read_bytes())
    at %= len(data)
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    ours = hostile.attempt(IMG, "info", "-f", fmt, image)
    assert ours.returncode == 1
    same_words(ours, run(QEMU_IMG, "info", "-f", fmt, image, ok=False))
    io = run(IO, "-r", "-f", fmt, "-c", "read 0 512", image, ok=False)
    same_words(io, run(QEMU_IO, "-r", "-f", fmt, "-c", "read 0 512", image, ok=False))
    assert image.read_bytes() == bytes(data)


def test_dmg_chunks_that_are_too_large(tmp_path):
    image = tmp_path / "a.dmg"
    samples.dmg(image, [(samples.RAW, bytes(512)), (samples.ZLIB, bytes(65 << 20))])
    done = hostile.attempt(IMG, "info", image)
    assert "sector count 133120 for chunk 1 is larger than max (131072)" in done.stderr


@pytest.mark.parametrize("fmt", ["bochs", "cloop", "dmg"])
@pytest.mark.parametrize("seed", range(3))
def test_hostile(tmp_path, fmt, seed):
    image = tmp_path / f"a.{fmt}"
    make(fmt, image)
    size = image.stat().st_size
    places = {"bochs": [*range(64, 96)] * 3 + [*range(512, 600)],
              "cloop": [*range(128, 180)] * 3 + [*range(180, 250)],
              "dmg": [*range(size - 512, size)] + [*range(size - 2048, size - 512)]}[fmt]
    hostile.attack(image, fmt, places, seed)
    if fmt == "dmg":
        samples.dmg(image, chunks(), fork=True)
        blocks = image.read_bytes().index(b"mish")
        hostile.attack(image, fmt, range(blocks - 256, blocks + 400), seed)


def test_bomb(tmp_path):
    """A large block of zeros, many times: small to store, large to read."""
    image = tmp_path / "a"
    samples.cloop(image, bytes(1 << 20), 1 << 20)
    data = bytearray(image.read_bytes())
    stored = data[152:]
    out = bytearray(data[:128]) + struct.pack(">II", 1 << 20, 4000)
    offsets = [136 + 8 * 4001 + i * len(stored) for i in range(4001)]
    image.write_bytes(out + struct.pack(">4001Q", *offsets) + bytes(stored) * 4000)
    done = hostile.attempt(IMG, "compare", "-f", "cloop", "-F", "cloop", image, image)
    assert done.returncode == 0
