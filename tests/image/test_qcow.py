"""qcow, version 1, against Debian's qemu-img and qemu-io, in both directions."""
import struct

import pytest

import hostile
import pairs
from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, info, io, out, run, same

COMPRESSED = 1 << 63


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_by_turns(tmp_path, seed):
    pairs.by_turns(tmp_path, "qcow", "", seed, 4096)


@pytest.mark.parametrize("flags", [[], ["-W"], ["-S", "0"]])
def test_convert(tmp_path, flags):
    pairs.converts(tmp_path, "qcow", "", flags)


@pytest.mark.parametrize("flags", [["-c"], ["-c", "-W"]])
def test_convert_compressed(tmp_path, flags):
    raw, image = tmp_path / "a.raw", tmp_path / "a.qcow"
    model = Model(5 << 20, "c")
    for _ in range(30):
        model.command(65536)
    model.data[1 << 20:2 << 20] = model.random.randbytes(1 << 20)
    for maker in (QEMU_IMG, IMG):
        if maker == QEMU_IMG and "-W" in flags:
            continue  # what it makes then is not what it was given
        model.data += bytes(1536 if maker == IMG else 0)
        model.save(raw)
        # QEMU's exit code is 1 whatever it did: it ends with a write of nothing.
        run(maker, "convert", "-f", "raw", "-O", "qcow", *flags, raw, image,
            ok=maker == IMG)
        for reader in (QEMU_IMG, IMG):
            same(reader, image, raw)


@pytest.mark.parametrize("size", [512, 5 << 20, (7 << 20) + 512])
def test_reports(tmp_path, size):
    image = tmp_path / "a.qcow"
    pairs.create(QEMU_IMG, "qcow", "", image, size)
    pairs.reports("qcow", image)
    if size > 5 << 20:
        io(QEMU_IO, image, ["write 2M 200k", "write -c 3M 4k", "write 6M 512", "write 0 4k"])
        pairs.reports("qcow", image)


