"""vmdk against Debian's qemu-img and qemu-io, in both directions."""
import re
import shutil
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, info, out, run

SHAPES = {
    "sparse": "",
    "zeroed": "zeroed_grain=on",
    "compat6": "compat6=on",
    "flat": "subformat=monolithicFlat",
    "2gb-sparse": "subformat=twoGbMaxExtentSparse",
    "2gb-flat": "subformat=twoGbMaxExtentFlat",
}
STREAM = "subformat=streamOptimized"
GRAIN = 65536


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    pairs.by_turns(tmp_path, "vmdk", SHAPES[shape], seed, GRAIN)


@pytest.mark.parametrize("shape", [*SHAPES, "stream"])
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "vmdk", SHAPES.get(shape, STREAM))


@pytest.mark.parametrize("flags", [["-c"], ["-m", "1"], ["-S", "0"], ["-W"]])
def test_convert_to_a_stream(tmp_path, flags):
    pairs.converts(tmp_path, "vmdk", STREAM, flags=[f for f in flags if f != "-c"])
    raw, image = tmp_path / "a.raw", tmp_path / "s.vmdk"
    run(IMG, "convert", "-f", "raw", "-O", "vmdk", "-o", STREAM, *flags, raw, image)
    pairs.fsame(QEMU_IMG, "vmdk", image, raw)
    pairs.reports("vmdk", image)


@pytest.mark.parametrize("maker", pairs.TOOLS)
def test_grains_of_a_stream(tmp_path, maker):
    """Whole grains are written once; noise that does not get shorter, too."""
    image, raw = tmp_path / "a.vmdk", tmp_path / "a.raw"
    model = Model((3 << 20) + 512, maker)
    pairs.create(pairs.TOOLS[maker][0], "vmdk", STREAM, image, len(model.data))
    for n, tool in enumerate((IO, QEMU_IO, IO)):
        pairs.fio(tool, "vmdk", image,
                  [f"write -P {n + 1} {(3 * i + n) * GRAIN} 64k" for i in range(6)])
        for i in range(6):
            at = (3 * i + n) * GRAIN
            model.data[at:at + GRAIN] = bytes([n + 1]) * GRAIN
    model.save(raw)
    for tool in (IMG, QEMU_IMG):
        pairs.fsame(tool, "vmdk", image, raw)
        pairs.fcheck(tool, "vmdk", image)
    done = run(IO, "-f", "vmdk", "-c", "write 0 64k", image, ok=False)
    assert done.returncode == 1
    assert "Could not write to allocated cluster for streamOptimized" in done.stderr
    pairs.fsame(QEMU_IMG, "vmdk", image, raw)
    model.data = bytearray(model.random.randbytes(2 << 20))
    model.save(raw)
    run(IMG, "convert", "-f", "raw", "-O", "vmdk", "-o", STREAM, raw, image)
    pairs.fsame(QEMU_IMG, "vmdk", image, raw)
    pairs.fsame(IMG, "vmdk", image, raw)


def as_stream(data):
    """The image of a finished stream: tables behind the grains, a footer, an end."""
    head = bytearray(data[:512])
    gd_at, = struct.unpack_from("<Q", head, 56)
    sectors = len(data) // 512
    marker = struct.pack("<QII", 1, 0, 3) + bytes(496)
    foot = bytes(head)
    struct.pack_into("<Q", head, 56, (1 << 64) - 1)
    tail = (struct.pack("<QII", 0, 0, 3) + bytes(496)) + foot + bytes(512)
    assert gd_at < sectors and marker
    return bytes(head) + data[512:] + bytes(-len(data) % 512) + tail


def test_a_finished_stream_is_read(tmp_path):
    raw, image = tmp_path / "a.raw", tmp_path / "a.vmdk"
    model = Model(3 << 20, 8)
    for _ in range(20):
        model.command(GRAIN)
    model.save(raw)
    run(QEMU_IMG, "convert", "-f", "raw", "-O", "vmdk", "-o", STREAM, raw, image)
    image.write_bytes(as_stream(image.read_bytes()))
    for tool in (QEMU_IMG, IMG):
        pairs.fsame(tool, "vmdk", image, raw)
    pairs.reports("vmdk", image)
    data = image.read_bytes()
    done = run(IO, "-f", "vmdk", "-c", "write 2M 64k", image, ok=False)
    assert done.returncode == 1 and image.read_bytes() == data
    for at, value in ((-1536 + 12, 7), (-1024, 0), (-512, 1)):
        bad = bytearray(data)
        bad[len(bad) + at] = value
        image.write_bytes(bad)
        pairs.says_the_same(tmp_path, ["info", "a.vmdk"])


