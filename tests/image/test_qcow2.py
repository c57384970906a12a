"""
qcow2 against Debian's qemu-img and qemu-io, in both directions: what one makes the other
reads, checks and changes, and both report the same.
"""
import itertools
import json

import pytest

from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, check, info, io, out, run, same

pytestmark = pytest.mark.filterwarnings("error")

CLUSTERS = [2 ** b for b in range(9, 22)]
SHAPES = {
    "v3": "compat=1.1",
    "v2": "compat=0.10",
    "v2-4k": "compat=0.10,cluster_size=4096",
    "extl2": "extended_l2=on",
    "extl2-16k": "extended_l2=on,cluster_size=16384",
    "zstd": "compression_type=zstd",
    "lazy": "lazy_refcounts=on",
    "refs1": "refcount_bits=1",
    "refs2-512": "refcount_bits=2,cluster_size=512",
    "refs8": "refcount_bits=8",
    "refs64-512": "refcount_bits=64,cluster_size=512",
}
TOOLS = {"ours": (IMG, IO), "qemu": (QEMU_IMG, QEMU_IO)}


def size_for(cluster):
    return min(max(cluster * 200, 1 << 18), 8 << 20)


def unit_of(options):
    for o in options.split(","):
        if o.startswith("cluster_size="):
            return int(o.split("=")[1])
    return 65536


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("maker", TOOLS)
def test_every_cluster_size_both_ways(tmp_path, cluster, maker):
    img, tool = TOOLS[maker]
    image, raw = tmp_path / "a.qcow2", tmp_path / "a.raw"
    model = Model(size_for(cluster) + 512, cluster)
    run(img, "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", image,
        len(model.data))
    io(tool, image, [model.command(cluster) for _ in range(25)])
    model.save(raw)
    for peer in (IMG, QEMU_IMG):
        check(peer, image)
        same(peer, image, raw)
    other = tmp_path / "other.raw"
    run(IMG, "convert", "-O", "raw", image, other)
    assert other.read_bytes() == bytes(model.data)


@pytest.mark.parametrize("order", range(7))
def test_every_refcount_width(tmp_path, order):
    image = tmp_path / "a.qcow2"
    model = Model(4 << 20, order)
    run(IMG, "create", "-q", "-f", "qcow2", "-o",
        f"cluster_size=4096,refcount_bits={2 ** order}", image, len(model.data))
    for tool in (IO, QEMU_IO, IO):
        io(tool, image, [model.command(4096) for _ in range(20)])
        check(QEMU_IMG, image)
        check(IMG, image)
    raw = tmp_path / "a.raw"
    model.save(raw)
    same(QEMU_IMG, image, raw)
    same(IMG, image, raw)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, shape, seed):
    """Both programs work on one image, one after the other."""
    image, raw = tmp_path / "a.qcow2", tmp_path / "a.raw"
    unit = unit_of(SHAPES[shape])
    model = Model(size_for(unit), f"{shape}{seed}")
    maker = (IMG, QEMU_IMG)[seed % 2]
    run(maker, "create", "-q", "-f", "qcow2", "-o", SHAPES[shape], image, len(model.data))
    for tool in (IO, QEMU_IO, IO, IO, QEMU_IO):
        # QEMU refuses to write a compressed cluster over an allocated one.
        io(tool, image, [model.command(unit, compressed=tool == IO) for _ in range(12)])
        check(QEMU_IMG, image)
        check(IMG, image)
        model.save(raw)
        same(QEMU_IMG, image, raw)
        same(IMG, image, raw)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "refs1"])
