"""vhdx against Debian's qemu-img and qemu-io, in both directions."""
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, info, run

SHAPES = {
    "dynamic": "",
    "1m": "block_size=1M",
    "plain": "block_state_zero=off",
    "fixed": "subformat=fixed",
    "fixed-plain": "subformat=fixed,block_state_zero=off",
    "log": "log_size=3M,block_size=2M",
}
MIB = 1 << 20
HEADERS = (65536, 131072)
REGIONS = (196608, 262144)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def fix_sum(data, at, length):
    """The checksum of a structure anew."""
    data[at + 4:at + 8] = bytes(4)
    data[at + 4:at + 8] = struct.pack("<I", crc32c(data[at:at + length]))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    unit = {"1m": MIB, "log": 2 * MIB}.get(shape, 8 * MIB)
    pairs.by_turns(tmp_path, "vhdx", SHAPES[shape], seed, unit, size=11 * MIB + 1536)


@pytest.mark.parametrize("shape", SHAPES)
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "vhdx", SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [512, MIB, 19 * MIB + 512])
def test_reports(tmp_path, shape, size):
    """But for map: qemu-img takes all of a vhdx image for data without a place."""
    image = tmp_path / "a.vhdx"
    pairs.create(QEMU_IMG, "vhdx", SHAPES[shape], image, size)
    pairs.reports("vhdx", image, maps=False)
    if size > MIB:
        pairs.fio(QEMU_IO, "vhdx", image, ["write 2M 2M", "write 16M 512", "write 0 4k"])
        pairs.reports("vhdx", image, maps=False)


def test_map(tmp_path):
    image = tmp_path / "a.vhdx"
    pairs.create(IMG, "vhdx", "block_size=1M", image, "8M")
    pairs.fio(IO, "vhdx", image, ["write 2M 2M"])
    text = run(IMG, "map", "--output=json", image).stdout.splitlines()
    assert text[1] == ('{ "start": 2097152, "length": 2097152, "depth": 0, "present": true, '
                       '"zero": false, "data": true, "offset": 8388608},')
    assert len(text) == 3 and '"zero": true, "data": false' in text[0]


def masked(path):
    """An image without what is random: numbers, GUIDs and their checksums, the maker; and
    without the bit that says that BAT and metadata are required, which QEMU leaves out."""
    with open(path, "rb") as f:
        head = bytearray(f.read(6 * MIB))
    head[8:520] = bytes(512)
    for at in HEADERS:
        head[at + 4:at + 48] = bytes(44)
    for at in REGIONS:
        head[at + 4:at + 8] = bytes(4)
        head[at + 44] = head[at + 76] = 0
    for at in range(MIB, len(head), MIB):
        if head[at:at + 8] == b"metadata":
            page83 = at + 65536 + 16
            head[page83:page83 + 16] = bytes(16)
    return path.stat().st_size, bytes(head)


OPTIONS = [*SHAPES.values(), "block_size=512k", "block_size=512M", "block_size=1500k,log_size=512k",
           "block_size=3M", "log_size=8G", "log_size=0", "subformat=foo", "block_state_zero=x",
           "log_size=1500k"]


@pytest.mark.parametrize("options,size", [
    *((options, "50M") for options in OPTIONS), ("", "1"), ("", "33G"), ("", "200G"), ("", "64T"),
    ("", "65T"), ("block_size=1M", "33G"), ("block_state_zero=off", "200G"),
    ("subformat=fixed", "1")])
def test_new_images_are_qemus(tmp_path, options, size):
    argv = ["create", "-f", "vhdx", *(["-o", options] if options else []), "x.vhdx", size]
    pairs.says_the_same(tmp_path, argv)
    made = [masked(tmp_path / "x.vhdx") for tool in (IMG, QEMU_IMG)
            if run(tool, *argv, ok=False, cwd=tmp_path).returncode == 0]
    assert len(made) in (0, 2) and made[:1] == made[1:]


# ---- the log -------------------------------------------------------------------------

LOG_GUID = bytes(range(1, 17))


