"""lodge-nbd against qemu-nbd: what clients see of both is the same text."""
import os
import random
import socket
import struct
import subprocess
import time

import pytest

from images import IMG, QEMU_IMG, QEMU_IO, Model, out, run
from nbd_server import BOTH, NBD, QEMU_NBD, SECONDS, serve
from pairs import settle

nbd = pytest.importorskip("nbd")

SIZE = 8 << 20


def qcow2(folder, name="a.qcow2", commands=()):
    image = folder / name
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", image, SIZE)
    argv = [a for c in commands for a in ("-c", c)]
    if argv:
        run(QEMU_IO, *argv, image)
    return image


@pytest.fixture
def image(tmp_path):
    """Over a backing file, with data, zeros and a bitmap of what came later."""
    base = qcow2(tmp_path, "base.qcow2", ["write -q -P 1 0 1M", "write -q -P 2 4M 64k"])
    top = tmp_path / "a.qcow2"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    run(QEMU_IO, "-c", "write -q -P 3 512k 256k", "-c", "write -q -z 4M 32k", top)
    run(QEMU_IMG, "bitmap", "--add", "-g", "64k", top, "b0")
    run(QEMU_IO, "-c", "write -q -P 4 6M 128k", top)
    run(QEMU_IMG, "bitmap", "--disable", top, "b0")
    settle(tmp_path)
    return top


def connect(server, export="", contexts=(), **kw):
    h = nbd.NBD()
    h.set_export_name(export)
    for c in contexts:
        h.add_meta_context(c)
    h.connect_uri(server.uri(export, **kw))
    return h


# ---- what clients are told --------------------------------------------------------------

OPTIONS = {
    "plain": [],
    "read-only": ["-r"],
    "shared": ["-e", "3", "-D", "an image"],
    "unlimited": ["-e", "0"],
    "contexts": ["-A", "-B", "b0"],
    "offset": ["-o", "65536"],
    "direct": ["-r", "-n"],
}


@pytest.mark.parametrize("args", OPTIONS.values(), ids=OPTIONS.keys())
def test_reports_are_the_same_text(tmp_path, image, args):
    texts = {}
    if "-o" in args:  # behind an offset QEMU calls what a backing file has a hole
        image = qcow2(tmp_path, "b.qcow2", ["write -q -P 3 512k 256k", "write -q -z 4M 64k"])
    for name, program in BOTH.items():
        with serve(tmp_path, program, "-t", "-f", "qcow2", *args, image) as s:
            uri = s.uri()
            texts[name] = [out("nbdinfo", uri), out("nbdinfo", "--json", uri),
                           out(QEMU_NBD, "-L", "-k", s.socket),
                           out("nbdinfo", "--map", uri)]
            assert out(NBD, "-L", "-k", s.socket) == texts[name][2]
            if "-A" in args:
                texts[name] += [out("nbdinfo", f"--map={c}", uri) for c in
                                ("qemu:allocation-depth", "qemu:dirty-bitmap:b0")]
    assert texts["ours"] == texts["qemu"]


FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels")


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_shows_the_same(tmp_path, fmt):
    raw, image = tmp_path / "model.raw", tmp_path / f"a.{fmt}"
    model = Model(SIZE, fmt)
    for _ in range(12):
        model.command(65536)
    model.save(raw)
    run("fallocate", "-d", raw)
    run(IMG, "convert", "-f", "raw", "-O", fmt, raw, image)
    settle(tmp_path)
    texts = {}
    for name, program in BOTH.items():
        for args in (["-r", "-f", fmt], ["-r"]):
            with serve(tmp_path, program, "-t", *args, image) as s:
                texts.setdefault(name, []).extend(
                    [out("nbdinfo", s.uri()), out("nbdinfo", "--map", s.uri()),
                     out(NBD, "-L", "-k", s.socket)])
                run("nbdcopy", s.uri(), tmp_path / "out.raw")
                assert (tmp_path / "out.raw").read_bytes()[:SIZE] == bytes(model.data)
    assert texts["ours"] == texts["qemu"]


@pytest.mark.parametrize("tool", [IMG, QEMU_IMG], ids=["lodge-img", "qemu-img"])
def test_maps_through_nbd_are_the_same(tmp_path, image, tool):
    maps = {}
    for name, program in BOTH.items():
        with serve(tmp_path, program, "-t", "-f", "qcow2", image) as s:
            maps[name] = out(tool, "map", "--output=json", "-f", "raw", s.uri())
    assert maps["ours"] == maps["qemu"]


