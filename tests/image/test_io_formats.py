"""lodge-io says the same as qemu-io about images of every format."""
import pytest

from images import IMG
from io_twin import Twins

SECRET = ["--object", "secret,id=k,data=geheim"]
FORMATS = {
    "raw": [], "qed": [], "qcow": [], "vdi": [], "vpc": [], "vhdx": [], "vmdk": [],
    "parallels": [], "qcow2": ["compat=0.10"], "luks": ["key-secret=k,iter-time=10"],
}
LINES = """info|length|map|read -P 0 0 64k|read -v 0 20|write -P 1 0 64k|write -P 2 100k 3|map
alloc 0 1M|read -P 1 0 64k|write -z 0 64k|write -zu 64k 64k|write -zn 2M 64k|discard 0 64k|map
write -c 3M 64k|write -c 3M 512|write -c 1 512|write -b 0 512|read -b 0 512|flush|writev 5M 1k 1k
aio_write -P 3 6M 64k|aio_read -P 3 6M 64k|write 64M 1|read 64M 512|discard 64M 1|write -z 64M 1
write 67108863 1|write -f 0 4k|truncate 64M|truncate 96M|length|truncate 32M|length
truncate -m falloc 48M|truncate -m full 49M|truncate -m metadata 50M|truncate 1000|length
reopen -r|reopen -o foo=1|reopen -c none|reopen -o read-only=on|map|info|break a b|write -z 0 512
alloc 64M 1M|alloc 100M|write -P 5 0 10M|read -P 5 0 10M|write -P 6 30M 10M|map|write -zf 0 1M"""


@pytest.mark.parametrize("fmt", FORMATS)
def test_commands(tmp_path, fmt):
    t = Twins(tmp_path)
    options = [a for o in FORMATS[fmt] for a in ("-o", o)]
    secret = SECRET if fmt == "luks" else []
    # qemu-img cannot make LUKS images on a busy machine.
    maker = IMG if secret else "qemu-img"
    t.make(maker, "create", "-q", *secret, "-f", fmt, *options, f"t.{fmt}", "64M")
    # The same identifiers in both.
    t.write(f"t.{fmt}", (t.folders()[0] / f"t.{fmt}").read_bytes())
    lines = [c for row in LINES.split("\n") for c in row.split("|")]
    if fmt == "qcow":  # one compressed cluster at a time there; zeroes are written out
        lines = [c for c in lines if not c.startswith(("write -c 3M 64k", "write -zu"))]
    if fmt == "luks":  # a sector that is not whole
        lines.remove("truncate 1000")
    if fmt == "vmdk":  # a number that changes with each writer
        lines = [c for c in lines if c != "info"] + ["close"]
    if secret:
        t.commands(lines, *secret, "--image-opts", "driver=luks,key-secret=k,file.filename=t.luks")
    else:
        t.commands(lines, "-f", fmt, f"t.{fmt}")
        t.commands(lines[:8], "-r", "-f", fmt, f"t.{fmt}")
        t.same("-f", fmt, stdin="read 0 1\nopen nosuch\n")
