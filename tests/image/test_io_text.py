"""lodge-io says what qemu-io says: every command, every letter, many wrong uses."""
import pytest

from io_twin import Twins

READ = """read|read 0|read x 512|read 0 x|read 0 3G|read 0 -1|read -1 1|read 9E 1
read 100000000E 1|read -z 0 512|read -P 0 512|read -P 256 0 512|read -P -1 0 512
read -P x 0 512|read -P 5x 0 512|read -P 1 0 64k|read -P 0 0 64k|read -s 512 0 64k
read -l 512 0 64k|read -P 1 -s 65k 0 64k|read -P 1 -l 65k 0 64k|read -P 1 -s 63k -l 2k 0 64k
read -P 1 -s x 0 64k|read -P 1 -l x 0 64k|read -P 1 -s 512 -l 512 0 64k|read -P 1 -s 512 0 64k
read -s 100 -P 0 0 4k|read -b 0 512|read -b 1 512|read -b 0 511|read 1 1|read 0 0|read -v 0 40
read -vq 0 40|read -q 0 40|read -C 0 512|read -Cq 0 512|read -C 3 5|read 4M 512|read 3.5M 1M
read -p 0 512|read -p 1 512|read -a 0 512|read 0 512 512|read 0.5k 1k|read 0x200 0x200
read 1e3 1|read 1kb 1|read 1KiB 1|read 1S 1|read '0' 512|read "0" 512|read 0 512 # foo
 read 0 512||  |foo|foo bar|READ 0 512|r 0 512|i|l|?|f|m|read -P 0 -P 1 0 512|read 0 512 -q
read -P0xcd 0 1|read -vP 0 0 33|read 4194303 1|read 4194303 2|read 4194304 0|read 5M 0
readv|readv 0|readv 0 1 2 3|readv -v 0 8 8 8|readv -P 1 0 512 512|readv -P 0 2M 512 512
readv -P 700 0 1|readv -z 0 1|readv x 1|readv 0 y|readv -q 0 1|readv -C 0 1|readv 4M 1
readv 0 3G|readv 0 1.5G 1.5G|rv 0 1|aio_read|aio_read 0|aio_read 0 512|aio_read -P 1 0 512
aio_read -P 999 0 512|aio_read -v 0 16|aio_read -q 0 512|aio_read -C 0 512|aio_read -i 0 512
aio_read -z 0 512|aio_read 4M 512|aio_read 0 z|aio_read z 0|aio_flush|aio_flush 1|aio_flush -q"""

WRITE = """write|write 0|write x 512|write 0 x|write 0 3G|write -z 0 3G|write -z -P 1 0 512
write -P 300 0 512|write -P 1 -s pat 0 512|write -z -s pat 0 512|write -s nosuch 0 512
write -s empty 0 512|write -s pat 0 10|read -v 0 16|write -b -z 0 512|write -c -z 0 64k
write -u 0 64k|write -n 0 64k|write -n -z 0 64k|write -zu 0 64k|write -znu 0 64k
write -zn 3G 3G|write -f 0 512|write -fz 0 512|write -b -f 0 512|write -b -P 3 0 1024
read -b -P 3 0 1k|read -b -P 3 0 2k|write -b -P 4 512 512|read -b -v 0 1k|info
write -b 1 512|write -b 0 100|write -c 1M 64k|read -P 0xcd 1M 64k|write -c 0 32k
write -c 1k 64k|write -c -f 0 64k|write -c 2M 128k|write 4M 512|write 3.5M 1M|write -z 4M 512
write -C 0 512|write -q 0 512|write -Cq 0 512|write -d 0 512|write -y 0 512|write 0 512 512
write 0 0|write -z 0 0|write -p 0 512|writev|writev 0|writev 0 512 512 1k|writev 0 x
writev 0 512 x|writev x 512|writev -P 5 0 512 1|writev -P 300 0 512|writev -z 0 512
writev -f 0 512|writev -fqC 0 512|writev 0 1 1|writev 0 511 3|writev 4M 1k|writev 0 2G 2G
writev -C 0 1k|wv 0 1|w 3 4|aio_write|aio_write 0|aio_write 0 512|aio_write 0 512 512
aio_write -z 0 64k 64k|aio_write -u 0 64k|aio_write -i 0 512|aio_write -z -i 0 512
aio_write -q 0 512|aio_write -C 0 512|aio_write -f 0 512|aio_write 4M 1k|aio_write -z 4M 1k
aio_write -z 0 zz|aio_write -P 44444 0 1|aio_write z 1|aio_write -c 0 1|aio_write -zq 64k 64k
aio_write -P 7 128k 64k|read -P 7 128k 64k|map|discard|discard 0|discard x 1|discard 0 x
discard 0 3G|discard 0 64k|discard -q 0 64k|discard -C 0 512|discard -Cq 0 1|discard -z 0 1
discard 1 1|discard 4M 1k|discard 3.9M 1M|discard 0 0|discard 0 512 512|d 1M 64k|map"""

