"""blkverify, copy-on-read and preallocate, beside QEMU's."""
import os

import pytest

from images import IMG, IO, run
from io_twin import Twins


@pytest.fixture
def twins(tmp_path):
    t = Twins(tmp_path)
    t.make("qemu-img", "create", "-q", "-f", "qcow2", "t.qcow2", "4M")
    t.make("qemu-img", "create", "-q", "-f", "raw", "t.raw", "4M")
    return t


NAMES = [["blkverify:t.raw:t.qcow2"], ["-f", "raw", "blkverify:t.raw:t.qcow2"],
         ["--image-opts", "driver=blkverify,raw.filename=t.raw,test.driver=qcow2,"
                          "test.file.filename=t.qcow2"]]


@pytest.mark.parametrize("name", NAMES[1:])
def test_blkverify(twins, name):
    twins.same("-c", "write -P 3 0 4k", "-c", "read -P 3 0 4k", "-c", "flush", "-c",
               "write 1k 1k", "-c", "read -v 1000 30", "-c", "length", *name)
    twins.make("qemu-io", "-f", "raw", "-c", "write -P 4 2000 1", "t.raw")
    twins.same("-c", "read 0 512", "-c", "read 0 4k", "-c", "read 0 512", *name)


@pytest.mark.parametrize("name", ["blkverify:t.raw", "blkverify:", "blkverify:nosuch:t.qcow2",
                                  "blkverify:t.raw:nosuch"])
def test_wrong_names_of_blkverify(twins, name):
    twins.same("-c", "length", name)


@pytest.mark.parametrize("opts", ["driver=blkverify", "driver=blkverify,raw.filename=t.raw"])
def test_blkverify_needs_both(twins, opts):
    twins.same("-c", "length", "--image-opts", opts)


def test_blkverify_below_a_format(twins):
    twins.same("-c", "open -o driver=raw,file.driver=blkverify,file.raw.filename=t.raw t.qcow2",
               "-c", "read 0 1k", "-c", "write 0 512")


READS = ["read -P 7 0 512", "read -P 7 100k 1k", "read -P 0 3M 1k", "map", "write -P 9 200k 512",
         "read -P 7 201k 512", "map", "read -P 0 2M 64k", "map"]


@pytest.mark.parametrize("backing", [True, False])
@pytest.mark.parametrize("how", [["-C"], ["--image-opts"]])
def test_copy_on_read(twins, backing, how):
    argv = [a for line in READS for a in ("-c", line)]
    if backing:
        twins.make("qemu-img", "create", "-q", "-f", "raw", "base", "2M")
        twins.make("qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", "base")
        twins.make("qemu-img", "rebase", "-q", "-u", "-b", "base", "-F", "raw", "t.qcow2")
    name = ("driver=copy-on-read,file.driver=qcow2,file.file.filename=t.qcow2"
            if how == ["--image-opts"] else "t.qcow2")
    if how == ["--image-opts"]:  # QEMU's filter says of nothing that it is its own
        argv = [a for line in READS if line != "map" for a in ("-c", line)]
    twins.same(*how, *argv, name)
    twins.same("-c", "map", "t.qcow2")


def test_preallocate_grows_in_steps_and_cuts_at_the_end(tmp_path):
    image = tmp_path / "a.qcow2"
    run(IMG, "create", "-q", "-f", "qcow2", image, "64M")
    name = (f"driver=qcow2,file.driver=preallocate,file.prealloc-size=8M,"
            f"file.file.filename={image}")
    done = run(IO, "--image-opts", "-c", "write -P 5 0 1M", "-c", "sigraise 9", name, ok=False)
    assert done.returncode == -9
    assert os.path.getsize(image) >= 8 << 20
    assert run("qemu-img", "check", image, ok=False).returncode == 0
    run(IO, "--image-opts", "-c", "read -P 5 0 1M", "-c", "write -P 6 1M 9M", name)
    assert os.path.getsize(image) < 32 << 20
    assert run("qemu-img", "check", image, ok=False).returncode == 0
    run("qemu-io", "-c", "read -P 5 0 1M", "-c", "read -P 6 1M 9M", image)


@pytest.mark.parametrize("bad", ["prealloc-align=1000", "prealloc-align=0", "prealloc-size=9E",
                                 "prealloc-size=4E", "prealloc-align=8E", "foo=1"])
def test_wrong_options_of_preallocate(tmp_path, bad):
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(4096))
    done = run(IO, "-c", "length", "--image-opts",
               f"driver=preallocate,{bad},file.filename={image}", ok=False)
    assert done.returncode == 1 and "can't open" in done.stderr
    assert image.read_bytes() == bytes(4096)
