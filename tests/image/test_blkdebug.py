"""blkdebug as qemu-io's users know it: rules, states, break points, and what is said."""
import pytest

from io_twin import Twins
from images import IMG, run

OPEN = "driver=qcow2,file.driver=blkdebug,file.image.filename=t.qcow2,"


@pytest.fixture
def twins(tmp_path):
    t = Twins(tmp_path)
    t.make("qemu-img", "create", "-q", "-f", "qcow2", "t.qcow2", "64M")
    t.make("qemu-io", "-c", "write -P 5 0 256k", "-c", "write -c -P 6 1M 64k", "t.qcow2")
    return t


EVENTS = """read_aio read_compressed l2_load write_aio l2_update
cluster_alloc vmstate_load vmstate_save write_compressed pwritev none""".split()
WORK = ["read -P 5 0 512", "read -P 6 1M 512", "write -P 7 64k 1k", "write -P 8 4M 64k",
        "write -c -P 8 8M 64k", "read -b 0 512", "flush", "read -P 7 64k 1k"]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("extra", ["", ",inject-error.0.once=on", ",inject-error.0.errno=28"])
def test_the_next_request_after_an_event_fails(twins, event, extra):
    opts = f"{OPEN}file.inject-error.0.event={event}{extra}".replace(",inject", ",file.inject")
    for line in WORK:
        if event == "l2_update" and "-c" in line:
            continue  # a compressed write is not followed by a flush there
        twins.same("--image-opts", "-c", line, opts)


RULES = [
    ["file.inject-error.0.event=read_aio", "file.inject-error.0.sector=0"],
    ["file.inject-error.0.event=read_aio", "file.inject-error.0.iotype=write"],
    ["file.inject-error.0.event=none", "file.inject-error.0.iotype=flush"],
    ["file.inject-error.0.event=none", "file.inject-error.0.iotype=discard"],
    ["file.inject-error.0.event=none", "file.inject-error.0.errno=0"],
    ["file.inject-error.0.event=read_aio", "file.inject-error.0.state=2",
     "file.set-state.0.event=read_aio", "file.set-state.0.new_state=2"],
    ["file.inject-error.0.event=read_aio", "file.inject-error.0.immediately=on"],
    ["file.inject-error.0.event=foo"],
    ["file.inject-error.0.errno=5"],
    ["file.inject-error.event=read_aio"],
    ["file.config=nosuch.conf"],
    ["file.align=3"], ["file.foo=bar"], ["file.align=4096"],
]


@pytest.mark.parametrize("rules", RULES, ids=",".join)
def test_rules(twins, rules):
    lines = ["read -P 5 0 1k", "read -P 5 0 1k", "read -P 5 128k 1k", "write -P 9 0 4k",
             "flush", "read 8M 1k"]
    argv = [a for line in lines for a in ("-c", line)]
    twins.same("--image-opts", *argv, OPEN + ",".join(rules))


CONFIGS = [
    '[inject-error]\nevent = "read_aio"\nerrno = "28"\n',
    '# first\n[inject-error]\nevent = "read_aio"\nonce = "on"\n\n'
    '[inject-error]\nevent = "write_aio"\nerrno = "28"\nsector = "5"\n',
    '[set-state]\nevent = "read_aio"\nstate = "1"\nnew_state = "2"\n'
    '[inject-error]\nstate = "2"\nevent = "read_aio"\nonce = "off"\n',
    "",
]


@pytest.mark.parametrize("config", CONFIGS)
def test_configuration_files(twins, config):
    twins.write("c.conf", config.encode())
    argv = [a for line in ("read 0 512", "read 0 512", "write 0 4k", "read 0 512")
            for a in ("-c", line)]
    twins.same(*argv, "-f", "qcow2", "blkdebug:c.conf:t.qcow2")
    twins.same(*argv, "blkdebug:c.conf:t.qcow2")
    twins.same("-c", "open -o file.driver=blkdebug,file.config=c.conf t.qcow2", *argv)


