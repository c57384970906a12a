"""
Power cuts. A log of every write and flush below the image (blklogwrites) says what a disk
may hold when power fails at any moment: all that was written before the last flush, and of
what came later any part. Each such disk must be an image that checks clean or has leaks
only, and must still hold what the guest had flushed.
"""
import random
import struct

import pytest

from images import IMG, IO, QEMU_IMG, Model, run

SECTOR = 512
FLUSH, DISCARD = 1, 4
SHAPES = {
    "512": "cluster_size=512",
    "4k": "cluster_size=4096,refcount_bits=64",
    "extl2": "cluster_size=16384,extended_l2=on",
    "v2": "cluster_size=512,compat=0.10",
    "lazy": "cluster_size=512,lazy_refcounts=on",
}


def entries(path):
    log = path.read_bytes()
    count = struct.unpack_from("<Q", log, 16)[0]
    at = SECTOR
    for _ in range(count):
        sector, nr, flags, length = struct.unpack_from("<4Q", log, at)
        at += SECTOR
        yield flags, sector * SECTOR, log[at:at + length]
        at += length


def apply(disk, offset, data):
    if len(disk) < offset + len(data):
        disk.extend(bytes(offset + len(data) - len(disk)))
    disk[offset:offset + len(data)] = data


def disks_after_cuts(before, log, rng, most):
    """Disks as they may be when power fails at some moment while the log was made."""
    log = list(log)
    safe = bytearray(before)
    loose = []
    cuts = set(rng.sample(range(len(log) + 1), min(most, len(log) + 1)))
    for i in range(len(log) + 1):
        if i in cuts:
            disk = bytearray(safe)
            for offset, data in loose:
                for s in range(0, len(data), SECTOR):  # a sector is whole or not there
                    if rng.random() < 0.5:
                        apply(disk, offset + s, data[s:s + SECTOR])
            yield disk
        if i < len(log):
            flags, offset, data = log[i]
            if flags & FLUSH:
                for change in loose:
                    apply(safe, *change)
                loose = []
            elif not flags & DISCARD:
                loose.append((offset, data))


def batch(model, unit):
    """Commands, and which bytes they touch."""
    touched = bytearray(len(model.data))
    commands = []
    for _ in range(10):
        command = model.command(unit, compressed=True)
        commands.append(command)
        numbers = [int(w) for w in command.split() if w.isdigit()]
        if len(numbers) >= 2:
            start, length = numbers[-2:]
            touched[start:start + length] = b"\1" * length
    return commands, touched


def cut_often(tmp_path, shape, turns):
    """How many disks were looked at."""
    image, log, cut, raw = (tmp_path / n for n in ("a.qcow2", "log", "cut", "raw"))
    rng = random.Random(shape)
    model = Model(300 << 10, shape)
    unit = int(SHAPES[shape].split("=")[1].split(",")[0])
    run(IMG, "create", "-q", "-f", "qcow2", "-o", SHAPES[shape], image, len(model.data))
    cuts = 0
    for turn in range(turns):
        before, old = image.read_bytes(), bytes(model.data)
        commands, touched = batch(model, unit)
        log.write_bytes(b"")
        name = (f"driver=qcow2,discard=unmap,file.driver=blklogwrites,"
                f"file.file.driver=file,file.file.filename={image},"
                f"file.log.driver=file,file.log.filename={log}")
        argv = [a for c in [*commands, "flush"] for a in ("-c", c)]
        run(IO, "-t", "writeback", "--image-opts", *argv, name)
        if turn == 2:
            run(IMG, "snapshot", "-c", "s", image)
        for disk in disks_after_cuts(before, entries(log), rng, 40):
            cut.write_bytes(disk)
            for tool in (IMG, QEMU_IMG) if cuts % 8 == 0 else (IMG,):
                done = run(tool, "check", *(["-r", "all"] if shape == "lazy" else []), cut,
                           ok=False)
                assert done.returncode in (0, 3), (turn, done.stdout, done.stderr)
            run(IMG, "convert", cut, raw)
            now = raw.read_bytes()
            wrong = [i for i in range(0, len(old), SECTOR)
                     if not touched[i] and now[i:i + SECTOR] != old[i:i + SECTOR]]
            assert not wrong, (turn, wrong[:5])
            cuts += 1
    return cuts


@pytest.mark.parametrize("shape", SHAPES)
def test_no_cut_hurts(tmp_path, shape):
    assert cut_often(tmp_path, shape, 5) > 100


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_no_cut_of_thousands_hurts(tmp_path, shape):
    assert cut_often(tmp_path, shape, 60) > 1500