def entry(number, tail, pages, position, last, zero=()):
    """A log entry that writes @pages (place: bytes)."""
    descs, sectors = b"", b""
    for place, data in pages.items():
        descs += b"desc" + data[-4:] + data[:8] + struct.pack("<QQ", place, number)
        sectors += (b"data" + struct.pack("<I", number >> 32) + data[8:-4] +
                    struct.pack("<I", number & 0xffffffff))
    for place, length in zero:
        descs += b"zero" + bytes(4) + struct.pack("<QQQ", length, place, number)
    room = (64 + len(descs) + 4095) // 4096 * 4096
    head = b"loge" + struct.pack("<IIIQII", 0, room + len(sectors), tail, number,
                                 len(pages) + len(zero), 0)
    head += LOG_GUID + struct.pack("<QQ", last, last)
    data = bytearray(head + descs + bytes(room - 64 - len(descs)) + sectors)
    fix_sum(data, 0, len(data))
    return position, bytes(data)


def with_log(data, *entries):
    """An image as it is after a crash: a log that the header names."""
    data = bytearray(data)
    for at in HEADERS:
        data[at + 48:at + 64] = LOG_GUID
        fix_sum(data, at, 4096)
    for position, content in entries:
        room = MIB - position
        data[MIB + position:MIB + position + len(content[:room])] = content[:room]
        data[MIB:MIB + len(content[room:])] = content[room:]
    return bytes(data)


def bat_page(data, **changes):
    page = bytearray(data[2 * MIB:2 * MIB + 4096])
    for name, value in changes.items():
        struct.pack_into("<Q", page, 8 * int(name[1:]), value)
    return bytes(page)


@pytest.fixture
def crashed(tmp_path):
    """Two blocks are written; the entry of the second is in the log only."""
    image = tmp_path / "a.vhdx"
    pairs.create(QEMU_IMG, "vhdx", "block_size=1M", image, "8M")
    pairs.fio(QEMU_IO, "vhdx", image, ["write -P 1 0 1M", "write -P 2 1M 1M"])
    good = image.read_bytes()
    old = bytearray(good)
    struct.pack_into("<Q", old, 2 * MIB + 8, 2)
    return image, good, bytes(old)


LOGS = {
    "one": lambda g: [entry(7, 0, {2 * MIB: bat_page(g)}, 0, len(g))],
    "tail": lambda g: [entry(7, 4096, {2 * MIB: bat_page(g, _0=2)}, 4096, len(g)),
                       entry(8, 4096, {2 * MIB: bat_page(g)}, 4096 * 3, len(g))],
    "wrapped": lambda g: [entry(9, MIB - 4096, {2 * MIB: bat_page(g)}, MIB - 4096, len(g))],
    "older": lambda g: [entry(3, 0, {2 * MIB: bat_page(g, _0=2)}, 0, len(g)),
                        entry(7, 65536, {2 * MIB: bat_page(g)}, 65536, len(g))],
    "zero": lambda g: [entry(7, 0, {2 * MIB: bat_page(g)}, 0, len(g),
                             zero=[(2 * MIB + 4096, 8192)])],
}


@pytest.mark.parametrize("name", LOGS)
def test_the_log_is_replayed(crashed, name):
    image, good, old = crashed
    image.write_bytes(with_log(old, *LOGS[name](good)))
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    pairs.says_the_same(image.parent, ["info", "a.vhdx"])
    pairs.says_the_same(image.parent, ["convert", "-O", "raw", "a.vhdx", "x"])
    assert image.read_bytes() == copy.read_bytes()
    ours = run(IMG, "check", "-r", "all", image)
    theirs = run(QEMU_IMG, "check", "-r", "all", copy)
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    for tool in (IO, QEMU_IO):
        for path in (image, copy):
            pairs.fio(tool, "vhdx", path, ["read -P 1 0 1M", "read -P 2 1M 1M"])
    assert image.read_bytes()[2 * MIB:] == good[2 * MIB:]


def damaged_sum(g):
    position, data = entry(7, 0, {2 * MIB: bat_page(g, _0=0)}, 0, len(g))
    return position, data[:100] + b"x" + data[101:]


