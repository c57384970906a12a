"""luks against Debian's qemu-img and qemu-io, in both directions."""
import json
import os
import random
import re

import pytest

from images import IMG, IO, QEMU_IMG, QEMU_IO, out, run

SECRET = ["--object", "secret,id=sec0,data=first"]
OTHERS = ["--object", "secret,id=sec1,data=second", "--object", "secret,id=sec2,data=third"]
SIZE = (4 << 20) + 1536
FAST = "key-secret=sec0,iter-time=10"

SPECS = [
    "",
    "cipher-alg=aes-128",
    "cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1",
    "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
    "cipher-mode=ecb,hash-alg=ripemd160",
    "cipher-mode=ctr,hash-alg=md5",
]


def node(image, secret="sec0"):
    return f"driver=luks,key-secret={secret},file.filename={image}"


def create(tool, image, spec="", size=SIZE):
    """QEMU refuses to when the time that it measures is too short."""
    for _ in range(20):
        done = run(tool, "create", "-q", "-f", "luks", *SECRET, "-o",
                   FAST + ("," + spec if spec else ""), image, size, ok=False)
        if "accurate CPU usage" not in done.stderr:
            assert done.returncode == 0, done.stderr
            return
    pytest.skip("QEMU's tool cannot measure time on this machine now")


def fio(tool, image, commands, secret="sec0", ok=True):
    argv = [tool, *SECRET, *OTHERS]
    for c in commands:
        argv += ["-c", c]
    done = run(*argv, "--image-opts", node(image, secret), ok=ok)
    assert "failed" not in done.stdout, done.stdout
    return done


@pytest.mark.parametrize("maker,user,spec", [(IMG, QEMU_IO, s) for s in SPECS] +
                         [(QEMU_IMG, IO, s) for s in SPECS[:3]])
def test_what_one_writes_the_other_reads(tmp_path, maker, user, spec):
    image, rnd = tmp_path / "a.luks", random.Random(spec)
    create(maker, image, spec)
    data = bytearray(SIZE)
    fill = [f"write -P 1 0 {SIZE}"]
    data[:] = b"\1" * SIZE
    other = IO if user == QEMU_IO else QEMU_IO
    fio(other, image, fill)
    for _ in range(10):
        at = rnd.randrange(SIZE - 70000)
        n, pattern = rnd.randrange(1, 70000), rnd.randrange(256)
        if rnd.randrange(2):
            at, n = at // 512 * 512, (n + 511) // 512 * 512
        fio(rnd.choice([user, other]), image, [f"write -P {pattern} {at} {n}"])
        data[at:at + n] = bytes([pattern]) * n
    for tool in (IMG, QEMU_IMG):
        plain = tmp_path / "plain"
        run(tool, "convert", *SECRET, "-O", "raw", "--image-opts", node(image), plain)
        assert plain.read_bytes() == data
    assert not re.search(b"\1{64}", image.read_bytes()[2 << 20:])


def test_a_key_that_qemu_cannot_split(tmp_path):
    """Its length times 4000 is no multiple of 512."""
    image = tmp_path / "a.luks"
    create(IMG, image, "cipher-alg=aes-192,cipher-mode=cbc,ivgen-alg=plain,iter-time=0")
    fio(IO, image, [f"write -P 1 0 {SIZE}", "write -P 2 5000 3000"])
    fio(IO, image, ["read -P 1 0 5000", "read -P 2 5000 3000", "read -P 1 8000 1M"])


@pytest.mark.parametrize("spec", SPECS)
def test_reports(tmp_path, spec):
    image = tmp_path / "a.luks"
    create(IMG, image, spec)
    for more in ([], ["--output=json"]):
        assert out(IMG, "info", *more, image) == out(QEMU_IMG, "info", *more, image)
    assert json.loads(out(IMG, "info", "--output=json", image))["encrypted"] is True


def amend(tool, image, options, secret="sec0", force=False):
    return run(tool, "amend", *(["--force"] if force else []), *SECRET, *OTHERS,
               "--image-opts", node(image, secret), "-o", options, ok=False)