OTHER = """flush 1|flush|truncate|truncate x|truncate -m|truncate -m foo 5M|truncate -m off 5M
truncate -m metadata 6M|truncate -m falloc 7M|truncate -m full 8M|truncate 4M 4M|truncate -z 4M
truncate 5000001|truncate 4M|truncate -1|truncate 9E|truncate -m full 3M|t 4M|length 1|length
length -q|info|info 1|info -q|alloc|alloc x|alloc 0|alloc 0 x|alloc 0 512|alloc 0 4M|alloc 0 5M
alloc 5M|alloc 4M|alloc 1 512|alloc 0 511|alloc 512 1|alloc 0 0|alloc 0 1 2|alloc 3G 3G|map
map 1|map -q|sleep|sleep x|sleep 0|sleep 10|sleep 5k|sleep -1|sleep 1 2|sleep 0x1|sigraise
sigraise x|sigraise 0|sigraise 18|sigraise 15|sigraise 9|sigraise -1|sigraise 1 2|sigraise 100
quit 1|quit|q|help read foo|help foo|help help|help -q|help info|help sleep|help|break
break a b|break write_aio|break write_aio A|remove_break|remove_break A|resume A|resume
wait_break|close|close 1|c|abort|open|open t.raw|open -r t.raw|o t.raw"""

REOPEN = """reopen|reopen -r|reopen -w|reopen -rw|reopen -r -w|reopen -c foo|reopen -c none
reopen -c writeback|reopen -o foo=bar|reopen -o lazy-refcounts=on|reopen -o lazy-refcounts=foo
reopen -o read-only=on|reopen -o cache.direct=on|reopen -o cache.writeback=off
reopen -o cache.no-flush=on|reopen -r -o read-only=on|reopen -c none -o cache.direct=on
reopen -c writeback -o cache.no-flush=on|reopen -o driver=raw|reopen -o driver=qcow2
reopen -o backing=foo|reopen -o backing=|reopen -o node-name=x|reopen foo|reopen -z|reopen -o
reopen -o discard=foo|reopen -o discard=on|reopen -o detect-zeroes=on|reopen -o file.locking=on
reopen -o file=foo|reopen -w -o read-only=on|reopen -c writethrough|reopen -c unsafe
reopen -c directsync|reopen -o auto-read-only=on|reopen -o force-share=on
reopen -o file.filename=foo|reopen -o file.driver=foo|reopen -o cache=foo
reopen -c writethrough -o cache.writeback=on|reopen -o cache.foo=on|reopen -o read-only=foo
reopen -o overlap-check=all|reopen -o overlap-check=blah|reopen -o l2-cache-size=1M
reopen -o l2-cache-size=1M,cache-size=512k|reopen -o cache-clean-interval=x
reopen -o pass-discard-request=on|reopen -o l2-cache-entry-size=33k|reopen -o data-file=foo
reopen -o refcount-cache-size=1M,cache-size=512k|reopen -o overlap-check.template=all
reopen -o overlap-check.template=blah|reopen -o overlap-check=none,overlap-check.template=all
reopen -o cache-size=1M,l2-cache-size=64k,refcount-cache-size=64k|reopen -o cache-size=x
reopen -o overlap-check.main-header=on,overlap-check.active-l1=off"""


