"""Parallels images against Debian's qemu-img and qemu-io, in both directions."""
import hashlib
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, check, io, out, run, same

SHAPES = {
    "": 1 << 20,
    "cluster_size=64k": 65536,
    "cluster_size=252k": 252 << 10,
    "cluster_size=32256": 32256,  # 63 sectors
    "cluster_size=512": 512,
}
IN_USE = 0x746f6e59


def old_magic(image):
    """The same image with the older magic, whose BAT counts sectors."""
    data = bytearray(image.read_bytes())
    tracks, entries = struct.unpack_from("<II", data, 28)
    data[:16] = b"WithoutFreeSpace"
    for i in range(entries):
        value, = struct.unpack_from("<I", data, 64 + 4 * i)
        struct.pack_into("<I", data, 64 + 4 * i, value * tracks)
    image.write_bytes(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    pairs.by_turns(tmp_path, "parallels", shape, seed, SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_with_the_old_magic(tmp_path, shape):
    image, raw = tmp_path / "a", tmp_path / "raw"
    model = Model(5 << 20, shape)
    pairs.create(QEMU_IMG, "parallels", shape, image, len(model.data))
    old_magic(image)
    for tool in (IO, QEMU_IO, IO, QEMU_IO):
        io(tool, image, [model.command(SHAPES[shape]) for _ in range(10)])
        model.save(raw)
        for peer in (IMG, QEMU_IMG):
            check(peer, image)
            same(peer, image, raw)


@pytest.mark.parametrize("shape", SHAPES)
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "parallels", shape)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "cluster_size=512"])
@pytest.mark.parametrize("size", [0, 512, 5 << 20, (7 << 20) + 512])
def test_reports(tmp_path, shape, size):
    image = tmp_path / "a.hds"
    pairs.create(QEMU_IMG, "parallels", shape, image, size)
    pairs.reports("parallels", image)
    if size > 5 << 20:
        io(QEMU_IO, image, ["write 2M 200k", "write -z 3M 64k", "write 6M 512", "write 0 4k"])
        pairs.reports("parallels", image)


def test_an_empty_image_has_no_leaks(tmp_path):
    """Its BAT is longer than a cluster. QEMU 7.2 would cut that off as a leak."""
    image = tmp_path / "a"
    pairs.create(IMG, "parallels", "cluster_size=512", image, "1M")
    before = image.read_bytes()
    check(IMG, image)
    run(IMG, "check", "-r", "all", image)
    assert image.read_bytes() == before


@pytest.mark.parametrize("shape", SHAPES)
def test_places_are_qemus(tmp_path, shape):
    """The same writes put the same bytes into the same places of the file."""
    files = []
    for name, img, tool in (("a", IMG, IO), ("b", QEMU_IMG, QEMU_IO)):
        image = tmp_path / name
        pairs.create(img, "parallels", shape, image, "20M")
        for command in ("write -P 1 100k 200k", "write -P 2 3M 100k", "write -P 3 0 512",
                        "write -P 4 9M 1M"):
            run(tool, "-c", command, image)
        files.append(image.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("argv", [
    ["create", "-f", "parallels", "x", "10M"],
    ["create", "-f", "parallels", "x", "0"],
    ["create", "-f", "parallels", "x", "1000"],
    ["create", "-f", "parallels", "x", "4T"],
    ["create", "-f", "parallels", "-o", "cluster_size=1", "x", "1M"],
    ["create", "-f", "parallels", "-o", "cluster_size=1000", "x", "1M"],
    ["create", "-f", "parallels", "-o", "cluster_size=2G", "x", "1M"],
    ["create", "-f", "parallels", "-o", "cluster_size=4k", "x", "100T"],
    ["create", "-f", "parallels", "-o", "table_size=4k", "x", "1M"],
    ["create", "-f", "parallels", "-o", "help"],
    ["create", "-f", "parallels", "-o", "help", "x"],
    ["create", "-f", "parallels", "-b", "base", "-F", "raw", "x"],
    ["convert", "-c", "-O", "parallels", "base", "x"],
    ["measure", "-O", "parallels", "--size", "1G"],
    ["resize", "y", "20M"],
    ["resize", "--shrink", "y", "512"],
    ["amend", "-f", "parallels", "-o", "size=65536", "y"],
    ["check", "y"],
    ["check", "--output=json", "y"],
    ["info", "y"],
    ["info", "--output=json", "y"],
])
def test_messages(tmp_path, argv):
    (tmp_path / "base").write_bytes(bytes(range(256)) * 2048)
    pairs.create(QEMU_IMG, "parallels", "", tmp_path / "y", "1M")
    pairs.says_the_same(tmp_path, argv)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["0", "512", "1000", "5M", "1025k", "10G"])