def masked(text):
    return re.sub(r"CID=[0-9a-f]+", "CID=x", text)


def read_head(path):
    with open(path, "rb") as f:
        return f.read(1 << 20)


CREATES = [*SHAPES.values(), STREAM, "adapter_type=lsilogic,toolsversion=9", "hwversion=11",
           "adapter_type=legacyESX", "zeroed_grain=on,subformat=twoGbMaxExtentSparse"]


@pytest.mark.parametrize("options,size", [
    *((options, size) for options in CREATES for size in ("1000", "100M", "5G")), ("", "1T")])
def test_new_images_are_qemus(tmp_path, options, size):
    """Every file of them, byte for byte but for the random CID."""
    made = []
    argv = ["create", "-f", "vmdk", *(["-o", options] if options else []), "x.vmdk", size]
    pairs.says_the_same(tmp_path, argv)
    for name, tool in (("ours", IMG), ("theirs", QEMU_IMG)):
        folder = tmp_path / name
        folder.mkdir()
        run(tool, *argv, cwd=folder)
        while not re.search(rb"\nCID=[0-9a-f]{8}\n", read_head(folder / "x.vmdk")):
            run(tool, *argv, cwd=folder)  # qemu-img leaves zeros in front out
        files = {}
        for path in sorted(folder.iterdir()):
            text = read_head(path).decode("latin-1")
            files[path.name] = (path.stat().st_size, masked(text))
        made.append(files)
    assert made[0] == made[1]


@pytest.mark.parametrize("shape", [*SHAPES, "stream"])
def test_reports(tmp_path, shape):
    image = tmp_path / "a.vmdk"
    size = "3G" if shape.startswith("2gb") else "5M"
    pairs.create(QEMU_IMG, "vmdk", SHAPES.get(shape, STREAM), image, size)
    pairs.reports("vmdk", image)
    pairs.fio(QEMU_IO, "vmdk", image, ["write 2M 2M", "write 0 64k"])
    if shape != "stream":
        pairs.fio(QEMU_IO, "vmdk", image, ["write 4M 512", "write -z 3M 1M"])
    pairs.reports("vmdk", image)


REFUSED = ["adapter_type=foo", "subformat=foo", "subformat=monolithicFlat,zeroed_grain=on",
           "compat6=on,hwversion=4", "backing_file=raw,backing_fmt=raw",
           "backing_file=base.vmdk,backing_fmt=vmdk,subformat=monolithicFlat",
           "backing_file=base.vmdk,backing_fmt=raw", "backing_file=none,backing_fmt=vmdk"]


@pytest.mark.parametrize("options", REFUSED)
def test_create_refuses_as_qemu_does(tmp_path, options):
    (tmp_path / "raw").write_bytes(b"x" * 65536)
    pairs.create(QEMU_IMG, "vmdk", "", tmp_path / "base.vmdk", "1M")
    pairs.says_the_same(tmp_path, ["create", "-f", "vmdk", "-o", options, "x.vmdk", "1M"])


@pytest.mark.parametrize("maker", pairs.TOOLS)
@pytest.mark.parametrize("options", ["", "zeroed_grain=on", "subformat=twoGbMaxExtentSparse"])
def test_backing_files(tmp_path, maker, options):
    img, tool = pairs.TOOLS[maker]
    base, top, raw = tmp_path / "base.vmdk", tmp_path / "top.vmdk", tmp_path / "a.raw"
    model = Model(3 << 20, maker + options)
    pairs.create(img, "vmdk", "", base, len(model.data))
    pairs.fio(tool, "vmdk", base, [model.command(GRAIN) for _ in range(10)])
    argv = ["-o", options] if options else []
    run(img, "create", "-q", "-f", "vmdk", *argv, "-b", "base.vmdk", "-F", "vmdk", top,
        cwd=tmp_path)
    for which in (IO, QEMU_IO, IO):
        pairs.fio(which, "vmdk", top, [model.command(GRAIN) for _ in range(10)])
        model.save(raw)
        pairs.fsame(QEMU_IMG, "vmdk", top, raw)
        pairs.fsame(IMG, "vmdk", top, raw)
    pairs.reports("vmdk", top)
    assert (out(IMG, "info", "--backing-chain", top) ==
            out(QEMU_IMG, "info", "--backing-chain", top))
    # A parent that was changed meanwhile is not the parent.
    pairs.fio(IO, "vmdk", base, ["write 0 512"])
    for reader in (IO, QEMU_IO):
        done = run(reader, "-f", "vmdk", "-c", "read 0 3M", top, ok=False)
        assert "read failed" in done.stdout, reader