@pytest.mark.parametrize("bytes_", [1000, 512, 4096 * 3 + 1])
def test_odd_sizes(tmp_path, bytes_):
    raw = tmp_path / "a.raw"
    raw.write_bytes(random.Random(bytes_).randbytes(bytes_))
    texts = {}
    for name, program in BOTH.items():
        with serve(tmp_path, program, "-t", "-f", "raw", raw) as s:
            texts[name] = [out("nbdinfo", s.uri()), out("nbdinfo", "--map", s.uri())]
            h = connect(s)
            data = h.pread(h.get_size(), 0)
            assert data[:bytes_] == raw.read_bytes() and not any(data[bytes_:])
            h.shutdown()
    assert texts["ours"] == texts["qemu"]


# ---- data -------------------------------------------------------------------------------

def test_random_writes_of_a_qemu_client(tmp_path):
    image = qcow2(tmp_path)
    model = Model(SIZE, "nbd")
    with serve(tmp_path, NBD, "-t", "-f", "qcow2", "--discard=unmap", image) as s:
        for _ in range(6):
            argv = [a for _ in range(10) for a in ("-c", model.command(65536))]
            run(QEMU_IO, "-f", "raw", *argv, s.uri())
        raw = tmp_path / "out.raw"
        run("nbdcopy", s.uri(), raw)
        assert raw.read_bytes() == bytes(model.data)
        assert s.stop() == 0
    run(QEMU_IMG, "check", image)
    model.save(tmp_path / "model.raw")
    run(QEMU_IMG, "compare", "-f", "qcow2", "-F", "raw", image, tmp_path / "model.raw")


def test_copies_in_and_out_on_several_connections(tmp_path):
    image, raw, back = qcow2(tmp_path), tmp_path / "a.raw", tmp_path / "b.raw"
    content = bytearray(SIZE)
    content[1 << 20:3 << 20] = random.Random(1).randbytes(2 << 20)
    content[5 << 20:(5 << 20) + 5] = b"hello"
    raw.write_bytes(content)
    with serve(tmp_path, NBD, "-t", "-e", "4", "-f", "qcow2", image) as s:
        run("nbdcopy", "--connections=4", "--requests=32", raw, s.uri())
        run("nbdcopy", "--connections=4", s.uri(), back)
        assert back.read_bytes() == bytes(content)
    run(QEMU_IMG, "compare", "-f", "raw", "-F", "qcow2", raw, image)


def test_commands(tmp_path):
    image = qcow2(tmp_path, commands=["write -q -P 7 0 4M"])
    with serve(tmp_path, NBD, "-t", "-f", "qcow2", "--discard=unmap", image) as s:
        h = connect(s, contexts=["base:allocation"])
        h.set_strict_mode(0)

        def status(offset, length, flags=0):
            got = []
            h.block_status(length, offset, lambda m, o, e, err: got.append((m, o, e)), flags)
            return got

        assert h.pread(10, 5) == b"\7" * 10
        h.pwrite(b"x" * 1000, 100, nbd.CMD_FLAG_FUA)
        h.flush()
        assert h.pread(1002, 99) == b"\7" + b"x" * 1000 + b"\7"
        h.zero(65536, 65536)
        h.trim(65536, 131072, nbd.CMD_FLAG_FUA)
        assert not any(h.pread(131072, 65536))
        assert status(0, 1 << 20) == [
            ("base:allocation", 0, [65536, 0, 131072, 3, (1 << 20) - 196608, 0])]
        assert status(0, 1 << 20, nbd.CMD_FLAG_REQ_ONE) == [("base:allocation", 0, [65536, 0])]
        h.zero(65536, 0, nbd.CMD_FLAG_NO_HOLE)
        assert not any(h.pread(65536, 0))
        h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
        assert not any(h.pread(1 << 20, 1 << 20))
        h.cache(1 << 20, 0)

        chunks = []
        h.pread_structured(2 << 20, 1 << 20,
                           lambda buf, off, kind, err: chunks.append((off, len(buf), kind)))
        assert sorted(chunks) == [(1 << 20, 1 << 20, nbd.READ_HOLE),
                                  (2 << 20, 1 << 20, nbd.READ_DATA)]
        chunks.clear()
        h.pread_structured(2 << 20, 1 << 20,
                           lambda buf, off, kind, err: chunks.append((off, len(buf), kind)),
                           nbd.CMD_FLAG_DF)
        assert chunks == [(1 << 20, 2 << 20, nbd.READ_DATA)]

        for call, err in ((lambda: h.pread(512, SIZE), "EINVAL"),
                          (lambda: h.pread(512, SIZE - 511), "EINVAL"),
                          (lambda: h.pwrite(b"y" * 512, SIZE), "ENOSPC"),
                          (lambda: h.zero(512, SIZE), "ENOSPC"),
                          (lambda: h.trim(512, SIZE), "EINVAL"),
                          (lambda: status(SIZE, 512), "EINVAL"),
                          (lambda: h.pread(33 << 20, 0), "EINVAL"),
                          (lambda: h.pwrite(bytes(33 << 20), 0), "EINVAL")):
            with pytest.raises(nbd.Error) as e:
                call()
            assert e.value.errno == err
        assert h.pread(10, 3 << 20) == b"\7" * 10  # and goes on
        h.shutdown()


