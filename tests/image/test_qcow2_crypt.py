"""Encrypted qcow2 images against Debian's qemu-img and qemu-io, in both directions."""
import json
import random
import struct

import pytest

from images import IMG, IO, QEMU_IMG, QEMU_IO, out, run

SECRETS = ["--object", "secret,id=sec0,data=first", "--object", "secret,id=sec1,data=second"]
LUKS = "encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10"
AES = "encrypt.format=aes,encrypt.key-secret=sec0"
SHAPES = {
    "luks": LUKS,
    "luks-512": LUKS + ",cluster_size=512",
    "luks-2M": LUKS + ",cluster_size=2M",
    "luks-subclusters": LUKS + ",extended_l2=on",
    "luks-v2": LUKS + ",compat=0.10",
    "luks-metadata": LUKS + ",preallocation=metadata",
    "luks-cbc": LUKS + ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.cipher-alg=aes-128",
    "aes": AES,
    "aes-old": "encryption=on,encrypt.key-secret=sec0,cluster_size=4096",
}
SIZE = 8 << 20


def node(image, secret="sec0", more=""):
    return f"driver=qcow2,encrypt.key-secret={secret},file.filename={image}{more}"


def create(tool, image, options, size=SIZE, *more):
    for _ in range(20):
        done = run(tool, "create", "-q", "-f", "qcow2", *SECRETS, "-o", options, *more, image,
                   size, ok=False)
        if "accurate CPU usage" not in done.stderr:
            assert done.returncode == 0, done.stderr
            return
    pytest.skip("QEMU's tool cannot measure time on this machine now")


def opts(tool, *argv, ok=True):
    return run(tool, argv[0], *SECRETS, *argv[1:], ok=ok)


def fio(tool, image, commands, secret="sec0"):
    argv = [tool, *SECRETS]
    for c in commands:
        argv += ["-c", c]
    done = run(*argv, "--image-opts", node(image, secret))
    assert "failed" not in done.stdout, done.stdout


def content(tool, image, plain):
    opts(tool, "convert", "-O", "raw", "--image-opts", node(image), plain)
    return plain.read_bytes()


@pytest.mark.parametrize("maker", [IMG, QEMU_IMG])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_operations_by_turns(tmp_path, maker, shape):
    image, rnd, data = tmp_path / "a.qcow2", random.Random(shape), bytearray(SIZE)
    create(maker, image, SHAPES[shape])
    prealloc = "metadata" in shape
    if prealloc:  # what was not written decrypts to noise
        fio(IO, image, [f"write -z 0 {SIZE}"])
    for turn in range(6):
        commands = []
        for _ in range(4):
            at = rnd.randrange(SIZE - 300000) // 512 * 512
            n, pattern = rnd.randrange(1, 600) * 512, rnd.randrange(256)
            if rnd.randrange(4) == 0 and "v2" not in shape:
                commands.append(f"write -z {at} {n}")
                data[at:at + n] = bytes(n)
            else:
                commands.append(f"write -P {pattern} {at} {n}")
                data[at:at + n] = bytes([pattern]) * n
        fio((IO, QEMU_IO)[turn % 2], image, commands)
    for tool in (IMG, QEMU_IMG):
        assert content(tool, image, tmp_path / "plain") == data
        opts(tool, "check", "--image-opts", node(image))


def test_a_write_of_some_bytes(tmp_path):
    image = tmp_path / "a.qcow2"
    create(IMG, image, LUKS)
    fio(IO, image, ["write -P 1 0 100000", "write -P 2 1001 3003", "write -P 3 70000 7"])
    fio(QEMU_IO, image, ["read -P 1 0 512", "read -P 2 1024 2560", "read -P 1 4096 60000"])
    fio(IO, image, ["read -P 1 0 1001", "read -P 2 1001 3003", "read -P 3 70000 7",
                    "read -P 1 70007 29993", "read -P 0 100000 1M"])


@pytest.mark.parametrize("shape", ["luks", "aes", "luks-cbc"])
def test_nothing_of_the_guest_is_in_the_file(tmp_path, shape):
    image, text = tmp_path / "a.qcow2", tmp_path / "text"
    text.write_bytes(b"a secret of the guest's, " * 40000)
    opts(IMG, "convert", "-O", "qcow2", "-o", SHAPES[shape], text, image)
    assert b"secret of" not in image.read_bytes()
    assert content(QEMU_IMG, image, tmp_path / "plain")[:1000000] == text.read_bytes()[:1000000]


@pytest.mark.parametrize("shape", ["luks", "aes", "luks-cbc", "luks-512"])
def test_reports(tmp_path, shape):
    image = tmp_path / "a.qcow2"
    create(IMG, image, SHAPES[shape])
    for more in ([], ["--output=json"]):
        assert out(IMG, "info", *more, image) == out(QEMU_IMG, "info", *more, image)
    assert json.loads(out(IMG, "info", "--output=json", image))["encrypted"] is True


