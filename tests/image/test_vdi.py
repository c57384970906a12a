"""vdi against Debian's qemu-img and qemu-io, in both directions."""
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, run

SHAPES = ["", "static=on"]
BLOCK = 1 << 20


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    pairs.by_turns(tmp_path, "vdi", shape, seed, BLOCK, size=(9 << 20) + 1536)


@pytest.mark.parametrize("shape", SHAPES)
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "vdi", shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0, 512, 1 << 20, (7 << 20) + 512])
def test_reports(tmp_path, shape, size):
    image = tmp_path / "a.vdi"
    pairs.create(QEMU_IMG, "vdi", shape, image, size)
    pairs.reports("vdi", image)
    if size > 5 << 20:
        pairs.fio(QEMU_IO, "vdi", image, ["write 2M 2M", "write 6M 512", "write 0 4k"])
        pairs.reports("vdi", image)


@pytest.mark.parametrize("size", ["0", "1", "5M", "1000001", "100T", "600T"])
@pytest.mark.parametrize("shape", SHAPES)
def test_new_images_are_qemus(tmp_path, shape, size):
    """Byte for byte, but for what is random."""
    if shape and size.endswith("T"):
        pytest.skip("the file would be as large")
    if size == "100T":
        size = "100G"
    argv = ["create", "-f", "vdi", *(["-o", shape] if shape else []), "x.vdi", size]
    pairs.says_the_same(tmp_path, argv)
    heads = []
    for tool in (IMG, QEMU_IMG):
        if run(tool, *argv, ok=False, cwd=tmp_path).returncode == 0:
            data = bytearray((tmp_path / "x.vdi").read_bytes())
            data[0x188:0x1a8] = bytes(32)
            heads.append(bytes(data))
    assert len(heads) in (0, 2) and heads[:1] == heads[1:]


def u32(value):
    return struct.pack("<I", value & 0xffffffff)


HEADERS = {
    "signature": (0x40, u32(7)),
    "version": (0x44, u32(0x00020003)),
    "bmap-unaligned": (0x154, u32(513)),
    "data-unaligned": (0x158, u32(1025)),
    "sector": (0x168, u32(4096)),
    "block": (0x178, u32(4096)),
    "size-large": (0x170, struct.pack("<Q", 1 << 60)),
    "size-room": (0x170, struct.pack("<Q", 1 << 30)),
    "size-odd": (0x170, struct.pack("<Q", 1000)),
    "blocks": (0x180, u32(0xffffffff)),
    "link": (0x1a8, b"x"),
    "parent": (0x1b8, b"x"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_refusals_are_qemus(tmp_path, name):
    image = tmp_path / "a.vdi"
    pairs.create(QEMU_IMG, "vdi", "", image, "5M")
    at, patch = HEADERS[name]
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    pairs.says_the_same(tmp_path, ["info", "-f", "vdi", "a.vdi"])
    assert image.read_bytes() == bytes(data)


DAMAGE = {
    "twice": (1, 0), "outside": (2, 700), "lost": (0, 0xffffffff), "discarded": (3, 0xfffffffe),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_says_what_qemu_says(tmp_path, name):
    image = tmp_path / "a.vdi"
    pairs.create(QEMU_IMG, "vdi", "", image, "5M")
    pairs.fio(QEMU_IO, "vdi", image, ["write -P 1 0 3M"])
    index, value = DAMAGE[name]
    data = bytearray(image.read_bytes())
    data[512 + 4 * index:516 + 4 * index] = u32(value)
    image.write_bytes(data)
    for output in ("human", "json"):
        pairs.says_the_same(tmp_path, ["check", f"--output={output}", "a.vdi"])
    assert image.read_bytes() == bytes(data)
    run(IMG, "check", "-r", "all", image, ok=False)
    assert run(IMG, "check", image, ok=False).returncode == (2 if name == "twice" else 0)


def test_a_number_that_is_free_again_is_used(tmp_path):
    """The header's count is behind the table, as after a power cut: nothing is lost."""
    image = tmp_path / "a.vdi"
    pairs.create(IMG, "vdi", "", image, "8M")
    pairs.fio(IO, "vdi", image, ["write -P 1 0 1M", "write -P 2 1M 1M"])
    data = bytearray(image.read_bytes())
    data[0x184:0x188] = u32(1)
    image.write_bytes(data)
    pairs.fio(IO, "vdi", image, ["write -P 3 2M 1M", "read -P 1 0 1M", "read -P 2 1M 1M"])
    run(IMG, "check", "-r", "all", image)
    pairs.fio(QEMU_IO, "vdi", image, ["read -P 1 0 1M", "read -P 2 1M 1M", "read -P 3 2M 1M"])
    pairs.fcheck(QEMU_IMG, "vdi", image)


@pytest.mark.parametrize("seed", range(2))
def test_hostile(tmp_path, seed):
    image = tmp_path / "a.vdi"
    pairs.create(QEMU_IMG, "vdi", "", image, "9M")
    pairs.fio(QEMU_IO, "vdi", image, ["write -P 1 0 3M", "write -P 2 5M 100k"])
    hostile.attack(image, "vdi", range(0, 600), seed)