def test_read_only_exports_refuse_changes(tmp_path, image):
    with serve(tmp_path, NBD, "-t", "-r", "-f", "qcow2", image) as s:
        h = connect(s)
        h.set_strict_mode(0)
        for call in (lambda: h.pwrite(bytes(512), 0), lambda: h.zero(512, 0),
                     lambda: h.trim(512, 0)):
            with pytest.raises(nbd.Error) as e:
                call()
            assert e.value.errno == "EPERM"
        h.shutdown()


def test_zero_that_would_be_written_is_refused_when_it_must_be_fast(tmp_path):
    image = tmp_path / "a.vdi"  # a format that cannot zero a block that has data
    run(QEMU_IMG, "create", "-q", "-f", "raw", tmp_path / "a.raw", SIZE)
    run(QEMU_IO, "-f", "raw", "-c", f"write -q -P 5 0 {SIZE}", tmp_path / "a.raw")
    run(QEMU_IMG, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized",
        tmp_path / "a.raw", image)
    with serve(tmp_path, NBD, "-t", "-f", "vmdk", "-r", image) as s:
        h = connect(s)
        assert not h.can_fast_zero() and h.pread(4, 0) == b"\5" * 4
        h.shutdown()


def test_many_requests_in_flight_come_back_right(tmp_path):
    raw = tmp_path / "a.raw"
    content = random.Random(3).randbytes(SIZE)
    raw.write_bytes(content)
    with serve(tmp_path, NBD, "-t", "-f", "raw", raw) as s:
        h = connect(s)
        rng, waiting = random.Random(4), {}
        for _ in range(600):
            length = rng.choice((1, 512, 4096, 100000, 1 << 20))
            offset = rng.randrange(SIZE - length)
            buf = nbd.Buffer(length)
            waiting[h.aio_pread(buf, offset)] = (buf, offset, length)
        while waiting:
            h.poll(-1)
            for cookie in list(waiting):
                if h.aio_command_completed(cookie):
                    buf, offset, length = waiting.pop(cookie)
                    assert buf.to_bytearray() == content[offset:offset + length]
        h.shutdown()


def test_snapshot_option_keeps_the_image(tmp_path, image):
    before = image.read_bytes()
    with serve(tmp_path, NBD, "-t", "-s", "-f", "qcow2", image) as s:
        h = connect(s)
        assert h.pread(1, 512 << 10) == b"\3"
        h.pwrite(b"z" * 4096, 512 << 10)
        assert h.pread(4097, 512 << 10) == b"z" * 4096 + b"\3"
        h.shutdown()
    assert image.read_bytes() == before


@pytest.mark.parametrize("which", ["old", "1", "snapshot.name=old", "snapshot.id=1"])
def test_internal_snapshots(tmp_path, which):
    image = qcow2(tmp_path, commands=["write -q -P 1 0 64k"])
    run(QEMU_IMG, "snapshot", "-c", "old", image)
    run(QEMU_IO, "-c", "write -q -P 2 0 64k", image)
    for program in BOTH.values():
        with serve(tmp_path, program, "-t", "-l", which, "-f", "qcow2", image) as s:
            h = connect(s)
            assert h.is_read_only() and h.pread(2, 0) == b"\1\1"
            h.shutdown()


