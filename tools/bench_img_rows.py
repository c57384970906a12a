"""The rows of `./dev bench img`: what is run, in what place, what is aimed at.

A row is a command that both tools understand, with {out} for its output and the names
of inputs (bench_img_inputs.py) in braces. Its aim is Lodge's wall time divided by that
of Debian's tool.
"""
import dataclasses

IMG, IO = "img", "io"  # which program of each side


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    aim: float | None
    command: str
    places: tuple = ("tmpfs", "disk")
    tool: str = IMG
    source: str = ""   # the input that the output must be the same as
    copy: str = ""     # the input that is copied to {out} first, and changed there
    first: str = ""    # run on {out} with Debian's tool before the clock starts
    check: bool = True  # `check` understands the output's format
    kind: str = ""     # of the output, for the one who reads it; else probed
    size_aim: float | None = None  # of the output, to Debian's
    script: str = ""   # an input that is the program's standard input
    memory_aim: float | None = None  # MiB that it may ever have, of the host's
    same: str = ""     # two images that must be the same afterwards, if not {out} and
                       # {source}


SECRET = "--object secret,id=key,data=benchmark"


def plain(name, aim, source, target, options="", **more):
    return Row(name, aim, f"convert -O {target} {options} {{{source}}} {{out}}",
               source=source, kind=target, **more)


def rows():
    xfs = {"places": ("xfs",)}
    return [
        plain("pack-zlib", 0.13, "raw", "qcow2", "-c", size_aim=1.02),
        plain("pack-zstd", 0.55, "raw", "qcow2", "-c -o compression_type=zstd",
              size_aim=1.02),
        plain("pack-stream", 0.13, "raw", "vmdk", "-o subformat=streamOptimized",
              check=False, size_aim=1.02),
        plain("unpack-zlib", 0.5, "packed", "raw", check=False),
        plain("unpack-zstd", 0.5, "packed_zstd", "raw", check=False),
        plain("raw-qcow2", 0.9, "raw", "qcow2"),
        plain("qcow2-raw", 0.9, "qcow2", "raw", check=False),
        plain("qcow2-qcow2", 0.9, "qcow2", "qcow2"),
        plain("raw-raw", 0.9, "raw", "raw", check=False),
        plain("raw-vdi", 0.9, "raw", "vdi"),
        plain("raw-vhdx", 0.9, "raw", "vhdx"),
        plain("raw-vpc", 0.9, "raw", "vpc", "-o force_size=on", check=False),
        plain("raw-vmdk", 0.6, "raw", "vmdk"),
        plain("vmdk-raw", 0.9, "vmdk", "raw", check=False),
        plain("reflink-raw-raw", 0.1, "raw", "raw", check=False, **xfs),
        plain("reflink-raw-qcow2", 0.1, "raw", "qcow2", **xfs),
        plain("reflink-qcow2-raw", 0.1, "qcow2", "raw", check=False, **xfs),
        plain("reflink-qcow2-qcow2", 0.1, "qcow2", "qcow2", **xfs),
        Row("compare", 0.6, "compare {raw} {qcow2}"),
        Row("compare-packed", 0.6, "compare {raw} {packed}"),
        Row("dd", 0.9, "dd -O qcow2 bs=1M if={raw} of={out}", source="raw"),
        Row("commit", 0.9, "commit -d {out}", copy="commit_overlay", check=False,
            same="{out} {commit_base}"),
        Row("rebase", 0.9, "rebase -F qcow2 -b {base_two} {out}", copy="overlay",
            same="{out} {overlay}"),
        Row("check-1t", 0.5, "check {terabyte}", memory_aim=40),
        Row("snapshot-create", 0.7, "snapshot -c one {out}", copy="metadata"),
        Row("snapshot-apply", 0.7, "snapshot -a one {out}", copy="metadata",
            first="snapshot -c one {out}"),
        Row("snapshot-delete", 0.7, "snapshot -d one {out}", copy="metadata",
            first="snapshot -c one {out}"),
        Row("luks-write", 0.25, "convert " + SECRET + " -n --image-opts --target-image-opts "
            "driver=raw,file.filename={half} "
            "driver=luks,key-secret=key,file.filename={out}", copy="luks", check=False,
            same=SECRET + " --image-opts driver=luks,key-secret=key,file.filename={out} "
            "driver=raw,file.filename={half}"),
        Row("luks-read", 0.25, "convert " + SECRET + " --image-opts -O raw "
            "driver=luks,key-secret=key,file.filename={luks_full} {out}",
            source="half", check=False),
        Row("luks-create", None, "create -f luks " + SECRET +
            " -o key-secret=key,iter-time=10 {out} 1M", check=False),
        Row("read-packed", 0.1, "-r -f qcow2 {packed}", tool=IO, script="near"),
        Row("read-packed-far", None, "-r -f qcow2 {packed}", tool=IO, script="far"),
        Row("read-cached", None, "-r -f raw {raw}", tool=IO, script="near"),
        Row("start", None, "info {qcow2}"),
    ]