@pytest.mark.parametrize("options", [
    "encrypt.format=foo,encrypt.key-secret=sec0", "encrypt.key-secret=sec0",
    "encrypt.format=luks,encrypt.iter-time=10", "encrypt.format=aes", "encryption=on",
    "encryption=on,encrypt.format=aes,encrypt.key-secret=sec0",
    AES + ",encrypt.cipher-alg=aes-256",
    "encrypt.format=luks,encrypt.key-secret=none,encrypt.iter-time=10",
])
def test_refused_options_are_refused_alike(tmp_path, options):
    done = [run(tool, "create", "-q", "-f", "qcow2", *SECRETS, "-o", options,
                tmp_path / "x", "1M", ok=False) for tool in (IMG, QEMU_IMG)]
    words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
    assert words[0] == words[1] and done[0].returncode == done[1].returncode == 1


def test_wrong_keys_are_refused_alike(tmp_path):
    image, plain = tmp_path / "a.qcow2", tmp_path / "plain.qcow2"
    create(IMG, image, LUKS)
    run(IMG, "create", "-q", "-f", "qcow2", plain, "1M")
    for argv in (["map", image], ["map", "--image-opts", node(image, "sec1")],
                 ["map", "--image-opts", node(image, "none")],
                 ["map", "--image-opts", node(image, more=",encrypt.format=aes")],
                 ["map", "--image-opts", node(plain, more=",encrypt.format=luks")],
                 ["convert", "-c", "-O", "qcow2", "-o", LUKS, plain, tmp_path / "y"],
                 ["amend", "-o", "encrypt.state=active,encrypt.new-secret=sec1", plain]):
        done = [opts(tool, *argv, ok=False) for tool in (IMG, QEMU_IMG)]
        words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
        assert words[0] == words[1] and done[0].returncode == done[1].returncode == 1


def test_keyslots(tmp_path):
    image = tmp_path / "a.qcow2"
    create(QEMU_IMG, image, LUKS)
    fio(IO, image, ["write -P 5 0 1M"])
    opts(IMG, "amend", "--image-opts", node(image), "-o",
         "encrypt.state=active,encrypt.new-secret=sec1,encrypt.iter-time=10")
    fio(QEMU_IO, image, ["read -P 5 0 1M"], "sec1")
    opts(IMG, "amend", "--image-opts", node(image, "sec1"), "-o",
         "encrypt.state=inactive,encrypt.old-secret=sec0")
    assert opts(QEMU_IMG, "map", "--image-opts", node(image), ok=False).returncode == 1
    fio(QEMU_IO, image, ["read -P 5 0 1M"], "sec1")
    opts(QEMU_IMG, "check", "--image-opts", node(image, "sec1"))


@pytest.mark.parametrize("shape", ["luks", "aes"])
def test_snapshots_backing_files_and_resizing(tmp_path, shape):
    base, image = tmp_path / "base.raw", tmp_path / "a.qcow2"
    base.write_bytes(b"\7" * SIZE)
    create(IMG, image, SHAPES[shape], SIZE, "-b", base, "-F", "raw")
    fio(IO, image, ["write -P 1 0 1M", "write -P 2 3000000 1000"])
    opts(IMG, "snapshot", "-c", "one", "--image-opts", node(image))
    fio(QEMU_IO, image, ["write -P 3 512k 1M", "read -P 2 3000320 500"])
    opts(IMG, "resize", "--image-opts", node(image), "+1M")
    fio(QEMU_IO, image, [f"read -P 0 {SIZE} 1M", "read -P 7 4M 1M", "read -P 1 0 512k"])
    opts(IMG, "snapshot", "-a", "one", "--image-opts", node(image))
    fio(QEMU_IO, image, ["read -P 1 0 1M", "read -P 2 3000320 500", "read -P 7 4M 1M"])
    for tool in (IMG, QEMU_IMG):
        opts(tool, "check", "--image-opts", node(image))


@pytest.mark.parametrize("at,value", [
    (32, struct.pack(">I", 3)), (32, struct.pack(">I", 1)), (32, struct.pack(">I", 0)),
    ("offset", struct.pack(">Q", 513)), ("offset", struct.pack(">Q", 1 << 62)),
    ("length", struct.pack(">Q", 1 << 62)), ("length", bytes(8)),
])
def test_hostile_headers(tmp_path, at, value):
    image = tmp_path / "a.qcow2"
    create(IMG, image, LUKS)
    data = bytearray(image.read_bytes())
    ext = data.index(struct.pack(">II", 0x0537be77, 16)) + 8
    at = {"offset": ext, "length": ext + 8}.get(at, at)
    data[at:at + len(value)] = value
    image.write_bytes(data)
    done = run(IO, *SECRETS, "-c", "write 0 512", "--image-opts", node(image), ok=False)
    if not (at == 32 and value[3] < 2):
        assert done.returncode == 1 and done.stderr.startswith("lodge-io: ")
        assert image.read_bytes() == data