# ---- coming and going ---------------------------------------------------------------------

def test_ends_with_the_last_client_that_had_chosen_an_export(tmp_path, image):
    with serve(tmp_path, NBD, "-f", "qcow2", "-e", "2", image) as s:
        with socket.socket(socket.AF_UNIX) as scan:
            scan.settimeout(SECONDS)
            scan.connect(str(s.socket))
            assert scan.recv(8) == b"NBDMAGIC"
        a, b = connect(s), connect(s)
        a.shutdown()
        assert b.pread(1, 512 << 10) == b"\3"
        assert s.process.poll() is None
        b.shutdown()
        assert s.process.wait(SECONDS) == 0
        assert not s.socket.exists()


def test_fork_returns_when_clients_can_come(tmp_path, image):
    link = tmp_path / "qemu-nbd"
    link.symlink_to(NBD)
    done = run(link, "--fork", "-k", tmp_path / "s", "-f", "qcow2",
               f"--pid-file={tmp_path / 'pid'}", image)
    assert done.stderr == ""
    pid = int((tmp_path / "pid").read_text())
    assert os.path.exists(f"/proc/{pid}")
    h = nbd.NBD()
    h.connect_unix(str(tmp_path / "s"))
    assert h.pread(1, 512 << 10) == b"\3"
    h.shutdown()
    deadline = time.monotonic() + SECONDS
    while (tmp_path / "s").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_socket_activation(tmp_path, image):
    h = nbd.NBD()
    h.connect_systemd_socket_activation([NBD, "-f", "qcow2", str(image)])
    assert h.pread(1, 512 << 10) == b"\3"
    h.shutdown()


def test_tcp(tmp_path, image):
    for _ in range(20):  # somebody may take the port before the server does
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        done = run(NBD, "--fork", "-b", "127.0.0.1", "-p", port, "-f", "qcow2", "-x", "disk",
                   "--handshake-limit=0", image, ok=False)
        if done.returncode == 0:
            break
    assert "export-size: 8388608" in out("nbdinfo", f"nbd://127.0.0.1:{port}/disk")


# ---- clients that do not behave --------------------------------------------------------------

GREETING = 18


def handshake(s):
    c = socket.socket(socket.AF_UNIX)
    c.settimeout(SECONDS)
    c.connect(str(s.socket))
    assert len(c.recv(GREETING, socket.MSG_WAITALL)) == GREETING
    c.sendall(struct.pack(">I", 3))
    return c


def go(s):
    """A client in transmission, with simple replies."""
    c = handshake(s)
    c.sendall(struct.pack(">8sII", b"IHAVEOPT", 1, 0))
    assert len(c.recv(10, socket.MSG_WAITALL)) == 10
    return c


def request(kind, cookie, offset, length, flags=0):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length)


def ended(c):
    """The server closes, whatever it still says."""
    try:
        while c.recv(65536):
            pass
    except ConnectionError:
        pass
    c.close()


def test_clients_that_do_not_behave_hold_up_nobody(tmp_path):
    image = qcow2(tmp_path, commands=[f"write -q -P 9 0 {SIZE}"])
    with serve(tmp_path, NBD, "-t", "-e", "0", "-f", "qcow2", image) as s:
        silent = handshake(s)
        half = go(s)
        half.sendall(request(1, 1, 0, 1 << 20) + bytes(1000))  # data that never comes
        greedy = go(s)
        greedy.setblocking(False)
        try:  # asks and asks, and reads nothing
            for i in range(10000):
                greedy.sendall(request(0, i, 0, 4 << 20) * 20)
        except BlockingIOError:
            pass
        liar = handshake(s)
        liar.sendall(struct.pack(">8sII", b"IHAVEOPT", 7, 0xffffffff))
        wrong = go(s)
        wrong.sendall(b"\0" * 28)
        ended(wrong)
        badopt = handshake(s)
        badopt.sendall(b"\xff" * 64)
        ended(badopt)
        flags = socket.socket(socket.AF_UNIX)
        flags.settimeout(SECONDS)
        flags.connect(str(s.socket))
        flags.sendall(b"\xff\xff\xff\xff")
        ended(flags)
        with open(f"/proc/{s.process.pid}/status") as f:
            rss = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
        assert rss < 200 << 10, "KiB: a client that does not read is held back"
        h = connect(s)
        for _ in range(50):
            assert h.pread(4096, 123456) == b"\x09" * 4096
        h.shutdown()
        for c in (silent, half, greedy, liar):
            c.close()
        h = connect(s)
        h.shutdown()
        assert s.stop() == 0
    run(QEMU_IMG, "check", image)