def test_a_write_makes_a_new_cid(tmp_path):
    image = tmp_path / "a.vmdk"
    for options in ("", "subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse"):
        pairs.create(IMG, "vmdk", options, image, "1M")
        ids = [info(QEMU_IMG, image)["format-specific"]["data"]["cid"]]
        for tool in (IO, QEMU_IO):
            pairs.fio(tool, "vmdk", image, ["write 0 64k"])
            ids.append(info(IMG, image)["format-specific"]["data"]["cid"])
            pairs.fio(tool, "vmdk", image, ["read 0 64k"])
            assert info(QEMU_IMG, image)["format-specific"]["data"]["cid"] == ids[-1]
        assert len(set(ids)) == 3
    text = image.read_text()
    image.write_text(text.replace(f"CID={ids[-1]:08x}", "CID=1", 1))
    pairs.fio(IO, "vmdk", image, ["write 0 64k"])
    after = image.read_text()
    assert re.search(r"\nCID=[0-9a-f]{8}\n", after) and after.count("CID=") == 2
    assert after.rstrip("\0\n").endswith('ddb.toolsVersion = "2147483647"')


def descriptor(tmp_path, kind, *lines):
    path = tmp_path / "d.vmdk"
    path.write_text("# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\n"
                    f'createType="{kind}"\n\n# Extent description\n' + "\n".join(lines) + "\n\n# The Disk Data Base\n#DDB\n")
    return path


LINES = [
    'RW 128 FLAT "part" 0', 'RW 128 FLAT "part"', 'RW 128 FLAT "part" x', 'RW 128 FLAT "part" -1',
    'RW 128 FLAT part 0', 'RW x FLAT "part" 0', 'RW 0 FLAT "part" 0', 'RW -5 FLAT "part" 0',
    'RW 128 NOPE "part" 0', 'RW 128 VMFS "part"', 'RW 128 VMFS "part" 0', 'RW 128 VMFS "part" 1', 'RW 128 SPARSE "part"',
    'RW 128 SPARSE "part" 5', 'RW 128 FLAT "none" 0', 'RW 128 FLAT "part" 64', "",
    "x" * 3000, 'RW 128 FLAT "part" 0 more',
]


@pytest.mark.parametrize("line", LINES, ids=lambda s: s[:30] or "none")
def test_extent_lines(tmp_path, line):
    (tmp_path / "part").write_bytes(b"abcd" * 16384)
    path = descriptor(tmp_path, "monolithicFlat", line)
    ours = run(IMG, "info", path, ok=False)
    theirs = run(QEMU_IMG, "info", path, ok=False)
    if "more" in line or "FLAT part" in line:
        return  # what comes behind a line, qemu-img does not look at
    # Without any extent, qemu-img aborts.
    assert ours.returncode == (theirs.returncode != 0), (ours.stderr, theirs.stderr)
    if ours.returncode == 0:
        assert ours.stdout == theirs.stdout


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "sub/../../outside",
                                  "sub/inside", "/proc/self/maps"])
def test_extents_stay_in_the_folder(tmp_path, name):
    """A descriptor cannot make anybody read a file of somebody else."""
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "outside", folder / "sub" / "inside"):
        path.write_bytes(b"secret" * 20000)
    image = descriptor(folder, "monolithicFlat", f'RW 128 FLAT "{name}" 0')
    for argv in (["info"], ["convert", "-O", "raw"], ["map"]):
        more = [tmp_path / "x"] if argv[0] == "convert" else []
        done = run(IMG, *argv, image, *more, ok=False)
        assert done.returncode == 1 and "is not in the folder of the image" in done.stderr
    if "outside" in name or "inside" in name:
        run(IMG, "convert", "--image-opts", "-O", "raw",
            f"driver=vmdk,extents-anywhere=on,file.driver=file,file.filename={image}",
            tmp_path / "x")
        assert (tmp_path / "x").read_bytes().startswith(b"secret")


def test_an_extent_of_the_folder_by_its_full_name(tmp_path):
    (tmp_path / "part").write_bytes(b"abcd" * 16384)
    image = descriptor(tmp_path, "monolithicFlat", f'RW 128 FLAT "{tmp_path}/part" 0')
    assert out(IMG, "info", image) == out(QEMU_IMG, "info", image)