def test_random_operations_with_snapshots(tmp_path, shape):
    image = tmp_path / "a.qcow2"
    unit = unit_of(SHAPES[shape])
    model = Model(size_for(unit), shape)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", SHAPES[shape], image, len(model.data))
    kept = {}
    pairs = list(itertools.product((IO, QEMU_IO), (IMG, QEMU_IMG)))
    most = 2 if "refcount_bits=2" in SHAPES[shape] else 3
    for turn, (tool, img) in enumerate(pairs * 2):
        io(tool, image, [model.command(unit) for _ in range(8)])
        names = sorted(kept)
        if len(names) >= most or turn == 5:
            victim = model.random.choice(names)
            run(img, "snapshot", "-d", victim, image)
            del kept[victim]
        elif turn % 3 == 2:
            name = model.random.choice(names)
            run(img, "snapshot", "-a", name, image)
            model.data = bytearray(kept[name])
        else:
            run(img, "snapshot", "-c", f"s{turn}", image)
            kept[f"s{turn}"] = bytes(model.data)
        check(QEMU_IMG, image)
        check(IMG, image)
    raw = tmp_path / "a.raw"
    model.save(raw)
    same(QEMU_IMG, image, raw)
    for name, content in kept.items():
        raw.write_bytes(content)
        for img in (IMG, QEMU_IMG):
            run(img, "convert", "-l", name, "-O", "raw", image, tmp_path / "s.raw")
            assert (tmp_path / "s.raw").read_bytes() == content, (img, name)


@pytest.mark.parametrize("shape", ["v3", "v2", "extl2", "zstd"])
@pytest.mark.parametrize("flags", [[], ["-c"], ["-c", "-W"], ["-W"], ["-S", "0"], ["-m", "1"]])
def test_convert_to_qcow2(tmp_path, shape, flags):
    raw, image = tmp_path / "a.raw", tmp_path / "a.qcow2"
    model = Model(5 * (1 << 20) + 512 * 3, "x")
    for _ in range(40):
        model.command(65536)
    model.save(raw)
    run(IMG, "convert", "-O", "qcow2", "-o", SHAPES[shape], *flags, raw, image)
    check(QEMU_IMG, image)
    check(IMG, image)
    same(QEMU_IMG, raw, image)
    same(IMG, raw, image)
    run(IMG, "convert", image, tmp_path / "b.raw")
    assert (tmp_path / "b.raw").read_bytes() == bytes(model.data)


def test_compressed_by_qemu_is_read(tmp_path):
    raw, image = tmp_path / "a.raw", tmp_path / "a.qcow2"
    model = Model(6 << 20, 1)
    for _ in range(30):
        model.command(65536)
    model.data[1 << 20:3 << 20] = model.random.randbytes(2 << 20)
    model.save(raw)
    for kind in ("zlib", "zstd"):
        for cluster in (512, 4096, 65536, 2 << 20):
            run(QEMU_IMG, "convert", "-c", "-O", "qcow2", "-o",
                f"compression_type={kind},cluster_size={cluster}", raw, image)
            same(IMG, raw, image)
            check(IMG, image)


@pytest.mark.parametrize("maker", TOOLS)
def test_backing_files(tmp_path, maker):
    img, tool = TOOLS[maker]
    base, mid, top = (tmp_path / n for n in ("base.raw", "mid.qcow2", "top.qcow2"))
    model = Model(3 << 20, 5)
    for _ in range(20):
        model.command(65536)
    model.save(base)
    run(img, "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", mid, cwd=tmp_path)
    model.data += bytes(1 << 20)
    io(tool, mid, [])
    run(img, "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2",
        "-o", "extended_l2=on", top, len(model.data), cwd=tmp_path)
    for which in (IO, QEMU_IO, IO):
        io(which, top, [model.command(65536) for _ in range(15)])
    raw = tmp_path / "all.raw"
    model.save(raw)
    for peer in (IMG, QEMU_IMG):
        check(peer, top)
        same(peer, top, raw)
        flat = tmp_path / "flat.qcow2"
        run(peer, "convert", "-O", "qcow2", top, flat)
        same(QEMU_IMG, flat, raw)
    assert out(IMG, "map", "--output=json", top) == out(QEMU_IMG, "map", "--output=json", top)
    assert out(IMG, "info", "--backing-chain", top) == out(QEMU_IMG, "info", "--backing-chain", top)
    run(IMG, "commit", "-q", top)
    same(QEMU_IMG, mid, raw)
    same(QEMU_IMG, top, raw)
    check(QEMU_IMG, top)


