"""
Power cuts under vdi, vmdk, vpc and vhdx images, as test_power_cut.py makes them for qcow2:
what was flushed is there, and what the image's program cannot know it says so or repairs.
"""
import random

import pytest

import pairs
from images import IMG, IO, QEMU_IMG, Model, run
from test_power_cut import DISCARD, FLUSH, SECTOR, apply, batch, entries

SHAPES = {
    "vdi": ("vdi", "", 1 << 20),
    "vpc": ("vpc", "force_size=on", 2 << 20),
    "vmdk": ("vmdk", "", 65536),
    "vmdk-zeroed": ("vmdk", "zeroed_grain=on", 65536),
    "vhdx": ("vhdx", "block_size=1M", 1 << 20),
}
CUTS = 12


def disks_after_cuts(before, log, rng):
    """As there, but of what was not flushed whole writes or nothing: an entry of a log or a
    table that is there, while the data that was written before it is not."""
    log = list(log)
    safe, loose = bytearray(before), []
    flushes = [i for i, e in enumerate(log) if e[0] & FLUSH]
    # Most of all just before a flush: then there is something to lose.
    cuts = set(rng.sample(flushes, min(CUTS, len(flushes))) +
               rng.sample(range(len(log)), min(CUTS // 2, len(log))))
    for i, (flags, offset, data) in enumerate(log):
        if i in cuts:
            disk = bytearray(safe)
            for n, (at, piece) in enumerate(loose):
                if rng.random() < 0.5 or n == len(loose) - 1:  # the last one is there
                    apply(disk, at, piece)
            yield disk
        if flags & FLUSH:
            for change in loose:
                apply(safe, *change)
            loose = []
        elif not flags & DISCARD:
            loose.append((offset, data))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_cut_hurts(tmp_path, shape):
    fmt, options, unit = SHAPES[shape]
    image, log, cut, raw = (tmp_path / n for n in (f"a.{fmt}", "log", "cut", "raw"))
    rng = random.Random(shape)
    model = Model(4 << 20, shape)
    pairs.create(IMG, fmt, options, image, len(model.data))
    for turn in range(3):
        before, old = image.read_bytes(), bytes(model.data)
        commands, touched = batch(model, min(unit, 300 << 10))
        log.write_bytes(b"")
        name = (f"driver={fmt},discard=unmap,file.driver=blklogwrites,"
                f"file.file.driver=file,file.file.filename={image},"
                f"file.log.driver=file,file.log.filename={log}")
        # The compressed writes of the batch are no business of these formats.
        argv = [a for c in commands for a in ("-c", c.replace(" -c ", " "), "-c", "flush")]
        run(IO, "-t", "writeback", "--image-opts", *argv, name)
        for n, disk in enumerate(disks_after_cuts(before, entries(log), rng)):
            cut.write_bytes(disk)
            if fmt != "vpc":
                repair = ["-r", "all"] if fmt in ("vdi", "vhdx") else []
                done = run(IMG, "check", "-f", fmt, *repair, cut, ok=False)
                assert done.returncode == 0, (turn, n, done.stdout, done.stderr)
            reader = (IMG, QEMU_IMG)[n % 2]
            run(reader, "convert", "-f", fmt, "-O", "raw", cut, raw)
            now = raw.read_bytes()
            wrong = [i for i in range(0, len(old), SECTOR)
                     if not touched[i] and now[i:i + SECTOR] != old[i:i + SECTOR]]
            assert not wrong, (turn, n, wrong[:5])
