"""Damaged images of any format: whatever is done with them ends soon, in little memory."""
import random
import resource
import signal
import subprocess

import vm
from images import IMG, IO, QEMU_IMG, run

MEMORY = 1 << 30
SECONDS = 60
VALUES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0",
          b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7)


def limited():
    if vm.TREE == "release":  # sanitizers map more than they use
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the call fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


def attempt(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          errors="replace", timeout=SECONDS, preexec_fn=limited)
    assert done.returncode in (0, 1, 2, 3, 63), (argv, done.returncode, done.stderr)
    return done


def use(image, fmt):
    """Reading changes nothing; writing and repairing end."""
    data = image.read_bytes()
    done = attempt(IMG, "info", "-f", fmt, image)
    if done.returncode == 0:
        attempt(IMG, "check", "-f", fmt, image)
        attempt(IMG, "map", "--output=json", "-f", fmt, "-l", "256M", image)
        attempt(IO, "-r", "-f", fmt, "-c", "read 0 64k", "-c", "read 1M 1M", image)
        assert image.read_bytes() == data
        attempt(IO, "-f", fmt, "-c", "write -P 9 0 64k", "-c", "write 1M 64k",
                "-c", "write -z 2M 1M", "-c", "flush", image)
        attempt(IMG, "check", "-f", fmt, "-r", "all", image)
    else:
        assert str(image) in done.stderr, done.stderr
        assert image.read_bytes() == data


def attack(image, fmt, places, seed, rounds=16):
    """Bytes at @places of the file are changed, then it is cut short."""
    rng = random.Random(f"{fmt}{seed}")
    good = image.read_bytes()
    places = [p for p in places if p < len(good)]
    for _ in range(rounds):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 3)):
            at = rng.choice(places)
            value = rng.choice((*VALUES, bytes([data[at] ^ 1 << rng.randrange(8)])))
            data[at:at + len(value)] = value
        image.write_bytes(data)
        use(image, fmt)
    for cut in (0, 1, 511, 512, 1024, 2048, len(good) // 2, len(good) - 1):
        image.write_bytes(good[:cut])
        use(image, fmt)


def refused_alike(image, fmt, at, patch):
    """@patch at byte @at of the image: both tools say the same, and leave it alone."""
    data = bytearray(image.read_bytes())
    data[at:at + len(patch)] = patch
    image.write_bytes(data)
    for command in ("info", "check", "map"):
        done = attempt(IMG, command, "-f", fmt, image)
        theirs = run(QEMU_IMG, command, "-f", fmt, image, ok=False)
        assert done.returncode == theirs.returncode == 1
        assert done.stderr.split(": ", 1)[1] == theirs.stderr.split(": ", 1)[1]
    assert image.read_bytes() == bytes(data)