DAMAGED = {
    "sum": lambda g: [damaged_sum(g)],
    "no-tail": lambda g: [entry(7, 8192, {2 * MIB: bat_page(g, _0=0)}, 0, len(g))],
    "gap": lambda g: [entry(7, 0, {2 * MIB: bat_page(g, _0=0)}, 0, len(g)),
                      entry(9, 0, {2 * MIB: bat_page(g, _0=0)}, 8192, len(g))],
    "nothing": lambda g: [],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_log_without_a_whole_sequence_is_none(crashed, name):
    image, good, _ = crashed
    image.write_bytes(with_log(good, *DAMAGED[name](good)))
    if name == "gap":
        return  # the first entry is a sequence of its own
    pairs.fio(IO, "vhdx", image, ["read -P 1 0 1M", "read -P 2 1M 1M"])


BAD_ENTRIES = {
    "unaligned": lambda g: [entry(7, 0, {2 * MIB + 512: bat_page(g)}, 0, len(g))],
    "outside": lambda g: [entry(7, 0, {1 << 50: bat_page(g)}, 0, len(g))],
    "truncated": lambda g: [entry(7, 0, {2 * MIB: bat_page(g)}, 0, len(g) + MIB)],
    "zero-far": lambda g: [entry(7, 0, {}, 0, len(g), zero=[(1 << 40, 1 << 50)])],
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_a_bad_entry_is_refused_and_nothing_written(crashed, name):
    image, good, old = crashed
    data = with_log(old, *BAD_ENTRIES[name](good))
    image.write_bytes(data)
    for argv in ((IO, "-f", "vhdx", "-c", "read 0 1M"), (IMG, "check", "-r", "all")):
        done = run(*argv, image, ok=False)
        assert done.returncode == 1 and "VHDX log" in done.stderr, done.stderr
    assert image.read_bytes() == data


def test_killed_programs_leave_sound_images(tmp_path):
    """What was flushed is there after a crash, for qemu-img as well."""
    image, raw = tmp_path / "a.vhdx", tmp_path / "raw"
    pairs.create(IMG, "vhdx", "block_size=1M", image, "12M")
    model = Model(12 * MIB, 4)
    for _ in range(3):
        commands = [model.command(MIB) for _ in range(6)]
        argv = [a for c in [*commands, "flush", "sigraise 9"] for a in ("-c", c)]
        run(IO, "-f", "vhdx", "-d", "unmap", *argv, image, ok=False)
        copy = tmp_path / "copy"
        copy.write_bytes(image.read_bytes())
        model.save(raw)
        for tool, path in ((QEMU_IMG, copy), (IMG, image)):
            run(tool, "check", "-r", "all", path)
            pairs.fcheck(tool, "vhdx", path)
            pairs.fsame(QEMU_IMG, "vhdx", path, raw)
            pairs.fsame(IMG, "vhdx", path, raw)


def test_many_pages_go_through_the_log(tmp_path):
    """More BAT pages than one entry of the log holds, and than the cache."""
    image = tmp_path / "a.vhdx"
    pairs.create(IMG, "vhdx", "block_size=1M", image, "400G")
    step = 512 << 20  # the blocks of one page
    commands = [f"write -q -P {n % 250 + 1} {n * step} 512" for n in range(300)]
    pairs.fio(IO, "vhdx", image, commands)
    pairs.fio(QEMU_IO, "vhdx", image, [c.replace("write", "read") for c in commands])
    pairs.fcheck(QEMU_IMG, "vhdx", image)
    assert info(QEMU_IMG, image)["virtual-size"] == 400 << 30


# ---- damage --------------------------------------------------------------------------

def u64(value):
    return struct.pack("<Q", value)


def u32(value):
    return struct.pack("<I", value)


BAT = 2 * MIB
META = 3 * MIB
DAMAGE = {  # where, what, which checksums are made right, words of the error
    "signature": (0, b"x", (), "bad signature"),
    "one-header": (65536, b"x", (), None),
    "headers": (65536 + 100, b"x", ("both",), "No valid VHDX header"),
    "log-far": (65536 + 72, u64(1 << 62), ("header",), "log"),
    "log-none": (65536 + 68, u32(0), ("header",), "log"),
    "log-unaligned": (65536 + 72, u64(MIB + 512), ("header",), "log"),
    "log-version": (65536 + 64, b"\7", ("header",), "log version"),
    "regions-one": (196608 + 9, b"x", (), None),
    "regions-many": (196608 + 8, u32(2000), ("regions",), "too many"),
    "regions-none": (196608 + 8, u32(0), ("regions",), "no BAT region"),
    "region-low": (196608 + 32, u64(0), ("regions",), "behind the headers"),
    "region-odd": (196608 + 32, u64(MIB + 4096), ("regions",), "whole MiB"),
    "region-over-log": (196608 + 32, u64(MIB), ("regions",), "overlaps with region"),
    "region-kind": (196608 + 16, b"x", ("regions",), "unknown kind"),
    "region-huge": (196608 + 40, u32(0xfff00000), ("regions",), "overlaps"),
    "bat-far": (196608 + 32, u64(1 << 50), ("regions",), "past the end"),
    "metadata": (META, b"x", (), "VHDX metadata"),
    "items-none": (META + 10, b"\0\0", (), "is missing"),
    "items-many": (META + 10, b"\xff\xff", (), "VHDX metadata"),
    "item-unknown": (META + 32, b"x", (), "is unknown"),
    "item-twice": (META + 64, b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b",
                   (), "twice"),
    "item-far": (META + 48, u32(0xffffffff), (), "not in the metadata region"),
    "block-zero": (META + 65536, u32(0), (), "block size"),
    "block-odd": (META + 65536, u32(3 << 20), (), "block size"),
    "block-huge": (META + 65536, u32(1 << 31), (), "block size"),
    "parent": (META + 65536 + 4, u32(2), (), "differencing"),
    "size-huge": (META + 65536 + 8, u64(1 << 60), (), "virtual disk size"),
    "size-odd": (META + 65536 + 8, u64(1000), (), "virtual disk size"),
    "size-room": (META + 65536 + 8, u64(1 << 43), (), "too small"),
    "sector": (META + 65536 + 32, u32(1024), (), "logical sector"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(tmp_path, name):
    image = tmp_path / "a.vhdx"
    pairs.create(IMG, "vhdx", "block_size=1M", image, "8M")
    at, patch, sums, words = DAMAGE[name]
    data = bytearray(image.read_bytes())
    if "both" in sums:
        data[131072 + 100:131072 + 101] = patch
    data[at:at + len(patch)] = patch
    if "header" in sums:
        fix_sum(data, 65536, 4096)
        data[131072] = 0
    if "regions" in sums:
        fix_sum(data, 196608, 65536)
    image.write_bytes(data)
    for argv in (["info"], ["check"], ["map"], ["convert", "-O", "raw"]):
        more = [tmp_path / "x"] if argv[0] == "convert" else []
        done = run(IMG, argv[0], "-f", "vhdx", *argv[1:], image, *more, ok=False)
        if words is None:
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 1 and words in done.stderr, done.stderr
            assert str(image) in done.stderr
    assert image.read_bytes() == bytes(data)
    theirs = run(QEMU_IMG, "info", "-f", "vhdx", image, ok=False)
    # Of the region tables, qemu-img reads the first only.
    assert words is not None or name == "regions-one" or theirs.returncode == 0


@pytest.mark.parametrize("value", [(1 << 50) + 6, (17 << 20) + 6, 6, (1 << 20) + 6])
@pytest.mark.parametrize("index", [0, 7])
def test_check_says_what_qemu_says(tmp_path, index, value):
    image = tmp_path / "a.vhdx"
    pairs.create(QEMU_IMG, "vhdx", "block_size=1M", image, "8M")
    pairs.fio(QEMU_IO, "vhdx", image, ["write -P 1 0 8M"])
    data = bytearray(image.read_bytes())
    data[BAT + 8 * index:BAT + 8 * index + 8] = u64(value)
    data = data[:16 * MIB + MIB // 2] if value == (17 << 20) + 6 else data
    image.write_bytes(data)
    if value > 16 << 20:
        for argv in (["check"], ["check", "--output=json"]):
            pairs.says_the_same(tmp_path, [*argv, "a.vhdx"])
    assert run(IMG, "info", image, ok=False).returncode == 1
    assert image.read_bytes() == bytes(data)


@pytest.mark.parametrize("seed", range(2))
def test_hostile(tmp_path, seed):
    image = tmp_path / "a.vhdx"
    pairs.create(QEMU_IMG, "vhdx", "block_size=1M", image, "6M")
    pairs.fio(QEMU_IO, "vhdx", image, ["write -P 1 0 3M", "write -P 2 5M 100k"])
    places = [*range(META, META + 200), *range(META + 65536, META + 65536 + 40),
              *range(BAT, BAT + 64), *range(65536, 65536 + 80)]
    hostile.attack(image, "vhdx", places, seed, rounds=8)