def test_a_disconnect_with_requests_in_flight_answers_them(tmp_path):
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"q" * SIZE)
    with serve(tmp_path, NBD, "-t", "-f", "raw", raw) as s:
        c = go(s)
        c.sendall(b"".join(request(0, i, i * 4096, 4096) for i in range(50)) + request(2, 0, 0, 0))
        got = b""
        while part := c.recv(1 << 20):
            got += part
        assert len(got) == 50 * (16 + 4096)
        cookies = {struct.unpack(">Q", got[i * 4112 + 8:i * 4112 + 16])[0] for i in range(50)}
        assert cookies == set(range(50))


def test_handshakes_have_a_time(tmp_path, image):
    with serve(tmp_path, NBD, "-t", "--handshake-limit=1", "-f", "qcow2", image) as s:
        slow = handshake(s)
        ended(slow)
        assert s.process.poll() is None


# ---- messages -----------------------------------------------------------------------------

WRONG = [
    [], ["--bogus"], ["-Z"], ["-p"], ["-p", "abc", "a.qcow2"], ["-e", "-1", "x"],
    ["-e", "abc", "x"], ["-k", "rel", "x"], ["x"], ["-f", "qcow2", "a.raw"], ["-o", "abc", "x"],
    ["-o", "-5", "x"], ["-o", "999999999999", "-k", "SOCK", "-f", "qcow2", "a.qcow2"],
    ["-n", "--cache=none", "x"], ["--cache=foo", "x"], ["--aio=foo", "x"],
    ["--aio=native", "-k", "SOCK", "-f", "qcow2", "a.qcow2"], ["--discard=foo", "x"],
    ["--detect-zeroes=foo", "x"], ["--detect-zeroes=unmap", "x"], ["a", "b"], ["-L", "a"],
    ["-L", "-o", "5"], ["-L", "-c", "/dev/x"], ["-c", "/dev/nbdx", "a.qcow2"],
    ["-d", "/dev/nbdx"], ["-s", "-k", "SOCK", "nofile"],
    ["-l", "foo", "-k", "SOCK", "-f", "qcow2", "a.qcow2"], ["-l", "snapshot.foo=1", "a.qcow2"],
    ["-B", "nob", "-k", "SOCK", "-f", "qcow2", "a.qcow2"], ["--tls-creds=x", "a.qcow2"],
    ["--tls-authz=x", "a.qcow2"], ["--object", "foo", "a"], ["--object", "secret,id=x", "a"],
    ["-x", "x" * 5000, "a"], ["-D", "x" * 5000, "a"], ["--image-opts", "-f", "raw", "x"],
    ["--image-opts", "-k", "SOCK", "driver=foo,x=y"], ["-k", "/nonexistent/s", "a.qcow2"],
    ["--pid-file=/nonexistent/x", "-k", "SOCK", "-f", "qcow2", "a.qcow2"],
    ["-b", "203.0.113.5", "a.qcow2"], ["--fork", "-k", "SOCK", "nofile"], ["-n", "-n", "x"],
    ["-b", "999.1.1.1", "a.qcow2"], ["-f", "nofmt", "-k", "SOCK", "a.qcow2"],
]


@pytest.mark.parametrize("argv", WRONG, ids=lambda a: " ".join(a)[:40])
def test_messages_are_the_same(tmp_path, argv):
    qcow2(tmp_path)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    link = tmp_path / "qemu-nbd"
    link.symlink_to(NBD)
    if argv and not {"SOCK", "-p", "-b", "-L", "-c", "-d", "-k"} & set(argv):
        argv = ["-k", "SOCK", *argv]  # the usual port is one for all tests
    argv = [str(tmp_path / "sock") if a == "SOCK" else a for a in argv]
    results = []
    for program in (QEMU_NBD, link):
        done = subprocess.run([program, *argv], capture_output=True, text=True, cwd=tmp_path,
                              timeout=SECONDS, stdin=subprocess.DEVNULL)
        results.append((done.stdout, done.stderr, done.returncode))
    assert results[0] == results[1]