def test_new_images_are_qemus(tmp_path, size, shape):
    files = []
    for tool in (IMG, QEMU_IMG):
        pairs.create(tool, "parallels", shape, tmp_path / "x", size)
        files.append((tmp_path / "x").read_bytes())
    assert files[0] == files[1]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.hds"
    pairs.create(QEMU_IMG, "parallels", "cluster_size=64k", path, "10M")
    io(QEMU_IO, path, ["write -P 1 0 200k", "write -P 2 5M 64k"])
    return path


def u32(value):
    return struct.pack("<I", value)


DAMAGE = {
    "outside": [(64, u32(77))],
    "far-outside": [(64, u32(0xffffffff))],
    "last": [(64 + 80 * 4, u32(0))],
    "last-and-outside": [(64 + 80 * 4, u32(0)), (64, u32(99))],
    "in-use": [(44, u32(IN_USE))],
    "in-use-and-outside": [(44, u32(IN_USE)), (64, u32(77))],
    "at-the-end": [(64, u32(6))],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_repaired_as_qemu_does(tmp_path, image, name):
    data = bytearray(image.read_bytes())
    for at, patch in DAMAGE[name]:
        data[at:at + len(patch)] = patch
    image.write_bytes(data)
    pairs.says_the_same(tmp_path, ["check", "a.hds"])
    pairs.says_the_same(tmp_path, ["check", "--output=json", "a.hds"])
    assert image.read_bytes() == bytes(data)
    for mode in ("leaks", "all"):
        answers = []
        for tool in ("./qemu-img", QEMU_IMG):
            image.write_bytes(data)
            done = run(tool, "check", "-r", mode, "a.hds", ok=False, cwd=tmp_path)
            answers.append((done.stdout, done.stderr, done.returncode))
            if tool != QEMU_IMG:
                ours = image.read_bytes()
        assert answers[0] == answers[1]
    image.write_bytes(ours)
    check(QEMU_IMG, image)
    hostile.use(image, "parallels")


def test_two_clusters_in_one_place_are_found(image):
    data = bytearray(image.read_bytes())
    data[64:68] = u32(3)
    image.write_bytes(data)
    done = run(IMG, "check", image, ok=False)
    assert done.returncode == 2
    assert "ERROR duplicate offset in BAT entry 2" in done.stderr


def test_an_image_in_use_is_not_written(tmp_path, image):
    data = bytearray(image.read_bytes())
    data[44:48] = u32(IN_USE)
    image.write_bytes(data)
    ours = run(IO, "-c", "write 0 512", image, ok=False)
    theirs = run(QEMU_IO, "-c", "write 0 512", image, ok=False)
    assert ours.returncode == theirs.returncode == 1
    words = "parallels: Image was not closed correctly; cannot be opened read/write\n"
    assert ours.stderr.endswith(words) and theirs.stderr.endswith(words)
    assert image.read_bytes() == bytes(data)
    run(IO, "-r", "-c", "read -P 1 0 200k", image)
    run(IMG, "check", "-r", "all", image)
    io(IO, image, ["write -P 3 0 512", "read -P 3 0 512"])


def test_the_mark_of_a_writer_is_there_while_it_writes(image):
    run(IO, "-c", "write 0 512", "-c", "flush", "-c", "abort", image, ok=False)
    assert image.read_bytes()[44:48] == u32(IN_USE)
    run(IMG, "check", "-r", "all", image)
    assert image.read_bytes()[44:48] == u32(0)


def with_extension(image):
    """A dirty bitmap: the extension in a cluster of its own, one cluster of bits."""
    data = bytearray(image.read_bytes())
    end = len(data)
    bits = b"\xa5" * 65536
    feature = struct.pack("<QQII", 0x20385fae252cb34a, 0, 40, 0)
    feature += struct.pack("<Q16sII", 10 << 11, b"0123456789abcdef", 128, 1)
    feature += struct.pack("<Q", end + 65536)
    body = (feature + bytes(24)).ljust(65536 - 24, b"\0")
    cluster = struct.pack("<Q", 0xab234cef23dcea87) + hashlib.md5(body).digest() + body
    data += cluster + bits
    struct.pack_into("<Q", data, 56, end // 512)
    data[44:48] = struct.pack("<I", 0x312e3276)
    image.write_bytes(data)
    return end, cluster + bits


def test_an_extension_is_kept(image):
    end, kept = with_extension(image)
    before = image.read_bytes()
    for argv in (["info"], ["check"], ["map", "--output=json"]):
        assert run(QEMU_IMG, *argv, image, ok=False).stdout == \
            run(IMG, *argv, image, ok=False).stdout or argv == ["check"]
    check(IMG, image)  # QEMU takes the extension for a leak
    assert image.read_bytes() == before
    io(IO, image, ["write -P 7 1M 1M", "write -P 8 9M 100k"])
    after = image.read_bytes()
    assert after[end:end + len(kept)] == kept
    assert after[44:48] == bytes(4)  # but says that it knows nothing of the writes
    check(IMG, image)
    run(IMG, "check", "-r", "all", image)
    assert image.read_bytes()[end:end + len(kept)] == kept
    io(QEMU_IO, image, ["read -P 7 1M 1M"])


@pytest.mark.parametrize("at", [0, 3, 8, 30, 5000])
def test_a_damaged_extension(image, at):
    end, _ = with_extension(image)
    data = bytearray(image.read_bytes())
    data[end + at] ^= 0x10
    image.write_bytes(data)
    ours, theirs = run(IMG, "info", image, ok=False), run(QEMU_IMG, "info", image, ok=False)
    assert ours.returncode == theirs.returncode == 1
    assert ours.stderr.split(": ", 1)[1] == theirs.stderr.split(": ", 1)[1]
    assert image.read_bytes() == bytes(data)


HEADERS = {
    "magic": (0, b"X"), "version": (16, u32(1)), "tracks-0": (28, u32(0)),
    "tracks-large": (28, u32(0x7fffffff)), "bat-large": (32, u32(0x7fffffff)),
    "size": (36, b"\xff" * 8),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_refused_in_qemus_words(image, name):
    at, patch = HEADERS[name]
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    for argv in (["info"], ["check"], ["map"]):
        done = hostile.attempt(IMG, argv[0], "-f", "parallels", image)
        theirs = run(QEMU_IMG, argv[0], "-f", "parallels", image, ok=False)
        assert done.returncode == theirs.returncode == 1
        assert done.stderr.split(": ", 1)[1] == theirs.stderr.split(": ", 1)[1]
    assert image.read_bytes() == bytes(data)


@pytest.mark.parametrize("name, at, patch", [
    ("bat-0", 32, u32(0)), ("bat-few", 32, u32(3)), ("bat-many", 32, u32(0x1fffffff)),
    ("start-0", 48, u32(0)), ("start-1", 48, u32(1)), ("start-far", 48, u32(0xffffffff)),
    ("into-header", 64, u32(0)), ("ext", 56, struct.pack("<Q", 128)),
    ("ext-far", 56, b"\xff" * 8), ("large-disk", 36, struct.pack("<Q", 1 << 50)),
])
def test_fields_that_do_not_fit(image, name, at, patch):
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    hostile.use(image, "parallels")
    assert image.read_bytes()[:44] == bytes(data[:44])


@pytest.mark.parametrize("seed", range(3))
def test_hostile(image, seed):
    hostile.attack(image, "parallels", [*range(64)] * 3 + [*range(64, 90)] * 2, seed)