@pytest.mark.parametrize("unsafe", [False, True])
def test_rebase(tmp_path, unsafe):
    for name, seed in (("old", 1), ("new", 2)):
        model = Model(2 << 20, seed)
        for _ in range(15):
            model.command(65536)
        model.save(tmp_path / name)
    run(IMG, "create", "-q", "-f", "qcow2", "-b", "old", "-F", "raw", tmp_path / "top",
        "3M")
    io(IO, tmp_path / "top", ["write -P 7 100k 300k", "write -z 1M 64k"])
    run(QEMU_IMG, "convert", "-O", "raw", tmp_path / "top", tmp_path / "before")
    run(IMG, "rebase", *(["-u"] if unsafe else []), "-b", "new", "-F", "raw",
        tmp_path / "top")
    assert info(QEMU_IMG, tmp_path / "top")["backing-filename"] == "new"
    check(QEMU_IMG, tmp_path / "top")
    done = run(QEMU_IMG, "compare", tmp_path / "top", tmp_path / "before", ok=False)
    assert done.returncode == (1 if unsafe else 0)
    run(IMG, "rebase", "-b", "", tmp_path / "top")
    assert "backing-filename" not in info(QEMU_IMG, tmp_path / "top")
    if not unsafe:
        same(QEMU_IMG, tmp_path / "top", tmp_path / "before")


@pytest.mark.parametrize("raw_bit", ["off", "on"])
@pytest.mark.parametrize("maker", TOOLS)
def test_external_data_file(tmp_path, maker, raw_bit):
    img, _ = TOOLS[maker]
    image = tmp_path / "a.qcow2"
    model = Model(2 << 20, 3)
    run(img, "create", "-q", "-f", "qcow2", "-o",
        f"data_file={tmp_path}/data,data_file_raw={raw_bit}", image, len(model.data))
    for tool in (IO, QEMU_IO, IO):
        io(tool, image, [model.command(65536) for _ in range(12)])
        check(QEMU_IMG, image)
        check(IMG, image)
    raw = tmp_path / "raw"
    model.save(raw)
    same(QEMU_IMG, image, raw)
    same(IMG, image, raw)
    if raw_bit == "on":
        assert (tmp_path / "data").read_bytes() == bytes(model.data)


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("options", ["", ",extended_l2=on", ",cluster_size=512"])
def test_preallocation(tmp_path, mode, options):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for tool, image in ((IMG, ours), (QEMU_IMG, theirs)):
        run(tool, "create", "-q", "-f", "qcow2", "-o", f"preallocation={mode}{options}",
            image, "3M")
    check(QEMU_IMG, ours)
    check(IMG, ours)
    same(QEMU_IMG, ours, theirs)
    same(IMG, ours, theirs)
    io(IO, ours, ["write -P 3 1000000 70000"])
    io(QEMU_IO, ours, ["read -P 3 1000000 70000", "write -P 4 0 64k"])
    check(QEMU_IMG, ours)


@pytest.mark.parametrize("shape", SHAPES)
def test_resize(tmp_path, shape):
    image = tmp_path / "a.qcow2"
    unit = unit_of(SHAPES[shape])
    model = Model(size_for(unit), shape)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", SHAPES[shape], image, len(model.data))
    sizes = [len(model.data) * 3 + 512, len(model.data) // 2 + 1024, 512, len(model.data) * 70]
    for size in sizes:
        io(IO, image, [model.command(unit) for _ in range(8)])
        run(IMG, "resize", "-q", "--shrink", image, size)
        model.data = model.data[:size] + bytes(max(0, size - len(model.data)))
        check(QEMU_IMG, image)
        check(IMG, image)
        raw = tmp_path / "a.raw"
        model.save(raw)
        same(IMG, image, raw)
        same(QEMU_IMG, image, raw)


def test_repair_of_leaks_and_errors(tmp_path):
    image = tmp_path / "a.qcow2"
    run(IMG, "create", "-q", "-f", "qcow2", image, "4M")
    io(IO, image, ["write -P 1 0 1M", "write -P 2 2M 512k"])
    run(IMG, "convert", image, tmp_path / "before.raw")
    block = 2 * 65536  # the refcount block of a new image
    for name, at, value in (("leak", 8, 2), ("lost", 9, 0), ("much", 10, 5)):
        broken = tmp_path / name
        data = bytearray(image.read_bytes())
        data[block + 2 * at:block + 2 * at + 2] = value.to_bytes(2, "big")
        broken.write_bytes(data)
        ours = run(IMG, "check", broken, ok=False)
        theirs = run(QEMU_IMG, "check", broken, ok=False)
        assert ours.returncode == theirs.returncode != 0
        assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
        copy = tmp_path / "copy"
        copy.write_bytes(data)
        theirs = run(QEMU_IMG, "check", "-r", "all", copy, ok=False)
        ours = run(IMG, "check", "-r", "all", broken, ok=False)
        assert (ours.stdout, ours.stderr, ours.returncode) == (
            theirs.stdout, theirs.stderr, theirs.returncode)
        check(QEMU_IMG, broken)
        same(QEMU_IMG, broken, tmp_path / "before.raw")


def test_repair_makes_lost_refcounts_anew(tmp_path):
    image = tmp_path / "a.qcow2"
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "64M")
    io(IO, image, ["write -P 1 0 20M"])
    run(IMG, "convert", image, tmp_path / "before.raw")
    data = bytearray(image.read_bytes())
    table = int.from_bytes(data[48:56], "big")
    data[table:table + 8] = bytes(8)
    image.write_bytes(data)
    assert run(IMG, "check", image, ok=False).returncode == 2
    run(IMG, "check", "-r", "all", image)
    check(QEMU_IMG, image)
    same(QEMU_IMG, image, tmp_path / "before.raw")


