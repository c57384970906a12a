"""QED against Debian's qemu-img and qemu-io, in both directions."""
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, check, info, io, out, run, same

SHAPES = {
    "": 65536,
    "cluster_size=4096,table_size=2": 4096,
    "cluster_size=8192,table_size=16": 8192,
    "cluster_size=1M,table_size=2": 1 << 20,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    pairs.by_turns(tmp_path, "qed", shape, seed, SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
def test_convert(tmp_path, shape):
    pairs.converts(tmp_path, "qed", shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0, 512, 5 << 20, (7 << 20) + 512])
def test_reports(tmp_path, shape, size):
    image = tmp_path / "a.qed"
    pairs.create(QEMU_IMG, "qed", shape, image, size)
    pairs.reports("qed", image)
    if size > 5 << 20:
        io(QEMU_IO, image, ["write 2M 200k", "write -z 3M 64k", "write 6M 512", "write 0 4k"])
        pairs.reports("qed", image)


@pytest.mark.parametrize("shape", SHAPES)
def test_places_are_qemus(tmp_path, shape):
    """The same writes put the same bytes into the same places of the file."""
    files = []
    for name, img, tool in (("a", IMG, IO), ("b", QEMU_IMG, QEMU_IO)):
        image = tmp_path / name
        pairs.create(img, "qed", shape, image, "20M")
        for command in ("write -P 1 100k 200k", "write -P 2 3M 100k", "write -P 3 0 512",
                        "write -z 8M 1M"):
            run(tool, "-c", command, image)
        data = bytearray(image.read_bytes())
        data[16] &= ~2  # the need-check bit, which we do not need
        files.append(bytes(data))
    assert files[0] == files[1]


@pytest.mark.parametrize("argv", [
    ["create", "-f", "qed", "x.qed", "10M"],
    ["create", "-f", "qed", "x.qed", "0"],
    ["create", "-f", "qed", "x.qed", "1000"],
    ["create", "-f", "qed", "x.qed", "1000T"],
    ["create", "-f", "qed", "-o", "table_size=3", "x.qed", "1M"],
    ["create", "-f", "qed", "-o", "table_size=32", "x.qed", "1M"],
    ["create", "-f", "qed", "-o", "cluster_size=3000", "x.qed", "1M"],
    ["create", "-f", "qed", "-o", "cluster_size=128M", "x.qed", "1M"],
    ["create", "-f", "qed", "-o", "cluster_size=4k,table_size=1", "x.qed", "5G"],
    ["create", "-f", "qed", "-o", "what=1", "x.qed", "5G"],
    ["create", "-f", "qed", "-o", "help"],
    ["create", "-f", "qed", "-o", "help", "x.qed"],
    ["create", "-f", "qed", "-b", "base", "-F", "raw", "x.qed"],
    ["create", "-f", "qed", "-b", "base", "x.qed"],
    ["create", "-f", "qed", "-b", "nothing", "-F", "raw", "x.qed"],
    ["convert", "-c", "-O", "qed", "base", "x.qed"],
    ["measure", "-O", "qed", "--size", "1G"],
    ["resize", "y.qed", "20M"],
    ["resize", "y.qed", "70T"],
    ["resize", "--shrink", "y.qed", "512"],
    ["resize", "--preallocation=full", "y.qed", "20M"],
    ["amend", "-f", "qed", "-o", "cluster_size=65536", "y.qed"],
    ["check", "-f", "qed", "base"],
    ["rebase", "-u", "-b", "base", "-F", "raw", "y.qed"],
    ["rebase", "-u", "-b", "", "y.qed"],
])
def test_messages(tmp_path, argv):
    (tmp_path / "base").write_bytes(bytes(range(256)) * 2048)
    for tool in (IMG, QEMU_IMG):
        pairs.create(QEMU_IMG, "qed", "", tmp_path / "y.qed", "1M")
        if "y.qed" in argv and tool == IMG:
            continue
    if "y.qed" not in argv:
        pairs.says_the_same(tmp_path, argv)
        return
    (tmp_path / "qemu-img").symlink_to(IMG)
    answers = []
    for tool in ("./qemu-img", QEMU_IMG):
        pairs.create(QEMU_IMG, "qed", "", tmp_path / "y.qed", "1M")
        done = run(tool, *argv, ok=False, cwd=tmp_path)
        answers.append((done.stdout, done.stderr, done.returncode,
                        (tmp_path / "y.qed").read_bytes()))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("maker", pairs.TOOLS)
def test_backing_files(tmp_path, maker):
    img, _ = pairs.TOOLS[maker]
    base, top = tmp_path / "base", tmp_path / "top.qed"
    model = Model((2 << 20) + 1536, 5)
    for _ in range(20):
        model.command(65536)
    model.save(base)
    model.data += bytes((1 << 20) - 1536)
    run(img, "create", "-q", "-f", "qed", "-b", "base", "-F", "raw", top, len(model.data),
        cwd=tmp_path)
    for tool in (IO, QEMU_IO, IO):
        io(tool, top, [model.command(65536) for _ in range(15)])
    raw = tmp_path / "all"
    model.save(raw)
    for peer in (IMG, QEMU_IMG):
        check(peer, top)
        same(peer, top, raw)
    for argv in (["map", "--output=json"], ["info", "--backing-chain"], ["map"]):
        assert out(IMG, *argv, top) == out(QEMU_IMG, *argv, top)
    run(IMG, "create", "-q", "-f", "qcow2", "-b", "top.qed", "-F", "qed", tmp_path / "over",
        cwd=tmp_path)
    same(QEMU_IMG, tmp_path / "over", raw)
    (tmp_path / "other").write_bytes(bytes(2 << 20))
    run(IMG, "rebase", "-b", "other", "-F", "raw", top)
    same(QEMU_IMG, top, raw)
    assert info(QEMU_IMG, top)["backing-filename"] == "other"
    run(IMG, "rebase", "-b", "", top)
    same(QEMU_IMG, top, raw)
    check(QEMU_IMG, top)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qed"
    pairs.create(QEMU_IMG, "qed", "cluster_size=4096,table_size=2", path, "8M")
    io(QEMU_IO, path, ["write -P 1 0 200k", "write -P 2 5M 100k", "write -z 1M 64k"])
    return path


def entry(data, at):
    return struct.unpack_from("<Q", data, at)[0]


DAMAGE = {
    "l2-outside": lambda l1, l2: (l2, 1 << 40),
    "l2-huge": lambda l1, l2: (l2, (1 << 64) - 4096),
    "l2-unaligned": lambda l1, l2: (l2 + 8, 100),
    "l2-header": lambda l1, l2: (l2 + 16, 512),
    "l2-lost": lambda l1, l2: (l2 + 24, 0),
    "l2-over-l1": lambda l1, l2: (l2, l1),
    "l2-over-l2": lambda l1, l2: (l2, l2),
    "l1-outside": lambda l1, l2: (l1, 1 << 50),
    "l1-end": lambda l1, l2: (l1, (1 << 64) - 4096),
    "l1-unaligned": lambda l1, l2: (l1, l2 + 8),
    "l1-itself": lambda l1, l2: (l1, l1),
    "l1-twice": lambda l1, l2: (l1 + 8, l2),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_repaired_as_qemu_does(tmp_path, image, name):
    data = bytearray(image.read_bytes())
    l1 = entry(data, 40)
    at, value = DAMAGE[name](l1, entry(data, l1))
    struct.pack_into("<Q", data, at, value)
    image.write_bytes(data)
    pairs.says_the_same(tmp_path, ["check", "a.qed"])
    pairs.says_the_same(tmp_path, ["check", "--output=json", "a.qed"])
    assert image.read_bytes() == bytes(data)
    after = []
    for tool in ("./qemu-img", QEMU_IMG):
        for mode in ("leaks", "all"):
            image.write_bytes(data)
            done = run(tool, "check", "-r", mode, "a.qed", ok=False, cwd=tmp_path)
            after.append((done.stdout, done.stderr, done.returncode, image.read_bytes()))
    assert after[0] == after[2] and after[1] == after[3]
    hostile.use(image, "qed")


def test_need_check_is_cleared_by_opening(image):
    data = bytearray(image.read_bytes())
    data[16] |= 2
    l1 = entry(data, 40)
    struct.pack_into("<Q", data, entry(data, l1), 1 << 40)  # what the bit is about
    image.write_bytes(data)
    run(IO, "-r", "-c", "read 1M 64k", image)
    assert image.read_bytes() == bytes(data)
    io(IO, image, ["read -P 0 0 4096", "read -P 1 4096 4096"])
    assert image.read_bytes()[16] == 0
    assert run(QEMU_IMG, "check", image, ok=False).returncode == 3  # the lost cluster


def test_autoclear_features_go_with_the_first_write(image):
    data = bytearray(image.read_bytes())
    data[32] = 5
    data[24] = 3  # compatible ones stay
    image.write_bytes(data)
    run(IO, "-c", "read 0 4096", image)
    assert image.read_bytes() == bytes(data)
    io(IO, image, ["write 0 4096"])
    assert image.read_bytes()[32] == 0 and image.read_bytes()[24] == 3


def test_resize_shows_zeros(image, tmp_path):
    model = Model(8 << 20, 1)
    model.data[:200 << 10] = b"\1" * (200 << 10)
    model.data[5 << 20:(5 << 20) + (100 << 10)] = b"\2" * (100 << 10)
    for size in ((8 << 20) + 512, (8 << 20) + 7 * 512, 12 << 20, 300 << 20):
        run(IMG, "resize", "-q", image, size)
        model.data += bytes(min(size, 16 << 20) - len(model.data))
        io(IO, image, [model.command(4096) for _ in range(5)])
        check(QEMU_IMG, image)
    model.data += bytes((300 << 20) - len(model.data))
    model.save(tmp_path / "raw")
    same(QEMU_IMG, image, tmp_path / "raw")
    same(IMG, image, tmp_path / "raw")


HEADERS = {
    "magic": (0, b"QEDX"), "cluster-odd": (4, struct.pack("<I", 3000)),
    "cluster-small": (4, struct.pack("<I", 512)), "cluster-0": (4, bytes(4)),
    "cluster-large": (4, struct.pack("<I", 1 << 31)), "table-odd": (8, struct.pack("<I", 3)),
    "table-large": (8, struct.pack("<I", 32)), "table-0": (8, bytes(4)),
    "header-large": (12, b"\xff" * 4), "feature": (16, struct.pack("<Q", 1 << 40)),
    "l1-unaligned": (40, struct.pack("<Q", 100)), "l1-far": (40, struct.pack("<Q", 1 << 50)),
    "l1-end": (40, struct.pack("<Q", (1 << 64) - 4096)), "size": (48, b"\xff" * 8),
    "size-odd": (48, struct.pack("<Q", 513)),
    "name-far": (16, struct.pack("<QQQQQII", 1, 0, 0, 4096, 8 << 20, 1 << 30, 10)),
    "name-long": (16, struct.pack("<QQQQQII", 1, 0, 0, 4096, 8 << 20, 64, 4040)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_refused_in_qemus_words(image, name):
    hostile.refused_alike(image, "qed", *HEADERS[name])


@pytest.mark.parametrize("seed", range(3))
def test_hostile(image, seed):
    data = image.read_bytes()
    l1 = entry(data, 40)
    l2 = entry(data, l1)
    places = [*range(64)] * 3 + [*range(l1, l1 + 16)] * 2 + [*range(l2, l2 + 64)]
    hostile.attack(image, "qed", places, seed)


def test_a_file_that_pretends_to_be_huge(tmp_path):
    image = tmp_path / "a"
    pairs.create(IMG, "qed", "cluster_size=64M,table_size=16", image, "1T")
    with open(image, "r+b") as f:
        f.truncate(1 << 39)
    hostile.attempt(IMG, "info", image)
    assert hostile.attempt(IMG, "check", image).returncode == 3
    hostile.attempt(IO, "-c", "write 0 64k", "-c", "read -P 0xcd 0 64k", image)


def test_tables_of_one_cluster(tmp_path):
    """The specification has them; QEMU makes them, but cannot open them."""
    image, raw = tmp_path / "a.qed", tmp_path / "raw"
    pairs.create(IMG, "qed", "cluster_size=4096,table_size=1", image, "5M")
    model = Model(5 << 20, 3)
    for _ in range(4):
        io(IO, image, [model.command(4096) for _ in range(15)])
        check(IMG, image)
        model.save(raw)
        same(IMG, image, raw)
