"""
Images made to hurt: tables over each other or nowhere, loops, sizes and counts beyond
reason. Each is refused, or read and checked, in little time and memory, with an error that
says what is wrong; and nothing is written to it.
"""
import resource
import struct
import subprocess

import pytest

import vm
from images import IMG, IO, QEMU_IMG, QEMU_IO, io, run

MEMORY = 1 << 30
SECONDS = 60


def limited():
    if vm.TREE == "release":  # sanitizers map more than they use
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def attempt(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          timeout=SECONDS, preexec_fn=limited)
    assert done.returncode in (0, 1, 2, 3), (argv, done.returncode, done.stderr)
    return done


def be(size, value):
    return value.to_bytes(size, "big")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "8M")
    io(QEMU_IO, path, ["write -P 1 0 200k", "write -P 2 5M 100k"])
    run(QEMU_IMG, "snapshot", "-c", "one", path)
    io(QEMU_IO, path, ["write -P 3 0 20k"])
    return path


HEADERS = {
    "magic": (0, b"QFIx", "not in qcow2 format"),
    "version": (4, be(4, 9), "Unsupported qcow2 version 9"),
    "cluster-small": (20, be(4, 3), "Unsupported cluster size: 2^3"),
    "cluster-huge": (20, be(4, 63), "Unsupported cluster size: 2^63"),
    "size": (24, be(8, 1 << 63), "Image is too big"),
    "size-l1": (24, be(8, 1 << 60), "too big|L1 table is too small"),
    "crypt": (32, be(4, 7), "Unsupported encryption method 7"),
    "aes": (32, be(4, 1), "key-secret"),
    "luks": (32, be(4, 2), "CRYPTO header"),
    "l1-many": (36, be(4, 0x7fffffff), "Active L1 table too large"),
    "l1-few": (36, be(4, 0), "L1 table is too small"),
    "l1-unaligned": (40, be(8, 513), "Active L1 table offset invalid"),
    "l1-far": (40, be(8, (1 << 63) - 4096), "past the end of the file"),
    "rt-unaligned": (48, be(8, 100), "Reference count table offset invalid"),
    "rt-large": (56, be(4, 0x7fffffff), "Reference count table too large"),
    "rt-none": (56, be(4, 0), "does not contain a reference count table"),
    "snapshots-many": (60, be(4, 0xffffffff), "Snapshot table too large"),
    "snapshots-unaligned": (64, be(8, 1), "Snapshot table offset invalid"),
    "feature": (72, be(8, 1 << 40), "Unsupported qcow2 feature"),
    "compression": (72, be(8, 1 << 3), "ompression type"),
    "refcount-order": (96, be(4, 7), "Reference count entry width too large"),
    "header-short": (100, be(4, 80), "header too short"),
    "header-long": (100, be(4, 1 << 20), "header exceeds cluster size"),
    "extension-long": (112, be(4, 7) + be(4, 1 << 30), "Header extension too large"),
    "backing-far": (8, be(8, 1 << 40) + be(4, 10), "Invalid backing file offset"),
    "backing-long": (8, be(8, 2048) + be(4, 2000), "Backing file name too long"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header(image, name):
    at, patch, words = HEADERS[name]
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    done = attempt(IMG, "convert", "-f", "qcow2", image, image.with_suffix(".raw"))
    assert done.returncode == 1
    assert any(w in done.stderr for w in words.split("|")), done.stderr
    assert str(image) in done.stderr
    for argv in (["check", "-f", "qcow2"], ["info", "-f", "qcow2"], ["map", "-f", "qcow2"]):
        attempt(IMG, *argv, image)
    assert image.read_bytes() == bytes(data)


def tables(data):
    l1 = struct.unpack_from(">Q", data, 40)[0]
    l2 = struct.unpack_from(">Q", data, l1)[0] & 0x00fffffffffffe00
    rt = struct.unpack_from(">Q", data, 48)[0]
    block = struct.unpack_from(">Q", data, rt)[0]
    snapshots = struct.unpack_from(">Q", data, 64)[0]
    return {"l1": l1, "l2": l2, "rt": rt, "block": block, "snapshots": snapshots}


COPIED = 1 << 63
DAMAGE = {
    "l1-into-itself": ("l1", 0, lambda t: t["l1"] | COPIED),
    "l1-unaligned": ("l1", 0, lambda t: 0x1200 + 512 | COPIED),
    "l1-outside": ("l1", 0, lambda t: 1 << 50 | COPIED),
    "l2-into-header": ("l2", 0, lambda t: 512 | COPIED),
    "l2-into-l1": ("l2", 0, lambda t: t["l1"] | COPIED),
    "l2-into-itself": ("l2", 0, lambda t: t["l2"] | COPIED),
    "l2-into-refcounts": ("l2", 0, lambda t: t["block"] | COPIED),
    "l2-outside": ("l2", 0, lambda t: 0x00fffffffffff000 | COPIED),
    "l2-unaligned": ("l2", 0, lambda t: 0x5200 | COPIED),
    "l2-packed": ("l2", 0, lambda t: 1 << 62 | 0x3fffffffffffffff),
    "l2-packed-copied": ("l2", 0, lambda t: 3 << 62 | 4096),
    "rt-outside": ("rt", 0, lambda t: 1 << 55),
    "rt-unaligned": ("rt", 0, lambda t: 513),
    "rt-into-itself": ("rt", 0, lambda t: t["rt"]),
    "rt-none": ("rt", 0, lambda t: 0),
    "counts-none": ("block", 0, lambda t: 0),
    "counts-many": ("block", 0, lambda t: (1 << 64) - 1),
    "snapshot-l1-far": ("snapshots", 0, lambda t: 1 << 62),
    "snapshot-l1-many": ("snapshots", 8, lambda t: (1 << 64) - 1),
    "snapshot-names": ("snapshots", 32, lambda t: (1 << 64) - 1),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_tables(image, name):
    """Reading changes nothing; writing does not spread the damage over tables; repair ends."""
    data = bytearray(image.read_bytes())
    where = tables(data)
    table, offset, value = DAMAGE[name]
    struct.pack_into(">Q", data, where[table] + offset, value(where))
    image.write_bytes(data)
    raw = image.with_suffix(".raw")
    for argv in (["check"], ["info"], ["map", "--output=json"], ["snapshot", "-l"],
                 ["measure", "-O", "qcow2"]):
        attempt(IMG, *argv, image)
    attempt(IMG, "convert", image, raw)
    attempt(IMG, "convert", "-l", "one", image, raw)
    assert image.read_bytes() == bytes(data)
    header = bytes(data[:72])
    attempt(IO, "-c", "write -P 9 0 64k", "-c", "write -P 9 1M 64k", "-c", "flush", image)
    changed = image.read_bytes()
    assert changed[:24] == header[:24] and changed[24:32] == header[24:32]
    attempt(IMG, "check", "-r", "all", image)
    attempt(IMG, "check", image)
    attempt(IMG, "snapshot", "-d", "one", image)
    attempt(IMG, "resize", "--shrink", image, "1M")


def test_cut_short(image):
    data = image.read_bytes()
    for length in (0, 1, 71, 72, 103, 104, 4095, 4096, 3 * 4096, len(data) // 2):
        image.write_bytes(data[:length])
        for argv in (["check"], ["info"], ["map"], ["convert", "-O", "qcow2"]):
            more = [image.with_suffix(".out")] if argv[0] == "convert" else []
            attempt(IMG, argv[0], "-f", "qcow2", *argv[1:], image, *more)
        assert image.read_bytes() == data[:length]


def test_chain_that_leads_back(tmp_path):
    for a, b in (("a", "b"), ("b", "a")):
        run(IMG, "create", "-q", "-f", "qcow2", "-u", "-b", b, "-F", "qcow2", tmp_path / a, "1M")
    for argv in (["convert", "-f", "qcow2", tmp_path / "a", tmp_path / "x"],
                 ["info", "--backing-chain", tmp_path / "a"]):
        done = attempt(IMG, *argv)
        assert done.returncode == 1
        assert "creates an infinite loop" in done.stderr


def test_info_opens_no_other_file(tmp_path):
    """A data file and a backing file that are not there do not matter for a report."""
    image = tmp_path / "a"
    run(IMG, "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", image, "1M")
    (tmp_path / "data").unlink()
    assert "data file: " in run(IMG, "info", image).stdout
    assert attempt(IMG, "convert", image, tmp_path / "x").returncode == 1
    run(IMG, "create", "-q", "-f", "qcow2", "-u", "-b", "/nothing", "-F", "raw", image, "1M")
    assert "backing file: /nothing" in run(IMG, "info", image).stdout


def test_a_file_that_pretends_to_be_huge(tmp_path):
    image = tmp_path / "a"
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", image, "1M")
    with open(image, "r+b") as f:
        f.truncate(1 << 42)
    attempt(IMG, "info", image)
    done = attempt(IMG, "check", image)
    assert done.returncode == 0


def test_bomb(tmp_path):
    """Every cluster of the disk is the same compressed one: small to store, large to read."""
    image = tmp_path / "a"
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", image, "4G")
    io(IO, image, ["write -c -P 1 0 2M"])
    data = bytearray(image.read_bytes())
    l2 = tables(data)["l2"]
    data[l2:l2 + 8 * 2048] = data[l2:l2 + 8] * 2048
    image.write_bytes(data)
    done = attempt(IMG, "compare", image, image)
    assert done.returncode == 0
    assert attempt(IMG, "check", image).returncode == 2
