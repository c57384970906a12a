"""Both directions for one format: what each program makes, the other reads and changes."""
import json
import os

from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, out, run

TOOLS = {"ours": (IMG, IO), "qemu": (QEMU_IMG, QEMU_IO)}
SIZE = (5 << 20) + 512 * 3


def create(tool, fmt, options, image, size):
    run(tool, "create", "-q", "-f", fmt, *(["-o", options] if options else []), image, size)


def fio(tool, fmt, image, commands):
    """The I/O tool with the format said: some have no signature at the start."""
    argv = [a for c in commands for a in ("-c", c)]
    done = run(tool, "-f", fmt, "-d", "unmap", *argv, image)
    assert "failed" not in done.stdout, done.stdout


def fsame(tool, fmt, image, raw):
    done = run(tool, "compare", "-f", fmt, "-F", "raw", image, raw, ok=False)
    assert done.returncode == 0, f"{tool} compare {image}: {done.stdout}{done.stderr}"


def fcheck(tool, fmt, image):
    """Sound, or a format without checks."""
    done = run(tool, "check", "-f", fmt, image, ok=False)
    assert done.returncode in (0, 63), f"{tool} check {image}: {done.stdout}{done.stderr}"


def length(fmt, image):
    return json.loads(out(QEMU_IMG, "info", "-f", fmt, "--output=json", image))["virtual-size"]


def by_turns(tmp_path, fmt, options, seed, unit, size=SIZE, turns=None):
    """Both programs work on one image, one after the other."""
    image, raw = tmp_path / f"a.{fmt}", tmp_path / "a.raw"
    create((IMG, QEMU_IMG)[seed % 2], fmt, options, image, size)
    model = Model(length(fmt, image), f"{options}{seed}")
    for tool in turns or (IO, QEMU_IO, IO, IO, QEMU_IO):
        fio(tool, fmt, image, [model.command(unit) for _ in range(12)])
        for peer in (IMG, QEMU_IMG):
            fcheck(peer, fmt, image)
        model.save(raw)
        fsame(QEMU_IMG, fmt, image, raw)
        fsame(IMG, fmt, image, raw)
    return image, model


def converts(tmp_path, fmt, options, flags=(), size=SIZE):
    """Ours writes what qemu-img reads, and the other way round."""
    raw = tmp_path / "a.raw"
    model = Model(size, f"{fmt}{options}")
    for _ in range(30):
        model.command(65536)
    model.data[1 << 20:2 << 20] = model.random.randbytes(1 << 20)
    model.save(raw)
    opts = ["-o", options] if options else []
    for n, (maker, reader) in enumerate(((IMG, QEMU_IMG), (QEMU_IMG, IMG), (IMG, IMG))):
        image = tmp_path / f"{n}.{fmt}"
        run(maker, "convert", "-f", "raw", "-O", fmt, *opts, *flags, raw, image)
        fcheck(reader, fmt, image)
        fsame(reader, fmt, image, raw)
    back = tmp_path / "back.raw"
    run(IMG, "convert", "-f", fmt, "-O", "raw", tmp_path / f"1.{fmt}", back)
    assert back.read_bytes()[:size] == bytes(model.data)


def settle(folder):
    """Have the file system decide how much space the files of a folder take."""
    for path in folder.iterdir():
        if path.is_file():
            with open(path, "rb") as f:
                os.fsync(f.fileno())


def reports(fmt, image, maps=True):
    """The reports about one image, which both programs make."""
    settle(image.parent)
    for argv in (["info"], ["info", "--output=json"], ["check"], ["check", "--output=json"],
                 ["measure", "-O", "raw"], *([["map"], ["map", "--output=json"]] if maps else [])):
        argv = [argv[0], "-f", fmt, *argv[1:], image]
        ours, theirs = run(IMG, *argv, ok=False), run(QEMU_IMG, *argv, ok=False)
        assert ours.stdout == theirs.stdout, argv
        assert ours.returncode == theirs.returncode, argv


def says_the_same(tmp_path, argv):
    """Text, messages and exit code of a command line, called by the same name."""
    link = tmp_path / "qemu-img"
    if not link.exists():
        link.symlink_to(IMG)
    theirs = run(QEMU_IMG, *argv, ok=False, cwd=tmp_path)
    ours = run("./qemu-img", *argv, ok=False, cwd=tmp_path)
    assert (ours.stdout, ours.stderr, ours.returncode) == (
        theirs.stdout, theirs.stderr, theirs.returncode)