def test_keyslots(tmp_path):
    image = tmp_path / "a.luks"
    create(IMG, image)
    fio(IO, image, ["write -P 5 0 1M"])
    assert amend(IMG, image, "state=active,new-secret=sec1,iter-time=10").returncode == 0
    assert amend(IMG, image, "state=active,new-secret=sec2,keyslot=5,iter-time=10",
                 secret="sec1").returncode == 0
    slots = json.loads(out(QEMU_IMG, "info", "--output=json", image))
    slots = slots["format-specific"]["data"]["slots"]
    assert [s["active"] for s in slots] == [True, True, False, False, False, True, False, False]
    for secret in ("sec0", "sec1", "sec2"):
        fio(QEMU_IO, image, ["read -P 5 0 1M"], secret)
    assert amend(IMG, image, "state=inactive,old-secret=sec0", secret="sec2").returncode == 0
    done = fio(IO, image, ["read 0 512"], ok=False)
    assert done.returncode and "Invalid password, cannot unlock any keyslot" in done.stderr
    assert amend(IMG, image, "state=inactive,keyslot=1", secret="sec2").returncode == 0
    fio(QEMU_IO, image, ["read -P 5 0 1M"], "sec2")
    assert amend(IMG, image, "state=inactive,keyslot=5", secret="sec2").returncode == 1
    assert amend(IMG, image, "state=inactive,keyslot=5", secret="sec2",
                 force=True).returncode == 0
    assert fio(QEMU_IO, image, ["read 0 512"], "sec2", ok=False).returncode


@pytest.mark.parametrize("options", [
    "state=active,new-secret=sec1,keyslot=0",
    "state=active,new-secret=sec1,keyslot=9",
    "state=active,new-secret=none",
    "state=active",
    "state=inactive",
    "state=inactive,keyslot=5",
    "state=inactive,keyslot=0,old-secret=sec1",
    "state=inactive,old-secret=sec1",
    "state=inactive,old-secret=sec0",
    "state=inactive,keyslot=0",
    "state=inactive,keyslot=0,new-secret=sec1",
    "state=inactive,keyslot=0,iter-time=9",
    "state=other",
    "new-secret=sec1",
    "colour=red",
])
def test_refused_changes_are_refused_alike(tmp_path, options):
    image = tmp_path / "a.luks"
    create(IMG, image)
    before = image.read_bytes()
    results = [amend(tool, image, options) for tool in (IMG, QEMU_IMG)]
    words = [r.stderr.replace("lodge-img", "qemu-img") for r in results]
    assert words[0] == words[1] and results[0].returncode == results[1].returncode == 1
    assert image.read_bytes() == before


@pytest.mark.parametrize("options", [
    "iter-time=10", "key-secret=none,iter-time=10",
    "key-secret=sec0,cipher-alg=rot13", "key-secret=sec0,hash-alg=sum",
    "key-secret=sec0,cipher-mode=none",
])
def test_refused_options_are_refused_alike(tmp_path, options):
    done = [run(tool, "create", "-q", "-f", "luks", *SECRET, "-o", options,
                tmp_path / "x.luks", "1M", ok=False) for tool in (IMG, QEMU_IMG)]
    words = [d.stderr.replace("lodge-img", "qemu-img") for d in done]
    assert words[0] == words[1] and done[0].returncode == done[1].returncode == 1


def test_wrong_and_missing_passphrases(tmp_path):
    image = tmp_path / "a.luks"
    create(IMG, image)
    for opts, words in ((node(image, "sec1"), "Invalid password, cannot unlock any keyslot"),
                        (node(image, "sec9"), "No secret with id 'sec9'"),
                        (f"driver=luks,file.filename={image}",
                         "Parameter 'key-secret' is required for cipher")):
        for tool in (IMG, QEMU_IMG):
            done = run(tool, "map", *SECRET, *OTHERS, "--image-opts", opts, ok=False)
            assert done.returncode == 1 and words in done.stderr


