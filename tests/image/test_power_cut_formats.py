"""
Power cuts in images without refcounts: what may be left on a disk checks clean or with
lost space only, and holds what the guest had flushed.
"""
import random

import pytest

from images import IMG, IO, QEMU_IMG, Model, run
from test_power_cut import batch, disks_after_cuts, entries

SHAPES = {
    "qed": ("cluster_size=4096,table_size=2", 4096),
    "qcow": ("", 4096),
    "parallels": ("cluster_size=4k", 4096),
    "vdi": ("", 1 << 20),
    "vpc": ("force_size=on", 2 << 20),
    "vmdk": ("", 65536),
    "vhdx": ("block_size=1M", 1 << 20),
}
KINDS = [*((fmt, False) for fmt in SHAPES), ("qed", True), ("qcow", True)]
NO_CHECK = ("qcow", "vpc")  # nothing counts what is in use, so there is nothing to check
MARKED = ("parallels", "vhdx")  # a writer's mark is an error until it is taken away


def sound(fmt, image):
    if fmt in NO_CHECK:
        return
    for tool in (IMG, QEMU_IMG):
        argv = ["-r", "all"] if fmt in MARKED else []
        done = run(tool, "check", "-f", fmt, *argv, image, ok=False)
        if fmt == "vdi" and done.returncode == 2:
            # The header counts the blocks, in another sector than the map: one of the two
            # is written first, whichever. Nobody reads by the count.
            assert "1 errors were found" in done.stdout, (tool, done.stdout, done.stderr)
            assert "blocks mismatch" in done.stderr, (tool, done.stdout, done.stderr)
            continue
        assert done.returncode in (0, 3), (tool, done.stdout, done.stderr)


def cut_often(tmp_path, fmt, backing, rounds):
    """How many disks were looked at."""
    options, unit = SHAPES[fmt]
    image, log, cut, raw = (tmp_path / n for n in ("a", "log", "cut", "raw"))
    rng = random.Random(f"{fmt}{backing}")
    model = Model(3 << 20, fmt)
    base = []
    if backing:
        model.data[:] = model.random.randbytes(len(model.data))
        model.save(tmp_path / "base")
        base = ["-b", tmp_path / "base", "-F", "raw"]
    run(IMG, "create", "-q", "-f", fmt, *base, *(["-o", options] if options else []), image,
        len(model.data))
    cuts = 0
    for _ in range(rounds):
        before, old = image.read_bytes(), bytes(model.data)
        commands, touched = batch(model, unit)
        commands = [c.replace("write -q -c", "write -q") for c in commands]
        log.write_bytes(b"")
        name = (f"driver={fmt},file.driver=blklogwrites,file.file.driver=file,"
                f"file.file.filename={image},file.log.driver=file,file.log.filename={log}")
        run(IO, "-t", "writeback", "--image-opts", *[a for c in [*commands, "flush"] for a in ("-c", c)], name)
        for disk in disks_after_cuts(before, entries(log), rng, 12):
            cut.write_bytes(disk)
            sound(fmt, cut)
            run(IMG, "convert", "-f", fmt, "-O", "raw", cut, raw)
            now = raw.read_bytes()
            wrong = [i for i in range(0, len(old), 512)
                     if not touched[i] and now[i:i + 512] != old[i:i + 512]]
            assert not wrong, wrong[:5]
            cuts += 1
    return cuts


@pytest.mark.parametrize("fmt, backing", KINDS)
def test_no_cut_hurts(tmp_path, fmt, backing):
    assert cut_often(tmp_path, fmt, backing, 4) > 30


@pytest.mark.long
@pytest.mark.parametrize("fmt, backing", KINDS)
def test_no_cut_of_thousands_hurts(tmp_path, fmt, backing):
    assert cut_often(tmp_path, fmt, backing, 170) > 1500