def test_places_are_qemus(tmp_path):
    """The same writes put the same bytes into the same places of the file."""
    files = []
    for name, img, tool in (("a", IMG, IO), ("b", QEMU_IMG, QEMU_IO)):
        image = tmp_path / name
        pairs.create(img, "qcow", "", image, "20M")
        for command in ("write -P 1 100k 200k", "write -P 2 3M 100k", "write -P 3 0 512",
                        "write -P 4 8M 4k"):
            run(tool, "-c", command, image)
        files.append(image.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("argv", [
    ["create", "-f", "qcow", "x.qcow", "10M"],
    ["create", "-f", "qcow", "x.qcow", "0"],
    ["create", "-f", "qcow", "x.qcow", "1000"],
    ["create", "-f", "qcow", "-o", "cluster_size=3000", "x.qcow", "1M"],
    ["create", "-f", "qcow", "-o", "encryption=on", "x.qcow", "1M"],
    ["create", "-f", "qcow", "-o", "encrypt.format=aes", "x.qcow", "1M"],
    ["create", "-f", "qcow", "-o", "encrypt.format=luks", "x.qcow", "1M"],
    ["create", "-f", "qcow", "-o", "help"],
    ["create", "-f", "qcow", "-o", "help", "x.qcow"],
    ["create", "-f", "qcow", "-b", "base", "-F", "raw", "x.qcow"],
    ["create", "-f", "qcow", "-b", "base", "x.qcow"],
    ["create", "-f", "qcow", "-b", "nothing", "-F", "raw", "x.qcow"],
    ["measure", "-O", "qcow", "--size", "1G"],
    ["resize", "y.qcow", "20M"],
    ["resize", "--shrink", "y.qcow", "512"],
    ["amend", "-f", "qcow", "-o", "size=65536", "y.qcow"],
    ["check", "y.qcow"],
    ["check", "--output=json", "y.qcow"],
    ["info", "y.qcow"],
])
def test_messages(tmp_path, argv):
    (tmp_path / "base").write_bytes(bytes(range(256)) * 2048)
    pairs.create(QEMU_IMG, "qcow", "", tmp_path / "y.qcow", "1M")
    pairs.says_the_same(tmp_path, argv)


@pytest.mark.parametrize("size", ["512", "1000", "5M", "1G", "64G"])
@pytest.mark.parametrize("backing", [[], ["-u", "-b", "base", "-F", "raw"]])
def test_new_images_are_qemus(tmp_path, size, backing):
    files = []
    for tool in (IMG, QEMU_IMG):
        run(tool, "create", "-f", "qcow", *backing, "x", size, cwd=tmp_path)
        files.append((tmp_path / "x").read_bytes())
    assert files[0] == files[1]


def test_compressed_clusters_are_written_over(tmp_path):
    image, raw = tmp_path / "a.qcow", tmp_path / "raw"
    model = Model(3 << 20, 9)
    model.data[:] = b"\7" * len(model.data)
    model.save(raw)
    run(IMG, "convert", "-c", "-O", "qcow", raw, image)
    assert image.stat().st_size < 1 << 18
    same(QEMU_IMG, image, raw)
    for tool in (IO, QEMU_IO, IO, QEMU_IO):
        io(tool, image, [model.command(4096, compressed=tool == IO) for _ in range(20)])
        model.save(raw)
        same(QEMU_IMG, image, raw)
        same(IMG, image, raw)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("maker", pairs.TOOLS)
def test_backing_files(tmp_path, maker, seed):
    img, _ = pairs.TOOLS[maker]
    base, top = tmp_path / "base", tmp_path / "top.qcow"
    model = Model((4 << 20) + 1536, seed)
    model.data[:] = model.random.randbytes(len(model.data))
    model.save(base)
    model.data += bytes((1 << 20) - 1536)
    run(img, "create", "-q", "-f", "qcow", "-b", "base", "-F", "raw", top, len(model.data),
        cwd=tmp_path)
    for tool in (IO, QEMU_IO, IO):
        io(tool, top, [model.command(4096) for _ in range(15)])
    raw = tmp_path / "all"
    model.save(raw)
    for argv in (["map", "--output=json"], ["info", "--backing-chain"], ["map"]):
        ours, theirs = run(IMG, *argv, top), run(QEMU_IMG, *argv, top)
        assert ours.stdout == theirs.stdout
    for peer in (IMG, QEMU_IMG):
        same(peer, top, raw)
    run(IMG, "commit", top)
    same(QEMU_IMG, base, raw)
    same(QEMU_IMG, top, raw)
    assert json_map(QEMU_IMG, top) == json_map(IMG, top)
    io(QEMU_IO, top, ["write -P 1 100k 100k"])
    io(IO, top, ["read -P 1 100k 100k"])


def json_map(tool, image):
    return out(tool, "map", "--output=json", image)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow"
    pairs.create(QEMU_IMG, "qcow", "", path, "8M")
    io(QEMU_IO, path, ["write -P 1 0 40k", "write -P 2 5M 10k", "write -c -P 3 1M 4k"])
    return path


def word(data, at):
    return struct.unpack_from(">Q", data, at)[0]


DAMAGE = {
    "l2-header": lambda l1, l2: (l2, 1),
    "l2-over-l1": lambda l1, l2: (l2, l1),
    "l2-over-l2": lambda l1, l2: (l2, l2),
    "l2-far": lambda l1, l2: (l2, 1 << 50),
    "l2-end": lambda l1, l2: (l2, (1 << 63) - 1),
    "l2-packed-far": lambda l1, l2: (l2, (1 << 64) - 1),
    "l2-packed-empty": lambda l1, l2: (l2, COMPRESSED | 4096),
    "l2-packed-header": lambda l1, l2: (l2, COMPRESSED | 100 << 51),
    "l1-header": lambda l1, l2: (l1, 8),
    "l1-itself": lambda l1, l2: (l1, l1),
    "l1-far": lambda l1, l2: (l1, 1 << 50),
    "l1-end": lambda l1, l2: (l1, (1 << 63) - 1),
    "l1-huge": lambda l1, l2: (l1, (1 << 64) - 1),
    "l1-odd": lambda l1, l2: (l1, l2 + 3),
    "l1-twice": lambda l1, l2: (l1 + 8, l2),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(image, name):
    """Ends in little time and memory, and header and L1 table stay as they are."""
    data = bytearray(image.read_bytes())
    l1 = word(data, 40)
    at, value = DAMAGE[name](l1, word(data, l1))
    struct.pack_into(">Q", data, at, value)
    image.write_bytes(data)
    hostile.use(image, "qcow")
    assert image.read_bytes()[:48] == bytes(data[:48])


@pytest.mark.parametrize("at", [1, 49, 0x1003])
def test_odd_places_of_tables(tmp_path, image, at):
    """Entries across the pages that they are kept in."""
    data = image.read_bytes()
    l1, end = word(data, 40), len(data)
    moved = bytearray(data + bytes(end % 512 + at) + data[l1:l1 + 32] + bytes(4096))
    where = end + end % 512 + at
    l2 = word(data, l1)
    odd = len(moved) + at
    moved += bytes(at) + data[l2:l2 + 4096]
    struct.pack_into(">Q", moved, where, odd)
    struct.pack_into(">Q", moved, 40, where)
    image.write_bytes(moved)
    io(IO, image, ["read -P 1 0 40k", "read -P 2 5M 10k", "read -P 3 1M 4k",
                   "write -P 4 3M 300k", "write -P 5 100k 70k", "read -P 1 0 40k"])
    for tool in (IO, QEMU_IO):
        io(tool, image, ["read -P 4 3M 300k", "read -P 5 100k 70k", "read -P 2 5M 10k"])


SECRET = ["--object", "secret,id=s,data=abc"]


def unlock(tool, image, commands, key="s"):
    argv = [a for c in commands for a in ("-c", c)]
    return run(tool, *SECRET, "--image-opts", *argv,
               f"driver=qcow,encrypt.key-secret={key},file.filename={image}", ok=False)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backing", [False, True])
def test_encrypted_by_turns(tmp_path, seed, backing):
    image, raw = tmp_path / "a.qcow", tmp_path / "raw"
    model = Model(3 << 20, seed)
    more = []
    if backing:
        model.data[:] = model.random.randbytes(len(model.data))
        (tmp_path / "base").write_bytes(model.data)
        more = ["-b", tmp_path / "base", "-F", "raw"]
    run((IMG, QEMU_IMG)[seed], "create", "-q", *SECRET, "-f", "qcow", *more, "-o",
        "encrypt.format=aes,encrypt.key-secret=s", image, len(model.data))
    for tool in (IO, QEMU_IO, IO, IO, QEMU_IO):
        done = unlock(tool, image, [model.command(4096) for _ in range(12)])
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
        model.save(raw)
        for peer in (IMG, QEMU_IMG):
            done = run(peer, "convert", *SECRET, "--image-opts", "-O", "raw",
                       f"driver=qcow,encrypt.key-secret=s,file.filename={image}",
                       tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == bytes(model.data)
    pairs.says_the_same(tmp_path, ["info", "a.qcow"])
    pairs.says_the_same(tmp_path, ["info", "--output=json", "a.qcow"])
    pairs.says_the_same(tmp_path, ["map", "a.qcow"])


def test_encrypted_data_is_not_in_the_file(tmp_path):
    image = tmp_path / "a.qcow"
    run(IMG, "create", "-q", *SECRET, "-f", "qcow", "-o",
        "encryption=on,encrypt.key-secret=s", image, "1M")
    unlock(IO, image, ["write -P 0x5a 0 64k", "write -P 0x5a 100k 512"])
    assert b"\x5a" * 16 not in image.read_bytes()
    for tool in (IO, QEMU_IO):
        done = unlock(tool, image, ["read -P 0x5a 0 64k", "read -P 0 64k 36k"])
        assert "failed" not in done.stdout and done.returncode == 0
    for options in ("encrypt.key-secret=nope", "encrypt.format=luks", "encrypt.format=aes",
                    "encrypt.iter-time=3,encrypt.key-secret=s", "read-only=on"):
        answers = [run(tool, *SECRET, "--image-opts", "-c", "read 0 512",
                       f"driver=qcow,file.filename={image},{options}", ok=False)
                   for tool in (IO, QEMU_IO)]
        assert answers[0].returncode == answers[1].returncode == 1
        assert [a.stderr.split(": ", 1)[1] for a in answers[:1]] == [
            a.stderr.split(": ", 1)[1] for a in answers[1:]]


@pytest.mark.parametrize("options", [
    "encryption=on,encrypt.format=aes,encrypt.key-secret=s", "encrypt.key-secret=s",
    "encrypt.format=aes,encrypt.key-secret=nope", "encryption=off,encrypt.key-secret=s",
    "encrypt.format=aes,encrypt.cipher-alg=aes-256", "encrypt.format=aes",
    "encrypt.format=aes,encrypt.key-secret=s", "encryption=on,encrypt.key-secret=s",
])
def test_messages_of_encryption(tmp_path, options):
    pairs.says_the_same(tmp_path, ["create", *SECRET, "-f", "qcow", "-o", options, "x", "1M"])


HEADERS = {
    "magic": (0, b"QFIx"), "version-2": (4, struct.pack(">I", 2)),
    "version-9": (4, struct.pack(">I", 9)), "name-long": (8, struct.pack(">QI", 48, 2000)),
    "size": (24, struct.pack(">Q", 1 << 63)), "size-1": (24, struct.pack(">Q", 1)),
    "size-0": (24, bytes(8)), "size-big": (24, struct.pack(">Q", 1 << 60)),
    "cluster-small": (32, b"\x08"), "cluster-large": (32, b"\x11"), "cluster-255": (32, b"\xff"),
    "l2-small": (33, b"\x05"), "l2-large": (33, b"\x0e"), "crypt": (36, struct.pack(">I", 2)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_refused_in_qemus_words(image, name):
    hostile.refused_alike(image, "qcow", *HEADERS[name])


@pytest.mark.parametrize("seed", range(3))
def test_hostile(image, seed):
    data = image.read_bytes()
    l1 = word(data, 40)
    l2 = word(data, l1)
    places = [*range(48)] * 3 + [*range(l1, l1 + 16)] * 2 + [*range(l2, l2 + 64)]
    hostile.attack(image, "qcow", places, seed)


def test_a_large_disk(tmp_path):
    image = tmp_path / "a"
    pairs.create(IMG, "qcow", "", image, "32T")
    hostile.attempt(IO, "-c", "write -P 3 31T 64k", "-c", "read -P 3 31T 64k", image)
    io(QEMU_IO, image, ["read -P 3 31T 64k"])
    assert info(IMG, image)["actual-size"] < 1 << 20