def test_convert_to_luks_and_resize(tmp_path):
    raw, image, back = tmp_path / "raw", tmp_path / "a.luks", tmp_path / "back"
    data = bytearray(random.Random(4).randbytes(3 << 20))
    data[1 << 20:2 << 20] = bytes(1 << 20)
    raw.write_bytes(data)
    run(IMG, "convert", *SECRET, "-O", "luks", "-o", FAST, raw, image)
    run(QEMU_IMG, "convert", *SECRET, "-O", "raw", "--image-opts", node(image), back)
    assert back.read_bytes() == data
    run(IMG, "resize", *SECRET, "--image-opts", node(image), "+1M")
    assert json.loads(out(QEMU_IMG, "info", "--output=json", image))["virtual-size"] == 4 << 20
    fio(QEMU_IO, image, ["write -P 3 3M 1M"])
    fio(IO, image, ["read -P 3 3M 1M"])
    # The header's 2068480 bytes: what QEMU says, when it can measure the time.
    assert out(IMG, "measure", *SECRET, "-O", "luks", "-o", FAST, "--size", "1G") == \
        "required size: 1075810304\nfully allocated size: 1075810304\n"


def test_a_detached_header(tmp_path):
    header, disk = tmp_path / "header.luks", tmp_path / "disk"
    run(IMG, "create", "-q", "-f", "luks", *SECRET, "-o", FAST + ",detached-header=on",
        header, "1M")
    disk.write_bytes(bytes(1 << 20))
    opts = f"driver=luks,key-secret=sec0,header.filename={header},file.filename={disk}"
    run(IO, *SECRET, "-c", "write -P 9 0 1M", "--image-opts", opts)
    assert "verification failed" not in out(IO, *SECRET, "-c", "read -P 9 0 1M",
                                            "--image-opts", opts)
    assert disk.stat().st_size == 1 << 20 and b"\x09" * 16 not in disk.read_bytes()


HOSTILE = {
    "version": (6, b"\0\3"), "key length 0": (108, b"\0\0\0\0"),
    "key length huge": (108, b"\xff\xff\xff\xff"), "cipher name": (8, b"x" * 32),
    "cipher mode": (40, b"xts" + bytes(29)), "ivgen": (40, b"xts-what" + bytes(24)),
    "essiv without hash": (40, b"cbc-essiv" + bytes(23)), "hash": (72, b"sum" + bytes(29)),
    "payload in the slots": (104, b"\0\0\0\x10"), "payload past the end": (104, b"\x7f" + b"\xff" * 3),
    "digest iterations": (164, bytes(4)), "uuid": (168, b"u" * 40),
    "slot state": (208, b"\1\2\3\4"), "slot iterations": (212, bytes(4)),
    "slot stripes": (252, b"\0\0\0\1"), "slot in the header": (248, bytes(4)),
    "slots overlap": (248 + 48, b"\0\0\0\x10"), "slot past the end": (248, b"\xff" * 4),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers(tmp_path, what):
    image = tmp_path / "a.luks"
    create(IMG, image)
    data = bytearray(image.read_bytes())
    at, value = HOSTILE[what]
    data[at:at + len(value)] = value
    image.write_bytes(data)
    for argv in ([IMG, "convert", *SECRET, "-O", "raw", "--image-opts", node(image),
                  tmp_path / "out"],
                 [IO, *SECRET, "-c", "write 0 512", "--image-opts", node(image)]):
        done = run(*argv, ok=False)
        assert done.returncode == 1 and done.stderr.startswith("lodge-")
    assert image.read_bytes() == data


@pytest.mark.parametrize("length", [0, 8, 591, 592, 4096, 200000, 2068479])
def test_truncated_images(tmp_path, length):
    image = tmp_path / "a.luks"
    create(IMG, image)
    os.truncate(image, length)
    done = run(IMG, "convert", *SECRET, "-O", "raw", "--image-opts", node(image),
               tmp_path / "out", ok=False)
    assert done.returncode == 1 and done.stderr