BAD_CONFIGS = [b"[foo]\n", b"[inject-error]\nfoo\n", b"event = \"read_aio\"\n", b"\0\0\0",
               b"[inject-error]\nevent = \"read_aio\"\nbar = \"1\"\n", b"[", b"=", b"[]\n",
               b"[inject-error]\nevent = \"\xff\"\n", b"[inject-error]\nevent = \"",
               b"[inject-error]\nerrno = \"99999999999999999999\"\nevent = \"none\"\n",
               b"[inject-error]\nevent = \"none\"\n" * 20000, b"x" * (2 << 20)]


@pytest.mark.parametrize("config", BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_bad_configuration_files_are_refused(twins, tmp_path, config):
    twins.write("c.conf", config)
    theirs, ours = twins.results(["-c", "length", "blkdebug:c.conf:t.qcow2"])
    assert ours[0] == 1 and ours[1] == "" and ours[2].startswith("qemu-io: can't open device")


BREAKS = [
    "break write_aio A\naio_write -P 10 0 64k\nwait_break A\nread -P 5 128k 1k\nresume A\n"
    "aio_flush\nread -P 10 0 64k\n",
    "break write_aio A\naio_write -q -P 10 16M 64k\nwait_break A\naio_write -q -P 11 17M 64k\n"
    "resume A\naio_flush\nread -P 10 16M 64k\nread -P 11 17M 64k\n",
    "break read_aio A\naio_read -P 5 0 4k\nwait_break A\nremove_break A\naio_flush\n",
    "break foo A\nremove_break A\nresume A\nbreak cow_write B\nremove_break B\nremove_break B\n",
]


@pytest.mark.parametrize("script", BREAKS)
def test_break_points(twins, script):
    twins.same("blkdebug::t.qcow2", stdin=script, prompts=False)
    twins.make("qemu-img", "check", "-q", "t.qcow2")


@pytest.mark.parametrize("name", ["blkdebug:t.qcow2", "blkdebug:", "blkdebug::nosuch",
                                  "blkdebug:nosuch:t.qcow2", "blkdebug::blkdebug::t.qcow2",
                                  "null-co://", "null-aio://", "null-co://x"])
def test_names(twins, name):
    twins.same("-c", "length", "-c", "read 0 512", "-f", "raw", name)


NULLS = ["driver=null-co", "driver=null-co,size=1M", "driver=null-co,size=1M,read-zeroes=on",
         "driver=null-aio,latency-ns=1000", "driver=null-co,foo=1",
         "driver=raw,file.driver=null-co,file.size=3M"]


@pytest.mark.parametrize("opts", NULLS)
def test_null_disks(twins, opts):
    argv = ["-c", "length", "-c", "read 0 512", "-c", "write 0 1k", "-c", "map",
            "-c", "discard 0 512", "-c", "flush", "-c", "write -z 0 4k", "-c", "read 1M 1"]
    twins.same("--image-opts", *argv, opts)


def test_limits_do_not_change_what_is_stored(twins):
    opts = ("driver=raw,file.driver=blkdebug,file.image.filename=t.raw,file.align=512,"
            "file.max-transfer=64k,file.opt-write-zero=16k,file.max-write-zero=32k,"
            "file.opt-discard=32k,file.max-discard=96k")
    twins.make("qemu-img", "create", "-q", "-f", "raw", "t.raw", "16M")
    lines = ["write -P 11 0 16M", "write -P 22 1000 10M", "write -z 3000 5M", "discard 8M 3M",
             "write -z 12M 1M", "discard 13000001 990000"]
    twins.same("--image-opts", *[a for c in lines for a in ("-c", c)], opts)
    theirs, ours = twins.folders()
    done = run(IMG, "compare", "-f", "raw", "-F", "raw", theirs / "t.raw", ours / "t.raw",
               ok=False)
    assert done.returncode == 0, done.stdout