def lines(text):
    return [c for row in text.split("\n") for c in row.split("|")]


@pytest.fixture
def twins(tmp_path):
    t = Twins(tmp_path)
    t.make("qemu-img", "create", "-q", "-f", "qcow2", "t.qcow2", "4M")
    t.make("qemu-img", "create", "-q", "-f", "raw", "t.raw", "4M")
    t.write("pat", b"abc")
    t.write("empty", b"")
    return t


@pytest.mark.parametrize("table", ["READ", "WRITE", "OTHER", "REOPEN"])
def test_commands_of_a_qcow2_image(twins, table):
    twins.same("-c", "write -P 9 64k 100k", "t.qcow2")
    twins.commands(lines(globals()[table]), "t.qcow2")
    twins.same("-c", "map", "t.qcow2")


@pytest.mark.parametrize("argv", [["-f", "raw"], []])
def test_commands_of_a_raw_image(twins, argv):
    wanted = ["read 0 512", "write 0 64k", "write -c 0 64k", "write -b 0 512", "read -b 0 512",
              "write 4M 512", "write -zn 0 64k", "write -z 1M 64k", "discard 0 64k", "map",
              "alloc 0 512", "info", "length", "truncate 5M", "truncate -m full 6M", "length",
              "truncate -m metadata 7M", "truncate 4M", "reopen -r", "reopen -o foo=bar",
              "reopen -o size=1M", "break a b", "aio_write 0 1k", "truncate 1000", "length"]
    twins.commands(wanted, *argv, "t.raw")


def test_a_read_only_image(twins):
    wanted = ["write 0 512", "write -z 0 512", "discard 0 512", "aio_write 0 512", "writev 0 512",
              "truncate 5M", "flush", "write -c 0 64k", "write -b 0 512", "aio_write -z 0 512",
              "read 0 512", "map", "length", "alloc 0", "reopen -w", "aio_flush", "read", "write",
              "reopen -o read-only=off", "reopen -r", "info"]
    twins.commands(wanted, "-r", "t.qcow2")