def test_read_only_and_zero_extents(tmp_path):
    (tmp_path / "part").write_bytes(b"abcd" * 16384)
    image = descriptor(tmp_path, "monolithicFlat", 'RDONLY 64 FLAT "part" 0', "RW 64 ZERO",
                       'RW 64 FLAT "part" 64')
    raw = tmp_path / "raw"
    run(IMG, "convert", "-O", "raw", image, raw)
    assert raw.read_bytes() == b"abcd" * 8192 + bytes(32768) + b"abcd" * 8192
    done = run(IO, "-f", "vmdk", "-c", "write 0 512", image, ok=False)
    assert done.returncode == 1
    assert (tmp_path / "part").read_bytes() == b"abcd" * 16384


# ---- ESX -----------------------------------------------------------------------------

def cowd(grains):
    """An ESX sparse extent: one table of 4096 entries, grains of one sector."""
    head = b"COWD" + struct.pack("<IIIIIII", 1, 3, 8192, 1, 4, 2, 0)
    data = bytearray(512 * 80)
    data[:len(head)] = head
    struct.pack_into("<I", data, 4 * 512, 6)  # the first table; there is no second
    for number, content in grains.items():
        place = len(data) // 512
        struct.pack_into("<I", data, 6 * 512 + 4 * number, place)
        data += content * 512
    return bytes(data)


def sesparse(grains):
    """ESX 6.5: grains of 4 KiB, the place of each spread over its entry."""
    const = bytearray(512)
    struct.pack_into("<8Q", const, 0, 0xcafebabe, 0x200000001, 8192, 8, 64, 0, 0, 0)
    struct.pack_into("<QQ", const, 80, 1, 1)  # volatile header
    struct.pack_into("<QQ", const, 128, 2, 1)  # grain directory
    struct.pack_into("<QQ", const, 144, 8, 128)  # grain tables
    struct.pack_into("<QQ", const, 192, 256, 4096)  # grains
    data = bytearray(512 * 256)
    data[:512] = const
    struct.pack_into("<Q", data, 512, 0xcafecafe)
    struct.pack_into("<Q", data, 1024, 0x1000000000000000)
    for n, (number, content) in enumerate(grains.items()):
        entry = 2 << 60
        if content is not None:
            entry = 3 << 60 | (n & 0xfff) << 48 | n >> 12
        struct.pack_into("<Q", data, 8 * 512 + 8 * number, entry)
        data += (content or b"\0") * 4096
    return bytes(data)


@pytest.mark.parametrize("alone", [True, False])
def test_esx_sparse_is_read(tmp_path, alone):
    (tmp_path / "part").write_bytes(cowd({0: b"a", 5: b"b", 4095: b"c"}))
    image = tmp_path / "part" if alone else descriptor(
        tmp_path, "vmfsSparse", 'RW 8192 VMFSSPARSE "part"')
    raw = tmp_path / "raw"
    run(IMG, "convert", "-f", "vmdk", "-O", "raw", image, raw)
    if not alone:  # without a descriptor, qemu-img does not open it
        pairs.fsame(QEMU_IMG, "vmdk", image, raw)
        pairs.reports("vmdk", image)
    data = raw.read_bytes()
    assert data[:512] == b"a" * 512 and data[5 * 512:6 * 512] == b"b" * 512
    assert data[4095 * 512:4096 * 512] == b"c" * 512 and len(data) == 8192 * 512
    if not alone:
        pairs.fio(IO, "vmdk", image, ["write -P 7 4k 8k", "write -P 8 3M 1k"])
        pairs.fio(QEMU_IO, "vmdk", image, ["read -P 7 4k 8k", "read -P 8 3M 1k"])


def test_sesparse_is_read(tmp_path):
    (tmp_path / "part").write_bytes(sesparse({0: b"a", 3: None, 5: b"b", 900: b"c"}))
    image = descriptor(tmp_path, "seSparse", 'RW 8192 SESPARSE "part"')
    raw = tmp_path / "raw"
    run(IMG, "convert", "-O", "raw", image, raw)
    pairs.fsame(QEMU_IMG, "vmdk", image, raw)
    pairs.reports("vmdk", image)
    assert raw.read_bytes()[900 * 4096:901 * 4096] == b"c" * 4096
    done = run(IO, "-f", "vmdk", "-c", "write 0 512", image, ok=False)
    assert "No write support for seSparse images" in done.stderr


SE_DAMAGE = {"magic": 0, "version": 8, "grain": 24, "table": 32, "flags": 40, "reserved": 50,
             "pad": 300, "volatile": 512, "replay": 536, "volatile-pad": 700}


