"""VHD images ("vpc") against Debian's qemu-img and qemu-io, in both directions."""
import json
import shutil

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, out, run

SHAPES = ["", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"]
BLOCK = 2 << 20
SIZES = ["0", "1", "512", "5M", "100M", "1000001", "1G", "33G", "127G", "136899993600",
         "136899993601", "200G", "2040G", "2041G"]


def fix_sum(sector):
    """The checksum of a footer anew."""
    sector[64:68] = bytes(4)
    sector[64:68] = (~sum(sector) & 0xffffffff).to_bytes(4, "big")
    return sector


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    pairs.by_turns(tmp_path, "vpc", shape, seed, BLOCK, size=(9 << 20) + 1536)


@pytest.mark.parametrize("shape", ["force_size=on", "subformat=fixed,force_size=on"])
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "vpc", shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0, 512, 1 << 20, (7 << 20) + 512])
def test_reports(tmp_path, shape, size):
    image = tmp_path / "a.vpc"
    if size == 0 and "fixed" in shape:
        pytest.skip("qemu-img cannot open its own: it takes the footer for a dynamic one")
    pairs.create(QEMU_IMG, "vpc", shape, image, size)
    pairs.reports("vpc", image)
    if size > 5 << 20:
        pairs.fio(QEMU_IO, "vpc", image, ["write 2M 2M", "write 6M 512", "write 0 4k"])
        pairs.reports("vpc", image)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_new_images_are_qemus(tmp_path, shape, size):
    """Byte for byte, but for what is random: geometry, sizes and tables."""
    if "fixed" in shape and size.endswith("G"):
        size = "1G"
    argv = ["create", "-f", "vpc", *(["-o", shape] if shape else []), "x.vpc", size]
    pairs.says_the_same(tmp_path, argv)
    made = []
    for tool in (IMG, QEMU_IMG):
        if run(tool, *argv, ok=False, cwd=tmp_path).returncode == 0:
            with open(tmp_path / "x.vpc", "rb") as f:
                end = f.seek(0, 2)
                f.seek(0)
                head = bytearray(f.read(4096))
                f.seek(max(0, end - 512))
                tail = bytearray(f.read())
            for part in (head, tail):
                at = part.find(b"conectix")
                while at >= 0:
                    part[at + 24:at + 28] = bytes(4)
                    part[at + 64:at + 84] = bytes(20)
                    at = part.find(b"conectix", at + 1)
            made.append((end, bytes(head), bytes(tail)))
    assert len(made) in (0, 2) and made[:1] == made[1:]


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("creator", [b"vpc ", b"vs  ", b"qemu", b"qem2", b"win ", b"d2v ",
                                     b"tap\0", b"CTXS", b"wa\0\0", b"vbox", b"tap "])
def test_size_by_creator(tmp_path, creator, kind):
    """Geometry or current size: as the program that made the image means it."""
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", f"subformat={kind},force_size=on", image, "5M")
    data = bytearray(image.read_bytes())
    for at in (0, len(data) - 512):
        if data[at:at + 8] == b"conectix":
            foot = data[at:at + 512]
            foot[28:32] = creator
            foot[56:60] = b"\0\x10\x04\x11"
            data[at:at + 512] = fix_sum(foot)
    image.write_bytes(data)
    for extra in ("", ",force_size_calc=chs", ",force_size_calc=current_size"):
        name = f"driver=vpc,file.driver=file,file.filename={image}{extra}"
        sizes = [json.loads(out(t, "info", "--output=json", "--image-opts", name))["virtual-size"]
                 for t in (IMG, QEMU_IMG)]
        assert sizes[0] == sizes[1], extra


def be(value, size=4):
    return (value & (1 << 8 * size) - 1).to_bytes(size, "big")


HEADERS = {  # where, what, with the checksum made right
    "magic": (0, b"x"),
    "sum": (-64, b"x"),
    "data-offset": (16, be(1, 8)),
    "data-offset-far": (16, be(0x7f7f7f7f7f7f7f7f, 8)),
    "geometry-max": (56, b"\xff\xff\x10\xff"),
    "geometry-over": (56, b"\xff\xff\xff\xff"),
    "geometry-none": (56, b"\0\0\0\0"),
    "cookie": (-512, b"x"),
    "table": (-528, be(1 << 24, 8)),
    "entries-none": (-540, be(0)),
    "entries-few": (-540, be(2)),
    "entries-many": (-540, be(0x7fffffff)),
    "entries-negative": (-540, be(0x80000000)),
    "block-none": (-544, be(0)),
    "block-odd": (-544, be(513)),
    "block-small": (-544, be(512)),
    "block-tiny": (-544, be(256)),
    "block-huge": (-544, be(0x40000000)),
    "table-sum": (-548, b"x"),
    "bat": (-1536, be(4)),
    "bat-far": (-1536, be(0x10004)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_refusals_are_qemus(tmp_path, name):
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", "", image, "5M")
    at, patch = HEADERS[name]
    data = bytearray(image.read_bytes())
    data[abs(at):abs(at) + len(patch)] = patch
    if at >= 0:
        data[:512] = fix_sum(data[:512])
    image.write_bytes(data)
    pairs.says_the_same(tmp_path, ["info", "-f", "vpc", "a.vpc"])
    assert image.read_bytes() == bytes(data)


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 600, 1536, 2048])
def test_cut_short(tmp_path, cut):
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", "", image, "5M")
    image.write_bytes(image.read_bytes()[:cut])
    pairs.says_the_same(tmp_path, ["map", "--output=json", "-f", "vpc", "a.vpc"])


def test_sectors_of_others_are_marked(tmp_path):
    """A block whose bitmap is not full gets a full one with the first write to it."""
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", "", image, "5M")
    pairs.fio(QEMU_IO, "vpc", image, ["write -P 5 0 4k"])
    data = bytearray(image.read_bytes())
    block = int.from_bytes(data[1536:1540], "big") * 512
    data[block:block + 512] = b"\xff" + bytes(511)
    image.write_bytes(data)
    pairs.fio(IO, "vpc", image, ["read -P 5 0 4k", "write -P 6 1M 4k", "read -P 6 1M 4k"])
    assert image.read_bytes()[block:block + 512] == b"\xff" * 512


def test_differencing_is_refused(tmp_path):
    """Without its parent the content would be wrong."""
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", "", image, "5M")
    data = bytearray(image.read_bytes())
    data[60:64] = be(4)
    data[:512] = fix_sum(data[:512])
    image.write_bytes(data)
    done = run(IMG, "info", image, ok=False)
    assert done.returncode == 1 and "differencing" in done.stderr


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
@pytest.mark.skipif(not shutil.which("vhdiinfo"), reason="libvhdi-utils is not installed")
def test_libvhdi_agrees(tmp_path, kind):
    image = tmp_path / "a.vhd"
    pairs.create(IMG, "vpc", f"subformat={kind},force_size=on", image, "10M")
    pairs.fio(IO, "vpc", image, ["write -P 5 0 4k", "write -P 6 7M 1M"])
    text = out("vhdiinfo", image)
    assert "10485760 bytes" in text, text
    assert ("Fixed" if kind == "fixed" else "Dynamic") in text, text


@pytest.mark.parametrize("seed", range(2))
def test_hostile(tmp_path, seed):
    image = tmp_path / "a.vpc"
    pairs.create(QEMU_IMG, "vpc", "", image, "9M")
    pairs.fio(QEMU_IO, "vpc", image, ["write -P 1 0 3M", "write -P 2 5M 100k"])
    hostile.attack(image, "vpc", [*range(512, 560), *range(1536, 1560)], seed)