SCRIPTS = [
    "read 0 512\nfoo\nwrite 4M 1\n\nlength\nquit\nlength\n",
    "length\nlength",
    "help help\nclose\nlength\nopen t.raw\nlength\nopen -r t.qcow2\nclose\nclose\nopen nosuch\n"
    "length\nopen -o driver=qcow2 t.qcow2\nlength\n",
    "open -o driver=qcow2,file.filename=t.qcow2\nlength\nclose\n"
    "open -o file.filename=t.qcow2,driver=raw\nread 0 4\nclose\nopen -n t.qcow2\nclose\n"
    "open -t foo t.qcow2\nopen -d foo t.qcow2\nopen -t none t.qcow2\nclose\nopen -k t.qcow2\n"
    "close\nopen -i foo t.qcow2\nopen -U t.qcow2\nopen -rU t.qcow2\nclose\nopen a b\nopen -z\n"
    "open -o foo=bar t.qcow2\nopen -o driver=foo t.qcow2\n"
    "open -o driver=raw -o driver=qcow2 t.qcow2\nlength\nclose\nopen\nopen -r\nopen /tmp\n"
    "open -m t.qcow2\nopen -n -k t.qcow2\nread 0 512\nquit\n",
    "open -s t.qcow2\nwrite -P 3 0 512\nread -P 3 0 512\nclose\nopen t.qcow2\nread -P 0 0 512\n"
    "close\nopen -C t.qcow2\nread 0 512\nclose\nopen -rC t.qcow2\n",
    "reopen -r\nwrite 0 512\nreopen -w\nwrite 0 512\nreopen -c writethrough\nwrite 0 512\n"
    "reopen -o lazy-refcounts=on\nwrite 1M 64k\nread -P 0xcd 1M 64k\nreopen -o foo=on\n"
    "read -P 0xcd 1M 64k\nmap\n",
    "aio_write 0 64k\naio_flush\naio_write -P 2 64k 64k\naio_flush\naio_read -P 2 64k 64k\naio_flush\n",
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("argv", [[], ["t.qcow2"]])
def test_commands_from_standard_input(twins, script, argv):
    twins.same(*argv, stdin=script)


ARGV = """|t.raw|-r t.raw|-c length|-c length nosuch|-c length -f qcow2 t.raw
-c length -f foo t.raw|-c length -t foo t.raw|-c length -d foo t.raw|-c length -i foo t.raw
-c length -n t.raw|-c length -k t.raw|-c length -k -n t.raw|-c length -m t.raw
-c length -s t.raw|-c length -U t.raw|-c length -U -r t.raw|-C -r -c length t.qcow2
-C -c length t.qcow2|-c length --image-opts driver=qcow2,file.filename=t.qcow2
-c length --image-opts driver=qcow2|-c length --image-opts driver=foo
-c length --image-opts -f qcow2 driver=qcow2,file.filename=t.qcow2
-c length --image-opts driver=qcow2,file.filename=nosuch
-c length --image-opts file.filename=t.qcow2
-c length --image-opts driver=qcow2,foo=bar,file.filename=t.qcow2
-c length --image-opts driver=qcow2,lazy-refcounts=maybe,file.filename=t.qcow2
-c length --image-opts driver=qcow2,cache-size=many,file.filename=t.qcow2
-c length --image-opts driver=qcow2,discard=foo,file.filename=t.qcow2
-c length --image-opts driver=qcow2,file.driver=foo,file.filename=t.qcow2
-c length --image-opts driver=qcow2,file.driver=file
-c length --image-opts driver=file,filename=t.qcow2
-c length --image-opts driver=raw,offset=1M,file.filename=t.raw
-c length --image-opts driver=raw,offset=1M,size=1M,file.filename=t.raw
-c length --image-opts driver=raw,offset=5M,file.filename=t.raw
-c length --image-opts driver=raw,size=5M,file.filename=t.raw
-c length --image-opts driver=raw,size=1000,file.filename=t.raw
--object foo -c length t.raw|--object secret,id=a -c length t.raw
--object secret,id=a,data=foo -c length t.raw|-c length json:{|-c length json:{"driver":"raw"}
-c length json:{"driver":"raw","file.filename":"t.raw"}
-c length json:{"driver":"raw","file":{"driver":"file","filename":"t.raw"}}
-c length foo:bar|-c length /tmp|-c length -c foo -c length t.raw
-c length -c quit -c length t.raw|-c close -c length t.raw|--cmd=length t.raw|t.raw -c length
-c length -d on t.raw|-c length -d off t.raw|-c length -t writethrough t.raw
-c length -t directsync t.raw|-c length -t unsafe t.raw|-c length -t off t.raw
-c length -i native t.raw|-c length -i native -n t.raw|-c length -i threads t.raw"""


def test_the_command_line(twins):
    bad = []
    for row in lines(ARGV):
        theirs, ours = twins.results(row.split())
        if ours != theirs:
            bad.append((row, "theirs", theirs, "ours", ours))
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.parametrize("argv", [["-z"], ["--foo"], ["-c"], ["a", "b"]])
def test_wrong_options_are_answered_with_the_usage(twins, argv):
    theirs, ours = twins.results(argv)
    assert ours[0] == theirs[0] and ours[2] == theirs[2]
    assert ours[1].startswith("Usage: qemu-io [OPTIONS]... [-c STRING]... [file]\n")