def test_unclean_image_is_repaired_when_opened(tmp_path):
    image = tmp_path / "a.qcow2"
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "4M")
    run(IO, "-c", "write -P 5 0 1M", "-c", "flush", "-c", "sigraise 9", image, ok=False)
    assert info(QEMU_IMG, image)["dirty-flag"]
    out(IO, "-c", "read -P 5 0 1M", "-c", "write -P 6 2M 64k", image)
    assert not info(QEMU_IMG, image)["dirty-flag"]
    check(QEMU_IMG, image)


@pytest.mark.parametrize("turn", range(4))
def test_flushed_data_survives_a_kill(tmp_path, turn):
    image = tmp_path / "a.qcow2"
    model = Model(4 << 20, turn)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, len(model.data))
    commands = [model.command(4096) for _ in range(20)]
    raw = tmp_path / "a.raw"
    model.save(raw)
    argv = [a for c in [*commands, "flush", "sigraise 9"] for a in ("-c", c)]
    run(IO, *argv, "-d", "unmap", image, ok=False)
    done = run(QEMU_IMG, "check", image, ok=False)
    assert done.returncode in (0, 3), done.stdout  # leaks at worst
    same(QEMU_IMG, image, raw)


def reports(image):
    yield ["info", image]
    yield ["info", "--output=json", image]
    yield ["map", image]
    yield ["map", "--output=json", image]
    yield ["check", image]
    yield ["check", "--output=json", image]
    yield ["snapshot", "-l", image]
    yield ["measure", "-O", "raw", image]


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "refs1"])
def test_reports_are_qemus(tmp_path, shape):
    image = tmp_path / "a.qcow2"
    unit = unit_of(SHAPES[shape])
    model = Model(size_for(unit), shape)
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", "-o", SHAPES[shape], image, len(model.data))
    io(QEMU_IO, image, [model.command(unit) for _ in range(10)])
    run(QEMU_IMG, "snapshot", "-c", "first", image)
    io(QEMU_IO, image, [model.command(unit) for _ in range(10)])
    for argv in reports(image):
        ours, theirs = run(IMG, *argv), run(QEMU_IMG, *argv)
        assert ours.stdout == theirs.stdout, argv


@pytest.mark.parametrize("options", ["", *SHAPES.values(), "preallocation=metadata"])
def test_create_says_what_qemu_says(tmp_path, options):
    texts = []
    for tool in (IMG, QEMU_IMG):
        argv = ["-o", options] if options else []
        texts.append(out(tool, "create", "-f", "qcow2", *argv, "x.qcow2", "5M", cwd=tmp_path))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("options", ["", "cluster_size=512", "extended_l2=on",
                                     "refcount_bits=1", "preallocation=full"])
@pytest.mark.parametrize("size", ["0", "1", "1M", "100G", "10T"])
def test_measure_says_what_qemu_says(options, size):
    argv = ["measure", "-O", "qcow2", "--size", size, "-o", options or "compat=1.1"]
    ours, theirs = run(IMG, *argv, ok=False), run(QEMU_IMG, *argv, ok=False)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