@pytest.mark.parametrize("name", SE_DAMAGE)
def test_sesparse_refusals_are_qemus(tmp_path, name):
    data = bytearray(sesparse({0: b"a"}))
    data[SE_DAMAGE[name]] ^= 0x41
    (tmp_path / "part").write_bytes(data)
    image = descriptor(tmp_path, "seSparse", 'RW 8192 SESPARSE "part"')
    ours, theirs = run(IMG, "info", image, ok=False), run(QEMU_IMG, "info", image, ok=False)
    assert ours.returncode == theirs.returncode == 1
    assert ours.stderr.split("'part': ")[-1] == theirs.stderr.split("d.vmdk': ")[-1]


# ---- damage --------------------------------------------------------------------------

def le(value, size):
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


HEADERS = {
    "magic": (0, b"x"),
    "version": (4, le(4, 4)),
    "version-3": (4, le(3, 4)),
    "capacity-none": (12, le(0, 8)),
    "grain-none": (20, le(0, 8)),
    "grain-huge": (20, le(1 << 22, 8)),
    "grain-all": (20, le(-1, 8)),
    "capacity-large": (12, le(0xffffffff, 8)),
    "table-of-one": (44, le(1, 4)),
    "entries-none": (44, le(0, 4)),
    "entries-many": (44, le(513, 4)),
    "entries-huge": (44, le(-1, 4)),
    "overhead": (64, le(1 << 20, 8)),
    "rgd-off": (8, le(1, 4)),
    "no-text": (28, le(0, 8)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_refusals_are_qemus(tmp_path, name):
    image = tmp_path / "a.vmdk"
    pairs.create(QEMU_IMG, "vmdk", "", image, "5M")
    at, patch = HEADERS[name]
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    pairs.says_the_same(tmp_path, ["info", "-f", "vmdk", "a.vmdk"])
    assert image.read_bytes() == bytes(data)


@pytest.mark.parametrize("value", [0xffffffff, 0x1000000])
def test_check_says_what_qemu_says(tmp_path, value):
    image = tmp_path / "a.vmdk"
    pairs.create(QEMU_IMG, "vmdk", "", image, "5M")
    pairs.fio(QEMU_IO, "vmdk", image, ["write -P 1 0 1M"])
    data = bytearray(image.read_bytes())
    gd = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, gd)[0] * 512
    data[table + 20:table + 24] = le(value, 4)
    image.write_bytes(data)
    for output in ("human", "json"):
        pairs.says_the_same(tmp_path, ["check", f"--output={output}", "a.vmdk"])
    assert image.read_bytes() == bytes(data)
    run(IMG, "check", "-r", "all", image)
    pairs.fcheck(QEMU_IMG, "vmdk", image)


def test_headers_are_not_written_over(tmp_path):
    """A table entry that leads to the header: reading it is one thing, writing another."""
    image = tmp_path / "a.vmdk"
    pairs.create(QEMU_IMG, "vmdk", "", image, "5M")
    pairs.fio(QEMU_IO, "vmdk", image, ["write -P 1 0 1M"])
    data = bytearray(image.read_bytes())
    gd = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, gd)[0] * 512
    data[table:table + 4] = le(2, 4)
    image.write_bytes(data)
    done = run(IO, "-f", "vmdk", "-c", "write -P 9 0 64k", image, ok=False)
    assert done.returncode == 1
    assert image.read_bytes()[:512] == bytes(data[:512])
    assert image.read_bytes()[1024:] == bytes(data[1024:])


@pytest.mark.skipif(not shutil.which("vmdkinfo"), reason="libvmdk-utils is not installed")
@pytest.mark.parametrize("shape", ["sparse", "flat", "2gb-sparse", "stream"])
def test_libvmdk_agrees(tmp_path, shape):
    raw, image = tmp_path / "a.raw", tmp_path / "a.vmdk"
    model = Model(4 << 20, 3)
    for _ in range(20):
        model.command(GRAIN)
    model.save(raw)
    run(IMG, "convert", "-f", "raw", "-O", "vmdk", "-o",
        SHAPES.get(shape, STREAM) or "compat6=off", raw, image)
    text = out("vmdkinfo", image)
    assert "4194304 bytes" in text, text


@pytest.mark.parametrize("shape", ["sparse", "2gb-sparse", "flat", "stream"])
@pytest.mark.parametrize("seed", range(2))
def test_hostile(tmp_path, shape, seed):
    image = tmp_path / "a.vmdk"
    pairs.create(QEMU_IMG, "vmdk", SHAPES.get(shape, STREAM), image, "9M")
    pairs.fio(QEMU_IO, "vmdk", image, ["write -P 1 0 3M", "write -P 2 5M 64k"])
    hostile.attack(image, "vmdk", [*range(0, 80), *range(512, 900), *range(0x3400, 0x3700)], seed)