BAD = [
    ("create",), ("create", "-f", "nope", "x", "1M"), ("create", "-f", "qcow2", "x"),
    ("create", "-f", "qcow2", "-o", "nope=1", "x", "1M"),
    ("create", "-f", "qcow2", "-o", "cluster_size=1000", "x", "1M"),
    ("create", "-f", "qcow2", "-o", "refcount_bits=3", "x", "1M"),
    ("create", "-f", "qcow2", "-o", "compat=9", "x", "1M"),
    ("create", "-f", "qcow2", "-b", "nothing", "-F", "qcow2", "x"),
    ("create", "-f", "qcow2", "-b", "a.raw", "x"),
    ("info",), ("info", "nothing"), ("info", "--nope", "x"), ("info", "-f", "qcow2", "a.raw"),
    ("check", "nothing"), ("check", "a.raw"), ("check", "-r", "nope", "a.raw"),
    ("convert",), ("convert", "a.raw"), ("convert", "nothing", "x"),
    ("convert", "-O", "nope", "a.raw", "x"), ("convert", "-t", "nope", "a.raw", "x"),
    ("compare", "a.raw"), ("compare", "a.raw", "nothing"),
    ("snapshot", "-a", "nope", "a.qcow2"), ("snapshot", "-d", "nope", "a.qcow2"),
    ("resize", "a.qcow2", "1k"), ("resize", "a.qcow2"), ("nope",), (),
    ("map", "nothing"), ("commit", "a.qcow2"), ("amend", "a.qcow2"), ("measure",),
    ("rebase", "a.qcow2"),
]


@pytest.mark.parametrize("argv", BAD, ids=lambda a: " ".join(a) or "nothing")
def test_refusals_are_qemus(tmp_path, argv):
    (tmp_path / "qemu-img").symlink_to(IMG)
    (tmp_path / "a.raw").write_bytes(b"x" * 65536)
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", "a.qcow2", "1M", cwd=tmp_path)
    theirs = run(QEMU_IMG, *argv, ok=False, cwd=tmp_path)
    ours = run("./qemu-img", *argv, ok=False, cwd=tmp_path)
    assert (ours.stdout, ours.stderr, ours.returncode) == (
        theirs.stdout, theirs.stderr, theirs.returncode)


def test_json_is_json(tmp_path):
    image = tmp_path / 'na"me\u00e9.qcow2'
    run(IMG, "create", "-q", "-f", "qcow2", image, "1M")
    assert json.loads(out(IMG, "info", "--output=json", image))["filename"] == str(image)


def test_discarded_space_goes_back_to_the_file_system(tmp_path):
    image = tmp_path / "a.qcow2"
    run(IMG, "create", "-q", "-f", "qcow2", image, "32M")
    io(IO, image, ["write -P 1 0 32M"])
    before = image.stat().st_blocks
    io(IO, image, ["discard 0 24M"])
    assert image.stat().st_blocks * 512 < 9 << 20 < before * 512
    check(QEMU_IMG, image)
    io(QEMU_IO, image, ["read -P 0 0 24M", "read -P 1 24M 8M"])


@pytest.mark.parametrize("options", ["", "cluster_size=512"])
def test_amend(tmp_path, options):
    image, raw = tmp_path / "a.qcow2", tmp_path / "a.raw"
    model = Model(2 << 20, options)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", options or "compat=v3", image, len(model.data))
    steps = ["refcount_bits=1", "refcount_bits=64", "refcount_bits=4", "lazy_refcounts=on",
             "lazy_refcounts=off", "refcount_bits=16", "compat=0.10", "compat=1.1",
             "refcount_bits=2", "size=3M"]
    for step in steps:
        io(IO, image, [model.command(65536) for _ in range(6)])
        run(IMG, "amend", "-o", step, image)
        model.data += bytes((3 << 20) - len(model.data)) if step == "size=3M" else b""
        model.save(raw)
        for peer in (QEMU_IMG, IMG):
            check(peer, image)
            same(peer, image, raw)
    assert info(QEMU_IMG, image)["format-specific"]["data"]["refcount-bits"] == 2
    run(IMG, "snapshot", "-c", "s", image)
    io(IO, image, ["write -P 1 0 1M"])
    done = run(IMG, "amend", "-o", "refcount_bits=1", image, ok=False)
    assert done.returncode == 1 and "Cannot decrease refcount entry width" in done.stderr
    check(QEMU_IMG, image)
